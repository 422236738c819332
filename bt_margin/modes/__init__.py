"""How a pool is judged. A mode is a value: who stands in for whom, what counts, what is required, how it is undone."""

from __future__ import annotations

from bt_margin.errors import InputError
from bt_margin.modes.base import MarginMode
from bt_margin.modes.cross import CROSS
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.multi_currency import MULTI_CURRENCY
from bt_margin.modes.portfolio import PORTFOLIO

MODES: dict[str, MarginMode] = {mode.name: mode for mode in (ISOLATED, CROSS, MULTI_CURRENCY, PORTFOLIO)}
"""Every mode, by the name on the command line."""


def mode_named(name: str) -> MarginMode:
    """The mode of that name. Raises InputError for an unknown one."""
    if name in MODES:
        return MODES[name]
    raise InputError(f"mode: expected one of {', '.join(MODES)}, found {name!r}")
