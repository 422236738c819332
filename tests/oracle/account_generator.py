"""Scripts for an account that stands behind its debts: coins at a discount, spot on credit, contracts, interest."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.oracle.chain import Chain
from tests.oracle.contract import exact
from tests.oracle.generator import LEVERAGES, Writer, about
from tests.oracle.multi_currency import BorrowRow, Terms
from tests.oracle.scenario import BOOK, FillResting, Move, Scenario, Trade, spot_of

COINS = {"BTC": 110_000.0, "ETH": 4_000.0, "SOL": 200.0, "USDT": 1.0}
SPOT = tuple(f"{coin}/USDT" for coin in ("BTC", "ETH", "SOL"))
SWITCH, ALONE_UNTIL = 1_742_947_200_000, 1_753_833_600_000
"""2025-03-26: collateral may be switched off; 2025-07-30: isolated contracts end (multi-currency, section 10)."""
EXPIRIES = ((1_760_000_000_000, ("251128", "260327", "260925")), (1_722_470_400_000, ("240927", "250328")),
            (1_668_902_400_000, ("230127", "230630")))
"""Two or three deliveries, far enough behind each beginning that no script meets one."""
SHORT_FALLS = (0.1, 0.18, 0.25, 0.28)
"""Where there are options: their marks go straight with the rest, and on longer ways, in coin while the coin falls,
they would leave what a vol can explain."""
SETTINGS = (2.0, 3.0, 5.0, 8.0)
ENDLESS = exact(10**15)
"""The last borrow tier: no loss leaves the table."""
BEST = {"USDT": 1.0, "BTC": 0.98, "ETH": 0.97, "SOL": 0.9}


def expiries_of(time: int) -> tuple[str, ...]:
    return min(EXPIRIES, key=lambda row: abs(row[0] - time))[1]


class AccountWriter(Writer):
    """As `Writer`, with what an account holds drawn first, and spot orders among the acts."""

    begin_with, length = 3, (2, 8)
    falls, gentle = (0.05, 0.15, 0.3, 0.6), False

    alone = 0.3
    """How often a trade is isolated, where it is allowed; now and then elsewhere."""
    written = 3.0
    """Options at most, in coins that the account is worth."""

    def __init__(self, mode: str, seed: int) -> None:
        super().__init__(mode, seed)
        dice = self.dice
        self.chain = Chain(dice)
        self.worth, self.room = 10 ** dice.uniform(3.5, 6.8), 1.0
        coins = self.coins = sorted({self.contracts[symbol].coin for symbol in self.symbols})
        level = {coin: dice.uniform(0.6, 1.4) for coin in COINS}
        for symbol in self.symbols:  # the contracts of a coin stand about its index
            self.first[symbol] = self.tick(symbol, about(symbol) * level.get(self.contracts[symbol].coin, 1.0))
        self.index = {f"{c}/USD": round(price * level[c], 4) for c, price in COINS.items()}
        self.index["USDC/USD"] = 1.0
        self.index["USDT/USD"] = round(dice.choice((1.0, 1.0, dice.uniform(0.97, 1.01))), 5)
        self.pairs = [pair for pair in SPOT if pair.partition("/")[0] in coins or dice.random() < 0.4] or [SPOT[0]]
        for pair in self.pairs:
            self.first[pair] = self.spot_price(pair)
        if dice.random() < 0.35:
            soon = [self.day()] if self.expiry or dice.random() < 0.3 else []
            self.chain.list(coins, self.index, self.start, (*expiries_of(self.start), *soon), (1, 2), (1, 1))
            self.falls, self.gentle = SHORT_FALLS, True
        self.first |= self.chain.marks(self.index, self.start)
        self.marks = dict(self.first)
        self.first_index = self.indexes()
        self.first_forwards = self.chain.forwards(self.index, self.start)
        self.terms = terms(dice, self.worth, self.index, self.start)
        self.terms = replace(self.terms, off=self.switched_off())
        held = dice.sample(sorted(COINS), dice.randint(1, 4))
        shares = [dice.random() for _ in held]
        self.cash = {c: round(self.worth * share / sum(shares) / self.index[f"{c}/USD"], 6)
                     for c, share in zip(held, shares, strict=True)}

    def switched_off(self) -> frozenset[str]:
        """Coins that back nothing, since 2025-03-26; seldom one that a contract of the script settles in."""
        if self.start < SWITCH or self.dice.random() > 0.35:
            return frozenset()
        settled = {contract.settle for contract in self.contracts.values()}
        free = sorted(set(COINS) - settled) if self.dice.random() < 0.85 else []
        return frozenset(self.dice.sample(free or sorted(COINS), 1))

    def margin_mode(self) -> str:
        share = self.alone if self.terms.isolated else 0.02
        return "isolated" if self.dice.random() < share else "cross"

    def indexes(self) -> dict[str, float]:
        """USD prices, and those of the pairs that futures are delivered at."""
        pairs = {f"{coin}/USDT": round(self.index[f"{coin}/USD"] / self.index["USDT/USD"], 4)
                 for coin in ("BTC", "ETH")} if self.expiry else {}
        return {**self.index, **pairs}

    def spot_price(self, pair: str) -> float:
        coin = pair.partition("/")[0]
        return round(self.index[f"{coin}/USD"] / self.index["USDT/USD"] * self.dice.uniform(0.999, 1.001), 4)

    def scenario(self) -> Scenario:
        for _ in range(self.dice.randint(0, 2)):
            self.spot()
        for _ in range(self.dice.randint(1, 3) if self.chain.options else 0):
            self.option()
        return replace(super().scenario(), indexes=self.first_index, forwards=self.first_forwards, terms=self.terms)

    def step(self) -> None:
        self.dice.choices(
            (self.move, self.crash, self.open, self.spot, self.rest, self.meet, self.close, self.cancel,
             self.releverage, self.wait, self.option, self.top_up, self.press),
            (5, 4, 1.5, 2, 2, 2, 1.2, 0.5, 0.4, 1.0, 0.8, 0.6, 1.0))[0]()

    def trade(self, *, rest: bool = False) -> Trade:
        symbol, mode = self.dice.choice(self.symbols), self.margin_mode()
        contract, buy = self.contracts[symbol], self.dice.random() < 0.5
        side = ("long" if buy else "short") if self.hedge else "net"
        leverage = self.leverage.setdefault((symbol, mode, side), self.dice.choice(LEVERAGES))
        price = self.near(symbol, buy, rest)
        one = float(contract.value(exact(1), exact(price)))
        if mode == "isolated":  # out of the coins that are there
            least = self.dice.choice((0.02, 0.1, 0.3, 0.6, 1.1))
            size = self.cash.get(contract.settle, 0.0) * least * leverage / one
        else:
            size = self.worth * self.take() * min(leverage, 20.0) / one / self.index[f"{contract.settle}/USD"]
        self.ids += 1
        return Trade(self.ids, symbol, buy, self.lots(symbol, size), price, mode, side, leverage, rest=rest)

    def take(self) -> float:
        """Some of what may still be used of the account, as far as that is known; now and then too much. A refusal is
        soon compared, and the engine's search for the largest size that would have been taken costs most of the time.
        """
        if self.dice.random() < 0.12:
            return self.dice.uniform(0.3, 1.5)
        much = self.dice.uniform(0.5, 0.95)
        share = self.room * self.dice.choice((self.dice.uniform(0.05, 0.5), much, much, 0.003))
        self.room -= share
        return share

    def spot_trade(self, *, rest: bool = False) -> Trade:
        pair, buy = self.dice.choice(self.pairs), self.dice.random() < 0.5
        away = self.dice.uniform(-0.005, 0.05) if rest else 0.0
        price = round(self.marks[pair] * (1 - away if buy else 1 + away), 4)
        coin, _, lot = spot_of(pair, self.start)
        share = self.dice.choice((self.dice.uniform(0.02, 0.4), 1.5 * self.take(), 0.001))
        lots = int(exact(round(self.worth * share / self.index[f"{coin}/USD"], 8)) / lot)
        self.ids += 1
        return Trade(self.ids, pair, buy, float(max(lots, 1) * lot), price, "cross", "net", 1.0, rest=rest)

    def option_trade(self, *, rest: bool = False) -> Trade:
        """Sold more often than bought: a long one is paid for."""
        dice, symbol = self.dice, self.dice.choice(sorted(self.chain.options))
        option, buy = self.chain.options[symbol], dice.random() < 0.4
        share = dice.choice((0.05, 0.3, 1.0, self.written)) * dice.uniform(0.3, 1.0)
        size = max(int(self.worth * share / self.index[f"{option.coin}/USD"] / float(option.unit)), 1)
        away = dice.uniform(-0.02, 0.3) if rest else dice.uniform(-0.02, 0.02)
        price = round(self.marks[symbol] * (1 - away if buy else 1 + away), 8) or 1e-8
        if rest and buy and dice.random() < 0.15:
            price = round(price + 0.2, 8)  # more than a short holds as initial margin
        self.ids += 1
        return Trade(self.ids, symbol, buy, float(size), price, "cross", "net", 1.0, dice.random() < 0.2, rest)

    def option(self) -> None:
        """Options bought or sold, or closed; at times at a limit."""
        if not self.chain.options:
            return
        trade = self.option_trade(rest=self.dice.random() < 0.25)
        if trade.rest:
            self.resting[trade.id] = trade
        self.acts.append(trade)

    def spot(self) -> None:
        self.acts.append(self.spot_trade())

    def move(self) -> None:
        """Everything moves, one coin's contracts nearly together; no further than marks of options can go straight."""
        if not self.gentle:
            return super().move()
        marks = {}
        common = {coin: self.dice.gauss(0, self.dice.choice((0.01, 0.04, 0.1))) for coin in self.coins}
        for symbol in self.symbols:
            own = self.dice.gauss(0, 0.004) if self.dice.random() < 0.9 else 0.0
            by = min(max(common[self.contracts[symbol].coin], -0.3), 0.4)
            marks[symbol] = self.tick(symbol, self.marks[symbol] * (1 + by + own))
        self.acts.append(self.to(marks, self.dice.random() < 0.3))
        return None

    def crash(self) -> None:
        """Coins part: some fall far enough to end the account, others stay or rise."""
        away = self.dice.choice((-1, 1)) * self.dice.choice(self.falls) * self.dice.uniform(0.5, 1.5)
        marks = {}
        for symbol in self.symbols:
            own = away * self.dice.choice((1.0, 1.0, 0.5, -0.3)) + self.dice.gauss(0, 0.003)
            marks[symbol] = self.tick(symbol, self.marks[symbol] * max(0.1, 1 + own))
        self.acts.append(self.to(marks, self.dice.random() < 0.3))

    def offset(self) -> None:
        if self.acts and isinstance(last := self.acts[-1], Trade) and last.symbol in self.contracts:
            super().offset()

    def rest(self) -> None:
        if self.dice.random() < 0.4:
            trade = self.spot_trade(rest=True)
            self.resting[trade.id] = trade
            self.acts.append(trade)
        else:
            super().rest()
        if self.dice.random() < 0.4:
            self.meet()

    def meet(self) -> None:
        """An order of spot or of an option fills wherever its limit is."""
        spots = sorted(number for number, trade in self.resting.items() if trade.symbol not in self.contracts)
        if not spots or self.dice.random() < 0.5:
            contracts = {number: trade for number, trade in self.resting.items() if number not in spots}
            if contracts:
                resting, self.resting = self.resting, contracts
                super().meet()
                self.resting = {n: t for n, t in resting.items() if n in spots or n in contracts}
            return
        trade = self.resting[self.dice.choice(spots)]
        option = self.chain.options.get(trade.symbol)
        lot = option.lot if option else spot_of(trade.symbol, self.start)[2]
        part = self.dice.choice((1.0, 1.0, 0.5))
        lots = max(int(exact(trade.size) * exact(part) / lot), 1)
        self.acts.append(FillResting(trade.id, float(lots * lot)))
        if part == 1.0:
            del self.resting[trade.id]

    def press(self) -> None:
        """Orders rest for all that is free, and prices move: risk control cancels before anything is liquidated."""
        for _ in range(self.dice.randint(1, 3)):
            self.room = 1.0
            self.rest()
        self.crash()

    def wait(self) -> None:
        """Hours pass, little moves."""
        self.acts.append(self.to(dict(self.marks), False, self.dice.choice((3, 8, 30))))

    def to(self, marks: dict[str, float], jump: bool, hours: int = 0) -> Move:
        """Indexes follow the contracts of their coin, others a little; spot and options follow the index."""
        dice = self.dice
        for coin in ("BTC", "ETH", "SOL"):
            own = [s for s in self.symbols if self.contracts[s].coin == coin and self.marks[s] != marks[s]]
            factor = marks[own[0]] / self.marks[own[0]] if own else 1 + dice.choice((0.0, dice.gauss(0, 0.01)))
            self.index[f"{coin}/USD"] = max(round(self.index[f"{coin}/USD"] * factor, 4), 0.01)
        if dice.random() < 0.1:
            self.index["USDT/USD"] = round(dice.uniform(0.9, 1.01), 5)
        return self.tell(marks, jump, hours)

    def tell(self, marks: dict[str, float], jump: bool, hours: int) -> Move:
        told = super().to({s: marks[s] for s in self.symbols}, jump, hours)
        self.chain.drift()
        self.marks |= self.chain.marks(self.index, self.time)
        self.marks |= {pair: self.spot_price(pair) for pair in self.pairs}
        return Move(told.time, dict(self.marks), told.jump, self.indexes(),
                    self.chain.forwards(self.index, self.time))


