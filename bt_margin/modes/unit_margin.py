"""What one risk unit must hold: its columns through the kernels, MR1 to MR9, and which of them binds.

maintenance = max(max(MR1, MR2, MR6) + MR3 + MR4 + MR5 + MR9, MR7). Numbers are floats, or arrays over instants.
Source: rule book portfolio margin, sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.model.instrument import Number
from bt_margin.model.market import Market
from bt_margin.modes.columns import DeltaOne, Options, column, delta_one, option_columns
from bt_margin.modes.risk_units import Filling
from bt_margin.risk import charges, grid, pnl
from bt_margin.risk.black import YEAR_DAYS
from bt_margin.risk.charges import HEDGE_PAIRS, SETTLEMENTS
from bt_margin.risk.grid import Scenarios

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules
    from bt_margin.rules.portfolio import PortfolioOptionRow, PortfolioRow

Array = NDArray[np.float64]
NAMES = ("MR1", "MR2", "MR3", "MR4", "MR5", "MR6", "MR7", "MR9")
"""The charges of a unit; MR8 is the account's."""
_LARGEST = ("MR1", "MR2", "MR6")
_TIE = 1.0 - 1e-12
"""MR1 and MR6 of a pure delta-one unit are equal but for rounding: then MR1 is said to bind."""


@dataclass(frozen=True, slots=True)
class UnitMargin:
    """The charges of a unit by name, the scenarios behind MR1 and MR6 (profit of the unit, (..., scenarios)), its cash
    delta in USD, the spot in use in coins, its columns, and the raw closing charges behind MR7 by the parameter that
    each rests on."""

    charges: dict[str, Number]
    scenarios: Scenarios
    profits: Array
    extremes: Scenarios
    extreme_profits: Array
    cash_delta: Number
    spot: Number
    contracts: DeltaOne | None
    options: Options | None
    closing: dict[str, Number]

    @property
    def stress(self) -> Number:
        c = self.charges
        return charges.unit_stress(c["MR1"], c["MR2"], c["MR3"], c["MR4"], c["MR5"], c["MR6"], c["MR9"])

    @property
    def maintenance(self) -> Number:
        return charges.unit_maintenance(self.stress, self.charges["MR7"])

    def binding(self) -> dict[str, Number]:
        """What each charge adds to the maintenance margin; the parts add up to it. Of MR1, MR2 and MR6 the largest
        counts, and either MR7 alone or the others."""
        c = self.charges
        if not any(isinstance(value, np.ndarray) and value.ndim for value in c.values()):
            return self._binding_now()
        stressed = np.greater_equal(self.stress, c["MR7"])
        largest = np.maximum(np.maximum(c["MR1"], c["MR2"]), c["MR6"])
        parts: dict[str, Number] = {}
        open_ = stressed
        for name in _LARGEST:
            here = open_ & np.greater_equal(c[name], largest * _TIE)
            parts[name] = np.where(here, largest, 0.0)[()]
            open_ = open_ & ~here
        for name in ("MR3", "MR4", "MR5", "MR9"):
            parts[name] = np.where(stressed, c[name], 0.0)[()]
        parts["MR7"] = np.where(stressed, 0.0, c["MR7"])[()]
        return {name: parts[name] for name in NAMES}

    def _binding_now(self) -> dict[str, Number]:
        """The same at one instant, where plain numbers are ten times faster than arrays of one."""
        c = {name: float(value) for name, value in self.charges.items()}
        parts: dict[str, Number] = dict.fromkeys(NAMES, 0.0)
        largest = max(c["MR1"], c["MR2"], c["MR6"])
        stress = float(self.stress)
        if stress < c["MR7"]:
            parts["MR7"] = c["MR7"]
            return parts
        # what is no number is not as large as itself: it is told as MR1's, and whoever judges by it says so
        parts[next((name for name in _LARGEST if c[name] >= largest * _TIE), "MR1")] = largest
        return parts | {name: c[name] for name in ("MR3", "MR4", "MR5", "MR9")}


