"""Bars that are slept through up to their close, at which something is due: as bar by bar, and really slept through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
import pytest

from bt_margin.engine.engine import MarginEngine
from bt_margin.plugin import feeds
from bt_margin.plugin.analyzers import Recorder
from tests.plugin.script import BTC, ETH, Diary, run, walk
from tests.plugin.test_sleep import FUTURE, MODES, differences

NINE_HOURS = 540


@pytest.fixture
def eves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The closes (ms) of the eves of all runs of a test."""
    seen: list[int] = []
    close = MarginEngine.close_eve

    def noted(engine: MarginEngine, stretch: Any, target: Any, notable: bool) -> None:
        seen.append(target.time)
        close(engine, stretch, target, notable)

    monkeypatch.setattr(MarginEngine, "close_eve", noted)
    return seen


def minutes(bars: int = NINE_HOURS, start: str = "2025-09-20T00:00Z", seed: int = 3, price: float = 60_000.0) -> Any:
    return walk(seed, bars, price, spread=0.0003).set_axis(pd.date_range(start, periods=bars, freq="1min"))


def both(frames: Mapping[str, Any], acts: Mapping[int, Any], rates: float | None = 0.0005, **more: Any) -> Diary:
    """The run that sleeps, once it is known to be the run bar by bar."""
    runs = []
    for sleep in (False, True):
        made = []
        for symbol, data in frames.items():
            times = pd.date_range(data.index[0].floor("8h"), data.index[-1] + pd.Timedelta("1h"), freq="8h")
            swap = symbol.endswith(":USDT") and rates is not None
            series = pd.Series(np.full(len(times), rates), times) if swap else None
            made.append(feeds.from_dataframe(data, symbol, "1m", funding=series))

        def prepare(cerebro: bt.Cerebro, made: Any = made) -> None:
            for feed in made:
                cerebro.adddata(feed)
            cerebro.addanalyzer(Recorder, _name="recorder")

        left = run({}, acts, prepare=prepare, sleep=sleep, **more)
        runs.append((left, left.analyzers.recorder.get_analysis()))
    (awake, bar_by_bar), (asleep, slept) = runs
    near = 1e-12 if more.get("mode") == "portfolio" else 0.0
    found = differences([awake.told, awake.values, awake.cashes, bar_by_bar],
                        [asleep.told, asleep.values, asleep.cashes, slept], near=near)
    assert not found, found[:5]
    return asleep


@pytest.mark.parametrize("path", ["adverse", "ohlc", "close"])
@pytest.mark.parametrize("mode", MODES)
def test_funding_at_its_close_is_all_that_wakes_a_bar(mode: str, path: str, eves: list[int]) -> None:
    slept = both({BTC: minutes(1_000)}, {5: lambda s: s.buy(size=20)}, mode=mode, path=path)
    hours = [pd.Timestamp(time, unit="ms").hour for time in eves]
    assert hours == [8, 16]
    assert [entry.kind.value for entry in slept.broker.ledger].count("funding") == 2
    assert slept.broker._sleeper.slept > 1_000 - 10  # two eves, and the first bars of the account and of the order


@pytest.mark.parametrize("mode", ["cross", "multi-currency"])
def test_a_day_of_other_rules_begins_with_a_close(mode: str, eves: list[int]) -> None:
    slept = both({BTC: minutes(1_500, "2025-09-19T20:00Z")}, {5: lambda s: s.buy(size=20)}, None, mode=mode)
    assert [pd.Timestamp(time, unit="ms").hour for time in eves] == [0, 8, 16]
    assert slept.broker.engine.rules.time == pd.Timestamp("2025-09-20").value // 1_000_000


