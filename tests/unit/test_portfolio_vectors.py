"""Portfolio margin against every figure at hand, through `bt-margin margin --mode portfolio --json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bt_margin.engine.portfolio_orders import accepts
from tests.command_line import call

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "portfolio.json").read_text("utf-8"))
VECTORS: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in GOLDEN}
SWAP, INVERSE = "BTC/USDT:USDT", "BTC/USD:BTC"
WHOLE = {"USDT": [[1e15, 1.0]], "BTC": [[1e15, 1.0]]}
NO_OTHER = {"mr6_factor": 0.0, "BTC.mr6_factor": 0.0, "mr4_rate": 0.0, "mr4_floor": 0.0}
Margin = Callable[..., dict[str, Any]]


@pytest.fixture
def margin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Margin:
    def run(balances: dict[str, float], positions: list[dict[str, Any]], **over: Any) -> dict[str, Any]:
        book = {"time": "2025-02-01T00:00:00Z", "balances": balances, "positions": positions, "discounts": WHOLE}
        book |= over
        path = tmp_path / "book.json"
        path.write_text(json.dumps(book))
        assert call("margin", str(path), "--mode", "portfolio", "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)["reports"]
        return dict(found)

    return run


def kind(name: str) -> list[Any]:
    return [pytest.param(vector, id=vector["id"]) for vector in GOLDEN if vector["kind"] == name]


def swap(contracts: float, symbol: str = SWAP, entry: float = 100_000.0) -> dict[str, Any]:
    return {"symbol": symbol, "contracts": contracts, "entry_price": entry}


def test_the_position_builder_sample_of_2025(margin: Margin) -> None:
    unit, account = VECTORS["okx_pb_2025_btc_unit"]["expected"], VECTORS["okx_pb_2025_account"]["expected"]
    vector = VECTORS["okx_pb_2025_ltc_unit"]
    given, expected = vector["inputs"], vector["expected"]
    found = margin(given["balances"], given["positions"], time=given["time"], rules={"as_of": given["as_of"]},
                   prices={"mark": given["mark"], "index": given["index"]}, borrow={"leverage": {"USDT": 10}},
                   discounts={})
    close = {"rel": 1e-14, "abs": 0.0}
    btc, ltc = found["risk_units"]
    for name in ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9", "mmr", "imr", "delta_usd"):
        assert btc[name] == pytest.approx(unit[name], **close), name
    assert btc["mr1_worst"].pop("vol_shock") == "up"
    assert btc["mr1_worst"] == pytest.approx({"spot_shock": 0.12, "pnl": unit["mr1_worst"]["pnl"]}, **close)
    assert btc["mr6_worst"] == pytest.approx({"spot_shock": 0.24, "pnl": unit["mr6_worst"]["pnl"]}, **close)
    assert {move: row["same"] for move, row in btc["mr1_scenarios"].items()} == pytest.approx(
        unit["mr1_grid_pnl"], rel=1e-14, abs=1e-12
    )
    assert ltc["mmr"] == pytest.approx(expected["ltc_mmr"], **close)
    assert btc["upl_usd"] + ltc["upl_usd"] == pytest.approx(expected["upl"], **close)
    figures = found["account"]
    printed = {
        "adjusted_equity_usd": account["adj_eq"], "maintenance_margin_usd": account["total_mmr"],
        "initial_margin_usd": account["total_imr"], "liquidation_fee_usd": account["liquidation_fee_solved"],
        "margin_ratio": account["margin_ratio"], "leverage": expected["acct_lever"],
    }
    assert {name: figures[name] for name in printed} == pytest.approx(printed, **close)
    assert [row["notional_usd"] for row in found["positions"]] == pytest.approx(expected["notional_usd"], **close)
    assert btc["mmr"] + ltc["mmr"] == pytest.approx(account["deriv_mmr"], **close)
    (pool,) = found["pools"]
    (mr8,) = [charge for charge in pool["charges"] if charge["name"] == "MR8"]
    borrowed = (account["borrow_mmr"], account["borrow_imr"])
    assert (mr8["maintenance"], mr8["initial"]) == pytest.approx(borrowed, **close)
    assert sum(charge["maintenance"] for charge in pool["charges"]) == pytest.approx(account["total_mmr"], **close)
    (usdt,) = found["currencies"]
    assert usdt["equity"] == VECTORS["okx_pb_2025_account"]["inputs"]["usdt_equity"]


@pytest.mark.parametrize("vector", kind("spot_hedge_2024"))
def test_spot_hedge_of_2024_with_its_resting_order(margin: Margin, vector: dict[str, Any]) -> None:
    given, expected = vector["inputs"], vector["expected"]
    buy = {"symbol": "BTC/USDT", "side": "buy", "amount": 5, "price": given["mark"]}
    found = margin(
        {"BTC": given["spot"], "USDT": 1e6}, [swap(given["contracts"])], time=f"{given['as_of']}:00Z", orders=[buy],
        prices={"mark": {SWAP: given["mark"]}, "index": {"BTC/USDT": given["index"], "USDT/USD": 1.0}},
        spot_in_use={"unit": {"BTC": "USDT"}},
    )
    (unit,) = found["risk_units"]
    assert (unit["unit"], unit["spot_in_use"]) == ("BTC-USDT", 10.0)
    assert {name: unit[name] for name in expected} == pytest.approx(expected, rel=vector["rel_tol"], abs=1e-9)
    assert found["orders"][0]["accepted"]
    assert found["orders"][0]["initial_margin"] == 0.0


def test_the_short_call_of_2022(margin: Margin) -> None:
    vector = VECTORS["okx_pb_2022_short_call_exact"]
    given, expected = vector["inputs"], vector["expected"]
    greeks = VECTORS["okx_pb_2022_short_call"]["inputs"]
    symbol, index = greeks["symbol"], 37_829.8
    up = 100.0 * (given["up_vol"] - given["vol"])  # OKX's table at 18 days, solved from the sample
    found = margin(
        {}, [swap(-1, symbol, 0.0083)], time=greeks["time"], instruments={symbol: {"contract_size": 0.1}},
        prices={"vol": {symbol: given["vol"]}, "forward": {"BTC/USD:BTC-220325": given["forward"]},
                "index": {"BTC/USD": index}}, borrow_tiers={"BTC": [[100, 0.02, 0.1]]},
        portfolio={"vol_points_cap": up, "vol_percent_cap": 0.0},
    )
    (unit,) = found["risk_units"]
    assert unit["unit"] == "BTC-USD"
    for name in ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mmr", "imr"):
        assert unit[name] / index == pytest.approx(expected[name], rel=vector["rel_tol"]), name
    assert unit["mr1_worst"]["spot_shock"] == 0.15


def test_the_stand_in_for_the_vol_table_misses_the_sample_by_two_ten_thousandths(margin: Margin) -> None:
    vector = VECTORS["okx_pb_2022_short_call_exact"]
    symbol, index = VECTORS["okx_pb_2022_short_call"]["inputs"]["symbol"], 37_829.8
    found = margin(
        {}, [swap(-1, symbol, 0.0083)], time="2022-03-07T07:51:37.536Z", instruments={symbol: {"contract_size": 0.1}},
        prices={"vol": {symbol: 0.8754}, "forward": {"BTC/USD:BTC-220325": 38_138.3}, "index": {"BTC/USD": index}},
        borrow_tiers={"BTC": [[100, 0.02, 0.1]]},
    )
    (unit,) = found["risk_units"]
    assert unit["mr1"] / index == pytest.approx(vector["expected"]["mr1"], rel=2e-4)
    assert not unit["indicative"]  # 38 % of it is what the moved vols add
    assert 0.3 < unit["inferred_share"] < 0.5
    assert "vol_points_30d" in unit["inferred"]


def option_book(vector: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = vector["inputs"]
    symbol = given["symbol"]
    return {
        "time": given["time"], "instruments": {symbol: {"contract_size": given.get("contract_size", 1.0)}},
        "prices": {"vol": {symbol: given["vol"]}, "forward": {symbol[:18]: given["forward"]},
                   "index": {"BTC/USD": given.get("index", 37_829.8)}}, **more,
    }


def test_greeks_of_the_2022_sample(margin: Margin) -> None:
    vector = VECTORS["okx_pb_2022_short_call"]
    symbol = vector["inputs"]["symbol"]
    found = margin({}, [swap(-1, symbol, 0.0083)], **option_book(vector, borrow_tiers={"BTC": [[100, 0.02, 0.1]]}))
    (row,), expected = found["positions"], vector["expected"]
    names = {"delta_pa": "delta_pa", "gamma_pa": "gamma_pa", "theta_pa": "theta_pa_per_day",
             "vega_pa": "vega_pa_per_volpt"}
    for ours, theirs in names.items():
        assert row[ours] == pytest.approx(expected[theirs], rel=vector["rel_tol"]), ours


def test_greeks_of_the_2025_record(margin: Margin) -> None:
    vector = VECTORS["okx_opt_summary_2025_greeks"]
    found = margin({"BTC": 1.0}, [swap(1, vector["inputs"]["symbol"], 0.17)], **option_book(vector))
    (row,), expected = found["positions"], vector["expected"]
    for name in ("delta", "gamma", "theta", "vega"):
        assert row[name] == pytest.approx(expected[f"{name}BS"], rel=vector["rel_tol"]), name
        assert row[f"{name}_pa"] == pytest.approx(expected[name], rel=vector["rel_tol"]), name
    assert 1.0 / row["option_value"] == pytest.approx(expected["lever"], rel=vector["rel_tol"])
    (unit,) = found["risk_units"]
    assert unit["gamma_pa"] == row["gamma_pa"]


@pytest.mark.parametrize("vector", kind("scale"))
def test_mr7_is_scaled_exactly(margin: Margin, vector: dict[str, Any]) -> None:
    given, expected = vector["inputs"], vector["expected"]
    rules: dict[str, Any] = NO_OTHER | {"mr7_delta_one": given["raw"] / 1e7}
    stress = given.get("stress", 0.0)
    rules["mr1_moves"] = [stress / 1e7]
    if "as_of" not in given:
        rules["mr7_tiers"] = given["tiers"]
    day = given.get("as_of", "2022-01-01")
    found = margin({"USDT": 1e8}, [swap(10_000)], time=f"{day}T12:00:00Z", portfolio=rules,
                   prices={"mark": {SWAP: 100_000.0}, "index": {"BTC/USDT": 100_000.0, "USDT/USD": 1.0}})
    (unit,) = found["risk_units"]
    assert unit["mr7"] == expected["mr7"]
    assert unit["mr1"] == pytest.approx(stress)
    assert unit["mmr"] == expected.get("mmr", expected["mr7"])


def two_coins(usdt: float, volume: float = 1e7) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Long `volume` USD in USDT contracts, short as much in coin-margined ones, USDT at a price."""
    prices = {"mark": {SWAP: 100_000.0 / usdt, INVERSE: 100_000.0},
              "index": {"BTC/USDT": 100_000.0 / usdt, "BTC/USD": 100_000.0, "USDT/USD": usdt}}
    return [swap(volume / 1_000.0, entry=100_000.0 / usdt), swap(-volume / 100.0, INVERSE)], prices


