"""A spot-margin position: coins bought with borrowed money, or money got for borrowed coins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bt_margin.errors import NotConserved
from bt_margin.model.account import Position
from bt_margin.model.instrument import Number
from bt_margin.model.ledger import Entry
from bt_margin.model.market import Market

LONG, SHORT = "long", "short"


@dataclass(frozen=True, slots=True)
class MarginPosition(Position):
    """An open MARGIN position (OKX): `assets` bought with what was borrowed, posted margin not among them.

    A long owns base coin and owes quote coin, a short owns quote coin and owes base coin; either may be margined in
    either currency. `liability` is what was borrowed plus interest already deducted, `interest` what has accrued since;
    both are positive. `size` is signed, in base coin: the assets of a long; of a short what was sold, without the
    interest that made the debt grow, so that sizes stay what orders traded. Source: rule book section 1.2.
    """

    direction: str = LONG
    margin_currency: str = ""
    assets: float = 0.0
    liability: float = 0.0
    interest: float = 0.0

    @property
    def is_long(self) -> bool:
        return self.direction == LONG

    @property
    def sign(self) -> int:
        return 1 if self.is_long else -1

    @property
    def currency(self) -> str:
        """What the position's money is in: its margin currency."""
        return self.margin_currency

    @property
    def asset_currency(self) -> str:
        """OKX `posCcy`."""
        return self.instrument.base if self.is_long else self.instrument.quote

    @property
    def debt_currency(self) -> str:
        """OKX `liabCcy`."""
        return self.instrument.quote if self.is_long else self.instrument.base

    @property
    def debt(self) -> float:
        """All that is owed, in the currency of the debt."""
        return self.liability + self.interest

    @property
    def same(self) -> bool:
        """True where assets and margin are one currency: long with base, short with quote collateral."""
        return self.asset_currency == self.margin_currency

    @property
    def in_base(self) -> bool:
        """True where the margin is base coin: money then moves with 1 / price."""
        return self.margin_currency == self.instrument.base

    @property
    def plain(self) -> bool:
        return False

    def owed(self, price: Number) -> Number:
        """The debt, in the margin currency."""
        if self.is_long:
            return self.debt / price if self.in_base else self.debt
        return self.debt if self.in_base else self.debt * price

    def owned(self, price: Number) -> Number:
        """The assets, in the margin currency."""
        if self.is_long:
            return self.assets if self.in_base else self.assets * price
        return self.assets / price if self.in_base else self.assets

    def profit(self, price: Number) -> Number:
        """Assets less debt at a price, in the margin currency (rule book section 1.2)."""
        return self.owned(price) - self.owed(price)

    def unrealised(self, market: Market) -> Number:
        """Profit at the mark of the pair (OKX `upl`), in the margin currency."""
        return self.profit(market.mark(self.symbol))

    def value(self, market: Market) -> Number:
        return self.unrealised(market)

    def backing(self, market: Market) -> Number:
        return self.unrealised(market)

    def notional(self, market: Market) -> Number:
        """The debt at the mark, in the margin currency: what margin is asked for."""
        return self.owed(market.mark(self.symbol))

    def straight(self, price: float) -> float:
        return 1.0 / price if self.in_base else price

    def slopes(self, rate: float) -> tuple[float, float]:
        """How assets less debt, and debt x `rate`, change with x: 1 / price for base margin, the price for quote."""
        owned, owed = (self.assets, 0.0) if self.is_long != self.in_base else (0.0, self.debt)
        return owned - owed, owed * rate

    def initial_at_entry(self) -> float:
        """The debt at the entry price / leverage (captures ISO-MARGIN-*: the amount before the fee)."""
        return float(self.owed(self.entry_price)) / self.leverage

    def reduced(self, size: float) -> MarginPosition | None:
        """What is left after `size` (signed change) was closed at no gain or loss: assets and debt shrink alike."""
        left = self.size + size
        if left * self.sign <= 0:
            return None
        share = left / self.size
        return replace(self, size=left, assets=self.assets * share, liability=self.liability * share,
                       interest=self.interest * share)

    def contents(self) -> Iterator[tuple[str, float]]:
        yield self.margin_currency, self.margin
        yield self.asset_currency, self.assets
        yield self.debt_currency, -self.liability
        yield self.debt_currency, -self.interest

    def after(self, entry: Entry) -> MarginPosition | None:
        """The position once an entry is booked, None when nothing is left of it."""
        for amount, currency in (
            (entry.assets, self.asset_currency), (entry.liability, self.debt_currency),
            (entry.interest, self.debt_currency), (entry.margin, self.margin_currency),
        ):
            if amount and entry.currency != currency:
                raise NotConserved(f"ledger: {self.symbol} {self.direction} holds {currency} there, not {entry}")
        assets, margin = self.assets + entry.assets, self.margin + entry.margin
        liability, interest = self.liability + entry.liability, self.interest + entry.interest
        size = assets if self.is_long else self.size + entry.size
        price = self.entry_price
        if entry.size * self.sign > 0:
            held, new = abs(self.size), abs(entry.size)
            price = (held * price + new * entry.price) / (held + new)
        if not (size or margin or assets or liability or interest):
            return None
        return replace(self, size=size, entry_price=price, margin=margin, leverage=entry.leverage or self.leverage,
                       assets=assets, liability=liability, interest=interest)


def default_collateral(base: str, quote: str, side: str) -> str:
    """What an order posts unless it says so: longs base coin, shorts quote coin, as the first isolated mode did."""
    return base if side == "buy" else quote
