"""Margin and fees of options outside portfolio margin: Futures mode (cross) and isolated.

Source: rule book isolated and futures, section 3.3 (okx.com/help/ii-option-margin, 2024-04-12; copy of 2026-05-01 for
USD-stable-margined options), fees section 10.

Every figure is for one coin of the underlying, in the settlement currency: multiply by contracts x contract size.
`unit` is what one coin is worth in that currency: 1 where options settle in the coin, the index in USD where they
settle in a stablecoin. Prices and marks are in the settlement currency too; forward and strike are USD. `factor` is the
margin factor of the seller's tier (short positions and sell orders of the family together). All arguments broadcast.

Long options need nothing beyond their premium. A short's maintenance margin holds the mark, that is the whole debt:
an isolated short's ratio is margin / (maintenance + fee), without its floating P&L (ISO-OPTION-SHORT-CALL-20240711).
"""

from __future__ import annotations

import numpy as np

from bt_margin.risk.black import Number, OptionKind, sign_of


def out_of_the_money(kind: OptionKind, forward: Number, strike: Number) -> Number:
    """How far, in USD, the forward is from paying: call max(K - F, 0), put max(F - K, 0)."""
    return np.maximum(sign_of(kind) * np.subtract(strike, forward), 0.0)


def short_initial(
    kind: OptionKind,
    forward: Number,
    strike: Number,
    mark: Number,
    *,
    a: Number,
    b: Number,
    factor: Number = 1.0,
    unit: Number = 1.0,
) -> Number:
    """Initial margin of a short position: max(a, b - OTM/F) factor unit + mark. OKX: a = 0.10, b = 0.15."""
    rate = np.maximum(a, b - out_of_the_money(kind, forward, strike) / forward)
    return rate * factor * unit + mark


def short_maintenance(
    kind: OptionKind, mark: Number, *, c: Number, factor: Number = 1.0, unit: Number = 1.0
) -> Number:
    """Maintenance margin of a short position. OKX: c = 0.03 (BTC), 0.05 (ETH).

    Call: c factor unit + mark. Put: max(c unit, c mark) factor + mark; a put can be worth more than its coin.
    """
    put = np.less(sign_of(kind), 0.0)
    base = np.where(put, np.maximum(unit, mark), unit)
    return c * base * factor + mark


def buy_order_margin(order_price: Number, *, fee: Number = 0.0) -> Number:
    """What an order that buys to open reserves: the premium. `fee` per coin: only the 2020 rules added it here."""
    return order_price + fee


def sell_order_margin(
    initial: Number, order_price: Number, *, min_order: Number, unit: Number = 1.0, fee: Number = 0.0
) -> Number:
    """What an order that sells to open reserves: max(initial - price + fee, min_order unit).

    `initial` is `short_initial` at today's mark; the premium the sale brings pays its part. OKX: min_order = 0.10.
    In 2020 `fee` per coin was added, with min_order 0.10, EOS 0.125 (rewrites of the page of that year).
    """
    return np.maximum(np.subtract(initial, order_price) + fee, np.multiply(min_order, unit))


def buy_to_close_margin(initial: Number, order_price: Number, *, fee: Number = 0.0) -> Number:
    """What an order that buys a short back reserves: max(price - initial + fee, 0), `fee` per coin in 2020 only."""
    return np.maximum(np.subtract(order_price, initial) + fee, 0.0)


def sell_to_close_margin(order_price: Number, *, fee: Number) -> Number:
    """2020 only: max(fee - price, 0), the part of the fee that the premium does not pay. Later rules ask nothing."""
    return np.maximum(np.subtract(fee, order_price), 0.0)


def option_fee(notional: Number, premium: Number, *, rate: Number, cap: Number) -> Number:
    """Trading fee: min(rate notional, cap premium).

    Both amounts for the whole size or both per coin: notional = coins x unit, premium = coins x price.
    Source: fees page; cap 12.5 % of the premium, 7 % in the text updated 2026-06-24 (date of the change unknown).
    """
    return np.minimum(np.multiply(rate, notional), np.multiply(cap, premium))


def liquidation_fee(notional: Number, mark_value: Number, *, taker: Number, cap: Number) -> Number:
    """Fee in a short's margin ratio and of its forced close: min(taker notional, cap x mark value), cap 12.5 %.

    Source: rule books sections 2.1 and 7; the uncapped part is recorded, the cap is the fees page's.
    """
    return option_fee(notional, mark_value, rate=taker, cap=cap)


def exercise_fee(notional: Number, settlement_value: Number, *, rate: Number, taker: Number, cap: Number) -> Number:
    """Fee of an exercise: min(rate notional, taker notional, cap x settlement value), rate 0.02 %, cap 12.5 %.

    Nothing where nothing is paid out. Dailies that do not expire on a Friday pay none: the caller's to know.
    Source: rule book section 10.
    """
    return option_fee(notional, settlement_value, rate=np.minimum(rate, taker), cap=cap)
