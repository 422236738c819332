"""numpy-backed feeds: trade prices, marks, index and funding of one instrument on one clock.

Exchange candles carry their open time; bars are shown at their close, so that a 1h feed beside a 1m feed does not
look ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import backtrader as bt
import numpy as np
from numpy.typing import NDArray

from bt_margin.engine.accrual import FundingSeries
from bt_margin.errors import InputError
from bt_margin.model.instrument import Kind, parse
from bt_margin.model.moment import DAY, HOUR, MINUTE, iso
from bt_margin.model.number import LARGEST, SMALLEST
from bt_margin.plugin.array_feed import MARKS, ArrayFeed

if TYPE_CHECKING:
    import pandas as pd

    from data_fetch import LocalStore, Samples, Series

CANDLE = ("open", "high", "low", "close")
Holes = Literal["raise", "drop", "flat"]
_MARK = {"open": "mark_open", "high": "mark_high", "low": "mark_low", "close": "mark"}


def from_samples(
    window: str,
    symbols: Sequence[str],
    *,
    store: Samples | None = None,
    perpetual_from_spot: bool = False,
    since: int | None = None,
    until: int | None = None,
) -> list[ArrayFeed]:
    """Feeds of the embedded hourly figures: one per symbol, in the order asked.

    With `perpetual_from_spot` the spot pair stands in for a perpetual that has no trades and no marks of its own;
    the feed's `source` says so. Raises data_fetch.DataError where there is no data.
    """
    from data_fetch import Samples

    samples = store or Samples()
    start, end = samples.span(window) if since is None or until is None else (since, until)
    return [_from_store(samples, symbol, start, end, perpetual_from_spot) for symbol in symbols]


def _from_store(samples: Samples, symbol: str, start: int, end: int, from_spot: bool) -> ArrayFeed:
    have = {(info.symbol, info.kind) for info in samples.available(start, end)}
    parts = parse(symbol)
    pair = f"{parts.base}/{parts.quote}"
    notes = []
    if (symbol, "trade") in have:
        trade = samples.series(symbol, "trade", None, start, end)
    elif (symbol, "mark") in have:
        trade = samples.series(symbol, "mark", None, start, end)
        notes.append("last prices: the mark stands in")
    elif from_spot and parts.kind is not Kind.SPOT and (pair, "trade") in have:
        trade = samples.series(pair, "trade", None, start, end)
        notes.append(f"perpetual: the spot pair {pair} stands in")
    else:
        trade = samples.series(symbol, "trade", None, start, end)  # raises, naming what there is
    notes.insert(0, trade.venue)
    mark = samples.series(symbol, "mark", None, start, end) if (symbol, "mark") in have else None
    columns = {name: np.asarray(getattr(trade, name)) for name in (*CANDLE, "volume")}
    if mark is not None:
        notes.append(f"marks {mark.venue}")
        columns.update(_marks(trade.ts, mark.ts, {n: np.asarray(getattr(mark, n)) for n in CANDLE}))
    funding = None
    if parts.kind is not Kind.SPOT:
        funding = _funding(samples, symbol, parts.base, start, end)
        if funding is not None:
            notes.append(f"funding of {funding.of or symbol}")
    return make_feed(symbol, columns, np.asarray(trade.ts), trade.step_ms, funding, ", ".join(notes))


def _funding(samples: Samples, symbol: str, base: str, start: int, end: int) -> FundingSeries | None:
    """The contract's own rates; else another contract's of the same coin; else none (counted by the engine)."""
    for name in (symbol, *(f"{base}/{q}:{s}" for q, s in (("USDT", "USDT"), ("USDC", "USDC"), ("USD", base)))):
        found = samples.funding(name, start, end + 1)
        if found is not None and len(found):
            return FundingSeries(found.ts, found.rate, "" if name == symbol else name)
    return None


def from_store(
    store: str | Path | LocalStore,
    symbols: Sequence[str],
    *,
    window: str | None = None,
    since: int | str | None = None,
    until: int | str | None = None,
    timeframe: str | None = None,
    holes: Holes = "raise",
) -> list[ArrayFeed]:
    """Feeds of downloaded history, one per symbol: trade, mark, index and funding on the clock of the trades.

    `window`: a crash's day; or `since` inclusive, `until` exclusive, ms or UTC text. `timeframe` None: the finest that
    is stored. What is done where bars are missing: `raise` says where; `drop` shows no bar for a missing trade and no
    price for a missing mark or index; `flat` repeats the last close, without volume. The feed's `holes` counts the
    missing bars by kind, and its `source` (which reports print) names them. A kind that is not stored at all is no
    hole: stand-ins apply.
    Raises data_fetch.DataError where there is no data.
    """
    from bt_margin.model.moment import parse_time
    from data_fetch import LocalStore, Samples, parse_step

    if window is not None and since is None and until is None:
        since, until = Samples().span(window)
    if since is None or until is None:
        raise InputError("from_store: expected a window, or since and until; found neither")
    if holes not in ("raise", "drop", "flat"):
        raise InputError(f"holes: expected raise, drop or flat, found {holes!r}")
    local = store if isinstance(store, LocalStore) else LocalStore(store)
    start = since if isinstance(since, int) else parse_time(since, "since")
    end = until if isinstance(until, int) else parse_time(until, "until")
    if start >= end:
        raise InputError(f"until: expected a moment after {since}, found {until}")
    step = None if timeframe is None else parse_step(timeframe)
    return [_merged(local, symbol, step, start, end, holes) for symbol in symbols]


def _merged(store: LocalStore, symbol: str, step: int | None, start: int, end: int, holes: Holes) -> ArrayFeed:
    parts = parse(symbol)
    pair = f"{parts.base}/{parts.quote}"
    trade = store.series(symbol, "trade", step, start, end)
    clock = np.arange(start + -start % trade.step_ms, end, trade.step_ms, dtype=np.int64)
    clock = clock[clock + trade.step_ms <= end]
    counts: dict[str, int] = {}
    columns: dict[str, NDArray[np.float64]] = {}
    wanted = [("trade", symbol), ("index", pair)] + ([] if parts.kind is Kind.SPOT else [("mark", symbol)])
    for kind, name in wanted:
        if not store.coverage(name, kind, trade.step_ms, start, end):
            continue
        series = trade if kind == "trade" else store.series(name, kind, trade.step_ms, start, end)  # type: ignore[arg-type]
        missing = len(clock) - len(series)
        if missing and holes == "raise":
            first = series.gaps(start, end)[0]
            raise InputError(
                f"{series.name}: expected {len(clock)} bars, {missing} are missing, the first from {iso(first[0])} to "
                f"{iso(first[1])}; fetch again, or choose holes=\"drop\" or \"flat\""
            )
        if missing:
            counts[kind] = missing
        candles = _on_clock(clock, series, flat=holes == "flat")
        if kind == "trade":
            columns |= candles
        elif kind == "mark":
            columns |= {_MARK[name]: candles[name] for name in CANDLE}
        else:
            columns["index"] = candles["close"]
    shown = np.isfinite(columns["close"])  # a trade that is missing at the very start cannot be filled
    columns = {name: values[shown] for name, values in columns.items()}
    notes = [f"{trade.venue} {_timeframe_text(trade.step_ms)}"]
    if "mark" in columns:
        notes.append("marks")
    if "index" in columns:
        notes.append("index")
    funding = None if parts.kind is Kind.SPOT else store.funding(symbol, start, end + 1)
    if funding is not None:
        notes.append("funding")
    done = {"drop": "left out", "flat": "held flat", "raise": ""}[holes]
    notes += [f"{count} of {len(clock)} {kind} bars missing, {done}" for kind, count in counts.items()]
    rates = None if funding is None else FundingSeries(funding.ts, funding.rate)
    feed = make_feed(symbol, columns, clock[shown], trade.step_ms, rates, ", ".join(notes))
    feed.holes = counts
    return feed


def _on_clock(clock: NDArray[np.int64], series: Series, flat: bool) -> dict[str, NDArray[np.float64]]:
    """A series' columns on a clock that holds its own; where it has no bar NaN, or the last close held flat."""
    columns = {name: _aligned(clock, series.ts, np.asarray(getattr(series, name))) for name in (*CANDLE, "volume")}
    if flat:
        missing = np.isnan(columns["close"])
        last = np.maximum.accumulate(np.where(missing, -1, np.arange(len(clock))))
        held = np.where(last >= 0, columns["close"][last], np.nan)
        for name in CANDLE:
            columns[name][missing] = held[missing]
        columns["volume"][missing] = 0.0
    return columns


