"""May an order open, how much of it, and what was missing: the venue's checks at submission and at the fill.

Sources: rule book section 6; recorded DEMO-LEVERAGE-LIMIT-*, DEMO-MAX-SIZE-*, DEMO-OVER-CLOSE-CLIP-1,
DEMO-ORDER-FREEZE-*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from bt_margin.engine import spot_margin
from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import OrderReport
from bt_margin.model.loan import LONG, SHORT
from bt_margin.model.market import Market
from bt_margin.model.orders import Queue
from bt_margin.modes import options
from bt_margin.modes import spot_margin as spot_margin_rules
from bt_margin.modes.assess import order_report
from bt_margin.modes.base import judge
from bt_margin.modes.cross import CROSS, reserved
from bt_margin.modes.valuation import family_size, order_loss, order_price, taker, value_of
from bt_margin.rules.book import Rules


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order that could not be taken: the venue's reason, what was missing (in `currency`), the largest size."""

    reason: str
    shortfall: float = 0.0
    currency: str = ""
    largest_size: float = 0.0

    @property
    def told(self) -> str:
        """As words: the reason, and what was missing where something was."""
        short = f", short of {self.shortfall:g} {self.currency}" if self.currency else ""
        return self.reason + short + (f", largest size {self.largest_size:g}" if short or self.largest_size else "")


def listed(order: Order, market: Market) -> Order | Refusal:
    """The order in whole lots, or why no mode takes it."""
    whole = order.instrument.floor(order.size)
    order = order if whole == order.size else replace(order, size=whole)
    if order.size <= 0:
        return Refusal(f"size is below one lot of {order.instrument.lot:g}")
    expiry = order.instrument.expiry_ms
    if expiry is not None and market.time >= expiry:
        return Refusal(f"{order.symbol} has expired")
    return order


def all_of_it(order: Order, account: Account) -> Order:
    """An order that sells what is held but for rounding sells exactly that: a coin is not borrowed for the last bit."""
    held = account.balance(order.instrument.base) - account.accrued.get(order.instrument.base, 0.0)
    if order.side == "sell" and 0.0 < order.size - held <= 1e-9 * max(1.0, held) and held > 0:
        return replace(order, size=held)
    return order


def cut_to_position(account: Account, order: Order) -> Order | Refusal:
    """A closing order is cut to what there is to close, not refused (DEMO-OVER-CLOSE-CLIP-1)."""
    position = account.positions.get(order.key)
    held = 0.0 if position is None else -position.size * order.sign
    if held <= 0:
        return Refusal(f"a closing {order.side} order, but there is no position of {order.symbol} to reduce")
    return replace(order, size=min(order.size, held))


def check(account: Account, order: Order, market: Market, rules: Rules, *, filling: bool = False) -> Order | Refusal:
    """The order as the venue takes it (closing orders cut to the position), or why it is refused.

    One that rests comes after those that came before it; one that is `filling` meets the position now.
    """
    taken = listed(order, market)
    if isinstance(taken, Refusal):
        return taken
    order = taken
    if order.is_cash:
        return _funds(account, order, market, rules)
    if order.instrument.is_spot:
        answer = spot_margin.prepare(account, order, market, rules)
        if isinstance(answer, str):
            return Refusal(answer)
        if answer.closes:
            return answer
        order = answer
    elif order.closes:
        closing = cut_to_position(account, order)
        if isinstance(closing, Refusal) or not order.instrument.is_option:
            return closing
        return _funds(account, closing, market, rules)
    before = met_before(account, order, filling)
    refusal = within_tiers(account, order, market, rules, before)
    if refusal is not None and refusal.largest_size:
        largest = min(refusal.largest_size, largest_affordable(account, order, market, rules, before))
        return replace(refusal, largest_size=largest)
    return refusal or _funds(account, order, market, rules, before)


def met_before(account: Account, order: Order, filling: bool) -> Queue | None:
    """The resting orders that meet the position before this one; None for one that is `filling`, and for spot."""
    if filling or order.instrument.is_spot:
        return None
    queue = account.resting.queue(order.key, order.side, order.closes)
    return queue.before(order.id) if order.id in account.orders else queue


