"""`bt-margin data | check | snapshot`: what is stored, whether it is sound, the venue's rules. Imports lazily."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cyclopts import App

from bt_margin import cli_choices as choices
from bt_margin.cli_choices import STORE, Flag, Json, Many
from bt_margin.cli_tables import by_class


def register(app: App) -> None:
    """Adds the commands of this module to the command line."""
    for command in (data, check, snapshot):
        app.command(command)


def data(*, store: Path = STORE, exchange: str = "okx", symbol: Many = (), json_: Json = False) -> None:
    """What is stored: series, spans, rows, holes by class, hashes.

    Parameters
    ----------
    store
        The folder of the store.
    exchange
        okx.
    symbol
        Only these symbols.
    json_
        Print everything as JSON, every hole included.
    """
    from data_fetch.local import LocalStore
    from data_fetch.series import DataError, timeframe, utc

    local = LocalStore(choices.stored(store), exchange)
    wanted = choices.names(symbol, "symbol")
    rows: list[dict[str, Any]] = []
    for _, error in local.damaged():
        print(f"bt-margin: {error}", file=sys.stderr)
    for key in local.stored():
        if wanted and key.symbol not in wanted:
            continue
        manifest, span = local.manifest(key), local.span(key)
        try:
            gaps, content = local.gaps(key, *span) if span else [], local.content(key)
        except DataError as error:  # one damaged file does not hide the rest
            print(f"bt-margin: {error}", file=sys.stderr)
            gaps, content = [], "damaged"
        rows.append({
            "exchange": key.exchange, "symbol": key.symbol, "kind": key.kind, "id": manifest.market_id,
            "timeframe": timeframe(key.step_ms) if key.step_ms else "events",
            "since": utc(span[0]) if span else None, "until": utc(span[1]) if span else None,
            "rows": manifest.content_rows, "bytes": sum(e.size for e in manifest.files.values()),
            "gaps": [{"since": utc(g.lo), "until": utc(g.hi), "why": g.why} for g in gaps],
            "oddities": manifest.oddities, "content": content,
            "files": {name: {"rows": e.rows, "content": e.content} for name, e in sorted(manifest.files.items())},
            "folder": str(local.folder(key)),
        })
    if json_:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Stored in {store}", title_justify="left", header_style="bold")
    for name in ("series", "bars", "since", "until", "rows", "holes", "MB", "hash"):
        table.add_column(name, overflow="fold", justify="right" if name in ("rows", "MB") else "left")
    for row in rows:
        table.add_row(
            f"{row['exchange']} {row['symbol']} {row['kind']}", row["timeframe"], str(row["since"]),
            str(row["until"]), f"{row['rows']:,}", by_class(row["gaps"]), f"{row['bytes'] / 1e6:.1f}",
            row["content"][:12],
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def check(*, store: Path = STORE, exchange: str = "okx", json_: Json = False, strict: Flag = False) -> None:
    """Re-hash every file and look at the figures: trade beside mark and index, stale runs, outliers, bad prices.

    Exit status 1 when something is wrong (`error`); a `note` may be the market itself.

    Parameters
    ----------
    store
        The folder of the store.
    exchange
        okx.
    json_
        Print the findings as JSON.
    strict
        Notes are errors, too.
    """
    from dataclasses import asdict

    from data_fetch.local import LocalStore
    from data_fetch.quality import check as checked

    local = LocalStore(choices.stored(store), exchange)
    found = checked(local)
    if json_:
        print(json.dumps([asdict(f) for f in found], indent=1))
    else:
        for finding in found:
            print(finding)
    wrong = [f for f in found if strict or f.level == "error"]
    if wrong:
        print(f"bt-margin: {len(wrong)} wrong, the first: {wrong[0].series}: {wrong[0].what}", file=sys.stderr)
        raise SystemExit(1)
    if not json_:
        print(f"{len(local.stored())} series are as they were stored; {len(found)} notes")


def snapshot(
    *,
    exchange: str = "okx",
    symbol: Many = (),
    api_url: str | None = None,
    out: Path = Path("bt-margin-rules"),
) -> None:
    """The venue's rules of this moment as dated rule revisions graded `snapshot`, raw answers beside them.

    Parameters
    ----------
    exchange
        okx.
    symbol
        Contracts and pairs whose position tiers are asked; repeatable or separated by commas.
    api_url
        Another base address of the exchange.
    out
        The folder to write to.
    """
    import asyncio

    from data_fetch.client import Settings, Unreachable
    from data_fetch.snapshot import take
    from data_fetch.venues import venue_named

    venue = venue_named(exchange)
    try:
        written = asyncio.run(
            take(venue, choices.symbols(symbol), choices.folder(out, "out"), Settings(api_url=api_url)))
    except Unreachable as error:  # nothing wrong with the question
        print(f"bt-margin: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    for path in written:
        print(path)
