"""Option feeds priced by model where no option prices are stored: Black-76 on an underlying feed, vol and carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_margin.errors import InputError
from bt_margin.model.instrument import Instrument, Kind, parse
from bt_margin.modes.options import model_mark
from bt_margin.plugin.feeds import ArrayFeed, make_feed
from bt_margin.risk.black import years_between

CANDLE = ("open", "high", "low", "close")


def option_chain(
    underlying: ArrayFeed,
    symbols: Sequence[str],
    vol: float | Sequence[float] | NDArray[np.float64] | Mapping[str, Any],
    carry: float | Sequence[float] | NDArray[np.float64] = 0.0,
) -> list[ArrayFeed]:
    """One feed per option, bar by bar with the underlying.

    underlying: a feed of ours (its marks where it has them, else its last prices); symbols: options of the same base
    coin; vol: annual, a number, one per bar, or either by symbol; carry: forward = underlying x (1 + carry), a number
    or one per bar. Prices are in the coin, or the stablecoin the option settles in; after expiry the feed has no bars.
    Within a bar a call is lowest where the underlying is, a put highest; the vol stands still. Prices are floored at
    one ten-thousandth of a cent of a coin, since a venue quotes no zero. Raises InputError for what is no option of
    the coin, and for vols that are not above zero.
    """
    columns = underlying.p.columns
    close_ms = np.asarray(underlying.p.close_ms, dtype=np.int64)
    base = parse(underlying.p.name or underlying.p.dataname).base
    marked = np.isfinite(columns["mark"]).all()
    names = dict(zip(CANDLE, ("mark_open", "mark_high", "mark_low", "mark") if marked else CANDLE, strict=True))
    spot = {name: np.asarray(columns[names[name]], dtype=float) for name in CANDLE}
    carries = _per_bar(carry, len(close_ms), "carry", -0.5)
    step = int(close_ms[0] - underlying.first_ms)
    return [_option(symbol, base, spot, close_ms, step, vol, carries, underlying) for symbol in symbols]


def _option(symbol: str, base: str, spot: Mapping[str, NDArray[np.float64]], close_ms: NDArray[np.int64], step: int,
            vol: Any, carry: NDArray[np.float64], underlying: ArrayFeed) -> ArrayFeed:
    parts = parse(symbol)
    if parts.kind is not Kind.OPTION or parts.base != base:
        raise InputError(f"option_chain: expected an option of {base}, found {symbol!r}")
    instrument = Instrument(symbol, parts.kind, parts.base, parts.quote, parts.settle)
    chosen = vol[symbol] if isinstance(vol, Mapping) else vol
    vols = _per_bar(chosen, len(close_ms), f"vol of {symbol}", 0.0)
    end = instrument.expiry_ms or 0
    living = close_ms <= end
    if not living.any():
        raise InputError(f"option_chain: {symbol} expires before the first bar closes")
    stamps = {name: (close_ms - (step if name == "open" else 0)).astype(float) for name in CANDLE}
    years = {name: np.asarray(years_between(at, end)) for name, at in stamps.items()}
    values = {
        name: np.maximum(
            np.asarray(model_mark(instrument, price * (1 + carry), price, years[name], vols), dtype=float), FLOOR
        )
        for name, price in spot.items()
    }
    # a put falls when its underlying rises: what matters is the highest and the lowest of the four
    stacked = np.stack([values[name] for name in CANDLE])
    columns = {"open": values["open"], "high": stacked.max(0), "low": stacked.min(0), "close": values["close"]}
    columns |= {"mark_open": columns["open"], "mark_high": columns["high"], "mark_low": columns["low"],
                "mark": columns["close"]}
    columns |= {"volume": np.zeros(len(close_ms)), "index": spot["close"], "forward_price": spot["close"] * (1 + carry)}
    columns = {name: np.asarray(column)[living] for name, column in columns.items()}
    source = f"Black-76 on {underlying.p.name or underlying.p.dataname}, vol {np.mean(vols):.0%}, a model, no market"
    return make_feed(symbol, columns, close_ms[living] - step, step, None, source)


FLOOR = 1e-6


def _per_bar(value: Any, bars: int, what: str, above: float) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=float)
    if array.ndim == 0:
        array = np.full(bars, float(array))
    if array.shape != (bars,):
        raise InputError(f"option_chain: {what}: expected one number or {bars}, found {array.shape}")
    if not np.all(np.isfinite(array)) or np.any(array <= above):
        raise InputError(f"option_chain: {what}: expected finite numbers above {above:g}")
    return array
