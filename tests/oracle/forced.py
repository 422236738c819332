"""How a forced order settles, alike in every mode (recorded behaviour, Part A, items 5 to 10)."""

from __future__ import annotations

from decimal import Decimal

from tests.oracle.book import Book, Position
from tests.oracle.contract import ZERO
from tests.oracle.option import OptionPosition

BREACH = 1 + Decimal("1e-20")
"""At 1 or below; the point of a leg that was solved for is 1 but for the last decimals."""
DUST = Decimal("1e-9")
"""Of what was traded: a refund below it is rounding, not a bankruptcy (the engine's documented constant)."""


def force(book: Book, position: Position, contracts: Decimal, mark: Decimal, time: int, pool: str, step: str,
          ratio: Decimal) -> None:
    """Close so many contracts at the mark (item 5): taker fee on the value (item 6), penalty = maintenance rate of the
    tier of the CLOSED size x its value, paid to the insurance fund (item 7). Isolated: all of it out of the posted
    margin, which a partial step does not free (item 8); cross: out of cash (item 10).
    """
    contract, purse = position.contract, position if position.mode == "isolated" else None
    change = -contracts if position.size > 0 else contracts
    value = contract.value(contracts, mark)
    pnl = contract.profit(-change, position.entry, mark)
    fee = value * contract.taker
    penalty = value * contract.rate(contracts)
    book.book("trade", purse, contract.settle, pnl)
    book.book("fee", purse, contract.settle, -fee)
    book.book("penalty", purse, contract.settle, -penalty, penalty)
    position.size += change
    if position.size == 0 and purse is None:
        del book.positions[position.key]
    book.say("Reduced", time, pool, position.key, step, size=change, price=mark, pnl=pnl, fee=fee, penalty=penalty,
             remaining=position.size, margin_ratio=ratio)


def force_option(book: Book, position: OptionPosition, contracts: Decimal, mark: Decimal, time: int, pool: str,
                 step: str, ratio: Decimal) -> None:
    """Close so many options at the mark: the price changes hands; fee at most a share of it; a short pays what its
    maintenance margin is beyond the mark (rule book of isolated margin, sections 3.3 and 7; the base is inferred).
    """
    option, long = position.contract, position.size > 0
    change, coins = (-contracts if long else contracts), contracts * option.unit
    fee = min(option.taker * coins, option.forced_cap * coins * mark)
    base = Decimal(1) if option.call else max(Decimal(1), mark)
    penalty = ZERO if long else option.rate_c * base * coins
    book.book("trade", None, option.coin, coins * mark if long else -coins * mark)
    book.book("fee", None, option.coin, -fee)
    if penalty:
        book.book("penalty", None, option.coin, -penalty, penalty)
    pnl = -change * option.unit * (mark - position.entry)
    position.size += change
    if position.size == 0:
        del book.options[option.symbol]
    book.say("Reduced", time, pool, position.key, step, size=change, price=mark, pnl=pnl, fee=fee, penalty=penalty,
             remaining=position.size, margin_ratio=ratio)


def step_size(book: Book, position: Position, tier_size: Decimal, spare: Decimal, value: Decimal) -> Decimal:
    """Down to the ceiling of the tier below, whole in tier 1 (items 2 and 4).

    `tier_size` sets the tier: in cross everything of a family adds, and the cut comes off this position. Before 2025-05
    whole up to tier 2; above it down two tiers while the pool would still satisfy the first tier's rate, else whole
    (rule book section 7). `spare` is equity less what is required, `value` what the tier's rate is charged on.
    """
    contract = position.contract
    tier = contract.tier(tier_size)
    down = tier - (1 if book.era.one_tier else 2)
    if down < 0:
        return abs(position.size)
    if not book.era.one_tier:
        relief = value * (contract.tiers[tier].maintenance - contract.tiers[0].maintenance)
        if spare + relief <= 0:
            return abs(position.size)
    return min(abs(position.size), tier_size - contract.tiers[down].ceiling)


def claw_back(book: Book, position: Position | None, currency: str, time: int, pool: str, traded: Decimal) -> Decimal:
    """The insurance fund brings what is below zero to exactly zero (items 9 and 10). Returns what it paid."""
    left = position.margin if position is not None else book.cash.get(currency, ZERO)
    if left >= 0:
        return ZERO
    book.book("clawback", position, currency, -left, left)
    if -left > DUST * traded:
        book.say("Bankrupt", time, pool, currency, amount=-left)
    return -left


def refund_cash(book: Book, currency: str, time: int, pool: str, traded: Decimal) -> Decimal:
    """Cash of a currency without cross positions may not stay negative (item 10; the engine says when it looks: after
    every trade, forced or not, and every settlement).
    """
    if any(key[1] == "cross" and held.contract.settle == currency for key, held in book.positions.items()):
        return ZERO
    return claw_back(book, None, currency, time, pool, max(Decimal(1), traded))
