"""Options in isolated and cross margin: what shorts must hold, what orders reserve, greeks, and moved marks.

Longs have paid their premium and need nothing. Source: rule book section 3.3; the kernels are in `risk`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from bt_margin.model.account import Order, Position
from bt_margin.model.assessment import Charge, PositionReport, ratio
from bt_margin.model.instrument import Instrument, Number
from bt_margin.model.market import Market
from bt_margin.model.orders import Array, Orders, Queue, added
from bt_margin.risk import black, option_margin

if TYPE_CHECKING:
    from bt_margin.modes.base import Judgement, Pool
    from bt_margin.rules.book import Rules


def coin_value(instrument: Instrument, market: Market) -> Number:
    """What one coin is worth in the settlement currency: 1 when it settles in the coin, else its index."""
    return 1.0 if instrument.settle == instrument.base else market.index(instrument.pair)


def years_left(instrument: Instrument, clock: Number) -> Number:
    """Years of 365 days to the expiry (OKX's printed greeks are reproduced with 365)."""
    years: Number = black.years_between(clock, instrument.expiry_ms or 0)
    return years if isinstance(years, np.ndarray) else float(years)


def short_contracts(positions: Iterable[Position], orders: Orders | None, family: str) -> float:
    """What sets a seller's margin factor: all short positions and sell orders of the family (rule book 3.3)."""
    held = sum(-p.size for p in positions if p.instrument.family == family and p.size < 0)
    resting = orders.of_family(family).queues if orders is not None else ()
    return held + sum(queue.size for queue in resting if queue.head.side == "sell" and not queue.head.closes)


def short_initial(instrument: Instrument, market: Market, rules: Rules, short: float) -> Number:
    """Initial margin of one contract short, `short` contracts in all, in the settlement currency."""
    row = rules.option(instrument.base)
    per_coin: Number = option_margin.short_initial(
        instrument.terms.right, market.forward(instrument.symbol), instrument.terms.strike,
        market.mark(instrument.symbol), a=row.a, b=row.b, factor=row.factor(short), unit=coin_value(instrument, market),
    )
    return per_coin * instrument.contract_size


def short_maintenance(instrument: Instrument, market: Market, rules: Rules, short: float) -> Number:
    """Maintenance margin of one contract short, its mark included."""
    row = rules.option(instrument.base)
    per_coin: Number = option_margin.short_maintenance(
        instrument.terms.right, market.mark(instrument.symbol), c=row.c, factor=row.factor(short),
        unit=coin_value(instrument, market),
    )
    return per_coin * instrument.contract_size


def charge(position: Position, market: Market, rules: Rules, short: float) -> tuple[Charge, ...]:
    """What an option position must hold: nothing when long."""
    if position.size > 0:
        return ()
    instrument, size = position.instrument, -position.size
    notional = size * instrument.contract_size * coin_value(instrument, market)
    row, taker = rules.option(instrument.base), rules.fees("option").taker
    fee: Number = option_margin.liquidation_fee(
        notional, position.notional(market), taker=taker, cap=row.liquidation_fee_cap
    )
    detail = {"factor": row.factor(short), "taker": taker, "notional": notional, "mark": market.mark(instrument.symbol)}
    return (
        Charge("option margin", instrument.symbol, short_initial(instrument, market, rules, short) * size,
               short_maintenance(instrument, market, rules, short) * size, fee, detail),
    )


def trading_fee(
    instrument: Instrument, size: float, price: Number, rate: float, market: Market, rules: Rules
) -> Number:
    """min(rate x notional, cap x premium); notional is the coins behind the contracts (rule book section 10)."""
    coins = abs(size) * instrument.contract_size
    fee: Number = option_margin.option_fee(
        coins * coin_value(instrument, market), coins * price, rate=rate, cap=rules.option(instrument.base).fee_cap
    )
    return fee


def order_premium(order: Order, size: float, market: Market) -> Number:
    """What an order that buys to open gives away."""
    price = market.last(order.symbol) if order.price is None else order.price
    return order.instrument.notional(size, price)


def premiums(queue: Queue, sizes: Array, market: Market) -> Number:
    """What a queue of orders gives away for so many contracts each, (orders,)."""
    return added(lambda price, size: queue.head.instrument.notional(size, price), queue.limits(market), sizes)


def order_margin(order: Order, opens: float, short: float, market: Market, rules: Rules) -> Number:
    """Margin an order reserves on top of positions: selling to open max(IM - price, min); buying a short back
    max(price - IM, 0); its premium, when it buys to open, is reserved apart (rule book 3.3)."""
    price = market.last(order.symbol) if order.price is None else order.price
    return _order_margin(order, short, market, rules)(price, order.size, opens)


def _order_margin(
    head: Order, short: float, market: Market, rules: Rules
) -> Callable[[Number, Number, Number], Number]:
    """(price, size, what of it opens) -> margin, of orders like this one."""
    instrument, row = head.instrument, rules.option(head.instrument.base)
    initial = short_initial(instrument, market, rules, short) / instrument.contract_size
    unit = coin_value(instrument, market)
    fee = rules.fees("option").taker * unit if row.charges_fee_in_orders else 0.0

    def sell(price: Number, size: Number, opens: Number) -> Number:
        per_coin: Number = option_margin.sell_order_margin(initial, price, min_order=row.min_order, unit=unit, fee=fee)
        return per_coin * opens * instrument.contract_size

    def buy(price: Number, size: Number, opens: Number) -> Number:
        back: Number = option_margin.buy_to_close_margin(initial, price, fee=fee)
        return back * (size - opens) * instrument.contract_size

    return sell if head.side == "sell" else buy


def reserved(queue: Queue, opens: Array, short: float, market: Market, rules: Rules) -> tuple[Number, Number, Number]:
    """(premiums given, margin, fees) of a queue of orders, of which so much opens: (orders,)."""
    head, prices, rate = queue.head, queue.limits(market), rules.fees("option").taker
    given = premiums(queue, opens, market) if head.side == "buy" else 0.0
    margin = added(_order_margin(head, short, market, rules), prices, queue.sizes, opens)
    fees = added(lambda price, size: trading_fee(head.instrument, size, price, rate, market, rules), prices, opens)
    return given, margin, fees


def report(position: Position, pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> PositionReport:
    """An option's row. Greeks are position totals of the BS set (`_pa`: the PA set), at the vol its mark implies."""
    instrument = position.instrument
    mark, units = float(market.mark(position.symbol)), position.size * instrument.contract_size
    short = short_contracts(pool.positions, None, instrument.family)
    rows = charge(position, market, rules, short)
    initial, maintenance, fee = (
        (float(rows[0].initial), float(rows[0].maintenance), float(rows[0].fee)) if rows else (0.0, 0.0, 0.0)
    )
    bs, pa = greeks(instrument, market)
    value = float(position.value(market))
    profit = float(position.unrealised(market))
    return PositionReport(
        symbol=position.symbol, margin_mode=position.margin_mode, position_side=position.side,
        contracts=position.size, entry_price=position.entry_price, mark_price=mark, notional=abs(value),
        notional_usd=abs(value) * float(market.usd(position.currency)), unrealised_pnl=profit,
        unrealised_pnl_ratio=position.sign * (mark - position.entry_price) / position.entry_price,
        margin=position.margin, initial_margin=initial, maintenance_margin=maintenance, liquidation_fee=fee,
        margin_ratio=ratio(float(judgement.equity), float(judgement.requirement)), trigger_price=None,
        liquidation_price=None, bankruptcy_price=None, break_even_price=position.entry_price, leverage=1.0, tier=1,
        available_assets=abs(position.size),
        delta=units * float(bs.delta), gamma=units * float(bs.gamma), vega=units * float(bs.vega),
        theta=units * float(bs.theta), delta_pa=units * float(pa.delta), gamma_pa=units * float(pa.gamma),
        vega_pa=units * float(pa.vega), theta_pa=units * float(pa.theta), option_value=value,
    )


def greeks(instrument: Instrument, market: Market) -> tuple[black.Greeks, black.Greeks]:
    """The BS and the PA set of one coin of an option, at the vol its mark implies."""
    forward, index = float(market.forward(instrument.symbol)), float(market.index(instrument.pair))
    years, terms = years_left(instrument, market.clock), instrument.terms
    vol = float(implied_vol(instrument, float(market.mark(instrument.symbol)), forward, index, years))
    known = 0.0 if np.isnan(vol) else vol  # at or below intrinsic: no time value, greeks of the payoff itself
    return (black.greeks_bs(terms.right, forward, terms.strike, years, known, index),
            black.greeks_pa(terms.right, forward, terms.strike, years, known))


# -- marks ----------------------------------------------------------------------------------------------------------


def implied_vol(instrument: Instrument, mark: Number, forward: Number, index: Number, years: Number) -> Number:
    """The vol at which Black-76 gives the mark; NaN where none does."""
    coin = mark if instrument.settle == instrument.base else mark / index
    vol: Number = black.implied_vol(coin * forward, forward, instrument.terms.strike, years, instrument.terms.right)
    return vol


def model_mark(instrument: Instrument, forward: Number, index: Number, years: Number, vol: Number) -> Number:
    """Black-76 on the forward: in coin, or that times the index for options settled in a stablecoin."""
    coin: Number = black.coin_price(instrument.terms.right, forward, instrument.terms.strike, years, vol)
    return coin if instrument.settle == instrument.base else coin * index


def moved(market: Market, positions: Iterable[Position], shifts: Number) -> Market:
    """All prices of coins moved by `shifts` (-0.1: 10 % down; a float or an array); vols implied by marks stay."""
    factor = 1.0 + shifts
    marks = {symbol: price * factor for symbol, price in market.marks.items()}
    lasts = {symbol: price * factor for symbol, price in market.lasts.items()}
    for position in positions:
        instrument = position.instrument
        if instrument.is_option:
            forward, index = market.forward(instrument.symbol), market.index(instrument.pair)
            years = years_left(instrument, market.clock)
            vol = implied_vol(instrument, market.mark(instrument.symbol), forward, index, years)
            vol = np.where(np.isnan(vol), 0.0, vol)
            marks[instrument.symbol] = model_mark(instrument, forward * factor, index * factor, years, vol)
            lasts[instrument.symbol] = marks[instrument.symbol]
    stable = ("USDT", "USDC", "USD")
    indexes = {k: v if k.partition("/")[0] in stable else v * factor for k, v in market.indexes.items()}
    forwards = {k: v * factor for k, v in market.forwards.items()}
    return Market(market.time, marks, lasts, indexes, market.strict, market.stand_ins, forwards, {}, market.times)
