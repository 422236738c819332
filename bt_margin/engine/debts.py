"""Debts over time, where the whole account stands behind them: interest by the hour, conversion, what nobody can pay.

No loan is taken out: a debt is a negative balance, repaid by whatever comes in. Source: rule book of multi-currency
margin, sections 4.4, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bt_margin.engine.booking import ROUNDING
from bt_margin.model.account import Account
from bt_margin.model.ledger import Entry, EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import borrow, conversion, currencies
from bt_margin.modes.base import Convert, MarginMode
from bt_margin.rules.book import Rules

CONVERSION = "conversion"
REPAYMENT = "forced repayment"
WRITTEN_OFF = "debt written off"


class Conversion(NamedTuple):
    """A conversion as booked. `sold` in coins sold, the rest in coins bought; `price`: coins bought for one sold."""

    sold: float
    repaid: float
    price: float
    fee: float
    penalty: float


def charge_hour(account: Account, mode: MarginMode, time: int, rate: Callable[[str, int], float], market: Market,
                rules: Rules) -> None:
    """A full hour strikes: what accrued at the last one is deducted from the balances, then what is owed now is charged
    an hour at `rate(currency, time)`, which leaves the balance alone until the next hour."""
    for currency in sorted(account.accrued):
        deduct(account, currency, time)
    (pool,) = mode.pools(account)
    lines = currencies.lines(pool, market, rules)
    equities = {line.currency: float(line.equity) for line in lines}
    for line in lines:
        if not currencies.costs_interest(line):
            continue
        quota = borrow.free_quota(line.currency, equities, rules)
        loss = max(float(line.unrealised), float(line.backing) - line.cash)  # as far as long options do not make it up
        bearing = float(borrow.interest_bearing(line.cash, loss, quota, account.borrowing.auto))
        if bearing > 0:
            hourly = rate(line.currency, time)
            charge = float(borrow.interest(bearing, hourly))
            account.apply(Entry(time, EntryKind.INTEREST, line.currency, interest=charge, note=f"rate {hourly:.8%}"))


def convert(account: Account, wanted: Convert, market: Market, rules: Rules, slippage: float) -> Conversion:
    """Sell one coin at its USD price (less `slippage` a trade), buy back the debt, pay the taker fee of each trade and,
    in a liquidation, the penalty, which goes to the insurance fund. Everything is scaled down to what there is."""
    taker, time = rules.fees("margin").taker, market.time
    for currency in (wanted.sell, wanted.buy):
        deduct(account, currency, time)  # it is part of what is owed
    penalty, fee = conversion.gross(wanted, conversion.penalty_rate(wanted, rules), taker)
    price = float(market.usd(wanted.sell)) / float(market.usd(wanted.buy))
    price *= (1.0 - slippage) ** conversion.legs(wanted.sell, wanted.buy)
    cost = wanted.amount + penalty + fee
    there = max(0.0, account.balance(wanted.sell))
    share = min(1.0, there * price / cost)
    repaid, penalty, fee, sold = wanted.amount * share, penalty * share, fee * share, cost * share / price
    if share < 1.0 or abs(there - sold) <= ROUNDING * there:
        sold = there  # to the last coin: rounding may not leave a debt
    note = CONVERSION if wanted.penalty else REPAYMENT
    account.apply(Entry(time, EntryKind.TRADE, wanted.sell, cash=-sold, price=price, note=note))
    account.apply(Entry(time, EntryKind.FEE, wanted.buy, cash=-fee, note=note))
    if penalty:
        account.apply(Entry(time, EntryKind.PENALTY, wanted.buy, cash=-penalty, fund=penalty, note=note))
    bought, owed = cost * share, -account.balance(wanted.buy)
    if abs(owed - bought) <= ROUNDING * bought:
        bought = owed  # all of it: nothing is left of the debt, not a hair
    account.apply(Entry(time, EntryKind.TRADE, wanted.buy, cash=bought, price=price, note=note))
    return Conversion(sold, repaid, price, fee, penalty)


def write_off(account: Account, time: int) -> dict[str, float]:
    """The insurance fund pays every debt that is left, exactly; what it paid by currency."""
    paid = {}
    for currency in sorted(account.balances):
        if account.balance(currency) - account.accrued.get(currency, 0.0) >= 0:
            continue
        deduct(account, currency, time)
        owed = -account.balance(currency)
        account.apply(Entry(time, EntryKind.CLAWBACK, currency, cash=owed, fund=-owed, note=WRITTEN_OFF))
        paid[currency] = owed
    return paid


def deduct(account: Account, currency: str, time: int) -> None:
    """What accrued leaves the balance."""
    due = account.accrued.get(currency, 0.0)
    if due:
        account.apply(Entry(time, EntryKind.INTEREST, currency, cash=-due, interest=-due, note="deducted"))
