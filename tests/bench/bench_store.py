"""A year of minutes in the store: write, read, gap scan, hash, and what a commit of one page costs.

    python tests/bench/bench_store.py

Best of three; nothing is asserted here. Figures are prices with one decimal, volumes with four.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_fetch.files import content_hash
from data_fetch.files import split as by_file
from data_fetch.local import LocalStore, Page

MINUTE, YEAR = 60_000, 525_600
START = 1_735_689_600_000  # 2025-01-01


def year() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    close = np.round(95_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, YEAR))), 1)
    opened = np.concatenate([[95_000.0], close[:-1]])
    coins = np.round(rng.exponential(2, YEAR), 4)
    rows = {"ts": START + MINUTE * np.arange(YEAR), "open": opened, "high": np.maximum(opened, close) + 5,
            "low": np.minimum(opened, close) - 5, "close": close, "volume": coins, "contracts": coins * 100,
            "quote_volume": np.round(coins * close, 2)}
    keep = np.ones(YEAR, dtype=bool)
    for at in rng.integers(0, YEAR, 50):
        keep[at : at + 30] = False  # holes for the scan
    return {name: values[keep] for name, values in rows.items()}


def best(what: Callable[[], Any], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    rows = year()
    span = (START, START + YEAR * MINUTE)
    with tempfile.TemporaryDirectory() as folder:
        taken = []
        for i in range(3):
            store = LocalStore(Path(folder, str(i)))
            key = store.key("BTC/USDT:USDT", "trade", MINUTE)
            with store.lock(key):
                began = time.perf_counter()
                store.writer(key).commit([Page(span, rows)], 1)
                taken.append(time.perf_counter() - began)
        size = sum(e.size for e in store.manifest(key).files.values())
        print(f"{len(rows['ts']):,} minutes, 8 columns: {size / 1e6:.1f} MB in {len(store.manifest(key).files)} files")
        print(f"write, flushed to the disk   {min(taken) * 1e3:7.0f} ms")
        print(f"read all, hashes checked     {best(lambda: store.read(key, *span)) * 1e3:7.0f} ms")
        week = (START + 200 * 1440 * MINUTE, START + 207 * 1440 * MINUTE)
        print(f"read a week                  {best(lambda: store.read(key, *week)) * 1e3:7.0f} ms")
        print(f"gap scan, times read         {best(lambda: store.gaps(key, *span)) * 1e3:7.0f} ms")
        print(f"gap scan, times in memory    {best(lambda: store.manifest(key).gaps(rows['ts'], *span)) * 1e3:7.1f} ms")
        print(f"content hash                 {best(lambda: content_hash(rows)) * 1e3:7.0f} ms")
        fresh = LocalStore(Path(folder, "pages"))
        with fresh.lock(key):
            writer = fresh.writer(key)
            _, month = next(by_file(MINUTE, rows))
            began, pages = time.perf_counter(), 0
            for at in range(0, len(month["ts"]), 300):
                part = {name: values[at : at + 300] for name, values in month.items()}
                writer.commit([Page((int(part["ts"][0]), int(part["ts"][-1]) + MINUTE), part)], 1)
                pages += 1
            each = (time.perf_counter() - began) / pages
            print(f"commit of a page of 300      {each * 1e3:7.1f} ms (mean of a month)")


if __name__ == "__main__":
    main()
