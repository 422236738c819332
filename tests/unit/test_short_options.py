"""What sellers of options hold: whose contracts set the factor, what orders reserve."""

from __future__ import annotations

from dataclasses import replace

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
