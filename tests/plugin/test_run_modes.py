"""However cerebro runs, the account's story is the same: run modes, repeated runs, optimisations, two clocks."""

from __future__ import annotations

import random
from typing import Any

import backtrader as bt
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.plugin import feeds
from bt_margin.plugin.analyzers import Recorder
from tests.plugin.script import BTC, ETH, SPOT, Diary, frame, run, walk

RUN_MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "next": {"runonce": False},
    "no preload": {"runonce": False, "preload": False},
    "exactbars": {"exactbars": 1},
    "exactbars -1": {"exactbars": -1},
}
RATES = pd.Series([0.0005, -0.0002] * 5, pd.date_range("2025-09-20T00:00Z", periods=10, freq="8h"))


def busy(seed: int):
    """A strategy of random orders of all types, the same for every run of a seed."""
    rng = random.Random(seed)

    def each(s: Diary) -> None:
        if rng.random() < 0.6:
            return
        data = rng.choice(s.datas)
        side, price = rng.choice([s.buy, s.sell]), data.close[0]
        kind = rng.choice([bt.Order.Market, bt.Order.Limit, bt.Order.Stop, bt.Order.StopLimit, bt.Order.StopTrail,
                           bt.Order.Close])
        at = round(price * (1 + rng.uniform(-0.02, 0.02)), 1)
        more = {"trailamount": round(price * 0.01, 1)} if kind == bt.Order.StopTrail else {"price": at}
        if kind == bt.Order.StopLimit:
            more["plimit"] = at
        side(data=data, size=rng.randint(1, 150), exectype=kind, **more)
        if rng.random() < 0.2:
            s.buy_bracket(data=data, size=10, exectype=bt.Order.Market, stopprice=round(price * 0.98, 1),
                          limitprice=round(price * 1.02, 1))

    return each


def story(diary: Diary) -> tuple[Any, ...]:
    broker = diary.broker
    return (
        broker.ledger, [(e.time, e.name, e.pool) for e in broker.events], diary.told, diary.values, diary.cashes,
        [(t.pnl, t.pnlcomm, t.barlen) for t in diary.trades], diary.bars,
    )


@pytest.mark.parametrize("mode", ["isolated", "cross"])
@pytest.mark.parametrize("seed", range(4))
def test_run_modes_tell_the_same_story(seed: int, mode: str) -> None:
    two_clocks = seed % 2 == 1
    frames = {BTC: walk(seed, 150, spread=0.02)}
    freqs = {}
    if two_clocks:
        fine = walk(seed + 9, 600, 3_000.0, 0.01)
        fine.index = pd.date_range("2025-09-20", periods=600, freq="15min", tz="UTC")
        frames[ETH], freqs[ETH] = fine, "15m"
    stories = {
        name: story(run(frames, each=busy(seed), freqs=freqs, mode=mode, leverage=20.0, modes=modes,
                        feed={BTC: {"funding": RATES}}))
        for name, modes in RUN_MODES.items()
        if not (two_clocks and name == "exactbars")  # backtrader itself loses the slower feed's bar there
    }
    first = stories.pop("default")
    assert first[0], "orders filled"
    assert any(name in ("TakenOver", "Refused") for _, name, _ in first[1])
    for name, other in stories.items():
        for ours, theirs in zip(other, first, strict=True):
            assert ours == theirs, name


def cerebro_of(strategy: type = Diary, **kwargs: Any) -> bt.Cerebro:
    cerebro = bt.Cerebro(stdstats=False, **kwargs)
    cerebro.broker = MarginBroker(mode="cross", cash=10_000.0, leverage=20.0)
    cerebro.adddata(feeds.from_dataframe(walk(3, 200, spread=0.01), BTC, funding=RATES))
    return cerebro


def test_the_same_cerebro_runs_twice_to_the_same_end() -> None:
    cerebro = cerebro_of()
    cerebro.addstrategy(Diary, acts={1: lambda s: s.buy(size=300), 120: lambda s: s.buy(size=10)})
    first = story(cerebro.run()[0])
    second = story(cerebro.run()[0])
    assert [entry.order for entry in first[0]] == [entry.order for entry in second[0]]  # numbered from 1 in every run
    assert first == second