def _timeframe_text(step: int) -> str:
    from data_fetch.series import timeframe

    return timeframe(step)


def from_dataframe(
    df: pd.DataFrame,
    symbol: str,
    timeframe: str = "1h",
    stamp: str = "open",
    mark: pd.DataFrame | pd.Series | None = None,
    index: pd.Series | None = None,
    funding: pd.Series | None = None,
) -> ArrayFeed:
    """A feed from a frame with a UTC index and columns open, high, low, close, volume (volume optional).

    `stamp`: whether the index holds the candles' open (as exchanges deliver) or close. `mark`: candles on the same
    index, or a Series of closes; `index`: a Series; `funding`: a Series of rates at their settlement times.
    Raises InputError for NaN, prices not above zero, an index that does not rise or is not on the time frame.
    """
    step = _timeframe_ms(timeframe)
    if stamp not in ("open", "close"):
        raise InputError(f"stamp: expected open or close, found {stamp!r}")
    missing = [name for name in CANDLE if name not in df.columns]
    if missing:
        raise InputError(f"from_dataframe: expected columns open high low close, {missing[0]} is missing")
    stamps = _index_ms(df.index, symbol)
    columns = {name: _prices(df[name], f"{symbol} {name}") for name in CANDLE}
    if np.any(columns["low"] > np.minimum(columns["open"], columns["close"])) or np.any(
        columns["high"] < np.maximum(columns["open"], columns["close"])
    ):
        raise InputError(f"{symbol}: a candle's low or high lies inside its open and close; repair the data")
    volume = df["volume"] if "volume" in df.columns else None
    columns["volume"] = np.zeros(len(df)) if volume is None else _floats(volume, f"{symbol} volume")
    if mark is not None:
        if getattr(mark, "ndim", 1) == 1:
            closes = _prices(mark, f"{symbol} mark")
            candles = {"open": np.concatenate([closes[:1], closes[:-1]]), "close": closes}
            candles["high"] = np.maximum(candles["open"], closes)
            candles["low"] = np.minimum(candles["open"], closes)
        else:
            candles = {name: _prices(mark[name], f"{symbol} mark {name}") for name in CANDLE}
        columns.update(_marks(stamps, _index_ms(mark.index, f"{symbol} mark"), candles))
    if index is not None:
        columns["index"] = _aligned(stamps, _index_ms(index.index, f"{symbol} index"),
                                    _prices(index, f"{symbol} index"))
    rates = None
    if funding is not None:
        rates = FundingSeries(_index_ms(funding.index, f"{symbol} funding"), _floats(funding, f"{symbol} funding"))
    opens = stamps if stamp == "open" else stamps - step
    return make_feed(symbol, columns, opens, step, rates, "data frame")


