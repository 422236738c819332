"""The steps of a liquidation, one by one, on pools that have exactly one of their cases."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from bt_margin.model.account import Order, Position
from bt_margin.model.borrowing import Holdings
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import ladder
from bt_margin.modes.base import CancelOrders, Close, Pool
from bt_margin.modes.cross import CROSS, charges
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from bt_margin.rules.book import load_rules

TIME = 1_767_100_000_000  # 2025-12-30: one tier at a time
SWAP, FUTURE, ETH, PAIR = "BTC/USDT:USDT", "BTC/USDT:USDT-260327", "ETH/USDT:USDT", "BTC/USDT"
CALL, PUT = "BTC/USD:BTC-260327-100000-C", "BTC/USD:BTC-260327-80000-P"
ROWS = [[10, 0.01, 0.02, 50], [20, 0.02, 0.03, 33], [30, 0.03, 0.04, 25]]
RULES = load_rules("okx").overlay(instruments={
    SWAP: {"contract_size": 1.0, "tick": 0.1, "lot": 1, "tiers": ROWS},
    FUTURE: {"contract_size": 0.1, "tick": 0.1, "lot": 1, "tiers": [[10 * row[0], *row[1:]] for row in ROWS]},
    ETH: {"contract_size": 1.0, "tick": 0.1, "lot": 1, "tiers": ROWS},
}).as_of(TIME, "nearest")
MARKS = {PAIR: 100.0, SWAP: 100.0, FUTURE: 100.0, ETH: 10.0, CALL: 0.05, PUT: 0.05}
MARKET = Market(TIME, MARKS, MARKS, {"BTC/USD": 90_000.0}, forwards={"BTC/USD:BTC-260327": 90_000.0})


def held(symbol: str, size: float, mode: str = "cross", leg: str = "net", margin: float = 0.0) -> Position:
    return Position(RULES.instrument(symbol), mode, leg, size, MARKS[symbol], 10.0, margin)


def pool(*positions: Position, orders: tuple[Order, ...] = (), currency: str = "USDT", **more: Any) -> Pool:
    return Pool(currency, more.pop("mode", CROSS), currency, 1.0, positions, Orders.of(*orders), **more)


def closes(answer: Any) -> list[tuple[str, float, str]]:
    assert isinstance(answer, tuple)
    assert all(isinstance(one, Close) for one in answer)
    return [(one.key.symbol, one.size, one.step) for one in answer]


@pytest.mark.parametrize(("long", "short"), [(22.0, 6.0), (6.0, 22.0)])
def test_a_pair_is_closed_as_far_as_the_smaller_leg_reaches(long: float, short: float) -> None:
    both = pool(held(SWAP, long, leg="long"), held(SWAP, -short, leg="short"), held(ETH, 4.0, leg="long"))
    answer = ladder.hedged_pairs(both, MARKET, RULES)
    assert closes(answer) == [(SWAP, -6.0, "hedged pair"), (SWAP, 6.0, "hedged pair")]
    assert closes(ladder.hedged_pairs(pool(held(SWAP, long), held(ETH, -4.0)), MARKET, RULES)) == []


def test_a_delta_pair_is_cut_by_the_forced_order_of_the_larger_margin() -> None:
    """22.5 BTC of futures (tier 3) against 6 of swaps (tier 1): 2.5 BTC down to tier 2, in whole lots on each side."""
    for sign in (1.0, -1.0):
        answer = ladder.delta_neutral(pool(held(FUTURE, sign * 225), held(SWAP, -sign * 6.0)), MARKET, RULES)
        assert sorted(closes(answer)) == [
            (SWAP, sign * 2.0, "delta-neutral pair"), (FUTURE, -sign * 25.0, "delta-neutral pair")
        ]
    answer = ladder.delta_neutral(pool(held(FUTURE, 15.0), held(SWAP, -9.0)), MARKET, RULES)  # no further than 1.5 BTC
    assert closes(answer) == [(FUTURE, -15.0, "delta-neutral pair"), (SWAP, 1.0, "delta-neutral pair")]
    assert closes(ladder.delta_neutral(pool(held(FUTURE, 3.0), held(SWAP, -9.0)), MARKET, RULES)) == []  # no lot
    for others in ((held(FUTURE, 15.0), held(SWAP, 9.0)), (held(SWAP, 9.0), held(ETH, -9.0))):
        assert closes(ladder.delta_neutral(pool(*others), MARKET, RULES)) == []


def test_options_are_no_half_of_a_delta_pair() -> None:
    """What moves with a coin at a changing pace is not cut by its delta."""
    for option in (held(CALL, -500.0), held(PUT, -500.0)):
        answer = ladder.delta_neutral(pool(held(SWAP, 9.0), option), MARKET, RULES)
        assert closes(answer) == []
    assert closes(ladder.delta_neutral(pool(held(SWAP, 9.0)), MARKET, RULES)) == []


def test_what_frees_most_is_margin_and_fee_together() -> None:
    """20 coins of 100 USDT at 1 % and a fee of 0.05 %: 21 USDT. 102 coins of 10 USDT at 2 % and 0.05 %: 20.91, of which
    more is margin; 103 coins: 21.115."""
    rules = load_rules("okx").overlay(
        instruments={SWAP: {"contract_size": 1.0, "tick": 0.1, "lot": 1, "tiers": [[100, 0.01, 0.02, 50]]},
                     ETH: {"contract_size": 1.0, "tick": 0.1, "lot": 1, "tiers": [[1_000, 0.02, 0.04, 25]]}},
        fees={"swap": {"maker": 0.0, "taker": 0.0005}},
    ).as_of(TIME, "nearest")
    for ethers, first in ((102.0, (SWAP, -20.0)), (103.0, (ETH, -103.0))):
        both = pool(held(SWAP, 20.0), held(ETH, ethers))
        answer = ladder.unhedged_largest_relief(charges, both, MARKET, rules)
        assert closes(answer) == [(*first, "unhedged position")]


def test_a_loan_is_ranked_by_its_own_margin() -> None:
    """Two longs of 100 USDT a coin: 4 coins borrowed for, at 3 % or more of their debt, beside 2 contracts at 1 %."""
    loan = MarginPosition(RULES.instrument(PAIR), "cross", "net", 4.0, 100.0, 10.0, direction="long",
                          margin_currency="USDT", assets=4.0, liability=400.0)
    answer = ladder.delta_neutral(pool(loan, held(SWAP, 2.0), held(FUTURE, -30.0)), MARKET, RULES)
    assert sorted(closes(answer)) == [(PAIR, -3.0, "delta-neutral pair"), (FUTURE, 30.0, "delta-neutral pair")]


def test_the_position_that_frees_most_goes_first_wherever_it_stands() -> None:
    first = pool(held(SWAP, 9.0), held(ETH, 9.0))
    assert closes(ladder.unhedged_largest_relief(charges, first, MARKET, RULES)) == [(SWAP, -9.0, "unhedged position")]
    last = pool(held(SWAP, 1.0), held(ETH, -30.0))  # 10 of 30 down a tier free more than one coin whole
    assert closes(ladder.unhedged_largest_relief(charges, last, MARKET, RULES)) == [(ETH, 10.0, "unhedged position")]


def test_bought_options_are_not_reduced_sold_ones_whole() -> None:
    bought, sold = held(CALL, 1.0), held(PUT, -50.0)
    step = partial(ladder.unhedged_largest_relief, charges)
    assert closes(step(pool(bought, currency="BTC"), MARKET, RULES)) == []
    assert closes(step(pool(bought, sold, currency="BTC"), MARKET, RULES)) == [(PUT, 50.0, "unhedged position")]


def test_isolated_goes_down_a_tier_or_is_taken_over() -> None:
    for size, cut in ((22.0, [(SWAP, -2.0, "tier step-down")]), (-9.0, [])):
        one = pool(held(SWAP, size, "isolated", margin=1.0), mode=ISOLATED)
        assert closes(ladder.tier_step_down(one, MARKET, RULES)) == cut
        assert closes(ladder.takeover(one, MARKET, RULES)) == [(SWAP, -size, "takeover")]


def order(id_: int, symbol: str, side: str, size: float, **more: Any) -> Order:
    return Order(id_, RULES.instrument(symbol), side, size, 100.0, more.pop("mode", "cross"), "net", 10.0, **more)


def test_what_only_reduces_stays_in_cross_and_goes_in_isolated() -> None:
    long = held(SWAP, 9.0)
    orders = (
        order(1, SWAP, "buy", 1.0), order(2, SWAP, "sell", 4.0), order(3, SWAP, "sell", 4.0, reduce_only=True),
        order(4, PAIR, "sell", 1.0, reduce_only=True), order(5, PAIR, "buy", 1.0, mode="cash"),
    )
    assert ladder.cancel_orders(pool(long, orders=orders), MARKET, RULES) == (CancelOrders((1, 5)),)
    whole = pool(long, orders=orders, mode=MULTI_CURRENCY, holdings=Holdings({"USDT": 1.0}, {}))
    assert ladder.cancel_orders(whole, MARKET, RULES) == (CancelOrders((1, 4, 5)),)
    alone = pool(held(SWAP, 9.0, "isolated"), orders=orders[1:3], mode=ISOLATED)
    assert ladder.cancel_orders(alone, MARKET, RULES) == (CancelOrders((2, 3)),)
    assert ladder.cancel_orders(pool(long, orders=orders[1:3]), MARKET, RULES) == ()
    assert ladder.cancel_orders(pool(orders=orders[1:3]), MARKET, RULES) == (CancelOrders((2,)),)  # nothing to reduce
    small = order(6, SWAP, "sell", 1.0)
    assert ladder.cancel_orders(pool(orders=(small,)), MARKET, RULES) == (CancelOrders((6,)),)
    assert ladder.cancel_the_rest(pool(long, orders=orders[1:3]), MARKET, RULES) == (CancelOrders((2, 3)),)
    assert ladder.cancel_the_rest(pool(long), MARKET, RULES) == ()
