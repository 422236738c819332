"""The rule table of portfolio margin: what is in force when, how well it is known, and that it feeds the kernels."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.risk import charges, grid, pnl
from bt_margin.risk.black import YEAR_DAYS
from bt_margin.rules import loading
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.portfolio import PARAMETERS, DepegRow, PortfolioOptionRow, PortfolioRow

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "portfolio.json").read_text("utf-8"))
VECTORS = {vector["id"]: vector for vector in GOLDEN}
CRASHES = ("2020-03-12", "2021-05-19", "2022-05-09", "2022-11-08", "2024-08-05", "2025-10-10", "2026-05-01")
COINS = ("BTC", "ETH", "SOL", "LTC", "EOS", "DOGE", "FTT")
MERGE = "2025-01-21T08:00"


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return load_rules("okx")


def grades(book: RuleBook, day: str, base: str) -> dict[str, str]:
    """Grade of every parameter of a coin's unit."""
    rules = book.overlay().as_of(ms(day), "nearest")
    rules.portfolio(base)
    return {row.subject.partition(".")[2]: row.grade for row in rules.evidence()}


# -- the vectors through the table ---------------------------------------------------------------------------


def test_the_sample_of_2025_under_the_rules_of_the_merge(book: RuleBook) -> None:
    vector = VECTORS["okx_pb_2025_btc_unit"]
    given, expected = vector["inputs"], vector["expected"]
    row = book.as_of(ms(given["as_of"])).portfolio("BTC")
    assert row.units == "by-coin"
    coins, index, usd = np.array([given["contracts"] * given["contract_size"]]), given["index"], given["usdt_usd"]
    gains = pnl.linear_pnl(coins, index, usd, grid.spot_vol_grid(row.mr1_moves).spot)
    extremes = pnl.linear_pnl(coins, index, usd, grid.extreme_moves(row.mr6_move).spot)
    delta = pnl.linear_delta(coins, given["mark"], usd)
    mr4 = charges.mr4_basis(delta, np.zeros(1), rate=row.mr4_rate, floor=row.mr4_floor)
    bounds, multipliers = zip(*row.mr7_tiers, strict=True)
    found = {
        "mr1": charges.mr1_spot_shock(gains),
        "mr4": mr4,
        "mr6": charges.mr6_extreme_move(extremes, factor=row.mr6_factor),
        "mr7": charges.mr7_minimum(
            pnl.delta_one_closing(delta, rate=row.mr7_delta_one), bounds=bounds, multipliers=multipliers
        ),
    }
    stress = charges.unit_stress(found["mr1"], 0.0, 0.0, mr4, 0.0, found["mr6"])
    found["mmr"] = charges.unit_maintenance(stress, found["mr7"])
    found["imr"] = charges.initial_margin(found["mmr"], factor=row.imr_factor)
    assert found == pytest.approx({key: expected[key] for key in found}, rel=vector["rel_tol"])


def test_the_sample_of_2022_under_the_rules_of_its_day(book: RuleBook) -> None:
    vector = VECTORS["okx_pb_2022_short_call_exact"]
    given, expected = vector["inputs"], vector["expected"]
    rules = book.as_of(ms(given["as_of"]))
    row, option = rules.portfolio("BTC"), rules.portfolio_options("BTC")
    assert (row.units, row.spot_in_use) == ("by-settlement", "none")
    vol, days = np.array([given["vol"]]), given["days"]
    coins, years = np.array([given["coins"]]), days / YEAR_DAYS
    call = ("C", coins, 1.0, given["forward"], given["strike"], years, vol)
    scenarios = grid.spot_vol_grid(row.mr1_moves)
    powers = {"power_short": option.vol_power_short, "power_long": option.vol_power_long}
    shift = grid.vol_shift(
        vol,
        points=grid.tenor_curve(days, at_30d=option.vol_points_30d, cap=option.vol_points_cap, **powers),
        percent=grid.tenor_curve(days, at_30d=option.vol_percent_30d, cap=option.vol_percent_cap, **powers),
    )
    vols = grid.shocked_vol(vol, shift, scenarios, floor=option.vol_floor)
    mr1 = charges.mr1_spot_shock(pnl.option_pnl(*call, scenarios.spot, vols=vols))
    assert mr1 == pytest.approx(expected["mr1"], rel=2e-4)  # the curve is calibrated, not published
    extremes = pnl.option_pnl(*call, grid.extreme_moves(row.mr6_move).spot)
    assert charges.mr6_extreme_move(extremes, factor=row.mr6_factor) == pytest.approx(expected["mr6"], rel=3e-6)
    decay = pnl.decay_pnl(*call, days=option.mr2_days)
    assert charges.mr2_theta(decay, factor=option.mr2_factor) == pytest.approx(expected["mr2"], rel=3e-6)
    raw = pnl.option_closing(
        coins, 1.0, pnl.option_value(*call), short_rate=option.mr7_short_option, long_rate=option.mr7_long_option
    )
    assert raw == pytest.approx(expected["mr7"])
    noted = {e.subject: e.grade for e in rules.evidence()}
    assert noted["BTC.mr6_factor"] == noted["BTC.mr2_factor"] == noted["BTC.mr7_short_option"] == "derived"


