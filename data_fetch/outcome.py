"""What a fetch tells: how far it is, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_fetch.manifest import Gap, SeriesKey


@dataclass
class Progress:
    """How far a series is: `done` of `total` ms of its span, rows and requests so far."""

    key: SeriesKey
    total: int
    done: int = 0
    rows: int = 0
    requests: int = 0
    retries: int = 0
    note: str = ""


@dataclass
class Outcome:
    """What one series' fetch came to."""

    key: SeriesKey
    lo: int
    hi: int
    rows: int = 0
    new_rows: int = 0
    requests: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    forming_ms: int | None = None
    content: str = ""

    @property
    def complete(self) -> bool:
        """Whether the venue answered for all of the span, the bar that is still open apart; candles of nothing at all
        are no answer, even where it is known why (before the listing, say)."""
        end = self.hi if self.forming_ms is None else self.forming_ms
        if self.key.step_ms and not self.rows and self.lo < end:
            return False
        return not self.failures and not any(
            gap.why in ("not asked", "beyond horizon") and gap.lo < end for gap in self.gaps
        )
