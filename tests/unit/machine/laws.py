"""What holds of any account at any time, whatever was done to it.

The books are kept a second time here, in fractions and from the entries alone, by what each kind of entry means: who is
on the other side, and what changed hands at which price.
"""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction

from bt_margin.engine.engine import MarginEngine
from bt_margin.model.account import Account, Position
from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes.assess import account_pools
from bt_margin.modes.base import Judgement, Pool, judge
from tests.unit.machine.run import Run
from tests.unit.machine.world import CURRENCIES

ROUNDING = 1e-12  # of all that ever moved: what floats make of sums
PARTS = ("margin", "assets", "liability", "interest")


def meant(entry: Entry) -> bool:
    """Does an entry do what its kind says, to those whom it says? The fund is the venue's insurance fund."""
    total, fund = entry.total, entry.fund
    match entry.kind:
        case EntryKind.DEPOSIT:  # from outside, in cash
            return total == entry.cash and fund == 0.0
        case EntryKind.TRADE | EntryKind.FUNDING | EntryKind.SETTLEMENT:  # with other traders
            return fund == 0.0
        case EntryKind.FEE:  # to the venue
            return total <= 0.0 == fund
        case EntryKind.PENALTY:  # to the fund
            return total == -fund < 0.0
        case EntryKind.CLAWBACK:  # from the fund
            return total == -fund > 0.0
        case EntryKind.TRANSFER:  # within the account; what a forced close leaves may go to the fund
            return total + fund == 0.0 <= fund
        case EntryKind.BORROW:  # from the lender: what it brings in is a trade
            return entry.liability > 0.0 and entry.cash == entry.margin == entry.assets == fund == 0.0
        case EntryKind.REPAY:  # to the lender, out of what a trade brought in
            return entry.liability <= 0.0 and entry.interest <= 0.0 and fund == 0.0
        case EntryKind.INTEREST:  # owed to the lender first; deducting it takes nothing more
            return fund == 0.0 and (total == -entry.interest < 0.0 if entry.interest > 0.0 else total == 0.0)
    return False


class Books:
    """An account's money and contracts, added up from its entries."""

    def __init__(self, account: Account) -> None:
        self.seen, self.gross = 0, max([1.0, *map(abs, account.opening.values())])
        self.cash = defaultdict(Fraction, {c: Fraction(x) for c, x in account.opening.items()})
        self.fund: defaultdict[str, Fraction] = defaultdict(Fraction)
        self.accrued: defaultdict[str, Fraction] = defaultdict(Fraction)
        self.held: defaultdict[PositionKey, dict[str, Fraction]] = defaultdict(lambda: dict.fromkeys(PARTS, Fraction()))
        self.sizes: defaultdict[PositionKey, float] = defaultdict(float)
        self.traded: defaultdict[PositionKey | str, Fraction] = defaultdict(Fraction)
        self.instruments: dict[PositionKey, Instrument] = {}

    def follow(self, account: Account) -> None:
        """Add the entries since the last time; the account has to say the same."""
        for entry in account.ledger[self.seen:]:
            assert meant(entry), entry
            self._add(entry)
        self.seen = len(account.ledger)
        for what, mine, its in (("cash", self.cash, account.balances), ("fund", self.fund, account.fund),
                                ("accrued", self.accrued, account.accrued)):
            for currency in {*mine, *its}:
                self._same(mine[currency], its.get(currency, 0.0), f"{what} of {currency}")
        for key in {*self.held, *account.positions}:
            position = account.positions.get(key)
            for part in PARTS:
                self._same(self.held[key][part], getattr(position, part, 0.0), f"{part} of {key}")
            if not isinstance(position, MarginPosition):
                self._contracts(key, position)
            if position is None:
                self.held.pop(key)
        for name, left in self.traded.items():
            if isinstance(name, str):
                self._same(left, 0.0, f"what trades in {name} left over at their own prices")

    def _add(self, entry: Entry) -> None:
        self.gross += abs(entry.cash) + abs(entry.margin) + abs(entry.assets) + abs(entry.liability)
        self.cash[entry.currency] += Fraction(entry.cash)
        self.fund[entry.currency] += Fraction(entry.fund)
        key, kind = entry.key, entry.kind
        if key is None:
            if entry.interest > 0.0:  # nothing settles in ETH here, so no unrealised loss can be owed in it
                assert self.cash[entry.currency] < 0 or entry.currency != "ETH", entry
            self.accrued[entry.currency] += Fraction(entry.interest)
            if kind is EntryKind.TRADE:
                self._exchange(entry)
            return
        for part in PARTS:
            self.held[key][part] += Fraction(getattr(entry, part))
        if entry.instrument is not None:
            self.instruments[key] = entry.instrument
        instrument = self.instruments[key]
        if instrument.is_spot:
            if kind in (EntryKind.BORROW, EntryKind.TRADE, EntryKind.REPAY, EntryKind.TRANSFER) and entry.price:
                self._exchange(entry)
            return
        if kind in (EntryKind.TRADE, EntryKind.SETTLEMENT):
            self.sizes[key] = instrument.snap(self.sizes[key] + entry.size)
            self.traded[key] += Fraction(entry.cash) + Fraction(entry.margin) - self._paid(instrument, entry.size,
                                                                                           entry.price)

    def _exchange(self, entry: Entry) -> None:
        """Coins for coins: at the price they went at, both sides are worth the same."""
        price, instrument = Fraction(entry.price), entry.instrument or self.instruments.get(entry.key or NOBODY)
        if instrument is None:  # a conversion: coins bought for one sold
            self.traded["conversion"] += Fraction(entry.total) * (price if entry.cash < 0 else 1)
        else:
            in_base = entry.currency == instrument.base
            self.traded[instrument.symbol] += Fraction(entry.total) * (price if in_base else 1)
        self.gross += abs(entry.total * entry.price)

    def _paid(self, instrument: Instrument, size: float, price: float) -> Fraction:
        """What a buyer of so many contracts gives, had nothing been held: value at the price, of inverse ones face over
        price with the other sign."""
        units = Fraction(size) * Fraction(instrument.contract_size)
        if instrument.payoff.slope < 0:
            paid = units / Fraction(price)
        else:
            paid = -units * Fraction(price)
        self.gross += abs(float(paid))
        return paid

    def _contracts(self, key: PositionKey, position: Position | None) -> None:
        """What was traded, at the prices it was traded at, is the profit booked and what the entry price still says."""
        assert self.sizes[key] == (position.size if position else 0.0), key
        still = Fraction()
        if position is not None and not position.instrument.payoff.upfront:
            still = self._paid(position.instrument, position.size, position.entry_price)
        self._same(self.traded[key] + still, 0.0, f"profit of {key}")
        if position is None:
            self.traded.pop(key, None)

    def _same(self, mine: Fraction, its: float, what: str) -> None:
        assert abs(float(mine - Fraction(its))) <= ROUNDING * self.gross * max(1, self.seen), (what, float(mine), its)


