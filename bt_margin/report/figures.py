"""Results -> plotly figures: price, equity and margin ratio of one strategy, window and leverage, by mode."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bt_margin.report.reading import Run, positions_of, takeovers
from bt_margin.report.wording import known, moment

MODES = ("isolated", "cross", "multi-currency", "portfolio")
COLOURS = {"isolated": "#d9660b", "cross": "#2a83d6", "multi-currency": "#0f9b72", "portfolio": "#a65fc9"}
DASHES = {"isolated": "solid", "cross": "dash", "multi-currency": "dot", "portfolio": "dashdot"}
OTHER = "#7d7f86"
PRICES = ("#77808c", "#a88d4e", "#6d9aa0", "#a0757b", "#7f86b8")
CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True, "typesetMath": False}
MARKS = {
    "Warned": ("warning", "triangle-down-open"), "OrdersCancelled": ("orders cancelled", "square-open"),
    "Reduced": ("reduced", "diamond-open"), "Converted": ("converted", "hexagon-open"),
    "Deleveraged": ("auto-deleveraged", "star-open"), "TakenOver": ("taken over", "x"),
}
"""Events drawn on the price, with their word and marker."""
MOST = 30  # of a kind, in a run
FLOOR = 1.0  # per cent: a logarithmic axis cannot show a ratio at or below zero
FAR = 10.0  # an index from 100 that spans more than this is drawn on a logarithmic axis
CEILING = 10_000.0  # per cent: above it a ratio says nothing more


def colour(mode: str) -> str:
    """One colour per mode, everywhere."""
    return COLOURS.get(mode, OTHER)


def values(runs: Iterable[Run]) -> int:
    """How many numbers the figure of these runs holds at full resolution."""
    runs = list(runs)
    longest = max((len(run.series.get("time", ())) for run in runs), default=0)
    symbols = {symbol for run in runs for symbol in run.series.get("prices") or {}}
    coins = sum(len(run.series.get("collateral") or {}) * 3 * len(run.series.get("time", ())) for run in runs)
    charges = sum(len(c.get("parts") or {}) * len(c.get("time") or ()) for c in
                  (run.series.get("charges") or {} for run in runs))
    return 3 * longest * len(symbols) + sum(2 * len(run.series.get("time", ())) for run in runs) + coins + charges


def case_figure(runs: Sequence[Run], stride: int = 1) -> Any | None:
    """Three stacked panels on one time axis; None when no run has a series.

    With `stride` k a point stands for k bars: price and equity at their end, the lowest ratio among them.
    """
    drawn = [run for run in runs if len(run.series.get("time", ()))]
    if not drawn:
        return None
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.045,
                           row_heights=[0.34, 0.33, 0.33])
    title, logarithmic = _price_panel(figure, drawn, stride)
    seen: list[float] = []
    shapes = []
    for run in drawn:
        mode = str(run.row.get("mode"))
        style = {"color": colour(mode), "width": 1.8, "dash": DASHES.get(mode, "solid")}
        times = time_axis(run.series["time"], stride)
        common = {"mode": "lines", "name": escape(mode, quote=False), "legendgroup": mode, "line": style, **times}
        equity = run.series.get("equity", ())
        if len(equity):
            figure.add_trace(go.Scatter(y=[rounded(v) for v in ends(equity, stride)],
                                        hovertemplate="%{y:,.0f} USD", **common), row=2, col=1)
        ratios = [_ratio(v) for v in _lowest(run.series.get("margin_ratio", ()), stride)]
        seen += [v for v in ratios if v is not None]
        if ratios:
            figure.add_trace(go.Scatter(y=ratios, showlegend=not len(equity), connectgaps=False,
                                        hovertemplate="%{y:,.1f} %", **common), row=3, col=1)
        for event in takeovers(run)[:6]:
            shapes.append({"type": "line", "xref": "x", "yref": "paper", "x0": event["time"], "x1": event["time"],
                           "y0": 0, "y1": 1, "line": {"color": colour(mode), "width": 1, "dash": "dot"}})
    shapes += [
        {"type": "line", "xref": "paper", "yref": "y3", "x0": 0, "x1": 1, "y0": y, "y1": y,
         "line": {"color": c, "width": 1.4}} for y, c in ((100, "#d43d3d"), (300, "#c08a00"))
    ]
    low, high = min([60.0, *(0.8 * v for v in seen)]), max([450.0, *(1.3 * v for v in seen)])
    look(figure, 640)
    figure.update_layout(
        margin={"l": 72, "r": 76, "t": 34, "b": 36}, shapes=shapes,
        annotations=[
            {"xref": "paper", "x": 1.005, "xanchor": "left", "yref": "y3", "y": math.log10(y), "text": text,
             "showarrow": False, "font": {"size": 10.5}}
            for y, text in ((100, "liquidation"), (300, "warning"))
        ],
    )
    figure.update_yaxes(title={"text": title, "standoff": 8}, type="log" if logarithmic else "linear", row=1, col=1)
    figure.update_yaxes(title={"text": "equity, USD", "standoff": 8}, tickformat=",.3~s", row=2, col=1)
    figure.update_yaxes(title={"text": "margin ratio, %", "standoff": 8}, type="log", row=3, col=1,
                        range=[math.log10(low), math.log10(min(high, CEILING * 1.1))],
                        tickvals=[1, 3, 10, 30, 100, 300, 1000, 3000, 10000],
                        ticktext=["1", "3", "10", "30", "100", "300", "1,000", "3,000", "10,000"])
    return figure


def look(figure: Any, height: int) -> None:
    """What all figures share: no ground of their own, time below, the legend above."""
    figure.update_layout(
        template=go.layout.Template(), height=height, margin={"l": 72, "r": 24, "t": 34, "b": 36}, dragmode="zoom",
        hovermode="x unified", legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"size": 12},
    )
    figure.update_xaxes(type="date", showgrid=True)


def clipped(runs: Iterable[Run]) -> str:
    """What the caption must say of ratios that the axis cannot show, '' for nothing."""
    found = [v for run in runs for x in run.series.get("margin_ratio", ()) if (v := known(x)) is not None]
    notes = []
    if any(v * 100 < FLOOR for v in found):
        notes.append("ratios below 1 % are drawn at 1 %")
    if any(v * 100 > CEILING for v in found):
        notes.append("ratios above 10,000 % at 10,000 %")
    return ", ".join(notes)


def _price_panel(figure: Any, runs: Sequence[Run], stride: int) -> tuple[str, bool]:
    """Prices once per symbol, as an index from 100 where they are of different size.

    Returns the axis title, and whether the axis is logarithmic: where one (an option) moves so far that the others
    would be flat lines beside it.
    """
    lines: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {}
    for run in runs:
        for symbol, series in (run.series.get("prices") or {}).items():
            if len(series) == len(run.series["time"]):
                lines.setdefault(str(symbol), (run.series["time"], series))
    firsts = {symbol: next((v for x in series if (v := known(x))), 0.0) for symbol, (_, series) in lines.items()}
    known_firsts = [v for v in firsts.values() if v > 0]
    indexed = bool(known_firsts) and max(known_firsts) > 3 * min(known_firsts)
    scale = {symbol: 100 / v if indexed and v else 1.0 for symbol, v in firsts.items()}
    every = [v * scale[symbol] for symbol, (_, series) in lines.items() for v in map(known, series) if v is not None]
    far = indexed and min(every) > 0 and max(every) > FAR * min(every)
    for i, (symbol, (times, series)) in enumerate(lines.items()):
        name = escape(symbol, quote=False)
        _range(figure, runs, symbol, scale[symbol], PRICES[i % len(PRICES)], stride)
        y = [rounded(None if v is None else v * scale[symbol]) for v in map(known, ends(series, stride))]
        figure.add_trace(
            go.Scatter(y=y, mode="lines", name=name, line={"color": PRICES[i % len(PRICES)], "width": 1.6},
                       legendgroup=name, hovertemplate="%{y:,.6~g}", **time_axis(times, stride)), row=1, col=1,
        )
    for run in runs:
        for name, (word, symbol) in MARKS.items():
            _mark(figure, run, name, word, symbol, scale)
    return ("price, start = 100" if indexed else "price"), far


def _range(figure: Any, runs: Sequence[Run], symbol: str, scale: float, tint: str, stride: int) -> None:
    """From the lowest to the highest price that judged the account in a bar, as a band behind the line."""
    for run in runs:
        lows, highs = ((run.series.get(name) or {}).get(symbol) or () for name in ("lows", "highs"))
        times = run.series["time"]
        if len(lows) == len(highs) == len(times):
            highest = _lowest([None if (v := known(x)) is None else -v for x in highs], stride)
            for y, fill in ((_lowest(lows, stride), None), ([None if v is None else -v for v in highest], "tonexty")):
                figure.add_trace(go.Scatter(
                    y=[rounded(None if v is None else v * scale, 6) for v in y], mode="lines", showlegend=False,
                    legendgroup=escape(symbol, quote=False), line={"width": 0}, fill=fill, fillcolor=f"{tint}55",
                    hoverinfo="skip", **time_axis(times, stride)), row=1, col=1)
            return


def _mark(figure: Any, run: Run, name: str, word: str, symbol: str, scale: Mapping[str, float]) -> None:
    """A run's events of one kind on the price panel, at the marks that the account was judged by."""
    mode = str(run.row.get("mode"))
    points: list[tuple[int, float, str]] = []
    for event in [event for event in run.events if event.get("name") == name][:MOST]:
        held = positions_of(event) or (event.get("report") or {}).get("positions") or ()
        marks = {str(row.get("symbol")): known(row.get("mark_price")) for row in held} or _prices_at(run, event["time"])
        points += [(event["time"], mark * scale[symbol], f"{symbol}, {moment(event['time'])}")
                   for symbol, mark in marks.items() if symbol in scale and mark is not None]
    if points:
        taken = name == "TakenOver"
        figure.add_trace(
            go.Scatter(
                x=[p[0] for p in points], y=[rounded(p[1]) for p in points], mode="markers", showlegend=False,
                legendgroup=mode, name=escape(f"{word}, {mode}", quote=False),
                text=[escape(p[2], quote=False) for p in points], hovertemplate="%{y:,.6~g} (%{text})",
                marker={"symbol": symbol, "size": 11 if taken else 9, "color": colour(mode),
                        "line": {"width": 1 if taken else 2, "color": "#fff" if taken else colour(mode)}},
            ), row=1, col=1,
        )


