"""Options as OKX prices them: Black-76 on the expiry's forward, in coin (okx-portfolio-margin.md, section 5; addendum
2.1). Floats: logarithm and normal distribution are no decimals; one number at a time, no arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

YEAR_MS = 365 * 86_400_000
BISECTIONS = 200


@dataclass(frozen=True)
class Option:
    """A coin-settled option. `unit`: coins a contract; `fee_cap`, `forced_cap`: shares of premium and of mark value
    that a fee may reach; `rate_a`, `rate_b`, `least_order`, `rate_c`: of a short's initial and maintenance margin (rule
    book of isolated margin, section 3.3), the last also of the fine for its forced close; `exercise`: fee per coin, and
    the share of what is paid that it may reach; `fee_in_orders`: until 2024 what an order reserves held the fee.
    """

    symbol: str
    coin: str
    call: bool
    strike: float
    expiry: int
    unit: Decimal
    lot: Decimal
    taker: Decimal
    maker: Decimal
    fee_cap: Decimal
    forced_cap: Decimal
    rate_a: Decimal
    rate_b: Decimal
    rate_c: Decimal
    least_order: Decimal
    exercise: Decimal
    exercise_cap: Decimal
    fee_in_orders: bool

    @property
    def forward(self) -> str:
        """What the forward of its expiry is called."""
        return self.symbol.rsplit("-", 2)[0]

    @property
    def index(self) -> str:
        return f"{self.coin}/USD"

    def years(self, time: int) -> float:
        return max(self.expiry - time, 0) / YEAR_MS


@dataclass
class OptionPosition:
    contract: Option
    size: Decimal
    entry: Decimal

    @property
    def key(self) -> tuple[str, str, str]:
        return self.contract.symbol, "cross", "net"


def normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def time_value(forward: float, strike: float, total: float) -> float:
    """Of a call or a put alike, by parity: what the one out of the money is worth, USD. `total`: vol x sqrt(years)."""
    if total <= 0.0:
        return 0.0
    low, high = min(forward, strike), max(forward, strike)
    d1 = math.log(low / high) / total + total / 2.0
    return max(low * normal(d1) - high * normal(d1 - total), 0.0)


def intrinsic(call: bool, forward: float, strike: float) -> float:
    return max(forward - strike if call else strike - forward, 0.0)


def coin_price(option: Option, forward: float, years: float, vol: float) -> float:
    total = vol * math.sqrt(max(years, 0.0))
    return (intrinsic(option.call, forward, option.strike) + time_value(forward, option.strike, total)) / forward


@lru_cache(maxsize=100_000)
def implied_vol(option: Option, mark: float, forward: float, years: float) -> float:
    """The vol that gives the mark; 0 at or below what it pays at once, and without time."""
    excess = mark * forward - intrinsic(option.call, forward, option.strike)
    if excess <= 0.0 or years <= 0.0:
        return 0.0
    assert excess < min(forward, option.strike), f"{option.symbol}: no vol gives {mark}"
    low, high = 0.0, 40.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if time_value(forward, option.strike, middle) < excess else (low, middle)
    return high / math.sqrt(years)


def delta(option: Option, forward: float, years: float, vol: float, rule: str) -> float:
    """"PA": of the price in coin, +-(K/F) N(+-d2); "BS": that plus the price in coin."""
    sign, total = (1.0 if option.call else -1.0), vol * math.sqrt(max(years, 0.0))
    log = math.log(forward / option.strike)
    if total > 0.0:
        d2 = log / total - total / 2.0
    else:
        d2 = math.copysign(math.inf, log) if log else 0.0
    found = sign * option.strike / forward * normal(sign * d2)
    return found if rule == "PA" else found + coin_price(option, forward, years, vol)
