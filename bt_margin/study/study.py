"""A study: strategy x mode x window x leverage, every cell a task of its own that returns plain data."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bt_margin.engine.clock import ModeSwitch
from bt_margin.errors import BtMarginError, Ineligible, InputError
from bt_margin.model.moment import MINUTE, iso
from bt_margin.modes import MODES, mode_named
from bt_margin.study import provenance
from bt_margin.study.cells import Cells, decode, encode
from bt_margin.study.chains import option_feeds, priced, ruled_by, trades_options, vol_label
from bt_margin.study.judging import judge_run
from bt_margin.study.result import COLUMNS, RunResult
from bt_margin.study.running import FEW, spread
from bt_margin.study.sources import Sources
from bt_margin.study.strategies import BUNDLED, load, spec_of, symbols_of, takes_leverage
from bt_margin.study.windows import Window, window

DEFAULT_WINDOWS = ("2025-10-10", "2022-11-08")
DEFAULT_LEVERAGES = (2.0, 3.0, 5.0)
UNIFIED_ACCOUNT = 1_617_667_200_000
"""2021-04-06: general launch of OKX's unified account (rule book section 13); before it its earliest rules run."""
COVERED = 0.99
"""Downloaded minutes are used when so much of a window is there; the rest is left out and counted."""
SPOT_STANDS_IN_BEFORE = 1_640_995_200_000
"""2022-01-01: before it a perpetual without data of its own may be replayed on its spot pair, and is labelled so."""


@dataclass(frozen=True, slots=True)
class Task:
    """One cell. Plain data: any executor can carry it."""

    strategy: str
    mode: str
    window: Window
    leverage: float
    cash: Mapping[str, float]
    setting: float | None = None
    rules_as_of: str = "then"
    path: str = "adverse"
    strict: bool = False
    store: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    interest: Mapping[str, float] = field(default_factory=dict)
    borrow: Mapping[str, Any] = field(default_factory=dict)
    switches: tuple[ModeSwitch, ...] = ()


