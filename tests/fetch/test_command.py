"""`bt-margin fetch | data | check` as users run them: killed, interrupted, twice at once, on damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_fetch.local import LocalStore, Page
from data_fetch.manifest import Gap
from tests.command_line import call

from .conftest import COUNT, OUTAGE, START, SWAP, TRADES, one, outside
from .okx_wire import MINUTE, OkxServer

REPO = Path(__file__).resolve().parents[2]
SPAN = ("--since", "2025-10-08", "--until", "2025-10-14T22:40")
DAY = ("--since", "2025-10-08", "--until", "2025-10-09")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPO)}


def start(okx: OkxServer, folder: Path, span: tuple[str, ...] = SPAN) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bt_margin", "fetch", *span, "--kind", "trade", "--api-url", okx.url, "--json"]
    return subprocess.Popen(
        [*command, "--store", str(folder)], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run in the background
    )


def said(err: str) -> str:
    """Without the lines of progress that a busy machine sees every ten seconds."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("okx "))


def test_killed_ten_times_at_random_moments_it_ends_with_the_same_rows(okx: OkxServer, tmp_path: Path) -> None:
    okx.candles["history-candles", "BTC-USDT-SWAP"] = outside(TRADES, *OUTAGE)
    clean = one(okx, tmp_path / "clean")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fetch.killing", okx.url, str(tmp_path / "killed"), "10"],
        cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )
    report = json.loads(done.stdout)
    assert report["came"] == sorted(report["came"])  # nothing that was stored is ever lost
    assert len(report["came"]) == 10
    assert report["left"] == []
    assert report["content"] == clean.content
    for path in (tmp_path / "clean").rglob("*.parquet"):  # byte for byte
        assert (tmp_path / "killed" / path.relative_to(tmp_path / "clean")).read_bytes() == path.read_bytes()
    store = LocalStore(tmp_path / "killed")
    assert store.gaps(clean.key, START, START + COUNT * MINUTE) == [Gap(*OUTAGE, "suspect")]
    assert call("check", "--store", str(tmp_path / "killed")) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_is_gone_on_with(how: signal.Signals, okx: OkxServer, tmp_path: Path) -> None:
    process = start(okx, tmp_path)
    deadline = time.monotonic() + 60
    while okx.requests["history-candles"] < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert said(err) == "bt-margin: stopped; all that came is stored, the same command goes on from there\n"
    store = LocalStore(tmp_path)
    key = store.key(SWAP, "trade", MINUTE)
    kept = len(store.read(key, START, START + COUNT * MINUTE)["ts"])
    assert 0 < kept < COUNT
    rest = one(okx, tmp_path)
    assert (rest.rows, rest.new_rows, rest.gaps) == (COUNT, COUNT - kept, [])