@pytest.mark.parametrize("point", ["open", "extreme", "close"])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_way_to_the_close_may_be_the_worst_of_the_run(mode: str, short: bool, point: str, eves: list[int]) -> None:
    """Lowest ratio and lowest distance of the run are in the eve itself: at its open, an extreme, or only its close."""
    data = minutes()
    at = data.index.get_loc(pd.Timestamp("2025-09-20T07:59Z"))
    wick, extreme = (61_500.0, "high") if short else (58_500.0, "low")
    data.iloc[at, data.columns.get_loc(extreme if point == "extreme" else point)] = wick
    data.iloc[at, data.columns.get_loc("high")] = max(data.iloc[at, :4])
    data.iloc[at, data.columns.get_loc("low")] = min(data.iloc[at, :4])
    acts = {5: (lambda s: s.sell(size=50, leverage=3)) if short else (lambda s: s.buy(size=50, leverage=3))}
    slept = both({BTC: data}, acts, mode=mode, cash=20_000.0)
    assert len(eves) == 1
    found = slept.analyzers.recorder.get_analysis()
    ratios = found["series"]["margin_ratio"]
    assert min(range(len(ratios)), key=lambda bar: ratios[bar] or 1e9) == at
    assert found["min_margin_ratio"] == ratios[at]
    assert found["min_distance"] < found["entry_distance"]


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_with_an_open_is_no_eve(mode: str, eves: list[int]) -> None:
    """Funding in a gap between two bars is booked at the open, before the bar's way."""
    data = minutes()
    gap = (data.index >= "2025-09-20T07:30Z") & (data.index < "2025-09-20T08:20Z")
    slept = both({BTC: data[~gap]}, {5: lambda s: s.buy(size=20)}, mode=mode)
    assert not eves
    assert [entry.kind.value for entry in slept.broker.ledger].count("funding") == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_eve_that_warns_or_ends_goes_the_exact_way(mode: str, eves: list[int]) -> None:
    data = minutes()
    at = data.index.get_loc(pd.Timestamp("2025-09-20T07:59Z"))
    data.iloc[at, data.columns.get_loc("low")] = 40_000.0
    slept = both({BTC: data}, {5: lambda s: s.buy(size=90, leverage=5)}, mode=mode, cash=12_000.0)
    assert pd.Timestamp("2025-09-20T08:00Z").value // 1_000_000 not in eves  # hours of interest may be
    assert "Reduced" in [event.name for event in slept.broker.events]


@pytest.mark.parametrize("mode", ["isolated", "cross", "multi-currency"])
def test_an_order_that_joins_before_an_eve_is_met_in_it(mode: str, eves: list[int]) -> None:
    data = minutes()
    at = data.index.get_loc(pd.Timestamp("2025-09-20T07:59Z"))
    acts = {5: lambda s: s.buy(size=20), at: lambda s: s.sell(size=20)}
    slept = both({BTC: data}, acts, mode=mode)
    assert not eves
    assert slept.told[-1][:2] == (at, "Completed")


@pytest.mark.parametrize("mode", ["cross", "multi-currency"])
def test_somebody_who_looks_in_every_bar_changes_no_eve(mode: str, eves: list[int]) -> None:
    def look(s: Diary) -> None:
        s.seen = [*getattr(s, "seen", []), (s.broker.engine.market.time, s.broker.engine.present_ratio())]

    data = {BTC: minutes(), ETH: minutes(seed=4, price=3_000.0)}
    acts = dict.fromkeys(range(6, NINE_HOURS), look)
    acts[5] = lambda s: (s.buy(data=s.datas[0], size=10), s.sell(data=s.datas[1], size=20))
    slept = both(data, acts, mode=mode)
    assert len(eves) == 1
    assert all(time == int(stamp.value) // 1_000_000 + 60_000
               for (time, _), stamp in zip(slept.seen, data[BTC].index[5:], strict=False))


@pytest.mark.parametrize("mode", ["isolated", "cross"])
def test_a_delivery_is_the_mean_of_what_was_heard_on_the_way_to_it(mode: str, eves: list[int]) -> None:
    data = {symbol: minutes(300, "2025-09-26T05:00Z", price=price)
            for symbol, price in ((FUTURE, 60_500.0), (BTC, 60_000.0))}
    slept = both(data, {5: lambda s: s.buy(data=s.datas[0], size=20)}, None, mode=mode)
    assert len(eves) == 1
    assert [event.name for event in slept.broker.events] == ["Settled"]
