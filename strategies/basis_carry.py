"""Spot long, perpetual short: flat in the coin, paid by funding, and still liquidated when the margin is elsewhere."""

from typing import ClassVar

from bt_margin.plugin.strategy import HoldOnce


class BasisCarry(HoldOnce):
    """Long BTC spot and short as many BTC of the perpetual; `leverage` is the gross notional of both legs.

    Without borrowing the spot leg is paid in full and the perpetual's margin on top: isolated and cross refuse what is
    near 2 and above, with the default setting 1.5 and above. Multi-currency and portfolio margin lend, the coins back
    the short, and the same book opens with room to spare.
    """

    weights: ClassVar[dict[str, float]] = {"BTC/USDT": 0.5, "BTC/USDT:USDT": -0.5}
    symbols = ("BTC/USDT", "BTC/USDT:USDT")