def make_feed(symbol: str, columns: dict[str, NDArray[np.float64]], open_ms: NDArray[np.int64], step: int,
          funding: FundingSeries | None, source: str) -> ArrayFeed:
    """An ArrayFeed of columns on a clock; marks, index and forward are NaN where they are not given."""
    if not len(open_ms):
        raise InputError(f"{symbol}: expected at least one bar, found none; widen the window")
    unknown = np.full(len(open_ms), np.nan)
    unknown.flags.writeable = False  # one array stands for all that is not given
    filled = {**dict.fromkeys(MARKS, unknown), **columns}
    timeframe, compression = _bt_timeframe(step)
    make: Any = ArrayFeed  # backtrader parameters are unknown to type checkers
    return make(  # type: ignore[no-any-return]
        dataname=symbol, name=symbol, columns=filled, close_ms=np.asarray(open_ms, dtype=np.int64) + step,
        funding=funding, source=source, timeframe=timeframe, compression=compression,
    )


def _marks(ts: NDArray[np.int64], mark_ts: NDArray[np.int64],
           candles: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {_MARK[name]: _aligned(ts, mark_ts, values) for name, values in candles.items()}


def _aligned(ts: NDArray[np.int64], other: NDArray[np.int64],
             values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values on another clock at exactly these times; NaN where there is none (the last price stands in)."""
    at = np.searchsorted(other, ts)
    inside = np.minimum(at, max(len(other) - 1, 0))
    found = np.full(len(ts), np.nan)
    if len(other):
        hit = other[inside] == ts
        found[hit] = values[inside[hit]]
    return found


def _floats(values: Any, what: str) -> NDArray[np.float64]:
    """Real numbers as float64. Raises InputError for texts, dates, truths and complex numbers."""
    array = np.asarray(values)
    try:
        if array.ndim != 1 or array.dtype.kind not in "iufO":
            raise ValueError
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what}: expected one row of numbers, found {array.dtype}; repair the data") from None


def _prices(values: Any, what: str) -> NDArray[np.float64]:
    array = _floats(values, what)
    bad = ~((array >= SMALLEST) & (array <= LARGEST))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{what}: expected finite prices above zero, found {array[row]} in row {row}; repair the data")
    return array


def _index_ms(index: Any, what: str) -> NDArray[np.int64]:
    if getattr(getattr(index, "dtype", None), "kind", "") != "M" and not hasattr(index, "tz_convert"):
        raise InputError(f"{what}: expected a DatetimeIndex in UTC")
    if getattr(index, "tz", None) is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    stamps = np.asarray(index.values.astype("datetime64[ms]").astype(np.int64))
    if len(stamps) and not (stamps.min() >= 0 and stamps.max() < _END_OF_DATES):
        raise InputError(f"{what}: expected times from 1970 to 2262, found none or others; repair the index")
    if len(stamps) > 1 and np.any(np.diff(stamps) <= 0):
        raise InputError(f"{what}: times must rise strictly; sort the index and drop duplicates")
    return stamps


_END_OF_DATES = 9_214_646_400_000  # 2262-01-01, about where pandas' own nanoseconds end
_LONGEST = 366 * DAY
_UNITS = {"s": 1_000, "m": MINUTE, "h": HOUR, "d": DAY}


def _timeframe_ms(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit()) or int(number) < 1 or unit not in _UNITS:
        raise InputError(f"timeframe: expected such as 1m, 5m, 1h or 1d, found {text!r}")
    step = int(number) * _UNITS[unit]
    if step > _LONGEST:
        raise InputError(f"timeframe: expected at most a year, found {text[:40]!r}")
    return step


def _bt_timeframe(step: int) -> tuple[int, int]:
    for unit, kind in ((DAY, bt.TimeFrame.Days), (MINUTE, bt.TimeFrame.Minutes), (1_000, bt.TimeFrame.Seconds)):
        if step % unit == 0:
            return kind, step // unit
    raise InputError(f"timeframe: bars of {step} ms are not whole seconds")


__all__ = ["ArrayFeed", "from_dataframe", "from_samples", "from_store"]
