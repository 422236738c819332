"""The margin engine: the only object that acts over time.

`check` answers whether an order may rest, `fill` books a trade, `advance` moves the account to the next instant:
clock events, breaches on the way, forced orders, warnings. It owns the money; whoever drives it owns the prices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bt_margin.engine import adjust, booking, credit, debts, portfolio_orders, spot_margin, switching
from bt_margin.engine import orders as order_rules
from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.booking import Fill
from bt_margin.engine.clock import WINDOW, Deleveraging
from bt_margin.engine.clockwork import Clockwork
from bt_margin.engine.horizon import Stretch, nearest_distance
from bt_margin.engine.leg import Leg
from bt_margin.engine.orders import Refusal
from bt_margin.engine.switching import Switch
from bt_margin.errors import Ineligible, InputError, MissingPrice, NotConserved, NotSupported
from bt_margin.model.account import Account, Order
from bt_margin.model.event import ModeSwitched, Refused
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.market import Market
from bt_margin.modes.assess import assess
from bt_margin.modes.base import MarginMode
from bt_margin.rules.book import RuleBook
from bt_margin.rules.credit import RateSeries


class MarginEngine(Clockwork):
    """An account of one mode, under a rule book, moving through markets.

    `slippage` is the share of the price that forced orders lose (0 by default: the venue's records show fills at
    the trigger). `funding` holds settled rates by symbol, `interest` yearly borrow rates by currency, constant or a
    RateSeries (the rules' own otherwise), `deleveraging` scripted auto-deleveraging. `strict` refuses missing funding
    instead of counting it.
    """

    def __init__(
        self,
        account: Account,
        mode: MarginMode,
        book: RuleBook,
        market: Market,
        *,
        extrapolate: str = "nearest",
        funding: Mapping[str, FundingSeries] | None = None,
        interest: Mapping[str, float | RateSeries] | None = None,
        deleveraging: Sequence[Deleveraging] = (),
        slippage: float = 0.0,
        strict: bool = False,
    ) -> None:
        super().__init__(account, mode, book, market, extrapolate, funding or {}, interest or {}, deleveraging,
                         slippage, strict)
        if mode.whole:
            credit.check_choices(account, self.rules)

    def check_eligible(self) -> None:
        """Raise Ineligible where the venue would not let the account, as it is, into the mode."""
        least, worth = switching.least_equity(self.mode, self.rules), self.equity_usd()
        if worth < least:
            raise Ineligible(f"mode: {self.mode.name} margin needs an account of {least:,.10g} USD, "
                             f"found {worth:,.2f}; give it more, or take another mode")

    def switch_mode(self, new: MarginMode, leverage: float | None = None) -> Switch:
        """Change the account mode with everything that is open, as far as the venue lets it at this date.

        `leverage`: the setting of cross contracts when leaving portfolio margin, which knows none. What was tried
        becomes an event, refused or not.
        """
        old, told, after = self.mode, self.late_report(), None
        before = told.read()
        why = tuple(switching.reasons(self.account, old, new, self.equity_usd(), leverage, self.rules))
        if not why:
            trial = switching.converted(self.account, leverage)
            try:
                if new.whole:
                    credit.check_choices(trial, self.rules)
                after = assess(trial, new, self.market, self.rules)
                why = tuple(switching.margin_reasons(trial, new, self.market, self.rules))
            except InputError as error:  # no rule, no price, a choice that the new mode does not know
                after, why = None, (str(error),)
        if not why:
            for currency in sorted(self.account.accrued) if not new.whole else ():
                debts.deduct(self.account, currency, self.market.time)
            for key, position in trial.positions.items():
                if position.leverage != self.account.positions[key].leverage:
                    self.account.apply(Entry(self.market.time, EntryKind.TRANSFER, position.currency, key=key,
                                             leverage=position.leverage, note=f"leverage {position.leverage:g}"))
            self.mode = new
            self.control.forget_warnings()
        self.events.append(ModeSwitched(self.market.time, "account", told, old.name, new.name, why, after))
        return Switch(old.name, new.name, before, after, why)

    # -- orders -------------------------------------------------------------------------------------------------

    def check(self, order: Order) -> Order | Refusal:
        """The order as the venue takes it, or the refusal. Books nothing."""
        return self._check(order, filling=False)

    def _check(self, order: Order, filling: bool) -> Order | Refusal:
        change = adjust.leverage_change(self, order)
        if isinstance(change, Refusal):
            return change
        account = self.account if change is None else self.account.what_if(change)
        return self._answer(account, order, filling)

    def _answer(self, account: Account, order: Order, filling: bool = False) -> Order | Refusal:
        """What the mode's gate says; a refusal of a whole account's names the largest size that would pass it."""
        if not self.mode.whole:
            return order_rules.check(account, order, self.market, self.rules, filling=filling)
        gate = gate_of(self.mode)
        answer = gate(account, order, self.market, self.rules, filling=filling)
        if not isinstance(answer, Refusal):
            return answer
        if answer.largest_size:  # by the tiers alone: margin may allow less
            order = replace(order, size=answer.largest_size)
            if not isinstance(gate(account, order, self.market, self.rules, filling=filling), Refusal):
                return answer
        largest = order_rules.largest_taken(gate, account, order, self.market, self.rules, filling=filling)
        return replace(answer, largest_size=largest)

    def accept(self, order: Order) -> Order | Refusal:
        """Check an order and let it rest; a refusal becomes an event."""
        answer = self.check(order)
        if isinstance(answer, Refusal):
            self.refuse(order, answer)
            return answer
        adjust.adopt_leverage(self, answer)
        self.account.place(answer)
        return answer

    def preview(self, orders: Sequence[Order]) -> tuple[Refusal | None, float]:
        """Could all these orders rest together? The first refusal, and the largest share of all sizes that could.

        Books nothing. The share is 1.0 when nothing is refused; found by bisection over the checks themselves.
        """

        gate = gate_of(self.mode)

        def first(share: float) -> Refusal | None:
            account = self.account.copy()
            for order in orders:
                size = order.instrument.floor(order.size * share)
                if size <= 0:
                    continue
                answer = gate(account, replace(order, size=size), self.market, self.rules)
                if isinstance(answer, Refusal):
                    return answer
                account.place(answer)
            return None

        refusal = first(1.0)
        low, high = (1.0, 1.0) if refusal is None else (0.0, 1.0)
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if first(middle) is None else (low, middle)
        return refusal, low

    def refuse(self, order: Order, refusal: Refusal) -> None:
        self.events.append(
            Refused(self.market.time, refusal.currency, self.late_report(), order.id, order.symbol, refusal.reason,
                    refusal.shortfall, refusal.largest_size)
        )

    def cancel(self, order_id: int) -> None:
        self.account.withdraw(order_id)

    def fill(
        self, order: Order, size: float, price: float, *, maker: bool = False, fee: float | None = None
    ) -> Fill | Refusal:
        """Trade `size` (positive) of an order at `price`. Nothing fills into negative free margin: that refuses.

        `fee` overrides the fee of a plain asset (quote currency); a venue's instrument pays the venue's rate.
        """
        if not (math.isfinite(price) and price > 0):
            raise MissingPrice(f"{order.symbol}: a fill needs a finite price above zero, found {price!r}")
        before = self.account.resting
        resting = self.account.withdraw(order.id)
        if resting is not None and resting.size == size and order == resting and self._at_market(order, price):
            answer = self._check(resting, filling=True)  # as it rested, which was judged at this market
            if not isinstance(answer, Refusal):
                answer = replace(answer, price=price)
        else:
            answer = self._check(replace(order, size=size, price=price), filling=True)
        if not isinstance(answer, Refusal) and fee and order.side == "buy" and not self.mode.whole:
            left = order_rules.headroom(self.account, answer, self.market, self.rules, order.instrument.quote)
            if left < fee:  # a plain asset's fee is paid in the quote currency, on top
                answer = Refusal("insufficient cash for the fee", fee - left, order.instrument.quote)
        if isinstance(answer, Refusal):
            self.refuse(order, answer)
            return answer
        adjust.adopt_leverage(self, answer)
        if self.trades_coins(order):
            booked = booking.coins(self.account, answer, price, maker, fee, self.market, self.rules)
        elif order.instrument.is_spot:
            booked = self._loan(answer, price, maker)
        else:
            booked = booking.contract(self.account, answer, price, maker, self.market, self.rules)
        rest = order.instrument.snap((resting or order).size - size)
        if resting is not None and rest > 0:
            self.account.let_rest(before.exchanged(resting, replace(resting, size=rest)))  # it keeps its place
        self.settle_cash(answer.currency, float(order.instrument.notional(size, price)))
        self.note_debts()
        self._references.note(self.account, self.market)  # of what is held now, too
        return booked

    def _at_market(self, order: Order, price: float) -> bool:
        """True where an order at the market asks for what one at this price does: last trade and mark are there."""
        symbol, market = order.symbol, self.market
        return order.price is None and market.lasts.get(symbol) == price == market.marks.get(symbol, price)

    def _loan(self, order: Order, price: float, maker: bool) -> Fill:
        """Spot margin: borrow and trade, or trade and repay; what a close leaves negative is refunded."""
        position = spot_margin.loan_of(self.account, order.key)
        report = self.late_report() if position is not None and position.sign != order.sign else None
        traded = spot_margin.trade(self.account, order, price, maker, self.market, self.rules)
        if position is not None and report is not None:
            worth = float(position.notional(self.market))
            self.tell_bankrupt(self.pool_of(position), position, traded.paid, worth, report)
        return Fill(traded.closed, traded.opened, price, traded.pnl, traded.closed_fee, traded.opened_fee)

    # -- changes that are no trades -----------------------------------------------------------------------------

    def set_leverage(self, key: PositionKey, leverage: float) -> Refusal | None:
        """Change an open position's leverage setting: the venue's refusal, or None. See `adjust.set_leverage`."""
        return adjust.set_leverage(self, key, leverage)

    def add_margin(self, key: PositionKey, amount: float) -> Refusal | None:
        """Move cash (settlement currency; negative: out) into isolated margin. See `adjust.add_margin`."""
        return adjust.add_margin(self, key, amount)

    def reducible_margin(self, key: PositionKey) -> float:
        """How much margin may leave an isolated position now, in its settlement currency."""
        return adjust.reducible_margin(self, key)

    def deposit(self, currency: str, amount: float) -> None:
        """Money from (negative: to) outside; InputError where it is not free to leave."""
        adjust.deposit(self, currency, amount)

    # -- time ---------------------------------------------------------------------------------------------------

    def advance(self, target: Market, *, jump: bool = False, quiet: bool = False) -> None:
        """Move to `target`. A leg is walked: the first point at which a pool breaches is solved for and its forced
        orders trade there. A jump (one bar's close to the next one's open) is not: the target's prices judge. `quiet`:
        the leg is one on which nothing happens, as was seen ahead."""
        start = self.market.time
        if target.time < start:
            raise InputError(f"advance: time runs backwards, from {start} to {target.time}")
        self.judge_changes()
        if jump:
            self._accrue(start, target.time)
        elif not quiet:
            self._walk(target)
        self._move(target)
        if not jump:
            self._accrue(start, target.time)
        if not self.control.up_to_date:
            self.control.judge()

    def judge_changes(self) -> None:
        """Risk control over fills, orders and margins since the last judgement: they are judged where they happened."""
        if not self.control.settled:
            self.control.judge()
            self._lean_on_clock()

    def sleep(self, stretch: Stretch, start: int, end: int, low: float | None, notable: bool) -> None:
        """Let the bars [start, end) of a stretch pass: what `advance` would have left behind of them, and no more.

        `low`: the lowest ratio in them, None where it was told already. `notable`: their index prices may be asked for
        at a delivery.
        """
        nearest, closes, seen = nearest_distance(self, stretch, start, end), stretch.ahead.closes, end - 1
        if notable:
            seen = max(start, int(np.searchsorted(closes, closes[seen] - 2 * WINDOW)))
        for bar in range(seen, end):
            if notable and self.at_risk:
                self._references.note(self.account, stretch.ahead.opening(bar, self.market))
            self.market = stretch.ahead.closing(bar, self.market)
            if notable:
                self._references.note(self.account, self.market)
        self.control.sleep(low, nearest)

    def close_eve(self, stretch: Stretch, target: Market, notable: bool) -> None:
        """Let the bar behind the quiet ones of a stretch pass up to its close, `target`, and what is due there come."""
        bar, way = stretch.bars, stretch.ahead.points - 1
        nearest, low = nearest_distance(self, stretch, bar, bar + 1, way), stretch.low(bar, bar + 1, way)
        self.market = stretch.ahead.opening(bar, self.market)
        if notable:
            self._references.note(self.account, self.market)
        self.control.sleep(None if math.isnan(low) else low, nearest)
        self.advance(target, quiet=True)

    def _move(self, market: Market) -> None:
        self.market = market
        self._references.note(self.account, market)
        rules = self.rules_at(market.time)
        if rules is not self.rules:
            self.lean_on(self.rules)
            self.rules = rules
            for position in self.account.positions.values():
                size = rules.instrument(position.symbol).contract_size
                if size != position.instrument.contract_size:
                    raise NotSupported(
                        f"{position.symbol}: the contract size changes from "
                        f"{position.instrument.contract_size:g} to {size:g} while a position is open; "
                        "close it before, or freeze the rules with rules_as_of"
                    )

    def _walk(self, target: Market) -> None:
        """Stop at every first warning and breach on the straight way from here to `target`: at the warning level first,
        once warned at the liquidation level. Shares are of the whole way, so that stops do not add up their rounding.
        """
        leg, done, levels = Leg(self.market, target, self.rules, self.look), 0.0, self.rules.liquidation
        for _ in range(10_000):
            stops = []
            for pool in self.at_risk_pools():
                level = levels.liquidation_ratio if self.control.warned(pool.name) else levels.warning_ratio
                stops.append((leg.crossing(pool, level, done), pool.name))
            share, name = min(stops, default=(math.inf, ""))
            if share > 1.0:
                return
            done, self.market = share, leg.at(share)
            if self.control.warned(name):
                self.control.judge()
            else:
                pool = next(pool for pool in self.at_risk_pools() if pool.name == name)
                self.control.warn(name, self.look(pool, self.market), self.late_report())
        raise NotConserved("advance: a breach is never resolved; this is a defect, please report the book")


_GATES = {"multi-currency": credit.check, "portfolio": portfolio_orders.check}
"""How a mode answers an order, where it is not by the money of one currency."""


def gate_of(mode: MarginMode) -> order_rules.Gate:
    """How a mode answers an order."""
    return _GATES.get(mode.name, order_rules.check)


__all__ = ["Deleveraging", "Fill", "MarginEngine", "Refusal"]
