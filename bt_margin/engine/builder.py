"""The position builder: what a book requires, mode by mode, and what if the market moved.

Books enter as dicts (the JSON file of `bt-margin margin`, schema in the README) or as dumps of ccxt's OKX replies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import numpy as np

from bt_margin.engine import credit, portfolio_orders
from bt_margin.engine import orders as order_rules
from bt_margin.engine.switching import least_equity, takes_isolated
from bt_margin.engine.what_if import WhatIf, traded
from bt_margin.errors import BtMarginError, InputError, MissingPrice, NoRuleInForce, NotSupported
from bt_margin.model.account import MARGIN_MODES, Account, Order, Position
from bt_margin.model.assessment import AccountReport, iso
from bt_margin.model.borrowing import Borrowing, SpotUse
from bt_margin.model.instrument import Instrument
from bt_margin.model.loan import LONG, MarginPosition, default_collateral
from bt_margin.model.market import Market
from bt_margin.model.number import LARGEST, SMALLEST, usable
from bt_margin.modes import MODES, borrow, mode_named, options
from bt_margin.modes import spot_margin as spot_margin_rules
from bt_margin.modes.assess import account_pools, assess
from bt_margin.modes.base import judge
from bt_margin.rules.book import RuleBook, Rules, load_rules

DEFAULT_SHIFTS = tuple(round(x / 100, 2) for x in range(-50, 55, 5))


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


@dataclass(frozen=True, slots=True)
class StressRow:
    """The account with every mark and last price moved by `shift` (-0.1 = 10 % down)."""

    shift: float
    equity_usd: float
    margin_ratio: float | None
    state: str


class PositionBuilder:
    """A book at one instant. Sizes are taken as given; lots bind orders only."""

    def __init__(self, book: BookFile) -> None:
        self._book = book
        self._time = parse_time(book.time, "time")
        as_of = self._time if book.rules.as_of is None else parse_time(book.rules.as_of, "rules.as_of")
        rules: RuleBook = load_rules(book.rules.venue).overlay(
            instruments=book.instruments, fees=book.fees, discounts=book.discounts, borrow_tiers=book.borrow_tiers,
            parameters={"portfolio": book.portfolio} if book.portfolio else {},
        )
        self._rules: Rules = rules.as_of(as_of, book.rules.extrapolate)

    @classmethod
    def from_dict(cls, book: Mapping[str, Any]) -> PositionBuilder:
        """Read a book. Raises InputError with the key's path for anything unknown, missing or not finite."""
        _check_numbers(book, "")
        try:
            return cls(msgspec.convert(dict(book), BookFile))
        except msgspec.ValidationError as error:
            raise InputError(f"book: {error}") from None

    @classmethod
    def from_ccxt(
        cls,
        positions: Sequence[Mapping[str, Any]],
        balance: Mapping[str, Any],
        *,
        time: str | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> PositionBuilder:
        """Read dumps of ccxt's OKX `fetch_positions()` and `fetch_balance()`.

        Balances come from `info` (`cashBal`: ccxt's own `total` already holds unrealised profit), the sign of a
        one-way position from `side`, USD prices of currencies from `eqUsd / eq`.
        """
        details = _path(balance, "balance", "info", "data", 0, "details")
        stamp = time or _stamp(positions, balance)
        book: dict[str, Any] = {
            "time": stamp, "balances": {}, "positions": [], "prices": {"mark": {}, "index": {}},
            "rules": dict(rules or {}), "borrow": {"interest": {}},
        }
        for row in details:
            book["balances"][row["ccy"]] = float(row["cashBal"])
            equity, usd = float(row.get("eq") or 0), float(row.get("eqUsd") or 0)
            if equity * usd > 0:
                book["prices"]["index"][f"{row['ccy']}/USD"] = usd / equity
            if float(row.get("interest") or 0) > 0:
                book["borrow"]["interest"][row["ccy"]] = float(row["interest"])
        for row in positions:
            contracts = row.get("contracts")
            if not contracts:
                continue
            info = row.get("info", {})
            side = info.get("posSide", "net")
            sign = -1.0 if row["side"] == "short" and side == "net" else 1.0
            entry: dict[str, Any] = {
                "symbol": row["symbol"], "contracts": sign * float(contracts), "position_side": side,
                "entry_price": float(row["entryPrice"]), "margin_mode": row["marginMode"],
                "leverage": float(row["leverage"] or info.get("lever") or 0),
            }
            if row["marginMode"] == "isolated":
                entry["margin"] = float(info.get("margin") or row.get("collateral") or 0)
            book["positions"].append(entry)
            book["prices"]["mark"][row["symbol"]] = float(row["markPrice"])
        return cls.from_dict(book)

    def report(self, mode: str) -> AccountReport:
        """What the book requires in one mode. Raises where the mode refuses it."""
        account, market = self._account(mode), self._market()
        answer = _GATES.get(mode, order_rules.report)
        rows = tuple(answer(account, order, market, self._rules) for order in self._orders(account, mode))
        for order in self._orders(account, mode):
            account.place(order)
        report = assess(account, mode_named(mode), market, self._rules, (), rows)
        unusual = spot_margin_rules.unusual_collateral(account.positions.values(), self._rules)
        least = least_equity(mode_named(mode), self._rules)
        if report.account.equity_usd < least:
            unusual.append(f"{mode}: an account needs {least:,.10g} USD to enter, this one has "
                           f"{report.account.equity_usd:,.2f}")
        return replace(report, warnings=(*report.warnings, *unusual))

    def reports(self, mode: str | None = None) -> tuple[list[AccountReport], list[dict[str, str]]]:
        """One mode (a refusal raises), or every mode: (reports, refused with reasons)."""
        if mode is not None:
            return [self.report(mode)], []
        done: list[AccountReport] = []
        refused: list[dict[str, str]] = []
        for name in MODES:
            try:
                done.append(self.report(name))
            except (NotSupported, NoRuleInForce, _Refused) as error:
                refused.append({"mode": name, "reason": str(error)})
        if not done:
            raise InputError(refused[0]["reason"])
        return done, refused

    def adding(self, trades: Mapping[str, float], leverage: float | None = None) -> PositionBuilder:
        """The book after some trades at the mark: signed contracts (coins for spot) by symbol, no fees.

        `leverage`: the setting of positions that open, where the mode asks for one. Raises InputError, MissingPrice.
        """
        book: dict[str, Any] = msgspec.to_builtins(self._book)
        book["positions"] = [{k: v for k, v in row.items() if v is not None} for row in book["positions"]]
        for symbol, size in trades.items():
            if not math.isfinite(size):
                raise InputError(f"what_if.{symbol}: expected a finite size, found {size}")
            instrument = self._instrument(symbol, f"what_if.{symbol}")
            book = traded(book, symbol, size, instrument, self._market(), leverage)
        return PositionBuilder.from_dict(book)

    def what_if(self, mode: str, trades: Mapping[str, float], leverage: float | None = None) -> WhatIf:
        """The book before and after some trades, in one mode: which charge of which unit moved by how much."""
        return WhatIf(dict(trades), self.report(mode), self.adding(trades, leverage).report(mode))

    def what_ifs(
        self, trades: Mapping[str, float], modes: Iterable[str], leverage: float | None = None
    ) -> tuple[list[WhatIf], list[dict[str, str]]]:
        """The same in several modes: (changes, refused with reasons). Raises InputError where all of them refuse."""
        done: list[WhatIf] = []
        refused: list[dict[str, str]] = []
        for mode in modes:
            try:
                done.append(self.what_if(mode, trades, leverage))
            except (NotSupported, NoRuleInForce, _Refused) as error:
                refused.append({"mode": mode, "reason": f"what if: {error}"})
        if not done:
            raise InputError(refused[0]["reason"])
        return done, refused

    def stress(self, mode: str, shifts: Iterable[float] = DEFAULT_SHIFTS) -> list[StressRow]:
        """Move every price together and judge all instants at once; `margin_ratio` is the lowest of the pools."""
        moves = np.asarray(sorted(shifts), dtype=float)
        if np.any(moves <= -1) or not np.all(np.isfinite(moves)):
            raise InputError("stress: shifts must be finite and above -1 (a fall of 100 % leaves no price)")
        account, base = self._account(mode), self._market()
        market = options.moved(base, account.positions.values(), moves)
        lowest = np.full(moves.shape, np.inf)
        equity = np.zeros(moves.shape)
        level = self._rules.liquidation
        for currency in dict.fromkeys((*account.balances, *account.accrued)):
            amount = account.balance(currency) - account.accrued.get(currency, 0.0)
            if amount:
                equity = equity + amount * market.usd(currency)
        for position in account.positions.values():
            value = position.margin + position.value(market)
            equity = equity + value * market.usd(position.currency)
        for pool in account_pools(account, mode_named(mode)):
            if pool.positions or pool.holdings is not None:
                judgement = judge(pool, market, self._rules)
                needs = np.asarray(judgement.requirement, dtype=float)
                ratios = judgement.equity / np.where(needs > 0, needs, 1.0)
                lowest = np.where(needs > 0, np.minimum(lowest, ratios), lowest)
        return [
            StressRow(
                float(shift), float(value), float(low) if math.isfinite(low) else None,
                "liquidation" if low <= level.liquidation_ratio else
                "warning" if low <= level.warning_ratio else "safe",
            )
            for shift, value, low in zip(moves, equity, lowest, strict=True)
        ]

    # -- from rows to values ------------------------------------------------------------------------------------

    def _market(self) -> Market:
        prices = self._book.prices
        market = Market(self._time, dict(prices.mark), dict(prices.last), dict(prices.index),
                        forwards=dict(prices.forward))
        for symbol, vol in prices.vol.items():  # an option without a mark is priced from its vol and forward
            if symbol in prices.mark:
                continue
            instrument = self._instrument(symbol, f"prices.vol.{symbol}")
            if not instrument.is_option:
                raise InputError(f"prices.vol.{symbol}: expected an option, found {instrument.kind}")
            stem = "-".join(symbol.split("-")[:2])
            if stem not in prices.forward:
                raise MissingPrice(f"prices.forward.{stem}: needed to price {symbol} from its vol; add it, or a mark")
            index = 1.0 if instrument.settle == instrument.base else float(market.index(instrument.pair))
            years = options.years_left(instrument, self._time)
            market.marks[symbol] = float(  # type: ignore[index]
                options.model_mark(instrument, prices.forward[stem], index, years, vol)
            )
        return market

    def _account(self, mode: str) -> Account:
        mode_named(mode)
        hedge = any(row.position_side != "net" for row in self._book.positions)
        account = Account(self._book.balances, "hedge" if hedge else "net")
        if mode in _BORROWING:
            self._take_borrowing(account)
        if mode == _PORTFOLIO:
            self._take_spot_use(account)
        for currency, amount in account.balances.items():
            if amount < 0 and mode not in _BORROWING:
                raise _Refused(
                    f"balances.{currency}: {mode} margin knows no debt, found {amount:g}; debts belong to the "
                    "multi-currency and portfolio modes"
                )
        for i, row in enumerate(self._book.positions):
            position = self._position(row, f"positions[{i}]", account, mode)
            if position.margin_mode == "isolated" and not takes_isolated(
                position, mode_named(mode), self._rules
            ):
                raise _Refused(f"positions[{i}].margin_mode: {mode} margin takes no isolated positions any "
                               "more at that time (50072)")
            if mode == _PORTFOLIO and position.margin_mode == "cross" and position.side != "net":
                raise _Refused(f"positions[{i}].position_side: portfolio margin is one-way; expected net, "
                               f"found {position.side}")
            if mode in _BORROWING and isinstance(position, MarginPosition) and position.margin_mode == "cross":
                credit.dissolve(position, account)
            else:
                account.adopt(position)
        if mode in _BORROWING:
            credit.check_choices(account, self._rules)
        return account

    def _take_spot_use(self, account: Account) -> None:
        """The book's choices about spot in use, each checked."""
        row = self._book.spot_in_use
        for coin, cap in row.cap.items():
            if cap < 0:
                raise InputError(f"spot_in_use.cap.{coin}: expected coins, zero or more, found {cap:g}")
        for coin, side in row.unit.items():
            choices = [coin if choice == "coin" else choice for choice in self._rules.portfolio(coin).spot_choices]
            if side not in choices:
                raise InputError(f"spot_in_use.unit.{coin}: expected one of {', '.join(choices)}, found {side!r}")
        account.spot_use = SpotUse(dict(row.cap), dict(row.unit))

    def _take_borrowing(self, account: Account) -> None:
        """The book's choices about borrowing, each checked."""
        row = self._book.borrow
        off = frozenset(row.collateral_off)
        if off and not self._rules.multi_currency.collateral_switch:
            raise _Refused("borrow.collateral_off: coins could not be switched off as collateral yet at that time")
        for currency, leverage in row.leverage.items():
            path = f"borrow.leverage.{currency}"
            if leverage < 1:
                raise InputError(f"{path}: expected a setting of 1 or more, found {leverage:g}")
            if why := borrow.refused_leverage(currency, leverage, self._rules):
                raise InputError(f"{path}: {why}")
        for currency, amount in row.interest.items():
            if amount < 0:
                raise InputError(f"borrow.interest.{currency}: expected zero or more, found {amount:g}")
            account.accrued[currency] = amount
            account.opening[currency] = account.opening.get(currency, 0.0) - amount
        account.borrowing = Borrowing(row.auto, dict(row.leverage), off)

    def _position(self, row: PositionRow, path: str, account: Account, mode: str) -> Position:
        instrument = self._instrument(row.symbol, path)
        instrument.payoff  # noqa: B018  raises for products that are not built yet
        if row.margin_mode not in ("cross", "isolated"):
            raise InputError(f"{path}.margin_mode: expected cross or isolated, found {row.margin_mode!r}")
        if instrument.is_spot:
            loan = self._loan(row, instrument, path)
            if mode == "isolated" and row.margin_mode == "cross":
                return replace(loan, margin_mode="isolated", margin=_take_margin(loan, path, account))
            return loan
        for name in ("direction", "margin_currency", "assets", "liability", "interest"):
            if getattr(row, name) is not None:
                raise InputError(f"{path}.{name}: {row.symbol} is no spot pair; only spot-margin positions have it")
        contracts = _needed(row.contracts, f"{path}.contracts")
        entry = _positive(row.entry_price, f"{path}.entry_price")
        if mode == _PORTFOLIO and row.margin_mode == "cross":
            leverage = 1.0  # portfolio margin knows no leverage setting: none is asked for, one given says nothing
        else:
            leverage = self._leverage(row.leverage, instrument, f"{path}.leverage")
        if contracts == 0:
            raise InputError(f"{path}.contracts: expected a size, found 0; leave the position out")
        if row.position_side != "net" and contracts < 0:
            raise InputError(f"{path}.contracts: a {row.position_side} position takes a positive size in hedge mode")
        size = -contracts if row.position_side == "short" else contracts
        margin_mode, margin = row.margin_mode, 0.0
        position = Position(instrument, margin_mode, row.position_side, size, entry, leverage)
        if instrument.is_option and size > 0:
            margin_mode = "isolated" if mode == "isolated" else margin_mode  # paid in full: no margin
        elif margin_mode == "isolated":
            margin = _positive(row.margin, f"{path}.margin")
        elif mode == "isolated":
            margin_mode, margin = "isolated", position.initial_at_entry()
            if instrument.is_option:  # an option's initial margin belongs to its mark, not to its entry
                margin = abs(size) * float(options.short_initial(instrument, self._market(), self._rules, abs(size)))
            _take_margin(position, path, account, margin)
        return replace(position, margin_mode=margin_mode, margin=margin)

    def _loan(self, row: PositionRow, instrument: Instrument, path: str) -> MarginPosition:
        """A spot-margin row. `assets` never hold the margin; `interest` is what has accrued and is not deducted yet."""
        if row.contracts is not None:
            raise InputError(f"{path}.contracts: a spot-margin position is given by assets and liability; leave it out")
        if row.position_side != "net":
            raise InputError(f"{path}.position_side: expected net; `direction` says long or short")
        if row.direction is None:
            raise InputError(f"{path}.direction: expected long or short for {row.symbol}; coins belong in balances")
        if row.margin_currency not in (instrument.base, instrument.quote):
            raise InputError(f"{path}.margin_currency: expected {instrument.base} or {instrument.quote}, "
                             f"found {row.margin_currency!r}")
        assets, interest = _positive(row.assets, f"{path}.assets"), row.interest or 0.0
        if interest < 0:
            raise InputError(f"{path}.interest: expected zero or more, found {interest:g}")
        liability = _positive(row.liability, f"{path}.liability")
        margin = _positive(row.margin, f"{path}.margin") if row.margin_mode == "isolated" else 0.0
        return MarginPosition(
            instrument, row.margin_mode, "net", assets if row.direction == LONG else -liability,
            _positive(row.entry_price, f"{path}.entry_price"),
            self._leverage(row.leverage, instrument, f"{path}.leverage"), margin, 0.0, row.direction,
            row.margin_currency, assets, liability, interest,
        )

    def _orders(self, account: Account, mode: str) -> list[Order]:
        orders = []
        for i, row in enumerate(self._book.orders):
            path = f"orders[{i}]"
            instrument = self._instrument(row.symbol, path)
            instrument.payoff  # noqa: B018
            default = "isolated" if mode == "isolated" else "cross"
            if instrument.is_spot and mode not in _BORROWING:
                default = "cash"
            margin_mode = row.margin_mode or default
            if margin_mode not in MARGIN_MODES:
                allowed = ", ".join(MARGIN_MODES)
                raise InputError(f"{path}.margin_mode: expected one of {allowed}, found {margin_mode!r}")
            cash = margin_mode == "cash" or (instrument.is_spot and margin_mode == "cross" and mode in _BORROWING)
            if not instrument.is_spot and margin_mode == "cash":
                raise InputError(f"{path}.margin_mode: {row.symbol} needs isolated or cross, found cash")
            if (row.margin_currency is not None or row.reverse) and not (instrument.is_spot and margin_mode != "cash"):
                raise InputError(f"{path}: margin_currency and reverse are for spot pairs in isolated or cross margin")
            if margin_mode == "cross" and mode == "isolated":
                margin_mode = "isolated"
            held = account.positions.get(
                Order(0, instrument, row.side, 1.0, None, margin_mode, row.position_side).key
            )
            leverage, collateral = 1.0, ""
            if instrument.is_spot and not cash:
                usual = default_collateral(instrument.base, instrument.quote, row.side)
                collateral = row.margin_currency or (held.currency if held else usual)
                if collateral not in (instrument.base, instrument.quote):
                    raise InputError(f"{path}.margin_currency: expected {instrument.base} or {instrument.quote}, "
                                     f"found {collateral!r}")
            if not cash and not (mode == _PORTFOLIO and margin_mode == "cross"):
                if held is None and instrument.is_spot:  # the pair's other margin mode tells its leverage
                    held = next((p for p in account.positions.values() if p.symbol == row.symbol), None)
                given = row.leverage if row.leverage is not None else held.leverage if held else None
                leverage = self._leverage(given, instrument, f"{path}.leverage")
            price = None if row.price is None else _positive(row.price, f"{path}.price")
            orders.append(
                Order(i + 1, instrument, row.side, _positive(row.amount, f"{path}.amount"), price, margin_mode,
                      row.position_side, leverage, row.reduce_only, collateral, row.reverse and not cash)
            )
        return orders

    def _instrument(self, symbol: str, path: str) -> Instrument:
        try:
            return self._rules.instrument(symbol)
        except InputError as error:
            raise type(error)(f"{path}.symbol: {error}") from None

    def _leverage(self, value: float | None, instrument: Instrument, path: str) -> float:
        if instrument.is_option:
            return 1.0  # options know no leverage setting
        if value is None:  # portfolio margin needs none: the book may still be one for it
            raise _Refused(f"{path}: expected a number, found nothing; add the key")
        leverage = _positive(value, path)
        spot, symbol = instrument.is_spot, instrument.symbol
        limit = (self._rules.margin_tiers(symbol) if spot else self._rules.tiers(symbol)).max_leverage
        if leverage > limit:
            raise InputError(
                f"{path}: expected at most {limit:g}, the maximum of {symbol}, found {leverage:g}"
            )
        return leverage


_PORTFOLIO = "portfolio"
_BORROWING = ("multi-currency", _PORTFOLIO)
"""Modes whose pool is the account: a missing coin is borrowed, balances may be negative."""
_GATES = {"multi-currency": credit.report, _PORTFOLIO: portfolio_orders.report}
"""How a mode answers an order, where that is not the single-currency check."""


def _take_margin(position: Position, path: str, account: Account, margin: float | None = None) -> float:
    """Take the margin of a cross position that gets a pool of its own (default: initial at entry) out of cash."""
    amount, currency = position.initial_at_entry() if margin is None else margin, position.currency
    left = account.balance(currency) - amount
    if left < 0:
        raise _Refused(f"{path}: isolated margin of {amount:,.2f} {currency} exceeds the balance left for it")
    account.balances[currency] = left
    account.opening[currency] = account.opening.get(currency, 0.0) - amount
    return amount


class _Refused(InputError):
    """This mode refuses the book; another may take it."""


def parse_time(text: str, path: str) -> int:
    """ISO text in UTC as ms since 1970; a bare date is 00:00. Raises InputError."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected a UTC time such as 2025-10-10T21:20:00Z, found {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


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


def _needed(value: float | None, path: str) -> float:
    if value is None:
        raise InputError(f"{path}: expected a number, found nothing; add the key")
    return value


def _positive(value: float | None, path: str) -> float:
    number = _needed(value, path)
    if number <= 0:
        raise InputError(f"{path}: expected a number above zero, found {number:g}")
    return number


def _path(value: Any, name: str, *keys: str | int) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{name}: expected ccxt's OKX reply with {'.'.join(map(str, keys))}") from None
    return value


def _stamp(positions: Sequence[Mapping[str, Any]], balance: Mapping[str, Any]) -> str:
    times = [row["timestamp"] for row in positions if row.get("timestamp")]
    times += [int(row["uTime"]) for row in balance.get("info", {}).get("data", []) if row.get("uTime")]
    if not times:
        raise InputError("from_ccxt: no timestamp in the dumps; pass time=")
    return iso(int(max(times)))


__all__ = ["BtMarginError", "PositionBuilder", "StressRow", "parse_time"]
