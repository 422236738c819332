"""Orders in a margin account: backtrader's matching, the venue's checks, legs, options, refusals."""

from __future__ import annotations

import datetime
import logging
import random
from typing import ClassVar

import backtrader as bt
import pytest

from bt_margin import MarginBroker
from bt_margin.errors import InputError, NotSupported
from bt_margin.plugin import feeds
from bt_margin.plugin.strategy import HoldOnce
from tests.plugin.script import BTC, ETH, NO_FEES, SPOT, Diary, frame, run, walk

LIMIT, STOP, MARKET = bt.Order.Limit, bt.Order.Stop, bt.Order.Market
STOP_LIMIT, TRAIL, TRAIL_LIMIT, CLOSE = (
    bt.Order.StopLimit, bt.Order.StopTrail, bt.Order.StopTrailLimit, bt.Order.Close)


def place(s: Diary, rng: random.Random) -> None:
    """One order of a random type around the present price. Sizes differ, so that no two are confused."""
    price, side = s.data.close[0], rng.choice([s.buy, s.sell])
    size, up = rng.randint(1, 9), 1 if side == s.buy else -1
    near, far = (round(price * (1 + k * rng.uniform(0.0005, 0.008)), 1) for k in (up, up))
    valid = rng.choice([None, None, datetime.timedelta(hours=rng.randint(1, 6))])
    kind = rng.choice(["market", "limit", "stop", "stoplimit", "trail", "trailpercent", "traillimit", "close"])
    if kind == "market":
        side(size=size)
    elif kind == "limit":
        side(size=size, exectype=LIMIT, price=round(2 * price - near, 1), valid=valid)
    elif kind == "stop":
        side(size=size, exectype=STOP, price=near, valid=valid)
    elif kind == "stoplimit":
        limit = rng.choice([far, round(2 * price - far, 1)])
        side(size=size, exectype=STOP_LIMIT, price=near, plimit=limit, valid=valid)
    elif kind == "trail":
        side(size=size, exectype=TRAIL, trailamount=round(price * 0.005, 1))
    elif kind == "trailpercent":
        side(size=size, exectype=TRAIL, trailpercent=0.006)
    elif kind == "traillimit":
        side(size=size, exectype=TRAIL_LIMIT, price=price, plimit=price, trailamount=round(price * 0.004, 1))
    elif kind == "close":
        side(size=size, exectype=CLOSE)


@pytest.mark.parametrize("symbol", [BTC, "ASSET"])
@pytest.mark.parametrize("seed", range(12))
def test_every_order_type_fills_when_and_where_stock_backtrader_fills_it(seed: int, symbol: str) -> None:
    """Same bars, same orders, money enough: same sizes, prices, times and final states as the stock broker."""
    def scripted(broker: bt.brokers.BackBroker, name: str) -> list[tuple[object, ...]]:
        rng = random.Random(seed)
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.broker = broker
        cerebro.adddata(feeds.from_dataframe(walk(seed, 120), name, "1h"))
        cerebro.addstrategy(Diary, each=lambda s: place(s, rng) if rng.random() < 0.5 else None)
        (s,) = cerebro.run()
        first = min(o.ref for o in s.orders)
        rows = {}
        for o in s.orders:
            rows[o.ref - first] = (o.ref - first, o.exectype, o.getstatusname(), o.created.size, o.executed.size,
                                   o.executed.price, o.executed.dt)
        return [rows[k] for k in sorted(rows)]

    stock = bt.brokers.BackBroker(cash=1e12)
    stock.setcommission(commission=0.0, stocklike=True)
    ours = MarginBroker(mode="cross", cash=1e12, leverage=10.0, fees=NO_FEES)
    expected = scripted(stock, "ASSET")
    found = scripted(ours, symbol)
    if symbol == "ASSET":  # coins cannot be sold before they are bought; only orders that never met that rule compare
        bad = {row[0] for row in found if row[2] == "Margin"}
        expected = [row for row in expected if row[0] not in bad]
        found = [row for row in found if row[0] not in bad]
    assert found == expected
    assert {row[2] for row in found} >= {"Completed"}


