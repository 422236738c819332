"""What time brings to an account: funding, interest, scripted deleveraging, delivery; each instant is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bt_margin.engine import debts, spot_margin
from bt_margin.engine.accrual import FundingSeries, funding_entries
from bt_margin.engine.clock import DebtHour, Deleveraging, Due, InterestHour, References, due_events
from bt_margin.engine.control import RiskControl
from bt_margin.engine.present import Present
from bt_margin.engine.takeover import deleverage, settle
from bt_margin.errors import MissingPrice
from bt_margin.model.account import Account
from bt_margin.model.event import Deleveraged, Settled
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.modes.base import MarginMode
from bt_margin.rules.book import RuleBook
from bt_margin.rules.credit import RateSeries, own_hourly


class Clockwork(Present):
    """The account now, under risk control, with what is due on its clock."""

    def __init__(self, account: Account, mode: MarginMode, book: RuleBook, market: Market, extrapolate: str,
                 funding: Mapping[str, FundingSeries], interest: Mapping[str, float | RateSeries],
                 deleveraging: Sequence[Deleveraging], slippage: float, strict: bool) -> None:
        super().__init__(account, mode, book, market, extrapolate, funding)
        self.control = RiskControl(self, slippage)
        self.interest = dict(interest)
        self.deleveraging = tuple(deleveraging)
        self.strict = strict
        self._references = References()

    def seek(self) -> None:
        self.control.seek()

    def _accrue(self, start: int, end: int) -> bool:
        """What the clock brings in (start, end], at the present prices: funding, interest, deleveraging, delivery, in
        the order of their times, with risk control after each instant. True: something moved."""
        if end <= start or not (self.at_risk or self.account.orders or any(self.account.accrued.values())):
            return False
        moved = False
        while due := self._due(start, end):
            moved, start = True, due[0][0]
            for time, _, key, cause in due:
                if time > start:
                    break
                if cause is None or isinstance(cause, float):
                    self._fund(time, key, cause)
                elif isinstance(cause, InterestHour):
                    self._charge_interest(time, key)
                elif isinstance(cause, DebtHour):
                    debts.charge_hour(self.account, self.mode, time, self._hourly, self.market, self.rules)
                elif isinstance(cause, Deleveraging):
                    self._deleverage(time, key, cause)
                else:
                    self._settle(time, cause)
            self.note_debts()
            if not self.control.up_to_date:
                self.control.judge()  # each instant is judged on its own (rule book section 14)
        return moved

    def _due(self, start: int, end: int) -> list[Due]:
        return due_events(self.account, self.funding, self.deleveraging, self.rules, start, end, self.mode.whole)

    def _lean_on_clock(self) -> None:
        """What is held leans on the clock's rules from here on, whether or not something comes of them."""
        for position in self.account.positions.values():
            if position.instrument.is_swap:
                self.rules.funding(position.symbol)

    def _fund(self, time: int, key: PositionKey, rate: float | None) -> None:
        symbol, held = key.symbol, self.account.positions.get(key)
        self.funding_due[symbol] += 1
        if rate is None:
            if self.strict:
                raise MissingPrice(f"strict: {symbol} has no funding rate at {time}; supply one")
            self.funding_missed[symbol] += 1
        elif held is not None:
            for entry in funding_entries(self.account, self.mode, held, rate, time, self.market, self.rules):
                self.account.apply(entry)
            self.settle_cash(held.currency, 0.0)

    def _charge_interest(self, time: int, key: PositionKey) -> None:
        loan = spot_margin.loan_of(self.account, key)
        if loan is not None:
            spot_margin.accrue_interest(self.account, key, self._hourly(loan.debt_currency, time), time)

    def _hourly(self, currency: str, time: int) -> float:
        """What an hour of owing a currency costs: what the caller said, else the venue's rate."""
        own = self.interest.get(currency)
        if own is None:
            then = self.rules_at(time)
            rate = then.hourly_rate(currency, time)
            self.lean_on(then)
            return rate
        return own_hourly(own, time)

    def _deleverage(self, time: int, key: PositionKey, cause: Deleveraging) -> None:
        position = self.account.positions.get(key)
        if position is None:
            return
        size = position.instrument.floor(-position.size * cause.share)
        if not size:
            return
        report, price = self.late_report(), float(self.market.mark(key.symbol))
        trade = deleverage(self.account, position, size, price, time, self.rules)
        self.end(position, time, report)
        left = self.account.positions.get(key)
        self.events.append(
            Deleveraged(time, self.pool_of(position), report, key, size, price, trade.pnl, trade.fee, 0.0,
                        left.size if left else 0.0, cause.share)
        )

    def _settle(self, time: int, instrument: Instrument) -> None:
        """Deliver every position of an expiring contract; its orders are cancelled (rule book section 11)."""
        symbol = instrument.symbol
        report = self.late_report()
        orders = tuple(order.id for order in self.account.orders.values() if order.symbol == symbol)
        self.cancel_orders(instrument.settle, orders, report, None, "the contract has expired", time)
        held = [position for _, position in sorted(self.account.positions.items()) if position.symbol == symbol]
        if not held:
            return
        price = self._references.average(instrument, self.rules.delivery.average_minutes, self.market)
        for position in held:
            trade = settle(self.account, position, price, time, self.market, self.rules)
            self.end(position, time, report)
            self.events.append(
                Settled(time, self.pool_of(position), report, position.key, trade.size, trade.price, trade.pnl,
                        trade.fee, 0.0, 0.0)
            )
