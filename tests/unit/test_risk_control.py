"""The two layers of risk control in cross: cancellation by risk control, and the three phases at 100 %."""

from __future__ import annotations

import pytest

from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.errors import InputError
from bt_margin.model.account import Account, Order
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.modes.cross import early_cancellation, early_spare
from bt_margin.rules.book import RuleBook, load_rules

TIME = 1_760_000_000_000
SWAP, FUTURE, ETH = "BTC/USDT:USDT", "BTC/USDT:USDT-251226", "ETH/USDT:USDT"
PRICES = {SWAP: 60_000.0, FUTURE: 60_600.0, ETH: 3_000.0}


def engine(cash: float, book: RuleBook | None = None, hedge: bool = False) -> MarginEngine:
    account = Account({"USDT": cash}, "hedge" if hedge else "net")
    return MarginEngine(account, mode_named("cross"), book or load_rules("okx"), Market(TIME, PRICES, PRICES),
                        extrapolate="nearest")


def trade(e: MarginEngine, symbol: str, side: str, size: float, leg: str = "net", leverage: float = 20.0) -> None:
    order = Order(len(e.account.ledger) + 1, e.rules.instrument(symbol), side, size, None, "cross", leg, leverage)
    fill = e.fill(order, size, PRICES[symbol])
    assert isinstance(fill, Fill), fill


def move(e: MarginEngine, **prices: float) -> None:
    names = {"swap": SWAP, "future": FUTURE, "eth": ETH}
    now = {**e.market.marks, **{names[k]: v for k, v in prices.items()}}
    e.advance(Market(e.market.time + 1, now, now), jump=True)


def test_orders_fall_early_only_where_the_rules_say_so() -> None:
    early = load_rules("okx").overlay(parameters={"liquidation": {"early_cancel": "free-margin"}})
    for book, cancelled in ((None, False), (early, True)):
        e = engine(10_000.0, book)
        trade(e, SWAP, "buy", 100)
        add = Order(90, e.rules.instrument(SWAP), "buy", 50, 50_000.0, "cross", "net", 20.0)
        out = Order(91, e.rules.instrument(SWAP), "sell", 100, 70_000.0, "cross", "net", 20.0, reduce_only=True)
        for order in (add, out):
            assert not isinstance(e.accept(order), Refusal)
        if cancelled:  # equity less all initial margin; less maintenance of 90,000, and fee and margin of what opens
            (pool,) = e.at_risk_pools()
            left = (10_000 - 30 - 12.5 - 3_000 - 1_250) - 90_000 * 0.004 - (12.5 + 1_250)
            assert float(early_spare(pool, e.market, e.rules)) == pytest.approx(left)
            assert early_cancellation(pool, e.market, e.rules) == ()
        move(e, swap=55_500.0)
        gone = [x for x in e.events if x.name == "OrdersCancelled"]
        assert bool(gone) is cancelled
        if gone:
            assert gone[0].orders == (90,)  # type: ignore[attr-defined]
            assert gone[0].margin_ratio > 1  # type: ignore[attr-defined]
            assert list(e.account.orders) == [91]
            assert e.account.positions


def test_a_choice_that_does_not_exist_is_refused() -> None:
    book = load_rules("okx")
    for bad, says in (
        ({"liquidation": {"early_cancel": "always"}}, "early_cancel"), ({"nope": {}}, "expected one of"),
        ({"orders": {"nope": 1}}, "unknown"), ({"delivery": {"average_minutes": "x"}}, "average_minutes"),
    ):
        with pytest.raises(InputError, match=says):
            book.overlay(parameters=bad)


def test_opposite_deltas_are_cut_against_each_other_before_the_rest() -> None:
    """Long swap, short future, and a third position: pairs first, the direction of the account as it was."""
    e = engine(1_400.0)
    trade(e, SWAP, "buy", 20)
    trade(e, FUTURE, "sell", 20)
    trade(e, ETH, "buy", 10)
    move(e, swap=59_900.0, future=66_000.0)  # the basis runs against the pair
    steps = [x for x in e.events if x.name == "Reduced"]
    assert [x.step for x in steps[:2]] == ["delta-neutral pair"] * 2  # type: ignore[attr-defined]
    assert steps[0].size == -steps[1].size  # type: ignore[attr-defined]
    assert {x.key.symbol for x in steps[:2]} == {SWAP, FUTURE}  # type: ignore[attr-defined]
    assert steps[2].key.symbol == ETH  # type: ignore[attr-defined]
    assert steps[2].step == "unhedged position"  # type: ignore[attr-defined]


def test_the_phases_come_in_their_order() -> None:
    e = engine(1_500.0, hedge=True)
    trade(e, SWAP, "buy", 20, "long")
    trade(e, SWAP, "sell", 5, "short")
    trade(e, FUTURE, "sell", 5, "short")
    trade(e, ETH, "buy", 20, "long")
    move(e, swap=52_000.0, future=52_800.0, eth=2_500.0)
    steps = list(dict.fromkeys(x.step for x in e.events if x.name == "Reduced"))  # type: ignore[attr-defined]
    order = ["hedged pair", "delta-neutral pair", "unhedged position"]
    assert steps == [step for step in order if step in steps]
    assert len(steps) >= 2
    gaps = e.account.conservation_gap()
    assert all(abs(gap) < 1e-9 for gap in gaps.values())
