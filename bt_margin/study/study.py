"""A study: strategy x mode x window x leverage, every cell a task of its own that returns plain data."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

from bt_margin.engine.clock import ModeSwitch
from bt_margin.errors import BtMarginError, Ineligible, InputError
from bt_margin.model.assessment import iso
from bt_margin.modes import MODES, mode_named
from bt_margin.study.chains import option_feeds, priced, ruled_by, trades_options, vol_label
from bt_margin.study.result import COLUMNS, RunResult
from bt_margin.study.strategies import BUNDLED, load, symbols_of, takes_leverage
from bt_margin.study.windows import Window, window

DEFAULT_WINDOWS = ("2025-10-10", "2022-11-08")
DEFAULT_LEVERAGES = (2.0, 3.0, 5.0)
UNIFIED_ACCOUNT = 1_617_667_200_000
"""2021-04-06: general launch of OKX's unified account (rule book section 13); before it its earliest rules run."""
MINUTE = 60_000
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

    `strategies`: bundled names or `module:Class`; `modes`: names or "all"; `windows`: ids or START/END;
    `leverages`: exposures (gross notional / starting equity); `setting`: OKX's leverage setting, default twice the
    exposure capped by the tier, so that isolated posts half the equity and cross keeps the other half. `store`: a
    folder of downloaded history; its minutes are preferred to the embedded hourly figures where they cover a window.
    `interest`: yearly borrow rates by currency instead of the rules' own; `borrow`: choices of the modes whose account
    stands behind its debts as a whole, as in the broker; `switches`: scripted changes of the account mode, in every
    cell.
    """

    def __init__(
        self,
        strategies: Sequence[str] = BUNDLED,
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
        for strategy in strategies:
            load(strategy)
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
            Task(strategy, name, window(span), float(leverage), balances, setting, rules_as_of, path, strict, store,
                 interest=dict(interest or {}), borrow=dict(borrow or {}), switches=tuple(switches))
            for strategy, span, leverage, name in itertools.product(strategies, windows, leverages, names)
        ]
        self._check_settings()

    def run(
        self, executor: Executor | None = None, progress: Callable[[int, int], None] | None = None
    ) -> list[RunResult]:
        """Every cell, in the grid's order, whatever the executor. A failed cell is a value with its reason."""
        done = 0
        results: dict[int, RunResult] = {}
        if executor is None:
            for i, task in enumerate(self.tasks):
                results[i] = run_cell(task)
                if progress:
                    progress(i + 1, len(self.tasks))
        else:
            futures = {executor.submit(run_cell, task): i for i, task in enumerate(self.tasks)}
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                done += 1
                if progress:
                    progress(done, len(self.tasks))
        return [results[i] for i in sorted(results)]

    def grid(self) -> list[dict[str, str]]:
        """Window x rule table: in force, extrapolated N days, inferred."""
        from bt_margin.rules.book import load_rules

        symbols = sorted({s for task in self.tasks for s in ruled_by(load(task.strategy))})
        spans = {task.window.id: (task.window.since, task.window.until) for task in self.tasks}
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


def run_cell(task: Task) -> RunResult:
    """Replay one cell. Never raises for a cell's own trouble: the verdict says `no data` or `failed`, and why."""
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
    from bt_margin.engine.builder import parse_time

    return task.window.since if task.rules_as_of == "then" else parse_time(task.rules_as_of, "rules_as_of")


def _replay(task: Task) -> RunResult:
    import backtrader as bt

    from bt_margin.plugin.analyzers import Recorder
    from bt_margin.plugin.broker import MarginBroker

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
    params = {**({"leverage": task.leverage} if takes_leverage(strategy) else {}), **task.params}
    if trades_options(strategy):
        task = replace(task, window=priced(task.window))
    label, history = _history(task, symbols)
    if trades_options(strategy):
        history = [*history, *option_feeds(strategy, task.window, history, params)]
        label += f"; {vol_label(task.window)}"
    for feed in history:
        cerebro.adddata(feed)
    sources = [f"{feed.p.name}: {feed.p.source}" for feed in history]
    cerebro.addstrategy(strategy, **params)
    cerebro.addanalyzer(Recorder, _name="margin_recorder")
    (done,) = cerebro.run()
    found = done.analyzers.margin_recorder.get_analysis()
    evidence, ledger, events = found["evidence"], found["ledger"], found["events"]
    verdict, at, reason = judge_run(done, found)
    sums = _sums(ledger, found["usd"])
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
        **sums,
        "start_equity_usd": found["start_equity_usd"],
        "final_equity_usd": found["series"]["equity_usd"][-1],
        "indicative": _indicative(found),
        "rules_extrapolated_days": max((e["extrapolated_days"] for e in evidence), default=0),
        "data_kind": f"{label}; {'; '.join(sources)}",
    }
    return RunResult(
        row,
        {"time": found["series"]["time"], "equity": found["series"]["equity_usd"],
         "margin_ratio": found["series"]["margin_ratio"], "prices": found["series"]["prices"],
         "lows": found["series"]["lows"], "highs": found["series"]["highs"],
         "collateral": found["series"]["collateral"], "risk_units": found["series"]["risk_units"]},
        events, ledger, found["warnings"], evidence,
    )


