"""The rows of portfolio margin's table, and what its parameters may be.

OKX published parts of it. So every parameter stands alone, dated and graded, and the parameters are handed out in six
rows: a book's evidence names those it leans on and no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import msgspec

from bt_margin.errors import InputError


@dataclass(frozen=True, slots=True)
class PortfolioRow:
    """What every risk unit of a coin is judged by in portfolio margin.

    `units`: a unit per coin and settlement, or per coin (the risk-unit merge). `spot_in_use`: no spot joins, spot of
    the one unit the user chose (`spot_choices`: USDT, USDC, or the coin's own), or as much as hedges; `spot_amount`:
    measured by the coin's equity or by its cash. `spot_orders`: resting spot orders join. `option_delta`: which delta
    counts in spot in use, cash deltas and MR4. `imr_factor`: initial over maintenance margin. `mr1_moves`,
    `mr6_move`, `mr6_factor`: spot moves, and the share of the extreme loss that counts. `mr4_kind`: what offsets
    between tenors pays, or every tenor for itself; rate a year, floor of a tenor, rate of spot against derivatives.
    `mr7_delta_one`, `mr7_spot`: raw closing charge over cash delta. `mr7_tiers`: (upper bound in USD, multiplier) of
    the progressive scale.
    """

    units: Literal["by-settlement", "by-coin"]
    spot_in_use: Literal["none", "chosen", "automatic"]
    spot_choices: tuple[str, ...]
    spot_amount: Literal["equity", "cash"]
    spot_orders: bool
    option_delta: Literal["PA", "BS"]
    imr_factor: float
    mr1_moves: tuple[float, ...]
    mr4_kind: Literal["pairs", "tenors"]
    mr4_rate: float
    mr4_floor: float
    mr4_spot_rate: float
    mr6_move: float
    mr6_factor: float
    mr7_delta_one: float
    mr7_spot: float
    mr7_tiers: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class PortfolioOptionRow:
    """What only units with options need: vol moves, MR2, MR3, MR5 and MR7's raw charge of options.

    `vol_*`: points (of a vol) and per cent (fraction of the vol) at 30 days, their caps, powers below and from 30
    days, floor of a vol moved down; `vol_reading`: the larger of the two moves, or each tried and the worse total kept.
    `mr3_kind`: not charged, offsets between expiries x `mr3_factor`, or matched coins x days x `mr3_spread_rate`.
    `mr5_rate_shift`: of options settled in USD only. `mr7_short_option`, `mr7_long_option`: coins per coin; a long
    option is charged at most its value.
    """

    vol_reading: Literal["larger-move", "worst-loss"]
    vol_points_30d: float
    vol_points_cap: float
    vol_percent_30d: float
    vol_percent_cap: float
    vol_power_short: float
    vol_power_long: float
    vol_floor: float
    mr2_factor: float
    mr2_days: float
    mr3_kind: Literal["none", "deribit_v1", "bybit"]
    mr3_factor: float
    mr3_spread_rate: float
    mr5_rate_shift: float
    mr7_short_option: float
    mr7_long_option: float


@dataclass(frozen=True, slots=True)
class DepegRow:
    """MR9: falling prices of a stablecoin pair, and per volume tier (upper bound in USD, factor above the first price,
    factor at each price). No tiers: MR9 does not exist yet. `mr9_spot`: spot in use counts on no side, or on that of
    USD as coin-settled contracts do.
    """

    mr9_spot: Literal["none", "USD"]
    mr9_prices: tuple[float, ...]
    mr9_tiers: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Raises ValueError when a tier has not one factor per price and one above them."""
        if any(len(row) != len(self.mr9_prices) + 2 for row in self.mr9_tiers):
            raise ValueError(f"expected rows [upper bound, factor above, {len(self.mr9_prices)} factors]")


@dataclass(frozen=True, slots=True)
class PortfolioOrderRow:
    """What resting orders do to a unit. `order_sides`: the worst of no order, those of positive and those of negative
    delta filled, or all filled. `orders_in_maintenance`: they count there too. `order_check`: an order is taken when
    equity covers initial margin or does not fall by more than it, or only when it covers it.
    """

    order_sides: Literal["worst-side", "all"]
    orders_in_maintenance: bool
    order_check: Literal["either", "covered"]


@dataclass(frozen=True, slots=True)
class PortfolioAccountRow:
    """Who may hold an account in portfolio margin, and what it may hold.

    `min_equity_usd` to enter; `switch_with_positions`: the mode may be changed with positions open; `isolated_loans`:
    isolated spot margin beside the units. `position_limit`: what one family may hold, the end of its position tiers
    or no limit.
    """

    min_equity_usd: float
    switch_with_positions: bool
    isolated_loans: bool
    position_limit: Literal["last-tier", "none"]


@dataclass(frozen=True, slots=True)
class PortfolioLadderRow:
    """How a breached account is undone.

    `steps`: in which order risk is taken down (names of the ladder's steps), each by `hedge_slice` (hedges) or
    `liquidation_slice` (general reduction) at a time, until the account is safe.
    """

    steps: tuple[str, ...]
    hedge_slice: float
    liquidation_slice: float


ROWS = (PortfolioRow, PortfolioOptionRow, DepegRow, PortfolioOrderRow, PortfolioAccountRow, PortfolioLadderRow)
PARAMETERS: dict[str, Any] = {
    name: kind
    for row in ROWS
    for name, kind in get_type_hints(row).items()
}
"""Every parameter of the portfolio table and the type of its value; each belongs to one row."""


def checked(parameter: str, value: Any, path: str) -> Any:
    """A value of the portfolio table in its parameter's type. Raises InputError naming `path`.

    Figures are zero or above and finite; only the bound of a last tier may be infinite. Bounds rise.
    """
    if parameter not in PARAMETERS:
        raise InputError(f"{path}: unknown; expected one of {', '.join(sorted(PARAMETERS))}")
    try:
        found = msgspec.convert(value, PARAMETERS[parameter])
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    figures = [found]
    if isinstance(found, tuple):
        figures = [x for entry in found for x in (entry if isinstance(entry, tuple) else (entry,))]
        if () in found:
            raise InputError(f"{path}: expected rows with an upper bound, found an empty one")
        bounds = [entry[0] for entry in found if isinstance(entry, tuple)]
        if bounds != sorted(set(bounds)):
            raise InputError(f"{path}: expected rising upper bounds, found {bounds}")
        figures = [x for x in figures if not (bounds and x == bounds[-1] == math.inf)]
    for x in figures:
        if isinstance(x, float) and not 0.0 <= x < math.inf:
            raise InputError(f"{path}: expected finite numbers, zero or above, found {x!r}")
    return found
