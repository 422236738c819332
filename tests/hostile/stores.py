"""Stores: files damaged, foreign, pickled, of other types, and names that would lead elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from bt_margin.errors import BtMarginError
from bt_margin.plugin import feeds
from data_fetch import DataError, LocalStore
from data_fetch.local import Page
from data_fetch.quality import check
from tests.hostile.law import NUMBERS, TEXTS, Target, damaged, finite

START, MINUTE, BARS = 1_760_050_800_000, 60_000, 200
END = START + BARS * MINUTE
SWAP = "BTC/USDT:USDT"
TRADE, FUNDING = "okx/trade/BTC-USDT-SWAP/1min", "okx/funding/BTC-USDT-SWAP/events"


@cache
def whole() -> dict[str, bytes]:
    """The files of a small store as they should be."""
    ts = START + MINUTE * np.arange(BARS, dtype=np.int64)
    close = 100.0 + np.random.default_rng(1).random(BARS).round(2)
    candle = {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": close}
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder)
        for kind, rows in (("trade", {**candle, "contracts": close, "quote_volume": close}), ("mark", candle)):
            key = store.key(SWAP, kind, MINUTE)
            store.writer(key).commit([Page((START, END), {"ts": ts, **rows})], END)
        key = store.key(SWAP, "funding", 0)
        at = np.array([START + 3_600_000], dtype=np.int64)
        rows = {"ts": at, "rate": np.array([1e-4]), "served_ms": at}
        store.writer(key).commit([Page((START, END), rows)], END)
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*"))
                if path.is_file() and path.name != ".lock"}


def answers(root: Path) -> dict[str, Any]:
    """Everything that reads a store: what each reading says, an error of ours by its name."""
    store = LocalStore(root)
    key = store.key(SWAP, "trade", MINUTE)

    def candles(kind: Any) -> Any:
        found = store.series(SWAP, kind, MINUTE, START, END)
        return found.ts.tolist(), found.close.tolist(), found.volume.tolist()

    def funding() -> Any:
        found = store.funding(SWAP, START, END)
        return None if found is None else (found.ts.tolist(), found.rate.tolist())

    def feed() -> Any:
        (found,) = feeds.from_store(store, [SWAP], since=START, until=END, timeframe="1m", holes="drop")
        return found.p.columns["close"].tolist()

    ways = {
        "trade": lambda: candles("trade"), "mark": lambda: candles("mark"), "funding": funding, "feed": feed,
        "there": lambda: list(map(str, store.available())), "gaps": lambda: store.gaps(key, START, END),
        "hash": lambda: store.content(key), "stored": lambda: list(map(str, store.stored())),
        "span": lambda: store.span(key), "check": lambda: list(map(str, check(store))),
        "damaged": lambda: [str(error) for _, error in store.damaged()],
    }
    found = {}
    for name, ask in ways.items():
        try:
            found[name] = ask()
        except (DataError, BtMarginError):
            found[name] = None
    return found


@cache
def right() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _lay(Path(folder), whole())
        found = answers(Path(folder))
    assert all(answer is not None for answer in found.values()), found
    return found


def _lay(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


class Bomb:
    """What a pickle of this does when it is read."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("exploded",))


def _parquet(columns: dict[str, Any], about: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(about), sink)
    return sink.getvalue()


def foreign_files() -> list[bytes]:
    """Files of other kinds that bear our names."""
    n = [1, 2, 3]
    return [
        b"", b"PAR1", b"PAR1PAR1", pickle.dumps(Bomb()), b"\x1f\x8b" + b"\0" * 50, b"{}", b"[" * 20_000, b"null",
        b"[]", b"\xff\xfe{}", b'{"schema": 1}', b'{"schema": 1, "key": null}',
        _parquet({"ts": n}, {}), _parquet({"ts": ["a", "b", "c"], "rate": n, "served_ms": n}, {}),
        _parquet({name: [[1], [2], None] for name in ("ts", "open", "high", "low", "close", "volume", "contracts",
                                                      "quote_volume")}, {}),
        _parquet({"ts": pa.array(n, pa.timestamp("ns")), "rate": [1.0, None, 2.0], "served_ms": n}, {"content": "x"}),
        _parquet({"ts": [1, None, 3], "rate": pa.array(n, pa.decimal128(9, 2)), "served_ms": n}, {}),
    ]


