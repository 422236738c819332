"""What must hold of any account in multi-currency margin, over any path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.ledger import EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import assess
from tests.unit.whole import (
    ETHSWAP,
    HOUR,
    INDEX,
    OKX,
    PAIR,
    PAPER,
    PRICES,
    SWAP,
    TIME,
    engine,
    moved,
)

DEEP = PAPER.overlay(borrow_tiers={
    "USDT": [[50_000, 0.02, 0.1], [100_000, 0.04, 0.2], [1e15, 0.08, 0.4]],
    "BTC": [[2, 0.02, 0.1], [1e12, 0.05, 0.2]], "ETH": [[50, 0.03, 0.1], [1e12, 0.06, 0.25]],
})
"""Tiers without an end: no price is too far."""
CALM = OKX.overlay(discounts={"USDT": [[1e15, 1.0]]}, borrow_tiers={"USDT": [[1e15, 0.02, 0.1]]})

steps = st.lists(st.tuples(st.floats(0.7, 1.3), st.floats(0.7, 1.3), st.integers(1, 20)), min_size=1, max_size=8)
sizes = st.integers(-30_000, 30_000).map(lambda lots: lots / 100)


# -- one currency at par is cross -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.floats(1_000, 200_000), sizes, sizes, st.sampled_from([2.0, 5.0, 20.0]), steps)
def test_stablecoin_alone_plays_exactly_as_cross(cash: float, btc: float, eth: float, leverage: float, path) -> None:
    """Not only at one instant: over a whole path, liquidation included, to the same cash at the same instants."""
    rates = FundingSeries(np.arange(TIME, TIME + 200 * 8 * HOUR, 8 * HOUR), np.tile([0.0003, -0.0001], 100))
    pair = []
    for mode in ("cross", "multi-currency"):
        market = Market(TIME, dict(PRICES), dict(PRICES), dict(INDEX))
        e = MarginEngine(Account({"USDT": cash}), mode_named(mode), CALM, market, funding={SWAP: rates})
        for i, (symbol, size) in enumerate(((SWAP, btc), (ETHSWAP, eth))):
            if not size:
                continue
            side = "buy" if size > 0 else "sell"
            wanted = Order(i + 1, e.rules.instrument(symbol), side, abs(size), None, "cross", "net", leverage)
            if not isinstance(e.accept(wanted), Refusal):
                e.fill(wanted, abs(size), PRICES[symbol])
        pair.append(e)
    cross, whole = pair
    assert list(whole.account.positions) == list(cross.account.positions)  # taken and refused alike
    assume(cross.account.positions)
    prices = {"btc": 60_000.0, "eth": 3_000.0}
    for up, over, hours in path:
        prices = {"btc": prices["btc"] * up, "eth": prices["eth"] * over}
        for e in pair:
            moved(e, hours * HOUR, **prices)
        assert whole.account.positions.keys() == cross.account.positions.keys()
        assert whole.account.balance("USDT") == pytest.approx(cross.account.balance("USDT"), rel=1e-9, abs=1e-6)
        one, two = cross.assess(), whole.assess()
        if not cross.account.positions:
            continue
        (before,), (after,) = (p for p in one.pools if p.currency == "USDT"), two.pools
        for name in ("equity", "initial_margin", "maintenance_margin", "liquidation_fee", "margin_ratio"):
            assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-9, abs=1e-9), name
        for name in ("equity_usd", "notional_usd", "leverage"):
            assert getattr(two.account, name) == pytest.approx(getattr(one.account, name), rel=1e-9), name
        for old, new in zip(one.positions, two.positions, strict=True):
            assert new.unrealised_pnl == pytest.approx(old.unrealised_pnl, rel=1e-9, abs=1e-9)
    told = [[(x.time, x.name) for x in e.events if x.name not in ("Refused", "Borrowed", "Repaid")] for e in pair]
    assert [name for _, name in told[0]] == [name for _, name in told[1]]
    for (first, _), (second, _) in zip(*told, strict=True):
        assert abs(first - second) <= 1
    forced = [[(x.size, x.remaining) for x in e.events if x.name == "Reduced"] for e in pair]  # type: ignore[attr-defined]
    assert forced[0] == forced[1]


# -- collateral, deposits, order --------------------------------------------------------------------------------------

amounts = st.floats(-5.0, 20.0)


def account(balances: dict[str, float], btc: float, eth: float, turned: bool = False) -> Account:
    built = Account(dict(reversed(balances.items())) if turned else balances)
    rules = DEEP.as_of(TIME, "nearest")
    held = [Position(rules.instrument(s), "cross", "net", size, PRICES[s] * 0.97, 10.0)
            for s, size in ((SWAP, btc), (ETHSWAP, eth)) if size]
    for position in reversed(held) if turned else held:
        built.adopt(position)
    return built


def report(built: Account, btc: float = 60_000.0):
    now = {**PRICES, SWAP: btc, PAIR: btc}
    market = Market(TIME, now, now, {**INDEX, PAIR: btc})
    return assess(built, mode_named("multi-currency"), market, DEEP.as_of(TIME, "nearest"))


@given(amounts, amounts, st.floats(-300_000, 300_000), sizes, sizes, st.sampled_from(["BTC", "ETH", "USDT"]),
       st.floats(0, 10), st.floats(20_000, 120_000))
def test_more_collateral_never_lowers_a_positive_ratio(btc, eth, usdt, swap, other, coin, more, price) -> None:
    balances = {"BTC": btc, "ETH": eth * 10, "USDT": usdt}
    poor = report(account(balances, swap, other), price)
    richer = report(account({**balances, coin: balances[coin] + more * (10_000 if coin == "USDT" else 1)}, swap, other),
                    price)
    assume(poor.account.margin_ratio is not None and poor.account.margin_ratio > 0)
    assert poor.account.margin_ratio is not None
    if richer.account.margin_ratio is not None:
        assert richer.account.margin_ratio >= poor.account.margin_ratio * (1 - 1e-12)
    assert richer.account.adjusted_equity_usd >= poor.account.adjusted_equity_usd - 1e-6  # type: ignore[operator]


@given(amounts, amounts, st.floats(-300_000, 300_000), sizes, sizes)
def test_the_order_of_balances_and_positions_is_irrelevant(btc, eth, usdt, swap, other) -> None:
    balances = {"BTC": btc, "ETH": eth * 10, "USDT": usdt}
    one, two = (report(account(balances, swap, other, turned)) for turned in (False, True))
    assert one.pools == two.pools
    assert one.positions == two.positions
    assert one.currencies == two.currencies
    assert one.account.margin_ratio == two.account.margin_ratio


@settings(max_examples=30)
@given(st.floats(0.1, 3.0), st.floats(0.0, 1.0), st.integers(1, 300), st.floats(0.3, 1.5), st.booleans())
def test_a_balance_in_two_deposits_changes_nothing(coins, part, contracts, fall, jump) -> None:
    ends = []
    for pieces in ((coins,), (coins * part, coins * (1 - part))):
        e = engine({}, book=DEEP)
        for piece in pieces:
            e.deposit("BTC", piece)
        wanted = Order(1, e.rules.instrument(SWAP), "buy", float(contracts), None, "cross", "net", 10.0)
        if not isinstance(e.check(wanted), Refusal):
            e.fill(wanted, float(contracts), 60_000.0)
        moved(e, 5 * HOUR, jump=jump, btc=60_000.0 * fall)
        ends.append(e)
    one, two = ends
    assert [x.name for x in one.events] == [x.name for x in two.events]
    for currency in ("BTC", "USDT"):
        assert one.account.balance(currency) == pytest.approx(two.account.balance(currency), rel=1e-6, abs=1e-6)


@given(st.floats(0.01, 0.9), st.integers(0, 58), st.integers(1, 58))
def test_borrowed_and_repaid_within_a_clock_hour_is_free(size, minute, more) -> None:
    assume(minute + more < 60)
    e = engine({"USDT": 50_000.0}, book=DEEP)
    moved(e, minute * 60_000)
    size = e.rules.instrument(PAIR).floor(size)
    wanted = Order(1, e.rules.instrument(PAIR), "sell", size, None, "cross", "net", 1.0)
    e.fill(wanted, size, 60_000.0)
    moved(e, more * 60_000)
    e.deposit("BTC", size)
    moved(e, 30 * HOUR)
    assert not [x for x in e.account.ledger if x.kind is EntryKind.INTEREST]
    assert e.account.balance("BTC") == 0.0
