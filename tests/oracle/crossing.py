"""Where along a straight leg a pool first stands at or below a level of its margin ratio."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.oracle.contract import ONE

if TYPE_CHECKING:
    from tests.oracle.book import Prices
    from tests.oracle.replay import Pool

PIECES, COARSE = 24, 12
"""Where no closed form exists a piece is searched in so many parts: with several inverse contracts, of an account."""
FINE = Decimal("1e-18")
"""Of a leg: options have no more digits, a Decimal has."""


def first_below(pool: Pool, level: Decimal, start: Prices, end: Prices, done: Decimal) -> Decimal | None:
    """The first share of the leg from `done` on at which equity <= level x requirement, None where there is none."""

    def at(share: Decimal) -> Prices:
        return between(start, end, share)

    def gap(share: Decimal) -> Decimal:
        marks = at(share)
        return pool.equity(marks) - level * pool.required(marks)

    if pool.ratio(at(done)) is None and pool.ratio(end) is None:
        return None
    if gap(done) <= 0:
        return done
    edges = [done, *sorted(bends(pool, start, end, done)), ONE]
    moving = [c for c in pool.contracts if start[c.symbol] != end[c.symbol]]
    for left, right in pairwise(edges):
        if not pool.straight:
            found = searched(gap, left, right, COARSE)
        elif all(contract.linear for contract in pool.contracts):
            found = straight(gap(left), gap(right), left, right)
        elif len(moving) == 1:
            found = reciprocal(gap(left), gap(right), left, right, start[moving[0].symbol], end[moving[0].symbol])
        else:
            found = searched(gap, left, right)
        if found is not None:
            return found
    return None


def between(start: Prices, end: Prices, share: Decimal) -> Prices:
    """All prices straight; of an option in its coin, what it is worth in USD."""
    if share == ONE:
        return end
    prices = {s: start.get(s, p) + (p - start.get(s, p)) * share for s, p in end.items()}
    for option in end:
        forward = f"forward {option.rsplit('-', 2)[0]}"
        if option[-2:] in ("-C", "-P") and forward in end:
            first, last = (at[option] * at[forward] for at in (start, end))
            prices[option] = (first + (last - first) * share) / prices[forward]
    return prices


def bends(pool: Pool, start: Prices, end: Prices, done: Decimal) -> set[Decimal]:
    """Where the mark passes the price of a resting order: from there on the mark is the dearer of the two."""
    shares = set()
    for symbol, price in pool.kinks:
        if start[symbol] != end[symbol]:
            share = (price - start[symbol]) / (end[symbol] - start[symbol])
            if done < share < ONE:
                shares.add(share)
    return shares


def straight(a: Decimal, b: Decimal, left: Decimal, right: Decimal) -> Decimal | None:
    """Linear contracts: the gap is a straight line of the share."""
    return None if b > 0 else left + (right - left) * a / (a - b)


def reciprocal(a: Decimal, b: Decimal, left: Decimal, right: Decimal, start: Decimal, end: Decimal) -> Decimal | None:
    """One moving inverse contract: the gap is a straight line of 1 / price."""
    if b > 0:
        return None
    x_left, x_right = (1 / (start + (end - start) * share) for share in (left, right))
    x = x_left + (x_right - x_left) * a / (a - b)
    return (1 / x - start) / (end - start)


def searched(gap: Callable[[Decimal], Decimal], left: Decimal, right: Decimal, pieces: int = PIECES) -> Decimal | None:
    """Part by part, then secants and halves in turn, down to the last digits of a float: with several moving inverse
    contracts, of an account.
    """
    low, at_low = left, gap(left)
    for part in range(1, pieces + 1):
        high = left + (right - left) * part / pieces
        at_high = gap(high)
        if at_high <= 0:
            break
        low, at_low = high, at_high
    else:
        return None
    for turn in range(200):
        if at_high == 0 or high - low < FINE:
            break
        middle = low + (high - low) * at_low / (at_low - at_high)
        if turn % 3 == 2 or not low < middle < high:
            middle = (low + high) / 2
        found = gap(middle)
        if found <= 0:
            high, at_high = middle, found
        else:
            low, at_low = middle, found
    return high
