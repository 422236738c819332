"""What is sold to buy back a debt where the whole account stands behind it: in a liquidation, and above the free quota.

A debt is like a short position in its coin: it comes down one borrow tier at a time, whole in tier 1. Every sale goes
through USDT. Source: rule book of multi-currency margin, sections 5.1 and 8; which coin is sold first in a liquidation
is inferred there (the richest), the order above the quota is a dated choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bt_margin.model.market import Market
from bt_margin.modes import borrow, currencies
from bt_margin.modes.base import Convert, Pool, Reduction
from bt_margin.modes.currencies import Line

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

TRANSIT = "USDT"
LIQUID = ("USDC", "BTC", "ETH")
"""Coins taken for the most liquid after USDT, in this order, where rates tie (the venue names none: inferred)."""
DUST_USD = 1e-6


def legs(sell: str, buy: str) -> int:
    """How many trades a conversion takes: USDT is what everything is sold for and bought with."""
    return 1 if TRANSIT in (sell, buy) else 2


def gross(convert: Convert, rate: float, taker: float) -> tuple[float, float]:
    """(penalty, fee) in the coin bought that come on top of the debt repaid, at a penalty `rate`."""
    penalty = convert.amount * rate if convert.penalty else 0.0
    owed = convert.amount + penalty
    return penalty, owed * ((1.0 + taker) ** legs(convert.sell, convert.buy) - 1.0)


def sellable(line: Line, pool: Pool) -> float:
    """Coins of a currency that may be sold by force: cash, as far as losses not realised do not need it. A coin taken
    out of the collateral answers for nothing."""
    if line.currency in currencies.of(pool).borrowing.collateral_off:
        return 0.0
    return max(0.0, min(line.cash - line.accrued, float(line.backing)))


def convert_collateral(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """The largest debt comes down by one tier, paid by the richest coin; once nothing else is left to close."""
    if any(not p.instrument.is_option or p.size < 0 for p in pool.positions):
        return ()
    lines = currencies.lines(pool, market, rules)
    debts = [line for line in lines if float(line.liability) * float(line.usd) > DUST_USD]
    coins = [line for line in lines if sellable(line, pool) * float(line.usd) > DUST_USD]
    if not debts or not coins:
        return ()
    debt = max(debts, key=lambda x: (float(x.liability) * float(x.usd), x.currency))
    coin = next((x for x in coins if x.currency == TRANSIT), None) or max(
        coins, key=lambda x: (sellable(x, pool) * float(x.usd), x.currency)
    )
    owed = float(debt.liability)
    amount = borrow.reduction(owed, rules.borrow(debt.currency))
    return (_paid_by(coin, debt, amount, True, "conversion of collateral", pool, rules),)


def repay_above_quota(pool: Pool, market: Market, rules: Rules) -> tuple[Convert, ...]:
    """Forced repayment without auto-borrow: the first currency owed beyond its free quota, paid by the first coin."""
    choices, auto = rules.multi_currency, currencies.of(pool).borrowing.auto
    lines = currencies.lines(pool, market, rules)
    equities = {line.currency: float(line.equity) for line in lines}
    coins = {line.currency: line for line in lines if sellable(line, pool) * float(line.usd) > DUST_USD}
    for line in lines:
        owed, quota = float(line.liability), borrow.free_quota(line.currency, equities, rules)
        amount = borrow.forced_repayment(owed, quota, choices.repay_share, auto)
        if amount * float(line.usd) <= DUST_USD:
            continue
        first = {name: rules.discount(name).tiers[0][1] if rules.discount(name).tiers else 0.0 for name in coins}
        order = borrow.conversion_order(first, choices.repay_order, LIQUID)
        held = [TRANSIT] if TRANSIT in order else []
        chosen = next(iter([*held, *order]), None)
        if chosen is not None:
            return (_paid_by(coins[chosen], line, amount, False, "forced repayment", pool, rules),)
    return ()


def _paid_by(coin: Line, debt: Line, amount: float, penalty: bool, step: str, pool: Pool, rules: Rules) -> Convert:
    """As much of `amount` as what there is of the coin buys back after fee and penalty.

    A smaller amount may fall in a lower tier, whose penalty leaves more: the largest that can be paid for is taken.
    """
    there = sellable(coin, pool) * float(coin.usd) / float(debt.usd)
    want = Convert(coin.currency, debt.currency, amount, penalty, step)
    while True:
        rate = penalty_rate(want, rules)
        each = 1.0 + sum(gross(replace(want, amount=1.0), rate, rules.fees("margin").taker))
        if want.amount * each <= there:
            return want
        tiers = rules.borrow(debt.currency)
        below = tiers.below(borrow.tier_of(want.amount, tiers)) if rate else None
        if below is None or there / each > below.max_size:
            return replace(want, amount=there / each)
        want = replace(want, amount=below.max_size)


def penalty_rate(convert: Convert, rules: Rules) -> float:
    """Maintenance rate of the tier that the converted amount falls in, as of contracts (a choice, see the rules)."""
    if not convert.penalty or rules.multi_currency.debt_penalty == "none":
        return 0.0
    return borrow.tier_of(convert.amount, rules.borrow(convert.buy)).maintenance
