"""What a judgement says, with every number's named parts. Values only; `to_dict` gives the public JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bt_margin.model.instrument import Number
from bt_margin.model.light import light
from bt_margin.model.moment import iso

SAFE, WARNING, LIQUIDATION = "safe", "warning", "liquidation"


@light(frozen=True, slots=True)
class Charge:
    """One named part of what a pool must hold, in the pool's currency.

    `initial` opens positions and orders, `maintenance` keeps them, `fee` is the liquidation fee they would pay.
    """

    name: str
    unit: str
    initial: Number
    maintenance: Number
    fee: Number
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One pool's judgement. `margin_ratio` is None when nothing is required; it falls as danger rises."""

    name: str
    currency: str
    equity: float
    initial_margin: float
    maintenance_margin: float
    liquidation_fee: float
    available: float
    margin_ratio: float | None
    state: str
    charges: tuple[Charge, ...]
    equity_parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def requirement(self) -> float:
        """Maintenance margin + liquidation fee: equity at or below it means liquidation."""
        return self.maintenance_margin + self.liquidation_fee


@dataclass(frozen=True, slots=True)
class CurrencyReport:
    currency: str
    balance: float
    equity: float
    in_use: float
    frozen: float
    free_margin: float
    available_balance: float
    available_equity: float
    liability: float
    interest: float
    potential_borrow: float
    unrealised_pnl: float
    leverage: float
    discounted_equity_usd: float | None
    equity_usd: float
    unrealised_liability: float = 0.0  # the part of the liability that unrealised losses made


@dataclass(frozen=True, slots=True)
class PositionReport:
    symbol: str
    margin_mode: str
    position_side: str
    contracts: float
    entry_price: float
    mark_price: float
    notional: float
    notional_usd: float
    unrealised_pnl: float
    unrealised_pnl_ratio: float
    margin: float
    initial_margin: float | None  # None, as leverage and tier: in portfolio margin only the unit has them
    maintenance_margin: float | None
    liquidation_fee: float | None
    margin_ratio: float | None
    trigger_price: float | None
    liquidation_price: float | None
    bankruptcy_price: float | None
    break_even_price: float
    leverage: float | None
    tier: int | None
    available_assets: float
    delta: float
    gamma: float
    vega: float
    theta: float
    delta_pa: float = 0.0
    gamma_pa: float = 0.0
    vega_pa: float = 0.0
    theta_pa: float = 0.0
    option_value: float = 0.0
    margin_currency: str = ""  # spot margin, as are the next three
    assets: float = 0.0
    liability: float = 0.0
    interest: float = 0.0


@dataclass(frozen=True, slots=True)
class OrderReport:
    symbol: str
    side: str
    amount: float
    price: float | None
    initial_margin: float
    order_loss: float
    fee: float
    accepted: bool
    reason: str
    shortfall: float


@dataclass(frozen=True, slots=True)
class RiskUnitReport:
    """A risk unit of portfolio margin, in USD: MR1 to MR9 (MR8 is the account's), their scenarios and its greeks.

    `mr7` is after its progressive scale; `mr1_scenarios`: profit by move and vol column, negative for a loss. Deltas in
    coins (the `_pa` set of the value in coin), gamma per USD, vega per vol point, theta per day; spot in use counts in
    the deltas. `dominant`: the charge that weighs most. `indicative`: more than half of `mmr` rests on inferred
    parameters (`inferred_share`), named in `inferred`.
    """

    unit: str
    delta_usd: float
    mr1: float
    mr2: float
    mr3: float
    mr4: float
    mr5: float
    mr6: float
    mr7: float
    mr9: float
    mmr: float
    imr: float
    upl_usd: float
    mr1_scenarios: Mapping[str, Mapping[str, float]]
    mr1_worst: Mapping[str, Any]
    mr6_worst: Mapping[str, Any]
    spot_in_use: float
    delta: float
    gamma: float
    vega: float
    theta: float
    delta_pa: float
    gamma_pa: float
    vega_pa: float
    theta_pa: float
    dominant: str
    inferred_share: float
    indicative: bool
    inferred: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountTotals:
    equity_usd: float
    adjusted_equity_usd: float | None
    initial_margin_usd: float
    maintenance_margin_usd: float
    liquidation_fee_usd: float
    available_usd: float
    notional_usd: float
    margin_ratio: float | None
    leverage: float
    idle_usd: float


@dataclass(frozen=True, slots=True)
class AccountReport:
    """The whole account at one instant."""

    mode: str
    time: int
    account: AccountTotals
    pools: tuple[PoolReport, ...]
    currencies: tuple[CurrencyReport, ...]
    positions: tuple[PositionReport, ...]
    orders: tuple[OrderReport, ...] = ()
    evidence: tuple[Any, ...] = ()
    warnings: tuple[str, ...] = ()
    risk_units: tuple[RiskUnitReport, ...] = ()

    def pool(self, name: str) -> PoolReport | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The public JSON shape; what does not exist is None, never NaN or infinity."""
        body = {
            "mode": self.mode,
            "time": iso(self.time),
            "account": asdict(self.account),
            "pools": [
                {
                    **{k: v for k, v in asdict(pool).items() if k != "charges"},
                    "charges": [asdict(charge) for charge in pool.charges],
                }
                for pool in self.pools
            ],
            "currencies": [asdict(row) for row in self.currencies],
            "positions": [asdict(row) for row in self.positions],
            "orders": [asdict(row) for row in self.orders],
            "risk_units": [asdict(row) for row in self.risk_units],
            "evidence": [asdict(row) for row in self.evidence],
            "warnings": list(self.warnings),
        }
        return _clean(body)  # type: ignore[no-any-return]


class LateReport:
    """A report that is laid out when it is first read, and kept.

    `lay_out` gives it, and may lean only on what no longer changes. Most events are never asked for theirs, and laying
    one out takes far longer than a forced order. Equal where the reports are; a copy in another process is laid out.
    """

    __slots__ = ("_lay_out", "_report")
    __hash__ = None  # type: ignore[assignment]  # as that of what it holds: mappings have none

    def __init__(self, lay_out: Callable[[], AccountReport]) -> None:
        self._lay_out: Callable[[], AccountReport] | None = lay_out
        self._report: AccountReport | None = None

    def read(self) -> AccountReport:
        """The report, the same object each time. Raises what laying it out raises."""
        if self._report is None:
            assert self._lay_out is not None
            self._report = self._lay_out()
            self._lay_out = None  # and the account behind it goes
        return self._report

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LateReport) and (self is other or self.read() == other.read())

    def __reduce__(self) -> tuple[Callable[[AccountReport], LateReport], tuple[AccountReport]]:
        return _ready, (self.read(),)

    def __repr__(self) -> str:
        return repr(self.read())


def _ready(report: AccountReport) -> LateReport:
    """A report that is laid out already."""
    return LateReport(lambda: report)


def ratio(equity: float, requirement: float) -> float | None:
    """equity / requirement; None when nothing is required."""
    return equity / requirement if requirement > 0 else None


def state_of(margin_ratio: float | None, warning: float, liquidation: float) -> str:
    """safe above the warning level, liquidation at or below the liquidation level."""
    if margin_ratio is None or margin_ratio > warning:
        return SAFE
    return WARNING if margin_ratio > liquidation else LIQUIDATION


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
