"""Defects that a review found in what is put off and in bars slept through up to their close."""

from __future__ import annotations

import copy
import datetime
import pickle
from typing import Any

import backtrader as bt
import pytest

from bt_margin import MarginBroker, load_rules
from bt_margin.engine.engine import MarginEngine
from bt_margin.errors import MissingPrice
from bt_margin.model.market import Market
from bt_margin.model.order import Order
from bt_margin.model.orders import Orders
from bt_margin.plugin.analyzers import Recorder
from tests.plugin.script import BTC, Diary, frame, run
from tests.plugin.test_eves import both, minutes


def held(sleep: bool, bars: int, at: int, mode: str = "multi-currency", path: str = "close") -> Diary:
    data = frame([60_000.0 + bar for bar in range(bars)])
    return run({BTC: data}, {at: lambda s: s.buy(size=30)}, mode=mode, sleep=sleep, path=path,
               cash={"USDT": 1_000.0, "USDC": 100_000.0}, prepare=lambda c: c.addanalyzer(Recorder, _name="recorder"))


@pytest.mark.parametrize("sleep", [False, True])
@pytest.mark.parametrize(("bars", "at"), [(24, 23), (30, 23), (30, 3)])
def test_a_search_that_was_put_off_is_part_of_what_the_run_leans_on(sleep: bool, bars: int, at: int) -> None:
    """A position opened in the last bar, or before other rules. No move ends it; to find that asks for borrow tiers."""
    recorder = held(sleep, bars, at).analyzers.recorder.get_analysis()
    assert {"USDT"} <= {row["subject"] for row in recorder["evidence"] if row["table"] == "currency_borrow"}


def test_a_report_leans_on_the_search_before_it() -> None:
    engine = held(False, 24, 23).broker.engine
    assert ("currency_borrow", "USDT") in {(row.table, row.subject) for row in engine.assess().evidence}


def test_a_search_that_raises_is_still_to_be_made() -> None:
    engine = held(False, 24, 3).broker.engine
    control, (pool,) = engine.control, engine.at_risk_pools()
    engine.control._put_off = (pool, engine.look(pool, engine.market), Market(engine.market.time), engine.rules)
    for _ in range(2):
        with pytest.raises(MissingPrice):
            control.seek()
    control.found_none()
    control.seek()


def test_an_account_is_judged_anew_by_other_rules() -> None:
    engine: MarginEngine = held(False, 24, 3).broker.engine
    assert engine.control.up_to_date
    engine.rules = engine.rules_at(engine.market.time + 86_400_000)
    assert not engine.control.up_to_date
    engine.advance(engine.market)
    assert engine.control.up_to_date


@pytest.mark.parametrize("minutes_valid", [100, 473, 474, 475])
@pytest.mark.parametrize("mode", ["cross", "multi-currency"])
def test_the_child_of_a_bracket_that_expires_takes_its_parent_along(mode: str, minutes_valid: int) -> None:
    """While it sleeps itself; the eve of a funding is one of the bars around it."""
    def act(s: Diary) -> None:
        s.buy(size=10)
        valid = bt.num2date(s.data.datetime[0]) + datetime.timedelta(minutes=minutes_valid)
        s.buy_bracket(size=5, price=40_000.0, exectype=bt.Order.Limit, stopprice=30_000.0, limitprice=90_000.0,
                      stopargs={"valid": valid})

    slept = both({BTC: minutes()}, {5: act}, mode=mode)
    (expired,) = (row for row in slept.told if row[1] == "Expired")
    assert expired[0] == 5 + minutes_valid
    assert [row[1] for row in slept.told][-2:] == ["Canceled", "Canceled"]


def test_orders_and_a_broker_travel() -> None:
    order = Order(1, load_rules("okx").as_of(1_758_000_000_000).instrument(BTC), "buy", 2.0, 50_000.0, "cross")
    resting = Orders.of(order)
    for again in (pickle.loads(pickle.dumps(resting)), copy.deepcopy(resting)):
        assert [queue.head for queue in again.queues] == [order]
        assert again == resting
        assert again.plus(order) == resting.plus(order)
    broker: Any = pickle.loads(pickle.dumps(MarginBroker(mode="cross", cash=5_000.0)))
    assert (broker.getvalue(), copy.deepcopy(broker).account.balances) == (5_000.0, {"USDT": 5_000.0})
