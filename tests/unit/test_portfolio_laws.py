"""What must hold of any account in portfolio margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin.engine.builder import parse_time
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.borrowing import SpotUse
from bt_margin.model.instrument import Instrument
from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.distance import distance
from bt_margin.modes.judged_units import judged_units
from bt_margin.modes.options import model_mark, moved, years_left
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.modes.unit_margin import UnitMargin
from bt_margin.rules.book import Rules, load_rules

NOW = parse_time("2025-10-10T00:00:00Z", "")
SWAP, USDC, INVERSE = "BTC/USDT:USDT", "BTC/USDC:USDC", "BTC/USD:BTC"
FUTURE, DATED = "BTC/USDT:USDT-251226", "BTC/USD:BTC-251226"
OPTIONS = ("BTC/USD:BTC-251031-120000-C", "BTC/USD:BTC-251031-100000-P", "BTC/USD:BTC-251226-140000-C",
           "BTC/USD:BTC-251226-110000-P")
LINEAR = (SWAP, USDC, FUTURE)
ALL = (*LINEAR, INVERSE, DATED, *OPTIONS)
WHOLE = [[1e18, 1.0]]
FLAT = {"mr7_tiers": [[1e18, 1.0]]}
VOLS = dict(zip(OPTIONS, (0.45, 0.5, 0.6, 0.55), strict=True))


@cache
def rules(**over: Any) -> Rules:
    book = load_rules("okx").overlay(
        parameters={"portfolio": FLAT | over}, discounts=dict.fromkeys(("BTC", "USDT", "USDC"), WHOLE),
        borrow_tiers={c: [[1e15, 0.02, 0.1]] for c in ("BTC", "USDT", "USDC")},
    )
    return book.as_of(NOW, "nearest")


@cache
def instrument(symbol: str) -> Instrument:
    return rules().instrument(symbol)


def market(price: Any = 120_000.0, usdt: Any = 1.0, usdc: Any = 1.0, vols: dict[str, float] | None = None) -> Market:
    """Every price hangs on the coin's: one factor scales the market. Floats, or arrays over instants."""
    index = {"BTC/USD": price, "BTC/USDT": price / usdt, "BTC/USDC": price / usdc, "USDT/USD": usdt, "USDC/USD": usdc}
    forward = {"BTC/USD:BTC-251031": price * 1.004, "BTC/USD:BTC-251226": price * 1.012}
    marks = {SWAP: price * 1.0005 / usdt, USDC: price * 0.9996 / usdc, INVERSE: price * 1.0002,
             FUTURE: price * 1.012 / usdt, DATED: price * 1.012}
    for symbol, vol in (vols or VOLS).items():
        i = instrument(symbol)
        marks[symbol] = model_mark(i, forward[symbol[:18]], price, years_left(i, NOW), vol)
    return Market(NOW, marks, indexes=index, forwards=forward)


Legs = Sequence[tuple[str, float]]


def pool(
    legs: Legs, cash: dict[str, float] | None = None, orders: Sequence[Order] = (), entry: float = 100_000.0,
    cap: float = math.inf,
) -> Pool:
    account = Account({"USDT": 1e9} if cash is None else cash)
    account.spot_use = SpotUse({"BTC": cap})
    for symbol, size in legs:
        position = Position(instrument(symbol), "cross", "net", size, entry, 1.0)
        if position.key in account.positions:
            position = replace(position, size=position.size + account.positions.pop(position.key).size)
        if position.size:
            account.adopt(position)
    for order in orders:
        account.place(order)
    (found,) = PORTFOLIO.pools(account)
    return found


def unit(held: Pool) -> UnitMargin:
    here = market()
    (found,) = judged_units(held, currencies.lines(held, here, rules()), here, rules())
    return found.now


def requirement(held: Pool, at: Market | None = None, **over: Any) -> Judgement:
    return judge(held, market() if at is None else at, rules(**over))


