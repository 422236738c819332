"""How numbers and instants are written on the page. What is unknown is n/a, never NaN."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

NOTHING = "n/a"


def known(value: Any) -> float | None:
    """A finite number, or None."""
    if value is None or isinstance(value, (str, bool)):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def number(value: Any, digits: int = 2) -> str:
    """1234567.891 -> 1,234,567.89; what is not a finite number is n/a."""
    figure = known(value)
    if figure is None:
        return NOTHING
    return f"{round(figure, digits) + 0.0:,.{digits}f}"


def money(value: Any) -> str:
    """For tables: whole units from 100 upwards, cents below."""
    figure = known(value)
    return NOTHING if figure is None else number(figure, 0 if abs(figure) >= 100 or figure == 0 else 2)


def price(value: Any) -> str:
    """Two decimals for thousands, about six digits for small coins."""
    figure = known(value)
    if figure is None:
        return NOTHING
    if figure == 0:
        return "0"
    digits = min(12, max(2, 5 - math.floor(math.log10(abs(figure)))) if abs(figure) < 1000 else 2)
    text = number(figure, digits)
    if digits <= 2:
        return text
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents.rstrip('0').ljust(2, '0')}"


def size(value: Any) -> str:
    """Contracts or coins, without a tail of zeros."""
    figure = known(value)
    return NOTHING if figure is None else f"{figure + 0.0:,.10f}".rstrip("0").rstrip(".")


def percent(value: Any, digits: int | None = None) -> str:
    """A number that already is in per cent: more digits for small ones."""
    figure = known(value)
    if figure is None:
        return NOTHING
    if digits is None:
        digits = 0 if abs(figure) >= 1000 else 1 if abs(figure) >= 10 else 2
    return f"{number(figure, digits)} %"


def ratio_percent(value: Any) -> str:
    """A margin ratio (1 = liquidation) in per cent."""
    figure = known(value)
    return NOTHING if figure is None else percent(figure * 100)


def moment(value: Any) -> str:
    """ms since 1970 (or ISO text) as 2025-10-10 21:14 UTC, seconds only where there are any."""
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return value
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    else:
        ms = known(value)
        if ms is None:
            return NOTHING
        at = datetime.fromtimestamp(ms / 1000, UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC" if at.second else "%Y-%m-%d %H:%M UTC")
