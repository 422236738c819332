"""What the independent oracle found, each on as few figures as show it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.builder import parse_time
from bt_margin.engine.debts import charge_hour
from bt_margin.engine.engine import Fill, MarginEngine
from bt_margin.engine.leg import LOOKS, Leg
from bt_margin.engine.orders import Refusal
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.ledger import EntryKind
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import Number
from bt_margin.modes import borrow, mode_named
from bt_margin.modes.base import Convert, Pool, judge
from bt_margin.modes.conversion import convert_collateral, gross, penalty_rate
from bt_margin.modes.cross import CROSS
from bt_margin.modes.currencies import lines
from bt_margin.modes.valuation import forced_size
from bt_margin.rules.book import Rules
from tests.unit.whole import HOUR, OKX, PAPER, SWAP, TIME, engine, events, moved, names, rest, trade

INVERSE = "BTC/USD:BTC"
CALL = "BTC/USD:BTC-260327-60000-C"


def test_a_debt_repaid_down_to_a_ceiling_is_in_the_tier_below() -> None:
    """0.8 - (0.8 - 0.3) is more than 0.3: by a float the debt stayed in the dearer tier, and was converted again."""
    book = PAPER.overlay(borrow_tiers={"BTC": [[0.3, 0.02, 0.1], [1.0, 0.05, 0.2]]})
    tiers = book.as_of(TIME, "nearest").borrow("BTC")
    owed = 0.8 - borrow.reduction(0.8, tiers)
    assert owed > 0.3
    assert borrow.rates(owed, tiers) == (0.02, 0.1)
    assert borrow.reduction(owed, tiers) == owed  # the rest of it whole
    assert borrow.rates(0.3001, tiers) == (0.05, 0.2)


def test_what_was_repaid_down_to_the_quota_is_not_repaid_again() -> None:
    quota = 0.3
    owed = 0.8 - borrow.forced_repayment(0.8, quota, 0.5, auto=False)
    assert owed > quota  # by a float
    assert borrow.forced_repayment(owed, quota, 0.5, auto=False) == 0.0


def test_a_coin_that_cannot_pay_for_all_of_a_tier_is_sold_whole() -> None:
    """70,000 USDT are asked, at the penalty of tier 2 (8 %); what 0.3 BTC pay for falls in tier 1 (2 %)."""
    book = PAPER.overlay(borrow_tiers={"USDT": [[20_000, 0.02, 0.1], [100_000, 0.08, 0.2]]})
    for coins, bought in ((0.3, 18_000 / (1.02 * 1.001)), (0.35, 20_000.0), (1.3, 70_000.0)):
        e = engine({"USDT": -90_000.0, "BTC": coins}, leverage={"USDT": 2.0}, book=book)
        (pool,) = e.mode.pools(e.account)
        (one,) = convert_collateral(pool, e.market, e.rules)
        assert isinstance(one, Convert)
        assert one.amount == pytest.approx(bought, rel=1e-12)
        assert one.amount + sum(gross(one, penalty_rate(one, e.rules), 0.001)) <= coins * 60_000 * (1 + 1e-12)


def test_a_cut_in_a_coin_is_weighed_in_usd() -> None:
    """Before 2025-05 a position of tier 3 or above came down two tiers while the first tier's rate would do. Of an
    inverse contract the relief is coins, the account's gap USD."""
    time = parse_time("2024-08-01T00:00:00Z", "")
    rules = PAPER.as_of(time, "nearest")
    tiers = rules.tiers(INVERSE)
    account = Account({"BTC": 1.0})
    size = tiers.rows[3].max_size
    account.adopt(Position(rules.instrument(INVERSE), "cross", "net", size, 60_000.0, 10.0))
    market = Market(time, {INVERSE: 60_000.0}, {INVERSE: 60_000.0}, {"BTC/USD": 60_000.0})
    (pool,) = mode_named("multi-currency").pools(account)
    (position,) = account.positions.values()
    relief = size * 100.0 * (tiers.rows[3].maintenance - tiers.rows[0].maintenance)
    assert forced_size(position, pool, market, rules, -0.9 * relief) == size - tiers.rows[1].max_size
    assert forced_size(position, pool, market, rules, -1.1 * relief) == size


