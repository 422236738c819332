"""What the commands share in showing: consoles, tables, and how numbers are written."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def command() -> str:
    """What was typed, as a report tells it."""
    return shlex.join(["bt-margin", *sys.argv[1:]])


def console(stderr: bool = False) -> Any:
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 200
    return Console(stderr=stderr, width=wide, soft_wrap=False)


def table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", header_style="bold")
    right = {
        "lev",
        "distance at entry",
        "lowest ratio",
        "forced",
        "fees",
        "funding",
        "interest",
        "liq. cost",
        "final equity",
        "equity",
        "initial",
        "maintenance",
        "fee",
        "free",
        "ratio",
        "contracts",
        "entry",
        "mark",
        "unrealised",
        "liquidation at",
        "bankrupt at",
        "amount",
        "loss",
        "move",
        "equity USD",
        "cash",
        "margin",
        "fund",
        "size",
        "price",
    }
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:,.1f} %"


def distance(value: float | None) -> str:
    """Beyond 1,000 % nobody counts: a hedged book that no common move of its marks endangers."""
    return "n/a" if value is None else "> 1,000 %" if value > 1_000 else f"{value:,.1f} %"


def money(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:,.6g}"


def whole(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def by_class(gaps: Sequence[Mapping[str, str]]) -> str:
    """Holes of each class, the first of each with its time."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for gap in gaps:
        found.setdefault(gap["why"], []).append(gap)
    return "; ".join(
        f"{why} {g[0]['since']} to {g[0]['until']}" + (f" and {len(g) - 1} more" if len(g) > 1 else "")
        for why, g in sorted(found.items())
    )
