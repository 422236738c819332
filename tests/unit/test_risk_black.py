"""Black-76 against figures OKX printed, and against what must hold for any option."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bt_margin.risk.black import (
    YEAR_DAYS,
    YEAR_MS,
    coin_price,
    greeks_bs,
    greeks_pa,
    implied_vol,
    intrinsic,
    price,
    sign_of,
    years_between,
)


def expiry(year: int, month: int, day: int) -> float:
    """OKX options expire at 08:00 UTC."""
    return datetime(year, month, day, 8, tzinfo=UTC).timestamp() * 1000.0


# Source: position builder sample of the OKX API v5 documentation, 2022-03-07T07:51:37Z, BTC-USD-220325-50000-C, short
# one contract of 0.1 BTC; kept in a public Go SDK. Greeks and MR figures: official. Forward and vol: derived (solved).
# Vectors okx_pb_2022_short_call and okx_pb_2022_short_call_exact.
SAMPLE_2022_TIME = 1_646_639_497_536
SAMPLE_2022_YEARS = years_between(SAMPLE_2022_TIME, expiry(2022, 3, 25))
SAMPLE_2022_SIZE = -0.1
SAMPLE_2022_PA = {
    "delta": -0.008926024905498,
    "gamma": -0.0707804093543001,
    "theta": 9.3015207115e-05,
    "vega": -3.82697346669e-05,
}

# Source: okx.com/api/v5/public/opt-summary, 2025-07-09T18:40:20Z, BTC-USD-251226-100000-C; kept in public repository
# nbgsmk/GEC. Official, but its fields come from slightly different instants. Index: derived. Second figure: how far
# the fields stand apart, relative. Vector okx_opt_summary_2025_greeks.
RECORD_2025_YEARS = years_between(1_752_086_420_763, expiry(2025, 12, 26))
RECORD_2025 = (112_782.12029616143, 100_000.0, RECORD_2025_YEARS, 0.4335822639833618)
RECORD_2025_INDEX = 109_513.5
RECORD_2025_BS = {
    "delta": (0.7104526318024547, 5e-5),
    "gamma": (1.0566021840868419e-05, 4e-4),
    "theta": (-42.781700558164324, 2e-4),
    "vega": (255.23304261163938, 4e-4),
}
RECORD_2025_PA = {
    "delta": (0.5339928762039878, 1e-4),
    "gamma": (0.08913628046196788, 3e-3),
    "theta": (-0.00029783940855611867, 1e-3),
    "vega": (0.002330608031079633, 3e-4),
}


def test_time_runs_to_eight_in_the_morning() -> None:
    days = SAMPLE_2022_YEARS * YEAR_DAYS
    assert days == pytest.approx(18.0058155556, abs=1e-10)
    assert years_between(0, YEAR_MS) == 1.0
    assert years_between(np.array([0.0, YEAR_MS, 2.0 * YEAR_MS]), YEAR_MS) == pytest.approx([1.0, 0.0, 0.0])


@pytest.mark.parametrize("name", SAMPLE_2022_PA)
def test_greeks_of_the_2022_sample(name: str) -> None:
    greeks = greeks_pa("C", 38_138.2877, 50_000.0, SAMPLE_2022_YEARS, 0.87527)
    assert SAMPLE_2022_SIZE * getattr(greeks, name) == pytest.approx(SAMPLE_2022_PA[name], rel=2e-6)


def test_only_a_year_of_365_days_gives_the_four_greeks() -> None:
    """Theta / vega = vol / (0.02 days) whatever the year, so vol is known; delta gives the forward, gamma the year.

    What other years miss gamma by: 360 days 0.8 %, 365.25 days 0.04 %, 366 days 0.16 %.
    """
    days = float(SAMPLE_2022_YEARS) * YEAR_DAYS
    vol = -SAMPLE_2022_PA["theta"] / SAMPLE_2022_PA["vega"] * 0.02 * days
    delta = SAMPLE_2022_PA["delta"] / SAMPLE_2022_SIZE
    missed = {}
    for year in (360.0, 365.0, 365.25, 366.0):
        low, high = 30_000.0, 45_000.0
        for _ in range(80):
            forward = (low + high) / 2
            short = greeks_pa("C", forward, 50_000.0, days / year, vol).delta < delta
            low, high = (forward, high) if short else (low, forward)
        gamma = greeks_pa("C", forward, 50_000.0, days / year, vol).gamma
        missed[year] = abs(SAMPLE_2022_SIZE * float(gamma) / SAMPLE_2022_PA["gamma"] - 1.0)
    assert missed[365.0] < 5e-6
    assert all(missed[year] > 1e-4 for year in missed if year != 365.0), missed


def test_risk_figures_of_the_2022_sample() -> None:
    """MR6 = 0.33 of the loss at +30 %, MR2 = 0.8 of a day's decay, both in coin (addendum section 2.1)."""
    forward, vol, day = 38_138.3, 0.8754, 1.0 / YEAR_DAYS

    def coin(move: float, vol: float, shift: float = 0.0) -> float:
        return float(coin_price("C", forward * (1.0 + move), 50_000.0, SAMPLE_2022_YEARS - shift, vol))

    now = coin(0.0, vol)
    assert now == pytest.approx(0.008265868014442818, rel=1e-8)  # ours
    assert 0.1 * 0.33 * 1.30 * (coin(0.3, vol) - now) == pytest.approx(0.0028031968471, rel=1e-6)
    assert 0.1 * 0.8 * (now - coin(0.0, vol, day)) == pytest.approx(7.34347499275e-05, rel=3e-6)
    assert 0.1 * 1.15 * (coin(0.15, 1.0512457994899669) - now) == pytest.approx(0.0041787001530946, rel=1e-7)  # solved