def test_oco_the_path_decides_which_order_fills() -> None:
    acts = {1: lambda s: s.buy(size=100), 2: lambda s: (
        s.made.update(up=s.sell(size=100, exectype=LIMIT, price=61_000)),
        s.made.update(down=s.sell(size=100, exectype=STOP, price=59_000, oco=s.made["up"])))}
    both = [60_000, 60_000, 60_000, (60_000.0, 62_000.0, 58_500.0, 60_000.0), 60_000]
    adverse = run({BTC: frame(both)}, acts)
    assert adverse.statuses(adverse.made["down"])[-1] == "Completed"
    assert adverse.statuses(adverse.made["up"])[-1] == "Canceled"
    ohlc = run({BTC: frame(both)}, acts, path="ohlc")
    assert ohlc.statuses(ohlc.made["up"])[-1] == "Completed"
    assert ohlc.statuses(ohlc.made["down"])[-1] == "Canceled"
    assert ohlc.position.size == adverse.position.size == 0


def test_bracket_children_live_after_the_parent_and_end_each_other() -> None:
    acts = {1: lambda s: s.made.update(zip("pst", s.buy_bracket(
        size=50, price=59_500, exectype=LIMIT, stopprice=58_000, limitprice=61_000), strict=True))}
    diary = run({BTC: frame([60_000, 60_000, 59_400, 60_000, 61_500, 57_000, 57_000])}, acts)
    assert [diary.statuses(diary.made[k])[-1] for k in "pst"] == ["Completed", "Canceled", "Completed"]
    assert diary.filled() == [(50, 59_500.0), (-50, 61_000.0)]
    assert not diary.broker.engine.account.orders


def test_a_refused_parent_takes_its_children_along() -> None:
    acts = {1: lambda s: s.made.update(zip("pst", s.buy_bracket(
        size=5_000, price=60_000, exectype=LIMIT, stopprice=58_000, limitprice=61_000), strict=True))}
    diary = run({BTC: frame([60_000] * 4)}, acts)
    assert [diary.statuses(diary.made[k])[-1] for k in "pst"] == ["Margin", "Rejected", "Rejected"]


@pytest.mark.parametrize("check", [True, False])
def test_the_engine_is_asked_whatever_checksubmit_says(check: bool) -> None:
    acts = {1: lambda s: (
        s.made.update(big=s.buy(size=5_000, exectype=LIMIT, price=59_000)),
        s.made.update(zip("pst", s.buy_bracket(size=5_000, price=59_000, exectype=LIMIT, stopprice=58_000,
                                               limitprice=61_000), strict=True)))}
    diary = run({BTC: frame([60_000, 60_000, 58_500, 58_000])}, acts, checksubmit=check)
    assert diary.statuses(diary.made["big"])[-1] == "Margin"
    assert [diary.statuses(diary.made[k])[-1] for k in "pst"] == ["Margin", "Rejected", "Rejected"]
    assert not diary.filled()


def test_a_refusal_for_want_of_nothing_names_no_amount(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bt_margin"):
        run({BTC: frame([60_000] * 4)}, {1: lambda s: s.sell(size=2, reduce_only=True)})
    assert "there is no position of BTC/USDT:USDT to reduce (further refusals" in caplog.text


@pytest.mark.parametrize(("cash", "setting", "exposure", "why"), [
    (1e9, 50.0, 5.0, "leverage 50 allows (51004); the whole book could open at 0.01x of the 5x asked"),
    (1e4, 10.0, 150.0, "(51008); short of 140,750.00 USDT; the whole book could open at 9.95x of the 150x asked"),
])
def test_a_book_that_is_refused_names_what_was_missing_where_something_was(
    cash: float, setting: float, exposure: float, why: str
) -> None:
    class Book(HoldOnce):
        weights: ClassVar[dict[str, float]] = {BTC: 1.0}

    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash=cash, leverage=setting)
    cerebro.adddata(feeds.from_dataframe(frame([60_000] * 4), BTC, "1h"))
    cerebro.addstrategy(Book, leverage=exposure)
    (book,) = cerebro.run()
    assert book.refused.endswith(why)


