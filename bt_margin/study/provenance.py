"""What an outcome rests on besides its task: code, rules, strategy and data, each as a SHA-256."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bt_margin.study.sources import Sources, sources_of

PACKAGES = ("backtrader", "numpy", "scipy")
"""Others whose release may change a result."""
_SHOWN_ONLY = ("report", "cli")
"""Parts of bt_margin that show results and never make them."""
_ROOT = Path(__file__).resolve().parents[2]


@cache
def versions() -> dict[str, str]:
    """Releases, and hashes of this code and of the rule tables."""
    from bt_margin import __version__

    return {
        "python": platform.python_version(), "bt-margin": __version__,
        **{name: _release(name) for name in PACKAGES},
        "code sha256": code_hash(), "rules sha256": rules_hash(),
    }


@cache
def code_hash() -> str:
    """Of every source file of bt_margin (without report and command line) and data_fetch, and of the releases."""
    releases = [platform.python_version(), *(f"{name} {_release(name)}" for name in PACKAGES)]
    return _digest([*(text.encode() for text in releases), *_contents(_code_files(), _ROOT)])


@cache
def rules_hash() -> str:
    """Of the venue's rule tables."""
    from bt_margin import rules

    root = Path(str(rules.__file__)).parent
    return _digest(_contents(sorted(root.rglob("*.toml")), root))


def strategy_sources(strategy: type) -> Sources:
    """The files a strategy is made of, beyond those of `code_hash`."""
    return sources_of(strategy, _code_files(), _release)


def strategy_hash(sources: Sources) -> str:
    """Of all that `strategy_sources` found."""
    return _digest(sources.parts)


def feeds_hash(feeds: Sequence[Any]) -> str:
    """Of every array that a run reads: prices, marks, index, clock, funding."""
    parts: list[bytes] = []
    for feed in feeds:
        parts += [str(feed.p.name).encode(), np.ascontiguousarray(feed.p.close_ms).tobytes()]
        for name, column in sorted(feed.p.columns.items()):
            parts += [name.encode(), np.ascontiguousarray(column).tobytes()]
        if feed.p.funding is not None:
            parts += [np.ascontiguousarray(feed.p.funding.times).tobytes(),
                      np.ascontiguousarray(feed.p.funding.rates).tobytes()]
    return _digest(parts)


def _code_files() -> list[Path]:
    return [
        path for package in ("bt_margin", "data_fetch") for path in sorted((_ROOT / package).rglob("*.py"))
        if not path.relative_to(_ROOT / package).parts[0].startswith(_SHOWN_ONLY)
    ]


def _contents(files: Iterable[Path], root: Path) -> Iterator[bytes]:
    for path in files:
        yield path.relative_to(root).as_posix().encode()
        yield path.read_bytes()


def _digest(parts: Iterable[bytes]) -> str:
    """Each part with its length, so that no two lists of parts read the same."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()


def _release(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
