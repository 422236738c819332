"""Multi-currency margin in a crash, on paper numbers: phases, conversion tier by tier, what nobody can pay."""

from __future__ import annotations

import pytest

from bt_margin.engine.builder import parse_time
from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.ledger import EntryKind
from tests.unit.whole import (
    ETHPAIR,
    ETHSWAP,
    HOUR,
    INDEX,
    OKX,
    PAIR,
    PAPER,
    PRICES,
    SWAP,
    conserved,
    engine,
    entries,
    events,
    moved,
    names,
    refused,
    rest,
    trade,
)

FREE = {"USDT": 0.0, "BTC": 0.0, "ETH": 0.0}
OWED = 0.02 + 1.02 * 0.001  # what a debt in tier 1 must hold, fee included
HELD = 0.01 + 0.0005  # what a contract in tier 1 must hold

# -- a debt alone -----------------------------------------------------------------------------------------------------


def long_on_credit():
    """2 BTC of which 70,000 USDT are owed: tier 2 (4 %) of the currency; 1.998 BTC arrive."""
    e = engine({"USDT": 50_000.0}, leverage={"USDT": 5.0}, interest=FREE)
    trade(e, PAIR, "buy", 2.0)
    assert e.account.balances == {"USDT": -70_000.0, "BTC": 1.998}
    return e


def test_spot_on_credit_is_converted_one_tier_at_a_time_by_hand() -> None:
    e = long_on_credit()
    moved(e, btc=40_000.0)
    # 1.998 x 0.9 x P - 70,000 = 70,000 x (4 % + 1.04 x 0.1 %)
    price = 70_000 * (1 + 0.04 + 1.04 * 0.001) / (1.998 * 0.9)
    (one,) = events(e, "Converted")
    assert one.price == pytest.approx(price, rel=1e-9)
    assert one.margin_ratio == pytest.approx(1.0, abs=1e-9)
    assert one.bought_amount == pytest.approx(20_000.0)  # down to the ceiling of tier 1
    assert one.penalty == pytest.approx(20_000 * 0.02)  # the rate of the tier that 20,000 fall in
    assert one.fee == pytest.approx(20_400 * 0.001)
    assert one.sold_amount == pytest.approx(20_420.4 / price)
    assert e.account.balance("USDT") == pytest.approx(-50_000.0)
    assert "TakenOver" not in names(e)  # safe again: the rest of the debt goes on
    moved(e, btc=37_000.0)
    left = 1.998 - 20_420.4 / price
    second = 50_000 * (1 + OWED) / (left * 0.9)
    last = events(e, "Converted")[-1]
    assert last.price == pytest.approx(second, rel=1e-9)
    assert (last.bought_amount, last.penalty, last.fee) == pytest.approx((50_000.0, 1_000.0, 51.0))
    assert e.account.balance("USDT") == 0.0
    assert e.account.balance("BTC") == pytest.approx(left - 51_051 / second)
    assert names(e) == ["Borrowed", "Warned", "Converted", "Warned", "Converted", "Repaid", "TakenOver"]
    taken = e.events[-1]
    assert taken.loss == pytest.approx(1_051.0)  # penalty and fee: what is gone  # type: ignore[attr-defined]
    assert taken.refund == 0.0  # type: ignore[attr-defined]
    assert sum(x.fund for x in entries(e, EntryKind.PENALTY)) == pytest.approx(1_400.0)
    assert not e.at_risk
    conserved(e)


def test_a_gap_leaves_a_debt_that_the_insurance_fund_writes_off() -> None:
    e = long_on_credit()
    moved(e, jump=True, btc=600.0)  # 99 % down: 1,198.80 for a debt of 70,000
    assert names(e) == ["Borrowed", "Warned", "Converted", "Bankrupt", "Repaid", "TakenOver"]
    (one,), (bankrupt,) = events(e, "Converted"), events(e, "Bankrupt")
    assert one.sold_amount == 1.998
    share = 1.998 * 600 / 20_420.4
    assert one.bought_amount == pytest.approx(20_000 * share)
    assert (one.penalty, one.fee) == pytest.approx((400 * share, 20.4 * share))
    assert bankrupt.amount == pytest.approx(70_000 - 20_000 * share)
    assert e.account.fund["USDT"] == pytest.approx(400 * share - bankrupt.amount)
    assert e.account.balances == {"USDT": 0.0, "BTC": 0.0}
    taken = e.events[-1]
    assert taken.refund == pytest.approx(bankrupt.amount)  # type: ignore[attr-defined]
    conserved(e)