def test_a_refusal_says_why_how_much_and_is_printed_once(caplog: pytest.LogCaptureFixture) -> None:
    acts = {1: lambda s: s.made.update(a=s.buy(size=200)), 2: lambda s: s.buy(size=200)}
    with caplog.at_level(logging.WARNING, "bt_margin"):
        diary = run({BTC: frame([60_000] * 5)}, acts)
    assert len(caplog.records) == 1
    assert "buy 200 BTC/USDT:USDT" in caplog.text
    assert "(51008), short of 2060 USDT, largest size " in caplog.text
    refused = diary.orders[-1]
    assert refused.getstatusname() == "Margin"
    assert refused.info.reason == "insufficient free margin in USDT (51008)"
    # 2 BTC at 60,000 and 10x reserve 12,000 and the opening fee of 60
    assert refused.info.shortfall == pytest.approx(2_060.0)
    assert refused.info.largest_size == pytest.approx(165.83)
    assert [e.name for e in diary.broker.events] == ["Refused", "Refused"]
    assert diary.margin_events == diary.broker.events


def test_the_largest_size_of_a_refusal_opens_and_one_lot_more_does_not() -> None:
    for extra, status in ((0.0, "Completed"), (0.01, "Margin")):
        acts = {1: lambda s, more=extra: s.made.update(a=s.buy(size=165.83 + more))}
        diary = run({BTC: frame([60_000] * 3)}, acts)
        assert diary.statuses(diary.made["a"])[-1] == status


def test_reduce_only_is_cut_to_the_position_and_refused_without_one() -> None:
    acts = {1: lambda s: s.made.update(early=s.sell(size=10, reduce_only=True)),
            2: lambda s: s.buy(size=30),
            3: lambda s: s.made.update(cut=s.sell(size=100, reduce_only=True))}
    diary = run({BTC: frame([60_000] * 6)}, acts)
    assert diary.statuses(diary.made["early"])[-1] == "Margin"
    assert diary.statuses(diary.made["cut"])[-1] == "Completed"
    assert diary.filled() == [(30, 60_000.0), (-30, 60_000.0)]
    assert diary.position.size == 0


def test_a_one_way_order_through_zero_is_one_order_and_two_trades() -> None:
    acts = {1: lambda s: s.buy(size=30), 4: lambda s: s.sell(size=50)}
    diary = run({BTC: frame([60_000, 60_000, 60_000, 61_000, 61_000])}, acts, fees=NO_FEES)
    assert diary.position.size == -20
    (trade,) = diary.trades
    assert trade.pnl == pytest.approx(300.0)
    assert diary.values[-1] == pytest.approx(10_300.0)


def test_post_only_rests_or_is_cancelled() -> None:
    acts = {1: lambda s: s.made.update(takes=s.buy(size=10, exectype=LIMIT, price=61_000, post_only=True),
                                       makes=s.buy(size=10, exectype=LIMIT, price=59_000, post_only=True))}
    diary = run({BTC: frame([60_000, 60_000, 58_000, 58_000])}, acts)
    assert diary.statuses(diary.made["takes"])[-1] == "Canceled"
    assert diary.statuses(diary.made["makes"])[-1] == "Completed"
    (filled,) = [o for o in diary.orders if o.status == o.Completed]
    assert filled.executed.comm == pytest.approx(0.1 * 59_000 * 0.0002)  # the maker's rate


def test_a_limit_the_open_gaps_through_makes_when_it_rested_and_takes_when_it_is_new() -> None:
    gap = [60_000, 60_000, 60_000, (58_000.0, 58_000.0, 58_000.0, 58_000.0), 58_000]
    for bar, rate in ((1, 0.0002), (3, 0.0005)):
        acts = {bar: lambda s: s.buy(size=10, exectype=LIMIT, price=59_000)}
        diary = run({BTC: frame(gap)}, acts)
        (filled,) = [o for o in diary.orders if o.status == o.Completed]
        assert filled.executed.price == 58_000.0
        assert filled.executed.comm == pytest.approx(0.1 * 58_000 * rate)


def test_resting_limits_reserve_margin_and_stops_do_not() -> None:
    acts = {1: lambda s: s.buy(size=10, exectype=LIMIT, price=50_000),
            3: lambda s: s.sell(size=10, exectype=STOP, price=50_000),
            5: lambda s: [s.cancel(o) for o in s.broker.get_orders_open()]}
    diary = run({BTC: frame([60_000] * 7)}, acts, fees=NO_FEES)
    assert diary.cashes == pytest.approx([10_000, 9_500, 9_500, 9_500, 9_500, 10_000, 10_000])


