"""Sleeping through quiet bars changes nothing but time: the same runs, bar by bar the exact way and asleep.

Deep run: `python -m tests.plugin.test_sleep 1000` compares so many random runs, and says how much was slept through.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_margin import MarginBroker
from bt_margin.engine.clock import Deleveraging, ModeSwitch
from bt_margin.engine.horizon import Ahead, Stretch
from bt_margin.model.assessment import Charge
from bt_margin.model.market import Market
from bt_margin.modes.base import Judgement
from bt_margin.plugin import feeds
from bt_margin.plugin.analyzers import Recorder, entry_dict, event_dict
from bt_margin.plugin.options import option_chain
from bt_margin.plugin.sleep import LONGEST
from tests.plugin.script import Diary, frame, run, walk

LINEAR, OTHER, INVERSE, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USD:BTC", "BTC/USDT"
FUTURE = "BTC/USDT:USDT-250926"
STARTS = ("2025-09-25T13:00Z", "2024-10-31T09:00Z", "2024-07-01T00:00Z", "2026-03-17T20:00Z", "2022-05-11T02:00Z")
"""Before an expiry, and before days on which rules of the tables change."""
START_PRICES = {LINEAR: 60_000.0, OTHER: 3_000.0, INVERSE: 60_000.0, SPOT: 60_000.0, FUTURE: 60_500.0}
MODES = ("isolated", "cross", "multi-currency", "portfolio")


class Watcher(bt.Analyzer):
    """What a user may look at in every bar, without and with waking the engine."""

    params = (("every", 1),)

    def start(self) -> None:
        self.seen: list[Any] = []

    def next(self) -> None:
        broker = self.strategy.broker
        row: list[Any] = [broker.getvalue(), broker.getcash(), broker.fundvalue, broker.cash]
        if len(self.strategy) % self.p.every == 0:
            row += [broker.getvalue([data]) for data in self.datas]
            row += [broker.engine.market.time, broker.engine.market.marks, broker.engine.present_ratio(),
                    broker.engine.equity_usd(), dict(broker.engine.market.index_times)]
        self.seen.append(row)

    prenext = next


def frames_of(rng: np.random.Generator, symbols: list[str], start: str, bars: int, freq: str) -> dict[str, Any]:
    """Random walks that share their moves, some with a jump, and gaps in time that all have."""
    seed, spread = int(rng.integers(1 << 30)), float(rng.choice([0.0005, 0.003, 0.01]))
    index = pd.date_range(start, periods=bars, freq=freq)
    keep = np.ones(bars, dtype=bool)
    if rng.random() < 0.3:
        gap = int(rng.integers(5, bars - 5))
        keep[gap:gap + int(rng.integers(2, 40))] = False
    found = {}
    for symbol in symbols:
        data = walk(seed, bars, START_PRICES[symbol], spread).set_axis(index)
        if rng.random() < 0.3:
            jump = 1.0 + float(rng.normal(0, 0.1))
            data.iloc[bars // 2:, :4] = np.round(data.iloc[bars // 2:, :4] * max(0.3, jump), 1)
        found[symbol] = data[keep]
    return found


def feeds_of(rng: np.random.Generator, frames: dict[str, Any], freq: str) -> Callable[[], list[Any]]:
    """A maker of feeds, the same each time: some with marks, indexes, funding."""
    more: dict[str, dict[str, Any]] = {}
    for symbol, data in frames.items():
        options: dict[str, Any] = {}
        if ":" in symbol and rng.random() < 0.4:
            options["mark"] = data.iloc[:, :4] * (1.0 + float(rng.normal(0, 0.001)))
        if rng.random() < 0.5:
            index = data["close"] * (1.0 + float(rng.normal(0, 0.0005)))
            options["index"] = index.iloc[len(index) // 3:] if rng.random() < 0.3 else index
        if symbol in (LINEAR, OTHER, INVERSE) and rng.random() < 0.5:
            times = pd.date_range(data.index[0].floor("8h"), data.index[-1], freq="8h")
            options["funding"] = pd.Series(rng.normal(0, 0.0005, len(times)), times)
        more[symbol] = options
    timeframe = freq.replace("min", "m")
    return lambda: [feeds.from_dataframe(data, symbol, timeframe, **more[symbol]) for symbol, data in frames.items()]


def script_of(rng: np.random.Generator, symbols: list[str], bars: int, mode: str) -> dict[int, Any]:
    """What a strategy does at some bars: market orders, limits, stops, brackets, closes, leverage, money."""

    def act(kind: str, symbol: str, size: float, side: str, off: float, valid: int) -> Callable[[Any], Any]:
        def do(s: Diary) -> None:
            data = s.getdatabyname(symbol)
            price, order = data.close[0], s.buy if side == "buy" else s.sell
            sign = 1 if side == "buy" else -1
            until = None if valid == 0 else bt.num2date(data.datetime[0]) + pd.Timedelta(minutes=valid)
            if kind == "market":
                order(data=data, size=size)
            elif kind == "limit":
                order(data=data, size=size, exectype=bt.Order.Limit, price=price * (1 - sign * off), valid=until)
            elif kind == "stop":
                order(data=data, size=size, exectype=bt.Order.Stop, price=price * (1 + sign * off), valid=until)
            elif kind == "stop limit":
                order(data=data, size=size, exectype=bt.Order.StopLimit, price=price * (1 + sign * off),
                      plimit=price * (1 + sign * off / 2), valid=until)
            elif kind == "trail":
                order(data=data, size=size, exectype=bt.Order.StopTrail, trailpercent=off)
            elif kind == "bracket":
                bracket = s.buy_bracket if side == "buy" else s.sell_bracket
                bracket(data=data, size=size, exectype=bt.Order.Market, stopprice=price * (1 - sign * off),
                        limitprice=price * (1 + sign * off))
            elif kind == "close":
                s.close(data=data)
            elif kind == "cancel":
                for open_order in list(s.broker.get_orders_open()):
                    s.cancel(open_order)
            elif kind == "leverage" and ":" in symbol:
                s.broker.set_leverage(data, 5.0)
            elif kind == "money":
                s.broker.add_cash(100.0)
            elif kind == "report":
                s.broker.report()

        return do

    kinds = ["market"] * 4 + ["limit", "stop", "stop limit", "trail", "bracket", "close", "cancel", "leverage",
                              "money", "report"]
    found = {}
    for bar in sorted(rng.choice(np.arange(1, bars), size=int(rng.integers(2, 9)), replace=False)):
        symbol = str(rng.choice(symbols))
        contracts = {SPOT: 0.01, OTHER: 10.0, INVERSE: 6.0}.get(symbol, 1.0)  # about 600 USD each
        size = round(float(rng.choice([1, 5, 20, 60])) * contracts, 2)
        found[int(bar)] = act(str(rng.choice(kinds)), symbol, size, str(rng.choice(["buy", "sell"])),
                              float(rng.choice([0.002, 0.01, 0.05])), int(rng.choice([0, 0, 200])))
    return found


def scenario(seed: int) -> tuple[Callable[[bool], tuple[Any, ...]], str]:
    """A run, to be made asleep or awake, and what it is about."""
    rng = np.random.default_rng(seed)
    mode = str(rng.choice(MODES))
    freq, bars = (("1min", 700), ("15min", 160), ("1h", 60))[int(rng.integers(3))]
    start = str(rng.choice(STARTS))
    symbols = [s for s in (LINEAR, OTHER, INVERSE, SPOT) if rng.random() < 0.6] or [LINEAR]
    if start.startswith("2025-09") and rng.random() < 0.5:
        symbols.append(FUTURE)
    frames = frames_of(rng, symbols, start, bars, freq)
    make, script = feeds_of(rng, frames, freq), script_of(rng, symbols, bars, mode)
    rest = {"cash": {"USDT": float(rng.choice([3_000.0, 12_000.0])), "BTC": float(rng.choice([0.0, 0.2]))},
            "leverage": float(rng.choice([3.0, 10.0])),
            "path": str(rng.choice(["adverse", "adverse", "ohlc", "close"]))}
    if mode in ("multi-currency", "portfolio"):
        rest["borrow"] = {"auto": bool(rng.random() < 0.7)}
    first = pd.Timestamp(start).value // 1_000_000
    if rng.random() < 0.2:
        rest["deleveraging"] = (Deleveraging(first + 5 * 3_600_000, LINEAR, 0.5),)
    if rng.random() < 0.15:
        rest["switches"] = (ModeSwitch(first + 7 * 3_600_000, str(rng.choice(MODES)), 3.0),)
    every = int(rng.choice([1, 7, 10_000]))

    def play(sleep: bool) -> tuple[Any, ...]:
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.broker = broker = MarginBroker(mode=mode, sleep=sleep, **rest)
        for feed in make():
            cerebro.adddata(feed)
        cerebro.addstrategy(Diary, acts=script)
        cerebro.addanalyzer(Recorder, _name="recorder")
        cerebro.addanalyzer(Watcher, _name="watcher", every=every)
        try:
            (diary,) = cerebro.run()
        except Exception as error:
            return (type(error).__name__, str(error)), 0
        found = diary.analyzers.recorder.get_analysis()
        left = {
            "told": diary.told, "values": diary.values, "cashes": diary.cashes,
            "ledger": [entry_dict(entry) for entry in broker.ledger],
            "events": [event_dict(event) for event in broker.events],
            "seen": diary.analyzers.watcher.seen, "recorder": found, "funding due": dict(broker.engine.funding_due),
            "end": (broker.getvalue(), broker.getcash(), broker.engine.market.time, dict(broker.engine.market.lasts)),
        }
        return left, 0 if broker._sleeper is None else broker._sleeper.slept

    return play, f"seed {seed}: {mode}, {freq}, {symbols}, {rest}"


def differences(a: Any, b: Any, where: str = "", near: float = 0.0) -> list[str]:
    """Where two plain values differ; floats may by `near`, as a share."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [row for key in a for row in differences(a[key], b[key], f"{where}.{key}", near)]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: {len(a)} against {len(b)}"]
        return [row for i, (x, y) in enumerate(zip(a, b, strict=True))
                for row in differences(x, y, f"{where}[{i}]", near)]
    if isinstance(a, float) and isinstance(b, float) and near and math.isclose(a, b, rel_tol=near, abs_tol=near):
        return []
    return [] if a == b or (a != a and b != b) else [f"{where}: {a!r} against {b!r}"]


