"""Buy the perpetual once, hold it: the position most people die with."""

from typing import ClassVar

from bt_margin.plugin.strategy import HoldOnce


class LeveragedLong(HoldOnce):
    """Long BTC perpetual; `leverage` x equity, entered at the first bar and held."""

    weights: ClassVar[dict[str, float]] = {"BTC/USDT:USDT": 1.0}
    symbols = ("BTC/USDT:USDT",)