def test_a_stop_limit_reserves_once_it_has_been_met() -> None:
    acts = {1: lambda s: s.buy(size=10, exectype=STOP_LIMIT, price=60_500, plimit=60_000)}
    diary = run({BTC: frame([60_100, 60_100, 60_600, 60_700, 59_900])}, acts, fees=NO_FEES)
    assert diary.cashes[:4] == pytest.approx([10_000, 10_000, 9_400, 9_400])
    assert diary.filled() == [(10, 60_000.0)]


def test_hedge_legs_are_two_positions_and_two_trades() -> None:
    def opens(s: Diary) -> None:
        long, short = s.broker.leg(s.data, "long"), s.broker.leg(s.data, "short")
        s.made.update(long=long, short=short)
        s.buy(data=long, size=20)
        s.sell(data=short, size=8)

    def closes(s: Diary) -> None:
        assert (s.getposition(s.made["long"]).size, s.getposition(s.made["short"]).size) == (20, -8)
        assert s.position.size == 12
        s.close(data=s.made["short"])
        s.order_target_size(data=s.made["long"], target=5)

    diary = run({BTC: frame([60_000, 60_000, 60_000, 61_000, 61_000])}, {1: opens, 4: closes},
                position_mode="hedge", fees=NO_FEES)
    assert diary.getposition(diary.made["long"]).size == 5
    assert diary.getposition(diary.made["short"]).size == 0
    (trade,) = diary.trades
    assert trade.pnl == pytest.approx(-80.0)
    assert diary.values[-1] == pytest.approx(10_000 + 200 - 80)


def test_isolated_and_cross_positions_live_on_one_contract() -> None:
    def act(s: Diary) -> None:
        s.buy(size=10, margin_mode="isolated", leverage=5)
        s.buy(size=7)

    diary = run({BTC: frame([60_000] * 4)}, {1: act})
    held = {k.margin_mode: p.size for k, p in diary.broker.engine.account.positions.items()}
    assert held == {"isolated": 10, "cross": 7}
    assert diary.position.size == 17
    leg = diary.broker.leg(diary.data, margin_mode="isolated")
    assert diary.getposition(leg).size == 10
    assert diary.broker.engine.account.positions[diary.broker.key(leg)].margin == pytest.approx(1_200.0)


def test_leverage_is_a_setting_that_stays() -> None:
    def change(s: Diary) -> None:
        assert s.broker.set_leverage(s.data, 5) is None
        assert s.broker.set_leverage(s.data, 1_000).reason.startswith("leverage 1000 is above the maximum")

    acts = {1: lambda s: s.buy(size=10, leverage=20), 3: change, 4: lambda s: s.buy(size=10)}
    diary = run({BTC: frame([60_000] * 7)}, acts, mode="isolated", fees=NO_FEES)
    (position,) = diary.broker.engine.account.positions.values()
    assert (position.size, position.leverage) == (20, 5)
    assert position.margin == pytest.approx(2 * 1_200)
    assert diary.broker.getcommissioninfo(diary.data).get_leverage() == 5


def test_targets_and_sizers_speak_contracts_and_exposure() -> None:
    diary = run({BTC: frame([60_000] * 4)}, {1: lambda s: s.order_target_percent(target=3.0)})
    assert diary.position.size == pytest.approx(50.0)  # 30,000 USDT = 0.5 BTC
    diary = run({BTC: frame([60_000] * 4)}, {1: lambda s: s.order_target_value(target=-12_000)})
    assert diary.position.size == pytest.approx(-20.0)

    class Margin(bt.Sizer):
        def _getsizing(self, comminfo, cash: float, data, isbuy: bool) -> float:
            return comminfo.getsize(data.close[0], cash)

    diary = run({BTC: frame([60_000] * 4)}, {1: lambda s: s.buy()}, prepare=lambda c: c.addsizer(Margin))
    assert diary.position.size == 16.66  # 10,000 USDT of notional, in whole lots


