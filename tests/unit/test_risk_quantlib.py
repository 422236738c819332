"""Black-76 against an independent implementation: QuantLib, where it is installed (a development dependency)."""

from __future__ import annotations

import numpy as np
import pytest

from bt_margin.risk.black import greeks_bs, implied_vol, price

ql = pytest.importorskip("QuantLib")
OPTIONS = 4000


def book() -> dict[str, np.ndarray]:
    """Random options: from an hour to three years, vols of 5 % to 300 %, strikes a fifth to five times the forward."""
    chance = np.random.default_rng(76)
    forward = np.exp(chance.uniform(np.log(0.01), np.log(200_000.0), OPTIONS))
    return {
        "sign": chance.choice([-1.0, 1.0], OPTIONS), "forward": forward,
        "strike": forward * np.exp(chance.uniform(-np.log(5.0), np.log(5.0), OPTIONS)),
        "years": np.exp(chance.uniform(np.log(1 / 8760), np.log(3.0), OPTIONS)),
        "vol": chance.uniform(0.05, 3.0, OPTIONS),
    }


def test_prices_agree_to_a_trillionth_of_the_forward() -> None:
    b = book()
    kind = {1.0: ql.Option.Call, -1.0: ql.Option.Put}
    theirs = np.array([
        ql.blackFormula(kind[s], k, f, v * np.sqrt(t))
        for s, f, k, t, v in zip(b["sign"], b["forward"], b["strike"], b["years"], b["vol"], strict=True)
    ])
    ours = price(b["sign"], b["forward"], b["strike"], b["years"], b["vol"])
    assert np.max(np.abs(ours - theirs) / b["forward"]) < 1e-12


def test_deltas_and_vegas_agree() -> None:
    b = book()
    kind = {1.0: ql.Option.Call, -1.0: ql.Option.Put}
    ours = greeks_bs(b["sign"], b["forward"], b["strike"], b["years"], b["vol"])
    for i in range(0, OPTIONS, 5):
        root = float(b["vol"][i] * np.sqrt(b["years"][i]))
        payoff = ql.PlainVanillaPayoff(kind[float(b["sign"][i])], float(b["strike"][i]))
        calc = ql.BlackCalculator(payoff, float(b["forward"][i]), root, 1.0)
        assert np.asarray(ours.delta)[i] == pytest.approx(calc.deltaForward(), abs=1e-12)
        vega = 0.01 * calc.vega(float(b["years"][i]))
        assert np.asarray(ours.vega)[i] == pytest.approx(vega, abs=1e-12 * float(b["forward"][i]))


def test_the_vol_a_price_implies_comes_back() -> None:
    b = book()
    near = np.abs(np.log(b["strike"] / b["forward"])) < 3.0 * b["vol"] * np.sqrt(b["years"])
    worth = np.array([
        ql.blackFormula(ql.Option.Call, k, f, v * np.sqrt(t))
        for f, k, t, v in zip(b["forward"], b["strike"], b["years"], b["vol"], strict=True)
    ])
    found = implied_vol(worth, b["forward"], b["strike"], b["years"], "C")
    assert np.asarray(found)[near] == pytest.approx(b["vol"][near], rel=1e-6)
