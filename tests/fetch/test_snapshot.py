"""Snapshots of the rules are revisions that the rule tables read."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import bt_margin.rules
from bt_margin.cli import main
from bt_margin.rules.loading import read_table
from data_fetch import snapshot
from data_fetch.client import Settings
from data_fetch.series import DataError
from data_fetch.venues import venue_named

from .okx_wire import OkxServer


@pytest.fixture
def rules(okx: OkxServer) -> OkxServer:
    swap = {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "settleCcy": "USDT", "ctVal": "0.01", "ctMult": "1",
            "tickSz": "0.1", "lotSz": "0.01"}
    future = {**swap, "instType": "FUTURES", "instId": "BTC-USD-261225", "settleCcy": "BTC", "ctVal": "100",
              "lotSz": "1"}
    spot = {"instType": "SPOT", "instId": "BTC-USDT", "tickSz": "0.1", "lotSz": "0.00000001"}
    okx.tables["instruments"] = [swap, future, spot, {**spot, "instType": "MARGIN"},
                                 {**spot, "instId": "NEW-USDT"}]
    okx.tables["position-tiers"] = [
        {"instType": "SWAP", "instFamily": "BTC-USDT", "tier": str(i), "maxSz": str(1_000 * i), "mmr": f"0.00{i + 3}",
         "imr": "0.01", "maxLever": "100", "baseMaxLoan": "", "quoteMaxLoan": ""}
        for i in (2, 1)
    ] + [
        {"instType": "MARGIN", "instFamily": "", "instId": "BTC-USDT", "tier": "1", "maxSz": "0", "mmr": "0.03",
         "imr": "0.1", "maxLever": "10", "baseMaxLoan": "25", "quoteMaxLoan": "250000"}
    ]
    okx.tables["discount-rate-interest-free-quota"] = [
        {"ccy": "BTC", "amt": "0.23", "details": [
            {"discountRate": "0.98", "maxAmt": "20", "minAmt": "0"},
            {"discountRate": "0", "maxAmt": "", "minAmt": "20"},
        ]}
    ]
    okx.tables["interest-rate-loan-quota"] = [
        {"basic": [{"ccy": "BTC", "quota": "100", "rate": "0.0000276"}], "vip": [], "regular": []}
    ]
    return okx


def take(okx: OkxServer, out: Path) -> int:
    try:
        main(["snapshot", "--symbol", "BTC/USDT:USDT,BTC/USDT", "--api-url", okx.url, "--out", str(out)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_snapshot_reads_back_as_rules(rules: OkxServer, tmp_path: Path) -> None:
    assert take(rules, tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    instruments = read_table(folder / "instruments.toml", "instruments")
    assert set(instruments) == {"BTC/USDT", "BTC/USDT:USDT", "BTC/USD:BTC-261225"}
    (revision,) = instruments["BTC/USDT:USDT"].revisions
    assert (revision.row.contract_size, revision.row.tick, revision.row.lot) == (0.01, 0.1, 0.01)
    assert revision.grade == "snapshot"
    assert "read 20" in revision.source
    tiers = read_table(folder / "position_tiers.toml", "position_tiers")["BTC/USDT:USDT"].revisions[0].row
    assert tiers.rows == ((1_000, 0.004, 0.01, 100), (2_000, 0.005, 0.01, 100))
    margin = read_table(folder / "margin_tiers.toml", "margin_tiers")["BTC/USDT"].revisions[0].row
    assert margin.rows == ((25, 250_000, 0.03, 0.1, 10),)
    interest = read_table(folder / "interest.toml", "interest")["BTC"].revisions[0]
    assert interest.row.hourly == pytest.approx(0.0000276 / 24)
    found = {name: tomllib.loads((folder / f"{name}.toml").read_text())["revision"][0] for name in (
        "discounts", "free_quota", "borrow_limits")}
    assert found["discounts"]["rows"] == [[20, 0.98]]
    assert (found["discounts"]["currencies"], found["discounts"]["unit"]) == (["BTC"], "coin")
    assert found["discounts"]["beyond"] == 0
    assert found["free_quota"]["rows"] == [["BTC", 0.23]]
    assert found["borrow_limits"]["rows"] == [["BTC", 100]]
    for name in found:  # (rule tables that came after the others)
        assert read_table(folder / f"{name}.toml", name)["BTC"].revisions[0].grade == "snapshot"
    assert (folder / "raw" / "discounts.json").exists()


def test_a_damaged_answer_leaves_nothing_behind(
    rules: OkxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules.tables["position-tiers"][0]["mmr"] = ""
    assert take(rules, tmp_path) == 2
    assert "expected a figure mmr" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_half_snapshot(
    rules: OkxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take(rules, tmp_path) == 0
    (whole,) = tmp_path.iterdir()
    before = {path: path.read_bytes() for path in whole.rglob("*.*") if path.is_file()}
    real, left = os.replace, 3

    def full(*names: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(*names)

    time.sleep(1.0)  # a snapshot has a second of its own
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        assert take(rules, tmp_path) == 2
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [whole]
    assert before == {path: path.read_bytes() for path in before}


def test_a_snapshot_touches_nothing_that_is_there(rules: OkxServer, tmp_path: Path) -> None:
    """Neither official tables in the folder it is given, nor a snapshot of the same second."""
    official = Path(bt_margin.rules.__file__).parent / "okx"
    shutil.copytree(official, tmp_path / "okx")
    before = {path: path.read_bytes() for path in (tmp_path / "okx").rglob("*.toml")}
    assert len(before) > 5
    assert take(rules, tmp_path / "okx") == 0
    assert before == {path: path.read_bytes() for path in before}
    moment = [path for path in (tmp_path / "okx").iterdir() if path.is_dir() and path.name.startswith("okx-2")]
    settings = Settings(api_url=rules.url, rate_ms=1, now_ms=lambda: 1_800_000_000_000)
    asyncio.run(snapshot.take(venue_named("okx"), ["BTC/USDT"], tmp_path, settings))
    with pytest.raises(DataError, match="expected no snapshot of this second"):
        asyncio.run(snapshot.take(venue_named("okx"), ["BTC/USDT:USDT"], tmp_path, settings))
    assert len(moment) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_venue_that_does_not_answer_is_no_bad_input(
    rules: OkxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules.retry_after = "86400"
    rules.lasting["discount-rate-interest-free-quota"] = "503"
    assert take(rules, tmp_path) == 1
    assert "asks for a pause of 86,400 s" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
