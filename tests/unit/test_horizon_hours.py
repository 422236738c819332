"""Where hours begin along the bars ahead: as a walk from instant to instant finds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.engine.horizon import Ahead, _where_hours_begin
from bt_margin.model.market import Market
from bt_margin.model.moment import HOUR, MINUTE


def walked(path: Ahead, now: int) -> set[tuple[int, int]]:
    """Instant by instant: open and close of each bar; with one point a bar, the close alone is an instant."""
    found, hour, width = set(), now // HOUR, len(path.closes)
    for bar in range(width):
        for time, at in ((int(path.opens[bar]), bar), (int(path.closes[bar]), bar + (path.points - 1) * width)):
            if time // HOUR != hour:
                found.add((bar, at))
                hour = time // HOUR
    return found


@pytest.mark.parametrize("points", [1, 2, 4])
@given(
    step=st.sampled_from([MINUTE, 7 * MINUTE, 15 * MINUTE, HOUR, 4 * HOUR, 24 * HOUR]),
    gaps=st.lists(st.sampled_from([0, 0, 0, MINUTE, 40 * MINUTE, 5 * HOUR]), min_size=1, max_size=40),
    start=st.integers(0, 3 * HOUR), since=st.sampled_from([0, 1, 30 * MINUTE, 2 * HOUR]),
)
def test_an_hour_begins_at_the_first_instant_of_it(
    points: int, step: int, gaps: list[int], start: int, since: int
) -> None:
    now = 1_758_000_000_000 + start
    opens = now + since + np.cumsum(gaps) + step * np.arange(len(gaps))
    path = Ahead(Market(now), opens, opens + step, points)
    bars, at = _where_hours_begin(path, now)
    assert len(set(at.tolist())) == len(at) or points == 1 or step < HOUR
    assert set(zip(bars.tolist(), at.tolist(), strict=True)) == walked(path, now)