@pytest.mark.parametrize("name", RECORD_2025_BS)
def test_greeks_of_the_2025_record(name: str) -> None:
    bs, pa = greeks_bs("C", *RECORD_2025, RECORD_2025_INDEX), greeks_pa("C", *RECORD_2025)
    printed, apart = RECORD_2025_BS[name]
    assert getattr(bs, name) == pytest.approx(printed, rel=apart)
    printed, apart = RECORD_2025_PA[name]
    assert getattr(pa, name) == pytest.approx(printed, rel=apart)


def test_lever_of_the_2025_record_is_one_coin_over_the_price_in_coin() -> None:
    assert 1.0 / coin_price("C", *RECORD_2025) == pytest.approx(5.667014536025402, rel=4e-4)


# -- any option -----------------------------------------------------------------------------------------------

kinds = st.sampled_from(["C", "P"])
forwards = st.floats(100.0, 200_000.0)
strikes = st.floats(0.3, 3.0)  # of the forward
times = st.floats(1 / 365, 2.0)
vols = st.floats(0.1, 2.5)


@given(forwards, strikes, times, vols)
def test_put_call_parity(forward: float, ratio: float, years: float, vol: float) -> None:
    strike = forward * ratio
    call, put = price("C", forward, strike, years, vol), price("P", forward, strike, years, vol)
    assert call - put == pytest.approx(forward - strike, rel=1e-14, abs=1e-14 * forward)
    bs = [greeks_bs(kind, forward, strike, years, vol) for kind in "CP"]
    assert bs[0].delta - bs[1].delta == pytest.approx(1.0)
    assert (bs[0].gamma, bs[0].vega) == (bs[1].gamma, bs[1].vega)
    pa = [greeks_pa(kind, forward, strike, years, vol) for kind in "CP"]
    assert pa[0].delta - pa[1].delta == pytest.approx(ratio)


@given(kinds, forwards, strikes, times, vols, st.floats(1.001, 2.0))
def test_dearer_with_time_and_vol_and_moneyness(
    kind: str, forward: float, ratio: float, years: float, vol: float, more: float
) -> None:
    strike = forward * ratio
    at = price(kind, forward, strike, years, vol)
    dust = 1e-12 * forward
    assert price(kind, forward, strike, years * more, vol) >= at - dust
    assert price(kind, forward, strike, years, vol * more) >= at - dust
    assert sign_of(kind) * (price(kind, forward * more, strike, years, vol) - at) >= -dust
    assert sign_of(kind) * (at - price(kind, forward, strike * more, years, vol)) >= -dust
    assert intrinsic(kind, forward, strike) <= at <= (forward if kind == "C" else strike)


