"""Scripts: where an account begins, and what happens to it, one act after the other. Floats that print exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from bt_margin.rules.book import load_rules
from tests.oracle.clock import Deleveraging
from tests.oracle.contract import Contract, TierRow, exact, ms_of
from tests.oracle.multi_currency import Terms
from tests.oracle.option import Option
from tests.oracle.unit import UnitTerms

BOOK = load_rules("okx")
HOUR = 3_600_000
RIGHTS = ("-C", "-P")


@dataclass(frozen=True)
class Move:
    """All marks (and prices of spot pairs, indexes, forwards) go to these: in a straight line, or at once (`jump`, the
    gap between two bars).
    """

    time: int
    marks: Mapping[str, float]
    jump: bool
    indexes: Mapping[str, float] = field(default_factory=dict)
    forwards: Mapping[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, float]:
        """Everything by one name each: the forward of an expiry may be called as the future is."""
        return {**self.marks, **self.indexes, **forwards_of(self), "time": self.time}


@dataclass(frozen=True)
class Trade:
    """An order at the market, filled at `price`; with `rest` a limit order that is only placed."""

    id: int
    symbol: str
    buy: bool
    size: float
    price: float
    margin_mode: str
    side: str
    leverage: float
    reduce_only: bool = False
    rest: bool = False


@dataclass(frozen=True)
class FillResting:
    """Fill so many contracts of a resting order at its limit, as a maker; nothing where it rests no more."""

    id: int
    size: float


@dataclass(frozen=True)
class Cancel:
    id: int


@dataclass(frozen=True)
class AddMargin:
    key: tuple[str, str, str]
    amount: float


@dataclass(frozen=True)
class SetLeverage:
    key: tuple[str, str, str]
    leverage: float


Act = Move | Trade | FillResting | Cancel | AddMargin | SetLeverage


@dataclass(frozen=True)
class Scenario:
    """`funding` holds (time, rate) by symbol; rates are settled by whoever replays. `terms`: of a whole account, its
    currencies, what they count for and what owing them costs; `indexes` are then their USD prices, "BTC/USD".
    """

    name: str
    mode: str
    hedge: bool
    time: int
    cash: Mapping[str, float]
    marks: Mapping[str, float]
    funding: Mapping[str, tuple[tuple[int, float], ...]]
    acts: tuple[Act, ...]
    indexes: Mapping[str, float] = field(default_factory=dict)
    forwards: Mapping[str, float] = field(default_factory=dict)
    terms: Terms | None = None
    deleveraging: tuple[Deleveraging, ...] = ()


def forwards_of(source: Move | Scenario) -> dict[str, float]:
    return {f"forward {name}": price for name, price in source.forwards.items()}


def contract_of(symbol: str, time: int) -> Contract:
    """The venue's figures of a contract that day: data, read from the rule tables. The arithmetic is the oracle's."""
    rules = BOOK.as_of(time, "nearest")
    listed, fees = rules.instrument(symbol), rules.fees("future" if "-" in symbol else "swap")
    rows = tuple(TierRow(exact(row.max_size), exact(row.maintenance), exact(row.max_leverage))
                 for row in rules.tiers(symbol).rows)
    return Contract(
        symbol, listed.settle, listed.base, listed.settle != listed.base, exact(listed.contract_size),
        exact(listed.lot), exact(listed.tick), exact(fees.taker), exact(fees.maker), rows,
    )


def spot_of(symbol: str, time: int) -> tuple[str, str, Decimal]:
    """(base, quote, lot) of a spot pair that day."""
    base, _, quote = symbol.partition("/")
    return base, quote, exact(BOOK.as_of(time, "nearest").instrument(symbol).lot)


def option_of(symbol: str, time: int) -> Option:
    """The venue's figures of an option that day."""
    rules = BOOK.as_of(time, "nearest")
    listed, fees = rules.instrument(symbol), rules.fees("option")
    row = rules.option(listed.base)
    assert listed.settle == listed.base
    assert row.factors == ((math.inf, 1.0),)
    _, day, strike, right = symbol.split("-")
    return Option(
        symbol, listed.base, right == "C", float(strike), ms_of(day), exact(listed.contract_size), exact(listed.lot),
        exact(fees.taker), exact(fees.maker), exact(row.fee_cap), exact(row.liquidation_fee_cap), exact(row.a),
        exact(row.b), exact(row.c), exact(row.min_order),
        exact(row.exercise_rate), exact(row.exercise_cap), row.charges_fee_in_orders,
    )


def unit_terms(coin: str, time: int) -> UnitTerms:
    """Rows of the portfolio table that day; two coins have options."""
    rules = BOOK.as_of(time, "nearest")
    return UnitTerms(rules.portfolio(coin), rules.portfolio_options(coin) if coin in ("BTC", "ETH") else None,
                     rules.portfolio_depeg(coin))
