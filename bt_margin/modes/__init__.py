"""How a pool is judged. A mode is a value: who stands in for whom, what counts, what is required, how it is undone."""

from __future__ import annotations

from bt_margin.errors import InputError, NotSupported
from bt_margin.modes.base import MarginMode
from bt_margin.modes.cross import CROSS
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from bt_margin.modes.portfolio import PORTFOLIO

MODES: dict[str, MarginMode] = {mode.name: mode for mode in (ISOLATED, CROSS, MULTI_CURRENCY, PORTFOLIO)}
"""Modes that judge a book."""
PLAYED: dict[str, MarginMode] = {mode.name: mode for mode in (ISOLATED, CROSS)}
"""Modes that the engine, and so brokers and studies, can move through time."""


def mode_named(name: str) -> MarginMode:
    """The mode of that name. Raises InputError for an unknown one."""
    if name in MODES:
        return MODES[name]
    raise InputError(f"mode: expected one of {', '.join(MODES)}, found {name!r}")


def played_mode(name: str) -> MarginMode:
    """The mode of that name, for what moves through time. Raises NotSupported for one that only judges a book yet."""
    mode = mode_named(name)
    if name not in PLAYED:
        raise NotSupported(
            f"mode: {name} judges a book (`bt-margin margin`, PositionBuilder), but its debts, interest and "
            f"liquidation over time are not built yet; use one of {', '.join(PLAYED)}"
        )
    return mode
