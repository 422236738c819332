"""What an account's owner chose about borrowing, where the whole account stands behind its debts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bt_margin.model.light import light


@dataclass(frozen=True, slots=True)
class Borrowing:
    """`auto`: selling or paying more of a coin than held borrows it; off, such an order is refused.

    `leverage` is the setting by currency, which turns a debt into its initial margin; a currency without one has the
    maximum of its lowest tier. Coins in `collateral_off` back nothing (OKX `collateralEnabled`).
    """

    auto: bool = True
    leverage: Mapping[str, float] = field(default_factory=dict)
    collateral_off: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SpotUse:
    """How much of a coin may hedge its derivatives in portfolio margin, and where.

    `cap`: coins at most, by coin (OKX `clSpotInUseAmt`); without one all that hedges. `unit`: the settlement whose unit
    the spot of a coin joins, USDT, USDC or the coin itself (OKX `spotOffsetType`), where the rules make it a choice.
    """

    cap: Mapping[str, float] = field(default_factory=dict)
    unit: Mapping[str, str] = field(default_factory=dict)


def owed(balances: Mapping[str, float], accrued: Mapping[str, float]) -> set[str]:
    """Currencies whose balance, less the interest accrued on it, is negative."""
    return {currency for currency, amount in balances.items() if amount < accrued.get(currency, 0.0)}


@light(frozen=True, slots=True)
class Holdings:
    """The money of a pool that is the whole account: cash by currency (negative: owed), interest accrued and not yet
    deducted, and what its owner chose about borrowing and spot.

    `option_value`: what options are worth backs the account; None: where the rules of multi-currency margin say so.
    """

    balances: Mapping[str, float]
    accrued: Mapping[str, float] = field(default_factory=dict)
    borrowing: Borrowing = Borrowing()
    spot_use: SpotUse = SpotUse()
    option_value: bool | None = None

    def owed(self) -> set[str]:
        """Currencies whose balance, less the interest accrued on it, is negative."""
        return owed(self.balances, self.accrued)

    def plus(self, currency: str, amount: float) -> Holdings:
        """The same with more (or less) cash of a currency."""
        return replace(self, balances={**self.balances, currency: self.balances.get(currency, 0.0) + amount})
