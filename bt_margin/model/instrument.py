"""What a symbol is: its kind, its currencies, its contract, and what a position in it pays.

Symbols are ccxt's unified ones (`BTC/USDT`, `BTC/USDT:USDT`, `BTC/USD:BTC`, `BTC/USDT:USDT-250328`,
`BTC/USD:BTC-250328-100000-C`). Sizes of derivatives are contracts, of spot pairs coins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from bt_margin.errors import InputError, NotSupported
from bt_margin.model.number import Number as Number
from bt_margin.model.number import larger, smaller


class Kind(StrEnum):
    SPOT = "spot"
    LINEAR_SWAP = "linear swap"
    INVERSE_SWAP = "inverse swap"
    LINEAR_FUTURE = "linear future"
    INVERSE_FUTURE = "inverse future"
    OPTION = "option"


_SYMBOL = re.compile(
    r"(?P<base>[A-Z0-9]+)/(?P<quote>[A-Z0-9]+)"
    r"(?::(?P<settle>[A-Z0-9]+)(?:-(?P<expiry>\d{6})(?:-(?P<strike>\d+(?:\.\d+)?)-(?P<right>[CP]))?)?)?"
)


@dataclass(frozen=True, slots=True)
class SymbolParts:
    """A unified symbol, taken apart."""

    kind: Kind
    base: str
    quote: str
    settle: str  # the quote currency for spot
    expiry: str = ""  # YYMMDD
    strike: float = 0.0
    right: str = ""  # C or P


@lru_cache(maxsize=4096)
def is_symbol(text: str) -> bool:
    """True when `text` has the form of a unified symbol."""
    return _SYMBOL.fullmatch(text) is not None


def parse(symbol: str) -> SymbolParts:
    """Take a unified symbol apart. Raises InputError when it has another form."""
    match = _SYMBOL.fullmatch(symbol)
    if match is None:
        raise InputError(
            f"symbol: expected a unified symbol such as BTC/USDT or BTC/USDT:USDT, found {symbol!r}"
        )
    base, quote, settle = match["base"], match["quote"], match["settle"]
    if settle is None:
        return SymbolParts(Kind.SPOT, base, quote, quote)
    if settle not in (base, quote):
        raise InputError(f"symbol: {symbol!r} settles in {settle}, neither its base nor its quote currency")
    linear = settle == quote
    if match["strike"]:
        kind = Kind.OPTION
    elif match["expiry"]:
        kind = Kind.LINEAR_FUTURE if linear else Kind.INVERSE_FUTURE
    else:
        kind = Kind.LINEAR_SWAP if linear else Kind.INVERSE_SWAP
    return SymbolParts(
        kind, base, quote, settle, match["expiry"] or "", float(match["strike"] or 0.0), match["right"] or ""
    )


@dataclass(frozen=True)
class Instrument:
    """A tradable contract as the venue lists it at some instant.

    `contract_size` is what one contract stands for, multiplier included: base coin for linear contracts,
    USD for inverse ones, 1 for spot. `lot` is the smallest step of a size, `tick` that of a price; a lot of
    zero means "any size" (plain assets that are not a venue's).
    """

    symbol: str
    kind: Kind
    base: str
    quote: str
    settle: str
    contract_size: float = 1.0
    tick: float = 0.0
    lot: float = 0.0

    @cached_property
    def is_spot(self) -> bool:
        return self.kind is Kind.SPOT

    @cached_property
    def is_option(self) -> bool:
        return self.kind is Kind.OPTION

    @cached_property
    def is_contract(self) -> bool:
        """True for swaps and futures."""
        return not (self.is_spot or self.is_option)

    @cached_property
    def terms(self) -> SymbolParts:
        """The symbol, taken apart: expiry, strike, right."""
        return parse(self.symbol)

    @cached_property
    def is_swap(self) -> bool:
        return self.kind in (Kind.LINEAR_SWAP, Kind.INVERSE_SWAP)

    @cached_property
    def pair(self) -> str:
        """The pair whose index the contract follows."""
        return f"{self.base}/{self.quote}"

    @cached_property
    def family(self) -> str:
        """What shares a position tier in cross: a swap alone, all expiries of a future together (recorded item 15)."""
        stem, _, rest = self.symbol.partition("-")
        return stem if not rest else f"{stem}-*-*" if self.is_option else f"{stem}-*"

    @cached_property
    def expiry_ms(self) -> int | None:
        """When it is delivered (ms UTC): 08:00 of the day in the symbol (rule book section 11); None: never."""
        expiry = parse(self.symbol).expiry if is_symbol(self.symbol) else ""
        if not expiry:
            return None
        return int(datetime.strptime(f"{expiry}08", "%y%m%d%H").replace(tzinfo=UTC).timestamp()) * 1000

    @cached_property
    def payoff(self) -> Payoff:
        """What a position pays. Raises NotSupported for products that are not built yet."""
        payoff = PAYOFFS[self.kind]
        if payoff is None:
            raise NotSupported(
                f"{self.symbol}: {self.kind} contracts are not built yet; "
                "spot pairs, swaps and futures are. Leave the symbol out."
            )
        return payoff

    def notional(self, size: float, price: Number) -> Number:
        """Value of |size| at `price`, in the settlement currency."""
        units: Number = abs(size) * self.contract_size
        result: Number = self.payoff.notional(units, price)
        return result

    def pnl(self, size: float, entry: float, price: Number) -> Number:
        """Profit of a signed size between `entry` and `price`, in the settlement currency."""
        result: Number = self.payoff.pnl(size * self.contract_size, entry, price)
        return result

    @cached_property
    def _lots_per_unit(self) -> int:
        """1 / lot where that is whole (every lot of the venue), else 0."""
        inverse = 1.0 / self.lot if self.lot > 0 else 0.0
        return round(inverse) if inverse >= 1 and abs(inverse - round(inverse)) < 1e-9 * inverse else 0

    def _from_lots(self, lots: int) -> float:
        # Dividing two whole numbers gives the double nearest to the decimal: 0.1 + 0.2 stays 0.3.
        return lots / self._lots_per_unit if self._lots_per_unit else lots * self.lot

    def snap(self, size: float) -> float:
        """The nearest whole number of lots, without float dust."""
        return self._from_lots(round(size / self.lot)) if self.lot else size

    def floor(self, size: float) -> float:
        """The largest whole number of lots not above |size|, with its sign."""
        if not self.lot:
            return size
        lots = int(abs(size) / self.lot * (1 + 1e-12) + 1e-9)
        return self._from_lots(lots) if size >= 0 else -self._from_lots(lots)

    def ceil(self, size: float) -> float:
        """The smallest whole number of lots not below a positive size."""
        down = self.floor(size)
        return down if not self.lot or size - down <= 1e-9 * self.lot else self.snap(down + self.lot)

    def round_price(self, price: float, side: str) -> float:
        """Off-tick limit prices are booked on the less aggressive side: buys down, sells up.

        Source: recorded replies of the demo engine (DEMO-PRICE-ROUND-1).
        """
        if not self.tick:
            return price
        tick = Decimal(repr(self.tick))
        steps, rest = divmod(Decimal(repr(float(price))), tick)
        if side == "sell" and rest:
            steps += 1
        return float(steps * tick)


@dataclass(frozen=True, slots=True)
class Payoff:
    """The three questions a margin engine asks of a product, on `units` = |contracts| x contract size."""

    notional: Callable[[Any, Any], Any]  # (units, price) -> value in the settlement currency
    pnl: Callable[[Any, Any, Any], Any]  # (signed units, entry, price) -> profit in the settlement currency
    average: Callable[[float, float, float, float], float]  # (units0, entry0, units1, price1) -> entry
    straight: Callable[[Any], Any]  # price -> x, in which notional and profit are straight lines; its own inverse
    slope: float  # of the profit of one unit in x: 1 or -1
    delta: Callable[[Any, Any], Any]  # (signed units, price) -> coins of the underlying
    dearest: Callable[[str, Any, Any], Any]  # (side, limit, mark) -> the price at which a limit would cost most
    upfront: bool = False  # the price itself changes hands: an option's premium


_LINEAR = Payoff(
    notional=lambda units, price: units * price,
    pnl=lambda units, entry, price: units * (price - entry),
    average=lambda u0, e0, u1, p1: (u0 * e0 + u1 * p1) / (u0 + u1),
    straight=lambda price: price,
    slope=1.0,
    delta=lambda units, price: units,
    dearest=lambda side, limit, mark: larger(limit, mark) if side == "sell" else limit,
)

_INVERSE = Payoff(  # units in USD, money in the coin
    notional=lambda units, price: units / price,
    pnl=lambda units, entry, price: units / entry - units / price,
    average=lambda u0, e0, u1, p1: (u0 + u1) / (u0 / e0 + u1 / p1),
    straight=lambda price: 1.0 / price,
    slope=-1.0,
    delta=lambda units, price: units / price,
    dearest=lambda side, limit, mark: smaller(limit, mark) if side == "buy" else limit,
)

_PREMIUM = replace(_LINEAR, upfront=True, dearest=lambda side, limit, mark: limit)  # units in coins of the underlying

PAYOFFS: dict[Kind, Payoff | None] = {
    # Source: rule book section 1.1; reproduced by the ISO-LIN, CROSS-LIN, ISO-INV and CROSS-INV captures.
    Kind.SPOT: _LINEAR,
    Kind.LINEAR_SWAP: _LINEAR,
    Kind.INVERSE_SWAP: _INVERSE,
    Kind.LINEAR_FUTURE: _LINEAR,
    Kind.INVERSE_FUTURE: _INVERSE,
    Kind.OPTION: _PREMIUM,
}
"""One row per kind; None raises NotSupported, never a wrong number."""
