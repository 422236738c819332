"""Scripts from a seed: accounts as tight as their leverage makes them, tiers crossed, gaps, funding, orders at rest."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

from tests.oracle.clock import Deleveraging
from tests.oracle.contract import Contract, exact, ms_of
from tests.oracle.scenario import (
    Act,
    AddMargin,
    Cancel,
    FillResting,
    Move,
    Scenario,
    SetLeverage,
    Trade,
    contract_of,
)

HOUR = 3_600_000
TIMES = tuple(ms // (8 * HOUR) * 8 * HOUR for ms in (1_760_000_000_000, 1_722_470_400_000, 1_668_902_400_000))
"""2025-10-09, 2024-08-01, 2022-11-20, on a settlement: no table changes in the twelve days after any of them."""
MARKS = {
    "BTC/USDT:USDT": 110_000.0,
    "ETH/USDT:USDT": 4_000.0,
    "SOL/USDT:USDT": 200.0,
    "XRP/USDT:USDT": 2.5,
    "DOGE/USDT:USDT": 0.2,
    "BTC/USDT:USDT-260327": 112_000.0,
    "BTC/USDT:USDT-260626": 113_000.0,
    "BTC/USD:BTC": 110_000.0,
    "ETH/USD:ETH": 4_000.0,
    "BTC/USD:BTC-260327": 112_000.0,
    "BTC/USD:BTC-260626": 113_000.0,
}


def about(symbol: str) -> float:
    """What a contract costs, about; one that is delivered soon costs what its perpetual does."""
    return MARKS.get(symbol) or MARKS[symbol.partition("-")[0]]


THEMES = (
    ("BTC/USDT:USDT",),
    ("ETH/USDT:USDT", "SOL/USDT:USDT"),
    ("BTC/USDT:USDT", "ETH/USDT:USDT", "DOGE/USDT:USDT", "XRP/USDT:USDT"),
    ("BTC/USD:BTC",),
    ("BTC/USD:BTC", "ETH/USD:ETH"),
    ("BTC/USDT:USDT", "BTC/USD:BTC"),
    ("BTC/USDT:USDT", "BTC/USDT:USDT-260327", "BTC/USDT:USDT-260626"),
    ("BTC/USDT:USDT", "BTC/USDT:USDT-260327", "ETH/USDT:USDT"),
    ("BTC/USD:BTC", "BTC/USD:BTC-260327", "BTC/USD:BTC-260626"),
)
LEVERAGES = (2.0, 3.0, 5.0, 10.0, 20.0, 33.0, 50.0, 75.0, 100.0)



class Writer:
    """`expiry`: of the contracts that are delivered within the script, if there are some."""

    begin_with, length = 4, (3, 12)
    delivers, deleverages = 0.5, 0.12
    """How often a script with futures sees one delivered, how often somebody is deleveraged."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode, self.name = mode, f"{mode} {seed}"
        self.dice = Random(f"oracle {mode} {seed}")
        self.hedge = self.dice.random() < 0.4
        begin = self.dice.choices(TIMES, (6, 2, 2))[0]
        self.start = self.time = begin + self.dice.randrange(8 * HOUR)
        self.expiry = 0
        self.symbols: tuple[str, ...] = self.soon(self.dice.choice(THEMES))
        self.contracts = {symbol: contract_of(symbol, self.time) for symbol in self.symbols}
        level = self.dice.uniform(0.6, 1.4)
        self.first = {symbol: self.tick(symbol, about(symbol) * level) for symbol in self.symbols}
        self.marks = dict(self.first)
        self.cash: dict[str, float] = {}
        self.leverage: dict[tuple[str, str, str], float] = {}
        self.frozen: set[tuple[str, str, str]] = set()  # no openings after a change of leverage
        self.resting: dict[int, Trade] = {}
        self.acts: list[Act] = []
        self.ids = 0

    # ------------------------------------------------------------------ figures

    def tick(self, symbol: str, price: float) -> float:
        contract = self.contracts[symbol]
        return float(max(contract.on_tick(exact(round(price, 8)), True), contract.tick))

    def lots(self, symbol: str, size: float) -> float:
        contract: Contract = self.contracts[symbol]
        return float(max(contract.whole_lots(exact(round(size, 6))), contract.lot))

    def margin_mode(self) -> str:
        return "isolated" if self.mode == "isolated" or self.dice.random() < 0.15 else "cross"

    # ------------------------------------------------------------------ deliveries

    def soon(self, symbols: tuple[str, ...]) -> tuple[str, ...]:
        """At times the last future is one that expires at the next 08:00 UTC but for three hours."""
        if "-" not in symbols[-1] + symbols[min(1, len(symbols) - 1)] or self.dice.random() > self.delivers:
            return symbols
        day = self.day()
        place = max(i for i, symbol in enumerate(symbols) if "-" in symbol)
        stem = symbols[place].partition("-")[0]
        return (*symbols[:place], f"{stem}-{day}", *symbols[place + 1:])

    def day(self) -> str:
        """The day of the delivery, as symbols say it."""
        after = self.start + 3 * HOUR
        self.expiry = after - (after - 8 * HOUR) % (24 * HOUR) + 24 * HOUR
        day = datetime.fromtimestamp(self.expiry / 1000, UTC).strftime("%y%m%d")
        assert ms_of(day) == self.expiry
        return day

    def pace(self, wait: int, jump: bool) -> bool:
        """Time goes on. Bars end before and at a delivery, and none of them jumps in the hour that is averaged,
        for no time at all or some.
        """
        if self.expiry - 2 * HOUR <= self.time < self.expiry:
            wait = max(wait, 60_000)
        then = self.time + wait
        for stop in (self.expiry - 2 * HOUR, self.expiry - HOUR // 2, self.expiry):
            if self.time < stop < then:
                then = stop
                break
        near = self.time < self.expiry and then > self.expiry - 2 * HOUR
        self.time = then
        return jump and not near

    def indexes(self) -> dict[str, float]:
        """What a future is delivered at: the pair of the coin, near the future's mark."""
        return {self.contracts[s].index: round(self.marks[s] * 0.9995, 4) for s in self.symbols
                if self.expiry and self.contracts[s].expiry == self.expiry}

    # ------------------------------------------------------------------ the script

    def scenario(self) -> Scenario:
        for _ in range(self.dice.randint(1, self.begin_with)):
            self.open()
            if self.dice.random() < 0.3:
                self.offset()
        for _ in range(self.dice.randint(*self.length)):
            self.step()
        self.crash()
        while self.time < self.expiry:
            self.move()
        for _ in range(self.dice.randint(1, 4) if self.expiry else 0):
            self.step()
        funding = {symbol: self.rates() for symbol in self.symbols if "-" not in symbol and self.dice.random() < 0.8}
        return Scenario(self.name, self.mode, self.hedge, self.start, self.cash, self.first, funding, tuple(self.acts),
                        deleveraging=self.deleveraging())

    def deleveraging(self) -> tuple[Deleveraging, ...]:
        if self.time == self.start or self.dice.random() > self.deleverages:
            return ()
        symbols = [act.symbol for act in self.acts if isinstance(act, Trade) and ":" in act.symbol]
        if not symbols:
            return ()
        return (Deleveraging(self.dice.randint(self.start + 1, self.time), self.dice.choice(symbols),
                             self.dice.choice((0.3, 0.5, 1.0)), self.dice.choice(("", "", "long", "short"))),)

    def step(self) -> None:
        self.dice.choices(
            (self.move, self.crash, self.open, self.rest, self.meet, self.close, self.cancel, self.top_up,
             self.releverage),
            (8, 2, 1.5, 2.5, 2.5, 1.5, 0.7, 0.8, 0.5))[0]()

    def rates(self) -> tuple[tuple[int, float], ...]:
        first = self.start // (8 * HOUR) * 8 * HOUR + 8 * HOUR
        wild = self.dice.random() < 0.15
        return tuple((time, round(self.dice.gauss(0, 0.02 if wild else 0.0005), 6))
                     for time in range(first, self.time + 1, 8 * HOUR))

    def trade(self, *, rest: bool = False) -> Trade:
        symbol, mode = self.dice.choice(self.symbols), self.margin_mode()
        contract, buy = self.contracts[symbol], self.dice.random() < 0.5
        side = ("long" if buy else "short") if self.hedge else "net"
        key = (symbol, mode, side)
        row = self.dice.choices(range(5), (10, 5, 4, 2, 1))[0]
        low = float(contract.tiers[row - 1].ceiling) if row else 0.0
        high = float(contract.tiers[row].ceiling)
        fitting = [x for x in LEVERAGES if x <= float(contract.tiers[row].leverage)]
        leverage = self.leverage.setdefault(key, self.dice.choice(fitting))
        share = self.dice.choice((self.dice.uniform(0.02, 1.0), 1.0, 0.002))
        size = self.lots(symbol, low + (high - low) * share)
        price = self.near(symbol, buy, rest)
        value = float(contract.value(exact(size), exact(price)))
        enough = value / leverage * self.dice.uniform(1.02, 2.5)
        known = self.cash.get(contract.settle)
        if known is None:
            self.cash[contract.settle] = round(enough, 6)
        elif self.dice.random() < 0.85 and value / leverage > known:
            size = self.lots(symbol, size * known * self.dice.uniform(0.05, 0.9) * leverage / value)
        self.ids += 1
        return Trade(self.ids, symbol, buy, size, price, mode, side, leverage, rest=rest)

    def near(self, symbol: str, buy: bool, rest: bool) -> float:
        """A limit some way off on the passive side, at times beyond the mark; else about the mark."""
        away = self.dice.uniform(0.0, 0.06) if rest else self.dice.choice((0.0, 0.0, self.dice.uniform(-3e-4, 3e-4)))
        if rest and self.dice.random() < 0.15:
            away = -away / 10
        price = self.marks[symbol] * (1 - away if buy else 1 + away)
        return self.tick(symbol, price)

    def open(self) -> None:
        trade = self.trade()
        if (trade.symbol, trade.margin_mode, trade.side) not in self.frozen:
            self.acts.append(trade)

    def offset(self) -> None:
        """Against the last trade: the other side of a hedged contract, or another contract of the coin."""
        if not self.acts or not isinstance(last := self.acts[-1], Trade):
            return
        coin = self.contracts[last.symbol].coin
        others = [s for s in self.symbols if self.contracts[s].coin == coin and s != last.symbol]
        if not self.hedge and not others:
            return
        symbol = last.symbol if self.hedge and (not others or self.dice.random() < 0.6) else self.dice.choice(others)
        side = ("short" if last.buy else "long") if self.hedge else "net"
        key = (symbol, last.margin_mode, side)
        leverage = self.leverage.setdefault(key, last.leverage)
        size = self.lots(symbol, last.size * self.dice.choice((0.3, 0.8, 1.0, 1.3)))
        self.ids += 1
        self.acts.append(Trade(self.ids, symbol, not last.buy, size, self.near(symbol, not last.buy, False),
                               last.margin_mode, side, leverage))

    def rest(self) -> None:
        trade = self.trade(rest=True)
        if (trade.symbol, trade.margin_mode, trade.side) in self.frozen:
            return
        if self.dice.random() < 0.2:
            side = {"long": "short", "short": "long"}.get(trade.side, "net")
            trade = Trade(trade.id, trade.symbol, trade.buy, trade.size, trade.price, trade.margin_mode, side,
                          trade.leverage, trade.side == "net", True)
        self.resting[trade.id] = trade
        self.acts.append(trade)

    def meet(self) -> None:
        """The marks go to the limit of a resting order, and it fills, whole or in part."""
        if not self.resting:
            return
        trade = self.resting[self.dice.choice(sorted(self.resting))]
        limit = self.contracts[trade.symbol].on_tick(exact(trade.price), trade.buy)
        self.acts.append(self.to({**self.marks, trade.symbol: float(limit)}, False))
        part = self.dice.choice((1.0, 1.0, 0.5))
        self.acts.append(FillResting(trade.id, self.lots(trade.symbol, trade.size * part)))
        if part == 1.0:
            del self.resting[trade.id]

    def close(self) -> None:
        """A market order against a position, reduce-only, in part or more than whole."""
        if not self.leverage:
            return
        key = self.dice.choice(sorted(self.leverage))
        symbol, mode, side = key
        buy = {"long": False, "short": True}.get(side, self.dice.random() < 0.5)
        opened = [act.size for act in self.acts if isinstance(act, Trade) and act.symbol == symbol]
        size = self.lots(symbol, self.dice.choice(opened or [1.0]) * self.dice.choice((0.3, 0.5, 1.0, 1.5)))
        self.ids += 1
        self.acts.append(Trade(self.ids, symbol, buy, size, self.near(symbol, buy, False), mode, side,
                               self.leverage[key], side == "net"))

    def cancel(self) -> None:
        if self.resting:
            order_id = self.dice.choice(sorted(self.resting))
            del self.resting[order_id]
            self.acts.append(Cancel(order_id))

    def top_up(self) -> None:
        keys = [key for key in sorted(self.leverage) if key[1] == "isolated"]
        if keys:
            key = self.dice.choice(keys)
            currency = self.contracts[key[0]].settle
            share = self.dice.choice((0.01, 0.05, 0.2, -0.0103, -0.0497))  # never just what was added
            amount = self.cash.get(currency, 0.0) * share
            if round(amount, 6):
                self.acts.append(AddMargin(key, round(amount, 6)))

    def releverage(self) -> None:
        rested = {(t.symbol, t.margin_mode, t.side) for t in self.acts if isinstance(t, Trade) and t.rest}
        keys = [key for key in sorted(self.leverage) if key not in rested]
        if keys:
            key = self.dice.choice(keys)
            self.frozen.add(key)
            self.acts.append(SetLeverage(key, self.dice.choice(LEVERAGES)))

    def move(self) -> None:
        """Everything moves, by about what the leverage can bear; one coin's contracts nearly together."""
        reach = self.dice.choice((0.3, 0.8, 1.2, 2.0)) / max(self.leverage.values(), default=10.0)
        common = self.dice.gauss(0, min(reach, 0.5))
        marks = {}
        for symbol in self.symbols:
            own = self.dice.gauss(0, 0.25 * min(reach, 0.5))
            if self.dice.random() < 0.1:
                own, common_ = 0.0, 0.0
            else:
                common_ = common
            marks[symbol] = self.tick(symbol, self.marks[symbol] * max(0.05, 1 + common_ + own))
        self.acts.append(self.to(marks, self.dice.random() < 0.3))

    def crash(self) -> None:
        """All one way, far enough to end what is leveraged; contracts of a coin may part."""
        away = self.dice.choice((-1, 1)) * self.dice.uniform(0.3, 2.5) / max(self.leverage.values(), default=10.0)
        marks = {}
        for symbol in self.symbols:
            own = away * self.dice.choice((1.0, 1.0, 0.6, -0.2)) * self.dice.uniform(0.8, 1.2)
            marks[symbol] = self.tick(symbol, self.marks[symbol] * max(0.05, 1 + own))
        self.acts.append(self.to(marks, self.dice.random() < 0.3))

    def to(self, marks: dict[str, float], jump: bool, hours: int = 0) -> Move:
        self.marks = marks
        jump = self.pace(self.dice.choice((0, 60_000, HOUR, HOUR, 6 * HOUR, 12 * HOUR)) + hours * HOUR, jump)
        return Move(self.time, dict(marks), jump, self.indexes())
