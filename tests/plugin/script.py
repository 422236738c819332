"""What the margin runs share: candles from closes, a strategy that follows a script and keeps a diary, one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd

from bt_margin import MarginBroker, MarginStrategy
from bt_margin.plugin import feeds

BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
START = "2025-09-20T00:00Z"
NO_FEES = {kind: {"taker": 0.0, "maker": 0.0} for kind in ("swap", "spot")}
"""Frees the arithmetic of a test from fees."""

Candle = float | tuple[float, float, float, float]


def frame(candles: Sequence[Candle], freq: str = "1h", start: str = START) -> pd.DataFrame:
    """Candles as (open, high, low, close), or as a close alone: it opens at the close before and has no wicks."""
    rows, last = [], None
    for candle in candles:
        if not isinstance(candle, tuple):
            opened = candle if last is None else last
            candle = (opened, max(opened, candle), min(opened, candle), candle)
        rows.append(candle)
        last = candle[3]
    index = pd.date_range(start, periods=len(rows), freq=freq)
    return pd.DataFrame(rows, index, ["open", "high", "low", "close"], dtype=float).assign(volume=1_000.0)


def walk(seed: int, bars: int, start: float = 60_000.0, spread: float = 0.004) -> pd.DataFrame:
    """A random walk on the tick of 0.1, with wicks and gaps."""
    rng = np.random.default_rng(seed)
    close = np.round(start * np.exp(np.cumsum(rng.normal(0, spread, bars))), 1)
    opened = np.round(np.concatenate([[start], close[:-1]]) * np.exp(rng.normal(0, spread / 4, bars)), 1)
    high = np.round(np.maximum(opened, close) * (1 + np.abs(rng.normal(0, spread / 2, bars))), 1)
    low = np.round(np.minimum(opened, close) * (1 - np.abs(rng.normal(0, spread / 2, bars))), 1)
    return frame(list(zip(opened, high, low, close, strict=True)))


class Diary(MarginStrategy):
    """Does what `acts` says at each bar (counted from 1), and writes down what it is told."""

    params = (("acts", None), ("each", None))

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.orders: list[Any] = []
        self.trades: list[Any] = []
        self.margin_events: list[Any] = []
        self.values: list[float] = []
        self.cashes: list[float] = []
        self.made: dict[str, Any] = {}
        self.bars = 0

    def next(self) -> None:
        self.bars += 1
        self.values.append(self.broker.getvalue())
        self.cashes.append(self.broker.getcash())
        act = (self.p.acts or {}).get(self.bars)
        if act is not None:
            act(self)
        if self.p.each is not None:
            self.p.each(self)

    def notify_order(self, order: Any) -> None:
        self.orders.append(order)
        self.told.append((
            self.bars, order.getstatusname(), order.data._name, order.info.get("forced", ""), order.created.size,
            order.executed.size, order.executed.price, order.executed.comm, order.executed.pnl, order.executed.dt,
        ))

    def notify_trade(self, trade: Any) -> None:
        if trade.isclosed:
            self.trades.append(trade)

    def notify_margin(self, event: Any) -> None:
        self.margin_events.append(event)

    def statuses(self, order: Any) -> list[str]:
        """What was told of one order, in order."""
        return [o.getstatusname() for o in self.orders if o.ref == order.ref]

    def filled(self) -> list[tuple[float, float]]:
        """(size, price) of every completed order that nobody forced."""
        return [(o.executed.size, o.executed.price) for o in self.orders
                if o.status == o.Completed and not o.info.get("forced")]

    def forced(self) -> list[Any]:
        """Every completed forced order."""
        return [o for o in self.orders if o.status == o.Completed and o.info.get("forced")]


def run(
    frames: Mapping[str, pd.DataFrame],
    acts: Mapping[int, Callable[[Any], Any]] | None = None,
    *,
    freqs: Mapping[str, str] | None = None,
    feed: Mapping[str, Mapping[str, Any]] | None = None,
    each: Callable[[Any], Any] | None = None,
    strategies: Sequence[Mapping[int, Callable[[Any], Any]]] = (),
    prepare: Callable[[bt.Cerebro], Any] | None = None,
    modes: Mapping[str, Any] | None = None,
    **broker: Any,
) -> Diary:
    """One cerebro run; the (first) strategy with its diary."""
    cerebro = bt.Cerebro(stdstats=False, **(modes or {}))
    cerebro.broker = MarginBroker(**{"mode": "cross", "cash": 10_000.0, "leverage": 10.0, **broker})
    for symbol, data in frames.items():
        cerebro.adddata(feeds.from_dataframe(data, symbol, (freqs or {}).get(symbol, "1h"),
                                             **(feed or {}).get(symbol, {})))
    for script in strategies or (acts,):
        cerebro.addstrategy(Diary, acts=script, each=each)
    if prepare is not None:
        prepare(cerebro)
    ran = cerebro.run()
    broker_ = cerebro.broker
    for gap in broker_._account.conservation_gap().values():
        assert abs(gap) < 1e-6, "every run of these tests conserves money"
    diary = ran[0]
    diary.others = ran[1:]
    return diary
