"""Mutation testing: `python -m tests.mutation bt_margin/rules/tiers.py tests/unit/test_rules_tiers.py ...`.

Each mutant changes one thing of a module: a comparison, an operator, a constant, a condition, a result, a statement.
The tests that reach its line run against it, quickest first, until one fails. What survives is printed as a diff, to be
read: equivalent, unreachable, or a gap in the tests. More than `--most` mutants are sampled with a fixed seed.

Nothing is written to the tree. Tests are collected once; each mutant is a fork in which the code of the functions is
replaced. What changes more than a function's body runs with everything imported anew, and so does with `--anew`
whatever survives: a cache or a shared fixture may hide from a test that it reaches a line.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import gc
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import pytest

_QUIET = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
_NAMES = {"min": "max", "larger": "smaller", "minimum": "maximum", "floor": "ceil", "any": "all", "less": "less_equal",
          "cumsum": "asarray", "bisect_left": "bisect_right", "abs": "float"}  # fmt: skip
_NAMES |= {b: a for a, b in _NAMES.items() if b not in ("float", "asarray")}


@dataclass(frozen=True)
class Mutant:
    number: int
    line: int
    what: str
    tree: ast.Module


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    made: list[Mutant] = []
    tree = ast.parse(source)
    for place, node in enumerate(_nodes(tree)):
        for what, change in _changes(node):
            other = copy.deepcopy(tree)
            change(list(_nodes(other))[place])
            made.append(Mutant(len(made), node.lineno, what, ast.fix_missing_locations(other)))
    return made


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes worth changing: no annotations, docstrings, messages, imports, type-checking blocks."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            if hasattr(node, "lineno"):
                yield node
            if not isinstance(node, ast.Raise):
                yield from _nodes(node)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    def put(name: str, value: object) -> Callable[[ast.AST], None]:
        return lambda found: setattr(found, name, value)

    def drop(found: ast.AST) -> None:
        found.__class__ = ast.Pass  # type: ignore[assignment]

    match node:
        case ast.Compare(ops=[*ops]):
            for i, op in enumerate(ops):
                for other in _SWAPS[type(op)]:
                    yield "compare", put("ops", [*ops[:i], other(), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            for other in _SWAPS.get(type(op), ()):
                yield "operator", put("op", other())
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", put("op", ast.UAdd())
        case ast.UnaryOp(op=ast.Not()):
            yield "not", lambda found: (setattr(found, "op", ast.Not()), setattr(found, "operand", ast.UnaryOp(
                ast.Not(), found.operand)))  # type: ignore[attr-defined]
        case ast.Name(id=name) if name in _NAMES:
            yield "name", put("id", _NAMES[name])
        case ast.Attribute(attr=name) if name in _NAMES:
            yield "name", put("attr", _NAMES[name] if name != "abs" else "asarray")
        case ast.Constant(value=bool() as value):
            yield "boolean", put("value", not value)
        case ast.Constant(value=int() as value):
            yield "constant", put("value", value + 1)
            if value:
                yield "constant", put("value", value - 1)
        case ast.Constant(value=float() as value):
            yield "constant", put("value", value * 1.1 if value else 1.0)
        case ast.Constant(value=str() as value):
            yield "word", put("value", value + "_")
        case ast.Return(value=ast.AST() as value) if not isinstance(value, ast.Constant):
            yield "result", put("value", ast.Constant(None))
        case ast.If() | ast.IfExp():
            yield "always", put("test", ast.Constant(True))
            yield "never", put("test", ast.Constant(False))
        case ast.Raise() | ast.Continue() | ast.Expr():
            yield "dropped", drop
        case ast.ListComp() | ast.GeneratorExp() | ast.DictComp() | ast.SetComp():
            for i, part in enumerate(node.generators):
                if part.ifs:
                    yield "filter", lambda found, i=i: setattr(found.generators[i], "ifs", [])  # type: ignore[misc]
    if isinstance(node, ast.AugAssign):
        yield "dropped", drop


def shown(source: str, mutant: Mutant) -> str:
    """The mutant as the lines that differ."""
    before, after = ast.unparse(ast.parse(source)), ast.unparse(mutant.tree)
    lines = list(unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[3:]
    return "\n".join(f"    {line}" for line in lines)


class Runner:
    """A pytest plugin that runs the collected tests once as they are, and then once for each mutant."""

    def __init__(self, path: Path, module: str, chosen: list[Mutant], anew: bool) -> None:
        self.anew = anew
        self.path, self.module, self.chosen = path, module, chosen
        self.items: list[pytest.Item] = []
        self.reached: dict[str, tuple[float, list[int]]] = {}
        self.failed = False
        self.killed: dict[int, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = session.items
        with tempfile.TemporaryDirectory() as folder:
            self._baseline(Path(folder) / "reached")
            killers: list[str] = []
            for mutant in self.chosen:
                order = self._covering(mutant.line, killers)
                total = sum(self.reached[item.nodeid][0] for item in order)
                if not order:
                    continue
                answer = self._one(mutant, order, 20 + int(5 * total), Path(folder) / "answer")
                if answer:
                    self.killed[mutant.number] = answer
                    killers[:] = [answer, *(k for k in killers if k != answer)][:8]
        return True

    def _covering(self, line: int, killers: list[str]) -> list[pytest.Item]:
        """The tests that reach a line; all where no test's own run does (it runs at import)."""
        found = [item for item in self.items if line in self.reached[item.nodeid][1]]
        if not found and line in self._import_lines():
            found = list(self.items)
        return sorted(found, key=lambda item: (item.nodeid not in killers, self.reached[item.nodeid][0]))

    def _import_lines(self) -> set[int]:
        """Lines outside of functions."""
        source = self.path.read_text("utf-8")
        inside: set[int] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                inside |= set(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
        return set(range(1, len(source.splitlines()) + 1)) - inside

    def _baseline(self, answer: Path) -> None:
        child = os.fork()
        if not child:
            with _quiet():
                found = {}
                hit: set[int] = set()
                wanted = str(self.path)

                def local(frame: types.FrameType, event: str, arg: object) -> object:
                    if event == "line":
                        hit.add(frame.f_lineno)
                    return local

                def line(frame: types.FrameType, event: str, arg: object) -> object:
                    return local if frame.f_code.co_filename == wanted else None

                for item in self.items:
                    hit.clear()
                    began = time.perf_counter()
                    sys.settrace(line)
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                    sys.settrace(None)
                    if self.failed:
                        answer.write_text(json.dumps({"failed": item.nodeid}))
                        os._exit(1)
                    found[item.nodeid] = (time.perf_counter() - began, sorted(hit))
                answer.write_text(json.dumps(found))
            os._exit(0)
        os.waitpid(child, 0)
        self.reached = json.loads(answer.read_text())
        if "failed" in self.reached:
            raise SystemExit(f"fails without a mutant: {self.reached['failed']}")

    def _one(self, mutant: Mutant, order: list[pytest.Item], seconds: int, answer: Path) -> str:
        """The test that kills a mutant, "" where none does."""
        answer.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            with _quiet():
                try:
                    if not _replaced(sys.modules[self.module], mutant, str(self.path)):
                        os._exit(3)
                    for item in order:
                        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                        if self.failed:
                            answer.write_text(item.nodeid)
                            os._exit(1)
                except BaseException as error:
                    answer.write_text(f"({type(error).__name__})")
                    os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "(timeout)"
        code = os.WEXITSTATUS(status)
        if code == 1:
            return answer.read_text()
        if code == 0 and not self.anew:
            return ""
        return self._anew(mutant, order, seconds + 30)

    def _anew(self, mutant: Mutant, order: list[pytest.Item], seconds: int) -> str:
        """The same in a fork that imports the package and the tests again."""
        names = list(dict.fromkeys(item.nodeid.split('::')[0] for item in self.items))
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            with _quiet():
                for name in [n for n in sys.modules if n.split(".")[0] in ("bt_margin", "strategies", "tests")]:
                    if name not in ("tests", "tests.mutation"):
                        del sys.modules[name]
                sys.meta_path.insert(0, _Finder(self.module, mutant, str(self.path)))
                code = pytest.main([*names, "-x", *_QUIET])
            os._exit(0 if code == pytest.ExitCode.OK else 1)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "(timeout)"
        return "(imported anew)" if os.WEXITSTATUS(status) else ""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, module: str, mutant: Mutant, path: str) -> None:
        self.module, self.mutant, self.path = module, mutant, path

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.module else None

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self.mutant.tree, self.path, "exec"), module.__dict__)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _codes(part)


