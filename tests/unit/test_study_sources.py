"""Which files name a strategy's cells, and that a cell is kept only where the process runs what they say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bt_margin.study import provenance
from bt_margin.study.cells import Cells
from bt_margin.study.sources import Sources
from bt_margin.study.strategies import load
from bt_margin.study.study import Study

FILES = {
    "srcapp/__init__.py": "",
    "srcapp/strat.py": "from srcapp.limits import SIZE\nfrom srcshared.base import Base\nfrom . import near\n"
                       "class Mine(Base):\n"
                       "    def next(self):\n"
                       "        from srcapp.deep import late\n"
                       "        if not self.position: self.buy(data=self.datas[0], size=late(SIZE) + near.MORE)\n",
    "srcapp/limits.py": "SIZE = 50\n",
    "srcapp/near.py": "MORE = 0\n",
    "srcapp/deep/__init__.py": "from .inner import FACTOR\ndef late(size): return size * FACTOR\n",
    "srcapp/deep/inner.py": "FACTOR = 1\n",
    "srcshared/__init__.py": "",
    "srcshared/base.py": "import json, numpy\nfrom bt_margin import MarginStrategy\nfrom .grand import Grand\n"
                         "class Base(Grand, MarginStrategy): pass\n",
    "srcshared/grand.py": "class Grand:\n    symbols = ('BTC/USDT:USDT',)\n",
    "srcapp/unused.py": "X = 1\n",
}
REACHED = sorted(set(FILES) - {"srcapp/unused.py"})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """As a new process would begin."""
    for name in [name for name in sys.modules if name.startswith(("srcapp", "srcshared"))]:
        del sys.modules[name]
    importlib.invalidate_caches()


def sources(spec: str = "srcapp.strat:Mine") -> Sources:
    return provenance.strategy_sources(load(spec))


def run(folder: Path) -> tuple[Cells, float]:
    """A study of one cell in this process: the folder, and the size that was bought first."""
    cells = Cells(folder)
    (result,) = Study(["srcapp.strat:Mine"], "cross", ["2025-10-10"], [2]).run(cells=cells)
    return cells, next(entry["size"] for entry in result.ledger if entry["kind"] == "trade")


def test_all_that_a_strategy_imports_and_its_bases_name_its_cells(project: Path) -> None:
    found = sources()
    assert found.doubt == ""
    assert sorted(path.relative_to(project.resolve()).as_posix() for path, _ in found.files) == REACHED
    assert "srcapp.deep" not in sys.modules  # looked at, not imported
    first = provenance.strategy_hash(found)
    assert first == provenance.strategy_hash(sources())
    for name in REACHED:
        (project / name).write_text(FILES[name] + "# another\n")
        forget()
        assert provenance.strategy_hash(sources()) != first, name
        (project / name).write_text(FILES[name])
        forget()
    (project / "srcapp/unused.py").write_text("X = 2\n")
    assert provenance.strategy_hash(sources()) == first


def test_a_module_that_is_not_there_is_named_and_counts_when_it_comes(project: Path) -> None:
    (project / "srcapp/limits.py").write_text("try:\n    from srcapp_late import SIZE\nexcept ImportError: SIZE = 50\n")
    before = sources()
    at = before.parts.index(b"srcapp_late")
    assert before.parts[at + 1] == b"missing"
    (project / "srcapp_late.py").write_text("SIZE = 60\n")
    forget()
    assert provenance.strategy_hash(sources()) != provenance.strategy_hash(before)


def test_a_value_of_another_module_makes_another_cell(project: Path) -> None:
    assert run(project / "cells")[1] == 50
    forget()
    cells, size = run(project / "cells")
    assert (cells.taken, size) == (1, 50)
    (project / "srcapp/limits.py").write_text("SIZE = 70\n")
    forget()
    cells, size = run(project / "cells")
    assert (cells.taken, size, cells.notes) == (0, 70, [])


@pytest.mark.parametrize("edited", ["srcapp/strat.py", "srcapp/limits.py", "srcshared/grand.py",
                                    "srcapp/deep/inner.py"])
def test_a_file_edited_in_a_living_process_keeps_and_takes_nothing(project: Path, edited: str) -> None:
    run(project / "cells")
    kept = sorted((project / "cells").iterdir())
    (project / edited).write_text(FILES[edited] + "# 50 is now another number\n")
    for _ in range(2):
        cells, size = run(project / "cells")
        assert (cells.taken, size) == (0, 50)  # what runs is what was loaded
        assert sorted((project / "cells").iterdir()) == kept
        (note,) = cells.notes
        assert f"{Path(edited).name} changed since it was loaded" in note
        assert "restart" in note
    (project / edited).write_text(FILES[edited])  # memory and disk agree again
    late = edited == "srcapp/deep/inner.py"  # imported by the run: whether before the edit or after, nobody saw
    assert run(project / "cells")[0].taken == (0 if late else 1)


def test_a_reload_of_an_edit_that_is_taken_back_is_not_trusted(project: Path) -> None:
    run(project / "cells")
    limits = project / "srcapp/limits.py"
    limits.write_text("SIZE = 70\n")
    importlib.reload(sys.modules["srcapp.limits"])
    importlib.reload(sys.modules["srcapp.strat"])
    limits.write_text(FILES["srcapp/limits.py"])
    cells, size = run(project / "cells")
    assert (cells.taken, size) == (0, 70)
    assert "limits.py changed" in cells.notes[0]


def test_a_module_imported_before_anybody_looked_is_trusted_only_when_older_than_the_process(project: Path) -> None:
    importlib.import_module("srcapp.strat")  # its file is younger than this process: it may have been edited since
    cells, _ = run(project / "cells")
    assert "strat.py changed since it was loaded, or may have" in cells.notes[0]
    assert not (project / "cells").exists()
    time.sleep(0.1)
    told = subprocess.run(
        [sys.executable, "-B", "-c",
         "import srcapp.strat\nfrom bt_margin.study import provenance\n"
         "print(repr(provenance.strategy_sources(srcapp.strat.Mine).doubt))"],
        check=True, capture_output=True, text=True, cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", str(Path.cwd()), *filter(None, sys.path)])})
    if sys.platform == "linux":
        assert told.stdout.strip() == "''"


def test_a_file_edited_while_the_study_runs_is_not_kept(project: Path) -> None:
    study = Study(["srcapp.strat:Mine"], ["cross", "isolated"], ["2025-10-10"], [2])
    cells = Cells(project / "cells")

    def edit(done: int, total: int) -> None:
        if done == 1:
            (project / "srcapp/limits.py").write_text("SIZE = 70\n")

    study.run(workers=1, cells=cells, progress=edit)
    assert len(list((project / "cells").iterdir())) == 1
    assert "changed while the study ran" in cells.notes[0]


def test_a_class_without_a_file_is_run_and_not_kept(project: Path) -> None:
    code = ("from pathlib import Path\nfrom bt_margin import MarginStrategy, Study\n"
            "from bt_margin.study.cells import Cells\n"
            "class Mine(MarginStrategy):\n    symbols = ('BTC/USDT:USDT',)\n    def next(self): pass\n"
            "cells = Cells(Path('cells'))\n"
            "(done,) = Study([Mine], 'cross', ['2025-10-10'], [2]).run(cells=cells)\n"
            "print(done.row['verdict'], Path('cells').exists(), cells.notes)")
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=project,
        env={**os.environ, "PYTHONPATH": str(Path(provenance.__file__).parents[2])}).stdout
    assert told.startswith("survived False ['strategy __main__:Mine: Mine has no module of its own")
