"""Basis carry, the same book in every mode: what portfolio margin gives and what it asks for more of."""

from __future__ import annotations

import pytest

from bt_margin.study.result import RunResult
from bt_margin.study.study import Study

SPAN = "2025-10-10T12:00/2025-10-11T12:00"  # the evening of the largest liquidation so far in the middle


@pytest.fixture(scope="module")
def small() -> dict[str, RunResult]:
    return {r.row["mode"]: r for r in Study(["basis_carry"], "all", [SPAN], [1.4]).run()}


def test_the_same_book_opens_in_every_mode_and_survives(small: dict[str, RunResult]) -> None:
    books = [r.row["contracts"] for r in small.values()]
    assert len(books) == 4
    assert all(book == books[0] for book in books)
    assert {r.row["verdict"] for r in small.values()} == {"survived"}
    spot, perpetual = books[0]["BTC/USDT"], books[0]["BTC/USDT:USDT"]
    assert spot == pytest.approx(-perpetual * 0.01, rel=2e-3)


def test_only_where_the_coins_count_are_they_a_hedge(small: dict[str, RunResult]) -> None:
    """Single-currency margin sees a short alone; the two modes that see the account are hardly moved by the price."""
    distance = {mode: r.row["entry_distance"] for mode, r in small.items()}
    assert distance["isolated"] < distance["cross"] < 60
    assert min(distance["multi-currency"], distance["portfolio"]) > 1_000


def test_portfolio_margin_asks_for_more_maintenance_at_the_first_tier(small: dict[str, RunResult]) -> None:
    """Closing costs of 0.45 % against a tier's 0.4 %: its ratio is the lower one, its initial margin too."""
    ratio = {mode: r.row["min_margin_ratio"] for mode, r in small.items()}
    assert 1 < ratio["portfolio"] < ratio["multi-currency"]
    (unit,) = small["portfolio"].series["risk_units"][0]["units"]
    notional = -small["portfolio"].row["contracts"]["BTC/USDT:USDT"] * 0.01 * 120_000
    assert unit["imr"] < notional / 2.8 / 20  # the setting of the other modes asks for 1 / 2.8 of it
    assert unit["mr1"] == pytest.approx(0.0, abs=0.002 * notional)


@pytest.mark.parametrize("mode", ["isolated", "cross", "multi-currency", "portfolio"])
def test_beyond_its_cash_the_book_needs_a_mode_that_lends(mode: str) -> None:
    (result,) = Study(["basis_carry"], [mode], [SPAN], [3.0]).run()
    if mode in ("isolated", "cross"):
        assert result.row["verdict"] == "refused"
        assert "whole book could open at" in result.row["reason"]
    else:
        assert result.row["verdict"] == "survived"
        assert result.row["interest_usd"] > 0
