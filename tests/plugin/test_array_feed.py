"""Whole arrays or bar by bar, a feed shows the same, bit for bit: lines, lengths, ticks, orders; in every run mode."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
import pytest
from backtrader.linebuffer import LineBuffer
from backtrader.utils.date import date2num
from hypothesis import given
from hypothesis import strategies as st

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.plugin import feeds
from bt_margin.plugin.array_feed import MARKS, ArrayFeed
from bt_margin.plugin.options import option_chain
from tests.plugin.script import BTC, ETH, walk

DAY = 86_400_000


class BarByBar(bt.feed.DataBase):
    """The feed as it was before arrays: every value assigned, every tick filled, by backtrader itself."""

    lines: Any = MARKS
    params = (("columns", None), ("close_ms", None), ("funding", None), ("source", ""))
    whole = False

    def __init__(self) -> None:
        super().__init__()
        self.funding, self.first_price = self.p.funding, float(self.p.columns["open"][0])
        self.first_ms = int(self.p.close_ms[0])

    def start(self) -> None:
        super().start()
        self.at = 0

    def _load(self) -> bool:
        if self.at >= len(self.p.close_ms):
            return False
        for name, column in self.p.columns.items():
            getattr(self.lines, name)[0] = float(column[self.at])
        self.lines.datetime[0] = float(self.p.close_ms[self.at] / DAY + 719163.0)
        self.at += 1
        return True


class Witness(bt.Strategy):
    """Writes down all that a feed shows, and trades now and then."""

    params = (("seed", 0), ("size", 1))

    def __init__(self) -> None:
        self.story: list[str] = []
        self.rng = random.Random(self.p.seed)
        self.averages = [bt.ind.SMA(data.close, period=3) for data in self.datas]
        self.marks = [bt.ind.SMA(data.mark, period=2) for data in self.datas if hasattr(data.lines, "mark")]
        self.shifted = [data.close(-1) for data in self.datas]

    def tell(self, *what: Any) -> None:
        self.story.append(" ".join(map(repr, what)))  # repr keeps every bit, and lets NaN equal NaN

    def look(self, ticks: bool) -> None:
        for data in self.datas:
            if not len(data):
                continue
            self.tell(len(data), data.buflen() if data.lines[0].mode == 0 else "", data.datetime.datetime(),
                      data.datetime.datetime(tz=UTC), [(type(line[0]), line[0], len(line)) for line in data.lines])
            if len(data) > 1:
                self.tell(data.open[-1], data.close.get(size=2))
            if ticks:
                self.tell([self.tick(data, name) for name in data.getlinealiases() if name != "datetime"],
                          getattr(data, "tick_last", None) or data.close[0])

    @staticmethod
    def tick(data: Any, name: str) -> Any:
        value = getattr(data, f"tick_{name}", None)
        return getattr(data, name)[0] if value is None else value  # stock leaves the last bar of a preload without

    def prenext(self) -> None:
        self.look(True)

    def next_open(self) -> None:
        self.look(True)

    def next(self) -> None:
        self.look(True)
        self.tell([line[0] for line in (*self.averages, *self.marks, *self.shifted)])
        self.tell(self.broker.getvalue(), self.broker.getcash(), [self.getposition(data).size for data in self.datas])
        if self.rng.random() < 0.4:
            data = self.rng.choice(self.datas)
            price = data.close[0] * self.rng.uniform(0.98, 1.02)
            kind = self.rng.choice([bt.Order.Market, bt.Order.Limit, bt.Order.Stop, bt.Order.Close])
            act = self.rng.choice([self.buy, self.sell])
            act(data=data, size=self.p.size, exectype=kind, price=price, valid=timedelta(hours=5))

    def notify_order(self, order: Any) -> None:
        self.tell(order.getstatusname(), order.executed.size, order.executed.price, order.executed.dt)

    def stop(self) -> None:
        for data in self.datas:  # what plotting and analysis read afterwards
            for line in data.lines:
                self.tell(list(line.array), line.idx, line.lencount, line.buflen())
            if data.lines[0].mode == 0:
                self.tell(data.close.plot(), list(data.open.plotrange(1, 4)), data.getwriterinfo())


def drop_some(data: Any) -> bool:
    return int(data.close[0] * 10) % 4 == 0


class Doubled:
    """A filter that gives every fifth bar twice, and one more at the end."""

    def __init__(self, data: Any) -> None:
        self.seen = 0
        self.ended = False

    def __call__(self, data: Any) -> bool:
        self.seen += 1
        if self.seen % 5 == 0:
            data._save2stack()
        return False

    def last(self, data: Any) -> bool:
        if self.ended:
            return False
        self.ended = True
        data._add2stack([line[0] for line in data.lines])
        return True


Change = Callable[[bt.Cerebro, list[Any]], Any]


def added(cerebro: bt.Cerebro, made: list[Any]) -> None:
    for feed in made:
        cerebro.adddata(feed, name=feed.p.name)


def filtered(*filters: Any) -> Change:
    def change(cerebro: bt.Cerebro, made: list[Any]) -> None:
        added(cerebro, made)
        for feed, one in zip(made, filters, strict=False):
            (feed.addfilter if isinstance(one, type) else feed.addfilter_simple)(one)

    return change


def cloned(cerebro: bt.Cerebro, made: list[Any]) -> None:
    added(cerebro, made)
    cerebro.adddata(made[0].clone(), name="again")


def turned(how: str, clone: bool) -> Change:
    def change(cerebro: bt.Cerebro, made: list[Any]) -> None:
        feed, *others = made
        if clone:
            cerebro.adddata(feed, name=feed.p.name)
        getattr(cerebro, how)(feed, name="slow" if clone else feed.p.name, timeframe=bt.TimeFrame.Minutes,
                              compression=120)
        added(cerebro, others)

    return change


WINDOW = {"fromdate": datetime(2025, 9, 20, 7, 30), "todate": datetime(2025, 9, 21, 3)}


class East(tzinfo):
    """Nine hours ahead. backtrader adds a method to time zones, so none of Python's own will do."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=9)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


