"""The rule book: which revision speaks at an instant, what may stand in, and what a caller may overrule."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.instrument import Kind
from bt_margin.model.moment import DAY
from bt_margin.rules import loading
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.history import History, Revision
from bt_margin.rules.tables import Evidence

BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
MAJORS = ("BTC", "ETH", "SOL", "XRP", "DOGE", "BNB", "LTC", "ADA")
CRASHES = ("2021-05-19", "2022-05-09", "2022-11-08", "2024-08-05", "2025-10-10")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def book() -> RuleBook:
    return load_rules("okx")


# -- the tables ----------------------------------------------------------------------------------------------


def test_every_revision_makes_a_row() -> None:
    tables = loading.read("okx")
    for history in tables["position_tiers"].values():
        for revision in history:
            assert revision.row.tiers.rows[0].number == 1
    for history in tables["margin_tiers"].values():
        for revision in history:
            assert revision.row.tiers.base.rows[0].number == 1
    for table in tables.values():
        for history in table.values():
            assert all(revision.source and revision.grade for revision in history)
    book = RuleBook(tables)
    for instant in book._breaks:  # Literal parameters are checked when a row is put together
        rules = book.as_of(instant, "nearest")
        assert rules.liquidation.liquidation_ratio == 1
        assert rules.orders.one_way in ("larger-side", "both-sides")
        assert rules.margin.accounting.startswith("assets-with")
        assert rules.delivery.average_minutes in (30, 60)
        assert rules.option("BTC").c == 0.03


def test_every_instrument_can_be_read(book: RuleBook) -> None:
    for row in book.listing():
        if row["table"] == "instruments":
            symbol = row["subject"].replace("-*-*", "-250328-100000-C").replace("-*", "-250328")
            found = book.as_of(ms(row["effective"].rstrip("Z"))).instrument(symbol)
            assert found.contract_size > 0
            assert found.kind is not Kind.SPOT or found.contract_size == 1


@pytest.mark.parametrize("day", CRASHES)
@pytest.mark.parametrize("base", MAJORS)
def test_majors_resolve_at_every_crash(book: RuleBook, base: str, day: str) -> None:
    rules = book.as_of(ms(day), "nearest")
    for symbol in (f"{base}/USDT:USDT", f"{base}/USDT"):
        assert rules.instrument(symbol).tick > 0
    assert rules.tiers(f"{base}/USDT:USDT").max_leverage >= 20
    assert rules.funding(f"{base}/USDT:USDT").interval_hours == 8
    assert rules.fees("swap").taker == 0.0005


@pytest.mark.parametrize("base", ["BTC", "ETH", "SOL", "XRP", "DOGE"])
def test_the_crash_of_october_2025_runs_on_rules_in_force(book: RuleBook, base: str) -> None:
    rules = book.as_of(ms("2025-10-10T21:20"), "never")
    symbol = f"{base}/USDT:USDT"
    assert rules.instrument(symbol).kind is Kind.LINEAR_SWAP
    assert rules.tiers(symbol).rows[0].maintenance == (0.004 if base in ("BTC", "ETH") else 0.0065)
    assert rules.liquidation.step == "one-tier"
    assert rules.orders.one_way == "larger-side"
    assert rules.funding(symbol).collection == "full"


def test_contracts_and_tiers_of_march_2020_change_together(book: RuleBook) -> None:
    """Contracts were made 100 times larger eight days after the crash; a tier keeps its worth in coin."""
    for symbol, worth in ((BTC, 5.0), (ETH, 100.0)):
        for day in ("2020-03-12", "2020-03-21"):
            rules = book.as_of(ms(day), "never")
            size = rules.tiers(symbol).rows[0].max_size * rules.instrument(symbol).contract_size
            assert size == pytest.approx(worth)
    assert book.as_of(ms("2020-03-12")).instrument(BTC).contract_size == 0.0001
    assert book.as_of(ms("2020-03-20T08:00")).instrument(BTC).contract_size == 0.01
    assert book.as_of(ms("2020-03-20T08:00") - 1).instrument(BTC).contract_size == 0.0001


def test_solana_was_halved_on_2022_11_08(book: RuleBook) -> None:
    before, after = (book.as_of(ms(f"2022-11-08T{hour}")).tiers(SOL) for hour in ("06:29", "06:30"))
    assert [row.max_size for row in before.rows[:4]] == [1000, 2000, 9000, 18000]
    assert [row.max_size for row in after.rows[:4]] == [500, 1000, 4000, 8000]


def test_rules_that_changed_in_phases_change_at_the_last_batch(book: RuleBook) -> None:
    assert book.as_of(ms("2024-07-01T05:59")).funding(BTC).collection == "to-ratio-one"
    assert book.as_of(ms("2024-07-01T06:00")).funding(BTC).collection == "full"
    assert not book.as_of(ms("2024-11-07")).orders.order_loss
    assert book.as_of(ms("2024-11-08")).orders.order_loss
    assert book.as_of(ms("2023-01-01")).liquidation.step == "two-tiers"


# -- as of a date --------------------------------------------------------------------------------------------


def test_before_the_first_revision(book: RuleBook) -> None:
    rules = book.as_of(ms("2020-12-01"))
    with pytest.raises(NoRuleInForce) as caught:
        rules.instrument(SOL)
    message = str(caught.value)
    for part in (
        "instruments",
        SOL,
        "2020-12-01",
        "2021-01-22",
        "52 days",
        'extrapolate="nearest"',
        "`instruments`",
    ):
        assert part in message


def test_after_until_nothing_is_in_force(book: RuleBook) -> None:
    assert book.as_of(ms("2020-12-31")).tiers(BTC).rows[0].max_size == 500
    with pytest.raises(NoRuleInForce, match=r"position_tiers.*BTC/USDT:USDT.*effective 2020-03-20"):
        book.as_of(ms("2021-01-01")).tiers(BTC)


def test_the_nearest_stands_in_from_either_side(book: RuleBook) -> None:
    early = book.as_of(ms("2021-05-19"), "nearest")
    assert early.tiers(BTC).rows[0].max_size == 500
    late = book.as_of(ms("2025-09-14T08:55"), "nearest")
    assert late.tiers(BTC).rows[0].max_size == 1000
    (row,) = early.evidence()
    assert (row.table, row.subject, row.effective) == ("position_tiers", BTC, "2020-03-20T08:00:00Z")
    assert (row.grade, row.extrapolated_days) == ("derived", 138)
    assert late.evidence()[0].extrapolated_days == 2  # counted from the start of the day, rounded up


def test_an_old_revision_does_not_come_back_when_a_newer_one_ends(book: RuleBook) -> None:
    with pytest.raises(NoRuleInForce):
        book.as_of(ms("2026-10-01")).tiers(SOL)
    rules = book.as_of(ms("2026-10-01"), "nearest")
    assert rules.tiers(SOL).rows[0].maintenance == 0.0065
    assert rules.evidence()[0].effective == "2025-12-29T12:08:00Z"


def test_a_coin_does_not_stand_in_for_another_of_its_name(book: RuleBook) -> None:
    luna = "LUNA/USDT:USDT"
    assert book.as_of(ms("2022-05-12T04:00")).tiers(luna).rows[0].max_size == 150000
    with pytest.raises(NoRuleInForce, match=r"another bore it before"):
        book.as_of(ms("2022-05-09"), "nearest").instrument(luna)
    assert book.as_of(ms("2022-05-28"), "nearest").tiers(luna).rows[0].max_size == 1500  # not the old coin's


def test_a_symbol_without_any_revision(book: RuleBook) -> None:
    for extrapolate in ("never", "nearest"):
        with pytest.raises(NoRuleInForce, match=r"FTT/USDT:USDT is not in the tables \(\d+ are known.*`instruments`"):
            book.as_of(ms("2022-11-08"), extrapolate).tiers("FTT/USDT:USDT")
    with pytest.raises(NoRuleInForce, match=r"such as BTC/USD:BTC, BTC/USD:BTC-\*, "):
        book.as_of(ms("2022-11-08")).instrument("BTC/EUR")


def test_one_object_between_two_revisions(book: RuleBook) -> None:
    start = ms("2025-10-10")
    assert all(
        book.as_of(start + hour * 3_600_000, mode) is book.as_of(start, mode)
        for mode in ("never", "nearest")
        for hour in range(24)
    )
    change = ms("2020-03-20T08:00")
    assert book.as_of(change - 1) is not book.as_of(change)
    assert book.as_of(change) is book.as_of(change + 3_600_000)


def test_changes_are_half_open(book: RuleBook) -> None:
    change = ms("2022-11-08T06:30")
    assert change in book.changes(change - 1, change)
    assert change not in book.changes(change, change + DAY)
    assert book.changes(ms("2025-10-09"), ms("2025-10-12")) == ()
    assert book.frozen_at(0).changes(0, ms("2026-01-01")) == ()


def test_frozen_rules_do_not_move(book: RuleBook) -> None:
    frozen = book.frozen_at(ms("2025-12-30"))
    assert frozen.as_of(ms("2020-03-12")) is frozen.as_of(ms("2026-09-30"))
    assert frozen.as_of(ms("2020-03-12")).instrument(BTC).contract_size == 0.01
    assert frozen.as_of(ms("2020-03-12")).evidence()[0].extrapolated_days == 0


def test_evidence_is_sorted_and_told_once(book: RuleBook) -> None:
    rules = book.as_of(ms("2025-10-10"))
    assert rules.evidence() == ()
    for _ in range(2):
        rules.tiers(BTC)
        rules.fees("swap")
        rules.fees("spot")
    assert [(row.table, row.subject) for row in rules.evidence()] == [
        ("fees", "spot"),
        ("fees", "swap"),
        ("position_tiers", BTC),
    ]
    assert all(isinstance(row, Evidence) and row.extrapolated_days == 0 for row in rules.evidence())
    assert rules.tiers(BTC) is rules.tiers(BTC)


def test_funding_falls_back_on_the_default_of_all_swaps(book: RuleBook) -> None:
    assert book.as_of(ms("2025-10-10")).funding("PEPE/USDT:USDT").cap == 0.015
    assert book.as_of(ms("2025-10-10")).funding(BTC).cap == 0.00375
    assert book.as_of(ms("2026-05-01")).funding("ENSO/USDT:USDT").interval_hours == 2
    assert book.as_of(ms("2020-05-01")).funding(BTC).cap == 0.003


def test_unknown_venue_and_words(book: RuleBook) -> None:
    with pytest.raises(InputError, match="expected one of okx, found 'kraken'"):
        load_rules("kraken")
    with pytest.raises(InputError, match=r"rules.extrapolate"):
        book.as_of(0, "sometimes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fees: expected one of"):
        book.as_of(ms("2025-10-10")).fees("swaps")


# -- histories -----------------------------------------------------------------------------------------------


def history(*spans: tuple[int, int | None]) -> History[int]:
    return History([Revision(start, i, "official", "s", end) for i, (start, end) in enumerate(spans)], "x")


def test_on_a_tie_the_earlier_stands_in() -> None:
    found = history((0, 10 * DAY), (20 * DAY, None))
    middle = 15 * DAY
    assert found.nearest(middle) == (found.revisions[0], 5)
    assert found.nearest(middle + 1) == (found.revisions[1], 5)
    assert middle + 1 in found.breaks()


@pytest.mark.parametrize("spans", [((0, 0),), ((5, None), (5, None)), ((9, 3),)])
def test_revisions_that_cannot_be(spans: tuple[tuple[int, int | None], ...]) -> None:
    with pytest.raises(InputError, match=r"x: the revision of .* ends before it begins"):
        history(*spans)


@st.composite
def histories(draw: st.DrawFn) -> History[int]:
    starts = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True))
    return history(*[(s, draw(st.none() | st.integers(s + 1, s + 10**5))) for s in starts])


@given(histories(), st.integers(-(10**6), 2 * 10**6), st.integers(0, 1000))
def test_nothing_changes_between_two_breaks(found: History[int], time: int, ahead: int) -> None:
    """What `as_of` rests on: one object may serve all instants between two breaks."""
    if not any(time < instant <= time + ahead for instant in found.breaks()):
        assert found.at(time) is found.at(time + ahead)
        assert found.nearest(time)[0] is found.nearest(time + ahead)[0]  # type: ignore[index]


@given(histories(), st.integers(-(10**6), 2 * 10**6))
def test_nearest_is_in_force_or_somewhere_away(found: History[int], time: int) -> None:
    revision, days = found.nearest(time)  # type: ignore[misc]
    assert (days == 0) == (found.at(time) is not None)
    assert days or revision is found.at(time)


# -- overlays ------------------------------------------------------------------------------------------------


def test_the_callers_figures_win_at_every_date(book: RuleBook) -> None:
    mine = book.overlay(
        instruments={
            ETH: {"contract_size": 0.2, "tick": 0.05, "tiers": [[1000, 0.004, 0.01, 100]]},
            "FTT/USDT:USDT": {"contract_size": 1},
            BTC: {"tick": 0.5},
        },
        fees={"swap": {"taker": 0.0003}, "spot": {"maker": -0.0001, "taker": 0.0007}},
    )
    for day in ("2019-01-10", "2020-03-12", "2025-10-10"):
        rules = mine.as_of(ms(day), "never")
        found = rules.instrument(ETH)
        assert (found.contract_size, found.tick) == (0.2, 0.05)
        assert rules.tiers(ETH).rows[-1].max_size == 1000
        assert rules.instrument("FTT/USDT:USDT").lot == 0
        assert (rules.fees("spot").maker, rules.fees("spot").taker) == (-0.0001, 0.0007)
        assert {row.grade for row in rules.evidence()} == {"user"}
        assert all(row.source.startswith("the caller") for row in rules.evidence())
    rules = mine.as_of(ms("2025-10-10"))
    assert (rules.fees("swap").maker, rules.fees("swap").taker) == (0.0002, 0.0003)
    assert rules.instrument(ETH).lot == 0.01  # the table's, as it was not given
    assert (rules.instrument(BTC).contract_size, rules.instrument(BTC).tick) == (0.01, 0.5)
    assert mine.as_of(ms("2020-03-12")).instrument(BTC).contract_size == 0.0001
    assert book.as_of(ms("2025-10-10")).instrument(ETH).contract_size == 0.1  # the book itself did not change


def test_overlays_add_up_and_survive_freezing(book: RuleBook) -> None:
    mine = book.overlay(instruments={BTC: {"tiers": [[9, 0.01, 0.02, 50]]}}).frozen_at(ms("2025-10-10"))
    both = mine.overlay(fees={"swap": {"maker": 0.0001}}).as_of(0)
    assert both.tiers(BTC).max_leverage == 50
    assert both.fees("swap").maker == 0.0001


@pytest.mark.parametrize(
    ("instruments", "path"),
    [
        ({ETH: {"contract_size": 0}}, f"instruments.{ETH}.contract_size: expected a number above zero"),
        ({ETH: {"contract_size": -1.0}}, f"instruments.{ETH}.contract_size"),
        ({ETH: {"contract_size": math.nan}}, f"instruments.{ETH}.contract_size: expected a finite"),
        ({ETH: {"contract_size": math.inf}}, f"instruments.{ETH}.contract_size"),
        ({ETH: {"contract_size": True}}, f"instruments.{ETH}.contract_size"),
        ({ETH: {"contract_size": "0.1"}}, f"instruments.{ETH}.contract_size"),
        ({ETH: {"tick": -0.1}}, f"instruments.{ETH}.tick"),
        ({ETH: {"lot": math.nan}}, f"instruments.{ETH}.lot"),
        ({ETH: {"ctVal": 0.1}}, f"instruments.{ETH}.ctVal: unknown key"),
        ({ETH: [0.1]}, f"instruments.{ETH}: expected a table"),
        ({ETH: {"tiers": [[1000, 0.004, 0.01]]}}, f"instruments.{ETH}.tiers[0]"),
        ({ETH: {"tiers": [[1000, 0.01, 0.004, 100]]}}, f"instruments.{ETH}.tiers[0]"),
        ({ETH: {"tiers": [[1000, math.nan, 0.01, 100]]}}, f"instruments.{ETH}.tiers[0]"),
        ({ETH: {"tiers": []}}, f"instruments.{ETH}.tiers"),
        ({ETH: {"tiers": 3}}, f"instruments.{ETH}.tiers"),
        ({"ETH-USDT-SWAP": {"contract_size": 1}}, "instruments.ETH-USDT-SWAP: expected a unified symbol"),
        ({"FTT/USDT:USDT": {"tick": 0.1}}, "instruments.FTT/USDT:USDT.contract_size: missing"),
        ({"BTC/USDT": {"contract_size": 2}}, "instruments.BTC/USDT.contract_size: spot sizes are coins"),
    ],
)
def test_instruments_that_cannot_be_used(book: RuleBook, instruments: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError, match=re.escape(path)):
        book.overlay(instruments=instruments)


@pytest.mark.parametrize(
    ("fees", "path"),
    [
        ({"perp": {"taker": 0.1}}, "fees.perp: unknown kind"),
        ({"swap": {"takr": 0.1}}, "fees.swap.takr: unknown key"),
        ({"swap": {"taker": math.nan}}, "fees.swap.taker: expected a finite"),
        ({"swap": {"taker": 5}}, "fees.swap.taker: expected a fraction"),
        ({"swap": 0.1}, "fees.swap: expected maker"),
    ],
)
def test_fees_that_cannot_be_used(book: RuleBook, fees: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError, match=re.escape(path)):
        book.overlay(fees=fees)


# -- what reports show ---------------------------------------------------------------------------------------


def test_grid_tells_the_worst_of_a_window(book: RuleBook) -> None:
    windows = {
        "2020-03-12": (ms("2020-03-11"), ms("2020-03-14")),
        "2025-10-10": (ms("2025-10-09"), ms("2025-10-12")),
    }
    grid = book.grid(windows, [BTC, "BTC/USDT"])
    assert grid["position_tiers"] == {"2020-03-12": "in force", "2025-10-10": "in force"}
    assert grid["fees"] == {"2020-03-12": "inferred", "2025-10-10": "in force"}
    assert book.grid(windows, ["LTC/USDT:USDT"])["position_tiers"]["2025-10-10"] == "extrapolated 82 d"
    assert book.grid(windows, ["FTT/USDT:USDT"])["position_tiers"]["2025-10-10"] == "missing"
    assert (
        book.frozen_at(ms("2025-12-30")).grid(windows, ["LTC/USDT:USDT"])["position_tiers"]["2020-03-12"] == "in force"
    )


def test_listing_shows_every_revision(book: RuleBook) -> None:
    rows = book.listing()
    assert {row["table"] for row in rows} == set(loading.read("okx"))
    shown = [row for row in rows if row["table"] == "position_tiers" and row["subject"] == BTC]
    assert [row["effective"][:10] for row in shown] == [
        "2020-01-17",
        "2020-03-20",
        "2025-09-15",
        "2025-12-29",
        "2026-08-31",
    ]
    assert shown[1]["until"] == "2021-01-01T00:00:00Z"
    assert shown[-1]["until"] is None
    assert shown[-1]["summary"] == "1000 contracts at 0.40%, 100x; 3 rows, then +20000"
    assert all(row["summary"] and row["source"] and row["grade"] for row in rows)


# -- files ---------------------------------------------------------------------------------------------------

HEAD = '[sources]\na = "page"\n[[revision]]\nkinds = ["spot"]\nmaker = 0.1\ntaker = 0.1\n'
TAIL = 'effective = 2020-01-01T00:00:00Z\nevidence = "official"\nsource = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + TAIL + "rebate = 1\n", "rebate"),
        (HEAD + TAIL.replace('"a"', '"b"'), "source 'b' is not among"),
        (HEAD + TAIL.replace("official", "certain"), "certain"),
        (HEAD + TAIL.replace("00Z", "00"), "expected a UTC time"),
        (HEAD + "effective = ", "fees.toml"),
    ],
)
def test_files_that_do_not_follow_their_shape(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "fees.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        loading.read_table(path, "fees")
