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
from tests.unit.machine.rules import BEGINNINGS, Machine, machine

BRIEF = settings(max_examples=5, stateful_step_count=20, deadline=None, database=None, print_blob=False)
SHORT = settings(BRIEF, max_examples=3, stateful_step_count=10)
"""Of portfolio margin: an account with options takes most of the time."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made() -> dict[str, type[Machine]]:
    return {beginning: machine(beginning) for beginning in BEGINNINGS}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_all_laws_hold_whatever_is_done(beginning: str, made: dict[str, type[Machine]]) -> None:
    assert one_round(made[beginning], 7, SHORT if beginning == "portfolio" else BRIEF) is None
    count = made[beginning].count
    assert count["runs"] >= 3
    assert count["step advance"] >= 3
    assert count["entries"] >= 10


def test_runs_told_again_have_the_same_hash_in_any_process(made: dict[str, type[Machine]]) -> None:
    """Ledger, events with their reports, answers: to the last bit, however a process orders its sets."""
    told = [json.dumps(run) for one in made.values() for run in one.longest]
    assert len(told) == 3 * len(BEGINNINGS)
    hashes = [replayed(told, seed) for seed in ("0", "4242")]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) >= 10, "some runs do next to nothing, and so are alike; not most of them"


def replayed(told: list[str], seed: str) -> list[str]:
    """The hashes of runs, taken in a process of their own whose strings hash as they like."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.machine", "--replay"], input="\n".join(told), text=True, check=True,
        capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)})
    return done.stdout.split()
