"""An order: what somebody wants to trade, and what of it opens where it meets a position."""

from __future__ import annotations

from dataclasses import dataclass, field

from bt_margin.model.instrument import Instrument
from bt_margin.model.ledger import PositionKey


@dataclass(frozen=True, slots=True)
class Order:
    """A resting or contemplated order. `size` is positive: contracts, or coins for spot.

    `price` is the limit; None means "at the market". `position_side` is net in one-way mode.
    """

    id: int
    instrument: Instrument
    side: str  # buy | sell
    size: float
    price: float | None
    margin_mode: str  # cash (spot) | cross | isolated
    position_side: str = "net"
    leverage: float = 1.0
    reduce_only: bool = False
    margin_currency: str = ""  # spot margin: what collateral is posted in
    reverse: bool = False  # spot margin: what is left of the order after closing opens the other side
    key: PositionKey = field(init=False, repr=False, compare=False)
    closes: bool = field(init=False, repr=False, compare=False)
    """True when the order can only reduce: reduce-only, or against its side in hedge mode."""
    sign: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:  # asked for again and again
        side = self.position_side
        object.__setattr__(self, "sign", 1 if self.side == "buy" else -1)
        closes = self.reduce_only or (side != "net" and side == ("long" if self.side == "sell" else "short"))
        object.__setattr__(self, "key", PositionKey(self.instrument.symbol, self.margin_mode, side))
        object.__setattr__(self, "closes", closes)

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def is_cash(self) -> bool:
        """True for coins that change hands without any margin."""
        return self.margin_mode == "cash"

    @property
    def currency(self) -> str:
        """The currency the order takes: its settlement or margin currency; in cash what it gives away."""
        instrument = self.instrument
        if self.is_cash:
            return instrument.quote if self.side == "buy" else instrument.base
        return self.margin_currency or instrument.settle

    def meets(self, held: float) -> tuple[float, float]:
        """(what of the order opens, what it leaves) of a position of this signed size; 0.0: there is none.

        Closing orders open nothing. In one-way mode an order against the position first uses the position up; only what
        goes through it opens (rule DEMO-ORDER-FREEZE-RULES).
        """
        if self.closes:
            return 0.0, held
        if held * self.sign >= 0:
            return self.size, held
        if self.instrument.is_spot and not self.reverse:
            return 0.0, held  # spot margin: against a position an order reduces only, unless told to reverse
        reducing = min(self.size, abs(held))
        return self.instrument.snap(self.size - reducing), self.instrument.snap(held + self.sign * reducing)
