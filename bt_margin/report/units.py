"""Risk units of portfolio margin on the page: their charges, and what every scenario would do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bt_margin.report.figures import rounded
from bt_margin.report.reading import Row, Run
from bt_margin.report.wording import known

CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9")
COLUMNS = ("down", "same", "up")


def moments(run: Run) -> list[dict[str, Any]]:
    """(when, time, units) at entry and at the worst instant known: an event's, or the lowest hour's end."""
    found = [dict(moment) for moment in run.series.get("risk_units") or () if moment.get("units")]
    worst = _worst(run)
    if worst is not None:
        found = [moment for moment in found if moment["when"] == "at entry"]
        found.append({"when": "at the lowest ratio of an event", "time": worst["time"],
                      "units": list(worst["report"]["risk_units"])})
    return found


def _worst(run: Run) -> Row | None:
    told = [e for e in run.events if (e.get("report") or {}).get("risk_units") and known(e.get("margin_ratio"))]
    return min(told, key=lambda e: known(e["margin_ratio"]) or 0.0, default=None)


def scenarios(unit: Row) -> list[tuple[str, list[float | None]]]:
    """Rows of MR1's table: (move of the price, profit with vols down, unchanged and up), largest fall first."""
    table: Mapping[str, Mapping[str, Any]] = unit.get("mr1_scenarios") or {}
    return [(f"{float(move):+.2%}", [known(table[move].get(name)) for name in COLUMNS])
            for move in sorted(table, key=float)]


def figure(units: Sequence[Row]) -> Any | None:
    """A heat map of MR1's scenarios for each unit; None without any."""
    drawn = [unit for unit in units if unit.get("mr1_scenarios")]
    if not drawn:
        return None
    titles = [escape(str(unit.get("unit")), quote=False) for unit in drawn]
    page = make_subplots(rows=1, cols=len(drawn), subplot_titles=titles, horizontal_spacing=0.12)
    for i, unit in enumerate(drawn, 1):
        rows = scenarios(unit)
        values = [[rounded(value, 5) for value in profits] for _, profits in rows]
        most = max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
        page.add_trace(
            go.Heatmap(
                z=values, x=["vols down", "unchanged", "vols up"], y=[move for move, _ in rows], zmin=-most, zmax=most,
                colorscale=[[0, "#c8373a"], [0.5, "#f2f2f0"], [1, "#2f7fbf"]], texttemplate="%{z:,.4~s}",
                hovertemplate="price %{y}, %{x}: %{z:,.0f} USD<extra></extra>", showscale=False,
            ), row=1, col=i)
        page.update_yaxes(title={"text": "move of the price", "standoff": 6}, autorange="reversed", type="category",
                          row=1, col=i)
    page.update_layout(template=go.layout.Template(), height=330, margin={"l": 84, "r": 24, "t": 44, "b": 36},
                       paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"size": 12})
    return page
