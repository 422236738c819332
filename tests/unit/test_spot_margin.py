"""Spot margin: the venue's figures at printed precision, both closing rules, interest, takeover, and what must hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bt_margin.engine.builder import PositionBuilder
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.errors import InputError, NotConserved
from bt_margin.model.account import Account, Order
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import account_pools
from bt_margin.modes.base import judge
from bt_margin.rules.book import RuleBook, load_rules
from tests.unit.test_golden import GOLDEN

VECTORS: dict[str, dict[str, Any]] = {v["id"]: v for v in json.loads((GOLDEN / "spot_margin.json").read_text())}
PAIR = "BTC/USDT"
HOUR = 3_600_000
TIME = 1_760_000_000_000 // HOUR * HOUR  # October 2025: assets without margin, either collateral
OLD = 1_724_716_800_000  # 2024-08-27
COMBINATIONS = [(mode, side, currency)
                for mode in ("isolated", "cross") for side in ("buy", "sell") for currency in ("BTC", "USDT")]
ONE_TIER = [[1e9, 0.02, 0.1, 10]]


def book(tiers: list[list[float]] | None = None, taker: float = 0.001) -> RuleBook:
    return load_rules("okx").overlay(
        instruments={PAIR: {"tiers": tiers or ONE_TIER}}, fees={"margin": {"taker": taker, "maker": taker}})


def engine_at(price: float = 10_000.0, usdt: float = 100_000.0, btc: float = 10.0, *, time: int = TIME,
              rules: RuleBook | None = None, **more: Any) -> MarginEngine:
    market = Market(time, {PAIR: price}, {PAIR: price})
    return MarginEngine(Account({"USDT": usdt, "BTC": btc}), mode_named("cross"), rules or book(), market, **more)


def order(engine: MarginEngine, side: str, size: float, mode: str = "cross", currency: str = "", *,
          leverage: float = 10.0, **more: Any) -> Order:
    return Order(len(engine.account.ledger) + 1, engine.rules.instrument(PAIR), side, size, None, mode, "net", leverage,
                 margin_currency=currency, **more)


def trade(engine: MarginEngine, side: str, size: float, price: float, mode: str = "cross", currency: str = "",
          **more: Any) -> Fill:
    fill = engine.fill(order(engine, side, size, mode, currency, **more), size, price)
    assert isinstance(fill, Fill), fill
    return fill


def held(engine: MarginEngine) -> MarginPosition:
    (position,) = engine.account.positions.values()
    assert isinstance(position, MarginPosition)
    return position


def move(engine: MarginEngine, price: float, after: int = 1, *, jump: bool = False) -> None:
    engine.advance(Market(engine.market.time + after, {PAIR: price}, {PAIR: price}), jump=jump)


def conserved(engine: MarginEngine, tolerance: float = 1e-8) -> None:
    for currency, gap in engine.account.conservation_gap().items():
        assert abs(gap) <= tolerance, (currency, gap)


def other(side: str) -> str:
    return "sell" if side == "buy" else "buy"


# -- the venue's figures ----------------------------------------------------------------------------------------------


def test_recorded_isolated_long_with_base_collateral() -> None:
    v = VECTORS["ISO-MARGIN-BTCUSDT-LONG-BASE-20240827"]
    i, e, tol = v["inputs"], v["expected"], v["rel_tol"]
    report = PositionBuilder.from_dict({
        "time": "2024-08-27T12:00:00Z",
        "positions": [{
            "symbol": PAIR, "margin_mode": "isolated", "direction": i["side"], "margin_currency": i["marginCcy"],
            "assets": i["pos_including_margin"] - i["margin"], "margin": i["margin"], "liability": i["liability"],
            "interest": i["interest"], "entry_price": i["avgPx"], "leverage": i["lever"],
        }],
        "prices": {"mark": {PAIR: i["markPx"]}},
        "instruments": {PAIR: {"tiers": [[50, i["mmr_rate"], 0.1, 10]]}},
        "fees": {"margin": {"taker": i["taker_fee_rate"]}},
    }).report("isolated")
    (row,) = report.positions
    found = (row.unrealised_pnl, row.unrealised_pnl_ratio, row.maintenance_margin, row.margin_ratio, row.trigger_price,
             row.liquidation_price, row.liquidation_fee)
    assert found == pytest.approx([e[k] for k in ("upl", "uplRatio", "mmr", "mgnRatio", "liqPx", "liqPx", "liq_fee")],
                                  rel=tol)
    assert row.initial_margin == pytest.approx(i["margin"], rel=1e-5)  # 0.00158827 / 5; the debt in USDT was rounded
    assert row.available_assets == pytest.approx(i["pos_including_margin"], rel=tol)  # as the venue counted then


@pytest.mark.parametrize("name", ["ISO-MARGIN-OPEN-1BTC-10X", "CROSS-MARGIN-OPEN-1BTC-10X"])
def test_opening_one_coin_ten_times(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    mode = name.split("-")[0].lower().replace("iso", "isolated")
    engine = engine_at(i["fill_price"], 0.0, 0.3, time=OLD, rules=book(taker=0.0))
    before = engine.available("BTC")
    trade(engine, "buy", i["amount_base"], i["fill_price"], mode, i["margin_ccy"], leverage=i["lever"])
    (row,) = engine.assess().positions
    assert row.liability == pytest.approx(e["liability_usdt"], rel=v["rel_tol"])
    assert row.available_assets == pytest.approx(e["position_assets_btc"], rel=v["rel_tol"])
    needed = e.get("required_margin_btc", e.get("required_free_margin_btc"))
    assert before - engine.available("BTC") == pytest.approx(needed, rel=v["rel_tol"])
    assert engine.account.balance("BTC") == pytest.approx(0.2 if mode == "isolated" else 0.3)
    if mode == "cross":
        assert row.initial_margin == pytest.approx(e["initial_margin_at_mark_10000"], rel=v["rel_tol"])
    short = engine_at(i["fill_price"], 0.0, needed * 0.999, time=OLD, rules=book(taker=0.0))
    answer = short.check(order(short, "buy", i["amount_base"], mode, "BTC"))
    assert isinstance(answer, Refusal)
    assert answer.shortfall == pytest.approx(needed * 0.001, rel=1e-6)
    assert answer.largest_size == pytest.approx(0.999, abs=1e-7)


@pytest.mark.parametrize("repaid", [False, True])
def test_interest_is_charged_on_what_is_owed_at_the_full_hour(repaid: bool) -> None:
    v = VECTORS["INTEREST-HOUR-SNAPSHOT"]
    clock = {k: sum(int(x) * s for x, s in zip(v["inputs"][k].split(":"), (HOUR, 60_000), strict=True))
             for k in ("borrow_time", "next_hour")}
    day = TIME // (24 * HOUR) * 24 * HOUR
    engine = engine_at(time=day + clock["borrow_time"])
    trade(engine, "buy", 1.0, 10_000.0)
    move(engine, 10_000.0, 2 * 60_000)
    if repaid:  # 14:57
        trade(engine, "sell", 1.0, 10_000.0)
    move(engine, 10_000.0, day + clock["next_hour"] + 5 * 60_000 - engine.market.time)
    charges = [e for e in engine.account.ledger if e.kind is EntryKind.INTEREST and e.interest > 0]
    assert len(charges) == (0 if repaid else v["expected"]["interest_charges"])
    assert all(e.time == day + clock["next_hour"] for e in charges)


def test_every_figure_has_a_check() -> None:
    assert set(VECTORS) == {"ISO-MARGIN-BTCUSDT-LONG-BASE-20240827", "ISO-MARGIN-OPEN-1BTC-10X",
                            "CROSS-MARGIN-OPEN-1BTC-10X", "INTEREST-HOUR-SNAPSHOT"}


# -- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "side", "currency"), COMBINATIONS)
def test_opening_borrows_pays_the_fee_out_of_what_comes_in_and_posts_the_amount_before_it(mode, side, currency) -> None:
    engine = engine_at()
    fill = trade(engine, side, 2.0, 10_000.0, mode, currency)
    position = held(engine)
    long = side == "buy"
    assert position.liability == (20_000.0 if long else 2.0)
    assert position.assets == pytest.approx(1.998 if long else 19_980.0, rel=1e-12)
    assert fill.opened == pytest.approx(1.998 if long else -2.0, rel=1e-12)
    assert (position.size, fill.opened_fee) == pytest.approx((fill.opened, 20.0), rel=1e-12)
    posted = 0.2 if currency == "BTC" else 2_000.0
    assert position.margin == pytest.approx(posted if mode == "isolated" else 0.0)
    start = {"BTC": 10.0, "USDT": 100_000.0}
    assert engine.account.balance(currency) == pytest.approx(start[currency] - position.margin)
    (pool,) = [p for p in engine.assess().pools if p.margin_ratio is not None]
    assert pool.currency == currency
    assert (pool.initial_margin, pool.maintenance_margin) == pytest.approx((posted, posted * 0.2), rel=1e-9)
    assert pool.liquidation_fee == pytest.approx(posted * 10 * 1.02 * 0.001, rel=1e-9)
    conserved(engine)


def test_entry_prices_average_over_amounts_and_stay_when_reducing() -> None:
    engine = engine_at()
    trade(engine, "buy", 1.0, 10_000.0)
    trade(engine, "buy", 3.0, 12_000.0)
    assert held(engine).entry_price == pytest.approx(11_500.0, rel=1e-12)
    trade(engine, "sell", 1.0, 13_000.0)
    assert held(engine).entry_price == pytest.approx(11_500.0, rel=1e-12)
    assert held(engine).liability == pytest.approx(46_000.0 - 13_000.0 * 0.999, rel=1e-12)


def test_before_2025_isolated_longs_post_base_and_shorts_quote() -> None:
    engine = engine_at(time=OLD)
    for side, currency, says in (("buy", "USDT", "long is BTC"), ("sell", "BTC", "short is USDT")):
        answer = engine.check(order(engine, side, 1.0, "isolated", currency))
        assert isinstance(answer, Refusal)
        assert says in answer.reason
        assert not isinstance(engine.check(order(engine, side, 1.0, "cross", currency)), Refusal)
    assert not isinstance(engine_at().check(order(engine, "buy", 1.0, "isolated", "USDT")), Refusal)


def test_a_second_margin_currency_waits_until_the_position_is_closed() -> None:
    engine = engine_at()
    trade(engine, "buy", 1.0, 10_000.0, "isolated", "BTC")
    answer = engine.check(order(engine, "buy", 1.0, "isolated", "USDT"))
    assert isinstance(answer, Refusal)
    assert "margined in BTC" in answer.reason
    trade(engine, "sell", 1.0, 10_000.0, "isolated")
    trade(engine, "buy", 1.0, 10_000.0, "isolated", "USDT")
    assert held(engine).currency == "USDT"


def test_borrowing_is_limited_by_the_tiers_of_the_leverage() -> None:
    tiers = [[5, 0.02, 0.1, 10], [50, 0.04, 0.2, 5]]
    engine = engine_at(rules=book(tiers))
    for side in ("buy", "sell"):
        answer = engine.check(order(engine, side, 5.5))
        assert isinstance(answer, Refusal)
        assert "51004" in answer.reason
        assert answer.largest_size == pytest.approx(5.0)
        assert not isinstance(engine.check(order(engine, side, 5.5, leverage=5.0)), Refusal)
    over = engine.check(order(engine, "buy", 1.0, leverage=11.0))
    assert isinstance(over, Refusal)
    assert "59102" in over.reason


def test_resting_orders_borrow_nothing_but_reserve_their_margin() -> None:
    engine = engine_at()
    for mode in ("cross", "isolated"):
        resting = replace(order(engine, "sell", 4.0, mode, "USDT"), id=90, price=12_000.0)
        assert not isinstance(engine.accept(resting), Refusal)
        assert engine.available("USDT") == pytest.approx(100_000.0 - 4_800.0)
        assert not engine.account.positions
        engine.cancel(90)


# -- closing ----------------------------------------------------------------------------------------------------------


def test_case_same_a_part_repays_interest_first() -> None:
    engine = engine_at(time=TIME + 1, interest={"USDT": 8.76})  # 0.1 % an hour
    trade(engine, "buy", 1.0, 10_000.0)
    move(engine, 10_000.0, HOUR)
    assert (held(engine).liability, held(engine).interest) == pytest.approx((10_000.0, 10.0), rel=1e-12)
    fill = trade(engine, "sell", 0.001, 10_000.0)
    assert (held(engine).liability, held(engine).interest) == pytest.approx((10_000.0, 0.01), abs=1e-9)
    assert (fill.closed, fill.closed_fee) == pytest.approx((-0.001, 0.01))
    trade(engine, "sell", 0.1, 10_000.0)
    assert (held(engine).liability, held(engine).interest) == pytest.approx((10_000.01 - 999.0, 0.0), rel=1e-12)
    conserved(engine)


@pytest.mark.parametrize(("mode", "price", "share"), [
    ("cross", 20_000.0, 0.1), ("isolated", 20_000.0, 0.1), ("isolated", 9_800.0, 0.02)])
def test_case_same_sells_at_most_the_debt_and_a_rate_beyond_it(mode: str, price: float, share: float) -> None:
    """The initial rate while equity covers the initial margin, else the maintenance rate."""
    engine = engine_at(rules=book(taker=0.0), interest={"USDT": 0.0})
    trade(engine, "buy", 1.0, 10_000.0, mode, "BTC")
    move(engine, price)
    sold = min(1.0, 10_000.0 * (1 + share) / price)
    sold = max(sold, 10_000.0 / price)
    fill = trade(engine, "sell", 1.0, price, mode)
    assert fill.closed == -1.0
    assert not engine.account.positions
    assert engine.account.balance("USDT") == pytest.approx(100_000.0 + sold * price - 10_000.0)
    assert engine.account.balance("BTC") == pytest.approx(10.0 + 1.0 - sold)
    conserved(engine)


def test_case_same_short_buys_up_to_its_cap_and_keeps_the_surplus() -> None:
    engine = engine_at(rules=book(taker=0.0))
    trade(engine, "sell", 1.0, 10_000.0, "cross", "USDT")
    move(engine, 8_000.0)
    fill = trade(engine, "buy", 1.05, 8_000.0)
    assert fill.closed == 1.0
    assert engine.account.balance("BTC") == pytest.approx(10.05)
    assert engine.account.balance("USDT") == pytest.approx(100_000.0 + 10_000.0 - 8_400.0)
    trade(engine, "sell", 1.0, 8_000.0, "cross", "USDT")
    taken = engine.check(order(engine, "buy", 9.0))
    assert isinstance(taken, Order)
    assert taken.size == pytest.approx(1.1)
    conserved(engine)


@pytest.mark.parametrize(("price", "gain"), [(12_000.0, 2_000.0), (9_500.0, -500.0)])
@pytest.mark.parametrize("mode", ["isolated", "cross"])
def test_case_different_sells_only_assets_and_the_balance_meets_the_difference(mode, price, gain) -> None:
    engine = engine_at(rules=book(taker=0.0))
    trade(engine, "buy", 1.0, 10_000.0, mode, "USDT")
    move(engine, price)
    trade(engine, "sell", 0.4, price, mode)
    assert held(engine).liability == pytest.approx(10_000.0 - 0.4 * price)
    assert held(engine).margin == (1_000.0 if mode == "isolated" else 0.0)  # a part frees no margin
    fill = trade(engine, "sell", 5.0, price, mode)
    assert fill.closed == pytest.approx(-0.6)
    assert not engine.account.positions
    assert engine.account.balance("USDT") == pytest.approx(100_000.0 + gain)
    assert engine.account.balance("BTC") == 10.0
    conserved(engine)


def test_case_different_a_repaid_position_lives_on_its_assets() -> None:
    engine = engine_at(rules=book(taker=0.0))
    trade(engine, "buy", 1.0, 10_000.0, "isolated", "USDT")
    move(engine, 20_000.0)
    trade(engine, "sell", 0.6, 20_000.0, "isolated")
    assert (held(engine).debt, held(engine).assets) == pytest.approx((0.0, 0.4), abs=1e-9)
    assert engine.account.balance("USDT") == pytest.approx(99_000.0 + 2_000.0)
    (row,) = engine.assess().positions
    assert row.margin_ratio is None
    assert row.trigger_price is None
    trade(engine, "sell", 0.4, 20_000.0, "isolated")
    assert not engine.account.positions
    assert engine.account.balance("USDT") == pytest.approx(110_000.0)
    conserved(engine)


@pytest.mark.parametrize(("mode", "side", "currency"), COMBINATIONS)
def test_a_whole_close_leaves_no_debt_and_no_dust(mode, side, currency) -> None:
    engine = engine_at(time=TIME + 1)
    trade(engine, side, 1.2345, 10_000.0, mode, currency)
    move(engine, 10_100.0 if side == "sell" else 9_900.0, 5 * HOUR)
    size = engine.account.positions[PositionKey(PAIR, mode, "net")].size
    fill = trade(engine, other(side), engine.rules.instrument(PAIR).floor(abs(size)), engine.market.last(PAIR), mode)
    assert fill.closed == -size
    assert not engine.account.positions
    assert not [e for e in engine.account.ledger if e.kind is EntryKind.CLAWBACK]
    conserved(engine)


def test_what_a_whole_close_lacks_beyond_the_margin_is_refunded() -> None:
    engine = engine_at(rules=book(taker=0.0))
    for currency in ("BTC", "USDT"):
        before = dict(engine.account.balances)
        trade(engine, "sell", 1.0, 10_000.0, "isolated", currency)
        trade(engine, "buy", 1.0, 12_000.0, "isolated")
        assert not engine.account.positions
        posted = 0.1 if currency == "BTC" else 1_000.0
        assert engine.account.balance(currency) == pytest.approx(before[currency] - posted)
    assert [e.name for e in engine.events] == ["Bankrupt", "Bankrupt"]
    assert [e.currency for e in engine.events] == ["BTC", "USDT"]
    conserved(engine)


def test_against_a_position_an_order_reduces_unless_told_to_reverse() -> None:
    engine = engine_at()
    trade(engine, "buy", 1.0, 10_000.0, "cross", "USDT")
    taken = engine.check(order(engine, "sell", 3.0))
    assert isinstance(taken, Order)
    assert taken.reduce_only
    assert taken.size == pytest.approx(0.999)
    fill = trade(engine, "sell", 3.0, 10_000.0, reverse=True)
    assert (fill.closed, fill.opened) == pytest.approx((-0.999, -2.001))
    position = held(engine)
    assert (position.direction, position.currency, position.liability) == ("short", "USDT", pytest.approx(2.001))
    answer = engine.check(order(engine, "sell", 1.0, reduce_only=True))
    assert isinstance(answer, Refusal)
    assert "no position" in answer.reason
    conserved(engine)


# -- interest, takeover -----------------------------------------------------------------------------------------------


def test_hourly_interest_is_deducted_an_hour_later_and_bears_interest() -> None:
    engine = engine_at(time=TIME + 1)
    rate = engine.rules.hourly_rate("USDT", engine.market.time)
    trade(engine, "buy", 1.0, 10_000.0)
    move(engine, 10_000.0, 3 * HOUR)
    position = held(engine)
    assert position.liability == pytest.approx(10_000.0 * (1 + rate) ** 2, rel=1e-12)
    assert position.interest == pytest.approx(10_000.0 * (1 + rate) ** 2 * rate, rel=1e-12)
    report = engine.assess()
    (usdt,) = [c for c in report.currencies if c.currency == "USDT"]
    assert (usdt.liability, usdt.interest) == (position.liability, position.interest)
    assert [e.time for e in engine.account.ledger if e.interest > 0] == [TIME + n * HOUR for n in (1, 2, 3)]
    conserved(engine)


def test_a_shorts_debt_grows_in_base_coin_while_its_size_stays() -> None:
    engine = engine_at(time=TIME + 1, interest={"BTC": 8.76})
    trade(engine, "sell", 1.0, 10_000.0)
    move(engine, 10_000.0, HOUR)
    move(engine, 10_000.0, HOUR)
    assert held(engine).liability == pytest.approx(1.001, rel=1e-12)
    assert held(engine).interest == pytest.approx(0.001001, rel=1e-9)
    assert held(engine).size == -1.0


@pytest.mark.parametrize(("mode", "side", "currency"), COMBINATIONS)
def test_at_the_trigger_nothing_is_left_of_an_isolated_margin(mode, side, currency) -> None:
    engine = engine_at(usdt=1_500.0, btc=0.15)
    trade(engine, side, 1.0, 10_000.0, mode, currency)
    before = {c: engine.account.balance(c) for c in ("BTC", "USDT")}
    trigger = engine.assess().positions[0].trigger_price
    assert (trigger < 10_000.0) == (side == "buy")
    move(engine, 7_000.0 if side == "buy" else 13_000.0)
    assert not engine.account.positions
    names = [e.name for e in engine.events]
    assert names == ["Warned", "Reduced", "TakenOver"]
    assert engine.events[1].price == pytest.approx(trigger, rel=1e-9)
    assert engine.events[1].penalty > 0
    if mode == "isolated":
        assert engine.account.balance(currency) == pytest.approx(before[currency], abs=1e-9)
    else:
        assert engine.account.balance(currency) == pytest.approx(0.0, abs=1e-6)
    assert engine.account.balance("BTC" if currency == "USDT" else "USDT") == before[
        "BTC" if currency == "USDT" else "USDT"]
    conserved(engine)


def test_a_large_debt_goes_down_tier_by_tier() -> None:
    tiers = [[5, 0.02, 0.1, 10], [10, 0.06, 0.125, 8], [20, 0.12, 0.2, 5]]
    engine = engine_at(rules=book(tiers), usdt=50_000.0)
    trade(engine, "sell", 12.0, 10_000.0, "isolated", "USDT", leverage=5.0)
    trigger = engine.assess().positions[0].trigger_price
    move(engine, trigger + 1.0)
    (first,) = [e for e in engine.events if e.name == "Reduced"]
    assert first.step == "tier step-down"
    assert held(engine).liability <= 10.0
    assert held(engine).liability == pytest.approx(10.0, abs=1e-7)
    conserved(engine)


def test_a_hedge_of_a_margin_pair_and_a_swap_is_cut_as_a_pair() -> None:
    swap = "BTC/USDT:USDT"
    market = Market(TIME, {PAIR: 60_000.0, swap: 60_000.0}, {PAIR: 60_000.0, swap: 60_000.0})
    engine = MarginEngine(Account({"USDT": 12_000.0}), mode_named("cross"), book(), market, interest={"USDT": 0.0})
    trade(engine, "buy", 0.5, 60_000.0, "cross", "USDT", leverage=5.0)
    short = Order(99, engine.rules.instrument(swap), "sell", 80.0, None, "cross", "net", 20.0)
    assert isinstance(engine.fill(short, 80.0, 60_000.0), Fill)
    engine.advance(Market(TIME + 1, {PAIR: 100_000.0, swap: 100_000.0}, {PAIR: 100_000.0, swap: 100_000.0}))
    cuts = [(e.key.symbol, e.size, e.step) for e in engine.events if e.name == "Reduced"]
    assert cuts == [(PAIR, -0.4995, "delta-neutral pair"), (swap, 49.95, "delta-neutral pair"),
                    (swap, 30.05, "unhedged position")]
    conserved(engine)


def test_a_jump_beyond_the_margin_is_the_funds_loss() -> None:
    for mode, side, currency in COMBINATIONS:
        engine = engine_at(usdt=1_500.0, btc=0.15)
        trade(engine, side, 1.0, 10_000.0, mode, currency)
        before = engine.account.balance(currency)
        move(engine, 5_000.0 if side == "buy" else 20_000.0, jump=True)
        assert not engine.account.positions
        assert engine.account.balance(currency) == pytest.approx(before if mode == "isolated" else 0.0)
        assert engine.account.fund[currency] < 0
        assert any(e.name == "Bankrupt" for e in engine.events)
        conserved(engine)


# -- the builder ------------------------------------------------------------------------------------------------------


BOOK: dict[str, Any] = {
    "time": "2025-10-10T12:00:00Z", "balances": {"USDT": 5_000.0, "BTC": 1.0},
    "positions": [{"symbol": PAIR, "margin_mode": "cross", "direction": "long", "margin_currency": "USDT",
                   "assets": 1.0, "liability": 10_000.0, "interest": 1.0, "entry_price": 10_000.0, "leverage": 10}],
    "prices": {"mark": {PAIR: 10_500.0}, "index": {"USDT/USD": 1.0}},
    "instruments": {PAIR: {"tiers": ONE_TIER}},
}


def with_row(**changes: Any) -> dict[str, Any]:
    row = {k: v for k, v in {**BOOK["positions"][0], **changes}.items() if v is not None}
    return {**BOOK, "positions": [row]}


def test_a_book_in_both_modes() -> None:
    cross, isolated = (PositionBuilder.from_dict(BOOK).report(mode) for mode in ("cross", "isolated"))
    (pool,) = [p for p in cross.pools if p.margin_ratio is not None]
    assert (pool.name, pool.equity) == ("USDT", pytest.approx(5_000.0 + 10_500.0 - 10_001.0))
    (row,) = cross.positions
    assert (row.assets, row.liability, row.interest, row.margin_currency) == (1.0, 10_000.0, 1.0, "USDT")
    assert row.initial_margin == pytest.approx(1_000.1)
    (alone,) = isolated.positions
    assert alone.margin == pytest.approx(1_000.1)  # initial margin at entry
    assert alone.liquidation_price == pytest.approx((10_001.0 * 1.02 * 1.001 - 1_000.1) / 1.0, rel=1e-12)
    assert isolated.account.equity_usd == pytest.approx(cross.account.equity_usd)
    rows = PositionBuilder.from_dict(BOOK).stress("cross", [-0.6, -0.1, 0.0])
    assert [r.state for r in rows] == ["liquidation", "safe", "safe"]


def test_orders_of_a_book_say_what_they_reserve() -> None:
    orders = [
        {"symbol": PAIR, "side": "sell", "amount": 4, "price": 11_000, "margin_mode": "cross", "reverse": True},
        {"symbol": PAIR, "side": "sell", "amount": 4, "price": 11_000, "margin_mode": "cross"},
        {"symbol": PAIR, "side": "buy", "amount": 1, "price": 9_000, "margin_mode": "isolated", "leverage": 5},
    ]
    found = PositionBuilder.from_dict({**BOOK, "orders": orders}).report("cross").orders
    assert [row.initial_margin for row in found] == pytest.approx([3 * 1_100.0, 0.0, 0.2])
    assert [row.accepted for row in found] == [True, True, True]


@pytest.mark.parametrize(("changes", "says"), [
    ({"direction": None}, "direction: expected long or short"),
    ({"margin_currency": "ETH"}, "margin_currency: expected BTC or USDT"),
    ({"assets": None}, r"positions\[0\].assets"),
    ({"liability": -1.0}, r"positions\[0\].liability"),
    ({"interest": -1.0}, "interest: expected zero or more"),
    ({"contracts": 1.0}, "given by assets and liability"),
    ({"margin_mode": "isolated"}, r"positions\[0\].margin"),
    ({"leverage": 50}, "at most 10"),
    ({"position_side": "long"}, "position_side"),
])
def test_a_wrong_row_is_refused_by_its_path(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PositionBuilder.from_dict(with_row(**changes)).report("cross")


def test_unusual_collateral_of_an_old_book_is_warned_of() -> None:
    old = {**with_row(margin_mode="isolated", margin=1_000.0), "time": "2024-08-27T00:00:00Z"}
    report = PositionBuilder.from_dict(old).report("cross")
    assert any("was BTC only at that time" in text for text in report.warnings)
    assert report.positions[0].available_assets == pytest.approx(1_001.0)


# -- what must hold ---------------------------------------------------------------------------------------------------


@st.composite
def positions(draw: st.DrawFn) -> MarginPosition:
    mode, side, currency = draw(st.sampled_from(COMBINATIONS))
    entry, leverage = draw(st.floats(0.01, 1e5)), draw(st.sampled_from([1.5, 3.0, 10.0]))
    size = draw(st.floats(0.01, 1e4))
    gain, interest = draw(st.floats(0.97, 1.03)), draw(st.floats(0, 0.001))
    long = side == "buy"
    assets, liability = (size * gain, size * entry) if long else (size * entry * gain, size)
    margin = (size if currency == "BTC" else size * entry) / leverage if mode == "isolated" else 0.0
    return MarginPosition(
        RULES.instrument(PAIR), mode, "net", assets if long else -size, entry, leverage, margin, 0.0,
        "long" if long else "short", currency, assets, liability, liability * interest)


RULES = book().as_of(TIME)


def adopted(position: MarginPosition, price: float, cash: float) -> MarginEngine:
    account = Account({position.currency: cash * (1.0 if position.in_base else position.entry_price)})
    account.adopt(position)
    return MarginEngine(account, mode_named("cross"), book(), Market(TIME, {PAIR: price}, {PAIR: price}))


@given(positions(), st.floats(0.9, 1.1), st.floats(0.0, 2.0))
def test_at_the_trigger_the_ratio_is_one(position: MarginPosition, at: float, spare: float) -> None:
    size = abs(position.liability if not position.is_long else position.assets)
    engine = adopted(position, position.entry_price * at, spare * size)
    (row,) = engine.assess().positions
    if row.trigger_price is None or not 1e-6 < row.trigger_price / position.entry_price < 1e6:
        return
    for factor, safe in ((1.0, None), (1.0 + 1e-6, position.is_long), (1.0 - 1e-6, not position.is_long)):
        price = row.trigger_price * factor
        engine.market = Market(TIME, {PAIR: price}, {PAIR: price})
        ratio = engine.assess().positions[0].margin_ratio
        assert ratio is not None
        if safe is None:
            assert ratio == pytest.approx(1.0, abs=1e-9 + 1e-12 * max(1.0, spare * 1e3))
        else:
            assert (ratio > 1.0) == safe
    assert row.bankruptcy_price is None or (row.bankruptcy_price < row.trigger_price) == position.is_long


@given(positions(), st.lists(st.floats(0.3, 3.0), min_size=2, max_size=6))
def test_arrays_say_what_single_instants_say(position: MarginPosition, path: list[float]) -> None:
    engine = adopted(position, position.entry_price, 1.0)
    (pool,) = [p for p in account_pools(engine.account) if p.positions]
    prices = np.array(path) * position.entry_price
    together = judge(pool, Market(TIME, {PAIR: prices}), engine.rules)
    requirement = np.broadcast_to(together.requirement, prices.shape)
    for i, price in enumerate(prices):
        single = judge(pool, Market(TIME, {PAIR: float(price)}), engine.rules)
        assert together.equity[i] == pytest.approx(single.equity, rel=1e-12)
        assert requirement[i] == pytest.approx(single.requirement, rel=1e-12)


@given(positions(), st.floats(0.05, 20.0), st.floats(0.0, 1.0))
def test_an_isolated_loss_is_the_margin_and_no_more(position: MarginPosition, jump: float, cash: float) -> None:
    position = replace(position, margin_mode="isolated", margin=position.initial_at_entry())
    engine = adopted(position, position.entry_price, cash)
    before = engine.account.balance(position.currency)
    move(engine, position.entry_price * jump, jump=True)
    assert engine.account.balance(position.currency) >= before * (1 - 1e-12)
    scale = position.margin + position.assets + position.debt
    for gap in engine.account.conservation_gap().values():
        assert abs(gap) <= 1e-9 * max(1.0, scale * max(1.0, position.entry_price, 1 / position.entry_price))


def test_a_booking_in_the_wrong_currency_is_refused_and_changes_nothing() -> None:
    engine = engine_at()
    trade(engine, "buy", 1.0, 10_000.0)
    position, entries = held(engine), len(engine.account.ledger)
    for wrong in ({"assets": 1.0, "currency": "USDT"}, {"liability": 1.0, "currency": "BTC"},
                  {"margin": 1.0, "currency": "USDT"}):
        with pytest.raises(NotConserved):
            engine.account.apply(Entry(TIME, EntryKind.TRADE, key=position.key, **wrong))
    assert held(engine) == position
    assert len(engine.account.ledger) == entries


class AnyBorrowing(RuleBasedStateMachine):
    """Orders, prices and hours in any order: money is conserved per currency, nothing owed without a position."""

    @initialize(usdt=st.floats(100, 1e5), btc=st.floats(0.001, 5), price=st.floats(5_000, 50_000))
    def open(self, usdt: float, btc: float, price: float) -> None:
        self.engine = engine_at(price, usdt, btc, rules=load_rules("okx"), interest={"BTC": 5.0, "USDT": 5.0})

    @rule(combination=st.sampled_from(COMBINATIONS), share=st.floats(0.01, 12.0), leverage=st.sampled_from([2.0, 10.0]),
          reverse=st.booleans(), maker=st.booleans(), off=st.floats(0.97, 1.03))
    def trade(self, combination, share, leverage, reverse, maker, off) -> None:
        mode, side, currency = combination
        engine, price = self.engine, float(self.engine.market.last(PAIR))
        worth = engine.account.balance(currency) / (1.0 if currency == "BTC" else price)
        size = engine.rules.instrument(PAIR).floor(max(worth, 0.01) * share)
        engine.fill(order(engine, side, size, mode, currency, leverage=leverage, reverse=reverse), size,
                    round(price * off, 1), maker=maker)

    @rule(mode=st.sampled_from(["isolated", "cross"]), share=st.floats(0.05, 1.0))
    def close(self, mode: str, share: float) -> None:
        position = self.engine.account.positions.get(PositionKey(PAIR, mode, "net"))
        if position is not None:
            side = "sell" if position.sign > 0 else "buy"
            size = max(position.instrument.floor(abs(position.size) * share), position.instrument.lot)
            self.engine.fill(order(self.engine, side, size, mode), size, float(self.engine.market.last(PAIR)))

    @rule(by=st.floats(0.7, 1.4), hours=st.integers(0, 5), jump=st.booleans())
    def move(self, by: float, hours: int, jump: bool) -> None:
        move(self.engine, float(self.engine.market.last(PAIR)) * by, hours * HOUR, jump=jump)

    @precondition(lambda self: self.engine.account.positions)
    @rule(amount=st.floats(-1.0, 1.0))
    def margin(self, amount: float) -> None:
        for key, position in list(self.engine.account.positions.items()):
            if key.margin_mode == "isolated":
                self.engine.add_margin(key, amount * position.margin)

    @invariant()
    def money_is_conserved(self) -> None:
        account = self.engine.account
        for currency, gap in account.conservation_gap().items():
            moved = [abs(e.total) for e in account.ledger if e.currency == currency]
            assert abs(gap) <= 1e-12 * max(1.0, max(moved, default=1.0) * max(1, len(moved))), currency

    @invariant()
    def nothing_is_owed_without_a_position(self) -> None:
        account = self.engine.account
        backed = {p.currency for p in account.held("cross")}
        for currency, amount in account.balances.items():
            assert amount >= -1e-6 or currency in backed
        for position in account.positions.values():
            assert isinstance(position, MarginPosition)
            assert position.assets >= 0
            assert position.liability >= 0
            assert position.interest >= 0
            assert position.size * position.sign > 0
            assert all(math.isfinite(x) for x in (position.assets, position.liability, position.margin))


TestAnyBorrowing = AnyBorrowing.TestCase


@pytest.mark.parametrize(("direction", "currency", "grade"), [
    ("long", "BTC", "official"), ("long", "USDT", "derived"),
    ("short", "BTC", "derived"), ("short", "USDT", "official"),
])
def test_the_evidence_says_what_a_formula_rests_on(direction: str, currency: str, grade: str) -> None:
    from bt_margin import PositionBuilder

    assets = 1.0 if direction == "long" else 60_000.0
    row = {"symbol": "BTC/USDT", "margin_mode": "cross", "direction": direction, "margin_currency": currency,
           "assets": assets, "liability": 60_000.0 if direction == "long" else 1.0, "interest": 0.0,
           "entry_price": 60_000.0, "leverage": 3}
    book = {"time": "2025-10-08T00:00:00Z", "balances": {"BTC": 1.0, "USDT": 60_000.0}, "positions": [row],
            "prices": {"mark": {"BTC/USDT": 60_000.0}, "index": {"BTC/USDT": 60_000.0}},
            "rules": {"extrapolate": "nearest"}}
    report = PositionBuilder.from_dict(book).report("cross")
    found = {e.grade for e in report.evidence if e.table == "margin" and e.subject.startswith("formula.")}
    assert found == {grade}
