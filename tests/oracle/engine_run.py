"""The engine under test, driven by the same scripts through its public methods, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Order
from bt_margin.model.event import Event
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.rules.book import load_rules
from tests.oracle.replay import Replay
from tests.oracle.scenario import AddMargin, Cancel, FillResting, Move, Scenario, SetLeverage, Trade

BOOK = load_rules("okx")


@dataclass(frozen=True)
class Told:
    """An event: numbers and words apart, so that numbers may differ in the last digits."""

    name: str
    time: int
    pool: str
    words: tuple[object, ...]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Snapshot:
    """All there is to say after one act: the answer, events and flows since the one before, numbers by name."""

    answer: str
    events: tuple[Told, ...]
    flows: tuple[tuple[str, str, float, float], ...]
    numbers: Mapping[str, float]
    orders: tuple[int, ...]


class EngineRun:
    """The engine's account, following a script."""

    def __init__(self, scenario: Scenario) -> None:
        account = Account(dict(scenario.cash), "hedge" if scenario.hedge else "net")
        series = {symbol: FundingSeries(np.array([t for t, _ in rows], dtype=np.int64), np.array([x for _, x in rows]))
                  for symbol, rows in scenario.funding.items() if rows}
        market = Market(scenario.time, dict(scenario.marks), dict(scenario.marks))
        self.engine = MarginEngine(account, mode_named(scenario.mode), BOOK, market, funding=series)
        self._events = self._entries = 0
        self.shortfall = 0.0

    def act(self, act: object) -> str:
        engine, account = self.engine, self.engine.account
        answer: object = None
        if isinstance(act, Move):
            engine.advance(Market(act.time, dict(act.marks), dict(act.marks)), jump=act.jump)
        elif isinstance(act, Trade):
            instrument = engine.rules.instrument(act.symbol)
            order = Order(act.id, instrument, "buy" if act.buy else "sell", act.size, act.price if act.rest else None,
                          act.margin_mode, act.side, act.leverage, act.reduce_only)
            answer = engine.accept(order) if act.rest else engine.fill(order, act.size, act.price)
        elif isinstance(act, FillResting) and act.id in account.orders:
            order = account.orders[act.id]
            assert order.price is not None
            answer = engine.fill(order, min(act.size, order.size), order.price, maker=True)
        elif isinstance(act, Cancel):
            engine.cancel(act.id)
        elif isinstance(act, AddMargin) and PositionKey(*act.key) in account.positions:
            answer = engine.add_margin(PositionKey(*act.key), act.amount)
        elif isinstance(act, SetLeverage) and PositionKey(*act.key) in account.positions:
            answer = engine.set_leverage(PositionKey(*act.key), act.leverage)
        self.shortfall = answer.shortfall if isinstance(answer, Refusal) and isinstance(act, Trade) else 0.0
        return "refused" if isinstance(answer, Refusal) else "done"

    def snapshot(self, answer: str) -> Snapshot:
        account, report = self.engine.account, self.engine.assess()
        events = tuple(told(event) for event in self.engine.events[self._events:] if event.name != "Refused")
        entries = account.ledger[self._entries:]
        self._events, self._entries = len(self.engine.events), len(account.ledger)
        numbers = {f"cash {currency}": amount for currency, amount in account.balances.items()}
        numbers["shortfall"] = self.shortfall
        numbers |= {f"fund {currency}": amount for currency, amount in account.fund.items()}
        for key, position in account.positions.items():
            name = " ".join(key)
            numbers |= {f"size {name}": position.size, f"entry {name}": position.entry_price,
                        f"margin {name}": position.margin}
        for pool in report.pools:
            numbers |= {f"equity {pool.name}": pool.equity, f"initial {pool.name}": pool.initial_margin,
                        f"maintenance {pool.name}": pool.maintenance_margin, f"fee {pool.name}": pool.liquidation_fee}
            if pool.margin_ratio is not None:
                numbers[f"ratio {pool.name}"] = pool.margin_ratio
        flows = tuple((str(e.kind), e.currency, e.total, e.fund) for e in entries)
        return Snapshot(answer, events, flows, numbers, tuple(account.orders))


def told(event: Event) -> Told:
    """An engine's event, its report left out."""
    words: list[object] = []
    numbers: dict[str, float] = {}
    for field in fields(event):
        value: Any = getattr(event, field.name)
        if field.name in ("time", "pool", "report", "reason"):
            continue
        if field.name == "step":
            words.append(value)
        elif isinstance(value, (int, float)):
            numbers[field.name] = float(value)
        elif field.name == "keys":
            words.extend(tuple(key) for key in value)
        elif field.name == "orders":
            words.extend(value)
        else:
            words.append(tuple(value) if isinstance(value, PositionKey) else value)
    return Told(event.name, event.time, event.pool, tuple(words), numbers)


class OracleRun:
    """The oracle's account, told in the same words."""

    def __init__(self, scenario: Scenario) -> None:
        self.replay = Replay(scenario)
        self._events = self._flows = 0

    def act(self, act: object) -> str:
        return self.replay.act(act)

    def snapshot(self, answer: str) -> Snapshot:
        book, marks = self.replay.book, self.replay.marks
        events = tuple(Told(e.name, e.time, e.pool, e.words, {k: float(v) for k, v in e.numbers.items()})
                       for e in book.happenings[self._events:])
        flows = tuple((kind, ccy, float(x), float(y)) for kind, ccy, x, y in book.flows[self._flows:])
        self._events, self._flows = len(book.happenings), len(book.flows)
        numbers = {f"cash {currency}": float(amount) for currency, amount in book.cash.items()}
        numbers["shortfall"] = float(self.replay.shortfall)
        numbers |= {f"fund {currency}": float(amount) for currency, amount in book.fund.items()}
        for key, position in book.positions.items():
            name = " ".join(key)
            numbers |= {f"size {name}": float(position.size), f"entry {name}": float(position.entry),
                        f"margin {name}": float(position.margin)}
        for pool in self.replay.pools():
            for name, value in (("equity", pool.equity(marks)), ("initial", pool.initial(marks)),
                                ("maintenance", pool.maintenance(marks)), ("fee", pool.fee(marks)),
                                ("ratio", pool.ratio(marks))):
                if value is not None:
                    numbers[f"{name} {pool.name}"] = float(value)
        return Snapshot(answer, events, flows, numbers, tuple(book.orders))
