"""An account in portfolio margin that is undone by the engine, step by step: what each step costs, and that it ends."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import groupby

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bt_margin.engine.engine import MarginEngine
from bt_margin.model.account import Account, Position
from bt_margin.model.assessment import AccountReport
from bt_margin.model.ledger import Entry, EntryKind
from bt_margin.model.market import Market
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.rules.book import RuleBook, load_rules

from .test_portfolio_laws import (
    ALL,
    FLAT,
    FUTURE,
    INVERSE,
    OPTIONS,
    SWAP,
    USDC,
    WHOLE,
    Legs,
    instrument,
    market,
    sizes,
)

COINS = ("BTC", "USDT", "USDC")


@cache
def book() -> RuleBook:
    """Flat closing costs, and coarse slices: a liquidation of few steps."""
    return load_rules("okx").overlay(
        parameters={"portfolio": FLAT | {"liquidation_slice": 0.5, "hedge_slice": 0.5}},
        discounts=dict.fromkeys(COINS, WHOLE), borrow_tiers={c: [[1e15, 0.02, 0.1]] for c in COINS},
    )


def engine(legs: Legs, equity: float) -> MarginEngine:
    """Positions opened at the present marks, so that the balances are the equity."""
    here = market()
    account = Account({"USDT": equity * 0.4, "USDC": equity * 0.4, "BTC": equity * 0.2 / 120_000.0})
    for symbol, size in legs:
        position = Position(instrument(symbol), "cross", "net", size, float(here.mark(symbol)), 1.0)
        if position.key in account.positions:
            position = replace(position, size=size + account.positions.pop(position.key).size)
        if position.size:
            account.adopt(position)
    return MarginEngine(account, PORTFOLIO, book(), here)


def required(report: AccountReport) -> float:
    """By the units: what is owed for debts that costs made is another matter."""
    return math.fsum(c.maintenance for pool in report.pools for c in pool.charges if c.name != "MR8")


def spent(entries: list[Entry], at: Market) -> float:
    """USD of fees and penalties among some entries."""
    return math.fsum(-e.cash * float(at.usd(e.currency)) for e in entries
                     if e.kind in (EntryKind.FEE, EntryKind.PENALTY))


@settings(deadline=None, max_examples=8)
@given(st.lists(st.tuples(st.sampled_from(ALL), sizes), min_size=1, max_size=3), st.sampled_from([1.0, 0.97, 0.9]),
       st.floats(0.5, 0.95))
def test_a_step_lowers_the_ratio_only_by_what_it_books(legs: Legs, usdt: float, share: float) -> None:
    """From one step to the next equity falls by fee and penalty and nothing else, what the units require never rises,
    and the ladder ends with an account that is safe or empty."""
    at = market(usdt=usdt)
    need = engine(legs, 1e7).assess().account.maintenance_margin_usd
    assume(need > 1_000.0)
    made = engine(legs, share * need)
    made.advance(at, jump=True)
    reduced = [e for e in made.events if e.name == "Reduced"]
    assume(reduced)  # a depeg may have lifted the account out of danger: it is short USDT
    ledger = [e for e in made.account.ledger if e.note == "forced"]
    trades = [i for i, e in enumerate(ledger) if e.kind is EntryKind.TRADE]
    assert len(trades) == len(reduced)
    others = {e.name for e in made.events} & {"Bankrupt", "Converted"}
    done = 0
    steps = [list(group) for _, group in groupby(reduced, key=lambda e: id(e.report))]
    for step, then in zip(steps, [*(later[0].report for later in steps[1:]), made.assess()], strict=True):
        booked = ledger[trades[done - 1] + 1 if done else 0: trades[done + len(step) - 1] + 1]
        done += len(step)
        now = step[0].report
        assert spent(booked, at) > 0
        assert required(then) <= required(now) * (1 + 1e-9) + 1e-6
        if step is not steps[-1] or not others:  # after the last one debts are settled or written off
            left = now.account.equity_usd - spent(booked, at)
            assert then.account.equity_usd == pytest.approx(left, rel=1e-9, abs=1e-6)
    final = made.assess().account.margin_ratio
    assert final is None or final > 1
    assert all(abs(gap) < 1e-6 for gap in made.account.conservation_gap().values())


def test_a_depeg_costs_the_stablecoin_hedge_first_and_the_ledger_says_so() -> None:
    made = engine([(SWAP, 1_000.0), (INVERSE, -12_000.0)], 40_000.0)
    made.advance(market(usdt=0.93), jump=True)
    reduced = [e for e in made.events if e.name == "Reduced"]
    assert [e.step for e in reduced[:2]] == ["stablecoin hedge", "stablecoin hedge"]
    assert {e.key.symbol for e in reduced[:2]} == {SWAP, INVERSE}


def test_books_without_a_pair_or_options_go_straight_to_the_general_reduction() -> None:
    made = engine([(FUTURE, 1_000.0)], 90_000.0)
    made.advance(market(110_000.0), jump=True)
    assert {e.step for e in made.events if e.name == "Reduced"} == {"general reduction"}
    assert all(symbol not in {k.symbol for k in made.account.positions} for symbol in (USDC, *OPTIONS))