class Study:
    """Runs every cell of a grid.

    `strategies`: bundled names, `module:Class`, or classes that other processes can import; `modes`: names or "all";
    `windows`: ids (those of the store's `windows.toml` too) or START/END; `leverages`: exposures (gross notional /
    starting equity); `setting`: OKX's leverage setting, default twice the exposure capped by the tier, so that isolated
    posts half the equity and cross keeps the other half. `store`: a folder of downloaded history; its minutes are
    preferred to the embedded hourly figures where they cover a window.
    `interest`: yearly borrow rates by currency instead of the rules' own; `borrow`: choices of the modes whose account
    stands behind its debts as a whole, as in the broker; `switches`: scripted changes of the account mode, in every
    cell.
    """

    def __init__(
        self,
        strategies: Sequence[str | type] = BUNDLED,
        modes: Sequence[str] | str = "all",
        windows: Sequence[str] = DEFAULT_WINDOWS,
        leverages: Sequence[float] = DEFAULT_LEVERAGES,
        *,
        cash: Mapping[str, float] | None = None,
        setting: float | None = None,
        rules_as_of: str = "then",
        path: str = "adverse",
        strict: bool = False,
        store: str = "",
        interest: Mapping[str, float] | None = None,
        borrow: Mapping[str, Any] | None = None,
        switches: Sequence[ModeSwitch] = (),
    ) -> None:
        names = tuple(MODES) if modes == "all" else tuple([modes] if isinstance(modes, str) else modes)
        for name in names:
            mode_named(name)
        specs = [strategy if isinstance(strategy, str) else spec_of(strategy) for strategy in strategies]
        for spec in specs:
            load(spec)
        for value in (*leverages, *([setting] if setting is not None else [])):
            if not 0 < value < float("inf"):
                raise InputError(f"leverage: expected a number above zero, found {value!r}")
        balances = dict(cash or {"USDT": 100_000.0})
        for currency, amount in balances.items():
            if not 0 <= amount < float("inf"):
                raise InputError(f"cash: expected amounts of zero or more, found {currency}={amount!r}")
        if not sum(balances.values()) > 0:
            raise InputError("cash: expected some money to start with, found none; for example USDT=100000")
        self.tasks = [
            Task(spec, name, window(span, store), float(leverage), balances, setting, rules_as_of, path, strict, store,
                 interest=dict(interest or {}), borrow=dict(borrow or {}), switches=tuple(switches))
            for spec, span, leverage, name in itertools.product(specs, windows, leverages, names)
        ]
        self._check_settings()

    def run(
        self,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        workers: int | None = None,
        cells: Cells | None = None,
    ) -> list[RunResult]:
        """Every cell, in the grid's order and the same to the byte, whatever ran it. A failed cell is a value.

        `executor`: any of concurrent.futures', such as dask.distributed's `Client(...).get_executor()`; it needs the
        same code, and where a task names a store, the same folder. Default: spawned processes, `workers` of them (as
        many as cores), or this process for a few cells of hours. `cells`: where each finished cell is kept, and
        from where a study that was stopped goes on; not those of a strategy whose files may not be what runs (edited
        since they were loaded, a class of a notebook): `cells.notes` says so. `progress` hears (cells done, cells
        in all).
        """
        if workers is not None and workers < 1:
            raise InputError(f"workers: expected 1 or more, found {workers}")
        results: dict[int, RunResult] = {}
        keys: dict[int, str] = {}
        if cells is not None:
            hashes = _Hashes()
            for i, task in enumerate(self.tasks):
                keys[i] = hashes.key(task)
                found = None if hashes.doubted(task, cells) else cells.load(keys[i])
                if found is not None:
                    results[i] = found
        if progress and results:
            progress(len(results), len(self.tasks))

        def landed(i: int, came: bytes | str) -> None:
            if isinstance(came, str):
                results[i] = _empty(self.tasks[i], "failed", came)
            else:
                results[i] = decode(came)
                if cells is not None and not hashes.doubted(self.tasks[i], cells) and hashes.agree(
                        self.tasks[i], results[i]):
                    cells.save(keys[i], came)
            if progress:
                progress(len(results), len(self.tasks))

        left = {i: task for i, task in enumerate(self.tasks) if i not in results}
        slow_first = dict(sorted(left.items(), key=lambda item: _effort(item[1]), reverse=True))
        few = workers is None and len(left) <= FEW and not any(task.store for task in left.values())
        spread(work, slow_first, executor, 1 if few else min(workers or os.cpu_count() or 1, len(left)), landed)
        return [results[i] for i in sorted(results)]

    def windows(self) -> list[Window]:
        """Every window of the study once, in order."""
        return list({task.window.id: task.window for task in self.tasks}.values())

    def grid(self) -> list[dict[str, str]]:
        """Window x rule table: in force, extrapolated N days, inferred."""
        from bt_margin.rules.book import load_rules

        symbols = sorted({s for task in self.tasks for s in ruled_by(load(task.strategy))})
        spans = {w.id: (w.since, w.until) for w in self.windows()}
        rows = load_rules("okx").grid(spans, symbols)
        return [
            {"window": span, "table": table, "status": status}
            for table, spans_ in rows.items()
            for span, status in spans_.items()
        ]

    def _check_settings(self) -> None:
        """A setting above the tier's maximum is bad input, found before anything runs."""
        from bt_margin.rules.book import load_rules

        for task in self.tasks:
            rules = load_rules("okx").as_of(_rules_time(task), "nearest")
            for symbol in symbols_of(load(task.strategy)):
                if rules.instrument(symbol).is_spot:
                    continue
                limit = rules.tiers(symbol).max_leverage
                asked = {"leverage": task.leverage, "setting": task.setting}
                for name, value in asked.items():
                    if value is not None and (value > limit or (name == "setting" and value < 1)):
                        raise InputError(
                            f"{name}: expected at most {limit:g} (setting: at least 1), the tier's maximum for "
                            f"{symbol} on {task.window.id}, found {value:g}"
                        )


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
        return _empty(task, "no data", str(error))
    except Ineligible as error:
        return _empty(task, "refused", str(error))
    except BtMarginError as error:
        return _empty(task, "failed", str(error))
    except Exception as error:  # a strategy's own: one cell fails, the grid goes on
        at = traceback.extract_tb(error.__traceback__)[-1]
        return _empty(task, "failed", f"{type(error).__name__}: {error} ({Path(at.filename).name} line {at.lineno})")


