"""Anything in any order, in every mode: the machine of `tests.unit.machine` briefly, and its runs told to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.unit.machine.__main__ import one_round
from tests.unit.machine.rules import BEGINNINGS, machine
from tests.unit.machine.run import again

BRIEF = settings(max_examples=5, stateful_step_count=20, deadline=None, database=None, print_blob=False)
SHORT = settings(BRIEF, max_examples=3, stateful_step_count=10)
"""Of portfolio margin: an account with options takes most of the time."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_all_laws_hold_whatever_is_done_and_runs_are_the_same_in_any_process(beginning: str) -> None:
    """The longest runs are told again here and in a process whose strings hash differently: ledger, events with their
    reports, answers are the same to the last bit."""
    made = machine(beginning)
    assert one_round(made, 7, SHORT if beginning == "portfolio" else BRIEF) is None
    assert made.count["runs"] >= 3
    assert made.count["step advance"] >= 3
    assert made.count["entries"] >= 10
    told = [json.dumps(run) for run in made.longest]
    here = [again(json.loads(run)).digest() for run in told]
    assert len(set(here)) == 3
    assert here == replayed(told, "4242" if os.environ.get("PYTHONHASHSEED") != "4242" else "1")


def replayed(told: list[str], seed: str) -> list[str]:
    """The hashes of runs, taken in a process of their own whose strings hash as they like."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.machine", "--replay"], input="\n".join(told), text=True, check=True,
        capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)})
    return done.stdout.split()
