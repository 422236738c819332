"""`python -m tests.oracle --scenarios 2000 [--mode cross] [--first 0]`: engine and oracle at length."""

from __future__ import annotations

import argparse
import sys
import time

from tests.oracle.compare import Disagreement, Statistics, compare
from tests.oracle.coverage import missing
from tests.oracle.scripts import WRITERS, generate

MODES = tuple(WRITERS)


def main() -> int:
    """Compare; print statistics by mode, what came up in how many scripts and what never did, and every disagreement.
    Status 1 where there is one. Interrupted it says what was compared until then.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=2000, help="scripts per mode")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: all")
    parser.add_argument("--show", type=int, default=5, help="disagreements printed per mode")
    options = parser.parse_args()
    failed, stopped = 0, False
    for mode in options.mode or MODES:
        began, statistics, bad = time.perf_counter(), Statistics(), 0
        for seed in range(options.first, options.first + options.scenarios):
            try:
                compare(generate(mode, seed), statistics)
            except Disagreement as error:
                bad += 1
                if bad <= options.show:
                    print(error, file=sys.stderr)
            except KeyboardInterrupt:
                stopped = True
                break
        print(f"{mode}: {bad} disagreements in {time.perf_counter() - began:.0f} s")
        for line in statistics.lines():
            print(f"  {line}")
        for name in missing(mode, statistics.scripts):
            print(f"  never reached: {name}")
        failed += bad
        if stopped:
            break
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