def test_a_bar_that_falls_99_per_cent_on_the_way_makes_no_deficit() -> None:
    e = long_on_credit()
    moved(e, btc=600.0)
    assert "Bankrupt" not in names(e)
    assert e.account.balance("USDT") == 0.0
    assert e.account.balance("BTC") > 0.05


def test_a_coin_sold_short_is_bought_back_when_it_rises() -> None:
    e = engine({"USDT": 20_000.0}, interest=FREE)
    trade(e, PAIR, "sell", 0.5)
    cash = 20_000 + 30_000 * 0.999
    moved(e, btc=120_000.0)
    price = cash / (0.5 * (1 + OWED))
    (one,) = events(e, "Converted")
    assert (one.sold, one.bought, one.bought_amount) == ("USDT", "BTC", 0.5)
    assert 1 / one.price == pytest.approx(price, rel=1e-9)
    assert one.penalty == pytest.approx(0.01)
    assert one.fee == pytest.approx(0.51 * 0.001)
    assert e.account.balance("BTC") == 0.0
    assert e.account.balance("USDT") == pytest.approx(cash - 0.51051 * price)


def test_a_debt_in_a_coin_paid_by_another_coin_takes_two_trades() -> None:
    for slippage in (0.0, 0.01):
        e = engine({"ETH": 20.0}, interest=FREE, slippage=slippage)
        trade(e, PAIR, "sell", 0.5)
        e.deposit("USDT", -e.transferable("USDT"))
        before = e.account.balance("USDT")
        assert before == pytest.approx(0.0, abs=1e-9)
        moved(e, jump=True, btc=100_000.0)
        through = next(x for x in events(e, "Converted") if x.sold == "ETH")
        assert through.fee == pytest.approx((through.bought_amount + through.penalty) * (1.001**2 - 1))
        assert through.price == pytest.approx(3_000 / 100_000 * (1 - slippage) ** 2)
        conserved(e)


def test_usdt_is_spent_before_the_richest_coin() -> None:
    e = engine({"USDT": 1_000.0, "ETH": 5.0, "BTC": 0.02}, interest=FREE, book=PAPER)
    trade(e, ETHPAIR, "buy", 12.0)  # 35,000 owed
    e.deposit("USDC", 0.0)
    trade(e, PAIR, "sell", 0.03)  # 0.01 BTC owed
    moved(e, jump=True, eth=2_100.0)
    assert events(e, "Converted")
    assert {x.sold for x in events(e, "Converted")} <= {"ETH", "USDT"}
    assert events(e, "Converted")[0].bought == "USDT"  # the largest debt first
    conserved(e)


# -- contracts and debts ----------------------------------------------------------------------------------------------


def test_a_long_on_its_own_coin_dies_by_hand() -> None:
    """1 BTC behind 1 BTC of swap: the loss is a USDT debt while the collateral falls."""
    e = engine({"BTC": 1.0}, interest=FREE)
    trade(e, SWAP, "buy", 100)
    moved(e, btc=20_000.0)
    price = 60_030 * (1 + OWED) / (1.9 - HELD + OWED)
    (reduced,), (one,) = events(e, "Reduced"), events(e, "Converted")
    assert reduced.price == pytest.approx(price, rel=1e-9)
    assert (reduced.penalty, reduced.fee) == pytest.approx((price * 0.01, price * 0.0005))
    debt = 60_030 - price + price * HELD
    assert price * 0.9 - debt < debt * OWED  # closing the swap was not enough
    assert one.bought_amount == pytest.approx(debt)
    assert (one.penalty, one.fee) == pytest.approx((debt * 0.02, debt * 1.02 * 0.001))
    assert e.account.balance("BTC") == pytest.approx(1 - debt * 1.02 * 1.001 / price)
    assert names(e) == ["Borrowed", "Warned", "Reduced", "Converted", "Repaid", "TakenOver"]
    conserved(e)


def test_the_same_long_on_stablecoins_of_equal_value_lives() -> None:
    coin, cash = engine({"BTC": 1.0}, interest=FREE), engine({"USDT": 60_000.0}, interest=FREE)
    for e in (coin, cash):
        trade(e, SWAP, "buy", 100)
        moved(e, btc=30_000.0)
    assert "TakenOver" in names(coin)
    assert not events(cash, "Reduced")
    assert cash.account.positions


