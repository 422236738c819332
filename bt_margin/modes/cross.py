"""Cross margin in a single currency (OKX: Futures mode): one pool per settlement currency.

Sources: rule book section 2; recorded replies RATIO-PEND-*, TIER-PEND-*, CROSS-MET-*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from bt_margin.model.account import Account
from bt_margin.model.assessment import Charge
from bt_margin.model.instrument import Number
from bt_margin.model.market import Market
from bt_margin.model.number import total
from bt_margin.model.orders import Orders, Queue
from bt_margin.modes import ladder, options, spot_margin
from bt_margin.modes.base import MarginMode, Pool, as_cut, remembers_last
from bt_margin.modes.exposure import Exposure
from bt_margin.modes.kept import Kept
from bt_margin.modes.valuation import margin_of, order_initial, taker, value_of

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


def pools(account: Account) -> Iterable[Pool]:
    """One pool per currency that has cash, cross positions or orders; a coin backs only what settles in it."""
    positions = tuple(account.held("cross"))
    orders = pooled_orders(account)
    currencies = {
        *account.balances,
        *(position.currency for position in positions),
        *(loan.debt_currency for loan in spot_margin.loans(account.positions.values())),
        *orders.currencies(),
    }
    for currency in sorted(currencies):
        yield as_cut(Pool(
            currency,
            CROSS,
            currency,
            account.balance(currency),
            tuple(p for p in positions if p.currency == currency),
            orders.paid_in(currency),
        ))


def pooled_orders(account: Account) -> Orders:
    """The orders of an account, isolated ones cut to what they open beyond their own positions, which other pools hold:
    for that they reserve cash. Of several against one position, each finds what the earlier ones left of it."""

    def part(queue: Queue) -> Queue:
        head = queue.head
        return queue.opening(account.held_size(head.key)) if head.margin_mode == "isolated" else queue

    return account.resting.each(part)


@remembers_last
def reserved(pool: Pool, market: Market, rules: Rules) -> tuple[Number, Number, Number]:
    """What resting orders take out of the currency: (given by spot orders, isolated openings, fees of openings).

    The taker fee is frozen even for a sure maker order, at the order price (DEMO-ORDER-FREEZE-1..3). Spot orders
    freeze what they give; their fee comes out of what they receive.
    """
    spot: Number = 0.0
    isolated: Number = 0.0
    fees: Number = 0.0
    for queue in pool.orders.queues:
        head = queue.head
        if head.instrument.is_option:
            given, margin, fee = option_orders(pool, queue, market, rules)
            spot, fees = spot + given, fees + fee
            isolated = isolated + (margin if head.margin_mode == "isolated" else 0.0)
        elif head.is_cash:
            spot = spot + (queue.size if head.side == "sell" else value_of(queue, market))
        elif head.margin_mode == "isolated" and not head.closes:
            if head.instrument.is_spot:  # its fee comes out of what it receives
                isolated = isolated + spot_margin.orders_margin(queue, market)
            else:
                isolated = isolated + margin_of(queue, market)
                fees = fees + value_of(queue, market, taker(head.instrument, rules))
    for queue in pool.openings:
        if not queue.head.instrument.is_contract:
            continue
        fees = fees + value_of(queue, market, taker(queue.head.instrument, rules))
    return spot, isolated, fees


def option_orders(pool: Pool, queue: Queue, market: Market, rules: Rules) -> tuple[Number, Number, Number]:
    """(premiums given, margin, fees) of a queue of option orders: what earlier ones use up of a position is not used
    twice, and closing sells reserve nothing."""
    held = sum(p.size for p in pool.positions if p.key == queue.head.key)
    short = options.short_contracts(pool.positions, pool.orders, queue.head.instrument.family)
    return options.reserved(queue, queue.openings(held), short, market, rules)


def backing(pool: Pool, market: Market) -> Number:
    """What the pool's cross positions add to its equity: their unrealised profit at the mark."""
    return total([position.backing(market) for position in pool.positions])


def equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """The ratio's numerator: cash + unrealised profit - what orders reserve (rule book 2.1, recorded item 20)."""
    found = pool.cash + backing(pool, market)
    return found - sum(reserved(pool, market, rules)) if pool.orders else found