NOBODY = PositionKey("", "", "")


def judged(engine: MarginEngine, account: Account | None = None) -> list[tuple[Pool, Judgement]]:
    pools = account_pools(engine.account if account is None else account, engine.mode)
    return [(pool, judge(pool, engine.market, engine.rules)) for pool in pools]


def every_position_is_margined(engine: MarginEngine) -> None:
    """Each is in one pool, and asks for margin there; long options alone ask for none."""
    seen: list[PositionKey] = []
    for pool, judgement in judged(engine):
        seen += [position.key for position in pool.positions]
        assert all(math.isfinite(x) for x in (float(judgement.equity), float(judgement.requirement))), pool.name
        written = any(p.instrument.is_option and p.size < 0 for p in pool.positions)  # deep in the money: less (rule)
        if pool.mode.name != "isolated" and not (written and pool.mode.name != "portfolio"):
            assert float(judgement.initial) >= float(judgement.maintenance) * (1 - 1e-9)
        if pool.needs_margin:
            assert float(judgement.requirement) > 0.0, pool.name
        charged = {charge.unit for charge in judgement.charges if charge.maintenance > 0}
        for position in pool.positions:
            if position.instrument.is_option and position.size > 0:
                continue
            names = {position.symbol, position.instrument.base}  # by contract, or by the coin's unit
            assert charged & names or any(name.startswith(f"{position.instrument.base}-") for name in charged), position
    assert sorted(seen) == sorted(engine.account.positions)


def nothing_is_owed_in_secret(engine: MarginEngine) -> None:
    """A balance below zero is a debt that was told, where the account stands behind it; elsewhere there is none, but
    while profits not yet realised stand behind a position that needs margin."""
    account = engine.account
    if not engine.mode.whole:
        behind = {p.currency for p in account.held("cross") if not p.instrument.is_option or p.size < 0}
        for currency, amount in account.balances.items():
            assert amount >= 0.0 or currency in behind, (currency, amount)
        assert not any(account.accrued.values())
        return
    told: set[str] = set()
    for event in engine.events:
        if event.name == "Borrowed":
            told.add(event.currency)  # type: ignore[attr-defined]
        elif event.name == "Repaid":
            told.discard(event.currency)  # type: ignore[attr-defined]
    assert told == account.owed()
    for currency, amount in account.balances.items():
        assert not -1e-11 < amount < 0.0, f"dust is owed: {amount!r} {currency}"
    assert all(due >= 0.0 for due in account.accrued.values())