def _replaced(module: types.ModuleType, mutant: Mutant, path: str) -> bool:
    """Give the functions of a module the mutant's code; False where more than a function's body differs."""
    inside = False
    for node in ast.walk(mutant.tree):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno <= mutant.line <= (node.end_lineno or 0):
            inside = True
    if not inside:
        return False
    new = {(c.co_qualname, c.co_firstlineno): c for c in _codes(compile(mutant.tree, path, "exec"))}
    for item in gc.get_objects():
        if isinstance(item, types.FunctionType) and item.__code__.co_filename == path:
            code = new.get((item.__code__.co_qualname, item.__code__.co_firstlineno))
            if code is None or len(code.co_freevars) != len(item.__code__.co_freevars):
                return False
            item.__code__ = code
        elif isinstance(item, functools._lru_cache_wrapper):
            item.cache_clear()
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    yield


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--most", type=int, default=60)
    parser.add_argument("--anew", action="store_true", help="run survivors again with the package imported anew")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--only", type=int, nargs="*", help="mutants by number")
    options = parser.parse_args()
    path = options.module.resolve()
    source = path.read_text("utf-8")
    made = mutants(source)
    chosen = made if len(made) <= options.most else random.Random(options.seed).sample(made, options.most)
    if options.only:
        chosen = [made[i] for i in options.only]
    chosen = sorted(chosen, key=lambda mutant: mutant.number)
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutation", max_examples=15, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate),
    )  # fmt: skip
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    runner = Runner(path, ".".join(options.module.with_suffix("").parts), chosen, options.anew)
    began = time.perf_counter()
    pytest.main([*options.tests, *_QUIET], [runner])
    lost = [mutant for mutant in chosen if mutant.number not in runner.killed]
    for mutant in lost:
        reach = sum(mutant.line in lines for _, lines in runner.reached.values())
        print(f"\n{options.module}:{mutant.line} #{mutant.number} {mutant.what}, {reach} tests")
        print(shown(source, mutant))
    slow = sum(killer == "(timeout)" for killer in runner.killed.values())
    print(f"\n{options.module}: {len(made)} mutants, {len(chosen)} run, {len(runner.killed)} killed ({slow} by time), "
          f"{len(lost)} survived, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
