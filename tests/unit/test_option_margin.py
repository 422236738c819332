"""Option margin and fees: printed and recorded figures, and what must hold whatever the prices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin.risk.option_margin import (
    buy_order_margin,
    buy_to_close_margin,
    exercise_fee,
    liquidation_fee,
    option_fee,
    out_of_the_money,
    sell_order_margin,
    sell_to_close_margin,
    short_initial,
    short_maintenance,
)

A, B, C, MIN_ORDER = 0.10, 0.15, 0.03, 0.10  # rule book section 3.3 (BTC)

# -- figures --------------------------------------------------------------------------------------------------


def test_isolated_short_call_of_2024() -> None:
    """ISO-OPTION-SHORT-CALL-20240711, recorded: BTC-USD-240830-55000-C, 1 contract of 0.01 BTC, mark in coin."""
    size, mark, margin = 0.01, 0.1446234821387017, 0.0024111761223571
    maintenance = size * short_maintenance("C", mark, c=C)
    assert maintenance == pytest.approx(0.001746234821387, rel=1e-12)
    fee = liquidation_fee(size, size * mark, taker=0.0003, cap=0.125)
    assert fee == pytest.approx(0.0003 * size)  # the cap is far away
    assert margin / (maintenance + fee) == pytest.approx(1.378417633171292, rel=1e-12)
    # The margin is the initial margin when it opened: in the money, so the mark then was this one.
    at_open = margin / size - B
    assert at_open == pytest.approx(0.0911, abs=2e-5)
    assert size * short_initial("C", 57_500.0, 55_000.0, at_open, a=A, b=B) == pytest.approx(margin)


SHORT_2020 = {"a": A, "b": B, "factor": 1.02}  # second tier
MULT_2020, FEE_2020 = 0.1, 0.0002


def test_short_call_of_2020() -> None:
    """OPT-SHORT-CALL-POSITION-2020, rewrite (365shuku.com/13503): 100 USD out of the money, forward 5,900."""
    initial = MULT_2020 * short_initial("C", 5_900.0, 6_000.0, 0.0575, **SHORT_2020)
    assert initial == pytest.approx(0.019321186440677967, rel=1e-12)
    assert round(initial, 5) == 0.01932  # as printed


def test_orders_of_2020() -> None:
    """OPT-ORDER-BUY-OPEN, -SELL-OPEN, -BUY-CLOSE-2020, rewrites (365shuku.com/13503, mtwwr.com/8665): 100 contracts."""
    coins, initial = 100 * MULT_2020, 0.01932 / MULT_2020
    assert coins * buy_order_margin(0.0475, fee=FEE_2020) == pytest.approx(0.477, rel=1e-12)
    sell = sell_order_margin(initial, 0.06, min_order=MIN_ORDER, fee=FEE_2020)
    assert coins * sell == pytest.approx(1.334, rel=1e-12)
    assert coins * buy_to_close_margin(initial, 0.05, fee=FEE_2020) == 0.0
    assert buy_to_close_margin(0.05, 0.06, fee=FEE_2020) == pytest.approx(0.0102)  # the fee comes on top
    assert sell_to_close_margin(0.0755, fee=FEE_2020) == 0.0  # the page's fourth example


def test_trading_fee_of_the_fees_page() -> None:
    """OPT-FEE-TAKER-CAP12.5, official (okx.com/en/fees): 100 contracts of 0.01 BTC at 0.05."""
    coins = 100 * 1 * 0.01
    assert option_fee(coins, coins * 0.05, rate=0.0003, cap=0.125) == pytest.approx(0.0003, rel=1e-12)
    assert option_fee(coins, coins * 0.05, rate=0.0002, cap=0.125) == pytest.approx(0.0002, rel=1e-12)
    assert option_fee(coins, coins * 0.001, rate=0.0003, cap=0.125) == pytest.approx(0.000125)  # the cap binds
    assert option_fee(coins, coins * 0.001, rate=0.0003, cap=0.07) == pytest.approx(0.00007)


def test_exercise_fee_is_the_least_of_three() -> None:
    assert exercise_fee(1.0, 0.05, rate=0.0002, taker=0.0003, cap=0.125) == pytest.approx(0.0002)
    assert exercise_fee(1.0, 0.05, rate=0.0002, taker=0.00015, cap=0.125) == pytest.approx(0.00015)
    assert exercise_fee(1.0, 0.0008, rate=0.0002, taker=0.0003, cap=0.125) == pytest.approx(0.0001)
    assert exercise_fee(1.0, 0.0, rate=0.0002, taker=0.0003, cap=0.125) == 0.0  # expired worthless


def test_a_short_put_may_owe_more_than_its_coin() -> None:
    """Rule book section 3.3: the put's rate applies to the larger of coin and mark."""
    assert short_maintenance("P", 0.4, c=C, factor=1.5) == pytest.approx(0.03 * 1.5 + 0.4)
    assert short_maintenance("P", 1.6, c=C, factor=1.5) == pytest.approx(0.03 * 1.6 * 1.5 + 1.6)
    assert short_maintenance("C", 1.6, c=C, factor=1.5) == pytest.approx(0.03 * 1.5 + 1.6)
    assert short_maintenance("P", 70_000.0, c=C, unit=60_000.0) == pytest.approx(0.03 * 70_000.0 + 70_000.0)


