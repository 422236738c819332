"""Survival maps in a study's report agree with the study's own cells."""

from __future__ import annotations

import numpy as np

from bt_margin.report.crash_maps import map_section
from bt_margin.report.html import render
from bt_margin.study.crash_maps import crash_maps
from bt_margin.study.study import Study


def test_a_map_stands_in_its_crash_and_says_what_the_runs_say() -> None:
    study = Study(["leveraged_long", "pair_long_short"], ["isolated", "cross"], ["2025-10-10"], [3, 10])
    results = study.run(workers=1)
    ((task, drawn),) = crash_maps(study, ["isolated", "cross", "portfolio"])  # the pair has none
    assert drawn.modes == ("isolated", "cross")
    for result in results[:4]:
        row = result.row
        if row["strategy"] == "leveraged_long":  # a map enters a bar's close, a run the next bar's open: the same side
            column = int(np.searchsorted(drawn.leverages, row["leverage"]))
            assert (drawn.verdict[drawn.modes.index(row["mode"]), 0, column] == 0) == (row["verdict"] == "survived")
    page = render(results, {}, [map_section(task, drawn)])
    assert page.index('id="crash-1"') < page.index("Survival map of leveraged_long") < page.index('id="case-1"')
    assert not list(crash_maps(study, []))
