"""Instants: milliseconds since 1970, and how they are told and read as text in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bt_margin.errors import InputError

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def iso(time: int) -> str:
    """An instant as ISO text in UTC, to the second."""
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds(moment: datetime, path: str) -> int:
    """A moment with its zone as an instant. Raises InputError, naming `path`, for one outside the years 1 to 9999."""
    try:
        return (moment.astimezone(UTC) - _BEGIN) // timedelta(milliseconds=1)
    except OverflowError:
        raise InputError(f"{path}: expected a time within the years 1 to 9999 in UTC, found {moment.isoformat()}"
                         ) from None


def parse_time(text: str, path: str) -> int:
    """ISO text in UTC as an instant; a bare date is 00:00. Raises InputError, naming `path`."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected a UTC time such as 2025-10-10T21:20:00Z, found {text!r}") from None
    return milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC), path)
