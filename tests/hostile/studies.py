"""What a study is asked: the user's own `windows.toml`, choices typed as text, books of survival maps."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bt_margin import cli_choices, cli_survive
from bt_margin.errors import InputError
from bt_margin.model.moment import iso
from bt_margin.study.price_path import PricePath
from bt_margin.study.static_book import StaticBook
from bt_margin.study.survival import SurvivalMap, survival_map
from bt_margin.study.windows import FILE, window, windows
from tests.hostile.law import NUMBERS, TEXTS, Target, damaged, damaged_text, finite, rubbish
from tests.unit.held_book import ETH, SWAP, path_of

WINDOWS = """# mine
[[window]]
id = "2023-03-11"
title = "USDC leaves its peg"
since = 2023-03-08T00:00:00Z
until = 2023-03-15T00:00:00Z
what = "A bank closes."
source = "news"

[[window]]
id = "2025-10-10"
since = 2025-10-09T00:00:00Z
until = 2025-10-12T00:00:00+08:00
"""


@st.composite
def window_files(draw: st.DrawFn) -> bytes:
    """A user's file with some lines changed, or the embedded one."""
    text = WINDOWS if draw(st.booleans()) else (resources.files("bt_margin.study") / FILE).read_text("utf-8")
    found = damaged_text(draw, text)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(found)))
        found = found[:at] + draw(st.binary(max_size=3) | st.just(b"[" * 5_000)) + found[at:]
    return found


