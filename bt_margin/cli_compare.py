"""`bt-margin compare` and `run`: strategies through past crashes, mode by mode."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bt_margin import cli_choices as choices
from bt_margin import cli_data
from bt_margin import cli_tables as show
from bt_margin.errors import InputError
from bt_margin.model.moment import MINUTE

if TYPE_CHECKING:
    from rich.table import Table

    from bt_margin.study.cells import Cells
    from bt_margin.study.result import RunResult
    from bt_margin.study.study import Study

Many = Annotated[tuple[str, ...], Parameter(negative=())]
Numbers = Annotated[tuple[float, ...], Parameter(negative=())]
Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Adds the commands of this module to the command line."""
    for command in (compare, run):
        app.command(command)


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
    maps: Many = ("isolated", "cross"),
    out: Path = Path("bt-margin-out"),
    fresh: Flag = False,
    json_: Json = False,
    strict: Flag = False,
) -> None:
    """Replay strategies through past crashes under every margin mode; print the verdicts, write the report.

    Parameters
    ----------
    strategies
        Bundled names (leveraged_long, basis_carry, pair_long_short, short_strangle_hedged) or module:Class. Default:
        all bundled.
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
    maps
        Modes in which the report shows survival maps of strategies that hold one contract; repeatable, none for no map.
        Isolated and cross take a second a crash, the other two minutes.
    out
        Where report.html, summary.json and runs.parquet go; finished cells are kept in its folder .cells, and the
        same command goes on from them.
    fresh
        Run every cell again, finished before or not.
    json_
        Print summary.json instead of the table.
    strict
        Nothing stands in for a missing price, rate or rule.
    """
    from bt_margin.study.cells import Cells
    from bt_margin.study.provenance import versions
    from bt_margin.study.result import write_json, write_parquet
    from bt_margin.study.strategies import BUNDLED
    from bt_margin.study.study import DEFAULT_LEVERAGES, DEFAULT_WINDOWS, Study

    study = Study(
        strategies or BUNDLED,
        mode or "all",
        window or DEFAULT_WINDOWS,
        leverage or DEFAULT_LEVERAGES,
        cash=choices.cash(cash),
        setting=setting,
        rules_as_of=rules_as_of,
        path=choices.path(path),
        interest=choices.interest(interest),
        borrow=choices.borrow(borrow_leverage, auto_borrow),
        switches=choices.switches(switch),
        strict=strict,
        store=cli_data.found(store),
    )
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected 1 or more, found {workers}")
    choices.writable(out)
    results = _run(study, workers, Cells(out / ".cells", fresh))
    meta: dict[str, Any] = {
        "title": "How the margin modes lived through past crashes",
        "command": _command(),
        "versions": versions(),
        "grid": study.grid(),
        "windows": {w.id: {"title": w.title, "what": w.what, "source": w.source} for w in study.windows()},
        "assumptions": choices.assumptions(path, rules_as_of),
        "data": sorted({r.row["data_kind"] for r in results if r.row["data_kind"]}),
    }
    from bt_margin.report.crash_maps import map_section
    from bt_margin.report.html import write_report
    from bt_margin.study.crash_maps import crash_maps

    out.mkdir(parents=True, exist_ok=True)
    write_parquet(results, out / "runs.parquet")
    write_json(results, meta, out / "summary.json")
    sections = [map_section(task, drawn) for task, drawn in crash_maps(study, [m for m in maps if m != "none"])]
    write_report(results, meta, out / "report.html", sections)
    if json_:
        sys.stdout.write((out / "summary.json").read_text(encoding="utf-8") + "\n")
        return
    console = show.console()
    console.print(verdict_table(results))
    for line in sorted(
        {
            f"{r.row['strategy']}: {r.row['reason']}"
            for r in results
            if r.row["reason"] and r.row["verdict"] in ("survived", "refused", "failed", "no data")
        }
    ):
        console.print(line, style="yellow", markup=False)
    for line in path_notes(results):
        console.print(line, style="yellow" if line.startswith("*") else "dim", markup=False)
    console.print("OKX's margin ratio falls as danger rises: warning at 300 %, liquidation at 100 %.", style="dim")
    used = meta["data"][0].partition(";")[0] if meta["data"] else "none"
    console.print(f"Data: {used}. Report: {out / 'report.html'}", markup=False, highlight=False)


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
    from bt_margin.model.moment import iso
    from bt_margin.study.study import Study

    study = Study(
        [strategy],
        [mode],
        [window],
        [leverage],
        cash=choices.cash(cash),
        setting=setting,
        rules_as_of=rules_as_of,
        path=choices.path(path),
        interest=choices.interest(interest),
        borrow=choices.borrow(borrow_leverage, auto_borrow),
        switches=choices.switches(switch),
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
    console = show.console()
    console.print(verdict_table([result]))
    if result.row["reason"]:
        console.print(result.row["reason"], markup=False)
    events = show.table("Events", ("time", "event", "pool", "ratio", "what"))
    for event in result.events:
        events.add_row(
            iso(event["time"]), event["name"], event["pool"], show.percent(event.get("margin_ratio")), _what(event)
        )
    console.print(events)
    console.print(_ledger_table(result))
    for warning in result.warnings:
        console.print(f"note: {warning}", style="dim", markup=False)


# -- running and showing ----------------------------------------------------------------------------------------


def verdict_table(results: Sequence[RunResult]) -> Table:
    """One row a run: what became of it, and what it cost."""
    table = show.table(
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
            f"[{colours[row['verdict']]}]{row['verdict']}{'*' if row['path_dependent'] else ''}[/]",
            (row["liquidated_at"] or "")[:16].replace("T", " "),
            show.distance(row["entry_distance"]),
            show.percent(row["min_margin_ratio"]),
            str(row["forced_orders"]),
            *(
                show.whole(row[k])
                for k in ("fees_usd", "funding_usd", "interest_usd", "liquidation_cost_usd", "final_equity_usd")
            ),
        )
    return table


def path_notes(results: Sequence[RunResult]) -> list[str]:
    """Which verdicts hang on the path through the bar, and for which that was not checked."""
    notes = [
        f"* the verdict hangs on the path through the bar: with --path ohlc {r.row['mode']}, {r.row['leverage']:g}x, "
        f"{r.row['window']} is {r.row['ohlc_verdict']}"
        for r in results if r.row["path_dependent"]
    ]
    hours = sum(bool(r.data) and r.row["path_dependent"] is None for r in results)
    if hours and any(row["step_ms"] > MINUTE for r in results for row in r.data):
        notes.append(f"{hours} of {len(results)} verdicts are not checked against --path ohlc: only hours are at hand")
    return notes


def _run(study: Study, workers: int | None, cells: Cells) -> list[RunResult]:
    """Every cell, with a bar that shows the time left; where nobody watches, a line every ten seconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = show.console(stderr=True)
    began = told = time.monotonic()
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("cells", total=len(study.tasks))

        def progress(done: int, total: int) -> None:
            nonlocal told
            bar.update(task, completed=done)
            now, run_now = time.monotonic(), done - cells.taken
            if not console.is_terminal and now - told > 10 and run_now:
                console.print(f"{done} of {total} cells, about {(now - began) / run_now * (total - done):,.0f} s left")
                told = now

        results = study.run(progress=progress, workers=workers, cells=cells)
    if cells.taken:
        console.print(f"{cells.taken} of {len(study.tasks)} cells were finished before; --fresh runs them again")
    for note in cells.notes:
        console.print(f"note: {note}", markup=False)
    return results


def _ledger_table(result: RunResult, around: int = 6) -> Table:
    from bt_margin.model.moment import iso

    table = show.table(
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
            show.money(e["cash"]),
            show.money(e["margin"]),
            show.money(e["fund"]),
            e["symbol"],
            f"{e['size']:,g}",
            show.money(e["price"]),
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


def _command() -> str:
    return shlex.join(["bt-margin", *sys.argv[1:]])