def compare(seed: int) -> tuple[int, list[str]]:
    """(bars slept through, differences) of a random run."""
    play, about = scenario(seed)
    (awake, _), (asleep, slept) = play(False), play(True)
    # matrix products of many instants may round otherwise than those of one: the rest is equal to the last bit
    near = 1e-12 if "portfolio" in about else 0.0
    return slept, [f"{about}: {row}" for row in differences(awake, asleep, near=near)[:5]]


@pytest.mark.parametrize("mode", ["cross", "multi-currency"])
def test_a_dip_on_a_wide_leg_is_not_slept_over(mode: str) -> None:
    """A basis trade that falls below a ratio of 1 within one leg of one bar and is safe at both its ends."""
    future = "BTC/USD:BTC-251226"
    closes = {INVERSE: [60_000.0] * 150 + [75_000.0] * 30, future: [60_000.0] * 150 + [240_000.0] * 30}

    def play(sleep: bool) -> Any:
        data = {symbol: frame(prices, freq="1min") for symbol, prices in closes.items()}
        acts = {3: lambda s: s.buy(data=s.getdatabyname(INVERSE), size=240),
                6: lambda s: s.sell(data=s.getdatabyname(future), size=60)}
        return run(data, acts, freqs=dict.fromkeys(data, "1m"), mode=mode, sleep=sleep, path="close",
                   cash={"USDT": 0.0, "BTC": 0.013}, leverage={INVERSE: 100.0, future: 20.0})

    awake, asleep = play(False), play(True)
    assert [event.name for event in awake.broker.events].count("Reduced") > 0
    assert [event_dict(event) for event in awake.broker.events] == [event_dict(event) for event in asleep.broker.events]
    assert asleep.broker._sleeper.slept > 100


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 31))
def test_a_run_that_sleeps_is_the_run_bar_by_bar(seed: int) -> None:
    _, found = compare(seed)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whole", ["with its coin's contract", "options alone"])
