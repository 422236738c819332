"""How long an account may sleep: the bars ahead in which nothing can happen to it, judged all at once.

The functions that judge one instant judge arrays of them; there is no second set of rules and no bound besides. A bar
is quiet when no clock event and no change of the rules falls into it, and no pool comes to a level of interest at any
point of its path. A bar that is quiet up to its close, with which something is due, is the eve of that: its way needs
no second look. What is in doubt is not quiet: the exact way decides there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.engine.clock import due_events
from bt_margin.engine.leg import may_dip, says_how_far, wide
from bt_margin.errors import InputError
from bt_margin.model.light import light
from bt_margin.model.market import Market
from bt_margin.model.moment import HOUR
from bt_margin.model.number import along
from bt_margin.modes import currencies
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.distance import distance, holds, is_straight, lowest_gaps, straight

if TYPE_CHECKING:
    from bt_margin.engine.engine import MarginEngine

Array = NDArray[np.float64]

NEAR = 1e-9
"""Of a level: a pool nearer to it than this is left to the exact way, however arrays may round."""
FEWEST = 2
"""Fewer bars than these are not worth a look ahead."""


@light(frozen=True)
class Ahead:
    """The bars ahead as instants, point by point: all opens, then all of the next point, last all closes.

    `market` has arrays of points x bars; `opens` and `closes` are the bars' times (ms). `index_pairs`: whose index is
    heard of at every close.
    """

    market: Market
    opens: NDArray[np.int64]
    closes: NDArray[np.int64]
    points: int
    index_pairs: tuple[str, ...] = ()

    def instants(self, start: int, end: int, points: int | None = None) -> NDArray[np.intp]:
        """Where the bars [start, end) are among the instants, all of their points or the first few."""
        width = len(self.closes)
        return np.arange(self.count).reshape(self.points, width)[:points, start:end].ravel()

    @property
    def count(self) -> int:
        """How many instants."""
        return self.points * len(self.closes)

    def first(self, bars: int) -> Ahead:
        """The same over fewer bars."""
        if bars == len(self.closes):
            return self
        market = self.market.some(self.instants(0, bars))
        return Ahead(market, self.opens[:bars], self.closes[:bars], self.points, self.index_pairs)

    def opening(self, bar: int, before: Market) -> Market:
        """The market at a bar's open, after another."""
        return self.market.one(bar, int(self.opens[bar]), before.index_times)

    def closing(self, bar: int, before: Market) -> Market:
        """The market at a bar's close, after another."""
        width, time = len(self.closes), int(self.closes[bar])
        heard = {**before.index_times, **dict.fromkeys(self.index_pairs, time)}
        return self.market.one((self.points - 1) * width + bar, time, heard)

    @property
    def at_close(self) -> slice:
        """Where the closes are among the instants."""
        width = len(self.closes)
        return slice((self.points - 1) * width, self.points * width)


@light(frozen=True)
class Stretch:
    """Quiet bars ahead of an account that stands still: its pools, judged along the path.

    `eve`: the bar behind them is quiet up to its close, at which something is due.
    """

    ahead: Ahead
    pools: tuple[tuple[Pool, Judgement], ...]
    bars: int
    eve: bool = False

    def lows(self) -> Array:
        """The lowest ratio of all pools in each bar; NaN where nothing is required."""
        width = len(self.ahead.closes)
        lows = [np.fmin.reduce(self._ratios(judged).reshape(-1, width)) for _, judged in self.pools]
        return np.fmin.reduce(lows) if lows else np.full(width, np.nan)

    def low(self, start: int, end: int, points: int | None = None) -> float:
        """The lowest of `lows` in the bars [start, end), NaN where there is none; much cheaper than all of them. At all
        of their points or the first few."""
        low, width = math.nan, len(self.ahead.closes)
        for _, judged in self.pools if end > start else ():
            equity, requirement = along(judged.equity, self.ahead.count), along(judged.requirement, self.ahead.count)
            equity = equity.reshape(-1, width)[:points, start:end]
            requirement = requirement.reshape(-1, width)[:points, start:end]
            low = float(np.fmin(low, np.fmin.reduce(_ratio(equity, requirement), axis=None)))
        return low

    def closing_ratios(self) -> Array:
        """The lowest ratio of all pools at each close; NaN where nothing is required."""
        lows = [self._ratios(judged)[self.ahead.at_close] for _, judged in self.pools]
        return np.fmin.reduce(lows) if lows else np.full(len(self.ahead.closes), np.nan)

    def _ratios(self, judged: Judgement) -> Array:
        return _ratio(*(along(x, self.ahead.count) for x in (judged.equity, judged.requirement)))


def _ratio(equity: Array, requirement: Array) -> Array:
    """Equity by requirement; NaN where nothing is required."""
    if np.minimum.reduce(requirement, axis=None) > 0:
        return equity / requirement
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(requirement > 0, equity / requirement, np.nan)


