"""An account in its mode, under the rules, at the present market: what it is worth and how it is judged.

Pools are cut once for each state of the account and judged once at each market. What is booked beside a trade is told
here, too: debts that begin and end, deficits that the insurance fund pays, orders that are withdrawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bt_margin.engine import takeover
from bt_margin.engine.accrual import FundingSeries
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import AccountReport, LateReport, ratio
from bt_margin.model.event import Bankrupt, Borrowed, Event, OrdersCancelled, Repaid
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import currencies
from bt_margin.modes.account_report import Collateral, collateral
from bt_margin.modes.assess import account_pools, assess, available, total_equity, transferable
from bt_margin.modes.base import Judgement, MarginMode, Pool, judge
from bt_margin.modes.isolated import ISOLATED, pool_name
from bt_margin.rules.book import RuleBook, Rules
from bt_margin.rules.tables import Evidence

DUST = 1e-9  # of the traded notional: below it a remainder is rounding, not a deficit


class Present:
    """The account now. `events` is what happened to it so far."""

    def __init__(self, account: Account, mode: MarginMode, book: RuleBook, market: Market, extrapolate: str,
                 funding: Mapping[str, FundingSeries]) -> None:
        self.account = account
        self.mode = mode
        self.book = book
        self._market = market
        self.catch_up: Callable[[], None] | None = None  # while bars pass untold: what tells them
        self.extrapolate = extrapolate
        self.funding = dict(funding)
        self.rules: Rules = self.rules_at(market.time)
        self.events: list[Event] = []
        self.funding_due: Counter[str] = Counter()
        self.funding_missed: Counter[str] = Counter()
        self._evidence: dict[tuple[str, str, str], tuple[int, Evidence]] = {}
        self._owed = account.owed()
        self._pools_of: tuple[Any, tuple[list[Pool], list[Pool]]] | None = None
        self._looked: dict[str, tuple[Pool, Market, Rules, Judgement]] = {}

    @property
    def market(self) -> Market:
        """The market now. Bars that whoever drives the engine has slept through are told first."""
        if self.catch_up is not None:
            self.catch_up()
        return self._market

    @market.setter
    def market(self, market: Market) -> None:
        self._market = market

    @property
    def state(self) -> tuple[int, Orders]:
        """What changes whenever the account does. Orders, not their ids: one may be replaced by another of its id."""
        return len(self.account.ledger), self.account.resting

    def rules_at(self, time: int) -> Rules:
        """The rules in force at a time (ms)."""
        return self.book.as_of(time, self.extrapolate)  # type: ignore[arg-type]

    # -- what it is worth ---------------------------------------------------------------------------------------

    def seek(self) -> None:
        """Do what was put off of the last judgement: what it looks up is part of what the run leans on."""

    def assess(self) -> AccountReport:
        """The account now."""
        self.seek()
        return assess(self.account, self.mode, self.market, self.rules, self.warnings())

    def late_report(self) -> LateReport:
        """The account now, for an event to tell of: laid out if somebody reads it, as it would have been here. What it
        leans on then is noted for the run, as if it had been laid out at once."""
        account, mode, market, rules, said = self.account.copy(), self.mode, self.market, self.rules, self.warnings()
        noted = Counter(market.stand_ins)

        def lay_out() -> AccountReport:
            self.seek()
            report = assess(account, mode, replace(market, stand_ins=noted), rules, said)
            market.stand_ins.update(noted - market.stand_ins)
            self.lean_on(rules)
            return report

        return LateReport(lay_out)

    def equity_usd(self) -> float:
        """Undiscounted value of everything, in USD."""
        return float(total_equity(self.account, self.market))

    @property
    def at_risk(self) -> bool:
        """True while something may be liquidated or may fall due: positions, or debts of a whole account."""
        return bool(self.account.positions) or (self.mode.whole and bool(self.account.owed()))

    def trades_coins(self, order: Order) -> bool:
        """True for an order by which coins change hands without a loan of its own."""
        if self.mode.whole:
            return currencies.trades_coins(order)
        return order.is_cash

    def available(self, currency: str) -> float:
        """What may still open positions in a currency, never below zero; of a whole account its free margin."""
        pool = self.free_pool(currency)
        if pool is None:
            return 0.0
        free = max(0.0, float(available(self.look(pool, self.market))))
        return free / float(self.market.usd(currency)) if self.mode.whole else free

    def free_pool(self, currency: str) -> Pool | None:
        """The pool whose free margin opens positions in a currency: the account, else that of the currency."""
        pools = (p for p in self._cut()[0] if p.mode is not ISOLATED)
        return next((p for p in pools if self.mode.whole or p.currency == currency), None)

    def transferable(self, currency: str) -> float:
        """Cash of a currency that may become isolated margin or leave: it is there, and nothing needs it."""
        pool = self.free_pool(currency)
        if pool is None:
            return 0.0
        return transferable(pool, self.look(pool, self.market), currency, self.market, self.rules)

    def present_ratio(self) -> float | None:
        """The lowest margin ratio of all pools now; None while nothing is required."""
        ratios = [ratio(float(j.equity), float(j.requirement)) for _, j in self.judged_pools()]
        return min((r for r in ratios if r is not None), default=None)

    def collateral(self) -> dict[str, Collateral]:
        """What each currency of a whole account is worth and counts for now; empty where currencies stand alone."""
        if not self.mode.whole:
            return {}
        pool = self.account_pool()
        return collateral(pool, self.market, self.rules)

    def evidence(self) -> tuple[Evidence, ...]:
        """Every rule row this run leaned on, over all revisions it passed through."""
        self.lean_on(self.rules)
        return tuple(self._evidence[key][1] for key in sorted(self._evidence))

    def lean_on(self, rules: Rules) -> None:
        """The run rests on what these rules were asked for; of the same row the last day's counts, whenever told."""
        self.seek()
        for row in rules.evidence():
            key = (row.table, row.subject, row.effective)
            if key not in self._evidence or self._evidence[key][0] <= rules.time:
                self._evidence[key] = (rules.time, row)

    def warnings(self) -> tuple[str, ...]:
        """What a reader has to know: funding not covered, and rules that stood in."""
        rows = []
        for symbol, due in sorted(self.funding_due.items()):
            missed = self.funding_missed[symbol]
            if missed:
                rows.append(f"funding of {symbol}: {due - missed} of {due} settlements had a rate, the rest cost 0")
            of = self.funding[symbol].of if symbol in self.funding else ""
            if of:
                rows.append(f"stand-in: funding of {symbol}: rates of {of}")
        return tuple(rows)

    # -- pools --------------------------------------------------------------------------------------------------

    def at_risk_pools(self) -> list[Pool]:
        """Every pool that can be liquidated, isolated ones first."""
        return self._cut()[1]

    def judged_pools(self) -> list[tuple[Pool, Judgement]]:
        """Every pool that can be liquidated, as it is judged now."""
        market = self.market
        return [(pool, self.look(pool, market)) for pool in self.at_risk_pools()]

    def account_pool(self) -> Pool:
        """The one pool of a whole account."""
        (pool,) = [p for p in self._cut()[0] if p.holdings is not None]
        return pool

    def pool_of(self, position: Position) -> str:
        if position.margin_mode == "isolated":
            return pool_name(position)
        return self.account_pool().name if self.mode.whole else position.currency

    def _cut(self) -> tuple[list[Pool], list[Pool]]:
        """The account as pools, all of them and those that can be liquidated: cut once for each state it is in."""
        account = self.account
        state = (self.state, self.mode, account.borrowing, account.spot_use)
        if self._pools_of is None or self._pools_of[0] != state:
            pools = account_pools(account, self.mode)
            self._pools_of = (state, (pools, [pool for pool in pools if pool.at_risk]))
        return self._pools_of[1]

    def look(self, pool: Pool, market: Market) -> Judgement:
        """A pool judged at a market by the present rules, once: the end of a leg is asked for again and again."""
        known = self._looked.get(pool.name)
        if known is None or known[0] is not pool or known[1] is not market or known[2] is not self.rules:
            known = self._looked[pool.name] = (pool, market, self.rules, judge(pool, market, self.rules))
        return known[3]

    # -- what is told of bookings -------------------------------------------------------------------------------

    def note_debts(self) -> None:
        """Say when a balance of a whole account falls below zero, and when it is made good."""
        if not self.mode.whole:
            return
        owed = self.account.owed()
        if owed == self._owed:
            return
        report, time = self.late_report(), self.market.time
        pool = self.account_pool()
        for currency in sorted(owed - self._owed):
            self.events.append(Borrowed(time, pool.name, report, currency, -self.account.balance(currency)))
        self.events += [Repaid(time, pool.name, report, currency) for currency in sorted(self._owed - owed)]
        self._owed = owed

    def cancel_orders(self, pool: str, orders: tuple[int, ...], report: LateReport, margin_ratio: float | None,
                      reason: str, time: int | None = None) -> None:
        """Withdraw orders, at the present time if no other is given."""
        for order_id in orders:
            self.account.withdraw(order_id)
        if orders:
            when = self.market.time if time is None else time
            self.events.append(OrdersCancelled(when, pool, report, orders, margin_ratio, reason))

    def end(self, position: Position, time: int, report: LateReport) -> None:
        """After a close nobody asked for: margin left goes back to cash, a debt is refunded."""
        name = self.pool_of(position)
        paid = takeover.settle_isolated(self.account, position.key, time, True)
        notional = float(position.notional(self.market))
        self.tell_bankrupt(name, position, paid, notional, report)
        self.settle_cash(position.currency, notional, name)

    def tell_bankrupt(self, pool: str, position: Position, paid: float, notional: float, report: LateReport) -> None:
        if paid > DUST * notional:
            self.events.append(Bankrupt(self.market.time, pool, report, position.currency, paid))

    def settle_cash(self, currency: str, notional: float, pool: str = "") -> None:
        """A negative balance without positions behind it is refunded to zero by the insurance fund."""
        if self.mode.whole or self.account.balance(currency) >= 0:
            return  # a whole account owes what is below zero
        report = self.late_report()
        paid = takeover.settle_cash(self.account, currency, self.market.time)
        if paid > DUST * max(1.0, notional):
            self.events.append(Bankrupt(self.market.time, pool or currency, report, currency, paid))
