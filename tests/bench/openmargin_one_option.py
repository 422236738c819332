"""openmargin's seconds for the margin of one short option; run by bench_portfolio.py in an interpreter that has it.

Offline: its prices, vols and history are given, 2,000 paths of 24 hourly steps. Prints seconds of CPU and the margin.
"""

from __future__ import annotations

import datetime
import statistics
import time

import numpy as np
import pandas as pd
from openmargin.risk import VAR, PricePathGenerator, RiskCalc, RiskConfig, RiskModel

SPOT, STRIKE, VOL, YEARS = 110_000.0, 120_000.0, 0.4, 21.3 / 365


def main() -> None:
    expiry = datetime.datetime(2025, 10, 31, 8)
    listed = pd.DataFrame([{
        "spot": SPOT, "expiration": expiry, "tte": YEARS, "strike": STRIKE, "log_money": np.log(STRIKE / SPOT),
        "kind": "C", "mark_iv": VOL, "mark_price": 0.012, "price": 0.012 * SPOT,
    }])
    held = pd.DataFrame([{"expiration": expiry, "strike": STRIKE, "kind": "C", "position": -1}])
    hours = SPOT * np.exp(np.cumsum(np.random.default_rng(1).normal(0.0, 0.004, 2_000)))
    taken, margins = [], []
    for _ in range(3):
        risk = RiskConfig()
        paths = PricePathGenerator("btc", risk, spot=SPOT, number_of_paths=2_000, historical_prices=hours)
        judge = RiskCalc("btc", held.copy(), risk, RiskModel(VAR()), paths, listed.copy())
        began = time.process_time()
        margin, done = judge.get_margin()
        taken.append(time.process_time() - began)
        if not done:
            raise SystemExit("openmargin gave no margin")
        margins.append(float(margin))
    print(statistics.median(taken), statistics.median(margins))


if __name__ == "__main__":
    main()
