"""What users read of the account: value, cash, coins, deposits, spot, plain assets, stock analyzers."""

from __future__ import annotations

import backtrader as bt
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.model.ledger import EntryKind
from bt_margin.plugin import feeds
from bt_margin.plugin.analyzers import Recorder
from bt_margin.plugin.observers import MarginRatio
from tests.plugin.script import BTC, ETH, NO_FEES, SPOT, Diary, frame, run, walk


def test_value_is_all_equity_and_cash_is_what_may_open() -> None:
    for mode in ("isolated", "cross"):
        acts = {1: lambda s: s.buy(size=50)}
        diary = run({BTC: frame([60_000, 60_000, 61_000])}, acts, mode=mode, fees=NO_FEES)
        assert diary.values == pytest.approx([10_000, 10_000, 10_500])
        # cross: unrealised profit opens derivatives, and the position margin follows the mark
        free = 10_500 - 3_050 if mode == "cross" else 10_000 - 3_000
        assert diary.cashes == pytest.approx([10_000, 7_000, free])


def test_value_of_a_feed_is_its_signed_notional() -> None:
    def look(s: Diary) -> None:
        s.made.update(one=s.broker.getvalue(datas=[s.data]), none=s.broker.get_value([s.datas[1]]))

    diary = run({BTC: frame([60_000] * 4), ETH: frame([3_000.0] * 4)}, {1: lambda s: s.sell(size=50), 3: look})
    assert diary.made == {"one": pytest.approx(-30_000), "none": 0.0}
    assert diary.values[-1] == pytest.approx(10_000 - 15)  # and asking for a part leaves the whole alone


def test_a_spot_buy_receives_coins_less_the_fee_and_closes_without_dust() -> None:
    acts = {1: lambda s: s.buy(size=0.1), 4: lambda s: s.close()}
    diary = run({SPOT: frame([60_000, 60_000, 60_000, 66_000, 66_000])}, acts)
    bought, sold = [o for o in diary.orders if o.status == o.Completed]
    assert bought.executed.size == pytest.approx(0.0999)
    assert sold.executed.size == -bought.executed.size
    assert diary.position.size == 0
    assert diary.broker.engine.account.balance("BTC") == 0.0
    (trade,) = diary.trades
    assert trade.size == 0
    assert trade.pnlcomm == pytest.approx(diary.values[-1] - 10_000)


def test_spot_cannot_be_sold_short_or_bought_on_credit() -> None:
    acts = {1: lambda s: s.made.update(short=s.sell(size=0.1), big=s.buy(size=1))}
    diary = run({SPOT: frame([60_000] * 3)}, acts)
    for name in ("short", "big"):
        assert diary.statuses(diary.made[name])[-1] == "Margin"
    refusals = [e.reason for e in diary.broker.events]
    assert any("BTC to give" in reason for reason in refusals)
    assert any("USDT to give" in reason for reason in refusals)


def test_coins_at_the_start_count_in_value_and_support_no_usdt_contract() -> None:
    acts = {1: lambda s: s.buy(data=s.datas[0], size=100)}
    diary = run({BTC: frame([60_000] * 4), SPOT: frame([60_000] * 4)}, acts, cash={"USDT": 1_000, "BTC": 1.0})
    assert diary.broker.startingcash == pytest.approx(61_000)
    assert diary.values[0] == pytest.approx(61_000)
    assert diary.orders[-1].getstatusname() == "Margin"  # 6,000 needed, 1,000 there: the coin does not help
    assert diary.getposition(diary.datas[1]).size == 0  # an opening balance is no position


def test_idle_coins_are_named() -> None:
    acts = {1: lambda s: s.buy(data=s.datas[0], size=10)}
    diary = run({BTC: frame([60_000] * 4), SPOT: frame([60_000] * 4)}, acts, cash={"USDT": 1_000, "BTC": 1.0})
    assert diary.broker.report().account.idle_usd == pytest.approx(60_000)


