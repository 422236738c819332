"""A broker that keeps a margin account: what it is worth, what its feeds are, which position an order is about.

It trades nothing; `broker.MarginBroker` does. Without a mode all of it is the stock broker's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from backtrader.brokers.bbroker import BackBroker

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import MarginEngine
from bt_margin.errors import InputError, NotSupported
from bt_margin.model.account import Account
from bt_margin.model.assessment import AccountReport
from bt_margin.model.event import Event
from bt_margin.model.instrument import Instrument, Kind, is_symbol
from bt_margin.model.ledger import Entry, PositionKey
from bt_margin.model.market import STABLECOINS, Market
from bt_margin.modes import mode_named, options
from bt_margin.modes.valuation import FEE_KIND
from bt_margin.plugin.bars import CLOSE, OPEN, USD_PAIRS, Bar, Bars, to_ms
from bt_margin.plugin.comminfo import MarginCommInfo
from bt_margin.plugin.holdings import Held, Holdings
from bt_margin.plugin.orders import Leg, feed_of, position_key
from bt_margin.plugin.path import market_at
from bt_margin.plugin.settings import OWN, borrowing, opening_balances, rule_book, validate
from bt_margin.plugin.sleep import Instant
from bt_margin.rules.book import Rules

BEFORE_ANY_BAR = 1_577_836_800_000
"""2020-01-01: whose rules describe an instrument before a feed that does not know its own start has shown a bar."""


class AccountBroker(BackBroker):
    """The account behind a MarginBroker: to be read by strategies, analyzers and reports."""

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
        self._bar_low: float | None = None
        self._engine: MarginEngine | None = None
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
        self._book = rule_book(self.p)
        self._account = Account({k: float(v) for k, v in balances.items()}, self.p.position_mode)
        self._account.borrowing = borrowing(self.p)
        self._mode = mode_named(self.p.mode)
        self._kept: dict[str, str] = {}  # margin mode of positions that were open when the account mode changed
        self.feeds: dict[str, Any] = {}
        self.bars = Bars()
        self._instruments: dict[str, Instrument] = {}
        self._listed: Rules | None = None  # the revision the instruments above were read from
        self._infos: dict[str, MarginCommInfo] = {}
        self._settings: dict[PositionKey, float] = {}  # leverage, once set by an order or by set_leverage
        self._switches = sorted(self.p.switches, key=lambda switch: switch.time)  # of the account mode, still to come
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
            if name in self.feeds:
                raise InputError(f"feeds: two feeds are called {name}; give each its own symbol or plain name")
            if name in self.comminfo and is_symbol(name):
                raise InputError(f"setcommission: {name} is a venue's instrument; its fees come from rules or fees=")
            self.feeds[name] = data
        self._value = self.startingcash = max(self._start_value(), self.p.min_value)
        self._fundshares = self._value / float(self.p.fundstartval)

    def stop(self) -> None:
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
            firsts = [getattr(self.feeds.get(name), "first_price", None) for name in names]
            total += amount * next((first for first in firsts if first), 0.0)
        return total

    def _begin(self, bars: Sequence[Bar]) -> MarginEngine:
        """The engine starts at the first bar's open."""
        funding = {
            symbol: series for symbol, data in self.feeds.items()
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
        if self._engine is not None:
            return self._engine
        if not self.margined:
            raise InputError("broker: no mode is set, so this is the stock broker; make it MarginBroker(mode=...)")
        raise InputError("broker: no bar has come yet; ask again from next() on")

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
        now = self._now()
        lows = [low for low in (self._bar_low, now.low) if low is not None]
        self._bar_low = min(lows, default=None)
        return replace(now, low=self._bar_low)

    def _now(self) -> Instant:
        """The account at the present bar's close; its lowest ratio since that was asked for."""
        engine = self.engine
        return Instant(engine.market.time, engine.equity_usd(), engine.control.take_lowest(), engine.present_ratio(),
                       engine.collateral())

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
        bar = self.bars.latest[feed_of(data)._name]
        prices = bar.mark or bar.last
        return min(prices), max(prices)

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

    def in_settlement(self, entry: Entry, key: PositionKey | None) -> float:
        """What an entry gained in the settlement currency of a position: base coin of a margin pair at its mark."""
        key = entry.key or key
        if entry.total and key is not None and key.symbol in self.feeds:
            instrument = self.instrument(self.feeds[key.symbol])
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
        if not self.margined:
            return super().get_value(datas, mkt, lever)  # type: ignore[no-any-return]
        if datas is None:
            return float(self._value)
        total = 0.0
        for data in datas:
            size = self.getposition(data).size
            if size:
                price = self.bars.latest[feed_of(data)._name].last[CLOSE]
                total += self.getcommissioninfo(data).getvaluesize(size, price)
        return total

    getvalue = get_value

    def get_fundvalue(self) -> float:
        if not self.margined:
            return super().get_fundvalue()  # type: ignore[no-any-return]
        return self.get_value() / self._fundshares if self._engine is not None else float(self._fundval)

    fundvalue = property(get_fundvalue)

    def get_notification(self) -> Any:
        """As the stock broker; asked on every bar, nearly always in vain, which is no case for an exception."""
        return self.notifs.popleft() if self.notifs else None

    def notify(self, order: Any) -> None:
        """As the stock broker: an order as it stands now; a copy by hand takes a quarter of `order.clone`'s time."""
        if not self.margined:
            super().notify(order)
            return
        order.executed.markpending()
        shown, executed = object.__new__(type(order)), object.__new__(type(order.executed))
        shown.__dict__.update(order.__dict__, executed=executed)
        executed.__dict__.update(order.executed.__dict__)
        self.notifs.append(shown)

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

    def exact_size(self, key: PositionKey, instrument: Instrument) -> float | None:
        """What the venue holds of a loan, which is no whole number of lots; None for all else."""
        if not instrument.is_spot or self.in_coins(key, instrument):
            return None
        held = self._account.positions.get(key)
        return held.size if held is not None else 0.0

    def _revalue(self) -> None:
        engine = self.engine
        self._value = max(engine.equity_usd() / float(engine.market.usd(self.p.currency)), self.p.min_value)
        self._available = engine.available(self.p.currency)
        self._fundval = self._value / self._fundshares
