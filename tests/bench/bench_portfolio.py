"""Assessments per second in portfolio margin; prints figures, asserts nothing.

    python tests/bench/bench_portfolio.py

One assessment is `judge`: adjusted equity and every charge of the account. Books: ten linear legs in ten units and
in one, and 100 options x 21 scenarios with their hedge. Then the same over many instants at once, as stress tests and
distances use it. CPU time, median of five runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bt_margin.model.account import Account, Position
from bt_margin.model.market import Market
from bt_margin.modes.base import Pool, judge
from bt_margin.modes.options import model_mark, years_left
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.rules.book import Rules, load_rules

NOW = 1_760_054_400_000  # 2025-10-10
COINS = ("BTC", "ETH", "SOL", "LTC", "DOGE", "XRP", "ADA", "BCH", "LINK", "DOT")
EXPIRIES = {"251031": 1.004, "251226": 1.012, "260327": 1.02, "260626": 1.03}


def rules() -> Rules:
    whole = {coin: [[1e18, 1.0]] for coin in ("USDT", "USDC", *COINS)}
    sizes = {f"{coin}/USDT:USDT": {"contract_size": 0.01} for coin in COINS}
    return load_rules("okx").overlay(discounts=whole, instruments=sizes).as_of(NOW, "nearest")


def pool(legs: list[tuple[str, float]], known: Rules) -> Pool:
    account = Account({"USDT": 1e8, "BTC": 10.0})
    for symbol, size in legs:
        account.adopt(Position(known.instrument(symbol), "cross", "net", size, 100.0, 1.0))
    (found,) = PORTFOLIO.pools(account)
    return found


def linear(known: Rules, price: Any, one_unit: bool) -> tuple[Pool, Market]:
    symbols = [f"{coin}/USDT:USDT" for coin in COINS]
    if one_unit:
        dates = ("251017", "251024", "251031", "251128", "251226", "260130", "260327", "260626", "260925")
        symbols = ["BTC/USDT:USDT", *(f"BTC/USDT:USDT-{day}" for day in dates)]
    marks = dict.fromkeys(symbols, price)
    index = {f"{coin}/USDT": price for coin in COINS} | {"USDT/USD": 1.0, "BTC/USD": price}
    legs = [(symbol, 10.0 * (-1) ** i) for i, symbol in enumerate(symbols)]
    return pool(legs, known), Market(NOW, marks, indexes=index)


def options(known: Rules, price: Any) -> tuple[Pool, Market]:
    forward = {f"BTC/USD:BTC-{day}": price * carry for day, carry in EXPIRIES.items()}
    symbols = [f"BTC/USD:BTC-{day}-{strike}-{right}" for day in EXPIRIES for right in "CP"
               for strike in range(80_000, 142_500, 5_000)][:100]
    marks: dict[str, Any] = {"BTC/USDT:USDT": price}
    for i, symbol in enumerate(symbols):
        instrument = known.instrument(symbol)
        years = years_left(instrument, NOW)
        marks[symbol] = model_mark(instrument, forward[symbol[:18]], price, years, 0.4 + 0.002 * i)
    legs = [(symbol, 5.0 * (-1) ** i) for i, symbol in enumerate(symbols)] + [("BTC/USDT:USDT", 100.0)]
    index = {"BTC/USD": price, "BTC/USDT": price, "USDT/USD": 1.0}
    return pool(legs, known), Market(NOW, marks, indexes=index, forwards=forward)


def rate(judged: Callable[[], object], turns: int) -> float:
    """Calls per second: the median of five runs."""
    judged()
    taken = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(turns):
            judged()
        taken.append((time.process_time() - began) / turns)
    return 1.0 / statistics.median(taken)


def main() -> None:
    known = rules()
    many = 110_000.0 * np.linspace(0.7, 1.3, 400)
    for name, make, turns in (
        ("10 linear legs, 10 units", lambda price: linear(known, price, False), 100),
        ("10 linear legs, 1 unit", lambda price: linear(known, price, True), 300),
        ("100 options x 21 scenarios + hedge", lambda price: options(known, price), 50),
    ):
        book, market = make(110_000.0)
        single = rate(lambda b=book, m=market: judge(b, m, known), turns)  # type: ignore[misc]
        book, market = make(many)
        wide = rate(lambda b=book, m=market: judge(b, m, known), 3)  # type: ignore[misc]
        print(f"{name:36} {single:9,.0f} assessments/s   {wide * len(many):9,.0f} instants/s, {len(many)} at once")


if __name__ == "__main__":
    main()
