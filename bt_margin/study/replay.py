"""One cell of a survival map: a book at a leverage, entered at a bar, in a mode, carried along the path by the engine.

What an account does is the MarginEngine's alone. Along the path the engine sleeps: the same equity and requirement
functions judge all points at once, as arrays, and only a bar in which something can happen is walked. Between two such
bars only what the clock brings changes the account, and the engine's own functions book it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bt_margin.engine import debts
from bt_margin.engine.accrual import funding_entries
from bt_margin.engine.clock import due_events
from bt_margin.engine.engine import MarginEngine, gate_of
from bt_margin.engine.leg import says_how_far, wide
from bt_margin.engine.orders import Refusal
from bt_margin.errors import BtMarginError, Ineligible, InputError, NoRuleInForce
from bt_margin.model.account import Account
from bt_margin.model.event import Converted, Reduced, TakenOver
from bt_margin.model.instrument import parse
from bt_margin.model.market import Market
from bt_margin.model.moment import iso
from bt_margin.modes.base import MarginMode
from bt_margin.modes.valuation import FEE_KIND
from bt_margin.plugin.path import walk
from bt_margin.rules.book import Rules
from bt_margin.rules.credit import own_hourly
from bt_margin.study.asleep import Stretch
from bt_margin.study.price_path import Clock, Points, PricePath, clock_of
from bt_margin.study.static_book import StaticBook

VERDICTS = ("survived", "reduced", "liquidated", "refused", "too small", "failed")
SURVIVED, REDUCED, LIQUIDATED, REFUSED, TOO_SMALL, FAILED = range(6)


class Outcome(NamedTuple):
    """What became of a cell. `time`: of the first takeover, ms UTC, -1 without one; `distance`: the lowest distance to
    liquidation, per cent, NaN where there is none."""

    verdict: int
    time: int = -1
    distance: float = float("nan")
    reason: str = ""


@dataclass(frozen=True)
class Replay:
    """What all cells of a map share. `walk`: adverse, ohlc or close; `interest`: yearly borrow rates by currency
    instead of the rules' own; `setting`: OKX's leverage setting, by default twice the leverage."""

    book: StaticBook
    path: PricePath
    walk: str = "adverse"
    setting: float | None = None
    interest: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        last = int(self.path.close_ms[-1])
        for symbol in self.book.symbols:
            expiry = self.rules(last).instrument(symbol).expiry_ms
            if expiry is not None and expiry <= last:
                raise InputError(f"positions: {symbol} expires at {iso(expiry)}, within the path; end the window "
                                 "before")

    @cached_property
    def clock(self) -> Clock:
        return clock_of(self.path, self.book.symbols, self.rules)

    @cached_property
    def points(self) -> Points:
        return Points.of(self.path, self.clock, self.walk)

    @cached_property
    def wide(self) -> NDArray[np.bool_]:
        """Bars with a leg on which some price moves so far that the engine looks at it on the way."""
        found = np.zeros(len(self.path), bool)
        for symbol, candles in (*self.path.prices.items(), *self.path.indexes.items()):
            if says_how_far(symbol):
                found |= wide(candles.min(axis=1), candles.max(axis=1))
        return found

    def changes(self, whole: bool) -> frozenset[int]:
        """Bars in which rules that bear on the book change: they are walked. `whole`: where the account is one pool any
        revision counts, elsewhere those of its own contracts."""
        return self._changes[whole]

    @cached_property
    def _changes(self) -> dict[bool, frozenset[int]]:
        ends = self.path.close_ms
        times = self.book.rules.changes(int(ends[0]), int(ends[-1]))
        own = [time for time in times if self._bearing(time - 1) != self._bearing(time)]
        return {whole: frozenset(int(ends.searchsorted(time)) for time in rows)
                for whole, rows in ((True, times), (False, own))}

    def _bearing(self, time: int) -> tuple[object, ...]:
        """What isolated and cross margin take from the rules, for the book's contracts; why, where one is missing."""
        rules = self.rules(time)
        try:
            rows: list[object] = [rules.liquidation]
            for symbol in self.book.symbols:
                instrument = rules.instrument(symbol)
                rows += [instrument, rules.tiers(symbol), rules.fees(FEE_KIND[instrument.kind]), rules.funding(symbol)]
        except NoRuleInForce as error:
            return (str(error),)
        return tuple(rows)

    @cached_property
    def expiring(self) -> bool:
        return any(parse(symbol).expiry for symbol in self.book.symbols)

    def rules(self, time: int) -> Rules:
        return self.book.rules_at(time)

    def hourly(self, currency: str, time: int) -> float:
        """What an hour of owing a currency costs, as the engine has it."""
        own = self.interest.get(currency)
        return self.rules(time).hourly_rate(currency, time) if own is None else own_hourly(own, time)

    def engine(self, account: Account, mode: MarginMode, market: Market) -> MarginEngine:
        """The engine, beginning with this account at this market."""
        return MarginEngine(account, mode, self.book.rules, market, extrapolate=self.book.extrapolate,
                            funding=self.path.funding, interest=self.interest, strict=self.path.strict)

    def enter(self, mode: MarginMode, entry: int, leverage: float) -> MarginEngine | Outcome:
        """Open the book at the marks of a bar's close: all orders have to be taken together, then they fill one by one
        and pay the taker fee. The engine that holds it, or the cell that could not begin."""
        market = self.path.market(entry)
        rules, account = self.rules(market.time), self.book.account(mode.whole)
        engine = self.engine(account, mode, market)
        try:
            engine.check_eligible()
        except Ineligible as error:
            return Outcome(REFUSED, reason=general(str(error)))
        (sizes,) = self.book.sizes(engine.equity_usd(), market, rules, [leverage])
        if not all(sizes):
            return Outcome(TOO_SMALL)
        orders = self.book.orders(mode.name, sizes, self.book.settings(rules, leverage, self.setting), rules)
        gate = gate_of(mode)
        for order in orders:
            answer = gate(account, order, market, rules)
            if isinstance(answer, Refusal):
                return Outcome(REFUSED, reason=general(answer.reason))
            account.place(answer)
        for order in orders:
            filled = engine.fill(order, order.size, float(market.mark(order.symbol)))
            if isinstance(filled, Refusal):
                return Outcome(REFUSED, reason=general(filled.reason))
        return engine

    def catch_up(self, account: Account, mode: MarginMode, since: int, until: int, interest: bool) -> None:
        """Book what the clock brings from the close of one bar to that of another, none of which needs a walk."""
        for at in range(since + 1, until + 1):
            if not (self.clock.due[at] or (interest and self.clock.hours[at])):
                continue
            start, end = int(self.path.open_ms[at]), int(self.path.close_ms[at])
            market, rules = self.path.market(at), self.rules(end)
            for time, _, key, cause in due_events(account, self.path.funding, (), rules, start, end,
                                                  interest and mode.whole):
                if isinstance(cause, float):
                    for entry in funding_entries(account, mode, account.positions[key], cause, time, market, rules):
                        account.apply(entry)
                elif cause is not None:
                    debts.charge_hour(account, mode, time, self.hourly, market, rules)

    def walk_bar(self, engine: MarginEngine, at: int) -> None:
        """One bar by the broker's own path, clock events included."""
        def step(market: Market, jump: bool) -> None:
            engine.advance(market, jump=jump)

        walk(engine, self.path.bars(at), (), self.walk, "USDT", step, _nothing_fills)

    def cell(self, mode: MarginMode, entry: int, leverage: float) -> Outcome:
        """Whether the book lives through the path. What cannot be judged is a failure with its reason, never alive."""
        try:
            engine = self.enter(mode, entry, leverage)
            return engine if isinstance(engine, Outcome) else self.carry(engine, mode, entry, fresh=True)
        except BtMarginError as error:
            return Outcome(FAILED, reason=" ".join(str(error).split()))

    def carry(self, engine: MarginEngine, mode: MarginMode, at: int, *, fresh: bool) -> Outcome:
        """From an account at the close of a bar to the end. `fresh`: its entry has not been judged yet."""
        stretches: list[tuple[Stretch, int]] = []
        walked: list[float] = []
        forced = False
        while True:
            stretch = Stretch(self, engine.account.copy(), mode, at, fresh)
            wake = stretch.wakes()
            stretches.append((stretch, wake))
            if wake >= len(self.path):
                break
            if wake > at + 1:
                self.catch_up(engine.account, mode, at, wake - 1, stretch.owes)
                engine = self.engine(engine.account, mode, self.path.market(wake - 1))
            seen = len(engine.events)
            self.walk_bar(engine, wake)
            taken = next((event for event in engine.events if isinstance(event, TakenOver)), None)
            if taken is not None:
                return Outcome(LIQUIDATED, taken.time, 0.0)
            forced |= any(isinstance(event, (Reduced, Converted)) for event in engine.events[seen:])
            if engine.control.min_distance is not None:
                walked.append(engine.control.min_distance)
            at, fresh = wake, False
        low = min(walked, default=None)
        for stretch, wake in stretches:
            low = stretch.lowest(wake, low)
        return Outcome(REDUCED if forced else SURVIVED, -1, float("nan") if low is None else low)


def general(reason: str) -> str:
    """A refusal without the figures of its own cell; the venue's codes, in brackets, stay."""
    codes_or_figures = r"(\([^()]*\b\d{4,5}\b[^()]*\))|(?<!\w)\d[\d.,]*(?:e[+-]?\d+)?"
    return re.sub(codes_or_figures, lambda found: found[1] or "#", reason)


def _nothing_fills(_: object) -> None:
    raise AssertionError("a static book has no orders")
