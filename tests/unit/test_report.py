"""The report: arithmetic of the takeover paragraph against hand-computed numbers, and a page that leaks nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from bt_margin.report import Grid, Picture, Section, charges, html, spending, write_report
from bt_margin.report.figures import COLOURS, case_figure
from bt_margin.report.html import LIMIT, render
from bt_margin.report.narrative import since_warning, takeover_paragraph
from bt_margin.report.reading import contract, takeovers
from bt_margin.report.rescue import rescue
from bt_margin.report.verdicts import lived
from bt_margin.report.wording import moment, money, number, percent, price, ratio_percent, size
from bt_margin.study.result import RunResult

HOUR = 3_600_000
START = 1_760_043_600_000  # 2025-10-09 21:00 UTC
SWAP = "BTC/USDT:USDT"
EVIL = "<script>alert(1)</script>"
POOL = f"{SWAP} isolated"


def row(mode: str = "isolated", verdict: str = "liquidated", **more: Any) -> dict[str, Any]:
    return {
        "strategy": "LeveragedLong", "mode": mode, "window": "2025-10-10", "leverage": 3.0, "contracts": {SWAP: 300.0},
        "opened": True, "verdict": verdict, "liquidated_at": None, "reason": "", "min_margin_ratio": 1.0,
        "entry_distance": 10.0, "min_distance": 0.0, "warnings": 1, "forced_orders": 1, "fees_usd": 285.0,
        "funding_usd": -18.0, "interest_usd": 0.0, "liquidation_cost_usd": 1485.0, "fund_paid_usd": 0.0,
        "start_equity_usd": 100_000.0, "final_equity_usd": 68_365.0, "available_then": True, "indicative": False,
        "rules_extrapolated_days": 0, "data_kind": "hourly samples", "hours_below_300": 1.0, "worst_hour_usd": -500.0,
        "worst_hour_end": None, "ohlc_verdict": None, "path_dependent": None, **more,
    }


def report(pool: str, currency: str, cash: float, mark: float, mode: str = "isolated", symbol: str = SWAP,
           **more: Any) -> dict[str, Any]:
    """300 contracts of 0.01 BTC, long from 100,000, 0.5 % maintenance, 0.05 % taker: requirement 0.0055 x 3 x mark."""
    profit, notional = 3 * (mark - 100_000), 3 * mark
    word = "posted margin" if mode == "isolated" else "cash"
    maintenance, fee = notional * 0.005, notional * 0.0005
    return {
        "mode": mode,
        "pools": [{
            "name": pool, "currency": currency, "equity": cash + profit, "initial_margin": 30_000.0,
            "maintenance_margin": maintenance, "liquidation_fee": fee, "available": 0.0,
            "margin_ratio": (cash + profit) / (maintenance + fee), "state": "liquidation",
            "equity_parts": {word: cash, f"unrealised profit {symbol}": profit},
            "charges": [{"name": "position margin", "unit": symbol, "initial": 30_000.0, "maintenance": maintenance,
                         "fee": fee, "detail": {"tier": 2, "rate": 0.005, "taker": 0.0005, "notional": notional}}],
        }],
        "currencies": [],
        "positions": [{"symbol": symbol, "margin_mode": mode, "position_side": "net", "contracts": 300.0,
                       "entry_price": 100_000.0, "mark_price": mark, "notional": notional,
                       "unrealised_pnl": profit}],
        **more,
    }


def entry(time: int, kind: str, cash: float = 0.0, margin: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"time": time, "kind": kind, "currency": "USDT", "cash": cash, "margin": margin, "fund": 0.0,
            "symbol": SWAP, "margin_mode": "isolated", "side": "net", "size": 0.0, "price": 0.0, "note": "", **more}


WARNED, TAKEN = START + 5 * HOUR, START + 8 * HOUR + 840_000
CLOSES = [100_000, 99_000, 97_000, 95_000, 93_000, 91_000, 91_500, 91_200, 90_800, 89_000, 85_000, 88_000, 92_000]
WICKS = {3: 80_000.0, 10: 84_000.0}  # lows; the first came long before the takeover


def series(symbol: str = SWAP, dead_after: int = 9) -> dict[str, Any]:
    """Every bar reaches 500 beyond its close on both sides, two of them further down."""
    times = [START + i * HOUR for i in range(len(CLOSES))]
    return {
        "time": times,
        "equity": [100_000.0 + 3 * (min(0, p - 100_000)) for p in CLOSES],
        "margin_ratio": [20.0 - 2 * i if i < dead_after else None for i in range(len(CLOSES))],
        "prices": {symbol: [float(p) for p in CLOSES]},
        "lows": {symbol: [WICKS.get(i, p - 500.0) for i, p in enumerate(CLOSES)]},
        "highs": {symbol: [p + 500.0 for p in CLOSES]},
    }


def isolated() -> RunResult:
    """Posted 31,503, funding 18, so 31,485 at the end: 3 x (90,000 - 100,000) leaves 1,485 = 0.0165 x 90,000."""
    forced = {"note": "forced", "price": 90_000.0}
    return RunResult(
        row(liquidated_at=moment_iso(TAKEN)),
        series(),
        [
            {"name": "Warned", "time": WARNED, "pool": POOL, "margin_ratio": 4503 / 1501.5,
             "report": report(POOL, "USDT", 31_503.0, 91_000.0)},
            {"name": "Reduced", "time": TAKEN, "pool": POOL, "key": [SWAP, "isolated", "net"], "size": -300.0,
             "price": 90_000.0, "pnl": -30_000.0, "fee": 135.0, "penalty": 1_350.0, "margin_ratio": 1.0,
             "step": "takeover", "remaining": 0.0, "report": report(POOL, "USDT", 31_485.0, 90_000.0)},
            {"name": "TakenOver", "time": TAKEN, "pool": POOL, "keys": [[SWAP, "isolated", "net"]],
             "margin_ratio": 1.0, "loss": 1_485.0, "refund": 0.0, "report": report(POOL, "USDT", 31_485.0, 90_000.0)},
        ],
        [
            entry(START, "deposit", cash=100_000.0, symbol=None, margin_mode=None, side=None),
            entry(START, "trade", size=300.0, price=100_000.0),
            entry(START, "transfer", cash=-31_503.0, margin=31_503.0, note="margin posted"),
            entry(WARNED + HOUR, "funding", margin=-18.0, note="rate 0.006667%"),
            entry(TAKEN, "fee", margin=-135.0, **forced),
            entry(TAKEN, "penalty", margin=-1_350.0, fund=1_350.0, **forced),
            entry(TAKEN, "trade", margin=-30_000.0, size=-300.0, **forced),
        ],
        ["mark stands in for last", "mark stands in for last"],
        [{"table": "position_tiers", "subject": SWAP, "effective": "2025-09-01", "grade": "snapshot",
          "source": "https://www.okx.com/x?a=1&b=2", "extrapolated_days": 0}],
    )


def moment_iso(ms: int) -> str:
    return moment(ms).replace(" UTC", ":00Z").replace(" ", "T")


def nothing() -> RunResult:
    """Every number is absent, as in a run without data."""
    blank = dict.fromkeys(row())
    return RunResult({**blank, "strategy": "PairLongShort", "mode": "portfolio", "window": "2022-11-08",
                   "verdict": "no data"})


META = {
    "title": "A <b>crash</b>", "command": "bt-margin compare --cash USDT=100000 && echo '<done>'",
    "versions": {"bt-margin": "0.1.0"}, "assumptions": ["Slippage is 0."], "data": ["hourly figures"],
    "grid": [{"window": "2025-10-10", "table": "tiers", "status": "in force"},
             {"window": "2025-10-10", "table": "portfolio", "status": "extrapolated 12 days"},
             {"window": "2022-11-08", "table": "tiers", "status": "inferred"}],
}


class Tags(HTMLParser):
    """Elements and their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        self.text += "" if self._inside else data


