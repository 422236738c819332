"""Scripts for portfolio margin: contracts of every settlement, options, spot, orders, in risk units."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tests.oracle.account_generator import COINS, AccountWriter
from tests.oracle.contract import exact
from tests.oracle.multi_currency import Terms
from tests.oracle.option import Option, coin_price
from tests.oracle.scenario import BOOK, Move, Scenario, Trade, contract_of, option_of, unit_terms

EXPIRIES = ((1_760_000_000_000, ("251128", "260327", "260925")), (1_722_470_400_000, ("240927", "250328")),
            (1_668_902_400_000, ("230127", "230630")))
"""Two or three deliveries, far enough behind each beginning that no script meets one."""
STRIKES = (0.75, 0.85, 0.95, 1.0, 1.1, 1.3)


class PortfolioWriter(AccountWriter):
    """As `AccountWriter`: one or two coins, each with some of its perpetuals, futures and options."""

    begin_with, length = 3, (0, 3)
    falls = (0.1, 0.18, 0.25, 0.28)
    """Marks of options go straight with the rest: on longer ways they would leave what a vol can explain."""

    def __init__(self, mode: str, seed: int) -> None:
        super().__init__(mode, seed)
        dice = self.dice
        self.hedge = False
        expiries = min(EXPIRIES, key=lambda row: abs(row[0] - self.start))[1]
        coins = dice.sample(("BTC", "ETH", "SOL"), dice.choices((1, 2), (3, 1))[0])
        self.symbols = tuple(symbol for coin in coins for symbol in self.listed(coin, expiries))
        self.contracts = {symbol: contract_of(symbol, self.start) for symbol in self.symbols}
        self.worth = 10 ** dice.uniform(4.3, 7.3)
        self.index["USDC/USD"] = round(dice.choice((1.0, dice.uniform(0.97, 1.005))), 5)
        self.options: dict[str, Option] = {}
        self.vols: dict[str, float] = {}
        for coin in coins:
            for _ in range(dice.choices((0, 1, 2, 4), (3, 3, 2, 1))[0] if coin != "SOL" else 0):
                strike = float(f"{self.index[f'{coin}/USD'] * dice.choice(STRIKES):.2g}")
                symbol = f"{coin}/USD:{coin}-{dice.choice(expiries)}-{strike:.0f}-{dice.choice('CP')}"
                self.options[symbol] = option_of(symbol, self.start)
                self.vols[symbol] = round(dice.uniform(0.4, 1.0), 4)
        self.basis = {s: 1 + dice.gauss(0, 0.003) for s in self.symbols}
        self.pairs = [f"{coin}/USDT" for coin in coins]
        self.coins = coins
        self.marks = {}
        for symbol in self.symbols:
            self.marks[symbol] = self.tick(symbol, self.fair(symbol))
        self.terms = self.portfolio_terms()
        shares = [dice.random() ** 2 for _ in COINS]
        self.cash = {c: round(self.worth * share / sum(shares) / self.index[f"{c}/USD"], 6)
                     for c, share in zip(COINS, shares, strict=True) if share > 0.05}
        self.first = {**self.marks, **self.others()}
        self.marks = dict(self.first)
        self.first_index, self.first_forwards = self.indexes(), self.forwards()

    def listed(self, coin: str, expiries: tuple[str, ...]) -> list[str]:
        stems = [f"{coin}/USDT:USDT", f"{coin}/USD:{coin}"] + ([f"{coin}/USDC:USDC"] if coin == "BTC" else [])
        dated = [f"{stem}-{day}" for stem in stems[:2] for day in expiries] if coin != "SOL" else []
        chosen = self.dice.sample([*stems, *dated], self.dice.randint(1, 4 if dated else 2))
        return sorted(chosen)

    def portfolio_terms(self) -> Terms:
        drawn, rules = self.terms, BOOK.as_of(self.start, "nearest")
        tables: dict[str, Any] = {
            name: {**getattr(drawn, name), "USDC": getattr(drawn, name)["USDT"]}
            for name in ("discounts", "borrow", "leverage", "yearly")}
        sides = ("", "USDT", "coin")
        choices = {coin: {"coin": coin}.get(side := self.dice.choice(sides), side) for coin in self.coins}
        part = self.dice.choices((0.1, 0.25, 0.5), (1, 3, 6))[0]
        ladder = replace(rules.portfolio_ladder, hedge_slice=part, liquidation_slice=part)
        return replace(drawn, **tables, units={coin: unit_terms(coin, self.start) for coin in self.coins},
                       choices={c: side for c, side in choices.items() if side}, ladder=ladder)

    # ------------------------------------------------------------------ prices

    def fair(self, symbol: str) -> float:
        contract = self.contracts[symbol]
        quote = contract.settle if contract.linear else "USD"
        usd = self.index.get(f"{quote}/USD", 1.0)
        return self.index[f"{contract.coin}/USD"] / usd * self.basis[symbol]

    def indexes(self) -> dict[str, float]:
        """USD prices, and the index of each pair."""
        pairs = {f"{coin}/{quote}": round(self.index[f"{coin}/USD"] / self.index[f"{quote}/USD"], 4)
                 for coin in self.coins for quote in ("USDT", "USDC")}
        return {**self.index, **pairs}

    def forwards(self) -> dict[str, float]:
        return {o.forward: round(self.index[f"{o.coin}/USD"] * (1 + 0.05 * o.years(self.time)), 2)
                for o in self.options.values()}

    def others(self) -> dict[str, float]:
        """Spot pairs, and options at their vol."""
        forwards = self.forwards()
        prices = {s: round(coin_price(o, forwards[o.forward], o.years(self.time), self.vols[s]), 12)
                  for s, o in self.options.items()}
        return {**prices, **{pair: self.spot_price(pair) for pair in self.pairs}}

    def to(self, marks: dict[str, float], jump: bool, hours: int = 0) -> Move:
        dice = self.dice
        told = super().to({s: marks[s] for s in self.symbols}, jump, hours)
        if dice.random() < 0.15:
            self.index["USDC/USD"] = round(dice.uniform(0.85, 1.005), 5)
        for symbol in self.vols:
            self.vols[symbol] = round(min(max(self.vols[symbol] * math.exp(dice.gauss(0, 0.1)), 0.3), 1.6), 4)
        self.marks = {**{s: marks[s] for s in self.symbols}, **self.others()}
        return Move(told.time, dict(self.marks), jump, self.indexes(), self.forwards())

    # ------------------------------------------------------------------ acts

    def scenario(self) -> Scenario:
        for _ in range(self.dice.randint(0, 4)):
            self.option()
        return replace(super().scenario(), forwards=self.first_forwards, indexes=self.first_index)

    def trade(self, *, rest: bool = False) -> Trade:
        """About as much as units of one direction may be, a multiple of the account."""
        told = super().trade(rest=rest)
        contract = self.contracts[told.symbol]
        one = float(contract.value(exact(1), exact(told.price))) * self.index[f"{contract.settle}/USD"]
        return replace(told, size=self.lots(told.symbol, 6 * self.worth * self.take() / one))

    def move(self) -> None:
        """Everything moves, one coin's contracts nearly together."""
        marks = {}
        common = {coin: self.dice.gauss(0, self.dice.choice((0.01, 0.04, 0.1))) for coin in self.coins}
        for symbol in self.symbols:
            own = self.dice.gauss(0, 0.004) if self.dice.random() < 0.9 else 0.0
            by = min(max(common[self.contracts[symbol].coin], -0.3), 0.4)
            marks[symbol] = self.tick(symbol, self.marks[symbol] * (1 + by + own))
        self.acts.append(self.to(marks, self.dice.random() < 0.3))

    def step(self) -> None:
        self.dice.choices(
            (self.move, self.crash, self.open, self.spot, self.rest, self.meet, self.close, self.cancel,
             self.option, self.wait),
            (5, 4, 2, 1.5, 1.5, 1.5, 1.2, 0.5, 2, 0.7))[0]()

    def option(self) -> None:
        """Options bought or sold, or closed."""
        if not self.options:
            return
        dice = self.dice
        symbol = dice.choice(sorted(self.options))
        option = self.options[symbol]
        size = max(int(2 * self.worth * self.take() / self.index[f"{option.coin}/USD"] / float(option.unit)), 1)
        price = round(self.marks[symbol] * dice.uniform(0.98, 1.02), 8) or 1e-8
        self.ids += 1
        self.acts.append(Trade(self.ids, symbol, dice.random() < 0.5, float(size), price, "cross", "net", 1.0,
                               dice.random() < 0.2))


