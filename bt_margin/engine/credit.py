"""May an order rest where the whole account stands behind its debts: the gate of multi-currency margin.

With auto-borrow an order is taken while adjusted equity covers initial margin, borrow margin included, and the borrow
limits hold; without it the coin itself has to be there too. Source: rule book of multi-currency margin, sections 4.5,
4.6 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bt_margin.engine import spot_margin
from bt_margin.engine.orders import Refusal, all_of_it, cut_to_position, listed, met_before, opening, within_tiers
from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import OrderReport
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.orders import Queue
from bt_margin.modes import borrow, currencies, multi_currency
from bt_margin.modes.assess import order_report
from bt_margin.modes.base import MarginMode, Pool, judge
from bt_margin.modes.valuation import order_price
from bt_margin.rules.book import Rules

TINY = 1e-9


def check(account: Account, order: Order, market: Market, rules: Rules, *, filling: bool = False) -> Order | Refusal:
    """The order as the venue takes it (closing orders cut to the position), or why it is refused.

    One that rests comes after those that came before it; one that is `filling` meets the position now.
    """
    taken = listed(order, market)
    if isinstance(taken, Refusal):
        return taken
    order = taken
    if order.margin_mode == "isolated" and not rules.multi_currency.isolated:
        return Refusal("isolated positions are no longer taken in multi-currency margin (50072)")
    if currencies.trades_coins(order):
        if order.reduce_only:
            return Refusal("reduce-only is not for spot in multi-currency margin (51133)")
        return _afford(account, all_of_it(order, account), market, rules)
    settle, queue = order.instrument.settle, met_before(account, order, filling)
    off = account.borrowing.collateral_off
    if order.margin_mode == "cross" and settle in off and opening(account, order, queue) > 0:
        return Refusal(f"{settle} is switched off as collateral: no cross contract settles in it (54024)")
    if order.instrument.is_spot:  # isolated spot margin
        answer = spot_margin.prepare(account, order, market, rules)
        if isinstance(answer, str):
            return Refusal(answer)
        order = answer
    elif order.closes:
        closing = cut_to_position(account, order)
        if isinstance(closing, Refusal) or not order.instrument.is_option:
            return closing
        return _afford(account, closing, market, rules)
    return within_tiers(account, order, market, rules, queue) or _afford(account, order, market, rules, queue)


def report(account: Account, order: Order, market: Market, rules: Rules) -> OrderReport:
    """How the venue would answer this order: the position builder's row. A shortfall of margin is in USD."""
    row = order_report(account, order, market, rules, multi_currency.MULTI_CURRENCY)
    answer = check(account, order, market, rules)
    if isinstance(answer, Refusal):
        return replace(row, accepted=False, reason=answer.reason, shortfall=answer.shortfall)
    return row


def pool_with(account: Account, order: Order, mode: MarginMode) -> Pool:
    """The one pool of a whole account with one more order in it."""
    trial = account.copy()
    trial.place(order)
    (pool,) = mode.pools(trial)
    return pool


def pool_before(account: Account, mode: MarginMode) -> Callable[[], Pool]:
    """The one pool of a whole account as it is, cut when it is asked for: most orders are taken without."""

    def before() -> Pool:
        (pool,) = mode.pools(account)
        return pool

    return before


def may_owe(
    account: Account, before: Callable[[], Pool], after: Pool, market: Market, rules: Rules
) -> Refusal | None:
    """Why no more may be owed of some currency than is already; None where that is fine."""
    for row in currencies.lines(after, market, rules):
        name, amount = row.currency, float(row.potential_borrow)
        if amount <= TINY or amount <= _owed(before(), name, market, rules) + TINY:
            continue
        if not account.borrowing.auto:
            return Refusal(f"insufficient {name}, and auto-borrow is not enabled (51008, 1003)", amount, name)
        if name in account.borrowing.collateral_off:
            return Refusal(f"{name} is switched off as collateral and cannot be borrowed", amount, name)
        try:
            why, over = borrow.excess(name, amount, account.borrowing.leverage, rules)
        except NoRuleInForce as error:
            return Refusal(f"{name} cannot be borrowed: {error}", amount, name)
        if why:
            return Refusal(why, over, name)
    return None


