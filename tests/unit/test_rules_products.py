"""The rule tables of futures, inverse swaps, options and spot margin."""

from __future__ import annotations

import math
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.instrument import parse
from bt_margin.rules import loading
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.lookups import STABLECOINS

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "rules_products.toml").read_text("utf-8"))["vector"]
CRASHES = ("2020-03-12", "2021-05-19", "2022-05-09", "2022-11-08", "2024-08-05", "2025-10-10")
INVERSE = ("ADA", "AVAX", "BCH", "BTC", "DOGE", "DOT", "ETC", "ETH", "FIL", "LINK", "LTC", "SOL", "SUI", "UNI", "XRP")
SWAP, PAIR = "BTC/USDT:USDT", "BTC/USDT"
FUTURE, COIN_FUTURE, OPTION = "BTC/USDT:USDT-250328", "BTC/USD:BTC-250328", "BTC/USD:BTC-250328-100000-C"


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def vectors(kind: str) -> list[Any]:
    return [pytest.param(v, id=v["id"]) for v in GOLDEN if v["kind"] == kind]


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return load_rules("okx")


def grades(book: RuleBook, day: str, *symbols: str) -> dict[tuple[str, str], str]:
    """Grade of every revision looked up for the contract and tiers of some symbols."""
    fresh = book.overlay().as_of(ms(day), "nearest")
    for symbol in symbols:
        fresh.instrument(symbol)
        if not symbol.endswith(("-C", "-P")):
            fresh.tiers(symbol)
    return {(row.table, row.subject): row.grade for row in fresh.evidence()}


# -- contracts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("contract"))
def test_recorded_contract(book: RuleBook, vector: dict[str, Any]) -> None:
    rules = book.as_of(ms(vector["time"]))
    found = rules.instrument(vector["symbol"])
    assert found.symbol == vector["symbol"]
    assert (found.contract_size, str(found.kind)) == (vector["contract_size"], vector["kind_of_contract"])
    if "first_maintenance" in vector:
        assert rules.tiers(vector["symbol"]).rows[0].maintenance == vector["first_maintenance"]


@pytest.mark.parametrize("vector", vectors("delivery"))
def test_contract_of_a_delivery(book: RuleBook, vector: dict[str, Any]) -> None:
    size = book.as_of(ms(vector["time"])).instrument(vector["symbol"]).contract_size * vector["contracts"]
    pnl = size / vector["entry"] - size / vector["price"]
    assert pnl == pytest.approx(vector["expected"], rel=vector["rel_tol"])


@pytest.mark.parametrize("day", CRASHES)
def test_coin_margined_contracts_are_in_dollars(book: RuleBook, day: str) -> None:
    for base in INVERSE:
        rules = book.as_of(ms(day), "nearest")
        size = 100 if base == "BTC" else 10
        for symbol in (f"{base}/USD:{base}", f"{base}/USD:{base}-260327"):
            found = rules.instrument(symbol)
            assert found.contract_size == size
            assert found.tick > 0
            assert found.settle == base
            assert rules.tiers(symbol).max_leverage >= 20


def test_futures_are_as_their_swap_where_nothing_else_is_recorded(book: RuleBook) -> None:
    found = book.as_of(ms("2022-11-08")).instrument("DOGE/USDT:USDT-221230")
    swap = book.as_of(ms("2022-11-08")).instrument("DOGE/USDT:USDT")
    assert found.symbol == "DOGE/USDT:USDT-221230"
    assert (found.contract_size, found.tick, found.lot) == (swap.contract_size, swap.tick, swap.lot)
    noted = grades(book, "2022-11-08", "SOL/USDT:USDT-221230")
    assert noted["instruments", "SOL/USDT:USDT-*"] == "inferred"  # as the swap's own row is
    assert noted["position_tiers", "SOL/USDT:USDT-*"] == "inferred"
    noted = grades(book, "2024-01-01", "LTC/USDT:USDT-240329")
    assert noted["instruments", "LTC/USDT:USDT-*"] == "derived"
    assert grades(book, "2026-05-01", FUTURE)["instruments", "BTC/USDT:USDT-*"] == "snapshot"


