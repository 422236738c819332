"""From a strategy's order to the venue's: options, legs, position keys, whole lots."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from backtrader import Order as BtOrder

from bt_margin.errors import InputError
from bt_margin.model.account import MARGIN_MODES, Order
from bt_margin.model.instrument import Instrument, is_symbol
from bt_margin.model.ledger import PositionKey
from bt_margin.plugin.bars import USD_PAIRS

POSITIONAL = (
    "price", "plimit", "exectype", "valid", "tradeid", "oco", "trailamount", "trailpercent", "parent", "transmit",
    "histnotify", "_checksubmit",
)
"""The stock broker's own arguments of buy and sell, in its order."""
ORDER_OPTIONS = frozenset(
    {"margin_mode", "leverage", "position_side", "margin_currency", "reduce_only", "reverse", "post_only"}
)
STOCK_OPTIONS = frozenset({"coc"})
_KNOWN = ORDER_OPTIONS | STOCK_OPTIONS | {*POSITIONAL}

TRIGGERS = (BtOrder.Stop, BtOrder.StopTrail, BtOrder.StopLimit, BtOrder.StopTrailLimit)
STOP_LIMITS = (BtOrder.StopLimit, BtOrder.StopTrailLimit)


class Leg:
    """One leg of a feed (a side in hedge mode, a margin mode): behaves like the feed itself in orders."""

    def __init__(self, data: Any, margin_mode: str, side: str) -> None:
        self._data = data
        self.margin_mode = margin_mode
        self.position_side = side

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_data":
            raise AttributeError(name)
        return getattr(self._data, name)

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True


def feed_of(data: Any) -> Any:
    """The feed behind a leg, or the feed itself."""
    return data._data if isinstance(data, Leg) else data


