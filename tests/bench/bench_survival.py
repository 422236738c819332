"""How fast survival maps are, and how often they disagree with the broker: never.

    python -m tests.bench.bench_survival                       # a million cells of one contract, books of every kind
    python -m tests.bench.bench_survival --agree 400 --seed 7  # random cells against cerebro runs
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from typing import Any

import numpy as np

from bt_margin.modes import mode_named
from bt_margin.study.replay import VERDICTS, Replay
from bt_margin.study.survival import StaticBook, load_path, spread, survival_map
from tests.unit.held_book import COIN, ETH, SPOT, SWAP, book, broker_run, differs, replay_of

WINDOWS = ("2020-03-12", "2021-05-19", "2022-05-09", "2022-11-08", "2024-08-05", "2025-10-10")
ALL = ("isolated", "cross", "multi-currency", "portfolio")
BOOKS: dict[str, tuple[dict[str, float], list[str], tuple[str, ...]]] = {
    "one linear long": ({SWAP: 1}, [SWAP], ALL),
    "one linear short": ({SWAP: -1}, [SWAP], ALL),
    "coin-margined long": ({COIN: 1}, [COIN], ALL),
    "coin-margined short": ({COIN: -1}, [COIN], ALL),
    "pair long and short": ({SWAP: 10, ETH: -300}, [SWAP, ETH], ALL),
    "two longs": ({SWAP: 10, ETH: 200}, [SWAP, ETH], ALL),
    "basis on coins": ({SWAP: -1}, [SWAP, SPOT], ALL[2:]),
    "long on coins": ({SWAP: 1}, [SWAP, SPOT], ALL[2:]),
}


def million(cells: int) -> None:
    print(f"\n{cells:,} cells of one linear position, 2025-10-10 hourly, CPU seconds of one process\n")
    print("| account | mode | cells | lived | reduced | taken over | refused | CPU | a cell |")
    print("|---|---|---|---|---|---|---|---|---|")
    for cash in (10_000, 100_000):
        held = StaticBook.from_dict(book({SWAP: 1}, USDT=cash))
        path = load_path(held, "2025-10-10")
        levers = np.linspace(1, 50, -(-cells // (len(path) - 1)))
        for mode in ALL[:2]:
            began = time.process_time()
            found = survival_map(held, path, levers, None, [mode])
            taken = time.process_time() - began
            (row,) = found.summary()
            print(f"| {cash:,} USDT | {mode} | {found.verdict.size:,} | {row['survived']:,} | {row['reduced']:,} | "
                  f"{row['liquidated']:,} | {row['refused']:,} | {taken:.1f} s | "
                  f"{taken / found.verdict.size * 1e6:.1f} µs |", flush=True)


def every_kind() -> None:
    print("\nOther books: 20 leverages x 12 entries, 2025-10-10 hourly, and the broker on one cell of the middle\n")
    print("| book | mode | lived | reduced | taken over | refused | a cell | the broker |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (positions, symbols, modes) in BOOKS.items():
        replay = replay_of(_book(name, positions, 100_000), "2025-10-10", symbols)
        for mode in modes:
            at = spread(replay.path, "12")
            began = time.process_time()
            found = survival_map(replay.book, replay.path, np.linspace(0.5, 20, 20), at, [mode])
            each = (time.process_time() - began) / found.verdict.size
            (row,) = found.summary()
            began = time.process_time()
            broker_run(replay, mode, at[6], 3.0)
            broker = time.process_time() - began
            print(f"| {name} | {mode} | {row['survived']} | {row['reduced']} | {row['liquidated']} | "
                  f"{row['refused']} | {each * 1e3:.2f} ms | {broker * 1e3:,.0f} ms |", flush=True)


def agree(count: int, seed: int) -> int:
    """Random windows, books, modes, entries, leverages and money. How many differ."""
    chance, wrong = random.Random(seed), 0
    seen: dict[str, int] = {}
    for n in range(count):
        replay, mode, entry, leverage = _random_cell(chance)
        if mode in ALL[:2] and len(replay.book.legs) == 1 and n % 2:  # the way of all leverages at once
            found = survival_map(replay.book, replay.path, [leverage], [entry], [mode], walk=replay.walk)
            cell = int(found.verdict[0, 0, 0]), int(found.taken_ms[0, 0, 0]), float(found.distance[0, 0, 0])
        else:
            cell = replay.cell(mode_named(mode), entry, leverage)[:3]
        verdict = VERDICTS[cell[0]]
        seen[verdict] = seen.get(verdict, 0) + 1
        text = differs(replay, mode, entry, leverage, cell)
        if text:
            wrong += 1
            held = replay.book
            since = replay.path.open_ms[0]
            print(f"{held.symbols} {dict(held.balances)} {replay.walk} from {since}: {text}", flush=True)
    print(f"{count} random cells, seed {seed}: {wrong} differ; {dict(sorted(seen.items()))}")
    return wrong


def _random_cell(chance: random.Random) -> tuple[Replay, str, int, float]:
    while True:
        name, window = chance.choice(list(BOOKS)), chance.choice(WINDOWS)
        positions, symbols, modes = BOOKS[name]
        if ETH in symbols and window < "2022-05":
            continue  # no figures of the ETH perpetual there
        mode = chance.choice(modes if chance.random() < 0.4 else modes[:2])
        since = chance.randrange(0, 150)
        cash = 10 ** chance.uniform(4, 6.3)
        replay = replay_of(_book(name, positions, cash), window, symbols, since, since + chance.randrange(20, 60),
                           walk=chance.choice(["adverse", "adverse", "ohlc", "close"]))
        return replay, mode, chance.randrange(0, 12), round(10 ** chance.uniform(-0.3, 1.75), 2)


def _book(name: str, positions: dict[str, float], cash: float) -> dict[str, Any]:
    if "coins" in name or "coin-margined" in name:
        return book(positions, BTC=cash / 50_000, **({"USDT": cash / 20} if "basis" in name else {}))
    return book(positions, USDT=cash)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--agree", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("bt_margin").setLevel(logging.ERROR)
    if given.agree:
        raise SystemExit(1 if agree(given.agree, given.seed) else 0)
    million(given.cells)
    every_kind()


if __name__ == "__main__":
    main()
