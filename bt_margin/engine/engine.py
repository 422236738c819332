"""The margin engine: the only object that acts over time.

`check` answers whether an order may rest, `fill` books a trade, `advance` moves the account to the next instant:
clock events, breaches on the way, forced orders, warnings. It owns the money; whoever drives it owns the prices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bt_margin.engine import orders as order_rules
from bt_margin.engine.accrual import FundingSeries, funding_entries, settlements
from bt_margin.engine.orders import Refusal
from bt_margin.engine.takeover import ForcedTrade, force, settle_cash, settle_isolated
from bt_margin.errors import InputError, MissingPrice, NotConserved, NotSupported
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import AccountReport, ratio
from bt_margin.model.event import Bankrupt, Event, OrdersCancelled, Reduced, Refused, TakenOver, Warned
from bt_margin.model.instrument import Kind
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.market import Market
from bt_margin.modes.assess import account_pools, assess, available, total_equity
from bt_margin.modes.base import CancelOrders, Judgement, MarginMode, Pool, judge
from bt_margin.modes.cross import CROSS
from bt_margin.modes.valuation import distance
from bt_margin.rules.book import RuleBook, Rules
from bt_margin.rules.tables import Evidence

DUST = 1e-9  # of the traded notional: below it a remainder is rounding, not a deficit


@dataclass(frozen=True, slots=True)
class Fill:
    """A trade as booked. Sizes are signed; money in the settlement (spot: quote) currency, fees positive."""

    closed: float
    opened: float
    price: float
    pnl: float
    closed_fee: float
    opened_fee: float


class MarginEngine:
    """An account of one mode, under a rule book, moving through markets.

    `slippage` is the share of the price that forced orders lose (0 by default: the venue's records show fills at
    the trigger). `funding` holds settled rates by symbol. `strict` refuses missing funding instead of counting it.
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
        slippage: float = 0.0,
        strict: bool = False,
    ) -> None:
        self.account = account
        self.mode = mode
        self.book = book
        self.market = market
        self.extrapolate = extrapolate
        self.funding = dict(funding or {})
        self.slippage = slippage
        self.strict = strict
        self.rules: Rules = book.as_of(market.time, extrapolate)  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.funding_due: Counter[str] = Counter()
        self.funding_missed: Counter[str] = Counter()
        self._low_ratio: float | None = None
        self._low_distance: float | None = None
        self._evidence: dict[tuple[str, str, str], Evidence] = {}
        self._warned: set[str] = set()

    # -- questions ----------------------------------------------------------------------------------------------

    def assess(self) -> AccountReport:
        """The account now."""
        return assess(self.account, self.mode, self.market, self.rules, self.warnings())

    def equity_usd(self) -> float:
        """Undiscounted value of everything, in USD."""
        return total_equity(self.account, self.market)

    def available(self, currency: str) -> float:
        """What may still open positions in a currency, never below zero."""
        for pool in CROSS.pools(self.account):
            if pool.currency == currency:
                return max(0.0, available(pool, self.market, self.rules))
        return 0.0

    def present_ratio(self) -> float | None:
        """The lowest margin ratio of all pools now; None while nothing is required."""
        ratios = [
            ratio(float(j.equity), float(j.requirement))
            for j in (judge(p, self.market, self.rules) for p in account_pools(self.account) if p.positions)
        ]
        return min((r for r in ratios if r is not None), default=None)

    def take_lowest(self) -> tuple[float | None, float | None]:
        """The lowest ratio and the lowest distance to liquidation (per cent) since the last call."""
        low = self._low_ratio, self._low_distance
        self._low_ratio = self._low_distance = None
        return low

    def evidence(self) -> tuple[Evidence, ...]:
        """Every rule row this run leaned on, over all revisions it passed through."""
        for row in self.rules.evidence():
            self._evidence[row.table, row.subject, row.effective] = row
        return tuple(self._evidence[key] for key in sorted(self._evidence))

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

    # -- orders -------------------------------------------------------------------------------------------------

    def check(self, order: Order) -> Order | Refusal:
        """The order as the venue takes it, or the refusal. Books nothing."""
        changed = self._leverage_refusal(order)
        return changed or order_rules.check(self.account, order, self.market, self.rules)

    def accept(self, order: Order) -> Order | Refusal:
        """Check an order and let it rest; a refusal becomes an event."""
        answer = self.check(order)
        if isinstance(answer, Refusal):
            self.refuse(order, answer)
            return answer
        self.account.place(answer)
        return answer

    def preview(self, orders: Sequence[Order]) -> tuple[Refusal | None, float]:
        """Could all these orders rest together? The first refusal, and the largest share of all sizes that could.

        Books nothing. The share is 1.0 when nothing is refused; found by bisection over the checks themselves.
        """

        def first(share: float) -> Refusal | None:
            account = Account(position_mode=self.account.position_mode)
            account.balances, account.positions = self.account.balances, self.account.positions
            account.orders = dict(self.account.orders)
            for order in orders:
                size = order.instrument.floor(order.size * share)
                if size <= 0:
                    continue
                answer = order_rules.check(account, replace(order, size=size), self.market, self.rules)
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
        answer = self.check(replace(order, size=size, price=price))
        if not isinstance(answer, Refusal) and fee and order.side == "buy":
            left = order_rules.headroom(self.account, answer, self.market, self.rules, order.instrument.quote)
            if left < fee:  # a plain asset's fee is paid in the quote currency, on top
                answer = Refusal("insufficient cash for the fee", fee - left, order.instrument.quote)
        if isinstance(answer, Refusal):
            self.refuse(order, answer)
            return answer
        booked = self._spot(answer, price, maker, fee) if order.instrument.is_spot else self._trade(
            answer, price, maker)
        rest = order.instrument.snap((resting or order).size - size)
        if resting is not None and rest > 0:
            self.account.place(replace(resting, size=rest))
        self._settle_cash(order.instrument.settle, float(order.instrument.notional(size, price)))
        return booked

    def set_leverage(self, key: PositionKey, leverage: float) -> Refusal | None:
        """Change an open position's leverage setting (recorded DEMO-LEVERAGE-CHANGE-*, -LIMIT-4).

        Isolated: need = initial margin at entry at the new leverage; when margin + upl covers it nothing moves,
        otherwise the margin becomes need - upl and cash pays the top-up. Cross: only the initial margin changes.
        """
        position = self.account.positions.get(key)
        if position is None:
            raise InputError(f"set_leverage: no position {key.symbol} {key.margin_mode} {key.side}")
        tiers = self.rules.tiers(key.symbol)
        if leverage > tiers.max_leverage:
            return Refusal(f"leverage {leverage:g} is above the maximum {tiers.max_leverage:g} (59102)")
        if abs(position.size) > tiers.max_size(leverage):
            return Refusal(f"the position exceeds what leverage {leverage:g} allows (59247)")
        settle, top_up = position.instrument.settle, 0.0
        if key.margin_mode == "isolated":
            need = replace(position, leverage=leverage).initial_at_entry()
            upl = float(position.unrealised(self.market))
            if position.margin + upl < need:
                top_up = need - upl - position.margin
                free = min(self.available(settle), self.account.balance(settle))
                if top_up > free:
                    return Refusal("insufficient cash for the margin top-up", top_up - free, settle)
        self.account.apply(
            Entry(self.market.time, EntryKind.TRANSFER, settle, cash=-top_up, margin=top_up, key=key,
                  leverage=leverage, note=f"leverage {leverage:g}")
        )
        return None

    def deposit(self, currency: str, amount: float) -> None:
        """Money from (or, negative, to) outside. What positions and orders use cannot be withdrawn: InputError."""
        if not math.isfinite(amount):
            raise InputError(f"deposit: expected a finite amount, found {amount!r}")
        free = min(self.available(currency), self.account.balance(currency)) if amount < 0 else 0.0
        if amount < -free:
            raise InputError(f"deposit: at most {free:,.2f} {currency} can be withdrawn, asked for {-amount:,.2f}")
        self.account.apply(Entry(self.market.time, EntryKind.DEPOSIT, currency, cash=amount))

    # -- time ---------------------------------------------------------------------------------------------------

    def advance(self, target: Market, *, jump: bool = False) -> None:
        """Move to `target`. A leg is walked: the first point at which a pool breaches is solved for and its forced
        orders trade there. A jump (one bar's close to the next one's open) is not: the target's prices judge."""
        if target.time < self.market.time:
            raise InputError(f"advance: time runs backwards, from {self.market.time} to {target.time}")
        start = self.market.time
        if jump:
            if self._accrue(start, target.time):
                self._control()
        else:
            self._walk(target)
        self._move(target)
        if not jump:
            self._accrue(start, target.time)
        self._watch(self._control())

    def _move(self, market: Market) -> None:
        self.market = market
        rules = self.book.as_of(market.time, self.extrapolate)  # type: ignore[arg-type]
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
                ((self._crossing(pool, target), pool.name) for pool in account_pools(self.account) if pool.positions),
                default=(math.inf, ""),
            )
            if share > 1.0:
                return
            self.market = self.market.toward(target, share)
            if name in self._warned:
                self._control()
            else:
                pool = next(pool for pool in account_pools(self.account) if pool.name == name)
                self._warn(name, judge(pool, self.market, self.rules), self.assess())
        raise NotConserved("advance: a breach is never resolved; this is a defect, please report the book")

    def _crossing(self, pool: Pool, target: Market) -> float:
        """The first share of the way at which the pool reaches the warning level, or once warned the liquidation
        level; infinity when it does not.

        Equity and requirement of linear contracts are straight lines along a leg, so the secant through both ends
        meets the level; bisection takes over where rounding leaves it a hair short.
        """
        liquidation = self.rules.liquidation
        level = liquidation.liquidation_ratio if pool.name in self._warned else liquidation.warning_ratio

        def gap(share: float) -> float:
            judgement = judge(pool, self.market.toward(target, share), self.rules)
            return float(judgement.equity) - level * float(judgement.requirement)

        end = gap(1.0)
        if math.isnan(end):
            raise MissingPrice(f"pool {pool.name}: equity is not a number at {target.time}; repair the prices")
        if end > 0:
            return math.inf
        start = gap(0.0)
        if start <= 0:
            return 0.0
        low, high, share = 0.0, 1.0, start / (start - end)
        for _ in range(60):
            low, high = (low, share) if gap(share) <= 0 else (share, high)
            share = (low + high) / 2
        return high

    def _accrue(self, start: int, end: int) -> bool:
        """Funding due in (start, end], at the present marks (section 8: value at the mark). True: something moved."""
        if end <= start or not self.account.positions:
            return False
        due: list[tuple[int, PositionKey, float]] = []
        for position in list(self.account.positions.values()):
            if position.instrument.kind not in (Kind.LINEAR_SWAP, Kind.INVERSE_SWAP):
                continue
            symbol = position.symbol
            hours = self.rules.funding(symbol).interval_hours
            for time, rate in settlements(self.funding.get(symbol), hours, start, end):
                self.funding_due[symbol] += 1
                if rate is not None:
                    due.append((time, position.key, rate))
                elif self.strict:
                    raise MissingPrice(f"strict: {symbol} has no funding rate at {time}; supply one")
                else:
                    self.funding_missed[symbol] += 1
        for time, key, rate in sorted(due):
            held = self.account.positions.get(key)
            if held is None:
                continue
            for entry in funding_entries(self.account, held, rate, time, self.market, self.rules):
                self.account.apply(entry)
            self._settle_cash(held.instrument.settle, 0.0)
        return bool(due)

    # -- risk control -------------------------------------------------------------------------------------------

    def _control(self) -> list[tuple[Pool, Judgement]]:
        """Liquidate every pool in breach, isolated ones first, until none is left; the pools as then judged."""
        for _ in range(10_000):
            judged = [(p, judge(p, self.market, self.rules)) for p in account_pools(self.account) if p.positions]
            pool = next((p for p, judgement in judged if self._breaches(p, judgement)), None)
            if pool is None:
                return judged
            self._liquidate(pool.name, pool.mode)
        raise NotConserved("risk control: a breach is never resolved; this is a defect, please report the book")

    def _in_breach(self, pool: Pool) -> bool:
        return bool(pool.positions) and self._breaches(pool, judge(pool, self.market, self.rules))

    def _breaches(self, pool: Pool, judgement: Judgement) -> bool:
        equity, requirement = float(judgement.equity), float(judgement.requirement)
        if math.isnan(equity) or math.isnan(requirement):
            raise MissingPrice(f"pool {pool.name}: its ratio is not a number at {self.market.time}; repair the data")
        self._note_ratio(equity, requirement)
        return equity <= requirement * self.rules.liquidation.liquidation_ratio

    def _note_ratio(self, equity: float, requirement: float) -> None:
        now = ratio(equity, requirement)
        if now is not None and (self._low_ratio is None or now < self._low_ratio):
            self._low_ratio = now

    def _find(self, name: str, mode: MarginMode) -> Pool | None:
        return next((p for p in mode.pools(self.account) if p.name == name), None)

    def _liquidate(self, name: str, mode: MarginMode) -> None:
        """Go down the mode's ladder until the pool is safe; announce what was done."""
        before = self.assess()
        first = self._find(name, mode)
        assert first is not None
        opened = judge(first, self.market, self.rules)
        self._warn(name, opened, before)
        closed: list[PositionKey] = []
        fund_before = self._fund_paid(first.currency)
        for step in mode.ladder:
            while True:
                pool = self._find(name, mode)
                if pool is None or not self._in_breach(pool):
                    break
                reductions = step(pool, self.market, self.rules)
                if not reductions:
                    break
                report = self.assess()
                for reduction in reductions:
                    if isinstance(reduction, CancelOrders):
                        for order_id in reduction.orders:
                            self.account.withdraw(order_id)
                        self.events.append(
                            OrdersCancelled(self.market.time, name, report, reduction.orders, self._ratio(pool))
                        )
                    else:
                        self._force(name, pool, reduction.key, reduction.size, reduction.step, report)
                        closed.append(reduction.key)
        left = self._find(name, mode)
        if closed and (left is None or not left.positions):
            refund = self._fund_paid(first.currency) - fund_before
            rest = left.cash if left is not None and mode.name == "cross" else 0.0
            keys = tuple(dict.fromkeys(closed))
            ratio_then = ratio(float(opened.equity), float(opened.requirement)) or 0.0
            self.events.append(
                TakenOver(self.market.time, name, before, keys, ratio_then, float(opened.equity) - rest, refund)
            )

    def _force(self, name: str, pool: Pool, key: PositionKey, size: float, step: str, report: AccountReport) -> None:
        position = self.account.positions[key]
        price = float(self.market.mark(key.symbol)) * (1 + math.copysign(self.slippage, size))
        trade = force(self.account, position, size, price, self.market.time, self.rules)
        left = self.account.positions.get(key)
        remaining = left.size if left is not None else 0.0
        self.events.append(
            Reduced(self.market.time, name, report, key, size, price, trade.pnl, trade.fee, trade.penalty,
                    self._ratio(pool), step, remaining)
        )
        notional = float(position.instrument.notional(size, price))
        if remaining == 0.0:
            paid = settle_isolated(self.account, key, self.market.time, self.rules)
            self._bankrupt(name, position, paid, notional, report)
        self._settle_cash(position.instrument.settle, notional, name)

    def _ratio(self, pool: Pool) -> float:
        judgement = judge(pool, self.market, self.rules)
        return ratio(float(judgement.equity), float(judgement.requirement)) or 0.0

    def _fund_paid(self, currency: str) -> float:
        return sum(e.total for e in self.account.ledger
                   if e.kind is EntryKind.CLAWBACK and e.currency == currency)

    def _bankrupt(self, pool: str, position: Position, paid: float, notional: float, report: AccountReport) -> None:
        if paid > DUST * notional:
            self.events.append(Bankrupt(self.market.time, pool, report, position.instrument.settle, paid))

    def _settle_cash(self, currency: str, notional: float, pool: str = "") -> None:
        """A negative balance without positions behind it is refunded to zero by the insurance fund."""
        if self.account.balance(currency) >= 0:
            return
        report = self.assess()
        paid = settle_cash(self.account, currency, self.market.time)
        if paid > DUST * max(1.0, notional):
            self.events.append(Bankrupt(self.market.time, pool or currency, report, currency, paid))

    def _watch(self, judged: list[tuple[Pool, Judgement]]) -> None:
        """Warn once each time a pool falls to the warning level."""
        report: AccountReport | None = None
        self._warned &= {pool.name for pool, _ in judged}
        for pool, judgement in judged:
            away = distance(pool, judgement, self.market)
            if away is not None and (self._low_distance is None or away < self._low_distance):
                self._low_distance = away
            now = ratio(float(judgement.equity), float(judgement.requirement))
            if now is None or now > self.rules.liquidation.warning_ratio:
                self._warned.discard(pool.name)
            elif pool.name not in self._warned:
                report = report or self.assess()
                self._warn(pool.name, judgement, report)

    def _warn(self, name: str, judgement: Judgement, report: AccountReport) -> None:
        if name not in self._warned:
            self._warned.add(name)
            now = ratio(float(judgement.equity), float(judgement.requirement)) or 0.0
            self.events.append(Warned(self.market.time, name, report, now))

    # -- booking ------------------------------------------------------------------------------------------------

    def _leverage_refusal(self, order: Order) -> Refusal | None:
        """An order with another leverage than its position changes the setting first, as setting it would."""
        position = self.account.positions.get(order.key)
        if position is None or order.closes or order.instrument.is_spot or order.leverage == position.leverage:
            return None
        if order_rules.opening(self.account, order) <= 0:
            return None
        return self.set_leverage(order.key, order.leverage)

    def _trade(self, order: Order, price: float, maker: bool) -> Fill:
        """Close what the order meets, open the rest (a one-way order through zero is two trades)."""
        position = self.account.positions.get(order.key)
        opens = order_rules.opening(self.account, order)
        closes = order.instrument.snap(order.size - opens) if position is not None else 0.0
        if order.closes:
            opens = 0.0
        pnl = closed_fee = opened_fee = 0.0
        if closes and position is not None:
            pnl, closed_fee = self._close(position, order, closes, price, maker)
        if opens:
            opened_fee = self._open(order, opens, price, maker)
        return Fill(order.sign * closes, order.sign * opens, price, pnl, closed_fee, opened_fee)

    def _fee(self, order: Order, size: float, price: float, maker: bool) -> float:
        kind = "swap" if order.instrument.kind in (Kind.LINEAR_SWAP, Kind.INVERSE_SWAP) else "future"
        row = self.rules.fees(kind)
        return float(order.instrument.notional(size, price)) * (row.maker if maker else row.taker)

    def _close(self, position: Position, order: Order, size: float, price: float, maker: bool) -> tuple[float, float]:
        """A partial close frees the same share of the margin; profit and fee meet cash (DEMO-CASHFLOW-PARTIAL)."""
        instrument, settle = position.instrument, position.instrument.settle
        time, key = self.market.time, position.key
        pnl = float(instrument.pnl(position.sign * size, position.entry_price, price))
        fee = self._fee(order, size, price, maker)
        self.account.apply(Entry(time, EntryKind.FEE, settle, cash=-fee, key=key, price=price, order=order.id))
        if position.margin:
            whole = size == abs(position.size)
            freed = position.margin if whole else position.margin * size / abs(position.size)
            self.account.apply(Entry(time, EntryKind.TRANSFER, settle, cash=freed, margin=-freed, key=key,
                                     order=order.id, note="margin freed"))
        self.account.apply(Entry(time, EntryKind.TRADE, settle, cash=pnl, key=key, size=order.sign * size,
                                 price=price, order=order.id))
        return pnl, fee

    def _open(self, order: Order, size: float, price: float, maker: bool) -> float:
        """Isolated takes margin + fee from cash, cross only the fee (recorded item 25)."""
        instrument, settle = order.instrument, order.instrument.settle
        time, key = self.market.time, order.key
        self.account.apply(Entry(time, EntryKind.TRADE, settle, key=key, instrument=instrument,
                                 size=order.sign * size, price=price, leverage=order.leverage, order=order.id))
        if order.margin_mode == "isolated":
            margin = float(instrument.notional(size, price)) / order.leverage
            self.account.apply(Entry(time, EntryKind.TRANSFER, settle, cash=-margin, margin=margin, key=key,
                                     order=order.id, note="margin posted"))
        fee = self._fee(order, size, price, maker)
        self.account.apply(Entry(time, EntryKind.FEE, settle, cash=-fee, key=key, price=price, order=order.id))
        return fee

    def _spot(self, order: Order, price: float, maker: bool, fee: float | None) -> Fill:
        """Coins change hands; the fee comes out of what is received, in whole lots (rule book section 10).

        The fill reports the coins that arrived: buying 1 BTC at 0.1 % opens 0.999 BTC and paid 0.001 BTC.
        """
        instrument, time, size = order.instrument, self.market.time, order.size
        value = size * price
        base, quote = instrument.base, instrument.quote

        def book(kind: EntryKind, currency: str, cash: float, **more: float) -> None:
            self.account.apply(Entry(time, kind, currency, cash=cash, price=price, order=order.id,
                                     instrument=instrument, **more))  # type: ignore[arg-type]

        if fee is None:
            row = self.rules.fees("spot")
            rate = row.maker if maker else row.taker
        else:
            rate = 0.0
        if order.side == "buy":
            net = instrument.floor(size * (1.0 - rate))
            book(EntryKind.TRADE, quote, -value)
            book(EntryKind.TRADE, base, size, size=size)
            if size - net:
                book(EntryKind.FEE, base, -(size - net))
            if fee:
                book(EntryKind.FEE, quote, -fee)
            return Fill(0.0, net, price, 0.0, 0.0, (size - net) * price + (fee or 0.0))
        charged = value * rate + (fee or 0.0)
        book(EntryKind.TRADE, base, -size, size=-size)
        book(EntryKind.TRADE, quote, value)
        if charged:
            book(EntryKind.FEE, quote, -charged)
        return Fill(-size, 0.0, price, 0.0, charged, 0.0)


__all__ = ["Fill", "ForcedTrade", "MarginEngine", "Refusal"]
