"""`bt-margin margin`: what a book requires, mode by mode, its risk units, and what a trade or a move would change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from bt_margin import cli_choices as choices
from bt_margin import cli_tables as show
from bt_margin.cli_choices import Flag, Json

if TYPE_CHECKING:
    from rich.table import Table

    from bt_margin.engine.builder import StressRow
    from bt_margin.engine.what_if import WhatIf

_CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9", "mmr", "imr")
_COLUMNS = ("down", "same", "up")


def register(app: App) -> None:
    """Adds the command of this module to the command line."""
    app.command(margin)


def margin(
    book: Path,
    *,
    mode: str | None = None,
    add: list[str] | None = None,
    json_: Json = False,
    stress: Flag = False,
) -> None:
    """What a book requires, mode by mode: the position builder.

    Parameters
    ----------
    book
        A JSON file: time, balances, positions, orders, prices (see the README).
    mode
        One mode (a refusal exits 2). Default: every mode, refusals listed.
    add
        What if this were traded at the mark: SYMBOL=SIZE (signed contracts, coins for spot); repeatable.
    json_
        Print the reports as JSON.
    stress
        Also move all prices together from -50 % to +50 %.
    """
    from bt_margin.engine.builder import PositionBuilder

    builder = PositionBuilder.from_dict(choices.book(book))
    reports, refused = builder.reports(mode)
    moves = {report.mode: builder.stress(report.mode) for report in reports} if stress else {}
    trades = choices.trades(add or ())
    changes, missed = builder.what_ifs(trades, [report.mode for report in reports]) if trades else ([], [])
    refused += missed
    if json_:
        from dataclasses import asdict

        body: dict[str, Any] = {"reports": [report.to_dict() for report in reports], "refused": refused}
        if stress:
            body["stress"] = {name: [asdict(row) for row in rows] for name, rows in moves.items()}
        if changes:
            body["what_if"] = [change.to_dict() for change in changes]
        print(json.dumps(body, indent=1, allow_nan=False))
        return
    console = show.console()
    for report in reports:
        data = report.to_dict()
        for table in _tables(data):
            console.print(table)
        if stress:
            console.print(_stress_table(report.mode, moves[report.mode]))
        for warning in data["warnings"]:
            console.print(f"note: {warning}", style="dim", markup=False)
    for change in changes:
        console.print(_what_if_table(change))
    for refusal in refused:
        console.print(f"{refusal['mode']}: {refusal['reason']}", style="yellow", markup=False)


def _tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Pools, and positions, risk units and orders where there are any."""
    pools = show.table(f"{report['mode']}: pools",
                       ("pool", "equity", "initial", "maintenance", "fee", "free", "ratio", "state"))
    for pool in report["pools"]:
        figures = ("equity", "initial_margin", "maintenance_margin", "liquidation_fee", "available")
        pools.add_row(pool["name"], *(show.money(pool[name]) for name in figures), show.percent(pool["margin_ratio"]),
                      pool["state"])
    yield pools
    if report["positions"]:
        positions = show.table(f"{report['mode']}: positions", (
            "symbol", "mode", "contracts", "entry", "mark", "unrealised", "initial", "maintenance", "liquidation at",
            "bankrupt at"))
        shown = ("entry_price", "mark_price", "unrealised_pnl", "initial_margin", "maintenance_margin",
                 "liquidation_price", "bankruptcy_price")
        for row in report["positions"]:
            positions.add_row(row["symbol"], row["margin_mode"], f"{row['contracts']:,g}",
                              *(show.money(row[name]) for name in shown))
        yield positions
    yield from _unit_tables(report)
    if report["orders"]:
        orders = show.table(f"{report['mode']}: orders",
                            ("symbol", "side", "amount", "initial", "loss", "fee", "answer"))
        for row in report["orders"]:
            short = f", short of {row['shortfall']:,.2f}" if row["shortfall"] else ""
            answer = "accepted" if row["accepted"] else row["reason"] + short
            orders.add_row(row["symbol"], row["side"], f"{row['amount']:,g}",
                           *(show.money(row[name]) for name in ("initial_margin", "order_loss", "fee")), answer)
        yield orders


def _stress_table(mode: str, rows: Sequence[StressRow]) -> Table:
    table = show.table(f"{mode}: all prices moved", ("move", "equity USD", "lowest ratio", "state"))
    for row in rows:
        table.add_row(f"{row.shift:+.0%}", show.money(row.equity_usd), show.percent(row.margin_ratio), row.state)
    return table


def _unit_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Charges and greeks of every unit, and per unit its scenario table; nothing where a mode has no units."""
    units = report["risk_units"]
    if not units:
        return
    table = show.table(f"{report['mode']}: risk units (USD; the largest of MR1, MR2, MR6 counts, MR7 as the least)",
                       ("unit", *(name.upper() for name in _CHARGES), "largest", "spot in use"))
    for row in units:
        mark = " (indicative)" if row["indicative"] else ""
        table.add_row(row["unit"] + mark, *(_usd(row[name]) for name in _CHARGES), row["dominant"],
                      f"{row['spot_in_use']:,.6g}")
    yield _right(table)
    greeks = show.table(f"{report['mode']}: greeks of the units",
                        ("unit", "set", "delta USD", "delta", "gamma", "vega", "theta"))
    for row in units:
        for name, end in (("BS", ""), ("PA", "_pa")):
            greeks.add_row(row["unit"], name, _usd(row["delta_usd"]) if not end else "",
                           *(f"{row[greek + end]:,.6g}" for greek in ("delta", "gamma", "vega", "theta")))
    yield _right(greeks)
    for row in units:
        scenarios = show.table(f"{row['unit']}: profit by move of the price and of vols (USD)",
                               ("move", *(f"vol {name}" for name in _COLUMNS)))
        worst = row["mr1_worst"]
        for move, gains in row["mr1_scenarios"].items():
            cells = []
            for column in _COLUMNS:
                here = float(move) == worst["spot_shock"] and column == worst["vol_shock"] and worst["pnl"] < 0
                cells.append(f"{'> ' if here else ''}{_usd(gains[column])}")
            scenarios.add_row(f"{float(move):+.1%}", *cells)
        yield _right(scenarios)


def _what_if_table(change: WhatIf) -> Table:
    """What the trades would change: the account's totals and every charge of every unit that moves."""
    done = ", ".join(f"{symbol} {size:+,g}" for symbol, size in change.trades.items())
    table = show.table(f"{change.before.mode}: with {done}", ("what", "before", "after", "change"))
    rows = [(name.removesuffix("_usd").replace("_", " "), c) for name, c in change.account.items()]
    for unit, charges in change.units.items():
        rows += [(f"{unit} {name.upper()}", c) for name, c in charges.items() if c.by or c.before]
    for name, c in rows:
        text = show.percent if name == "margin ratio" else _usd
        table.add_row(name, text(c.before), text(c.after), text(c.by))
    return _right(table)


def _right(table: Table) -> Table:
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _usd(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:,.2f}"
