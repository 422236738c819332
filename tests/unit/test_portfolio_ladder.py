"""The steps of undoing an account in portfolio margin: what goes first, that nothing rises, that it ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin.model.account import Order
from bt_margin.model.market import Market
from bt_margin.modes.base import CancelOrders, Close, Pool, Reduction, judge
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.modes.portfolio_ladder import (
    basis_pairs,
    dominant,
    dynamic_delta_hedge,
    general_reduction,
    stablecoin_hedge,
    traded,
)

from .test_portfolio_laws import FUTURE, INVERSE, OPTIONS, SWAP, USDC, instrument, legs_of, market, pool, rules
from .test_portfolio_laws import requirement as needs

STEPS = (stablecoin_hedge, dynamic_delta_hedge, basis_pairs, general_reduction)


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
    for step in STEPS:
        assert step(held, market(), rules(steps=("none",))) == ()


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
    from bt_margin.modes import currencies
    from bt_margin.modes.judged_units import judged_units

    held = pool([(SWAP, 1_000.0), (USDC, -1_000.0)])
    (unit,) = judged_units(held, currencies.lines(held, market(), rules()), market(), rules())
    assert dominant(unit) == "MR1"
