"""Who holds what: backtrader's positions by feed and leg, and each owner's own part of a position.

The venue knows one position per key. backtrader's trades belong to a strategy and a trade id, so that a fill (and
above all a forced one) has to be told to each owner in its own terms, down to an exact zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import backtrader as bt
from backtrader.position import Position as BtPosition

from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.plugin.comminfo import MarginCommInfo, TradeInfo

FORCED = ("forced", "delivery", "deleveraging")
"""Notes of the entries that book a trade nobody asked for; each begins with its fee."""

Owner = tuple[Any, Any]
"""(strategy, trade id)"""


class Holdings:
    """Positions as strategies see them. `feeds` is the broker's own mapping of feeds to net positions."""

    def __init__(self, feeds: Any) -> None:
        self._feeds = feeds
        self._legs: dict[PositionKey, BtPosition] = {}
        self._owned: dict[PositionKey, dict[Owner, float]] = defaultdict(dict)
        self._funding: dict[tuple[PositionKey, Owner], float] = {}

    def leg(self, key: PositionKey) -> BtPosition:
        """One leg's position."""
        return self._legs.setdefault(key, BtPosition())

    def charge(self, key: PositionKey, cost: float) -> None:
        """Funding paid by a position, remembered by owner until it closes (the counterpart of stock's interest)."""
        owned = self._owned[key]
        net = math.fsum(owned.values())
        for owner, size in owned.items():
            self._funding[key, owner] = self._funding.get((key, owner), 0.0) + (cost * size / net if net else 0.0)

    def shares(self, key: PositionKey, size: float, whole: bool, instrument: Instrument) -> list[tuple[Owner, float]]:
        """A forced trade of `size` (signed) by owner: everybody's part when whole, else first come, first closed."""
        owned = self._owned[key]
        if whole:
            return [(owner, -held) for owner, held in owned.items()]
        parts, left = [], size
        for owner, held in owned.items():
            if held * size < 0 and left:
                part = math.copysign(min(abs(held), abs(left)), size)
                parts.append((owner, part))
                left = instrument.snap(left - part)
        return parts

    def execute(self, order: Any, dt: float, key: PositionKey, instrument: Instrument, change: float, price: float,
                pnl: float, fee: float, comminfo: Any, factor: float, with_funding: bool) -> None:
        """One execution bit: sizes as the owner's trade sees them, money in the broker's currency.

        `fee` is everything the fill cost beyond its profit, negative for a refund.
        """
        owner = (order.owner, order.tradeid)
        alone = self._owned[key].keys() <= {owner}
        held = self._owned[key].get(owner, 0.0)
        closed, opened = _split(held, change, instrument)
        left = opened if closed == -held else held + closed + opened
        if left:
            self._owned[key][owner] = instrument.snap(left)
        else:
            self._owned[key].pop(owner, None)
        closed_fee = fee * abs(closed) / abs(change)
        opened_fee = fee - closed_fee
        if closed:
            due = self._funding.pop((key, owner), 0.0)
            now = due if closed == -held else due * closed / -held
            if due != now:
                self._funding[key, owner] = due - now
            closed_fee += now if with_funding else 0.0

        def value(size: float, at: float) -> float:
            return math.copysign(float(instrument.notional(size, at)), size) if size else 0.0

        position = self._feeds[order.data]
        loan = instrument.is_spot and key.margin_mode != "cash"
        entry = self.leg(key).price if loan else position.price
        info = isinstance(comminfo, MarginCommInfo)
        if instrument.is_spot:  # the venue books coins, not a profit
            pnl = comminfo.profitandloss(-closed, entry, price) * (factor if info else 1.0)
        for one in (position, self.leg(key)):
            _update(one, change, price, bt.num2date(dt), instrument)
        own = pnl if alone and closed and not instrument.is_spot else None
        order.execute(
            dt, change, price, closed, value(-closed, entry), closed_fee, opened, value(opened, price), opened_fee,
            comminfo.get_margin(price) if info else 0.0, pnl, position.size, position.price,
        )
        order.addcomminfo(TradeInfo(comminfo, factor, own) if info else comminfo)


def _update(position: BtPosition, change: float, price: float, at: Any, instrument: Instrument) -> None:
    """backtrader's position, to the lot, its average price by the contract's own rule."""
    before, entry = position.size, position.price
    position.update(change, price, at)
    position.size = instrument.snap(position.size)
    if not position.size:
        position.price = 0.0
    elif before * change > 0:
        unit = instrument.contract_size
        position.price = instrument.payoff.average(abs(before) * unit, entry, abs(change) * unit, price)


def _split(held: float, change: float, instrument: Instrument) -> tuple[float, float]:
    """What of a change closes and what opens, for one who holds `held`; exact to the lot."""
    if held * change >= 0:
        return 0.0, change
    left = instrument.snap(held + change)
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
        elif entry.kind in (EntryKind.PENALTY, EntryKind.CLAWBACK, EntryKind.TRANSFER):
            if in_forced:
                forced[-1] -= worth(entry, key)
            elif entry.kind is EntryKind.CLAWBACK and funding:
                funding[-1] = (funding[-1][0], funding[-1][1] - worth(entry, key))
    return forced, funding


def paid_back(entries: Iterable[Entry], key: PositionKey, worth: Worth) -> float:
    """What the insurance fund paid within these entries, in the settlement currency of the position."""
    return math.fsum(worth(entry, key) for entry in entries if entry.kind is EntryKind.CLAWBACK)