def _owed(pool: Pool, currency: str, market: Market, rules: Rules) -> float:
    line = currencies.line(pool, currency, market, rules)
    return 0.0 if line is None else float(line.potential_borrow)


def _afford(
    account: Account, order: Order, market: Market, rules: Rules, queue: Queue | None = None
) -> Order | Refusal:
    mode = multi_currency.MULTI_CURRENCY
    before, after = pool_before(account, mode), pool_with(account, order, mode)
    refusal = (own_funds(account, order, before, market, rules, queue)
               or may_owe(account, before, after, market, rules))
    if refusal is not None:
        return refusal
    judged = judge(after, market, rules)
    free = float(judged.equity) - float(judged.initial)
    tolerance = TINY * max(1.0, abs(float(judged.equity)))
    if free >= -tolerance:
        return order
    was = judge(before(), market, rules)
    if free >= float(was.equity) - float(was.initial) - tolerance:  # what takes nothing is not refused (inferred)
        return order
    return Refusal("adjusted equity in USD is less than initial margin (51008)", -free, "USD")


def own_funds(
    account: Account, order: Order, before: Callable[[], Pool], market: Market, rules: Rules, queue: Queue | None = None
) -> Refusal | None:
    """What has to be there besides, `before` the order: balance for premiums, isolated margin and spot orders in `cash`
    mode; without auto-borrow also balance for every spot order, and available equity for what contracts open of a
    position that the orders of the `queue` before it meet first."""
    auto = account.borrowing.auto
    if currencies.trades_coins(order):
        name, amount = currencies.given(order, market)
        if auto and not order.is_cash:
            return None
        needs, what = float(amount), "available balance"
    elif order.margin_mode == "isolated" or (order.instrument.is_option and order.side == "buy"):
        name = order.currency
        row = order_report(account, order, market, rules, multi_currency.MULTI_CURRENCY)
        needs, what = row.initial_margin + row.fee, "available balance"
    elif not auto and (opens := opening(account, order, queue)) > 0:
        name, what = order.currency, "available equity"
        if order.instrument.is_option:  # a sale: the margin that it reserves
            needs = order_report(account, order, market, rules, multi_currency.MULTI_CURRENCY).initial_margin
        else:
            value = float(order.instrument.notional(opens, order_price(order, market)))
            needs = value / order.leverage
    else:
        return None
    line = currencies.line(before(), name, market, rules)
    has = 0.0
    if line is not None:
        has = float(line.available_balance if what == "available balance" else line.available_equity)
    if needs <= has + TINY * max(1.0, abs(has)):
        return None
    return Refusal(f"insufficient {what} of {name} (51008)", needs - has, name)


def check_choices(account: Account, rules: Rules) -> None:
    """Raise InputError for what the venue would not let the owner of an account choose.

    A coin that is owed, or that a cross position settles in, is collateral (54024, 59662 to 59665); the switch exists
    since 2025-03-26; no leverage setting is above a currency's maximum (59104).
    """
    off = sorted(account.borrowing.collateral_off)
    if off and not rules.multi_currency.collateral_switch:
        raise InputError(f"borrow.collateral_off: expected no coin before 2025-03-26, found {', '.join(off)}")
    for currency, leverage in account.borrowing.leverage.items():
        if why := borrow.refused_leverage(currency, leverage, rules):
            raise InputError(f"borrow.leverage.{currency}: {why}")
    settled = {position.currency for position in account.held("cross")}
    for currency in sorted(account.borrowing.collateral_off):
        owed = account.balance(currency) - account.accrued.get(currency, 0.0) < 0
        if owed or currency in settled:
            reason = "is owed" if owed else "is what a cross position settles in (54024)"
            raise InputError(f"borrow.collateral_off: {currency} {reason}; leave it on")


def dissolve(loan: MarginPosition, account: Account) -> None:
    """A cross loan among the balances: where the account is the pool there are no loans, only negative balances."""
    for currency, amount in ((loan.asset_currency, loan.assets), (loan.debt_currency, -loan.liability)):
        account.balances[currency] = account.balance(currency) + amount
        account.opening[currency] = account.opening.get(currency, 0.0) + amount
    if loan.interest:
        account.accrued[loan.debt_currency] = account.accrued.get(loan.debt_currency, 0.0) + loan.interest
        account.opening[loan.debt_currency] = account.opening.get(loan.debt_currency, 0.0) - loan.interest