def unit_margin(
    base: str, filling: Filling, spot: Number | None, cap: float, market: Market, rules: Rules
) -> UnitMargin:
    """Judge what a unit holds. `spot`: coins that may join (None: none does), `cap`: how many at most.

    Raises where a price or a rule is missing.
    """
    row = rules.portfolio(base)
    contracts = [held for held in filling.held if not held[0].is_option]
    optional = [held for held in filling.held if held[0].is_option]
    flat = delta_one(contracts, market) if contracts else None
    options = option_columns(optional, market, row.option_delta) if optional else None
    terms = rules.portfolio_options(base) if optional else None

    used: Number = 0.0
    worth: Number = 0.0
    if spot is not None:
        used = pnl.spot_in_use(net_coins(flat, options), np.add(spot, filling.coins), cap=cap)
        if np.any(used):
            worth = used * market.usd(base)
    slope = worth + (0.0 if flat is None else np.sum(flat.slope, axis=-1))

    scenarios, extremes = _grids(row.mr1_moves, row.mr6_move)
    straight, far = (np.multiply(np.asarray(slope)[..., None], s.spot) for s in (scenarios, extremes))
    mr2: Number = 0.0
    mr3: Number = 0.0
    mr5: Number = 0.0
    raw: dict[str, Number] = {"mr7_spot": pnl.delta_one_closing(worth, rate=row.mr7_spot)}
    if flat is not None:
        raw["mr7_delta_one"] = np.sum(pnl.delta_one_closing(flat.delta, rate=row.mr7_delta_one), axis=-1)
    if options is None or terms is None:
        profits = straight
    else:
        profits = straight + _option_profits(options, terms, scenarios)
        far = far + np.sum(pnl.option_pnl(*options.terms, extremes.spot, in_coin=options.in_coin), axis=-2)
        mr2 = charges.mr2_theta(pnl.decay_pnl(*options.terms, days=terms.mr2_days), factor=terms.mr2_factor)
        mr3 = _vega_term(options, terms)
        if not np.all(options.in_coin):
            owed = np.where(options.in_coin, 0.0, options.value)
            mr5 = charges.mr5_rate(owed, options.years, shift=terms.mr5_rate_shift)
        costs = pnl.option_closing(options.coins, options.index, options.value, short_rate=terms.mr7_short_option,
                                   long_rate=terms.mr7_long_option)
        raw["mr7_short_option"] = np.sum(np.where(options.coins < 0.0, costs, 0.0), axis=-1)
        raw["mr7_long_option"] = np.sum(np.where(options.coins > 0.0, costs, 0.0), axis=-1)
    bounds, multipliers = zip(*row.mr7_tiers, strict=True)
    total = sum(raw.values(), np.float64(0.0))
    found: dict[str, Number] = {
        "MR1": charges.mr1_spot_shock(profits[..., None, :]),
        "MR2": mr2,
        "MR3": mr3,
        "MR4": _basis(row, flat, options, worth),
        "MR5": mr5,
        "MR6": charges.mr6_extreme_move(far[..., None, :], factor=row.mr6_factor),
        "MR7": charges.mr7_minimum(np.asarray(total)[..., None], bounds=bounds, multipliers=multipliers),
        "MR9": _depeg(base, flat, options, worth, market, rules),
    }
    deltas = [np.sum(part.delta, axis=-1) for part in (flat, options) if part is not None]
    return UnitMargin(
        found, scenarios, profits, extremes, far, sum(deltas, worth), used, flat, options, raw
    )


@cache
def _grids(moves: tuple[float, ...], extreme: float) -> tuple[Scenarios, Scenarios]:
    """The scenarios of MR1 and MR6, laid out once per rule."""
    return grid.spot_vol_grid(moves), grid.extreme_moves(extreme)


def shift_points(options: Options, terms: PortfolioOptionRow) -> Number:
    """How far each vol moves in points, (legs,)."""
    return grid.tenor_curve(options.years * YEAR_DAYS, at_30d=terms.vol_points_30d, cap=terms.vol_points_cap,
                            power_short=terms.vol_power_short, power_long=terms.vol_power_long)


def _option_profits(options: Options, terms: PortfolioOptionRow, scenarios: Scenarios) -> Array:
    """Profit of all options together, (..., scenarios). With the reading "worst-loss" points and per cent are tried
    each alone and the worse total of a scenario counts."""
    points = shift_points(options, terms)
    percent = grid.tenor_curve(options.years * YEAR_DAYS, at_30d=terms.vol_percent_30d, cap=terms.vol_percent_cap,
                               power_short=terms.vol_power_short, power_long=terms.vol_power_long)
    pairs: tuple[tuple[Number, Number], ...] = ((points, percent),)
    if terms.vol_reading == "worst-loss":
        pairs = ((points, 0.0), (0.0, percent))
    totals = []
    for in_points, in_percent in pairs:
        shift = grid.vol_shift(options.vol, points=in_points, percent=in_percent)
        vols = grid.shocked_vol(options.vol, shift, scenarios, floor=terms.vol_floor)
        gains = pnl.option_pnl(*options.terms, scenarios.spot, vols=vols, in_coin=options.in_coin)
        totals.append(np.sum(gains, axis=-2))
    worst: Array = np.minimum.reduce(totals)
    return worst


