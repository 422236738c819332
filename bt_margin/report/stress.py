"""A picture of a book under stress, for notebooks: equity and the lowest margin ratio over a move of all prices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bt_margin.engine.builder import DEFAULT_SHIFTS, PositionBuilder
from bt_margin.report.figures import COLOURS

CEILING = 10.0  # ratios beyond 1,000 % say nothing more


def stress_chart(builder: PositionBuilder, modes: Iterable[str] = ("isolated", "cross"),
                 shifts: Iterable[float] = DEFAULT_SHIFTS) -> Any:
    """A plotly figure, drawn by Jupyter as it is. OKX's ratio falls as danger rises: 300 % warns, 100 % liquidates.

    Each mode is judged once at every move, no forced order is carried out on the way. Raises InputError where a mode
    refuses the book.
    """
    moves = tuple(shifts)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08,
                           subplot_titles=("equity, USD", "lowest margin ratio, %"))
    for mode in modes:
        rows = builder.stress(mode, moves)
        x = [row.shift * 100 for row in rows]
        ratios = [None if r.margin_ratio is None else max(0.0, min(r.margin_ratio, CEILING)) * 100 for r in rows]
        line = {"color": COLOURS[mode]}
        figure.add_trace(go.Scatter(x=x, y=[r.equity_usd for r in rows], name=mode, line=line), row=1, col=1)
        figure.add_trace(go.Scatter(x=x, y=ratios, name=mode, line=line, showlegend=False), row=2, col=1)
    for level, name in ((300, "warning"), (100, "liquidation")):
        figure.add_hline(y=level, line_dash="dot", line_color="#888", annotation_text=name, row=2, col=1)
    figure.update_xaxes(title_text="move of all prices, %", row=2, col=1)
    figure.update_layout(template="plotly_white", height=520, margin={"t": 40, "r": 20, "l": 70, "b": 50})
    return figure
