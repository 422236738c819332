"""When the broker may sleep: bars in which no order can be touched and nothing can happen to the account.

Where all feeds hold whole arrays on one clock, `engine.horizon` judges the bars ahead at once. While they pass the
broker does nothing; value, cash and ratio of each are there, and engine and bars are brought to the present as soon as
somebody asks for them. Everywhere else, and from the first bar on that is not quiet, every bar goes the exact way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import backtrader as bt
import numpy as np
from numpy.typing import NDArray

from bt_margin.engine.engine import MarginEngine
from bt_margin.engine.horizon import Ahead, Stretch, look_ahead
from bt_margin.model.instrument import Kind, Number, is_symbol
from bt_margin.model.market import STABLECOINS, Market, parse_kind
from bt_margin.model.number import larger
from bt_margin.modes.account_report import Collateral, collateral
from bt_margin.modes.assess import available, total_equity
from bt_margin.modes.base import Pool, judge
from bt_margin.plugin.array_feed import ArrayFeed
from bt_margin.plugin.bars import CLOSE, HIGH, LOW, OPEN, USD_PAIRS, Bar, Prices, moved_along, step_of
from bt_margin.plugin.orders import STOP_LIMITS
from bt_margin.plugin.path import market_at

SHORTEST, LONGEST = 64, 16_384
"""How many bars are looked at together: few at first, more each time that all of them were quiet."""
PATIENCE = 64
"""The most bars that go the exact way before another look, where looks were in vain."""

Array = NDArray[np.float64]
AGAINST = [OPEN, LOW, HIGH, CLOSE]
"""A candle against the market's: see `bars.against`."""


class Lines:
    """One feed's arrays: candles of last prices and marks, index, forward; and of which kind each bar is.

    Bars of one kind have the same prices of their own: marks, an index, a forward, or none. `bad`: not to be traded at.
    """

    def __init__(self, feed: ArrayFeed) -> None:
        self.symbol: str = feed._name
        stamp, last, marks, index, forward = feed.arrays()
        self.stamps, self.index, self.forward = stamp.copy(), index.copy(), forward.copy()
        none = np.logical_and.reduce([np.isnan(row) for row in marks])
        self.last = np.stack(last)  # (open, high, low, close) x bars
        self.marks = self.last if none.all() else np.stack(marks)  # not asked for where there are none
        self.closes = np.rint((stamp - 719163.0) * 86_400_000).astype(np.int64)
        self.opens = self.closes - step_of(feed)
        self.low, self.high = self.last[LOW], self.last[HIGH]
        self.venue = is_symbol(self.symbol)
        self.is_option = self.venue and parse_kind(self.symbol) is Kind.OPTION
        self.bad = ~_sound(last)
        if self.venue:
            self.bad |= ~none & ~_sound(marks)
            of_index, of_forward = (np.isnan(row).view(np.int8) for row in (index, forward))
            self.kind = none.view(np.int8) + 2 * of_index + 4 * of_forward
            self.bad |= ~np.isnan(self.index) & ~_sound((self.index,))
        else:
            self.kind = np.zeros(len(stamp), dtype=np.int8)
        if self.is_option and self.symbol.endswith("-P"):
            self.last, self.marks = self.last[AGAINST], self.marks[AGAINST]

    def bar(self, at: int | slice, opens: Any, closes: Any) -> Bar:
        """Bars as one `Bar` of arrays, or one of them."""

        def of(candle: Array) -> Any:
            return tuple(candle[:, at].tolist() if isinstance(at, int) else candle[:, at])

        last: Prices = of(self.last)
        if not self.venue:
            return Bar(self.symbol, opens, closes, last, None, None)
        kind = int(self.kind[at if isinstance(at, int) else at.start])
        marks: Prices | None = None if kind & 1 else of(self.marks)
        indexes = None
        forward: Any = None
        if not kind & 2:
            index: Any = float(self.index[at]) if isinstance(at, int) else self.index[at]
            indexes = (index, index, index, index) if self.is_option else moved_along(index, marks or last)
        if not kind & 4:
            forward = float(self.forward[at]) if isinstance(at, int) else self.forward[at]
        return Bar(self.symbol, opens, closes, last, marks, indexes, forward, self.is_option)

    def points(self, bars: slice, points: Sequence[int]) -> Bar:
        """Bars of one kind, of no option, as one `Bar` whose every price is all of them point by point, the close last:
        (points x bars,) each."""

        row: Any

        def of(candle: Array) -> Any:
            return candle[CLOSE, bars] if len(points) == 1 else candle[points, bars].ravel()

        row = of(self.last)
        last: Prices = (row, row, row, row)
        if not self.venue:
            return Bar(self.symbol, 0, 0, last, None, None)
        kind = int(self.kind[bars.start])
        marks: Prices | None = None
        indexes: Prices | None = None
        if not kind & 1:
            row = of(self.marks)
            marks = row, row, row, row
        if not kind & 2:
            index, judged = self.index[bars], (self.last if marks is None else self.marks)[:, bars]
            moved = [judged[point] * (index / judged[CLOSE]) for point in points[:-1]]
            row = np.concatenate([*moved, index]) if moved else index
            indexes = row, row, row, row
        return Bar(self.symbol, 0, 0, last, marks, indexes)


