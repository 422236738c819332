"""`bt-margin compare` and `run`: strategies through past crashes, mode by mode."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from bt_margin import cli_choices as choices
from bt_margin import cli_tables as show
from bt_margin.cli_choices import USUAL, Flag, Json, Many, Numbers, Shared
from bt_margin.cli_progress import cell_progress
from bt_margin.cli_verdicts import assumptions, event_table, ledger_table, path_notes, verdict_table
from bt_margin.errors import InputError

if TYPE_CHECKING:
    from bt_margin.study.cells import Cells
    from bt_margin.study.result import RunResult
    from bt_margin.study.study import Study


def register(app: App) -> None:
    """Adds the commands of this module to the command line."""
    for command in (compare, run):
        app.command(command)


def compare(
    *strategies: str,
    window: Many = (),
    mode: Many = (),
    leverage: Numbers = (),
    options: Shared = USUAL,
    workers: int | None = None,
    maps: Many = ("isolated", "cross"),
    out: Path = Path("bt-margin-out"),
    fresh: Flag = False,
    json_: Json = False,
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
    workers
        Processes. Default: as many as cores, at most one a cell.
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
    """
    from bt_margin.study.cells import Cells
    from bt_margin.study.provenance import versions
    from bt_margin.study.result import write_json, write_parquet
    from bt_margin.study.strategies import BUNDLED
    from bt_margin.study.study import DEFAULT_LEVERAGES, DEFAULT_WINDOWS

    study = options.study(
        strategies or BUNDLED, mode or "all", window or DEFAULT_WINDOWS, leverage or DEFAULT_LEVERAGES)
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected 1 or more, found {workers}")
    choices.folder(out, "out")
    mapped = choices.maps(maps)
    results = _run(study, workers, Cells(out / ".cells", fresh))
    meta: dict[str, Any] = {
        "title": "How the margin modes lived through past crashes",
        "command": show.command(),
        "versions": versions(),
        "grid": study.grid(),
        "windows": {w.id: {"title": w.title, "what": w.what, "source": w.source} for w in study.windows()},
        "assumptions": assumptions(options.path, options.rules_as_of),
        "data": sorted({r.row["data_kind"] for r in results if r.row["data_kind"]}),
    }
    from bt_margin.report.crash_maps import map_section
    from bt_margin.report.html import write_report
    from bt_margin.study.crash_maps import crash_maps

    out.mkdir(parents=True, exist_ok=True)
    write_parquet(results, out / "runs.parquet")
    write_json(results, meta, out / "summary.json")
    sections = [map_section(task, drawn) for task, drawn in crash_maps(study, mapped)]
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
    options: Shared = USUAL,
    json_: Json = False,
) -> None:
    """One backtest in one mode: the verdict, every event, and the ledger around each forced order.

    Parameters
    ----------
    strategy
        A bundled name (leveraged_long, basis_carry, pair_long_short, short_strangle_hedged) or module:Class.
    window
        A crash's day (see `bt-margin windows`) or START/END.
    mode
        isolated, cross, multi-currency or portfolio.
    leverage
        Exposure: gross notional / starting equity, entered once and held.
    json_
        Print the row, every event, ledger entry, warning and rule leant on as JSON.
    """
    (result,) = options.study([strategy], [mode], [window], [leverage]).run()
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
    console.print(event_table(result))
    console.print(ledger_table(result))
    for warning in result.warnings:
        console.print(f"note: {warning}", style="dim", markup=False)


def _run(study: Study, workers: int | None, cells: Cells) -> list[RunResult]:
    """Every cell, and what there is to say of those kept before."""
    with cell_progress("replaying", lambda: cells.taken) as progress:
        results = study.run(progress=progress, workers=workers, cells=cells)
    console = show.console(stderr=True)
    if cells.taken:
        console.print(f"{cells.taken} of {len(study.tasks)} cells were finished before; --fresh runs them again")
    for note in cells.notes:
        console.print(f"note: {note}", markup=False)
    return results
