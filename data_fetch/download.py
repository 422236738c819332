"""Fetching: which series symbols and kinds name, and all of them at once.

    outcomes = asyncio.run(fetch(LocalStore("history"), keys, start_ms, end_ms))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from data_fetch.client import Client, Settings
from data_fetch.local import LocalStore
from data_fetch.manifest import SeriesKey
from data_fetch.outcome import Outcome, Progress
from data_fetch.series import DataError, utc
from data_fetch.venues import KINDS, parse_symbol, venue_named
from data_fetch.walk_candles import CandleFetch
from data_fetch.walk_funding import FundingFetch

__all__ = ["Outcome", "Progress", "Refused", "fetch", "series_of"]


class Refused(DataError):
    """A series was refused, by the venue or by the disk; `outcomes` are what came of the others."""

    def __init__(self, text: str, outcomes: Sequence[Outcome]) -> None:
        super().__init__(text)
        self.outcomes = outcomes


def series_of(
    store: LocalStore, symbols: Sequence[str], kinds: Sequence[str] | None, step_ms: int
) -> list[SeriesKey]:
    """The series that symbols and kinds name, each once.

    Without kinds: all that exist for a symbol. Raises DataError for a kind that exists for none of the symbols.
    """
    keys: dict[SeriesKey, None] = {}
    found: set[str] = set()
    for text in symbols:
        exist = _EXIST[parse_symbol(text).kind]
        for kind in kinds or exist:
            key = store.key(text, kind, step_ms)
            if kind in exist:
                keys[key] = None
                found.add(kind)
    for kind in kinds or ():
        if kind not in found:
            there = {k for text in symbols for k in _EXIST[parse_symbol(text).kind]}
            raise DataError(
                f"kind: expected one of {', '.join(k for k in KINDS if k in there)} for {', '.join(symbols)}, "
                f"found {kind!r}"
            )
    return list(keys)


_EXIST: dict[str, tuple[str, ...]] = {
    "spot": ("trade", "index"),
    "swap": ("trade", "mark", "index", "funding"),
    "future": ("trade", "mark", "index"),
    "option": ("trade", "mark", "index"),
}


async def fetch(
    store: LocalStore,
    keys: Iterable[SeriesKey],
    start_ms: int,
    end_ms: int,
    settings: Settings | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> list[Outcome]:
    """Downloads what is not stored yet of [start_ms, end_ms). Kinds run side by side, series of a kind in turn.

    Cancel it at any moment: what came is stored. Raises DataError for a question that makes no sense, and Refused for
    one that the venue refuses, once all else is done; what the venue did not answer is in the outcomes.
    """
    settings = settings or Settings()
    if start_ms >= end_ms:
        raise DataError(f"span: expected a start before its end, found {utc(start_ms)} and {utc(end_ms)}")
    if start_ms >= settings.now_ms():
        raise DataError(f"span: expected a start in the past, found {utc(start_ms)}")
    venue = venue_named(store.exchange)
    families: dict[str, list[SeriesKey]] = {}
    for key in keys:
        families.setdefault(key.kind, []).append(key)

    refused: list[DataError] = []

    async def family(members: list[SeriesKey]) -> list[Outcome]:
        found = []
        async with Client(venue, settings, members[0].kind) as client:
            for key in members:
                try:
                    walk = FundingFetch if key.kind == "funding" else CandleFetch
                    found.append(await walk(store, key, start_ms, end_ms, client, watch).run())
                except DataError as error:  # one series that the venue does not have must not cost the others
                    refused.append(error)
        return found

    tasks = [asyncio.ensure_future(family(members)) for members in families.values()]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    outcomes = sorted((outcome for outcomes in found for outcome in outcomes), key=lambda o: o.key)
    if refused:
        raise Refused(str(refused[0]), outcomes)
    return outcomes