def test_options_are_slept_through_as_well(mode: str, whole: str) -> None:
    data = walk(5, 90, spread=0.002).set_axis(pd.date_range("2025-09-20T00:00Z", periods=90, freq="15min"))
    names = [f"BTC/USD:BTC-251031-{strike}" for strike in ("66000-C", "54000-P")]

    def sell(s: Diary) -> None:
        for name in names:
            s.sell(data=s.getdatabyname(name), size=40)
        if len(s.datas) == 3:
            s.buy(data=s.getdatabyname(LINEAR), size=15)

    def play(sleep: bool) -> tuple[dict[str, Any], int]:
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.broker = broker = MarginBroker(mode=mode, sleep=sleep, cash={"USDT": 20_000.0, "BTC": 0.5}, leverage=5)
        underlying = feeds.from_dataframe(data, LINEAR, "15m", index=data["close"] * 0.9995)
        chain = option_chain(underlying, names, vol=0.6, carry=0.002)
        for feed in [*([] if whole == "options alone" else [underlying]), *chain]:
            cerebro.adddata(feed)
        cerebro.addstrategy(Diary, acts={3: sell})
        cerebro.addanalyzer(Recorder, _name="recorder")
        (diary,) = cerebro.run()
        assert len(broker.account.positions) >= 2
        return {"told": diary.told, "values": diary.values, "cashes": diary.cashes,
                "recorder": diary.analyzers.recorder.get_analysis()}, broker._sleeper and broker._sleeper.slept

    (awake, _), (asleep, slept) = play(False), play(True)
    assert not differences(awake, asleep, near=1e-9)[:5]
    assert slept > 40


