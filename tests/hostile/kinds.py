"""Every kind of hostile input."""

from __future__ import annotations

from tests.hostile import books, candles, commands, reports, stores, tables
from tests.hostile.law import Target

TARGETS: list[Target] = [
    target for module in (books, tables, stores, candles, commands, reports) for target in module.targets()
]