def test_the_swap_is_no_evidence_of_its_own_when_it_only_lends(book: RuleBook) -> None:
    noted = grades(book, "2022-11-08", "SOL/USDT:USDT-221230")
    assert set(noted) == {("instruments", "SOL/USDT:USDT-*"), ("position_tiers", "SOL/USDT:USDT-*")}
    fresh = book.overlay().as_of(ms("2022-11-08"), "nearest")
    fresh.instrument("SOL/USDT:USDT-221230")
    assert fresh.evidence()[0].source.startswith("as the swap of the family: ")


def test_early_futures_were_smaller_than_the_swap(book: RuleBook) -> None:
    early = book.as_of(ms("2020-03-12"))
    assert early.instrument("XRP/USDT:USDT-200327").contract_size == 1
    assert early.instrument("XRP/USDT:USDT").contract_size == 100


def test_options_are_known_by_underlying(book: RuleBook) -> None:
    assert book.as_of(ms("2025-01-01")).instrument("ETH/USD:ETH-250328-4000-P").contract_size == 0.1
    assert book.as_of(ms("2020-12-31")).instrument(OPTION).contract_size == 0.1
    with pytest.raises(NoRuleInForce, match=r"instruments: no revision for BTC/USD:BTC-\*-\* is in force"):
        book.as_of(ms("2022-01-01")).instrument(OPTION)
    assert book.as_of(ms("2023-10-08"), "nearest").instrument(OPTION).contract_size == 0.01
    settled_in_dollars = book.as_of(ms("2026-05-01")).instrument("BTC/USD:USD-260529-100000-C")
    assert (settled_in_dollars.contract_size, settled_in_dollars.settle) == (0.01, "USD")


@pytest.mark.parametrize(
    "symbol", ["NOPE/USDT:USDT", "NOPE/USDT:USDT-250328", "NOPE/USD:NOPE-250328", "SOL/USD:SOL-250328-200-C"]
)
def test_an_unknown_contract_raises(book: RuleBook, symbol: str) -> None:
    for extrapolate in ("never", "nearest"):
        with pytest.raises(NoRuleInForce, match="`instruments`"):
            book.as_of(ms("2025-01-01"), extrapolate).instrument(symbol)  # type: ignore[arg-type]


# -- position tiers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("tiers"))
def test_printed_rows_change_at_their_instant(book: RuleBook, vector: dict[str, Any]) -> None:
    change = ms(vector["change"])
    for instant, rows in ((change - 1, vector["before"]), (change, vector["after"])):
        tiers = book.as_of(instant).tiers(vector["symbol"])
        found = [[row.max_size, row.maintenance, row.initial, row.max_leverage] for row in tiers.rows[: len(rows)]]
        assert found == rows


@pytest.mark.parametrize("day", CRASHES)
@pytest.mark.parametrize("symbol", [f"{base}/USD:{base}" for base in INVERSE] + ["BTC/USDC:USDC", FUTURE, COIN_FUTURE])
def test_every_product_runs_on_some_table(book: RuleBook, symbol: str, day: str) -> None:
    assert book.as_of(ms(day), "nearest").tiers(symbol).rows[0].max_size > 0


@pytest.mark.parametrize("symbol", ["BTC/USD:BTC", "ETH/USD:ETH", "SOL/USD:SOL", FUTURE, COIN_FUTURE])
def test_october_2025_is_in_force_but_inferred(book: RuleBook, symbol: str) -> None:
    rules = book.overlay().as_of(ms("2025-10-10T21:20"), "never")
    rules.tiers(symbol)
    assert [row.grade for row in rules.evidence()] == ["inferred"]


