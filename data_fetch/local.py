"""The store on disk: Parquet files by month (bars under an hour) or year, a manifest beside them.

    <root>/okx/trade/BTC-USDT-SWAP/1min/2025-10.parquet   _manifest.json   .lock
    <root>/okx/funding/BTC-USDT-SWAP/events/2025.parquet  ...

A file carries the hash of its own rows and every read checks it. A write goes to a temporary file that replaces the
old one, the manifest follows: at any moment a reader finds the old rows or the new ones, whole, and a writer that is
killed between the two leaves a file that counts. Readers need no lock; a writer holds the series' lock.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from data_fetch.files import (
    Columns,
    columns_of,
    content_hash,
    differs,
    dtype,
    load_file,
    merge,
    only,
    partition_span,
    partitions,
    replace_file,
    segment,
    split,
    write_file,
)
from data_fetch.manifest import Gap, Manifest, SeriesKey
from data_fetch.series import DataError, Funding, Kind, Series, timeframe, timeframe_ms, utc
from data_fetch.spans import Span, union
from data_fetch.store import SeriesInfo, StoredKind
from data_fetch.venues import CANDLE_COLUMNS, FetchKind, parse_symbol, venue_named

MANIFEST = "_manifest.json"
"""The underscore hides it from programs that read a folder of Parquet files."""
_HOUR = 3_600_000
_UNITS = {"s": "sec", "m": "min", "h": "hour", "d": "day", "w": "week"}
_NAMES = {name: unit for unit, name in _UNITS.items()}


@dataclass(frozen=True, slots=True)
class Page:
    """What one request brought: the rows of `span`, what of it stayed `missing`, whether all was `answered`."""

    span: Span
    rows: Columns
    missing: list[Span] = field(default_factory=list)
    answered: bool = True


class LocalStore:
    """Downloaded history under one folder. A `Store`, and more: `read`, `gaps`, `writer`.

    Cheap to make and to pickle; reads nothing until asked.
    """

    def __init__(self, root: str | Path, exchange: str = "okx") -> None:
        self.root = Path(root)
        self.exchange = venue_named(exchange).id

    @property
    def label(self) -> str:
        return f"downloaded {self.exchange} history"

    # -- what there is ------------------------------------------------------------------------------------------

    def key(self, symbol: str, kind: str, timeframe_ms: int) -> SeriesKey:
        """The key of a series; an index belongs to the pair, whichever contract asks for it."""
        if kind not in ("trade", "mark", "index", "funding"):
            raise DataError(f"kind: expected one of trade, mark, index, funding, found {kind!r}")
        parsed = parse_symbol(symbol)
        venue_named(self.exchange).market_id(parsed, cast("FetchKind", kind))  # raises for what the venue has not
        return SeriesKey(
            self.exchange, parsed.pair if kind == "index" else symbol, kind, 0 if kind == "funding" else timeframe_ms
        )

    def folder(self, key: SeriesKey) -> Path:
        """Where a series lies; built from encoded names only."""
        venue = venue_named(key.exchange)
        market_id = venue.market_id(parse_symbol(key.symbol), cast("FetchKind", key.kind))
        bars = "events" if not key.step_ms else re.sub("[a-z]+$", lambda m: _UNITS[m[0]], timeframe(key.step_ms))
        return self.root / venue.id / key.kind / segment(market_id) / bars

    def stored(self) -> list[SeriesKey]:
        """Every series of this exchange that has a whole manifest, sorted; `damaged` names the others."""
        found = []
        for path in self.root.glob(f"{self.exchange}/*/*/*/{MANIFEST}"):
            with suppress(DataError):
                found.append(self.manifest(path=path).key)
        return sorted(found)

    def damaged(self) -> list[tuple[Path, DataError]]:
        """Every manifest that cannot be read, and why."""
        found = []
        for path in sorted(self.root.glob(f"{self.exchange}/*/*/*/{MANIFEST}")):
            try:
                self.manifest(path=path)
            except DataError as error:
                found.append((path, error))
        return found

    def manifest(self, key: SeriesKey | None = None, *, path: Path | None = None) -> Manifest:
        """What is known of a series; an empty manifest when nothing is stored."""
        if path is None:
            assert key is not None
            path = self.folder(key) / MANIFEST
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            if key is None:
                raise DataError(f"store: {path} is gone; list again") from None
            market_id = venue_named(key.exchange).market_id(parse_symbol(key.symbol), cast("FetchKind", key.kind))
            return Manifest(key, market_id)
        except OSError as error:
            raise DataError(f"{path}: expected a manifest that can be read, found {error}") from None
        found = Manifest.load(text, str(path))
        if self.folder(found.key) != path.parent:
            raise DataError(f"{path}: expected the manifest of the series of its folder, found that of {found.key}; "
                            "move it away")
        return found

    # -- reading ------------------------------------------------------------------------------------------------

    def read(
        self, key: SeriesKey, start_ms: int, end_ms: int, columns: Sequence[str] | None = None
    ) -> Columns:
        """The rows whose `ts` lies in [start_ms, end_ms) as arrays, whole files checked against their hashes.

        Empty arrays where nothing is stored. Raises DataError for a file that is not what was written.
        """
        names = columns_of(key.kind)
        wanted = names if columns is None else tuple(dict.fromkeys(("ts", *columns)))
        parts = [
            only(self._checked(key, name), wanted)
            for name in partitions(start_ms, end_ms, self.manifest(key).files)
        ]
        if not parts:
            return {name: np.empty(0, dtype(name)) for name in wanted}
        joined = parts[0] if len(parts) == 1 else {n: np.concatenate([p[n] for p in parts]) for n in wanted}
        first, last = np.searchsorted(joined["ts"], [start_ms, end_ms])
        return {name: values[first:last] for name, values in joined.items()}

    def _checked(self, key: SeriesKey, name: str) -> Columns:
        """One file's rows. The manifest may be a moment behind a busy writer: then look again."""
        path = self.folder(key) / name
        found = ""
        for attempt in range(6):
            time.sleep(0.01 * attempt)
            entry = self.manifest(key).files.get(name)
            try:
                stored = load_file(path, columns_of(key.kind), key)
            except FileNotFoundError:
                found = "no file"
                continue
            except DataError as error:
                found = str(error).partition("found ")[2]
                continue
            if entry is None or stored.fits(entry):
                return stored.rows
            found = f"{len(stored.rows['ts'])} rows with hash {stored.content[:12]}"
        expected = f"{entry.rows} rows with hash {entry.content[:12]}" if entry else "a whole file"
        raise DataError(
            f"{key}: {name} is damaged: expected {expected}, found {found[:100]}; "
            f"fetch {utc(partition_span(name)[0])[:10]} and on again and it is replaced"
        )

    def content(self, key: SeriesKey) -> str:
        """One hash for all rows of a series, whatever files they lie in; reads and checks everything."""
        return content_hash(self.read(key, -(2**62), 2**62))

    def gaps(self, key: SeriesKey, start_ms: int, end_ms: int) -> list[Gap]:
        """Every hole of a span, classed."""
        return self.manifest(key).gaps(self.read(key, start_ms, end_ms, ["ts"])["ts"], start_ms, end_ms)

    def coverage(self, symbol: str, kind: str, step_ms: int, start_ms: int, end_ms: int) -> float:
        """The share of a span's bars that is stored, 0 to 1."""
        stored = len(self.read(self.key(symbol, kind, step_ms), start_ms, end_ms, ["ts"])["ts"])
        return stored * step_ms / max(end_ms - start_ms, step_ms)

    def span(self, key: SeriesKey) -> Span | None:
        """From the first time ever asked to the last; None when nothing was."""
        asked = self.manifest(key).asked
        return (asked[0][0], asked[-1][1]) if asked else None

    # -- the Store interface ------------------------------------------------------------------------------------

    def series(self, symbol: str, kind: Kind, timeframe_ms: int | None, start_ms: int, end_ms: int) -> Series:
        """See `Store.series`."""
        if timeframe_ms is None:
            steps = [i.step_ms for i in self._infos(start_ms, end_ms, self.key(symbol, kind, 0).symbol, kind)]
            timeframe_ms = min(steps, default=60_000)
        key = self.key(symbol, kind, timeframe_ms)
        rows = self.read(key, start_ms, end_ms, CANDLE_COLUMNS)
        if not len(rows["ts"]):
            there = ", ".join(str(info) for info in self.available(start_ms, end_ms)) or "nothing"
            raise DataError(
                f"no {key} from {utc(start_ms)} until {utc(end_ms)} in {self.root}: there is {there}; "
                f"run bt-margin fetch --symbol {symbol} --kind {kind}"
            )
        return Series(key.exchange, key.symbol, kind, timeframe_ms, **rows)

    def funding(self, symbol: str, start_ms: int, end_ms: int) -> Funding | None:
        """See `Store.funding`."""
        if parse_symbol(symbol).kind != "swap":
            return None
        rows = self.read(self.key(symbol, "funding", 0), start_ms, end_ms, ["rate"])
        return Funding(self.exchange, symbol, **rows) if len(rows["ts"]) else None

    def available(self, start_ms: int = -(2**62), end_ms: int = 2**62) -> tuple[SeriesInfo, ...]:
        """See `Store.available`."""
        return tuple(self._infos(start_ms, end_ms))

    def _infos(
        self, start_ms: int, end_ms: int, symbol: str | None = None, kind: str | None = None
    ) -> Iterator[SeriesInfo]:
        for key in self.stored():
            if symbol not in (None, key.symbol) or kind not in (None, key.kind):
                continue
            ts = self.read(key, start_ms, end_ms, ["ts"])["ts"]
            if len(ts):
                # funding has no step of its own: the usual distance of its settlements stands there
                step = key.step_ms or (int(np.median(np.diff(ts))) if len(ts) > 1 else 8 * _HOUR)
                yield SeriesInfo(
                    key.exchange, key.symbol, cast("StoredKind", key.kind), step, int(ts[0]), int(ts[-1]), len(ts)
                )

    # -- writing ------------------------------------------------------------------------------------------------

    def lock(self, key: SeriesKey) -> Any:
        """The series' advisory lock (a filelock.FileLock), not yet taken."""
        from filelock import FileLock

        folder = self.folder(key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"store: expected a folder that can be written, found {error}; choose another --store"
                            ) from None
        return FileLock(folder / ".lock")

    def writer(self, key: SeriesKey) -> Writer:
        """A writer; the caller holds the lock. Brings files and manifest into agreement first."""
        return Writer(self, key)