def test_phases_before_conversion_and_never_the_other_way_round() -> None:
    """Hedge mode: the pair first, then the unhedged rest by largest relief, collateral last."""
    e = engine({"BTC": 1.0}, hedge=True, interest=FREE)
    trade(e, SWAP, "buy", 120, leg="long")
    trade(e, SWAP, "sell", 20, leg="short")
    trade(e, ETHSWAP, "buy", 20, leg="long")
    moved(e, jump=True, btc=28_000.0, eth=1_500.0)
    steps = [x.step if x.name == "Reduced" else x.reason for x in e.events if x.name in ("Reduced", "Converted")]  # type: ignore[attr-defined]
    assert steps == ["hedged pair", "hedged pair", "unhedged position", "unhedged position", "conversion of collateral"]
    assert not e.account.positions
    conserved(e)


def test_a_position_comes_down_one_tier_and_may_be_rescued_by_it() -> None:
    e = engine({"USDT": 100_000.0}, interest=FREE)
    trade(e, SWAP, "buy", 1_500)  # 15 BTC, tier 2: 2 %
    moved(e, btc=54_400.0)
    # 100,000 - 450 - 15 x (60,000 - P) = 15 P x 2.05 %
    price = (15 * 60_000 - 99_550) / (15 * (1 - 0.0205))
    (reduced,) = events(e, "Reduced")
    assert reduced.price == pytest.approx(price)
    assert (reduced.size, reduced.remaining) == (-1_000.0, 500.0)
    assert reduced.penalty == pytest.approx(10 * price * 0.02)
    assert not events(e, "TakenOver")


def test_everything_in_order_when_a_gap_takes_it_all() -> None:
    e = engine({"BTC": 1.0, "ETH": 2.0}, interest=FREE)
    trade(e, SWAP, "buy", 200)
    rest(e, PAIR, "buy", 0.1, 50_000.0)
    moved(e, jump=True, btc=10_000.0)
    told = [name for name, before in zip(names(e), ["", *names(e)], strict=False) if name != before]
    assert told == ["Borrowed", "OrdersCancelled", "Warned", "Reduced", "Converted", "Bankrupt", "Repaid", "TakenOver"]
    sold = list(dict.fromkeys(x.sold for x in events(e, "Converted")))
    assert sold == ["BTC", "ETH"]  # the richest first
    taken = e.events[-1]
    assert [key.symbol for key in taken.keys] == [SWAP]  # type: ignore[attr-defined]
    assert all(amount == 0.0 for amount in e.account.balances.values())
    conserved(e)


# -- risk control -----------------------------------------------------------------------------------------------------


def test_orders_go_by_the_account_test_before_a_liquidation() -> None:
    """Adjusted equity below maintenance margin + initial margin of orders + fees: 10 contracts at 10x need 6,000."""
    e = engine({"USDT": 20_000.0}, interest=FREE)
    trade(e, SWAP, "buy", 100)
    add = rest(e, SWAP, "buy", 100, 59_000.0)
    out = rest(e, SWAP, "sell", 100, 70_000.0, reduce=True)
    moved(e, btc=53_000.0)
    assert not events(e, "OrdersCancelled")
    moved(e, btc=45_000.0)
    (gone,) = events(e, "OrdersCancelled")
    assert gone.orders == (add.id,)
    assert "risk control" in gone.reason
    assert list(e.account.orders) == [out.id]
    assert not events(e, "Reduced")
    assert e.present_ratio() > 1.0


def test_orders_of_a_currency_go_when_its_balance_no_longer_covers_them() -> None:
    """An isolated opening (until July 2025) has to be paid in its own coin, which a realised loss has used up."""
    e = engine({"USDT": 3_000.0, "BTC": 1.0}, time=parse_time("2025-07-01", ""), interest=FREE)
    isolated = rest(e, ETHSWAP, "buy", 80, 2_900.0, mode="isolated")  # 2,320 and its fee
    spot = rest(e, PAIR, "buy", 0.01, 50_000.0)
    trade(e, SWAP, "buy", 20)
    moved(e, btc=57_000.0)
    trade(e, SWAP, "sell", 20)  # 600 lost
    moved(e)
    assert not events(e, "OrdersCancelled")  # 2,388 left
    trade(e, SWAP, "buy", 20)
    moved(e, btc=55_000.0)
    trade(e, SWAP, "sell", 20)  # 400 more
    moved(e)
    (gone,) = events(e, "OrdersCancelled")
    assert gone.orders == (isolated.id,)
    assert list(e.account.orders) == [spot.id]  # a spot order may borrow


def test_an_order_that_rests_at_the_moment_of_liquidation_goes_first_and_may_save_the_pool() -> None:
    late = PAPER.overlay(parameters={"multi_currency": {"early_cancel": "none"}})
    saved = engine({"USDT": 20_000.0}, interest=FREE, book=late)
    trade(saved, SWAP, "buy", 100)
    rest(saved, SWAP, "buy", 200, 59_900.0)
    moved(saved, btc=41_200.0)
    assert [n for n in names(saved) if n != "Warned"] == ["OrdersCancelled"]
    assert "before liquidation" in events(saved, "OrdersCancelled")[0].reason
    assert saved.account.positions
    assert not saved.account.orders


