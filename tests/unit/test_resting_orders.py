"""Queues of resting orders: what they hold, what of them opens, and what they are worth, against order by order."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin.model.account import Account, Order
from bt_margin.model.instrument import Instrument, Kind
from bt_margin.model.market import Market
from bt_margin.model.number import Number
from bt_margin.model.orders import Orders, Queue
from bt_margin.modes.valuation import margin_of, order_price, order_prices, value_of

LINEAR = Instrument("BTC/USDT:USDT", Kind.LINEAR_SWAP, "BTC", "USDT", "USDT", 0.01, 0.1, 0.1)
INVERSE = Instrument("BTC/USD:BTC", Kind.INVERSE_SWAP, "BTC", "USD", "BTC", 100.0, 0.1, 1.0)
PAIR = Instrument("BTC/USDT", Kind.SPOT, "BTC", "USDT", "USDT", 1.0, 0.1, 1e-8)

some_orders = st.builds(
    lambda id_, instrument, side, lots, price, mode, leg, leverage, closing, collateral, reverse: Order(
        id_, instrument, side, lots * instrument.lot, price, "isolated" if instrument is PAIR and mode == "cross"
        else mode if instrument is PAIR or mode != "cash" else "cross", "net" if instrument is PAIR else leg, leverage,
        closing, collateral if instrument is PAIR and mode != "cash" else "", reverse,
    ),
    st.integers(1, 12), st.sampled_from([LINEAR, INVERSE, PAIR]), st.sampled_from(["buy", "sell"]),
    st.integers(1, 40), st.none() | st.floats(50.0, 200.0), st.sampled_from(["cash", "isolated", "cross"]),
    st.sampled_from(["net", "long", "short"]), st.sampled_from([1.0, 3.0, 7.0, 10.0]), st.booleans(),
    st.sampled_from(["BTC", "USDT"]), st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), some_orders), max_size=30))
def test_queues_hold_what_rests_in_order_of_arrival(steps: list[tuple[bool, Order]]) -> None:
    account = Account()
    for away, order in steps:
        before, there = account.resting, list(account.resting)
        if away:
            account.withdraw(order.id)
        else:
            account.place(order)
        assert list(before) == there  # a value: what was looked at stays as it was
        assert list(account.resting) == list(account.orders.values())
        assert len(account.resting) == len(account.orders)
        for queue in account.resting.queues:
            shared = {(o.key, o.side, o.closes) for o in queue.orders}
            assert len(shared) == 1
            assert queue.ids == tuple(o.id for o in queue.orders)
            assert queue.currencies >= {o.currency for o in queue.orders}
            assert queue.sizes.tolist() == [o.size for o in queue.orders]
    paid = {c: [o for o in account.orders.values() if o.currency == c] for c in ("BTC", "USDT")}
    assert {c: list(account.resting.paid_in(c)) for c in paid} == paid


@settings(max_examples=100, deadline=None)
@given(st.lists(some_orders, min_size=1, max_size=20, unique_by=lambda order: order.id), st.integers(-60, 60))
def test_what_opens_is_what_is_left_once_the_position_is_used_up(orders: list[Order], lots: int) -> None:
    for queue in Orders.of(*orders).queues:
        held = queue.head.instrument.snap(lots * queue.head.instrument.lot)
        left, expected = held, []
        for order in queue.orders:
            opens, left = order.meets(left)
            if opens:
                expected.append((order.id, opens))
        opening = queue.opening(held)
        assert list(zip(opening.ids, opening.sizes.tolist(), strict=True)) == expected
        assert [(o.id, o.size) for o in opening.orders] == expected
        assert queue.leaves(held) == left
        assert opening.size == reduce(lambda a, b: a + b, (size for _, size in expected), 0.0)


def assert_same(found: Number, expected: Number, price: Number) -> None:
    """Equal bits, at every instant that there is."""
    shape = np.shape(price)
    np.testing.assert_array_equal(np.broadcast_to(found, shape), np.broadcast_to(expected, shape))


def one_by_one(queue: Queue, each: Callable[[Order], Number]) -> Number:
    return reduce(lambda total, order: total + each(order), queue.orders, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(some_orders, min_size=1, max_size=20, unique_by=lambda order: order.id),
       st.lists(st.floats(40.0, 220.0), min_size=1, max_size=5), st.booleans())
def test_a_queue_is_worth_what_its_orders_are_to_the_last_bit(orders: list[Order], marks: list[float],
                                                              many: bool) -> None:
    price: Number = np.array(marks) if many else marks[0]
    symbols = [i.symbol for i in (LINEAR, INVERSE, PAIR)]
    market = Market(0, dict.fromkeys(symbols, price), dict.fromkeys(symbols, price))
    for queue in Orders.of(*orders).queues:
        if queue.head.instrument is PAIR and not queue.head.is_cash:
            continue  # margined by another rule
        prices = [order_price(order, market) for order in queue.orders]
        for found, expected in zip(order_prices(queue, market), prices, strict=True):
            assert_same(found, expected, price)
        for found, expected in (
            (value_of(queue, market, 0.0005),
             one_by_one(queue, lambda o: o.instrument.notional(o.size, order_price(o, market)) * 0.0005)),
            (margin_of(queue, market),
             one_by_one(queue, lambda o: o.instrument.notional(o.size, order_price(o, market)) / o.leverage)),
        ):
            assert_same(found, expected, price)


def test_an_order_that_takes_anothers_place_keeps_it() -> None:
    account = Account()
    for id_ in (1, 2, 3):
        account.place(Order(id_, LINEAR, "buy", float(id_), 90.0, "cross"))
    account.place(Order(2, LINEAR, "sell", 5.0, 110.0, "cross"))
    assert [o.id for o in account.resting] == [1, 2, 3]
    account.place(Order(2, LINEAR, "buy", 7.0, 80.0, "cross"))
    (queue,) = account.resting.queues
    assert (queue.ids, queue.sizes.tolist()) == ((1, 2, 3), [1.0, 7.0, 3.0])
    account.place(Order(4, INVERSE, "buy", 1.0, 90.0, "cross"))
    for id_ in (1, 2, 3):
        account.place(Order(id_, LINEAR, "buy", 9.0, 90.0, "cross"))  # the queue, too, stays before what came later
    assert [queue.head.symbol for queue in account.resting.queues] == [LINEAR.symbol, INVERSE.symbol]
    account.withdraw(2)
    account.withdraw(3)
    account.place(Order(1, LINEAR, "buy", 8.0, 90.0, "cross"))
    assert [queue.head.symbol for queue in account.resting.queues] == [LINEAR.symbol, INVERSE.symbol]
    account.withdraw(4)
    with pytest.raises(KeyError):
        account.resting.without(Order(9, INVERSE, "buy", 1.0, 90.0, "cross"))
    assert account.withdraw(9) is None


def test_the_last_order_tried_again_after_it_was_taken_away_is_where_it_was() -> None:
    """As when it fills: the pool with it is the one that was judged. One that others came after comes behind them."""
    first, last = (Order(id_, LINEAR, "buy", 1.0, 90.0, "cross") for id_ in (1, 2))
    resting = Orders.of(first, last)
    assert resting.without(last).plus(last) is resting
    assert tuple(resting.without(first).plus(first)) == (last, first)
    alike = Order(2, LINEAR, "buy", 1.0, 95.0, "cross")
    assert tuple(resting.without(last).plus(alike)) == (first, alike)
    third = Order(3, LINEAR, "sell", 1.0, 99.0, "cross")
    left = resting.plus(third).without(third)
    assert tuple(left.without(last).plus(last)) == (first, last)
    assert tuple(left.without(last).plus(third)) == (first, third)
