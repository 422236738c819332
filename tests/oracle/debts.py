"""Debts over time: interest by the hour, forced repayment, conversion, what nobody can pay (okx-multi-currency.md, 4.4,
5.1, 8).
"""

from __future__ import annotations

from decimal import Decimal

from tests.oracle.book import Book
from tests.oracle.contract import ONE, ZERO
from tests.oracle.multi_currency import LAST_DIGIT, Terms, Wealth

HOURS_A_YEAR = 365 * 24
TRANSIT = "USDT"
LIQUID = ("USDT", "USDC", "BTC", "ETH")
"""The most liquid first (the engine's documented choice)."""
DUST_USD = Decimal("1e-6")
"""Less is neither repaid nor sold (the engine's documented constant)."""


def note(book: Book, time: int) -> None:
    """Say which balances are newly owed, and which are owed no more."""
    owed = {c for c, amount in book.cash.items() if amount < book.accrued.get(c, ZERO)}
    for currency in sorted(owed - book.owed):
        book.say("Borrowed", time, "account", currency, amount=-book.cash[currency])
    for currency in sorted(book.owed - owed):
        book.say("Repaid", time, "account", currency)
    book.owed = owed


def deduct(book: Book, currency: str) -> None:
    """What accrued leaves the balance."""
    due = book.accrued.pop(currency, ZERO)
    if due:
        book.cash[currency] = book.cash.get(currency, ZERO) - due


def strike(wealth: Wealth) -> None:
    """A full hour: what accrued is deducted, then an hour is charged on what is owed now, which leaves the balance
    alone until the next hour.

    With auto-borrow the negative balance costs in full, and of what unrealised losses made the excess over the free
    quota; without it both share the quota. The part that losses made: max(0, -eq) - max(0, -cash), at least 0, at most
    the loss (section 1, inferred there). Long options make up for losses; what short ones are worth is no loss made.
    """
    book, terms = wealth.book, wealth.terms
    for currency in sorted(book.accrued):
        deduct(book, currency)
    wealth = wealth.but()
    for currency in wealth.currencies:
        by_cash = max(ZERO, -wealth.own(currency))
        loss = max(ZERO, -wealth.upl(currency) - max(ZERO, wealth.option_value(currency)))
        by_loss = min(loss, max(ZERO, loss - wealth.own(currency) - by_cash))
        quota = free_quota(wealth, currency)
        bearing = by_cash + max(ZERO, by_loss - quota) if terms.auto else max(ZERO, by_cash + by_loss - quota)
        charge = bearing * terms.yearly[currency] / HOURS_A_YEAR
        if charge:
            book.accrued[currency] = charge
            book.flows.append(("interest", currency, -charge, ZERO))


def free_quota(wealth: Wealth, currency: str) -> Decimal:
    amount, others = wealth.terms.quotas[currency]
    return amount + sum((max(ZERO, wealth.equity(other)) for other in others), ZERO)


def sellable(wealth: Wealth, currency: str) -> Decimal:
    """Cash, as far as losses not realised do not need it; a coin switched off as collateral answers for nothing
    (section 3.1).
    """
    if currency in wealth.terms.off:
        return ZERO
    return max(ZERO, min(wealth.own(currency), wealth.equity(currency)))


def coins_to_sell(wealth: Wealth) -> list[str]:
    return [c for c in wealth.currencies if sellable(wealth, c) * wealth.usd(c) > DUST_USD]


def repay_above_quota(wealth: Wealth, time: int) -> bool:
    """Forced repayment without auto-borrow: the first currency owed beyond its free quota; half a quota comes off, or
    more where that does not bring it back below (section 5.1). True: some was.
    """
    coins = {c: wealth.terms.discounts[c][0][1] for c in coins_to_sell(wealth)}
    sign = -1 if wealth.book.era.highest_first else 1
    rank = {c: i for i, c in enumerate(LIQUID)}
    for currency in wealth.currencies:
        owed, quota = wealth.liability(currency), free_quota(wealth, currency)
        amount = min(owed, max(quota / 2, owed - quota))
        if owed <= quota * LAST_DIGIT or amount * wealth.usd(currency) <= DUST_USD:
            continue
        ranked = sorted((c for c in coins if coins[c] > 0), key=lambda c: (sign * coins[c], rank.get(c, len(rank)), c))
        if ranked:
            sell = TRANSIT if TRANSIT in ranked else ranked[0]
            convert(wealth, sell, currency, amount, False, time)
            return True
    return False


