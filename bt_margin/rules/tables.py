"""The shapes of the rule tables: what a TOML file may hold, and the typed rows handed out.

File shapes are strict (an unknown key is an error) and carry the head every revision has. Rows are plain
values. Times are UTC; rates are fractions; sizes are contracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec

from bt_margin.errors import InputError
from bt_margin.model.number import usable
from bt_margin.rules.tiers import Tier, Tiers

Grade = Literal["official", "recorded", "snapshot", "rewrite", "derived", "inferred", "user"]
FeeKind = Literal["spot", "margin", "swap", "future", "option"]
FEE_KINDS: tuple[str, ...] = get_args(FeeKind)
Row = TypeVar("Row")

# -- rows: what a caller gets ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeeRow:
    """Rates of notional for the account's fee level (regular level 1 in the tables)."""

    maker: float
    taker: float


@dataclass(frozen=True, slots=True)
class FundingRow:
    """How funding falls due.

    `interval_hours` between settlements, counted from 00:00; `cap` bounds the rate of one settlement on
    both sides (None: not known); `collection` says whether a payer's charge stops where the margin ratio
    reaches 1.
    """

    interval_hours: float
    cap: float | None
    collection: Literal["full", "to-ratio-one"]


@dataclass(frozen=True, slots=True)
class LiquidationRow:
    """How a breached pool is undone.

    `step`: how far one forced order takes a position down. `penalty`: the maintenance rate charged on what
    was closed is that of the tier the closed size falls in. `surplus`: who gets what is left of a margin
    after a takeover. `early_cancel`: whether orders that add risk fall when free margin no longer covers
    the maintenance margin, or only at the liquidation ratio. `deleveraging_fee`: share of notional. Ratios
    are equity over maintenance margin plus liquidation fee.
    """

    step: Literal["one-tier", "two-tiers"]
    penalty: Literal["closed-tier"]
    surplus: Literal["returned", "fund"]
    early_cancel: Literal["at-liquidation", "free-margin"] = "at-liquidation"
    deleveraging_fee: float = 0.0
    warning_ratio: float = 3.0
    liquidation_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class OrderRow:
    """What resting orders cost in cross: the sides that count in one-way mode, order loss, tier."""

    one_way: Literal["larger-side", "both-sides"]
    order_loss: bool
    pending_in_maintenance: bool


@dataclass(frozen=True, slots=True)
class InstrumentRow:
    """Contract size in base coin (linear, options: multiplier included), USD (inverse) or 1 (spot).

    Tick, lot 0: not known, any goes.
    """

    contract_size: float
    tick: float
    lot: float


@dataclass(frozen=True, slots=True)
class MarginRow:
    """How isolated spot margin books a position: whether `assets` at the venue hold the margin too."""

    accounting: Literal["assets-with-margin", "assets-without-margin"]


@dataclass(frozen=True, slots=True)
class MarginTiers:
    """Borrow tiers of a spot pair: `base` by what is borrowed in base coin, `quote` by what in quote coin.

    `quote` is None where only base sizes are known (a caller's own table): a quote debt is then judged by
    its worth in base coin. The rate of the tier reached multiplies the whole debt.
    """

    base: Tiers
    quote: Tiers | None

    def of_base(self, amount: float) -> Tier:
        """The tier that a debt in base coin reaches. Raises InputError beyond the last."""
        return self.base.at(amount)

    def of_quote(self, amount: float, price: float) -> Tier:
        """The tier that a debt in quote coin reaches. Raises InputError beyond the last.

        `price` (quote per base) only matters where the table has no quote sizes.
        """
        return self.base.at(amount / price) if self.quote is None else self.quote.at(amount)

    def max_quote(self, leverage: float, price: float) -> float:
        """The most quote coin that may be owed at a leverage setting (base: `base.max_size`)."""
        return self.base.max_size(leverage) * price if self.quote is None else self.quote.max_size(leverage)

    @property
    def max_leverage(self) -> float:
        """The leverage of the lowest tier."""
        return self.base.max_leverage


@dataclass(frozen=True, slots=True)
class OptionRow:
    """Option margin of one underlying outside portfolio margin, per coin, and what trades and exercise cost.

    `factors`: (max contracts short, margin factor), smallest first. `fee_cap` and `liquidation_fee_cap`:
    share of the premium and of the mark value that a fee may reach. `charges_fee_in_orders`: order margin
    holds the trading fee too.
    """

    a: float
    b: float
    c: float
    min_order: float
    fee_cap: float
    liquidation_fee_cap: float
    exercise_rate: float
    exercise_cap: float
    charges_fee_in_orders: bool
    factors: tuple[tuple[float, float], ...]

    def factor(self, contracts: float) -> float:
        """The margin factor of a seller who is short so many contracts, sell orders included.

        Raises InputError beyond the last row.
        """
        for limit, factor in self.factors:
            if abs(contracts) <= limit:
                return factor
        raise InputError(f"options.factors: a size of {contracts:.10g} contracts is beyond the largest known tier "
                         f"({self.factors[-1][0]:.10g}), where no factor is known; sell fewer options")

    def fee(self, notional: float, premium: float, rate: float) -> float:
        """What a trade costs: the rate on notional, at most `fee_cap` of the premium."""
        return min(rate * notional, self.fee_cap * premium)

    def liquidation_fee(self, notional: float, mark_value: float, taker: float) -> float:
        """What a forced closing costs: the taker rate on notional, at most a share of the mark value."""
        return min(taker * notional, self.liquidation_fee_cap * mark_value)

    def exercise_fee(self, notional: float, settlement_value: float, taker: float) -> float:
        """What an exercise costs; expiries that are daily only pay nothing, which is for the caller to know."""
        return min(self.exercise_rate * notional, taker * notional, self.exercise_cap * settlement_value)


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """The settlement price is the mean of the index over `average_minutes`; `fee` is a share of notional."""

    average_minutes: float
    fee: float


