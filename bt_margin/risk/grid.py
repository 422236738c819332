"""Shock grids of portfolio margin: which moves of spot and vol a risk unit is tried against.

Scenarios are the last axis of every array here and in `pnl`; positions are the axis before it, instants (if any) lead.
Moves are fractions (0.12), vols fractions a year (0.62), vol points hundredths of a vol, days calendar days to expiry.

Source: rule book portfolio margin, sections 3.1 and 3.5; addendum, sections 2.1, 2.2 and 3a. OKX printed one row of its
vol table; the curve that stands in for the table takes every figure as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bt_margin.risk.black import Number

VOL_COLUMNS = ("up", "same", "down")
"""The vol columns in the order in which a tie is told: where all three lose the same, OKX's sample says "up"."""
_DIRECTIONS = {"up": 1.0, "same": 0.0, "down": -1.0}
_CURVE_DAYS = 30.0


@dataclass(frozen=True, slots=True)
class Scenarios:
    """What is tried: one entry per scenario, both columns of shape (scenarios,)."""

    spot: NDArray[np.float64]
    """Relative move of index, mark and every forward: F' = F (1 + m), the carry is kept."""
    vol: NDArray[np.float64]
    """Direction of the vols: +1 up, 0 same, -1 down; how far depends on each option."""

    def label(self, index: int) -> tuple[float, str]:
        """Move and vol column of a scenario, as a report tells them."""
        return float(self.spot[index]), VOL_COLUMNS[int(1.0 - self.vol[index])]


def spot_vol_grid(moves: Sequence[float]) -> Scenarios:
    """MR1's grid: no move and +- each of `moves`, ascending, each with the vols up, same and down.

    Three steps make OKX's 7 x 3 = 21 scenarios, the three vol columns of a move side by side.
    """
    steps = np.unique(np.abs(np.asarray(moves, dtype=np.float64)))
    steps = steps[steps > 0.0]
    spot = np.concatenate([-steps[::-1], [0.0], steps])
    vol = np.array([_DIRECTIONS[name] for name in VOL_COLUMNS])
    return Scenarios(np.repeat(spot, len(vol)), np.tile(vol, len(spot)))


def extreme_moves(move: float) -> Scenarios:
    """MR6's two scenarios: spot down and up by `move`, vols unchanged."""
    return Scenarios(np.array([-move, move]), np.zeros(2))


def worst(total: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which scenario loses most, from totals of shape (..., scenarios); the first of equals."""
    found: NDArray[np.intp] = np.argmin(total, axis=-1)
    return found


def tenor_curve(days: Number, *, at_30d: Number, cap: Number, power_short: Number, power_long: Number) -> Number:
    """min(cap, at_30d (30 / days)^p), p = power_short below 30 days and power_long from there, in the unit of at_30d.

    Stands in for OKX's table of vol moves, once in vol points and once in per cent of the vol. No days left: the cap.
    Source: addendum 3a; its anchors are 30 points at 0 days (official) and 17.58 at 18 (derived).
    """
    power = np.where(np.less(days, _CURVE_DAYS), power_short, power_long)
    with np.errstate(divide="ignore"):
        scale = np.power(np.divide(_CURVE_DAYS, np.maximum(days, 0.0)), power)
    return np.minimum(cap, np.multiply(at_30d, scale))


def vol_shift(vol: Number, *, points: Number, percent: Number) -> Number:
    """How far a vol is moved: max(points / 100, percent vol), the larger of OKX's two readings.

    `percent` is a fraction. The other way to read "the larger loss counts" is to try each alone (0 for the other)
    and to keep the worse total of every scenario: `charges.mr1_spot_shock` takes the totals as one row.
    """
    return np.maximum(np.divide(points, 100.0), np.multiply(percent, vol))


def shocked_vol(vol: Number, shift: Number, scenarios: Scenarios, *, floor: float) -> NDArray[np.float64]:
    """Vols of shape (..., positions, scenarios) from vols and shifts of shape (..., positions).

    Up: vol + shift. Down: max(vol - shift, floor), but never above the vol itself. Sticky strike: the vol of a strike
    does not follow the spot (derived, addendum 2.1).
    """
    v, d = np.asarray(vol, dtype=np.float64)[..., None], np.asarray(shift, dtype=np.float64)[..., None]
    down = np.maximum(v - d, np.minimum(v, floor))
    return np.where(scenarios.vol < 0.0, down, v + np.maximum(scenarios.vol, 0.0) * d)
