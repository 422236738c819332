"""One self-contained report.html: it opens from disk, asks no network for anything, and prints."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bt_margin.report import collateral, figures, narrative, units, wording
from bt_margin.report.reading import Row, Run, takeovers

LIMIT = 7_000_000  # bytes
VALUES = 220_000  # numbers in all figures together: about 1.6 MB
AROUND = 12  # ledger entries shown before and after a takeover
MANY = 40  # takeovers told in full per run
TAKEN = ("liquidated", "bankrupt")
SIGNS = {"survived": "✓", "reduced": "◐", "liquidated": "✕", "bankrupt": "✕✕", "refused": "⊘", "no data": "?",
         "failed": "!"}


def write_report(results: Sequence[Run], meta: Mapping[str, Any], path: Path) -> None:
    """Write the page to `path`, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(render(results, meta), encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def render(results: Sequence[Run], meta: Mapping[str, Any]) -> str:
    """The page as text; figures are thinned until it keeps within the limit."""
    budget = VALUES
    while True:
        page = _render(results, meta, budget)
        if len(page.encode()) <= LIMIT or budget < 2_000:
            return page
        budget //= 2


def _render(results: Sequence[Run], meta: Mapping[str, Any], budget: int) -> str:
    groups = _groups(results)
    total = sum(figures.values(runs) for runs in groups.values())
    stride = max(1, -(-total // budget))
    drawings: list[Any] = []
    cases = [_case(i, key, runs, stride, drawings) for i, (key, runs) in enumerate(groups.items(), 1)]
    opened = next((case for case in cases if case["taken"]), cases[0] if cases else None)
    if opened:
        opened["open"] = True
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=wording.number, money=wording.money, price=wording.price, size=wording.size,
        percent=wording.percent, ratio=wording.ratio_percent, moment=wording.moment,
    )
    template = environment.from_string(
        files("bt_margin.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    modes = _mode_order({str(run.row.get("mode")) for run in results})
    return template.render(
        title=str(meta.get("title") or "Margin modes through a crash"),
        runs=len(results),
        glance=_glance(results, modes),
        extrapolated=_extrapolated(results),
        signs=SIGNS,
        colours={mode: figures.colour(mode) for mode in modes},
        cases=cases,
        grid=_grid(meta.get("grid") or ()),
        assumptions=list(meta.get("assumptions") or ()),
        evidence=_evidence(results),
        data=list(meta.get("data") or ()),
        warnings=_warnings(results),
        command=str(meta.get("command") or ""),
        versions=dict(meta.get("versions") or {}),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        figures=_json(drawings),
        config=_json(figures.CONFIG),
    )


def _json(value: Any) -> Markup:
    """JSON that cannot leave its script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _groups(results: Sequence[Run]) -> dict[tuple[str, str, Any], list[Run]]:
    """Runs that differ by mode only, in the order given; modes always in the same order."""
    groups: dict[tuple[str, str, Any], list[Run]] = {}
    for run in results:
        key = (str(run.row.get("window")), str(run.row.get("strategy")), run.row.get("leverage"))
        groups.setdefault(key, []).append(run)
    for runs in groups.values():
        runs.sort(key=lambda run: _rank(str(run.row.get("mode"))))
    return groups


def _rank(mode: str) -> tuple[int, str]:
    return (figures.MODES.index(mode) if mode in figures.MODES else len(figures.MODES), mode)


def _mode_order(modes: Iterable[str]) -> list[str]:
    return sorted(modes, key=_rank)


def _case(number: int, key: tuple[str, str, Any], runs: list[Run], stride: int, drawings: list[Any]) -> dict[str, Any]:
    window, strategy, leverage = key
    figure = figures.case_figure(runs, stride)
    index = None
    if figure is not None:
        index = len(drawings)
        drawings.append(json.loads(figure.to_json()))
    factor = wording.known(leverage)
    return {
        "id": f"case-{number}", "window": window, "strategy": strategy,
        "leverage": f"{factor:g}×" if factor is not None else wording.NOTHING,
        "figure": index, "stride": stride, "clipped": figures.clipped(runs), "open": False,
        "taken": any(run.row.get("verdict") in TAKEN for run in runs),
        "kinds": _unique(str(run.row["data_kind"]) for run in runs if run.row.get("data_kind")),
        "held": _held(runs),
        "runs": [_run(run, stride, drawings) for run in runs],
    }


def _held(runs: Sequence[Run]) -> list[str]:
    """Sizes by symbol; said once when every mode that opened holds the same."""
    texts = {}
    for run in runs:
        contracts = run.row.get("contracts") or {}
        if contracts and run.row.get("opened"):
            text = ", ".join(f"{symbol} {wording.size(held)}" for symbol, held in contracts.items())
            texts[str(run.row.get("mode"))] = text
    if len(set(texts.values())) == 1:
        return [next(iter(texts.values()))]
    return [f"{mode}: {text}" for mode, text in texts.items()]


def _run(run: Run, stride: int, drawings: list[Any]) -> dict[str, Any]:
    row = run.row
    verdict = str(row.get("verdict") or wording.NOTHING)
    start, final = wording.known(row.get("start_equity_usd")), wording.known(row.get("final_equity_usd"))
    taken = takeovers(run)
    reduced = [event for event in run.events if event.get("name") in ("Reduced", "Converted")]
    index, coins = None, collateral.figure(run, stride)
    if coins is not None:
        index = len(drawings)
        drawings.append(json.loads(coins.to_json()))
    instants = {event["time"] for event in taken}
    return {
        **{name: row.get(name) for name in (
            "liquidated_at", "min_margin_ratio", "entry_distance", "min_distance", "warnings", "forced_orders",
            "fees_usd", "funding_usd", "interest_usd", "liquidation_cost_usd", "fund_paid_usd", "final_equity_usd",
            "start_equity_usd", "reason",
        )},
        "mode": str(row.get("mode")), "verdict": verdict, "css": verdict.replace(" ", "-") if verdict in SIGNS else "",
        "change": (final / start - 1) * 100 if start and final is not None else None,
        "not_then": row.get("available_then") is False,
        "indicative": bool(row.get("indicative")),
        "days": int(wording.known(row.get("rules_extrapolated_days")) or 0),
        "paragraphs": [narrative.takeover_paragraph(run, event) for event in taken[:MANY]],
        "untold": max(0, len(taken) - MANY),
        "reductions": [narrative.forced_sentence(e) for e in reduced if e["time"] not in instants][:MANY],
        "coins": collateral.instants(run), "interest_by_coin": collateral.interest(run), "coins_figure": index,
        "unit_moments": [_units(moment, drawings) for moment in units.moments(run)],
        "ledgers": [_excerpt(run, time) for time in sorted(instants)[:MANY]],
    }


def _units(moment: dict[str, Any], drawings: list[Any]) -> dict[str, Any]:
    """Units at one moment: charges, scenarios, and the number of their heat map."""
    drawn, index = units.figure(moment["units"]), None
    if drawn is not None:
        index = len(drawings)
        drawings.append(json.loads(drawn.to_json()))
    tables = [{"unit": unit["unit"], "rows": units.scenarios(unit)} for unit in moment["units"]]
    return {**moment, "charges": units.CHARGES, "figure": index, "tables": tables}


def _excerpt(run: Run, time: int) -> dict[str, Any]:
    """The ledger from 12 entries before a takeover's first entry to 12 after its last."""
    at = [i for i, entry in enumerate(run.ledger) if entry.get("time") == time]
    before = sum(1 for entry in run.ledger if entry.get("time") is not None and entry["time"] < time)
    first, last = (at[0], at[-1]) if at else (before, before - 1)
    begin, end = max(0, first - AROUND), min(len(run.ledger), last + 1 + AROUND)
    rows = [
        {"hit": entry.get("time") == time,
         **{name: entry.get(name) for name in ("time", "kind", "currency", "cash", "margin", "fund", "symbol",
                                               "margin_mode", "side", "size", "price", "note")}}
        for entry in run.ledger[begin:end]
    ]
    return {"time": time, "rows": rows, "begin": begin + 1, "end": end, "all": len(run.ledger)}


def _glance(results: Sequence[Run], modes: Sequence[str]) -> dict[str, Any]:
    """How often each verdict fell in each mode."""
    counts = Counter((str(run.row.get("mode")), str(run.row.get("verdict"))) for run in results)
    present = {verdict for _, verdict in counts}
    verdicts = [v for v in SIGNS if v in present] + sorted(present - set(SIGNS))
    return {"verdicts": verdicts, "rows": [(mode, [counts[mode, v] for v in verdicts]) for mode in modes]}


def _extrapolated(results: Sequence[Run]) -> dict[str, int]:
    days = [int(wording.known(run.row.get("rules_extrapolated_days")) or 0) for run in results]
    return {
        "runs": sum(1 for d in days if d), "days": max(days, default=0),
        "not_then": sum(1 for run in results if run.row.get("available_then") is False),
        "indicative": sum(1 for run in results if run.row.get("indicative")),
    }


def _grid(rows: Iterable[Row]) -> dict[str, Any]:
    """window x table -> status."""
    rows = list(rows)
    status = {(str(r.get("window")), str(r.get("table"))): str(r.get("status")) for r in rows}
    tables = _unique(str(row.get("table")) for row in rows)
    return {
        "tables": tables,
        "rows": [
            (window, [(text := status.get((window, table), wording.NOTHING), text.split(" ")[0]) for table in tables])
            for window in _unique(str(row.get("window")) for row in rows)
        ],
    }


def _evidence(results: Sequence[Run]) -> list[dict[str, Any]]:
    names = ("table", "subject", "effective", "grade", "source", "extrapolated_days")
    rows = {tuple(row.get(name) for name in names) for run in results for row in run.evidence}
    return [dict(zip(names, row, strict=True)) for row in sorted(rows, key=lambda row: tuple(map(str, row)))]


def _warnings(results: Sequence[Run]) -> list[tuple[str, int]]:
    """Each warning once, with the number of runs that gave it, most frequent first."""
    counts = Counter(text for run in results for text in dict.fromkeys(map(str, run.warnings)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
