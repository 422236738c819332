"""Risk control: what the venue does to an account by itself at one instant.

Early cancellation, forced repayment, the ladder of a liquidation, warnings; and how near the end of a pool came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bt_margin.engine import debts, spot_margin, takeover
from bt_margin.engine.present import DUST, Present
from bt_margin.errors import MissingPrice, NotConserved
from bt_margin.model.assessment import LateReport, ratio
from bt_margin.model.event import Bankrupt, Converted, Reduced, TakenOver, Warned
from bt_margin.model.ledger import EntryKind, PositionKey
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.model.moment import HOUR
from bt_margin.modes.base import CancelOrders, Convert, Judgement, MarginMode, Pool, judge
from bt_margin.modes.conversion import repay_above_quota
from bt_margin.modes.distance import distance, holds, is_straight, may_be_nearer
from bt_margin.rules.book import Rules

EARLY = "cancelled by risk control (free margin below maintenance margin and order costs)"
BEFORE_LIQUIDATION = "cancelled before liquidation (insufficient margin)"
HAIR = 1e-9  # of a ratio: nearer to the liquidation level than this, a step has not left it


class RiskControl:
    """The venue's risk control over the account of `now`.

    `slippage`: the share of the price that forced orders lose.
    """

    def __init__(self, now: Present, slippage: float) -> None:
        self.now = now
        self.slippage = slippage
        self._entry_distance: float | None = None
        self._min_distance: float | None = None
        self._put_off: tuple[Pool, Judgement, Market, Rules] | None = None  # a search for a first distance, put off
        self._low_ratio: float | None = None
        self._warned: set[str] = set()
        self._judged = now.state
        self._judged_at, self._judged_by = now.market, (now.rules, now.mode)
        self._sought: dict[str, tuple[int, int]] = {}  # pools no move would end: what was booked by then, and when
        self._noted: dict[str, tuple[Pool, Market, Rules, float | None]] = {}  # how pools stood when last looked at

    def judge(self) -> None:
        """Every pool at this instant: breaches first, then warnings."""
        now = self.now
        self._watch(self._control())
        self._judged, self._judged_at, self._judged_by = now.state, now.market, (now.rules, now.mode)

    @property
    def settled(self) -> bool:
        """True while the account stands as it was judged last."""
        return self._judged == self.now.state

    @property
    def up_to_date(self) -> bool:
        """True where the account was judged as it stands, at the present market by the present rules."""
        now, (rules, mode) = self.now, self._judged_by
        return self.settled and self._judged_at is now.market and rules is now.rules and mode is now.mode

    def warned(self, pool: str) -> bool:
        """True while a pool is at or below the warning level and that was told."""
        return pool in self._warned

    def forget_warnings(self) -> None:
        """Pools are cut anew: each is warned of again."""
        self._warned.clear()

    @property
    def entry_distance(self) -> float | None:
        """The first distance to liquidation of the run, per cent; None while there is none."""
        self.seek()
        return self._entry_distance

    @property
    def min_distance(self) -> float | None:
        """The lowest distance to liquidation of the run, per cent; None while there is none."""
        self.seek()
        return self._min_distance

    @property
    def seeks(self) -> bool:
        """True while no distance was found yet."""
        return self._entry_distance is None

    def put_off(self, pool: Pool) -> Market | None:
        """The market at which a pool is still to be searched for a first distance: a look ahead may find that there is
        none, and say so (`found_none`); else it is sought as soon as somebody asks."""
        search = self._put_off
        return search[2] if search is not None and search[0] is pool and search[3] is self.now.rules else None

    def found_none(self) -> None:
        """What was still to be searched has no distance."""
        self._put_off = None

    def seek(self) -> None:
        """Search what was put off."""
        if self._put_off is not None:
            self._seek(*self._put_off)
            self._put_off = None  # not where that raised: whoever asks next is told, too

    def take_lowest(self) -> float | None:
        """The lowest ratio since the last call."""
        low, self._low_ratio = self._low_ratio, None
        return low

    def sleep(self, low: float | None, nearest: float | None) -> None:
        """Bars have passed in which there was nothing to do, up to the present market: the lowest ratio and the lowest
        distance in them."""
        self._min_distance = nearest
        self._sought = dict.fromkeys(self._sought, self._booked_and_hour())
        if low is not None and (self._low_ratio is None or low < self._low_ratio):
            self._low_ratio = low
        self._judged_at = self.now.market

    def warn(self, name: str, judgement: Judgement, report: LateReport) -> None:
        """Say that a pool has come to the warning level, once."""
        if name not in self._warned:
            self._warned.add(name)
            now = ratio(float(judgement.equity), float(judgement.requirement)) or 0.0
            self.now.events.append(Warned(self.now.market.time, name, report, now))

    # -- one instant --------------------------------------------------------------------------------------------

    def _control(self) -> list[tuple[Pool, Judgement, float, float]]:
        """Liquidate every pool in breach, isolated ones first, until none is left; the pools as then judged, equity and
        requirement beside."""
        account = self.now.account
        for _ in range(10_000):
            judged = self.now.judged_pools()
            if self.now.mode.whole and not account.borrowing.auto and self._repay_above_quota():
                continue
            if account.orders and self._cancel_early([p for p, _ in judged]):
                continue
            pool, found = None, []
            for one, judgement in judged:
                equity, requirement = _levels(judgement)
                found.append((one, judgement, equity, requirement))
                self._note_ratio(equity, requirement)
                if pool is None and self._breaches(one, equity, requirement):
                    pool = one
            if pool is None:
                return found
            done = len(account.ledger), len(account.orders)
            self._liquidate(pool.name, pool.mode)
            if done == (len(account.ledger), len(account.orders)):
                break  # nothing helped: better an error than the same again
        raise NotConserved("risk control: a breach is never resolved; this is a defect, please report the book")

    def _cancel_early(self, pools: Sequence[Pool]) -> bool:
        """Risk control's cancellation before 100 %, where the rules have one. True: some orders went."""
        market, rules = self.now.market, self.now.rules
        for pool in pools:
            going = pool.mode.early(pool, market, rules)
            if going:
                self.now.cancel_orders(pool.name, going, self.now.late_report(), self._ratio(pool), EARLY)
                return True
        return False

    def _repay_above_quota(self) -> bool:
        """Forced repayment of a debt beyond its free quota, where nothing is borrowed by itself. True: some was."""
        pool = self.now.account_pool()
        wanted = repay_above_quota(pool, self.now.market, self.now.rules) if pool.at_risk else ()
        for one in wanted:
            self._convert(pool, one, self.now.late_report())
        return bool(wanted)

    # -- the ladder ---------------------------------------------------------------------------------------------

    def _in_breach(self, pool: Pool) -> bool:
        """Within a ladder: a step that costs exactly what it frees leaves the ratio at 1 but for rounding, a breach."""
        return self._breaches(pool, *_levels(judge(pool, self.now.market, self.now.rules)), HAIR)

    def _breaches(self, pool: Pool, equity: float, requirement: float, hair: float = 0.0) -> bool:
        if math.isnan(equity) or math.isnan(requirement):
            at = self.now.market.time
            raise MissingPrice(f"pool {pool.name}: its ratio is not a number at {at}; repair the data")
        return requirement > 0 and equity <= requirement * (self.now.rules.liquidation.liquidation_ratio + hair)

    def _note_ratio(self, equity: float, requirement: float) -> None:
        now = ratio(equity, requirement)
        if now is not None and (self._low_ratio is None or now < self._low_ratio):
            self._low_ratio = now

    def _pool(self, name: str, mode: MarginMode) -> Pool | None:
        return next((p for p in mode.pools(self.now.account) if p.name == name), None)

    def _liquidate(self, name: str, mode: MarginMode) -> None:
        """Go down the mode's ladder until the pool is safe, from its top after each step: an order that only reduced a
        position may add risk to what is left of it. Announce what was done.
        """
        before, total = self.now.late_report(), self.now.equity_usd()
        first = self._pool(name, mode)
        assert first is not None
        opened, worth = judge(first, self.now.market, self.now.rules), float(self._without_orders(first).equity)
        self.warn(name, opened, before)
        closed: list[PositionKey] = []
        converted = False
        fund_before = self._fund_paid(first.currency)
        while (pool := self._pool(name, mode)) is not None and self._in_breach(pool):
            steps = (step(pool, self.now.market, self.now.rules) for step in mode.ladder)
            reductions = next((found for found in steps if found), ())
            if not reductions:
                break
            report = self.now.late_report()
            for reduction in reductions:
                if isinstance(reduction, CancelOrders):
                    self.now.cancel_orders(name, reduction.orders, report, self._ratio(pool), BEFORE_LIQUIDATION)
                elif isinstance(reduction, Convert):
                    self._convert(pool, reduction, report)
                    converted = True
                else:
                    self._force(name, pool, reduction.key, reduction.size, reduction.step, report)
                    closed.append(reduction.key)
            self.now.note_debts()
        left = self._pool(name, mode)
        if left is not None and left.holdings is not None and self._in_breach(left) and not left.needs_margin:
            self._write_off(left)  # nothing is left to sell
            left = self._pool(name, mode)
        if not (closed or converted) or (left is not None and left.needs_margin):
            return
        owing = left is not None and float(self._without_orders(left).requirement) > 0
        if owing and not (mode.whole and closed):
            return  # what is left of a debt goes on
        refund = self._fund_paid(first.currency) - fund_before
        if mode.whole:
            loss = total - self.now.equity_usd() + refund
        else:
            loss = worth - (left.cash if left is not None and mode.name == "cross" else 0.0)
        ratio_then = ratio(float(opened.equity), float(opened.requirement)) or 0.0
        keys = tuple(dict.fromkeys(closed))
        self.now.events.append(TakenOver(self.now.market.time, name, before, keys, ratio_then, loss, refund))

    def _convert(self, pool: Pool, wanted: Convert, report: LateReport) -> None:
        """Sell one coin to buy back another, and say so."""
        then = ratio(*_levels(judge(pool, self.now.market, self.now.rules)))
        done = debts.convert(self.now.account, wanted, self.now.market, self.now.rules, self.slippage)
        self.now.events.append(
            Converted(self.now.market.time, pool.name, report, wanted.sell, done.sold, wanted.buy, done.repaid,
                      done.price, done.fee, done.penalty, then, wanted.step)
        )
        self.now.note_debts()

    def _write_off(self, pool: Pool) -> None:
        report = self.now.late_report()
        for currency, paid in debts.write_off(self.now.account, self.now.market.time).items():
            if paid * float(self.now.market.usd(currency)) > DUST:
                self.now.events.append(Bankrupt(self.now.market.time, pool.name, report, currency, paid))
        self.now.note_debts()

    def _without_orders(self, pool: Pool) -> Judgement:
        return judge(pool.bare, self.now.market, self.now.rules)

    def _force(self, name: str, pool: Pool, key: PositionKey, size: float, step: str, report: LateReport) -> None:
        position = self.now.account.positions[key]
        price = float(self.now.market.mark(key.symbol)) * (1 + math.copysign(self.slippage, size))
        if isinstance(position, MarginPosition):
            trade = spot_margin.force(self.now.account, position, size, price, self.now.market.time, self.now.rules)
        else:
            trade = takeover.force(self.now.account, position, size, price, self.now.market, self.now.rules)
        left = self.now.account.positions.get(key)
        remaining = left.size if left is not None else 0.0
        self.now.events.append(
            Reduced(self.now.market.time, name, report, key, size, price, trade.pnl, trade.fee, trade.penalty,
                    remaining, self._ratio(pool), step)
        )
        notional = float(position.instrument.notional(size, price))
        if remaining == 0.0:
            back = self.now.rules.liquidation.surplus == "returned"  # inferred: no record has a surplus
            paid = takeover.settle_isolated(self.now.account, key, self.now.market.time, back)
            self.now.tell_bankrupt(name, position, paid, notional, report)
        self.now.settle_cash(position.currency, notional, name)

    def _ratio(self, pool: Pool) -> float:
        judgement = judge(pool, self.now.market, self.now.rules)
        return ratio(float(judgement.equity), float(judgement.requirement)) or 0.0

    def _fund_paid(self, currency: str) -> float:
        """What the insurance fund has paid so far in a currency; in USD all of it, at present prices."""
        paid = [e for e in self.now.account.ledger if e.kind is EntryKind.CLAWBACK]
        if currency != "USD":
            return sum(e.total for e in paid if e.currency == currency)
        return sum(e.total * float(self.now.market.usd(e.currency)) for e in paid)

    # -- how near it came ---------------------------------------------------------------------------------------

    def _watch(self, judged: list[tuple[Pool, Judgement, float, float]]) -> None:
        """Warn once each time a pool falls to the warning level."""
        report: LateReport | None = None
        if self._warned:
            self._warned &= {pool.name for pool, *_ in judged}
        for pool, judgement, equity, requirement in judged:
            self._note_distance(pool, judgement)
            if not requirement or equity - self.now.rules.liquidation.warning_ratio * requirement > 0:
                self._warned.discard(pool.name)
            elif pool.name not in self._warned:
                report = report or self.now.late_report()
                self.warn(pool.name, judgement, report)

    def _booked_and_hour(self) -> tuple[int, int]:
        return len(self.now.account.ledger), self.now.market.time // HOUR

    def _note_distance(self, pool: Pool, judgement: Judgement) -> None:
        """Remember the first and the lowest distance to liquidation of the run (per cent)."""
        low = self.min_distance
        if not holds(pool):
            return
        if not is_straight(pool):
            if low is None:
                now = self._booked_and_hour()
                if self._sought.get(pool.name) == now:
                    return  # nothing would end it when last sought: once an hour, and after each booking, is enough
                self._sought[pool.name] = now
            if self._stands_as_noted(pool):
                return
            if low is None:
                self._put_off = (pool, judgement, self.now.market, self.now.rules)
                return
        self._seek(pool, judgement, self.now.market, self.now.rules)

    def _seek(self, pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> None:
        low = self._min_distance
        if not may_be_nearer(pool, low, market, rules):
            return
        away = distance(pool, judgement, market, rules)
        if away is None:
            return
        if self._entry_distance is None:
            self._entry_distance = away
        if low is None or away < low:
            self._min_distance = away

    def _stands_as_noted(self, pool: Pool) -> bool:
        """True where nothing has changed since the pool was last looked at, as bar after bar of a still market.
        What options are worth changes with time alone; what dated contracts ask for (MR4) only falls with it."""
        noted, market, low = self._noted.get(pool.name), self.now.market, self.min_distance
        self._noted[pool.name] = (pool, market, self.now.rules, low)
        if noted is None or noted[0] is not pool or noted[2] is not self.now.rules or noted[3] != low:
            return False
        return noted[1].same_prices(market) and not any(p.instrument.is_option for p in pool.positions)


def _levels(judgement: Judgement) -> tuple[float, float]:
    return float(judgement.equity), float(judgement.requirement)
