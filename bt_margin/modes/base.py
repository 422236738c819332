"""Pools, margin modes, and the judgement of one pool.

The ratio is equity / (maintenance margin + liquidation fee). OKX's ratio FALLS as danger rises: a warning at or
below 3, liquidation at or below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from operator import is_
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec, TypeVar

from bt_margin.model.account import Account, Position
from bt_margin.model.assessment import Charge
from bt_margin.model.borrowing import Holdings
from bt_margin.model.instrument import Number
from bt_margin.model.ledger import PositionKey
from bt_margin.model.light import light
from bt_margin.model.market import Market
from bt_margin.model.number import total
from bt_margin.model.order import Order
from bt_margin.model.orders import Orders, Queue
from bt_margin.modes.exposure import Exposure, exposures, opening_queues

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


@light(frozen=True)
class Pool:
    """What stands in for each other. `cash` is the currency's balance, or an isolated position's posted margin.

    A pool that is the whole account has `holdings` (all its currencies) instead, and is judged in USD.
    """

    name: str
    mode: MarginMode
    currency: str
    cash: float
    positions: tuple[Position, ...]
    orders: Orders = field(default_factory=Orders)
    holdings: Holdings | None = None

    @property
    def at_risk(self) -> bool:
        """True where it can be liquidated: it has positions, or is an account with a debt, or with orders, which may
        make one."""
        if self.positions or self.holdings is None:
            return bool(self.positions)
        return bool(self.orders.queues or self.holdings.owed())

    @property
    def needs_margin(self) -> bool:
        """True while it has positions that need margin: long options do not, where they are no part of a unit."""
        return any(not p.instrument.is_option or p.size < 0 for p in self.positions)

    @cached_property
    def cross_orders(self) -> Orders:
        """Its orders that rest on the pool itself, not on margin of their own."""
        return self.orders.among(lambda order: order.margin_mode == "cross")

    @cached_property
    def exposures(self) -> tuple[Exposure, ...]:
        """Its positions and cross orders by instrument, in symbol order."""
        return exposures(self.positions, self.cross_orders, self.openings)

    @cached_property
    def openings(self) -> tuple[Queue, ...]:
        """What its cross orders open."""
        return opening_queues(self.positions, self.cross_orders.queues)

    def without_order(self, order_id: int) -> Pool:
        """The pool without an order, if it is there."""
        there = self.orders.find(order_id)
        return self if there is None else replace(self, orders=self.orders.without(there))

    def with_order(self, order: Order) -> Pool:
        """The pool with an order behind all others, its former self not among them."""
        return replace(self, orders=self.without_order(order.id).orders.plus(order))

    @property
    def bare(self) -> Pool:
        """The pool without its orders."""
        return replace(self, orders=Orders()) if self.orders else self

    def without(self, key: PositionKey, size: float, market: Market | None = None) -> Pool:
        """The pool after `size` (signed change) of one position came off: a what-if, not a booking.

        With a market, what it was worth there is in the balance of an account pool: what it had gained or lost, what an
        option was paid for.
        """
        left, holdings = [], self.holdings
        for position in self.positions:
            if position.key == key:
                remaining = position.reduced(size)
                if market is not None and holdings is not None:
                    worth = float(position.value(market)) * abs(size / position.size)
                    holdings = holdings.plus(position.currency, worth)
                if remaining is not None:
                    left.append(remaining)
            else:
                left.append(position)
        return replace(self, positions=tuple(left), holdings=holdings)


_CUT: dict[tuple[str, str], Pool] = {}


def as_cut(pool: Pool) -> Pool:
    """A pool of an account, or the one that was cut last under its name where that is of the very same parts: an order
    that was tried now rests, and all that was found for the pool stands."""
    name = pool.mode.name, pool.name
    last = _CUT.get(name)
    if last is None or not (
        _are((last.mode, last.cash, last.orders), (pool.mode, pool.cash, pool.orders))
        and _are(last.positions, pool.positions)
        and (last.holdings is pool.holdings or _same_money(last.holdings, pool.holdings))
    ):
        last = _CUT[name] = pool
    return last


def _are(ones: Collection[object], others: Collection[object]) -> bool:
    """True where they are the very same objects: numbers may be arrays over instants, which have no one equality."""
    return len(ones) == len(others) and all(map(is_, ones, others))


def _same_money(one: Holdings | None, other: Holdings | None) -> bool:
    return one is not None and other is not None and (
        _same_amounts(one.balances, other.balances) and _same_amounts(one.accrued, other.accrued)
        and (one.borrowing, one.spot_use, one.option_value) == (other.borrowing, other.spot_use, other.option_value)
    )


def _same_amounts(ones: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return list(ones) == list(others) and _are(ones.values(), others.values())


@dataclass(frozen=True, slots=True)
class CancelOrders:
    """Withdraw these resting orders."""

    orders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Trade `size` (signed) of a position by force, at the market."""

    key: PositionKey
    size: float
    step: str