class _Hashes:
    """Names of cells; what many tasks share is read once."""

    def __init__(self) -> None:
        self._data: dict[tuple[Any, ...], str] = {}
        self._code: dict[str, Sources] = {}

    def key(self, task: Task) -> str:
        """SHA-256 of all that a cell's outcome rests on; where a folder lies is no part of it, what it holds is."""
        if task.strategy not in self._code:
            self._code[task.strategy] = provenance.strategy_sources(load(task.strategy))
        span = {"id": task.window.id, "since": task.window.since, "until": task.window.until}
        said = {**asdict(task), "store": bool(task.store), "window": span}
        made_of = provenance.strategy_hash(self._code[task.strategy])
        parts = [said, made_of, provenance.code_hash(), provenance.rules_hash(), self.data(task)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def doubted(self, task: Task, cells: Cells) -> bool:
        """True, with a note, where what runs may be another strategy than the files that name its cells."""
        sources = self._code[task.strategy]
        why = sources.doubt or ("" if sources.unchanged() else "a file of it changed while the study ran")
        note = f"strategy {task.strategy}: {why}; its cells are neither kept nor taken; restart to have them kept"
        if why and note not in cells.notes:
            cells.notes.append(note)
        return bool(why)

    def data(self, task: Task) -> str:
        """Of the figures a task reads; why there are none, where there are none."""
        from data_fetch import DataError

        strategy = load(task.strategy)
        asked = (task.strategy, task.leverage) if trades_options(strategy) else symbols_of(strategy)
        where = (asked, task.window.id, task.window.since, task.window.until, task.store, task.strict)
        if where not in self._data:
            try:
                self._data[where] = provenance.feeds_hash(_figures(task, strategy)[1])
            except (BtMarginError, DataError) as error:
                self._data[where] = f"none: {error}"
        return self._data[where]

    def agree(self, task: Task, result: RunResult) -> bool:
        """False for a cell that was run with other code, rules or figures than are here."""
        row = result.row
        return (row["code_sha256"], row["rules_sha256"]) == (provenance.code_hash(), provenance.rules_hash()) and (
            not result.data or row["data_sha256"] == self.data(task))


def _effort(task: Task) -> tuple[float, int]:
    """Which cells take longest, about: where many processes share a study, they begin with those."""
    return task.window.until - task.window.since, tuple(MODES).index(task.mode)


def settings(task: Task, symbols: Iterable[str]) -> dict[str, float]:
    """OKX's leverage setting per symbol: as asked, else twice the exposure, at least 1, capped by the tier."""
    from bt_margin.rules.book import load_rules

    rules = load_rules("okx").as_of(_rules_time(task), "nearest")
    found = {}
    for symbol in symbols:
        if not rules.instrument(symbol).is_spot:
            wanted = task.setting if task.setting is not None else 2 * task.leverage
            found[symbol] = max(1.0, min(wanted, rules.tiers(symbol).max_leverage))
    return found


def _rules_time(task: Task) -> int:
    from bt_margin.model.moment import parse_time

    return task.window.since if task.rules_as_of == "then" else parse_time(task.rules_as_of, "rules_as_of")


def _replay(task: Task) -> RunResult:
    import backtrader as bt

    from bt_margin.plugin.analyzers import Recorder
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
    params = _params(task, strategy)
    label, history = _figures(task, strategy)
    for feed in history:
        cerebro.adddata(feed)
    sources = [f"{feed.p.name}: {feed.p.source}" for feed in history]
    data = [_coverage(task, label, feed) for feed in history]
    cerebro.addstrategy(strategy, **params)
    cerebro.addanalyzer(Recorder, _name="margin_recorder")
    (done,) = cerebro.run()
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


def _params(task: Task, strategy: Any) -> dict[str, Any]:
    return {**({"leverage": task.leverage} if takes_leverage(strategy) else {}), **task.params}


def _figures(task: Task, strategy: Any) -> tuple[str, list[Any]]:
    """(what the figures are, every feed of a cell): its history, and the options that its strategy asks for."""
    if not trades_options(strategy):
        return history_of(task, symbols_of(strategy))
    task = replace(task, window=priced(task.window))
    label, history = history_of(task, symbols_of(strategy))
    options = option_feeds(strategy, task.window, history, _params(task, strategy))
    return f"{label}; {vol_label(task.window)}", [*history, *options]


def history_of(task: Task, symbols: Sequence[str]) -> tuple[str, list[Any]]:
    """(what the figures are, a feed per symbol): downloaded minutes where they cover the window for every symbol,
    else the embedded hourly figures; the two are never mixed. Holes of the minutes are left out and counted."""
    from bt_margin.plugin import feeds
    from data_fetch import LocalStore, Samples

    since, until = task.window.since, task.window.until
    label = Samples().label
    if task.store:
        local = LocalStore(task.store)
        short = {s: c for s in symbols if (c := local.coverage(s, "trade", MINUTE, since, until)) < COVERED}
        if not short:
            return local.label, feeds.from_store(
                local, symbols, since=since, until=until, timeframe="1m", holes="drop"
            )
        label += f" (not the downloaded minutes: {', '.join(f'{c:.0%} of {s}' for s, c in short.items())} there)"
    from_spot = since < SPOT_STANDS_IN_BEFORE and not task.strict
    return label, feeds.from_samples(
        task.window.id, symbols, perpetual_from_spot=from_spot, since=since, until=until
    )


def _coverage(task: Task, label: str, feed: Any) -> dict[str, Any]:
    """Bars found and expected of one feed, and where they come from."""
    close_ms = feed.p.close_ms
    step = int(close_ms[0]) - feed.first_ms
    expected = max(1, (task.window.until - task.window.since) // step)
    marks = feed.p.columns.get("mark")
    return {
        "symbol": feed.p.name, "from": label, "source": feed.p.source, "step_ms": step, "bars": len(close_ms),
        "expected": expected, "marks": 0 if marks is None else int(np.isfinite(marks).sum()),
        "first": int(close_ms[0]) - step, "last": int(close_ms[-1]),
        "settlements": 0 if feed.p.funding is None else len(feed.p.funding.times),
        "sha256": provenance.feeds_hash([feed]),
    }


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


def _empty(task: Task, verdict: str, reason: str) -> RunResult:
    return RunResult({**_row(task), "verdict": verdict, "reason": reason})
