"""Black-76 as OKX uses it: price, greeks, implied vol of a European option on its expiry's forward.

All money is per coin of the underlying, all arguments broadcast, scalars give scalars. `forward` and `strike` are USD,
`years` from `years_between`, `vol` is a fraction a year (0.62). A kind is "C" or "P" (also "call", "put"), or +1 for
calls and -1 for puts, one value or an array.

Source: rule book portfolio margin, section 5, and addendum, section 2.1; vectors okx_pb_2022_short_call_exact and
okx_opt_summary_2025_greeks. At no time or no vol the price is the intrinsic value, and nothing is NaN that need not be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr  # type: ignore[import-untyped]

Number = float | NDArray[np.float64]
"""One value, or an array."""
OptionKind = str | Number

YEAR_DAYS = 365
"""Solved from the four greeks of OKX's 2022 sample: 364.999 days; 365.25 misses the printed digits."""
YEAR_MS = YEAR_DAYS * 86_400_000

_SIGNS = {"C": 1.0, "P": -1.0, "call": 1.0, "put": -1.0}


@dataclass(frozen=True, slots=True)
class Greeks:
    """Sensitivities of one coin's worth of options, each in the broadcast shape of the arguments.

    BS set: delta in coin, gamma per USD, vega in USD per vol point, theta in USD per calendar day.
    PA set: the same of the price in coin. Delta and gamma per relative move (gamma: index^2 x second derivative),
    vega in coin per vol point, theta in coin per calendar day.
    """

    delta: Number
    gamma: Number
    vega: Number
    theta: Number


def sign_of(kind: OptionKind) -> Number:
    """+1 for a call, -1 for a put. Anything else raises ValueError: a wrong kind would be a wrong number."""
    if isinstance(kind, str):
        if kind not in _SIGNS:
            raise ValueError(f"option kind: expected one of {', '.join(_SIGNS)}, found {kind!r}")
        return _SIGNS[kind]
    sign = np.asarray(kind, dtype=np.float64)
    if not np.all(np.abs(sign) == 1.0):
        raise ValueError("option kind: expected +1 (call) or -1 (put)")
    return sign[()]


def years_between(time: Number, expiry: Number) -> Number:
    """Years from `time` to `expiry`, both ms UTC (OKX options expire at 08:00); nothing is left after expiry."""
    return np.maximum(np.subtract(expiry, time), 0.0) / YEAR_MS


def intrinsic(kind: OptionKind, forward: Number, strike: Number) -> Number:
    """What the option pays when it expires at `forward`, in USD."""
    return np.maximum(sign_of(kind) * np.subtract(forward, strike), 0.0)


def price(kind: OptionKind, forward: Number, strike: Number, years: Number, vol: Number) -> Number:
    """Undiscounted Black-76 price in USD, at the forward. The USD value today is `coin_price` x index.

    Intrinsic plus time value: parity holds to the last digit, and an option deep in the money keeps its time value.
    """
    worth = _time_value(np.minimum(forward, strike), np.maximum(forward, strike), _total(years, vol))
    return intrinsic(kind, forward, strike) + worth


def coin_price(kind: OptionKind, forward: Number, strike: Number, years: Number, vol: Number) -> Number:
    """Price in coin: undiscounted price / forward. The carry between index and forward cancels."""
    return price(kind, forward, strike, years, vol) / forward