def the_report_adds_up(engine: MarginEngine) -> None:
    """A debt is what a currency's equity is below zero; all currencies together are the account."""
    report = engine.assess()
    assert math.isclose(report.account.equity_usd, engine.equity_usd(), rel_tol=1e-9, abs_tol=1e-6)
    if engine.mode.whole:
        for row in report.currencies:
            if not any(p.instrument.is_option and p.currency == row.currency for p in engine.account.held("cross")):
                alone = [p.liability for p in engine.account.held("isolated")
                         if isinstance(p, MarginPosition) and p.debt_currency == row.currency]
                assert row.liability == max(0.0, -row.equity) + sum(alone), row.currency
            assert row.available_equity * row.potential_borrow == 0.0
    total, gross = math.fsum(x.equity_usd for x in report.currencies), math.fsum(
        abs(x.equity_usd) for x in report.currencies)
    alone = math.fsum(float((p.margin + p.value(engine.market)) * engine.market.usd(p.currency))
                      for p in engine.account.held("isolated")) if engine.mode.whole else 0.0
    assert abs(total + alone - engine.equity_usd()) <= 1e-9 * max(1.0, gross, abs(alone))


def more_collateral_never_hurts(engine: MarginEngine, currency: str, amount: float) -> None:
    """More of a currency lowers no pool's equity, raises no requirement, leaves no less to open with.

    In portfolio margin a coin that is owed is short spot and hedges what is long: less of it may ask for more.
    """
    if engine.mode.name == "portfolio" and engine.account.balance(currency) < 0.0 and currency in ("BTC", "ETH"):
        return
    richer = engine.account.copy()
    richer.balances[currency] = richer.balance(currency) + amount
    then = {pool.name: judgement for pool, judgement in judged(engine, richer)}
    for pool, now in judged(engine):
        after = then[pool.name]
        hair = 1e-9 * max(1.0, abs(float(now.equity)), abs(float(now.requirement)))
        assert float(after.equity) >= float(now.equity) - hair, (pool.name, currency, amount)
        assert float(after.requirement) <= float(now.requirement) + hair, (pool.name, currency, amount)
        free, before = (float(x.equity) - float(x.initial) for x in (after, now))
        assert free >= before - hair, (pool.name, currency, amount)


def orders_and_sizes_are_of_the_venue(engine: MarginEngine) -> None:
    """Whole lots; nothing that has expired is held or rests."""
    now = engine.market.time
    for position in engine.account.positions.values():
        assert position.size != 0.0
        if not isinstance(position, MarginPosition):  # interest and fees in the coin are not in lots
            assert position.size == position.instrument.snap(position.size)
        assert position.instrument.expiry_ms is None or position.instrument.expiry_ms > now, position
    for order in engine.account.orders.values():
        assert order.size > 0.0
        assert order.instrument.expiry_ms is None or order.instrument.expiry_ms > now, order


def time_goes_on(engine: MarginEngine, since: int, entries: int, events: int) -> None:
    """What a step books and tells happened in it. (Along a leg its clock events come last, at their own times.)"""
    for row in (*engine.account.ledger[entries:], *engine.events[events:]):
        assert since <= row.time <= engine.market.time, row


def coins_out_of_the_collateral_are_not_sold(engine: MarginEngine, since: int) -> None:
    """By the venue, while they are out."""
    off = engine.account.borrowing.collateral_off
    assert not [x for x in engine.events[since:] if x.name == "Converted" and x.sold in off]  # type: ignore[attr-defined]


def is_safe_and_settled(engine: MarginEngine, again: Market) -> None:
    """After an instant no pool is in breach, and the same instant once more books nothing and says nothing."""
    for pool in engine.at_risk_pools():
        judgement = judge(pool, engine.market, engine.rules)
        level = engine.rules.liquidation.liquidation_ratio
        requirement = float(judgement.requirement)
        assert requirement == 0.0 or float(judgement.equity) > level * requirement, pool.name
    before = engine.state, list(engine.events)
    for jump in (False, True):
        engine.advance(again, jump=jump)
    assert before == (engine.state, engine.events)


class Watch:
    """All laws, looked after following each step of a run."""

    def __init__(self, run: Run) -> None:
        self.run, self.books, self.told, self.time = run, Books(run.engine.account), 0, run.era.time

    def look(self) -> None:
        engine, turn = self.run.engine, len(self.run.steps)
        time_goes_on(engine, self.time, self.books.seen, self.told)
        self.books.follow(engine.account)
        every_position_is_margined(engine)
        nothing_is_owed_in_secret(engine)
        if turn % 5 == 0:  # the dearest look
            the_report_adds_up(engine)
        orders_and_sizes_are_of_the_venue(engine)
        coins_out_of_the_collateral_are_not_sold(engine, self.told)
        currency = CURRENCIES[turn % 4]
        more_collateral_never_hurts(engine, currency, 10.0 ** (turn % 7) / float(engine.market.usd(currency)))
        if turn and self.run.steps[-1][0] == "advance":
            is_safe_and_settled(engine, self.run.prices.market(self.run.era, engine.market.time))
        self.told, self.time = len(engine.events), engine.market.time
