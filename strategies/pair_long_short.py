"""Long one coin, short another: the hedge that isolated margin cannot see."""

from typing import ClassVar

from bt_margin.plugin.strategy import HoldOnce


class PairLongShort(HoldOnce):
    """Long BTC perpetual, short ETH perpetual, half of `leverage` x equity each."""

    weights: ClassVar[dict[str, float]] = {"BTC/USDT:USDT": 0.5, "ETH/USDT:USDT": -0.5}
    symbols = ("BTC/USDT:USDT", "ETH/USDT:USDT")
