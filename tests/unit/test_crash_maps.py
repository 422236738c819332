"""Survival maps in a study's report agree with the study's own cells."""

from __future__ import annotations

import numpy as np
import pytest

from bt_margin.engine.clock import ModeSwitch
from bt_margin.report.crash_maps import map_section
from bt_margin.report.html import render
from bt_margin.study import crash_maps as maps
from bt_margin.study.crash_maps import crash_maps
from bt_margin.study.replay import VERDICTS
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


def test_a_map_knows_the_choices_about_borrowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coins alone behind a contract in USDT: who may not borrow cannot open it, neither in the run nor in the map."""
    monkeypatch.setattr(maps, "LEVERAGES", (1.0, 3.0))
    monkeypatch.setattr(maps, "ENTRIES", "2")
    for auto, verdict in ((True, "survived"), (False, "refused")):
        study = Study(["leveraged_long"], ["multi-currency"], ["2025-10-10"], [3], cash={"BTC": 1.0},
                      borrow={"auto": auto})
        ((_, drawn),) = crash_maps(study, ["multi-currency"])
        assert {VERDICTS[v] for v in drawn.verdict.ravel()} == {verdict}
        assert [r.row["verdict"] for r in study.run(workers=1)] == [verdict]


def test_a_study_that_switches_modes_has_no_map_and_says_why() -> None:
    study = Study(["leveraged_long"], ["cross"], ["2025-10-10"], [3],
                  switches=[ModeSwitch(1_760_054_400_000, "portfolio", None)])
    ((task, drawn),) = crash_maps(study, ["cross"])
    assert drawn == "the study switches modes; a map holds one"
    assert map_section(task, drawn).paragraphs == [f"No map: {drawn}"]


def test_the_highest_leverage_of_a_map_says_only_that_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "LEVERAGES", (1.0, 2.0, 20.0))
    monkeypatch.setattr(maps, "ENTRIES", "8")
    ((task, drawn),) = crash_maps(Study(["leveraged_long"], ["cross"], ["2025-10-10"], [3]), ["cross"])
    told = [row[1] for row in map_section(task, drawn).tables[1].rows]
    assert set(told) == {"2×", "≥ 20×"}
