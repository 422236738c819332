"""The oracle at work: a script, instant by instant. Path rules: design.md section 7; funding: rule book 8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from tests.oracle import clock, cross, isolated, orders
from tests.oracle.book import Book, Order, Position, Prices
from tests.oracle.contract import ONE, ZERO, Contract, exact
from tests.oracle.crossing import between, first_below
from tests.oracle.era import era_of
from tests.oracle.forced import refund_cash
from tests.oracle.option import OptionPosition
from tests.oracle.scenario import (
    RIGHTS,
    AddMargin,
    Cancel,
    FillResting,
    Move,
    Scenario,
    SetLeverage,
    Trade,
    contract_of,
)

WARNING, LIQUIDATION = Decimal(3), Decimal(1)
JUST_SAFE = 1 + Decimal("1e-9")
"""Where collecting funding stopped: only of the rule since 2024-07 is it said that liquidation may follow."""


@dataclass(frozen=True)
class Pool:
    """Who is judged together, by which formulas of the marks."""

    name: str
    equity: Callable[[Prices], Decimal]
    initial: Callable[[Prices], Decimal]
    maintenance: Callable[[Prices], Decimal]
    fee: Callable[[Prices], Decimal]
    liquidate: Callable[[Prices, int], None]
    contracts: tuple[Contract, ...]
    holds: bool = True
    """Some position: a currency with orders alone is not judged (the engine's choice; the books do not say)."""
    kinks: tuple[tuple[str, Decimal], ...] = ()
    straight: bool = True
    """A closed form may exist: neither discount nor borrow tiers bend the way."""

    def required(self, marks: Prices) -> Decimal:
        return self.maintenance(marks) + self.fee(marks)

    def ratio(self, marks: Prices) -> Decimal | None:
        required = self.required(marks)
        return self.equity(marks) / required if required else None


class Replay:
    """An account that follows a script by the oracle's rules."""

    def __init__(self, scenario: Scenario) -> None:
        contracts = [name for name in scenario.marks if ":" in name and name[-2:] not in RIGHTS]
        self.contracts = {symbol: contract_of(symbol, scenario.time) for symbol in contracts}
        self.book = Book({currency: exact(amount) for currency, amount in scenario.cash.items()},
                         era=era_of(scenario.time))
        self.shortfall, self.reason = ZERO, ""
        self.symbols: dict[int, str] = {}
        """By the number of its order."""
        self.time = scenario.time
        self.marks: Prices = {symbol: exact(price) for symbol, price in scenario.marks.items()}
        self.path: clock.Path = []
        self.deleveraging = scenario.deleveraging
        self.funding = sorted(
            (time, symbol, exact(rate)) for symbol, rows in scenario.funding.items() for time, rate in rows)

    # ------------------------------------------------------------------ acts

    def act(self, act: object) -> str:
        """Do one act of the script; the word says how the venue answered."""
        answer: orders.Refused | None = None
        if isinstance(act, Trade) and self.expired(act.symbol):
            answer = orders.Refused("expired")
        elif isinstance(act, Move):
            self.advance(act.time, {name: exact(price) for name, price in act.told().items()}, act.jump)
        elif isinstance(act, Trade) and act.rest:
            order = self._order(act)
            checked = orders.check(self.book, order, self.marks)
            if isinstance(checked, orders.Refused):
                answer = checked
            else:
                self.book.orders[order.id] = checked
        elif isinstance(act, Trade):
            order = self._order(act)
            answer = orders.fill(self.book, order, order.size, order.price, False, self.marks, self.time)
        elif isinstance(act, FillResting) and act.id in self.book.orders:
            order = self.book.orders[act.id]
            size = min(exact(act.size), order.size)
            answer = orders.fill(self.book, order, size, order.price, True, self.marks, self.time)
        elif isinstance(act, Cancel):
            self.book.orders.pop(act.id, None)
        elif isinstance(act, AddMargin) and act.key in self.book.positions:
            held = self.book.positions[act.key]
            answer = orders.add_margin(self.book, held, exact(act.amount), self.marks, self.free_cash(held))
        elif isinstance(act, SetLeverage) and act.key in self.book.positions:
            held = self.book.positions[act.key]
            answer = orders.set_leverage(self.book, held, exact(act.leverage), self.marks, self.free_cash(held))
        return self.answered(act, answer)

    def answered(self, act: object, answer: orders.Refused | None) -> str:
        self.shortfall = answer.shortfall if answer and isinstance(act, Trade) else ZERO
        self.reason = answer.reason if answer else ""
        if isinstance(act, Trade):
            self.symbols[act.id] = act.symbol
        return "refused" if answer else "done"

    def expired(self, symbol: str) -> bool:
        contract = self.contracts.get(symbol)
        return contract is not None and 0 < contract.expiry <= self.time

    def free_cash(self, held: Position) -> Decimal:
        """Cash that may become margin of a position."""
        return orders.free_cash(self.book, held.contract.settle, self.marks)

    def _order(self, act: Trade) -> Order:
        return Order(act.id, self.contracts[act.symbol], act.buy, exact(act.size), exact(act.price), act.margin_mode,
                     act.side, exact(act.leverage), act.reduce_only)

    # ------------------------------------------------------------------ time

    def advance(self, end: int, target: Prices, jump: bool) -> None:
        """A leg is walked, then come the clock events in (start, end]; a jump, from a bar's close to the next one's
        open, is judged at the target, after the clock events (design.md section 7: "clock events before the open",
        "clock events at the close"), which meet the prices before it. What was traded since is judged before anything
        moves ("the pool is judged at every fill").
        """
        self.judge()
        start = self.time
        if jump:
            self.clock(start, end)
        else:
            self.walk(end, target)
        self.time, self.marks = end, target
        self.path.append((end, target))
        if not jump:
            self.clock(start, end)
        self.judge()

    def clock(self, start: int, end: int) -> None:
        """Everything due in (start, end], each instant judged on its own (rule book section 14); at one instant first
        funding, then interest, deleveraging, delivery (multi-currency, section 9).
        """
        while due := self.due(start, end):
            start = time = min(due)
            for then, symbol, rate in self.funding:
                if then == time:
                    self.settle_funding(symbol, rate)
            self.strike(time)
            for one in self.deleveraging:
                if one.time == time:
                    clock.deleverage(self.book, one, self.marks, self.pool_of, self.end)
            clock.deliver(self.book, time, self.path, self.book.era.delivery_minutes, self.pool_of, self.end)
            self.noted()
            self.judge()

    def due(self, start: int, end: int) -> set[int]:
        """Instants at which the clock brings something to what is held now: what befalls others is no instant here."""
        expiring = (held.contract for held in (*self.book.positions.values(), *self.book.orders.values(),
                                               *self.book.options.values(), *self.book.option_orders.values()))
        signs = {(held.key[0], held.size > 0) for held in (*self.book.positions.values(), *self.book.options.values())}
        times = {time for time, symbol, _ in self.funding if {(symbol, True), (symbol, False)} & signs}
        times |= {one.time for one in self.deleveraging
                  if any(one.symbol == symbol and one.side in ("", "long" if long else "short")
                         for symbol, long in signs)}
        times |= {contract.expiry for contract in expiring if contract.expiry}
        return {time for time in times if start < time <= end}

    def strike(self, time: int) -> None:
        """A full hour, where one costs interest."""

    def noted(self) -> None:
        """Debts that a clock event made or ended, where an account may have some."""

    def end(self, position: Position | OptionPosition, traded: Decimal, pool: str) -> None:
        """After a close that the clock brought."""
        assert isinstance(position, Position)
        if position.mode == "isolated" and not position.size:
            clock.end_isolated(self.book, position, self.time, pool, traded)
        refund_cash(self.book, position.contract.settle, self.time, pool, traded)

    def pool_of(self, position: Position | OptionPosition) -> str:
        """What the pool of a position is called."""
        if isinstance(position, Position) and position.mode == "isolated":
            return isolated.pool_name(position)
        assert isinstance(position, Position)
        return position.contract.settle

    def walk(self, end: int, target: Prices) -> None:
        """Stop at the first point at which a pool reaches the warning level or a breach, as often as there is one."""
        start, origin, done = self.time, self.marks, ZERO
        while True:
            stops = []
            for index, pool in enumerate(pool for pool in self.pools() if pool.holds):
                level = LIQUIDATION if pool.name in self.book.warned else WARNING  # which is met before the other
                share = first_below(pool, level, origin, target, done)
                if share is not None and share < ONE:
                    stops.append((share, index, level, pool))
            if not stops:
                return
            done, _, level, pool = min(stops, key=lambda stop: stop[:2])
            self.marks = between(origin, target, done)
            self.time = start + round((end - start) * done)
            self.reach(pool, level)

    def reach(self, pool: Pool, level: Decimal) -> None:
        """A pool stands at a level, or below it."""
        ratio = pool.ratio(self.marks)
        if pool.name not in self.book.warned and ratio is not None:
            self.book.warned.add(pool.name)
            self.book.say("Warned", self.time, pool.name, margin_ratio=ratio)
        if level == LIQUIDATION:
            pool.liquidate(self.marks, self.time)
            self.rearm()

    def judge(self) -> None:
        """All pools at this very instant: breaches first, then warnings (the engine's documented order), each time
        isolated pools first.
        """
        for level in (LIQUIDATION, WARNING):
            for pool in self.pools():
                ratio = pool.ratio(self.marks)
                if pool.holds and ratio is not None and ratio <= level:
                    self.reach(pool, level)
        self.rearm()

    def rearm(self, pools: list[Pool] | None = None) -> None:
        """Above 300 % a pool may be warned again."""
        alive = set()
        for pool in self.pools() if pools is None else pools:
            ratio = pool.ratio(self.marks)
            if pool.holds and ratio is not None and ratio <= WARNING + Decimal("1e-25"):
                alive.add(pool.name)
        self.book.warned &= alive

    def settle_funding(self, symbol: str, rate: Decimal) -> None:
        """Value at the mark x rate, longs pay a positive one; isolated out of the margin, cross out of cash
        (DEMO-FUNDING-ISO-LONG-1..3, DEMO-FUNDING-CROSS-SHORT-1..3), in full since 2024-07-01. Before: a payer down to a
        ratio of 1, an isolated one out of free cash first; receivers in cash (rule book 8; that they receive in full is
        the engine's documented reading, README).
        """
        for key in sorted(self.book.positions):
            position = self.book.positions[key]
            if key[0] == symbol:
                paid = position.value(self.marks) * rate * (1 if position.size > 0 else -1)
                purse = position if position.mode == "isolated" else None
                currency = position.contract.settle
                if not self.book.era.full_funding:
                    if purse is not None:
                        cash = min(paid, orders.free_cash(self.book, currency, self.marks)) if paid > 0 else paid
                        self.book.book("funding", None, currency, -cash)
                        paid -= cash
                    if paid > 0:
                        pool = self._isolated(position) if purse is not None else self._cross(currency)
                        spare = pool.equity(self.marks) - pool.required(self.marks) * JUST_SAFE
                        paid = min(paid, max(ZERO, spare))
                self.book.book("funding", purse, currency, -paid)
                refund_cash(self.book, currency, self.time, currency, ZERO)

    # ------------------------------------------------------------------ pools

    def pools(self) -> list[Pool]:
        """Every isolated position, then every currency."""
        pools = [self._isolated(position) for position in self.book.held("isolated")]
        currencies = {order.contract.settle for order in self.book.orders.values()} | set(self.book.cash)
        return pools + [self._cross(currency) for currency in sorted(currencies)]

    def _isolated(self, position: Position) -> Pool:
        return Pool(
            isolated.pool_name(position),
            lambda marks: isolated.equity(position, marks),
            lambda marks: position.initial_at_entry(),
            lambda marks: isolated.maintenance(position, marks),
            lambda marks: isolated.closing_fee(position, marks),
            lambda marks, time: isolated.liquidate(self.book, position, marks, time),
            (position.contract,),
        )

    def _cross(self, currency: str) -> Pool:
        book = self.book
        resting = [order for order in book.orders.values() if order.contract.settle == currency]
        involved = {p.contract.symbol: p.contract for p in cross.positions(book, currency)}
        involved |= {order.contract.symbol: order.contract for order in resting}
        return Pool(
            currency,
            lambda marks: cross.equity(book, currency, marks),
            lambda marks: cross.initial(book, currency, marks),
            lambda marks: cross.maintenance(book, currency, marks),
            lambda marks: cross.closing_fee(book, currency, marks),
            lambda marks, time: cross.liquidate(book, currency, marks, time),
            tuple(involved.values()),
            bool(cross.positions(book, currency)),
            tuple((order.contract.symbol, order.price) for order in resting),
        )
