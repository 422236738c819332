"""The position builder in portfolio margin: units and spot by date, orders, refusals, options, what-ifs, tables."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bt_margin import PositionBuilder
from bt_margin.engine.builder import parse_time
from bt_margin.engine.orders import Refusal
from bt_margin.engine.portfolio_orders import check, largest
from bt_margin.errors import BtMarginError, InputError, MissingPrice, NoRuleInForce
from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import AccountReport, RiskUnitReport
from bt_margin.model.market import Market
from bt_margin.modes import MODES
from bt_margin.rules.book import load_rules
from tests.command_line import call

MODE, SWAP, PAIR, INVERSE = "portfolio", "BTC/USDT:USDT", "BTC/USDT", "BTC/USD:BTC"
CALL, PUT = "BTC/USD:BTC-250328-100000-C", "BTC/USD:BTC-250328-90000-P"
LATE = "BTC/USD:BTC-250627-110000-C"
WHOLE = {coin: [[1e15, 1.0]] for coin in ("USDT", "USDC", "BTC")}
PRICES = {
    "mark": {SWAP: 100_000.0, INVERSE: 100_000.0, "BTC/USDT:USDT-250328": 101_000.0},
    "index": {PAIR: 100_000.0, "BTC/USD": 100_000.0, "USDT/USD": 1.0},
    "vol": {CALL: 0.6, PUT: 0.65, LATE: 0.55},
    "forward": {"BTC/USD:BTC-250328": 101_000.0, "BTC/USD:BTC-250627": 103_000.0},
}


def leg(symbol: str, contracts: float, entry: float = 100_000.0, **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "contracts": contracts, "entry_price": entry, **more}


def builder(balances: dict[str, float], positions: list[dict[str, Any]], **over: Any) -> PositionBuilder:
    book = {"time": "2025-02-01T00:00:00Z", "balances": balances, "positions": positions, "discounts": WHOLE,
            "prices": copy.deepcopy(PRICES), "rules": {"extrapolate": "nearest"}}
    return PositionBuilder.from_dict(book | over)


def report(balances: dict[str, float], positions: list[dict[str, Any]], **over: Any) -> AccountReport:
    return builder(balances, positions, **over).report(MODE)


def unit(found: AccountReport, name: str = "BTC") -> RiskUnitReport:
    return next(row for row in found.risk_units if row.unit == name)


# -- units and spot by date ----------------------------------------------------------------------------------


def test_one_unit_per_coin_since_the_merge_and_one_per_settlement_before() -> None:
    legs = [leg(SWAP, 100), leg(INVERSE, -1_000)]
    merged = report({"USDT": 1e6, "BTC": 10}, legs)
    assert [row.unit for row in merged.risk_units] == ["BTC"]
    apart = report({"USDT": 1e6, "BTC": 10}, legs, time="2025-01-10T00:00:00Z")
    assert [row.unit for row in apart.risk_units] == ["BTC-USD", "BTC-USDT"]
    assert unit(merged).mr1 == pytest.approx(0.0, abs=1e-6)
    assert unit(merged).mr9 == pytest.approx(500.0)  # 100,000 USD at 0.5 %
    assert all(row.mr9 == 0.0 and row.mr1 == pytest.approx(12_000.0) for row in apart.risk_units)
    assert apart.account.maintenance_margin_usd == pytest.approx(sum(row.mmr for row in apart.risk_units))


@pytest.mark.parametrize(
    ("time", "choice", "used"),
    [
        ("2022-05-09T00:00:00Z", {}, 0.0),
        ("2024-08-05T00:00:00Z", {}, 0.0),
        ("2024-08-05T00:00:00Z", {"unit": {"BTC": "USDT"}}, 3.0),
        ("2024-08-05T00:00:00Z", {"unit": {"BTC": "BTC"}}, 0.0),
        ("2025-02-01T00:00:00Z", {}, 3.0),
        ("2025-02-01T00:00:00Z", {"cap": {"BTC": 1.25}}, 1.25),
        ("2025-02-01T00:00:00Z", {"cap": {"BTC": 0}}, 0.0),
    ],
)
def test_spot_joins_by_the_day_and_the_users_choice(time: str, choice: dict[str, Any], used: float) -> None:
    found = report({"USDT": 1e6, "BTC": 3}, [leg(SWAP, -1_000)], time=time, spot_in_use=choice)
    (row,) = found.risk_units
    assert row.spot_in_use == used
    assert row.delta == pytest.approx(used - 10.0)
    nobody = "2024" in time and not choice
    assert any("name it under spot_in_use.unit.BTC" in note for note in found.warnings) == nobody


def test_owed_coins_hedge_longs() -> None:
    tiers = {"BTC": [[100, 0.02, 0.1]]}
    found = report({"USDT": 1e6, "BTC": -3}, [leg(SWAP, 1_000)], borrow_tiers=tiers)
    assert unit(found).spot_in_use == -3.0
    mr8 = next(row for row in found.pools[0].charges if row.name == "MR8")
    assert (mr8.unit, mr8.maintenance) == ("BTC", pytest.approx(3 * 100_000 * 0.02))


def test_isolated_positions_stay_apart() -> None:
    alone = leg("ETH/USDT:USDT", 10, 4_000.0, margin_mode="isolated", leverage=5, margin=800.0)
    prices = {"mark": {SWAP: 1e5, "ETH/USDT:USDT": 4e3}, "index": {PAIR: 1e5, "ETH/USDT": 4e3, "USDT/USD": 1}}
    found = report({"USDT": 1e6}, [leg(SWAP, 100), alone], prices=prices)
    assert [pool.name for pool in found.pools] == ["ETH/USDT:USDT isolated", "account"]
    assert [row.unit for row in found.risk_units] == ["BTC"]
    assert found.positions[0].initial_margin == pytest.approx(800.0)
    assert found.positions[1].initial_margin is None
    assert found.account.leverage == pytest.approx(0.1)


# -- options -------------------------------------------------------------------------------------------------


def test_options_back_the_account_at_their_mark() -> None:
    bare = {"cap": {"BTC": 0}}
    long, short = (report({"BTC": 10}, [leg(CALL, size, 0.09)], spot_in_use=bare) for size in (100, -100))
    worth = long.positions[0].option_value * 100_000
    assert worth > 0
    assert long.account.adjusted_equity_usd == pytest.approx(1e6 + worth)
    assert short.account.adjusted_equity_usd == pytest.approx(1e6 - worth)
    assert unit(short).mr1 > unit(long).mr1
    covered = report({"BTC": 10}, [leg(CALL, -100, 0.09)])  # the coins themselves hedge the call
    assert 0 < unit(covered).spot_in_use < 1
    assert unit(covered).mr1 < unit(short).mr1
    assert (unit(long).mr5, unit(long).mr3) == (0.0, 0.0)
    assert unit(short).mr7 == pytest.approx(0.022 * 100_000)
    assert unit(short).mr1_worst["vol_shock"] == "up"
    assert unit(long).mr1_worst["spot_shock"] < 0


def test_expiries_offset_vega_for_a_price() -> None:
    legs = [leg(CALL, -100, 0.09), leg(LATE, 100, 0.09)]
    found = {kind: unit(report({"BTC": 10}, legs, portfolio={"mr3_kind": kind})).mr3
             for kind in ("none", "deribit_v1", "bybit")}
    assert found["none"] == 0.0 < found["deribit_v1"]
    assert found["bybit"] == pytest.approx(1.0 * 91 * 0.0003 * 100_000)  # coins x days x rate x index


def test_the_worse_reading_of_the_vol_table_is_never_less() -> None:
    legs = [leg(CALL, -100, 0.09), leg(PUT, 150, 0.09), leg(LATE, 60, 0.1)]
    larger, worst = (unit(report({"BTC": 10}, legs, portfolio={"vol_reading": reading}))
                     for reading in ("larger-move", "worst-loss"))
    assert 0 < worst.mr1 <= larger.mr1 * (1 + 1e-12)


def test_options_settled_in_dollars_owe_a_rate_charge() -> None:
    symbol = "BTC/USDT:USDT-250328-100000-C"
    prices = copy.deepcopy(PRICES)
    prices["vol"], prices["forward"] = {symbol: 0.6}, {"BTC/USDT:USDT-250328": 101_000.0}
    found = report({"USDT": 1e6}, [leg(symbol, -100, 9_000.0)], prices=prices,
                   instruments={symbol: {"contract_size": 0.01}})
    row, years = unit(found), (55 * 24 + 8) / 24 / 365
    value = -found.positions[0].option_value
    assert row.mr5 == pytest.approx(0.05 * value * years)
    assert found.account.adjusted_equity_usd == pytest.approx(1e6 - value)
    prices["vol"][CALL], prices["forward"]["BTC/USD:BTC-250328"] = 0.6, 101_000.0
    beside = report({"USDT": 1e6, "BTC": 1.0}, [leg(symbol, -100, 9_000.0), leg(CALL, 50, 0.09)], prices=prices,
                    instruments={symbol: {"contract_size": 0.01}})
    assert unit(beside).mr5 == pytest.approx(row.mr5, rel=1e-12)  # options settled in the coin owe none


def test_a_mark_that_no_vol_gives_is_refused() -> None:
    prices = copy.deepcopy(PRICES)
    prices["vol"] = {}
    prices["mark"][CALL] = 1.0  # type: ignore[index]
    with pytest.raises(InputError, match=rf"prices\.mark\.{CALL}: expected less than the coin"):
        report({"BTC": 10}, [leg(CALL, -1, 0.1)], prices=prices)
    prices["mark"][CALL] = 1e-9  # type: ignore[index]  # below intrinsic: no time value, as in the other modes
    assert unit(report({"BTC": 10}, [leg(CALL, -1, 0.1)], prices=prices)).mr1 > 0


# -- how well it is known ------------------------------------------------------------------------------------


def test_what_rests_on_inferred_parameters_is_named() -> None:
    plain, hedged = report({"USDT": 1e6}, [leg(SWAP, 100)]), report({"USDT": 1e6, "BTC": 1}, [leg(SWAP, -100)])
    assert not unit(plain).indicative
    assert unit(plain).inferred == ("mr4_kind",)
    assert unit(hedged).dominant == "MR7"  # 0.45 % of the perpetual exceeds 0.2 % of both legs
    assert not unit(hedged).indicative
    condor = report({"BTC": 10}, [leg(CALL, -100, 0.09), leg(CALL.replace("100000", "100500"), 100, 0.09)],
                    prices=PRICES | {"vol": {CALL: 0.6, CALL.replace("100000", "100500"): 0.6}})
    assert unit(condor).inferred_share == pytest.approx(1.0)  # MR7 of options after 2022 is carried forward
    assert unit(condor).indicative
    assert any(note.startswith("indicative: unit BTC: 100%") and "mr7_short_option" in note for note in condor.warnings)
    subjects = {(row.table, row.subject) for row in condor.evidence}
    assert all(any(s == ("portfolio", f"{c}.{name}") for s in subjects for c in ("BTC", "*"))
               for name in unit(condor).inferred)
    mine = report({"BTC": 10}, [leg(CALL, -100, 0.09)], portfolio={"vol_points_30d": 20.0})
    assert "vol_points_30d" not in unit(mine).inferred


def test_too_little_equity_only_warns() -> None:
    assert any("needs 10,000 USD" in note for note in report({"USDT": 9_000}, [leg(SWAP, 1)]).warnings)
    assert not any("to enter" in note for note in report({"USDT": 11_000}, [leg(SWAP, 1)]).warnings)
    early = report({"USDT": 50_000}, [leg(SWAP, 1)], time="2022-01-10T00:00:00Z")
    assert any("needs 100,000 USD" in note for note in early.warnings)


def test_position_limits() -> None:
    tiers = {SWAP: {"tiers": [[1_000, 0.004, 0.01, 100], [5_000, 0.01, 0.02, 50]]}}
    found = report({"USDT": 1e8}, [leg(SWAP, 6_000)], instruments=tiers,
                   orders=[{"symbol": SWAP, "side": "buy", "amount": 1}])
    assert any("holds 6,000 contracts, more than 5,000" in note for note in found.warnings)
    assert not found.orders[0].accepted
    assert "may hold (51004)" in found.orders[0].reason
    unknown = report({"USDT": 1e8}, [leg(SWAP, 6_000)], rules={})
    assert any("position limit of BTC/USDT:USDT: not known" in note for note in unknown.warnings)
    free = report({"USDT": 1e8}, [leg(SWAP, 6_000)], instruments=tiers, portfolio={"position_limit": "none"})
    assert not any("position limit" in note for note in free.warnings)


# -- refusals ------------------------------------------------------------------------------------------------


def test_before_its_launch_the_mode_is_refused_with_the_reason() -> None:
    with pytest.raises(NoRuleInForce, match="2021-11-01"):
        report({"USDT": 1e6}, [leg(SWAP, 1)], time="2021-05-19T00:00:00Z", rules={}, prices=PRICES | {"vol": {}})


@pytest.mark.parametrize(
    ("book", "says"),
    [
        ({"positions": [leg(SWAP, 1, position_side="long")]}, "one-way"),
        ({"portfolio": {"nope": 1}}, r"portfolio\.nope: unknown"),
        ({"spot_in_use": {"cap": {"BTC": -1}}}, r"spot_in_use\.cap\.BTC: expected coins"),
        ({"spot_in_use": {"unit": {"BTC": "EUR"}}}, r"unit\.BTC: expected one of USDT, BTC, USDC, found 'EUR'"),
        ({"spot_in_use": {"maximum": {}}}, "unknown field `maximum`"),
        ({"time": "2023-01-01T00:00:00Z", "spot_in_use": {"unit": {"BTC": "USDC"}}}, "one of USDT, BTC, found"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(book: dict[str, Any], says: str) -> None:
    given = {"positions": [leg(SWAP, 1)]} | book
    with pytest.raises(InputError, match=says):
        report({"USDT": 1e6}, given.pop("positions"), **given)


def test_missing_prices_raise() -> None:
    with pytest.raises(MissingPrice):
        report({"USDT": 1e6}, [leg(SWAP, 1)], prices={"mark": {}, "index": {"USDT/USD": 1.0}})
    with pytest.raises(MissingPrice, match="forward"):
        report({"BTC": 1}, [leg(CALL, 1, 0.1)], prices=PRICES | {"forward": {}})


def test_isolated_loans_go_in_the_summer_of_2025() -> None:
    loan = {"symbol": PAIR, "margin_mode": "isolated", "direction": "long", "margin_currency": "USDT", "assets": 0.1,
            "margin": 5_000.0, "liability": 9_000.0, "entry_price": 90_000.0, "leverage": 2}
    prices = PRICES | {"mark": {PAIR: 100_000.0, SWAP: 100_000.0}, "vol": {}}
    assert len(report({"USDT": 1e6}, [loan, leg(SWAP, 1)], prices=prices).pools) == 2
    with pytest.raises(InputError, match=r"positions\[0\]\.margin_mode: portfolio margin takes no isolated"):
        report({"USDT": 1e6}, [loan, leg(SWAP, 1)], time="2025-08-01T00:00:00Z")


# -- orders --------------------------------------------------------------------------------------------------


def test_the_worst_side_of_resting_orders_counts() -> None:
    orders = [{"symbol": SWAP, "side": side, "amount": amount} for side, amount in (("buy", 50), ("sell", 300))]
    bare, resting = report({"USDT": 1e6}, [leg(SWAP, 100)]), report({"USDT": 1e6}, [leg(SWAP, 100)], orders=orders)
    filled = report({"USDT": 1e6}, [leg(SWAP, -200)])
    assert unit(resting).mmr == pytest.approx(unit(filled).mmr)
    assert unit(resting).imr == pytest.approx(1.3 * unit(filled).mmr)
    kept = report({"USDT": 1e6}, [leg(SWAP, 100)], orders=orders, portfolio={"orders_in_maintenance": False})
    assert (unit(kept).mmr, unit(kept).imr) == pytest.approx((unit(bare).mmr, 1.3 * unit(filled).mmr))
    together = report({"USDT": 1e6}, [leg(SWAP, 100)], orders=orders, portfolio={"order_sides": "all"})
    assert unit(together).mmr == pytest.approx(unit(filled).mmr * 1.5 / 2.0)
    assert [order.accepted for order in resting.orders] == [True, True]
    assert resting.orders[0].initial_margin == pytest.approx(1.3 * unit(bare).mmr / 2.0)


def test_a_spot_sale_that_undoes_a_hedge_counts() -> None:
    sale = [{"symbol": PAIR, "side": "sell", "amount": 4, "price": 100_000}]
    bare = unit(report({"USDT": 1e6, "BTC": 10}, [leg(SWAP, -1_000)]))
    resting = unit(report({"USDT": 1e6, "BTC": 10}, [leg(SWAP, -1_000)], orders=sale))
    assert (bare.mr1, resting.mr1) == pytest.approx((0.0, 0.12 * 4 * 100_000))
    assert resting.spot_in_use == 6.0
    early = report({"USDT": 1e6, "BTC": 10}, [leg(SWAP, -1_000)], orders=sale, time="2024-05-01T00:00:00Z",
                   spot_in_use={"unit": {"BTC": "USDT"}})
    assert unit(early, "BTC-USDT").mr1 == pytest.approx(0.0)


def test_orders_are_refused_by_equity_and_pass_when_they_lower_risk() -> None:
    legs, cash = [leg(SWAP, 1_000)], {"USDT": 150_000.0}
    orders = [{"symbol": SWAP, "side": side, "amount": 100} for side in ("buy", "sell")]
    more, less = report(cash, legs, orders=orders).orders
    assert not more.accepted
    assert "51008" in more.reason
    assert more.shortfall > 0
    assert less.accepted
    strict = report(cash, legs, orders=orders, portfolio={"order_check": "covered"}).orders
    assert [row.accepted for row in strict] == [False, False]
    debt = [{"symbol": PAIR, "side": "buy", "amount": 2, "price": 100_000}]
    (refused,) = report({"USDT": 1e5}, [leg(SWAP, 1)], orders=debt, borrow={"auto": False}).orders
    assert "auto-borrow is not enabled" in refused.reason
    closing = [{"symbol": SWAP, "side": "buy", "amount": 1, "reduce_only": True}]
    (nothing,) = report(cash, legs, orders=closing).orders
    assert "no position of BTC/USDT:USDT to reduce" in nothing.reason


def test_the_largest_size_that_could_open() -> None:
    rules = load_rules("okx").overlay(discounts=WHOLE, parameters={"portfolio": {"position_limit": "none"}}).as_of(
        parse_time("2025-02-01T00:00:00Z", ""), "nearest")
    market = Market(rules.time, PRICES["mark"], indexes=PRICES["index"])  # type: ignore[arg-type]
    account = Account({"USDT": 100_000.0})
    order = Order(1, rules.instrument(SWAP), "buy", 10.0, None, "cross")
    size = largest(account, order, market, rules)
    exposure = size * 0.01 * 100_000 / 100_000
    assert 6.2 < exposure < 6.4  # 1 / (1.3 x (12 % + 0.2 %)), less the fee
    assert not isinstance(check(account, replace(order, size=size), market, rules), Refusal)
    above = check(account, replace(order, size=size + order.instrument.lot), market, rules)
    assert isinstance(above, Refusal)


# -- what-ifs ------------------------------------------------------------------------------------------------


def test_a_hedge_moves_each_charge() -> None:
    change = builder({"USDT": 1e6}, [leg(CALL, -500, 0.09)]).what_if(MODE, {SWAP: 300})
    rows = change.units["BTC"]
    assert rows["mr1"].by < 0 < rows["mr4"].by
    assert rows["mr7"].by == pytest.approx(0.0045 * 300_000)
    assert rows["mr2"].by == 0.0
    assert rows["mr9"].before == 0.0
    assert change.account["adjusted_equity_usd"].by == pytest.approx(0.0, abs=1e-6)
    json.dumps(change.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "trades",
    [{SWAP: 50}, {SWAP: -40}, {SWAP: -100}, {SWAP: -250}, {CALL: -10}, {CALL: 25}, {PAIR: 0.5}, {INVERSE: 300},
     {SWAP: -100, INVERSE: -20, PUT: 3}],
)
@pytest.mark.parametrize("mode", [MODE, "multi-currency"])
def test_trades_of_a_what_if_move_no_equity(trades: dict[str, float], mode: str) -> None:
    book = builder({"USDT": 1e6, "BTC": 10}, [leg(SWAP, 100, 90_000.0, leverage=5), leg(CALL, 20, 0.07)])
    change = book.what_if(mode, trades, leverage=5)
    assert change.after.account.equity_usd == pytest.approx(change.before.account.equity_usd, rel=1e-12)
    back = {symbol: -size for symbol, size in trades.items()}
    again = book.adding(trades, leverage=5).adding(back, leverage=5).report(mode)
    for name in ("equity_usd", "maintenance_margin_usd", "initial_margin_usd"):
        assert getattr(again.account, name) == pytest.approx(getattr(change.before.account, name), rel=1e-9)


def test_wrong_trades_are_refused() -> None:
    book = builder({"USDT": 1e6}, [leg(SWAP, 100)])
    for trades, says in (({SWAP: 0.0}, "expected a size"), ({"BTC-PERP": 1.0}, "what_if.BTC-PERP"),
                         ({SWAP: float("nan")}, "finite")):
        with pytest.raises(BtMarginError, match=says):
            book.adding(trades)


def test_stress_walks_the_whole_book() -> None:
    book = builder({"USDT": 5e5, "BTC": 2}, [leg(CALL, -500, 0.09), leg(SWAP, 100), leg(INVERSE, 200)])
    rows = {row.shift: row for row in book.stress(MODE)}
    assert rows[0.0].margin_ratio == pytest.approx(book.report(MODE).account.margin_ratio)
    assert rows[0.0].equity_usd == pytest.approx(book.report(MODE).account.equity_usd)
    ratios = [row.margin_ratio for row in rows.values() if row.margin_ratio is not None]
    assert np.all(np.isfinite(ratios))
    assert len(ratios) == 21


# -- the terminal --------------------------------------------------------------------------------------------


def test_the_terminal_shows_units_scenarios_and_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "book.json"
    path.write_text(json.dumps({
        "time": "2025-02-01T00:00:00Z", "balances": {"USDT": 1e6, "BTC": 1}, "discounts": WHOLE, "prices": PRICES,
        "positions": [leg(CALL, -100, 0.09), leg(SWAP, 20, leverage=10)], "rules": {"extrapolate": "nearest"},
    }))
    assert call("margin", str(path), "--mode", MODE, "--add", f"{SWAP}=40", "--add", f"{PUT}=5") == 0
    shown = capsys.readouterr().out
    for text in ("risk units", "MR9", "greeks of the units", "vol down", "+12.0%", "> -", f"with {SWAP} +40, {PUT} +5",
                 "BTC MR1"):
        assert text in shown, text
    assert call("margin", str(path), "--json", "--add", f"{SWAP}=40") == 0
    body = json.loads(capsys.readouterr().out)
    assert [row["mode"] for row in body["reports"]] == list(MODES)
    assert [row["mode"] for row in body["what_if"]] == list(MODES)
    assert [bool(row["risk_units"]) for row in body["what_if"]] == [False, False, False, True]
    (row,) = body["reports"][-1]["risk_units"]
    assert {"unit", "delta_usd", "mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9", "mmr", "imr", "upl_usd",
            "mr1_scenarios"} <= set(row)
    assert list(row["mr1_scenarios"]) == ["-0.12", "-0.08", "-0.04", "0", "0.04", "0.08", "0.12"]
    assert list(row["mr1_scenarios"]["0"]) == ["down", "same", "up"]
    charges = body["reports"][-1]["pools"][0]["charges"]
    mr1 = next(charge for charge in charges if charge["name"] == "MR1")
    assert {"spot_shock", "vol_shock", "pnl", "value"} <= set(mr1["detail"])
    assert call("margin", str(path), "--json", "--add", f"{INVERSE}=40") == 0  # new there: some want leverage
    body = json.loads(capsys.readouterr().out)
    assert [row["mode"] for row in body["what_if"]] == [MODE]
    assert "what if: positions[2].leverage" in body["refused"][0]["reason"]
    assert call("margin", str(path), "--mode", "cross", "--add", f"{INVERSE}=40") == 2
    assert call("margin", str(path), "--add", "BTC/USDT:USDT") == 2
    assert "--add: expected SYMBOL=SIZE" in capsys.readouterr().err


@pytest.mark.parametrize("orders", [[], [{"symbol": SWAP, "side": "sell", "amount": 60}]])
def test_liquidation_prices_are_where_the_ratio_is_one(orders: list[dict[str, Any]]) -> None:
    legs = [leg(SWAP, -200), leg(CALL, -100, 0.09), leg(INVERSE, 300)]
    book = builder({"USDT": 60_000, "BTC": 0.3}, legs, orders=orders)
    found = book.report(MODE)
    row = next(row for row in found.positions if row.symbol == SWAP)
    assert row.trigger_price is not None
    assert row.bankruptcy_price is not None
    assert 100_000 < row.trigger_price < row.bankruptcy_price
    assert row.liquidation_price is not None  # of positions alone, as the stress test
    move = row.liquidation_price / 100_000 - 1.0
    (there,) = book.stress(MODE, [move])
    assert there.margin_ratio == pytest.approx(1.0, rel=1e-9)
    assert (row.liquidation_price == row.trigger_price) == (not orders)


def test_a_debt_beyond_the_last_tier_ends_the_search_with_a_word() -> None:
    tiers = {"USDT": [[100_000, 0.02, 0.1]]}
    found = report({"USDT": 1_000, "BTC": 1}, [leg(SWAP, 100)], borrow_tiers=tiers)
    assert any("liquidation price" in note for note in found.warnings) or found.positions[0].trigger_price


def test_without_a_mode_the_others_say_what_they_miss() -> None:
    reports, refused = builder({"USDT": 1e6}, [leg(SWAP, 100)]).reports()
    assert [row.mode for row in reports] == [MODE]
    assert all("leverage: expected a number" in row["reason"] for row in refused)
    assert [row["mode"] for row in refused] == ["isolated", "cross", "multi-currency"]
    with pytest.raises(InputError, match=r"positions\[0\]\.leverage"):
        builder({"USDT": 1e6}, [leg(SWAP, 100)]).report("cross")
