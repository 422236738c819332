"""MarginBroker: backtrader's matching, our money.

Without `mode` it IS the stock broker, bit for bit. With a mode, orders are matched by backtrader's own rules
(whether and at which price an order can fill in a bar), while the engine decides whether they may rest, when on the
bar's path they fill, what they cost, and what is liquidated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import backtrader as bt

from bt_margin.engine.engine import Fill, Refusal
from bt_margin.engine.switching import Switch
from bt_margin.model.account import Order
from bt_margin.model.instrument import Instrument, is_symbol
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.plugin.bars import Bar
from bt_margin.plugin.forced import Teller
from bt_margin.plugin.holdings import paid_back
from bt_margin.plugin.matching import Candidate, candidate
from bt_margin.plugin.orders import STOP_LIMITS, cut, feed_of, options_of, prepared, venue_order, waits
from bt_margin.plugin.path import walk
from bt_margin.plugin.sleep import Asleep
from bt_margin.plugin.sleeping_broker import SleepingBroker

log = logging.getLogger("bt_margin")


class MarginBroker(SleepingBroker):
    """A drop-in for backtrader's broker that margins and liquidates as the venue does.

    Parameters beyond the stock broker's: `mode` (isolated | cross | multi-currency | portfolio; None: the stock
    broker), `cash` (a float of `currency` or {currency: amount}), `currency`, `rules` (a RuleBook),
    `rules_as_of` ("then" or a date), `extrapolate` (nearest | never), `position_mode` (net | hedge), `leverage`
    (the setting: a float or {symbol: float}), `path` (adverse | ohlc | close), `fees` and `instruments`
    (overlays, as in the book file), `interest` ({currency: yearly borrow rate, or a RateSeries}; the rules' own
    otherwise), `borrow` (multi-currency and portfolio: {"auto": True, "leverage": {currency: setting},
    "collateral_off": [currency]}), `deleveraging` (of Deleveraging: scripted auto-deleveraging), `switches` (of
    ModeSwitch: scripted changes of the account mode), `slippage` (share of the price that forced orders lose),
    `strict` (nothing stands in), `sleep` (False: no bar is slept through, which costs time and changes nothing else),
    `min_value` (floor of `getvalue`, so that stock analyzers survive a wipe-out).
    """

    def init(self) -> None:
        super().init()
        if not self.margined:
            return
        self._teller = Teller(self)
        self._found: list[Candidate] | None = None
        self._numbers: dict[int, int] = {}  # backtrader's ref -> our order number, which starts at 1 in every run
        self.resting: dict[int, Any] = {}  # our number -> the order the engine holds
        self._rested: set[int] = set()  # refs of limits that lay in the book before the bar
        self._refusal_printed = False

    # -- what users change --------------------------------------------------------------------------------------------

    def preview(self, sizes: Mapping[Any, float]) -> tuple[Refusal | None, float]:
        """Could market orders of these signed sizes, by feed or leg, open together now? See MarginEngine.preview."""
        orders = []
        for i, (data, size) in enumerate(sizes.items()):
            key, instrument = self.key(data), self.instrument(data)
            leverage = 1.0 if self.in_coins(key, instrument) else self.leverage_of(key)
            orders.append(
                Order(-1 - i, instrument, "buy" if size > 0 else "sell", abs(size), None, key.margin_mode, key.side,
                      leverage)
            )
        return self.engine.preview(orders)

    def set_leverage(self, data: Any, leverage: float) -> Refusal | None:
        """Change the leverage setting of a leg, or of the feed's default position, as the venue allows it.

        An open position is changed at once; orders to come use the setting. Returns the venue's refusal, or None.
        """
        options = options_of((), {"leverage": leverage})
        key = self.key(data)
        refusal = None
        if self.started and key in self._account.positions:
            refusal = self.engine.set_leverage(key, float(options["leverage"]))
        if refusal is None:
            self._settings[key] = float(options["leverage"])
        return refusal

    def switch_mode(self, mode: str, leverage: float | None = None) -> Switch:
        """Change the account mode with everything that is open, as far as the venue lets it at this date.

        `leverage`: the setting of cross contracts when leaving portfolio margin. The answer has the account before and
        after, and the reasons where it was refused; orders still to be submitted are judged in the new mode.
        """
        new = mode_named(mode)
        answer = self.engine.switch_mode(new, leverage)
        if answer.accepted:
            if new.whole != self._mode.whole:
                cash, cross = ("cash", "cross") if new.whole else ("cross", "cash")
                for name, data in self.feeds.items():
                    if self.instrument(data).is_spot and is_symbol(name):
                        self.holdings.rename(PositionKey(name, cash, "net"), PositionKey(name, cross, "net"))
            self._mode = new
            for key, position in self._account.positions.items():
                if not position.instrument.is_spot:
                    self._kept[key.symbol] = key.margin_mode
                    self._settings[key] = position.leverage
        return answer

    def add_margin(self, data: Any, amount: float) -> Refusal | None:
        """Move cash into (negative: out of) the margin of a leg's, or the feed's default, isolated position.

        Returns the venue's refusal, or None.
        """
        return self.engine.add_margin(self.key(data), float(amount))

    # -- orders -------------------------------------------------------------------------------------------------

    def buy(self, owner: Any, data: Any, size: float, *args: Any, **kwargs: Any) -> Any:
        if not self.margined:
            return super().buy(owner, data, size, *args, **kwargs)
        size, options = self._prepared(data, size, "buy", options_of(args, kwargs))
        return super().buy(owner, feed_of(data), size, **options)

    def sell(self, owner: Any, data: Any, size: float, *args: Any, **kwargs: Any) -> Any:
        if not self.margined:
            return super().sell(owner, data, size, *args, **kwargs)
        size, options = self._prepared(data, size, "sell", options_of(args, kwargs))
        return super().sell(owner, feed_of(data), size, **options)

    def _prepared(self, data: Any, size: float, side: str, options: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        instrument, key = self.instrument(data), self.key(data, options)
        own = key.side == "net" and key == self.key(feed_of(data), {"position_side": key.side})
        return prepared(size, side, options, instrument, key, own, self.in_coins(key, instrument))

    def submit(self, order: Any, check: bool = True) -> Any:
        answer = super().submit(order, check)
        if self.margined and not self.p.checksubmit:
            self.check_submitted()
        return answer

    def transmit(self, order: Any, check: bool = True) -> Any:
        if not self.margined:
            return super().transmit(order, check)
        order.submit()  # every order is asked about, whatever `checksubmit` says: a venue has no such switch
        self.submitted.append(order)
        self.orders.append(order)
        self.notify(order)
        return order

    def check_submitted(self) -> None:
        if not self.margined:
            super().check_submitted()
            return
        while self.submitted and self.started:
            order = self.submitted.popleft()
            if self._take_children(order) is not None and self._admit(order):
                self.submit_accept(order)

    def wanted(self, order: Any) -> Order:
        """The engine's order for what is left of one of backtrader's."""
        instrument, info = self.instrument(order.data), order.info
        key = PositionKey(instrument.symbol, info["margin_mode"], info["position_side"])
        leverage = 1.0 if self.in_coins(key, instrument) else float(info.get("leverage") or self.leverage_of(key))
        number = self._numbers.setdefault(order.ref, len(self._numbers) + 1)
        return venue_order(order, number, instrument, leverage)

    def _admit(self, order: Any) -> bool:
        """Ask the engine. Children of a bracket are asked when they come alive, stops when they are met."""
        if not order.active() or waits(order):
            return True
        wanted = self.wanted(order)
        answer = self.engine.accept(wanted)
        if isinstance(answer, Refusal):
            self._refused(order, answer)
            return False
        self.resting[wanted.id] = order
        if answer.closes and not wanted.closes:
            order.addinfo(reduce_only=True)  # spot margin, against the position
        if answer.size != wanted.size:
            cut(order, answer.size)
        return True

    def _refused(self, order: Any, refusal: Refusal) -> None:
        order.addinfo(reason=refusal.reason, shortfall=refusal.shortfall, largest_size=refusal.largest_size)
        order.margin()
        self._finish(order)
        self._bracketize(order, cancel=True)
        if not self._refusal_printed:
            self._refusal_printed = True
            log.warning("order refused: %s %g %s: %s (further refusals are in broker.events)",
                        "buy" if order.isbuy() else "sell", abs(order.created.size), order.data._name, refusal.told)

    def _finish(self, order: Any) -> None:
        """Announce an order that has ended, take it off the books, end its OCO group."""
        self.notify(order)
        self._forget(order)
        self._unqueue(order)
        self._ococheck(order)

    def _unqueue(self, order: Any) -> None:
        for i, other in enumerate(self.pending):
            if other is order:
                del self.pending[i]
                return

    def _forget(self, order: Any) -> None:
        self._rested.discard(order.ref)
        number = self._numbers.get(order.ref)
        if number is not None and self.resting.pop(number, None) is not None:
            self.engine.cancel(number)

    def cancel(self, order: Any, bracket: bool = False) -> bool:
        done = bool(super().cancel(order, bracket))
        if done and self.margined:
            self._forget(order)
        return done

    def _ococheck(self, order: Any) -> None:
        leader = self._ocos.get(self._ocos[order.ref])
        if self.margined and self._ocol.get(leader) == [order.ref]:
            del self._ocol[leader]  # nobody else is in its group: no need to look through all that wait
            return
        before = list(self.pending) if self.margined else ()
        super()._ococheck(order)
        for other in before:
            if other is not None and not other.alive():
                self._forget(other)

    # -- one bar ------------------------------------------------------------------------------------------------

    def next_awake(self, before: Asleep | None = None) -> None:
        if not self.margined:
            super().next_awake()
            return
        bars = self.bars.fresh(self.feeds)
        if self._engine is None:
            if not bars:
                return
            self._engine = self._begin(bars)
            for data in self.feeds.values():
                self.instrument(data)  # a product that is not built yet is refused before anything trades
            self._find_sleeper()
        engine = self._engine
        while self._cash_addition:
            amount = self._cash_addition.popleft()
            engine.deposit(self.p.currency, amount)
            self._fundshares += amount / self._fundval
        while self._toactivate:
            order = self._toactivate.popleft()
            order.activate()
            if order.alive():
                self._admit(order)
        self.check_submitted()
        found = self._match({bar.symbol for bar in bars})
        if before is not None and before.unchanged and self._sleeper is not None and not found:
            self._sleeper.close_eve(engine, before.stretch, bars)
            self._teller.tell()
        else:
            walk(engine, bars, found, self.p.path, self.p.currency, self._step, self._fill, self._quiet_from_open)
        if self.sleeps:
            return
        if self.pending:
            self._rest(bars)
        while self._switches and self._switches[0].time <= engine.market.time:
            switch = self._switches.pop(0)
            self.switch_mode(switch.mode, switch.leverage)
        self._teller.tell()
        self._revalue()
        self._look_ahead(1)

    def _quiet_from_open(self) -> bool:
        """True where the broker sleeps from the present bar's open on, after what was traded there."""
        if not self.may_sleep or self.pending:
            return False  # what rests in this bar is told to the venue at its close
        self.engine.judge_changes()
        self._teller.tell()
        return self._sleeps_from_here()

    def _match(self, moved: set[str]) -> list[Candidate]:
        """Let backtrader say which orders fill in this bar and at what price; nothing is booked yet."""
        found: list[Candidate] = []
        self._found = found
        coc = self.p.coc
        try:
            for order in list(self.pending):
                if not order.alive():
                    continue  # cancelled by the one before it
                if order.expire():
                    self._finish(order)
                    self._bracketize(order, cancel=True)
                elif order.active() and (order.data._name in moved or (coc and order.exectype == bt.Order.Market)):
                    self._try_exec(order)
        finally:
            self._found = None
        return found

    def _execute(self, order: Any, ago: Any = None, price: Any = None, cash: Any = None, position: Any = None,
                 dtcoc: Any = None) -> Any:
        if not self.margined:
            return super()._execute(order, ago, price, cash, position, dtcoc)
        if self._found is not None and price is not None:
            # from our own notes: with `exactbars` the feed has forgotten the bar before
            stamp = dtcoc or self.bars.stamps[order.data._name][0 if ago else 1]
            self._found.append(candidate(order, ago, price, stamp, dtcoc is not None, order.ref in self._rested))
        return None

    def _rest(self, bars: Sequence[Bar]) -> None:
        """After a bar: stop-limits it has met lie in the venue's book from here on, and limits have rested in it."""
        moved = {bar.symbol for bar in bars}
        for order in list(self.pending):
            if order.exectype not in (bt.Order.Limit, *STOP_LIMITS) or not (order.active() and order.alive()):
                continue
            if waits(order) or order.data._name not in moved:
                continue
            if self._numbers.get(order.ref) in self.resting or self._admit(order):
                self._rested.add(order.ref)

    def _step(self, market: Market, jump: bool) -> None:
        self.engine.advance(market, jump=jump)
        self._teller.tell()

    def _fill(self, one: Candidate) -> None:
        """Trade an order where the path meets it, and tell backtrader: true sizes, commissions and profit."""
        order, engine = one.order, self.engine
        if not order.alive():
            return
        if order.info.get("post_only") and not one.maker:
            order.addinfo(reason="a post-only order would have taken liquidity")
            self.cancel(order)
            return
        data = order.data
        instrument = self.instrument(data)
        size = abs(order.executed.remsize)
        if self.p.filler is not None:
            size = instrument.floor(min(size, abs(self.p.filler(order, one.price, one.ago))))
            if size <= 0:
                return
        info = self.getcommissioninfo(data)
        fee = None if is_symbol(instrument.symbol) else info.getcommission(size, one.price)
        wanted, before = self.wanted(order), len(self._account.ledger)
        booked = engine.fill(wanted, size, one.price, maker=one.maker, fee=fee)
        if isinstance(booked, Refusal):
            self.resting.pop(wanted.id, None)
            self._refused(order, booked)
        else:
            if not (self._mode.name == "portfolio" and wanted.margin_mode == "cross"):
                self._settings[wanted.key] = wanted.leverage
            if wanted.id in self._account.orders:
                self.resting[wanted.id] = order
            whole = instrument.snap(abs(order.executed.remsize) - size) <= 0
            if wanted.closes and abs(booked.closed) < size:
                cut(order, abs(booked.closed))
                whole = True
            elif instrument.is_spot and not engine.trades_coins(wanted) and booked.closed and not booked.opened and (
                abs(booked.closed) != size or wanted.key not in self._account.positions
            ):
                cut(order, abs(booked.closed))  # the position ended, or had no more assets to give
                whole = True
            refund = paid_back(self._account.ledger[before:], wanted.key, self.in_settlement)
            self._report(order, one, booked, wanted.key, instrument, info, refund, whole)
        self._teller.skip()
        self._teller.tell()

    def _report(self, order: Any, one: Candidate, booked: Fill, key: PositionKey, instrument: Instrument, info: Any,
                refund: float, whole: bool) -> None:
        factor = self.rate_of(instrument)
        fee = booked.closed_fee + booked.opened_fee - refund
        self.holdings.execute(
            order, one.stamp, key, instrument, booked.closed + booked.opened, booked.price, fee * factor,
            info, factor, self.p.int2pnl, self.exact_size(key, instrument),
        )
        if not whole:
            order.partial()
            self.notify(order)
            place = self.pending.index(order)
            self.pending[place] = None  # its own OCO group ends with the first fill, the order itself goes on
            self._ococheck(order)
            self.pending[self.pending.index(None)] = order  # in its place, as the stock broker's and the venue's
            return
        order.executed.remsize = 0.0  # a spot buy receives less than it asked for: the fee comes out of the coins
        order.completed()
        self._finish(order)
        self._bracketize(order)
