"""The oracle itself, held to what the venue's demo engine replied (tests/golden/recorded_demo.json)."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import cross, isolated
from tests.oracle.book import Book, Order, Position
from tests.oracle.contract import Contract, TierRow, exact

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "recorded_demo.json"
VECTORS = {row["id"]: row for row in json.loads(GOLDEN.read_text())}
WHOLE = [{"max": 1e9, "mmr": 0.004}]


def contract(inputs: dict[str, Any], tiers: list[dict[str, Any]]) -> Contract:
    rows = tuple(TierRow(exact(row.get("max", 1e12)), exact(row["mmr"]), Decimal(100)) for row in tiers)
    return Contract(inputs["symbol"], "USDT", "X", True, exact(inputs["contract_size"]), Decimal("0.01"),
                    Decimal("0.0001"), exact(inputs["taker_fee"]), Decimal("0.0002"), rows)


def short(inputs: dict[str, Any], tiers: list[dict[str, Any]]) -> tuple[Book, Position]:
    position = Position(contract(inputs, tiers), "isolated", "short", exact(inputs["leverage"]),
                        -exact(inputs["contracts"]), exact(inputs["entry"]), exact(inputs["margin"]))
    return Book({"USDT": exact(inputs["cash"])}, {position.key: position}), position


def total(book: Book, kind: str) -> float:
    return float(sum(amount for name, _, amount, _ in book.flows if name == kind))


def test_a_tier_one_position_is_closed_whole_and_refunded() -> None:
    """Items 4 to 7 and 9."""
    inputs, expected = (VECTORS["DEMO-LIQ-FULL-ISO-1"][k] for k in ("inputs", "expected"))
    book, position = short(inputs, WHOLE)
    isolated.liquidate(book, position, {inputs["symbol"]: exact(inputs["fill"])}, 0)
    for kind, name in (("trade", "pnl"), ("fee", "fee"), ("penalty", "liq_penalty")):
        assert total(book, kind) == pytest.approx(expected[name], rel=1e-12)
    assert total(book, "clawback") == pytest.approx(expected["bill_refund"]["pos_bal_chg"], rel=1e-9)
    assert (book.cash["USDT"], book.positions) == (exact(inputs["cash"]), {})


def test_a_tier_two_position_is_cut_to_the_ceiling_below_and_closed_on_a_new_breach() -> None:
    """Items 1 to 3, 7 and 8."""
    first, last = VECTORS["DEMO-LIQ-TIER-ISO-1"], VECTORS["DEMO-LIQ-TIER-ISO-3"]["expected"]
    inputs, expected = first["inputs"], first["expected"]
    book, position = short(inputs, inputs["tiers"])
    symbol = inputs["symbol"]
    marks = {symbol: exact(inputs["fill"])}
    ratio = isolated.equity(position, marks) / isolated.required(position, marks)
    assert float(ratio) == pytest.approx(expected["mgn_ratio_before"], rel=1e-12)
    isolated.liquidate(book, position, marks, 0)
    assert float(-position.size) == expected["remaining_contracts"]
    assert float(position.margin) == pytest.approx(expected["margin_after"], rel=1e-12)
    ratio = isolated.equity(position, marks) / isolated.required(position, marks)
    assert float(ratio) == pytest.approx(expected["mgn_ratio_after"], rel=1e-12)
    isolated.liquidate(book, position, {symbol: exact(0.6877)}, 1)
    for kind, name in (("trade", "pnl"), ("penalty", "liq_penalty"), ("clawback", "refund")):
        assert total(book, kind) == pytest.approx(last[name], rel=1e-9)
    assert (book.cash["USDT"], book.positions) == (exact(inputs["cash"]), {})


@pytest.mark.parametrize("name", ["DEMO-CROSS-MET-2", "DEMO-CROSS-MET-3"])
def test_a_hedged_account_with_an_order(name: str) -> None:
    """Items 15 to 21: long and short add for the tier, opening orders too; orders take their fee off the ratio."""
    inputs, expected = VECTORS[name]["inputs"], VECTORS[name]["expected"]["account"]
    one = contract(inputs, inputs["tiers"])
    leverage, marks = exact(inputs["leverage"]), {inputs["symbol"]: exact(inputs["mark_account"])}
    book = Book({"USDT": exact(inputs["cash"])})
    for row in inputs["positions"]:
        size = exact(row["contracts"]) * (1 if row["side"] == "long" else -1)
        position = Position(one, "cross", row["side"], leverage, size, exact(row["entry"]))
        book.positions[position.key] = position
    for row in inputs.get("orders", []):
        size, price = exact(row["contracts"]), exact(row["px"])
        book.orders[1] = Order(1, one, True, size, price, "cross", "long", leverage, False)
    assert float(cross.initial(book, "USDT", marks)) == pytest.approx(expected["imr"], rel=1e-12)
    assert float(cross.maintenance(book, "USDT", marks)) == pytest.approx(expected["mmr"], rel=1e-12)
    ratio = cross.equity(book, "USDT", marks) / cross.required(book, "USDT", marks)
    assert float(ratio) == pytest.approx(expected["mgnRatio"], rel=1e-12)
    free = cross.equity(book, "USDT", marks) - cross.initial(book, "USDT", marks)
    assert float(free) == pytest.approx(expected["availBal"], rel=1e-12)
