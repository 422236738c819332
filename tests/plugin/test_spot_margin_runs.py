"""Spot margin in real cerebro runs: borrowing, an hour of interest, both closing rules, reversal, liquidation."""

from __future__ import annotations

import pytest

from bt_margin.errors import InputError
from bt_margin.model.ledger import EntryKind
from tests.plugin.script import BTC, SPOT, Diary, frame, run

FLAT = [60_000.0] * 6
FEE = 0.001
HOURLY = 0.0001
RATES = {"USDT": HOURLY * 365 * 24, "BTC": HOURLY * 365 * 24}
KINDS = ("isolated", "cross")


def leg(s: Diary, mode: str):
    return s.broker.leg(s.data, margin_mode=mode)


def whole(mode: str, side: str = "buy", size: float = 0.5, **more):
    """Open at the second bar, close everything from the fourth on."""
    return {
        1: lambda s: getattr(s, side)(data=leg(s, mode), size=size, leverage=5, **more),
        4: lambda s: s.made.update(held=s.getposition(leg(s, mode)).size) or s.close(data=leg(s, mode)),
    }


def kinds(diary: Diary) -> list[str]:
    return [str(entry.kind) for entry in diary.broker.ledger]


@pytest.mark.parametrize("mode", KINDS)
def test_a_short_with_quote_collateral_and_its_interest_by_hand(mode: str) -> None:
    diary = run({SPOT: frame(FLAT)}, whole(mode, "sell"), interest=RATES)
    # Sold 0.5 at the open of bar 2 (01:00); hours strike at 02:00, 03:00 and 04:00; bought back at 04:00, bar 5's open.
    third = 0.5 * (1 + HOURLY) ** 2
    debt = third + third * HOURLY
    spent = debt / (1 - FEE) * 60_000
    expected = 10_000 + 0.5 * 60_000 * (1 - FEE) - spent
    assert diary.made["held"] == -0.5
    assert diary.values[-1] == pytest.approx(expected, rel=1e-12)
    hours = [e for e in diary.broker.ledger if e.kind is EntryKind.INTEREST and e.interest > 0]
    assert [e.interest for e in hours] == pytest.approx([0.5 * HOURLY * (1 + HOURLY) ** n for n in range(3)], rel=1e-12)
    assert {e.currency for e in hours} == {"BTC"}
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(expected - 10_000, rel=1e-9)
    assert not diary.broker.report().positions


@pytest.mark.parametrize("mode", KINDS)
def test_a_long_with_quote_collateral_and_its_interest_by_hand(mode: str) -> None:
    candles = [60_000.0, 60_000.0, 61_000.0, 62_000.0, 62_000.0, 62_000.0]
    diary = run({SPOT: frame(candles)}, whole(mode, margin_currency="USDT"), interest=RATES)
    owed = 30_000 * (1 + HOURLY) ** 3
    expected = 10_000 + 0.5 * (1 - FEE) * 62_000 * (1 - FEE) - owed
    assert diary.made["held"] == 0.4995
    assert diary.values[-1] == pytest.approx(expected, rel=1e-12)
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(expected - 10_000, rel=1e-9)
    assert kinds(diary)[:3] == ["borrow", "trade", "fee"]


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize(("side", "currency"), [("buy", "BTC"), ("sell", "BTC"), ("buy", "USDT"), ("sell", "USDT")])
def test_every_collateral_closes_clean_and_the_trade_tells_the_true_result(mode: str, side: str, currency: str) -> None:
    diary = run({SPOT: frame(FLAT)}, whole(mode, side, margin_currency=currency), interest=RATES,
                cash={"USDT": 20_000.0, "BTC": 1.0})
    assert not diary.broker.report().positions
    assert diary.position.size == 0
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(diary.values[-1] - diary.values[0], abs=1e-6)
    assert [o.getstatusname() for o in diary.orders][-1] == "Completed"


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize(("side", "currency"), [("buy", "USDT"), ("sell", "USDT"), ("sell", "BTC"), ("buy", "BTC")])
def test_a_liquidation_is_told_like_any_other(mode: str, side: str, currency: str) -> None:
    far = [60_000, 60_000, 52_000, 40_000, 40_000] if side == "buy" else [60_000, 60_000, 70_000, 90_000, 90_000]
    acts = {1: lambda s: s.made.update(
        order=getattr(s, side)(size=0.5, margin_mode=mode, margin_currency=currency, leverage=5))}
    cash = {"USDT": 6_500.0} if currency == "USDT" else {"BTC": 0.11}
    diary = run({SPOT: frame(far)}, acts, cash=cash, interest={"USDT": 0.0, "BTC": 0.0})
    (forced,) = diary.forced()
    assert forced.info.forced == "liquidation"
    assert forced.info.margin_mode == mode
    assert forced.info.penalty > 0
    (event,) = [e for e in diary.margin_events if e.name == "TakenOver"]
    assert event.margin_ratio == pytest.approx(1.0, abs=1e-6)
    trigger = next(e for e in diary.margin_events if e.name == "Warned").report.positions[0].trigger_price
    assert forced.executed.price == pytest.approx(trigger, rel=1e-6)
    assert diary.position.size == 0
    (trade,) = diary.trades
    assert trade.status == trade.Closed
    if currency == "USDT":
        assert trade.pnlcomm == pytest.approx(diary.values[-1] - 6_500.0, abs=1e-6)


