"""A feed that hands backtrader whole arrays at `preload()`, and moves over them without filling anything per bar.

Stock feeds copy their values bar by bar, once into the lines and once more, at every step, into `tick_open`,
`tick_high` ..., and move every line by itself. Here the lines become the arrays, one of them moves and the others are
where it is, and the ticks are looked up when somebody asks. Where bars have to pass one by one (filters, resampling,
replay, `tzinput`, `preload=False`, `exactbars=1`) the stock way is taken; what users see is the same, bit for bit.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any

import backtrader as bt
import numpy as np
from backtrader.linebuffer import LineBuffer
from numpy.typing import NDArray

from bt_margin.engine.accrual import FundingSeries
from bt_margin.errors import InputError
from bt_margin.model.moment import DAY, MINUTE

MARKS = ("mark_open", "mark_high", "mark_low", "mark", "index", "forward_price")
"""Lines beyond the usual: a candle of marks (`mark` is its close), the index, what options are priced from."""


Array = NDArray[np.float64]
Candle = tuple[float, float, float, float]


class _Follower(LineBuffer):
    """A line of whole arrays that is where the feed's `clock` is, which alone moves; else a line as any other."""

    clock: LineBuffer
    idx = property(lambda self: self.clock._idx, lambda self, at: None)
    lencount = property(lambda self: self.clock.lencount, lambda self, count: None)

    def __len__(self) -> int:
        return self.clock.lencount  # type: ignore[no-any-return]


class _Tick:
    """`tick_<line>` of a feed whose arrays are whole: the present bar's value, looked up on demand.

    Defines no `__set__`: what backtrader assigns on the stock way lands in the feed itself and hides this.
    """

    def __init__(self, line: int) -> None:
        self.line = line

    def __get__(self, feed: Any, owner: type) -> float:
        if feed is None or not feed.whole or feed.clock._idx < 0:
            raise AttributeError("a tick")  # as on a stock feed before its first bar
        return feed.every_line[self.line].array[feed.clock._idx]  # type: ignore[no-any-return]