# -- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(1_234_567.891), "1,234,567.89"), (number(None), "n/a"), (number(float("nan")), "n/a"),
        (number(-0.001), "0.00"), (number(float("inf")), "n/a"), (money(-1_234.5), "-1,234"), (money(12.345), "12.35"),
        (money(0), "0"), (price(104_500), "104,500.00"), (price(0.0001234), "0.0001234"), (price(12.5), "12.50"),
        (price(None), "n/a"), (percent(8.333), "8.33 %"), (percent(123.4), "123.4 %"), (percent(12_345.6), "12,346 %"),
        (ratio_percent(1.0), "100.0 %"), (ratio_percent(None), "n/a"), (size(-0.1 * 3), "-0.3"), (size(300.0), "300"),
        (moment(START), "2025-10-09 21:00 UTC"), (moment(START + 1000), "2025-10-09 21:00:01 UTC"),
        (moment("2025-10-10T21:14:00Z"), "2025-10-10 21:14 UTC"), (moment(None), "n/a"), (moment("soon"), "soon"),
    ],
)
def test_numbers_are_written_for_readers(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [("BTC/USDT:USDT", ("linear", "USDT")), ("BTC/USD:BTC", ("inverse", "BTC")),
     ("BTC/USDT:USDT-250328", ("linear", "USDT")), ("BTC/USD:BTC-250328-100000-C", ("other", "BTC")),
     ("BTC/USDT", ("other", "")), (EVIL, ("other", ""))],
)
def test_contract_kind(symbol: str, expected: tuple[str, str]) -> None:
    assert contract(symbol) == expected


# -- the paragraph ----------------------------------------------------------------------------------------------


