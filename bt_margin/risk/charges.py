"""The charges of a risk unit and how they add up to its margin; MR8, of debts, is the account's: `modes.borrow`.

Charges are USD, zero or above, of shape (...): the axes of positions, scenarios, expiries or tenors are summed away,
instants stay. Inputs are the arrays of `pnl`; every figure OKX keeps or kept is an argument, `rules.portfolio` holds
them with date and grade.

Source: rule book portfolio margin, sections 3 and 4; addendum, sections 2 and 3. MR1, MR6, MR7's scale and the
aggregation reproduce OKX's samples; MR2 that of 2022; the shapes of MR3, MR5, MR9 and of MR4 between tenors are
inferred or rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bt_margin.risk.black import Number

Array = NDArray[np.float64]

HEDGE_PAIRS = (("USDT", "USD"), ("USDT", "USDC"), ("USDC", "USD"))
"""MR9: which settlement coins hedge each other, in the order in which they are matched."""
SETTLEMENTS = ("USDT", "USDC", "USD")
"""MR9: the order of the settlement coins in its cash deltas."""
_SIDES = tuple(tuple(SETTLEMENTS.index(coin) for coin in pair) for pair in HEDGE_PAIRS)
_CROSS = HEDGE_PAIRS.index(("USDT", "USDC"))


def mr1_spot_shock(pnl: Array) -> Array:
    """MR1: the largest loss of the unit over spot and vol moves. `pnl`: (..., positions, scenarios).

    max over scenarios of -(sum over positions). Source: section 3.1 (official; delta-one legs all digits).
    """
    return _largest_loss(pnl)


def mr2_theta(decay: Number, *, factor: float) -> Array:
    """MR2: factor x |what the unit's options lose or gain in a day|. `decay`: (..., positions) from `decay_pnl`.

    An absolute value: OKX prints a charge for a short option that earns its decay. Source: addendum 2.1, factor 0.8
    derived for 2022.
    """
    return np.multiply(factor, np.abs(_total(decay)))


def mr3_vega_term(pnl: Number, *, factor: float) -> Array:
    """MR3: factor x what the expiries offset of each other when all vols rise. `pnl`: (..., expiries).

    factor x min(sum of gains, sum of losses); nothing for one expiry, as OKX's sample. Source: addendum 3c, inferred
    (the vega contingency of Deribit's first portfolio margin, factor 0.25).
    """
    change = np.asarray(pnl, dtype=np.float64)
    return factor * np.minimum(_total(np.maximum(change, 0.0)), _total(np.maximum(-change, 0.0)))


def mr3_vega_spread(coins: Number, days: Number, index: Number, *, rate: float) -> Array:
    """MR3 in the shape of Bybit's vega spread: sum over matched expiries of coins x days between x rate x index.

    `coins`: net option coins of each expiry, (..., expiries); `days` to expiry likewise; `index` of shape (...). Long
    expiries are matched with short ones in order of time. Source: addendum 3c (a rewrite; that a "vega quantity" is a
    net number of coins is our reading), rate 0.0003.
    """
    matched, long, short = _matched(coins, days)
    apart = np.abs(_taken(days, long) - _taken(days, short))
    return _total(matched * apart) * rate * np.asarray(index, dtype=np.float64)


def mr4_basis(cash_delta: Number, years: Number, *, rate: float, floor: float) -> Array:
    """MR4 since the risk-unit merge: sum over tenors of |cash delta| max(floor, rate x years), without netting.

    `cash_delta`: (..., tenors), one tenor for spot in use, one for perpetuals, one per expiry; `years` to expiry, 0 for
    spot and perpetuals. Settlement coins net within a tenor. Source: section 3.4 (rate official, floor of a lone
    perpetual derived), addendum 3f (its sum over tenors inferred, the analogue is Deribit's roll shock).
    """
    return _total(np.abs(cash_delta) * np.maximum(floor, np.multiply(rate, years)))


def mr4_basis_pairs(
    cash_delta: Number, years: Number, spot: NDArray[np.bool_], *, rate: float, spot_rate: float
) -> Array:
    """MR4 before the merge: only what tenors offset of each other pays, matched x max(rate x years between, spot rate).

    `cash_delta`, `years`: (..., tenors) as for `mr4_basis`; `spot`: (tenors,), true where a tenor is spot: only pairs
    with spot pay the spot rate. Long tenors are matched with short ones, spot first, then in order of time. Source:
    addendum 2.3 (rate official, spot rate derived, from 2024-06-05) and 3f (matching and rate x years inferred).
    """
    matched, long, short = _matched(cash_delta, np.where(spot, -1.0, years))
    apart = np.abs(_taken(years, long) - _taken(years, short))
    least = np.where(spot, spot_rate, 0.0)
    with_spot = np.maximum(_taken(least, long), _taken(least, short))
    return _total(matched * np.maximum(rate * apart, with_spot))


def mr5_rate(value: Number, years: Number, *, shift: float) -> Array:
    """MR5: shift x |sum of value x years|, over options settled in USD only. `value`, `years`: (..., positions).

    The coin value of a coin-settled option depends on forward and vol alone: it owes nothing, leave it out. Source:
    addendum 3d (the zero derived, the rest inferred).
    """
    return np.multiply(shift, np.abs(_total(np.multiply(value, years))))


def mr6_extreme_move(pnl: Array, *, factor: float) -> Array:
    """MR6: factor x the larger loss at the two extreme moves. `pnl`: (..., positions, scenarios), vols unchanged.

    Source: section 3.5 and addendum 2.1 (moves official; factor derived: 0.33 in 2022-03, 0.5 in 2025-01).
    """
    return np.multiply(factor, _largest_loss(pnl))


def mr7_minimum(raw: Number, *, bounds: Sequence[float], multipliers: Sequence[float]) -> Array:
    """MR7: the raw closing charges of the unit on a progressive scale: each slice by its own multiplier.

    `raw`: (..., positions) from `delta_one_closing` and `option_closing`; `bounds`: where each tier ends, in USD (the
    last one never does). Source: section 3.6 (scale official; 10,000 + 20,000 x 2 = 50,000).
    """
    return _total(_slices(_total(raw), bounds) * np.asarray(multipliers, dtype=np.float64))


def mr9_depeg(
    cash_delta: Array,
    prices: Array,
    *,
    bounds: Sequence[float],
    nodes: Sequence[float],
    factors: Sequence[Sequence[float]],
) -> Array:
    """MR9: what settlement coins hedge of each other, by volume tier and price of the pair; the sum of the three pairs.

    `cash_delta`: (..., 3) in the order of SETTLEMENTS; `prices`: (..., 3) in the order of HEDGE_PAIRS (USDT/USD,
    USDT/USDC, USDC/USD); `bounds`, `nodes`, `factors` as for `hedge_volumes` and `depeg_factors`. A volume is charged
    slice by slice. Without tiers there is no charge: rules before the merge had none. Source: section 3.8 (volumes and
    minimum official, tiers and example rewritten, sum inferred), addendum 3e.
    """
    volumes = hedge_volumes(cash_delta)
    if not len(factors):
        return _total(0.0 * volumes)
    factor = depeg_factors(prices, nodes=nodes, factors=factors)
    return _total(_total(_slices(volumes, bounds) * factor))


def hedge_volumes(cash_delta: Array) -> Array:
    """What each pair of settlement coins hedges, (..., 3) in the order of HEDGE_PAIRS, from (..., 3) of SETTLEMENTS.

    min(|a|, |b|) where the signs differ, else 0; both sides are reduced before the next pair (inferred).
    """
    left = np.array(cash_delta, dtype=np.float64)
    volumes = np.zeros_like(left)
    for pair, (a, b) in enumerate(_SIDES):
        opposite = np.sign(left[..., a]) * np.sign(left[..., b]) < 0.0
        volume = np.where(opposite, np.minimum(np.abs(left[..., a]), np.abs(left[..., b])), 0.0)
        volume = np.where(np.isnan(left[..., a] + left[..., b]), np.nan, volume)
        for side in (a, b):
            left[..., side] -= np.sign(left[..., side]) * volume
        volumes[..., pair] = volume
    return volumes


def depeg_factors(prices: Array, *, nodes: Sequence[float], factors: Sequence[Sequence[float]]) -> Array:
    """Factor of every tier at every price: (..., pairs) to (..., pairs, tiers).

    `factors`: one row per tier, [above the first node, at each node ...], `nodes` falling (0.99, 0.98, 0.80): linear
    between nodes, the last one's below it; above the first node the tier's smallest factor (official), a step. A price
    of the cross pair above 1 counts as its inverse: the other coin is the weak one (inferred).
    """
    price = np.array(prices, dtype=np.float64)
    cross = price[..., _CROSS]
    price[..., _CROSS] = np.where(cross > 1.0, 1.0 / cross, cross)
    table = np.asarray(factors, dtype=np.float64)
    rising = np.asarray(nodes, dtype=np.float64)[::-1]
    curve = np.stack([np.interp(price, rising, row[:0:-1]) for row in table], axis=-1)
    found: Array = np.where(price[..., None] > nodes[0], table[:, 0], curve)
    return np.where(np.isnan(price)[..., None], np.nan, found)


# -- adding up -------------------------------------------------------------------------------------------------


def unit_stress(
    mr1: Number, mr2: Number, mr3: Number, mr4: Number, mr5: Number, mr6: Number, mr9: Number = 0.0
) -> Number:
    """max(MR1, MR2, MR6) + MR3 + MR4 + MR5 + MR9; MR9 exists since the merge. Source: section 4 (official)."""
    return np.maximum(np.maximum(mr1, mr2), mr6) + mr3 + mr4 + mr5 + mr9


def unit_maintenance(stress: Number, mr7: Number) -> Number:
    """Maintenance margin of a unit: max(stress, scaled MR7). Source: section 4 (official, all digits)."""
    return np.maximum(stress, mr7)


def initial_margin(maintenance: Number, *, factor: float) -> Number:
    """Initial margin of a unit or of all units: factor x maintenance (official: 1.3). Debts have their own."""
    return np.multiply(factor, maintenance)


# -- the arithmetic --------------------------------------------------------------------------------------------


def _total(values: Number) -> Array:
    total: Array = np.sum(values, axis=-1)
    return total


def _largest_loss(pnl: Array) -> Array:
    """The largest loss of the positions' sum over scenarios; 0 where every scenario gains."""
    loss: Array = -np.min(np.sum(pnl, axis=-2), axis=-1, initial=0.0)
    return loss + 0.0  # no -0.0


def _slices(amount: Number, bounds: Sequence[float]) -> Array:
    """How much of each amount lies in each tier: (...) to (..., tiers). The last tier takes all that is left."""
    upper = np.array([*bounds[:-1], np.inf])
    lower = np.array([0.0, *bounds[:-1]])
    slices: Array = np.clip(np.asarray(amount, dtype=np.float64)[..., None] - lower, 0.0, upper - lower)
    return slices


def _matched(quantity: Number, order: Number) -> tuple[Array, NDArray[np.intp], NDArray[np.intp]]:
    """Positive quantities against negative ones, both taken by rising `order`: amounts and the two indices of each.

    All of shape (..., 2 tenors): cutting both sides' running sums at each other's steps, every piece lies in one
    positive and one negative entry. What one side has more is left over. Many pieces are empty.
    """
    sized, ordered = np.broadcast_arrays(np.asarray(quantity, dtype=np.float64), order)
    rank = np.argsort(ordered, axis=-1, kind="stable")
    inline = np.take_along_axis(sized, rank, axis=-1)
    longs = np.cumsum(np.maximum(inline, 0.0), axis=-1)
    shorts = np.cumsum(np.maximum(-inline, 0.0), axis=-1)
    most = np.minimum(longs[..., -1:], shorts[..., -1:])
    cuts = np.minimum(np.sort(np.concatenate([longs, shorts], axis=-1), axis=-1), most)
    pieces = np.diff(cuts, axis=-1, prepend=0.0)
    middle = (cuts - pieces / 2.0)[..., :, None]
    last = sized.shape[-1] - 1
    found = [np.minimum(np.sum(side[..., None, :] <= middle, axis=-1), last) for side in (longs, shorts)]
    long, short = (np.take_along_axis(rank, place, axis=-1) for place in found)
    return pieces, long, short


def _taken(values: Number, places: NDArray[np.intp]) -> Array:
    """values[..., places], where values may lack the leading axes."""
    column = np.asarray(values, dtype=np.float64)
    wide = np.broadcast_to(column, (*places.shape[:-1], column.shape[-1]))
    taken: Array = np.take_along_axis(wide, places, axis=-1)
    return taken
