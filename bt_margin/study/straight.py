"""One contract alone in a pool: every leverage of an entry at once.

Along x (the mark; its inverse for coin-margined contracts) profit and requirement are straight lines. Per unit held, a
pool is liquidated at the first point at which what is needed reaches what was put in:

    c = money of the pool / units                     need(t) = rate x(t) - (profit + funding)(t)
    breach at t: c <= need(t)                         rate: maintenance of the tier + taker fee

so a running maximum of need finds the point for any c. Above the first tiers a forced order takes the position down
where the line was met; then the same question is asked of what is left. Whatever is not as plain as that is the
engine's: points within a hair, breaches at a bar's close, bars in which rules change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import BtMarginError, NoRuleInForce
from bt_margin.model.account import Position
from bt_margin.modes.base import MarginMode, Pool
from bt_margin.modes.valuation import forced_size, taker
from bt_margin.plugin.bars import CLOSE, OPEN
from bt_margin.study.replay import FAILED, LIQUIDATED, REDUCED, SURVIVED, Outcome, Replay

HAIR = 1e-9  # of the requirement: nearer to the line than this, the engine looks
CHUNK = 1_000_000
"""Leverages x points judged in one go: 8 MB an array."""
Floats = NDArray[np.float64]
Whole = NDArray[np.intp]


class Row(NamedTuple):
    """All leverages of one entry: what `Outcome` says of each, reasons by place."""

    verdict: NDArray[np.uint8]
    time: NDArray[np.int64]
    distance: Floats
    reasons: Mapping[int, str]


def applies(replay: Replay, mode: MarginMode) -> bool:
    """True where the book is one perpetual or future that only its own pool's money stands behind."""
    return len(replay.book.legs) == 1 and not mode.whole


def row(replay: Replay, mode: MarginMode, entry: int, leverages: Sequence[float]) -> Row:
    """What became of every leverage (rising) of one entry."""
    count = len(leverages)
    found = Row(np.zeros(count, np.uint8), np.full(count, -1, np.int64), np.full(count, np.nan), {})
    reasons: dict[int, str] = {}

    def put(i: int, outcome: Outcome) -> None:
        found.verdict[i], found.time[i], found.distance[i] = outcome[:3]
        if outcome.reason:
            reasons[i] = outcome.reason

    begun = _begun(replay, mode, entry, leverages)
    admitted = np.array([i for i, outcome in enumerate(begun) if outcome is None], dtype=np.intp)
    for i, outcome in enumerate(begun):
        if outcome is not None:
            put(i, outcome)
    if len(admitted):
        try:
            judged = _Entry(replay, mode, entry).judged([leverages[i] for i in admitted])
        except NoRuleInForce:  # each says by itself which rule it misses, and whether it needs it
            asked = admitted
        else:
            found.verdict[admitted], found.time[admitted], found.distance[admitted] = (
                judged.verdict, judged.time, judged.distance)
            asked = admitted[judged.asked]
        for i in asked.tolist():
            put(i, replay.cell(mode, entry, leverages[i]))
    return found._replace(reasons=reasons)