def test_paragraph_of_an_isolated_takeover() -> None:
    run = isolated()
    text = takeover_paragraph(run, takeovers(run)[0])
    for part in (
        "2025-10-10 05:14 UTC, isolated: pool BTC/USDT:USDT isolated was taken over at a margin ratio of 100.0 %.",
        "Equity 1,485.00 USDT = posted margin 31,485.00 - 30,000.00 (unrealised profit BTC/USDT:USDT).",
        "Requirement 1,485.00 USDT = 1,350.00 position margin BTC/USDT:USDT (tier 2, 0.50 % of 270,000.00) "
        "+ 135.00 liquidation fee (0.050 %).",
        "Since its last warning (2025-10-10 02:00 UTC, ratio 299.9 %) the mark of BTC/USDT:USDT went from 91,000.00 to "
        "90,000.00 (-1.10 %); unrealised profit changed by -3,000.00 USDT; funding paid was 18.00 USDT (1 settlement): "
        "equity went from 4,503.00 to 1,485.00 USDT.",
        "1 forced order closed it, for 135.00 of fees and 1,350.00 USDT of penalty.",
        "the ratio was exactly 1",
        # at 84,000: requirement 1,386, a further loss of 18,000, less the equity of 1,485
        "at the lowest price from the takeover's bar to the end of the window (bar ending 2025-10-10 07:00 UTC: "
        "BTC/USDT:USDT 84,000.00, -6.67 %), it needed a deposit of 17,901.00 USDT at the takeover",
        "a cut of 92.99 % of the size",
        "margin that this frees, less the loss, back into the position",
        "Funding after the takeover is not included.",
    ):
        assert part in text


def test_deposit_and_cut_bring_the_ratio_to_one_at_the_lowest_wick() -> None:
    """84,000 was seen inside the bar that closed at 85,000."""
    run = isolated()
    found = rescue(run, takeovers(run)[0])
    assert found is not None
    assert found.at_trigger == 0.0
    assert found.deposit == pytest.approx(17_901, abs=1e-9)
    assert found.cut == pytest.approx(17_901 / 19_251, abs=1e-12)
    assert (found.worst_time, found.worst_at, found.worst_prices) == (START + 10 * HOUR, "low", {SWAP: 84_000.0})
    left = 1 - found.cut
    assert 1_485 + found.deposit - 18_000 == pytest.approx(1_386)
    assert 1_485 - found.cut * 135 - left * 18_000 == pytest.approx(left * 1_386)


@pytest.mark.parametrize("absent", ["lows", "highs"])
def test_without_lows_and_highs_the_closes_decide_and_the_text_says_so(absent: str) -> None:
    run = isolated()
    del run.series[absent]
    found = rescue(run, takeovers(run)[0])
    assert found is not None
    assert found.deposit == pytest.approx(0.0165 * 85_000 + 15_000 - 1_485)
    assert found.cut == pytest.approx(14_917.5 / 16_267.5, abs=1e-12)
    text = takeover_paragraph(run, takeovers(run)[0])
    assert ("at the worst bar close of the rest of the window (2025-10-10 07:00 UTC: BTC/USDT:USDT 85,000.00, -5.56 %),"
            " it needed a deposit of 14,917.50 USDT") in text
    assert "Prices inside a bar and funding after the takeover are not included." in text


@pytest.mark.parametrize(
    ("taken", "worst"),
    [(TAKEN, 9), (START + 8 * HOUR, 9), (START + 9 * HOUR - 1, 9), (START + 9 * HOUR, 10)],
)
def test_the_bar_of_the_takeover_counts_and_the_one_that_ended_then_does_not(taken: int, worst: int) -> None:
    """On the way through a bar the clock stands at its open: the end of the bar before."""
    run = isolated()
    run.series["lows"] = {SWAP: [70_000.0] * 9 + [81_000.0, 82_000.0, 88_000.0, 92_000.0]}
    run.series["lows"][SWAP][8] = 75_000.0
    found = rescue(run, {**takeovers(run)[0], "time": taken})
    assert found is not None
    low = {9: 81_000, 10: 82_000}[worst]
    assert found.worst_time == START + worst * HOUR
    assert found.deposit == pytest.approx(0.0165 * low + 3 * (90_000 - low) - 1_485)


def test_a_last_price_beyond_the_marks_judges_nothing() -> None:
    run = isolated()
    run.series["prices"][SWAP][11] = 60_000.0
    found = rescue(run, takeovers(run)[0])
    assert found is not None
    assert found.worst_prices == {SWAP: 84_000.0}


def test_a_feed_that_began_later_is_aligned_at_the_end() -> None:
    run = isolated()
    for name in ("prices", "lows", "highs"):
        run.series[name] = {SWAP: run.series[name][SWAP][4:]}
    found = rescue(run, takeovers(run)[0])
    assert found is not None
    assert (found.deposit, found.worst_time) == (pytest.approx(17_901), START + 10 * HOUR)


