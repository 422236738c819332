"""What a margin broker can be told: its own parameters, checked once, before anything runs."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from bt_margin.errors import InputError
from bt_margin.model.account import POSITION_MODES
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.moment import parse_time
from bt_margin.modes import MODES, mode_named
from bt_margin.plugin.path import PATHS
from bt_margin.rules.book import RuleBook, load_rules
from bt_margin.rules.credit import RateSeries
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
    mode_named(p.mode)
    for name, allowed in (
        ("path", PATHS), ("position_mode", POSITION_MODES), ("extrapolate", ("nearest", "never")),
    ):
        if getattr(p, name) not in allowed:
            raise InputError(f"{name}: expected one of {', '.join(allowed)}, found {getattr(p, name)!r}")
    for switch in p.switches:
        mode_named(switch.mode)
    if p.mode == "portfolio" and p.position_mode != "net":
        raise InputError(f"position_mode: portfolio margin is one-way; expected net, found {p.position_mode!r}")
    for currency, amount in opening_balances(p).items():
        if not isinstance(amount, numbers.Real) or not 0 <= amount < float("inf"):
            raise InputError(f"cash: expected amounts of zero or more, found {currency}={amount!r}")
    for currency, rate in entries(p.interest, "interest").items():
        known = isinstance(rate, numbers.Real) and not isinstance(rate, bool) and 0 <= float(rate) < float("inf")
        if not (known or isinstance(rate, RateSeries)):
            raise InputError(
                f"interest: expected yearly rates of zero or more, or a RateSeries, found {currency}={rate!r}"
            )
    modes = (p.mode, *(switch.mode for switch in p.switches))
    if p.borrow is not None and not any(mode_named(mode).whole for mode in modes):
        raise InputError(f"borrow: only where the account stands behind its debts as a whole, found mode {p.mode!r}")
    borrowing(p)
    if not 0 <= p.slippage < 1:
        raise InputError(f"slippage: expected a share of the price from 0 to below 1, found {p.slippage!r}")
    for value in p.leverage.values() if isinstance(p.leverage, Mapping) else (p.leverage,):
        if not isinstance(value, numbers.Real) or not 1 <= float(value) < float("inf"):
            raise InputError(f"leverage: expected a setting of 1 or more, found {value!r}")


def borrowing(p: Any) -> Borrowing:
    """What the account's owner chose about borrowing, in the shape of a book file's `borrow`."""
    wanted = dict(entries(p.borrow, "borrow"))
    auto, off = wanted.pop("auto", True), wanted.pop("collateral_off", ())
    leverage = entries(wanted.pop("leverage", {}), "borrow.leverage")
    if wanted:
        raise InputError(f"borrow: expected auto, leverage or collateral_off, found {next(iter(wanted))!r}")
    if not isinstance(auto, bool):
        raise InputError(f"borrow.auto: expected true or false, found {auto!r}")
    if not isinstance(off, (list, tuple, set, frozenset)) or not all(isinstance(coin, str) for coin in off):
        raise InputError(f"borrow.collateral_off: expected a list of currencies, found {off!r}")
    for currency, value in leverage.items():
        if not isinstance(value, numbers.Real) or not 1 <= float(value) < float("inf"):
            raise InputError(f"borrow.leverage.{currency}: expected a setting of 1 or more, found {value!r}")
    return Borrowing(auto, {currency: float(value) for currency, value in leverage.items()}, frozenset(off))


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
