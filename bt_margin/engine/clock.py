"""What the clock brings: the events that fall due between two instants, and the price of a delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from bt_margin.engine.accrual import FundingSeries, settlements
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.model.moment import HOUR, MINUTE
from bt_margin.modes import borrow
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
class ModeSwitch:
    """A scripted change of the account mode at the first bar that closes at or after `time` (ms UTC).

    `leverage`: the setting of cross contracts when leaving portfolio margin.
    """

    time: int
    mode: str
    leverage: float | None = None


@dataclass(frozen=True, slots=True)
class InterestHour:
    """A full hour strikes for a spot-margin position."""


@dataclass(frozen=True, slots=True)
class DebtHour:
    """A full hour strikes for an account that stands behind its debts as a whole."""


Due = tuple[int, int, PositionKey, "float | InterestHour | DebtHour | Deleveraging | Instrument | None"]
"""(time, rank, position, cause): a funding rate (None: not known), an hour of interest, a deleveraging, or the
instrument that expires."""

NOBODY = PositionKey("", "", "")


def due_events(account: Account, funding: Mapping[str, FundingSeries], script: Sequence[Deleveraging], rules: Rules,
               start: int, end: int, debts: bool = False) -> list[Due]:
    """Everything due in (start, end], by time; at one instant funding, then interest, deleveraging, delivery (rule book
    of multi-currency margin, section 9). `debts`: the account may owe, so that every full hour counts."""
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
            due += [(time, 1, key, InterestHour()) for time in borrow.hours(start, end)]
            continue
        for one in script:
            side = "long" if position.size > 0 else "short"
            if start < one.time <= end and one.symbol == key.symbol and one.side in ("", side):
                due.append((one.time, 2, key, one))
    if debts:
        due += [(time, 1, NOBODY, DebtHour()) for time in borrow.hours(start, end)]
    due += [(at, 3, PositionKey(symbol, "", ""), instrument) for symbol, (at, instrument) in expiring.items()]
    return sorted(due, key=lambda row: row[:3])


def _instruments(account: Account) -> list[Instrument]:
    found = [position.instrument for position in account.positions.values()]
    return found + [queue.head.instrument for queue in account.resting.queues] if account.orders else found


WINDOW = HOUR
"""The longest averaging window before a delivery; a little more than it is remembered."""


class References:
    """Index prices seen on the way: what an expiring contract is delivered at is an average of them.

    A pair's own index is remembered whenever it is heard of, whoever holds what. For contracts that are held, what
    stands in for an index that is missing or silent is remembered beside it.
    """

    def __init__(self) -> None:
        self._heard: dict[str, list[tuple[int, float]]] = {}  # by pair
        self._stand_ins: dict[str, list[tuple[int, float]]] = {}  # by symbol

    def note(self, account: Account, market: Market) -> None:
        """Remember this instant's reference prices, the first at each instant."""
        for pair in market.indexes:
            if market.fresh_index(pair):
                _remember(self._heard.setdefault(pair, []), market.time, float(market.indexes[pair]))
        for instrument in _instruments(account):
            if instrument.expiry_ms is None or market.time < instrument.expiry_ms - 25 * WINDOW:
                continue
            if market.fresh_index(instrument.pair):
                continue
            price = _stand_in(instrument, market)
            if price is not None:
                _remember(self._stand_ins.setdefault(instrument.symbol, []), market.time, price)

    def average(self, instrument: Instrument, minutes: float, market: Market) -> float:
        """The index averaged over the last `minutes` before expiry, straight lines between what was heard.

        Source: rule book section 11 (60 minutes; 30 since 2026-03-18). Where the index was not heard of over the
        whole window, the spot pair, the perpetual or the contract's own mark stands in, counted and named in the
        market's stand-ins. Raises MissingPrice under `strict`, or when nothing at all was seen.
        """
        end, symbol, pair = instrument.expiry_ms or 0, instrument.symbol, instrument.pair
        start = end - round(minutes * MINUTE)
        heard = self._heard.get(pair, [])
        if heard and heard[0][0] <= start and heard[-1][0] >= end:
            return _mean(heard, start, end)
        if market.strict:
            raise MissingPrice(
                f"strict: {symbol} is delivered at the index of {pair} over its last {minutes:g} minutes, which was "
                "not seen throughout; give its feed an index"
            )
        inside = [row for row in heard if row[0] >= start - WINDOW]
        merged = sorted({**dict(self._stand_ins.get(symbol, [])), **dict(inside)}.items())
        if not merged:
            raise MissingPrice(f"{symbol}: no index price was seen before its delivery; give its feed an index")
        market.stand_ins[f"index of {pair} at the delivery of {symbol}: what was seen of it, spot or marks"] += 1
        return _mean(merged, start, end)


def _remember(seen: list[tuple[int, float]], time: int, price: float) -> None:
    if seen and time <= seen[-1][0]:
        return
    seen.append((time, price))
    while len(seen) > 2 and seen[1][0] <= time - WINDOW:
        del seen[0]  # the row before the window's beginning stays: the line from it enters the window


def _mean(seen: Sequence[tuple[int, float]], start: int, end: int) -> float:
    """Mean over [start, end] of the straight lines through (time, price) rows; the last price where none enters."""
    total = covered = 0.0
    for (t0, p0), (t1, p1) in pairwise(seen):
        low, high = max(t0, start), min(t1, end)
        if high > low:
            at = (low + high) / 2
            total += (p0 + (p1 - p0) * (at - t0) / (t1 - t0)) * (high - low)
            covered += high - low
    return total / covered if covered else seen[-1][1]


def _stand_in(instrument: Instrument, market: Market) -> float | None:
    """The spot pair's last price or the perpetual's mark, else the contract's own mark (a future's: it converges)."""
    if market.strict:
        return None
    try:
        quiet = replace(market.without_index(instrument.pair), stand_ins=Counter())
        return float(quiet.index(instrument.pair))
    except MissingPrice:
        known = {**market.lasts, **market.marks}.get(instrument.symbol)
        return None if instrument.is_option or known is None else float(known)
