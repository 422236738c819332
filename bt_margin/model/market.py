"""Prices at one instant, or at many. A missing price raises; what stands in is counted and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import MissingPrice
from bt_margin.model.instrument import Kind, Number, parse
from bt_margin.model.light import light

STABLECOINS = ("USDT", "USDC", "USD")


@light(frozen=True, slots=True)
class Market:
    """Marks judge, last prices trade, index prices refer.

    Every price is a float or a 1-D array over instants. `stand_ins` counts, by sentence, each time another
    price stood in; with `strict` nothing stands in and MissingPrice is raised.
    """

    time: int  # ms since 1970, UTC
    marks: Mapping[str, Number] = field(default_factory=dict)
    lasts: Mapping[str, Number] = field(default_factory=dict)
    indexes: Mapping[str, Number] = field(default_factory=dict)  # by pair; "USDT/USD" for a currency
    strict: bool = False
    stand_ins: Counter[str] = field(default_factory=Counter, compare=False)
    forwards: Mapping[str, Number] = field(default_factory=dict)  # by symbol up to the expiry: BTC/USD:BTC-250328
    index_times: Mapping[str, int] = field(default_factory=dict)  # when each index was last heard of; absent: now
    times: NDArray[np.float64] | None = None  # of instants whose clocks differ; else `time` is that of all
    _moved: tuple[Market, str] | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def clock(self) -> Number:
        """The time, or those of the instants: what options have left is measured from it."""
        return self.time if self.times is None else self.times

    @property
    def kinds(self) -> tuple[Mapping[str, Number], ...]:
        """All prices, kind by kind."""
        return self.marks, self.lasts, self.indexes, self.forwards

    def mark(self, symbol: str) -> Number:
        """The mark price; stands in: the last trade of the same symbol."""
        price = self.marks.get(symbol)
        if price is None:
            price = self.lasts.get(symbol)
            if price is None or self.strict:
                return self._stand_in(symbol, "mark", ((self.lasts, symbol, "last trade"),))
            self.stand_ins[_last_for_mark(symbol)] += 1  # the way of every run without marks: asked for all the time
        return price

    def last(self, symbol: str) -> Number:
        """The last traded price; stands in: the mark."""
        price = self.lasts.get(symbol)
        if price is None:
            price = self._stand_in(symbol, "last price", ((self.marks, symbol, "mark"),))
        return price

    def index(self, pair: str) -> Number:
        """The index of a pair such as BTC/USDT; stands in: the spot pair, then the perpetual's mark."""
        price = self.indexes.get(pair)
        if price is None:
            swap = _swap(pair)
            price = self._stand_in(
                pair,
                "index",
                ((self.lasts, pair, "last trade of the spot pair"), (self.marks, pair, "mark of the spot pair"),
                 (self.marks, swap, "mark of the perpetual"), (self.lasts, swap, "last trade of the perpetual")),
            )
        return price

    def fresh_index(self, pair: str) -> bool:
        """True when the pair's own index speaks of this very instant."""
        return pair in self.indexes and self.index_times.get(pair, self.time) == self.time

    def without_index(self, pair: str) -> Market:
        """The same market, as if the pair's own index were not known: what stands in can be asked for."""
        return replace(self, indexes={key: price for key, price in self.indexes.items() if key != pair})

    def forward(self, expiring: str) -> Number:
        """What an option's expiry is priced from; stands in: the future of that expiry, then the index of the pair."""
        stem = "-".join(expiring.split("-")[:2])
        price = self.forwards.get(stem)
        if price is None:
            pair = stem.partition(":")[0]
            try:
                price = self._stand_in(stem, "forward", ((self.marks, stem, "mark of the future"),))
            except MissingPrice:
                if self.strict:
                    raise
                price = self._noted(f"forward of {stem}: index of {pair}", self.index(pair), stem)
        return price

    def usd(self, currency: str) -> Number:
        """USD value of one unit of a currency, through the index of its USD, USDT, USDC, BTC or ETH pair."""
        if currency == "USD":
            return 1.0
        pair, at_par = _usd_price_of(currency)
        direct = self.indexes.get(pair)
        if direct is not None:
            return direct
        if currency in STABLECOINS:
            return self._noted(at_par, 1.0, pair)
        for quote in (*STABLECOINS, *(coin for coin in ("BTC", "ETH") if currency not in ("BTC", coin))):
            pair = f"{currency}/{quote}"
            if any(
                key in prices
                for prices in (self.indexes, self.lasts, self.marks)
                for key in (pair, _swap(pair))
            ):
                return self.index(pair) * self.usd(quote)
        raise MissingPrice(
            f"prices.index: expected an index for {currency}/USD or {currency}/USDT, found none at {self.time}; "
            "add one, or a feed of the spot pair"
        )

    def price(self, symbol: str) -> Number:
        """What a position in `symbol` is judged at: the mark of a derivative, the last trade of a spot pair."""
        return self.last(symbol) if parse_kind(symbol) is Kind.SPOT else self.mark(symbol)

    def at(self, time: int, marks: Mapping[str, Number], lasts: Mapping[str, Number] | None = None) -> Market:
        """The same market with other marks (and last prices) at another time."""
        return replace(self, time=time, marks=marks, lasts=self.lasts if lasts is None else lasts)

    def with_coin(self, coin: str, there: Market) -> Market:
        """The same market with one coin's prices as they are in another, which knows no others. What does not look at
        them stands as it stood (`still`), unless something is quoted or settled in the coin."""
        found = replace(
            self, marks={**self.marks, **there.marks}, lasts={**self.lasts, **there.lasts},
            indexes={**self.indexes, **there.indexes}, forwards={**self.forwards, **there.forwards},
        )
        if not any(coin in _measured_in(key) for prices in (self.marks, self.lasts, self.indexes) for key in prices):
            object.__setattr__(found, "_moved", (self, coin))  # no argument: what is made of `found` has it no more
        return found

    def still(self, coin: str) -> Market | None:
        """The market of which a coin's prices, and those of settlement coins, are: this one, or the one that it differs
        from in another coin only; None where it differs in this one."""
        if self._moved is None:
            return self
        before, moved = self._moved
        return None if coin == moved else before

    def same_prices(self, other: Market) -> bool:
        """True where all prices are those of another instant."""
        return self.kinds == other.kinds

    def one(self, instant: int, time: int, heard: Mapping[str, int] | None = None) -> Market:
        """One of many instants, its prices floats, at a time. `heard`: when each index was heard of, else as here."""

        def of(prices: Mapping[str, Number]) -> dict[str, Number]:
            return {key: float(x[instant]) if isinstance(x, np.ndarray) else x for key, x in prices.items()}

        return Market(time, of(self.marks), of(self.lasts), of(self.indexes), self.strict, self.stand_ins,
                      of(self.forwards), self.index_times if heard is None else heard)

    def some(self, instants: NDArray[np.intp] | slice) -> Market:
        """Some of many instants."""

        def of(prices: Mapping[str, Number]) -> dict[str, Number]:
            return {key: x[instants] if isinstance(x, np.ndarray) else x for key, x in prices.items()}

        return Market(self.time, of(self.marks), of(self.lasts), of(self.indexes), self.strict, self.stand_ins,
                      of(self.forwards), self.index_times, None if self.times is None else self.times[instants])

    def behind(self, now: Market) -> Market | None:
        """`now` and these instants; None where `now` has other prices than they have."""
        kinds = []
        for before, prices in zip(now.kinds, self.kinds, strict=True):
            if before.keys() != prices.keys():
                return None
            found: dict[str, Number] = {}
            for key, price in prices.items():
                if isinstance(price, np.ndarray):
                    found[key] = np.append(before[key], price)
                elif price == before[key]:
                    found[key] = price
                else:
                    return None
            kinds.append(found)
        marks, lasts, indexes, forwards = kinds
        times = None if self.times is None else np.append(float(now.time), self.times)
        return Market(self.time, marks, lasts, indexes, self.strict, self.stand_ins, forwards, self.index_times, times)

    def toward(self, other: Market, share: Number) -> Market:
        """The instant `share` of the way to `other`, or those of many shares: all prices move in a straight line.

        Of an option settled in its coin, what it is worth in USD does: its price in the coin and that of the coin, each
        straight by itself, would pass through marks that no vol explains.
        """
        time, times = other.time, None
        if isinstance(share, np.ndarray):
            times = self.time + np.round((other.time - self.time) * share)
        elif share >= 1.0:
            return other
        else:
            time = self.time + round((other.time - self.time) * share)
        there = replace(
            other,
            time=time,
            times=times,
            marks=_blend(self.marks, other.marks, share),
            lasts=_blend(self.lasts, other.lasts, share),
            indexes=_blend(self.indexes, other.indexes, share),
            forwards=_blend(self.forwards, other.forwards, share),
        )
        priced = [symbol for symbol in {**other.marks, **other.lasts} if _in_coin(symbol)]
        if not priced:
            return there

        def of(prices: str) -> dict[str, Number]:
            found = dict(getattr(there, prices))
            for symbol in priced:
                first, last = (getattr(market, prices).get(symbol) for market in (self, other))
                coins = self._coins(other, symbol)
                if coins is not None and first is not None and last is not None:
                    began, ends = coins
                    worth = first * began + (last * ends - first * began) * share
                    found[symbol] = worth / (began + (ends - began) * share)
            return found

        return replace(there, marks=of("marks"), lasts=of("lasts"))

    def _coins(self, other: Market, symbol: str) -> tuple[Number, Number] | None:
        """What an option's coin is worth here and there, by the first that both know of: its forward, the mark of the
        future, the index."""
        stem = "-".join(symbol.split("-")[:2])
        for prices, key in (("forwards", stem), ("marks", stem), ("indexes", stem.partition(":")[0])):
            here, there = (getattr(market, prices).get(key) for market in (self, other))
            if here is not None and there is not None:
                return here, there
        return None

    def _stand_in(
        self, symbol: str, what: str, candidates: Iterable[tuple[Mapping[str, Number], str, str]]
    ) -> Number:
        for prices, key, name in candidates:
            price = prices.get(key)
            if price is not None:
                return self._noted(f"{what} of {symbol}: {name}", price, symbol)
        raise MissingPrice(
            f"prices: expected a {what} for {symbol}, found none at {self.time}; add it to the book or the feeds"
        )

    def _noted(self, sentence: str, price: Number, symbol: str) -> Number:
        if self.strict:
            raise MissingPrice(f"strict: {symbol} has no price of its own ({sentence} would stand in); supply it")
        self.stand_ins[sentence] += 1
        return price