def convert_collateral(wealth: Wealth, time: int) -> bool:
    """The largest debt, down by one borrow tier, whole in tier 1, paid by USDT, else by the richest coin (section 8,
    inferred there). True: some was.
    """
    debts = [c for c in wealth.currencies if wealth.liability(c) * wealth.usd(c) > DUST_USD]
    coins = coins_to_sell(wealth)
    if not debts or not coins:
        return False
    buy = max(debts, key=lambda c: (wealth.liability(c) * wealth.usd(c), c))
    sell = TRANSIT if TRANSIT in coins else max(coins, key=lambda c: (sellable(wealth, c) * wealth.usd(c), c))
    owed = wealth.liability(buy)
    rows = wealth.terms.borrow[buy]
    tier = rows.index(wealth.terms.row(buy, owed))
    convert(wealth, sell, buy, owed - rows[tier - 1].ceiling if tier else owed, True, time)
    return True


def convert(wealth: Wealth, sell: str, buy: str, amount: Decimal, penalty: bool, time: int) -> None:
    """As much of `amount` as the coin buys back, at USD prices. On top: in a liquidation the penalty, the maintenance
    rate of the tier that the converted amount falls in, to the insurance fund; then the taker fee of each trade (one
    with USDT, else two) on all that is bought.
    """
    book, ratio = wealth.book, wealth.ratio()
    trades = 1 if TRANSIT in (sell, buy) else 2
    grossed = (1 + wealth.terms.taker) ** trades
    price = wealth.usd(sell) / wealth.usd(buy)
    there = sellable(wealth, sell) * price
    amount = most_repaid(there / grossed, amount, wealth.terms, buy if penalty else "")
    fined = amount * wealth.terms.row(buy, amount).maintenance if penalty else ZERO
    cost = (amount + fined) * grossed
    for currency in (sell, buy):
        deduct(book, currency)
    book.book("trade", None, sell, -cost / price)
    book.book("fee", None, buy, amount + fined - cost)
    book.book("penalty", None, buy, -fined, fined)
    book.book("trade", None, buy, cost)
    for currency in (sell, buy):  # to the last coin: the last decimal of a division is no debt
        if abs(book.cash[currency]) < Decimal("1e-25") * max(cost, cost / price):
            book.cash[currency] = ZERO
    step = "conversion of collateral" if penalty else "forced repayment"
    numbers = {} if ratio is None else {"margin_ratio": ratio}
    book.say("Converted", time, "account", sell, buy, step, sold_amount=cost / price, bought_amount=amount, price=price,
             fee=cost - amount - fined, penalty=fined, **numbers)
    note(book, time)


def most_repaid(money: Decimal, amount: Decimal, terms: Terms, fined: str) -> Decimal:
    """The largest repayment up to `amount` that `money` pays for with its penalty."""
    if not fined:
        return min(money, amount)
    below, most = ZERO, ZERO
    for row in terms.borrow[fined]:
        share = min(money / (ONE + row.maintenance), amount, row.ceiling)
        if share > below:
            most = share
        below = row.ceiling
    return most


def write_off(wealth: Wealth, time: int) -> None:
    """The insurance fund pays every debt that is left, exactly (section 8)."""
    book = wealth.book
    for currency in sorted(book.cash):
        owed = -wealth.own(currency)
        if owed > 0:
            deduct(book, currency)
            book.book("clawback", None, currency, owed, -owed)
            if owed * wealth.usd(currency) > Decimal("1e-9"):
                book.say("Bankrupt", time, "account", currency, amount=owed)
    note(book, time)
