"""What a loan must hold, comes down by and shows, asked of spot margin alone: figures of paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import PositionReport
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import Number
from bt_margin.modes import spot_margin
from bt_margin.modes.assess import assess
from bt_margin.modes.cross import CROSS
from bt_margin.rules.book import Rules, load_rules

PAIR = "BTC/USDT"
TIME, OLD = 1_760_000_000_000, 1_724_716_800_000  # October 2025, August 2024
TIERS = [[5, 0.02, 0.1, 10], [10, 0.06, 0.125, 8], [20, 0.12, 0.2, 5], [40, 0.15, 0.25, 4]]
VENUE = load_rules("okx").as_of(TIME, "nearest")


def own(time: int = TIME, tiers: Any = TIERS, **more: Any) -> Rules:
    fees = {"margin": {"taker": 0.001, "maker": 0.001}}
    instruments = {PAIR: {"tiers": tiers, **more}}
    return load_rules("okx").overlay(instruments=instruments, fees=fees).as_of(time, "nearest")


RULES, COINS = own(), own(tiers=[[20, 0.02, 0.1, 10], [25, 0.025, 0.11, 9.09]])


def market(price: Number = 10_000.0, last: float = 11_000.0) -> Market:
    return Market(TIME, {PAIR: price}, {PAIR: last}, {"USDT/USD": 0.5, "BTC/USD": 5_000.0})


def loan(direction: str, debt: float, mode: str = "cross", currency: str = "USDT", rules: Rules = RULES,
         **more: Any) -> MarginPosition:
    """Two bitcoins, or the 20,000 USDT got for them, entered at 10,000, ten times."""
    about = {"assets": 2.0 if direction == "long" else 20_000.0, "liability": debt, **more}
    return MarginPosition(rules.instrument(PAIR), mode, "net", 2.0 if direction == "long" else -2.0, 10_000.0, 10.0,
                          direction=direction, margin_currency=currency, **about)


# -- tiers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rules", "price", "tier", "most"), [
    (VENUE, 100_000.0, 2, 1_550_000.0), (VENUE, 60_000.0, 2, 1_550_000.0),
    (COINS, 100_000.0, 1, 2_500_000.0), (COINS, 60_000.0, 2, 1_500_000.0),
])
def test_a_quote_debt_is_in_the_tiers_the_venue_printed_else_in_those_of_its_worth_in_coins(
    rules: Rules, price: float, tier: int, most: float
) -> None:
    """October 2025: 20 BTC or 1,250,000 USDT at 2 %, 25 or 1,550,000 at 2.5 %. A caller's own table is in coins."""
    long, short = loan("long", 1_300_000.0), loan("short", 22.0)
    assert spot_margin.tier_of(long, long.liability, price, rules).number == tier
    assert spot_margin.tier_of(short, short.liability, price, rules).number == 2
    assert spot_margin.largest_debt(long.instrument, "long", 9.0, price, rules) == most
    assert spot_margin.largest_debt(long.instrument, "short", 9.0, price, rules) == 25.0


def test_each_instant_has_the_rate_of_its_price_where_tiers_are_in_coins() -> None:
    prices = np.array([100_000.0, 60_000.0])
    for rules, rates in ((COINS, [0.02, 0.025]), (VENUE, [0.025, 0.025])):
        row = spot_margin.charge(loan("long", 1_300_000.0), market(prices), rules)
        assert np.broadcast_to(row.maintenance, 2).tolist() == pytest.approx([1_300_000.0 * rate for rate in rates])


def test_a_leverage_above_the_maximum_or_too_high_for_the_debt_is_refused() -> None:
    """Rule book section 3.2: 1,550,000 USDT at 9.09 times, 1,250,000 at ten."""
    for debt, leverage, says in (
        (1_550_000.0, 9.09, ""), (1_550_000.1, 9.09, "(59247)"), (1_300_000.0, 10.0, "(59247)"),
        (1_250_000.0, 10.0, ""), (1_250_000.0, 10.1, "(59102)"),
    ):
        found = spot_margin.leverage_refusal(loan("long", debt), leverage, 60_000.0, VENUE)
        assert found.endswith(says)
        assert bool(found) is bool(says)