def _begun(replay: Replay, mode: MarginMode, entry: int, leverages: Sequence[float]) -> list[Outcome | None]:
    """How each could begin; None: it opened. The venue's gate is asked at both ends of a run of leverages, and inside
    where the answers differ: what it asks for grows with the leverage, but for whole lots. So next to a change of
    answer every leverage within a few lots is asked."""
    told: dict[int, Outcome | None] = {}

    def ask(n: int) -> Outcome | None:
        if n not in told:
            try:
                answer = replay.enter(mode, entry, leverages[n])
                told[n] = answer if isinstance(answer, Outcome) else None
            except BtMarginError as error:
                told[n] = Outcome(FAILED, reason=" ".join(str(error).split()))
        return told[n]

    def same(a: Outcome | None, b: Outcome | None) -> bool:  # a distance that does not exist is never equal
        return a is b or (a is not None and b is not None and (a.verdict, a.reason) == (b.verdict, b.reason))

    todo = [(0, len(leverages) - 1)]
    while todo:
        low, high = todo.pop()
        if not same(ask(low), ask(high)) and high - low > 1:
            todo += [(low, (low + high) // 2), ((low + high) // 2, high)]
    changed = [(a, b) for a, b in pairwise(sorted(told)) if not same(told[a], told[b])]
    if changed:
        lot = _lot_in_leverage(replay, entry)
        for a, b in changed:
            for n, step in ((a, -1), (b, 1)):
                while 0 <= n < len(leverages) and abs(leverages[n] - leverages[a]) <= 3 * lot:
                    ask(n)
                    n += step
    answers, last = [], told[0]
    for n in range(len(leverages)):
        last = told.get(n, last)
        answers.append(last)
    return answers


def _lot_in_leverage(replay: Replay, entry: int) -> float:
    """How much leverage one lot makes at an entry."""
    market = replay.path.market(entry)
    instrument = replay.rules(market.time).instrument(replay.book.legs[0].symbol)
    worth = float(instrument.notional(instrument.lot, market.mark(instrument.symbol)))
    equity = sum(x * float(market.usd(c)) for c, x in replay.book.balances.items() if x)
    return worth * float(market.usd(instrument.settle)) / equity


@dataclass
class _Judged:
    """What is known of the leverages of an entry. `asked`: the engine has to say."""

    verdict: NDArray[np.uint8]
    time: NDArray[np.int64]
    distance: Floats
    asked: NDArray[np.bool_]


class _State(NamedTuple):
    """Positions between two forced orders: which cells, money and requirement per unit, points [start, stop)."""

    cells: Whole
    c: Floats
    rate: Floats
    start: Whole
    stop: Whole


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
        self.payoff = self.instrument.payoff
        self.tiers = self.rules.tiers(leg.symbol)
        self.limits = np.array([tier.max_size for tier in self.tiers.rows])
        self.maintenance = np.array([tier.maintenance for tier in self.tiers.rows])
        self.fee = taker(self.instrument, self.rules)
        self.level = self.rules.liquidation.liquidation_ratio
        points, straight = replay.points, self.payoff.straight
        self.begin = int(points.first[entry + 1]) - 1  # the entry itself is judged first
        self.kinds, self.noted = points.kind[self.begin:], points.noted[self.begin:]
        self.opens = replay.path.open_ms[points.bar[self.begin:]]
        self.x = straight(points.prices[leg.symbol][self.begin:])
        self.x0 = float(straight(float(self.market.mark(leg.symbol))))
        closes = straight(replay.path.prices[leg.symbol][:, CLOSE])
        behind = np.concatenate([[0.0], np.cumsum(-self.sign * closes * replay.clock.rates[leg.symbol])])
        self.paid = behind[points.booked[self.begin:]] - behind[entry + 1]
        self.margin_pays = not self.isolated or self.rules.funding(leg.symbol).collection == "full"
        self.funding = self.paid if self.margin_pays else np.zeros(len(self.x))
        self.gained = self._profit(self.x) + self.funding
        walked = [int(bar) for bar in (*replay.changes(False), *np.flatnonzero(replay.clock.apart)) if bar > entry]
        self.steady = int(points.first[min(walked, default=len(replay.path))]) - self.begin
        self.whole = [self._closed_whole(tier.max_size) for tier in self.tiers.rows]

    def _profit(self, x: Floats) -> Floats:
        return self.payoff.slope * self.sign * (x - self.x0)

    def _closed_whole(self, size: float) -> bool:
        """True where a breach of a position of this size ends in one order, however deep the hole."""
        held = Position(self.instrument, "isolated" if self.isolated else "cross", "net", size, 1.0, 1.0)
        return forced_size(held, Pool("", self.mode, held.currency, 0.0, (held,)), self.market, self.rules,
                           math.inf) == size

    def judged(self, leverages: Sequence[float]) -> _Judged:
        """Every leverage, as far as straight lines go."""
        count, end = len(leverages), len(self.x)
        book, instrument = self.replay.book, self.instrument
        account = book.account(False)
        equity = self.replay.engine(account, self.mode, self.market).equity_usd()
        held = np.abs([size for (size,) in book.sizes(equity, self.market, self.rules, leverages)])
        lever = book.settings(self.rules, np.asarray(leverages), self.replay.setting)[instrument.symbol]
        units = held * instrument.contract_size
        cash = account.balance(instrument.settle) - units * self.x0 * self.fee
        posted = units * self.x0 / lever if self.isolated else np.zeros(count)
        c = (posted if self.isolated else cash) / units
        spent = np.full(count, end)
        if not self.margin_pays:  # cash has to last for what funding takes from it
            spent = np.searchsorted(np.maximum.accumulate(-self.paid), (cash - posted) / units, side="left")
        answer = _Judged(np.full(count, SURVIVED, np.uint8), np.full(count, -1, np.int64), np.full(count, np.nan),
                         np.zeros(count, bool))
        low = np.full(count, np.inf)  # distances where a forced order traded
        states: list[_State] = []
        going, start = np.arange(count), np.zeros(count, np.intp)
        while len(going):
            tier = np.searchsorted(self.limits, held[going], side="left")
            rate = self.maintenance[tier] + self.fee
            first, sure = self._first(c[going], rate, start[going], fresh=not states)
            states.append(_State(going, c[going], rate, start[going].copy(), first))
            at = np.minimum(first, end - 1)
            lives = first == end
            plain = sure & (lives | ((self.kinds[at] < CLOSE) & (first > 0)))
            plain &= np.where(lives, (spent[going] == end) & (self.steady == end),
                              (first < spent[going]) & (first < self.steady))
            whole = np.array(self.whole)[tier]
            answer.asked[going[~plain]] = True
            dies = plain & ~lives & whole
            answer.verdict[going[dies]], answer.time[going[dies]] = LIQUIDATED, self.opens[at[dies]]
            cut = np.flatnonzero(plain & ~lives & ~whole)
            going, rate, at, tier = going[cut], rate[cut], at[cut], tier[cut]
            c[going], held[going], near, odd = self._reduced(c[going], held[going], rate, at, tier)
            low[going] = np.minimum(low[going], near)
            gone = held[going] == 0
            answer.verdict[going] = np.where(gone, LIQUIDATED, REDUCED)
            answer.time[going[gone]] = self.opens[at[gone]]
            answer.asked[going[odd]] = True
            start[going] = at
            going = going[~odd & ~gone]
        alive = ~answer.asked & (answer.verdict != LIQUIDATED)
        answer.distance[answer.verdict == LIQUIDATED] = 0.0
        for state in states:
            keep = alive[state.cells]
            low[state.cells[keep]] = np.minimum(low[state.cells[keep]], self._lowest(state, keep))
        answer.distance[alive] = np.where(np.isfinite(low[alive]), low[alive] * 100.0, np.nan)
        return answer

    def _first(self, c: Floats, rate: Floats, start: Whole, *, fresh: bool) -> tuple[Whole, NDArray[np.bool_]]:
        """The first point from `start` on at which each is liquidated (their number: none); whether that is sure."""
        end = len(self.x)
        first, last = np.full(len(c), end), np.full(len(c), end)
        for one in np.unique(rate):
            here = np.flatnonzero(rate == one)
            need = self.level * one * self.x - self.gained
            hair = HAIR * one * float(self.x.max())
            if fresh:
                worst = np.maximum.accumulate(need)
                first[here], last[here] = (np.searchsorted(worst, c[here] + d, side="left") for d in (-hair, hair))
                continue
            for part in np.array_split(here, max(1, len(here) * end // CHUNK)):
                later = np.arange(end) >= start[part, None]
                for found, d in ((first, -hair), (last, hair)):
                    hit = later & (need >= c[part, None] + d)
                    found[part] = np.where(hit.any(axis=1), hit.argmax(axis=1), end)
        return first, first == last

    def _reduced(self, c: Floats, held: Floats, rate: Floats, at: Whole,
                 tier: Whole) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
        """One forced order where the line was met: at the open of a bar that jumped over it, else on the way to the
        point. (Money per unit, contracts left, distance there, whether the engine should look.)"""
        instrument, slope = self.instrument, self.payoff.slope * self.sign
        funding = self.funding[at]
        met = (c + funding - slope * self.x0) / (self.level * rate - slope)
        x = np.where(self.kinds[at] == OPEN, self.x[at], met)
        hole = (c + self._profit(x) + funding - rate * x) * held * instrument.contract_size
        closed = self._closed(held, tier, x, hole)
        left = np.array([instrument.snap(size) for size in (held - closed).tolist()])
        penalty = self.maintenance[np.searchsorted(self.limits, closed, side="left")]
        units, out = held * instrument.contract_size, closed * instrument.contract_size
        money = units * (c + funding) + out * self._profit(x) - out * x * (self.fee + penalty)
        with np.errstate(divide="ignore", invalid="ignore"):
            after = np.where(left > 0, money / (left * instrument.contract_size), 0.0) - funding
        then = self.maintenance[np.searchsorted(self.limits, left, side="left")] + self.fee
        gained = self._profit(x) + funding
        gap = after + gained - then * x
        odd = (left > 0) & (~(np.abs(gap) > 1e-7 * then * x) | ((gap < 0) & (self.kinds[at] != OPEN)))
        near = np.where((gap > 0) & (left > 0), self._away(after, then, x, gained), np.inf)
        return after, left, near, odd

    def _closed(self, held: Floats, tier: Whole, x: Floats, hole: Floats) -> Floats:
        """Contracts that the next forced order closes. `hole`: equity above the requirement, zero or less."""
        if self.rules.liquidation.step == "one-tier":  # known ahead, and asked for half a million times
            below = self.limits[tier - 1]
            return np.array([min(size, self.instrument.ceil(size - down))
                             for size, down in zip(held.tolist(), below.tolist(), strict=True)])
        symbol, margin_mode, sizes = self.instrument.symbol, "isolated" if self.isolated else "cross", []
        marks = np.atleast_1d(self.payoff.straight(x)).tolist()
        for size, mark, spare in zip(held.tolist(), marks, hole.tolist(), strict=True):
            position = Position(self.instrument, margin_mode, "net", size, mark, 1.0)
            pool = Pool("", self.mode, position.currency, 0.0, (position,))
            market = self.market.at(self.market.time, {symbol: mark})
            sizes.append(forced_size(position, pool, market, self.rules, spare))
        return np.array(sizes)

    def _lowest(self, state: _State, keep: NDArray[np.bool_]) -> Floats:
        """The lowest distance of some cells of a state, as a share; infinity without one."""
        c, rate, start, stop = state.c[keep], state.rate[keep], state.start[keep], state.stop[keep]
        where = np.flatnonzero(self.noted)
        found = np.full(len(c), np.inf)
        for part in np.array_split(np.arange(len(c)), max(1, len(c) * len(where) // CHUNK)):
            if not len(part):
                continue
            away = self._away(c[part, None], rate[part, None], self.x[where], self.gained[where])
            if (start[part] > 0).any() or (stop[part] < len(self.x)).any():
                away[(where < start[part, None]) | (where >= stop[part, None])] = np.inf
            found[part] = away.min(axis=1)
        return found

    def _away(self, c: Floats, rate: Floats, x: Floats, gained: Floats) -> Floats:
        """The share by which the mark has to move for liquidation, as `modes.distance` has it for one contract;
        infinity where no move does it."""
        equity = c + gained
        slope = self.sign * x + (equity if self.payoff.slope < 0 else -rate * x)
        with np.errstate(divide="ignore", invalid="ignore"):
            move = (rate * x - equity) / slope
        found: Floats = np.where(move > -1.0, np.abs(move), np.inf)
        return found
