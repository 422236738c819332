"""Survival maps on the page: leverage x entry time, one panel a mode, and the same in tables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from bt_margin.model.moment import HOUR
from bt_margin.report import figures, wording
from bt_margin.study.replay import VERDICTS

if TYPE_CHECKING:
    from bt_margin.study.survival import SurvivalMap

CELLS = 60_000
"""Drawn at most: a larger map is thinned, and the page says so."""
KEPT = ("survived", "reduced")
KILLED = "liquidated"
SAFE = [[0.0, "#f1e9a6"], [0.15, "#a9d8b8"], [0.5, "#3f9fb5"], [1.0, "#234f8f"]]
DEAD = [[0.0, "#5e0d12"], [0.4, "#b3262b"], [1.0, "#f0a58f"]]
MUTE = {"refused": "#8f8a99", "too small": "#c9c6cf", "failed": "#1d1b22"}
FAR = 50.0  # per cent: beyond it all distances look alike


def steps(drawn: SurvivalMap) -> tuple[int, int]:
    """Every how many entries and leverages a cell is drawn."""
    count = [len(drawn.entries_ms), len(drawn.leverages)]
    every = [1, 1]
    while len(drawn.modes) * -(-count[0] // every[0]) * -(-count[1] // every[1]) > CELLS:
        wider = 0 if count[0] / every[0] > count[1] / every[1] else 1
        every[wider] += 1
    return every[0], every[1]


def survival_figure(drawn: SurvivalMap) -> Any:
    """A heat map for each mode: what lived by how near it came, what died by how soon."""
    by_entry, by_leverage = steps(drawn)
    here = (slice(None), slice(None, None, by_entry), slice(None, None, by_leverage))
    verdict, taken, near = drawn.verdict[here], drawn.taken_ms[here], drawn.distance[here]
    entries, leverages = drawn.entries_ms[::by_entry], drawn.leverages[::by_leverage]
    stamps = [wording.moment(int(time))[5:16] for time in entries]  # month, day, hour and minute
    kept = np.isin(verdict, [VERDICTS.index(name) for name in KEPT])
    killed = verdict == VERDICTS.index(KILLED)
    hours = (taken - entries[None, :, None]) / HOUR
    longest = float(hours[killed].max()) if killed.any() else 1.0
    page = make_subplots(rows=len(drawn.modes), cols=1, shared_xaxes=True, subplot_titles=list(drawn.modes),
                         vertical_spacing=0.3 / (4 * len(drawn.modes)))
    for m, mode in enumerate(drawn.modes):
        common = {"x": stamps, "y": [float(x) for x in leverages], "xgap": 0, "ygap": 0}
        layers: list[tuple[Any, Any, float, float, str, str]] = [
            (np.where(kept[m], np.where(np.isnan(near[m]), FAR, np.minimum(near[m], FAR)), np.nan), SAFE, 0.0, FAR,
             "lived, lowest distance %{z:.1f} %", "lived: lowest distance, %"),
            (np.where(killed[m], hours[m], np.nan), DEAD, 0.0, max(longest, 1.0), "liquidated after %{z:.1f} hours",
             "liquidated: hours after the entry"),
        ]
        for name, tint in MUTE.items():
            layers.append((np.where(verdict[m] == VERDICTS.index(name), 1.0, np.nan), [[0, tint], [1, tint]], 0.0, 1.0,
                           name, ""))
        for i, (z, scale, low, high, told, title) in enumerate(layers):
            if not np.isfinite(z).any():
                continue
            bar = None if not title or not _first(layers, i, m, kept, killed) else {
                "title": {"text": title, "side": "right"}, "x": 1.01 + 0.09 * i, "thickness": 12}
            page.add_trace(go.Heatmap(
                z=_rows(z.T), zmin=low, zmax=high, colorscale=scale, showscale=bar is not None, colorbar=bar,
                hovertemplate=f"{mode}, entered %{{x}}, %{{y}}x: {told}<extra></extra>", hoverongaps=False, **common,
            ), row=m + 1, col=1)
        page.update_yaxes(title={"text": "leverage"}, row=m + 1, col=1)
        page.update_xaxes(type="category", nticks=9, tickangle=0, row=m + 1, col=1)
    page.update_xaxes(title={"text": "entered at (UTC)"}, row=len(drawn.modes), col=1)
    page.update_layout(template=go.layout.Template(), height=120 + 250 * len(drawn.modes),
                       margin={"l": 64, "r": 150, "t": 40, "b": 56}, paper_bgcolor="rgba(0,0,0,0)",
                       plot_bgcolor="rgba(0,0,0,0)", font={"size": 12})
    return page


def _first(layers: Sequence[Any], i: int, m: int, kept: NDArray[np.bool_], killed: NDArray[np.bool_]) -> bool:
    """True where no earlier mode has drawn this layer: one colour bar a layer."""
    there = (kept, killed)[i]
    return not any(there[n].any() for n in range(m))


def _rows(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if x != x else figures.rounded(x, 4) for x in row] for row in values.tolist()]


def survival_section(drawn: SurvivalMap) -> dict[str, Any]:
    """What a page needs: `figure` (plain data for Plotly), `height` in px, `summary` rows, `lived` rows (entry, the
    largest leverage that lived by mode), `highest` leverage of the map, `thinned` (entries, leverages: every how many
    are drawn)."""
    figure = survival_figure(drawn)
    lived = drawn.lived()
    every = max(1, len(drawn.entries_ms) // 400)
    return {
        "figure": json.loads(figure.to_json()), "height": figure.layout.height, "modes": list(drawn.modes),
        "highest": float(drawn.leverages[-1]),
        "summary": drawn.summary(), "thinned": steps(drawn),
        "lived": [(int(drawn.entries_ms[e]), [wording.known(lived[m, e]) for m in range(len(drawn.modes))])
                  for e in range(0, len(drawn.entries_ms), every)],
    }


def write_survival(drawn: SurvivalMap, meta: Mapping[str, Any], path: Path) -> None:
    """One self-contained page; whole or not at all. `meta`: title, command, book (text), assumptions, versions."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(moment=wording.moment)
    template = environment.from_string(
        files("bt_margin.report").joinpath("templates/survival.html.j2").read_text(encoding="utf-8"))
    section = survival_section(drawn)
    figure = json.dumps(section.pop("figure"), separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        figure = figure.replace(sign, f"\\u{ord(sign):04x}")
    page = template.render(
        **section, title=str(meta["title"]), command=str(meta["command"]), book=str(meta["book"]),
        assumptions=list(meta["assumptions"]), versions=dict(meta["versions"]), sources=dict(drawn.sources),
        warnings=list(drawn.warnings), verdicts=list(VERDICTS), colours={m: figures.colour(m) for m in drawn.modes},
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")), drawing=Markup(figure),
        config=Markup(json.dumps(figures.CONFIG)),
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
