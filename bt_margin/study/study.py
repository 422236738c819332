"""A study: strategy x mode x window x leverage, every cell a task of its own that returns plain data."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from bt_margin.engine.clock import ModeSwitch
from bt_margin.errors import InputError
from bt_margin.model.number import LARGEST, usable
from bt_margin.modes import MODES, mode_named
from bt_margin.modes.borrow import refused_leverage
from bt_margin.rules.book import load_rules
from bt_margin.rules.credit import yearly_rate
from bt_margin.rules.overlay import entries
from bt_margin.study.cell import empty, run_cell, work
from bt_margin.study.cells import Cells, decode
from bt_margin.study.chains import ruled_by
from bt_margin.study.naming import CellNames
from bt_margin.study.result import RunResult
from bt_margin.study.running import FEW, spread
from bt_margin.study.strategies import BUNDLED, load, spec_of, symbols_of, weights_of
from bt_margin.study.task import Task, modes_named, settings
from bt_margin.study.windows import Window, window

DEFAULT_WINDOWS = ("2025-10-10", "2022-11-08")
DEFAULT_LEVERAGES = (2.0, 3.0, 5.0)


class Study:
    """Runs every cell of a grid.

    `strategies`: bundled names, `module:Class`, or classes that other processes can import; `modes`: names or "all";
    `windows`: ids (those of the store's `windows.toml` too) or START/END; `leverages`: exposures (gross notional /
    starting equity); `setting`: OKX's leverage setting, default twice the exposure capped by the tier, so that isolated
    posts half the equity and cross keeps the other half. `store`: a folder of downloaded history; its minutes are
    preferred to the embedded hourly figures where they cover a window.
    `interest`: yearly borrow rates by currency instead of the rules' own; `borrow`: choices of the modes whose account
    stands behind its debts as a whole, as in the broker; `switches`: scripted changes of the account mode, in every
    cell.
    """

    def __init__(
        self,
        strategies: Sequence[str | type] = BUNDLED,
        modes: Sequence[str] | str = "all",
        windows: Sequence[str] = DEFAULT_WINDOWS,
        leverages: Sequence[float] = DEFAULT_LEVERAGES,
        *,
        cash: Mapping[str, float] | None = None,
        setting: float | None = None,
        rules_as_of: str = "then",
        path: str = "adverse",
        strict: bool = False,
        store: str = "",
        interest: Mapping[str, float] | None = None,
        borrow: Mapping[str, Any] | None = None,
        switches: Sequence[ModeSwitch] = (),
    ) -> None:
        chosen = modes_named(modes)
        specs = [strategy if isinstance(strategy, str) else spec_of(strategy) for strategy in strategies]
        for spec in specs:
            load(spec)
        for value in (*leverages, *([setting] if setting is not None else [])):
            if not 0 < value < float("inf"):
                raise InputError(f"leverage: expected a number above zero, found {value!r}")
        balances = dict(cash or {"USDT": 100_000.0})
        for currency, amount in balances.items():
            if amount < 0 or not usable(amount):
                raise InputError(f"cash: expected amounts of zero or more, up to {LARGEST:g}, found "
                                 f"{currency}={amount!r}")
        if not sum(balances.values()) > 0:
            raise InputError("cash: expected some money to start with, found none; for example USDT=100000")
        for currency, rate in (interest or {}).items():
            yearly_rate(rate, f"interest.{currency}")
        self.tasks = [
            Task(spec, name, window(span, store), float(leverage), balances, setting, rules_as_of, path, strict, store,
                 interest=dict(interest or {}), borrow=dict(borrow or {}), switches=tuple(switches))
            for spec, span, leverage, name in itertools.product(specs, windows, leverages, chosen)
        ]
        self._check_settings()

    def run(
        self,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        workers: int | None = None,
        cells: Cells | None = None,
    ) -> list[RunResult]:
        """Every cell, in the grid's order and the same to the byte, whatever ran it. A failed cell is a value.

        `executor`: any of concurrent.futures', such as dask.distributed's `Client(...).get_executor()`; it needs the
        same code, and where a task names a store, the same folder. Default: spawned processes, `workers` of them (as
        many as cores), or this process for a few cells of hours. `cells`: where each finished cell is kept, and
        from where a study that was stopped goes on; not those of a strategy whose files may not be what runs (edited
        since they were loaded, a class of a notebook): `cells.notes` says so. `progress` hears (cells done, cells
        in all).
        """
        if workers is not None and workers < 1:
            raise InputError(f"workers: expected 1 or more, found {workers}")
        results: dict[int, RunResult] = {}
        keys: dict[int, str] = {}
        if cells is not None:
            names = CellNames()
            for i, task in enumerate(self.tasks):
                keys[i] = names.key(task)
                found = None if names.doubted(task, cells) else cells.load(keys[i])
                if found is not None:
                    results[i] = found
        if progress and results:
            progress(len(results), len(self.tasks))

        def landed(i: int, came: bytes | str) -> None:
            if isinstance(came, str):
                results[i] = empty(self.tasks[i], "failed", came)
            else:
                results[i] = decode(came)
                if cells is not None and not names.doubted(self.tasks[i], cells) and names.agree(
                        self.tasks[i], results[i]):
                    cells.save(keys[i], came)
            if progress:
                progress(len(results), len(self.tasks))

        left = {i: task for i, task in enumerate(self.tasks) if i not in results}
        slow_first = dict(sorted(left.items(), key=lambda item: _effort(item[1]), reverse=True))
        few = workers is None and len(left) <= FEW and not any(task.store for task in left.values())
        spread(work, slow_first, executor, 1 if few else min(workers or os.cpu_count() or 1, len(left)), landed)
        return [results[i] for i in sorted(results)]

    def windows(self) -> list[Window]:
        """Every window of the study once, in order."""
        return list({task.window.id: task.window for task in self.tasks}.values())

    def grid(self) -> list[dict[str, str]]:
        """Window x rule table: in force, extrapolated N days, inferred."""
        symbols = sorted({s for task in self.tasks for s in ruled_by(load(task.strategy))})
        spans = {w.id: (w.since, w.until) for w in self.windows()}
        rows = load_rules("okx").grid(spans, symbols)
        return [
            {"window": span, "table": table, "status": status}
            for table, spans_ in rows.items()
            for span, status in spans_.items()
        ]

    def _check_settings(self) -> None:
        """A setting above the venue's maximum is bad input, found before anything runs."""
        for task in self.tasks:
            rules = load_rules("okx").as_of(task.rules_time, "nearest")
            strategy = load(task.strategy)
            weights_of(strategy)
            for symbol in symbols_of(strategy):
                if rules.instrument(symbol).is_spot:
                    continue
                limit = rules.tiers(symbol).max_leverage
                asked = {"leverage": task.leverage, "setting": task.setting}
                for name, value in asked.items():
                    if value is not None and (value > limit or (name == "setting" and value < 1)):
                        raise InputError(
                            f"{name}: expected at most {limit:g} (setting: at least 1), the tier's maximum for "
                            f"{symbol} on {task.window.id}, found {value:g}"
                        )
            if mode_named(task.mode).whole:
                for currency, value in entries(task.borrow.get("leverage", {}), "borrow.leverage").items():
                    if why := refused_leverage(currency, value, rules):
                        raise InputError(f"borrow.leverage.{currency}: {why}, on {task.window.id}")


def _effort(task: Task) -> tuple[float, int]:
    """Which cells take longest, about: where many processes share a study, they begin with those."""
    return task.window.until - task.window.since, tuple(MODES).index(task.mode)


__all__ = ["DEFAULT_LEVERAGES", "DEFAULT_WINDOWS", "Study", "Task", "run_cell", "settings"]
