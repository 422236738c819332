"""Named crashes, and spans typed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources

import msgspec

from bt_margin.engine.builder import parse_time
from bt_margin.errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time to replay, `since` inclusive, `until` exclusive, ms UTC."""

    id: str
    title: str
    since: int
    until: int
    what: str = ""
    source: str = ""


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    title: str
    since: datetime
    until: datetime
    what: str
    source: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    window: list[_Row]


@cache
def windows() -> dict[str, Window]:
    """Every named crash, by its day."""
    import tomllib

    text = (resources.files("bt_margin.study") / "windows.toml").read_text(encoding="utf-8")
    rows = msgspec.convert(tomllib.loads(text), _File).window
    return {row.id: Window(row.id, row.title, _ms(row.since), _ms(row.until), row.what, row.source) for row in rows}


def window(text: str) -> Window:
    """A crash's day, or START/END. Raises InputError for an unknown day or a span that is not one."""
    named = windows().get(text)
    if named is not None:
        return named
    if "/" not in text:
        raise InputError(f"window: expected one of {', '.join(windows())} or START/END, found {text!r}")
    first, _, last = text.partition("/")
    since, until = parse_time(first, "window start"), parse_time(last, "window end")
    if since >= until:
        raise InputError(f"window: expected a start before its end, found {text!r}")
    return Window(text, text, since, until)


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)
