"""What a contract is worth, in decimals: linear (value Q x P) and inverse (value N / P). Rule book section 1.1."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal, getcontext
from functools import cached_property

getcontext().prec = 34

ZERO, ONE = Decimal(0), Decimal(1)


def exact(number: float | str | Decimal) -> Decimal:
    """The decimal a float prints as."""
    return number if isinstance(number, Decimal) else Decimal(str(number))


def ms_of(day: str) -> int:
    """08:00 UTC of a day such as 260327, in ms."""
    return int(datetime.strptime(f"{day}08", "%y%m%d%H").replace(tzinfo=UTC).timestamp()) * 1000


@dataclass(frozen=True)
class TierRow:
    """One row of the venue's table: it is data, read from the rule tables."""

    ceiling: Decimal
    maintenance: Decimal
    leverage: Decimal


@dataclass(frozen=True)
class Contract:
    """A swap or a dated future. `unit` is coins a contract (linear) or USD a contract (inverse)."""

    symbol: str
    settle: str
    coin: str
    linear: bool
    unit: Decimal
    lot: Decimal
    tick: Decimal
    taker: Decimal
    maker: Decimal
    tiers: tuple[TierRow, ...]

    @property
    def family(self) -> str:
        """All expiries of a future share a tier, a swap stands alone (recorded items 15, CROSS-MET-4/5)."""
        stem, dash, _ = self.symbol.partition("-")
        return stem + dash

    @property
    def index(self) -> str:
        """The pair whose index it is delivered at."""
        return f"{self.coin}/{self.settle if self.linear else 'USD'}"

    @cached_property
    def expiry(self) -> int:
        """08:00 UTC of the day in the symbol (rule book section 11); 0: a perpetual, which never is delivered."""
        _, dash, day = self.symbol.partition("-")
        return ms_of(day) if dash else 0

    def value(self, contracts: Decimal, price: Decimal) -> Decimal:
        """Value of so many contracts, whatever their sign."""
        units = abs(contracts) * self.unit
        return units * price if self.linear else units / price

    def profit(self, contracts: Decimal, entry: Decimal, price: Decimal) -> Decimal:
        """s Q (P - A), or s N (1/A - 1/P)."""
        units = contracts * self.unit
        return units * (price - entry) if self.linear else units / entry - units / price

    def average(self, held: Decimal, entry: Decimal, more: Decimal, price: Decimal) -> Decimal:
        """Average open price: arithmetic for linear contracts, harmonic for inverse ones."""
        if self.linear:
            return (held * entry + more * price) / (held + more)
        return (held + more) / (held / entry + more / price)

    def coins(self, contracts: Decimal, price: Decimal) -> Decimal:
        """Coins of the underlying behind so many contracts: their delta, without sign."""
        return abs(contracts) * self.unit / (ONE if self.linear else price)

    def dearest(self, buy: bool, limit: Decimal, mark: Decimal) -> Decimal:
        """The dearest fill a limit order could get (recorded DEMO-MAX-SIZE-1..3, DEMO-MAX-SIZE-INVERSE-1..3)."""
        if self.linear:
            return limit if buy else max(limit, mark)
        return min(limit, mark) if buy else limit

    def on_tick(self, price: Decimal, buy: bool) -> Decimal:
        """Off-tick prices: buy down, sell up (recorded DEMO-PRICE-ROUND-1)."""
        steps, rest = divmod(price, self.tick)
        return (steps if buy or not rest else steps + 1) * self.tick

    def whole_lots(self, contracts: Decimal) -> Decimal:
        """Down to whole lots."""
        return (contracts / self.lot).to_integral_value(ROUND_FLOOR) * self.lot

    def tier(self, contracts: Decimal) -> int:
        """Index of the row a size reaches; its rate multiplies the whole size (rule book 5.1, recorded item 17)."""
        for index, row in enumerate(self.tiers):
            if abs(contracts) <= row.ceiling:
                return index
        raise AssertionError(f"{self.symbol}: {contracts} is beyond the table")

    def rate(self, contracts: Decimal) -> Decimal:
        """Maintenance rate of a size."""
        return self.tiers[self.tier(contracts)].maintenance

    def most_contracts(self, leverage: Decimal) -> Decimal:
        """Largest size a leverage allows (recorded DEMO-LEVERAGE-LIMIT-1); zero when it allows none."""
        return max((row.ceiling for row in self.tiers if row.leverage >= leverage), default=ZERO)
