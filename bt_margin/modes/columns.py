"""Positions to arrays: the one crossing from the model to the risk kernels.

A column has shape (..., legs), or (legs,) where it cannot move with prices: instants, if the market has any, lead. All
money is USD. Source: rule book portfolio margin, sections 2.3 and 3; addendum, section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError
from bt_margin.model.instrument import Instrument, Kind, Number
from bt_margin.model.market import Market
from bt_margin.risk import black, pnl
from bt_margin.risk.charges import SETTLEMENTS

Array = NDArray[np.float64]
Held = tuple[Instrument, float]
"""An instrument and how many contracts of it, signed."""


@dataclass(frozen=True, slots=True)
class DeltaOne:
    """Swaps and futures. `slope`: what a relative move of 1 gains, a move m gains m of it; `delta`: cash delta at the
    mark; `coins`: net coins, by which spot in use is measured; `expiry`: ms, 0 for swaps."""

    slope: Array
    delta: Array
    coins: Array
    expiry: NDArray[np.int64]
    years: Array
    settle: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Options:
    """`index`: USD per coin; `vol`: what the mark implies; `value` of the position, negative for a short; `rule_delta`:
    the delta of one coin that the rules count; `in_coin`: settled in the coin."""

    sign: Array
    coins: Array
    index: Array
    forward: Array
    strike: Array
    expiry: NDArray[np.int64]
    years: Array
    vol: Array
    in_coin: NDArray[np.bool_]
    settle: NDArray[np.intp]
    value: Array
    rule_delta: Array

    @property
    def delta(self) -> Number:
        """Cash delta of each."""
        return pnl.option_cash_delta(self.coins, self.rule_delta, self.index)

    @property
    def terms(self) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
        """What the kernels price by: kind, coins, index, forward, strike, years, vol."""
        return self.sign, self.coins, self.index, self.forward, self.strike, self.years, self.vol


def delta_one(held: Sequence[Held], market: Market) -> DeltaOne:
    """Columns of swaps and futures. Raises MissingPrice.

    Linear contracts move by their pair's index; coin-margined ones by what the coin is worth in USD, as the coin does.
    """
    slopes: list[Number] = []
    deltas: list[Number] = []
    coins: list[Number] = []
    for instrument, size in held:
        units, mark = size * instrument.contract_size, market.mark(instrument.symbol)
        if instrument.kind in (Kind.INVERSE_SWAP, Kind.INVERSE_FUTURE):
            slopes.append(units * market.usd(instrument.base) / mark)
            deltas.append(units)
            coins.append(units / mark)
        else:
            usd = market.usd(instrument.settle)
            slopes.append(units * market.index(instrument.pair) * usd)
            deltas.append(units * mark * usd)
            coins.append(units)
    expiry = np.array([instrument.expiry_ms or 0 for instrument, _ in held], dtype=np.int64)
    return DeltaOne(
        column(slopes), column(deltas), column(coins), expiry, _years(expiry, market), _settles(held)
    )


def option_columns(held: Sequence[Held], market: Market, delta: str) -> Options:
    """Columns of options, their vols those that the marks imply. `delta`: "PA" or "BS", which one the rules count.

    At or below intrinsic value the vol is 0, as without time. Raises MissingPrice; InputError for a mark that no vol
    gives.
    """
    instruments = [instrument for instrument, _ in held]
    coins = np.array([size * instrument.contract_size for instrument, size in held])
    sign = np.array([1.0 if i.terms.right == "C" else -1.0 for i in instruments])
    strike = np.array([i.terms.strike for i in instruments])
    in_coin = np.array([i.settle == i.base for i in instruments])
    expiry = np.array([i.expiry_ms or 0 for i in instruments], dtype=np.int64)
    years = _years(expiry, market)
    forward = column([market.forward(i.symbol) for i in instruments])
    mark = column([market.mark(i.symbol) for i in instruments])
    index = column([market.usd(i.base) if i.settle == i.base else market.index(i.pair) * market.usd(i.settle)
                    for i in instruments])
    if np.all(in_coin):
        price = mark
    else:
        price = mark / column([1.0 if i.settle == i.base else market.index(i.pair) for i in instruments])
    vol = np.asarray(black.implied_vol(price * forward, forward, strike, years, sign))
    _check_marks(held, vol, price, forward, strike, years)
    vol = np.where(np.isnan(vol), 0.0, vol)
    value = np.asarray(pnl.option_value(sign, coins, index, forward, strike, years, vol))
    pa = black.greeks_pa(sign, forward, strike, years, vol).delta
    counted = pa if delta == "PA" else pa + black.coin_price(sign, forward, strike, years, vol)
    return Options(sign, coins, index, forward, strike, expiry, years, vol, in_coin, _settles(held), value,
                   np.asarray(counted))


def settlement(instrument: Instrument) -> str:
    """On which side of MR9 a contract is: USDT, USDC, or USD for those settled in the coin. Raises InputError."""
    side = "USD" if instrument.settle == instrument.base else instrument.settle
    if side not in SETTLEMENTS:
        raise InputError(
            f"{instrument.symbol}: settles in {side}; portfolio margin knows {', '.join(SETTLEMENTS)} and the coin"
        )
    return side


def column(values: Iterable[Number]) -> Array:
    """One price each, floats or arrays over instants, as (legs,) or (instants, legs)."""
    parts = list(values)
    if any(isinstance(part, np.ndarray) and part.ndim for part in parts):
        return np.stack(np.broadcast_arrays(*parts), axis=-1)
    return np.array(parts, dtype=np.float64)


def _years(expiry: NDArray[np.int64], market: Market) -> Array:
    """(legs,), or (instants, legs) where the instants have times of their own."""
    clock: Number = market.time if market.times is None else market.times[:, None]
    return np.asarray(black.years_between(clock, expiry.astype(np.float64)), dtype=np.float64)


def _settles(held: Sequence[Held]) -> NDArray[np.intp]:
    return np.array([SETTLEMENTS.index(settlement(instrument)) for instrument, _ in held], dtype=np.intp)


def _check_marks(
    held: Sequence[Held], vol: Array, price: Array, forward: Array, strike: Array, years: Array
) -> None:
    if not np.any(np.isnan(vol)):
        return
    intrinsic = np.array([1.0 if i.terms.right == "C" else -1.0 for i, _ in held]) * (forward - strike)
    above = price * forward - np.maximum(intrinsic, 0.0) >= np.minimum(forward, strike) * (1.0 - 1e-12)
    wrong = np.isnan(vol) & above & (years > 0.0)
    for leg in np.flatnonzero(np.any(wrong.reshape(-1, wrong.shape[-1]), axis=0)):
        symbol = held[int(leg)][0].symbol
        raise InputError(
            f"prices.mark.{symbol}: expected less than the coin (a call) or the strike (a put) is worth, found "
            f"{float(np.max(np.atleast_1d(price[..., leg]))):g} coins; give a mark that some vol explains"
        )
