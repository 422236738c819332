"""The engine under test, driven by the same scripts through its public methods, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bt_margin.engine import credit, portfolio_orders
from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.clock import Deleveraging
from bt_margin.engine.control import RiskControl
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.model.account import Account, Order
from bt_margin.model.borrowing import Borrowing, SpotUse
from bt_margin.model.event import Event
from bt_margin.model.ledger import PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.assess import assess
from bt_margin.modes.base import Judgement, Pool, judge
from bt_margin.modes.currencies import lines
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.judged_units import judged_units
from tests.oracle.account import AccountReplay
from tests.oracle.portfolio import Portfolio
from tests.oracle.replay import Replay
from tests.oracle.scenario import BOOK, AddMargin, Cancel, FillResting, Move, Scenario, SetLeverage, Trade


class Silent(MarginEngine):
    """The engine without the distance to liquidation and the largest size that a refused order could have had: where
    the whole account is the pool these are searched for, which takes ten times as long as all the rest. Nobody reads
    the reports of events: what the account is after each act is compared number by number instead.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.control = Undistanced(self, self.control.slippage)

    def _answer(self, account: Account, order: Order, filling: bool = False) -> Order | Refusal:
        gate = GATES.get(self.mode.name)
        if gate is None:
            return super()._answer(account, order, filling)
        return gate(account, order, self.market, self.rules, filling=filling)


class Undistanced(RiskControl):
    """Risk control that seeks no distances."""

    def _note_distance(self, pool: Pool, judgement: Judgement) -> None:
        pass


GATES = {"multi-currency": credit.check, "portfolio": portfolio_orders.check}


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
        book, interest = BOOK, {}
        if (terms := scenario.terms) is not None:
            account.spot_use = SpotUse(unit=terms.choices)
            account.borrowing = Borrowing(terms.auto, {c: float(x) for c, x in terms.leverage.items()}, terms.off)
            interest = {c: float(x) for c, x in terms.yearly.items()}
            slices = {} if terms.ladder is None else {"portfolio": {
                "hedge_slice": terms.ladder.hedge_slice, "liquidation_slice": terms.ladder.liquidation_slice}}
            book = BOOK.overlay(
                parameters=slices,
                discounts={c: [[float(x) for x in row] for row in rows] for c, rows in terms.discounts.items()},
                borrow_tiers={c: [[float(row.ceiling), float(row.maintenance), float(row.initial)] for row in rows]
                              for c, rows in terms.borrow.items()},
            )
        series = {symbol: FundingSeries(np.array([t for t, _ in rows], dtype=np.int64), np.array([x for _, x in rows]))
                  for symbol, rows in scenario.funding.items() if rows}
        market = Market(scenario.time, dict(scenario.marks), dict(scenario.marks), dict(scenario.indexes),
                        forwards=dict(scenario.forwards))
        script = [Deleveraging(one.time, one.symbol, one.share, one.side) for one in scenario.deleveraging]
        self.engine = Silent(account, mode_named(scenario.mode), book, market, funding=series, interest=interest,
                             deleveraging=script)
        self._events = self._entries = 0
        self.shortfall = 0.0

    def act(self, act: object) -> str:
        engine, account = self.engine, self.engine.account
        answer: object = None
        if isinstance(act, Move):
            market = Market(act.time, dict(act.marks), dict(act.marks), dict(act.indexes), forwards=dict(act.forwards))
            engine.advance(market, jump=act.jump)
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
        account = self.engine.account
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
        if self.engine.mode.whole:
            numbers |= self._whole()
        else:
            now = assess(account, self.engine.mode, self.engine.market, self.engine.rules)
            for pool in now.pools:
                numbers |= {f"equity {pool.name}": pool.equity, f"initial {pool.name}": pool.initial_margin,
                            f"maintenance {pool.name}": pool.maintenance_margin,
                            f"fee {pool.name}": pool.liquidation_fee}
                if pool.margin_ratio is not None:
                    numbers[f"ratio {pool.name}"] = pool.margin_ratio
        flows = tuple((str(e.kind), e.currency, e.total, e.fund) for e in entries)
        return Snapshot(answer, events, flows, numbers, tuple(account.orders))

    def _whole(self) -> dict[str, float]:
        """The one pool, judged; a full report would search liquidation prices, which takes longer than all the rest."""
        engine = self.engine
        (pool,) = engine.mode.pools(engine.account)
        judged = judge(pool, engine.market, engine.rules)
        numbers = {f"accrued {currency}": amount for currency, amount in engine.account.accrued.items()}
        numbers |= {"worth account": engine.equity_usd(), "equity account": float(judged.equity),
                    "initial account": float(judged.initial), "maintenance account": float(judged.maintenance),
                    "fee account": float(judged.fee)}
        if judged.requirement:
            numbers["ratio account"] = float(judged.equity) / float(judged.requirement)
        for alone in ISOLATED.pools(engine.account):
            held = judge(alone, engine.market, engine.rules)
            numbers |= {f"equity {alone.name}": float(held.equity), f"initial {alone.name}": float(held.initial),
                        f"maintenance {alone.name}": float(held.maintenance), f"fee {alone.name}": float(held.fee),
                        f"ratio {alone.name}": float(held.equity) / float(held.requirement)}
        rows = lines(pool, engine.market, engine.rules)
        for row in rows:
            numbers[f"equity {row.currency}"] = float(row.equity)
            numbers[f"backing {row.currency}"] = float(row.backing)
            numbers[f"borrow {row.currency}"] = float(row.potential_borrow)
        if engine.mode.name == "portfolio":
            for one in judged_units(pool, rows, engine.market, engine.rules):
                name = f"{one.unit.name} account"
                numbers |= {f"{charge} {name}": float(value) for charge, value in one.now.charges.items()}
                numbers |= {f"delta {name}": float(one.now.cash_delta), f"unit {name}": float(one.now.maintenance)}
        return numbers


def told(event: Event) -> Told:
    """An engine's event, its report left out."""
    words: list[object] = []
    numbers: dict[str, float] = {}
    every = {field.name for field in fields(Event)}
    for field in fields(event):
        value: Any = getattr(event, field.name)
        if field.name in every or (field.name == "reason" and event.name != "Converted"):
            continue
        if value is None:  # a ratio of nothing
            continue
        if field.name in ("step", "reason"):
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
        self.replay = Replay(scenario) if scenario.terms is None else AccountReplay(scenario)
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
        if isinstance(self.replay, AccountReplay):
            wealth = self.replay.see()
            numbers |= {f"accrued {currency}": float(amount) for currency, amount in book.accrued.items()}
            numbers["worth account"] = float(wealth.total_equity())
            for name, option in book.options.items():
                numbers[f"size {name} cross net"] = float(option.size)
                numbers[f"entry {name} cross net"] = float(option.entry)
            if isinstance(wealth, Portfolio):
                for now, _ in wealth.units:
                    name = f"{now.name} account"
                    numbers |= {f"{charge} {name}": value for charge, value in now.charges.items()}
                    numbers |= {f"delta {name}": now.cash_delta, f"unit {name}": now.maintenance}
            for currency in wealth.currencies:
                shown = wealth.own(currency) + wealth.upl(currency) + wealth.option_worth(currency)
                numbers |= {f"equity {currency}": float(shown), f"backing {currency}": float(wealth.equity(currency)),
                            f"borrow {currency}": float(wealth.potential_borrow(currency))}
        return Snapshot(answer, events, flows, numbers, (*book.orders, *book.spot, *book.option_orders))
