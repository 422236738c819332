"""Rule tables: a caller's overlays, damaged TOML files, and the texts that name windows and times."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bt_margin.engine.builder import parse_time
from bt_margin.errors import InputError
from bt_margin.rules import loading
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.study.windows import window
from tests.hostile.law import TEXTS, Target, damaged, damaged_text, rubbish

NOON = 1_760_000_000_000
SYMBOLS = ("BTC/USDT:USDT", "BTC/USDT", "BTC/USD:BTC", "BTC/USD:BTC-251226-100000-C", "SOL/USDT:USDT-251226")
OVERLAYS: tuple[dict[str, Any], ...] = (
    {"instruments": {"BTC/USDT:USDT": {"contract_size": 0.01, "tick": 0.1, "lot": 0.01,
                                       "tiers": [[100, 0.004, 0.01, 100], [5_000, 0.01, 0.02, 50]]},
                     "BTC/USDT": {"lot": 1e-8, "tiers": [[10, 0.02, 0.1, 10]]}},
     "fees": {"swap": {"maker": 0.0002, "taker": 0.0005}, "option": {"taker": 0.0003}}},
    {"discounts": {"BTC": [[10, 0.98], [100, 0.9]]}, "borrow_tiers": {"BTC": [[100, 0.02, 0.1], [200, 0.03, 0.2]]},
     "parameters": {"liquidation": {"early_cancel": "free-margin", "warning_ratio": 3.0},
                    "orders": {"order_loss": True}, "multi_currency": {},
                    "portfolio": {"mr3_kind": "none", "mr4_floor": 0.001, "mr7_tiers": [[1e6, 1.0], [1e9, 2.0]],
                                  "BTC.mr1_moves": [-0.1, 0.1], "mr9_prices": [0.99, 0.9],
                                  "mr9_tiers": [[1e6, 0.0, 0.1, 0.2]]}}},
)


QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((name, (symbol,)) for name in ("instrument", "tiers", "margin_tiers", "funding") for symbol in SYMBOLS),
    *((name, (coin,)) for coin in ("BTC", "USDT", "SOL") for name in (
        "discount", "borrow", "interest", "free_quota", "borrow_limit", "option", "portfolio", "portfolio_options",
        "portfolio_depeg")),
    *(("fees", (kind,)) for kind in ("spot", "margin", "swap", "future", "option")),
    *((name, ()) for name in ("liquidation", "orders", "margin", "delivery", "multi_currency", "portfolio_account",
                              "portfolio_orders", "portfolio_ladder")),
)


def asked(book: RuleBook) -> None:
    """What a book answers is a number or an InputError."""
    for time in (NOON, 1_500_000_000_000):
        rules = book.as_of(time, "nearest")
        for name, about in QUESTIONS:
            try:
                answer = getattr(rules, name)(*about) if about else getattr(rules, name)
                if name in ("discount", "borrow"):
                    answer = getattr(answer, "tiers", answer)
            except InputError:
                continue
            assert not re.search(r"\bnan\b", repr(answer)), answer
        assert all(row.source for row in rules.evidence())


def overlay_law(given: Any) -> None:
    """An overlay is a book, or refused."""
    if not set(given) <= {"instruments", "fees", "parameters", "discounts", "borrow_tiers"}:
        return  # no such arguments
    try:
        book = load_rules("okx").overlay(**given)
    except InputError:
        return
    asked(book)
    assert len(load_rules("okx").listing()) == _LISTED  # the tables themselves stay


_LISTED = len(load_rules("okx").listing())
FILES = {name: (loading._FOLDER / "okx" / f"{name}.toml").read_text("utf-8") for name in loading._SHAPES}
SMALL = tuple(name for name, text in FILES.items() if len(text) < 60_000)


@st.composite
def table_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A table's file with some lines changed."""
    name = draw(st.sampled_from(SMALL))
    return name, damaged_text(draw, "\n".join(FILES[name].splitlines()[:120]))


def file_law(case: tuple[str, bytes]) -> None:
    """A file is a table, or refused; a book with that table in it answers or refuses."""
    name, content = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.toml"
        path.write_bytes(content)
        try:
            table = loading.read_table(path, name)
        except InputError:
            return
    asked(RuleBook({**loading.read("okx"), name: table}))


def time_law(text: str) -> None:
    """A window or a time is one, or refused."""
    for read in (window, lambda t: parse_time(t, "time")):
        try:
            found = read(text)
        except InputError:
            continue
        if not isinstance(found, int):
            assert found.since < found.until


def targets() -> list[Target]:
    part = st.sampled_from(TEXTS) | st.text(max_size=8) | st.datetimes().map(lambda d: d.isoformat())
    times = part | st.builds("{}/{}".format, part, part)
    return [
        Target("overlay", damaged(OVERLAYS), overlay_law, 60),
        Target("overlay of rubbish", st.dictionaries(
            st.sampled_from(("instruments", "fees", "parameters", "discounts", "borrow_tiers")),
            st.dictionaries(st.sampled_from(("BTC/USDT:USDT", "swap", "portfolio", "liquidation", *TEXTS)), rubbish,
                            max_size=3), max_size=3), overlay_law, 60),
        Target("table file", table_files(), file_law, 60),
        Target("window", times, time_law, 300),
    ]