def test_classes_stand_in_with_a_note(book: RuleBook) -> None:
    rules = book.as_of(ms("2025-10-10"))
    assert rules.tiers("DOGE/USD:DOGE").rows[0].maintenance == 0.0065
    assert rules.tiers("AVAX/USD:AVAX").rows[0].maintenance == 0.02
    notes = {row["note"] for row in book.listing() if row["grade"] == "inferred" and row["table"] == "position_tiers"}
    assert notes
    assert all(notes)


def test_coin_swaps_of_march_2020(book: RuleBook) -> None:
    tiers = book.as_of(ms("2020-03-12")).tiers("BTC/USD:BTC")
    assert [row.max_size for row in tiers.rows[:4]] == [2000, 12000, 22000, 32000]
    assert tiers.rows[-1].maintenance == 0.5


@pytest.mark.parametrize(("symbol", "word"), [(PAIR, "margin_tiers"), (OPTION, "option")])
def test_products_without_position_tiers_say_where_to_ask(book: RuleBook, symbol: str, word: str) -> None:
    with pytest.raises(InputError, match=f"no position tiers; ask `{word}`"):
        book.as_of(ms("2025-01-01")).tiers(symbol)


# -- spot margin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("margin_tiers"))
def test_printed_borrow_tiers(book: RuleBook, vector: dict[str, Any]) -> None:
    tiers = book.as_of(ms(vector["time"])).margin_tiers(vector["pair"])
    base, _, quote = vector["pair"].partition("/")
    assert tiers.quote is not None
    assert (tiers.base.unit, tiers.quote.unit) == (base, quote)
    found = [
        [b.max_size, q.max_size, b.maintenance, b.initial, b.max_leverage]
        for b, q in zip(tiers.base.rows, tiers.quote.rows, strict=True)
    ]
    assert found[: len(vector["rows"])] == vector["rows"]
    assert tiers.max_leverage == vector["rows"][0][4]


@pytest.mark.parametrize("vector", vectors("borrowed"))
def test_rate_of_a_recorded_debt(book: RuleBook, vector: dict[str, Any]) -> None:
    tiers = book.as_of(ms(vector["time"])).margin_tiers(vector["pair"])
    rate = tiers.of_quote(vector["borrowed_quote"], vector["mark"]).maintenance
    assert rate == vector["maintenance"]
    margin = vector["borrowed_quote"] * rate / vector["mark"]
    assert margin == pytest.approx(vector["maintenance_margin"], rel=vector["rel_tol"])
    assert book.as_of(ms(vector["time"]) - 1).margin_tiers(vector["pair"]).base.rows[0].maintenance == 0.03


def test_a_debt_is_judged_by_its_side(book: RuleBook) -> None:
    tiers = book.as_of(ms("2023-06-08T10:00")).margin_tiers(PAIR)
    assert tiers.of_base(35).number == 1
    assert tiers.of_base(35.1).number == 2
    assert tiers.of_quote(1_000_000, 1.0).number == 1  # the price does not matter where quote limits are known
    assert tiers.of_quote(1_000_001, 1e9).number == 2
    assert tiers.max_quote(8, 1.0) == 2_000_000
    with pytest.raises(InputError, match="beyond the largest known tier"):
        tiers.of_base(1e9)


def test_margin_tiers_that_are_not_there(book: RuleBook) -> None:
    with pytest.raises(NoRuleInForce, match=r"margin_tiers: SOL/USDT is not in the tables .*`instruments`"):
        book.as_of(ms("2025-10-10"), "nearest").margin_tiers("SOL/USDT")
    with pytest.raises(InputError, match="expected a spot pair"):
        book.as_of(ms("2025-10-10")).margin_tiers(SWAP)
    with pytest.raises(NoRuleInForce, match="2020-11-09"):
        book.as_of(ms("2020-03-12")).margin_tiers(PAIR)


def test_assets_hold_the_margin_until_2025(book: RuleBook) -> None:
    change = ms("2025-02-17")
    assert book.as_of(change - 1).margin.accounting == "assets-with-margin"
    assert book.as_of(change).margin.accounting == "assets-without-margin"
    assert book.as_of(ms("2020-03-12")).margin.accounting == "assets-with-margin"


