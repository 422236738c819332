"""A strategy base that knows the margin broker: `self.margin`, and `notify_margin(event)` when something happens."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import backtrader as bt

from bt_margin.model.event import Event


class MarginStrategy(bt.Strategy):
    """backtrader's Strategy with the margin broker at hand. Any other strategy works as well."""

    @property
    def margin(self) -> Any:
        """The broker: `report()`, `events`, `ledger`, `coins(data, amount)`, `leg(...)`."""
        return self.broker

    def notify_margin(self, event: Event) -> None:
        """Called at once for every warning, cancellation, forced order, takeover and refusal."""


class HoldOnce(MarginStrategy):
    """Enter once, sized by target exposure, then hold; flat for good after a takeover or a refused leg.

    `leverage` is exposure: gross notional / equity at the first bar. Subclasses say in `weights` which share of it
    each symbol carries (signed). The number of contracts is computed once, from the first bar's close, so it is the
    same in every margin mode. With `rebalance` (days, 0 = never) sizes are brought back to target.
    """

    params = (("leverage", 2.0), ("rebalance", 0))
    weights: ClassVar[dict[str, float]] = {}
    symbols: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.sizes: dict[str, float] = {}
        self.refused = ""
        self.finished = False
        self._entries: set[int] = set()
        self._bars = 0

    def next(self) -> None:
        if self.finished:
            return
        if not self.sizes:
            self.sizes = self._targets(self.broker.getvalue())
            book = {self.getdatabyname(symbol): size for symbol, size in self.sizes.items() if size}
            refusal, share = self.broker.preview(book)
            if refusal is not None:
                self.refused = self._why(refusal, share * self.p.leverage, "the whole book")
                self.finished = True
                return
            for symbol, size in self.sizes.items():
                if size:
                    self._trade(symbol, size)
            return
        self._bars += 1
        if self.p.rebalance and self._bars % (self.p.rebalance * self._bars_a_day()) == 0:
            for symbol, size in self._targets(self.broker.getvalue()).items():
                change = size - self.getposition(self.getdatabyname(symbol)).size
                if change:
                    self._trade(symbol, change)

    def _why(self, refusal: Any, most: float, what: str) -> str:
        """Why a book may not open, and at which exposure it could, never rounded up."""
        could = (f"{what} could open at {math.floor(most * 100) / 100:g}x of the {self.p.leverage:g}x asked"
                 if most >= 0.01 else "nothing of it could open")
        return f"{refusal.reason}{_short(refusal.shortfall, ' ' + refusal.currency)}; {could}"

    def _targets(self, equity: float) -> dict[str, float]:
        targets = {}
        for symbol, weight in self.weights.items():
            data = self.getdatabyname(symbol)
            coins = self.p.leverage * abs(weight) * equity / data.close[0]
            targets[symbol] = self.broker.coins(data, coins) * (1 if weight > 0 else -1)
        return targets

    def _trade(self, symbol: str, size: float) -> None:
        data = self.getdatabyname(symbol)
        order = (self.buy if size > 0 else self.sell)(data=data, size=abs(size))
        if order is not None:
            self._entries.add(order.ref)

    def _bars_a_day(self) -> int:
        data = self.datas[0]
        minutes = data._compression * {bt.TimeFrame.Minutes: 1, bt.TimeFrame.Days: 1440}.get(data._timeframe, 1)
        return max(1, 1440 // int(minutes))

    def notify_order(self, order: Any) -> None:
        if order.status in (order.Margin, order.Rejected) and order.ref in self._entries:
            short = _short(order.info.get("shortfall") or 0.0)
            largest = order.info.get("largest_size") or 0.0
            self.refused = (
                f"{order.data._name}: {order.info.get('reason')}{short}; "
                f"largest size that could open {largest:,.10g} of {abs(order.created.size):,.10g}"
            )
            self._leave()

    def notify_margin(self, event: Event) -> None:
        if event.name == "TakenOver":
            self._leave()

    def _leave(self) -> None:
        """Close what is left of the book and stay flat: half a hedge is another strategy."""
        if self.finished:
            return
        self.finished = True
        for symbol in self.sizes:
            data = self.getdatabyname(symbol)
            for order in list(self.broker.get_orders_open()):
                if order.data is data:
                    self.cancel(order)
            if self.getposition(data).size:
                self.close(data=data)


def _short(amount: float, unit: str = "") -> str:
    """What was missing, as words; none where nothing was."""
    return f"; short of {amount:,.2f}{unit}" if amount else ""
