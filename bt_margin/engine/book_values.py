"""What a book holds, as the values that the modes judge: its market, and account and orders as a mode reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bt_margin.engine import credit
from bt_margin.engine.book_file import BookFile, PositionRow
from bt_margin.engine.switching import takes_isolated
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import MARGIN_MODES, Account, Order, Position
from bt_margin.model.borrowing import Borrowing, SpotUse
from bt_margin.model.instrument import Instrument
from bt_margin.model.loan import LONG, MarginPosition, default_collateral
from bt_margin.model.market import Market
from bt_margin.modes import borrow, mode_named, options
from bt_margin.rules.book import Rules

PORTFOLIO = "portfolio"
BORROWING = ("multi-currency", PORTFOLIO)
"""Modes whose pool is the account: a missing coin is borrowed, balances may be negative."""


class Refused(InputError):
    """This mode refuses the book; another may take it."""


@dataclass(frozen=True)
class BookValues:
    """A book at its instant, `time` in ms UTC. Every error names the key's path."""

    file: BookFile
    rules: Rules
    time: int

    def market(self) -> Market:
        """Its prices. An option without a mark is priced from its vol and forward; raises MissingPrice without one."""
        prices = self.file.prices
        market = Market(self.time, dict(prices.mark), dict(prices.last), dict(prices.index),
                        forwards=dict(prices.forward))
        for symbol, vol in prices.vol.items():
            if symbol in prices.mark:
                continue
            instrument = self.instrument(symbol, f"prices.vol.{symbol}")
            if not instrument.is_option:
                raise InputError(f"prices.vol.{symbol}: expected an option, found {instrument.kind}")
            stem = "-".join(symbol.split("-")[:2])
            if stem not in prices.forward:
                raise MissingPrice(f"prices.forward.{stem}: needed to price {symbol} from its vol; add it, or a mark")
            index = 1.0 if instrument.settle == instrument.base else float(market.index(instrument.pair))
            years = options.years_left(instrument, self.time)
            market.marks[symbol] = float(  # type: ignore[index]
                options.model_mark(instrument, prices.forward[stem], index, years, vol)
            )
        return market

    def account(self, mode: str) -> Account:
        """Its balances, debts and positions. Raises Refused for what this mode does not take, InputError for what none
        does."""
        mode_named(mode)
        hedge = any(row.position_side != "net" for row in self.file.positions)
        account = Account(self.file.balances, "hedge" if hedge else "net")
        if mode in BORROWING:
            self._take_borrowing(account)
        if mode == PORTFOLIO:
            self._take_spot_use(account)
        for currency, amount in account.balances.items():
            if amount < 0 and mode not in BORROWING:
                raise Refused(
                    f"balances.{currency}: {mode} margin knows no debt, found {amount:g}; debts belong to the "
                    "multi-currency and portfolio modes"
                )
        for i, row in enumerate(self.file.positions):
            position = self._position(row, f"positions[{i}]", account, mode)
            if position.margin_mode == "isolated" and not takes_isolated(
                position, mode_named(mode), self.rules
            ):
                raise Refused(f"positions[{i}].margin_mode: {mode} margin takes no isolated positions any "
                               "more at that time (50072)")
            if mode == PORTFOLIO and position.margin_mode == "cross" and position.side != "net":
                raise Refused(f"positions[{i}].position_side: portfolio margin is one-way; expected net, "
                               f"found {position.side}")
            if mode in BORROWING and isinstance(position, MarginPosition) and position.margin_mode == "cross":
                credit.dissolve(position, account)
            else:
                account.adopt(position)
        if mode in BORROWING:
            credit.check_choices(account, self.rules)
        return account

    def _take_spot_use(self, account: Account) -> None:
        """The book's choices about spot in use, each checked."""
        row = self.file.spot_in_use
        for coin, cap in row.cap.items():
            if cap < 0:
                raise InputError(f"spot_in_use.cap.{coin}: expected coins, zero or more, found {cap:g}")
        for coin, side in row.unit.items():
            choices = [coin if choice == "coin" else choice for choice in self.rules.portfolio(coin).spot_choices]
            if side not in choices:
                raise InputError(f"spot_in_use.unit.{coin}: expected one of {', '.join(choices)}, found {side!r}")
        account.spot_use = SpotUse(dict(row.cap), dict(row.unit))

    def _take_borrowing(self, account: Account) -> None:
        """The book's choices about borrowing, each checked."""
        row = self.file.borrow
        off = frozenset(row.collateral_off)
        if off and not self.rules.multi_currency.collateral_switch:
            raise Refused("borrow.collateral_off: coins could not be switched off as collateral yet at that time")
        for currency, leverage in row.leverage.items():
            path = f"borrow.leverage.{currency}"
            if leverage < 1:
                raise InputError(f"{path}: expected a setting of 1 or more, found {leverage:g}")
            if why := borrow.refused_leverage(currency, leverage, self.rules):
                raise InputError(f"{path}: {why}")
        for currency, amount in row.interest.items():
            if amount < 0:
                raise InputError(f"borrow.interest.{currency}: expected zero or more, found {amount:g}")
            account.accrued[currency] = amount
            account.opening[currency] = account.opening.get(currency, 0.0) - amount
        account.borrowing = Borrowing(row.auto, dict(row.leverage), off)

    def _position(self, row: PositionRow, path: str, account: Account, mode: str) -> Position:
        instrument = self.instrument(row.symbol, path)
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
        if mode == PORTFOLIO and row.margin_mode == "cross":
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
                margin = abs(size) * float(options.short_initial(instrument, self.market(), self.rules, abs(size)))
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

    def orders(self, account: Account, mode: str) -> list[Order]:
        """Its open orders, numbered from 1; `account`: as this mode reads it, for the settings of what is held."""
        orders = []
        for i, row in enumerate(self.file.orders):
            path = f"orders[{i}]"
            instrument = self.instrument(row.symbol, path)
            instrument.payoff  # noqa: B018
            default = "isolated" if mode == "isolated" else "cross"
            if instrument.is_spot and mode not in BORROWING:
                default = "cash"
            margin_mode = row.margin_mode or default
            if margin_mode not in MARGIN_MODES:
                allowed = ", ".join(MARGIN_MODES)
                raise InputError(f"{path}.margin_mode: expected one of {allowed}, found {margin_mode!r}")
            cash = margin_mode == "cash" or (instrument.is_spot and margin_mode == "cross" and mode in BORROWING)
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
            if not cash and not (mode == PORTFOLIO and margin_mode == "cross"):
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

    def instrument(self, symbol: str, path: str) -> Instrument:
        """What a symbol of the book stands for."""
        try:
            return self.rules.instrument(symbol)
        except InputError as error:
            raise type(error)(f"{path}.symbol: {error}") from None

    def _leverage(self, value: float | None, instrument: Instrument, path: str) -> float:
        if instrument.is_option:
            return 1.0  # options know no leverage setting
        if value is None:  # portfolio margin needs none: the book may still be one for it
            raise Refused(f"{path}: expected a number, found nothing; add the key")
        leverage = _positive(value, path)
        spot, symbol = instrument.is_spot, instrument.symbol
        limit = (self.rules.margin_tiers(symbol) if spot else self.rules.tiers(symbol)).max_leverage
        if leverage > limit:
            raise InputError(
                f"{path}: expected at most {limit:g}, the maximum of {symbol}, found {leverage:g}"
            )
        return leverage


def _take_margin(position: Position, path: str, account: Account, margin: float | None = None) -> float:
    """Take the margin of a cross position that gets a pool of its own (default: initial at entry) out of cash."""
    amount, currency = position.initial_at_entry() if margin is None else margin, position.currency
    left = account.balance(currency) - amount
    if left < 0:
        raise Refused(f"{path}: isolated margin of {amount:,.2f} {currency} exceeds the balance left for it")
    account.balances[currency] = left
    account.opening[currency] = account.opening.get(currency, 0.0) - amount
    return amount


def _needed(value: float | None, path: str) -> float:
    if value is None:
        raise InputError(f"{path}: expected a number, found nothing; add the key")
    return value


def _positive(value: float | None, path: str) -> float:
    number = _needed(value, path)
    if number <= 0:
        raise InputError(f"{path}: expected a number above zero, found {number:g}")
    return number
