"""Coins bought, the same coins sold in the coin-margined perpetual: a dollar made of bitcoin, paid by funding."""

from typing import Any

from bt_margin.plugin.strategy import MarginStrategy


class CoinCarry(MarginStrategy):
    """Buys BTC with all but a reserve, then sells the coin-margined perpetual against it; the coins are its margin.

    Half of `leverage` (gross notional / equity) is the short; the short's profit comes in when the coins lose, so in
    USD the account stands still, whatever happens to the price. Needs a feed of BTC/USD:BTC: the embedded figures have
    none.
    """

    params = (("leverage", 2.0), ("reserve", 0.002))
    symbols = ("BTC/USDT", "BTC/USD:BTC")

    def __init__(self) -> None:
        self.coins, self.contract = (self.getdatabyname(name) for name in self.symbols)
        self.sizes: dict[str, float] = {}
        self.bought = False

    def next(self) -> None:
        if self.sizes or not len(self.contract):
            return
        price = self.coins.close[0]
        amount = self.p.leverage / 2 * self.broker.getvalue() * (1 - self.p.reserve) / price
        self.sizes = {self.symbols[0]: amount}
        self.buy(data=self.coins, size=amount)

    def notify_order(self, order: Any) -> None:
        if order.data is self.coins and order.status == order.Completed and not self.bought:
            self.bought = True
            size = self.broker.coins(self.contract, order.executed.size)
            self.sizes[self.symbols[1]] = -size
            self.sell(data=self.contract, size=size)
