"""May an order rest in portfolio margin: the gate.

Source: rule book portfolio margin, section 6; addendum, sections 2.6 and 3j (51008 with its sub-codes official, that
one of two checks is enough is a reading, and a graded parameter).
"""

from __future__ import annotations

from dataclasses import replace

from bt_margin.engine.credit import may_owe, own_funds, pool_before, pool_with
from bt_margin.engine.orders import (
    Refusal,
    all_of_it,
    cut_to_position,
    largest_taken,
    listed,
    met_before,
    within_tiers,
)
from bt_margin.engine.spot_margin import prepare
from bt_margin.errors import NoRuleInForce
from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import OrderReport
from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.assess import order_report
from bt_margin.modes.base import judge
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.modes.portfolio_report import limit
from bt_margin.rules.book import Rules

TINY = 1e-9


def accepts(
    equity: float, initial: float, equity_after: float, initial_after: float, *, order_check: str = "either"
) -> bool:
    """May an order be taken: adjusted equity covers initial margin with it (1009), or changes by no less than initial
    margin does (1010). All USD; `order_check` "covered" leaves the second way out."""
    tolerance = TINY * max(1.0, abs(equity_after))
    if equity_after >= initial_after - tolerance:
        return True
    return order_check == "either" and equity_after - equity >= initial_after - initial - tolerance


def check(account: Account, order: Order, market: Market, rules: Rules, *, filling: bool = False) -> Order | Refusal:
    """The order as the venue takes it (closing orders cut to the position), or why it is refused.

    One that rests comes after those that came before it; one that is `filling` meets the position now.
    """
    taken = listed(order, market)
    if isinstance(taken, Refusal):
        return taken
    order = taken
    if order.position_side != "net":
        return Refusal("portfolio margin is one-way: position_side net")
    if order.instrument.is_spot and order.margin_mode == "isolated":
        if not rules.portfolio_account.isolated_loans:
            return Refusal("isolated spot margin is no longer taken in portfolio margin (50072)")
        answer = prepare(account, order, market, rules)
        if isinstance(answer, str):
            return Refusal(answer)
        order = answer
    elif currencies.trades_coins(order):
        if order.reduce_only:
            return Refusal("reduce-only is not for spot in portfolio margin (51133)")
        order = all_of_it(order, account)
    elif order.closes:
        closing = cut_to_position(account, order)
        if isinstance(closing, Refusal):
            return closing
        order = closing
    if order.margin_mode == "isolated" and not order.closes:
        # on its own: tiers, leverage, and margin that is there, not borrowed
        before, queue = pool_before(account, PORTFOLIO), met_before(account, order, filling)
        refusal = (within_tiers(account, order, market, rules, queue)
                   or own_funds(account, order, before, market, rules, queue))
        if refusal is not None:
            return refusal
    return _within_limit(account, order, rules) or _afford(account, order, market, rules)


def largest(account: Account, order: Order, market: Market, rules: Rules) -> float:
    """The largest size of this order that would be taken, in whole lots, beyond its own if need be."""
    return largest_taken(check, account, order, market, rules, beyond=True)


def report(account: Account, order: Order, market: Market, rules: Rules) -> OrderReport:
    """How the venue would answer this order: the position builder's row. A shortfall of margin is in USD."""
    row = order_report(account, order, market, rules, PORTFOLIO)
    answer = check(account, order, market, rules)
    if isinstance(answer, Refusal):
        return replace(row, accepted=False, reason=answer.reason, shortfall=answer.shortfall)
    return row


def _within_limit(account: Account, order: Order, rules: Rules) -> Refusal | None:
    """What a family may hold, orders of its side included. A limit that nobody knows refuses nothing."""
    if not order.instrument.is_contract or order.margin_mode != "cross":
        return None
    try:
        most = limit(order.symbol, rules)
    except NoRuleInForce:
        return None
    if most is None:
        return None
    family = order.instrument.family
    held = sum(p.size for p in account.held("cross") if p.instrument.family == family) * order.sign
    others = account.resting_besides(order.id)
    rests = sum(queue.size for queue in others.of_family(family).queues
                if queue.head.side == order.side and not queue.head.closes)
    if held + rests + order.size <= most * (1 + 1e-12) or order.closes:
        return None
    return Refusal(f"position would exceed the {most:g} contracts that {family} may hold (51004)",
                   largest_size=max(0.0, order.instrument.floor(most - held - rests)))


def _afford(account: Account, order: Order, market: Market, rules: Rules) -> Order | Refusal:
    before, after = pool_before(account, PORTFOLIO), pool_with(account, order, PORTFOLIO)
    refusal = may_owe(account, before, after, market, rules)
    if refusal is not None:
        return refusal
    if order.closes:
        return order  # what lowers risk may always be tried (2.6): a premium paid ends as much debt
    then, way = judge(after, market, rules), rules.portfolio_orders.order_check
    equity, initial = float(then.equity), float(then.initial)
    if equity >= initial:
        return order  # whatever it was before
    earlier = judge(before(), market, rules)
    if accepts(float(earlier.equity), float(earlier.initial), equity, initial, order_check=way):
        return order
    return Refusal("adjusted equity in USD is less than initial margin (51008, 1009 and 1010)", initial - equity, "USD")
