"""Older funding from the venue's own archive: a listing of zip files, each with one CSV file.

REST forgets funding after about three months; the archive keeps years of it, a month a file, two days late. Its
months begin on the venue's calendar (UTC+8), so a month of UTC lies in two files.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from data_fetch.client import BadPage, Client
from data_fetch.files import Columns
from data_fetch.pages import add_event, events
from data_fetch.series import DataError
from data_fetch.spans import Span, within
from data_fetch.venues import Archive


async def archived_funding(
    client: Client, archive: Archive, family: str, market_id: str, lo: int, hi: int
) -> AsyncIterator[tuple[Span, Columns]]:
    """(the span that a file was found for, its settlements in [lo, hi)), file by file.

    Raises DataError for a file of a foreign host.
    """
    for first, last in _queries(archive, lo, hi):
        listing = await client.get(archive.path, archive.params(family, first, last))
        for url, month in _files(listing):
            rows = await client.download(
                url,
                lambda data: _rows(data, archive, market_id, lo, hi),
                lambda at: _check_host(at, archive, client.settings.api_url),
            )
            for span in within([_month(month + archive.offset_ms, archive.offset_ms)], lo, hi):
                yield span, rows


def _queries(archive: Archive, lo: int, hi: int) -> Iterator[Span]:
    """Whole months of the archive's calendar, as many a query as it allows."""
    at = _month(lo + archive.offset_ms, archive.offset_ms)[0]
    while at < hi:
        end = at
        for _ in range(archive.months):
            end = _month(end + archive.offset_ms, archive.offset_ms)[1]
        yield at, min(end, _month(hi - 1 + archive.offset_ms, archive.offset_ms)[1])
        at = end


def _month(local_ms: int, offset_ms: int) -> Span:
    """The month that holds an instant of the archive's calendar, as instants of UTC."""
    day = datetime.fromtimestamp(local_ms / 1000, UTC)
    first = datetime(day.year, day.month, 1, tzinfo=UTC)
    after = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return round(first.timestamp() * 1000) - offset_ms, round(after.timestamp() * 1000) - offset_ms


def _files(listing: Any) -> Iterator[tuple[str, int]]:
    """(url, time of the unit) of every file of a listing."""
    try:
        for entry in listing:
            for detail in entry["details"]:
                for file in detail["groupDetails"]:
                    yield str(file["url"]), int(file["dateTs"])
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"archive: expected a listing of files, found {str(listing)[:120]} ({error})") from None


def _check_host(url: str, archive: Archive, api_url: str | None) -> None:
    at, own = urlsplit(url), urlsplit(api_url or "").hostname
    theirs = at.scheme == "https" and f".{at.hostname}".endswith(tuple(f".{host}" for host in archive.hosts))
    if not theirs and (own is None or at.scheme not in ("http", "https") or at.hostname != own):
        raise DataError(f"archive: expected a file at {', '.join(archive.hosts)}, found {url!r}; it is not read")


def _rows(data: bytes, archive: Archive, market_id: str, lo: int, hi: int) -> Columns:
    found: dict[int, tuple[float, int]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as files:
            if files.testzip() is not None:
                raise BadPage("damaged archive file")
            (name,) = (n for n in files.namelist() if n.lower().endswith(".csv"))
            text = files.read(name).decode("utf-8-sig")
        for row in csv.DictReader(io.StringIO(text)):
            served, rate = int(float(row[archive.time])), float(row[archive.rate])
            if row[archive.name] == market_id and lo <= served < hi:
                add_event(found, served, rate, Counter())
    except _DAMAGE as error:
        raise BadPage(f"damaged archive file: {type(error).__name__}: {error}") from error
    return events(found)


_DAMAGE = (zipfile.BadZipFile, zlib.error, csv.Error, ValueError, KeyError, TypeError, ArithmeticError, RuntimeError,
           OSError, EOFError)
"""What zipfile and csv raise for bytes that are no such file."""
