"""The store on disk and its bookkeeping, without any venue."""

from __future__ import annotations

import base64
import json
import os
import pickle
import string
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_fetch import DataError, Gap, LocalStore, SeriesKey, Store, parse_step
from data_fetch.files import columns_of, content_hash, load_file, merge, partition, partition_span, segment
from data_fetch.local import Page, Writer
from data_fetch.manifest import CONFIRM_MS, Manifest
from data_fetch.spans import chunks, holes, length, minus, union, within
from data_fetch.venues import parse_symbol, venue_named

MINUTE = 60_000
START = 1_759_881_600_000  # 2025-10-08
SWAP = "BTC/USDT:USDT"


def candles(ts: Any, seed: int = 0) -> dict[str, Any]:
    ts = np.asarray(ts, dtype=np.int64)
    rng = np.random.default_rng(seed)
    close = np.round(100 + rng.random(len(ts)), 2)
    return {"ts": ts, "open": close, "high": close + 1, "low": close - 1, "close": close,
            "volume": rng.random(len(ts)), "contracts": rng.random(len(ts)), "quote_volume": rng.random(len(ts))}


def page(lo: int, hi: int, seed: int = 0) -> Page:
    """Minutes lo to hi after START."""
    return Page((START + lo * MINUTE, START + hi * MINUTE), candles(START + MINUTE * np.arange(lo, hi), seed))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def key(store: LocalStore) -> SeriesKey:
    return store.key(SWAP, "trade", MINUTE)


def writer(store: LocalStore, key: SeriesKey) -> Writer:
    return store.writer(key)


# --- rows come back ---


def test_a_window_is_one_call_and_files_are_months(store: LocalStore, key: SeriesKey) -> None:
    w = writer(store, key)
    count = 40_000  # reaches into November
    for lo in range(0, count, 10_000):
        w.commit([page(lo, lo + 10_000, lo)], START)
    rows = store.read(key, START + 5 * MINUTE, START + (count - 5) * MINUTE)
    assert tuple(rows) == columns_of("trade")
    assert rows["ts"].tolist() == list(range(START + 5 * MINUTE, START + (count - 5) * MINUTE, MINUTE))
    assert rows["close"][9_995:19_995].tolist() == page(10_000, 20_000, 10_000).rows["close"].tolist()
    assert sorted(p.name for p in store.folder(key).glob("*.parquet")) == ["2025-10.parquet", "2025-11.parquet"]
    assert store.gaps(key, START, START + count * MINUTE) == []
    assert store.read(key, 0, START)["ts"].dtype == np.int64
    assert len(store.read(store.key("ETH/USDT:USDT", "trade", MINUTE), 0, START)["ts"]) == 0


def test_other_programs_read_the_files_as_they_are(store: LocalStore, key: SeriesKey) -> None:
    import pandas as pd

    writer(store, key).commit([page(0, 100)], START)
    (store.folder(key) / "_2025-09.parquet.damaged").write_text("x")  # what a fetch sets aside
    frame = pd.read_parquet(store.folder(key))
    assert list(frame.columns[:6]) == ["ts", "open", "high", "low", "close", "volume"]
    assert frame["ts"].tolist() == [START + i * MINUTE for i in range(100)]
    assert {"okx", "trade"} <= set((store.folder(key)).parts)


def test_it_is_a_store_that_travels_to_workers(store: LocalStore, key: SeriesKey) -> None:
    writer(store, key).commit([page(0, 100), page(200, 300)], START)
    there: Store = pickle.loads(pickle.dumps(store))
    series = there.series(SWAP, "trade", None, START, START + 300 * MINUTE)
    assert (series.name, len(series)) == (f"okx {SWAP} trade 1m", 200)
    assert series.gaps() == [(START + 100 * MINUTE, START + 200 * MINUTE)]
    (info,) = there.available(START, START + 50 * MINUTE)
    assert (str(info), info.rows) == (f"okx {SWAP} trade 1m", 50)
    assert there.funding(SWAP, START, START + 10) is None
    assert there.label == "downloaded okx history"


def test_what_is_missing_is_said_with_what_there_is(store: LocalStore, key: SeriesKey) -> None:
    writer(store, key).commit([page(0, 100)], START)
    with pytest.raises(DataError, match=r"no okx BTC/USDT:USDT mark 1m .* there is okx .* trade 1m; run bt-margin"):
        store.series(SWAP, "mark", MINUTE, START, START + MINUTE)


