"""The currencies of a pool that is the whole account: equity, what orders freeze, debts, and what counts as collateral.

Source: rule book of multi-currency margin, sections 0 to 3. Numbers are floats, or arrays over instants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bt_margin.model.account import Account, Order
from bt_margin.model.borrowing import Holdings
from bt_margin.model.market import Market
from bt_margin.model.number import Number, anywhere, larger, least, smaller, total
from bt_margin.model.orders import Orders, Queue, added
from bt_margin.modes import borrow, cross, options, spot_margin
from bt_margin.modes.base import Pool, remembers_last

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


class Line(NamedTuple):
    """One currency, in coins of it. `frozen` has four parts: given by spot orders, premiums of options to be bought,
    isolated orders, estimated fees of contracts and options to be opened."""

    currency: str
    cash: float  # OKX `cashBal`
    accrued: float  # interest that is owed and not deducted yet
    unrealised: Number
    option_value: Number
    given: Number
    premiums: Number
    isolated: Number
    fees: Number
    usd: Number
    backing: Number  # what collateral, debts and limits are measured by: equity, with or without option value
    lowest: float = math.nan  # backing over all instants; not known where options are part of it

    @property
    def equity(self) -> Number:
        """OKX `eq`: cash + unrealised profit + option value - accrued interest."""
        return self.cash - self.accrued + self.unrealised + self.option_value

    @property
    def frozen(self) -> Number:
        """OKX `frozenBal`."""
        return self.given + self.premiums + self.isolated + self.fees

    @property
    def available_equity(self) -> Number:
        return borrow.available_equity(self.backing, self.frozen)

    @property
    def available_balance(self) -> Number:
        """What may pay for spot, premiums and isolated margin without borrowing: unrealised profit is not in it."""
        return borrow.available_equity(self.cash - self.accrued, self.frozen)

    @property
    def potential_borrow(self) -> Number:
        frozen = self.frozen
        if isinstance(frozen, float) and frozen <= self.lowest:
            return 0.0
        return borrow.potential_borrow(self.backing, frozen)

    @property
    def liability(self) -> Number:
        return borrow.liability(self.backing)


def holdings(account: Account) -> Holdings:
    """The money of an account as its one pool sees it."""
    return Holdings(dict(account.balances), dict(account.accrued), account.borrowing)


def of(pool: Pool) -> Holdings:
    """What an account pool holds."""
    if pool.holdings is None:
        raise ValueError(f"pool {pool.name} is not a whole account")
    return pool.holdings


def trades_coins(order: Order) -> bool:
    """True for a spot order of an account pool: it gives one coin and takes another, borrowed or not."""
    return order.instrument.is_spot and order.margin_mode != "isolated"


def spot_price(order: Order, market: Market) -> Number:
    """The order's price, the last trade at the market."""
    return market.last(order.symbol) if order.price is None else order.price


def given_in(order: Order) -> str:
    """The currency that a spot order gives away."""
    return order.instrument.base if order.side == "sell" else order.instrument.quote


def given(order: Order, market: Market) -> tuple[str, Number]:
    """What a spot order gives away: (currency, amount)."""
    return given_in(order), order.size if order.side == "sell" else order.size * spot_price(order, market)


def worth(queue: Queue, market: Market) -> Number:
    """What the coins of a queue of spot orders cost at its prices, in quote coin."""
    return added(lambda price, size: size * price, queue.limits(market), queue.sizes)


@remembers_last
def parts(pool: Pool) -> dict[str, Pool]:
    """The contracts and options of an account pool by the currency they settle in, each as a cross pool of it, in order
    of name."""
    orders, balances = pool.orders.among(lambda order: not order.instrument.is_spot), of(pool).balances
    settled = {position.currency for position in pool.positions}
    settled |= {queue.head.instrument.settle for queue in orders.queues}

    def part(currency: str) -> Pool:
        positions = tuple([p for p in pool.positions if p.currency == currency])
        paid = orders if len(settled) == 1 else orders.among(lambda order: order.instrument.settle == currency)
        return Pool(currency, cross.CROSS, currency, balances.get(currency, 0.0), positions, paid)

    return {currency: part(currency) for currency in sorted(settled)}


def line(pool: Pool, currency: str, market: Market, rules: Rules) -> Line | None:
    """That of one currency; None where the pool has nothing to do with it."""
    return next((row for row in lines(pool, market, rules) if row.currency == currency), None)


