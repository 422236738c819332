"""A broker that sleeps through the bars in which nothing can happen to its account, and shows what they show.

Bars that cannot be looked at together, and those in which something may happen, are `next_awake`'s.
"""

from __future__ import annotations

from typing import Any

from bt_margin.engine.engine import MarginEngine
from bt_margin.plugin.account_broker import AccountBroker
from bt_margin.plugin.orders import feed_of
from bt_margin.plugin.sleep import Asleep, Instant, Sleeper


class SleepingBroker(AccountBroker):
    """An account that is asleep or awake: read either way, it is the same."""

    def init(self) -> None:
        self._sleeper: Sleeper | None = None  # None: every bar goes the exact way
        self._asleep: Asleep | None = None
        self._stirred = False  # somebody looked at the engine in this bar
        self._joined = False  # an order joined those that wait since the bars ahead were looked at
        super().init()

    def stop(self) -> None:
        if self.margined:
            self._wake()
        super().stop()

    # -- one bar ------------------------------------------------------------------------------------------------

    def next(self) -> None:
        asleep = self._asleep
        if asleep is not None:  # what every bar asks, so cheaply
            stirred, self._stirred, at = self._stirred, False, asleep.clock._idx
            if not (self.submitted or self._toactivate or self._cash_addition or self._joined
                    or len(asleep.booked) + len(asleep.said) != asleep.count or (stirred and not asleep.unchanged)):
                if at <= asleep.last:
                    asleep.at, self._bar_low = at, None
                    return
                if self._wake() and self._sleeps_from_here():
                    self._bar_low = None
                    return
                if asleep.stretch.eve:
                    self._bar_low = None
                    self.next_awake(asleep)
                    return
            else:
                self._wake()  # the stretch has ended with the bar before
        self._bar_low = None
        self.next_awake()

    def next_awake(self, before: Asleep | None = None) -> None:
        """One bar, the exact way, or the eve behind what was slept through `before`; without a mode the stock
        broker's."""
        super().next()

    def submit_accept(self, order: Any) -> Any:
        self._joined = True
        return super().submit_accept(order)

    # -- ahead --------------------------------------------------------------------------------------------------

    @property
    def may_sleep(self) -> bool:
        """True where bars can be looked at together."""
        return self._sleeper is not None

    @property
    def sleeps(self) -> bool:
        """True while nothing can happen."""
        return self._asleep is not None

    def _find_sleeper(self) -> None:
        """With the first bar: from here on bars are slept through where they can be."""
        if self.p.sleep:
            self._sleeper = Sleeper.over(self.feeds, self.p.currency, self.p.path, self.p.min_value)

    def _look_ahead(self, bars: int) -> None:
        """May the broker sleep from so many bars after the present one on?"""
        if self._sleeper is None:
            return
        until = self._switches[0].time if self._switches else None
        self._asleep = self._sleeper.look(self.engine, self.pending, until, bars)
        self._joined = False
        if self._asleep is not None:
            self._asleep.engine.catch_up = self._to_the_present  # whoever kept the engine sees the present, too

    def _sleeps_from_here(self) -> bool:
        """Look ahead; true where the broker sleeps through what is left of the present bar, or all of it."""
        self._look_ahead(0)
        if self._asleep is None or self._sleeper is None:
            return False
        self._asleep.at = self._sleeper.at
        return True

    # -- the present --------------------------------------------------------------------------------------------

    def _to_the_present(self) -> None:
        """Bring engine and bars to the present: somebody asks for them, and may change something."""
        asleep, sleeper = self._asleep, self._sleeper
        if asleep is not None and sleeper is not None:
            self._stirred = True
            if asleep.told < asleep.at:
                asleep.engine.catch_up = None
                asleep.bring(sleeper.dated)
                sleeper.show(self.bars, asleep.at)
                asleep.engine.catch_up = self._to_the_present

    def _wake(self) -> bool:
        """No more bars are slept through, whatever was ahead. True where the bars that were looked at have run out."""
        self._to_the_present()
        asleep, self._asleep, self._stirred = self._asleep, None, False
        if asleep is None or self._sleeper is None:
            return False
        slept = asleep.at + 1 - asleep.first
        if slept:
            self._value, self._available = asleep.values[slept - 1], asleep.cash[slept - 1]
            self._fundval = self._value / self._fundshares
        asleep.engine.catch_up = None
        return self._sleeper.woke(slept, asleep.stretch.bars)

    @property
    def engine(self) -> MarginEngine:
        """The engine, at the present; it exists from the first bar on."""
        if self._asleep is not None:
            self._to_the_present()
        return self._engine or super().engine

    def _now(self) -> Instant:
        asleep = self._asleep
        if asleep is None or asleep.at < asleep.first or (self._stirred and not asleep.unchanged):
            return super()._now()  # what was looked at is no longer the account that a strategy has changed in this bar
        return asleep.instant()

    def judged_range(self, data: Any) -> tuple[float, float]:
        """Lowest and highest price of the feed's present bar that positions are judged at: marks, else last prices."""
        asleep = self._asleep
        if asleep is not None and self._sleeper is not None and asleep.at >= asleep.first:
            return self._sleeper.judged_range(feed_of(data)._name, asleep.at)
        return super().judged_range(data)

    def get_cash(self) -> float:
        """What may open positions, in the broker's currency."""
        asleep = self._asleep
        if asleep is not None and asleep.at >= asleep.first:
            return asleep.cash[asleep.at - asleep.first]
        return super().get_cash()

    getcash = get_cash

    def get_value(self, datas: Any = None, mkt: bool = False, lever: bool = False) -> float:
        """Total equity; of given feeds or legs the signed notional of their positions, at the last price."""
        if datas is None:
            asleep = self._asleep
            if asleep is not None and asleep.at >= asleep.first:
                return asleep.values[asleep.at - asleep.first]
        else:
            self._to_the_present()
        return super().get_value(datas, mkt, lever)

    getvalue = get_value

    def get_fundvalue(self) -> float:
        asleep = self._asleep
        if asleep is not None and asleep.at >= asleep.first:
            return asleep.values[asleep.at - asleep.first] / self._fundshares  # type: ignore[no-any-return]
        return super().get_fundvalue()

    fundvalue = property(get_fundvalue)
