"""What must hold of any account in multi-currency margin, over any path: laws, and a machine that tries everything."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.ledger import EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import assess
from tests.unit.whole import (
    ETHPAIR,
    ETHSWAP,
    HOUR,
    INDEX,
    OKX,
    PAIR,
    PAPER,
    PRICES,
    SWAP,
    TIME,
    conserved,
    engine,
    moved,
)

DEEP = PAPER.overlay(borrow_tiers={
    "USDT": [[50_000, 0.02, 0.1], [100_000, 0.04, 0.2], [1e15, 0.08, 0.4]],
    "BTC": [[2, 0.02, 0.1], [1e12, 0.05, 0.2]], "ETH": [[50, 0.03, 0.1], [1e12, 0.06, 0.25]],
})
"""Tiers without an end: no price is too far."""
CALM = OKX.overlay(discounts={"USDT": [[1e15, 1.0]]}, borrow_tiers={"USDT": [[1e15, 0.02, 0.1]]})

steps = st.lists(st.tuples(st.floats(0.7, 1.3), st.floats(0.7, 1.3), st.integers(1, 20)), min_size=1, max_size=8)
sizes = st.integers(-30_000, 30_000).map(lambda lots: lots / 100)


# -- one currency at par is cross -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.floats(1_000, 200_000), sizes, sizes, st.sampled_from([2.0, 5.0, 20.0]), steps)
def test_stablecoin_alone_plays_exactly_as_cross(cash: float, btc: float, eth: float, leverage: float, path) -> None:
    """Not only at one instant: over a whole path, liquidation included, to the same cash at the same instants."""
    rates = FundingSeries(np.arange(TIME, TIME + 200 * 8 * HOUR, 8 * HOUR), np.tile([0.0003, -0.0001], 100))
    pair = []
    for mode in ("cross", "multi-currency"):
        market = Market(TIME, dict(PRICES), dict(PRICES), dict(INDEX))
        e = MarginEngine(Account({"USDT": cash}), mode_named(mode), CALM, market, funding={SWAP: rates})
        for i, (symbol, size) in enumerate(((SWAP, btc), (ETHSWAP, eth))):
            if not size:
                continue
            side = "buy" if size > 0 else "sell"
            wanted = Order(i + 1, e.rules.instrument(symbol), side, abs(size), None, "cross", "net", leverage)
            if not isinstance(e.accept(wanted), Refusal):
                e.fill(wanted, abs(size), PRICES[symbol])
        pair.append(e)
    cross, whole = pair
    assert list(whole.account.positions) == list(cross.account.positions)  # taken and refused alike
    assume(cross.account.positions)
    prices = {"btc": 60_000.0, "eth": 3_000.0}
    for up, over, hours in path:
        prices = {"btc": prices["btc"] * up, "eth": prices["eth"] * over}
        for e in pair:
            moved(e, hours * HOUR, **prices)
        assert whole.account.positions.keys() == cross.account.positions.keys()
        assert whole.account.balance("USDT") == pytest.approx(cross.account.balance("USDT"), rel=1e-9, abs=1e-6)
        one, two = cross.assess(), whole.assess()
        if not cross.account.positions:
            continue
        (before,), (after,) = (p for p in one.pools if p.currency == "USDT"), two.pools
        for name in ("equity", "initial_margin", "maintenance_margin", "liquidation_fee", "margin_ratio"):
            assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-9, abs=1e-9), name
        for name in ("equity_usd", "notional_usd", "leverage"):
            assert getattr(two.account, name) == pytest.approx(getattr(one.account, name), rel=1e-9), name
        for old, new in zip(one.positions, two.positions, strict=True):
            assert new.unrealised_pnl == pytest.approx(old.unrealised_pnl, rel=1e-9, abs=1e-9)
    told = [[(x.time, x.name) for x in e.events if x.name not in ("Refused", "Borrowed", "Repaid")] for e in pair]
    assert [name for _, name in told[0]] == [name for _, name in told[1]]
    for (first, _), (second, _) in zip(*told, strict=True):
        assert abs(first - second) <= 1
    forced = [[(x.size, x.remaining) for x in e.events if x.name == "Reduced"] for e in pair]  # type: ignore[attr-defined]
    assert forced[0] == forced[1]


# -- collateral, deposits, order --------------------------------------------------------------------------------------

amounts = st.floats(-5.0, 20.0)


def account(balances: dict[str, float], btc: float, eth: float, turned: bool = False) -> Account:
    built = Account(dict(reversed(balances.items())) if turned else balances)
    rules = DEEP.as_of(TIME, "nearest")
    held = [Position(rules.instrument(s), "cross", "net", size, PRICES[s] * 0.97, 10.0)
            for s, size in ((SWAP, btc), (ETHSWAP, eth)) if size]
    for position in reversed(held) if turned else held:
        built.adopt(position)
    return built


def report(built: Account, btc: float = 60_000.0):
    now = {**PRICES, SWAP: btc, PAIR: btc}
    market = Market(TIME, now, now, {**INDEX, PAIR: btc})
    return assess(built, mode_named("multi-currency"), market, DEEP.as_of(TIME, "nearest"))


@given(amounts, amounts, st.floats(-300_000, 300_000), sizes, sizes, st.sampled_from(["BTC", "ETH", "USDT"]),
       st.floats(0, 10), st.floats(20_000, 120_000))
def test_more_collateral_never_lowers_a_positive_ratio(btc, eth, usdt, swap, other, coin, more, price) -> None:
    balances = {"BTC": btc, "ETH": eth * 10, "USDT": usdt}
    poor = report(account(balances, swap, other), price)
    richer = report(account({**balances, coin: balances[coin] + more * (10_000 if coin == "USDT" else 1)}, swap, other),
                    price)
    assume(poor.account.margin_ratio is not None and poor.account.margin_ratio > 0)
    assert poor.account.margin_ratio is not None
    if richer.account.margin_ratio is not None:
        assert richer.account.margin_ratio >= poor.account.margin_ratio * (1 - 1e-12)
    assert richer.account.adjusted_equity_usd >= poor.account.adjusted_equity_usd - 1e-6  # type: ignore[operator]


@given(amounts, amounts, st.floats(-300_000, 300_000), sizes, sizes)
def test_the_order_of_balances_and_positions_is_irrelevant(btc, eth, usdt, swap, other) -> None:
    balances = {"BTC": btc, "ETH": eth * 10, "USDT": usdt}
    one, two = (report(account(balances, swap, other, turned)) for turned in (False, True))
    assert one.pools == two.pools
    assert one.positions == two.positions
    assert one.currencies == two.currencies
    assert one.account.margin_ratio == two.account.margin_ratio


@settings(max_examples=30)
@given(st.floats(0.1, 3.0), st.floats(0.0, 1.0), st.integers(1, 300), st.floats(0.3, 1.5), st.booleans())
def test_a_balance_in_two_deposits_changes_nothing(coins, part, contracts, fall, jump) -> None:
    ends = []
    for pieces in ((coins,), (coins * part, coins * (1 - part))):
        e = engine({}, book=DEEP)
        for piece in pieces:
            e.deposit("BTC", piece)
        wanted = Order(1, e.rules.instrument(SWAP), "buy", float(contracts), None, "cross", "net", 10.0)
        if not isinstance(e.check(wanted), Refusal):
            e.fill(wanted, float(contracts), 60_000.0)
        moved(e, 5 * HOUR, jump=jump, btc=60_000.0 * fall)
        ends.append(e)
    one, two = ends
    assert [x.name for x in one.events] == [x.name for x in two.events]
    for currency in ("BTC", "USDT"):
        assert one.account.balance(currency) == pytest.approx(two.account.balance(currency), rel=1e-6, abs=1e-6)


@given(st.floats(0.01, 0.9), st.integers(0, 58), st.integers(1, 58))
def test_borrowed_and_repaid_within_a_clock_hour_is_free(size, minute, more) -> None:
    assume(minute + more < 60)
    e = engine({"USDT": 50_000.0}, book=DEEP)
    moved(e, minute * 60_000)
    size = e.rules.instrument(PAIR).floor(size)
    wanted = Order(1, e.rules.instrument(PAIR), "sell", size, None, "cross", "net", 1.0)
    e.fill(wanted, size, 60_000.0)
    moved(e, more * 60_000)
    e.deposit("BTC", size)
    moved(e, 30 * HOUR)
    assert not [x for x in e.account.ledger if x.kind is EntryKind.INTEREST]
    assert e.account.balance("BTC") == 0.0


# -- anything in any order --------------------------------------------------------------------------------------------

SYMBOLS = (SWAP, ETHSWAP, PAIR, ETHPAIR)
Step = Callable[[MarginEngine], object]


class AnyCredit(RuleBasedStateMachine):
    """Deposits, withdrawals, spot on credit and short, contracts, legs and jumps, hours: nothing is made or lost."""

    @initialize(usdt=st.sampled_from([50_000.0, 0.0, 400.5, 200_000.0]), btc=st.sampled_from([1.0, 0.0, 3.3]),
                eth=st.sampled_from([10.0, 0.0, 77.7]), auto=st.sampled_from([True, True, False]),
                off=st.sampled_from([(), (), ("ETH",)]), first=st.lists(
                    st.tuples(st.sampled_from(SYMBOLS), st.booleans(), st.floats(0.2, 2.5)), min_size=2, max_size=4))
    def open(self, usdt, btc, eth, auto, off, first) -> None:
        settle = np.arange(TIME, TIME + 400 * 8 * HOUR, 8 * HOUR)
        rates = np.where(np.arange(len(settle)) % 3 == 0, -0.002, 0.003)
        self.make = lambda: engine({"USDT": usdt, "BTC": btc, "ETH": eth}, auto=auto, off=off, book=DEEP,
                                   funding={SWAP: FundingSeries(settle, rates)})
        self.engine = self.make()
        self.script: list[Step] = []
        self.number = 0
        self.folded: defaultdict[str, float] = defaultdict(float, self.engine.account.opening)
        self.seen = 0
        for symbol, buy, share in first:
            self.trade(symbol, buy, share, False, 1.0, 10.0, False)

    def do(self, step: Step) -> object:
        self.script.append(step)
        return step(self.engine)

    @rule(symbol=st.sampled_from(SYMBOLS), buy=st.booleans(), share=st.floats(0.05, 3.0),
          rest=st.sampled_from([False, False, True]), limit=st.floats(0.8, 1.2),
          leverage=st.sampled_from([10.0, 2.0, 50.0]), reduce=st.sampled_from([False, False, True]))
    def trade(self, symbol, buy, share, rest, limit, leverage, reduce) -> None:
        e = self.engine
        instrument, price = e.rules.instrument(symbol), float(e.market.last(symbol))
        size = instrument.floor(max(e.equity_usd(), 10.0) * share / (price * instrument.contract_size))
        self.number += 1
        order = Order(self.number, instrument, "buy" if buy else "sell", size, price * limit if rest else None, "cross",
                      "net", 1.0 if instrument.is_spot else leverage, reduce and not instrument.is_spot)

        def step(one: MarginEngine) -> object:
            taken = one.accept(order)
            if isinstance(taken, Refusal) or rest:
                return taken
            return one.fill(taken, taken.size, price)

        answer = self.do(step)
        if isinstance(answer, Refusal):
            assert answer.reason
            assert 0 <= answer.largest_size < max(size, 1e-12)
            if answer.largest_size > 0 and not rest:  # what would have been taken is taken
                self.number += 1
                less = replace(order, id=self.number, size=answer.largest_size)
                filled = self.do(lambda one: one.fill(less, less.size, price))
                assert not isinstance(filled, Refusal), filled

    @rule(share=st.floats(0.1, 1.0))
    def fill_one(self, share: float) -> None:
        order = next(iter(self.engine.account.orders.values()), None)
        if order is not None:
            size = min(order.size, max(order.instrument.floor(order.size * share), order.instrument.lot))
            self.do(lambda one: one.fill(order, size, order.price, maker=True))

    @rule(btc=st.floats(0.6, 1.6), eth=st.floats(0.6, 1.6), usdt=st.sampled_from([1.0, 1.0, 0.97, 1.01]),
          minutes=st.integers(0, 1_500), jump=st.booleans())
    def move(self, btc, eth, usdt, minutes, jump) -> None:
        to = {"btc": float(self.engine.market.last(PAIR)) * btc, "eth": float(self.engine.market.last(ETHPAIR)) * eth}
        self.do(lambda one: moved(one, minutes * 60_000, jump=jump, usdt=usdt, **to))
        ratio = self.engine.present_ratio()
        assert ratio is None or ratio > 1.0, "safe, or nothing is left that could be liquidated"

    @rule(btc=st.sampled_from([0.01, 30.0]), jump=st.booleans())
    def crash(self, btc: float, jump: bool) -> None:
        self.move(btc, btc, 1.0, 60, jump)

    @rule(coin=st.sampled_from(["USDT", "BTC", "ETH"]), amount=st.floats(-1, 3))
    def transfer(self, coin: str, amount: float) -> None:
        """Deposit some, or withdraw a share of what may leave."""
        if amount >= 0:
            worth = amount * (10_000 if coin == "USDT" else 0.2)
        else:
            worth = self.engine.transferable(coin) * amount
        self.do(lambda one: one.deposit(coin, worth))
        if worth < 0:
            assert self.engine.account.balance(coin) >= self.engine.account.accrued.get(coin, 0.0) - 1e-9

    @invariant()
    def money_is_conserved(self) -> None:
        conserved(self.engine)

    @invariant()
    def interest_is_never_of_nothing(self) -> None:
        ledger = self.engine.account.ledger
        for entry in ledger[self.seen :]:
            if entry.kind is EntryKind.INTEREST and entry.interest > 0:
                assert self.folded[entry.currency] < 0 or entry.currency == "USDT"  # unrealised losses are in USDT
                assert math.isfinite(entry.interest)
            self.folded[entry.currency] += entry.cash
        self.seen = len(ledger)
        for currency, due in self.engine.account.accrued.items():
            assert due >= 0.0, currency

    @invariant()
    def liabilities_are_negative_equity(self) -> None:
        found = self.engine.assess()
        for row in found.currencies:
            assert row.liability == max(0.0, -row.equity)
            assert row.available_equity * row.potential_borrow == 0.0
        # what positions hold is worth the same whichever way it is added up
        total = sum(row.equity_usd for row in found.currencies)
        assert total == pytest.approx(self.engine.equity_usd(), rel=1e-9, abs=1e-6)

    @invariant()
    def no_dust_is_owed(self) -> None:
        for currency, amount in self.engine.account.balances.items():
            assert not -1e-11 < amount < 0, currency

    @invariant()
    def the_fund_balances_and_coins_out_of_collateral_are_not_sold(self) -> None:
        account = self.engine.account
        booked = math.fsum(x.fund for x in account.ledger)
        assert math.fsum(account.fund.values()) == pytest.approx(booked, rel=1e-9, abs=1e-6)
        off = account.borrowing.collateral_off
        assert not [x for x in self.engine.events if x.name == "Converted" and x.sold in off]  # type: ignore[attr-defined]

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        again = self.make()
        for step in self.script:
            step(again)
        assert again.account.ledger == self.engine.account.ledger
        assert [(x.time, x.name) for x in again.events] == [(x.time, x.name) for x in self.engine.events]


TestAnyCredit = AnyCredit.TestCase
TestAnyCredit.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, derandomize=True)
