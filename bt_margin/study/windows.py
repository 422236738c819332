"""Named crashes, the six embedded ones and the user's own, and spans typed by hand."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from bt_margin.errors import InputError
from bt_margin.model.moment import milliseconds, parse_time

FILE = "windows.toml"
"""In a store's folder: the user's own windows."""


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time to replay, `since` inclusive, `until` exclusive, ms UTC; `origin`: embedded, a file, or typed."""

    id: str
    title: str
    since: int
    until: int
    what: str = ""
    source: str = ""
    origin: str = "typed"


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    since: datetime
    until: datetime
    title: str = ""
    what: str = ""
    source: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    window: list[_Row] = []


def windows(store: str = "") -> dict[str, Window]:
    """Every named crash, by its day: the embedded ones, then those of the store's `windows.toml`, which win.

    Raises InputError, with file and window, for a file that cannot be used.
    """
    found = dict(_embedded())
    path = Path(store) / FILE
    if store and path.exists():
        try:
            found.update(_parsed(path.read_text(encoding="utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
    return found


def window(text: str, store: str = "") -> Window:
    """A crash's day, or START/END. Raises InputError for an unknown day or a span that is not one."""
    named = windows(store)
    if text in named:
        return named[text]
    if "/" not in text:
        raise InputError(f"window: expected one of {', '.join(named)} or START/END, found {text!r}")
    first, _, last = text.partition("/")
    since, until = parse_time(first, "window start"), parse_time(last, "window end")
    if since >= until:
        raise InputError(f"window: expected a start before its end, found {text!r}")
    return Window(text, text, since, until)


@cache
def _embedded() -> dict[str, Window]:
    text = (resources.files("bt_margin.study") / FILE).read_text(encoding="utf-8")
    return _parsed(text, "embedded")


def _parsed(text: str, origin: str) -> dict[str, Window]:
    try:
        rows = msgspec.convert(tomllib.loads(text), _File).window
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"{origin}: expected [[window]] tables with id, since, until (title, what, source if you "
                         f"like), found {error}") from None
    found: dict[str, Window] = {}
    for row in rows:
        where = f"{origin}: window {row.id!r}"
        if not row.id or "/" in row.id or row.id != row.id.strip():
            raise InputError(f"{where}: expected an id such as 2023-03-11, without slashes or spaces around it")
        if row.id in found:
            raise InputError(f"{where}: expected every id once, found it twice")
        for name in ("since", "until"):
            if getattr(row, name).tzinfo is None:
                raise InputError(f"{where}: {name}: expected a time with its zone such as 2023-03-10T00:00:00Z, found "
                                 f"{getattr(row, name).isoformat()}")
        if row.since >= row.until:
            raise InputError(f"{where}: expected a start before its end, found {row.since.isoformat()} to "
                             f"{row.until.isoformat()}")
        since, until = milliseconds(row.since, f"{where}: since"), milliseconds(row.until, f"{where}: until")
        found[row.id] = Window(row.id, row.title or row.id, since, until, row.what, row.source, origin)
    return found
