"""The position builder: what a book requires, mode by mode, and what if the market moved.

Books enter as dicts (the JSON file of `bt-margin margin`, schema in the README) or as dumps of ccxt's OKX replies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from bt_margin.engine import credit, portfolio_orders
from bt_margin.engine import orders as order_rules
from bt_margin.engine.book_file import BookFile
from bt_margin.engine.book_values import PORTFOLIO, BookValues, Refused
from bt_margin.engine.ccxt_dumps import book_of_dumps
from bt_margin.engine.switching import least_equity
from bt_margin.engine.what_if import WhatIf, traded
from bt_margin.errors import InputError, NoRuleInForce, NotSupported
from bt_margin.model.assessment import AccountReport
from bt_margin.model.moment import parse_time
from bt_margin.modes import MODES, mode_named, options
from bt_margin.modes import spot_margin as spot_margin_rules
from bt_margin.modes.assess import account_pools, assess
from bt_margin.modes.base import judge

DEFAULT_SHIFTS = tuple(round(x / 100, 2) for x in range(-50, 55, 5))
_GATES = {"multi-currency": credit.report, PORTFOLIO: portfolio_orders.report}
"""How a mode answers an order, where that is not the single-currency check."""


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
        time = parse_time(book.time, "time")
        as_of = time if book.rules.as_of is None else parse_time(book.rules.as_of, "rules.as_of")
        self._book = book
        self._rules = book.rule_book().as_of(as_of, book.rules.extrapolate)
        self._values = BookValues(book, self._rules, time)

    @classmethod
    def from_dict(cls, book: Mapping[str, Any]) -> PositionBuilder:
        """Read a book. Raises InputError with the key's path for anything unknown, missing or not finite."""
        return cls(BookFile.read(book))

    @classmethod
    def from_ccxt(
        cls,
        positions: Sequence[Mapping[str, Any]],
        balance: Mapping[str, Any],
        *,
        time: str | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> PositionBuilder:
        """Read dumps of ccxt's OKX `fetch_positions()` and `fetch_balance()`. Raises InputError for what are none.

        `time`: ISO text in UTC, by default the youngest of the dumps; `rules`: as in a book.
        """
        return cls.from_dict(book_of_dumps(positions, balance, time, rules))

    def report(self, mode: str) -> AccountReport:
        """What the book requires in one mode. Raises where the mode refuses it."""
        account, market = self._values.account(mode), self._values.market()
        answer = _GATES.get(mode, order_rules.report)
        orders = self._values.orders(account, mode)
        rows = tuple(answer(account, order, market, self._rules) for order in orders)
        for order in orders:
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
            except (NotSupported, NoRuleInForce, Refused) as error:
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
            instrument = self._values.instrument(symbol, f"what_if.{symbol}")
            book = traded(book, symbol, size, instrument, self._values.market(), leverage)
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
            except (NotSupported, NoRuleInForce, Refused) as error:
                refused.append({"mode": mode, "reason": f"what if: {error}"})
        if not done:
            raise InputError(refused[0]["reason"])
        return done, refused

    def stress(self, mode: str, shifts: Iterable[float] = DEFAULT_SHIFTS) -> list[StressRow]:
        """Move every price together and judge all instants at once; `margin_ratio` is the lowest of the pools."""
        moves = np.asarray(sorted(shifts), dtype=float)
        if np.any(moves <= -1) or not np.all(np.isfinite(moves)):
            raise InputError("stress: shifts must be finite and above -1 (a fall of 100 % leaves no price)")
        account, base = self._values.account(mode), self._values.market()
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


__all__ = ["PositionBuilder", "StressRow", "parse_time"]
