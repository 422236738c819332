"""How far prices may move before something of a pool reaches zero, where no closed form exists.

Moves are tried outward on a grid, many at a time (rules are written for arrays over instants), the first change of
sign is then closed in on. A dip and recovery between two neighbouring points of the grid stays unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError
from bt_margin.model.account import Position
from bt_margin.model.instrument import Number
from bt_margin.model.market import Market
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.options import moved

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

Measure = Callable[[Judgement], Number]

_GROWTH = 1.1
_CHUNKS = (0.05, 0.3, 0.999)
"""Moves are tried up to each of these in turn, upward beyond."""


def coin_moved(market: Market, positions: Iterable[Position], coin: str, shift: Number) -> Market:
    """Every price of one coin moved by `shift` (-0.1: 10 % down): its marks, last prices, indexes, forwards."""
    own = [p for p in positions if p.instrument.base == coin]
    bare = replace(market, marks=_of(market.marks, coin), lasts=_of(market.lasts, coin),
                   indexes=_of(market.indexes, coin), forwards=_of(market.forwards, coin))
    return market.with_coin(coin, moved(bare, own, shift))


def reach(pool: Pool, coin: str, market: Market, rules: Rules, *measures: Measure) -> list[tuple[float | None, str]]:
    """The smallest move of a coin's prices, up or down, at which each measure is zero, and why its search ended early.

    (None, "") where no move between -99.9 % and +900 % does it; (None, reason) where the rules end before that, as for
    a debt beyond the largest known tier.
    """
    judged: dict[float | bytes, Judgement] = {}  # all measures are sought along the same moves

    def value(measure: Measure, shift: Number) -> Number:
        key = shift.tobytes() if isinstance(shift, np.ndarray) else shift
        found = judged.get(key)
        if found is None:
            found = judged[key] = judge(pool, coin_moved(market, pool.positions, coin, shift), rules)
        return measure(found)

    found: list[tuple[float | None, str]] = []
    for measure in measures:
        move, end = nearest_zero(partial(value, measure))
        why = "" if move is not None or end is None else f"prices of {coin} moved by {end[0]:+.1%}: {end[1]}"
        found.append((move, why))
    return found


def nearest_zero(
    value: Callable[[Number], Number], highest: float = 9.0
) -> tuple[float | None, tuple[float, InputError] | None]:
    """(the move nearest to none at which `value`, of a move or an array of moves, changes its sign, None).

    (None, None) where it keeps its sign from -99.9 % to `highest` (9: +900 %); (None, (move, error)) where it cannot be
    known that far out in one of the directions.
    """
    now = float(value(0.0))
    if now == 0.0:
        return 0.0, None
    found: list[float] = []
    end: tuple[float, InputError] | None = None
    for direction in (-1.0, 1.0):
        near, at_near = 0.0, now
        for limit in (*_CHUNKS, *((highest,) if direction > 0 else ())):
            if any(abs(hit) <= abs(near) for hit in found):
                break  # the other direction was nearer
            moves = direction * _grid(abs(near), limit)
            values, error = _known(value, moves)
            changed = np.flatnonzero((values > 0) != (now > 0))
            if len(changed):
                i = int(changed[0])
                before = (near, at_near) if i == 0 else (float(moves[i - 1]), float(values[i - 1]))
                found.append(close_in(value, *before, float(moves[i]), float(values[i])))
                break
            if error is not None:
                end = end or (float(moves[len(values)]), error)
                break
            near, at_near = float(moves[-1]), float(values[-1])
    return (min(found, key=abs), None) if found else (None, end)


def _grid(start: float, end: float) -> NDArray[np.float64]:
    """Moves beyond `start` up to `end`, farther apart the farther out."""
    first = max(start, 0.0005)
    count = max(2, round(float(np.log(end / first) / np.log(_GROWTH))))
    grid = np.geomspace(first, end, count + 1)
    return grid if start == 0.0 else grid[1:]


def _known(value: Callable[[Number], Number], moves: NDArray[np.float64]) -> tuple[NDArray[np.float64],
                                                                                  InputError | None]:
    """Values at as many of the moves as the rules reach, and what ended them."""
    try:
        return np.broadcast_to(value(moves), moves.shape), None
    except InputError as error:
        if len(moves) == 1:
            return np.empty(0), error
        half = len(moves) // 2
        first, stopped = _known(value, moves[:half])
        if stopped is not None:
            return first, stopped
        second, stopped = _known(value, moves[half:])
        return np.concatenate([first, second]), stopped


def close_in(value: Callable[[Number], Number], a: float, fa: float, b: float, fb: float) -> float:
    """Where a piecewise straight function crosses zero, between a and b, on b's side of it; a jump across zero counts
    as a crossing."""
    for turn in range(120):
        if fb == 0.0 or abs(b - a) <= 1e-15 * max(1.0, abs(b)):
            break
        c = (a * fb - b * fa) / (fb - fa) if turn % 3 < 2 else (a + b) / 2
        if not min(a, b) < c < max(a, b):
            c = (a + b) / 2
        if c in (a, b):
            break
        fc = float(value(c))
        if fc == 0.0:
            return c
        if (fc > 0) == (fa > 0):
            a, fa = c, fc
        else:
            b, fb = c, fc
    return b


def _of(prices: object, coin: str) -> dict[str, Number]:
    return {key: price for key, price in prices.items() if key.partition("/")[0] == coin}  # type: ignore[attr-defined]
