"""Defects that a review found, each held by the case that showed it."""

from __future__ import annotations

import numpy as np
import pytest

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.clock import Deleveraging
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.rules.book import RuleBook, load_rules

TIME = 1_760_000_000_000 // 28_800_000 * 28_800_000
SWAP, ETH, COIN = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USD:BTC"
CALL = "BTC/USD:BTC-260327-100000-C"
NEAR, FAR = "BTC/USDT:USDT-251226", "BTC/USDT:USDT-260327"
SMALL = [[1_000, 0.004, 0.01, 100], [5_000, 0.01, 0.02, 50]]


def engine(balances: dict[str, float], marks: dict[str, float], *, hedge: bool = False, time: int = TIME,
           book: RuleBook | None = None, mode: str = "cross", **more) -> MarginEngine:
    account = Account(balances, "hedge" if hedge else "net")
    market = Market(time, marks, marks, {"BTC/USD": marks.get(COIN, 60_000.0)}, **more)
    return MarginEngine(account, mode_named(mode), book or load_rules("okx"), market, extrapolate="nearest",
                        strict=market.strict)


def order(e: MarginEngine, symbol: str, side: str, size: float, price: float | None = None, mode: str = "cross",
          leg: str = "net", leverage: float = 10.0, reduce: bool = False) -> Order:
    instrument = e.rules.instrument(symbol)
    number = 1_000 + len(e.account.ledger) + len(e.events)
    return Order(number, instrument, side, size, price, mode, leg, 1.0 if instrument.is_option else leverage, reduce)


def trade(e: MarginEngine, symbol: str, side: str, size: float, at: float | None = None, **more) -> Fill:
    price = e.market.marks[symbol] if at is None else at
    fill = e.fill(order(e, symbol, side, size, **more), size, price)
    assert isinstance(fill, Fill), fill
    return fill


def to(e: MarginEngine, jump: bool = False, ms: int = 1, **marks: float) -> None:
    names = {"swap": SWAP, "eth": ETH, "coin": COIN, "call": CALL}
    now = {**e.market.marks, **{names[k]: v for k, v in marks.items()}}
    index = {"BTC/USD": now.get(COIN, 60_000.0)}
    e.advance(Market(e.market.time + ms, now, now, index, e.market.strict), jump=jump)


def settled(e: MarginEngine) -> None:
    assert max(map(abs, e.account.conservation_gap().values())) < 1e-9


def test_an_isolated_long_option_lives_until_its_exercise() -> None:
    e = engine({"BTC": 2.0}, {CALL: 0.05}, mode="isolated")
    trade(e, CALL, "buy", 100, mode="isolated")
    for mark in (0.02, 1e-6, 0.3):
        to(e, call=mark)
        to(e, call=mark, jump=True)
    assert e.account.positions
    assert not e.events
    fill = trade(e, CALL, "sell", 100, mode="isolated")
    assert fill.pnl == pytest.approx(0.25)
    assert e.account.balance("BTC") == pytest.approx(2.25 - 0.0006)
    settled(e)


def test_a_pool_of_long_options_alone_never_hangs() -> None:
    e = engine({"BTC": 0.0503}, {CALL: 0.05})
    trade(e, CALL, "buy", 100)
    to(e, call=0.01)
    assert e.account.positions
    e = engine({"BTC": 1.0}, {CALL: 0.05, COIN: 90_000.0})
    trade(e, CALL, "buy", 100)
    trade(e, COIN, "buy", 7_000)
    to(e, coin=40_000.0, call=0.001, jump=True)
    assert [k.symbol for k in e.account.positions] == [CALL]  # longs need no margin and are not reduced
    assert e.account.balance("BTC") == 0.0
    assert "TakenOver" in [x.name for x in e.events]
    settled(e)