def test_deposits_and_withdrawals_are_booked_and_leave_fund_value_alone() -> None:
    acts = {1: lambda s: s.broker.add_cash(5_000), 3: lambda s: s.broker.add_cash(-2_000)}
    diary = run({BTC: frame([60_000] * 5)}, acts)
    assert diary.values == pytest.approx([10_000, 15_000, 15_000, 13_000, 13_000])
    kinds = [(e.kind, e.cash) for e in diary.broker.ledger]
    assert kinds == [(EntryKind.DEPOSIT, 5_000), (EntryKind.DEPOSIT, -2_000)]
    assert diary.broker.fundvalue == pytest.approx(100.0)
    assert diary.broker.fundshares == pytest.approx(130.0)


def test_what_a_position_uses_cannot_be_withdrawn() -> None:
    acts = {1: lambda s: s.buy(size=100), 3: lambda s: s.broker.add_cash(-9_000)}
    with pytest.raises(InputError, match="at most"):
        run({BTC: frame([60_000] * 5)}, acts)


def test_plain_assets_trade_beside_contracts_with_their_own_commission() -> None:
    def commission(cerebro: bt.Cerebro) -> None:
        cerebro.broker.setcommission(commission=0.001, name="GOLD")

    acts = {1: lambda s: (s.buy(data=s.getdatabyname("GOLD"), size=2), s.buy(data=s.getdatabyname(BTC), size=10)),
            4: lambda s: s.close(data=s.getdatabyname("GOLD"))}
    diary = run({"GOLD": frame([1_000, 1_000, 1_100, 1_100, 1_100]), BTC: frame([60_000] * 5)}, acts,
                prepare=commission, fees=NO_FEES)
    assert diary.values[2] == pytest.approx(10_000 - 2 + 200)
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(200 - 2 - 2.2)
    assert diary.values[-1] == pytest.approx(10_000 + 200 - 4.2)


def test_funding_is_charged_at_its_times_and_told_to_the_trade() -> None:
    rates = pd.Series([0.001, 0.002], pd.DatetimeIndex(["2025-09-20T08:00Z", "2025-09-20T16:00Z"]))
    acts = {1: lambda s: s.buy(size=100), 20: lambda s: s.close()}
    diary = run({BTC: frame([60_000] * 22)}, acts, feed={BTC: {"funding": rates}}, fees=NO_FEES)
    paid = [(e.time, e.cash) for e in diary.broker.ledger if e.kind is EntryKind.FUNDING]
    assert [cash for _, cash in paid] == pytest.approx([-60, -120])
    assert [pd.Timestamp(t, unit="ms").hour for t, _ in paid] == [8, 16]
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(-180)
    kept = run({BTC: frame([60_000] * 22)}, acts, feed={BTC: {"funding": rates}}, fees=NO_FEES, int2pnl=False)
    assert kept.trades[0].pnlcomm == pytest.approx(0)


def test_stock_analyzers_and_observers_survive_a_wipe_out() -> None:
    names = ["DrawDown", "TimeDrawDown", "TradeAnalyzer", "Returns", "TimeReturn", "SharpeRatio", "SQN", "VWR",
             "Calmar", "Transactions", "PositionsValue", "AnnualReturn", "GrossLeverage", "PeriodStats"]

    def prepare(cerebro: bt.Cerebro) -> None:
        for name in names:
            cerebro.addanalyzer(getattr(bt.analyzers, name), _name=name)
        cerebro.addanalyzer(Recorder, _name="recorder")
        for observer in (bt.observers.Broker, bt.observers.Trades, bt.observers.BuySell, bt.observers.DrawDown,
                         MarginRatio):
            cerebro.addobserver(observer)

    gap = [60_000] * 30 + [(30_000.0, 30_000.0, 30_000.0, 30_000.0)] + [30_000] * 30
    diary = run({BTC: frame(gap)}, {1: lambda s: s.buy(size=100)}, prepare=prepare)
    drawdown = diary.analyzers.DrawDown.get_analysis()
    assert drawdown.max.drawdown == pytest.approx(100.0)
    trades = diary.analyzers.TradeAnalyzer.get_analysis()
    assert trades.total.closed == 1
    assert trades.pnl.net.total == pytest.approx(-10_000)
    ratios = [r for r in diary.analyzers.recorder.get_analysis()["series"]["margin_ratio"] if r is not None]
    assert min(ratios) <= 1.0
    assert diary.observers[-1].lines.ratio[0] != diary.observers[-1].lines.ratio[0]  # nothing is required any more


