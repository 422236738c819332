"""Analyzers that give plain data (they cross process borders in optimisations)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import backtrader as bt
from msgspec import to_builtins

from bt_margin.engine.engine import MarginEngine
from bt_margin.model.assessment import AccountReport, ratio
from bt_margin.model.event import Event
from bt_margin.model.ledger import Entry
from bt_margin.model.moment import DAY, HOUR
from bt_margin.modes.account_report import Collateral
from bt_margin.modes.base import Judgement, Pool
from bt_margin.modes.distance import distance
from bt_margin.plugin.measures import costs, hours_below, worst_hour

if TYPE_CHECKING:
    import pandas as pd


FEE = "liquidation fee"


class Recorder(bt.Analyzer):
    """Bar by bar: value, lowest margin ratio within the bar, prices; then events and ledger.

    `get_analysis()`: {"series": {time, equity, equity_usd, margin_ratio, prices, lows, highs, collateral, charges,
    risk_units}, "events": [...], "ledger": [...], "warnings": [...], "evidence": [...], "entry_distance",
    "min_distance", "min_margin_ratio"}. Times are ms UTC. `collateral` is by currency {equity, counted, accrued} in
    USD, of accounts that are one pool; `charges` {time, parts}, once an hour: what is required by named charge, USD,
    maintenance margin and the liquidation fee as a part of its own; `risk_units` [{when, time, units}] of a portfolio
    account when it first held something, and at the lowest ratio that an hour ended with.
    """

    def start(self) -> None:
        self._time: list[int] = []
        self._equity: list[float] = []
        self._equity_usd: list[float] = []
        self._start_usd: float | None = None
        self._collateral: list[dict[str, Collateral]] = []
        self._units: dict[str, AccountReport] = {}  # of a portfolio account, by moment
        self._worst: float | None = None
        self._charge_time: list[int] = []
        self._charges: list[dict[str, float]] = []
        self._ratio: list[float | None] = []
        self._prices: dict[str, list[float]] = {data._name: [] for data in self.datas}
        self._lows: dict[str, list[float]] = {data._name: [] for data in self.datas}
        self._highs: dict[str, list[float]] = {data._name: [] for data in self.datas}

    def next(self) -> None:
        broker = self.strategy.broker
        if not _margined(broker):
            return
        now = broker.instant()
        if self._start_usd is None:  # nothing has traded before the first bar's next()
            self._start_usd = now.equity_usd
        self._time.append(now.time)
        self._equity.append(float(broker.getvalue()))
        self._equity_usd.append(now.equity_usd)
        self._collateral.append(now.collateral)
        self._ratio.append(now.low)
        if not self._charge_time or now.time // HOUR != self._charge_time[-1] // HOUR:
            self._hour(broker.engine)
        for data in self.datas:
            if len(data):
                self._prices[data._name].append(float(data.close[0]))
                low_mark, high_mark = broker.judged_range(data)
                self._lows[data._name].append(low_mark)
                self._highs[data._name].append(high_mark)

    def _hour(self, engine: MarginEngine) -> None:
        """Charges by name, and the units of a portfolio account at entry and wherever its ratio was clearly lower."""
        judged = engine.judged_pools()
        self._charge_time.append(engine.market.time)
        self._charges.append(_named(judged, engine))
        if engine.mode.name != "portfolio" or not engine.account.positions:
            return
        ratios = [ratio(float(j.equity), float(j.requirement)) for _, j in judged]
        now = min((r for r in ratios if r is not None), default=None)
        if "at entry" not in self._units:
            self._units["at entry"] = engine.assess()
            self._worst = now
        elif now is not None and (self._worst is None or now < 0.97 * self._worst):
            self._units["at the lowest ratio that an hour ended with"] = engine.assess()
            self._worst = now

    prenext = next

    def stop(self) -> None:
        """Gather plain data while the broker is there: optimisations bring back analyzers alone."""
        engine, broker = _engine(self), self.strategy.broker
        if engine is None:
            self._analysis: dict[str, Any] = {}
            return
        ratios = [r for r in self._ratio if r is not None]
        self._analysis = {
            "series": {
                "time": self._time, "equity": self._equity, "equity_usd": self._equity_usd, "margin_ratio": self._ratio,
                "prices": self._prices, "lows": self._lows, "highs": self._highs,
                "collateral": _by_currency(self._collateral),
                "charges": {"time": self._charge_time, "parts": _columns(self._charges)},
                "risk_units": [{"when": when, "time": report.time, "units": report.to_dict()["risk_units"]}
                               for when, report in self._units.items()],
            },
            "events": [event_dict(event) for event in broker.events],
            "ledger": [entry_dict(entry) for entry in broker.ledger],
            "warnings": [*engine.warnings(), *_leaned_on(self._units.values()),
                         *(f"stand-in: {s}" for s in sorted(engine.market.stand_ins))],
            "evidence": [to_builtins(row) for row in engine.evidence()],
            "start_equity_usd": self._start_usd,
            "usd": {c: float(engine.market.usd(c)) for c in {e.currency for e in broker.ledger}},
            "entry_distance": engine.control.entry_distance,
            "min_distance": engine.control.min_distance,
            "min_margin_ratio": min(ratios) if ratios else None,
        }

    def get_analysis(self) -> dict[str, Any]:
        """What `stop` gathered; empty with a stock broker or without a single bar."""
        return self._analysis


class CostBreakdown(bt.Analyzer):
    """What the run cost, in USD (coins at the last prices): `fees_usd`, `interest_usd`, `liquidation_cost_usd` (fees
    and penalties of forced orders) positive, `funding_usd` signed (+ received), `fund_paid_usd` (insurance fund)."""

    def stop(self) -> None:
        engine = _engine(self)
        self._analysis = {} if engine is None else costs(
            [entry_dict(entry) for entry in self.strategy.broker.ledger],
            {c: float(engine.market.usd(c)) for c in {e.currency for e in self.strategy.broker.ledger}},
        )

    def get_analysis(self) -> dict[str, float]:
        """The sums; empty with a stock broker."""
        return self._analysis


class TimeBelow(bt.Analyzer):
    """Hours with a margin ratio at or below `level` (3 = 300 %, OKX's warning), from each bar's lowest ratio.

    `get_analysis()`: {"hours": h, "share": of the hours in which anything was required}. A bar counts whole: a bound
    from above. The ratio falls as danger rises.
    """

    params = (("level", 3.0),)

    def start(self) -> None:
        self._time: list[int] = []
        self._ratio: list[float | None] = []

    def next(self) -> None:
        if _margined(self.strategy.broker):
            now = self.strategy.broker.instant()
            self._time.append(now.time)
            self._ratio.append(now.low)

    prenext = next

    def get_analysis(self) -> dict[str, float]:
        """Hours and share; zero where nothing was ever required."""
        step = min((b - a for a, b in pairwise(self._time)), default=HOUR)
        hours = hours_below(self._time, self._ratio, self.p.level, step)
        held = hours_below(self._time, self._ratio, math.inf, step)
        return {"hours": hours, "share": hours / held if held else 0.0}


class DistanceToLiquidation(bt.Analyzer):
    """How far, in per cent, all marks may move together before the nearest pool is liquidated, at every bar's end.

    `get_analysis()`: {"time": [ms], "distance": [per cent, None where no move does it], "entry", "lowest"}; the last
    two as the engine saw them, within bars too. Searched anew at every bar, which takes time in multi-currency and
    portfolio margin.
    """

    def start(self) -> None:
        self._time: list[int] = []
        self._distance: list[float | None] = []

    def next(self) -> None:
        engine = _engine(self)
        if engine is None:
            return
        away = [d for pool, j in engine.judged_pools()
                if pool.positions and (d := distance(pool, j, engine.market, engine.rules)) is not None]
        self._time.append(engine.market.time)
        self._distance.append(min(away, default=None))

    prenext = next

    def stop(self) -> None:
        engine = _engine(self)
        self._ends = (None, None) if engine is None else (engine.control.entry_distance, engine.control.min_distance)

    def get_analysis(self) -> dict[str, Any]:
        """The series and both ends."""
        return {"time": self._time, "distance": self._distance, "entry": self._ends[0], "lowest": self._ends[1]}


class _Values(bt.Analyzer):
    """Account value at every bar's end, under any broker."""

    def start(self) -> None:
        self._first = float(self.strategy.broker.getvalue())
        self._time: list[int] = []
        self._value: list[float] = []

    def next(self) -> None:
        days = self.strategy.datetime[0]
        self._time.append(round((days - _EPOCH) * DAY))
        self._value.append(float(self.strategy.broker.getvalue()))

    prenext = next


class WorstHour(_Values):
    """The largest fall of the account's value within an hour (between neighbours where bars are longer).

    `get_analysis()`: {"end": ms UTC, "change": in the broker's currency, "share": of the value before}, empty where
    the value never fell. Any broker.
    """

    def get_analysis(self) -> dict[str, float]:
        found = worst_hour(self._time, self._value)
        return {} if found is None else found._asdict()


class ReturnSeries(_Values):
    """Returns of the account's value, for quantstats, pyfolio and the like. Any broker.

    `get_analysis()`: {time (ms UTC, ISO day starts with `daily`): return}, each against the value before, the first
    against the starting value, so that they compound to final / start. `series()` gives a pandas Series with a UTC
    index. `daily` (default) takes the last value of each UTC day.
    """

    params = (("daily", True),)

    def get_analysis(self) -> dict[int, float]:
        last: dict[int, float] = {}
        for time, value in zip(self._time, self._value, strict=True):
            last[(time - 1) // DAY * DAY if self.p.daily else time] = value  # a bar ending at midnight closes its day
        found, before = {}, self._first
        for time, value in last.items():
            found[time] = value / before - 1.0 if before else 0.0
            before = value
        return found

    def series(self) -> pd.Series[float]:
        import pandas as pd

        found = self.get_analysis()
        index = pd.to_datetime(list(found), unit="ms", utc=True)
        return pd.Series(list(found.values()), index=index, name="returns", dtype=float)


_EPOCH = 719_163.0
"""1970-01-01 in backtrader's days."""


def _engine(analyzer: Any) -> MarginEngine | None:
    """None under a stock broker or before the first bar."""
    broker = analyzer.strategy.broker
    return broker.engine if _margined(broker) else None


def _margined(broker: Any) -> bool:
    return bool(getattr(broker, "margined", False) and broker.started)


def _named(judged: list[tuple[Pool, Judgement]], engine: MarginEngine) -> dict[str, float]:
    """What is required by named charge, in USD; the liquidation fee is a part of its own."""
    parts: dict[str, float] = {}
    for pool, judgement in judged:
        usd = float(engine.market.usd(pool.currency))
        for charge in judgement.charges:
            parts[charge.name] = parts.get(charge.name, 0.0) + float(charge.maintenance) * usd
            parts[FEE] = parts.get(FEE, 0.0) + float(charge.fee) * usd
    return {name: amount for name, amount in parts.items() if amount}


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Rows by name as columns by name, zero where a name was not there."""
    return {name: [row.get(name, 0.0) for row in rows] for name in sorted({name for row in rows for name in row})}


def _leaned_on(reports: Iterable[AccountReport]) -> list[str]:
    """Which inferred parameters the units of an account rest on, as its reports say."""
    return list(dict.fromkeys(text for report in reports for text in report.warnings if "inferred parameters" in text))


def _by_currency(bars: list[dict[str, Collateral]]) -> dict[str, dict[str, list[float]]]:
    """Bars of rows by currency as columns by currency, zero where a currency was not there yet."""
    none = Collateral(0.0, 0.0, 0.0)
    names = sorted({currency for bar in bars for currency in bar})
    return {
        name: {part: [getattr(bar.get(name, none), part) for bar in bars] for part in Collateral._fields}
        for name in names
    }


def event_dict(event: Event) -> dict[str, Any]:
    """An event as plain data, its name and report included."""
    row: dict[str, Any] = {"name": event.name}
    for slot in (f for cls in type(event).__mro__ for f in getattr(cls, "__slots__", ())):
        name = slot.removeprefix("late_")
        value = getattr(event, name)
        row[name] = value.to_dict() if isinstance(value, AccountReport) else to_builtins(value)
    return row


def entry_dict(entry: Entry) -> dict[str, Any]:
    """A ledger entry as plain data."""
    key = entry.key
    return {
        "time": entry.time, "kind": str(entry.kind), "currency": entry.currency, "cash": entry.cash,
        "margin": entry.margin, "fund": entry.fund, "assets": entry.assets, "liability": entry.liability,
        "interest": entry.interest,
        "symbol": key.symbol if key else entry.instrument.symbol if entry.instrument else "",
        "margin_mode": key.margin_mode if key else "cash", "side": key.side if key else "",
        "size": entry.size, "price": entry.price, "order": entry.order, "note": entry.note,
    }
