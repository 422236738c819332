"""What happened that a user wants to hear of. Each event carries the report that caused it."""

from __future__ import annotations

from dataclasses import dataclass

from bt_margin.model.assessment import AccountReport, LateReport
from bt_margin.model.ledger import PositionKey


@dataclass(frozen=True, slots=True)
class Event:
    """Something at an instant (ms UTC), in a pool, with the account as it was judged just before."""

    time: int
    pool: str
    late_report: LateReport

    @property
    def report(self) -> AccountReport:
        """The account as it was judged just before, laid out when first read.

        Its evidence names all that the rules then in force were asked for until it is read. Raises where a price or a
        rule that only the report asks for is missing.
        """
        return self.late_report.read()

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """The margin ratio fell to the warning level (300 %)."""

    margin_ratio: float


@dataclass(frozen=True, slots=True)
class OrdersCancelled(Event):
    """The venue cancelled orders: those that add risk before a liquidation, those of a contract that expired."""

    orders: tuple[int, ...]
    margin_ratio: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Forced(Event):
    """A trade nobody asked for. Money in the settlement currency, fee and penalty positive."""

    key: PositionKey
    size: float  # signed change in contracts
    price: float
    pnl: float
    fee: float
    penalty: float
    remaining: float


@dataclass(frozen=True, slots=True)
class Reduced(Forced):
    """A forced order of a liquidation closed part of a pool's exposure, or the last of it."""

    margin_ratio: float
    step: str


@dataclass(frozen=True, slots=True)
class Deleveraged(Forced):
    """A scripted auto-deleveraging took a share of a position, at the mark."""

    share: float


@dataclass(frozen=True, slots=True)
class Settled(Forced):
    """An expiring contract was delivered: closed at the average of the index before its expiry."""


@dataclass(frozen=True, slots=True)
class Converted(Event):
    """The venue sold one coin to buy back another that is owed. Amounts in coins, positive; `price`: coins bought for
    one sold; `fee` and `penalty` in the coin bought."""

    sold: str
    sold_amount: float
    bought: str
    bought_amount: float  # of the debt repaid
    price: float
    fee: float
    penalty: float
    margin_ratio: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Borrowed(Event):
    """A currency's balance fell below zero: from here on it is owed and bears interest."""

    currency: str
    amount: float


@dataclass(frozen=True, slots=True)
class Repaid(Event):
    """A currency that was owed is owed no more."""

    currency: str


@dataclass(frozen=True, slots=True)
class ModeSwitched(Event):
    """The account changed its mode, or was not let (`reasons`). `after`: as judged in the new mode, None where it was
    not."""

    old: str
    new: str
    reasons: tuple[str, ...]
    after: AccountReport | None


@dataclass(frozen=True, slots=True)
class TakenOver(Event):
    """Everything the pool held was closed by force. `refund` is what the insurance fund paid."""

    keys: tuple[PositionKey, ...]
    margin_ratio: float
    loss: float  # equity before the takeover that is gone after it
    refund: float


@dataclass(frozen=True, slots=True)
class Bankrupt(Event):
    """The insurance fund restored a negative balance to zero."""

    currency: str
    amount: float


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """An order that could not open, with the venue's reason and what was missing."""

    order: int
    symbol: str
    reason: str
    shortfall: float
    largest_size: float
