"""The analyzers in real cerebro runs, set beside the Recorder's series and sums worked out another way."""

from __future__ import annotations

import itertools
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.plugin import analyzers, feeds
from bt_margin.plugin.measures import hours_below, worst_hour
from bt_margin.study.strategies import load

HOUR = 3_600_000
NAMES = ("CostBreakdown", "TimeBelow", "DistanceToLiquidation", "WorstHour", "ReturnSeries", "Recorder")


def run(mode: str, exposure: float, window: str = "2025-10-10", broker: Any = None) -> Any:
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = broker or MarginBroker(mode=mode, cash=100_000.0, leverage=2 * exposure)
    (feed,) = feeds.from_samples(window, ["BTC/USDT:USDT"])
    cerebro.adddata(feed)
    cerebro.addstrategy(load("leveraged_long"), leverage=exposure) if broker is None else cerebro.addstrategy(Buy)
    for name in NAMES:
        cerebro.addanalyzer(getattr(analyzers, name), _name=name)
    (done,) = cerebro.run()
    return done


class Buy(bt.Strategy):
    def next(self) -> None:
        if not self.position:
            self.buy(size=0.5)


@pytest.fixture(scope="module", params=[("isolated", 5.0), ("cross", 3.0), ("multi-currency", 3.0), ("portfolio", 3.0)],
                ids=lambda p: p[0])
def done(request) -> Any:
    return run(*request.param)


def of(done: Any, name: str) -> Any:
    return getattr(done.analyzers, name).get_analysis()


def test_costs_are_what_the_ledger_says(done) -> None:
    found, ledger = of(done, "CostBreakdown"), done.broker.ledger
    forced = [e for e in ledger if e.note == "forced"]
    assert found["fees_usd"] == pytest.approx(-sum(e.cash + e.margin for e in ledger
                                                   if str(e.kind) == "fee" and e not in forced))
    assert found["funding_usd"] == pytest.approx(sum(e.cash + e.margin for e in ledger if str(e.kind) == "funding"))
    assert found["funding_usd"] != 0
    assert found["liquidation_cost_usd"] == pytest.approx(
        -sum(e.cash + e.margin for e in forced if str(e.kind) in ("fee", "penalty")))
    assert (found["liquidation_cost_usd"] > 0) == any(e.name == "TakenOver" for e in done.broker.events)


def test_time_in_danger_is_counted_from_the_recorders_bars(done) -> None:
    ratios = of(done, "Recorder")["series"]["margin_ratio"]  # the two share what each bar's lowest ratio was
    found = of(done, "TimeBelow")
    assert any(r is not None for r in ratios)
    assert found["hours"] == sum(r is not None and r <= 3 for r in ratios)
    assert found["share"] == pytest.approx(found["hours"] / sum(r is not None for r in ratios))
    assert (found["hours"] > 0) == any(e.name == "Warned" for e in done.broker.events)


def test_distance_starts_at_entry_and_its_lowest_is_the_engines(done) -> None:
    found, record = of(done, "DistanceToLiquidation"), of(done, "Recorder")
    assert found["time"] == record["series"]["time"]
    assert found["entry"] == record["entry_distance"] > 0
    assert found["lowest"] == record["min_distance"]
    known = [d for d in found["distance"] if d is not None]
    assert min(known) >= found["lowest"] - 1e-9  # the engine looks within bars too
    ratios = dict(zip(found["time"], record["series"]["margin_ratio"], strict=True))
    assert all(d is None or ratios[t] is not None for t, d in zip(found["time"], found["distance"], strict=True)
               if t != found["time"][0])


def test_the_worst_hour_and_the_returns_come_from_the_values(done) -> None:
    series = of(done, "Recorder")["series"]
    values = series["equity"]
    falls = [(b - a, t) for a, b, t in zip(values, values[1:], series["time"][1:], strict=False)]
    change, end = min(falls)
    found = of(done, "WorstHour")
    assert (found["end"], found["change"]) == (end, pytest.approx(change))
    assert found["share"] == pytest.approx(change / values[series["time"].index(end) - 1])
    returns = done.analyzers.ReturnSeries.series()
    assert isinstance(returns.index, pd.DatetimeIndex)
    assert str(returns.index.tz) == "UTC"
    assert len(returns) == 9  # days
    assert float((1 + returns).prod()) == pytest.approx(values[-1] / 100_000)
    first = [v for t, v in zip(series["time"], values, strict=True) if t <= series["time"][0] - HOUR + 24 * HOUR]
    assert returns.iloc[0] == pytest.approx(first[-1] / 100_000 - 1)


def test_charges_by_name_add_up_to_the_requirement(done) -> None:
    series = of(done, "Recorder")["series"]
    charges = series["charges"]
    assert charges["time"] == series["time"]  # hourly bars: every one
    total = np.sum(list(charges["parts"].values()), axis=0)
    assert total.max() > 0
    for event in done.broker.events:  # an event's own judgement, against the hour before and after it
        if event.name == "Warned":
            before = int(np.searchsorted(charges["time"], event.time)) - 1
            needed = sum(p.requirement for p in event.report.pools)
            assert needed == pytest.approx(total[before], rel=0.15)
    moments = series["risk_units"]
    if done.broker.engine.mode.name == "portfolio":
        assert [m["when"] for m in moments] == ["at entry", "at the lowest ratio that an hour ended with"]
        assert moments[0]["time"] < moments[1]["time"]
    else:
        assert moments == []


def test_under_the_stock_broker_they_are_empty_or_plain() -> None:
    stock = bt.brokers.BackBroker()
    stock.setcash(100_000.0)
    done = run("", 0.0, broker=stock)
    assert of(done, "CostBreakdown") == {}
    assert of(done, "TimeBelow") == {"hours": 0.0, "share": 0.0}
    assert of(done, "DistanceToLiquidation") == {"time": [], "distance": [], "entry": None, "lowest": None}
    assert of(done, "WorstHour")["change"] < 0
    final = stock.getvalue()
    assert float((1 + done.analyzers.ReturnSeries.series()).prod()) == pytest.approx(final / 100_000)


def test_every_bar_is_a_return_where_days_are_not_asked_for() -> None:
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash=100_000.0, leverage=4)
    cerebro.adddata(feeds.from_samples("2025-10-10", ["BTC/USDT:USDT"])[0])
    cerebro.addstrategy(load("leveraged_long"), leverage=2)
    cerebro.addanalyzer(analyzers.ReturnSeries, daily=False, _name="returns")
    cerebro.addanalyzer(analyzers.Recorder, _name="recorder")
    (done,) = cerebro.run()
    returns = done.analyzers.returns.get_analysis()
    assert list(returns) == done.analyzers.recorder.get_analysis()["series"]["time"]


def test_measures_on_minutes() -> None:
    """Sixty minutes back, whatever the bar; a gap in the bars is not counted as time in danger."""
    times = [i * 60_000 for i in range(1, 181)]
    values = [1000.0 - abs(i - 90) for i in range(180)]
    found = worst_hour(times, values)
    assert found is not None
    brute = min(values[j] - values[i] for i, j in itertools.combinations(range(180), 2) if j - i == 60)
    assert found.change == brute == -60.0
    assert worst_hour(times, sorted(values)) is None
    assert hours_below([60_000, 120_000, 600_000], [2.0, None, 3.0], 3.0, 60_000) == pytest.approx(2 / 60)
