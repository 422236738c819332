"""An account: balances, positions, resting orders, and the ledger that made them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bt_margin.errors import InputError, NotConserved
from bt_margin.model.borrowing import Borrowing, SpotUse, owed
from bt_margin.model.instrument import Instrument, Number
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.market import Market
from bt_margin.model.order import Order as Order
from bt_margin.model.orders import Orders

POSITION_MODES = ("net", "hedge")
MARGIN_MODES = ("cash", "isolated", "cross")


@dataclass(frozen=True, slots=True)
class Position:
    """An open derivative position.

    `size` is signed, in contracts. `margin` is what an isolated position has posted (OKX `margin`), zero in
    cross. `realised` sums profit, fees and funding since the position was opened (OKX `realizedPnl`).
    """

    instrument: Instrument
    margin_mode: str
    side: str
    size: float
    entry_price: float
    leverage: float
    margin: float = 0.0
    realised: float = 0.0

    @property
    def key(self) -> PositionKey:
        return PositionKey(self.instrument.symbol, self.margin_mode, self.side)

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def sign(self) -> int:
        return 1 if self.size > 0 else -1

    @property
    def currency(self) -> str:
        """What the position's money is in: its settlement currency."""
        return self.instrument.settle

    @property
    def plain(self) -> bool:
        """True where value and requirement are straight lines of the mark with the payoff's slope."""
        return not self.instrument.payoff.upfront

    def value(self, market: Market) -> Number:
        """What it is worth to the account beyond its posted margin: its unrealised profit; an option its mark."""
        if self.instrument.payoff.upfront:
            return self.sign * self.notional(market)
        return self.unrealised(market)

    def backing(self, market: Market) -> Number:
        """What it adds to the numerator of its pool's margin ratio: its unrealised profit; an option nothing.

        A short option's debt is in its maintenance margin, a long one backs nothing: recorded for isolated shorts
        (ISO-OPTION-SHORT-CALL-20240711), by the same logic in cross (rule book 3.3, 16.6b: derived).
        """
        return 0.0 if self.instrument.payoff.upfront else self.unrealised(market)

    def slopes(self, rate: float) -> tuple[float, float]:
        """How backing and requirement (exposure x `rate`) change with x, the payoff's straight variable of the mark."""
        units = self.size * self.instrument.contract_size
        return self.instrument.payoff.slope * units, abs(units) * rate

    def straight(self, price: float) -> float:
        """x at a mark; its own inverse."""
        return float(self.instrument.payoff.straight(price))

    def notional(self, market: Market) -> Number:
        """Value at the mark, in the settlement currency."""
        return self.instrument.notional(self.size, market.mark(self.symbol))

    def unrealised(self, market: Market) -> Number:
        """Unrealised profit at the mark, in the settlement currency (OKX `upl`)."""
        return self.instrument.pnl(self.size, self.entry_price, market.mark(self.symbol))

    def initial_at_entry(self) -> float:
        """Initial margin at the entry price: what isolated margin posts when it opens."""
        return float(self.instrument.notional(self.size, self.entry_price)) / self.leverage

    def reduced(self, size: float) -> Position | None:
        """What is left after `size` (signed change) came off: a what-if, not a booking."""
        left = self.instrument.snap(self.size + size)
        return replace(self, size=left) if left else None

    def contents(self) -> Iterator[tuple[str, float]]:
        """What of the account's money is in the position, by currency."""
        yield self.currency, self.margin

    def after(self, entry: Entry) -> Position | None:
        """The position once an entry is booked, None when nothing is left of it."""
        size, price = self.size, self.entry_price
        if entry.size:
            before, size = size, self.instrument.snap(size + entry.size)
            if before * size < 0:
                raise NotConserved(f"ledger: one trade may not flip a position: {entry}")
            if abs(size) > abs(before):
                unit = self.instrument.contract_size
                price = self.instrument.payoff.average(abs(before) * unit, price, abs(entry.size) * unit, entry.price)
        margin = self.margin + entry.margin
        if size == 0.0 and margin == 0.0:
            return None
        realised = self.realised + (entry.total if entry.kind in _REALISES else 0.0)
        return replace(self, size=size, entry_price=price, margin=margin, leverage=entry.leverage or self.leverage,
                       realised=realised)


_REALISES = (EntryKind.TRADE, EntryKind.FEE, EntryKind.FUNDING, EntryKind.PENALTY, EntryKind.SETTLEMENT)


