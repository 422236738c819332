"""What 10 BTC of basis (spot held, the perpetual sold) ask for in each mode: the README's table is computed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bt_margin import PositionBuilder
from bt_margin.model.assessment import AccountReport
from bt_margin.model.moment import iso
from bt_margin.modes import MODES
from bt_margin.plugin import feeds

README = Path(__file__).resolve().parents[2] / "README.md"
COINS = 10.0


def judged(crash: str, mode: str, usdt: float) -> tuple[AccountReport, float]:
    """The account at the first price of a window, and what the coins are worth."""
    (spot,) = feeds.from_samples(crash, ["BTC/USDT"])
    price = spot.first_price
    book = {
        "time": iso(spot.first_ms), "balances": {"USDT": usdt, "BTC": COINS},
        "positions": [{"symbol": "BTC/USDT:USDT", "contracts": -100 * COINS, "entry_price": price, "leverage": 10}],
        "prices": {"mark": {"BTC/USDT:USDT": price}, "index": {"BTC/USDT": price, "USDT/USD": 1.0}},
        "rules": {"extrapolate": "nearest"},
    }
    if mode == "portfolio" and crash < "2025":  # one settlement's unit had to be chosen for the spot then
        book["spot_in_use"] = {"unit": {"BTC": "USDT"}}
    return PositionBuilder.from_dict(book).report(mode), COINS * price


def capital(crash: str, mode: str) -> float:
    """The least equity at which the book may stand: all of the rest is borrowed where the mode lends. Borrow limits of
    the account's level aside."""
    rich, worth = judged(crash, mode, 200_000.0)
    if not MODES[mode].whole:  # the coins back nothing, margin and fee are USDT
        return worth + rich.account.initial_margin_usd + 0.0005 * worth
    low, high = -worth, 400_000.0
    for _ in range(40):
        middle = (low + high) / 2
        account = judged(crash, mode, middle)[0].account
        fits = (account.adjusted_equity_usd or 0.0) >= account.initial_margin_usd
        low, high = (low, middle) if fits else (middle, high)
    return worth + high


@pytest.mark.parametrize("crash", ["2024-08-05", "2025-10-10"])
def test_portfolio_margin_wins_on_capital_and_initial_margin_and_loses_on_maintenance(crash: str) -> None:
    needs = {mode: capital(crash, mode) for mode in MODES}
    account = {mode: judged(crash, mode, 200_000.0)[0].account for mode in MODES}
    assert needs["portfolio"] < needs["multi-currency"] < needs["cross"] == needs["isolated"]
    assert account["portfolio"].initial_margin_usd < account["multi-currency"].initial_margin_usd
    assert account["portfolio"].maintenance_margin_usd > account["cross"].maintenance_margin_usd  # tier 1
    text = README.read_text(encoding="utf-8")
    for mode in MODES:
        row = account[mode]
        figures = (row.initial_margin_usd, row.maintenance_margin_usd, needs[mode])
        assert " / ".join(f"{figure:,.0f}" for figure in figures) in text
