"""Multi-currency margin over time: where debts come from, what they cost by the hour, how they are repaid."""

from __future__ import annotations

import numpy as np
import pytest

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.builder import parse_time
from bt_margin.errors import MissingPrice, NoRuleInForce
from bt_margin.model.ledger import EntryKind
from bt_margin.rules.book import load_rules
from bt_margin.rules.credit import RateSeries
from tests.unit.whole import (
    ETHPAIR,
    HOUR,
    PAIR,
    PAPER,
    SWAP,
    TIME,
    accruals,
    conserved,
    engine,
    entries,
    events,
    moved,
    names,
    trade,
)

RATE = 0.0001  # an hour
YEARLY = {"USDT": RATE * 8_760, "BTC": 2 * RATE * 8_760}

# -- where debts come from --------------------------------------------------------------------------------------------


def test_buying_spot_with_less_than_it_costs_borrows_the_rest() -> None:
    e = engine({"USDT": 50_000.0})
    trade(e, PAIR, "buy", 1.0)
    assert e.account.balance("USDT") == -10_000.0
    assert e.account.balance("BTC") == 0.999
    (borrowed,) = events(e, "Borrowed")
    assert (borrowed.currency, borrowed.amount, borrowed.pool) == ("USDT", 10_000.0, "account")
    assert e.at_risk
    conserved(e)


def test_selling_a_coin_that_is_not_held_borrows_it() -> None:
    e = engine({"USDT": 50_000.0})
    trade(e, PAIR, "sell", 0.5)
    assert e.account.balance("BTC") == -0.5
    assert e.account.balance("USDT") == 50_000.0 + 30_000 * 0.999
    report = e.assess()
    (pool,) = report.pools
    assert pool.equity == pytest.approx(79_970.0 - 30_000.0)  # a debt in full, USDT at 1
    assert pool.maintenance_margin == pytest.approx(30_000 * 0.02)
    assert pool.initial_margin == pytest.approx(30_000 * 0.1)
    assert pool.liquidation_fee == pytest.approx(30_000 * 1.02 * 0.001)


def test_the_fee_of_a_contract_is_borrowed_where_its_currency_is_not_held() -> None:
    e = engine({"BTC": 1.0})
    trade(e, SWAP, "buy", 100)
    assert e.account.balance("USDT") == pytest.approx(-60_000 * 0.0005)
    assert names(e) == ["Borrowed"]


def test_funding_is_borrowed_where_its_currency_is_not_held() -> None:
    series = FundingSeries(np.array([TIME + 8 * HOUR]), np.array([0.001]))
    e = engine({"BTC": 1.0}, funding={SWAP: series}, interest={"USDT": 0.0})
    trade(e, SWAP, "buy", 100)
    moved(e, 8 * HOUR)
    assert e.account.balance("USDT") == pytest.approx(-30.0 - 60.0)
    conserved(e)


def test_an_unrealised_loss_is_owed_without_a_negative_balance() -> None:
    e = engine({"BTC": 1.0, "USDT": 30.0})
    trade(e, SWAP, "buy", 100)
    moved(e, btc=55_000.0)
    assert e.account.balance("USDT") == pytest.approx(0.0)
    row = next(r for r in e.assess().currencies if r.currency == "USDT")
    assert (row.liability, row.unrealised_liability) == pytest.approx((5_000.0, 5_000.0))
    assert "Borrowed" not in names(e)  # the balance itself is not negative


def test_a_realised_loss_is_a_negative_balance() -> None:
    e = engine({"BTC": 1.0, "USDT": 30.0})
    trade(e, SWAP, "buy", 100)
    moved(e, btc=55_000.0)
    trade(e, SWAP, "sell", 100)
    assert e.account.balance("USDT") == pytest.approx(-5_000.0 - 27.5)
    assert names(e)[-1] == "Borrowed"
    assert e.at_risk


# -- what they cost ---------------------------------------------------------------------------------------------------


