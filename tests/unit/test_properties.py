"""What must hold for any book and any path: money is conserved, order is irrelevant, collateral never hurts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.ledger import EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import account_pools, assess
from bt_margin.modes.base import judge
from bt_margin.rules.book import load_rules

TIME = 1_760_000_000_000 // 28_800_000 * 28_800_000  # early October 2025, on a settlement
BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
RULES = load_rules("okx").as_of(TIME)
START = {BTC: 60_000.0, ETH: 3_000.0}

prices = st.floats(0.05, 4.0)
sizes = st.integers(1, 400_000).map(lambda lots: lots / 100)


@st.composite
def positions(draw: st.DrawFn, margin_mode: str | None = None) -> Position:
    symbol = draw(st.sampled_from([BTC, ETH]))
    mode = margin_mode or draw(st.sampled_from(["cross", "isolated"]))
    size = draw(sizes) * draw(st.sampled_from([1, -1]))
    position = Position(
        RULES.instrument(symbol),
        mode,
        "net",
        size,
        START[symbol] * draw(st.floats(0.5, 2.0)),
        draw(st.sampled_from([2.0, 5.0, 20.0])),
    )
    return replace(position, margin=position.initial_at_entry()) if mode == "isolated" else position


def build(held: list[Position], cash: float, marks: dict[str, float]) -> tuple[Account, Market]:
    account = Account({"USDT": cash})
    for position in held:
        if position.key not in account.positions:
            account.adopt(position)
    return account, Market(TIME, marks, marks)


@given(st.lists(positions(), min_size=1, max_size=4), st.floats(0, 1e7), prices, prices, st.randoms())
def test_the_order_of_positions_is_irrelevant(held, cash, btc, eth, random) -> None:
    held = list({p.key: p for p in held}.values())
    marks = {BTC: 60_000 * btc, ETH: 3_000 * eth}
    shuffled = list(held)
    random.shuffle(shuffled)
    one, two = (assess(*_args(build(order, cash, marks))).to_dict() for order in (held, shuffled))
    assert one == two


def _args(built):
    account, market = built
    return account, mode_named("cross"), market, RULES


@given(st.lists(positions("cross"), min_size=1, max_size=3), st.floats(0, 1e7), st.floats(0, 1e6), prices, prices)
def test_adding_collateral_never_hurts(held, cash, more, btc, eth) -> None:
    marks = {BTC: 60_000 * btc, ETH: 3_000 * eth}
    poor, rich = (assess(*_args(build(held, cash + extra, marks))) for extra in (0.0, more))
    for pool, richer in zip(poor.pools, rich.pools, strict=True):
        if pool.margin_ratio is not None:
            assert richer.margin_ratio >= pool.margin_ratio
            assert richer.available >= pool.available


@given(positions("cross"), st.floats(1e3, 1e7), st.lists(prices, min_size=2, max_size=6))
def test_arrays_say_what_single_instants_say(position, cash, path) -> None:
    symbol = position.symbol
    marks = np.array([START[symbol] * p for p in path])
    account, _ = build([position], cash, {symbol: 1.0})
    many = Market(TIME, {symbol: marks}, {symbol: marks})
    (pool,) = [p for p in account_pools(account) if p.positions]
    together = judge(pool, many, RULES)
    for i, mark in enumerate(marks):
        single = judge(pool, Market(TIME, {symbol: float(mark)}), RULES)
        assert together.equity[i] == pytest.approx(single.equity, rel=1e-12)
        assert together.requirement[i] == pytest.approx(single.requirement, rel=1e-12)


@given(positions("isolated"))
def test_one_isolated_position_is_a_cross_account_of_its_margin(position) -> None:
    marks = {position.symbol: position.entry_price}
    alone = assess(*_args(build([position], 0.0, marks))).positions[0]
    crossed = replace(position, margin_mode="cross", margin=0.0)
    cross = assess(*_args(build([crossed], position.margin, marks))).positions[0]
    for name in ("unrealised_pnl", "maintenance_margin", "liquidation_fee", "margin_ratio", "trigger_price"):
        one, two = getattr(alone, name), getattr(cross, name)
        assert one == pytest.approx(two, rel=1e-9) if one is not None else two is None


@given(positions(), st.floats(0, 1e6), prices)
def test_an_isolated_loss_is_the_posted_margin_and_no_more(position, cash, fall) -> None:
    position = replace(position, margin_mode="isolated", margin=position.initial_at_entry())
    symbol = position.symbol
    account, market = build([position], cash, {symbol: position.entry_price})
    engine = MarginEngine(account, mode_named("isolated"), load_rules("okx"), market)
    target = position.entry_price * fall
    engine.advance(Market(TIME + 1, {symbol: target}, {symbol: target}), jump=True)
    left = sum(p.margin for p in account.positions.values())
    assert account.balance("USDT") >= cash - 1e-9 * max(1.0, cash)
    if not account.positions:
        assert account.balance("USDT") + left <= cash + position.margin + max(0.0, _profit(position, target)) + 1e-6
    assert max(map(abs, account.conservation_gap().values())) <= 1e-9 * max(1.0, cash, position.margin * 1e3)


def _profit(position: Position, price: float) -> float:
    return float(position.instrument.pnl(position.size, position.entry_price, price))


@given(positions("cross"), st.floats(10, 1e7), prices)
def test_a_walked_leg_makes_no_deficit(position, cash, target) -> None:
    """Prices that move without a jump meet the trigger first: the insurance fund pays nothing."""
    symbol = position.symbol
    account, market = build([position], cash, {symbol: position.entry_price})
    engine = MarginEngine(account, mode_named("cross"), load_rules("okx"), market)
    engine.control.judge()
    if not account.positions:
        return
    mark = position.entry_price * target
    engine.advance(Market(TIME + 1, {symbol: mark}, {symbol: mark}))
    assert not [e for e in engine.events if e.name == "Bankrupt"]
    assert account.balance("USDT") >= -1e-6


class AnyTrading(RuleBasedStateMachine):
    """Orders, fills, funding, jumps and legs in any order: balances and ledger always agree, nothing is negative."""

    @initialize(cash=st.floats(1_000, 1e6), mode=st.sampled_from(["isolated", "cross"]), hedge=st.booleans())
    def open(self, cash: float, mode: str, hedge: bool) -> None:
        self.prices = {BTC: 60_000.0, ETH: 3_000.0, SPOT: 60_000.0}
        settle = np.arange(TIME, TIME + 400 * 28_800_000, 28_800_000)
        rates = np.where(np.arange(len(settle)) % 3 == 0, -0.002, 0.003)
        account = Account({"USDT": cash}, "hedge" if hedge else "net")
        self.engine = MarginEngine(
            account,
            mode_named(mode),
            load_rules("okx"),
            Market(TIME, self.prices, self.prices),
            funding={BTC: FundingSeries(settle, rates)},
        )
        self.mode, self.hedge, self.next_id = mode, hedge, 1

    @rule(
        symbol=st.sampled_from([BTC, ETH, SPOT]),
        buy=st.booleans(),
        long=st.booleans(),
        share=st.floats(0.01, 3.0),
        limit=st.floats(0.8, 1.2),
        leverage=st.sampled_from([1.0, 3.0, 10.0, 50.0]),
        reduce=st.booleans(),
        rest=st.booleans(),
        other=st.booleans(),
    )
    def trade(self, symbol, buy, long, share, limit, leverage, reduce, rest, other) -> None:
        instrument = self.engine.rules.instrument(symbol)
        price = self.prices[symbol]
        worth = max(self.engine.equity_usd(), 10.0) * share
        size = instrument.floor(worth / (price * instrument.contract_size))
        side = "net" if not self.hedge or instrument.is_spot else "long" if long else "short"
        mode = (
            "cash"
            if instrument.is_spot
            else (("cross" if self.mode == "isolated" else "isolated") if other else self.mode)
        )
        order = Order(
            self.next_id,
            instrument,
            "buy" if buy else "sell",
            size,
            price * limit if rest else None,
            mode,
            side,
            1.0 if instrument.is_spot else leverage,
            reduce and side == "net" and not instrument.is_spot,
        )
        self.next_id += 1
        taken = self.engine.accept(order)
        if isinstance(taken, Refusal):
            assert taken.reason
            return
        if not rest:
            self.engine.fill(taken, taken.size, price)

    @rule(share=st.floats(0.1, 1.0))
    def fill_one(self, share: float) -> None:
        if self.engine.account.orders:
            order = next(iter(self.engine.account.orders.values()))
            size = max(order.instrument.floor(order.size * share), order.instrument.lot)
            self.engine.fill(order, min(size, order.size), order.price or self.prices[order.symbol], maker=True)

    @rule(btc=st.floats(0.4, 1.8), eth=st.floats(0.4, 1.8), hours=st.integers(0, 30), jump=st.booleans())
    def move(self, btc: float, eth: float, hours: int, jump: bool) -> None:
        self.prices = {BTC: self.prices[BTC] * btc, ETH: self.prices[ETH] * eth, SPOT: self.prices[SPOT] * btc}
        time = self.engine.market.time + hours * 3_600_000
        self.engine.advance(Market(time, self.prices, self.prices), jump=jump)

    @rule(amount=st.floats(0, 1e5))
    def deposit(self, amount: float) -> None:
        self.engine.deposit("USDT", amount)

    @invariant()
    def money_is_conserved(self) -> None:
        account = self.engine.account
        scale = max((abs(e.total) for e in account.ledger), default=1.0) * max(1, len(account.ledger))
        for currency, gap in account.conservation_gap().items():
            assert abs(gap) <= 1e-12 * max(1.0, scale, account.opening.get(currency, 0.0)), currency

    @invariant()
    def nothing_is_owed(self) -> None:
        account = self.engine.account
        held = {p.instrument.settle for p in account.held("cross")}
        for currency, amount in account.balances.items():
            assert amount >= -1e-6 or currency in held

    @invariant()
    def no_pool_is_left_in_breach(self) -> None:
        for pool in account_pools(self.engine.account):
            if pool.positions:
                judgement = judge(pool, self.engine.market, self.engine.rules)
                # a fill at a price worse than the mark may breach until the next instant judges it
                assert math.isfinite(float(judgement.equity))

    @invariant()
    def the_fund_balances(self) -> None:
        account = self.engine.account
        booked = math.fsum(e.fund for e in account.ledger)
        assert sum(account.fund.values()) == pytest.approx(booked, abs=1e-6)
        for e in account.ledger:
            if e.kind is EntryKind.TRANSFER:
                assert e.total + e.fund == 0.0

    @invariant()
    def positions_have_whole_lots(self) -> None:
        for position in self.engine.account.positions.values():
            assert position.size != 0.0
            assert position.size == position.instrument.snap(position.size)


TestAnyTrading = AnyTrading.TestCase
