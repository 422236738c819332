"""Extremes: falls of 99 %, gaps, halts, ends of feeds, many orders, many instruments, in every mode.

Each run is made twice, bar by bar and sleeping through what is quiet, and both tell the same; money is conserved (`run`
asserts it); what the account says in the end adds up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.errors import MissingPrice
from bt_margin.plugin import feeds
from bt_margin.plugin.analyzers import DistanceToLiquidation, entry_dict, event_dict
from bt_margin.plugin.options import option_chain
from bt_margin.rules.book import load_rules
from tests.plugin.script import BTC, ETH, SPOT, Diary, frame, run
from tests.plugin.test_sleep import MODES, differences

HOUR = 3_600_000
FEW_STEPS = {"portfolio": {"liquidation_slice": 0.5, "hedge_slice": 0.5}}
"""Portfolio margin is undone by halves, each solved for along the bar, not by tenths."""


def twice(frames: Mapping[str, pd.DataFrame], acts: Mapping[int, Any] | None = None, **more: Any) -> Diary:
    """The run bar by bar, once it is known to be the run that sleeps."""
    def once(sleep: bool) -> Diary:  # each with a book of its own: evidence is what was looked up in it
        book = {"rules": load_rules("okx").overlay(parameters=FEW_STEPS)} if more.get("mode") == "portfolio" else {}
        return run(frames, acts, sleep=sleep, **book, **more)

    awake, asleep = once(False), once(True)

    def told(s: Diary) -> dict[str, Any]:
        return {"told": s.told, "values": s.values, "cashes": s.cashes, "end": s.broker.getvalue(),
                "ledger": [entry_dict(e) for e in s.broker.ledger], "events": [event_dict(e) for e in s.broker.events]}

    found = differences(told(awake), told(asleep), near=1e-12 if more.get("mode") == "portfolio" else 0.0)
    assert not found, found[:5]
    assert np.all(np.isfinite(awake.values))
    times = [entry.time for entry in awake.broker.ledger]
    assert times == sorted(times)
    return awake


def names(s: Diary) -> list[str]:
    return [event.name for event in s.broker.events]


def undone(s: Diary, mode: str) -> Any:
    """What first says that a long of 100 contracts was undone: whole; in portfolio margin a slice at a time, until what
    is left is safe."""
    if mode != "portfolio":
        assert s.position.size == 0
        (taken,) = [e for e in s.broker.events if e.name == "TakenOver"]
        return taken
    assert 0 <= s.position.size < 100
    ratio = s.broker.engine.present_ratio()
    assert ratio is None or ratio > 1.0
    return next(e for e in s.broker.events if e.name == "Reduced")


def buy(size: float = 100.0, **more: Any) -> dict[int, Any]:
    return {1: lambda s: s.buy(size=size, **more)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("jump", [False, True], ids=["walked", "jumped"])
def test_a_fall_of_99_percent_ends_a_long_and_enriches_a_short(mode: str, jump: bool) -> None:
    opened = 600.0 if jump else 60_000.0
    fall = [60_000, 60_000, (opened, opened, 600.0, 600.0), *[600] * 90]
    long = twice({BTC: frame(fall)}, buy(), mode=mode)
    assert long.forced()
    assert long.position.size == 0
    assert len(long.trades) == 1
    assert 0.0 <= long.values[-1] < 5_000.0
    assert all(balance >= 0.0 for balance in long.broker.account.balances.values())
    short = twice({BTC: frame(fall)}, {1: lambda s: s.sell(size=100)}, mode=mode)
    assert not short.forced()
    assert short.position.size == -100
    assert short.values[-1] == pytest.approx(10_000 + 59_400 - 30, rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("price", [0.0, float("nan")])
def test_a_price_of_zero_is_one_clear_error_asleep_or_awake(mode: str, price: float) -> None:
    data = frame([60_000.0] * 200)
    columns = {name: data[name].to_numpy().copy() for name in data.columns}
    columns["low"][150] = price
    opens = data.index.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    said = []
    for sleep in (True, False):
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.broker = MarginBroker(mode=mode, cash=10_000.0, leverage=10.0, sleep=sleep)
        cerebro.adddata(feeds.make_feed(BTC, columns, opens, HOUR, None, "test"))
        cerebro.addstrategy(Diary, acts=buy(10))
        with pytest.raises(MissingPrice, match=r"BTC/USDT:USDT.*2025-09-26T07:00:00Z.*repair") as error:
            cerebro.run()
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("hours", "after"), [(48, 42_000.0), (48, 59_000.0), (10, 59_000.0)],
                         ids=["weekend and fall", "weekend", "halt"])
def test_funding_falls_due_while_no_bars_come(mode: str, hours: int, after: float) -> None:
    """A weekend or a halt: settlements at their own times, the jump judged at the first price after it."""
    data = frame([60_000] * 10 + [after] * 40)
    data.iloc[10, :3] = after  # the first bar after it opens there
    data.index = data.index[:10].append(data.index[10:] + pd.Timedelta(hours=hours))
    start = data.index[0].value // 1_000_000
    due = pd.date_range(data.index[0] + pd.Timedelta(hours=1), data.index[-1], freq="8h").floor("8h").unique()
    due = due[due > data.index[0]]
    rates = pd.Series(0.0001, due)
    s = twice({BTC: data}, buy(), mode=mode, feed={BTC: {"funding": rates}})
    halt = (start + 10 * HOUR, start + (10 + hours) * HOUR)
    paid = [e for e in s.broker.ledger if e.kind == "funding" and halt[0] < e.time <= halt[1]]
    assert [e.time for e in paid] == [t.value // 1_000_000 for t in due if halt[0] < t.value // 1_000_000 <= halt[1]]
    assert len(paid) == hours // 8
    assert sum(e.total for e in paid) == pytest.approx(-len(paid) * 60_000 * 0.0001, rel=1e-6)
    if after == 42_000.0:
        assert "TakenOver" in names(s)
        taken = next(e for e in s.broker.events if e.name == "TakenOver")
        assert taken.time == halt[1]  # where the price came, not where bars ended
        assert s.position.size == 0
    else:
        assert s.position.size == 100


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [60_000.0, 62_000.0], ids=["by a price", "by a trade"])
def test_of_a_market_that_stands_still_between_jumps_the_nearest_point_is_known(mode: str, end: float) -> None:
    """Where no price changes the distance is not sought again: the lowest is still that of a search at every bar."""
    prices = [60_000.0] * 30 + [59_000.0] * 30 + [60_500.0] * 20 + [end] * 5  # the last day, with other rules, has 13
    data = frame([(price,) * 4 for price in prices])
    acts = {1: lambda s: s.buy(size=60), 75: lambda s: s.buy(size=25)}

    def lowest(**more: Any) -> float | None:
        return run({BTC: data}, acts, mode=mode, **more).broker.engine.control.min_distance

    searched = run({BTC: data}, acts, mode=mode, sleep=False,
                   prepare=lambda cerebro: cerebro.addanalyzer(DistanceToLiquidation, _name="away"))
    away = searched.analyzers.away.get_analysis()["distance"]
    assert len({round(d, 9) for d in away if d is not None}) >= 4
    assert lowest(sleep=False) == lowest(sleep=True) == min(d for d in away if d is not None)


@pytest.mark.parametrize("mode", MODES)
def test_of_two_clocks_the_quick_one_kills(mode: str) -> None:
    quick = frame([60_000] * 90 + [(60_000.0, 60_000.0, 45_000.0, 46_000.0)] + [46_000] * 89, "1min")
    slow = frame([3_000, 3_000, 3_000], "1h")
    s = twice({BTC: quick, ETH: slow}, buy(), mode=mode, freqs={BTC: "1m", ETH: "1h"})
    taken = undone(s, mode)
    minute = quick.index[0].value // 1_000_000 + 90 * 60_000
    assert minute <= taken.time <= minute + 60_000


@pytest.mark.parametrize("mode", MODES)
def test_where_marks_end_the_last_price_judges_and_that_is_said(mode: str) -> None:
    """Marks hold up through a wick of the first half; a wick after their end kills."""
    wick = (60_000.0, 60_000.0, 45_000.0, 60_000.0)
    data = frame([60_000] * 80 + [wick] + [60_000] * 80 + [wick] + [60_000] * 40)
    marks = frame([60_000] * 120)[["open", "high", "low", "close"]]
    s = twice({BTC: data}, buy(), mode=mode, feed={BTC: {"mark": marks}})
    assert (undone(s, mode).time - data.index[0].value // 1_000_000) // HOUR in (161, 162)
    assert any("mark" in warning for warning in s.broker.report().warnings)


@pytest.mark.parametrize("mode", MODES)
def test_a_contract_whose_feed_ends_stays_and_dies_with_its_account(mode: str) -> None:
    """BTC is delisted at bar 80 with a position open; ETH goes on, and falls."""
    btc, eth = frame([60_000] * 80), frame([3_000] * 160 + [(3_000.0, 3_000.0, 1_500.0, 1_500.0)] + [1_500] * 20)

    def both(s: Diary) -> None:
        s.buy(data=s.datas[0], size=20)
        s.buy(data=s.datas[1], size=150)

    s = twice({BTC: btc, ETH: eth}, {1: both}, mode=mode)
    assert s.bars == 181
    held = {key.symbol: p.size for key, p in s.broker.account.positions.items()}
    sizes = [s.getposition(data).size for data in s.datas]
    assert sizes == [held.get(BTC, 0.0), held.get(ETH, 0.0)]
    if mode == "portfolio":  # slices of both, until what is left is safe
        assert sizes[0] < 20
        assert sizes[1] < 150
        assert s.broker.engine.present_ratio() > 1.0
    else:
        assert sizes == [20 if mode == "isolated" else 0, 0]  # isolated: the other position is not touched
        assert "TakenOver" in names(s)
    assert s.values[-1] >= 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("last", [False, True], ids=["first bar", "last bar"])
def test_liquidation_in_the_first_bar_of_a_position_and_in_the_last_of_the_run(mode: str, last: bool) -> None:
    wick = (60_000.0, 60_000.0, 45_000.0, 46_000.0)
    bars = [60_000] * 100 + [wick] if last else [60_000, wick, *[46_000] * 90]
    s = twice({BTC: frame(bars)}, buy(), mode=mode)
    undone(s, mode)
    assert len(s.forced()) >= 1
    assert len(s.trades) == (0 if s.position.size else 1)
    cost = sum(e.total for e in s.broker.ledger)
    still = sum(p.size * 0.01 * (46_000 - p.entry_price) for p in s.broker.account.positions.values())
    assert s.broker.getvalue() == pytest.approx(max(10_000.0 + cost + still, 1e-9), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_all_resting_orders_go_with_the_account_and_each_is_told(mode: str) -> None:
    def place(s: Diary) -> None:
        s.buy(size=100)
        for i in range(40):
            s.buy(size=0.01, exectype=bt.Order.Limit, price=20_000 + i)

    wick = (60_000.0, 60_000.0, 45_000.0, 46_000.0)
    s = twice({BTC: frame([60_000] * 80 + [wick] + [46_000] * 10)}, {1: place}, mode=mode)
    (cancelled,) = [e for e in s.broker.events if e.name == "OrdersCancelled"]
    assert len(cancelled.orders) == 40
    assert sum(o.status == o.Canceled for o in {o.ref: o for o in s.orders}.values()) == 40
    assert not s.broker.account.orders
    assert not s.broker.pending
    undone(s, mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_order_at_the_moment_of_a_liquidation(mode: str) -> None:
    """What lies in the venue's book goes, each told once and why, with what hangs on it; what waits for its stop stays
    with its owner, unless it could only have closed what is gone."""
    kinds = bt.Order

    def place(s: Diary) -> None:
        s.buy(size=100)
        made = s.made
        made["limit"] = s.buy(size=1, exectype=kinds.Limit, price=30_000)
        made["against"] = s.sell(size=1, exectype=kinds.Limit, price=95_000)
        made["met stop-limit"] = s.sell(size=1, exectype=kinds.StopLimit, price=59_500, plimit=65_000)
        made["one of two"] = s.buy(size=1, exectype=kinds.Limit, price=31_000)
        made["the other"] = s.buy(size=1, exectype=kinds.Limit, price=29_000, oco=made["one of two"])
        made["entry"], made["its stop"], made["its limit"] = s.buy_bracket(
            size=1, price=32_000, stopprice=20_000, limitprice=70_000)
        made["stop"] = s.sell(size=1, exectype=kinds.Stop, price=30_000)
        made["stop-limit"] = s.buy(size=1, exectype=kinds.StopLimit, price=80_000, plimit=81_000)
        made["trailing"] = s.sell(size=1, exectype=kinds.StopTrail, trailamount=30_000)
        made["exit"] = s.sell(size=1, exectype=kinds.Stop, price=25_000, reduce_only=True)

    def cancel(s: Diary) -> None:
        assert not s.broker.account.orders
        s.made["waits"] = [name for name, order in s.made.items() if order.status == order.Accepted]
        for name in s.made["waits"]:
            s.cancel(s.made[name])

    dip, wick = (60_000.0, 60_000.0, 59_000.0, 60_000.0), (60_000.0, 60_000.0, 45_000.0, 46_000.0)
    bars = [60_000] * 4 + [dip] + [60_000] * 3 + [wick] + [46_000] * 4
    s = twice({BTC: frame(bars)}, {1: place, 11: cancel}, mode=mode)
    undone(s, mode)
    left = s.position.size > 0
    assert left is (mode == "portfolio")
    waits = s.made.pop("waits")
    assert waits == ["stop", "stop-limit", "trailing", *(["exit"] if left else [])]
    cancelled = [e for e in s.broker.events if e.name == "OrdersCancelled"]
    assert sum(len(e.orders) for e in cancelled) == 6
    assert {e.time for e in cancelled} <= {e.time for e in s.broker.events if e.name == "Reduced"}
    for name, order in s.made.items():
        assert s.statuses(order)[-1] == "Canceled", name
        assert s.statuses(order).count("Canceled") == 1, name
    for name in ("limit", "against", "met stop-limit", "one of two", "the other", "entry"):
        assert s.made[name].info.reason.startswith("cancelled b"), name
    assert ("reason" in s.made["exit"].info) is not left
    assert not s.broker.pending


@pytest.mark.parametrize(("mode", "count", "each"), [
    ("isolated", 100, 1.0), ("cross", 100, 1.0), ("multi-currency", 100, 1.0), ("portfolio", 30, 3.0),
    ("isolated", 30, 11.0), ("cross", 30, 11.0), ("multi-currency", 10, 33.0), ("portfolio", 2, 137.0),
])
def test_many_instruments_are_held_and_fall_together(mode: str, count: int, each: float) -> None:
    """All lose 30 % at one bar's open: 10,000 of contracts on 10,000 live, 27,400 or more die. What broker, account and
    ledger say adds up."""
    symbols = [f"C{i:02d}/USDT:USDT" for i in range(count)]
    listed = {name: {"contract_size": 1.0, "tick": 0.01, "lot": 0.01, "tiers": [[1e6, 0.01, 0.02, 50]]}
              for name in symbols}
    data = frame([100.0] * 4 + [(70.0,) * 4] + [70.0] * 2)
    dies = count * each > 150

    def all_of_them(s: Diary) -> None:
        for feed in s.datas:
            s.buy(data=feed, size=each)

    s = twice(dict.fromkeys(symbols, data), {2: all_of_them}, mode=mode, instruments=listed,
              leverage=5.0 if dies else 2.0)
    assert len([o for o in s.filled() if o[0] > 0]) == count
    assert bool({"TakenOver", "Reduced"} & set(names(s))) == dies
    if dies and mode == "isolated":  # each on its own
        assert sum(name == "TakenOver" for name in names(s)) == count
    held = {key.symbol: p.size for key, p in s.broker.account.positions.items()}
    for feed in s.datas:
        assert s.getposition(feed).size == held.get(feed._name, 0.0)
    paid = sum(e.total for e in s.broker.ledger)
    open_profit = sum(p.size * (70.0 - p.entry_price) for p in s.broker.account.positions.values())
    assert s.broker.getvalue() == pytest.approx(max(10_000.0 + paid + open_profit, 1e-9), abs=1e-6)
    assert s.broker.report().account.equity_usd == pytest.approx(max(s.broker.getvalue(), 0.0), abs=1e-6)


PUT, CALL = "BTC/USD:BTC-250926-55000-P", "BTC/USD:BTC-250926-65000-C"


def strangle(data: pd.DataFrame, size: float, mode: str, vols: list[float] | float = 0.5, last: int = 0) -> Diary:
    """A put and a call sold at the first bar on a whole bitcoin and 20,000 USDT; at bar `last` they are bought back."""
    def chain(cerebro: bt.Cerebro) -> None:
        for feed in option_chain(cerebro.datas[0], [PUT, CALL], vols):
            cerebro.adddata(feed)

    def sell(s: Diary) -> None:
        for option in s.datas[1:]:
            s.sell(data=option, size=size)

    def back(s: Diary) -> None:
        for option in s.datas[1:]:
            s.close(data=option)

    s = twice({BTC: data}, {1: sell, last: back} if last else {1: sell}, mode=mode, prepare=chain,
              cash={"BTC": 1.0, "USDT": 20_000.0})
    assert [size for size, _ in s.filled()][:2] == [-size, -size]
    return s


@pytest.mark.parametrize("mode", MODES)
def test_a_short_strangle_through_a_fall_of_99_percent_within_a_bar(mode: str) -> None:
    """The put's price in the coin grows without bound, and is worth no more than its strike on the way."""
    s = strangle(frame([60_000] * 4 + [(60_000.0, 60_000.0, 600.0, 600.0), 600, 600]), 60, mode)
    assert {e.key.symbol for e in s.broker.events if e.name == "Reduced"} >= {PUT}
    assert PUT not in {key.symbol for key in s.broker.account.positions}
    assert not any(balance < 0 for balance in s.broker.account.balances.values())
    assert s.values[-1] >= 0.0
    assert all(e.price < 55_000.0 / 600.0 for e in s.broker.events if e.name == "Reduced")


