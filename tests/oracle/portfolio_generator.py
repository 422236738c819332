"""Scripts for portfolio margin: contracts of every settlement, options, spot, orders, in risk units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.oracle.account_generator import COINS, SHORT_FALLS, AccountWriter, expiries_of
from tests.oracle.chain import Chain
from tests.oracle.contract import exact
from tests.oracle.multi_currency import Terms
from tests.oracle.scenario import BOOK, Move, Scenario, Trade, contract_of, unit_terms

PEGS = ("USDT", "USDC")


class PortfolioWriter(AccountWriter):
    """As `AccountWriter`: one or two coins, each with some of its perpetuals, futures and options."""

    begin_with, length = 3, (1, 4)
    alone, written, falls, gentle = 0.15, 4.0, SHORT_FALLS, True

    def __init__(self, mode: str, seed: int) -> None:
        super().__init__(mode, seed)
        dice = self.dice
        self.hedge = False
        self.expiry = 0
        expiries = expiries_of(self.start)
        self.theme = dice.choices(("", "pegs", "tenors", "options"), (7, 1, 1, 1))[0]
        if self.theme == "pegs" and not unit_terms("BTC", self.start).depeg.mr9_tiers:
            self.theme = ""  # before the merge: no unit holds two settlements
        if not self.theme and dice.random() < 0.2:
            expiries = (*expiries, self.day())
        coins = ["BTC"] if self.theme else dice.sample(("BTC", "ETH", "SOL"), dice.choices((1, 2), (3, 1))[0])
        self.coins = coins
        self.symbols = tuple(symbol for coin in coins for symbol in self.listed(coin, expiries))
        self.contracts = {symbol: contract_of(symbol, self.start) for symbol in self.symbols}
        self.worth = 10 ** dice.uniform(4.3, 7.3)
        self.index["USDC/USD"] = round(dice.choice((1.0, dice.uniform(0.97, 1.005))), 5)
        self.chain = Chain(dice)
        if self.theme in ("", "options"):
            counts = (0, 1, 2, 4) if not self.theme else (2,)
            self.chain.list(coins, self.index, self.start, expiries, counts, (3, 3, 2, 1)[:len(counts)])
        self.volume = dice.uniform(2.0, 9.0)
        self.basis = {s: 1 + dice.gauss(0, 0.003) for s in self.symbols}
        self.pairs = [f"{coin}/USDT" for coin in coins]
        self.marks = {}
        for symbol in self.symbols:
            self.marks[symbol] = self.tick(symbol, self.fair(symbol))
        self.terms = self.portfolio_terms()
        shares = [dice.random() ** 2 for _ in COINS]
        self.cash = {c: round(self.worth * share / sum(shares) / self.index[f"{c}/USD"], 6)
                     for c, share in zip(COINS, shares, strict=True) if share > 0.05}
        self.first = {**self.marks, **self.chain.marks(self.index, self.start),
                      **{pair: self.spot_price(pair) for pair in self.pairs}}
        self.marks = dict(self.first)
        self.first_index, self.first_forwards = self.indexes(), self.chain.forwards(self.index, self.start)

    def listed(self, coin: str, expiries: tuple[str, ...]) -> list[str]:
        if self.theme == "pegs":
            return [f"{coin}/USD:{coin}", f"{coin}/USDC:USDC", f"{coin}/USDT:USDT"]
        if self.theme == "tenors":
            stem = self.dice.choice((f"{coin}/USD:{coin}", f"{coin}/USDT:USDT"))
            return [stem, f"{stem}-{self.dice.choice(expiries)}"]
        stems = [f"{coin}/USDT:USDT", f"{coin}/USD:{coin}"] + ([f"{coin}/USDC:USDC"] if coin == "BTC" else [])
        dated = [f"{stem}-{day}" for stem in stems[:2] for day in expiries] if coin != "SOL" else []
        chosen = self.dice.sample([*stems, *dated], self.dice.randint(1, 4 if dated else 2))
        return sorted(chosen)

    def switched_off(self) -> frozenset[str]:
        """A switch of multi-currency margin only (section 1)."""
        return frozenset()

    def portfolio_terms(self) -> Terms:
        drawn, rules = self.terms, BOOK.as_of(self.start, "nearest")
        tables: dict[str, Any] = {
            name: {**getattr(drawn, name), "USDC": getattr(drawn, name)["USDT"]}
            for name in ("discounts", "borrow", "leverage", "yearly")}
        sides = ("", "USDT", "coin")
        choices = {coin: {"coin": coin}.get(side := self.dice.choice(sides), side) for coin in self.coins}
        part = self.dice.choices((0.1, 0.25, 0.5), (1, 3, 6))[0]
        ladder = replace(rules.portfolio_ladder, hedge_slice=part, liquidation_slice=part)
        return replace(drawn, isolated=True, auto=drawn.auto or bool(self.theme), **tables,
                       units={coin: unit_terms(coin, self.start) for coin in self.coins},
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
                 for coin in ("BTC", "ETH", "SOL") for quote in PEGS}
        return {**self.index, **pairs}

    def to(self, marks: dict[str, float], jump: bool, hours: int = 0) -> Move:
        if self.dice.random() < 0.15:
            self.index["USDC/USD"] = round(self.dice.uniform(0.85, 1.005), 5)
        return super().to(marks, jump, hours)

    def depeg(self) -> None:
        """A stablecoin falls, and what is quoted in it rises."""
        peg = self.dice.choice(PEGS)
        low, high = self.dice.choice(((0.8, 0.9), (0.8, 0.9), (0.9, 0.985)))
        self.index[f"{peg}/USD"] = round(self.dice.uniform(low, high), 5)
        self.acts.append(self.tell({s: self.tick(s, self.fair(s)) for s in self.symbols}, self.dice.random() < 0.3, 0))

    # ------------------------------------------------------------------ acts

    def scenario(self) -> Scenario:
        for _ in range(self.dice.randint(0, 3)):
            self.option()
        if self.theme:
            (self.written_against if self.theme == "options" else self.hedged)()
            for _ in range(self.dice.randint(1, 3)):
                (self.depeg if self.theme == "pegs" else self.crash)()
        return super().scenario()

    def written_against(self) -> None:
        """Options sold, and contracts of the same direction beside them."""
        dice = self.dice
        for _ in range(3):
            told = replace(self.option_trade(), buy=False, reduce_only=False)
            option = self.chain.options[told.symbol]
            size = dice.uniform(0.3, 1.2) * self.worth / self.index[f"{option.coin}/USD"] / float(option.unit)
            self.acts.append(replace(told, size=float(max(int(size), 1))))
            self.room = 1.0
            self.acts.append(replace(self.trade(), buy=not option.call, margin_mode="cross"))

    def hedged(self) -> None:
        """The same coins long in one contract and short in another, of two settlements or of two tenors: as many as an
        account bears, which is more than one of the two alone could be, so the legs grow in turn.
        """
        long, short = self.dice.sample(self.symbols, 2)
        turns = int(self.volume) + 1
        for symbol, buy in ((long, True), (short, False)) * turns:
            contract, price = self.contracts[symbol], self.near(symbol, buy, False)
            one = float(contract.value(exact(1), exact(price))) * self.index[f"{contract.settle}/USD"]
            self.ids += 1
            size = self.lots(symbol, self.volume * self.worth / one / turns)
            self.acts.append(Trade(self.ids, symbol, buy, size, price, "cross", "net", 1.0))
        self.room = 0.2

    def trade(self, *, rest: bool = False) -> Trade:
        """About as much as units of one direction may be, a multiple of the account."""
        told = super().trade(rest=rest)
        if told.margin_mode == "isolated":
            return told
        contract = self.contracts[told.symbol]
        one = float(contract.value(exact(1), exact(told.price))) * self.index[f"{contract.settle}/USD"]
        return replace(told, size=self.lots(told.symbol, 6 * self.worth * self.take() / one))

    def step(self) -> None:
        self.dice.choices(
            (self.move, self.crash, self.open, self.spot, self.rest, self.meet, self.close, self.cancel,
             self.option, self.wait, self.top_up, self.press, self.depeg),
            (5, 4, 2, 1.5, 3, 4, 1.2, 0.5, 1.5, 0.7, 0.4, 1.0, 2.0 if self.theme == "pegs" else 0.0))[0]()
