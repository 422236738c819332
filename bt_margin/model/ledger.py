"""The ledger: what happened to money and contracts, one immutable entry at a time.

An account is the fold of its entries. `cash` and `margin` are the changes of the currency's cash balance and of
the isolated margin that a position holds, `assets`, `liability` and `interest` those of a spot-margin position (without
a position: `interest` accrued on a negative balance and not deducted from it yet); what
the account gained is cash + margin + assets - liability - interest. `fund` is the change of the insurance fund, the
venue's unlimited account, which may go negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from bt_margin.model.instrument import Instrument

if TYPE_CHECKING:
    from bt_margin.model.account import Position


class EntryKind(StrEnum):
    DEPOSIT = "deposit"  # money from (or to) outside
    TRADE = "trade"  # contracts or coins change hands; realised profit
    FEE = "fee"  # trading fee, closing fee of a forced order
    PENALTY = "penalty"  # liquidation penalty, paid to the insurance fund
    FUNDING = "funding"
    SETTLEMENT = "settlement"  # an expiring contract is closed at the delivery price
    TRANSFER = "transfer"  # between cash and the margin of an isolated position: sums to zero
    BORROW = "borrow"  # spot margin: a debt begins or grows; what was borrowed is traded at once
    REPAY = "repay"  # spot margin: what a trade brought in meets the debt
    INTEREST = "interest"  # an hour's interest accrues, or what had accrued is deducted: moves into the debt
    CLAWBACK = "clawback"  # the insurance fund restores a negative balance to exactly zero


class PositionKey(NamedTuple):
    """What makes a position one of its own: the contract, how it is margined, and its side in hedge mode."""

    symbol: str
    margin_mode: str  # cross | isolated
    side: str  # net | long | short


@dataclass(frozen=True, slots=True)
class Entry:
    """One booking. Amounts are in `currency`, signed from the account's point of view."""

    time: int  # ms since 1970, UTC
    kind: EntryKind
    currency: str
    cash: float = 0.0
    margin: float = 0.0
    fund: float = 0.0
    key: PositionKey | None = None
    instrument: Instrument | None = None
    size: float = 0.0  # signed change in contracts (derivatives) or coins (spot)
    price: float = 0.0
    leverage: float = 0.0  # above zero: the position's leverage setting from here on
    order: int = 0  # the order that caused it, 0 for none
    note: str = ""
    assets: float = 0.0
    liability: float = 0.0
    interest: float = 0.0
    opens: Position | None = None  # spot margin: the empty position that this entry is the first of

    @property
    def total(self) -> float:
        """What the account gained in `currency`."""
        return self.cash + self.margin + self.assets - self.liability - self.interest
