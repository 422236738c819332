"""LUNA as the margin of a BTC perpetual: what was left of it in May 2022, and what the venue let it count for."""

from typing import ClassVar

from bt_margin.plugin.strategy import HoldOnce


class LunaCollateral(HoldOnce):
    """Half of `leverage` in LUNA bought, half in the BTC perpetual. Only the window 2022-05-09 has LUNA's figures."""

    weights: ClassVar[dict[str, float]] = {"LUNA/USDT": 0.5, "BTC/USDT:USDT": 0.5}
    symbols = ("LUNA/USDT", "BTC/USDT:USDT")
