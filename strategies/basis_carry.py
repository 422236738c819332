"""Spot long, perpetual short: flat in the coin, paid by funding, and still liquidated when the margin is elsewhere."""

from typing import ClassVar

from bt_margin.plugin.strategy import HoldOnce


class BasisCarry(HoldOnce):
    """Long BTC spot and short as many BTC of the perpetual; `leverage` is the gross notional of both legs.

    Without borrowing the spot leg is paid in full, so exposures near 2 and above are refused in isolated and cross.
    """

    weights: ClassVar[dict[str, float]] = {"BTC/USDT": 0.5, "BTC/USDT:USDT": -0.5}
    symbols = ("BTC/USDT", "BTC/USDT:USDT")
