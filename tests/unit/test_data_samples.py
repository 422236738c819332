"""The embedded figures are the recorded ones to the last digit; what is missing is said, never filled in."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_fetch import DataError, Funding, Samples, Series, Store, VolIndex
from data_fetch.series import timeframe, timeframe_ms, utc

RECORDS = Path("/work/shared/samples")
HOUR = 3_600_000
DAY = 24 * HOUR
WINDOWS = ("2020-03-12", "2021-05-19", "2022-05-09", "2022-11-08", "2024-08-05", "2025-10-10")

samples = Samples()


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def candles(**changed: Any) -> Series:
    """Three hourly bars from 1970-01-01, with some fields replaced."""
    fields: dict[str, Any] = {
        "venue": "okx",
        "symbol": "BTC/USDT",
        "kind": "trade",
        "step_ms": HOUR,
        "ts": [0, HOUR, 2 * HOUR],
        "open": [2.0, 2.0, 2.0],
        "high": [3.0, 3.0, 3.0],
        "low": [1.0, 1.0, 1.0],
        "close": [2.0, 2.0, 2.0],
        "volume": [0.0, 1.0, np.nan],
    }
    return Series(**(fields | changed))


def at(ts: list[int], step_ms: int) -> Series:
    ones = np.ones(len(ts))
    return Series("x", "A/B", "trade", step_ms, np.array(ts, dtype=np.int64), ones, ones, ones, ones, ones)


# --- the figures ---


def records(path: Path, *key: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            groups[tuple(row[name] for name in key)].append(row)
    return groups


def times(rows: list[dict[str, str]]) -> list[int]:
    return [ms(row["time"].removesuffix("Z")) for row in rows]


@pytest.mark.skipif(not RECORDS.is_dir(), reason=f"the records behind the samples are not at {RECORDS}")
class TestEveryFigureIsTheRecordedOne:
    @pytest.mark.parametrize("window", WINDOWS)
    def test_candles(self, window: str) -> None:
        groups = records(RECORDS / f"{window}_hourly.csv", "venue", "symbol", "kind")
        for (venue, symbol, kind), rows in groups.items():
            series = samples.series(symbol, kind, HOUR, *samples.span(window))  # type: ignore[arg-type]
            assert (series.venue, series.step_ms) == (venue, HOUR)
            assert series.ts.tolist() == times(rows)
            for column in ("open", "high", "low", "close", "volume"):
                recorded = [float(row[column] or "nan") for row in rows]
                np.testing.assert_array_equal(getattr(series, column), recorded)

    @pytest.mark.parametrize("window", WINDOWS)
    def test_funding(self, window: str) -> None:
        for (venue, symbol), rows in records(RECORDS / f"{window}_funding.csv", "venue", "symbol").items():
            funding = samples.funding(symbol, *samples.span(window))
            assert funding is not None
            assert funding.venue == venue
            assert funding.ts.tolist() == times(rows)
            assert funding.rate.tolist() == [float(row["rate"]) for row in rows]

    @pytest.mark.parametrize("path", sorted(RECORDS.glob("*_dvol.csv")), ids=lambda p: p.name)
    def test_dvol(self, path: Path) -> None:
        start, end = samples.span(path.name[:10])
        dvol = samples.dvol(start - DAY, end)
        rows = records(path, "venue", "index")[("deribit", "BTC-DVOL")]
        assert dvol is not None
        assert dvol.ts.tolist() == times(rows)
        assert dvol.close.tolist() == [float(row["close"]) for row in rows]

    def test_nothing_else_is_stored(self) -> None:
        recorded = sum(len(path.read_text().splitlines()) - 1 for path in RECORDS.glob("*.csv"))
        assert sum(info.rows for info in samples.available()) == recorded


def test_windows_and_their_spans() -> None:
    assert samples.windows() == WINDOWS
    assert samples.span("2025-10-10") == (ms("2025-10-05"), ms("2025-10-14"))
    assert samples.span("2022-05-09") == (ms("2022-05-05"), ms("2022-05-15"))


def test_the_hour_of_the_largest_liquidation() -> None:
    hour = ms("2025-10-10T21:00")
    mark = samples.series("BTC/USDT:USDT", "mark", None, hour, hour + HOUR)
    assert (mark.venue, len(mark), mark.name) == ("okx", 1, "okx BTC/USDT:USDT mark 1h")
    assert (mark.low[0], mark.close[0]) == (101572.1, 112852.7)
    assert np.isnan(mark.volume[0])
    whole = samples.series("BTC/USDT:USDT", "mark", HOUR, *samples.span("2025-10-10"))
    assert whole.ts[np.argmin(whole.low)] == hour
    assert samples.series("BTC/USDT:USDT", "trade", None, hour, hour + HOUR).low[0] == 101045.9


@pytest.mark.parametrize(
    ("window", "symbol", "kind", "low"),
    [
        ("2020-03-12", "BTC/USDT", "trade", 3782.13),
        ("2020-03-12", "BTC/USDT:USDT", "trade", 3621.81),
        ("2021-05-19", "BTC/USDT", "trade", 30000.0),
        ("2021-05-19", "BTC/USDT:USDT", "trade", 28688.0),
        ("2022-05-09", "BTC/USDT", "trade", 26700.0),
    ],
)
def test_lows_everybody_remembers(window: str, symbol: str, kind: Any, low: float) -> None:
    assert samples.series(symbol, kind, None, *samples.span(window)).low.min() == low


def test_funding_is_known_where_it_was_recorded_and_none_elsewhere() -> None:
    span = samples.span("2025-10-10")
    funding = samples.funding("BTC/USDT:USDT", *span)
    assert funding is not None
    assert (funding.venue, len(funding)) == ("bybit", 27)
    assert funding.ts[0] == span[0]
    assert set(np.diff(funding.ts)) == {8 * HOUR}
    assert samples.funding("XRP/USDT:USDT", *span) is None
    assert samples.funding("BTC/USDT:USDT", *samples.span("2020-03-12")) is None
    assert samples.funding("BTC/USDT:USDT", span[0] + 1, span[0] + HOUR) is None


def test_delisted_coins_end_and_are_not_filled() -> None:
    start, end = samples.span("2022-05-09")
    for symbol in ("LUNA/USDT", "UST/USDT"):
        series = samples.series(symbol, "trade", None, start, end)
        assert (len(series), int(series.ts[-1])) == (193, ms("2022-05-13"))
        assert series.gaps() == []
        assert series.gaps(start, end) == [(ms("2022-05-13T01:00"), end)]
    with pytest.raises(DataError, match="no trade of LUNA/USDT from 2022-05-14T00:00Z"):
        samples.series("LUNA/USDT", "trade", None, ms("2022-05-14"), end)


def test_dvol_is_known_only_after_its_day() -> None:
    start, end = samples.span("2025-10-10")
    dvol = samples.dvol(start - DAY, end)
    assert dvol is not None
    assert (dvol.name, len(dvol)) == ("deribit BTC-DVOL 1d", 10)
    assert dvol.close[np.searchsorted(dvol.known_ms, start, side="right") - 1] == 38.03
    assert samples.dvol(*samples.span("2022-05-09")) is None


# --- the store ---


def test_what_is_available_says_venue_kind_and_rows() -> None:
    start, end = samples.span("2022-11-08")
    here = {str(info): info for info in samples.available(start, end)}
    assert set(here) == {
        "binance BTC/USDT trade 1h",
        "binance ETH/USDT trade 1h",
        "binance FTT/USDT trade 1h",
        "okx BTC/USDT:USDT trade 1h",
        "okx ETH/USDT:USDT trade 1h",
        "okx SOL/USDT:USDT trade 1h",
        "okx BTC/USDT:USDT mark 1h",
        "okx ETH/USDT:USDT mark 1h",
        "okx SOL/USDT:USDT mark 1h",
        "binance BTC/USDT:USDT funding 8h",
        "deribit BTC-DVOL dvol 1d",
    }
    mark = here["okx SOL/USDT:USDT mark 1h"]
    assert (mark.first_ms, mark.last_ms, mark.rows) == (start, end - HOUR, 216)
    assert samples.available(ms("2023-01-01"), ms("2023-02-01")) == ()


@given(st.integers(-30 * HOUR, 300 * HOUR), st.integers(1, 300 * HOUR))
def test_available_counts_what_a_lookup_returns(offset: int, length: int) -> None:
    start = samples.span("2022-05-09")[0] + offset
    infos = [i for i in samples.available(start, start + length) if i.symbol == "LUNA/USDT"]
    if not infos:
        with pytest.raises(DataError):
            samples.series("LUNA/USDT", "trade", None, start, start + length)
        return
    series = samples.series("LUNA/USDT", "trade", None, start, start + length)
    assert [(i.first_ms, i.last_ms, i.rows) for i in infos] == [(int(series.ts[0]), int(series.ts[-1]), len(series))]


@pytest.mark.parametrize(
    ("symbol", "kind", "step", "span", "message"),
    [
        (
            "BTC/USDT:USDT",
            "mark",
            None,
            ("2020-03-07", "2020-03-16"),
            "no mark of BTC/USDT:USDT from 2020-03-07T00:00Z until 2020-03-16T00:00Z in the "
            "embedded hourly figures: "
            "there is binance BTC/USDT trade 1h, binance ETH/USDT trade 1h, binance BTC/USDT:USDT trade 1h, "
            "bybit BTC/USD:BTC funding 8h",
        ),
        (
            "UST/USDT",
            "trade",
            None,
            ("2023-01-01", "2023-01-02"),
            "no trade of UST/USDT from 2023-01-01T00:00Z until 2023-01-02T00:00Z in the "
            "embedded hourly figures: "
            "windows with UST/USDT are 2022-05-09 (2022-05-05T00:00Z to 2022-05-15T00:00Z)",
        ),
        (
            "BTC/USDT",
            "trade",
            60_000,
            ("2025-10-10", "2025-10-11"),
            "BTC/USDT trade in the embedded hourly figures: expected the timeframe stored, 1h, found 1m",
        ),
        (
            "BTC/USDT",
            "trade",
            None,
            ("2022-05-09", "2022-11-08"),
            "BTC/USDT trade from 2022-05-09T00:00Z until 2022-11-08T00:00Z: expected a span within one window, "
            "found 2022-05-09 and 2022-11-08",
        ),
        (
            "BTC/USDT",
            "trade",
            None,
            ("2022-05-09", "2022-05-09"),
            "BTC/USDT trade: expected start before end, found from 2022-05-09T00:00Z until 2022-05-09T00:00Z",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_there_is(
    symbol: str, kind: Any, step: int | None, span: tuple[str, str], message: str
) -> None:
    with pytest.raises(DataError) as raised:
        samples.series(symbol, kind, step, ms(span[0]), ms(span[1]))
    assert str(raised.value) == message


def test_an_unknown_window_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="no embedded window '2020-03-13': there are 2020-03-12, 2021-05-19"):
        samples.span("2020-03-13")
    with pytest.raises(DataError, match="no embedded window"):
        samples.span("../series")


def test_samples_are_a_store_that_travels_to_workers() -> None:
    store: Store = pickle.loads(pickle.dumps(Samples()))
    assert store.label == "embedded hourly figures"
    start, end = ms("2024-08-05"), ms("2024-08-06")
    copy = pickle.loads(pickle.dumps(store.series("ETH/USDT:USDT", "trade", None, start, end)))
    assert copy.close.tolist() == samples.series("ETH/USDT:USDT", "trade", None, start, end).close.tolist()


def test_importing_is_cheap_and_knows_nothing_of_margins() -> None:
    code = (
        "import sys, data_fetch; "
        "heavy = {'pandas', 'pyarrow', 'ccxt', 'backtrader', 'bt_margin'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the values ---


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "last"}, "expected a kind of trade, mark, index, found 'last'"),
        ({"step_ms": 0}, "expected a positive step, found 0 ms"),
        ({"close": [2.0, 2.0]}, "close has 2 rows, expected 3 as in ts"),
        ({"ts": [0.0, 1.5, 2.5]}, "ts must be whole milliseconds (int64), found float64"),
        ({"open": [[2.0], [2.0], [2.0]]}, "open must have one dimension, found 2"),
        ({"ts": [0, 2 * HOUR, HOUR]}, "row 2 (1970-01-01T01:00Z): expected times rising by at least 1h"),
        ({"ts": [0, HOUR, HOUR]}, "row 2 (1970-01-01T01:00Z): expected times rising by at least 1h"),
        ({"ts": [0, HOUR, 2 * HOUR - 1]}, "row 2 (1970-01-01T01:59:59.999000Z): expected times rising"),
        ({"low": [1.0, 0.0, 1.0]}, "row 1 (1970-01-01T01:00Z): expected a finite, positive low, found 0.0"),
        ({"high": [3.0, 3.0, np.inf]}, "row 2 (1970-01-01T02:00Z): expected a finite, positive high"),
        ({"close": [np.nan, 2.0, 2.0]}, "row 0 (1970-01-01T00:00Z): expected a finite, positive close"),
        ({"low": [1.0, 2.1, 1.0]}, "row 1 (1970-01-01T01:00Z): expected a low at or below open and close"),
        ({"high": [1.9, 3.0, 3.0]}, "row 0 (1970-01-01T00:00Z): expected a high at or above open and close"),
        ({"volume": [0.0, -1.0, 0.0]}, "row 1 (1970-01-01T01:00Z): expected a volume of 0 or more, or NaN"),
    ],
)
def test_candles_that_contradict_themselves_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as raised:
        candles(**changed)
    assert message in str(raised.value)
    assert str(raised.value).startswith("okx BTC/USDT")


def test_funding_and_vol_are_checked_too() -> None:
    with pytest.raises(DataError, match=r"bybit A/B:B funding, row 1 .*: expected a finite rate, found nan"):
        Funding("bybit", "A/B:B", np.array([0, 1]), np.array([0.1, np.nan]))
    with pytest.raises(DataError, match=r"row 1 .*: expected strictly rising times, found 0"):
        Funding("bybit", "A/B:B", np.array([0, 0]), np.array([0.1, 0.1]))
    with pytest.raises(DataError, match=r"deribit V 1d, row 0 .*: expected a finite, positive close"):
        VolIndex("deribit", "V", DAY, np.array([0]), np.array([0.0]))


def test_a_series_is_a_read_only_copy() -> None:
    closes = np.array([2.0, 2.0, 2.0])
    series = candles(close=closes)
    closes[0] = 9.0
    assert series.close[0] == 2.0
    with pytest.raises(ValueError, match="read-only"):
        series.close[0] = 9.0


def test_cached_figures_cannot_be_spoilt_by_a_reader() -> None:
    span = samples.span("2020-03-12")
    with pytest.raises(ValueError, match="read-only"):
        samples.series("BTC/USDT", "trade", None, *span).close[0] = 1.0


STEP = 3
bars = st.lists(st.integers(0, 5), max_size=12).map(
    lambda holes: np.cumsum([hole + STEP for hole in holes], dtype=np.int64).tolist()
)
instants = st.integers(-5, 110)


@given(bars, instants, instants)
def test_a_slice_holds_exactly_the_bars_that_open_inside(ts: list[int], start: int, end: int) -> None:
    assert at(ts, STEP).slice(start, end).ts.tolist() == [t for t in ts if start <= t < end]


@given(bars, instants, instants, instants)
def test_slices_of_neighbouring_spans_join_without_loss(ts: list[int], a: int, b: int, c: int) -> None:
    start, middle, end = sorted((a, b, c))
    series = at(ts, STEP)
    joined = series.slice(start, middle).ts.tolist() + series.slice(middle, end).ts.tolist()
    assert joined == series.slice(start, end).ts.tolist()


@given(bars, instants, instants)
def test_gaps_are_the_time_no_bar_covers(ts: list[int], start: int, end: int) -> None:
    covered = {t + i for t in ts for i in range(STEP)}
    gaps = at(ts, STEP).gaps(start, end)
    assert [t for a, b in gaps for t in range(a, b)] == [t for t in range(start, end) if t not in covered]
    assert all(a < b for a, b in gaps)


@given(bars)
def test_gaps_without_bounds_lie_between_bars(ts: list[int]) -> None:
    spans = [(a + STEP, b) for a, b in pairwise(ts) if b > a + STEP]
    assert at(ts, STEP).gaps() == spans


@given(st.integers(1, 10_000), st.sampled_from("smhd"))
def test_timeframes_read_back(count: int, unit: str) -> None:
    length = timeframe_ms(f"{count}{unit}")
    assert timeframe_ms(timeframe(length)) == length


@pytest.mark.parametrize("text", ["", "h", "0h", "1M", "1 h", "-1h", "1h ", "1.5h"])
def test_what_is_no_timeframe_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected a number and s, m, h, d or w"):
        timeframe_ms(text)


def test_instants_are_written_for_people() -> None:
    assert [timeframe(x) for x in (60_000, HOUR, DAY, 7 * DAY, 14 * DAY, 1_500)] == [
        "1m",
        "1h",
        "1d",
        "1w",
        "14d",
        "1500ms",
    ]
    assert utc(ms("2025-10-10T21:00")) == "2025-10-10T21:00Z"
    assert utc(2**62) == f"{2**62} ms"
