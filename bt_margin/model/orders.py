"""Orders that rest: kept as queues, one after another where they meet the same position from the same side.

What thousands of orders ask for together is a sum over columns of numbers. The sums of a queue run from the first order
that came to the last, so that they are the same to the last bit however the queue came to its orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import field, replace
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bt_margin.model.ledger import PositionKey
from bt_margin.model.light import light
from bt_margin.model.market import Market
from bt_margin.model.number import Number
from bt_margin.model.order import Order

Array = NDArray[np.float64]


def running(values: Array, start: float = 0.0) -> float:
    """`start` and the values, added one by one from the first to the last; (n,)."""
    if len(values) == 1:
        return start + float(values[0])
    return float(np.add.accumulate(np.concatenate([[start], values]))[-1])


def added(each: Callable[..., Any], prices: Array | Sequence[Number], *columns: Array) -> Number:
    """`each` (price, of the columns) of every order, added up in order of arrival: all orders at once, or where that is
    an array over instants one after another, which comes to the same to the last bit."""
    if not len(prices):
        return 0.0
    if isinstance(prices, np.ndarray):
        first = each(prices[0], *(column[0] for column in columns))
        if not isinstance(first, np.ndarray):
            return float(first) if len(prices) == 1 else running(each(prices, *columns))
    found: Number = 0.0
    for at, price in enumerate(prices):
        found = found + each(price, *(column[at] for column in columns))
    return found


@light(frozen=True, eq=False)
class Queue:
    """Orders that meet one position from one side, all of them closing ones or none, in order of arrival.

    A value: what changes it makes another.
    """

    orders: tuple[Order, ...]
    ids: tuple[int, ...]
    arrivals: tuple[int, ...]
    currencies: frozenset[str]  # more than one only where orders of a margin pair say so
    _columns: Array | None = None
    head: Order = field(init=False, repr=False)
    """The first: it shares instrument, key, side and intent with all. An empty queue has none."""

    def __post_init__(self) -> None:
        if self.orders:
            object.__setattr__(self, "head", self.orders[0])

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def columns(self) -> Array:
        """A row each of sizes, contract sizes, prices (NaN: at the market) and leverages, (4, orders)."""
        return _columns_of(self.orders) if self._columns is None else self._columns

    @property
    def sizes(self) -> Array:
        return self._row(0)

    @property
    def prices(self) -> Array:
        return self._row(2)

    @property
    def leverages(self) -> Array:
        return self._row(3)

    def _row(self, at: int) -> Array:
        row: Array = self.columns[at]
        return row

    @cached_property
    def units(self) -> Array:
        """What each order stands for: size x contract size."""
        return self.sizes * self._row(1)

    @cached_property
    def size(self) -> float:
        """All sizes together."""
        return float(self.head.size) if len(self) == 1 else running(self.sizes)

    @cached_property
    def price_range(self) -> tuple[float, float]:
        """Lowest and highest price; NaN where an order is at the market."""
        if len(self) == 1:
            price = math.nan if self.head.price is None else self.head.price
            return price, price
        return float(np.min(self.prices)), float(np.max(self.prices))

    def limits(self, market: Market) -> Array | list[Number]:
        """Their prices, the last trade at the market: (orders,); a list where that is an array over instants."""
        if self.price_range[0] == self.price_range[0]:
            return self.prices
        last = market.last(self.head.symbol)
        if isinstance(last, np.ndarray):
            return [last if price != price else price for price in self.prices]
        return np.where(np.isnan(self.prices), last, self.prices)

    def plus(self, order: Order, arrival: int) -> Queue:
        """With one order more, behind those that came before it."""
        if not len(self):
            return Queue((order,), (order.id,), (arrival,), frozenset({order.currency}))
        at = len(self)
        while at and self.arrivals[at - 1] > arrival:
            at -= 1
        return Queue(
            (*self.orders[:at], order, *self.orders[at:]), (*self.ids[:at], order.id, *self.ids[at:]),
            (*self.arrivals[:at], arrival, *self.arrivals[at:]),
            self.currencies if order.currency in self.currencies else self.currencies | {order.currency},
            np.concatenate([self.columns[:, :at], _columns_of((order,)), self.columns[:, at:]], axis=1),
        )

    def without(self, order_id: int) -> Queue:
        """With one order less."""
        at = self.ids.index(order_id)
        if len(self) == 1:
            return _NOBODY
        return Queue(
            (*self.orders[:at], *self.orders[at + 1:]), (*self.ids[:at], *self.ids[at + 1:]),
            (*self.arrivals[:at], *self.arrivals[at + 1:]), self._taken((*self.orders[:at], *self.orders[at + 1:])),
            np.delete(self.columns, at, axis=1),
        )

    def before(self, order_id: int) -> Queue:
        """The orders that came before one of the queue."""
        at = self.ids.index(order_id)
        if not at:
            return _NOBODY
        return Queue(self.orders[:at], self.ids[:at], self.arrivals[:at], self._taken(self.orders[:at]),
                     self.columns[:, :at])

    def _taken(self, orders: Sequence[Order]) -> frozenset[str]:
        """What some of its orders take."""
        return self.currencies if len(self.currencies) == 1 else frozenset(order.currency for order in orders)

    def only(self, currencies: Set[str]) -> Queue:
        """Those that take one of some currencies."""
        if self.currencies <= currencies:
            return self
        kept = [at for at, order in enumerate(self.orders) if order.currency in currencies]
        orders = tuple(self.orders[at] for at in kept)
        return Queue(orders, tuple(o.id for o in orders), tuple(self.arrivals[at] for at in kept),
                     frozenset(o.currency for o in orders), self.columns[:, kept])

    def by_currency(self) -> Iterator[tuple[str, Queue]]:
        """Those that take each currency."""
        for currency in sorted(self.currencies):
            yield currency, self.only({currency})

    def opening(self, held: float) -> Queue:
        """What of it opens, where it meets a position of this signed size: what earlier orders use up of the position
        is not used twice."""
        return self._met(held)[0]

    def openings(self, held: float) -> Array:
        """What of each order opens, 0 where nothing: (orders,)."""
        met = self.opening(held)
        if met is self:
            return self.sizes
        opens = dict(zip(met.ids, met.sizes.tolist(), strict=True))
        return np.array([opens.get(order_id, 0.0) for order_id in self.ids])

    def leaves(self, held: float) -> float:
        """What it leaves of a position of this signed size."""
        return self._met(held)[1]

    def _met(self, held: float) -> tuple[Queue, float]:
        if not self.ids or (held * self.orders[0].sign >= 0 and not self.orders[0].closes):
            return self, held
        if held not in self._last_met:
            self._last_met.clear()
            self._last_met[held] = self._meet(held)
        return self._last_met[held]

    @cached_property
    def _last_met(self) -> dict[float, tuple[Queue, float]]:
        return {}

    def _meet(self, held: float) -> tuple[Queue, float]:
        head = self.orders[0]
        if head.closes:
            return _NOBODY, held
        if len(self.ids) == 1:
            size, left = head.meets(held)
            if size <= 0:
                return _NOBODY, left
            return Queue((replace(head, size=size),), self.ids, self.arrivals, self.currencies), left
        columns, left = self.columns.copy(), held
        kept: list[int] = []
        orders: list[Order] = []
        for at, order in enumerate(self.orders):
            if left == 0.0:
                kept += range(at, len(self))
                orders += self.orders[at:]
                break
            size, left = order.meets(left)
            if size > 0:
                columns[0, at] = size
                kept.append(at)
                orders.append(replace(order, size=size))
        ids, arrivals = (tuple(row[at] for at in kept) for row in (self.ids, self.arrivals))
        return (Queue(tuple(orders), ids, arrivals, self._taken(orders), columns[:, kept]) if kept else _NOBODY), left


def _columns_of(orders: Sequence[Order]) -> Array:
    rows = [(order.size, order.instrument.contract_size, math.nan if order.price is None else order.price,
             order.leverage) for order in orders]
    return np.array(rows, dtype=np.float64).reshape(len(orders), 4).T


QueueKey = tuple[PositionKey, str, bool]
"""Which orders queue together: those of one position, side and intent (True: they only close)."""


def _queue_of(order: Order) -> QueueKey:
    return order.key, order.side, order.closes


def in_order(queues: Iterable[Queue]) -> tuple[Order, ...]:
    """The orders of some queues, in order of arrival."""
    queues = tuple(queues)
    if len(queues) == 1:
        return queues[0].orders
    arrived = sorted(chain.from_iterable(zip(q.arrivals, q.orders, strict=True) for q in queues), key=lambda x: x[0])
    return tuple(order for _, order in arrived)


class Orders:
    """Resting orders, by queue. A value: what changes it makes another, and equal ones hold the same orders in the same
    order of arrival."""

    __slots__ = ("_arrived", "_queues", "queues")
    # the last orders that one was tried with, that one, and what came of it: one for all, as each of a thousand that
    # kept its own would hold all that came after it
    _tried: ClassVar[tuple[Orders, Order, Orders] | None] = None

    def __init__(self, queues: dict[QueueKey, Queue] | None = None, arrived: int = 0) -> None:
        self._queues = queues or {}
        self._arrived = arrived
        self.queues: Collection[Queue] = self._queues.values()  # by the arrival of what made them

    @classmethod
    def of(cls, *orders: Order) -> Orders:
        """These orders, as they come."""
        found = cls()
        for order in orders:
            found = found.plus(order)
        return found

    def __reduce__(self) -> tuple[type[Orders], tuple[dict[QueueKey, Queue], int]]:
        return Orders, (self._queues, self._arrived)  # a view of them does not travel

    def __iter__(self) -> Iterator[Order]:
        """In order of arrival."""
        return iter(in_order(self.queues))

    def __len__(self) -> int:
        return sum(map(len, self.queues))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Orders):
            return self is other
        return len(self) == len(other) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def queue(self, key: PositionKey, side: str, closes: bool = False) -> Queue:
        """The queue of a position, side and intent; an empty one where nobody waits."""
        return self._queues.get((key, side, closes), _NOBODY)

    def find(self, order_id: int) -> Order | None:
        """The order of an id."""
        return next((order for queue in self.queues for order in queue.orders if order.id == order_id), None)

    def plus(self, order: Order) -> Orders:
        """With one more, the last to arrive: the very same for the very same order, which is tried before it rests."""
        last = Orders._tried
        if last is None or last[0] is not self or last[1] is not order:
            last = Orders._tried = (self, order, self._with(order, self._arrived + 1))
        return last[2]

    def exchanged(self, former: Order, order: Order) -> Orders:
        """With one in the place of another, of its queue or of another one."""
        key = _queue_of(former)
        queue = self._queues[key]
        arrival = queue.arrivals[queue.ids.index(former.id)]
        if _queue_of(order) != key:
            return self.without(former)._with(order, arrival)
        return Orders({**self._queues, key: queue.without(former.id).plus(order, arrival)}, self._arrived)

    def without(self, order: Order) -> Orders:
        """With one less. Raises KeyError or ValueError where it is not there."""
        queues, key = dict(self._queues), _queue_of(order)
        queue = queues[key]
        left = queue.without(order.id)
        if left.ids:
            queues[key] = left
        else:
            del queues[key]
        found = Orders(queues, self._arrived)
        if queue.orders[-1] is order and queue.arrivals[-1] == self._arrived:  # the last to arrive: tried once more,
            Orders._tried = (found, order, self)  # as when it fills, it is where it was
        return found

    def _with(self, order: Order, arrival: int) -> Orders:
        queues, key = dict(self._queues), _queue_of(order)
        queues[key] = queues.get(key, _NOBODY).plus(order, arrival)
        return Orders(queues, max(self._arrived, arrival))

    def each(self, change: Callable[[Queue], Queue | None]) -> Orders:
        """What becomes of every queue; None, or nothing left in it: it is not among them."""
        if not self._queues:
            return self
        queues, same = {}, True
        for key, queue in self._queues.items():
            changed = change(queue)
            same = same and changed is queue
            if changed is not None and changed.ids:
                queues[key] = changed
        return self if same else Orders(queues, self._arrived)

    def of_key(self, key: PositionKey) -> Orders:
        """Those of a position."""
        return Orders({at: queue for at, queue in self._queues.items() if at[0] == key}, self._arrived)

    def of_family(self, family: str) -> Orders:
        """Those of the instruments that share position tiers."""
        return self.among(lambda order: order.instrument.family == family)

    def among(self, keep: Callable[[Order], bool]) -> Orders:
        """The queues whose head is such an order: for what all of a queue share."""
        return self.each(lambda queue: queue if keep(queue.head) else None)

    def paid_in(self, currency: str) -> Orders:
        """The orders that take a currency."""
        return self.each(lambda queue: queue.only({currency}) if currency in queue.currencies else None)

    def currencies(self) -> set[str]:
        """What they take."""
        return {currency for queue in self.queues for currency in queue.currencies}


_NOBODY = Queue((), (), (), frozenset())
"""An empty queue: what every one begins as."""
