"""Laws that hold for every contract, direction and mode: swaps and futures, linear and inverse, USDT, USDC and coin."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Position
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import assess
from bt_margin.rules.book import load_rules

TIME = 1_760_000_000_000
BOOK = load_rules("okx")
RULES = BOOK.as_of(TIME, "nearest")
SYMBOLS = {
    "BTC/USDT:USDT": 60_000.0, "ETH/USDC:USDC": 3_000.0, "BTC/USD:BTC": 60_000.0, "ETH/USD:ETH": 3_000.0,
    "BTC/USDT:USDT-251226": 60_500.0, "ETH/USD:ETH-251226": 3_010.0,
}


@st.composite
def positions(draw: st.DrawFn, margin_mode: str | None = None) -> Position:
    symbol = draw(st.sampled_from(sorted(SYMBOLS)))
    instrument = RULES.instrument(symbol)
    tiers = RULES.tiers(symbol)
    size = instrument.snap(draw(st.floats(0.001, 0.9)) * tiers.rows[min(4, len(tiers.rows) - 1)].max_size)
    assume(size > 0)
    leverage = draw(st.sampled_from([1.0, 3.0, 10.0, 20.0]))
    entry = SYMBOLS[symbol] * draw(st.floats(0.5, 2.0))
    mode = margin_mode or draw(st.sampled_from(["isolated", "cross"]))
    position = Position(instrument, mode, "net", size * draw(st.sampled_from([1, -1])), entry, leverage)
    margin = position.initial_at_entry() * draw(st.floats(1.0, 1.5))
    return replace(position, margin=margin) if mode == "isolated" else position


def report(position: Position, mark: float, cash: float):
    account = Account({position.currency: cash})
    account.adopt(position)
    stable = {f"{position.currency}/USD": 1.0}
    market = Market(TIME, {position.symbol: mark}, {position.symbol: mark}, stable)
    return assess(account, mode_named(position.margin_mode), market, RULES).positions[0]


@given(positions(), st.floats(0.8, 1.25), st.floats(0.02, 0.5))
def test_at_the_trigger_price_the_ratio_is_one(position: Position, move: float, backing: float) -> None:
    cash = 0.0 if position.margin_mode == "isolated" else position.initial_at_entry() * position.leverage * backing
    row = report(position, position.entry_price * move, cash)
    trigger = row.trigger_price
    assume(trigger is not None and trigger < 1e3 * position.entry_price)
    assert trigger is not None
    there = report(position, trigger, cash)
    assert there.margin_ratio == pytest.approx(1.0, rel=1e-9)
    tick = max(position.instrument.tick, trigger * 1e-7)
    better, worse = trigger + position.sign * tick, trigger - position.sign * tick
    assert report(position, better, cash).margin_ratio > 1.0
    if worse > 0:
        assert report(position, worse, cash).margin_ratio < 1.0
    shown = row.liquidation_price
    if position.margin_mode == "isolated" and shown is not None:
        assert shown == pytest.approx(trigger + position.sign * position.instrument.tick, rel=1e-12)


@given(positions("isolated"), st.floats(0.05, 5.0), st.floats(0.0, 2.0))
def test_an_isolated_loss_is_the_margin_and_what_was_added_to_it(position: Position, jump: float, more: float) -> None:
    cash = 10.0 * position.margin
    account = Account({position.currency: cash})
    account.adopt(position)
    market = Market(TIME, {position.symbol: position.entry_price}, {position.symbol: position.entry_price},
                    {f"{position.currency}/USD": 1.0})
    engine = MarginEngine(account, mode_named("isolated"), BOOK, market, extrapolate="nearest")
    added = more * position.margin
    assert engine.add_margin(position.key, added) is None
    price = position.entry_price * jump
    engine.advance(Market(TIME + 1, {position.symbol: price}, {position.symbol: price}, market.indexes), jump=True)
    scale = max(1.0, cash)
    assert account.balance(position.currency) >= cash - added - 1e-9 * scale
    assert max(map(abs, account.conservation_gap().values())) <= 1e-9 * max(scale, position.margin * 1e3)
    if not account.positions:
        assert account.balance(position.currency) <= cash + position.margin + 1e-9 * scale


@given(positions("isolated"))
def test_margin_that_may_leave_leaves_the_initial_margin(position: Position) -> None:
    account = Account({position.currency: 0.0})
    account.adopt(position)
    mark = {position.symbol: position.entry_price}
    engine = MarginEngine(account, mode_named("isolated"), BOOK, Market(TIME, mark, mark), extrapolate="nearest")
    free = engine.reducible_margin(position.key)
    assert isinstance(engine.add_margin(position.key, -free * 1.0001 - 1e-9), Refusal)
    assert engine.add_margin(position.key, -free) is None
    left = account.positions[position.key].margin
    assert left == pytest.approx(position.initial_at_entry(), rel=1e-9)


@given(positions("isolated"))
def test_one_isolated_position_is_a_cross_account_of_its_margin(position: Position) -> None:
    alone = report(position, position.entry_price * 1.01, 0.0)
    crossed = report(replace(position, margin_mode="cross", margin=0.0), position.entry_price * 1.01, position.margin)
    for name in ("unrealised_pnl", "maintenance_margin", "liquidation_fee", "margin_ratio", "trigger_price",
                 "bankruptcy_price"):
        one, two = getattr(alone, name), getattr(crossed, name)
        assert one == pytest.approx(two, rel=1e-9) if one is not None else two is None


@given(positions("isolated"))
def test_at_the_bankruptcy_price_the_margin_is_gone(position: Position) -> None:
    price = report(position, position.entry_price, 0.0).bankruptcy_price
    assume(price is not None)
    assert price is not None
    profit = float(position.instrument.pnl(position.size, position.entry_price, price))
    assert profit == pytest.approx(-position.margin, rel=1e-9)
