"""Assessments per second in portfolio margin; prints figures, asserts nothing.

    python tests/bench/bench_portfolio.py [--openmargin PYTHON]

One assessment is `judge`: adjusted equity and every charge of the account. Books: ten linear legs in ten units and
in one, one short option, and 100 options x 21 scenarios with their hedge. Then the same over many instants at once,
as stress tests and distances use it. CPU time, median of five runs.

Beside them stands openmargin's time for the margin of one option (value at risk over 2,000 paths: another question of
the same book), by an interpreter that has it. It needs an older numpy than this package works with:

    python3.11 -m venv om && om/bin/pip install 'numpy<2' 'scipy<1.14' openmargin
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
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


def one_option(known: Rules, price: Any) -> tuple[Pool, Market]:
    symbol = "BTC/USD:BTC-251031-120000-C"
    instrument = known.instrument(symbol)
    mark = model_mark(instrument, price, price, years_left(instrument, NOW), 0.4)
    index = {"BTC/USD": price, "USDT/USD": 1.0}
    return pool([(symbol, -100.0)], known), Market(NOW, {symbol: mark}, indexes=index, forwards={symbol[:18]: price})


def openmargin(python: str) -> str:
    """What is to be said of openmargin: its time, or why there is none."""
    script = Path(__file__).with_name("openmargin_one_option.py")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run([python, str(script)], env=clean, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"skipped: {error}"
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"skipped: {why}; give --openmargin an interpreter that has it, see the top of this file"
    seconds = float(done.stdout.split()[0])
    return f"{1.0 / seconds:9,.1f} assessments/s   ({seconds:.2f} s each, 2,000 paths)"


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
    options_of_run = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of_run.add_argument("--openmargin", default=sys.executable, metavar="PYTHON",
                                help="an interpreter that can import openmargin")
    asked = options_of_run.parse_args()
    known = rules()
    many = 110_000.0 * np.linspace(0.7, 1.3, 400)
    for name, make, turns in (
        ("10 linear legs, 10 units", lambda price: linear(known, price, False), 100),
        ("10 linear legs, 1 unit", lambda price: linear(known, price, True), 300),
        ("1 short option x 21 scenarios", lambda price: one_option(known, price), 300),
        ("100 options x 21 scenarios + hedge", lambda price: options(known, price), 50),
    ):
        book, market = make(110_000.0)
        single = rate(lambda b=book, m=market: judge(b, m, known), turns)  # type: ignore[misc]
        book, market = make(many)
        wide = rate(lambda b=book, m=market: judge(b, m, known), 3)  # type: ignore[misc]
        print(f"{name:36} {single:9,.0f} assessments/s   {wide * len(many):9,.0f} instants/s, {len(many)} at once")
    print(f"{'openmargin, 1 short option':36} {openmargin(asked.openmargin)}")


if __name__ == "__main__":
    main()