def test_what_a_forced_order_leaves_owed_is_said_at_once() -> None:
    e = engine({"USDT": 1_000.0, "BTC": 1.0})
    trade(e, SWAP, "buy", 450.0)
    moved(e, btc=49_000.0)
    told = names(e)
    assert "Reduced" in told
    assert told.index("Borrowed") == told.index("Reduced") + told.count("Reduced")
    assert events(e, "Borrowed")[0].time == events(e, "Reduced")[-1].time


def test_a_long_option_makes_up_for_a_loss_before_interest_is_asked() -> None:
    """A loss of 2 BTC, beside options worth as much: nothing is owed, so nothing costs interest."""
    rules = OKX.as_of(TIME, "nearest")
    mark = 0.5
    marks = {INVERSE: 60_000.0, CALL: mark}
    market = Market(TIME, marks, marks, {"BTC/USD": 60_000.0}, forwards={"BTC/USD:BTC-260327": 120_000.0})
    for contracts, owed in ((1_000.0, False), (10.0, True)):
        account = Account({"BTC": 0.0})
        account.adopt(Position(rules.instrument(INVERSE), "cross", "net", 2_400.0, 120_000.0, 10.0))  # lost 2 BTC
        account.adopt(Position(rules.instrument(CALL), "cross", "net", contracts, 0.1, 1.0))
        charge_hour(account, mode_named("portfolio"), TIME + HOUR, lambda currency, time: 0.001, market, rules)
        assert bool(account.accrued.get("BTC")) is owed  # beyond the free quota of 1 BTC
    assert account.accrued["BTC"] == pytest.approx((2.0 - 10 * 0.01 * mark - 1.0) * 0.001)


def test_an_order_that_would_open_after_a_cut_does_not_hold_up_the_ladder() -> None:
    """A debt in breach beside a small hedged unit and an order that closes it: every cut let the order open, no step
    freed anything, and the breach was never resolved. In portfolio margin all orders go first (addendum 3i)."""
    book = OKX.overlay(
        discounts={"USDT": [[1e9, 1.0]], "SOL": [[1e9, 0.9]]},
        borrow_tiers={"USDT": [[1e12, 0.03, 0.1]], "SOL": [[1e12, 0.05, 0.25]]},
    )
    rules = book.as_of(TIME, "nearest")
    account = Account({"USDT": 6_359_728.0, "SOL": -28_928.0})
    swap = rules.instrument("SOL/USDT:USDT")
    account.adopt(Position(rules.instrument("SOL/USD:SOL"), "cross", "net", -25.0, 129.0, 1.0))
    account.adopt(Position(swap, "cross", "net", 69.26, 128.0, 1.0))
    account.place(Order(1, swap, "sell", 60.55, 132.0, "cross", "net", 1.0))

    def market(time: int, price: float) -> Market:
        marks = {"SOL/USD:SOL": price, "SOL/USDT:USDT": price}
        return Market(time, marks, marks, {"SOL/USD": price, "USDT/USD": 1.0, "SOL/USDT": price})

    e = MarginEngine(account, mode_named("portfolio"), book, market(TIME, 150.0))
    e.advance(market(TIME + 1_000, 220.0))
    told = names(e)
    assert told.index("OrdersCancelled") < told.index("Reduced") < told.index("Converted")
    ratio = e.present_ratio()
    assert ratio is None or ratio > 1


OTHER = "BTC/USD:BTC-260327-70000-C"
OPTION_MARKET = {CALL: 0.2, OTHER: 0.1, INVERSE: 60_000.0}


def with_short_call(coins: float, *, auto: bool = True, size: float = -100.0) -> MarginEngine:
    """A bitcoin short in calls at 0.2 (strike 60,000, forward 60,000): initial margin 0.15 + 0.2, maintenance 0.03 +
    0.2 a coin.
    """
    e = engine({"BTC": coins}, auto=auto, prices=OPTION_MARKET, index={"BTC/USD": 60_000.0})
    e.market = replace(e.market, forwards={"BTC/USD:BTC-260327": 60_000.0})
    if size:
        e.account.adopt(Position(e.rules.instrument(CALL), "cross", "net", size, 0.2, 1.0))
    return e


def option_order(e: MarginEngine, number: int, side: str, size: float, price: float, reduce: bool = False) -> Order:
    return Order(number, e.rules.instrument(CALL), side, size, price, "cross", "net", 1.0, reduce)


