"""The venue's rules of this moment, as dated rule revisions graded `snapshot`.

There is no history of instruments, tiers, discounts and quotas at the venue: what is not written down is gone. Files
are written after all answers are in; raw answers stand beside them, so that every figure can be looked up.

The tables have the shape of this project's rule tables of the same names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from data_fetch.client import Client, Settings, ccxt_version
from data_fetch.files import replace_file
from data_fetch.series import DataError
from data_fetch.venues import Symbol, Venue, parse_symbol

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Revision:
    """One block of a rule file: its own keys, besides those that every revision has."""

    keys: tuple[tuple[str, Any], ...]
    note: str = ""
    days: int | None = None  # proven for so long only


async def take(venue: Venue, symbols: Sequence[str], out: Path, settings: Settings) -> list[Path]:
    """Asks for everything, then writes `<out>/<venue>-<moment>/*.toml` and `raw/*.json`; returns the paths.

    Raises DataError when an answer is not what it should be; nothing is written then.
    """
    parsed = [parse_symbol(text) for text in symbols]
    moment = datetime.fromtimestamp(settings.now_ms() // 1000, UTC)
    raw: dict[str, Any] = {}
    async with Client(venue, settings) as client:
        for name, path, params in _questions(parsed):
            raw[name] = await client.get(path, params)
    tables: dict[str, list[Revision]] = {
        "instruments": list(_instruments(raw)),
        "position_tiers": [r for s in parsed if s.kind in ("swap", "future") for r in _position_tiers(raw, s)],
        "margin_tiers": [r for s in parsed if s.kind == "spot" for r in _margin_tiers(raw, s)],
        "discounts": list(_discounts(raw["discounts"])),
        "interest": list(_interest(raw["loan_quotas"])),
        "free_quota": list(_free(raw["discounts"])),
        "borrow_limits": list(_limits(raw["loan_quotas"])),
    }
    source = f"{venue.id} public endpoints, read {moment:%Y-%m-%dT%H:%M:%SZ} through ccxt {ccxt_version()}"
    folder = out / f"{venue.id}-{moment:%Y-%m-%dT%H%M%SZ}"
    texts = {f"{name}.toml": _toml(name, rows, moment, source) for name, rows in tables.items() if rows}
    texts |= {f"raw/{name}.json": json.dumps(rows, indent=1) for name, rows in raw.items()}
    _write(folder, texts)
    return [folder / name for name in texts]


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """All files or none: they are written beside and moved into place together; a moment that is there stays."""
    half = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        if folder.exists():
            raise DataError(f"out: expected no snapshot of this second, found {folder}; take it again")
        (half / "raw").mkdir(parents=True)
        for name, text in texts.items():
            replace_file(half / name, text.encode())
        half.rename(folder)
    except OSError as error:
        raise DataError(f"out: expected a folder that can be written, found {error}; choose another --out") from None
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _questions(symbols: Sequence[Symbol]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(name of the answer, path, parameters)."""
    for kind in ("SPOT", "MARGIN", "SWAP", "FUTURES"):
        yield f"instruments_{kind}", "public/instruments", {"instType": kind}
    asked = set()
    for symbol in symbols:
        family = f"{symbol.base}-{symbol.quote}"
        kind = {"spot": "MARGIN", "swap": "SWAP", "future": "FUTURES", "option": "OPTION"}[symbol.kind]
        if kind == "OPTION":
            raise DataError(f"symbol: expected pairs, swaps and futures, found {symbol.text!r}; leave it out")
        if (kind, family) in asked:
            continue
        asked.add((kind, family))
        which = {"instId": family} if kind == "MARGIN" else {"instFamily": family}
        for mode in ("cross", "isolated"):
            yield (f"position_tiers_{kind}_{family}_{mode}", "public/position-tiers",
                   {"instType": kind, "tdMode": mode, **which})
    yield "discounts", "public/discount-rate-interest-free-quota", {}
    yield "loan_quotas", "public/interest-rate-loan-quota", {}


def _instruments(raw: Mapping[str, Rows]) -> Iterator[Revision]:
    rows = []
    margin = {row["instId"] for row in raw["instruments_MARGIN"]}
    for row in raw["instruments_SPOT"]:
        if row["instId"] in margin:  # pairs that can be traded on margin
            base, _, quote = str(row["instId"]).partition("-")
            rows.append((f"{base}/{quote}", Decimal(1), *_figures(row, "tickSz", "lotSz")))
    for kind in ("SWAP", "FUTURES"):
        for row in raw[f"instruments_{kind}"]:
            base, quote, rest = str(row["instId"]).split("-", 2)
            settle = str(row.get("settleCcy", ""))
            if settle not in (base, quote) or (kind == "FUTURES" and not (rest.isdigit() and len(rest) == 6)):
                continue  # settles in a third coin, or has no date: no unified symbol
            size, multiplier, tick, lot = _figures(row, "ctVal", "ctMult", "tickSz", "lotSz")
            name = f"{base}/{quote}:{settle}" + (f"-{rest}" if kind == "FUTURES" else "")
            rows.append((name, size * multiplier, tick, lot))
    if not rows:
        raise DataError("instruments: expected some, found none; try again later")
    yield Revision((("rows", sorted(rows)),))