@pytest.mark.parametrize("case", ["hedge", "expiries", "reversal"])
def test_sizes_beyond_the_last_tier_are_refused_not_crashed_on(case: str) -> None:
    tiers = {symbol: {"tiers": SMALL} for symbol in (SWAP, NEAR, FAR)}
    book = load_rules("okx").overlay(instruments=tiers)
    e = engine({"USDT": 1e7}, {SWAP: 60_000.0, NEAR: 60_000.0, FAR: 60_000.0}, hedge=case == "hedge", book=book)
    first, second = {
        "hedge": ((SWAP, "buy", 3_000, "long"), (SWAP, "sell", 3_000, "short")),
        "expiries": ((NEAR, "buy", 3_000, "net"), (FAR, "buy", 3_000, "net")),
        "reversal": ((SWAP, "buy", 4_000, "net"), (SWAP, "sell", 6_000, "net")),
    }[case]
    trade(e, first[0], first[1], first[2], leg=first[3])
    wanted = order(e, second[0], second[1], second[2], leg=second[3])
    answer = e.accept(wanted)
    assert isinstance(answer, Refusal)
    assert "51004" in answer.reason
    assert answer.largest_size == (5_000 if case == "reversal" else 2_000)
    assert not isinstance(e.accept(order(e, second[0], second[1], answer.largest_size, leg=second[3])), Refusal)


def deliver(e: MarginEngine, rows: list[tuple[int, float, int | None]]) -> float:
    """Walk a future through (minutes before expiry, mark, index or None for silence) and return its price."""
    expiry = e.rules.instrument(NEAR).expiry_ms
    heard = dict(e.market.index_times)
    index = 60_000.0
    for minutes, mark, now in rows:
        time = expiry - minutes * 60_000
        if now is not None:
            index, heard = float(now), {"BTC/USDT": time}
        e.advance(Market(time, {NEAR: mark}, {NEAR: mark}, {"BTC/USDT": index, "USDT/USD": 1.0}, e.market.strict,
                         e.market.stand_ins, index_times=heard))
    (event,) = [x for x in e.events if x.name == "Settled"]
    return float(event.price)  # type: ignore[attr-defined]


def future(strict: bool = False) -> MarginEngine:
    e = engine({"USDT": 1e5}, {NEAR: 60_000.0}, time=1_766_000_000_000, strict=strict)
    indexes, heard = {"BTC/USDT": 60_000.0, "USDT/USD": 1.0}, {"BTC/USDT": e.market.time}
    e.market = Market(e.market.time, {NEAR: 60_000.0}, {NEAR: 60_000.0}, indexes, strict, index_times=heard)
    trade(e, NEAR, "buy", 10)
    return e


def test_a_silent_index_never_delivers_silently() -> None:
    rows = [(300, 60_000.0, 60_000), (60, 75_000.0, None), (0, 75_000.0, None)]
    e = future()
    assert deliver(e, rows) == pytest.approx(75_000.0)
    assert any("at the delivery" in row for row in e.assess().warnings)
    with pytest.raises(MissingPrice, match="strict"):
        deliver(future(strict=True), rows)
    whole = [(120, 60_000.0, 60_000), (60, 61_000.0, 61_000), (0, 63_000.0, 63_000)]
    for strict in (False, True):
        assert deliver(future(strict), whole) == pytest.approx(62_000.0)


def test_the_delivery_price_is_the_contracts_whoever_holds_it_since_when() -> None:
    late = future()
    late.account.positions.clear()
    rows = [(m, 60_000.0 + 3_000 * (60 - m) / 60, round(60_000 + 3_000 * (60 - m) / 60)) for m in range(120, -1, -1)]
    held = deliver(future(), rows)
    instrument = late.rules.instrument(NEAR)
    for minutes, mark, index in rows:
        time = instrument.expiry_ms - minutes * 60_000
        if minutes == 15:
            late.account.adopt(Position(instrument, "cross", "net", 10.0, mark, 10.0))
        heard = {"BTC/USDT": time}
        late.advance(Market(time, {NEAR: mark}, {NEAR: mark}, {"BTC/USDT": float(index)}, index_times=heard))
    (event,) = [x for x in late.events if x.name == "Settled"]
    assert event.price == pytest.approx(held)  # type: ignore[attr-defined]


