"""Portfolio margin as a judgement: the account is one pool, units are margined by scenarios and never net
(okx-portfolio-margin.md, sections 2 and 4; addendum 3j, 3k).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from tests.oracle.contract import ZERO, Contract
from tests.oracle.multi_currency import Wealth
from tests.oracle.option import Option
from tests.oracle.unit import Unit, judge_unit

Cases = tuple[Unit, list[Unit]]
"""A unit as it stands, and with its orders filled: as it stands, those of positive delta, those of negative."""


@dataclass(frozen=True)
class Portfolio(Wealth):
    """As multi-currency, but what contracts and options ask for is that of their units; `prices["time"]` is now."""

    @property
    def time(self) -> int:
        return round(self.prices["time"])

    def option_value(self, currency: str) -> Decimal:
        """At the mark, short ones negative: options back the account (section 4)."""
        return self.option_worth(currency)

    # ------------------------------------------------------------------ units

    def unit_name(self, coin: str, settle: str) -> str:
        """A unit per coin, before the merge per coin and settlement (section 2.1)."""
        side = "USD" if settle == coin else settle
        return coin if self.terms.units[coin].coin.units == "by-coin" else f"{coin}-{side}"

    @cached_property
    def units(self) -> list[Cases]:
        names: dict[str, str] = {}
        for order in self.book.orders.values():
            if not order.only_closes and order.mode == "cross":
                names[self.unit_name(order.contract.coin, order.contract.settle)] = order.contract.coin
        for held in self.book.held("cross"):
            names[self.unit_name(held.contract.coin, held.contract.settle)] = held.contract.coin
        asked = [order.contract for order in self.book.option_orders.values() if not order.only_closes]
        for option in [*(held.contract for held in self.book.options.values()), *asked]:
            names[self.unit_name(option.coin, option.coin)] = option.coin
        return [self._cases(name, coin) for name, coin in sorted(names.items())]

    def _cases(self, name: str, coin: str) -> Cases:
        """The worst of no order, all of positive and all of negative delta filled (addendum 3j)."""
        row = self.terms.units[coin].coin
        side = self.terms.choices.get(coin, "")
        chosen = f"{coin}-{'USD' if side == coin else side}"
        takes = row.spot_in_use == "automatic" or (row.spot_in_use == "chosen" and chosen == name)
        spot = float(self.equity(coin)) if takes else None
        now = self._unit(name, coin, None, spot)
        cases = [now]
        for buy in (True, False):
            coins = [order.size if order.buy else -order.size for order in self.book.spot.values()
                     if takes and row.spot_orders and order.base == coin and order.buy is buy]
            if coins or self._filled(name, buy):
                cases.append(self._unit(name, coin, buy, None if spot is None else spot + float(sum(coins, ZERO))))
        return now, cases

    def _filled(self, name: str, buy: bool) -> list[tuple[Contract | Option, Decimal]]:
        """Orders of the unit whose fill moves its delta up (`buy`) or down; those that only reduce stay out."""
        found: list[tuple[Contract | Option, Decimal]] = [
            (order.contract, order.size if order.buy else -order.size) for order in self.book.orders.values()
            if order.mode == "cross" and not order.only_closes and order.buy is buy
            and self.unit_name(order.contract.coin, order.contract.settle) == name]
        found += [
            (order.contract, order.signed) for order in self.book.option_orders.values()
            if not order.only_closes and (order.buy == order.contract.call) is buy
            and self.unit_name(order.contract.coin, order.contract.coin) == name]
        return found

    def _unit(self, name: str, coin: str, buy: bool | None, spot: float | None) -> Unit:
        sizes: dict[str, Decimal] = {}
        known: dict[str, Contract | Option] = {}
        rows: list[tuple[Contract | Option, Decimal]] = [
            (held.contract, held.size) for held in self.book.held("cross")
            if self.unit_name(held.contract.coin, held.contract.settle) == name]
        rows += [(held.contract, held.size) for held in self.book.options.values()
                 if self.unit_name(held.contract.coin, held.contract.coin) == name]
        for contract, size in [*rows, *(self._filled(name, buy) if buy is not None else [])]:
            known[contract.symbol] = contract
            sizes[contract.symbol] = sizes.get(contract.symbol, ZERO) + size
        held_now = [(known[symbol], float(size)) for symbol, size in sorted(sizes.items()) if size]
        return judge_unit(
            name, coin, [(c, size) for c, size in held_now if isinstance(c, Contract)],
            [(c, size) for c, size in held_now if isinstance(c, Option)], spot, self.prices, self.time,
            self.terms.units[coin],
        )

    # ------------------------------------------------------------------ the account, in USD

    def _units_maintenance(self) -> Decimal:
        return sum((Decimal(max(case.maintenance for case in cases)) for _, cases in self.units), ZERO)

    def initial(self) -> Decimal:
        """1.3 x units' maintenance + borrow initial margin (section 4)."""
        units = sum((Decimal(self._factor(now) * max(case.maintenance for case in cases))
                     for now, cases in self.units), ZERO)
        debts = (owed * max(1 / leverage, row.initial) for owed, row, leverage in self.debts)
        return units + sum(debts, ZERO)

    def _factor(self, unit: Unit) -> float:
        return float(self.terms.units[unit.name.partition("-")[0]].coin.imr_factor)

    def maintenance(self) -> Decimal:
        return self._units_maintenance() + sum((owed * row.maintenance for owed, row, _ in self.debts), ZERO)

    def opening_margin(self) -> Decimal:
        """No part of a unit's margin is an order's own (the engine's reading)."""
        return ZERO

    def fee(self) -> Decimal:
        """Of debts only: MR7 is the cost of closing the rest (addendum 3k)."""
        return sum((owed * (1 + row.maintenance) * self.terms.taker for owed, row, _ in self.debts), ZERO)
