"""Whose row speaks for a symbol: its own, that of its family, and for expiry futures that of the swap.

`BTC/USDT:USDT-*` is all expiry futures of a family, `BTC/USD:BTC-*-*` all its options.
"""

from __future__ import annotations

from bt_margin.model.instrument import Kind, parse

_FUTURES = (Kind.LINEAR_FUTURE, Kind.INVERSE_FUTURE)


def candidates(symbol: str) -> tuple[str, ...]:
    """Subjects to look under, nearest kin first. Raises InputError when it is no symbol."""
    kind = parse(symbol).kind
    swap = symbol.partition("-")[0]
    if kind in _FUTURES:
        return symbol, f"{swap}-*", swap
    return (symbol, f"{swap}-*-*") if kind is Kind.OPTION else (symbol,)


def borrows(symbol: str, subject: str) -> bool:
    """True when `subject` is the swap that stands in for a future."""
    return subject != symbol and not subject.endswith("*")
