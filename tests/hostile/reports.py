"""Reports: names of strategies, symbols, windows and sources that try to be something else than text."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from bt_margin.report.html import render
from bt_margin.study.result import RunResult
from tests.hostile.law import TEXTS, Target
from tests.unit.test_report import TAKEN, Tags, entry, report, row, series


def page_of(name: str) -> str:
    """A page that has a name wherever a name may stand."""
    result = RunResult(
        row(strategy=name, window=name, reason=name, contracts={name: 1.0}, data_kind=name), series(name),
        [{"name": "TakenOver", "time": TAKEN, "pool": f"{name} isolated", "margin_ratio": 1.0,
          "report": report(f"{name} isolated", name, 31_485.0, 90_000.0, symbol=name)}],
        [entry(TAKEN, "fee", symbol=name, note=name)], [name], [{"table": name, "source": name}],
    )
    return render([result], {"title": name, "command": name, "versions": {name: name}, "assumptions": [name],
                             "data": [name], "grid": [{"window": name, "table": name, "status": name}]})


def tags(page: str) -> list[tuple[str, list[str]]]:
    """Every tag of a page with the names of its attributes, without what is in the scripts."""
    return [(tag, sorted(attributes)) for tag, attributes in Tags(page).tags]


@cache
def harmless() -> tuple[list[Any], int]:
    page = page_of("harmless")
    return tags(page), page.count("<!--")


def report_law(name: str) -> None:
    """A name is text: the page has the same tags and attributes whatever it is."""
    page = page_of(name)
    assert (tags(page), page.count("<!--")) == harmless()


def targets() -> list[Target]:
    parts = ("<", ">", "'", '"', "&", "</script>", "<script>", "<!--", "-->", "]]>", "{{7*7}}", "{% x %}", "onload=",
             " ", "\n", "\u202e", "\u2028", "</title>", "</style>", "`", "${x}", "javascript:", "=", "/", "\\", "\x00",
             "x")
    names = st.lists(st.sampled_from(parts), min_size=1, max_size=6).map("".join) | st.sampled_from(TEXTS[2:])
    return [Target("report", names, report_law, 8)]
