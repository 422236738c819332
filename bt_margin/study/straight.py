"""One contract alone in a pool: every leverage of an entry at once.

Along x (the mark; its inverse for coin-margined contracts) profit and requirement are straight lines. Per unit held, a
pool is liquidated at the first point at which what is needed reaches what was put in:

    c = money of the pool after the entry / units       need(t) = rate x(t) - (profit + funding)(t)
    breach at t: c <= need(t)                           rate: maintenance of the tier + taker fee

so a running maximum of need finds the bar for any c. What is left to the engine: cells whose point lies within a hair,
breaches at a bar's close, positions above the first tier (they may only be reduced), and everything after a reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import BtMarginError
from bt_margin.model.account import Position
from bt_margin.modes.base import MarginMode, Pool
from bt_margin.modes.valuation import forced_size, taker
from bt_margin.plugin.bars import CLOSE
from bt_margin.study.replay import FAILED, LIQUIDATED, SURVIVED, Outcome, Replay

HAIR = 1e-9
CHUNK = 2_000_000
"""Leverages x points judged in one go: 16 MB an array."""
Floats = NDArray[np.float64]


def applies(replay: Replay, mode: MarginMode) -> bool:
    """True where the book is one perpetual or future that only its own pool's money stands behind."""
    return len(replay.book.legs) == 1 and not mode.whole


def cells(replay: Replay, mode: MarginMode, entry: int, leverages: Sequence[float]) -> Iterator[tuple[int, Outcome]]:
    """(which leverage, what became of it) of every leverage of one entry, in rising order of leverage or not."""
    order = sorted(range(len(leverages)), key=leverages.__getitem__)
    admitted: list[int] = []
    for i, outcome in _entered(replay, mode, entry, leverages, order):
        if outcome is None:
            admitted.append(i)
        else:
            yield i, outcome
    if admitted:
        yield from _Entry(replay, mode, entry).outcomes(admitted, leverages)