def test_mr9_example_exactly(margin: Margin) -> None:
    vector = VECTORS["okx_mr9_10m_example"]
    given = vector["inputs"]
    positions, prices = two_coins(1.0, given["volume"])
    rows = [[bound, factor, factor] for bound, factor in zip(given["bounds"], given["factors"], strict=True)]
    found = margin({"USDT": 1e7, "BTC": 100}, positions, prices=prices,
                   portfolio={"mr9_prices": [0.99], "mr9_tiers": rows})
    (unit,) = found["risk_units"]
    assert unit["mr9"] == vector["expected"]["mr9"] == 202_500.0


def test_mr9_by_the_price_of_the_pair(margin: Margin) -> None:
    vector = VECTORS["proposed_mr9_grid_10m"]
    for price, charge in zip(vector["inputs"]["prices"], vector["expected"]["mr9"], strict=True):
        positions, prices = two_coins(price, vector["inputs"]["volume"])
        (unit,) = margin({"USDT": 1e7, "BTC": 100}, positions, prices=prices)["risk_units"]
        assert unit["mr9"] == pytest.approx(charge, rel=1e-12)
        assert unit["delta_usd"] == pytest.approx(0.0, abs=1e-6)
        assert (unit["mr1"], unit["mr6"]) == pytest.approx((0.0, 0.0), abs=1e-6)
        assert unit["indicative"]


