"""The steps of undoing an account in portfolio margin. Each returns what to trade next, () when it has nothing to do.

Order official (page of 2025-12-04), sizes inferred: `PortfolioLadderRow`. A step looks at the units by what they ask
for, largest first, and proposes no trade that would raise the requirement, so a ladder that is walked ends. Only
contracts that are held are traded. Source: rule book portfolio margin, section 7; addendum 3i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bt_margin.model.account import Position
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.base import Close, Pool, Reduction, judge
from bt_margin.modes.judged_units import JudgedUnit, judged_units
from bt_margin.risk import pnl
from bt_margin.risk.charges import HEDGE_PAIRS, SETTLEMENTS, hedge_volumes

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

TINY = 1e-9
_COMPARED = ("MR1", "MR4", "MR6", "MR7", "MR9")
"""Whose size decides which hedge a unit needs (rule book, section 7)."""


def stablecoin_hedge(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """DDH1: where MR9 is a unit's largest charge, the largest pair of settlement coins is closed against each other."""
    if "stablecoin_hedge" not in rules.portfolio_ladder.steps:
        return ()
    for unit in _largest_first(pool, market, rules):
        contracts = unit.now.contracts
        if contracts is None or dominant(unit) != "MR9":
            continue
        totals = np.zeros(len(SETTLEMENTS))
        for part in (unit.now.contracts, unit.now.options):
            if part is not None:
                totals = totals + pnl.summed_by(part.delta, part.settle, len(SETTLEMENTS))
        volumes = hedge_volumes(totals)
        for pair in sorted(range(len(HEDGE_PAIRS)), key=lambda i: -volumes[i]):
            sides = [SETTLEMENTS.index(coin) for coin in HEDGE_PAIRS[pair]]
            a, b = (_leg(unit, contracts.settle == side, float(np.sign(totals[side]))) for side in sides)
            if volumes[pair] > 0 and a is not None and b is not None:
                answer = _pair(pool, unit, (a, b), float(volumes[pair]), "stablecoin hedge", market, rules)
                if answer:
                    return answer
    return ()


