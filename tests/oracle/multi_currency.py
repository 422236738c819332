"""Multi-currency margin as a judgement: one pool, all currencies (okx-multi-currency.md, sections 0 to 4).

Contracts are judged as in `cross`, short options as in `option_margin`, currency by currency, valued in USD. Isolated
positions stand beside it, each alone: what their orders need is taken off here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property
from typing import Any, Self

from tests.oracle import cross, isolated, option_margin
from tests.oracle.book import Book, OptionOrder, Order, Prices, SpotOrder, opening_parts
from tests.oracle.contract import ONE, ZERO
from tests.oracle.option import OptionPosition
from tests.oracle.unit import UnitTerms

Discounts = tuple[tuple[Decimal, Decimal], ...]
"""(marginal upper bound in coin, rate)."""


LAST_DIGIT = 1 + Decimal("1e-25")
"""A debt repaid down to a ceiling is in the tier below it, whatever a division left in the last decimals."""


@dataclass(frozen=True)
class BorrowRow:
    ceiling: Decimal
    maintenance: Decimal
    initial: Decimal

    @property
    def leverage(self) -> Decimal:
        """The largest setting: 1 / initial rate, cut to two digits as the venue prints it (section 4.3)."""
        return (ONE / self.initial).quantize(Decimal("0.01"), ROUND_FLOOR)


@dataclass(frozen=True)
class Terms:
    """What the venue says, and what the owner chose: tables by currency, all of them data.

    `quotas`: (coins that cost no interest, currencies whose positive equity comes on top). `yearly`: interest.
    """

    discounts: Mapping[str, Discounts]
    borrow: Mapping[str, tuple[BorrowRow, ...]]
    leverage: Mapping[str, Decimal]
    taker: Decimal
    maker: Decimal = ZERO
    auto: bool = True
    quotas: Mapping[str, tuple[Decimal, tuple[str, ...]]] = field(default_factory=dict)
    limits: Mapping[str, Decimal] = field(default_factory=dict)
    yearly: Mapping[str, Decimal] = field(default_factory=dict)
    units: Mapping[str, UnitTerms] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    """In portfolio margin: rows by coin, and before the merge the side whose unit the spot of a coin was told to join:
    USDT, USDC or the coin."""
    ladder: Any = None
    off: frozenset[str] = frozenset()
    """Coins switched off as collateral (section 3.1)."""
    isolated: bool = True
    """Isolated positions are taken; in multi-currency no longer since 2025-07-30 (section 10)."""

    def row(self, currency: str, owed: Decimal) -> BorrowRow:
        """The tier that a debt reaches; its rates are those of all of it (section 4.2, inferred there)."""
        return next(row for row in self.borrow[currency] if owed <= row.ceiling * LAST_DIGIT)


def in_account(book: Book) -> list[Order]:
    """Orders of contracts that the account answers for: all but what only closes an isolated position."""
    opens = {order.id for order, part in opening_parts(book, list(book.orders.values())) if part}
    return [order for order in book.orders.values() if order.mode == "cross" or order.id in opens]


@dataclass(frozen=True)
class Wealth:
    """What the whole account stands for at these prices: marks by symbol, USD prices by "BTC/USD"."""

    book: Book
    prices: Prices
    terms: Terms

    @cached_property
    def currencies(self) -> list[str]:
        book = self.book
        settled = {held.contract.settle for held in book.held("cross")}
        settled |= {order.contract.settle for order in in_account(book)}
        settled |= {held.contract.coin for held in (*book.options.values(), *book.option_orders.values())}
        given = {order.gives()[0] for order in book.spot.values()}
        return sorted({*book.cash, *settled, *given})

    def usd(self, currency: str) -> Decimal:
        return self.prices[f"{currency}/USD"]

    # ------------------------------------------------------------------ a currency, in coins of it

    def own(self, currency: str) -> Decimal:
        """Cash, less the interest accrued and not deducted yet."""
        return self.book.cash.get(currency, ZERO) - self.book.accrued.get(currency, ZERO)

    def upl(self, currency: str) -> Decimal:
        return cross.upl(self.book, currency, self.prices)

    @cached_property
    def _equity(self) -> dict[str, Decimal]:
        return {c: self.own(c) + self.upl(c) + self.option_value(c) for c in self.currencies}

    @cached_property
    def _fees(self) -> dict[str, Decimal]:
        fees = {c: cross.order_fees(self.book, c, self.prices) for c in self.currencies}
        for order, opens in self.option_orders:
            option = order.contract
            fees[option.coin] += option_margin.trading_fee(option, opens, order.price, option.taker)
        return fees

    @cached_property
    def option_orders(self) -> list[tuple[OptionOrder, Decimal]]:
        """Resting orders of options, each with the part of it that opens."""
        orders = list(self.book.option_orders.values())
        opens = {order.id: part for order, part in opening_parts(self.book, orders)}
        return [(order, opens.get(order.id, ZERO)) for order in orders]

    def equity(self, currency: str) -> Decimal:
        """Cash + cross upl - interest accrued and not deducted (section 1)."""
        return self._equity.get(currency, ZERO)

    def fees(self, currency: str) -> Decimal:
        """Estimated fees of open orders of contracts and options: of what they open."""
        return self._fees.get(currency, ZERO)

    def option_worth(self, currency: str) -> Decimal:
        """Options at the mark, short ones negative."""
        return sum((held.size * held.contract.unit * self.prices[held.contract.symbol]
                    for held in self.book.options.values() if held.contract.coin == currency), ZERO)

    def option_value(self, currency: str) -> Decimal:
        """What of it backs the account: nothing here, a short's maintenance margin holds its mark (rule book of
        isolated margin, section 3.3; that it does not count twice is inferred).
        """
        return ZERO

    def held_back(self, currency: str) -> Decimal:
        """What isolated orders need and option orders pay: it has to be there, no debt is made of it."""
        premiums = (order.premium() for order in self.book.option_orders.values() if order.contract.coin == currency)
        return cross.isolated_orders(self.book, currency, self.prices) + sum(premiums, ZERO)

    def frozen(self, currency: str) -> Decimal:
        """What spot orders give, what is held back, and fees of contract orders (section 1)."""
        given = (order.gives() for order in self.book.spot.values())
        spot = sum((amount for name, amount in given if name == currency), ZERO)
        return self.fees(currency) + self.held_back(currency) + spot

    def available_balance(self, currency: str) -> Decimal:
        """Without profit that is not realised (section 1)."""
        return max(ZERO, self.own(currency) - self.frozen(currency))

    def available_equity(self, currency: str) -> Decimal:
        return max(ZERO, self.equity(currency) - self.frozen(currency))

    def potential_borrow(self, currency: str) -> Decimal:
        """|min(0, eq - frozen)| (section 4.2)."""
        return max(ZERO, self.frozen(currency) - self.equity(currency))

    def liability(self, currency: str) -> Decimal:
        return max(ZERO, -self.equity(currency))

    def worth(self, currency: str, amount: Decimal) -> Decimal:
        """A holding slice by slice, beyond the last bound nothing; a debt in full (section 3.1): USD. A coin switched
        off as collateral counts nothing.
        """
        price = self.usd(currency)
        if amount <= 0:
            return amount * price
        if currency in self.terms.off:
            return ZERO
        total, below = ZERO, ZERO
        for bound, rate in self.terms.discounts[currency]:
            total += max(ZERO, min(amount, bound) - below) * rate
            below = bound
        return total * price

    def discounted(self, currency: str) -> Decimal:
        return self.worth(currency, self.equity(currency))

    @cached_property
    def debts(self) -> list[tuple[Decimal, BorrowRow, Decimal]]:
        """(USD owed or to be owed, its tier, leverage setting of the currency)."""
        rows = []
        for currency in self.currencies:
            owed = self.potential_borrow(currency)
            if owed:
                row = self.terms.row(currency, owed)
                rows.append((owed * self.usd(currency), row, self.terms.leverage[currency]))
        return rows

    # ------------------------------------------------------------------ the account, in USD

    def total_equity(self) -> Decimal:
        """Of everything, undiscounted: options at the mark, isolated positions (`isoEq`) too."""
        alone = sum((isolated.equity(held, self.prices) * self.usd(held.contract.settle)
                     for held in self.book.held("isolated")), ZERO)
        return alone + sum(((self.own(c) + self.upl(c) + self.option_worth(c)) * self.usd(c)
                            for c in self.currencies), ZERO)

    def order_loss(self) -> Decimal:
        """What adjusted equity would lose if all resting spot orders were filled at their prices, discount tiers judged
        anew; zero or more (section 2; evaluation inferred there, the taker fee by the engine's documented reading).
        """
        moves: dict[str, Decimal] = {}
        for order in self.book.spot.values():
            (out, less), (into, more) = order.gives(), order.takes(self.terms.taker)
            moves[out] = moves.get(out, ZERO) - less
            moves[into] = moves.get(into, ZERO) + more
        change = sum((self.worth(c, self.equity(c) + move) - self.worth(c, self.equity(c))
                      for c, move in moves.items()), ZERO)
        return max(ZERO, -change)

    def adjusted_equity(self) -> Decimal:
        """Discounted equities less spot order loss, what is held back and the fees of open orders (section 2)."""
        held = sum(((self.fees(c) + self.held_back(c)) * self.usd(c)
                    for c in self.currencies if c not in self.terms.off), ZERO)
        return sum((self.discounted(c) for c in self.currencies), ZERO) - held - self.order_loss()

    def _of_contracts(self, of: object) -> Decimal:
        assert callable(of)
        return sum((of(self.book, c, self.prices) * self.usd(c) for c in self.currencies), ZERO)

    def _of_options(self, of: Callable[[OptionPosition, Prices], Decimal]) -> Decimal:
        return sum((of(held, self.prices) * self.usd(held.contract.coin) for held in self.book.options.values()), ZERO)

    def option_orders_initial(self) -> Decimal:
        return sum((option_margin.reserved(order, opens, self.prices) * self.usd(order.contract.coin)
                    for order, opens in self.option_orders), ZERO)

    def initial(self) -> Decimal:
        """Contracts, short options and orders of both; a debt / leverage, at least its tier's rate (section 4.2)."""
        debts = (owed * max(ONE / leverage, row.initial) for owed, row, leverage in self.debts)
        options = self._of_options(option_margin.initial) + self.option_orders_initial()
        return self._of_contracts(cross.initial) + options + sum(debts, ZERO)

    def maintenance(self) -> Decimal:
        debts = (owed * row.maintenance for owed, row, _ in self.debts)
        options = self._of_options(option_margin.maintenance)
        return self._of_contracts(cross.maintenance) + options + sum(debts, ZERO)

    def fee(self) -> Decimal:
        """Debt x (1 + maintenance rate) x spot taker, contracts at mark x taker, short options (section 0)."""
        debts = (owed * (1 + row.maintenance) * self.terms.taker for owed, row, _ in self.debts)
        options = self._of_options(option_margin.closing_fee)
        return self._of_contracts(cross.closing_fee) + options + sum(debts, ZERO)

    def required(self) -> Decimal:
        return self.maintenance() + self.fee()

    def ratio(self) -> Decimal | None:
        required = self.required()
        return self.adjusted_equity() / required if required else None

    def opening_margin(self) -> Decimal:
        """What opening orders of contracts and options add to the initial margin."""
        return self._of_contracts(cross.order_initial) + self.option_orders_initial()

    def free(self) -> Decimal:
        """What orders may still use (section 6: adjusted equity >= initial margin)."""
        return self.adjusted_equity() - self.initial()

    def transferable(self, currency: str) -> Decimal:
        """What may become isolated margin: coins that are there, nothing of them frozen, and free in the account,
        undiscounted (availBal, section 1; the bound by free margin is the engine's documented reading).
        """
        there = min(self.available_balance(currency), self.available_equity(currency))
        return there if currency in self.terms.off else min(there, max(ZERO, self.free()) / self.usd(currency))

    def but(self, **changes: Any) -> Self:
        """The same with a book that differs."""
        return replace(self, book=replace(self.book, **changes))

    def with_spot(self, order: SpotOrder) -> Self:
        return self.but(spot={**self.book.spot, order.id: order})

    def with_option(self, order: OptionOrder) -> Self:
        return self.but(option_orders={**self.book.option_orders, order.id: order})
