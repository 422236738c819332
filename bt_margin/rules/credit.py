"""What borrowing a currency asks for in the modes whose pool is the account: tiers, limits, free quotas, choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.rules.tables import Head, Then
from bt_margin.rules.tiers import Tiers


class BorrowRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    currencies: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]  # as in BorrowRow
    then: Then | None = None


class AmountRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rows: tuple[tuple[str, float], ...]  # currency, amount in the coin


class RateRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    currency: str
    rows: tuple[tuple[str, float], ...]  # hour such as 2025-04-01T07Z, yearly rate from then on


class QuotaRevision(AmountRevision, frozen=True, forbid_unknown_fields=True, kw_only=True):
    enlarged_by: tuple[str, ...] = ()  # currencies whose positive equity comes on top


@dataclass(frozen=True)
class BorrowRow:
    """Printed borrow tiers of a currency; the ladder is built the first time somebody asks.

    Rows [most borrowed, maintenance, initial] or with the maximum leverage behind, where it is not 1 / initial.
    """

    currency: str
    rows: tuple[tuple[float, ...], ...]
    then: Then | None = None
    path: str = field(default="", compare=False)

    @cached_property
    def tiers(self) -> Tiers:
        """The whole ladder, in coins of the currency. Raises InputError when the rows make none."""
        path = self.path or f"borrow_tiers.{self.currency}"
        then = None if self.then is None else msgspec.structs.asdict(self.then)
        rows = []
        for i, row in enumerate(self.rows):
            if len(row) not in (3, 4):
                raise InputError(f"{path}[{i}]: expected [max amount, maintenance rate, initial rate], found {row!r}")
            rows.append(row if len(row) == 4 else (*row, max_leverage(row[2]) if 0 < row[2] <= 1 else 0.0))
        return Tiers.from_rows(self.currency, rows, then, unit=self.currency, path=path)


HOURS_A_YEAR = 365 * 24


def yearly_rate(rate: float, path: str) -> float:
    """A caller's own yearly borrow rate. Raises InputError unless it is from 0 to 8,760, all of the debt each hour:
    beyond it the money of an account is lost in the rounding."""
    if not 0 <= rate <= HOURS_A_YEAR:
        raise InputError(f"{path}: expected a yearly rate from 0 to {HOURS_A_YEAR:,} (0.12: 12 %), found {rate!r}")
    return float(rate)


@dataclass(frozen=True, slots=True, eq=False)
class RateSeries:
    """Yearly borrow rates of one currency, as fractions: each holds from its time (int64 ms UTC) until the next.

    Raises InputError unless times rise and each is a `yearly_rate`.
    """

    times: NDArray[np.int64]
    yearly: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.times) != len(self.yearly) or not len(self.times):
            raise InputError(f"interest: expected as many times as rates, found {len(self.times)}, {len(self.yearly)}")
        if np.any(np.diff(self.times) <= 0):
            raise InputError("interest: times of a rate series must rise strictly")
        for rate in self.yearly:
            yearly_rate(float(rate), "interest")

    def hourly(self, time: int) -> float:
        """What an hour costs at `time` (ms UTC). Raises NoRuleInForce before the first rate."""
        i = int(np.searchsorted(self.times, time, side="right")) - 1
        if i < 0:
            raise NoRuleInForce("interest: the rate series begins after the hour asked for; give earlier rates too")
        return float(self.yearly[i]) / HOURS_A_YEAR


def own_hourly(rate: float | RateSeries, time: int) -> float:
    """What an hour costs at a caller's own yearly rate, or series of them."""
    return rate.hourly(time) if isinstance(rate, RateSeries) else rate / HOURS_A_YEAR


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """How much of a debt costs no interest: `amount` coins, and the positive equity of some other currencies."""

    amount: float
    enlarged_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MultiCurrencyRow:
    """Choices of multi-currency margin that changed over time, or that no source settles.

    `isolated`: positions may be isolated. `collateral_switch`: a coin may be taken out of the collateral. `min_equity`:
    USD that an account needs to enter. `borrow_rate`: the whole debt at the rate of its tier, or each slice at its own.
    `borrow_initial`: initial margin of a debt by the leverage setting, but never below the tier's own rate; or by the
    setting alone. `option_value`: what options are worth backs the account, or is only shown in equity (a short one's
    worth is in its maintenance margin already). `order_loss`: what resting spot orders would cost when filled counts.
    `repay_order`: what forced repayment sells first, by first discount rate. `repay_share`: how much of the free quota
    one forced repayment buys back. `early_cancel`: risk control takes orders away before a liquidation, by the test of
    the account and of each currency, or never. `debt_penalty`: what a liquidation takes on a debt it converts besides
    the fee: the maintenance rate of the tier it falls in, as of contracts, or nothing.
    """

    isolated: bool
    collateral_switch: bool
    min_equity: float
    borrow_rate: Literal["whole", "marginal"]
    borrow_initial: Literal["tier-floor", "leverage"]
    option_value: bool
    order_loss: bool
    repay_order: Literal["lowest-rate-first", "highest-rate-first"]
    repay_share: float
    early_cancel: Literal["account-test", "none"]
    debt_penalty: Literal["maintenance", "none"]


def max_leverage(initial: float) -> float:
    """The largest leverage setting an initial rate allows: 1 / rate, cut to two digits as the venue prints it.

    Source: notice of 2023-06-02 (10 %, 11 %, 12 %, 12.5 % -> 10, 9.09, 8.33, 8).
    """
    return float((1 / Decimal(repr(float(initial)))).quantize(Decimal("0.01"), ROUND_DOWN))
