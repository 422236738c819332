"""Runs one fetch again and again, each time killed with SIGKILL at a random moment, then once to the end.

    python -m tests.fetch.killing URL ROOT KILLS      prints how far each run came, then the outcome, as JSON

ccxt is imported once; every run is a fork.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import ccxt.async_support  # noqa: F401  (before forking)
import pyarrow.parquet

from data_fetch.client import Settings
from data_fetch.download import fetch, series_of
from data_fetch.local import LocalStore

START, COUNT, MINUTE = 1_759_881_600_000, 10_000, 60_000


def run(url: str, root: str) -> str:
    store = LocalStore(root)
    keys = series_of(store, ["BTC/USDT:USDT"], ["trade"], MINUTE)
    settings = Settings(api_url=url, rate_ms=25, backoff_s=0.02)
    (outcome,) = asyncio.run(fetch(store, keys, START, START + COUNT * MINUTE, settings))
    return outcome.content


def main(url: str, root: str, kills: str) -> None:
    luck, came = random.Random(), []
    for _ in range(int(kills)):
        child = os.fork()
        if child == 0:
            run(url, root)
            os._exit(0)
        time.sleep(luck.uniform(0.03, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files = Path(root).glob("okx/trade/*/*/*.parquet")
        came.append(sum(pyarrow.parquet.read_metadata(f).num_rows for f in files))
    content = run(url, root)
    left = [p.name for p in Path(root).rglob("*.tmp")]
    print(json.dumps({"came": came, "content": content, "left": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