def test_two_processes_on_one_series_end_with_one_right_file(okx: OkxServer, tmp_path: Path) -> None:
    okx.delay_s = 0.5
    processes = [start(okx, tmp_path / "both", DAY) for _ in range(2)]
    reports = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, said(err)) == (0, "")
        reports.append(json.loads(out)[0])
    okx.delay_s = 0.0
    assert {r["content"] for r in reports} == {one(okx, tmp_path / "alone", hi=START + 1_440 * MINUTE).content}
    assert sorted(r["new_rows"] for r in reports) == [0, 1_440]  # the second waited and found all there
    assert [p.name for p in (tmp_path / "both").rglob("*.parquet")] == ["2025-10.parquet"]


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        at = len(data) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
    elif how == "rewritten":  # a whole Parquet file with one changed price
        table = pq.read_table(path)
        closes = table.column("close").to_numpy().copy()
        closes[7] *= 1.01
        pq.write_table(table.set_column(table.schema.get_field_index("close"), "close", [closes]), path)
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "rewritten", "gone"])
def test_a_damaged_file_is_found_by_check_and_fetched_again(
    how: str, okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = one(okx, tmp_path, hi=START + 1_440 * MINUTE)
    (path,) = tmp_path.rglob("*.parquet")
    damage(path, how)
    assert call("check", "--store", str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "2025-10.parquet" in out
    assert "run bt-margin fetch --symbol BTC/USDT:USDT --kind trade --since 2025-10-01" in err
    assert err.count("\n") == 1
    store = LocalStore(tmp_path)
    if how != "flipped":  # (which may have hit bytes that hold no rows)
        with pytest.raises(ValueError, match=r"2025-10\.parquet is damaged"):
            store.read(before.key, START, START + MINUTE)
    arguments = ("fetch", *DAY, "--kind", "trade", "--api-url", okx.url, "--store", str(tmp_path))
    assert call(*arguments) == 0
    assert "damaged files replaced: 2025-10.parquet" in capsys.readouterr().out
    assert call("check", "--store", str(tmp_path)) == 0
    assert store.content(before.key) == before.content


def test_a_lost_manifest_is_rebuilt_from_files_and_venue(okx: OkxServer, tmp_path: Path) -> None:
    before = one(okx, tmp_path)
    (path,) = tmp_path.rglob("_manifest.json")
    path.write_text("{")
    assert call("check", "--store", str(tmp_path)) == 1
    after = one(okx, tmp_path)
    assert (after.content, after.new_rows, after.replaced) == (before.content, 0, ["_manifest.json"])


def test_rows_without_a_manifest_are_named_and_adopted(
    okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = one(okx, tmp_path)
    next(tmp_path.rglob("_manifest.json")).unlink()
    assert call("check", "--store", str(tmp_path)) == 0
    note = "note: okx/trade/BTC-USDT-SWAP/1min: rows without a manifest, which nothing reads"
    assert note in " ".join(capsys.readouterr().out.split())
    after = one(okx, tmp_path)
    assert (after.content, after.new_rows) == (before.content, 0)


def test_an_old_copy_of_a_file_is_noticed(okx: OkxServer, tmp_path: Path) -> None:
    one(okx, tmp_path, hi=START + 3_000 * MINUTE)
    (path,) = tmp_path.rglob("*.parquet")
    old = path.read_bytes()
    whole = one(okx, tmp_path)
    path.write_bytes(old)
    assert call("check", "--store", str(tmp_path)) == 1
    assert one(okx, tmp_path).content == whole.content


def test_data_lists_what_is_stored(okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    okx.candles["history-candles", "BTC-USDT-SWAP"] = outside(TRADES, *OUTAGE)
    outcome = one(okx, tmp_path)
    assert call("data", "--store", str(tmp_path), "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["symbol"], row["kind"], row["timeframe"], row["rows"]) == (SWAP, "trade", "1m", COUNT - 700)
    assert row["gaps"] == [{"since": "2025-10-10T18:40Z", "until": "2025-10-11T06:20Z", "why": "suspect"}]
    assert row["content"] == outcome.content
    assert call("data", "--store", str(tmp_path)) == 0
    assert "suspect 2025-10-10T18:40Z" in " ".join(capsys.readouterr().out.split())


def plant(root: Path, kind: str, change: Any) -> None:
    """A series of 600 calm minutes, changed."""
    store = LocalStore(root)
    key = store.key(SWAP, kind, MINUTE)
    ts = START + MINUTE * np.arange(600)
    close = 120_000 + 10 * np.sin(np.arange(600))
    rows = {"ts": ts, "open": close - 1, "high": close + 3, "low": close - 3, "close": close.copy(),
            "volume": np.ones(600) if kind == "trade" else np.full(600, np.nan)}
    if kind == "trade":
        rows |= {"contracts": np.ones(600), "quote_volume": np.ones(600)}
    change(rows)
    with store.lock(key):
        store.writer(key).commit([Page((START, START + 600 * MINUTE), rows)], START)


def set_at(column: str, at: slice | int, value: float) -> Any:
    def change(rows: dict[str, Any]) -> None:
        rows[column][at] = value

    return change


def stale(rows: dict[str, Any]) -> None:
    for name, value in {"open": 120_000, "high": 120_000, "low": 120_000, "close": 120_000, "volume": 0}.items():
        rows[name][100:200] = value


def outlier(rows: dict[str, Any]) -> None:
    rows["high"][300] = rows["close"][300] = 140_000.0


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda rows: None, 0, "1 series are as they were stored; 0 notes"),
        (set_at("low", 50, 0.0), 1, "a price of zero or less"),
        (set_at("open", slice(50, 52), -3.0), 1, "(2 such rows)"),
        (set_at("low", 50, 130_000.0), 1, "a low or high inside open and close"),
        (stale, 0, "a stale run: one price for 100 bars"),
        (outlier, 0, "an outlier: a close far from both neighbours"),
    ],
)
def test_check_looks_at_the_figures(
    change: Any, status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, "trade", change)
    assert call("check", "--store", str(tmp_path)) == status
    assert says in capsys.readouterr().out
    if "outlier" in says or "stale" in says:
        assert call("check", "--store", str(tmp_path), "--strict") == 1


def test_check_sets_trades_beside_marks_and_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def far(rows: dict[str, Any]) -> None:
        for name in ("open", "high", "low", "close"):
            rows[name][200:300] *= 1.08

    plant(tmp_path, "trade", far)
    plant(tmp_path, "mark", lambda rows: None)
    plant(tmp_path, "index", lambda rows: None)
    assert call("check", "--store", str(tmp_path)) == 0
    out = capsys.readouterr().out
    for kind in ("mark", "index"):
        assert f"100 of 600 bars more than 5% from the {kind}, at most +8.0%" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fetch",), "expected --window DAY or --since TIME"),
        (("fetch", "--window", "1999-01-01"), "2025-10-10"),
        (("fetch", "--window", "2025-10-10", "--since", "2025-10-10"), "found both"),
        (("fetch", "--since", "soon"), "expected a UTC time"),
        (("fetch", "--since", "2025-10-10", "--until", "2025-10-09"), "a moment after"),
        (("fetch", "--since", "2999-01-01"), "a moment after"),
        (("fetch", "--since", "2025-10-10", "--symbol", ""), "symbol: expected one or more"),
        (("fetch", "--since", "2025-10-10", "--kind", ","), "kind: expected one or more"),
        (("fetch", "--since", "2025-10-10", "--symbol", "BTC/USDT:BTC"), "expected BTC/USDT:USDT"),
        (("snapshot", "--symbol", " "), "symbol: expected one or more"),
        (("fetch", "--since", "2025-10-10", "--symbol", "../../etc/passwd"), "unified symbol"),
        (("fetch", "--since", "2025-10-10", "--kind", "trades"), "expected one of trade, mark, index, funding"),
        (("fetch", "--since", "2025-10-10", "--timeframe", "7m"), "resample"),
        (("fetch", "--since", "2025-10-10", "--exchange", "mtgox"), "expected one of okx"),
        (("fetch", "--since", "2025-10-10", "--api-url", "nowhere"), "api-url"),
        (("data", "--store", "nowhere"), "run bt-margin fetch"),
        (("check", "--store", "nowhere"), "run bt-margin fetch"),
        (("data", "--exchange", "../x", "--store", "."), "expected one of okx"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert (err.count("\n"), out) == (1, "")
    assert not list(tmp_path.iterdir())


def test_a_refused_series_is_said_beside_what_came_of_the_others(
    okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--symbol", "XYZ/USDT:USDT,BTC/USDT:USDT", "--kind", "trade", "--store", str(tmp_path))
    assert call("fetch", *DAY, *arguments, "--api-url", okx.url) == 2
    out, err = capsys.readouterr()
    assert "BTC/USDT:USDT trade 1m, 2025-10-08T00:00Z to 2025-10-09T00:00Z: 1,440 rows (1,440 new)" in out
    assert "51001" in err
    assert err.count("\n") == 1


def test_a_window_before_the_listing_is_no_success(
    okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--window", "2018-01-01/2018-02-01", "--kind", "trade", "--store", str(tmp_path))
    assert call("fetch", *arguments, "--api-url", okx.url) == 1
    out, err = capsys.readouterr()
    assert "0 rows" in out
    assert "holes: before listing 2018-01-01T00:00Z to 2018-02-01T00:00Z" in out
    assert err == "bt-margin: incomplete: okx BTC/USDT:USDT trade 1m: the venue has no rows there\n"


def test_one_damaged_manifest_does_not_hide_the_other_series(
    okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("trade", "mark"):
        one(okx, tmp_path, kind, hi=START + 1_440 * MINUTE)
    path = next(p for p in tmp_path.rglob("_manifest.json") if "mark" in p.parts)
    path.write_bytes(b"\xbf\xff" * 50)
    assert call("data", "--store", str(tmp_path), "--json") == 0
    out, err = capsys.readouterr()
    assert [row["kind"] for row in json.loads(out)] == ["trade"]
    assert "fetch the series again and it is rebuilt" in err
    assert call("check", "--store", str(tmp_path)) == 1
    assert LocalStore(tmp_path).series(SWAP, "trade", None, START, START + 60 * MINUTE).step_ms == MINUTE
    capsys.readouterr()
    arguments = ("--kind", "mark", "--api-url", okx.url, "--store", str(tmp_path))
    assert call("fetch", *DAY, *arguments) == 0
    assert "damaged files replaced: _manifest.json" in capsys.readouterr().out
    assert call("check", "--store", str(tmp_path)) == 0


def test_a_coin_of_another_settlement_does_not_take_the_files_over(okx: OkxServer, tmp_path: Path) -> None:
    before = one(okx, tmp_path, hi=START + 1_440 * MINUTE)
    arguments = ("--symbol", "BTC/USDT:BTC", "--kind", "trade", "--api-url", okx.url, "--store", str(tmp_path))
    assert call("fetch", *DAY, *arguments) == 2
    assert LocalStore(tmp_path).content(before.key) == before.content


def test_an_incomplete_run_exits_1_and_says_why(
    okx: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    okx.funding_since = START
    arguments = ("--kind", "funding", "--since", "2025-06-01", "--until", "2025-10-10", "--store", str(tmp_path))
    assert call("fetch", *arguments, "--api-url", okx.url) == 1
    out, err = capsys.readouterr()
    assert "6 rows" in out
    assert "incomplete: okx BTC/USDT:USDT funding: settlements from 2025-06-01" in err
    assert err.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, bt_margin.cli; heavy = {'ccxt', 'pandas', 'pyarrow', 'backtrader', 'filelock', 'aiohttp'} "
        "& sys.modules.keys(); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
