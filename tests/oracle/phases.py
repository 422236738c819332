"""The phases of a liquidation, alike wherever positions stand in for each other (rule book section 7; multi-currency
section 8): hedged pairs of one contract, pairs of opposite delta, then what frees most.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.oracle.book import Book, Position, Prices
from tests.oracle.contract import ONE

Forced = list[tuple[Any, Decimal, str]]
"""(position, contracts to close, name of the step)."""


def hedged_pair(book: Book, held: list[Position]) -> Forced:
    """Phase 1: long and short of the same contract against each other, first symbol first."""
    for position in held:
        other = book.positions.get((position.contract.symbol, "cross", "short"))
        if position.side == "long" and other is not None:
            both = min(position.size, -other.size)
            return [(position, both, "hedged pair"), (other, both, "hedged pair")]
    return []


def delta_pair(held: list[Position], marks: Prices, margin: Callable[[Position], Decimal],
               cut: Callable[[Position], Decimal]) -> Forced:
    """Phase 2: a long and a short of one coin in different contracts, cut by the same delta; on each side the larger
    maintenance margin first. The size of a cut is one forced order of the larger of the two, as far as the other side
    reaches (the engine's documented choice: README, `ladder.delta_neutral`, graded inferred).
    """
    for coin in sorted({position.contract.coin for position in held}):
        here = [position for position in held if position.contract.coin == coin]
        longs = [position for position in here if position.size > 0]
        shorts = [position for position in here if position.size < 0]
        if not longs or not shorts:
            continue
        long = max(longs, key=margin)
        short = max(shorts, key=margin)
        first = max((long, short) if long.key < short.key else (short, long), key=margin)
        delta = min(
            first.contract.coins(cut(first), marks[first.contract.symbol]),
            *(position.contract.coins(position.size, marks[position.contract.symbol]) for position in (long, short)),
        )
        cuts = [(position, delta_lots(position, delta, marks), "delta-neutral pair") for position in (long, short)]
        if all(contracts for _, contracts, _ in cuts):
            return cuts
    return []


def delta_lots(position: Position, delta: Decimal, marks: Prices) -> Decimal:
    """So many coins in whole lots of a contract."""
    contracts = delta / position.contract.coins(ONE, marks[position.contract.symbol])
    return position.contract.whole_lots(contracts + position.contract.lot * Decimal("1e-9"))


def largest_relief(held: list[Any], cut: Callable[[Any], Decimal],
                   relief: Callable[[Any, Decimal], Decimal]) -> Forced:
    """Phase 3: the one forced order, down one tier or whole, that frees the largest requirement, ties by symbol.

    Read before the order's own fee and penalty; a resting order that the cut lets open counts (the engine's documented
    choice, `ladder.unhedged_largest_relief`; that such an order is cancelled next is not foreseen).
    """
    cuts = [(position, cut(position)) for position in held]
    return [(*max(cuts, key=lambda one: relief(*one)), "unhedged position")] if cuts else []
