"""How much of a risk unit's margin rests on parameters that nobody published.

A charge rests on the parameters its formula takes; what is graded `inferred` in the table is counted here, with its
share of the maintenance margin. MR1's share through the vols is what the moved vols add to its loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from bt_margin.modes.unit_margin import UnitMargin

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

TABLE = "portfolio"
_ALWAYS = {
    "MR1": ("mr1_moves",),
    "MR2": ("mr2_factor", "mr2_days"),
    "MR3": ("mr3_kind", "mr3_factor"),
    "MR4": ("mr4_kind", "mr4_rate", "mr4_floor", "mr4_spot_rate"),
    "MR5": ("mr5_rate_shift",),
    "MR6": ("mr6_move", "mr6_factor"),
    "MR7": ("mr7_tiers",),
    "MR9": ("mr9_prices", "mr9_tiers"),
}
_VOLS = ("vol_reading", "vol_points_30d", "vol_points_cap", "vol_percent_30d", "vol_percent_cap", "vol_power_short",
         "vol_power_long", "vol_floor")
INDICATIVE = 0.5
"""A unit resting by more than this share on inferred parameters is marked (the promise of the public interface)."""


def parameters(name: str, margin: UnitMargin) -> tuple[str, ...]:
    """What a charge of a unit leans on, by the names of the rule table; nothing where it charges nothing."""
    if not float(margin.charges[name]):
        return ()
    found = list(_ALWAYS[name])
    spot, options = bool(np.any(margin.spot)), margin.options
    if name == "MR1" and options is not None:
        found += _VOLS
    if name == "MR7":
        if margin.contracts is not None:
            found.append("mr7_delta_one")
        if spot:
            found.append("mr7_spot")
        if options is not None:
            found += ["mr7_short_option"] if np.any(options.coins < 0) else []
            found += ["mr7_long_option"] if np.any(options.coins > 0) else []
    if name == "MR4" and not spot:
        found.remove("mr4_spot_rate")
    if spot and name in ("MR1", "MR4", "MR6"):
        found.append("spot_amount")
    if options is not None and name in ("MR4", "MR9"):
        found.append("option_delta")
    if spot and name == "MR9":
        found.append("mr9_spot")
    return tuple(found)


def grades(rules: Rules, base: str) -> dict[str, str]:
    """Grade of every parameter looked up so far for a coin, its own before that of all coins."""
    found: dict[str, str] = {}
    for row in rules.evidence():
        coin, _, name = row.subject.partition(".")
        if row.table == TABLE and (coin == base or (coin == "*" and name not in found)):
            found[name] = row.grade
    return found


def inferred(names: Iterable[str], known: dict[str, str]) -> tuple[str, ...]:
    """Those of some parameters that are graded inferred."""
    return tuple(name for name in names if known.get(name) == "inferred")


def resting(base: str, margin: UnitMargin, rules: Rules) -> tuple[float, tuple[str, ...]]:
    """(share of the maintenance margin that rests on inferred parameters, their names), at one instant."""
    known, total = grades(rules, base), float(margin.maintenance)
    if total <= 0:
        return 0.0, ()
    amount = 0.0
    names: list[str] = []
    for name, part in margin.binding().items():
        leans = inferred(parameters(name, margin), known)
        if not float(part) or not leans:
            continue
        names += leans
        amount += _vol_part(margin) if name == "MR1" and set(leans) <= set(_VOLS) else float(part)
    return amount / total, tuple(dict.fromkeys(names))


def _vol_part(margin: UnitMargin) -> float:
    """What the moved vols add to MR1."""
    still = max(0.0, -float(np.min(margin.profits[margin.scenarios.vol == 0.0])))
    return max(0.0, float(margin.charges["MR1"]) - still)

