"""Where minutes are at hand a cell is run along a second path, and says whether its verdict hangs on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bt_margin.cli import main
from bt_margin.study.result import write_parquet
from bt_margin.study.study import Study
from data_fetch import LocalStore
from data_fetch.local import Page

MINUTE = 60_000
START = 1_759_881_600_000  # 2025-10-08
BARS = 240
SPAN = "2025-10-08/2025-10-08T04:00"
SWAP = "BTC/USDT:USDT"
TAKER = """
from bt_margin.plugin.strategy import MarginStrategy
class Taker(MarginStrategy):
    params = (("leverage", 1.0),)
    symbols = ("BTC/USDT:USDT",)
    def next(self):
        if len(self) == 1:
            self.order_target_percent(target=self.p.leverage)
        if len(self) == 3:
            self.sell(size=self.position.size, exectype=2, price=101_000.0, reduce_only=True)  # a limit
"""


def plant(root: Path) -> None:
    """Flat at 100,000; in the hundredth minute up to 102,000 and down to 85,000."""
    store = LocalStore(root)
    high, low, close = np.full(BARS, 100_010.0), np.full(BARS, 99_990.0), np.full(BARS, 100_000.0)
    high[100], low[100] = 102_000.0, 85_000.0
    ts = START + MINUTE * np.arange(BARS)
    for kind in ("trade", "mark"):
        volume = np.ones(BARS) if kind == "trade" else np.full(BARS, np.nan)
        rows = {"ts": ts, "open": close, "high": high, "low": low, "close": close, "volume": volume}
        if kind == "trade":
            rows |= {"contracts": np.ones(BARS), "quote_volume": np.ones(BARS)}
        key = store.key(SWAP, kind, MINUTE)
        with store.lock(key):
            store.writer(key).commit([Page((START, START + BARS * MINUTE), rows)], START)


@pytest.fixture
def store(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "st_taker.py").write_text(TAKER)
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "store")
    return tmp_path / "store"


def call(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(arguments)


def test_a_verdict_that_hangs_on_the_path_is_marked(store: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    study = Study(["st_taker:Taker", "leveraged_long"], ["cross"], [SPAN], [2, 8], store=str(store))
    results = study.run(workers=1)
    found = {(r.row["strategy"], r.row["leverage"]): r.row for r in results}
    hangs = found["st_taker:Taker", 8.0]
    assert (hangs["verdict"], hangs["ohlc_verdict"], hangs["path_dependent"]) == ("liquidated", "survived", True)
    for key in (("st_taker:Taker", 2.0), ("leveraged_long", 2.0)):
        assert (found[key]["verdict"], found[key]["ohlc_verdict"], found[key]["path_dependent"]) == (
            "survived", "survived", False)
    dies = found["leveraged_long", 8.0]
    assert (dies["verdict"], dies["ohlc_verdict"], dies["path_dependent"]) == ("liquidated", "liquidated", False)
    write_parquet(results, tmp_path / "runs.parquet")
    assert pq.read_table(tmp_path / "runs.parquet")["path_dependent"].to_pylist() == [False, True, False, False]


def test_coverage_and_hashes_go_along(store: Path) -> None:
    (result,) = Study(["leveraged_long"], ["cross"], [SPAN], [2], store=str(store)).run(workers=1)
    (row,) = result.data
    assert (row["symbol"], row["step_ms"]) == (SWAP, MINUTE)
    assert row["bars"] == row["expected"] == row["marks"] == BARS
    assert row["from"] == "downloaded okx history"
    assert (row["first"], row["last"]) == (START, START + BARS * MINUTE)
    assert all(len(result.row[name]) == 64 for name in ("code_sha256", "rules_sha256", "data_sha256"))


def test_hours_are_not_checked_nor_is_ohlc_itself(store: Path) -> None:
    hours, *_ = Study(["leveraged_long"], ["cross"], ["2025-10-10"], [2]).run()
    itself, *_ = Study(["leveraged_long"], ["cross"], [SPAN], [2], store=str(store), path="ohlc").run(workers=1)
    for result in (hours, itself):
        assert (result.row["ohlc_verdict"], result.row["path_dependent"]) == (None, None)


def test_the_command_says_what_hangs_on_the_path(store: Path, tmp_path: Path, capsys) -> None:
    call(["compare", "st_taker:Taker", "--window", SPAN, "--mode", "cross", "--leverage", "8", "--store", str(store),
          "--workers", "1", "--out", str(tmp_path / "out")])
    text = " ".join(capsys.readouterr().out.split())
    assert "liquidated*" in text
    assert f"hangs on the path through the bar: with --path ohlc cross, 8x, {SPAN} is survived" in text
    (run,) = json.loads((tmp_path / "out" / "summary.json").read_text())["runs"]
    assert run["path_dependent"] is True
    page = (tmp_path / "out" / "report.html").read_text()
    assert "hangs on the path" in page
    call(["compare", "leveraged_long", "--window", "2025-10-10", "--mode", "cross", "--leverage", "2", "--workers", "1",
          "--out", str(tmp_path / "hours")])
    assert "are not checked against --path ohlc: only hours are at hand" in " ".join(capsys.readouterr().out.split())
    assert "not checked against the path ohlc" in (tmp_path / "hours" / "report.html").read_text()
