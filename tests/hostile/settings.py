"""Settings of a broker and of the strategy it runs: any values in the place of good ones, over a short run."""

from __future__ import annotations

from typing import Any

import backtrader as bt
from hypothesis import strategies as st

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.plugin import feeds
from tests.hostile.candles import Once, good, settled
from tests.hostile.law import Target, damaged

SWAP = "BTC/USDT:USDT"
SETTINGS: tuple[dict[str, Any], ...] = (
    {"mode": "cross", "cash": {"USDT": 10_000.0, "BTC": 0.5}, "leverage": 5, "rules_as_of": "then", "path": "adverse",
     "extrapolate": "nearest", "slippage": 0.001, "min_value": 1e-9, "strict": False, "sleep": True},
    {"mode": "multi-currency", "cash": {"USDT": 20_000.0}, "leverage": {SWAP: 10}, "interest": {"USDT": 0.12},
     "borrow": {"auto": True, "leverage": {"USDT": 5}, "collateral_off": []}, "currency": "USDT"},
    {"mode": "isolated", "cash": 5_000.0, "leverage": 3, "position_mode": "hedge", "fees": {"swap": {"taker": 0.0005}},
     "instruments": {SWAP: {"contract_size": 0.01, "tick": 0.1, "lot": 0.01, "tiers": [[1e4, 0.004, 0.01, 100]]}},
     "rules_as_of": "2025-09-01", "path": "close"},
    {"mode": "portfolio", "cash": {"USDT": 50_000.0, "BTC": 1.0}, "interest": {"BTC": 0.05}, "path": "ohlc",
     "sleep": False},
)


def settings_law(case: tuple[Any, float]) -> None:
    """Settings are refused in one error, or the run ends with money that is there and conserved."""
    given, size = case
    if not set(given) <= {key for row in SETTINGS for key in row}:
        return  # backtrader drops what is no parameter of its broker
    cerebro = bt.Cerebro(stdstats=False)
    try:
        cerebro.broker = broker = MarginBroker(**given)
        cerebro.adddata(feeds.from_dataframe(good(), SWAP, "1h", "open"))
        cerebro.addstrategy(Once, size=size)
        cerebro.run()
    except InputError:
        return
    settled(broker)


def targets() -> list[Target]:
    sizes = st.sampled_from((1.0, -1.0, 30.0, -100.0, 1e15))
    return [Target("settings", st.tuples(damaged(SETTINGS), sizes), settings_law, 60)]
