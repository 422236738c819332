"""What is required, by named charge, over a run."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from bt_margin.report.figures import ends, look, rounded, time_axis
from bt_margin.report.reading import Run
from bt_margin.report.wording import known

COLOURS = {
    "position margin": "#3f6fb5", "order margin": "#8a8f98", "option margin": "#7a6fd0", "loan margin": "#b5628f",
    "borrow margin": "#c7643e", "liquidation fee": "#c08a00", "MR1": "#3f6fb5", "MR2": "#5f9ea0", "MR3": "#7a6fd0",
    "MR4": "#44a06a", "MR5": "#8fa83c", "MR6": "#b5628f", "MR7": "#a07850", "MR8": "#c7643e", "MR9": "#6d9aa0",
}


def figure(run: Run, stride: int = 1) -> Any | None:
    """Charges stacked over time, USD; None where nothing was ever required."""
    charges = run.series.get("charges") or {}
    times, parts = charges.get("time") or (), charges.get("parts") or {}
    if len(times) < 2 or not parts:
        return None
    drawn = go.Figure()
    for name, amounts in parts.items():
        drawn.add_trace(go.Scatter(
            y=[rounded(v, 5) for v in ends(amounts, stride)], mode="lines", stackgroup="charges",
            name=escape(name, quote=False), line={"color": COLOURS.get(name, "#7d7f86"), "width": 0.8},
            hovertemplate="%{y:,.0f} USD", **time_axis(times, stride)))
    look(drawn, 300)
    drawn.update_layout(showlegend=True)
    drawn.update_yaxes(title={"text": "required, USD", "standoff": 8}, tickformat=",.3~s")
    return drawn


def instants(run: Run) -> list[dict[str, Any]]:
    """Rows for a table: each charge when something was first required, when most was, and at the end."""
    charges = run.series.get("charges") or {}
    times, parts = charges.get("time") or (), charges.get("parts") or {}
    totals = [sum(known(amounts[i]) or 0.0 for amounts in parts.values()) for i in range(len(times))]
    first = next((i for i, total in enumerate(totals) if total), None)
    if first is None:
        return []
    most = max(range(len(totals)), key=totals.__getitem__)
    points = (("first", first), ("most", most), ("end", len(times) - 1))
    rows = [{"name": name, **{what: amounts[i] for what, i in points}} for name, amounts in parts.items()]
    return [*rows, {"name": "together", **{what: totals[i] for what, i in points}},
            {"name": "", **{what: times[i] for what, i in points}}]