def test_out_of_the_money_lowers_the_rate_down_to_a() -> None:
    strikes = np.array([50_000.0, 60_000.0, 61_200.0, 63_000.0, 90_000.0])
    calls = short_initial("C", 60_000.0, strikes, 0.0, a=A, b=B)
    assert calls == pytest.approx([0.15, 0.15, 0.13, 0.10, 0.10])
    puts = short_initial("P", 60_000.0, np.array([70_000.0, 60_000.0, 58_800.0, 40_000.0]), 0.0, a=A, b=B)
    assert puts == pytest.approx([0.15, 0.15, 0.13, 0.10])


# -- whatever the prices --------------------------------------------------------------------------------------

kinds = st.sampled_from(["C", "P"])
forwards = st.floats(1_000.0, 200_000.0)
ratios = st.floats(0.2, 5.0)
marks = st.floats(0.0, 3.0)
factors = st.floats(1.0, 5.0)


@given(kinds, forwards, ratios, marks, factors)
def test_initial_exceeds_maintenance_exceeds_the_debt(
    kind: str, forward: float, ratio: float, mark: float, factor: float
) -> None:
    mark = min(mark, 1.0) if kind == "C" else mark  # a call is never worth more than its coin
    initial = short_initial(kind, forward, forward * ratio, mark, a=A, b=B, factor=factor)
    maintenance = short_maintenance(kind, mark, c=C, factor=factor)
    assert initial >= maintenance > mark
    assert A * factor <= initial - mark + 1e-12 <= B * factor + 1e-11


@given(kinds, forwards, ratios, marks, factors, st.floats(0.0, 1.0))
def test_settling_in_usd_is_settling_in_coin_times_the_index(
    kind: str, index: float, ratio: float, mark: float, factor: float, bid: float
) -> None:
    strike = index * ratio
    coin = short_initial(kind, index, strike, mark, a=A, b=B, factor=factor)
    usd = short_initial(kind, index, strike, mark * index, a=A, b=B, factor=factor, unit=index)
    assert usd == pytest.approx(coin * index)
    assert short_maintenance(kind, mark * index, c=C, factor=factor, unit=index) == pytest.approx(
        short_maintenance(kind, mark, c=C, factor=factor) * index
    )
    assert sell_order_margin(usd, bid * index, min_order=MIN_ORDER, unit=index) == pytest.approx(
        sell_order_margin(coin, bid, min_order=MIN_ORDER) * index
    )
    assert buy_to_close_margin(usd, bid * index) == pytest.approx(buy_to_close_margin(coin, bid) * index, abs=1e-6)


@given(kinds, forwards, ratios, marks, st.floats(0.0, 3.0))
def test_an_order_and_its_premium_cover_the_position(
    kind: str, forward: float, ratio: float, mark: float, order_price: float
) -> None:
    initial = short_initial(kind, forward, forward * ratio, mark, a=A, b=B)
    order = sell_order_margin(initial, order_price, min_order=MIN_ORDER)
    assert order + order_price >= initial - 1e-12
    assert order >= MIN_ORDER
    # Buying back takes the premium out of the margin that the position sets free.
    assert buy_to_close_margin(initial, order_price) == pytest.approx(max(order_price - initial, 0.0))
    assert buy_order_margin(order_price) == order_price


@given(kinds, forwards, ratios)
def test_one_side_is_out_of_the_money(kind: str, forward: float, ratio: float) -> None:
    strike = forward * ratio
    both = out_of_the_money("C", forward, strike), out_of_the_money("P", forward, strike)
    assert min(both) == 0.0
    assert max(both) == pytest.approx(abs(strike - forward))


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.floats(0.0, 0.001))
def test_a_fee_never_exceeds_either_bound(notional: float, value: float, rate: float) -> None:
    for fee in (
        option_fee(notional, value, rate=rate, cap=0.125),
        liquidation_fee(notional, value, taker=rate, cap=0.125),
        exercise_fee(notional, value, rate=0.0002, taker=rate, cap=0.125),
    ):
        assert 0.0 <= fee <= min(rate * notional, 0.125 * value)


def test_kinds_and_shapes_broadcast() -> None:
    sign, marks = np.array([[1.0], [-1.0]]), np.array([0.1, 0.5, 2.0])
    initial = short_initial(sign, 60_000.0, 62_000.0, marks, a=A, b=B)
    assert initial.shape == (2, 3)
    assert np.array_equal(initial[1], short_initial("P", 60_000.0, 62_000.0, marks, a=A, b=B))
    maintenance = short_maintenance(sign, marks, c=C)
    assert np.array_equal(maintenance[0], short_maintenance("C", marks, c=C))
    assert np.array_equal(maintenance[1], short_maintenance("P", marks, c=C))
    for figure in (short_initial("C", 1.0, 1.0, 0.1, a=A, b=B), short_maintenance("P", 0.1, c=C),
                   sell_order_margin(0.2, 0.1, min_order=MIN_ORDER), option_fee(1.0, 0.1, rate=0.0003, cap=0.125)):
        assert isinstance(figure, float)
    with pytest.raises(ValueError, match="option kind"):
        short_maintenance("X", 0.1, c=C)