FOREIGN = tuple(foreign_files())


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, Any]:
    """(file, its new content; None: gone, "folder": a folder bears its name, "link": it leads elsewhere)."""
    name = draw(st.sampled_from(sorted(whole())))
    content = whole()[name]
    what = draw(st.sampled_from(("byte", "byte", "cut", "foreign", "gone", "folder", "link", "manifest", "manifest")))
    if what in ("gone", "folder", "link"):
        return name, what
    if what == "cut":
        return name, content[: draw(st.integers(0, len(content)))]
    if what == "foreign":
        return name, draw(st.sampled_from(FOREIGN))
    if what == "byte":
        at = draw(st.integers(0, len(content) - 1))
        return name, content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 1:]
    name = draw(st.sampled_from([n for n in sorted(whole()) if n.endswith(".json")]))
    data = draw(damaged((json.loads(whole()[name]),)))
    if isinstance(data, dict) and draw(st.booleans()):  # a seal that fits: whoever wrote it meant it
        data.pop("sha256", None)
        data["sha256"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return name, json.dumps(data).encode()


def store_law(case: tuple[str, Any]) -> None:
    """Each reading tells the rows that were stored or refuses; nothing is run, nothing else is touched."""
    name, what = case
    with tempfile.TemporaryDirectory() as folder:
        root, elsewhere = Path(folder, "store"), Path(folder, "elsewhere")
        elsewhere.mkdir()
        (elsewhere / "file").write_bytes(b"mine")
        _lay(root, whole())
        path = root / name
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            path.unlink()
            if what == "folder":
                path.mkdir()
            elif what == "link":
                path.symlink_to(elsewhere / "file")
        before = os.getcwd()
        os.chdir(folder)
        try:
            found = answers(root)
            store = LocalStore(root)
            for kind, step in (("trade", MINUTE), ("funding", 0)):  # what the next fetch does first
                key = store.key(SWAP, kind, step)
                try:
                    store.writer(key).verify([(START, END)])
                except DataError:
                    continue
        finally:
            os.chdir(before)
        assert not Path(folder, "exploded").exists()
        assert [p.name for p in sorted(Path(folder).iterdir())] == ["elsewhere", "store"]
        assert (elsewhere / "file").read_bytes() == b"mine"
        assert [p.name for p in elsewhere.iterdir()] == ["file"]
    for kind in ("trade", "mark", "funding", "feed", *(() if name.endswith(".json") else ("hash",))):
        assert found[kind] in (None, right()[kind]), kind
    finite(found["check"])


def symbol_law(text: str) -> None:
    """A name is a symbol whose folder lies in the store, or refused."""
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder)
        for kind, step in (("trade", MINUTE), ("index", MINUTE), ("funding", 0)):
            try:
                path = store.folder(store.key(text, kind, step))
            except DataError:
                continue
            assert path.resolve().is_relative_to(Path(folder).resolve())
            assert len(path.relative_to(folder).parts) == 4
            try:
                assert store.coverage(text, kind, step, START, END) == 0
            except DataError:
                continue
        assert not list(Path(folder).iterdir())


def targets() -> list[Target]:
    part = st.sampled_from((*TEXTS, "..", "/", "\\", "AUX", "COM1", "BTC", "~", "%2e%2e", "$HOME", "A" * 300))
    part |= st.text(max_size=6)
    symbols = part | st.builds("{}/{}".format, part, part) | st.builds("{}/{}:{}".format, part, part, part) | st.builds(
        "BTC/USDT:USDT-{}".format, part) | st.sampled_from(NUMBERS).map(str)
    return [
        Target("store", damage(), store_law, 20),
        Target("symbol", symbols, symbol_law, 200),
    ]
