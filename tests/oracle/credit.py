"""May an order rest or trade where the whole account stands behind its debts (okx-multi-currency.md, 4.5, 4.6, 6), and
what a spot trade does to the coins (rule book of isolated margin, section 10).
"""

from __future__ import annotations

from copy import copy
from decimal import ROUND_FLOOR, Decimal

from tests.oracle import option_margin, orders
from tests.oracle.book import Book, OptionOrder, Order, SpotOrder, opening_parts
from tests.oracle.contract import ZERO
from tests.oracle.cross import order_value
from tests.oracle.multi_currency import Wealth
from tests.oracle.option import OptionPosition
from tests.oracle.orders import Refused
from tests.oracle.portfolio import Portfolio

EVEN = Decimal("1e-9")
"""Of the account: the gate's documented tolerance."""


def check(wealth: Wealth, order: Order, filling: bool) -> Order | Refused:
    """A contract order as the venue takes it; one that only closes needs nothing but a position."""
    book, alone = wealth.book, order.mode == "isolated"
    if alone and not wealth.terms.isolated:
        return Refused("isolated")  # 50072
    if order.only_closes:
        return orders.cut(book, order)
    if isinstance(wealth, Portfolio) and not alone:
        if in_family(book, order) > order.contract.tiers[-1].ceiling:
            return Refused("size")  # 51004
        return afford(wealth, wealth.but(orders={**book.orders, order.id: order})) or order
    if order.leverage > order.contract.tiers[0].leverage:
        return Refused("leverage")  # 59102
    part = orders.opens(book, order, filling)
    if part and orders.within(book, order, filling) > order.contract.most_contracts(order.leverage):
        return Refused("size")  # 51004
    after, currency = wealth.but(orders={**book.orders, order.id: order}), order.contract.settle
    if part and not alone and currency in wealth.terms.off:
        return Refused("collateral")  # 54024
    short, value = ZERO, order_value(order, part, wealth.prices)
    if alone:  # margin and fee out of coins that are there, borrowed or not (section 6)
        short = lacking(value / order.leverage + value * order.contract.taker, wealth.available_balance(currency))
    elif part and not wealth.terms.auto:
        short = lacking(value / order.leverage, wealth.available_equity(currency))
    return Refused("funds", short) if short else afford(wealth, after) or order


def in_family(book: Book, order: Order) -> Decimal:
    """What a family would hold on the order's side: caps by family replace tiers in portfolio margin (section 6)."""
    family, sign = order.contract.family, 1 if order.buy else -1
    held = sum((p.size * sign for p in book.held("cross") if p.contract.family == family), ZERO)
    return held + order.size + sum(
        (other.size for other in book.orders.values() if other.contract.family == family and other.buy is order.buy
         and other.mode == "cross" and other.id != order.id and not other.only_closes), ZERO)


def check_option(wealth: Wealth, order: OptionOrder, filling: bool) -> OptionOrder | Refused:
    """What only closes is cut to the position. Outside portfolio margin what it reserves has to be there: of buys the
    balance, of sales without auto-borrow the available equity (sections 1, 4.5 and 6).
    """
    option, book = order.contract, wealth.book
    held = book.options.get(option.symbol)
    if order.reduce_only:
        if held is None or held.size * order.signed >= 0:
            return Refused("nothing to close")
        order = copy(order)
        order.size = min(order.size, abs(held.size))
    queue = [] if filling else [other for other in book.option_orders.values() if other.key == order.key]
    parts = opening_parts(book, [*queue, order])
    opens = next((part for other, part in parts if other is order), ZERO)
    portfolio = isinstance(wealth, Portfolio)
    if opens and option.coin in wealth.terms.off:
        return Refused("collateral")  # 54024
    if not portfolio:
        needs, has = option_margin.reserved(order, opens, wealth.prices), wealth.available_equity(option.coin)
        if order.buy:
            fee = option_margin.trading_fee(option, opens, order.price, option.taker)
            needs += opens * option.unit * order.price + fee
            has = wealth.available_balance(option.coin)
        short = lacking(needs, has) if order.buy or (opens and not wealth.terms.auto) else ZERO
        if short:
            return Refused("funds", short)
    return afford(wealth, wealth.with_option(order), order.reduce_only and portfolio) or order


def fill_option(wealth: Wealth, order: OptionOrder, size: Decimal, price: Decimal, rate: Decimal) -> Refused | None:
    """What closes trades against the position, the rest opens; each pays its fee. A refused order is withdrawn."""
    book, asked = wealth.book, copy(order)
    asked.size, asked.price = size, price
    resting = book.option_orders.pop(order.id, None)
    taken = check_option(wealth, asked, True)
    if isinstance(taken, Refused):
        return taken
    option, sign = order.contract, 1 if order.buy else -1
    held = book.options.get(option.symbol)
    closes = min(taken.size, abs(held.size)) if held is not None and held.size * sign < 0 else ZERO
    opens = taken.size - closes
    for part in (closes, opens):
        if part:
            book.book("trade", None, option.coin, -sign * part * option.unit * price)
            book.book("fee", None, option.coin, -option_margin.trading_fee(option, part, price, rate))
    if held is None or abs(held.size) == closes:
        book.options.pop(option.symbol, None)
        if opens:
            book.options[option.symbol] = OptionPosition(option, sign * opens, price)
    else:
        if opens:
            held.entry = (abs(held.size) * held.entry + opens * price) / (abs(held.size) + opens)
        held.size += sign * taken.size
    if resting is not None and resting.size > size:
        resting.size -= size
        book.option_orders[order.id] = resting
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
        if currency in now.terms.off:
            return Refused("collateral", owed)
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
