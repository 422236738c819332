"""Thousands of resting orders, and many instruments that fall together: how the time of a run grows with their number.

    python tests/bench/bench_orders.py                                     # everything, three repeats
    python tests/bench/bench_orders.py --parts resting --modes cross --largest 400 --repeats 1

Every run has a process of its own; sizes take turns, and a figure is the median of their CPU times, run alone (no
loading). The exponent is fitted by least squares: 1 is linear; below, a fixed part. Nothing is asserted: machines are
noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import backtrader as bt
from bench_broker import exponent, names_of
from cases import SYMBOLS, frame

from bt_margin.modes import MODES
from bt_margin.plugin import feeds
from bt_margin.plugin.broker import MarginBroker

SIZES = {"resting": (100, 200, 400, 800, 1_600, 3_200), "met": (100, 200, 400, 800, 1_600, 3_200),
         "together": (10, 25, 50, 100)}
SLICED = (5, 10, 20, 40)
"""Instruments that are liquidated together in portfolio margin, each in some sixty slices."""
WORDS = {"resting": "limits that rest over 1,000 bars beside a position", "met": "limits that are met within 20 bars",
         "together": "instruments that are liquidated together"}


class Ladder(bt.Strategy):
    """A position, and as many limits: half below and half above the market, or all of them just below it."""

    params = (("orders", 0), ("met", False))

    def next(self) -> None:
        if len(self) == 2:
            self.buy(size=1)
            for i in range(self.p.orders):
                side = self.sell if i % 2 and not self.p.met else self.buy
                price = (59_990.0 if self.p.met else 90_000.0 if i % 2 else 30_000.0) - 0.1 * i
                side(size=0.1, exectype=bt.Order.Limit, price=price)


class All(bt.Strategy):
    """One and a half times the account in equal parts, long."""

    def next(self) -> None:
        if len(self) == 2:
            for data in self.datas:
                self.buy(data=data, size=int(15_000 / len(self.datas)) / 100)


def one(part: str, mode: str, size: int) -> float:
    """CPU seconds of one run. Raises where it did not do what is measured."""
    cerebro = bt.Cerebro(stdstats=False)
    if part == "together":
        data = frame(40, start=100.0)
        data.loc[data.index[20]:] *= 0.25
        symbols = [f"C{i:03d}/USDT:USDT" for i in range(size)]
        row = {"contract_size": 1.0, "tick": 0.01, "lot": 0.01, "tiers": [[1e6, 0.01, 0.02, 50]]}
        cerebro.broker = MarginBroker(mode=mode, cash=10_000.0, leverage=5.0, instruments=dict.fromkeys(symbols, row))
        cerebro.addstrategy(All)
    else:
        data = frame(1_000 if part == "resting" else 40)
        if part == "met":
            data.loc[data.index[5]:, ["open", "high", "low", "close"]] = 60_000.0
            steps = 60_000.0 - 0.1 * size * (data.index[5:25] - data.index[4]).total_seconds() / 60.0 / 20.0 - 11.0
            data.loc[data.index[5:25], "low"] = steps
        symbols = list(SYMBOLS[:1])
        cerebro.broker = MarginBroker(mode=mode, cash=1e8, leverage=5.0)
        cerebro.addstrategy(Ladder, orders=size, met=part == "met")
    for symbol in symbols:
        cerebro.adddata(feeds.from_dataframe(data, symbol, "1m"))
    began = time.process_time()
    cerebro.run()
    taken = time.process_time() - began
    account = cerebro.broker.account
    left = {"resting": size, "met": 0, "together": 0}[part]
    if len(account.orders) != left or bool(account.positions) == (part == "together"):
        raise RuntimeError(f"{part} {mode} {size}: {len(account.orders)} orders, {len(account.positions)} positions")
    return taken


def play(part: str, mode: str, size: int) -> float:
    done = subprocess.run([sys.executable, __file__, "--one", json.dumps([part, mode, size])], check=True,
                          capture_output=True, text=True)
    return float(done.stdout)


def table(part: str, modes: list[str], largest: int, repeats: int) -> None:
    print(f"\nSeconds of CPU by number of {WORDS[part]}")
    above: list[int] = []
    for mode in modes:
        chosen = SLICED if (part, mode) == ("together", "portfolio") else SIZES[part]
        sizes = [size for size in chosen if size <= largest]
        if sizes != above:
            print("\n| mode | " + " | ".join(f"{size:,}" for size in sizes) + " | exponent |")
            print("|---|" + "---|" * (len(sizes) + 1))
            above = sizes
        runs: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(repeats):
            for size in sizes:
                runs[size].append(play(part, mode, size))
        taken = [statistics.median(runs[size]) for size in sizes]
        cells: list[Any] = [mode, *(f"{seconds:.2f}" for seconds in taken), f"{exponent(sizes, taken):.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="", help=f"of: {', '.join(SIZES)}")
    parser.add_argument("--modes", default="", help=f"of: {', '.join(MODES)}")
    parser.add_argument("--largest", type=int, default=10_000, help="leave larger sizes out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(one(*json.loads(given.one)))
        return
    for part in names_of(given.parts, tuple(SIZES), "--parts"):
        table(part, names_of(given.modes, tuple(MODES), "--modes"), given.largest, given.repeats)


if __name__ == "__main__":
    main()
