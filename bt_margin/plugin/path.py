"""One bar is not one price: a bar becomes the points the account is walked through.

`adverse`: open, the extreme that hurts the account, the other, close. `ohlc`: open, high, low, close. `close`: open,
close. With several instruments all lows and all highs are visited together: a bound, and reports say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bt_margin.errors import InputError, MissingPrice

PATHS = ("adverse", "ohlc", "close")
OPEN, HIGH, LOW, CLOSE = range(4)


@dataclass(frozen=True, slots=True)
class Bar:
    """One feed's new bar: prices as (open, high, low, close), `mark` the same or None when last prices stand in."""

    symbol: str
    open_ms: int
    close_ms: int
    last: tuple[float, float, float, float]
    mark: tuple[float, float, float, float] | None
    index: float | None


def order_of_points(path: str, low_first: bool) -> tuple[int, ...]:
    """Which prices of the bar are visited, in order."""
    if path == "close":
        return (OPEN, CLOSE)
    if path == "ohlc" or not low_first:
        return (OPEN, HIGH, LOW, CLOSE)
    return (OPEN, LOW, HIGH, CLOSE)


def meeting(points: tuple[float, ...], level: float, after: float = 0.0) -> float:
    """Where on the path (leg number + share of the leg) the price first meets `level`, at or after `after`.

    A level the path never meets is taken at its end: backtrader has decided that the order fills in this bar.
    """
    for leg in range(int(after), len(points) - 1):
        start, end = points[leg], points[leg + 1]
        if min(start, end) <= level <= max(start, end):
            share = 0.0 if end == start else (level - start) / (end - start)
            if leg + share >= after:
                return leg + share
    return float(len(points) - 1)


def read_bar(data: Any, symbol: str, is_spot: bool, step_ms: int, to_ms: Any) -> Bar:
    """The present bar of a feed. Raises MissingPrice for a price that is not a finite number above zero."""
    def tick(name: str) -> float:
        value = getattr(data, f"tick_{name}", None)
        return float(getattr(data, name)[0] if value is None else value)

    last = (tick("open"), tick("high"), tick("low"), tick("close"))
    close_ms = to_ms(data.datetime[0])
    _checked(last, symbol, "price", close_ms)
    mark = None
    if not is_spot and hasattr(data.lines, "mark_open"):
        lines = data.lines
        values = (float(lines.mark_open[0]), float(lines.mark_high[0]), float(lines.mark_low[0]),
                  float(lines.mark[0]))
        if not all(math.isnan(value) for value in values):
            _checked(values, symbol, "mark price", close_ms)
            mark = values
    index = None
    if hasattr(data.lines, "index"):
        value = float(data.lines.index[0])
        index = None if math.isnan(value) else value
    return Bar(symbol, close_ms - step_ms, close_ms, last, mark, index)


def _checked(values: tuple[float, ...], symbol: str, what: str, time: int) -> None:
    for value in values:
        if not math.isfinite(value) or value <= 0:
            raise MissingPrice(
                f"{symbol}: expected a finite {what} above zero in the bar closing at {time}, found {value!r}; "
                "repair the data or cut the window"
            )


def step_of(data: Any) -> int:
    """Length of a feed's bars in ms, from its time frame."""
    import backtrader as bt

    unit = {
        bt.TimeFrame.Seconds: 1_000, bt.TimeFrame.Minutes: 60_000, bt.TimeFrame.Days: 86_400_000,
        bt.TimeFrame.Weeks: 604_800_000,
    }.get(data._timeframe)
    if unit is None:
        raise InputError(f"feed {data._name!r}: bars must be seconds, minutes, days or weeks; resample it first")
    return unit * int(data._compression)