EAST = {"tz": East()}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Change, bool]] = {
    # name: cerebro's settings, the feeds' settings, how they are added, whether arrays are whole
    "default": ({}, {}, added, True),
    "next": ({"runonce": False}, {}, added, True),
    "live-like": ({"runonce": False, "preload": False}, {}, added, False),
    "live": ({"live": True}, {}, added, False),
    "exactbars 1": ({"exactbars": 1}, {}, added, False),
    "exactbars -1": ({"exactbars": -1}, {}, added, True),
    "exactbars -2": ({"exactbars": -2}, {}, added, True),
    "oldsync": ({"oldsync": True}, {}, added, True),
    "oldsync next": ({"oldsync": True, "runonce": False}, {}, added, True),
    "lookahead": ({"lookahead": 3}, {}, added, True),
    "lookahead next": ({"lookahead": 3, "runonce": False}, {}, added, True),
    "cheat on open": ({"cheat_on_open": True}, {}, added, True),
    "window": ({}, WINDOW, added, True),
    "window next": ({"runonce": False}, WINDOW, added, True),
    "window live-like": ({"runonce": False, "preload": False}, WINDOW, added, False),
    "only until": ({}, {"todate": WINDOW["todate"]}, added, True),
    "nothing left": ({}, {"fromdate": datetime(2030, 1, 1)}, added, True),
    "tz": ({}, EAST | WINDOW, added, True),
    "tzinput": ({}, {"tzinput": EAST["tz"]}, added, False),
    "filter": ({}, {}, filtered(drop_some), False),
    "filters": ({}, {}, filtered(Doubled, Doubled, drop_some), False),
    "filters next": ({"runonce": False}, {}, filtered(Doubled, Doubled), False),
    "resample": ({}, {}, turned("resampledata", False), False),
    "resample next": ({"runonce": False}, {}, turned("resampledata", False), False),
    "resample a clone": ({}, {}, turned("resampledata", True), False),
    "resample a clone next": ({"runonce": False}, {}, turned("resampledata", True), False),
    "clone": ({}, {}, cloned, True),
    "clone next": ({"runonce": False}, {}, cloned, True),
    "replay": ({}, {}, turned("replaydata", False), False),
    "replay a clone": ({}, {}, turned("replaydata", True), False),
}
SETS = ("one", "one clock", "two clocks", "option chain")


