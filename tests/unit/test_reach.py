"""The search for the nearest move at which something is zero, on functions whose zeros are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bt_margin.errors import InputError
from bt_margin.model.number import Number
from bt_margin.modes.reach import close_in, nearest_zero

Function = Callable[[Number], Number]


def straight(at: float, now: float = 1.0) -> Function:
    """`now` without a move, zero at one place."""
    return lambda move: now * (1.0 - move / at)


def jump(at: float, before: float, beyond: float) -> Function:
    """One figure until a place, another from there."""
    return lambda move: np.where((np.asarray(move) - at) * np.sign(at) < 0, before, beyond)


@pytest.mark.parametrize("at", [-0.998, -0.5, -0.051, -0.00052, -1e-9, 1e-9, 0.00052, 0.051, 0.31, 0.998, 1.1, 8.9])
@pytest.mark.parametrize("now", [1.0, -1.0, 1e6])
def test_the_zero_of_a_straight_line_is_found_wherever_it_is(at: float, now: float) -> None:
    found, stopped = nearest_zero(straight(at, now))
    assert found == pytest.approx(at, rel=1e-12)
    assert stopped is None


@pytest.mark.parametrize("at", [-0.9995, 9.5])
def test_beyond_999_per_mille_down_and_900_per_cent_up_nothing_is_sought(at: float) -> None:
    assert nearest_zero(straight(at)) == (None, None)
    assert nearest_zero(straight(at), highest=20.0)[0] == (None if at < 0 else pytest.approx(at))


def test_what_is_zero_already_needs_no_move() -> None:
    assert nearest_zero(lambda move: 2.0 * move) == (0.0, None)


@pytest.mark.parametrize(("down", "up", "nearest"), [
    (-0.5, 0.1, 0.1), (-0.1, 0.5, -0.1), (-0.04, 0.03, 0.03), (-0.03, 0.04, -0.03), (-0.2, 0.25, -0.2),
])
def test_the_nearer_of_two_zeros_is_the_answer(down: float, up: float, nearest: float) -> None:
    found, _ = nearest_zero(lambda move: (move - down) * (up - move))
    assert found == pytest.approx(nearest)


@pytest.mark.parametrize("at", [-0.01, -0.1, -0.6, 0.01, 0.1, 0.6, 4.0])
def test_a_dip_an_eighth_as_wide_as_it_is_far_is_seen(at: float) -> None:
    """Its first end is the zero: moves are tried a tenth apart."""
    found, _ = nearest_zero(lambda move: (move - at) * (move - at * 1.125))
    assert found == pytest.approx(at)


@pytest.mark.parametrize("at", [-0.4, 0.4, 3.0])
@pytest.mark.parametrize(("before", "beyond"), [(1.0, -1.0), (-1.0, 1.0), (1e6, -1.0), (-1.0, 1e6)])
def test_a_jump_across_zero_is_one_and_found_on_its_far_side(at: float, before: float, beyond: float) -> None:
    found, _ = nearest_zero(jump(at, before, beyond))
    assert found is not None
    assert found == pytest.approx(at, rel=1e-9)
    assert float(jump(at, before, beyond)(found)) == beyond


@pytest.mark.parametrize("end", [-0.00051, -0.01, -0.04, -0.2, -0.35, -0.6, -0.9, 0.02, 0.5, 2.0, 5.0])
def test_what_lies_before_the_end_of_the_rules_is_found_and_the_end_is_told(end: float) -> None:
    """No rule holds from the end on: the first move tried there is no more than a tenth beyond it."""
    def ruled(value: Function) -> Function:
        def known(move: Number) -> Number:
            if np.any(np.asarray(move) * np.sign(end) >= abs(end)):
                raise InputError("no rule")
            return value(move)

        return known

    if abs(end) > 0.001:
        assert nearest_zero(ruled(straight(end * 0.9)))[0] == pytest.approx(end * 0.9)
    found, stopped = nearest_zero(ruled(lambda move: 1.0 + 0.0 * np.asarray(move)))
    assert found is None
    assert stopped is not None
    assert abs(end) <= abs(stopped[0]) <= abs(end) * 1.12
    assert str(stopped[1]) == "no rule"


def test_an_end_that_is_the_zero_needs_no_search() -> None:
    def never(move: Number) -> Number:
        raise AssertionError(move)

    assert close_in(never, 0.1, 1.0, 0.2, 0.0) == 0.2
    assert close_in(never, 0.2, 1.0, 0.2, 1.0) == 0.2