def test_interest_of_a_currency_or_its_class(book: RuleBook) -> None:
    rules = book.overlay().as_of(ms("2022-05-09"))
    assert rules.interest("USDT").hourly == 0.00043728 / 24
    assert rules.interest("USDC") == rules.interest("USDT")
    assert rules.interest("BTC").hourly == 0.00019992 / 24
    assert rules.interest("XYZ") == rules.interest("BTC")
    assert {(row.subject, row.grade) for row in rules.evidence()} == {
        ("stablecoins", "inferred"),
        ("coins", "inferred"),
    }
    assert {"USDT", "USDC"} <= STABLECOINS
    with pytest.raises(InputError, match="interest: expected a currency"):
        rules.interest("BTC/USDT")


def test_recorded_rates_hold_on_their_day(book: RuleBook) -> None:
    for day, currency, daily, grade in (
        ("2021-11-16", "USDT", 0.000098, "official"),
        ("2021-11-20", "USDT", 0.00043728, "inferred"),
        ("2024-10-21", "BTC", 0.0000276, "official"),
        ("2024-10-22", "BTC", 0.00019992, "inferred"),
        ("2026-04-27", "SOL", 0.00013704, "snapshot"),
        ("2026-04-28", "SOL", 0.00013704, "inferred"),
    ):
        rules = book.overlay().as_of(ms(day))
        assert rules.interest(currency).hourly == daily / 24
        assert [row.grade for row in rules.evidence()] == [grade]


# -- options and delivery ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("option_maintenance"))
def test_maintenance_of_a_recorded_short_call(book: RuleBook, vector: dict[str, Any]) -> None:
    rules = book.as_of(ms(vector["time"]))
    row, unit = rules.option("BTC"), rules.instrument(vector["symbol"]).contract_size
    assert (row.c * row.factor(1) + vector["mark"]) * unit == pytest.approx(
        vector["maintenance_margin"], rel=vector["rel_tol"]
    )


@pytest.mark.parametrize("vector", vectors("option_fee"))
def test_fee_of_an_option_trade(book: RuleBook, vector: dict[str, Any]) -> None:
    rules = book.as_of(ms(vector["time"]))
    notional = vector["contracts"] * rules.instrument(OPTION).contract_size
    assert rules.fees("option").taker == vector["rate"]
    fee = rules.option("BTC").fee(notional, vector["premium"] * notional, vector["rate"])
    assert fee == pytest.approx(vector["expected"], rel=vector["rel_tol"])


def test_option_parameters(book: RuleBook) -> None:
    row = book.as_of(ms("2024-07-11")).option("BTC")
    assert (row.a, row.b, row.c, row.min_order) == (0.1, 0.15, 0.03, 0.1)
    assert row.factor(1e9) == 1.0
    assert book.as_of(ms("2024-07-11")).option("ETH").c == 0.05
    assert book.as_of(ms("2020-05-15")).option("EOS").min_order == 0.125
    with pytest.raises(NoRuleInForce, match=r"options: SOL\.c is not in the tables"):
        book.as_of(ms("2024-07-11"), "nearest").option("SOL")
    with pytest.raises(InputError, match=r"options\.factors"):
        row.factor(math.nan)


def test_option_rules_change_at_their_dates(book: RuleBook) -> None:
    cap = ms("2026-06-24")
    assert book.as_of(cap - 1).option("BTC").fee_cap == 0.125
    assert book.as_of(cap).option("BTC").fee_cap == 0.07
    assert book.as_of(cap).option("BTC").liquidation_fee_cap == 0.125
    page = ms("2024-04-12")
    assert book.as_of(page - 1).option("BTC").charges_fee_in_orders
    assert not book.as_of(page).option("BTC").charges_fee_in_orders


