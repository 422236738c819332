"""Tier tables: recorded rows, and what holds for any ladder."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.errors import InputError
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.tiers import Tiers

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "tiers.toml").read_text("utf-8"))["vector"]
SNAPSHOT_MS = 1_767_010_080_000  # 2025-12-29T12:08Z
STEP = {"size": 20000.0, "mmr": 0.005, "imr": 0.005, "until_imr": 0.5}
BTC = Tiers.from_rows(
    "BTC/USDT:USDT",
    [[1000, 0.004, 0.01, 100], [5000, 0.005, 0.015, 66.66], [20000, 0.0075, 0.02, 50]],
    STEP,
)


def vectors(kind: str) -> list[Any]:
    return [pytest.param(v, id=v["id"]) for v in GOLDEN if v["kind"] == kind]


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return load_rules("okx")


@pytest.mark.parametrize("vector", vectors("position_tier"))
def test_recorded_row(book: RuleBook, vector: dict[str, Any]) -> None:
    tiers = book.as_of(SNAPSHOT_MS).tiers(vector["symbol"])
    row = tiers.rows[vector["tier"] - 1]
    assert row.number == vector["tier"]
    found = [row.max_size, row.maintenance, row.initial, row.max_leverage]
    assert found == vector["expected"]  # exactly: the ladder carries no float dust
    assert tiers.at(row.max_size) is row


@pytest.mark.parametrize("vector", vectors("maintenance_margin_tiered"))
def test_rate_of_the_tier_reached_multiplies_the_whole_size(book: RuleBook, vector: dict[str, Any]) -> None:
    rules = book.as_of(SNAPSHOT_MS)
    tier = rules.tiers(vector["symbol"]).at(-vector["contracts"])
    notional = rules.instrument(vector["symbol"]).notional(vector["contracts"], vector["mark"])
    assert tier.number == vector["tier"]
    assert notional * tier.maintenance == pytest.approx(vector["maintenance_margin"], rel=vector["rel_tol"])


@pytest.mark.parametrize("vector", vectors("max_position_by_leverage"))
def test_leverage_limits_size(vector: dict[str, Any]) -> None:
    rows = [[size, 0.005 + i / 1000, 1 / leverage, leverage] for i, (leverage, size) in enumerate(vector["tiers"])]
    tiers = Tiers.from_rows("MASK/USDT:USDT", rows)
    assert [tiers.max_size(leverage) for leverage in vector["leverages"]] == vector["expected"]
    assert tiers.max_size(tiers.max_leverage + 1) == 0.0


@pytest.mark.parametrize("vector", vectors("tier_size"))
def test_long_and_short_share_a_tier_in_cross(vector: dict[str, Any]) -> None:
    size = vector["long"] + vector["short"]
    assert size == vector["expected"]
    assert BTC.at(size).number == 4  # neither leg alone would leave tier 3


@pytest.mark.parametrize("size", [1_940_001, -2e6, math.inf, math.nan])
def test_no_rate_beyond_the_last_tier(size: float) -> None:
    with pytest.raises(InputError, match=r"beyond the largest known tier \(1940000\).*instruments.BTC/USDT:USDT"):
        BTC.at(size)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected rows"),
        ([[1, 0.01, 0.02]], r"tiers.X\[0\]: expected \[max size"),
        ([[1, 0.01, 0.02, 50], [1, 0.02, 0.03, 30]], r"tiers.X\[1\]: expected a max size above 1"),
        ([[1, 0.02, 0.03, 30], [2, 0.01, 0.02, 50]], r"tiers.X\[1\]: rates may not fall"),
        ([[1, 0.02, 0.03, 30], [2, 0.01, 0.03, 30]], r"tiers.X\[1\]: rates may not fall"),
        ([[1, 0.02, 0.04, 25], [2, 0.02, 0.03, 30]], r"tiers.X\[1\]: rates may not fall"),
        ([[1, 0.02, 0.02, 50]], r"tiers.X\[0\]: maintenance rate 0.02 must be below"),
        ([[math.nan, 0.01, 0.02, 50]], r"tiers.X\[0\]: expected four finite"),
        ([[math.inf, 0.01, 0.02, 50]], r"tiers.X\[0\]: expected four finite"),
        ([[1, 0.01, 0.02, True]], r"tiers.X\[0\]: expected four finite"),
        ([[1, 0.0, 0.02, 100]], r"tiers.X\[0\]: expected four finite numbers above zero"),
        (["1234"], r"tiers.X\[0\]: expected \[max size"),
    ],
)
def test_rows_that_make_no_table(rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tiers.from_rows("X", rows)


def test_steps_that_never_end() -> None:
    with pytest.raises(InputError, match=r"tiers.X.then: more than"):
        Tiers.from_rows("X", [[1, 0.001, 0.002, 100]], STEP | {"imr": 1e-9})
    with pytest.raises(InputError, match=r"tiers.X.then: expected steps above zero"):
        Tiers.from_rows("X", [[1, 0.001, 0.002, 100]], STEP | {"size": 0.0})
    with pytest.raises(InputError, match=r"tiers.X.then: expected steps above zero"):
        Tiers.from_rows("X", [[1, 0.001, 0.002, 100]], STEP | {"imr": 0.0})
    with pytest.raises(InputError, match=r"tiers.X.then: .* an end below 1"):
        Tiers.from_rows("X", [[1, 0.001, 0.002, 100]], STEP | {"until_imr": 1.0})


def test_a_ladder_may_have_a_thousand_steps_and_a_level_maintenance_rate() -> None:
    step = {"size": 1.0, "mmr": 0.0, "imr": 0.0001, "until_imr": 0.1002}
    tiers = Tiers.from_rows("X", [[1, 0.0001, 0.0002, 100]], step)
    assert (len(tiers.rows), tiers.rows[-1].initial) == (1001, 0.1002)
    assert {row.maintenance for row in tiers.rows} == {0.0001}
    with pytest.raises(InputError, match="more than 1000 tiers"):
        Tiers.from_rows("X", [[1, 0.0001, 0.0002, 100]], step | {"until_imr": 0.1003})


def test_a_table_read_from_its_fourth_tier_on_keeps_its_numbers() -> None:
    tiers = Tiers.from_rows("X", [[4, 0.02, 0.05, 20], [5, 0.03, 0.06, 16.66]], first_tier=4)
    assert [row.number for row in tiers.rows] == [4, 5]
    assert tiers.below(tiers.rows[1]) is tiers.rows[0]
    assert tiers.below(tiers.rows[0]) is None


@st.composite
def ladders(draw: st.DrawFn) -> Tiers:
    """A table of the venue's form: three printed rows, then a constant step."""
    first = draw(st.integers(1, 10**6))
    sizes = [first, first + draw(st.integers(1, 10**6)), first + 10**6 + draw(st.integers(1, 10**6))]
    rates = sorted(draw(st.lists(st.integers(4, 300), min_size=3, max_size=3)))
    initials = [rate + draw(st.integers(1, 50)) for rate in rates]
    initials = [max(initials[: i + 1]) for i in range(3)]
    rows = [
        [size, mm / 1000, im / 1000, round(1000 / im, 2)] for size, mm, im in zip(sizes, rates, initials, strict=True)
    ]
    step = {"size": draw(st.integers(1, 10**6)), "mmr": 0.005, "imr": 0.005, "until_imr": 0.5}
    return Tiers.from_rows("X/USDT:USDT", rows, step)


