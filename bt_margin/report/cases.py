"""One strategy, window and leverage under every mode: what its part of the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bt_margin.report import around, charges, collateral, figures, narrative, spending, units, wording
from bt_margin.report.reading import Row, Run, takeovers
from bt_margin.report.section import Section
from bt_margin.report.verdicts import SIGNS, TAKEN, css, times, unique

MANY = 40  # takeovers told in full per run
NUMBERS = (
    "liquidated_at", "min_margin_ratio", "entry_distance", "min_distance", "warnings", "forced_orders", "fees_usd",
    "funding_usd", "interest_usd", "liquidation_cost_usd", "fund_paid_usd", "final_equity_usd", "start_equity_usd",
    "reason", "hours_below_300", "worst_hour_usd", "worst_hour_end", "ohlc_verdict", "path_dependent",
)


class Drawings:
    """Every figure of the page, in the order in which boxes refer to them."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def add(self, figure: Any | None) -> int | None:
        """The number of a figure, None for none."""
        if figure is None:
            return None
        self.all.append(figure.to_plotly_json())
        return len(self.all) - 1


def brief(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """A case of which the page has room for the verdicts only."""
    first = runs[0].row
    return {
        "id": name, "window": str(first.get("window")), "strategy": str(first.get("strategy")),
        "leverage": times(first.get("leverage")), "told": False, "open": False, "taken": False,
        "runs": [_verdict(run) for run in runs],
    }


def case(name: str, runs: Sequence[Run], stride: int, rows: int, drawings: Drawings) -> dict[str, Any]:
    """Runs that differ by mode only. `stride`: bars to a point of a figure; `rows`: of a ledger, at most."""
    money = spending.rows(runs)
    return {
        **brief(name, runs), "told": True, "figure": drawings.add(figures.case_figure(runs, stride)),
        "stride": stride, "clipped": figures.clipped(runs),
        "taken": any(run.row.get("verdict") in TAKEN for run in runs),
        "kinds": unique(str(run.row["data_kind"]) for run in runs if run.row.get("data_kind")),
        "held": _held(runs), "money": money, "money_parts": [name for name, *_ in spending.PARTS],
        "money_figure": drawings.add(spending.figure(runs)), "money_height": 110 + 34 * len(money),
        "runs": [{**_verdict(run), **_run(run, stride, rows, drawings)} for run in runs],
    }


def section(added: Section, drawings: Drawings) -> dict[str, Any]:
    """What another part of the study adds."""
    return {
        "title": added.title, "paragraphs": list(added.paragraphs),
        "pictures": [{"figure": drawings.add(p.figure), "label": p.label, "caption": p.caption, "height": p.height}
                     for p in added.pictures],
        "tables": [{"caption": t.caption, "columns": list(t.columns), "rows": [list(row) for row in t.rows],
                    "numeric": set(t.numeric)} for t in added.tables],
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


def _verdict(run: Run) -> dict[str, Any]:
    """What the tables show of a run."""
    row = run.row
    verdict = str(row.get("verdict") or wording.NOTHING)
    start, final = wording.known(row.get("start_equity_usd")), wording.known(row.get("final_equity_usd"))
    return {
        **{name: row.get(name) for name in NUMBERS},
        "mode": str(row.get("mode")), "verdict": verdict, "css": css(verdict), "sign": SIGNS.get(verdict, "·"),
        "change": (final / start - 1) * 100 if start and final is not None else None,
        "not_then": row.get("available_then") is False,
        "indicative": bool(row.get("indicative")),
        "days": int(wording.known(row.get("rules_extrapolated_days")) or 0),
    }


def _run(run: Run, stride: int, rows: int, drawings: Drawings) -> dict[str, Any]:
    taken = takeovers(run)
    reduced = [event for event in run.events if event.get("name") in ("Reduced", "Converted")]
    instants = {event["time"] for event in taken}
    moments = units.moments(run)
    return {
        "paragraphs": [narrative.takeover_paragraph(run, event) for event in taken[:MANY]],
        "untold": max(0, len(taken) - MANY),
        "reductions": [narrative.forced_sentence(e) for e in reduced if e["time"] not in instants][:MANY],
        "charges": charges.instants(run), "charges_figure": drawings.add(charges.figure(run, stride)),
        "coins": collateral.instants(run), "interest_by_coin": collateral.interest(run),
        "coins_figure": drawings.add(collateral.figure(run, stride)),
        "unit_moments": [_units(moment, moment is moments[-1], drawings) for moment in moments],
        "ledger": around.ledger(run, rows),
    }


def _units(moment: Mapping[str, Any], worst: bool, drawings: Drawings) -> dict[str, Any]:
    """Units at one moment: charges, scenarios, and at the worst one the number of their heat map."""
    held: Sequence[Row] = moment["units"]
    return {
        "when": moment["when"], "time": moment["time"], "units": held, "charges": units.CHARGES,
        "figure": drawings.add(units.figure(held)) if worst else None,
        "tables": [{"unit": unit["unit"], "rows": units.scenarios(unit)} for unit in held],
    }
