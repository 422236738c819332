"""What an account is told of itself: what may leave it, where loans end, what orders of each kind hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bt_margin.model.account import Account, Order, Position
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import spot_margin
from bt_margin.modes.account_report import coin_prices, spot_order
from bt_margin.modes.assess import assess, order_report, transferable
from bt_margin.modes.base import Pool, judge
from bt_margin.modes.cross import CROSS
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.modes.reach import reach
from tests.unit.whole import ETHPAIR, ETHSWAP, INDEX, PAIR, PAPER, PRICES, SWAP, TIME

RULES = PAPER.as_of(TIME, "nearest")
MARKET = Market(TIME, PRICES, PRICES, INDEX)
PERPETUAL, SPOT = RULES.instrument(SWAP), RULES.instrument(PAIR)


def leaves(cash: float, entry: float) -> float:
    """Of a pool with one bitcoin long at 60,000, which uses 6,000."""
    pool = Pool("USDT", CROSS, "USDT", cash, (Position(PERPETUAL, "cross", "net", 100.0, entry, 10.0),))
    return transferable(pool, judge(pool, MARKET, RULES), "USDT", MARKET, RULES)


def test_what_may_leave_a_pool_is_there_and_free() -> None:
    assert leaves(100.0, 60_000.0) == 0.0  # 5,900 short
    assert leaves(-5.0, 50_000.0) == 0.0  # 10,000 won, none of it cash
    assert leaves(6_100.0, 60_000.0) == pytest.approx(100.0)
    assert leaves(50.0, 50_000.0) == 50.0


def test_what_may_leave_an_account_counts_by_its_worth_unless_it_counts_for_nothing() -> None:
    """10,000 USDT and 2 BTC at 0.9 back 6,000; without the coins 4,000 are free."""
    for off, coins, usdt in (((), 112_000 / 60_000, 10_000.0), (("BTC",), 2.0, 4_000.0)):
        whole = Account({"USDT": 10_000.0, "BTC": 2.0})
        whole.borrowing = Borrowing(collateral_off=frozenset(off))
        whole.adopt(Position(PERPETUAL, "cross", "net", 100.0, 60_000.0, 10.0))
        (pool,) = MULTI_CURRENCY.pools(whole)
        judged = judge(pool, MARKET, RULES)
        assert transferable(pool, judged, "BTC", MARKET, RULES) == pytest.approx(coins)
        assert transferable(pool, judged, "USDT", MARKET, RULES) == pytest.approx(usdt)
        assert transferable(pool, judged, "ETH", MARKET, RULES) == 0.0


def loan(symbol: str = PAIR, mode: str = "cross", **more: Any) -> MarginPosition:
    about: dict[str, Any] = {"margin": 0.0, "liability": 60_000.0, "margin_currency": "USDT", **more}
    return MarginPosition(RULES.instrument(symbol), mode, "net", 1.0, 60_000.0, 5.0, direction="long",
                          assets=1.0, **about)


def test_the_prices_at_which_a_loan_ends_by_hand() -> None:
    """Coins and cash are the debt and its rate, or the debt alone; what is shown leaves orders aside."""
    rate = spot_margin.required_rate(*(spot_margin.charge(loan(), MARKET, RULES).detail[x] for x in ("rate", "taker")))
    fee = 60_000.0 * 0.0005
    order = Order(1, PERPETUAL, "buy", 100.0, 60_000.0, "cross", "net", 10.0)
    for orders, pending in ((), 0.0), ((order,), fee):
        account = Account({"USDT": 12_000.0})
        account.adopt(loan())
        for one in orders:
            account.place(one)
        (row,) = assess(account, CROSS, MARKET, RULES).positions
        assert row.liquidation_price == pytest.approx(60_000 * (1 + float(rate)) - 12_000)
        assert row.bankruptcy_price == pytest.approx(48_000.0 + pending)
        assert row.trigger_price is not None
        assert row.liquidation_price is not None
        assert (row.trigger_price > row.liquidation_price + fee / 2) is bool(orders)


def test_a_loan_beside_another_pair_shows_no_price() -> None:
    account = Account({"USDT": 30_000.0})
    account.adopt(loan())
    account.adopt(loan(ETHPAIR, liability=2_900.0))
    for row in assess(account, CROSS, MARKET, RULES).positions:
        assert row.liquidation_price is None
        assert (row.trigger_price is None) is (row.symbol == ETHPAIR)  # no price of ether ends both


def test_an_isolated_loan_shows_where_it_is_liquidated() -> None:
    account = Account({"USDT": 30_000.0})
    for symbol, owed in ((PAIR, 60_000.0), (ETHPAIR, 2_900.0)):
        account.adopt(loan(symbol, "isolated", margin=12_000.0, liability=owed))
    for row in assess(account, ISOLATED, MARKET, RULES).positions:
        assert row.liquidation_price == row.trigger_price
    assert assess(account, ISOLATED, MARKET, RULES).positions[0].bankruptcy_price == pytest.approx(48_000.0)
    account = Account({"BTC": 1.0})
    account.adopt(loan(PAIR, "isolated", margin=0.2, margin_currency="BTC"))
    (row,) = assess(account, ISOLATED, MARKET, RULES).positions
    assert row.bankruptcy_price == pytest.approx(50_000.0)  # 1.2 BTC are the debt


def test_what_an_order_holds_depends_on_its_mode_and_that_of_the_account() -> None:
    account = Account({"USDT": 50_000.0})
    for number, (mode, leverage) in enumerate((("cross", 10.0), ("isolated", 10.0))):
        order = Order(number, PERPETUAL, "buy", 100.0, 60_000.0, mode, "net", leverage)
        row = order_report(account, order, MARKET, RULES, MULTI_CURRENCY)
        assert [row.initial_margin, row.fee] == pytest.approx([6_000.0, 30.0])
        told = order_report(account, order, MARKET, RULES, PORTFOLIO).initial_margin
        (pool,) = PORTFOLIO.pools(account)
        adds = sum(x.initial for x in judge(pool.with_order(order), MARKET, RULES).charges)
        assert (adds > 9_000) is (mode == "cross")  # 12 % of 60,000 and half as much again
        assert told == pytest.approx(adds if mode == "cross" else 6_000.0)
    borrowed = Order(3, SPOT, "buy", 1.0, 60_000.0, "isolated", "net", 5.0, margin_currency="USDT")
    bought = Order(4, SPOT, "buy", 1.0, 60_000.0, "cash")
    for known in (CROSS, MULTI_CURRENCY, PORTFOLIO):
        assert order_report(account, borrowed, MARKET, RULES, known).initial_margin == pytest.approx(12_000.0)
    assert order_report(account, bought, MARKET, RULES, CROSS).initial_margin == 0.0
    owed = order_report(account, bought, MARKET, RULES, MULTI_CURRENCY)
    assert owed.initial_margin == pytest.approx(10_000 * 0.1)  # 10,000 USDT would be borrowed, at a tenth
    assert owed.order_loss == pytest.approx(60_000 - 0.999 * 60_000 * 0.9)


def test_the_row_of_an_order_whole() -> None:
    account = Account({"USDT": 50_000.0, "BTC": 1.0})
    account.adopt(Position(PERPETUAL, "cross", "net", 40.0, 60_000.0, 10.0))

    def row(order: Order) -> tuple[float, float, float, bool, str, float]:
        found = order_report(account, order, MARKET, RULES, CROSS)
        assert (found.symbol, found.side) == (order.symbol, order.side)
        assert (found.amount, found.price) == (order.size, order.price)
        return (found.initial_margin, found.order_loss, found.fee, found.accepted, found.reason, found.shortfall)

    assert row(Order(1, SPOT, "buy", 0.5, 61_000.0, "cash")) == (0.0, 0.0, 0.0, True, "", 0.0)
    assert row(Order(1, SPOT, "buy", 0.5, 59_000.0, "isolated", "net", 5.0, margin_currency="USDT")) == (
        5_900.0, 0.0, 0.0, True, "", 0.0)
    buy = Order(1, PERPETUAL, "buy", 100.0, 61_000.0, "cross", "net", 10.0)
    assert row(buy) == pytest.approx((6_100.0, 1_000.0, 30.5, True, "", 0.0))
    sell = Order(1, PERPETUAL, "sell", 100.0, 59_000.0, "cross", "net", 10.0)  # 60 of them open
    assert row(sell) == pytest.approx((3_600.0, 600.0, 18.0, True, "", 0.0))  # a sale below the market is made at it
    assert row(Order(1, PERPETUAL, "sell", 30.0, 59_000.0, "cross", "net", 10.0)) == (0.0, 0.0, 0.0, True, "", 0.0)


def test_the_row_of_an_order_to_buy_options_whole() -> None:
    """100 contracts of 0.01 BTC: the premium at its price, or at the last one, and 0.03 % of a coin each."""
    call = RULES.instrument("BTC/USD:BTC-251226-60000-C")
    market = Market(TIME, {call.symbol: 0.1}, {call.symbol: 0.1}, {**INDEX, "BTC/USD": 60_000.0},
                    forwards={"BTC/USD:BTC-251226": 60_000.0})
    for price, premium in ((0.08, 0.08), (None, 0.1)):
        found = order_report(Account({"BTC": 1.0}), Order(1, call, "buy", 100.0, price, "cross"), market, RULES, CROSS)
        assert (found.symbol, found.side, found.amount, found.price) == (call.symbol, "buy", 100.0, price)
        assert [found.initial_margin, found.fee] == pytest.approx([premium, 0.0003])
        assert (found.order_loss, found.accepted, found.reason, found.shortfall) == (0.0, True, "", 0.0)
    cheap = order_report(Account({"BTC": 1.0}), Order(1, call, "buy", 100.0, 0.001, "cross"), market, RULES, CROSS)
    assert cheap.fee == pytest.approx(0.125 * 0.001)  # no more than an eighth of the premium at its own price


@pytest.mark.parametrize(("balances", "margin"), [
    ({"USDT": 50_000.0}, 0.0),
    ({"USDT": 29_999.5}, 0.05),  # half a USDT is borrowed, at a tenth
    ({"USDT": -10_000.0, "ETH": 100.0}, 3_000.0),  # 30,000 on top of what is owed already
])
def test_the_row_of_a_spot_order_of_an_account_whole(balances: dict[str, float], margin: float) -> None:
    """Half a bitcoin for 30,000 USDT of 0.9 USD each; 0.4995 come in, and count at 0.9: 2,724.30 USD are lost."""
    cheap = replace(MARKET, indexes={**INDEX, "USDT/USD": 0.9})
    (pool,) = MULTI_CURRENCY.pools(Account(balances))
    order = Order(1, SPOT, "buy", 0.5, 60_000.0, "cash")
    found = spot_order(pool, order, cheap, RULES)
    assert (found.symbol, found.side, found.amount, found.price) == (PAIR, "buy", 0.5, 60_000.0)
    assert [found.initial_margin, found.order_loss, found.fee] == pytest.approx([margin, 2_724.3 / 0.9, 30.0])
    assert (found.accepted, found.reason, found.shortfall) == (True, "", 0.0)
    blind = PAPER.overlay(parameters={"multi_currency": {"order_loss": False}}).as_of(TIME, "nearest")
    assert spot_order(pool, order, cheap, blind).order_loss == 0.0


def test_prices_of_an_account_leave_its_orders_aside_and_options_out() -> None:
    account = Account({"USDT": 10_525.0})
    account.adopt(Position(PERPETUAL, "cross", "net", 100.0, 60_000.0, 10.0))
    account.place(Order(1, PERPETUAL, "buy", 100.0, 60_000.0, "cross", "net", 10.0))
    found = assess(account, MULTI_CURRENCY, MARKET, RULES)
    (row,) = found.positions
    assert row.liquidation_price == pytest.approx(50_000.0)
    assert row.trigger_price is not None
    assert row.trigger_price > 50_500.0  # the order asks for margin, too
    assert not [said for said in found.warnings if said.startswith("liquidation price")]
    call = "BTC/USD:BTC-251226-60000-C"
    market = replace(MARKET, marks={**PRICES, call: 0.1}, indexes={**INDEX, "BTC/USD": 60_000.0},
                     forwards={"BTC/USD:BTC-251226": 60_000.0})
    account = Account({"BTC": 1.0, "USDT": 1_365.0})
    account.adopt(Position(RULES.instrument(call), "cross", "net", 1.0, 0.1, 1.0))
    (pool,) = MULTI_CURRENCY.pools(account)
    assert coin_prices(pool, market, RULES) == {}
    ether = Position(RULES.instrument(ETHSWAP), "cross", "net", 300.0, 3_000.0, 10.0)  # 30 ether, 300 USDT a per cent
    prices = coin_prices(replace(pool, positions=(*pool.positions, ether)), market, RULES)
    assert set(prices) == {"ETH"}
    assert prices["ETH"].trigger is not None


def test_a_move_that_is_found_needs_no_reason_one_that_the_rules_do_not_reach_has_one() -> None:
    account = Account({"USDT": 10_525.0})
    account.adopt(Position(PERPETUAL, "cross", "net", 100.0, 60_000.0, 10.0))
    (pool,) = MULTI_CURRENCY.pools(account)
    ((found, why),) = reach(pool, "BTC", MARKET, RULES, lambda j: j.gap)
    assert found == pytest.approx(-1 / 6)
    assert why == ""
    rich = Account({"USDT": -390_000.0, "ETH": 1_000.0})
    rich.borrowing = Borrowing(leverage={"USDT": 2.5})
    rich.adopt(Position(PERPETUAL, "cross", "net", 500.0, 60_000.0, 10.0))
    (pool,) = MULTI_CURRENCY.pools(rich)
    ((move, why),) = reach(pool, "BTC", MARKET, RULES, lambda j: j.gap)
    assert move is None
    assert why.startswith("prices of BTC moved by -")
    assert "USDT: a debt of" in why


def test_orders_against_a_loan_need_what_goes_beyond_the_margin_it_frees() -> None:
    """Orders of 12,000 and 5,000 of margin."""
    (queue,) = Orders.of(*(Order(n, SPOT, "sell", size, price, "cross", "net", 5.0, margin_currency="USDT")
                           for n, size, price in ((1, 1.0, 60_000.0), (2, 0.5, 50_000.0)))).queues
    found = [spot_margin.orders_margin(queue, MARKET, freed) for freed in (0.0, 1.0, 6_000.0, 20_000.0)]
    assert found == pytest.approx([17_000.0, 16_998.0, 6_000.0, 0.0])


def test_a_loan_frees_its_margin_for_what_reverses_it() -> None:
    """One bitcoin bought for 60,000 at five times: an order to sell two needs 12,000 beyond the 12,000 it frees, one to
    buy another 12,000; nothing is to be maintained before it fills."""
    for side, size, needs in (("sell", 2.0, 12_000.0), ("sell", 0.5, 0.0), ("buy", 1.0, 12_000.0)):
        order = Order(1, SPOT, side, size, 60_000.0, "cross", "net", 5.0, margin_currency="USDT", reverse=True)
        (row,) = spot_margin.order_charges(Orders.of(order).queues, [loan()], MARKET)
        assert (row.name, row.unit, row.maintenance, row.fee) == ("order margin", PAIR, 0.0, 0.0)
        assert row.initial == pytest.approx(needs)
        (row,) = spot_margin.order_charges(Orders.of(order).queues, [], MARKET)
        assert row.initial == pytest.approx(12_000.0 * size)