def test_after_a_gap_an_isolated_loss_is_the_margin() -> None:
    gap = [60_000, 60_000, (40_000.0,) * 4, 40_000]
    acts = {1: lambda s: s.buy(size=0.5, margin_mode="isolated", margin_currency="USDT", leverage=5)}
    diary = run({SPOT: frame(gap)}, acts)
    assert diary.values[-1] == pytest.approx(4_000.0, abs=1e-6)
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(-6_000.0, abs=1e-6)


def test_marks_of_a_pair_judge_where_the_feed_has_them() -> None:
    acts = {1: lambda s: s.buy(size=0.5, margin_mode="isolated", leverage=5)}
    marks = frame([60_000.0, 60_000.0, 50_000.0, 50_000.0, 50_000.0, 50_000.0])
    diary = run({SPOT: frame(FLAT)}, acts, cash={"BTC": 1.0}, feed={SPOT: {"mark": marks}})
    (forced,) = diary.forced()
    assert 50_000.0 < forced.executed.price < 51_200.0


def test_an_order_against_a_position_reduces_only_and_reverse_flips() -> None:
    acts = {
        1: lambda s: s.buy(size=0.2, margin_mode="cross", margin_currency="USDT"),
        2: lambda s: s.made.update(cut=s.sell(size=0.5, margin_mode="cross")),
        3: lambda s: s.buy(size=0.2, margin_mode="cross", margin_currency="USDT"),
        4: lambda s: s.sell(size=0.5, margin_mode="cross", reverse=True),
    }
    diary = run({SPOT: frame(FLAT)}, acts, interest={"USDT": 0.0, "BTC": 0.0})
    cut = next(o for o in reversed(diary.orders) if o.ref == diary.made["cut"].ref)
    assert cut.getstatusname() == "Completed"
    assert cut.executed.size == pytest.approx(-0.1998)
    assert cut.info.reduce_only
    (row,) = diary.broker.report().positions
    assert row.contracts == pytest.approx(-(0.5 - 0.1998))
    assert diary.getposition(leg(diary, "cross")).size == pytest.approx(-0.3002)
    assert [t.pnl for t in diary.trades] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_cash_and_margin_of_one_pair_live_side_by_side() -> None:
    acts = {
        1: lambda s: s.made.update(
            cash=s.buy(size=0.05), a=s.sell(size=0.1, margin_mode="isolated"), b=s.buy(size=0.1, margin_mode="cross")),
        3: lambda s: s.made.update(
            held=[s.getposition(leg(s, mode)).size for mode in ("cash", *KINDS)], net=s.position.size),
        4: lambda s: [s.close(data=leg(s, mode)) for mode in KINDS],
    }
    diary = run({SPOT: frame(FLAT)}, acts, cash={"USDT": 10_000.0, "BTC": 0.1}, leverage=5.0)
    assert diary.made["held"] == pytest.approx([0.04995, -0.1, 0.0999])
    assert diary.made["net"] == pytest.approx(0.04985)
    assert not diary.broker.report().positions
    assert len(diary.trades) == 2
    assert diary.position.size == pytest.approx(0.04995)


def test_brackets_and_stops_work_on_margin_pairs() -> None:
    candles = [60_000, 60_000, 61_000, 63_000, 63_000]
    acts = {1: lambda s: s.buy_bracket(size=0.2, price=60_000, limitprice=62_500, stopprice=58_000, margin_mode="cross",
                                       margin_currency="USDT", limitargs={"margin_mode": "cross"},
                                       stopargs={"margin_mode": "cross"})}
    diary = run({SPOT: frame(candles)}, acts)
    assert not diary.broker.report().positions
    assert {o.getstatusname() for o in diary.orders if not o.alive()} >= {"Completed", "Canceled"}
    (trade,) = diary.trades
    assert trade.pnl == pytest.approx(0.2 * 2_500, rel=2e-3)


def test_margin_of_an_unaffordable_borrowing_is_refused_with_what_it_lacks() -> None:
    diary = run({SPOT: frame(FLAT), BTC: frame(FLAT)},
                {1: lambda s: s.buy(size=1, margin_mode="isolated", margin_currency="BTC", leverage=5)})
    order = diary.orders[-1]
    assert order.getstatusname() == "Margin"
    assert order.info.shortfall == pytest.approx(0.2)
    assert "BTC" in order.info.reason


def test_interest_settings_are_checked() -> None:
    with pytest.raises(InputError, match=r"interest\.USDT: expected a yearly rate from 0 to 8,760"):
        run({SPOT: frame(FLAT)}, {}, interest={"USDT": -0.1})
