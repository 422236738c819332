"""May an order open, and what a trade does to money and contracts. Rule book section 6; recorded Part B."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from decimal import Decimal

from tests.oracle import cross
from tests.oracle.book import Book, Order, Position, Prices, opening_parts
from tests.oracle.contract import ZERO
from tests.oracle.forced import refund_cash


@dataclass(frozen=True)
class Refused:
    """Why not, and how much money was missing (zero where money was not the reason)."""

    reason: str
    shortfall: Decimal = ZERO


def with_order(book: Book, order: Order) -> Book:
    """The book as if the order rested (in the place of its former self)."""
    orders = {**book.orders, order.id: order}
    return replace(book, orders=orders)


def cut(book: Book, order: Order) -> Order | Refused:
    """A closing order is cut to the position (DEMO-OVER-CLOSE-CLIP-1)."""
    held = book.positions.get(order.key)
    if held is None or held.size == 0 or (held.size > 0) == order.buy:
        return Refused("nothing to close")
    order = copy(order)
    order.size = min(order.size, abs(held.size))
    return order


def check(book: Book, order: Order, marks: Prices, filling: bool = False) -> Order | Refused:
    """The order as the venue takes it, or why not.

    At submission what earlier orders use up of a position is not there (rule book 6.2 counts all sells of a long); at
    its fill an order meets the position before those that still rest.
    """
    if order.only_closes:
        return cut(book, order)
    if order.leverage > order.contract.tiers[0].leverage:
        return Refused("leverage")  # 59102
    part = opens(book, order, filling)
    if part:
        if within(book, order, filling) > order.contract.most_contracts(order.leverage):
            return Refused("size")  # 51004
        left = headroom(with_order(book, order), order, part, marks)
        if left < 0:
            return Refused("funds", -left)
    return order


def opens(book: Book, order: Order, filling: bool) -> Decimal:
    """The opening part of one order, given the position it meets and the orders that meet it before."""
    queue = [] if filling else others(book, order)
    return next((part for other, part in opening_parts(book, [*queue, order]) if other is order), ZERO)


def others(book: Book, order: Order) -> list[Order]:
    return [other for other in book.orders.values() if other.id != order.id and other.key == order.key]


def within(book: Book, order: Order, filling: bool) -> Decimal:
    """Position + same-side opening orders + this one (DEMO-LEVERAGE-LIMIT-2, -3)."""
    total = opens(book, order, filling)
    total += sum((part for other, part in opening_parts(book, others(book, order)) if other.buy == order.buy), ZERO)
    held = book.positions.get(order.key)
    return total + (abs(held.size) if held is not None and (held.size > 0) == order.buy else ZERO)


def headroom(whole: Book, order: Order, part: Decimal, marks: Prices) -> Decimal:
    """Free margin (item 21), less a cross order's loss; isolated openings also need it in cash, which unrealised
    profit is not (rule book section 2 leaves losses and margins open: the engine's documented reading).
    """
    currency = order.contract.settle
    free = free_margin(whole, currency, marks)
    if order.mode == "cross" and not whole.era.order_loss:
        return free
    if order.mode == "cross":
        return free - cross.order_loss(order, part, marks)
    needed = cross.isolated_orders(whole, currency, marks) + cross.order_fees(whole, currency, marks, ("isolated",))
    return min(free, whole.cash.get(currency, ZERO) - needed)


def free_margin(book: Book, currency: str, marks: Prices) -> Decimal:
    """Cash + cross upl - in use (item 21)."""
    profit = cross.upl(book, currency, marks)
    return book.cash.get(currency, ZERO) + profit - cross.in_use(book, currency, marks)


def fill(book: Book, order: Order, size: Decimal, price: Decimal, maker: bool, marks: Prices,
         time: int) -> Refused | None:
    """Trade, if the order is still taken. A refused order is withdrawn."""
    asked = copy(order)
    asked.size, asked.price = size, price
    answer = check(book, asked, marks, filling=True)
    if isinstance(answer, Refused):
        book.orders.pop(order.id, None)
        return answer
    trade(book, order, answer.size, size, price, maker)
    currency = order.contract.settle
    refund_cash(book, currency, time, currency, order.contract.value(size, price))
    return None


def trade(book: Book, order: Order, taken: Decimal, size: Decimal, price: Decimal, maker: bool) -> None:
    """First against the position it meets, then open the rest. `taken` of the `size` that came off the order."""
    rate = order.contract.maker if maker else order.contract.taker
    held, left = book.positions.get(order.key), taken
    if held is not None and held.size and (held.size > 0) != order.buy:
        closing = min(left, abs(held.size))
        close(book, held, closing, price, rate)
        left -= closing
    if left:
        open_(book, order, left, price, rate)
    resting = book.orders.get(order.id)
    if resting is not None:
        resting.size -= size
        if resting.size <= 0:
            del book.orders[order.id]


def close(book: Book, held: Position, size: Decimal, price: Decimal, rate: Decimal) -> None:
    """Margin is freed in proportion, cash += freed + pnl - fee, the entry does not move (DEMO-CASHFLOW-PARTIAL)."""
    contract, signed = held.contract, size if held.size > 0 else -size
    freed = held.margin * size / abs(held.size)
    book.book("trade", None, contract.settle, contract.profit(signed, held.entry, price))
    book.book("fee", None, contract.settle, -contract.value(size, price) * rate)
    held.margin -= freed
    book.cash[contract.settle] += freed
    held.size -= signed
    if held.size == 0:
        del book.positions[held.key]


def open_(book: Book, order: Order, size: Decimal, price: Decimal, rate: Decimal) -> None:
    """Isolated takes margin + fee from cash, cross only the fee (item 25)."""
    contract = order.contract
    held = book.positions.setdefault(order.key, Position(contract, order.mode, order.side, order.leverage))
    held.entry = contract.average(abs(held.size), held.entry, size, price) if held.size else price
    held.size += size if order.buy else -size
    held.leverage = order.leverage
    value = contract.value(size, price)
    book.book("fee", None, contract.settle, -value * rate)
    if order.mode == "isolated":
        held.margin += value / order.leverage
        book.cash[contract.settle] -= value / order.leverage


def add_margin(book: Book, held: Position, amount: Decimal, marks: Prices, free: Decimal) -> Refused | None:
    """In: no more than is free in cash (`free`). Out: no more than margin - initial margin at entry + min(0, upl)
    (DEMO-REDUCIBLE-1..3, 59301).
    """
    currency = held.contract.settle
    if amount > 0 and amount > free:
        return Refused("funds")
    if amount < 0 and -amount > held.margin - held.initial_at_entry() + min(ZERO, held.upl(marks)):
        return Refused("reducible")
    held.margin += amount
    book.cash[currency] = book.cash.get(currency, ZERO) - amount
    return None


def free_cash(book: Book, currency: str, marks: Prices) -> Decimal:
    """What may leave cash: free margin, as far as it is cash."""
    return min(max(ZERO, free_margin(book, currency, marks)), book.cash.get(currency, ZERO))


def set_leverage(book: Book, held: Position, leverage: Decimal, marks: Prices, free: Decimal) -> Refused | None:
    """Isolated: where margin + upl covers the need at the new leverage nothing moves, else margin becomes need - upl
    and cash pays the top-up (DEMO-LEVERAGE-CHANGE-1..5). Cross: only the initial margin changes. Above what the size
    allows: refused (DEMO-LEVERAGE-LIMIT-4).
    """
    contract = held.contract
    if abs(held.size) > contract.most_contracts(leverage):
        return Refused("leverage")
    if held.mode == "isolated":
        need, upl = contract.value(held.size, held.entry) / leverage, held.upl(marks)
        top_up = need - upl - held.margin
        if top_up > 0:
            if top_up > free:
                return Refused("funds")
            held.margin += top_up
            book.cash[contract.settle] -= top_up
    held.leverage = leverage
    return None
