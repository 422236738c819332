"""How an account in portfolio margin is undone (okx-portfolio-margin.md, section 7; addendum 3i): stablecoin hedge,
delta hedge, basis pairs, general reduction. Sizes are the rule table's, inferred; no step that would raise what is
required (the engine's documented choice), and only what is held is traded. Each goes on until the ratio is above 1
(README; addendum 3i proposes to stop at 1.11).
"""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from tests.oracle.book import Position
from tests.oracle.contract import ZERO
from tests.oracle.option import OptionPosition
from tests.oracle.portfolio import Portfolio
from tests.oracle.unit import PAIRS, Leg, Unit, hedged

EVEN = 1 + Decimal("1e-9")
Cuts = dict[str, Decimal]
"""Contracts to close, positive, by symbol."""


def next_step(wealth: Portfolio) -> tuple[Cuts, str]:
    """The first step, in the rule table's order, that has something to do; units that ask for most come first."""
    units = sorted((now for now, _ in wealth.units), key=lambda unit: (-unit.maintenance, unit.name))
    row = wealth.terms.ladder
    for step in row.steps:
        for unit in units:
            cuts = STEPS[step](wealth, unit, row)
            if cuts:
                return cuts, step.replace("_", " ").replace("pairs", "pair")
    return {}, ""


def stablecoin_hedge(wealth: Portfolio, unit: Unit, row: Any) -> Cuts:
    """Where MR9 is the largest charge: the largest pair of settlement coins is closed against each other."""
    if unit.dominant != "MR9":
        return {}
    sides = unit.sides()
    for (a, b), volume in sorted(zip(PAIRS, hedged(sides), strict=True), key=lambda one: -one[1]):
        legs = [largest([leg for leg in unit.legs if leg.side == side and leg.cash_delta * sides[side] > 0])
                for side in (a, b)]
        if volume and (cuts := pair(wealth, legs, volume, row)):
            return cuts
    return {}


def dynamic_delta_hedge(wealth: Portfolio, unit: Unit, row: Any) -> Cuts:
    """In a unit with options whose MR1 is the largest charge: the nearest contract that drives the delta is reduced by
    a slice of the net delta.
    """
    if not unit.options or unit.dominant != "MR1":
        return {}
    net = unit.cash_delta
    for leg in sorted(unit.legs, key=lambda leg: (leg.tenor, leg.contract.symbol)):
        if leg.cash_delta * net <= 0:
            continue
        each = abs(leg.cash_delta / leg.size)
        size = lots(leg, abs(net) * row.hedge_slice / each, min(abs(net) / each, abs(leg.size)))
        if size and relieves(wealth, {leg.contract.symbol: size}):
            return {leg.contract.symbol: size}
    return {}


def basis_pairs(wealth: Portfolio, unit: Unit, row: Any) -> Cuts:
    """Opposite positions of different tenors, the largest of each side first."""
    long = largest([leg for leg in unit.legs if leg.cash_delta > 0])
    if long is None:
        return {}
    short = largest([leg for leg in unit.legs if leg.cash_delta < 0 and leg.tenor != long.tenor])
    return pair(wealth, [long, short], float("inf"), row)


def general_reduction(wealth: Portfolio, unit: Unit, row: Any) -> Cuts:
    """A slice of the unit's contracts; where that frees nothing, of all it holds; where lots are too coarse, whole."""
    if unit.maintenance <= 0:
        return {}
    contracts = {leg.contract.symbol for leg in unit.legs}
    everything = contracts | {leg.contract.symbol for leg in unit.options}
    held: dict[str, Position | OptionPosition] = {p.contract.symbol: p for p in wealth.book.held("cross")}
    held |= wealth.book.options
    for share, group in ((row.liquidation_slice, contracts), (row.liquidation_slice, everything), (1.0, everything)):
        cuts = {}
        for symbol in sorted(group):
            position = held[symbol]
            size, lot = abs(position.size), position.contract.lot
            cuts[symbol] = min(max(whole(size * Decimal(str(share)), lot), lot), size)
        if cuts and relieves(wealth, cuts):
            return cuts
    return {}


STEPS = {"stablecoin_hedge": stablecoin_hedge, "dynamic_delta_hedge": dynamic_delta_hedge, "basis_pairs": basis_pairs,
         "general_reduction": general_reduction}


def largest(legs: list[Leg]) -> Leg | None:
    return min(legs, key=lambda leg: (-abs(leg.cash_delta), leg.contract.symbol)) if legs else None


def pair(wealth: Portfolio, legs: list[Leg | None], volume: float, row: Any) -> Cuts:
    """A slice closed on both legs by the same cash delta, whole where a lot is more than the slice."""
    both = [leg for leg in legs if leg is not None]
    if len(both) < 2:
        return {}
    most = min(volume, *(abs(leg.cash_delta) for leg in both))
    for share in (row.hedge_slice, 1.0):
        cuts = {leg.contract.symbol: lots(leg, most * share / abs(leg.cash_delta / leg.size), abs(leg.size))
                for leg in both}
        if relieves(wealth, cuts):
            return cuts
    return {}


def whole(size: Decimal, lot: Decimal) -> Decimal:
    """Down to whole lots; a float a hair below one is one."""
    return (size / lot + Decimal("1e-9")).to_integral_value(ROUND_FLOOR) * lot


def lots(leg: Leg, size: float, most: float) -> Decimal:
    """Whole lots, at least one, at most `most`."""
    lot = leg.contract.lot
    wanted, limit = max(whole(Decimal(size), lot), lot), Decimal(most)
    return wanted if wanted <= limit * EVEN else whole(limit, lot)


def relieves(wealth: Portfolio, cuts: Cuts) -> bool:
    """What is required falls when these are closed at the mark, profits and premiums in the balances."""
    if not any(cuts.values()):
        return False
    now, then = wealth.required(), closed(wealth, cuts).required()
    return then < now - (EVEN - 1) * max(Decimal(1), now)


def closed(wealth: Portfolio, cuts: Cuts) -> Portfolio:
    book, cash = wealth.book, dict(wealth.book.cash)
    positions: dict[Any, Position] = {}
    for key, position in book.positions.items():
        if position.mode == "isolated":
            positions[key] = position
            continue
        cut = cuts.get(position.contract.symbol, ZERO)
        part = cut if position.size > 0 else -cut
        settle = position.contract.settle
        cash[settle] = cash.get(settle, ZERO) + position.upl(wealth.prices) * cut / abs(position.size)
        if position.size != part:
            positions[key] = replace(position, size=position.size - part)
    options: dict[str, OptionPosition] = {}
    for symbol, option in book.options.items():
        cut = cuts.get(symbol, ZERO)
        part = cut if option.size > 0 else -cut
        coin = option.contract.coin
        cash[coin] = cash.get(coin, ZERO) + part * option.contract.unit * wealth.prices[symbol]
        if option.size != part:
            options[symbol] = replace(option, size=option.size - part)
    return wealth.but(cash=cash, positions=positions, options=options)
