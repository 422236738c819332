"""When a fill belongs on a bar's path. backtrader has decided that an order fills in the bar, and at which price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backtrader import Order as BtOrder

from bt_margin.plugin.orders import STOP_LIMITS

BEFORE_OPEN, AT_OPEN, ON_PATH, AT_CLOSE = range(4)


@dataclass(slots=True)
class Candidate:
    """An order that backtrader would fill in this bar, before the path has decided when."""

    order: Any
    ago: int
    price: float
    stamp: float  # execution time as backtrader reports it
    when: int
    level: float = 0.0  # on the path: the last price that has to be met
    after: float | None = None  # ... once this stop has been met
    maker: bool = False


def candidate(order: Any, ago: int, price: float, stamp: float, on_close: bool, rested: bool) -> Candidate:
    """When on the bar's path the fill belongs: before it, at the open, at a level, after a stop, or at the close.

    `on_close`: cheat-on-close, at the price of the bar it was made in. `rested`: the order lay in the book before the
    bar began, as a limit. A limit the open crosses takes liquidity when it is new and makes it when it rested; a
    limit met later makes it.
    """
    found = Candidate(order, ago, price, stamp, AT_OPEN)
    kinds, buy, data = BtOrder, order.isbuy(), order.data
    if order.exectype == kinds.Market:
        found.when = BEFORE_OPEN if on_close else AT_OPEN
        return found
    if order.exectype == kinds.Close:
        found.when = BEFORE_OPEN if ago else AT_CLOSE  # -1: the session's last bar was the one before
        return found
    tick_open = getattr(data, "tick_open", None)
    open_ = data.open[0] if tick_open is None else tick_open
    is_stop_limit = order.exectype in STOP_LIMITS
    limit = order.created.pricelimit if is_stop_limit else order.created.price

    def crosses(price: float) -> bool:
        return bool(price <= limit if buy else price >= limit)

    def on_path(level: float, after: float | None = None, maker: bool = False) -> Candidate:
        found.when, found.level, found.after, found.maker = ON_PATH, level, after, maker
        return found

    if order.exectype == kinds.Limit or (is_stop_limit and rested):
        if not crosses(open_):
            return on_path(limit, maker=True)
        found.maker = rested
        return found
    stop = order.created.price
    if (open_ >= stop) if buy else (open_ <= stop):  # met by the open itself
        if is_stop_limit and not crosses(open_):
            return on_path(limit, maker=True)
        return found
    if is_stop_limit and price == limit != stop:
        return on_path(limit, after=stop, maker=True)
    return on_path(stop)


def timeline(found: Sequence[Candidate], paths: dict[str, tuple[float, ...]]) -> list[tuple[float, Candidate]]:
    """The candidates that fill after the open, with their place on the path, in the order the price meets them."""
    placed = []
    for i, fill in enumerate(found):
        if fill.when not in (ON_PATH, AT_CLOSE):
            continue
        points = paths[fill.order.data._name]
        at = float(len(points) - 1)
        if fill.when == ON_PATH:
            start = 0.0 if fill.after is None else meeting(points, fill.after)
            at = meeting(points, fill.level, start)
        placed.append((at, i, fill))
    placed.sort(key=lambda row: row[:2])
    return [(at, fill) for at, _, fill in placed]


def meeting(points: Sequence[float], level: float, after: float = 0.0) -> float:
    """Where on the path (leg number + share of the leg) the price first meets `level`, at or after `after`.

    A level the path never meets is taken at its end: backtrader has decided that the order fills in this bar.
    """
    for leg in range(int(after), len(points) - 1):
        start, end = points[leg], points[leg + 1]
        here = after - leg
        if here > 0:  # the leg is entered part of the way
            start = start + (end - start) * here
        if min(start, end) <= level <= max(start, end):
            share = 0.0 if end == start else (level - start) / (end - start)
            return leg + max(0.0, here) + share * (1.0 - max(0.0, here))
    return float(len(points) - 1)
