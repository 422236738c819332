"""The shapes of the rule tables: what a TOML file may hold, and the typed rows handed out.

File shapes are strict (an unknown key is an error) and carry the head every revision has. Rows are plain
values. Times are UTC; rates are fractions; sizes are contracts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Generic, Literal, TypeVar, get_args

import msgspec

from bt_margin.rules.tiers import Tiers

Grade = Literal["official", "recorded", "snapshot", "rewrite", "derived", "inferred", "user"]
FeeKind = Literal["spot", "margin", "swap", "future", "option"]
FEE_KINDS: tuple[str, ...] = get_args(FeeKind)

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
    after a takeover. Ratios are equity over maintenance margin plus liquidation fee.
    """

    step: Literal["one-tier", "two-tiers"]
    penalty: Literal["closed-tier"]
    surplus: Literal["returned", "fund"]
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
    """Contract size in base coin (linear), USD (inverse) or 1 (spot); tick, lot 0: not known, any goes."""

    contract_size: float
    tick: float
    lot: float


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
