"""Debts where the whole account stands behind them: what is owed, what it must hold, what it costs, how it is repaid.

No loan is ever taken out: a debt is negative equity of a currency. Every function takes floats, or arrays over
instants. Amounts are coins of the currency, debts positive. Source: rule book of multi-currency margin, sections 1, 4
and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bt_margin.model.assessment import Charge
from bt_margin.model.moment import HOUR
from bt_margin.model.number import Number, anywhere, larger, smaller

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules
    from bt_margin.rules.tiers import Tier, Tiers

ROUNDING = 1e-12
"""Of a debt: this far above a tier's ceiling or its quota it is still within. Repaid down to one, a float may miss."""


# -- what is owed ----------------------------------------------------------------------------------------------------


def available_equity(equity: Number, frozen: Number) -> Number:
    """OKX `availEq` of a currency: max(0, equity - frozen)."""
    return larger(0.0, equity - frozen)


def potential_borrow(equity: Number, frozen: Number) -> Number:
    """What is owed already plus what open orders would make owed: |min(0, equity - frozen)|; rounding owes nothing."""
    short = frozen - equity
    if not anywhere(short > 0):
        return 0.0
    rounding = ROUNDING * (frozen + equity)  # where little is short, the two are alike
    if not isinstance(short, np.ndarray):
        return short if short > rounding else 0.0
    return np.where(short > rounding, short, 0.0)


def liability(equity: Number, isolated: Number = 0.0) -> Number:
    """OKX `liab`: |min(0, equity)| plus the debts of isolated positions."""
    return larger(0.0, -equity) + isolated


def unrealised_liability(cash: Number, accrued: Number, unrealised: Number) -> Number:
    """OKX `uplLiab`: the part of the liability that unrealised losses made (formula inferred, section 1)."""
    return smaller(larger(0.0, -(cash - accrued + unrealised)), larger(0.0, -unrealised))


# -- what it must hold -----------------------------------------------------------------------------------------------


def rates(amount: Number, tiers: Tiers, marginal: bool = False) -> tuple[Number, Number]:
    """(maintenance, initial) rate of a debt: that of the tier it reaches, or the mean over its slices.

    Raises InputError beyond the last tier.
    """
    size = np.asarray(amount, dtype=float)
    tier_of(float(np.max(size, initial=0.0)), tiers)  # raises beyond the last
    limits = np.array([row.max_size for row in tiers.rows])
    columns = [np.array([getattr(row, name) for row in tiers.rows]) for name in ("maintenance", "initial")]
    if marginal:
        lower = np.concatenate([[0.0], limits[:-1]])
        slices = np.clip(size[..., None] - lower, 0.0, limits - lower)
        total = np.where(size > 0, size, 1.0)
        found = [np.where(size > 0, slices @ column / total, column[0]) for column in columns]
    else:
        index = np.searchsorted(limits, size * (1.0 - ROUNDING), side="left")
        found = [column[index] for column in columns]
    return _shape(found[0]), _shape(found[1])


def tier_of(amount: float, tiers: Tiers) -> Tier:
    """The tier that a debt reaches. Raises InputError beyond the last."""
    return tiers.at(amount * (1.0 - ROUNDING))


def setting(currency: str, leverage: Mapping[str, float], tiers: Tiers) -> float:
    """The leverage setting of a currency: the one chosen, else the maximum of the lowest tier."""
    return float(leverage.get(currency, tiers.max_leverage))


def charge(currency: str, amount: Number, usd: Number, leverage: Mapping[str, float], rules: Rules) -> Charge:
    """Borrow margin in USD of an amount owed or to be owed.

    initial = debt / leverage setting (with `tier-floor` at least the tier's own rate), maintenance = debt x rate of its
    tier, fee = debt x (1 + that rate) x taker. The sample of 2021-03-08 (BTC) and that of 2025-01-15 (USDT) come
    out to their last digit.
    """
    tiers, choices = rules.borrow(currency), rules.multi_currency
    maintenance, floor = rates(amount, tiers, choices.borrow_rate == "marginal")
    lever, taker = setting(currency, leverage, tiers), rules.fees("margin").taker
    initial = larger(1.0 / lever, floor) if choices.borrow_initial == "tier-floor" else 1.0 / lever
    owed = amount * usd
    return Charge(
        "borrow margin", currency, _shape(owed * initial), owed * maintenance, owed * (1.0 + maintenance) * taker,
        {"amount": amount, "usd": usd, "leverage": lever, "rate": maintenance, "tier_initial": floor, "taker": taker},
    )


# -- limits ----------------------------------------------------------------------------------------------------------


