"""Values: which of them nobody can change, what they know about themselves once they are made, what is found again."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.model.account import Account, Position
from bt_margin.model.assessment import Charge
from bt_margin.model.borrowing import Holdings
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.light import light
from bt_margin.model.market import Market
from bt_margin.model.number import along
from bt_margin.model.order import Order
from bt_margin.model.orders import Orders
from bt_margin.modes import cross, currencies
from bt_margin.modes.base import Judgement, Pool
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.rules.book import RuleBook

RULES = RuleBook.load("okx").as_of(1_758_000_000_000)
SWAP = RULES.instrument("BTC/USDT:USDT")
ORDER = Order(1, SWAP, "buy", 2.0, 50_000.0, "cross")


@pytest.mark.parametrize("kept", [
    ORDER, Position(SWAP, "cross", "net", 1.0, 60_000.0, 5.0), Entry(0, EntryKind.FEE, "USDT", -1.0),
])
def test_what_users_keep_is_frozen(kept: object) -> None:
    for one in fields(kept):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(kept, one.name, getattr(kept, one.name))


def test_a_light_value_is_a_dataclass_of_the_arguments_it_names() -> None:
    @light(frozen=True, slots=True)
    class Pair:
        one: int
        two: int = 2

    assert Pair(1) == Pair(1, 2) != Pair(1, 3)
    assert repr(Pair(1)).endswith("Pair(one=1, two=2)")
    assert replace(Pair(1), one=5) == Pair(5)
    assert not hasattr(Pair(1), "__dict__")
    assert Charge("a", "b", 1.0, 2.0, 3.0) == Charge("a", "b", 1.0, 2.0, 3.0, {})


@pytest.mark.parametrize("position_side", ["net", "long", "short"])
@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("reduce_only", [False, True])
def test_an_order_knows_its_position_and_whether_it_only_closes(
    side: str, position_side: str, reduce_only: bool
) -> None:
    order = Order(1, SWAP, side, 2.0, None, "isolated", position_side, reduce_only=reduce_only)
    assert order.key == PositionKey(SWAP.symbol, "isolated", position_side)
    assert order.closes is (reduce_only or (position_side, side) in (("long", "sell"), ("short", "buy")))
    other = replace(order, side="sell" if side == "buy" else "buy", margin_mode="cross", reduce_only=False)
    assert other.key.margin_mode == "cross"
    assert other.closes is ((position_side, other.side) in (("long", "sell"), ("short", "buy")))


def test_an_empty_queue_has_no_head() -> None:
    waiting = Orders.of(ORDER, Order(2, SWAP, "sell", 1.0, None, "cross"))
    assert [queue.head.id for queue in waiting.queues] == [1, 2]
    assert not hasattr(waiting.queue(ORDER.key, "buy", True), "head")
    assert [len(queue) for queue in waiting.without(ORDER).queues] == [1]
    assert not Orders().queues


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_judgement_adds_up_its_charges(count: int) -> None:
    charges = tuple(Charge("margin", str(i), 10.0 + i, 1.0 + i, 0.1 * (i + 1)) for i in range(count))
    judged = Judgement(100.0, charges)
    assert judged.initial == sum(10.0 + i for i in range(count))
    assert judged.maintenance == sum(1.0 + i for i in range(count))
    assert judged.fee == pytest.approx(sum(0.1 * (i + 1) for i in range(count)))
    assert judged.gap == pytest.approx(100.0 - judged.maintenance - judged.fee)


@pytest.mark.parametrize(("balances", "orders", "at_risk"), [
    ({"USDT": 5.0}, Orders(), False), ({"USDT": 5.0}, Orders.of(ORDER), True), ({"USDT": -5.0}, Orders(), True),
    ({"USDT": -5.0}, Orders.of(ORDER), True),
])
def test_an_account_without_positions_is_at_risk_by_its_orders_and_debts(
    balances: dict[str, float], orders: Orders, at_risk: bool
) -> None:
    pool = Pool("account", MULTI_CURRENCY, "USD", 0.0, (), orders, Holdings(balances))
    assert pool.at_risk is at_risk


# -- markets ----------------------------------------------------------------------------------------------------------


def test_instants_behind_the_present() -> None:
    marks = {"A": np.array([2.0, 3.0])}
    there = Market(5, marks, {"A": np.array([4.0, 5.0]), "B": 7.0}, {"A/USD": 1.0}, times=np.array([6.0, 7.0]))
    now = Market(5, {"A": 1.0}, {"A": 2.5, "B": 7.0}, {"A/USD": 1.0})
    joined = there.behind(now)
    assert joined is not None
    assert joined.marks["A"].tolist() == [1.0, 2.0, 3.0]
    assert joined.lasts["A"].tolist() == [2.5, 4.0, 5.0]
    assert (joined.lasts["B"], joined.indexes) == (7.0, {"A/USD": 1.0})
    assert joined.times.tolist() == [5.0, 6.0, 7.0]
    assert joined.stand_ins is there.stand_ins
    assert replace(there, times=None).behind(now).times is None


@pytest.mark.parametrize("now", [
    Market(5, {}, {"A": 2.5, "B": 7.0}, {"A/USD": 1.0}),  # no mark yet
    Market(5, {"A": 1.0}, {"A": 2.5, "B": 7.0, "C": 1.0}, {"A/USD": 1.0}),  # a price more
    Market(5, {"A": 1.0}, {"A": 2.5, "B": 7.5}, {"A/USD": 1.0}),  # another price
    Market(5, {"A": 1.0}, {"A": 2.5, "B": 7.0}, {"A/USD": 1.1}),
])
def test_a_present_of_other_prices_is_not_put_before_them(now: Market) -> None:
    there = Market(5, {"A": np.array([2.0])}, {"A": np.array([4.0]), "B": 7.0}, {"A/USD": 1.0})
    assert there.behind(now) is None


# -- currencies -------------------------------------------------------------------------------------------------------

AMOUNTS = st.lists(st.floats(-1e6, 1e6) | st.just(0.0), min_size=1, max_size=4)


@given(AMOUNTS, st.floats(0, 1e6), st.floats(-1e3, 1e3))
def test_what_is_known_of_the_lowest_backing_changes_no_answer(profits: list[float], fees: float, cash: float) -> None:
    for unrealised in (np.array(profits), profits[0]):
        backing = cash + unrealised
        lowest = float(np.min(backing))
        rows = [currencies.Line("USDT", cash, 0.0, unrealised, 0.0, 0.0, 0.0, 0.0, fees, 1.0, backing, known)
                for known in (lowest, math.nan)]
        owed = [along(row.potential_borrow, len(profits)) for row in rows]
        np.testing.assert_array_equal(*owed)
        assert currencies.costs_interest(rows[0]) == currencies.costs_interest(rows[1])
        counted = [along(currencies.discounted("USDT", backing, 1.0, frozenset(), RULES, known), len(profits))
                   for known in (lowest, math.nan)]
        np.testing.assert_array_equal(*counted)


@pytest.mark.parametrize(("symbol", "coin", "usd"), [("BTC/USD:BTC", "BTC", 60_000.0), ("BTC/USDT:USDT", "USDT", 1.0)])
def test_a_whole_account_asks_in_usd_for_what_its_parts_ask(symbol: str, coin: str, usd: float) -> None:
    """The rows of a part, each of its three margins times what the coin is worth, and in which coin it is asked."""
    position = Position(RULES.instrument(symbol), "cross", "net", 10.0, 60_000.0, 5.0)
    pool = Pool("account", MULTI_CURRENCY, "USD", 0.0, (position,), Orders(), Holdings({coin: 5e6}))
    market = Market(1_758_000_000_000, {symbol: 60_000.0}, {}, {"BTC/USD": 60_000.0, "USDT/USD": 1.0})
    part = currencies.parts(pool)[coin]
    (row,), (told,) = cross.charges(part, market, RULES), MULTI_CURRENCY.charges(pool, market, RULES)
    assert row.fee > 0
    assert (told.initial, told.maintenance, told.fee) == (row.initial * usd, row.maintenance * usd, row.fee * usd)
    assert told.detail == {**row.detail, "currency": coin, "usd": usd}


def test_options_leave_the_lowest_backing_unknown() -> None:
    option = RULES.instrument("BTC/USD:BTC-250926-60000-C")
    account = Account({"BTC": 1.0})
    account.adopt(Position(option, "cross", "net", -10.0, 0.05, 1.0))
    (pool,) = PORTFOLIO.pools(account)
    market = Market(1_758_000_000_000, {option.symbol: 0.05}, {}, {"BTC/USD": 60_000.0, "USDT/USD": 1.0})
    (row,) = currencies.lines(pool, market, RULES)
    assert row.backing == pytest.approx(0.995)
    assert math.isnan(row.lowest)
