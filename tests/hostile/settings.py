"""Settings of a broker, and what a strategy says of itself: any values in the place of good ones, over a short run."""

from __future__ import annotations

from typing import Any

import backtrader as bt
from hypothesis import strategies as st

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.modes import MODES
from bt_margin.plugin import feeds
from bt_margin.plugin.strategy import HoldOnce
from bt_margin.study.crash_maps import crash_maps
from bt_margin.study.study import Study
from bt_margin.study.survival import SurvivalMap
from tests.hostile.candles import Once, good, settled
from tests.hostile.law import Target, damaged, finite

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


class Mine(HoldOnce):
    """A strategy of a user: what its class says is another thing in every case."""


SAID: tuple[dict[str, Any], ...] = (
    {"weights": {SWAP: 1.0}, "symbols": [SWAP]},
    {"weights": {SWAP: 0.5, "ETH/USDT:USDT": -0.5}, "symbols": [SWAP, "ETH/USDT:USDT"], "optional": []},
    {"weights": {"BTC/USDT": 1.0}, "symbols": ["BTC/USDT", SWAP], "option_like": "BTC/USD:BTC-251226-100000-C",
     "options_on": SWAP},
)
SPAN = "2025-10-10T20:00/2025-10-11T00:00"


def strategy_law(case: tuple[Any, float, str]) -> None:
    """What a strategy says of itself is refused before anything runs, or every cell has a verdict."""
    said, leverage, mode = case
    if not isinstance(said, dict) or not all(isinstance(name, str) and name.isidentifier() for name in said):
        return
    before = {name: getattr(Mine, name) for name in ("weights", "symbols") if hasattr(Mine, name)}
    for name, value in said.items():
        setattr(Mine, name, value)
    try:
        study = Study(["tests.hostile.settings:Mine"], [mode], [SPAN], [leverage])
        (found,) = study.run(workers=1)
        for _, drawn in crash_maps(study, ["cross"]):
            assert isinstance(drawn, (str, SurvivalMap))
    except InputError:
        return
    finally:
        for name in said:
            delattr(Mine, name)
        for name, value in before.items():
            setattr(Mine, name, value)
    finite(found.row)
    assert (found.row["verdict"] in ("failed", "no data", "refused")) <= bool(found.row["reason"])


def targets() -> list[Target]:
    sizes = st.sampled_from((1.0, -1.0, 30.0, -100.0, 1e15))
    levers = st.sampled_from((1.0, 3.0, 9.0))
    modes = st.sampled_from(tuple(MODES))
    return [
        Target("settings", st.tuples(damaged(SETTINGS), sizes), settings_law, 60),
        Target("strategy", st.tuples(damaged(SAID), levers, modes), strategy_law, 10),
    ]
