"""`bt-margin survive`: what leverage would have lived through this, entered when? Imports lazily."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from bt_margin import cli_choices as choices
from bt_margin import cli_tables as show
from bt_margin.cli_choices import Flag, Json, Many
from bt_margin.cli_progress import cell_progress
from bt_margin.errors import InputError

if TYPE_CHECKING:
    from bt_margin.study.survival import SurvivalMap


def register(app: App) -> None:
    """Adds the command of this module to the command line."""
    app.command(survive)


def survive(
    book: Path,
    *,
    window: str = "2025-10-10",
    mode: Many = (),
    leverage: Many = (),
    entries: str = "hourly",
    setting: float | None = None,
    rules_as_of: str | None = None,
    path: str = "adverse",
    interest: Many = (),
    store: Path | None = None,
    out: Path = Path("bt-margin-out"),
    json_: Json = False,
    strict: Flag = False,
) -> None:
    """Which leverage of a book would have lived through a crash, entered when: leverage x entry time x mode.

    Parameters
    ----------
    book
        A book file: balances, and positions whose contracts count as proportions (see the README).
    window
        A crash's day (see `bt-margin windows`) or START/END.
    mode
        isolated, cross, multi-currency or portfolio; repeatable. Default: every mode there is.
    leverage
        Gross notional / equity at the entry: a number, or FIRST:LAST:STEP such as 1:20:0.5; repeatable. Default:
        1:20:1.
    entries
        hourly, or a number of entries spread evenly over the window.
    setting
        OKX's leverage setting. Default: twice the leverage, capped by the tier.
    rules_as_of
        "then" (each instant's own rules) or a date that freezes all tables there. Default: the book's, else "then".
    path
        How a bar is walked: adverse, ohlc or close.
    interest
        A currency's borrow rate such as USDT=0.12/y (a year; /d a day); repeatable. Default: the rules' own.
    store
        Downloaded history (see `bt-margin fetch`); minutes there are preferred. Default: ./bt-margin-data if present.
    out
        Where survival.html and survival.parquet go.
    json_
        Print the summary and the largest leverage that lived by entry as JSON.
    strict
        Nothing stands in for a missing price or rate.
    """
    from bt_margin.study.survival import StaticBook, load_path, spread, survival_map

    held = StaticBook.from_dict(choices.book(book))
    levers, rates = _leverages(leverage or ("1:20:1",)), choices.interest(interest)
    choices.folder(out, "out")
    prices = load_path(held, window, store=choices.found_store(store), strict=strict)
    at = spread(prices, entries)
    with cell_progress("judging") as progress:
        found = survival_map(held, prices, levers, at, mode or "all", walk=path, setting=setting,
                             rules_as_of=rules_as_of, interest=rates, progress=progress)
    from bt_margin.report.survival import write_survival

    out.mkdir(parents=True, exist_ok=True)
    found.write_parquet(out / "survival.parquet")
    write_survival(found, _meta(held, window, path), out / "survival.html")
    if json_:
        print(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        return
    _show(found, out)


def _leverages(texts: Sequence[str]) -> list[float]:
    """Numbers, and FIRST:LAST:STEP with the last included."""
    found: list[float] = []
    for text in texts:
        try:
            parts = [float(part) for part in text.split(":")]
        except ValueError:
            parts = []
        if len(parts) == 1:
            found += parts
        elif len(parts) == 3 and parts[2] > 0 and 0 < parts[0] <= parts[1] < float("inf") and (
                parts[1] - parts[0]) / parts[2] < 1e6:
            count = int((parts[1] - parts[0]) / parts[2] * (1 + 1e-12) + 1e-9) + 1
            found += [round(parts[0] + i * parts[2], 12) for i in range(count)]
        else:
            raise InputError(f"leverage: expected a number or FIRST:LAST:STEP such as 1:20:0.5, found {text!r}")
    return found


def _meta(book: Any, window: str, path: str) -> dict[str, Any]:
    from importlib.metadata import version

    legs = ", ".join(f"{leg.weight:+g} {leg.symbol}" for leg in book.legs)
    money = ", ".join(f"{amount:,.10g} {currency}" for currency, amount in book.balances.items())
    return {
        "title": f"Survival map: {', '.join(book.symbols)} through {window}",
        "book": f"{money} and contracts in the proportions {legs}",
        "command": show.command(),
        "assumptions": [
            "Entered at the close of a bar, at its mark, as a market order that pays the taker fee; nothing trades "
            "after that but what is forced.",
            f"Bars are walked as {path}; contracts have one price, their mark (the last trade where there is none).",
            "The leverage setting is twice the leverage, at least 1 and capped by the tier, unless given. Contracts "
            "are whole lots.",
            "Funding and interest as in the broker; the verdict is that of a MarginBroker with the same book.",
        ],
        "versions": {name: version(name) for name in ("bt-margin", "numpy")},
    }


def _show(found: SurvivalMap, out: Path) -> None:
    from rich.table import Table

    from bt_margin.study.replay import VERDICTS

    console = show.console()
    table = Table(title="Largest leverage that lived", title_justify="left", header_style="bold")
    for name in ("mode", "whenever entered", "median entry", "best entry", "worst entry (UTC)"):
        table.add_column(name, justify="right" if "entry" in name or "whenever" in name else "left")
    shown = [name for name in VERDICTS if any(row[name] for row in found.summary())]
    for name in shown:
        table.add_column(name, justify="right")
    for row in found.summary():
        table.add_row(
            row["mode"], *(_lever(row[k], found.leverages[-1]) for k in ("through_all", "median", "best")),
            row["worst_entry"][:16].replace("T", " "), *(f"{row[name]:,}" for name in shown))
    console.print(table)
    for text in found.reasons:
        if text:
            console.print(f"refused or failed: {text}", style="yellow", markup=False)
    for text in found.warnings:
        console.print(f"note: {text}", style="dim", markup=False)
    console.print(f"{found.verdict.size:,} cells. Data: {'; '.join(f'{s}: {t}' for s, t in found.sources.items())}. "
                  f"Map: {out / 'survival.html'}", markup=False, highlight=False)


def _lever(value: float | None, highest: float) -> str:
    """The highest of the map says only that much."""
    return "none" if value is None else f"{'>= ' if value >= highest else ''}{value:.4g}x"
