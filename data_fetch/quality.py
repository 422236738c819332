"""Is what is stored still what came, and does it make sense: re-hashing, and a look at the figures.

An `error` is wrong whatever the market did (a damaged file, a price of zero). A `note` may be the market itself: a
crash is an outlier, too. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_fetch.files import Columns, columns_of, load_file, partition_span
from data_fetch.local import MANIFEST, LocalStore
from data_fetch.manifest import Manifest, SeriesKey
from data_fetch.series import DataError, timeframe, utc
from data_fetch.venues import parse_symbol

STALE_BARS = 60
APART = 0.05
JUMP = 0.03
WICK = 0.20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: where, how bad, and what to do in the text."""

    series: str
    level: Literal["error", "note"]
    what: str
    at_ms: int | None = None

    def __str__(self) -> str:
        at = "" if self.at_ms is None else f" at {utc(self.at_ms)}"
        return f"{self.level}: {self.series}{at}: {self.what}"


def check(store: LocalStore) -> list[Finding]:
    """Everything found in a store, errors first."""
    found: list[Finding] = []
    for path in sorted(store.root.glob(f"{store.exchange}/*/*/*/{MANIFEST}")):
        try:
            manifest = store.manifest(path=path)
        except DataError as error:
            found.append(Finding(str(path.parent.relative_to(store.root)), "error", str(error)))
            continue
        found += check_series(store, manifest)
    for folder in sorted({path.parent for path in store.root.glob(f"{store.exchange}/*/*/*/*.parquet")}):
        if not (folder / MANIFEST).exists():  # lost, or its writer was killed before the first one
            found.append(Finding(str(folder.relative_to(store.root)), "note",
                                 "rows without a manifest, which nothing reads; the next fetch of them looks at them"))
    return sorted(found, key=lambda f: (f.level != "error", f.series, f.at_ms or 0))


def check_series(store: LocalStore, manifest: Manifest) -> list[Finding]:
    """One series: its files, its figures, and how it stands beside the other prices of its contract."""
    key, found = manifest.key, list[Finding]()
    names = columns_of(key.kind)
    parts: list[Columns] = []
    folder = store.folder(key)
    for name, entry in sorted(manifest.files.items()):
        since, until = (utc(t)[:10] for t in partition_span(name))
        again = f"run bt-margin fetch --symbol {key.symbol} --kind {key.kind} --since {since} --until {until}" + (
            f" --timeframe {timeframe(key.step_ms)}" if key.step_ms else ""
        )
        try:
            stored = load_file(folder / name, names, key)
        except (DataError, FileNotFoundError) as error:
            text = str(error).partition("found ")[2] if isinstance(error, DataError) else "no file"
            found.append(Finding(str(key), "error", f"{name}: expected the rows stored, found {text}; {again}"))
            continue
        if not stored.fits(entry):
            found.append(Finding(
                str(key), "error",
                f"{name}: expected hash {entry.content[:12]}, found {stored.content[:12]} (another file); {again}",
            ))
            continue
        parts.append(stored.rows)
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in manifest.files:
            found.append(Finding(str(key), "note", f"{path.name} is not in the manifest; the next fetch looks at it"))
    if parts:
        rows = {name: np.concatenate([p[name] for p in parts]) for name in names}
        found += _figures(key, rows)
        if key.kind == "trade":
            found += _beside(store, key, rows)
    span = store.span(key)
    if span and len(parts) == len(manifest.files):
        for gap in manifest.gaps(rows["ts"] if parts else np.empty(0, np.int64), *span):
            if gap.why != "before listing":
                found.append(Finding(str(key), "note", f"{gap.why} until {utc(gap.hi)}", gap.lo))
    return found


def _figures(key: SeriesKey, rows: Columns) -> Iterator[Finding]:
    ts, name = rows["ts"], str(key)
    for bad in np.flatnonzero(np.diff(ts) <= 0)[:5]:
        yield Finding(name, "error", "expected times that rise, found one that does not", int(ts[bad + 1]))
    if key.kind == "funding":
        yield from _several(name, "error", ts, ~np.isfinite(rows["rate"]), "a rate that is no number")
        yield from _several(name, "note", ts, np.abs(rows["rate"]) > 0.03, "a rate above 3 %")
        return
    prices = np.array([rows[n] for n in ("open", "high", "low", "close")])
    opened, high, low, close = prices
    yield from _several(name, "error", ts, ts % key.step_ms != 0, "a time off the grid")
    bad_price = ~np.isfinite(prices).all(axis=0) | (prices <= 0).any(axis=0)
    yield from _several(name, "error", ts, bad_price, "a price of zero or less, or none")
    crossed = (low > np.minimum(opened, close)) | (high < np.maximum(opened, close))
    yield from _several(name, "error", ts, crossed & ~bad_price, "a low or high inside open and close")
    yield from _several(name, "error", ts, rows["volume"] < 0, "a negative volume")
    if bad_price.any() or len(ts) < 3:
        return
    yield from _stale(name, ts, close, rows["volume"])
    logs = np.log(close)
    middle = (logs[:-2] + logs[2:]) / 2
    usual = float(np.median(np.abs(np.diff(logs))))
    lonely = np.zeros(len(ts), dtype=bool)
    lonely[1:-1] = np.abs(logs[1:-1] - middle) > max(JUMP, 30 * usual)
    yield from _several(name, "note", ts, lonely, "an outlier: a close far from both neighbours")
    wick = (high > (1 + WICK) * np.maximum(opened, close)) | (low < (1 - WICK) * np.minimum(opened, close))
    yield from _several(name, "note", ts, wick, f"an outlier: a wick of more than {WICK:.0%}")


def _stale(name: str, ts: NDArray[Any], close: NDArray[Any], volume: NDArray[Any]) -> Iterator[Finding]:
    """Long runs of one price without volume."""
    same = np.concatenate([[False], (np.diff(close) == 0) & ~(volume[1:] > 0)])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2):
        if last - first >= STALE_BARS:
            yield Finding(name, "note", f"a stale run: one price for {last - first + 1} bars", int(ts[first - 1]))


def _beside(store: LocalStore, key: SeriesKey, rows: Columns) -> Iterator[Finding]:
    """Last prices beside marks and index at the same instants."""
    for kind in ("mark", "index"):
        if kind == "mark" and parse_symbol(key.symbol).kind == "spot":
            continue
        other = store.key(key.symbol, kind, key.step_ms)
        try:
            there = store.read(other, int(rows["ts"][0]), int(rows["ts"][-1]) + 1, ["close"])
        except DataError:
            continue  # said where that series is checked
        _, mine, its = np.intersect1d(rows["ts"], there["ts"], assume_unique=True, return_indices=True)
        if not len(mine):
            continue
        with np.errstate(all="ignore"):
            ratio = rows["close"][mine] / there["close"][its] - 1
        far = np.flatnonzero(np.abs(ratio) > APART)
        if len(far):
            worst = far[np.argmax(np.abs(ratio[far]))]
            yield Finding(
                str(key), "note",
                f"{len(far)} of {len(mine)} bars more than {APART:.0%} from the {kind}, at most {ratio[worst]:+.1%}",
                int(rows["ts"][mine[worst]]),
            )


def _several(name: str, level: Any, ts: NDArray[Any], bad: NDArray[Any], what: str) -> Iterator[Finding]:
    at = np.flatnonzero(bad)
    if len(at):
        more = f" ({len(at)} such rows)" if len(at) > 1 else ""
        yield Finding(name, level, f"found {what}{more}", int(ts[at[0]]))