@pytest.mark.parametrize("name", ["okx_spot_hedge_2024_before", "okx_spot_hedge_2024_after_exact"])
def test_spot_against_derivatives_pays_from_june_2024(book: RuleBook, name: str) -> None:
    given, expected = VECTORS[name]["inputs"], VECTORS[name]["expected"]
    row = book.as_of(ms(given["as_of"])).portfolio("BTC")
    assert row.mr4_kind == "pairs"
    assert row.spot_in_use == "chosen"
    deltas = np.array([given["spot"] * given["index"], -given["spot"] * given["mark"]])
    mr4 = charges.mr4_basis_pairs(
        deltas, np.zeros(2), np.array([True, False]), rate=row.mr4_rate, spot_rate=row.mr4_spot_rate
    )
    raw = pnl.delta_one_closing(deltas, rate=np.array([row.mr7_spot, row.mr7_delta_one]))
    bounds, multipliers = zip(*row.mr7_tiers, strict=True)
    mr7 = charges.mr7_minimum(raw, bounds=bounds, multipliers=multipliers)
    assert (mr4, mr7) == pytest.approx((expected["mr4"], expected["mr7"]), rel=VECTORS[name]["rel_tol"])


@pytest.mark.parametrize("vector", [v for v in GOLDEN if "as_of" in v["inputs"] and v["kind"] == "scale"])
def test_scales_in_force(book: RuleBook, vector: dict[str, Any]) -> None:
    tiers = book.as_of(ms(vector["inputs"]["as_of"])).portfolio("ETH").mr7_tiers
    printed = [tuple(row) for row in vector["inputs"]["tiers"]]
    assert tiers[:-1] == tuple(printed[:-1])
    assert tiers[-1] == (math.inf, printed[-1][1])


def test_the_depeg_grid_in_force(book: RuleBook) -> None:
    vector = VECTORS["proposed_mr9_grid_10m"]
    row = book.as_of(ms(vector["inputs"]["as_of"])).portfolio_depeg("BTC")
    volume = vector["inputs"]["volume"]
    found = [
        charges.mr9_depeg(
            np.array([volume, 0.0, -volume]), np.array([price, 1.0, 1.0]), nodes=row.mr9_prices,
            bounds=[tier[0] for tier in row.mr9_tiers], factors=[tier[1:] for tier in row.mr9_tiers],
        )
        for price in vector["inputs"]["prices"]
    ]
    assert found == pytest.approx(vector["expected"]["mr9"], rel=vector["rel_tol"])
    assert book.as_of(ms(MERGE) - 1).portfolio_depeg("BTC").mr9_tiers == ()


# -- what is in force when -----------------------------------------------------------------------------------


@pytest.mark.parametrize("day", CRASHES)
@pytest.mark.parametrize("base", COINS)
def test_every_coin_has_a_row(book: RuleBook, base: str, day: str) -> None:
    rules = book.as_of(ms(day), "nearest")
    row = rules.portfolio(base)
    assert isinstance(row, PortfolioRow)
    assert 0.0 < row.mr1_moves[0] < row.mr1_moves[-1] < row.mr6_move
    assert row.mr7_tiers[-1][0] == math.inf
    assert isinstance(rules.portfolio_depeg(base), DepegRow)
    assert rules.portfolio_ladder.steps[-1] == "general_reduction"


@pytest.mark.parametrize("day", CRASHES)
@pytest.mark.parametrize("base", ["BTC", "ETH"])
def test_two_coins_have_options(book: RuleBook, base: str, day: str) -> None:
    assert isinstance(book.as_of(ms(day), "nearest").portfolio_options(base), PortfolioOptionRow)
    with pytest.raises(NoRuleInForce, match=r"portfolio: SOL\.mr7_short_option is not in the tables.*`portfolio`"):
        book.as_of(ms(day), "nearest").portfolio_options("SOL")


@pytest.mark.parametrize("base", COINS)
def test_before_the_mode_existed_its_first_rules_stand_in(book: RuleBook, base: str) -> None:
    launch = ms("2021-11-01")
    first = book.as_of(launch)
    early = book.as_of(ms("2020-03-12"), "nearest")
    assert early.portfolio(base) == first.portfolio(base)
    assert early.portfolio_account == first.portfolio_account
    assert early.portfolio_ladder == first.portfolio_ladder
    assert early.portfolio_orders == first.portfolio_orders
    with pytest.raises(NoRuleInForce, match="599 days away"):
        book.as_of(ms("2020-03-12")).portfolio(base)


