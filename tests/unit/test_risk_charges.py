"""The kernels of portfolio margin: OKX's printed figures, and what must hold for any unit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.risk import charges, grid, pnl
from bt_margin.risk.black import YEAR_DAYS, coin_price, greeks_bs, greeks_pa

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "portfolio.json").read_text("utf-8"))
VECTORS = {vector["id"]: vector for vector in GOLDEN}


def vectors(kind: str) -> list[Any]:
    return [pytest.param(v["inputs"], v["expected"], v["rel_tol"], id=v["id"]) for v in GOLDEN if v["kind"] == kind]


def columns(tiers: list[list[float]]) -> dict[str, list[float]]:
    return {"bounds": [row[0] for row in tiers], "multipliers": [row[1] for row in tiers]}


# -- figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("unit_2025"))
def test_position_builder_sample_of_2025(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    coins = np.array([given_["contracts"] * given_["contract_size"]])
    usd, index = given_["usdt_usd"], given_["index"]
    delta = pnl.linear_delta(coins, given_["mark"], usd)
    assert delta[0] == pytest.approx(expected["delta_usd"], rel=rel)

    scenarios = grid.spot_vol_grid(given_["moves"])
    gains = pnl.linear_pnl(coins, index, usd, scenarios.spot)
    mr1 = charges.mr1_spot_shock(gains)
    assert mr1 == pytest.approx(expected["mr1"], rel=rel)
    worst = int(grid.worst(gains.sum(axis=-2)))
    assert scenarios.label(worst) == (expected["mr1_worst"]["spotShock"], expected["mr1_worst"]["volShock"])
    for move, gain in expected["mr1_grid_pnl"].items():
        assert gains[0, scenarios.spot == float(move)] == pytest.approx([gain] * 3, rel=rel)

    extreme = grid.extreme_moves(given_["extreme_move"])
    extremes = pnl.linear_pnl(coins, index, usd, extreme.spot)
    mr6 = charges.mr6_extreme_move(extremes, factor=given_["extreme_factor"])
    assert mr6 == pytest.approx(expected["mr6"], rel=rel)
    worst = int(grid.worst(extremes.sum(axis=-2)))
    assert (extreme.spot[worst], extremes[0, worst]) == pytest.approx(
        (expected["mr6_worst"]["spotShock"], expected["mr6_worst"]["pnl"]), rel=rel
    )

    mr4 = charges.mr4_basis(delta, np.zeros(1), rate=given_["basis_rate"], floor=given_["basis_floor"])
    raw = pnl.delta_one_closing(delta, rate=given_["closing_rate"])
    mr7 = charges.mr7_minimum(raw, **columns(given_["tiers"]))
    assert (mr4, mr7) == pytest.approx((expected["mr4"], expected["mr7"]), rel=rel)
    maintenance = charges.unit_maintenance(charges.unit_stress(mr1, 0.0, 0.0, mr4, 0.0, mr6), mr7)
    assert maintenance == pytest.approx(expected["mmr"], rel=rel)
    assert charges.initial_margin(maintenance, factor=1.3) == pytest.approx(expected["imr"], rel=rel)


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("scale"))
def test_progressive_scale(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    mr7 = charges.mr7_minimum(np.array([given_["raw"]]), **columns(given_["tiers"]))
    assert mr7 == pytest.approx(expected["mr7"], rel=rel)
    if "mmr" in expected:
        assert charges.unit_maintenance(given_["stress"], mr7) == pytest.approx(expected["mmr"], rel=rel)


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("spot_hedge_2024"))
def test_spot_hedge_of_2024(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    index, mark = given_["index"], given_["mark"]
    swap = np.array([given_["contracts"] * given_["contract_size"]])
    spot = np.array([given_["spot"]])
    for moves, name in (
        (grid.spot_vol_grid(given_["moves"]).spot, "mr1"),
        (grid.extreme_moves(given_["extreme_move"]).spot, "mr6"),
    ):
        rows = [pnl.linear_pnl(spot, index, 1.0, moves), pnl.linear_pnl(swap, index, 1.0, moves)]
        assert charges.mr1_spot_shock(np.concatenate(rows)) == expected[name] == 0.0
    deltas = np.concatenate([pnl.linear_delta(spot, index, 1.0), pnl.linear_delta(swap, mark, 1.0)])
    mr4 = charges.mr4_basis_pairs(
        deltas, np.zeros(2), np.array([True, False]), rate=given_["basis_rate"], spot_rate=given_["spot_rate"]
    )
    raw = pnl.delta_one_closing(deltas, rate=np.array([0.0, given_["closing_rate"]]))
    mr7 = charges.mr7_minimum(raw, bounds=[10_000, 70_000], multipliers=[1, 2])
    assert (mr4, mr7) == pytest.approx((expected["mr4"], expected["mr7"]), rel=rel)
    stress = charges.unit_stress(0.0, 0.0, 0.0, mr4, 0.0, 0.0)
    assert charges.unit_maintenance(stress, mr7) == pytest.approx(expected["mmr"], rel=rel)


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("short_call_2022"))
def test_short_call_of_2022(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    years = given_["days"] / YEAR_DAYS
    coins, forward, strike, vol = (np.array([given_[key]]) for key in ("coins", "forward", "strike", "vol"))
    call = ("C", coins, 1.0, forward, strike, years, vol)  # an index of 1: figures in coin
    assert coin_price("C", forward, strike, years, vol)[0] == pytest.approx(expected["coin_price"], rel=rel)
    up = [coin_price("C", forward * (1 + given_[m]), strike, years, given_[v])[0]
          for m, v in (("move", "up_vol"), ("extreme_move", "vol"))]
    assert up == pytest.approx(
        [expected["coin_price_up_15pct_up_vol"], expected["coin_price_up_30pct_same_vol"]], rel=rel
    )

    gains = pnl.option_pnl(*call, np.array([given_["move"]]), vols=given_["up_vol"])
    mr1 = charges.mr1_spot_shock(gains)
    decay = pnl.decay_pnl(*call, days=given_["theta_days"])
    mr2 = charges.mr2_theta(decay, factor=given_["theta_factor"])
    assert decay[0] > 0.0  # a short earns it, and is charged all the same
    mr3 = charges.mr3_vega_term(pnl.vol_pnl(*call, shift=0.1759), factor=0.25)
    mr4 = charges.mr4_basis_pairs(coins, np.array([years]), np.array([False]), rate=0.3, spot_rate=0.0)
    mr5 = charges.mr5_rate(np.zeros(1), np.array([years]), shift=0.05)
    extremes = pnl.option_pnl(*call, grid.extreme_moves(given_["extreme_move"]).spot)
    mr6 = charges.mr6_extreme_move(extremes, factor=given_["extreme_factor"])
    value = pnl.option_value(*call)
    raw = pnl.option_closing(coins, 1.0, value, short_rate=given_["closing_rate"], long_rate=0.0)
    mr7 = charges.mr7_minimum(raw, bounds=[10_000, 70_000], multipliers=[1, 2])
    for name, figure in zip(("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7"),
                            (mr1, mr2, mr3, mr4, mr5, mr6, mr7), strict=True):
        assert figure == pytest.approx(expected[name], rel=rel), name
    maintenance = charges.unit_maintenance(charges.unit_stress(mr1, mr2, mr3, mr4, mr5, mr6), mr7)
    assert maintenance == pytest.approx(expected["mmr"], rel=rel)
    assert charges.initial_margin(maintenance, factor=1.3) == pytest.approx(expected["imr"], rel=rel)


def test_the_vol_curve_comes_within_a_ten_thousandth_of_the_sample() -> None:
    sample = VECTORS["okx_pb_2022_short_call_exact"]
    vol, days = sample["inputs"]["vol"], sample["inputs"]["days"]
    powers = {"power_short": 0.3, "power_long": 0.13}
    points = grid.tenor_curve(days, at_30d=15.09, cap=30.0, **powers)
    percent = grid.tenor_curve(days, at_30d=0.1724, cap=0.343, **powers)
    scenarios = grid.spot_vol_grid([0.05, 0.10, 0.15])
    shift = grid.vol_shift(np.array([vol]), points=points, percent=percent)
    vols = grid.shocked_vol(np.array([vol]), shift, scenarios, floor=0.05)
    call = ("C", np.array([-0.1]), 1.0, 38_138.3, 50_000.0, days / YEAR_DAYS, np.array([vol]))
    gains = pnl.option_pnl(*call, scenarios.spot, vols=vols)
    assert charges.mr1_spot_shock(gains) == pytest.approx(sample["expected"]["mr1"], rel=2e-4)
    assert scenarios.label(int(grid.worst(gains.sum(axis=-2)))) == (0.15, "up")


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("inverse"))
def test_inverse_contracts_are_linear_in_dollars(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    face, mark, index, move = (given_[key] for key in ("face", "mark", "index", "move"))
    assert pnl.inverse_pnl(face, mark, index, np.array([move]))[0] == pytest.approx(expected["usd_pnl"], rel=rel)
    coin = face * (1.0 / mark - 1.0 / (mark * (1.0 + move)))
    assert coin == pytest.approx(expected["coin_pnl"], rel=rel)
    assert coin * index * (1.0 + move) == pytest.approx(expected["usd_pnl"], rel=rel)


NODES = [0.99, 0.98, 0.80]
BOUNDS = [1e6, 5e6, 10e6, 20e6, 40e6, 80e6, 120e6, math.inf]
FACTORS = [
    [0.005, 0.005, 0.010, 0.4], [0.010, 0.015, 0.020, 0.4], [0.015, 0.020, 0.030, 0.4], [0.020, 0.025, 0.035, 0.4],
    [0.025, 0.030, 0.040, 0.4], [0.030, 0.035, 0.045, 0.4], [0.035, 0.040, 0.050, 0.4], [0.040, 0.045, 0.055, 0.4],
]  # rule book addendum 3e


def depeg(cash_delta: list[float], prices: list[float]) -> float:
    return float(
        charges.mr9_depeg(np.array(cash_delta), np.array(prices), bounds=BOUNDS, nodes=NODES, factors=FACTORS)
    )


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("depeg_slices"))
def test_depeg_charge_is_progressive(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    found = charges.mr9_depeg(
        np.array([given_["volume"], 0.0, -given_["volume"]]), np.ones(3),
        bounds=given_["bounds"], nodes=[0.99], factors=[[factor, factor] for factor in given_["factors"]],
    )
    assert found == pytest.approx(expected["mr9"], rel=rel)
    assert depeg([given_["volume"], 0.0, -given_["volume"]], [0.985, 1.0, 1.0]) == pytest.approx(expected["mr9"])


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("depeg_grid"))
def test_depeg_grid(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    found = [depeg([given_["volume"], 0.0, -given_["volume"]], [price, 1.0, 1.0]) for price in given_["prices"]]
    assert found == pytest.approx(expected["mr9"], rel=rel)


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("vol_curve"))
def test_vol_curve(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    curve = {key: given_[key] for key in ("cap", "at_30d", "power_short", "power_long")}
    assert grid.tenor_curve(np.array(given_["days"], dtype=float), **curve) == pytest.approx(
        expected["points"], rel=rel
    )


@pytest.mark.parametrize(("given_", "expected", "rel"), vectors("calendar_spread"))
def test_calendar_spread(given_: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    years = np.array(given_["days"]) / YEAR_DAYS
    mr4 = charges.mr4_basis(np.array(given_["cash_delta"]), years, rate=given_["rate"], floor=given_["floor"])
    assert mr4 == pytest.approx(expected["mr4"], rel=rel)


def test_every_figure_is_used() -> None:
    through_books = {"account_2025", "book_2025", "greeks_2022", "greeks_2025", "order_check"}
    kinds = {v["kind"] for v in GOLDEN} - through_books
    source = Path(__file__).read_text("utf-8")
    assert all(f'vectors("{kind}")' in source for kind in kinds)
    assert all(v["source"] and v["grade"] for v in GOLDEN)


# -- a unit, whole --------------------------------------------------------------------------------------------

RATES = {"rate": 0.05, "floor": 0.002}
SCALE = {"bounds": [250e3, 500e3, 1e6, 2e6, 3e6, 4e6, math.inf], "multipliers": [1, 2, 4, 6, 8, 10, 12]}
FLAT = {"bounds": [math.inf], "multipliers": [1]}
POWERS = {"power_short": 0.3, "power_long": 0.13}
SETTLES = {"spot": 0, "usdt": 0, "usdc": 1, "inverse": 2, "option": 2}
DAYS = (0.0, 7.0, 45.0, 200.0)
"""Tenors: perpetuals, three expiries. Spot is the last."""

Row = tuple[Any, ...]  # ("usdt", coins, tenor) | ("spot", coins, 4) | ("inverse", face, tenor) | option below
# ("option", coins, tenor, right, strike / index, vol)


def unit(book: list[Row], price: float = 60_000.0, peg: float = 1.0, scale: dict[str, Any] = SCALE) -> dict[str, Any]:
    """Every charge of a unit after the merge, put together as a mode would."""
    scenarios, extreme = grid.spot_vol_grid([0.04, 0.08, 0.12]), grid.extreme_moves(0.24)
    basis = np.array([1.0, 1.002, 1.01, 1.03, 1.0]) * price
    tenors = np.array([row[2] for row in book], dtype=np.intp)
    years = np.array([*DAYS, 0.0]) / YEAR_DAYS
    shocks, extremes, decay, vegas, deltas, raw = [], [], [], [], [], []
    for kind, size, tenor, *terms in book:
        one, forward = np.array([size]), basis[tenor]
        gain = vega = np.zeros(1)
        if kind == "inverse":
            delta = one
            shock, crash = (pnl.inverse_pnl(one, forward, price, s.spot) for s in (scenarios, extreme))
        elif kind == "option":
            right, ratio, vol = terms
            call = (right, one, price, forward, np.array([ratio * price]), np.array([years[tenor]]), np.array([vol]))
            points = grid.tenor_curve(DAYS[tenor], at_30d=15.09, cap=30.0, **POWERS)
            shift = grid.vol_shift(np.array([vol]), points=points, percent=0.0)
            shock = pnl.option_pnl(
                *call, scenarios.spot, vols=grid.shocked_vol(np.array([vol]), shift, scenarios, floor=0.05)
            )
            crash = pnl.option_pnl(*call, extreme.spot)
            gain, vega = pnl.decay_pnl(*call, days=1.0), pnl.vol_pnl(*call, shift=shift)
            greeks = greeks_pa(right, forward, ratio * price, years[tenor], vol)
            delta = pnl.option_cash_delta(one, greeks.delta, price)
        else:
            usd = peg if kind == "usdt" else 1.0
            shock, crash = (pnl.linear_pnl(one, price / usd, usd, s.spot) for s in (scenarios, extreme))
            delta = pnl.linear_delta(one, forward / usd, usd)
        if kind == "option":
            closing = pnl.option_closing(one, price, pnl.option_value(*call), short_rate=0.022, long_rate=0.022)
        else:
            closing = pnl.delta_one_closing(delta, rate=0.0 if kind == "spot" else 0.0045)
        for part, figure in zip((shocks, extremes, decay, vegas, deltas, raw),
                                (shock, crash, gain, vega, delta, closing), strict=True):
            part.append(figure)
    delta = np.concatenate(deltas)
    settles = np.array([SETTLES[row[0]] for row in book], dtype=np.intp)
    found = {
        "MR1": charges.mr1_spot_shock(np.concatenate(shocks)),
        "MR2": charges.mr2_theta(np.concatenate(decay), factor=0.8),
        "MR3": charges.mr3_vega_term(pnl.summed_by(np.concatenate(vegas), tenors, 5), factor=0.25),
        "MR4": charges.mr4_basis(pnl.summed_by(delta, tenors, 5), years, **RATES),
        "MR6": charges.mr6_extreme_move(np.concatenate(extremes), factor=0.5),
        "MR7": charges.mr7_minimum(np.concatenate(raw), **scale),
        "MR9": charges.mr9_depeg(
            pnl.summed_by(np.where(np.array([row[0] for row in book]) == "spot", 0.0, delta), settles, 3),
            np.array([peg, peg, 1.0]), bounds=BOUNDS, nodes=NODES, factors=FACTORS,
        ),
    }
    stressed = [found[name] for name in ("MR1", "MR2", "MR3", "MR4")]
    stress = charges.unit_stress(*stressed, 0.0, found["MR6"], found["MR9"])
    found["maintenance"] = charges.unit_maintenance(stress, found["MR7"])
    return {name: float(figure) for name, figure in found.items()}


sizes = st.floats(-20.0, 20.0).filter(lambda size: abs(size) > 1e-3)
expiries = st.integers(1, 3)
linear = st.tuples(st.sampled_from(["usdt", "usdc"]), sizes, st.integers(0, 3))
coin_margined = st.tuples(st.just("inverse"), sizes.map(lambda size: 50_000.0 * size), st.integers(0, 3))
options = st.tuples(
    st.just("option"), sizes, expiries, st.sampled_from(["C", "P"]), st.floats(0.6, 1.6), st.floats(0.2, 1.5)
)
spots = st.tuples(st.just("spot"), sizes, st.just(4))
rows = st.one_of(linear, coin_margined, options, spots)
books = st.lists(rows, min_size=1, max_size=6)


@given(books, books)
def test_spot_shock_and_extreme_move_are_subadditive(one: list[Row], other: list[Row]) -> None:
    whole, first, second = unit(one + other), unit(one), unit(other)
    for name in ("MR1", "MR6"):
        assert 0.0 <= whole[name] <= (first[name] + second[name]) * (1 + 1e-12) + 1e-6


@given(books, st.floats(0.05, 0.95), st.randoms(use_true_random=False))
def test_splitting_and_reordering_change_nothing(book: list[Row], share: float, random: Any) -> None:
    parts = [(kind, part * size, *rest) for kind, size, *rest in book for part in (share, 1.0 - share)]
    random.shuffle(parts)
    assert unit(parts) == pytest.approx(unit(book), rel=1e-9, abs=1e-6)


@given(books, st.floats(1e-3, 1e3))
def test_scaling_prices_strikes_and_cash_scales_the_requirement(book: list[Row], factor: float) -> None:
    """Progressive tiers aside: MR7 on a flat scale, MR9 (whose tiers are dollars) left out."""
    names = ("MR1", "MR2", "MR3", "MR4", "MR6", "MR7")
    scaled = [(kind, size * factor if kind == "inverse" else size, *rest) for kind, size, *rest in book]
    before, after = unit(book, scale=FLAT), unit(scaled, 60_000.0 * factor, scale=FLAT)
    expected = {name: before[name] * factor for name in names}
    assert {name: after[name] for name in names} == pytest.approx(expected, rel=1e-9, abs=1e-6 * factor)


@given(st.floats(0.01, 50.0), st.sampled_from([1.0, -1.0]))
def test_a_perfect_hedge_leaves_basis_and_closing_cost(size: float, sign: float) -> None:
    coins = size * sign
    dust = 1e-9 * 60_000.0 * size
    for hedge in (("spot", -coins, 4), ("usdt", -coins, 2)):
        found = unit([("usdt", coins, 0), hedge])
        assert found["MR1"] == found["MR2"] == found["MR3"] == found["MR6"] == found["MR9"] == 0.0
        assert found["MR4"] > 0.0
        assert found["MR7"] > 0.0
        assert found["maintenance"] == max(found["MR4"], found["MR7"])
    for hedge in (("usdc", -coins, 0), ("inverse", -60_000.0 * coins, 0)):
        found = unit([("usdt", coins, 0), hedge])
        assert found["MR1"] == pytest.approx(0.0, abs=dust)
        assert found["MR6"] == pytest.approx(0.0, abs=dust)
        assert found["MR9"] >= 0.005 * 60_000.0 * size * (1 - 1e-12)
        assert found["maintenance"] == pytest.approx(max(found["MR4"] + found["MR9"], found["MR7"]), rel=1e-9)


@given(st.floats(0.01, 20.0), expiries, st.floats(0.6, 1.6), st.floats(0.2, 1.5))
def test_a_call_against_a_put_is_a_forward(size: float, tenor: int, ratio: float, vol: float) -> None:
    """Coin-settled, valued at the shocked price: linear in USD, K / F coins."""
    forward = np.array([1.0, 1.002, 1.01, 1.03])[tenor]
    pair = [("option", size, tenor, "C", ratio, vol), ("option", -size, tenor, "P", ratio, vol)]
    found = unit([*pair, ("usdt", -size * ratio / forward, tenor)])
    for name in ("MR1", "MR2", "MR3", "MR6"):
        assert found[name] == pytest.approx(0.0, abs=1e-9 * 60_000.0 * size), name


# -- grids ----------------------------------------------------------------------------------------------------


def test_the_grid_has_seven_moves_and_three_vols() -> None:
    scenarios = grid.spot_vol_grid([0.12, 0.04, 0.08, 0.0])
    assert scenarios.spot.shape == scenarios.vol.shape == (21,)
    assert np.unique(scenarios.spot).tolist() == [-0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12]
    assert [scenarios.label(i) for i in (0, 1, 2)] == [(-0.12, "up"), (-0.12, "same"), (-0.12, "down")]
    assert np.unique(scenarios.vol).tolist() == [-1.0, 0.0, 1.0]
    assert np.array_equal(grid.spot_vol_grid([-0.12, 0.04, -0.08]).spot, scenarios.spot)  # a move is both ways
    assert grid.extreme_moves(0.24).spot.tolist() == [-0.24, 0.24]
    assert grid.extreme_moves(0.24).vol.tolist() == [0.0, 0.0]


def test_the_worst_scenario_of_each_instant() -> None:
    assert grid.worst(np.array([[1.0, -2.0, 3.0], [0.0, 5.0, -7.0], [-4.0, 2.0, -4.0]])).tolist() == [1, 2, 0]


def test_vols_move_by_the_larger_reading_and_keep_a_floor() -> None:
    vol = np.array([0.5, 1.2, 0.08, 0.03])
    shift = grid.vol_shift(vol, points=15.0, percent=0.2)
    assert shift == pytest.approx([0.15, 0.24, 0.15, 0.15])
    scenarios = grid.spot_vol_grid([0.1])
    moved = grid.shocked_vol(vol, shift, scenarios, floor=0.05)
    assert moved.shape == (4, 9)
    assert moved[:, 0] == pytest.approx(vol + shift)
    assert np.array_equal(moved[:, 1], vol)
    assert moved[:, 2] == pytest.approx([0.35, 0.96, 0.05, 0.03])  # never up where it should fall


def test_the_curve_at_its_ends() -> None:
    curve = {"at_30d": 15.09, "cap": 30.0, **POWERS}
    assert grid.tenor_curve(0.0, **curve) == grid.tenor_curve(-1.0, **curve) == 30.0
    assert grid.tenor_curve(30.0, **curve) == 15.09
    within_a_day = grid.tenor_curve(0.3, at_30d=2.0, cap=1e9, power_short=0.5, power_long=0.0)
    assert within_a_day == pytest.approx(20.0)
    days = np.linspace(0.01, 400.0, 500)
    assert (np.diff(grid.tenor_curve(days, **curve)) <= 0.0).all()


# -- rows -----------------------------------------------------------------------------------------------------


@given(st.sampled_from("CP"), st.floats(0.7, 1.4), st.floats(0.02, 1.0), st.floats(0.2, 1.5))
def test_cash_delta_is_the_slope_of_the_profit(right: str, ratio: float, years: float, vol: float) -> None:
    step, index, forward, strike = 1e-5, 60_000.0, 61_000.0, 61_000.0 * ratio
    call = (right, np.array([2.0]), index, forward, strike, years, vol, np.array([-step, step]))
    for in_coin, greeks in ((True, greeks_pa), (False, greeks_bs)):
        low, high = pnl.option_pnl(*call, in_coin=in_coin)[0]
        slope = (high - low) / (2.0 * step)
        delta = pnl.option_cash_delta(2.0, greeks(right, forward, strike, years, vol).delta, index)
        assert slope == pytest.approx(delta, rel=1e-4, abs=1.0)


def test_settlement_is_a_column_too() -> None:
    call = ("C", np.array([1.0, 1.0]), 60_000.0, 61_000.0, 60_000.0, 0.2, 0.6, np.array([-0.1, 0.0, 0.1]))
    both = pnl.option_pnl(*call, in_coin=np.array([True, False]))
    assert np.array_equal(both[0], pnl.option_pnl(*call)[0])
    assert np.array_equal(both[1], pnl.option_pnl(*call, in_coin=False)[1])
    assert (both[:, 1] == 0.0).all()
    assert both[1, 2] > both[0, 2]  # the premium itself is worth more at the higher price


def test_decay_stops_at_expiry() -> None:
    gone = pnl.decay_pnl("P", np.array([-3.0]), 100.0, 100.0, 120.0, 0.5 / YEAR_DAYS, 0.8, days=1.0)
    kept = pnl.option_value("P", np.array([-3.0]), 100.0, 100.0, 120.0, 0.5 / YEAR_DAYS, 0.8)
    assert kept + gone == pytest.approx(-3.0 * 20.0)


def test_long_options_are_charged_at_most_their_value() -> None:
    raw = pnl.option_closing(
        np.array([-2.0, 2.0, 2.0]), 50_000.0, np.array([-900.0, 900.0, 9_000.0]), short_rate=0.022, long_rate=0.02
    )
    assert raw == pytest.approx([2_200.0, 900.0, 2_000.0])
    parts = pnl.option_closing(  # less than a coin is a long or a short all the same; a worthless long owes nothing
        np.array([-0.2, 0.2, 0.2, 0.0]), 50_000.0, np.array([-90.0, 900.0, 0.0, 0.0]), short_rate=0.022, long_rate=0.02
    )
    assert parts == pytest.approx([220.0, 200.0, 0.0, 0.0])


def test_a_vol_point_gains_the_printed_vega() -> None:
    """Position builder sample of 2022 (okx_pb_2022_short_call): vega in coin of -0.1 coin, per vol point."""
    days = VECTORS["okx_pb_2022_short_call_exact"]["inputs"]["days"]
    call = ("C", np.array([-0.1]), 1.0, 38_138.2877, 50_000.0, days / YEAR_DAYS, 0.87527)
    up, down = (pnl.vol_pnl(*call, shift=shift)[0] for shift in (1e-4, -1e-4))
    assert (up - down) / 0.02 == pytest.approx(-3.82697346669e-05, rel=1e-5)
    gone = pnl.vol_pnl(*call, shift=-2.0)  # no vol is below none: the whole time value, which is the short's to keep
    assert gone == pytest.approx(-pnl.option_value(*call))


def test_spot_joins_where_it_hedges() -> None:
    """Section 2.2: min(|delta|, |spot|) where the signs differ; owed coins hedge too and stay negative."""
    delta = np.array([-5.0, -2.0, 5.0, 2.0, 5.0, -5.0, 0.0, 5.0])
    spot = np.array([3.0, 3.0, -3.0, -3.0, 3.0, -3.0, 3.0, 0.0])
    assert pnl.spot_in_use(delta, spot).tolist() == [3.0, 2.0, -3.0, -2.0, 0.0, 0.0, 0.0, 0.0]
    assert pnl.spot_in_use(delta, spot, cap=2.5).tolist() == [2.5, 2.0, -2.5, -2.0, 0.0, 0.0, 0.0, 0.0]


def test_sums_by_group() -> None:
    values = np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])
    assert pnl.summed_by(values, np.array([2, 0, 2]), 3).tolist() == [[2.0, 0.0, 5.0], [20.0, 0.0, 50.0]]


def test_instants_lead() -> None:
    """(instants, positions) in, (instants, positions, scenarios) out: each instant as if alone."""
    scenarios = grid.spot_vol_grid([0.05, 0.1, 0.15])
    coins, strike, vol = np.array([-1.0, 2.0]), np.array([70_000.0, 50_000.0]), np.array([0.6, 0.7])
    index = np.array([[60_000.0], [55_000.0], [50_000.0]])
    sign, years = np.array([1.0, -1.0]), np.array([[0.1], [0.09], [0.08]])
    vols = grid.shocked_vol(vol, np.array([0.15, 0.15]), scenarios, floor=0.05)

    def shock(s: Any, t: Any) -> Any:
        option = pnl.option_pnl(sign, coins, s, 1.01 * s, strike, t, vol, scenarios.spot, vols=vols)
        swap = pnl.linear_pnl(np.broadcast_to([0.7], np.shape(s)), s, 1.0, scenarios.spot)
        return np.concatenate([option, swap], axis=-2)

    together = shock(index, years)
    assert together.shape == (3, 3, 21)
    alone = [shock(s, t) for s, t in zip(index, years, strict=True)]
    assert np.array_equal(together, np.stack(alone))
    assert charges.mr1_spot_shock(together).tolist() == [float(charges.mr1_spot_shock(gains)) for gains in alone]
    deltas = np.array([[1e6, 0.0, -3e6], [2e6, -1e6, 5e5]])
    prices = np.array([[0.97, 0.98, 1.0], [1.0, 1.01, 0.9]])
    each = [depeg(list(d), list(p)) for d, p in zip(deltas, prices, strict=True)]
    found = charges.mr9_depeg(deltas, prices, bounds=BOUNDS, nodes=NODES, factors=FACTORS)
    assert found.tolist() == pytest.approx(each)


def test_instants_are_matched_each_alone() -> None:
    """Four instants of three tenors: 4 from 0 to 30 days, 3 from 7 to 30 days, the first again, nothing."""
    coins = np.array([[4.0, 0.0, -9.0], [0.0, -3.0, 5.0], [4.0, 0.0, -9.0], [0.0, 0.0, 0.0]])
    days = np.array([[0.0, 7.0, 30.0]] * 4)
    spread = charges.mr3_vega_spread(coins, days, np.array([100.0, 10.0, 100.0, 10.0]), rate=0.01)
    assert spread == pytest.approx([4 * 30 * 100 * 0.01, 3 * 23 * 10 * 0.01, 4 * 30 * 100 * 0.01, 0.0])
    spot = np.array([True, False, False])
    basis = charges.mr4_basis_pairs(coins, days / YEAR_DAYS, spot, rate=YEAR_DAYS, spot_rate=50.0)
    assert basis == pytest.approx([4 * 50.0, 3 * 23.0, 4 * 50.0, 0.0])


# -- charges --------------------------------------------------------------------------------------------------


def test_a_unit_without_losses_owes_nothing() -> None:
    assert charges.mr1_spot_shock(np.zeros((0, 21))) == 0.0
    gain = charges.mr1_spot_shock(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert (gain, math.copysign(1.0, float(gain))) == (0.0, 1.0)  # and not minus nothing
    assert charges.mr6_extreme_move(np.array([[5.0, -3.0], [1.0, 4.0]]), factor=0.5) == 0.0


def test_one_of_three_counts_and_the_others_add() -> None:
    for largest in range(3):
        mr1, mr2, mr6 = (100.0 if i == largest else 7.0 for i in range(3))
        stress = charges.unit_stress(mr1, mr2, 1.0, 2.0, 4.0, mr6, 8.0)
        assert stress == 115.0
        assert charges.unit_maintenance(stress, 110.0) == 115.0
        assert charges.unit_maintenance(stress, 120.0) == 120.0
    assert charges.unit_stress(1.0, 0.0, 0.0, 0.0, 0.0, 0.0) == 1.0


def test_what_is_unknown_stays_unknown() -> None:
    nan = math.nan
    assert np.isnan(charges.mr1_spot_shock(np.array([[nan, 1.0]])))
    assert np.isnan(charges.mr2_theta(np.array([1.0, nan]), factor=0.8))
    assert np.isnan(charges.mr3_vega_term(np.array([1.0, nan]), factor=0.25))
    assert np.isnan(charges.mr4_basis(np.array([nan]), np.zeros(1), **RATES))
    nothing = np.zeros(2, dtype=np.bool_)
    assert np.isnan(charges.mr4_basis_pairs(np.array([nan, 1.0]), np.zeros(2), nothing, rate=0.1, spot_rate=0.0))
    assert np.isnan(charges.mr7_minimum(np.array([nan]), **SCALE))
    assert np.isnan(depeg([nan, 1e6, 0.0], [1.0, 1.0, 1.0]))
    assert np.isnan(depeg([1e6, 0.0, -1e6], [nan, 1.0, 1.0]))
    assert np.isnan(charges.unit_maintenance(charges.unit_stress(nan, 0, 0, 0, 0, 0), 1.0))


def test_decay_is_charged_whichever_way_it_goes() -> None:
    """Addendum 2.1: an absolute value. Shorts that earn it, longs that lose it, both of one unit together."""
    decay = np.array([[3.0, 1.0], [-3.0, -1.0], [3.0, -1.0]])
    assert charges.mr2_theta(decay, factor=0.8) == pytest.approx([3.2, 3.2, 1.6])


def test_expiries_only_pay_for_what_they_offset() -> None:
    assert charges.mr3_vega_term(np.array([100.0, 300.0]), factor=0.25) == 0.0
    assert charges.mr3_vega_term(np.array([100.0, -300.0, 50.0]), factor=0.25) == 0.25 * 150.0
    spread = charges.mr3_vega_spread(np.array([10.0, -4.0, -10.0]), np.array([7.0, 30.0, 60.0]), 50_000.0, rate=0.0003)
    assert spread == pytest.approx((4 * 23 + 6 * 53) * 50_000.0 * 0.0003)


def test_only_options_settled_in_dollars_owe_for_rates() -> None:
    assert charges.mr5_rate(np.zeros(0), np.zeros(0), shift=0.05) == 0.0
    for sign in (1.0, -1.0):  # whichever side is the larger
        value = sign * np.array([1_000.0, -3_000.0])
        assert charges.mr5_rate(value, np.array([0.5, 0.1]), shift=0.05) == pytest.approx(10.0)


def matched_one_by_one(delta: list[float], days: list[float], spot: list[bool], rate: float, spot_rate: float) -> float:
    """The twin of `mr4_basis_pairs`: two queues, taken from the front."""
    order = sorted(range(len(delta)), key=lambda i: (-1.0 if spot[i] else days[i]))
    longs = [[i, delta[i]] for i in order if delta[i] > 0.0]
    shorts = [[i, -delta[i]] for i in order if delta[i] < 0.0]
    charge = 0.0
    while longs and shorts:
        (i, a), (j, b) = longs[0], shorts[0]
        amount = min(a, b)
        least = spot_rate if spot[i] or spot[j] else 0.0
        charge += amount * max(rate * abs(days[i] - days[j]) / YEAR_DAYS, least)
        for side in (longs, shorts):
            side[0][1] -= amount
            if side[0][1] <= 0.0:
                side.pop(0)
    return charge


@given(st.lists(st.integers(-9, 9), min_size=5, max_size=5), st.permutations([0, 1, 2, 3, 4]))
def test_tenors_are_matched_in_order_of_time(sizes: list[int], order: list[int]) -> None:
    delta, days = [1e4 * sizes[i] for i in order], [[0.0, 0.0, 7.0, 45.0, 200.0][i] for i in order]
    spot = [i == 0 for i in order]
    found = charges.mr4_basis_pairs(
        np.array(delta), np.array(days) / YEAR_DAYS, np.array(spot), rate=0.1, spot_rate=0.012
    )
    assert found == pytest.approx(matched_one_by_one(delta, days, spot, 0.1, 0.012), abs=1e-6)


def test_a_tenor_pays_its_floor_or_its_time() -> None:
    mr4 = charges.mr4_basis(np.array([-100.0, 100.0, -100.0]), np.array([0.0, 0.01, 1.0]), rate=0.05, floor=0.002)
    assert mr4 == pytest.approx(0.2 + 0.2 + 5.0)


@given(st.floats(0.0, 1e7), st.floats(0.0, 1e6))
def test_the_scale_is_continuous_and_convex(raw: float, more: float) -> None:
    def scaled(amount: float) -> float:
        return float(charges.mr7_minimum(np.array([amount]), **SCALE))

    assert scaled(raw) >= raw
    assert scaled(raw + more) - scaled(raw) <= 12.0 * more * (1 + 1e-9) + 1e-6
    assert scaled((raw + more) / 2) <= (scaled(raw) + scaled(more)) / 2 * (1 + 1e-12)


def test_nothing_escapes_beyond_the_last_tier() -> None:
    assert charges.mr7_minimum(np.array([3e6]), bounds=[1e6, 2e6], multipliers=[1, 2]) == 5e6
    last = depeg([-500e6, 500e6, 0.0], [1.0, 1.0, 1.0])
    assert last - depeg([-400e6, 400e6, 0.0], [1.0, 1.0, 1.0]) == pytest.approx(0.04 * 100e6)


@pytest.mark.parametrize(
    ("cash_delta", "volumes"),
    [
        ([10.0, 0.0, -10.0], [10.0, 0.0, 0.0]),  # USDT-USD
        ([10.0, -4.0, -7.0], [7.0, 3.0, 0.0]),  # then USDT-USDC with what is left
        ([-10.0, 4.0, 7.0], [7.0, 3.0, 0.0]),
        ([2.0, -4.0, 7.0], [0.0, 2.0, 2.0]),  # then USDC-USD
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([-5.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_hedge_volumes_in_their_order(cash_delta: list[float], volumes: list[float]) -> None:
    assert charges.hedge_volumes(np.array(cash_delta)).tolist() == volumes


def test_factors_step_up_where_the_peg_slips() -> None:
    prices = np.array([0.9901, 1.0, 0.99])
    found = charges.depeg_factors(prices, nodes=NODES, factors=FACTORS)
    assert found.shape == (3, 8)
    assert found[0] == pytest.approx([row[0] for row in FACTORS])
    assert found[2] == pytest.approx([row[1] for row in FACTORS])
    low = charges.depeg_factors(np.array([0.5, 1.25, 0.9]), nodes=NODES, factors=FACTORS)
    assert (low[0] == 0.4).all()
    assert (low[1] == 0.4).all()  # USDT/USDC at 1.25: USDC is worth 0.8
    assert low[2, 0] == pytest.approx(0.01 + 0.39 * 0.08 / 0.18)
    weak = [charges.depeg_factors(np.array([1.0, cross, 1.0]), nodes=NODES, factors=FACTORS)[1]
            for cross in (1.05, 1 / 1.05)]
    assert weak[0] == pytest.approx(weak[1])  # by 5 % too: USDC is worth 0.952
    assert (weak[0] > [row[0] for row in FACTORS]).any()


def test_a_falling_peg_never_costs_less() -> None:
    costs = [depeg([10e6, 0.0, -10e6], [price, price, 1.0]) for price in np.linspace(1.01, 0.7, 63)]
    assert (np.diff(costs) >= -1e-9).all()


def test_without_tiers_there_is_no_depeg_charge() -> None:
    found = charges.mr9_depeg(np.array([[1e6, -1e6, 0.0]] * 2), np.ones((2, 3)), bounds=[], nodes=[], factors=[])
    assert found.tolist() == [0.0, 0.0]
