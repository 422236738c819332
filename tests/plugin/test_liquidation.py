"""Liquidations in real cerebro runs: where they happen, what strategies are told, what is left."""

from __future__ import annotations

import backtrader as bt
import pytest

from bt_margin import MarginBroker
from bt_margin.errors import MissingPrice
from bt_margin.model.ledger import EntryKind
from tests.plugin.script import BTC, ETH, NO_FEES, SPOT, Diary, frame, run

BUY_ONE = {1: lambda s: s.buy(size=100)}  # 100 contracts: 1 BTC
DOWN = [60_000, 60_000, 56_000, 52_000, 48_000, 50_000]


def liquidation(diary: Diary):
    """The one takeover of a run."""
    (event,) = [e for e in diary.margin_events if e.name == "TakenOver"]
    return event


# The reference case of the peers' study, section 3.1: 1 BTC at 60,000, 10x, 10,000 USDT.
@pytest.mark.parametrize(
    ("mode", "fees", "trigger"),
    [("isolated", None, 54_244.1), ("isolated", NO_FEES, 54_216.9), ("cross", NO_FEES, 50_200.8),
     ("cross", None, 50_256.1)],
)
def test_reference_case_triggers_where_it_must(mode: str, fees, trigger: float) -> None:
    diary = run({BTC: frame(DOWN)}, BUY_ONE, mode=mode, fees=fees)
    (order,) = diary.forced()
    assert order.executed.price == pytest.approx(trigger, abs=0.1)
    assert order.executed.size == -100
    ratio = liquidation(diary).margin_ratio
    assert ratio == pytest.approx(1.0, abs=1e-9)


def test_cross_trigger_with_the_opening_fee_off_and_the_closing_fee_on() -> None:
    """With opening fees off the requirement still counts the closing fee: 50,226.0 (the study's figure)."""
    acts = {1: lambda s: s.buy(size=100, exectype=bt.Order.Limit, price=60_000, post_only=True)}
    candles = [60_100, (60_100, 60_100, 60_000, 60_000), *DOWN[1:]]
    fees = {"swap": {"taker": 0.0005, "maker": 0.0}}
    diary = run({BTC: frame(candles)}, acts, fees=fees)
    (order,) = diary.forced()
    assert order.executed.price == pytest.approx(50_226.0, abs=0.1)


def test_after_a_gap_an_isolated_loss_is_the_posted_margin_and_no_more() -> None:
    gap = [60_000, 60_000, (42_000.0, 42_000.0, 42_000.0, 42_000.0), 43_000]
    diary = run({BTC: frame(gap)}, BUY_ONE, mode="isolated")
    event = liquidation(diary)
    assert event.refund == pytest.approx(12_189.0, abs=1e-6)
    fee = 30.0  # opening 1 BTC at 60,000
    assert diary.values[-1] == pytest.approx(10_000 - 6_000 - fee, abs=1e-6)
    (order,) = diary.forced()
    assert order.executed.price == 42_000.0
    assert order.info.penalty == pytest.approx(168.0)
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(-6_000 - fee, abs=1e-6)  # the trade tells the true loss


def test_after_a_gap_a_cross_account_ends_at_exactly_zero() -> None:
    gap = [60_000, 60_000, (42_000.0, 42_000.0, 42_000.0, 42_000.0), 43_000]
    diary = run({BTC: frame(gap)}, BUY_ONE, min_value=0.0)
    assert liquidation(diary).refund == pytest.approx(8_219.0, abs=1e-6)
    assert diary.values[-1] == 0.0
    assert diary.broker.report().account.equity_usd == 0.0
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(-10_000, abs=1e-6)


def test_no_order_fills_into_negative_free_margin() -> None:
    """Money for one, orders for two: the second is refused when the first has filled."""
    def act(s: Diary) -> None:
        s.made["a"] = s.buy(size=100)
        s.made["b"] = s.buy(size=100)

    diary = run({BTC: frame([60_000] * 4)}, {1: act}, mode="isolated")
    assert diary.statuses(diary.made["a"])[-1] == "Completed"
    refused = [o for o in diary.orders if o.ref == diary.made["b"].ref][-1]
    assert refused.getstatusname() == "Margin"
    assert refused.info.shortfall > 0
    assert "free margin" in refused.info.reason or "insufficient" in refused.info.reason
    assert min(diary.cashes) >= 0.0


