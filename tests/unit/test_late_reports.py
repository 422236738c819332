"""An event's report is laid out when it is read, and tells of the account as it was then."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from bt_margin.engine.engine import MarginEngine
from bt_margin.errors import MissingPrice
from bt_margin.model.assessment import AccountReport
from bt_margin.model.market import Market

from .test_engine import BTC, ETH, TIME, engine, moved, order, trade

MODES = ("isolated", "cross", "multi-currency", "portfolio")


def fallen(mode: str) -> tuple[MarginEngine, AccountReport]:
    """An account with two positions and an order; what it looked like when another order was refused; then its end."""
    e = engine(mode)
    leg = "isolated" if mode == "isolated" else "cross"
    trade(e, BTC, "buy", 50, leg)
    trade(e, ETH, "buy", 100, leg, id_=2)
    assert e.accept(order(e, BTC, "buy", 1, leg, id_=3, price=40_000.0))
    moved(e, btc=59_500.0)
    e.accept(order(e, BTC, "buy", 1_000_000, leg, id_=4))
    then = e.assess()
    moved(e, btc=59_000.0)
    moved(e, btc=45_000.0, eth=2_000.0)
    assert {"Refused", "Reduced"} <= {event.name for event in e.events}
    return e, then


def bare(report: AccountReport) -> AccountReport:
    """Without the rules and stand-ins that were asked for by others since."""
    return replace(report, evidence=(), warnings=())


@pytest.mark.parametrize("mode", MODES)
def test_read_at_the_end_it_is_the_account_as_it_was(mode: str) -> None:
    e, then = fallen(mode)
    (refused,) = [event for event in e.events if event.name == "Refused"]
    assert bare(refused.report) == bare(then)
    assert refused.report is refused.report
    assert refused.report.positions[0].mark_price == 59_500.0
    times = [event.report.time for event in e.events]
    assert times == [event.time for event in e.events]


@pytest.mark.parametrize("mode", MODES)
def test_the_run_rests_on_what_its_reports_lean_on(mode: str) -> None:
    e, _ = fallen(mode)
    before = {(row.table, row.subject) for row in e.evidence()}
    for event in e.events:
        assert {(row.table, row.subject) for row in event.report.evidence} <= {
            (row.table, row.subject) for row in e.evidence()}
        assert {w.removeprefix("stand-in: ") for w in event.report.warnings if w.startswith("stand-in: ")} <= set(
            e.market.stand_ins)
    assert before <= {(row.table, row.subject) for row in e.evidence()}


def test_the_same_row_of_two_days_is_told_as_of_the_last_whenever_it_was_read() -> None:
    """Days between a table and its use are counted from the last day on which it was used."""
    e = engine("cross", time=TIME + 3 * 365 * 86_400_000)
    trade(e, BTC, "buy", 1, "cross")
    e.accept(order(e, BTC, "buy", 1_000_000, "cross", id_=4))
    moved(e, ms=5 * 86_400_000)
    trade(e, BTC, "buy", 1, "cross", id_=5)
    days = {(row.table, row.subject): row.extrapolated_days for row in e.evidence()}
    assert e.events[0].report.time < e.market.time
    assert {(row.table, row.subject): row.extrapolated_days for row in e.evidence()} == days


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_in_another_process_brings_its_report_along(mode: str) -> None:
    e, _ = fallen(mode)
    copy = pickle.loads(pickle.dumps(e.events))
    assert [event.name for event in copy] == [event.name for event in e.events]
    assert [repr(event) for event in copy] == [repr(event) for event in e.events]
    assert copy[0] == e.events[0]
    assert copy[0] != e.events[-1]
    assert copy[0].late_report != e.events[-1].late_report


def test_what_cannot_be_laid_out_says_so_to_each_who_reads() -> None:
    e = engine("cross")
    trade(e, BTC, "buy", 1, "cross")
    e.market = Market(TIME)  # whoever drives the engine owns the prices
    late = e.late_report()
    for _ in range(2):
        with pytest.raises(MissingPrice, match="expected a mark for BTC/USDT:USDT"):
            late.read()
