"""Funding: pages that walk back from the end of a span; what REST has forgotten comes from the archive.

Settlements come at intervals that change, so a hole is a pause: longer than any interval, or than its neighbours.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data_fetch.archive import archived_funding
from data_fetch.client import Unreachable
from data_fetch.local import Page
from data_fetch.manifest import GapClass
from data_fetch.pages import Read, read_funding
from data_fetch.series import DataError, utc
from data_fetch.spans import Span, minus, union, within
from data_fetch.walk import SeriesFetch, nothing

LONGEST_INTERVAL_MS = 8 * 3_600_000
"""Perpetuals settle at least so often; a longer pause between two settlements is a hole."""


class FundingFetch(SeriesFetch):
    """Fetches what is missing of a contract's settled funding rates."""

    unsure: ClassVar[tuple[GapClass, ...]] = ("suspect", "beyond horizon")
    settled_after_ms = 300_000

    def _doubtful(self) -> list[Span]:
        return union([*super()._doubtful(), *self._odd()])

    async def _walk(self, todo: list[Span], doubtful: list[Span]) -> None:
        """Walks back from the end of each span; what REST has forgotten comes from the archive. Each page is stored as
        it comes. A pause longer than those around it is asked for once more."""
        for lo, hi in union([*todo, *doubtful]):
            await self._back(lo, hi, doubtful)
        odd = self._odd()
        for lo, hi in odd:
            await self._back(lo, hi, odd)

    async def _back(self, lo: int, hi: int, doubtful: list[Span]) -> None:
        cursor = hi
        while cursor > lo:
            read = await self._settlements(cursor)
            ts = read.rows["ts"]
            if not len(ts):
                break
            inside = {name: values[ts >= lo] for name, values in read.rows.items()}
            first = max(lo, int(ts[0]))
            still = [(a, b) for a, b in within(doubtful, first, cursor) if not ((ts >= a) & (ts < b)).any()]
            self._add(Page((first, cursor), inside, union([*_pauses(ts, first, cursor), *still])))
            self._flush()
            cursor = int(ts[0])
        if cursor > lo:
            await self._forgotten(lo, cursor)

    def _odd(self) -> list[Span]:
        """Pauses twice as long as those on both sides, not doubted yet: a settlement was lost or late. An interval
        that changes is as long as one of its neighbours."""
        around = 3 * LONGEST_INTERVAL_MS
        ts = self.writer.rows(self.lo - around, self.hi + around)["ts"]
        pauses = np.diff(ts)
        if len(pauses) < 3:
            return []
        long = 1 + np.flatnonzero(pauses[1:-1] > 1.5 * np.maximum(pauses[:-2], pauses[2:]))
        spans = [(int(ts[i]) + 60_000, int(ts[i + 1])) for i in long.tolist()]
        asked = [part for span in spans for part in within(self.writer.manifest.asked, *span)]
        return [s for s in minus(asked, ((d.lo, d.hi) for d in self.writer.manifest.doubts))
                if self.lo <= s[0] and s[1] <= self.hi]

    async def _settlements(self, before: int) -> Read:
        """One page; an empty one is asked for twice, because it would end the walk."""
        endpoint = self.venue.funding
        params = {"instId": self.writer.manifest.market_id, **endpoint.older(before), "limit": endpoint.limit}
        for _ in range(2):
            read: Read = await self.client.get(
                endpoint.path,
                params,
                lambda data, attempt: read_funding(
                    data, endpoint, self.writer.manifest.market_id, before, attempt
                ),
            )
            self._repaired(read)
            if len(read.rows["ts"]):
                break
        return read

    async def _forgotten(self, lo: int, hi: int) -> None:
        """[lo, hi) is older than what REST serves: the archive, or a horizon."""
        manifest = self.writer.manifest
        listed = manifest.listed_ms if manifest.listed_ms is not None else lo
        if manifest.listed_ms is not None and hi <= listed + LONGEST_INTERVAL_MS:  # there was nothing to settle
            self._add(Page((lo, hi), nothing(self.key), within([(lo, listed)], lo, hi)))
            return
        start, covered = max(lo, listed), list[Span]()
        if self.venue.archive is not None:
            family = self.venue.family(self.symbol)
            try:
                async for span, rows in archived_funding(
                    self.client, self.venue.archive, family, manifest.market_id, start, hi
                ):
                    covered.append(span)
                    self._add(Page(span, rows, _pauses(rows["ts"], *span)))
                    self._flush()
            except Unreachable:
                raise
            except DataError as error:
                self.outcome.failures.append(str(error))
        rest = minus([(start, hi)], covered)
        unknown = [span for span in rest if self._due(*span)]
        for a, b in minus([(lo, hi)], covered):
            self._add(Page((a, b), nothing(self.key), within([(lo, start), *unknown], a, b)))
        if unknown:
            a, b = unknown[0][0], unknown[-1][1]
            manifest.horizon_ms = max(manifest.horizon_ms or b, b)
            self.outcome.failures.append(
                f"settlements from {utc(a)} to {utc(b)} are older than what {self.venue.id} still serves, and its "
                f"archive has no file for them; start at {utc(b)} or bring them from elsewhere"
            )

    def _due(self, lo: int, hi: int) -> bool:
        """Whether a settlement fell due in a span that ends where the first one known stands."""
        return hi - lo > self._interval(hi)

    def _interval(self, first: int) -> int:
        """The distance of the first two settlements stored: how far before the first none is due."""
        self._flush()
        ts = self.writer.rows(first, first + 10 * LONGEST_INTERVAL_MS)["ts"]
        return int(ts[1] - ts[0]) if len(ts) > 1 else LONGEST_INTERVAL_MS


def _pauses(ts: NDArray[np.int64], lo: int, hi: int) -> list[Span]:
    """Where inside [lo, hi) no settlement stands for longer than any interval, both ends included."""
    stamps = np.concatenate([[lo], ts[(ts >= lo) & (ts < hi)], [hi]])
    late = np.flatnonzero(np.diff(stamps) > LONGEST_INTERVAL_MS + 60_000)
    return [(int(stamps[i]) + (60_000 if i else 0), int(stamps[i + 1])) for i in late.tolist()]