class Sized(bt.Strategy):
    """Buys once; module level, so that worker processes can import it."""

    params = (("size", 1),)

    def next(self) -> None:
        if len(self) == 1:
            self.buy(size=self.p.size)


def optimised(maxcpus: int) -> list[dict[str, Any]]:
    cerebro = cerebro_of(maxcpus=maxcpus)
    cerebro.optstrategy(Sized, size=[10, 100, 320])
    cerebro.addanalyzer(Recorder, _name="recorder")
    return [run_[0].analyzers.recorder.get_analysis() for run_ in cerebro.run()]


def test_optstrategy_on_one_and_two_processes() -> None:
    alone, shared = optimised(1), optimised(2)
    assert len(alone) == len(shared) == 3
    assert shared == alone
    final = [analysis["series"]["equity"][-1] for analysis in alone]
    assert len(set(final)) == 3
    names = {event["name"] for event in alone[2]["events"]}
    assert "TakenOver" in names
    assert all(analysis["ledger"] for analysis in alone)


def test_two_clocks_the_slow_feed_is_judged_when_the_quick_one_moves() -> None:
    """A position in the hourly contract dies at the hour; the quarter-hourly one dies at its quarter."""
    quick = frame([3_000.0] * 5 + [2_500.0] * 11, "15min")
    slow = frame([60_000, 60_000, 60_000, 60_000])
    acts = {2: lambda s: (s.buy(data=s.getdatabyname(ETH), size=20), s.buy(data=s.getdatabyname(BTC), size=1))}
    diary = run({BTC: slow, ETH: quick}, acts, freqs={ETH: "15m"}, mode="isolated", cash=20_000.0)
    (event,) = [e for e in diary.margin_events if e.name == "TakenOver"]
    assert event.keys[0].symbol == ETH
    assert pd.Timestamp(event.time, unit="ms").minute % 15 == 0
    assert [k.symbol for k in diary.broker.engine.account.positions] == [BTC]


def test_time_never_runs_backwards_on_mixed_clocks() -> None:
    times: list[int] = []

    def each(s: Diary) -> None:
        times.append(s.broker.engine.market.time)

    quick = frame([60_000.0] * 40, "15min")
    late = frame([3_000.0] * 6, "1h", "2025-09-20T03:00Z")
    run({BTC: quick, ETH: late}, freqs={BTC: "15m"}, each=each)
    assert times == sorted(times)


def test_replayed_and_resampled_feeds_run() -> None:
    for change in ("replaydata", "resampledata"):
        cerebro = bt.Cerebro(stdstats=False, runonce=False)
        cerebro.broker = MarginBroker(mode="cross", cash=10_000.0, leverage=10.0)
        data = frame([60_000, 60_500, 61_000, 60_000, 58_000, 56_000, 54_000, 50_000, 46_000, 44_000, 43_000, 42_000])
        feed = feeds.from_dataframe(data, BTC)
        getattr(cerebro, change)(feed, timeframe=bt.TimeFrame.Minutes, compression=240, name=BTC)
        cerebro.addstrategy(Diary, each=lambda s: s.buy(size=100) if not s.orders and not s.broker.pending else None)
        (s,) = cerebro.run()
        assert [e.name for e in s.broker.events][-1] == "TakenOver", change
        assert s.position.size == 0
        for gap in s.broker._account.conservation_gap().values():
            assert abs(gap) < 1e-6


def test_a_feed_that_ends_early_keeps_its_last_price() -> None:
    diary = run({BTC: frame([60_000] * 3), SPOT: frame([60_000] * 8)}, {1: lambda s: s.buy(data=s.datas[0], size=10)})
    assert diary.bars == 8
    assert diary.getposition(diary.datas[0]).size == 10
    assert diary.values[-1] == pytest.approx(10_000 - 3.0)