def test_part_of_an_isolated_option_is_deleveraged_with_its_part_of_the_margin() -> None:
    e = engine({"BTC": 2.0}, {CALL: 0.05}, mode="isolated")
    e.deleveraging = (Deleveraging(TIME + 1, CALL, 0.5),)
    trade(e, CALL, "sell", 100, mode="isolated")
    (before,) = e.account.positions.values()
    cash = e.account.balance("BTC")
    to(e, call=0.06)
    (after,) = e.account.positions.values()
    assert (after.size, after.margin) == (-50, pytest.approx(before.margin / 2))
    assert e.account.balance("BTC") == pytest.approx(cash + before.margin / 2 - 0.5 * 0.06)
    settled(e)


def test_the_older_funding_takes_only_what_the_cross_pool_does_not_use() -> None:
    when = 1_700_000_000_000 // 28_800_000 * 28_800_000
    e = engine({"USDT": 7_100.0}, {SWAP: 60_000.0, ETH: 3_000.0}, time=when)
    trade(e, SWAP, "buy", 100, mode="isolated")
    trade(e, ETH, "buy", 30, leverage=9.5)
    free = e.available("USDT")
    cash = e.account.balance("USDT")
    e.funding[SWAP] = FundingSeries(np.array([when + 28_800_000]), np.array([0.05]))
    e.advance(Market(when + 28_800_000, e.market.marks, e.market.lasts))
    assert e.account.balance("USDT") == pytest.approx(cash - free)
    assert [x.name for x in e.events if x.name == "TakenOver"] == []
    assert ETH in {k.symbol for k in e.account.positions}


def test_a_long_option_is_not_bought_with_unrealised_profit() -> None:
    e = engine({"BTC": 0.2}, {CALL: 0.35, COIN: 60_000.0})
    trade(e, COIN, "buy", 1_000)
    to(e, coin=80_000.0)
    assert e.available("BTC") > 0.36
    answer = e.accept(order(e, CALL, "buy", 100, 0.35))
    assert isinstance(answer, Refusal)
    assert 0 < answer.largest_size < 60


def test_buying_a_short_back_far_above_its_margin_needs_the_money() -> None:
    e = engine({"BTC": 0.2}, {CALL: 0.05})
    trade(e, CALL, "sell", 50)
    for reduce in (False, True):
        answer = e.accept(order(e, CALL, "buy", 50, 5.0, reduce=reduce))
        assert isinstance(answer, Refusal), reduce
    assert not isinstance(e.accept(order(e, CALL, "buy", 50, 0.06)), Refusal)


def test_a_check_books_nothing_and_a_refused_order_moves_no_margin() -> None:
    e = engine({"USDT": 11_000.0}, {SWAP: 60_000.0}, mode="isolated")
    trade(e, SWAP, "buy", 100, mode="isolated")
    before = len(e.account.ledger), e.account.balance("USDT")
    for ask in (e.check, e.accept):
        assert isinstance(ask(order(e, SWAP, "buy", 1_000, 60_000.0, "isolated", leverage=6.0)), Refusal)
    assert (len(e.account.ledger), e.account.balance("USDT")) == before
    fine = order(e, SWAP, "buy", 1, 60_000.0, "isolated", leverage=8.0)
    assert not isinstance(e.check(fine), Refusal)
    assert (len(e.account.ledger), e.account.balance("USDT")) == before
    assert not isinstance(e.accept(fine), Refusal)
    assert next(iter(e.account.positions.values())).leverage == 8.0


def test_a_reversal_brings_its_own_leverage() -> None:
    e = engine({"USDT": 1e6}, {SWAP: 60_000.0})
    trade(e, SWAP, "buy", 4_000, leverage=20.0)
    trade(e, SWAP, "sell", 4_100, leverage=75.0)
    (position,) = e.account.positions.values()
    assert (position.size, position.leverage) == (-100, 75.0)


