"""Portfolio margin: the account is one pool, and each coin's contracts, options and spot are margined by scenarios.

ratio = adjusted equity / (units' maintenance + borrow margin + fee on debts), all in USD; initial margin = 1.3 x units'
maintenance + borrow initial margin. Options count in equity at their mark, short ones too. Units never net. Source:
rule book portfolio margin, sections 2 to 4 (the account totals reproduce OKX's sample of 2025 to its last digit).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import NotSupported
from bt_margin.model.account import Account
from bt_margin.model.assessment import Charge
from bt_margin.model.instrument import Number
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import borrow, cross, currencies
from bt_margin.modes.base import MarginMode, Pool
from bt_margin.modes.currencies import Line
from bt_margin.modes.risk_units import RiskUnit, fillings, risk_units
from bt_margin.modes.unit_margin import UnitMargin, unit_margin
from bt_margin.risk.grid import VOL_COLUMNS

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

Array = NDArray[np.float64]
NAME = "account"
MR8 = "MR8"


def pools(account: Account) -> Iterable[Pool]:
    """One pool: all currencies, all cross positions, all orders of the account. Positions are one-way."""
    positions = tuple(account.held("cross"))
    for position in positions:
        if isinstance(position, MarginPosition):
            raise NotSupported(
                f"{position.symbol}: portfolio margin has no cross loans, a debt is a negative balance; put its assets "
                "and its liability among the balances"
            )
        if position.side != "net":
            raise NotSupported(f"{position.symbol}: portfolio margin is one-way; give position_side net")
    isolated = {key: position for key, position in account.positions.items() if key.margin_mode == "isolated"}
    orders = (cross.with_opening_part(order, isolated) for order in account.orders.values())
    money = replace(currencies.holdings(account), spot_use=account.spot_use, option_value=True)
    yield Pool(NAME, PORTFOLIO, "USD", 0.0, positions, tuple(o for o in orders if o is not None), money)


def equity(pool: Pool, market: Market, rules: Rules) -> Number:
    """Adjusted equity in USD (OKX `adjEq`): every coin's equity, options at their mark, discounted; debts in full."""
    rows = currencies.lines(pool, market, rules)
    total: Number = sum(currencies.adjusted(pool, rows, market, rules).values())
    return total


@dataclass(frozen=True, slots=True)
class JudgedUnit:
    """A unit as it stands (`now`, the first of `cases`) and with its orders filled. `with_orders`: the worst case sets
    maintenance margin too, not only initial margin. `cap`: how many coins of spot may join; `other_spot`: the coins by
    the reading of "spot" that the rules do not take."""

    unit: RiskUnit
    now: UnitMargin
    cases: tuple[UnitMargin, ...]
    with_orders: bool
    initial_factor: float
    other_spot: Number
    cap: float

    @property
    def shown(self) -> UnitMargin:
        """The case that maintenance margin is taken from; for one instant."""
        return max(self.cases, key=lambda case: float(case.maintenance)) if self.with_orders else self.now

    def parts(self, cases: Sequence[UnitMargin]) -> dict[str, Number]:
        """What each charge adds to the maintenance margin of the worst of some cases, instant by instant."""
        found = [case.binding() for case in cases]
        if len(found) == 1:
            return found[0]
        sizes = np.stack(np.broadcast_arrays(*(case.maintenance for case in cases)))
        first = np.argmax(sizes, axis=0)[None]
        return {
            name: np.take_along_axis(
                np.stack([np.broadcast_to(part[name], sizes.shape[1:]) for part in found]), first, axis=0
            )[0][()]
            for name in found[0]
        }


def judged_units(pool: Pool, lines: Sequence[Line], market: Market, rules: Rules) -> tuple[JudgedUnit, ...]:
    """Every unit of the pool, judged. `lines`: the pool's currencies."""
    caps, coins = currencies.of(pool).spot_use.cap, {line.currency: line for line in lines}
    found = []
    for unit in risk_units(pool, rules):
        row = rules.portfolio(unit.base)
        line, cap = coins.get(unit.base), caps.get(unit.base, np.inf)
        cash, whole = (0.0, 0.0) if line is None else (line.cash - line.accrued, line.equity)
        spot, other = (whole, cash) if row.spot_amount == "equity" else (cash, whole)
        cases = tuple(
            unit_margin(unit.base, filling, spot if unit.spot else None, cap, market, rules)
            for filling in fillings(unit, rules)
        )
        counted = len(cases) > 1 and rules.portfolio_orders.orders_in_maintenance
        found.append(JudgedUnit(unit, cases[0], cases, counted, row.imr_factor, other, cap))
    return tuple(found)


def charges(pool: Pool, market: Market, rules: Rules) -> tuple[Charge, ...]:
    """MR1 to MR9 of every unit, each with what it adds to the margin and its own value beside, and MR8 of every debt.

    Of MR1, MR2, MR6 only the largest adds, and MR7 adds only where it exceeds all others together.
    """
    lines = currencies.lines(pool, market, rules)
    rows: list[Charge] = []
    for judged in judged_units(pool, lines, market, rules):
        opens = judged.parts(judged.cases)
        keeps = opens if judged.with_orders or len(judged.cases) == 1 else judged.now.binding()
        rows += [
            Charge(name, judged.unit.name, judged.initial_factor * opens[name], keeps[name], 0.0,
                   _detail(name, judged, value))
            for name, value in judged.now.charges.items()
        ]
    leverage = currencies.of(pool).borrowing.leverage
    for line in lines:
        owed = line.potential_borrow
        if np.any(np.asarray(owed) > 0):
            rows.append(replace(borrow.charge(line.currency, owed, line.usd, leverage, rules), name=MR8))
    return tuple(rows)


def _detail(name: str, judged: JudgedUnit, value: Number) -> dict[str, object]:
    """`value`: the charge by itself, before orders; `currency` None: it belongs to no currency's margin."""
    found: dict[str, object] = {"value": value, "currency": None}
    now = judged.now
    if name == "MR1":
        found |= worst_scenario(now.profits, now.scenarios.spot, now.scenarios.vol)
    elif name == "MR6":
        found |= worst_scenario(now.extreme_profits, now.extremes.spot, None)
    return found


def worst_scenario(profits: Array, spot: Array, vol: Array | None) -> dict[str, object]:
    """Where the unit loses most, and how much: `spot_shock`, `vol_shock` (MR1) and `pnl`, by instant."""
    place = np.argmin(profits, axis=-1)
    found: dict[str, object] = {"spot_shock": spot[place]}
    if vol is not None:
        found["vol_shock"] = _COLUMNS[(1.0 - vol[place]).astype(int)]
    found["pnl"] = np.take_along_axis(profits, place[..., None], axis=-1)[..., 0][()]
    return found


_COLUMNS = np.array(VOL_COLUMNS, dtype=object)

PORTFOLIO = MarginMode(name="portfolio", pools=pools, equity=equity, charges=charges, ladder=())
