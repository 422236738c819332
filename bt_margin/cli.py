"""`bt-margin`: thin commands over the library. Bad input is one line and exit status 2."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from bt_margin import cli_data, cli_survive
from bt_margin.errors import BtMarginError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from bt_margin.study.result import RunResult

app = App(name="bt-margin", help="OKX-style margin for backtrader: how leveraged positions die, mode by mode.")

Many = Annotated[tuple[str, ...], Parameter(negative=())]
Numbers = Annotated[tuple[float, ...], Parameter(negative=())]
Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]


@app.command
def compare(
    *strategies: str,
    window: Many = (),
    mode: Many = (),
    leverage: Numbers = (),
    cash: Many = (),
    setting: float | None = None,
    rules_as_of: str = "then",
    path: str = "adverse",
    interest: Many = (),
    borrow_leverage: Many = (),
    auto_borrow: bool = True,
    switch: Many = (),
    workers: int | None = None,
    store: Path | None = None,
    out: Path = Path("bt-margin-out"),
    json_: Json = False,
    strict: Flag = False,
) -> None:
    """Replay strategies through past crashes under every margin mode; print the verdicts, write the report.

    Parameters
    ----------
    strategies
        Bundled names (leveraged_long, basis_carry, pair_long_short) or module:Class. Default: all bundled.
    window
        A crash's day (see `bt-margin windows`) or START/END; repeatable. Default: 2025-10-10 and 2022-11-08.
    mode
        isolated, cross, multi-currency or portfolio; repeatable. Default: every mode there is.
    leverage
        Exposure: gross notional / starting equity, entered once and held; repeatable. Default: 2, 3 and 5.
    cash
        Starting balances such as USDT=100000; repeatable.
    setting
        OKX's leverage setting. Default: twice the exposure, capped by the tier.
    rules_as_of
        "then" (each instant's own rules) or a date that freezes all tables there.
    path
        How a bar is walked: adverse, ohlc or close.
    interest
        A currency's borrow rate such as USDT=0.12/y (a year; /d a day); repeatable. Default: the rules' own.
    borrow_leverage
        A currency's leverage setting for debts such as USDT=5; repeatable. Default: the maximum of its lowest tier.
    auto_borrow
        Selling or paying more of a coin than held borrows it, in multi-currency margin.
    switch
        A scripted change of the account mode such as 2025-10-09=portfolio, or TIME=cross@10 with the leverage setting
        that leaving portfolio margin asks for; repeatable.
    workers
        Processes. Default: as many as cores, at most one a cell.
    store
        Downloaded history (see `bt-margin fetch`); minutes there are preferred. Default: ./bt-margin-data if present.
    out
        Where report.html, summary.json and runs.parquet go.
    json_
        Print summary.json instead of the table.
    strict
        Nothing stands in for a missing price, rate or rule.
    """
    from bt_margin.study.result import write_json, write_parquet
    from bt_margin.study.strategies import BUNDLED
    from bt_margin.study.study import DEFAULT_LEVERAGES, DEFAULT_WINDOWS, Study

    study = Study(
        strategies or BUNDLED,
        mode or "all",
        window or DEFAULT_WINDOWS,
        leverage or DEFAULT_LEVERAGES,
        cash=_cash(cash),
        setting=setting,
        rules_as_of=rules_as_of,
        path=_path(path),
        interest=_interest(interest),
        borrow=_borrow(borrow_leverage, auto_borrow),
        switches=_switches(switch),
        strict=strict,
        store=cli_data.found(store),
    )
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected 1 or more, found {workers}")
    _writable(out)
    results = _run(study, workers)
    meta: dict[str, Any] = {
        "title": "How the margin modes lived through past crashes",
        "command": _command(),
        "versions": _versions(),
        "grid": study.grid(),
        "assumptions": _assumptions(path, rules_as_of),
        "data": sorted({r.row["data_kind"] for r in results if r.row["data_kind"]}),
    }
    from bt_margin.report.html import write_report

    out.mkdir(parents=True, exist_ok=True)
    write_parquet(results, out / "runs.parquet")
    write_json(results, meta, out / "summary.json")
    write_report(results, meta, out / "report.html")
    if json_:
        sys.stdout.write((out / "summary.json").read_text(encoding="utf-8") + "\n")
        return
    console = _console()
    console.print(verdict_table(results))
    for line in sorted(
        {
            f"{r.row['strategy']}: {r.row['reason']}"
            for r in results
            if r.row["verdict"] in ("refused", "failed", "no data")
        }
    ):
        console.print(line, style="yellow", markup=False)
    console.print("OKX's margin ratio falls as danger rises: warning at 300 %, liquidation at 100 %.", style="dim")
    used = meta["data"][0].partition(";")[0] if meta["data"] else "none"
    console.print(f"Data: {used}. Report: {out / 'report.html'}", markup=False, highlight=False)


@app.command
def run(
    strategy: str,
    *,
    window: str = "2025-10-10",
    mode: str = "cross",
    leverage: float = 5.0,
    cash: Many = (),
    setting: float | None = None,
    rules_as_of: str = "then",
    path: str = "adverse",
    interest: Many = (),
    borrow_leverage: Many = (),
    auto_borrow: bool = True,
    switch: Many = (),
    store: Path | None = None,
    json_: Json = False,
    strict: Flag = False,
) -> None:
    """One backtest in one mode: the verdict, every event, and the ledger around each forced order."""
    from bt_margin.model.assessment import iso
    from bt_margin.study.study import Study

    study = Study(
        [strategy],
        [mode],
        [window],
        [leverage],
        cash=_cash(cash),
        setting=setting,
        rules_as_of=rules_as_of,
        path=_path(path),
        interest=_interest(interest),
        borrow=_borrow(borrow_leverage, auto_borrow),
        switches=_switches(switch),
        strict=strict,
        store=cli_data.found(store),
    )
    (result,) = study.run()
    if json_:
        print(
            json.dumps(
                {
                    "row": result.row,
                    "events": result.events,
                    "ledger": result.ledger,
                    "warnings": result.warnings,
                    "evidence": result.evidence,
                },
                indent=1,
                allow_nan=False,
            )
        )
        return
    console = _console()
    console.print(verdict_table([result]))
    if result.row["reason"]:
        console.print(result.row["reason"], markup=False)
    events = _table("Events", ("time", "event", "pool", "ratio", "what"))
    for event in result.events:
        events.add_row(
            iso(event["time"]), event["name"], event["pool"], _percent(event.get("margin_ratio")), _what(event)
        )
    console.print(events)
    console.print(_ledger_table(result))
    for warning in result.warnings:
        console.print(f"note: {warning}", style="dim", markup=False)


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
    import msgspec

    from bt_margin import cli_units
    from bt_margin.engine.builder import PositionBuilder

    try:
        raw = msgspec.json.decode(book.read_bytes())
    except OSError as error:
        raise InputError(f"book: cannot read {book}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InputError(f"book: {book} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"book: expected a JSON object, found {type(raw).__name__}")
    builder = PositionBuilder.from_dict(raw)
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
    console = _console()
    for report in reports:
        data = report.to_dict()
        pools = _table(
            f"{report.mode}: pools", ("pool", "equity", "initial", "maintenance", "fee", "free", "ratio", "state")
        )
        for pool in data["pools"]:
            pools.add_row(
                pool["name"],
                *(
                    _money(pool[k])
                    for k in ("equity", "initial_margin", "maintenance_margin", "liquidation_fee", "available")
                ),
                _percent(pool["margin_ratio"]),
                pool["state"],
            )
        console.print(pools)
        rows = _table(
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
                _money(p["entry_price"]),
                _money(p["mark_price"]),
                _money(p["unrealised_pnl"]),
                _money(p["initial_margin"]),
                _money(p["maintenance_margin"]),
                _money(p["liquidation_price"]),
                _money(p["bankruptcy_price"]),
            )
        if data["positions"]:
            console.print(rows)
        cli_units.show_units(console, _table, data)
        if data["orders"]:
            orders = _table(f"{report.mode}: orders", ("symbol", "side", "amount", "initial", "loss", "fee", "answer"))
            for o in data["orders"]:
                orders.add_row(
                    o["symbol"],
                    o["side"],
                    f"{o['amount']:,g}",
                    _money(o["initial_margin"]),
                    _money(o["order_loss"]),
                    _money(o["fee"]),
                    "accepted" if o["accepted"] else f"{o['reason']}, short of {o['shortfall']:,.2f}",
                )
            console.print(orders)
        if stress:
            table = _table(f"{report.mode}: all prices moved", ("move", "equity USD", "lowest ratio", "state"))
            for row in moves[report.mode]:
                table.add_row(f"{row.shift:+.0%}", _money(row.equity_usd), _percent(row.margin_ratio), row.state)
            console.print(table)
        for warning in data["warnings"]:
            console.print(f"note: {warning}", style="dim", markup=False)
    for change in changes:
        cli_units.show_what_if(console, _table, change)
    for refusal in refused:
        console.print(f"{refusal['mode']}: {refusal['reason']}", style="yellow", markup=False)


@app.command
def windows(*, json_: Json = False) -> None:
    """Named crashes, and the data at hand for each."""
    from bt_margin.model.assessment import iso
    from bt_margin.study.windows import windows as named
    from data_fetch import Samples

    store = Samples()
    rows = []
    for w in named().values():
        have = store.available(w.since, w.until)
        rows.append(
            {
                "id": w.id,
                "title": w.title,
                "since": iso(w.since),
                "until": iso(w.until),
                "what": w.what,
                "source": w.source,
                "data": sorted({f"{i.symbol} {i.kind} ({i.venue})" for i in have}),
            }
        )
    if json_:
        print(json.dumps(rows, indent=1))
        return
    table = _table("Crashes", ("id", "what happened", "span (UTC)", f"data: {store.label}"))
    for row in rows:
        table.add_row(
            str(row["id"]),
            f"{row['title']}. {row['what']}",
            f"{row['since'][:10]} to {row['until'][:10]}",
            ", ".join(row["data"]),
            end_section=True,
        )
    _console().print(table)


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
    from bt_margin.engine.builder import parse_time
    from bt_margin.rules.book import load_rules

    rows = load_rules("okx").listing()
    for name, wanted in (("table", table), ("subject", symbol)):
        known = sorted({str(row[name]) for row in rows})
        if wanted is not None and wanted not in known:
            shown = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
            raise InputError(f"{name}: expected one of {shown}, found {wanted!r}")
        rows = [row for row in rows if wanted is None or row[name] == wanted]
    if as_of is not None:
        from bt_margin.model.assessment import iso

        then = iso(parse_time(as_of, "as_of"))
        latest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            if row["effective"] <= then and not (row["until"] and row["until"] <= then):
                latest[row["table"], row["subject"]] = row
        rows = list(latest.values())
    if json_:
        print(json.dumps(rows, indent=1))
        return
    shown_table = _table("Rules", ("table", "subject", "effective", "until", "grade", "figures", "source"))
    for row in rows:
        shown_table.add_row(
            *(str(row.get(k) or "") for k in ("table", "subject", "effective", "until", "grade", "summary", "source"))
        )
    _console().print(shown_table)


# -- shared pieces ------------------------------------------------------------------------------------------------


def verdict_table(results: Sequence[RunResult]) -> Table:
    """One row a run: what became of it, and what it cost."""
    table = _table(
        "Verdicts",
        (
            "window",
            "strategy",
            "lev",
            "mode",
            "verdict",
            "when (UTC)",
            "distance at entry",
            "lowest ratio",
            "forced",
            "fees",
            "funding",
            "interest",
            "liq. cost",
            "final equity",
        ),
    )
    colours = {
        "survived": "green",
        "reduced": "yellow",
        "liquidated": "red",
        "bankrupt": "bold red",
        "refused": "magenta",
        "no data": "dim",
        "failed": "red",
    }
    for result in results:
        row = result.row
        table.add_row(
            row["window"],
            row["strategy"],
            f"{row['leverage']:g}x",
            row["mode"],
            f"[{colours[row['verdict']]}]{row['verdict']}[/]",
            (row["liquidated_at"] or "")[:16].replace("T", " "),
            _distance(row["entry_distance"]),
            _percent(row["min_margin_ratio"]),
            str(row["forced_orders"]),
            *(
                _whole(row[k])
                for k in ("fees_usd", "funding_usd", "interest_usd", "liquidation_cost_usd", "final_equity_usd")
            ),
        )
    return table


def _run(study: Any, workers: int | None) -> list[RunResult]:
    """Spread the cells over processes, with a bar that shows the time left."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = min(workers or os.cpu_count() or 1, len(study.tasks))
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task("cells", total=len(study.tasks))

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done)

        if count == 1 or len(study.tasks) <= 4:
            return study.run(None, progress)  # type: ignore[no-any-return]
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            return study.run(pool, progress)  # type: ignore[no-any-return]


