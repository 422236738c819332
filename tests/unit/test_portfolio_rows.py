"""Rows of an account in portfolio margin: units, positions, orders by kind, debts, notes, what this mode has not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bt_margin.errors import NotSupported
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import AccountReport
from bt_margin.model.borrowing import SpotUse
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import options, portfolio_report
from bt_margin.modes.assess import assess
from bt_margin.modes.base import judge
from bt_margin.modes.portfolio import PORTFOLIO

from .test_portfolio_laws import INVERSE, OPTIONS, SWAP, Legs, instrument, market, pool, rules

AT = replace(market(usdt=0.9), lasts={OPTIONS[0]: 0.02, SWAP: 130_000.0})
HELD = pool([(SWAP, 100.0)], {"USDT": 1e6, "BTC": 3.0})


def adds(order: Order) -> float:
    """USD of initial margin that the account needs more."""
    both = (judge(one, AT, rules()).charges for one in (HELD.with_order(order), HELD))
    after, before = (sum(float(row.initial) for row in rows) for rows in both)
    return after - before


@pytest.mark.parametrize(("symbol", "side", "size", "price", "usd"), [
    (SWAP, "buy", 300.0, 120_000.0, 0.9), (INVERSE, "buy", 3_000.0, 120_000.0, 120_000.0),
    (OPTIONS[0], "sell", 500.0, 0.001, 120_000.0), (OPTIONS[0], "sell", 500.0, None, 120_000.0),
])
def test_an_order_is_told_in_the_currency_it_settles_in(symbol: str, side: str, size: float, price: float | None,
                                                        usd: float) -> None:
    order = Order(7, instrument(symbol), side, size, price, "cross")
    found = portfolio_report.order(HELD, order, AT, rules())
    assert adds(order) > 0
    assert found.initial_margin == pytest.approx(adds(order) / usd)
    assert (found.symbol, found.side, found.amount, found.price) == (symbol, side, size, price)
    assert (found.order_loss, found.accepted, found.reason, found.shortfall) == (0.0, True, "", 0.0)
    coins = 0.01 * size
    known = {SWAP: coins * 120_000.0 * 0.0005, INVERSE: 100 * size / 120_000.0 * 0.0005,
             OPTIONS[0]: coins * min(0.0003, 0.125 * (0.02 if price is None else price))}
    assert found.fee == pytest.approx(known[symbol])


def test_a_spot_order_is_told_in_what_it_gives() -> None:
    """A bitcoin for 120,000 USD: that much is not there, and borrowed."""
    poor = pool([(SWAP, 100.0)], {"USDT": 10_000.0, "BTC": 3.0})
    order = Order(7, rules().instrument("BTC/USDT"), "buy", 1.0, 120_000.0, "cross")
    both = (judge(one, AT, rules()).charges for one in (poor.with_order(order), poor))
    after, before = (sum(float(row.initial) for row in rows) for rows in both)
    found = portfolio_report.order(poor, order, AT, rules())
    assert after - before > 1_000
    assert found.initial_margin == pytest.approx((after - before) / 0.9)
    assert found.fee == pytest.approx(120_000 * rules().fees("spot").taker)


@pytest.mark.parametrize(("coins", "owes"), [(0.0, False), (0.5, False), (-0.5, True), (-2.0, True)])
def test_a_debt_has_a_row_and_nothing_else_has(coins: float, owes: bool) -> None:
    found = [row.unit for row in judge(pool([], {"USDT": 1e6, "BTC": coins}), AT, rules()).charges if row.name == "MR8"]
    assert found == (["BTC"] if owes else [])


def test_the_account_is_one_pool_in_dollars_whose_money_is_its_holdings() -> None:
    held = pool([(SWAP, 100.0)], {"USDT": 1e6, "BTC": 3.0})
    assert (held.name, held.currency, held.cash) == ("account", "USD", 0.0)
    assert held.holdings is not None
    assert held.holdings.balances == {"USDT": 1e6, "BTC": 3.0}


def test_what_this_mode_has_not() -> None:
    account = Account({"USDT": 1.0})
    account.adopt(MarginPosition(rules().instrument("BTC/USDT"), "cross", "net", 1.0, 6e4, 5.0, direction="long",
                                 margin_currency="USDT", assets=1.0, liability=6e4))
    with pytest.raises(NotSupported, match="BTC/USDT: portfolio margin has no cross loans"):
        list(PORTFOLIO.pools(account))
    account = Account({"USDT": 1.0}, "hedge")
    account.adopt(Position(instrument(SWAP), "cross", "long", 1.0, 6e4, 5.0))
    with pytest.raises(NotSupported, match="BTC/USDT:USDT: portfolio margin is one-way; give position_side net"):
        list(PORTFOLIO.pools(account))


# -- units and positions ---------------------------------------------------------------------------------------------


def assessed(
    legs: Legs, cash: dict[str, float], at: Market | None = None, *, entry: float = 100_000.0, isolated: Legs = (),
    unit: dict[str, str] | None = None, orders: Sequence[Order] = (), **over: Any,
) -> AccountReport:
    account = Account(cash)
    account.spot_use = SpotUse(unit=unit or {})
    for mode, some in (("cross", legs), ("isolated", isolated)):
        for symbol, size in some:
            price, margin = (0.05, 50.0) if symbol in OPTIONS else (entry, 0.0)
            held = Position(instrument(symbol), mode, "net", size, price, 1.0, margin if mode == "isolated" else 0.0)
            account.adopt(held)
    for order in orders:
        account.place(order)
    return assess(account, PORTFOLIO, market() if at is None else at, rules(**over))


def test_the_row_of_a_short_perpetual_whole() -> None:
    """10 BTC short from 100,000 USDT. The coin is at 120,000 USD, USDT at 0.9: the mark is 120,060 / 0.9 = 133,400."""
    (row,) = assessed([(SWAP, -1_000.0)], {"USDT": 2e6}, market(usdt=0.9)).positions
    assert (row.symbol, row.margin_mode, row.position_side, row.contracts) == (SWAP, "cross", "net", -1_000.0)
    assert [row.entry_price, row.mark_price, row.notional] == pytest.approx([100_000.0, 133_400.0, 1_334_000.0])
    assert row.notional_usd == pytest.approx(1_200_000.0)
    assert [row.unrealised_pnl, row.unrealised_pnl_ratio] == pytest.approx([-334_000.0, -0.334])
    assert (row.margin, row.initial_margin, row.maintenance_margin, row.liquidation_fee) == (0.0, None, None, None)
    assert (row.leverage, row.tier, row.available_assets, row.option_value) == (None, None, 1_000.0, 0.0)
    assert (row.delta, row.delta_pa) == (-10.0, -10.0)
    assert (row.gamma, row.vega, row.theta, row.gamma_pa, row.vega_pa, row.theta_pa) == (0.0,) * 6


def test_the_row_of_an_inverse_contract_is_worth_its_face() -> None:
    """1,200 contracts of 100 USD short: at its mark of 120,024 USD they are 0.99980 BTC."""
    (row,) = assessed([(INVERSE, -1_200.0)], {"BTC": 3.0}).positions
    assert row.notional_usd == 120_000.0
    assert row.delta == pytest.approx(-120_000.0 / 120_024.0)


def test_a_shorts_prices_rise_from_the_breach_with_orders_to_that_without_to_bankruptcy() -> None:
    sale = Order(1, instrument(SWAP), "sell", 300.0, None, "cross")
    (row,) = assessed([(SWAP, -1_000.0)], {"USDT": 5e5}, orders=[sale]).positions
    assert row.trigger_price is not None
    assert row.liquidation_price is not None
    assert row.bankruptcy_price is not None
    assert 120_060.0 < row.trigger_price < row.liquidation_price < row.bankruptcy_price


def test_a_units_greeks_are_those_of_its_cross_positions_and_its_spot() -> None:
    """A short perpetual of 10 BTC, two puts sold, 3 BTC less what these owe; the isolated put is a pool of its own."""
    legs = [(SWAP, -1_000.0), (OPTIONS[1], -200.0)]
    (unit,) = assessed(legs, {"USDT": 1e6, "BTC": 3.0}, isolated=[(OPTIONS[1], -300.0)]).risk_units
    bs, pa = options.greeks(instrument(OPTIONS[1]), market())
    assert unit.spot_in_use == pytest.approx(3.0 - 2.0 * float(market().mark(OPTIONS[1])))
    for told, each in (("", bs), ("_pa", pa)):
        assert getattr(unit, f"delta{told}") == pytest.approx(-10.0 + unit.spot_in_use - 2.0 * float(each.delta))
        for name in ("gamma", "vega", "theta"):
            assert getattr(unit, f"{name}{told}") == pytest.approx(-2.0 * float(getattr(each, name)))


def test_a_units_scenarios_and_worst_are_plain_numbers() -> None:
    """Of a short the still scenario gains nothing, not minus nothing."""
    (unit,) = assessed([(SWAP, -1_000.0)], {"USDT": 1e6}).risk_units
    assert list(unit.mr1_scenarios) == ["-0.12", "-0.08", "-0.04", "0", "0.04", "0.08", "0.12"]
    assert math.copysign(1.0, unit.mr1_scenarios["0"]["same"]) == 1.0
    assert unit.mr1_scenarios["0.12"] == pytest.approx(dict.fromkeys(("down", "same", "up"), -144_000.0))
    assert unit.mr1_worst["spot_shock"] == pytest.approx(0.12)
    assert unit.mr6_worst == pytest.approx({"spot_shock": 0.24, "pnl": -288_000.0})
    assert {type(x) for x in (*unit.mr1_worst.values(), *unit.mr6_worst.values())} == {float, str}
    assert unit.dominant == "MR1"


def test_an_account_of_nothing_has_no_leverage() -> None:
    """A contract at its entry price and no money: adjusted equity is zero, and what is divided by it is not told."""
    found = assessed([(SWAP, 100.0)], {"USDT": 0.0}, entry=120_060.0).account
    assert (found.adjusted_equity_usd, found.leverage) == (0.0, 0.0)
    assert found.notional_usd == 120_000.0


# -- notes -----------------------------------------------------------------------------------------------------------


def test_the_other_reading_of_spot_counts_only_where_spot_may_join_and_differs() -> None:
    """Profit of an inverse contract is equity, no cash. Where no unit was chosen neither reading hedges."""
    legs, cash = [(SWAP, -1_000.0), (INVERSE, 1_200.0)], {"USDT": 1e6, "BTC": 3.0}
    for held, joins, counts in ((legs, "automatic", True), (legs[:1], "automatic", False), (legs, "chosen", False)):
        (unit,) = assessed(held, cash, spot_in_use=joins).risk_units
        assert bool(unit.spot_in_use) is (joins == "automatic")
        assert ("spot_amount" in unit.inferred) is counts


def test_a_unit_that_rests_on_inferred_parameters_says_so() -> None:
    """MR4 of a lone perpetual is 0.2 % beside the 12 % of MR1: its kind is inferred, unless the user gave it."""
    found = assessed([(SWAP, -1_000.0)], {"USDT": 1e6})
    notes = [note for note in found.warnings if "inferred parameters" in note]
    assert notes == ["unit BTC: 2% of its maintenance margin rests on inferred parameters: mr4_kind"]
    mine = assessed([(SWAP, -1_000.0)], {"USDT": 1e6}, mr4_kind="tenors")
    assert mine.risk_units[0].inferred == ()
    assert not any("inferred" in note for note in mine.warnings)


@pytest.mark.parametrize(("coins", "unit", "told"), [
    ({"BTC": 1.0}, {}, True), ({}, {}, False), ({"BTC": 1.0}, {"BTC": "USDT"}, False)])
def test_coins_that_could_hedge_but_were_not_told_where(coins: dict[str, float], unit: dict[str, str],
                                                        told: bool) -> None:
    found = assessed([(SWAP, -100.0)], {"USDT": 1e6, **coins}, unit=unit, spot_in_use="chosen")
    assert any("spot in use: BTC hedges nothing" in note for note in found.warnings) is told


def test_a_family_may_hold_its_last_tier_and_no_contract_more() -> None:
    """Long or short; options have no such limit."""
    most = portfolio_report.limit(SWAP, rules())
    assert most == rules().tiers(SWAP).rows[-1].max_size
    assert most > rules().tiers(SWAP).rows[0].max_size
    for sign in (1.0, -1.0):
        assert portfolio_report.limit_notes(pool([(SWAP, sign * most)]), rules()) == []
        (note,) = portfolio_report.limit_notes(pool([(SWAP, sign * (most + 1.0))]), rules())
        assert note == f"position limit: {SWAP} holds {most + 1:,.10g} contracts, more than {most:,.10g}"
    assert portfolio_report.limit(SWAP, rules(position_limit="none")) is None
    assert portfolio_report.limit_notes(pool([(SWAP, most + 1.0)]), rules(position_limit="none")) == []
    assert portfolio_report.limit_notes(pool([(OPTIONS[0], -10.0)]), rules()) == []