def test_spot_orders_that_would_borrow_go_before_coins_are_sold() -> None:
    late = PAPER.overlay(parameters={"multi_currency": {"early_cancel": "none"}})
    e = engine({"USDT": 30_000.0, "BTC": 0.3}, interest=FREE, book=late)
    trade(e, PAIR, "sell", 0.5)
    rest(e, PAIR, "sell", 0.3, 61_000.0)
    moved(e, btc=320_000.0)
    kinds = [n for n in names(e) if n in ("OrdersCancelled", "Converted")]
    assert kinds[0] == "OrdersCancelled"
    assert "Converted" in kinds


# -- collateral, depeg, rules that change -----------------------------------------------------------------------------


def test_a_coin_out_of_the_collateral_backs_nothing_and_is_never_sold() -> None:
    on, off = engine({"BTC": 1.0, "ETH": 10.0}), engine({"BTC": 1.0, "ETH": 10.0}, off=("ETH",))
    assert on.available("USDT") - off.available("USDT") == pytest.approx(10 * 3_000 * 0.8)
    trade(off, SWAP, "buy", 200)
    moved(off, jump=True, btc=20_000.0)
    assert off.account.balance("ETH") == 10.0
    assert off.account.balance("BTC") == 0.0
    assert events(off, "Bankrupt")
    assert "ETH" not in {x.sold for x in events(off, "Converted")}
    with pytest.raises(InputError, match="2025-03-26"):
        engine({"ETH": 1.0}, off=("ETH",), time=parse_time("2025-01-01", ""))


def test_a_depeg_of_the_collateral_liquidates_a_debt_in_coins() -> None:
    index = {"BTC/USD": 60_000.0, "ETH/USD": 3_000.0, "USDT/USD": 1.0}
    e = engine({"USDT": 20_000.0}, index=index, interest=FREE)
    trade(e, PAIR, "sell", 0.2)
    cash = 20_000 + 12_000 * 0.999
    moved(e, usdt=0.9)
    assert e.assess().account.adjusted_equity_usd == pytest.approx(cash * 0.9 - 12_000)
    moved(e, usdt=0.3)
    (one,) = events(e, "Converted")
    peg = 12_000 * (1 + OWED) / cash
    assert one.price == pytest.approx(peg / 60_000)
    assert e.account.balance("USDT") == pytest.approx(cash - 0.2 * 1.02 * 1.001 * 60_000 / peg)


def test_a_depeg_leaves_the_ratio_of_an_account_all_in_that_coin() -> None:
    e = engine({"USDT": 20_000.0}, interest=FREE)
    trade(e, SWAP, "buy", 100)
    before = e.present_ratio()
    moved(e, usdt=0.6)
    assert e.present_ratio() == pytest.approx(before)
    assert e.equity_usd() == pytest.approx(19_970 * 0.6)


NOON = parse_time("2022-05-12T12:00:00Z", "")
LUNA = {"LUNA/USDT": 2.0}


def test_the_day_luna_stopped_counting() -> None:
    """120,000 USD of LUNA count 108,000, from 14:00 on 25,000 (0.5 up to 50,000): a debt of 60,000 is converted."""
    e = engine({"LUNA": 60_000.0, "USDT": -60_000.0}, book=OKX, time=NOON, prices=LUNA,
               index={**LUNA, "USDT/USD": 1.0}, interest=FREE)
    moved(e, 2 * HOUR - 1)
    assert e.assess().account.adjusted_equity_usd == pytest.approx(108_000 - 60_000)
    assert not events(e, "Converted")
    moved(e, 1)
    (one,) = events(e, "Converted")
    assert (one.time, one.sold) == (NOON + 2 * HOUR, "LUNA")
    assert one.report.account.adjusted_equity_usd == pytest.approx(25_000 - 60_000)
    rate = e.rules.borrow("USDT").at(60_000.0).maintenance
    assert one.sold_amount == pytest.approx(60_000 * (1 + rate) * (1 + e.rules.fees("margin").taker) / 2.0)
    assert e.account.balance("USDT") == 0.0
    assert e.account.balance("LUNA") > 25_000  # the market still paid for it
    conserved(e)