def test_rules_in_force_change_inside_a_run() -> None:
    """The one-tier rule came into force on 2025-05-16: a run across that day judges each instant by its own rule."""
    diary = run({BTC: frame([60_000] * 48, start="2025-05-15T00:00Z")}, {1: lambda s: s.buy(size=10)})
    effective = {(row.table, row.effective) for row in diary.broker.engine.evidence()}
    liquidation = {when for table, when in effective if table == "liquidation"}
    assert len(liquidation) >= 2  # the one-tier rule of 2025-05-16 and the rule before it


def test_value_before_the_first_bar_and_after_the_last() -> None:
    broker = MarginBroker(mode="cross", cash=5_000.0)
    assert broker.getvalue() == broker.getcash() == 5_000.0
    assert broker.ledger == broker.events == []
    with pytest.raises(InputError, match="no bar has come yet"):
        broker.report()
    with pytest.raises(InputError, match="stock broker"):
        MarginBroker().report()
    broker.setcash({"USDT": 7_000.0})
    assert broker.getvalue() == 7_000.0


def test_random_strategies_conserve_money_and_tell_every_cost() -> None:
    """Whatever happens, the trades' net profits add up to the change of the account (`run` checks the ledger)."""
    import random

    for seed in range(12):
        rng = random.Random(seed)

        def each(s: Diary, rng: random.Random = rng) -> None:
            data = rng.choice(s.datas)
            if s.bars == 115:
                for d in s.datas:
                    for order in s.broker.get_orders_open():
                        s.cancel(order)
                    s.close(data=d)
            elif s.bars < 115 and rng.random() < 0.4:
                side = rng.choice([s.buy, s.sell])
                kind = rng.choice([bt.Order.Market, bt.Order.Limit, bt.Order.Stop])
                price = round(data.close[0] * (1 + rng.uniform(-0.02, 0.02)), 1)
                side(data=data, size=rng.randint(1, 200), exectype=kind, price=price)

        rates = pd.Series([0.0004] * 15, pd.date_range("2025-09-20T00:00Z", periods=15, freq="8h"))
        frames = {BTC: walk(seed, 120, spread=0.02), ETH: walk(seed + 50, 120, 3_000.0, 0.02)}
        diary = run(frames, each=each, mode=rng.choice(["isolated", "cross"]), leverage=20.0, min_value=0.0,
                    feed={BTC: {"funding": rates}})
        assert not diary.broker.engine.account.positions
        total = sum(t.pnlcomm for t in diary.trades)
        assert total == pytest.approx(diary.values[-1] - 10_000, abs=1e-5), seed


def test_frames_that_cannot_be_right_are_refused() -> None:
    good = frame([60_000] * 3)
    for change, says in (
        (lambda d: d.drop(columns="high"), "high is missing"),
        (lambda d: d.reset_index(drop=True), "DatetimeIndex"),
        (lambda d: d.iloc[::-1], "rise strictly"),
        (lambda d: d.assign(low=70_000.0), "inside its open and close"),
        (lambda d: d.assign(close=float("nan")), "finite prices above zero"),
        (lambda d: d.iloc[:0], "at least one bar"),
    ):
        with pytest.raises(InputError, match=says):
            feeds.from_dataframe(change(good), BTC)
    with pytest.raises(InputError, match="timeframe"):
        feeds.from_dataframe(good, BTC, "1 hour")
    with pytest.raises(InputError, match="stamp"):
        feeds.from_dataframe(good, BTC, stamp="middle")
