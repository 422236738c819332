"""Numbers that are one value, or many along instants: what the rules are written in.

For a single value plain Python is ten times faster than an array of one; the answers are the same to the last bit, and
what is no number stays none: it never loses against one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Number = float | NDArray[np.float64]
"""One value, or a 1-D array over instants. Rules are written once and serve both."""


SMALLEST, LARGEST = 1e-30, 1e18
"""Sizes and prices that are not zero lie between these: a product or quotient of a few is neither lost nor infinite."""


def usable(value: float) -> bool:
    """True for zero and for finite numbers between the bounds, of either sign; false for NaN."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def larger(a: Number, b: Number) -> Number:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return a if a >= b or a != a else b


def smaller(a: Number, b: Number) -> Number:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return a if a <= b or a != a else b


def least(value: Number) -> float:
    """The smallest of many, infinity of none; no number where one of them is none."""
    return float(np.minimum.reduce(value, initial=np.inf)) if isinstance(value, np.ndarray) else value


def most(value: Number) -> float:
    """The largest of many, minus infinity of none; no number where one of them is none."""
    return float(np.maximum.reduce(value, initial=-np.inf)) if isinstance(value, np.ndarray) else value


def anywhere(truth: bool | NDArray[np.bool_]) -> bool:
    """True where it is true at one of the instants."""
    return bool(np.logical_or.reduce(truth)) if isinstance(truth, np.ndarray) else bool(truth)


def total(parts: list[Number]) -> Number:
    """The sum, 0.0 of none; of one part no other array is made."""
    return parts[0] if len(parts) == 1 else sum(parts, 0.0)


def along(value: Number, count: int) -> NDArray[np.float64]:
    """One value, or what is many already, as an array over so many instants; ValueError where there are others."""
    if isinstance(value, np.ndarray) and value.shape == (count,):
        return value
    return np.full(count, value, dtype=np.float64)
