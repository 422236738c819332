"""Multi-currency margin in real cerebro runs: short and leveraged spot, coin collateral, conversion, every run mode."""

from __future__ import annotations

import random
from typing import Any

import backtrader as bt
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.model.event import Converted
from bt_margin.model.ledger import EntryKind
from bt_margin.plugin import feeds
from bt_margin.plugin.analyzers import Recorder
from tests.plugin.script import BTC, SPOT, Diary, frame, run, walk

FLAT = [60_000.0] * 6
FEE = 0.001
HOURLY = 0.0001
RATES = {"USDT": HOURLY * 365 * 24, "BTC": HOURLY * 365 * 24}
FREE = {"USDT": 0.0, "BTC": 0.0, "ETH": 0.0}
ETHSPOT = "ETH/USDT"


def play(frames: Any, acts: Any = None, **more: Any) -> Diary:
    return run(frames, acts, **{"mode": "multi-currency", "interest": FREE, **more})


def kinds(diary: Diary) -> list[str]:
    return [event.name for event in diary.margin_events]


def paid(diary: Diary, kind: EntryKind) -> float:
    """What entries of a kind gained, in USDT at the last prices."""
    market = diary.broker.engine.market
    return sum(x.total * float(market.usd(x.currency)) for x in diary.broker.ledger if x.kind is kind)


# -- spot on credit and short -----------------------------------------------------------------------------------------


def test_selling_a_coin_that_is_not_held_and_buying_it_back_by_hand() -> None:
    candles = [60_000.0, 60_000.0, 58_000.0, 55_000.0, 55_000.0, 55_000.0]
    acts = {1: lambda s: s.sell(size=0.1), 4: lambda s: s.buy(size=0.11)}
    diary = play({SPOT: frame(candles)}, acts, interest=RATES)
    # sold at 60,000 (01:00); hours at 02:00, 03:00, 04:00; bought at 55,000 (04:00)
    accrued = [e.interest for e in diary.broker.ledger if e.kind is EntryKind.INTEREST and e.interest > 0]
    assert accrued == pytest.approx([0.1 * HOURLY * (1 + HOURLY) ** n for n in range(3)])
    assert {e.currency for e in diary.broker.ledger if e.interest} == {"BTC"}
    assert kinds(diary) == ["Borrowed", "Repaid"]
    account = diary.broker.engine.account
    assert account.balance("USDT") == pytest.approx(10_000 + 6_000 * (1 - FEE) - 0.11 * 55_000)
    assert account.balance("BTC") == pytest.approx(0.11 * (1 - FEE) - 0.1 - sum(accrued))
    (trade,) = diary.trades
    assert trade.pnl == pytest.approx(0.1 * 5_000)
    assert diary.position.size == pytest.approx(0.00989)  # bought on: what is beyond the debt


def test_buying_spot_on_credit_by_hand() -> None:
    candles = [60_000.0, 60_000.0, 61_000.0, 62_000.0, 62_000.0, 62_000.0]
    acts = {1: lambda s: s.buy(size=0.5), 4: lambda s: s.close()}
    diary = play({SPOT: frame(candles)}, acts, interest=RATES)
    owed = 20_000 * (1 + HOURLY) ** 3
    assert diary.values[-1] == pytest.approx(10_000 + 0.4995 * 62_000 * (1 - FEE) - 10_000 - owed, rel=1e-9)
    assert kinds(diary) == ["Borrowed", "Repaid"]
    assert diary.position.size == 0
    (trade,) = diary.trades
    interest = 20_000 * ((1 + HOURLY) ** 3 - 1)
    assert trade.pnlcomm - interest == pytest.approx(diary.values[-1] - 10_000, rel=1e-6)  # interest is nobody's trade


def test_an_order_on_credit_beyond_the_margin_is_refused_with_the_largest_size() -> None:
    diary = play({SPOT: frame(FLAT)}, {1: lambda s: s.made.update(o=s.buy(size=5)),
                                       3: lambda s: s.buy(size=s.broker.events[0].largest_size)})
    assert diary.statuses(diary.made["o"])[-1] == "Margin"
    assert diary.made["o"].info.shortfall > 0
    assert diary.position.size > 0
    assert diary.broker.engine.present_ratio() > 1


def test_a_bar_with_interest_of_two_days_costs_forty_eight_hours() -> None:
    daily = frame([60_000.0] * 5, "1D")
    diary = play({SPOT: daily}, {1: lambda s: s.buy(size=0.5), 3: lambda s: s.made.update(v=s.broker.getvalue())},
                 freqs={SPOT: "1d"}, interest=RATES)
    hours = [e for e in diary.broker.ledger if e.kind is EntryKind.INTEREST and e.interest > 0]
    assert len(hours) == 4 * 24
    assert diary.made["v"] == pytest.approx(10_000 - 0.0005 * 60_000 - 20_000 * ((1 + HOURLY) ** 48 - 1), rel=1e-9)


