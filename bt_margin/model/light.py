"""Values that are made anew at every judgement: frozen for whoever reads or checks the code, cheap to make.

What dataclasses do to keep an instance from being changed makes it five times as dear to make; a backtest makes
hundreds of thousands. So `@light(frozen=True)` is `@dataclass(frozen=True)` to the type checker, which refuses every
assignment to a field, and a plain dataclass when it runs: equal by value, without a hash. What users keep and pass on
(orders, positions, entries, events, the rows of reports but for their charges) is frozen at run time, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as light
else:

    def light(*, frozen: bool, **how: Any) -> Callable[[type[T]], type[T]]:
        """As `dataclass`, whose arguments it takes."""
        return dataclass(**how)


__all__ = ["light"]
