"""Which orders a risk unit takes in, and what it holds with them filled."""

from __future__ import annotations

from typing import Any

import pytest

from bt_margin.model.account import Order
from bt_margin.modes.base import Pool
from bt_margin.modes.risk_units import RiskUnit, chosen, fillings, risk_units

from .test_portfolio_laws import OPTIONS, SWAP, instrument, pool, rules

CALL, PUT = OPTIONS[:2]
PAIR = rules().instrument("BTC/USDT")
ORDERS = [
    Order(1, instrument(SWAP), "buy", 30.0, None, "cross"),
    Order(2, instrument(SWAP), "sell", 20.0, None, "cross", reduce_only=True),
    Order(3, instrument(CALL), "buy", 5.0, None, "cross"),
    Order(4, instrument(PUT), "buy", 7.0, None, "cross"),
    Order(5, instrument(SWAP), "buy", 9.0, None, "isolated"),
    Order(6, PAIR, "buy", 1.5, None, "cash"),
    Order(7, PAIR, "sell", 0.5, None, "cross"),
    Order(8, PAIR, "buy", 4.0, None, "isolated", margin_currency="USDT"),
]


def unit_of(held: Pool, **over: Any) -> RiskUnit:
    (unit,) = risk_units(held, rules(**over))
    return unit


def ids(queues: Any) -> list[int]:
    return sorted(one.id for queue in queues for one in queue.orders)


def holds(unit: RiskUnit, **over: Any) -> list[tuple[dict[str, float], float]]:
    return [({one.symbol: size for one, size in filling.held}, filling.coins)
            for filling in fillings(unit, rules(**over))]


AUTOMATIC = {"spot_in_use": "automatic", "spot_orders": True}


def test_orders_that_open_join_and_those_for_coins_where_spot_does() -> None:
    held = pool([(SWAP, 100.0)], orders=ORDERS)
    for over, joining in ((AUTOMATIC, [6, 7]), ({**AUTOMATIC, "spot_orders": False}, []),
                          ({**AUTOMATIC, "spot_in_use": "chosen"}, [])):
        unit = unit_of(held, **over)
        assert (unit.name, unit.base, ids(unit.orders), ids(unit.spot_orders)) == ("BTC", "BTC", [1, 3, 4], joining)
        assert unit.spot is (over["spot_in_use"] == "automatic")


def test_each_side_is_filled_by_itself_or_all_together() -> None:
    """Bought calls and perpetuals gain where the coin rises, bought puts where it falls."""
    unit = unit_of(pool([(SWAP, 100.0)], orders=ORDERS), **AUTOMATIC)
    now = ({SWAP: 100.0}, 0.0)
    assert holds(unit, order_sides="worst-side", **AUTOMATIC) == [
        now, ({SWAP: 130.0, CALL: 5.0}, 1.5), ({SWAP: 100.0, PUT: 7.0}, -0.5)]
    assert holds(unit, order_sides="all", **AUTOMATIC) == [now, ({SWAP: 130.0, CALL: 5.0, PUT: 7.0}, 1.0)]


@pytest.mark.parametrize("sides", ["worst-side", "all"])
def test_a_side_without_orders_is_no_case_and_what_cancels_out_is_not_held(sides: str) -> None:
    bought = unit_of(pool([(SWAP, 100.0)], orders=ORDERS[:1]))
    assert holds(bought, order_sides=sides) == [({SWAP: 100.0}, 0.0), ({SWAP: 130.0}, 0.0)]
    sold = unit_of(pool([(SWAP, 100.0)], orders=[Order(9, instrument(SWAP), "sell", 100.0, None, "cross")]))
    assert holds(sold, order_sides=sides) == [({SWAP: 100.0}, 0.0), ({}, 0.0)]
    assert holds(unit_of(pool([(SWAP, 100.0)])), order_sides=sides) == [({SWAP: 100.0}, 0.0)]


@pytest.mark.parametrize(("side", "unit"), [("USDT", "BTC-USDT"), ("USDC", "BTC-USDC"), ("BTC", "BTC-USD")])
def test_spot_joins_the_unit_that_was_chosen_and_none_without_a_choice(side: str, unit: str) -> None:
    """Contracts that settle in the coin are told by its dollar (rule book portfolio margin, section 2)."""
    assert chosen("BTC", {"BTC": side, "ETH": "ETH"}) == unit
    assert chosen("BTC", {"ETH": side}) == ""
