"""What each position of a risk unit gains under each scenario, its cash delta and its raw closing charge, in USD.

Columns have shape (..., positions), results (..., positions, scenarios): instants, if there are any, lead. Units of the
arguments: `coins` signed coins of the underlying (contracts x contract size), `face` signed USD of an inverse contract
(contracts x contract size), `index` and `mark` quote currency per coin, `usd` USD per quote unit (1 for USD),
`moves` fractions above -1 of shape (scenarios,). An index of 1 gives figures in coin, as OKX printed them before the
risk-unit merge. P&L is negative for a loss; cash deltas carry the sign of the position.

Source: rule book portfolio margin, sections 2.3 and 3.1; addendum, section 2.1. Linear P&L and delta are derived from
the position-builder sample of 2025 (all digits), coin-settled options from that of 2022.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bt_margin.risk.black import YEAR_DAYS, Number, OptionKind, coin_price, sign_of

Array = NDArray[np.float64]


def linear_pnl(coins: Number, index: Number, usd: Number, moves: Number) -> Array:
    """Linear swaps and futures: coins x index x move x usd. The index, not the mark: a basis moves nothing."""
    return _column(np.multiply(np.multiply(coins, index), usd)) * moves


def inverse_pnl(face: Number, mark: Number, index: Number, moves: Number) -> Array:
    """Inverse swaps and futures: face x move x index / mark, index and mark in USD.

    The coin P&L face (1/M - 1/(M (1+m))) valued at the shocked index: linear in USD (addendum 2.1, by algebra).
    """
    return _column(np.multiply(face, index) / mark) * moves


def option_pnl(
    kind: OptionKind,
    coins: Number,
    index: Number,
    forward: Number,
    strike: Number,
    years: Number,
    vol: Number,
    moves: Number,
    *,
    vols: Number | None = None,
    in_coin: bool | NDArray[np.bool_] = True,
) -> Array:
    """Options, revalued at forward (1 + m) with `vols` of shape (..., positions, scenarios) (unchanged without).

    Settled in coin: coins index (1 + m) (v' - v), where v is Black-76's price in coin: the P&L is taken in coin and
    valued at the shocked price; the premium itself is not revalued. Settled in USD (`in_coin` False, one value or a
    column): coins index ((1 + m) v' - v), inferred from OKX's formula of an option's value.
    """
    sign = _column(sign_of(kind))
    f, k, t, v = (_column(part) for part in (forward, strike, years, vol))
    grown = np.add(1.0, moves)
    now = coin_price(sign, f, k, t, v)
    then = coin_price(sign, f * grown, k, t, v if vols is None else vols)
    held = np.where(np.asarray(in_coin)[..., None], grown, 1.0)
    return _column(np.multiply(coins, index)) * (grown * then - held * now)


def option_value(
    kind: OptionKind, coins: Number, index: Number, forward: Number, strike: Number, years: Number, vol: Number
) -> Number:
    """Value of each position, (..., positions): coins x price in coin x index, negative for a short."""
    return np.multiply(coins, index) * coin_price(kind, forward, strike, years, vol)


def decay_pnl(
    kind: OptionKind,
    coins: Number,
    index: Number,
    forward: Number,
    strike: Number,
    years: Number,
    vol: Number,
    *,
    days: float,
) -> Number:
    """Gain of each position, (..., positions), when `days` calendar days pass and nothing else changes.

    Time stops at expiry: there the option is worth its intrinsic value. MR2's input (derived for 2022 with one day).
    """
    later = np.maximum(np.subtract(years, days / YEAR_DAYS), 0.0)
    change = coin_price(kind, forward, strike, later, vol) - coin_price(kind, forward, strike, years, vol)
    return np.multiply(coins, index) * change


def vol_pnl(
    kind: OptionKind,
    coins: Number,
    index: Number,
    forward: Number,
    strike: Number,
    years: Number,
    vol: Number,
    *,
    shift: Number,
) -> Number:
    """Gain of each position, (..., positions), when its vol moves by `shift` at unchanged spot. MR3's input."""
    moved = np.maximum(np.add(vol, shift), 0.0)
    change = coin_price(kind, forward, strike, years, moved) - coin_price(kind, forward, strike, years, vol)
    return np.multiply(coins, index) * change


# -- spot in use -----------------------------------------------------------------------------------------------


def spot_in_use(delta: Number, spot: Number, *, cap: float = np.inf) -> Number:
    """How many coins of spot join a unit: as many as hedge its derivatives, at most `cap`; negative when owed.

    `delta`: net coins of the unit's derivatives, `spot`: coins held (negative: owed); nothing where the signs agree.
    Source: section 2.2 (that spot is added only where it hedges is official, min(|delta|, |spot|) inferred).
    """
    used = np.minimum(np.minimum(np.abs(delta), np.abs(spot)), cap)
    opposite = np.sign(delta) * np.sign(spot) < 0.0
    return np.where(opposite, np.sign(spot) * used, 0.0)[()]


# -- cash deltas and closing charges ---------------------------------------------------------------------------


def linear_delta(coins: Number, mark: Number, usd: Number) -> Number:
    """Cash delta of linear contracts, at the mark: coins x mark x usd (derived, all digits). Spot: at the index."""
    return np.multiply(np.multiply(coins, mark), usd)


def option_cash_delta(coins: Number, delta: Number, index: Number) -> Number:
    """Cash delta of options: coins x delta x index, whichever set of greeks the rules name.

    The slope of `option_pnl` at no move is the PA delta for coin-settled options, the BS delta for others. Inverse
    contracts have their face as cash delta.
    """
    return np.multiply(np.multiply(coins, delta), index)


def delta_one_closing(cash_delta: Number, *, rate: Number) -> Number:
    """MR7's raw charge of swaps, futures and spot, (..., positions): rate |cash delta|. Hedges do not net."""
    return np.multiply(rate, np.abs(cash_delta))


def option_closing(coins: Number, index: Number, value: Number, *, short_rate: Number, long_rate: Number) -> Number:
    """MR7's raw charge of options, (..., positions), whatever their delta.

    Short: short_rate |coins| index (derived: 0.022 for BTC in 2022). Long: the same at long_rate, at most the
    position's value (inferred).
    """
    size = np.multiply(np.abs(coins), index)
    long = np.minimum(np.multiply(long_rate, size), np.maximum(value, 0.0))
    return np.where(np.less(coins, 0.0), np.multiply(short_rate, size), long)[()]


def summed_by(values: Number, group: NDArray[np.intp], count: int) -> Array:
    """Sums over the positions of each group: (..., positions) to (..., count).

    `group`: the number of each position's expiry, tenor or settlement coin, (positions,), from 0.
    """
    members = np.asarray(group)[:, None] == np.arange(count)
    sums: Array = np.matmul(np.asarray(values, dtype=np.float64), members.astype(np.float64))
    return sums


def _column(values: Number) -> Array:
    """(..., positions) to (..., positions, 1), to meet the scenarios."""
    return np.asarray(values, dtype=np.float64)[..., None]
