"""What was asked of a venue, what came, and what is known about the rest: one JSON file per series."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from data_fetch.series import DataError, timeframe
from data_fetch.spans import Span, holes, minus, union, within
from data_fetch.venues import KINDS, parse_symbol, venue_named

GapClass = Literal["not asked", "suspect", "venue gap", "before listing", "after expiry", "beyond horizon"]
CONFIRM_MS = 3_600_000
"""A hole is the venue's when it was still there this long after it was first seen; until then it is suspect."""
SCHEMA = 1
KEEP_RUNS = 100


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """Which series: exchange, unified symbol, kind (trade, mark, index, funding), bar length (0: events)."""

    exchange: str
    symbol: str
    kind: str
    step_ms: int

    def __str__(self) -> str:
        bars = f" {timeframe(self.step_ms)}" if self.step_ms else ""
        return f"{self.exchange} {self.symbol} {self.kind}{bars}"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file as last written; `content` hashes its rows, so it does not depend on the Parquet version.

    A file with more rows than its entry was left by a writer that was killed before the manifest followed: it counts.
    """

    rows: int
    first_ms: int
    last_ms: int
    content: str
    size: int


@dataclass(frozen=True, slots=True)
class Doubt:
    """[lo, hi) was asked `times` times and no row came."""

    lo: int
    hi: int
    first_asked: int
    last_asked: int
    times: int

    @property
    def confirmed(self) -> bool:
        return self.times > 1 and self.last_asked - self.first_asked >= CONFIRM_MS


@dataclass(frozen=True, slots=True)
class Gap:
    """Time inside [lo, hi) that has no row, and why."""

    lo: int
    hi: int
    why: GapClass


@dataclass
class Manifest:
    """The state of one series."""

    key: SeriesKey
    market_id: str
    asked: list[Span] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)
    listed_ms: int | None = None
    expires_ms: int | None = None
    horizon_ms: int | None = None
    oddities: dict[str, int] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def doubt(self, lo: int, hi: int, missing: list[Span], now: int) -> None:
        """Notes that all of [lo, hi) was asked at `now` and `missing` stayed empty."""
        rest, fresh = [], []
        for old in self.doubts:
            rest += [replace(old, lo=a, hi=b) for a, b in minus([(old.lo, old.hi)], [(lo, hi)])]
        for a, b in missing:
            before = [d for d in self.doubts if d.lo < b and a < d.hi]
            first = min((d.first_asked for d in before), default=now)
            fresh.append(Doubt(a, b, first, now, 1 + max((d.times for d in before), default=0)))
        self.doubts = _joined(rest + fresh)

    def forget(self, lo: int, hi: int) -> None:
        """[lo, hi) counts as never asked: its rows are gone."""
        self.asked = minus(self.asked, [(lo, hi)])
        kept = []
        for d in self.doubts:
            kept += [replace(d, lo=a, hi=b) for a, b in minus([(d.lo, d.hi)], [(lo, hi)])]
        self.doubts = kept

    def gaps(self, ts: Any, lo: int, hi: int) -> list[Gap]:
        """Every hole of [lo, hi), classed; `ts` are the times of the rows there (of events: only what is doubtful)."""
        found = [Gap(a, b, "not asked") for a, b in minus([(lo, hi)], self.asked)]
        asked = within(self.asked, lo, hi)
        if self.key.step_ms:
            missing = [hole for a, b in asked for hole in holes(ts, self.key.step_ms, a, b)]
        else:
            missing = [p for d in self.doubts for p in within(asked, d.lo, d.hi)]
        for a, b in missing:
            found += self._classed(a, b)
        return sorted(found, key=lambda gap: gap.lo)

    def _classed(self, lo: int, hi: int) -> list[Gap]:
        gaps: list[Gap] = []
        if self.listed_ms is not None and lo < self.listed_ms:
            gaps.append(Gap(lo, min(hi, self.listed_ms), "before listing"))
            lo = min(hi, self.listed_ms)
        if self.expires_ms is not None and hi > self.expires_ms:
            gaps.append(Gap(max(lo, self.expires_ms), hi, "after expiry"))
            hi = max(lo, self.expires_ms)
        if self.horizon_ms is not None and lo < min(hi, self.horizon_ms):
            gaps.append(Gap(lo, min(hi, self.horizon_ms), "beyond horizon"))
            lo = min(hi, self.horizon_ms)
        if lo < hi:
            sure = union((d.lo, d.hi) for d in self.doubts if d.confirmed)
            gaps += [Gap(a, b, "suspect") for a, b in minus([(lo, hi)], sure)]
            gaps += [Gap(a, b, "venue gap") for a, b in within(sure, lo, hi)]
        return gaps

    @property
    def content_rows(self) -> int:
        """Rows in all files."""
        return sum(entry.rows for entry in self.files.values())

    def dump(self) -> str:
        data = {"schema": SCHEMA, **asdict(self), "runs": self.runs[-KEEP_RUNS:]}
        return json.dumps({**data, "sha256": _seal(data)}, indent=1, sort_keys=True)

    @classmethod
    def load(cls, text: str | bytes, where: str) -> Manifest:
        """Reads `dump` back. Raises DataError when the text is not a whole manifest, so that none is half believed."""
        import msgspec

        try:
            data = json.loads(text)
            if data.get("schema") != SCHEMA:
                raise DataError(f"{where}: expected a manifest of schema {SCHEMA}; it was written by another version")
            seal = data.pop("sha256", None)  # manifests of the first days have none
            if seal not in (None, _seal(data)):
                raise ValueError("figures that do not fit its own hash")
            found = msgspec.convert(data, cls)
            if found.market_id != _market_id(found.key) or not all(map(_FILE.fullmatch, found.files)):
                raise ValueError(f"the id {found.market_id} and the files {', '.join(found.files)[:80]}")
            found.asked = union(found.asked)
            return found
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, DataError) and str(error).startswith(where):
                raise
            raise DataError(f"{where}: expected a manifest, found {type(error).__name__}: {error}; "
                            "fetch the series again and it is rebuilt") from None


_FILE = re.compile(r"[12]\d{3}(-(0[1-9]|1[0-2]))?\.parquet")


def _seal(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _market_id(key: SeriesKey) -> str:
    """The venue's name of a series. Raises DataError for a key of no series."""
    if key.kind not in KINDS or key.step_ms < 0 or (key.step_ms == 0) != (key.kind == "funding"):
        raise DataError(f"expected a series, found {key.kind} of {key.step_ms} ms")
    return venue_named(key.exchange).market_id(parse_symbol(key.symbol), key.kind)


def _joined(doubts: list[Doubt]) -> list[Doubt]:
    """Neighbours that were asked alike become one, so that the list stays short."""
    joined: list[Doubt] = []
    for d in sorted(doubts, key=lambda d: d.lo):
        last = joined[-1] if joined else None
        if last and last.hi == d.lo and (last.first_asked, last.last_asked, last.times) == (
            d.first_asked, d.last_asked, d.times,
        ):
            joined[-1] = replace(last, hi=d.hi)
        else:
            joined.append(d)
    return joined
