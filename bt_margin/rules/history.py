"""What was in force when: the revisions of one subject (an instrument, a fee kind, a parameter) over time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Generic, TypeVar

from bt_margin.errors import InputError
from bt_margin.model import moment

ALWAYS = -(2**60)
"""The effective instant of a revision that holds at every date: a caller's own."""
_NEVER_ENDS = 2**60

T = TypeVar("T")


@lru_cache(4096)  # the same few revisions are noted day after day
def iso(time_ms: int) -> str:
    """When a revision begins, as text ("always" for a caller's own)."""
    return "always" if time_ms == ALWAYS else moment.iso(time_ms)


def to_ms(stamp: datetime) -> int:
    """A time zone-aware datetime as milliseconds since 1970.

    Raises InputError without a zone: it would be a guess.
    """
    if stamp.tzinfo is None:
        raise InputError(f"rules: expected a UTC time such as 2020-03-12T00:00:00Z, found {stamp}")
    return moment.milliseconds(stamp, "rules")


@dataclass(frozen=True, slots=True)
class Revision(Generic[T]):
    """A row and what is known about it. Times in ms since 1970."""

    effective: int
    row: T
    grade: str
    source: str
    until: int | None = None  # known to have been superseded then by something unknown
    listed: int | None = None  # the contract under this name began then
    note: str = ""


class History(Generic[T]):
    """Revisions in order. Each is in force from its own instant to its `until` or the next revision."""

    def __init__(self, revisions: Iterable[Revision[T]], path: str) -> None:
        """Raises InputError naming `path` when two revisions begin together or one ends before it begins."""
        self.revisions = tuple(sorted(revisions, key=lambda revision: revision.effective))
        self._starts = [revision.effective for revision in self.revisions]
        self._ends = []
        for revision, following in zip(self.revisions, [*self._starts[1:], _NEVER_ENDS], strict=True):
            end = following if revision.until is None else min(revision.until, following)
            if end <= revision.effective:
                raise InputError(f"{path}: the revision of {iso(revision.effective)} ends before it begins")
            self._ends.append(end)

    def __iter__(self) -> Iterator[Revision[T]]:
        return iter(self.revisions)

    def end(self, revision: Revision[T]) -> int | None:
        """When a revision stops being in force; None while nothing is known to end it."""
        end = self._ends[self._starts.index(revision.effective)]
        return None if end == _NEVER_ENDS else end

    def at(self, time_ms: int) -> Revision[T] | None:
        """The revision in force."""
        index = bisect_right(self._starts, time_ms) - 1
        return self.revisions[index] if index >= 0 and time_ms < self._ends[index] else None

    def nearest(self, time_ms: int) -> tuple[Revision[T], int] | None:
        """The revision in force, else the nearest in time (the earlier on a tie), and its distance in days.

        The distance is to the nearer end of the time it was in force, rounded up; 0 when it is in force.
        None when all revisions are of another contract under the same name.
        """
        index = bisect_right(self._starts, time_ms) - 1
        if index >= 0 and time_ms < self._ends[index]:
            return self.revisions[index], 0
        earlier = self.revisions[index] if index >= 0 else None
        later = self.revisions[index + 1] if index + 1 < len(self.revisions) else None
        if later is not None and later.listed is not None:
            if time_ms < later.listed:
                later = None
            else:
                earlier = None
        after = time_ms - self._ends[index] if earlier is not None else _NEVER_ENDS
        before = later.effective - time_ms if later is not None else _NEVER_ENDS
        found, distance = (earlier, after) if after <= before else (later, before)
        return None if found is None else (found, max(1, -(-distance // moment.DAY)))

    def breaks(self) -> set[int]:
        """Every instant at which `at` or the row of `nearest` may change."""
        instants = {start for start in self._starts if start != ALWAYS}
        instants |= {revision.listed for revision in self.revisions if revision.listed is not None}
        for end, following in zip(self._ends, [*self._starts[1:], None], strict=True):
            if end == _NEVER_ENDS:
                continue
            instants.add(end)
            if following is not None and end < following:
                # From here on the later one is the nearer.
                instants.add((end + following) // 2 + 1)
        return instants
