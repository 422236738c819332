"""One self-contained report.html: it opens from disk, asks no network for anything, and prints."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bt_margin.report import around, cases, figures, verdicts, wording
from bt_margin.report.reading import Row, Run
from bt_margin.report.section import Section

LIMIT = 7_000_000  # bytes
VALUES = 220_000  # numbers in all figures together: about 1.6 MB
FEWEST = 8  # rows of a ledger: rather than fewer, cases are left out


def write_report(results: Sequence[Run], meta: Mapping[str, Any], path: Path, sections: Sequence[Section] = ()) -> None:
    """Write the page to `path`, whole or not at all. `meta`: title, command, versions, assumptions, data, grid and
    windows (by id: title, what, source), as far as they are known; `sections` are what other parts of a study add."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(render(results, meta, sections), encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def render(results: Sequence[Run], meta: Mapping[str, Any], sections: Sequence[Section] = ()) -> str:
    """The page as text. What does not fit the limit is thinned, and the page says so: first figures and ledgers, in
    the end whole cases, from the last one up; every verdict stays."""
    values, rows, told = VALUES, around.ROWS, len(results)
    bare = len(get_plotlyjs().encode()) + 60_000
    while True:
        page = _render(results, meta, sections, values, rows, told)
        size = len(page.encode())
        if size <= LIMIT or not told:
            return page
        share = 0.9 * max(0, LIMIT - bare) / (size - bare)  # of what is beside the library
        if rows > FEWEST:
            values, rows = int(share * values), max(FEWEST, min(int(share * rows), rows // 4))
        else:
            values, told = int(share * values), int(share * min(told, len(verdicts.groups(results))))


def _render(results: Sequence[Run], meta: Mapping[str, Any], sections: Sequence[Section], values: int, rows: int,
            told: int) -> str:
    groups = verdicts.groups(results)
    stride = max(1, -(-sum(figures.values(runs) for runs in groups.values()) // max(values, 1)))
    drawings = cases.Drawings()
    built = [cases.case(f"case-{i}", runs, stride, rows, drawings) if i <= told else cases.brief(f"case-{i}", runs)
             for i, runs in enumerate(groups.values(), 1)]
    opened = next((case for case in built if case["taken"]), built[0] if built else None)
    if opened:
        opened["open"] = True
    about = dict(meta.get("windows") or {})
    modes = sorted({str(run.row.get("mode")) for run in results}, key=verdicts.rank)
    return _environment().get_template("report.html.j2").render(
        title=str(meta.get("title") or "Margin modes through a crash"),
        runs=len(results), cases=built, modes=modes,
        matrix=verdicts.matrix(results, verdicts.places(groups), about),
        glance=verdicts.glance(results, modes),
        reservations=verdicts.reservations(results),
        colours={mode: figures.colour(mode) for mode in modes},
        crashes=_crashes(built, about, sections, drawings),
        added=[cases.section(s, drawings) for s in sections if s.window not in {case["window"] for case in built}],
        grid=_grid(meta.get("grid") or ()),
        assumptions=list(meta.get("assumptions") or ()),
        evidence=(evidence := _evidence(results)),
        grades=sorted(Counter(str(row["grade"]) for row in evidence).items()),
        data=list(meta.get("data") or ()),
        coverage=_coverage(results),
        warnings=_warnings(results),
        command=str(meta.get("command") or ""),
        versions=dict(meta.get("versions") or {}),
        css=Markup(_file("report.css")), js=Markup(_file("report.js")),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        figures=_json(drawings.all),
        config=_json(figures.CONFIG),
    )


def _environment() -> Environment:
    found = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                        loader=FunctionLoader(_file))
    found.filters.update(
        number=wording.number, money=wording.money, price=wording.price, size=wording.size,
        percent=wording.percent, ratio=wording.ratio_percent, moment=wording.moment,
    )
    return found


def _file(name: str) -> str:
    return files("bt_margin.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _json(value: Any) -> Markup:
    """JSON that cannot leave its script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _crashes(built: Sequence[dict[str, Any]], about: Mapping[str, Mapping[str, Any]], sections: Sequence[Section],
             drawings: cases.Drawings) -> list[dict[str, Any]]:
    """Cases by window, with what happened in it and what is added to it."""
    return [
        {"id": f"crash-{i}", "window": window, **{k: str(about.get(window, {}).get(k) or "")
                                                  for k in ("title", "what", "source")},
         "cases": [case for case in built if case["window"] == window],
         "sections": [cases.section(s, drawings) for s in sections if s.window == window]}
        for i, window in enumerate(verdicts.unique(case["window"] for case in built), 1)
    ]


def _grid(rows: Iterable[Row]) -> dict[str, Any]:
    """window x table -> status."""
    rows = list(rows)
    status = {(str(r.get("window")), str(r.get("table"))): str(r.get("status")) for r in rows}
    tables = verdicts.unique(str(row.get("table")) for row in rows)
    return {
        "tables": tables,
        "rows": [
            (window, [(text := status.get((window, table), wording.NOTHING), text.split(" ")[0]) for table in tables])
            for window in verdicts.unique(str(row.get("window")) for row in rows)
        ],
    }


def _evidence(results: Sequence[Run]) -> list[dict[str, Any]]:
    names = ("table", "subject", "effective", "grade", "source", "extrapolated_days")
    rows = {tuple(row.get(name) for name in names) for run in results for row in run.evidence}
    return [dict(zip(names, row, strict=True)) for row in sorted(rows, key=lambda row: tuple(map(str, row)))]


def _coverage(results: Sequence[Run]) -> list[dict[str, Any]]:
    """Each series of figures once: bars found of those expected."""
    found = {(str(run.row.get("window")), row["symbol"], row["sha256"]): {**row, "window": str(run.row.get("window"))}
             for run in results for row in getattr(run, "data", ())}
    return list(found.values())


def _warnings(results: Sequence[Run]) -> list[tuple[str, int]]:
    """Each warning once, with the number of runs that gave it, most frequent first."""
    counts = Counter(text for run in results for text in dict.fromkeys(map(str, run.warnings)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
