"""Sets of time as sorted, disjoint spans [from, until) in ms."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time as few spans as possible: sorted, touching ones joined, empty ones gone."""
    joined: list[Span] = []
    for lo, hi in sorted(s for s in spans if s[0] < s[1]):
        if joined and lo <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(hi, joined[-1][1]))
        else:
            joined.append((lo, hi))
    return joined


def minus(spans: Iterable[Span], cut: Iterable[Span]) -> list[Span]:
    """What of `spans` lies outside `cut`."""
    rest = union(spans)
    for lo, hi in union(cut):
        rest = [p for a, b in rest for p in ((a, min(b, lo)), (max(a, hi), b)) if p[0] < p[1]]
    return rest


def within(spans: Iterable[Span], lo: int, hi: int) -> list[Span]:
    """What of `spans` lies inside [lo, hi)."""
    return [(max(a, lo), min(b, hi)) for a, b in union(spans) if max(a, lo) < min(b, hi)]


def length(spans: Iterable[Span]) -> int:
    """Milliseconds covered."""
    return sum(hi - lo for lo, hi in union(spans))


def holes(ts: NDArray[np.int64], step: int, lo: int, hi: int) -> list[Span]:
    """Where a grid of bars `step` apart has none inside [lo, hi); `ts` is sorted and on the grid."""
    at = ts[np.searchsorted(ts, lo) : np.searchsorted(ts, hi)]
    edges = np.concatenate(([lo - step], at, [hi]))
    found = np.flatnonzero(np.diff(edges) > step)
    return [(int(edges[i]) + step, int(edges[i + 1])) for i in found.tolist()]


def chunks(lo: int, hi: int, size: int) -> list[Span]:
    """[lo, hi) in pieces of `size`, the last one shorter."""
    return [(a, min(a + size, hi)) for a in range(lo, hi, size)]
