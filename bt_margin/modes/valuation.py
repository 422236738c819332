"""What modes share: tier margin, order margin, forced sizes, liquidation prices.

Sources: rule book sections 1 to 7; recorded replies of the demo engine where they speak
(`DEMO-...` names are vectors in tests/golden).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from bt_margin.model.account import Order, Position
from bt_margin.model.instrument import Instrument
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import Number, anywhere, larger
from bt_margin.model.orders import Array, Queue, added
from bt_margin.modes import spot_margin
from bt_margin.modes.exposure import Exposure

if TYPE_CHECKING:
    from bt_margin.modes.base import Pool
    from bt_margin.rules.book import Rules
    from bt_margin.rules.tiers import Tier

FEE_KIND = {
    "spot": "spot",
    "linear swap": "swap",
    "inverse swap": "swap",
    "linear future": "future",
    "inverse future": "future",
    "option": "option",
}


def taker(instrument: Instrument, rules: Rules) -> float:
    """The account's own taker rate: liquidation fees use it too (capture ISO-INV-BTC-LONG-20241127)."""
    return rules.fees(FEE_KIND[instrument.kind]).taker


# -- what orders are worth --------------------------------------------------------------------------------------------


def order_prices(queue: Queue, market: Market) -> Array | list[Number]:
    """`order_price` of every order of a queue, (orders,); a list where prices are arrays over instants."""
    head, own, prices = queue.head, queue.prices, queue.limits(market)
    limits = queue.price_range[0] == queue.price_range[0]  # nobody is at the market
    if head.is_cash or not (limits or not np.all(np.isnan(own))):
        return prices
    mark, dearest = market.mark(head.symbol), head.instrument.payoff.dearest
    if isinstance(mark, np.ndarray) or not isinstance(prices, np.ndarray):
        if limits and not any(anywhere(dearest(head.side, price, mark) != price) for price in queue.price_range):
            return prices  # where the dearest and the cheapest of them stand, all others do, too
        return [order_price(order, market) for order in queue.orders]
    found = dearest(head.side, prices, mark)
    return found if limits else np.where(np.isnan(own), prices, found)


def value_of(queue: Queue, market: Market, rate: float = 1.0) -> Number:
    """Value of a queue at the dearest prices its orders could open at, times a rate, in the settlement currency."""
    if len(queue.ids) == 1:
        order = queue.head
        value: Number = order.instrument.notional(order.size, order_price(order, market)) * rate
        return value
    notional = queue.head.instrument.payoff.notional
    return added(lambda price, units: notional(units, price) * rate, order_prices(queue, market), queue.units)


def margin_of(queue: Queue, market: Market) -> Number:
    """Value over leverage, order by order."""
    if len(queue.ids) == 1:
        return value_of(queue, market) / queue.head.leverage
    notional = queue.head.instrument.payoff.notional
    return added(lambda price, units, leverage: notional(units, price) / leverage, order_prices(queue, market),
                 queue.units, queue.leverages)


def order_price(order: Order, market: Market) -> Number:
    """The dearest price the order could open at; the last at the market.

    Source: recorded (DEMO-MAX-SIZE-1..6, -INVERSE-1..5): linear buys at the order price, sells at max(order, mark);
    inverse buys at min(order, mark), sells at the order price.
    """
    if order.price is None:
        return market.last(order.symbol)
    if order.is_cash:
        return order.price
    price: Number = order.instrument.payoff.dearest(order.side, order.price, market.mark(order.symbol))
    return price


def order_loss(order: Order, market: Market) -> Number:
    """What the order would lose against the mark the moment it fills: linear buys Q * max(0, price - mark).

    Source: OKX announcement of 2024-10-24 (rule book section 6.1); recorded in DEMO-MAX-SIZE-4..6, -INVERSE-5.
    """
    price = market.last(order.symbol) if order.price is None else order.price
    profit = order.instrument.payoff.pnl(
        order.sign * order.size * order.instrument.contract_size, price, market.mark(order.symbol)
    )
    return larger(0.0, -profit)


def order_initial(exposure: Exposure, market: Market, rules: Rules) -> Number:
    """Initial margin of an instrument's resting orders on top of its positions' (OKX `ordFrozen`), cross.

    One-way mode: since 2024-11-08 only the larger side counts: long max(P + B, S - P) / leverage, short
    max(B - P, P + S) / leverage, with P the position at the mark, B and S the orders at their price; before, every
    opening part counted. Hedge mode: all opening orders add. Source: rule book section 6.2.
    """
    hedge = any(queue.head.position_side != "net" for queue in exposure.orders)
    if hedge or rules.orders.one_way == "both-sides":
        return sum([margin_of(queue, market) for queue in exposure.opening], 0.0)
    buys: Number = 0.0
    sells: Number = 0.0
    for queue in exposure.orders:
        if queue.head.side == "buy":
            buys = buys + margin_of(queue, market)
        else:
            sells = sells + margin_of(queue, market)
    if not exposure.positions:
        return larger(buys, sells)
    position = exposure.positions[0]
    held = position.notional(market) / position.leverage
    same, against = (buys, sells) if position.size > 0 else (sells, buys)
    return larger(held + same, against - held) - held


