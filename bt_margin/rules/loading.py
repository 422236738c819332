"""From TOML files to histories. One file per table in a folder per venue."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bt_margin.errors import InputError
from bt_margin.rules.credit import (
    AmountRevision,
    BorrowRevision,
    BorrowRow,
    QuotaRevision,
    QuotaRow,
    RateRevision,
    RateSeries,
)
from bt_margin.rules.discounts import DiscountRevision, DiscountRow
from bt_margin.rules.history import History, Revision, to_ms
from bt_margin.rules.portfolio import checked
from bt_margin.rules.tables import (
    FeeRevision,
    FeeRow,
    FundingRevision,
    Head,
    InstrumentRevision,
    InstrumentRow,
    InterestRevision,
    InterestRow,
    MarginTierRevision,
    MarginTierRow,
    OptionRevision,
    ParameterRevision,
    PortfolioRevision,
    TableFile,
    TierRevision,
    TierRow,
)

Table = Mapping[str, History[Any]]
"""Histories by subject."""
Tables = Mapping[str, Table]
"""Tables by name."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class FundingTerms:
    """Interval in hours and the bound of one settlement's rate; how much is collected is another table."""

    interval_hours: float
    cap: float | None


def _instruments(revision: InstrumentRevision) -> Iterator[tuple[str, InstrumentRow]]:
    return ((symbol, InstrumentRow(*figures)) for symbol, *figures in revision.rows)


def _tiers(revision: TierRevision) -> Iterator[tuple[str, TierRow]]:
    path = f"position_tiers.{revision.symbol}.{revision.effective:%Y-%m-%d}"
    yield revision.symbol, TierRow(revision.symbol, revision.rows, revision.then, path)


def _fees(revision: FeeRevision) -> Iterator[tuple[str, FeeRow]]:
    return ((kind, FeeRow(revision.maker, revision.taker)) for kind in revision.kinds)


def _funding(revision: FundingRevision) -> Iterator[tuple[str, FundingTerms]]:
    return ((symbol, FundingTerms(revision.interval_hours, revision.cap)) for symbol in revision.symbols)


def _margin_tiers(revision: MarginTierRevision) -> Iterator[tuple[str, MarginTierRow]]:
    path = f"margin_tiers.{revision.pair}.{revision.effective:%Y-%m-%d}"
    yield revision.pair, MarginTierRow(revision.pair, revision.rows, revision.then, path, quoted=True)


def _options(revision: OptionRevision) -> Iterator[tuple[str, Any]]:
    return ((f"{base}.{revision.parameter}", revision.value) for base in revision.bases)


def _portfolio(revision: PortfolioRevision) -> Iterator[tuple[str, Any]]:
    value = checked(revision.parameter, revision.value, f"rules: portfolio.toml: {revision.parameter}")
    return ((f"{base}.{revision.parameter}", value) for base in revision.bases)


def _interest(revision: InterestRevision) -> Iterator[tuple[str, InterestRow]]:
    return ((currency, InterestRow(daily / 24)) for currency, daily in revision.rows)


def _discounts(revision: DiscountRevision) -> Iterator[tuple[str, DiscountRow]]:
    for currency in revision.currencies:
        path = f"discounts.{currency}.{revision.effective:%Y-%m-%d}"
        yield currency, DiscountRow(currency, revision.unit, revision.rows, revision.then, revision.beyond, path)


def _borrow(revision: BorrowRevision) -> Iterator[tuple[str, BorrowRow]]:
    for currency in revision.currencies:
        path = f"currency_borrow.{currency}.{revision.effective:%Y-%m-%d}"
        yield currency, BorrowRow(currency, revision.rows, revision.then, path)


def _limits(revision: AmountRevision) -> Iterator[tuple[str, float]]:
    return iter(revision.rows)


def _quotas(revision: QuotaRevision) -> Iterator[tuple[str, QuotaRow]]:
    return ((currency, QuotaRow(amount, revision.enlarged_by)) for currency, amount in revision.rows)


def _rates(revision: RateRevision) -> Iterator[tuple[str, RateSeries]]:
    times = [to_ms(datetime.strptime(hour, "%Y-%m-%dT%HZ").replace(tzinfo=UTC)) for hour, _ in revision.rows]
    yield revision.currency, RateSeries(np.array(times, np.int64), np.array([rate for _, rate in revision.rows]))


def _parameter(revision: ParameterRevision) -> Iterator[tuple[str, Any]]:
    yield revision.parameter, revision.value


_SHAPES: dict[str, tuple[type[Head], Callable[[Any], Iterator[tuple[str, Any]]]]] = {
    "instruments": (InstrumentRevision, _instruments),
    "position_tiers": (TierRevision, _tiers),
    "fees": (FeeRevision, _fees),
    "funding": (FundingRevision, _funding),
    "funding_collection": (ParameterRevision, _parameter),
    "liquidation": (ParameterRevision, _parameter),
    "orders": (ParameterRevision, _parameter),
    "margin_tiers": (MarginTierRevision, _margin_tiers),
    "margin": (ParameterRevision, _parameter),
    "interest": (InterestRevision, _interest),
    "borrow_rates": (RateRevision, _rates),
    "options": (OptionRevision, _options),
    "delivery": (ParameterRevision, _parameter),
    "portfolio": (PortfolioRevision, _portfolio),
    "discounts": (DiscountRevision, _discounts),
    "currency_borrow": (BorrowRevision, _borrow),
    "borrow_limits": (AmountRevision, _limits),
    "free_quota": (QuotaRevision, _quotas),
    "multi_currency": (ParameterRevision, _parameter),
}
"""File name (without its ending) to what one revision looks like and which rows it makes."""


def venues() -> list[str]:
    """The venues whose rules are here."""
    return sorted(folder.name for folder in _FOLDER.iterdir() if any(folder.glob("*.toml")))


def read(venue: str) -> Tables:
    """All tables of a venue.

    Raises InputError for an unknown venue or a file that does not follow its shape.
    """
    if venue not in venues():
        raise InputError(f"rules.venue: expected one of {', '.join(venues())}, found {venue!r}")
    return {name: read_table(_FOLDER / venue / f"{name}.toml", name) for name in _SHAPES}


def read_table(path: Path, name: str) -> Table:
    """One table from its file."""
    shape, rows = _SHAPES[name]
    try:
        content = tomllib.loads(path.read_text("utf-8"))
        file: TableFile[Head] = msgspec.convert(content, TableFile[shape])  # type: ignore[valid-type]
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, OSError) as error:
        raise InputError(f"rules: {path.name}: {error}") from None
    found: dict[str, list[Revision[Any]]] = {}
    for revision in file.revision:
        if revision.source not in file.sources:
            raise InputError(f"rules: {path.name}: source {revision.source!r} is not among its [sources]")
        for subject, row in rows(revision):
            found.setdefault(subject, []).append(
                Revision(
                    to_ms(revision.effective),
                    row,
                    revision.evidence,
                    file.sources[revision.source],
                    None if revision.until is None else to_ms(revision.until),
                    None if revision.listed is None else to_ms(revision.listed),
                    revision.note,
                )
            )
    return {
        subject: History(revisions, f"rules: {path.name}: {subject}") for subject, revisions in found.items()
    }
