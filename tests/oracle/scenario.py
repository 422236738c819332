"""Scripts: where an account begins, and what happens to it, one act after the other. Floats that print exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bt_margin.rules.book import load_rules
from tests.oracle.contract import Contract, TierRow, exact


@dataclass(frozen=True)
class Move:
    """All marks go to these: in a straight line, or at once (`jump`, the gap between two bars)."""

    time: int
    marks: Mapping[str, float]
    jump: bool


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
    """`funding` holds (time, rate) by symbol; rates are settled by whoever replays."""

    name: str
    mode: str
    hedge: bool
    time: int
    cash: Mapping[str, float]
    marks: Mapping[str, float]
    funding: Mapping[str, tuple[tuple[int, float], ...]]
    acts: tuple[Act, ...]


def contract_of(symbol: str, time: int) -> Contract:
    """The venue's figures of a contract that day: data, read from the rule tables. The arithmetic is the oracle's."""
    rules = load_rules("okx").as_of(time, "nearest")
    listed, fees = rules.instrument(symbol), rules.fees("future" if "-" in symbol else "swap")
    rows = tuple(TierRow(exact(row.max_size), exact(row.maintenance), exact(row.max_leverage))
                 for row in rules.tiers(symbol).rows)
    return Contract(
        symbol, listed.settle, listed.base, listed.settle != listed.base, exact(listed.contract_size),
        exact(listed.lot), exact(listed.tick), exact(fees.taker), exact(fees.maker), rows,
    )
