"""Which parameters of the rules a charge rests on: every one of them by name, and none that no table has."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bt_margin.modes import inferred
from bt_margin.modes.inferred import _spot_part, _vol_part, grades, resting, whole
from bt_margin.modes.unit_margin import UnitMargin

from .test_portfolio_laws import OPTIONS, SWAP, market, pool, requirement, rules, unit

VOLS = ("vol_points_30d", "vol_points_cap", "vol_power_short", "vol_power_long")
RESTS = {
    "MR1": ("mr1_moves",),
    "MR2": ("mr2_factor", "mr2_days"),
    "MR3": ("mr3_kind", "mr3_factor", *VOLS),
    "MR5": ("mr5_rate_shift",),
    "MR6": ("mr6_move", "mr6_factor"),
    "MR7": ("mr7_tiers",),
    "MR9": ("mr9_prices", "mr9_tiers", "option_delta"),
}


@pytest.mark.parametrize("name", sorted(RESTS))
def test_what_a_charge_rests_on_is_known_by_these_names(name: str) -> None:
    held = pool([(SWAP, 100.0), (OPTIONS[0], -300.0)])
    assert requirement(held).maintenance
    assert whole(name, unit(held), "BTC", rules()) == RESTS[name]
    asked = grades(rules(), "BTC")
    assert "" not in asked  # as the tables of other things are called
    assert set(RESTS[name]) | set(inferred._VOLS) <= set(asked)


def test_what_basis_and_spreads_rest_on_is_a_choice() -> None:
    held = unit(pool([(SWAP, 100.0), (OPTIONS[0], -300.0)]))
    for kind, names in (("tenors", ("mr4_kind", "mr4_rate", "mr4_floor", "option_delta")),
                        ("pairs", ("mr4_kind", "mr4_rate", "option_delta"))):
        assert whole("MR4", held, "BTC", rules(mr4_kind=kind)) == names
    assert whole("MR3", held, "BTC", rules(mr3_kind="bybit")) == ("mr3_kind", "mr3_spread_rate")


def test_where_coins_stand_beside_contracts_it_rests_on_what_they_count_for() -> None:
    held = unit(pool([(SWAP, -1_000.0)], {"USDT": 1e6, "BTC": 10.0}))
    assert whole("MR4", held, "BTC", rules(mr4_kind="pairs")) == ("mr4_kind", "mr4_rate", "mr4_spot_rate")
    assert whole("MR4", held, "BTC", rules(mr4_kind="tenors")) == ("mr4_kind", "mr4_rate", "mr4_floor")
    assert whole("MR9", held, "BTC", rules()) == ("mr9_prices", "mr9_tiers", "mr9_spot")


def test_the_grade_of_a_coin_is_its_own() -> None:
    """Options are closed at a rate that is known of bitcoin alone here, contracts at one of each coin."""
    found = rules.__wrapped__()
    found.portfolio_options("BTC")
    for coin in ("BTC", "ETH"):
        found.portfolio(coin)
    bitcoin, ether = (grades(found, coin) for coin in ("BTC", "ETH"))
    assert (bitcoin["mr7_delta_one"], ether["mr7_delta_one"]) == ("derived", "inferred")
    assert bitcoin["mr7_long_option"] == "inferred"
    assert "mr7_long_option" not in ether
    assert bitcoin["vol_floor"] == ether["vol_floor"] == "inferred"  # of all coins


def share(margin: UnitMargin, other: float = 0.0) -> tuple[float, tuple[str, ...]]:
    return resting("BTC", margin, other, math.inf, market(), rules())


def test_of_closing_costs_the_inferred_ones_count() -> None:
    known = unit(pool([(SWAP, 100.0), (OPTIONS[0], -300.0)]))
    dear = replace(known, charges={**known.charges, "MR7": 1e9},
                   closing={"mr7_delta_one": 300.0, "mr7_short_option": 100.0})
    part, names = share(dear)
    assert part == pytest.approx(0.25)
    assert names == ("mr7_short_option",)
    nothing = replace(known, charges=dict.fromkeys(known.charges, 0.0))
    assert share(nothing) == (0.0, ())


def test_what_the_other_reading_of_spot_would_change() -> None:
    """A short of ten bitcoins, all or four of them held: six of 120,000 USD at 12 %, or at 24 % and its factor."""
    held = unit(pool([(SWAP, -1_000.0)], {"USDT": 1e6, "BTC": 10.0}))
    assert float(held.spot) == pytest.approx(10.0)
    known = rules(mr6_factor=0.75)
    parts = [_spot_part(name, "BTC", held, 4.0, math.inf, market(), known) for name in ("MR1", "MR6")]
    assert parts == pytest.approx([6 * 120_000.0 * 0.12, 6 * 120_000.0 * 0.24 * 0.75])
    assert _spot_part("MR1", "BTC", held, 10.0, math.inf, market(), rules()) == 0.0
    bare = unit(pool([(SWAP, -1_000.0)]))
    assert "spot_amount" in share(bare, 4.0)[1]


def test_what_vols_add_is_nothing_where_none_moves_the_worst() -> None:
    known = unit(pool([(SWAP, 100.0), (OPTIONS[0], -300.0)]))
    still = -float(np.min(known.profits[known.scenarios.vol == 0.0]))
    assert _vol_part(replace(known, charges={**known.charges, "MR1": still})) == 0.0
    assert _vol_part(replace(known, charges={**known.charges, "MR1": still + 0.5})) == pytest.approx(0.5)


def alone(margin: UnitMargin, name: str, amount: float, **more: Any) -> UnitMargin:
    """A unit of one charge, that is closed for 300 of contracts and 100 of options."""
    closing = {"mr7_delta_one": 300.0, "mr7_short_option": 100.0}
    return replace(margin, charges={**dict.fromkeys(margin.charges, 0.0), name: amount}, closing=closing, **more)


def test_a_small_unit_rests_on_what_a_large_one_does() -> None:
    """Half a dollar, a quarter of it for options; half a dollar that vols add to a fifth that moves make."""
    known = unit(pool([(SWAP, 100.0), (OPTIONS[0], -300.0)]))
    assert share(alone(known, "MR7", 0.5)) == (pytest.approx(0.25), ("mr7_short_option",))
    still = -float(np.min(known.profits[known.scenarios.vol == 0.0]))
    small = known.profits * 0.2 / still
    part, names = share(alone(known, "MR1", 0.7, profits=small))
    assert part == pytest.approx(0.5 / 0.7)
    assert set(names) == set(inferred._VOLS)
    assert share(alone(known, "MR1", 0.2, profits=small)) == (0.0, ())  # moves are official


def test_only_moves_rest_on_what_spot_counts_for() -> None:
    """Four coins of 120,000 USD more or less, at 12 %."""
    bare = unit(pool([(SWAP, -1_000.0)]))
    assert share(alone(bare, "MR1", 1e6), 4.0) == (pytest.approx(0.0576), ("spot_amount",))
    assert "spot_amount" not in share(alone(bare, "MR7", 1e6), 4.0)[1]


def test_more_than_half_is_indicative() -> None:
    assert inferred.INDICATIVE == 0.5
