"""The command line: options of every command, and book files of any bytes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bt_margin.cli import main
from tests.hostile.books import BOOKS
from tests.hostile.law import NUMBERS, TEXTS, Target, damaged
from tests.hostile.studies import MAPPED, window_files

BAD = st.sampled_from((*TEXTS, *map(str, NUMBERS), "--", "-", "--json", "=", "USDT=", "=5", "USDT=nan", "USDT=1e999",
                       "BTC=-1", "USDT=5/w", "x=y=z", "2025-10-12/2025-10-10", "2025-10-10/2025-10-10", "os:path",
                       "no.such:X", ":", "a:", "os.path:join", "2025-10-09=portfolio@0")) | st.text(max_size=5)
OPTIONS: dict[str, tuple[str, ...]] = {
    "compare": ("--window", "--mode", "--leverage", "--cash", "--setting", "--rules-as-of", "--path", "--interest",
                "--borrow-leverage", "--switch", "--workers", "--store", "--maps", "--bogus"),
    "run": ("--window", "--mode", "--leverage", "--cash", "--setting", "--rules-as-of", "--path", "--interest",
            "--borrow-leverage", "--switch", "--store", "--bogus"),
    "margin": ("--mode", "--add", "--bogus"),
    "survive": ("--window", "--mode", "--leverage", "--entries", "--setting", "--rules-as-of", "--path", "--interest",
                "--store", "--bogus"),
    "rules": ("--table", "--symbol", "--as-of"),
    "windows": ("--store", "--bogus"),
    "fetch": ("--exchange", "--kind", "--timeframe", "--window", "--since", "--until", "--store"),
    "data": ("--store", "--exchange", "--symbol"),
    "check": ("--store", "--exchange"),
    "snapshot": ("--exchange",),
}
SURE = {
    "fetch": ("--api-url", "nowhere"),  # is refused before anything is asked
    "snapshot": ("--api-url", "nowhere"),
    "windows": ("--store", "mine"),
    "compare": ("--leverage", "2", "--workers", "1", "--maps", "none"),  # one process, a few cells
    "survive": ("--entries", "2", "--leverage", "3:9:3"),
}
SPANS = ("2023-01-01/2023-01-02", "2025-10-10T20:00/2025-10-11T00:00")
"""A day without data, which answers at once, and four hours with a fall in them."""
GOOD: dict[str, tuple[str, ...]] = {
    "--mode": ("isolated", "cross", "multi-currency", "portfolio"), "--leverage": ("2", "3", "0.5", "7"),
    "--cash": ("USDT=5000", "BTC=2", "100000"), "--setting": ("5", "10"), "--rules-as-of": ("then", "2025-01-01"),
    "--path": ("adverse", "ohlc", "close"), "--interest": ("USDT=0.12/y", "BTC=0.0001/d"),
    "--borrow-leverage": ("USDT=5", "BTC=2"), "--switch": ("2025-10-10T21:00=portfolio", "2025-10-10T22:00=cross@10"),
    "--workers": ("1",), "--store": ("mine",), "--maps": ("none", "cross"), "--add": ("BTC/USDT:USDT=-1",),
    "--entries": ("2", "hourly"), "--as-of": ("2025-10-10",), "--table": ("fees",), "--symbol": ("BTC/USDT:USDT",),
    "--exchange": ("okx",), "--kind": ("trade",), "--timeframe": ("1m",), "--since": ("2025-10-10",),
    "--until": ("2025-10-11",), "--window": ("2025-10-10T20:00/2025-10-11T00:00",),
}


@st.composite
def commands(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """(arguments, what the book file holds, or for `windows` the file of the user's own)."""
    name = draw(st.sampled_from(sorted(OPTIONS)))
    arguments = [name, *SURE.get(name, ())]
    if name in ("run", "compare", "survive"):
        arguments += ["--window", draw(st.sampled_from(SPANS))]
    if name in ("margin", "survive"):
        arguments.append(draw(st.sampled_from(("book.json", "book.json", "missing.json", "."))))
    elif name in ("run", "compare"):
        arguments.append(draw(st.sampled_from(("leveraged_long", "basis_carry", "leveraged_long", draw(BAD)))))
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.sampled_from(OPTIONS[name]))
        arguments += [option, draw(st.sampled_from(GOOD.get(option, ("x",))) if draw(st.booleans()) else BAD)]
    if draw(st.booleans()):
        arguments.append("--json")
    if name == "margin" and draw(st.booleans()):
        arguments.append("--stress")
    if name == "windows":
        return arguments, draw(window_files())
    text = json.dumps(draw(damaged(MAPPED if name == "survive" else BOOKS))).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3) | st.just(b"[" * 5_000)) + text[at + draw(st.integers(0, 3)):]
    return arguments, text


def command_law(case: tuple[list[str], bytes]) -> None:
    """Exit 0 with figures, or 2 (of `check`, and of a venue that does not answer: 1) with one line and nothing else."""
    arguments, text = case
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "book.json").write_bytes(text)
        Path(folder, "mine").mkdir()
        Path(folder, "mine", "windows.toml").write_bytes(text)
        os.chdir(folder)
        status: Any = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main(arguments)
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            os.chdir(before)
        left = sorted(p.name for p in Path(folder).iterdir())
    said = err.getvalue()
    assert "Traceback" not in said
    if status == 2:
        assert said.startswith("bt-margin: "), said
        assert len(said.splitlines()) == 1, said
        assert out.getvalue() == ""
        assert left == ["book.json", "mine"], left
    else:
        assert status == 0, (status, said)
        assert left in (["book.json", "mine"], ["book.json", "bt-margin-out", "mine"]), left
        if "--json" in arguments and "--help" not in arguments:
            json.loads(out.getvalue(), parse_constant=_never)


def _never(text: str) -> None:
    raise AssertionError(f"{text} in JSON")


def targets() -> list[Target]:
    return [Target("command", commands(), command_law, 40)]