def test_interest_accrues_on_the_hour_and_is_deducted_an_hour_later() -> None:
    e = engine({"USDT": 50_000.0}, interest=YEARLY)
    moved(e, 55 * 60_000)
    trade(e, PAIR, "buy", 1.0)  # at 00:55
    moved(e, 5 * 60_000)
    assert e.account.accrued["USDT"] == pytest.approx(10_000 * RATE)  # a full hour for five minutes
    assert e.account.balance("USDT") == -10_000.0  # not deducted yet
    worth = e.equity_usd()
    assert worth == pytest.approx(0.999 * 60_000 - 10_000 - 1.0)  # but owed
    moved(e, HOUR)
    assert e.account.balance("USDT") == pytest.approx(-10_001.0)
    assert e.account.accrued["USDT"] == pytest.approx(10_001.0 * RATE)  # compounds by deduction
    conserved(e)


def test_between_deductions_interest_is_simple_and_by_deduction_it_compounds() -> None:
    e = engine({"USDT": 50_000.0}, interest=YEARLY)
    trade(e, PAIR, "buy", 1.0)
    moved(e, 24 * HOUR)
    assert [x.interest for x in accruals(e)] == pytest.approx([10_000 * (1 + RATE) ** n * RATE for n in range(24)])
    hourly = engine({"USDT": 50_000.0}, interest=YEARLY)
    trade(hourly, PAIR, "buy", 1.0)
    for _ in range(24):
        moved(hourly, HOUR)
    assert hourly.account.balances == e.account.balances  # one step or twenty-four


def test_the_base_is_what_stands_on_the_hour_not_what_stood_before() -> None:
    e = engine({"USDT": 50_000.0}, interest=YEARLY)
    trade(e, PAIR, "buy", 1.0)
    moved(e, 59 * 60_000)
    e.deposit("USDT", 6_000.0)
    moved(e, 60_000)
    assert [x.interest for x in accruals(e)] == pytest.approx([4_000 * RATE])


def test_borrowed_and_repaid_within_a_clock_hour_costs_nothing() -> None:
    e = engine({"USDT": 50_000.0}, interest=YEARLY)
    moved(e, 55 * 60_000)
    trade(e, PAIR, "buy", 1.0)
    moved(e, 2 * 60_000)
    e.deposit("USDT", 10_000.0)
    moved(e, 5 * HOUR)
    assert not entries(e, EntryKind.INTEREST)
    assert names(e) == ["Borrowed", "Repaid"]


def test_what_accrued_is_still_deducted_after_the_debt_is_gone() -> None:
    e = engine({"USDT": 50_000.0}, interest=YEARLY)
    trade(e, PAIR, "buy", 1.0)
    moved(e, HOUR)
    e.deposit("USDT", 20_000.0)
    moved(e, HOUR)
    assert e.account.balance("USDT") == pytest.approx(10_000.0 - 1.0)
    assert not e.account.accrued["USDT"]
    assert len(accruals(e)) == 1
    moved(e, 10 * HOUR)
    assert len(entries(e, EntryKind.INTEREST)) == 2
    conserved(e)