def test_an_index_belongs_to_the_pair(store: LocalStore) -> None:
    assert store.key(SWAP, "index", MINUTE) == store.key("BTC/USDT", "index", MINUTE)


def test_funding_is_events(store: LocalStore) -> None:
    key = store.key(SWAP, "funding", MINUTE)
    assert key.step_ms == 0
    ts = START + np.array([0, 8, 12]) * 3_600_000
    rows = {"ts": ts, "rate": np.array([1e-4, -2e-4, 3e-4]), "served_ms": ts + 7}
    writer(store, key).commit([Page((START, START + 86_400_000), rows)], START)
    found = store.funding(SWAP, START, START + 86_400_000)
    assert found is not None
    assert (found.ts.tolist(), found.rate.tolist()) == (ts.tolist(), [1e-4, -2e-4, 3e-4])
    assert (store.folder(key) / "2025.parquet").exists()
    assert store.funding("BTC/USDT", START, START + 1) is None


def test_a_corrected_row_replaces_the_old_one_and_is_counted(store: LocalStore, key: SeriesKey) -> None:
    w = writer(store, key)
    w.commit([page(0, 100)], START)
    changed = page(50, 51)
    changed.rows["close"][0] += 0.5
    changed.rows["high"][0] += 0.5
    assert w.commit([changed], START) == 0
    assert store.read(key, *changed.span)["close"].tolist() == changed.rows["close"].tolist()
    assert store.manifest(key).oddities == {"corrected rows": 1}
    size = store.folder(key) / "2025-10.parquet"
    before = size.stat().st_mtime_ns
    w.commit([changed], START)
    assert size.stat().st_mtime_ns == before  # nothing new, nothing written


# --- interrupted and concurrent writers ---


