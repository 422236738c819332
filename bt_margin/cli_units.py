"""What `bt-margin margin` shows of risk units: charges, scenario table, greeks, and what a trade would change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bt_margin.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bt_margin.engine.what_if import WhatIf

MakeTable = Callable[[str, Sequence[str]], "Table"]
_CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9", "mmr", "imr")
_COLUMNS = ("down", "same", "up")


def trades(entries: Iterable[str]) -> dict[str, float]:
    """`--add SYMBOL=SIZE`, each: signed contracts, coins for spot. Raises InputError."""
    found: dict[str, float] = {}
    for entry in entries:
        symbol, sign, size = entry.rpartition("=")
        try:
            found[symbol] = found.get(symbol, 0.0) + float(size)
        except ValueError:
            sign = ""
        if not sign or not symbol:
            raise InputError(f"--add: expected SYMBOL=SIZE such as BTC/USDT:USDT=-100, found {entry!r}")
    return found


def show_units(console: Console, make: MakeTable, report: Mapping[str, Any]) -> None:
    """Charges and greeks of every unit, and per unit its scenario table; nothing where a mode has no units."""
    units = report["risk_units"]
    if not units:
        return
    table = make(f"{report['mode']}: risk units (USD; the largest of MR1, MR2, MR6 counts, MR7 as the least)",
                 ("unit", *(name.upper() for name in _CHARGES), "largest", "spot in use"))
    for row in units:
        mark = " (indicative)" if row["indicative"] else ""
        table.add_row(row["unit"] + mark, *(_usd(row[name]) for name in _CHARGES), row["dominant"],
                      f"{row['spot_in_use']:,.6g}")
    _print(console, table)
    greeks = make(f"{report['mode']}: greeks of the units",
                  ("unit", "set", "delta USD", "delta", "gamma", "vega", "theta"))
    for row in units:
        for name, end in (("BS", ""), ("PA", "_pa")):
            greeks.add_row(row["unit"], name, _usd(row["delta_usd"]) if not end else "",
                           *(f"{row[greek + end]:,.6g}" for greek in ("delta", "gamma", "vega", "theta")))
    _print(console, greeks)
    for row in units:
        scenarios = make(f"{row['unit']}: profit by move of the price and of vols (USD)",
                         ("move", *(f"vol {name}" for name in _COLUMNS)))
        worst = row["mr1_worst"]
        for move, gains in row["mr1_scenarios"].items():
            cells = []
            for column in _COLUMNS:
                here = float(move) == worst["spot_shock"] and column == worst["vol_shock"] and worst["pnl"] < 0
                cells.append(f"{'> ' if here else ''}{_usd(gains[column])}")
            scenarios.add_row(f"{float(move):+.1%}", *cells)
        _print(console, scenarios)


def show_what_if(console: Console, make: MakeTable, change: WhatIf) -> None:
    """What the trades would change: the account's totals and every charge of every unit that moves."""
    done = ", ".join(f"{symbol} {size:+,g}" for symbol, size in change.trades.items())
    table = make(f"{change.before.mode}: with {done}", ("what", "before", "after", "change"))
    rows = [(name.removesuffix("_usd").replace("_", " "), c) for name, c in change.account.items()]
    for unit, charges in change.units.items():
        rows += [(f"{unit} {name.upper()}", c) for name, c in charges.items() if c.by or c.before]
    for name, c in rows:
        show = _percent if name == "margin ratio" else _usd
        table.add_row(name, show(c.before), show(c.after), show(c.by))
    _print(console, table)


def _print(console: Console, table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)


def _usd(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:,.2f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:,.1f} %"
