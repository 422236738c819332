"""Studies: the same results whatever the executor, sums that add up, verdicts by the worst that happened."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import backtrader as bt
import pytest

from bt_margin.cli import main
from bt_margin.errors import InputError
from bt_margin.model.moment import HOUR, iso
from bt_margin.plugin import feeds
from bt_margin.report.narrative import takeover_paragraph
from bt_margin.study.judging import judge_run
from bt_margin.study.strategies import load, symbols_of, takes_leverage
from bt_margin.study.study import Study, run_cell, settings
from bt_margin.study.windows import window, windows


@pytest.fixture(scope="module")
def results():
    return Study(["leveraged_long", "pair_long_short"], "all", ["2025-10-10", "2022-11-08"], [3, 10]).run()


def test_where_the_money_went_adds_up(results) -> None:
    """start + price profit - fees + funding - liquidation cost + fund paid = final, when nothing is open."""
    for r in results:
        row, ledger = r.row, r.ledger
        traded = math.fsum(e["cash"] + e["margin"] for e in ledger if e["kind"] == "trade")
        moved = math.fsum(e["cash"] + e["margin"] for e in ledger)
        parts = (
            traded - row["fees_usd"] + row["funding_usd"] - row["liquidation_cost_usd"] + row["fund_paid_usd"]
            - row["interest_usd"]
        )
        assert parts == pytest.approx(moved, abs=1e-6)
        if row["verdict"] == "liquidated" and row["mode"] == "cross":
            assert row["final_equity_usd"] == pytest.approx(row["start_equity_usd"] + moved, abs=1e-6)


def test_sizes_are_the_same_in_every_mode(results) -> None:
    sizes: dict[tuple[str, str, float], set[str]] = {}
    for r in results:
        sizes.setdefault((r.row["strategy"], r.row["window"], r.row["leverage"]), set()).add(str(r.row["contracts"]))
    assert all(len(found) == 1 for found in sizes.values())


def test_exposure_is_what_was_asked(results) -> None:
    for r in results:
        if r.row["strategy"] == "leveraged_long":
            (contracts,) = r.row["contracts"].values()
            price = r.series["prices"]["BTC/USDT:USDT"][0]
            assert contracts * 0.01 * price / 100_000 == pytest.approx(r.row["leverage"], rel=1e-3)


def test_verdicts_follow_events(results) -> None:
    for r in results:
        names = {e["name"] for e in r.events}
        expected = (
            "bankrupt" if "Bankrupt" in names else "liquidated" if "TakenOver" in names
            else "reduced" if "Reduced" in names else "refused" if "Refused" in names or not r.row["opened"]
            else "survived"
        )
        assert r.row["verdict"] == expected
        assert (r.row["liquidated_at"] is not None) == ("TakenOver" in names)
        if r.row["verdict"] == "survived":
            assert r.row["min_margin_ratio"] > 1
            assert r.row["min_distance"] is None or r.row["min_distance"] > 0


def test_threads_give_the_same(results) -> None:
    study = Study(["leveraged_long"], ["isolated", "cross"], ["2025-10-10"], [3, 10])
    serial = study.run()
    with ThreadPoolExecutor(2) as threads:
        assert study.run(threads) == serial


def test_progress_counts_every_cell() -> None:
    seen: list[tuple[int, int]] = []
    Study(["leveraged_long"], ["cross"], ["2025-10-10"], [2, 3]).run(progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]


def test_rules_may_be_frozen_at_a_date() -> None:
    then, frozen = (
        Study(["leveraged_long"], ["isolated"], ["2022-11-08"], [5], rules_as_of=date).run()[0]
        for date in ("then", "2025-12-30")
    )
    assert then.row["rules_extrapolated_days"] > 300
    assert frozen.row["rules_extrapolated_days"] == 0
    assert then.row["min_margin_ratio"] != frozen.row["min_margin_ratio"] or then.row != frozen.row


def test_a_missing_price_in_strict_is_a_failed_cell() -> None:
    (result,) = Study(["leveraged_long"], ["cross"], ["2021-05-19"], [2], strict=True).run()
    assert result.row["verdict"] == "failed"
    assert "strict" in result.row["reason"]


class Mistaken(bt.Strategy):
    """Asks on its third bar for what no venue has."""

    def next(self) -> None:
        if len(self) == 3:
            self.buy(colour="red")


def test_a_cell_that_fails_on_the_way_says_when() -> None:
    (result,) = Study(["tests.unit.test_study:Mistaken"], ["cross"], ["2025-10-10"], [2]).run()
    assert result.row["verdict"] == "failed"
    began = window("2025-10-10").since
    assert result.row["reason"].startswith(f"in the bar that ends {iso(began + 3 * HOUR)}: ")
    assert "colour" in result.row["reason"]


def test_the_grid_covers_every_table() -> None:
    rows = Study().grid()
    assert {r["window"] for r in rows} == {"2025-10-10", "2022-11-08"}
    tiers = {r["window"]: r["status"] for r in rows if r["table"] == "position_tiers"}
    assert tiers["2025-10-10"].startswith("in force")
    assert "extrapolated" in tiers["2022-11-08"]


def test_settings_are_twice_the_exposure_capped_by_the_tier() -> None:
    study = Study(["pair_long_short"], ["cross"], ["2025-10-10"], [3, 80])
    assert [settings(task, symbols_of(load(task.strategy))) for task in study.tasks] == [
        {"BTC/USDT:USDT": 6.0, "ETH/USDT:USDT": 6.0}, {"BTC/USDT:USDT": 100.0, "ETH/USDT:USDT": 100.0},
    ]


def test_strategies_and_windows_are_found() -> None:
    assert takes_leverage(load("leveraged_long"))
    assert symbols_of(object()) == ("BTC/USDT:USDT",)
    assert window("2025-10-01/2025-10-02T12:00").until - window("2025-10-01/2025-10-02").since == 36 * 3_600_000
    assert len(windows()) == 6
    with pytest.raises(InputError):
        load("leveraged_short")
    with pytest.raises(InputError, match="mode: expected one of isolated"):
        Study(modes=["folio"])


@pytest.mark.parametrize("spec", [":", ":Long", "json:", ".json:Long", "json.:Long", "json:A B", "a b:Long", ""])
def test_what_has_not_the_form_of_a_module_and_its_class_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="or module:Class, found"):
        load(spec)


def test_a_cell_never_raises_for_its_own_trouble() -> None:
    (task,) = Study(["leveraged_long"], ["cross"], ["2018-01-01/2018-01-02"], [2]).tasks
    assert run_cell(task).row["verdict"] == "no data"


@pytest.mark.parametrize(("crash", "exposure"), [("2022-05-09", 2.0), ("2025-10-10", 5.0)])
def test_the_coin_account_dies_where_the_stablecoin_account_lives(crash: str, exposure: float) -> None:
    """Equal USD value, the same contracts per USD: collateral that falls with the position, or that does not."""
    (feed,) = feeds.from_samples(crash, ["BTC/USDT:USDT"])
    coins = 100_000.0 / feed.first_price
    stable, coin = (
        Study(["leveraged_long"], ["multi-currency"], [crash], [exposure], cash=cash).run()[0]
        for cash in ({"USDT": 100_000.0}, {"BTC": coins})
    )
    assert coin.row["start_equity_usd"] == pytest.approx(stable.row["start_equity_usd"], rel=0.01)
    assert stable.row["verdict"] == "survived"
    assert coin.row["verdict"] in ("liquidated", "bankrupt")
    taken = next(event for event in coin.events if event["name"] == "TakenOver")
    converted = next(event for event in coin.events if event["name"] == "Converted")
    assert (converted["sold"], converted["bought"]) == ("BTC", "USDT")
    story = takeover_paragraph(coin, taken)
    for term in ("discounted BTC", "borrow margin USDT", "position margin BTC/USDT:USDT", "are owed", "Conversion of"):
        assert term in story


# -- windows of one's own -----------------------------------------------------------------------------------------

OWN = """
[[window]]
id = "2025-10-10"
title = "The last hours of it"
since = 2025-10-10T12:00:00Z
until = 2025-10-11T12:00:00+02:00

