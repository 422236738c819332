"""The first screen: strategy and mode by crash, what survived, and up to which leverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bt_margin.report.figures import MODES
from bt_margin.report.reading import Run
from bt_margin.report.wording import NOTHING, known

SIGNS = {"survived": "✓", "reduced": "◐", "liquidated": "✕", "bankrupt": "✕✕", "refused": "⊘", "no data": "?",
         "failed": "!"}
TAKEN = ("liquidated", "bankrupt")
UNJUDGED = ("no data", "failed")
Key = tuple[str, str, Any]


def groups(results: Sequence[Run]) -> dict[Key, list[Run]]:
    """Runs that differ by mode only, in the order given; modes always in the same order."""
    found: dict[Key, list[Run]] = {}
    for run in results:
        key = (str(run.row.get("window")), str(run.row.get("strategy")), run.row.get("leverage"))
        found.setdefault(key, []).append(run)
    for runs in found.values():
        runs.sort(key=lambda run: rank(str(run.row.get("mode"))))
    return found


def rank(mode: str) -> tuple[int, str]:
    return (MODES.index(mode) if mode in MODES else len(MODES), mode)


def css(verdict: str) -> str:
    return verdict.replace(" ", "-") if verdict in SIGNS else ""


def times(leverage: Any) -> str:
    factor = known(leverage)
    return f"{factor:g}×" if factor is not None else NOTHING


def places(grouped: Mapping[Key, Sequence[Run]]) -> dict[int, str]:
    """Where on the page each run is told, by its identity: the number of its case, and of its mode in it."""
    return {id(run): f"case-{i}-{k}" for i, runs in enumerate(grouped.values(), 1) for k, run in enumerate(runs, 1)}


def matrix(results: Sequence[Run], at: Mapping[int, str], about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Columns: crashes. Rows: strategy and mode, with a badge for each leverage and the highest that lived."""
    windows = list(dict.fromkeys(str(run.row.get("window")) for run in results))
    strategies = list(dict.fromkeys(str(run.row.get("strategy")) for run in results))
    cells: dict[tuple[str, str, str], list[Run]] = {}
    for run in results:
        key = (str(run.row.get("strategy")), str(run.row.get("mode")), str(run.row.get("window")))
        cells.setdefault(key, []).append(run)
    rows = []
    for strategy in strategies:
        modes = sorted({mode for s, mode, _ in cells if s == strategy}, key=rank)
        rows.append((strategy, [
            (mode, [_cell(cells.get((strategy, mode, window), []), at) for window in windows]) for mode in modes
        ]))
    return {"windows": [_heading(window, results, about) for window in windows], "rows": rows}


def lived(runs: Sequence[Run]) -> str:
    """The highest exposure tested that survived, with every lower one: a statement about the tested ones only.

    Nothing is said beyond the first that did not survive, nor beyond one that could not be judged.
    """
    tested = sorted((factor, str(run.row.get("verdict"))) for run in runs
                    if (factor := known(run.row.get("leverage"))) is not None)
    best, stopped = None, None
    for factor, verdict in tested:
        if verdict != "survived":
            stopped = factor, verdict
            break
        best = factor
    if stopped is not None and stopped[1] in UNJUDGED:
        said = "not known" if best is None else f"up to {best:g}×"
        return f"{said} ({stopped[0]:g}× not judged)"
    if best is None:
        return "none of those tested" if tested else "not known"
    return f"up to {best:g}×" + (", all tested" if stopped is None else "")


def _cell(runs: Sequence[Run], at: Mapping[int, str]) -> dict[str, Any]:
    ordered = sorted(runs, key=lambda run: known(run.row.get("leverage")) or 0.0)
    badges = []
    for run in ordered:
        verdict = str(run.row.get("verdict") or NOTHING)
        badges.append({"at": at[id(run)], "leverage": times(run.row.get("leverage")), "verdict": verdict,
                       "css": css(verdict), "sign": SIGNS.get(verdict, "·"),
                       "path": bool(run.row.get("path_dependent"))})
    return {"badges": badges, "lived": lived(ordered) if ordered else ""}


def _heading(window: str, results: Sequence[Run], about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    runs = [run for run in results if str(run.row.get("window")) == window]
    return {"id": window, "title": str(about.get(window, {}).get("title") or ""),
            "days": max((int(known(run.row.get("rules_extrapolated_days")) or 0) for run in runs), default=0),
            "not_then": any(run.row.get("available_then") is False for run in runs)}


def glance(results: Sequence[Run], modes: Sequence[str]) -> dict[str, Any]:
    """How often each verdict fell in each mode."""
    counts = Counter((str(run.row.get("mode")), str(run.row.get("verdict"))) for run in results)
    present = {verdict for _, verdict in counts}
    verdicts = [v for v in SIGNS if v in present] + sorted(present - set(SIGNS))
    return {"verdicts": verdicts, "rows": [(mode, [counts[mode, v] for v in verdicts]) for mode in modes]}


def reservations(results: Sequence[Run]) -> dict[str, int]:
    """How many runs rest on what: rules from another day, modes that were not there, inferred figures, one path."""
    days = [int(known(run.row.get("rules_extrapolated_days")) or 0) for run in results]
    return {
        "runs": sum(1 for d in days if d), "days": max(days, default=0),
        "not_then": sum(1 for run in results if run.row.get("available_then") is False),
        "indicative": sum(1 for run in results if run.row.get("indicative")),
        "path": sum(1 for run in results if run.row.get("path_dependent")),
        "checked": sum(1 for run in results if run.row.get("path_dependent") is not None),
    }


def unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
