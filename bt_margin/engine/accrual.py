"""Funding due between two instants, and who pays it from where.

Sources: rule book section 8; recorded DEMO-FUNDING-ISO-LONG-1..3, DEMO-FUNDING-CROSS-SHORT-1..3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError
from bt_margin.model.account import Account, Position
from bt_margin.model.ledger import Entry, EntryKind
from bt_margin.model.market import Market
from bt_margin.model.moment import HOUR, MINUTE
from bt_margin.modes.assess import account_pools, transferable
from bt_margin.modes.base import MarginMode, Pool, judge
from bt_margin.rules.book import Rules

NEAR = MINUTE  # the venue takes up to a minute to assess; a rate stamped within it belongs to that settlement


def settlement_rate(premium: float, interval_hours: float, cap: float, floor: float) -> float:
    """The rate the venue settles from an averaged premium, for those who have premiums but no rates.

    Since April 2025: clamp(P + clamp(I - P, -0.05 %, +0.05 %), floor, cap), I = interest_rate(interval). All fractions.
    Source: rule book section 8 (announcement of 2025-03/04).
    """
    inner = min(0.0005, max(-0.0005, interest_rate(interval_hours) - premium))
    return min(cap, max(floor, premium + inner))


def interest_rate(interval_hours: float) -> float:
    """The interest part of a settlement: 0.03 % a day, shared by its settlements."""
    return 0.0003 / (24.0 / interval_hours)


@dataclass(frozen=True)
class FundingSeries:
    """Settled rates of one perpetual: `times` int64 ms (settlement), `rates` fractions; positive: longs pay."""

    times: NDArray[np.int64]
    rates: NDArray[np.float64]
    of: str = ""  # the contract whose rates these are, when another's stand in

    def __post_init__(self) -> None:
        if len(self.times) != len(self.rates):
            raise InputError(f"funding: {len(self.times)} times but {len(self.rates)} rates")
        if len(self.times) > 1 and np.any(np.diff(self.times) <= 0):
            raise InputError("funding: settlement times must rise strictly")
        if not np.all(np.abs(self.rates) < 1.0):  # NaN as well; venues cap theirs at a few per cent
            raise InputError("funding: expected finite fractions such as 0.0001, from -1 to 1; repair or drop the row")


def settlements(
    series: FundingSeries | None, interval_hours: float, start: int, end: int
) -> Iterator[tuple[int, float | None]]:
    """Settlement times in (start, end] with their rate, None where the venue's clock strikes without one."""
    due: dict[int, float | None] = {}
    if series is not None and len(series.times):
        first, last = np.searchsorted(series.times, [start, end], side="right")
        for i in range(int(first), int(last)):
            due[int(series.times[i])] = float(series.rates[i])
    step = int(interval_hours * HOUR)
    for tick in range((start // step + 1) * step, end + 1, step):
        if series is None or not len(series.times):
            due[tick] = None
            continue
        i = int(np.searchsorted(series.times, tick))
        near = min(
            (abs(int(series.times[j]) - tick) for j in (i - 1, i) if 0 <= j < len(series.times)),
            default=NEAR + 1,
        )
        if near > NEAR:
            due[tick] = None
    yield from sorted(due.items())


def funding_entries(
    account: Account, mode: MarginMode, position: Position, rate: float, time: int, market: Market, rules: Rules
) -> list[Entry]:
    """Book one settlement of one position: value at the mark x rate; positive rates are paid by longs.

    Since 2024-07-01 in full: isolated out of (into) the position's margin, cross out of cash. Before, a payer was
    charged only down to a ratio of 1, an isolated one from free cash first; receivers were credited to cash.
    """
    settle = position.currency
    amount = -position.sign * float(position.notional(market)) * rate

    def entry(cash: float = 0.0, margin: float = 0.0) -> Entry:
        return Entry(
            time, EntryKind.FUNDING, settle, cash=cash, margin=margin, key=position.key,
            price=float(market.mark(position.symbol)), note=f"rate {rate:.6%}",
        )

    if amount == 0.0:
        return []
    isolated = position.margin_mode == "isolated"
    if rules.funding(position.symbol).collection == "full":
        return [entry(margin=amount) if isolated else entry(cash=amount)]
    if amount > 0:
        return [entry(cash=amount)]
    due = -amount
    entries = []
    if isolated:
        free = next((transferable(p, judge(p, market, rules), settle, market, rules)
                     for p in account_pools(account, mode) if p.name == settle or p.holdings is not None), 0.0)
        from_cash = min(due, max(0.0, free))
        if from_cash:
            entries.append(entry(cash=-from_cash))
        due -= from_cash
    pool = next(p for p in account_pools(account, mode) if any(q.key == position.key for q in p.positions))
    due = _bearable(pool, settle, due, market, rules)
    if due:
        entries.append(entry(margin=-due) if isolated else entry(cash=-due))
    return entries


def _bearable(pool: Pool, currency: str, due: float, market: Market, rules: Rules) -> float:
    """How much of `due` a pool can pay before its ratio is 1: funding alone did not liquidate then."""

    def gap(paid: float) -> float:
        after = replace(pool, cash=pool.cash - paid)
        if pool.holdings is not None:
            after = replace(pool, holdings=pool.holdings.plus(currency, -paid))
        judgement = judge(after, market, rules)
        return float(judgement.gap) - 1e-9 * float(judgement.requirement)  # a hair above 1

    if gap(due) >= 0:
        return due
    low, high = 0.0, due
    if gap(low) <= 0:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return low