# -- coin collateral --------------------------------------------------------------------------------------------------

CRASH = [60_000.0, 60_000.0, 55_000.0, 45_000.0, 30_000.0, 25_000.0, 26_000.0]


def test_a_long_on_its_own_coin_dies_where_the_stablecoin_account_lives() -> None:
    acts = {1: lambda s: s.buy(data=s.getdatabyname(BTC), size=100, leverage=5)}
    frames = {BTC: frame(CRASH), SPOT: frame(CRASH)}
    coin = play(frames, acts, cash={"BTC": 1.0})
    cash = play(frames, acts, cash={"USDT": 60_000.0})
    assert kinds(coin)[-1] == "TakenOver"
    assert "Converted" in kinds(coin)
    assert kinds(cash) in ([], ["Warned"])
    forced = coin.forced()
    assert [o.data._name for o in forced] == [BTC]  # the coins that were sold never came from an order
    assert coin.getposition(coin.getdatabyname(SPOT)).size == 0
    first = coin.margin_events[kinds(coin).index("Warned")]
    assert first.report.account.margin_ratio == pytest.approx(3.0, rel=1e-6)
    assert coin.broker.engine.account.balance("BTC") < 1.0


def test_a_forced_conversion_of_bought_coins_is_an_order_and_a_trade() -> None:
    diary = play({SPOT: frame(CRASH)}, {1: lambda s: s.buy(size=0.5)})
    forced = diary.forced()
    assert forced
    assert all(o.info.forced == "liquidation" for o in forced)
    (event,) = [e for e in diary.margin_events if isinstance(e, Converted)]
    (order,) = forced
    assert order.executed.size == pytest.approx(-event.sold_amount, abs=1e-8)
    assert order.executed.price == pytest.approx(event.price)
    assert order.executed.comm == pytest.approx(event.fee + event.penalty, rel=1e-6)
    assert diary.position.size == pytest.approx(diary.broker.engine.account.balance("BTC"), abs=1e-8)
    assert kinds(diary) == ["Borrowed", "Warned", "Converted", "Repaid", "TakenOver"]


def test_profit_adds_up_over_trades_interest_and_opening_coins() -> None:
    """Change of total equity = profit of trades + interest + change in value of the opening coins - what their
    conversion cost. Closed by the strategy at the end, so that nothing is left unrealised."""
    candles = [60_000.0, 60_000.0, 59_000.0, 57_000.0, 58_000.0, 58_000.0, 58_000.0, 58_000.0]
    acts = {
        1: lambda s: (s.buy(data=s.getdatabyname(BTC), size=40, leverage=5),
                      s.buy(data=s.getdatabyname(SPOT), size=0.4)),
        5: lambda s: (s.close(data=s.getdatabyname(BTC)), s.close(data=s.getdatabyname(SPOT))),
    }
    rates = pd.Series([0.001], [pd.Timestamp("2025-09-20T04:00Z")])
    diary = play({BTC: frame(candles), SPOT: frame(candles)}, acts, cash={"BTC": 0.5, "USDT": 2_000.0}, interest=RATES,
                 feed={BTC: {"funding": rates}})
    won = sum(trade.pnlcomm for trade in diary.trades)  # funding is in the trade that paid it
    assert paid(diary, EntryKind.FUNDING) == pytest.approx(-0.4 * 57_000 * 0.001)
    coins = 0.5 * (58_000 - 60_000)
    assert len(diary.trades) == 2
    assert diary.values[-1] - 32_000 == pytest.approx(won + paid(diary, EntryKind.INTEREST) + coins, abs=1e-4)


