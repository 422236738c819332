"""Risk units with resting orders: which case sets which margin, and what each charge tells of its worst scenario."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bt_margin.model.account import Order
from bt_margin.model.market import Market
from bt_margin.modes import currencies
from bt_margin.modes.base import Pool
from bt_margin.modes.judged_units import JudgedUnit, judged_units

from .test_portfolio_laws import INVERSE, OPTIONS, SWAP, instrument, market, pool, requirement, rules, unit

BUY = Order(7, instrument(SWAP), "buy", 300.0, None, "cross")
SELL = Order(8, instrument(SWAP), "sell", 50.0, None, "cross")


def judged(held: Pool, at: Market | None = None, **over: Any) -> JudgedUnit:
    here = market() if at is None else at
    (unit,) = judged_units(held, currencies.lines(held, here, rules(**over)), here, rules(**over))
    return unit


def test_orders_count_for_initial_margin_and_where_the_rules_say_so_for_both() -> None:
    """100 contracts held and 300 to be bought are worth what 400 held are."""
    held, all_of_it = requirement(pool([(SWAP, 100.0)])), requirement(pool([(SWAP, 400.0)]))
    ordered = pool([(SWAP, 100.0)], orders=[BUY])
    for counts, keeps in ((True, all_of_it), (False, held)):
        unit = judged(ordered, orders_in_maintenance=counts)
        assert sum(float(row.initial) for row in unit.charges) == pytest.approx(float(all_of_it.initial))
        assert sum(float(row.maintenance) for row in unit.charges) == pytest.approx(float(keeps.maintenance))
        assert unit.shown is (unit.cases[1] if counts else unit.now)
    fewer = judged(pool([(SWAP, 100.0)], orders=[SELL]))
    assert fewer.shown is fewer.now
    assert sum(float(row.maintenance) for row in fewer.charges) == pytest.approx(float(held.maintenance))


def test_at_many_instants_the_worst_case_is_that_of_each() -> None:
    """Bought and sold calls: now the one case is the worse, then the other; orders alone hold nothing yet."""
    prices = np.array([80_000.0, 120_000.0, 160_000.0])
    calls = [Order(9, instrument(OPTIONS[0]), "sell", 4_000.0, None, "cross")]
    for held in (pool([(SWAP, 3_000.0)], orders=[*calls, SELL]), pool([], orders=[BUY]),
                 pool([(SWAP, -900.0)], orders=calls)):
        many = judged(held, market(prices))
        for place, price in enumerate(prices.tolist()):
            one = judged(held, market(price))
            for row, alone in zip(many.charges, one.charges, strict=True):
                for found, known in ((row.initial, alone.initial), (row.maintenance, alone.maintenance)):
                    assert np.broadcast_to(found, 3)[place] == pytest.approx(float(known), rel=1e-9, abs=1e-6)


def test_each_charge_tells_its_own_value_and_the_scenarios_their_worst() -> None:
    """One bitcoin long at 120,000 USD loses most at 12 % down, and twice that at 24 %."""
    unit = judged(pool([(SWAP, 100.0)]))
    rows = {row.name: row.detail for row in unit.charges}
    assert set(rows) == {f"MR{n}" for n in (1, 2, 3, 4, 5, 6, 7, 9)}
    worth = 120_000.0
    assert rows["MR1"] == {"value": pytest.approx(0.12 * worth), "currency": None, "spot_shock": pytest.approx(-0.12),
                           "vol_shock": rows["MR1"]["vol_shock"], "pnl": pytest.approx(-0.12 * worth)}
    assert rows["MR6"] == {"value": rows["MR6"]["value"], "currency": None, "spot_shock": pytest.approx(-0.24),
                           "pnl": pytest.approx(-0.24 * worth)}
    assert float(rows["MR6"]["value"]) > 0
    for name in ("MR2", "MR4", "MR7", "MR9"):
        assert set(rows[name]) == {"value", "currency"}


def test_coins_that_may_join_a_unit_by_either_reading_of_spot() -> None:
    """Equity, or cash less the interest that it owes: both are told, one counts."""
    short = pool([(SWAP, -1_000.0)], {"USDT": 1e6})
    assert judged(short).other_spot == 0.0
    assert currencies.of(short).accrued == {}
    held = pool([(SWAP, -1_000.0), (INVERSE, 1_200.0)], {"USDT": 1e6, "BTC": 2.0})
    money = currencies.of(held)
    held = replace(held, holdings=replace(money, accrued={"BTC": 0.5}))
    profit = 1_200 * 100 * (1 / 100_000 - 1 / float(market().mark(INVERSE)))
    equity, cash = judged(held, spot_amount="equity"), judged(held, spot_amount="cash")
    assert equity.other_spot == pytest.approx(1.5)
    assert cash.other_spot == pytest.approx(1.5 + profit)
    assert float(equity.now.maintenance) != pytest.approx(float(cash.now.maintenance))


CASES = [  # MR1, MR2, MR3, MR4, MR5, MR6, MR7, MR9, and which of MR1, MR2, MR6 counts, or MR7 alone
    ((100.0, 40.0, 5.0, 7.0, 11.0, 60.0, 30.0, 13.0), "MR1"),
    ((40.0, 100.0, 5.0, 7.0, 11.0, 60.0, 30.0, 13.0), "MR2"),
    ((40.0, 60.0, 5.0, 7.0, 11.0, 100.0, 30.0, 13.0), "MR6"),
    ((100.0, 100.0, 5.0, 7.0, 11.0, 100.0, 30.0, 13.0), "MR1"),
    ((60.0, 100.0, 5.0, 7.0, 11.0, 100.0, 30.0, 13.0), "MR2"),
    ((100.0, 40.0, 5.0, 7.0, 11.0, 60.0, 136.0, 13.0), "MR1"),  # as much as all the others together
    ((100.0, 40.0, 5.0, 7.0, 11.0, 60.0, 137.0, 13.0), "MR7"),
]
CHARGED = ("MR1", "MR2", "MR3", "MR4", "MR5", "MR6", "MR7", "MR9")


def test_the_parts_of_a_units_margin_add_up_at_one_instant_and_at_many() -> None:
    known = unit(pool([(SWAP, 100.0)]))
    one_by_one = []
    for values, counts in CASES:
        of = dict(zip(CHARGED, values, strict=True))
        here = replace(known, charges={**of})
        parts = here.binding()
        assert list(parts) == list(CHARGED)
        if counts == "MR7":
            assert parts == dict.fromkeys(CHARGED, 0.0) | {"MR7": 137.0}
        else:
            assert parts == {name: of[name] if name == counts or name in ("MR3", "MR4", "MR5", "MR9") else 0.0
                             for name in CHARGED}
        assert sum(float(part) for part in parts.values()) == float(here.maintenance) == max(136.0, of["MR7"])
        one_by_one.append(parts)
    columns = np.array([values for values, _ in CASES]).T
    many = replace(known, charges=dict(zip(CHARGED, columns, strict=True))).binding()
    for place, parts in enumerate(one_by_one):
        assert {name: float(np.asarray(many[name])[place]) for name in CHARGED} == parts
    mixed = replace(known, charges={**dict(zip(CHARGED, CASES[0][0], strict=True)), "MR7": np.array([30.0, 137.0])})
    assert [np.asarray(part).tolist() for part in mixed.binding().values()][:2] == [[100.0, 0.0], [0.0, 0.0]]


def test_what_is_no_number_is_told_as_the_scenarios() -> None:
    known = unit(pool([(SWAP, 100.0)]))
    parts = replace(known, charges={**known.charges, "MR1": math.nan}).binding()
    assert list(parts) == list(CHARGED)
    assert math.isnan(float(parts["MR1"]))
