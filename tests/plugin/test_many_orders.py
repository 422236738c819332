"""Thousands of open orders: some are met, the rest goes with the account, and the end is a clear account; in seconds.

The ladder of limits is the same in every mode, so its arithmetic is known: what filled, at which prices and fees.
"""

from __future__ import annotations

import time
from typing import Any

import backtrader as bt
import pytest

from tests.plugin.script import BTC, Diary, frame, run
from tests.plugin.test_sleep import MODES

MANY = 2_000


def ladder(size: float) -> Any:
    """Buys of `size` contracts (0.01 BTC each) at 59,000, 58,999, 58,998 ..."""

    def place(s: Diary) -> None:
        s.made["limits"] = [
            s.buy(size=size, exectype=bt.Order.Limit, price=59_000.0 - i) for i in range(MANY)
        ]

    return place


@pytest.mark.parametrize("mode", MODES)
def test_some_of_two_thousand_limits_are_met_and_the_rest_stays(mode: str) -> None:
    began = time.process_time()
    s = run({BTC: frame([60_000.0] * 5 + [58_950.5] + [59_500.0] * 100)}, {1: ladder(0.01)}, mode=mode, cash=1e6)
    assert time.process_time() - began < 60.0  # CPU, on a busy machine: seconds elsewhere, minutes with a square in it
    limits = s.made["limits"]
    assert [o.status == o.Completed for o in limits] == [i < 50 for i in range(MANY)]
    assert [o.executed.price for o in limits[:50]] == pytest.approx([59_000.0 - i for i in range(50)], rel=1e-12)
    broker, account = s.broker, s.broker.account
    assert s.position.size == pytest.approx(0.5)
    assert len(account.orders) == len(broker.pending) == MANY - 50
    paid = sum(0.0001 * (59_000.0 - i) for i in range(50))
    assert s.values[-1] == pytest.approx(1e6 + 0.005 * 59_500.0 - paid * 1.0002, abs=1e-6)
    report = broker.report()
    assert len(report.orders) == MANY - 50
    assert report.account.equity_usd == pytest.approx(s.values[-1], abs=1e-6)
    assert list(account.resting) == list(account.orders.values())


@pytest.mark.parametrize("mode", MODES)
def test_a_fall_takes_the_position_and_every_order_that_is_left(mode: str) -> None:
    """A position of 1 BTC on 20,000, and limits far below what ends it; in portfolio fewer, as each report says what
    every one of them adds to the account."""
    many = 500 if mode == "portfolio" else MANY

    def place(s: Diary) -> None:
        s.buy(size=100.0)
        s.made["limits"] = [
            s.buy(size=0.01, exectype=bt.Order.Limit, price=20_000.0 + i) for i in range(many)
        ]

    began = time.process_time()
    gap = (35_000.0, 35_000.0, 35_000.0, 35_000.0)
    s = run({BTC: frame([60_000.0] * 3 + [gap] * 2)}, {1: place}, mode=mode, cash=20_000.0)
    assert time.process_time() - began < 60.0
    assert s.position.size == 0
    assert "TakenOver" in [event.name for event in s.broker.events]
    cancelled = [event for event in s.broker.events if event.name == "OrdersCancelled"]
    assert [len(event.orders) for event in cancelled] == [many]
    assert list(cancelled[0].orders) == sorted(cancelled[0].orders)  # as they came
    limits = s.made["limits"]
    assert all(o.status == o.Canceled for o in limits)
    assert sum(o.status == o.Canceled for o in s.orders) == many  # each is told once
    assert not s.broker.account.orders
    assert not s.broker.account.resting
    assert not s.broker.pending
    cost = sum(entry.total for entry in s.broker.ledger)
    assert s.broker.getvalue() == pytest.approx(max(20_000.0 + cost, 1e-9), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_two_thousand_limits_are_cancelled_by_who_placed_them(mode: str) -> None:
    def cancel(s: Diary) -> None:
        for order in s.made["limits"][::-1]:
            s.cancel(order)

    began = time.process_time()
    s = run({BTC: frame([60_000.0] * 20)}, {1: ladder(0.01), 10: cancel}, mode=mode, cash=1e6)
    assert time.process_time() - began < 60.0
    assert all(o.status == o.Canceled for o in s.made["limits"])
    assert not s.broker.account.orders
    assert not s.broker.account.resting
    assert s.values == [1e6] * 20
    assert s.cashes[-1] == 1e6
