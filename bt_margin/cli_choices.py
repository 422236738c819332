"""What users choose on the command line of studies, checked: cash, borrowing, switches, paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bt_margin.errors import InputError


def cash(texts: Sequence[str]) -> dict[str, float] | None:
    """USDT=100000, repeatable; a bare number is USDT."""
    balances: dict[str, float] = {}
    for text in texts:
        currency, _, amount = text.rpartition("=")
        try:
            value = float(amount)
        except ValueError:
            raise InputError(f"cash: expected CURRENCY=AMOUNT such as USDT=100000, found {text!r}") from None
        if not 0 <= value < float("inf"):
            raise InputError(f"cash: expected an amount of zero or more, found {text!r}")
        balances[(currency or "USDT").upper()] = value
    return balances or None


def interest(texts: Sequence[str]) -> dict[str, float]:
    """USDT=0.12/y or USDT=0.0003/d, repeatable: yearly rates by currency."""
    rates: dict[str, float] = {}
    for text in texts:
        currency, _, amount = text.partition("=")
        number, _, unit = amount.partition("/")
        try:
            value = float(number) * {"": 1.0, "y": 1.0, "d": 365.0}[unit]
        except (ValueError, KeyError):
            value = -1.0
        if not currency or not 0 <= value < float("inf"):
            raise InputError(f"interest: expected CURRENCY=RATE/y or /d such as USDT=0.12/y, found {text!r}")
        rates[currency.upper()] = value
    return rates


def borrow(leverages: Sequence[str], auto: bool) -> dict[str, Any]:
    """Choices about borrowing, {} for the defaults."""
    chosen: dict[str, Any] = {} if auto else {"auto": False}
    for text in leverages:
        currency, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = 0.0
        if not currency or not 1 <= value < float("inf"):
            raise InputError(f"borrow_leverage: expected CURRENCY=LEVERAGE such as USDT=5, found {text!r}")
        chosen.setdefault("leverage", {})[currency.upper()] = value
    return chosen


def switches(texts: Sequence[str]) -> list[Any]:
    """TIME=MODE or TIME=MODE@LEVERAGE, repeatable."""
    from bt_margin.engine.clock import ModeSwitch
    from bt_margin.model.moment import parse_time

    found = []
    for text in texts:
        time, _, rest = text.partition("=")
        mode, _, leverage = rest.partition("@")
        try:
            setting = float(leverage) if leverage else None
        except ValueError:
            setting = 0.0
        if not mode or (setting is not None and not 1 <= setting < float("inf")):
            raise InputError(f"switch: expected TIME=MODE or TIME=MODE@LEVERAGE (2025-10-09=cross@10), found {text!r}")
        found.append(ModeSwitch(parse_time(time, "switch"), mode, setting))
    return found


def path(path: str) -> str:
    from bt_margin.plugin.path import PATHS

    if path not in PATHS:
        raise InputError(f"path: expected one of {', '.join(PATHS)}, found {path!r}")
    return path


def writable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"out: expected a folder, found the file {out}")


def assumptions(path: str, rules_as_of: str) -> list[str]:
    walks = {
        "adverse": "Each bar is walked open, the extreme that hurts the account, the other, close; all instruments' "
        "lows together and highs together, which is a bound.",
        "ohlc": "Each bar is walked open, high, low, close.",
        "close": "Each bar is judged at its open fills and its close only: wicks are not seen.",
    }
    return [
        walks[path],
        "Within a leg all prices move in a straight line; the first breach is solved for and forced orders trade at "
        "that mark. A jump from one bar's close to the next one's open is judged at the open.",
        "Forced orders trade at the mark without slippage and pay the taker fee and a penalty (closed notional x the "
        "maintenance rate of the closed size's tier); deleveraging is not simulated unless scripted.",
        "A whole account (multi-currency, portfolio) in breach sells its richest coin for what it owes, with "
        "fee and penalty (inferred); interest is charged at each full hour, by the rules' rates unless given.",
        "Fees of a regular level-1 account. Exposure = gross notional / starting equity, entered once and held; the "
        "leverage setting is twice the exposure unless given.",
        "Rules: each instant by the revision in force at that instant."
        if rules_as_of == "then"
        else f"Rules: all tables frozen at {rules_as_of}.",
    ]