def look_ahead(engine: MarginEngine, closes: NDArray[np.int64], first: Callable[[int], Ahead]) -> Stretch | None:
    """The quiet bars among the next ones, as the account stands; None where there are too few.

    `closes`: when the next bars close (ms), `first`: so many of them as instants.
    """
    if not engine.control.settled:
        return None
    try:
        owing = engine.mode.whole and _costs_interest(engine, engine.market)
        free, due = _undisturbed(engine, closes, owing)
        if free < FEWEST:
            return None
        path = first(min(free + 1, len(closes)))
        held = engine.account.positions  # what is owed changes along the way with their profit alone
        if engine.mode.whole and not owing and held and _costs_interest(engine, path.market):
            owing = True
            free, due = _undisturbed(engine, path.closes, owing)
            path = path.first(min(free + 1, len(path.closes)))
        if free < FEWEST or (owing and not engine.account.borrowing.auto):
            return None  # what is owed may have to be repaid at any price
        while len(path.closes) >= FEWEST:
            try:
                pools = tuple((p, judge(p, path.market, engine.rules)) for p in engine.at_risk_pools())
                break
            except InputError:  # somewhere ahead the rules end
                path = path.first(len(path.closes) // 2)
        else:
            return None
        quiet = _quiet_bars(engine, path, pools)
        if quiet >= FEWEST and engine.control.seeks:
            quiet = min(quiet, _before_first_distance(engine, path, pools))
    except InputError:
        return None  # the exact way tells what is wrong
    if quiet < FEWEST:
        return None
    return Stretch(path, pools, min(quiet, free), quiet > free and _is_eve(engine, path, free, due))


def nearest_distance(engine: MarginEngine, stretch: Stretch, start: int, end: int,
                     points: int | None = None) -> float | None:
    """The lowest distance to liquidation in the bars [start, end) of a stretch where it may be a new low of the run,
    per cent; the run's own low otherwise. At all of their points or the first few."""
    low, path = engine.control.min_distance, stretch.ahead
    if low is None:
        return None  # the stretch ends where a first one is found
    instants = path.instants(start, end, points)
    for pool, judged in stretch.pools:
        if not holds(pool):
            continue
        if is_straight(pool):
            away = np.fmin.reduce(along(straight(pool, judged, path.market), path.count)[instants])
            low = min(low, float(away)) if away == away else low
        else:
            low = _searched(engine, pool, path, instants, low)
    return low


# -- what ends a stretch ----------------------------------------------------------------------------------------------


def _undisturbed(engine: MarginEngine, closes: NDArray[np.int64], owing: bool) -> tuple[int, int | None]:
    """How many bars come before a clock event or another day's rules, and when the event is due (ms) if one is."""
    bars = _same_rules(engine, closes)
    account = engine.account
    if not bars or not (engine.at_risk or account.orders or owing):
        return bars, None
    until = int(closes[min(bars, len(closes) - 1)])
    due = due_events(account, engine.funding, engine.deleveraging, engine.rules, engine.market.time, until,
                     engine.mode.whole and owing)
    if not due:
        return bars, None
    time = due[0][0]
    return min(bars, int(closes.searchsorted(time))), time


def _is_eve(engine: MarginEngine, path: Ahead, bar: int, due: int | None) -> bool:
    """True where what disturbs a bar comes after its open, and is booked at its close, by the rules of its way."""
    opens = int(path.opens[bar])
    return path.points > 1 and (due is None or due > opens) and engine.rules_at(opens) is engine.rules


def _same_rules(engine: MarginEngine, closes: NDArray[np.int64]) -> int:
    def same(bar: int) -> bool:
        return engine.rules_at(int(closes[bar])) is engine.rules

    low, high = 0, len(closes)
    if high and same(high - 1):
        return high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if same(middle) else (low, middle)
    return low


def _costs_interest(engine: MarginEngine, market: Market) -> bool:
    """True where every full hour of a whole account counts, at an instant or at one of many."""
    account = engine.account
    if any(account.accrued.values()):
        return True
    if not account.positions:
        return bool(account.owed())
    for line in currencies.lines(engine.account_pool(), market, engine.rules):
        if currencies.costs_interest(line):
            return True
    return False


def _quiet_bars(engine: MarginEngine, path: Ahead, pools: Sequence[tuple[Pool, Judgement]]) -> int:
    """Bars before the first in which a pool comes near the level that it would be told of, or leaves it."""
    calm = None  # by bar; None while all are
    for pool, judged in pools:
        quiet = _quiet(engine, path, pool, judged)
        if not np.logical_and.reduce(quiet):
            bars = np.logical_and.reduce(quiet.reshape(path.points, -1))
            calm = bars if calm is None else calm & bars
    for pool, _ in pools:
        if may_dip(pool):
            bars = ~_wide(path)
            calm = bars if calm is None else calm & bars
            break
    return len(path.closes) if calm is None or calm.all() else int(calm.argmin())


def _quiet(engine: MarginEngine, path: Ahead, pool: Pool, judged: Judgement) -> NDArray[np.bool_]:
    """The instants at which a pool is not near its level."""
    levels = engine.rules.liquidation
    equity, requirement = along(judged.equity, path.count), along(judged.requirement, path.count)
    warning = requirement * levels.warning_ratio
    quiet: NDArray[np.bool_]
    if engine.control.warned(pool.name):
        level = requirement * levels.liquidation_ratio
        quiet = (equity - level > NEAR * level) & (warning - equity >= NEAR * warning) & (requirement > 0)
    else:
        quiet = equity - warning > NEAR * warning  # false where either is no number
        if not np.logical_and.reduce(quiet):
            quiet |= (requirement == 0) & (equity == equity)  # long options by themselves
    if engine.account.orders:
        quiet &= along(pool.mode.spare(pool, path.market, engine.rules), path.count) > NEAR * np.abs(equity)
    return quiet


def _wide(path: Ahead) -> NDArray[np.bool_]:
    """Bars with a leg that is looked at on its way: nobody knows here in which order the extremes come."""
    found = np.zeros(len(path.closes), dtype=bool)
    for symbol, price in (row for kind in path.market.kinds for row in kind.items()):
        if isinstance(price, np.ndarray) and says_how_far(symbol):
            points = price.reshape(path.points, -1)
            found |= wide(np.minimum.reduce(points), np.maximum.reduce(points))
    return found


def _before_first_distance(engine: MarginEngine, path: Ahead, pools: Sequence[tuple[Pool, Judgement]]) -> int:
    """Bars before the first at which some move of the market would end a pool, where so far none would. It is sought at
    every instant in closed form, else where an hour begins, as the engine does."""
    first = width = len(path.closes)
    for pool, judged in pools:
        if not holds(pool):
            continue
        if is_straight(pool):
            found = ~np.isnan(along(straight(pool, judged, path.market), path.count)).reshape(path.points, width)
            bars = np.flatnonzero(np.logical_or.reduce(found))
        else:
            bars, at = _where_hours_begin(path, engine.market.time)
            bars = bars[_ended_by_some_move(engine, pool, path.market, at)]
            if not engine.control.seeks:
                return width
        if len(bars):
            first = min(first, int(np.minimum.reduce(bars)))
    return first


def _where_hours_begin(path: Ahead, now: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The bars, in no order, and their instants (an open or a close each) at which an hour is under way that was not
    the instant before."""
    width, to_close = len(path.closes), (path.points - 1) * len(path.closes)
    hours = np.arange(now // HOUR + 1, int(path.closes[-1]) // HOUR + 1) * HOUR
    bars = path.closes.searchsorted(hours)
    at = np.where(path.opens[bars] >= hours, bars, bars + to_close) if to_close else bars
    if len(hours) > width:  # of long bars each begins many
        at, first = np.unique(at, return_index=True)
        bars = bars[first]
    return bars, at


def _ended_by_some_move(
    engine: MarginEngine, pool: Pool, market: Market, at: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether, at some instants, a move of the market may end a pool. Where that is still to be searched now it is
    looked at together with them: one judgement of many is hardly dearer than one of few."""
    now = engine.control.put_off(pool)
    joined = None if now is None else market.behind(now)
    if now is not None and joined is None:
        engine.control.seek()
    if joined is None:
        return lowest_gaps(pool, None, market, engine.rules, at) <= 0 if len(at) else np.empty(0, dtype=bool)
    found: NDArray[np.bool_] = lowest_gaps(pool, None, joined, engine.rules, np.append(0, at + 1)) <= 0
    if found[0]:
        engine.control.seek()
    else:
        engine.control.found_none()
    return found[1:]


# -- distances --------------------------------------------------------------------------------------------------------


def _searched(engine: MarginEngine, pool: Pool, path: Ahead, instants: NDArray[np.intp], low: float) -> float:
    """The lowest distance of a pool at some instants, by search, where a look says that it may be below `low`."""
    there, rules = path.market.some(instants), engine.rules

    def search(at: int) -> float | None:
        market = there.one(at, int(there.times[at]) if there.times is not None else there.time)
        return distance(pool, judge(pool, market, rules), market, rules)

    left = np.ones(len(instants), dtype=bool)
    while True:
        try:
            gaps = np.where(left, along(lowest_gaps(pool, low, there, rules), len(left)), np.inf)
        except InputError:  # a look leads beyond the rules: each instant for itself, as the exact way does
            found = [away for at in np.flatnonzero(left) if (away := search(int(at))) is not None]
            return min([low, *found])
        nearest = int(np.argmin(gaps))
        if not gaps[nearest] <= 0:
            return low
        left &= ~_as_at(there, nearest, len(instants), pool)
        away = search(nearest)
        low = low if away is None else min(low, away)


def _as_at(there: Market, at: int, count: int, pool: Pool) -> NDArray[np.bool_]:
    """The instants, of so many, at which a pool stands as at one of them, that one always: those of the same prices, as
    in a market that stands still; with options, which time alone changes, no other."""
    alone: NDArray[np.bool_] = np.arange(count) == at
    if any(p.instrument.is_option for p in pool.positions):
        return alone
    same = np.ones(count, dtype=bool)
    for prices in there.kinds:
        for x in prices.values():
            if isinstance(x, np.ndarray):
                same &= x == x[at]
    return same | alone  # what is no number equals nothing, itself neither
