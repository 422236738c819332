"""What the clock brings: the events that fall due between two instants, and the price of a delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bt_margin.engine.accrual import HOUR, FundingSeries, settlements
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.rules.book import Rules


@dataclass(frozen=True, slots=True)
class Deleveraging:
    """A scripted auto-deleveraging: at `time` (ms UTC) a share (0 to 1] of every position in `symbol` is closed.

    `side`: long or short to hit one side only, empty for both.
    """

    time: int
    symbol: str
    share: float
    side: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"deleveraging: expected a share above 0 and up to 1, found {self.share!r}")
        if self.side not in ("", "long", "short"):
            raise InputError(f"deleveraging: side is long, short or empty, found {self.side!r}")


@dataclass(frozen=True, slots=True)
class InterestHour:
    """A full hour strikes for a spot-margin position."""


Due = tuple[int, int, PositionKey, "float | InterestHour | Deleveraging | Instrument | None"]
"""(time, rank, position, cause): a funding rate (None: not known), an hour of interest, a deleveraging, or the
instrument that expires."""


def due_events(account: Account, funding: Mapping[str, FundingSeries], script: Sequence[Deleveraging], rules: Rules,
               start: int, end: int) -> list[Due]:
    """Everything due in (start, end], by time; at one instant funding before deleveraging before delivery."""
    due: list[Due] = []
    expiring: dict[str, tuple[int, Instrument]] = {}
    for instrument in _instruments(account):
        at = instrument.expiry_ms
        if at is not None and at <= end:
            expiring[instrument.symbol] = (max(at, start + 1), instrument)  # an order may outlive its contract
    for key in sorted(account.positions):
        position = account.positions[key]
        if position.instrument.is_swap:
            hours = rules.funding(key.symbol).interval_hours
            due += [(time, 0, key, rate) for time, rate in settlements(funding.get(key.symbol), hours, start, end)]
        if position.instrument.is_spot:  # a margin pair: interest, and no deleveraging (rule book section 7)
            due += [(time, 0, key, InterestHour()) for time in range((start // HOUR + 1) * HOUR, end + 1, HOUR)]
            continue
        for one in script:
            side = "long" if position.size > 0 else "short"
            if start < one.time <= end and one.symbol == key.symbol and one.side in ("", side):
                due.append((one.time, 1, key, one))
    due += [(at, 2, PositionKey(symbol, "", ""), instrument) for symbol, (at, instrument) in expiring.items()]
    return sorted(due, key=lambda row: row[:3])


def _instruments(account: Account) -> Iterable[Instrument]:
    yield from (position.instrument for position in account.positions.values())
    yield from (order.instrument for order in account.orders.values())


class References:
    """Index prices seen on the way, kept while a contract that is held nears its delivery."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[int, float]]] = {}

    def note(self, account: Account, market: Market, strict: bool) -> None:
        """Remember the reference price of every expiring contract that is held, the first at each instant."""
        for position in account.positions.values():
            instrument = position.instrument
            if instrument.expiry_ms is None:
                continue
            seen = self._seen.setdefault(instrument.symbol, [])
            if not seen or market.time > seen[-1][0]:
                seen.append((market.time, _reference(instrument, market, strict)))
                if len(seen) > 4_000:  # the averaging window is an hour at most, its beginning may be a bar earlier
                    del seen[:2_000]

    def average(self, instrument: Instrument, minutes: float, market: Market) -> float:
        """The reference price averaged over the last `minutes` before expiry, straight lines between what was seen.

        Source: rule book section 11 (60 minutes; 30 since 2026-03-18). Raises MissingPrice when nothing was seen
        after expiry came near.
        """
        end = instrument.expiry_ms
        seen = self._seen.pop(instrument.symbol, [])
        if end is None or not seen:
            raise MissingPrice(f"{instrument.symbol}: no index price was seen before its delivery; supply one")
        start = end - round(minutes * 60_000)
        total = 0.0
        for (t0, p0), (t1, p1) in pairwise(seen):
            low, high = max(t0, start), min(t1, end)
            if high > low:
                at = (low + high) / 2
                total += (p0 + (p1 - p0) * (at - t0) / (t1 - t0)) * (high - low)
        covered = min(seen[-1][0], end) - max(seen[0][0], start)
        return total / covered if covered > 0 else seen[-1][1]


def _reference(instrument: Instrument, market: Market, strict: bool) -> float:
    """The index of the pair; the contract's own mark stands in where there is none (it converges to the index)."""
    try:
        return float(market.index(instrument.pair))
    except MissingPrice:
        if strict:
            raise
        market.stand_ins[f"index of {instrument.pair}: mark of {instrument.symbol}"] += 1
        return float(market.mark(instrument.symbol))
