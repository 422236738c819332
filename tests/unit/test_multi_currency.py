"""Multi-currency margin as a judgement: published accounts to their last digit, and what must hold of any account."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin import PositionBuilder
from bt_margin.engine.builder import parse_time
from bt_margin.errors import InputError, MissingPrice, NoRuleInForce
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import AccountReport, CurrencyReport
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.ledger import Entry, EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import borrow, currencies
from bt_margin.modes.assess import assess
from bt_margin.modes.base import judge
from bt_margin.modes.multi_currency import MULTI_CURRENCY, pools, risk_band
from bt_margin.rules.book import load_rules
from bt_margin.rules.credit import max_leverage
from bt_margin.rules.discounts import DiscountRow, rates_by_maintenance
from bt_margin.rules.tiers import Tiers
from tests.unit.test_golden import GOLDEN

VECTORS: dict[str, dict[str, Any]] = {v["id"]: v for v in json.loads((GOLDEN / "multi_currency.json").read_text())}
MODE, SWAP, PAIR = "multi-currency", "BTC/USDT:USDT", "BTC/USDT"
WHOLE = [[1e15, 1.0]]
TIERS = {"tiers": [[1e9, 0.004, 0.01, 100]], "contract_size": 0.01, "tick": 0.1}
FULL = {"USDT": WHOLE, "BTC": WHOLE, "ETH": WHOLE}
PRICES = {"mark": {SWAP: 100_000.0}, "index": {PAIR: 100_000.0, "ETH/USDT": 4_000.0, "USDT/USD": 1.0}}


def book(balances: dict[str, float], time: str = "2025-10-10T00:00:00Z", **over: Any) -> dict[str, Any]:
    return {"time": time, "balances": balances, "prices": copy.deepcopy(PRICES), "instruments": {SWAP: TIERS}, **over}


def report(balances: dict[str, float], **over: Any) -> AccountReport:
    return PositionBuilder.from_dict(book(balances, **over)).report(MODE)


def row(found: AccountReport, currency: str) -> CurrencyReport:
    return next(r for r in found.currencies if r.currency == currency)


def swap(contracts: float, entry: float = 100_000.0, leverage: float = 10.0) -> dict[str, Any]:
    return {"symbol": SWAP, "contracts": contracts, "entry_price": entry, "leverage": leverage}


def digits(found: float, printed: str) -> bool:
    """Equal to a printed number as far as a double holds it."""
    return found == pytest.approx(float(printed), rel=2e-15 * 10)


# -- published figures ------------------------------------------------------------------------------------------------


def ladder(rows: list[list[float | None]], unit: str = "coin", **more: Any) -> DiscountRow:
    """The tiers of a vector; a bound of null is a rate for all that is above."""
    bounded = tuple((float(b), float(r)) for b, r in rows if b is not None and r is not None)
    beyond = next((float(r) for b, r in rows if b is None and r is not None), 0.0)
    return DiscountRow("X", unit, bounded, beyond=beyond, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["disc-btc-100", "disc-usdt-11m-a", "disc-btc-1"])
def test_discount_tiers_are_marginal(name: str) -> None:
    i, e = VECTORS[name]["inputs"], VECTORS[name]["expected"]
    tiers = ladder(i["tiers"], i.get("basis", "coin").lower())
    assert tiers.weigh(i["equity"], i["usd_price"]) == pytest.approx(e["discounted_usd"], rel=1e-15)
    if all(bound is not None for bound, _ in i["tiers"]) and i.get("basis", "coin") == "coin":  # and through a book
        over = {"discounts": {"BTC": i["tiers"]}, "prices": {"index": {"BTC/USD": i["usd_price"]}}}
        found = report({"BTC": i["equity"]}, **over)
        assert found.account.adjusted_equity_usd == pytest.approx(e["discounted_usd"], rel=1e-15)
        assert found.account.equity_usd == i["equity"] * i["usd_price"]


def test_a_coin_at_rate_zero_counts_nothing() -> None:
    v = VECTORS["disc-zero-rate"]
    held = {h["ccy"]: h["equity"] for h in v["inputs"]["holdings"]}
    rates = {h["ccy"]: [[1e12, h["rate"]]] for h in v["inputs"]["holdings"]}
    found = report(held, discounts=rates, prices={"index": {"BTC/USD": 50_000.0, "ZRX/USD": 0.3}})
    assert found.account.adjusted_equity_usd == v["expected"]["discounted_usd"]


@pytest.mark.parametrize("name", ["luna-2022-05-12", "eth-2022-09-15", "tusd-2023-10-17", "x-2025-04-17"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_dated_changes_of_discounts(name: str, side: str) -> None:
    i, e = VECTORS[name]["inputs"], VECTORS[name]["expected"]
    assert ladder(i[side]).weigh(i["gross"], 1.0) == pytest.approx(e[side], rel=1e-15)
    currency, day = i["ccy"].split()[0], name[-10:]
    hour = {"luna": "14:00", "eth": "13:00", "tusd": "09:00", "x": "10:00"}[name.split("-")[0]]
    moment = parse_time(f"{day}T{hour}:00Z", "") - (1000 if side == "before" else 0)
    row_then = load_rules("okx").as_of(moment).discount(currency)
    assert row_then.weigh(i["gross"], 1.0) == pytest.approx(e[side], rel=1e-15)


def test_generated_coin_tiers() -> None:
    v = VECTORS["x-generator"]
    tiers = load_rules("okx").as_of(parse_time("2025-04-16T12:00:00Z", "")).discount("X").tiers
    assert [list(t) for t in tiers[:3]] == v["inputs"]["first3"]
    for number in (84, 85):
        assert tiers[number - 1] == (v["expected"][f"tier{number}"]["max"], v["expected"][f"tier{number}"]["rate"])
    assert len(tiers) == 85


@pytest.mark.parametrize("name", [n for n in VECTORS if n.startswith("step-")])
def test_rates_by_maintenance(name: str) -> None:
    i = VECTORS[name]["inputs"]
    assert list(rates_by_maintenance(i["rate1"], i["step_multiplier"], i["borrow_mmr"])) == VECTORS[name]["expected"][
        "rates"
    ]


def test_the_recorded_btc_table_follows_the_same_rule() -> None:
    rules = load_rules("okx").as_of(parse_time("2026-04-27T12:00:00Z", ""))
    tiers, borrowed = rules.discount("BTC").tiers, rules.borrow("BTC").rows[:6]
    expected = rates_by_maintenance(0.98, 0.5, [r.maintenance for r in borrowed])
    assert tuple(rate for _, rate in tiers[:6]) == pytest.approx(expected, rel=1e-15)
    assert [bound for bound, _ in tiers[:6]] == [r.max_size for r in borrowed]
    assert (len(tiers), tiers[-1]) == (83, (1630.0, 0.575))


def test_account_with_a_borrowed_coin() -> None:
    """OKX sample of 2021-03-08: equity, discounted equity, margin, fee, ratio, room, all digits."""
    v, room = VECTORS["borrow-btc-2021"], VECTORS["availmargin-2021"]
    i, e = v["inputs"], v["expected"]
    rest = float(i["adjEq"]) - float(e["disEq"])
    found = report(
        {"BTC": -float(i["crossLiab"]), "USDT": rest},
        time="2021-03-08T07:56:05Z",
        borrow={"leverage": {"BTC": i["user_leverage"]}, "interest": {"BTC": float(i["accrued_interest"])}},
        discounts={"USDT": WHOLE},
        fees={"margin": {"taker": i["taker_fee"]}},
        prices={"index": {"BTC/USD": float(i["index_usd"]), "USDT/USD": 1.0}},
    )
    coin, pool = row(found, "BTC"), found.pool("account")
    assert pool is not None
    assert digits(coin.equity, e["eq"])
    assert coin.liability == -coin.equity
    assert coin.interest == float(i["accrued_interest"])
    assert (coin.available_equity, coin.potential_borrow) == (0.0, -coin.equity)
    assert coin.discounted_equity_usd is not None
    assert digits(coin.discounted_equity_usd, e["disEq"])
    assert digits(pool.equity, i["adjEq"])
    assert digits(pool.initial_margin, e["imr"])
    assert digits(pool.maintenance_margin, e["mmr"])
    assert digits(pool.liquidation_fee, e["liquidation_fee"])
    assert pool.margin_ratio is not None
    assert digits(pool.margin_ratio, e["mgnRatio"])
    assert digits(found.account.available_usd, room["expected"]["available_margin_usd"])
    (charge,) = pool.charges
    assert (charge.detail["rate"], charge.detail["leverage"]) == (i["borrow_mmr"], i["user_leverage"])


def test_swap_margin_of_the_sample() -> None:
    v = VECTORS["swap-imr-mmr"]
    notional = float(v["expected"]["notional"])
    found = report({"USDT": 1000.0}, positions=[swap(1, notional * 100, v["inputs"]["lever"])], discounts=FULL,
                   prices={"mark": {SWAP: notional * 100}, "index": {"USDT/USD": 1.0}})
    (position,) = found.positions
    assert digits(position.notional, v["expected"]["notional"])
    assert digits(position.initial_margin, v["inputs"]["imr"])
    assert digits(position.maintenance_margin, v["expected"]["mmr"])


def test_equity_of_the_worked_example() -> None:
    v, total, value = VECTORS["ex-equity"], VECTORS["ex-adjeq-1445k"], VECTORS["ex-position-value"]
    i, e, perp = v["inputs"], v["expected"], v["inputs"]["perp"]
    rates = {c: [[1e12, rate]] for c, rate in total["inputs"]["rates_INFERRED"].items()}
    found = report(
        i["balances"], discounts=rates, borrow={"leverage": {"BTC": 5}},
        positions=[swap(perp["size_btc"] / 0.01, perp["entry"], perp["lever"])],
        prices={"mark": {SWAP: i["mark"]}, "index": {PAIR: i["mark"], "SOL/USDT": 200, "USDT/USD": 1}},
    )
    assert found.positions[0].unrealised_pnl == e["upl_usdt"]
    assert {r.currency: r.equity for r in found.currencies} == e["equity"]
    assert found.account.adjusted_equity_usd == total["expected"]["adjEq"]
    assert (found.account.notional_usd, found.account.initial_margin_usd) == (50_000.0, 5_000.0)
    ordered = report(
        i["balances"], discounts=rates, borrow={"leverage": {"BTC": 5}},
        positions=[swap(perp["size_btc"] / 0.01, perp["entry"], perp["lever"])],
        orders=[{"symbol": PAIR, "side": "sell", "amount": 4, "price": 100_000}],
        prices={"mark": {SWAP: i["mark"]}, "index": {PAIR: i["mark"], "SOL/USDT": 200, "USDT/USD": 1}},
    )
    assert ordered.account.notional_usd == value["expected"]["position_value"]
    assert ordered.account.leverage == pytest.approx(float(value["expected"]["account_leverage"]), abs=5e-6)


def test_potential_borrow_of_open_orders() -> None:
    v = VECTORS["ex-potential-borrow"]
    i, e = v["inputs"], v["expected"]
    found = report({"BTC": i["equity"]}, discounts=FULL, borrow={"leverage": {"BTC": i["currency_leverage"]}},
                   orders=[{"symbol": PAIR, "side": "sell", "amount": i["open_sell_orders"], "price": 100_000}])
    coin, pool = row(found, "BTC"), found.pool("account")
    assert pool is not None
    assert (coin.frozen, coin.potential_borrow) == (e["frozen"], e["potential_borrow"])
    (charge,) = (c for c in pool.charges if c.name == "borrow margin")
    assert charge.initial == e["borrowFroz_usd"]
    assert charge.initial / i["usd_price"] == e["borrow_margin_btc"]
    assert coin.liability == 0.0  # nothing is owed before a fill
    assert pool.state == "safe"


@pytest.mark.parametrize("auto", [True, False])
def test_selling_more_than_there_is(auto: bool) -> None:
    v = VECTORS["ex-spot-oversell-auto"]
    i = v["inputs"]
    found = report({"BTC": 2.0, "USDT": i["available"]}, discounts=FULL, borrow={"auto": auto},
                   orders=[{"symbol": PAIR, "side": "buy", "amount": i["order_sell"] / 100_000, "price": 100_000}])
    (order,) = found.orders
    owed = borrow.potential_borrow(i["available"], i["order_sell"])
    assert owed == v["expected"]["liability_after_fill"]
    assert row(found, "USDT").potential_borrow == owed
    assert order.accepted is auto
    if not auto:
        assert (order.shortfall, "51008" in order.reason) == (owed, True)


def test_balance_sample_and_rate_one_samples() -> None:
    v = VECTORS["bal-usdt-rest"]
    i, e = {k: float(x) for k, x in v["inputs"].items()}, v["expected"]
    equity = i["cashBal"] + i["upl"] + i["stgyEq"] - i["interest"]  # bots are not built: their equity is given here
    assert digits(equity, e["eq"])
    assert digits(float(borrow.available_equity(equity, i["frozenBal"])), e["availEq"])
    assert ladder(WHOLE).weigh(equity, i["index_usd"]) == pytest.approx(float(e["disEq"]), rel=1e-13)
    risk = VECTORS["riskdata-2021"]
    rules = load_rules("okx").as_of(parse_time("2021-05-06T06:34:49Z", ""))
    for currency in ("BTC", "USDT"):
        equity, index = (float(risk["inputs"][currency][k]) for k in ("eq", "index"))
        assert digits(rules.discount(currency).weigh(equity, index), risk["expected"][f"{currency}_disEq"])


# -- interest, limits, repayment: arithmetic ------------------------------------------------------------------------


def test_interest_of_an_hour() -> None:
    v = VECTORS["int-usdt-97"]
    found = borrow.interest(float(v["inputs"]["liability"]), float(v["inputs"]["hourly_rate"]))
    assert found == pytest.approx(float(v["expected"]["interest"]), abs=2.1e-16 * 1e3)  # printed rounded up at 1e-16
    assert borrow.interest(100.0, float(v["inputs"]["hourly_rate"])) == pytest.approx(0.00040833333333, abs=1e-14)


def test_interest_clock() -> None:
    v = VECTORS["int-clock-a"]
    at = {k: parse_time(f"2024-09-13T{v['inputs'][k]}:00Z", "") for k in ("borrow_at", "now")}
    hours = borrow.hours(at["borrow_at"], at["now"])
    assert len(hours) == v["expected"]["accruals"]
    assert hours == (parse_time(f"2024-09-13T{v['expected']['deducted_at']}:00Z", ""),)
    assert borrow.hours(at["borrow_at"], at["borrow_at"] + 120_000) == ()  # repaid within the clock hour: free


def test_interest_free_quota() -> None:
    excess, cash, quota = VECTORS["int-free-excess"], VECTORS["int-free-cash"], VECTORS["quota-usdt"]
    i = excess["inputs"]
    bearing = borrow.interest_bearing(i["cash"], float(i["upl"]), i["quota"])
    assert bearing == float(excess["expected"]["interest_bearing"])
    assert borrow.interest(bearing, float(i["hourly_rate"])) == pytest.approx(5.75e-7, rel=1e-15)
    j = cash["inputs"]
    owed = borrow.interest_bearing(float(j["cash"]), float(j["upl"]), j["quota"], j["auto_borrow"])
    assert owed == float(cash["expected"]["interest_bearing"])
    assert borrow.interest_bearing(float(j["cash"]), float(j["upl"]), j["quota"], False) == 0.0  # shared when off
    rules = load_rules("okx").as_of(parse_time("2023-01-01", ""))
    k = quota["inputs"]
    equities = {"USDC": k["usdc_cross_equity"], "TUSD": k["tusd_cross_equity"]}
    assert borrow.free_quota("USDT", equities, rules) == quota["expected"]["usdt_quota"]
    assert borrow.free_quota("USDT", {"USDC": -5.0}, rules) == 20_000.0
    assert borrow.free_quota("PEPE", {}, rules) == 0.0


def test_what_losses_made_and_what_cash_owes() -> None:
    """Rule book section 4.4: with auto-borrow the quota is for losses alone, without it both share it."""
    assert borrow.unrealised_liability(100.0, 0.0, -50.0) == 0.0  # the cash bears it
    assert borrow.unrealised_liability(100.0, 10.0, -95.0) == 5.0
    assert borrow.unrealised_liability(-10.0, 0.0, -5.0) == 5.0
    assert borrow.unrealised_liability(-10.0, 0.0, -0.5) == 0.5
    assert borrow.unrealised_liability(-10.0, 0.0, 4.0) == 0.0
    assert borrow.interest_bearing(-10.0, -5.0, 7.0) == borrow.interest_bearing(-10.0, -5.0, 7.0, auto=True) == 10.0
    assert borrow.interest_bearing(-10.0, -5.0, 7.0, auto=False) == 8.0
    assert borrow.interest_bearing(-10.0, -9.0, 7.0, auto=True) == 12.0


def test_the_rate_of_a_small_debt_over_its_slices() -> None:
    tiers = Tiers.from_rows("BTC", [[0.2, 0.02, 0.1, 10], [0.4, 0.04, 0.2, 5], [2.0, 0.1, 0.5, 2]])
    maintenance, initial = borrow.rates(0.5, tiers, marginal=True)
    assert maintenance == pytest.approx((0.2 * 0.02 + 0.2 * 0.04 + 0.1 * 0.1) / 0.5)
    assert initial == pytest.approx((0.2 * 0.1 + 0.2 * 0.2 + 0.1 * 0.5) / 0.5)
    assert borrow.rates(0.0, tiers, marginal=True) == (0.02, 0.1)
    assert borrow.rates(0.5, tiers) == (0.1, 0.5)


def test_borrow_limits() -> None:
    v = VECTORS["limit-alice"]
    i, e = v["inputs"], v["expected"]
    by_margin = borrow.room_by_margin(i["own"], i["lever"])
    assert by_margin == e["by_margin"]
    assert borrow.most(by_margin, i["account_limit"]) == e["max_borrow"]
    levers = VECTORS["lever-2023"]
    assert [max_leverage(rate) for rate in levers["inputs"]["imr"]] == levers["expected"]["max_lever"]


def test_forced_repayment() -> None:
    user, step = VECTORS["frp-user"]["inputs"], VECTORS["frp-user-step"]
    owed = borrow.liability(user["holdings"]["BTC"] - user["loss_btc"])
    e = VECTORS["frp-user"]["expected"]
    assert owed == e["liability_btc"]
    bearing = borrow.interest_bearing(user["holdings"]["BTC"], -user["loss_btc"], user["quota_btc"], auto=False)
    assert borrow.interest(bearing, 1e-5) == e["interest"]
    assert (borrow.forced_repayment(float(owed), user["quota_btc"], 0.5, auto=False) > 0) is e["forced_repayment"]
    just_above = step["inputs"]["quota_btc"] * (1 + 1e-9)  # by more than floats make of a repayment
    share = load_rules("okx").as_of(parse_time("2022-01-01", "")).multi_currency.repay_share
    assert borrow.forced_repayment(just_above, 1.0, share, auto=False) == step["expected"]["repay_btc_approx"]
    assert borrow.forced_repayment(just_above, 1.0, share, auto=True) == 0.0


def test_what_forced_repayment_sells_first() -> None:
    old, new = VECTORS["frp-order-old"], VECTORS["frp-order-new"]
    rules = {day: load_rules("okx").as_of(parse_time(day, "")).multi_currency for day in ("2022-01-01", "2025-01-01")}
    liquid = [c.strip() for c in old["inputs"]["liquidity"].split(">")]
    first = borrow.conversion_order(old["inputs"]["assets"], rules["2022-01-01"].repay_order, liquid)
    assert first[0] == old["expected"]["sell_first"]
    assert "CVC" not in first
    then = borrow.conversion_order(new["inputs"]["assets"], rules["2025-01-01"].repay_order, liquid)
    assert list(then[:2]) == new["expected"]["sell_order"]


def test_a_debt_comes_down_one_tier() -> None:
    v = VECTORS["partial-110"]
    ceiling = v["inputs"]["tier2_max"]
    tiers = Tiers.from_rows("BTC", [[50, 0.02, 0.1, 10], [ceiling, 0.03, 0.11, 9], [150, 0.04, 0.2, 5]])
    assert borrow.reduction(v["inputs"]["borrowed"], tiers) == v["expected"]["reduce"]
    assert borrow.reduction(40, tiers) == 40


def test_risk_bands() -> None:
    v = VECTORS["risk-bands"]
    assert [risk_band(x) for x in v["inputs"]["mgnRatio"]] == v["expected"]["band"]


# -- against cross, and under change ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    cash=st.floats(1_000, 1e7),
    held=st.lists(st.tuples(st.sampled_from([SWAP, "ETH/USDT:USDT"]), st.integers(1, 400), st.booleans()),
                  min_size=1, max_size=2, unique_by=lambda x: x[0]),
    move=st.floats(0.9, 1.1),
)
def test_stablecoin_account_equals_cross(cash: float, held: list[tuple[str, int, bool]], move: float) -> None:
    """design.md section 5: USDT at 1, discount 1, no debt, no orders."""
    marks = {SWAP: 100_000.0 * move, "ETH/USDT:USDT": 4_000.0 * move}
    rows = [{"symbol": s, "contracts": float(n if long else -n), "entry_price": marks[s] / move, "leverage": 10}
            for s, n, long in held]
    builder = PositionBuilder.from_dict(
        book({"USDT": cash}, positions=rows, discounts=FULL, rules={"extrapolate": "nearest"},
             prices={"mark": marks, "index": {"USDT/USD": 1.0, PAIR: marks[SWAP]}})
    )
    one, two = builder.report("cross"), builder.report(MODE)
    a, b = one.pool("USDT"), two.pool("account")
    assert a is not None
    assert b is not None
    if b.equity <= 0:
        return  # a debt needs margin of its own
    for name in ("equity", "initial_margin", "maintenance_margin", "liquidation_fee", "margin_ratio", "available"):
        assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-12), name
    assert two.account.leverage == pytest.approx(one.account.leverage, rel=1e-12)
    assert two.account.equity_usd == pytest.approx(one.account.equity_usd, rel=1e-12)
    for p, q in zip(one.positions, two.positions, strict=True):
        for name in ("unrealised_pnl", "initial_margin", "maintenance_margin", "liquidation_fee", "margin_ratio",
                     "break_even_price"):
            assert getattr(q, name) == pytest.approx(getattr(p, name), rel=1e-12), name


@pytest.mark.parametrize("contracts", [50.0, -50.0])
def test_liquidation_prices_equal_cross_where_no_debt_comes_in(contracts: float) -> None:
    """The closed form of cross margin, found by search: while the account owes nothing at that price."""
    builder = PositionBuilder.from_dict(book({"USDT": 8_000.0}, positions=[swap(contracts)], discounts=FULL))
    one, two = builder.report("cross").positions[0], builder.report(MODE).positions[0]
    for name in ("trigger_price", "liquidation_price", "bankruptcy_price"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-12), name


COINS = st.fixed_dictionaries({
    "USDT": st.floats(-50_000, 300_000), "BTC": st.floats(-2, 30), "ETH": st.floats(-20, 800),
})


def account(balances: dict[str, float], contracts: float, orders: tuple[Order, ...] = ()) -> Account:
    found = Account(balances)
    if contracts:
        found.adopt(Position(RULES.instrument(SWAP), "cross", "net", contracts, 100_000.0, 10.0))
    for order in orders:
        found.place(order)
    return found


RULES = load_rules("okx").as_of(parse_time("2025-10-10", ""))
TIME = parse_time("2025-10-10", "")
MARKET = Market(TIME, {SWAP: 101_000.0}, {PAIR: 101_000.0, "ETH/USDT": 4_000.0},
                {PAIR: 101_000.0, "ETH/USDT": 4_000.0, "USDT/USD": 0.999})
SELL = Order(1, RULES.instrument(PAIR), "sell", 1.5, 102_000.0, "cross")


@settings(max_examples=60, deadline=None)
@given(COINS, st.integers(-300, 300), st.sampled_from(["USDT", "BTC", "ETH"]), st.floats(0.001, 1e3), st.booleans())
def test_more_collateral_never_lowers_a_positive_ratio(
    balances: dict[str, float], contracts: int, coin: str, more: float, ordered: bool
) -> None:
    amount = more * {"USDT": 1_000.0, "BTC": 0.01, "ETH": 0.2}[coin]
    orders = (SELL,) if ordered else ()

    def ratio(money: dict[str, float]) -> tuple[float, float]:
        (pool,) = pools(account(money, contracts, orders))
        j = judge(pool, MARKET, RULES)
        return float(j.equity), float(j.requirement)

    equity, needs = ratio(balances)
    richer, less = ratio({**balances, coin: balances[coin] + amount})
    assert richer >= equity - 1e-9 * abs(equity)
    assert less <= needs * (1 + 1e-12) + 1e-9
    if equity > 0 and less > 0:
        assert richer / less >= equity / needs * (1 - 1e-9)


@given(COINS, st.integers(-300, 300), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_two_deposits_are_one(balances: dict[str, float], contracts: int, share: float) -> None:
    whole = account(balances, contracts)
    split = account({c: x * share for c, x in balances.items()}, contracts)
    for currency, amount in balances.items():
        split.apply(Entry(TIME, EntryKind.DEPOSIT, currency, cash=amount - amount * share))
    a, b = (assess(x, MULTI_CURRENCY, MARKET, RULES) for x in (whole, split))
    if a.account.margin_ratio is None:
        assert b.account.margin_ratio is None
    else:
        assert a.account.margin_ratio == pytest.approx(b.account.margin_ratio, rel=1e-9)
    assert a.account.adjusted_equity_usd == pytest.approx(b.account.adjusted_equity_usd, rel=1e-9, abs=1e-6)
    for p, q in zip(a.currencies, b.currencies, strict=True):
        assert p.potential_borrow == pytest.approx(q.potential_borrow, rel=1e-9, abs=1e-9)


def test_many_instants_are_single_ones() -> None:
    prices = np.linspace(20_000.0, 260_000.0, 41)
    held = account({"USDT": 120_000.0, "BTC": 3.0, "ETH": 100.0}, -150, (SELL,))
    (pool,) = pools(held)

    def at(price: Any) -> Market:
        return Market(TIME, {SWAP: price}, {PAIR: price}, {PAIR: price, "ETH/USDT": 4_000.0, "USDT/USD": 0.999})

    many = judge(pool, at(prices), RULES)
    for i, price in enumerate(prices):
        single = judge(pool, at(float(price)), RULES)
        for name in ("equity", "initial", "maintenance", "fee"):
            array = np.broadcast_to(getattr(many, name), prices.shape)
            assert array[i] == pytest.approx(getattr(single, name), rel=1e-12, abs=1e-9), (name, price)


@given(COINS, st.integers(-300, 300))
@settings(max_examples=40, deadline=None)
def test_liabilities_are_negative_equity(balances: dict[str, float], contracts: int) -> None:
    found = assess(account(balances, contracts), MULTI_CURRENCY, MARKET, RULES)
    owed = {r.currency for r in found.currencies if r.liability > 0}
    assert owed == {r.currency for r in found.currencies if r.equity < 0}
    for r in found.currencies:
        assert r.liability == max(0.0, -r.equity)
        assert r.available_equity * r.potential_borrow == 0.0
        if r.equity < 0:
            assert r.discounted_equity_usd == pytest.approx(r.equity_usd)
    pool = found.pool("account")
    assert pool is not None
    assert {c.unit for c in pool.charges if c.name == "borrow margin"} == owed
    assert pool.equity == pytest.approx(sum(pool.equity_parts.values()))
    json.dumps(found.to_dict(), allow_nan=False)


# -- what moves the account ------------------------------------------------------------------------------------------


def test_an_unrealised_loss_is_borrowed_and_needs_margin() -> None:
    """A long in USDT contracts on BTC alone: the loss is a USDT debt; the fall takes the collateral with it."""
    rows = [swap(100.0, 110_000.0)]
    found = report({"BTC": 1.0}, positions=rows)
    usdt, pool = row(found, "USDT"), found.pool("account")
    assert (usdt.balance, usdt.equity, usdt.liability) == (0.0, -10_000.0, 10_000.0)
    assert usdt.unrealised_liability == 10_000.0
    assert pool is not None
    debt = next(c for c in pool.charges if c.unit == "USDT")
    assert (debt.initial, debt.maintenance) == pytest.approx((1_000.0, 200.0))
    assert debt.fee == pytest.approx(10_000 * 1.02 * 0.001)
    assert found.account.adjusted_equity_usd == pytest.approx(98_000.0 - 10_000.0)
    safe = report({"USDT": 98_000.0}, positions=rows, discounts=FULL)
    coin_price, cash_price = (x.positions[0].trigger_price for x in (found, safe))
    assert coin_price is not None
    assert cash_price is not None
    assert coin_price > cash_price + 20_000  # the coin account dies first


def test_a_search_price_is_where_the_ratio_is_one() -> None:
    held = {"BTC": 1.0, "ETH": 5.0}
    found = report(held, positions=[swap(100.0)])
    price = found.positions[0].trigger_price
    assert price is not None
    prices = {"mark": {SWAP: price}, "index": {PAIR: price, "ETH/USDT": 4_000.0, "USDT/USD": 1.0}}
    there = report(held, positions=[swap(100.0)], prices=prices)
    assert there.account.margin_ratio == pytest.approx(1.0, rel=1e-9)
    assert there.account.equity_usd == pytest.approx(price + 20_000 + (price - 100_000))


def test_a_depeg_moves_adjusted_equity() -> None:
    prices = copy.deepcopy(PRICES)
    prices["index"]["USDT/USD"] = 0.97
    calm, depegged = report({"USDT": 50_000.0}), report({"USDT": 50_000.0}, prices=prices)
    assert calm.account.adjusted_equity_usd == 50_000.0
    assert depegged.account.adjusted_equity_usd == pytest.approx(48_500.0)


def test_usd_prices_fall_back_pair_by_pair() -> None:
    index = {"BTC/USD": 100_000.0, "ETH/BTC": 0.04, "FOO/ETH": 0.5, "BAR/USDC": 2.0, "USDC/USD": 0.99}
    market = Market(TIME, indexes=index)
    assert market.usd("ETH") == pytest.approx(4_000.0)
    assert market.usd("FOO") == pytest.approx(2_000.0)
    assert market.usd("BAR") == pytest.approx(1.98)
    with pytest.raises(MissingPrice):
        market.usd("NOPE")
    with pytest.raises(MissingPrice):
        Market(TIME, indexes={"ETH/BTC": 0.04}).usd("ETH")


def test_a_spot_order_that_loses_lowers_adjusted_equity() -> None:
    """Buying BTC at the index turns USDT that counts whole into a coin at 98 %, less the fee."""
    orders = [{"symbol": PAIR, "side": "buy", "amount": 1, "price": 100_000}]
    plain, ordered = report({"USDT": 200_000.0}), report({"USDT": 200_000.0}, orders=orders)
    pool = ordered.pool("account")
    assert pool is not None
    loss = 100_000 - 100_000 * (1 - 0.001) * 0.98
    assert pool.equity_parts["spot order loss"] == pytest.approx(-loss)
    assert ordered.orders[0].order_loss == pytest.approx(loss)
    assert ordered.account.adjusted_equity_usd == pytest.approx((plain.account.adjusted_equity_usd or 0) - loss)
    selling = [{"symbol": PAIR, "side": "sell", "amount": 1, "price": 100_000}]
    assert "spot order loss" not in (report({"BTC": 2.0}, orders=selling).pool("account") or pool).equity_parts


def test_collateral_switched_off_backs_nothing() -> None:
    on, off = report({"BTC": 1.0, "ETH": 10.0}), report({"BTC": 1.0, "ETH": 10.0}, borrow={"collateral_off": ["ETH"]})
    assert row(off, "ETH").discounted_equity_usd == 0.0
    assert off.account.adjusted_equity_usd == 98_000.0
    assert (on.account.equity_usd, off.account.idle_usd) == (off.account.equity_usd, 40_000.0)
    for balances, more in (({"ETH": -1.0, "BTC": 1.0}, {"collateral_off": ["ETH"]}),
                           ({"BTC": 1.0}, {"collateral_off": ["USDT"]})):
        with pytest.raises(InputError, match="collateral_off"):
            report(balances, borrow=more, positions=[swap(1.0)])
    with pytest.raises(InputError, match="not be switched off"):
        report({"USDT": 1.0}, borrow={"collateral_off": ["BTC"]}, time="2025-01-10")


def test_a_cross_loan_is_balances_here() -> None:
    loan = {"symbol": PAIR, "margin_mode": "cross", "direction": "long", "margin_currency": "USDT", "assets": 1.0,
            "liability": 90_000.0, "interest": 12.0, "entry_price": 90_000.0, "leverage": 5}
    plain = report({"BTC": 1.0, "USDT": -70_000.0}, borrow={"interest": {"USDT": 12.0}})
    merged = report({"USDT": 20_000.0}, positions=[loan])
    assert merged.currencies == plain.currencies
    assert merged.account == plain.account
    assert row(merged, "USDT").liability == 70_012.0


def test_isolated_positions_until_they_were_taken_away() -> None:
    rows = [{**swap(10.0), "margin_mode": "isolated", "margin": 1_000.0}, swap(-5.0)]
    found = report({"USDT": 10_000.0}, positions=rows, time="2025-07-01", rules={"extrapolate": "nearest"})
    assert [p.name for p in found.pools] == [f"{SWAP} isolated", "account"]
    assert found.account.equity_usd == pytest.approx(11_000.0)
    assert found.account.adjusted_equity_usd == pytest.approx(10_000.0)
    with pytest.raises(InputError, match="50072"):
        report({"USDT": 10_000.0}, positions=rows)


# -- the gate ---------------------------------------------------------------------------------------------------------


def answer(balances: dict[str, float], order: dict[str, Any], **over: Any) -> tuple[bool, str]:
    found = report(balances, orders=[order], **over).orders[0]
    return found.accepted, found.reason


def test_orders_are_taken_while_adjusted_equity_covers_initial_margin() -> None:
    fits = {"symbol": SWAP, "side": "buy", "amount": 97, "price": 100_000, "leverage": 1}
    assert answer({"BTC": 1.0}, fits)[0]
    accepted, reason = answer({"BTC": 1.0}, {**fits, "amount": 98})  # margin 98,000, fee 49, collateral 98,000
    assert not accepted
    assert "less than initial margin (51008)" in reason


@pytest.mark.parametrize(
    ("balances", "order", "over", "says"),
    [
        ({"BTC": 1.0}, {"symbol": SWAP, "side": "buy", "amount": 1, "price": 1e5, "leverage": 10},
         {"borrow": {"auto": False}}, "available equity of USDT"),
        ({"BTC": 1.0}, {"symbol": PAIR, "side": "buy", "amount": 0.1, "price": 1e5}, {"borrow": {"auto": False}},
         "available balance of USDT"),
        ({"BTC": 1.0}, {"symbol": PAIR, "side": "buy", "amount": 0.1, "price": 1e5, "margin_mode": "cash"}, {},
         "available balance of USDT"),
        ({"BTC": 1e3}, {"symbol": PAIR, "side": "buy", "amount": 6, "price": 1e5}, {}, "borrow limit of the account"),
        ({"BTC": 1000.0}, {"symbol": "ETH/USDT", "side": "sell", "amount": 600, "price": 4e3}, {}, "tier limit"),
        ({"BTC": 1.0}, {"symbol": PAIR, "side": "sell", "amount": 1, "price": 1e5, "reduce_only": True}, {}, "51133"),
        ({"USDT": 1e5}, {"symbol": SWAP, "side": "buy", "amount": 1, "price": 1e5, "leverage": 10,
                         "margin_mode": "isolated"}, {}, "50072"),
    ],
)  # fmt: skip
def test_refused_orders(balances: dict[str, float], order: dict[str, Any], over: dict[str, Any], says: str) -> None:
    accepted, reason = answer(balances, order, **over)
    assert not accepted
    assert says in reason


def test_an_order_that_borrows_within_limits_is_taken() -> None:
    assert answer({"BTC": 10.0}, {"symbol": PAIR, "side": "buy", "amount": 1, "price": 1e5})[0]
    assert answer({"USDT": 5e5}, {"symbol": "ETH/USDT", "side": "sell", "amount": 20, "price": 4e3})[0]


# -- never open, never played -----------------------------------------------------------------------------------------


def test_what_is_not_known_raises() -> None:
    with pytest.raises(NoRuleInForce, match=r"discounts: .*PEPE.*`discounts`"):
        report({"PEPE": 1e9}, prices={"index": {"PEPE/USDT": 1e-5}})
    with pytest.raises(NoRuleInForce, match=r"currency_borrow: .*PEPE.*`borrow_tiers`"):
        report({"PEPE": -1e6, "USDT": 1e3}, prices={"index": {"PEPE/USDT": 1e-5}})
    with pytest.raises(NoRuleInForce, match="was not read"):  # the cut-off table of late 2023
        report({"USDT": 2e7}, time="2024-01-15")
    with pytest.raises(MissingPrice):
        report({"ETH": 1.0}, prices={})
    with pytest.raises(InputError, match="beyond the largest known tier"):
        report({"USDT": -1e9, "BTC": 1e6}, discounts=FULL)


def test_stand_ins_are_counted() -> None:
    found = report({"SOL": 10.0}, rules={"extrapolate": "nearest"}, prices={"index": {"SOL/USDT": 200.0}})
    assert any("discounts SOL stands in" in w for w in found.warnings)
    assert any(e.table == "discounts" and e.extrapolated_days > 0 for e in found.evidence)


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"borrow": {"leverage": {"USDT": 11}}}, "borrow.leverage.USDT: expected at most 10"),
        ({"borrow": {"leverage": {"USDT": 0.5}}}, "borrow.leverage.USDT"),
        ({"borrow": {"interest": {"USDT": -1.0}}}, "borrow.interest.USDT"),
        ({"borrow": {"speed": 1}}, "speed"),
        ({"discounts": {"BTC": [[20, 0.98], [10, 0.9]]}}, "discounts.BTC[1]"),
        ({"discounts": {"BTC": [[20, 1.2]]}}, "discounts.BTC[0]"),
        ({"discounts": {"BTC": [[20]]}}, "discounts.BTC[0]"),
        ({"borrow_tiers": {"USDT": [[5e5, 0.1, 0.02]]}}, "borrow_tiers.USDT[0]"),
        ({"borrow_tiers": {"USDT": []}}, "borrow_tiers.USDT"),
        ({"discounts": {"btc/usd": [[20, 0.98]]}}, "discounts.btc/usd"),
    ],
)
def test_bad_books_name_the_key(over: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        report({"USDT": 1e5}, **over)
    assert says in str(caught.value)


def test_debts_are_refused_where_there_are_none() -> None:
    builder = PositionBuilder.from_dict(book({"USDT": -100.0, "BTC": 1.0}))
    reports, refused = builder.reports()
    assert [r.mode for r in reports] == [MODE, "portfolio"]
    assert {r["mode"] for r in refused} >= {"isolated", "cross"}


def test_an_account_too_small_is_warned_of() -> None:
    assert any("10,000 USD" in w for w in report({"USDT": 9_000.0}, time="2026-05-01").warnings)
    assert not any("to enter" in w for w in report({"USDT": 90_000.0}, time="2026-05-01").warnings)


@pytest.mark.parametrize("mode", ["cross", MODE])
def test_stress_without_moves_has_no_rows(mode: str) -> None:
    assert PositionBuilder.from_dict(book({"BTC": 1.0, "USDT": 5e4}, positions=[swap(150.0)])).stress(mode, ()) == []


def test_stress_moves_collateral_and_debt() -> None:
    builder = PositionBuilder.from_dict(book({"BTC": 1.0}, positions=[swap(150.0)]))
    rows = {r.shift: r for r in builder.stress(MODE, (-0.5, -0.3, 0.0, 0.3))}
    assert rows[0.0].margin_ratio == pytest.approx(builder.report(MODE).account.margin_ratio)
    assert [rows[s].state for s in (-0.5, 0.0, 0.3)] == ["liquidation", "safe", "safe"]
    assert rows[-0.3].equity_usd == pytest.approx(70_000.0 - 45_000.0)


def test_dumps_of_ccxt_with_a_debt() -> None:
    details = [{"ccy": "BTC", "cashBal": "-0.5", "eq": "-0.50001", "eqUsd": "-50001", "interest": "0.00001"},
               {"ccy": "USDT", "cashBal": "90000", "eq": "90000", "eqUsd": "89910"}]
    balance = {"info": {"data": [{"details": details, "uTime": "1760054400000"}]}}
    found = PositionBuilder.from_ccxt([], balance, rules={"extrapolate": "nearest"}).report(MODE)
    assert row(found, "BTC").equity == pytest.approx(-0.50001)
    assert row(found, "BTC").interest == 0.00001
    assert found.account.adjusted_equity_usd == pytest.approx(89_910.0 - 50_001.0)


def test_borrow_rates_by_tier_and_by_slice() -> None:
    tiers = load_rules("okx").as_of(TIME).borrow("BTC")
    amounts = np.array([0.0, 20.0, 20.1, 27.0])
    whole, initial = borrow.rates(amounts, tiers)
    assert list(np.asarray(whole)) == [0.02, 0.02, 0.025, 0.03]
    assert list(np.asarray(initial)) == [0.1, 0.1, 0.11, 0.12]
    sliced, _ = borrow.rates(27.0, tiers, marginal=True)
    assert sliced == pytest.approx((20 * 0.02 + 5 * 0.025 + 2 * 0.03) / 27)
    book_ = load_rules("okx").overlay(parameters={"multi_currency": {"borrow_rate": "marginal"}})
    charge = borrow.charge("BTC", 27.0, 1.0, {}, book_.as_of(TIME))
    assert charge.maintenance == pytest.approx(27.0 * sliced)


@pytest.mark.parametrize(("choice", "initial"), [("tier-floor", 0.12), ("leverage", 0.1)])
def test_the_initial_rate_of_a_debt_at_the_highest_setting(choice: str, initial: float) -> None:
    """27 BTC reach tier 3 (12 %); 10x, the most there is, asks for 10 %. Which one counts is a choice of the rules."""
    rules = load_rules("okx").overlay(parameters={"multi_currency": {"borrow_initial": choice}}).as_of(TIME)
    assert borrow.charge("BTC", 27.0, 2.0, {}, rules).initial == pytest.approx(27.0 * 2.0 * initial)
    assert borrow.charge("BTC", 27.0, 2.0, {"BTC": 5.0}, rules).initial == pytest.approx(27.0 * 2.0 * 0.2)


def test_what_rounding_makes_is_not_owed() -> None:
    """A millionth of a millionth of what is frozen and what is there."""
    assert borrow.potential_borrow(1e6, 1e6 + 1e-6) == 0.0
    assert borrow.potential_borrow(1e6, 1e6 + 4e-6) == pytest.approx(4e-6, rel=1e-4)
    many = borrow.potential_borrow(np.array([1e6, 1e6, -3.0]), np.array([1e6 + 1e-6, 1e6 + 1.0, 0.0]))
    assert list(np.asarray(many)) == [0.0, 1.0, 3.0]
    assert borrow.potential_borrow(-1e-9, 0.0) == 1e-9


def test_a_ladder_that_ends_below_one_coin_has_rates() -> None:
    tiers = Tiers.from_rows("BTC", [[0.2, 0.02, 0.1, 10], [0.4, 0.04, 0.2, 5]])
    assert borrow.rates(0.3, tiers) == (0.04, 0.2)
    assert all(isinstance(rate, float) for rate in (*borrow.rates(0.3, tiers), *borrow.rates(0.3, tiers, True)))


def test_a_borrow_charge_says_what_it_rests_on() -> None:
    """27 BTC of 2 USD in tier 3 of the venue: 3 %, 12 %."""
    row = borrow.charge("BTC", 27.0, 2.0, {"BTC": 5.0}, RULES)
    assert (row.name, row.unit) == ("borrow margin", "BTC")
    assert row.detail == {"amount": 27.0, "usd": 2.0, "leverage": 5.0, "rate": 0.03, "tier_initial": 0.12,
                          "taker": RULES.fees("margin").taker}


def test_why_so_much_may_not_be_owed_and_how_much_is_too_much() -> None:
    """The ladder at a leverage, or what an account may owe at all; at either itself rounding does no harm."""
    tiers, most = RULES.borrow("BTC"), RULES.borrow_limit("BTC")
    limit, low = tiers.max_size(9.0), min(row.max_leverage for row in tiers.rows)
    assert limit < most < tiers.max_size(low)
    for leverage, bound, says in ((9.0, limit, "the tier limit at leverage 9; lower the leverage"),
                                  (low, most, "the borrow limit of the account")):
        chosen = {"BTC": leverage}
        for owed in (bound, bound * (1 + 5e-13)):
            assert borrow.excess("BTC", owed, chosen, RULES) == ("", 0.0)
        why, more = borrow.excess("BTC", bound + 0.5, chosen, RULES)
        assert why.endswith(f"exceeds {bound:,.10g}, {says} (51008)")
        assert more == pytest.approx(0.5)


def test_an_hour_that_has_not_come_costs_nothing() -> None:
    hour = 3_600_000
    assert borrow.hours(0, hour - 1) == ()
    assert borrow.hours(0, hour) == (hour,)
    assert borrow.hours(hour, 3 * hour - 1) == (2 * hour,)


def line(cash: float, accrued: float = 0.0, unrealised: float = 0.0, **frozen: float) -> currencies.Line:
    held = [frozen.get(name, 0.0) for name in ("given", "premiums", "isolated", "fees")]
    return currencies.Line("USDT", cash, accrued, unrealised, 0.0, *held, 1.0, cash - accrued + unrealised)


def test_a_line_adds_up() -> None:
    """OKX `eq`, `frozenBal`, `availEq`, and the balance that pays without borrowing (rule book section 1)."""
    one = line(100.0, 5.0, 40.0, given=1.0, premiums=2.0, isolated=4.0, fees=8.0)
    assert (one.equity, one.frozen, one.available_equity, one.available_balance) == (135.0, 15.0, 120.0, 80.0)
    assert (one.potential_borrow, one.liability) == (0.0, 0.0)
    two = line(-100.0, 5.0, 40.0, given=1.0)
    assert (two.available_equity, two.available_balance) == (0.0, 0.0)
    assert (two.potential_borrow, two.liability) == (66.0, 65.0)


def test_interest_runs_on_owed_cash_or_on_losses_beyond_it() -> None:
    owed = [line(-1.0, 0.0, 5.0), line(5.0, 0.0, -6.0), line(5.0, 5.5), line(5.0, 0.0, -4.0), line(0.0)]
    assert [currencies.costs_interest(one) for one in owed] == [True, True, True, False, False]


def test_what_orders_hold_leaves_adjusted_equity() -> None:
    """A premium to be paid and the fee, in coins of the option, valued in USD (rule book section 2)."""
    option = "BTC/USD:BTC-251226-100000-C"
    prices = {"mark": {option: 0.05}, "index": {PAIR: 100_000.0, "BTC/USD": 100_000.0, "USDT/USD": 1.0}}
    buy = {"symbol": option, "side": "buy", "amount": 100, "price": 0.04, "margin_mode": "cross"}
    plain, ordered = (report({"BTC": 2.0}, discounts=FULL, orders=orders, prices=prices) for orders in ([], [buy]))
    coin = row(ordered, "BTC")
    assert coin.frozen == pytest.approx(0.04 + 0.0003)
    gone = plain.account.adjusted_equity_usd - ordered.account.adjusted_equity_usd
    assert gone == pytest.approx((0.04 + 0.0003) * 100_000.0)


def test_an_isolated_loan_trades_no_coins_of_the_account() -> None:
    pair = RULES.instrument(PAIR)
    orders = [Order(1, pair, "buy", 1.0, 1e5, mode, leverage=5.0) for mode in ("cash", "cross", "isolated")]
    assert [currencies.trades_coins(one) for one in orders] == [True, True, False]


def test_defaults_of_borrowing() -> None:
    assert (Borrowing().auto, Borrowing().leverage, Borrowing().collateral_off) == (True, {}, frozenset())
    charge = borrow.charge("USDT", 100.0, 1.0, {}, RULES)
    assert charge.detail["leverage"] == 10.0


def test_every_vector_is_checked_here() -> None:
    text = Path(__file__).read_text()
    assert [name for name in VECTORS if name not in text and not name.startswith("step-")] == []


def test_contracts_of_every_settlement_share_one_pool() -> None:
    """A coin-margined short, a USDT long and a short option on two coins: one ratio, each in its own currency."""
    option = "BTC/USD:BTC-251226-150000-C"
    rows: list[dict[str, Any]] = [
        swap(40.0), {"symbol": "BTC/USD:BTC", "contracts": -500.0, "entry_price": 110_000.0, "leverage": 5},
        {"symbol": option, "contracts": -10.0, "entry_price": 0.02},
    ]
    prices = {"mark": {SWAP: 100_000.0, "BTC/USD:BTC": 100_100.0, option: 0.015},
              "index": {"BTC/USD": 100_000.0, PAIR: 100_000.0, "USDT/USD": 1.0, "ETH/USDT": 4_000.0},
              "forward": {"BTC/USD:BTC-251226": 102_000.0}}
    builder = PositionBuilder.from_dict(
        book({"BTC": 0.5, "ETH": 5.0}, positions=rows, rules={"extrapolate": "nearest"}, prices=prices)
    )
    found = builder.report(MODE)
    pool = found.pool("account")
    assert pool is not None
    assert {c.unit for c in pool.charges} == {SWAP, "BTC/USD:BTC", option}
    inverse = next(c for c in pool.charges if c.unit == "BTC/USD:BTC")
    assert inverse.initial == pytest.approx(500 * 100 / 100_100 / 5 * 100_000)
    coin = row(found, "BTC")
    upl = 50_000 / 100_100 - 50_000 / 110_000
    assert coin.unrealised_pnl == pytest.approx(upl)
    assert coin.equity == pytest.approx(0.5 + upl - 10 * 0.01 * 0.015)
    assert coin.discounted_equity_usd == pytest.approx((0.5 + upl) * 100_000 * 0.98)  # without the option
    json.dumps(found.to_dict(), allow_nan=False)
    moved = builder.stress(MODE, (0.0, 0.1))
    assert moved[0].margin_ratio == pytest.approx(found.account.margin_ratio)


def test_the_most_that_may_be_borrowed_is_never_less_than_nothing() -> None:
    assert (borrow.most(-5.0, 10.0), borrow.most(0.5, 3.0)) == (0.0, 0.5)
