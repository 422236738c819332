"""Rows of an account in portfolio margin: orders by kind, debts, and what this mode has not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bt_margin.errors import NotSupported
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.loan import MarginPosition
from bt_margin.modes import portfolio_report
from bt_margin.modes.base import judge
from bt_margin.modes.portfolio import PORTFOLIO

from .test_portfolio_laws import INVERSE, OPTIONS, SWAP, instrument, market, pool, rules

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
