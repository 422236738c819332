"""What is measured: bars, strategies, and one run of backtrader with its loading told from its running."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd

from bt_margin.plugin import feeds
from bt_margin.plugin.broker import MarginBroker
from bt_margin.plugin.options import option_chain

PRICES = {"BTC": 60_000.0, "ETH": 3_000.0, "SOL": 150.0, "XRP": 2.0, "DOGE": 0.2, "ADA": 0.8, "LTC": 100.0,
          "BCH": 500.0, "AVAX": 30.0, "LINK": 15.0}
OPTIONS = tuple(f"BTC/USD:BTC-{day}-{strike}-{right}" for day in ("260925", "261225") for right in "CP"
                for strike in (50_000, 70_000))
SYMBOLS = tuple(f"{coin}/USDT:USDT" for coin in PRICES)
CASH = 1e8  # nothing is refused and nothing is liquidated: every run does the same trades


class Hold(bt.Strategy):
    """A position in each of the first `held` feeds, from the first bar on."""

    params = (("held", 99),)

    def next(self) -> None:
        if len(self) == 1:
            for data in self.datas[: self.p.held]:
                self.buy(data=data, size=1)


class HoldOptions(bt.Strategy):
    """Every option feed, long and short by turns, from the first bar on; the underlying is there to look at."""

    def next(self) -> None:
        if len(self) == 1:
            for i, data in enumerate(self.datas[1:]):
                (self.buy if i % 2 else self.sell)(data=data, size=1)


class Cross(bt.Strategy):
    """Long while the quick average is above the slow one."""

    def __init__(self) -> None:
        self.signal = bt.ind.CrossOver(bt.ind.SMA(period=50), bt.ind.SMA(period=200))

    def next(self) -> None:
        if self.signal > 0 and not self.position:
            self.buy(size=1)
        elif self.signal < 0 and self.position:
            self.close()


class Flip(bt.Strategy):
    """A market order on every bar: in, out, in, out."""

    def next(self) -> None:
        if self.position:
            self.close()
        else:
            self.buy(size=1)


@dataclass(frozen=True)
class Case:
    """A strategy over so many instruments, and options of the first."""

    strategy: type[bt.Strategy]
    instruments: int = 1
    options: tuple[str, ...] = ()


CASES = {
    "held position": Case(Hold),
    "SMA cross": Case(Cross),
    "five instruments": Case(Hold, 5),
    "every-bar trading": Case(Flip),
    "ten positions": Case(Hold, 10),
    "eight options": Case(HoldOptions, 1, OPTIONS),
}


@dataclass(frozen=True)
class Job:
    """One run: which case, whose feed ("pandas" or "ours"), which mode (None: backtrader's own broker)."""

    case: str
    feed: str
    mode: str | None
    bars: int
    instruments: int | None = None  # otherwise the case's own
    held: int | None = None


def frame(bars: int, seed: int = 7, start: float = 60_000.0) -> pd.DataFrame:
    """Minute bars of a random walk, by their open times."""
    steps = np.random.default_rng(seed).normal(0, 0.0005, bars)
    close = start * np.exp(np.cumsum(steps))
    opened = np.concatenate([[start], close[:-1]])
    index = pd.date_range("2025-09-20", periods=bars, freq="1min", tz="UTC")
    high, low = np.maximum(opened, close) * 1.0002, np.minimum(opened, close) * 0.9998
    return pd.DataFrame({"open": opened, "high": high, "low": low, "close": close, "volume": 1.0}, index)


def make_feed(job: Job, symbol: str, data: pd.DataFrame) -> Any:
    if job.feed == "ours":
        return feeds.from_dataframe(data, symbol, "1m")
    return bt.feeds.PandasData(dataname=data, timeframe=bt.TimeFrame.Minutes)


def priced(underlying: pd.DataFrame, symbols: tuple[str, ...], kind: str) -> list[Any]:
    """Options as feeds of ours, or as frames with the same candles."""
    chain = option_chain(feeds.from_dataframe(underlying, SYMBOLS[0], "1m"), symbols, vol=0.6, carry=0.002)
    if kind == "ours":
        return list(chain)
    columns = ("open", "high", "low", "close", "volume")
    frames = [pd.DataFrame({name: feed.p.columns[name] for name in columns}, underlying.index) for feed in chain]
    return [bt.feeds.PandasData(dataname=data, timeframe=bt.TimeFrame.Minutes) for data in frames]


def measure(job: Job) -> dict[str, float]:
    """CPU seconds of loading (frames to preloaded lines) and of running, and the peak memory both took, in MB."""
    case = CASES[job.case]
    count = job.instruments or case.instruments
    frames = [frame(job.bars, 7 + i, price) for i, price in zip(range(count), PRICES.values(), strict=False)]
    before = peak()
    loading = 0.0

    def timed(what: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            nonlocal loading
            began = time.process_time()
            found = what(*args)
            loading += time.process_time() - began
            return found

        return wrapped

    cerebro = bt.Cerebro(stdstats=False)
    cash = {"USDT": CASH, "BTC": 100.0} if case.options else CASH
    cerebro.broker = (MarginBroker(mode=job.mode, cash=cash, leverage=5) if job.mode
                      else bt.brokers.BackBroker(cash=CASH))
    for symbol, data in zip(SYMBOLS, frames, strict=False):
        feed = timed(make_feed)(job, symbol, data)
        feed.preload = timed(feed.preload)
        cerebro.adddata(feed, name=symbol)
    for symbol, feed in zip(case.options, priced(frames[0], case.options, job.feed), strict=True):
        feed.preload = timed(feed.preload)
        cerebro.adddata(feed, name=symbol)
    held = {} if job.held is None else {"held": job.held}
    cerebro.addstrategy(case.strategy, **held)
    making = loading
    began = time.process_time()
    cerebro.run()
    running = time.process_time() - began - (loading - making)
    if case.strategy in (Hold, HoldOptions):  # a refused order would make a run cheap
        kept = sum(bool(cerebro.broker.getposition(data).size) for data in cerebro.datas)
        if kept != (len(case.options) or min(count, job.held or count)):
            raise RuntimeError(f"{job}: {kept} positions are held at the end")
    return {"load": loading, "run": running, "memory": peak() - before}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KB
