"""Options in isolated and cross: printed margins and fees, money over a life, exercise, liquidation, the book file."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin import PositionBuilder
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.market import Market
from bt_margin.modes import mode_named, options
from bt_margin.modes.assess import order_report
from bt_margin.risk import black, option_margin
from bt_margin.rules.book import load_rules
from tests.unit.test_golden import GOLDEN

VECTORS: dict[str, dict[str, Any]] = {v["id"]: v for v in json.loads((GOLDEN / "options.json").read_text())}
CALL, PUT = "BTC/USD:BTC-241227-100000-C", "BTC/USD:BTC-241227-100000-P"
TIME = 1_732_000_000_000  # 2024-11-19
EXPIRY = 1_735_286_400_000  # 2024-12-27 08:00, a Friday
BOOK = load_rules("okx")


def market(symbol: str, mark: float, index: float, time: int = TIME, forward: float | None = None) -> Market:
    stem = "-".join(symbol.split("-")[:2])
    return Market(time, {symbol: mark}, {symbol: mark}, {"BTC/USD": index}, forwards={stem: forward or index})


def engine(symbol: str, mark: float, index: float = 90_000.0, cash: float = 10.0, mode: str = "cross",
           time: int = TIME) -> MarginEngine:
    return MarginEngine(Account({"BTC": cash}), mode_named(mode), BOOK, market(symbol, mark, index, time),
                        extrapolate="nearest")


def trade(e: MarginEngine, symbol: str, side: str, size: float, price: float, mode: str = "cross") -> Fill:
    order = Order(len(e.account.ledger) + 1, e.rules.instrument(symbol), side, size, None, mode)
    fill = e.fill(order, size, price)
    assert isinstance(fill, Fill), fill
    return fill


def test_isolated_short_call_of_a_capture() -> None:
    v = VECTORS["ISO-OPTION-SHORT-CALL-20240711"]
    i, e = v["inputs"], v["expected"]
    symbol, when = "BTC/USD:BTC-240830-55000-C", 1_720_698_008_000
    rules = BOOK.as_of(when, "nearest")
    instrument = rules.instrument(symbol)
    assert instrument.contract_size == i["ctVal"] * i["ctMult"]
    account = Account({"BTC": 1.0})
    account.adopt(Position(instrument, "isolated", "net", -1.0, i["avgPx"], 1.0, i["margin"]))
    index = 57_500.0
    e_ = MarginEngine(account, mode_named("isolated"), BOOK, market(symbol, i["markPx"], index, when),
                      extrapolate="nearest")
    row = e_.assess().positions[0]
    for key, found in (("upl", row.unrealised_pnl), ("optVal", row.option_value), ("mmr", row.maintenance_margin),
                       ("mgnRatio", row.margin_ratio), ("uplRatio", row.unrealised_pnl_ratio)):
        assert found == pytest.approx(e[key], rel=1e-9), key


def test_position_margin_of_2020() -> None:
    v = VECTORS["OPT-SHORT-CALL-POSITION-2020"]
    i, e = v["inputs"], v["expected"]
    strike, when = i["forward"] + i["otm_amount"], 1_590_000_000_000
    symbol = f"BTC/USD:BTC-200626-{strike}-C"
    book = BOOK.overlay(instruments={symbol: {"contract_size": i["ctMult"]}})
    instrument = book.as_of(when, "nearest").instrument(symbol)
    row = BOOK.as_of(when, "nearest").option("BTC")
    assert (row.a, row.b) == (i["a"], i["b"])
    found = option_margin.short_initial("C", i["forward"], strike, i["mark_px"], a=row.a, b=row.b,
                                        factor=i["margin_factor"]) * instrument.contract_size
    assert found == pytest.approx(e["position_im_btc_per_contract"], rel=1e-9)


@pytest.mark.parametrize("name", ["OPT-ORDER-BUY-OPEN-2020", "OPT-ORDER-SELL-OPEN-2020", "OPT-ORDER-BUY-CLOSE-2020"])
def test_order_margin_of_2020(name: str) -> None:
    v = VECTORS[name]
    i, e = v["inputs"], v["expected"]
    coins, fee = i["contracts"] * i["ctMult"], i["fee_rate"]
    initial = i.get("position_im", 0.0) / i["ctMult"]
    found = {
        "OPT-ORDER-BUY-OPEN-2020": lambda: option_margin.buy_order_margin(i["order_px"], fee=fee),
        "OPT-ORDER-SELL-OPEN-2020": lambda: option_margin.sell_order_margin(
            initial, i["order_px"], min_order=i["min_open"], fee=fee),
        "OPT-ORDER-BUY-CLOSE-2020": lambda: option_margin.buy_to_close_margin(initial, i["order_px"], fee=fee),
    }[name]()
    assert coins * found == pytest.approx(e["margin_btc"], rel=1e-9)


def test_trading_fee_and_its_cap() -> None:
    v = VECTORS["OPT-FEE-TAKER-CAP12.5"]
    i, e = v["inputs"], v["expected"]
    eng = engine(CALL, i["premium"])
    fill = trade(eng, CALL, "buy", i["contracts"], i["premium"])
    assert fill.opened_fee == pytest.approx(e["taker_fee_btc"], rel=1e-9)
    cheap = trade(eng, CALL, "buy", 100, 0.0004)  # 12.5 % of the premium is less than 0.03 % of the notional
    assert cheap.opened_fee == pytest.approx(0.125 * 0.0004)


def test_buying_pays_the_premium_and_needs_nothing_more() -> None:
    e = engine(CALL, 0.05)
    trade(e, CALL, "buy", 100, 0.05)  # 1 BTC of calls
    assert e.account.balance("BTC") == pytest.approx(10 - 0.05 - 0.0003)
    report = e.assess()
    assert report.positions[0].initial_margin == report.positions[0].maintenance_margin == 0.0
    assert report.currencies[0].equity == pytest.approx(10 - 0.0003)  # the option's value is part of equity
    assert report.positions[0].margin_ratio is None
    e.advance(market(CALL, 0.08, 95_000.0, TIME + 1))
    fill = trade(e, CALL, "sell", 100, 0.08)
    assert fill.pnl == pytest.approx(0.03)
    assert e.account.balance("BTC") == pytest.approx(10 + 0.03 - 0.0006)
    assert not e.account.positions


def test_selling_brings_the_premium_and_binds_initial_margin() -> None:
    e = engine(CALL, 0.05)
    trade(e, CALL, "sell", 100, 0.05)
    assert e.account.balance("BTC") == pytest.approx(10 + 0.05 - 0.0003)
    row = e.assess().positions[0]
    # OTM 10,000 of a forward of 90,000: 0.15 - 0.111 is below the floor of 0.10
    assert row.initial_margin == pytest.approx(0.10 + 0.05)
    assert row.maintenance_margin == pytest.approx(0.03 + 0.05)
    assert row.liquidation_fee == pytest.approx(0.0003)
    assert e.available("BTC") == pytest.approx(10 + 0.05 - 0.0003 - 0.15)


def test_isolated_short_posts_its_initial_margin() -> None:
    e = engine(CALL, 0.05, mode="isolated")
    trade(e, CALL, "sell", 100, 0.05, "isolated")
    (held,) = e.account.positions.values()
    assert held.margin == pytest.approx(0.15)
    assert e.account.balance("BTC") == pytest.approx(10 + 0.05 - 0.0003 - 0.15)
    assert e.reducible_margin(held.key) == pytest.approx(0.0, abs=1e-12)
    assert e.assess().positions[0].margin_ratio == pytest.approx(0.15 / 0.0803)


def test_orders_reserve_premium_or_margin() -> None:
    e = engine(CALL, 0.05)
    instrument = e.rules.instrument(CALL)
    for side, price, margin in (("buy", 0.04, 0.04), ("sell", 0.06, 0.10), ("sell", 0.04, 0.11)):
        row = order_report(e.account, Order(1, instrument, side, 100, price, "cross"), e.market, e.rules)
        assert row.initial_margin == pytest.approx(margin), (side, price)
        e.account.place(Order(1, instrument, side, 100, price, "cross"))
        assert e.available("BTC") == pytest.approx(10 - margin - row.fee)
        e.cancel(1)


def test_what_an_isolated_sale_and_an_order_against_a_position_reserve() -> None:
    """Rule book 3.3: a sale to open reserves its margin whichever pool it ends in, one that only closes nothing."""
    e = engine(CALL, 0.05, mode="isolated")
    instrument = e.rules.instrument(CALL)
    fee = 0.0003
    e.account.place(Order(1, instrument, "sell", 100, 0.06, "isolated"))
    assert e.available("BTC") == pytest.approx(10 - 0.10 - fee)
    e = engine(CALL, 0.05)
    trade(e, CALL, "buy", 100, 0.05)
    cash = 10 - 0.05 - fee
    e.account.place(Order(90, instrument, "sell", 100, 0.04, "cross"))
    assert e.available("BTC") == pytest.approx(cash)
    e.account.place(Order(90, instrument, "sell", 150, 0.06, "cross"))  # 50 of it open
    assert e.available("BTC") == pytest.approx(cash - 0.05 - fee / 2)


@pytest.mark.parametrize(("price", "premium"), [(0.0008, 0.0008), (None, 0.0005)])
def test_the_cap_of_an_orders_fee_is_measured_at_its_price(price: float | None, premium: float) -> None:
    """Rule book section 10: at most 12.5 % of the premium, which is the order's; the last price's at the market."""
    e = engine(CALL, 0.0005)
    e.account.place(Order(1, e.rules.instrument(CALL), "buy", 100, price, "cross"))
    assert e.available("BTC") == pytest.approx(10 - premium * (1 + 0.125), rel=1e-12)


def test_no_money_no_option() -> None:
    e = engine(CALL, 0.05, cash=0.04)
    instrument = e.rules.instrument(CALL)
    for side in ("buy", "sell"):
        answer = e.fill(Order(1, instrument, side, 100, None, "cross"), 100, 0.05)
        assert isinstance(answer, Refusal)
        assert answer.shortfall > 0
        assert 0 < answer.largest_size < 100


@pytest.mark.parametrize(("symbol", "index", "paid"), [
    (CALL, 125_000.0, 25_000 / 125_000), (CALL, 99_000.0, 0.0), (PUT, 80_000.0, 20_000 / 80_000), (PUT, 101_000.0, 0.0),
])
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_exercise_against_a_ledger_by_hand(symbol: str, index: float, paid: float, side: str) -> None:
    e = engine(symbol, 0.05, index)
    trade(e, symbol, side, 100, 0.05)
    e.advance(market(symbol, max(paid, 1e-6), index, EXPIRY - 3_600_000), jump=True)
    e.advance(market(symbol, max(paid, 1e-6), index, EXPIRY), jump=False)
    assert not e.account.positions
    sign = 1 if side == "buy" else -1
    fee = min(0.0002, 0.125 * paid) if paid else 0.0
    assert e.account.balance("BTC") == pytest.approx(10 - sign * 0.05 - 0.0003 + sign * paid - fee, abs=1e-12)
    (event,) = [x for x in e.events if x.name == "Settled"]
    assert event.price == pytest.approx(paid)  # type: ignore[attr-defined]
    assert max(map(abs, e.account.conservation_gap().values())) < 1e-12
    late = e.fill(Order(9, e.rules.instrument(symbol), "buy", 1, None, "cross"), 1, 0.05)
    assert isinstance(late, Refusal)
    assert "expired" in late.reason


def test_a_short_that_the_market_runs_over_is_bought_back_by_force() -> None:
    for mode in ("cross", "isolated"):
        e = engine(CALL, 0.05, cash=0.2, mode=mode)
        trade(e, CALL, "sell", 100, 0.05, mode)
        cash = e.account.balance("BTC")
        e.advance(market(CALL, 0.30, 130_000.0, TIME + 1))
        assert not e.account.positions
        assert [x.name for x in e.events] == ["Warned", "Reduced", "TakenOver"]
        assert e.account.balance("BTC") >= 0
        if mode == "isolated":
            assert e.account.balance("BTC") == pytest.approx(cash, abs=1e-3)  # the margin is lost, cash untouched
        assert max(map(abs, e.account.conservation_gap().values())) < 1e-12


def test_a_long_option_is_never_liquidated() -> None:
    e = engine(CALL, 0.05, cash=0.06)
    trade(e, CALL, "buy", 100, 0.05)
    e.advance(market(CALL, 1e-6, 20_000.0, TIME + 1))
    assert e.account.positions
    assert not e.events


def book(**more: Any) -> dict[str, Any]:
    return {
        "time": "2024-11-19T07:06:40Z", "balances": {"BTC": 0.4},
        "positions": [{"symbol": CALL, "contracts": -100, "entry_price": 0.05}],
        "prices": {"index": {"BTC/USD": 90_000}, "vol": {CALL: 0.6}, "forward": {"BTC/USD:BTC-241227": 91_000}},
        "rules": {"extrapolate": "nearest"}, **more,
    }


def test_an_option_is_priced_from_vol_and_forward() -> None:
    builder = PositionBuilder.from_dict(book())
    row = builder.report("cross").positions[0]
    years = (EXPIRY - TIME) / 365 / 86_400_000
    expected = float(black.coin_price("C", 91_000.0, 100_000.0, years, 0.6))
    assert row.mark_price == pytest.approx(expected, rel=1e-9)
    greeks = black.greeks_bs("C", 91_000.0, 100_000.0, years, 0.6, 90_000.0)
    assert row.delta == pytest.approx(-float(greeks.delta), rel=1e-6)
    assert row.vega == pytest.approx(-float(greeks.vega), rel=1e-6)
    assert row.theta > 0 > row.gamma
    assert (row.trigger_price, row.liquidation_price) == (None, None)
    isolated = builder.report("isolated").positions[0]
    assert isolated.margin == pytest.approx(isolated.initial_margin)
    stress = builder.stress("cross", [-0.3, 0.0, 0.5, 1.5])
    ratios = [s.margin_ratio for s in stress]
    assert all(a is not None and b is not None and a > b for a, b in pairwise(ratios))
    assert stress[-1].state == "liquidation"


def test_a_book_that_lacks_what_an_option_needs_says_so() -> None:
    bare = book()
    del bare["prices"]["forward"]
    with pytest.raises(MissingPrice, match="forward"):
        PositionBuilder.from_dict(bare).report("cross")
    wrong = book()
    wrong["prices"]["vol"]["BTC/USD:BTC"] = 0.5
    with pytest.raises(InputError, match="expected an option"):
        PositionBuilder.from_dict(wrong).report("cross")


def test_distance_with_options_is_where_the_ratio_is_one() -> None:
    from bt_margin.modes.assess import account_pools
    from bt_margin.modes.base import judge
    from bt_margin.modes.distance import distance

    e = engine(CALL, 0.05, cash=0.3)
    trade(e, CALL, "sell", 100, 0.05)
    (pool,) = [p for p in account_pools(e.account) if p.positions]
    away = distance(pool, judge(pool, e.market, e.rules), e.market, e.rules)
    assert away is not None
    there = options.moved(e.market, pool.positions, away / 100)
    judgement = judge(pool, there, e.rules)
    assert float(judgement.equity) == pytest.approx(float(judgement.requirement), rel=1e-6)


def test_every_vector_is_checked() -> None:
    from pathlib import Path

    text = Path(__file__).read_text()
    assert [name for name in VECTORS if name not in text] == []


@given(st.floats(0.01, 4.0), st.floats(0.2, 3.0), st.sampled_from([CALL, PUT]), st.floats(0.001, 0.999))
def test_on_the_way_of_any_leg_some_vol_explains_the_mark(move: float, vol: float, symbol: str, share: float) -> None:
    """In the coin and the coin both straight, a put would be worth more than its strike where the coin falls far."""
    option, worth, ends = BOOK.as_of(TIME, "nearest").instrument(symbol), 0.0, []
    legs = (90_000.0, 0.5, TIME, 1 - share), (90_000.0 * move, vol, TIME + 18_000_000, share)
    for price, sigma, time, part in legs:
        forward = price * 1.01
        mark = float(options.model_mark(option, forward, price, options.years_left(option, time), sigma))
        ends.append(market(symbol, mark, price, time, forward))
        worth += mark * forward * part
    here = ends[0].toward(ends[1], share)
    forward, mark = float(here.forward(symbol)), float(here.mark(symbol))
    assert mark * forward == pytest.approx(worth, rel=1e-12)
    assert here.last(symbol) == mark
    gain = (forward - 100_000.0) * (1 if symbol == CALL else -1)
    most = forward if symbol == CALL else 100_000.0
    assert max(0.0, gain) - 1e-6 <= mark * forward <= most * (1 + 1e-12)
