"""Which orders of an account of several currencies go before anything is liquidated, and how far that is away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from bt_margin.errors import NotSupported
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes.base import Pool, judge
from bt_margin.modes.multi_currency import early_cancellation, early_spare, pools
from tests.unit.whole import INDEX, PAIR, PAPER, PRICES, SWAP, TIME

RULES = PAPER.as_of(TIME, "nearest")
INVERSE, CALL = "BTC/USD:BTC", "BTC/USD:BTC-251226-60000-C"
MARKS = {**PRICES, INVERSE: 60_000.0, CALL: 0.1}
MARKET = Market(TIME, MARKS, MARKS, {**INDEX, "BTC/USD": 60_000.0}, forwards={"BTC/USD:BTC-251226": 60_000.0})
PERPETUAL, SPOT = RULES.instrument(SWAP), RULES.instrument(PAIR)
LONG = Position(PERPETUAL, "cross", "net", 100.0, 60_000.0, 10.0)


def account(balances: dict[str, float], orders: Iterable[Order], *positions: Position, auto: bool = True,
            accrued: dict[str, float] | None = None) -> Pool:
    whole = Account(balances)
    whole.borrowing = Borrowing(auto)
    whole.accrued.update(accrued or {})
    for position in positions:
        whole.adopt(position)
    for order in orders:
        whole.place(order)
    (pool,) = pools(whole)
    return pool


def gone(pool: Pool) -> tuple[int, ...]:
    found = early_cancellation(pool, MARKET, RULES)
    assert (float(early_spare(pool, MARKET, RULES)) < 0) is bool(found)
    return found


def test_orders_go_where_equity_is_below_what_they_and_the_positions_need() -> None:
    """One bitcoin held needs 600, one to be opened 600, 6,000 and a fee of 30, which equity misses too."""
    buy = Order(1, PERPETUAL, "buy", 100.0, 60_000.0, "cross", "net", 10.0)
    close = Order(2, PERPETUAL, "sell", 10.0, 70_000.0, "cross", "net", 10.0, reduce_only=True)

    def at(cash: float) -> Pool:
        return account({"USDT": cash}, [buy, close], LONG)

    judged = judge(at(10_000.0), MARKET, RULES)
    assert float(judged.equity) == 9_970.0
    needs = float(judged.maintenance) + 6_000.0 + 30.0
    assert early_spare(at(10_000.0), MARKET, RULES) == pytest.approx(9_970.0 - needs)
    enough = needs + 30.0
    for cash, cancelled in ((enough + 0.5, ()), (enough, ()), (enough - 0.5, (1,))):
        assert gone(at(cash)) == cancelled
    assert early_spare(at(enough), MARKET, RULES) == 0.0


def test_a_coin_that_cannot_pay_for_its_orders_loses_them_without_auto_borrow() -> None:
    buys = [Order(1, SPOT, "buy", 1.0, 60_000.0, "cash"), Order(2, SPOT, "sell", 1.0, 60_000.0, "cash")]
    assert gone(account({"USDT": 60_000.0, "BTC": 1.0}, buys, auto=False)) == ()  # all there is, no more
    assert gone(account({"USDT": 59_999.0, "BTC": 1.0}, buys, auto=False)) == (1,)
    assert gone(account({"USDT": 60_000.0, "BTC": 0.9}, buys, auto=False)) == (2,)
    assert gone(account({"USDT": 60_000.0, "BTC": 1.0}, buys, auto=False, accrued={"USDT": 1.0})) == (1,)
    crossed = [replace(one, margin_mode="cross") for one in buys]
    assert gone(account({"USDT": 59_999.0, "BTC": 1.0}, crossed, auto=True)) == ()  # borrowed
    assert gone(account({"USDT": 59_999.0, "BTC": 1.0}, crossed, auto=False)) == (1,)


def test_of_orders_for_isolated_loans_those_go_whose_margin_is_not_there() -> None:
    """12,000 USDT or 0.2 BTC for one bitcoin at five times."""
    asks = [Order(n, SPOT, "buy", 1.0, 60_000.0, "isolated", "net", 5.0, margin_currency=coin)
            for n, coin in ((1, "USDT"), (2, "BTC"), (3, "USDT"))]
    assert gone(account({"USDT": 24_000.0, "BTC": 0.2}, asks)) == ()
    assert gone(account({"USDT": 23_999.0, "BTC": 0.2}, asks)) == (1, 3)
    assert gone(account({"USDT": 24_000.0, "BTC": 0.1}, asks)) == (2,)


def test_a_premium_has_to_be_there_what_a_sale_needs_may_be_borrowed() -> None:
    """100 contracts of 0.01 BTC at 0.1."""
    buy, sell = (Order(n, RULES.instrument(CALL), side, 100.0, 0.1, "cross") for n, side in ((1, "buy"), (2, "sell")))
    assert gone(account({"BTC": 0.11, "USDT": 1e6}, [buy])) == ()
    assert gone(account({"BTC": 0.09, "USDT": 1e6}, [buy])) == (1,)
    assert gone(account({"BTC": 0.09, "USDT": 1e6}, [sell])) == ()
    assert gone(account({"BTC": 0.09, "USDT": 1e6}, [sell, buy])) == (1,)


def test_how_far_it_is_away_at_many_instants() -> None:
    """An order at the market costs what the market is; a coin of which nothing is held back is not asked."""
    prices = np.array([50_000.0, 60_000.0, 61_000.0])
    pool = account({"USDT": 60_000.0, "BTC": 1.0}, [Order(1, SPOT, "buy", 1.0, None, "cash")], auto=False)
    many = replace(MARKET, lasts={**MARKS, PAIR: prices})
    found = early_spare(pool, many, RULES)
    assert found == pytest.approx(60_000.0 - prices, abs=1e-6)
    for place, price in enumerate(prices.tolist()):
        one = early_spare(pool, replace(MARKET, lasts={**MARKS, PAIR: price}), RULES)
        assert np.asarray(found)[place] == pytest.approx(float(one), abs=1e-9)
    free = early_spare(pool, replace(MARKET, lasts={**MARKS, PAIR: 0.0 * prices}), RULES)
    assert np.asarray(free).tolist() == [60_000.0 + 54_000.0] * 3  # nothing is held back: only the account is asked
    call = account({"BTC": 0.11, "USDT": 1e6}, [Order(1, RULES.instrument(CALL), "buy", 100.0, None, "cross")])
    found = early_spare(call, replace(MARKET, lasts={**MARKS, CALL: np.array([0.1, 0.12])}), RULES)
    assert found == pytest.approx(np.array([0.01, -0.01]), abs=1e-9)


def test_what_a_contract_needs_says_in_which_currency_and_at_what_price() -> None:
    inverse = Position(RULES.instrument(INVERSE), "cross", "net", 10.0, 60_000.0, 10.0)
    row = next(c for c in judge(account({"BTC": 1.0}, [], inverse), MARKET, RULES).charges if c.unit == INVERSE)
    assert (row.detail["currency"], row.detail["usd"]) == ("BTC", 60_000.0)


def test_a_loan_across_the_account_is_none_of_this_mode() -> None:
    loan = MarginPosition(SPOT, "cross", "net", 1.0, 60_000.0, 5.0, direction="long", margin_currency="USDT",
                          assets=1.0, liability=60_000.0)
    with pytest.raises(NotSupported, match="BTC/USDT: multi-currency margin has no cross loans"):
        account({"USDT": 1.0}, [], loan)
