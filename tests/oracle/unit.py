"""A risk unit of portfolio margin: MR1 to MR9, one number at a time (okx-portfolio-margin.md, sections 2 to 4;
addendum, sections 2 and 3; what is inferred there is the rule table's, which is data). USD, floats: options have no
decimals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.oracle.book import Prices
from tests.oracle.contract import Contract
from tests.oracle.option import Option, coin_price, delta, implied_vol

SIDES = ("USDT", "USDC", "USD")
PAIRS = (("USDT", "USD"), ("USDT", "USDC"), ("USDC", "USD"))
"""MR9: who hedges whom, in this order; both are reduced before the next pair (section 3.8)."""
SPOT = -1
"""The tenor of spot in use; perpetuals have 0, the rest their expiry."""
COMPARED = ("MR1", "MR4", "MR6", "MR7", "MR9")
TIE = 1.0 - 1e-12


@dataclass(frozen=True)
class UnitTerms:
    """Rows of the rule tables for a coin: what every unit needs, what options need (or None), MR9."""

    coin: Any
    options: Any
    depeg: Any


@dataclass
class Leg:
    """A swap or a future: contracts, what a relative move of 1 gains, cash delta, coins, tenor, side of MR9."""

    contract: Contract
    size: float
    slope: float
    cash_delta: float
    coins: float
    tenor: int
    years: float
    side: str


@dataclass
class OptionLeg:
    contract: Option
    coins: float
    index: float
    forward: float
    years: float
    vol: float
    price: float
    cash_delta: float
    net_coins: float

    def gain(self, move: float, vol: float) -> float:
        """In coin, valued at the shocked price (addendum 2.1); sticky strike, the forward moves alike."""
        then = coin_price(self.contract, self.forward * (1.0 + move), self.years, vol)
        return self.coins * self.index * (1.0 + move) * (then - self.price)

    @property
    def value(self) -> float:
        return self.coins * self.index * self.price


@dataclass
class Unit:
    """What a unit holds, judged. `charges` by name."""

    name: str
    legs: list[Leg]
    options: list[OptionLeg]
    spot: float
    worth: float
    charges: dict[str, float] = field(default_factory=dict)

    @property
    def cash_delta(self) -> float:
        contracts, options = (sum(leg.cash_delta for leg in legs) for legs in (self.legs, self.options))
        return self.worth + contracts + options

    @property
    def maintenance(self) -> float:
        """max(stress, MR7), stress = max(MR1, MR2, MR6) + MR3 + MR4 + MR5 + MR9 (section 4)."""
        c = self.charges
        stress = max(c["MR1"], c["MR2"], c["MR6"]) + c["MR3"] + c["MR4"] + c["MR5"] + c["MR9"]
        return max(stress, c["MR7"])

    @property
    def dominant(self) -> str:
        most = max(self.charges[name] for name in COMPARED)
        return next(name for name in COMPARED if self.charges[name] >= most * TIE)

    def sides(self) -> dict[str, float]:
        """Cash delta by settlement coin; options and coin-settled contracts are on the side of USD."""
        found = dict.fromkeys(SIDES, 0.0)
        for leg in self.legs:
            found[leg.side] += leg.cash_delta
        for option in self.options:
            found["USD"] += option.cash_delta
        return found


def leg_of(contract: Contract, size: float, prices: Prices, time: int) -> Leg:
    """Linear: n x index x move x USD of the quote, cash delta at the mark; inverse: face x move x index / mark, cash
    delta its face (section 3.1, addendum 2.1).
    """
    mark, units = float(prices[contract.symbol]), size * float(contract.unit)
    side = "USD" if not contract.linear else contract.settle
    years = max(contract.expiry - time, 0) / (365 * 86_400_000) if contract.expiry else 0.0
    if not contract.linear:
        index = float(prices[f"{contract.coin}/USD"])
        return Leg(contract, size, units * index / mark, units, units / mark, contract.expiry, years, side)
    index, usd = float(prices[f"{contract.coin}/{contract.settle}"]), float(prices[f"{contract.settle}/USD"])
    return Leg(contract, size, units * index * usd, units * mark * usd, units, contract.expiry, years, side)


def option_leg(contract: Option, size: float, prices: Prices, time: int, rule: str) -> OptionLeg:
    forward, mark = float(prices[f"forward {contract.forward}"]), float(prices[contract.symbol])
    years, coins, index = contract.years(time), size * float(contract.unit), float(prices[f"{contract.coin}/USD"])
    vol = implied_vol(contract, mark, forward, years)
    slope = delta(contract, forward, years, vol, rule)
    return OptionLeg(contract, coins, index, forward, years, vol, coin_price(contract, forward, years, vol),
                     coins * slope * index, coins * slope)


def judge_unit(name: str, coin: str, contracts: list[tuple[Contract, float]], options: list[tuple[Option, float]],
               spot: float | None, prices: Prices, time: int, terms: UnitTerms) -> Unit:
    """`spot`: coins that may join, None where none does: as many as hedge the derivatives' delta (section 2.2)."""
    row = terms.coin
    legs = [leg_of(contract, size, prices, time) for contract, size in contracts]
    held = [option_leg(contract, size, prices, time, row.option_delta) for contract, size in options]
    net = sum(leg.coins for leg in legs) + sum(leg.net_coins for leg in held)
    used = 0.0
    if spot is not None and net * spot < 0.0:
        used = min(abs(net), abs(spot)) * (1.0 if spot > 0 else -1.0)
    unit = Unit(name, legs, held, used, used * float(prices[f"{coin}/USD"]))
    slope = unit.worth + sum(leg.slope for leg in legs)
    unit.charges = {
        "MR1": mr1(slope, held, row.mr1_moves, terms.options),
        "MR2": 0.0, "MR3": 0.0, "MR4": mr4(unit, row), "MR5": 0.0,
        "MR6": row.mr6_factor * max(0.0, *(-slope * m - sum(leg.gain(m, leg.vol) for leg in held)
                                          for m in (row.mr6_move, -row.mr6_move))),
        "MR7": mr7(unit, row, terms.options),
        "MR9": mr9(unit, prices, terms.depeg),
    }
    if held:
        unit.charges["MR2"] = mr2(held, terms.options)
        unit.charges["MR3"] = mr3(held, terms.options)
    return unit


