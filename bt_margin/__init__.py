"""bt_margin: leveraged crypto positions in backtrader, margined and liquidated the way OKX does it.

Public names load on first use, so that the position builder needs neither backtrader nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "MarginBroker": "bt_margin.plugin.broker",
    "MarginStrategy": "bt_margin.plugin.strategy",
    "Recorder": "bt_margin.plugin.analyzers",
    "MarginRatio": "bt_margin.plugin.observers",
    "PositionBuilder": "bt_margin.engine.builder",
    "MarginEngine": "bt_margin.engine.engine",
    "Account": "bt_margin.model.account",
    "Market": "bt_margin.model.market",
    "RuleBook": "bt_margin.rules.book",
    "load_rules": "bt_margin.rules.book",
    "Study": "bt_margin.study.study",
    "BtMarginError": "bt_margin.errors",
    "InputError": "bt_margin.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bt_margin' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