def _cash(texts: Sequence[str]) -> dict[str, float] | None:
    """USDT=100000, repeatable; a bare number is USDT."""
    balances: dict[str, float] = {}
    for text in texts:
        currency, _, amount = text.rpartition("=")
        try:
            value = float(amount)
        except ValueError:
            raise InputError(f"cash: expected CURRENCY=AMOUNT such as USDT=100000, found {text!r}") from None
        if not 0 <= value < float("inf"):
            raise InputError(f"cash: expected an amount of zero or more, found {text!r}")
        balances[(currency or "USDT").upper()] = value
    return balances or None


def _interest(texts: Sequence[str]) -> dict[str, float]:
    """USDT=0.12/y or USDT=0.0003/d, repeatable: yearly rates by currency."""
    rates: dict[str, float] = {}
    for text in texts:
        currency, _, amount = text.partition("=")
        number, _, unit = amount.partition("/")
        try:
            value = float(number) * {"": 1.0, "y": 1.0, "d": 365.0}[unit]
        except (ValueError, KeyError):
            value = -1.0
        if not currency or not 0 <= value < float("inf"):
            raise InputError(f"interest: expected CURRENCY=RATE/y or /d such as USDT=0.12/y, found {text!r}")
        rates[currency.upper()] = value
    return rates