def test_forced_orders_are_ordinary_orders_with_a_label() -> None:
    diary = run({BTC: frame(DOWN)}, BUY_ONE)
    forced = [o for o in diary.orders if o.info.get("forced")]
    assert [o.getstatusname() for o in forced] == ["Submitted", "Accepted", "Completed"]
    last = forced[-1]
    assert last.info.forced == "liquidation"
    assert last.info.step == "unhedged position"
    assert last.executed.comm > 0
    assert not last.isbuy()
    assert diary.position.size == 0
    assert diary.position.price == 0.0
    (trade,) = diary.trades
    assert trade.size == 0
    assert trade.status == trade.Closed


def test_every_trade_closes_with_what_it_truly_cost() -> None:
    """The sum of all trades' net profits is the change of the account, funding, penalties and refunds included."""
    import pandas as pd

    rates = pd.Series([0.0003, -0.0001, 0.0002], pd.date_range("2025-09-20T08:00Z", periods=3, freq="8h"))
    candles = [60_000.0] * 20 + DOWN
    for mode in ("isolated", "cross"):
        diary = run({BTC: frame(candles)}, BUY_ONE, mode=mode, feed={BTC: {"funding": rates}})
        paid = sum(e.total for e in diary.broker.ledger if e.kind is EntryKind.FUNDING)
        assert paid < 0
        assert sum(t.pnlcomm for t in diary.trades) == pytest.approx(diary.values[-1] - 10_000, abs=1e-6)


def test_two_strategies_share_one_position_and_each_sees_its_own_end() -> None:
    one = {1: lambda s: s.buy(size=60)}
    two = {2: lambda s: s.buy(size=40, tradeid=7)}
    diary = run({BTC: frame([60_000, 60_000, *DOWN])}, strategies=[one, two])
    other = diary.others[0]
    assert [o.executed.size for o in diary.forced()] == [-60]
    assert [o.executed.size for o in other.forced()] == [-40]
    assert other.forced()[0].tradeid == 7
    assert [t.size for t in diary.trades] == [0]
    assert [t.size for t in other.trades] == [0]
    total = sum(t.pnlcomm for t in diary.trades + other.trades)
    assert total == pytest.approx(diary.values[-1] - 10_000, abs=1e-6)


def test_opposite_strategies_are_netted_and_both_trades_close() -> None:
    """One-way mode: long 100 and short 30 are one position of 70 at the venue."""
    one = {1: lambda s: s.buy(size=100)}
    two = {2: lambda s: s.sell(size=30)}
    diary = run({BTC: frame([60_000, 60_000, 60_000, 54_000, 48_000, 44_000, 40_000])}, strategies=[one, two])
    other = diary.others[0]
    assert sum(o.executed.size for o in diary.forced()) == -100
    assert sum(o.executed.size for o in other.forced()) == 30
    assert diary.position.size == 0
    total = sum(t.pnlcomm for t in diary.trades + other.trades)
    assert total == pytest.approx(diary.values[-1] - 10_000, abs=1e-6)


def test_margin_events_come_in_order_with_their_reports() -> None:
    diary = run({BTC: frame(DOWN)}, BUY_ONE)
    names = [e.name for e in diary.margin_events]
    assert names == ["Warned", "Reduced", "TakenOver"]
    warned = diary.margin_events[0]
    assert warned.margin_ratio == pytest.approx(3.0)
    assert warned.report.account.margin_ratio == pytest.approx(warned.margin_ratio)
    assert diary.margin_events == diary.broker.events


def test_resting_orders_that_add_risk_are_cancelled_first() -> None:
    acts = {
        1: lambda s: s.buy(size=100),
        2: lambda s: s.made.update(add=s.buy(size=20, exectype=bt.Order.Limit, price=40_000)),
    }
    diary = run({BTC: frame([60_000, 60_000, 60_000, 55_000, 51_000, 50_600, 50_275])}, acts, path="close")
    assert [e.name for e in diary.margin_events] == ["Warned", "OrdersCancelled"]
    cancelled = [o for o in diary.orders if o.ref == diary.made["add"].ref][-1]
    assert cancelled.getstatusname() == "Canceled"
    assert "insufficient margin" in cancelled.info.reason
    assert diary.position.size == 100


