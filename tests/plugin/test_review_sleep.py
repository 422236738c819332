"""Defects that a review found in sleeping from a bar's open on, each held by a run made bar by bar and asleep."""

from __future__ import annotations

import backtrader as bt
import pytest

from tests.plugin.script import BTC, ETH, Diary, frame, run
from tests.plugin.test_extremes import names, twice

LTC, FUTURE = "LTC/USDT:USDT", "BTC/USDT:USDT-250926"


def test_what_is_opened_at_the_last_open_and_dies_leans_on_the_clock_in_both() -> None:
    frames = {BTC: frame([60_000.0] * 4 + [(60_000.0, 60_000.0, 40_000.0, 41_000.0)])}
    acts = {4: lambda s: s.buy(size=1_000, leverage=50)}
    awake, asleep = (run(frames, acts, mode="isolated", cash=1e6, sleep=sleep) for sleep in (False, True))
    assert "TakenOver" in names(awake)
    assert awake.broker.engine.evidence() == asleep.broker.engine.evidence()
    assert ("funding", BTC) in {(row.table, row.subject) for row in asleep.broker.engine.evidence()}


def test_which_extreme_comes_first_is_known_before_what_was_filled_is_judged() -> None:
    """A long filled at the open is dead at its mark; without it the other extreme would be the adverse one."""
    btc = frame([60_000.0] * 5 + [(60_000.0, 60_000.0, 59_000.0, 60_000.0)])
    mark = btc.iloc[:, :4].copy()
    mark.iloc[5] = [52_000.0, 52_000.0, 30_000.0, 52_000.0]
    eth = frame([3_000.0] * 5 + [(3_000.0, 3_600.0, 3_000.0, 3_000.0)])
    ltc = frame([100.0] * 5 + [(100.0, 100.0, 80.0, 100.0)])

    def first(s: Diary) -> None:
        s.sell(data=s.datas[1], size=300, leverage=10)
        s.buy(data=s.datas[2], size=10, leverage=10)

    acts = {1: first, 5: lambda s: s.buy(data=s.datas[0], size=1_500, leverage=10)}
    told = twice({BTC: btc, ETH: eth, LTC: ltc}, acts, mode="isolated", cash=1e6, feed={BTC: {"mark": mark}})
    pools = [event.pool.partition("/")[0] for event in told.broker.events if event.name == "TakenOver"]
    assert pools == ["BTC", "LTC", "ETH"]


@pytest.mark.parametrize("mode", ["cross", "isolated"])
def test_a_stop_met_by_the_open_hears_the_open_before_a_delivery(mode: str) -> None:
    """The hour's average begins with the price at which it was filled, not with the bar's extreme."""
    bars = [(60_000.0, 60_000.0, 60_000.0, 60_000.0)] * 40
    bars[27] = (60_000.0, 63_000.0, 55_000.0, 60_000.0)
    day = frame(bars, "5min", "2025-09-26T05:00Z")
    acts = {27: lambda s: s.buy(size=100, leverage=2, exectype=bt.Order.Stop, price=59_000.0)}
    freqs = {FUTURE: "5m", BTC: "5m"}
    told = twice({FUTURE: day, BTC: day}, acts, mode=mode, cash=1e6, freqs=freqs)
    (settled,) = (event for event in told.broker.events if event.name == "Settled")
    assert settled.price == 60_000.0