def test_short_in_a_gap() -> None:
    """Short 3 BTC from 100,000 at 110,000, cash 31,000: equity 1,000 against 1,815; the highest price is 115,000."""
    judged = report("USDT", "USDT", 31_000.0, 110_000.0, mode="cross")
    pool, position = judged["pools"][0], judged["positions"][0]
    pool["equity"], pool["margin_ratio"] = 1_000.0, 1_000 / 1_815
    pool["equity_parts"] = {"cash": 31_000.0, f"unrealised profit {SWAP}": -30_000.0}
    position.update(contracts=-300.0, unrealised_pnl=-30_000.0)
    event = {"name": "TakenOver", "time": START, "pool": "USDT", "margin_ratio": 1_000 / 1_815, "loss": 1_000.0,
             "refund": 815.0, "report": judged}
    times = [START, START + HOUR, START + 2 * HOUR]
    run = RunResult(row("cross"), {"time": times, "prices": {SWAP: [109_000.0, 111_000.0, 112_000.0]},
                                "lows": {SWAP: [60_000.0, 60_000.0, 111_000.0]},
                                "highs": {SWAP: [130_000.0, 115_000.0, 112_500.0]}}, [event])
    found = rescue(run, event)
    assert found is not None
    assert found.at_trigger == pytest.approx(815)
    # requirement 1,897.50 and a further loss of 15,000, less the equity of 1,000
    assert found.deposit == pytest.approx(15_897.5)
    assert found.cut == pytest.approx(15_897.5 / (16_897.5 - 165))
    text = takeover_paragraph(run, event)
    assert "A deposit of 815.00 USDT (requirement less equity) would have held the ratio at 1" in text
    assert "No warning came before" in text
    assert "The insurance fund paid 815.00 USDT." in text
    assert ("at the highest price from the takeover's bar to the end of the window (bar ending 2025-10-09 22:00 UTC: "
            "BTC/USDT:USDT 115,000.00, +4.55 %), it needed a deposit of 15,897.50 USDT") in text


@pytest.mark.parametrize(
    ("lows", "highs", "closes", "worst", "needed"),
    [
        # 1,452 + 6,000 of loss for BTC, 983.40 - 1,200 of profit for ETH
        ((88_000, 2_980), (91_000, 3_100), (90_500, 3_000), "low", 7_235.4),
        # 1,501.50 - 3,000 of profit, 1,056 + 12,000 of loss
        ((88_000, 2_980), (91_000, 3_200), (90_500, 3_000), "high", 11_557.5),
        # 1,460.25 + 4,500 of loss, 1,019.70 + 5,400 of loss
        ((88_000, 2_980), (91_000, 3_100), (88_500, 3_090), "close", 12_379.95),
    ],
)
def test_pair_at_its_worst_point(lows: tuple[float, float], highs: tuple[float, float],
                                 closes: tuple[float, float], worst: str, needed: float) -> None:
    """Long 3 BTC at 90,000, short 60 ETH at 3,000, equity 2,475 = requirement, of which 225 are the fee of closing.

    Never BTC at its low with ETH at its high.
    """
    other = "ETH/USDT:USDT"
    judged = report("USDT", "USDT", 32_475.0, 90_000.0, mode="cross")
    pool = judged["pools"][0]
    pool.update(equity=2_475.0, maintenance_margin=2_250.0, liquidation_fee=225.0)
    pool["charges"].append({"name": "position margin", "unit": other, "maintenance": 900.0, "fee": 90.0,
                            "detail": {"tier": 1, "rate": 0.005, "taker": 0.0005, "notional": 180_000.0}})
    judged["positions"].append({"symbol": other, "margin_mode": "cross", "position_side": "net", "contracts": -600.0,
                                "mark_price": 3_000.0, "notional": 180_000.0, "unrealised_pnl": 0.0})
    event = {"name": "TakenOver", "time": START, "pool": "USDT", "report": judged}

    def both(prices: tuple[float, float]) -> dict[str, list[float]]:
        return {SWAP: [90_000.0, float(prices[0]), 90_000.0], other: [3_000.0, float(prices[1]), 3_000.0]}

    run = RunResult(row("cross"), {"time": [START, START + HOUR, START + 2 * HOUR], "prices": both(closes),
                                "lows": both(lows), "highs": both(highs)}, [event])
    found = rescue(run, event)
    assert found is not None
    assert (found.worst_at, found.worst_time) == (worst, START + HOUR)
    assert found.deposit == pytest.approx(needed - 2_475)
    assert found.cut == pytest.approx((needed - 2_475) / (needed - 225))
    text = takeover_paragraph(run, event)
    where = f"(the {worst}s of all symbols, taken together, in the bar ending 2025-10-09 22:00 UTC: {SWAP} "
    assert where in text
    assert f"; {other} " in text


def test_no_cut_helps_when_equity_does_not_cover_the_closing_fee() -> None:
    run = isolated()
    event = {**takeovers(run)[0], "report": report(POOL, "USDT", 29_990.0, 90_000.0)}
    run.events = [event]
    found = rescue(run, event)
    assert found is not None
    assert found.cut is None
    assert found.at_trigger == pytest.approx(1_495)
    assert "no cut would have been enough" in takeover_paragraph(run, event)


def test_takeover_at_the_low_needs_nothing_more() -> None:
    run = isolated()
    run.series = {"time": [TAKEN + HOUR], "prices": {SWAP: [95_000.0]}}
    event = takeovers(run)[0]
    found = rescue(run, event)
    assert found is not None
    assert (found.deposit, found.worst_time) == (0.0, None)
    assert "No later bar of the window closed at a worse price." in takeover_paragraph(run, event)
    run.series.update(lows={SWAP: [90_000.0]}, highs={SWAP: [96_000.0]})
    text = takeover_paragraph(run, event)
    assert text.endswith("No bar from the takeover's to the end of the window held a worse price.")
    short_of_it = {**event, "report": report(POOL, "USDT", 31_400.0, 90_000.0)}
    text = takeover_paragraph(run, short_of_it)
    assert "at the takeover's own marks, it needed a deposit of 85.00 USDT at the takeover, or a cut of 6.30 %" in text


