"""Who holds what: backtrader's positions by feed and leg, and each owner's own part of a position.

The venue knows one position per key. backtrader's trades belong to a strategy and a trade id, so that a fill (and
above all a forced one) has to be told to each owner in its own terms, down to an exact zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import backtrader as bt
from backtrader.position import Position as BtPosition

from bt_margin.errors import NotSupported
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.plugin.comminfo import MarginCommInfo, TradeInfo

FORCED = ("forced", "delivery", "deleveraging")
"""Notes of the entries that book a trade nobody asked for; each begins with its fee."""

ACCOUNT = ("conversion", "forced repayment", "debt written off")
"""Notes of entries about debts of the account as a whole: they belong to no position."""

Owner = tuple[Any, Any]
"""(strategy, trade id)"""


class Holdings:
    """Positions as strategies see them. `feeds` is the broker's own mapping of feeds to net positions."""

    def __init__(self, feeds: Any) -> None:
        self._feeds = feeds
        self._legs: dict[PositionKey, Held] = {}
        self._owned: dict[PositionKey, dict[Owner, Part]] = defaultdict(dict)

    def leg(self, key: PositionKey) -> Held:
        """One leg's position."""
        return self._legs.setdefault(key, Held())

    def rename(self, old: PositionKey, new: PositionKey) -> None:
        """A position goes on under another key: coins in cash and coins in cross are the same coins.

        Raises NotSupported where a position of its own is there already.
        """
        if self.leg(new).size and self.leg(old).size:
            raise NotSupported(f"{old.symbol}: coins are held in cash and in cross; sell one of them before the switch")
        if self.leg(new).size:
            return
        if old in self._legs:
            self._legs[new] = self._legs.pop(old)
        if old in self._owned:
            self._owned[new] = self._owned.pop(old)

    def charge(self, key: PositionKey, cost: float) -> None:
        """Funding or interest paid by a position, remembered by owner until it closes (stock's credit interest)."""
        owned = self._owned[key]
        net = math.fsum(part.size for part in owned.values())
        for part in owned.values():
            part.due += cost * part.size / net if net else 0.0

    def shares(self, key: PositionKey, size: float, whole: bool, instrument: Instrument) -> list[tuple[Owner, float]]:
        """A forced trade of `size` (signed) by owner: everybody's part when whole, else first come, first closed."""
        owned = self._owned[key]
        if whole:
            return [(owner, -part.size) for owner, part in owned.items()]
        parts, left = [], size
        for owner, held in owned.items():
            if held.size * size < 0 and left:
                part = math.copysign(min(abs(held.size), abs(left)), size)
                parts.append((owner, part))
                left = instrument.snap(left - part)
        return parts

    def execute(self, order: Any, dt: float, key: PositionKey, instrument: Instrument, change: float, price: float,
                fee: float, comminfo: Any, factor: float, with_due: bool, exact: float | None = None) -> None:
        """One execution bit: sizes as the owner's trade sees them, money in the broker's currency.

        The profit is from the owner's own entry, so that over all owners it adds up to what the account won. `fee` is
        everything the fill cost beyond its profit, negative for a refund. `exact`: what the venue holds now where that
        is no whole number of lots (coins of a loan).
        """
        owner, owned = (order.owner, order.tradeid), self._owned[key]
        part = owned.get(owner) or Part()
        closed, opened = _split(part.size, change, instrument, exact)
        ends = bool(closed) and closed == -part.size
        closed_fee = fee * abs(closed) / abs(change)
        opened_fee = fee - closed_fee
        profit = 0.0
        if closed:
            profit = float(instrument.pnl(-closed, part.entry, price)) * factor
            due = part.due if ends else part.due * closed / -part.size
            part.due -= due
            closed_fee += due if with_due else 0.0
        bit = -part.raw if ends else closed  # what backtrader's trade has added up, float for float
        if ends:
            part = Part()
        part.add(closed if not ends else 0.0, opened, price, instrument, exact is None)
        if part.size:
            owned[owner] = part
        else:
            owned.pop(owner, None)
        if exact is not None and len(owned) == 1 and owner in owned and exact:
            part.size = exact

        def value(size: float, at: float) -> float:
            return math.copysign(float(instrument.notional(size, at)), size) * factor if size else 0.0

        position, leg = self._feeds[order.data], self.leg(key)
        entry, info = leg.price, isinstance(comminfo, MarginCommInfo)
        if not info:
            profit = comminfo.profitandloss(-closed, entry, price)
        at = bt.num2date(dt)
        leg.trade(change, price, at, instrument, exact)
        position.trade(change, price, at, instrument, None)
        position.size = math.fsum(one.size for k, one in self._legs.items() if k.symbol == key.symbol)
        if exact is None:
            position.size = instrument.snap(position.size)
        gave, got = value(-closed, entry or price), value(opened, price)
        order.execute(
            dt, change, price, bit, gave, closed_fee, opened, got, opened_fee,
            comminfo.get_margin(price) if info else 0.0, profit, position.size, position.price,
        )
        order.addcomminfo(TradeInfo(comminfo, profit) if info else comminfo)


