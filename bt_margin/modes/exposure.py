"""What shares a tier: the positions and resting orders of a pool, instrument by instrument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bt_margin.model.account import Position
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey
from bt_margin.model.orders import Orders, Queue


@dataclass(frozen=True, slots=True)
class Exposure:
    """All a cross pool holds and rests in one instrument: what shares a tier (recorded: CROSS-MET-2, TIER-PEND).

    Sizes are contracts. Absolute sizes add, nothing nets. Opening orders count, closing ones do not.
    """

    instrument: Instrument
    positions: tuple[Position, ...]
    orders: tuple[Queue, ...]  # all that are not closing ones, whole
    opening: tuple[Queue, ...]  # what of them opens

    @property
    def held(self) -> float:
        return sum(abs(position.size) for position in self.positions)

    @property
    def pending(self) -> float:
        return sum(queue.size for queue in self.opening)


def exposures(positions: Iterable[Position], orders: Orders, openings: Iterable[Queue]) -> tuple[Exposure, ...]:
    """Group a pool's positions, orders, and what of them opens (`opening_queues`) by instrument, in symbol order."""
    held: dict[str, list[Position]] = {}
    resting: dict[str, list[Queue]] = {}
    opening: dict[str, list[Queue]] = {}
    instruments: dict[str, Instrument] = {}
    for position in positions:
        held.setdefault(position.symbol, []).append(position)
        instruments[position.symbol] = position.instrument
    for queue in orders.queues:
        head = queue.head
        instruments.setdefault(head.symbol, head.instrument)
        if not head.closes:
            resting.setdefault(head.symbol, []).append(queue)
    for queue in openings:
        opening.setdefault(queue.head.symbol, []).append(queue)
    return tuple(
        Exposure(instruments[symbol], tuple(held.get(symbol, ())), tuple(resting.get(symbol, ())),
                 tuple(opening.get(symbol, ())))
        for symbol in sorted(instruments)
    )


def net_sizes(positions: Iterable[Position]) -> dict[PositionKey, float]:
    """Signed sizes that orders meet, by position. An order of a leg opens or closes whole, whatever is held."""
    return {position.key: position.size for position in positions}


def opening_queues(positions: Iterable[Position], queues: Iterable[Queue]) -> tuple[Queue, ...]:
    """What opens of some queues: each meets its position, if that is among these."""
    net = net_sizes(positions)
    parts = (queue.opening(net.get(queue.head.key, 0.0)) for queue in queues)
    return tuple(part for part in parts if len(part))
