"""Where the money went, mode by mode."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from bt_margin.report.figures import look, rounded
from bt_margin.report.reading import Run
from bt_margin.report.wording import known

PARTS = (  # name, column of the row, sign in equity, colour
    ("price moves", "", 1, "#77808c"), ("fees", "fees_usd", -1, "#c08a00"), ("funding", "funding_usd", 1, "#5f9ea0"),
    ("interest", "interest_usd", -1, "#7a6fd0"), ("liquidation", "liquidation_cost_usd", -1, "#c7373a"),
    ("insurance fund", "fund_paid_usd", 1, "#44a06a"),
)

CENT = 0.005  # less than that is rounding


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row per run that opened: start, what changed equity by part (signed), final, USD; they add up."""
    found = []
    for run in runs:
        start, final = known(run.row.get("start_equity_usd")), known(run.row.get("final_equity_usd"))
        if start is None or final is None or not run.row.get("opened"):
            continue
        parts = {name: sign * (known(run.row.get(column)) or 0.0) for name, column, sign, _ in PARTS if column}
        parts = {"price moves": final - start - sum(parts.values()), **parts}
        parts = {name: amount if abs(amount) >= CENT else 0.0 for name, amount in parts.items()}
        found.append({"mode": str(run.row.get("mode")), "start": start, "parts": list(parts.values()), "final": final})
    return found


def figure(runs: Sequence[Run]) -> Any | None:
    """Parts of the change of equity as bars from zero, a line of them per mode; None where nothing opened."""
    found = rows(runs)
    if not found:
        return None
    drawn = go.Figure()
    modes = [escape(row["mode"], quote=False) for row in found]
    for i, (name, _, _, tint) in enumerate(PARTS):
        amounts = [rounded(row["parts"][i], 6) for row in found]
        if any(amounts):
            drawn.add_trace(go.Bar(y=modes, x=amounts, orientation="h", name=name, marker={"color": tint},
                                   hovertemplate=f"%{{y}}, {name}: %{{x:,.0f}} USD<extra></extra>"))
    look(drawn, 110 + 34 * len(modes))
    drawn.update_layout(barmode="relative", hovermode="closest", margin={"l": 110, "r": 24, "t": 34, "b": 40})
    drawn.update_xaxes(title={"text": "change of equity, USD", "standoff": 6}, tickformat=",.3~s", type="linear")
    drawn.update_yaxes(autorange="reversed", showgrid=False)
    return drawn
