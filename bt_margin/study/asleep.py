"""Which bar of a path an account has to be woken in: its pools judged at all points at once, as arrays.

Judged are the very points at which the engine judges: the ends of legs, and where it looks on the way of a wide one.
What the clock will have booked by then is in the money: funding exactly, interest by a bound from above. A bar in which
a point comes within a hair of the liquidation level is given to the engine, which decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bt_margin.engine.leg import LOOKS, may_dip
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account, Position
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.model.number import along
from bt_margin.modes import borrow, currencies
from bt_margin.modes.assess import account_pools
from bt_margin.modes.base import MarginMode, Pool, judge
from bt_margin.modes.distance import distance
from bt_margin.modes.options import moved
from bt_margin.plugin.bars import CLOSE

if TYPE_CHECKING:
    from bt_margin.study.replay import Replay

HAIR = 1e-9  # of the requirement, as in the engine: nearer to the level than this, the engine looks
DOUBLE = 2.0  # interest enters the debt and what the debt requires: at most so much more than by itself
_FEW = (-0.999, -0.9, -0.7, -0.5, -0.35, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.5, 3.0, 6.0, 15.0, 40.0,
        99.0)
"""Moves at which it shows whether any move liquidates a pool."""
Floats = NDArray[np.float64]


class Stretch:
    """An account from the close of a bar on, as long as nothing but the clock changes it.

    `fresh`: the instant itself is among the points (an entry, not judged yet).
    """

    def __init__(self, replay: Replay, account: Account, mode: MarginMode, at: int, fresh: bool) -> None:
        self.replay, self.account, self.mode, self.at = replay, account, mode, at
        points, count = replay.points, len(replay.path)
        apart = set(replay.changes(mode.whole)) | set(np.flatnonzero(replay.clock.apart).tolist())
        if self._always_walked():
            apart.add(at + 1)
        self.horizon = min((bar for bar in apart if bar > at), default=count)
        self.begin = int(points.first[at + 1]) - (1 if fresh else 0)
        self.end = max(self.begin, int(points.first[self.horizon]))
        self.here = slice(self.begin, self.end)
        self.rules = replay.rules(int(replay.path.close_ms[at]))
        self.pools = [pool for pool in account_pools(account, mode) if pool.at_risk]

    def _always_walked(self) -> bool:
        """What arrays cannot say ahead: repayments of a debt that may not be, margins that a clock changes, funding of
        isolated positions out of money that others use."""
        replay, account = self.replay, self.account
        if self.mode.whole and not account.borrowing.auto:
            return True
        if self.mode.name == "portfolio" and replay.expiring:
            return True
        rules = replay.rules(int(replay.path.close_ms[self.at]))
        old = [p for p in account.held("isolated") if rules.funding(p.symbol).collection != "full"]
        crossed = {p.currency for p in account.held("cross")}
        return any(self.mode.whole or p.currency in crossed for p in old)

    @cached_property
    def flows(self) -> dict[PositionKey, Floats]:
        """By position: funding received by each point, in its settlement currency (negative: paid)."""
        replay, points = self.replay, self.replay.points
        found = {}
        for key, position in self.account.positions.items():
            close = replay.path.prices[key.symbol][:, CLOSE]
            value = -position.sign * position.instrument.notional(position.size, close) * replay.clock.rates[key.symbol]
            behind = np.concatenate([[0.0], np.cumsum(value)])
            found[key] = behind[points.booked[self.here]] - behind[self.at + 1]
        return found

    def _market(self, where: slice | NDArray[np.intp]) -> Market:
        """`where`: among all points."""
        time = int(self.replay.path.close_ms[self.at])
        return self.replay.points.market(where, time, self.replay.path.strict)

    def _with_flows(self, pool: Pool, at: Callable[[Floats], Any]) -> Pool:
        """The pool with funding received, `at` some of the points. Where the account is the pool, the entry prices
        bring it in: there equity is what counts, not whether a gain is realised."""
        if pool.holdings is None:
            if pool.mode.name == "isolated" and not self._margin_pays(pool.positions[0]):
                return pool
            return replace(pool, cash=pool.cash + sum(at(self.flows[p.key]) for p in pool.positions))
        moved_entries = []
        for position in pool.positions:
            payoff, units = position.instrument.payoff, position.size * position.instrument.contract_size
            entry = payoff.straight(position.entry_price) - at(self.flows[position.key]) / (units * payoff.slope)
            moved_entries.append(replace(position, entry_price=payoff.straight(entry)))
        return replace(pool, positions=tuple(moved_entries))

    def _margin_pays(self, position: Position) -> bool:
        """True where funding of an isolated position meets its margin; else cash pays, as long as there is any."""
        return self.rules.funding(position.symbol).collection == "full"

    # -- interest -----------------------------------------------------------------------------------------------

    @cached_property
    def _interest(self) -> Floats | None:
        """A bound of the interest charged by each point, in USD; None where none will be."""
        if not self.mode.whole or self.end <= self.begin:
            return None
        (whole,) = [pool for pool in account_pools(self.account, self.mode) if pool.holdings is not None]
        replay, points = self.replay, self.replay.points
        bars = points.bar[self.here]
        last = np.concatenate([bars[1:] != bars[:-1], [True]]) & (bars > self.at)
        strikes = last & replay.clock.hours[bars]
        pool = self._with_flows(whole, lambda flow: flow)
        market = self._market(self.here)
        total = np.zeros(len(bars))
        for line in currencies.lines(pool, market, self.rules):
            paid = sum((self.flows[p.key] for p in whole.positions if p.currency == line.currency), np.zeros(len(bars)))
            bearing = borrow.interest_bearing(
                line.cash + paid, np.asarray(line.unrealised) - paid,
                self.rules.free_quota(line.currency).amount, self.account.borrowing.auto)
            owed = np.where(strikes, bearing, 0.0)
            if not owed.any():
                continue
            times = replay.path.close_ms[bars]
            rate = max(replay.hourly(line.currency, int(times[i])) for i in np.flatnonzero(owed))
            total += owed * rate * line.usd
        if not total.any() and not any(self.account.accrued.values()):
            return None
        return DOUBLE * np.cumsum(total)

    @property
    def owes(self) -> bool:
        """True where interest may be charged on the way."""
        return self._interest is not None

    # -- breaches -----------------------------------------------------------------------------------------------

    @cached_property
    def _judged(self) -> tuple[list[tuple[Floats, Floats]], int]:
        """(equity, requirement) of every pool at as many of the points as the rules reach, and how many those are."""
        count = self.end - self.begin

        def first(reach: int) -> list[tuple[Floats, Floats]]:
            found = []
            market = self._market(slice(self.begin, self.begin + reach))
            for pool in self.pools:
                judged = judge(self._with_flows(pool, lambda flow: flow[:reach]), market, self.rules)
                found.append((along(judged.equity, reach), along(judged.requirement, reach)))
            if self._interest is not None:
                found = [(e - (self._interest[:reach] if p.holdings is not None else 0.0), r)
                         for p, (e, r) in zip(self.pools, found, strict=True)]
            return found

        try:
            return first(count), count
        except MissingPrice:
            raise
        except InputError:  # beyond what the rules know, as a debt above its last tier: up to there
            low, high = 0, count
        found = first(0)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                low, found = middle, first(middle)
            except InputError:
                high = middle
        return found, low

    def wakes(self) -> int:
        """The first bar that the engine has to walk; the number of bars where it may sleep to the end."""
        if not self.pools:
            return len(self.replay.path)
        if self.end <= self.begin:
            return self.horizon
        judged, reach = self._judged
        level = self.rules.liquidation.liquidation_ratio
        awake = np.zeros(self.end - self.begin, bool)
        awake[reach:] = True
        for equity, requirement in judged:
            safe = (equity - level * requirement > HAIR * requirement) | (requirement == 0)
            awake[:reach] |= ~safe
        awake |= self._cash_ends() | self._dips()
        found = np.flatnonzero(awake)
        if not len(found):
            return self.horizon
        return max(self.at + 1, int(self.replay.points.bar[self.begin + found[0]]))

    def _dips(self) -> NDArray[np.bool_]:
        """The first points of bars with a wide leg on which a pool comes to the level: looked at as the engine does, on
        the ways between all points of the bar, whose order is the account's."""
        dips, points = np.zeros(self.end - self.begin, bool), self.replay.points
        pools = [pool for pool in self.pools if may_dip(pool)]
        bars = self.at + 1 + np.flatnonzero(self.replay.wide[self.at + 1:self.horizon]) if pools else ()
        if not len(bars):
            return dips
        first = points.first[bars]
        ways = list(combinations(range(2 if self.replay.walk == "close" else 4), 2))
        start, end = (np.concatenate([np.repeat(first + way[side], LOOKS - 1) for way in ways]) for side in (0, 1))
        share = np.tile(np.arange(1, LOOKS) / LOOKS, len(start) // (LOOKS - 1))
        market, here = self._market(start).toward(self._market(end), share), start - self.begin
        level = self.rules.liquidation.liquidation_ratio
        for pool in pools:
            try:
                judged = judge(self._with_flows(pool, lambda flow: flow[here]), market, self.rules)
            except MissingPrice:
                raise
            except InputError:  # beyond what the rules know
                dips[first - self.begin] = True
                return dips
            owed = 0.0 if pool.holdings is None or self._interest is None else self._interest[here]
            equity, requirement = (along(x, len(share)) for x in (judged.equity - owed, judged.requirement))
            safe = (equity - level * requirement > HAIR * requirement) | (requirement == 0)
            dips[np.tile(np.repeat(first, LOOKS - 1), len(ways))[~safe] - self.begin] = True
        return dips

    def _cash_ends(self) -> NDArray[np.bool_]:
        """Points by which the cash that pays an isolated position's funding could be gone."""
        ends = np.zeros(self.end - self.begin, bool)
        paid: dict[str, Floats] = {}
        for position in self.account.held("isolated"):
            if not self._margin_pays(position):
                paid[position.currency] = paid.get(position.currency, 0.0) + self.flows[position.key]
        for currency, flow in paid.items():
            ends |= self.account.balance(currency) + flow <= 0
        return ends

    # -- distances ----------------------------------------------------------------------------------------------

    def lowest(self, wake: int, low: float | None) -> float | None:
        """The lowest distance to liquidation, per cent, at the points before the bar `wake`, or `low` where that is
        lower. The point with the lowest ratio is measured, then all that lie nearer."""
        points = self.replay.points
        until = min(self.end, max(self.begin, int(points.first[min(wake, len(self.replay.path))])))
        where = self.begin + np.flatnonzero(points.noted[self.begin:until])
        if not len(where):
            return low
        for i, pool in enumerate(self.pools):
            equity, requirement = (values[where - self.begin] for values in self._judged[0][i])
            asked = requirement > 0
            if not asked.any():
                continue
            ratios = np.where(asked, equity / np.where(asked, requirement, 1.0), np.inf)
            first = where[int(np.argmin(ratios))]
            low = self._nearer(pool, first, low)
            low = self._others(pool, where[where != first], low)
        return low

    def _others(self, pool: Pool, where: NDArray[np.intp], low: float | None) -> float | None:
        """Measure every point that a move of `low` per cent, either way, would liquidate."""
        while len(where):
            shifts = _FEW if low is None else (-min(low / 100.0, 0.999), low / 100.0)
            near = np.zeros(len(where), bool)
            market = self._market(where)
            owed = 0.0 if pool.holdings is None or self._interest is None else self._interest[where - self.begin]
            there = self._with_flows(pool, lambda flow, where=where: flow[where - self.begin])  # type: ignore[misc]
            for shift in shifts:
                try:
                    gap = judge(there, moved(market, pool.positions, shift), self.rules).gap
                    near |= along(gap, len(where)) < owed
                except InputError:  # beyond what the rules know: every point is measured
                    near[:] = True
            where = where[near]
            if not len(where):
                return low
            found = self._nearer(pool, where[0], low)
            low, where = found, where[1:]
        return low

    def _nearer(self, pool: Pool, point: np.intp, low: float | None) -> float | None:
        here, market = self._at(pool, point), self._instant(point)
        found = distance(here, judge(here, market, self.rules), market, self.rules)
        return low if found is None or (low is not None and low <= found) else found

    def _at(self, pool: Pool, point: np.intp) -> Pool:
        """The pool at one point, what was booked by then in its money."""
        if pool.holdings is not None and self.owes:
            points, account = self.replay.points, self.account.copy()
            struck = points.kind[point] >= CLOSE  # what an hour costs is charged before a close is noted
            self.replay.catch_up(account, self.mode, self.at, int(points.bar[point]) - (not struck), True)
            return next(p for p in account_pools(account, self.mode) if p.holdings is not None)
        return self._with_flows(pool, lambda flow: float(flow[int(point) - self.begin]))

    def _instant(self, point: np.intp) -> Market:
        market = self._market(np.array([point]))
        return Market(market.time, {k: float(v[0]) for k, v in market.marks.items()},  # type: ignore[index]
                      {k: float(v[0]) for k, v in market.lasts.items()},  # type: ignore[index]
                      {k: float(v[0]) for k, v in market.indexes.items()}, market.strict)  # type: ignore[index]