def test_a_long_option_alone_is_slept_through_and_no_move_ends_it() -> None:
    data = walk(5, 200, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=200, freq="1min"))
    name = "BTC/USD:BTC-251031-66000-C"
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = broker = MarginBroker(mode="isolated", cash={"USDT": 20_000.0, "BTC": 0.5})
    underlying = feeds.from_dataframe(data, LINEAR, "1m")
    for feed in (underlying, *option_chain(underlying, [name], vol=0.6)):
        cerebro.adddata(feed)
    cerebro.addstrategy(Diary, acts={3: lambda s: s.buy(data=s.getdatabyname(name), size=5)})
    cerebro.run()
    assert broker.account.positions
    assert broker._sleeper.slept > 150
    assert broker.engine.control.entry_distance is None
    assert broker.engine.control.min_distance is None


@pytest.mark.parametrize("mode", MODES)
def test_a_held_position_is_mostly_slept_through(mode: str) -> None:
    data = walk(3, 900, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=900, freq="1min"))
    left = run({LINEAR: data}, {1: lambda s: s.buy(size=20)}, freqs={LINEAR: "1m"}, mode=mode)
    assert left.broker._sleeper.slept > 800


@pytest.mark.parametrize("mode", MODES)
def test_where_a_look_ahead_runs_out_the_broker_sleeps_on(mode: str) -> None:
    """Of a day of minutes only those go the exact way in which the account begins, or funding falls due."""
    data = walk(3, 1_400, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=1_400, freq="1min"))
    left = run({LINEAR: data}, {1: lambda s: s.buy(size=20)}, freqs={LINEAR: "1m"}, mode=mode)
    assert left.broker._sleeper.slept == 1_400 - 3


def test_a_look_reaches_about_as_far_as_somebody_lets_the_broker_sleep() -> None:
    """Orders every 200 bars, over days in which nothing else happens: thousands of bars need not be judged for them."""
    data = walk(3, 6_000, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=6_000, freq="1min"))
    widths: list[int] = []

    def act(strategy: Any) -> None:
        widths.append(strategy.broker._sleeper._width)
        strategy.close() if strategy.position else strategy.buy(size=20)

    left = run({LINEAR: data}, dict.fromkeys(range(200, 6_000, 200), act), freqs={LINEAR: "1m"})
    assert left.broker._sleeper.slept > 5_900
    assert all(64 <= width <= 1_600 for width in widths)
    assert sum(width >= 200 for width in widths) > len(widths) / 2


