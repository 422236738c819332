"""Funding as events of any interval, from REST and, where it has forgotten, from the archive."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_fetch.archive import _check_host
from data_fetch.local import LocalStore
from data_fetch.manifest import Gap
from data_fetch.series import DataError
from data_fetch.venues import OKX

from .conftest import NOW, START, SWAP, get, one
from .okx_wire import MINUTE, OkxServer

REPO = Path(__file__).resolve().parents[2]
ARCHIVE = OKX.archive
assert ARCHIVE is not None
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def events(first: int, last: int, hours: int) -> list[tuple[int, str]]:
    return [(ts, f"{0.0001 + (ts // HOUR % 97) * 1e-6:.6f}") for ts in range(first, last, hours * HOUR)]


def stored(root: Path, lo: int, hi: int) -> list[tuple[int, str]]:
    funding = LocalStore(root).funding(SWAP, lo, hi)
    assert funding is not None
    return [(int(ts), f"{rate:.6f}") for ts, rate in zip(funding.ts, funding.rate, strict=True)]


@pytest.mark.parametrize("hours", [8, 4, 1])
def test_every_interval_pages_whole(hours: int, okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 60 * DAY, START
    okx.funding["BTC-USDT-SWAP"] = events(lo - DAY, hi + DAY, hours)
    outcome = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert stored(tmp_path, lo, hi) == events(lo, hi, hours)
    assert outcome.complete
    assert one(okx, tmp_path, "funding", lo=lo, hi=hi).requests == 0


def test_a_changed_interval_is_no_hole_and_a_lost_day_is_one(okx: OkxServer, tmp_path: Path) -> None:
    whole = [*events(START - 20 * DAY, START - 10 * DAY, 8), *events(START - 10 * DAY, START, 2)]
    okx.funding["BTC-USDT-SWAP"] = [e for e in whole if not START - 15 * DAY <= e[0] < START - 14 * DAY]
    outcome = one(okx, tmp_path, "funding", lo=START - 20 * DAY, hi=START)
    (gap,) = outcome.gaps
    assert gap.why == "suspect"
    assert START - 16 * DAY < gap.lo <= gap.hi == START - 14 * DAY


@pytest.mark.parametrize("fault", ["429", "500", "reset", "cut body", "truncated", "html", "empty body", "null",
                                   "no data", "no rows"])
def test_faults_leave_no_trace(fault: str, okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 60 * DAY, START
    okx.funding["BTC-USDT-SWAP"] = events(lo - DAY, hi, 1)
    clean = one(okx, tmp_path / "clean", "funding", lo=lo, hi=hi).content
    okx.fault("funding-rate-history", fault, "", fault)
    outcome = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert (outcome.complete, outcome.content) == (True, clean)


def test_the_archive_holds_what_rest_has_forgotten(okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 200 * DAY, START
    okx.funding["BTC-USDT-SWAP"] = events(lo - 40 * DAY, hi, 8)
    okx.funding_since = START - 92 * DAY
    # late stamps, as archives have them
    okx.archive["BTC-USDT-SWAP"] = [(ts + 3_000 * (i % 2), r) for i, (ts, r) in enumerate(events(lo - 40 * DAY, hi, 8))]
    outcome = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert stored(tmp_path, lo, hi) == events(lo, hi, 8)
    assert (outcome.complete, outcome.gaps) == (True, [])
    assert okx.requests["market-data-history"] >= 1
    # one store, filled in two goes, holds the same
    one(okx, tmp_path / "b", "funding", lo=START - 150 * DAY, hi=hi)
    again = one(okx, tmp_path / "b", "funding", lo=lo, hi=hi)
    assert stored(tmp_path / "b", lo, hi) == events(lo, hi, 8)
    assert again.complete


def test_a_damaged_archive_file_is_asked_for_again(okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 130 * DAY, START - 100 * DAY
    okx.funding["BTC-USDT-SWAP"] = events(lo, START, 8)
    okx.funding_since = START - 92 * DAY
    okx.archive["BTC-USDT-SWAP"] = events(lo - 40 * DAY, START, 8)
    okx.fault("file", "html", "cut body", "500", "flipped")
    outcome = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert stored(tmp_path, lo, hi) == events(lo, hi, 8)
    assert outcome.complete
    assert sum(outcome.retries.values()) == 4


def test_without_an_archive_the_horizon_is_said(okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 200 * DAY, START
    okx.funding["BTC-USDT-SWAP"] = events(lo, hi, 8)
    okx.funding_since = START - 92 * DAY
    outcome = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert not outcome.complete
    assert "older than what okx still serves" in outcome.failures[0]
    assert stored(tmp_path, lo, hi) == events(START - 92 * DAY, hi, 8)
    assert [g.why for g in outcome.gaps] == ["beyond horizon"]
    assert outcome.gaps[0].lo == lo
    assert one(okx, tmp_path, "funding", lo=lo, hi=hi).failures == outcome.failures  # said again each time
    okx.archive["BTC-USDT-SWAP"] = events(lo - 40 * DAY, hi, 8)
    assert one(okx, tmp_path, "funding", lo=lo, hi=hi).complete  # until the venue has it
    assert stored(tmp_path, lo, hi) == events(lo, hi, 8)


def test_holes_between_pages_and_in_archive_files_are_seen(okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 200 * DAY, START
    page = START - 400 * HOUR  # a page ends here: 400 rows
    hourly = [e for e in events(lo - DAY, hi, 1) if not page - DAY <= e[0] < page]
    okx.funding["BTC-USDT-SWAP"] = hourly
    okx.funding_since = START - 92 * DAY
    okx.archive["BTC-USDT-SWAP"] = [e for e in events(lo - 40 * DAY, hi, 8)
                                    if not START - 150 * DAY <= e[0] < START - 140 * DAY]
    outcome = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert [(g.why, (g.hi - g.lo) // DAY) for g in outcome.gaps] == [("suspect", 10), ("suspect", 1)]


def test_nothing_falls_due_before_the_listing(okx: OkxServer, tmp_path: Path) -> None:
    listed = START - 20 * DAY + 5 * HOUR
    okx.tables["instruments"][0]["listTime"] = str(listed)
    okx.funding["BTC-USDT-SWAP"] = events(START - 20 * DAY + 8 * HOUR, START, 8)
    outcome = one(okx, tmp_path, "funding", lo=START - 30 * DAY, hi=START)
    assert (outcome.complete, outcome.failures) == (True, [])
    assert outcome.gaps == [Gap(START - 30 * DAY, listed, "before listing")]


def test_a_file_of_a_foreign_host_is_not_read(okx: OkxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    okx.funding["BTC-USDT-SWAP"] = events(START - 200 * DAY, START, 8)
    okx.funding_since = START - 92 * DAY
    okx.archive["BTC-USDT-SWAP"] = events(START - 200 * DAY, START, 8)
    real = OkxServer._archive

    def elsewhere(self: OkxServer, query: dict[str, str]) -> object:
        status, answer = real(self, query)
        for detail in answer["data"][0]["details"]:
            for file in detail["groupDetails"]:
                file["url"] = file["url"].replace("127.0.0.1", "evil.example")
        return status, answer

    monkeypatch.setattr(OkxServer, "_archive", elsewhere)
    outcome = one(okx, tmp_path, "funding", lo=START - 130 * DAY, hi=START)
    assert not outcome.complete
    assert any("it is not read" in text for text in outcome.failures)


def test_a_file_that_leads_to_a_foreign_host_is_not_read(okx: OkxServer, tmp_path: Path) -> None:
    okx.funding["BTC-USDT-SWAP"] = okx.archive["BTC-USDT-SWAP"] = events(START - 200 * DAY, START, 8)
    okx.funding_since = START - 92 * DAY
    okx.fault("file", "moved")
    outcome = one(okx, tmp_path, "funding", lo=START - 130 * DAY, hi=START)
    assert "found 'http://localhost:" in outcome.failures[0]
    assert okx.requests["file"] == 1
    for url in ("https://static.okx.com/a.zip", "http://127.0.0.1:9/a.zip"):
        _check_host(url, ARCHIVE, "http://127.0.0.1:9")
    for url in ("http://static.okx.com/a.zip", "https://okx.com.evil.example/", "https://evilokx.com/", "file:///etc/x"):
        with pytest.raises(DataError, match="it is not read"):
            _check_host(url, ARCHIVE, None)


@pytest.mark.parametrize("rate", ["5", "nan", "inf", "rate"])
def test_an_archive_that_makes_no_sense_is_said_and_costs_nothing_else(
    rate: str, okx: OkxServer, tmp_path: Path
) -> None:
    lo, hi = START - 200 * DAY, START
    okx.funding["BTC-USDT-SWAP"] = events(lo, hi, 8)
    okx.funding_since = START - 92 * DAY
    okx.archive["BTC-USDT-SWAP"] = [(lo - DAY, rate), *events(lo, hi, 8)]
    outcome = one(okx, tmp_path, "funding", lo=lo - 10 * DAY, hi=hi, tries=3)
    assert (outcome.complete, len(outcome.failures)) == (False, 1)
    assert "no whole answer in 3 tries" in outcome.failures[0]
    assert stored(tmp_path, START - 92 * DAY, hi) == events(START - 92 * DAY, hi, 8)


@pytest.mark.parametrize("hours", [8, 4, 1])
def test_a_single_lost_settlement_is_seen_and_found_again(hours: int, okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 20 * DAY, START
    whole = events(lo - DAY, hi + DAY, hours)
    lost = START - 8 * DAY
    okx.funding["BTC-USDT-SWAP"] = [e for e in whole if e[0] != lost]
    seen = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    (gap,) = seen.gaps
    assert (gap.why, gap.hi) == ("suspect", lost + hours * HOUR)
    assert lost - hours * HOUR < gap.lo < lost
    later = one(okx, tmp_path, "funding", lo=lo, hi=hi, now_ms=lambda: NOW + 2 * HOUR)
    assert [(g.why, g.lo, g.hi) for g in later.gaps] == [("venue gap", gap.lo, gap.hi)]
    okx.funding["BTC-USDT-SWAP"] = whole
    other = one(okx, tmp_path / "b", "funding", lo=lo, hi=hi)
    assert (other.gaps, stored(tmp_path / "b", lo, hi)) == ([], events(lo, hi, hours))


def test_a_settlement_published_late_is_not_lost_between_two_runs(okx: OkxServer, tmp_path: Path) -> None:
    lo, late = START - 5 * DAY, START
    whole = events(lo, START + 2 * DAY, 4)
    okx.funding["BTC-USDT-SWAP"] = [e for e in whole if e[0] < late]
    first = one(okx, tmp_path, "funding", lo=lo, hi=START + DAY, now_ms=lambda: late + HOUR)
    assert first.complete
    okx.funding["BTC-USDT-SWAP"] = whole
    one(okx, tmp_path, "funding", lo=lo, hi=START + DAY, now_ms=lambda: START + 25 * HOUR)
    assert stored(tmp_path, lo, START + DAY) == events(lo, START + DAY, 4)


def test_changing_intervals_are_no_holes(okx: OkxServer, tmp_path: Path) -> None:
    spans = [(START - 40 * DAY, START - 30 * DAY, 8), (START - 30 * DAY, START - 20 * DAY, 4),
             (START - 20 * DAY, START - 10 * DAY, 1), (START - 10 * DAY, START - 5 * DAY, 2),
             (START - 5 * DAY, START, 8)]
    whole = [e for lo, hi, hours in spans for e in events(lo, hi, hours)]
    okx.funding["BTC-USDT-SWAP"] = whole
    outcome = one(okx, tmp_path, "funding", lo=START - 40 * DAY, hi=START)
    assert (outcome.gaps, stored(tmp_path, START - 40 * DAY, START)) == ([], whole)


def test_a_kill_keeps_every_page_that_came(okx: OkxServer, tmp_path: Path) -> None:
    lo, hi = START - 300 * DAY, START
    okx.funding["BTC-USDT-SWAP"] = okx.archive["BTC-USDT-SWAP"] = events(lo - 40 * DAY, hi, 8)
    okx.funding_since = START - 92 * DAY
    okx.delay_s = 0.4
    run = ("import sys; from tests.fetch.conftest import *; from pathlib import Path\n"
           "class Server: url = sys.argv[1]\n"
           f"one(Server, Path(sys.argv[2]), 'funding', lo={lo}, hi={hi})")
    process = subprocess.Popen([sys.executable, "-c", run, okx.url, str(tmp_path)], cwd=REPO)
    deadline = time.monotonic() + 60
    while okx.requests["file"] < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    okx.delay_s = 0.0
    kept = stored(tmp_path, lo, hi)
    assert len(kept) >= 3 * (92 + 2 * 28)  # REST, and the files before the one under way
    rest = one(okx, tmp_path, "funding", lo=lo, hi=hi)
    assert (rest.new_rows, rest.gaps, stored(tmp_path, lo, hi)) == (900 - len(kept), [], events(lo, hi, 8))


def test_a_settlement_of_this_moment_waits_for_the_next_run(okx: OkxServer, tmp_path: Path) -> None:
    okx.funding["BTC-USDT-SWAP"] = events(START, START + 8 * HOUR, 8)
    (outcome,) = get(okx, tmp_path, "funding", lo=START, hi=START + DAY, now_ms=lambda: START + 8 * HOUR + 1_000)
    assert outcome.rows == 1
    okx.funding["BTC-USDT-SWAP"] = events(START, START + DAY, 8)
    (outcome,) = get(okx, tmp_path, "funding", lo=START, hi=START + DAY, now_ms=lambda: NOW)
    assert (outcome.rows, outcome.complete) == (3, True)
