"""What is kept of parts that stand as they stood is what would be found anew, to the last bit."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin.engine.horizon import _as_at
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.borrowing import SpotUse
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import mode_named
from bt_margin.modes.assess import assess
from bt_margin.modes.base import Judgement, Pool, judge, remembers_last
from bt_margin.modes.cross import CROSS
from bt_margin.modes.kept import Kept
from bt_margin.modes.ladder import unhedged_largest_relief
from bt_margin.modes.multi_currency import contract_margins
from bt_margin.modes.reach import coin_moved
from bt_margin.rules.book import Rules, load_rules

TIME = 1_760_000_000_000
RULES = load_rules("okx").as_of(TIME, "nearest")
BTC, ETH, BTC_COIN, ETH_COIN = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USD:BTC", "ETH/USD:ETH"
PUT, CALL = "BTC/USD:BTC-251226-100000-P", "ETH/USD:ETH-251226-4000-C"
CONTRACTS = (BTC, ETH, BTC_COIN, ETH_COIN, "SOL/USDT:USDT")
HELD = (*CONTRACTS, PUT, CALL)
PRICES = {BTC: 120_000.0, ETH: 4_400.0, BTC_COIN: 120_050.0, ETH_COIN: 4_401.0, "SOL/USDT:USDT": 220.0, PUT: 0.04,
          CALL: 0.14}
INDEXES = {"BTC/USD": 120_000.0, "ETH/USD": 4_400.0, "SOL/USDT": 220.0, "USDT/USD": 0.999}
MARKET = Market(TIME, PRICES, PRICES, INDEXES)
CASH = {"USDT": -40_000.0, "BTC": 1.5, "ETH": -3.0, "SOL": 40.0}

sizes = st.lists(st.integers(-300, 300), min_size=len(HELD), max_size=len(HELD))
modes = st.sampled_from(["cross", "multi-currency", "portfolio"])


def pool(mode: str, held: list[int], resting: list[int], cash: dict[str, float] = CASH) -> Pool:
    """What the account holds and rests, in contracts by place in HELD and CONTRACTS; of several pools that of USDT."""
    account = Account(cash)
    for symbol, size in zip(HELD, held, strict=False):
        if size:
            account.adopt(Position(RULES.instrument(symbol), "cross", "net", float(size), 0.9 * PRICES[symbol], 10.0))
    for i, (symbol, size) in enumerate(zip(CONTRACTS, resting, strict=False)):
        if size:
            side = "buy" if size > 0 else "sell"
            order = Order(i, RULES.instrument(symbol), side, float(abs(size)), PRICES[symbol], "cross", "net", 10.0)
            account.place(order)
    found = {p.currency: p for p in mode_named(mode).pools(account)}
    return found["USDT" if mode == "cross" else "USD"]


def told(found: Judgement, instants: int) -> list[Any]:
    """Each number, at each instant."""
    rows = [(row.name, row.unit, row.initial, row.maintenance, row.fee) for row in found.charges]
    return [[x if isinstance(x, str) else np.broadcast_to(x, instants).tolist() for x in row]
            for row in [(found.equity,), *rows]]


@settings(deadline=None, max_examples=40)
@given(modes, sizes, st.integers(0, len(HELD) - 1), st.integers(-300, 300), st.integers(-300, 300),
       st.sampled_from([1.5, -0.5, 7.0]))
def test_after_one_of_many_has_changed_all_are_as_if_judged_anew(mode: str, held: list[int], place: int, size: int,
                                                                 rests: int, coins: float) -> None:
    resting = [7, 0, -9, 0, 0]
    judge(pool(mode, held, resting), MARKET, RULES)
    held, resting = [*held[:place], size, *held[place + 1:]], [7, rests, -9, 0, 0]
    after = pool(mode, held, resting, {**CASH, "BTC": coins})
    assert told(judge(after, MARKET, RULES), 1) == told(judge(after, replace(MARKET), RULES), 1)


@settings(deadline=None, max_examples=40)
@given(modes, sizes, st.sampled_from(["BTC", "ETH", "SOL"]), st.lists(st.floats(-0.4, 0.6), min_size=1, max_size=4))
def test_while_one_coin_moves_the_others_are_as_if_they_were_judged_there(mode: str, held: list[int], coin: str,
                                                                          shifts: list[float]) -> None:
    here = pool(mode, held, [7, 0, -9, 0, 0])
    judge(here, MARKET, RULES)
    for shift in (shifts[0], np.array(shifts)):
        there = coin_moved(MARKET, here.positions, coin, shift)
        assert told(judge(here, there, RULES), len(shifts)) == told(judge(here, replace(there), RULES), len(shifts))


def test_what_stands_as_it_stood_is_seen_anew_where_coins_or_its_family_have_changed() -> None:
    """Spot that joins a unit, and another expiry whose contracts share a tier."""
    short = [-300, 0, 0, 0, 0, 0, 0]
    rows = [judge(pool("portfolio", short, [], {"USDT": 5e4, "BTC": coins}), MARKET, RULES) for coins in (0.5, 3.0)]
    assert rows[0].maintenance > 1.5 * rows[1].maintenance
    near, far = (RULES.instrument(f"BTC/USDT:USDT-{day}") for day in ("251226", "260327"))
    market = Market(TIME, {near.symbol: 120_000.0, far.symbol: 121_000.0})
    first, small, large = (Position(i, "cross", "net", size, 120_000.0, 2.0)
                           for i, size in ((near, 100.0), (far, 100.0), (far, 200_000.0)))
    usdt = pool("cross", [1], [])
    alone, beside = (judge(replace(usdt, positions=(first, other)), market, RULES).charges[0]
                     for other in (small, large))
    assert alone.unit == beside.unit == near.symbol
    assert beside.maintenance > 1.5 * alone.maintenance


def test_a_coin_whose_worth_is_told_in_the_moved_one_moves_along() -> None:
    """ETH/BTC is the only index of ETH: what its spot is worth beside a short future falls with BTC."""
    indexes = {"BTC/USD": 120_000.0, "USDT/USD": 1.0, "ETH/BTC": 0.0367}
    future = Position(RULES.instrument("ETH/USD:ETH-251226"), "cross", "net", -80_000.0, 4_000.0, 10.0)
    market = Market(TIME, {BTC: 120_000.0, future.symbol: 4_404.0}, {}, indexes)
    here = pool("portfolio", [1], [], {"USDT": 100_000.0, "ETH": 200.0})
    here = replace(here, positions=(*here.positions, future))
    before = judge(here, market, RULES)
    there = coin_moved(market, here.positions, "BTC", -0.5)
    assert told(judge(here, there, RULES), 1) == told(judge(here, replace(there), RULES), 1)
    moved = told(judge(here, there, RULES), 1)
    assert [row for row in moved[1:] if row[1] == "ETH"] != [row for row in told(before, 1)[1:] if row[1] == "ETH"]


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, len(CONTRACTS) - 1), st.integers(-300, 300))
def test_the_largest_relief_is_the_same_asked_for_again_after_one_position_has_changed(held: list[int], place: int,
                                                                                       size: int) -> None:
    held = held[:len(CONTRACTS)]
    unhedged_largest_relief(contract_margins, pool("multi-currency", held, []), MARKET, RULES)
    after = pool("multi-currency", [*held[:place], size, *held[place + 1:]], [])
    now, anew = (unhedged_largest_relief(contract_margins, after, at, RULES) for at in (MARKET, replace(MARKET)))
    assert now == anew


@pytest.mark.parametrize(("key", "stands"), [("SOL/USDT", True), ("SOL/BTC", False), ("SOL/USDT:BTC", False)])
def test_what_is_quoted_or_settled_in_a_coin_does_not_stand_still_beside_it(key: str, stands: bool) -> None:
    market = Market(TIME, {BTC: 1.0}, {key: 1.0})
    there = market.with_coin("BTC", Market(TIME, {BTC: 2.0}))
    assert (there.still("SOL") is market) is stands
    assert (there.still("BTC") is None) is stands
    assert market.still("BTC") is market
    assert replace(there, time=TIME + 1).still("BTC") is not None  # what is made of it is a market of its own


def test_entry_prices_that_are_arrays_are_judged_anew_at_the_same_market() -> None:
    """Survival maps put the funding of a whole account into them."""
    many = Market(TIME, {key: np.full(3, price) for key, price in PRICES.items()}, {}, INDEXES)
    here = pool("multi-currency", [100, -50, 0, 0, 10], [])

    def entered(by: list[float]) -> Pool:
        prices = ((p, p.entry_price * np.array(by)) for p in here.positions)
        return replace(here, positions=tuple(replace(p, entry_price=x) for p, x in prices))  # type: ignore[arg-type]

    first, second = entered([1.0, 1.0, 1.0]), entered([1.0, 1.1, 0.9])
    judge(first, many, RULES)
    assert told(judge(second, many, RULES), 3) == told(judge(second, replace(many), RULES), 3)


def test_an_instant_stands_as_it_does_itself_even_where_a_price_is_no_number() -> None:
    """The search of the lowest distance leaves out what stands as what was searched: it would never end."""
    prices = np.array([1.0, np.nan, 1.0, 2.0])
    here = pool("multi-currency", [1], [])
    assert _as_at(Market(TIME, {BTC: prices}), 1, 4, here).tolist() == [False, True, False, False]
    assert _as_at(Market(TIME, {BTC: prices}), 0, 4, here).tolist() == [True, False, True, False]
    dated = pool("multi-currency", [1, 0, 0, 0, 0, 1], [])
    assert _as_at(Market(TIME, {BTC: prices}), 0, 4, dated).tolist() == [True, False, False, False]


def test_what_is_asked_by_name_is_not_taken_for_what_was_asked_before() -> None:
    here, there = pool("cross", [1], []), replace(MARKET, marks={**PRICES, BTC: 1.0})
    assert judge(here, market=MARKET, rules=RULES).equity != judge(here, market=there, rules=RULES).equity
    for named in (False, True):
        assert judge(here, market=MARKET, rules=RULES) if named else judge(here, MARKET, RULES)
        with pytest.raises(TypeError):
            judge(here)  # type: ignore[call-arg]


def test_the_very_same_question_is_answered_once() -> None:
    here = pool("cross", [1], [])
    first = judge(here, MARKET, RULES)
    assert judge(here, MARKET, RULES) is first
    assert judge(here, replace(MARKET), RULES) is not first
    assert judge(here, market=MARKET, rules=RULES) is not first


def test_an_answer_that_took_long_is_none_for_the_market_that_another_thread_asked_at_meanwhile() -> None:
    """A study on an executor of threads: the same book at two markets."""
    kept: Kept[str] = Kept()
    here, there = Market(TIME, {BTC: 1.0}), Market(TIME, {BTC: 2.0})
    begun, go_on = Event(), Event()

    def slowly() -> str:
        begun.set()
        assert go_on.wait(10)
        return "here"

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(kept.find, BTC, "BTC", (1.0,), here, RULES, slowly)
        assert begun.wait(10)
        kept.find(ETH, "ETH", (1.0,), there, RULES, lambda: "another part there")
        go_on.set()
        assert slow.result() == "here"
    assert kept.find(BTC, "BTC", (1.0,), there, RULES, lambda: "there") == "there"


@pytest.mark.parametrize("mode", ["cross", "multi-currency", "portfolio"])
def test_the_pool_of_an_order_that_was_tried_is_that_of_the_order_at_rest(mode: str) -> None:
    """What the gate found for it stands, but only while the account has changed in nothing else."""
    account = Account({"USDT": 50_000.0})
    account.adopt(Position(RULES.instrument(BTC), "cross", "net", 3.0, 118_000.0, 10.0))
    order = Order(1, RULES.instrument(BTC), "buy", 2.0, None, "cross", "net", 10.0)
    tried = account.copy()
    tried.place(order)
    (first,) = mode_named(mode).pools(tried)
    account.place(order)
    (rests,) = mode_named(mode).pools(account)
    assert rests is first
    account.balances["USDT"] = 50_000.0 + 1.0
    (richer,) = mode_named(mode).pools(account)
    assert richer is not first
    assert richer != first
    account.place(replace(order, size=4.0))
    (larger,) = mode_named(mode).pools(account)
    assert [o.size for o in larger.orders] == [4.0]
    account.positions.clear()
    (flat,) = mode_named(mode).pools(account)
    assert flat.positions == ()


def test_an_account_that_borrows_otherwise_is_another_pool() -> None:
    account = Account({"USDT": 50_000.0})
    (auto,) = mode_named("multi-currency").pools(account)
    account.borrowing = replace(account.borrowing, auto=False)
    (not_auto,) = mode_named("multi-currency").pools(account)
    assert auto.holdings is not None
    assert not_auto.holdings is not None
    assert (auto.holdings.borrowing.auto, not_auto.holdings.borrowing.auto) == (True, False)
    account.accrued = {"USDT": 2.0}
    (owing,) = mode_named("multi-currency").pools(account)
    assert owing.holdings is not None
    assert owing.holdings.accrued == {"USDT": 2.0}
    account.balances = {"USDC": account.balances["USDT"]}
    (elsewhere,) = mode_named("multi-currency").pools(account)
    assert elsewhere.holdings is not None
    assert elsewhere.holdings.balances == {"USDC": 50_000.0}


@pytest.mark.parametrize("mode", ["cross", "multi-currency", "portfolio"])
def test_a_report_shows_prices_as_they_are_in_a_dict_that_its_caller_goes_on_writing_to(mode: str) -> None:
    """3 BTC long: 50,000 USDT, and 30,000 less where each is worth 10,000 less."""
    account = Account({"USDT": 50_000.0})
    account.adopt(Position(RULES.instrument(BTC), "cross", "net", 300.0, 118_000.0, 10.0))
    prices, worth = {BTC: 118_000.0}, []
    market = Market(TIME, prices, prices, {"BTC/USDT": 118_000.0})
    for price in (118_000.0, 108_000.0):
        prices[BTC] = price
        (pool,) = assess(account, mode_named(mode), market, RULES).pools
        worth.append(round(float(pool.equity), 6))
    assert worth == [50_000.0, 20_000.0]


def test_an_account_that_uses_its_coins_otherwise_is_another_pool() -> None:
    account = Account({"BTC": 1.0})
    (all_of_it,) = mode_named("portfolio").pools(account)
    account.spot_use = SpotUse(cap={"BTC": 0.5})
    (half,) = mode_named("portfolio").pools(account)
    assert all_of_it.holdings is not None
    assert half.holdings is not None
    assert (all_of_it.holdings.spot_use.cap, half.holdings.spot_use.cap) == ({}, {"BTC": 0.5})


def test_orders_that_somebody_kept_do_not_hold_all_that_came_after_them() -> None:
    """As the report of an event does, which is laid out when somebody reads it, or never."""
    account = Account({"USDT": 50_000.0})
    kept = account.copy()
    for number in range(50):
        account.place(Order(number, RULES.instrument(BTC), "buy", 0.01, 90_000.0, "cross", "net", 10.0))
    held, to_see = {id(kept.resting): kept.resting}, [kept.resting]
    while to_see:
        parts = gc.get_referents(to_see.pop())
        found = [x for x in parts if isinstance(x, (Orders, dict, tuple)) and id(x) not in held]
        held.update((id(x), x) for x in found)
        to_see += found
    assert [x for x in held.values() if isinstance(x, Orders)] == [kept.resting]
    assert len(account.resting) == 50


def test_what_is_kept_is_asked_once_for_one_market_under_one_set_of_rules() -> None:
    kept: Kept[str] = Kept()
    asked: list[str] = []

    def ask(says: str, stands: object = 1.0, market: Market = MARKET, rules: Rules = RULES, name: str = BTC) -> str:
        return kept.find(name, name[:3], (name, stands), market, rules, lambda: asked.append(says) or says)  # type: ignore[func-returns-value]

    assert [ask("first"), ask("second"), ask("other part", name=ETH), ask("third")] == ["first", "first", "other part",
                                                                                       "first"]
    assert ask("an array", np.array([1.0, 2.0])) == "an array"  # and what is kept of numbers stays
    assert [ask("fourth"), ask("other size", 2.0), ask("fifth")] == ["first", "other size", "fifth"]
    later = load_rules("okx").as_of(TIME + 1, "nearest")
    assert [ask("later rules", rules=later), ask("sixth", rules=later)] == ["later rules", "later rules"]
    assert ask("seventh") == "seventh"
    falls = [MARKET.with_coin("BTC", Market(TIME, {BTC: price})) for price in (2.0, 3.0)]
    assert [ask("falls", market=falls[0]), ask("falls on", market=falls[1])] == ["falls", "falls on"]
    assert ask("moved", market=falls[0], name=ETH) == "moved"  # ETH stood still, but was not asked since the rules went
    assert ask("eighth", market=falls[1], name=ETH) == "moved"
    assert ask("ninth") == "seventh"  # at the market that the others were moved from
    assert asked == ["first", "other part", "an array", "other size", "fifth", "later rules", "seventh", "falls",
                     "falls on", "moved"]
    # arrays within: whether they are equal has no one answer
    entered = [(np.array(prices),) for prices in ([1.0, 2.0], [1.0, 3.0])]
    assert [ask("entered", entered[0]), ask("entered elsewhere", entered[1])] == ["entered", "entered elsewhere"]


def test_a_named_argument_is_asked_anew() -> None:
    """What is remembered is told by place; nothing that was found without a name answers for it."""
    @remembers_last
    def times(pool: Pool, number: float, factor: float = 1.0) -> float:
        return number * factor

    pool, number = Pool("USDT", CROSS, "USDT", 0.0, ()), 3.0
    assert times(pool, number) == 3.0
    assert times(pool, number, factor=2.0) == 6.0
    assert times(pool, number) == 3.0
