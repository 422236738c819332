"""Coin-margined contracts: the venue's replies, through the public objects, at their printed precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bt_margin.engine import orders as order_rules
from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import Refusal
from bt_margin.model.account import Order
from bt_margin.model.ledger import EntryKind
from bt_margin.model.market import Market
from bt_margin.modes.assess import assess
from tests.unit.test_golden import GOLDEN, TIME, engine_for, one, unified

VECTORS: dict[str, dict[str, Any]] = {v["id"]: v for v in json.loads((GOLDEN / "inverse.json").read_text())}


def close(found: Any, expected: Any, tol: float = 1e-9) -> bool:
    return bool(found == pytest.approx(expected, rel=max(tol, 1e-12)))


@pytest.mark.parametrize("name", ["ISO-INV-BTC-LONG-20241127", "DEMO-INV-ISO-1"])
def test_isolated_position(name: str) -> None:
    v = VECTORS[name]
    i, e, tol = v["inputs"], v["expected"], v["rel_tol"]
    engine = one(v, "isolated", i.get("markPx", i.get("mark")))
    row = engine.assess().positions[0]
    for key, found in (
        ("upl", row.unrealised_pnl), ("mmr", row.maintenance_margin), ("mgnRatio", row.margin_ratio),
        ("liqPx", row.liquidation_price), ("uplRatio", row.unrealised_pnl_ratio),
        ("liqPx_no_tick", row.trigger_price), ("initial_margin_at_open", row.initial_margin),
    ):
        assert key not in e or close(found, e[key], tol), key
    if "bePx" in e:  # opened for real: the fee is realised from the first trade on
        fresh = engine_for(v, "isolated", i["entry"], 1.0)
        instrument = fresh.rules.instrument("BTC/USD:BTC")
        fill = fresh.fill(Order(1, instrument, "buy", 50, None, "isolated", "net", 20.0), 50, i["entry"])
        assert not isinstance(fill, Refusal)
        assert close(-fill.opened_fee, e["fee"])
        assert close(fresh.assess().positions[0].break_even_price, e["bePx"])


def test_cross_position_of_a_capture() -> None:
    v = VECTORS["CROSS-INV-BTC-SHORT-20250425"]
    row = one(v, "cross", v["inputs"]["markPx"], 1.0, side="short").assess().positions[0]
    e = v["expected"]
    assert close((row.initial_margin, row.maintenance_margin, row.unrealised_pnl), (e["imr"], e["mmr"], e["upl"]), 1e-6)


@pytest.mark.parametrize("name", ["DEMO-INV-CROSS-1", "DEMO-TIER-PEND-1", "DEMO-RATIO-PEND-1"])
def test_cross_account_and_position(name: str) -> None:
    v = VECTORS[name]
    i, e, tol = v["inputs"], v["expected"], v["rel_tol"]
    account = e.get("account", e)
    more = {"entry": entry_of(i)}
    report = one(v, "cross", i["mark_account"], i["cash"], **more).assess()
    pool, coin = report.pool("BTC"), report.currencies[0]
    assert pool is not None
    for key, found in (
        ("eq", coin.equity), ("upl", coin.unrealised_pnl), ("imr", pool.initial_margin),
        ("mmr", pool.maintenance_margin), ("mgnRatio", pool.margin_ratio), ("availBal", coin.available_balance),
        ("frozenBal", coin.frozen), ("notionalLever", coin.leverage),
    ):
        assert key not in account or close(found, account[key], max(tol, 1e-8)), key
    if "position" in e:
        row = one(v, "cross", i["mark_position"], i["cash"], **more).assess().positions[0]
        for key, found in (
            ("upl", row.unrealised_pnl), ("imr", row.initial_margin), ("mmr", row.maintenance_margin),
            ("mgnRatio", row.margin_ratio), ("liqPx", row.liquidation_price),
        ):
            assert key not in e["position"] or close(found, e["position"][key], max(tol, 1e-8)), key


def entry_of(i: dict[str, Any], expected: dict[str, Any] | None = None) -> float:
    """The entry, where a record leaves it out solved from its unrealised profit: N (1/mark - 1/entry) short."""
    if "entry" in i:
        return float(i["entry"])
    upl = (expected or VECTORS["DEMO-RATIO-PEND-1"]["expected"])["upl"]
    mark = i["mark_account"]
    return 1.0 / (1.0 / mark - upl / (i["contracts"] * i["contract_size"]))


@pytest.mark.parametrize("name", ["DEMO-TIER-PEND-2", "DEMO-RATIO-PEND-2", "DEMO-RATIO-PEND-4"])
def test_resting_orders_count_in_ratio_tier_and_funds(name: str) -> None:
    v = VECTORS[name]
    i, e, tol = v["inputs"], v["expected"], v["rel_tol"]
    account = e.get("account", e)
    engine = one(v, "cross", i["mark_account"], i["cash"], entry=entry_of(i, account), position_side="short")
    (o,) = i["orders"]
    instrument = engine.rules.instrument(unified(i["symbol"]))
    order = Order(1, instrument, o["side"], o["contracts"], o["px"], "cross", o["pos_side"], i["leverage"])
    engine.account.place(order)
    report = engine.assess()
    pool, coin, row = report.pool("BTC"), report.currencies[0], report.orders[0]
    assert pool is not None
    for key, found in (
        ("eq", coin.equity), ("imr", pool.initial_margin), ("mmr", pool.maintenance_margin),
        ("mgnRatio", pool.margin_ratio), ("availBal", coin.available_balance), ("frozenBal", coin.frozen),
        ("ordFrozen", row.initial_margin), ("order_fee_frozen", row.fee),
    ):
        assert key not in account or close(found, account[key], max(tol, 1e-9)), key


def test_reduce_only_orders_leave_tier_and_margin_alone() -> None:
    v = VECTORS["DEMO-TIER-PEND-4"]
    i, e = v["inputs"], v["expected"]
    engine = one(v, "cross", i["mark_position"], 1.0, position_side="short")
    (o,) = i["orders"]
    instrument = engine.rules.instrument(unified(i["symbol"]))
    engine.account.place(
        Order(1, instrument, o["side"], o["contracts"], o["px"], "cross", "short", i["leverage"], o["reduce_only"]))
    report = engine.assess()
    pool, row = report.pool("BTC"), report.positions[0]
    assert pool is not None
    assert close(pool.maintenance_margin, e["account"]["mmr"], v["rel_tol"])
    assert close((row.maintenance_margin, row.initial_margin, row.unrealised_pnl),
                 (e["position"]["mmr"], e["position"]["imr"], e["position"]["upl"]))


def test_opening_isolated_takes_margin_and_fee_from_cash() -> None:
    v = VECTORS["DEMO-INV-ISO-3"]
    i, e = v["inputs"], v["expected"]
    engine = engine_for(v, "isolated", i["entry"], i["cash_before"])
    instrument = engine.rules.instrument("BTC/USD:BTC")
    fill = engine.fill(Order(1, instrument, "sell", 30, None, "isolated", "net", 10.0), 30, i["entry"])
    assert not isinstance(fill, Refusal)
    held = next(iter(engine.account.positions.values()))
    found = (engine.account.balance("BTC"), held.margin, -fill.opened_fee)
    assert close(found, (e["cash_after"], e["margin"], e["fee"]))


@pytest.mark.parametrize("name", ["DEMO-ORDER-FREEZE-1", "DEMO-ORDER-FREEZE-3"])
def test_what_an_order_freezes(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    mark = i["position"] * i["contract_size"] / i["imr_position"] / i["leverage"]
    full = {**i, "contracts": i["position"], "entry": mark}
    engine = one({"inputs": full}, "cross", mark, i["equity"], position_side="short")
    instrument = engine.rules.instrument("BTC/USD:BTC")
    size, price = i["open_order_contracts"], i["open_order_price"]
    engine.account.place(Order(1, instrument, "sell", size, price, "cross", "short", i["leverage"]))
    report = engine.assess()
    coin, order, pool = report.currencies[0], report.orders[0], report.pool("BTC")
    assert pool is not None
    assert close(
        (order.initial_margin, order.fee, coin.available_balance, pool.initial_margin, coin.frozen),
        tuple(e[k] for k in ("order_margin_frozen", "order_fee_frozen", "available", "imr_total", "frozen_total")),
    )


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("DEMO-MAX-SIZE-INVERSE")])
def test_max_size_by_funds(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    for side, expected in (("buy", e["max_buy"]), ("sell", e["max_sell"])):
        engine = engine_for(v, i["margin_mode"], i["mark"], i["available"])
        instrument = engine.rules.instrument("BTC/USD:BTC")
        order = Order(1, instrument, side, 1.0, i["order_price"], i["margin_mode"], "net", i["leverage"])
        found = order_rules.largest_affordable(engine.account, order, engine.market, engine.rules)
        assert found == pytest.approx(expected, rel=v["rel_tol"], abs=i["lot"])


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("DEMO-REDUCIBLE")])
def test_how_much_margin_may_leave(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    units = i["contracts"] * i["contract_size"]
    entry = units / i["leverage"] / i["opening_initial_margin"]
    mark = units / (units / entry - i["upl"])
    engine = one({"inputs": {**i, "entry": entry}}, "isolated", mark, 1.0)
    key = next(iter(engine.account.positions))
    assert close(engine.reducible_margin(key), e["reducible_by_formula"], 1e-9)
    refused = e["reduce_rejected_at"]
    for amount in refused if isinstance(refused, list) else [refused]:
        if amount > e["reducible_by_formula"]:  # the tight probe below the bound was refused too: the mark had drifted
            answer = engine.add_margin(key, -amount)
            assert isinstance(answer, Refusal)
            assert str(e["reject_code"]) in answer.reason
    if "reduce_accepted_at" in e:
        assert engine.add_margin(key, -e["reduce_accepted_at"]) is None
        assert close(engine.account.balance("BTC"), 1.0 + e["reduce_accepted_at"])
        assert close(engine.account.positions[key].margin, i["margin"] - e["reduce_accepted_at"])


@pytest.mark.parametrize("name", [*(n for n in VECTORS if n.startswith("DEMO-FUNDING-INVERSE")), "FUND-FEE-INVERSE"])
def test_funding(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    price, mode = i.get("settle_price", i.get("mark")), i.get("margin_mode", "cross")
    expected = e.get("funding", e.get("fee_coin"))
    cash = e.get("cash_after", 1.0) - e.get("cash_change", 0.0)
    full = {"symbol": "BTC-USD-SWAP", "contract_size": i.get("ctVal_usd"), **i, "entry": price, "leverage": 5}
    full = {k: x for k, x in full.items() if x is not None}
    engine = one({"inputs": full}, mode, price, cash, margin=0.05)
    at = TIME // 28_800_000 * 28_800_000 + 28_800_000
    symbol = unified(full["symbol"])
    engine.funding[symbol] = FundingSeries(np.array([at]), np.array([i["rate"]]))
    engine.advance(engine.market.at(at, engine.market.marks))
    (entry,) = [x for x in engine.account.ledger if x.kind is EntryKind.FUNDING]
    assert close(entry.total, expected, v["rel_tol"])
    if "cash_after" in e:
        assert close(engine.account.balance(symbol.partition(":")[2]), e["cash_after"])


def test_a_cross_liquidation_goes_down_one_tier() -> None:
    v = VECTORS["DEMO-LIQ-CROSS-1"]
    i, e = v["inputs"], v["expected"]
    engine = one(v, "cross", i["entry"], i["cash"], leverage=10, position_side="long")
    symbol = unified(i["symbol"])
    now = engine.market.at(TIME + 1, {symbol: i["fill"]}, {symbol: i["fill"]})
    pool = assess(engine.account, engine.mode, now, engine.rules).pool("ETH")
    assert pool is not None
    assert close(pool.margin_ratio, e["mgn_ratio_before"])
    engine.advance(now, jump=True)
    (left,) = engine.account.positions.values()
    assert left.size == e["remaining_contracts"]
    (event,) = [x for x in engine.events if x.name == "Reduced"]
    assert close(
        (-event.size, event.pnl, -event.penalty, -event.fee),  # type: ignore[attr-defined]
        (e["reduced_contracts"], e["pure_pnl"], e["liq_penalty"], e["fee"]), 1e-10,
    )
    assert close(engine.account.balance("ETH"), e["bill"]["bal"], 1e-10)
    after = engine.assess().pool("ETH")
    assert after is not None
    assert close(after.margin_ratio, e["mgn_ratio_after"])


def test_cross_liquidation_price_has_no_tick() -> None:
    v = VECTORS["DEMO-LIQ-CROSS-3"]
    i, e = v["inputs"], v["expected"]
    row = one(v, "cross", i["entry"], i["cash"], leverage=10).assess().positions[0]
    assert close(row.liquidation_price, e["computed_liq_px"])
    assert row.liquidation_price == pytest.approx(e["first_fill"], rel=v["rel_tol"])


def test_delivery_profit() -> None:
    v = VECTORS["DELIVERY-INV-BTC-1204"]
    i, e = v["inputs"], v["expected"]
    instrument = engine_for({"inputs": {**i, "symbol": "BTC-USD-SWAP"}}, "cross", 15_000.0, 1.0).rules.instrument(
        "BTC/USD:BTC")
    pnl = instrument.pnl(i["contracts"], i["avgPx"], i["deliveryPx"])
    assert close(pnl, e["pnl_btc"])
    assert f"{pnl:.4f}" == str(e["printed"])


def test_every_vector_is_checked_here() -> None:
    text = Path(__file__).read_text()
    starts = ("DEMO-MAX-SIZE-INVERSE", "DEMO-REDUCIBLE", "DEMO-FUNDING-INVERSE", "DEMO-CLOSE-FRACTION")
    assert [name for name in VECTORS if name not in text and not name.startswith(starts)] == []


def test_a_close_order_that_names_no_size_takes_the_position_of_its_moment() -> None:
    """The venue's close-all flag is sized at the trigger; here: a closing order is cut to what is held at its fill."""
    flag, v = VECTORS["DEMO-CLOSE-FRACTION-1"], VECTORS["DEMO-CLOSE-FRACTION-2"]
    assert flag["expected"]["accepted"] == [False, False, False, True]  # a share other than 1 does not exist
    i, e = v["inputs"], v["expected"]
    held = {"symbol": i["symbol"], "contract_size": 100, "contracts": i["position_when_triggered"], "entry": 78_000.0,
            "leverage": 10, "margin": 0.05}
    engine = one({"inputs": held}, "isolated", i["trigger"], 1.0)
    instrument = engine.rules.instrument(unified(i["symbol"]))
    order = Order(1, instrument, "sell", 1e6, None, "isolated", "net", 10.0, reduce_only=True)
    fill = engine.fill(order, 1e6, e["avg_fill"])
    assert not isinstance(fill, Refusal)
    assert -fill.closed == e["filled_contracts"]
    assert not engine.account.positions


def test_a_jump_to_a_lower_price_leaves_a_coin_account_at_exactly_zero() -> None:
    held = {"symbol": "BTC-USD-SWAP", "contract_size": 100, "contracts": 6_000, "entry": 60_000.0, "leverage": 10}
    engine = one({"inputs": held}, "cross", 60_000.0, 1.0)
    engine.advance(Market(TIME + 1, {"BTC/USD:BTC": 40_000.0}, {"BTC/USD:BTC": 40_000.0}), jump=True)
    assert not engine.account.positions
    assert engine.account.balance("BTC") == 0.0
