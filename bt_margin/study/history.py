"""The figures that a cell runs on: downloaded minutes or embedded hours, and how much of the window they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bt_margin.model.moment import MINUTE
from bt_margin.study import provenance
from bt_margin.study.chains import option_feeds, priced, trades_options, vol_label
from bt_margin.study.strategies import symbols_of, takes_leverage
from bt_margin.study.task import Task

COVERED = 0.99
"""Downloaded minutes are used when so much of a window is there; the rest is left out and counted."""
SPOT_STANDS_IN_BEFORE = 1_640_995_200_000
"""2022-01-01: before it a perpetual without data of its own may be replayed on its spot pair, and is labelled so."""


def params_of(task: Task, strategy: Any) -> dict[str, Any]:
    """What the strategy of a cell is given."""
    return {**({"leverage": task.leverage} if takes_leverage(strategy) else {}), **task.params}


def figures_of(task: Task, strategy: Any) -> tuple[str, list[Any]]:
    """(what the figures are, every feed of a cell): its history, and the options that its strategy asks for."""
    if not trades_options(strategy):
        return history_of(task, symbols_of(strategy))
    task = replace(task, window=priced(task.window))
    label, history = history_of(task, symbols_of(strategy))
    options = option_feeds(strategy, task.window, history, params_of(task, strategy))
    return f"{label}; {vol_label(task.window)}", [*history, *options]


def history_of(task: Task, symbols: Sequence[str]) -> tuple[str, list[Any]]:
    """(what the figures are, a feed per symbol): downloaded minutes where they cover the window for every symbol,
    else the embedded hourly figures; the two are never mixed. Holes of the minutes are left out and counted."""
    from bt_margin.plugin import feeds
    from data_fetch import LocalStore, Samples

    since, until = task.window.since, task.window.until
    label = Samples().label
    if task.store:
        local = LocalStore(task.store)
        short = {s: c for s in symbols if (c := local.coverage(s, "trade", MINUTE, since, until)) < COVERED}
        if not short:
            return local.label, feeds.from_store(
                local, symbols, since=since, until=until, timeframe="1m", holes="drop"
            )
        label += f" (not the downloaded minutes: {', '.join(f'{c:.0%} of {s}' for s, c in short.items())} there)"
    from_spot = since < SPOT_STANDS_IN_BEFORE and not task.strict
    return label, feeds.from_samples(
        task.window.id, symbols, perpetual_from_spot=from_spot, since=since, until=until
    )


def coverage(task: Task, label: str, feed: Any) -> dict[str, Any]:
    """Bars found and expected of one feed, and where they come from."""
    close_ms = feed.p.close_ms
    step = int(close_ms[0]) - feed.first_ms
    expected = max(1, (task.window.until - task.window.since) // step)
    marks = feed.p.columns.get("mark")
    return {
        "symbol": feed.p.name, "from": label, "source": feed.p.source, "step_ms": step, "bars": len(close_ms),
        "expected": expected, "marks": 0 if marks is None else int(np.isfinite(marks).sum()),
        "first": int(close_ms[0]) - step, "last": int(close_ms[-1]),
        "settlements": 0 if feed.p.funding is None else len(feed.p.funding.times),
        "sha256": provenance.feeds_hash([feed]),
    }
