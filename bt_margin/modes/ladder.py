"""The steps of undoing a pool in breach. Each returns what to do next, () when it has nothing (more) to do.

The engine carries out one answer at a time, judges again, and stops as soon as the pool is safe. Ties break by
symbol, so runs repeat exactly. Sources: rule book section 7; recorded items 1 to 10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bt_margin.model.account import Position
from bt_margin.model.assessment import Charge
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.orders import Queue
from bt_margin.modes.base import CancelOrders, Close, Pool, Reduction, judge
from bt_margin.modes.exposure import net_sizes
from bt_margin.modes.kept import Kept
from bt_margin.modes.valuation import forced_size

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

Margins = Callable[[Pool, Market, "Rules"], tuple[Charge, ...]]


def cancel_orders(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Withdraw every order that could add risk; orders that only reduce a cross position stay.

    An isolated position loses all its orders (rule book section 7: isolated, at 100 %); spot orders of an account pool
    go, as they may borrow.
    """
    net = net_sizes(pool.positions)

    def going_of(queue: Queue) -> Queue:
        head = queue.head
        if pool.mode.name == "isolated" or head.is_cash or (pool.holdings is not None and head.instrument.is_spot):
            return queue
        return queue.opening(net.get(head.key, 0.0))

    going = tuple(order.id for order in pool.orders.each(going_of))
    return (CancelOrders(going),) if going else ()


def cancel_the_rest(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Withdraw every order that is left: one that only reduces would open once a step has cut its position, and then no
    step frees anything. Source: addendum of portfolio margin, 3i (those that raise the requirement, then all)."""
    return (CancelOrders(tuple(order.id for order in pool.orders)),) if pool.orders else ()


def hedged_pairs(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Phase 1: long and short of the same contract are closed against each other, first symbol first."""
    by_side: dict[tuple[str, int], Position] = {}
    for position in pool.positions:
        by_side[position.symbol, position.sign] = position
    for symbol in sorted({position.symbol for position in pool.positions}):
        long, short = by_side.get((symbol, 1)), by_side.get((symbol, -1))
        if long is not None and short is not None:
            size = min(abs(long.size), abs(short.size))
            return (_close(long, size, "hedged pair"), _close(short, size, "hedged pair"))
    return ()


def delta_neutral(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Phase 2: a long and a short of one underlying in different contracts are cut by the same delta, so that the
    account's direction stays as it is; on each side the position with the larger maintenance margin first.

    The cut is one forced order of the larger of the two (down one tier, or whole), as far as the other side reaches.
    Source: rule book section 7 (rewrites: pairs, net delta kept, larger margin first; the size of a cut is inferred).
    """
    margin = {row.unit: float(row.maintenance) for row in judge(pool, market, rules).charges
              if row.name in ("position margin", "loan margin")}
    paired: dict[str, list[Position]] = {}
    for position in pool.positions:
        if position.plain or isinstance(position, MarginPosition):
            paired.setdefault(position.instrument.base, []).append(position)
    for _, group in sorted(paired.items()):
        ranked = sorted(group, key=lambda p: (-margin.get(p.symbol, 0.0), p.key))
        long = next((p for p in ranked if p.sign > 0), None)
        short = next((p for p in ranked if p.sign < 0), None)
        if long is None or short is None:
            continue
        first = long if ranked.index(long) < ranked.index(short) else short
        spare = float(judge(pool, market, rules).gap)
        step = forced_size(first, pool, market, rules, spare) * _coins(first, market)
        coins = min(step, *(abs(p.size) * _coins(p, market) for p in (long, short)))
        sizes = [p.instrument.floor(min(abs(p.size), coins / _coins(p, market))) for p in (long, short)]
        if all(sizes):
            return tuple(_close(p, size, "delta-neutral pair") for p, size in zip((long, short), sizes, strict=True))
    return ()


def _coins(position: Position, market: Market) -> float:
    """Coins of the underlying behind one contract."""
    instrument = position.instrument
    return float(instrument.payoff.delta(instrument.contract_size, market.mark(position.symbol)))


def unhedged_largest_relief(margins: Margins, pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Phase 3: the one forced order, down one tier or whole, that frees the largest requirement. `margins`: what
    contracts and their orders must hold by themselves, debts aside: that of one family no other one changes.

    Rewrites say "the one that improves the ratio most"; read before the order's own fee and penalty, which would
    otherwise make the smallest position go first and rescue nothing (inferred: no record holds two positions).
    """
    spare = float(judge(pool, market, rules).gap)
    families: dict[str, list[Position]] = {}
    for position in pool.positions:
        families.setdefault(position.instrument.family, []).append(position)

    def required(part: Pool) -> float:
        return float(sum(row.maintenance + row.fee for row in margins(part, market, rules)))

    def relief(part: Pool, position: Position, size: float) -> float:
        return required(part) - required(part.without(position.key, -position.sign * size))

    found: list[tuple[float, Position, float]] = []
    for family, positions in families.items():
        part = replace(pool, positions=tuple(positions), orders=pool.orders.of_family(family))
        for position in positions:
            if position.instrument.is_option and position.size > 0:
                continue  # long options have no maintenance margin and are not reduced (rule book section 7)
            size = forced_size(position, part, market, rules, spare)
            stands = (part.positions, part.orders, size)  # what is in the balances is no matter of margins
            frees = _RELIEF.find((margins, position.key), position.instrument.base, stands, market, rules,
                                 partial(relief, part, position, size))
            found.append((frees, position, size))
    if not found:
        return ()
    _, position, size = min(found, key=lambda one: (-one[0], one[1].key))
    return (_close(position, size, "unhedged position"),)


_RELIEF: Kept[float] = Kept()


def tier_step_down(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Down to the ceiling of the tier below, while there is one."""
    if not pool.positions:
        return ()
    position = pool.positions[0]
    size = forced_size(position, pool, market, rules, float(judge(pool, market, rules).gap))
    return (_close(position, size, "tier step-down"),) if size < abs(position.size) else ()


def takeover(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Close whole what is left."""
    return tuple(_close(position, abs(position.size), "takeover") for position in pool.positions)


def _close(position: Position, size: float, step: str) -> Reduction:
    return Close(position.key, -position.sign * size, step)

