"""Forced trades as ordinary orders: what `notify_order` and `notify_trade` see of a liquidation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import backtrader as bt
from backtrader.order import BuyOrder, SellOrder

from bt_margin.model.event import Deleveraged, Forced, Reduced, Settled

if TYPE_CHECKING:
    from bt_margin.plugin.broker import MarginBroker


REASONS = {Reduced: "liquidation", Settled: "delivery", Deleveraged: "deleveraging"}


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


def _order(owner: Any, data: Any, size: float, tradeid: Any) -> Any:
    kind = BuyOrder if size > 0 else SellOrder
    return kind(owner=owner, data=data, size=abs(size), exectype=bt.Order.Market, tradeid=tradeid)