def test_the_least_of_three_is_the_fee_of_an_exercise(book: RuleBook) -> None:
    row = book.as_of(ms("2025-01-01")).option("BTC")
    assert row.exercise_fee(1.0, 0.01, 0.0003) == 0.0002
    assert row.exercise_fee(1.0, 0.01, 0.0001) == 0.0001
    assert row.exercise_fee(1.0, 0.0008, 0.0003) == pytest.approx(0.0001)
    assert row.liquidation_fee(1.0, 0.001, 0.0003) == pytest.approx(0.000125)
    assert row.fee(1.0, 0.001, 0.0003) == pytest.approx(0.000125)


def test_delivery_averages_half_an_hour_from_march_2026(book: RuleBook) -> None:
    change = ms("2026-03-18")
    assert book.as_of(change - 1).delivery.average_minutes == 60
    assert book.as_of(change).delivery.average_minutes == 30
    rules = book.overlay().as_of(ms("2020-03-12"))
    assert rules.delivery.fee == 0.0
    assert {row.subject: row.grade for row in rules.evidence()} == {"average_minutes": "official", "fee": "inferred"}


def test_liquidation_has_the_switches_nobody_recorded(book: RuleBook) -> None:
    rules = book.overlay().as_of(ms("2025-10-10"))
    assert rules.liquidation.early_cancel == "at-liquidation"
    assert rules.liquidation.deleveraging_fee == 0.0
    noted = {row.subject: row.grade for row in rules.evidence()}
    assert noted["early_cancel"] == noted["deleveraging_fee"] == "inferred"
    (row,) = [row for row in book.listing() if row["table"] == "liquidation" and row["subject"] == "early_cancel"]
    assert "free-margin" in row["note"]


# -- overlays ------------------------------------------------------------------------------------------------


def test_the_symbols_own_row_comes_before_its_familys(book: RuleBook) -> None:
    mine = book.overlay(
        instruments={
            FUTURE: {"contract_size": 0.5, "tick": 0.5, "tiers": [[10, 0.01, 0.02, 50]]},
            OPTION: {"contract_size": 0.01},
            "NOPE/USD:NOPE-250328": {"contract_size": 10},
        }
    )
    for day in ("2020-03-12", "2025-10-10"):
        rules = mine.overlay().as_of(ms(day), "never")
        assert (rules.instrument(FUTURE).contract_size, rules.instrument(FUTURE).tick) == (0.5, 0.5)
        assert rules.tiers(FUTURE).max_leverage == 50
        assert rules.instrument(OPTION).contract_size == 0.01
        assert rules.instrument("NOPE/USD:NOPE-250328").symbol == "NOPE/USD:NOPE-250328"
        assert {row.grade for row in rules.evidence()} == {"user"}
    assert mine.as_of(ms("2025-10-10")).instrument("BTC/USDT:USDT-251226").contract_size == 0.01


def test_a_single_figure_leaves_the_familys_others(book: RuleBook) -> None:
    rules = book.overlay(instruments={COIN_FUTURE: {"tick": 0.5}, OPTION: {"tick": 0.0005}}).as_of(ms("2025-01-15"))
    assert (rules.instrument(COIN_FUTURE).contract_size, rules.instrument(COIN_FUTURE).tick) == (100, 0.5)
    assert (rules.instrument(OPTION).contract_size, rules.instrument(OPTION).tick) == (0.01, 0.0005)


def test_tiers_of_a_spot_pair_are_its_borrow_tiers(book: RuleBook) -> None:
    rows = [[1, 0.02, 0.1, 10], [2, 0.05, 0.2, 5]]
    mine = book.overlay(instruments={PAIR: {"tiers": rows}, "SOL/USDT": {"tiers": rows}})
    for day in ("2020-03-12", "2025-10-10"):
        tiers = mine.as_of(ms(day)).margin_tiers(PAIR)
        assert tiers.quote is None
        assert (tiers.base.unit, tiers.base.max_size(5)) == ("BTC", 2)
        assert tiers.of_quote(50_000, 50_000).maintenance == 0.02
        assert tiers.of_quote(50_000, 40_000).maintenance == 0.05  # worth 1.25 BTC
        assert tiers.max_quote(10, 40_000) == 40_000
        assert mine.as_of(ms(day)).margin_tiers("SOL/USDT").max_leverage == 10
    assert mine.as_of(ms("2025-10-10")).instrument(PAIR).tick == 0.1
    assert SWAP not in {row["subject"] for row in mine.listing() if row["grade"] == "user"}


