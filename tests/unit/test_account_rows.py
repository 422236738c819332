"""The rows of a report whole: pools, currencies, positions and totals of accounts worked out by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from bt_margin.errors import MissingPrice
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import AccountReport, PoolReport
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes.account_report import collateral
from bt_margin.modes.assess import assess, total_equity
from bt_margin.modes.base import MarginMode
from bt_margin.modes.cross import CROSS
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from tests.unit.whole import ETHSWAP, INDEX, PAIR, PAPER, PRICES, SWAP, TIME

RULES = PAPER.as_of(TIME, "nearest")
MARKET = Market(TIME, PRICES, PRICES, {**INDEX, "USDT/USD": 0.9})
"""A bitcoin at 60,000, an ether at 3,000 USDT, of which each is 0.9 USD."""


def position(symbol: str, size: float, entry: float, mode: str = "cross", margin: float = 0.0,
             leg: str = "net") -> Position:
    return Position(RULES.instrument(symbol), mode, leg, size, entry, 10.0, margin)


def order(number: int, symbol: str, side: str, size: float, price: float, mode: str = "cross") -> Order:
    return Order(number, RULES.instrument(symbol), side, size, price, mode, "net", 1.0 if mode == "cash" else 10.0)


def mixed() -> Account:
    """One bitcoin long in cross, five ether short in isolated, and an order of each kind."""
    account = Account({"USDT": 50_000.0, "BTC": 1.0})
    account.adopt(position(SWAP, 100.0, 59_000.0))
    account.adopt(position(ETHSWAP, -50.0, 3_100.0, "isolated", 1_600.0))
    account.place(order(1, SWAP, "buy", 50.0, 60_000.0))
    account.place(order(2, PAIR, "buy", 0.1, 50_000.0, "cash"))
    account.place(order(3, SWAP, "buy", 10.0, 50_000.0, "isolated"))
    return account


def same(row: Any, **figures: Any) -> bool:
    found = asdict(row)
    return {name: found[name] for name in figures} == pytest.approx(figures)


def of(report: AccountReport, currency: str) -> Any:
    return next(row for row in report.currencies if row.currency == currency)


# -- one pool for each currency ---------------------------------------------------------------------------------------


def test_pools_of_a_cross_account_whole() -> None:
    """50,000 and 1,000 won, less 5,000 for coins, 500 for an isolated order and 0.05 % of 35,000 of openings."""
    ether, bitcoin, usdt = assess(mixed(), CROSS, MARKET, RULES).pools
    assert (ether.name, ether.currency, ether.state) == (f"{ETHSWAP} isolated", "USDT", "safe")
    assert same(ether, equity=2_100.0, initial_margin=1_550.0, maintenance_margin=150.0, liquidation_fee=7.5,
                available=0.0, margin_ratio=2_100 / 157.5)
    assert ether.equity_parts == {"posted margin": 1_600.0, f"unrealised profit {ETHSWAP}": 500.0}
    assert (bitcoin.name, bitcoin.currency, bitcoin.equity_parts) == ("BTC", "BTC", {"cash": 1.0})
    assert same(bitcoin, equity=1.0, initial_margin=0.0, available=1.0, margin_ratio=None)
    assert (usdt.name, usdt.currency, usdt.state) == ("USDT", "USDT", "safe")
    assert same(usdt, equity=45_482.5, initial_margin=9_000.0, maintenance_margin=900.0, liquidation_fee=45.0,
                available=36_482.5, margin_ratio=45_482.5 / 945)
    assert usdt.equity_parts == pytest.approx({
        "cash": 50_000.0, f"unrealised profit {SWAP}": 1_000.0, "spot orders": -5_000.0, "isolated orders": -500.0,
        "order fees": -17.5})


def test_profits_of_both_sides_are_told_by_side() -> None:
    account = Account({"USDT": 50_000.0}, "hedge")
    account.adopt(position(SWAP, 100.0, 59_000.0, leg="long"))
    account.adopt(position(SWAP, -40.0, 61_000.0, leg="short"))
    (pool,) = assess(account, CROSS, MARKET, RULES).pools
    assert pool.equity_parts == pytest.approx({
        "cash": 50_000.0, f"unrealised profit {SWAP} long": 1_000.0, f"unrealised profit {SWAP} short": 400.0})


def test_a_pool_is_in_danger_by_its_ratio_and_not_before_it_holds_something() -> None:
    """A bitcoin asks for 630 USDT: 300 % of it warn, 100 % liquidate. An order alone cannot be liquidated."""
    for cash, state in ((1_900.0, "safe"), (1_880.0, "warning"), (640.0, "warning"), (620.0, "liquidation")):
        account = Account({"USDT": cash})
        account.adopt(position(SWAP, 100.0, 60_000.0))
        (pool,) = assess(account, CROSS, MARKET, RULES).pools
        assert (pool.state, pool.available) == (state, 0.0)
    account = Account({"USDT": 100.0})
    account.place(order(1, SWAP, "buy", 100.0, 60_000.0))
    (pool,) = assess(account, CROSS, MARKET, RULES).pools
    assert pool.state == "safe"
    assert pool.margin_ratio == pytest.approx(70 / 630)


def test_currencies_of_a_cross_account_whole() -> None:
    """Frozen is isolated equity and what is in use; equity is all of it (recorded item 21)."""
    report = assess(mixed(), CROSS, MARKET, RULES)
    assert same(of(report, "USDT"), balance=50_000.0, equity=53_100.0, in_use=14_517.5, frozen=16_617.5,
                free_margin=36_482.5, available_balance=36_482.5, available_equity=36_482.5, liability=0.0,
                interest=0.0, potential_borrow=0.0, unrealised_pnl=1_500.0, leverage=60 / 51,
                discounted_equity_usd=None, equity_usd=47_790.0, unrealised_liability=0.0)
    assert same(of(report, "BTC"), balance=1.0, equity=1.0, in_use=0.0, frozen=0.0, free_margin=1.0,
                unrealised_pnl=0.0, leverage=0.0, equity_usd=54_000.0)


def test_a_currency_of_which_nothing_is_there_needs_no_price_and_has_no_leverage() -> None:
    account = Account({"BTC": 0.0})
    account.place(order(1, PAIR, "sell", 0.1, 70_000.0, "cash"))
    report = assess(account, CROSS, Market(TIME), RULES)
    assert same(of(report, "BTC"), equity=0.0, free_margin=0.0, leverage=0.0, equity_usd=0.0)
    assert report.account.available_usd == 0.0
    lost = Account({"USDT": 900.0})
    lost.adopt(position(SWAP, 100.0, 61_000.0))
    report = assess(lost, CROSS, MARKET, RULES)
    assert same(of(report, "USDT"), equity=-100.0, leverage=0.0)
    assert report.account.leverage == 0.0


def test_each_debt_is_in_the_row_of_its_coin() -> None:
    account = Account({"USDT": 30_000.0, "BTC": 1.0})
    account.adopt(loan("cross", 0.0))
    report = assess(account, CROSS, MARKET, RULES)
    assert same(of(report, "USDT"), liability=50_000.0, interest=5.0, equity=39_995.0)
    assert same(of(report, "BTC"), liability=0.0, interest=0.0)


def test_totals_of_a_cross_account_whole() -> None:
    """The least ratio of all pools; bitcoins that settle nothing are idle."""
    assert same(assess(mixed(), CROSS, MARKET, RULES).account, equity_usd=54_000.0 + 47_790.0,
                adjusted_equity_usd=None, initial_margin_usd=10_550 * 0.9, maintenance_margin_usd=1_050 * 0.9,
                liquidation_fee_usd=52.5 * 0.9, available_usd=54_000 + 36_482.5 * 0.9, notional_usd=67_500.0,
                margin_ratio=2_100 / 157.5, leverage=67_500 / 101_790, idle_usd=54_000.0)
    bare = assess(Account({"USDT": 1.0}), CROSS, MARKET, RULES).account
    assert same(bare, equity_usd=0.9, margin_ratio=None, leverage=0.0, idle_usd=0.0, available_usd=0.9)
    asked = Account({"USDT": 20_000.0})
    asked.place(Order(1, RULES.instrument(PAIR), "buy", 1.0, 60_000.0, "cross", "net", 5.0, margin_currency="USDT"))
    report = assess(asked, CROSS, MARKET, RULES)  # to borrow: nothing is to be maintained yet
    assert same(report.account, initial_margin_usd=12_000 * 0.9, maintenance_margin_usd=0.0, margin_ratio=None)
    asked.adopt(position(ETHSWAP, -50.0, 3_100.0, "isolated", 1_600.0))
    assert same(assess(asked, CROSS, MARKET, RULES).account, margin_ratio=2_100 / 157.5)


@pytest.mark.parametrize("mode", [CROSS, MULTI_CURRENCY])
def test_leverage_is_a_multiple_of_little_money_too(mode: MarginMode) -> None:
    """6 cents of contracts on half a USDT."""
    few = Account({"USDT": 0.5})
    few.adopt(position(SWAP, 0.0001, 60_000.0))
    report = assess(few, mode, MARKET, RULES)
    assert [report.account.leverage, of(report, "USDT").leverage] == pytest.approx([0.12, 0.12])


# -- positions --------------------------------------------------------------------------------------------------------


def test_the_row_of_a_position_whole() -> None:
    """At 1 % and 0.05 % a bitcoin asks for 0.0105 of its price, five ether short for 5.0525 with what they lose."""
    ether, bitcoin = assess(mixed(), CROSS, MARKET, RULES).positions
    assert (bitcoin.symbol, bitcoin.margin_mode, bitcoin.position_side) == (SWAP, "cross", "net")
    assert same(bitcoin, contracts=100.0, entry_price=59_000.0, mark_price=60_000.0, notional=60_000.0,
                notional_usd=54_000.0, unrealised_pnl=1_000.0, unrealised_pnl_ratio=1_000 / 5_900, margin=0.0,
                initial_margin=6_000.0, maintenance_margin=600.0, liquidation_fee=30.0, margin_ratio=45_482.5 / 945,
                trigger_price=60_000 - (45_482.5 - 945) / 0.9895,
                liquidation_price=60_000 - (51_000 - 630) / 0.9895,  # as if no orders were there
                bankruptcy_price=60_000 - 45_482.5, break_even_price=59_000 / 0.9995, leverage=10.0, tier=1,
                available_assets=100.0, delta=1.0, gamma=0.0, vega=0.0, theta=0.0)
    trigger = 3_000 + (2_100 - 157.5) / 5.0525
    assert (ether.symbol, ether.margin_mode, ether.position_side) == (ETHSWAP, "isolated", "net")
    assert same(ether, contracts=-50.0, notional=15_000.0, notional_usd=13_500.0, unrealised_pnl=500.0,
                unrealised_pnl_ratio=500 / 1_550, margin=1_600.0, initial_margin=1_550.0, maintenance_margin=150.0,
                liquidation_fee=7.5, margin_ratio=2_100 / 157.5, trigger_price=trigger,
                liquidation_price=trigger - 0.01,  # a tick early
                bankruptcy_price=3_420.0, available_assets=50.0, delta=-5.0)


def test_each_price_is_of_the_rate_of_its_own_contracts_and_none_is_shown_beside_others() -> None:
    """600 contracts of ether are in tier 2, at 2 %, 100 of bitcoin in tier 1."""
    account = Account({"USDT": 20_000.0})
    account.adopt(position(ETHSWAP, 600.0, 3_000.0))
    account.adopt(position(SWAP, 100.0, 60_000.0))
    found = {row.symbol: row for row in assess(account, CROSS, MARKET, RULES).positions}
    gap = 20_000 - 180_000 * 0.0205 - 60_000 * 0.0105
    assert found[SWAP].trigger_price == pytest.approx(60_000 - gap / 0.9895)
    assert found[ETHSWAP].trigger_price == pytest.approx(3_000 - gap / (60 * 0.9795))
    assert [found[SWAP].tier, found[ETHSWAP].tier] == [1, 2]
    assert [row.liquidation_price for row in found.values()] == [None, None]


def test_a_price_one_tick_early_is_above_zero() -> None:
    """A bitcoin at 60,000 that posted all but a hair of 60,000: its trigger is half a tick of 0.1, then two."""
    for trigger, shown in ((0.05, 0.15), (0.2, 0.3)):
        account = Account({"USDT": 1.0})
        margin = 60_000 - trigger * 0.9895
        account.adopt(position(SWAP, 100.0, 60_000.0, "isolated", margin))
        (row,) = assess(account, ISOLATED, MARKET, RULES).positions
        assert [row.trigger_price, row.liquidation_price] == pytest.approx([trigger, shown], abs=1e-6)
    coarse = replace(RULES.instrument(SWAP), tick=1e5)
    account = Account({"USDT": 1.0})
    account.adopt(replace(position(SWAP, -100.0, 60_000.0, "isolated", 1_000.0), instrument=coarse))
    (row,) = assess(account, ISOLATED, MARKET, RULES).positions
    assert row.trigger_price is not None
    assert row.liquidation_price is None  # a tick of 100,000 below it there are no prices


# -- one pool for all -------------------------------------------------------------------------------------------------


def test_an_account_pool_whole() -> None:
    """45,900 USD of 51,000 USDT and a bitcoin of 54,000 at 0.9, less 500 and 17.5 USDT of orders."""
    report = assess(mixed(), MULTI_CURRENCY, MARKET, RULES)
    pool = report.pool("account")
    assert pool is not None
    assert (pool.currency, pool.state) == ("USD", "safe")
    assert same(pool, equity=94_034.25, initial_margin=8_100.0, maintenance_margin=810.0, liquidation_fee=40.5,
                available=85_934.25, margin_ratio=94_034.25 / 850.5)
    assert pool.equity_parts == pytest.approx({
        "discounted BTC": 48_600.0, "discounted USDT": 45_900.0, "isolated orders": -450.0, "order fees": -15.75})
    assert same(report.account, equity_usd=54_000 + 45_900 + 2_100 * 0.9, adjusted_equity_usd=94_034.25,
                initial_margin_usd=8_100.0, maintenance_margin_usd=810.0, liquidation_fee_usd=40.5,
                available_usd=85_934.25, notional_usd=54_000 + 13_500, margin_ratio=2_100 / 157.5,
                leverage=54_000 / 94_034.25, idle_usd=0.0)


def test_currencies_of_an_account_pool_whole() -> None:
    """Equity leaves isolated margin out; orders freeze 5,517.50 USDT, margin 9,000 more."""
    report = assess(mixed(), MULTI_CURRENCY, MARKET, RULES)
    assert same(of(report, "USDT"), balance=50_000.0, equity=51_000.0, in_use=14_517.5, frozen=5_517.5 + 2_100,
                free_margin=36_482.5, available_balance=44_482.5, available_equity=45_482.5, liability=0.0,
                interest=0.0, potential_borrow=0.0, unrealised_pnl=1_500.0, leverage=60 / 51,
                discounted_equity_usd=45_900.0, equity_usd=45_900.0, unrealised_liability=0.0)
    assert same(of(report, "BTC"), balance=1.0, equity=1.0, in_use=0.0, frozen=0.0, free_margin=1.0,
                available_balance=1.0, available_equity=1.0, unrealised_pnl=0.0, leverage=0.0,
                discounted_equity_usd=48_600.0, equity_usd=54_000.0)


def owing() -> Account:
    """10,000 USDT and 20 of interest owed, 100 of them won back by a short; a loan for a bitcoin in isolated; ether
    that is no collateral."""
    account = Account({"USDT": -10_000.0, "BTC": 1.0, "ETH": 2.0})
    account.accrued["USDT"] = 20.0
    account.borrowing = Borrowing(collateral_off=frozenset(["ETH"]))
    account.adopt(position(SWAP, -10.0, 61_000.0))
    account.adopt(loan("isolated", 12_000.0))
    return account


def loan(mode: str, margin: float) -> MarginPosition:
    """A bitcoin bought for 50,000 borrowed USDT."""
    return MarginPosition(RULES.instrument(PAIR), mode, "net", 1.0, 60_000.0, 5.0, margin, direction="long",
                          margin_currency="USDT", assets=1.0, liability=50_000.0, interest=5.0)


def test_an_account_that_owes_whole() -> None:
    """9,920 USDT at 2 % and a tenth; 54 USD and 540 for the short. The loan has a pool and a ratio of its own."""
    report = assess(owing(), MULTI_CURRENCY, MARKET, RULES)
    assert same(report.account, equity_usd=54_000 + 5_400 - 8_928 + 21_995 * 0.9, adjusted_equity_usd=48_600 - 8_928,
                initial_margin_usd=540 + 892.8, maintenance_margin_usd=54 + 178.56,
                liquidation_fee_usd=2.7 + 8_928 * 1.02 * 0.001, available_usd=39_672 - 1_432.8,
                notional_usd=5_400 + 8_928 + 50_005 * 0.9, margin_ratio=21_995 / (1_000.1 + 51.0051),
                leverage=(5_400 + 8_928) / 39_672, idle_usd=5_400.0)
    assert same(of(report, "USDT"), balance=-10_000.0, equity=-9_920.0, in_use=1_432.8 / 0.9, frozen=21_995.0,
                free_margin=0.0, available_balance=0.0, available_equity=0.0, liability=59_920.0, interest=25.0,
                potential_borrow=9_920.0, unrealised_pnl=10_095.0, leverage=0.0, discounted_equity_usd=-8_928.0,
                equity_usd=-8_928.0)
    assert same(of(report, "ETH"), equity=2.0, liability=0.0, interest=0.0, discounted_equity_usd=0.0,
                equity_usd=5_400.0)


def test_what_each_currency_is_worth_counts_and_owes_in_interest() -> None:
    (pool,) = (pool for pool in MULTI_CURRENCY.pools(owing()) if pool.holdings is not None)
    found = collateral(pool, MARKET, RULES)
    assert list(found) == ["BTC", "ETH", "USDT"]
    assert found["BTC"] == pytest.approx((54_000.0, 48_600.0, 0.0))
    assert found["ETH"] == pytest.approx((5_400.0, 0.0, 0.0))
    assert found["USDT"] == pytest.approx((-8_928.0, -8_928.0, 18.0))


def test_an_account_is_in_danger_once_it_holds_or_owes_something() -> None:
    """An ether owed asks for 3 % of 2,700 USD and 0.1 % of 103 %; what an order would borrow is not owed yet."""
    def pool(balances: dict[str, float], *held: Position, orders: tuple[Order, ...] = ()) -> PoolReport:
        account = Account(balances)
        for one in held:
            account.adopt(one)
        for each in orders:
            account.place(each)
        found = assess(account, MULTI_CURRENCY, MARKET, RULES).pool("account")
        assert found is not None
        return found

    for usdt, state in ((3_400.0, "safe"), (3_100.0, "warning"), (3_090.0, "liquidation")):
        assert pool({"ETH": -1.0, "USDT": usdt, "BTC": 0.0}).state == state
    long = pool({"USDT": 640.0}, position(SWAP, 100.0, 60_000.0))
    assert (long.state, long.available) == ("warning", 0.0)
    asked = pool({"USDT": 100.0}, orders=(order(1, PAIR, "buy", 1.0, 60_000.0, "cash"),))
    assert asked.margin_ratio is not None
    assert asked.margin_ratio < 1
    assert asked.state == "safe"


def test_a_pool_that_asks_for_nothing_has_no_part_in_the_least_ratio() -> None:
    account = Account({"USDT": 1.0})
    account.adopt(position(ETHSWAP, -50.0, 3_100.0, "isolated", 1_600.0))
    assert same(assess(account, MULTI_CURRENCY, MARKET, RULES).account, margin_ratio=2_100 / 157.5)


def test_an_account_without_equity_has_no_leverage() -> None:
    assert same(assess(Account({}), MULTI_CURRENCY, MARKET, RULES).account, leverage=0.0, margin_ratio=None)
    lost = assess(Account({"ETH": -1.0}), MULTI_CURRENCY, MARKET, RULES).account
    assert same(lost, adjusted_equity_usd=-2_700.0, notional_usd=2_700.0, leverage=0.0)


# -- what an account is worth, and what its figures rest on -----------------------------------------------------------


def test_an_account_is_worth_its_coins_its_margin_and_what_it_won() -> None:
    """50,000 - 10 USDT, a bitcoin, 1,600 posted, 500 and 1,000 won, at 0.9 USD; what is nothing needs no price."""
    account = mixed()
    account.balances["NOBODYS"] = 0.0
    account.accrued["USDT"] = 10.0
    assert total_equity(account, MARKET) == pytest.approx((49_990 + 60_000 + 1_600 + 500 + 1_000) * 0.9)
    account.balances["NOBODYS"] = 1.0
    with pytest.raises(MissingPrice):
        total_equity(account, MARKET)


def test_rows_of_orders_that_are_known_are_not_asked_for_again() -> None:
    known = assess(mixed(), CROSS, MARKET, RULES).orders
    assert [row.symbol for row in known] == [SWAP, PAIR, SWAP]
    assert assess(mixed(), CROSS, MARKET, RULES, orders=known[:1]).orders == known[:1]


def test_only_what_stands_in_is_warned_of() -> None:
    said = assess(mixed(), CROSS, MARKET, RULES).warnings
    assert not [text for text in said if text.startswith("rules:")]