def charges(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """Tier margin per instrument, on positions and opening orders alike, all at the mark, at one flat rate.

    Source: recorded (items 15 to 19): tier = sum of absolute sizes + opening orders; initial margin of orders at
    their price, of positions at the mark.
    """
    rows: list[Charge] = []
    counts = 1.0 if rules.orders.pending_in_maintenance else 0.0
    sizes: dict[str, float] = {}
    for group in pool.exposures:
        family = group.instrument.family
        sizes[family] = sizes.get(family, 0.0) + group.held + counts * group.pending
    for exposure in pool.exposures:
        if not exposure.positions and not exposure.opening:
            continue
        instrument = exposure.instrument
        if instrument.is_option:
            short = options.short_contracts(pool.positions, pool.orders, instrument.family)
            for position in exposure.positions:
                rows += options.charge(position, market, rules, short)
            for queue in (q for q in pool.cross_orders.queues if q.head.symbol == instrument.symbol):
                margin = option_orders(pool, queue, market, rules)[1]
                rows.append(Charge("order margin", instrument.symbol, margin, 0.0, 0.0))
            continue
        if instrument.is_spot:
            rows += [spot_margin.charge(loan, market, rules) for loan in spot_margin.loans(exposure.positions)]
            rows += spot_margin.order_charges(exposure.opening, exposure.positions, market)
            continue
        size = sizes[instrument.family]
        ask = partial(_contract, exposure, size, market, rules)
        if len(pool.exposures) > 1:
            rows += _KNOWN.find(instrument.symbol, instrument.base, (exposure, size), market, rules, ask)
        else:
            rows += ask()
    return tuple(rows)


def _contract(exposure: Exposure, size: float, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """The rows of a swap or future, of whose family the pool holds and rests `size` contracts."""
    instrument, rows = exposure.instrument, []
    tier, fee, mark = rules.tiers(instrument.symbol).at(size), taker(instrument, rules), market.mark(instrument.symbol)
    held = instrument.notional(exposure.held, mark)
    detail = {"tier": tier.number, "rate": tier.maintenance, "taker": fee}
    if exposure.positions:
        if len(exposure.positions) == 1:
            initial = held / exposure.positions[0].leverage
        else:
            initial = total([p.notional(market) / p.leverage for p in exposure.positions])
        rows.append(
            Charge("position margin", instrument.symbol, initial, held * tier.maintenance, held * fee,
                   {**detail, "notional": held})
        )
    if exposure.opening:
        pending = exposure.pending if rules.orders.pending_in_maintenance else 0.0
        value = instrument.notional(pending, mark)
        rows.append(
            Charge("order margin", instrument.symbol, order_initial(exposure, market, rules),
                   value * tier.maintenance, value * fee, {**detail, "notional": value})
        )
    return tuple(rows)


_KNOWN: Kept[tuple[Charge, ...]] = Kept()


def early_cancellation(pool: Pool, market: Market, rules: Rules) -> tuple[int, ...]:
    """Orders that risk control cancels before 100 %: none by default, since no source shows the inequality.

    With `early_cancel = "free-margin"` (a rewrite's reading, rule book section 7, layer 1): all that add risk, as soon
    as cash + unrealised profit - in use is below maintenance margin + what the open orders cost.
    """
    if float(early_spare(pool, market, rules)) >= 0:
        return ()
    return tuple(order.id for order in pool.orders.among(lambda order: not order.closes))


def early_spare(pool: Pool, market: Market, rules: Rules) -> Number:
    """Free margin beyond maintenance margin and what the open orders cost; infinity where it is not asked for."""
    if rules.liquidation.early_cancel != "free-margin" or not pool.positions or not pool.orders:
        return math.inf
    rows = charges(pool, market, rules)
    cost = sum(reserved(pool, market, rules)) + sum(row.initial for row in rows if row.name == "order margin")
    free = equity(pool, market, rules) - sum(row.initial for row in rows)
    spare: Number = free - (sum(row.maintenance for row in rows) + cost)
    return spare


CROSS = MarginMode(
    name="cross",
    pools=pools,
    equity=equity,
    charges=charges,
    ladder=(ladder.cancel_orders, ladder.hedged_pairs, ladder.delta_neutral,
            partial(ladder.unhedged_largest_relief, charges)),
    early=early_cancellation,
    spare=early_spare,
)
