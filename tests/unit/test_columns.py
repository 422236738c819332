"""Columns of options: what they are priced by, in whichever coin they settle, and marks that nothing explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bt_margin.errors import InputError
from bt_margin.modes import options
from bt_margin.modes.columns import delta_one, option_columns, settlement

from .test_portfolio_laws import FUTURE, OPTIONS, SWAP, VOLS, instrument, market

CALL, PUT = OPTIONS[:2]
HERE = market(usdt=0.9)


def test_the_delta_that_counts_is_the_one_that_the_rules_name() -> None:
    held = [(instrument(CALL), 10.0), (instrument(PUT), -20.0)]
    for name, which in (("BS", 0), ("PA", 1)):
        found = option_columns(held, HERE, name)
        known = [float(options.greeks(one, HERE)[which].delta) for one, _ in held]
        assert found.rule_delta.tolist() == pytest.approx(known)
        assert found.vol.tolist() == pytest.approx([VOLS[CALL], VOLS[PUT]])


def test_what_settles_in_a_stablecoin_is_priced_by_its_pair() -> None:
    """The same call in USDT and in bitcoins: its mark is in USDT of 0.9 USD, its vol and worth are the same."""
    coin = instrument(CALL)
    dollars = replace(coin, symbol="BTC/USDT:USDT-251031-120000-C", settle="USDT", quote="USDT")
    pair = float(HERE.index("BTC/USDT"))
    marks = {**HERE.marks, dollars.symbol: float(HERE.mark(CALL)) * pair}
    at = replace(HERE, marks=marks, forwards={**HERE.forwards, "BTC/USDT:USDT-251031": HERE.forward(CALL)})
    for held in ([(coin, 10.0), (dollars, 10.0)], [(dollars, 10.0)], [(coin, 10.0)]):
        found = option_columns(held, at, "BS")
        assert found.vol.tolist() == pytest.approx([VOLS[CALL]] * len(held))
        assert found.index.tolist() == pytest.approx([120_000.0] * len(held))
        assert found.in_coin.tolist() == [one.settle == "BTC" for one, _ in held]
    alone = replace(at, indexes={**at.indexes, "BTC/USD": 130_000.0})  # the coin and its pair tell different prices
    assert option_columns([(dollars, 10.0)], alone, "BS").index.tolist() == pytest.approx([pair * 0.9])


@pytest.mark.parametrize(("symbol", "mark", "told"), [
    (CALL, 1.0, True), (CALL, 0.999, False), (PUT, 0.9, True), (PUT, 0.8, False), (CALL, 1e-9, False),
])
def test_a_mark_that_no_vol_explains_is_named(symbol: str, mark: float, told: bool) -> None:
    """A call is worth less than its coin, a put of 100,000 less than that: 0.83 of a coin at 120,480."""
    held = [(instrument(PUT if symbol == CALL else CALL), 1.0), (instrument(symbol), 1.0)]
    for marks in (mark, np.array([0.05, 0.06, mark]), np.array([mark, 0.05, 0.06])):
        at = replace(HERE, marks={**HERE.marks, symbol: marks})
        if told:
            with pytest.raises(InputError, match=f"prices.mark.{symbol}: expected less than .* found {mark:g} coins"):
                option_columns(held, at, "BS")
        else:
            assert not np.isnan(option_columns(held, at, "BS").vol).any()


@pytest.mark.parametrize(("symbol", "price", "mark"), [(CALL, 100_000.0, 1.0), (PUT, 40_000.0, 100_000 / 40_160)])
def test_so_it_is_far_from_the_money(symbol: str, price: float, mark: float) -> None:
    at = market(price)
    with pytest.raises(InputError, match=f"prices.mark.{symbol}"):
        option_columns([(instrument(symbol), 1.0)], replace(at, marks={**at.marks, symbol: mark * (1 + 1e-9)}), "BS")


@pytest.mark.parametrize(("symbol", "price", "mark", "worth"), [
    (CALL, 160_000.0, 0.2, 40_640 / 160_640), (CALL, 1e6, 0.85, 884_000 / 1_004_000),
    (PUT, 40_000.0, 1.4, 59_840 / 40_160),
])
def test_below_what_it_is_worth_at_once_there_is_no_vol(symbol: str, price: float, mark: float, worth: float) -> None:
    at = market(price)
    assert mark < worth
    deep = replace(at, marks={**at.marks, symbol: mark})
    assert option_columns([(instrument(symbol), 1.0)], deep, "BS").vol.tolist() == [0.0]


def test_a_perpetual_has_no_tenor() -> None:
    found = delta_one([(instrument(SWAP), 1.0), (instrument(FUTURE), 1.0)], HERE)
    assert (found.expiry[0], found.years[0]) == (0, 0.0)
    assert found.years[1] == pytest.approx((found.expiry[1] - HERE.time) / (365 * 86_400_000))


def test_each_instant_has_the_time_that_is_left_then() -> None:
    day = 86_400_000
    here = replace(HERE, times=np.array([HERE.time, HERE.time + day]))
    held = [(instrument(SWAP), 1.0), (instrument(FUTURE), 1.0)]
    left = (delta_one(held, HERE).expiry[1] - HERE.time) / (365 * day)
    assert delta_one(held, here).years[:, 1].tolist() == pytest.approx([left, left - 1 / 365])
    assert delta_one(held, here).years[:, 0].tolist() == [0.0, 0.0]


def test_at_its_expiry_no_mark_of_an_option_is_wrong() -> None:
    """It has no vol then, whatever it is marked at."""
    expiry = instrument(CALL).expiry_ms
    assert expiry is not None
    for later in (0, 1):
        at = replace(HERE, time=expiry + later, marks={**HERE.marks, CALL: 1.0})
        assert option_columns([(instrument(CALL), 1.0)], at, "BS").vol.tolist() == [0.0]
    almost = replace(HERE, time=expiry - 1, marks={**HERE.marks, CALL: 1.0})
    with pytest.raises(InputError, match=r"prices\.mark"):
        option_columns([(instrument(CALL), 1.0)], almost, "BS")


def test_only_contracts_in_the_coin_or_in_known_dollars_have_a_side() -> None:
    swap, call = instrument(SWAP), instrument(CALL)
    assert [settlement(one) for one in (swap, replace(swap, settle="USDC"), call)] == ["USDT", "USDC", "USD"]
    with pytest.raises(InputError, match="settles in EUR; portfolio margin knows USDT, USDC, USD and the coin"):
        settlement(replace(swap, settle="EUR"))
