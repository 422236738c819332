"""The position builder's multi-currency judgement against the oracle's, on random static accounts."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from bt_margin import PositionBuilder
from bt_margin.model.assessment import AccountReport
from tests.oracle.book import Book, Order, Position
from tests.oracle.contract import Contract, exact
from tests.oracle.multi_currency import BorrowRow, Terms, Wealth
from tests.oracle.scenario import contract_of

BOOKS = 80
TIME, STAMP = 1_760_000_000_000, "2025-10-09T08:53:20Z"
USD = {"USDT": 1.0, "BTC": 110_000.0, "ETH": 4_000.0, "SOL": 200.0}
SWAPS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "BTC/USD:BTC", "ETH/USD:ETH")
CONTRACTS: dict[str, Contract] = {symbol: contract_of(symbol, TIME) for symbol in SWAPS}


def draw(seed: int) -> dict[str, Any]:
    """A book file: holdings and debts, swaps long and short, orders, its own discounts and borrow tiers."""
    dice = Random(f"oracle multi-currency {seed}")
    usd = {currency: round(price * dice.uniform(0.7, 1.3), 2) for currency, price in USD.items()}
    usd["USDT"] = round(dice.uniform(0.95, 1.01), 5)
    worth = 10 ** dice.uniform(3, 7)
    held = dice.sample(sorted(USD), dice.randint(2, 4))
    balances = {c: round(dice.choice((1, 1, 0.3, -0.3, -0.1)) * worth * dice.random() / usd[c], 6) for c in held}
    marks = {s: round(usd[s.split("/")[0]] * dice.uniform(0.995, 1.005), 2) for s in SWAPS}
    rows: list[dict[str, Any]] = []
    orders: list[dict[str, Any]] = []
    for symbol in dice.sample(SWAPS, dice.randint(0, 4)):
        contract, mark = CONTRACTS[symbol], marks[symbol]
        one = float(contract.value(exact(1), exact(mark))) * usd[contract.settle]
        size = float(max(contract.whole_lots(exact(round(worth * dice.uniform(0.01, 3) / one, 2))), contract.lot))
        leverage = float(dice.choice((2, 3, 5, 10)))
        rows.append({"symbol": symbol, "contracts": size * dice.choice((1, -1)), "leverage": leverage,
                     "entry_price": round(mark * dice.uniform(0.8, 1.25), 2), "margin_mode": "cross"})
        if dice.random() < 0.4:
            side = dice.choice(("buy", "sell"))
            price = round(mark * (dice.uniform(0.9, 1) if side == "buy" else dice.uniform(1, 1.1)), 1)
            amount = float(max(contract.whole_lots(exact(round(size * dice.uniform(0.2, 2), 2))), contract.lot))
            orders.append({"symbol": symbol, "side": side, "amount": amount, "price": price, "margin_mode": "cross",
                           "leverage": leverage})
    first = {c: dice.uniform(0.7, 1.0) for c in USD}
    discounts = {c: [[worth / usd[c] * (k + 1) * 0.4, round(first[c] - 0.05 * k, 4)] for k in range(4)] for c in USD}
    borrow = {c: [[worth / usd[c] * (k + 1) ** 2, 0.02 + 0.01 * k, 0.1 + 0.02 * k] for k in range(6)] for c in USD}
    interest = {c: round(abs(x) * 1e-5, 8) for c, x in balances.items() if x < 0 and dice.random() < 0.5}
    index = {f"{c}/USD": price for c, price in usd.items()}
    return {
        "time": STAMP, "balances": balances, "positions": rows, "orders": orders,
        "prices": {"mark": marks, "index": index}, "discounts": discounts, "borrow_tiers": borrow,
        "borrow": {"auto": True, "leverage": {c: dice.choice((2, 5, 8, 10)) for c in USD}, "interest": interest},
        "rules": {"venue": "okx", "extrapolate": "nearest"},
    }


def wealth(book: dict[str, Any]) -> Wealth:
    account = Book({c: exact(x) for c, x in book["balances"].items()})
    for row in book["positions"]:
        position = Position(CONTRACTS[row["symbol"]], "cross", "net", exact(row["leverage"]), exact(row["contracts"]),
                            exact(row["entry_price"]))
        account.positions[position.key] = position
    for number, row in enumerate(book["orders"]):
        account.orders[number] = Order(number, CONTRACTS[row["symbol"]], row["side"] == "buy", exact(row["amount"]),
                                       exact(row["price"]), "cross", "net", exact(row["leverage"]), False)
    account.accrued = {c: exact(x) for c, x in book["borrow"]["interest"].items()}
    terms = Terms(
        {c: tuple((exact(b), exact(r)) for b, r in rows) for c, rows in book["discounts"].items()},
        {c: tuple(BorrowRow(*map(exact, row)) for row in rows) for c, rows in book["borrow_tiers"].items()},
        {c: exact(x) for c, x in book["borrow"]["leverage"].items()},
        exact(0.001),  # spot taker, level 1 (rule book of isolated margin, section 10)
    )
    return Wealth(account, {name: exact(p) for kind in ("mark", "index") for name, p in book["prices"][kind].items()},
                  terms)


def check(report: AccountReport, told: Wealth) -> bool:
    """Every number within 1e-9 of the account; True: something is owed."""
    size = sum(abs(told.equity(c)) * told.usd(c) for c in told.currencies)

    def close(found: float | None, expected: Any, scale: Any = size) -> None:
        assert (found is None) == (expected is None)
        assert found is None or abs(found - float(expected)) <= 1e-9 * max(abs(found), float(scale), 1e-9)

    totals = report.account
    for found, expected in (
        (totals.equity_usd, told.total_equity()), (totals.adjusted_equity_usd, told.adjusted_equity()),
        (totals.initial_margin_usd, told.initial()), (totals.maintenance_margin_usd, told.maintenance()),
        (totals.liquidation_fee_usd, told.fee()),
    ):
        close(found, expected)
    close(totals.margin_ratio, told.ratio(), 1)
    assert [row.currency for row in report.currencies] == told.currencies
    for row in report.currencies:
        scale = size / told.usd(row.currency)
        close(row.equity, told.equity(row.currency), scale)
        close(row.potential_borrow, told.potential_borrow(row.currency), scale)
        close(row.liability, max(-told.equity(row.currency), 0), scale)
        close(row.discounted_equity_usd, told.discounted(row.currency))
    return bool(told.debts)


@pytest.mark.parametrize("part", range(2))
def test_builder_and_oracle_judge_alike(part: int) -> None:
    owing = 0
    for seed in range(part, BOOKS, 2):
        book = draw(seed)
        owing += check(PositionBuilder.from_dict(book).report("multi-currency"), wealth(book))
    assert owing > BOOKS / 10
