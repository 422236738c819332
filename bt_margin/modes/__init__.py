"""How a pool is judged. A mode is a value: who stands in for whom, what counts, what is required, how it is undone."""

from __future__ import annotations

from bt_margin.errors import InputError, NotSupported
from bt_margin.modes.base import MarginMode
from bt_margin.modes.cross import CROSS
from bt_margin.modes.isolated import ISOLATED

MODES: dict[str, MarginMode] = {mode.name: mode for mode in (ISOLATED, CROSS)}
PLANNED = ("multi-currency", "portfolio")


def mode_named(name: str) -> MarginMode:
    """The mode of that name. Raises InputError for an unknown one, NotSupported for one not built yet."""
    if name in MODES:
        return MODES[name]
    if name in PLANNED:
        raise NotSupported(f"mode: {name} is not built yet; use one of {', '.join(MODES)}")
    raise InputError(f"mode: expected one of {', '.join(MODES)}, found {name!r}")