def test_a_writer_killed_before_the_manifest_leaves_rows_that_count(
    store: LocalStore, key: SeriesKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = writer(store, key)
    w.commit([page(0, 100)], START)

    def killed(self: Writer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            w.commit([page(100, 200)], START)
    assert len(store.read(key, START, START + 200 * MINUTE)["ts"]) == 200
    assert store.gaps(key, START, START + 200 * MINUTE) == [
        Gap(START + 100 * MINUTE, START + 200 * MINUTE, "not asked")
    ]
    (store.folder(key) / ".2025-10.parquet.99.tmp").write_bytes(b"half")
    again = writer(store, key)
    assert again.verify([(START, START + MINUTE)]) == []
    again.commit([page(100, 200)], START)
    assert store.gaps(key, START, START + 200 * MINUTE) == []
    assert not list(store.root.rglob("*.tmp"))


def test_a_failed_write_leaves_the_old_file(
    store: LocalStore, key: SeriesKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = writer(store, key)
    w.commit([page(0, 100)], START)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space .* the old file stands"):
            w.commit([page(100, 200)], START)
    assert len(store.read(key, START, START + 200 * MINUTE)["ts"]) == 100
    assert not list(store.root.rglob("*.tmp"))


def test_readers_see_old_rows_or_new_ones_never_half(store: LocalStore, key: SeriesKey) -> None:
    w = writer(store, key)
    w.commit([page(0, 100)], START)
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            ts = store.read(key, START, START + 10_000 * MINUTE, ["ts"])["ts"]
            assert ts.tolist() == list(range(START, START + len(ts) * MINUTE, MINUTE))
            seen.append(len(ts))

    reader = threading.Thread(target=read)
    reader.start()
    for lo in range(100, 2_000, 100):
        w.commit([page(lo, lo + 100)], START)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert seen[-1] >= 100


def test_one_writer_at_a_time(store: LocalStore, key: SeriesKey) -> None:
    from filelock import Timeout

    with store.lock(key), pytest.raises(Timeout):
        store.lock(key).acquire(timeout=0)
    with store.lock(key):
        pass


def test_a_foreign_file_in_the_folder_does_no_harm(store: LocalStore, key: SeriesKey) -> None:
    writer(store, key).commit([page(0, 100)], START)
    (store.folder(key) / "notes.parquet").write_text("mine")
    (store.folder(key) / "2025-11.parquet").write_text("not Parquet")
    again = writer(store, key)
    assert list(again.manifest.files) == ["2025-10.parquet"]
    assert (store.folder(key) / "notes.parquet").read_text() == "mine"
    assert (store.folder(key) / "_2025-11.parquet.damaged").exists()
    with pytest.raises(DataError, match="expected a Parquet file"):
        load_file(store.folder(key) / "notes.parquet", columns_of("trade"))


def test_the_hash_is_of_the_rows_alone() -> None:
    rows = candles([0, MINUTE])
    rows["volume"][0] = np.nan
    other = {name: values.copy() for name, values in rows.items()}
    other["volume"][0] = -np.float64("nan")
    assert content_hash(rows) == content_hash(other)
    other["close"][1] = np.nextafter(other["close"][1], 1e9)
    assert content_hash(rows) != content_hash(other)


# --- gaps ---


def test_gaps_are_classed(store: LocalStore, key: SeriesKey) -> None:
    w = writer(store, key)
    later = START + CONFIRM_MS

    def at(lo: int, hi: int) -> tuple[int, int]:
        return START + lo * MINUTE, START + hi * MINUTE

    ts = START + MINUTE * np.r_[30:40, 60:70]
    w.commit([Page(at(0, 100), candles(ts), [at(0, 30), at(40, 60), at(70, 100)])], START)
    w.commit([Page(at(40, 50), candles([]), [at(40, 50)])], later)
    w.manifest.listed_ms, w.manifest.horizon_ms, w.manifest.expires_ms = at(10, 30)[0], at(30, 0)[0], at(90, 0)[0]
    w.save()
    assert store.gaps(key, *at(-5, 110)) == [
        Gap(*at(-5, 0), "not asked"),
        Gap(*at(0, 10), "before listing"),
        Gap(*at(10, 30), "beyond horizon"),
        Gap(*at(40, 50), "venue gap"),
        Gap(*at(50, 60), "suspect"),
        Gap(*at(70, 90), "suspect"),
        Gap(*at(90, 100), "after expiry"),
        Gap(*at(100, 110), "not asked"),
    ]


def test_doubts_that_heal_are_forgotten_and_lost_time_is_asked_again(key: SeriesKey) -> None:
    manifest = Manifest(key, "BTC-USDT-SWAP", asked=[(0, 100)])
    manifest.doubt(0, 100, [(10, 30)], 1)
    manifest.doubt(10, 20, [], 2)
    assert [(d.lo, d.hi, d.times) for d in manifest.doubts] == [(20, 30, 1)]
    manifest.doubt(20, 30, [(20, 30)], 1 + CONFIRM_MS)
    assert [(d.times, d.confirmed) for d in manifest.doubts] == [(2, True)]
    manifest.forget(25, 60)
    assert manifest.asked == [(0, 25), (60, 100)]
    assert [(d.lo, d.hi) for d in manifest.doubts] == [(20, 25)]


def test_manifests_read_back(store: LocalStore, key: SeriesKey) -> None:
    w = writer(store, key)
    w.commit([Page((START, START + MINUTE), candles([]), [(START, START + MINUTE)])], 5)
    w.commit([page(1, 100)], 6)
    assert store.manifest(key) == w.manifest
    assert Manifest.load(w.manifest.dump(), "here") == w.manifest
    for text in ("", "{", "[]", '{"schema": 1}', w.manifest.dump().replace('"rows"', '"row"')):
        with pytest.raises(DataError, match="here: expected a manifest"):
            Manifest.load(text, "here")


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../x.parquet": {"rows": 1, "first_ms": 0, "last_ms": 0, "content": "", "size": 1}}},
        {"files": {"notes.parquet": {"rows": 1, "first_ms": 0, "last_ms": 0, "content": "", "size": 1}}},
        {"files": {"2025-10.parquet": {"rows": "1", "first_ms": 0, "last_ms": 0, "content": "", "size": 1}}},
        {"horizon_ms": "x"},
        {"asked": [[0, 1e400]]},
        {"listed_ms": []},
        {"oddities": []},
        {"doubts": [{"lo": "a", "hi": 2, "first_asked": 1, "last_asked": 1, "times": 1}]},
        {"key": {"exchange": "okx", "symbol": "../../x", "kind": "trade", "step_ms": MINUTE}},
        {"key": {"exchange": "../x", "symbol": SWAP, "kind": "trade", "step_ms": MINUTE}},
        {"key": {"exchange": "okx", "symbol": SWAP, "kind": "trade", "step_ms": 0}},
        {"market_id": "ETH-USDT-SWAP"},
    ],
    ids=str,
)
def test_a_manifest_is_whole_or_none(change: dict[str, Any], store: LocalStore, key: SeriesKey) -> None:
    writer(store, key).commit([page(0, 100)], START)
    other = store.key(SWAP, "mark", MINUTE)
    path = store.folder(key) / "_manifest.json"
    data = {**json.loads(path.read_text()), **change}
    sealed = json.dumps(data)
    del data["sha256"]
    for text in (json.dumps(data), sealed):  # by itself, and against its own hash
        path.write_text(text)
        with pytest.raises(DataError, match=r"_manifest\.json: expected a manifest"):
            store.manifest(key)
        assert store.stored() == []  # the others are still listed
        assert [p for p, _ in store.damaged()] == [path]
    writer(store, other).manifest.asked.append((0, 1))
    assert writer(store, key).damaged == ["_manifest.json"]
    assert len(store.read(key, *page(0, 100).span)["ts"]) == 0  # until the rebuilt manifest is written
    writer(store, key).save()
    assert len(store.read(key, *page(0, 100).span)["ts"]) == 100


def test_a_changed_digit_in_a_manifest_is_noticed(store: LocalStore, key: SeriesKey) -> None:
    writer(store, key).commit([page(0, 100)], START)
    path = store.folder(key) / "_manifest.json"
    path.write_text(path.read_text().replace('"expires_ms": null', f'"expires_ms": {START}'))
    with pytest.raises(DataError, match="figures that do not fit its own hash"):
        store.manifest(key)


def test_rows_of_another_series_are_never_taken_for_ones_own(store: LocalStore, key: SeriesKey) -> None:
    eth = store.key("ETH/USDT:USDT", "trade", MINUTE)
    writer(store, key).commit([page(0, 100)], START)
    writer(store, eth).commit([page(0, 200)], START)
    path = store.folder(key) / "2025-10.parquet"
    path.write_bytes((store.folder(eth) / "2025-10.parquet").read_bytes())
    with pytest.raises(DataError, match=r"2025-10\.parquet is damaged"):
        store.read(key, *page(0, 100).span)
    assert writer(store, key).verify([page(0, 100).span]) == ["2025-10.parquet"]
    (store.folder(key) / "_manifest.json").write_bytes((store.folder(eth) / "_manifest.json").read_bytes())
    with pytest.raises(DataError, match=r"the series of its folder, found that of okx ETH/USDT:USDT trade"):
        store.manifest(key)


def test_a_damaged_footer_is_no_crash(store: LocalStore, key: SeriesKey) -> None:
    w = writer(store, key)
    w.commit([page(0, 100)], START)
    path = store.folder(key) / "2025-10.parquet"
    content = w.manifest.files[path.name].content.encode()
    schema = pq.read_metadata(path).metadata[b"ARROW:schema"]  # where Arrow reads the metadata from
    bad = base64.b64encode(base64.b64decode(schema).replace(content, b"\xff" + content[1:]))
    assert len(bad) == len(schema)
    path.write_bytes(path.read_bytes().replace(schema, bad))
    with pytest.raises(DataError, match=r"2025-10\.parquet is damaged"):
        store.read(key, *page(0, 100).span)


# --- names ---

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(names, names)
def test_names_stay_in_their_folder_and_differ_whatever_the_case(a: str, b: str) -> None:
    for text in (a, b):
        safe = segment(text)
        assert set(safe) <= set(string.ascii_uppercase + string.digits + "-%")
        assert Path("root", safe).parent == Path("root")
    if a != b:
        assert segment(a).lower() != segment(b).lower()


@pytest.mark.parametrize("text", ["..", ".", "/etc", "a/b", "a\\b", "CON", "NUL", "COM1", "C:", "x\0", "LPT1.x"])
def test_dangerous_names_are_harmless(text: str) -> None:
    safe = segment(text)
    assert not set(safe) & set("./\\:\0")
    assert safe.upper() not in ("CON", "NUL", "COM1")


@pytest.mark.parametrize("text", ["", "A" * 81])
def test_names_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="1 to 80 characters"):
        segment(text)


