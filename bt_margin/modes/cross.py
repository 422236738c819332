"""Cross margin in a single currency (OKX: Futures mode): one pool per settlement currency.

Sources: rule book section 2; recorded replies RATIO-PEND-*, TIER-PEND-*, CROSS-MET-*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import Charge
from bt_margin.model.instrument import Number
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import ladder
from bt_margin.modes.base import MarginMode, Pool
from bt_margin.modes.valuation import (
    exposures,
    opening_parts,
    order_initial,
    order_price,
    taker,
)

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


def spent_currency(order: Order) -> str:
    """The currency an order takes: its settlement; for spot what it gives away."""
    instrument = order.instrument
    if instrument.is_spot:
        return instrument.quote if order.side == "buy" else instrument.base
    return instrument.settle


def pools(account: Account) -> Iterable[Pool]:
    """One pool per currency that has cash, cross positions or orders; a coin backs only what settles in it."""
    positions = tuple(account.held("cross"))
    isolated = {key: position for key, position in account.positions.items() if key.margin_mode == "isolated"}
    orders = tuple(_with_opening_part(order, isolated) for order in account.orders.values())
    currencies = {
        *account.balances,
        *(position.instrument.settle for position in positions),
        *(spent_currency(order) for order in orders if order),
    }
    for currency in sorted(currencies):
        yield Pool(
            currency,
            CROSS,
            currency,
            account.balance(currency),
            tuple(p for p in positions if p.instrument.settle == currency),
            tuple(o for o in orders if o is not None and spent_currency(o) == currency),
        )


def _with_opening_part(order: Order, isolated: Mapping[PositionKey, Position]) -> Order | None:
    """An isolated order reserves cash for what it opens beyond its own position, which another pool holds."""
    if order.margin_mode != "isolated":
        return order
    position = isolated.get(order.key)
    parts = opening_parts((position,) if position else (), (order,))
    if not parts:
        return None
    return replace(order, size=parts[0][1])


def reserved(pool: Pool, market: Market, rules: Rules) -> tuple[Number, Number, Number]:
    """What resting orders take out of the currency: (given by spot orders, isolated openings, fees of openings).

    The taker fee is frozen even for a sure maker order, at the order price (DEMO-ORDER-FREEZE-1..3). Spot orders
    freeze what they give; their fee comes out of what they receive.
    """
    spot: Number = 0.0
    isolated: Number = 0.0
    fees: Number = 0.0
    for order in pool.orders:
        if order.instrument.is_spot:
            spot = spot + (order.size if order.side == "sell" else order.size * order_price(order, market))
        elif order.margin_mode == "isolated" and not order.closes:
            value = order.instrument.notional(order.size, order_price(order, market))
            isolated = isolated + value / order.leverage
            fees = fees + value * taker(order.instrument, rules)
    for order, size in opening_parts(pool.positions, _cross_orders(pool)):
        value = order.instrument.notional(size, order_price(order, market))
        fees = fees + value * taker(order.instrument, rules)
    return spot, isolated, fees


def _cross_orders(pool: Pool) -> tuple[Order, ...]:
    return tuple(order for order in pool.orders if order.margin_mode == "cross")


def unrealised(pool: Pool, market: Market) -> Number:
    """Unrealised profit of the pool's cross positions at the mark."""
    return sum((position.unrealised(market) for position in pool.positions), 0.0)


def equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """The ratio's numerator: cash + unrealised profit - what orders reserve (rule book 2.1, recorded item 20)."""
    total = pool.cash + unrealised(pool, market)
    if pool.orders:
        total = total - sum(reserved(pool, market, rules))
    return total


def charges(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """Tier margin per instrument, on positions and opening orders alike, all at the mark, at one flat rate.

    Source: recorded (items 15 to 19): tier = sum of absolute sizes + opening orders; initial margin of orders at
    their price, of positions at the mark.
    """
    rows: list[Charge] = []
    for exposure in exposures(pool.positions, _cross_orders(pool)):
        if not exposure.positions and not exposure.opening:
            continue
        instrument = exposure.instrument
        pending = exposure.pending if rules.orders.pending_in_maintenance else 0.0
        tier = rules.tiers(instrument.symbol).at(exposure.held + pending)
        fee = taker(instrument, rules)
        mark = market.mark(instrument.symbol)
        held = instrument.notional(exposure.held, mark)
        detail = {"tier": tier.number, "rate": tier.maintenance, "taker": fee}
        if exposure.positions:
            initial = sum((p.notional(market) / p.leverage for p in exposure.positions), 0.0)
            rows.append(
                Charge("position margin", instrument.symbol, initial, held * tier.maintenance, held * fee,
                       {**detail, "notional": held})
            )
        if exposure.opening:
            value = instrument.notional(pending, mark)
            rows.append(
                Charge("order margin", instrument.symbol, order_initial(exposure, market, rules),
                       value * tier.maintenance, value * fee, {**detail, "notional": value})
            )
    return tuple(rows)


CROSS = MarginMode(
    name="cross",
    pools=pools,
    equity=equity,
    charges=charges,
    ladder=(ladder.cancel_orders, ladder.hedged_pairs, ladder.unhedged_largest_relief),
)
