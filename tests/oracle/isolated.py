"""Isolated margin: each position alone, with what it posted. Rule book sections 3.1, 4.1, 7; recorded items 1 to 9."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from tests.oracle.book import Book, Position, Prices
from tests.oracle.contract import ZERO
from tests.oracle.forced import BREACH, claw_back, force, step_size


def pool_name(position: Position) -> str:
    """The engine's documented name: the symbol, and the side in hedge mode."""
    side = "" if position.side == "net" else f" {position.side}"
    return f"{position.contract.symbol} isolated{side}"


def equity(position: Position, marks: Prices) -> Decimal:
    """Posted margin + unrealised profit at the mark."""
    return position.margin + position.upl(marks)


def maintenance(position: Position, marks: Prices) -> Decimal:
    """Value at the mark x rate of the tier that this position alone reaches (rule book 5.1)."""
    return position.value(marks) * position.contract.rate(position.size)


def closing_fee(position: Position, marks: Prices) -> Decimal:
    """Value at the mark x the account's own taker rate."""
    return position.value(marks) * position.contract.taker


def required(position: Position, marks: Prices) -> Decimal:
    """The ratio's denominator."""
    return maintenance(position, marks) + closing_fee(position, marks)


def liquidate(book: Book, position: Position, marks: Prices, time: int,
              settled: Callable[[], None] = lambda: None) -> None:
    """At a ratio of 1 or less: its orders go, all of them (rule book section 7); then one tier at a time, judged anew
    after every step (item 3); whole in tier 1. A whole close brings the margin to zero: a deficit is refunded (item 9),
    a surplus is returned to cash (`surplus = "returned"`, liquidation.toml, inferred), which may repay what is owed:
    `settled` says so.
    """
    pool, mark, before = pool_name(position), marks[position.contract.symbol], equity(position, marks)
    ratio = before / required(position, marks)
    first = ratio
    gone = [order.id for order in book.orders.values() if order.key == position.key]
    if gone:
        for order_id in gone:
            del book.orders[order_id]
        book.say("OrdersCancelled", time, pool, *gone, margin_ratio=ratio)
    while ratio <= BREACH:
        spare = equity(position, marks) - required(position, marks)
        cut = step_size(book, position, abs(position.size), spare, position.value(marks))
        step = "takeover" if cut == abs(position.size) else "tier step-down"
        force(book, position, cut, mark, time, pool, step, ratio)
        if position.size == 0:
            break
        ratio = equity(position, marks) / required(position, marks)
    else:
        return
    refund = claw_back(book, position, position.contract.settle, time, pool, position.contract.value(cut, mark))
    left = position.margin
    book.cash[position.contract.settle] = book.cash.get(position.contract.settle, ZERO) + left
    del book.positions[position.key]
    settled()
    book.say("TakenOver", time, pool, position.key, margin_ratio=first, loss=before - left, refund=refund)
