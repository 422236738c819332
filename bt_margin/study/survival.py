"""Survival maps: what leverage would have lived through this, entered when?

A static book over a price path: leverage x entry time x mode, no cerebro. What a cell says is what a MarginBroker says
that enters the same book at the close of the same bar, at its mark: the same verdict, takeover time, lowest distance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_margin.engine import credit
from bt_margin.errors import InputError
from bt_margin.model.moment import HOUR, iso
from bt_margin.modes import mode_named
from bt_margin.plugin.path import PATHS
from bt_margin.rules.credit import yearly_rate
from bt_margin.study import straight
from bt_margin.study.price_path import PricePath
from bt_margin.study.replay import (
    FAILED,
    LIQUIDATED,
    REDUCED,
    REFUSED,
    SURVIVED,
    TOO_SMALL,
    VERDICTS,
    Replay,
)
from bt_margin.study.static_book import StaticBook
from bt_margin.study.task import modes_named
from bt_margin.study.windows import window

MOST = 20_000_000
"""Cells of one map: beyond it a machine runs out of memory before it runs out of patience."""


@dataclass(frozen=True)
class SurvivalMap:
    """Every cell of leverage x entry time x mode. Arrays have shape (modes, entries, leverages).

    `verdict`: index into VERDICTS (survived, reduced, liquidated, refused, too small, failed). `taken_ms`: the first
    takeover, ms UTC, -1 without one. `distance`: the lowest distance to liquidation, per cent; 0 once liquidated, NaN
    where there is none. `reason`: index into `reasons`, of refusals and failures. `entries_ms`: closes of the entry
    bars.
    """

    modes: tuple[str, ...]
    entries_ms: NDArray[np.int64]
    leverages: NDArray[np.float64]
    verdict: NDArray[np.uint8]
    taken_ms: NDArray[np.int64]
    distance: NDArray[np.float64]
    reason: NDArray[np.int32]
    reasons: tuple[str, ...]
    symbols: tuple[str, ...]
    span: tuple[int, int]
    sources: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Cells that kept their book: survived, or reduced and kept. What could not begin or be judged is not alive."""
        found: NDArray[np.bool_] = (self.verdict == SURVIVED) | (self.verdict == REDUCED)
        return found

    def lived(self) -> NDArray[np.float64]:
        """(modes, entries): the largest leverage up to which every one of the map lived; NaN where the smallest died.
        Leverages too small for a lot are left out."""
        fine = self.alive | (self.verdict == TOO_SMALL)
        count = np.logical_and.accumulate(fine, axis=2).sum(axis=2)
        index = np.maximum(count - 1, 0)
        any_alive = np.take_along_axis(self.alive, index[..., None], axis=2)[..., 0]
        found: NDArray[np.float64] = np.where((count > 0) & any_alive, self.leverages[index], np.nan)
        return found

    def summary(self) -> list[dict[str, Any]]:
        """One row a mode: the largest leverage that lived through all entries, at the median entry, at the best, which
        entry was the worst, and how many cells there are of each verdict."""
        rows = []
        for m, (mode, lived) in enumerate(zip(self.modes, self.lived(), strict=True)):
            filled = np.where(np.isnan(lived), 0.0, lived)
            worst = int(np.argmin(filled))
            counts = np.bincount(self.verdict[m].ravel(), minlength=len(VERDICTS))
            rows.append({
                "mode": mode, "through_all": float(filled.min()) or None,
                "median": float(np.percentile(filled, 50, method="lower")) or None,
                "best": float(filled.max()) or None, "worst_entry": iso(int(self.entries_ms[worst])),
                **{name: int(count) for name, count in zip(VERDICTS, counts, strict=True)},
            })
        return rows

    def columns(self) -> dict[str, Any]:
        """The map as columns, one row a cell: mode, entry (ms UTC), leverage, verdict, liquidated_at, min_distance,
        reason."""
        shape = self.verdict.shape
        mode, entry, leverage = (np.broadcast_to(values, shape).ravel() for values in (
            np.arange(shape[0])[:, None, None], self.entries_ms[None, :, None], self.leverages[None, None, :]))
        return {"mode": mode, "entry": entry, "leverage": leverage, "verdict": self.verdict.ravel(),
                "liquidated_at": self.taken_ms.ravel(), "min_distance": self.distance.ravel(),
                "reason": self.reason.ravel()}

    def write_parquet(self, path: Path) -> None:
        """One row a cell; mode, verdict and reason as dictionaries, times as UTC timestamps; the file whole or not."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns, stamp = self.columns(), pa.timestamp("ms", tz="UTC")
        taken = columns["liquidated_at"]
        names: dict[str, Sequence[str]] = {"mode": self.modes, "verdict": VERDICTS, "reason": self.reasons}
        arrays = {
            name: pa.DictionaryArray.from_arrays(pa.array(columns[name].astype(np.int32)), pa.array(texts))
            for name, texts in names.items()
        }
        distance = columns["min_distance"]
        arrays |= {
            "entry": pa.array(columns["entry"], stamp), "leverage": pa.array(columns["leverage"]),
            "liquidated_at": pa.array(taken, stamp, mask=taken < 0),
            "min_distance": pa.array(distance, mask=np.isnan(distance)),
        }
        table = pa.table({name: arrays[name] for name in columns})
        temporary = path.with_suffix(".tmp")
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: the summary, and per mode and entry the largest leverage that lived."""
        lived = self.lived()
        return {
            "span": [iso(self.span[0]), iso(self.span[1])], "symbols": list(self.symbols),
            "leverages": self.leverages.tolist(), "entries": [iso(int(t)) for t in self.entries_ms],
            "summary": self.summary(),
            "lived": {mode: [None if np.isnan(x) else float(x) for x in lived[m]] for m, mode in enumerate(self.modes)},
            "reasons": [text for text in self.reasons if text], "sources": dict(self.sources),
            "warnings": list(self.warnings),
        }


