"""The files a strategy is made of, and whether this process runs what they say.

A cell that is kept is named by these files; the run uses what was imported. Where the two may differ there is a doubt,
and the cells of that strategy are neither taken nor kept.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import pkgutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_SITE = {"site-packages", "dist-packages"}
_STDLIB = tuple(Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib"))


@dataclass(frozen=True, slots=True)
class Sources:
    """`parts`: each file's module and bytes, each module that is not found, each package with its release, in order
    of name. `doubt`: why what runs may not be what the files say, empty where they agree."""

    parts: tuple[bytes, ...]
    doubt: str
    files: tuple[tuple[Path, str], ...]

    def unchanged(self) -> bool:
        """False once a file is another than it was when it was read here."""
        try:
            return all(hashlib.sha256(path.read_bytes()).hexdigest() == was for path, was in self.files)
        except OSError:
            return False


def sources_of(strategy: type, covered: Sequence[Path], release: Callable[[str], str]) -> Sources:
    """The strategy's module, those of all its base classes, and all they import, wherever in a file it stands.

    Left out: `covered` files, and the standard library; of installed packages only name and release count, except of
    those that hold the strategy or a base of it. Nothing is imported by looking.
    """
    homes = [base.__module__ for base in strategy.__mro__]
    own = {home.partition(".")[0] for home in homes} - {"backtrader"}
    left, seen, doubts = list(homes), set[str](), list[str]()
    parts: dict[str, tuple[bytes, ...]] = {}
    files: list[tuple[Path, str]] = []
    skipped = set(covered)
    for home in homes:
        if home == "__main__" or (home not in sys.modules and _spec(home) is None):
            doubts.append(f"{strategy.__name__} has no module of its own that can be read again ({home})")
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if "." in name:
            left.append(name.rpartition(".")[0])
        found = _file(name)
        if isinstance(found, str):
            parts[name] = (found.encode(),)
            continue
        if found is None or found in skipped or _standard(found):
            continue
        top = name.partition(".")[0]
        if _SITE & set(found.parts) and top not in own:
            parts[top] = (b"release", release(top).encode())
            continue
        content = found.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        parts[name] = (b"file", content)
        files.append((found, digest))
        if not _agrees(name, found, digest):
            doubts.append(f"{found.name} changed since it was loaded, or may have")
        left += _imports(name, found, content)
        left += _held(sys.modules.get(name))
    flat = tuple(part for name in sorted(parts) for part in (name.encode(), *parts[name]))
    return Sources(flat, "; ".join(sorted(set(doubts))), tuple(sorted(files)))


# -- which files --------------------------------------------------------------------------------------------------


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, found as an import would, but without importing its parents."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__spec__", None) is not None:
        return loaded.__spec__
    parent = name.rpartition(".")[0]
    try:
        if not parent:
            return importlib.util.find_spec(name)
        package = sys.modules.get(parent)
        above = None if package is not None else _spec(parent)
        places = getattr(package, "__path__", None) if above is None else above.submodule_search_locations
        return PathFinder.find_spec(name, list(places)) if places is not None else None
    except (ImportError, ValueError, AttributeError):
        return None


def _file(name: str) -> Path | str | None:
    """A module's file; None where it needs none (built in, a folder only), the word missing where there is no such."""
    spec = _spec(name)
    if spec is None:
        loaded = sys.modules.get(name)
        home = getattr(loaded, "__file__", None)
        return Path(home).resolve() if home else ("missing" if loaded is None else None)
    if not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin).resolve()
    return path if path.is_file() else "missing"


def _standard(path: Path) -> bool:
    return not _SITE & set(path.parts) and any(root in path.parents for root in _STDLIB)


def _imports(name: str, path: Path, content: bytes) -> Iterator[str]:
    """Modules that a file imports, at its top or in a function; `importlib.import_module("name")` too."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # compiled: its bytes are all there is
        return
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield base
            yield from _inside(base, [alias.name for alias in node.names])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield _absolute(node.args[0].value, package)


def _absolute(name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(name, package or None)
    except ImportError:  # it would not be found by running either
        return name.lstrip(".")


def _inside(base: str, names: Sequence[str]) -> Iterator[str]:
    """Those of the names in `from base import names` that are modules; for a star any module of the package."""
    spec = _spec(base)
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        return
    for name in names:
        if name == "*":
            yield from (f"{base}.{found.name}" for found in pkgutil.iter_modules(list(places)))
        elif _spec(f"{base}.{name}") is not None:
            yield f"{base}.{name}"


def _held(module: ModuleType | None) -> Iterator[str]:
    """Modules whose things a loaded module holds, however it came by them."""
    for value in list(vars(module).values()) if module is not None else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules and name != "__main__":
            yield name


# -- whether the process runs them --------------------------------------------------------------------------------


def _process_start() -> int:
    """When this process began, ns since 1970; 0 where the system does not say as Linux does: then nobody knows."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time_ns() - int(ago * 1e9)
    except (OSError, ValueError, AttributeError, IndexError):
        return 0


_START = _process_start()
_loaded_after: dict[str, int] = {}
"""By module: a moment (ns) after which it was read. Others were read at any time since the process began."""
_runs: dict[str, tuple[object, str]] = {}
"""By module: the import that was last seen (None: not yet imported), and the SHA-256 of what it read, "" if unknown."""


@contextmanager
def importing() -> Iterator[None]:
    """Remembers when the modules that are imported inside were read."""
    before, moment = set(sys.modules), time.time_ns()
    yield
    for name in set(sys.modules) - before:
        _loaded_after[name] = moment


def _agrees(name: str, path: Path, digest: str) -> bool:
    """True when the module in memory, if any, is known to be what the file now holds."""
    module = sys.modules.get(name)
    # a reload makes another spec, so what was seen before it says nothing about it
    token = None if module is None else (getattr(module, "__spec__", None) or module)
    if token is None:
        _runs[name] = None, digest
        return True
    seen, was = _runs.get(name, (token, None))
    if was is None or (seen is not None and seen is not token):
        changed = path.stat()
        known = max(changed.st_mtime_ns, changed.st_ctime_ns) <= _loaded_after.get(name, _START)
        was = digest if known else ""
    elif seen is None and was != digest:
        was = ""
    _runs[name] = token, was
    return was == digest
