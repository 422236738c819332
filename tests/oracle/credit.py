"""May an order rest or trade where the whole account stands behind its debts (okx-multi-currency.md, 4.5, 4.6, 6), and
what a spot trade does to the coins (rule book of isolated margin, section 10).
"""

from __future__ import annotations

from copy import copy
from decimal import ROUND_FLOOR, Decimal

from tests.oracle import orders
from tests.oracle.book import Book, Order, SpotOrder
from tests.oracle.contract import ZERO
from tests.oracle.cross import order_value
from tests.oracle.multi_currency import Wealth
from tests.oracle.option import Option, OptionPosition
from tests.oracle.orders import Refused
from tests.oracle.portfolio import Portfolio, option_fee

EVEN = Decimal("1e-9")
"""Of the account: the gate's documented tolerance."""


def check(wealth: Wealth, order: Order, filling: bool) -> Order | Refused:
    """A contract order as the venue takes it; one that only closes needs nothing but a position."""
    book = wealth.book
    if order.only_closes:
        return orders.cut(book, order)
    if isinstance(wealth, Portfolio):
        if in_family(book, order) > order.contract.tiers[-1].ceiling:
            return Refused("size")  # 51004
        return afford(wealth, wealth.but(orders={**book.orders, order.id: order})) or order
    if order.leverage > order.contract.tiers[0].leverage:
        return Refused("leverage")  # 59102
    part = orders.opens(book, order, filling)
    if part and orders.within(book, order, filling) > order.contract.most_contracts(order.leverage):
        return Refused("size")  # 51004
    after = wealth.but(orders={**book.orders, order.id: order})
    short = ZERO
    if part and not wealth.terms.auto:
        currency = order.contract.settle
        needs = order_value(order, part, wealth.prices) / order.leverage
        short = lacking(needs, wealth.available_equity(currency))
    return Refused("funds", short) if short else afford(wealth, after) or order


def in_family(book: Book, order: Order) -> Decimal:
    """What a family would hold on the order's side: caps by family replace tiers in portfolio margin (section 6)."""
    family, sign = order.contract.family, 1 if order.buy else -1
    held = sum((p.size * sign for p in book.positions.values() if p.contract.family == family), ZERO)
    return held + order.size + sum(
        (other.size for other in book.orders.values() if other.contract.family == family and other.buy is order.buy
         and other.id != order.id and not other.only_closes), ZERO)


def fill_option(wealth: Portfolio, option: Option, contracts: Decimal, price: Decimal, reduce: bool) -> Refused | None:
    """Signed contracts at a price: what closes trades against the position, the rest opens; each pays its fee."""
    book, held = wealth.book, wealth.book.options.get(option.symbol)
    against = abs(held.size) if held is not None and held.size * contracts < 0 else ZERO
    if reduce and not against:
        return Refused("nothing to close")
    sign = 1 if contracts > 0 else -1
    size = min(abs(contracts), against) if reduce else abs(contracts)
    refused = afford(wealth, wealth.but(buying=(option, sign * size, price)), reduce)
    if refused:
        return refused
    closes = min(size, against)
    for part in (closes, size - closes):
        if part:
            coins = part * option.unit
            book.book("trade", None, option.coin, -sign * coins * price)
            book.book("fee", None, option.coin, -option_fee(option, coins, price))
    if closes and held is not None:
        held.size += sign * closes
    if held is None or not held.size:
        book.options.pop(option.symbol, None)
        if size > closes:
            book.options[option.symbol] = OptionPosition(option, sign * (size - closes), price)
    elif size > closes:
        opened = size - closes
        held.entry = (abs(held.size) * held.entry + opened * price) / (abs(held.size) + opened)
        held.size += sign * opened
    return None


def check_spot(wealth: Wealth, order: SpotOrder) -> SpotOrder | Refused:
    """With auto-borrow what is not there is borrowed; without it the coin given has to be there."""
    if not wealth.terms.auto and not isinstance(wealth, Portfolio):
        currency, amount = order.gives()
        short = lacking(amount, wealth.available_balance(currency))
        if short:
            return Refused("funds", short)
    return afford(wealth, wealth.with_spot(order)) or order


def lacking(needs: Decimal, has: Decimal) -> Decimal:
    return needs - has if needs - has > EVEN * max(Decimal(1), has) else ZERO


def afford(now: Wealth, after: Wealth, closes: bool = False) -> Refused | None:
    """No debt grows where none may, none beyond its tier at the leverage setting or the account's limit; then adjusted
    equity >= initial margin. An order that takes nothing is not refused (the engine's documented choice, inferred), nor
    one that closes: what lowers risk may be tried (portfolio addendum 2.6).
    """
    for currency in after.currencies:
        owed = after.potential_borrow(currency)
        if owed <= now.potential_borrow(currency) + EVEN:
            continue
        if not now.terms.auto:
            return Refused("no auto-borrow", owed)
        setting = now.terms.leverage[currency]
        tier = max((row.ceiling for row in now.terms.borrow[currency] if row.leverage >= setting), default=ZERO)
        for limit in (tier, now.terms.limits[currency]):
            if owed > limit:
                return Refused("limit", owed - limit)
    if closes:
        return None
    free, tolerance = after.free(), EVEN * max(Decimal(1), abs(after.adjusted_equity()))
    if free >= -tolerance or free >= now.free() - tolerance:
        return None
    return Refused("margin", -free)


def trade_spot(book: Book, order: SpotOrder, size: Decimal, price: Decimal, rate: Decimal) -> None:
    """Coins change hands, the fee comes out of what is received: bought coins arrive in whole lots."""
    value = size * price
    if order.buy:
        net = (size * (1 - rate) / order.lot).to_integral_value(ROUND_FLOOR) * order.lot
        book.book("trade", None, order.quote, -value)
        book.book("trade", None, order.base, size)
        book.book("fee", None, order.base, net - size)
    else:
        book.book("trade", None, order.base, -size)
        book.book("trade", None, order.quote, value)
        book.book("fee", None, order.quote, -value * rate)


def fill_spot(wealth: Wealth, order: SpotOrder, size: Decimal, price: Decimal, rate: Decimal) -> Refused | None:
    """A refused order is withdrawn."""
    book, asked = wealth.book, copy(order)
    asked.size, asked.price = size, price
    resting = book.spot.pop(order.id, None)
    answer = check_spot(wealth, asked)
    if isinstance(answer, Refused):
        return answer
    trade_spot(book, order, size, price, rate)
    if resting is not None and resting.size > size:
        resting.size -= size
        book.spot[order.id] = resting
    return None