def test_inverse_contracts_are_linear_in_dollars(margin: Margin) -> None:
    vector = VECTORS["inverse_delta_one_is_linear_in_usd"]
    given = vector["inputs"]
    found = margin({"BTC": 10}, [swap(given["face"] / 100, INVERSE, 60_000.0)], spot_in_use={"cap": {"BTC": 0}},
                   prices={"mark": {INVERSE: given["mark"]}, "index": {"BTC/USD": given["index"]}})
    (unit,) = found["risk_units"]
    assert unit["mr1_scenarios"]["-0.12"]["same"] == pytest.approx(vector["expected"]["usd_pnl"], rel=1e-12)
    assert unit["delta_usd"] == given["face"]


def test_basis_of_a_calendar_spread(margin: Margin) -> None:
    vector = VECTORS["proposed_mr4_calendar_spread"]
    perp, dated = vector["inputs"]["cash_delta"]
    future = "BTC/USDT:USDT-250502"  # 90 days after
    found = margin(
        {"USDT": 1e6}, [swap(perp / 1_000), swap(dated / 1_010, future, 101_000.0)], time="2025-02-01T08:00:00Z",
        prices={"mark": {SWAP: 100_000.0, future: 101_000.0}, "index": {"BTC/USDT": 100_000.0, "USDT/USD": 1.0}},
    )
    (unit,) = found["risk_units"]
    assert unit["mr4"] == pytest.approx(vector["expected"]["mr4"], rel=1e-12)


def test_orders_pass_one_of_two_checks() -> None:
    vector = VECTORS["okx_order_delta_verification"]
    found = [accepts(case["adj_eq"], case["imr"], case["adj_eq_after"], case["imr_after"])
             for case in vector["inputs"]["cases"]]
    assert found == vector["expected"]["accepted"]
    covered = [accepts(c["adj_eq"], c["imr"], c["adj_eq_after"], c["imr_after"], order_check="covered")
               for c in vector["inputs"]["cases"]]
    assert covered == [True, False, False, False]


def test_every_vector_to_be_met_is_met_here() -> None:
    met = {"unit_2025", "account_2025", "book_2025", "spot_hedge_2024", "short_call_2022", "greeks_2022", "greeks_2025",
           "scale", "depeg_slices", "inverse", "order_check"}
    assert {v["kind"] for v in GOLDEN if v["use"] == "test"} == met
