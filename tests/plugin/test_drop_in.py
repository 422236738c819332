"""MarginBroker() without margin settings is backtrader's own broker, bit for bit.

Every seed makes one scenario: feeds, a broker configuration and strategies that throw all kinds of orders at it. The
same scenario is played with both brokers and everything a user could see is written down as text (`repr` keeps every
bit of a float, tells 0 from 0.0 and lets NaN equal NaN); the two stories have to be the same, line by line.
"""

from __future__ import annotations

import functools
import inspect
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any

import backtrader as bt
import pandas as pd
import pytest
from backtrader.brokers import BackBroker

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.plugin.settings import OWN

SEEDS = range(45)
MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "next": {"runonce": False},
    "live": {"runonce": False, "preload": False},
    "exactbars": {"exactbars": 1},
}
SHAPES = ("one", "two", "three", "clocks", "days", "late", "compensated", "resampled", "replayed")
BARS = 42

# -- a scenario ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feed:
    name: str
    frame: pd.DataFrame
    minutes: int  # 1440: daily bars
    session_end: time | None = None
    turned: str = ""  # resample or replay, into bars of `into` minutes
    into: int = 0


@dataclass(frozen=True)
class Scenario:
    seed: int
    feeds: list[Feed]
    settings: dict[str, Any]
    commissions: dict[str | None, dict[str, Any]]
    cerebro: dict[str, Any]
    traits: set[str]  # what the whole battery has to have seen

    def has(self, trait: str) -> bool:
        return trait in self.traits


def frame(rng: random.Random, price: float, bars: int, minutes: int, start: datetime, holes: float) -> pd.DataFrame:
    """A random walk with gaps between bars, on a tick of 0.01, with missing bars and bars nobody traded in."""
    index, rows = [], []
    for i in range(bars):
        opened = round(price * (1 + rng.gauss(0, 0.003)), 2)
        price = round(opened * (1 + rng.gauss(0, 0.008)), 2)
        high = round(max(opened, price) * (1 + abs(rng.gauss(0, 0.004))), 2)
        low = round(min(opened, price) * (1 - abs(rng.gauss(0, 0.004))), 2)
        if i and rng.random() < holes:
            continue
        index.append(start + i * timedelta(minutes=minutes))
        rows.append((opened, high, low, price, 0.0 if rng.random() < 0.03 else float(rng.randint(5, 300))))
    return pd.DataFrame(rows, index=pd.DatetimeIndex(index), columns=["open", "high", "low", "close", "volume"])