def _prices_at(run: Run, time: int) -> dict[str, float | None]:
    """Closes of the bar in which an instant lies: for events of accounts that held nothing yet."""
    times = run.series["time"]
    at = bisect_left(times, time)
    return {str(symbol): known(series[at]) for symbol, series in (run.series.get("prices") or {}).items()
            if at < len(series) == len(times)}


def time_axis(times: Sequence[Any], stride: int) -> dict[str, Any]:
    """x0 and dx for regular bars, else every time."""
    points = [int(t) for t in ends(times, stride)]
    if len(points) < 2:
        return {"x": points}
    step = points[1] - points[0]
    steps = (b - a for a, b in pairwise(points))
    regular = all(s == step for s in steps)
    return {"x0": points[0], "dx": step} if regular else {"x": points}


def ends(series: Sequence[Any], stride: int) -> list[Any]:
    """The last of every `stride` values; a rest at the end that fills no whole step is left out."""
    return list(series[stride - 1 :: stride]) if stride > 1 and len(series) >= stride else list(series)


def _lowest(series: Sequence[Any], stride: int) -> list[float | None]:
    if stride <= 1 or len(series) < stride:
        return [known(v) for v in series]
    whole = len(series) // stride * stride
    steps = ([v for x in series[i : i + stride] if (v := known(x)) is not None] for i in range(0, whole, stride))
    return [min(step) if step else None for step in steps]


def _ratio(value: float | None) -> float | None:
    return None if value is None else rounded(min(max(value * 100, FLOOR), CEILING), 5)


def rounded(value: Any, digits: int = 7) -> float | None:
    figure = known(value)
    return None if figure is None else float(f"{figure:.{digits}g}")