def test_an_earlier_forced_order_is_named_because_the_figures_are_about_what_was_left() -> None:
    run = isolated()
    said = "Forced orders had reduced the pool before; what follows is about the positions held at the takeover."
    assert said not in takeover_paragraph(run, takeovers(run)[0])
    earlier = {**run.events[1], "report": report(POOL, "USDT", 31_503.0, 91_000.0), "remaining": 300.0}
    run.events.insert(1, earlier)  # on the way through the same bar, so at the same time
    assert said in takeover_paragraph(run, takeovers(run)[0])


def test_dust_is_no_payment_of_the_insurance_fund() -> None:
    run = isolated()
    assert "insurance fund" not in takeover_paragraph(run, {**takeovers(run)[0], "refund": 1e-11})


def test_inverse_contract_in_coin() -> None:
    """Long 300,000 USD from 100,000 at 90,000 in BTC: A(p) = M 90,000 / p + 300,000 (1 / p - 1 / 90,000)."""
    symbol, notional = "BTC/USD:BTC", 300_000 / 90_000
    judged = report("BTC", "BTC", 0.0, 90_000.0, mode="cross", symbol=symbol)
    judged["pools"][0].update(
        equity=0.02, maintenance_margin=notional * 0.005, liquidation_fee=notional * 0.0005,
        charges=[{"name": "position margin", "unit": symbol, "maintenance": notional * 0.005,
                  "fee": notional * 0.0005, "detail": {"rate": 0.005, "notional": notional}}],
    )
    judged["positions"][0].update(notional=notional)
    event = {"name": "TakenOver", "time": START, "pool": "BTC", "report": judged}
    found = rescue(RunResult(row("cross"), {
        "time": [START + HOUR], "prices": {symbol: [85_000.0]}, "lows": {symbol: [80_000.0]},
        "highs": {symbol: [99_000.0]},
    }), event)
    assert found is not None
    needed = notional * 0.0055 * 9 / 8 + 300_000 * (1 / 80_000 - 1 / 90_000)
    assert found.deposit == pytest.approx(needed - 0.02)


def test_a_requirement_that_is_no_flat_rate_is_not_projected() -> None:
    run = isolated()
    event = {**takeovers(run)[0]}
    event["report"]["pools"][0]["charges"] = [
        {"name": "MR1", "unit": "BTC", "initial": 0, "maintenance": 1_350.0, "fee": 135.0, "detail": {}}
    ]
    found = rescue(run, event)
    assert found is not None
    assert found.deposit is None
    assert "'MR1' (BTC) does not follow from one mark" in takeover_paragraph(run, event)


def test_change_since_warning_names_the_rest() -> None:
    run = isolated()
    run.ledger = []
    change = since_warning(run, takeovers(run)[0])
    assert change is not None
    assert (change.profit, change.funding, change.rest) == pytest.approx((-3_000, 0, -18))


def test_an_event_without_its_report_is_told_as_far_as_it_goes() -> None:
    run = RunResult(row(), events=[{"name": "TakenOver", "time": TAKEN, "pool": "USDT"}])
    assert "carries no judgement" in takeover_paragraph(run, run.events[0])
    assert "carries no judgement" in render([run], {})


# -- figures ----------------------------------------------------------------------------------------------------


def test_figure_has_three_panels_and_a_colour_per_mode() -> None:
    other = RunResult(row("cross", "survived"), series())
    figure = json.loads(case_figure([isolated(), other]).to_json())
    named = {trace["name"]: trace["line"]["color"] for trace in figure["data"] if "name" in trace and "line" in trace}
    assert named["isolated"] == COLOURS["isolated"]
    assert named["cross"] == COLOURS["cross"]
    assert {trace["yaxis"] for trace in figure["data"]} == {"y", "y2", "y3"}
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines"]
    assert all(trace["x0"] == START and trace["dx"] == HOUR and "x" not in trace for trace in lines)
    assert figure["layout"]["yaxis3"]["type"] == "log"
    assert {s["y0"] for s in figure["layout"]["shapes"] if s["yref"] == "y3"} == {100, 300}
    markers = {trace["name"]: trace for trace in figure["data"] if trace["mode"] == "markers"}
    assert {name: (trace["x"], trace["y"]) for name, trace in markers.items()} == {
        "warning, isolated": ([WARNED], [91_000.0]), "reduced, isolated": ([TAKEN], [90_000.0]),
        "taken over, isolated": ([TAKEN], [90_000.0]),
    }
    assert len({trace["marker"]["symbol"] for trace in markers.values()}) == 3
    assert {trace["legendgroup"] for trace in markers.values()} == {"isolated"}  # they go and come with their mode


