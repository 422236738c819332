"""Turns are taken one after the other, by all processes that share a folder, and never wait for a clock set back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from data_fetch.client import retry_after
from data_fetch.pace import STRAY_S, Pace


def test_turns_follow_each_other_across_instances(tmp_path: Path) -> None:
    a, b, other = Pace("okx-trade", tmp_path), Pace("okx-trade", tmp_path), Pace("okx-mark", tmp_path)
    away = [p.turn(0.5) for p in (a, b, a)]
    assert away == pytest.approx([0, 0.5, 1.0], abs=0.2)
    assert other.turn(0.5) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("text", ["", "soon", "nan", "far ahead"])
def test_a_timetable_that_is_none_holds_nobody_up(text: str, tmp_path: Path) -> None:
    pace = Pace("okx-trade", tmp_path)
    pace.path.write_text(repr(time.time() + 10 * STRAY_S) if text == "far ahead" else text)
    assert pace.turn(0.5) == pytest.approx(0, abs=0.1)
    assert pace.turn(0.5) == pytest.approx(0.5, abs=0.2)


def test_without_a_folder_each_keeps_its_own_pace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pace = Pace("okx-trade", tmp_path / "file")
    assert [pace.turn(0.5) for _ in range(3)] == pytest.approx([0, 0.5, 1.0], abs=0.2)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7), (" 0 ", 0), ("Thu, 01 Jan 1970 00:01:00 GMT", 50), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("soon", 0),
     ("-3", 0), ("", 0), ("1e9", 0)],
)
def test_pauses_are_read_as_seconds_or_as_a_date(given: str, seconds: float) -> None:
    assert retry_after({"retry-AFTER": given}, 10.0) == seconds
    assert retry_after(None, 10.0) == 0