class Writer:
    """Adds rows to one series. Only one may exist per series at a time: see `LocalStore.lock`."""

    def __init__(self, store: LocalStore, key: SeriesKey) -> None:
        self.store, self.key = store, key
        self.folder = store.folder(key)
        self.columns = columns_of(key.kind)
        self.damaged: list[str] = []
        self._rows: dict[str, Columns] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        try:
            self.manifest = store.manifest(key)
        except DataError:
            self._set_aside(MANIFEST)
            self.damaged.append(MANIFEST)
            market_id = venue_named(key.exchange).market_id(parse_symbol(key.symbol), cast("FetchKind", key.kind))
            self.manifest = Manifest(key, market_id)
        self._settle()

    def _settle(self) -> None:
        """Adopts files that a killed writer left and the manifest does not list; sets aside what is none."""
        for path in sorted(self.folder.glob("*.parquet")):
            if path.name not in self.manifest.files:
                with suppress(ValueError):
                    partition_span(path.name)
                    try:
                        self.manifest.files[path.name] = load_file(path, self.columns, self.key).entry
                    except DataError:
                        self._drop(path.name)

    def verify(self, spans: Iterable[Span]) -> list[str]:
        """Re-hashes the files that hold these spans; sets damaged ones aside, so that their time is asked again."""
        bad = []
        for name in sorted({n for lo, hi in spans for n in partitions(lo, hi, self.manifest.files)}):
            try:
                stored = load_file(self.folder / name, self.columns, self.key)
                good = stored.fits(self.manifest.files[name])
            except (DataError, FileNotFoundError):
                good = False
            if good:
                self.manifest.files[name] = stored.entry
            else:
                bad.append(name)
                self._drop(name)
        if bad:
            self.save()
        self.damaged += bad
        return bad

    def rows(self, lo: int, hi: int) -> Columns:
        """What is stored of [lo, hi)."""
        return self.store.read(self.key, lo, hi)

    def commit(self, pages: Sequence[Page], now_ms: int) -> int:
        """Adds the pages' rows, then notes what was asked; returns how many rows are new.

        A row that is stored already is replaced when the venue corrected it, and counted as an oddity.
        """
        known, changed, new = self.manifest, dict[str, Columns](), 0
        for page in pages:
            for name, part in split(self.key.step_ms, page.rows):
                old = changed.get(name) or self._partition(name)
                merged = merge(old, part)
                fresh = len(merged["ts"]) - len(old["ts"])
                corrected = fresh < len(part["ts"]) and differs(old, merged)
                if corrected:
                    known.oddities["corrected rows"] = known.oddities.get("corrected rows", 0) + 1
                if fresh or corrected:
                    changed[name] = merged
                    new += fresh
        for name, rows in changed.items():
            known.files[name] = write_file(self.folder / name, rows, self.key)
            self._rows[name] = rows
        for page in pages:
            if page.answered:
                known.asked = union([*known.asked, page.span])
                known.doubt(*page.span, page.missing, now_ms)
        self.save()
        return new

    def save(self) -> None:
        """Writes the manifest, atomically."""
        replace_file(self.folder / MANIFEST, self.manifest.dump().encode())

    def _partition(self, name: str) -> Columns:
        if name not in self._rows:
            if len(self._rows) > 3:
                self._rows.clear()  # months are asked in order; a few at a time are enough
            path = self.folder / name
            if name in self.manifest.files:
                self._rows[name] = load_file(path, self.columns, self.key).rows
            else:
                self._rows[name] = {c: np.empty(0, dtype(c)) for c in self.columns}
        return self._rows[name]

    def _drop(self, name: str) -> None:
        self._set_aside(name)
        self.manifest.files.pop(name, None)
        self.manifest.forget(*partition_span(name))

    def _set_aside(self, name: str) -> None:
        try:
            os.replace(self.folder / name, self.folder / f"_{name}.damaged")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DataError(f"store: the damaged {self.folder / name} cannot be moved: {error}; move it away") from None


def parse_step(text: str, exchange: str = "okx") -> int:
    """The length of a timeframe that the venue serves on UTC. Raises DataError for others."""
    step = timeframe_ms(text)
    served = venue_named(exchange).timeframes
    if step not in served:
        raise DataError(
            f"timeframe: expected one of {', '.join(timeframe(s) for s in served)}, found {text!r}; "
            "resample a shorter one"
        )
    return step


__all__ = ["LocalStore", "Page", "Writer", "parse_step"]