def test_a_bracket_dies_with_its_position_and_opens_nothing_later() -> None:
    acts = {1: lambda s: s.made.update(zip("abc", s.buy_bracket(
        size=100, exectype=bt.Order.Market, stopprice=45_000, limitprice=65_000), strict=True))}
    rise = [*DOWN, 60_000, 66_000, 70_000]
    diary = run({BTC: frame(rise)}, acts)
    assert liquidation(diary)
    for name in "bc":
        assert diary.statuses(diary.made[name])[-1] == "Canceled"
    assert diary.position.size == 0
    assert not diary.broker.engine.account.positions
    assert len(diary.trades) == 1


def test_a_protective_stop_above_the_trigger_saves_the_account() -> None:
    acts = {1: lambda s: s.buy_bracket(size=100, exectype=bt.Order.Market, stopprice=55_000, limitprice=70_000)}
    diary = run({BTC: frame(DOWN)}, acts)
    assert not diary.forced()
    assert diary.filled()[-1] == (-100, 55_000.0)
    assert diary.values[-1] == pytest.approx(10_000 - 5_000 - 30 - 27.5)


def test_stop_and_trigger_inside_one_bar_are_ordered_by_the_path() -> None:
    """A stop below the trigger comes too late, one above in time, though both lie in the same bar."""
    crash = [60_000, 60_000, (60_000.0, 60_000.0, 45_000.0, 46_000.0), 46_000]
    for stop, forced in ((49_000, 1), (52_000, 0)):
        acts = {1: lambda s, at=stop: s.buy_bracket(
            size=100, exectype=bt.Order.Market, stopprice=at, limitprice=70_000)}
        diary = run({BTC: frame(crash)}, acts)
        assert len(diary.forced()) == forced, stop
        assert diary.position.size == 0


@pytest.mark.parametrize(("path", "dies"), [("adverse", True), ("ohlc", True), ("close", False)])
def test_a_wick_kills_unless_the_path_is_close(path: str, dies: bool) -> None:
    wick = [60_000, 60_000, (60_000.0, 61_000.0, 50_000.0, 60_500.0), 60_500]
    diary = run({BTC: frame(wick)}, BUY_ONE, path=path)
    assert bool(diary.forced()) is dies


def test_adverse_visits_the_hurting_side_first() -> None:
    """A take-profit in the same bar as the death: a long dies first under adverse, lives under ohlc."""
    bar = [60_000, 60_000, (60_000.0, 62_000.0, 50_000.0, 60_500.0), 60_500]
    acts = {1: lambda s: s.buy(size=100),
            2: lambda s: s.sell(size=100, exectype=bt.Order.Limit, price=61_500, reduce_only=True)}
    assert run({BTC: frame([60_000, *bar])}, acts, path="adverse").forced()
    assert not run({BTC: frame([60_000, *bar])}, acts, path="ohlc").forced()


def test_marks_judge_and_last_prices_trade() -> None:
    last = frame([60_000, 60_000, (60_000.0, 60_000.0, 48_000.0, 60_000.0), 60_000])
    mark = frame([60_000, 60_000, (60_000.0, 60_000.0, 55_000.0, 60_000.0), 60_000])
    assert not run({BTC: last}, BUY_ONE, feed={BTC: {"mark": mark}}).forced()  # a wick of trades alone kills nobody
    assert run({BTC: mark}, BUY_ONE, feed={BTC: {"mark": last}}).forced()


def test_liquidation_in_the_first_bar_of_the_position_and_in_the_last_bar() -> None:
    first = run({BTC: frame([60_000, (60_000.0, 60_000.0, 45_000.0, 46_000.0), 47_000])}, BUY_ONE)
    assert len(first.forced()) == 1
    cerebro_last = run({BTC: frame([60_000, 60_000, (60_000.0, 60_000.0, 45_000.0, 46_000.0)])}, BUY_ONE)
    assert [e.name for e in cerebro_last.broker.events][-1] == "TakenOver"
    assert len(cerebro_last.forced()) == 1