def opening(account: Account, order: Order, before: Queue | None = None) -> float:
    """The part of the order that opens, given the position it meets and the orders that meet it before."""
    held = account.held_size(order.key)
    return order.meets(held if before is None else before.leaves(held))[0]


def within_tiers(
    account: Account, order: Order, market: Market, rules: Rules, before: Queue | None = None
) -> Refusal | None:
    """Position + same-side opening orders + this order may not exceed what the leverage allows (51004)."""
    if order.instrument.is_option:
        return None  # sellers' tiers raise the margin factor instead
    spot = order.instrument.is_spot
    tiers = rules.margin_tiers(order.symbol) if spot else rules.tiers(order.symbol)
    if order.leverage > tiers.max_leverage:
        return Refusal(
            f"leverage {order.leverage:g} is above the maximum {tiers.max_leverage:g} of {order.symbol} (59102)"
        )
    opens = opening(account, order, before)
    if opens <= 0:
        return None
    position = account.positions.get(order.key)
    held = max(0.0, position.size * order.sign) if position else 0.0
    price = float(spot_margin_rules.order_price(order, market)) if spot else 0.0
    loan = spot_margin.loan_of(account, order.key)
    if loan is not None and loan.sign == order.sign:
        held = loan.liability / (price if loan.is_long else 1.0)  # what is borrowed counts, in base coin at the price
    queue = account.resting.queue(order.key, order.side).opening(account.held_size(order.key))
    resting = (queue.without(order.id) if order.id in account.orders and order.id in queue.ids else queue).size
    limit = _largest_position(order, price, rules)
    if held + resting + opens > limit * (1 + 1e-12):
        return Refusal(
            f"position would exceed the {limit:g} {order.instrument.base if spot else 'contracts'} that leverage "
            f"{order.leverage:g} allows (51004)",
            largest_size=max(0.0, order.instrument.floor(limit - held - resting)),
        )
    if spot or order.margin_mode != "cross":
        return None
    last, family = rules.tiers(order.symbol).rows[-1].max_size, order.instrument.family
    taken = family_size(order.instrument, account.held("cross"))
    others = account.resting_besides(order.id)
    for queue in others.of_family(family).queues:
        if queue.head.margin_mode == "cross":
            taken += queue.opening(account.held_size(queue.head.key)).size
    if taken + opens > last * (1 + 1e-12):
        return Refusal(
            f"{taken + opens:g} contracts of {family}, both sides and orders together, would exceed the last tier's "
            f"{last:g} (51004)",
            largest_size=max(0.0, order.instrument.floor(order.size - opens + last - taken)),
        )
    return None


def _largest_position(order: Order, price: float, rules: Rules) -> float:
    """The most contracts, or base coin borrowed (spot margin), that the order's leverage allows."""
    if not order.instrument.is_spot:
        return rules.tiers(order.symbol).max_size(order.leverage)
    direction = LONG if order.side == "buy" else SHORT
    debt = spot_margin_rules.largest_debt(order.instrument, direction, order.leverage, price, rules)
    return debt / price if direction == LONG else debt


def headroom(
    account: Account, order: Order | None, market: Market, rules: Rules, currency: str, before: Queue | None = None
) -> float:
    """What the currency could still spend with `order` among the resting ones; negative when it could not.

    Free margin (cash + unrealised profit - in use) for cross derivatives; spot orders and isolated openings also
    need it in cash, which unrealised profit is not.
    """
    trial = account.copy()
    if order is not None:
        trial.place(order)
    pool = next((p for p in CROSS.pools(trial) if p.currency == currency), None)
    if pool is None:
        return 0.0
    judgement = judge(pool, market, rules)
    free = float(judgement.equity) - float(judgement.initial)
    if order is None:
        return free
    if rules.orders.order_loss and order.margin_mode == "cross" and order.instrument.is_contract:
        part = opening(account, order, before)
        if part > 0:
            free -= float(order_loss(order if part == order.size else replace(order, size=part), market))
    premium = order.instrument.is_option and order.side == "buy"
    if order.margin_mode in ("isolated", "cash") or premium:
        spot, isolated, _ = reserved(pool, market, rules)
        fees = sum(
            float(value_of(queue, market, taker(queue.head.instrument, rules)))
            for queue in pool.orders.among(lambda o: o.margin_mode == "isolated" and o.instrument.is_contract).queues
        )
        free = min(free, pool.cash - float(spot) - float(isolated) - fees)
    return free


