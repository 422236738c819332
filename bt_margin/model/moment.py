"""Instants: milliseconds since 1970, and how they are told and read as text in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from bt_margin.errors import InputError

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def iso(time: int) -> str:
    """An instant as ISO text in UTC, to the second."""
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds(moment: datetime) -> int:
    """A moment with its zone as an instant."""
    return round(moment.timestamp() * 1000)


def parse_time(text: str, path: str) -> int:
    """ISO text in UTC as an instant; a bare date is 00:00. Raises InputError, naming `path`."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected a UTC time such as 2025-10-10T21:20:00Z, found {text!r}") from None
    return milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