def test_no_look_is_longer_than_the_longest() -> None:
    data = walk(3, 200, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=200, freq="1min"))
    sleeper = run({LINEAR: data}, {}, freqs={LINEAR: "1m"}).broker._sleeper
    for slept, quiet in ((9_000, 9_000), (16_000, 16_000), (16_000, 16_384), (16_384, 16_384)):
        sleeper.woke(slept, quiet)
        assert 9_000 < sleeper._width <= LONGEST


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("path", ["adverse", "close"])
@pytest.mark.parametrize("beside", ["USDT/USD", "gold"])
def test_all_points_of_the_bars_ahead_are_what_each_is_by_itself(beside: str, path: str, held: bool) -> None:
    candles, opens = walk(3, 200, spread=0.0005), 1_758_326_400_000 + 60_000 * np.arange(200)
    columns = {name: candles[name].to_numpy() for name in ("open", "high", "low", "close", "volume")}
    marks = {f"mark_{name}": columns[name] * 1.0003 for name in ("open", "high", "low")}
    marked = {**columns, **marks, "mark": columns["close"] * 1.0003, "index": columns["close"] * 0.9991}
    worth = {name: column / 60_000.0 for name, column in columns.items()}
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = broker = MarginBroker(mode="multi-currency", path=path)
    for name, rows in ((LINEAR, marked), ("ETH/USDT:USDT", columns), ("BTC/USDT", columns), (beside, worth)):
        cerebro.adddata(feeds.make_feed(name, rows, opens, 60_000, None, "made"))
    cerebro.addstrategy(Diary, acts={3: lambda s: s.buy(size=1)} if held else {})
    cerebro.run()
    sleeper, engine, bars = broker._sleeper, broker.engine, slice(20, 60)
    together = sleeper._ahead(engine, bars)
    assert together.points == (1 if not held else 4 if path == "adverse" else 2)
    sleeper._options = True  # an option beside them would have each point read by itself
    each = sleeper._ahead(engine, bars)
    for ours, theirs in zip(together.market.kinds, each.market.kinds, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    np.testing.assert_array_equal(together.market.times, each.market.times)
    assert together.index_pairs == each.index_pairs == ("BTC/USDT", *["USDT/USD"] * (beside == "USDT/USD"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(-10, 10) | st.just(math.nan), st.sampled_from([0.0, 1.0, 3.0, math.nan])),
                         min_size=12, max_size=12), max_size=3), st.integers(0, 3), st.integers(0, 3))
def test_the_lowest_ratio_of_some_bars_is_that_of_each(pools: list[Any], start: int, count: int) -> None:
    ahead = Ahead(Market(0), np.arange(6), np.arange(6), 2)
    judged = tuple(
        (None, Judgement(np.array(rows)[:, 0], (Charge("margin", "unit", 0.0, np.array(rows)[:, 1], 0.0),)))
        for rows in pools
    )
    stretch = Stretch(ahead, judged, 6)  # type: ignore[arg-type]
    expected = [low for low in stretch.lows()[start:start + count] if low == low]
    np.testing.assert_equal(stretch.low(start, start + count), min(expected, default=math.nan))


@pytest.mark.parametrize("rests", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_an_index_that_falls_silent_is_slept_through_as_it_stood(mode: str, rests: bool) -> None:
    candles, opens = walk(3, 200, spread=0.0005), 1_758_326_400_000 + 60_000 * np.arange(200)
    columns = {name: candles[name].to_numpy() for name in ("open", "high", "low", "close", "volume")}
    columns["index"] = np.where(np.arange(200) < 30, columns["close"], np.nan)

    def play(sleep: bool) -> Any:
        acts = {3: lambda s: s.buy(size=50)}
        if rests:
            acts[5] = lambda s: s.buy(size=1, exectype=bt.Order.Limit, price=50_000.0)
        made = feeds.make_feed(LINEAR, columns, opens, 60_000, None, "made")
        return run({}, acts, prepare=lambda cerebro: cerebro.adddata(made), mode=mode, sleep=sleep)

    awake, asleep = play(False), play(True)
    assert asleep.values == pytest.approx(awake.values, rel=1e-12)
    assert asleep.broker.engine.control.min_distance == pytest.approx(
        awake.broker.engine.control.min_distance, rel=1e-9)
    assert asleep.broker._sleeper.slept > 100


@pytest.mark.parametrize("sleep", [False, True])
@pytest.mark.parametrize("checksubmit", [False, True])
def test_a_stop_that_joins_while_the_broker_sleeps_is_met_in_its_bar(sleep: bool, checksubmit: bool) -> None:
    closes = [60_000.0] * 200 + [58_000.0] * 150
    data = frame(closes, freq="1min")
    left = run({LINEAR: data}, {150: lambda s: s.sell(size=1, exectype=bt.Order.Stop, price=59_000.0)},
               freqs={LINEAR: "1m"}, sleep=sleep, checksubmit=checksubmit)
    assert [(row[0], row[1]) for row in left.told][-1] == (200, "Completed")


@pytest.mark.parametrize("sleep", [False, True])
def test_a_refused_switch_is_told_with_the_next_bar(sleep: bool) -> None:
    data = walk(3, 200, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=200, freq="1min"))
    heard: list[int] = []

    class Hears(Diary):
        def notify_margin(self, event: Any) -> None:
            heard.append(self.bars)

    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash=100.0, sleep=sleep)
    cerebro.adddata(feeds.from_dataframe(data, LINEAR, "1m"))
    cerebro.addstrategy(Hears, acts={120: lambda s: s.broker.switch_mode("portfolio")})
    cerebro.run()
    assert heard == [120]


