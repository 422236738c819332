"""The oracle's account: cash, positions, resting orders, and the two lists it tells its story in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from tests.oracle.contract import ZERO, Contract
from tests.oracle.era import Era
from tests.oracle.option import Option, OptionPosition

Key = tuple[str, str, str]
"""(symbol, isolated | cross, net | long | short)."""
Prices = Mapping[str, Decimal]


@dataclass
class Position:
    """`size` is signed. `margin` is what an isolated position has posted."""

    contract: Contract
    mode: str
    side: str
    leverage: Decimal
    size: Decimal = ZERO
    entry: Decimal = ZERO
    margin: Decimal = ZERO

    @property
    def key(self) -> Key:
        return self.contract.symbol, self.mode, self.side

    def upl(self, marks: Prices) -> Decimal:
        return self.contract.profit(self.size, self.entry, marks[self.contract.symbol])

    def value(self, marks: Prices) -> Decimal:
        return self.contract.value(self.size, marks[self.contract.symbol])

    def initial_at_entry(self) -> Decimal:
        """Initial margin of an isolated position: fixed at the entry price (rule book 3.1)."""
        return self.contract.value(self.size, self.entry) / self.leverage


@dataclass
class Order:
    """A resting limit order, or one at the market (its price is then where it trades)."""

    id: int
    contract: Contract
    buy: bool
    size: Decimal
    price: Decimal
    mode: str
    side: str
    leverage: Decimal
    reduce_only: bool

    @property
    def key(self) -> Key:
        return self.contract.symbol, self.mode, self.side

    @property
    def only_closes(self) -> bool:
        """Reduce-only, or against its side in hedge mode."""
        return self.reduce_only or (self.side == "long" and not self.buy) or (self.side == "short" and self.buy)


@dataclass
class SpotOrder:
    """A resting spot order of an account that stands behind its debts: it gives one coin and takes the other."""

    id: int
    base: str
    quote: str
    lot: Decimal
    buy: bool
    size: Decimal
    price: Decimal

    def gives(self) -> tuple[str, Decimal]:
        return (self.quote, self.size * self.price) if self.buy else (self.base, self.size)

    def takes(self, fee: Decimal) -> tuple[str, Decimal]:
        """What arrives, after the taker fee, which comes out of it (rule book of isolated margin, section 10)."""
        amount = self.size if self.buy else self.size * self.price
        return self.base if self.buy else self.quote, amount * (1 - fee)


@dataclass
class OptionOrder:
    """A resting order of an option, or one at the market: one-way, it closes first and opens with the rest."""

    id: int
    contract: Option
    buy: bool
    size: Decimal
    price: Decimal
    reduce_only: bool
    side = "net"

    @property
    def key(self) -> Key:
        return self.contract.symbol, "cross", "net"

    @property
    def only_closes(self) -> bool:
        return self.reduce_only

    @property
    def signed(self) -> Decimal:
        return self.size if self.buy else -self.size

    def premium(self) -> Decimal:
        """What buying it gives away, in coin; it is frozen while the order rests (multi-currency, section 6)."""
        return self.size * self.contract.unit * self.price if self.buy else ZERO


@dataclass(frozen=True)
class Happening:
    """An event: its name, time, pool, and its numbers and words by name."""

    name: str
    time: int
    pool: str
    numbers: Mapping[str, Decimal]
    words: tuple[object, ...] = ()


@dataclass
class Book:
    """Money, contracts and orders. `flows` holds (kind, currency, account's gain, fund's gain).

    Where the whole account stands behind its debts: `spot` are its resting spot orders, `accrued` the interest not
    deducted yet, `owed` the currencies that it is known to owe, `options` and `option_orders` its cross options.
    """

    cash: dict[str, Decimal]
    positions: dict[Key, Position] = field(default_factory=dict)
    orders: dict[int, Order] = field(default_factory=dict)
    fund: dict[str, Decimal] = field(default_factory=dict)
    flows: list[tuple[str, str, Decimal, Decimal]] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)
    era: Era = field(default_factory=Era)
    spot: dict[int, SpotOrder] = field(default_factory=dict)
    accrued: dict[str, Decimal] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    options: dict[str, OptionPosition] = field(default_factory=dict)
    option_orders: dict[int, OptionOrder] = field(default_factory=dict)

    def withdraw(self, order_id: int) -> None:
        for orders in (self.orders, self.spot, self.option_orders):
            orders.pop(order_id, None)  # type: ignore[attr-defined]

    def held(self, mode: str) -> Iterator[Position]:
        """Positions of a margin mode, by symbol and side."""
        return (self.positions[key] for key in sorted(self.positions) if key[1] == mode)

    def book(self, kind: str, position: Position | None, currency: str, amount: Decimal, fund: Decimal = ZERO) -> None:
        """Money won (or lost): in the margin of an isolated position where one is given, else in cash."""
        if position is not None:
            position.margin += amount
        else:
            self.cash[currency] = self.cash.get(currency, ZERO) + amount
        self.fund[currency] = self.fund.get(currency, ZERO) + fund
        self.flows.append((kind, currency, amount, fund))

    def say(self, name: str, time: int, pool: str, *words: object, **numbers: Decimal) -> None:
        self.happenings.append(Happening(name, time, pool, numbers, words))


AnyOrder = TypeVar("AnyOrder", Order, OptionOrder)


def opening_parts(book: Book, orders: list[AnyOrder]) -> list[tuple[AnyOrder, Decimal]]:
    """What each order opens, in order of arrival. A closing order opens nothing; a one-way order against the position
    first uses the position up, and only what goes through opens (recorded DEMO-ORDER-FREEZE-RULES). What an earlier
    order uses up is not used twice (the engine's documented reading).
    """
    if not orders:
        return []
    left = {key: position.size for key, position in book.positions.items()}
    left |= {option.key: option.size for option in book.options.values()}
    parts = []
    for order in orders:
        if order.only_closes:
            continue
        against = left.get(order.key, ZERO)
        closes = ZERO
        if order.side == "net" and against and (against > 0) != order.buy:
            closes = min(order.size, abs(against))
            left[order.key] = against + closes if order.buy else against - closes
        parts.append((order, order.size - closes))
    return parts
