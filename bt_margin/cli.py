"""`bt-margin`: thin commands over the library. Bad input is one line and exit status 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from bt_margin import cli_choices as choices
from bt_margin import cli_compare, cli_data, cli_fetch, cli_margin, cli_survive
from bt_margin import cli_tables as show
from bt_margin.cli_choices import Json
from bt_margin.errors import BtMarginError, InputError

app = App(name="bt-margin", help="OKX-style margin for backtrader: how leveraged positions die, mode by mode.")



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


for module in (cli_margin, cli_compare, cli_survive, cli_fetch, cli_data):
    module.register(app)


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