def points(leg: OptionLeg, at_30d: float, cap: float, row: Any) -> float:
    """min(cap, at 30 days x (30 / days)^p) (addendum 3a)."""
    days = leg.years * 365
    if days <= 0.0:
        return cap
    power = row.vol_power_short if days < 30 else row.vol_power_long
    return float(min(cap, at_30d * (30.0 / days) ** power))


def vol_points(leg: OptionLeg, row: Any) -> float:
    return points(leg, row.vol_points_30d, row.vol_points_cap, row)


def mr1(slope: float, held: list[OptionLeg], moves: tuple[float, ...], row: Any) -> float:
    """The largest loss over seven prices and vols up, same, down; up and down by the larger of points and per cent."""
    worst = 0.0
    shifts = [max(vol_points(leg, row) / 100, points(leg, row.vol_percent_30d, row.vol_percent_cap, row) * leg.vol)
              for leg in held]
    for move in (0.0, *moves, *(-m for m in moves)):
        for direction in (1, 0, -1) if held else (0,):
            total = slope * move
            for leg, shift in zip(held, shifts, strict=True):
                vol = leg.vol + direction * shift
                if direction < 0:
                    vol = max(vol, min(leg.vol, row.vol_floor))
                total += leg.gain(move, vol)
            worst = max(worst, -total)
    return worst


def mr2(held: list[OptionLeg], row: Any) -> float:
    """A share of one day's change of value, forward and vol unchanged (addendum 2.1, 3b)."""
    change = sum(leg.coins * leg.index
                 * (coin_price(leg.contract, leg.forward, leg.years - row.mr2_days / 365, leg.vol) - leg.price)
                 for leg in held)
    return float(row.mr2_factor * abs(change))


def mr3(held: list[OptionLeg], row: Any) -> float:
    """A share of what expiries offset of each other when every vol rises (addendum 3c)."""
    assert row.mr3_kind == "deribit_v1"
    by_expiry: dict[int, float] = {}
    for leg in held:
        risen = coin_price(leg.contract, leg.forward, leg.years, leg.vol + vol_points(leg, row) / 100)
        by_expiry.setdefault(leg.contract.expiry, 0.0)
        by_expiry[leg.contract.expiry] += leg.coins * leg.index * (risen - leg.price)
    gains = sum(x for x in by_expiry.values() if x > 0)
    losses = sum(-x for x in by_expiry.values() if x < 0)
    return float(row.mr3_factor * min(gains, losses))


