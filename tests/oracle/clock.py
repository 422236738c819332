"""What the clock does to positions: deleveraging and delivery (rule book of isolated margin, sections 7 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tests.oracle.book import Book, Position, Prices
from tests.oracle.contract import ZERO, exact
from tests.oracle.forced import claw_back
from tests.oracle.option import Option, OptionPosition, intrinsic

FRIDAY = 4
Path = list[tuple[int, Prices]]
"""Where bars ended: between two of them all prices go in a straight line."""


@dataclass(frozen=True)
class Deleveraging:
    """At `time` a share of every position in a contract is closed; `side` long or short, "" both."""

    time: int
    symbol: str
    share: float
    side: str = ""


def deleverage(book: Book, one: Deleveraging, marks: Prices, pool_of: Callable[[Any], str],
               end: Callable[[Position | OptionPosition, Decimal, str], None]) -> None:
    """At the mark, like an ordinary close: no penalty, no loss shared afterwards; an isolated position gets that share
    of its margin back.
    """
    for position in held(book, one.symbol):
        if one.side not in ("", "long" if position.size > 0 else "short"):
            continue
        contract, mark = position.contract, marks[one.symbol]
        lots = contract.lot
        contracts = abs(position.size) * exact(one.share) // lots * lots
        if not contracts:
            continue
        name, change = pool_of(position), -contracts if position.size > 0 else contracts
        freed = ZERO
        if isinstance(position, Position):
            freed = position.margin * contracts / abs(position.size)
        pnl = close(book, position, change, mark, "trade", ZERO)
        if isinstance(position, Position) and position.mode == "isolated" and position.size:
            out = freed + pnl
            position.margin -= out
            book.cash[contract.settle] = book.cash.get(contract.settle, ZERO) + out
        end(position, contracts * mark, name)
        book.say("Deleveraged", one.time, name, position.key, size=change, price=mark, pnl=pnl, fee=ZERO, penalty=ZERO,
                 remaining=position.size, share=exact(one.share))


def deliver(book: Book, time: int, path: Path, minutes: int, pool_of: Callable[[Any], str],
            end: Callable[[Position | OptionPosition, Decimal, str], None]) -> None:
    """Orders of what expires go, positions close at the average of the index, options pay what they are worth there in
    the coin; only an exercise pays a fee, and none a daily that does not expire on a Friday (section 10).
    """
    contracts = {held.contract.symbol: held.contract for held in (
        *book.positions.values(), *book.options.values(), *book.orders.values(), *book.option_orders.values())}
    for symbol, contract in sorted(contracts.items()):
        if contract.expiry != time:
            continue
        gone = [order.id for order in (*book.orders.values(), *book.option_orders.values())
                if order.contract.symbol == symbol]
        for order_id in gone:
            book.withdraw(order_id)
        if gone:
            settle = contract.coin if isinstance(contract, Option) else contract.settle
            book.say("OrdersCancelled", time, settle, *gone)
        if not held(book, symbol):
            continue
        price = average(path, contract.index, time - minutes * 60_000, time)
        fee = ZERO
        if isinstance(contract, Option):
            paid = exact(intrinsic(contract.call, float(price), contract.strike)) / price
            if datetime.fromtimestamp(time / 1000, UTC).weekday() == FRIDAY:
                fee = min(contract.exercise, contract.taker, contract.exercise_cap * paid)
            price = paid
        for position in held(book, symbol):
            name, change = pool_of(position), -position.size
            charged = fee * abs(change) * contract.unit
            pnl = close(book, position, change, price, "settlement", charged)
            option = isinstance(contract, Option)
            end(position, abs(change) * contract.unit * price if option else contract.value(abs(change), price), name)
            book.say("Settled", time, name, position.key, size=change, price=price, pnl=pnl, fee=charged, penalty=ZERO,
                     remaining=ZERO)


def held(book: Book, symbol: str) -> list[Position | OptionPosition]:
    contracts = [position for key, position in sorted(book.positions.items()) if key[0] == symbol]
    return [*contracts, *([book.options[symbol]] if symbol in book.options else [])]


def close(book: Book, position: Position | OptionPosition, change: Decimal, price: Decimal, kind: str,
          fee: Decimal) -> Decimal:
    """Trade a signed change of a position; its profit. Isolated: all in the margin."""
    if isinstance(position, OptionPosition):
        option = position.contract
        pnl = -change * option.unit * (price - position.entry)
        book.book(kind, None, option.coin, -change * option.unit * price)
        book.book("fee", None, option.coin, -fee)
        position.size += change
        if not position.size:
            del book.options[option.symbol]
        return pnl
    contract, purse = position.contract, position if position.mode == "isolated" else None
    pnl = contract.profit(-change, position.entry, price)
    book.book(kind, purse, contract.settle, pnl)
    book.book("fee", purse, contract.settle, -fee)
    position.size += change
    if not position.size:
        del book.positions[position.key]
    return pnl


def end_isolated(book: Book, position: Position, time: int, pool: str, traded: Decimal) -> None:
    """A position that is closed whole: what its margin lacks the insurance fund pays, what is left is cash again."""
    claw_back(book, position, position.contract.settle, time, pool, traded)
    book.cash[position.contract.settle] = book.cash.get(position.contract.settle, ZERO) + position.margin
    position.margin = ZERO


def average(path: Path, index: str, start: int, end: int) -> Decimal:
    """The mean of an index over [start, end], which the path has to cover."""
    assert path[0][0] <= start < end <= path[-1][0], f"{index} is not known over the hour before the delivery"
    total = ZERO
    for (t0, first), (t1, then) in pairwise(path):
        low, high = max(t0, start), min(t1, end)
        if high > low:
            middle = Decimal(low + high) / 2
            price = first[index] + (then[index] - first[index]) * (middle - t0) / (t1 - t0)
            total += price * (high - low)
    return total / (end - start)
