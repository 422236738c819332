"""Books: the file of `bt-margin margin`, as a dict."""

from __future__ import annotations

from typing import Any

import pytest

from bt_margin import PositionBuilder
from bt_margin.errors import InputError
from bt_margin.model.assessment import AccountReport
from bt_margin.model.instrument import parse
from bt_margin.modes import MODES
from tests.hostile.law import Target, damaged, finite, rubbish

CALL = "BTC/USD:BTC-251226-100000-C"
TIERS = {"discounts": {"USDT": [[1e9, 1]], "BTC": [[10, 0.98], [1e6, 0.9]], "ETH": [[1e6, 0.95]]},
         "borrow_tiers": {"USDT": [[1e6, 0.02, 0.1], [1e8, 0.05, 0.2]], "BTC": [[1e3, 0.02, 0.1]]}}
PRICES = {"mark": {"BTC/USDT:USDT": 100_000, "ETH/USDT:USDT": 3_000, "BTC/USD:BTC": 100_000, CALL: 0.05,
                   "BTC/USDT:USDT-251226": 101_000},
          "index": {"BTC/USDT": 100_000, "ETH/USDT": 3_000, "BTC/USD": 100_000, "USDT/USD": 1.0}}
BOOKS: tuple[dict[str, Any], ...] = (
    {"time": "2025-10-08T00:00:00Z", "balances": {"USDT": 10_000, "BTC": 0.5},
     "positions": [{"symbol": "BTC/USDT:USDT", "contracts": 50, "entry_price": 99_000, "leverage": 10},
                   {"symbol": "ETH/USDT:USDT", "contracts": -10, "entry_price": 3_011, "margin_mode": "isolated",
                    "leverage": 10, "margin": 300.0}],
     "orders": [{"symbol": "BTC/USDT:USDT", "side": "sell", "amount": 4, "price": 100_500, "leverage": 10},
                {"symbol": "ETH/USDT:USDT", "side": "buy", "amount": 4, "leverage": 5, "reduce_only": True}],
     "prices": PRICES, "rules": {"extrapolate": "nearest"}, "fees": {"swap": {"taker": 0.0005, "maker": -0.0001}},
     "instruments": {"ETH/USDT:USDT": {"tick": 0.01, "tiers": [[1e4, 0.01, 0.02, 50], [1e6, 0.02, 0.04, 20]]}},
     **TIERS},
    {"time": "2025-10-08T00:00:00Z", "balances": {"USDT": -2_000, "BTC": 1.5, "ETH": 3}, "positions": [
        {"symbol": "BTC/USDT:USDT-251226", "contracts": -40, "entry_price": 101_000, "leverage": 5},
        {"symbol": "BTC/USD:BTC", "contracts": 200, "entry_price": 98_000, "leverage": 5},
        {"symbol": CALL, "contracts": -20, "entry_price": 0.04}],
     "orders": [{"symbol": "BTC/USDT", "side": "buy", "amount": 0.1, "price": 99_000}],
     "borrow": {"auto": True, "leverage": {"USDT": 5}, "interest": {"USDT": 3.5}, "collateral_off": ["ETH"]},
     "spot_in_use": {"cap": {"BTC": 1.0}}, "portfolio": {"mr4_floor": 0.003, "BTC.mr7_delta_one": 0.008},
     "prices": PRICES, "rules": {"extrapolate": "nearest"}, **TIERS},
    {"time": "2025-10-08T00:00:00Z", "balances": {"USDT": 50_000},
     "positions": [{"symbol": "BTC/USDT", "margin_mode": "isolated", "direction": "short", "margin_currency": "USDT",
                    "assets": 20_000, "liability": 0.15, "entry_price": 100_000, "leverage": 3, "margin": 8_000,
                    "interest": 0.0001}],
     "prices": {**PRICES, "last": {"BTC/USDT": 100_010}}, "rules": {"extrapolate": "nearest"}, **TIERS},
    {"time": "2025-10-08T00:00:00Z", "balances": {"BTC": 2},
     "positions": [{"symbol": CALL, "contracts": 30, "entry_price": 0.05}],
     "prices": {"vol": {CALL: 0.6}, "forward": {"BTC/USD:BTC-251226": 101_000}, "index": {"BTC/USD": 100_000}},
     "rules": {"extrapolate": "nearest", "as_of": "2025-06-01"}, **TIERS},
)
TRADES = {"BTC/USDT:USDT": -10.0}


def honest(report: AccountReport) -> None:
    """What a report says of itself adds up."""
    body = report.to_dict()
    finite(body)
    for pool in body["pools"]:
        needs = pool["maintenance_margin"] + pool["liquidation_fee"]
        if pool["margin_ratio"] is not None and needs > 1e-6:
            assert pool["margin_ratio"] * needs == pytest.approx(pool["equity"], rel=1e-6, abs=1e-6)
            if pool["margin_ratio"] < 1.0 and _at_risk(pool, body):
                assert pool["state"] == "liquidation"


def _at_risk(pool: dict[str, Any], body: dict[str, Any]) -> bool:
    """True where there is something to liquidate: where only orders rest, the venue cancels them."""
    if pool["name"].endswith("isolated"):
        return True
    settled = {parse(row["symbol"]).settle for row in body["positions"] if row["margin_mode"] == "cross"}
    if pool["name"] == "account":
        return bool(settled) or any(row["liability"] > 0 for row in body["currencies"])
    return pool["currency"] in settled


def book_law(book: Any) -> None:
    """Every mode answers with figures that add up, or refuses in one error."""
    try:
        builder = PositionBuilder.from_dict(book)
    except InputError:
        return
    for mode in MODES:
        try:
            honest(builder.report(mode))
        except InputError:
            continue
        for ask in (lambda m=mode: [[row.shift, row.equity_usd, row.margin_ratio] for row in builder.stress(m)],
                    lambda m=mode: builder.what_if(m, TRADES, 5.0).to_dict()):
            try:
                finite(ask())
            except InputError:
                continue


def targets() -> list[Target]:
    from hypothesis import strategies as st

    shapes = st.dictionaries(st.sampled_from(sorted({key for book in BOOKS for key in book})), rubbish, max_size=6)
    return [
        Target("book", damaged(BOOKS), book_law, 150),
        Target("book of rubbish", shapes, book_law, 60),
    ]
