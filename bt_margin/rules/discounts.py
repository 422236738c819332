"""Discount tiers: how much of a coin counts as collateral. Marginal: every slice of a holding has its own rate.

Source: the venue's worked example of 100 BTC, which only the marginal reading reproduces (rule book section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import msgspec

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.number import anywhere, larger, least, most, smaller
from bt_margin.rules.tables import Head

Unit = Literal["coin", "usd"]
_MOST_TIERS = 1000


class DiscountThen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A constant step for all tiers above the printed ones, down to `until_rate`."""

    size: float
    rate: float  # what each tier's rate is below the one before, positive
    until_rate: float


class DiscountRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`beyond`: the rate above the last bound; left out, it is not known, and such a holding raises."""

    currencies: tuple[str, ...]
    unit: Unit
    rows: tuple[tuple[float, float], ...]
    then: DiscountThen | None = None
    beyond: float | None = None


@dataclass(frozen=True)
class DiscountRow:
    """Discount tiers of one currency: rows (upper bound in coin or in USD, rate), and the rate above the last."""

    currency: str
    unit: Unit
    rows: tuple[tuple[float, float], ...]
    then: DiscountThen | None = None
    beyond: float | None = 0.0
    path: str = field(default="", compare=False)

    @cached_property
    def tiers(self) -> tuple[tuple[float, float], ...]:
        """The whole ladder. Raises InputError when the rows make none."""
        path = self.path or f"discounts.{self.currency}"
        ladder = list(self.rows)
        for i, (bound, rate) in enumerate(ladder):
            if not (0 < bound < math.inf and 0 <= rate <= 1):
                raise InputError(f"{path}[{i}]: expected [upper bound, rate from 0 to 1], found {[bound, rate]}")
        for i, (lower, upper) in enumerate(pairwise(ladder), start=1):
            if upper[0] <= lower[0]:
                raise InputError(f"{path}[{i}]: expected a bound above {lower[0]:g}, found {upper[0]:g}")
            if upper[1] > lower[1]:
                raise InputError(f"{path}[{i}]: rates may not rise from one tier to the next")
        if self.then is not None:
            ladder += _continued(ladder[-1], self.then, path)
        return tuple(ladder)

    def weigh(self, amount: Any, usd: Any) -> Any:
        """What a holding (zero or more) counts for, in USD at `usd` a coin; floats, or arrays over instants.

        Raises NoRuleInForce above the last bound where the rate there is not known.
        """
        par = isinstance(usd, float) and usd == 1.0  # then a product is what it was
        size = amount if self.unit != "usd" or par else amount * usd
        smallest, largest = least(size), most(size)
        counted: Any = 0.0
        lower = 0.0
        for bound, rate in self.tiers:
            if smallest >= bound:
                part: Any = bound - lower  # the tier is full at every instant
            else:
                part = size - lower
                if not smallest >= lower:
                    part = larger(part, 0.0)
                if not largest <= bound:
                    part = smaller(part, bound - lower)
            counted = counted + rate * part if lower else rate * part
            lower = bound
            if lower >= largest:
                break  # the tiers above hold nothing
        if self.beyond:
            counted = counted + self.beyond * larger(size - lower, 0.0)
        elif self.beyond is None and anywhere(size > lower):
            raise NoRuleInForce(
                f"discounts.{self.currency}: what counts above {lower:,.10g} {self._unit_name} was not read; "
                f"hold less, or give your own tiers under `discounts`"
            )
        return counted if self.unit != "coin" or par else counted * usd

    @property
    def _unit_name(self) -> str:
        return "USD" if self.unit == "usd" else self.currency


def rates_by_maintenance(first: float, factor: float, maintenance: Sequence[float]) -> tuple[float, ...]:
    """Discount rates from borrow tiers: rate[k] = rate[1] - factor x (maintenance[k] - maintenance[1]).

    How the venue makes the coin tables is not published; this fits all but two of the tables that were read (rule book
    section 3.3, inferred). The sizes of the tiers are those of the coin's borrow tiers.
    """
    start, step = Decimal(repr(float(first))), Decimal(repr(float(factor)))
    rates = [start - step * (Decimal(repr(float(m))) - Decimal(repr(float(maintenance[0])))) for m in maintenance]
    return tuple(max(0.0, float(rate)) for rate in rates)


def _continued(last: tuple[float, float], then: DiscountThen, path: str) -> list[tuple[float, float]]:
    size, step = Decimal(repr(float(last[0]))), Decimal(repr(float(then.size)))
    rate, fall, end = (Decimal(repr(float(x))) for x in (last[1], then.rate, then.until_rate))
    if not (step > 0 and fall > 0 and 0 <= end <= rate):
        raise InputError(f"{path}.then: expected steps above zero and an end between 0 and the last rate")
    rows: list[tuple[float, float]] = []
    while rate - fall >= end:
        size, rate = size + step, rate - fall
        rows.append((float(size), float(rate)))
        if len(rows) > _MOST_TIERS:
            raise InputError(f"{path}.then: more than {_MOST_TIERS} tiers; is the step right?")
    return rows
