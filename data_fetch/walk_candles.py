"""Candles: windows side by side, and where nothing is served so far back, from when on it is.

Windows are fixed by the span, never by the last row, so an outage longer than a page does not end the walk. A window
with rows missing is asked again until an answer brings nothing new.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from data_fetch.client import Unreachable
from data_fetch.files import merge
from data_fetch.local import Page
from data_fetch.pages import Read, read_candles
from data_fetch.series import DataError, utc
from data_fetch.spans import Span, chunks, holes
from data_fetch.venues import Candles
from data_fetch.walk import SeriesFetch, nothing

GIVE_UP_AFTER = 3
"""Windows in a row that the venue did not answer: then it is down, and the rest is left for the next run."""

LONGEST_PAUSE_S = 0.25
"""Between two writes: two or three pages at the venue's pace."""


class CandleFetch(SeriesFetch):
    """Fetches what is missing of a series of candles."""

    _broken: DataError | None = None

    async def _before(self) -> None:
        """A horizon is asked about again in every run that reaches beyond it: it may have been a false answer."""
        manifest = self.writer.manifest
        if manifest.horizon_ms is None or self.lo >= manifest.horizon_ms:
            return
        if await self._older(self.venue.candles[self.key.kind], manifest.horizon_ms):
            manifest.forget(-(2**62), manifest.horizon_ms)
            manifest.horizon_ms = None

    async def _walk(self, todo: list[Span], doubtful: list[Span]) -> None:
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
            self._add(Page((lo, floor), nothing(self.key), [(lo, floor)]))
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
        self._add(Page((lo, horizon), nothing(self.key), [(lo, horizon)]))
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

    async def _window(self, endpoint: Candles, window: Span, last: bool) -> bool:
        """Asks for a window until it is full, or until an answer brings nothing new; returns whether it has holes.

        With holes it counts as asked only the `last` time.
        """
        lo, hi = window
        rows = nothing(self.key)
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

    async def _commit_often(self) -> None:
        """Stores what came: a whole month each time, so with pauses. What comes in a pause is what a kill costs."""
        while True:
            if self._queue:
                began = time.monotonic()
                try:
                    self._flush()
                except DataError as error:  # a full disk: there is no point in asking on
                    self._broken = error
                    return
                await asyncio.sleep(min(LONGEST_PAUSE_S, 2 * (time.monotonic() - began)))
            else:
                await asyncio.sleep(0.002)