class Account:
    """Balances by currency, positions, orders, ledger. `apply` is the only mutator of money and contracts."""

    def __init__(self, balances: Mapping[str, float] | None = None, position_mode: str = "net") -> None:
        if position_mode not in POSITION_MODES:
            raise InputError(f"position_mode: expected one of {', '.join(POSITION_MODES)}, found {position_mode!r}")
        self.position_mode = position_mode
        self.balances: dict[str, float] = {}
        self.positions: dict[PositionKey, Position] = {}
        self.orders: dict[int, Order] = {}  # by id
        self.resting = Orders()  # the same, by queue: a value, another after each change
        self.fund: dict[str, float] = {}
        self.ledger: list[Entry] = []
        self.opening: dict[str, float] = {}
        self.spot_use = SpotUse()  # only in portfolio margin
        self.borrowing = Borrowing()  # these two only where the whole account stands behind its debts
        self.accrued: dict[str, float] = {}  # interest not deducted yet, by currency: owed, but still in the balance
        for currency, amount in (balances or {}).items():
            if not math.isfinite(amount):
                raise InputError(f"balances.{currency}: expected a finite amount, found {amount!r}")
            self.balances[currency] = self.opening[currency] = float(amount)

    def balance(self, currency: str) -> float:
        """Cash of a currency (OKX `cashBal`): isolated margin has left it, unrealised profit is not in it."""
        return self.balances.get(currency, 0.0)

    def owed(self) -> set[str]:
        """Currencies whose balance, less the interest accrued on it, is negative."""
        return owed(self.balances, self.accrued)

    def copy(self) -> Account:
        """The account to try something on: this one stays as it is. Ledger and opening balances do not go along."""
        copy: Account = object.__new__(Account)
        copy.__dict__.update(
            self.__dict__, balances=dict(self.balances), positions=dict(self.positions), orders=dict(self.orders),
            fund=dict(self.fund), accrued=dict(self.accrued), ledger=[], opening={},
        )
        return copy

    def what_if(self, entry: Entry) -> Account:
        """A copy with one more entry booked; this account stays as it is."""
        copy = self.copy()
        copy.apply(entry)
        return copy

    def held(self, margin_mode: str) -> Iterator[Position]:
        """Positions of one margin mode, by symbol and side, so that every walk repeats exactly."""
        for key in sorted(self.positions):
            if key.margin_mode == margin_mode:
                yield self.positions[key]

    def place(self, order: Order) -> None:
        """Put an order among the resting ones, or in the place of its former self."""
        former = self.orders.get(order.id)
        self.resting = self.resting.plus(order) if former is None else self.resting.exchanged(former, order)
        self.orders[order.id] = order

    def withdraw(self, order_id: int) -> Order | None:
        """Take a resting order away; None when it is not there."""
        order = self.orders.pop(order_id, None)
        if order is not None:
            self.resting = self.resting.without(order)
        return order

    def let_rest(self, orders: Orders) -> None:
        """Let these orders rest, and no others."""
        self.resting, self.orders = orders, {order.id: order for order in orders}

    def resting_besides(self, order_id: int) -> Orders:
        """All resting orders but one, which need not be there."""
        there = self.orders.get(order_id)
        return self.resting if there is None else self.resting.without(there)

    def held_size(self, key: PositionKey) -> float:
        """Signed size of the position that orders of a key meet; 0.0 where there is none."""
        position = self.positions.get(key)
        return 0.0 if position is None else position.size

    def adopt(self, position: Position) -> None:
        """Take in a position as it stands (the position builder's books start from positions, not trades)."""
        if position.key in self.positions:
            raise InputError(f"positions: {position.symbol} {position.margin_mode} {position.side} is there twice")
        self.positions[position.key] = position
        for currency, amount in position.contents():
            if amount:
                self.opening[currency] = self.opening.get(currency, 0.0) + amount

    def apply(self, entry: Entry) -> None:
        """Book an entry: cash, contracts, isolated margin and the fund, all or nothing."""
        finite = math.isfinite
        if not (finite(entry.total) and finite(entry.fund) and finite(entry.size) and finite(entry.price)):
            raise NotConserved(f"ledger: an amount is not finite in {entry}")
        if entry.kind is EntryKind.TRANSFER and entry.total + entry.fund != 0.0:
            raise NotConserved(f"ledger: a transfer does not sum to zero: {entry}")
        if entry.key is not None:
            self._apply_to_position(entry.key, entry)
        elif entry.interest:  # of a debt that the whole account stands behind
            self.accrued[entry.currency] = self.accrued.get(entry.currency, 0.0) + entry.interest
        if entry.cash:
            self.balances[entry.currency] = self.balances.get(entry.currency, 0.0) + entry.cash
        if entry.fund:
            self.fund[entry.currency] = self.fund.get(entry.currency, 0.0) + entry.fund
        self.ledger.append(entry)

    def _apply_to_position(self, key: PositionKey, entry: Entry) -> None:
        position = self.positions.get(key) or entry.opens
        if position is None:
            if entry.kind is not EntryKind.TRADE or entry.instrument is None or entry.leverage <= 0:
                raise NotConserved(f"ledger: no position {key} for {entry}")
            position = Position(entry.instrument, key.margin_mode, key.side, 0.0, entry.price, entry.leverage)
        after = position.after(entry)
        if after is None:
            self.positions.pop(key, None)
        else:
            self.positions[key] = after

    def conservation_gap(self) -> dict[str, float]:
        """Opening balances + all entries - closing balances, per currency: zero up to rounding."""
        closing: dict[str, list[float]] = {currency: [amount] for currency, amount in self.balances.items()}
        for currency, amount in self.accrued.items():
            closing.setdefault(currency, []).append(-amount)
        for position in self.positions.values():
            for currency, amount in position.contents():
                closing.setdefault(currency, []).append(amount)
        flows: dict[str, list[float]] = {currency: [amount] for currency, amount in self.opening.items()}
        for entry in self.ledger:
            flows.setdefault(entry.currency, []).append(entry.total)
        return {
            currency: math.fsum(flows.get(currency, [])) - math.fsum(closing.get(currency, []))
            for currency in sorted({*closing, *flows})
        }