def greeks_bs(
    kind: OptionKind, forward: Number, strike: Number, years: Number, vol: Number, index: Number | None = None
) -> Greeks:
    """OKX's BS set (`deltaBS` ...): derivatives of the USD value to the index, to vol and to time.

    The carry rate is ln(forward / index) / years, held still; without an index there is no carry. At the last instant
    gamma and theta are 0 also at the money, where their limits are infinite: a book's total stays finite.
    """
    sign, f, k, t, v, s = np.broadcast_arrays(
        sign_of(kind), forward, strike, np.maximum(years, 0.0), vol, forward if index is None else index
    )
    total = _total(t, v)
    d1, d2 = _moneyness(f, k, total)
    density = _density(d1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = np.where(total == 0.0, 0.0, density / (total * s))
        carry = np.where(t == 0.0, 0.0, np.log(f / s) / t)
    decay = s * _decay(density, t, v) + sign * carry * (s / f) * k * ndtr(sign * d2)
    return Greeks(
        delta=sign * ndtr(sign * d1) + 0.0,  # no -0.0, no 0-d arrays
        gamma=gamma + 0.0,
        vega=0.01 * s * density * np.sqrt(t) + 0.0,
        theta=-decay / YEAR_DAYS + 0.0,
    )


def greeks_pa(kind: OptionKind, forward: Number, strike: Number, years: Number, vol: Number) -> Greeks:
    """OKX's PA set (`deltaPA`, or plain `delta` ...): of the price in coin, so neither index nor carry enters.

    delta = deltaBS - price in coin = +-(K/F) N(+-d2), gamma = index x gammaBS - 2 delta.
    """
    sign, f, k, t, v = np.broadcast_arrays(sign_of(kind), forward, strike, np.maximum(years, 0.0), vol)
    total = _total(t, v)
    d1, d2 = _moneyness(f, k, total)
    density = _density(d1)
    delta = sign * (k / f) * ndtr(sign * d2)
    with np.errstate(divide="ignore", invalid="ignore"):
        curvature = np.where(total == 0.0, 0.0, density / total)
    return Greeks(
        delta=delta + 0.0,
        gamma=curvature - 2.0 * delta + 0.0,
        vega=0.01 * density * np.sqrt(t) + 0.0,
        theta=-_decay(density, t, v) / YEAR_DAYS + 0.0,
    )


def implied_vol(value: Number, forward: Number, strike: Number, years: Number, kind: OptionKind) -> Number:
    """The vol at which `price` is `value` (USD, undiscounted; a price in coin times the forward).

    NaN where none exists: below intrinsic, at or above the forward (call) or the strike (put), no time left.
    0 where the value is the intrinsic value.
    """
    sign, f, k, t, worth = np.broadcast_arrays(sign_of(kind), forward, strike, years, value)
    low, high = np.minimum(f, k), np.maximum(f, k)
    excess = worth - np.maximum(sign * (f - k), 0.0)
    exists = (excess >= 0.0) & (excess < low) & (t > 0.0)
    target = np.where(exists, excess, 0.0) / np.where(exists, low, 1.0)
    total = _total_from(target, np.where(exists, high, 1.0) / np.where(exists, low, 1.0))
    return np.where(exists, total / np.sqrt(np.where(exists, t, 1.0)), np.nan)[()]


# -- the kernel -----------------------------------------------------------------------------------------------


def _total(years: Number, vol: Number) -> NDArray[np.float64]:
    """vol x sqrt(years). A negative vol is nobody's vol: NaN. Time that has run out counts as none."""
    known = np.where(np.less(vol, 0.0), np.nan, vol)
    return known * np.sqrt(np.maximum(years, 0.0))


def _moneyness(forward: Number, strike: Number, total: Number) -> tuple[Number, Number]:
    """d1 and d2; without time or vol they are infinite, and 0 at the money (the middle of both sides)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log = np.log(np.divide(forward, strike))
        middle = np.where((log == 0.0) & np.equal(total, 0.0), 0.0, log / total)
    return middle + np.divide(total, 2.0), middle - np.divide(total, 2.0)


def _time_value(low: Number, high: Number, total: Number) -> Number:
    """Value of the out-of-the-money option of the two, where low and high are forward and strike, whichever is which.

    low N(a) - high N(b), always in [0, low]: no cancellation against the intrinsic value.
    """
    a, b = _moneyness(low, high, total)
    value: Number = np.maximum(low * ndtr(a) - high * ndtr(b), 0.0)
    return value


def _density(x: Number) -> NDArray[np.float64]:
    """The normal density; 0 far out."""
    with np.errstate(over="ignore"):
        density: NDArray[np.float64] = np.exp(-0.5 * np.square(x)) / _ROOT
    return density


def _decay(density: Number, years: Number, vol: Number) -> Number:
    """density x vol / (2 sqrt(years)): time value lost per year, as a share of the index."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(years, 0.0), 0.0, density * vol / (2.0 * np.sqrt(years)))


def _total_from(target: NDArray[np.float64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """The total vol at which `_time_value(1, ratio, total)` is `target`, for targets in [0, 1).

    Newton on the logarithm, which is concave in total vol, from the steepest point of the value; a step that leaves
    the bracket becomes a bisection. At the upper end of the bracket the value is 1 to the last digit.
    """
    log = np.log(ratio)
    below, above = np.zeros_like(log), 9.0 + np.sqrt(81.0 + 2.0 * log)
    total = np.sqrt(2.0 * log)
    nothing = found = target == 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(100):
            middle = np.where(total == 0.0, 0.0, -log / total)  # as in `_moneyness`: `total` is 0 only at the money
            a, b = middle + total / 2.0, middle - total / 2.0
            value = np.maximum(ndtr(a) - ratio * ndtr(b), 0.0)
            short = value < target
            below, above = np.where(short, total, below), np.where(short, above, total)
            step = total + np.log(target / value) * value / (np.exp(-0.5 * a * a) / _ROOT)
            moved = np.where((below <= step) & (step <= above), step, (below + above) / 2.0)
            still = np.abs(moved - total) <= 1e-12 * moved
            total = np.where(found, total, moved)  # one that is found stays: none depends on its neighbours
            found = found | still
            if found.all():
                break
    return np.where(nothing, 0.0, total)


_ROOT = math.sqrt(2.0 * math.pi)
