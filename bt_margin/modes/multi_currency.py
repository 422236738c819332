"""Multi-currency margin: the account is one pool, coins back it at a discount, a missing coin is borrowed.

ratio = adjusted equity / (maintenance margin + liquidation fee), all in USD. A debt is negative equity of a currency
and needs margin of its own. Source: rule book of multi-currency margin, sections 0 to 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np

from bt_margin.errors import NotSupported
from bt_margin.model.account import Account
from bt_margin.model.assessment import Charge
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import Number, anywhere, smaller
from bt_margin.model.order import Order
from bt_margin.model.orders import Queue
from bt_margin.modes import borrow, conversion, cross, currencies, ladder
from bt_margin.modes.base import MarginMode, Pool, as_cut, judge

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

NAME = "account"


def pools(account: Account) -> Iterable[Pool]:
    """One pool: all currencies, all cross positions, all orders of the account."""
    positions = tuple(account.held("cross"))
    for position in positions:
        if isinstance(position, MarginPosition):
            raise NotSupported(
                f"{position.symbol}: multi-currency margin has no cross loans, a debt is a negative balance; "
                "put its assets and its liability among the balances"
            )
    money = currencies.holdings(account)
    yield as_cut(Pool(NAME, MULTI_CURRENCY, "USD", 0.0, positions, cross.pooled_orders(account), money))


def equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """Adjusted equity in USD (OKX `adjEq`): discounted currencies, less what orders hold and what they would lose."""
    return currencies.adjusted_equity(pool, market, rules)


def charges(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """Contracts and options as in cross margin, in USD, and borrow margin for what each currency owes or may owe."""
    rows: list[Charge] = []
    settled = currencies.parts(pool)
    for line in currencies.lines(pool, market, rules):
        part = settled.get(line.currency)
        if part is not None:
            rows += _in_usd(part, line.usd, market, rules)
        owed = line.potential_borrow
        if anywhere(owed > 0):
            rows.append(borrow.charge(line.currency, owed, line.usd, currencies.of(pool).borrowing.leverage, rules))
    return tuple(rows)


def contract_margins(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """The charges of contracts and options alone."""
    return tuple(row for currency, part in currencies.parts(pool).items()
                 for row in _in_usd(part, market.usd(currency), market, rules))


def _in_usd(part: Pool, usd: Number, market: Market, rules: Rules) -> Iterable[Charge]:
    par = isinstance(usd, float) and usd == 1.0  # nearly always, and arrays take their time
    where = {"currency": part.currency, "usd": usd}
    for row in cross.charges(part, market, rules):
        initial, maintenance, fee, detail = row.initial, row.maintenance, row.fee, {**row.detail, **where}
        if par:
            yield Charge(row.name, row.unit, initial, maintenance, fee, detail)
        else:
            yield Charge(row.name, row.unit, initial * usd, maintenance * usd, fee * usd, detail)


def early_cancellation(pool: Pool, market: Market, rules: Rules) -> tuple[int, ...]:
    """Orders that risk control cancels before a liquidation (rule book section 7).

    The account: adjusted equity below maintenance margin + initial margin of opening orders + their fees, and every
    order that could add to what is required goes. A currency whose available balance is negative: its isolated openings
    and option purchases go, and without auto-borrow its spot orders.
    """
    account, by_currency = _spares(pool, market, rules)
    if float(account) < 0:
        return tuple(order.id for order in pool.orders.among(_adds))
    auto = currencies.of(pool).borrowing.auto
    short = {currency for currency, spare in by_currency.items() if float(spare) < 0}
    if not short:
        return ()

    def going(queue: Queue) -> Queue | None:
        asked = _paid_in(queue, auto)
        return queue if asked and asked <= short else queue.only(short) if asked & short else None

    return tuple(order.id for order in pool.orders.each(going))


def early_spare(pool: Pool, market: Market, rules: Rules) -> Number:
    """How far the tests of `early_cancellation` are from failing, the nearest of them; infinity where none is made."""
    account, by_currency = _spares(pool, market, rules)
    return reduce(smaller, by_currency.values(), account)


def _spares(pool: Pool, market: Market, rules: Rules) -> tuple[Number, dict[str, Number]]:
    """What is left of adjusted equity, in USD, and of each currency that orders are paid in, in coins of it."""
    if rules.multi_currency.early_cancel == "none" or not pool.orders or not pool.at_risk:
        return math.inf, {}
    rows, auto = currencies.lines(pool, market, rules), currencies.of(pool).borrowing.auto
    account: Number = math.inf
    if any(_adds(queue.head) for queue in pool.orders.queues):
        judged = judge(pool, market, rules)
        needs = judged.maintenance + sum([row.fees * row.usd for row in rows])
        needs = needs + sum([row.initial for row in judged.charges if row.name == "order margin"])
        account = judged.equity - needs
    asked: frozenset[str] = frozenset().union(*[_paid_in(queue, auto) for queue in pool.orders.queues])
    found: dict[str, Number] = {}
    for row in rows if asked else ():
        if row.currency in asked:  # with auto-borrow, what spot orders give and fees may be borrowed
            held = row.premiums + row.isolated if auto else row.frozen
            left: Number = row.cash - row.accrued - held * (1 - 1e-12)
            if isinstance(held, np.ndarray):
                found[row.currency] = np.where(held > 0, left, math.inf)
            else:
                found[row.currency] = left if held > 0 else math.inf
    return account, found


def _adds(order: Order) -> bool:
    """True for an order that could add to what is required."""
    return not order.closes and order.margin_mode != "isolated"


def _paid_in(queue: Queue, auto: bool) -> frozenset[str]:
    """The currencies whose balance the orders of a queue have to find there."""
    head = queue.head
    if currencies.trades_coins(head):
        return frozenset() if auto and not head.is_cash else frozenset({currencies.given_in(head)})
    buys = head.instrument.is_option and head.side == "buy"
    return queue.currencies if not head.closes and (head.margin_mode == "isolated" or buys) else frozenset()


def risk_band(margin_ratio: float) -> str:
    """The venue's word for a ratio: low above 5, medium above 3, high above 1, liquidation at 1 and below."""
    for bound, word in ((5.0, "low"), (3.0, "medium"), (1.0, "high")):
        if margin_ratio > bound:
            return word
    return "liquidation"


MULTI_CURRENCY = MarginMode(
    name="multi-currency",
    pools=pools,
    equity=equity,
    charges=charges,
    ladder=(ladder.cancel_orders, ladder.hedged_pairs, ladder.delta_neutral,
            partial(ladder.unhedged_largest_relief, contract_margins), conversion.convert_collateral),
    early=early_cancellation,
    spare=early_spare,
    whole=True,
)