def feeds_of(rng: random.Random, shape: str) -> list[Feed]:
    start = datetime(2024, 3, 4, rng.randint(0, 20))
    ends = rng.choice((None, time(12), time(17, 30)))  # orders of the kind Close wait for the end of a session
    holes = rng.choice((0.0, 0.05))  # without: feeds move together, and stock survives exactbars=1

    def feed(name: str, minutes: int, bars: int = BARS, later: int = 0, turned: str = "", into: int = 0) -> Feed:
        price = 95.0 if shape == "compensated" else rng.choice((8.0, 95.0, 400.0))  # a pair has one price level
        made = frame(rng, price, bars, minutes, start + timedelta(minutes=later), holes)
        return Feed(name, made, minutes, None if minutes == 1440 else ends, turned, into)

    if shape == "clocks":
        return [feed("A", 15), feed("B", 60, BARS // 4)] if rng.random() < 0.5 else [feed("B", 60, 40), feed("A", 15)]
    if shape == "days":
        return [feed("A", 1440, 60)] if rng.random() < 0.3 else [feed("A", 240), feed("B", 1440, BARS // 6)]
    if shape == "late":
        return [feed("A", 15), feed("B", 15, later=15 * 20), feed("C", 15, 30)]
    if shape == "resampled":
        return [feed("A", 15), feed("B", 15, turned="resample", into=60)]
    if shape == "replayed":
        return [feed("A", 15, turned="replay", into=60), feed("B", 15)]
    step = rng.choice((15, 60, 240))
    return [feed(name, step) for name in {"one": "A", "three": "ABC"}.get(shape, "AB")]


COMMISSIONS: dict[str, dict[str, Any]] = {
    "percent": {"commission": 0.001},
    "percent in hundredths": {"commission": 0.1, "percabs": False, "commtype": bt.CommInfoBase.COMM_PERC,
                              "stocklike": True},
    "fixed": {"commission": 0.75, "commtype": bt.CommInfoBase.COMM_FIXED, "stocklike": True},
    "futures": {"commission": 1.5, "margin": 450.0, "mult": 10.0},
    "futures, automargin": {"commission": 0.0005, "margin": 1.0, "mult": 5.0, "automargin": 0.7,
                            "commtype": bt.CommInfoBase.COMM_PERC},
    "leverage": {"commission": 0.0004, "leverage": 5.0},
    "interest": {"commission": 0.001, "interest": 0.9},
    "interest on both sides": {"commission": 0.001, "interest": 0.6, "interest_long": True},
}
FILLERS: dict[str, Callable[[], Any]] = {
    "FixedSize": lambda: bt.broker.fillers.FixedSize(size=6),
    "FixedBarPerc": lambda: bt.broker.fillers.FixedBarPerc(perc=5.0),
    "BarPointPerc": lambda: bt.broker.fillers.BarPointPerc(minmov=0.5, perc=60.0),
}


@functools.cache
def scenario(seed: int) -> Scenario:
    rng = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    feeds = feeds_of(rng, shape)
    settings: dict[str, Any] = {"cash": rng.choice((6_000.0, 10_000.0, 25_000, 12_345.67))}
    traits = {shape}

    def maybe(trait: str, chance: float) -> bool:
        if rng.random() >= chance:
            return False
        traits.add(trait)
        return True

    if maybe("slip_perc", 0.35):
        settings["slip_perc"] = rng.choice((0.0007, 0.004))
    elif maybe("slip_fixed", 0.4):
        settings["slip_fixed"] = rng.choice((0.03, 0.5))
    if "slip_perc" in settings or "slip_fixed" in settings:
        settings |= {"slip_open": maybe("slip_open", 0.6), "slip_out": maybe("slip_out", 0.3),
                     "slip_match": not maybe("no slip_match", 0.4), "slip_limit": not maybe("no slip_limit", 0.4)}
    if maybe("filler", 0.4):
        name = rng.choice(sorted(FILLERS))
        traits.add(name)
        settings["filler"] = FILLERS[name]()
    for name, value, chance in (
        ("coc", True, 0.15), ("coo", True, 0.15), ("checksubmit", False, 0.25), ("shortcash", False, 0.25),
        ("int2pnl", False, 0.25), ("fundmode", True, 0.3), ("eosbar", True, 0.25), ("fundstartval", 37.5, 0.2),
    ):
        if maybe(name, chance):
            settings[name] = value
    commissions: dict[str | None, dict[str, Any]] = {}
    for name in (None, rng.choice(feeds).name):
        kind = rng.choice(["none", *COMMISSIONS])
        traits.add(kind)
        if kind != "none":
            commissions[name] = COMMISSIONS[kind]
    for trait, chance in (
        ("setters", 0.4), ("two strategies", 0.15), ("observers", 0.15), ("sizer", 0.4), ("timer", 0.2),
        ("notified at once", 0.2), ("trade ids", 0.3),
    ):
        maybe(trait, chance)
    cerebro = {
        "stdstats": "observers" in traits, "cheat_on_open": "coo" in traits,
        "quicknotify": "notified at once" in traits,
    }
    return Scenario(seed, feeds, settings, commissions, cerebro, traits)


# -- what is written down -----------------------------------------------------------------------------------------


@dataclass
class Story:
    """Everything seen in one run, and a count of what happened to which kind of order."""

    lines: list[str] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    error: BaseException | None = None

    def tell(self, *what: Any) -> None:
        self.lines.append(" ".join(one if isinstance(one, str) else repr(one) for one in what))


LINKS = {"p", "params", "owner", "data", "broker", "comminfo", "created", "executed", "ref", "parent", "oco", "history"}
"""Attributes of orders and trades that lead to other objects; those are told apart."""


def facts(thing: Any, but: set[str] = LINKS) -> dict[str, Any]:
    return {name: value for name, value in vars(thing).items() if name not in but}


def order_facts(order: Any, first: int) -> list[Any]:
    """An order's numbers, and the executions a notification is about."""
    info = order.comminfo
    return [
        order.ref - first, order.getstatusname(), order.getordername(), order.ordtypename(), order.alive(),
        order.data._name, order.tradeid, order.price, order.pricelimit, order.trailamount, order.trailpercent,
        order.transmit, order.parent and order.parent.ref - first, facts(order), facts(order.created, {"exbits"}),
        facts(order.executed, {"exbits"}), [facts(bit) for bit in order.executed.getpending()],
        info and [type(info).__name__, info.margin, info.stocklike, info.get_leverage()],
    ]


def first_difference(stock: Story, ours: Story) -> str | None:
    """None when the stories are the same; else where they part."""
    if stock.lines == ours.lines:
        return None
    for i, (a, b) in enumerate(zip(stock.lines, ours.lines, strict=False)):
        if a != b:
            at = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            cut = slice(max(0, at - 90), at + 60)  # a line may be long: where it parts, and how it begins
            return f"line {i}, {a[:40]} ...\nstock ...{a[cut]}\nours  ...{b[cut]}"
    return f"stock has {len(stock.lines)} lines, ours {len(ours.lines)}"


# -- a strategy that does everything ------------------------------------------------------------------------------

KINDS = ("Market", "Close", "Limit", "Stop", "StopLimit", "StopTrail", "StopTrailLimit")
ACTIONS: dict[str, float] = {
    "Market": 3, "Close": 3, "Limit": 4, "Stop": 3, "StopLimit": 3, "trail amount": 2, "trail percent": 2,
    "StopTrailLimit": 3, "oco": 2, "bracket": 3, "target size": 1, "target value": 1, "target percent": 1, "flat": 2,
    "cancel": 3, "sized": 1, "positional": 1, "cash": 0.6,
}


class Trader(bt.Strategy):
    """Random orders from its own generator; asks the broker for everything on every bar."""

    params = (("seed", 0), ("index", 0), ("story", None), ("timer", False), ("on_open", False),
              ("closes", True), ("ids", (0,)))

    def __init__(self) -> None:
        self.rng = random.Random(self.p.seed * 10 + self.p.index)
        # both counters run on through the whole process: only distances from here on are the run's own
        self.first, self.first_trade = next(bt.Order.refbasis), next(bt.Trade.refbasis)
        self.tags: dict[int, str] = {}
        if self.p.timer:
            self.add_timer(bt.timer.SESSION_START, cheat=True)

    def tell(self, *what: Any) -> None:
        if self.p.story is not None:
            self.p.story.tell(str(self.p.index), *what)

    # what backtrader calls

    def start(self) -> None:
        self.tell("start", self.broker.getvalue(), self.broker.getcash(), self.broker.startingcash)

    def prenext(self) -> None:
        self.next()

    def next(self) -> None:
        self.look()
        if not self.p.on_open or self.rng.random() < 0.3:
            self.act()

    def prenext_open(self) -> None:
        self.next_open()

    def next_open(self) -> None:
        if self.p.on_open:
            self.act()

    def notify_timer(self, timer: Any, when: Any, *args: Any, **kwargs: Any) -> None:
        self.tell("timer", when)
        if self.rng.random() < 0.5:
            self.act()

    def notify_order(self, order: Any) -> None:
        self.tell("order", *order_facts(order, self.first))
        if self.p.story is not None:
            for kind in {order.getordername(), self.tags.get(order.ref, "")}:
                self.p.story.tally[f"{kind} {order.getstatusname()}"] += 1

    def notify_trade(self, trade: Any) -> None:
        self.tell("trade", trade.ref - self.first_trade, trade.data._name, facts(trade))
        if self.p.story is not None and trade.isclosed:
            self.p.story.tally["trade closed"] += 1

    def notify_cashvalue(self, cash: float, value: float) -> None:
        self.tell("cashvalue", cash, value)

    def notify_fund(self, cash: float, value: float, fundvalue: float, shares: float) -> None:
        self.tell("fund", cash, value, fundvalue, shares)

    # what it does

    def running(self) -> list[Any]:
        return [data for data in self.datas if len(data)]

    def look(self) -> None:
        broker, datas = self.broker, self.running()
        self.tell(
            "account", [len(data) for data in self.datas], broker.getvalue(), broker.get_value(), broker.getcash(),
            broker.get_cash(), broker.get_value(mkt=True), broker.get_value(lever=True), broker.get_value(None, 1, 1),
            broker.get_value_lever(), broker.get_leverage(), broker.fundvalue, broker.get_fundvalue(),
            broker.fundshares, broker.fundmode, broker._unrealized, broker.startingcash,
            [order.ref - self.first for order in broker.get_orders_open()],
        )
        for data in datas:
            position = broker.getposition(data)
            self.tell(
                "position", data._name, facts(position), position.size, position.price,
                self.getposition(data).size, broker.getvalue([data]), broker.get_value([data], lever=True),
                broker.d_credit.get(data), broker.getcommissioninfo(data).get_margin(data.close[0]),
            )
        if len(datas) == len(self.datas):  # asking for some of many feeds overwrites the account's value: for all only
            self.tell("together", broker.getvalue(self.datas), broker.getvalue(self.datas, lever=True))

    def act(self) -> None:
        if self.broker.getvalue() < self.broker.startingcash / 2:
            self.broker.add_cash(2 * self.broker.startingcash)  # VWR divides by zero for who ends with debts
        for data in self.running():
            if self.rng.random() < 0.5 and abs(self.getposition(data).size) > 60:
                self.remember("flat", self.close(data=data))
            while self.rng.random() < 0.4:
                action = self.rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
                if action != "Close" or self.p.closes:
                    self.do(action, data)

    def remember(self, tag: str, *orders: Any) -> None:
        for order in orders:
            if order is not None:
                self.tags[order.ref] = tag
                self.tell("placed", tag, order.ref - self.first)

    def size(self) -> float:
        return self.rng.choice((1, 2, 4, 9, 0.3, 3.75, 12.1, 1 / 3, 25)) * (8 if self.rng.random() < 0.03 else 1)

    def valid(self, data: Any) -> Any:
        rng = self.rng
        length = timedelta(minutes=rng.choice((20, 90, 600, 5000)))
        return rng.choice((None, None, None, length, data.datetime.datetime(0) + length, bt.Order.DAY))

    def priced(self, kind: str, data: Any, up: int) -> dict[str, Any]:
        """Prices for one kind of order; `up`: 1 for a buy, -1 for a sell."""
        rng, close = self.rng, data.close[0]
        away = close * rng.choice((-0.002, 0.001, 0.004, 0.012))
        if kind == "Limit":
            return {"exectype": bt.Order.Limit, "price": close - up * away}
        if kind == "Stop":
            return {"exectype": bt.Order.Stop, "price": close + up * away}
        if kind == "StopLimit":
            stop = close + up * away
            return {"exectype": bt.Order.StopLimit, "price": stop, "plimit": stop + up * close * rng.gauss(0, 0.004)}
        if kind == "trail amount":
            return {"exectype": bt.Order.StopTrail, "trailamount": abs(away)}
        if kind == "trail percent":
            return {"exectype": bt.Order.StopTrail, "trailpercent": rng.choice((0.002, 0.01))}
        if kind == "StopTrailLimit":
            trail = rng.choice(({"trailamount": abs(away)}, {"trailpercent": 0.006}))
            return {"exectype": bt.Order.StopTrailLimit, "price": close, "plimit": close + up * away, **trail}
        return {"exectype": getattr(bt.Order, kind)}

    def do(self, action: str, data: Any) -> None:
        rng, close = self.rng, data.close[0]
        up = rng.choice((1, -1))
        place = self.buy if up == 1 else self.sell
        tradeid = rng.choice(self.p.ids)
        if action == "oco":
            first = place(data=data, size=self.size(), tradeid=tradeid, **self.priced("Limit", data, up))
            more = [
                place(data=data, size=self.size(), oco=first, valid=self.valid(data), **self.priced(kind, data, up))
                for kind in rng.sample(("Limit", "Stop", "StopLimit", "trail amount"), rng.randint(1, 2))
            ]
            self.remember("oco", first, *more)
        elif action == "bracket":
            self.remember("bracket", *self.bracket(data, up))
        elif action.startswith("target"):
            target = {"target size": rng.randint(-15, 15), "target value": rng.uniform(-2000, 4000),
                      "target percent": rng.uniform(-0.3, 0.6)}[action]
            name = action.replace(" ", "_")
            self.remember(action, getattr(self, f"order_{name}")(data=data, target=target))
        elif action == "flat":
            self.remember(action, self.close(data=data, tradeid=tradeid))
        elif action == "cancel":
            if waiting := self.broker.get_orders_open(safe=rng.random() < 0.3):
                chosen = rng.choice(waiting)
                self.tell("cancel", chosen.ref - self.first, self.broker.cancel(chosen), chosen.getstatusname())
        elif action == "cash":
            amount = rng.choice((-300.0, 450, 1111.11))
            self.broker.add_cash(amount)
            self.tell("cash", amount)
        elif action == "sized":  # the sizer, which asks the broker, decides
            self.remember(action, place(data=data, valid=self.valid(data), tradeid=tradeid))
        elif action == "positional":  # straight to the broker, in the stock order of arguments
            straight = self.broker.buy if up == 1 else self.broker.sell
            prices = (close * (1 - up * 0.002), None, bt.Order.Limit, None, tradeid, None, None, None, None, True)
            self.remember(action, straight(self, data, self.size(), *prices, False, rng.random() < 0.7, note="mine"))
        else:
            options = {"coc": False} if rng.random() < 0.3 else {}
            self.remember(action, place(
                data=data, size=self.size(), valid=self.valid(data), tradeid=tradeid,
                **self.priced(action, data, up), **options,
            ))

    def bracket(self, data: Any, up: int) -> list[Any]:
        rng, close = self.rng, data.close[0]
        entry = close * (1 - up * rng.choice((-0.001, 0.001, 0.004)))
        options: dict[str, Any] = {
            "price": entry, "stopprice": entry * (1 - up * 0.01), "limitprice": entry * (1 + up * 0.008),
        }
        variant = rng.choice(("limit", "market", "trail", "no limit", "stop limit"))
        if variant == "market":
            options |= {"exectype": bt.Order.Market, "price": None}
        elif variant == "trail":
            options |= {"stopexec": bt.Order.StopTrail, "stopargs": {"trailpercent": 0.008}}
        elif variant == "no limit":
            options |= {"limitexec": None, "valid": timedelta(minutes=200)}
        elif variant == "stop limit":
            options |= {"stopexec": bt.Order.StopLimit, "stopargs": {"plimit": entry * (1 - up * 0.012)}}
        return (self.buy_bracket if up == 1 else self.sell_bracket)(data=data, size=self.size(), **options)


# -- one run ------------------------------------------------------------------------------------------------------

ANALYZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "trades": (bt.analyzers.TradeAnalyzer, {}),
    "drawdown": (bt.analyzers.DrawDown, {}),
    "returns": (bt.analyzers.Returns, {"timeframe": bt.TimeFrame.Days}),
    "time return": (bt.analyzers.TimeReturn, {"timeframe": bt.TimeFrame.Days}),
    "time return of the fund": (bt.analyzers.TimeReturn, {"timeframe": bt.TimeFrame.Days, "fund": True}),
    "transactions": (bt.analyzers.Transactions, {}),
    "positions": (bt.analyzers.PositionsValue, {"headers": True, "cash": True}),
    "leverage": (bt.analyzers.GrossLeverage, {}),
    "sqn": (bt.analyzers.SQN, {}),
    "vwr": (bt.analyzers.VWR, {"timeframe": bt.TimeFrame.Days}),
    "time drawdown": (bt.analyzers.TimeDrawDown, {"timeframe": bt.TimeFrame.Days}),
}


def add_feeds(cerebro: Any, feeds: list[Feed]) -> None:
    """Fresh feeds over the same frames: a feed remembers where it stands."""
    for feed in feeds:
        more = {"sessionend": feed.session_end} if feed.session_end else {}
        unit, count = (bt.TimeFrame.Days, 1) if feed.minutes == 1440 else (bt.TimeFrame.Minutes, feed.minutes)
        data = bt.feeds.PandasData(dataname=feed.frame, timeframe=unit, compression=count, **more)
        if feed.turned:
            turn = cerebro.resampledata if feed.turned == "resample" else cerebro.replaydata
            turn(data, name=feed.name, timeframe=bt.TimeFrame.Minutes, compression=feed.into)
        else:
            cerebro.adddata(data, name=feed.name)


def configured(broker_class: Any, case: Scenario) -> Any:
    """The same settings through the constructor or through the setters, as scripts do it."""
    settings = dict(case.settings)
    if not case.has("setters"):
        broker = broker_class(**settings)
    else:
        if "fundstartval" in settings:  # its setter comes with the fund mode, below
            settings.setdefault("fundmode", False)
        broker = broker_class()
        broker.setcash(settings.pop("cash"))
        perc, fixed = settings.pop("slip_perc", None), settings.pop("slip_fixed", None)
        flags = {name: settings.pop(name) for name in list(settings) if name.startswith("slip_")}
        if perc:
            broker.set_slippage_perc(perc, **flags)
        elif fixed:
            broker.set_slippage_fixed(fixed, **flags)
        start = settings.pop("fundstartval", None)
        for name, value in settings.items():
            if name == "fundmode":
                broker.set_fundmode(value, start)
            else:
                getattr(broker, f"set_{name}")(value)
    for name, commission in case.commissions.items():
        if case.seed % 2:
            broker.setcommission(**commission, name=name)
        else:  # the same as an object
            broker.addcommissioninfo(bt.CommInfoBase(**{"percabs": True, **commission}), name=name)
    return broker


def prepared(case: Scenario, broker_class: Any, story: Story | None, mode: str = "default") -> Any:
    cerebro = bt.Cerebro(**case.cerebro, **MODES[mode])
    broker = configured(broker_class, case)
    cerebro.setbroker(broker)
    assert cerebro.broker is broker
    assert type(broker) is broker_class
    add_feeds(cerebro, case.feeds)
    if case.has("compensated"):  # what B trades is booked on A
        cerebro.datas[1].compensate(cerebro.datas[0])
    if case.has("sizer"):
        cerebro.addsizer(bt.sizers.PercentSizer, percents=7)
    for name, (analyzer, options) in ANALYZERS.items():
        cerebro.addanalyzer(analyzer, _name=name, **options)
    for index in range(2 if case.has("two strategies") else 1):
        cerebro.addstrategy(
            Trader, seed=case.seed, index=index, story=story, timer=case.has("timer"), on_open=case.has("coo"),
            ids=(0, 0, 1) if case.has("trade ids") else (0,),
            # stock fills most orders of the kind Close in the bar before, which exactbars=1 has thrown away: it raises
            closes=mode != "exactbars" or case.seed % 4 == 0,
        )
    return cerebro


def run(cerebro: Any, story: Story) -> None:
    """Run and write down what is left at the end. A run that stock cannot finish ends with the error's type."""
    first = next(bt.Order.refbasis)
    try:
        strategies = cerebro.run()
    except Exception as error:  # whatever it is: the other broker has to raise it too
        story.error = error
        story.tell("raised", type(error).__name__)
        strategies = []
    for strategy in strategies:
        for name, analyzer in strategy.analyzers.getitems():
            story.tell("analyzer", name, analyzer.get_analysis())
        for observer in strategy.observers:
            story.tell("observer", type(observer).__name__, [list(line.array) for line in observer.lines])
    broker = cerebro.broker
    story.tell("cash at the end", broker.getcash(), broker.getvalue(), broker.fundvalue, broker.fundshares)
    for order in broker.orders:
        story.tell("sent", *order_facts(order, first), [facts(bit) for bit in order.executed.exbits])
    story.tell("left", [order and order.ref - first for order in broker.pending])  # None: cut off within a bar
    for data, position in broker.positions.items():
        story.tell("held", data._name, facts(position), broker.d_credit.get(data))


def play(case: Scenario, broker_class: Any, mode: str = "default", times: int = 1) -> Story:
    story = Story()
    cerebro = prepared(case, broker_class, story, mode)
    for _ in range(times):
        run(cerebro, story)
    return story


# -- the battery --------------------------------------------------------------------------------------------------

SEEN: dict[int, Counter[str]] = {}
"""By seed: what happened in the default run, kept for the test that the battery is not empty."""
NEVER = "Market Expired"  # stock fills a market order come what may
TRAITS = (
    "slip_perc", "slip_fixed", "slip_open", "slip_out", "no slip_match", "no slip_limit", "coc", "coo", "checksubmit",
    "shortcash", "int2pnl", "fundmode", "eosbar", "fundstartval", "setters", "two strategies", "observers", "sizer",
    "timer", "notified at once", "trade ids",
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_without_margin_settings_it_is_the_stock_broker(seed: int, mode: str) -> None:
    case = scenario(seed)
    stock, ours = play(case, BackBroker, mode), play(case, MarginBroker, mode)
    assert first_difference(stock, ours) is None
    assert stock.tally == ours.tally
    # with one bar in memory stock stumbles wherever feeds do not move together; nowhere else
    assert stock.error is None or (mode == "exactbars" and not case.has("one"))
    if mode == "default":
        SEEN[seed] = ours.tally


def test_the_battery_has_seen_every_order_end_in_every_way() -> None:
    tally: Counter[str] = Counter()
    for seed in SEEDS:  # a worker that was given other seeds plays the missing ones
        tally += SEEN[seed] if seed in SEEN else play(scenario(seed), MarginBroker).tally
    statuses = ("Submitted", "Accepted", "Partial", "Completed", "Canceled", "Expired", "Margin", "Rejected")
    wanted = {f"{kind} Completed" for kind in (*KINDS, *ACTIONS) if kind not in ("cancel", "cash")}
    wanted |= {f"{kind} {status}" for kind in KINDS for status in statuses[2:7] if f"{kind} {status}" != NEVER}
    wanted |= {f"{tag} {status}" for tag in ("oco", "bracket") for status in statuses[2:7]} | {"bracket Rejected"}
    assert {what for what in wanted if tally[what] < 3} == set()
    assert tally["trade closed"] > 100
    traits = set().union(*(scenario(seed).traits for seed in SEEDS))
    assert traits >= {*SHAPES, *COMMISSIONS, *FILLERS, *TRAITS}


class NudgesOnePrice(BackBroker):
    """Adds 1e-9 to the third fill's price."""

    fills = 0

    def _execute(self, order: Any, ago: Any = None, price: Any = None, **more: Any) -> Any:
        filled = order.executed.size
        if price is not None and self.fills == 2:
            price += 1e-9
        answer = super()._execute(order, ago, price, **more)
        self.fills += order.executed.size != filled
        return answer


class LosesOneNotice(BackBroker):
    """Forgets to tell a strategy about one change of an order."""

    notices = 0

    def notify(self, order: Any) -> None:
        self.notices += 1
        if self.notices != 20:
            super().notify(order)


class RoundsCash(BackBroker):
    """One bit of the cash, on one bar."""

    bars = 0

    def next(self) -> None:
        super().next()
        self.bars += 1
        if self.bars == 12:
            self.cash = math.nextafter(self.cash, math.inf)


@pytest.mark.parametrize("broken", [NudgesOnePrice, LosesOneNotice, RoundsCash])
@pytest.mark.parametrize("seed", [0, 1, 7, 8])
def test_a_broken_broker_is_caught(seed: int, broken: type) -> None:
    case = scenario(seed)
    assert first_difference(play(case, BackBroker), play(case, broken)) is not None


@pytest.mark.parametrize("seed", [1, 5, 8, 15])
def test_a_second_run_starts_over_as_in_stock(seed: int) -> None:
    case = scenario(seed)
    stock, ours = play(case, BackBroker, times=2), play(case, MarginBroker, times=2)
    assert len([line for line in ours.lines if line.startswith("cash at the end")]) == 2
    assert first_difference(stock, ours) is None


@pytest.mark.parametrize("cpus", [1, 2])
def test_optimising_gives_what_stock_gives(cpus: int) -> None:
    def optimised(broker_class: Any) -> str:
        cerebro = bt.Cerebro(maxcpus=cpus, stdstats=False)
        cerebro.setbroker(configured(broker_class, scenario(1)))
        add_feeds(cerebro, scenario(1).feeds)
        for name, (analyzer, options) in ANALYZERS.items():
            cerebro.addanalyzer(analyzer, _name=name, **options)
        cerebro.optstrategy(Trader, seed=[3, 4, 5])
        return repr([
            [(name, analyzer.get_analysis()) for name, analyzer in strategy.analyzers.getitems()]
            for strategies in cerebro.run() for strategy in strategies
        ])

    stock = optimised(BackBroker)
    assert stock == optimised(MarginBroker)
    assert "transactions" in stock


# -- histories ----------------------------------------------------------------------------------------------------


def with_history(broker_class: Any, seed: int, mode: str, told: Callable[[Any, Scenario], None]) -> Story:
    case, story = scenario(seed), Story()
    cerebro = prepared(case, broker_class, story, mode)
    told(cerebro, case)
    run(cerebro, story)
    return story


def order_history(case: Scenario, rng: random.Random) -> list[list[Any]]:
    """Trades of the past in every notation stock reads: times as datetime, date and text, feeds by place and name."""
    rows: list[list[Any]] = []
    for when in case.feeds[0].frame.index[5:40:3]:
        moment = when.to_pydatetime()
        at = rng.choice((moment, moment.isoformat(), moment.isoformat() + ".000001", moment.date(), str(moment.date())))
        row = [at, rng.choice((3, -2, 1.5, -4)), round(rng.uniform(80, 120), 2)]
        rows.append(row + rng.choice(([], [0], [case.feeds[-1].name])))
    return rows


def fund_history(case: Scenario, rng: random.Random) -> list[list[Any]]:
    value, rows = 100.0, []
    for when in case.feeds[0].frame.index[::7]:
        value *= rng.uniform(0.97, 1.04)
        moment = when.to_pydatetime()
        rows.append([rng.choice((moment, moment.isoformat(), moment.date())), value, value * 123.0])
    return rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("notify", [True, False], ids=["told", "quiet"])
@pytest.mark.parametrize(("seed", "direct"), [(0, False), (1, True), (10, False)])
def test_an_order_history_is_replayed_as_in_stock(seed: int, direct: bool, notify: bool, mode: str) -> None:
    def told(cerebro: Any, case: Scenario) -> None:
        rng = random.Random(seed)
        for _ in range(2):  # more than one may be given
            (cerebro.broker if direct else cerebro).add_order_history(order_history(case, rng), notify)

    stock, ours = (with_history(broker, seed, mode, told) for broker in (BackBroker, MarginBroker))
    assert first_difference(stock, ours) is None
    assert (ours.tally["Historical Completed"] > 5) == notify
    if mode == "default":  # told or not, it trades
        assert first_difference(play(scenario(seed), MarginBroker), ours) is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("seed", "direct"), [(0, False), (1, True)])
def test_a_fund_history_is_followed_as_in_stock(seed: int, direct: bool, mode: str) -> None:
    def told(cerebro: Any, case: Scenario) -> None:
        (cerebro.broker if direct else cerebro).set_fund_history(fund_history(case, random.Random(seed)))

    stock, ours = (with_history(broker, seed, mode, told) for broker in (BackBroker, MarginBroker))
    assert first_difference(stock, ours) is None
    if mode == "default":  # stock keeps the clock that fund histories need in its bar-by-bar runs only
        assert type(stock.error) is type(ours.error) is AttributeError
        return
    assert ours.error is None
    for row in fund_history(scenario(seed), random.Random(seed))[:5]:  # strategies see the fund's own values
        assert any(line.startswith("0 fund") and f" {row[2]!r} {row[1]!r} " in line for line in ours.lines)


# -- the way in ---------------------------------------------------------------------------------------------------

STOCK_SETTINGS: dict[str, Any] = {
    "commission": bt.CommInfoBase(commission=0.01, percabs=True), "cash": 4321.0, "checksubmit": False, "eosbar": True,
    "filler": bt.broker.fillers.FixedSize(size=3), "slip_perc": 0.01, "slip_fixed": 0.5, "slip_open": True,
    "slip_match": False, "slip_limit": False, "slip_out": True, "coc": True, "coo": True, "int2pnl": False,
    "shortcash": False, "fundstartval": 50.0, "fundmode": True,
}


def test_every_stock_parameter_is_known_by_its_name_and_has_its_default() -> None:
    defaults = BackBroker.params._getpairs()
    assert STOCK_SETTINGS.keys() == defaults.keys()
    ours = MarginBroker.params._getpairs()
    assert {name: ours[name] for name in defaults} == dict(defaults)
    assert ours.keys() - defaults.keys() == OWN.keys()


@pytest.mark.parametrize("name", STOCK_SETTINGS)
def test_every_stock_parameter_is_accepted(name: str) -> None:
    value = STOCK_SETTINGS[name]
    broker, stock = MarginBroker(**{name: value}), BackBroker(**{name: value})
    assert getattr(broker.p, name) == getattr(stock.p, name) == value
    for of in (broker, stock):
        assert of.comminfo[None] is of.p.commission
    assert (broker.getcash(), broker.getvalue(), broker.fundvalue, broker.fundshares, broker.fundmode) == (
        stock.getcash(), stock.getvalue(), stock.fundvalue, stock.fundshares, stock.fundmode
    )


def test_all_stock_parameters_are_accepted_together() -> None:
    broker = MarginBroker(**STOCK_SETTINGS)
    assert {name: getattr(broker.p, name) for name in STOCK_SETTINGS} == STOCK_SETTINGS


def test_an_unknown_parameter_is_refused_as_in_stock() -> None:
    for broker in (BackBroker, MarginBroker):
        with pytest.raises(TypeError):
            broker(levrage=3)


def test_every_stock_method_takes_its_stock_arguments() -> None:
    for name, method in inspect.getmembers(BackBroker, inspect.isfunction):
        stock = inspect.signature(method).parameters.values()
        named = [one for one in stock if one.kind is one.POSITIONAL_OR_KEYWORD]
        ours = inspect.signature(getattr(MarginBroker, name))
        ours.bind(**{one.name: None for one in named})
        ours.bind(*named)
        for one in named:
            if one.name in ours.parameters:
                assert ours.parameters[one.name].default == one.default, f"{name}({one.name})"


@pytest.mark.parametrize(
    "settings",
    [
        {"leverage": 3}, {"path": "ohlc"}, {"cash": {"USDT": 1}}, {"currency": "USDC"}, {"rules_as_of": "2025-01-01"},
        {"extrapolate": "never"}, {"position_mode": "hedge"}, {"fees": {}}, {"instruments": {}}, {"slippage": 0.01},
        {"strict": True}, {"min_value": 1.0}, {"rules": "okx"}, {"cash": {"USDT": 1}, "leverage": 3},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_margin_settings_without_a_mode_are_refused(settings: Mapping[str, Any]) -> None:
    with pytest.raises(InputError, match="mode: expected one of isolated, cross"):
        MarginBroker(**settings)


def test_a_margin_wallet_set_later_is_refused_without_a_mode() -> None:
    with pytest.raises(InputError, match="mode: expected one of isolated, cross"):
        MarginBroker().setcash({"USDT": 1})
