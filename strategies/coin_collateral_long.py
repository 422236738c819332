"""Coins bought and a perpetual long on top, with the coins as its only margin: both fall together."""

from typing import ClassVar

from bt_margin.plugin.strategy import HoldOnce


class CoinCollateralLong(HoldOnce):
    """Half of `leverage` in BTC bought (beyond the account's cash on credit), half in the BTC perpetual.

    Single-currency margin refuses it: the cash is spent, and coins back no USDT contract there.
    """

    weights: ClassVar[dict[str, float]] = {"BTC/USDT": 0.5, "BTC/USDT:USDT": 0.5}
    symbols = ("BTC/USDT", "BTC/USDT:USDT")
