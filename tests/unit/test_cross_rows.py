"""The rows of a cross pool whole: what positions, orders and options ask for, and what each row tells besides."""

from __future__ import annotations

from typing import Any

import pytest

from bt_margin.model.account import Order, Position
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes.base import Pool
from bt_margin.modes.cross import CROSS, charges, early_cancellation, early_spare, option_orders
from tests.unit.whole import ETHSWAP, INDEX, PAPER, PRICES, SWAP, TIME

RULES = PAPER.as_of(TIME, "nearest")
CALL, PUT = "BTC/USD:BTC-251226-60000-C", "BTC/USD:BTC-251226-60000-P"
MARKS = {**PRICES, CALL: 0.1, PUT: 0.1}
MARKET = Market(TIME, MARKS, MARKS, {**INDEX, "BTC/USD": 60_000.0}, forwards={"BTC/USD:BTC-251226": 60_000.0})


def pool(held: dict[str, float], *orders: Order, cash: float = 0.0, currency: str = "USDT") -> Pool:
    positions = tuple(Position(RULES.instrument(s), "cross", "net", size, MARKS[s], 10.0) for s, size in held.items())
    return Pool(currency, CROSS, currency, cash, positions, Orders.of(*orders))


def order(number: int, symbol: str, side: str, size: float, price: float | None, **more: Any) -> Order:
    return Order(number, RULES.instrument(symbol), side, size, price, "cross", "net", 10.0, **more)


def rows(of: Pool) -> list[tuple[Any, ...]]:
    return [(c.name, c.unit, float(c.initial), float(c.maintenance), float(c.fee), c.detail)
            for c in charges(of, MARKET, RULES)]


def test_a_position_and_an_order_make_a_row_each_of_one_tier() -> None:
    """400 contracts held and 200 to be opened are 600: tier 2, at 2 %. A lone order opens in tier 1, at 1 %."""
    second, first = ({"tier": n, "rate": rate, "taker": 0.0005} for n, rate in ((2, 0.02), (1, 0.01)))
    buy, close = order(1, SWAP, "buy", 200.0, 60_000.0), order(2, ETHSWAP, "sell", 5.0, 3_000.0, reduce_only=True)
    position = ("position margin", SWAP, 24_000.0, 4_800.0, 120.0, {**second, "notional": 240_000.0})
    opens = ("order margin", SWAP, 12_000.0, 2_400.0, 60.0, {**second, "notional": 120_000.0})
    assert rows(pool({SWAP: 400.0}, buy, close)) == [position, opens]
    assert rows(pool({SWAP: 400.0})) == [
        ("position margin", SWAP, 24_000.0, 2_400.0, 120.0, {**first, "notional": 240_000.0})]
    assert rows(pool({}, buy)) == [
        ("order margin", SWAP, 12_000.0, 1_200.0, 60.0, {**first, "notional": 120_000.0})]
    assert rows(pool({}, close)) == []


def test_two_sides_of_an_instrument_share_a_row_each_at_its_own_leverage() -> None:
    """180,000 long at 10 x and 60,000 short at 5 x, in the tier of both."""
    swap = RULES.instrument(SWAP)
    long, short = ((300.0, 10.0), (-100.0, 5.0))
    both = tuple(Position(swap, "cross", side, size, 60_000.0, leverage)
                 for side, (size, leverage) in (("long", long), ("short", short)))
    assert rows(Pool("USDT", CROSS, "USDT", 0.0, both, Orders())) == [
        ("position margin", SWAP, 30_000.0, 2_400.0, 120.0,
         {"tier": 1, "rate": 0.01, "taker": 0.0005, "notional": 240_000.0})]


def test_an_order_for_an_option_asks_for_initial_margin_only() -> None:
    """A sale reserves the margin of what it opens; a buy against another option opens whole."""
    sale = order(1, CALL, "sell", 100.0, 0.1)
    (row,) = rows(pool({}, sale, currency="BTC"))
    assert (row[0], row[1], row[3], row[4]) == ("order margin", CALL, 0.0, 0.0)
    assert row[2] > 0.1
    buy = order(1, CALL, "buy", 100.0, 0.1)
    given, _, fee = option_orders(pool({PUT: -100.0}, buy, currency="BTC"), buy_queue(buy), MARKET, RULES)
    assert [given, fee] == pytest.approx([0.1, 0.0003])


def buy_queue(one: Order) -> Any:
    (queue,) = Orders.of(one).queues
    return queue


def test_orders_fall_early_below_zero_and_not_at_it() -> None:
    early = PAPER.overlay(parameters={"liquidation": {"early_cancel": "free-margin"}}).as_of(TIME, "nearest")
    buy = order(1, SWAP, "buy", 100.0, 60_000.0)
    lacks = -float(early_spare(pool({SWAP: 100.0}, buy), MARKET, early))
    assert lacks > 12_000.0
    for more, cancelled in ((0.5, ()), (0.0, ()), (-0.5, (1,))):
        assert early_cancellation(pool({SWAP: 100.0}, buy, cash=lacks + more), MARKET, early) == cancelled
    assert early_spare(pool({SWAP: 100.0}, buy, cash=lacks), MARKET, early) == 0.0
