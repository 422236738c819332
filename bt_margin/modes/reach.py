"""How far the prices of one coin may move before something of an account pool reaches zero: no closed form exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bt_margin.errors import InputError
from bt_margin.model.account import Position
from bt_margin.model.market import Market
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.options import moved

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

FIRST, GROWTH, HIGHEST, LOWEST = 0.0005, 1.3, 9.0, -0.999


def coin_moved(market: Market, positions: Iterable[Position], coin: str, shift: float) -> Market:
    """Every price of one coin moved by `shift` (-0.1: 10 % down): its marks, last prices, indexes, forwards."""
    own = [p for p in positions if p.instrument.base == coin]
    bare = replace(market, marks=_of(market.marks, coin), lasts=_of(market.lasts, coin),
                   indexes=_of(market.indexes, coin), forwards=_of(market.forwards, coin))
    after = moved(bare, own, shift)
    return replace(
        market, marks={**market.marks, **after.marks}, lasts={**market.lasts, **after.lasts},
        indexes={**market.indexes, **after.indexes}, forwards={**market.forwards, **after.forwards},
    )


def reach(
    pool: Pool, coin: str, market: Market, rules: Rules, measure: Callable[[Judgement], float]
) -> tuple[float | None, str]:
    """The smallest move of a coin's prices, up or down, at which `measure` is zero, and why the search ended early.

    (None, "") where no move between -99.9 % and +900 % does it; (None, reason) where the rules end before that, as for
    a debt beyond the largest known tier.
    """

    def value(shift: float) -> float:
        return measure(judge(pool, coin_moved(market, pool.positions, coin, shift), rules))

    now = measure(judge(pool, market, rules))
    if now == 0.0:
        return 0.0, ""
    found: list[float] = []
    why = ""
    for direction in (-1.0, 1.0):
        near, at_near, step = 0.0, now, FIRST
        while True:
            far = max(LOWEST, near - step) if direction < 0 else min(HIGHEST, near + step)
            if far == near or any(abs(hit) <= abs(near) for hit in found):
                break
            try:
                at_far = value(far)
            except InputError as error:
                why = f"prices of {coin} moved by {far:+.1%}: {error}"
                break
            if at_far == 0.0 or (at_far > 0) != (now > 0):
                found.append(_root(value, near, at_near, far, at_far))
                break
            near, at_near, step = far, at_far, step * GROWTH
    return (min(found, key=abs), "") if found else (None, why)


def _root(value: Callable[[float], float], a: float, fa: float, b: float, fb: float) -> float:
    """Where a piecewise straight function crosses zero, between a and b; a jump across zero counts as a crossing."""
    for turn in range(120):
        if fb == 0.0 or abs(b - a) <= 1e-15 * max(1.0, abs(b)):
            break
        c = (a * fb - b * fa) / (fb - fa) if turn % 3 < 2 else (a + b) / 2
        if not min(a, b) < c < max(a, b):
            c = (a + b) / 2
        if c in (a, b):
            break
        fc = value(c)
        if fc == 0.0:
            return c
        if (fc > 0) == (fa > 0):
            a, fa = c, fc
        else:
            b, fb = c, fc
    return b


def _of(prices: object, coin: str) -> dict[str, float]:
    return {key: price for key, price in prices.items() if key.partition("/")[0] == coin}  # type: ignore[attr-defined]
