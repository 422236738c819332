"""A study's survival maps as sections of its report, one in each crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bt_margin.report.section import Grid, Picture, Section
from bt_margin.report.survival import survival_figure, survival_section
from bt_margin.report.wording import moment, percent

if TYPE_CHECKING:
    from bt_margin.study.survival import SurvivalMap
    from bt_margin.study.task import Task


def map_section(task: Task, drawn: SurvivalMap | str) -> Section:
    """Leverage x entry time in each mode, and the largest leverage that lived by entry as a table; or why not."""
    title = f"Survival map of {task.strategy}"
    if isinstance(drawn, str):
        return Section(title, task.window.id, [f"No map: {drawn}"])
    figure = survival_figure(drawn)
    figure.update_xaxes(nticks=6)  # times are long
    lived = survival_section(drawn)["lived"]
    modes, highest = list(drawn.modes), float(drawn.leverages[-1])
    summary = [
        (str(row["mode"]), *(_times(row[name], highest) for name in ("through_all", "median", "best")),
         moment(row["worst_entry"]), percent(100 * row["survived"] / drawn.verdict[0].size))
        for row in drawn.summary()
    ]
    return Section(
        title, task.window.id,
        ["What leverage would have lived through this, entered when: the same book entered at each of "
         f"{len(drawn.entries_ms)} bars at {len(drawn.leverages)} leverages and held to the end of the window."],
        [Picture(figure, f"Survival map of {task.strategy}, {task.window.id}: leverage by time of entry, "
                         f"{', '.join(modes)}",
                 "Blue lived, darker the farther from liquidation; red was liquidated, darker the sooner.",
                 int(figure.layout.height))],
        [Grid("Largest leverage up to which every one of the map lived",
              ("mode", "at every entry", "at half of them", "at the best", "worst entry", "cells that survived"),
              summary, (1, 2, 3, 5)),
         Grid("By time of entry", ("entered", *modes),
              [(moment(at), *(_times(value, highest) for value in values)) for at, values in lived],
              tuple(range(1, len(modes) + 1)))],
    )


def _times(value: float | None, highest: float) -> str:
    """The highest leverage of the map says only that much."""
    return "none" if value is None or value != value else f"{'≥ ' if value >= highest else ''}{value:g}×"
