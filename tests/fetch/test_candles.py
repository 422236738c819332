"""Candles through the real ccxt client: exact, across outages, whatever the venue does to an answer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_fetch.client import Settings
from data_fetch.download import fetch, series_of
from data_fetch.local import LocalStore
from data_fetch.manifest import Gap
from data_fetch.series import DataError

from .conftest import COUNT, MARKS, NOW, OUTAGE, REAL, START, SWAP, TRADES, get, one, outside, settings
from .okx_wire import FAULTS, LIMITS, MINUTE, OkxServer

PATHS = {"trade": "history-candles", "mark": "history-mark-price-candles", "index": "history-index-candles"}
SPAN = (START, START + COUNT * MINUTE)


def rows(root: Path, kind: str = "trade") -> dict[str, Any]:
    store = LocalStore(root)
    return store.read(store.key(SWAP, kind, MINUTE), *SPAN)


def test_ten_thousand_minutes_come_back_exactly(okx: OkxServer, tmp_path: Path) -> None:
    outcome = one(okx, tmp_path)
    found = rows(tmp_path)
    assert found["ts"].tolist() == REAL[:, 0].astype(np.int64).tolist()
    for i, name in enumerate(("open", "high", "low", "close", "volume"), start=1):
        assert found[name].tolist() == REAL[:, i].tolist(), name
    assert found["contracts"].tolist() == [float(r[5]) for r in TRADES]
    assert (outcome.rows, outcome.gaps, outcome.complete, outcome.retries) == (COUNT, [], True, {})
    assert okx.requests["history-candles"] <= 34 + 1  # and one that asks whether there is anything older
    asked = [q for _, name, q in okx.log if name == "history-candles" and "before" in q]
    assert all(int(q["after"]) - int(q["before"]) - 1 <= 300 * MINUTE for q in asked)


@pytest.mark.parametrize("kind", ["trade", "mark", "index"])
def test_an_outage_longer_than_a_page_does_not_end_the_walk(kind: str, okx: OkxServer, tmp_path: Path) -> None:
    for (path, name), candles in list(okx.candles.items()):
        okx.candles[path, name] = outside(candles, *OUTAGE)
    outcome = one(okx, tmp_path, kind)
    found = rows(tmp_path, kind)["ts"]
    assert found.tolist() == [int(r[0]) for r in outside(TRADES, *OUTAGE)]
    assert outcome.gaps == [Gap(*OUTAGE, "suspect")]
    assert outcome.complete  # the venue was asked for all of it, twice where nothing came


def test_a_hole_is_the_venues_when_it_is_still_there_later(okx: OkxServer, tmp_path: Path) -> None:
    okx.candles["history-candles", "BTC-USDT-SWAP"] = outside(TRADES, *OUTAGE)
    one(okx, tmp_path)
    before = okx.requests["history-candles"]
    assert one(okx, tmp_path).gaps == [Gap(*OUTAGE, "suspect")]  # minutes later: may still be filled
    assert okx.requests["history-candles"] - before <= 2 * 4  # only the hole was asked for again
    later = one(okx, tmp_path, now_ms=lambda: NOW + 2 * 3_600_000)
    assert later.gaps == [Gap(*OUTAGE, "venue gap")]
    asked = okx.requests["history-candles"]
    assert one(okx, tmp_path, now_ms=lambda: NOW + 3 * 3_600_000).requests == 0
    assert okx.requests["history-candles"] == asked


def test_progress_counts_what_is_asked_for_twice(okx: OkxServer, tmp_path: Path) -> None:
    okx.candles["history-candles", "BTC-USDT-SWAP"] = outside(TRADES, *OUTAGE)
    seen: list[tuple[int, int]] = []
    one(okx, tmp_path, watch=lambda progress: seen.append((progress.done, progress.total)))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert all(d <= total for d, total in seen)
    span = COUNT * MINUTE
    assert seen[-1][0] == seen[-1][1]
    assert span + OUTAGE[1] - OUTAGE[0] <= seen[-1][1] <= span + 4 * 300 * MINUTE  # the windows with the hole, again


def test_a_hole_that_the_venue_fills_is_filled(okx: OkxServer, tmp_path: Path) -> None:
    okx.candles["history-candles", "BTC-USDT-SWAP"] = outside(TRADES, *OUTAGE)
    one(okx, tmp_path)
    okx.candles["history-candles", "BTC-USDT-SWAP"] = TRADES
    outcome = one(okx, tmp_path)
    assert (outcome.rows, outcome.new_rows, outcome.gaps) == (COUNT, 700, [])
    assert outcome.content == clean("trade", COUNT)


@cache
def clean(kind: str, count: int) -> str:
    """The content hash of an undisturbed run."""
    import tempfile

    with OkxServer() as okx, tempfile.TemporaryDirectory() as folder:
        okx.candles["history-candles", "BTC-USDT-SWAP"] = TRADES
        okx.candles["history-mark-price-candles", "BTC-USDT-SWAP"] = MARKS
        okx.candles["history-index-candles", "BTC-USDT"] = MARKS
        return one(okx, Path(folder), kind, hi=START + count * MINUTE).content


@pytest.mark.parametrize(
    ("kind", "fault"),
    [*(("trade", fault) for fault in FAULTS),
     *(("index", fault) for fault in ("429", "502", "cut body", "html", "null", "duplicates", "off grid", "forming"))],
)
def test_every_fault_is_survived_with_the_hash_of_a_clean_run(
    kind: str, fault: str, okx: OkxServer, tmp_path: Path
) -> None:
    count = 6 * LIMITS[PATHS[kind]]
    okx.fault(PATHS[kind], "", fault, "", fault, fault, "", fault)
    patience = {"timeout_s": 0.7} if fault == "slow body" else {}
    outcome = one(okx, tmp_path, kind, hi=START + count * MINUTE, **patience)
    assert outcome.content == clean(kind, count)
    assert (outcome.gaps, outcome.failures, outcome.repaired) == ([], [], {})
    assert not okx.faults[PATHS[kind]]
    if fault not in ("no rows", "short", "reset"):  # rows that are missing are asked for anyway; resets inside aiohttp
        assert sum(outcome.retries.values()) >= 4
    assert LocalStore(tmp_path).manifest(outcome.key).asked == [(START, START + count * MINUTE)]


@pytest.mark.parametrize("fault", ["duplicates", "out of order", "oldest first"])
def test_what_a_venue_always_does_is_repaired_and_counted(fault: str, okx: OkxServer, tmp_path: Path) -> None:
    okx.lasting["history-candles"] = fault
    outcome = one(okx, tmp_path, hi=START + 600 * MINUTE)
    assert outcome.content == clean("trade", 600)
    assert sum(outcome.repaired.values()) >= 2
    assert LocalStore(tmp_path).manifest(outcome.key).oddities == outcome.repaired


def test_times_off_the_grid_are_holes_never_rows(okx: OkxServer, tmp_path: Path) -> None:
    okx.lasting["history-candles"] = "off grid"
    outcome = one(okx, tmp_path, hi=START + 300 * MINUTE)
    found = rows(tmp_path)["ts"]
    assert not (found % MINUTE).any()
    assert 0 < len(found) < 300
    assert {gap.why for gap in outcome.gaps} == {"suspect"}
    assert outcome.repaired["off-grid times"] > 0


@pytest.mark.parametrize("fault", ["html", "truncated", "502", "zero price", "blank", "two of one time"])
def test_what_never_heals_is_left_unasked_and_said(fault: str, okx: OkxServer, tmp_path: Path) -> None:
    one(okx, tmp_path, hi=START + 300 * MINUTE)
    okx.lasting["history-candles"] = fault
    outcome = one(okx, tmp_path, hi=START + 600 * MINUTE, tries=2)
    assert not outcome.complete
    assert outcome.failures
    assert outcome.gaps == [Gap(START + 300 * MINUTE, START + 600 * MINUTE, "not asked")]
    assert outcome.content == clean("trade", 300)
    okx.lasting.clear()
    healed = one(okx, tmp_path, hi=START + 600 * MINUTE)
    assert (healed.complete, healed.content) == (True, clean("trade", 600))


def test_a_venue_that_is_down_is_not_asked_for_every_window(okx: OkxServer, tmp_path: Path) -> None:
    okx.fault("history-candles", "")  # the question whether there is anything older
    okx.lasting["history-candles"] = "503"
    outcome = one(okx, tmp_path, tries=2, width=2)
    assert not outcome.complete
    assert "windows were left for another run" in outcome.failures[-1]
    assert okx.requests["history-candles"] < 20


def test_smaller_pages_than_asked_for_lose_nothing(okx: OkxServer, tmp_path: Path) -> None:
    okx.page_cap["history-candles"] = 100
    outcome = one(okx, tmp_path, hi=START + 1_200 * MINUTE)
    assert (outcome.gaps, outcome.content) == ([], clean("trade", 1_200))


def test_the_bar_that_is_still_open_is_never_stored_and_completed_later(okx: OkxServer, tmp_path: Path) -> None:
    forming = [*TRADES[1_000][:4], "1.5", *TRADES[1_000][5:8], "0"]
    okx.candles["history-candles", "BTC-USDT-SWAP"] = [*TRADES[:1_000], forming]
    for now in (START + 1_000 * MINUTE + 30_000, START + 1_001 * MINUTE + 2_000):  # the venue may be late to confirm
        outcome = one(okx, tmp_path, hi=START + 2_000 * MINUTE, now_ms=lambda now=now: now)
        assert (outcome.rows, outcome.content) == (1_000, clean("trade", 1_000))
        assert outcome.complete
    okx.candles["history-candles", "BTC-USDT-SWAP"] = TRADES[:1_001]
    outcome = one(okx, tmp_path, hi=START + 2_000 * MINUTE, now_ms=lambda: START + 1_001 * MINUTE + 9_000)
    assert (outcome.rows, outcome.new_rows, outcome.content) == (1_001, 1, clean("trade", 1_001))


def test_time_before_the_listing_is_found_without_asking_for_every_page(okx: OkxServer, tmp_path: Path) -> None:
    years = START - 1_000_000 * MINUTE
    outcome = one(okx, tmp_path, lo=years, hi=START + 600 * MINUTE)
    assert outcome.content == clean("trade", 600)
    assert outcome.gaps == [Gap(years, START, "beyond horizon")]
    assert not outcome.complete  # it was asked for, and it is not there
    assert okx.requests["history-candles"] < 80
    okx.tables["instruments"][0]["listTime"] = str(START)
    again = one(okx, tmp_path / "listed", lo=years, hi=START + 600 * MINUTE)
    assert again.gaps == [Gap(years, START, "before listing")]
    assert again.complete


def test_a_false_horizon_does_not_last(okx: OkxServer, tmp_path: Path) -> None:
    """Empty answers with a whole envelope, for as long as the first run looks around."""
    okx.fault("history-candles", *["no rows"] * 400)
    lied_to = one(okx, tmp_path, hi=START + 3_000 * MINUTE)
    assert (lied_to.rows, lied_to.complete) == (0, False)
    okx.faults["history-candles"].clear()
    assert one(okx, tmp_path, hi=START + 3_000 * MINUTE).content == clean("trade", 3_000)


def test_a_second_run_asks_for_nothing_and_a_wider_one_for_the_rest(okx: OkxServer, tmp_path: Path) -> None:
    one(okx, tmp_path, lo=START + 600 * MINUTE, hi=START + 1_200 * MINUTE)
    asked = okx.requests["history-candles"]
    assert one(okx, tmp_path, lo=START + 600 * MINUTE, hi=START + 1_200 * MINUTE).requests == 0
    outcome = one(okx, tmp_path, hi=START + 1_500 * MINUTE)
    assert outcome.new_rows == 900
    assert okx.requests["history-candles"] - asked <= 3 + 1
    assert outcome.content == clean("trade", 1_500)


@pytest.mark.parametrize(("kind", "limit", "count"), [("trade", 20, 8_400), ("index", 10, 1_800)])
def test_the_pace_is_the_venues(kind: str, limit: int, count: int, okx: OkxServer, tmp_path: Path) -> None:
    okx.rate_limit = limit  # more in two seconds would be answered with 429
    outcome = one(okx, tmp_path, kind, hi=START + count * MINUTE, rate_ms=None)
    assert outcome.retries == {}
    assert outcome.complete


@pytest.mark.parametrize("fault", ["429", "503"])
@pytest.mark.parametrize("as_date", [False, True])
def test_a_pause_that_the_venue_asks_for_is_kept_by_all_tasks(
    fault: str, as_date: bool, okx: OkxServer, tmp_path: Path
) -> None:
    okx.retry_after = (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=3))) if as_date else "2"
    okx.fault("history-candles", "", "", fault)
    outcome = one(okx, tmp_path, hi=START + 3_000 * MINUTE, width=4)
    assert outcome.content == clean("trade", 3_000)
    times = [t for t, name, _ in okx.log if name == "history-candles"]
    longest = max(b - a for a, b in pairwise(times))
    assert 1.5 < longest < 5
    okx.retry_after = "86400"
    okx.fault("history-candles", fault)
    long = one(okx, tmp_path, lo=START + 3_000 * MINUTE, hi=START + 3_300 * MINUTE)
    assert "the venue asks for a pause of 86,400 s" in long.failures[0]


def test_two_processes_share_the_pace(okx: OkxServer, tmp_path: Path) -> None:
    """The venue counts by address: two fetches of different stores at once stay under its limit together."""
    okx.rate_limit = 20
    run = "import sys; from tests.fetch.conftest import *; from pathlib import Path\n" \
          "class Server: url = sys.argv[1]\n" \
          "o = one(Server, Path(sys.argv[2]), hi=START + 4_500 * MINUTE, rate_ms=None)\n" \
          "sys.exit(f'{o.retries}' if o.retries or not o.complete else 0)"
    repo = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", run, okx.url, str(tmp_path / name)], cwd=repo, stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for process in processes:
        assert process.communicate(timeout=120)[1] == b""
        assert process.returncode == 0


def test_a_slow_disk_does_not_let_pages_pile_up(
    okx: OkxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not written yet is what a kill costs."""
    real = os.fsync

    def slow(file: int) -> None:
        time.sleep(0.15)
        real(file)

    monkeypatch.setattr("os.fsync", slow)
    seen = [0]
    one(okx, tmp_path, hi=START + 4_200 * MINUTE, rate_ms=100, watch=lambda progress: seen.append(progress.rows))
    assert max(b - a for a, b in pairwise(seen)) <= 5 * 300


