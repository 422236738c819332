"""What a margin broker can be told: its own parameters, checked once, before anything runs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from bt_margin.engine.clock import Deleveraging, ModeSwitch
from bt_margin.errors import InputError
from bt_margin.model.account import POSITION_MODES
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.moment import parse_time
from bt_margin.model.number import LARGEST, usable
from bt_margin.modes import MODES, mode_named
from bt_margin.plugin.path import PATHS
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.credit import RateSeries, yearly_rate
from bt_margin.rules.overlay import entries

OWN: dict[str, Any] = {
    "mode": None,
    "currency": "USDT",
    "rules": None,
    "rules_as_of": "then",
    "extrapolate": "nearest",
    "position_mode": "net",
    "leverage": 1.0,
    "path": "adverse",
    "fees": None,
    "instruments": None,
    "interest": None,
    "borrow": None,
    "deleveraging": (),
    "switches": (),
    "slippage": 0.0,
    "strict": False,
    "sleep": True,
    "min_value": 1e-9,
}
"""Parameters beyond the stock broker's. Without a mode they would do nothing, so that changing one is refused."""


def validate(p: Any) -> None:
    """Raise InputError for parameters that cannot be right. `p`: the broker's parameters."""
    if p.mode is None:
        asked = [name for name, default in OWN.items() if getattr(p, name) != default]
        asked += ["cash"] if isinstance(p.cash, Mapping) else []
        if asked:
            raise InputError(f"mode: expected one of {', '.join(MODES)} because {asked[0]} is given, found None")
        return
    for name, allowed in (
        ("mode", tuple(MODES)), ("path", PATHS), ("position_mode", POSITION_MODES),
        ("extrapolate", ("nearest", "never")), ("strict", (True, False)), ("sleep", (True, False)),
    ):
        value = getattr(p, name)
        if not isinstance(value, (str, bool)) or value not in allowed:
            raise InputError(f"{name}: expected one of {', '.join(map(str, allowed))}, found {value!r:.80}")
    if not isinstance(p.currency, str) or not p.currency:
        raise InputError(f"currency: expected a name such as USDT, found {p.currency!r:.80}")
    if p.rules is not None and not isinstance(p.rules, RuleBook):
        raise InputError(f"rules: expected a RuleBook such as load_rules('okx'), found {p.rules!r:.80}")
    for name, kind in (("switches", ModeSwitch), ("deleveraging", Deleveraging)):
        rows = getattr(p, name)
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, kind) for row in rows):
            raise InputError(f"{name}: expected a list of {kind.__name__}, found {rows!r:.80}")
    for switch in p.switches:
        mode_named(switch.mode)
    if p.mode == "portfolio" and p.position_mode != "net":
        raise InputError(f"position_mode: portfolio margin is one-way; expected net, found {p.position_mode!r}")
    for currency, amount in opening_balances(p).items():
        if not isinstance(currency, str) or not currency:
            raise InputError(f"cash: expected currencies such as USDT, found {currency!r:.80}")
        _number(amount, f"cash.{currency}", f"an amount of zero or more, up to {LARGEST:g}", 0.0, LARGEST)
    for currency, rate in entries(p.interest, "interest").items():
        if not isinstance(rate, RateSeries):
            path = f"interest.{currency}"
            yearly_rate(_number(rate, path, "a yearly rate or a RateSeries", -math.inf, math.inf), path)
    modes = (p.mode, *(switch.mode for switch in p.switches))
    if p.borrow is not None and not any(mode_named(mode).whole for mode in modes):
        raise InputError(f"borrow: only where the account stands behind its debts as a whole, found mode {p.mode!r}")
    borrowing(p)
    _number(p.min_value, "min_value", "a floor of zero or more", 0.0, LARGEST)
    if _number(p.slippage, "slippage", "a share of the price from 0 to below 1", 0.0, 1.0) == 1.0:
        raise InputError("slippage: expected a share of the price from 0 to below 1, found 1")
    for value in p.leverage.values() if isinstance(p.leverage, Mapping) else (p.leverage,):
        _number(value, "leverage", "a setting of 1 or more", 1.0, LARGEST)


def borrowing(p: Any) -> Borrowing:
    """What the account's owner chose about borrowing, in the shape of a book file's `borrow`."""
    wanted = dict(entries(p.borrow, "borrow"))
    auto, off = wanted.pop("auto", True), wanted.pop("collateral_off", ())
    leverage = entries(wanted.pop("leverage", {}), "borrow.leverage")
    if wanted:
        raise InputError(f"borrow: expected auto, leverage or collateral_off, found {next(iter(wanted))!r:.80}")
    if not isinstance(auto, bool):
        raise InputError(f"borrow.auto: expected true or false, found {auto!r:.80}")
    if not isinstance(off, (list, tuple, set, frozenset)) or not all(isinstance(coin, str) for coin in off):
        raise InputError(f"borrow.collateral_off: expected a list of currencies, found {off!r:.80}")
    settings = {currency: _number(value, f"borrow.leverage.{currency}", "a setting of 1 or more", 1.0, LARGEST)
                for currency, value in leverage.items()}
    return Borrowing(auto, settings, frozenset(off))


def _number(value: Any, path: str, expected: str, low: float, high: float) -> float:
    """A real number within bounds, zero or large enough to reckon with."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not low <= value <= high or not (math.isinf(high) or usable(float(value))):
        raise InputError(f"{path}: expected {expected}, found {value!r:.80}")
    return float(value)


def opening_balances(p: Any) -> dict[str, float]:
    """Coins at the start: `cash` by currency, or all of it in `currency`."""
    return dict(p.cash) if isinstance(p.cash, Mapping) else {p.currency: p.cash}


def rule_book(p: Any) -> RuleBook:
    """The rule book asked for, with its overlays, frozen at a date where one is asked for."""
    book: RuleBook = p.rules if p.rules is not None else load_rules("okx")
    if p.instruments or p.fees:
        book = book.overlay(instruments=p.instruments, fees=p.fees)
    if p.rules_as_of != "then":
        book = book.frozen_at(parse_time(str(p.rules_as_of), "rules_as_of"))
    return book
