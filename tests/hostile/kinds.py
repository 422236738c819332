"""Every kind of hostile input."""

from __future__ import annotations

from tests.hostile import books, candles, commands, reports, settings, stores, studies, tables
from tests.hostile.law import Target

TARGETS: list[Target] = [
    target
    for module in (books, tables, stores, candles, settings, studies, commands, reports)
    for target in module.targets()
]
