"""What `getcommissioninfo` tells sizers, trades and analyzers about an instrument: the truth, from the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import backtrader as bt

from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey

if TYPE_CHECKING:
    from bt_margin.plugin.broker import MarginBroker


class MarginCommInfo(bt.CommInfoBase):
    """Contract size, taker fee and leverage setting of one instrument. Margin itself is the engine's business.

    Money is in the settlement (spot: quote) currency; `getsize` and `getvaluesize` speak the broker's currency.
    `getsize(price, cash)` is the whole lots that `cash` of notional buys, so that `order_target_percent(target=3)`
    is an exposure of three times the equity.
    """

    def __init__(self, broker: MarginBroker, data: Any) -> None:
        super().__init__()
        self._broker = broker
        self._data = data
        self._stocklike = self.instrument.is_spot

    @property
    def instrument(self) -> Instrument:
        """As listed now: a contract size may change inside a run."""
        return self._broker.instrument(self._data)

    def getsize(self, price: float, cash: float) -> float:
        instrument = self.instrument
        return instrument.floor(cash / (float(instrument.notional(1.0, price)) * self._broker.rate_of(instrument)))

    def getoperationcost(self, size: float, price: float) -> float:
        """Spot costs its value; a derivative costs its initial margin at the broker's setting."""
        return self.getvaluesize(abs(size), price) / self.get_leverage()

    def getvaluesize(self, size: float, price: float) -> float:
        instrument = self.instrument
        value = float(instrument.notional(size, price)) * self._broker.rate_of(instrument)
        return value if size >= 0 else -value

    def getvalue(self, position: Any, price: float) -> float:
        return self.getvaluesize(position.size, price)

    def getcommission(self, size: float, price: float) -> float:
        return self._broker.trading_fee(self._data, size, price)

    _getcommission = None  # the stock split into "pseudo" and real commission does not apply

    def profitandloss(self, size: float, price: float, newprice: float) -> float:
        return float(self.instrument.pnl(size, price, newprice))

    def get_margin(self, price: float) -> float:
        instrument = self.instrument
        return 0.0 if instrument.is_spot else float(instrument.notional(1.0, price)) / self.get_leverage()

    def get_leverage(self) -> float:
        instrument, mode = self.instrument, str(self._broker.p.mode)
        return 1.0 if instrument.is_spot else self._broker.leverage_of(PositionKey(instrument.symbol, mode, "net"))

    def get_credit_interest(self, data: Any, pos: Any, dt: Any) -> float:
        return 0.0  # the engine accrues

    def cashadjust(self, size: float, price: float, newprice: float) -> float:
        return 0.0  # the engine owns cash


class TradeInfo:
    """Stands in for the commission info on one fill: backtrader's Trade asks it for the profit, and gets the owner's
    own, in the broker's currency, instead of an average price times a multiplier."""

    def __init__(self, comminfo: MarginCommInfo, profit: float) -> None:
        self._comminfo = comminfo
        self._profit = profit

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_comminfo":
            raise AttributeError(name)  # keeps copy and pickle away from the delegate
        return getattr(self._comminfo, name)

    def profitandloss(self, size: float, price: float, newprice: float) -> float:
        return self._profit
