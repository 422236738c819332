"""Observers for backtrader's plots."""

from __future__ import annotations

from typing import Any, ClassVar

import backtrader as bt


class MarginRatio(bt.Observer):
    """The lowest margin ratio of the account's pools, in per cent. It FALLS as danger rises: 300 warns, 100 ends."""

    lines: Any = ("ratio",)
    plotinfo: ClassVar[dict[str, Any]] = {"plot": True, "subplot": True, "plothlines": [100.0, 300.0]}

    def next(self) -> None:
        broker = self._owner.broker
        if getattr(broker, "started", False):
            ratio = broker.instant().ratio
            self.lines.ratio[0] = float("nan") if ratio is None else ratio * 100.0