@given(kinds, forwards, st.floats(0.6, 1.6), st.floats(0.05, 2.0), st.floats(0.3, 2.0), st.floats(-0.05, 0.15))
def test_greeks_are_slopes_of_the_price(
    kind: str, index: float, ratio: float, years: float, vol: float, rate: float
) -> None:
    growth = np.exp(rate * years)
    forward, strike = index * growth, index * ratio

    def usd(s: float = index, t: float = years, v: float = vol) -> float:  # carry rate held still
        return float(np.exp(-rate * t) * price(kind, s * np.exp(rate * t), strike, t, v))

    def coin(s: float = index, t: float = years, v: float = vol) -> float:
        return float(coin_price(kind, s * growth, strike, t, v))  # PA: forward / index held still

    h, d, e = 1e-4 * index, 1e-4 * years, 1e-4
    bs = greeks_bs(kind, forward, strike, years, vol, index)
    assert bs.delta == pytest.approx((usd(index + h) - usd(index - h)) / (2 * h), rel=1e-5, abs=1e-6)
    assert bs.gamma * index == pytest.approx(
        index * (usd(index + h) - 2 * usd() + usd(index - h)) / h**2, rel=1e-4, abs=1e-5
    )
    vega = (usd(v=vol + e) - usd(v=vol - e)) / (2 * e * 100)
    assert bs.vega / index == pytest.approx(vega / index, rel=1e-5, abs=1e-9)
    theta = (usd(t=years - d) - usd(t=years + d)) / (2 * d * YEAR_DAYS)
    assert bs.theta / index == pytest.approx(theta / index, rel=1e-4, abs=1e-8)

    pa = greeks_pa(kind, forward, strike, years, vol)
    assert pa.delta == pytest.approx(index * (coin(index + h) - coin(index - h)) / (2 * h), rel=1e-5, abs=1e-6)
    second = index**2 * (coin(index + h) - 2 * coin() + coin(index - h)) / h**2
    assert pa.gamma == pytest.approx(second, rel=1e-4, abs=1e-5)
    assert pa.vega == pytest.approx((coin(v=vol + e) - coin(v=vol - e)) / (2 * e * 100), rel=1e-5, abs=1e-9)
    assert pa.theta == pytest.approx((coin(t=years - d) - coin(t=years + d)) / (2 * d * YEAR_DAYS), rel=1e-4, abs=1e-9)


@given(kinds, forwards, strikes, times, vols)
@example("C", 100.0, 1.0, 1.0, 1.0)
def test_bs_and_pa_sets_agree(kind: str, forward: float, ratio: float, years: float, vol: float) -> None:
    args = (kind, forward, forward * ratio, years, vol)
    index = forward * 0.97
    bs, pa = greeks_bs(*args, index), greeks_pa(*args)
    assert pa.delta == pytest.approx(bs.delta - coin_price(*args), abs=1e-12)
    assert pa.gamma == pytest.approx(index * bs.gamma - 2.0 * pa.delta, abs=1e-9)
    assert pa.vega == pytest.approx(bs.vega / index, abs=1e-15)


@given(kinds, forwards, strikes, times, vols)
def test_implied_vol_gives_the_price_and_the_vol_back(
    kind: str, forward: float, ratio: float, years: float, vol: float
) -> None:
    strike = forward * ratio
    value = price(kind, forward, strike, years, vol)
    found = implied_vol(value, forward, strike, years, kind)
    assert price(kind, forward, strike, years, found) == pytest.approx(value, rel=1e-14, abs=1e-14 * forward)
    if intrinsic(kind, forward, strike) == 0.0 and value > 0.0:  # no digits lost to the intrinsic value
        assert found == pytest.approx(vol, rel=1e-9)


# -- the edges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("years", "vol"), [(0.0, 0.6), (-1.0, 0.6), (1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("kind", ["C", "P"])
def test_without_time_or_vol_the_price_is_intrinsic(kind: str, years: float, vol: float) -> None:
    forward = np.array([50.0, 90.0, 100.0, 110.0, 200.0])
    assert np.array_equal(price(kind, forward, 100.0, years, vol), intrinsic(kind, forward, 100.0))
    pays = np.sign(np.maximum(sign_of(kind) * (forward - 100.0), 0.0)) + np.where(forward == 100.0, 0.5, 0.0)
    for index in (None, 99.0):
        bs = greeks_bs(kind, forward, 100.0, years, vol, index)
        assert np.array_equal(bs.delta, sign_of(kind) * pays)  # in the middle of both sides at the money
        assert np.isfinite([bs.gamma, bs.vega, bs.theta]).all()
        assert not bs.gamma.any()
        assert years > 0 or not np.asarray(bs.theta).any()  # nothing is left to be lost, whatever the carry was
    pa = greeks_pa(kind, forward, 100.0, years, vol)
    assert pa.delta == pytest.approx(sign_of(kind) * pays * 100.0 / forward)
    assert np.array_equal(pa.gamma, -2.0 * np.asarray(pa.delta))  # index x gammaBS, which is 0 there, - 2 delta
    assert not np.asarray(pa.theta).any()