def test_profit_adds_up_through_a_liquidation() -> None:
    """Opening coins are sold as well: the fee and penalty of their conversion belong to no trade."""
    acts = {1: lambda s: (s.buy(data=s.getdatabyname(BTC), size=60, leverage=5),
                          s.buy(data=s.getdatabyname(SPOT), size=0.3))}
    diary = play({BTC: frame(CRASH), SPOT: frame(CRASH)}, acts, cash={"BTC": 0.6})
    assert "TakenOver" in kinds(diary)
    told = sum(o.executed.comm for o in diary.forced() if o.data._name == SPOT)
    usd = diary.broker.engine.market.usd
    cost = sum((e.fee + e.penalty) * float(usd(e.bought)) for e in diary.margin_events if e.name == "Converted")
    unattributed = cost - told
    assert unattributed > 0
    left = diary.getposition(diary.getdatabyname(SPOT)).size
    account = diary.broker.engine.account
    # opening coins sold at conversion prices: their change in value up to the sale, the rest up to the end
    opening = 0.6 * -60_000.0
    sold_own = 0.0
    for e in diary.margin_events:
        if e.name == "Converted" and e.sold == "BTC":
            mine = sum(-o.executed.size for o in diary.forced() if o.data._name == SPOT and o.info.time == e.time
                       and o.executed.price == pytest.approx(e.price))
            sold_own += e.sold_amount - mine
            opening += (e.sold_amount - mine) * e.price
    opening += (0.6 - sold_own) * 26_000.0
    won = sum(t.pnlcomm for t in diary.trades)
    open_pnl = left * 26_000.0 - left * 60_000.0
    change = diary.values[-1] - 36_000.0
    assert account.balance("BTC") == pytest.approx(0.6 - sold_own + left, abs=1e-7)
    assert change == pytest.approx(won + open_pnl + opening - unattributed, abs=1e-3)


# -- the path ---------------------------------------------------------------------------------------------------------


def test_the_index_moves_within_the_bar_as_the_mark_does() -> None:
    """A wick in the mark takes the index, and with it the collateral, along: the account dies inside the bar."""
    wick = [60_000.0, 60_000.0, (60_000.0, 60_000.0, 30_000.0, 60_000.0), 60_000.0]
    acts = {1: lambda s: s.buy(data=s.getdatabyname(BTC), size=100, leverage=5)}
    index = frame([60_000.0] * 4)
    with_wick = play({BTC: frame(wick)}, acts, cash={"BTC": 1.0}, feed={BTC: {"index": index["close"]}})
    assert kinds(with_wick)[-1] == "TakenOver"
    (converted,) = [e for e in with_wick.margin_events if e.name == "Converted"]
    (reduced,) = [e for e in with_wick.margin_events if e.name == "Reduced"]
    assert converted.price == pytest.approx(reduced.price)  # the collateral was sold at the price of the mark
    calm = play({BTC: frame(FLAT)}, acts, cash={"BTC": 1.0}, feed={BTC: {"index": frame(FLAT)["close"]}})
    assert "Reduced" not in kinds(calm)


def test_a_depeg_feed_moves_the_account_and_kills_a_short_in_coins() -> None:
    """USDT falls to a third while BTC/USDT triples: the same BTC in dollars, a debt that USDT no longer covers."""
    pair = [60_000.0, 60_000.0, 60_000.0, 180_000.0, 180_000.0]
    peg = [1.0, 1.0, 1.0, 1 / 3, 1 / 3]
    acts = {1: lambda s: s.sell(data=s.getdatabyname(SPOT), size=0.2)}
    diary = play({SPOT: frame(pair), "USDT/USD": frame(peg)}, acts, cash={"USDT": 20_000.0})
    assert kinds(diary)[0] == "Borrowed"
    assert "Converted" in kinds(diary)
    assert diary.position.size == 0
    (trade,) = diary.trades
    assert trade.pnl < 0


def test_an_order_that_rests_when_the_account_dies_is_cancelled_and_never_fills_in_that_bar() -> None:
    acts = {1: lambda s: (s.buy(size=0.5), s.made.update(o=s.buy(size=0.05, price=31_000.0, exectype=bt.Order.Limit)))}
    diary = play({SPOT: frame(CRASH)}, acts)
    statuses = diary.statuses(diary.made["o"])
    assert statuses[-1] == "Canceled"
    assert "Completed" not in statuses
    assert any(e.name == "OrdersCancelled" for e in diary.margin_events)


@pytest.mark.parametrize("price", [float("nan"), 0.0, -1.0, float("inf")])
def test_an_index_that_is_no_price_raises(price: float) -> None:
    index = frame(FLAT)["close"].copy()
    index.iloc[3] = price
    acts = {1: lambda s: s.buy(data=s.getdatabyname(BTC), size=10)}
    with pytest.raises(InputError, match="index: expected finite prices above zero"):
        play({BTC: frame(FLAT)}, acts, cash={"BTC": 1.0}, feed={BTC: {"index": index}})