def test_reading_an_instant_takes_nothing_from_who_reads_next() -> None:
    data = walk(3, 300, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=300, freq="1min"))
    found = []
    for reads in (None, lambda s: s.broker.instant()):
        def add(cerebro: bt.Cerebro) -> None:
            cerebro.addanalyzer(Recorder, _name="recorder")

        left = run({LINEAR: data}, {1: lambda s: s.buy(size=20)}, freqs={LINEAR: "1m"}, each=reads, prepare=add)
        found.append(left.analyzers.recorder.get_analysis()["series"]["margin_ratio"])
    assert found[0] == found[1]
    assert any(found[0])


@pytest.mark.parametrize("sleep", [False, True])
def test_an_instant_shows_what_a_strategy_has_changed_in_its_bar(sleep: bool) -> None:
    """Read in every bar, so that what was looked at ahead is there already when the account mode changes."""
    data = walk(3, 200, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=200, freq="1min"))
    seen: list[set[str]] = []

    def look(s: Diary) -> None:
        s.broker.instant()
        if s.bars == 100:
            s.broker.switch_mode("multi-currency")
        seen.append(set(s.broker.instant().collateral))

    left = run({LINEAR: data}, {1: lambda s: s.buy(size=2), 150: lambda s: s.broker.switch_mode("cross")},
               freqs={LINEAR: "1m"}, each=look, sleep=sleep)
    assert seen == [set()] * 99 + [{"USDT"}] * 50 + [set()] * 51
    assert bool(left.broker._sleeper and left.broker._sleeper.slept > 150) is sleep


def test_an_engine_that_somebody_kept_shows_the_present() -> None:
    data = walk(3, 300, spread=0.0005).set_axis(pd.date_range("2025-09-20T00:00Z", periods=300, freq="1min"))
    seen: list[tuple[int, float, float]] = []
    kept: list[Any] = []

    def look(s: Diary) -> None:
        kept.append(s.broker.engine if not kept else None)
        if s.bars % 50 == 0:
            seen.append((kept[0].market.time, kept[0].equity_usd(), s.broker.getvalue()))

    left = run({LINEAR: data}, {1: lambda s: s.buy(size=20)}, freqs={LINEAR: "1m"}, each=look)
    stamps = data.index.as_unit("ms").asi8 + 60_000
    assert left.broker._sleeper.slept > 200
    assert [row[0] for row in seen] == [int(stamps[bar - 1]) for bar in range(50, 301, 50)]
    assert all(equity == value for _, equity, value in seen)


def test_feeds_of_two_clocks_go_the_exact_way() -> None:
    fast = walk(3, 240).set_axis(pd.date_range("2025-09-20T00:00Z", periods=240, freq="1min"))
    slow = walk(4, 4, 3_000.0).set_axis(pd.date_range("2025-09-20T00:00Z", periods=4, freq="1h"))
    left = run({LINEAR: fast, OTHER: slow}, {5: lambda s: s.buy(size=5)}, freqs={LINEAR: "1m", OTHER: "1h"})
    assert left.broker._sleeper is None
    assert left.getposition(left.datas[0]).size == 5


if __name__ == "__main__":
    total = bad = 0
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 200):
        slept, found = compare(number + (int(sys.argv[2]) if len(sys.argv) > 2 else 0))
        total += slept
        bad += bool(found)
        if found:
            print("\n".join(found), flush=True)
    print(f"{bad} runs differ; {total:,} bars slept through")
