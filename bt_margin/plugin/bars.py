"""What a feed shows in a step: its new bar, checked, as prices to trade at and marks to judge at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import backtrader as bt

from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.assessment import iso
from bt_margin.model.instrument import is_symbol

OPEN, HIGH, LOW, CLOSE = range(4)
USD_PAIRS = ("USDT/USD", "USDC/USD")
"""Feeds that only tell what a stablecoin is worth."""

Prices = tuple[float, float, float, float]
"""A candle as (open, high, low, close)."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One feed's new bar. `mark` is None when last prices stand in for marks.

    Of the index the close is known; within the bar it moves as the mark does (without one, as last prices do).
    """

    symbol: str
    open_ms: int
    close_ms: int
    last: Prices
    mark: Prices | None
    index: Prices | None
    forward: float | None = None  # options: what their expiry is priced from


def read_bar(data: Any, since: int | None) -> Bar | None:
    """The present bar of a feed; it opened one time frame before its stamp, not before `since`, the last bar's end.

    A price of a venue's instrument that is not a finite number above zero raises MissingPrice. Other feeds may
    hold anything (an indicator, a gap): such a bar is no bar, None.
    """
    symbol, lines, close_ms = data._name, data.lines, to_ms(data.datetime[0])
    last = (_tick(data, "open"), _tick(data, "high"), _tick(data, "low"), _tick(data, "close"))
    mark = index = forward = None
    if not is_symbol(symbol):
        if not all(math.isfinite(price) and price > 0 for price in last):
            return None
    else:
        _check(last, symbol, "price", close_ms)
        if hasattr(lines, "mark_open"):
            marks = (float(lines.mark_open[0]), float(lines.mark_high[0]), float(lines.mark_low[0]),
                     float(lines.mark[0]))
            if not all(math.isnan(value) for value in marks):
                _check(marks, symbol, "mark price", close_ms)
                mark = marks
        if hasattr(lines, "index"):
            value = float(lines.index[0])
            if not math.isnan(value):
                index = _moved_along(value, mark or last)
        if hasattr(lines, "forward_price"):
            value = float(lines.forward_price[0])
            forward = None if math.isnan(value) else value
    open_ms = close_ms - step_of(data)
    return Bar(symbol, open_ms if since is None else max(open_ms, since), close_ms, last, mark, index,
               forward)


def _moved_along(close: float, prices: Prices) -> Prices:
    """A candle that ends at `close` and moves in proportion to another's."""
    ratio = close / prices[CLOSE]
    return prices[OPEN] * ratio, prices[HIGH] * ratio, prices[LOW] * ratio, close


def _tick(data: Any, name: str) -> float:
    """The bar's price, or the latest part's while a bar is replayed."""
    value = getattr(data, f"tick_{name}", None)
    return float(getattr(data, name)[0] if value is None else value)


def _check(values: Prices, symbol: str, what: str, time: int) -> None:
    for value in values:
        if not math.isfinite(value) or value <= 0:
            raise MissingPrice(
                f"{symbol}: expected a finite {what} above zero in the bar closing at {iso(time)}, found {value!r}; "
                "repair the data or cut the window"
            )


def to_ms(stamp: float) -> int:
    """backtrader's float days as ms since 1970, exact for whole ms."""
    return round((stamp - 719163.0) * 86_400_000)


def step_of(data: Any) -> int:
    """Length of a feed's bars in ms, from its time frame; 0 where that is unknown and no venue's instrument."""
    unit = {
        bt.TimeFrame.Seconds: 1_000, bt.TimeFrame.Minutes: 60_000, bt.TimeFrame.Days: 86_400_000,
        bt.TimeFrame.Weeks: 604_800_000,
    }.get(data._timeframe)
    if unit is None:
        if not is_symbol(data._name):
            return 0
        raise InputError(f"feed {data._name!r}: bars must be seconds, minutes, days or weeks; resample it first")
    return unit * int(data._compression)


class Bars:
    """The latest bar of every feed, and which of them are new.

    `stamp` is backtrader's time of the latest bar of any feed, `stamps` that of each feed's bar before and latest.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Bar] = {}
        self.stamps: dict[str, tuple[float, float]] = {}
        self.stamp = 0.0
        self._seen: dict[str, Any] = {}  # what tells a feed's bar from the one before

    def fresh(self, feeds: Mapping[str, Any]) -> list[Bar]:
        """Bars that came since the last call. A feed that did not move is not read: it may be empty in exactbars."""
        found = []
        for name, data in feeds.items():
            seen: Any = len(data)
            if not seen:
                continue
            tick = getattr(data, "tick_last", None)  # set while a bar is replayed in parts
            if tick is not None:
                seen = (seen, data.datetime[0], tick, data.high[0], data.low[0])
            if self._seen.get(name) == seen:
                continue
            self._seen[name] = seen
            last = self.latest.get(name)
            bar = read_bar(data, None if last is None else last.close_ms)
            if bar is not None:
                self.latest[name] = bar
                stamp = float(data.datetime[0])
                self.stamps[name] = (self.stamps.get(name, (stamp, stamp))[1], stamp)
                self.stamp = max(self.stamp, stamp)
                found.append(bar)
        return found