def _borrow(leverages: Sequence[str], auto: bool) -> dict[str, Any]:
    """Choices about borrowing, {} for the defaults."""
    chosen: dict[str, Any] = {} if auto else {"auto": False}
    for text in leverages:
        currency, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = 0.0
        if not currency or not 1 <= value < float("inf"):
            raise InputError(f"borrow_leverage: expected CURRENCY=LEVERAGE such as USDT=5, found {text!r}")
        chosen.setdefault("leverage", {})[currency.upper()] = value
    return chosen


def _switches(texts: Sequence[str]) -> list[Any]:
    """TIME=MODE or TIME=MODE@LEVERAGE, repeatable."""
    from bt_margin.engine.builder import parse_time
    from bt_margin.engine.clock import ModeSwitch

    found = []
    for text in texts:
        time, _, rest = text.partition("=")
        mode, _, leverage = rest.partition("@")
        try:
            setting = float(leverage) if leverage else None
        except ValueError:
            setting = 0.0
        if not mode or (setting is not None and not 1 <= setting < float("inf")):
            raise InputError(f"switch: expected TIME=MODE or TIME=MODE@LEVERAGE (2025-10-09=cross@10), found {text!r}")
        found.append(ModeSwitch(parse_time(time, "switch"), mode, setting))
    return found


