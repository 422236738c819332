"""Spot margin in isolated and cross: what a debt must hold, what orders reserve, forced sizes, the report's row.

The rate of the tier that the BORROWED amount reaches multiplies the whole debt. Sources: rule book sections 1.2, 2.1,
3.2, 4.2, 5; captures ISO-MARGIN-*, CROSS-MARGIN-*.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from bt_margin.model.account import Order, Position
from bt_margin.model.assessment import Charge, PositionReport, ratio
from bt_margin.model.instrument import Instrument, Number
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import anywhere
from bt_margin.model.orders import Queue, added

if TYPE_CHECKING:
    from bt_margin.modes.base import Judgement, Pool
    from bt_margin.rules.book import Rules
    from bt_margin.rules.tiers import Tier, Tiers

OLD_ACCOUNTING = "assets-with-margin"


def loans(positions: Iterable[Position]) -> list[MarginPosition]:
    """The spot-margin positions among some."""
    return [position for position in positions if isinstance(position, MarginPosition)]


# -- tiers ------------------------------------------------------------------------------------------------------------


def ladder_of(symbol: str, direction: str, rules: Rules) -> tuple[Tiers, bool]:
    """The borrow tiers of a direction, and whether a quote debt has to be turned into base coin for them."""
    tiers = rules.margin_tiers(symbol)
    if direction == "short":
        return tiers.base, False
    return (tiers.base, True) if tiers.quote is None else (tiers.quote, False)


def tier_of(position: MarginPosition, amount: float, price: float, rules: Rules) -> Tier:
    """The tier that a debt of `amount` reaches."""
    tiers, in_base = ladder_of(position.symbol, position.direction, rules)
    return tiers.at(amount / price if in_base else amount)


def _maintenance(position: MarginPosition, price: Number, rules: Rules) -> Number:
    """Maintenance rate at a price, or at many."""
    if isinstance(price, np.ndarray) and ladder_of(position.symbol, position.direction, rules)[1]:
        return np.array([tier_of(position, position.liability, float(p), rules).maintenance for p in price])
    at = float(np.asarray(price).flat[0])
    return tier_of(position, position.liability, at, rules).maintenance


def largest_debt(instrument: Instrument, direction: str, leverage: float, price: float, rules: Rules) -> float:
    """The most that may be owed at a leverage setting, in the currency of the debt."""
    tiers, in_base = ladder_of(instrument.symbol, direction, rules)
    return tiers.max_size(leverage) * (price if in_base else 1.0)


def leverage_refusal(position: MarginPosition, leverage: float, price: float, rules: Rules) -> str:
    """Why a position may not have this leverage setting, "" when it may."""
    limit = rules.margin_tiers(position.symbol).max_leverage
    if leverage > limit:
        return f"leverage {leverage:g} is above the maximum {limit:g} (59102)"
    if position.liability > largest_debt(position.instrument, position.direction, leverage, price, rules):
        return f"the debt exceeds what leverage {leverage:g} allows (59247)"
    return ""


# -- charges ----------------------------------------------------------------------------------------------------------


def required_rate(maintenance: Number, taker: float) -> Number:
    """Maintenance + liquidation fee, as a share of the debt: the fee is on the debt and its maintenance alike.

    Source: capture ISO-MARGIN-BTCUSDT-LONG-BASE-20240827, exact with debt x (1 + mmr) x taker.
    """
    return maintenance + (1.0 + maintenance) * taker


def charge(position: MarginPosition, market: Market, rules: Rules) -> Charge:
    """Initial margin (isolated: as posted at entry; cross: debt at the mark / leverage), maintenance and fee."""
    price = market.mark(position.symbol)
    rules.margin_formula(position.direction, position.margin_currency == position.instrument.base)
    rate, taker = _maintenance(position, price, rules), rules.fees("margin").taker
    owed = position.owed(price)
    initial = position.initial_at_entry() if position.margin_mode == "isolated" else owed / position.leverage
    detail = {"rate": rate, "taker": taker, "notional": owed, "liability": position.liability,
              "interest": position.interest}
    return Charge("loan margin", position.symbol, initial, owed * rate, owed * (1.0 + rate) * taker, detail)


def order_price(order: Order, market: Market) -> Number:
    """The order's price, the last trade at the market."""
    return market.last(order.symbol) if order.price is None else order.price


def order_margin(order: Order, size: float, market: Market) -> Number:
    """Margin of the part of an order that opens: size or value / leverage, the amount before the fee (section 3.2)."""
    worth = size if order.currency == order.instrument.base else size * order_price(order, market)
    return worth / order.leverage


def orders_margin(queue: Queue, market: Market, freed: Number = 0.0) -> Number:
    """`order_margin` of a queue's orders as far as each is beyond what it frees; they are margined in one currency."""
    in_base = queue.head.currency == queue.head.instrument.base

    def each(price: Number, size: Number, leverage: float) -> Number:
        margin = (size if in_base else size * price) / leverage
        return np.maximum(0.0, margin - freed) if anywhere(freed != 0.0) else margin

    return added(each, queue.limits(market), queue.sizes, queue.leverages)


