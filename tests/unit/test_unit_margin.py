"""What one risk unit must hold: each charge by hand, at one instant and at many."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.judged_units import judged_units
from bt_margin.modes.options import greeks
from bt_margin.modes.risk_units import Filling
from bt_margin.modes.unit_margin import NAMES, unit_margin
from bt_margin.risk.black import coin_price, years_between

from .test_judged_units import judged
from .test_portfolio_laws import (
    DATED,
    FUTURE,
    INVERSE,
    NOW,
    OPTIONS,
    SWAP,
    USDC,
    VOLS,
    Legs,
    instrument,
    market,
    pool,
    rules,
    unit,
)


def test_spot_hedges_at_the_instants_at_which_it_does() -> None:
    """10 BTC short in perpetuals. 240,000 USD of inverse contracts bought at 120,024 have lost 2 BTC where the coin is
    at half that: a coin of cash is one owed then, a short on a short."""
    held = pool([(SWAP, -1_000.0), (INVERSE, 2_400.0)], {"USDT": 1e7, "BTC": 1.0}, entry=120_024.0)
    prices = np.array([60_000.0, 120_000.0])
    many = judged(held, market(prices))
    assert np.asarray(many.now.spot) == pytest.approx([0.0, 1.0])
    for place, price in enumerate(prices.tolist()):
        one = judged(held, market(price)).now
        for name in NAMES:
            told = np.broadcast_to(many.now.charges[name], 2)[place]
            assert told == pytest.approx(float(one.charges[name]), rel=1e-9, abs=1e-6), name


def test_what_closing_costs_by_the_parameter_that_it_rests_on() -> None:
    """10 BTC short at 120,060: 0.45 %. Two puts sold: 2.2 % of two coins. Half a call bought: 2.2 % of half a coin.
    Spot costs nothing."""
    legs = [(SWAP, -1_000.0), (OPTIONS[1], -200.0), (OPTIONS[2], 50.0)]
    found = unit(pool(legs, {"USDT": 1e7, "BTC": 3.0}))
    assert found.closing == pytest.approx({"mr7_spot": 0.0, "mr7_delta_one": 0.0045 * 1_200_600.0,
                                           "mr7_short_option": 0.022 * 240_000.0, "mr7_long_option": 0.022 * 60_000.0})
    assert found.charges["MR7"] == pytest.approx(5_402.7 + 5_280.0 + 1_320.0)


@pytest.mark.parametrize(("legs", "coins", "options", "depeg"), [
    ([(SWAP, -1_000.0)], 0.0, False, False), ([(SWAP, -1_000.0)], 3.0, False, True),
    ([(INVERSE, -1_200.0)], 3.0, False, False), ([(INVERSE, -1_200.0), (SWAP, 9.0)], 0.0, False, True),
    ([(OPTIONS[0], 100.0)], 0.0, True, False),
])
def test_no_rule_is_looked_up_that_nothing_rests_on(legs: Legs, coins: float, options: bool, depeg: bool) -> None:
    """Options have rules of their own; settlement coins hedge each other where there are two, or one beside spot."""
    looked_up, here = rules.__wrapped__(), market()
    held = pool(legs, {"USDT": 1e7, "BTC": coins})
    judged_units(held, currencies.lines(held, here, looked_up), here, looked_up)
    names = {row.subject.partition(".")[2] for row in looked_up.evidence() if row.table == "portfolio"}
    assert "mr1_moves" in names
    assert ("mr2_factor" in names) is options
    assert ("mr9_tiers" in names) is depeg


def test_with_the_worst_of_two_readings_vols_move_by_points_or_by_per_cent_and_each_scenario_takes_the_worse() -> None:
    """A call sold at a vol of 0.45 loses more by points, one bought at 0.6 by per cent."""
    held = pool([(OPTIONS[0], -100.0), (OPTIONS[2], 150.0)])
    tables = {"vol_points_30d": 15.0, "vol_points_cap": 15.0, "vol_percent_30d": 0.3, "vol_percent_cap": 0.3}

    def profits(reading: str, without: str = "none") -> np.ndarray:
        over: dict[str, Any] = {name: 0.0 if name.startswith(f"vol_{without}") else x for name, x in tables.items()}
        return judged(held, vol_reading=reading, **over).now.profits

    points, percent = profits("larger-move", "percent"), profits("larger-move", "points")
    assert (points < percent).any()
    assert (percent < points).any()
    worst = profits("worst-loss")
    assert worst == pytest.approx(np.minimum(points, percent), rel=1e-12)
    assert worst != pytest.approx(profits("larger-move"))
    tables = dict.fromkeys(tables, 0.0)
    still = profits("worst-loss").reshape(-1, 3)  # up, same and down of each move
    assert still == pytest.approx(np.repeat(still[:, 1:2], 3, axis=1), abs=1e-9)


def test_expiries_pay_for_the_vega_that_they_offset() -> None:
    """1.2 coins of options sold for October, 1 coin bought for December, 56 days later. Of vols that rise by their
    points the smaller of gain and loss counts, a quarter of it; or coins x days x 0.03 % of the index."""
    legs = dict(zip(OPTIONS, (-100.0, -20.0, 150.0, -50.0), strict=True))
    held, terms, gains = pool(list(legs.items())), rules().portfolio_options("BTC"), dict[int, float]()
    for symbol, size in legs.items():
        option = instrument(symbol)
        expiry = option.expiry_ms or 0
        days = (expiry - NOW) / 86_400_000
        points = 15.09 * (30.0 / days) ** (0.3 if days < 30 else 0.13)
        before, after = (float(coin_price(option.terms.right, market().forward(symbol), option.terms.strike,
                                          years_between(NOW, expiry), VOLS[symbol] + more))
                         for more in (0.0, points / 100.0))
        gains[expiry] = gains.get(expiry, 0.0) + size * 0.01 * (after - before) * 120_000.0
    october, december = (gains[expiry] for expiry in sorted(gains))
    assert october < 0 < december
    assert (terms.vol_points_30d, terms.mr3_factor) == (15.09, 0.25)
    charges = {kind: float(judged(held, mr3_kind=kind).now.charges["MR3"]) for kind in ("none", "deribit_v1", "bybit")}
    assert charges == pytest.approx({"none": 0.0, "deribit_v1": 0.25 * min(-october, december),
                                     "bybit": 1.0 * 56 * 0.0003 * 120_000.0})


def test_vega_that_expiries_offset_is_charged_at_each_instant() -> None:
    """A coin over 56 days at 0.03 % of the index, also where time runs; of one option there is nothing to offset."""
    prices = np.array([100_000.0, 120_000.0])
    late = replace(market(prices), times=np.array([NOW, NOW + 86_400_000]))
    held = pool([(OPTIONS[0], -100.0), (OPTIONS[2], 100.0)])
    assert judged(held, late, mr3_kind="bybit").now.charges["MR3"] == pytest.approx(56 * 0.0003 * prices)
    assert judged(pool([(OPTIONS[0], -100.0)]), mr3_kind="bybit").now.charges["MR3"] == 0.0


def test_each_tenor_pays_for_its_basis_by_either_kind() -> None:
    """10 BTC short and 1 long in perpetuals of two coins, 3 of spot, 2 long in a future of December, in 77 days and 8
    hours. Each tenor pays for itself, 0.2 % at least or 5 % a year; or only what is matched: spot first, then by time.
    """
    held = pool([(SWAP, -1_000.0), (USDC, 10_000.0), (FUTURE, 200.0)], {"USDT": 1e7, "BTC": 3.0})
    spot, perpetual, december = 3 * 120_000.0, 10 * 120_060.0 - 119_952.0, 2 * 121_440.0
    years = (77 + 8 / 24) / 365
    rates: dict[str, Any] = {"mr4_rate": 0.05, "mr4_floor": 0.002, "mr4_spot_rate": 0.012}
    charges = [float(judged(held, mr4_kind=kind, **rates).now.charges["MR4"]) for kind in ("tenors", "pairs")]
    assert charges == pytest.approx([
        0.002 * (spot + perpetual) + 0.05 * years * december, 0.012 * spot + 0.05 * years * december])


DEPEG: dict[str, Any] = {"mr9_prices": (0.99,), "mr9_tiers": ((1e15, 0.01, 0.02),)}
"""1 % of what settlement coins hedge of each other, 2 % where the pair is at 0.99 or below."""
SHORT, LONG_USD, LONG_USDC = (SWAP, -1_000.0), (INVERSE, 1_200.0), (USDC, 10_000.0)


@pytest.mark.parametrize(("legs", "at", "charge"), [
    ([SHORT, LONG_USD], market(), 0.01 * 120_000.0), ([SHORT, LONG_USD], market(usdt=0.9), 0.02 * 120_000.0),
    ([SHORT, LONG_USDC], market(usdt=0.9), 0.02 * 119_952.0),
    ([SHORT, LONG_USDC], market(usdt=0.97, usdc=0.97), 0.01 * 119_952.0),
    ([SHORT, LONG_USDC], market(), 0.01 * 119_952.0),
    ([(USDC, -10_000.0), LONG_USD], market(usdc=0.97), 0.02 * 119_952.0), ([SHORT, (INVERSE, -1_200.0)], market(), 0.0),
])
def test_what_settlement_coins_hedge_of_each_other_is_charged_by_the_price_of_their_pair(
    legs: Legs, at: Market, charge: float
) -> None:
    """10 BTC short in USDT; 120,000 USD long in inverse contracts, or a coin in USDC at 119,952."""
    held = pool(legs, {"USDT": 1e7})
    assert judged(held, at, **DEPEG).now.charges["MR9"] == pytest.approx(charge)
    assert judged(held, at, **{**DEPEG, "mr9_tiers": ()}).now.charges["MR9"] == 0.0


def test_the_price_of_a_pair_is_the_one_quoted_and_a_coin_that_hedges_nothing_is_not_asked_for() -> None:
    quoted = replace(market(usdt=0.9), indexes={**market(usdt=0.9).indexes, "USDT/USDC": 1.0})
    held = pool([SHORT, LONG_USDC], {"USDT": 1e7})
    assert judged(held, quoted, **DEPEG).now.charges["MR9"] == pytest.approx(0.01 * 119_952.0)
    bare = replace(market(), indexes={name: x for name, x in market().indexes.items() if "USDC" not in name})
    assert judged(pool([SHORT, LONG_USD]), bare, **DEPEG).now.charges["MR9"] == pytest.approx(1_200.0)
    assert not any("USDC" in note for note in bare.stand_ins)
    falling = market(np.array([120_000.0, 120_000.0]), usdt=np.array([1.0, 0.9]))
    assert judged(pool([SHORT, LONG_USD]), falling, **DEPEG).now.charges["MR9"] == pytest.approx([1_200.0, 2_400.0])


def test_spot_in_use_hedges_contracts_of_a_stablecoin_where_the_rules_count_it_as_dollars() -> None:
    """3 BTC are 360,000 USD against a short in USDT; at an instant without coins nothing is hedged."""
    held = pool([SHORT], {"USDT": 1e7, "BTC": 3.0})
    for side, charge in (("none", 0.0), ("USD", 0.01 * 360_000.0)):
        for at in (market(), market(usdc=0.97)):  # they are no USDC
            assert judged(held, at, mr9_spot=side, **DEPEG).now.charges["MR9"] == pytest.approx(charge)
    over = {"mr9_spot": "USD", **DEPEG}
    filling = Filling(((instrument(SWAP), -1_000.0),))
    many = unit_margin("BTC", filling, np.array([0.0, 3.0]), math.inf, market(), rules(**over))
    assert many.charges["MR9"] == pytest.approx([0.0, 3_600.0])


def test_spot_joins_by_the_net_coins_of_contracts_and_options() -> None:
    """A call sold is short its delta in coins; with as much in perpetuals twice that."""
    delta = float(greeks(instrument(OPTIONS[0]), market())[1].delta)
    cash = {"USDT": 1e7, "BTC": 3.0}
    assert 0.3 < delta < 0.7
    assert float(unit(pool([(OPTIONS[0], -100.0)], cash)).spot) == pytest.approx(delta)
    both = unit(pool([(OPTIONS[0], -100.0), (SWAP, -100.0 * delta)], cash))
    assert float(both.spot) == pytest.approx(2.0 * delta)


@pytest.mark.parametrize("legs", [
    [(INVERSE, -1_200.0), (DATED, -600.0)],
    [(SWAP, -900.0), (USDC, 20_000.0), (OPTIONS[0], 50.0), (OPTIONS[3], -70.0)],
])
def test_charges_at_many_instants_are_those_of_each(legs: Legs) -> None:
    prices, usdt = np.array([90_000.0, 120_000.0, 150_000.0]), np.array([1.0, 0.97, 0.9])
    held = pool(legs, {"USDT": 1e7, "BTC": 2.0})
    many = judged(held, market(prices, usdt), **DEPEG).now
    for place in range(3):
        one = judged(held, market(float(prices[place]), float(usdt[place])), **DEPEG).now
        for name in NAMES:
            told = np.broadcast_to(many.charges[name], 3)[place]
            assert told == pytest.approx(float(one.charges[name]), rel=1e-7, abs=1e-6), name
