"""Files of rows: their names, what is in which, reading and writing them whole."""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_fetch.manifest import FileEntry, SeriesKey
from data_fetch.series import DataError
from data_fetch.spans import Span, within
from data_fetch.venues import CANDLE_COLUMNS, FUNDING_COLUMNS, TRADE_COLUMNS

Columns = dict[str, NDArray[Any]]
"""`ts` (int64 ms) and the other columns, all of one length."""

_HOUR = 3_600_000
_RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|COM\d|LPT\d)(?:$|[^A-Z0-9])")


def segment(text: str) -> str:
    """One folder name for any text: A-Z, 0-9 and - stay, the rest is percent-encoded.

    Lower case is encoded too, so names differ on disks that ignore case; dots and slashes never survive, so no name
    leads out of the store; device names of Windows get their first letter encoded.
    """
    if not 0 < len(text) <= 80:
        raise DataError(f"store: expected a name of 1 to 80 characters, found {text!r}")
    safe = "".join(
        c if c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-" else "".join(f"%{b:02X}" for b in c.encode("utf-8"))
        for c in text
    )
    return f"%{ord(safe[0]):02X}{safe[1:]}" if _RESERVED.match(safe) else safe


def columns_of(kind: str) -> tuple[str, ...]:
    """The stored columns of a kind, `ts` first."""
    return ("ts", *{"trade": TRADE_COLUMNS, "funding": FUNDING_COLUMNS}.get(kind, CANDLE_COLUMNS))


def content_hash(columns: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the rows themselves: column names and little-endian values, every NaN alike."""
    digest = hashlib.sha256()
    for name, values in columns.items():
        digest.update(name.encode())
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.nan, values).astype("<f8")
        else:
            values = values.astype("<i8")
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


# -- partitions -------------------------------------------------------------------------------------------------


def partition(step_ms: int, ts: int) -> str:
    """The file that holds an instant: its month for bars under an hour, else its year."""
    monthly = 0 < step_ms < _HOUR
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m}.parquet" if monthly else (
        f"{datetime.fromtimestamp(ts / 1000, UTC):%Y}.parquet")


def partition_span(name: str) -> Span:
    """[from, until) of a file."""
    year, _, month = name.removesuffix(".parquet").partition("-")
    first = datetime(int(year), int(month or 1), 1, tzinfo=UTC)
    after = datetime(first.year + (1 if not month or first.month == 12 else 0),
                     1 if not month else first.month % 12 + 1, 1, tzinfo=UTC)
    return round(first.timestamp() * 1000), round(after.timestamp() * 1000)


def partitions(lo: int, hi: int, names: Iterable[str]) -> list[str]:
    """Which of these files reach into [lo, hi), in order of time."""
    return sorted(name for name in names if within([partition_span(name)], lo, hi))


def split(step_ms: int, rows: Columns) -> Iterator[tuple[str, Columns]]:
    """The rows of each file."""
    ts, at = rows["ts"], 0
    while at < len(ts):
        name = partition(step_ms, int(ts[at]))
        end = int(np.searchsorted(ts, partition_span(name)[1]))
        yield name, {column: values[at:end] for column, values in rows.items()}
        at = end


def merge(old: Columns, new: Columns) -> Columns:
    """Both, sorted by time; where both have a row the new one stands."""
    if not len(old["ts"]) or (len(new["ts"]) and new["ts"][0] > old["ts"][-1]):
        return {name: np.concatenate([old[name], new[name]]) for name in old}
    kept = ~np.isin(old["ts"], new["ts"])
    ts = np.concatenate([old["ts"][kept], new["ts"]])
    order = np.argsort(ts, kind="stable")
    return {name: np.concatenate([old[name][kept], new[name]])[order] for name in old}


def differs(old: Columns, merged: Columns) -> bool:
    at = np.searchsorted(merged["ts"], old["ts"])
    return any(not np.array_equal(old[n], merged[n][at], equal_nan=n != "ts") for n in old if n != "served_ms")


# -- files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that was read and fits its own hash."""

    rows: Columns
    content: str
    size: int

    @property
    def entry(self) -> FileEntry:
        ts = self.rows["ts"]
        return FileEntry(len(ts), int(ts[0]), int(ts[-1]), self.content, self.size)

    def fits(self, entry: FileEntry) -> bool:
        """Whether it is the file of the manifest, or one that a writer put in place since."""
        return self.content == entry.content or len(self.rows["ts"]) > entry.rows


def load_file(path: Path, columns: Sequence[str], key: SeriesKey | None = None) -> Stored:
    """Reads a file and checks it against its own hash.

    Raises FileNotFoundError, or DataError when it is damaged, not a file of ours, or one of another series than `key`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
        table = pq.read_table(pa.BufferReader(data))
        meta = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        for c in columns:
            if table.column(c).type.to_pandas_dtype() is not dtype(c) or table.column(c).null_count:
                raise ValueError(f"{c} as {table.column(c).type} with {table.column(c).null_count} empty")
        rows = {c: np.ascontiguousarray(table.column(c).to_numpy()) for c in columns}
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{path.name}: expected a Parquet file of {', '.join(columns)}, found {text[:120]}") from None
    content = content_hash(rows)
    if meta.get("content") != content or not len(rows["ts"]):
        raise DataError(f"{path.name}: expected rows that fit the hash in the file, found others")
    if key is not None and any(meta.get(name) != value for name, value in _about(key).items()):
        raise DataError(f"{path.name}: expected rows of {key}, found those of {meta.get('symbol')} {meta.get('kind')}")
    return Stored(rows, content, len(data))


def write_file(path: Path, rows: Columns, key: SeriesKey) -> FileEntry:
    """Writes a file whole or not at all. The same rows make the same bytes, however they came."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = content_hash(rows)
    table = pa.table(rows).replace_schema_metadata({**_about(key), "content": content})
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=False, write_statistics=["ts"],
        column_encoding={n: "DELTA_BINARY_PACKED" if v.dtype.kind == "i" else "PLAIN" for n, v in rows.items()},
    )
    data = sink.getvalue()
    replace_file(path, data)
    return Stored(rows, content, len(data)).entry


def _about(key: SeriesKey) -> dict[str, str]:
    return {"exchange": key.exchange, "symbol": key.symbol, "kind": key.kind, "step_ms": str(key.step_ms)}


def replace_file(path: Path, data: bytes) -> None:
    """Atomic: a temporary file in the same folder, flushed to the disk, takes the place of the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        for attempt in range(10):
            try:
                os.replace(temporary, path)
                break
            except PermissionError:  # Windows: a reader holds the old file for a moment
                if attempt == 9:
                    raise
                time.sleep(0.05 * (attempt + 1))
    except OSError as error:
        raise DataError(f"store: {path} cannot be written: {error}; the old file stands. Make room and run again"
                        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network disks cannot; the file is in its place all the same
                os.fsync(folder)  # the name itself must survive a power cut
        finally:
            os.close(folder)


def only(rows: Columns, names: Sequence[str]) -> Columns:
    return {name: rows[name] for name in names}


def dtype(column: str) -> Any:
    return np.int64 if column in ("ts", "served_ms") else np.float64
