"""One series, one run: what is not known yet is asked for and stored as it comes, under the series' lock.

What stays unanswered stays "not asked", and the outcome says so. How candles and funding are asked: see
`walk_candles` and `walk_funding`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from data_fetch.client import Client, Unreachable, ccxt_version
from data_fetch.files import Columns, columns_of
from data_fetch.local import LocalStore, Page
from data_fetch.manifest import GapClass, SeriesKey
from data_fetch.outcome import Outcome, Progress
from data_fetch.pages import Read
from data_fetch.series import DataError, utc
from data_fetch.spans import Span, length, minus
from data_fetch.venues import parse_symbol


class SeriesFetch(ABC):
    """Fetches what is missing of one series; `run` may be cancelled at any moment."""

    unsure: ClassVar[tuple[GapClass, ...]] = ("suspect",)
    """Holes of these classes are asked for again."""
    settled_after_ms: ClassVar[int] = 0
    """What is younger may not be published yet."""

    def __init__(self, store: LocalStore, key: SeriesKey, lo: int, hi: int, client: Client,
                 watch: Callable[[Progress], None]) -> None:
        self.store, self.key, self.client, self.watch = store, key, client, watch
        self.settings, self.venue = client.settings, client.venue
        self.symbol = parse_symbol(key.symbol)
        step = max(key.step_ms, 1)
        self.lo = lo + -lo % step
        closed = self.settings.now_ms() - self.settled_after_ms
        self.hi = min(hi, closed - closed % step)
        self.outcome = Outcome(key, self.lo, self.hi)
        self.progress = Progress(key, 0)
        self._queue: list[Page] = []
        self._tally = Counter(client.tally.again)
        self._requests = client.tally.requests

    async def run(self) -> Outcome:
        if self.lo >= self.hi:
            raise DataError(f"{self.key}: expected a span of at least one bar, found {utc(self.lo)} to {utc(self.hi)}")
        lock = self.store.lock(self.key)
        await self._take(lock)
        try:
            self.writer = self.store.writer(self.key)
            await self._locked()
        finally:
            self._flush()
            lock.release()
        return self.outcome

    async def _take(self, lock: Any) -> None:
        from filelock import Timeout

        while True:
            try:
                lock.acquire(timeout=0)
                return
            except Timeout:
                self.progress.note = "waiting for another process"
                self.watch(self.progress)
                await asyncio.sleep(0.2)
            except OSError as error:
                raise DataError(f"store: expected a folder that can be written, found {error}; choose another --store"
                                ) from None

    async def _locked(self) -> None:
        manifest = self.writer.manifest
        if manifest.files and not manifest.asked:
            self.writer.save()  # files adopted without a manifest
        self.outcome.replaced = [*self.writer.damaged, *self.writer.verify([(self.lo, self.hi)])]
        before = manifest.content_rows
        try:
            await self._before()
        except Unreachable as error:
            self.outcome.failures.append(str(error))
            self._finish(self.settings.now_ms(), 0)
            return
        todo = minus([(self.lo, self.hi)], manifest.asked)
        doubtful = self._doubtful()
        self.progress.total = length([*todo, *doubtful])
        self.progress.note = ""
        began = self.settings.now_ms()
        try:
            if todo or doubtful:
                await self._listing()
                await self._walk(todo, doubtful)
        except Unreachable as error:
            self.outcome.failures.append(str(error))
        finally:
            self._flush()
            self._finish(began, manifest.content_rows - before)

    async def _before(self) -> None:
        """Looks again at what a former run noted, before anything is asked."""
        return None

    @abstractmethod
    async def _walk(self, todo: list[Span], doubtful: list[Span]) -> None:
        """Asks for all of `todo`, and once more for what is `doubtful`."""

    def _doubtful(self) -> list[Span]:
        return [(g.lo, g.hi) for g in self.store.gaps(self.key, self.lo, self.hi) if g.why in self.unsure]

    async def _listing(self) -> None:
        """When the contract was listed and expires, so that time before and after it is no gap. May stay unknown."""
        manifest = self.writer.manifest
        if manifest.listed_ms is not None or self.key.kind == "index":
            return
        path, params = self.venue.listing(self.symbol, manifest.market_id)
        try:
            rows = await self.client.get(path, params, tries=3)
        except DataError:  # expired contracts are not listed; a venue that is down will be met again
            return
        for row in rows:
            if isinstance(row, dict) and row.get("instId") == manifest.market_id:
                listed, expires = str(row.get("listTime") or ""), str(row.get("expTime") or "")
                manifest.listed_ms = int(listed) if listed.isdigit() else None
                manifest.expires_ms = int(expires) if expires.isdigit() else None

    # -- storing ------------------------------------------------------------------------------------------------

    def _add(self, page: Page) -> None:
        self._queue.append(page)

    def _flush(self) -> None:
        if not self._queue:
            return
        pages, self._queue = self._queue, []
        self.outcome.new_rows += self.writer.commit(pages, self.settings.now_ms())
        progress, tally = self.progress, self.client.tally
        for page in pages:
            size = page.span[1] - page.span[0]
            progress.total += 0 if page.answered else size  # it is asked for once more at the end
            progress.done = min(progress.done + size, progress.total)
        progress.rows += sum(len(page.rows["ts"]) for page in pages)
        progress.requests, progress.retries = tally.requests - self._requests, sum((tally.again - self._tally).values())
        self.watch(progress)

    def _repaired(self, read: Read) -> None:
        for what, count in read.repaired.items():
            self.outcome.repaired[what] = self.outcome.repaired.get(what, 0) + count
            known = self.writer.manifest.oddities
            known[what] = known.get(what, 0) + count

    def _finish(self, began: int, new: int) -> None:
        """Notes the run in the manifest and completes the outcome."""
        outcome, manifest, tally = self.outcome, self.writer.manifest, self.client.tally
        outcome.requests = tally.requests - self._requests
        outcome.retries = dict(tally.again - self._tally)
        if outcome.requests:
            manifest.runs.append({
                "asked": [self.lo, self.hi], "at": began, "new_rows": new, "requests": outcome.requests,
                "again": outcome.retries, "url": self.settings.api_url or "", "ccxt": ccxt_version(),
                "failures": len(outcome.failures),
            })
        if manifest.asked or manifest.files:
            self.writer.save()
        rows = self.writer.rows(self.lo, self.hi)
        outcome.rows = len(rows["ts"])
        outcome.gaps = manifest.gaps(rows["ts"], self.lo, self.hi)
        outcome.content = self.store.content(self.key)
        self.progress.done = self.progress.total
        self.watch(self.progress)


def nothing(key: SeriesKey) -> Columns:
    return {
        name: np.empty(0, np.int64 if name in ("ts", "served_ms") else np.float64) for name in columns_of(key.kind)
    }
