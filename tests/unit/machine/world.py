"""What is listed at a beginning, and what everything costs where the coins are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from bt_margin.engine.builder import parse_time
from bt_margin.model.instrument import Instrument
from bt_margin.model.market import Market
from bt_margin.modes.options import model_mark, years_left
from bt_margin.rules.book import RuleBook, load_rules

HOUR = 3_600_000
CURRENCIES = ("USDT", "USDC", "BTC", "ETH")
SPOT = ("BTC/USDT", "ETH/USDT")
SWAPS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDC:USDC", "BTC/USD:BTC")


@dataclass(frozen=True)
class Era:
    """A beginning, and two days on which contracts expire: soon, and out of reach."""

    start: str
    near: str
    far: str

    @property
    def time(self) -> int:
        return parse_time(self.start, "")

    @property
    def futures(self) -> tuple[str, ...]:
        return f"BTC/USDT:USDT-{self.near}", f"BTC/USD:BTC-{self.near}", f"BTC/USDT:USDT-{self.far}"

    @property
    def options(self) -> tuple[str, ...]:
        return (f"BTC/USD:BTC-{self.near}-60000-C", f"BTC/USD:BTC-{self.near}-55000-P",
                f"BTC/USD:BTC-{self.far}-70000-C", f"BTC/USD:BTC-{self.far}-60000-P")

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*SPOT, *SWAPS, *self.futures, *self.options)


ERAS = {
    "now": Era("2025-10-09T05:20:00Z", "251010", "251226"),  # a Friday's delivery after a day and a bit
    "then": Era("2024-06-30T21:00:00Z", "240702", "240927"),  # funding is collected in full from the next morning on
    "before": Era("2022-11-20T00:00:00Z", "221121", "230331"),
}

ENDLESS = 1e15
BOOK: RuleBook = load_rules("okx").overlay(
    discounts={"USDT": [[1e6, 1.0], [ENDLESS, 0.9]], "USDC": [[1e6, 0.98], [ENDLESS, 0.9]],
               "BTC": [[10, 0.9], [100, 0.8]], "ETH": [[1_000, 0.8]]},
    borrow_tiers={"USDT": [[50_000, 0.02, 0.1], [100_000, 0.04, 0.2], [ENDLESS, 0.08, 0.4]],
                  "USDC": [[50_000, 0.02, 0.1], [ENDLESS, 0.08, 0.4]],
                  "BTC": [[2, 0.02, 0.1], [ENDLESS, 0.05, 0.2]], "ETH": [[50, 0.03, 0.1], [ENDLESS, 0.06, 0.25]]},
    instruments={"BTC/USDT": {"tiers": [[2, 0.03, 0.1, 10], [20, 0.05, 0.2, 5], [ENDLESS, 0.1, 0.5, 2]]},
                 "ETH/USDT": {"tiers": [[50, 0.04, 0.2, 5], [ENDLESS, 0.1, 0.5, 2]]}},
    parameters={"portfolio": {"liquidation_slice": 0.5, "hedge_slice": 0.5}},
)
"""The venue's rules, but for discounts and borrow tiers: those are crossed by small accounts, and have no end. An
account in portfolio margin is undone in few steps."""


@cache
def listed(symbol: str, time: int) -> Instrument:
    return BOOK.as_of(time, "nearest").instrument(symbol)


@dataclass(frozen=True)
class Prices:
    """Where the world is: coins in USD, what a year of time adds to futures, vol, last trades against marks."""

    btc: float = 60_000.0
    eth: float = 3_000.0
    usdt: float = 1.0
    usdc: float = 1.0
    carry: float = 0.05
    vol: float = 0.6
    off: float = 0.0

    def market(self, era: Era, time: int) -> Market:
        """Marks of everything, by the coins; a contract that has expired stays at what it was delivered at."""
        coins = {"BTC": self.btc, "ETH": self.eth}
        usd = {"USDT": self.usdt, "USDC": self.usdc, "USD": 1.0}
        indexes = {f"{name}/USD": price for name, price in {**coins, **usd}.items() if name != "USD"}
        indexes |= {f"{coin}/{quote}": price / usd[quote] for coin, price in coins.items() for quote in usd}
        forwards = {f"BTC/USD:BTC-{day}": self.btc * (1.0 + self.carry * self._years(day, era, time))
                    for day in (era.near, era.far)}
        marks: dict[str, float] = {}
        for symbol in era.symbols:
            instrument = listed(symbol, era.time)
            price = coins[instrument.base] / usd[instrument.quote]
            if instrument.is_option:
                forward = forwards["-".join(symbol.split("-")[:2])]
                mark = model_mark(instrument, forward, price, years_left(instrument, time), self.vol)
                marks[symbol] = max(float(mark), 1e-6)
            elif instrument.expiry_ms is not None:
                marks[symbol] = price * (1.0 + self.carry * self._years(instrument.terms.expiry, era, time))
            else:
                marks[symbol] = price
        lasts = {symbol: mark * (1.0 + self.off) for symbol, mark in marks.items()}
        return Market(time, marks, lasts, indexes, forwards=forwards)

    def _years(self, day: str, era: Era, time: int) -> float:
        end = listed(f"BTC/USD:BTC-{day}", era.time).expiry_ms or 0
        return max(0, end - time) / (365 * 24 * HOUR)


def coin_of(symbol: str) -> str:
    return symbol.partition("/")[0].lower()


def worth(market: Market, amounts: Mapping[str, float]) -> float:
    """USD."""
    return sum(amount * float(market.usd(currency)) for currency, amount in amounts.items())
