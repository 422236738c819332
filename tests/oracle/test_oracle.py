"""Engine and oracle agree: a seeded subset of what `python -m tests.oracle` runs at length."""

from __future__ import annotations

import pytest

from tests.oracle.compare import Statistics, compare
from tests.oracle.scripts import WRITERS, generate

SUBSET, PARTS = 300, 6


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", list(WRITERS))
def test_engine_and_oracle_tell_the_same_story(mode: str, part: int) -> None:
    """Same events in the same order, every number within 1e-9."""
    statistics = Statistics()
    size = SUBSET // PARTS
    for seed in range(part * size, (part + 1) * size):  # in a row: themes go by the seed's remainder
        compare(generate(mode, seed), statistics)
    assert statistics.scenarios == size
    told = statistics.events
    assert told["Reduced"] + told["Converted"] + told["Warned"] > 10  # where nothing happens all agree


def test_scripts_repeat_exactly() -> None:
    assert generate("cross", 7) == generate("cross", 7)
    assert generate("cross", 7) != generate("cross", 8)
