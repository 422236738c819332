"""Analyzers that give plain data (they cross process borders in optimisations)."""

from __future__ import annotations

from typing import Any

import backtrader as bt
from msgspec import to_builtins

from bt_margin.model.assessment import AccountReport
from bt_margin.model.event import Event
from bt_margin.model.ledger import Entry
from bt_margin.modes.account_report import Collateral


class Recorder(bt.Analyzer):
    """Bar by bar: value, lowest margin ratio within the bar, prices; then events and ledger.

    `get_analysis()`: {"series": {time, equity, margin_ratio, prices, collateral, risk_units}, "events": [...],
    "ledger": [...], "warnings": [...], "evidence": [...], "entry_distance", "min_distance", "min_margin_ratio"}. Times
    are ms UTC. `collateral` is by currency {equity, counted, accrued} in USD, of accounts that are one pool;
    `risk_units` {time, units} when a portfolio account first held something.
    """

    def start(self) -> None:
        self._time: list[int] = []
        self._equity: list[float] = []
        self._equity_usd: list[float] = []
        self._start_usd: float | None = None
        self._collateral: list[dict[str, Collateral]] = []
        self._units: AccountReport | None = None  # portfolio margin: the account when it first held something
        self._ratio: list[float | None] = []
        self._prices: dict[str, list[float]] = {data._name: [] for data in self.datas}
        self._lows: dict[str, list[float]] = {data._name: [] for data in self.datas}
        self._highs: dict[str, list[float]] = {data._name: [] for data in self.datas}

    def next(self) -> None:
        broker = self.strategy.broker
        if not broker.margined or not broker.started:
            return
        now = broker.instant()
        if self._start_usd is None:  # nothing has traded before the first bar's next()
            self._start_usd = now.equity_usd
        self._time.append(now.time)
        self._equity.append(float(broker.getvalue()))
        self._equity_usd.append(now.equity_usd)
        self._collateral.append(now.collateral)
        if self._units is None and broker.account.positions and broker.account_mode == "portfolio":
            self._units = broker.report()
        self._ratio.append(now.low)
        for data in self.datas:
            if len(data):
                self._prices[data._name].append(float(data.close[0]))
                low_mark, high_mark = broker.judged_range(data)
                self._lows[data._name].append(low_mark)
                self._highs[data._name].append(high_mark)

    prenext = next

    def stop(self) -> None:
        """Gather plain data while the broker is there: optimisations bring back analyzers alone."""
        broker = self.strategy.broker
        if not broker.margined or not broker.started:
            self._analysis: dict[str, Any] = {}
            return
        engine = broker.engine
        ratios = [r for r in self._ratio if r is not None]
        self._analysis = {
            "series": {
                "time": self._time, "equity": self._equity, "equity_usd": self._equity_usd, "margin_ratio": self._ratio,
                "prices": self._prices, "lows": self._lows, "highs": self._highs,
                "collateral": _by_currency(self._collateral),
                "risk_units": {} if self._units is None else {
                    "time": self._units.time, "units": self._units.to_dict()["risk_units"]},
            },
            "events": [event_dict(event) for event in broker.events],
            "ledger": [entry_dict(entry) for entry in broker.ledger],
            "warnings": [*engine.warnings(), *_leaned_on(self._units),
                         *(f"stand-in: {s}" for s in sorted(engine.market.stand_ins))],
            "evidence": [to_builtins(row) for row in engine.evidence()],
            "start_equity_usd": self._start_usd,
            "usd": {c: float(engine.market.usd(c)) for c in {e.currency for e in broker.ledger}},
            "entry_distance": engine.entry_distance,
            "min_distance": engine.min_distance,
            "min_margin_ratio": min(ratios) if ratios else None,
        }

    def get_analysis(self) -> dict[str, Any]:
        """What `stop` gathered; empty with a stock broker or without a single bar."""
        return self._analysis


def _leaned_on(report: AccountReport | None) -> list[str]:
    """Which inferred parameters the units of an account rest on, as its report says."""
    return [] if report is None else [text for text in report.warnings if "inferred parameters" in text]


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
    for name in (f for cls in type(event).__mro__ for f in getattr(cls, "__slots__", ())):
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