def test_comminfo_tells_the_truth() -> None:
    def act(s: Diary) -> None:
        info = s.broker.getcommissioninfo(s.data)
        s.made.update(
            comm=info.getcommission(10, 60_000), margin=info.get_margin(60_000), leverage=info.get_leverage(),
            value=info.getvaluesize(-10, 60_000), cost=info.getoperationcost(10, 60_000),
            pnl=info.profitandloss(10, 60_000, 61_000), stock=info.stocklike, size=info.getsize(60_000, 9_999),
        )

    diary = run({BTC: frame([60_000] * 2)}, {1: act})
    assert diary.made == {
        "comm": pytest.approx(3.0), "margin": pytest.approx(60.0), "leverage": 10.0, "value": pytest.approx(-6_000.0),
        "cost": pytest.approx(600.0), "pnl": pytest.approx(100.0), "stock": False, "size": 16.66,
    }


def test_fillers_slippage_and_cheating_work_as_in_stock() -> None:
    acts = {1: lambda s: s.made.update(a=s.buy(size=100))}
    partial = run({BTC: frame([60_000] * 6)}, acts, filler=bt.broker.fillers.FixedSize(size=30))
    assert partial.statuses(partial.made["a"])[-4:] == ["Partial", "Partial", "Partial", "Completed"]
    assert partial.position.size == 100
    assert [o.executed.remsize for o in partial.orders][-1] == 0
    slipped = run({BTC: frame([60_000, (60_000.0, 61_000.0, 59_000.0, 60_000.0), 60_000])}, acts, slip_perc=0.001,
                  slip_open=True)
    assert slipped.filled() == [(100, pytest.approx(60_060.0))]
    coc = run({BTC: frame([60_000, (59_000.0, 59_500.0, 58_000.0, 59_000.0), 59_000])}, acts, coc=True)
    assert coc.filled() == [(100, 60_000.0)]


class Volume:
    """A filler: so many contracts trade in a bar, whoever comes first."""

    def __init__(self, size: float) -> None:
        self.size, self.bar, self.left = size, -1, 0.0

    def __call__(self, order: bt.Order, price: float, ago: int) -> float:
        if len(order.data) != self.bar:
            self.bar, self.left = len(order.data), self.size
        traded = min(self.left, abs(order.executed.remsize))
        self.left -= traded
        return traded


@pytest.mark.parametrize("group", [False, True])
def test_an_order_that_trades_in_part_keeps_its_place_as_in_stock(group: bool) -> None:
    def act(s: Diary) -> None:
        first = s.buy(size=30, exectype=LIMIT, price=59_000)
        s.buy(size=30, exectype=LIMIT, price=59_000)
        if group:  # ends with the first fill of its first order; what stands before and behind does not move
            s.buy(size=30, exectype=LIMIT, price=50_000, oco=first)

    bars = frame([60_000, 60_000, *[(60_000.0, 60_000.0, 58_900.0, 60_000.0)] * 3, 60_000])
    ours = run({BTC: bars}, {1: act}, filler=Volume(20))
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(1e9)
    cerebro.broker.set_filler(Volume(20))
    cerebro.adddata(bt.feeds.PandasData(dataname=bars), name=BTC)
    cerebro.addstrategy(Diary, acts={1: act})
    (stock,) = cerebro.run()

    def told(diary: Diary) -> list[tuple[int, str, float]]:
        first = diary.orders[0].ref
        return [(o.ref - first, o.getstatusname(), o.executed.size) for o in diary.orders]

    assert told(ours) == told(stock)
    assert [row for row in told(ours) if row[2]] == [
        (0, "Partial", 20), (0, "Completed", 30), (1, "Partial", 10), (1, "Completed", 30)
    ]


def test_cheat_on_open_trades_at_this_bars_open() -> None:
    class Early(Diary):
        def next_open(self) -> None:
            if len(self) == 2:
                self.buy(size=10)

    cerebro = bt.Cerebro(stdstats=False, cheat_on_open=True)
    cerebro.broker = MarginBroker(mode="cross", cash=10_000.0, leverage=10.0)
    cerebro.adddata(feeds.from_dataframe(frame([60_000, (61_000.0, 61_000.0, 61_000.0, 61_000.0), 62_000]), BTC))
    cerebro.addstrategy(Early)
    (s,) = cerebro.run()
    assert s.filled() == [(10, 61_000.0)]


