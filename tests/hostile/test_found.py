"""What hostile input found, each held by its smallest case: one error of ours, where another or none was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt_margin import MarginBroker, PositionBuilder
from bt_margin.engine.accrual import FundingSeries
from bt_margin.errors import InputError
from bt_margin.model.moment import iso, parse_time
from bt_margin.plugin import feeds
from bt_margin.rules import loading
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.study.study import Study
from bt_margin.study.survival import survival_map
from data_fetch import DataError
from data_fetch.files import load_file
from data_fetch.manifest import Manifest
from tests.command_line import call
from tests.hostile.books import BOOKS
from tests.hostile.candles import good
from tests.hostile.settings import Mine
from tests.hostile.studies import path

SWAP = "BTC/USDT:USDT"


SIZES = {"long": 10**400, "huge": 1e300, "tiny": 1e-320, "minus": -(2**70), "large": 1e19}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_number_beyond_all_sizes_is_refused_by_its_path(size: float) -> None:
    """It overflowed, or made figures that were infinite."""
    book = json.loads(json.dumps(BOOKS[0]))
    book["positions"][0]["contracts"] = size
    with pytest.raises(InputError, match=r"positions\[0\].contracts: expected a finite number, 0 or 1e-30 to 1e\+18"):
        PositionBuilder.from_dict(book)


def test_a_book_of_too_many_levels_is_refused() -> None:
    nest: Any = []
    for _ in range(2_000):
        nest = [nest]
    with pytest.raises(InputError, match="more than 12 levels"):
        PositionBuilder.from_dict({**BOOKS[0], "orders": nest})


@pytest.mark.parametrize("content", [b"\x80{}", b"[" * 50_000, b'{"time": "\xff"}', b'{"a":' * 900 + b"1" + b"}" * 900])
def test_a_book_that_is_no_text_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "book.json"
    path.write_bytes(content)
    assert call("margin", str(path)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_store_of_an_impossible_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", "--store", "A" * 3_000) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("given", [
    {"instruments": " "}, {"instruments": {SWAP: " "}}, {"fees": [1]}, {"discounts": 5}, {"borrow_tiers": "BTC"},
    {"parameters": {"liquidation": "x"}}, {"parameters": [1]}, {"instruments": {SWAP: {"contract_size": 10**400}}},
    {"instruments": {SWAP: {"tiers": [[10**400, 0.01, 0.02, 50]]}}},
    {"parameters": {"liquidation": {"liquidation_ratio": math.nan}}},
    {"parameters": {"liquidation": {"liquidation_ratio": -1.0}}}, {"parameters": {"portfolio": {"mr9_tiers": [[]]}}},
])
def test_overlays_that_are_none_are_refused(given: dict[str, Any]) -> None:
    """A ratio that is no number never liquidated."""
    with pytest.raises(InputError, match="expected"):
        load_rules("okx").overlay(**given)


def test_a_table_without_one_of_its_parameters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delivery.toml"
    path.write_text('[sources]\na = "page"\n[[revision]]\nparameter = "fee"\nvalue = 0.0001\n'
                    'effective = 2020-01-01T00:00:00Z\nevidence = "official"\nsource = "a"\n', "utf-8")
    tables = {**loading.read("okx"), "delivery": loading.read_table(path, "delivery")}
    with pytest.raises(InputError, match=r"rules\.delivery: .*average_minutes"):
        RuleBook(tables).as_of(1_760_000_000_000).delivery  # noqa: B018


@pytest.mark.parametrize(("column", "says"), [
    (["x"] * 6, "numbers"), ([1j] * 6, "numbers"), ([True] * 6, "numbers"), ([1e300] * 6, "above zero"),
    ([10**400] * 6, "numbers"),
])
def test_columns_of_other_types_are_refused(column: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        feeds.from_dataframe(good().assign(close=column), SWAP)


@pytest.mark.parametrize("timeframe", ["²h", "99999999999d"])
def test_timeframes_that_are_none_are_refused(timeframe: str) -> None:
    with pytest.raises(InputError, match="timeframe"):
        feeds.from_dataframe(good(), SWAP, timeframe)


@pytest.mark.parametrize("index", [pd.DatetimeIndex([pd.NaT] * 6), pd.date_range("1901-01-01", periods=6, freq="1h")])
def test_times_that_are_none_are_refused(index: Any) -> None:
    with pytest.raises(InputError, match="1970"):
        feeds.from_dataframe(good().set_axis(index), SWAP)


@pytest.mark.parametrize("rate", [1e200, -1.0, math.nan])
def test_funding_that_takes_more_than_the_position_is_refused(rate: float) -> None:
    """Beside 1e200 the money of the account was lost in the rounding."""
    with pytest.raises(InputError, match="from -1 to 1"):
        FundingSeries(np.array([1_760_000_000_000]), np.array([rate]))


def test_a_column_with_holes_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "2025.parquet"
    pq.write_table(pa.table({"ts": [1, None, 3], "rate": [1.0, 2.0, 3.0], "served_ms": [1, 2, 3]}), path)
    with pytest.raises(DataError, match="with 1 empty"):
        load_file(path, ("ts", "rate", "served_ms"))


@pytest.mark.parametrize("content", [
    b"x = " + b"[" * 5_000, b'[[window]]\nid = "a"\nsince = 0001-01-01T00:00:00+23:59\nuntil = 2023-01-01T00:00:00Z\n',
    b'[[window]]\nid = "a"\nsince = 2023-01-01T00:00:00Z\nuntil = "9999-12-31T23:59:59-23:59"\n', b"\xff",
])
def test_windows_of_the_user_that_are_none_are_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets ended in a traceback; a year that UTC does not have could be asked for and not be told."""
    (tmp_path / "windows.toml").write_bytes(content)
    assert call("windows", "--store", str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "windows.toml" in err


def test_the_last_moment_of_the_calendar_can_be_told() -> None:
    """It was rounded up to the year 10000."""
    assert iso(parse_time("9999-12-31T23:59:59.999999Z", "time")) == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize(("arguments", "says"), [
    (("--interest", "USDT=1e300"), "interest.USDT: expected a yearly rate from 0 to 8,760"),
    (("--interest", "USDT=0.1", "--interest", "usdt=0.2"), "interest: expected USDT once, found it twice"),
    (("--cash", "USDT=1", "--cash", "2"), "cash: expected USDT once"), (("--cash", "=5"), "cash: expected CURRENCY="),
    (("--cash", "USDT=1e300"), "up to 1e+18"),
    (("--mode", "multi-currency", "--borrow-leverage", "USDT=50"), "borrow.leverage.USDT: expected at most 10"),
])
def test_choices_that_were_taken_are_refused(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a currency given twice the last counted, and a rate of 1e300 lost the account's money in the rounding."""
    assert call("run", "leveraged_long", *arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("spec", [":", ".json:Long", "json:"])
def test_a_strategy_without_a_module_or_a_class_is_refused(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first two went to the importer and ended in a traceback, the third in that of an empty list."""
    assert call("compare", spec) == 2
    assert f"or module:Class, found {spec!r}" in capsys.readouterr().err


def test_maps_in_a_mode_that_is_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """They were left out without a word."""
    assert call("compare", "leveraged_long", "--maps", "crosss") == 2
    assert "expected one of isolated, cross" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "says"), [
    ({"borrow": {"leverage": {"USDT": 50}}}, "borrow.leverage.USDT: expected at most 10"),
    ({"borrow": {"leverage": {"USDT": 0.5}}}, "borrow.leverage.USDT: expected a setting of 1 or more"),
    ({"borrow": {"interest": {"USDT": 5}}}, "borrow.interest: a static book"),
    ({"balances": {"USDT": 1_000, "BTC": -1}}, "balances.BTC: expected zero or more"),
    ({"balances": {"USDT": math.nan}}, "balances.USDT: expected a finite number"),
    ({"positions": [{"symbol": "BTC/USDT", "direction": "long", "assets": 1}]}, "takes out no loans"),
    ({"positions": [{"symbol": "BTC/USD:BTC-251226-100000-C", "contracts": 1}]}, "options have no recorded path"),
    ({"positions": [{"symbol": SWAP, "contracts": 1, "liability": 5}]}, r"positions\[0\].liability: .* no spot pair"),
])
def test_a_book_that_a_survival_map_cannot_hold_is_refused(change: dict[str, Any], says: str) -> None:
    good = {"balances": {"USDT": 1_000}, "positions": [{"symbol": SWAP, "contracts": 1}]}
    with pytest.raises(InputError, match=says):
        survival_map({**good, **change}, path(), [2.0], [0])


def test_a_debt_beyond_the_last_tier_names_its_own_key() -> None:
    """It told the reader to give `instruments.USDT.tiers`, which nothing reads."""
    tiers = load_rules("okx").as_of(1_760_000_000_000, "nearest").borrow("USDT")
    with pytest.raises(InputError, match=r"USDT: a debt of 1e\+15 USDT is beyond .* give `borrow_tiers.USDT`$"):
        tiers.at(1e15)


@pytest.mark.parametrize("given", [
    {"mode": []}, {"mode": "cross", "slippage": ""}, {"mode": "cross", "cash": {"USDT": 10**400}},
    {"mode": "cross", "switches": [1]}, {"mode": "cross", "rules": "okx"}, {"mode": "cross", "strict": "no"},
    {"mode": "cross", "min_value": math.nan}, {"mode": "cross", "cash": {1: 5.0}}, {"mode": "cross", "leverage": True},
])
def test_settings_of_another_type_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        MarginBroker(**given)


@pytest.mark.parametrize("row", [{"symbol": SWAP}, {"contracts": "x"}, {"contracts": 1, "side": "long"}])
def test_dumps_that_lack_a_figure_are_refused(row: dict[str, Any]) -> None:
    """A KeyError told nobody what was missing."""
    balance = {"info": {"data": [{"uTime": "1764434109000", "details": [{"ccy": "USDT", "cashBal": "1000"}]}]}}
    with pytest.raises(InputError, match=r"positions\[0\]: "):
        PositionBuilder.from_ccxt([{"contracts": 1.0, **row}], balance)
    with pytest.raises(InputError, match="cashBal"):
        PositionBuilder.from_ccxt([], {"info": {"data": [{"uTime": "1", "details": [{"ccy": "USDT"}]}]}})


def test_a_manifest_of_endless_levels_is_refused() -> None:
    with pytest.raises(DataError, match="expected a manifest"):
        Manifest.load(b"[" * 50_000, "here")


@pytest.mark.parametrize(("said", "says"), [
    ({"symbols": SWAP}, "symbols: expected a list of names"), ({"symbols": [1]}, "symbols: expected a list"),
    ({"weights": [1.0]}, "weights: expected numbers by symbol"), ({"weights": {SWAP: "x"}}, "weights: expected"),
])
def test_what_a_strategy_says_of_itself_is_checked_first(
    said: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are none ended a study after its cells had run, with half of its files written."""
    for name, value in said.items():
        monkeypatch.setattr(Mine, name, value, raising=False)
    with pytest.raises(InputError, match=says):
        Study([Mine], ["cross"], ["2025-10-10"], [2.0])