def test_an_event_without_positions_is_marked_at_the_close_of_its_bar() -> None:
    run = isolated()
    run.events = [{"name": "Warned", "time": START + HOUR // 2, "pool": POOL, "margin_ratio": 2.0, "report": {}}]
    (marker,) = (t for t in json.loads(case_figure([run]).to_json())["data"] if t["mode"] == "markers")
    assert (marker["x"], marker["y"]) == ([START + HOUR // 2], [99_000.0])


def test_the_band_behind_the_price_is_what_marks_reached() -> None:
    low, high = json.loads(case_figure([isolated()], stride=3).to_json())["data"][:2]
    assert low["y"] == [96_500.0, 80_000.0, 90_300.0, 84_000.0]  # the lowest of each three bars
    assert high["y"] == [100_500.0, 95_500.0, 92_000.0, 89_500.0]
    assert high["fill"] == "tonexty"


def test_thinned_figure_keeps_the_lowest_ratio() -> None:
    run = RunResult(row(), {"time": [0, 1, 2, 3, 4], "equity": [1, 2, 3, 4, 5], "margin_ratio": [5, 2, None, None, 9],
                         "prices": {"A": [1, 2, 3, 4, 5]}})
    traces = json.loads(case_figure([run], stride=2).to_json())["data"]
    assert [trace["y"] for trace in traces] == [[2, 4], [2, 4], [200, None]]
    assert (traces[0]["x0"], traces[0]["dx"]) == (1, 2)


def test_gaps_in_time_keep_every_time() -> None:
    run = RunResult(row(), {"time": [0, 1, 5], "equity": [1, 1, 1], "margin_ratio": [], "prices": {}})
    assert json.loads(case_figure([run]).to_json())["data"][0]["x"] == [0, 1, 5]


def test_no_series_no_figure() -> None:
    assert case_figure([nothing()]) is None


def test_prices_that_move_far_apart_are_drawn_on_a_logarithmic_axis() -> None:
    put = "BTC/USD:BTC-251031-110000-P"
    run = isolated()
    bars = len(run.series["time"])
    for last, axis in ((0.02, "linear"), (0.12, "log")):
        run.series["prices"] = {SWAP: [100_000.0] * bars, put: [0.01] * (bars - 1) + [last]}
        figure = json.loads(case_figure([run]).to_json())
        assert figure["layout"]["yaxis"]["type"] == axis
        prices = {trace["name"]: trace["y"][-1] for trace in figure["data"] if trace.get("name") in (SWAP, put)}
        assert prices == {SWAP: 100.0, put: pytest.approx(last * 10_000)}


# -- the page ---------------------------------------------------------------------------------------------------


def page_text(results: list[RunResult], meta: dict[str, Any] | None = None) -> tuple[str, str]:
    page = render(results, META if meta is None else meta)
    return page, re.sub(r"\s+", " ", Tags(page).text)


def test_page_says_what_it_must() -> None:
    survived = RunResult(row("cross", "survived", rules_extrapolated_days=12), series())
    page, text = page_text([isolated(), survived, nothing()])
    for part in ("OKX's margin ratio falls as danger rises", "300 %", "liquidated", "2025-10-10 05:14 UTC", "10.0 %",
                 "extrapolated 12 days", "1 of 3 runs", "12 days away", "Slippage is 0.", "hourly figures",
                 "bt-margin compare", "mark stands in for last", "position_tiers", "no data", "68,365"):
        assert part in text
    order = [page.index(f'id="{name}"') for name in
             ("verdicts", "rules", "runs", "cases", "assumptions", "evidence", "data", "warnings", "reproduce")]
    assert order == sorted(order)
    assert page.count("mark stands in for last") == 1
    assert page.count("https://www.okx.com/x?a=1&amp;b=2") == 1


def test_tables_have_captions_and_scopes_and_the_first_liquidated_case_is_open() -> None:
    parsed = Tags(render([nothing(), isolated()], META))
    names = [tag for tag, _ in parsed.tags]
    assert names.count("table") == names.count("caption")
    assert all(attrs.get("scope") for tag, attrs in parsed.tags if tag == "th")
    assert "noscript" in names
    cases = [attrs for tag, attrs in parsed.tags if tag == "details" and attrs.get("class") == "case"]
    assert ["open" in attrs for attrs in cases] == [False, True]


def test_plotly_once_and_nothing_to_fetch() -> None:
    page = render([isolated(), nothing()], META)
    parsed = Tags(page)
    assert not [attrs for _, attrs in parsed.tags if "src" in attrs or str(attrs.get("href", "#"))[0] != "#"]
    assert not [tag for tag, _ in parsed.tags if tag in ("link", "iframe", "img", "object")]
    assert page.count("plotly.js v") == 1
    assert '"showSendToCloud":false' in page
    assert "default-src 'none'" in page


def test_hostile_names_stay_text() -> None:
    hostile = RunResult(
        row(strategy=EVIL, window=EVIL, reason=EVIL, contracts={EVIL: 1.0}, data_kind=EVIL), series(EVIL),
        [{"name": "TakenOver", "time": TAKEN, "pool": f"{EVIL} isolated", "margin_ratio": 1.0,
          "report": report(f"{EVIL} isolated", EVIL, 31_485.0, 90_000.0, symbol=EVIL)}],
        [entry(TAKEN, "fee", symbol=EVIL, note=EVIL)], [EVIL], [{"table": EVIL, "source": EVIL}],
    )
    meta = {"title": EVIL, "command": EVIL, "versions": {EVIL: EVIL}, "assumptions": [EVIL], "data": [EVIL],
            "grid": [{"window": EVIL, "table": EVIL, "status": EVIL}]}
    page = render([hostile], meta)
    assert EVIL not in page
    assert "<script>alert" not in page
    assert len([tag for tag, _ in Tags(page).tags if tag == "script"]) == 4
    assert "</script>alert" not in page


def test_none_everywhere_is_written_as_not_available() -> None:
    page, text = page_text([nothing()], {})
    assert "n/a" in text
    outside = page.replace(page[page.index("<script>"): page.rindex("</script>")], "")
    for word in (r">None<", r"\bnan\b", r"\bNaN\b", r"None "):
        assert not re.search(word, outside)
    holes = RunResult(dict.fromkeys(row()), {"time": [0, 1], "equity": [None, float("nan")],
                                          "margin_ratio": [None, float("inf")], "prices": {"A": [None, None]}})
    assert "NaN" not in render([holes], {}).rsplit('id="figures">', 1)[1].split("</script>")[0]


def test_an_empty_study_is_a_page_too() -> None:
    assert "No runs." in render([], {})


def test_long_studies_keep_within_the_limit() -> None:
    n = 20_000
    long = {"time": [START + i * 60_000 for i in range(n)], "equity": [100_000 + i * 1.37 for i in range(n)],
            "margin_ratio": [5 + i * 1.31e-4 for i in range(n)], "prices": {SWAP: [1e5 + i * 0.731 for i in range(n)]}}
    runs = [RunResult(row(mode, "survived", leverage=float(lev)), long)
            for lev in range(1, 6) for mode in ("isolated", "cross", "portfolio")]
    page = render(runs, META)
    assert len(page.encode()) <= LIMIT
    assert "a point stands for" in page


@pytest.mark.parametrize("room", [1_500_000, 300_000])
def test_a_large_study_keeps_within_the_limit_and_loses_no_verdict(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = isolated()
    run.ledger = [entry(START + i, "fee", note=f"an entry that is told, number {i}") for i in range(60)]
    runs = [RunResult(row(mode, window=f"2025-10-{day:02}", leverage=float(lev)), run.series, run.events, run.ledger)
            for day in range(1, 5) for lev in range(1, 6) for mode in ("isolated", "cross", "portfolio")]
    monkeypatch.setattr(html, "LIMIT", len(get_plotlyjs().encode()) + room)
    page = render(runs, META)
    assert len(page.encode()) <= html.LIMIT
    table = page[page.index('id="run-table"'): page.index("</table>", page.index('id="run-table"'))]
    assert table.count("</tr>") == 1 + len(runs)
    assert page.count('class="badge liquidated" href="#case-') == len(runs)
    untold = page.count("Not told here, to keep the page small")
    assert page.count('<details class="case"') == 20
    assert (untold > 0) == (room < 1_000_000)
    assert set(re.findall(r'href="#(case-[\d-]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))


def test_the_ledger_stands_around_each_event() -> None:
    run = isolated()
    before = [entry(START + i, "fee", note=f"before-{i}.") for i in range(30)]
    between = [entry(WARNED + 1 + i, "fee", note=f"between-{i}.") for i in range(30)]
    after = [entry(TAKEN + 1 + i, "fee", note=f"after-{i}.") for i in range(30)]
    run.ledger = [*before, *between, *run.ledger[4:], *after]
    text = page_text([run])[1]
    kept = {name: [i for i in range(30) if f"{name}-{i}." in text] for name in ("before", "between", "after")}
    assert kept == {"before": list(range(25, 30)), "between": [*range(5), *range(18, 30)], "after": list(range(12))}
    assert "37 of 93 entries" in text
    for skipped in ("25 entries left out", "13 entries left out", "18 entries left out"):
        assert skipped in text
    order = [text.index(part) for part in ("before-29.", "warning: BTC", "between-0.", "reduction: BTC", "▶ 2025-10-10",
                                           "after-0.")]
    assert order == sorted(order)


# -- verdicts, money, charges, what others add --------------------------------------------------------------------


def test_the_leverage_that_lived_is_about_those_tested_only() -> None:
    def grid(*verdicts: tuple[float, str]) -> str:
        return lived([RunResult(row("cross", verdict, leverage=factor)) for factor, verdict in verdicts])

    assert grid((2, "survived"), (3, "survived"), (5, "liquidated")) == "up to 3×"
    assert grid((5, "survived"), (2, "survived")) == "up to 5×, all tested"
    assert grid((2, "liquidated"), (3, "liquidated")) == "none of those tested"
    assert grid((2, "reduced"), (3, "survived")) == "none of those tested"  # a lower one that was cut counts
    assert grid((2, "survived"), (3, "liquidated"), (5, "survived")) == "up to 2×"
    assert grid((2, "survived"), (3, "failed")) == "up to 2× (3× not judged)"
    assert grid((2, "survived"), (3, "failed"), (5, "survived")) == "up to 2× (3× not judged)"
    assert grid((2, "survived"), (3, "no data"), (5, "liquidated")) == "up to 2× (3× not judged)"
    assert grid((2, "survived"), (3, "liquidated"), (5, "failed")) == "up to 2×"
    assert grid((2, "no data"), (3, "survived")) == "not known (2× not judged)"
    assert grid((2, "no data")) == "not known (2× not judged)"
    assert grid() == "not known"


def test_the_first_table_is_strategy_and_mode_by_crash() -> None:
    runs = [RunResult(row(mode, verdict, window=window, leverage=leverage, path_dependent=hangs))
            for mode, verdict, window, leverage, hangs in (
                ("cross", "survived", "2025-10-10", 2.0, None), ("cross", "liquidated", "2025-10-10", 5.0, True),
                ("isolated", "bankrupt", "2025-10-10", 2.0, False), ("cross", "refused", "2022-11-08", 2.0, None))]
    page, text = page_text(runs, {**META, "windows": {"2022-11-08": {"title": "FTX", "what": "FTT falls."}}})
    table = page[page.index('id="verdict-table"'): page.index("</table>", page.index('id="verdict-table"'))]
    assert re.findall(r'<th scope="col">([^<]+)', table) == ["strategy", "mode", "2025-10-10", "2022-11-08"]
    cells = [re.sub(r"<[^>]+>|\s+", " ", cell).split() for cell in re.findall(r"<td>(.*?)</td>", table, re.S)]
    assert cells[0] == ["2×", "✕✕", "bankrupt", "lived:", "none", "of", "those", "tested"]
    assert cells[1] == ["not", "run"]
    assert " ".join(cells[2]) == "2× ✓ survived 5× ✕* liquidated, hangs on the path lived: up to 2×"
    assert cells[3][:3] == ["2×", "⊘", "refused"]
    assert "1 of 2 verdicts hang on the path" in text
    assert "2 of 4 verdicts are not checked against the path ohlc" in text
    assert "FTT falls." in text
    assert page.index('id="verdict-table"') < page.index('id="rules"') < page.index('id="run-table"')


def test_where_the_money_went_adds_up_row_by_row() -> None:
    (found,) = spending.rows([isolated()])
    assert found["start"] + sum(found["parts"]) == pytest.approx(found["final"])
    names = [name for name, *_ in spending.PARTS]
    assert dict(zip(names, found["parts"], strict=True)) == pytest.approx({
        "price moves": 68_365 - 100_000 + 285 + 18 + 1485, "fees": -285, "funding": -18, "interest": 0,
        "liquidation": -1485, "insurance fund": 0})
    assert spending.rows([RunResult(row(opened=False))]) == []


def test_charges_are_shown_when_first_when_most_and_last() -> None:
    run = isolated()
    run.series["charges"] = {"time": [START, START + HOUR, START + 2 * HOUR],
                             "parts": {"position margin": [0.0, 40.0, 30.0], "borrow margin": [0.0, 0.0, 25.0]}}
    rows = charges.instants(run)
    assert rows[0] == {"name": "position margin", "first": 40.0, "most": 30.0, "end": 30.0}
    assert rows[2] == {"name": "together", "first": 40.0, "most": 55.0, "end": 55.0}
    assert rows[3]["first"] == START + HOUR
    drawn = json.loads(charges.figure(run).to_json())["data"]
    assert [(trace["name"], trace["stackgroup"]) for trace in drawn] == [
        ("position margin", "charges"), ("borrow margin", "charges")]
    assert "borrow margin" in page_text([run])[1]
    assert charges.figure(nothing()) is None


def test_others_add_sections_to_a_crash_or_at_the_end() -> None:
    figure = case_figure([isolated()])
    within = Section("Survival map " + EVIL, "2025-10-10", ["Alive below " + EVIL],
                     [Picture(figure, "which leverage lived", "read it so", 300)],
                     [Grid("cells", ("entry", "leverage"), [("noon", "3"), ("night", EVIL)], (1,))])
    after = Section("Beyond", "1999-01-01", ["elsewhere"])
    page = render([isolated()], META, [within, after])
    text = Tags(page).text
    assert EVIL not in page
    assert "Alive below <script>alert(1)</script>" in text
    assert page.index('id="crash-1"') < page.index("Survival map") < page.index('id="case-1"')
    assert page.index('id="case-1"') < page.index("Beyond") < page.index('id="assumptions"')
    assert len(json.loads(page.rsplit('id="figures">', 1)[1].split("</script>")[0])) == 3  # the case, the money, theirs
    assert '<td class="n">3</td>' in page


def test_coverage_and_grades_are_told() -> None:
    run = isolated()
    run.data = [{"symbol": SWAP, "from": "downloaded", "source": "okx", "step_ms": 60_000, "bars": 1_430,
                 "expected": 1_440, "marks": 1_400, "settlements": 3, "first": 0, "last": 1, "sha256": "ab" * 32}]
    text = page_text([run])[1]
    for part in ("1,430", "1,440", "99.3 %", "abababababab", "By grade: snapshot 1"):
        assert part in text


def test_written_whole_or_not_at_all(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report([isolated()], META, path)
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<!doctype html>")
    assert first == render([isolated()], META)

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report([], META, path)
    assert path.read_text(encoding="utf-8") == first
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_report_does_not_import_backtrader() -> None:
    code = "import sys, bt_margin.report; sys.exit('backtrader' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
