"""MarginBroker: backtrader's matching, our money.

Without `mode` it IS the stock broker, bit for bit. With a mode, orders are matched by backtrader's own rules
(whether and at which price an order can fill in a bar), while the engine decides whether they may rest, when on the
bar's path they fill, what they cost, and what is liquidated.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import backtrader as bt
from backtrader.brokers.bbroker import BackBroker
from backtrader.order import BuyOrder, SellOrder
from backtrader.position import Position as BtPosition

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.builder import parse_time
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.errors import InputError, NotSupported
from bt_margin.model.account import MARGIN_MODES, POSITION_MODES, Account, Order
from bt_margin.model.assessment import AccountReport
from bt_margin.model.event import Event, OrdersCancelled, Reduced
from bt_margin.model.instrument import Instrument, Kind, is_symbol
from bt_margin.model.ledger import Entry, PositionKey
from bt_margin.model.market import STABLECOINS, Market
from bt_margin.modes import mode_named
from bt_margin.modes.valuation import FEE_KIND
from bt_margin.plugin.comminfo import FillInfo, MarginCommInfo
from bt_margin.plugin.path import (
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    PATHS,
    Bar,
    meeting,
    order_of_points,
    read_bar,
    step_of,
)
from bt_margin.rules.book import RuleBook, load_rules

log = logging.getLogger("bt_margin")

ORDER_OPTIONS = frozenset(
    {"margin_mode", "leverage", "position_side", "margin_currency", "reduce_only", "reverse", "post_only"}
)
STOCK_OPTIONS = frozenset({"coc", "simulated", "histnotify", "_checksubmit"})
BEFORE_OPEN = -1.0


@dataclass(slots=True)
class Candidate:
    """An order that backtrader would fill in this bar, before the path has decided when."""

    order: Any
    ago: int
    price: float
    dt: float | None
    level: float | None  # None: at the open
    after: float | None = None  # a stop that has to be met first
    at: float = 0.0  # fixed position: BEFORE_OPEN, 0, or the end of the bar
    maker: bool = False


class Leg:
    """One leg of a feed (a side in hedge mode, a margin mode): behaves like the feed itself in orders."""

    def __init__(self, data: Any, margin_mode: str, side: str) -> None:
        self._data = data
        self.margin_mode = margin_mode
        self.position_side = side

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_data":
            raise AttributeError(name)
        return getattr(self._data, name)

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True


class MarginBroker(BackBroker):
    """A drop-in for backtrader's broker that margins and liquidates as the venue does.

    Parameters beyond the stock broker's: `mode` (isolated | cross; None: the stock broker), `cash` (a float of
    `currency` or {currency: amount}), `currency`, `rules` (a RuleBook), `rules_as_of` ("then" or a date),
    `extrapolate` (nearest | never), `position_mode` (net | hedge), `leverage` (the setting: a float or
    {symbol: float}), `path` (adverse | ohlc | close), `fees` and `instruments` (overlays, as in the book file),
    `slippage` (share of the price forced orders lose), `strict` (nothing stands in), `min_value` (floor of
    `getvalue`, so that stock analyzers survive a wipe-out).
    """

    params = (
        ("mode", None),
        ("currency", "USDT"),
        ("rules", None),
        ("rules_as_of", "then"),
        ("extrapolate", "nearest"),
        ("position_mode", "net"),
        ("leverage", 1.0),
        ("path", "adverse"),
        ("fees", None),
        ("instruments", None),
        ("slippage", 0.0),
        ("strict", False),
        ("min_value", 1e-9),
    )

    def __init__(self, **kwargs: Any) -> None:
        self._engine: MarginEngine | None = None
        if self.p.mode is None:
            asked = [
                name for name in ("rules", "fees", "instruments", "strict", "slippage") if getattr(self.p, name)
            ]
            if isinstance(self.p.cash, Mapping):
                asked.append("cash")
            if asked:
                raise InputError(f"mode: expected isolated or cross because {asked[0]} is given, found None")
        else:
            self._validate()
        super().__init__()

    # -- set-up -------------------------------------------------------------------------------------------------

    @property
    def margined(self) -> bool:
        """True when the engine owns the money; False: this is the stock broker."""
        return self.p.mode is not None

    def _validate(self) -> None:
        mode_named(self.p.mode)
        for name, allowed in (
            ("path", PATHS), ("position_mode", POSITION_MODES), ("extrapolate", ("nearest", "never")),
        ):
            if getattr(self.p, name) not in allowed:
                raise InputError(f"{name}: expected one of {', '.join(allowed)}, found {getattr(self.p, name)!r}")
        for currency, amount in self._opening_balances().items():
            if not isinstance(amount, (int, float)) or not 0 <= amount < float("inf"):
                raise InputError(f"cash: expected amounts of zero or more, found {currency}={amount!r}")
        if not 0 <= self.p.slippage < 1:
            raise InputError(f"slippage: expected a share of the price from 0 to below 1, found {self.p.slippage!r}")

    def _opening_balances(self) -> dict[str, float]:
        cash = self.p.cash
        return dict(cash) if isinstance(cash, Mapping) else {self.p.currency: cash}

    def init(self) -> None:
        if not self.margined:
            super().init()
            return
        balances = self._opening_balances()
        stable = float(sum(amount for currency, amount in balances.items() if currency in STABLECOINS))
        cash, self.p.cash = self.p.cash, max(stable, self.p.min_value)
        try:
            super().init()
        finally:
            self.p.cash = cash
        self._engine = None
        self._book = self._rule_book()
        self._account = Account({k: float(v) for k, v in balances.items()}, self.p.position_mode)
        self._strict_market = bool(self.p.strict)
        self._instruments: dict[str, Instrument] = {}
        self._infos: dict[Any, MarginCommInfo] = {}
        self._by_symbol: dict[str, Any] = {}
        self._seen: dict[Any, float] = {}
        self._legs: dict[PositionKey, BtPosition] = {}
        self._owned: dict[PositionKey, dict[tuple[Any, Any], float]] = defaultdict(dict)
        self._captured: list[Candidate] | None = None
        self._orders_by_id: dict[int, Any] = {}
        self._ids: dict[int, int] = {}  # backtrader's ref -> our order number, which starts at 1 in every run
        self._told = 0
        self._refusal_printed = False
        self._points: tuple[int, ...] = ()
        self._last_bars: dict[str, Bar] = {}

    def _rule_book(self) -> RuleBook:
        book = self.p.rules if self.p.rules is not None else load_rules("okx")
        if self.p.instruments or self.p.fees:
            book = book.overlay(instruments=self.p.instruments, fees=self.p.fees)
        if self.p.rules_as_of != "then":
            book = book.frozen_at(parse_time(str(self.p.rules_as_of), "rules_as_of"))
        return book

    def start(self) -> None:
        super().start()
        if not self.margined:
            return
        for data in self.cerebro.datas:
            name = data._name
            if not name:
                raise InputError("feeds: every feed needs a name; name it by its symbol, such as BTC/USDT:USDT")
            if name in self._by_symbol:
                raise InputError(f"feeds: two feeds are called {name}; give each its own symbol or plain name")
            self._by_symbol[name] = data
            if name in self.comminfo and is_symbol(name):
                raise InputError(f"setcommission: {name} is a venue's instrument; its fees come from rules or fees=")
        self._book_check()
        self._value = self.startingcash = max(self._start_value(), self.p.min_value)
        self._available = max(0.0, self._account.balance(self.p.currency))
        self._fundshares = self._value / float(self.p.fundstartval)

    def _book_check(self) -> None:
        leverage = self.p.leverage
        values = leverage.values() if isinstance(leverage, Mapping) else (leverage,)
        for value in values:
            if not isinstance(value, (int, float)) or not 1 <= value < float("inf"):
                raise InputError(f"leverage: expected a setting of 1 or more, found {value!r}")

    def _start_value(self) -> float:
        """Value before the first bar: stablecoins at 1, other coins at their feed's first price where it is known."""
        total = 0.0
        for currency, amount in self._account.balances.items():
            if currency in STABLECOINS:
                total += amount
                continue
            for quote in STABLECOINS:
                data = self._by_symbol.get(f"{currency}/{quote}")
                if data is None:
                    data = self._by_symbol.get(f"{currency}/{quote}:{quote}")
                first = getattr(data, "first_price", None)
                if first:
                    total += amount * first
                    break
        return total

    def _begin(self, bars: list[Bar]) -> MarginEngine:
        """The engine starts at the first bar's open."""
        time = min(bar.open_ms for bar in bars)
        funding: dict[str, FundingSeries] = {}
        for symbol, data in self._by_symbol.items():
            series = getattr(data, "funding", None)
            if isinstance(series, FundingSeries):
                funding[symbol] = series
        opens = {bar.symbol: bar.last[OPEN] for bar in bars}
        market = Market(
            time,
            {bar.symbol: bar.mark[OPEN] for bar in bars if bar.mark},
            opens,
            strict=self._strict_market,
        )
        return MarginEngine(
            self._account, mode_named(self.p.mode), self._book, market, extrapolate=self.p.extrapolate,
            funding=funding, slippage=self.p.slippage, strict=self._strict_market,
        )

    # -- what users read ----------------------------------------------------------------------------------------

    @property
    def engine(self) -> MarginEngine:
        """The engine; it exists from the first bar on."""
        if self._engine is None:
            raise InputError("broker: no bar has come yet (or no mode is set); ask again from next() on")
        return self._engine

    def report(self) -> AccountReport:
        """The account now, with every number's parts."""
        return self.engine.assess()

    @property
    def ledger(self) -> list[Entry]:
        """Every entry, in order."""
        return self._account.ledger

    @property
    def events(self) -> list[Event]:
        """Warnings, cancellations, reductions, takeovers, refusals ... each with the report that caused it."""
        return self._engine.events if self._engine is not None else []

    def coins(self, data: Any, amount: float) -> float:
        """The size (contracts, whole lots) that stands for `amount` of the base coin."""
        instrument = self.instrument(data)
        return instrument.floor(amount / instrument.contract_size)

    def leg(self, data: Any, side: str = "net", margin_mode: str | None = None) -> Leg:
        """One leg of a feed, to be used like the feed in buy, sell, close and order_target_*."""
        if side not in ("net", "long", "short"):
            raise InputError(f"leg: expected net, long or short, found {side!r}")
        instrument = self.instrument(data)
        return Leg(_feed(data), margin_mode or self._default_mode(instrument), side)

    def preview(self, sizes: Mapping[Any, float]) -> tuple[Refusal | None, float]:
        """Could market orders of these signed sizes, by feed or leg, open together now? See MarginEngine.preview."""
        orders = []
        for i, (data, size) in enumerate(sizes.items()):
            key, instrument = self._key(data, {}), self.instrument(data)
            leverage = 1.0 if instrument.is_spot else self.leverage_of(instrument.symbol)
            orders.append(
                Order(-1 - i, instrument, "buy" if size > 0 else "sell", abs(size), None, key.margin_mode, key.side,
                      leverage)
            )
        return self.engine.preview(orders)

    def set_leverage(self, data: Any, leverage: float) -> Refusal | None:
        """Change the leverage setting of an open position (of a leg, or of the feed's default position)."""
        return self.engine.set_leverage(self._key(data, {}), float(leverage))

    def instrument(self, data: Any) -> Instrument:
        """The instrument of a feed: by its name when that is a symbol, else a plain asset quoted in `currency`."""
        name = _feed(data)._name
        found = self._instruments.get(name)
        if found is None:
            if is_symbol(name):
                rules = self._engine.rules if self._engine else self._book.as_of(self._clock(data), self.p.extrapolate)
                found = rules.instrument(name)
                found.payoff  # noqa: B018  a product that is not built yet is refused here
            else:
                found = Instrument(name, Kind.SPOT, name, self.p.currency, self.p.currency)
            self._instruments[name] = found
        return found

    def _clock(self, data: Any) -> int:
        feed = _feed(data)
        return _to_ms(feed.datetime[0]) if len(feed) else int(getattr(feed, "first_ms", 0)) or 1_577_836_800_000

    def leverage_of(self, symbol: str) -> float:
        """The leverage setting orders of a symbol get unless they say otherwise."""
        leverage = self.p.leverage
        return float(leverage.get(symbol, 1.0) if isinstance(leverage, Mapping) else leverage)

    def taker_rate(self, instrument: Instrument) -> float:
        """Taker fee of an instrument under the rules in force; 0 for a plain asset (its comminfo charges)."""
        if not is_symbol(instrument.symbol):
            return 0.0
        rules = self._engine.rules if self._engine else self._book.as_of(
            self._clock(self._by_symbol[instrument.symbol]), self.p.extrapolate)
        return rules.fees(FEE_KIND[instrument.kind]).taker

    def getcommissioninfo(self, data: Any) -> Any:
        if not self.margined:
            return super().getcommissioninfo(data)
        feed = _feed(data)
        if not is_symbol(feed._name):
            return super().getcommissioninfo(feed)
        info = self._infos.get(feed._name)
        if info is None:
            info = self._infos[feed._name] = MarginCommInfo(self, self.instrument(feed))
        return info

    def getposition(self, data: Any) -> Any:
        if not self.margined:
            return super().getposition(data)
        if isinstance(data, Leg):
            return self._legs.setdefault(self._key(data, {}), BtPosition())
        return self.positions[data]

    def get_cash(self) -> float:
        return float(self._available if self.margined and hasattr(self, "_available") else self.cash)

    getcash = get_cash

    def get_value(self, datas: Any = None, mkt: bool = False, lever: bool = False) -> float:
        """Total equity; of given feeds the signed notional of their positions, at the last price."""
        if not self.margined:
            return super().get_value(datas, mkt, lever)  # type: ignore[no-any-return]
        if datas is None:
            return float(self._value)
        total = 0.0
        for data in datas:
            position = self.getposition(data)
            if position.size:
                total += self.getcommissioninfo(data).getvaluesize(position.size, data.close[0])
        return total

    getvalue = get_value

    def get_leverage(self) -> float:
        if not self.margined:
            return super().get_leverage()  # type: ignore[no-any-return]
        return self.report().account.leverage if self._engine is not None else 0.0

    def set_cash(self, cash: Any) -> None:
        if not self.margined and not isinstance(cash, Mapping):
            super().set_cash(cash)
            return
        self.p.cash = cash
        self._validate()
        self.init()

    setcash = set_cash

    def add_order_history(self, orders: Any, notify: bool = True) -> None:
        if self.margined:
            raise NotSupported("add_order_history: a margin account takes no foreign order history; replay it as orders")
        super().add_order_history(orders, notify)

    def set_fund_history(self, fund: Any) -> None:
        if self.margined:
            raise NotSupported("set_fund_history: a margin account computes its own value; leave the history out")
        super().set_fund_history(fund)

    # -- orders -------------------------------------------------------------------------------------------------

    def buy(self, owner: Any, data: Any, size: float, *args: Any, **kwargs: Any) -> Any:
        data, size, kwargs = self._prepared(data, size, "buy", kwargs)
        return super().buy(owner, data, size, *args, **kwargs)

    def sell(self, owner: Any, data: Any, size: float, *args: Any, **kwargs: Any) -> Any:
        data, size, kwargs = self._prepared(data, size, "sell", kwargs)
        return super().sell(owner, data, size, *args, **kwargs)

    def _prepared(self, data: Any, size: float, side: str, kwargs: dict[str, Any]) -> tuple[Any, float, dict[str, Any]]:
        """Whole lots, prices on the tick, known options only, the leg's side and mode spelled out."""
        if not self.margined:
            return data, size, kwargs
        instrument = self.instrument(data)
        named = {"price", "plimit", "exectype", "valid", "tradeid", "oco", "trailamount", "trailpercent", "parent",
                 "transmit"}
        for name in kwargs:
            if name not in named | ORDER_OPTIONS | STOCK_OPTIONS:
                raise InputError(
                    f"order option {name!r} is unknown; known are {', '.join(sorted(ORDER_OPTIONS))}"
                )
        for name in ("margin_currency", "reverse"):
            if kwargs.get(name) is not None:
                raise NotSupported(f"order option {name}: spot-margin positions are not built yet")
        key = self._key(data, kwargs)
        if kwargs.get("leverage") is not None and not kwargs["leverage"] >= 1:
            raise InputError(f"leverage: expected a setting of 1 or more, found {kwargs['leverage']!r}")
        kwargs.update(margin_mode=key.margin_mode, position_side=key.side)
        default = ("net", self._default_mode(instrument))
        if (key.side, key.margin_mode) != default:
            kwargs["tradeid"] = (kwargs.get("tradeid", 0), key.side, key.margin_mode)
        whole = instrument.floor(size)
        exectype = kwargs.get("exectype")
        for name in ("price", "plimit"):
            limit = (name == "price" and exectype == bt.Order.Limit) or name == "plimit"
            if limit and kwargs.get(name) is not None:
                kwargs[name] = instrument.round_price(kwargs[name], side)
        return _feed(data), whole or size, kwargs

    def _default_mode(self, instrument: Instrument) -> str:
        return "cash" if instrument.is_spot else str(self.p.mode)

    def _key(self, data: Any, options: Mapping[str, Any]) -> PositionKey:
        instrument = self.instrument(data)
        leg_mode, leg_side = (data.margin_mode, data.position_side) if isinstance(data, Leg) else (None, None)
        margin_mode = options.get("margin_mode") or leg_mode or self._default_mode(instrument)
        side = options.get("position_side") or leg_side or "net"
        if margin_mode not in MARGIN_MODES:
            raise InputError(f"margin_mode: expected one of {', '.join(MARGIN_MODES)}, found {margin_mode!r}")
        if side not in ("net", "long", "short"):
            raise InputError(f"position_side: expected net, long or short, found {side!r}")
        if instrument.is_spot and (margin_mode != "cash" or side != "net"):
            raise NotSupported(f"{instrument.symbol}: spot-margin positions are not built yet; spot trades in cash")
        if not instrument.is_spot and margin_mode == "cash":
            raise InputError(f"{instrument.symbol}: a derivative needs isolated or cross margin, found cash")
        if not instrument.is_spot and (side == "net") != (self.p.position_mode == "net"):
            expected = "net" if self.p.position_mode == "net" else "long or short"
            raise InputError(f"position_side: expected {expected} in {self.p.position_mode} mode, found {side!r}")
        return PositionKey(instrument.symbol, margin_mode, side)

    def _engine_order(self, order: Any) -> Order:
        instrument = self.instrument(order.data)
        info = order.info
        price: float | None = None
        if order.exectype == bt.Order.Limit:
            price = order.created.price
        elif order.exectype in (bt.Order.StopLimit, bt.Order.StopTrailLimit):
            price = order.created.pricelimit
        elif order.exectype in (bt.Order.Stop, bt.Order.StopTrail):
            price = order.created.price
        leverage = info.get("leverage") or self.leverage_of(instrument.symbol)
        return Order(
            self._id(order), instrument, "buy" if order.isbuy() else "sell", abs(order.executed.remsize), price,
            info["margin_mode"], info["position_side"], 1.0 if instrument.is_spot else float(leverage),
            bool(info.get("reduce_only")),
        )

    def _id(self, order: Any) -> int:
        return self._ids.setdefault(order.ref, len(self._ids) + 1)

    def check_submitted(self) -> None:
        if not self.margined:
            super().check_submitted()
            return
        while self.submitted:
            order = self.submitted.popleft()
            if self._take_children(order) is None:
                continue
            if self._admit(order):
                self.submit_accept(order)

    def _admit(self, order: Any) -> bool:
        """Ask the engine; children of a bracket are asked when they come alive."""
        if not order.active():
            return True
        if self._engine is None:
            return True
        # A stop rests at the venue as a trigger: it reserves nothing until it is met.
        wanted = self._engine_order(order)
        stop = order.exectype in (bt.Order.Stop, bt.Order.StopTrail, bt.Order.StopLimit, bt.Order.StopTrailLimit)
        if stop:
            return True
        if wanted.closes and order.parent is not None:
            return True
        answer = self._engine.accept(wanted)
        if isinstance(answer, Refusal):
            self._refused(order, answer)
            return False
        self._orders_by_id[wanted.id] = order
        if answer.size != wanted.size:
            self._cut(order, answer.size)
        return True

    def _cut(self, order: Any, size: float) -> None:
        """The venue cuts a closing order to the position; the order's own size shows it."""
        signed = size if order.isbuy() else -size
        order.size = order.created.size = order.created.remsize = order.executed.remsize = signed

    def _refused(self, order: Any, refusal: Refusal) -> None:
        order.addinfo(reason=refusal.reason, shortfall=refusal.shortfall, largest_size=refusal.largest_size)
        order.margin()
        self.notify(order)
        self._ococheck(order)
        self._bracketize(order, cancel=True)
        self._forget(order)
        if not self._refusal_printed:
            self._refusal_printed = True
            log.warning("order refused: %s %g %s: %s (further refusals are in broker.events)",
                        "buy" if order.isbuy() else "sell", abs(order.created.size), order.data._name,
                        refusal.reason)

    def cancel(self, order: Any, bracket: bool = False) -> bool:
        done = bool(super().cancel(order, bracket))
        if done and self.margined:
            self._forget(order)
        return done

    def _ococheck(self, order: Any) -> None:
        if not self.margined:
            super()._ococheck(order)
            return
        before = list(self.pending)
        super()._ococheck(order)
        for other in before:
            if other is not None and not other.alive():
                self._forget(other)

    def _forget(self, order: Any) -> None:
        self._orders_by_id.pop(self._id(order), None)
        if self._engine is not None:
            self._engine.cancel(self._id(order))

    # -- one bar ------------------------------------------------------------------------------------------------

    def next(self) -> None:
        if not self.margined:
            super().next()
            return
        bars = self._new_bars()
        if bars and self._engine is None:
            self._engine = self._begin(bars)
        engine = self._engine
        if engine is None:
            return
        while self._cash_addition:
            amount = self._cash_addition.popleft()
            self._fundshares += amount / self._fundval
            engine.deposit(self.p.currency, amount)
        while self._toactivate:
            order = self._toactivate.popleft()
            order.activate()
            if not self._admit(order) and order in self.pending:
                self.pending.remove(order)
        if self.p.checksubmit:
            self.check_submitted()
        candidates = self._match({self._by_symbol[bar.symbol] for bar in bars})
        if bars:
            self._walk(engine, bars, candidates)
        self._tell(engine)
        self._revalue(engine)

    def _new_bars(self) -> list[Bar]:
        bars = []
        for name, data in self._by_symbol.items():
            if not len(data):
                continue
            stamp = data.datetime[0]
            if self._seen.get(name) == stamp and getattr(data, "tick_last", None) is None:
                continue
            self._seen[name] = stamp
            instrument = self.instrument(data)
            bars.append(read_bar(data, name, instrument.is_spot, step_of(data), _to_ms))
        return bars

    def _match(self, moved: set[Any]) -> list[Candidate]:
        """Let backtrader say which orders fill in this bar and at what price; nothing is booked yet."""
        captured: list[Candidate] = []
        self._captured = captured
        try:
            for _ in range(len(self.pending)):
                order = self.pending.popleft()
                if order.expire():
                    self.notify(order)
                    self._ococheck(order)
                    self._bracketize(order, cancel=True)
                    self._forget(order)
                    continue
                self.pending.append(order)
                if order.active() and order.data in moved:
                    self._try_exec(order)
        finally:
            self._captured = None
        return captured

    def _execute(self, order: Any, ago: Any = None, price: Any = None, cash: Any = None, position: Any = None,
                 dtcoc: Any = None) -> Any:
        if not self.margined:
            return super()._execute(order, ago, price, cash, position, dtcoc)
        if self._captured is None or price is None:
            return None
        self._captured.append(self._candidate(order, ago, price, dtcoc))
        return None

    def _candidate(self, order: Any, ago: int, price: float, dtcoc: Any) -> Candidate:
        """When on the bar's path the fill belongs: at the open, at a level, after a stop, or at the close."""
        data, created, kinds = order.data, order.created, bt.Order
        open_ = data.open[0] if getattr(data, "tick_open", None) is None else data.tick_open
        buy = order.isbuy()
        fill = Candidate(order, ago, price, dtcoc, None)
        if order.exectype == kinds.Market:
            fill.at = BEFORE_OPEN if dtcoc is not None else 0.0
            return fill
        if order.exectype == kinds.Close:
            fill.at = 0.0 if ago else float("inf")
            return fill
        if order.exectype == kinds.Limit or (order.exectype in (kinds.StopLimit, kinds.StopTrailLimit)
                                             and order.triggered and order.info.get("armed")):
            limit = created.price if order.exectype == kinds.Limit else created.pricelimit
            rests = order.info.get("seen", False)
            if (buy and open_ <= limit) or (not buy and open_ >= limit):
                fill.maker = rests
            else:
                fill.level, fill.maker = limit, True
            return fill
        stop = created.price
        if (buy and open_ >= stop) or (not buy and open_ <= stop):
            if order.exectype in (kinds.StopLimit, kinds.StopTrailLimit):
                limit = created.pricelimit
                if not ((buy and open_ <= limit) or (not buy and open_ >= limit)):
                    fill.level, fill.maker = limit, True
            return fill
        fill.level = stop
        if order.exectype in (kinds.StopLimit, kinds.StopTrailLimit) and price == created.pricelimit != stop:
            fill.level, fill.after = created.pricelimit, stop
        return fill

    def _walk(self, engine: MarginEngine, bars: list[Bar], candidates: list[Candidate]) -> None:
        """Walk the bar: clock events, the open, then leg by leg with each fill where the price meets it."""
        for fill in candidates:
            if fill.at == BEFORE_OPEN:
                self._fill(engine, fill)
        start = max(engine.market.time, min(bar.open_ms for bar in bars))
        end = max(engine.market.time, max(bar.close_ms for bar in bars))
        self._step(engine, self._market(engine, bars, OPEN, start), jump=True)
        for fill in candidates:
            if fill.at == 0.0 and fill.level is None:
                self._fill(engine, fill)
        low = self._market(engine, bars, LOW, start)
        high = self._market(engine, bars, HIGH, start)
        points = order_of_points(self.p.path, self._hurts_low(engine, low, high))
        by_symbol = {bar.symbol: bar for bar in bars}
        later: list[tuple[float, int, Candidate]] = []
        for i, fill in enumerate(candidates):
            if fill.level is None and fill.at <= 0.0:
                continue
            path = tuple(by_symbol[fill.order.data._name].last[p] for p in points)
            at = float(len(points) - 1)
            if fill.level is not None:
                after = meeting(path, fill.after) if fill.after is not None else 0.0
                at = meeting(path, fill.level, after)
            later.append((at, i, fill))
        later.sort(key=lambda item: item[:2])
        markets = {OPEN: engine.market, LOW: low, HIGH: high, CLOSE: self._market(engine, bars, CLOSE, end)}
        for leg in range(len(points) - 1):
            from_, to = markets[points[leg]], markets[points[leg + 1]]
            while later and later[0][0] <= leg + 1:
                at, _, fill = later.pop(0)
                share = at - leg
                if fill.order.alive():
                    stop_at = from_.toward(to, share) if share < 1 else to
                    if points[leg + 1] == CLOSE and share < 1:
                        stop_at = stop_at.at(start, stop_at.marks, stop_at.lasts)
                    if stop_at.time >= engine.market.time:
                        self._step(engine, stop_at)
                    self._fill(engine, fill)
            self._step(engine, to)
        for order in self.pending:
            order.addinfo(seen=True)
            if order.triggered:
                order.addinfo(armed=True)
        self._last_bars.update(by_symbol)

    def _step(self, engine: MarginEngine, market: Market, jump: bool = False) -> None:
        engine.advance(market, jump=jump)
        self._tell(engine)

    def _hurts_low(self, engine: MarginEngine, low: Market, high: Market) -> bool:
        """True when all lows together leave the account with no more than all highs."""
        from bt_margin.modes.assess import total_equity

        return total_equity(engine.account, low) <= total_equity(engine.account, high)

    def _market(self, engine: MarginEngine, bars: Iterable[Bar], point: int, time: int) -> Market:
        now = engine.market
        marks, lasts, indexes = dict(now.marks), dict(now.lasts), dict(now.indexes)
        for bar in bars:
            lasts[bar.symbol] = bar.last[point]
            if bar.mark is not None:
                marks[bar.symbol] = bar.mark[point]
            else:
                marks.pop(bar.symbol, None)
            if bar.index is not None and point == CLOSE:
                indexes[bar.symbol.partition(":")[0]] = bar.index
        return Market(time, marks, lasts, indexes, now.strict, now.stand_ins)

    # -- fills --------------------------------------------------------------------------------------------------

    def _fill(self, engine: MarginEngine, fill: Candidate) -> None:
        order = fill.order
        if not order.alive() or order not in self.pending:
            return
        if order.info.get("post_only") and not fill.maker:
            self._refused(order, Refusal("post-only order would take liquidity"))
            self._drop(order)
            return
        instrument = self.instrument(order.data)
        size = abs(order.executed.remsize)
        if self.p.filler is not None:
            size = instrument.floor(min(size, abs(self.p.filler(order, fill.price, fill.ago))))
            if size <= 0:
                return
        wanted = self._engine_order(order)
        fee = None
        if not is_symbol(instrument.symbol):
            fee = self.getcommissioninfo(order.data).getcommission(size, fill.price)
        booked = engine.fill(wanted, size, fill.price, maker=fill.maker, fee=fee)
        if isinstance(booked, Refusal):
            self._refused(order, booked)
            self._drop(order)
            self._tell(engine)
            return
        whole = instrument.snap(abs(order.executed.remsize) - size) <= 0
        if wanted.closes and abs(booked.closed) < size:
            whole = True
        self._report_fill(engine, order, fill, booked, whole)
        if order.status == order.Completed:
            self._drop(order)
            self._bracketize(order)
        self._tell(engine)

    def _drop(self, order: Any) -> None:
        """Take a finished order out of the pending ones."""
        self._orders_by_id.pop(self._id(order), None)
        for i, other in enumerate(self.pending):
            if other is order:
                del self.pending[i]
                return

    def _report_fill(self, engine: MarginEngine, order: Any, fill: Candidate, booked: Fill, whole: bool) -> None:
        """Tell backtrader: one execution bit with true sizes, commissions and profit, and a clone notified."""
        key = self._key(order.data, order.info)
        instrument = self.instrument(order.data)
        factor = self._to_currency(engine, instrument)
        owner = (order.owner, order.tradeid)
        closed, opened = self._exact(key, owner, instrument, booked.closed, booked.opened)
        self._execute_bit(
            order, fill.dt or order.data.datetime[fill.ago], key, closed, opened, booked.price,
            booked.pnl * factor, booked.closed_fee * factor, booked.opened_fee * factor, instrument,
        )
        if whole:
            order.executed.remsize = 0.0
            order.status = order.Completed
        self.notify(order)
        self._ococheck(order)

    def _exact(self, key: PositionKey, owner: tuple[Any, Any], instrument: Instrument, closed: float,
               opened: float) -> tuple[float, float]:
        """Sizes as this owner's trade sees them, without dust: what it closes is exactly what it holds.

        In one-way mode another strategy's position may be what the venue closed; the owner's own trade decides
        what is closing and what is opening for it.
        """
        held = self._owned[key].get(owner, 0.0)
        total = closed + opened
        if held * total < 0:
            if abs(total) >= abs(held) or instrument.snap(held + total) == 0.0:
                closed = -held
                opened = instrument.snap(total + held)
            else:
                closed, opened = total, 0.0
        else:
            closed, opened = 0.0, total
        left = held + closed + opened
        left = opened if closed == -held else left
        if left:
            self._owned[key][owner] = left
        else:
            self._owned[key].pop(owner, None)
        return closed, opened

    def _execute_bit(self, order: Any, dt: float, key: PositionKey, closed: float, opened: float, price: float,
                     pnl: float, closed_fee: float, opened_fee: float, instrument: Instrument) -> None:
        info = self.getcommissioninfo(order.data)
        size = closed + opened
        fees = closed_fee + opened_fee
        closed_fee = fees * abs(closed) / (abs(closed) + abs(opened)) if size or closed else fees
        opened_fee = fees - closed_fee
        position = self.positions[order.data]
        entry = position.price
        for held in (position, self._legs.setdefault(key, BtPosition())):
            held.update(size, price, order.data.datetime.datetime())
            held.size = instrument.snap(held.size)
        unit = instrument.contract_size
        order.execute(
            dt, size, price, closed, -closed * unit * entry, closed_fee, opened, opened * unit * price, opened_fee,
            info.get_margin(price) if isinstance(info, MarginCommInfo) else 0.0, pnl, position.size, position.price,
        )
        if isinstance(info, MarginCommInfo) and not instrument.is_spot:
            order.addcomminfo(FillInfo(info, pnl))
        else:
            order.addcomminfo(info)

    def _to_currency(self, engine: MarginEngine, instrument: Instrument) -> float:
        if instrument.settle == self.p.currency:
            return 1.0
        return float(engine.market.usd(instrument.settle)) / float(engine.market.usd(self.p.currency))

    # -- events -------------------------------------------------------------------------------------------------

    def _tell(self, engine: MarginEngine) -> None:
        """Turn what the engine did by itself into orders and calls that strategies see."""
        while self._told < len(engine.events):
            event = engine.events[self._told]
            self._told += 1
            if isinstance(event, Reduced):
                self._forced(engine, event)
            elif isinstance(event, OrdersCancelled):
                for number in event.orders:
                    order = self._orders_by_id.get(number)
                    if order is not None and order.alive():
                        order.addinfo(reason="cancelled before liquidation (insufficient margin)")
                        self.cancel(order)
            for strategy in self.cerebro.runningstrats:
                notify = getattr(strategy, "notify_margin", None)
                if notify is not None:
                    notify(event)

    def _forced(self, engine: MarginEngine, event: Reduced) -> None:
        """A forced trade as ordinary orders, split per owner and trade id so that every trade closes exactly."""
        data = self._by_symbol[event.key.symbol]
        instrument = self.instrument(data)
        factor = self._to_currency(engine, instrument)
        owned = self._owned[event.key]
        shares: list[tuple[tuple[Any, Any], float]] = []
        if event.remaining == 0.0:
            shares = [(owner, -size) for owner, size in owned.items()]
        else:
            left = event.size
            for owner, size in owned.items():
                if size * event.size < 0 and left:
                    part = instrument.snap(max(-abs(size), min(abs(size), left)))
                    shares.append((owner, part))
                    left = instrument.snap(left - part)
        for (owner, tradeid), size in shares:
            share = size / event.size
            kind = BuyOrder if size > 0 else SellOrder
            order = kind(owner=owner, data=data, size=abs(size), exectype=bt.Order.Market, tradeid=tradeid,
                         simulated=True)
            order.addinfo(forced="liquidation", step=event.step, mark=event.price, margin_mode=event.key.margin_mode,
                          position_side=event.key.side, penalty=event.penalty * share * factor)
            self._ocoize(order, None)
            self.orders.append(order)
            order.submit(self)
            self.notify(order)
            order.accept(self)
            self.notify(order)
            closed, opened = self._exact(event.key, (owner, tradeid), instrument, size, 0.0)
            self._execute_bit(order, data.datetime[0], event.key, closed, opened, event.price,
                              event.pnl * share * factor, (event.fee + event.penalty) * share * factor, 0.0,
                              instrument)
            order.executed.remsize = 0.0
            order.status = order.Completed
            self.notify(order)

    def _revalue(self, engine: MarginEngine) -> None:
        unit = float(engine.market.usd(self.p.currency))
        self._value = max(engine.equity_usd() / unit, self.p.min_value)
        self._available = self.cash = engine.available(self.p.currency)
        self._valuelever = self._valuemkt = self._valuemktlever = self._value
        self._fundval = self._value / self._fundshares


def _feed(data: Any) -> Any:
    return data._data if isinstance(data, Leg) else data


def _to_ms(stamp: float) -> int:
    """backtrader's float days as ms since 1970, exact for whole ms."""
    return round((stamp - 719163.0) * 86_400_000)
