"""History as values: candles, funding rates and a volatility index, checked when they are made.

Times are int64 milliseconds since 1970 UTC. A candle's `ts` is its bar's OPEN, as exchanges deliver it;
whoever shows bars at their close adds `step_ms`. Spans are `start` inclusive, `end` exclusive. Arrays are
one-dimensional, of equal length, and read-only copies, so that what was checked once stays correct.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["trade", "mark", "index"]
Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

KINDS: tuple[Kind, ...] = ("trade", "mark", "index")
_UNIT_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}


class DataError(ValueError):
    """Historical data is missing or contradicts itself; the text says which, where, and what was expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Candles of one symbol: `ts` (bar open, ms), `open high low close` (quote currency), `volume`.

    `volume` is in base coin, NaN where there is none (marks and indices). `step_ms` is the bar's length; bars
    need not be contiguous (see `gaps`), but they may not overlap. Raises DataError for unequal lengths, times
    that do not rise by at least a step, prices that are not finite and positive, and a low or high that does
    not enclose open and close. An empty series is allowed: it is what a slice of nothing gives.
    """

    venue: str
    symbol: str
    kind: Kind
    step_ms: int
    ts: Int64s
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"{self.name}: expected a kind of {', '.join(KINDS)}, found {self.kind!r}")
        _freeze(self, self.name, "ts", "open", "high", "low", "close", "volume")
        _require_rising(self.name, self.ts, self.step_ms)
        for column in ("open", "high", "low", "close"):
            _require_positive(self.name, self.ts, column, getattr(self, column))
        lowest, highest = np.minimum(self.open, self.close), np.maximum(self.open, self.close)
        _require(self.name, self.ts, self.low <= lowest, "a low at or below open and close", self.low)
        _require(self.name, self.ts, self.high >= highest, "a high at or above open and close", self.high)
        usable = np.isnan(self.volume) | (np.isfinite(self.volume) & (self.volume >= 0))
        _require(self.name, self.ts, usable, "a volume of 0 or more, or NaN", self.volume)

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def name(self) -> str:
        """Venue, symbol, kind and bar length, e.g. `okx BTC/USDT:USDT mark 1h`."""
        return f"{self.venue} {self.symbol} {self.kind} {timeframe(self.step_ms)}"

    def slice(self, start_ms: int, end_ms: int) -> Series:
        """The bars that open in [start_ms, end_ms); may be empty."""
        at = _within(self.ts, start_ms, end_ms)
        return Series(
            self.venue, self.symbol, self.kind, self.step_ms, self.ts[at],
            self.open[at], self.high[at], self.low[at], self.close[at], self.volume[at],
        )

    def gaps(self, start_ms: int | None = None, end_ms: int | None = None) -> list[tuple[int, int]]:
        """The spans of [start_ms, end_ms) that no bar covers, as (from_ms, to_ms), in order.

        Without bounds, the holes between the first bar and the last. With bounds, what is missing before the
        first and after the last bar counts too: a market that was delisted inside the span ends in a gap.
        """
        if not len(self) and (start_ms is None or end_ms is None):
            return []
        start = int(self.ts[0]) if start_ms is None else start_ms
        end = int(self.ts[-1]) + self.step_ms if end_ms is None else end_ms
        froms = np.clip(np.concatenate(([start], self.ts + self.step_ms)), start, end)
        tos = np.clip(np.concatenate((self.ts, [end])), start, end)
        return [(int(a), int(b)) for a, b in zip(froms, tos, strict=True) if a < b]


@dataclass(frozen=True, slots=True, eq=False)
class Funding:
    """Funding rates of one perpetual: `ts` (settlement, ms) and `rate` (a fraction: 0.0001 is 0.01 %).

    A positive rate is paid by longs to shorts. Raises DataError for unequal lengths, times that do not rise
    and rates that are not finite.
    """

    venue: str
    symbol: str
    ts: Int64s
    rate: Floats

    def __post_init__(self) -> None:
        _freeze(self, self.name, "ts", "rate")
        _require_rising(self.name, self.ts, 1)
        _require(self.name, self.ts, np.isfinite(self.rate), "a finite rate", self.rate)

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def name(self) -> str:
        """Venue and symbol, e.g. `bybit BTC/USDT:USDT funding`."""
        return f"{self.venue} {self.symbol} funding"

    def slice(self, start_ms: int, end_ms: int) -> Funding:
        """The settlements in [start_ms, end_ms); may be empty."""
        at = _within(self.ts, start_ms, end_ms)
        return Funding(self.venue, self.symbol, self.ts[at], self.rate[at])


@dataclass(frozen=True, slots=True, eq=False)
class VolIndex:
    """A volatility index: `ts` (bar open, ms) and `close` in vol points (57: an implied vol of 0.57 a year).

    A close is known only at `known_ms`, when its bar has ended; reading it at `ts` would look ahead. Raises
    DataError for unequal lengths, times that do not rise by a step, closes that are not finite and positive.
    """

    venue: str
    symbol: str
    step_ms: int
    ts: Int64s
    close: Floats

    def __post_init__(self) -> None:
        _freeze(self, self.name, "ts", "close")
        _require_rising(self.name, self.ts, self.step_ms)
        _require_positive(self.name, self.ts, "close", self.close)

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def name(self) -> str:
        """Venue, symbol and bar length, e.g. `deribit BTC-DVOL 1d`."""
        return f"{self.venue} {self.symbol} {timeframe(self.step_ms)}"

    @property
    def known_ms(self) -> Int64s:
        """When each close became known: int64 ms, one per row."""
        return self.ts + self.step_ms

    def in_force(self, times_ms: ArrayLike) -> Floats:
        """The close in force at each instant (ms), in vol points: the latest known, for one step from its `known_ms`.

        Shape as `times_ms`. NaN where no close was known yet, and where the next one is missing: nothing is held on.
        """
        times = np.asarray(times_ms, dtype=np.int64)
        if not len(self):
            return np.full(times.shape, np.nan)
        latest = np.searchsorted(self.known_ms, times, side="right") - 1
        row = np.maximum(latest, 0)
        known = (latest >= 0) & (times < self.known_ms[row] + self.step_ms)
        return np.where(known, self.close[row], np.nan)

    def slice(self, start_ms: int, end_ms: int) -> VolIndex:
        """The bars that open in [start_ms, end_ms); may be empty."""
        at = _within(self.ts, start_ms, end_ms)
        return VolIndex(self.venue, self.symbol, self.step_ms, self.ts[at], self.close[at])


def timeframe(step_ms: int) -> str:
    """A bar length as exchanges write it: 60_000 is `1m`, 3_600_000 is `1h`; odd lengths as `1500ms`."""
    for unit, length in _UNIT_MS.items():
        if step_ms % length == 0 and (unit != "w" or step_ms == length):  # 14 days is 14d, as ccxt has it
            return f"{step_ms // length}{unit}"
    return f"{step_ms}ms"


def timeframe_ms(text: str) -> int:
    """The length in ms of `1m`, `4h`, `1d` ...; raises DataError for the rest (months have no length)."""
    found = re.fullmatch(r"([1-9]\d*)([smhdw])", text)
    if found is None:
        raise DataError(f"timeframe {text!r}: expected a number and s, m, h, d or w, such as 1m or 4h")
    return int(found[1]) * _UNIT_MS[found[2]]


def utc(ts_ms: int) -> str:
    """An instant for people: `2025-10-10T21:00Z`, with seconds only when there are any."""
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ts_ms)
    except OverflowError:  # it serves error messages, and nonsense is what some of them are about
        return f"{ts_ms} ms"
    return at.strftime("%Y-%m-%dT%H:%MZ" if ts_ms % 60_000 == 0 else "%Y-%m-%dT%H:%M:%S.%fZ")


def _freeze(owner: Series | Funding | VolIndex, name: str, *columns: str) -> None:
    """Replaces the columns by read-only copies: `ts` int64, the others float64 and as long as `ts`."""
    for column in columns:
        dtype = np.int64 if column == "ts" else np.float64
        array = _column(name, column, getattr(owner, column), dtype)
        array.flags.writeable = False
        object.__setattr__(owner, column, array)
        if len(array) != len(owner.ts):
            raise DataError(f"{name}: {column} has {len(array)} rows, expected {len(owner.ts)} as in ts")


def _column(
    name: str, column: str, values: ArrayLike, dtype: type[np.int64 | np.float64]
) -> NDArray[np.int64 | np.float64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{name}: {column} must have one dimension, found {array.ndim}")
    if array.size and dtype is np.int64 and array.dtype.kind not in "iu":  # floats would be cut silently
        raise DataError(f"{name}: {column} must be whole milliseconds (int64), found {array.dtype}")
    return array.astype(dtype, copy=True)


def _require_rising(name: str, ts: Int64s, least_ms: int) -> None:
    if least_ms <= 0:
        raise DataError(f"{name}: expected a positive step, found {least_ms} ms")
    rises = np.diff(ts, prepend=ts[:1] - least_ms)
    by = "strictly rising times" if least_ms == 1 else f"times rising by at least {timeframe(least_ms)}"
    _require(name, ts, rises >= least_ms, by, ts)


def _require(name: str, ts: Int64s, good: NDArray[np.bool_], expected: str, found: Int64s | Floats) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(f"{name}, row {row} ({utc(int(ts[row]))}): expected {expected}, found {found[row]}")


def _require_positive(name: str, ts: Int64s, column: str, prices: Floats) -> None:
    _require(name, ts, np.isfinite(prices) & (prices > 0), f"a finite, positive {column}", prices)


def _within(ts: Int64s, start_ms: int, end_ms: int) -> slice:
    first, last = np.searchsorted(ts, [start_ms, end_ms], side="left")
    return slice(int(first), int(last))
