"""MarginBroker: backtrader's matching, our money.

Without `mode` it IS the stock broker, bit for bit. With a mode, orders are matched by backtrader's own rules
(whether and at which price an order can fill in a bar), while the engine decides whether they may rest, when on the
bar's path they fill, what they cost, and what is liquidated.
"""

from __future__ import annotations

import logging
import math
import numbers
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import backtrader as bt
from backtrader.brokers.bbroker import BackBroker

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.engine.switching import Switch
from bt_margin.errors import InputError, NotSupported
from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import AccountReport
from bt_margin.model.event import Converted, Event, Forced, OrdersCancelled
from bt_margin.model.instrument import Instrument, Kind, is_symbol
from bt_margin.model.ledger import Entry, PositionKey
from bt_margin.model.market import STABLECOINS, Market
from bt_margin.modes import mode_named, options
from bt_margin.modes.valuation import FEE_KIND
from bt_margin.plugin.bars import CLOSE, OPEN, USD_PAIRS, Bar, Bars, to_ms
from bt_margin.plugin.comminfo import MarginCommInfo
from bt_margin.plugin.forced import conversions, place_forced
from bt_margin.plugin.holdings import Held, Holdings, costs, paid_back
from bt_margin.plugin.matching import Candidate, candidate
from bt_margin.plugin.orders import (
    STOP_LIMITS,
    Leg,
    cut,
    feed_of,
    opposes_parent,
    options_of,
    position_key,
    venue_order,
    waits,
)
from bt_margin.plugin.path import market_at, walk
from bt_margin.plugin.settings import OWN, borrowing, opening_balances, rule_book, validate
from bt_margin.plugin.sleep import Asleep, Instant, Sleeper
from bt_margin.rules.book import Rules

log = logging.getLogger("bt_margin")

BEFORE_ANY_BAR = 1_577_836_800_000
"""2020-01-01: whose rules describe an instrument before a feed that does not know its own start has shown a bar."""


