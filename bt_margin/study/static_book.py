"""A book that is entered once and then held: what it holds at a leverage, and the orders that open it.

Leverage k scales all contracts so that gross notional = k x equity at the marks of the entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bt_margin.engine.book_file import BookFile
from bt_margin.errors import InputError
from bt_margin.model.account import Account, Order
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.instrument import Kind, Number, parse
from bt_margin.model.market import STABLECOINS, Market
from bt_margin.rules.book import Extrapolate, RuleBook, Rules
from bt_margin.study.task import contract_settings


@dataclass(frozen=True, slots=True)
class StaticLeg:
    """One contract of the book. `weight`: signed contracts as the file has them; only proportions count."""

    symbol: str
    weight: float
    margin_mode: str
    side: str


@dataclass(frozen=True)
class StaticBook:
    """Legs, starting balances, choices about borrowing, and the rule book with the file's own figures laid over it.

    `as_of`: a date that freezes the rules where the file names one, else "then". `extrapolate`: never or nearest; where
    the file says nothing the nearest revision stands in, as in the broker.
    """

    legs: tuple[StaticLeg, ...]
    balances: Mapping[str, float]
    borrowing: Borrowing
    rules: RuleBook
    as_of: str
    extrapolate: Extrapolate = "nearest"

    @classmethod
    def from_dict(cls, book: Mapping[str, Any]) -> StaticBook:
        """Read a book file. Its `time` and `prices`, and entry prices, leverages and margins of its positions, belong
        to its own instant and are not used: the path gives prices, the map leverages. Raises InputError with the key's
        path for what a static book cannot hold."""
        file = BookFile.read({"time": "", **book})
        for key, given in (("orders", file.orders), ("borrow.interest", file.borrow.interest),
                           ("spot_in_use.cap", file.spot_in_use.cap), ("spot_in_use.unit", file.spot_in_use.unit)):
            if given:
                raise InputError(f"book.{key}: a static book is entered by itself and has none; leave it out")
        for currency, amount in file.balances.items():
            if not 0 <= amount < math.inf:
                raise InputError(f"balances.{currency}: expected zero or more, found {amount:g}; an account starts "
                                 "without debts")
        for currency, leverage in file.borrow.leverage.items():
            if leverage < 1:
                raise InputError(f"borrow.leverage.{currency}: expected a setting of 1 or more, found {leverage:g}")
        legs = []
        for i, row in enumerate(file.positions):
            path = f"positions[{i}]"
            if parse(row.symbol).kind in (Kind.SPOT, Kind.OPTION):
                raise InputError(f"{path}.symbol: expected a swap or future, found {row.symbol}; coins belong in "
                                 "balances, a static book takes out no loans, and options have no recorded path")
            for name in ("direction", "margin_currency", "assets", "liability", "interest"):
                if getattr(row, name) is not None:
                    raise InputError(f"{path}.{name}: {row.symbol} is no spot pair; only loans have it, and a static "
                                     "book holds none")
            contracts = row.contracts
            if contracts is None or not math.isfinite(contracts) or contracts == 0:
                raise InputError(f"{path}.contracts: expected a size other than zero, found {contracts}")
            if row.position_side != "net" and contracts < 0:
                raise InputError(f"{path}.contracts: a {row.position_side} position takes a positive size in hedge "
                                 "mode")
            if row.margin_mode not in ("cross", "isolated"):
                raise InputError(f"{path}.margin_mode: expected cross or isolated, found {row.margin_mode!r}")
            size = -contracts if row.position_side == "short" else contracts
            legs.append(StaticLeg(row.symbol, size, row.margin_mode, row.position_side))
        keys = [(leg.symbol, leg.margin_mode, leg.side) for leg in legs]
        if not legs or len(set(keys)) < len(keys):
            raise InputError("positions: expected at least one position, and each once")
        if not sum(file.balances.values()) > 0:
            raise InputError("balances: expected some money to start with, found none; for example USDT: 100000")
        choices = Borrowing(file.borrow.auto, dict(file.borrow.leverage), frozenset(file.borrow.collateral_off))
        said = "extrapolate" in book.get("rules", {})  # a file without it means never only where one instant is judged
        return cls(tuple(legs), dict(file.balances), choices, file.rule_book(), file.rules.as_of or "then",
                   file.rules.extrapolate if said else "nearest")

    def rules_at(self, time: int) -> Rules:
        """The rules at an instant, ms UTC. What stands in for a missing revision is the book's choice."""
        return self.rules.as_of(time, self.extrapolate)

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it trades, in order."""
        return tuple(dict.fromkeys(leg.symbol for leg in self.legs))

    @property
    def coins(self) -> tuple[str, ...]:
        """What has to be priced in USD besides: coins held, coins that contracts settle in, and those behind futures,
        which no perpetual of the book may stand for."""
        parts = [parse(leg.symbol) for leg in self.legs]
        settled = [x for part in parts for x in (part.settle, *([part.base] if part.expiry else []))]
        held = (currency for currency, amount in self.balances.items() if amount)
        return tuple(dict.fromkeys(c for c in (*held, *settled) if c not in STABLECOINS))

    @property
    def hedged(self) -> bool:
        """True where positions have sides: hedge mode."""
        return any(leg.side != "net" for leg in self.legs)

    def account(self, whole: bool) -> Account:
        """The account before the entry. `whole`: its mode knows choices about borrowing."""
        account = Account(self.balances, "hedge" if self.hedged else "net")
        if whole:
            account.borrowing = self.borrowing
        return account

    def sizes(self, equity_usd: float, market: Market, rules: Rules, leverages: Sequence[float]) -> list[list[float]]:
        """Signed contracts of every leg in whole lots, one row a leverage; 0: below one lot."""
        held = [rules.instrument(leg.symbol) for leg in self.legs]
        gross = sum(float(instrument.notional(leg.weight, market.mark(leg.symbol))) * float(
            market.usd(instrument.settle)) for leg, instrument in zip(self.legs, held, strict=True))
        unit = equity_usd / gross
        return [[instrument.floor(leg.weight * (leverage * unit))
                 for leg, instrument in zip(self.legs, held, strict=True)] for leverage in leverages]

    def settings(self, rules: Rules, leverage: Number, setting: float | None) -> dict[str, Number]:
        """OKX's leverage setting of its contracts, of one leverage or an array of them."""
        return contract_settings(rules, self.symbols, leverage, setting)

    def orders(self, mode: str, sizes: Sequence[float], settings: Mapping[str, Number], rules: Rules) -> list[Order]:
        """The market orders that open the legs, in order; portfolio margin knows no setting."""
        found = []
        for i, (leg, size) in enumerate(zip(self.legs, sizes, strict=True)):
            margin_mode = "isolated" if mode == "isolated" else leg.margin_mode
            lever = 1.0 if mode == "portfolio" and margin_mode == "cross" else float(settings[leg.symbol])
            found.append(Order(i + 1, rules.instrument(leg.symbol), "buy" if size > 0 else "sell", abs(size), None,
                               margin_mode, leg.side, lever))
        return found
