"""Multi-currency margin as a judgement: one pool, all currencies (okx-multi-currency.md, sections 0 to 4).

A static account; contracts are judged as in `cross`, currency by currency, and valued in USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from tests.oracle import cross
from tests.oracle.book import Book, Prices
from tests.oracle.contract import ONE, ZERO

Discounts = tuple[tuple[Decimal, Decimal], ...]
"""(marginal upper bound in coin, rate)."""


@dataclass(frozen=True)
class BorrowRow:
    ceiling: Decimal
    maintenance: Decimal
    initial: Decimal


@dataclass(frozen=True)
class Wealth:
    """What the whole account stands for: the book, USD prices, discounts, and how debts are margined."""

    book: Book
    marks: Prices
    usd: Mapping[str, Decimal]
    discounts: Mapping[str, Discounts]
    borrow: Mapping[str, tuple[BorrowRow, ...]]
    leverage: Mapping[str, Decimal]
    spot_taker: Decimal
    interest: Mapping[str, Decimal] = field(default_factory=dict)

    def currencies(self) -> list[str]:
        settled = {held.contract.settle for held in self.book.positions.values()}
        return sorted({*self.book.cash, *settled, *(o.contract.settle for o in self.book.orders.values())})

    def equity(self, currency: str) -> Decimal:
        """Cash + cross upl - interest accrued and not deducted (section 1)."""
        cash = self.book.cash.get(currency, ZERO) - self.interest.get(currency, ZERO)
        return cash + cross.upl(self.book, currency, self.marks)

    def frozen(self, currency: str) -> Decimal:
        """Estimated fees of contract orders (section 1): no spot orders, options, isolated orders here."""
        return cross.order_fees(self.book, currency, self.marks)

    def potential_borrow(self, currency: str) -> Decimal:
        """|min(0, eq - frozen)| (section 4.2)."""
        return max(ZERO, self.frozen(currency) - self.equity(currency))

    def discounted(self, currency: str) -> Decimal:
        """A holding slice by slice, beyond the last bound nothing; a debt in full (section 3.1)."""
        equity, price = self.equity(currency), self.usd[currency]
        if equity <= 0:
            return equity * price
        total, below = ZERO, ZERO
        for bound, rate in self.discounts[currency]:
            total += max(ZERO, min(equity, bound) - below) * rate
            below = bound
        return total * price

    def row(self, currency: str) -> BorrowRow:
        """The tier that the whole debt reaches (section 4.2, inferred there)."""
        return next(row for row in self.borrow[currency] if self.potential_borrow(currency) <= row.ceiling)

    def debts(self) -> list[tuple[Decimal, BorrowRow, Decimal]]:
        """(USD owed or to be owed, its tier, leverage setting of the currency)."""
        owing = [currency for currency in self.currencies() if self.potential_borrow(currency)]
        return [(self.potential_borrow(c) * self.usd[c], self.row(c), self.leverage[c]) for c in owing]

    # ------------------------------------------------------------------ the account, in USD

    def total_equity(self) -> Decimal:
        return sum((self.equity(c) * self.usd[c] for c in self.currencies()), ZERO)

    def adjusted_equity(self) -> Decimal:
        """Discounted equities less the fees of open orders (section 2)."""
        return sum((self.discounted(c) - self.frozen(c) * self.usd[c] for c in self.currencies()), ZERO)

    def initial(self) -> Decimal:
        """Contracts and their orders; a debt / leverage, at least its tier's rate (section 4.2)."""
        contracts = sum((cross.initial(self.book, c, self.marks) * self.usd[c] for c in self.currencies()), ZERO)
        return contracts + sum((owed * max(ONE / leverage, row.initial) for owed, row, leverage in self.debts()), ZERO)

    def maintenance(self) -> Decimal:
        contracts = sum((cross.maintenance(self.book, c, self.marks) * self.usd[c] for c in self.currencies()), ZERO)
        return contracts + sum((owed * row.maintenance for owed, row, _ in self.debts()), ZERO)

    def fee(self) -> Decimal:
        """Debt x (1 + maintenance rate) x spot taker, contracts at mark x taker (section 0)."""
        contracts = sum((cross.closing_fee(self.book, c, self.marks) * self.usd[c] for c in self.currencies()), ZERO)
        return contracts + sum((owed * (1 + row.maintenance) * self.spot_taker for owed, row, _ in self.debts()), ZERO)

    def ratio(self) -> Decimal | None:
        required = self.maintenance() + self.fee()
        return self.adjusted_equity() / required if required else None