@dataclass(frozen=True, slots=True)
class InterestRow:
    """What a borrowed coin costs an hour, as a fraction of the debt."""

    hourly: float


def row_of(shape: type[Row], figures: Mapping[str, Any], path: str) -> Row:
    """A row put together from single parameters, its figures zero or above. Raises InputError naming `path`."""
    try:
        row: Row = msgspec.convert(dict(figures), shape)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    for name in figures:
        value = getattr(row, name, 0.0)
        if isinstance(value, float) and not (value >= 0 and usable(value)):
            raise InputError(f"{path}.{name}: expected a finite number, zero or above, found {value!r}")
    return row


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """A revision that a figure rests on.

    `extrapolated_days` > 0: it was not in force and stood in from so far away.
    """

    table: str
    subject: str
    effective: str
    grade: str
    source: str
    extrapolated_days: int = 0


# -- file shapes: what a TOML file may hold -------------------------------------------------------------


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every revision says about itself.

    `until`: known to have been superseded then by something these tables do not have. `listed`: the
    contract under this name began then; whatever bore the name before is another contract, and neither
    stands in for the other.
    """

    effective: datetime
    evidence: Grade
    source: str  # a key of the file's [sources]
    until: datetime | None = None
    listed: datetime | None = None
    note: str = ""


class Then(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A constant step for all tiers above the printed ones, until the initial rate reaches `until_imr`."""

    size: float
    mmr: float
    imr: float
    until_imr: float


class TierRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    symbol: str
    rows: tuple[tuple[float, float, float, float], ...]
    then: Then | None = None


class InstrumentRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rows: tuple[tuple[str, float, float, float], ...]  # symbol, contract size, tick, lot


class FeeRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kinds: tuple[FeeKind, ...]
    maker: float
    taker: float


class FundingRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    symbols: tuple[str, ...]  # "*" stands for every swap without a row of its own
    interval_hours: float
    cap: float | None = None


class ParameterRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One parameter of a row that is put together from several, so that each has its own dates and grade."""

    parameter: str
    value: str | float | bool


class MarginThen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Then` with a step for each side."""

    base: float
    quote: float
    mmr: float
    imr: float
    until_imr: float


class MarginTierRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pair: str
    rows: tuple[tuple[float, float, float, float, float], ...]  # base and quote limit, then as for positions
    then: MarginThen | None = None


class OptionRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    parameter: str
    bases: tuple[str, ...]  # "*" stands for every underlying without a figure of its own
    value: float | bool | tuple[tuple[float, float], ...]  # factors: rows [max contracts, factor]


class PortfolioRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    parameter: str
    bases: tuple[str, ...]  # "*" stands for every coin without a figure of its own
    value: str | float | bool | tuple[Any, ...]  # of the type that the parameter has in rules/portfolio.py


class InterestRevision(Head, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rows: tuple[tuple[str, float], ...]  # currency (or stablecoins, coins), rate of a day


R = TypeVar("R", bound=Head)


class TableFile(msgspec.Struct, Generic[R], frozen=True, forbid_unknown_fields=True):
    """A rule table as it stands on disk."""

    sources: dict[str, str]
    revision: tuple[R, ...]


@dataclass(frozen=True)
class TierRow:
    """Printed rows and step; the ladder is built the first time somebody asks (most never do)."""

    symbol: str
    rows: tuple[tuple[float, ...], ...]
    then: Then | None = None
    path: str = ""

    @cached_property
    def tiers(self) -> Tiers:
        """The whole ladder. Raises InputError when the rows make none."""
        then = None if self.then is None else msgspec.structs.asdict(self.then)
        return Tiers.from_rows(self.symbol, self.rows, then, path=self.path)


@dataclass(frozen=True)
class MarginTierRow:
    """Printed borrow tiers of a pair; the ladders are built the first time somebody asks.

    Rows [base limit, quote limit, maintenance, initial, leverage]; without quote limits (`quoted` False, a
    caller's own) [base limit, maintenance, initial, leverage].
    """

    pair: str
    rows: tuple[tuple[float, ...], ...]
    then: MarginThen | None = None
    path: str = ""
    quoted: bool = False

    @cached_property
    def tiers(self) -> MarginTiers:
        """Both ladders. Raises InputError when the rows make none."""
        base, _, quote = self.pair.partition("/")
        if not self.quoted:
            return MarginTiers(Tiers.from_rows(self.pair, self.rows, unit=base, path=self.path), None)
        return MarginTiers(self._side(0, base, "base"), self._side(1, quote, "quote"))

    def _side(self, column: int, unit: str, step: str) -> Tiers:
        rows = [(row[column], *row[2:]) for row in self.rows]
        then = None
        if self.then is not None:
            figures = msgspec.structs.asdict(self.then)
            then = {"size": figures.pop(step), **figures}
        return Tiers.from_rows(self.pair, rows, then, unit=unit, path=self.path)
