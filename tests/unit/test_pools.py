"""What a pool says of itself, and what it would be without a part of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bt_margin.errors import InputError
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.market import Market
from bt_margin.modes import currencies, mode_named
from bt_margin.modes.base import Pool, keep_orders, never_short
from bt_margin.modes.cross import CROSS
from bt_margin.modes.isolated import ISOLATED
from tests.unit.whole import ETHSWAP, PAPER, PRICES, SWAP, TIME

RULES = PAPER.as_of(TIME, "nearest")
MARKET = Market(TIME, PRICES, PRICES)
LONG, SHORT = (Position(RULES.instrument(symbol), "cross", "net", size, price, 10.0)
               for symbol, size, price in ((SWAP, 100.0, 50_000.0), (ETHSWAP, -50.0, 3_200.0)))
POOL = Pool("USDT", CROSS, "USDT", 10.0, (LONG, SHORT))


def order(number: int, size: float) -> Order:
    return Order(number, LONG.instrument, "buy", size, 55_000.0, "cross", "net", 10.0)


def test_without_a_position_or_part_of_it_the_others_stay() -> None:
    assert POOL.without(LONG.key, -100.0).positions == (SHORT,)
    assert POOL.without(LONG.key, -40.0).positions == (replace(LONG, size=60.0), SHORT)
    assert POOL.without(SHORT.key, 50.0).positions == (LONG,)


def test_without_a_position_an_account_has_what_it_had_won() -> None:
    """40 of 100 contracts of 0.01 BTC had won 10,000 a coin: 4,000 USDT."""
    account = Account({"USDT": 5.0})
    account.adopt(LONG)
    (pool,) = mode_named("multi-currency").pools(account)
    assert currencies.of(pool.without(LONG.key, -40.0)).balances == {"USDT": 5.0}
    assert currencies.of(pool.without(LONG.key, -40.0, MARKET)).balances == {"USDT": 4_005.0}


def test_an_order_that_is_there_already_takes_its_own_place() -> None:
    first, other, again = order(1, 5.0), order(2, 6.0), order(1, 7.0)
    both = POOL.with_order(first).with_order(other)
    assert [(one.id, one.size) for one in both.orders] == [(1, 5.0), (2, 6.0)]
    assert [(one.id, one.size) for one in both.with_order(again).orders] == [(2, 6.0), (1, 7.0)]
    assert [one.id for one in both.without_order(1).orders] == [2]
    assert both.without_order(3) is both
    assert not both.bare.orders


def test_a_mode_without_early_cancellation_cancels_nothing() -> None:
    assert ISOLATED.early is keep_orders
    assert keep_orders(POOL, MARKET, RULES) == ()
    assert ISOLATED.spare is never_short
    assert never_short(POOL, MARKET, RULES) == math.inf


def test_a_pool_of_one_currency_is_no_account() -> None:
    with pytest.raises(ValueError, match="USDT is not a whole account"):
        currencies.of(POOL)


def test_a_mode_that_is_not_known_is_named_beside_those_that_are() -> None:
    with pytest.raises(InputError, match="expected one of isolated, cross, multi-currency, portfolio, found 'hedged'"):
        mode_named("hedged")
