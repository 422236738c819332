"""Legs on which the rules end: where a pool breaches before that, and that nobody is told safe who may not be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from bt_margin.engine.leg import LOOKS, Leg, may_dip
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import mode_named
from bt_margin.modes.base import Pool, judge
from bt_margin.modes.cross import CROSS
from bt_margin.rules.book import Rules
from tests.unit.test_oracle_findings import FUTURE, INVERSE, basis_market
from tests.unit.whole import ETHPAIR, ETHSWAP, HOUR, PAIR, PAPER, SWAP, TIME, engine, moved, trade

RULES = PAPER.as_of(TIME, "nearest")
FEW = PAPER.overlay(borrow_tiers={"BTC": [[0.025, 0.02, 0.1]]}).as_of(TIME, "nearest")
"""Nobody borrows more than 0.025 BTC."""


def basis_pool(usdt: float) -> Pool:
    """A basis trade without a bitcoin of its own: on the way it owes up to 0.033, at its end 0.011."""
    account = Account({"USDT": usdt})
    for symbol, size in ((INVERSE, 2_400.0), (FUTURE, -600.0)):
        account.adopt(Position(RULES.instrument(symbol), "cross", "net", size, 60_000.0, 10.0))
    (pool,) = mode_named("multi-currency").pools(account)
    return pool


def whole_way(rules: Rules = RULES) -> Leg:
    start, end = (_with_usdt(basis_market(share)) for share in (0.0, 1.0))
    return Leg(start, end, rules, lambda pool, market: judge(pool, market, rules))


def _with_usdt(market: Market) -> Market:
    return replace(market, indexes={**market.indexes, "USDT/USD": 1.0})


@pytest.mark.parametrize("spare", [50.0, 0.5])
def test_a_dip_is_found_where_the_rules_end_in_it(spare: float) -> None:
    """`spare`: USD above the requirement at the second look."""
    leg, second = whole_way(FEW), 2 / LOOKS
    usdt = 2_400.0 + spare - float(judge(basis_pool(2_400.0), leg.at(second), FEW).gap)
    pool = basis_pool(usdt)
    assert float(judge(pool, leg.end, FEW).gap) > 0
    with pytest.raises(InputError):
        judge(pool, leg.at(0.25), FEW)
    met = leg.crossing(pool, 1.0, 0.0)
    assert second < met < 0.25
    assert float(judge(pool, leg.at(met), FEW).gap) == pytest.approx(0.0, abs=1e-6)
    assert met == pytest.approx(whole_way().crossing(pool, 1.0, 0.0), rel=1e-9)  # as where more may be borrowed


def test_where_the_rules_end_in_a_dip_before_the_pool_does_nobody_says_that_it_lives() -> None:
    with pytest.raises(InputError, match="BTC"):
        whole_way(FEW).crossing(basis_pool(10_000.0), 1.0, 0.0)


@pytest.mark.parametrize("price", [57_500.0, 30_000.0])
def test_a_pool_that_outlives_the_rules_is_not_called_safe(price: float) -> None:
    """390,000 USDT of the 400,000 that may be borrowed are, 5 BTC long: ether for ten times that stands behind them."""
    e = engine({"USDT": -390_000.0, "ETH": 1_000.0}, leverage={"USDT": 2.5})
    trade(e, SWAP, "buy", 500.0)
    (pool,) = e.mode.pools(e.account)
    end = _at(e.market, {SWAP: price})
    leg = Leg(e.market, end, e.rules, lambda one, market: judge(one, market, e.rules))
    assert leg.wide is (price < 50_000)
    with pytest.raises(InputError, match="USDT"):
        leg.crossing(pool, 1.0, 0.0)
    with pytest.raises(InputError, match="USDT"):
        moved(e, btc=price)


def _at(market: Market, prices: Mapping[str, float]) -> Market:
    there = {**market.lasts, **prices}
    return replace(market, time=TIME + HOUR, lasts=there, marks=there)


def test_a_price_that_is_not_there_at_the_end_is_missed_there() -> None:
    leg = whole_way()
    gone = replace(leg.end, marks={}, lasts={}, indexes={"BTC/USD": 60_000.0, "USDT/USD": 1.0})
    leg = Leg(leg.start, gone, RULES, lambda pool, market: judge(pool, market, RULES))
    with pytest.raises(MissingPrice, match=str(gone.time)):
        leg.crossing(basis_pool(2_400.0), 1.0, 0.0)


def test_a_wide_leg_is_looked_at_in_equal_parts() -> None:
    leg, asked = whole_way(), list[float]()
    pool = basis_pool(10_000.0)
    mode = pool.mode

    def equity(one: Pool, market: Market, rules: Rules) -> object:
        asked.extend(np.atleast_1d(market.clock).tolist())
        return mode.equity(one, market, rules)

    leg.crossing(replace(pool, mode=replace(mode, equity=equity)), 1.0, 0.0)  # type: ignore[arg-type]
    assert {TIME + round(HOUR * part / 24) for part in range(1, 24)} < set(asked)


def test_a_dip_that_is_past_is_past() -> None:
    """Between 0.14 and 0.83 of the way the pool would be below 1: seen from 0.9 on, it lives."""
    leg, pool = whole_way(), basis_pool(3_900.0)
    assert 0.0 < leg.crossing(pool, 1.0, 0.0) < 0.25
    for since in (0.9, 23 / LOOKS, 0.97):  # behind the last look too
        assert leg.crossing(pool, 1.0, since) == math.inf
    inside = 0.3
    assert leg.crossing(pool, 1.0, inside) == inside


def test_a_breach_late_on_the_way_is_found_before_the_rules_end() -> None:
    """2,500 USD above the requirement at three quarters of the way, where the last loan is taken at four fifths."""
    e = engine({"USDT": -390_000.0, "ETH": 186.0}, leverage={"USDT": 2.5})
    account = e.account
    account.adopt(Position(e.rules.instrument(SWAP), "cross", "net", 500.0, 60_000.0, 10.0))
    (pool,) = e.mode.pools(account)
    end = _at(e.market, {SWAP: 57_500.0})
    leg = Leg(e.market, end, e.rules, lambda one, market: judge(one, market, e.rules))
    with pytest.raises(InputError):
        judge(pool, leg.at(0.81), e.rules)
    gap = float(judge(pool, leg.at(0.75), e.rules).gap)
    poorer = replace(pool, holdings=pool.holdings.plus("ETH", -gap / (3_000.0 * 0.8)))  # type: ignore[union-attr]
    assert leg.crossing(poorer, 1.0, 0.0) == pytest.approx(0.75, abs=1e-9)


@pytest.mark.parametrize(("first", "last", "met"), [(60_000.0, 50_000.0, 1.0), (50_000.0, 40_000.0, 0.0)])
def test_at_one_a_pool_is_liquidated(first: float, last: float, met: float) -> None:
    """One bitcoin long from 60,000 with 10,525 USDT: at 50,000 equity is 525, the requirement 500 and a fee of 25."""
    held = Position(RULES.instrument(SWAP), "cross", "net", 100.0, 60_000.0, 10.0)
    pool = Pool("USDT", CROSS, "USDT", 10_525.0, (held,))
    start, end = (Market(TIME + n, {SWAP: price}) for n, price in ((0, first), (HOUR, last)))
    leg = Leg(start, end, RULES, lambda one, market: judge(one, market, RULES))
    assert leg.crossing(pool, 1.0, 0.0) == met


def test_what_may_dip_between_two_ends() -> None:
    """Straight lines do not, nor does an inverse contract by itself; two curves together may."""

    def cross(currency: str, *symbols: str, resting: str = "") -> Pool:
        held = tuple(Position(RULES.instrument(s), "cross", "net", 10.0, 60_000.0, 10.0) for s in symbols)
        orders = [Order(1, RULES.instrument(resting), "buy", 1.0, 1.0, "cross")] if resting else []
        return Pool(currency, CROSS, currency, 1.0, held, Orders.of(*orders))

    call = "BTC/USD:BTC-260327-60000-C"
    assert not may_dip(cross("USDT", SWAP))
    assert not may_dip(cross("USDT", SWAP, ETHSWAP))
    assert not may_dip(cross("USDT", SWAP, resting=ETHSWAP))
    assert not may_dip(cross("BTC", INVERSE))
    assert may_dip(cross("BTC", INVERSE, FUTURE))
    assert may_dip(cross("BTC", INVERSE, resting=FUTURE))
    assert may_dip(cross("BTC", call))
    assert may_dip(cross("BTC", call, SWAP))
    assert may_dip(replace(basis_pool(1.0), positions=cross("USDT", SWAP).positions))  # coins of the account multiply

    def loans(currency: str) -> Pool:
        held = tuple(MarginPosition(RULES.instrument(s), "cross", "net", 1.0, 1.0, 5.0, direction="long",
                                    margin_currency=currency, assets=1.0, liability=1.0) for s in (PAIR, ETHPAIR))
        return Pool(currency, CROSS, currency, 1.0, held)

    assert not may_dip(loans("USDT"))
    assert may_dip(loans("BTC"))
