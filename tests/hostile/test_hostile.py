"""Some hostile inputs of every kind; `python -m tests.hostile` tries them at length."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.hostile.kinds import TARGETS
from tests.hostile.law import Target, watched


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_the_law_holds(target: Target) -> None:
    @settings(max_examples=target.share, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def law(value: object) -> None:
        with watched():
            target.law(value)

    law()