def room_by_margin(own: float, leverage: float) -> float:
    """What own funds carry at a leverage, by the venue's published examples of limits: own x (leverage - 1)."""
    return own * (leverage - 1.0)


def most(*bounds: float) -> float:
    """The most that may be borrowed: the smallest of what margin, tier, account and lenders allow (section 4.6)."""
    return max(0.0, min(bounds))


def refused_leverage(currency: str, leverage: float, rules: Rules) -> str:
    """Why a currency may not have this leverage setting, "" when it may."""
    limit = rules.borrow(currency).max_leverage
    if leverage <= limit:
        return ""
    return f"expected at most {limit:g}, the maximum of {currency}, found {leverage:g} (59104)"


def excess(currency: str, amount: float, leverage: Mapping[str, float], rules: Rules) -> tuple[str, float]:
    """Why so much may not be owed, and how much of it is too much; ("", 0) when it may. Raises NoRuleInForce."""
    tiers = rules.borrow(currency)
    lever = setting(currency, leverage, tiers)
    for limit, what in (
        (tiers.max_size(lever), f"the tier limit at leverage {lever:g}; lower the leverage"),
        (rules.borrow_limit(currency), "the borrow limit of the account"),
    ):
        if amount > limit * (1 + ROUNDING):
            return f"borrowing {amount:,.10g} {currency} exceeds {limit:,.10g}, {what} (51008)", amount - limit
    return "", 0.0


# -- interest --------------------------------------------------------------------------------------------------------


def free_quota(currency: str, equities: Mapping[str, float], rules: Rules) -> float:
    """Coins of a debt that cost no interest; `equities`: cross equity by currency, which may enlarge it (USDT: 20,000
    plus that of USDC)."""
    row = rules.free_quota(currency)
    return row.amount + sum(max(0.0, equities.get(other, 0.0)) for other in row.enlarged_by)


def interest_bearing(
    cash: Number, unrealised: Number, quota: float, auto: bool = True, accrued: Number = 0.0
) -> Number:
    """How much of a debt costs interest.

    With auto-borrow the negative cash balance does in full, and of what unrealised losses made only the excess over the
    free quota; without it both share the quota (rule book section 4.4).
    """
    by_loss = unrealised_liability(cash, accrued, unrealised)
    by_cash = larger(0.0, -cash)
    if auto:
        return by_cash + larger(0.0, by_loss - quota)
    return larger(0.0, by_cash + by_loss - quota)


def hours(start: int, end: int) -> tuple[int, ...]:
    """The full hours in (start, end], ms UTC: interest accrues on what is owed then, whole, and is deducted on the same
    grid. Borrowed at 14:55 and repaid at 14:57 costs nothing, still owed at 15:00 a full hour."""
    first = start // HOUR * HOUR + HOUR
    return tuple(range(first, end + 1, HOUR))


def interest(bearing: Number, hourly: Number) -> Number:
    """Interest of one hour: simple; it enters the debt, and so the next hour's base, when it is deducted."""
    return bearing * hourly


# -- repayment -------------------------------------------------------------------------------------------------------


def forced_repayment(owed: float, quota: float, share: float, auto: bool) -> float:
    """Coins that a forced repayment buys back: with auto-borrow off, once the debt is above the free quota, `share` of
    the quota, and whatever more brings the debt back to it (rule book section 5.1)."""
    if auto or owed <= quota * (1.0 + ROUNDING):
        return 0.0
    return min(owed, max(share * quota, owed - quota))


def conversion_order(
    first_rates: Mapping[str, float], order: str, liquidity: Iterable[str] = ()
) -> tuple[str, ...]:
    """Which coins are sold, first to last, to repay a debt: by the discount rate of their first tier, then liquidity.

    `order`: "lowest-rate-first" (page of 2020 to 2022) or "highest-rate-first" (the newer page); coins at rate 0 never.
    `liquidity`: coins, the most liquid first; others follow by name.
    """
    rank = {currency: i for i, currency in enumerate(liquidity)}
    sign = 1.0 if order == "lowest-rate-first" else -1.0
    coins = [currency for currency, rate in first_rates.items() if rate > 0]
    return tuple(sorted(coins, key=lambda c: (sign * first_rates[c], rank.get(c, len(rank)), c)))


def reduction(owed: float, tiers: Tiers) -> float:
    """How much one forced step takes off a debt: down to the ceiling of the tier below, the whole of it in tier 1."""
    below = tiers.below(tier_of(owed, tiers))
    return owed if below is None else owed - below.max_size


def _shape(value: Number) -> Number:
    """Arrays over instants stay arrays, everything else is a float."""
    return value if isinstance(value, np.ndarray) and value.ndim else float(value)
