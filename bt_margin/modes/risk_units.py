"""Risk units: which positions, resting orders and spot of an account are judged together in portfolio margin.

Source: rule book portfolio margin, section 2 (units and their merge official, how much spot joins inferred), section 6
and addendum 3j (resting orders).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bt_margin.model.account import Order, Position
from bt_margin.model.instrument import Instrument
from bt_margin.model.orders import Queue, running
from bt_margin.modes import currencies
from bt_margin.modes.base import Pool
from bt_margin.modes.columns import Held, settlement

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


@dataclass(frozen=True, slots=True)
class RiskUnit:
    """`positions` and `orders` of contracts and options; `spot`: the unit takes in spot of its coin, `spot_orders` are
    those that join it then."""

    name: str
    base: str
    positions: tuple[Position, ...]
    orders: tuple[Queue, ...]
    spot: bool
    spot_orders: tuple[Queue, ...]


@dataclass(frozen=True, slots=True)
class Filling:
    """What a unit holds when some of its orders are taken as filled: contracts by instrument, coins of spot more."""

    held: tuple[Held, ...]
    coins: float = 0.0


def unit_name(instrument: Instrument, units: str) -> str:
    """The unit of a contract: its coin, or before the merge coin and settlement ("BTC-USDT", "BTC-USD")."""
    return instrument.base if units == "by-coin" else f"{instrument.base}-{settlement(instrument)}"


def risk_units(pool: Pool, rules: Rules) -> tuple[RiskUnit, ...]:
    """The units of an account, by name; coins without contracts or options make none."""
    choices = currencies.of(pool).spot_use.unit
    positions: dict[str, list[Position]] = {}
    orders: dict[str, list[Queue]] = {}
    bases: dict[str, str] = {}
    for position in pool.positions:
        name = unit_name(position.instrument, rules.portfolio(position.instrument.base).units)
        positions.setdefault(name, []).append(position)
        bases[name] = position.instrument.base
    spot: dict[str, list[Queue]] = {}
    for queue in pool.orders.queues:
        head, base = queue.head, queue.head.instrument.base
        if head.instrument.is_spot:
            if currencies.trades_coins(head):
                spot.setdefault(base, []).append(queue)
        elif head.margin_mode == "cross" and not head.closes:
            name = unit_name(head.instrument, rules.portfolio(base).units)
            orders.setdefault(name, []).append(queue)
            bases[name] = base
    found = []
    for name, base in sorted(bases.items()):
        row = rules.portfolio(base)
        takes = row.spot_in_use == "automatic" or (row.spot_in_use == "chosen" and name == chosen(base, choices))
        joining = tuple(spot.get(base, ())) if takes and row.spot_orders else ()
        found.append(
            RiskUnit(name, base, tuple(positions.get(name, ())), tuple(orders.get(name, ())), takes, joining)
        )
    return tuple(found)


def chosen(base: str, choices: Mapping[str, str]) -> str:
    """The unit that the spot of a coin was told to join; "" without a choice."""
    side = choices.get(base, "")
    return f"{base}-{'USD' if side == base else side}" if side else ""


def fillings(unit: RiskUnit, rules: Rules) -> tuple[Filling, ...]:
    """What the unit holds now, first, and what with its orders filled: those of each sign of delta, or all of them.

    Orders that can only reduce stay out: they never raise what is required.
    """
    now = Filling(_net(unit.positions))
    if not (unit.orders or unit.spot_orders):
        return (now,)
    sides: tuple[tuple[float, ...], ...] = ((1.0, -1.0),)
    if rules.portfolio_orders.order_sides == "worst-side":
        sides = ((1.0,), (-1.0,))
    found = [now]
    for signs in sides:
        filled = tuple(queue for queue in unit.orders if _delta_sign(queue.head) in signs)
        coins = sum(queue.head.sign * queue.size for queue in unit.spot_orders if queue.head.sign in signs)
        if filled or coins:
            found.append(Filling(_net(unit.positions, filled), coins))
    return tuple(found)


def _delta_sign(order: Order) -> float:
    put = order.instrument.is_option and order.instrument.terms.right == "P"
    return float(-order.sign if put else order.sign)


def _net(positions: Iterable[Position], orders: Iterable[Queue] = ()) -> tuple[Held, ...]:
    """Contracts by instrument, in symbol order: two entries of one contract are one."""
    sizes: dict[str, float] = {}
    instruments: dict[str, Instrument] = {}
    for position in positions:
        instruments[position.symbol] = position.instrument
        sizes[position.symbol] = sizes.get(position.symbol, 0.0) + position.size
    for queue in orders:
        head = queue.head
        instruments[head.symbol] = head.instrument
        sizes[head.symbol] = running(head.sign * queue.sizes, sizes.get(head.symbol, 0.0))
    return tuple((instruments[symbol], size) for symbol, size in sorted(sizes.items()) if size)
