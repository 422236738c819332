"""Venues as tables: what is asked where, in pages of which size, and how a row is read.

A second venue is one more `Venue` in VENUES. Nothing outside this file knows a path or a parameter name.

Sources for OKX: API v5 documentation and the measured notes of this project (page sizes, both bounds exclusive,
newest rows first, the newest rows of a span that is wider than a page).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from data_fetch.series import DataError

FetchKind = Literal["trade", "mark", "index", "funding"]
KINDS: tuple[FetchKind, ...] = get_args(FetchKind)

_SYMBOL = re.compile(
    r"(?P<base>[A-Z0-9]{1,30})/(?P<quote>[A-Z0-9]{1,30})"
    r"(?::(?P<settle>[A-Z0-9]{1,30})(?P<rest>(?:-\d{6}(?:-\d+(?:\.\d+)?-[CP])?)?))?"
)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A unified symbol, taken apart; `rest` is what follows the settlement coin of futures and options."""

    text: str
    base: str
    quote: str
    settle: str
    rest: str

    @property
    def kind(self) -> Literal["spot", "swap", "future", "option"]:
        if not self.settle:
            return "spot"
        return "swap" if not self.rest else "option" if self.rest.count("-") > 1 else "future"

    @property
    def pair(self) -> str:
        """The pair whose index the contract follows."""
        return f"{self.base}/{self.quote}"


def parse_symbol(text: str) -> Symbol:
    """Takes a unified symbol apart. Raises DataError for anything else, so no symbol can be a path."""
    found = _SYMBOL.fullmatch(text)
    if found is None or (found["settle"] and found["settle"] not in (found["base"], found["quote"])):
        raise DataError(
            f"symbol: expected a unified symbol such as BTC/USDT or BTC/USDT:USDT, found {text!r}; "
            "write it as ccxt does"
        )
    return Symbol(text, found["base"], found["quote"], found["settle"] or "", found["rest"] or "")


@dataclass(frozen=True, slots=True)
class Candles:
    """How candles of one kind are asked: `bounds(lo, hi)` are the parameters that mean [lo, hi)."""

    path: str
    limit: int
    bounds: Callable[[int, int], Mapping[str, int]]
    older: Callable[[int], Mapping[str, int]]
    row: Callable[[Sequence[str], Symbol], Sequence[float]]
    columns: tuple[str, ...]
    width: int  # fields of a row
    ts: int = 0
    confirm: int | None = None  # the field that says "1" when the bar is closed


@dataclass(frozen=True, slots=True)
class FundingRows:
    """How settled funding rates are asked: pages that walk back from `older(t)`."""

    path: str
    limit: int
    older: Callable[[int], Mapping[str, int]]
    ts: str
    rates: tuple[str, ...]  # the first that is not blank counts


@dataclass(frozen=True, slots=True)
class Archive:
    """A listing of files with older funding: `params(family, lo, hi)` asks for the months of [lo, hi)."""

    path: str
    params: Callable[[str, int, int], Mapping[str, Any]]
    months: int  # a query may span so many
    offset_ms: int  # its months begin so long before those of UTC
    hosts: tuple[str, ...]  # files are read from nowhere else (or from the address given with --api-url)
    name: str
    rate: str
    time: str


@dataclass(frozen=True, slots=True)
class Venue:
    """One exchange: its ccxt name and its tables."""

    id: str
    timeframes: Mapping[int, str]
    candles: Mapping[str, Candles]
    funding: FundingRows
    archive: Archive | None
    market_id: Callable[[Symbol, FetchKind], str]
    family: Callable[[Symbol], str]
    listing: Callable[[Symbol, str], tuple[str, Mapping[str, str]]]
    api_url: Callable[[str], Mapping[str, str]]


def _okx_id(symbol: Symbol, kind: FetchKind) -> str:
    """The id does not name the settlement coin, so a coin that OKX does not settle in must not pass for another."""
    pair = f"{symbol.base}-{symbol.quote}"
    settle = symbol.base if symbol.quote == "USD" else symbol.quote
    if symbol.settle not in ("", settle):
        right = f"{symbol.pair}:{settle}{symbol.rest}"
        raise DataError(f"symbol: expected {right}, as okx settles it, found {symbol.text!r}")
    if kind == "index" or symbol.kind == "spot":
        return pair
    return f"{pair}-SWAP" if symbol.kind == "swap" else pair + symbol.rest


