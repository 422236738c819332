"""What the venue did by itself, as strategies see it: forced trades as ordinary orders, cancellations, costs, calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import backtrader as bt
from backtrader.order import BuyOrder, SellOrder

from bt_margin.model.event import Converted, Deleveraged, Event, Forced, OrdersCancelled, Reduced, Settled
from bt_margin.model.instrument import is_symbol
from bt_margin.model.ledger import PositionKey
from bt_margin.plugin.holdings import costs

if TYPE_CHECKING:
    from bt_margin.plugin.broker import MarginBroker


REASONS = {Reduced: "liquidation", Settled: "delivery", Deleveraged: "deleveraging"}


class Teller:
    """Tells what was booked and what happened since it told last."""

    def __init__(self, broker: MarginBroker) -> None:
        self.broker = broker
        self._events = self._entries = 0

    def skip(self) -> None:
        """What is booked by now was told in another way: with the order that it is of."""
        self._entries = len(self.broker.ledger)

    def tell(self) -> None:
        """Turn it into orders, costs and calls that strategies see."""
        broker = self.broker
        events, ledger = broker.engine.events, broker.ledger
        if self._entries == len(ledger) and self._events == len(events):
            return
        forced, funding = costs(ledger[self._entries:], broker.in_settlement)
        self._entries = len(ledger)
        for key, cost in funding:
            broker.holdings.charge(key, cost * broker.rate_of(broker.instrument(broker.feeds[key.symbol])))
        costs_left = iter(forced)
        while self._events < len(events):
            event = events[self._events]
            self._events += 1
            self._act(event, costs_left)
            for strategy in broker.cerebro.runningstrats:
                notify = getattr(strategy, "notify_margin", None)
                if notify is not None:
                    notify(event)

    def _act(self, event: Event, costs_left: Iterator[float]) -> None:
        """The orders that an event makes, and those that it ends."""
        broker = self.broker
        if isinstance(event, Forced):
            place_forced(broker, broker.feeds[event.key.symbol], event, next(costs_left))
            if event.remaining == 0.0:
                self._cancel_exits(event.key)
        elif isinstance(event, Converted):
            for name, data in broker.feeds.items():
                for told, cost in conversions(broker, name, data, event):
                    place_forced(broker, data, told, cost)
        elif isinstance(event, OrdersCancelled):
            going = [order for number in event.orders if (order := broker.resting.get(number)) is not None]
            for order in going:
                order.addinfo(reason=event.reason)
            for order in going:  # one may take others along
                if order.alive():
                    broker.cancel(order)

    def _cancel_exits(self, key: PositionKey) -> None:
        """Orders that could only have closed a position go with it."""
        broker = self.broker
        for order in list(broker.pending):
            if order.data._name != key.symbol or not order.alive():
                continue
            if order.parent is not None and order.parent.status != bt.Order.Completed:
                continue  # the exit of an entry still to come
            wanted = broker.wanted(order)
            if wanted.closes and wanted.key == key:
                order.addinfo(reason="the position it would have closed is gone")
                broker.cancel(order)


def place_forced(broker: MarginBroker, data: Any, event: Forced, cost: float) -> None:
    """One order per owner and trade id, so that every trade closes exactly; each Submitted, Accepted, Completed.

    `cost` is what the forced trade took beyond its profit (settlement currency): fee and penalty, less what the
    insurance fund paid back; owners bear it by size.
    """
    instrument = broker.instrument(data)
    factor = broker.rate_of(instrument)
    parts = broker.holdings.shares(event.key, event.size, event.remaining == 0.0, instrument)
    gross = sum(abs(size) for _, size in parts)
    for (owner, tradeid), size in parts:
        order = _order(owner, data, size, tradeid)
        share = abs(size) / gross
        order.addinfo(
            forced=REASONS[type(event)], step=getattr(event, "step", ""), mark=event.price, time=event.time,
            margin_mode=event.key.margin_mode, position_side=event.key.side, penalty=event.penalty * share * factor,
        )
        broker.orders.append(order)
        order.submit(broker)
        broker.notify(order)
        order.accept(broker)
        broker.notify(order)
        broker.holdings.execute(
            order, broker.bars.stamp, event.key, instrument, size, event.price, cost * share * factor,
            broker.getcommissioninfo(data), factor, broker.p.int2pnl, broker.exact_size(event.key, instrument),
        )
        order.executed.remsize = 0.0
        order.status = order.Completed
        broker.notify(order)


def conversions(broker: MarginBroker, name: str, data: Any, event: Converted) -> Iterator[tuple[Reduced, float]]:
    """What a conversion did to a strategy's coins in one pair: (a forced trade, its cost in the quote coin).

    Coins bought through orders are sold before those the account began with, coins sold short are bought back first;
    what is beyond them concerns no position. Prices are those of the conversion, told when the market may have moved
    on; fee and penalty are the sale's, or the purchase's where the quote coin itself was spent.
    """
    instrument = broker.instrument(data)
    if not instrument.is_spot or not is_symbol(name):
        return
    key = broker.key(data, {"margin_mode": "cross"})
    held = broker.holdings.leg(key).size
    bought, quote = (_usd(broker, event, coin) for coin in (event.bought, instrument.quote))
    spends = event.sold == instrument.quote
    got = event.price * bought / quote  # for one coin sold, slippage included
    paid = 1.0 / event.price if spends else bought / quote
    sides = ((event.sold, event.sold_amount, -1, got), (event.bought, event.bought_amount, 1, paid))
    for coin, amount, sign, price in sides:
        if coin != instrument.base or sign * held >= 0:
            continue
        # a conversion is in no whole lots: what is left of a position may not be more than the account holds
        size = min(instrument.ceil(amount) if sign < 0 else instrument.floor(amount), abs(held))
        if not size:
            continue
        cost = (event.fee + event.penalty) * bought / quote * size / amount if sign < 0 or spends else 0.0
        left = instrument.snap(held + sign * size)
        yield Reduced(event.time, event.pool, event.late_report, key, sign * size, price, 0.0, cost, 0.0, left,
                      event.margin_ratio or 0.0, event.reason), cost


def _usd(broker: MarginBroker, event: Converted, coin: str) -> float:
    """What a coin was worth when the conversion was made; the present where the account had none of it."""
    for row in event.report.currencies:
        if row.currency == coin and row.equity:
            return row.equity_usd / row.equity
    return float(broker.engine.market.usd(coin))


def _order(owner: Any, data: Any, size: float, tradeid: Any) -> Any:
    kind = BuyOrder if size > 0 else SellOrder
    return kind(owner=owner, data=data, size=abs(size), exectype=bt.Order.Market, tradeid=tradeid)