@pytest.mark.parametrize(("coins", "taken"), [(0.151, True), (0.149, False)])
def test_without_auto_borrow_a_sold_option_needs_its_margin_not_its_price(coins: float, taken: bool) -> None:
    """A coin of calls sold at 0.2: 0.35 - 0.2 reserved, of which 0.2 a coin was asked, here 0.15."""
    e = with_short_call(coins, auto=False, size=0.0)
    e.account.balances["USDT"] = 1e6  # the account as a whole could bear it
    e.market = replace(e.market, indexes={**e.market.indexes, "USDT/USD": 1.0})
    answer = e.check(option_order(e, 1, "sell", 100.0, 0.2))
    assert isinstance(answer, Order) is taken


def test_of_two_orders_to_buy_a_short_back_the_second_opens() -> None:
    """Each was judged alone against the whole position: the second reserved no fee and margin of a close."""
    e = with_short_call(5.0)
    for number in (1, 2):
        e.account.place(option_order(e, number, "buy", 100.0, 0.1))
    (pool,) = e.mode.pools(e.account)
    (line,) = lines(pool, e.market, e.rules)
    assert float(line.premiums) == pytest.approx(0.2)
    assert float(line.fees) == pytest.approx(0.0003)  # of the second: 0.03 % of a coin


@pytest.mark.parametrize("reduce", [True, False])
def test_an_order_to_buy_a_short_back_reserves_what_its_price_is_beyond_the_margin(reduce: bool) -> None:
    """max(price - initial margin, 0), whether it may only reduce or not: 0.5 - 0.35 of a coin; orders of another option
    are that one's.
    """
    e = with_short_call(5.0)
    e.account.place(option_order(e, 1, "buy", 100.0, 0.5, reduce))
    e.account.place(replace(option_order(e, 2, "sell", 100.0, 0.1), instrument=e.rules.instrument(OTHER)))
    (pool,) = e.mode.pools(e.account)
    rows = [row for row in e.mode.charges(pool, e.market, e.rules) if row.name == "order margin"]
    found = {row.unit: sum(float(one.initial) for one in rows if one.unit == row.unit) for row in rows}
    assert found == pytest.approx({CALL: 0.15 * 60_000, OTHER: 0.1 * 60_000})


def test_what_if_a_short_option_were_bought_back_pays_for_it() -> None:
    e = with_short_call(5.0)
    (pool,) = e.mode.pools(e.account)
    key = pool.positions[0].key
    after = pool.without(key, 40.0, e.market)
    assert after.holdings is not None
    assert after.holdings.balances["BTC"] == pytest.approx(5.0 - 0.4 * 0.2)
    assert [p.size for p in after.positions] == [-60.0]


def test_funding_of_an_isolated_position_takes_no_cash_that_losses_need() -> None:
    """Until 2024-07 an isolated payer paid out of what may leave the account. A bitcoin of cash against 1.2 of cross
    losses may not: the margin pays, and no debt grows.
    """
    time = parse_time("2022-11-20T00:00:00Z", "")
    series = FundingSeries(np.array([time + 8 * HOUR]), np.array([0.001]))
    e = engine({"BTC": 1.0, "ETH": 1_000.0}, time=time, prices={INVERSE: 50_000.0},
               index={"BTC/USD": 50_000.0, "ETH/USD": 3_000.0}, funding={INVERSE: series})
    inverse = e.rules.instrument(INVERSE)
    e.account.adopt(Position(inverse, "cross", "net", 3_600.0, 60_000.0, 10.0))
    e.account.adopt(Position(inverse, "isolated", "net", 1_000.0, 50_000.0, 2.0, 1.0))
    e.advance(replace(e.market, time=time + 8 * HOUR))
    paid = [(entry.key.margin_mode, round(entry.cash, 12), round(entry.margin, 12)) for entry in e.account.ledger
            if entry.kind is EntryKind.FUNDING and entry.key is not None]
    assert paid == [("cross", -0.0072, 0.0), ("isolated", 0.0, -0.002)]


FUTURE = "BTC/USD:BTC-251226"


