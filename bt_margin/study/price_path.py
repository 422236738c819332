"""The prices a static book is carried through: candles of every symbol on one clock, and when funding falls due.

Nothing trades after the entry, so a contract has one price: its mark, and where the data have none its last trade.
`feeds()` gives the same path as feeds, for a broker that is to see exactly this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_margin.engine.accrual import FundingSeries, settlements
from bt_margin.errors import InputError, MissingPrice, NoRuleInForce
from bt_margin.model.instrument import Kind, Number, parse
from bt_margin.model.market import Market
from bt_margin.model.moment import HOUR, iso
from bt_margin.plugin.array_feed import ArrayFeed
from bt_margin.plugin.bars import CLOSE, HIGH, LOW, OPEN, Bar
from bt_margin.plugin.feeds import CANDLE, make_feed
from bt_margin.plugin.path import market_at
from bt_margin.rules.book import Rules

AFTER = 4
"""Beyond a bar's open, high, low and close: its close once more, what the clock brought booked."""
_MARKS = ("mark_open", "mark_high", "mark_low", "mark")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PricePath:
    """Candles of several symbols on one clock.

    `prices`: by symbol (bars, 4) as open, high, low, close: marks of contracts, last trades of spot pairs. `indexes`:
    by pair, the same shape. A symbol without a bar of its own keeps its last price. `close_ms` (bars,) ms UTC.
    """

    close_ms: NDArray[np.int64]
    step: int
    prices: Mapping[str, Floats]
    indexes: Mapping[str, Floats]
    funding: Mapping[str, FundingSeries]
    sources: Mapping[str, str]
    strict: bool = False
    told_by: Mapping[str, str] = field(default_factory=dict)  # by pair: whose feed told its index, and moves it

    @classmethod
    def of(cls, feeds: Sequence[ArrayFeed], strict: bool = False) -> PricePath:
        """The path of some feeds, from the first bar that all have. Raises InputError where they do not fit together,
        MissingPrice under `strict` where a contract lacks a mark."""
        steps = {int(feed.p.close_ms[0]) - feed.first_ms for feed in feeds}
        if len(steps) != 1:
            raise InputError(f"path: expected feeds of one time frame, found bars of {sorted(steps)} ms; resample them")
        clock = np.unique(np.concatenate([feed.p.close_ms for feed in feeds]))
        clock = clock[clock >= max(int(feed.p.close_ms[0]) for feed in feeds)]
        prices, indexes, funding, sources, told_by = {}, {}, {}, {}, {}
        for feed in feeds:
            symbol, columns = str(feed.p.dataname), feed.p.columns
            candles = np.stack([np.asarray(columns[name], dtype=float) for name in CANDLE], axis=1)
            if parse(symbol).kind is not Kind.SPOT:
                marks = np.stack([np.asarray(columns[name], dtype=float) for name in _MARKS], axis=1)
                missing = np.isnan(marks).all(axis=1)
                if strict and missing.any():
                    at = int(feed.p.close_ms[int(np.argmax(missing))])
                    raise MissingPrice(f"strict: {symbol} has no mark in the bar closing at {iso(at)}; supply it")
                candles = np.where(missing[:, None], candles, marks)
            bad = ~(np.isfinite(candles) & (candles > 0)).all(axis=1)
            if bad.any():
                at = int(feed.p.close_ms[int(np.argmax(bad))])
                raise MissingPrice(f"{symbol}: expected finite prices above zero in the bar closing at {iso(at)}; "
                                   "repair the data or cut the window")
            prices[symbol] = _on(clock, feed.p.close_ms, candles)
            index = np.asarray(columns["index"], dtype=float)
            if np.isfinite(index).any():  # of an index the close is known; within the bar it moves as the price does
                moved = candles * (index / candles[:, CLOSE])[:, None]
                moved[:, CLOSE] = index
                known = np.isfinite(index)
                if int(feed.p.close_ms[known][0]) > clock[0]:
                    raise InputError(f"{symbol}: its index begins only at {iso(int(feed.p.close_ms[known][0]))}; "
                                     "cut the window")
                told_by[symbol.partition(":")[0]] = symbol
                indexes[symbol.partition(":")[0]] = _on(clock, feed.p.close_ms[known], moved[known])
            if feed.funding is not None:
                funding[symbol] = feed.funding
            sources[symbol] = str(feed.p.source)
        return cls(clock, steps.pop(), prices, indexes, funding, sources, strict, told_by)

    def __len__(self) -> int:
        return len(self.close_ms)

    @cached_property
    def open_ms(self) -> NDArray[np.int64]:
        return self.close_ms - self.step

    @cached_property
    def _rows(self) -> dict[str, list[list[float]]]:
        return {symbol: candles.tolist() for symbol, candles in {**self.prices, **self.indexes}.items()}

    def bars(self, at: int) -> list[Bar]:
        """What the feeds show at one bar."""
        open_ms, close_ms, found = int(self.open_ms[at]), int(self.close_ms[at]), []
        for symbol in self.prices:
            candle: Any = tuple(self._rows[symbol][at])
            pair = symbol.partition(":")[0]
            index: Any = tuple(self._rows[pair][at]) if pair in self.indexes else None
            mark = candle if ":" in symbol else None
            found.append(Bar(symbol, open_ms, close_ms, candle, mark, index))
        return found

    def market(self, at: int) -> Market:
        """Prices at the close of a bar."""
        time = int(self.close_ms[at])
        return market_at(Market(time, strict=self.strict), self.bars(at), CLOSE, time, "USDT")

    def feeds(self, since: int = 0) -> list[ArrayFeed]:
        """The path from a bar on as feeds; what trades and what judges are one price."""
        found = []
        for symbol, candles in self.prices.items():
            columns = {name: np.ascontiguousarray(candles[since:, point]) for point, name in enumerate(CANDLE)}
            columns["volume"] = np.zeros(len(self) - since)
            if ":" in symbol:
                columns |= {mark: columns[name] for mark, name in zip(_MARKS, CANDLE, strict=True)}
            pair = symbol.partition(":")[0]
            if self.told_by.get(pair) == symbol:
                columns["index"] = np.ascontiguousarray(self.indexes[pair][since:, CLOSE])
            found.append(make_feed(symbol, columns, self.open_ms[since:], self.step, self.funding.get(symbol),
                                   self.sources[symbol]))
        return found


