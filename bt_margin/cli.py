"""`bt-margin`: thin commands over the library. Bad input is one line and exit status 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from bt_margin import cli_choices as choices
from bt_margin import cli_compare, cli_data, cli_fetch, cli_survive
from bt_margin import cli_tables as show
from bt_margin.cli_choices import Flag, Json
from bt_margin.errors import BtMarginError, InputError

app = App(name="bt-margin", help="OKX-style margin for backtrader: how leveraged positions die, mode by mode.")



@app.command
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
    from bt_margin import cli_units
    from bt_margin.engine.builder import PositionBuilder

    builder = PositionBuilder.from_dict(choices.book(book))
    reports, refused = builder.reports(mode)
    moves = {report.mode: builder.stress(report.mode) for report in reports} if stress else {}
    trades = cli_units.trades(add or ())
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
        pools = show.table(
            f"{report.mode}: pools", ("pool", "equity", "initial", "maintenance", "fee", "free", "ratio", "state")
        )
        for pool in data["pools"]:
            pools.add_row(
                pool["name"],
                *(
                    show.money(pool[k])
                    for k in ("equity", "initial_margin", "maintenance_margin", "liquidation_fee", "available")
                ),
                show.percent(pool["margin_ratio"]),
                pool["state"],
            )
        console.print(pools)
        rows = show.table(
            f"{report.mode}: positions",
            (
                "symbol",
                "mode",
                "contracts",
                "entry",
                "mark",
                "unrealised",
                "initial",
                "maintenance",
                "liquidation at",
                "bankrupt at",
            ),
        )
        for p in data["positions"]:
            rows.add_row(
                p["symbol"],
                p["margin_mode"],
                f"{p['contracts']:,g}",
                show.money(p["entry_price"]),
                show.money(p["mark_price"]),
                show.money(p["unrealised_pnl"]),
                show.money(p["initial_margin"]),
                show.money(p["maintenance_margin"]),
                show.money(p["liquidation_price"]),
                show.money(p["bankruptcy_price"]),
            )
        if data["positions"]:
            console.print(rows)
        cli_units.show_units(console, show.table, data)
        if data["orders"]:
            names = ("symbol", "side", "amount", "initial", "loss", "fee", "answer")
            orders = show.table(f"{report.mode}: orders", names)
            for o in data["orders"]:
                orders.add_row(
                    o["symbol"],
                    o["side"],
                    f"{o['amount']:,g}",
                    show.money(o["initial_margin"]),
                    show.money(o["order_loss"]),
                    show.money(o["fee"]),
                    "accepted" if o["accepted"] else f"{o['reason']}, short of {o['shortfall']:,.2f}",
                )
            console.print(orders)
        if stress:
            table = show.table(f"{report.mode}: all prices moved", ("move", "equity USD", "lowest ratio", "state"))
            for row in moves[report.mode]:
                ratio = show.percent(row.margin_ratio)
                table.add_row(f"{row.shift:+.0%}", show.money(row.equity_usd), ratio, row.state)
            console.print(table)
        for warning in data["warnings"]:
            console.print(f"note: {warning}", style="dim", markup=False)
    for change in changes:
        cli_units.show_what_if(console, show.table, change)
    for refusal in refused:
        console.print(f"{refusal['mode']}: {refusal['reason']}", style="yellow", markup=False)


@app.command
def windows(*, store: Path | None = None, json_: Json = False) -> None:
    """Named crashes, the user's own among them, and the data at hand for each.

    Parameters
    ----------
    store
        A folder of history; windows in its windows.toml win over embedded ones. Default: ./bt-margin-data if present.
    json_
        Print JSON.
    """
    from bt_margin.model.moment import iso
    from bt_margin.study.windows import windows as named
    from data_fetch import LocalStore, Samples, Store

    folder = choices.found_store(store)
    stores: list[Store] = [Samples(), *([LocalStore(folder)] if folder else [])]
    rows: list[dict[str, Any]] = []
    for w in named(folder).values():
        have = {s.label: sorted({f"{i.symbol} {i.kind} ({i.venue})" for i in s.available(w.since, w.until)})
                for s in stores}
        rows.append(
            {
                "id": w.id, "title": w.title, "since": iso(w.since), "until": iso(w.until), "what": w.what,
                "source": w.source, "origin": w.origin,
                "data": {label: names for label, names in have.items() if names},
            }
        )
    if json_:
        print(json.dumps(rows, indent=1))
        return
    table = show.table("Crashes", ("id", "what happened", "span (UTC)", "window from", "data"))
    for row in rows:
        table.add_row(
            str(row["id"]), f"{row['title']}. {row['what']}".strip(), f"{row['since'][:10]} to {row['until'][:10]}",
            str(row["origin"]), "; ".join(f"{label}: {', '.join(names)}" for label, names in row["data"].items()),
            end_section=True,
        )
    show.console().print(table)


@app.command
def rules(
    *,
    table: str | None = None,
    symbol: str | None = None,
    as_of: str | None = None,
    json_: Json = False,
) -> None:
    """Every revision of every rule table: what, since when, by whom, how well proven.

    Parameters
    ----------
    table
        Only this table.
    symbol
        Only this subject (a symbol, a fee kind, a parameter).
    as_of
        Only what is in force on this date.
    json_
        Print JSON.
    """
    from bt_margin.model.moment import parse_time
    from bt_margin.rules.book import load_rules

    rows = load_rules("okx").listing()
    for name, wanted in (("table", table), ("subject", symbol)):
        known = sorted({str(row[name]) for row in rows})
        if wanted is not None and wanted not in known:
            shown = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
            raise InputError(f"{name}: expected one of {shown}, found {wanted!r}")
        rows = [row for row in rows if wanted is None or row[name] == wanted]
    if as_of is not None:
        from bt_margin.model.moment import iso

        then = iso(parse_time(as_of, "as_of"))
        latest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            if row["effective"] <= then and not (row["until"] and row["until"] <= then):
                latest[row["table"], row["subject"]] = row
        rows = list(latest.values())
    if json_:
        print(json.dumps(rows, indent=1))
        return
    shown_table = show.table("Rules", ("table", "subject", "effective", "until", "grade", "figures", "source"))
    for row in rows:
        shown_table.add_row(
            *(str(row.get(k) or "") for k in ("table", "subject", "effective", "until", "grade", "summary", "source"))
        )
    show.console().print(shown_table)


def _fail(error: object) -> NoReturn:
    print(f"bt-margin: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


cli_compare.register(app)
cli_data.register(app)
cli_fetch.register(app)
cli_survive.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 0 done, 2 bad input, 1 anything else."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(error)
    except InputError as error:
        _fail(error)
    except BtMarginError as error:
        print(f"bt-margin: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # a name too long, a folder that may not be written
        _fail(error)
    except ValueError as error:
        if type(error).__module__.startswith("data_fetch"):
            _fail(error)
        raise


if __name__ == "__main__":
    main()