def test_every_subject_begins_with_the_mode() -> None:
    """Else a figure of later years would stand in for the days before the mode existed."""
    table = loading.read("okx")["portfolio"]
    assert {history.revisions[0].effective for history in table.values()} == {ms("2021-11-01")}
    assert {subject.partition(".")[2] for subject in table} == set(PARAMETERS)


@pytest.mark.parametrize(
    ("base", "instant", "before", "after"),
    [
        ("BTC", "2025-01-06T10:00", (0.05, 0.10, 0.15), (0.04, 0.08, 0.12)),
        ("LTC", "2025-01-06T10:00", (0.07, 0.14, 0.20), (0.06, 0.12, 0.18)),
        ("ETH", "2022-09-13", (0.05, 0.10, 0.15), (0.05, 0.10, 0.20)),
        ("SOL", "2025-12-04", (0.08, 0.16, 0.25), (0.06, 0.12, 0.18)),
        ("EOS", "2025-12-04", (0.06, 0.12, 0.18), (0.08, 0.16, 0.25)),
    ],
)
def test_spot_moves_change(
    book: RuleBook, base: str, instant: str, before: tuple[float, ...], after: tuple[float, ...]
) -> None:
    assert book.as_of(ms(instant) - 1).portfolio(base).mr1_moves == before
    assert book.as_of(ms(instant)).portfolio(base).mr1_moves == after


@pytest.mark.parametrize(
    ("base", "extreme", "rate", "floor"),
    [("BTC", 0.24, 0.05, 0.002), ("ETH", 0.24, 0.05, 0.002), ("LTC", 0.36, 0.15, 0.008), ("SOL", 0.36, 0.15, 0.008),
     ("EOS", 0.50, 0.30, 0.016), ("FTT", 0.50, 0.30, 0.016)],
)
def test_groups_after_the_merge(book: RuleBook, base: str, extreme: float, rate: float, floor: float) -> None:
    row = book.as_of(ms(MERGE)).portfolio(base)
    assert (row.mr6_move, row.mr4_rate, row.mr4_floor, row.mr4_spot_rate) == (extreme, rate, floor, 0.0)
    assert (row.units, row.spot_in_use, row.mr4_kind) == ("by-coin", "automatic", "tenors")
    assert book.as_of(ms(MERGE) - 1).portfolio(base).units == "by-settlement"


def test_steps_and_access_by_date(book: RuleBook) -> None:
    early, late = book.as_of(ms("2022-05-09")).portfolio_account, book.as_of(ms("2025-10-10")).portfolio_account
    assert (early.min_equity_usd, late.min_equity_usd) == (100_000.0, 10_000.0)
    assert (early.switch_with_positions, late.switch_with_positions) == (False, True)
    assert (early.isolated_loans, late.isolated_loans) == (True, False)
    steps = [book.as_of(ms(day)).portfolio_ladder.steps for day in ("2022-05-09", "2025-10-10")]
    assert steps[1] == ("stablecoin_hedge", *steps[0])
    assert book.as_of(ms("2022-08-24T07:00")).portfolio("BTC").mr6_factor == 0.5
    assert book.as_of(ms("2024-05-11T08:00")).portfolio("ETH").mr4_rate == 0.10


# -- how well it is known ------------------------------------------------------------------------------------


def test_the_evidence_names_what_a_unit_leans_on(book: RuleBook) -> None:
    noted = grades(book, "2025-10-10", "BTC")
    assert noted["mr1_moves"] == noted["mr6_move"] == noted["mr4_rate"] == "official"
    assert noted["mr4_floor"] == noted["mr6_factor"] == noted["mr7_delta_one"] == "derived"
    assert noted["mr7_tiers"] == "rewrite"
    assert noted["mr4_kind"] == noted["option_delta"] == "inferred"
    assert not {"vol_points_30d", "mr9_tiers", "liquidation_slice"} & set(noted)  # no options, one settlement coin
    assert grades(book, "2025-10-10", "SOL")["mr1_moves"] == "inferred"  # the list changed on an unknown day
    assert grades(book, "2025-01-06T10:00", "SOL")["mr1_moves"] == "official"
    assert grades(book, "2025-10-10", "FTT")["mr4_floor"] == "inferred"


def test_inferred_figures_say_where_they_are_from() -> None:
    for history in loading.read("okx")["portfolio"].values():
        assert all(revision.note for revision in history if revision.grade in ("inferred", "derived"))