[[window]]
id = "quiet day"
since = 2025-10-07T00:00:00Z
until = 2025-10-08T00:00:00Z
"""


def test_a_store_adds_windows_and_overrides_embedded_ones(tmp_path: Path, capsys) -> None:
    (tmp_path / "windows.toml").write_text(OWN)
    found = windows(str(tmp_path))
    assert len(found) == 7
    assert list(found)[-1] == "quiet day"
    changed, kept = found["2025-10-10"], found["2020-03-12"]
    assert (changed.title, changed.until - changed.since) == ("The last hours of it", 22 * 3_600_000)
    assert (changed.origin, kept.origin) == (str(tmp_path / "windows.toml"), "embedded")
    assert windows()["2025-10-10"].origin == "embedded"
    (own,) = Study(["leveraged_long"], ["cross"], ["2025-10-10"], [3], store=str(tmp_path)).run()
    assert len(own.series["time"]) == 22
    (quiet,) = Study(["leveraged_long"], ["cross"], ["quiet day"], [3], store=str(tmp_path)).run()
    assert quiet.row["verdict"] == "survived"
    with pytest.raises(SystemExit, match="0"):
        main(["windows", "--json", "--store", str(tmp_path)])
    told = {row["id"]: row["origin"] for row in json.loads(capsys.readouterr().out)}
    assert told["quiet day"] == str(tmp_path / "windows.toml")
    assert told["2020-03-12"] == "embedded"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[window]", "expected \\[\\[window\\]\\] tables"),
        ("[[window]]\nid = 'x'\nsince = 2025-01-01T00:00:00Z", "until"),
        ("[[window]]\nid = 'x'\nbegin = 1", "begin"),
        (OWN.replace("2025-10-07T00:00:00Z", "2025-10-07T00:00:00"), "since: expected a time with its zone"),
        (OWN.replace("2025-10-07", "2025-10-09"), "'quiet day': expected a start before its end"),
        (OWN.replace("quiet day", "2025-10-10"), "'2025-10-10': expected every id once"),
        (OWN.replace("quiet day", "a/b"), "'a/b': expected an id such as"),
        (OWN.replace("quiet day", ""), "'': expected an id such as"),
    ],
)
def test_windows_that_cannot_be_used_are_one_clear_error(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "windows.toml").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        window("2025-10-10", str(tmp_path))
    assert str(tmp_path / "windows.toml") in str(caught.value)


# -- verdicts and sums --------------------------------------------------------------------------------------------


def test_a_bankruptcy_names_each_currency_by_itself() -> None:
    events = [{"name": "Bankrupt", "time": 0, "currency": c, "amount": a}
              for c, a in (("USDT", 1_000.0), ("BTC", 0.25), ("USDT", 234.5))]
    verdict, at, reason = judge_run(object(), {"events": events, "ledger": [{"kind": "trade"}]})
    assert (verdict, at) == ("bankrupt", None)
    assert reason == "account: the insurance fund paid 0.25 BTC and 1,234.50 USDT"