class Held(BtPosition):
    """backtrader's position, to the lot, its average price by the contract's own rule."""

    size: float
    price: float

    def __len__(self) -> int:
        return math.ceil(abs(self.size))  # sizes are not whole numbers here

    def trade(self, change: float, price: float, at: Any, instrument: Instrument, exact: float | None) -> None:
        """Add a signed change; `exact` overrides the size where the venue's own is no whole number of lots."""
        before, entry = self.size, self.price
        self.update(change, price, at)
        self.size = instrument.snap(self.size) if exact is None else exact
        if not self.size:
            self.price = 0.0
        elif before * change > 0:
            unit = instrument.contract_size
            self.price = instrument.payoff.average(abs(before) * unit, entry, abs(change) * unit, price)


@dataclass(slots=True)
class Part:
    """One owner's part of a position."""

    size: float = 0.0
    raw: float = 0.0  # the same as backtrader's trade adds it up, dust included
    entry: float = 0.0
    due: float = 0.0  # funding and interest not told yet

    def add(self, closed: float, opened: float, price: float, instrument: Instrument, snap: bool) -> None:
        if opened:
            unit = instrument.contract_size
            self.entry = price if not self.size else instrument.payoff.average(
                abs(self.size) * unit, self.entry, abs(opened) * unit, price)
        self.raw += closed + opened
        size = self.size + closed + opened
        self.size = instrument.snap(size) if snap else size


def _split(held: float, change: float, instrument: Instrument, exact: float | None) -> tuple[float, float]:
    """What of a change closes and what opens, for one who holds `held`; exact to the lot."""
    if held * change >= 0:
        return 0.0, change
    left = held + change
    if exact is None:
        left = instrument.snap(left)
    elif abs(left) < instrument.lot or exact == 0.0:
        left = 0.0
    if left * held > 0:
        return change, 0.0
    return -held, left


Worth = Callable[[Entry, PositionKey | None], float]
"""What an entry about a position (its own, else the given one) gained, in that position's settlement currency."""


def costs(entries: Sequence[Entry], worth: Worth) -> tuple[list[float], list[tuple[PositionKey, float]]]:
    """What the ledger says happened by itself, in settlement currencies: (forced trades, funding and interest).

    Per trade nobody asked for (liquidation, delivery, deleveraging), in their order: its fee and penalty, less what the
    insurance fund paid back, plus what it kept. Per funding or interest entry: the position and what it paid, less what
    the fund paid of that.
    """
    forced: list[float] = []
    funding: list[tuple[PositionKey, float]] = []
    in_forced, key = False, None
    for entry in entries:
        if entry.kind in (EntryKind.FUNDING, EntryKind.INTEREST) and entry.key is not None:
            in_forced, key = False, entry.key
            funding.append((entry.key, -worth(entry, key)))
        elif entry.note in FORCED and entry.kind is EntryKind.FEE:
            in_forced, key = True, entry.key
            forced.append(-worth(entry, key))
        elif entry.note in ACCOUNT:
            in_forced, key = False, None
        elif entry.kind in (EntryKind.PENALTY, EntryKind.CLAWBACK, EntryKind.TRANSFER):
            if in_forced:
                forced[-1] -= worth(entry, key)
            elif entry.kind is EntryKind.CLAWBACK and funding:
                funding[-1] = (funding[-1][0], funding[-1][1] - worth(entry, key))
    return forced, funding


def paid_back(entries: Iterable[Entry], key: PositionKey, worth: Worth) -> float:
    """What the insurance fund paid within these entries, in the settlement currency of the position."""
    return math.fsum(worth(entry, key) for entry in entries if entry.kind is EntryKind.CLAWBACK)
