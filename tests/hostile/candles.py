"""Candles: frames of any numbers, types and indexes into feeds, and runs on what is taken."""

from __future__ import annotations

from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
from hypothesis import strategies as st

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.plugin import feeds
from tests.hostile.law import NUMBERS, TEXTS, Target

SYMBOLS = ("BTC/USDT:USDT", "BTC/USDT", "BTC/USD:BTC", "ETH/USDT:USDT", "plain", *TEXTS)
COLUMNS = ("open", "high", "low", "close", "volume")


def good(bars: int = 6) -> pd.DataFrame:
    close = np.array([60_000.0, 60_100, 59_000, 61_000, 60_500, 60_000])[:bars]
    return pd.DataFrame({"open": close, "high": close + 50, "low": close - 50, "close": close, "volume": 10.0},
                        pd.date_range("2025-09-20T00:00Z", periods=bars, freq="1h"))


@st.composite
def frames(draw: st.DrawFn) -> tuple[Any, ...]:
    """(frame, symbol, timeframe, stamp, marks, index, funding, mode, size)."""
    data = good()
    for _ in range(draw(st.integers(0, 2))):
        what = draw(st.sampled_from(("cell", "cell", "type", "order", "twice", "zone", "index", "scale", "column",
                                     "few")))
        name = draw(st.sampled_from(COLUMNS))
        if name not in data.columns or data.empty:
            continue
        if what == "cell":
            value = draw(st.sampled_from(NUMBERS) | st.sampled_from((None, "1", "x", True, pd.NaT)))
            column = data[name].astype(object)
            column.iloc[draw(st.integers(0, max(0, len(data) - 1)))] = value
            data = data.assign(**{name: column})
        elif what == "type":
            kind = draw(st.sampled_from(("int64", "float32", "object", "string", "complex128", "bool", "category")))
            if data[name].dtype == np.float64 and np.all(np.abs(data[name]) < 1e15):
                data = data.assign(**{name: data[name].astype(kind)})
        elif what == "order":
            data = data.iloc[draw(st.permutations(range(len(data))))]
        elif what == "twice":
            data = pd.concat([data, data.iloc[-1:]])
        elif what == "zone" and isinstance(data.index, pd.DatetimeIndex) and data.index.tz is not None:
            data = data.tz_localize(None) if draw(st.booleans()) else data.tz_convert("Asia/Tokyo")
        elif what == "index":
            data = data.set_axis(draw(st.sampled_from((
                pd.RangeIndex(len(data)), pd.Index([f"{i}" for i in range(len(data))]),
                pd.date_range("1901-01-01", periods=len(data), freq="1h"), pd.DatetimeIndex([pd.NaT] * len(data)),
                pd.date_range("2261-01-01", periods=len(data), freq="1h"),
                pd.period_range("2025-09-20", periods=len(data)), pd.timedelta_range("1h", periods=len(data)),
                pd.date_range("2025-09-20", periods=len(data), freq="7min"),
            ))))
        elif what == "scale":
            numbers = data.select_dtypes("number")
            factor = draw(st.sampled_from((1e-12, 1e-6, 1e6, 1e14, 1e300, -1.0, 0.0)))
            data = data.assign(**{c: numbers[c] * factor for c in numbers})
        elif what == "column":
            data = data.drop(columns=name) if draw(st.booleans()) else data.rename(columns={name: name.upper()})
        else:
            data = data.iloc[: draw(st.integers(0, 2))]
    marks = draw(st.sampled_from((None, "candles", "closes", "late", "nan", "zero")))
    funding = draw(st.sampled_from((None, 0.0001, 5.0, -5.0, float("nan"), float("inf"), 1e200)))
    timeframe = draw(st.sampled_from(("1h", "1h", "1h", "1m", "0h", "h", "²h", "99999999999d", "-1h", "", "1M")))
    return (data, draw(st.sampled_from(SYMBOLS)), timeframe, draw(st.sampled_from(("open", "close"))), marks, funding,
            draw(st.sampled_from(("isolated", "cross", "multi-currency", "portfolio"))),
            draw(st.sampled_from((1.0, -1.0, 50.0, 1e15, 1e-15))))


class Once(bt.Strategy):
    """One order at the first bar, a limit far away at the second."""

    params = (("size", 1.0),)

    def next(self) -> None:
        order = self.buy if self.p.size > 0 else self.sell
        if len(self) == 1:
            order(size=abs(self.p.size))
        elif len(self) == 2:
            order(size=abs(self.p.size), exectype=bt.Order.Limit, price=self.data.close[0] * 0.5)


def settled(broker: MarginBroker) -> None:
    """A run ended with money that is a number, and conserved."""
    assert np.isfinite(broker.getvalue())
    assert np.isfinite(broker.getcash())
    if broker.started:
        gap = broker.account.conservation_gap()
        assert all(abs(x) <= 1e-6 + 1e-9 * abs(broker.getvalue()) for x in gap.values()), gap


def candle_law(case: tuple[Any, ...]) -> None:
    """A frame is refused, or becomes a feed of sound bars on which a run ends with money conserved, or is refused."""
    data, symbol, timeframe, stamp, marks, rate, mode, size = case
    more: dict[str, Any] = {}
    base = good(len(data)) if len(data) <= 6 else good()
    if marks is not None:
        more["mark"] = {"candles": base[list(COLUMNS[:4])], "closes": base["close"], "late": base["close"].iloc[3:],
                        "nan": base["close"] * np.nan, "zero": base["close"] * 0}[marks]
    if rate is not None:
        more["funding"] = pd.Series([rate], pd.DatetimeIndex(["2025-09-20T02:00Z"]))
    try:
        feed = feeds.from_dataframe(data, symbol, timeframe, stamp, **more)
    except InputError:
        return
    for name in COLUMNS[:4]:
        column = feed.p.columns[name]
        assert np.all(np.isfinite(column)), name
        assert np.all(column > 0), name
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = broker = MarginBroker(mode=mode, cash={"USDT": 10_000.0, "BTC": 0.5}, leverage=5)
    cerebro.adddata(feed)
    cerebro.addstrategy(Once, size=size)
    try:
        cerebro.run()
    except InputError:
        return
    settled(broker)


def targets() -> list[Target]:
    return [Target("candles", frames(), candle_law, 80)]
