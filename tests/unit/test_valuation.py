"""Pools, and what the modes share, called by itself: what only shows where an account is of one special make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bt_margin.model.account import Account, Order, Position
from bt_margin.model.instrument import Instrument, Kind
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes.base import Pool
from bt_margin.modes.cross import CROSS
from bt_margin.modes.exposure import exposures, opening_queues
from bt_margin.modes.isolated import ISOLATED, pool_name
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from bt_margin.modes.valuation import (
    forced_size,
    margin_of,
    order_initial,
    order_price,
    order_prices,
    price_at_gap_zero,
    taker,
    value_of,
)
from bt_margin.rules.book import Rules, load_rules

SYMBOL = "BTC/USDT:USDT"
NEW, OLD = 1_767_100_000_000, 1_585_000_000_000  # 2025-12-30, 2020-03-23
ONE = {"contract_size": 1.0, "tick": 0.1, "lot": 0.1}
LADDER = [[10, 0.01, 0.02, 50], [20, 0.02, 0.03, 33], [30, 0.03, 0.04, 25], [40, 0.04, 0.05, 20]]


def rules_at(time: int) -> Rules:
    return load_rules("okx").overlay(instruments={SYMBOL: {**ONE, "tiers": LADDER}}).as_of(time, "nearest")


def market(time: int, mark: float = 100.0) -> Market:
    return Market(time, {SYMBOL: mark}, {SYMBOL: mark})


def order(rules: Rules, side: str, size: float, id_: int = 1, leg: str = "net", **more: Any) -> Order:
    return Order(id_, rules.instrument(SYMBOL), side, size, 100.0, "cross", leg, 10.0, **more)


def held(rules: Rules, size: float, leg: str = "net") -> Position:
    return Position(rules.instrument(SYMBOL), "cross", leg, size, 100.0, 10.0)


def ordered(rules: Rules, positions: list[Position], orders: list[Order], time: int = NEW) -> float:
    resting = Orders.of(*orders)
    (exposure,) = exposures(positions, resting, opening_queues(positions, resting.queues))
    return float(order_initial(exposure, market(time), rules))


def test_a_fee_for_each_kind() -> None:
    fees = {"spot": 0.01, "swap": 0.02, "future": 0.03, "option": 0.04}
    rules = load_rules("okx").overlay(fees={k: {"taker": fee} for k, fee in fees.items()}).as_of(NEW, "nearest")
    found = {kind: taker(Instrument("X", kind, "BTC", "USDT", "USDT", 1.0, 0.1, 1.0), rules) for kind in Kind}
    assert found == {
        Kind.SPOT: 0.01, Kind.LINEAR_SWAP: 0.02, Kind.INVERSE_SWAP: 0.02,
        Kind.LINEAR_FUTURE: 0.03, Kind.INVERSE_FUTURE: 0.03, Kind.OPTION: 0.04,
    }


def test_closing_orders_take_no_part_in_the_larger_side() -> None:
    """Rule book 6.2: S - P against P. A long of 4, sells of 6 that may open, and 4 that only close: S is 6."""
    rules = rules_at(NEW)
    sells = [order(rules, "sell", 6.0, 1), order(rules, "sell", 4.0, 2, reduce_only=True)]
    assert ordered(rules, [held(rules, 4.0)], sells) == 0.0
    assert ordered(rules, [held(rules, 4.0)], [*sells, order(rules, "sell", 4.0, 3)]) == pytest.approx(20.0)


@pytest.mark.parametrize("size", [0.5, 1.0, 4.0, -0.5, -4.0])
def test_the_larger_side_of_a_small_position_too(size: float) -> None:
    """Long max(P + B, S - P) / leverage, short max(B - P, P + S) / leverage, above P / leverage (rule book 6.2)."""
    rules, p = rules_at(NEW), abs(size)
    orders = [order(rules, "buy", 3.0, 1), order(rules, "sell", 5.0, 2)]
    larger = max(p + 3.0, 5.0 - p) if size > 0 else max(3.0 - p, p + 5.0)
    assert ordered(rules, [held(rules, size)], orders) == pytest.approx((larger - p) * 100.0 / 10.0)


def test_both_sides_add_in_hedge_mode_and_before_november_2024() -> None:
    """Rule book 6.2, OKX announcement of 2024-10-24."""
    new, old = rules_at(NEW), rules_at(OLD)
    assert (new.orders.one_way, old.orders.one_way) == ("larger-side", "both-sides")
    hedge = [order(new, "buy", 3.0, 1, "long"), order(new, "sell", 5.0, 2, "short")]
    assert ordered(new, [held(new, 4.0, "long")], hedge) == pytest.approx((3.0 + 5.0) * 10.0)
    net = [order(old, "buy", 3.0, 1), order(old, "sell", 5.0, 2)]
    assert ordered(old, [held(old, 4.0)], net, OLD) == pytest.approx((3.0 + 1.0) * 10.0)  # the sell opens 1


def test_a_coin_order_needs_no_mark() -> None:
    pair = load_rules("okx").as_of(NEW, "nearest").instrument("BTC/USDT")
    for side in ("buy", "sell"):
        assert order_price(Order(1, pair, side, 1.0, 90.0, "cash"), Market(NEW, {}, {"BTC/USDT": 100.0})) == 90.0


def test_down_two_tiers_while_the_first_rate_holds() -> None:
    """Official until about 2025-05 (rule book section 7): whole up to tier 2, above it down two tiers, or whole."""
    rules = rules_at(OLD)
    assert rules.liquidation.step == "two-tiers"

    def cut(size: float, spare: float) -> float:
        pool = Pool("USDT", CROSS, "USDT", 0.0, (held(rules, size),))
        return forced_size(pool.positions[0], pool, market(OLD), rules, spare)

    assert [cut(size, -1.0) for size in (5.0, 10.0, 15.0, -20.0)] == [5.0, 10.0, 15.0, 20.0]
    assert [cut(size, -1.0) for size in (25.0, -35.0)] == [15.0, 15.0]  # to the ceilings of tiers 1 and 2
    relief = 25.0 * 100.0 * (0.03 - 0.01)
    assert [cut(25.0, 0.5 - relief), cut(25.0, -relief), cut(25.0, -0.5 - relief)] == [15.0, 25.0, 25.0]


def test_what_is_to_spare_is_in_the_money_of_the_pool() -> None:
    """25 contracts of 100 USDT at 2 % less: 50 USDT of relief, which are 25 USD of an account at half a dollar each."""
    rules = rules_at(OLD)
    here = Market(OLD, {SYMBOL: 100.0}, {SYMBOL: 100.0}, {"USDT/USD": 0.5})
    account = Account({"USDT": 1.0})
    account.adopt(held(rules, 25.0))
    (whole,) = MULTI_CURRENCY.pools(account)
    pool = Pool("USDT", CROSS, "USDT", 1.0, whole.positions)
    assert [forced_size(pool.positions[0], pool, here, rules, -spare) for spare in (20.0, 30.0, 55.0)] == [15, 15, 25]
    assert [forced_size(pool.positions[0], whole, here, rules, -spare) for spare in (20.0, 30.0)] == [15.0, 25.0]


def test_what_is_left_of_a_cut_lies_within_the_tier() -> None:
    """A ceiling between two lots of 0.1: 10.0 are left, not 10.1."""
    tiers = [[10.05, 0.01, 0.02, 50], [20, 0.02, 0.03, 33], [30, 0.03, 0.04, 25]]
    book = load_rules("okx").overlay(instruments={SYMBOL: {**ONE, "tiers": tiers}})
    for time, size in ((OLD, 25.0), (NEW, 15.0)):  # two tiers down, one tier down
        rules = book.as_of(time, "nearest")
        pool = Pool("USDT", CROSS, "USDT", 0.0, (held(rules, size),))
        assert forced_size(pool.positions[0], pool, market(time), rules, -1.0) == pytest.approx(size - 10.0)


def test_a_price_moves_its_own_contracts_alone() -> None:
    """Ten at 100 with 2 % of them to be kept: each unit of price is 9.8, whatever else the pool holds."""
    rules = rules_at(NEW)
    other = Position(rules.instrument("ETH/USDT:USDT"), "cross", "net", 700.0, 3_000.0, 10.0)
    pool = Pool("USDT", CROSS, "USDT", 0.0, (held(rules, 10.0), other))
    assert price_at_gap_zero(pool.positions[0], pool, 196.0, 0.02, 100.0) == pytest.approx(80.0)


def test_down_one_tier_by_what_the_family_holds() -> None:
    rules = rules_at(NEW)
    legs = (held(rules, 22.0, "long"), held(rules, -6.0, "short"))
    pool = Pool("USDT", CROSS, "USDT", 0.0, legs)
    assert [forced_size(leg, pool, market(NEW), rules, -1.0) for leg in legs] == [8.0, 6.0]  # 28 down to 20


def test_isolated_pools_are_named_by_side_and_own_their_orders() -> None:
    rules = rules_at(NEW)
    account = Account({"USDT": 1e6}, "hedge")
    for size, leg in ((4.0, "long"), (-15.0, "short")):
        account.adopt(Position(rules.instrument(SYMBOL), "isolated", leg, size, 90.0, 10.0, 200.0))
    for id_, leg, mode in ((1, "long", "isolated"), (2, "short", "isolated"), (3, "long", "cross")):
        account.place(Order(id_, rules.instrument(SYMBOL), "buy", 1.0, 100.0, mode, leg, 10.0))
    long, short = ISOLATED.pools(account)
    assert [(p.name, [o.id for o in p.orders]) for p in (long, short)] == [
        (f"{SYMBOL} isolated long", [1]), (f"{SYMBOL} isolated short", [2])
    ]
    assert pool_name(held(rules, 1.0)) == f"{SYMBOL} isolated"
    assert (short.mode, short.currency, short.cash) == (ISOLATED, "USDT", 200.0)
    (row,) = ISOLATED.charges(short, market(NEW), rules)
    fee = taker(rules.instrument(SYMBOL), rules)
    assert (row.name, row.unit) == ("position margin", SYMBOL)
    assert (row.initial, row.maintenance, row.fee) == pytest.approx((135.0, 30.0, 1_500.0 * fee))
    assert row.detail == {"tier": 2, "rate": 0.02, "taker": fee, "notional": 1_500.0}


MIXES = [(100.0, 100.0), (90.0, 130.0), (None, None), (None, 90.0), (130.0, None), (80.0,), (None,),
         (130.0, 140.0, 150.0)]


@pytest.mark.parametrize("symbol", [SYMBOL, "BTC/USD:BTC", "BTC/USDT"])
@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("prices", MIXES)
def test_a_queue_is_priced_order_by_order(symbol: str, side: str, prices: tuple[float | None, ...]) -> None:
    """At one mark, at marks that all of the orders lie beyond or within, at last prices of many instants."""
    instrument = rules_at(NEW).instrument(symbol)
    mode = "cash" if instrument.is_spot else "cross"
    orders = [Order(n, instrument, side, 2.0 + n, price, mode, "net", 5.0 + n) for n, price in enumerate(prices)]
    (queue,) = Orders.of(*orders).queues
    for marks in (100.0, np.array([100.0, 120.0]), np.array([10.0, 20.0]), np.array([1_000.0, 2_000.0])):
        for lasts in (110.0, np.array([105.0, 95.0])):
            here = Market(NEW, {symbol: marks}, {symbol: lasts})
            found, known = order_prices(queue, here), [order_price(one, here) for one in orders]
            assert len(found) == len(known)
            for one, other in zip(found, known, strict=True):
                assert np.array_equal(np.broadcast_to(one, 2), np.broadcast_to(other, 2))
            value = sum(instrument.notional(one.size, price) for one, price in zip(orders, known, strict=True))
            margin = sum(instrument.notional(one.size, price) / one.leverage
                         for one, price in zip(orders, known, strict=True))
            assert value_of(queue, here, 0.5) == pytest.approx(0.5 * value)
            assert margin_of(queue, here) == pytest.approx(margin)
