"""Feeds from the store: trade, mark, index and funding on one clock, holes by a policy and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import backtrader as bt
import numpy as np
import pytest

from bt_margin.cli import main
from bt_margin.errors import InputError
from bt_margin.plugin import feeds
from bt_margin.plugin.broker import MarginBroker
from bt_margin.study.study import Study
from data_fetch import DataError, LocalStore
from data_fetch.local import Page

MINUTE = 60_000
START = 1_759_881_600_000
END = START + 600 * MINUTE
SWAP = "BTC/USDT:USDT"


def plant(root: Path, kind: str, level: float, missing: slice = slice(0, 0), symbol: str = SWAP) -> None:
    store = LocalStore(root)
    key = store.key(symbol, kind, MINUTE)
    keep = np.ones(600, dtype=bool)
    keep[missing] = False
    ts = (START + MINUTE * np.arange(600))[keep]
    close = (level + np.arange(600))[keep]
    rows = {"ts": ts, "open": close, "high": close + 1, "low": close - 1, "close": close,
            "volume": np.ones(len(ts)) if kind == "trade" else np.full(len(ts), np.nan)}
    if kind == "trade":
        rows |= {"contracts": np.ones(len(ts)), "quote_volume": np.ones(len(ts))}
    with store.lock(key):
        store.writer(key).commit([Page((START, END), rows)], START)


def plant_funding(root: Path) -> None:
    store = LocalStore(root)
    key = store.key(SWAP, "funding", 0)
    ts = START + np.array([0, 8 * 60]) * MINUTE
    with store.lock(key):
        store.writer(key).commit([Page((START, END), {"ts": ts, "rate": np.array([1e-4, 2e-4]), "served_ms": ts})], 1)


def one(root: Path, **changes: Any) -> Any:
    (feed,) = feeds.from_store(root, [SWAP], **{"since": START, "until": END, **changes})
    return feed


def test_all_kinds_stand_on_the_clock_of_the_trades(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 100_000)
    plant(tmp_path, "mark", 100_500)
    plant(tmp_path, "index", 100_700)
    plant_funding(tmp_path)
    feed = one(tmp_path, since="2025-10-08", until="2025-10-08T10:00")
    assert feed.p.close_ms.tolist() == [START + (i + 1) * MINUTE for i in range(600)]  # shown when the bar closes
    columns = feed.p.columns
    assert columns["close"][[0, -1]].tolist() == [100_000, 100_599]
    assert columns["mark"][[0, -1]].tolist() == [100_500, 101_099]
    assert columns["mark_low"][0] == 100_499
    assert columns["index"][[0, -1]].tolist() == [100_700, 101_299]
    assert feed.funding.rates.tolist() == [1e-4, 2e-4]
    assert feed.holes == {}
    assert feed.p.source == "okx 1m, marks, index, funding"


def test_holes_raise_unless_something_else_is_chosen(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 100_000, slice(100, 147))
    with pytest.raises(InputError, match=r"47 are missing, the first from 2025-10-08T01:40:00Z .* choose holes="):
        one(tmp_path)
    with pytest.raises(InputError, match="holes: expected raise, drop or flat"):
        one(tmp_path, holes="fill")


def test_dropped_holes_have_no_bar_and_no_price(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 100_000, slice(100, 147))
    plant(tmp_path, "mark", 100_500, slice(300, 310))
    feed = one(tmp_path, holes="drop")
    assert len(feed.p.close_ms) == 553
    assert feed.holes == {"trade": 47, "mark": 10}
    assert np.isnan(feed.p.columns["mark"]).sum() == 10
    missing = "47 of 600 trade bars missing, left out, 10 of 600 mark bars missing, left out"
    assert feed.p.source == f"okx 1m, marks, {missing}"


def test_flat_holes_hold_the_last_close_without_volume(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 100_000, slice(100, 147))
    plant(tmp_path, "mark", 100_500, slice(0, 5))
    feed = one(tmp_path, holes="flat")
    columns = feed.p.columns
    assert len(feed.p.close_ms) == 600
    for name in ("open", "high", "low", "close"):
        assert set(columns[name][100:147]) == {100_099.0}
    assert set(columns["volume"][100:147]) == {0.0}
    assert np.isnan(columns["mark"][:5]).all()  # nothing to hold yet
    assert "47 of 600 trade bars missing, held flat" in feed.p.source


def test_a_crash_is_named_by_its_day(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 100_000)
    (feed,) = feeds.from_store(tmp_path, [SWAP], window="2025-10-10", holes="drop")
    assert len(feed.p.close_ms) == 600
    with pytest.raises(InputError, match="expected a window, or since and until"):
        feeds.from_store(tmp_path, [SWAP], since=START)


def test_what_is_not_stored_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run bt-margin fetch --symbol BTC/USDT:USDT --kind trade"):
        one(tmp_path)
    plant(tmp_path, "trade", 100_000)
    with pytest.raises(InputError, match="a moment after"):
        one(tmp_path, until=START)
    with pytest.raises(DataError, match="resample"):
        one(tmp_path, timeframe="7m")


def test_a_run_on_downloaded_minutes_pays_their_funding(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 100_000)
    plant(tmp_path, "mark", 100_000)
    plant_funding(tmp_path)

    class Hold(bt.Strategy):
        def next(self) -> None:
            if len(self) == 1:
                self.buy(size=10)

    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash={"USDT": 10_000}, leverage=5)
    cerebro.adddata(one(tmp_path))
    cerebro.addstrategy(Hold)
    cerebro.run()
    (paid,) = [e for e in cerebro.broker.ledger if e.kind == "funding"]
    assert paid.cash == pytest.approx(-10 * 0.01 * 100_479 * 2e-4, rel=1e-4)


def test_a_study_prefers_downloaded_minutes_and_says_so(tmp_path: Path) -> None:
    for kind, level in (("trade", 100_000), ("mark", 100_010)):
        plant(tmp_path, kind, level)
    for window, says in (
        ("2025-10-08/2025-10-08T10:00", "downloaded okx history; BTC/USDT:USDT: okx 1m, marks"),
        (
            "2025-10-08/2025-10-08T20:00",
            "embedded hourly figures (not the downloaded minutes: 50% of BTC/USDT:USDT there); BTC/USDT:USDT: ",
        ),
    ):
        study = Study(["leveraged_long"], ["cross"], [window], [2.0], store=str(tmp_path))
        (result,) = study.run()
        assert result.row["verdict"] == "survived", result.row["reason"]
        assert result.row["data_kind"].startswith(says)


def call(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_takes_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "bt-margin-data", "trade", 100_000)
    arguments = ["run", "leveraged_long", "--window", "2025-10-08/2025-10-08T10:00", "--leverage", "2", "--json"]
    for more in ([], ["--store", "bt-margin-data"]):  # the folder of that name is found by itself
        assert call([*arguments, *more]) == 0
        row = json.loads(capsys.readouterr().out)["row"]
        assert row["data_kind"] == "downloaded okx history; BTC/USDT:USDT: okx 1m"
    assert call([*arguments, "--store", "nowhere"]) == 2
