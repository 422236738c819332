"""When an account is judged: at every fill, at every clock event, at the end of a leg. Found by the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from bt_margin.engine.accrual import FundingSeries
from bt_margin.engine.engine import Fill
from bt_margin.model.ledger import PositionKey
from tests.unit.test_engine import BTC, TIME, engine, moved, order, trade

KEY = PositionKey(BTC, "isolated", "net")


def names(e) -> list[str]:
    return [x.name for x in e.events]


def test_a_position_that_opens_below_the_warning_level_is_warned_at_its_fill() -> None:
    """"The pool is judged at every fill" (design, section 7): also where the next leg leads away from danger."""
    e = engine()
    trade(e, BTC, "buy", 100, "isolated", leverage=75.0)  # 1 / 75 over 0.45 %: 296 %
    moved(e, btc=61_000.0)
    assert names(e) == ["Warned"]
    assert e.events[0].time == TIME
    assert e.events[0].margin_ratio == pytest.approx(1 / 75 / 0.0045)  # type: ignore[attr-defined]


def test_a_breach_that_a_fill_makes_is_undone_before_the_prices_move_on() -> None:
    e = engine()
    trade(e, BTC, "buy", 100, "isolated", leverage=100.0)
    moved(e, btc=59_800.0)
    more = order(e, BTC, "buy", 100, "isolated", id_=2, leverage=100.0)
    assert isinstance(e.fill(more, 100, 60_300.0), Fill)  # far above the mark: 503 left of 1,203, 538 required
    moved(e, btc=70_000.0)
    assert names(e) == ["Warned", "Reduced", "Bankrupt", "TakenOver"]
    assert e.events[-1].time == TIME + 1


def test_a_pool_lifted_above_the_warning_level_is_warned_again() -> None:
    """"Warned once each time a pool falls to the level": margin put in between two legs ends the first time."""
    e = engine()
    trade(e, BTC, "buy", 100, "isolated", leverage=20.0)
    moved(e, btc=57_700.0)
    assert e.add_margin(KEY, 2_000.0) is None
    moved(e, btc=57_000.0)
    moved(e, btc=55_500.0)
    assert names(e) == ["Warned", "Warned"]


def test_funding_that_leads_to_the_warning_level_warns_at_its_settlement() -> None:
    """Each clock instant is judged on its own (rule book section 14), also before a jump that saves the pool."""
    series = FundingSeries(np.array([TIME + 28_800_000]), np.array([0.03]))
    e = engine(funding={BTC: series})
    trade(e, BTC, "buy", 100, "isolated", leverage=25.0)  # 4 %, 889 % of what is required
    moved(e, jump=True, ms=28_800_000, btc=66_000.0)
    assert names(e) == ["Warned"]
    assert e.events[0].report.positions[0].mark_price == 60_000.0
