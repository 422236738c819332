"""Which parameters of the rules a charge rests on: every one of them by name, and none that no table has."""

from __future__ import annotations

import pytest

from bt_margin.modes import inferred
from bt_margin.modes.inferred import grades, whole

from .test_portfolio_laws import OPTIONS, SWAP, pool, requirement, rules, unit

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
    assert set(RESTS[name]) | set(inferred._VOLS) <= set(asked)


def test_more_than_half_is_indicative() -> None:
    assert inferred.INDICATIVE == 0.5
