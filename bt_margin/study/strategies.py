"""Finding strategies: the bundled ones next to this package, or `module:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bt_margin.errors import InputError
from bt_margin.model.number import usable
from bt_margin.study.sources import importing

BUNDLED = ("leveraged_long", "basis_carry", "pair_long_short", "short_strangle_hedged")
EXAMPLES = (*BUNDLED, "coin_collateral_long", "coin_carry", "luna_collateral")
"""All that `load` knows by name; what is beyond BUNDLED needs a mode or figures that not every cell has."""
_OWN = "bt_margin_bundled_"
DEFAULT_SYMBOLS = ("BTC/USDT:USDT",)


def load(spec: str) -> Any:
    """The strategy class of a bundled name or `module:Class`. Raises InputError when there is none.

    Bundled strategies are read from beside the installed bt_margin, so a user's own `strategies/` does no harm.
    """
    import backtrader as bt

    if spec in EXAMPLES:
        module, wanted = _bundled(spec), ""
    elif _is_path(spec):
        name, _, wanted = spec.partition(":")
        folder = os.getcwd()
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            with importing():
                module = importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"strategy: cannot import {name!r} of {spec!r}: {error}") from None
    else:
        raise InputError(f"strategy: expected one of {', '.join(EXAMPLES)} or module:Class, found {spec!r}")
    if wanted:
        found = getattr(module, wanted, None)
        if not (inspect.isclass(found) and issubclass(found, bt.Strategy)):
            raise InputError(f"strategy: {spec!r}: {wanted} is not a backtrader Strategy in that module")
        return found
    own = [
        value for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, bt.Strategy) and value.__module__ == module.__name__
    ]
    return own[0]


def _is_path(spec: str) -> bool:
    """True for the form of `module:Class`, of a module in packages or not."""
    name, _, wanted = spec.partition(":")
    return wanted.isidentifier() and all(part.isidentifier() for part in name.split("."))


def spec_of(strategy: type) -> str:
    """A class as other processes find it: its bundled name, or `module:Class`."""
    home = strategy.__module__
    if home.startswith(_OWN):
        return home.removeprefix(_OWN)
    if "." in strategy.__qualname__:
        raise InputError(f"strategy: expected a class at the top of its module, found {strategy.__qualname__}")
    return f"{home}:{strategy.__qualname__}"


def symbols_of(strategy: Any) -> tuple[str, ...]:
    """What a strategy trades: its `symbols`, else the BTC perpetual. Raises InputError for what are no names."""
    found = getattr(strategy, "symbols", ()) or DEFAULT_SYMBOLS
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        raise InputError(f"symbols: expected a list of names such as {DEFAULT_SYMBOLS}, found {found!r:.80}")
    return tuple(found)


def weights_of(strategy: Any) -> dict[str, float]:
    """Shares of the exposure that a strategy enters and holds, by symbol; {} for one that says none. Raises InputError
    for what are none."""
    found = getattr(strategy, "weights", {})
    if not isinstance(found, Mapping) or not all(
            isinstance(name, str) and isinstance(share, (int, float)) and usable(share)
            for name, share in found.items()):
        raise InputError(f"weights: expected numbers by symbol, found {found!r:.80}")
    return {name: float(share) for name, share in found.items() if share}


def takes_leverage(strategy: Any) -> bool:
    """True when the strategy declares a parameter `leverage`: it receives the exposure."""
    return "leverage" in strategy.params._getkeys()


def _bundled(name: str) -> ModuleType:
    full = f"{_OWN}{name}"
    if full in sys.modules:
        return sys.modules[full]
    path = Path(__file__).resolve().parents[2] / "strategies" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(full, path)
    if spec is None or spec.loader is None or not path.exists():
        raise InputError(f"strategy: the bundled {name} is missing at {path}; reinstall bt-margin")
    module = importlib.util.module_from_spec(spec)
    with importing():
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return module
