"""From the rows of an answer to arrays, or to a reason for asking again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import numpy as np

from data_fetch.client import BadPage
from data_fetch.files import Columns, columns_of
from data_fetch.series import utc
from data_fetch.venues import Candles, FundingRows, Symbol

REPAIR_AFTER = 3
"""A blemish that can be repaired without a guess is repaired when the venue repeats it so often."""
SKEW_MS = 120_000


@dataclass
class Read:
    """Rows of one answer, oldest first; `forming_ms`: the open of a bar that is not closed yet."""

    rows: Columns
    forming_ms: int | None = None
    repaired: Counter[str] = field(default_factory=Counter)


def read_candles(
    data: Sequence[Any], endpoint: Candles, symbol: Symbol, kind: str, step: int, lo: int, hi: int, now: int,
    attempt: int,
) -> Read:
    """Candles of [lo, hi), checked. Raises BadPage for what must or may be asked again.

    Never repaired: a row that is no row, prices that contradict each other, two rows of one time that differ.
    Repaired on the last resort: repeated rows, wrong order, times off the grid or outside, a stale open bar.
    """
    blemishes: Counter[str] = Counter()
    parsed: dict[int, tuple[float, ...]] = {}
    forming: int | None = None
    newest_first: list[int] = []
    for row in data:
        if not isinstance(row, list) or len(row) < endpoint.width:
            raise BadPage(f"bad row: expected {endpoint.width} fields, found {str(row)[:80]}")
        try:
            ts = int(row[endpoint.ts])
            figures = tuple(endpoint.row(row, symbol))
        except (TypeError, ValueError) as error:
            raise BadPage(f"bad row: expected figures, found {str(row)[:80]}") from error
        if endpoint.confirm is not None and row[endpoint.confirm] != "1":
            forming = ts if forming is None else min(forming, ts)
            if lo <= ts < hi and ts + step <= now - SKEW_MS:
                blemishes["old bar still open"] += 1
            continue
        if not lo <= ts < hi:
            blemishes["rows outside the span"] += 1
            continue
        if ts % step:
            blemishes["off-grid times"] += 1
            continue
        _check_candle(ts, figures)
        if ts in parsed:
            if _other(parsed[ts], figures):
                raise BadPage(f"bad row: two different rows of {utc(ts)}")
            blemishes["duplicate rows"] += 1
        parsed[ts] = figures
        newest_first.append(ts)
    if any(b >= a for a, b in pairwise(newest_first)) and "duplicate rows" not in blemishes:
        blemishes["rows out of order"] += 1
    if blemishes and attempt < REPAIR_AFTER:
        raise BadPage(", ".join(sorted(blemishes)))
    times = sorted(parsed)
    table = np.array([parsed[t] for t in times], dtype=np.float64).reshape(len(times), len(endpoint.columns))
    rows: Columns = {"ts": np.array(times, dtype=np.int64)}
    for i, name in enumerate(endpoint.columns):
        rows[name] = np.ascontiguousarray(table[:, i])
    assert tuple(rows) == columns_of(kind)
    return Read(rows, forming if forming is None or forming >= lo else None, blemishes)


def _check_candle(ts: int, figures: Sequence[float]) -> None:
    opened, high, low, close = figures[:4]
    if not all(isfinite(p) and p > 0 for p in figures[:4]):
        raise BadPage(f"bad row: expected prices above zero at {utc(ts)}, found {figures[:4]}")
    if low > min(opened, close) or high < max(opened, close):
        raise BadPage(f"bad row: a low or high inside open and close at {utc(ts)}: {figures[:4]}")
    if any(v < 0 or v == inf for v in figures[4:]):
        raise BadPage(f"bad row: expected volumes of zero or more at {utc(ts)}, found {figures[4:]}")


def _other(a: Sequence[float], b: Sequence[float]) -> bool:
    return any(x != y and not (x != x and y != y) for x, y in zip(a, b, strict=True))


def read_funding(data: Sequence[Any], endpoint: FundingRows, market_id: str, before: int, attempt: int) -> Read:
    """Settlements earlier than `before`, oldest first. Stamps a few seconds late are set on their minute."""
    blemishes: Counter[str] = Counter()
    found: dict[int, tuple[float, int]] = {}
    for row in data:
        try:
            if row.get("instId", market_id) != market_id:
                raise BadPage(f"bad row: expected {market_id}, found {row['instId']}")
            served = int(row[endpoint.ts])
            rate = float(next(row[name] for name in endpoint.rates if row.get(name) not in (None, "")))
        except (TypeError, ValueError, KeyError, AttributeError, StopIteration) as error:
            raise BadPage(f"bad row: expected a funding rate, found {str(row)[:80]}") from error
        if served >= before:
            blemishes["rows outside the span"] += 1
            continue
        add_event(found, served, rate, blemishes)
    if blemishes and attempt < REPAIR_AFTER:
        raise BadPage(", ".join(sorted(blemishes)))
    return Read(events(found), None, blemishes)


def add_event(found: dict[int, tuple[float, int]], served: int, rate: float, blemishes: Counter[str]) -> None:
    if not np.isfinite(rate) or abs(rate) >= 1:
        raise BadPage(f"bad row: expected a rate between -1 and 1 at {utc(served)}, found {rate}")
    ts = served - served % 60_000
    if ts in found:
        if found[ts][0] != rate:
            raise BadPage(f"bad row: two different rates at {utc(ts)}")
        blemishes["duplicate rows"] += 1
    found[ts] = (rate, served)


def events(found: dict[int, tuple[float, int]]) -> Columns:
    times = sorted(found)
    return {
        "ts": np.array(times, dtype=np.int64),
        "rate": np.array([found[t][0] for t in times], dtype=np.float64),
        "served_ms": np.array([found[t][1] for t in times], dtype=np.int64),
    }
