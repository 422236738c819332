"""The server, real rows where they are at hand, and a patient client with short waits."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_fetch.client import Settings
from data_fetch.download import Outcome, fetch, series_of
from data_fetch.local import LocalStore

from .okx_wire import MINUTE, OkxServer, Row, price_row, trade_row

START = 1_759_881_600_000  # 2025-10-08
COUNT = 10_000
NOW = START + (COUNT + 60) * MINUTE
SWAP = "BTC/USDT:USDT"
OUTAGE = (START + 4_000 * MINUTE, START + 4_700 * MINUTE)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "2025-10-10_binance_BTCUSDT_spot_1m.csv.gz"


def minutes(count: int = COUNT) -> np.ndarray[Any, Any]:
    """`count` minutes from START: ts, open, high, low, close, coins. Real ones of October 2025 where present."""
    if SHARED.exists():
        with gzip.open(SHARED, "rt") as file:
            rows = np.loadtxt(file, delimiter=",", skiprows=1)
        at = int(np.searchsorted(rows[:, 0], START))
        if len(rows) >= at + count and rows[at, 0] == START and rows[at + count - 1, 0] == START + (count - 1) * MINUTE:
            return np.asarray(rows[at : at + count, :6])
    rng = np.random.default_rng(10)
    close = np.round(120_000 * np.exp(np.cumsum(rng.normal(0, 4e-4, count))), 1)
    opened = np.concatenate([[120_000.0], close[:-1]])
    wick = np.round(rng.exponential(20, (2, count)), 1)
    ts = START + MINUTE * np.arange(count)
    coins = np.round(rng.exponential(3, count), 4)
    high, low = np.maximum(opened, close) + wick[0], np.minimum(opened, close) - wick[1]
    return np.column_stack([ts, opened, high, low, close, coins])


REAL = minutes()
TRADES: list[Row] = [trade_row(int(r[0]), *map(float, r[1:])) for r in REAL]
MARKS: list[Row] = [price_row(int(r[0]), *map(float, r[1:5])) for r in REAL]


def outside(rows: list[Row], lo: int, hi: int) -> list[Row]:
    return [row for row in rows if not lo <= int(row[0]) < hi]


@pytest.fixture
def okx() -> Iterator[OkxServer]:
    with OkxServer() as server:
        server.candles["history-candles", "BTC-USDT-SWAP"] = TRADES
        server.candles["history-mark-price-candles", "BTC-USDT-SWAP"] = MARKS
        server.candles["history-index-candles", "BTC-USDT"] = MARKS
        server.funding["BTC-USDT-SWAP"] = [(START + i * 8 * 60 * MINUTE, f"{0.0001 + i * 1e-6:.6f}")
                                           for i in range(-300, 21)]
        server.tables["instruments"] = [{"instType": "SWAP", "instId": "BTC-USDT-SWAP", "instFamily": "BTC-USDT",
                                         "listTime": "1573557408000", "expTime": ""}]
        yield server


def settings(okx: OkxServer, **changes: Any) -> Settings:
    given = {"backoff_s": 0.01, "rate_ms": 1, "timeout_s": 10.0, "now_ms": lambda: NOW, **changes}
    return Settings(api_url=okx.url, **given)


def get(
    okx: OkxServer, root: Path, kinds: str = "trade", symbol: str = SWAP, lo: int = START,
    hi: int = START + COUNT * MINUTE, watch: Any = lambda progress: None, **changes: Any,
) -> list[Outcome]:
    """One fetch as the command line does it."""
    store = LocalStore(root)
    keys = series_of(store, [symbol], kinds.split(","), MINUTE)
    return asyncio.run(fetch(store, keys, lo, hi, settings(okx, **changes), watch))


def one(okx: OkxServer, root: Path, kinds: str = "trade", **changes: Any) -> Outcome:
    (outcome,) = get(okx, root, kinds, **changes)
    return outcome


