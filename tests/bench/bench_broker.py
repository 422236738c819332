"""Our broker beside stock backtrader's on the same bars, one after the other in one process; prints ratios.

    python tests/bench/bench_broker.py [BARS]

Machines are noisy: each figure is a ratio of medians of five interleaved runs. Nothing is asserted here.
"""

from __future__ import annotations

import statistics
import sys
import time

import backtrader as bt
import numpy as np
import pandas as pd

from bt_margin.plugin import feeds
from bt_margin.plugin.broker import MarginBroker


class Hold(bt.Strategy):
    def next(self) -> None:
        if not self.position:
            self.buy(size=1)


class Cross(bt.Strategy):
    def __init__(self) -> None:
        self.signal = bt.ind.CrossOver(bt.ind.SMA(period=50), bt.ind.SMA(period=200))

    def next(self) -> None:
        if self.signal > 0 and not self.position:
            self.buy(size=1)
        elif self.signal < 0 and self.position:
            self.close()


def frame(bars: int) -> pd.DataFrame:
    steps = np.random.default_rng(7).normal(0, 0.0005, bars)
    close = 60_000 * np.exp(np.cumsum(steps))
    opened = np.concatenate([[60_000.0], close[:-1]])
    index = pd.date_range("2025-09-20", periods=bars, freq="1min", tz="UTC")
    return pd.DataFrame(
        {
            "open": opened,
            "high": np.maximum(opened, close) * 1.0002,
            "low": np.minimum(opened, close) * 0.9998,
            "close": close,
            "volume": 1.0,
        },
        index,
    )


def run(strategy: type, data: pd.DataFrame, mode: str | None) -> float:
    cerebro = bt.Cerebro(stdstats=False)
    symbol = "BTC/USDT:USDT" if mode else "BTC"
    cerebro.broker = MarginBroker(mode=mode, cash=1e6, leverage=5) if mode else bt.brokers.BackBroker(cash=1e6)
    cerebro.adddata(feeds.from_dataframe(data, symbol, "1m"))
    cerebro.addstrategy(strategy)
    began = time.process_time()
    cerebro.run()
    return time.process_time() - began


def main(bars: int = 20_000) -> None:
    data = frame(bars)
    print(f"{bars:,} minute bars, same feed, ratio of medians of five (ours / stock)")
    for strategy in (Hold, Cross):
        taken: dict[str | None, list[float]] = {None: [], "isolated": [], "cross": []}
        for _ in range(5):
            for mode in taken:
                taken[mode].append(run(strategy, data, mode))
        stock = statistics.median(taken[None])
        for mode in ("isolated", "cross"):
            print(f"{strategy.__name__:6} {mode:9} {statistics.median(taken[mode]) / stock:5.2f}")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:2]))
