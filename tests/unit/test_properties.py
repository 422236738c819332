"""What must hold for any book and any path: money is conserved, order is irrelevant, collateral never hurts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.engine.engine import MarginEngine
from bt_margin.model.account import Account, Position
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import account_pools, assess
from bt_margin.modes.base import judge
from bt_margin.rules.book import load_rules

TIME = 1_760_000_000_000 // 28_800_000 * 28_800_000  # early October 2025, on a settlement
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
RULES = load_rules("okx").as_of(TIME)
START = {BTC: 60_000.0, ETH: 3_000.0}

prices = st.floats(0.05, 4.0)
sizes = st.integers(1, 400_000).map(lambda lots: lots / 100)


@st.composite
def positions(draw: st.DrawFn, margin_mode: str | None = None) -> Position:
    symbol = draw(st.sampled_from([BTC, ETH]))
    mode = margin_mode or draw(st.sampled_from(["cross", "isolated"]))
    size = draw(sizes) * draw(st.sampled_from([1, -1]))
    position = Position(
        RULES.instrument(symbol),
        mode,
        "net",
        size,
        START[symbol] * draw(st.floats(0.5, 2.0)),
        draw(st.sampled_from([2.0, 5.0, 20.0])),
    )
    return replace(position, margin=position.initial_at_entry()) if mode == "isolated" else position


def build(held: list[Position], cash: float, marks: dict[str, float]) -> tuple[Account, Market]:
    account = Account({"USDT": cash})
    for position in held:
        if position.key not in account.positions:
            account.adopt(position)
    return account, Market(TIME, marks, marks)


@given(st.lists(positions(), min_size=1, max_size=4), st.floats(0, 1e7), prices, prices, st.randoms())
def test_the_order_of_positions_is_irrelevant(held, cash, btc, eth, random) -> None:
    held = list({p.key: p for p in held}.values())
    marks = {BTC: 60_000 * btc, ETH: 3_000 * eth}
    shuffled = list(held)
    random.shuffle(shuffled)
    one, two = (assess(*_args(build(order, cash, marks))).to_dict() for order in (held, shuffled))
    assert one == two


def _args(built):
    account, market = built
    return account, mode_named("cross"), market, RULES


@given(st.lists(positions("cross"), min_size=1, max_size=3), st.floats(0, 1e7), st.floats(0, 1e6), prices, prices)
def test_adding_collateral_never_hurts(held, cash, more, btc, eth) -> None:
    marks = {BTC: 60_000 * btc, ETH: 3_000 * eth}
    poor, rich = (assess(*_args(build(held, cash + extra, marks))) for extra in (0.0, more))
    for pool, richer in zip(poor.pools, rich.pools, strict=True):
        if pool.margin_ratio is not None:
            assert richer.margin_ratio >= pool.margin_ratio
            assert richer.available >= pool.available


@given(positions("cross"), st.floats(1e3, 1e7), st.lists(prices, min_size=2, max_size=6))
def test_arrays_say_what_single_instants_say(position, cash, path) -> None:
    symbol = position.symbol
    marks = np.array([START[symbol] * p for p in path])
    account, _ = build([position], cash, {symbol: 1.0})
    many = Market(TIME, {symbol: marks}, {symbol: marks})
    (pool,) = [p for p in account_pools(account) if p.positions]
    together = judge(pool, many, RULES)
    for i, mark in enumerate(marks):
        single = judge(pool, Market(TIME, {symbol: float(mark)}), RULES)
        assert together.equity[i] == pytest.approx(single.equity, rel=1e-12)
        assert together.requirement[i] == pytest.approx(single.requirement, rel=1e-12)


@given(positions("isolated"))
def test_one_isolated_position_is_a_cross_account_of_its_margin(position) -> None:
    marks = {position.symbol: position.entry_price}
    alone = assess(*_args(build([position], 0.0, marks))).positions[0]
    crossed = replace(position, margin_mode="cross", margin=0.0)
    cross = assess(*_args(build([crossed], position.margin, marks))).positions[0]
    for name in ("unrealised_pnl", "maintenance_margin", "liquidation_fee", "margin_ratio", "trigger_price"):
        one, two = getattr(alone, name), getattr(cross, name)
        assert one == pytest.approx(two, rel=1e-9) if one is not None else two is None


@given(positions(), st.floats(0, 1e6), prices)
def test_an_isolated_loss_is_the_posted_margin_and_no_more(position, cash, fall) -> None:
    position = replace(position, margin_mode="isolated", margin=position.initial_at_entry())
    symbol = position.symbol
    account, market = build([position], cash, {symbol: position.entry_price})
    engine = MarginEngine(account, mode_named("isolated"), load_rules("okx"), market)
    target = position.entry_price * fall
    engine.advance(Market(TIME + 1, {symbol: target}, {symbol: target}), jump=True)
    left = sum(p.margin for p in account.positions.values())
    assert account.balance("USDT") >= cash - 1e-9 * max(1.0, cash)
    if not account.positions:
        assert account.balance("USDT") + left <= cash + position.margin + max(0.0, _profit(position, target)) + 1e-6
    assert max(map(abs, account.conservation_gap().values())) <= 1e-9 * max(1.0, cash, position.margin * 1e3)


def _profit(position: Position, price: float) -> float:
    return float(position.instrument.pnl(position.size, position.entry_price, price))


@given(positions("cross"), st.floats(10, 1e7), prices)
def test_a_walked_leg_makes_no_deficit(position, cash, target) -> None:
    """Prices that move without a jump meet the trigger first: the insurance fund pays nothing."""
    symbol = position.symbol
    account, market = build([position], cash, {symbol: position.entry_price})
    engine = MarginEngine(account, mode_named("cross"), load_rules("okx"), market)
    engine.control.judge()
    if not account.positions:
        return
    mark = position.entry_price * target
    engine.advance(Market(TIME + 1, {symbol: mark}, {symbol: mark}))
    assert not [e for e in engine.events if e.name == "Bankrupt"]
    assert account.balance("USDT") >= -1e-6
