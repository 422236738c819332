"""How far the market may move before a pool is liquidated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import spot_margin
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.options import moved
from bt_margin.modes.valuation import price_at_gap_zero

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

MOVES = np.concatenate([-np.geomspace(0.99, 0.002, 60), [0.0], np.geomspace(0.002, 9.0, 60)])
"""Moves tried where no closed form exists, nearer ones closer together."""


def distance(pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> float | None:
    """How far, in per cent, all the pool's marks move together until its ratio is 1; None when no move does it.

    With E equity, R requirement and S signed notional at present marks, a move s gives E + S s = R (1 + s) for
    linear contracts, and E + S s / (1 + s) = R / (1 + s) for inverse ones. Other products are tried move by move, the
    nearest crossing refined by bisection; options keep the vols their marks imply.
    """
    if len(pool.positions) == 1 and isinstance(pool.positions[0], MarginPosition) and not pool.orders:
        loan = pool.positions[0]
        (row,) = judgement.charges
        rate = float(spot_margin.required_rate(row.detail["rate"], row.detail["taker"]))
        mark = float(market.mark(loan.symbol))
        trigger = price_at_gap_zero(loan, pool, float(judgement.gap), rate, mark)
        return None if trigger is None else abs(trigger / mark - 1.0) * 100.0
    kinds = {p.instrument.payoff.slope if p.plain else 0.0 for p in pool.positions}
    if len(kinds) != 1 or 0.0 in kinds or pool.holdings is not None:  # coins move too, requirements bend
        return _searched(pool, market, rules)
    signed = sum(p.sign * float(p.notional(market)) for p in pool.positions)
    slope = signed + (float(judgement.equity) if kinds == {-1.0} else -float(judgement.requirement))
    if slope == 0.0:
        return None
    move = -float(judgement.gap) / slope
    return abs(move) * 100.0 if move > -1.0 else None


def _searched(pool: Pool, market: Market, rules: Rules) -> float | None:
    def gap(shifts: float) -> float:
        return float(judge(pool, moved(market, pool.positions, shifts), rules).gap)

    gaps = np.broadcast_to(judge(pool, moved(market, pool.positions, MOVES), rules).gap, MOVES.shape)
    here = int(np.searchsorted(MOVES, 0.0))
    if gaps[here] <= 0:
        return 0.0
    found = []
    for outward in (range(here + 1, len(MOVES)), range(here - 1, -1, -1)):
        hit = next((i for i in outward if gaps[i] <= 0), None)
        if hit is not None:
            near, far = float(MOVES[hit - 1 if hit > here else hit + 1]), float(MOVES[hit])
            for _ in range(40):
                middle = (near + far) / 2
                near, far = (near, middle) if gap(middle) <= 0 else (middle, far)
            found.append(abs(far))
    return min(found) * 100.0 if found else None
