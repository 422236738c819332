"""Isolated margin: every position is a pool of its own, with the margin it posted and no more.

Sources: rule book section 4.1; captures ISO-LIN-*, DEMO-ISO-MET-*.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bt_margin.model.account import Account, Position
from bt_margin.model.assessment import Charge
from bt_margin.model.instrument import Number
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import ladder, options, spot_margin
from bt_margin.modes.base import MarginMode, Pool
from bt_margin.modes.valuation import taker

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


def pool_name(position: Position) -> str:
    """How the pool of an isolated position is called in reports: the symbol, and its side in hedge mode."""
    side = "" if position.side == "net" else f" {position.side}"
    return f"{position.symbol} isolated{side}"


def pools(account: Account) -> Iterable[Pool]:
    """One pool per isolated position; its resting orders go when it is in breach."""
    for position in account.held("isolated"):
        yield Pool(pool_name(position), ISOLATED, position.currency, position.margin, (position,),
                   account.resting.of_key(position.key))


def equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """Posted margin + unrealised profit at the mark."""
    return pool.cash + pool.positions[0].backing(market)


def charges(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """The tier's rate on the whole position at the mark; its own size alone sets the tier (rule book 5.1)."""
    position = pool.positions[0]
    if position.instrument.is_option:
        family = position.instrument.family
        return options.charge(position, market, rules, options.short_contracts(pool.positions, None, family))
    if isinstance(position, MarginPosition):
        return (spot_margin.charge(position, market, rules),)
    tier = rules.tiers(position.symbol).at(position.size)
    fee = taker(position.instrument, rules)
    notional = position.notional(market)
    return (
        Charge(
            "position margin",
            position.symbol,
            position.initial_at_entry(),
            notional * tier.maintenance,
            notional * fee,
            {"tier": tier.number, "rate": tier.maintenance, "taker": fee, "notional": notional},
        ),
    )


ISOLATED = MarginMode(
    name="isolated",
    pools=pools,
    equity=equity,
    charges=charges,
    ladder=(ladder.cancel_orders, ladder.tier_step_down, ladder.takeover),
)
