"""How far a long command has come: a bar on a terminal, a line every ten seconds where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bt_margin import cli_tables as show

if TYPE_CHECKING:
    from data_fetch.download import Progress

EVERY_S = 10.0


@contextmanager
def cell_progress(doing: str, before: Callable[[], int] = lambda: 0) -> Iterator[Callable[[int, int], None]]:
    """Yields what hears (cells done, cells in all). `before`: how many of those done were not done now."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = show.console(stderr=True)
    began = told = time.monotonic()
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("cells", total=None)

        def progress(done: int, total: int) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total)
            now, done_now = time.monotonic(), done - before()
            if not console.is_terminal and now - told > EVERY_S and done_now:
                left = (now - began) / done_now * (total - done)
                console.print(f"{done} of {total} cells, about {left:,.0f} s left")
                told = now

        yield progress


@contextmanager
def fetch_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar for each series with rate and time left on a terminal; elsewhere a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _fetch_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[text]}"))
    tasks: dict[int, tuple[Any, Progress]] = {}  # by run: one series may have several windows
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def watch(progress: Progress) -> None:
            if id(progress) not in tasks:
                tasks[id(progress)] = bars.add_task(str(progress.key), total=None, text=""), progress
            number = tasks[id(progress)][0]
            task = bars.tasks[bars.task_ids.index(number)]
            rate = progress.rows / task.elapsed if task.elapsed else 0.0
            text = progress.note or f"{progress.rows:,} rows, {rate:,.0f}/s" + (
                f", {progress.retries} retries" if progress.retries else "")
            bars.update(number, total=progress.total or None, completed=progress.done, text=text)

        yield watch


def _fetch_lines() -> Callable[[Progress], None]:
    last = time.monotonic()
    began: dict[int, tuple[float, Progress]] = {}  # by run: series of a kind come one after the other

    def watch(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        since = began.setdefault(id(progress), (now, progress))[0]
        if now - last < EVERY_S:
            return
        last = now
        share = progress.done / progress.total if progress.total else 0.0
        rate = progress.rows / max(now - since, 1e-3)
        left = f", {(now - since) * (1 - share) / share:,.0f} s left" if 0 < share < 1 else ""
        text = progress.note or f"{share:.0%}, {progress.rows:,} rows, {rate:,.0f}/s{left}"
        print(f"{progress.key}: {text}", file=sys.stderr, flush=True)

    return watch
