"""Where something of an account pool crosses zero as one coin's prices move, found on whole grids of moves at once.

The same question as `reach`, for modes whose judgement of one instant costs about as much as that of fifty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError
from bt_margin.model.market import Market
from bt_margin.modes import account_report
from bt_margin.modes.account_report import CoinPrices
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.distance import MOVES
from bt_margin.modes.reach import coin_moved

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

Array = NDArray[np.float64]
ROUNDS, POINTS = 7, 33
"""Every round cuts the bracket to a 32nd; what is left is a straight line to the last digits."""


def coin_prices(pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> dict[str, CoinPrices]:
    """As `account_report.coin_prices`, which answers where rules end within the grid (a debt beyond its last tier)."""
    try:
        return {coin: _crossings(pool, coin, market, rules)
                for coin in sorted({p.instrument.base for p in pool.positions if not p.instrument.is_option})}
    except InputError:
        return account_report.coin_prices(pool, judgement, market, rules)


def _crossings(pool: Pool, coin: str, market: Market, rules: Rules) -> CoinPrices:
    bare = replace(pool, orders=())

    def at(held: Pool, measure: Callable[[Judgement], object]) -> Callable[[Array], Array]:
        def values(moves: Array) -> Array:
            found = judge(held, coin_moved(market, held.positions, coin, moves), rules)  # type: ignore[arg-type]
            return np.broadcast_to(np.asarray(measure(found), dtype=np.float64), moves.shape)

        return values

    trigger = nearest_zero(at(pool, lambda j: j.gap))
    shown = nearest_zero(at(bare, lambda j: j.gap)) if pool.orders else trigger
    return CoinPrices(trigger, shown, nearest_zero(at(pool, lambda j: j.equity)))


def nearest_zero(values: Callable[[Array], Array]) -> float | None:
    """The smallest move, up or down, at which a function of moves is zero; None between -99 % and +900 %."""
    grid = values(MOVES)
    here = int(np.searchsorted(MOVES, 0.0))
    if grid[here] == 0.0:
        return 0.0
    positive = grid[here] > 0
    found = []
    for outward in (np.arange(here + 1, len(MOVES)), np.arange(here - 1, -1, -1)):
        crossed = np.flatnonzero((grid[outward] > 0) != positive)
        if crossed.size:
            far = int(outward[crossed[0]])
            near = far - 1 if far > here else far + 1
            found.append(_refined(values, float(MOVES[near]), float(MOVES[far])))
    return min(found, key=abs) if found else None


def _refined(values: Callable[[Array], Array], near: float, far: float) -> float:
    for _ in range(ROUNDS):
        points = np.linspace(near, far, POINTS)
        measured = values(points)
        crossed = np.flatnonzero((measured > 0) != (measured[0] > 0))
        if not crossed.size:
            return far  # a jump at the far end itself
        place = int(crossed[0])
        a, b = float(points[place - 1]), float(points[place])
        fa, fb = float(measured[place - 1]), float(measured[place])
        straight = (a * fb - b * fa) / (fb - fa)
        if abs(b - a) <= 1e-13 * max(1.0, abs(b)):
            break
        near, far = a, b
    return straight if min(a, b) <= straight <= max(a, b) else b