@pytest.mark.parametrize(
    "text", ["", "BTC", "btc/usdt", "BTC/USDT:ETH", "../BTC/USDT", "BTC/USDT:USDT-25", "BTC/../USDT", "BTC/USDT\n"]
)
def test_only_unified_symbols_are_symbols(text: str, store: LocalStore) -> None:
    with pytest.raises(DataError, match="unified symbol"):
        store.key(text, "trade", MINUTE)


@pytest.mark.parametrize(
    ("text", "right"),
    [("BTC/USDT:BTC", "BTC/USDT:USDT"), ("BTC/USD:USD", "BTC/USD:BTC"), ("BTC/USD:USD-250328", "BTC/USD:BTC-250328")],
)
def test_a_coin_that_the_venue_does_not_settle_in_is_no_other_contract(
    text: str, right: str, store: LocalStore
) -> None:
    with pytest.raises(DataError, match=f"symbol: expected {right}, .* found '{text}'"):
        store.key(text, "trade", MINUTE)


@pytest.mark.parametrize(
    ("symbol", "kind", "market"),
    [
        ("BTC/USDT", "trade", "BTC-USDT"),
        (SWAP, "mark", "BTC-USDT-SWAP"),
        (SWAP, "index", "BTC-USDT"),
        ("BTC/USD:BTC", "trade", "BTC-USD-SWAP"),
        ("BTC/USDT:USDT-250328", "trade", "BTC-USDT-250328"),
        ("BTC/USD:BTC-250328-100000-C", "mark", "BTC-USD-250328-100000-C"),
    ],
)
def test_okx_ids(symbol: str, kind: Any, market: str) -> None:
    assert venue_named("okx").market_id(parse_symbol(symbol), kind) == market