def test_the_listing_and_the_grid_show_the_table(book: RuleBook) -> None:
    rows = [row for row in book.listing() if row["table"] == "portfolio"]
    shown = {(row["subject"], row["effective"]): row["summary"] for row in rows}
    assert shown["BTC.mr1_moves", "2025-01-06T10:00:00Z"] == "0.04, 0.08, 0.12"
    assert shown["BTC.mr7_tiers", "2021-12-24T00:00:00Z"].startswith("to 10,000: 1; to 70,000: 2; ")
    assert shown["*.mr9_tiers", "2021-11-01T00:00:00Z"] == "none"
    assert shown["*.mr9_tiers", "2025-01-21T08:00:00Z"].startswith("to 1,000,000: 0.005, 0.005, 0.01, 0.4; ")
    assert shown["*.steps", "2021-11-01T00:00:00Z"] == "dynamic_delta_hedge, basis_pairs, general_reduction"
    windows = {day: (ms(day), ms(day) + 86_400_000) for day in ("2020-03-12", "2025-10-10")}
    grid_ = book.grid(windows, ["BTC/USDT:USDT"])
    assert grid_["portfolio"] == {"2020-03-12": "extrapolated 599 d", "2025-10-10": "inferred"}


# -- a caller's own ------------------------------------------------------------------------------------------


def test_a_callers_figure_holds_for_every_coin_or_for_one(book: RuleBook) -> None:
    mine = book.overlay(parameters={"portfolio": {"SOL.mr4_floor": 0.03, "mr4_floor": 0.01, "mr3_kind": "none"}})
    for day in CRASHES:
        rules = mine.overlay().as_of(ms(day), "nearest")
        assert rules.portfolio("BTC").mr4_floor == rules.portfolio("FTT").mr4_floor == 0.01
        assert rules.portfolio("SOL").mr4_floor == 0.03
        assert rules.portfolio_options("BTC").mr3_kind == "none"
        assert {e.grade for e in rules.evidence() if e.subject.endswith("mr4_floor")} == {"user"}
        assert rules.portfolio("BTC").mr1_moves == book.as_of(ms(day), "nearest").portfolio("BTC").mr1_moves


def test_a_callers_tables(book: RuleBook) -> None:
    own = {"mr7_tiers": [[1e6, 1], [2e6, 2]], "mr1_moves": [0.1, 0.2], "mr7_short_option": 0.02,
           "mr9_prices": [0.98], "mr9_tiers": []}
    rules = book.overlay(parameters={"portfolio": own | {"mr7_long_option": 0}}).as_of(ms("2025-10-10"))
    assert rules.portfolio("SOL").mr7_tiers == ((1e6, 1.0), (2e6, 2.0))
    assert rules.portfolio("SOL").mr1_moves == (0.1, 0.2)
    assert rules.portfolio_options("SOL").mr7_short_option == 0.02
    assert rules.portfolio_depeg("SOL") == DepegRow("none", (0.98,), ())


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"nope": 1}, r"portfolio\.nope: unknown; expected one of hedge_slice"),
        ({"BTC.nope": 1}, r"portfolio\.BTC\.nope: unknown"),
        ({"mr4_floor": "much"}, r"portfolio\.mr4_floor: Expected `float`"),
        ({"mr4_floor": -0.1}, r"portfolio\.mr4_floor: expected finite numbers, zero or above, found -0\.1"),
        ({"mr4_floor": math.nan}, r"portfolio\.mr4_floor: expected finite"),
        ({"mr4_floor": math.inf}, r"portfolio\.mr4_floor: expected finite"),
        ({"mr1_moves": [0.1, math.inf]}, r"portfolio\.mr1_moves: expected finite"),
        ({"mr3_kind": "deribit"}, r"portfolio\.mr3_kind: Invalid enum value 'deribit'"),
        ({"mr7_tiers": [[2e6, 1], [1e6, 2]]}, r"portfolio\.mr7_tiers: expected rising upper bounds"),
        ({"mr7_tiers": [[1e6, 1, 2]]}, r"portfolio\.mr7_tiers: Expected `array` of length 2"),
        ({"mr9_prices": [0.9]}, r"portfolio\.mr9_tiers: expected rows"),
        ({"mr9_tiers": [[1e6, 0.01, 0.02]]}, r"portfolio\.mr9_tiers: expected rows"),
        ([1], "portfolio: expected a table such as"),
    ],
)
def test_figures_that_cannot_be_used(book: RuleBook, given: Any, path: str) -> None:
    with pytest.raises(InputError, match=path):
        book.overlay(parameters={"portfolio": given})


def test_columns_of_the_depeg_table_must_agree() -> None:
    with pytest.raises(ValueError, match=r"expected rows \[upper bound, factor above, 2 factors\]"):
        DepegRow("none", (0.99, 0.8), ((1e6, 0.005, 0.4),))