# -- charges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "initial"), [("cross", 1_320.0), ("isolated", 1_100.0)])
def test_a_charge_whole(mode: str, initial: float) -> None:
    """1.1 BTC owed at 12,000: initial margin at the mark in cross, at the entry price in isolated."""
    row = spot_margin.charge(loan("short", 1.0, mode, interest=0.1), market(12_000.0), RULES)
    assert (row.name, row.unit) == ("loan margin", PAIR)
    assert [row.initial, row.maintenance, row.fee] == pytest.approx([initial, 264.0, 13_200 * 1.02 * 0.001])
    assert row.detail == {"rate": 0.02, "taker": 0.001, "notional": pytest.approx(13_200.0), "liability": 1.0,
                          "interest": 0.1}


# -- forced sizes -----------------------------------------------------------------------------------------------------


def cut(direction: str, debt: float, spare: float = -1.0, time: int = OLD, currency: str = "USDT",
        **more: Any) -> float:
    rules = own(time, **more)
    return spot_margin.forced_size(loan(direction, debt, "isolated", currency, rules), market(), rules, spare)


def test_a_debt_comes_down_two_tiers_while_the_first_rate_would_save_it() -> None:
    """Official until about 2025-05, as for contracts: whole up to tier 2, above it to the ceiling two tiers down."""
    assert own(OLD).liquidation.step == "two-tiers"
    assert [cut("short", debt) for debt in (4.0, 8.0, 10.0)] == [2.0, 2.0, 2.0]
    assert cut("short", 12.0) == pytest.approx(2.0 * 7 / 12)  # to 5
    assert cut("short", 25.0) == pytest.approx(2.0 * 15 / 25)  # to 10
    assert cut("long", 120_000.0) == pytest.approx(2.0 * 7 / 12)  # 12 bitcoins of them at 10,000


def test_what_saves_a_debt_is_told_in_the_currency_of_its_margin() -> None:
    """12 BTC at 12 % instead of 2 % hold 1.2 BTC, or 12,000 USDT, more than they would."""
    for currency, relief, hair in (("USDT", 12_000.0, 0.5), ("BTC", 1.2, 1e-9)):
        assert cut("short", 12.0, hair - relief, currency=currency) < 1.2
        for spare in (-relief, -relief - hair):
            assert cut("short", 12.0, spare, currency=currency) == 2.0


def test_a_debt_comes_down_one_tier_rounded_up_to_a_lot() -> None:
    assert own().liquidation.step == "one-tier"
    assert cut("short", 4.0, time=TIME) == 2.0
    assert cut("short", 12.0, time=TIME, lot=0.01) == 0.34  # 2 x 2 / 12, and a lot
    assert cut("long", 120_000.0, time=TIME, lot=0.01) == 0.34
    assert cut("short", 10.5, time=TIME, lot=0.01) == pytest.approx(0.1)  # 2 x 0.5 / 10.5, and a lot
    whole = cut("short", 12.0, time=TIME, lot=0.0)  # sizes of any fineness: a hair more
    assert 1 / 3 < whole < (1 / 3) * (1 + 1e-8)


# -- report -----------------------------------------------------------------------------------------------------------


def left(position: MarginPosition, *orders: tuple[str, float, float | None, str], rules: Rules = RULES) -> float:
    placed = [Order(n, position.instrument, side, size, price, mode, "net", 10.0, margin_currency="USDT")
              for n, (side, size, price, mode) in enumerate(orders)]
    return spot_margin.available_assets(position, placed, market(), rules)


def test_closing_orders_give_away_what_is_available() -> None:
    long, short = loan("long", 9_000.0), loan("short", 1.0)
    assert left(long) == 2.0
    assert left(long, ("sell", 0.5, 12_000.0, "cross"), ("sell", 0.25, None, "cross")) == 1.25
    assert left(long, ("buy", 0.5, 9_000.0, "cross"), ("sell", 0.5, 12_000.0, "isolated")) == 2.0
    assert left(long, ("sell", 1.5, 12_000.0, "cross"), ("sell", 1.5, 12_000.0, "cross")) == 0.0
    assert left(short, ("buy", 0.5, 9_000.0, "cross")) == 15_500.0
    assert left(short, ("buy", 0.5, None, "cross")) == 14_500.0  # at the last price


