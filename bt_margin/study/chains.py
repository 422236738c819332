"""Options for the strategies that trade them: priced by model from the daily volatility index, which a study brings.

A strategy says what it needs by a class method `option_feeds(underlying, vols, params)`, names the `underlying` by its
attribute `options_on`, one of its `symbols`, and by `option_like` an option of the family it will trade. A bar is
priced by the close of the index that was known when the bar opened, and a close is known when its day has ended. Where
none is in force the verdict is `no data`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bt_margin.errors import InputError
from bt_margin.model.moment import DAY, iso
from bt_margin.study.strategies import symbols_of
from bt_margin.study.windows import Window


def trades_options(strategy: Any) -> bool:
    """True when the strategy asks for option feeds."""
    return callable(getattr(strategy, "option_feeds", None))


def ruled_by(strategy: Any) -> tuple[str, ...]:
    """Whose rules a run leans on: the strategy's symbols and, as `option_like`, one option for all of its family."""
    return (*symbols_of(strategy), *([strategy.option_like] if trades_options(strategy) else []))


def priced(window: Window) -> Window:
    """The window from its first instant with a vol in force. Raises data_fetch.DataError where there is none."""
    from data_fetch import DataError, Samples

    found = Samples().dvol(window.since - 2 * DAY, window.until)
    first = None if found is None else max(window.since, int(found.known_ms[0]))
    if found is None or first is None or first >= window.until or np.isnan(found.in_force(first)):
        raise DataError(
            f"no implied vol from {iso(window.since)} to {iso(window.until)}: expected daily closes of Deribit's BTC "
            "index, which exist from 2022-11-06 and are embedded for 2022-11-08, 2024-08-05 and 2025-10-10; "
            "choose one of these windows"
        )
    return replace(window, since=first)


def vol_label(window: Window) -> str:
    """What the options of a `priced` window are priced from, for the reader of a result."""
    return ("implied vol the daily closes of Deribit's BTC-DVOL, each from the end of its day on, here from "
            f"{iso(window.since)}; index and forward the perpetual's mark")


def option_feeds(strategy: Any, window: Window, history: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """The feeds the strategy asks for, beside `history` (its `symbols` in order, which begin where `priced` says).

    Raises data_fetch.DataError where a bar opens without a vol in force; InputError where `options_on` is no symbol.
    """
    from data_fetch import DataError, Samples

    names, on = [feed.p.name for feed in history], getattr(strategy, "options_on", None)
    if on not in names:
        raise InputError(f"options_on: expected one of the strategy's symbols, {', '.join(names)}, found {on!r}")
    underlying = history[names.index(on)]
    close_ms = np.asarray(underlying.p.close_ms, dtype=np.int64)
    opens = close_ms - (int(close_ms[0]) - underlying.first_ms)
    found = Samples().dvol(window.since - 2 * DAY, window.until)
    vols = np.full(len(opens), np.nan) if found is None else found.in_force(opens) / 100.0
    if np.isnan(vols).any():
        raise DataError(f"no implied vol from {iso(int(opens[np.argmax(np.isnan(vols))]))} on: the window leaves the "
                        "days of the embedded BTC index; cut it")
    return list(strategy.option_feeds(underlying, vols, {**dict(strategy.params._getpairs()), **params}))
