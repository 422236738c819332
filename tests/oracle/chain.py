"""The options of a script: which there are, and forwards and marks by a vol of each that drifts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from random import Random

from tests.oracle.option import Option, coin_price
from tests.oracle.scenario import option_of

STRIKES = (0.75, 0.85, 0.95, 1.0, 1.1, 1.3)


class Chain:
    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.options: dict[str, Option] = {}
        self.vols: dict[str, float] = {}

    def list(self, coins: Iterable[str], index: Mapping[str, float], time: int, expiries: tuple[str, ...],
             counts: tuple[int, ...], weights: tuple[int, ...]) -> None:
        """Some options of each coin; Solana has none."""
        dice = self.dice
        for coin in coins:
            for _ in range(dice.choices(counts, weights)[0] if coin in ("BTC", "ETH") else 0):
                strike = float(f"{index[f'{coin}/USD'] * dice.choice(STRIKES):.2g}")
                symbol = f"{coin}/USD:{coin}-{dice.choice(expiries)}-{strike:.0f}-{dice.choice('CP')}"
                self.options[symbol] = option_of(symbol, time)
                self.vols[symbol] = round(dice.uniform(0.4, 1.0), 4)

    def forwards(self, index: Mapping[str, float], time: int) -> dict[str, float]:
        return {o.forward: round(index[f"{o.coin}/USD"] * (1 + 0.05 * o.years(time)), 2)
                for o in self.options.values()}

    def marks(self, index: Mapping[str, float], time: int) -> dict[str, float]:
        """By the vol of each; not below a tick of the sixth decimal, as quoted."""
        forwards = self.forwards(index, time)
        return {s: max(round(coin_price(o, forwards[o.forward], o.years(time), self.vols[s]), 12), 1e-6)
                for s, o in self.options.items()}

    def drift(self) -> None:
        for symbol in self.vols:
            moved = self.vols[symbol] * math.exp(self.dice.gauss(0, 0.1))
            self.vols[symbol] = round(min(max(moved, 0.3), 1.6), 4)