def test_a_small_debt_outlives_the_change_and_the_margin_of_a_contract_may_not() -> None:
    for contracts, dies in ((2, False), (60, True)):
        e = engine({"LUNA": 30_000.0}, book=OKX, time=NOON, prices={**LUNA, SWAP: 28_000.0},
                   index={**LUNA, PAIR: 28_000.0, "USDT/USD": 1.0}, interest=FREE)
        trade(e, SWAP, "buy", contracts * 10, leverage=20)
        moved(e, 2 * HOUR - 1, btc=24_000.0)
        assert not events(e, "Reduced")
        worth = e.assess().account
        moved(e, 1)
        after = e.assess().account
        assert bool(events(e, "Reduced")) is dies
        if not dies:
            assert worth.adjusted_equity_usd - after.adjusted_equity_usd == pytest.approx(54_000 - 25_000)
            assert worth.equity_usd == after.equity_usd


# -- the edges --------------------------------------------------------------------------------------------------------


def test_a_debt_beyond_the_last_tier_raises_and_says_so() -> None:
    e = engine({"BTC": 30.0})
    trade(e, SWAP, "buy", 5_000, leverage=25)  # 50 BTC; tiers of USDT end at 400,000
    with pytest.raises(InputError, match="beyond the largest known tier"):
        moved(e, jump=True, btc=40_000.0)


def test_a_leg_that_ends_beyond_the_last_tier_meets_the_liquidation_first() -> None:
    """Half way down the account is liquidated with a debt that the tiers know; where the bar ends they do not."""
    e = engine({"BTC": 4.0}, interest=FREE)
    trade(e, SWAP, "buy", 1_000)
    moved(e, btc=600.0)
    assert "TakenOver" in names(e)
    assert "Bankrupt" not in names(e)
    conserved(e)


def test_a_debt_of_a_coin_without_tiers_raises_its_name() -> None:
    prices = {"SOL/USD:SOL": 200.0, "SOL/USDT": 200.0}
    e = engine({"USDT": 20_000.0, "SOL": 1.0}, book=OKX, prices=prices, index={**prices, "USDT/USD": 1.0})
    trade(e, "SOL/USD:SOL", "sell", 500)
    with pytest.raises(NoRuleInForce, match=r"SOL .*borrow_tiers"):
        moved(e, jump=True, sol=400.0)


def test_nothing_at_all_is_an_account_too() -> None:
    for balances in ({}, {"USDT": 0.0}, {"USDT": 1e-12, "BTC": 1e-15}):
        e = engine(balances)
        assert refused(e, SWAP, "buy", 1).largest_size == 0.0
        assert refused(e, PAIR, "sell", 0.001).largest_size == pytest.approx(0.0, abs=1e-6)
        moved(e, 50 * HOUR, btc=1.0)
        assert not e.account.ledger
        assert e.assess().account.margin_ratio is None


def test_an_opening_debt_without_anything_behind_it_is_written_off() -> None:
    e = engine({"USDT": -5_000.0, "BTC": 0.01}, interest=FREE)
    moved(e)
    assert events(e, "Bankrupt")
    assert set(e.account.balances.values()) == {0.0}
    conserved(e)


@pytest.mark.parametrize("dust", [1e-12, 1e-9, 1e-6, 1e-3])
def test_dust_beside_a_debt_does_no_harm(dust: float) -> None:
    e = engine({"USDT": 1_000.0 + dust, "BTC": dust, "ETH": dust}, interest=FREE)
    trade(e, PAIR, "buy", 0.09)
    moved(e, jump=True, btc=100.0)
    assert not e.at_risk
    assert all(abs(x) < 1e-6 for x in e.account.balances.values())
    conserved(e)


def test_thirty_coins_back_one_debt_and_are_sold_richest_first() -> None:
    coins = {f"C{i:02}": 10.0 + i for i in range(30)}
    pairs = {f"{coin}/USDT": 10.0 for coin in coins}
    book = PAPER.overlay(discounts={coin: [[1_000, 0.5]] for coin in coins})
    e = engine({**coins, "USDT": -4_500.0}, book=book, prices={**PRICES, **pairs}, index={**INDEX, **pairs},
               interest=FREE)
    assert e.present_ratio() is not None
    worth = sum(coins.values()) * 10
    assert e.assess().account.adjusted_equity_usd == pytest.approx(worth * 0.5 - 4_500)
    moved(e, jump=True)
    sold = [x.sold for x in events(e, "Converted")]
    assert sold == sorted(sold, reverse=True)  # the largest holding is the last name
    assert -4_500 < e.account.balance("USDT") < 0.0  # enough was sold: the rest of the debt is safe
    assert e.present_ratio() > 1.0
    conserved(e)
