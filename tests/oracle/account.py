"""Replaying a script where the whole account stands behind its debts: multi-currency margin over time."""

from __future__ import annotations

from copy import copy
from decimal import Decimal

from tests.oracle import credit, debts, orders, whole
from tests.oracle.book import Order, Prices, SpotOrder
from tests.oracle.contract import ZERO, exact
from tests.oracle.multi_currency import Wealth
from tests.oracle.portfolio import Portfolio
from tests.oracle.replay import JUST_SAFE, LIQUIDATION, WARNING, Pool, Replay
from tests.oracle.scenario import HOUR, RIGHTS, Cancel, FillResting, Scenario, Trade, forwards_of, option_of, spot_of

BISECTIONS = 80


class AccountReplay(Replay):
    """One pool, the account. Orders, clock and forced orders by the account's own pages, the path as in `Replay`."""

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

    # ------------------------------------------------------------------ acts

    def act(self, act: object) -> str:
        answer: orders.Refused | None = None
        if isinstance(act, Trade) and ":" not in act.symbol:
            answer = self._spot(act)
        elif isinstance(act, Trade) and act.symbol in self.options:
            wealth, contracts = self.see(), exact(act.size) * (1 if act.buy else -1)
            assert isinstance(wealth, Portfolio)
            answer = credit.fill_option(wealth, self.options[act.symbol], contracts, exact(act.price), act.reduce_only)
        elif isinstance(act, Trade):
            answer = self._contract(act)
        elif isinstance(act, FillResting) and act.id in self.book.spot:
            spot = self.book.spot[act.id]
            answer = credit.fill_spot(self.see(), spot, min(exact(act.size), spot.size), spot.price, self.terms.maker)
        elif isinstance(act, FillResting) and act.id in self.book.orders:
            order = self.book.orders[act.id]
            answer = self._fill(order, min(exact(act.size), order.size), order.price, True)
        elif isinstance(act, Cancel):
            self.book.orders.pop(act.id, None)
            self.book.spot.pop(act.id, None)
        else:
            return super().act(act)
        debts.note(self.book, self.time)
        self.shortfall = answer.shortfall if answer and isinstance(act, Trade) else ZERO
        return "refused" if answer else "done"

    def _spot(self, act: Trade) -> orders.Refused | None:
        order = SpotOrder(act.id, *spot_of(act.symbol, self.time), act.buy, exact(act.size), exact(act.price))
        if not act.rest:
            return credit.fill_spot(self.see(), order, order.size, order.price, self.terms.taker)
        answer = credit.check_spot(self.see(), order)
        if isinstance(answer, orders.Refused):
            return answer
        self.book.spot[order.id] = order
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

    def clock(self, start: int, end: int) -> None:
        """Settlements and full hours; at one instant funding first, then interest (section 9), judged once."""
        due = {time for time, _, _ in self.funding if start < time <= end}
        due |= set(range(start // HOUR * HOUR + HOUR, end + 1, HOUR))
        for time in sorted(due):
            for then, symbol, rate in self.funding:
                if then == time:
                    self.settle_funding(symbol, rate)
            debts.strike(self.see())
            debts.note(self.book, self.time)
            self.judge()

    def settle_funding(self, symbol: str, rate: Decimal) -> None:
        """Out of (into) cash; before 2024-07-01 a payer only down to a ratio of 1 (as in `Replay`)."""
        for position in list(self.book.held("cross")):
            if position.contract.symbol != symbol:
                continue
            paid = position.value(self.marks) * rate * (1 if position.size > 0 else -1)
            if paid > 0 and not self.book.era.full_funding:
                paid = self.bearable(position.contract.settle, paid)
            self.book.book("funding", None, position.contract.settle, -paid)

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
        whole.control(self.see, self._warn, self.time)
        for pool in self.pools():
            ratio = pool.ratio(self.marks)
            if pool.holds and ratio is not None and ratio <= WARNING:
                self._warn(ratio)
        self.rearm()

    def reach(self, pool: Pool, level: Decimal) -> None:
        """At the warning level of a leg the account is only warned, at a breach it is judged whole."""
        ratio = pool.ratio(self.marks)
        if level == LIQUIDATION:
            self.judge()
        elif ratio is not None:
            self._warn(ratio)

    def _warn(self, ratio: Decimal) -> None:
        if whole.POOL not in self.book.warned:
            self.book.warned.add(whole.POOL)
            self.book.say("Warned", self.time, whole.POOL, margin_ratio=ratio)

    def pools(self) -> list[Pool]:
        """The one pool, as the account stands now: nothing may happen to it while the pool is asked."""
        def nothing(marks: Prices, time: int) -> None:
            raise AssertionError("an account is undone by `whole`")

        seen: list[Wealth] = []

        def at(marks: Prices) -> Wealth:
            if not seen or seen[0].prices is not marks:
                seen[:] = [self.see(marks)]
            return seen[0]

        return [Pool(
            whole.POOL,
            lambda marks: at(marks).adjusted_equity(),
            lambda marks: at(marks).initial(),
            lambda marks: at(marks).maintenance(),
            lambda marks: at(marks).fee(),
            nothing,
            tuple(position.contract for position in self.book.positions.values()),
            whole.holds(self.book),
            straight=False,
        )]
