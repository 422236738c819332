"""What `getcommissioninfo` tells sizers, trades and analyzers about an instrument: the truth, from the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import backtrader as bt

from bt_margin.model.instrument import Instrument
from bt_margin.modes.valuation import FEE_KIND

if TYPE_CHECKING:
    from bt_margin.plugin.broker import MarginBroker


class MarginCommInfo(bt.CommInfoBase):
    """Contract size, taker fee and leverage setting of one instrument. Margin itself is the engine's business.

    `getsize(price, cash)` is the whole lots that `cash` of notional buys, so that `order_target_percent(target=3)`
    is an exposure of three times the equity.
    """

    def __init__(self, broker: MarginBroker, instrument: Instrument) -> None:
        super().__init__()
        self._broker = broker
        self.instrument = instrument
        self._stocklike = instrument.is_spot

    def getsize(self, price: float, cash: float) -> float:
        return self.instrument.floor(cash / (price * self.instrument.contract_size))

    def getoperationcost(self, size: float, price: float) -> float:
        """Spot costs its value; a derivative costs its initial margin at the broker's setting."""
        return self.getvaluesize(abs(size), price) / self.get_leverage()

    def getvaluesize(self, size: float, price: float) -> float:
        return size * self.instrument.contract_size * price

    def getvalue(self, position: Any, price: float) -> float:
        return self.getvaluesize(position.size, price)

    def getcommission(self, size: float, price: float) -> float:
        return abs(size) * self.instrument.contract_size * price * self._broker.taker_rate(self.instrument)

    _getcommission = None  # the stock split into "pseudo" and real commission does not apply

    def profitandloss(self, size: float, price: float, newprice: float) -> float:
        return size * self.instrument.contract_size * (newprice - price)

    def get_margin(self, price: float) -> float:
        return 0.0 if self.instrument.is_spot else price * self.instrument.contract_size / self.get_leverage()

    def get_leverage(self) -> float:
        return 1.0 if self.instrument.is_spot else self._broker.leverage_of(self.instrument.symbol)

    def get_credit_interest(self, data: Any, pos: Any, dt: Any) -> float:
        return 0.0  # the engine accrues

    def cashadjust(self, size: float, price: float, newprice: float) -> float:
        return 0.0  # the engine owns cash

    @property
    def fee_kind(self) -> str:
        return FEE_KIND[self.instrument.kind]


class FillInfo:
    """Stands in for the commission info on one fill: backtrader's Trade asks it for the profit, and gets the
    engine's own figure instead of an average price times a multiplier."""

    def __init__(self, comminfo: MarginCommInfo, pnl: float) -> None:
        self._comminfo = comminfo
        self._pnl = pnl

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_comminfo":
            raise AttributeError(name)  # keeps copy and pickle away from the delegate
        return getattr(self._comminfo, name)

    def profitandloss(self, size: float, price: float, newprice: float) -> float:
        return self._pnl
