"""What another part of the study adds to the page: text, figures and tables, within a crash or after all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Picture:
    """A plotly figure. `label` says to a screen reader what it shows, `caption` how to read it; height in pixels."""

    figure: Any
    label: str
    caption: str = ""
    height: int = 420


@dataclass(frozen=True, slots=True)
class Grid:
    """A table that stands without JavaScript: the first cell of a row is its heading. Cells are plain text; those of
    `numeric` columns (by number) stand to the right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """`window`: the crash under which it stands; empty: after all crashes. All text is shown as text."""

    title: str
    window: str = ""
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Grid] = ()