def _vega_term(options: Options, terms: PortfolioOptionRow) -> Number:
    if terms.mr3_kind == "none":
        return 0.0
    expiries, group = np.unique(options.expiry, return_inverse=True)
    count = len(expiries)
    if terms.mr3_kind == "bybit":
        years = np.zeros((*options.years.shape[:-1], count))
        years[..., group] = options.years
        coins = pnl.summed_by(options.coins, group, count)
        index = options.index[..., 0]
        return charges.mr3_vega_spread(coins, years * YEAR_DAYS, index, rate=terms.mr3_spread_rate)
    gains = pnl.vol_pnl(*options.terms, shift=np.divide(shift_points(options, terms), 100.0))
    return charges.mr3_vega_term(pnl.summed_by(gains, group, count), factor=terms.mr3_factor)


def _basis(row: PortfolioRow, flat: DeltaOne | None, options: Options | None, worth: Number) -> Number:
    """MR4: spot in use is a tenor, perpetuals are one, every expiry is one, options in it by their delta."""
    spot = np.asarray(worth, dtype=np.float64)[..., None]
    deltas: list[Array] = [spot]
    places: dict[int, int] = {}
    to_end: list[Number] = [0.0]
    group = [0]
    for part in (flat, options):
        if part is None:
            continue
        deltas.append(np.asarray(part.delta))
        for leg, expiry in enumerate(part.expiry.tolist()):
            if expiry not in places:
                places[expiry] = len(to_end)
                to_end.append(part.years[..., leg])
            group.append(places[expiry])
    if any(d.ndim > 1 for d in deltas):
        lead = np.broadcast_shapes(*(d.shape[:-1] for d in deltas))
        deltas = [np.broadcast_to(d, (*lead, d.shape[-1])) for d in deltas]
    by_tenor = pnl.summed_by(np.concatenate(deltas, axis=-1), np.array(group), len(to_end))
    years = column(to_end)
    if row.mr4_kind == "tenors":
        return charges.mr4_basis(by_tenor, years, rate=row.mr4_rate, floor=row.mr4_floor)
    spots = np.arange(len(to_end)) == 0
    return charges.mr4_basis_pairs(by_tenor, years, spots, rate=row.mr4_rate, spot_rate=row.mr4_spot_rate)


def _depeg(
    base: str, flat: DeltaOne | None, options: Options | None, worth: Number, market: Market, rules: Rules
) -> Number:
    """MR9: nothing, and no rule looked up, where everything is on one side."""
    sides = {int(side) for part in (flat, options) if part is not None for side in part.settle}
    usd_side = SETTLEMENTS.index("USD")
    if len(sides) < 2 and (not np.any(worth) or sides <= {usd_side}):
        return 0.0
    row = rules.portfolio_depeg(base)
    if not row.mr9_tiers:
        return 0.0
    total = np.zeros(len(SETTLEMENTS))
    for part in (flat, options):
        if part is not None:
            total = total + pnl.summed_by(part.delta, part.settle, len(SETTLEMENTS))
    if row.mr9_spot == "USD":
        total = total + np.asarray(worth, dtype=np.float64)[..., None] * (np.arange(len(SETTLEMENTS)) == usd_side)
    if not np.any(charges.hedge_volumes(total)):
        return 0.0
    return charges.mr9_depeg(
        total, _pair_prices(total, market), bounds=[tier[0] for tier in row.mr9_tiers], nodes=row.mr9_prices,
        factors=[tier[1:] for tier in row.mr9_tiers],
    )


def _pair_prices(total: Array, market: Market) -> Array:
    """Index prices of the pairs of settlement coins; 1 for a pair that hedges nothing: it charges nothing either."""
    usd = {coin: market.usd(coin) if np.any(total[..., i]) else 1.0 for i, coin in enumerate(SETTLEMENTS)}
    prices: list[Number] = []
    for a, b in HEDGE_PAIRS:
        quoted = market.indexes.get(f"{a}/{b}")
        prices.append(usd[a] / usd[b] if quoted is None else quoted)
    if any(isinstance(p, np.ndarray) and p.ndim for p in prices):
        return np.stack(np.broadcast_arrays(*prices), axis=-1)
    return np.array(prices, dtype=np.float64)


def net_coins(flat: DeltaOne | None, options: Options | None) -> Number:
    """Net delta of the unit's contracts and options in coins."""
    coins: Number = 0.0 if flat is None else np.sum(flat.coins, axis=-1)
    if options is not None:
        coins = coins + np.sum(options.coins * options.rule_delta, axis=-1)
    return coins
