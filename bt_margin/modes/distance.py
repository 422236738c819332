"""How far the market may move before a pool is liquidated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError
from bt_margin.model.instrument import Number
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import along
from bt_margin.modes import spot_margin
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.options import moved
from bt_margin.modes.reach import nearest_zero
from bt_margin.modes.valuation import price_at_gap_zero

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


def distance(pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> float | None:
    """How far, in per cent, all the pool's marks move together until its ratio is 1; None when no move does it.

    With E equity, R requirement and S signed notional at present marks, a move s gives E + S s = R (1 + s) for
    linear contracts, and E + S s / (1 + s) = R / (1 + s) for inverse ones. Other products, and a pool that is the whole
    account (its coins move along, stablecoins do not), are searched; options keep the vols their marks imply.
    """
    if len(pool.positions) == 1 and isinstance(pool.positions[0], MarginPosition) and not pool.orders:
        loan = pool.positions[0]
        (row,) = judgement.charges
        rate = float(spot_margin.required_rate(row.detail["rate"], row.detail["taker"]))
        mark = float(market.mark(loan.symbol))
        trigger = price_at_gap_zero(loan, pool, float(judgement.gap), rate, mark)
        return None if trigger is None else abs(trigger / mark - 1.0) * 100.0
    if not is_straight(pool):
        return _searched(pool, market, rules)
    away = float(straight(pool, judgement, market))
    return None if math.isnan(away) else away


def holds(pool: Pool) -> bool:
    """True where prices can end a pool: orders alone hold nothing yet, and long options by themselves need nothing."""
    if pool.holdings is None:
        return pool.needs_margin
    return bool(pool.positions or pool.holdings.owed())


def is_straight(pool: Pool) -> bool:
    """True where the distance has a closed form: linear contracts alone, or inverse ones alone, in one currency."""
    if pool.holdings is not None or not pool.positions:
        return False
    kinds = {p.instrument.payoff.slope if p.plain else 0.0 for p in pool.positions}
    return len(kinds) == 1 and 0.0 not in kinds


def straight(pool: Pool, judgement: Judgement, market: Market) -> Number:
    """The closed form of `distance` at an instant, or at many; NaN where no move does it."""
    signed: Number = sum(p.sign * p.notional(market) for p in pool.positions)
    inverse = pool.positions[0].instrument.payoff.slope < 0
    slope = signed + (judgement.equity if inverse else -judgement.requirement)
    if not (isinstance(slope, np.ndarray) or isinstance(judgement.gap, np.ndarray)):
        by = -judgement.gap / slope if slope != 0.0 else -math.inf
        return abs(by) * 100.0 if by > -1.0 else math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        move = np.divide(-judgement.gap, slope)
    found: Number = np.where((slope != 0.0) & (move > -1.0), np.abs(move) * 100.0, np.nan)
    return found


def may_be_nearer(pool: Pool, low: float | None, market: Market, rules: Rules) -> bool:
    """False when a look at a few moves shows that `distance` is not below `low` per cent (None: that no move does it):
    much cheaper than the search, where there is one."""
    if pool.holdings is None and all(p.plain for p in pool.positions):
        return True
    try:
        gaps = judge(pool, moved(market, pool.positions, _looks(low)), rules).gap
    except InputError:
        return True  # beyond what the rules know: the search says how far they reach
    return bool(np.any(np.asarray(gaps) <= 0))


def lowest_gaps(
    pool: Pool, low: float | None, path: Market, rules: Rules, at: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """The look of `may_be_nearer` at many instants, all or those `at`: the lowest gap over its moves; at or below zero
    it may be nearer.

    Raises InputError where one of the instants leads beyond what the rules know.
    """
    if at is None:
        at = np.arange(max((len(x) for prices in path.kinds for x in prices.values() if isinstance(x, np.ndarray)),
                           default=1))
    moves, count = _looks(low), len(at)
    found: list[NDArray[np.float64]] = []
    together = max(1, _TOGETHER // count)
    for first in range(0, len(moves), together):
        some = moves[first:first + together]
        there = path.some(np.concatenate([at] * len(some)))
        gaps = along(judge(pool, moved(there, pool.positions, some.repeat(count)), rules).gap, len(some) * count)
        found.append(np.minimum.reduce(gaps.reshape(len(some), count)))
    lowest: NDArray[np.float64] = found[0] if len(found) == 1 else np.minimum.reduce(found)
    return lowest


def _looks(low: float | None) -> NDArray[np.float64]:
    return _FEW if low is None else np.array([-min(low / 100.0, 0.999), low / 100.0])


_TOGETHER = 4096  # instants that are judged in one go: what fits the processor's cache
_FARTHEST = 99.0
_FEW = np.array(
    [-0.999, -0.9, -0.7, -0.5, -0.35, -0.2, -0.1, -0.05,
     0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.5, 3.0, 6.0, 15.0, 40.0, 99.0]
)


def _searched(pool: Pool, market: Market, rules: Rules) -> float | None:
    def gap(shifts: Number) -> Number:
        return judge(pool, moved(market, pool.positions, shifts), rules).gap

    if float(gap(0.0)) <= 0:
        return 0.0
    move, _ = nearest_zero(gap, _FARTHEST)
    return None if move is None else abs(move) * 100.0
