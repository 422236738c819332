"""The pure core, without backtrader: how often a second an account is judged, and reported in full.

    python tests/bench/bench_core.py [--sizes 1,10,100]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bt_margin.model.account import Account, Position
from bt_margin.model.market import Market
from bt_margin.modes import MODES
from bt_margin.modes.assess import account_pools, assess
from bt_margin.modes.base import MarginMode, judge
from bt_margin.rules.book import Rules, load_rules

NOW = 1_759_000_000_000  # September 2025
GRID = 1_024


def book(size: int, mode: MarginMode, rules: Rules) -> tuple[Account, Market]:
    """`size` linear swaps, long and short by turns: BTC's lots, their own tiers; above ten, several legs of each."""
    account = Account({"USDT": 1e9})
    marks: dict[str, float] = {}
    bitcoin = rules.instrument("BTC/USDT:USDT")
    coins = ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "LTC", "BCH", "AVAX", "LINK")
    for i in range(size):
        symbol = f"{coins[i % len(coins)]}/USDT:USDT"
        side = "net" if size <= len(coins) else f"leg {i // len(coins)}"
        instrument = replace(bitcoin, symbol=symbol, base=symbol.partition("/")[0])
        marks[symbol] = 60_000.0 + i % len(coins)
        held = "isolated" if mode.name == "isolated" else "cross"
        margin = 200_000.0 if held == "isolated" else 0.0
        account.adopt(Position(instrument, held, side, 1.0 if i % 2 else -1.0, 60_000.0, 5.0, margin))
    indexes = {symbol.partition(":")[0]: price for symbol, price in marks.items()}
    return account, Market(NOW, marks, dict(marks), indexes)


def rate(what: Callable[[], object], seconds: float = 0.5) -> float:
    """Calls a second, best of three."""
    best = 0.0
    for _ in range(3):
        done, began = 0, time.process_time()
        while (spent := time.process_time() - began) < seconds / 3:
            what()
            done += 1
        best = max(best, done / spent)
    return best


def table(sizes: Sequence[int]) -> list[str]:
    rules = load_rules().as_of(NOW, "nearest")
    rows = [f"| mode | positions | judged a second | reported in full a second | judged a second, {GRID} at once |",
            "|---|---|---|---|---|"]
    for mode in MODES.values():
        for size in sizes:
            account, market = book(size, mode, rules)
            path = np.linspace(0.9, 1.1, GRID)
            many = replace(market, marks={k: v * path for k, v in market.marks.items()},
                           lasts={k: v * path for k, v in market.lasts.items()},
                           indexes={k: v * path for k, v in market.indexes.items()})

            def judged(at: Market, account: Account = account, mode: MarginMode = mode) -> list[object]:
                return [judge(pool, at, rules).gap for pool in account_pools(account, mode) if pool.positions]

            def reported(account: Account = account, mode: MarginMode = mode, market: Market = market) -> object:
                return assess(account, mode, market, rules)

            one = rate(lambda at=market, run=judged: run(at))  # type: ignore[misc]
            grid = rate(lambda at=many, run=judged: run(at)) * GRID  # type: ignore[misc]
            rows.append(f"| {mode.name} | {size:,} | {one:,.0f} | {rate(reported):,.0f} | {grid:,.0f} |")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,10,100")
    print("\n".join(table([int(text) for text in parser.parse_args().sizes.split(",")])))
