"""The risk units of an account, each judged as it stands and with its resting orders filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.model.assessment import Charge
from bt_margin.model.instrument import Number
from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.base import Pool
from bt_margin.modes.currencies import Line
from bt_margin.modes.kept import Kept
from bt_margin.modes.risk_units import RiskUnit, fillings, risk_units
from bt_margin.modes.unit_margin import UnitMargin, unit_margin
from bt_margin.risk.grid import VOL_COLUMNS

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

Array = NDArray[np.float64]


@dataclass(frozen=True)
class JudgedUnit:
    """A unit as it stands (`now`, the first of `cases`) and with its orders filled. `with_orders`: the worst case sets
    maintenance margin too, not only initial margin. `cap`: how many coins of spot may join; `other_spot`: the coins by
    the reading of "spot" that the rules do not take."""

    unit: RiskUnit
    now: UnitMargin
    cases: tuple[UnitMargin, ...]
    with_orders: bool
    initial_factor: float
    other_spot: Number
    cap: float

    @property
    def shown(self) -> UnitMargin:
        """The case that maintenance margin is taken from; for one instant."""
        return max(self.cases, key=lambda case: float(case.maintenance)) if self.with_orders else self.now

    @cached_property
    def charges(self) -> tuple[Charge, ...]:
        """MR1 to MR9, each with what it adds to the unit's margin and its own value beside."""
        opens = self.parts(self.cases)
        keeps = opens if self.with_orders or len(self.cases) == 1 else self.now.binding()
        return tuple(
            Charge(name, self.unit.name, self.initial_factor * opens[name], keeps[name], 0.0, self._detail(name, value))
            for name, value in self.now.charges.items()
        )

    def _detail(self, name: str, value: Number) -> dict[str, object]:
        """`value`: the charge by itself, before orders; `currency` None: it belongs to no currency's margin."""
        found: dict[str, object] = {"value": value, "currency": None}
        if name == "MR1":
            found |= worst_scenario(self.now.profits, self.now.scenarios.spot, self.now.scenarios.vol)
        elif name == "MR6":
            found |= worst_scenario(self.now.extreme_profits, self.now.extremes.spot, None)
        return found

    def parts(self, cases: Sequence[UnitMargin]) -> dict[str, Number]:
        """What each charge adds to the maintenance margin of the worst of some cases, instant by instant."""
        found = [case.binding() for case in cases]
        if len(found) == 1:
            return found[0]
        margins = [case.maintenance for case in cases]
        if not any(np.ndim(margin) for margin in margins):  # one instant, where plain numbers are much faster
            return found[int(np.argmax([float(margin) for margin in margins]))]
        sizes = np.stack(np.broadcast_arrays(*margins))
        first = np.argmax(sizes, axis=0)[None]
        return {
            name: np.take_along_axis(
                np.stack([np.broadcast_to(part[name], sizes.shape[1:]) for part in found]), first, axis=0
            )[0][()]
            for name in found[0]
        }


def judged_units(pool: Pool, lines: Sequence[Line], market: Market, rules: Rules) -> tuple[JudgedUnit, ...]:
    """Every unit of the pool, judged. `lines`: the pool's currencies."""
    caps, coins = currencies.of(pool).spot_use.cap, {line.currency: line for line in lines}
    found = []
    for unit in risk_units(pool, rules):
        row = rules.portfolio(unit.base)
        line, cap = coins.get(unit.base), caps.get(unit.base, np.inf)
        cash, whole = (0.0, 0.0) if line is None else (line.cash - line.accrued, line.equity)
        spot, other = (whole, cash) if row.spot_amount == "equity" else (cash, whole)
        ask = partial(_judged, unit, spot, other, cap, market, rules)
        found.append(_KNOWN.find(unit.name, unit.base, (unit, spot, other, cap), market, rules, ask))
    return tuple(found)


def _judged(unit: RiskUnit, spot: Number, other: Number, cap: float, market: Market, rules: Rules) -> JudgedUnit:
    cases = tuple(
        unit_margin(unit.base, filling, spot if unit.spot else None, cap, market, rules)
        for filling in fillings(unit, rules)
    )
    counted = len(cases) > 1 and rules.portfolio_orders.orders_in_maintenance
    return JudgedUnit(unit, cases[0], cases, counted, rules.portfolio(unit.base).imr_factor, other, cap)


_KNOWN: Kept[JudgedUnit] = Kept()


def worst_scenario(profits: Array, spot: Array, vol: Array | None) -> dict[str, object]:
    """Where the unit loses most, and how much: `spot_shock`, `vol_shock` (MR1) and `pnl`, by instant."""
    place = np.argmin(profits, axis=-1)
    found: dict[str, object] = {"spot_shock": spot[place]}
    if vol is not None:
        found["vol_shock"] = _COLUMNS[(1.0 - vol[place]).astype(int)]
    found["pnl"] = np.take_along_axis(profits, place[..., None], axis=-1)[..., 0][()]
    return found


_COLUMNS = np.array(VOL_COLUMNS, dtype=object)
