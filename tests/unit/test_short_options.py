"""What sellers of options hold: whose contracts set the factor, what orders reserve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bt_margin.engine.builder import parse_time
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import options
from bt_margin.modes.assess import assess
from bt_margin.modes.cross import CROSS
from tests.unit.whole import INDEX, PAPER, TIME

RULES = PAPER.as_of(TIME, "nearest")
CALL, PUT, LATER = (f"BTC/USD:BTC-{stem}" for stem in ("251226-60000-C", "251226-50000-P", "260327-70000-C"))
ETHER = "ETH/USD:ETH-251226-3000-C"
MARKET = Market(TIME, {CALL: 0.1, PUT: 0.02, LATER: 0.08, ETHER: 0.1}, {CALL: 0.1},
                {**INDEX, "BTC/USD": 60_000.0}, forwards={"BTC/USD:BTC-251226": 60_000.0})


def held(symbol: str, size: float) -> Position:
    return Position(RULES.instrument(symbol), "cross", "net", size, 0.1, 1.0)


def order(number: int, symbol: str, side: str, size: float, reduce: bool = False) -> Order:
    return Order(number, RULES.instrument(symbol), side, size, 0.1, "cross", "net", 1.0, reduce)


def test_the_factor_is_set_by_all_that_is_short_or_may_be_of_the_coin() -> None:
    positions = [held(CALL, -30.0), held(PUT, -20.0), held(LATER, 0.5), held(ETHER, -7.0)]
    orders = Orders.of(order(1, CALL, "sell", 5.0), order(2, CALL, "sell", 3.0, True), order(3, PUT, "buy", 11.0),
                       order(4, ETHER, "sell", 13.0))
    bitcoin, ether = (RULES.instrument(symbol).family for symbol in (CALL, ETHER))
    assert RULES.instrument(LATER).family == bitcoin != ether
    assert options.short_contracts(positions, orders, bitcoin) == 55.0
    assert options.short_contracts(positions, orders, ether) == 20.0
    assert options.short_contracts(positions, None, bitcoin) == 50.0


def test_buying_back_reserves_what_the_price_is_beyond_the_margin_of_what_it_closes() -> None:
    """Initial margin of a call at the money is 0.15 + 0.1 a coin: at 0.3 a coin 0.05 are missing."""
    call = RULES.instrument(CALL)
    initial = float(options.short_initial(call, MARKET, RULES, 100.0)) / 0.01
    assert initial == pytest.approx(0.25)
    buy = Order(1, call, "buy", 100.0, 0.3, "cross")
    whole, part, none = (float(options.order_margin(buy, opens, 100.0, MARKET, RULES)) for opens in (0.0, 40.0, 100.0))
    assert [whole, part] == pytest.approx([0.05, 0.03])
    assert none == 0.0


def test_in_2020_orders_of_options_held_their_fee_too() -> None:
    """0.03 % of a coin each (rewrites of the page of that year)."""
    call = RULES.instrument(CALL)
    old = PAPER.as_of(parse_time("2020-06-01T00:00:00Z", ""), "nearest")
    for side, price, needs in (("buy", 0.3, 0.05), ("sell", 0.01, 0.24)):
        one = Order(1, call, side, 100.0, price, "cross")
        opens = 0.0 if side == "buy" else 100.0
        now, then = (options.order_margin(one, opens, 100.0, MARKET, rules) for rules in (RULES, old))
        assert now == pytest.approx(needs)
        short = [float(options.short_initial(call, MARKET, rules, 100.0)) / 0.01 for rules in (RULES, old)]
        sign = 1 if side == "sell" else -1
        assert then == pytest.approx(needs + sign * (short[1] - short[0]) + old.fees("option").taker)


def test_a_bought_option_asks_for_nothing() -> None:
    account = Account({"BTC": 1.0})
    account.adopt(held(CALL, 10.0))
    (row,) = assess(account, CROSS, MARKET, RULES).positions
    assert (row.initial_margin, row.maintenance_margin, row.liquidation_fee) == (0.0, 0.0, 0.0)
    assert options.charge(held(CALL, 1.0), MARKET, RULES, 0.0) == ()  # nor one contract


def test_the_row_of_a_sold_option_whole() -> None:
    """A tenth of a bitcoin short at 0.08, now 0.1: worth 0.01 BTC at 60,000 USD, of which 0.002 are lost."""
    account = Account({"BTC": 1.0})
    account.adopt(replace(held(CALL, -10.0), entry_price=0.08))
    (row,) = assess(account, CROSS, MARKET, RULES).positions
    assert [row.notional, row.notional_usd, row.option_value] == pytest.approx([0.01, 600.0, -0.01])
    assert [row.unrealised_pnl, row.unrealised_pnl_ratio] == pytest.approx([-0.002, -0.25])
    assert (row.leverage, row.tier, row.available_assets) == (1.0, 1, 10.0)
    assert (row.contracts, row.entry_price, row.mark_price, row.break_even_price) == (-10.0, 0.08, 0.1, 0.08)
    bs, pa = options.greeks(RULES.instrument(CALL), MARKET)
    told = [row.delta, row.gamma, row.vega, row.theta, row.delta_pa, row.gamma_pa, row.vega_pa, row.theta_pa]
    known = [float(x) for each in (bs, pa) for x in (each.delta, each.gamma, each.vega, each.theta)]
    assert told == pytest.approx([-0.1 * x for x in known])
    assert 0.4 < known[0] < 0.7


# -- options settled in a stablecoin: the same in coins, told at the index ---------------------------------------------

LINEAR = "BTC/USDT:USDT-251226-60000-C"
BOTH = PAPER.overlay(instruments={LINEAR: {"contract_size": 0.01}}).as_of(TIME, "nearest")
INDEXES = {"BTC/USDT": 60_000.0, "BTC/USD": 60_000.0, "USDT/USD": 1.0, "USDC/USD": 1.0, "USD/USDT": 1.0}
BESIDE = Market(TIME, {CALL: 0.1, LINEAR: 6_000.0}, {CALL: 0.1, LINEAR: 6_000.0}, INDEXES,
                forwards={"BTC/USD:BTC-251226": 60_000.0, "BTC/USDT:USDT-251226": 60_000.0})


def test_what_a_seller_holds_in_a_stablecoin_is_what_it_holds_in_coins_at_the_index() -> None:
    """A tenth of a bitcoin at the money: 0.015 + 0.01 BTC, fee 0.03 % of 0.1 BTC."""
    sold = [Position(BOTH.instrument(symbol), "cross", "net", -10.0, 0.1, 1.0) for symbol in (CALL, LINEAR)]
    coin, usdt = (options.charge(one, BESIDE, BOTH, 10.0)[0] for one in sold)
    assert (coin.name, coin.unit) == ("option margin", CALL)
    assert [coin.initial, coin.fee] == pytest.approx([0.025, 0.00003])
    taker = BOTH.fees("option").taker
    assert coin.detail == pytest.approx({"factor": 1.0, "taker": taker, "notional": 0.1, "mark": 0.1})
    assert usdt.detail == pytest.approx({"factor": 1.0, "taker": taker, "notional": 6_000.0, "mark": 6_000.0})
    for ours, theirs in ((usdt.initial, coin.initial), (usdt.maintenance, coin.maintenance), (usdt.fee, coin.fee)):
        assert ours == pytest.approx(60_000.0 * float(theirs))
    fees = [float(options.trading_fee(BOTH.instrument(symbol), 10.0, price, taker, BESIDE, BOTH))
            for symbol, price in ((CALL, 0.1), (LINEAR, 6_000.0))]
    assert fees == pytest.approx([0.00003, 1.8])


def test_a_mark_in_a_stablecoin_implies_the_vol_of_the_same_mark_in_coins() -> None:
    coin, usdt = (options.greeks(BOTH.instrument(symbol), BESIDE) for symbol in (CALL, LINEAR))
    for one, other in zip(coin, usdt, strict=True):
        for name in ("delta", "gamma", "vega", "theta"):
            assert getattr(other, name) == pytest.approx(float(getattr(one, name)), rel=1e-9)


IN_THE_MONEY = "BTC/USD:BTC-251226-50000-C"
CHEAP = replace(BESIDE, marks={**BESIDE.marks, IN_THE_MONEY: 0.1})  # less than its 10,000 / 60,000


def test_below_its_payoff_an_option_has_the_greeks_of_the_payoff() -> None:
    bs, pa = options.greeks(BOTH.instrument(IN_THE_MONEY), CHEAP)
    assert [bs.delta, bs.gamma, bs.vega] == [1.0, 0.0, 0.0]
    assert [pa.delta, pa.vega, pa.theta] == pytest.approx([50_000.0 / 60_000.0, 0.0, 0.0])


def test_prices_that_move_take_options_along_at_the_vol_their_marks_imply() -> None:
    """A tenth down: a coin is worth less, a dollar is not; an option below its payoff is worth the payoff there."""
    swap = "BTC/USDT:USDT"
    at = replace(CHEAP, marks={**CHEAP.marks, swap: 60_100.0}, lasts={**CHEAP.lasts, swap: 60_200.0})
    held = [Position(BOTH.instrument(symbol), "cross", "net", -1.0, 0.1, 1.0)
            for symbol in (CALL, LINEAR, IN_THE_MONEY)]
    there = options.moved(at, held, -0.1)
    assert [there.mark(swap), there.last(swap)] == pytest.approx([54_090.0, 54_180.0])
    assert dict(there.indexes) == pytest.approx({**INDEXES, "BTC/USDT": 54_000.0, "BTC/USD": 54_000.0})
    assert dict(there.forwards) == pytest.approx(dict.fromkeys(at.forwards, 54000.0))
    assert there.mark(IN_THE_MONEY) == pytest.approx(4_000.0 / 54_000.0)
    assert there.mark(LINEAR) == pytest.approx(54_000.0 * float(there.mark(CALL)))
    assert there.last(CALL) == there.mark(CALL) < at.mark(CALL)
    years = options.years_left(BOTH.instrument(CALL), TIME)
    vols = [float(options.implied_vol(BOTH.instrument(CALL), market.mark(CALL), price, price, years))
            for market, price in ((at, 60_000.0), (there, 54_000.0))]
    assert vols[0] == pytest.approx(vols[1], rel=1e-9)


def test_the_time_left_of_many_instants_and_of_one() -> None:
    """77 days and 8 hours from the start of 10 October."""
    option = BOTH.instrument(CALL)
    one = options.years_left(option, TIME)
    assert type(one) is float
    assert one == pytest.approx((77 + 8 / 24) / 365)
    many = options.years_left(option, np.array([TIME, TIME + 86_400_000]))
    assert many == pytest.approx([one, one - 1 / 365])