def dynamic_delta_hedge(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """DDH2: in a unit with options whose MR1 is the largest charge, the nearest contract that drives the delta is
    reduced, a slice of the net delta at a time.

    The page says that perpetuals and futures are "adjusted" to lower the risk, not that a hedge is opened or made
    larger, nor at what price and cost. So neither is done here: a unit whose delta its options or coins drive goes on
    to the next step.
    """
    row = rules.portfolio_ladder
    if "dynamic_delta_hedge" not in row.steps:
        return ()
    for unit in _largest_first(pool, market, rules):
        contracts = unit.now.contracts
        if unit.now.options is None or contracts is None or dominant(unit) != "MR1":
            continue
        net = float(np.asarray(unit.now.cash_delta))
        held = _contracts(unit)
        for place in sorted(range(len(held)), key=lambda i: (contracts.expiry[i], held[i].key)):
            position = held[place]
            if float(contracts.delta[place]) * net <= 0:
                continue  # it would grow: only what is held is reduced here
            each = float(contracts.delta[place]) / position.size
            most = min(abs(net) / each, abs(position.size))
            size = _lots(position, abs(net) * row.hedge_slice / each, most)
            if size:
                change = {position.key: -float(np.sign(net)) * size}
                if _relieves(pool, change, market, rules):
                    return (Close(position.key, change[position.key], "dynamic delta hedge"),)
    return ()


def basis_pairs(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """Opposite positions of different tenors are closed against each other, the largest of each side first."""
    if "basis_pairs" not in rules.portfolio_ladder.steps:
        return ()
    for unit in _largest_first(pool, market, rules):
        contracts = unit.now.contracts
        if contracts is None:
            continue
        long = _leg(unit, contracts.expiry >= 0, 1.0)
        short = None if long is None else _leg(unit, contracts.expiry != contracts.expiry[long], -1.0)
        if long is None or short is None:
            continue
        answer = _pair(pool, unit, (long, short), math.inf, "basis pair", market, rules)
        if answer:
            return answer
    return ()


def general_reduction(pool: Pool, market: Market, rules: Rules) -> tuple[Reduction, ...]:
    """The unit that asks for most is cut by a slice: its contracts, or, where that frees nothing, all it holds; and
    where lots are too coarse for a slice, whole."""
    row = rules.portfolio_ladder
    if "general_reduction" not in row.steps:
        return ()
    for unit in _largest_first(pool, market, rules):
        if float(unit.now.maintenance) <= 0:
            continue
        everything = sorted(unit.unit.positions, key=lambda p: p.key)
        contracts = [p for p in everything if p.instrument.is_contract]
        part = row.liquidation_slice
        for share, group in ((part, contracts), (part, everything), (1.0, everything)):
            cuts = ((p, _lots(p, abs(p.size) * share, abs(p.size))) for p in group)
            change = {p.key: -p.sign * size for p, size in cuts if size}
            if change and _relieves(pool, change, market, rules):
                return tuple(Close(key, size, "general reduction") for key, size in change.items())
    return ()


def dominant(unit: JudgedUnit) -> str:
    """The largest of the charges that decide which hedge a unit needs; the first of equals."""
    values = {name: float(unit.now.charges[name]) for name in _COMPARED}
    most = max(values.values())
    return next(name for name in _COMPARED if values[name] >= most * (1.0 - 1e-12))


def traded(pool: Pool, change: Mapping[PositionKey, float], market: Market) -> Pool:
    """The pool after trades at the mark: profits and premiums in the balances, so that equity is what it was."""
    balances = dict(currencies.of(pool).balances)
    left: list[Position] = []
    for position in pool.positions:
        size = change.get(position.key, 0.0)
        if not size:
            left.append(position)
            continue
        instrument, mark = position.instrument, float(market.mark(position.symbol))
        rest = position.reduced(size)
        if instrument.is_option:
            paid = -size * instrument.contract_size * mark
        else:  # what is left is as if it had been opened at the mark: the whole profit is booked
            paid = float(position.unrealised(market))
            rest = None if rest is None else replace(rest, entry_price=mark)
        balances[instrument.settle] = balances.get(instrument.settle, 0.0) + paid
        if rest is not None:
            left.append(rest)
    return replace(pool, positions=tuple(left), holdings=replace(currencies.of(pool), balances=balances))


# -- the arithmetic ------------------------------------------------------------------------------------------


def _largest_first(pool: Pool, market: Market, rules: Rules) -> list[JudgedUnit]:
    units = judged_units(pool, currencies.lines(pool, market, rules), market, rules)
    return sorted(units, key=lambda u: (-float(u.now.maintenance), u.unit.name))


def _contracts(unit: JudgedUnit) -> list[Position]:
    """The unit's swaps and futures in the order of its columns, which is that of symbols."""
    return sorted((p for p in unit.unit.positions if p.instrument.is_contract), key=lambda p: p.symbol)


def _leg(unit: JudgedUnit, fits: NDArray[np.bool_], sign: float) -> int | None:
    """The largest contract of a side among those that fit, by its place in the columns."""
    contracts, held = unit.now.contracts, _contracts(unit)
    if contracts is None or not sign:
        return None
    places = [i for i in range(len(held)) if fits[i] and float(contracts.delta[i]) * sign > 0]
    return min(places, key=lambda i: (-abs(float(contracts.delta[i])), held[i].key)) if places else None


def _pair(
    pool: Pool, unit: JudgedUnit, legs: Sequence[int], volume: float, step: str, market: Market, rules: Rules
) -> tuple[Reduction, ...]:
    """A slice of `volume` USD, as far as the smaller leg reaches, closed on both legs, whole where a lot is more than
    the slice; () where that frees nothing."""
    contracts, held = unit.now.contracts, _contracts(unit)
    if contracts is None:
        return ()
    most = min(volume, *(abs(float(contracts.delta[i])) for i in legs))
    for share in (rules.portfolio_ladder.hedge_slice, 1.0):
        change: dict[PositionKey, float] = {}
        for i in legs:
            each = float(contracts.delta[i]) / held[i].size
            change[held[i].key] = -held[i].sign * _lots(held[i], most * share / each, abs(held[i].size))
        if _relieves(pool, change, market, rules):
            return tuple(Close(key, size, step) for key, size in change.items())
    return ()


def _lots(position: Position, size: float, most: float) -> float:
    """A positive size in whole lots: at least one, at most `most`; 0 where not even one fits."""
    instrument = position.instrument
    wanted = max(instrument.floor(size), instrument.lot)
    return wanted if wanted <= most * (1.0 + TINY) else instrument.floor(most)


def _relieves(pool: Pool, change: Mapping[PositionKey, float], market: Market, rules: Rules) -> bool:
    """True where each of the trades takes something off and the requirement falls."""
    if not all(change.values()):
        return False
    now, then = (float(judge(p, market, rules).requirement) for p in (pool, traded(pool, change, market)))
    return then < now - TINY * max(1.0, now)
