"""One account and what is done to it, each thing told as data: a run can be told again, anywhere, and hashed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import numpy as np

from bt_margin.engine import credit
from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import Deleveraging, MarginEngine, Refusal
from bt_margin.errors import InputError
from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import AccountReport, LateReport
from bt_margin.model.borrowing import Borrowing, SpotUse
from bt_margin.model.ledger import PositionKey
from bt_margin.modes import mode_named
from tests.unit.machine.world import BOOK, ERAS, HOUR, SWAPS, Prices

STEPS = ("order", "fill", "cancel", "advance", "deposit", "add_margin", "set_leverage", "switch_mode", "turn_off")


class Run:
    """An engine made by `setup`, and the steps it has taken so far."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup, self.steps = dict(setup), list[list[Any]]()
        self.answers: list[str] = []
        self.era, self.prices = ERAS[setup["era"]], Prices()
        account = Account(setup["cash"], "hedge" if setup["hedge"] else "net")
        account.borrowing = Borrowing(setup["auto"], dict(setup["leverage"]), frozenset(setup["off"]))
        account.spot_use = SpotUse(dict(setup["cap"]), dict(setup["unit"]))
        start = self.era.time
        first = (start // (8 * HOUR) + 1) * 8 * HOUR
        times = np.arange(first, first + 400 * 8 * HOUR, 8 * HOUR)
        rates = np.resize(np.array(setup["funding"], dtype=float), len(times))
        self.engine = MarginEngine(
            account, mode_named(setup["mode"]), BOOK.overlay(), self.prices.market(self.era, start),
            funding={symbol: FundingSeries(times, rates) for symbol in SWAPS[:-1]},
            interest=dict(setup["interest"]), slippage=setup["slippage"],
            deleveraging=[Deleveraging(start + hours * HOUR, symbol, share)
                          for hours, symbol, share in setup["deleveraging"]],
        )

    def do(self, name: str, **args: Any) -> Any:
        """Take a step. A refusal, or the error that a wrong wish meets, is an answer."""
        assert name in STEPS, name
        self.steps.append([name, args])
        answer = getattr(self, f"_{name}")(**args)
        self.answers.append(f"{type(answer).__name__}: {answer}")
        return answer

    def told(self) -> dict[str, Any]:
        return {"setup": self.setup, "steps": self.steps}

    def _order(self, id: int, symbol: str, side: str, size: float, price: float | None = None, rests: bool = False,
               **more: Any) -> Any:
        """An order; at the market it fills where it is taken."""
        order = Order(id, self.engine.rules.instrument(symbol), side, size, price, **more)
        taken = self.engine.accept(order)
        if isinstance(taken, Refusal) or rests:
            return taken
        return self.engine.fill(taken, taken.size, float(self.engine.market.last(symbol)))

    def _fill(self, id: int, size: float) -> Any:
        order = self.engine.account.orders[id]
        return self.engine.fill(order, size, order.price or 0.0, maker=True)

    def _cancel(self, id: int) -> None:
        self.engine.cancel(id)

    def _advance(self, time: int, prices: Mapping[str, float], jump: bool) -> None:
        self.prices = Prices(**prices)
        self.engine.advance(self.prices.market(self.era, time), jump=jump)

    def _deposit(self, currency: str, amount: float) -> Any:
        try:
            self.engine.deposit(currency, amount)
        except InputError as error:
            return error
        return None

    def _add_margin(self, key: list[str], amount: float) -> Any:
        return self.engine.add_margin(PositionKey(*key), amount)

    def _set_leverage(self, key: list[str], leverage: float) -> Any:
        return self.engine.set_leverage(PositionKey(*key), leverage)

    def _switch_mode(self, mode: str, leverage: float | None) -> Any:
        return self.engine.switch_mode(mode_named(mode), leverage).reasons

    def _turn_off(self, coins: list[str]) -> Any:
        """Coins out of the collateral, others back in, where the venue lets the owner choose so."""
        account = self.engine.account
        trial = account.copy()
        trial.borrowing = replace(trial.borrowing, collateral_off=frozenset(coins))
        try:
            credit.check_choices(trial, self.engine.rules)
        except InputError as error:
            return error
        account.borrowing = trial.borrowing
        return None

    def digest(self) -> str:
        """Of every entry, every event with its report, every answer: to the last bit of each number."""
        return sha256(repr((self.engine.account.ledger, self.engine.events, self.answers)).encode()).hexdigest()

    def happened(self) -> tuple[Any, ...]:
        """The same, without what reports say of the rules and prices that others had asked for before."""
        events = [[_bare(getattr(event, field.name)) for field in fields(event)] for event in self.engine.events]
        return self.engine.account.ledger, self.engine.account.orders, events, self.answers


def _bare(value: Any) -> Any:
    value = value.read() if isinstance(value, LateReport) else value
    return replace(value, evidence=(), warnings=()) if isinstance(value, AccountReport) else value


def again(told: Mapping[str, Any]) -> Run:
    """A run taken once more from what was told of it."""
    told = json.loads(json.dumps(told))
    run = Run(told["setup"])
    for name, args in told["steps"]:
        run.do(name, **args)
    return run
