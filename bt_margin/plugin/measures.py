"""What is measured of a run, from plain series: costs, time in danger, the worst hour."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bt_margin.model.moment import HOUR

LIQUIDATION = ("forced", "conversion")
"""Notes of ledger entries that a liquidation wrote."""


def costs(ledger: Sequence[Mapping[str, Any]], usd: Mapping[str, float]) -> dict[str, float]:
    """Where the money went, in USD (coins at the rates given): costs positive, funding signed (+ received)."""

    def total(*kinds: str, forced: bool | None = None) -> float:
        return 0.0 + math.fsum(
            (e["cash"] + e["margin"] + e["assets"] - e["liability"] - e["interest"]) * usd.get(e["currency"], 1.0)
            for e in ledger
            if e["kind"] in kinds and (forced is None or (e["note"] in LIQUIDATION) is forced)
        )

    return {
        "fees_usd": 0.0 - total("fee", forced=False),
        "funding_usd": total("funding"),
        "interest_usd": 0.0 - total("interest"),
        "liquidation_cost_usd": 0.0 - total("fee", "penalty", forced=True),
        "fund_paid_usd": total("clawback"),
    }


def hours_below(times: Sequence[int], ratios: Sequence[float | None], level: float, step: int) -> float:
    """Hours of bars whose lowest margin ratio was at or below `level` (3 = 300 %), each counted whole: a bound from
    above. `times`: ends of bars, ms; `step`: length of the first bar, ms (a later one never counts more than it)."""
    total = 0
    for i, ratio in enumerate(ratios):
        if ratio is not None and ratio <= level:
            total += min(step, times[i] - times[i - 1]) if i else step
    return total / HOUR


class WorstHour(NamedTuple):
    """The largest fall of a value within an hour: end (ms), change (negative) and share of the value before."""

    end: int
    change: float
    share: float


def worst_hour(times: Sequence[int], values: Sequence[float]) -> WorstHour | None:
    """Over every pair of a bar and the last bar that ended an hour or more before it; where bars are longer than an
    hour, over neighbours. None where the value never fell."""
    worst: WorstHour | None = None
    for i in range(1, len(times)):
        before = min(i - 1, bisect_right(times, times[i] - HOUR) - 1)
        if before < 0:
            continue
        change = values[i] - values[before]
        if change < 0 and (worst is None or change < worst.change):
            worst = WorstHour(times[i], change, change / values[before] if values[before] else 0.0)
    return worst