@cache
def _in_coin(symbol: str) -> bool:
    """True for an option whose price is in its coin."""
    if symbol[-2:] not in ("-C", "-P") or parse_kind(symbol) is not Kind.OPTION:
        return False
    parts = parse(symbol)
    return parts.settle == parts.base


@cache
def _measured_in(symbol: str) -> tuple[str, ...]:
    """The currencies that a price is quoted and settled in, other than its own coin."""
    base, _, rest = symbol.partition("-")[0].partition("/")
    return tuple(currency for currency in rest.split(":") if currency != base)


@cache
def _usd_price_of(currency: str) -> tuple[str, str]:
    return f"{currency}/USD", f"USD price of {currency}: 1"


@cache
def _last_for_mark(symbol: str) -> str:
    return f"mark of {symbol}: last trade"


def _swap(pair: str) -> str:
    """The perpetual of a pair: settled in the quote currency, against USD in the coin."""
    base, _, quote = pair.partition("/")
    return f"{pair}:{base if quote == 'USD' else quote}"


def _blend(start: Mapping[str, Number], end: Mapping[str, Number], share: Number) -> dict[str, Number]:
    return {key: start.get(key, value) + (value - start.get(key, value)) * share for key, value in end.items()}


def parse_kind(symbol: str) -> Kind:
    """The kind of a symbol; anything that is not a unified symbol is a plain asset, held like spot."""
    cached = _KINDS.get(symbol)
    if cached is None:
        cached = _KINDS[symbol] = parse(symbol).kind if "/" in symbol else Kind.SPOT
    return cached


_KINDS: dict[str, Kind] = {}
