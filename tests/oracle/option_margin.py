"""Short options outside portfolio margin: what a position holds and what orders reserve, in coin, the seller's factor 1
(rule book of isolated margin, section 3.3). Long options hold nothing: they have been paid for.
"""

from __future__ import annotations

from decimal import Decimal

from tests.oracle.book import OptionOrder, Prices
from tests.oracle.contract import ONE, ZERO, exact
from tests.oracle.option import Option, OptionPosition


def short_initial(option: Option, prices: Prices) -> Decimal:
    """Of one coin: max(a, b - out of the money / forward) + mark."""
    forward, strike = prices[f"forward {option.forward}"], exact(option.strike)
    out = max(ZERO, strike - forward if option.call else forward - strike)
    return max(option.rate_a, option.rate_b - out / forward) + prices[option.symbol]


def initial(held: OptionPosition, prices: Prices) -> Decimal:
    return max(ZERO, -held.size) * held.contract.unit * short_initial(held.contract, prices)


def maintenance(held: OptionPosition, prices: Prices) -> Decimal:
    """Call: c + mark a coin; put: max(c, c x mark) + mark."""
    option, mark = held.contract, prices[held.contract.symbol]
    base = ONE if option.call else max(ONE, mark)
    return max(ZERO, -held.size) * option.unit * (option.rate_c * base + mark)


def closing_fee(held: OptionPosition, prices: Prices) -> Decimal:
    """min(taker x coins, cap x mark value), of shorts (sections 2.1 and 7)."""
    option, coins = held.contract, max(ZERO, -held.size) * held.contract.unit
    return min(option.taker * coins, option.forced_cap * coins * prices[option.symbol])


def trading_fee(option: Option, contracts: Decimal, price: Decimal, rate: Decimal) -> Decimal:
    """min(rate x coins, cap x premium) (section 10)."""
    coins = contracts * option.unit
    return min(rate * coins, option.fee_cap * coins * price)


def reserved(order: OptionOrder, opens: Decimal, prices: Prices) -> Decimal:
    """On top of positions: what sells to open holds max(initial margin - price, least), what buys a short back
    max(price - initial margin, 0); the fee was part of both until 2024.
    """
    option = order.contract
    per_coin, fee = short_initial(option, prices), option.taker if option.fee_in_orders else ZERO
    if not order.buy:
        return max(per_coin - order.price + fee, option.least_order) * opens * option.unit
    return max(order.price - per_coin + fee, ZERO) * (order.size - opens) * option.unit
