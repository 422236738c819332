"""What a feed shows in a step: its new bar, checked, as prices to trade at and marks to judge at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import backtrader as bt

from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.instrument import Kind, is_symbol
from bt_margin.model.light import light
from bt_margin.model.market import parse_kind
from bt_margin.model.moment import DAY, MINUTE, iso

OPEN, HIGH, LOW, CLOSE = range(4)
USD_PAIRS = ("USDT/USD", "USDC/USD")
"""Feeds that only tell what a stablecoin is worth."""

Prices = tuple[float, float, float, float]
"""A candle as (open, high, low, close), high and low as the market's: a put is dearest where its coin is lowest."""


@light(frozen=True, slots=True)
class Bar:
    """One feed's new bar. `mark` is None when last prices stand in for marks.

    Of the index the close is known; within the bar it moves as the mark does (without one, as last prices do). An
    option's marks say nothing of its coin: its index and forward are those of the close, and the path moves them.
    """

    symbol: str
    open_ms: int
    close_ms: int
    last: Prices
    mark: Prices | None
    index: Prices | None
    forward: float | None = None  # options: what their expiry is priced from
    is_option: bool = False


def read_bar(data: Any, since: int | None) -> Bar | None:
    """The present bar of a feed; it opened one time frame before its stamp, not before `since`, the last bar's end.

    A price of a venue's instrument that is not a finite number above zero raises MissingPrice. Other feeds may
    hold anything (an indicator, a gap): such a bar is no bar, None.
    """
    symbol, (stamp, last, marks, index, forward) = data._name, _shown(data)
    close_ms = to_ms(stamp)
    mark, indexes, option = None, None, False
    if not is_symbol(symbol):
        if not all(0.0 < price < math.inf for price in last):
            return None
        forward = math.nan
    else:
        _check(last, symbol, "price", close_ms)
        if not all(value != value for value in marks):  # NaN alone differs from itself
            _check(marks, symbol, "mark price", close_ms)
            mark = marks
        option = parse_kind(symbol) is Kind.OPTION
        if index == index:
            indexes = (index, index, index, index) if option else moved_along(index, mark or last)
        if option and symbol.endswith("-P"):
            last, mark = against(last), None if mark is None else against(mark)
    open_ms = close_ms - step_of(data)
    return Bar(symbol, open_ms if since is None else max(open_ms, since), close_ms, last, mark, indexes,
               forward if forward == forward else None, option)


def _shown(data: Any) -> tuple[float, Prices, Prices, float, float]:
    """(stamp, last prices, marks, index, forward) of the present bar; NaN where the feed has no such line."""
    if getattr(data, "whole", False):
        return data.present()  # type: ignore[no-any-return]
    lines = data.lines

    def value(name: str) -> float:
        return float(getattr(lines, name)[0]) if hasattr(lines, name) else math.nan

    last = (_tick(data, "open"), _tick(data, "high"), _tick(data, "low"), _tick(data, "close"))
    marks = (value("mark_open"), value("mark_high"), value("mark_low"), value("mark"))
    return float(data.datetime[0]), last, marks, value("index"), value("forward_price")


def moved_along(close: float, prices: Prices) -> Prices:
    """A candle that ends at `close` and moves in proportion to another's."""
    ratio = close / prices[CLOSE]
    return prices[OPEN] * ratio, prices[HIGH] * ratio, prices[LOW] * ratio, close


def against(prices: Prices) -> Prices:
    """A put's candle: high and low change places, so that the market's low is one moment for coin and put."""
    return prices[OPEN], prices[LOW], prices[HIGH], prices[CLOSE]


def _tick(data: Any, name: str) -> float:
    """The bar's price, or the latest part's while a bar is replayed."""
    value = getattr(data, f"tick_{name}", None)
    return float(getattr(data, name)[0] if value is None else value)


def _check(values: Prices, symbol: str, what: str, time: int) -> None:
    for value in values:
        if not 0.0 < value < math.inf:
            raise MissingPrice(
                f"{symbol}: expected a finite {what} above zero in the bar closing at {iso(time)}, found {value!r}; "
                "repair the data or cut the window"
            )


_UNITS = {
    bt.TimeFrame.Seconds: 1_000, bt.TimeFrame.Minutes: MINUTE, bt.TimeFrame.Days: DAY,
    bt.TimeFrame.Weeks: 604_800_000,
}


def to_ms(stamp: float) -> int:
    """backtrader's float days as ms since 1970, exact for whole ms."""
    return round((stamp - 719163.0) * DAY)


def step_of(data: Any) -> int:
    """Length of a feed's bars in ms, from its time frame; 0 where that is unknown and no venue's instrument."""
    unit = _UNITS.get(data._timeframe)
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

    def set(self, bar: Bar, stamps: tuple[float, float], seen: int) -> None:
        """Make a bar of whole arrays the latest of its feed: it has passed unread."""
        self.latest[bar.symbol], self.stamps[bar.symbol], self._seen[bar.symbol] = bar, stamps, seen
        self.stamp = max(self.stamp, stamps[1])

    def fresh(self, feeds: Mapping[str, Any]) -> list[Bar]:
        """Bars that came since the last call. A feed that did not move is not read: it may be empty in exactbars."""
        found = []
        for name, data in feeds.items():
            seen: Any = len(data)
            if not seen:
                continue
            # set while a bar is replayed in parts; whole arrays have none
            tick = None if getattr(data, "whole", False) else getattr(data, "tick_last", None)
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
