"""A cell of a study as plain data: what any executor can carry, and what its settings and its rules follow from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bt_margin.engine.clock import ModeSwitch
from bt_margin.model.moment import parse_time
from bt_margin.model.number import Number
from bt_margin.modes import MODES, mode_named
from bt_margin.rules.book import Rules, load_rules
from bt_margin.study.windows import Window


@dataclass(frozen=True, slots=True)
class Task:
    """One cell. Plain data: any executor can carry it."""

    strategy: str
    mode: str
    window: Window
    leverage: float
    cash: Mapping[str, float]
    setting: float | None = None
    rules_as_of: str = "then"
    path: str = "adverse"
    strict: bool = False
    store: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    interest: Mapping[str, float] = field(default_factory=dict)
    borrow: Mapping[str, Any] = field(default_factory=dict)
    switches: tuple[ModeSwitch, ...] = ()

    @property
    def rules_time(self) -> int:
        """When the rules are taken that are needed before the run begins, ms UTC."""
        return self.window.since if self.rules_as_of == "then" else parse_time(self.rules_as_of, "rules_as_of")


def modes_named(modes: Sequence[str] | str) -> tuple[str, ...]:
    """One name, some, or "all". Raises InputError for a name that is none."""
    names = tuple(MODES) if modes == "all" else tuple([modes] if isinstance(modes, str) else modes)
    for name in names:
        mode_named(name)
    return names


def settings(task: Task, symbols: Iterable[str]) -> dict[str, float]:
    """OKX's leverage setting of every contract among the symbols."""
    rules = load_rules("okx").as_of(task.rules_time, "nearest")
    contracts = [symbol for symbol in symbols if not rules.instrument(symbol).is_spot]
    return {symbol: float(found)
            for symbol, found in contract_settings(rules, contracts, task.leverage, task.setting).items()}


def contract_settings(
    rules: Rules, symbols: Iterable[str], leverage: Number, asked: float | None
) -> dict[str, Number]:
    """OKX's leverage setting by contract, of one exposure or an array of them: as asked, else twice the exposure, at
    least 1, capped by the tier. So isolated posts half the equity and cross keeps the other half."""
    wanted = 2 * leverage if asked is None else np.full(np.shape(leverage), asked)[()]
    return {symbol: np.clip(wanted, 1.0, rules.tiers(symbol).max_leverage) for symbol in symbols}
