"""One bar is not one price: a bar becomes the points the account is walked through.

`adverse`: open, the extreme that hurts the account, the other, close. `ohlc`: open, high, low, close. `close`: open,
close. With several instruments all lows and all highs are visited together: a bound, and reports say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import backtrader as bt

from bt_margin.engine.engine import MarginEngine
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.assessment import iso
from bt_margin.model.instrument import is_symbol
from bt_margin.model.market import Market
from bt_margin.modes.assess import total_equity
from bt_margin.plugin.matching import AT_OPEN, BEFORE_OPEN, Candidate, timeline

PATHS = ("adverse", "ohlc", "close")
OPEN, HIGH, LOW, CLOSE = range(4)

Prices = tuple[float, float, float, float]
"""A candle as (open, high, low, close)."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One feed's new bar. `mark` is None when last prices stand in for marks."""

    symbol: str
    open_ms: int
    close_ms: int
    last: Prices
    mark: Prices | None
    index: float | None


def read_bar(data: Any, is_spot: bool, since: int | None) -> Bar | None:
    """The present bar of a feed; it opened one time frame before its stamp, not before `since`, the last bar's end.

    A price of a venue's instrument that is not a finite number above zero raises MissingPrice. Other feeds may
    hold anything (an indicator, a gap): such a bar is no bar, None.
    """
    symbol, lines, close_ms = data._name, data.lines, to_ms(data.datetime[0])
    last = (_tick(data, "open"), _tick(data, "high"), _tick(data, "low"), _tick(data, "close"))
    mark = index = None
    if not is_symbol(symbol):
        if not all(math.isfinite(price) and price > 0 for price in last):
            return None
    else:
        _check(last, symbol, "price", close_ms)
        if not is_spot and hasattr(lines, "mark_open"):
            marks = (float(lines.mark_open[0]), float(lines.mark_high[0]), float(lines.mark_low[0]),
                     float(lines.mark[0]))
            if not all(math.isnan(value) for value in marks):
                _check(marks, symbol, "mark price", close_ms)
                mark = marks
        if hasattr(lines, "index"):
            value = float(lines.index[0])
            index = None if math.isnan(value) else value
    open_ms = close_ms - step_of(data)
    return Bar(symbol, open_ms if since is None else max(open_ms, since), close_ms, last, mark, index)


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


# -- the walk -------------------------------------------------------------------------------------------------------


def market_at(now: Market, bars: Sequence[Bar], point: int, time: int, currency: str) -> Market:
    """All feeds with a new bar at one of its points; the others as they are."""
    marks, lasts, indexes = dict(now.marks), dict(now.lasts), dict(now.indexes)
    for bar in bars:
        lasts[bar.symbol] = bar.last[point]
        if bar.mark is not None:
            marks[bar.symbol] = bar.mark[point]
        else:
            marks.pop(bar.symbol, None)
        if bar.index is not None and point == CLOSE:
            indexes[bar.symbol.partition(":")[0]] = bar.index
        if not is_symbol(bar.symbol):  # a plain asset is worth its price in the broker's currency
            indexes[f"{bar.symbol}/USD"] = bar.last[point] * now.usd(currency)
    return Market(time, marks, lasts, indexes, now.strict, now.stand_ins)


def walk(
    engine: MarginEngine,
    bars: Sequence[Bar],
    found: Sequence[Candidate],
    path: str,
    currency: str,
    step: Callable[[Market, bool], None],
    fill: Callable[[Candidate], None],
) -> None:
    """Walk the new bars: fills of the past, clock events, the open, then leg by leg each fill where the price
    meets it, clock events at the close. `step(market, jump)` moves the engine, `fill` trades.

    Within the bar the clock stands at its open; only the last leg carries it to the close.
    """
    for one in found:
        if one.when == BEFORE_OPEN:
            fill(one)
    if not bars:
        return
    start = max(engine.market.time, min(bar.open_ms for bar in bars))
    end = max(engine.market.time, max(bar.close_ms for bar in bars))

    def at(point: int, time: int) -> Market:
        return market_at(engine.market, bars, point, time, currency)

    if not found and not engine.account.positions:
        step(at(CLOSE, end), False)  # nothing can happen on the way
        return
    step(at(OPEN, start), True)
    for one in found:
        if one.when == AT_OPEN:
            fill(one)
    markets = {OPEN: engine.market, LOW: at(LOW, start), HIGH: at(HIGH, start), CLOSE: at(CLOSE, end)}
    points = _points(engine, path, markets)
    later = timeline(found, {bar.symbol: tuple(bar.last[p] for p in points) for bar in bars})
    for leg in range(len(points) - 1):
        from_, to = markets[points[leg]], markets[points[leg + 1]]
        while later and later[0][0] <= leg + 1:
            place, one = later.pop(0)
            if one.order.alive():
                here = from_.toward(to, place - leg)
                step(here.at(max(start, engine.market.time), here.marks, here.lasts), False)
                fill(one)
        step(to, False)


def _points(engine: MarginEngine, path: str, markets: dict[int, Market]) -> tuple[int, ...]:
    """Which prices of the bar are visited, in order. Adverse: first the side that leaves the account with less."""
    if path == "close":
        return (OPEN, CLOSE)
    if path == "ohlc":
        return (OPEN, HIGH, LOW, CLOSE)
    low, high = (total_equity(engine.account, markets[point]) for point in (LOW, HIGH))
    return (OPEN, LOW, HIGH, CLOSE) if low <= high else (OPEN, HIGH, LOW, CLOSE)
