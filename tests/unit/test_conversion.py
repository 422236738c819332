"""Which coin pays for which debt, and how much of it, asked of the rules alone. Paper figures of `whole`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bt_margin.engine.builder import parse_time
from bt_margin.engine.engine import MarginEngine
from bt_margin.model.account import Position
from bt_margin.modes import borrow, conversion
from bt_margin.modes.base import Convert
from bt_margin.modes.currencies import Line
from tests.unit.whole import INDEX, PAPER, SWAP, engine, trade

OLD = parse_time("2022-01-01", "")


def test_what_comes_on_top_of_a_debt_repaid() -> None:
    """Everything goes through USDT: two fees where neither coin is; the penalty only in a liquidation."""
    assert conversion.gross(Convert("BTC", "USDT", 100.0, True, ""), 0.02, 0.001) == pytest.approx((2.0, 0.102))
    two = Convert("BTC", "ETH", 100.0, False, "")
    assert conversion.gross(two, 0.02, 0.001) == pytest.approx((0.0, 100.0 * (1.001**2 - 1.0)))
    e = engine({"USDT": 1.0})
    free = PAPER.overlay(parameters={"multi_currency": {"debt_penalty": "none"}}).as_of(e.market.time)
    forced = Convert("BTC", "USDT", 60_000.0, True, "")
    assert conversion.penalty_rate(forced, e.rules) == 0.04  # tier 2
    assert conversion.penalty_rate(forced, free) == 0.0
    assert conversion.penalty_rate(Convert("BTC", "USDT", 60_000.0, False, ""), e.rules) == 0.0


def test_only_cash_that_is_not_needed_may_be_sold() -> None:
    e = engine({"USDT": 1.0}, off=("ETH",))

    def line(cash: float, accrued: float, backing: float, currency: str = "BTC") -> Line:
        return Line(currency, cash, accrued, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, backing)

    lines = (line(10.0, 1.0, 20.0), line(10.0, 1.0, 4.0), line(10.0, 0.0, -3.0), line(9.0, 0.0, 9.0, "ETH"))
    assert [conversion.sellable(one, e.account_pool()) for one in lines] == [9.0, 4.0, 0.0, 0.0]


def collateral(e: MarginEngine) -> tuple[object, ...]:
    return conversion.convert_collateral(e.account_pool(), e.market, e.rules)


def test_the_largest_debt_in_dollars_comes_down_a_tier_paid_by_the_richest_coin() -> None:
    e = engine({"BTC": -0.2, "USDT": -1_000.0, "ETH": 20.0})
    assert collateral(e) == (Convert("ETH", "BTC", 0.2, True, "conversion of collateral"),)
    e = engine({"BTC": -2.5, "USDT": 400_000.0, "ETH": 200.0})  # 2 is the ceiling of tier 1, USDT goes before riches
    assert collateral(e) == (Convert("USDT", "BTC", 0.5, True, "conversion of collateral"),)
    e = engine({"BTC": -1.0, "ETH": 2.0})  # 6,000 of the 60,000 USD, penalty 2 % and two fees out of them
    (part,) = collateral(e)
    assert isinstance(part, Convert)
    assert part.amount == pytest.approx(0.1 / (1.02 * 1.001**2))


def test_nothing_is_converted_while_contracts_are_left_or_nothing_is_owed() -> None:
    assert collateral(engine({"USDT": 5.0, "BTC": 1.0})) == ()
    assert collateral(engine({"USDT": -5.0})) == ()
    e = engine({"USDT": 10_000.0, "BTC": -0.01})
    assert len(collateral(e)) == 1
    trade(e, SWAP, "buy", 1)
    assert collateral(e) == ()


def test_options_that_were_bought_are_no_hindrance_and_those_sold_are() -> None:
    """A long option cannot be closed by force to repay a debt, a short one is."""
    call = "BTC/USD:BTC-251226-60000-C"
    for size, converts in ((10.0, True), (-10.0, False)):
        e = engine({"BTC": -0.2, "ETH": 20.0})
        held = Position(e.rules.instrument(call), "cross", "net", size, 0.1, 1.0)
        market = replace(e.market, marks={**e.market.marks, call: 0.1}, forwards={"BTC/USD:BTC-251226": 60_000.0},
                         indexes={**e.market.indexes, "BTC/USD": 60_000.0})
        pool = replace(e.account_pool(), positions=(held,))
        assert bool(conversion.convert_collateral(pool, market, e.rules)) is converts


def repaid(e: MarginEngine) -> tuple[Convert, ...]:
    return conversion.repay_above_quota(e.account_pool(), e.market, e.rules)


def test_above_the_free_quota_the_coin_of_the_dated_order_pays() -> None:
    """Without auto-borrow: half the quota, or what brings the debt back to it (rule book section 5.1)."""
    for owed in (21_000.0, 35_000.0, 19_000.0):
        for time, pays in ((OLD, "ETH"), (parse_time("2025-10-10", ""), "BTC")):  # lowest rate first, highest first
            e = engine({"USDT": -owed, "BTC": 1.0, "ETH": 40.0}, auto=False, time=time)
            quota = e.rules.free_quota("USDT").amount
            assert quota == 20_000.0
            amount = max(10_000.0, owed - quota)
            want = (Convert(pays, "USDT", amount, False, "forced repayment"),) if owed > quota else ()
            assert repaid(e) == want
            assert repaid(engine({"USDT": -owed, "BTC": 1.0, "ETH": 40.0}, time=time)) == ()
    (paid,) = repaid(engine({"USDT": -35_000.0, "BTC": 0.05}, auto=False))  # 3,000 USD of a dear coin
    assert paid.amount == pytest.approx(3_000 / 1.001)
    index = {**INDEX, "SOL/USDT": 200.0}
    (paid,) = repaid(engine({"SOL": -1e-4, "BTC": 1.0}, auto=False, index=index))  # two cents of one without a quota
    assert (paid.sell, paid.buy, paid.amount) == ("BTC", "SOL", 1e-4)
    debt = {"BTC": -1.5}
    (paid,) = repaid(engine({**debt, "USDT": 200_000.0, "ETH": 40.0}, auto=False, time=OLD))
    assert (paid.sell, paid.buy) == ("USDT", "BTC")  # whatever its rate: everything is sold for it
    assert repaid(engine({"USDT": -35_000.0, "ETH": 1e-12}, auto=False)) == ()  # nothing to pay with
    worthless = PAPER.overlay(discounts={"ETH": []})
    assert repaid(engine({"USDT": -35_000.0, "ETH": 40.0}, auto=False, book=worthless)) == ()  # at rate 0: never


def test_of_coins_at_one_rate_the_most_liquid_is_sold_first() -> None:
    rates = {"AAVE": 0.9, "BTC": 0.9, "ETH": 0.9, "USDC": 0.9, "SOL": 0.95}
    for order, coins in (("highest-rate-first", ("SOL", "USDC", "BTC", "ETH", "AAVE")),
                         ("lowest-rate-first", ("USDC", "BTC", "ETH", "AAVE", "SOL"))):
        assert borrow.conversion_order(rates, order, conversion.LIQUID) == coins


def test_what_pays_for_a_debt_but_not_for_penalty_and_fees_buys_less() -> None:
    """4.04 ether are 0.202 BTC, which at 2 % and two fees buy not quite the 0.2 that are owed."""
    (part,) = collateral(engine({"BTC": -0.2, "ETH": 4.04}))
    assert isinstance(part, Convert)
    assert part.amount == pytest.approx(0.202 / (1.02 * 1.001**2), rel=1e-12)
    assert part.amount < 0.2