def basis_trade(mode: str, coins: float = 0.05) -> MarginEngine:
    """240,000 USD long in the perpetual, 60,000 short in the future, both at 60,000, in bitcoins."""
    account = Account({"BTC": coins})
    rules = PAPER.as_of(TIME, "nearest")
    for symbol, size in ((INVERSE, 2_400.0), (FUTURE, -600.0)):
        account.adopt(Position(rules.instrument(symbol), "cross", "net", size, 60_000.0, 10.0))
    return MarginEngine(account, mode_named(mode), PAPER, basis_market(0.0))


def basis_market(share: float, swap: float = 66_000.0, future: float = 96_000.0) -> Market:
    """So much of an hour's way from 60,000."""
    marks = {INVERSE: 60_000 + (swap - 60_000) * share, FUTURE: 60_000 + (future - 60_000) * share}
    return Market(TIME + round(HOUR * share), marks, marks, {"BTC/USD": marks[INVERSE]})


@pytest.mark.parametrize("mode", ["cross", "multi-currency"])
def test_a_pool_that_dips_on_a_wide_leg_and_recovers_is_liquidated_in_the_dip(mode: str) -> None:
    """Coins are lost by 1 / price, most of them early, and won back late: the ratio falls from 1.2 to 0.3 and is 1.2
    again at the end. The first point at which a pool breaches counts (design, section 7), as in the same leg cut up."""
    whole, cut = basis_trade(mode), basis_trade(mode)
    whole.advance(basis_market(1.0))
    for part in range(1, 101):
        cut.advance(basis_market(part / 100))
    told, parts = events(whole, "Reduced"), events(cut, "Reduced")
    assert len(told) == len(parts) > 0
    for one, same in zip(told, parts, strict=True):
        assert (one.key, one.size, one.step) == (same.key, same.size, same.step)
        assert one.price == pytest.approx(same.price, rel=1e-12)
        assert abs(one.time - same.time) <= 1
    assert told[0].time < TIME + HOUR / 4


def test_loans_margined_in_their_coin_dip_as_coin_margined_contracts_do() -> None:
    """Short BTC/USDT and long ETH/BTC, both margined in bitcoins: what the one gains is convex, the other loses on a
    straight line."""
    spot, pair = "BTC/USDT", "ETH/BTC"
    rules = PAPER.overlay(instruments={pair: {"tiers": [[1_000, 0.02, 0.1, 10]]}}).as_of(TIME, "nearest")
    account = Account({"BTC": 0.535})
    for symbol, size, assets, price, way in ((spot, -10.0, 1_000_000.0, 100_000.0, "short"),
                                             (pair, 310.0, 310.0, 0.04, "long")):
        owed = 10.0 if way == "short" else 12.4
        account.adopt(MarginPosition(rules.instrument(symbol), "cross", "net", size, price, 5.0, direction=way,
                                     margin_currency="BTC", assets=assets, liability=owed))
    (pool,) = (one for one in CROSS.pools(account) if one.currency == "BTC")
    start, end = (Market(TIME, prices, prices, {"BTC/USD": prices[spot]})
                  for prices in ({spot: 100_000.0, pair: 0.04}, {spot: 80_000.0, pair: 0.032}))
    leg = Leg(start, end, rules, lambda one, market: judge(one, market, rules))
    gaps = [float(judge(pool, leg.at(share), rules).gap) for share in (0.0, 0.5, 1.0)]
    assert gaps[1] < 0 < min(gaps[0], gaps[2])
    met = leg.crossing(pool, 1.0, 0.0)
    assert float(judge(pool, leg.at(met), rules).gap) == pytest.approx(0.0, abs=1e-9)
    assert 0.0 < met < 0.5


@pytest.mark.parametrize(("swap", "looked"), [(62_900.0, False), (57_200.0, False), (63_100.0, True)])
def test_only_a_wide_leg_is_looked_at_on_its_way(swap: float, looked: bool) -> None:
    """Within 5 % the ends decide: nothing between them is judged."""
    e, asked = basis_trade("cross", coins=1.0), list[Market]()

    def equity(pool: Pool, market: Market, rules: Rules) -> Number:
        asked.append(market)
        return CROSS.equity(pool, market, rules)

    watched = replace(CROSS, equity=equity)
    e.mode = replace(CROSS, pools=lambda account: (replace(one, mode=watched) for one in CROSS.pools(account)))
    start, end = e.market, basis_market(1.0, swap, 60_500.0)
    e.advance(end)
    between = [market for market in asked if market is not start and market is not end]
    assert [len(np.atleast_1d(market.clock)) for market in between] == ([LOOKS - 1] if looked else [])


