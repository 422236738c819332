"""May an account change its mode, and what the venue would say: the checks before a switch.

Source: rule book portfolio margin, section 6 (switching with open positions since 2024-12, what does not go together,
a common leverage when leaving portfolio margin); rule book isolated and futures (a flat book before). That the account
has to cover initial margin in the new mode is how "margin check" is read (inferred).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bt_margin.model.account import Account, Position
from bt_margin.model.assessment import AccountReport
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes.assess import account_pools
from bt_margin.modes.base import MarginMode, judge
from bt_margin.rules.book import Rules


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the account mode as tried: the account before, after it (None where it could not be judged), and why
    it was refused."""

    old: str
    new: str
    before: AccountReport
    after: AccountReport | None
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return not self.reasons


def least_equity(mode: MarginMode, rules: Rules) -> float:
    """USD that an account needs to enter a mode."""
    if mode.name == "portfolio":
        return rules.portfolio_account.min_equity_usd
    return rules.multi_currency.min_equity if mode.whole else 0.0


def reasons(account: Account, old: MarginMode, new: MarginMode, worth: float, leverage: float | None,
            rules: Rules) -> Iterator[str]:
    """What does not fit the new mode, before any margin is looked at. `worth`: equity in USD."""
    if account.orders:
        yield f"{len(account.orders)} orders rest: cancel them"
    if account.positions and not rules.portfolio_account.switch_with_positions:
        yield "positions are open: a flat book was needed then"
    if worth < least_equity(new, rules):
        yield f"{new.name} margin needs an account of {least_equity(new, rules):,.10g} USD, this one has {worth:,.2f}"
    owed = sorted(account.owed())
    if owed and not new.whole:
        yield f"{', '.join(owed)} is owed: repay it"
    if new.name == "portfolio" and account.position_mode != "net":
        yield "the account is in hedge mode: portfolio margin is one-way"
    for position in account.positions.values():
        name = f"{position.symbol} {position.margin_mode}"
        if isinstance(position, MarginPosition) and position.margin_mode == "cross" and new.whole:
            yield f"{name}: a loan of its own: close it"
        if position.margin_mode == "isolated" and not takes_isolated(position, new, rules):
            yield f"{name}: {new.name} margin takes no isolated positions then"
    if old.name == "portfolio" and new.name != "portfolio":
        yield from _leverage_reasons(account, leverage, rules)


def takes_isolated(position: Position, new: MarginMode, rules: Rules) -> bool:
    """May a position be isolated in a mode at this date."""
    if new.name == "portfolio":
        return not isinstance(position, MarginPosition) or rules.portfolio_account.isolated_loans
    return not new.whole or rules.multi_currency.isolated


def _leverage_reasons(account: Account, leverage: float | None, rules: Rules) -> Iterator[str]:
    """Leaving portfolio margin, cross positions need a leverage setting that their tiers allow."""
    held = [p for p in account.held("cross") if p.instrument.is_contract]
    if leverage is None:
        if held:
            yield "leaving portfolio margin with positions needs one leverage setting for all of them: give leverage"
        return
    for position in held:
        tiers = rules.tiers(position.symbol)
        if not 1 <= leverage <= tiers.max_leverage or abs(position.size) > tiers.max_size(leverage):
            yield f"{position.symbol}: the tiers do not allow {abs(position.size):,.10g} contracts at {leverage:g}x"


def converted(account: Account, leverage: float | None) -> Account:
    """The account as the new mode would find it: cross contracts at the preset leverage, if one is given."""
    trial = account.copy()
    trial.positions = {
        key: replace(p, leverage=leverage)
        if leverage is not None and key.margin_mode == "cross" and p.instrument.is_contract else p
        for key, p in account.positions.items()
    }
    return trial


def margin_reasons(account: Account, new: MarginMode, market: Market, rules: Rules) -> Iterator[str]:
    """Pools of the new mode that would not cover their initial margin."""
    for pool in account_pools(account, new):
        if pool.at_risk and pool.mode.name != "isolated":
            judged = judge(pool, market, rules)
            short = float(judged.initial) - float(judged.equity)
            if short > 1e-9 * max(1.0, float(judged.initial)):
                yield f"pool {pool.name}: {short:,.2f} {pool.currency} short of initial margin in {new.name}"