def test_with_auto_borrow_only_the_excess_of_an_unrealised_loss_costs() -> None:
    """Free quota of USDT: 20,000. A loss of 25,000 on 30 BTC: 5,000 bear interest, a fee owed in cash bears in full."""
    e = engine({"BTC": 30.0}, interest=YEARLY)
    trade(e, SWAP, "buy", 500)  # 5 BTC, fee 150
    moved(e, HOUR // 2, btc=55_000.0)
    moved(e, HOUR // 2)
    (hour,) = accruals(e)
    assert hour.interest == pytest.approx((150.0 + 5_000.0) * RATE)


def test_without_auto_borrow_cash_and_loss_share_the_quota() -> None:
    e = engine({"USDT": 151.0, "BTC": 30.0}, auto=False, interest=YEARLY, book=PAPER.overlay(
        parameters={"multi_currency": {"repay_share": 0.0}}))
    # available equity of USDT has to be there: a small swap at a leverage of 50 on 151 USDT
    trade(e, SWAP, "buy", 10, leverage=50)
    moved(e, HOUR, btc=50_000.0)  # 1,000 of loss, well within 20,000
    assert not accruals(e)
    assert next(r for r in e.assess().currencies if r.currency == "USDT").liability == pytest.approx(852.0)


def test_usdc_enlarges_the_quota_of_usdt() -> None:
    for usdc, bearing in ((0.0, 5_000.0), (3_000.0, 2_000.0), (6_000.0, 0.0)):
        e = engine({"BTC": 30.0, "USDC": usdc, "USDT": 150.0}, interest=YEARLY)
        trade(e, SWAP, "buy", 500)
        moved(e, HOUR, btc=55_000.0)
        assert sum(x.interest for x in accruals(e)) == pytest.approx(bearing * RATE)


def test_the_recorded_hours_of_october_are_charged() -> None:
    """2025-10-10: 5 % a year until 22:00, 1 % from then on."""
    for steps in ([HOUR] * 3, [3 * HOUR]):
        e = engine({"USDT": 50_000.0}, time=parse_time("2025-10-10T20:00:00Z", ""))
        trade(e, PAIR, "buy", 1.0)
        for step in steps:
            moved(e, step)
        first, second, third = (x.interest for x in accruals(e))
        assert first == pytest.approx(10_000 * 0.05 / 8_760)
        assert second == pytest.approx((10_000 + first) * 0.01 / 8_760)
        assert third == pytest.approx((10_000 + first + second) * 0.01 / 8_760)


@pytest.mark.parametrize("jump", [False, True])
def test_the_recorded_hours_are_charged_across_midnight(jump: bool) -> None:
    """However long the step, each hour costs what it cost: a bar of a day is twenty-four hours."""
    start = parse_time("2025-10-09T20:00:00Z", "")
    fine, coarse = (engine({"USDT": 50_000.0}, time=start) for _ in range(2))
    for e in (fine, coarse):
        trade(e, PAIR, "buy", 1.0)
    for _ in range(30):
        moved(fine, HOUR, jump=jump)
    moved(coarse, 30 * HOUR, jump=jump)
    assert len({round(x.interest, 6) for x in accruals(fine)}) > 2
    assert [x.note for x in accruals(coarse)] == [x.note for x in accruals(fine)]
    assert coarse.account.balances == fine.account.balances


def test_frozen_rules_charge_the_rate_of_their_date() -> None:
    book = PAPER.frozen_at(parse_time("2025-10-11", ""))
    e = engine({"USDT": 50_000.0}, time=parse_time("2023-05-01", ""), book=book)
    trade(e, PAIR, "buy", 1.0)
    moved(e, 2 * HOUR)
    assert {x.note for x in accruals(e)} == {f"rate {0.01 / 8_760:.8%}"}


def test_rates_of_ones_own_win_as_a_constant_and_as_a_series() -> None:
    series = RateSeries(np.array([TIME, TIME + 2 * HOUR]), np.array([0.1, 0.9]))
    e = engine({"USDT": 50_000.0}, interest={"USDT": series})
    trade(e, PAIR, "buy", 1.0)
    moved(e, 2 * HOUR)
    first, second = (x.interest for x in accruals(e))
    assert first == pytest.approx(10_000 * 0.1 / 8_760)
    assert second == pytest.approx((10_000 + first) * 0.9 / 8_760)
    late = engine({"USDT": 50_000.0}, interest={"USDT": RateSeries(np.array([TIME + 5 * HOUR]), np.array([0.1]))})
    trade(late, PAIR, "buy", 1.0)
    with pytest.raises(NoRuleInForce, match="begins after"):
        moved(late, HOUR)


def test_there_is_no_interest_on_what_is_held() -> None:
    e = engine({"USDT": 50_000.0, "BTC": 1.0}, interest=YEARLY)
    trade(e, SWAP, "buy", 10)
    moved(e, 48 * HOUR)
    assert not entries(e, EntryKind.INTEREST)


def test_two_debts_bear_their_own_rates() -> None:
    e = engine({"USDT": 1_000.0, "ETH": 40.0}, interest=YEARLY)
    trade(e, PAIR, "sell", 0.1)
    trade(e, ETHPAIR, "buy", 5.0)
    moved(e, HOUR)
    charged = {x.currency: x.interest for x in accruals(e)}
    owed = 15_000 - 1_000 - 6_000 * 0.999
    assert charged == pytest.approx({"USDT": owed * RATE, "BTC": 0.1 * 2 * RATE})


# -- how they are repaid ----------------------------------------------------------------------------------------------


def test_any_inflow_repays() -> None:
    def owing():
        e = engine({"BTC": 1.0, "ETH": 10.0}, interest={"USDT": 0.0}, funding={
            SWAP: FundingSeries(np.array([TIME + 8 * HOUR]), np.array([-0.01]))})
        trade(e, SWAP, "buy", 10)  # fee 3: owed
        assert names(e) == ["Borrowed"]
        return e

    deposit, sale, profit, funding = (owing() for _ in range(4))
    deposit.deposit("USDT", 3.0)
    trade(sale, ETHPAIR, "sell", 1.0)
    moved(profit, btc=61_000.0)
    trade(profit, SWAP, "sell", 10)
    moved(funding, 8 * HOUR)
    for e in (deposit, sale, profit, funding):
        assert names(e) == ["Borrowed", "Repaid"], e.account.balances
        conserved(e)


def test_a_partial_inflow_leaves_the_rest_owed() -> None:
    e = engine({"USDT": 50_000.0})
    trade(e, PAIR, "buy", 1.0)
    e.deposit("USDT", 4_000.0)
    assert (e.account.balance("USDT"), names(e)) == (-6_000.0, ["Borrowed"])


def test_a_short_in_coins_bought_back_is_repaid() -> None:
    e = engine({"USDT": 50_000.0}, interest={"BTC": 0.0})
    trade(e, PAIR, "sell", 0.1)
    trade(e, PAIR, "buy", 0.1002)
    assert e.account.balance("BTC") == pytest.approx(0.1002 * 0.999 - 0.1, abs=1e-8)
    assert names(e) == ["Borrowed", "Repaid"]


def test_lots_that_add_up_to_what_is_held_leave_no_dust_owed() -> None:
    """0.1 + 0.2 - 0.3 is not zero in floats: it must not become a debt that needs rules and bears interest."""
    free = PAPER.overlay(fees={"spot": {"maker": 0.0, "taker": 0.0}})
    for lots in ([0.1, 0.2], [0.7, 0.1], [0.1] * 3, [1.1, 2.2]):
        e = engine({"USDT": 500_000.0}, book=free)
        for size in lots:
            trade(e, PAIR, "buy", size)
        trade(e, PAIR, "sell", round(sum(lots), 8))
        assert e.account.balance("BTC") == 0.0, lots
        assert not e.at_risk
        assert not e.events
        conserved(e)


def test_a_purchase_of_all_the_cash_there_is_borrows_no_dust() -> None:
    free = PAPER.overlay(fees={"spot": {"maker": 0.0, "taker": 0.0}})
    e = engine({"USDT": 0.1 + 0.2}, book=free, prices={PAIR: 0.1}, index={PAIR: 0.1, "USDT/USD": 1.0})
    trade(e, PAIR, "buy", 3.0)
    assert (e.account.balance("USDT"), names(e)) == (0.0, [])
    e = engine({"USDT": 0.3}, book=free, prices={PAIR: 0.1}, index={PAIR: 0.1, "USDT/USD": 1.0})
    trade(e, PAIR, "buy", 3.0)  # 3 x 0.1 is a hair above 0.3
    assert (e.account.balance("USDT"), names(e)) == (0.0, [])


# -- forced repayment, auto-borrow off --------------------------------------------------------------------------------


def above_quota(time: str = "2025-10-10", **balances: float):
    e = engine({"USDT": 6_000.0, **balances}, auto=False, interest={"USDT": 0.0}, time=parse_time(time, ""))
    trade(e, SWAP, "buy", 400, leverage=50)  # 4 BTC: 4,800 of initial margin, fee 120
    return e


def test_above_the_quota_half_a_quota_and_more_is_bought_back() -> None:
    e = above_quota(BTC=4.0)
    moved(e, btc=54_000.0)  # 24,000 lost: 18,120 owed, within 20,000
    assert not events(e, "Converted")
    moved(e, btc=53_000.0)  # 22,120 owed
    (one,) = events(e, "Converted")
    assert (one.sold, one.bought, one.bought_amount) == ("BTC", "USDT", 10_000.0)  # half a quota
    assert one.penalty == 0.0
    assert one.fee == pytest.approx(10_000 * 0.001)
    assert one.sold_amount == pytest.approx(10_010 / 53_000)
    assert e.account.balance("USDT") == pytest.approx(5_880.0 + 10_000.0)
    conserved(e)


def test_far_above_the_quota_the_debt_is_brought_back_to_it() -> None:
    e = above_quota(BTC=10.0)
    moved(e, jump=True, btc=40_000.0)  # 80,000 lost, 74,120 owed
    bought = sum(x.bought_amount for x in events(e, "Converted"))
    assert bought == pytest.approx(74_120.0 - 20_000.0)
    assert next(r for r in e.assess().currencies if r.currency == "USDT").liability == pytest.approx(20_000.0)


@pytest.mark.parametrize(("time", "first"), [("2024-03-01", "ETH"), ("2024-12-01", "BTC")])
def test_which_coin_is_sold_first_is_a_dated_choice(time: str, first: str) -> None:
    e = above_quota(time, BTC=4.0, ETH=50.0)  # first discount rates 0.9 and 0.8
    moved(e, jump=True, btc=53_000.0)
    assert [x.sold for x in events(e, "Converted")] == [first]


def test_a_forced_repayment_of_a_coin_spends_usdt_first() -> None:
    inverse = "BTC/USD:BTC"
    book = PAPER.overlay(instruments={inverse: {"tiers": [[1e6, 0.01, 0.02, 50]]}})
    prices = {inverse: 60_000.0, PAIR: 60_000.0, ETHPAIR: 3_000.0}
    e = engine({"BTC": 0.2, "USDT": 50_000.0, "ETH": 100.0}, auto=False, book=book, prices=prices)
    trade(e, inverse, "sell", 5_000, leverage=50)  # short 500,000 USD
    moved(e, jump=True, btc=72_000.0)  # loses 500,000 (1/60,000 - 1/72,000) = 1.389 BTC: 1.197 owed, quota 1
    converted = events(e, "Converted")
    assert converted[0].sold == "USDT"
    assert converted[0].bought == "BTC"
    assert sum(x.bought_amount for x in converted) == pytest.approx(0.5)
    conserved(e)


def test_forced_repayment_ends_where_there_is_nothing_to_sell() -> None:
    e = above_quota(BTC=0.12)
    moved(e, jump=True, btc=53_500.0)
    assert e.account.balance("BTC") == pytest.approx(0.0, abs=1e-12)
    assert len(events(e, "Converted")) <= 2


def test_with_auto_borrow_nothing_is_repaid_by_force() -> None:
    e = engine({"USDT": 6_000.0, "BTC": 4.0}, interest={"USDT": 0.0})
    trade(e, SWAP, "buy", 400)
    moved(e, btc=53_000.0)
    assert not events(e, "Converted")


# -- the edges --------------------------------------------------------------------------------------------------------


def test_prices_that_are_none_raise() -> None:
    nan = float("nan")
    e = engine({"USDT": 50_000.0})
    trade(e, PAIR, "buy", 1.0)
    with pytest.raises(MissingPrice):
        moved(e, btc=nan)
    with pytest.raises(MissingPrice):
        moved(e, jump=True, btc=nan)


def test_rules_of_the_venue_play_this_mode_whole() -> None:
    """A week on the venue's own tables: coin collateral, both kinds of debt, interest, no error."""
    e = engine({"BTC": 2.0, "ETH": 20.0, "USDT": 10_000.0}, book=load_rules("okx"))
    trade(e, SWAP, "sell", 50)
    trade(e, ETHPAIR, "sell", 30.0)
    trade(e, PAIR, "buy", 3.0)
    for i in range(7 * 8):
        moved(e, 3 * HOUR, btc=60_000.0 + 700 * (i % 5), eth=3_000.0 + 50 * (i % 3))
    assert len({x.note for x in accruals(e)}) > 2
    assert e.present_ratio() > 1
    conserved(e)
