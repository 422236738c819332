"""What strategies are told of an order is the order as it stood then: as backtrader's own copy."""

from __future__ import annotations

from typing import Any

import backtrader as bt
import pytest

from bt_margin import MarginBroker
from bt_margin.plugin import feeds
from tests.plugin.script import BTC, Diary, frame


class Both(MarginBroker):
    """Compares every copy with backtrader's."""

    def notify(self, order: Any) -> None:
        executed = order.executed
        pending = executed.p1, executed.p2
        theirs = order.clone()
        executed.p1, executed.p2 = pending
        super().notify(order)
        ours = self.notifs[-1]
        assert type(ours) is type(theirs) is type(order)
        assert ours is not order
        assert ours.executed is not order.executed
        assert {**vars(ours), "executed": None} == {**vars(theirs), "executed": None}
        assert type(ours.executed) is type(theirs.executed)
        assert vars(ours.executed) == vars(theirs.executed)
        self.told = [*getattr(self, "told", []), ours.getstatusname()]


@pytest.mark.parametrize("mode", [None, "isolated", "cross", "multi-currency"])
def test_an_order_is_told_as_backtrader_copies_it(mode: str | None) -> None:
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = broker = Both(mode=mode, cash=1e6)
    cerebro.adddata(feeds.from_dataframe(frame([60_000.0] * 30, "1min"), BTC, "1m"))
    acts = {2: lambda s: s.buy(size=3), 5: lambda s: s.sell(size=1, exectype=bt.Order.Limit, price=59_000),
            8: lambda s: s.close(), 12: lambda s: s.buy(size=1, exectype=bt.Order.Limit, price=50_000.0),
            14: lambda s: s.cancel(s.orders[-1])}
    cerebro.addstrategy(Diary, acts=acts)
    cerebro.run()
    assert broker.told.count("Completed") == 3
    assert broker.told[-1] == "Canceled"
