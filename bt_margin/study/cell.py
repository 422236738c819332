"""One cell: a strategy replayed through a window in a mode at a leverage, and the row that tells what became of it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bt_margin.errors import BtMarginError, Ineligible
from bt_margin.model.moment import MINUTE, iso
from bt_margin.modes import mode_named
from bt_margin.study import provenance
from bt_margin.study.cells import encode
from bt_margin.study.history import coverage, figures_of, params_of
from bt_margin.study.judging import judge_run
from bt_margin.study.result import COLUMNS, RunResult
from bt_margin.study.strategies import load, symbols_of
from bt_margin.study.task import Task, settings

UNIFIED_ACCOUNT = 1_617_667_200_000
"""2021-04-06: general launch of OKX's unified account (rule book section 13); before it its earliest rules run."""


def work(task: Task) -> bytes:
    """A cell as `cells.encode` packs it: what every executor carries back."""
    return encode(run_cell(task))


def run_cell(task: Task) -> RunResult:
    """Replay one cell. Never raises for a cell's own trouble: the verdict says `no data` or `failed`, and why.

    Where minutes are at hand the cell is run a second time along the path ohlc, and says whether its verdict hangs on
    the path: `ohlc_verdict`, `path_dependent`; both None where only hours are there or ohlc was asked for.
    """
    result = _guarded(task)
    if task.path != "ohlc" and result.data and all(row["step_ms"] <= MINUTE for row in result.data):
        second = _guarded(replace(task, path="ohlc")).row["verdict"]
        result.row.update(ohlc_verdict=second, path_dependent=second != result.row["verdict"])
    return result


def _guarded(task: Task) -> RunResult:
    from data_fetch import DataError

    logging.getLogger("bt_margin").setLevel(logging.ERROR)  # the verdict says what was refused
    try:
        return _replay(task)
    except DataError as error:
        return empty(task, "no data", str(error))
    except Ineligible as error:
        return empty(task, "refused", str(error))
    except BtMarginError as error:
        return empty(task, "failed", str(error))
    except Exception as error:  # a strategy's own: one cell fails, the grid goes on
        at = traceback.extract_tb(error.__traceback__)[-1]
        return empty(task, "failed", f"{type(error).__name__}: {error} ({Path(at.filename).name} line {at.lineno})")


def _replay(task: Task) -> RunResult:
    import backtrader as bt

    from bt_margin.plugin.analyzers import Recorder
    from bt_margin.plugin.bars import to_ms
    from bt_margin.plugin.broker import MarginBroker
    from bt_margin.plugin.measures import costs, hours_below, worst_hour

    strategy = load(task.strategy)
    symbols = symbols_of(strategy)
    cerebro = bt.Cerebro(stdstats=False)
    leverage = settings(task, symbols)
    broker = MarginBroker(
        mode=task.mode, cash=dict(task.cash), leverage=leverage, rules_as_of=task.rules_as_of, path=task.path,
        strict=task.strict, interest=dict(task.interest) or None,
        switches=task.switches,
        borrow=dict(task.borrow) if task.borrow and any(
            mode_named(mode).whole for mode in (task.mode, *(switch.mode for switch in task.switches))) else None,
    )
    cerebro.broker = broker
    params = params_of(task, strategy)
    label, history = figures_of(task, strategy)
    for feed in history:
        cerebro.adddata(feed)
    sources = [f"{feed.p.name}: {feed.p.source}" for feed in history]
    data = [coverage(task, label, feed) for feed in history]
    cerebro.addstrategy(strategy, **params)
    cerebro.addanalyzer(Recorder, _name="margin_recorder")
    try:
        (done,) = cerebro.run()
    except BtMarginError as error:
        if not broker.started:
            raise
        raise type(error)(f"in the bar that ends {iso(to_ms(history[0].datetime[0]))}: {error}") from error
    found = done.analyzers.margin_recorder.get_analysis()
    evidence, ledger, events = found["evidence"], found["ledger"], found["events"]
    verdict, at, reason = judge_run(done, found)
    series, step = found["series"], data[0]["step_ms"]
    fall = worst_hour(series["time"], series["equity_usd"])
    row = {
        **_row(task),
        "setting": min(leverage.values()) if leverage else None,
        "contracts": dict(getattr(done, "sizes", {})) or None,
        "opened": any(entry["kind"] == "trade" for entry in ledger) and verdict != "refused",
        "verdict": verdict,
        "liquidated_at": at,
        "reason": reason,
        "min_margin_ratio": found["min_margin_ratio"] if verdict != "refused" else None,
        "entry_distance": found["entry_distance"] if verdict != "refused" else None,
        "min_distance": (0.0 if at else found["min_distance"]) if verdict != "refused" else None,
        "warnings": sum(e["name"] == "Warned" for e in events),
        "forced_orders": sum(e["name"] in ("Reduced", "Deleveraged", "Converted") for e in events),
        **costs(ledger, found["usd"]),
        "hours_below_300": hours_below(series["time"], series["margin_ratio"], 3.0, step),
        "worst_hour_usd": fall.change if fall else 0.0,
        "worst_hour_end": iso(fall.end) if fall else None,
        "start_equity_usd": found["start_equity_usd"],
        "final_equity_usd": series["equity_usd"][-1],
        "indicative": _indicative(found),
        "rules_extrapolated_days": max((e["extrapolated_days"] for e in evidence), default=0),
        "data_kind": f"{label}; {'; '.join(sources)}",
        "data_sha256": provenance.feeds_hash(history),
    }
    return RunResult(
        row,
        {"time": series["time"], "equity": series["equity_usd"],
         **{name: series[name] for name in ("margin_ratio", "prices", "lows", "highs", "collateral", "risk_units",
                                            "charges")}},
        events, ledger, found["warnings"], evidence, data,
    )


def _indicative(found: Mapping[str, Any]) -> bool:
    """True when a risk unit rested by more than half on inferred parameters, at entry or at an event."""
    units = [*(unit for moment in found["series"]["risk_units"] for unit in moment["units"]),
             *(unit for event in found["events"] for unit in event["report"].get("risk_units", ()))]
    return any(unit["indicative"] for unit in units)


def _row(task: Task) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        "strategy": task.strategy, "mode": task.mode, "window": task.window.id, "leverage": task.leverage,
        "setting": task.setting, "opened": False, "warnings": 0, "forced_orders": 0, "reason": "",
        "available_then": task.window.since >= UNIFIED_ACCOUNT, "indicative": False, "rules_extrapolated_days": 0,
        "data_kind": "", "code_sha256": provenance.code_hash(), "rules_sha256": provenance.rules_hash(),
        "data_sha256": "",
    }


def empty(task: Task, verdict: str, reason: str) -> RunResult:
    """What becomes of a cell that did not run: its row, with the verdict and why."""
    return RunResult({**_row(task), "verdict": verdict, "reason": reason})
