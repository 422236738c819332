"""A leg: all prices on their straight way from one instant to another, and where on it a pool comes to a level.

Linear contracts alone, and an inverse contract by itself, lose on a leg what its end shows: equity and requirement are
straight lines, or bend so that the ends are the lowest points. Elsewhere a pool may dip and recover before the end:
two prices multiply (a profit and the coin it is in), spot joins a unit, a vol is solved for. Such a dip is of the order
of the product of two moves, so a leg is judged by its end unless it is wide: then it is looked at on the way as well.
A dip and recovery between two looks stays unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.instrument import Kind
from bt_margin.model.market import Market, parse_kind
from bt_margin.model.number import Number, along
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.reach import close_in
from bt_margin.rules.book import Rules

Array = NDArray[np.float64]
WIDE = 0.05
"""A leg is wide where a price moves by more than this share of the lower of its ends."""
LOOKS = 24
"""Equal parts in which a wide leg is looked at: one judgement of many instants."""


class Leg:
    """The way from `start` to `end`. `look` judges a pool at a market, and remembers what it said of the end."""

    def __init__(self, start: Market, end: Market, rules: Rules, look: Callable[[Pool, Market], Judgement]) -> None:
        self.start, self.end, self.rules, self._look = start, end, rules, look
        self._wide: bool | None = None

    def at(self, share: float) -> Market:
        """The prices at a share of the way."""
        return self.start.toward(self.end, share)

    def crossing(self, pool: Pool, level: float, since: float) -> float:
        """The first share of the way, from `since` on, at which the pool's ratio is at `level`; infinity without one.

        Closed in on by secants and halves in turn. Raises MissingPrice where equity is no number, InputError where a
        pool comes to where the rules end.
        """

        def gap(share: float) -> float:
            return float(_gap(judge(pool, self.at(share), self.rules), level))

        reach, there = self._known(pool, since)
        if not float(there.requirement):
            return math.inf  # long options alone need no margin
        end = float(_gap(there, level))
        if math.isnan(end):
            raise MissingPrice(f"pool {pool.name}: equity is not a number at {self.end.time}; repair the prices")
        near, at_near = since, math.nan
        if may_dip(pool) and self.wide:
            shares = np.arange(1, LOOKS) / LOOKS
            shares = shares[(shares > since) & (shares < reach)]
            gaps = self._looks(pool, level, shares) if len(shares) else shares
            below = np.flatnonzero(gaps <= 0)
            before = int(below[0]) if len(below) else len(shares)
            if before:
                near, at_near = float(shares[before - 1]), float(gaps[before - 1])
            if len(below):
                reach, end = float(shares[before]), float(gaps[before])
        if end > 0:
            if reach < 1.0:
                judge(pool, self.end, self.rules)  # raises: it gets there, and nobody knows what is asked of it then
            return math.inf
        if near == since:
            at_near = gap(since)
        if at_near <= 0:
            return since
        return close_in(lambda share: gap(float(share)), near, at_near, reach, end)

    @property
    def wide(self) -> bool:
        """True where some price moves far on the way."""
        if self._wide is None:
            self._wide = self._find_wide()
        return self._wide

    def _find_wide(self) -> bool:
        for first, last in zip(self.start.kinds, self.end.kinds, strict=True):
            if first is last:
                continue
            for symbol, price in last.items():
                before = first.get(symbol, price)
                if (wide(before, price) or wide(price, before)) and says_how_far(symbol):
                    return True
        return False

    def _looks(self, pool: Pool, level: float, shares: Array) -> Array:
        """Equity above `level` at some shares of the way, as far as the first at or below zero at least."""
        try:
            judged = judge(pool, self.start.toward(self.end, shares), self.rules)
            return along(_gap(judged, level), len(shares))
        except InputError:  # somewhere on the way the rules end
            gaps = np.full(len(shares), math.inf)
            for place, share in enumerate(shares.tolist()):
                gaps[place] = float(_gap(judge(pool, self.at(share), self.rules), level))
                if gaps[place] <= 0:
                    break
            return gaps

    def _known(self, pool: Pool, since: float) -> tuple[float, Judgement]:
        """How much of the way the rules can judge the pool, nearly always all of it, and the pool there.

        A loss may outgrow the last borrow tier behind the point at which the pool is liquidated.
        """
        try:
            return 1.0, self._look(pool, self.end)
        except MissingPrice:
            raise
        except InputError:
            low, high = since, 1.0
        found = judge(pool, self.at(since), self.rules)
        for _ in range(50):
            share = (low + high) / 2
            try:
                low, found = share, judge(pool, self.at(share), self.rules)
            except InputError:
                high = share
        return low, found


def may_dip(pool: Pool) -> bool:
    """True where both ends of a leg may be safe and a point between them not."""
    if pool.holdings is not None:
        return True
    held = {p.instrument.symbol: p.instrument for p in pool.positions}
    held |= {queue.head.symbol: queue.head.instrument for queue in pool.orders.queues}
    kinds = held.values()
    if any(one.is_option for one in kinds):
        return True
    # a coin-margined contract, or a loan whose margin is the coin, moves with 1 / price
    return len(kinds) > 1 and any(one.payoff.slope < 0 or (one.is_spot and one.base == pool.currency) for one in kinds)


def wide(least: Number, most: Number) -> bool | NDArray[np.bool_]:
    """True where a leg from the lower to the higher of two prices is wide; of arrays each for itself."""
    return most - least > WIDE * least


def _gap(judged: Judgement, level: float) -> Number:
    return judged.equity - level * judged.requirement


def says_how_far(symbol: str) -> bool:
    """True for a price that says how far its coin moves: that of an option leaves it to its coin's."""
    return parse_kind(symbol) is not Kind.OPTION
