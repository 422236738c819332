"""Finished cells on disk, so that a study that was stopped goes on where it was.

A cell's file is named by a hash of all its outcome rests on: the task, the strategy's source, code, rules, data. It
holds one line of JSON that says whose it is, then the result as compressed JSON with its SHA-256: nothing is run by
reading it, and what is damaged or foreign is left alone, noted, and computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from bt_margin.errors import InputError
from bt_margin.study.result import COLUMNS, RunResult

FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{64}\.cell")
_PARTS = {"row": dict, "series": dict, "events": list, "ledger": list, "warnings": list, "evidence": list,
          "data": list}
assert set(_PARTS) == {field.name for field in fields(RunResult)}


def encode(result: RunResult) -> bytes:
    """A result as compressed JSON: what crosses to this process, and what lies on disk. Floats keep every bit."""
    body = {name: getattr(result, name) for name in _PARTS}
    return zlib.compress(json.dumps(body, separators=(",", ":"), default=_plain).encode(), 6)


def decode(payload: bytes) -> RunResult:
    """Raises ValueError for what `encode` did not write."""
    try:
        body = json.loads(zlib.decompress(payload))
    except zlib.error as error:
        raise ValueError(f"not compressed data: {error}") from None
    if not isinstance(body, dict) or set(body) != set(_PARTS):
        raise ValueError("not a result")
    for name, kind in _PARTS.items():
        if not isinstance(body[name], kind):
            raise ValueError(f"{name} is not a {kind.__name__}")
    if set(body["row"]) != set(COLUMNS):
        raise ValueError("its columns are not those of this version")
    return RunResult(**body)


class Cells:
    """A folder of finished cells. `fresh`: what is there is not read, and is written over.

    `taken` counts the cells that were there, `notes` says what was found and not trusted.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        self.fresh = fresh
        self.taken = 0
        self.notes: list[str] = []
        if folder.exists() and not folder.is_dir():
            raise InputError(f"cells: expected a folder, found the file {folder}")
        if folder.is_dir() and not fresh:
            foreign = sorted(p.name for p in folder.iterdir()
                             if not _NAME.fullmatch(p.name) and not p.name.endswith(".tmp"))
            if foreign:
                self.notes.append(f"{folder}: not cells of a study, left alone: {', '.join(foreign[:5])}")

    def load(self, key: str) -> RunResult | None:
        """The finished cell of this key; None when there is none that can be trusted."""
        if self.fresh:
            return None
        path = self.folder / f"{key}.cell"
        try:
            head, _, payload = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(f"{path}: cannot be read ({error.strerror}), computed again")
            return None
        try:
            said = json.loads(head)
            if not isinstance(said, dict) or (said.get("format"), said.get("key")) != (FORMAT, key):
                raise ValueError("its first line is not that of this cell")
            if said.get("sha256") != hashlib.sha256(payload).hexdigest():
                raise ValueError("its hash is not that of its content")
            found = decode(payload)
        except ValueError as error:
            self.notes.append(f"{path}: not trusted ({error}), computed again")
            return None
        self.taken += 1
        return found

    def save(self, key: str, payload: bytes) -> None:
        """Write a finished cell, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "key": key, "sha256": hashlib.sha256(payload).hexdigest()}
        draft = self.folder / f"{key}.{os.getpid()}.tmp"
        try:
            draft.write_bytes(json.dumps(head).encode() + b"\n" + payload)
            os.replace(draft, self.folder / f"{key}.cell")
        finally:
            draft.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a result holds a {type(value).__name__}, which is not plain data")
