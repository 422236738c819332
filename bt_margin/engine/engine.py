"""The margin engine: the only object that acts over time.

`check` answers whether an order may rest, `fill` books a trade, `advance` moves the account to the next instant:
clock events, breaches on the way, forced orders, warnings. It owns the money; whoever drives it owns the prices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bt_margin.engine import booking, credit, debts, portfolio_orders, spot_margin, switching
from bt_margin.engine import orders as order_rules
from bt_margin.engine.accrual import HOUR, FundingSeries, funding_entries
from bt_margin.engine.booking import Fill
from bt_margin.engine.clock import WINDOW, DebtHour, Deleveraging, Due, InterestHour, References, due_events
from bt_margin.engine.horizon import Stretch, nearest_distance
from bt_margin.engine.orders import Refusal
from bt_margin.engine.switching import Switch
from bt_margin.engine.takeover import deleverage, force, settle, settle_cash, settle_isolated
from bt_margin.errors import Ineligible, InputError, MissingPrice, NotConserved, NotSupported
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import AccountReport, ratio
from bt_margin.model.event import (
    Bankrupt,
    Borrowed,
    Converted,
    Deleveraged,
    Event,
    ModeSwitched,
    OrdersCancelled,
    Reduced,
    Refused,
    Repaid,
    Settled,
    TakenOver,
    Warned,
)
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import currencies, options
from bt_margin.modes import spot_margin as spot_margin_rules
from bt_margin.modes.account_report import Collateral, collateral
from bt_margin.modes.assess import account_pools, assess, available, total_equity
from bt_margin.modes.base import CancelOrders, Convert, Judgement, MarginMode, Pool, judge
from bt_margin.modes.conversion import repay_above_quota
from bt_margin.modes.distance import distance, holds, is_straight, may_be_nearer
from bt_margin.modes.isolated import ISOLATED, pool_name
from bt_margin.modes.reach import close_in
from bt_margin.rules.book import RuleBook, Rules
from bt_margin.rules.credit import HOURS_A_YEAR, RateSeries
from bt_margin.rules.tables import Evidence

EARLY = "cancelled by risk control (free margin below maintenance margin and order costs)"
BEFORE_LIQUIDATION = "cancelled before liquidation (insufficient margin)"
HAIR = 1e-9  # of a ratio: nearer to the liquidation level than this, a step has not left it
DUST = 1e-9  # of the traded notional: below it a remainder is rounding, not a deficit


class MarginEngine:
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
        self.account = account
        self.mode = mode
        self.book = book
        self._market = market
        self.catch_up: Callable[[], None] | None = None  # while bars pass untold: what tells them
        self.extrapolate = extrapolate
        self.funding = dict(funding or {})
        self.interest = dict(interest or {})
        self.deleveraging = tuple(deleveraging)
        self.slippage = slippage
        self.strict = strict
        self.rules: Rules = book.as_of(market.time, extrapolate)  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.funding_due: Counter[str] = Counter()
        self.funding_missed: Counter[str] = Counter()
        self._low_ratio: float | None = None
        self.entry_distance: float | None = None
        self.min_distance: float | None = None
        self._evidence: dict[tuple[str, str, str], Evidence] = {}
        self._warned: set[str] = set()
        self._judged = self.state
        self._judged_at = market
        self._references = References()
        self._owed = account.owed()
        self._sought: dict[str, tuple[tuple[int, tuple[Order, ...]], int]] = {}  # pools no move would end, and when
        self._pools_of: tuple[Any, tuple[list[Pool], list[Pool]]] | None = None
        self._looked: dict[str, tuple[Pool, Market, Rules, Judgement]] = {}
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
        old, before = self.mode, self.assess()
        after = None
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
            self._warned.clear()
        self.events.append(ModeSwitched(self.market.time, "account", before, old.name, new.name, why, after))
        return Switch(old.name, new.name, before, after, why)

    @property
    def market(self) -> Market:
        """The market now. Bars that whoever drives the engine has slept through are told first."""
        if self.catch_up is not None:
            self.catch_up()
        return self._market

    @market.setter
    def market(self, market: Market) -> None:
        self._market = market

    # -- questions ----------------------------------------------------------------------------------------------

    def assess(self) -> AccountReport:
        """The account now."""
        return assess(self.account, self.mode, self.market, self.rules, self.warnings())

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
        free = max(0.0, float(available(self._look(pool, self.market))))
        return free / float(self.market.usd(currency)) if self.mode.whole else free

    def free_pool(self, currency: str) -> Pool | None:
        """The pool whose free margin opens positions in a currency: the account, else that of the currency."""
        pools = (p for p in self._cut()[0] if p.mode is not ISOLATED)
        return next((p for p in pools if self.mode.whole or p.currency == currency), None)

    def transferable(self, currency: str) -> float:
        """Cash of a currency that may become isolated margin or leave: it is there, and nothing needs it."""
        if not self.mode.whole:
            return min(self.available(currency), self.account.balance(currency))
        pool = self.account_pool()
        line = currencies.line(pool, currency, self.market, self.rules)
        if line is None:
            return 0.0
        there = max(0.0, min(float(line.available_balance), float(line.available_equity)))
        off = currency in self.account.borrowing.collateral_off
        return there if off else min(self.available(currency), there)

    def present_ratio(self) -> float | None:
        """The lowest margin ratio of all pools now; None while nothing is required."""
        ratios = [
            ratio(float(j.equity), float(j.requirement))
            for _, j in self.judged_pools()
        ]
        return min((r for r in ratios if r is not None), default=None)

    def collateral(self) -> dict[str, Collateral]:
        """What each currency of a whole account is worth and counts for now; empty where currencies stand alone."""
        if not self.mode.whole:
            return {}
        pool = self.account_pool()
        return collateral(pool, self.market, self.rules)

    def take_lowest(self) -> float | None:
        """The lowest ratio since the last call; of bars slept through, what was told of them."""
        low, self._low_ratio = self._low_ratio, None
        return low

    def evidence(self) -> tuple[Evidence, ...]:
        """Every rule row this run leaned on, over all revisions it passed through."""
        self._lean_on(self.rules)
        return tuple(self._evidence[key] for key in sorted(self._evidence))

    def _lean_on(self, rules: Rules) -> None:
        for row in rules.evidence():
            self._evidence[row.table, row.subject, row.effective] = row

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

    def at_risk_pools(self) -> list[Pool]:
        """Every pool that can be liquidated, isolated ones first."""
        return self._cut()[1]

    def judged_pools(self) -> list[tuple[Pool, Judgement]]:
        """Every pool that can be liquidated, as it is judged now."""
        return [(pool, self._look(pool, self.market)) for pool in self.at_risk_pools()]

    def account_pool(self) -> Pool:
        """The one pool of a whole account."""
        (pool,) = (p for p in self._cut()[0] if p.holdings is not None)
        return pool

    def _cut(self) -> tuple[list[Pool], list[Pool]]:
        """The account as pools, all of them and those that can be liquidated: cut once for each state it is in."""
        account = self.account
        state = (self.state, self.mode, account.borrowing, account.spot_use)
        if self._pools_of is None or self._pools_of[0] != state:
            pools = account_pools(account, self.mode)
            self._pools_of = (state, (pools, [pool for pool in pools if pool.at_risk]))
        return self._pools_of[1]

    def _look(self, pool: Pool, market: Market) -> Judgement:
        """A pool judged at a market by the present rules, once: the end of a leg is asked for again and again."""
        known = self._looked.get(pool.name)
        if known is None or known[0] is not pool or known[1] is not market or known[2] is not self.rules:
            known = self._looked[pool.name] = (pool, market, self.rules, judge(pool, market, self.rules))
        return known[3]

    # -- orders -------------------------------------------------------------------------------------------------

    def check(self, order: Order) -> Order | Refusal:
        """The order as the venue takes it, or the refusal. Books nothing."""
        return self._check(order, filling=False)

    def _check(self, order: Order, filling: bool) -> Order | Refusal:
        change = self._leverage_change(order)
        if isinstance(change, Refusal):
            return change
        account = self.account if change is None else self.account.what_if(change)
        return self._answer(account, order, filling)

    def _answer(self, account: Account, order: Order, filling: bool = False) -> Order | Refusal:
        """What the mode's gate says; a refusal of a whole account's names the largest size that would pass it."""
        if not self.mode.whole:
            return order_rules.check(account, order, self.market, self.rules, filling=filling)
        gate = gate_of(self.mode)
        answer = gate(account, order, self.market, self.rules)
        if not isinstance(answer, Refusal):
            return answer
        if answer.largest_size:  # by the tiers alone: margin may allow less
            order = replace(order, size=answer.largest_size)
            if not isinstance(gate(account, order, self.market, self.rules), Refusal):
                return answer
        largest = order_rules.largest_taken(gate, account, order, self.market, self.rules)
        return replace(answer, largest_size=largest)

    def accept(self, order: Order) -> Order | Refusal:
        """Check an order and let it rest; a refusal becomes an event."""
        answer = self.check(order)
        if isinstance(answer, Refusal):
            self.refuse(order, answer)
            return answer
        self._adopt_leverage(answer)
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
            Refused(self.market.time, refusal.currency, self.assess(), order.id, order.symbol, refusal.reason,
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
        resting = self.account.withdraw(order.id)
        answer = self._check(replace(order, size=size, price=price), filling=True)
        if not isinstance(answer, Refusal) and fee and order.side == "buy" and not self.mode.whole:
            left = order_rules.headroom(self.account, answer, self.market, self.rules, order.instrument.quote)
            if left < fee:  # a plain asset's fee is paid in the quote currency, on top
                answer = Refusal("insufficient cash for the fee", fee - left, order.instrument.quote)
        if isinstance(answer, Refusal):
            self.refuse(order, answer)
            return answer
        self._adopt_leverage(answer)
        if self.trades_coins(order):
            booked = booking.coins(self.account, answer, price, maker, fee, self.market, self.rules)
        elif order.instrument.is_spot:
            booked = self._loan(answer, price, maker)
        else:
            booked = booking.contract(self.account, answer, price, maker, self.market, self.rules)
        rest = order.instrument.snap((resting or order).size - size)
        if resting is not None and rest > 0:
            self.account.place(replace(resting, size=rest))
        self._settle_cash(answer.currency, float(order.instrument.notional(size, price)))
        self._note_debts()
        return booked

    def set_leverage(self, key: PositionKey, leverage: float) -> Refusal | None:
        """Change an open position's leverage setting (recorded DEMO-LEVERAGE-CHANGE-*, -LIMIT-4).

        Isolated: need = initial margin at entry at the new leverage; when margin + upl covers it nothing moves,
        otherwise the margin becomes need - upl and cash pays the top-up. Cross: only the initial margin changes.
        """
        change = self._changed(key, leverage)
        if isinstance(change, Refusal):
            return change
        self.account.apply(change)
        return None

    def _changed(self, key: PositionKey, leverage: float) -> Entry | Refusal:
        """The entry that gives a position another leverage."""
        position = self.account.positions.get(key)
        if position is None:
            raise InputError(f"set_leverage: no position {key.symbol} {key.margin_mode} {key.side}")
        if not 1 <= leverage < math.inf:
            raise InputError(f"leverage: expected a setting of 1 or more, found {leverage!r}")
        if position.instrument.is_option:
            return Refusal("options know no leverage setting")
        if self.mode.name == "portfolio" and key.margin_mode == "cross":
            return Refusal("portfolio margin knows no leverage setting")
        if isinstance(position, MarginPosition):
            mark = float(self.market.mark(key.symbol))
            reason = spot_margin_rules.leverage_refusal(position, leverage, mark, self.rules)
            if reason:
                return Refusal(reason)
        else:
            tiers = self.rules.tiers(key.symbol)
            if leverage > tiers.max_leverage:
                return Refusal(f"leverage {leverage:g} is above the maximum {tiers.max_leverage:g} (59102)")
            if abs(position.size) > tiers.max_size(leverage):
                return Refusal(f"the position exceeds what leverage {leverage:g} allows (59247)")
        settle, top_up = position.currency, 0.0
        if key.margin_mode == "isolated":
            need = replace(position, leverage=leverage).initial_at_entry()
            upl = float(position.unrealised(self.market))
            if position.margin + upl < need:
                top_up = need - upl - position.margin
                free = self.transferable(settle)
                if top_up > free:
                    return Refusal("insufficient cash for the margin top-up", top_up - free, settle)
        return Entry(self.market.time, EntryKind.TRANSFER, settle, cash=-top_up, margin=top_up, key=key,
                     leverage=leverage, note=f"leverage {leverage:g}")

    def add_margin(self, key: PositionKey, amount: float) -> Refusal | None:
        """Move cash into (negative: out of) the margin of an isolated position.

        At most margin - initial margin at entry + min(0, upl) comes out (recorded DEMO-REDUCIBLE-1..3, code 59301).
        Raises InputError where there is no such position.
        """
        position = self.account.positions.get(key)
        if position is None or key.margin_mode != "isolated":
            raise InputError(f"add_margin: no isolated position {key.symbol} {key.side}")
        if not math.isfinite(amount):
            raise InputError(f"add_margin: expected a finite amount, found {amount!r}")
        currency = position.currency
        free = self.transferable(currency)
        if amount > free:
            return Refusal("insufficient cash to add as margin", amount - free, currency)
        reducible = self.reducible_margin(key)
        if -amount > reducible:
            reason = f"at most {reducible:,.10g} {currency} of margin can be taken out (59301)"
            return Refusal(reason, -amount - reducible, currency)
        self.account.apply(Entry(self.market.time, EntryKind.TRANSFER, currency, cash=-amount, margin=amount, key=key,
                                 note="margin added" if amount > 0 else "margin taken out"))
        return None

    def reducible_margin(self, key: PositionKey) -> float:
        """How much margin may leave an isolated position now."""
        position = self.account.positions[key]
        if position.instrument.is_option:
            short = options.short_contracts(self.account.positions.values(), (), position.instrument.family)
            rows = options.charge(position, self.market, self.rules, short)
            return max(0.0, position.margin - sum(float(row.initial) for row in rows))
        upl = float(position.unrealised(self.market))
        return max(0.0, position.margin - position.initial_at_entry() + min(0.0, upl))

    def deposit(self, currency: str, amount: float) -> None:
        """Money from (or, negative, to) outside. What positions and orders use cannot be withdrawn: InputError."""
        if not math.isfinite(amount):
            raise InputError(f"deposit: expected a finite amount, found {amount!r}")
        free = self.transferable(currency) if amount < 0 else 0.0
        if amount < -free:
            raise InputError(f"deposit: at most {free:,.2f} {currency} can be withdrawn, asked for {-amount:,.2f}")
        self.account.apply(Entry(self.market.time, EntryKind.DEPOSIT, currency, cash=amount))
        self._note_debts()

    # -- time ---------------------------------------------------------------------------------------------------

    def advance(self, target: Market, *, jump: bool = False) -> None:
        """Move to `target`. A leg is walked: the first point at which a pool breaches is solved for and its forced
        orders trade there. A jump (one bar's close to the next one's open) is not: the target's prices judge."""
        if target.time < self.market.time:
            raise InputError(f"advance: time runs backwards, from {self.market.time} to {target.time}")
        start = self.market.time
        if not self.settled:  # fills, orders, margins since: they are judged where they happened
            self.judge()
            self._due(start, start)  # what is held leans on the clock's rules from here on
        if jump:
            self._accrue(start, target.time)
        else:
            self._walk(target)
        self._move(target)
        if not jump:
            self._accrue(start, target.time)
        self.judge()

    def judge(self) -> None:
        """Risk control over every pool at this instant: breaches first, then warnings."""
        self._watch(self._control())
        self._judged, self._judged_at = self.state, self.market

    @property
    def state(self) -> tuple[int, tuple[Order, ...]]:
        """What changes whenever the account does. Orders, not their ids: one may be replaced by another of its id."""
        return len(self.account.ledger), tuple(self.account.orders.values())

    @property
    def settled(self) -> bool:
        """True while the account stands as it was judged last."""
        return self._judged == self.state

    def rules_at(self, time: int) -> Rules:
        """The rules in force at a time (ms)."""
        return self.book.as_of(time, self.extrapolate)  # type: ignore[arg-type]

    def warned(self, pool: Pool) -> bool:
        """True while a pool is at or below the warning level and that was told."""
        return pool.name in self._warned

    def sleep(self, stretch: Stretch, start: int, end: int, low: float | None, notable: bool) -> None:
        """Let the bars [start, end) of a stretch pass: what `advance` would have left behind of them, and no more.

        `low`: the lowest ratio in them, None where it was told already. `notable`: their index prices may be asked for
        at a delivery.
        """
        self.min_distance = nearest_distance(self, stretch, start, end)
        last = (self.state, int(stretch.ahead.closes[end - 1]) // HOUR)
        self._sought = dict.fromkeys(self._sought, last)
        if low is not None and (self._low_ratio is None or low < self._low_ratio):
            self._low_ratio = low
        closes = stretch.ahead.closes
        seen = max(start, int(np.searchsorted(closes, closes[end - 1] - 2 * WINDOW))) if notable else end - 1
        for bar in range(seen, end):
            opening, self.market = stretch.ahead.ends(bar, self.market)
            if notable:
                for market in (opening, self.market) if self.at_risk else (self.market,):
                    self._references.note(self.account, market)
        self._judged_at = self.market

    def _move(self, market: Market) -> None:
        self.market = market
        self._references.note(self.account, market)
        rules = self.rules_at(market.time)
        if rules is not self.rules:
            self.evidence()
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
        """Stop at every first warning and breach on the straight way from here to `target`."""
        for _ in range(10_000):
            share, name = min(
                ((self._crossing(pool, target), pool.name) for pool in self.at_risk_pools()),
                default=(math.inf, ""),
            )
            if share > 1.0:
                return
            self.market = self.market.toward(target, share)
            if name in self._warned:
                self.judge()
            else:
                pool = next(pool for pool in self.at_risk_pools() if pool.name == name)
                self._warn(name, self._look(pool, self.market), self.assess())
        raise NotConserved("advance: a breach is never resolved; this is a defect, please report the book")

    def _crossing(self, pool: Pool, target: Market) -> float:
        """The first share of the way at which the pool reaches the warning level, or once warned the liquidation
        level; infinity when it does not.

        Equity and requirement of linear contracts are straight lines along a leg, so the secant through both ends
        meets the level; elsewhere secants and halves take turns until the point is closed in on.
        """
        liquidation = self.rules.liquidation
        level = liquidation.liquidation_ratio if pool.name in self._warned else liquidation.warning_ratio

        def gap(share: float) -> float:
            judgement = judge(pool, self.market.toward(target, share), self.rules)
            return float(judgement.equity) - level * float(judgement.requirement)

        reach, there = self._known(pool, target)
        equity, requirement = float(there.equity), float(there.requirement)
        if not requirement:
            return math.inf  # long options alone need no margin
        end = equity - level * requirement
        if math.isnan(end):
            raise MissingPrice(f"pool {pool.name}: equity is not a number at {target.time}; repair the prices")
        if end > 0:
            if reach < 1.0:
                judge(pool, target, self.rules)  # raises: it gets there, and nobody knows what is asked of it then
            return math.inf
        start = gap(0.0)
        if start <= 0:
            return 0.0
        return close_in(lambda share: gap(float(share)), 0.0, start, reach, end)

    def _known(self, pool: Pool, target: Market) -> tuple[float, Judgement]:
        """How much of the way the rules can judge the pool, nearly always all of it, and the pool there.

        A loss may outgrow the last borrow tier behind the point at which the pool is liquidated.
        """
        try:
            return 1.0, self._look(pool, target)
        except MissingPrice:
            raise
        except InputError:
            low, high = 0.0, 1.0
        found = judge(pool, self.market, self.rules)
        for _ in range(50):
            share = (low + high) / 2
            try:
                low, found = share, judge(pool, self.market.toward(target, share), self.rules)
            except InputError:
                high = share
        return low, found

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
            self._note_debts()
            if not self.settled or self._judged_at is not self.market:
                self.judge()  # each instant is judged on its own (rule book section 14)
        return moved

    def _due(self, start: int, end: int) -> list[Due]:
        return due_events(self.account, self.funding, self.deleveraging, self.rules, start, end, self.mode.whole)

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
            self._settle_cash(held.currency, 0.0)

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
            self._lean_on(then)
            return rate
        return own.hourly(time) if isinstance(own, RateSeries) else own / HOURS_A_YEAR

    def _note_debts(self) -> None:
        """Say when a balance of a whole account falls below zero, and when it is made good."""
        if not self.mode.whole:
            return
        owed = self.account.owed()
        if owed == self._owed:
            return
        report, time = self.assess(), self.market.time
        pool = self.account_pool()
        for currency in sorted(owed - self._owed):
            self.events.append(Borrowed(time, pool.name, report, currency, -self.account.balance(currency)))
        self.events += [Repaid(time, pool.name, report, currency) for currency in sorted(self._owed - owed)]
        self._owed = owed

    def _deleverage(self, time: int, key: PositionKey, cause: Deleveraging) -> None:
        position = self.account.positions.get(key)
        if position is None:
            return
        size = position.instrument.floor(-position.size * cause.share)
        if not size:
            return
        report, price = self.assess(), float(self.market.mark(key.symbol))
        trade = deleverage(self.account, position, size, price, time, self.rules)
        self._end(position, time, report)
        left = self.account.positions.get(key)
        self.events.append(
            Deleveraged(time, self._pool_of(position), report, key, size, price, trade.pnl, trade.fee, 0.0,
                        left.size if left else 0.0, cause.share)
        )

    def _settle(self, time: int, instrument: Instrument) -> None:
        """Deliver every position of an expiring contract; its orders are cancelled (rule book section 11)."""
        symbol = instrument.symbol
        report = self.assess()
        orders = tuple(order.id for order in self.account.orders.values() if order.symbol == symbol)
        self._cancel(instrument.settle, orders, report, None, "the contract has expired", time)
        held = [position for _, position in sorted(self.account.positions.items()) if position.symbol == symbol]
        if not held:
            return
        price = self._references.average(instrument, self.rules.delivery.average_minutes, self.market)
        for position in held:
            trade = settle(self.account, position, price, time, self.market, self.rules)
            self._end(position, time, report)
            self.events.append(
                Settled(time, self._pool_of(position), report, position.key, trade.size, trade.price, trade.pnl,
                        trade.fee, 0.0, 0.0)
            )

    def _cancel(self, pool: str, orders: tuple[int, ...], report: AccountReport, margin_ratio: float | None,
                reason: str, time: int) -> None:
        for order_id in orders:
            self.account.withdraw(order_id)
        if orders:
            self.events.append(OrdersCancelled(time, pool, report, orders, margin_ratio, reason))

    def _end(self, position: Position, time: int, report: AccountReport) -> None:
        """After a close nobody asked for: margin left goes back to cash, a debt is refunded."""
        name = self._pool_of(position)
        paid = settle_isolated(self.account, position.key, time, True)
        notional = float(position.notional(self.market))
        self._bankrupt(name, position, paid, notional, report)
        self._settle_cash(position.currency, notional, name)

    def _pool_of(self, position: Position) -> str:
        if position.margin_mode == "isolated":
            return pool_name(position)
        return self.account_pool().name if self.mode.whole else position.currency

    # -- risk control -------------------------------------------------------------------------------------------

    def _control(self) -> list[tuple[Pool, Judgement]]:
        """Liquidate every pool in breach, isolated ones first, until none is left; the pools as then judged."""
        for _ in range(10_000):
            judged = self.judged_pools()
            if self.mode.whole and not self.account.borrowing.auto and self._repay_above_quota():
                continue
            if self.account.orders and self._cancel_early([p for p, _ in judged]):
                continue
            for _, judgement in judged:
                self._note_ratio(*_levels(judgement))
            pool = next((p for p, judgement in judged if self._breaches(p, judgement)), None)
            if pool is None:
                return judged
            done = len(self.account.ledger), len(self.account.orders)
            self._liquidate(pool.name, pool.mode)
            if done == (len(self.account.ledger), len(self.account.orders)):
                break  # nothing helped: better an error than the same again
        raise NotConserved("risk control: a breach is never resolved; this is a defect, please report the book")

    def _cancel_early(self, pools: Sequence[Pool]) -> bool:
        """Risk control's cancellation before 100 %, where the rules have one. True: some orders went."""
        for pool in pools:
            going = pool.mode.early(pool, self.market, self.rules)
            if going:
                self._cancel(pool.name, going, self.assess(), self._ratio(pool), EARLY, self.market.time)
                return True
        return False

    def _repay_above_quota(self) -> bool:
        """Forced repayment of a debt beyond its free quota, where nothing is borrowed by itself. True: some was."""
        pool = self.account_pool()
        wanted = repay_above_quota(pool, self.market, self.rules) if pool.at_risk else ()
        for one in wanted:
            self._convert(pool, one, self.assess())
        return bool(wanted)

    def _in_breach(self, pool: Pool) -> bool:
        """Within a ladder: a step that costs exactly what it frees leaves the ratio at 1 but for rounding, a breach."""
        return self._breaches(pool, judge(pool, self.market, self.rules), HAIR)

    def _breaches(self, pool: Pool, judgement: Judgement, hair: float = 0.0) -> bool:
        equity, requirement = _levels(judgement)
        if math.isnan(equity) or math.isnan(requirement):
            raise MissingPrice(f"pool {pool.name}: its ratio is not a number at {self.market.time}; repair the data")
        return requirement > 0 and equity <= requirement * (self.rules.liquidation.liquidation_ratio + hair)

    def _note_ratio(self, equity: float, requirement: float) -> None:
        now = ratio(equity, requirement)
        if now is not None and (self._low_ratio is None or now < self._low_ratio):
            self._low_ratio = now

    def _find(self, name: str, mode: MarginMode) -> Pool | None:
        return next((p for p in mode.pools(self.account) if p.name == name), None)

    def _liquidate(self, name: str, mode: MarginMode) -> None:
        """Go down the mode's ladder until the pool is safe, from its top after each step: an order that only reduced a
        position may add risk to what is left of it. Announce what was done.
        """
        before, total = self.assess(), self.equity_usd()
        first = self._find(name, mode)
        assert first is not None
        opened, worth = judge(first, self.market, self.rules), float(self._without_orders(first).equity)
        self._warn(name, opened, before)
        closed: list[PositionKey] = []
        converted = False
        fund_before = self._fund_paid(first.currency)
        while (pool := self._find(name, mode)) is not None and self._in_breach(pool):
            steps = (step(pool, self.market, self.rules) for step in mode.ladder)
            reductions = next((found for found in steps if found), ())
            if not reductions:
                break
            report = self.assess()
            for reduction in reductions:
                if isinstance(reduction, CancelOrders):
                    self._cancel(name, reduction.orders, report, self._ratio(pool), BEFORE_LIQUIDATION,
                                 self.market.time)
                elif isinstance(reduction, Convert):
                    self._convert(pool, reduction, report)
                    converted = True
                else:
                    self._force(name, pool, reduction.key, reduction.size, reduction.step, report)
                    closed.append(reduction.key)
            self._note_debts()
        left = self._find(name, mode)
        if left is not None and left.holdings is not None and self._in_breach(left) and not left.needs_margin:
            self._write_off(left)  # nothing is left to sell
            left = self._find(name, mode)
        if not (closed or converted) or (left is not None and left.needs_margin):
            return
        owing = left is not None and float(self._without_orders(left).requirement) > 0
        if owing and not (mode.whole and closed):
            return  # what is left of a debt goes on
        refund = self._fund_paid(first.currency) - fund_before
        if mode.whole:
            loss = total - self.equity_usd() + refund
        else:
            loss = worth - (left.cash if left is not None and mode.name == "cross" else 0.0)
        ratio_then = ratio(float(opened.equity), float(opened.requirement)) or 0.0
        keys = tuple(dict.fromkeys(closed))
        self.events.append(TakenOver(self.market.time, name, before, keys, ratio_then, loss, refund))

    def _convert(self, pool: Pool, wanted: Convert, report: AccountReport) -> None:
        """Sell one coin to buy back another, and say so."""
        then = ratio(*_levels(judge(pool, self.market, self.rules)))
        done = debts.convert(self.account, wanted, self.market, self.rules, self.slippage)
        self.events.append(
            Converted(self.market.time, pool.name, report, wanted.sell, done.sold, wanted.buy, done.repaid, done.price,
                      done.fee, done.penalty, then, wanted.step)
        )
        self._note_debts()

    def _write_off(self, pool: Pool) -> None:
        report = self.assess()
        for currency, paid in debts.write_off(self.account, self.market.time).items():
            if paid * float(self.market.usd(currency)) > DUST:
                self.events.append(Bankrupt(self.market.time, pool.name, report, currency, paid))
        self._note_debts()

    def _without_orders(self, pool: Pool) -> Judgement:
        return judge(replace(pool, orders=()), self.market, self.rules)

    def _force(self, name: str, pool: Pool, key: PositionKey, size: float, step: str, report: AccountReport) -> None:
        position = self.account.positions[key]
        price = float(self.market.mark(key.symbol)) * (1 + math.copysign(self.slippage, size))
        if isinstance(position, MarginPosition):
            trade = spot_margin.force(self.account, position, size, price, self.market.time, self.rules)
        else:
            trade = force(self.account, position, size, price, self.market, self.rules)
        left = self.account.positions.get(key)
        remaining = left.size if left is not None else 0.0
        self.events.append(
            Reduced(self.market.time, name, report, key, size, price, trade.pnl, trade.fee, trade.penalty, remaining,
                    self._ratio(pool), step)
        )
        notional = float(position.instrument.notional(size, price))
        if remaining == 0.0:
            back = self.rules.liquidation.surplus == "returned"  # inferred: no record has a surplus
            paid = settle_isolated(self.account, key, self.market.time, back)
            self._bankrupt(name, position, paid, notional, report)
        self._settle_cash(position.currency, notional, name)

    def _ratio(self, pool: Pool) -> float:
        judgement = judge(pool, self.market, self.rules)
        return ratio(float(judgement.equity), float(judgement.requirement)) or 0.0

    def _fund_paid(self, currency: str) -> float:
        """What the insurance fund has paid so far in a currency; in USD all of it, at present prices."""
        paid = [e for e in self.account.ledger if e.kind is EntryKind.CLAWBACK]
        if currency != "USD":
            return sum(e.total for e in paid if e.currency == currency)
        return sum(e.total * float(self.market.usd(e.currency)) for e in paid)

    def _bankrupt(self, pool: str, position: Position, paid: float, notional: float, report: AccountReport) -> None:
        if paid > DUST * notional:
            self.events.append(Bankrupt(self.market.time, pool, report, position.currency, paid))

    def _settle_cash(self, currency: str, notional: float, pool: str = "") -> None:
        """A negative balance without positions behind it is refunded to zero by the insurance fund."""
        if self.mode.whole or self.account.balance(currency) >= 0:
            return  # a whole account owes what is below zero
        report = self.assess()
        paid = settle_cash(self.account, currency, self.market.time)
        if paid > DUST * max(1.0, notional):
            self.events.append(Bankrupt(self.market.time, pool or currency, report, currency, paid))

    def _watch(self, judged: list[tuple[Pool, Judgement]]) -> None:
        """Warn once each time a pool falls to the warning level."""
        report: AccountReport | None = None
        self._warned &= {pool.name for pool, _ in judged}
        for pool, judgement in judged:
            self._note_distance(pool, judgement)
            equity, requirement = _levels(judgement)
            if not requirement or equity - self.rules.liquidation.warning_ratio * requirement > 0:
                self._warned.discard(pool.name)
            elif pool.name not in self._warned:
                report = report or self.assess()
                self._warn(pool.name, judgement, report)

    def _note_distance(self, pool: Pool, judgement: Judgement) -> None:
        """Remember the first and the lowest distance to liquidation of the run (per cent)."""
        low = self.min_distance
        if not holds(pool):
            return
        if low is None and not is_straight(pool):
            now = (self.state, self.market.time // HOUR)
            if self._sought.get(pool.name) == now:
                return  # nothing would end it when last sought: once an hour is enough until something is found
            self._sought[pool.name] = now
        if not may_be_nearer(pool, low, self.market, self.rules):
            return
        away = distance(pool, judgement, self.market, self.rules)
        if away is None:
            return
        if self.entry_distance is None:
            self.entry_distance = away
        if low is None or away < low:
            self.min_distance = away

    def _warn(self, name: str, judgement: Judgement, report: AccountReport) -> None:
        if name not in self._warned:
            self._warned.add(name)
            now = ratio(float(judgement.equity), float(judgement.requirement)) or 0.0
            self.events.append(Warned(self.market.time, name, report, now))

    # -- booking ------------------------------------------------------------------------------------------------

    def _leverage_change(self, order: Order) -> Entry | Refusal | None:
        """An order with another leverage than its position changes the setting first, as setting it would."""
        position = self.account.positions.get(order.key)
        if position is None or order.closes or order.is_cash or order.leverage == position.leverage:
            return None
        if self.mode.name == "portfolio" and order.margin_mode == "cross":
            return None
        if order.instrument.is_spot and position.sign != order.sign:
            return None  # what a reversal opens is a position of its own
        if position.sign != order.sign or order_rules.opening(self.account, order) <= 0:
            return None
        return self._changed(order.key, order.leverage)

    def _adopt_leverage(self, order: Order) -> None:
        change = self._leverage_change(order)
        if isinstance(change, Entry):
            self.account.apply(change)

    def _loan(self, order: Order, price: float, maker: bool) -> Fill:
        """Spot margin: borrow and trade, or trade and repay; what a close leaves negative is refunded."""
        position = spot_margin.loan_of(self.account, order.key)
        report = self.assess() if position is not None and position.sign != order.sign else None
        traded = spot_margin.trade(self.account, order, price, maker, self.market, self.rules)
        if position is not None and report is not None:
            worth = float(position.notional(self.market))
            self._bankrupt(self._pool_of(position), position, traded.paid, worth, report)
        return Fill(traded.closed, traded.opened, price, traded.pnl, traded.closed_fee, traded.opened_fee)


_GATES = {"multi-currency": credit.check, "portfolio": portfolio_orders.check}
"""How a mode answers an order, where it is not by the money of one currency."""


def gate_of(mode: MarginMode) -> order_rules.Gate:
    """How a mode answers an order."""
    return _GATES.get(mode.name, order_rules.check)


def _levels(judgement: Judgement) -> tuple[float, float]:
    return float(judgement.equity), float(judgement.requirement)


__all__ = ["Deleveraging", "Fill", "MarginEngine", "Refusal"]