sizes = st.integers(-400, 400).filter(bool).map(float)
legs_of = st.lists(st.tuples(st.sampled_from(ALL), sizes), min_size=1, max_size=5)
linear_legs = st.lists(st.tuples(st.sampled_from(LINEAR), sizes), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(legs_of, legs_of)
def test_spot_moves_and_extremes_are_subadditive(some: Legs, more: Legs) -> None:
    """Of positions; spot joins by what they hedge together, so it stays out."""
    held = [pool(legs, cap=0.0) for legs in (some, more, [*some, *more])]
    a, b, whole = (unit(x) if x.positions else None for x in held)
    if whole is None:
        return
    for name in ("MR1", "MR6"):
        apart = sum(float(x.charges[name]) for x in (a, b) if x is not None)
        assert float(whole.charges[name]) <= apart * (1 + 1e-9) + 1e-6, name


@pytest.mark.parametrize(
    ("legs", "coins", "left"),
    [
        ([(SWAP, -1000.0)], 10.0, {"MR4", "MR7"}),  # spot against a perpetual
        ([(SWAP, -1000.0)], 25.0, {"MR4", "MR7"}),  # what does not hedge stays out
        ([(INVERSE, -12_002.4)], 10.0, {"MR4", "MR7"}),
        ([(SWAP, -1000.0), (FUTURE, 1000.0)], 0.0, {"MR4", "MR7"}),
        ([(SWAP, -1000.0), (USDC, 100_000.0)], 0.0, {"MR4", "MR7", "MR9"}),  # two settlement coins
        ([(INVERSE, -12_002.4), (SWAP, 1000.0)], 0.0, {"MR4", "MR7", "MR9"}),
    ],
)
def test_a_perfect_hedge_leaves_only_basis_and_closing_costs(legs: Legs, coins: float, left: set[str]) -> None:
    charges = unit(pool(legs, {"USDT": 1e7, "BTC": coins}, entry=120_024.0)).charges  # the mark of the inverse swap
    scale = 10.0 * 120_000.0
    assert {name for name, value in charges.items() if float(value) > 1e-9 * scale} == left


@settings(deadline=None, max_examples=60)
@given(legs_of, st.randoms(use_true_random=False), st.floats(-50, 50))
def test_splitting_and_reordering_positions_change_nothing(legs: Legs, chance: Any, coins: float) -> None:
    held = pool(legs, {"USDT": 1e8, "BTC": coins})
    parts: list[Position] = []
    for position in held.positions:
        cut = position.size * chance.random()
        parts += [replace(position, size=cut), replace(position, size=position.size - cut)]
    chance.shuffle(parts)
    before, after = requirement(held), requirement(replace(held, positions=tuple(parts)))
    scale = 1.0 + abs(float(before.maintenance))
    for name in ("equity", "initial", "maintenance", "fee"):
        assert float(getattr(after, name)) == pytest.approx(float(getattr(before, name)), rel=1e-9, abs=1e-9 * scale)


def scaled(symbol: str, factor: float) -> str:
    """The option of `factor` times the strike."""
    stem, day, strike, right = symbol.rsplit("-", 3)
    return f"{stem}-{day}-{float(strike) * factor:.10g}-{right}"


@settings(deadline=None, max_examples=40)
@given(legs_of, st.sampled_from([0.25, 2.0, 5.0]), st.floats(0, 50))
def test_scaling_prices_strikes_and_cash_scales_everything(legs: Legs, factor: float, coins: float) -> None:
    """Flat MR7 tiers, contracts of one settlement coin and spot. What is a face in USD scales by its size."""
    kept = [(s, x) for s, x in legs if s not in (USDC, INVERSE, DATED)]
    if not any(s in OPTIONS for s, _ in kept):
        kept.append((SWAP, 100.0))
    free = {"mr9_tiers": ()}
    before = requirement(pool(kept, {"USDT": 1e8, "BTC": coins}), **free)
    other = [(scaled(s, factor) if s in OPTIONS else s, x) for s, x in kept]
    held = pool(other, {"USDT": 1e8 * factor, "BTC": coins})
    held = replace(held, positions=tuple(
        p if p.instrument.is_option else replace(p, entry_price=p.entry_price * factor) for p in held.positions
    ))
    vols = {scaled(symbol, factor): vol for symbol, vol in VOLS.items()}
    after = requirement(held, market(120_000.0 * factor, vols=vols), **free)
    for name in ("equity", "initial", "maintenance", "fee"):
        assert float(getattr(after, name)) == pytest.approx(factor * float(getattr(before, name)), rel=1e-7, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(legs_of, st.floats(-20, 20))
def test_arrays_say_what_single_instants_say(legs: Legs, coins: float) -> None:
    prices = np.array([60_000.0, 118_000.0, 120_000.0, 151_000.0])
    usdt = np.array([0.97, 1.0, 0.999, 1.001])
    held = pool(legs, {"USDT": 1e5, "BTC": coins})
    fixed = dict.fromkeys(OPTIONS, 0.5)
    many = requirement(held, market(prices, usdt, vols=fixed))
    for i, (price, coin) in enumerate(zip(prices, usdt, strict=True)):
        one = requirement(held, market(float(price), float(coin), vols=fixed))
        for name in ("equity", "initial", "maintenance", "fee"):
            found = np.broadcast_to(getattr(many, name), prices.shape)[i]
            assert found == pytest.approx(float(getattr(one, name)), rel=1e-9, abs=1e-6), name


@pytest.mark.parametrize("day", ["2023-06-01", "2024-08-05", "2025-10-10"])
@pytest.mark.parametrize("resting", [False, True])
def test_arrays_and_instants_agree_under_the_rules_of_every_regime_with_orders(day: str, resting: bool) -> None:
    known = load_rules("okx").overlay(
        discounts=dict.fromkeys(("BTC", "USDT", "USDC"), WHOLE),
        borrow_tiers={c: [[1e15, 0.02, 0.1]] for c in ("BTC", "USDT", "USDC")},
    ).as_of(parse_time(f"{day}T00:00:00Z", ""), "nearest")
    orders = [Order(0, instrument(SWAP), "buy", 300.0, None, "cross"),
              Order(1, instrument(OPTIONS[1]), "sell", 200.0, None, "cross"),
              Order(2, rules().instrument("BTC/USDT"), "sell", 2.0, 120_000.0, "cross")]
    legs = [(SWAP, -1_000.0), (FUTURE, 400.0), (OPTIONS[0], -300.0), (OPTIONS[3], 200.0), (INVERSE, 500.0),
            (USDC, 20_000.0)]
    held = pool(legs, {"USDT": 1e5, "BTC": 5.0}, orders if resting else [])
    money = replace(currencies.of(held), spot_use=SpotUse({}, {"BTC": "USDT"}))
    held = replace(held, holdings=money)
    prices, usdt = np.array([60_000.0, 118_000.0, 120_000.0, 151_000.0]), np.array([0.97, 1.0, 0.999, 1.001])
    fixed = dict.fromkeys(OPTIONS, 0.5)
    many = judge(held, market(prices, usdt, vols=fixed), known)
    for i, (price, coin) in enumerate(zip(prices, usdt, strict=True)):
        one = judge(held, market(float(price), float(coin), vols=fixed), known)
        for name in ("equity", "initial", "maintenance", "fee"):
            found = np.broadcast_to(getattr(many, name), prices.shape)[i]
            assert found == pytest.approx(float(getattr(one, name)), rel=1e-9, abs=1e-6), name


@settings(deadline=None, max_examples=40)
@given(legs_of, st.floats(-20, 20))
def test_the_parts_add_up(legs: Legs, coins: float) -> None:
    held = pool(legs, {"USDT": 1e6, "BTC": coins})
    if not held.positions:
        return
    here = market()
    (found,) = judged_units(held, currencies.lines(held, here, rules()), here, rules())
    margin = found.now
    assert sum(map(float, margin.binding().values())) == pytest.approx(float(margin.maintenance), rel=1e-12)
    c = {name: float(value) for name, value in margin.charges.items()}
    assert all(value >= 0.0 for value in c.values())
    stress = max(c["MR1"], c["MR2"], c["MR6"]) + c["MR3"] + c["MR4"] + c["MR5"] + c["MR9"]
    assert float(margin.maintenance) == pytest.approx(max(stress, c["MR7"]), rel=1e-12)
    judged = judge(held, here, rules())
    owed = sum(float(row.maintenance) for row in judged.charges if row.name == "MR8")
    assert float(judged.maintenance) == pytest.approx(float(margin.maintenance) + owed, rel=1e-12)
    assert float(judged.initial) >= float(judged.maintenance)


@settings(deadline=None, max_examples=40)
@given(legs_of, st.lists(st.tuples(st.sampled_from(ALL), sizes), min_size=1, max_size=3))
def test_resting_orders_never_lower_what_is_required(legs: Legs, wanted: Legs) -> None:
    orders = [Order(i, instrument(s), "buy" if x > 0 else "sell", abs(x), None, "cross") for i, (s, x)
              in enumerate(wanted)]
    cash = {"USDT": 1e9, "USDC": 1e9, "BTC": 1e4}  # fees of orders are borrowed nowhere
    bare, resting = requirement(pool(legs, cash)), requirement(pool(legs, cash, orders))
    assert float(resting.initial) >= float(bare.initial) - 1e-6
    assert float(resting.maintenance) >= float(bare.maintenance) - 1e-6
    without = {"orders_in_maintenance": False}
    assert float(requirement(pool(legs, cash, orders), **without).maintenance) == pytest.approx(
        float(bare.maintenance), rel=1e-12
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(ALL), sizes), min_size=1, max_size=3), st.floats(0, 5))
def test_at_the_distance_the_ratio_is_one(legs: Legs, coins: float) -> None:
    held = pool(legs, {"USDT": 2e5, "BTC": coins})
    here = market()
    judged = judge(held, here, rules())
    if not held.positions or float(judged.gap) <= 0:
        return
    far = distance(held, judged, here, rules())
    if far is None:
        return
    gaps = [float(judge(held, moved(here, held.positions, side * far / 100.0), rules()).gap)
            for side in (1.0, -1.0) if side * far > -100.0]
    assert min(abs(gap) for gap in gaps) < 1e-4 * (1.0 + abs(float(judged.requirement)))


def test_more_spot_than_hedges_adds_nothing() -> None:
    found = [float(requirement(pool([(SWAP, -1000.0)], {"USDT": 1e6, "BTC": coins})).maintenance)
             for coins in (0.0, 4.0, 10.0, 30.0)]
    assert found[0] > found[1] > found[2] == found[3]