@pytest.mark.parametrize("mode", MODES)
def test_a_jump_of_the_implied_vol_alone_costs_what_the_options_then_cost(mode: str) -> None:
    """Prices stand still, vols go from 50 % to 150 % between two bars: what is bought back is paid for in coins."""
    s = strangle(frame([60_000] * 16), 20, mode, [0.5] * 9 + [1.5] * 7, last=12)
    sold_put, sold_call, bought_put, bought_call = (price for _, price in s.filled())
    assert bought_put > 3 * sold_put
    assert bought_call > 3 * sold_call
    coins = 0.2 * (sold_put + sold_call - bought_put - bought_call)
    fees = sum(e.total for e in s.broker.ledger if e.kind == "fee")
    assert s.broker.account.balance("BTC") == pytest.approx(1.0 + coins + fees, rel=1e-9)
    assert s.values[8] - s.values[-1] > 0.2 * 2 * sold_put * 60_000
    assert not s.broker.account.positions


@pytest.mark.parametrize("mode", MODES)
def test_a_strangle_that_expires_while_the_exchange_halts_is_delivered_at_what_was_seen_before(mode: str) -> None:
    """The last bar before it closes at 07:00, the next one opens at 09:00 and far lower: at 08:00 nobody knew."""
    data = frame([60_000] * 15 + [(50_000.0,) * 4] * 3, start="2025-09-25T16:00Z")
    data.index = data.index[:15].append(data.index[15:] + pd.Timedelta(hours=2))
    s = strangle(data, 20, mode)
    settled = [e for e in s.broker.events if e.name == "Settled"]
    assert sorted(e.key.symbol for e in settled) == [PUT, CALL]
    assert {(e.price, pd.Timestamp(e.time, unit="ms").hour) for e in settled} == {(0.0, 8)}
    assert any("delivery" in warning for warning in s.broker.report().warnings)
    assert not s.broker.account.positions


def test_spot_goes_on_when_its_contract_has_ended() -> None:
    """A hedge loses one leg's feed: the other leg's prices judge both."""
    def both(s: Diary) -> None:
        s.sell(data=s.datas[0], size=10)
        s.buy(data=s.datas[1], size=0.1)

    s = twice({BTC: frame([60_000] * 80), SPOT: frame([60_000] * 80 + [30_000] * 80)}, {1: both}, mode="multi-currency")
    assert s.bars == 160
    assert s.getposition(s.datas[0]).size == -10
    assert s.values[-1] < s.values[70] - 2_900  # the contract stands at its last price
