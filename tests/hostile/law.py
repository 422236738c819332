"""What all targets share: rubbish, damage to good values, and the law that no answer holds a number that is none."""

from __future__ import annotations

import copy
import json
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

LONGEST_S = 60
"""An answer that takes longer is a hang."""

TEXTS = (
    "", " ", "<script>alert(1)</script>", "\"'>&lt;", "../../x", "/etc/passwd", "C:\\x", "NUL", "\x00", "\u202eUSDT",
    "a\nb", "A" * 3_000, "nan", "inf", "-0", "1e400", "USDT", "usdt", "BTC", "BTC/USDT", "BTC/USDT:USDT", "BTC/USD:BTC",
    "BTC/USDT:BTC", "BTC/USDT:USDT-250231", "BTC/USDT:USDT-990101", "BTC/USD:BTC-260327-0-C", "ETH/USDC:USDC",
    "BTC/USD:BTC-260327-100000-P", "BTC/USD:BTC-260327-1" + "0" * 400 + "-C", "USDT/USD", "USDT/USDT", "cross",
    "isolated", "long", "2025-10-10", "0001-01-01", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59", "1.5",
)
NUMBERS = (
    0, -0.0, 1, -1, 0.5, 1e-320, 5e-324, -1e-300, 1e-9, 1e9, 1e18, -1e18, 1e160, 1e300, 1.7e308, 2**53 + 1, 2**63,
    -2**63, 10**400, math.nan, math.inf, -math.inf,
)
rubbish = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.floats() | st.sampled_from(TEXTS) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3),
    max_leaves=5,
)


@dataclass(frozen=True)
class Target:
    """A kind of input and the law it is held to; `share`: how many of the inputs that a test run affords it gets."""

    name: str
    inputs: st.SearchStrategy[Any]
    law: Callable[[Any], None]
    share: int = 100


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything inside a nest of lists and dicts."""
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in rows:
        yield (*at, key)
        yield from paths(inner, (*at, key))


@st.composite
def damaged(draw: st.DrawFn, goods: tuple[Any, ...], most: int = 3) -> Any:
    """A copy of one of the good values with some places changed: other numbers, rubbish, gone, twice, renamed."""
    value = copy.deepcopy(draw(st.sampled_from(goods)))
    for _ in range(draw(st.integers(0, most))):
        ways = list(paths(value))
        if not ways:
            break
        *way, key = draw(st.sampled_from(ways))
        owner = value
        for step in way:
            owner = owner[step]
        old = owner[key]
        what = draw(st.sampled_from(("number", "number", "rubbish", "text", "gone", "twice", "renamed")))
        if what == "number" and isinstance(old, (int, float)) and abs(old) < 1e300:
            factor = draw(st.sampled_from((-1, 0, 1e-12, 1e-3, 0.5, 0.999, 1.001, 2, 10, 1e3, 1e6, 1e12)))
            owner[key] = old * factor if draw(st.booleans()) else draw(st.sampled_from(NUMBERS))
        elif what == "gone":
            del owner[key]
        elif what == "twice" and isinstance(owner, list):
            owner.insert(key, copy.deepcopy(old))
        elif what == "renamed" and isinstance(owner, dict):
            owner[draw(st.sampled_from(TEXTS))] = owner.pop(key)
        elif what == "text":
            owner[key] = draw(st.sampled_from(TEXTS))
        else:
            owner[key] = draw(rubbish)
    return value


def damaged_text(draw: st.DrawFn, text: str) -> bytes:
    """A TOML file with some lines changed: other values, gone, twice, swapped, rubbish."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        what = draw(st.sampled_from(("value", "gone", "twice", "rubbish", "swap")))
        key, sign, value = lines[at].partition("=")
        if what == "value" and sign:
            number = draw(st.sampled_from([*map(repr, NUMBERS), "[]", "[[]]", '""', "true", "1979-05-27", "{}",
                                           "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00",
                                           "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
                                           *map(json.dumps, TEXTS)]))
            lines[at] = f"{key}= {number}"
        elif what == "gone":
            del lines[at]
        elif what == "twice":
            lines.insert(at, lines[at])
        elif what == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = draw(st.text(max_size=20)) if draw(st.booleans()) else value
        if not lines:
            break
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@contextmanager
def watched() -> Iterator[None]:
    """Within: a warning is an error, and so is an answer that does not come."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def finite(value: Any) -> None:
    """Every number of an answer is one: what JSON can say. Raises ValueError."""
    json.dumps(value, allow_nan=False, default=str)


def numbers(value: Any) -> Iterator[float]:
    """Every float within a nest."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, float):
        yield value
