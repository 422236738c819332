"""Portfolio margin: the account is one pool, and each coin's contracts, options and spot are margined by scenarios.

ratio = adjusted equity / (units' maintenance + borrow margin + fee on debts), all in USD; initial margin = 1.3 x units'
maintenance + borrow initial margin. Options count in equity at their mark, short ones too. Units never net. Source:
rule book portfolio margin, sections 2 to 4 (the account totals reproduce OKX's sample of 2025 to its last digit).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bt_margin.errors import NotSupported
from bt_margin.model.account import Account
from bt_margin.model.assessment import Charge
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.number import Number, anywhere
from bt_margin.modes import borrow, conversion, cross, currencies, ladder
from bt_margin.modes.base import MarginMode, Pool, as_cut
from bt_margin.modes.judged_units import judged_units
from bt_margin.modes.multi_currency import early_cancellation, early_spare
from bt_margin.modes.portfolio_ladder import basis_pairs, dynamic_delta_hedge, general_reduction, stablecoin_hedge

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

NAME = "account"
MR8 = "MR8"


def pools(account: Account) -> Iterable[Pool]:
    """One pool: all currencies, all cross positions, all orders of the account. Positions are one-way."""
    positions = tuple(account.held("cross"))
    for position in positions:
        if isinstance(position, MarginPosition):
            raise NotSupported(
                f"{position.symbol}: portfolio margin has no cross loans, a debt is a negative balance; put its assets "
                "and its liability among the balances"
            )
        if position.side != "net":
            raise NotSupported(f"{position.symbol}: portfolio margin is one-way; give position_side net")
    money = replace(currencies.holdings(account), spot_use=account.spot_use, option_value=True)
    yield as_cut(Pool(NAME, PORTFOLIO, "USD", 0.0, positions, cross.pooled_orders(account), money))


def equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """Adjusted equity in USD (OKX `adjEq`): every coin's equity, options at their mark, discounted; debts in full."""
    return currencies.adjusted_equity(pool, market, rules)


def charges(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """MR1 to MR9 of every unit, each with what it adds to the margin and its own value beside, and MR8 of every debt.

    Of MR1, MR2, MR6 only the largest adds, and MR7 adds only where it exceeds all others together.
    """
    lines = currencies.lines(pool, market, rules)
    rows: list[Charge] = []
    for judged in judged_units(pool, lines, market, rules):
        rows += judged.charges
    leverage = currencies.of(pool).borrowing.leverage
    for line in lines:
        owed = line.potential_borrow
        if anywhere(owed > 0):
            rows.append(replace(borrow.charge(line.currency, owed, line.usd, leverage, rules), name=MR8))
    return tuple(rows)


PORTFOLIO = MarginMode(
    name="portfolio",
    pools=pools,
    equity=equity,
    charges=charges,
    ladder=(ladder.cancel_orders, ladder.cancel_the_rest, stablecoin_hedge, dynamic_delta_hedge, basis_pairs,
            general_reduction, conversion.convert_collateral),
    early=early_cancellation,
    spare=early_spare,
    whole=True,
)
