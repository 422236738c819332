"""The book file: a dict's shape, every number of it in bounds, and the rules with its own figures laid over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from bt_margin.errors import InputError
from bt_margin.model.number import LARGEST, SMALLEST, usable
from bt_margin.rules.book import RuleBook, load_rules


class PositionRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    symbol: str
    margin_mode: str = "cross"
    contracts: float | None = None
    entry_price: float | None = None
    leverage: float | None = None
    position_side: Literal["net", "long", "short"] = "net"
    margin: float | None = None
    # spot-margin positions
    direction: Literal["long", "short"] | None = None
    margin_currency: str | None = None
    assets: float | None = None
    liability: float | None = None
    interest: float | None = None


class OrderRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    symbol: str
    side: Literal["buy", "sell"]
    amount: float
    price: float | None = None
    margin_mode: str | None = None
    leverage: float | None = None
    position_side: Literal["net", "long", "short"] = "net"
    reduce_only: bool = False
    margin_currency: str | None = None
    reverse: bool = False


class Prices(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    mark: dict[str, float] = {}
    last: dict[str, float] = {}
    index: dict[str, float] = {}
    vol: dict[str, float] = {}
    forward: dict[str, float] = {}


class BorrowRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What the modes whose pool is the account ask about borrowing; `interest`: accrued, not deducted yet, by coin."""

    auto: bool = True
    leverage: dict[str, float] = {}
    interest: dict[str, float] = {}
    collateral_off: list[str] = []


class SpotRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What portfolio margin asks about spot: coins that may hedge at most, and which settlement's unit they join."""

    cap: dict[str, float] = {}
    unit: dict[str, str] = {}


class RulesRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    venue: str = "okx"
    as_of: str | None = None
    extrapolate: Literal["never", "nearest"] = "never"


class BookFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    time: str
    balances: dict[str, float] = {}
    positions: list[PositionRow] = []
    orders: list[OrderRow] = []
    prices: Prices = Prices()
    borrow: BorrowRow = BorrowRow()
    spot_in_use: SpotRow = SpotRow()
    rules: RulesRow = RulesRow()
    instruments: dict[str, dict[str, Any]] = {}
    fees: dict[str, dict[str, float]] = {}
    discounts: dict[str, list[list[float]]] = {}
    borrow_tiers: dict[str, list[list[float]]] = {}
    portfolio: dict[str, Any] = {}

    @classmethod
    def read(cls, book: Mapping[str, Any]) -> BookFile:
        """A dict as a book. Raises InputError with the key's path for anything unknown, missing or not finite."""
        _check_numbers(book, "")
        try:
            return msgspec.convert(dict(book), cls)
        except msgspec.ValidationError as error:
            raise InputError(f"book: {error}") from None

    def rule_book(self) -> RuleBook:
        """The venue's rules with the book's own figures laid over them. Raises InputError with the key's path."""
        return load_rules(self.rules.venue).overlay(
            instruments=self.instruments, fees=self.fees, discounts=self.discounts, borrow_tiers=self.borrow_tiers,
            parameters={"portfolio": self.portfolio} if self.portfolio else {},
        )


_DEEPEST = 12
"""Books have no more levels; what has is none, and would end the search in Python's own limit."""


def _check_numbers(value: Any, path: str, depth: int = 0) -> None:
    """Every number finite and within bounds, every price above zero; the path names the first that is not."""
    if depth > _DEEPEST:
        raise InputError(f"{path[:80]}: expected figures, found more than {_DEEPEST} levels of tables")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_numbers(item, f"{path}[{i}]", depth + 1)
    elif isinstance(value, (int, float)) and not usable(value):
        raise InputError(f"{path}: expected a finite number, 0 or {SMALLEST:g} to {LARGEST:g} in size, "
                         f"found {value!r:.40}")
    elif isinstance(value, (int, float)) and path.startswith("prices.") and value <= 0:
        raise InputError(f"{path}: expected a price above zero, found {value}")