def _position_tiers(raw: Mapping[str, Rows], symbol: Symbol) -> Iterator[Revision]:
    kind = "SWAP" if symbol.kind == "swap" else "FUTURES"
    answer = raw[f"position_tiers_{kind}_{symbol.base}-{symbol.quote}_cross"]
    rows = _tiers(answer, symbol, "maxSz", "mmr", "imr", "maxLever")
    name = f"{symbol.base}/{symbol.quote}:{symbol.settle}" + ("-*" if symbol.rest else "")
    yield Revision((("symbol", name), ("rows", rows)))


def _margin_tiers(raw: Mapping[str, Rows], symbol: Symbol) -> Iterator[Revision]:
    answer = raw[f"position_tiers_MARGIN_{symbol.base}-{symbol.quote}_cross"]
    rows = _tiers(answer, symbol, "baseMaxLoan", "quoteMaxLoan", "mmr", "imr", "maxLever")
    yield Revision((("pair", f"{symbol.base}/{symbol.quote}"), ("rows", rows)))


def _tiers(answer: Rows, symbol: Symbol, *names: str) -> list[tuple[Decimal, ...]]:
    rows = sorted(_figures(row, *names) for row in answer)
    if not rows or len({row[0] for row in rows}) != len(rows):
        raise DataError(f"position tiers of {symbol.text}: expected rising sizes, found {len(rows)} rows")
    return rows


def _discounts(answer: Rows) -> Iterator[Revision]:
    """Marginal tiers in coin; a last tier without an upper bound is what counts beyond the others."""
    for row in sorted(answer, key=lambda row: str(row["ccy"])):
        details = row.get("details") or []
        closed = [d for d in details if d.get("maxAmt") not in ("", None)]
        open_ = [_figure(d, "discountRate") for d in details if d.get("maxAmt") in ("", None)]
        if details:
            beyond = (("beyond", open_[0]),) if open_ else ()
            rows = sorted(_figures(d, "maxAmt", "discountRate") for d in closed)
            yield Revision((("currencies", [str(row["ccy"])]), ("unit", "coin"), *beyond, ("rows", rows)))


def _free(answer: Rows) -> Iterator[Revision]:
    rows = sorted((str(row["ccy"]), _figure(row, "amt")) for row in answer if row.get("amt"))
    if rows:
        yield Revision((("rows", rows),), "interest-free quota of the account's level")


def _interest(answer: Rows) -> Iterator[Revision]:
    rows = sorted((str(row["ccy"]), _figure(row, "rate")) for row in _basic(answer) if row.get("rate"))
    if rows:
        yield Revision((("rows", rows),), "daily rates of the basic level; set anew every hour, so proven for a day", 1)


def _limits(answer: Rows) -> Iterator[Revision]:
    rows = sorted((str(row["ccy"]), _figure(row, "quota")) for row in _basic(answer) if row.get("quota"))
    if rows:
        yield Revision((("rows", rows),), "basic quota; levels multiply it")


def _basic(answer: Rows) -> Iterable[Mapping[str, Any]]:
    return [row for part in answer for row in part.get("basic", [])]


def _figures(row: Mapping[str, Any], *names: str) -> tuple[Decimal, ...]:
    return tuple(_figure(row, name) for name in names)


def _figure(row: Mapping[str, Any], name: str) -> Decimal:
    """A figure as served, digit by digit. Raises DataError for what is none."""
    try:
        value = Decimal(str(row[name]))
        if not value.is_finite() or value < 0:
            raise InvalidOperation
    except (KeyError, InvalidOperation):
        raise DataError(f"snapshot: expected a figure {name} of zero or more in {str(dict(row))[:120]}") from None
    return value


def _toml(name: str, revisions: Iterable[Revision], moment: datetime, source: str) -> str:
    lines = [f"# {name}: figures as served; see raw/ beside this file.", "", "[sources]",
             f"snapshot = {json.dumps(source)}"]
    for revision in revisions:
        lines += ["", "[[revision]]", *(f"{key} = {_value(value)}" for key, value in revision.keys if key != "rows")]
        lines.append(f"effective = {moment:%Y-%m-%dT%H:%M:%SZ}")
        if revision.days is not None:
            lines.append(f"until = {moment + timedelta(days=revision.days):%Y-%m-%dT%H:%M:%SZ}")
        lines += ['evidence = "snapshot"', 'source = "snapshot"']
        if revision.note:
            lines.append(f"note = {json.dumps(revision.note)}")
        lines += ["rows = [", *(f"  {_value(row)}," for row in dict(revision.keys)["rows"]), "]"]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    kinds: list[tuple[type | tuple[type, ...], Callable[[Any], str]]] = [
        (str, json.dumps),
        (Decimal, lambda d: f"{d:f}"),
        ((tuple, list), lambda row: f"[{', '.join(map(_value, row))}]"),
    ]
    return next(write(value) for kind, write in kinds if isinstance(value, kind))