def _entered(
    replay: Replay, mode: MarginMode, entry: int, leverages: Sequence[float], order: Sequence[int]
) -> Iterator[tuple[int, Outcome | None]]:
    """How each could begin; None: it opened. The venue's gate is asked at both ends of a run of leverages, and inside
    where the answers differ: what it asks for only grows with the leverage, but for whole lots. So next to a change of
    answer every leverage within a few lots is asked."""
    asked: dict[int, Outcome | None] = {}

    def ask(n: int) -> Outcome | None:
        if n not in asked:
            try:
                found = replay.enter(mode, entry, leverages[order[n]])
                asked[n] = found if isinstance(found, Outcome) else None
            except BtMarginError as error:
                asked[n] = Outcome(FAILED, reason=" ".join(str(error).split()))
        return asked[n]

    todo = [(0, len(order) - 1)]
    while todo:
        low, high = todo.pop()
        if ask(low) != ask(high) and high - low > 1:
            todo += [(low, (low + high) // 2), ((low + high) // 2, high)]
    lot = _lot_in_leverage(replay, entry)
    known = sorted(asked)
    for a, b in pairwise(known):
        if asked[a] != asked[b]:
            for step in (-1, 1):
                n = a if step < 0 else b
                while 0 <= n < len(order) and abs(leverages[order[n]] - leverages[order[a]]) <= 3 * lot:
                    ask(n)
                    n += step
    filled, last = [], asked[0]
    for n in range(len(order)):
        last = asked.get(n, last)
        filled.append((order[n], last))
    yield from filled


def _lot_in_leverage(replay: Replay, entry: int) -> float:
    """How much leverage one lot makes at an entry."""
    market = replay.path.market(entry)
    instrument = replay.rules(market.time).instrument(replay.book.legs[0].symbol)
    account = replay.book.account(False)
    worth = float(instrument.notional(instrument.lot, market.mark(instrument.symbol))) * float(
        market.usd(instrument.settle))
    equity = sum(amount * float(market.usd(c)) for c, amount in account.balances.items() if amount)
    return worth / equity


class _Entry:
    """One entry of a single contract: what is needed per unit at every point, and where a leverage stands in it."""

    def __init__(self, replay: Replay, mode: MarginMode, entry: int) -> None:
        self.replay, self.mode, self.entry = replay, mode, entry
        (leg,) = replay.book.legs
        self.market = replay.path.market(entry)
        self.rules = replay.rules(self.market.time)
        self.instrument = self.rules.instrument(leg.symbol)
        self.isolated = mode.name == "isolated" or leg.margin_mode == "isolated"
        self.sign = 1.0 if leg.weight > 0 else -1.0
        self.slope = self.instrument.payoff.slope
        points, straight = replay.points, self.instrument.payoff.straight
        self.begin = int(points.first[entry + 1]) - 1  # the entry itself is judged first
        self.bars = points.bar[self.begin:]
        self.kinds = points.kind[self.begin:]
        self.x = straight(points.prices[leg.symbol][self.begin:])
        self.x0 = float(straight(float(self.market.mark(leg.symbol))))
        closes = straight(replay.path.prices[leg.symbol][:, CLOSE])
        behind = np.concatenate([[0.0], np.cumsum(-self.sign * closes * replay.clock.rates[leg.symbol])])
        self.funding = behind[points.booked[self.begin:]] - behind[entry + 1]
        self.margin_pays = not self.isolated or self.rules.funding(leg.symbol).collection == "full"
        changing = [bar for bar in (*replay.changes(False), *np.flatnonzero(replay.clock.apart)) if bar > entry]
        self.steady = self._until(changing)

    def _until(self, bars: Sequence[int]) -> int:
        """How many points lie before the first of some bars."""
        first = min(bars, default=len(self.replay.path))
        return int(self.replay.points.first[first]) - self.begin

    def outcomes(self, admitted: Sequence[int], leverages: Sequence[float]) -> Iterator[tuple[int, Outcome]]:
        replay, instrument, settle = self.replay, self.instrument, self.instrument.settle
        account = replay.book.account(False)
        equity = replay.engine(account, self.mode, self.market).equity_usd()
        chosen = [leverages[i] for i in admitted]
        sizes = np.array([row[0] for row in replay.book.sizes(equity, self.market, self.rules, chosen)])
        lever = np.array([replay.book.settings(self.rules, k, replay.setting)[instrument.symbol] for k in chosen])
        units = np.abs(sizes) * instrument.contract_size
        worth = units * self.x0
        cash = account.balance(settle) - worth * taker(instrument, self.rules)
        posted = worth / lever if self.isolated else np.zeros(len(worth))
        pool = (posted if self.isolated else cash) / units
        tiers = self.rules.tiers(instrument.symbol)
        numbers = np.array([tiers.at(size).number for size in sizes])
        for number in np.unique(numbers):
            group = np.flatnonzero(numbers == number)
            rate = tiers.at(float(sizes[group[0]])).maintenance + taker(instrument, self.rules)
            paying = None if self.margin_pays else (cash - posted)[group] / units[group]
            for at, outcome in self._group(group, pool[group], rate, paying, self._closed_whole(sizes[group[0]])):
                if outcome is None:
                    outcome = replay.cell(self.mode, self.entry, chosen[at])
                yield admitted[at], outcome

    def _closed_whole(self, size: float) -> bool:
        """True where a breach ends in one order, however large the hole."""
        held = Position(self.instrument, "isolated" if self.isolated else "cross", "net", float(size),
                        float(self.market.mark(self.instrument.symbol)), 1.0)
        pool = Pool("", self.mode, self.instrument.settle, 0.0, (held,))
        return forced_size(held, pool, self.market, self.rules, math.inf) == abs(size)

    def _group(
        self, group: NDArray[np.intp], c: Floats, rate: float, paying: Floats | None, simple: bool
    ) -> Iterator[tuple[int, Outcome | None]]:
        """Leverages of one tier; None: the engine has to say. `simple`: the first forced order closes the position."""
        funding = self.funding if self.margin_pays else 0.0
        gained = self.slope * self.sign * (self.x - self.x0) + funding
        level = self.rules.liquidation.liquidation_ratio
        worst = np.maximum.accumulate(level * rate * self.x - gained)
        hair = HAIR * rate * float(self.x.max())
        first = np.searchsorted(worst, c - hair, side="left")
        surely = np.searchsorted(worst, c + hair, side="left")
        end = len(worst)
        if paying is not None:  # cash has to last for what funding takes from it
            spent = np.searchsorted(np.maximum.accumulate(-self.funding), paying, side="left")
        else:
            spent = np.full(len(c), end)
        asleep = first == end
        alive = asleep & (spent == end) & (self.steady == end)
        lows = np.full(len(c), np.nan)
        chosen = np.flatnonzero(alive)
        size = max(1, CHUNK // end)
        for start in range(0, len(chosen), size):
            part = chosen[start:start + size]
            lows[part] = self._lowest(c[part], gained, rate)
        seen = np.minimum(first, end - 1)
        bars, kinds = self.bars[seen], self.kinds[seen]
        times = self.replay.path.open_ms[bars]
        dead = simple & ~asleep & (first == surely) & (kinds < CLOSE) & (first > 0)
        dead &= (first < spent) & (first < self.steady)
        for i, at in enumerate(group.tolist()):
            if alive[i]:
                yield at, Outcome(SURVIVED, -1, float(lows[i]))
            elif dead[i]:
                yield at, Outcome(LIQUIDATED, int(times[i]), 0.0)
            else:
                yield at, None

    def _lowest(self, c: Floats, gained: Floats, rate: float) -> Floats:
        """The lowest distance to liquidation, per cent, as `modes.distance` has it for one contract; NaN without one."""
        noted = self.replay.points.noted[self.begin:]
        x, gained = self.x[noted], gained[noted]
        equity = c[:, None] + gained
        gap = equity - rate * x
        slope = self.sign * x + equity if self.slope < 0 else np.broadcast_to(self.sign * x - rate * x, gap.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            move = -gap / slope
        move = np.where(move > -1.0, np.abs(move), np.inf)
        low = move.min(axis=1) * 100.0
        found: Floats = np.where(np.isfinite(low), low, np.nan)
        return found