def test_each_settlement_in_a_gap_is_judged_at_its_own_instant() -> None:
    e = engine({"USDT": 6_100.0}, {SWAP: 60_000.0}, mode="isolated")
    trade(e, SWAP, "buy", 100, mode="isolated")
    step = 28_800_000
    e.funding[SWAP] = FundingSeries(np.array([TIME + n * step for n in (1, 2, 3)]), np.array([0.05, 0.05, -0.08]))
    e.advance(Market(TIME + 3 * step + 1, e.market.marks, e.market.lasts, e.market.indexes), jump=True)
    assert [x.time for x in e.events if x.name == "TakenOver"]
    assert not e.account.positions


def test_the_largest_size_knows_funds_and_free_reductions() -> None:
    e = engine({"USDT": 10_000.0}, {SWAP: 60_000.0})
    answer = e.check(order(e, SWAP, "buy", 1e6, 60_000.0))
    assert isinstance(answer, Refusal)
    assert not isinstance(e.check(order(e, SWAP, "buy", answer.largest_size, 60_000.0)), Refusal)
    assert answer.largest_size < 170
    e = engine({"USDT": 3_000.0}, {SWAP: 60_000.0})
    trade(e, SWAP, "buy", 48)
    answer = e.check(order(e, SWAP, "sell", 10_000, 60_000.0))
    assert isinstance(answer, Refusal)
    assert answer.largest_size >= 48


def test_a_tier_ceiling_off_the_lot_grid_is_stepped_down_to() -> None:
    book = load_rules("okx").overlay(instruments={SWAP: {"lot": 1, "tiers": [[1_000.4, 0.004, 0.01, 100], [5_000, 0.01,
                                                                                                         0.02, 50]]}})
    e = engine({"USDT": 70_000.0}, {SWAP: 60_000.0}, book=book)
    trade(e, SWAP, "buy", 1_001)
    to(e, swap=40_000.0)
    assert not e.account.positions
    steps = [x.size for x in e.events if x.name == "Reduced"]  # type: ignore[attr-defined]
    assert steps == [-1.0, -1_000.0]


def test_rules_that_stand_in_are_named_in_the_report() -> None:
    e = engine({"USDT": 10_000.0}, {SWAP: 40_000.0}, time=1_621_400_000_000)
    trade(e, SWAP, "buy", 1)
    assert any(row.startswith("rules: position_tiers") for row in e.assess().warnings)


def test_leverage_below_one_and_of_options_is_refused() -> None:
    e = engine({"USDT": 10_000.0, "BTC": 1.0}, {SWAP: 60_000.0, CALL: 0.05})
    trade(e, SWAP, "buy", 1)
    trade(e, CALL, "buy", 1)
    for bad in (-3.0, 0.0, float("nan")):
        with pytest.raises(InputError, match="1 or more"):
            e.set_leverage(next(k for k in e.account.positions if k.symbol == SWAP), bad)
    answer = e.set_leverage(next(k for k in e.account.positions if k.symbol == CALL), 5.0)
    assert isinstance(answer, Refusal)


def test_orders_that_only_reduce_survive_the_sweep_before_a_liquidation() -> None:
    e = engine({"USDT": 10_000.0}, {SWAP: 60_000.0})
    trade(e, SWAP, "buy", 100)
    exit_, add = order(e, SWAP, "sell", 100, 70_000.0), order(e, SWAP, "buy", 10, 45_000.0)
    assert not isinstance(e.accept(exit_), Refusal)
    e.account.place(Order(7, add.instrument, "buy", 20, 45_000.0, "cross", "net", 10.0))
    to(e, swap=50_280.0)
    assert [x.orders for x in e.events if x.name == "OrdersCancelled"] == [(7,)]  # type: ignore[attr-defined]
    assert list(e.account.orders) == [exit_.id]
