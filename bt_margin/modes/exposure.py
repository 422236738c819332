"""What shares a tier: the positions and resting orders of a pool, instrument by instrument."""

from __future__ import annotations

from collections.abc import Iterable

from bt_margin.model.account import Position
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey
from bt_margin.model.light import light
from bt_margin.model.orders import Orders, Queue


@light(frozen=True, slots=True)
class Exposure:
    """All a cross pool holds and rests in one instrument: what shares a tier (recorded: CROSS-MET-2, TIER-PEND).

    Sizes are contracts. Absolute sizes add, nothing nets. Opening orders count, closing ones do not.
    """

    instrument: Instrument
    positions: tuple[Position, ...]
    orders: tuple[Queue, ...]  # all that are not closing ones, whole
    opening: tuple[Queue, ...]  # what of them opens
    held: float  # the positions' sizes
    pending: float  # what opens


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
        symbol = head.instrument.symbol
        instruments.setdefault(symbol, head.instrument)
        if not head.closes:
            resting.setdefault(symbol, []).append(queue)
    for queue in openings:
        opening.setdefault(queue.head.instrument.symbol, []).append(queue)
    found = []
    for symbol in sorted(instruments):
        holds, opens = held.get(symbol, ()), opening.get(symbol, ())
        found.append(Exposure(instruments[symbol], tuple(holds), tuple(resting.get(symbol, ())), tuple(opens),
                              sum([abs(position.size) for position in holds]), sum([queue.size for queue in opens])))
    return tuple(found)


def net_sizes(positions: Iterable[Position]) -> dict[PositionKey, float]:
    """Signed sizes that orders meet, by position. An order of a leg opens or closes whole, whatever is held."""
    return {position.key: position.size for position in positions}


def opening_queues(positions: Iterable[Position], queues: Iterable[Queue]) -> tuple[Queue, ...]:
    """What opens of some queues: each meets its position, if that is among these."""
    net = net_sizes(positions)
    parts = [queue.opening(net.get(queue.head.key, 0.0)) for queue in queues]
    return tuple([part for part in parts if part.ids])