@pytest.mark.parametrize(
    ("symbol", "entry", "path"),
    [
        (PAIR, {"tiers": [[1, 2, 0.02, 0.1, 10]]}, r"instruments.BTC/USDT.tiers\[0\]: expected"),
        (PAIR, {"tiers": []}, "instruments.BTC/USDT.tiers: expected rows"),
        (OPTION, {"tiers": [[1, 0.02, 0.1, 10]]}, "tiers: options have no position tiers"),
        ("NOPE/USDT:USDT-250328", {"tick": 1}, "contract_size: missing"),
    ],
)
def test_overlays_that_cannot_be_used(book: RuleBook, symbol: str, entry: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError, match=path):
        book.overlay(instruments={symbol: entry})


# -- what reports show ---------------------------------------------------------------------------------------


def test_the_grid_covers_every_product(book: RuleBook) -> None:
    windows = {day: (ms(day), ms(day) + 86_400_000) for day in ("2020-03-12", "2025-10-10")}
    grid = book.grid(windows, [PAIR, COIN_FUTURE, OPTION, "BTC/USD:BTC"])
    assert set(grid) == set(loading.read("okx"))
    now = {table: row["2025-10-10"] for table, row in grid.items()}
    assert now["fees"] == now["margin"] == "in force"
    for table in ("position_tiers", "margin_tiers", "interest", "options", "delivery", "liquidation"):
        assert now[table] == "inferred"
    assert grid["margin_tiers"]["2020-03-12"] == "extrapolated 243 d"
    assert book.grid(windows, ["SOL/USDT"])["margin_tiers"]["2025-10-10"] == "missing"
    assert book.grid(windows, ["SOL/USD:SOL-250328-200-C"])["options"]["2025-10-10"] == "missing"


def test_the_listing_tells_every_table(book: RuleBook) -> None:
    rows = book.listing()
    shown = {(row["table"], row["subject"]): row["summary"] for row in rows}
    assert shown["margin_tiers", PAIR] == "20 BTC or 1,250,000 USDT at 2.00%, 10x; 3 rows"
    assert shown["interest", "coins"] == "0.0200% a day"
    assert shown["options", "*.fee_cap"] == "0.07"
    assert shown["options", "*.factors"] == "to inf: 1"
    assert shown["delivery", "average_minutes"] == "30.0"
    for subject in ("BTC/USD:BTC-*", "BTC/USDC:USDC-*", "ETH/USD:ETH-*-*", "BTC/USD:USD-*-*"):
        assert ("instruments", subject) in shown
    mine = book.overlay(instruments={PAIR: {"tiers": [[1, 0.02, 0.1, 10]]}})
    assert [r["summary"] for r in mine.listing() if r["grade"] == "user"] == ["1 BTC at 2.00%, 10x; 1 rows"]


def test_inferred_and_carried_rows_say_why() -> None:
    """A figure nobody read may stand in the tables only with a word on where it comes from."""
    for name in ("position_tiers", "margin_tiers", "margin", "interest", "options", "delivery"):
        for history in loading.read("okx")[name].values():
            assert all(revision.note for revision in history if revision.grade == "inferred")


def test_families_are_no_symbols(book: RuleBook) -> None:
    with pytest.raises(InputError, match="expected a unified symbol"):
        book.as_of(ms("2025-10-10")).instrument("BTC/USD:BTC-*")
    assert parse(OPTION).right == "C"
