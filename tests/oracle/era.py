"""Which of the rules were in force when: the dates of the rule book, where a rule changed its shape."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@dataclass(frozen=True)
class Era:
    """Today's rules, unless told otherwise."""

    one_tier: bool = True
    """A forced order goes down one tier (recorded 2026; dated 2025-05-16 in liquidation.toml, inferred), before two."""
    larger_side: bool = True
    """One-way orders count by the larger side, since 2024-11-08 (rule book 6.2); before every opening part did."""
    order_loss: bool = True
    """An order's loss is part of its cost, since 2024-11-08 (rule book 6.1)."""
    full_funding: bool = True
    """Funding is collected in full, since 2024-07-01 06:00 (rule book 8); before down to a ratio of 1."""
    delivery_minutes: int = 60
    """The index before a delivery is averaged over an hour; since 2026-03-18 over 30 minutes (section 11)."""
    highest_first: bool = True
    """Forced repayment sells the highest discount rate first, since 2024-09-06 (multi-currency, section 5.1: the newer
    page; the day is that of its newest edition), before the lowest."""


def era_of(time: int) -> Era:
    return Era(time >= _ms("2025-05-16"), time >= _ms("2024-11-08"), time >= _ms("2024-11-08"),
               time >= _ms("2024-07-01T06:00"), 30 if time >= _ms("2026-03-18") else 60, time >= _ms("2024-09-06"))