def position_initial(position: Position, market: Market) -> Number:
    """Initial margin: at the mark in cross, at the entry price in isolated (captures CROSS-LIN, ISO-LIN)."""
    if position.margin_mode == "isolated":
        return position.initial_at_entry()
    return position.notional(market) / position.leverage


def held_tier(position: Position, pool_positions: Iterable[Position], rules: Rules) -> Tier:
    """The tier a position stands in by held sizes alone (OKX shows a position's `mmr` by it: CROSS-MET-5)."""
    return rules.tiers(position.symbol).at(family_size(position.instrument, pool_positions))


def family_size(instrument: Instrument, positions: Iterable[Position]) -> float:
    """Contracts held of a tier family: long, short and all expiries add (recorded: CROSS-MET-2, -4, -5)."""
    return sum(abs(position.size) for position in positions if position.instrument.family == instrument.family)


# -- forced sizes ---------------------------------------------------------------------------------------------


def forced_size(position: Position, pool: Pool, market: Market, rules: Rules, spare: float) -> float:
    """Contracts (positive) that the next forced order closes of this position.

    `one-tier` (recorded, LIQ-TIER-ISO-1, LIQ-CROSS-1): down to the ceiling of the tier below; whole in tier 1.
    `two-tiers` (official until about 2025-05): whole up to tier 2; above it, down two tiers while the pool would
    still satisfy the first tier's rate, else whole. `spare` is the pool's equity above its requirement (negative
    in a breach), in the pool's currency. In cross, sizes of one instrument add for the tier; the cut comes off this
    position.
    """
    size = abs(position.size)
    if position.instrument.is_option:
        return size
    if isinstance(position, MarginPosition):
        return spot_margin.forced_size(position, market, rules, spare)
    total = family_size(position.instrument, pool.positions)
    tiers = rules.tiers(position.symbol)
    tier = tiers.at(total)
    if rules.liquidation.step == "one-tier":
        below = tiers.below(tier)
        if below is None:
            return size
        return min(size, position.instrument.ceil(total - below.max_size))
    if tier.number <= 2:
        return size
    notional = float(position.instrument.notional(total, market.mark(position.symbol)))
    if pool.holdings is not None:
        notional *= float(market.usd(position.currency))  # as `spare` of a whole account is
    relief = notional * (tier.maintenance - tiers.rows[0].maintenance)
    if spare + relief <= 0:
        return size
    target = tiers.rows[tier.number - 3].max_size
    return min(size, position.instrument.ceil(total - target))


def penalty_rate(symbol: str, closed: float, rules: Rules) -> float:
    """Maintenance rate of the tier that the CLOSED size falls in (recorded: LIQ-TIER-ISO-1, LIQ-CROSS-1/2)."""
    return rules.tiers(symbol).at(closed).maintenance


# -- prices ---------------------------------------------------------------------------------------------------


def price_at_gap_zero(position: Position, pool: Pool, gap: float, rate: float, mark: float) -> float | None:
    """The mark of this instrument at which `gap` (now, at `mark`) is zero, all other marks as they are.

    With x = P (linear) or 1/P (inverse): gap(x) = gap + (+-S - A) (x - x now), S = sum of signed units, A = sum of
    absolute units x `rate` (of maintenance + closing fee; 0 for the bankruptcy price): one crossing at most. None
    when there is none above zero. Source: rule book 4.1, 4.3, 4.4; recorded item 23 (DEMO-CROSS-LIQPX-1).
    """
    slope = 0.0
    for one in pool.positions:
        if one.symbol == position.symbol:
            backing, requirement = one.slopes(rate)
            slope += backing - requirement
    if slope == 0.0:
        return None
    now = position.straight(mark)
    x = now - gap / slope
    return position.straight(x) if x > 1e-9 * now else None  # rounding aside, a fully paid position has none


def break_even_price(position: Position, fee: float) -> float:
    """The price at which closing as a taker leaves nothing won or lost, fees and funding so far included.

    Source: recorded (DEMO-MARK-WICK-2): long (entry Q - realised) / (Q (1 - taker)), short with plus signs; inverse
    N (1 + s taker) / (N / entry + s realised), which gives DEMO-INV-ISO-1's figure.
    """
    units, sign = abs(position.size) * position.instrument.contract_size, position.sign
    if position.instrument.payoff.slope < 0:
        return units * (1.0 + sign * fee) / (units / position.entry_price + sign * position.realised)
    return (units * position.entry_price - sign * position.realised) / (units * (1.0 - sign * fee))
