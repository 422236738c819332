"""Where history comes from: one interface, and the hourly figures of six crashes inside the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Literal, Protocol, cast, get_args

import numpy as np

from data_fetch.series import (
    DataError,
    Floats,
    Funding,
    Int64s,
    Kind,
    Series,
    VolIndex,
    timeframe,
    timeframe_ms,
    utc,
)

StoredKind = Literal["trade", "mark", "index", "funding", "dvol"]

_EVER = (-(2**62), 2**62)


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """What is stored of one series inside a span: `rows` from `first_ms` to `last_ms`, `step_ms` apart.

    Times are ms UTC: bar opens, settlements for `funding`. Fewer rows than the span has steps means gaps.
    """

    venue: str
    symbol: str
    kind: StoredKind
    step_ms: int
    first_ms: int
    last_ms: int
    rows: int

    def __str__(self) -> str:
        return f"{self.venue} {self.symbol} {self.kind} {timeframe(self.step_ms)}"


class Store(Protocol):
    """History by symbol and time. Spans are ms UTC, start inclusive, end exclusive; nothing is filled in."""

    @property
    def label(self) -> str:
        """What the figures are, for the reader of a result, e.g. `embedded hourly figures`."""

    def series(self, symbol: str, kind: Kind, timeframe_ms: int | None, start_ms: int, end_ms: int) -> Series:
        """The candles that open in the span, at least one; `timeframe_ms` None means the finest stored.

        Returns what there is, which may be less than the span: see `Series.gaps`. Raises DataError naming
        what is stored when the symbol, the kind, the timeframe or the time is not.
        """

    def funding(self, symbol: str, start_ms: int, end_ms: int) -> Funding | None:
        """The settlements of the span, or None when no rate of this symbol is stored there."""

    def available(self, start_ms: int, end_ms: int) -> tuple[SeriesInfo, ...]:
        """Everything stored inside the span, funding included; empty when nothing is."""


class Samples:
    """A Store of the figures inside this package: six crashes, hour by hour, one text file each.

    Keeps no state of its own (parsed figures are cached per process), so instances are free to make and to
    pickle. A span may reach beyond a window but not into a second one: months of hole between two crashes
    are no history, so that raises DataError.
    """

    @property
    def label(self) -> str:
        return "embedded hourly figures"

    def windows(self) -> tuple[str, ...]:
        """The crash days at hand, e.g. `2025-10-10`, oldest first."""
        return _windows()

    def span(self, window: str) -> tuple[int, int]:
        """(start_ms, end_ms) of a window's hourly figures; raises DataError for a window not at hand."""
        candles = [s for s in _sections(window) if s.kind in get_args(Kind)]
        return min(s.start_ms for s in candles), max(s.end_ms for s in candles)

    def series(self, symbol: str, kind: Kind, timeframe_ms: int | None, start_ms: int, end_ms: int) -> Series:
        """See `Store.series`; the only timeframe is one hour."""
        section = self._one(symbol, kind, start_ms, end_ms)
        if section is None:
            raise DataError(
                f"no {kind} of {symbol} {_between(start_ms, end_ms)} in the {self.label}: "
                f"{self._instead(symbol, start_ms, end_ms)}"
            )
        if timeframe_ms is not None and timeframe_ms != section.step_ms:
            raise DataError(
                f"{symbol} {kind} in the {self.label}: expected the timeframe stored, "
                f"{timeframe(section.step_ms)}, found {timeframe(timeframe_ms)}"
            )
        return _candles(section).slice(start_ms, end_ms)

    def funding(self, symbol: str, start_ms: int, end_ms: int) -> Funding | None:
        """See `Store.funding`."""
        section = self._one(symbol, "funding", start_ms, end_ms)
        return None if section is None else _funding(section).slice(start_ms, end_ms)

    def dvol(self, start_ms: int, end_ms: int) -> VolIndex | None:
        """Daily closes of Deribit's BTC volatility index whose day opens in the span; None before 2022-11-06.

        Each close is known only when its day has ended (`VolIndex.known_ms`), so ask from a day earlier.
        """
        section = self._one("BTC-DVOL", "dvol", start_ms, end_ms)
        return None if section is None else _dvol(section).slice(start_ms, end_ms)

    def available(self, start_ms: int = _EVER[0], end_ms: int = _EVER[1]) -> tuple[SeriesInfo, ...]:
        """See `Store.available`; one entry per window and series, and without bounds all there are."""
        return tuple(info for s in self._all() if (info := s.clipped(start_ms, end_ms)) is not None)

    def _all(self) -> Iterator[_Section]:
        return (section for window in self.windows() for section in _sections(window))

    def _one(self, symbol: str, kind: StoredKind, start_ms: int, end_ms: int) -> _Section | None:
        if start_ms >= end_ms:
            raise DataError(f"{symbol} {kind}: expected start before end, found {_between(start_ms, end_ms)}")
        named = (s for s in self._all() if s.symbol == symbol and s.kind == kind)
        found = [s for s in named if s.clipped(start_ms, end_ms) is not None]
        if len(found) > 1:
            raise DataError(
                f"{symbol} {kind} {_between(start_ms, end_ms)}: expected a span within one window, found "
                + " and ".join(s.window for s in found)
            )
        return found[0] if found else None

    def _instead(self, symbol: str, start_ms: int, end_ms: int) -> str:
        """What there is: the span's series, else the windows that hold the symbol, else all windows."""
        here = self.available(start_ms, end_ms)
        if here:
            return "there is " + ", ".join(str(info) for info in here)
        holding = sorted({s.window for s in self._all() if s.symbol == symbol})
        spans = [f"{w} ({utc(self.span(w)[0])} to {utc(self.span(w)[1])})" for w in holding or self.windows()]
        return f"windows{f' with {symbol}' if holding else ''} are " + ", ".join(spans)