class ArrayFeed(bt.feed.DataBase):
    """A feed from arrays. Lines beyond the usual: mark_open, mark_high, mark_low, mark (its close), index,
    forward_price (options: what their expiry is priced from).

    `columns` maps line names to float64 arrays of one length, `close_ms` the bars' closing times (ms, UTC); both stay
    as they are. `whole` is true while the lines hold every bar of the run. One difference to stock feeds then: the
    last bar has ticks as well, which stock leaves at None.
    """

    lines: Any = MARKS
    params = (("columns", None), ("close_ms", None), ("funding", None), ("source", ""))
    whole = False

    def __init__(self) -> None:
        self.every_line, self.clock = tuple(self.lines.lines), self.lines.datetime
        super().__init__()
        self.clock.bars = 0  # how many, while the lines hold all of the run
        self.funding: FundingSeries | None = self.p.funding
        self.holes: dict[str, int] = {}
        close_ms = self.p.close_ms
        for name, column in self.p.columns.items():
            if np.shape(column) != np.shape(close_ms):
                raise InputError(f"{name}: expected {len(close_ms)} values, one per bar, found {np.shape(column)}")
        step = _step_ms(self.p.timeframe, self.p.compression)
        self.first_ms = int(close_ms[0]) - step if len(close_ms) else 0
        self.first_price = float(self.p.columns["open"][0]) if len(close_ms) else 0.0
        self._at = 0
        self._told = self.every_line[: len(ArrayFeed.lines._getlines())]  # without those of a class made from this

    def start(self) -> None:
        super().start()
        self._at = 0
        self._columns = [
            (getattr(self.lines, name), column) for name, column in self.p.columns.items()
        ]
        self._stamps = self.p.close_ms / DAY + 719163.0  # equals backtrader's date2num exactly

    # -- bar by bar ---------------------------------------------------------------------------------------------

    def _load(self) -> bool:
        at = self._at
        if at >= len(self._stamps):
            return False
        for line, column in self._columns:
            line[0] = float(column[at])  # plain floats: in exactbars runs users meet them as they are
        self.lines.datetime[0] = float(self._stamps[at])
        self._at = at + 1
        return True

    # -- whole arrays -------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.whole, self.clock.bars = False, 0
        for line in self._followers():
            line.__class__ = LineBuffer
        super().reset()

    def _followers(self) -> Iterator[Any]:
        return (line for line in self.every_line if line is not self.clock)

    def preload(self) -> None:
        """Every bar between `fromdate` and `todate` into the lines at once, unless something has to see them pass."""
        if not self._may_be_whole():
            super().preload()
            return
        shown = self._shown()
        for name in self.getlinealiases():
            column = self._stamps if name == "datetime" else self.p.columns.get(name)
            values = np.full(len(self._stamps), np.nan) if column is None else np.asarray(column, dtype=np.float64)
            _fill(getattr(self.lines, name), values[shown])
        self._at = len(self._stamps)  # `_load` has nothing left to give
        bars = len(self.clock.array) - self.clock.extension
        self.home()
        for name in [name for name in self.__dict__ if name.startswith("tick_")]:
            del self.__dict__[name]  # of an earlier run that went bar by bar
        for line in self._followers():
            line.__class__, line.clock = _Follower, self.clock
        self.whole, self.clock.bars = True, bars

    def _may_be_whole(self) -> bool:
        kind = type(self)
        return not (
            self._filters or self._ffilters or self._barstack or self._barstash  # resampling and replay are filters
            or self._tzinput
            or kind._load is not ArrayFeed._load or kind.load is not ArrayFeed.load
            or any(line.bindings or line.mode != line.UnBounded or len(line) for line in self.every_line)
        )

    def _shown(self) -> slice | NDArray[np.intp]:
        """Which bars `load` would let through: none before `fromdate`, the end at the first after `todate`."""
        late = self._stamps > self.todate
        end = int(np.argmax(late)) if late.any() else len(late)
        early = self._stamps[:end] < self.fromdate
        if not early.any():
            return slice(0, end)
        return np.flatnonzero(~early)

    def advance_peek(self) -> float:
        clock = self.clock
        at = clock._idx + 1
        if at < clock.bars:  # every attribute of a feed itself is dear
            return clock.array[at]  # type: ignore[no-any-return]
        return math.inf if self.whole else float(super().advance_peek())

    def advance(self, size: int = 1, datamaster: Any = None, ticks: bool = True) -> None:
        clock = self.clock
        if datamaster is not None or not clock.bars:
            super().advance(size, datamaster, ticks)
            return
        clock._idx += size
        clock.lencount += size

    def present(self) -> tuple[float, Candle, Candle, float, float]:
        """The present bar of whole arrays: its stamp, last prices and marks as (open, high, low, close), the index,
        and what options are priced from."""
        at = self.clock._idx
        close, low, high, open_, _, _, stamp, mark_open, mark_high, mark_low, mark, index, forward = [
            line.array[at] for line in self._told
        ]
        return stamp, (open_, high, low, close), (mark_open, mark_high, mark_low, mark), index, forward

    def arrays(self) -> tuple[Array, tuple[Array, ...], tuple[Array, ...], Array, Array]:
        """`present`, of every bar: the whole arrays, without what indicators reserve beyond the end. They are the
        lines' own, which cannot grow while somebody has them: what is kept has to be copied."""
        close, low, high, open_, _, _, stamp, mark_open, mark_high, mark_low, mark, index, forward = [
            self._array(line) for line in self._told
        ]
        return stamp, (open_, high, low, close), (mark_open, mark_high, mark_low, mark), index, forward

    def stamps(self) -> Array:
        """The stamps of `arrays` alone."""
        return self._array(self.clock)

    def _array(self, line: Any) -> Array:
        bars = self.clock.bars
        return np.frombuffer(line.array, np.float64, bars) if bars else np.empty(0)

    def __len__(self) -> int:
        return self.clock.lencount  # type: ignore[no-any-return]

    def _tick_nullify(self) -> None:
        if not self.whole:
            super()._tick_nullify()

    def _tick_fill(self, force: bool = False) -> None:
        if not self.whole:
            super()._tick_fill(force)


for _at, _name in enumerate(ArrayFeed.lines._getlines()):
    if _name != "datetime":
        setattr(ArrayFeed, f"tick_{_name}", _Tick(_at))
ArrayFeed.tick_last = ArrayFeed.__dict__["tick_close"]  # backtrader's "last" is its first line, the close


def _fill(line: Any, values: NDArray[np.float64]) -> None:
    """A line as if these values had been loaded into it one by one, its pointer back at the beginning."""
    # what `extend` has reserved beyond the end for indicators that look ahead stays there, empty
    ahead = line.array[len(line.array) - line.extension:]
    line.array = array("d")
    line.array.frombytes(np.ascontiguousarray(values).view(np.uint8))
    line.array.extend(ahead)


def _step_ms(timeframe: int, compression: int) -> int:
    unit = {bt.TimeFrame.Days: DAY, bt.TimeFrame.Minutes: MINUTE}.get(timeframe, 1_000)
    return int(unit * compression)