def test_posted_margin_was_available_too_until_2025_in_isolated() -> None:
    """Until 2025-02-17 the venue counted it among the assets; an order gives away no more than was bought."""
    old = own(OLD)
    for mode, margin, now, then in (("isolated", 0.3, 2.0, 2.3), ("cross", 0.0, 2.0, 2.0)):
        position = loan("long", 9_000.0, mode, "BTC", margin=margin)
        assert [left(position, rules=rules) for rules in (RULES, old)] == [now, then]
    position = loan("long", 9_000.0, "isolated", "BTC", margin=0.3)
    assert left(position, ("sell", 5.0, 12_000.0, "isolated"), rules=old) == pytest.approx(0.3)


def test_only_isolated_positions_of_that_time_have_unusual_collateral() -> None:
    """Before 2025-02-17 longs posted base coin, shorts quote coin (rule book section 3.2); cross either."""
    old = own(OLD)
    usual = [loan("long", 1.0, "isolated", "BTC"), loan("short", 1.0, "isolated", "USDT")]
    cross = [loan("long", 1.0, currency="USDT"), loan("short", 1.0, currency="BTC")]
    odd = [loan("long", 1.0, "isolated", "USDT"), loan("short", 1.0, "isolated", "BTC")]
    assert spot_margin.unusual_collateral([*usual, *cross], old) == []
    assert spot_margin.unusual_collateral(odd, RULES) == []
    assert [said.partition(": ")[2] for said in spot_margin.unusual_collateral(odd, old)] == [
        "isolated margin of a long was BTC only at that time, the book has USDT",
        "isolated margin of a short was USDT only at that time, the book has BTC"]


def test_at_the_break_even_price_the_assets_repay_the_debt() -> None:
    """2 BTC sold at it less a fee of 1 %, 20,000 USDT of bitcoins bought at it less 1 % of them."""
    long, short = loan("long", 18_000.0, interest=9.0), loan("short", 1.5, interest=0.25)
    assert 2.0 * spot_margin.break_even_price(long, 0.01) * 0.99 == pytest.approx(18_009.0)
    assert 20_000.0 / spot_margin.break_even_price(short, 0.01) * 0.99 == pytest.approx(1.75)
    assert spot_margin.break_even_price(loan("long", 1.0, assets=0.0), 0.01) == 0.0
    assert spot_margin.break_even_price(loan("short", 0.0), 0.01) == 0.0


def row(position: MarginPosition) -> PositionReport:
    account = Account({"USDT": 50_000.0, "BTC": 10.0})
    account.adopt(position)
    (found,) = assess(account, CROSS, market(12_000.0), RULES).positions
    return found


def test_the_row_of_a_loan_whole() -> None:
    """A long of 2 BTC owing 18,000 USDT and 9 of interest, a short of 20,000 USDT owing 1.5 BTC, at 12,000; a USDT is
    worth half a dollar."""
    found = row(loan("long", 18_000.0, interest=9.0))
    assert [found.symbol, found.margin_mode, found.position_side, found.margin_currency] == [
        PAIR, "cross", "net", "USDT"]
    assert [found.contracts, found.entry_price, found.mark_price, found.leverage, found.tier] == [
        2.0, 10_000.0, 12_000.0, 10.0, 1]
    assert [found.notional, found.notional_usd, found.unrealised_pnl] == pytest.approx([18_009.0, 9_004.5, 5_991.0])
    assert found.unrealised_pnl_ratio == pytest.approx(5_991.0 / 1_800.9)  # of the initial margin at entry
    assert [found.initial_margin, found.maintenance_margin] == pytest.approx([1_800.9, 360.18])
    assert [found.assets, found.liability, found.interest, found.available_assets] == [2.0, 18_000.0, 9.0, 2.0]
    assert [found.delta, found.gamma, found.vega, found.theta] == [2.0, 0.0, 0.0, 0.0]
    short = row(loan("short", 1.5, interest=0.25, mode="isolated", margin=4_000.0))
    assert [short.delta, short.gamma, short.vega, short.theta] == [-1.75, 0.0, 0.0, 0.0]
    assert short.unrealised_pnl == pytest.approx(20_000.0 - 21_000.0)
    assert short.unrealised_pnl_ratio == pytest.approx(-0.25)  # of what was posted
    assert short.margin == 4_000.0
    assert row(loan("short", 1.5, mode="isolated", margin=0.0)).unrealised_pnl_ratio == 0.0