@pytest.mark.parametrize("mode", ["isolated", "cross"])
def test_a_bar_that_falls_99_percent(mode: str) -> None:
    crash = [60_000, 60_000, (60_000.0, 60_000.0, 600.0, 600.0), 600, 700]
    diary = run({BTC: frame(crash)}, BUY_ONE, mode=mode)
    assert len(diary.forced()) == 1
    assert diary.values[-1] >= 0
    gap = [60_000, 60_000, (600.0, 600.0, 600.0, 600.0), 600]
    diary = run({BTC: frame(gap)}, BUY_ONE, mode=mode)
    assert diary.values[-1] == pytest.approx(3_970.0 if mode == "isolated" else 1e-9)


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, float("inf")])
def test_a_price_that_is_none_raises_and_names_the_bar(value: float) -> None:
    """Frames are refused by our own feeds; a foreign feed's bar is refused by the broker."""
    data = frame([60_000.0] * 4)
    data.iloc[2, 2] = value
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross")
    data.index = data.index.tz_localize(None)
    cerebro.adddata(bt.feeds.PandasData(dataname=data, timeframe=bt.TimeFrame.Minutes, compression=60), name=BTC)
    cerebro.addstrategy(Diary, acts=BUY_ONE)
    with pytest.raises(MissingPrice, match=r"BTC/USDT:USDT.*2025-09-20T0[23].*repair"):
        cerebro.run()


def test_hedged_legs_are_closed_against_each_other_before_the_rest() -> None:
    def act(s: Diary) -> None:
        long, short = s.broker.leg(s.data, "long"), s.broker.leg(s.data, "short")
        s.buy(data=long, size=20)
        s.sell(data=short, size=5)

    diary = run({BTC: frame([60_000, 60_000, 56_000, 50_000, 44_000])}, {1: act}, position_mode="hedge",
                cash=2_000.0, leverage=100.0)
    assert [o.info.step for o in diary.forced()][:2] == ["hedged pair", "hedged pair"]
    assert all(t.isclosed for t in diary.trades)
    assert sum(t.pnlcomm for t in diary.trades) == pytest.approx(diary.values[-1] - 2_000, abs=1e-6)


def test_an_isolated_death_leaves_the_other_positions_alone() -> None:
    def act(s: Diary) -> None:
        s.buy(data=s.datas[0], size=50)
        s.buy(data=s.datas[1], size=1, margin_mode="cross")

    diary = run({BTC: frame(DOWN), ETH: frame([3_000.0] * len(DOWN))}, {1: act}, mode="isolated")
    assert [o.data._name for o in diary.forced()] == [BTC]
    assert [k.symbol for k in diary.broker.engine.account.positions] == [ETH]


def test_spot_holdings_survive_a_takeover() -> None:
    def act(s: Diary) -> None:
        s.buy(data=s.datas[1], size=0.05)
        s.buy(data=s.datas[0], size=70)

    diary = run({BTC: frame(DOWN), SPOT: frame(DOWN)}, {1: act})
    assert diary.forced()
    coins = diary.broker.engine.account.balance("BTC")
    assert 0.0499 < coins < 0.05
    assert diary.getposition(diary.datas[1]).size == pytest.approx(coins)
    assert diary.values[-1] == pytest.approx(coins * 50_000, rel=1e-6)


def test_a_new_position_may_be_opened_after_a_death() -> None:
    acts = {1: lambda s: s.buy(size=100), 6: lambda s: s.buy(size=10)}
    diary = run({BTC: frame([*DOWN, 51_000, 52_000])}, acts, mode="isolated")
    assert diary.position.size == 10
    assert diary.broker.engine.account.positions[next(iter(diary.broker.engine.account.positions))].size == 10


def test_orders_at_the_moment_of_liquidation() -> None:
    """A close sent the bar before fills at the open, before the fall; one sent after finds nothing to close."""
    early = {1: lambda s: s.buy(size=100), 2: lambda s: s.close()}
    crash = [60_000, 60_000, (60_000.0, 60_000.0, 45_000.0, 46_000.0), 46_000, 47_000]
    assert not run({BTC: frame(crash)}, early).forced()
    late = {1: lambda s: s.buy(size=100),
            2: lambda s: s.made.update(late=s.sell(size=100, exectype=bt.Order.Close, reduce_only=True))}
    diary = run({BTC: frame(crash)}, late)
    assert diary.forced()
    assert diary.statuses(diary.made["late"])[-1] == "Canceled"
