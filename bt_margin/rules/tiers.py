"""Position tiers: how much margin a size asks for, and how much size a leverage allows.

The rate of the tier that a size reaches multiplies the whole size, not slices of it (the venue publishes no
deduction amounts; recorded replies CROSS-MET-3 and TIER-PEND-2 agree). So maintenance margin jumps at a
boundary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from itertools import pairwise

from bt_margin.errors import InputError
from bt_margin.model.number import LARGEST, usable

_MOST_TIERS = 1000  # the longest ladder recorded has 99; a step that never reaches its end is a typing error


@dataclass(frozen=True, slots=True)
class Tier:
    """One row. Sizes in the unit of its table, rates as fractions of notional, leverage as a multiple."""

    number: int
    max_size: float  # the boundary itself still belongs to this tier (recorded: DEMO-LEVERAGE-LIMIT-3)
    maintenance: float
    initial: float
    max_leverage: float


@dataclass(frozen=True)
class Tiers:
    """The tier table of one instrument, smallest size first."""

    symbol: str
    unit: str
    rows: tuple[Tier, ...]
    _limits: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _largest: dict[float, float] = field(init=False, repr=False, compare=False, default_factory=dict)  # by leverage

    def __post_init__(self) -> None:
        object.__setattr__(self, "_limits", tuple(row.max_size for row in self.rows))

    def at(self, size: float) -> Tier:
        """The tier that |size| reaches.

        Raises InputError beyond the last row: there is no rate to fall back on.
        """
        size = abs(size)
        index = bisect_left(self._limits, size)
        if index < len(self.rows) and size <= self._limits[index]:  # the second half keeps NaN out
            return self.rows[index]
        what, key = ("debt", "borrow_tiers") if self.unit == self.symbol else ("size", "instruments")
        rows = f"{key}.{self.symbol}" + ("" if what == "debt" else ".tiers")
        raise InputError(
            f"{self.symbol}: a {what} of {size:.10g} {self.unit} is beyond the largest known tier "
            f"({self._limits[-1]:.10g}), where no rate is known; take a smaller size or give `{rows}`"
        )

    def below(self, tier: Tier) -> Tier | None:
        """The tier under `tier`, None for the lowest."""
        index = tier.number - self.rows[0].number - 1
        return self.rows[index] if index >= 0 else None

    def max_size(self, leverage: float) -> float:
        """The largest size that may be held at a leverage setting; 0 when no tier allows that leverage.

        Source: recorded (DEMO-LEVERAGE-LIMIT-1).
        """
        found = self._largest.get(leverage)
        if found is None:
            found = max((row.max_size for row in self.rows if row.max_leverage >= leverage), default=0.0)
            self._largest[leverage] = found
        return found

    @property
    def max_leverage(self) -> float:
        """The leverage of the lowest tier: the most the instrument allows at all."""
        return self.rows[0].max_leverage

    @classmethod
    def from_rows(
        cls,
        symbol: str,
        rows: Iterable[Sequence[float]],
        then: Mapping[str, float] | None = None,
        first_tier: int = 1,
        *,
        unit: str = "contracts",
        path: str = "",
    ) -> Tiers:
        """Build a table from [max size, maintenance, initial, max leverage] rows.

        `then` = {size, mmr, imr, until_imr} continues it: each later tier adds the three steps to the one
        before, up to the tier whose initial rate reaches `until_imr`. Raises InputError naming `path` and
        the row that is wrong.
        """
        path = path or f"tiers.{symbol}"
        table = [_tier(first_tier + i, row, f"{path}[{i}]") for i, row in enumerate(rows)]
        if not table:
            raise InputError(f"{path}: expected rows [max size, maintenance, initial, max leverage]")
        for i, (lower, upper) in enumerate(pairwise(table), start=1):
            if upper.max_size <= lower.max_size:
                raise InputError(
                    f"{path}[{i}]: expected a max size above {lower.max_size:g}, found {upper.max_size:g}"
                )
            if upper.maintenance < lower.maintenance or upper.initial < lower.initial:
                raise InputError(f"{path}[{i}]: rates may not fall from one tier to the next")
        if then is not None:
            table += _continued(table[-1], then, f"{path}.then")
        return cls(symbol, unit, tuple(table))


def _tier(number: int, row: Sequence[float], path: str) -> Tier:
    if isinstance(row, (str, bytes)) or not isinstance(row, Sequence) or len(row) != 4:
        raise InputError(f"{path}: expected [max size, maintenance, initial, max leverage], found {row!r}")
    for value in row:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value > 0 and usable(value)):
            raise InputError(f"{path}: expected four finite numbers above zero, at most {LARGEST:g}, found {value!r}")
    size, maintenance, initial, leverage = map(float, row)
    if maintenance >= initial:
        raise InputError(f"{path}: maintenance rate {maintenance:g} must be below initial rate {initial:g}")
    return Tier(number, size, maintenance, initial, leverage)


def _exact(value: float) -> Decimal:
    return Decimal(repr(value))


def _continued(last: Tier, then: Mapping[str, float], path: str) -> list[Tier]:
    """The tiers above `last`. Decimals, so that 0.4875 comes out as the double a snapshot prints."""
    step, step_mm, step_im, end = (_exact(float(then[key])) for key in ("size", "mmr", "imr", "until_imr"))
    if not (step > 0 and step_mm >= 0 and step_im > 0 and end < 1):
        raise InputError(f"{path}: expected steps above zero and an end below 1, found {dict(then)}")
    size, maintenance, initial = _exact(last.max_size), _exact(last.maintenance), _exact(last.initial)
    rows: list[Tier] = []
    while initial < end:
        size, maintenance, initial = size + step, maintenance + step_mm, initial + step_im
        leverage = (1 / initial).quantize(Decimal("0.01"), ROUND_DOWN)  # cut, as the venue prints it
        rows.append(Tier(last.number + len(rows) + 1, *map(float, (size, maintenance, initial, leverage))))
        if len(rows) > _MOST_TIERS:
            raise InputError(f"{path}: more than {_MOST_TIERS} tiers; is the step right?")
    return rows
