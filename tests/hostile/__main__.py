"""`python -m tests.hostile --minutes 10 [--only NAME]`: hostile inputs at length; says how many, and what was found.

Each finding is shown once, as small as it gets. Status 1 where there is one.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
import traceback
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hostile.kinds import TARGETS
from tests.hostile.law import Target, watched


def one_round(target: Target, number: int, tried: Counter[str]) -> tuple[str, str] | None:
    """(where it broke, how) of the smallest input of a round that broke the law; None where none did."""
    smallest: list[object] = []

    @seed(number)
    @settings(max_examples=2 * target.share, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False, print_blob=False)
    @given(target.inputs)
    def law(value: object) -> None:
        tried[target.name] += 1
        smallest[:] = [value]
        with watched():
            target.law(value)

    try:
        law()
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/" in f.filename
                  or "/bt_margin/" in f.filename or "/data_fetch/" in f.filename]
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
        return f"{target.name}: {where}: {type(error).__name__}", f"{str(error)[:500]}\n  input: {smallest[0]!r:.3000}"
    return None


def main() -> int:
    """Round after round over all kinds until the time is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", help="kinds whose name holds this")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of the first round")
    options = parser.parse_args()
    logging.getLogger("bt_margin").setLevel(logging.ERROR)
    chosen = [target for target in TARGETS if options.only is None or options.only in target.name]
    began, tried, found, number = time.monotonic(), Counter[str](), dict[str, str](), options.seed
    print(f"seed {options.seed}", flush=True)
    while chosen and time.monotonic() - began < 60 * options.minutes:
        for target in chosen:
            finding = one_round(target, number, tried)
            if finding is not None and finding[0] not in found:
                found[finding[0]] = finding[1]
                print(f"{finding[0]}: {finding[1]}", flush=True)
            if time.monotonic() - began >= 60 * options.minutes:
                break
        number += 1
    for name, count in tried.items():
        print(f"{name}: {count:,} inputs")
    print(f"{sum(tried.values()):,} inputs in {(time.monotonic() - began) / 60:.1f} minutes, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
