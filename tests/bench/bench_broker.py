"""backtrader alone (PandasData + BackBroker) beside ours (fast feed + MarginBroker): the README's tables.

    python tests/bench/bench_broker.py                               # 50,000 minute bars, five repeats, everything
    python tests/bench/bench_broker.py --bars 20000 --repeats 3      # a quick look
    python tests/bench/bench_broker.py --bars 525600 --cases "held position,SMA cross" --parts table

Every run has a process of its own; contestants take turns, and a figure is the ratio of medians of their CPU times.
Nothing is asserted: machines are noisy. The `spread` is the largest (max - min) / median of a row's runs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import bench_core
from cases import CASES, Job

from bt_margin.modes import MODES

RUNNER = Path(__file__).with_name("one_run.py")
Measured = dict[str, float]


def play(job: Job) -> Measured:
    done = subprocess.run([sys.executable, str(RUNNER), json.dumps(asdict(job))], check=True, capture_output=True,
                          text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def by_turns(jobs: Sequence[Job], repeats: int) -> list[list[Measured]]:
    """Each job's runs; the jobs take turns, so that a slow minute of the machine hits all of them."""
    runs: list[list[Measured]] = [[] for _ in jobs]
    for _ in range(repeats):
        for mine, job in zip(runs, jobs, strict=True):
            mine.append(play(job))
    return runs


def median(runs: Sequence[Measured], what: Callable[[Measured], float]) -> float:
    return statistics.median(what(run) for run in runs)


def loaded(run: Measured) -> float:
    return run["load"]


def ran(run: Measured) -> float:
    return run["run"]


def whole(run: Measured) -> float:
    return run["load"] + run["run"]


def memory(run: Measured) -> float:
    return run["memory"]


def spread(*groups: Sequence[Measured]) -> float:
    def one(runs: Sequence[Measured]) -> float:
        taken = [whole(run) for run in runs]
        return (max(taken) - min(taken)) / statistics.median(taken)

    return max(one(runs) for runs in groups)


def main_table(names: Sequence[str], modes: Sequence[str], bars: int, repeats: int) -> None:
    print(f"\n{bars:,} minute bars, {repeats} runs each, ratios of medians (ours / stock); times in CPU µs a bar\n")
    print("| case | mode | stock load | stock run | our load | our run | load | run | load + run "
          "| run, same fast feed | memory | spread |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        stock, fast, *ours = by_turns(
            [Job(name, "pandas", None, bars), Job(name, "ours", None, bars),
             *(Job(name, "ours", mode, bars) for mode in modes)], repeats)

        def us(runs: Sequence[Measured], what: Callable[[Measured], float]) -> str:
            return f"{median(runs, what) / bars * 1e6:.1f}"

        contestants = [("backtrader's broker, our feed", fast), *zip(modes, ours, strict=True)]
        for mode, runs in contestants:
            ratios = [median(runs, what) / median(stock, what) for what in (loaded, ran, whole)]
            cells = [
                name, mode, us(stock, loaded), us(stock, ran), us(runs, loaded), us(runs, ran),
                f"{ratios[0]:.3f}", f"{ratios[1]:.2f}", f"**{ratios[2]:.2f}**",
                f"{median(runs, ran) / median(fast, ran):.2f}",
                f"{median(runs, memory):.0f} / {median(stock, memory):.0f} MB", f"{spread(stock, fast, runs):.0%}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def exponent(sizes: Sequence[float], taken: Sequence[float]) -> float:
    """The slope of log time over log size, by least squares: 1 is linear."""
    logs = [(math.log(size), math.log(seconds)) for size, seconds in zip(sizes, taken, strict=True)]
    return statistics.linear_regression([x for x, _ in logs], [y for _, y in logs]).slope


def scaling(modes: Sequence[str], bars: int, repeats: int) -> None:
    print("\nScaling of a held position, load + run; the exponent is fitted (1: linear; below: a fixed part)\n")
    print("| in | mode | " + "from / to | growth | exponent |")
    print("|---|---|---|---|---|")
    few = max(1_000, bars // 5)
    for mode in modes:
        base = Job("held position", "ours", mode, few)
        series = {
            "bars": [(n, replace(base, bars=n)) for n in (bars // 4, bars // 2, bars)],
            "instruments, all held": [(n, replace(base, instruments=n)) for n in (2, 4, 8)],
            "positions, of eight instruments": [(n, replace(base, instruments=8, held=n)) for n in (2, 4, 8)],
        }
        for name, rows in series.items():
            taken = [median(runs, whole) for runs in by_turns([job for _, job in rows], repeats)]
            sizes = [size for size, _ in rows]
            print(f"| {name} | {mode} | {sizes[0]:,} / {sizes[-1]:,} | {taken[-1] / taken[0]:.2f} | "
                  f"{exponent(sizes, taken):.2f} |", flush=True)


def names_of(text: str, known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text else list(known)
    for name in names:
        if name not in known:
            raise SystemExit(f"{what}: expected of {', '.join(known)}; found {name!r}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", default="", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--modes", default="", help=f"of: {', '.join(MODES)}")
    parser.add_argument("--parts", default="", help="of: table, core, scaling")
    given = parser.parse_args()
    parts = names_of(given.parts, ("table", "core", "scaling"), "--parts")
    modes = names_of(given.modes, tuple(MODES), "--modes")
    if "table" in parts:
        main_table(names_of(given.cases, tuple(CASES), "--cases"), modes, given.bars, given.repeats)
    if "core" in parts:
        print("\nThe pure core, one process, best of three\n")
        print("\n".join(bench_core.table((1, 10, 100))))
    if "scaling" in parts:
        scaling(modes, given.bars, given.repeats)


if __name__ == "__main__":
    main()