@given(ladders(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_size_never_asks_for_less(tiers: Tiers, a: float, b: float) -> None:
    limit = tiers.rows[-1].max_size
    small, large = (tiers.at(x * limit) for x in sorted((a, b)))
    assert small.number <= large.number
    assert small.maintenance <= large.maintenance
    assert small.initial <= large.initial


@given(ladders(), st.floats(0, 1))
def test_at_and_below_agree(tiers: Tiers, share: float) -> None:
    size = share * tiers.rows[-1].max_size
    tier = tiers.at(size)
    below = tiers.below(tier)
    assert tiers.at(-size) is tier
    assert size <= tier.max_size
    if below is None:
        assert tier is tiers.rows[0]
    else:
        assert below.number == tier.number - 1
        assert below.max_size < size or size == 0
        assert tiers.at(below.max_size) is below


@given(ladders())
def test_a_generated_ladder_ends_at_its_last_rate(tiers: Tiers) -> None:
    last, before = tiers.rows[-1], tiers.rows[-2]
    assert last.initial >= 0.5 > before.initial
    assert all(row.max_leverage <= 1 / row.initial + 1e-12 for row in tiers.rows[3:])
    assert [row.number for row in tiers.rows] == list(range(1, len(tiers.rows) + 1))


@given(ladders(), st.floats(1, 150), st.floats(1, 150))
def test_more_leverage_never_allows_more_size(tiers: Tiers, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert tiers.max_size(high) <= tiers.max_size(low)


def test_the_leverage_of_later_tiers_is_cut_as_the_venue_prints_it() -> None:
    tiers = Tiers.from_rows("X/USDT:USDT", [[20_000, 0.0075, 0.02, 50]], STEP)
    found = [(row.initial, row.max_leverage) for row in tiers.rows[1:4]]
    assert found == [(0.025, 40.0), (0.03, 33.33), (0.035, 28.57)]


def test_what_a_table_remembers_is_no_part_of_it() -> None:
    """Largest sizes once asked for, and its bounds, which are in its rows."""
    rows = [[10, 0.01, 0.02, 50], [20, 0.02, 0.04, 25]]
    one, same = (Tiers.from_rows("X/USDT:USDT", rows) for _ in range(2))
    assert one.max_size(25.0) == 20.0
    assert one == same
    assert one.unit == "contracts"
    assert repr(one) == repr(same)
    assert "_limits" not in repr(one)
    with pytest.raises(TypeError):
        Tiers("X/USDT:USDT", "contracts", one.rows, {25.0: 1.0})  # type: ignore[call-arg]


@pytest.mark.parametrize(("symbol", "unit", "what", "key"), [
    ("X/USDT:USDT", "contracts", "size", "instruments.X/USDT:USDT.tiers"),
    ("USDT", "USDT", "debt", "borrow_tiers.USDT"),
])
def test_beyond_the_last_tier_it_says_what_to_give(symbol: str, unit: str, what: str, key: str) -> None:
    tiers = Tiers.from_rows(symbol, [[10, 0.01, 0.02, 50], [20, 0.02, 0.04, 25]], unit=unit)
    with pytest.raises(InputError) as told:
        tiers.at(21.0)
    assert str(told.value) == (
        f"{symbol}: a {what} of 21 {unit} is beyond the largest known tier (20), where no rate is known; take a "
        f"smaller size or give `{key}`"
    )