def made_for(which: str, seed: int) -> list[ArrayFeed]:
    rng = np.random.default_rng(seed)
    candles = walk(seed, 40, spread=0.01)
    marks = (candles.iloc[3:] * 1.0001).round(1)  # no marks for the first bars
    made = [feeds.from_dataframe(candles, BTC, mark=marks, index=candles["close"].iloc[::2])]
    if which == "one clock":
        made += [feeds.from_dataframe(walk(seed + 1 + i, 40, 3_000.0), name)
                 for i, name in enumerate((ETH, "SOL/USDT:USDT"))]
    if which == "two clocks":
        quick = walk(seed + 5, 140, 3_000.0)
        quick.index = pd.date_range("2025-09-20", periods=140, freq="15min", tz="UTC")
        made += [feeds.from_dataframe(quick[rng.random(140) < 0.9], ETH, "15m")]
    if which == "option chain":
        under = feeds.from_dataframe(candles, BTC)
        made = [under, *option_chain(under, ["BTC/USD:BTC-250921-60000-C", "BTC/USD:BTC-251226-60000-P"], 0.5)]
    return made


def told(made: list[Any], case: str, mode: str | None, expected: bool | None = None) -> list[str]:
    settings, _, change, _ = CASES[case]
    cerebro = bt.Cerebro(stdstats=False, **settings)
    cerebro.broker = MarginBroker(mode=mode, cash=1e6, leverage=5.0) if mode else bt.brokers.BackBroker(cash=1e6)
    change(cerebro, made)
    cerebro.addstrategy(Witness)
    try:
        (ran,) = cerebro.run()
    except (IndexError, ValueError) as error:  # backtrader itself fails on some shapes; then both have to
        return [f"{type(error).__name__}: {error}"]
    if expected is not None:
        assert made[0].whole is expected
    return ran.story  # type: ignore[no-any-return]


def pair(which: str, seed: int, case: str) -> tuple[list[Any], list[Any]]:
    more = CASES[case][1]
    kwargs = [{**feed.p._getkwargs(), **more} for feed in made_for(which, seed)]
    return [ArrayFeed(**given_) for given_ in kwargs], [BarByBar(**given_) for given_ in kwargs]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", SETS)
def test_whole_arrays_show_what_bars_show(which: str, case: str) -> None:
    for seed, mode in ((1, None), (2, "cross")):
        if mode and (which == "option chain" or not CASES[case][3] or CASES[case][2] is cloned):
            continue  # with a margin account the plain cases are enough; test_run_modes has the others
        ours, theirs = pair(which, seed, case)
        first = told(ours, case, mode, CASES[case][3])
        second = told(theirs, case, mode)
        for i, (a, b) in enumerate(zip(first, second, strict=False)):
            assert a == b, f"line {i}"
        assert len(first) == len(second)


def test_the_battery_sees_what_it_should() -> None:
    short = [case for case in CASES if len(told(pair("one clock", 1, case)[0], case, None)) < 60]
    assert short == ["nothing left"]


class Sized(Witness):
    """Module level, so that worker processes can import it."""


def test_one_cerebro_runs_in_one_mode_after_the_other() -> None:
    """Bar by bar leaves ticks behind that whole arrays must not show, and the other way round."""
    ours, theirs = pair("one clock", 3, "default")
    stories = []
    for made in (ours, theirs):
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.broker = bt.brokers.BackBroker(cash=1e6)
        added(cerebro, made)
        cerebro.addstrategy(Witness)
        stories.append([cerebro.run(**more)[0].story for more in (
            {}, {"preload": False, "runonce": False}, {"preload": True, "runonce": True}, {"runonce": False},
        )])
    assert stories[0] == stories[1]
    assert len(stories[0][0]) > 100


class Final(bt.Analyzer):
    """The whole story, which travels back from worker processes."""

    def stop(self) -> None:
        self.story = list(self.strategy.story)

    def get_analysis(self) -> dict[str, Any]:
        return {"story": self.story}


