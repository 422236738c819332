"""How an account that stands behind its debts is undone (okx-multi-currency.md, sections 7 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.oracle import debts, hedges, phases
from tests.oracle.book import Book, Position, opening_parts
from tests.oracle.contract import ZERO
from tests.oracle.forced import BREACH, force, force_option, step_size
from tests.oracle.multi_currency import Wealth, in_account
from tests.oracle.option import OptionPosition
from tests.oracle.portfolio import Portfolio

POOL = "account"
HAIR = Decimal("1e-12")
"""Of what is held back: rounding cancels nothing (the engine's documented constant)."""


def holds(book: Book) -> bool:
    """Something may be liquidated: positions, debts, or orders that may make one (the engine's documented reading)."""
    owing = any(amount < book.accrued.get(c, ZERO) for c, amount in book.cash.items())
    orders = in_account(book) or book.spot or book.option_orders
    return bool(list(book.held("cross")) or book.options or orders or owing)


def needing(book: Book) -> bool:
    """Positions that have to hold margin: long options do not."""
    return bool(list(book.held("cross"))) or any(held.size < 0 for held in book.options.values())


def cancel(book: Book, gone: list[int], ratio: Decimal | None, time: int) -> None:
    for order_id in gone:
        book.withdraw(order_id)
    book.say("OrdersCancelled", time, POOL, *sorted(gone), margin_ratio=ratio or ZERO)


def cancel_early(wealth: Wealth, time: int) -> bool:
    """Risk control, before a liquidation (section 7). The account: adjusted equity below maintenance margin + initial
    margin of opening orders + their fees, and every order that could add goes at once. A coin: its available balance is
    negative, and the isolated openings and option purchases that it would pay for go, without auto-borrow its spot
    orders too; with auto-borrow what spot orders give and fees may be borrowed. True: some went.
    """
    book, auto = wealth.book, wealth.terms.auto
    if not (book.orders or book.spot or book.option_orders):
        return False
    needs = wealth.maintenance() + wealth.opening_margin()
    needs += sum((wealth.fees(currency) * wealth.usd(currency) for currency in wealth.currencies), ZERO)
    adding = [order.id for order in book.orders.values() if not order.only_closes and order.mode == "cross"]
    adding += [order.id for order in book.option_orders.values() if not order.only_closes] + list(book.spot)
    if wealth.adjusted_equity() < needs and adding:
        cancel(book, adding, wealth.ratio(), time)
        return True
    paid = [(order.id, order.contract.settle) for order in in_account(book) if order.mode == "isolated"]
    paid += [(order.id, order.contract.coin) for order in book.option_orders.values()
             if order.buy and not order.only_closes]
    paid += [(order.id, order.gives()[0]) for order in book.spot.values() if not auto]
    gone = []
    for order_id, currency in paid:
        held = wealth.held_back(currency) if auto else wealth.frozen(currency)
        if wealth.own(currency) < held * (1 - HAIR):
            gone.append(order_id)
    if gone:
        cancel(book, gone, wealth.ratio(), time)
    return bool(gone)


def prepare(see: Callable[[], Wealth], time: int) -> bool:
    """What comes before any liquidation: forced repayment above the free quota, early cancellation. True: some was."""
    wealth = see()
    if not holds(wealth.book):
        return False
    repaid = not wealth.terms.auto and debts.repay_above_quota(wealth, time)
    return repaid or cancel_early(wealth, time)


def control(see: Callable[[], Wealth], warn: Callable[[Decimal], None], time: int) -> bool:
    """Liquidation at a ratio of 1 or less. True: it was."""
    wealth = see()
    ratio = wealth.ratio()
    if not holds(wealth.book) or ratio is None or ratio > BREACH:
        return False
    warn(ratio)
    liquidate(see, time)
    return True


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
        gone = [order.id for order, part in opening_parts(book, list(book.orders.values())) if part]
        gone += [order.id for order, part in wealth.option_orders if part] + list(book.spot)
        if not gone and isinstance(wealth, Portfolio):  # then all (portfolio addendum 3i)
            gone = [order.id for order in in_account(book)] + list(book.option_orders)
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
    owing = bool(left.but(orders={}, spot={}, option_orders={}).required())
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
        return next_phase(wealth, list(wealth.book.held("cross")))
    cuts, step = hedges.next_step(wealth)
    held = {p.contract.symbol: p for p in wealth.book.held("cross")}
    return [(held.get(symbol) or wealth.book.options[symbol], contracts, step) for symbol, contracts in cuts.items()]


def next_phase(wealth: Wealth, held: list[Position]) -> list[tuple[Any, Decimal, str]]:
    """The forced orders of the next phase that has something to do; margins and relief in USD. Short options are
    unhedged positions, bought back whole: no tier steps them down.
    """
    book, marks = wealth.book, wealth.prices
    sizes: dict[str, Decimal] = {}
    for position in held:
        sizes[position.contract.family] = sizes.get(position.contract.family, ZERO) + abs(position.size)

    def margin(position: Position) -> Decimal:
        rate = position.contract.rate(sizes[position.contract.family])
        return position.value(marks) * rate * wealth.usd(position.contract.settle)

    def cut(position: Any) -> Decimal:
        if isinstance(position, OptionPosition):
            return abs(position.size)
        family = position.contract.family
        value = sum((other.value(marks) * wealth.usd(other.contract.settle) for other in held
                     if other.contract.family == family), ZERO)
        return step_size(book, position, sizes[family], wealth.adjusted_equity() - wealth.required(), value)

    def relief(position: Any, contracts: Decimal) -> Decimal:
        """What was won or lost by then stays in the balance, an option is paid for at its mark."""
        currency = position.contract.coin if isinstance(position, OptionPosition) else position.contract.settle
        cash, size = book.cash.get(currency, ZERO), position.size
        if isinstance(position, OptionPosition):
            won = size * position.contract.unit * marks[position.contract.symbol] * contracts / abs(size)
        else:
            won = position.upl(marks) * contracts / abs(size)
        book.cash[currency] = cash + won
        position.size -= contracts if size > 0 else -contracts
        after = wealth.but().required()
        position.size, book.cash[currency] = size, cash
        return wealth.required() - after

    short = [option for option in book.options.values() if option.size < 0]
    everything = sorted([*held, *short], key=lambda position: position.key)
    return (phases.hedged_pair(book, held) or phases.delta_pair(held, marks, margin, cut)
            or phases.largest_relief(everything, cut, relief))
