"""Resting orders around a liquidation and at submission. Found by the oracle."""

from __future__ import annotations

import pytest

from bt_margin.engine.engine import Refusal
from tests.unit.test_engine import BTC, engine, moved, order, trade


def test_an_order_that_only_reduced_goes_with_the_position_it_would_have_reduced() -> None:
    """At 100 % orders that add risk are cancelled (rule book section 7); without its position a one-way order opens.
    It also hid the takeover: what it required looked like something the pool still held.
    """
    e = engine(cash=10_000.0)
    trade(e, BTC, "buy", 100, "cross")
    assert not isinstance(e.accept(order(e, BTC, "sell", 50, "cross", id_=2, price=70_000.0)), Refusal)
    moved(e, btc=40_000.0)
    assert [x.name for x in e.events] == ["Warned", "Reduced", "OrdersCancelled", "TakenOver"]
    assert not e.account.orders
    assert e.assess().pools[0].state == "safe"


def test_the_loss_of_a_takeover_is_the_accounts_not_what_orders_had_reserved() -> None:
    e = engine(cash=10_000.0)
    trade(e, BTC, "buy", 100, "cross")
    fee = 100 * 0.01 * 60_000.0 * 0.0005
    assert not isinstance(e.accept(order(e, BTC, "buy", 50, "cross", id_=2, price=50_000.0)), Refusal)
    moved(e, jump=True, btc=49_000.0)  # 11,000 lost of 10,000
    (over,) = [x for x in e.events if x.name == "TakenOver"]
    assert over.loss == pytest.approx(10_000.0 - fee - 11_000.0)  # type: ignore[attr-defined]
