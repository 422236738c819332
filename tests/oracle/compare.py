"""Engine and oracle side by side: the first disagreement of a script, or the largest difference of all its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.oracle.coverage import seen
from tests.oracle.engine_run import EngineRun, OracleRun, Snapshot, Told
from tests.oracle.scenario import Scenario

TOLERANCE = 1e-9
"""Of each number, money measured by the size of the account."""
TIME = 1
"""ms: a point solved for within a leg is rounded, its half may fall on either side."""


class Disagreement(AssertionError):
    """Where engine and oracle part."""


@dataclass
class Statistics:
    """What was compared."""

    scenarios: int = 0
    acts: int = 0
    numbers: int = 0
    refused: int = 0
    events: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    flows: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    """By what came up: in how many scripts."""
    largest: float = 0.0
    largest_where: str = ""

    def lines(self) -> Iterator[str]:
        yield f"{self.scenarios} scenarios, {self.acts} acts ({self.refused} refused), {self.numbers} numbers"
        yield "events: " + ", ".join(f"{n} {name}" for name, n in sorted(self.events.items()))
        yield "forced orders: " + ", ".join(f"{n} {name}" for name, n in sorted(self.steps.items()))
        yield "ledger: " + ", ".join(f"{n} {name}" for name, n in sorted(self.flows.items()))
        for name, n in sorted(self.scripts.items(), key=lambda row: (-row[1], row[0])):
            yield f"{n:6} scripts: {name}"
        yield f"largest difference: {self.largest:.2e} ({self.largest_where})"


def compare(scenario: Scenario, statistics: Statistics) -> None:
    """Replay a script on both; raises Disagreement at the first act whose outcome differs."""
    engine, oracle = EngineRun(scenario), OracleRun(scenario)
    scale, came, resting = scale_of(scenario), set[str](), frozenset[int]()
    for index, act in enumerate(scenario.acts):
        ours, theirs = engine.snapshot(engine.act(act)), oracle.snapshot(oracle.act(act))
        _Differ(f"{scenario.name}, act {index} {act}", scale, statistics).both(ours, theirs)
        statistics.acts += 1
        came |= set(seen(act, theirs, oracle.replay, resting))
        resting = frozenset(theirs.orders)
    statistics.scenarios += 1
    statistics.scripts.update(came)


def scale_of(scenario: Scenario) -> dict[str, float]:
    """The size of the account by currency; of one that stands together, all of it in each, and in USD ("account")."""
    if scenario.terms is None:
        return dict(scenario.cash)
    usd = {currency: scenario.indexes[f"{currency}/USD"] for currency in scenario.terms.discounts}
    total = sum(abs(amount) * usd[currency] for currency, amount in scenario.cash.items())
    return {"account": total} | {currency: total / price for currency, price in usd.items()}


@dataclass
class _Differ:
    where: str
    scale: Mapping[str, float]
    statistics: Statistics

    def both(self, engine: Snapshot, oracle: Snapshot) -> None:
        self.same("answer", engine.answer, oracle.answer)
        told = [self.told(side.events) for side in (engine, oracle)]
        self.same("events", *([_outline(e) for e in events] for events in told))
        for ours, theirs in zip(*told, strict=True):
            self.same(f"time of {ours.name}", abs(ours.time - theirs.time) <= TIME, True)
            self.same(f"numbers of {ours.name}", sorted(ours.numbers), sorted(theirs.numbers))
            for name, value in ours.numbers.items():
                self.close(f"{ours.name} {ours.pool} {name}", value, theirs.numbers[name])
            self.statistics.events[ours.name] += 1
            if ours.name in ("Reduced", "Converted"):
                self.statistics.steps[str(ours.words[-1])] += 1
        self.same("resting orders", sorted(engine.orders), sorted(oracle.orders))
        flows = [sorted(f for f in side.flows if abs(f[2]) + abs(f[3]) > TOLERANCE * self.size(f[1]))
                 for side in (engine, oracle)]
        self.same("entries", [f[:2] for f in flows[0]], [f[:2] for f in flows[1]])
        for mine, other in zip(*flows, strict=True):
            self.close(f"{mine[0]} {mine[1]}", mine[2], other[2])
            self.close(f"{mine[0]} fund {mine[1]}", mine[3], other[3])
            self.statistics.flows[mine[0]] += 1
        for name in sorted({*engine.numbers, *oracle.numbers}):
            self.close(name, engine.numbers.get(name, 0.0), oracle.numbers.get(name, 0.0))
        self.statistics.refused += engine.answer == "refused"

    def told(self, events: Sequence[Told]) -> list[Told]:
        """Without a debt of rounding, and its end at the same instant: where a position is closed just as it breaches,
        nothing is left of the account but the last digits.
        """
        tiny = {(e.time, e.words) for e in events
                if e.name == "Borrowed" and e.numbers["amount"] <= TOLERANCE * self.size(str(e.words[0]))}
        return [e for e in events if e.name not in ("Borrowed", "Repaid") or (e.time, e.words) not in tiny]

    def same(self, what: str, engine: object, oracle: object) -> None:
        if engine != oracle:
            raise Disagreement(f"{self.where}: {what}\n  engine {engine}\n  oracle {oracle}")

    def close(self, name: str, engine: float, oracle: float) -> None:
        self.statistics.numbers += 1
        off = abs(engine - oracle) / max(abs(engine), abs(oracle), self.size(name), 1e-300)
        if off > self.statistics.largest:
            self.statistics.largest, self.statistics.largest_where = off, f"{name} in {self.where.split(',')[0]}"
        if not off <= TOLERANCE:
            raise Disagreement(f"{self.where}: {name}\n  engine {engine!r}\n  oracle {oracle!r}")

    def size(self, name: str) -> float:
        """What an amount is measured by: the account in that currency; a number without one by itself."""
        if name.startswith(("size", "entry")) or name.endswith((" price", " size", " remaining")):
            return 0.0
        if name == "shortfall":
            return self.scale.get("account", 0.0)
        if " account " in name and not name.endswith((" loss", " refund")):
            return min(self.scale.values())  # of an event: whatever coin it is in
        if "ratio" in name:
            return 1.0
        return max((amount for currency, amount in self.scale.items() if _settles(name, currency)), default=0.0)


def _settles(name: str, currency: str) -> bool:
    return name == currency or name.endswith(f" {currency}") or f":{currency}" in name or f" {currency} " in name


def _outline(event: Told) -> tuple[object, ...]:
    words = sorted(event.words, key=str) if event.name == "OrdersCancelled" else event.words
    return event.name, event.pool, *words