@dataclass(frozen=True, slots=True)
class _Section:
    """One heading of a sample file: what its rows are, and on which lines they stand."""

    window: str
    venue: str
    symbol: str
    kind: StoredKind
    start_ms: int
    step_ms: int
    rows: int
    columns: tuple[str, ...]
    line: int  # index of the first row

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.rows * self.step_ms

    def clipped(self, start_ms: int, end_ms: int) -> SeriesInfo | None:
        """The rows inside the span, without reading them; None when there are none."""
        skipped = max(0, -((self.start_ms - start_ms) // self.step_ms))
        beyond = min(self.rows, -((self.start_ms - end_ms) // self.step_ms))
        if beyond <= skipped:
            return None
        first, last = (self.start_ms + row * self.step_ms for row in (skipped, beyond - 1))
        return SeriesInfo(self.venue, self.symbol, self.kind, self.step_ms, first, last, beyond - skipped)

    def ts(self) -> Int64s:
        return self.start_ms + self.step_ms * np.arange(self.rows, dtype=np.int64)

    def column(self, name: str) -> Floats:
        """One column, parsed from text; NaN throughout when the section has no such column."""
        if name not in self.columns:
            return np.full(self.rows, np.nan)
        at = self.columns.index(name)
        rows = _lines(self.window)[self.line : self.line + self.rows]
        return np.array([float(row.split(",")[at]) for row in rows])


_HEADING = re.compile(
    r"@ (?P<venue>\S+) (?P<symbol>\S+) (?P<kind>\S+) "
    r"start=(?P<start>\S+) step=(?P<step>\S+) rows=(?P<rows>\d+) columns=(?P<columns>\S+)"
)


@lru_cache(maxsize=1)
def _windows() -> tuple[str, ...]:
    files = (resources.files("data_fetch") / "samples").iterdir()
    return tuple(sorted(f.name.removesuffix(".txt") for f in files if f.name.endswith(".txt")))


@lru_cache(maxsize=16)
def _lines(window: str) -> tuple[str, ...]:
    if window not in _windows():
        raise DataError(f"no embedded window {window!r}: there are {', '.join(_windows())}")
    text = (resources.files("data_fetch") / "samples" / f"{window}.txt").read_text(encoding="ascii")
    return tuple(text.splitlines())


@lru_cache(maxsize=16)
def _sections(window: str) -> tuple[_Section, ...]:
    """The headings of a file; each must stand before the rows it promises, so a cut file is noticed."""
    lines = _lines(window)
    found: list[_Section] = []
    at = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    while at < len(lines):
        heading = _HEADING.fullmatch(lines[at])
        if heading is None or heading["kind"] not in get_args(StoredKind):
            raise DataError(f"{window}.txt, line {at + 1}: expected a heading '@ ...', found {lines[at]!r}")
        rows, columns = int(heading["rows"]), tuple(heading["columns"].split(","))
        body = lines[at + 1 : at + 1 + rows]
        if len(body) != rows or any(row.count(",") + 1 != len(columns) for row in body):
            raise DataError(f"{window}.txt, line {at + 1}: expected {rows} rows of {len(columns)} figures")
        start = datetime.strptime(heading["start"], "%Y-%m-%dT%H:%MZ").replace(tzinfo=UTC)
        found.append(
            _Section(
                window=window,
                venue=heading["venue"],
                symbol=heading["symbol"],
                kind=cast("StoredKind", heading["kind"]),
                start_ms=int(start.timestamp()) * 1000,
                step_ms=timeframe_ms(heading["step"]),
                rows=rows,
                columns=columns,
                line=at + 1,
            )
        )
        at += 1 + rows
    return tuple(found)


@lru_cache(maxsize=128)
def _candles(section: _Section) -> Series:
    figures = (section.column(name) for name in ("open", "high", "low", "close", "volume"))
    kind = cast("Kind", section.kind)
    return Series(section.venue, section.symbol, kind, section.step_ms, section.ts(), *figures)


@lru_cache(maxsize=64)
def _funding(section: _Section) -> Funding:
    return Funding(section.venue, section.symbol, section.ts(), section.column("rate"))


@lru_cache(maxsize=16)
def _dvol(section: _Section) -> VolIndex:
    return VolIndex(section.venue, section.symbol, section.step_ms, section.ts(), section.column("close"))


def _between(start_ms: int, end_ms: int) -> str:
    return f"from {utc(start_ms)} until {utc(end_ms)}"
