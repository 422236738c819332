"""How an account that stands behind its debts is undone (okx-multi-currency.md, sections 7 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.oracle import debts, hedges, phases
from tests.oracle.book import Book, Position, opening_parts
from tests.oracle.contract import ZERO
from tests.oracle.forced import BREACH, force, force_option, step_size
from tests.oracle.multi_currency import Wealth
from tests.oracle.portfolio import Portfolio

POOL = "account"


def holds(book: Book) -> bool:
    """Something may be liquidated: positions, debts, or orders that may make one (the engine's documented reading)."""
    owing = any(amount < book.accrued.get(c, ZERO) for c, amount in book.cash.items())
    return bool(book.positions or book.options or book.orders or book.spot or owing)


def needing(book: Book) -> bool:
    """Positions that have to hold margin: long options do not."""
    return bool(book.positions) or any(held.size < 0 for held in book.options.values())


def cancel(book: Book, gone: list[int], ratio: Decimal | None, time: int) -> None:
    for order_id in gone:
        book.orders.pop(order_id, None)
        book.spot.pop(order_id, None)
    book.say("OrdersCancelled", time, POOL, *sorted(gone), margin_ratio=ratio or ZERO)


def cancel_early(wealth: Wealth, time: int) -> bool:
    """Risk control, before a liquidation (section 7). The account: adjusted equity below maintenance margin + initial
    margin of opening orders + their fees, and every order that could add goes at once. A coin: its available balance is
    negative, and without auto-borrow the spot orders that give it go. True: some went.
    """
    book = wealth.book
    if not book.orders and not book.spot:
        return False
    needs = wealth.maintenance() + wealth.opening_margin()
    needs += sum((wealth.fees(currency) * wealth.usd(currency) for currency in wealth.currencies), ZERO)
    adding = [order.id for order in book.orders.values() if not order.only_closes] + list(book.spot)
    if wealth.adjusted_equity() < needs and adding:
        cancel(book, adding, wealth.ratio(), time)
        return True
    if wealth.terms.auto:
        return False
    short = {c for c in wealth.currencies if wealth.own(c) - wealth.frozen(c) < 0 < wealth.frozen(c)}
    gone = [order.id for order in book.spot.values() if order.gives()[0] in short]
    if gone:
        cancel(book, gone, wealth.ratio(), time)
    return bool(gone)


def control(see: Callable[[], Wealth], warn: Callable[[Decimal], None], time: int) -> None:
    """Until nothing is left to do: forced repayment above the free quota, early cancellation, liquidation."""
    while holds(see().book):
        wealth = see()
        if not wealth.terms.auto and debts.repay_above_quota(wealth, time):
            continue
        if cancel_early(wealth, time):
            continue
        ratio = wealth.ratio()
        if ratio is None or ratio > 1:
            return
        warn(ratio)
        liquidate(see, time)


def liquidate(see: Callable[[], Wealth], time: int) -> None:
    """At a ratio of 1 or less: open orders, the phases of positions, then coins for debts; judged anew after every
    step. What nobody can pay is the insurance fund's.
    """
    wealth = see()
    book, before, first = wealth.book, wealth.total_equity(), wealth.ratio() or ZERO
    paid = fund_paid(book)
    keys: list[object] = []
    converted = False
    while (ratio := (wealth := see()).ratio()) is not None and ratio <= BREACH:
        gone = [order.id for order, part in opening_parts(book, list(book.orders.values())) if part] + list(book.spot)
        if not gone and isinstance(wealth, Portfolio):
            gone = list(book.orders)  # then all (portfolio addendum 3i)
        if gone:
            cancel(book, gone, ratio, time)
        elif closings := forced_orders(wealth):
            for position, contracts, step in closings:
                order = force if isinstance(position, Position) else force_option
                order(book, position, contracts, wealth.prices[position.contract.symbol], time, POOL, step, ratio)
                keys += [position.key] if position.key not in keys else []
            debts.note(book, time)
        elif needing(book):
            break
        elif debts.convert_collateral(wealth, time):
            converted = True
        else:
            debts.write_off(wealth, time)
            break
    left = see()
    owing = bool(left.but(orders={}, spot={}).required())
    if needing(book) or not (keys or converted) or (owing and not keys):
        return
    refund = sum(((amount - paid.get(c, ZERO)) * left.usd(c) for c, amount in fund_paid(book).items()), ZERO)
    book.say("TakenOver", time, POOL, *keys, margin_ratio=first, loss=before - left.total_equity() + refund,
             refund=refund)


def fund_paid(book: Book) -> dict[str, Decimal]:
    paid: dict[str, Decimal] = {}
    for kind, currency, amount, _ in book.flows:
        if kind == "clawback":
            paid[currency] = paid.get(currency, ZERO) + amount
    return paid


def forced_orders(wealth: Wealth) -> list[tuple[Any, Decimal, str]]:
    """What is closed next, by the phases or, in portfolio margin, its own steps."""
    if not isinstance(wealth, Portfolio):
        return list(next_phase(wealth, list(wealth.book.held("cross"))))
    cuts, step = hedges.next_step(wealth)
    held = {p.contract.symbol: p for p in wealth.book.positions.values()}
    return [(held.get(symbol) or wealth.book.options[symbol], contracts, step) for symbol, contracts in cuts.items()]


def next_phase(wealth: Wealth, held: list[Position]) -> phases.Forced:
    """The forced orders of the next phase that has something to do; margins and relief in USD."""
    book, marks = wealth.book, wealth.prices
    sizes: dict[str, Decimal] = {}
    for position in held:
        sizes[position.contract.family] = sizes.get(position.contract.family, ZERO) + abs(position.size)

    def usd(position: Position) -> Decimal:
        return wealth.usd(position.contract.settle)

    def margin(position: Position) -> Decimal:
        return position.value(marks) * position.contract.rate(sizes[position.contract.family]) * usd(position)

    def cut(position: Position) -> Decimal:
        family = position.contract.family
        value = sum((other.value(marks) * usd(other) for other in held if other.contract.family == family), ZERO)
        return step_size(book, position, sizes[family], wealth.adjusted_equity() - wealth.required(), value)

    def relief(position: Position, contracts: Decimal) -> Decimal:
        """What was won or lost by then stays in the balance (the engine's documented what-if)."""
        currency, size = position.contract.settle, position.size
        cash = book.cash.get(currency, ZERO)
        closed = contracts if size > 0 else -contracts
        book.cash[currency] = cash + position.upl(marks) * contracts / abs(size)
        position.size -= closed
        after = wealth.but().required()
        position.size, book.cash[currency] = size, cash
        return wealth.required() - after

    return (phases.hedged_pair(book, held) or phases.delta_pair(held, marks, margin, cut)
            or phases.largest_relief(held, cut, relief))