def terms(dice: Random, worth: float, index: dict[str, float], time: int) -> Terms:
    """Tables cut to the size of the account, so that it crosses them; quotas and limits are the venue's that day."""
    rules = BOOK.as_of(time, "nearest")
    discounts, borrow = {}, {}
    for coin, best in BEST.items():
        own = worth / index[f"{coin}/USD"]
        first, step = best - dice.choice((0.0, dice.uniform(0, 0.3))), dice.choice((0.0, 0.02, 0.1))
        bounds = [0.4, 0.9, 2.0, 50.0]
        discounts[coin] = tuple((exact(round(own * bound, 6)), exact(round(max(first - step * k, 0.0), 4)))
                                for k, bound in enumerate(bounds))
        ceilings = [exact(round(own * share, 6)) for share in (0.2, 0.6, 1.5, 4.0)] + [ENDLESS]
        low = dice.choice((0.02, 0.03, 0.05))
        borrow[coin] = tuple(BorrowRow(top, exact(round(low + 0.01 * k, 4)), exact(round(0.1 + 0.03 * k, 4)))
                             for k, top in enumerate(ceilings))
    quotas = {coin: rules.free_quota(coin) for coin in (*COINS, "USDC")}
    return Terms(
        discounts, borrow, {coin: exact(dice.choice(SETTINGS)) for coin in COINS}, exact(rules.fees("spot").taker),
        exact(rules.fees("spot").maker), dice.random() < 0.65,
        {coin: (exact(row.amount), row.enlarged_by) for coin, row in quotas.items()},
        {coin: exact(rules.borrow_limit(coin)) for coin in (*COINS, "USDC")},
        {coin: exact(round(dice.choice((0.05, 0.3, 1.0, 5.0)), 4)) for coin in COINS}, isolated=time < ALONE_UNTIL,
    )