def mr4(unit: Unit, row: Any) -> float:
    """Since the merge every tenor for itself, |cash delta| x max(floor, rate x years); before, what tenors offset of
    each other, long against short, spot first, then in order of time (addendum 2.3, 3f).
    """
    deltas, years = {SPOT: unit.worth}, {SPOT: 0.0}
    for leg in unit.legs:
        deltas[leg.tenor] = deltas.get(leg.tenor, 0.0) + leg.cash_delta
        years[leg.tenor] = leg.years
    for option in unit.options:
        expiry = option.contract.expiry
        deltas[expiry] = deltas.get(expiry, 0.0) + option.cash_delta
        years[expiry] = option.years
    if row.mr4_kind == "tenors":
        return float(sum(abs(deltas[t]) * max(row.mr4_floor, row.mr4_rate * years[t]) for t in deltas))
    longs = [[t, deltas[t]] for t in sorted(deltas) if deltas[t] > 0]
    shorts = [[t, -deltas[t]] for t in sorted(deltas) if deltas[t] < 0]
    total = 0.0
    while longs and shorts:
        (a, long), (b, short) = longs[0], shorts[0]
        matched = min(long, short)
        rate = row.mr4_rate * abs(years[int(a)] - years[int(b)])
        total += matched * max(rate, row.mr4_spot_rate if SPOT in (a, b) else 0.0)
        longs[0][1], shorts[0][1] = long - matched, short - matched
        longs, shorts = ([x for x in side if x[1] > 0] for side in (longs, shorts))
    return total


def mr7(unit: Unit, row: Any, options: Any) -> float:
    """Raw closing costs, hedges not netted, on a progressive scale (section 3.6, addendum 3g)."""
    raw = row.mr7_spot * abs(unit.worth) + row.mr7_delta_one * sum(abs(leg.cash_delta) for leg in unit.legs)
    for leg in unit.options:
        size = abs(leg.coins) * leg.index
        raw += options.mr7_short_option * size if leg.coins < 0 else min(options.mr7_long_option * size, leg.value)
    return sliced(raw, [(bound, multiplier) for bound, multiplier in row.mr7_tiers])


def sliced(amount: float, tiers: list[tuple[float, float]]) -> float:
    total, below = 0.0, 0.0
    for bound, factor in tiers:
        total += max(0.0, min(amount, bound) - below) * factor
        below = bound
    return total


def hedged(sides: dict[str, float]) -> list[float]:
    """What each pair of settlement coins hedges: the smaller where the signs differ, taken off both."""
    left, volumes = dict(sides), []
    for a, b in PAIRS:
        volume = min(abs(left[a]), abs(left[b])) if left[a] * left[b] < 0 else 0.0
        for side in (a, b):
            left[side] -= volume if left[side] > 0 else -volume
        volumes.append(volume)
    return volumes


def mr9(unit: Unit, prices: Prices, row: Any) -> float:
    """Every volume slice by slice at the factor of its tier and of the pair's price (section 3.8, addendum 3e)."""
    total = 0.0
    for (a, b), volume in zip(PAIRS, hedged(unit.sides()), strict=True):
        if volume:
            price = float(prices[f"{a}/USD"]) / (1.0 if b == "USD" else float(prices[f"{b}/USD"]))
            if (a, b) == ("USDT", "USDC") and price > 1.0:
                price = 1.0 / price
            total += sliced(volume, [(tier[0], depeg(price, row.mr9_prices, tier[1:])) for tier in row.mr9_tiers])
    return total


def depeg(price: float, nodes: tuple[float, ...], factors: tuple[float, ...]) -> float:
    """Above the first price the tier's smallest factor; straight lines between the prices; the last one below."""
    above, *at = factors
    if price > nodes[0]:
        return above
    for (high, x), (low, y) in zip(zip(nodes, at, strict=True), zip(nodes[1:], at[1:], strict=False), strict=False):
        if price >= low:
            return y + (x - y) * (price - low) / (high - low)
    return at[-1]