def _sound(rows: Iterable[Array]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.logical_and.reduce([(row > 0.0) & (row < np.inf) for row in rows])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Instant:
    """The account at the close of a bar. `low` is the lowest margin ratio within it, `ratio` that at the close; None
    while nothing is required. `collateral`: see MarginEngine.collateral; USD."""

    time: int
    equity_usd: float
    low: float | None
    ratio: float | None
    collateral: dict[str, Collateral]


class Asleep:
    """The quiet bars that the broker sleeps through: `first` to `last` of the feeds, and what each of them shows."""

    def __init__(self, engine: MarginEngine, stretch: Stretch, first: int, currency: str, floor: float,
                 clock: Any) -> None:
        self.engine, self.stretch, self.first, self.clock = engine, stretch, first, clock
        self._state = (engine.state, engine.mode)
        # what is booked and said, and how much of it: once that is more, the account was touched
        self.booked, self.said = engine.account.ledger, engine.events
        self.count = len(self.booked) + len(self.said)
        self.last = first + stretch.bars - 1
        # the present bar; the last one that the engine knows of; the last one whose lowest ratio was taken
        self.at = self.told = self._taken = first - 1
        ahead = stretch.ahead
        self.closing = ahead.market if ahead.points == 1 else ahead.market.some(ahead.at_close)
        self.equity_usd, usd = total_equity(engine.account, self.closing), self.closing.usd(currency)
        par = isinstance(usd, float) and usd == 1.0  # nearly always, and arrays take their time
        self.values = self._list(larger(self.equity_usd if par else self.equity_usd / usd, floor))
        free = larger(0.0, self._free(engine.free_pool(currency)))
        self.cash = self._list(free if par or not engine.mode.whole else free / usd)

    def _free(self, pool: Pool | None) -> Number:
        """What a pool may still open at each close; judged already where it can be liquidated."""
        if pool is None:
            return 0.0
        for other, judged in self.stretch.pools:
            if other is pool:
                free = available(judged)
                return free[self.stretch.ahead.at_close] if isinstance(free, np.ndarray) else free
        return available(judge(pool, self.closing, self.engine.rules))

    def _list(self, value: Number) -> list[float]:
        """A value of each bar."""
        return value.tolist() if isinstance(value, np.ndarray) else [value] * len(self.stretch.ahead.closes)

    @cached_property
    def _lows(self) -> Array:
        return self.stretch.lows()

    @cached_property
    def _ratios(self) -> Array:
        return self.stretch.closing_ratios()

    @cached_property
    def _collateral(self) -> dict[str, Collateral]:
        engine = self.engine
        if not engine.mode.whole:
            return {}
        return collateral(engine.account_pool(), self.closing, engine.rules)

    @property
    def unchanged(self) -> bool:
        """True while the account is still as it was when the stretch was looked at."""
        return (self.engine.state, self.engine.mode) == self._state

    def instant(self) -> Instant:
        """The account at the close of the present bar."""
        bar = self.at - self.first
        told = self.engine.control.take_lowest()
        low = float(np.fmin.reduce(self._lows[self._untold], initial=np.nan if told is None else told))
        self._taken = self.at
        return Instant(
            int(self.stretch.ahead.closes[bar]), _at(self.equity_usd, bar), _known(low), _known(self._ratios[bar]),
            {name: Collateral(*(_at(part, bar) for part in row)) for name, row in
             self._collateral.items()},
        )

    def bring(self, notable: bool) -> None:
        """Tell the engine of the bars up to the present one."""
        start, end, untold = self.told + 1 - self.first, self.at + 1 - self.first, self._untold
        self.engine.sleep(self.stretch, start, end, _known(self.stretch.low(untold.start, untold.stop)), notable)
        self.told = self.at

    @property
    def _untold(self) -> slice:
        """The bars of whose lowest ratio neither the engine nor anybody else was told."""
        return slice(max(self.told, self._taken) + 1 - self.first, self.at + 1 - self.first)


def _at(value: Number, bar: int) -> float:
    return float(value[bar] if isinstance(value, np.ndarray) else value)


def _known(value: float) -> float | None:
    return None if value != value else float(value)


class Sleeper:
    """Looks ahead over the arrays of all feeds."""

    def __init__(self, feeds: Mapping[str, Any], currency: str, path: str, floor: float) -> None:
        self.lines = [Lines(feed) for feed in feeds.values()]
        self._by_name = {line.symbol: line for line in self.lines}
        self.clock = next(iter(feeds.values())).clock
        self.currency, self.path, self.floor = currency, path, floor
        first = self.lines[0]
        self.closes = first.closes
        self.opens = np.minimum.reduce([line.opens for line in self.lines])
        self.opens = np.maximum(self.opens, np.concatenate([self.opens[:1], self.closes[:-1]]))
        change = np.zeros(len(self.closes), dtype=bool)
        for line in self.lines:
            change |= line.bad
            change[1:] |= (line.kind[1:] != line.kind[:-1]) | line.bad[:-1]
        change[1:] |= np.diff(self.closes) <= 0
        self._changes: list[int] = np.flatnonzero(change).tolist()
        self.dated = any("-" in line.symbol for line in self.lines if line.venue)
        self._pairs = tuple(line.symbol.partition(":")[0] for line in self.lines)
        self._usd = tuple(line.symbol for line in self.lines if line.symbol in USD_PAIRS)
        self._options = any(line.is_option for line in self.lines)
        self._width, self._next, self._patience = SHORTEST, 1, 1
        self.slept = 0  # bars of this run

    @classmethod
    def over(cls, feeds: Mapping[str, Any], currency: str, path: str, floor: float) -> Sleeper | None:
        """None where feeds have no whole arrays on one clock, or prices within a bar hang on each other."""
        rows = list(feeds.values())
        if not rows or not all(getattr(feed, "whole", False) for feed in rows):
            return None
        stamps = [feed.stamps() for feed in rows]
        if not all(np.array_equal(stamps[0], other) for other in stamps[1:]):
            return None
        plain = any(not is_symbol(name) for name in feeds)
        if plain and (currency not in STABLECOINS or any(name in USD_PAIRS for name in feeds)):
            return None
        return cls(feeds, currency, path, floor)

    @property
    def at(self) -> int:
        """Number of the present bar."""
        return self.clock._idx  # type: ignore[no-any-return]

    def judged_range(self, name: str, at: int) -> tuple[float, float]:
        """Lowest and highest price of a bar that positions are judged at: marks, else last prices."""
        line = self._by_name[name]
        prices = line.last if not line.venue or line.kind[at] & 1 else line.marks
        candle = [float(row[at]) for row in prices]
        return min(candle), max(candle)

    def look(self, engine: MarginEngine, pending: Iterable[Any], until: int | None, skip: int) -> Asleep | None:
        """The quiet bars from `skip` after the present one on, None where there are none or it is too soon to look.

        `pending`: backtrader's orders, `until`: a time (ms) before which the stretch has to end.
        """
        at = self.at
        if at < self._next:
            return None
        found, first = None, at + skip
        end = self._end(first, pending, until)
        if end - first > 1:
            stretch = look_ahead(engine, self.closes[first:end],
                                 lambda bars: self._ahead(engine, slice(first, first + bars)))
            if stretch is not None:
                found = Asleep(engine, stretch, first, self.currency, self.floor, self.clock)
        if found is None:
            self._in_vain()
        return found

    def close_eve(self, engine: MarginEngine, eve: Stretch, bars: Sequence[Bar]) -> None:
        """Let the bar behind a stretch pass that is its eve: what is due with its close is all that happens in it."""
        time = int(eve.ahead.closes[eve.bars])
        engine.close_eve(eve, market_at(engine.market, bars, CLOSE, time, self.currency), self.dated)

    def woke(self, slept: int, quiet: int) -> bool:
        """The broker woke after so many of the quiet bars: a look ahead is worth it only where some pass, and as far as
        they do. True where nothing but the end of the look has woken it."""
        self.slept += slept
        if slept < 4:
            self._in_vain()
            return False
        self._patience = 1
        run_out = slept == quiet == self._width
        if run_out:
            width = 4 * self._width
        elif slept == quiet:
            width = max(self._width, 2 * quiet)
        else:  # somebody stirred, and may again after about as many, or some more: another look costs more than bars
            width = self._width // 2 + 2 * slept
        self._width = min(LONGEST, max(SHORTEST, width))
        return run_out

    def _in_vain(self) -> None:
        self._next = self.at + 1 + self._patience
        self._patience = min(PATIENCE, 2 * self._patience)
        self._width = SHORTEST

    def _end(self, first: int, pending: Iterable[Any], until: int | None) -> int:
        """The bar before which the stretch from bar `first` on has to end, orders and kinds of bars considered."""
        end = min(first + self._width, len(self.closes))
        place = bisect_left(self._changes, first)
        if place < len(self._changes):
            end = min(end, self._changes[place])
        if until is not None:
            end = min(end, int(np.searchsorted(self.closes, until)))
        levels: dict[tuple[str, bool], float] = {}  # by feed and direction: the first price that somebody waits for
        ends: dict[str, float] = {}  # by feed: when the first of them expires
        for order in pending:
            if not order.alive():
                continue
            name = order.data._name
            if order.valid:  # the child of a bracket that sleeps expires, too, and takes its parent along
                ends[name] = min(order.valid, ends.get(name, order.valid))
            if not order.active():
                continue
            waits = _level(order)
            if waits is None:
                return first  # fills at the next bar, or moves with every bar
            falls, price = waits
            nearest = max if falls else min
            levels[name, falls] = nearest(price, levels.get((name, falls), price))
        for (name, falls), price in levels.items():
            line, bars = self._by_name[name], slice(first, end)
            met = np.flatnonzero(line.low[bars] <= price if falls else line.high[bars] >= price)
            end = first + int(met[0]) if len(met) else end
        for name, valid in ends.items():
            end = min(end, int(np.searchsorted(self._by_name[name].stamps, valid)))
        return max(first, end)

    def _ahead(self, engine: MarginEngine, bars: slice) -> Ahead:
        points = [CLOSE] if not engine.at_risk else [OPEN, CLOSE] if self.path == "close" else [OPEN, LOW, HIGH, CLOSE]
        opens, closes, now = self.opens[bars], self.closes[bars], engine.market
        joined: Iterable[Mapping[str, Number]]
        if now.forwards or self._options:
            shown = [line.bar(bars, opens, closes) for line in self.lines]
            markets = [market_at(now, shown, point, now.time, self.currency) for point in points]
            joined = (
                _joined(kinds, before)
                for *kinds, before in zip(*[market.kinds for market in markets], now.kinds, strict=True)
            )
        else:  # what holds of one point then holds of all
            shown = [line.points(bars, points) for line in self.lines]
            joined = market_at(now, shown, CLOSE, now.time, self.currency).kinds
        marks, lasts, indexes, forwards = joined
        times = None  # whatever expires looks at the clock
        if self.dated:
            times = np.concatenate([opens] * (len(points) - 1) + [closes]).astype(np.float64)
        market = Market(now.time, marks, lasts, indexes, now.strict, now.stand_ins, forwards, now.index_times, times)
        heard = [pair for pair, line in zip(self._pairs, self.lines, strict=True)
                 if line.venue and not line.kind[bars.start] & 2]
        return Ahead(market, opens, closes, len(points), (*heard, *self._usd))

    def show(self, bars: Any, at: int) -> None:
        """Make `at` the latest bar of every feed."""
        closed = int(self.closes[at])
        for line in self.lines:
            stamp, before = float(line.stamps[at]), float(line.stamps[at - 1] if at else line.stamps[at])
            own = max(int(line.opens[at]), int(self.closes[at - 1])) if at else int(line.opens[at])
            bars.set(line.bar(at, own, closed), (before, stamp), at + 1)


def _level(order: Any) -> tuple[bool, float] | None:
    """(does it wait for a falling market, the price it waits for) of an order that backtrader may fill at a level; None
    where no level says when."""
    kinds = bt.Order
    if order.exectype == kinds.Limit:
        return order.isbuy(), order.created.price
    if order.exectype in STOP_LIMITS and order.triggered:
        return order.isbuy(), order.created.pricelimit
    if order.exectype in (kinds.Stop, kinds.StopLimit):
        return not order.isbuy(), order.created.price
    return None


def _joined(parts: Sequence[Mapping[str, Number]], before: Mapping[str, Number]) -> dict[str, Number]:
    """Prices point by point as one array each; what has none is the same at all points. A price that only the close
    tells is until then that of the close before, `before` at first."""
    found = dict(parts[-1])
    for key, closes in parts[-1].items():
        if isinstance(closes, np.ndarray):
            rows: list[Any] = [part.get(key) for part in parts]
            if not all(isinstance(row, np.ndarray) for row in rows):
                earlier = np.concatenate([[before[key]], closes[:-1]])
                rows = [row if isinstance(row, np.ndarray) else earlier for row in rows]
            found[key] = np.concatenate(rows)
    return found
