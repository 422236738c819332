"""The same bytes whatever runs a study; cells that are kept, trusted or not; workers that die; a killed study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bt_margin.errors import InputError
from bt_margin.study.cells import Cells, decode, encode
from bt_margin.study.result import RunResult, write_parquet
from bt_margin.study.study import Study, run_cell

GRID: dict[str, Any] = {"strategies": ["leveraged_long"], "modes": "all",
                        "windows": ["2025-10-10"], "leverages": [3, 10]}


def saved(results: list[RunResult], path: Path) -> bytes:
    write_parquet(results, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RunResult], bytes]:
    results = Study(**GRID).run(workers=1)
    assert len({r.row["verdict"] for r in results}) >= 2
    return results, saved(results, tmp_path_factory.mktemp("serial") / "runs.parquet")


def test_processes_of_ones_own_and_of_others_give_the_same_bytes(serial, tmp_path: Path) -> None:
    results, whole = serial
    assert Study(**GRID).run(workers=2) == results  # spawned, the default
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert saved(Study(**GRID).run(pool), tmp_path / "runs.parquet") == whole


def test_a_dask_cluster_over_tcp_gives_the_same_bytes(serial, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    results, whole = serial
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                                 local_directory=str(tmp_path)) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = client.scheduler_info()["workers"]
        assert len(workers) == 2
        assert all(address.startswith("tcp://") for address in workers)
        assert os.getpid() not in client.run(os.getpid).values()
        found = Study(**GRID).run(client.get_executor())
    assert found == results
    assert saved(found, tmp_path / "runs.parquet") == whole


# -- cells that are kept ------------------------------------------------------------------------------------------


def counted(study: Study, folder: Path, **more: Any) -> tuple[list[RunResult], list[int]]:
    """The results, and how many cells were there at every report of progress."""
    seen: list[int] = []
    return study.run(workers=1, cells=Cells(folder, **more), progress=lambda done, _: seen.append(done)), seen


def test_a_finished_study_runs_nothing_again(serial, tmp_path: Path) -> None:
    small = Study(["leveraged_long"], "all", ["2025-10-10"], [3])
    first, seen = counted(small, tmp_path)
    assert seen == [1, 2, 3, 4]
    again, seen = counted(small, tmp_path)
    assert seen == [4]
    assert again == first == serial[0][:4]
    _, seen = counted(Study(["leveraged_long"], "all", ["2025-10-10"], [3, 10]), tmp_path)
    assert seen == [4, 5, 6, 7, 8]  # what a wider study shares with it is there
    _, seen = counted(small, tmp_path, fresh=True)
    assert seen == [1, 2, 3, 4]
    _, seen = counted(Study(["leveraged_long"], "all", ["2025-10-10"], [3], path="close"), tmp_path)
    assert seen == [1, 2, 3, 4]  # another path is another cell


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign head", "another's", "empty"])
def test_a_damaged_cell_is_noted_and_computed_again(damage: str, tmp_path: Path) -> None:
    study = Study(["leveraged_long"], ["isolated", "cross"], ["2025-10-10"], [3])
    first, _ = counted(study, tmp_path)
    one, other = sorted(tmp_path.glob("*.cell"))
    whole = one.read_bytes()
    one.write_bytes({
        "cut": whole[:-40], "flipped": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "foreign head": b"\x80\x04K\x01.",
        "another's": other.read_bytes(), "empty": b"",
    }[damage])
    (tmp_path / "notes.txt").write_text("mine")
    cells = Cells(tmp_path)
    assert study.run(workers=1, cells=cells) == first
    assert one.read_bytes() == whole  # written again, the same to the byte
    assert any("notes.txt" in note and "left alone" in note for note in cells.notes)
    assert any(one.name in note and "computed again" in note for note in cells.notes)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_cell_of_another_code_or_strategy_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = ("import backtrader as bt\nclass S(bt.Strategy):\n    size = {}\n    def next(self):\n"
              "        if not self.position: self.buy(size=self.size)\n")
    seen: list[int] = []
    for name, size in (("st_one", 10), ("st_one", 20)):
        (tmp_path / f"{name}.py").write_text(source.format(size))
        sys.modules.pop(name, None)
        sys.path_importer_cache.clear()
        (result,) = Study([f"{name}:S"], ["cross"], ["2025-10-10"], [2]).run(
            workers=1, cells=Cells(tmp_path / "cells"), progress=lambda done, _: seen.append(done))
        assert {e["size"] for e in result.ledger if e["kind"] == "trade"} >= {float(size)}
        for cached in (tmp_path / "__pycache__").glob("*"):
            cached.unlink()
    assert seen == [1, 1]
    assert len(list((tmp_path / "cells").glob("*.cell"))) == 2


def test_every_float_survives_the_packing(serial) -> None:
    for result in serial[0]:
        assert repr(decode(encode(result))) == repr(result)


# -- what goes wrong ----------------------------------------------------------------------------------------------

KILLER = """
import os, signal
import backtrader as bt
class Killer(bt.Strategy):
    params = (("leverage", 1.0),)
    def next(self):
        if self.p.leverage == 7.0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.p.leverage == 8.0:
            raise ZeroDivisionError("by hand")
        if not self.position:
            self.order_target_percent(target=self.p.leverage)
