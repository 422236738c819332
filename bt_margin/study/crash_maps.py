"""Survival maps of a study's own books: what leverage of the strategies that hold one contract would have lived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bt_margin.errors import BtMarginError
from bt_margin.model.moment import iso
from bt_margin.study.static_book import StaticBook
from bt_margin.study.strategies import load, weights_of
from bt_margin.study.study import Study
from bt_margin.study.survival import load_path, spread, survival_map
from bt_margin.study.task import Task

if TYPE_CHECKING:
    from bt_margin.study.survival import SurvivalMap

LEVERAGES = tuple(float(x) for x in range(1, 21))
ENTRIES = "36"
"""So many entries, evenly spread over a window: one every six hours of nine days."""


def crash_maps(study: Study, modes: Sequence[str]) -> Iterator[tuple[Task, SurvivalMap | str]]:
    """A map, or why there is none, for every strategy of one weight and every window, in these modes as far as the
    study has them; windows
    without figures have none. A book of several legs has none: its proportions would change with the entry."""
    from data_fetch import DataError

    firsts = {(task.strategy, task.window.id): task for task in reversed(study.tasks)}
    shown = [mode for mode in dict.fromkeys(task.mode for task in study.tasks) if mode in modes]
    if not shown:
        return
    for task in reversed(firsts.values()):
        weights = weights_of(load(task.strategy))
        if len(weights) != 1:
            continue
        ((symbol, weight),) = weights.items()
        if task.switches:
            yield task, "the study switches modes; a map holds one"
            continue
        book = {"balances": dict(task.cash), "borrow": dict(task.borrow),
                "positions": [{"symbol": symbol, "contracts": 1.0 if weight > 0 else -1.0}]}
        try:
            held = StaticBook.from_dict(book)
            span = f"{iso(task.window.since)}/{iso(task.window.until)}"
            path = load_path(held, span, store=task.store, strict=task.strict)
            yield task, survival_map(
                held, path, LEVERAGES, spread(path, ENTRIES), shown, walk=task.path, setting=task.setting,
                rules_as_of=task.rules_as_of, interest=task.interest)
        except DataError:
            continue
        except BtMarginError as error:
            yield task, str(error)
