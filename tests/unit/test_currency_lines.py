"""What orders freeze and would lose, and what counts, currency by currency, in an account of several."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from bt_margin.model.account import Account, Order, Position
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.market import Market
from bt_margin.model.number import along
from bt_margin.modes import borrow, currencies, mode_named
from bt_margin.modes.base import Pool
from bt_margin.rules.book import Rules
from tests.unit.whole import PAIR, PAPER, PRICES, SWAP, TIME

RULES = PAPER.as_of(TIME, "nearest")
INVERSE, CALL = "BTC/USD:BTC", "BTC/USD:BTC-251226-60000-C"
INDEXES = {"BTC/USD": 60_000.0, "ETH/USD": 3_000.0, "USDT/USD": 1.0}
MARKET = Market(TIME, {**PRICES, INVERSE: 60_000.0, CALL: 0.1}, {**PRICES, CALL: 0.1}, INDEXES)


def account(balances: dict[str, float], orders: Iterable[Order] = (), off: Iterable[str] = ()) -> Pool:
    whole = Account(balances)
    whole.borrowing = Borrowing(collateral_off=frozenset(off))
    for order in orders:
        whole.place(order)
    (pool,) = mode_named("multi-currency").pools(whole)
    return pool


def spot(number: int, side: str, size: float, price: float | None, mode: str = "cash", **more: object) -> Order:
    return Order(number, RULES.instrument(PAIR), side, size, price, mode, **more)  # type: ignore[arg-type]


def by_name(pool: Pool, rules: Rules = RULES) -> dict[str, currencies.Line]:
    return {line.currency: line for line in currencies.lines(pool, MARKET, rules)}


def test_a_spot_order_gives_its_coins_or_what_they_cost() -> None:
    assert currencies.given(spot(1, "buy", 2.0, 50_000.0), MARKET) == ("USDT", 100_000.0)
    assert currencies.given(spot(1, "buy", 2.0, None), MARKET) == ("USDT", 120_000.0)
    assert currencies.given(spot(1, "sell", 2.0, 50_000.0), MARKET) == ("BTC", 2.0)


def test_orders_for_isolated_loans_hold_their_margin_and_give_no_coins() -> None:
    """1 BTC at 60,000 and half a BTC at 50,000, a fifth of each; a fifth of 0.2 BTC; what closes holds nothing."""
    orders = [
        spot(1, "buy", 1.0, 60_000.0, "isolated", leverage=5.0, margin_currency="USDT"),
        spot(2, "buy", 0.5, 50_000.0, "isolated", leverage=5.0, margin_currency="USDT"),
        spot(3, "buy", 0.2, 50_000.0, "isolated", leverage=5.0, margin_currency="BTC"),
        spot(4, "sell", 9.0, 70_000.0, "isolated", leverage=5.0, margin_currency="USDT", reduce_only=True),
    ]
    without = account({"USDT": 50_000.0}, orders[:3])
    for pool in (account({"USDT": 50_000.0}, orders), without, without.with_order(orders[3])):
        found = by_name(pool)
        assert set(found) == {"USDT", "BTC"}
        assert {name: line.isolated for name, line in found.items()} == pytest.approx({"USDT": 17_000.0, "BTC": 0.04})
        assert {line.given for line in found.values()} == {0.0}


def test_a_coin_of_which_nothing_is_there_needs_no_price() -> None:
    assert set(by_name(account({"USDT": 5.0, "NOBODYS": 0.0}))) == {"USDT"}


def test_what_a_filled_order_would_cost_runs_through_the_tiers_of_the_coin_bought() -> None:
    """10 BTC for 600,000 USDT, of which 9.99 come in: all of them count at 0.9, as 10 BTC would, 20 not."""
    for size, worth in ((10.0, 9.99 * 0.9), (20.0, 10 * 0.9 + 9.98 * 0.8)):
        pool = account({"USDT": 2e6}, [spot(1, "buy", size, 60_000.0)])
        rows = currencies.lines(pool, MARKET, RULES)
        loss = currencies.order_loss(rows, pool.orders, pool, MARKET, RULES)
        assert loss == pytest.approx((size - worth) * 60_000.0)
        assert currencies.adjusted(pool, rows, MARKET, RULES) == pytest.approx(
            {"discounted USDT": 2e6, "spot order loss": -(size - worth) * 60_000.0})
        without = PAPER.overlay(parameters={"multi_currency": {"order_loss": False}}).as_of(TIME, "nearest")
        assert currencies.adjusted(pool, rows, MARKET, without) == pytest.approx({"discounted USDT": 2e6})


def test_what_orders_hold_of_a_coin_that_counts_for_nothing_is_not_missed() -> None:
    """Ten inverse contracts at 50,000 cost 0.05 % of 0.02 BTC."""
    order = Order(1, RULES.instrument(INVERSE), "buy", 10.0, 50_000.0, "cross", "net", 10.0)
    fee = 10 * 100 / 50_000 * 0.0005 * 60_000
    on = account({"USDT": 1_000.0, "BTC": 1.0}, [order])
    parts = currencies.adjusted(on, currencies.lines(on, MARKET, RULES), MARKET, RULES)
    assert parts == pytest.approx({"discounted BTC": 54_000.0, "discounted USDT": 1_000.0, "order fees": -fee})
    off = account({"USDT": 1_000.0, "BTC": 1.0}, [order], off=["BTC"])
    parts = currencies.adjusted(off, currencies.lines(off, MARKET, RULES), MARKET, RULES)
    assert parts == {"discounted BTC": 0.0, "discounted USDT": 1_000.0}


@pytest.mark.parametrize("counts", [True, False])
def test_whether_options_back_an_account_is_a_choice_of_the_rules(counts: bool) -> None:
    """100 calls on 0.01 BTC each, worth 0.1 of it."""
    rules = PAPER.overlay(parameters={"multi_currency": {"option_value": counts}}).as_of(TIME, "nearest")
    whole = Account({"BTC": 1.0})
    whole.adopt(Position(rules.instrument(CALL), "cross", "net", 100.0, 0.1, 1.0))
    (pool,) = mode_named("multi-currency").pools(whole)
    (line,) = currencies.lines(pool, MARKET, rules)
    assert [line.option_value, line.equity] == pytest.approx([0.1, 1.1])
    assert line.backing == pytest.approx(1.1 if counts else 1.0)


def test_premiums_and_isolated_orders_are_told_by_name() -> None:
    """100 calls on 0.01 BTC at 0.1: 0.1 BTC at 60,000."""
    buy = Order(1, RULES.instrument(CALL), "buy", 100.0, 0.1, "cross")
    loan = spot(2, "buy", 1.0, 60_000.0, "isolated", leverage=5.0, margin_currency="USDT")
    pool = account({"USDT": 50_000.0, "BTC": 1.0}, [buy, loan])
    parts = currencies.adjusted(pool, currencies.lines(pool, MARKET, RULES), MARKET, RULES)
    assert (parts["option premiums"], parts["isolated orders"]) == (-6_000.0, -12_000.0)


@pytest.mark.parametrize("amount", [2.0, 0.0, -2.0, math.nan])
def test_what_is_no_number_counts_as_none_alone_and_among_others(amount: float) -> None:
    def counted(held: currencies.Number) -> currencies.Number:
        return currencies.discounted("BTC", held, 60_000.0, frozenset(), RULES)

    alone = counted(amount)
    assert np.array_equal(counted(np.array([amount, 3.0, -1.0])), [alone, counted(3.0), -60_000.0], equal_nan=True)
    assert np.array_equal(np.full(2, counted(np.array([amount, amount]))), [alone, alone], equal_nan=True)
    assert math.isnan(float(alone)) == math.isnan(amount)


@pytest.mark.parametrize("off", [frozenset(), frozenset({"BTC"})])
@pytest.mark.parametrize("amount", [2.0, 0.0, -2.0])
def test_a_price_that_is_no_number_is_never_taken_for_one(amount: float, off: frozenset[str]) -> None:
    def counted(usd: currencies.Number) -> currencies.Number:
        return currencies.discounted("BTC", amount, usd, off, RULES)

    assert math.isnan(float(counted(math.nan)))
    both = along(counted(np.array([math.nan, 60_000.0])), 2)
    assert np.array_equal(both, [math.nan, counted(60_000.0)], equal_nan=True)


@pytest.mark.parametrize(("equity", "owed"), [([1.0, math.nan, -2.0], [0.0, 0.0, 2.5]), ([5.0, 0.5], [0.0, 0.0])])
def test_what_may_be_owed_is_told_for_each_of_many(equity: list[float], owed: list[float]) -> None:
    found = along(borrow.potential_borrow(np.array(equity), 0.5), len(equity))
    alone = [borrow.potential_borrow(x, 0.5) for x in equity]
    assert found.tolist() == owed == alone
    assert {type(x) for x in alone} == {float}


def test_a_part_has_the_orders_of_its_currency_whether_or_not_there_are_others() -> None:
    linear = Order(1, RULES.instrument(SWAP), "buy", 2.0, 59_000.0, "cross", leverage=10)
    inverse = Order(2, RULES.instrument(INVERSE), "buy", 3.0, 59_000.0, "cross", leverage=10)
    coins = spot(3, "sell", 0.5, 61_000.0)
    both = currencies.parts(account({"USDT": 1e5, "BTC": 1.0}, [linear, inverse, coins]))
    assert {name: [order.id for order in part.orders] for name, part in both.items()} == {"BTC": [2], "USDT": [1]}
    legs = [Position(RULES.instrument(symbol), "cross", "net", 1.0, 60_000.0, 10.0) for symbol in (SWAP, INVERSE)]
    held = currencies.parts(replace(account({"USDT": 1e5}), positions=tuple(legs)))
    assert {name: list(part.positions) for name, part in held.items()} == {"BTC": legs[1:], "USDT": legs[:1]}
    one = currencies.parts(account({"USDT": 1e5, "BTC": 1.0}, [linear, coins]))
    assert {name: [order.id for order in part.orders] for name, part in one.items()} == {"USDT": [1]}
    rows = by_name(account({"USDT": 1e5, "BTC": 1.0}, [linear, inverse]))
    taker, units = RULES.fees("swap").taker, [RULES.instrument(symbol).contract_size for symbol in (SWAP, INVERSE)]
    assert rows["USDT"].fees == pytest.approx(2.0 * units[0] * 59_000.0 * taker, rel=1e-15)
    assert rows["BTC"].fees == pytest.approx(3.0 * units[1] / 59_000.0 * taker, rel=1e-15)


def test_a_pool_of_one_currency_is_no_account() -> None:
    with pytest.raises(ValueError, match="pool USDT is not a whole account"):
        currencies.of(Pool("USDT", mode_named("cross"), "USDT", 1e5, ()))


def test_what_is_not_there_needs_no_discount_and_a_little_counts_at_its_rate() -> None:
    nothing = frozenset[str]()
    assert currencies.discounted("NOBODYS", 0.0, 5.0, nothing, RULES) == 0.0
    assert not np.any(currencies.discounted("NOBODYS", np.zeros(2), 5.0, nothing, RULES))
    for coins in ([0.0, 0.5], [0.5, 0.25], [-1.0, 0.5]):
        each = [currencies.discounted("BTC", coin, 60_000.0, nothing, RULES) for coin in coins]
        np.testing.assert_array_equal(currencies.discounted("BTC", np.array(coins), 60_000.0, nothing, RULES), each)
    assert math.isnan(currencies.discounted("NOBODYS", 0.0, math.nan, nothing, RULES))