def _okx_listing(symbol: Symbol, market_id: str) -> tuple[str, Mapping[str, str]]:
    kind = {"spot": "SPOT", "swap": "SWAP", "future": "FUTURES", "option": "OPTION"}[symbol.kind]
    return "public/instruments", {"instType": kind, "instId": market_id} | (
        {"instFamily": f"{symbol.base}-{symbol.quote}"} if kind == "OPTION" else {}
    )


def _okx_trade(row: Sequence[str], symbol: Symbol) -> Sequence[float]:
    """`vol` counts contracts of derivatives and coins of spot; `volCcy` coins and quote."""
    prices = [float(x) for x in row[1:5]]
    first, second, quote = (float(x) for x in row[5:8])
    if symbol.kind == "spot":
        return (*prices, first, float("nan"), quote)
    return (*prices, second, first, quote)


def _okx_price(row: Sequence[str], symbol: Symbol) -> Sequence[float]:
    return (*(float(x) for x in row[1:5]), float("nan"))


def _okx_bounds(lo: int, hi: int) -> Mapping[str, int]:
    return {"before": lo - 1, "after": hi}  # both exclusive, and `before` alone would mean "the newest"


def _okx_older(t: int) -> Mapping[str, int]:
    return {"after": t}


def _okx_archive(family: str, lo: int, hi: int) -> Mapping[str, Any]:
    return {
        "module": "3",
        "instType": "SWAP",
        "instFamilyList": family,
        "dateAggrType": "monthly",
        "begin": lo,
        "end": hi - 1,  # inclusive
    }


_HOUR = 3_600_000
CANDLE_COLUMNS = ("open", "high", "low", "close", "volume")
TRADE_COLUMNS = (*CANDLE_COLUMNS, "contracts", "quote_volume")
FUNDING_COLUMNS = ("rate", "served_ms")


def _okx_candles(path: str, limit: int, trade: bool) -> Candles:
    row, columns = (_okx_trade, TRADE_COLUMNS) if trade else (_okx_price, CANDLE_COLUMNS)
    width = 9 if trade else 6
    return Candles(path, limit, _okx_bounds, _okx_older, row, columns, width, confirm=width - 1)


OKX = Venue(
    id="okx",
    timeframes={
        60_000: "1m",
        180_000: "3m",
        300_000: "5m",
        900_000: "15m",
        1_800_000: "30m",
        _HOUR: "1H",
        2 * _HOUR: "2H",
        4 * _HOUR: "4H",
        6 * _HOUR: "6Hutc",  # without "utc" these open on UTC+8
        12 * _HOUR: "12Hutc",
        24 * _HOUR: "1Dutc",
    },
    candles={
        "trade": _okx_candles("market/history-candles", 300, True),
        "mark": _okx_candles("market/history-mark-price-candles", 100, False),
        "index": _okx_candles("market/history-index-candles", 100, False),
    },
    funding=FundingRows(
        "public/funding-rate-history", 400, _okx_older, "fundingTime", ("realizedRate", "fundingRate")
    ),
    archive=Archive(
        "public/market-data-history",
        _okx_archive,
        10,
        8 * _HOUR,
        ("okx.com", "okcoin.com", "okex.com"),
        "instrument_name",
        "funding_rate",
        "funding_time",
    ),
    market_id=_okx_id,
    family=lambda symbol: f"{symbol.base}-{symbol.quote}",
    listing=_okx_listing,
    api_url=lambda url: {"rest": url},
)

VENUES: dict[str, Venue] = {"okx": OKX}


def venue_named(name: str) -> Venue:
    """A venue's tables. Raises DataError for a venue that has none yet."""
    if name not in VENUES:
        raise DataError(f"exchange: expected one of {', '.join(VENUES)}, found {name!r}; other venues need a table")
    return VENUES[name]
