"""One series, one run: which windows are not known yet, asking for them side by side, storing each page as it comes.

Windows are fixed by the span, never by the last row, so an outage longer than a page does not end the walk. A window
with rows missing is asked again until an answer brings nothing new. What stays unanswered stays "not asked", and the
outcome says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_fetch.archive import archived_funding
from data_fetch.client import Client, Unreachable, ccxt_version
from data_fetch.files import Columns, columns_of, merge
from data_fetch.local import LocalStore, Page
from data_fetch.manifest import SeriesKey
from data_fetch.outcome import Outcome, Progress
from data_fetch.pages import Read, read_candles, read_funding
from data_fetch.series import DataError, utc
from data_fetch.spans import Span, chunks, holes, length, minus, union, within
from data_fetch.venues import Candles, parse_symbol

GIVE_UP_AFTER = 3
"""Windows in a row that the venue did not answer: then it is down, and the rest is left for the next run."""
LONGEST_INTERVAL_MS = 8 * 3_600_000
"""Perpetuals settle at least so often; a longer pause between two settlements is a hole."""

SETTLED_AFTER_MS = 300_000
"""Younger settlements may not be published yet."""


class SeriesFetch:
    """Fetches what is missing of one series; `run` may be cancelled at any moment."""

    def __init__(self, store: LocalStore, key: SeriesKey, lo: int, hi: int, client: Client,
                 watch: Callable[[Progress], None]) -> None:
        self.store, self.key, self.client, self.watch = store, key, client, watch
        self.settings, self.venue = client.settings, client.venue
        self.symbol = parse_symbol(key.symbol)
        step = max(key.step_ms, 1)
        self.lo = lo + -lo % step
        closed = self.settings.now_ms() - (0 if key.step_ms else SETTLED_AFTER_MS)
        self.hi = min(hi, closed - closed % step)
        self.outcome = Outcome(key, self.lo, self.hi)
        self.progress = Progress(key, 0)
        self._queue: list[Page] = []
        self._broken: DataError | None = None
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
            await self._recheck_horizon()
        except Unreachable as error:
            self.outcome.failures.append(str(error))
            self._finish(self.settings.now_ms(), 0)
            return
        todo = minus([(self.lo, self.hi)], manifest.asked)
        unsure = ("suspect", "beyond horizon") if self.key.kind == "funding" else ("suspect",)
        doubtful = [g for g in self.store.gaps(self.key, self.lo, self.hi) if g.why in unsure]
        self.progress.total = length([*todo, *((g.lo, g.hi) for g in doubtful)])
        self.progress.note = ""
        began = self.settings.now_ms()
        try:
            if todo or doubtful or (self.key.kind == "funding" and self._odd()):
                await self._listing()
                if self.key.kind == "funding":
                    await self._funding(todo, [(g.lo, g.hi) for g in doubtful])
                else:
                    await self._candles(todo, [(g.lo, g.hi) for g in doubtful])
        except Unreachable as error:
            self.outcome.failures.append(str(error))
        finally:
            self._flush()
            self._finish(began, manifest.content_rows - before)

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

    # -- candles ------------------------------------------------------------------------------------------------

    async def _candles(self, todo: list[Span], doubtful: list[Span]) -> None:
        endpoint = self.venue.candles[self.key.kind]
        size = endpoint.limit * self.key.step_ms
        todo = [part for span in todo for part in await self._served(endpoint, span)]
        windows = [w for span in todo for w in chunks(*span, size)]
        windows += [w for span in doubtful for w in chunks(*span, size)]
        committer = asyncio.ensure_future(self._commit_often())
        try:
            # holes are asked for again when all else is done: whatever was wrong has had time to pass
            again = await self._pass(endpoint, windows, last=False)
            await self._pass(endpoint, again, last=True)
        finally:
            committer.cancel()
            await asyncio.gather(committer, return_exceptions=True)
        if not self.outcome.failures:
            await self._horizon(endpoint)

    async def _pass(self, endpoint: Candles, windows: list[Span], last: bool) -> list[Span]:
        """Asks for windows side by side, oldest first; returns those that have holes."""
        left, holed = windows[::-1], list[Span]()
        strikes = 0

        async def worker() -> None:
            nonlocal strikes
            while left and strikes < GIVE_UP_AFTER:
                window = left.pop()
                try:
                    if await self._window(endpoint, window, last):
                        holed.append(window)
                    if self._broken:
                        raise self._broken
                    strikes = 0
                except Unreachable as error:
                    strikes += 1
                    self.outcome.failures.append(f"{utc(window[0])} to {utc(window[1])}: {error}")

        workers = [asyncio.ensure_future(worker()) for _ in range(min(self.settings.width, len(left)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if left and strikes >= GIVE_UP_AFTER:
            self.outcome.failures.append(f"the venue does not answer: {len(left)} windows were left for another run")
        return sorted(holed)

    async def _horizon(self, endpoint: Candles) -> None:
        """When the rows begin with a hole: whether the venue has anything older, or this is where its rows begin."""
        self._flush()
        ts = self.writer.rows(self.lo, self.hi)["ts"]
        first = int(ts[0]) if len(ts) else self.hi
        gaps = self.writer.manifest.gaps(ts, self.lo, first)
        if any(gap.why == "suspect" for gap in gaps) and not await self._older(endpoint, first):
            self.writer.manifest.horizon_ms = first

    async def _served(self, endpoint: Candles, span: Span) -> list[Span]:
        """What of a span the venue has at all. Where nothing is served so far back, finds out from when on it is,
        and notes all before as asked."""
        manifest, step = self.writer.manifest, self.key.step_ms
        size = endpoint.limit * step
        lo, hi = span
        if manifest.horizon_ms is not None and lo < manifest.horizon_ms:
            floor = min(hi, manifest.horizon_ms)
            self._add(Page((lo, floor), _nothing(self.key), [(lo, floor)]))
            return [(floor, hi)] if floor < hi else []
        if hi - lo <= size or await self._older(endpoint, min(hi, lo + size)):
            return [span]
        # nothing before lo + size: the first row lies later, or nowhere in the span
        if not await self._older(endpoint, hi):
            horizon = hi
        else:
            low, high = lo + size, hi  # nothing is older than low, something is older than high
            while high - low > size:
                middle = low + (high - low) // 2 // step * step
                if await self._older(endpoint, middle):
                    high = middle
                else:
                    low = middle
            horizon = low
        self._add(Page((lo, horizon), _nothing(self.key), [(lo, horizon)]))
        manifest.horizon_ms = horizon
        return [(horizon, hi)] if horizon < hi else []

    async def _older(self, endpoint: Candles, t: int) -> bool:
        """Whether the venue has any row before `t`; "no" must be said three times."""
        params = {**self._params(), **endpoint.older(t), "limit": 1}
        for attempt in range(3):
            if await self.client.get(endpoint.path, params):
                return True
            await self.client.wait(attempt)
        return False

    async def _recheck_horizon(self) -> None:
        """A horizon is asked about again in every run that reaches beyond it: it may have been a false answer."""
        manifest = self.writer.manifest
        if manifest.horizon_ms is None or self.lo >= manifest.horizon_ms or self.key.kind == "funding":
            return
        if await self._older(self.venue.candles[self.key.kind], manifest.horizon_ms):
            manifest.forget(-(2**62), manifest.horizon_ms)
            manifest.horizon_ms = None

    async def _window(self, endpoint: Candles, window: Span, last: bool) -> bool:
        """Asks for a window until it is full, or until an answer brings nothing new; returns whether it has holes.

        With holes it counts as asked only the `last` time.
        """
        lo, hi = window
        rows = _nothing(self.key)
        if last:
            self._flush()
            rows = self.writer.rows(lo, hi)
        missing = holes(rows["ts"], self.key.step_ms, lo, hi)
        while missing:
            read = await self._page(endpoint, missing[0][0], missing[-1][1])
            if read.forming_ms is not None:
                hi = min(hi, max(lo, read.forming_ms))
                self.outcome.forming_ms = min(read.forming_ms, self.outcome.forming_ms or read.forming_ms)
            before = len(rows["ts"])
            rows = merge(rows, read.rows)
            fresh = len(rows["ts"]) > before
            rows = {name: values[rows["ts"] < hi] for name, values in rows.items()}
            missing = holes(rows["ts"], self.key.step_ms, lo, hi)
            if not fresh:
                break
        self._add(Page((lo, hi), rows, missing, answered=last or not missing))
        return bool(missing)

    async def _page(self, endpoint: Candles, lo: int, hi: int) -> Read:
        params = {**self._params(), **endpoint.bounds(lo, hi), "limit": endpoint.limit}
        read: Read = await self.client.get(
            endpoint.path,
            params,
            lambda data, attempt: read_candles(
                data, endpoint, self.symbol, self.key.kind, self.key.step_ms, lo, hi, self.settings.now_ms(), attempt
            ),
        )
        self._repaired(read)
        return read

    def _params(self) -> dict[str, Any]:
        return {"instId": self.writer.manifest.market_id, "bar": self.venue.timeframes[self.key.step_ms]}

    # -- funding ------------------------------------------------------------------------------------------------

    async def _funding(self, todo: list[Span], doubtful: list[Span]) -> None:
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
            self._add(Page((lo, hi), _nothing(self.key), within([(lo, listed)], lo, hi)))
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
            self._add(Page((a, b), _nothing(self.key), within([(lo, start), *unknown], a, b)))
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

    # -- storing ------------------------------------------------------------------------------------------------

    def _add(self, page: Page) -> None:
        self._queue.append(page)

    async def _commit_often(self) -> None:
        """Stores what came, at most a third of the time: a whole month is written each time."""
        while True:
            if self._queue:
                began = time.monotonic()
                try:
                    self._flush()
                except DataError as error:  # a full disk: there is no point in asking on
                    self._broken = error
                    return
                await asyncio.sleep(2 * (time.monotonic() - began))
            else:
                await asyncio.sleep(0.002)

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


def _nothing(key: SeriesKey) -> Columns:
    return {
        name: np.empty(0, np.int64 if name in ("ts", "served_ms") else np.float64) for name in columns_of(key.kind)
    }


def _pauses(ts: NDArray[np.int64], lo: int, hi: int) -> list[Span]:
    """Where inside [lo, hi) no settlement stands for longer than any interval, both ends included."""
    stamps = np.concatenate([[lo], ts[(ts >= lo) & (ts < hi)], [hi]])
    late = np.flatnonzero(np.diff(stamps) > LONGEST_INTERVAL_MS + 60_000)
    return [(int(stamps[i]) + (60_000 if i else 0), int(stamps[i + 1])) for i in late.tolist()]