@dataclass(frozen=True, slots=True)
class Convert:
    """Sell some of one coin by force for what takes `amount` coins off a debt in another; fee, and with `penalty` that
    of a liquidation, on top."""

    sell: str
    buy: str
    amount: float
    penalty: bool
    step: str


Reduction = CancelOrders | Close | Convert
Step = Callable[[Pool, Market, "Rules"], tuple[Reduction, ...]]
"""One step of a ladder: what to do next to a pool in breach, () when the step has nothing (more) to do."""


def keep_orders(pool: Pool, market: Market, rules: Rules) -> tuple[int, ...]:
    """Risk control that cancels nothing before a liquidation."""
    return ()


def never_short(pool: Pool, market: Market, rules: Rules) -> Number:
    """What `keep_orders` has to spare."""
    return math.inf


@dataclass(frozen=True, slots=True)
class MarginMode:
    """Reading along the fields is the definition of a mode.

    `early` names the orders that risk control cancels before a liquidation, `spare` says how far that is away: it does
    so only below zero. `whole`: one pool, the account, stands
    behind everything; a coin that is short is borrowed.
    """

    name: str
    pools: Callable[[Account], Iterable[Pool]]
    equity: Callable[[Pool, Market, Rules], Number]
    charges: Callable[[Pool, Market, Rules], tuple[Charge, ...]]
    ladder: tuple[Step, ...]
    early: Callable[[Pool, Market, Rules], tuple[int, ...]] = keep_orders
    spare: Callable[[Pool, Market, Rules], Number] = never_short
    whole: bool = False


class Judgement(NamedTuple):
    """A pool at one instant or along many: numbers are floats or arrays, as the market's prices are."""

    equity: Number
    charges: tuple[Charge, ...]

    @property
    def initial(self) -> Number:
        if len(self.charges) == 1:
            return self.charges[0].initial
        return total([charge.initial for charge in self.charges])

    @property
    def maintenance(self) -> Number:
        return total([charge.maintenance for charge in self.charges])

    @property
    def fee(self) -> Number:
        return total([charge.fee for charge in self.charges])

    @property
    def requirement(self) -> Number:
        """Maintenance margin + liquidation fee."""
        if len(self.charges) == 1:
            (charge,) = self.charges
            return charge.maintenance + charge.fee
        return self.maintenance + self.fee

    @property
    def gap(self) -> Number:
        """Equity above the requirement: at or below zero the pool is liquidated."""
        return self.equity - self.requirement


There = ParamSpec("There")
Answer = TypeVar("Answer")


def remembers_last(ask: Callable[Concatenate[Pool, There], Answer]) -> Callable[Concatenate[Pool, There], Answer]:
    """A question that keeps its last answers, two, for the very same pool, and market and rules where it takes them: it
    is asked again in turn, of the present and of what may come. Arguments are given by place; named ones are asked
    anew."""
    last: tuple[tuple[Pool, tuple[object, ...], Answer], ...] = ()

    @wraps(ask)
    def answer(pool: Pool, /, *there: There.args, **no: There.kwargs) -> Answer:
        nonlocal last
        if not no:
            for known, where, found in last:
                if known is pool and len(where) == len(there) and all(map(is_, where, there)):
                    return found
        found = ask(pool, *there, **no)
        if not no:
            last = ((pool, there, found), *last[:1])
        return found

    return answer


@remembers_last
def judge(pool: Pool, market: Market, rules: Rules) -> Judgement:
    """Equity and charges of a pool, by its own mode's rules."""
    return Judgement(pool.mode.equity(pool, market, rules), pool.mode.charges(pool, market, rules))
