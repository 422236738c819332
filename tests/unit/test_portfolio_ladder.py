"""The steps of undoing an account in portfolio margin: what goes first, that nothing rises, that it ends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin.model.account import Order
from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.base import CancelOrders, Close, Pool, Reduction, judge
from bt_margin.modes.judged_units import JudgedUnit, judged_units
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.modes.portfolio_ladder import (
    _lots,
    basis_pairs,
    dominant,
    dynamic_delta_hedge,
    general_reduction,
    stablecoin_hedge,
    traded,
)

from .test_portfolio_laws import DATED, FUTURE, INVERSE, OPTIONS, SWAP, USDC, instrument, legs_of, market, pool, rules
from .test_portfolio_laws import requirement as needs

ETH = "ETH/USDT:USDT"


def units(held: Pool, at: Market, **over: Any) -> tuple[JudgedUnit, ...]:
    return judged_units(held, currencies.lines(held, at, rules(**over)), at, rules(**over))


def first(held: Pool, at: Market, **over: Any) -> tuple[str, tuple[Reduction, ...]]:
    """The step that answers first, and its answer."""
    for step in PORTFOLIO.ladder[:-1]:  # the last sells coins for debts once nothing is held: conversion.py
        answer = step(held, at, rules(**over))
        if answer:
            return step.__name__, answer
    return "", ()


def done(held: Pool, answer: tuple[Reduction, ...], at: Market) -> Pool:
    return traded(held, {r.key: r.size for r in answer if isinstance(r, Close)}, at)


def test_a_depeg_of_the_stablecoin_leg_closes_the_stablecoin_hedge_first() -> None:
    held = pool([(SWAP, 1_000.0), (INVERSE, -12_000.0)], {"USDT": 3e5, "BTC": 1.0})
    calm, torn = market(), market(usdt=0.9)
    assert first(held, calm)[0] != "stablecoin_hedge"  # MR7 is the largest charge of a hedged unit
    name, answer = first(held, torn)
    assert name == "stablecoin_hedge"
    assert {r.key.symbol: r.size < 0 for r in answer if isinstance(r, Close)} == {SWAP: True, INVERSE: False}
    assert all(isinstance(r, Close) and r.step == "stablecoin hedge" for r in answer)
    sizes = {r.key.symbol: r.size for r in answer if isinstance(r, Close)}
    assert sizes[INVERSE] == pytest.approx(0.25 * 12_000, rel=1e-2)  # a slice of the hedge, both legs alike
    assert -sizes[SWAP] * 0.01 * 120_060 == pytest.approx(sizes[INVERSE] * 100, rel=1e-3)
    assert first(held, torn, mr9_tiers=())[0] != "stablecoin_hedge"  # nothing to hedge without the charge


def test_options_are_hedged_by_delta() -> None:
    calm = {"mr6_factor": 0.33, "BTC.mr6_factor": 0.33}
    against = pool([(OPTIONS[0], -3_000.0), (SWAP, 100.0)], {"USDT": 1e6})
    assert first(against, market(), **calm)[0] == "general_reduction"  # a long would have to grow: not built
    held = pool([(OPTIONS[0], -3_000.0), (SWAP, -100.0)], {"USDT": 1e6})
    assert first(held, market())[0] == "general_reduction"  # 24 % up hurts most: MR6
    name, answer = first(held, market(), mr6_factor=0.33, **{"BTC.mr6_factor": 0.33})
    assert name == "dynamic_delta_hedge"
    (trade,) = answer
    assert isinstance(trade, Close)
    assert trade.key.symbol == SWAP
    assert 0 < trade.size <= 100  # short calls: the short perpetual is bought back, no more than is held
    assert float(needs(done(held, answer, market())).maintenance) < float(needs(held).maintenance)


def test_tenors_are_closed_against_each_other() -> None:
    held = pool([(FUTURE, 1_000.0), (SWAP, -1_000.0)], {"USDT": 1e5})
    name, answer = first(held, market())
    assert name == "basis_pairs"
    sizes = {r.key.symbol: r.size for r in answer if isinstance(r, Close)}
    assert sizes == pytest.approx({FUTURE: -250.0, SWAP: 250.0}, rel=0.02)


def test_an_outright_position_is_cut_by_slices() -> None:
    held = pool([(SWAP, 1_000.0)], {"USDT": 1e5})
    name, answer = first(held, market())
    assert (name, answer) == ("general_reduction", (Close(held.positions[0].key, -100.0, "general reduction"),))
    assert first(held, market(), liquidation_slice=0.5)[1][0] == Close(held.positions[0].key, -500.0,
                                                                       "general reduction")


def test_orders_go_before_positions() -> None:
    order = Order(7, instrument(SWAP), "buy", 10.0, None, "cross")
    name, answer = first(pool([(SWAP, 1_000.0)], {"USDT": 1e5}, [order]), market())
    assert (name, answer) == ("cancel_orders", (CancelOrders((7,)),))


def test_steps_that_the_rules_do_not_name_do_nothing() -> None:
    held = pool([(FUTURE, 1_000.0), (SWAP, -1_000.0)], {"USDT": 1e5})
    assert first(held, market(), steps=("general_reduction",))[0] == "general_reduction"
    calm = {"mr6_factor": 0.33, "BTC.mr6_factor": 0.33}
    for step, that, at, over in (
        (stablecoin_hedge, pool([(SWAP, 1_000.0), (INVERSE, -12_000.0)]), market(usdt=0.9), {}),
        (dynamic_delta_hedge, pool([(OPTIONS[0], -3_000.0), (SWAP, -100.0)]), market(), calm),
        (basis_pairs, held, market(), {}), (general_reduction, held, market(), {}),
    ):
        assert step(that, at, rules(**over)) != ()
        assert step(that, at, rules(steps=("none",), **over)) == ()
        assert step(pool([]), at, rules(**over)) == ()  # nothing to do


@settings(deadline=None, max_examples=30)
@given(legs_of, st.sampled_from([1.0, 0.97, 0.9]), st.floats(-3, 10))
def test_no_step_raises_the_requirement_and_the_ladder_ends(legs: Any, usdt: float, coins: float) -> None:
    at = market(usdt=usdt)
    held = pool(legs, {"USDT": 1e6, "USDC": 1e6, "BTC": coins})
    big = {"liquidation_slice": 0.5}  # ends sooner
    for _ in range(400):
        now = judge(held, at, rules(**big))
        name, answer = first(held, at, **big)
        if not answer:
            break
        after = done(held, answer, at)
        then = judge(after, at, rules(**big))
        assert float(then.requirement) < float(now.requirement), name
        assert float(then.equity) == pytest.approx(float(now.equity), rel=1e-9, abs=1e-6), name
        held = after
    else:
        raise AssertionError("the ladder did not end")
    assert not [c for c in judge(held, at, rules()).charges if c.name != "MR8" and float(c.maintenance) > 1e-6]


def test_the_dominant_charge_names_the_hedge() -> None:
    held = pool([(SWAP, 1_000.0), (USDC, -1_000.0)])
    (unit,) = units(held, market())
    assert dominant(unit) == "MR1"


def sizes(answer: tuple[Reduction, ...]) -> dict[str, float]:
    return {r.key.symbol: r.size for r in answer if isinstance(r, Close)}


def test_of_three_settlements_the_largest_hedge_goes_first_as_far_as_its_legs_reach() -> None:
    """Twelve bitcoins in USDT against four of the coin's own side and eight of USDC: the eight first, a quarter of the
    smaller leg, in whole lots downwards.
    """
    held = pool([(SWAP, 700.0), (FUTURE, 500.0), (INVERSE, -4_803.0), (USDC, -80_000.0)])
    answer = stablecoin_hedge(held, market(usdt=0.9), rules())
    assert {r.step for r in answer if isinstance(r, Close)} == {"stablecoin hedge"}
    found = sizes(answer)
    assert set(found) == {SWAP, USDC}  # of the two contracts in USDT the larger
    mark = {symbol: float(market(usdt=0.9).mark(symbol)) for symbol in found}
    legs = {SWAP: 7.0 * mark[SWAP] * 0.9, USDC: 8.0 * mark[USDC]}
    for symbol, contracts in ((SWAP, -700.0), (USDC, 80_000.0)):
        lot, slice_ = instrument(symbol).lot, 0.25 * min(legs.values()) / legs[symbol] * contracts
        assert found[symbol] == pytest.approx(math.trunc(slice_ / lot + math.copysign(1e-9, slice_)) * lot, abs=1e-6)


def test_the_delta_hedge_takes_a_quarter_of_the_net_delta_and_names_itself() -> None:
    calm = {"mr6_factor": 0.33, "BTC.mr6_factor": 0.33}
    held = pool([(OPTIONS[0], -3_000.0), (SWAP, -4_000.0)], {"USDT": 1e7})
    (unit,) = units(held, market(), **calm)
    (trade,) = dynamic_delta_hedge(held, market(), rules(**calm))
    assert isinstance(trade, Close)
    assert trade.step == "dynamic delta hedge"
    net, each = float(unit.now.cash_delta), 0.01 * float(market().mark(SWAP))
    lot = instrument(SWAP).lot
    assert trade.size == pytest.approx(math.floor(-0.25 * net / each / lot) * lot)
    assert trade.size < 4_000


def test_the_delta_hedge_leaves_alone_what_guards_against_the_worst_move() -> None:
    """Puts sold, a little more perpetuals short than they ask for: down hurts most, and the perpetuals win there."""
    calm = {f"{name}{key}": value for name in ("", "BTC.")
            for key, value in (("mr6_factor", 0.1), ("mr7_delta_one", 0.0), ("mr7_short_option", 0.0))}
    held = pool([(OPTIONS[1], -9_000.0), (SWAP, -540.0)], {"USDT": 1e7})
    (unit,) = units(held, market(), **calm)
    assert dominant(unit) == "MR1"
    assert float(unit.now.cash_delta) < 0  # the perpetuals drive the delta
    key = held.positions[-1].key
    less = done(held, (Close(key, 1.0, ""),), market())
    then, now = (float(judge(one, market(), rules(**calm)).requirement) for one in (less, held))
    assert then > now
    assert dynamic_delta_hedge(held, market(), rules(**calm)) == ()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_of_each_side_the_largest_is_paired_whichever_tenor_it_has(sign: float) -> None:
    held = pool([(SWAP, sign * 900.0), (INVERSE, sign * 1_000.0), (FUTURE, -sign * 300.0), (DATED, -sign * 6_000.0)])
    answer = basis_pairs(held, market(), rules())
    found = sizes(answer)
    assert set(found) == {SWAP, DATED}
    assert {r.step for r in answer if isinstance(r, Close)} == {"basis pair"}
    assert (found[SWAP] < 0, found[DATED] > 0) == (sign > 0, sign > 0)


def test_contracts_are_cut_before_options() -> None:
    held = pool([(SWAP, 1_000.0), (OPTIONS[1], 100.0)], {"USDT": 1e6})
    assert sizes(general_reduction(held, market(), rules())) == {SWAP: -100.0}


def test_the_unit_that_asks_for_most_is_cut_first() -> None:
    at = market()
    at = replace(at, marks={**at.marks, ETH: 4_000.0}, indexes={**at.indexes, "ETH/USDT": 4_000.0, "ETH/USD": 4_000.0})
    for bitcoins, ethers, cut in ((100.0, 9_000.0, ETH), (1_000.0, 900.0, SWAP)):
        held = pool([(ETH, ethers), (SWAP, bitcoins)])
        assert set(sizes(general_reduction(held, at, rules()))) == {cut}


def test_what_is_not_traded_stays_as_it_was_and_what_is_pays_into_its_own_coin() -> None:
    """Half of 100 inverse contracts closed: all they had won is in the coin, the rest stands at the mark."""
    held = pool([(SWAP, 10.0), (INVERSE, 100.0)], {"USDT": 5.0})
    same = traded(held, {}, market())
    assert same.positions == held.positions
    assert currencies.of(same).balances == {"USDT": 5.0}
    swap, inverse = sorted(held.positions, key=lambda p: p.symbol != SWAP)
    after = traded(held, {inverse.key: -50.0}, market())
    mark = float(market().mark(INVERSE))
    assert currencies.of(after).balances == {"USDT": 5.0, "BTC": pytest.approx(100 * 100 * (1 / 100_000 - 1 / mark))}
    left = {p.symbol: p for p in after.positions}
    assert left[SWAP] == swap
    assert (left[INVERSE].size, left[INVERSE].entry_price) == (50.0, mark)


def test_less_than_a_lot_cannot_be_traded() -> None:
    dust = instrument(SWAP).lot / 2
    held = pool([(SWAP, dust)], {"USDT": 1e3})
    assert general_reduction(held, market(), rules()) == ()
    position = held.positions[0]
    assert _lots(position, 0.3 * dust, 1.95 * dust) == 0.0
    assert _lots(position, 0.3 * dust, 2.0 * dust) == 2.0 * dust


def with_ether(at: Market, usdt: float = 1.0) -> Market:
    """Ether at 4,000 USD too, in three contracts."""
    marks = {ETH: 4_000.0 / usdt, "ETH/USDT:USDT-251226": 4_050.0 / usdt, "ETH/USD:ETH": 4_000.0}
    indexes = {"ETH/USDT": 4_000.0 / usdt, "ETH/USD": 4_000.0}
    return replace(at, marks={**at.marks, **marks}, indexes={**at.indexes, **indexes})


def coarse(held: Pool, *symbols: str) -> Pool:
    """The same positions where some contracts trade in lots larger than what is held."""
    return replace(held, positions=tuple(
        replace(p, instrument=replace(p.instrument, lot=1e6)) if p.symbol in symbols else p for p in held.positions))


@pytest.mark.parametrize("lots", [(SWAP, INVERSE), (SWAP,), (INVERSE,)])
def test_a_hedge_that_no_lot_fits_leaves_the_next_unit_its_turn(lots: tuple[str, ...]) -> None:
    """Both legs or none, also where other contracts of the unit are held in no opposite."""
    held = pool([(SWAP, 1_000.0), (INVERSE, -12_000.0), (ETH, 2_000.0), ("ETH/USD:ETH", -80_000.0), (FUTURE, 1.0)])
    at = with_ether(market(usdt=0.9), 0.9)
    assert set(sizes(stablecoin_hedge(held, at, rules()))) == {SWAP, INVERSE}
    answer = stablecoin_hedge(coarse(held, *lots), at, rules())
    assert sizes(answer) == {ETH: -500.0, "ETH/USD:ETH": 20_000.0}


def test_a_pair_of_tenors_that_no_lot_fits_leaves_the_next_unit_its_turn() -> None:
    held = pool([(SWAP, 1_000.0), (FUTURE, -1_000.0), (ETH, 2_000.0), ("ETH/USDT:USDT-251226", -2_000.0)])
    at = with_ether(market())
    assert set(sizes(basis_pairs(held, at, rules()))) == {SWAP, FUTURE}
    assert set(sizes(basis_pairs(coarse(held, FUTURE), at, rules()))) == {ETH, "ETH/USDT:USDT-251226"}


def test_what_no_lot_fits_is_left_out_of_a_reduction() -> None:
    """A forced order of nothing was booked beside the others."""
    held = pool([(SWAP, 1_000.0), (FUTURE, instrument(FUTURE).lot / 2)])
    assert sizes(general_reduction(held, market(), rules())) == {SWAP: -100.0}
