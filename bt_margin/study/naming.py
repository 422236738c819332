"""What names a finished cell: all that its outcome rests on, so that it is taken for the same question only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from bt_margin.errors import BtMarginError
from bt_margin.study import provenance
from bt_margin.study.cells import Cells
from bt_margin.study.chains import trades_options
from bt_margin.study.history import figures_of
from bt_margin.study.result import RunResult
from bt_margin.study.sources import Sources
from bt_margin.study.strategies import load, symbols_of
from bt_margin.study.task import Task


class CellNames:
    """Names of cells; what many tasks share is read once."""

    def __init__(self) -> None:
        self._data: dict[tuple[Any, ...], str] = {}
        self._code: dict[str, Sources] = {}

    def key(self, task: Task) -> str:
        """SHA-256 of all that a cell's outcome rests on; where a folder lies is no part of it, what it holds is."""
        if task.strategy not in self._code:
            self._code[task.strategy] = provenance.strategy_sources(load(task.strategy))
        span = {"id": task.window.id, "since": task.window.since, "until": task.window.until}
        said = {**asdict(task), "store": bool(task.store), "window": span}
        made_of = provenance.strategy_hash(self._code[task.strategy])
        parts = [said, made_of, provenance.code_hash(), provenance.rules_hash(), self.data(task)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def doubted(self, task: Task, cells: Cells) -> bool:
        """True, with a note, where what runs may be another strategy than the files that name its cells."""
        sources = self._code[task.strategy]
        why = sources.doubt or ("" if sources.unchanged() else "a file of it changed while the study ran")
        note = f"strategy {task.strategy}: {why}; its cells are neither kept nor taken; restart to have them kept"
        if why and note not in cells.notes:
            cells.notes.append(note)
        return bool(why)

    def data(self, task: Task) -> str:
        """Of the figures a task reads; why there are none, where there are none."""
        from data_fetch import DataError

        strategy = load(task.strategy)
        asked = (task.strategy, task.leverage) if trades_options(strategy) else symbols_of(strategy)
        where = (asked, task.window.id, task.window.since, task.window.until, task.store, task.strict)
        if where not in self._data:
            try:
                self._data[where] = provenance.feeds_hash(figures_of(task, strategy)[1])
            except (BtMarginError, DataError) as error:
                self._data[where] = f"none: {error}"
        return self._data[where]

    def agree(self, task: Task, result: RunResult) -> bool:
        """False for a cell that was run with other code, rules or figures than are here."""
        row = result.row
        return (row["code_sha256"], row["rules_sha256"]) == (provenance.code_hash(), provenance.rules_hash()) and (
            not result.data or row["data_sha256"] == self.data(task))