"""


@pytest.fixture
def killer(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "st_killer.py").write_text(KILLER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_worker_that_dies_costs_its_own_cell_only(killer: Path) -> None:
    study = Study(["st_killer:Killer"], ["cross", "isolated"], ["2025-10-10"], [2, 7, 8])
    results = study.run(workers=2, cells=Cells(killer / "cells"))
    verdicts = {(r.row["leverage"], r.row["mode"]): r for r in results}
    assert {r.row["verdict"] for key, r in verdicts.items() if key[0] == 2} <= {"survived", "liquidated"}
    for mode in ("cross", "isolated"):
        assert verdicts[7, mode].row["verdict"] == "failed"
        assert "died" in verdicts[7, mode].row["reason"]
        assert verdicts[8, mode].row["verdict"] == "failed"
        assert verdicts[8, mode].row["reason"].startswith("ZeroDivisionError: by hand (st_killer.py line ")
    assert len(list((killer / "cells").glob("*.cell"))) == 4  # a death is not kept as an outcome


def test_a_broken_executor_of_ones_own_is_a_reason_too(killer: Path) -> None:
    study = Study(["st_killer:Killer"], ["cross"], ["2025-10-10"], [7, 2])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = study.run(pool)
        assert all(r.row["verdict"] == "failed" and "a worker died" in r.row["reason"] for r in results)
        assert all("a worker died" in r.row["reason"] for r in study.run(pool))


def test_workers_are_counted_from_one() -> None:
    with pytest.raises(InputError, match="workers: expected 1 or more"):
        Study(**GRID).run(workers=0)


def test_a_class_is_a_strategy_too() -> None:
    from bt_margin.study.strategies import load

    long, = Study([load("leveraged_long")], ["cross"], ["2025-10-10"], [3]).tasks
    assert long.strategy == "leveraged_long"
    assert run_cell(long).row["verdict"] == "survived"


def test_a_study_killed_half_way_goes_on_and_ends_with_the_same_bytes(serial, tmp_path: Path) -> None:
    """`bt-margin compare`, ended by SIGKILL with all its workers as soon as a cell lies there, then run again."""
    command = [sys.executable, "-m", "bt_margin", "compare", "leveraged_long", "--window", "2025-10-10",
               "--leverage", "3", "--leverage", "10", "--workers", "2", "--out", str(tmp_path / "out")]
    cells = tmp_path / "out" / ".cells"
    running = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(cells.glob("*.cell"))) < 1:
            assert running.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (tmp_path / "out" / "runs.parquet").exists()
    there = {path: path.read_bytes() for path in cells.glob("*.cell")}
    assert 1 <= len(there) < 8
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert f"{len(there)} of 8 cells were finished before" in done.stderr
    assert (tmp_path / "out" / "runs.parquet").read_bytes() == serial[1]
    assert all(path.read_bytes() == content for path, content in there.items())
