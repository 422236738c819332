"""What the README shows runs, and says what it says."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def test_the_backtest_is_liquidated_nowhere_or_says_so(capsys) -> None:
    scope: dict[str, object] = {}
    exec(blocks()[0], scope)
    assert scope["cerebro"].broker.getvalue() < 100_000  # type: ignore[attr-defined]


def test_the_notebook_prints_what_it_says(capsys) -> None:
    exec(blocks()[1], {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("50226.0")
    assert lines[1].startswith("37.0")
    assert any("liquidation" in line for line in lines[2:])


def test_the_hedge_moves_what_it_says(capsys) -> None:
    exec(blocks()[2], {})
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert (lines["mr1"], lines["mr7"]) == ("120000.0 -> 0.0", "4545.0 -> 9045.0")
    assert lines["mr4"].startswith("7655.7")
    assert "-> 9655.7" in lines["mr4"]
