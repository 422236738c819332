"""What was found for the parts of a pool, kept while a part and the prices it is judged at stand as they stood.

A forced order changes one position of many, a search moves the prices of one coin: the others need no second look.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from bt_margin.model.market import Market

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

Answer = TypeVar("Answer")


class Kept(Generic[Answer]):
    """The last answer for each part, by its name, at one market under one set of rules.

    Runs in threads of one process share it: what is found belongs to the market that it was asked at, whatever others
    ask meanwhile.
    """

    def __init__(self) -> None:
        self._last: tuple[Market | None, Rules | None, dict[Hashable, tuple[tuple[object, ...], Answer]]]
        self._last = (None, None, {})

    def find(self, name: Hashable, coin: str, stands: tuple[object, ...], market: Market, rules: Rules | None,
             ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives, or gave for this part. `coin`: whose prices, beside those of settlement coins, it looks at;
        `stands`: all else that the answer depends on, compared by value."""
        still = market.still(coin)
        if still is None or any(isinstance(x, np.ndarray) for x in stands):
            return ask()
        there, under, answers = self._last
        if there is not still or under is not rules:
            answers = {}
            self._last = (still, rules, answers)
        known = answers.get(name)
        if known is None or not _alike(known[0], stands):
            known = answers[name] = (stands, ask())
        return known[1]


def _alike(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """True where both are equal; entry prices that are arrays over instants, as in a survival map, are never."""
    try:
        return one == other
    except ValueError:  # numpy's: whether arrays are equal has no one answer
        return False