def _history(task: Task, symbols: Sequence[str]) -> tuple[str, list[Any]]:
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


def _indicative(found: Mapping[str, Any]) -> bool:
    """True when a risk unit rested by more than half on inferred parameters, at entry or at an event."""
    units = [*found["series"]["risk_units"].get("units", ()),
             *(unit for event in found["events"] for unit in event["report"].get("risk_units", ()))]
    return any(unit["indicative"] for unit in units)


def judge_run(strategy: Any, found: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """(verdict, time of the first takeover, reason), by the worst that happened."""
    events = found["events"]
    taken = next((e for e in events if e["name"] == "TakenOver"), None)
    at = iso(taken["time"]) if taken else None
    refused = getattr(strategy, "refused", "")
    traded = any(e["kind"] == "trade" for e in found["ledger"])
    first_refusal = next((e for e in events if e["name"] == "Refused"), None)
    if refused or (first_refusal and not traded):
        return "refused", None, refused or "{symbol}: {reason}".format(**(first_refusal or {}))
    bankrupt = sum(e["amount"] for e in events if e["name"] == "Bankrupt")
    if bankrupt:
        return "bankrupt", at, f"{taken['pool'] if taken else 'account'}: the insurance fund paid {bankrupt:,.2f}"
    if taken:
        before = [e for e in events if e["name"] in ("Reduced", "Converted") and e["time"] <= taken["time"]]
        step = next((e for e in reversed(before) if e["name"] == "Reduced"), before[-1])
        if step["name"] == "Converted":
            return "liquidated", at, f"{taken['pool']}: {step['sold']} sold to buy back {step['bought']}"
        return "liquidated", at, f"{taken['pool']} taken over at {step['price']:,.10g}"
    if any(e["name"] in ("Reduced", "Converted") for e in events):
        return "reduced", None, "forced orders, pool kept"
    if any(e["name"] == "Deleveraged" for e in events):
        return "reduced", None, "auto-deleveraged, pool kept"
    return "survived", None, ""


def _sums(ledger: Sequence[Mapping[str, Any]], usd: Mapping[str, float]) -> dict[str, float]:
    """Where the money went, in USD (coins at the window's last price): costs positive, funding signed (+ received)."""

    liquidation = ("forced", "conversion")

    def total(*kinds: str, forced: bool | None = None) -> float:
        return 0.0 + math.fsum(
            (e["cash"] + e["margin"] + e["assets"] - e["liability"] - e["interest"]) * usd.get(e["currency"], 1.0)
            for e in ledger
            if e["kind"] in kinds and (forced is None or (e["note"] in liquidation) is forced)
        )

    return {
        "fees_usd": 0.0 - total("fee", forced=False),
        "funding_usd": total("funding"),
        "interest_usd": 0.0 - total("interest"),
        "liquidation_cost_usd": 0.0 - total("fee", "penalty", forced=True),
        "fund_paid_usd": total("clawback"),
    }


def _row(task: Task) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        "strategy": task.strategy, "mode": task.mode, "window": task.window.id, "leverage": task.leverage,
        "setting": task.setting, "opened": False, "warnings": 0, "forced_orders": 0, "reason": "",
        "available_then": task.window.since >= UNIFIED_ACCOUNT, "indicative": False, "rules_extrapolated_days": 0,
        "data_kind": "",
    }


def _empty(task: Task, verdict: str, reason: str) -> RunResult:
    return RunResult({**_row(task), "verdict": verdict, "reason": reason})
