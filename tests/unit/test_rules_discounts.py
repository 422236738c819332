"""Discount tiers, borrow tiers, limits and free quotas by date: transcribed figures, and what the tables may not do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.engine.builder import parse_time
from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.number import along
from bt_margin.rules import loading
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.credit import BorrowRow
from bt_margin.rules.discounts import DiscountRow, DiscountThen, Unit
from bt_margin.rules.lookups import Rules

LEVELS = {
    1: ((5e6, 1.0), (1e7, 0.975), (2e7, 0.975), (4e7, 0.95), (1e8, 0.9)),
    2: ((2e6, 0.95), (4e6, 0.85), (8e6, 0.5)),
    3: ((1e6, 0.9), (2e6, 0.8), (4e6, 0.5)),
    4: ((1e6, 0.85), (2e6, 0.75), (4e6, 0.5)),
    5: ((2.5e5, 0.8), (5e5, 0.7), (1e6, 0.5)),
    6: ((5e4, 0.5),),
}


def rules(day: str, extrapolate: str = "never", book: RuleBook | None = None) -> Rules:
    return (book or load_rules("okx")).as_of(parse_time(day, "day"), extrapolate)  # type: ignore[arg-type]


def graded(day: str, table: str, subject: str) -> tuple[str, int]:
    found = rules(day, "nearest", load_rules("okx").overlay())
    {"discounts": found.discount, "currency_borrow": found.borrow, "borrow_limits": found.borrow_limit}[table](subject)
    return next((e.grade, e.extrapolated_days) for e in found.evidence() if e.subject == subject)


def test_every_ladder_stands() -> None:
    tables = loading.read("okx")
    for name in ("discounts", "currency_borrow"):
        for history in tables[name].values():
            for revision in history:
                revision.row.tiers  # noqa: B018  raises where rows make no ladder
    assert all(amount >= 0 for history in tables["borrow_limits"].values() for amount in (r.row for r in history))


@pytest.mark.parametrize(
    ("coin", "level"),
    [("BTC", 1), ("USDT", 1), ("LTC", 2), ("DOGE", 3), ("SOL", 4), ("XRP", 4), ("BNB", 5), ("LUNA", 5), ("LUNC", 6)],
)
def test_levels_of_2023(coin: str, level: int) -> None:
    row = rules("2023-06-01").discount(coin)
    assert (row.tiers, row.unit, row.beyond) == (LEVELS[level], "usd", 0.0)
    assert row.weigh(1e12, 1.0) == row.weigh(LEVELS[level][-1][0], 1.0)  # a cap


@pytest.mark.parametrize(
    ("time", "coin", "rows"),
    [
        ("2022-05-12T13:59:59Z", "LUNA", LEVELS[3]),
        ("2022-05-12T14:00:00Z", "LUNA", ((5e4, 0.5),)),
        ("2022-06-09T00:00:00Z", "LUNA", ((5e4, 0.5),)),
        ("2022-06-10T00:00:00Z", "LUNA", LEVELS[5]),
        ("2022-09-15T12:59:59Z", "ETH", ((5e6, 0.95), (2e7, 0.925), (4e7, 0.9), (1e8, 0.85))),
        ("2022-09-15T13:00:00Z", "ETH", ((5e6, 1.0), (2e7, 0.975), (4e7, 0.95), (1e8, 0.9))),
        ("2023-05-19T06:59:59Z", "BETH", LEVELS[5]),
        ("2023-05-19T07:00:00Z", "BETH", ((1e6, 0.85), (2e6, 0.75), (4e6, 0.5))),
        ("2024-02-09T05:59:59Z", "BETH", LEVELS[2]),
        ("2024-02-09T06:00:00Z", "BETH", ((1e6, 0.8), (2e6, 0.75), (4e6, 0.5))),
        ("2024-07-18T08:00:00Z", "BETH", LEVELS[2]),
        ("2023-10-17T09:00:00Z", "TUSD", ()),
        ("2024-12-01T00:00:00Z", "AGLD", ((1000.0, 0.9), (1800.0, 0.88), (2800.0, 0.87))),
        ("2025-08-01T09:59:59Z", "USDG", ((2e6, 0.98),)),
        ("2025-08-01T10:00:00Z", "USDG", ((5e6, 0.98),)),
        ("2026-02-26T10:00:00Z", "USDG", ((4e7, 0.98),)),
    ],
)
def test_dated_tables(time: str, coin: str, rows: tuple[tuple[float, float], ...]) -> None:
    assert rules(time).discount(coin).tiers == rows


def test_what_is_a_guess_says_so() -> None:
    assert graded("2022-05-13", "discounts", "LUNA") == ("official", 0)
    assert graded("2023-06-01", "discounts", "SOL") == ("snapshot", 0)
    assert graded("2026-05-01", "discounts", "BTC") == ("snapshot", 0)
    for coin in ("BTC", "ETH", "USDT", "USDC"):
        assert graded("2025-10-10", "discounts", coin) == ("inferred", 0)
    grade, days = graded("2025-10-10", "discounts", "SOL")
    assert (grade, days) == ("inferred", 349)
    assert graded("2025-10-10", "currency_borrow", "USDT") == ("inferred", 0)
    assert graded("2026-05-01", "borrow_limits", "ETH") == ("snapshot", 0)
    choices = {r["subject"]: r["grade"] for r in load_rules("okx").listing() if r["table"] == "multi_currency"}
    assert {name for name, grade in choices.items() if grade == "inferred"} == {
        "borrow_rate", "borrow_initial", "option_value", "order_loss", "debt_penalty",
    }


@pytest.mark.parametrize("day", ["2020-03-12", "2021-05-19", "2022-05-09", "2022-11-08", "2024-08-05", "2025-10-10"])
def test_crash_days_have_what_a_coin_account_needs(day: str) -> None:
    found = rules(day, "nearest")
    for coin in ("BTC", "ETH", "USDT", "USDC", "SOL"):
        assert 0 < found.discount(coin).tiers[0][1] <= 1
    for coin in ("BTC", "ETH", "USDT", "USDC"):
        assert found.borrow(coin).max_leverage == 10
        assert found.borrow_limit(coin) > 0
    assert found.multi_currency.borrow_rate == "whole"


def test_a_currency_borrows_by_the_base_side_of_its_pair() -> None:
    found = rules("2023-07-01")
    assert found.borrow("BTC") == found.margin_tiers("BTC/USDT").base
    eth = [(r.max_size, r.maintenance) for r in found.borrow("ETH").rows[:3]]
    assert eth == [(500, 0.03), (1000, 0.0625), (1500, 0.1)]
    own = load_rules("okx").overlay(instruments={"BTC/USDT": {"tiers": [[7, 0.01, 0.05, 20]]}})
    assert rules("2023-07-01", book=own).borrow("BTC").rows[0].max_size == 7
    both = own.overlay(borrow_tiers={"BTC": [[3, 0.02, 0.1], [9, 0.03, 0.12]]})
    assert [r.max_leverage for r in rules("2019-01-01", book=both).borrow("BTC").rows] == [10.0, 8.33]
    with pytest.raises(NoRuleInForce, match="borrow_tiers"):
        found.borrow("NOPE")
    with pytest.raises(InputError, match="expected a currency"):
        found.borrow("BTC/USDT")


def test_the_proven_rate_of_a_stablecoin_debt() -> None:
    """OKX sample of 2025-01-15: a USDT debt of 78,553 USD at 2 % maintenance, 10 % initial."""
    tier = rules("2025-01-15").borrow("USDT").at(78_589.37)
    assert (tier.maintenance, tier.initial, tier.max_leverage) == (0.02, 0.1, 10.0)


def test_quotas_and_choices_by_date() -> None:
    assert [rules(d).free_quota("BTC").amount for d in ("2022-06-01", "2026-05-01")] == [1.0, 0.23]
    assert rules("2022-06-01").free_quota("USDT").enlarged_by == ("USDC",)
    assert rules("2025-06-01").free_quota("USDT").enlarged_by == ("USDC", "TUSD")
    assert rules("2025-06-01").free_quota("ETH").amount == 5
    assert [rules(d).multi_currency.isolated for d in ("2025-07-29", "2025-07-30")] == [True, False]
    assert [rules(d).multi_currency.collateral_switch for d in ("2025-03-25", "2025-03-26")] == [False, True]
    assert [rules(d).borrow_limit("BTC") for d in ("2024-10-20", "2024-10-21")] == [10, 175]


@given(st.floats(0, 300), st.floats(0, 300), st.floats(1, 1e6))
def test_weighing_is_marginal(a: float, b: float, usd: float) -> None:
    row = DiscountRow("BTC", "coin", ((20, 0.98), (25, 0.9775), (110, 0.5)))
    low, high = sorted((a, b))
    first, second = row.weigh(low, usd), row.weigh(high, usd)
    assert -1e-6 <= second - first <= (high - low) * usd * 0.98 * (1 + 1e-9) + 1e-6
    assert second <= high * usd
    assert np.allclose(row.weigh(np.array([low, high]), usd), [first, second], rtol=1e-12)


@given(st.lists(st.one_of(st.floats(0, 300), st.sampled_from([0.0, 20.0, 25.0, 110.0, math.nan])), min_size=1),
       st.floats(0.5, 2), st.sampled_from(["coin", "usd"]), st.sampled_from([0.0, 0.25]), st.booleans())
def test_many_count_to_the_bit_what_each_counts(
    amounts: list[float], usd: float, unit: Unit, beyond: float, prices: bool
) -> None:
    row = DiscountRow("BTC", unit, ((20, 0.98), (25, 0.9775), (110, 0.5)), beyond=beyond)
    each = usd * np.arange(1, len(amounts) + 1) if prices else np.full(len(amounts), usd)
    together = along(row.weigh(np.array(amounts), each if prices else usd), len(amounts))
    alone = [row.weigh(x, float(y)) for x, y in zip(amounts, each, strict=True)]
    assert np.array_equal(together, alone, equal_nan=True)


@pytest.mark.parametrize("amounts", [[110.5], [1.0, 110.5], [200.0, math.nan, 3.0]])
def test_above_what_was_read_one_of_many_is_enough_to_refuse(amounts: list[float]) -> None:
    row = DiscountRow("BTC", "coin", ((20, 0.98), (110, 0.5)), beyond=None)
    assert row.weigh(np.array([110.0, 20.0]), 1.0).tolist() == [20 * 0.98 + 90 * 0.5, 20 * 0.98]
    with pytest.raises(NoRuleInForce, match=r"what counts above 110 BTC was not read"):
        row.weigh(np.array(amounts), 1.0)


def test_usd_bounds_follow_the_price() -> None:
    row = DiscountRow("ETH", "usd", ((1e6, 1.0), (2e6, 0.5)), beyond=0.25)
    assert row.weigh(1000.0, 1000.0) == 1e6
    assert row.weigh(1000.0, 2000.0) == 1.5e6
    assert row.weigh(1000.0, 4000.0) == 1.5e6 + 0.5e6
    assert list(row.weigh(1000.0, np.array([1000.0, 2000.0]))) == [1e6, 1.5e6]


@pytest.mark.parametrize(
    "row",
    [
        DiscountRow("X", "coin", ((0.0, 0.9),)),
        DiscountRow("X", "coin", ((10.0, 0.9), (10.0, 0.8))),
        DiscountRow("X", "coin", ((10.0, 0.9), (20.0, 0.95))),
        DiscountRow("X", "coin", ((10.0, -0.1),)),
        DiscountRow("X", "coin", ((10.0, 0.9),), DiscountThen(0.0, 0.01, 0.0)),
        DiscountRow("X", "coin", ((10.0, 0.9),), DiscountThen(1.0, 1e-6, 0.0)),
        BorrowRow("X", ((10.0, 0.1, 0.05),)),
        BorrowRow("X", ((10.0, 0.02, 0.1), (5.0, 0.03, 0.2))),
    ],
)
def test_rows_that_make_no_ladder(row: DiscountRow | BorrowRow) -> None:
    with pytest.raises(InputError, match="X"):
        row.tiers  # noqa: B018


def test_the_grid_shows_these_tables() -> None:
    window = (parse_time("2025-10-10", ""), parse_time("2025-10-11", ""))
    grid = load_rules("okx").grid({"crash": window}, ["BTC/USDT:USDT"])
    for table in ("discounts", "currency_borrow", "multi_currency"):
        assert grid[table]["crash"] == "inferred"
    assert grid["borrow_limits"]["crash"] in ("inferred", "in force")
    assert all(row["summary"] for row in load_rules("okx").listing())