def _path(path: str) -> str:
    from bt_margin.plugin.path import PATHS

    if path not in PATHS:
        raise InputError(f"path: expected one of {', '.join(PATHS)}, found {path!r}")
    return path


def _writable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"out: expected a folder, found the file {out}")


def _assumptions(path: str, rules_as_of: str) -> list[str]:
    walks = {
        "adverse": "Each bar is walked open, the extreme that hurts the account, the other, close; all instruments' "
        "lows together and highs together, which is a bound.",
        "ohlc": "Each bar is walked open, high, low, close.",
        "close": "Each bar is judged at its open fills and its close only: wicks are not seen.",
    }
    return [
        walks[path],
        "Within a leg all prices move in a straight line; the first breach is solved for and forced orders trade at "
        "that mark. A jump from one bar's close to the next one's open is judged at the open.",
        "Forced orders trade at the mark without slippage and pay the taker fee and a penalty (closed notional x the "
        "maintenance rate of the closed size's tier); deleveraging is not simulated unless scripted.",
        "A whole account (multi-currency, portfolio) in breach sells its richest coin for what it owes, with "
        "fee and penalty (inferred); interest is charged at each full hour, by the rules' rates unless given.",
        "Fees of a regular level-1 account. Exposure = gross notional / starting equity, entered once and held; the "
        "leverage setting is twice the exposure unless given.",
        "Rules: each instant by the revision in force at that instant."
        if rules_as_of == "then"
        else f"Rules: all tables frozen at {rules_as_of}.",
    ]


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("bt-margin", "backtrader", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            from bt_margin import __version__

            found[name] = __version__ if name == "bt-margin" else "unknown"
    return found


def _command() -> str:
    return shlex.join(["bt-margin", *sys.argv[1:]])


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 200
    return Console(stderr=stderr, width=wide, soft_wrap=False)


def _table(title: str, columns: Sequence[str]) -> Table:
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


def _ledger_table(result: RunResult, around: int = 6) -> Table:
    from bt_margin.model.assessment import iso

    table = _table(
        "Ledger around forced orders",
        ("time", "kind", "currency", "cash", "margin", "fund", "symbol", "size", "price", "note"),
    )
    forced = ("forced", "conversion", "forced repayment")
    hot = [i for i, e in enumerate(result.ledger) if e["note"] in forced or e["kind"] == "clawback"]
    keep = sorted({j for i in hot for j in range(max(0, i - around), min(len(result.ledger), i + around + 1))})
    if not hot:
        keep = list(range(min(2 * around, len(result.ledger))))
    for i in keep:
        e = result.ledger[i]
        table.add_row(
            iso(e["time"]),
            e["kind"],
            e["currency"],
            _money(e["cash"]),
            _money(e["margin"]),
            _money(e["fund"]),
            e["symbol"],
            f"{e['size']:,g}",
            _money(e["price"]),
            e["note"],
        )
    return table


def _what(event: dict[str, Any]) -> str:
    if event["name"] == "Reduced":
        return f"{event['size']:+,g} at {event['price']:,.10g} ({event['step']}), {event['remaining']:,g} left"
    if event["name"] == "TakenOver":
        return f"loss {event['loss']:,.2f}, refund {event['refund']:,.2f}"
    if event["name"] == "Converted":
        return (f"{event['sold_amount']:,.6g} {event['sold']} sold at {event['price']:,.10g} for "
                f"{event['bought_amount']:,.6g} {event['bought']} owed ({event['reason']})")
    if event["name"] == "Borrowed":
        return f"{event['amount']:,.6g} {event['currency']} owed"
    if event["name"] == "ModeSwitched":
        refused = f", refused: {'; '.join(event['reasons'])}" if event["reasons"] else ""
        return f"{event['old']} to {event['new']}{refused}"
    if event["name"] == "Repaid":
        return f"{event['currency']} is owed no more"
    if event["name"] == "Bankrupt":
        return f"insurance fund paid {event['amount']:,.2f} {event['currency']}"
    if event["name"] == "Refused":
        return f"{event['symbol']}: {event['reason']}, short of {event['shortfall']:,.2f}"
    if event["name"] == "OrdersCancelled":
        return f"{len(event['orders'])} orders"
    return ""


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:,.1f} %"


def _distance(value: float | None) -> str:
    """Beyond 1,000 % nobody counts: a hedged book that no common move of its marks endangers."""
    return "n/a" if value is None else "> 1,000 %" if value > 1_000 else f"{value:,.1f} %"


def _money(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:,.6g}"


def _whole(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def _fail(error: object) -> NoReturn:
    print(f"bt-margin: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


cli_data.register(app)
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
    except ValueError as error:
        if type(error).__module__.startswith("data_fetch"):
            _fail(error)
        raise


if __name__ == "__main__":
    main()
