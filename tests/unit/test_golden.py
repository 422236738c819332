"""Numbers an exchange printed, through the public objects, at their printed precision.

The figures stand in tests/golden with source, origin and grade; every id there has a check here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bt_margin.engine import orders as order_rules
from bt_margin.engine.accrual import FundingSeries, interest_rate, settlement_rate
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.instrument import Instrument, Kind
from bt_margin.model.ledger import EntryKind, PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import assess
from bt_margin.rules.book import RuleBook, load_rules

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VECTORS: dict[str, dict[str, Any]] = {
    v["id"]: v
    for name in ("isolated_and_futures", "recorded_demo")
    for v in json.loads((GOLDEN / f"{name}.json").read_text())
}
TIME = 1_788_000_000_000  # late August 2026: the months the demo engine was recorded in


def unified(inst_id: str) -> str:
    """ETH-USDT-SWAP as ETH/USDT:USDT, BTC-USD-SWAP as BTC/USD:BTC. A dated future is tested as the swap of its coin:
    same formulas."""
    base, quote = inst_id.split("-")[:2]
    return f"{base}/{quote}:{base if quote == 'USD' else quote}"


def book_for(i: dict[str, Any], symbol: str) -> RuleBook:
    """The rules of one vector: its contract, its tiers, its fee."""
    rate = i.get("tier_mmr", i.get("mmr_rate"))
    leverage = float(i.get("leverage", i.get("lever", 10)))
    if "tiers" in i:
        tiers = [
            [t.get("max", 1e12), t["mmr"], t.get("imr", t["mmr"] * 2), t.get("max_lever", 125)] for t in i["tiers"]
        ]
    elif "tiers_maxlever_maxsz" in i:
        tiers = [[size, 0.005 * (n + 1), 1 / lever, lever] for n, (lever, size) in enumerate(i["tiers_maxlever_maxsz"])]
    else:
        tiers = [[1e12, rate or 0.004, max(1 / max(leverage, 1.0), 2 * (rate or 0.004)), 125]]
    taker = i.get("taker_fee", i.get("taker_fee_rate", 0.0005))
    return load_rules("okx").overlay(
        instruments={
            symbol: {
                "contract_size": i.get("contract_size", i.get("ctVal", i.get("ctVal_usd", 1))),
                "tick": i.get("tick", i.get("tickSz", 0.0001)),
                "lot": i.get("lot", 0.01),
                "tiers": tiers,
            }
        },
        fees={"swap": {"taker": taker, "maker": i.get("maker_fee", 0.0002)}},
    )


def position(i: dict[str, Any], instrument: Instrument, margin_mode: str, **over: Any) -> Position:
    row = {**i, **over}
    side = row.get("side", "long")
    size = row["contracts"] * (1 if side == "long" else -1)
    margin = row.get("margin", 0.0) if margin_mode == "isolated" else 0.0
    return Position(
        instrument,
        margin_mode,
        row.get("position_side", "net"),
        size,
        row.get("entry", row.get("avgPx")),
        float(row.get("leverage", row.get("lever", 1))),
        margin,
    )


def engine_for(
    v: dict[str, Any],
    mode: str,
    mark: float,
    cash: float,
    held: list[Position] | None = None,
    book: RuleBook | None = None,
    last: float | None = None,
) -> MarginEngine:
    i = v["inputs"]
    symbol = unified(i.get("symbol", i.get("instId", "BTC-USDT-SWAP")))
    book = book or book_for(i, symbol)
    hedge = any(p.side != "net" for p in held or [])
    account = Account({symbol.partition(":")[2]: cash}, "hedge" if hedge else "net")
    for p in held or []:
        account.adopt(p)
    market = Market(TIME, {symbol: mark}, {symbol: last or mark})
    return MarginEngine(account, mode_named(mode), book, market)


def one(v: dict[str, Any], mode: str, mark: float, cash: float = 0.0, **over: Any) -> MarginEngine:
    i = v["inputs"]
    symbol = unified(i.get("symbol", i.get("instId", "BTC-USDT-SWAP")))
    book = book_for(i, symbol)
    instrument = book.as_of(TIME).instrument(symbol)
    return engine_for(v, mode, mark, cash, [position(i, instrument, mode, **over)], book)


def ids(*starts: str) -> list[str]:
    return [name for name in VECTORS if name.startswith(starts)]


@pytest.mark.parametrize("name", ids("ISO-LIN", "DEMO-ISO-MET"))
def test_isolated_position(name: str) -> None:
    v = VECTORS[name]
    i, e, tol = v["inputs"], v["expected"], v["rel_tol"]
    row = one(v, "isolated", i.get("markPx", i.get("mark"))).assess().positions[0]
    for key, found in (
        ("upl", row.unrealised_pnl),
        ("mmr", row.maintenance_margin),
        ("mgnRatio", row.margin_ratio),
        ("liqPx", row.liquidation_price),
        ("uplRatio", row.unrealised_pnl_ratio),
        ("liqPx_no_tick", row.trigger_price),
        ("initial_margin_at_open", row.initial_margin),
        ("bePx", None),
    ):
        if key in e and found is not None:
            assert found == pytest.approx(e[key], rel=max(tol, 1e-9)), key
    if "bePx" in e:  # the opening fee is in the realised profit from the first trade on
        engine = one(v, "isolated", i["mark"])
        key = next(iter(engine.account.positions))
        position_ = engine.account.positions[key]
        engine.account.positions[key] = Position(
            position_.instrument,
            position_.margin_mode,
            position_.side,
            position_.size,
            position_.entry_price,
            position_.leverage,
            position_.margin,
            e["fee"],
        )
        assert engine.assess().positions[0].break_even_price == pytest.approx(e["bePx"], rel=1e-9)


def test_cross_position_of_a_capture() -> None:
    v = VECTORS["CROSS-LIN-ETH-LONG-20250829"]
    row = one(v, "cross", v["inputs"]["markPx"], 1000.0).assess().positions[0]
    e = v["expected"]
    assert (row.initial_margin, row.maintenance_margin, row.unrealised_pnl, row.unrealised_pnl_ratio) == pytest.approx(
        (e["imr"], e["mmr"], e["upl"], e["uplRatio"]), rel=1e-9
    )


@pytest.mark.parametrize("name", ["DEMO-CROSS-LIQPX-1", "DEMO-MARK-WICK-2"])
def test_cross_position_with_its_account(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    row = one(v, "cross", i["mark"], i["cash"], realised=0).assess().positions[0]
    for key, found in (
        ("liqPx", row.liquidation_price),
        ("liq_price", row.liquidation_price),
        ("upl", row.unrealised_pnl),
        ("imr", row.initial_margin),
        ("mmr", row.maintenance_margin),
        ("mm_amount", row.maintenance_margin),
        ("mgnRatio", row.margin_ratio),
        ("margin_ratio", row.margin_ratio),
        ("upl_ratio", row.unrealised_pnl_ratio),
    ):
        if key in e:
            assert found == pytest.approx(e[key], rel=v["rel_tol"]), key


def test_other_coins_back_nothing() -> None:
    v = VECTORS["DEMO-CROSS-LIQPX-1"]
    i = v["inputs"]
    engine = one(v, "cross", i["mark"], i["cash"])
    for other in i["other_cash"]:
        engine.account.balances[other["ccy"]] = other["eq"]
    symbol = unified(i["symbol"])
    usd = {f"{o['ccy']}/USD": o["eq_usd"] / o["eq"] for o in i["other_cash"]}
    engine.market = Market(TIME, {symbol: i["mark"]}, {symbol: i["mark"]}, usd)
    report = engine.assess()
    assert report.positions[0].margin_ratio == pytest.approx(v["expected"]["mgnRatio"], rel=1e-9)
    assert report.account.idle_usd == pytest.approx(sum(o["eq_usd"] for o in i["other_cash"]), rel=1e-9)


def test_isolated_equity_is_outside_the_cross_ratio() -> None:
    v = VECTORS["DEMO-CROSS-MET-1"]
    i, e = v["inputs"], v["expected"]["account"]
    engine = one(v, "cross", i["mark_account"], i["cash"])
    # the isolated leg as recorded: its equity and unrealised profit, on another contract
    other = Instrument("BTC/USDT:USDT", Kind.LINEAR_SWAP, "BTC", "USDT", "USDT", 0.01, 0.1, 0.01)
    size, mark = 1.0, 50_000.0
    entry = mark - i["isolated_upl"] / (size * other.contract_size)
    engine.account.adopt(Position(other, "isolated", "net", size, entry, 5.0, i["isolated_equity"] - i["isolated_upl"]))
    marks = {**engine.market.marks, other.symbol: mark}
    engine.market = engine.market.at(TIME, marks, marks)
    report = engine.assess()
    usdt, pool = report.currencies[0], report.pool("USDT")
    assert pool is not None
    found = (
        usdt.equity,
        usdt.unrealised_pnl,
        pool.initial_margin,
        pool.maintenance_margin,
        pool.margin_ratio,
        usdt.available_balance,
        usdt.frozen,
        usdt.leverage,
    )
    keys = ("eq", "upl", "imr", "mmr", "mgnRatio", "availBal", "frozenBal", "notionalLever")
    assert found == pytest.approx(tuple(e[k] for k in keys), rel=1e-10)
    held = one(v, "cross", i["mark_position"], i["cash"]).assess().positions[0]
    p = v["expected"]["position"]
    assert (
        held.unrealised_pnl,
        held.initial_margin,
        held.maintenance_margin,
        held.unrealised_pnl_ratio,
    ) == pytest.approx((p["upl"], p["imr"], p["mmr"], p["uplRatio"]), rel=1e-9)
    assert held.liquidation_price is None  # a long that is covered by cash alone


def hedged(v: dict[str, Any], mark: float) -> MarginEngine:
    i = v["inputs"]
    symbol = unified(i["symbol"])
    book = book_for(i, symbol)
    instrument = book.as_of(TIME).instrument(symbol)
    held = [position(i, instrument, "cross", **p, position_side=p["side"]) for p in i["positions"]]
    return engine_for(v, "cross", mark, i["cash"], held, book)


def test_a_hedged_pair_nets_nothing() -> None:
    v = VECTORS["DEMO-CROSS-MET-2"]
    i, e = v["inputs"], v["expected"]
    pool = hedged(v, i["mark_account"]).assess().pool("USDT")
    a = e["account"]
    assert pool is not None
    assert (pool.initial_margin, pool.maintenance_margin, pool.margin_ratio, pool.available) == pytest.approx(
        (a["imr"], a["mmr"], a["mgnRatio"], a["availBal"]), rel=1e-9
    )
    assert pool.equity + i["isolated_equity"] == pytest.approx(a["eq"], rel=1e-9)
    rows = {row.position_side: row for row in hedged(v, i["mark_position"]).assess().positions}
    for p in e["positions"]:
        row = rows[p["side"]]
        assert (row.initial_margin, row.maintenance_margin, row.margin_ratio, row.liquidation_price) == pytest.approx(
            (p["imr"], p["mmr"], p["mgnRatio"], p["liqPx"]), rel=1e-9
        )


def test_a_resting_order_counts_in_ratio_and_tier() -> None:
    v = VECTORS["DEMO-CROSS-MET-3"]
    i, a = v["inputs"], v["expected"]["account"]
    engine = hedged(v, i["mark_account"])
    (o,) = i["orders"]
    instrument = next(iter(engine.account.positions.values())).instrument
    engine.account.place(
        Order(1, instrument, o["side"], o["contracts"], o["px"], "cross", o["pos_side"], i["leverage"])
    )
    report = engine.assess()
    pool, usdt = report.pool("USDT"), report.currencies[0]
    assert pool is not None
    assert (pool.initial_margin, pool.maintenance_margin, pool.margin_ratio, usdt.available_balance) == pytest.approx(
        (a["imr"], a["mmr"], a["mgnRatio"], a["availBal"]), rel=1e-9
    )
    row = report.orders[0]
    assert (row.initial_margin, row.fee) == pytest.approx((a["ordFrozen"], a["order_fee_frozen"]), rel=1e-9)
    assert usdt.frozen + i["isolated_equity"] == pytest.approx(a["frozenBal"], rel=1e-9)
    assert report.positions[0].liquidation_price == pytest.approx(v["expected"]["positions_liqPx"], rel=1e-9)


def test_opening_isolated_takes_margin_and_fee_from_cash() -> None:
    v = VECTORS["DEMO-CASHFLOW-OPEN"]
    i, e = v["inputs"], v["expected"]
    engine = engine_for(v, "isolated", i["mark"], i["cash_before"])
    instrument = engine.rules.instrument(unified(i["symbol"]))
    order = Order(1, instrument, "buy", i["contracts"], i["entry"], "isolated", "net", i["leverage"])
    fill = engine.fill(order, i["contracts"], i["entry"])
    assert not isinstance(fill, Refusal)
    row = engine.assess().positions[0]
    assert -fill.opened_fee == pytest.approx(e["fee"], rel=1e-9)
    found = (
        row.margin,
        engine.account.balance("USDT"),
        row.unrealised_pnl,
        row.maintenance_margin,
        row.margin_ratio,
        row.break_even_price,
        row.unrealised_pnl_ratio,
        row.liquidation_price,
    )
    keys = ("margin", "cash_after", "upl", "mm_amount", "margin_ratio", "breakeven", "upl_ratio", "liq_price")
    assert found == pytest.approx(tuple(e[k] for k in keys), rel=1e-9)


@pytest.mark.parametrize("name", ["DEMO-CASHFLOW-CLOSE", "DEMO-CLOSE-LONG-1"])
def test_closing_isolated_returns_margin_and_profit(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    size = i.get("contracts_closed", i.get("contracts"))
    cash, margin = i.get("cash_before", i.get("cash")), i.get("margin_before", i.get("margin"))
    engine = one(v, "isolated", i["fill"], cash, contracts=size, margin=margin)
    instrument = engine.rules.instrument(unified(i["symbol"]))
    fill = engine.fill(Order(1, instrument, "sell", size, None, "isolated", "net", i["leverage"]), size, i["fill"])
    assert not isinstance(fill, Refusal)
    assert (fill.pnl, -fill.closed_fee, engine.account.balance("USDT")) == pytest.approx(
        (e["pnl"], e["fee"], e["cash_after"]), rel=1e-9
    )
    assert not engine.account.positions


def test_fee_and_profit_are_worked_out_fill_by_fill() -> None:
    v = VECTORS["DEMO-CLOSE-LONG-3"]
    i, e = v["inputs"], v["expected"]
    total = sum(q for q, _ in i["fills"])
    engine = one(v, "isolated", i["fills"][0][1], 10.0, contracts=total, margin=1700.0, leverage=5)
    instrument = engine.rules.instrument(unified(i["symbol"]))
    order = Order(1, instrument, "sell", total, 1.0, "isolated", "net", 5.0)
    engine.account.place(order)
    fills = [engine.fill(order, q, px) for q, px in i["fills"]]
    assert [-f.closed_fee for f in fills if not isinstance(f, Refusal)] == pytest.approx(e["fees"], rel=1e-9)
    assert [f.pnl for f in fills if not isinstance(f, Refusal)] == pytest.approx(e["pnls"], rel=1e-9)


def test_one_way_reversal_is_one_fill() -> None:
    v = VECTORS["DEMO-NET-REVERSAL-1"]
    i, e = v["inputs"], v["expected"]
    engine = one(
        v,
        "isolated",
        i["fill"],
        1000.0,
        contracts=i["position_before"],
        entry=i["entry_before"],
        margin=i["margin_before"],
    )
    instrument = engine.rules.instrument(unified(i["symbol"]))
    size = i["order_contracts"]
    fill = engine.fill(
        Order(1, instrument, i["order_side"], size, None, "isolated", "net", i["leverage"]), size, i["fill"]
    )
    assert not isinstance(fill, Refusal)
    after = next(iter(engine.account.positions.values()))
    assert (
        after.size,
        after.entry_price,
        after.margin,
        fill.pnl,
        -(fill.closed_fee + fill.opened_fee),
    ) == pytest.approx((e["position_after"], e["entry_after"], e["margin_after"], e["pnl"], e["fee"]), rel=1e-9)
    assert engine.account.balance("USDT") - 1000.0 == pytest.approx(e["cash_change"], rel=1e-9)


@pytest.mark.parametrize("name", ids("DEMO-LEVERAGE-CHANGE"))
def test_leverage_change(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    if v["kind"].endswith("cross"):
        for leverage, mark, imr in zip(i["leverages"], i["marks_implied"], e["imr"], strict=True):
            engine = one(v, "cross", mark, i["cash"], leverage=5, entry=102.0)
            assert engine.set_leverage(next(iter(engine.account.positions)), leverage) is None
            assert engine.assess().positions[0].initial_margin == pytest.approx(imr, rel=1e-9)
            assert engine.account.balance("USDT") == e["cash_after"]
        return
    engine = one(v, "isolated", i["mark"], i["cash"], leverage=i["leverage_from"])
    key = next(iter(engine.account.positions))
    assert engine.set_leverage(key, i["leverage_to"]) is None
    row = engine.assess().positions[0]
    assert (row.margin, engine.account.balance("USDT"), row.liquidation_price) == pytest.approx(
        (e["margin_after"], e["cash_after"], e["liq_price_after"]), rel=1e-9
    )


def test_size_limit_by_leverage() -> None:
    v = VECTORS["DEMO-LEVERAGE-LIMIT-1"]
    tiers = book_for(v["inputs"], "MASK/USDT:USDT").as_of(TIME).tiers("MASK/USDT:USDT")
    assert [tiers.max_size(x) for x in v["inputs"]["leverages"]] == v["expected"]["max_position"]


@pytest.mark.parametrize("name", ["DEMO-LEVERAGE-LIMIT-2", "DEMO-LEVERAGE-LIMIT-3"])
def test_orders_stop_at_the_size_limit(name: str) -> None:
    v = VECTORS[name]
    i = {**v["inputs"], **VECTORS["DEMO-LEVERAGE-LIMIT-1"]["inputs"]}
    book = book_for(i, "MASK/USDT:USDT")
    instrument = book.as_of(TIME).instrument("MASK/USDT:USDT")
    held = position({"contracts": i["position"], "entry": 1.0, "leverage": 50, "margin": 100.0}, instrument, "isolated")
    engine = engine_for(v, "isolated", 1.0, 1e6, [held], book)
    if i["open_orders_same_side"]:
        engine.account.place(Order(1, instrument, "buy", i["open_orders_same_side"], 1.0, "isolated", "net", 50.0))
    answers = [engine.check(Order(9, instrument, "buy", size, 1.0, "isolated", "net", 50.0)) for size in i["orders"]]
    assert [not isinstance(a, Refusal) for a in answers] == v["expected"]["accepted"]
    assert all("51004" in a.reason for a in answers if isinstance(a, Refusal))


def test_leverage_refusals() -> None:
    i = VECTORS["DEMO-LEVERAGE-LIMIT-1"]["inputs"]
    book = book_for(i, "MASK/USDT:USDT")
    instrument = book.as_of(TIME).instrument("MASK/USDT:USDT")
    held = position({"contracts": 2000, "entry": 1.0, "leverage": 40, "margin": 100.0}, instrument, "isolated")
    engine = engine_for(VECTORS["DEMO-LEVERAGE-LIMIT-4"], "isolated", 1.0, 1e6, [held], book)
    answers = [engine.set_leverage(held.key, 51), engine.set_leverage(held.key, 50)]
    codes = VECTORS["DEMO-LEVERAGE-LIMIT-4"]["expected"]["reject_codes"]
    assert [str(code) in a.reason for code, a in zip(codes, answers, strict=True) if a] == [True, True]
    assert engine.account.positions[held.key].size == 2000  # never cut


def test_max_size_is_the_smaller_of_funds_and_limit() -> None:
    i = VECTORS["DEMO-LEVERAGE-LIMIT-1"]["inputs"]
    book = book_for({**i, "lot": 1}, "MASK/USDT:USDT")
    instrument = book.as_of(TIME).instrument("MASK/USDT:USDT")
    v = VECTORS["DEMO-LEVERAGE-LIMIT-5"]
    cash = v["inputs"]["max_by_funds_approx"] * (1 / 25 + 0.0005)
    engine = engine_for(v, "isolated", 1.0, cash, [], book)
    order = Order(1, instrument, "buy", 1.0, 1.0, "isolated", "net", 25.0)
    found = order_rules.largest_affordable(engine.account, order, engine.market, engine.rules)
    assert found == v["expected"]["max_size"]


@pytest.mark.parametrize("name", ids("DEMO-MAX-SIZE"))
def test_max_size_by_funds(name: str) -> None:
    """The reply lies between the results at the mark read before it and at the mark drifted until the next read."""
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    for side, expected in (("buy", e["max_buy"]), ("sell", e["max_sell"])):
        found = []
        for mark in (i["mark"], i["mark"] - i["mark_drift_between_calls"]):
            engine = engine_for(v, i["margin_mode"], mark, i["available"])
            instrument = engine.rules.instrument(unified(i["symbol"]))
            order = Order(1, instrument, side, 1.0, i["order_price"], i["margin_mode"], "net", i["leverage"])
            found.append(order_rules.largest_affordable(engine.account, order, engine.market, engine.rules))
        slack = v["rel_tol"] * expected
        assert min(found) - slack - 0.01 <= expected <= max(found) + slack + 0.01


@pytest.mark.parametrize("name", ids("DEMO-FUNDING-ISO", "DEMO-FUNDING-CROSS"))
def test_funding(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    mode = i["margin_mode"]
    cash = i.get("cash_before", i.get("cash_before_case_2", 1000.0))
    engine = one(
        v, mode, i["settle_price"], cash, entry=i["settle_price"], leverage=5, margin=i.get("margin_before", 0)
    )
    symbol = unified(i["symbol"])
    at = TIME // 28_800_000 * 28_800_000 + 28_800_000
    engine.funding[symbol] = FundingSeries(np.array([at]), np.array([i["rate"]]))
    engine.advance(engine.market.at(at, engine.market.marks))
    (entry,) = [x for x in engine.account.ledger if x.kind is EntryKind.FUNDING]
    assert entry.total == pytest.approx(e["funding"], rel=v["rel_tol"])
    if mode == "isolated":
        (held,) = engine.account.positions.values()
        assert held.margin == pytest.approx(e["margin_after"], rel=1e-10)
        assert engine.account.balance("USDT") == e["cash_after"]
    else:
        assert engine.account.balance("USDT") == pytest.approx(cash + e["funding"], rel=1e-12)


def test_only_the_mark_liquidates() -> None:
    v = VECTORS["DEMO-MARK-WICK-1"]
    i = {**VECTORS["DEMO-MARK-WICK-2"]["inputs"], **v["inputs"]}
    engine = one({"inputs": i}, "cross", i["mark"], i["cash"])
    symbol = unified(i["symbol"])
    assert engine.assess().positions[0].liquidation_price == pytest.approx(i["liq_price"], rel=1e-9)
    engine.advance(Market(TIME + 1, {symbol: i["mark_high"]}, {symbol: i["last_high"]}))
    assert engine.account.positions
    engine.advance(Market(TIME + 2, {symbol: i["last_high"]}, {symbol: i["last_high"]}))
    assert not engine.account.positions


def test_a_liquidation_closes_whole_and_is_refunded_to_zero() -> None:
    v = VECTORS["DEMO-LIQ-FULL-ISO-1"]
    i, e = v["inputs"], v["expected"]
    engine = engine_for(v, "isolated", i["entry"], i["cash"] + i["margin"] + 0.05857425)
    symbol = unified(i["symbol"])
    instrument = engine.rules.instrument(symbol)
    order = Order(1, instrument, "sell", i["contracts"], i["entry"], "isolated", "net", i["leverage"])
    fill = engine.fill(order, i["contracts"], i["entry"])
    assert not isinstance(fill, Refusal)
    assert -fill.opened_fee == pytest.approx(e["open_fee"], rel=1e-9)
    row = engine.assess().positions[0]
    assert (row.margin, row.liquidation_price) == pytest.approx((e["margin_open"], e["liq_px_before"]), rel=1e-7)
    cash = engine.account.balance("USDT")
    engine.advance(Market(TIME + 1, {symbol: i["fill"]}, {symbol: i["fill"]}), jump=True)
    forced = [x for x in engine.account.ledger if x.note == "forced"]
    by_kind = {x.kind: x for x in forced}
    assert by_kind[EntryKind.TRADE].margin == pytest.approx(e["pnl"], rel=1e-9)
    assert by_kind[EntryKind.FEE].margin == pytest.approx(e["fee"], rel=1e-9)
    assert by_kind[EntryKind.PENALTY].margin == pytest.approx(e["liq_penalty"], rel=1e-9)
    (refund,) = [x for x in engine.account.ledger if x.kind is EntryKind.CLAWBACK]
    assert refund.margin == pytest.approx(e["bill_refund"]["pos_bal_chg"], rel=1e-9)
    assert engine.account.balance("USDT") == cash  # cash never moves
    assert not engine.account.positions
    realised = fill.opened_fee * -1 + sum(x.margin for x in forced)
    assert realised == pytest.approx(e["history"]["realized_pnl"], rel=1e-9)


def test_two_tier_position_is_stepped_down_then_closed_on_a_new_breach() -> None:
    zero, first, whole = (VECTORS[f"DEMO-LIQ-TIER-ISO-{n}"] for n in (0, 1, 3))
    i, e = first["inputs"], first["expected"]
    engine = one(first, "isolated", i["entry"], i["cash"])
    symbol = unified(i["symbol"])
    row = engine.assess().positions[0]
    assert row.liquidation_price == pytest.approx(zero["expected"]["liqPx"], rel=1e-12)
    assert row.margin == pytest.approx(zero["expected"]["margin"], rel=1e-12)
    before = engine.market.at(TIME + 1, {symbol: i["fill"]}, {symbol: i["fill"]})
    judged = assess(engine.account, engine.mode, before, engine.rules)
    assert judged.positions[0].margin_ratio == pytest.approx(e["mgn_ratio_before"], rel=1e-9)
    engine.advance(before, jump=True)
    (left,) = engine.account.positions.values()
    assert (-left.size, left.margin) == pytest.approx((e["remaining_contracts"], e["margin_after"]), rel=1e-9)
    assert engine.assess().positions[0].margin_ratio == pytest.approx(e["mgn_ratio_after"], rel=1e-9)
    engine.advance(engine.market.at(TIME + 2, {symbol: 0.6877}, {symbol: 0.6877}), jump=True)
    assert not engine.account.positions
    w = whole["expected"]
    forced = [x for x in engine.account.ledger if x.note == "forced"]

    def total(kind: EntryKind) -> float:
        return sum(x.margin for x in forced if x.kind is kind)

    open_fee = -i["contracts"] * i["contract_size"] * i["entry"] * i["taker_fee"]
    assert (total(EntryKind.TRADE), total(EntryKind.FEE) + open_fee, total(EntryKind.PENALTY)) == pytest.approx(
        (w["pnl"], w["fee"], w["liq_penalty"]), rel=1e-9
    )
    (refund,) = [x for x in engine.account.ledger if x.kind is EntryKind.CLAWBACK]
    assert refund.margin == pytest.approx(w["refund"], rel=1e-9)
    assert engine.account.balance("USDT") == i["cash"]


def test_a_close_larger_than_the_position_is_cut() -> None:
    v = VECTORS["DEMO-OVER-CLOSE-CLIP-1"]
    i = v["inputs"]
    full = {**i, "contract_size": 0.01, "entry": 78000.0, "leverage": 10, "contracts": i["position"], "margin": 12.0}
    engine = one({"inputs": full}, "isolated", 78000.0, 100.0, position_side="short")
    instrument = engine.rules.instrument(unified(i["symbol"]))
    order = Order(1, instrument, "buy", i["close_order"], None, "isolated", "short", 10.0)
    taken = engine.accept(order)
    assert not isinstance(taken, Refusal)
    assert taken.size == v["expected"]["order_size_recorded"]
    engine.fill(taken, taken.size, 78000.0)
    assert not engine.account.positions


def test_off_tick_prices_go_to_the_less_aggressive_side() -> None:
    v = VECTORS["DEMO-PRICE-ROUND-1"]
    instrument = Instrument("YFI/USDT:USDT", Kind.LINEAR_SWAP, "YFI", "USDT", "USDT", 0.0001, v["inputs"]["tick"], 1)
    for side in ("buy", "sell"):
        booked = [instrument.round_price(p, side) for p in v["inputs"][f"{side}_prices"]]
        assert booked == v["expected"][f"{side}_booked"]


def test_what_orders_freeze() -> None:
    """Opening: margin + taker fee; closing: nothing; reversing: the opening part only (DEMO-ORDER-FREEZE-RULES)."""
    assert VECTORS["DEMO-ORDER-FREEZE-RULES"]["expected"]["frozen"][1] == "nothing"
    base = {
        "symbol": "BTC-USDT-SWAP",
        "contract_size": 0.01,
        "contracts": 4,
        "side": "long",
        "entry": 50_000.0,
        "leverage": 10,
    }
    frozen = {}
    for name, side, size, reduce in (
        ("open", "buy", 6, False),
        ("close", "sell", 4, True),
        ("through", "sell", 10, False),
    ):
        engine = one({"inputs": base}, "cross", 50_000.0, 10_000.0)
        free = engine.available("USDT")
        instrument = engine.rules.instrument("BTC/USDT:USDT")
        engine.account.place(Order(1, instrument, side, size, 50_000.0, "cross", "net", 10.0, reduce))
        frozen[name] = free - engine.available("USDT")
    six = 6 * 0.01 * 50_000
    assert frozen["open"] == pytest.approx(six / 10 + six * 0.0005)
    assert frozen["close"] == pytest.approx(0.0)
    # larger-side rule: S - P = 3000 against P = 2000: 100 more margin, and the fee of the opening part
    assert frozen["through"] == pytest.approx((six - 2_000) / 10 + six * 0.0005)


# -- derived and official figures of the rule book -------------------------------------------------------------------


@pytest.mark.parametrize("name", ids("FUND-RATE-NEW"))
def test_funding_rate_formula(name: str) -> None:
    i = VECTORS[name]["inputs"]
    found = settlement_rate(i["avg_premium_index"], i["settlement_interval_hours"], i["cap"], i["floor"])
    assert found == pytest.approx(VECTORS[name]["expected"]["funding_rate"], rel=1e-12)


def test_funding_interest() -> None:
    assert interest_rate(8) == pytest.approx(VECTORS["FUND-INTEREST-8H"]["expected"]["interest_rate"], rel=1e-9)


def test_funding_fee_is_value_at_the_mark_times_rate() -> None:
    v = VECTORS["FUND-FEE-LINEAR"]
    i = v["inputs"]
    engine = one(
        {"inputs": {**i, "entry": i["mark"], "symbol": "ETH-USDT-SWAP"}}, "cross", i["mark"], 1000.0, leverage=5
    )
    at = TIME // 28_800_000 * 28_800_000 + 28_800_000
    engine.funding["ETH/USDT:USDT"] = FundingSeries(np.array([at]), np.array([i["rate"]]))
    engine.advance(engine.market.at(at, engine.market.marks))
    assert engine.account.balance("USDT") - 1000.0 == pytest.approx(v["expected"]["fee_quote"], rel=1e-9)


def test_an_order_needs_its_value_over_leverage() -> None:
    v = VECTORS["ORDER-CHECK-BTC-200x5"]
    i = v["inputs"]
    engine = engine_for({"inputs": {"contract_size": 1, "taker_fee": 0.0}}, "cross", 1.0, i["free_margin"])
    instrument = engine.rules.instrument("BTC/USDT:USDT")
    order = Order(1, instrument, "buy", i["order_value"], 1.0, "cross", "net", i["lever"])
    assert not isinstance(engine.check(order), Refusal)
    engine.account.place(order)
    assert i["free_margin"] - engine.available("USDT") == pytest.approx(v["expected"]["required"], rel=1e-9)


def test_balance_fields_of_a_capture() -> None:
    v = VECTORS["BALANCE-ISOLATED-SPLIT-20231229"]
    i, e = v["inputs"], v["expected"]
    size, mark = 1.0, 100.0
    held = {"contracts": size, "entry": mark - i["isoUpl"], "leverage": 1, "margin": i["isoEq"] - i["isoUpl"]}
    engine = one({"inputs": {**held, "contract_size": 1}}, "isolated", mark, i["cashBal"])
    (row,) = engine.assess().currencies
    assert (row.equity, row.available_balance, row.available_equity, row.frozen) == pytest.approx(
        (e["eq"], e["availBal"], e["availEq"], e["frozenBal"]), rel=1e-9
    )


def test_total_equity_sums_undiscounted_usd() -> None:
    v = VECTORS["TOTALEQ-20231229"]
    names = ("BTC", "ETH", "USDT", "OKB")
    account = Account(dict.fromkeys(names, 1.0))
    market = Market(TIME, indexes={f"{n}/USD": usd for n, usd in zip(names, v["inputs"]["eqUsd"], strict=True)})
    report = assess(account, mode_named("cross"), market, load_rules("okx").as_of(TIME))
    assert report.account.equity_usd == pytest.approx(v["expected"]["totalEq"], rel=1e-9)


@pytest.mark.parametrize("name", ids("ONEWAY-IMR"))
def test_one_way_mode_charges_the_larger_side(name: str) -> None:
    v = VECTORS[name]
    i = v["inputs"]
    base = {
        "contract_size": 1,
        "contracts": i["position_notional"],
        "side": i["position_side"],
        "entry": 1.0,
        "leverage": i["lever"],
    }
    engine = one({"inputs": base}, "cross", 1.0, 1e6)
    instrument = engine.rules.instrument("BTC/USDT:USDT")
    for n, side in enumerate(("buy", "sell")):
        engine.account.place(Order(n + 1, instrument, side, i[f"{side}_order_value"], 1.0, "cross", "net", i["lever"]))
    pool = engine.assess().pool("USDT")
    assert pool is not None
    assert pool.initial_margin == pytest.approx(v["expected"]["required_margin"], rel=1e-9)


def test_order_loss() -> None:
    v = VECTORS["ORDER-LOSS-LINEAR-BUY"]
    i = v["inputs"]
    engine = engine_for({"inputs": {"contract_size": i["ctVal"]}}, "cross", i["mark"], 1e6)
    instrument = engine.rules.instrument("BTC/USDT:USDT")
    order = Order(1, instrument, i["side"], i["contracts"], i["order_px"], "cross", "net", 10.0)
    row = order_rules.report(engine.account, order, engine.market, engine.rules)
    assert row.order_loss == pytest.approx(v["expected"]["order_loss"], rel=1e-9)
    # and it is part of the cost: free margin that covers margin and fee but not the loss is refused
    value = i["contracts"] * i["ctVal"] * i["order_px"]
    tight = engine_for({"inputs": {"contract_size": i["ctVal"]}}, "cross", i["mark"], value * 0.1005 + 499.0)
    answer = tight.check(order)
    assert isinstance(answer, Refusal)
    assert answer.shortfall == pytest.approx(1.0)


def test_older_partial_liquidation_goes_down_two_tiers() -> None:
    v = VECTORS["PARTIAL-LIQ-2019-15000"]
    i = v["inputs"]
    when = 1_585_000_000_000  # March 2020
    book = load_rules("okx").overlay(
        instruments={
            "BTC/USDT:USDT": {
                "contract_size": 0.0001,
                "tick": 0.1,
                "lot": 1,
                "tiers": [
                    [i["tier1_max"], 0.005, 0.01, 100],
                    [i["tier3_min"] - 1, 0.01, 0.015, 66],
                    [100_000, 0.015, 0.02, 50],
                ],
            }
        }
    )
    instrument = book.as_of(when, "nearest").instrument("BTC/USDT:USDT")
    account = Account({"USDT": 0.0})
    mark = 6_000.0
    notional = i["position_contracts"] * 0.0001 * mark
    held = Position(instrument, "isolated", "net", i["position_contracts"], mark, 50.0, notional * 0.0148)
    account.adopt(held)
    engine = MarginEngine(account, mode_named("isolated"), book, Market(when, {instrument.symbol: mark}))
    engine.advance(Market(when + 1, {instrument.symbol: mark}))
    (left,) = engine.account.positions.values()
    assert i["position_contracts"] - left.size == v["expected"]["contracts_to_close"]
    assert engine.rules.tiers(instrument.symbol).at(left.size).number == v["expected"]["target_tier"]


def test_cross_tier_adds_long_and_short() -> None:
    v = VECTORS["TIER-CROSS-AGG-25000"]
    i = v["inputs"]
    base = {
        "contract_size": 0.01,
        "entry": 100.0,
        "leverage": 10,
        "taker_fee": 0.0005,
        "tiers": [{"max": 24_999, "mmr": 0.004}, {"max": 25_000, "mmr": 0.005}, {"max": 1e9, "mmr": 0.01}],
    }
    full = {
        "inputs": {
            **base,
            "symbol": "BTC-USDT-SWAP",
            "cash": 1e6,
            "positions": [
                {"side": "long", "contracts": i["long_contracts"], "entry": 100.0},
                {"side": "short", "contracts": i["short_contracts"], "entry": 100.0},
            ],
        }
    }
    report = hedged(full, 100.0).assess()
    assert {row.tier for row in report.positions} == {2}
    assert v["expected"]["tier_size"] == 25_000


def test_initial_margin_is_value_over_leverage() -> None:
    v = VECTORS["IM-LINEAR-1BTC-10000"]
    i = v["inputs"]
    base = {"contract_size": 1, "contracts": i["q_base"], "entry": i["price"], "leverage": i["lever"], "margin": 1000.0}
    for mode in ("isolated", "cross"):
        row = one({"inputs": base}, mode, i["price"], 1e5).assess().positions[0]
        assert row.initial_margin == pytest.approx(v["expected"]["linear_im_usdt"], rel=1e-9)


def test_trigger_is_rate_plus_fee() -> None:
    v = VECTORS["MM-TRIGGER-155BP"]
    i = v["inputs"]
    base = {
        "contract_size": 1,
        "contracts": 1,
        "entry": 100.0,
        "leverage": 10,
        "margin": 10.0,
        "tier_mmr": i["mmr_rate"],
        "taker_fee": i["fee_rate"],
    }
    engine = one({"inputs": base}, "isolated", 100.0)
    trigger = engine.assess().positions[0].trigger_price
    assert trigger is not None
    assert (10.0 + trigger - 100.0) / trigger == pytest.approx(v["expected"]["margin_rate_at_liquidation"], rel=1e-9)


@pytest.mark.parametrize("name", ids("MM-WHOLE"))
def test_the_rate_of_the_tier_multiplies_the_whole_position(name: str) -> None:
    v = VECTORS[name]
    i = v["inputs"]
    rules = load_rules("okx").as_of(1_767_100_000_000)  # 2025-12-30
    instrument = rules.instrument(unified(i["instId"]))
    account = Account({"USDT": 1e9})
    account.adopt(Position(instrument, "cross", "net", i["contracts"], i["mark"], 10.0))
    market = Market(1_767_100_000_000, {instrument.symbol: i["mark"]})
    row = assess(account, mode_named("cross"), market, rules).positions[0]
    assert (row.tier, row.maintenance_margin) == (
        v["expected"]["tier"],
        pytest.approx(v["expected"]["mmr_amount"], rel=1e-9),
    )


def test_bankruptcy_price() -> None:
    v = VECTORS["BANKRUPT-LIN-LONG"]
    i = v["inputs"]
    base = {"contract_size": 1, "contracts": i["q"], "entry": i["avgPx"], "leverage": 10, "margin": i["margin"]}
    row = one({"inputs": base}, "isolated", i["avgPx"]).assess().positions[0]
    assert row.bankruptcy_price == pytest.approx(v["expected"]["bankruptcyPx"], rel=1e-9)


def test_equity_holds_unrealised_profit() -> None:
    v = VECTORS["SEED003-USDT-EQUITY"]
    i, e = v["inputs"], v["expected"]
    base = {"contract_size": 1, "contracts": i["qty_btc"], "entry": i["entry"], "leverage": 10}
    report = one({"inputs": base}, "cross", i["price"], i["usdt_balance"]).assess()
    assert (report.positions[0].unrealised_pnl, report.currencies[0].equity) == pytest.approx(
        (e["upl"], e["usdt_equity"])
    )


@pytest.mark.parametrize(
    ("mode", "fees", "trigger"),
    [("isolated", True, 54_244.1), ("cross", False, 50_226.0), ("cross", True, 50_256.1)],
)
def test_reference_case_triggers(mode: str, fees: bool, trigger: float) -> None:
    """1 BTC at 60,000, 10x, 10,000 account (the comparison case of the field study)."""
    engine = reference(mode, fees)
    engine.advance(Market(TIME + 1, {"BTC/USDT:USDT": 30_000.0}, {"BTC/USDT:USDT": 30_000.0}))
    (forced,) = [x for x in engine.events if x.name == "Reduced"]
    assert forced.price == pytest.approx(trigger, abs=0.1)  # type: ignore[attr-defined]
    assert not any(x.name == "Bankrupt" for x in engine.events)


def test_reference_case_after_a_gap() -> None:
    for mode, refund, left in (("isolated", 12_189.0, 3_970.0), ("cross", 8_219.0, 0.0)):
        engine = reference(mode, True)
        engine.advance(Market(TIME + 1, {"BTC/USDT:USDT": 42_000.0}, {"BTC/USDT:USDT": 42_000.0}), jump=True)
        (bankrupt,) = [x for x in engine.events if x.name == "Bankrupt"]
        assert bankrupt.amount == pytest.approx(refund)  # type: ignore[attr-defined]
        assert engine.account.balance("USDT") == left
        order = Order(2, engine.rules.instrument("BTC/USDT:USDT"), "buy", 100.0, None, mode, "net", 10.0)
        assert isinstance(engine.fill(order, 100.0, 42_000.0), Refusal)


def reference(mode: str, fees: bool) -> MarginEngine:
    symbol = "BTC/USDT:USDT"
    engine = MarginEngine(
        Account({"USDT": 10_000.0}),
        mode_named(mode),
        load_rules("okx"),
        Market(TIME, {symbol: 60_000.0}, {symbol: 60_000.0}),
    )
    order = Order(1, engine.rules.instrument(symbol), "buy", 100.0, None, mode, "net", 10.0)
    assert not isinstance(engine.fill(order, 100.0, 60_000.0), Refusal)
    if not fees:
        engine.deposit("USDT", 30.0)  # "fees off": the opening fee given back; the closing fee stays in the ratio
    return engine


def test_every_vector_is_checked_here() -> None:
    """No figure in tests/golden lies there unread."""
    text = Path(__file__).read_text()
    prefixes = (
        "ISO-LIN",
        "DEMO-ISO-MET",
        "DEMO-LEVERAGE-CHANGE",
        "DEMO-MAX-SIZE",
        "DEMO-FUNDING-ISO",
        "DEMO-FUNDING-CROSS",
        "FUND-RATE-NEW",
        "ONEWAY-IMR",
        "MM-WHOLE",
        "DEMO-LIQ-TIER-ISO",
    )
    unread = [name for name in VECTORS if name not in text and not name.startswith(prefixes)]
    assert unread == []


def test_key_names_a_position() -> None:
    assert PositionKey("BTC/USDT:USDT", "cross", "net") == ("BTC/USDT:USDT", "cross", "net")