def _funds(
    account: Account, order: Order, market: Market, rules: Rules, before: Queue | None = None
) -> Order | Refusal:
    currency = order.currency
    free = headroom(account, order, market, rules, currency, before)
    back = _buy_back(account, order, market, rules)
    if back:  # judged beside the position it ends, whose own margin an isolated one brings along
        held = account.positions[order.key]
        free = headroom(account, None, market, rules, currency) + held.margin - back
    if free >= -_rounding(account, currency) or (opening_is_free(account, order, before) and not back):
        return order
    largest = largest_affordable(account, order, market, rules, before)
    what = f"{currency} to give" if order.is_cash else f"free margin in {currency}"
    return Refusal(f"insufficient {what} (51008)", -free, currency, largest)


def _rounding(account: Account, currency: str) -> float:
    """What free margin may miss by and be there: a billionth of the balance, not of a coin, which may be worth much."""
    return 1e-9 * abs(account.balance(currency))


def _buy_back(account: Account, order: Order, market: Market, rules: Rules) -> float:
    """What buying a short option back reserves: max(price - its initial margin, 0) (rule book section 3.3)."""
    position = account.positions.get(order.key)
    if not order.instrument.is_option or order.side != "buy" or position is None or position.size >= 0:
        return 0.0
    short = options.short_contracts(account.positions.values(), None, order.instrument.family)
    return float(options.order_margin(order, opening(account, order), short, market, rules))


def opening_is_free(account: Account, order: Order, before: Queue | None = None) -> bool:
    """True for derivative orders that only reduce."""
    return not order.is_cash and opening(account, order, before) <= 0


def largest_affordable(
    account: Account, order: Order, market: Market, rules: Rules, before: Queue | None = None
) -> float:
    """The largest size of this order that funds and leverage limit allow, in whole lots.

    Found by bisection over the check itself, so that it holds for every rule the check holds for.
    Recorded DEMO-MAX-SIZE-1..6, DEMO-LEVERAGE-LIMIT-5.
    """
    currency = order.currency
    instrument = order.instrument

    def fits(size: float) -> bool:
        trial = replace(order, size=size)
        if not order.is_cash and within_tiers(account, trial, market, rules, before) is not None:
            return False
        left = headroom(account, trial, market, rules, currency, before)
        return opening_is_free(account, trial, before) or left >= -_rounding(account, currency)

    if not order.is_cash and not instrument.is_option:
        ceiling = _largest_position(order, float(order_price(order, market)), rules) * 2
    else:
        ceiling = 1e18
    return _largest(order, fits, ceiling)


def _largest(order: Order, fits: Callable[[float], bool], ceiling: float = 0.0) -> float:
    """The largest size that fits, in whole lots, by bisection: up to the order's own, or on up to the ceiling."""
    instrument = order.instrument
    low, high = 0.0, max(instrument.floor(order.size), instrument.lot or order.size)
    while high < ceiling and fits(high):
        low, high = high, instrument.floor(high * 2)
    for _ in range(200):
        middle = instrument.floor((low + high) / 2)
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class Gate(Protocol):
    """How a mode answers an order that would rest, or is `filling`."""

    def __call__(self, account: Account, order: Order, market: Market, rules: Rules, *,
                 filling: bool = False) -> Order | Refusal: ...


def largest_taken(
    gate: Gate, account: Account, order: Order, market: Market, rules: Rules, *, filling: bool = False,
    beyond: bool = False,
) -> float:
    """The largest size that a gate lets pass, in whole lots: up to the order's own, or `beyond` it."""

    def fits(size: float) -> bool:
        trial = replace(order, size=size)
        return size <= 0 or not isinstance(gate(account, trial, market, rules, filling=filling), Refusal)

    return _largest(order, fits, 1e15 if beyond else 0.0)


def report(account: Account, order: Order, market: Market, rules: Rules) -> OrderReport:
    """How the venue would answer this order: the position builder's row."""
    row, answer = order_report(account, order, market, rules), check(account, order, market, rules)
    if isinstance(answer, Refusal):
        return replace(row, accepted=False, reason=answer.reason, shortfall=answer.shortfall)
    return row
