"""The command line as users type it: exits, one-line errors, tables, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bt_margin.study.result import COLUMNS
from tests.command_line import call

from .test_builder import BOOK


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compare", "nope"), "leveraged_long"),
        (("compare", "os:path"), "not a backtrader Strategy"),
        (("compare", "no_such_module:X"), "no_such_module"),
        (("compare", "--mode", "crosss"), "isolated, cross"),
        (("compare", "--window", "1999-01-01"), "2025-10-10"),
        (("compare", "--window", "2025-10-12/2025-10-10"), "start before its end"),
        (("compare", "--leverage", "-2"), "above zero"),
        (("compare", "--leverage", "nan"), "above zero"),
        (("compare", "--leverage", "500"), "at most"),
        (("compare", "--leverage", "five"), "five"),
        (("compare", "--cash", "-5"), "zero or more"),
        (("compare", "--cash", "USDT=lots"), "CURRENCY=AMOUNT"),
        (("compare", "--cash", "USDT=nan"), "CURRENCY=AMOUNT"),
        (("compare", "--cash", "USDT=0"), "some money"),
        (("compare", "--setting", "101"), "tier's maximum"),
        (("compare", "--path", "random"), "adverse"),
        (("compare", "--workers", "0"), "1 or more"),
        (("compare", "--rules-as-of", "someday"), "rules_as_of"),
        (("compare", "--bogus", "1"), "bogus"),
        (("run", "leveraged_long", "--window", "soon"), "window"),
        (("margin", "no-such-file.json"), "cannot read"),
        (("rules", "--table", "nope"), "expected one of borrow_limits, borrow_rates, currency_borrow"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_compare_writes_table_report_json_and_parquet(tmp_path: Path, capsys) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    assert (
        call(
            "compare",
            "leveraged_long",
            "--window",
            "2025-10-10",
            "--leverage",
            "2",
            "--leverage",
            "10",
            "--workers",
            "1",
            "--out",
            str(out),
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "liquidated" in text
    assert "survived" in text
    assert "falls as danger rises" in text
    assert sorted(p.name for p in out.iterdir()) == [".cells", "report.html", "runs.parquet", "summary.json"]
    summary = json.loads((out / "summary.json").read_text())
    assert {"runs", "versions", "evidence"} <= set(summary)
    table = pq.read_table(out / "runs.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.num_rows == len(summary["runs"]) == 8
    by_cell = {(r["mode"], r["leverage"]): r for r in summary["runs"]}
    assert {k: r["verdict"] for k, r in by_cell.items()} == {
        ("isolated", 2.0): "survived",
        ("cross", 2.0): "survived",
        ("multi-currency", 2.0): "survived",
        ("portfolio", 2.0): "survived",
        ("isolated", 10.0): "liquidated",
        ("cross", 10.0): "liquidated",
        ("multi-currency", 10.0): "liquidated",
        ("portfolio", 10.0): "refused",  # about 6.3x is what a fall of 12 % leaves room for
    }
    sizes = {json.dumps(r["contracts"]) for r in summary["runs"] if r["leverage"] == 10.0}
    assert len(sizes) == 1  # the number of contracts is the same in every mode
    isolated, cross = by_cell["isolated", 10.0], by_cell["cross", 10.0]
    assert isolated["final_equity_usd"] > 40_000  # the other half was never posted
    assert cross["final_equity_usd"] == pytest.approx(0.0, abs=1e-6)
    for r in summary["runs"]:  # where the money went adds up
        if r["verdict"] == "liquidated" and r["mode"] == "cross":
            assert r["liquidation_cost_usd"] > 0
    assert "generated" not in summary
    assert "time" not in summary


def test_the_same_study_twice_writes_the_same_bytes(tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        assert (
            call(
                "compare",
                "leveraged_long",
                "--mode",
                "cross",
                "--mode",
                "multi-currency",
                "--window",
                "2022-11-08",
                "--leverage",
                "5",
                "--workers",
                "1",
                "--out",
                str(tmp_path / name),
            )
            == 0
        )
    capsys.readouterr()
    for file in ("summary.json", "runs.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_refused_is_never_called_survived(tmp_path: Path, capsys) -> None:
    assert (
        call(
            "compare",
            "basis_carry",
            "--window",
            "2025-10-10",
            "--leverage",
            "2",
            "--workers",
            "1",
            "--json",
            "--out",
            str(tmp_path),
        )
        == 0
    )
    for row in json.loads(capsys.readouterr().out)["runs"]:
        if row["mode"] in ("multi-currency", "portfolio"):  # the spot leg is bought on credit
            assert (row["verdict"], row["reason"]) == ("survived", "")
            continue
        assert row["verdict"] == "refused"
        assert "could open at" in row["reason"]
        assert row["opened"] is False
        assert row["final_equity_usd"] == pytest.approx(row["start_equity_usd"])


def test_no_data_is_said(tmp_path: Path, capsys) -> None:
    assert (
        call(
            "compare",
            "leveraged_long",
            "--window",
            "2023-01-01/2023-01-05",
            "--leverage",
            "2",
            "--json",
            "--out",
            str(tmp_path),
        )
        == 0
    )
    assert {r["verdict"] for r in json.loads(capsys.readouterr().out)["runs"]} == {"no data"}


def test_windows_before_2022_may_stand_on_spot_and_say_so(tmp_path: Path, capsys) -> None:
    assert (
        call(
            "compare", "pair_long_short", "--window", "2020-03-12", "--leverage", "3", "--json", "--out", str(tmp_path)
        )
        == 0
    )
    for row in json.loads(capsys.readouterr().out)["runs"]:
        assert row["verdict"] != "no data"
        assert row["available_then"] is False
        assert "spot pair ETH/USDT stands in" in row["data_kind"]


def test_run_shows_events_and_ledger(capsys) -> None:
    assert call("run", "leveraged_long", "--leverage", "10", "--mode", "isolated") == 0
    text = capsys.readouterr().out
    assert "TakenOver" in text
    assert "penalty" in text


def test_a_users_own_strategy(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "strategies").mkdir()  # a user's own folder of that name does no harm
    (tmp_path / "strategies" / "__init__.py").write_text("raise RuntimeError('not the bundled ones')")
    (tmp_path / "mine.py").write_text(
        "import backtrader as bt\n"
        "class Mine(bt.Strategy):\n"
        "    params = (('leverage', 1),)\n"
        "    symbols = ('ETH/USDT:USDT',)\n"
        "    def next(self):\n"
        "        if not self.position:\n"
        "            self.order_target_percent(target=self.p.leverage)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert call("run", "mine:Mine", "--leverage", "3", "--json") == 0
    row = json.loads(capsys.readouterr().out)["row"]
    assert row["opened"] is True
    assert row["leverage"] == 3.0


def test_margin_prints_json_and_tables(tmp_path: Path, capsys) -> None:
    path = tmp_path / "book.json"
    path.write_text(json.dumps(BOOK))
    assert call("margin", str(path), "--json", "--stress") == 0
    body = json.loads(capsys.readouterr().out)
    assert [r["mode"] for r in body["reports"]] == ["isolated", "cross", "portfolio"]
    assert len(body["stress"]["cross"]) == 21
    assert call("margin", str(path)) == 0
    assert "liquidation at" in capsys.readouterr().out
    assert call("margin", str(path), "--mode", "multi-currency") == 2
    path.write_text("{not json")
    assert call("margin", str(path)) == 2


def test_windows_and_rules_are_listed(capsys) -> None:
    assert call("windows", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["id"] for r in rows] == [
        "2020-03-12",
        "2021-05-19",
        "2022-05-09",
        "2022-11-08",
        "2024-08-05",
        "2025-10-10",
    ]
    assert (
        call("rules", "--table", "position_tiers", "--symbol", "BTC/USDT:USDT", "--as-of", "2025-10-10", "--json") == 0
    )
    (row,) = json.loads(capsys.readouterr().out)
    assert row["grade"] == "snapshot"
    assert call("rules") == 0
    assert call("windows") == 0


def test_the_help_of_compare_names_every_bundled_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    from bt_margin.study.strategies import BUNDLED

    assert call("compare", "--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in BUNDLED)