class MarginBroker(BackBroker):
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

    params = tuple(OWN.items())

    def __init__(self, **unknown: Any) -> None:
        if unknown:  # backtrader has taken the parameters it knows
            raise TypeError(f"MarginBroker has no parameter {next(iter(unknown))!r}")
        validate(self.p)
        super().__init__()

    # -- set-up -------------------------------------------------------------------------------------------------

    @property
    def margined(self) -> bool:
        """True when the engine owns the money; False: this is the stock broker."""
        return self.p.mode is not None

    def init(self) -> None:
        """Back to the beginning; called when made and at the start of every run."""
        self._sleeper: Sleeper | None = None
        self._asleep: Asleep | None = None
        self._stirred = False  # somebody looked at the engine in this bar
        self._joined = False  # an order joined those that wait since the bars ahead were looked at
        self._bar_low: float | None = None
        if not self.margined:
            super().init()
            return
        balances = opening_balances(self.p)
        self._available = float(balances.get(self.p.currency, 0.0))
        stable = float(sum(amount for currency, amount in balances.items() if currency in STABLECOINS))
        cash, self.p.cash = self.p.cash, max(stable, self.p.min_value)
        try:
            super().init()
        finally:
            self.p.cash = cash
        self.positions: defaultdict[Any, Held] = defaultdict(Held)
        self.holdings = Holdings(self.positions)
        self._engine: MarginEngine | None = None
        self._book = rule_book(self.p)
        self._account = Account({k: float(v) for k, v in balances.items()}, self.p.position_mode)
        self._account.borrowing = borrowing(self.p)
        self._mode = mode_named(self.p.mode)
        self._kept: dict[str, str] = {}  # margin mode of positions that were open when the account mode changed
        self._switches = sorted(self.p.switches, key=lambda switch: switch.time)
        self._feeds: dict[str, Any] = {}
        self.bars = Bars()
        self._instruments: dict[str, Instrument] = {}
        self._listed: Rules | None = None  # the revision the instruments above were read from
        self._infos: dict[str, MarginCommInfo] = {}
        self._settings: dict[PositionKey, float] = {}  # leverage, once set by an order or by set_leverage
        self._found: list[Candidate] | None = None
        self._numbers: dict[int, int] = {}  # backtrader's ref -> our order number, which starts at 1 in every run
        self._resting: dict[int, Any] = {}  # our number -> the order the engine holds
        self._rested: set[int] = set()  # refs of limits that lay in the book before the bar
        self._events_told = self._entries_told = 0
        self._refusal_printed = False
        self._running = False

    def start(self) -> None:
        super().start()
        if not self.margined:
            return
        self._running = True
        for data in self.cerebro.datas:
            name = data._name
            if not name:
                raise InputError("feeds: every feed needs a name; name it by its symbol, such as BTC/USDT:USDT")
            if name in self._feeds:
                raise InputError(f"feeds: two feeds are called {name}; give each its own symbol or plain name")
            if name in self.comminfo and is_symbol(name):
                raise InputError(f"setcommission: {name} is a venue's instrument; its fees come from rules or fees=")
            self._feeds[name] = data
        self._value = self.startingcash = max(self._start_value(), self.p.min_value)
        self._fundshares = self._value / float(self.p.fundstartval)

    def stop(self) -> None:
        if self.margined:
            self._wake()
        super().stop()
        self._running = False

    def _start_value(self) -> float:
        """Value before the first bar: stablecoins at 1, other coins at their feed's first price where it is known."""
        total = 0.0
        for currency, amount in self._account.balances.items():
            if currency in STABLECOINS:
                total += amount
                continue
            names = [name for quote in STABLECOINS for name in (f"{currency}/{quote}", f"{currency}/{quote}:{quote}")]
            firsts = [getattr(self._feeds.get(name), "first_price", None) for name in names]
            total += amount * next((first for first in firsts if first), 0.0)
        return total

    def _begin(self, bars: Sequence[Bar]) -> MarginEngine:
        """The engine starts at the first bar's open."""
        funding = {
            symbol: series for symbol, data in self._feeds.items()
            if isinstance(series := getattr(data, "funding", None), FundingSeries)
        }
        time = min(bar.open_ms for bar in bars)
        market = market_at(Market(time, strict=bool(self.p.strict)), bars, OPEN, time, self.p.currency)
        engine = MarginEngine(
            self._account, self._mode, self._book, market, extrapolate=self.p.extrapolate,
            funding=funding, interest=self.p.interest, deleveraging=self.p.deleveraging, slippage=self.p.slippage,
            strict=bool(self.p.strict),
        )
        engine.check_eligible()
        return engine

    # -- what users read ----------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """True once a first bar has come."""
        return self.margined and self._engine is not None

    @property
    def engine(self) -> MarginEngine:
        """The engine; it exists from the first bar on."""
        if not self.margined:
            raise InputError("broker: no mode is set, so this is the stock broker; make it MarginBroker(mode=...)")
        if self._engine is None:
            raise InputError("broker: no bar has come yet; ask again from next() on")
        self._to_the_present()
        return self._engine

    def report(self) -> AccountReport:
        """The account now, with every number's parts."""
        return self.engine.assess()

    @property
    def ledger(self) -> list[Entry]:
        """Every entry, in order."""
        return self._account.ledger if self.margined else []

    @property
    def events(self) -> list[Event]:
        """Warnings, cancellations, reductions, takeovers, refusals ... each with the report that caused it."""
        return self._engine.events if self.margined and self._engine is not None else []

    @property
    def account(self) -> Account:
        """Balances, positions, resting orders: to be read, changed only through the broker."""
        return self._account

    @property
    def account_mode(self) -> str:
        """The account mode now; `switch_mode` changes it."""
        return self._mode.name

    def instant(self) -> Instant:
        """The account at the present bar's close. Reading it every bar lets the broker sleep. `low` is the lowest ratio
        since the last bar in which it was read, for everybody who reads it in this one."""
        asleep = self._asleep
        if asleep is not None and asleep.at >= asleep.first:
            now = asleep.instant()
        else:
            engine = self.engine
            now = Instant(engine.market.time, engine.equity_usd(), engine.control.take_lowest(), engine.present_ratio(),
                          engine.collateral())
        lows = [low for low in (self._bar_low, now.low) if low is not None]
        self._bar_low = min(lows, default=None)
        return replace(now, low=self._bar_low)

    def coins(self, data: Any, amount: float) -> float:
        """The size (contracts, whole lots) that stands for `amount` of the base coin, at the last price."""
        instrument, price = self.instrument(data), float(feed_of(data).close[0])
        return instrument.floor(amount / float(instrument.payoff.delta(instrument.contract_size, price)))

    def leg(self, data: Any, side: str = "net", margin_mode: str | None = None) -> Leg:
        """One leg of a feed, to be used like the feed in buy, sell, close and order_target_*."""
        key = self.key(data, {"position_side": side, "margin_mode": margin_mode})
        return Leg(feed_of(data), key.margin_mode, key.side)

    def judged_range(self, data: Any) -> tuple[float, float]:
        """Lowest and highest price of the feed's present bar that positions are judged at: marks, else last prices."""
        name, asleep = feed_of(data)._name, self._asleep
        if asleep is not None and self._sleeper is not None and asleep.at >= asleep.first:
            return self._sleeper.judged_range(name, asleep.at)
        bar = self.bars.latest[name]
        prices = bar.mark or bar.last
        return min(prices), max(prices)

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
                for name, data in self._feeds.items():
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

    def instrument(self, data: Any) -> Instrument:
        """The instrument of a feed: by its name when that is a symbol, else a plain asset quoted in `currency`."""
        name = feed_of(data)._name
        if self._engine is not None and self._engine.rules is not self._listed:
            self._instruments.clear()  # contract sizes and lots are the ones in force
            self._listed = self._engine.rules
        found = self._instruments.get(name)
        if found is None:
            if name in USD_PAIRS:
                found = Instrument(name, Kind.SPOT, name.partition("/")[0], "USD", "USD")
            elif is_symbol(name):
                found = self._rules(data).instrument(name)
                found.payoff  # noqa: B018  a product that is not built yet is refused here
            else:
                found = Instrument(name, Kind.SPOT, name, self.p.currency, self.p.currency)
            self._instruments[name] = found
        return found

    def _rules(self, data: Any) -> Rules:
        if self._engine is not None:
            return self._engine.rules
        feed = feed_of(data)
        first = to_ms(feed.datetime[0]) if len(feed) else getattr(feed, "first_ms", 0)
        return self._book.as_of(first or BEFORE_ANY_BAR, self.p.extrapolate)

    def key(self, data: Any, options: Mapping[str, Any] | None = None) -> PositionKey:
        """Which position a feed or leg, with these order options, is about."""
        instrument = self.instrument(data)
        if instrument.is_spot:
            default = "cross" if self._mode.whole and is_symbol(instrument.symbol) else "cash"
        else:
            default = "cross" if self._mode.whole else self._mode.name
            kept = self._kept.get(instrument.symbol)
            if kept is not None and any((k.symbol, k.margin_mode) == (instrument.symbol, kept)
                                        for k in self._account.positions):
                default = kept  # a position from before a switch is what `close` means
        return position_key(data, instrument, options or {}, default, self.p.position_mode, self._mode.whole)

    def in_coins(self, key: PositionKey, instrument: Instrument) -> bool:
        """True where coins change hands and no loan is taken out: in cash, and in cross of a whole account."""
        return instrument.is_spot and (key.margin_mode == "cash" or (self._mode.whole and key.margin_mode == "cross"))

    def leverage_of(self, key: PositionKey) -> float:
        """The leverage setting orders of a position get unless they say otherwise; options know none."""
        if key.symbol.endswith(("-C", "-P")) or (self._mode.name == "portfolio" and key.margin_mode == "cross"):
            return 1.0  # options know no setting, portfolio margin neither
        found = self._settings.get(key)
        if found is None:
            leverage = self.p.leverage
            found = float(leverage.get(key.symbol, 1.0) if isinstance(leverage, Mapping) else leverage)
        return found

    def trading_fee(self, data: Any, size: float, price: float) -> float:
        """What taking `size` of a venue's instrument costs under the rules in force, in its settlement currency."""
        instrument, rules = self.instrument(data), self._rules(data)
        rate = rules.fees(FEE_KIND[instrument.kind]).taker
        if instrument.is_option:
            return float(options.trading_fee(instrument, size, price, rate, self.engine.market, rules))
        return float(instrument.notional(size, price)) * rate

    def rate_of(self, instrument: Instrument) -> float:
        """What one unit of the instrument's settlement currency is worth in the broker's currency."""
        settle, currency = instrument.settle, self.p.currency
        if settle == currency:
            return 1.0
        market = self.engine.market
        return float(market.usd(settle)) / float(market.usd(currency))

    def _in_settlement(self, entry: Entry, key: PositionKey | None) -> float:
        """What an entry gained in the settlement currency of a position: base coin of a margin pair at its mark."""
        key = entry.key or key
        if entry.total and key is not None and key.symbol in self._feeds:
            instrument = self.instrument(self._feeds[key.symbol])
            if not self.in_coins(key, instrument) and instrument.is_spot and entry.currency == instrument.base:
                return entry.total * float(self.engine.market.mark(instrument.symbol))
        return entry.total

    def getcommissioninfo(self, data: Any) -> Any:
        feed = feed_of(data)
        if not self.margined or not is_symbol(feed._name):
            return super().getcommissioninfo(feed)
        info = self._infos.get(feed._name)
        if info is None:
            info = self._infos[feed._name] = MarginCommInfo(self, feed)
        return info

    def getposition(self, data: Any) -> Any:
        if not self.margined:
            return super().getposition(data)
        return self.holdings.leg(self.key(data)) if isinstance(data, Leg) else self.positions[data]

    def get_cash(self) -> float:
        """What may open positions, in the broker's currency."""
        asleep = self._asleep
        if asleep is not None and asleep.at >= asleep.first:
            return asleep.cash[asleep.at - asleep.first]
        return self._available if self.margined else self._cash

    getcash = get_cash

    @property
    def cash(self) -> float:
        """As `getcash`."""
        return self.get_cash()

    @cash.setter
    def cash(self, amount: float) -> None:
        self._cash = amount

    def get_value(self, datas: Any = None, mkt: bool = False, lever: bool = False) -> float:
        """Total equity; of given feeds or legs the signed notional of their positions, at the last price."""
        if datas is None:
            asleep = self._asleep
            if asleep is not None and asleep.at >= asleep.first:
                return asleep.values[asleep.at - asleep.first]
        if not self.margined:
            return super().get_value(datas, mkt, lever)  # type: ignore[no-any-return]
        if datas is None:
            return float(self._value)
        self._to_the_present()
        total = 0.0
        for data in datas:
            size = self.getposition(data).size
            if size:
                price = self.bars.latest[feed_of(data)._name].last[CLOSE]
                total += self.getcommissioninfo(data).getvaluesize(size, price)
        return total

    getvalue = get_value

    def get_fundvalue(self) -> float:
        if self._asleep is None and not self.margined:
            return super().get_fundvalue()  # type: ignore[no-any-return]
        return self.get_value() / self._fundshares if self._engine is not None else float(self._fundval)

    fundvalue = property(get_fundvalue)

    def get_leverage(self) -> float:
        if not self.margined:
            return super().get_leverage()  # type: ignore[no-any-return]
        return self.report().account.leverage if self.started else 0.0

    def set_cash(self, cash: Any) -> None:
        if not self.margined and not isinstance(cash, Mapping):
            super().set_cash(cash)
            return
        if self.margined and self._running:
            raise InputError("set_cash: a margin account is running; use add_cash, which the ledger records")
        before, self.p.cash = self.p.cash, cash
        try:
            validate(self.p)
        except InputError:
            self.p.cash = before
            raise
        self.init()

    setcash = set_cash

    def add_order_history(self, orders: Any, notify: bool = True) -> None:
        if self.margined:
            raise NotSupported("add_order_history: a margin account takes no foreign history; replay it as orders")
        super().add_order_history(orders, notify)

    def set_fund_history(self, fund: Any) -> None:
        if self.margined:
            raise NotSupported("set_fund_history: a margin account computes its own value; leave the history out")
        super().set_fund_history(fund)

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
        """Whole lots, limits on the tick, the leg's side and mode spelled out."""
        instrument, key = self.instrument(data), self.key(data, options)
        if not (isinstance(size, numbers.Real) and math.isfinite(size) and size > 0):
            raise InputError(f"size: expected a finite number above zero, found {size!r} for {key.symbol}")
        size = float(size)
        if instrument.symbol in USD_PAIRS:
            raise InputError(f"{instrument.symbol}: this feed tells what a currency is worth; it cannot be traded")
        in_coins = self.in_coins(key, instrument)
        if in_coins and options.get("reduce_only"):
            raise InputError(f"reduce_only: {key.symbol} trades in coins and has no position to reduce; leave it out")
        options.update(margin_mode=key.margin_mode, position_side=key.side)
        if opposes_parent(options.get("parent"), side) and not in_coins:
            options["reduce_only"] = True  # a bracket's children end a position; they never open another
        if key != self.key(feed_of(data), {"position_side": key.side}) or key.side != "net":
            options["tradeid"] = (options.get("tradeid", 0), key.side, key.margin_mode)
        limits = ("price", "plimit") if options.get("exectype") == bt.Order.Limit else ("plimit",)
        for name in ("price", "plimit"):
            if options.get(name) is None:
                continue
            price = float(options[name])
            if not (math.isfinite(price) and price > 0):
                raise InputError(f"{name}: expected a finite price above zero, found {price!r} for {key.symbol}")
            if name in limits:
                options[name] = instrument.round_price(price, side)
                if not options[name] > 0:
                    raise InputError(
                        f"{name}: expected at least the tick of {key.symbol}, {instrument.tick:g}, found {price:g}"
                    )
        return instrument.floor(size) or size, options  # less than a lot is the engine's to refuse

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

    def submit_accept(self, order: Any) -> Any:
        self._joined = True
        return super().submit_accept(order)

    def check_submitted(self) -> None:
        if not self.margined:
            super().check_submitted()
            return
        while self.submitted and self.started:
            order = self.submitted.popleft()
            if self._take_children(order) is not None and self._admit(order):
                self.submit_accept(order)

    def _venue_order(self, order: Any) -> Order:
        instrument, info = self.instrument(order.data), order.info
        key = PositionKey(instrument.symbol, info["margin_mode"], info["position_side"])
        leverage = 1.0 if self.in_coins(key, instrument) else float(info.get("leverage") or self.leverage_of(key))
        number = self._numbers.setdefault(order.ref, len(self._numbers) + 1)
        return venue_order(order, number, instrument, leverage)

    def _admit(self, order: Any) -> bool:
        """Ask the engine. Children of a bracket are asked when they come alive, stops when they are met."""
        if not order.active() or waits(order):
            return True
        wanted = self._venue_order(order)
        answer = self.engine.accept(wanted)
        if isinstance(answer, Refusal):
            self._refused(order, answer)
            return False
        self._resting[wanted.id] = order
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
            log.warning(
                "order refused: %s %g %s: %s, short of %g %s, largest size %g (further refusals are in broker.events)",
                "buy" if order.isbuy() else "sell", abs(order.created.size), order.data._name, refusal.reason,
                refusal.shortfall, refusal.currency, refusal.largest_size,
            )

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
        if number is not None and self._resting.pop(number, None) is not None:
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
            if not other.alive():
                self._forget(other)

    # -- one bar ------------------------------------------------------------------------------------------------

    def next(self) -> None:
        asleep = self._asleep
        if asleep is not None:  # what every bar asks, so cheaply
            stirred, self._stirred, at = self._stirred, False, asleep.clock._idx
            if not (at > asleep.last or self.submitted or self._toactivate or self._cash_addition or self._joined
                    or len(asleep.booked) + len(asleep.said) != asleep.count or (stirred and not asleep.unchanged)):
                asleep.at, self._bar_low = at, None
                return
            self._wake()  # the stretch has ended with the bar before
        if not self.margined:
            super().next()
            return
        self._bar_low = None
        bars = self.bars.fresh(self._feeds)
        if self._engine is None:
            if not bars:
                return
            self._engine = self._begin(bars)
            for data in self._feeds.values():
                self.instrument(data)  # a product that is not built yet is refused before anything trades
            if self.p.sleep:
                self._sleeper = Sleeper.over(self._feeds, self.p.currency, self.p.path, self.p.min_value)
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
        walk(engine, bars, found, self.p.path, self.p.currency, self._step, self._fill, self._quiet_from_open)
        if self._asleep is not None:
            return
        if self.pending:
            self._rest(bars)
        while self._switches and self._switches[0].time <= engine.market.time:
            switch = self._switches.pop(0)
            self.switch_mode(switch.mode, switch.leverage)
        self._tell()
        self._revalue()
        self._look_ahead(1)

    def _look_ahead(self, bars: int) -> None:
        """May the broker sleep from so many bars after the present one on?"""
        if self._sleeper is None:
            return
        until = self._switches[0].time if self._switches else None
        self._asleep = self._sleeper.look(self.engine, self.pending, until, bars)
        self._joined = False
        if self._asleep is not None:
            self._asleep.engine.catch_up = self._to_the_present  # whoever kept the engine sees the present, too

    def _quiet_from_open(self) -> bool:
        """True where the broker sleeps from the present bar's open on, after what was traded there."""
        if self._sleeper is None or self.pending:
            return False  # what rests in this bar is told to the venue at its close
        self.engine.judge_changes()
        self._tell()
        self._look_ahead(0)
        if self._asleep is None:
            return False
        self._asleep.at = self._sleeper.at
        return True

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

    def _wake(self) -> None:
        """No more bars are slept through, whatever was ahead."""
        self._to_the_present()
        asleep, self._asleep, self._stirred = self._asleep, None, False
        if asleep is None or self._sleeper is None:
            return
        slept = asleep.at + 1 - asleep.first
        if slept:
            self._value, self._available = asleep.values[slept - 1], asleep.cash[slept - 1]
            self._fundval = self._value / self._fundshares
        asleep.engine.catch_up = None
        self._sleeper.woke(slept)

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
            if self._numbers.get(order.ref) in self._resting or self._admit(order):
                self._rested.add(order.ref)

    def _step(self, market: Market, jump: bool) -> None:
        self.engine.advance(market, jump=jump)
        self._tell()

    def _fill(self, one: Candidate) -> None:
        """Trade an order where the path meets it, and tell backtrader: true sizes, commissions and profit."""
        order, engine = one.order, self.engine
        if not order.alive():
            return
        if order.info.get("post_only") and not one.maker:
            order.addinfo(reason="a post-only order would have taken liquidity")
            self.cancel(order)
            return
        instrument = self.instrument(order.data)
        size = abs(order.executed.remsize)
        if self.p.filler is not None:
            size = instrument.floor(min(size, abs(self.p.filler(order, one.price, one.ago))))
            if size <= 0:
                return
        info = self.getcommissioninfo(order.data)
        fee = None if is_symbol(instrument.symbol) else info.getcommission(size, one.price)
        wanted, before = self._venue_order(order), len(self._account.ledger)
        booked = engine.fill(wanted, size, one.price, maker=one.maker, fee=fee)
        if isinstance(booked, Refusal):
            self._resting.pop(wanted.id, None)
            self._refused(order, booked)
        else:
            if not (self._mode.name == "portfolio" and wanted.margin_mode == "cross"):
                self._settings[wanted.key] = wanted.leverage
            if wanted.id in self._account.orders:
                self._resting[wanted.id] = order
            whole = instrument.snap(abs(order.executed.remsize) - size) <= 0
            if wanted.closes and abs(booked.closed) < size:
                cut(order, abs(booked.closed))
                whole = True
            elif instrument.is_spot and not engine.trades_coins(wanted) and booked.closed and not booked.opened and (
                abs(booked.closed) != size or wanted.key not in self._account.positions
            ):
                cut(order, abs(booked.closed))  # the position ended, or had no more assets to give
                whole = True
            refund = paid_back(self._account.ledger[before:], wanted.key, self._in_settlement)
            self._report(order, one, booked, wanted.key, refund, whole)
        self._entries_told = len(self._account.ledger)  # this fill's own entries: told with it
        self._tell()

    def _report(self, order: Any, one: Candidate, booked: Fill, key: PositionKey, refund: float, whole: bool) -> None:
        instrument = self.instrument(order.data)
        factor = self.rate_of(instrument)
        fee = booked.closed_fee + booked.opened_fee - refund
        self.holdings.execute(
            order, one.stamp, key, instrument, booked.closed + booked.opened, booked.price, fee * factor,
            self.getcommissioninfo(order.data), factor, self.p.int2pnl, self.exact_size(key, instrument),
        )
        if not whole:
            order.partial()
            self.notify(order)
            self._unqueue(order)  # its own OCO group ends with the first fill, the order itself goes on
            self._ococheck(order)
            self.pending.append(order)
            return
        order.executed.remsize = 0.0  # a spot buy receives less than it asked for: the fee comes out of the coins
        order.completed()
        self._finish(order)
        self._bracketize(order)

    def exact_size(self, key: PositionKey, instrument: Instrument) -> float | None:
        """What the venue holds of a loan, which is no whole number of lots; None for all else."""
        if not instrument.is_spot or self.in_coins(key, instrument):
            return None
        held = self._account.positions.get(key)
        return held.size if held is not None else 0.0

    # -- what the engine did by itself --------------------------------------------------------------------------

    def _tell(self) -> None:
        """Turn it into orders, costs and calls that strategies see."""
        engine, ledger = self.engine, self._account.ledger
        if self._entries_told == len(ledger) and self._events_told == len(engine.events):
            return
        forced, funding = costs(ledger[self._entries_told:], self._in_settlement)
        self._entries_told = len(ledger)
        for key, cost in funding:
            self.holdings.charge(key, cost * self.rate_of(self.instrument(self._feeds[key.symbol])))
        costs_left = iter(forced)
        while self._events_told < len(engine.events):
            event = engine.events[self._events_told]
            self._events_told += 1
            if isinstance(event, Forced):
                place_forced(self, self._feeds[event.key.symbol], event, next(costs_left))
                if event.remaining == 0.0:
                    self._cancel_exits(event.key)
            elif isinstance(event, Converted):
                for name, data in self._feeds.items():
                    for told, cost in conversions(self, name, data, event):
                        place_forced(self, data, told, cost)
            elif isinstance(event, OrdersCancelled):
                going = [order for number in event.orders if (order := self._resting.get(number)) is not None]
                for order in going:
                    order.addinfo(reason=event.reason)
                for order in going:  # one may take others along
                    if order.alive():
                        self.cancel(order)
            for strategy in self.cerebro.runningstrats:
                notify = getattr(strategy, "notify_margin", None)
                if notify is not None:
                    notify(event)

    def _cancel_exits(self, key: PositionKey) -> None:
        """Orders that could only have closed a position go with it."""
        for order in list(self.pending):
            if order.data._name != key.symbol or not order.alive():
                continue
            if order.parent is not None and order.parent.status != bt.Order.Completed:
                continue  # the exit of an entry still to come
            wanted = self._venue_order(order)
            if wanted.closes and wanted.key == key:
                order.addinfo(reason="the position it would have closed is gone")
                self.cancel(order)

    def _revalue(self) -> None:
        engine = self.engine
        self._value = max(engine.equity_usd() / float(engine.market.usd(self.p.currency)), self.p.min_value)
        self._available = engine.available(self.p.currency)
        self._fundval = self._value / self._fundshares