def windows_law(content: bytes) -> None:
    """Every window of a file is a span that can be told and asked for, or the file is refused by its name."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, FILE).write_bytes(content)
        try:
            found = windows(folder)
        except InputError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert FILE in refusal
            return
        assert set(found) >= set(windows())
        for name, span in found.items():
            assert span.id == name
            assert span.since < span.until
            assert iso(span.since) <= iso(span.until)
            assert window(name, folder) == span


def _meaning(text: str, units: dict[str, float]) -> tuple[str, float] | None:
    """CURRENCY=NUMBER, with a unit behind where there are any, as plainly as it can be read."""
    found = re.fullmatch(r"([A-Z0-9]+)=(\d+(?:\.\d+)?)(?:/([a-z]))?", text)
    if found is None or (found[3] or "") not in units:
        return None
    return found[1], float(found[2]) * units[found[3] or ""]


Reader = Callable[[list[str]], Any]
READERS: dict[str, tuple[Reader, dict[str, float]]] = {
    "cash": (cli_choices.cash, {"": 1.0}),
    "interest": (cli_choices.interest, {"": 1.0, "y": 1.0, "d": 365.0}),
    "borrow": (lambda texts: cli_choices.borrow(texts, True).get("leverage", {}), {"": 1.0}),
    "add": (cli_choices.trades, {"": 1.0}),
}


def choice_law(case: tuple[str, list[str]]) -> None:
    """A choice typed as text is refused, or holds the figures that were typed."""
    name, texts = case
    if name == "switch":
        try:
            found = cli_choices.switches(texts)
        except InputError:
            return
        assert len(found) == len(texts)
        assert all(row.leverage is None or 1 <= row.leverage < math.inf for row in found)
        return
    if name == "leverage":
        try:
            levers = cli_survive._leverages(texts)
        except InputError:
            return
        assert len(levers) <= 1_000_000 * len(texts)
        return
    read, units = READERS[name]
    meant = [_meaning(text, units) for text in texts]
    try:
        figures = dict(read(texts) or {})
    except InputError:
        return
    if name == "add":  # trades of one symbol add up; what is no size the builder refuses
        assert all(row is None or figures[row[0]] >= row[1] for row in meant) or min(figures.values()) < 0
        return
    finite(figures)
    assert len(figures) == len(texts), (figures, "one was lost without a word")
    assert all(figures[row[0]] == row[1] for row in meant if row is not None), (figures, meant)
    assert name == "cash" or all(value >= 0 for value in figures.values())


MAPPED: tuple[dict[str, Any], ...] = (
    {"balances": {"USDT": 10_000}, "positions": [{"symbol": SWAP, "contracts": 1}], "rules": {"as_of": "2025-10-01"}},
    {"time": "2025-10-10", "balances": {"USDT": 50_000, "BTC": 0.2}, "borrow": {"auto": True, "leverage": {"USDT": 5}},
     "positions": [{"symbol": SWAP, "contracts": -3, "leverage": 5, "margin_mode": "isolated", "margin": 5},
                   {"symbol": ETH, "contracts": 20, "entry_price": 3_000}],
     "fees": {"swap": {"taker": 0.0005}}, "rules": {"extrapolate": "nearest"},
     "instruments": {SWAP: {"tiers": [[1e5, 0.004, 0.01, 100], [1e6, 0.01, 0.02, 50]]}},
     "borrow_tiers": {"USDT": [[1e6, 0.02, 0.1]]}, "discounts": {"BTC": [[10, 0.98]]}},
    {"balances": {"USDT": 20_000}, "positions": [
        {"symbol": SWAP, "contracts": 2, "position_side": "long"}, {"symbol": SWAP, "contracts": 1,
                                                                    "position_side": "short"}]},
)
LEVERAGES = (1.0, 4.0, 30.0)


@cache
def path() -> PricePath:
    """Twenty hours with the fall of 10 October 2025 in them."""
    return path_of("2025-10-10", [SWAP, ETH], 120, 140)


def honest(found: SurvivalMap) -> None:
    """Verdicts that are some, with a time where there is one, a reason where one is due, and no number that is none."""
    finite(found.to_dict())
    taken = found.taken_ms[found.taken_ms >= 0]
    assert np.all((taken > path().open_ms[0]) & (taken <= path().close_ms[-1]))
    names = np.array(("survived", "reduced", "liquidated", "refused", "too small", "failed"))[found.verdict]
    assert np.array_equal(names == "liquidated", found.taken_ms >= 0)
    assert np.array_equal((names == "refused") | (names == "failed"), found.reason > 0)
    assert not np.any(np.isinf(found.distance))
    assert np.all(found.distance[names == "liquidated"] == 0.0)


def map_law(case: tuple[Any, Any, Any]) -> None:
    """A book is a map whose cells all say what became of them, or refused in one error."""
    book, interest, setting = case
    try:
        held = StaticBook.from_dict(book)
        found = survival_map(held, path(), LEVERAGES, [0, 11], "all", interest=interest, setting=setting)
    except InputError:
        return
    honest(found)


def targets() -> list[Target]:
    number = st.sampled_from([*map(repr, NUMBERS), "5", "0.12", "1_000", "٣", " 5 ", "1e-3", "0x10"]) | st.floats().map(
        repr)
    currency = st.sampled_from(("USDT", "usdt", "BTC", "", " ", "A=B", "/", *TEXTS[:6])) | st.text(max_size=3)
    pairs = st.builds("{}{}{}{}".format, currency, st.sampled_from(("=", "=", "=", "", "==", ":")), number,
                      st.sampled_from(("", "", "/y", "/d", "/w", "/", "@10", ":20:1")))
    plain = st.builds("{}={}{}".format, st.sampled_from(("USDT", "BTC", "ETH")), st.sampled_from(("1", "2.5", "0")),
                      st.sampled_from(("", "", "/d", "/y")))
    switches = st.builds("{}={}".format, st.sampled_from(TEXTS) | st.just("2025-10-09"), st.sampled_from(
        ("portfolio", "cross@10", "cross@nan", "cross@", "@5", "x@y@z")))
    ranges = st.lists(number, min_size=1, max_size=4).map(":".join)
    names = st.sampled_from(("cash", "interest", "borrow", "add", "switch", "leverage"))
    rates = st.none() | st.dictionaries(st.sampled_from(("USDT", "BTC", "x")), st.sampled_from(
        (0.0, 0.12, 8_760.0, 8_761.0, -1.0, math.nan, math.inf, 1e300)), max_size=2)
    settings = st.none() | st.sampled_from((1.0, 3.0, 100.0, 1e9, 0.5, 0.0, math.nan, math.inf))
    return [
        Target("windows file", window_files(), windows_law, 80),
        Target("choice", st.tuples(names, st.lists(pairs | plain | switches | ranges, max_size=3)), choice_law, 200),
        Target("survival map", st.tuples(damaged(MAPPED), rates, settings), map_law, 12),
        Target("static book of rubbish", st.tuples(st.dictionaries(st.sampled_from(
            ("balances", "positions", "borrow", "rules", "time", "prices", *TEXTS[:3])), rubbish, max_size=5),
            st.none(), st.none()), map_law, 60),
    ]