@remembers_last
def lines(pool: Pool, market: Market, rules: Rules) -> tuple[Line, ...]:
    """Every currency that the pool holds, owes, settles or has orders in, by name. Raises where a price is missing."""
    money, settled = of(pool), parts(pool)
    spot: dict[str, Number] = {}
    isolated: dict[str, Number] = {}
    for queue in pool.orders.queues:
        head = queue.head
        if not head.instrument.is_spot:
            continue
        if trades_coins(head):
            amount = queue.size if head.side == "sell" else worth(queue, market)
            spot[given_in(head)] = spot.get(given_in(head), 0.0) + amount
        elif not head.closes:
            for currency, paid in queue.by_currency():
                isolated[currency] = isolated.get(currency, 0.0) + spot_margin.orders_margin(paid, market)
    names = {*spot, *isolated, *settled}
    for amounts in (money.balances, money.accrued):
        for name, amount in amounts.items():
            if amount:
                names.add(name)
    rows = []
    for name in sorted(names):
        cash, accrued = money.balances.get(name, 0.0), money.accrued.get(name, 0.0)
        value = upl = counted = premiums = fees = 0.0  # type: Number
        held, sub = isolated.get(name, 0.0), settled.get(name)
        if sub is not None and sub.positions:
            upl = cross.backing(sub, market)
            value = sum([p.value(market) for p in sub.positions if p.instrument.is_option], 0.0)
            counted = value if _backs(money, rules) else 0.0
        if sub is not None and sub.orders.queues:
            _, more, fees = cross.reserved(sub, market, rules)
            held = held + more
            premiums = sum([options.premiums(queue, queue.sizes, market) for queue in sub.orders.queues
                            if queue.head.instrument.is_option and queue.head.side == "buy"], 0.0)
        backing = cash - accrued + upl
        lowest = least(backing)
        if isinstance(counted, np.ndarray) or counted:
            backing, lowest = backing + counted, math.nan
        rows.append(Line(name, cash, accrued, upl, value, spot.get(name, 0.0), premiums, held, fees, market.usd(name),
                         backing, lowest))
    return tuple(rows)


def _backs(money: Holdings, rules: Rules) -> bool:
    """True where what options are worth backs the account."""
    return rules.multi_currency.option_value if money.option_value is None else money.option_value


def discounted(currency: str, amount: Number, usd: Number, off: frozenset[str], rules: Rules,
               lowest: float = math.nan) -> Number:
    """What an amount counts for in USD (OKX `disEq`): a holding through its discount tiers, a debt in full.

    `lowest`: the amount over all instants, where it is known. Raises NoRuleInForce for a holding whose discount is not
    known; a coin switched off counts nothing.
    """
    owned, owed = amount, 0.0 * usd  # a price that is no number makes none, whatever is held
    lowest = least(amount) if lowest != lowest else lowest
    if not lowest >= 0:
        owned, owed = larger(amount, 0.0), smaller(amount, 0.0) * usd
    if currency in off or not (lowest > 0 or anywhere(owned > 0)):
        return owed
    counted: Number = rules.discount(currency).weigh(owned, usd)
    return counted if lowest >= 0 and isinstance(owed, float) and owed == 0.0 else owed + counted


def costs_interest(line: Line) -> bool:
    """True where a currency is owed, by its cash or by unrealised losses, at one of the instants at least."""
    if line.lowest >= 0:
        return line.cash < 0
    return line.cash < 0 or anywhere(line.cash - line.accrued + line.unrealised < 0)


def order_loss(rows: Iterable[Line], orders: Orders, pool: Pool, market: Market, rules: Rules) -> Number:
    """What adjusted equity would fall by if the resting spot orders were filled at their prices: USD, zero or more.

    The term is the venue's, its evaluation inferred: all orders together, discount tiers judged anew (section 2).
    """
    moves: dict[str, Number] = {}
    for queue in orders.queues:
        if trades_coins(queue.head):
            pair, cost = queue.head.instrument, worth(queue, market)
            kept = 1.0 - rules.fees("spot").taker  # of what comes in
            flows = {pair.base: queue.size * kept, pair.quote: -cost}
            if queue.head.side == "sell":
                flows = {pair.base: -queue.size, pair.quote: cost * kept}
            for currency, amount in flows.items():
                moves[currency] = moves.get(currency, 0.0) + amount
    if not moves:
        return 0.0
    off, now = of(pool).borrowing.collateral_off, {row.currency: row for row in rows}
    change: Number = 0.0
    for currency, move in sorted(moves.items()):
        row = now.get(currency)
        before, usd = (0.0, market.usd(currency)) if row is None else (row.backing, row.usd)
        change = change + discounted(currency, before + move, usd, off, rules)
        change = change - discounted(currency, before, usd, off, rules)
    return larger(0.0, -change)


def adjusted(pool: Pool, rows: tuple[Line, ...], market: Market, rules: Rules) -> dict[str, Number]:
    """The parts of adjusted equity (OKX `adjEq`) in USD, by name; their sum is it."""
    off = of(pool).borrowing.collateral_off
    parts: dict[str, Number] = {}
    for row in rows:
        parts[f"discounted {row.currency}"] = discounted(row.currency, row.backing, row.usd, off, rules, row.lowest)
    if not pool.orders.queues:
        return parts
    for name, told in _HELD.items():
        held: Number = 0.0
        for row in rows:
            part = getattr(row, name)
            if (isinstance(part, np.ndarray) or part) and row.currency not in off:
                held = held + part * row.usd
        if isinstance(held, np.ndarray) or held:
            parts[told] = -held
    if rules.multi_currency.order_loss:
        loss = order_loss(rows, pool.orders, pool, market, rules)
        if anywhere(loss != 0.0):
            parts["spot order loss"] = -loss
    return parts


def adjusted_equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """OKX `adjEq` of a pool that is the whole account, in USD."""
    return total(list(adjusted(pool, lines(pool, market, rules), market, rules).values()))


_HELD = {"premiums": "option premiums", "isolated": "isolated orders", "fees": "order fees"}