def test_orders_on_two_clocks_wait_for_their_own_next_bar() -> None:
    """Stock lets a limit fill in an old bar of a slower feed; a venue cannot."""
    def act(s: Diary) -> None:
        slow = s.getdatabyname(ETH)
        s.made["limit"] = s.buy(data=slow, size=1, exectype=LIMIT, price=3_100)

    quick = frame([60_000] * 24, "15min")
    slow = frame([3_000, 3_050, 3_020, 3_040, 3_060, 3_000])
    diary = run({BTC: quick, ETH: slow}, {6: act}, freqs={BTC: "15m", ETH: "1h"})
    placed = diary.made["limit"].created.dt
    (filled,) = [o for o in diary.orders if o.status == o.Completed]
    assert filled.executed.dt > placed
    assert filled.executed.price == 3_050.0  # the open of the hour that begins after it


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda s: s.buy(size=1, colour="red"), InputError, "order option 'colour' is unknown"),
        (lambda s: s.buy(size=1, margin_mode="portfolio"), InputError, "margin_mode: expected one of"),
        (lambda s: s.buy(size=1, margin_mode="cash"), InputError, "needs isolated or cross margin"),
        (lambda s: s.buy(size=1, position_side="long"), InputError, "position_side: expected net in net mode"),
        (lambda s: s.buy(size=1, position_side="up"), InputError, "position_side: expected net, long or short"),
        (lambda s: s.buy(size=1, leverage=0.5), InputError, "leverage: expected a setting of 1 or more"),
        (lambda s: s.buy(size=float("nan")), InputError, "size: expected a finite number above zero"),
        (lambda s: s.buy(size=1, post_only=True), InputError, "post_only: expected a limit order"),
        (lambda s: s.buy(size=1, reverse=True), InputError, "reverse: only spot pairs"),
        (lambda s: s.buy(size=1, margin_currency="BTC"), InputError, "margin_currency: only spot pairs"),
        (lambda s: s.buy(data=s.datas[1], size=1, margin_mode="cross", margin_currency="ETH"), InputError,
         "margin_currency: expected BTC or USDT"),
        (lambda s: s.buy(data=s.datas[1], size=1, margin_mode="cross", position_side="long"), InputError,
         "position_side: BTC/USDT"),
        (lambda s: s.buy(data=s.datas[1], size=1, reduce_only=True), InputError, "reduce_only"),
        (lambda s: s.broker.leg(s.data, "sideways"), InputError, "position_side: expected net, long or short"),
        (lambda s: s.broker.set_cash(5), InputError, "add_cash"),
        (lambda s: s.broker.add_order_history([]), NotSupported, "add_order_history"),
        (lambda s: s.broker.set_fund_history([]), NotSupported, "set_fund_history"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(act, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        run({BTC: frame([60_000] * 3), SPOT: frame([60_000] * 3)}, {1: act})


@pytest.mark.parametrize(
    ("broker", "says"),
    [
        ({"mode": "crossed"}, "mode: expected"),
        ({"path": "random"}, "path: expected one of adverse, ohlc, close"),
        ({"leverage": 0.2}, "leverage: expected a setting of 1 or more"),
        ({"leverage": {BTC: float("nan")}}, "leverage: expected a setting of 1 or more"),
        ({"cash": -1.0}, r"cash\.USDT: expected an amount of zero or more, up to 1e\+18, found"),
        ({"cash": {"USDT": float("nan")}}, r"cash\.USDT: expected an amount of zero or more, up to 1e\+18, found"),
        ({"slippage": 1.0}, "slippage: expected a share"),
        ({"position_mode": "both"}, "position_mode: expected one of net, hedge"),
        ({"extrapolate": "always"}, "extrapolate: expected one of nearest, never"),
        ({"rules_as_of": "yesterday"}, "rules_as_of"),
    ],
)
def test_bad_settings_are_refused_when_the_broker_is_made(broker: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        MarginBroker(**{"mode": "cross", **broker})


def test_two_feeds_of_one_name_are_refused() -> None:
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross")
    for _ in range(2):
        cerebro.adddata(feeds.from_dataframe(frame([60_000] * 3), BTC))
    with pytest.raises(InputError, match="two feeds are called BTC/USDT:USDT"):
        cerebro.run()


def test_below_one_lot_is_refused_by_the_engine_not_rounded_away() -> None:
    diary = run({BTC: frame([60_000] * 3)}, {1: lambda s: s.buy(size=0.001)})
    assert diary.orders[-1].getstatusname() == "Margin"
    assert "below one lot" in diary.orders[-1].info.reason