def options_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments after the size by name. Raises InputError for an option nobody knows."""
    options = {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}
    if not options.keys() <= _KNOWN:
        name = next(name for name in options if name not in _KNOWN)
        raise InputError(f"order option {name!r} is unknown; known are {', '.join(sorted(ORDER_OPTIONS))}")
    if options.get("post_only") and options.get("exectype") != BtOrder.Limit:
        raise InputError("post_only: expected a limit order (exectype=bt.Order.Limit), found another type")
    leverage = options.get("leverage")
    if leverage is not None and not (isinstance(leverage, numbers.Real) and 1 <= float(leverage) < float("inf")):
        raise InputError(f"leverage: expected a setting of 1 or more, found {leverage!r}")
    return options


def position_key(data: Any, instrument: Instrument, options: Mapping[str, Any], default_mode: str,
                 position_mode: str, whole: bool = False) -> PositionKey:
    """Which position an order (or a question) is about: what the options say, then the leg, then the broker.

    `whole`: the account stands behind its debts as a whole, so that cross spot takes out no loan of its own.
    """
    leg_mode, leg_side = (data.margin_mode, data.position_side) if isinstance(data, Leg) else (None, None)
    margin_mode = options.get("margin_mode") or leg_mode or default_mode
    side = options.get("position_side") or leg_side or "net"
    if margin_mode not in MARGIN_MODES:
        raise InputError(f"margin_mode: expected one of {', '.join(MARGIN_MODES)}, found {margin_mode!r}")
    if side not in ("net", "long", "short"):
        raise InputError(f"position_side: expected net, long or short, found {side!r}")
    if instrument.is_spot and side != "net":
        raise InputError(f"position_side: {instrument.symbol} has one position per margin mode, net; found {side!r}")
    if instrument.is_spot and margin_mode != "cash" and not is_symbol(instrument.symbol):
        raise InputError(f"margin_mode: {instrument.symbol} is no venue's pair, so nobody lends for it; expected cash")
    loans = ("isolated",) if whole else ("isolated", "cross")
    for name in ("margin_currency", "reverse"):
        if options.get(name) and not (instrument.is_spot and margin_mode in loans):
            raise InputError(f"{name}: only spot pairs in {' or '.join(loans)} margin take it; leave it out")
    if options.get("margin_currency") not in (None, "", instrument.base, instrument.quote):
        raise InputError(f"margin_currency: expected {instrument.base} or {instrument.quote}, "
                         f"found {options['margin_currency']!r}")
    if not instrument.is_spot and margin_mode == "cash":
        raise InputError(f"{instrument.symbol}: a derivative needs isolated or cross margin, found cash")
    if instrument.is_option and side != "net":
        raise InputError(f"{instrument.symbol}: options are always one-way; leave position_side out")
    if not (instrument.is_spot or instrument.is_option) and (side == "net") != (position_mode == "net"):
        expected = "net" if position_mode == "net" else "long or short"
        raise InputError(f"position_side: expected {expected} in {position_mode} mode, found {side!r}")
    return PositionKey(instrument.symbol, margin_mode, side)


def prepared(size: float, side: str, options: dict[str, Any], instrument: Instrument, key: PositionKey, own: bool,
             in_coins: bool) -> tuple[float, dict[str, Any]]:
    """Size and options of an order to be: whole lots, limits on the tick, the leg's side and mode spelled out.

    `own`: the position is the one that the feed itself stands for, `in_coins`: coins change hands. Raises InputError.
    """
    if not (isinstance(size, numbers.Real) and math.isfinite(size) and size > 0):
        raise InputError(f"size: expected a finite number above zero, found {size!r} for {key.symbol}")
    size = float(size)
    if instrument.symbol in USD_PAIRS:
        raise InputError(f"{instrument.symbol}: this feed tells what a currency is worth; it cannot be traded")
    if in_coins and options.get("reduce_only"):
        raise InputError(f"reduce_only: {key.symbol} trades in coins and has no position to reduce; leave it out")
    options.update(margin_mode=key.margin_mode, position_side=key.side)
    if opposes_parent(options.get("parent"), side) and not in_coins:
        options["reduce_only"] = True  # a bracket's children end a position; they never open another
    if not own:
        options["tradeid"] = (options.get("tradeid", 0), key.side, key.margin_mode)
    limits = ("price", "plimit") if options.get("exectype") == BtOrder.Limit else ("plimit",)
    for name in ("price", "plimit"):
        if options.get(name) is None:
            continue
        price = float(options[name])
        if not (math.isfinite(price) and price > 0):
            raise InputError(f"{name}: expected a finite price above zero, found {price!r} for {key.symbol}")
        if name in limits:
            options[name] = instrument.round_price(price, side)
            if not options[name] > 0:
                raise InputError(
                    f"{name}: expected at least the tick of {key.symbol}, {instrument.tick:g}, found {price:g}"
                )
    return instrument.floor(size) or size, options  # less than a lot is the engine's to refuse


def waits(order: Any) -> bool:
    """True for a stop that has not been met: the venue holds a trigger, which reserves nothing."""
    return order.exectype in TRIGGERS and not order.triggered


def limit_price(order: Any) -> float | None:
    """The price at which the venue would hold the order; None: at the market."""
    if order.exectype == BtOrder.Limit:
        return float(order.created.price)
    if order.exectype in STOP_LIMITS:
        return float(order.created.pricelimit)
    if order.exectype in TRIGGERS:
        return float(order.created.price)
    return None


def opposes_parent(parent: Any, side: str) -> bool:
    """True for the child of a bracket: it stands against the order that opens."""
    return parent is not None and bool(parent.isbuy()) == (side == "sell")


def venue_order(order: Any, number: int, instrument: Instrument, leverage: float) -> Order:
    """The engine's order for what is left of a backtrader order."""
    info = order.info
    return Order(
        number, instrument, "buy" if order.isbuy() else "sell", abs(order.executed.remsize), limit_price(order),
        info["margin_mode"], info["position_side"], 1.0 if info["margin_mode"] == "cash" else leverage,
        bool(info.get("reduce_only")), info.get("margin_currency") or "", bool(info.get("reverse")),
    )


def cut(order: Any, left: float) -> None:
    """A closing order shrinks to what there is to close: `left` contracts; its own sizes show it."""
    signed = left if order.isbuy() else -left
    order.executed.remsize = signed
    order.size = order.created.size = order.created.remsize = order.executed.size + signed