def order_charges(opening: Iterable[Queue], positions: Iterable[Position], market: Market) -> tuple[Charge, ...]:
    """What resting cross orders reserve. They borrow nothing yet, so there is nothing to maintain.

    An order that reverses a position needs what goes beyond the margin the position sets free (by the same logic as
    section 6.2, which speaks of futures: inferred).
    """
    held = {position.key: position for position in loans(positions)}
    rows = []
    for queue in opening:
        position = held.get(queue.head.key)
        freed: Number = 0.0
        if position is not None and position.sign != queue.head.sign:
            freed = position.notional(market) / position.leverage
        rows.append(Charge("order margin", queue.head.symbol, orders_margin(queue, market, freed), 0.0, 0.0))
    return tuple(rows)


# -- forced sizes -----------------------------------------------------------------------------------------------------


def forced_size(position: MarginPosition, market: Market, rules: Rules, spare: float) -> float:
    """Base coin (positive) that the next forced order closes: down to the debt that the tier below allows, or whole.

    The steps are those of contracts, read on the borrowed amount (no record holds a margin pair above tier 1:
    inferred). A cut is rounded up to a lot, so that the debt ends inside the lower tier.
    """
    size, price = abs(position.size), float(market.mark(position.symbol))
    tiers, in_base = ladder_of(position.symbol, position.direction, rules)
    tier = tier_of(position, position.liability, price, rules)
    if rules.liquidation.step == "one-tier":
        target = tiers.below(tier)
    else:
        relief = float(position.owed(price)) * (tier.maintenance - tiers.rows[0].maintenance)
        if tier.number <= 2 or spare + relief <= 0:
            return size
        target = tiers.rows[tier.number - 3]
    if target is None:
        return size
    ceiling = target.max_size * (price if in_base else 1.0)
    instrument = position.instrument
    part = size * max(0.0, position.liability - ceiling) / position.liability
    return min(size, instrument.floor(part) + (instrument.lot or part * 1e-9))


def penalty_rate(position: MarginPosition, closed: float, price: float, rules: Rules) -> float:
    """Maintenance rate of the tier that the CLOSED debt falls in, as for contracts (inferred for margin pairs)."""
    return tier_of(position, closed, price, rules).maintenance


# -- report -----------------------------------------------------------------------------------------------------------


def available_assets(position: MarginPosition, orders: Iterable[Order], market: Market, rules: Rules) -> float:
    """Assets no resting closing order is to give away (OKX `availPos`). Until 2025-02-17 the venue counted the posted
    margin of an isolated position among them."""
    shown = position.assets
    if position.margin_mode == "isolated" and rules.margin.accounting == OLD_ACCOUNTING:
        shown += position.margin
    for order in orders:
        if order.key == position.key and order.sign != position.sign:
            given = order.size if position.is_long else order.size * float(order_price(order, market))
            shown -= min(given, position.assets)
    return max(0.0, shown)


def unusual_collateral(positions: Iterable[Position], rules: Rules) -> list[str]:
    """Isolated positions that the venue would not have opened then: before 2025-02-17 longs posted base coin, shorts
    quote coin (rule book section 3.2)."""
    return [
        f"{loan.symbol}: isolated margin of a {loan.direction} was {loan.asset_currency} only at that time, "
        f"the book has {loan.currency}"
        for loan in loans(positions)
        if loan.margin_mode == "isolated" and not loan.same and rules.margin.accounting == OLD_ACCOUNTING
    ]


def break_even_price(position: MarginPosition, fee: float) -> float:
    """The price at which selling all assets as a taker repays the debt exactly."""
    if position.is_long:
        return position.debt / (position.assets * (1.0 - fee)) if position.assets else 0.0
    return position.assets * (1.0 - fee) / position.debt if position.debt else 0.0


def report(position: MarginPosition, pool: Pool, judgement: Judgement, market: Market, rules: Rules,
           trigger: float | None, bankruptcy: float | None, shown: float | None) -> PositionReport:
    """A position's row, money in its margin currency; the liquidation price has no tick before it (section 4.2)."""
    mark = float(market.mark(position.symbol))
    row = charge(position, market, rules)
    owed, upl = float(position.owed(mark)), float(position.profit(mark))
    posted = position.margin if position.margin_mode == "isolated" else position.initial_at_entry()
    return PositionReport(
        symbol=position.symbol, margin_mode=position.margin_mode, position_side=position.side, contracts=position.size,
        entry_price=position.entry_price, mark_price=mark, notional=owed,
        notional_usd=owed * float(market.usd(position.currency)), unrealised_pnl=upl,
        unrealised_pnl_ratio=upl / posted if posted else 0.0, margin=position.margin,
        initial_margin=float(row.initial), maintenance_margin=float(row.maintenance), liquidation_fee=float(row.fee),
        margin_ratio=ratio(float(judgement.equity), float(judgement.requirement)), trigger_price=trigger,
        liquidation_price=shown, bankruptcy_price=bankruptcy,
        break_even_price=break_even_price(position, float(row.detail["taker"])), leverage=position.leverage,
        tier=tier_of(position, position.liability, mark, rules).number,
        available_assets=available_assets(position, pool.orders, market, rules),
        delta=position.assets if position.is_long else -position.debt, gamma=0.0, vega=0.0, theta=0.0,
        margin_currency=position.margin_currency, assets=position.assets, liability=position.liability,
        interest=position.interest,
    )
