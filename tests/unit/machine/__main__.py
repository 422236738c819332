"""`python -m tests.unit.machine --minutes 10 [--mode cross] [--seed 1]`: the machine at length; says what it did.

Each finding is shown once, as small as it gets. Status 1 where there is one. `--replay` reads runs from the standard
input, one in JSON a line, and prints the hash of each.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.machine.rules import BEGINNINGS, Machine, machine
from tests.unit.machine.run import again

ROUND = settings(max_examples=20, stateful_step_count=40, deadline=None, database=None, print_blob=False,
                 phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
                 suppress_health_check=list(HealthCheck))


def one_round(made: type[Machine], number: int, limits: settings = ROUND) -> tuple[str, str] | None:
    """(where it broke, how: the steps that did it) of the smallest run that broke a law; None where none did."""
    try:
        run_state_machine_as_test(seed(number)(made), settings=limits)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/bt_margin/" in f.filename
                  or "/machine/" in f.filename]
        where = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames[:-4:-1])
        notes = "\n  ".join(getattr(error, "__notes__", ()))
        return f"{type(error).__name__} at {where}", f"{str(error)[:1500]}\n  {notes}"
    return None


def main() -> int:
    """Round after round over all beginnings until the time is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.machine", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mode", action="append", choices=BEGINNINGS, help="default: all")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of the first round")
    parser.add_argument("--replay", action="store_true")
    options = parser.parse_args()
    if options.replay:
        for line in sys.stdin:
            print(again(json.loads(line)).digest())
        return 0
    made = [machine(beginning) for beginning in options.mode or BEGINNINGS]
    began, found, number = time.monotonic(), dict[str, str](), options.seed
    print(f"seed {number}", flush=True)
    while time.monotonic() - began < 60 * options.minutes:
        for one in made:
            finding = one_round(one, number)
            if finding is not None and finding[0] not in found:
                found[finding[0]] = finding[1]
                print(f"{one.beginning}: {finding[0]}: {finding[1]}", flush=True)
            if time.monotonic() - began >= 60 * options.minutes:
                break
        number += 1
    for one in made:
        print(f"{one.beginning}:")
        for name, times in sorted(one.count.items()):
            print(f"  {name}: {times:,}")
    runs, steps = (sum(sum(x for name, x in one.count.items() if name.startswith(what)) for one in made)
                   for what in ("runs", "step "))
    print(f"{runs:,} runs, {steps:,} steps in {(time.monotonic() - began) / 60:.1f} minutes, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
