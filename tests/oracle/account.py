"""Replaying a script where the whole account stands behind its debts: multi-currency margin over time."""

from __future__ import annotations

from copy import copy
from decimal import Decimal
from functools import partial

from tests.oracle import clock, credit, debts, isolated, orders, whole
from tests.oracle.book import OptionOrder, Order, Position, Prices, SpotOrder
from tests.oracle.contract import ZERO, exact
from tests.oracle.forced import BREACH
from tests.oracle.multi_currency import Wealth
from tests.oracle.option import OptionPosition
from tests.oracle.portfolio import Portfolio
from tests.oracle.replay import JUST_SAFE, LIQUIDATION, WARNING, Pool, Replay
from tests.oracle.scenario import HOUR, RIGHTS, Cancel, FillResting, Scenario, Trade, forwards_of, option_of, spot_of
from tests.oracle.unit import Unit

BISECTIONS = 80


class AccountReplay(Replay):
    """One pool, the account, and isolated positions beside it. Orders, clock and forced orders by the account's own
    pages, the path as in `Replay`.
    """

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        assert scenario.terms is not None
        self.terms = scenario.terms
        self.view = Portfolio if scenario.mode == "portfolio" else Wealth
        self.options = {symbol: option_of(symbol, scenario.time) for symbol in scenario.marks if symbol[-2:] in RIGHTS}
        others = {**scenario.indexes, **forwards_of(scenario), "time": scenario.time}
        self.marks = {**self.marks, **{name: exact(price) for name, price in others.items()}}

    def see(self, marks: Prices | None = None) -> Wealth:
        return self.view(self.book, self.marks if marks is None else marks, self.terms)

    def units(self) -> list[tuple[str, Unit]]:
        """In portfolio margin: the risk units as they stand."""
        wealth = self.see()
        return [(now.name, now) for now, _ in wealth.units] if isinstance(wealth, Portfolio) else []

    # ------------------------------------------------------------------ acts

    def act(self, act: object) -> str:
        answer: orders.Refused | None = None
        if isinstance(act, Trade) and self.expired(act.symbol):
            answer = orders.Refused("expired")
        elif isinstance(act, Trade) and ":" not in act.symbol:
            answer = self._spot(act)
        elif isinstance(act, Trade) and act.symbol in self.options:
            answer = self._option(act)
        elif isinstance(act, Trade):
            answer = self._contract(act)
        elif isinstance(act, FillResting) and act.id in self.book.spot:
            spot = self.book.spot[act.id]
            answer = credit.fill_spot(self.see(), spot, min(exact(act.size), spot.size), spot.price, self.terms.maker)
        elif isinstance(act, FillResting) and act.id in self.book.option_orders:
            asked = self.book.option_orders[act.id]
            size = min(exact(act.size), asked.size)
            answer = credit.fill_option(self.see(), asked, size, asked.price, asked.contract.maker)
        elif isinstance(act, FillResting) and act.id in self.book.orders:
            order = self.book.orders[act.id]
            answer = self._fill(order, min(exact(act.size), order.size), order.price, True)
        elif isinstance(act, Cancel):
            self.book.withdraw(act.id)
        else:
            answered = super().act(act)
            debts.note(self.book, self.time)
            return answered
        debts.note(self.book, self.time)
        return self.answered(act, answer)

    def _spot(self, act: Trade) -> orders.Refused | None:
        order = SpotOrder(act.id, *spot_of(act.symbol, self.time), act.buy, exact(act.size), exact(act.price))
        if not act.rest:
            return credit.fill_spot(self.see(), order, order.size, order.price, self.terms.taker)
        answer = credit.check_spot(self.see(), order)
        if isinstance(answer, orders.Refused):
            return answer
        self.book.spot[order.id] = order
        return None

    def expired(self, symbol: str) -> bool:
        option = self.options.get(symbol)
        return super().expired(symbol) or (option is not None and option.expiry <= self.time)

    def free_cash(self, held: Position) -> Decimal:
        return self.see().transferable(held.contract.settle)

    def _option(self, act: Trade) -> orders.Refused | None:
        option = self.options[act.symbol]
        order = OptionOrder(act.id, option, act.buy, exact(act.size), exact(act.price), act.reduce_only)
        if not act.rest:
            return credit.fill_option(self.see(), order, order.size, order.price, option.taker)
        answer = credit.check_option(self.see(), order, False)
        if isinstance(answer, orders.Refused):
            return answer
        self.book.option_orders[order.id] = answer
        return None

    def _contract(self, act: Trade) -> orders.Refused | None:
        order = self._order(act)
        if not act.rest:
            return self._fill(order, order.size, order.price, False)
        answer = credit.check(self.see(), order, False)
        if isinstance(answer, orders.Refused):
            return answer
        self.book.orders[order.id] = answer
        return None

    def _fill(self, order: Order, size: Decimal, price: Decimal, maker: bool) -> orders.Refused | None:
        asked = copy(order)
        asked.size, asked.price = size, price
        resting = {number: other for number, other in self.book.orders.items() if number != order.id}
        without = self.see().but(orders=resting)
        answer = credit.check(without, asked, True)  # what it froze while it rested helps nothing
        if isinstance(answer, orders.Refused):
            self.book.orders.pop(order.id, None)
            return answer
        orders.trade(self.book, order, answer.size, size, price, maker)
        return None

    # ------------------------------------------------------------------ time

    def due(self, start: int, end: int) -> set[int]:
        """Every full hour as well."""
        return super().due(start, end) | set(range(start // HOUR * HOUR + HOUR, end + 1, HOUR))

    def strike(self, time: int) -> None:
        if time % HOUR == 0:
            debts.strike(self.see())

    def noted(self) -> None:
        debts.note(self.book, self.time)

    def pool_of(self, position: Position | OptionPosition) -> str:
        alone = isinstance(position, Position) and position.mode == "isolated"
        return super().pool_of(position) if alone else whole.POOL

    def end(self, position: Position | OptionPosition, traded: Decimal, pool: str) -> None:
        """What is below zero is owed."""
        if isinstance(position, Position) and position.mode == "isolated" and not position.size:
            clock.end_isolated(self.book, position, self.time, pool, traded)

    def settle_funding(self, symbol: str, rate: Decimal) -> None:
        """As in `Replay`, but what is below zero is owed: since 2024-07-01 in full, out of (into) the margin of an
        isolated position, else cash. Before: a payer down to a ratio of 1, an isolated one out of what may leave the
        account first; receivers in cash.
        """
        for key in sorted(self.book.positions):
            position = self.book.positions[key]
            if key[0] != symbol:
                continue
            paid = position.value(self.marks) * rate * (1 if position.size > 0 else -1)
            purse = position if position.mode == "isolated" else None
            currency = position.contract.settle
            if not self.book.era.full_funding:
                if purse is not None:
                    cash = min(paid, self.free_cash(position)) if paid > 0 else paid
                    self.book.book("funding", None, currency, -cash)
                    pool = self._isolated(position)
                    spare = pool.equity(self.marks) - pool.required(self.marks) * JUST_SAFE
                    paid = min(paid - cash, max(ZERO, spare)) if paid > 0 else ZERO
                elif paid > 0:
                    paid = self.bearable(currency, paid)
            self.book.book("funding", purse, currency, -paid)

    def bearable(self, currency: str, due: Decimal) -> Decimal:
        def safe(paid: Decimal) -> bool:
            self.book.cash[currency] = self.book.cash.get(currency, ZERO) - paid
            wealth = self.see()
            held = wealth.adjusted_equity() >= wealth.required() * JUST_SAFE
            self.book.cash[currency] += paid
            return held

        if safe(due):
            return due
        low, high = ZERO, due
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if safe(middle) else (low, middle)
        return low

    # ------------------------------------------------------------------ risk

    def judge(self) -> None:
        """Until nothing is left to do: forced repayment and cancellation about the account, then isolated positions in
        breach, one at a time, then the account; warnings last.
        """
        while self._undo():
            pass
        pools = self.pools()
        for pool in pools:
            ratio = pool.ratio(self.marks)
            if pool.holds and ratio is not None and ratio <= WARNING:
                self._warn(pool.name, ratio)
        self.rearm(pools)

    def _undo(self) -> bool:
        if whole.prepare(self.see, self.time):
            return True
        for position in list(self.book.held("isolated")):
            ratio = self._isolated(position).ratio(self.marks)
            if ratio is not None and ratio <= BREACH:
                self._warn(isolated.pool_name(position), ratio)
                isolated.liquidate(self.book, position, self.marks, self.time, self.noted)
                return True
        return whole.control(self.see, partial(self._warn, whole.POOL), self.time)

    def reach(self, pool: Pool, level: Decimal) -> None:
        """At the warning level of a leg a pool is only warned, at a breach everything is judged."""
        ratio = pool.ratio(self.marks)
        if level == LIQUIDATION:
            self.judge()
        elif ratio is not None:
            self._warn(pool.name, ratio)

    def _warn(self, name: str, ratio: Decimal) -> None:
        if name not in self.book.warned:
            self.book.warned.add(name)
            self.book.say("Warned", self.time, name, margin_ratio=ratio)

    def pools(self) -> list[Pool]:
        """Every isolated position, then the account, as it stands now: nothing may happen to it while it is asked."""
        def nothing(marks: Prices, time: int) -> None:
            raise AssertionError("an account is undone by `whole`")

        seen: list[Wealth] = []

        def at(marks: Prices) -> Wealth:
            if not seen or seen[0].prices is not marks:
                seen[:] = [self.see(marks)]
            return seen[0]

        alone = [self._isolated(position) for position in self.book.held("isolated")]
        return [*alone, Pool(
            whole.POOL,
            lambda marks: at(marks).adjusted_equity(),
            lambda marks: at(marks).initial(),
            lambda marks: at(marks).maintenance(),
            lambda marks: at(marks).fee(),
            nothing,
            tuple(position.contract for position in self.book.held("cross")),
            whole.holds(self.book),
            straight=False,
        )]