def test_only_timeframes_that_open_on_utc() -> None:
    assert [parse_step(t) for t in ("1m", "1h", "1d")] == [MINUTE, 60 * MINUTE, 1_440 * MINUTE]
    for text in ("7m", "1w", "8h"):
        with pytest.raises(DataError, match="resample a shorter one"):
            parse_step(text)


# --- spans ---

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


def points(some: Any) -> set[int]:
    return {t for lo, hi in some for t in range(lo, hi)}


@given(spans, spans, st.integers(0, 60), st.integers(0, 60))
def test_spans_are_sets(a: list[tuple[int, int]], b: list[tuple[int, int]], lo: int, hi: int) -> None:
    assert points(union(a)) == points(a)
    assert points(minus(a, b)) == points(a) - points(b)
    assert points(within(a, lo, hi)) == points(a) & set(range(lo, hi))
    assert length(a) == len(points(a))
    joined = union(a)
    assert all(x[1] < y[0] for x, y in pairwise(joined))


@given(st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(0, 30), st.integers(1, 9))
def test_holes_and_chunks(bars: set[int], lo: int, hi: int, size: int) -> None:
    lo, hi = sorted((lo, hi))
    ts = np.array(sorted(bars), dtype=np.int64) * 5
    assert points(holes(ts, 5, lo * 5, hi * 5)) == {
        t for bar in set(range(lo, hi)) - bars for t in range(bar * 5, bar * 5 + 5)
    }
    parts = chunks(lo, hi, size)
    assert points(parts) == set(range(lo, hi))
    assert all(b - a <= size for a, b in parts)


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_merging_keeps_every_time_once_and_the_newer_row(a: set[int], b: set[int]) -> None:
    merged = merge(candles(sorted(a), 1), candles(sorted(b), 2))
    assert merged["ts"].tolist() == sorted(a | b)
    new = dict(zip(sorted(b), candles(sorted(b), 2)["close"], strict=True))
    assert all(close == new[t] for t, close in zip(merged["ts"].tolist(), merged["close"], strict=True) if t in new)


@given(st.integers(0, 4_000_000_000_000), st.sampled_from([0, MINUTE, 60 * MINUTE]))
def test_every_instant_lies_in_the_span_of_its_file(ts: int, step: int) -> None:
    lo, hi = partition_span(partition(step, ts))
    assert lo <= ts < hi
