"""Tasks over an executor: every task lands once, with what came of it or with why nothing did."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from typing import TypeVar

from bt_margin.errors import InputError

T = TypeVar("T")
Work = Callable[[T], bytes]
Landed = Callable[[int, "bytes | str"], None]
"""Called with a task's number and its payload, or the reason why there is none."""

FEW = 4
"""So many tasks are quicker done here than handed to new processes."""


def spread(work: Work[T], tasks: Mapping[int, T], executor: Executor | None, workers: int, landed: Landed) -> None:
    """Do every task. `executor` None: spawned processes, or with one worker this process.

    A worker that dies takes no other task with it: in an executor of the caller's what was under way lands with the
    reason, in processes of our own it is tried again, the last time each task in a process of its own.
    """
    if executor is not None:
        for i in _round(work, tasks, executor, landed):
            landed(i, "the executor broke: a worker died; run the study again, what has finished is kept")
    elif workers > 1:
        _processes(work, tasks, workers, landed)
    else:
        for i, task in tasks.items():
            landed(i, work(task))


def _processes(work: Work[T], tasks: Mapping[int, T], workers: int, landed: Landed) -> None:
    left = dict(tasks)
    for attempt in range(2):
        with _pool(min(workers, len(left))) as pool:
            if not attempt:
                _check(pool)
            left = {i: left[i] for i in _round(work, left, pool, landed)}
        if not left:
            return
    for i, task in left.items():  # whoever ends its process is found alone
        with _pool(1) as pool:
            if _round(work, {i: task}, pool, landed):
                landed(i, "its worker process died without a word, three times (out of memory, or ended from outside)")


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _check(pool: Executor) -> None:
    """A pool that cannot start is one clear error, not a failure of every task."""
    try:
        pool.submit(os.getpid).result()
    except BrokenExecutor:
        raise InputError(
            'workers: the worker processes do not start; a script that runs a study needs `if __name__ == "__main__":`'
            " around it, and an interactive session workers=1"
        ) from None


def _round(work: Work[T], tasks: Mapping[int, T], executor: Executor, landed: Landed) -> list[int]:
    """Hand all tasks over once; returns those that a broken executor left undone."""
    futures, undone = {}, []
    for i, task in tasks.items():
        try:
            futures[executor.submit(work, task)] = i
        except (BrokenExecutor, RuntimeError):  # broken, or shut down by its owner
            undone.append(i)
    try:
        for future in as_completed(futures):
            try:
                payload: bytes | str = future.result()
            except BrokenExecutor:
                undone.append(futures[future])
                continue
            except Exception as error:  # of the executor: a cell's own trouble is in its result
                payload = f"{type(error).__name__}: {error}".strip()
            landed(futures[future], payload)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return sorted(undone)