def test_stops_on_a_leg_do_not_add_up_their_rounding() -> None:
    """Every stop was rounded to a millisecond and the next one counted from there: after a hundred, time and with it
    what tenors charge were some off. Time is where the price is."""
    account = Account({"USDT": 60_000.0})
    rules = PAPER.as_of(TIME, "nearest")
    account.adopt(Position(rules.instrument(SWAP), "cross", "net", 1_500.0, 60_000.0, 1.0))

    def market(time: int, price: float) -> Market:
        return Market(time, {SWAP: price}, {SWAP: price}, {"BTC/USD": price, "BTC/USDT": price, "USDT/USD": 1.0})

    e = MarginEngine(account, mode_named("portfolio"), PAPER, market(TIME, 60_000.0))
    e.advance(market(TIME + 1_000, 30_000.0))
    told = events(e, "Reduced")
    assert len({one.time for one in told}) > 20
    for one in told:
        assert abs(one.time - TIME - (60_000.0 - one.price) / 30) <= 0.5 + 1e-6


def test_many_shares_of_a_way_are_what_each_is_alone() -> None:
    """An option in its coin too, whose worth in USD goes straight."""
    first = Market(TIME, {CALL: 0.2, INVERSE: 60_000.0}, {CALL: 0.2}, {"BTC/USD": 60_100.0},
                   forwards={"BTC/USD:BTC-260327": 61_000.0})
    last = Market(TIME + HOUR, {CALL: 0.3, INVERSE: 70_000.0}, {CALL: 0.31}, {"BTC/USD": 70_300.0},
                  forwards={"BTC/USD:BTC-260327": 72_000.0})
    shares = np.array([0.1, 0.5, 0.999])
    many = first.toward(last, shares)
    assert many.times is not None
    for place, share in enumerate(shares.tolist()):
        assert many.one(place, int(many.times[place])) == first.toward(last, share)


def test_an_order_that_trades_in_part_keeps_its_place_before_those_that_came_later() -> None:
    """Two purchases of 100 on a short of 100: the first closes it, the second opens whole at 40,000 (fee 0.05 %: 20).
    Half of the first leaves a short of 50, which its other half closes."""
    e = engine({"USDT": 100_000.0})
    trade(e, SWAP, "sell", 100.0)
    first, second = rest(e, SWAP, "buy", 100.0, 59_000.0), rest(e, SWAP, "buy", 100.0, 40_000.0)
    for size in (50.0, 30.0):
        assert isinstance(e.fill(first, size, 59_000.0, maker=True), Fill)
        (line,) = lines(next(iter(e.mode.pools(e.account))), e.market, e.rules)
        assert float(line.fees) == pytest.approx(20.0)
        assert list(e.account.orders) == [order.id for order in e.account.resting] == [first.id, second.id]
    assert [order.size for order in e.account.resting] == [20.0, 100.0]


@pytest.mark.parametrize(("missing", "taken"), [(0.0, True), (5e-10, False), (1e-15, True)])
def test_a_coin_is_not_short_by_less_than_rounding_of_what_is_there(missing: float, taken: bool) -> None:
    """Half a billionth of a bitcoin is no rounding where ten thousandths are there: cross, seed 62984."""
    swap = PAPER.as_of(TIME, "nearest").instrument("BTC/USD:BTC")
    value = 2 * swap.contract_size / 50_000.0
    needs = value / 10.0 + value * PAPER.as_of(TIME, "nearest").fees("swap").taker
    account = Account({"BTC": needs - missing})
    market = Market(TIME, {"BTC/USD:BTC": 50_000.0}, {"BTC/USD:BTC": 50_000.0}, {"BTC/USD": 50_000.0})
    engine = MarginEngine(account, CROSS, PAPER, market)
    answer = engine.check(Order(1, swap, "buy", 2.0, 50_000.0, "cross", leverage=10.0))
    assert isinstance(answer, Order) is taken
    if isinstance(answer, Refusal):
        assert (answer.shortfall, answer.largest_size) == (pytest.approx(missing, rel=1e-6), 1.0)