def survival_map(
    book: Mapping[str, Any] | StaticBook,
    path: PricePath,
    leverages: Sequence[float],
    entries: Sequence[int] | None = None,
    modes: Sequence[str] | str = "all",
    *,
    walk: str = "adverse",
    setting: float | None = None,
    rules_as_of: str | None = None,
    interest: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SurvivalMap:
    """Judge every cell.

    `book`: as its file has it (only balances, contracts, margin modes, sides and overlays count), `path`: prices from
    `load_path` or PricePath.of(feeds). `leverages`: gross notional / equity at entry. `entries`: bars at whose close
    the book is entered, by default every one but the last. `walk`: adverse, ohlc or close. `setting`: OKX's leverage
    setting, default twice the leverage capped by the tier. `rules_as_of`: "then" or a date, by default what the book
    says, else "then". Raises InputError for what no cell could make sense of; a cell's own trouble is its verdict.
    """
    from bt_margin.model.moment import parse_time

    held = book if isinstance(book, StaticBook) else StaticBook.from_dict(book)
    as_of = rules_as_of or held.as_of
    if as_of != "then":
        held = replace(held, rules=held.rules.frozen_at(parse_time(as_of, "rules_as_of")), as_of=as_of)
    names = modes_named(modes)
    chosen = [mode_named(name) for name in names]
    levers = _leverages(leverages, setting)
    if walk not in PATHS:
        raise InputError(f"path: expected one of {', '.join(PATHS)}, found {walk!r}")
    missing = [symbol for symbol in held.symbols if symbol not in path.prices]
    if missing:
        raise InputError(f"path: expected prices of {missing[0]}, found {', '.join(path.prices)}")
    if len(path) < 2:
        raise InputError(f"path: expected two bars or more, found {len(path)}; widen the window")
    at = list(range(len(path) - 1)) if entries is None else list(entries)
    if not at or not all(0 <= i < len(path) - 1 for i in at):
        raise InputError(f"entries: expected bars from 0 to {len(path) - 2}, found {at[:3]}")
    shape = (len(chosen), len(at), len(levers))
    if shape[0] * shape[1] * shape[2] > MOST:
        raise InputError(f"survive: expected at most {MOST:,} cells, found {shape[0] * shape[1] * shape[2]:,}; "
                         "take fewer leverages or entries")
    for currency, rate in (interest or {}).items():
        yearly_rate(rate, f"interest.{currency}")
    replay = Replay(held, path, walk, setting, dict(interest or {}))
    if any(mode.whole for mode in chosen):  # a choice that the venue never took is no cell's own trouble
        credit.check_choices(held.account(True), replay.rules(int(path.close_ms[at[0]])))
    verdict, taken = np.zeros(shape, np.uint8), np.full(shape, -1, np.int64)
    distance, reason = np.full(shape, np.nan), np.zeros(shape, np.int32)
    reasons = {"": 0}
    done, total = 0, shape[0] * shape[1] * shape[2]
    for m, mode in enumerate(chosen):
        for e, entry in enumerate(at):
            if straight.applies(replay, mode):
                found = straight.row(replay, mode, entry, levers)
                verdict[m, e], taken[m, e], distance[m, e] = found[:3]
                for i, text in found.reasons.items():
                    reason[m, e, i] = reasons.setdefault(text, len(reasons))
                done += len(levers)
                if progress:
                    progress(done, total)
                continue
            for i, lever in enumerate(levers):
                outcome = replay.cell(mode, entry, lever)
                verdict[m, e, i], taken[m, e, i], distance[m, e, i] = outcome[:3]
                reason[m, e, i] = reasons.setdefault(outcome.reason, len(reasons))
                done += 1
                if progress:
                    progress(done, total)
    return SurvivalMap(
        names, path.close_ms[at], np.array(levers), verdict, taken, distance, reason, tuple(reasons), held.symbols,
        (int(path.open_ms[0]), int(path.close_ms[-1])), dict(path.sources), _warnings(replay))


def book_of(weights: Mapping[str, float], cash: Mapping[str, float], path: PricePath) -> dict[str, Any]:
    """The book of a strategy that enters signed shares of its exposure, by symbol, and holds: contracts in the
    proportions that the first bar's close gives. Raises InputError for a spot pair."""
    from bt_margin.rules.book import load_rules

    market = path.market(0)
    rules = load_rules("okx").as_of(market.time, "nearest")
    rows = []
    for symbol, weight in weights.items():
        instrument = rules.instrument(symbol)
        if instrument.is_spot:
            raise InputError(f"weights: {symbol} is a spot pair; coins belong in balances")
        worth = float(instrument.notional(1.0, market.mark(symbol))) * float(market.usd(instrument.settle))
        rows.append({"symbol": symbol, "contracts": weight / worth})
    return {"balances": dict(cash), "positions": rows}


def load_path(book: StaticBook, span: str, *, store: str = "", strict: bool = False) -> PricePath:
    """The path of a window (a crash's day or START/END) for a book: downloaded minutes where they cover it, else the
    embedded hourly figures, as studies choose. A coin is priced by its spot pair where there is one, else by a contract
    of the book. Raises data_fetch.DataError where there is no data."""
    from bt_margin.study.history import history_of
    from bt_margin.study.task import Task
    from data_fetch import DataError

    task = Task("", "cross", window(span, store), 1.0, book.balances, store=store, strict=strict)
    priced = {symbol.partition("/")[0] for symbol in book.symbols}
    pairs = [f"{coin}/USDT" for coin in book.coins]
    for wanted in ([*book.symbols, *pairs], [*book.symbols, *(p for p in pairs if p.partition("/")[0] not in priced)]):
        try:
            label, feeds = history_of(task, wanted)
        except DataError:
            if wanted == [*book.symbols]:
                raise
            failed = wanted
            continue
        path = PricePath.of(feeds, strict)
        return replace(path, sources={symbol: f"{label}: {source}" for symbol, source in path.sources.items()})
    raise InputError(f"window: no prices for {', '.join(failed)} on {span}")


def spread(path: PricePath, entries: str) -> list[int]:
    """Entry bars: "hourly" (those that close on a full hour), or a number of them, evenly spread. The last bar is none:
    nothing comes after it. Raises InputError."""
    last = len(path) - 1
    if entries == "hourly":
        found = np.flatnonzero(path.close_ms[:last] % HOUR == 0)
        if not len(found):
            raise InputError("entries: no bar closes on a full hour; give a number of entries instead")
        return [int(i) for i in found]
    if not entries.isdigit() or int(entries) < 1:
        raise InputError(f"entries: expected hourly or a number of entries, found {entries!r}")
    return sorted({int(i) for i in np.linspace(0, last - 1, min(int(entries), last)).round()})


def _leverages(leverages: Sequence[float], setting: float | None) -> list[float]:
    levers = sorted({float(value) for value in leverages})
    if not levers or not all(0 < value < float("inf") for value in levers):
        raise InputError(f"leverage: expected numbers above zero, found {list(leverages)[:5]!r}")
    if setting is not None and not 1 <= setting < float("inf"):
        raise InputError(f"setting: expected a number of 1 or more, found {setting!r}")
    return levers


def _warnings(replay: Replay) -> tuple[str, ...]:
    """What a reader has to know: funding not covered or lent, and rules that stood in."""
    rows = []
    for symbol, (missed, due) in sorted(replay.clock.unknown.items()):
        if missed:
            rows.append(f"funding of {symbol}: {due - missed} of {due} settlements had a rate, the rest cost 0")
        series = replay.path.funding.get(symbol)
        if series is not None and series.of:
            rows.append(f"stand-in: funding of {symbol}: rates of {series.of}")
    days: dict[tuple[str, str, str], int] = {}
    first, last = int(replay.path.close_ms[0]), int(replay.path.close_ms[-1])
    changes = replay.book.rules.changes(first, last)
    for time in sorted({first, last, *changes, *(time - 1 for time in changes)}):
        for row in replay.rules(time).evidence():
            if row.extrapolated_days:
                key = (row.table, row.subject, row.effective)
                days[key] = max(days.get(key, 0), row.extrapolated_days)
    rows += [f"rules: {table} {subject} stands in from {effective}, {count} days away"
             for (table, subject, effective), count in sorted(days.items())]
    return tuple(rows)


__all__ = ["FAILED", "LIQUIDATED", "REFUSED", "VERDICTS", "PricePath", "StaticBook", "SurvivalMap", "book_of",
           "load_path", "spread", "survival_map"]