def test_near_the_edge_the_price_runs_into_it() -> None:
    forward = np.array([90.0, 100.0, 110.0])
    for years, vol in ((1e-14, 0.6), (1.0, 1e-9)):
        assert price("C", forward, 100.0, years, vol) == pytest.approx(intrinsic("C", forward, 100.0), abs=1e-5)


def test_far_out_of_the_money_is_zero_not_nan() -> None:
    strike = np.array([1e-6, 1.0, 1e6, 1e9])
    for kind in ("C", "P"):
        args = (kind, 60_000.0, strike, 1e-5, 0.05)
        bs, pa = greeks_bs(*args, 59_000.0), greeks_pa(*args)
        for figure in (price(*args), bs.delta, bs.gamma, bs.vega, bs.theta, pa.delta, pa.gamma, pa.vega, pa.theta):
            assert np.isfinite(figure).all()
            assert not np.signbit(np.asarray(figure)[np.asarray(figure) == 0.0]).any()  # nothing is not minus nothing
        assert np.array_equal(price(*args), intrinsic(kind, 60_000.0, strike))
    far = price("C", 60_000.0, 240_000.0, 30 / 365, 0.5)  # 9.7 standard deviations
    assert 0.0 < far < 1e-15


def test_a_time_value_survives_deep_in_the_money() -> None:
    put, call = price("P", 100.0, 60.0, 0.1, 0.5), price("C", 100.0, 60.0, 0.1, 0.5)
    assert call - 40.0 == pytest.approx(put, abs=1e-14)


def test_implied_vol_outside_no_arbitrage_is_nan() -> None:
    call = implied_vol(np.array([-1.0, 9.99, 10.0, 10.5, 109.99, 110.0, 111.0, np.nan]), 110.0, 100.0, 1.0, "C")
    assert np.isnan(call[[0, 1, 5, 6, 7]]).all()
    assert call[2] == 0.0
    assert 0.0 < call[3] < call[4]
    put = implied_vol(np.array([0.0, 5.0, 99.9, 100.0]), 110.0, 100.0, 1.0, "P")
    assert put[0] == 0.0
    assert 0.0 < put[1] < put[2]
    assert np.isnan(put[3])
    assert np.isnan(implied_vol(5.0, 100.0, 100.0, 0.0, "C"))


def test_implied_vol_of_next_to_nothing() -> None:
    strike, vol = np.array([400.0, 1_000.0]), np.array([0.4, 0.35])
    value = price("C", 100.0, strike, 0.25, vol)
    assert 1e-12 < value[0] < 1e-9
    assert 0.0 < value[1] < 1e-38
    assert implied_vol(value, 100.0, strike, 0.25, "C") == pytest.approx(vol, rel=1e-9)


def test_a_kind_has_four_words() -> None:
    assert [sign_of(word) for word in ("C", "P", "call", "put")] == [1.0, -1.0, 1.0, -1.0]


def test_everything_broadcasts_and_scalars_stay_scalars() -> None:
    forward = np.linspace(50.0, 150.0, 5)
    strike, sign = np.array([[90.0], [100.0], [110.0]]), np.array([[1.0], [-1.0], [1.0]])
    grid = price(sign, forward, strike, 0.2, 0.6)
    assert grid.shape == (3, 5)
    assert np.array_equal(grid[1], price("P", forward, 100.0, 0.2, 0.6))
    assert np.array_equal(grid[2], price("call", forward, 110.0, 0.2, 0.6))
    for greeks in (greeks_bs(sign, forward, strike, 0.2, 0.6, 100.0), greeks_pa(sign, forward, strike, 0.2, 0.6)):
        assert {greeks.delta.shape, greeks.gamma.shape, greeks.vega.shape, greeks.theta.shape} == {(3, 5)}
    assert implied_vol(grid, forward, strike, 0.2, sign).shape == (3, 5)
    one = greeks_bs("put", 100, 100, 1, 1)
    for figure in (price("C", 100, 100, 1, 1), one.delta, one.gamma, one.vega, one.theta,
                   implied_vol(5.0, 100.0, 100.0, 1.0, "C"), years_between(0, 1)):
        assert isinstance(figure, float)


def test_what_is_unknown_stays_unknown() -> None:
    assert np.isnan(price("C", 100.0, 100.0, 1.0, -0.1))
    assert np.isnan(price("C", 100.0, 100.0, 1.0, np.nan))
    assert np.isnan(greeks_pa("C", 100.0, 100.0, 1.0, np.nan).delta)
    with pytest.raises(ValueError, match="option kind"):
        price("X", 100.0, 100.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="option kind"):
        price(np.array([1.0, 0.0]), 100.0, 100.0, 1.0, 0.5)