@dataclass(frozen=True)
class Clock:
    """When funding falls due along a path.

    `rates`: by symbol (bars,), the rate booked at each bar's close, 0 where none is. `due` (bars,): something is
    booked. `apart` (bars,): the account is walked through the bar, whatever the prices: several settlements, or one
    between two bars, or one that has to be refused. `hours` (bars,): a full hour strikes in the bar.
    """

    rates: Mapping[str, Floats]
    due: NDArray[np.bool_]
    apart: NDArray[np.bool_]
    hours: NDArray[np.bool_]
    unknown: Mapping[str, tuple[int, int]]  # by symbol: (settlements without a rate, all of them)


def clock_of(path: PricePath, symbols: Sequence[str], rules_at: Callable[[int], Rules]) -> Clock:
    """The settlements of some perpetuals, by bar. A bar without a funding rule is walked: there the engine says so."""
    count, ends = len(path), path.close_ms.tolist()
    due, apart = np.zeros(count, bool), np.zeros(count, bool)
    rates: dict[str, Floats] = {}
    unknown: dict[str, tuple[int, int]] = {}
    for symbol in symbols:
        rates[symbol] = row = np.zeros(count)
        missed = all_ = 0
        if parse(symbol).kind in (Kind.LINEAR_SWAP, Kind.INVERSE_SWAP):
            series = path.funding.get(symbol)
            for at in range(1, count):
                try:
                    hours = rules_at(ends[at]).funding(symbol).interval_hours
                except NoRuleInForce:
                    apart[at] = True
                    continue
                inside = list(settlements(series, hours, ends[at - 1], ends[at]))
                known = [rate for _, rate in inside if rate is not None]
                all_, missed = all_ + len(inside), missed + len(inside) - len(known)
                due[at] |= bool(inside)
                apart[at] |= len(inside) > 1 or any(t <= path.open_ms[at] for t, _ in inside) or (
                    path.strict and len(known) < len(inside))
                row[at] = sum(known)
        unknown[symbol] = (missed, all_)
    struck = np.diff(path.close_ms // HOUR, prepend=path.open_ms[0] // HOUR)
    return Clock(rates, due, apart | (struck > 1), struck > 0, unknown)


@dataclass(frozen=True)
class Points:
    """Every point of a path at which an account is judged, one after the other.

    `bar`, `kind` (points,): OPEN, HIGH, LOW, CLOSE, or AFTER, which only bars have in which something is booked.
    `booked` (points,): how many bars' bookings are behind it. `noted` (points,): distances are taken here. `first`
    (bars + 1,): the first point of each bar. `prices`, `indexes`: by symbol and pair (points,).
    """

    bar: NDArray[np.intp]
    kind: NDArray[np.intp]
    booked: NDArray[np.intp]
    noted: NDArray[np.bool_]
    first: NDArray[np.intp]
    prices: Mapping[str, Floats]
    indexes: Mapping[str, Floats]

    @classmethod
    def of(cls, path: PricePath, clock: Clock, walk: str) -> Points:
        """`walk`: how a bar is walked; `close` does not see its extremes."""
        kinds = np.array([OPEN, CLOSE, AFTER] if walk == "close" else [OPEN, HIGH, LOW, CLOSE, AFTER])
        there = np.ones((len(path), len(kinds)), bool)
        there[:, -1] = clock.due
        bars, at = np.nonzero(there)
        kind = kinds[at]
        column = np.where(kind == AFTER, CLOSE, kind)
        first = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.intp)
        return cls(
            bars, kind, bars + (kind == AFTER), ~((kind == CLOSE) & clock.due[bars]), first,
            {symbol: np.ascontiguousarray(candles[bars, column]) for symbol, candles in path.prices.items()},
            {pair: np.ascontiguousarray(candles[bars, column]) for pair, candles in path.indexes.items()},
        )

    def market(self, where: slice | NDArray[np.intp], time: int, strict: bool) -> Market:
        """Prices at some of the points, as arrays."""
        lasts: dict[str, Number] = {symbol: values[where] for symbol, values in self.prices.items()}
        marks = {symbol: values for symbol, values in lasts.items() if ":" in symbol}
        return Market(time, marks, lasts, {pair: values[where] for pair, values in self.indexes.items()}, strict,
                      Counter())


def _on(clock: NDArray[np.int64], times: NDArray[np.int64], candles: Floats) -> Floats:
    """Candles on a clock that holds their own times; where there is none, the last close stands still."""
    at = np.searchsorted(times, clock, side="right") - 1
    found = candles[at].copy()
    still = times[at] != clock
    found[still] = candles[at[still], CLOSE][:, None]
    return found
