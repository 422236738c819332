"""How far the market is from liquidating a pool: against prices that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bt_margin.model.account import Account, Order, Position
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import mode_named, spot_margin
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.cross import CROSS
from bt_margin.modes.distance import distance, holds, is_straight, lowest_gaps, may_be_nearer, straight
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.options import moved
from tests.unit.whole import ETHPAIR, ETHSWAP, INDEX, PAIR, PAPER, PRICES, SWAP, TIME

INVERSE, CALL = "BTC/USD:BTC", "BTC/USD:BTC-251226-60000-C"
BOOK = PAPER.overlay(instruments={INVERSE: {"tiers": [[1e6, 0.01, 0.02, 50]]}})
RULES = BOOK.as_of(TIME, "nearest")
MARKS = {**PRICES, INVERSE: 60_000.0, CALL: 0.1}
MARKET = Market(TIME, MARKS, MARKS, {**INDEX, "BTC/USD": 60_000.0}, forwards={"BTC/USD:BTC-251226": 60_000.0})


def held(symbol: str, size: float, entry: float = 60_000.0) -> Position:
    return Position(RULES.instrument(symbol), "cross", "net", size, entry, 10.0)


def cross(cash: float, *positions: Position, currency: str = "USDT") -> Pool:
    return Pool(currency, CROSS, currency, cash, positions)


def account(balances: dict[str, float], *positions: Position) -> Pool:
    whole = Account(balances)
    whole.borrowing = Borrowing(leverage={"USDT": 2.5})
    for position in positions:
        whole.adopt(position)
    (pool,) = mode_named("multi-currency").pools(whole)
    return pool


def far(pool: Pool, market: Market = MARKET) -> float | None:
    return distance(pool, judge(pool, market, RULES), market, RULES)


LONG, SHORT = held(SWAP, 100.0), held(SWAP, -100.0)
"""One bitcoin at 60,000. 10,525 USDT back the long one down to 50,000: 525 are left, 1 % and 0.05 % of 50,000."""


def test_linear_contracts_by_hand() -> None:
    assert far(cross(10_525.0, LONG)) == pytest.approx(100 / 6)
    up = 10_000.0 + 70_000 * 0.0105
    assert far(cross(up, SHORT)) == pytest.approx(100 / 6)
    both = cross(10_525.0 / 2, held(SWAP, 40.0), held(ETHSWAP, 33.0, 3_000.0))  # 2,400 and 990 USD: all fall together
    equity, value = 10_525.0 / 2, 24_000.0 + 9_900.0
    move = (value * 0.0105 - equity) / (value * (1 - 0.0105))
    assert far(both) == pytest.approx(-100 * move)


def test_inverse_contracts_by_hand() -> None:
    """600 contracts of 100 USD, with 0.2 BTC: 1.2 BTC are the contracts and 1.05 % of them at the price looked for."""
    price = 60_000 * 1.0105 / 1.2
    assert far(cross(0.2, held(INVERSE, 600.0), currency="BTC")) == pytest.approx(100 * (1 - price / 60_000))
    price = 60_000 * (1 - 0.0105) / 0.9
    assert far(cross(0.1, held(INVERSE, -600.0), currency="BTC")) == pytest.approx(100 * (price / 60_000 - 1))


def test_no_move_ends_what_is_paid_for() -> None:
    assert far(cross(60_000.0, LONG)) is None
    assert far(cross(70_000.0, LONG)) is None
    assert far(cross(1.0, held(INVERSE, -600.0), currency="BTC")) is None  # a coin held is a coin owed: a slope of zero
    assert far(cross(1.5, held(INVERSE, -600.0), currency="BTC")) is None
    assert far(account({"USDT": 70_000.0}, LONG)) is None


def test_many_instants_are_what_each_is_alone() -> None:
    prices = np.array([60_000.0, 55_000.0, 200_000.0, 10.0, 51_000.0])
    many = replace(MARKET, marks={**MARKS, SWAP: prices, INVERSE: prices})
    for pool in (cross(10_525.0, LONG), cross(60_000.0, LONG), cross(62_968.5, LONG), cross(10_735.0, SHORT),
                 cross(0.2, held(INVERSE, 600.0), currency="BTC"), cross(1.0, held(INVERSE, -600.0), currency="BTC")):
        found = straight(pool, judge(pool, many, RULES), many)
        assert isinstance(found, np.ndarray)
        for price, away in zip(prices.tolist(), found.tolist(), strict=True):
            one = replace(MARKET, marks={**MARKS, SWAP: price, INVERSE: price})
            alone = straight(pool, judge(pool, one, RULES), one)
            assert away == pytest.approx(alone, nan_ok=True)
    paid = cross(1.0, held(INVERSE, -600.0), currency="BTC")
    assert np.isnan(straight(paid, judge(paid, many, RULES), many)).tolist() == [True] * 5
    # what is judged at one instant, at marks of many; and the other way round
    once = straight(cross(10_525.0, LONG), judge(cross(10_525.0, LONG), MARKET, RULES), many)
    assert np.shape(once) == (5,)
    row = Judgement(np.array([630.0, 10_525.0]), judge(cross(10_525.0, LONG), MARKET, RULES).charges)
    assert straight(cross(10_525.0, LONG), row, MARKET) == pytest.approx([0.0, 100 / 6])


def loan(cash: float, orders: Orders | None = None, mode: Any = CROSS, **more: Any) -> Pool:
    position = MarginPosition(RULES.instrument(PAIR), mode.name, "net", 1.0, 60_000.0, 5.0, direction="long",
                              margin_currency="USDT", assets=1.0, **{"liability": 60_000.0, **more})
    return Pool("loan", mode, "USDT", cash, (position,), orders or Orders())


def test_a_loan_by_hand_with_orders_and_without() -> None:
    """Coins and cash are what is owed and the rate on top of it, at the price looked for."""
    (row,) = judge(loan(12_000.0), MARKET, RULES).charges
    rate = float(spot_margin.required_rate(row.detail["rate"], row.detail["taker"]))
    price = 60_000.0 * (1 + rate) - 12_000.0
    assert 48_000 < price < 52_000
    away = 100 * (1 - price / 60_000)
    assert far(loan(12_000.0)) == pytest.approx(away)
    closing = Orders.of(Order(1, RULES.instrument(PAIR), "sell", 0.5, 70_000.0, "cross", "net", 5.0, reduce_only=True))
    assert far(loan(12_000.0, closing)) == pytest.approx(away, rel=1e-9)
    fee = Orders.of(Order(1, RULES.instrument(SWAP), "buy", 100.0, 60_000.0, "cross", "net", 10.0))
    assert far(loan(12_000.0, fee)) != pytest.approx(away, rel=1e-3)  # an order elsewhere holds a fee and its margin
    assert far(loan(70_000.0)) is None
    one, two = loan(12_000.0), loan(24_000.0)
    ether = RULES.instrument(ETHPAIR)
    second = replace(one.positions[0], instrument=ether, size=20.0, assets=20.0)  # type: ignore[call-arg]
    found = far(replace(two, positions=(*one.positions, second)))
    assert found is not None
    assert abs(found - away) < 1.0  # the coins fall together, the rates of two tables are much alike


def test_an_account_and_a_pool_with_options_are_searched() -> None:
    assert far(account({"USDT": 10_525.0}, LONG)) == pytest.approx(100 / 6, rel=1e-9)
    assert far(account({"USDT": 10_000.0 + 70_000 * 0.0105}, SHORT)) == pytest.approx(100 / 6, rel=1e-9)
    assert far(account({"USDT": 600.0}, LONG)) == 0.0  # it is there: 630 are asked
    mixed = cross(0.2, held(INVERSE, 600.0), held(CALL, 100.0, 0.1), currency="BTC")
    away = far(mixed)
    assert away is not None
    for share, safe in ((0.999, True), (1.001, False)):
        there = moved(MARKET, mixed.positions, -share * away / 100)
        assert (float(judge(mixed, there, RULES).gap) > 0) is safe


@pytest.mark.parametrize(("times", "found"), [(80.0, True), (98.0, True), (105.0, False)])
def test_an_account_is_searched_up_to_a_hundredfold(times: float, found: bool) -> None:
    """A short of one bitcoin that lives until it costs so many times as much."""
    cash = 60_000.0 * (times - 1) + 60_000.0 * times * 0.0105
    away = far(account({"USDT": cash}, SHORT))
    assert away == (pytest.approx(100 * (times - 1), rel=1e-9) if found else None)


def test_what_prices_can_end() -> None:
    assert holds(cross(1.0, LONG))
    assert not holds(cross(1.0))
    assert not holds(cross(1.0, held(CALL, 1.0, 0.1), currency="BTC"))
    assert holds(cross(1.0, held(CALL, -1.0, 0.1), currency="BTC"))
    assert holds(account({"USDT": 1.0}, LONG))
    assert holds(account({"USDT": -1.0, "BTC": 1.0}))
    assert not holds(account({"USDT": 1.0, "BTC": 1.0}))
    assert [holds(pool) is True or holds(pool) is False for pool in (cross(1.0), account({"USDT": 1.0}))] == [True] * 2


def test_what_has_a_closed_form() -> None:
    assert is_straight(cross(1.0, LONG, held(ETHSWAP, 1.0)))
    assert is_straight(cross(1.0, held(INVERSE, 1.0), currency="BTC"))
    assert not is_straight(cross(1.0))
    assert not is_straight(cross(1.0, LONG, held(INVERSE, 1.0)))
    assert not is_straight(cross(1.0, held(CALL, 1.0)))
    assert not is_straight(loan(1.0))
    assert not is_straight(account({"USDT": 1.0}, LONG))


def test_a_look_tells_what_may_be_nearer() -> None:
    """16.7 % down for the long one, up for the short one."""
    for pool in (account({"USDT": 10_525.0}, LONG), account({"USDT": 10_735.0}, SHORT)):
        assert [may_be_nearer(pool, low, MARKET, RULES) for low in (10.0, 16.5, 16.8, 30.0, None)] == [
            False, False, True, True, True]
    assert may_be_nearer(cross(50_000.0, LONG), 1.0, MARKET, RULES)  # the closed form costs less than a look
    paid = account({"USDT": 70_000.0}, LONG)
    assert not may_be_nearer(paid, None, MARKET, RULES)
    assert not may_be_nearer(account({"USDT": 62_000.0}, LONG), 150.0, MARKET, RULES)  # no price falls below zero
    assert may_be_nearer(loan(12_000.0), 20.0, MARKET, RULES)
    assert not may_be_nearer(loan(12_000.0), 10.0, MARKET, RULES)
    mixed = cross(0.2, held(INVERSE, 600.0), held(CALL, 1.0, 0.1), currency="BTC")
    assert not may_be_nearer(mixed, 5.0, MARKET, RULES)
    debt = account({"USDT": -390_000.0, "ETH": 1_000.0}, held(SWAP, 500.0))
    assert may_be_nearer(debt, 10.0, MARKET, RULES)  # 30,000 USDT more than the last tier lends: nobody knows


@pytest.mark.parametrize("low", [None, 5.0, 30.0])
@pytest.mark.parametrize("count", [1, 3, 5_000])
@pytest.mark.parametrize("position", [LONG, held(SWAP, -4.0)], ids=["long", "short"])
def test_the_lowest_gaps_of_many_instants_are_those_of_each(position: Position, low: float | None, count: int) -> None:
    prices = np.linspace(50_000.0, 70_000.0, count) if count > 1 else np.array([60_000.0])
    pool = account({"USDT": 10_525.0, "ETH": 3.0 if position is LONG else 0.3}, position)
    path = replace(MARKET, marks={**MARKS, SWAP: prices}, lasts={}, indexes={**INDEX, PAIR: prices, "BTC/USD": prices})
    found = lowest_gaps(pool, low, path, RULES)
    assert found.shape == (count,)
    moves = [-0.05, 0.05] if low == 5.0 else [-0.3, 0.3] if low == 30.0 else [-0.999, 99.0]
    for i in {0, count // 2, count - 1}:
        one = path.one(i, TIME)
        gaps = [float(judge(pool, moved(one, pool.positions, move), RULES).gap) for move in moves]
        assert found[i] == pytest.approx(min(gaps))
    some = np.array([count - 1, 0, count // 2])
    np.testing.assert_array_equal(lowest_gaps(pool, low, path, RULES, some), found[some])
    assert lowest_gaps(pool, low, MARKET, RULES).shape == (1,)


def test_isolated_is_by_its_own_margin() -> None:
    one = replace(LONG, margin_mode="isolated", margin=10_525.0)
    pool = Pool("one", ISOLATED, "USDT", 10_525.0, (one,))
    assert far(pool) == pytest.approx(100 / 6)