# -- what the broker is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"borrow": {"auto": "yes"}}, "borrow.auto"),
        ({"borrow": {"speed": 1}}, "speed"),
        ({"borrow": {"leverage": {"USDT": 0.5}}}, "borrow.leverage.USDT"),
        ({"borrow": {"leverage": {"USDT": float("nan")}}}, "borrow.leverage.USDT"),
        ({"borrow": {"leverage": {"USDT": 50}}}, "borrow.leverage.USDT"),
        ({"borrow": {"leverage": 5}}, "borrow.leverage"),
        ({"borrow": {"leverage": "USDT"}}, "borrow.leverage"),
        ({"borrow": {"collateral_off": "ETH"}}, "collateral_off"),
        ({"borrow": {"collateral_off": 3}}, "collateral_off"),
        ({"borrow": True}, "borrow"),
        ({"borrow": ["auto"]}, "borrow"),
        ({"interest": {"USDT": -0.1}}, "interest"),
        ({"interest": {"USDT": float("nan")}}, "interest"),
        ({"interest": {"USDT": "5%"}}, "interest"),
        ({"interest": 0.05}, "interest"),
        ({"interest": {"USDT": True}}, "interest"),
        ({"mode": "cross", "borrow": {"auto": True}}, "borrow"),
    ],
)
def test_bad_settings_are_one_clear_error(more: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        play({SPOT: frame(FLAT)}, {}, **more)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_switches_reach_the_engine() -> None:
    off = {"auto": False, "leverage": {"BTC": 5}, "collateral_off": ["ETH"]}
    diary = play({SPOT: frame(FLAT), ETHSPOT: frame([3_000.0] * 6)}, {1: lambda s: s.sell(size=0.1)},
                 cash={"USDT": 10_000.0, "ETH": 1.0}, borrow=off)
    (refused,) = [e for e in diary.broker.events if e.name == "Refused"]
    assert "51008" in refused.reason
    assert diary.broker.engine.collateral()["ETH"].counted == 0.0


# -- however cerebro runs ---------------------------------------------------------------------------------------------

RUN_MODES: dict[str, dict[str, Any]] = {
    "default": {}, "next": {"runonce": False}, "no preload": {"runonce": False, "preload": False},
    "exactbars": {"exactbars": 1}, "exactbars -1": {"exactbars": -1},
}


def busy(seed: int):
    rng = random.Random(seed)

    def each(s: Diary) -> None:
        if rng.random() < 0.5:
            return
        data = rng.choice(s.datas)
        spot, price = ":" not in data._name, data.close[0]
        side = rng.choice([s.buy, s.buy, s.sell])
        size = rng.uniform(0.05, 0.6) * (1 if spot else 100)
        kind = rng.choice([bt.Order.Market, bt.Order.Limit, bt.Order.Stop])
        side(data=data, size=size, exectype=kind, price=round(price * rng.uniform(0.97, 1.03), 1))

    return each


def story(diary: Diary) -> tuple[Any, ...]:
    broker = diary.broker
    return (broker.ledger, [(e.time, e.name, e.pool) for e in broker.events], diary.told, diary.values, diary.cashes,
            [(t.pnl, t.pnlcomm, t.barlen) for t in diary.trades], diary.bars)


@pytest.mark.parametrize("seed", [7, 9])
def test_run_modes_tell_the_same_story(seed: int) -> None:
    data = walk(seed, 60, spread=0.04)
    frames = {BTC: data, SPOT: data}
    stories = {
        name: story(play(frames, each=busy(seed), cash={"USDT": 5_000.0, "BTC": 0.3}, modes=modes, interest=RATES))
        for name, modes in RUN_MODES.items()
    }
    first = stories.pop("default")
    assert {name for _, name, _ in first[1]} >= {"Borrowed", "TakenOver"}
    assert [e for e in first[0] if e.kind is EntryKind.INTEREST]
    for name, other in stories.items():
        for ours, theirs in zip(other, first, strict=True):
            assert ours == theirs, name


class Short(bt.Strategy):
    """Sells a coin that it does not hold; module level, so that worker processes can import it."""

    params = (("size", 0.1),)

    def next(self) -> None:
        if len(self) == 1:
            self.sell(size=self.p.size)


def optimised(maxcpus: int) -> list[dict[str, Any]]:
    cerebro = bt.Cerebro(stdstats=False, maxcpus=maxcpus)
    cerebro.broker = MarginBroker(mode="multi-currency", cash={"USDT": 10_000.0}, interest=RATES, borrow={"auto": True})
    rising = [60_000.0 * 1.03**i for i in range(40)]
    cerebro.adddata(feeds.from_dataframe(frame(rising), SPOT))
    cerebro.optstrategy(Short, size=[0.02, 0.05, 0.4])
    cerebro.addanalyzer(Recorder, _name="recorder")
    return [run_[0].analyzers.recorder.get_analysis() for run_ in cerebro.run()]


def test_optstrategy_on_one_and_two_processes() -> None:
    alone, shared = optimised(1), optimised(2)
    assert shared == alone
    names = [{event["name"] for event in analysis["events"]} for analysis in alone]
    assert all("Borrowed" in found for found in names)
    assert "Converted" in names[2]
    assert len({analysis["series"]["equity"][-1] for analysis in alone}) == 3
