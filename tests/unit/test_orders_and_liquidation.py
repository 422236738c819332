"""Resting orders around a liquidation and at submission. Found by the oracle."""

from __future__ import annotations

import pytest

from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.model.account import Account
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.rules.book import load_rules
from tests.unit.test_engine import BTC, PRICES, SPOT, TIME, engine, moved, order, trade


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


def test_of_two_orders_against_one_isolated_position_the_second_reserves_cash() -> None:
    """A one-way order freezes its opening part (DEMO-ORDER-FREEZE-RULES); the first has used the position up."""
    e = engine(cash=10_000.0)
    trade(e, BTC, "buy", 50, "isolated")
    cash = e.account.balance("USDT")
    for id_, reserved in ((2, 0.0), (3, 50 * 0.01 * 61_000.0 * (1 / 10 + 0.0005))):
        assert not isinstance(e.accept(order(e, BTC, "sell", 50, "isolated", id_=id_, price=61_000.0)), Refusal)
        (pool,) = [p for p in e.assess().pools if p.name == "USDT"]
        assert pool.equity == pytest.approx(cash - reserved)


def test_orders_that_reduce_one_by_one_may_not_open_together_without_margin() -> None:
    """One-way: a long and its sells need max(P + B, S - P) / leverage (rule book 6.2), S being all sells."""
    e = engine(cash=10_000.0)
    trade(e, BTC, "buy", 100, "cross")
    answers = [e.accept(order(e, BTC, "sell", 100, "cross", id_=i, price=61_000.0)) for i in (2, 3, 4)]
    assert [isinstance(a, Refusal) for a in answers] == [False, False, True]
    fees = 61_000.0 * 0.0005
    assert answers[2].shortfall == pytest.approx((3 * 61_000 - 60_000) / 10 + 2 * fees - (10_000 - 30))  # type: ignore[union-attr]
    assert isinstance(e.fill(order(e, BTC, "sell", 100, "cross", id_=5), 100, 60_000.0), Fill)  # it reduces, now


def test_an_order_that_outgrows_what_is_left_of_its_position_goes_before_the_next_step() -> None:
    """Every judgement at 100 % begins with the orders that add risk (rule book section 7; recorded item 3)."""
    e = engine(cash=1_000_000.0)
    trade(e, BTC, "buy", 4_000, "cross", leverage=20.0)  # tier 2
    sell = order(e, BTC, "sell", 4_000, "cross", id_=2, price=70_000.0, leverage=20.0)
    assert not isinstance(e.accept(sell), Refusal)
    moved(e, btc=34_000.0)
    names = [x.name for x in e.events]
    assert names[:4] == ["Warned", "Reduced", "OrdersCancelled", "Reduced"]
    assert e.events[1].remaining == 1_000.0  # type: ignore[attr-defined]


def test_a_pair_that_costs_what_it_frees_leaves_a_breach_whatever_the_rounding() -> None:
    """Fee and penalty of a tier-one close are what it frees: the ratio stays at 1, and at 1 a pool is liquidated. The
    side of 1 on which rounding falls may not decide whether the rest of the pool lives.
    """
    for cash in range(1_000, 1_030):
        e = engine(cash=float(cash), hedge=True)
        for id_, (side, leg, size) in enumerate((("buy", "long", 10), ("sell", "short", 5)), 1):
            trade(e, BTC, side, size, "cross", id_=id_, leg=leg, leverage=50.0)
        moved(e, btc=40_000.0)
        assert [x.name for x in e.events] == ["Warned", "Reduced", "Reduced", "Reduced", "TakenOver"]
        assert len(e.events[-1].keys) == 2  # type: ignore[attr-defined]


def test_coins_that_orders_give_are_not_free() -> None:
    """A spot order freezes what it gives; its fee comes out of what it receives."""
    e = engine(cash=10_000.0)
    trade(e, SPOT, "buy", 0.1, "cash", leverage=1.0)
    cash, coins = e.account.balance("USDT"), e.account.balance("BTC")
    assert (cash, coins) == (pytest.approx(4_000.0), pytest.approx(0.1, rel=0.01))
    for id_, side, size in ((2, "buy", 0.04), (3, "sell", 0.05)):
        assert not isinstance(
            e.accept(order(e, SPOT, side, size, "cash", id_=id_, price=50_000.0, leverage=1.0)), Refusal
        )
    assert e.available("USDT") == pytest.approx(cash - 2_000.0)
    assert e.available("BTC") == pytest.approx(coins - 0.05)


@pytest.mark.parametrize("counts", [True, False])
def test_opening_orders_count_in_maintenance_where_the_rules_say_so(counts: bool) -> None:
    """`pending_in_maintenance`: in the tier and in the margin, at the mark (recorded: TIER-PEND)."""
    book = load_rules("okx").overlay(parameters={"orders": {"pending_in_maintenance": counts}})
    e = MarginEngine(Account({"USDT": 1e6}), mode_named("cross"), book, Market(TIME, PRICES, PRICES))
    trade(e, BTC, "buy", 900, "cross")
    assert not isinstance(e.accept(order(e, BTC, "buy", 200, "cross", id_=2, price=50_000.0)), Refusal)
    (pool,) = e.assess().pools
    tiers = e.rules.tiers(BTC)
    size = 1_100.0 if counts else 900.0
    assert tiers.at(1_100.0).number == tiers.at(900.0).number + 1
    assert pool.maintenance_margin == pytest.approx(size * 0.01 * 60_000.0 * tiers.at(size).maintenance)
    assert pool.initial_margin == pytest.approx((900 * 60_000 + 200 * 50_000) * 0.01 / 10)