def test_a_full_disk_stops_the_run(okx: OkxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(okx, tmp_path, hi=START + 300 * MINUTE)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DataError, match="No space left"):
            one(okx, tmp_path, width=1)
    assert okx.requests["history-candles"] < 20
    assert one(okx, tmp_path).content == clean("trade", COUNT)


def test_hours_are_stored_by_the_year(okx: OkxServer, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    hours = [[str(START + i * 60 * MINUTE), *row[1:]] for i, row in enumerate(TRADES[:5_000])]
    okx.candles["history-candles", "BTC-USDT-SWAP"] = hours
    keys = series_of(store, [SWAP], ["trade"], 60 * MINUTE)
    span = (START, START + 5_000 * 60 * MINUTE)
    (outcome,) = asyncio.run(fetch(store, keys, *span, settings(okx, now_ms=lambda: span[1] + MINUTE)))
    assert (outcome.rows, outcome.gaps) == (5_000, [])
    assert sorted(p.name for p in tmp_path.rglob("*.parquet")) == ["2025.parquet", "2026.parquet"]
    assert {q["bar"] for _, name, q in okx.log if name == "history-candles"} == {"1H"}


def test_kinds_that_a_symbol_does_not_have_are_left_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keys = series_of(store, [SWAP, "BTC/USDT"], ["trade", "mark", "index", "funding"], MINUTE)
    assert [str(k) for k in keys] == [
        f"okx {SWAP} trade 1m", f"okx {SWAP} mark 1m", "okx BTC/USDT index 1m", f"okx {SWAP} funding",
        "okx BTC/USDT trade 1m",
    ]


def test_all_kinds_at_once(okx: OkxServer, tmp_path: Path) -> None:
    notes: list[Any] = []
    outcomes = get(okx, tmp_path, "trade,mark,index,funding", hi=START + 900 * MINUTE, watch=notes.append)
    assert [o.key.kind for o in outcomes] == ["index", "funding", "mark", "trade"]
    assert all(o.complete for o in outcomes)
    assert {n.key.kind for n in notes} == {"trade", "mark", "index", "funding"}
    assert all(0 <= n.done <= n.total for n in notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"symbol": "ETH/USDT:USDT"}, "check the symbol"),
        ({"symbol": "BTC/USDT", "kinds": "funding"}, "expected one of trade, index"),
        ({"symbol": "BTC-USDT"}, "unified symbol"),
        ({"kinds": "spread"}, "expected one of trade, mark, index, funding"),
        ({"lo": NOW + MINUTE, "hi": NOW + 9 * MINUTE}, "a start in the past"),
        ({"lo": START, "hi": START}, "a start before its end"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    changes: dict[str, Any], says: str, okx: OkxServer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        get(okx, tmp_path, **changes)


def test_a_refused_series_does_not_cost_the_others(okx: OkxServer, tmp_path: Path) -> None:
    del okx.candles["history-mark-price-candles", "BTC-USDT-SWAP"]
    with pytest.raises(DataError, match=r"history-mark-price-candles .*51001"):
        get(okx, tmp_path, "mark,trade", hi=START + 3_000 * MINUTE)
    assert one(okx, tmp_path, hi=START + 3_000 * MINUTE).requests == 0


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="api-url: expected"):
        Settings(api_url="localhost:80")
