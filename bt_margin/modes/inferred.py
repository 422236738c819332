"""How much of a risk unit's margin rests on parameters that nobody published.

A charge rests on the parameters its formula takes. Where one of them is graded `inferred`, what the charge adds to the
maintenance margin counts: whole, or only what the parameter makes of it, where that can be told: MR1 as far as moved
vols add to its loss, MR7 by its raw parts, MR1 and MR6 as far as the two readings of a coin's spot differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bt_margin.model.market import Market
from bt_margin.modes.unit_margin import UnitMargin, net_coins
from bt_margin.risk import pnl

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

TABLE = "portfolio"
INDICATIVE = 0.5
"""A unit resting by more than this share on inferred parameters is marked (the promise of the public interface)."""
_POINTS = ("vol_points_30d", "vol_points_cap", "vol_power_short", "vol_power_long")
_VOLS = (*_POINTS, "vol_reading", "vol_percent_30d", "vol_percent_cap", "vol_floor")
_MOVES = {"MR1": ("mr1_moves",), "MR6": ("mr6_move", "mr6_factor")}
_WHOLE = {
    **_MOVES,
    "MR2": ("mr2_factor", "mr2_days"),
    "MR5": ("mr5_rate_shift",),
    "MR7": ("mr7_tiers",),
    "MR9": ("mr9_prices", "mr9_tiers"),
}


def grades(rules: Rules, base: str) -> dict[str, str]:
    """Grade of every parameter looked up so far for a coin: its own before that of all coins."""
    found: dict[str, str] = {}
    for row in rules.evidence():
        coin, _, name = row.subject.partition(".")
        if row.table == TABLE and (coin == base or (coin == "*" and name not in found)):
            found[name] = row.grade
    return found


def whole(name: str, margin: UnitMargin, base: str, rules: Rules) -> tuple[str, ...]:
    """The parameters that all of a charge rests on."""
    row, spot = rules.portfolio(base), bool(np.any(margin.spot))
    if name == "MR3":
        kind = rules.portfolio_options(base).mr3_kind
        return ("mr3_kind", "mr3_spread_rate") if kind == "bybit" else ("mr3_kind", "mr3_factor", *_POINTS)
    found = list(_WHOLE.get(name, ()))
    if name == "MR4":
        found = ["mr4_kind", "mr4_rate"]
        found += ["mr4_floor"] if row.mr4_kind == "tenors" else ["mr4_spot_rate"] if spot else []
    if name in ("MR4", "MR9") and margin.options is not None:
        found.append("option_delta")
    if name == "MR9" and spot:
        found.append("mr9_spot")
    return tuple(found)


def resting(
    base: str, margin: UnitMargin, other_spot: float, cap: float, market: Market, rules: Rules
) -> tuple[float, tuple[str, ...]]:
    """(share of the maintenance margin that rests on inferred parameters, their names), at one instant.

    `other_spot`: the coins that could join by the reading of spot that the rules do not take.
    """
    total = float(margin.maintenance)
    if total <= 0:
        return 0.0, ()
    known, amount = grades(rules, base), 0.0
    names: list[str] = []
    for name, part in ((name, float(part)) for name, part in margin.binding().items() if float(part)):
        leans = dict.fromkeys(whole(name, margin, base, rules), part)
        if name == "MR1" and margin.options is not None:
            leans |= dict.fromkeys(_VOLS, _vol_part(margin))
        if name == "MR7":
            raw = sum(float(cost) for cost in margin.closing.values())
            leans |= {parameter: part * float(cost) / raw for parameter, cost in margin.closing.items()}
        if name in _MOVES:
            leans["spot_amount"] = _spot_part(name, base, margin, other_spot, cap, market, rules)
        counted = {parameter: x for parameter, x in leans.items() if known.get(parameter) == "inferred" and x > 0}
        names += counted
        separate = (max((x for p, x in counted.items() if p in _VOLS), default=0.0)
                    + sum(x for p, x in counted.items() if p not in _VOLS))
        amount += min(part, separate)
    return amount / total, tuple(dict.fromkeys(names))


def _vol_part(margin: UnitMargin) -> float:
    """What the moved vols add to MR1."""
    still = max(0.0, -float(np.min(margin.profits[margin.scenarios.vol == 0.0])))
    return max(0.0, float(margin.charges["MR1"]) - still)


def _spot_part(
    name: str, base: str, margin: UnitMargin, other_spot: float, cap: float, market: Market, rules: Rules
) -> float:
    """What MR1 or MR6 could differ by if spot were measured the other way."""
    other = float(pnl.spot_in_use(net_coins(margin.contracts, margin.options), other_spot, cap=cap))
    apart = abs(other - float(margin.spot))
    if not apart:
        return 0.0
    row = rules.portfolio(base)
    move = max(row.mr1_moves) if name == "MR1" else row.mr6_move * row.mr6_factor
    return apart * float(market.usd(base)) * move