@pytest.mark.parametrize("cpus", [1, 2])
def test_optimisations_see_the_same(cpus: int) -> None:
    stories = []
    for made in pair("two clocks", 4, "default"):
        cerebro = bt.Cerebro(stdstats=False, maxcpus=cpus)
        cerebro.broker = bt.brokers.BackBroker(cash=1e6)
        added(cerebro, made)
        cerebro.optstrategy(Sized, size=[1, 2, 3])
        cerebro.addanalyzer(Final, _name="final")
        stories.append([run[0].analyzers.final.get_analysis()["story"] for run in cerebro.run()])
    assert stories[0] == stories[1]
    assert len({tuple(story) for story in stories[0]}) == 3


@given(st.integers(min_value=1_262_304_000, max_value=1_893_456_000), st.sampled_from([1, 60, 3_600, 86_400]))
def test_stamps_are_what_backtrader_makes_of_a_date(second: int, step: int) -> None:
    """One bit off, and bars of one instant are shown one after the other."""
    close_s = second - second % step
    feed: Any = ArrayFeed(columns={"open": np.ones(1)}, close_ms=np.array([close_s * 1_000]), name="x")
    feed.setenvironment(bt.Cerebro())
    feed._start()
    feed.preload()
    assert feed.whole
    assert feed.lines.datetime.array[0] == date2num(datetime.fromtimestamp(close_s, UTC).replace(tzinfo=None))


def test_a_feed_that_looks_at_its_own_bars_goes_bar_by_bar() -> None:
    class Curious(ArrayFeed):
        def _load(self) -> bool:
            done = super()._load()
            self.lines.volume[0] = 7.0
            return done

    feed = Curious(**made_for("one", 1)[0].p._getkwargs())
    told([feed], "default", None, expected=False)
    assert set(feed.lines.volume.array) == {7.0}


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="close: expected 2 values, one per bar, found"):
        ArrayFeed(columns={"open": np.ones(2), "close": np.ones(3)}, close_ms=np.array([DAY, 2 * DAY]))


def test_a_preloaded_feed_travels_and_its_columns_stay() -> None:
    feed = made_for("one", 1)[0]
    before = {name: column.copy() for name, column in feed.p.columns.items()}
    told([feed], "default", None)
    for name, column in before.items():
        np.testing.assert_array_equal(feed.p.columns[name], column)
    again = pickle.loads(pickle.dumps(feed))
    assert again.lines.close.array == feed.lines.close.array
    assert again.whole
    again.home()
    again.advance()
    assert (len(again), again.close[0], again.tick_high) == (1, before["close"][0], before["high"][0])


class Noted(ArrayFeed):
    lines = ("noted",)


def test_every_line_of_whole_arrays_is_where_the_feed_is() -> None:
    feed = Noted(**made_for("one", 1)[0].p._getkwargs())
    seen: list[list[tuple[int, float]]] = []

    class Looks(bt.Strategy):
        def next(self) -> None:
            lines = self.data.lines.lines
            seen.append([(len(line), line[0]) for line in lines])
            assert {len(line) for line in lines} == {len(self.data)} == {len(self)}
            assert {line.idx for line in lines} == {len(self) - 1}
            lines[0].advance()  # no line of whole arrays moves by itself
            lines[0].home()
            assert (len(lines[0]), lines[0].idx) == (len(self), len(self) - 1)
            assert lines[0].get(size=min(3, len(self)))[-1] == self.data.close[0]

    def play(**how: Any) -> list[list[tuple[int, float]]]:
        seen.clear()
        cerebro = bt.Cerebro(stdstats=False, **how)
        cerebro.adddata(feed)
        cerebro.addstrategy(Looks if not how else bt.Strategy)
        cerebro.run()
        return list(seen)

    first = play()
    assert feed.whole
    assert len(first) == len(feed.p.close_ms)
    assert all(math.isnan(row[-1][1]) for row in first)  # nobody fills the line that the class added
    play(preload=False, runonce=False)
    assert not feed.whole
    assert {type(line) for line in feed.lines.lines} == {LineBuffer}
    np.testing.assert_equal(play(), first)
