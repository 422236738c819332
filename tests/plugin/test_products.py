"""Products beyond linear swaps in cerebro runs, each against a ledger worked out by hand in the test."""

from __future__ import annotations

import backtrader as bt
import numpy as np
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.engine.clock import Deleveraging
from bt_margin.errors import InputError
from bt_margin.model.ledger import EntryKind
from bt_margin.plugin import feeds
from bt_margin.plugin.options import option_chain
from bt_margin.risk import black
from tests.plugin.script import BTC, ETH, NO_FEES, SPOT, Diary, frame, run

COIN = "BTC/USD:BTC"


def ms(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").value // 10**6)


def test_a_coin_margined_long_is_profit_in_coin() -> None:
    acts = {1: lambda s: s.buy(size=300), 3: lambda s: s.close()}  # 30,000 USD
    diary = run({COIN: frame([60_000, 60_000, 75_000, 75_000, 75_000])}, acts, cash={"BTC": 1.0}, currency="BTC",
                fees=NO_FEES)
    pnl = 30_000 / 60_000 - 30_000 / 75_000
    assert diary.values[-1] == pytest.approx(1 + pnl)
    (trade,) = diary.trades
    assert trade.pnl == pytest.approx(pnl)


def test_average_entry_of_inverse_contracts_is_harmonic() -> None:
    acts = {1: lambda s: s.buy(size=100), 3: lambda s: s.buy(size=100)}
    diary = run({COIN: frame([50_000, 50_000, 100_000, 100_000])}, acts, cash={"BTC": 1.0}, currency="BTC")
    expected = 20_000 / (10_000 / 50_000 + 10_000 / 100_000)
    assert diary.position.price == pytest.approx(expected)
    (position,) = diary.broker.engine.account.positions.values()
    assert position.entry_price == pytest.approx(expected)


def test_a_coin_account_in_usdt_terms_dies_where_the_rule_book_says() -> None:
    acts = {1: lambda s: s.buy(size=5_000)}  # 500,000 USD on 1 BTC
    diary = run({COIN: frame([60_000, 60_000, 55_000, 45_000])}, acts, cash={"BTC": 1.0}, currency="BTC",
                leverage=50.0)
    order = diary.forced()[0]
    n, fee, cash = 500_000.0, 0.0005, 1.0 - 500_000 / 60_000 * 0.0005
    rate = next(iter(diary.broker.engine.events)).report.pools[0].charges[0].detail["rate"]
    expected = n * (1 + rate + fee) / (cash + n / 60_000)  # section 4.3, inverse long
    assert order.executed.price == pytest.approx(expected, rel=1e-9)
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(diary.values[-1] - 1.0, abs=2e-9)


def test_usdc_contracts_have_a_pool_of_their_own() -> None:
    symbol = "BTC/USDC:USDC"
    acts = {1: lambda s: s.buy(size=100)}
    diary = run({symbol: frame([60_000] * 3)}, acts, cash={"USDC": 5_000, "USDT": 1e6}, currency="USDC",
                instruments={symbol: {"contract_size": 0.01}})
    assert diary.orders[-1].getstatusname() == "Margin"  # USDT backs nothing settled in USDC


@pytest.mark.parametrize(("symbol", "cash", "currency"), [
    ("BTC/USDT:USDT-250926", {"USDT": 10_000}, "USDT"), ("BTC/USD:BTC-250926", {"BTC": 1.0}, "BTC"),
])
@pytest.mark.parametrize("mode", ["isolated", "cross"])
def test_a_run_across_a_delivery(symbol: str, cash: dict, currency: str, mode: str) -> None:
    """Bought at 60,000, delivered at 08:00 at the average of the index between 07:00 and 08:00."""
    candles = [60_000.0] * 6 + [61_000, 63_000]  # closes: 06:00 .. index 61,000 at 07:00, 63,000 at 08:00
    data = frame([*candles, 63_000.0, 63_000.0], start="2025-09-26T00:00Z")
    index = data["close"]
    acts = {1: lambda s: s.buy(size=50), 3: lambda s: s.made.update(rest=s.sell(
        size=50, exectype=bt.Order.Limit, price=90_000)), 9: lambda s: s.made.update(late=s.buy(size=1))}
    diary = run({symbol: data}, acts, cash=cash, currency=currency, mode=mode, fees={
        "swap": {"taker": 0.0}, "future": {"taker": 0.0, "maker": 0.0}}, feed={symbol: {"index": index}})
    average = 62_000.0
    units = 50 * diary.broker.instrument(diary.data).contract_size
    pnl = units * (average - 60_000) if currency == "USDT" else units / 60_000 - units / average
    start = sum(cash.values())
    assert diary.broker.engine.account.balance(currency) == pytest.approx(start + pnl, rel=1e-12)
    (settled,) = [e for e in diary.margin_events if e.name == "Settled"]
    assert settled.price == pytest.approx(average)
    assert settled.time == ms("2025-09-26T08:00")
    (delivered,) = diary.forced()
    assert delivered.info.forced == "delivery"
    assert diary.statuses(diary.made["rest"])[-1] == "Canceled"
    assert [o for o in diary.orders if o.ref == diary.made["rest"].ref][-1].info.reason == "the contract has expired"
    late = [o for o in diary.orders if o.ref == diary.made["late"].ref][-1]
    assert "has expired" in late.info.reason
    assert diary.position.size == 0
    (trade,) = diary.trades
    assert trade.pnlcomm == pytest.approx(pnl)
    kinds = [e.kind for e in diary.broker.ledger]
    assert EntryKind.SETTLEMENT in kinds


def test_since_march_2026_the_average_is_of_thirty_minutes() -> None:
    symbol = "BTC/USDT:USDT-260327"
    data = frame([60_000.0] * 6 + [61_000, 63_000], start="2026-03-27T00:00Z")
    diary = run({symbol: data}, {1: lambda s: s.buy(size=50)}, fees={"future": {"taker": 0.0, "maker": 0.0}},
                feed={symbol: {"index": data["close"]}})
    (settled,) = [e for e in diary.margin_events if e.name == "Settled"]
    assert settled.price == pytest.approx(62_500.0)  # from 62,000 at 07:30 to 63,000


@pytest.mark.parametrize(("strike", "right"), [(60_000, "C"), (60_000, "P"), (70_000, "C"), (70_000, "P")])
def test_a_run_across_an_exercise(strike: int, right: str) -> None:
    symbol = f"BTC/USD:BTC-250926-{strike}-{right}"
    data = frame([65_000.0] * 7 + [66_000.0, 66_000.0], start="2025-09-26T00:00Z")
    underlying = feeds.from_dataframe(data, BTC, index=data["close"])
    (option,) = option_chain(underlying, [symbol], vol=0.5)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash={"BTC": 2.0, "USDT": 1e5}, currency="BTC")
    for feed in (underlying, option):
        cerebro.adddata(feed)
    acts = {1: lambda s: (s.sell(data=s.getdatabyname(symbol), size=100))}
    cerebro.addstrategy(Diary, acts=acts)
    (s,) = cerebro.run()
    (sold,) = s.filled()
    average = 65_500.0  # the index between 07:00 and 08:00
    sign = 1 if right == "C" else -1
    paid = max(sign * (average - strike), 0.0) / average
    fee = min(0.0003, 0.125 * sold[1])
    exercise = min(0.0002, 0.125 * paid) if paid else 0.0
    expected = 2.0 + sold[1] - fee - paid - exercise
    assert s.broker.engine.account.balance("BTC") == pytest.approx(expected, abs=1e-12)
    (trade,) = s.trades
    assert trade.pnlcomm == pytest.approx(expected - 2.0, abs=1e-12)
    assert [o.info.forced for o in s.forced()] == ["delivery"]


def test_an_option_chain_is_black_76_on_its_underlying() -> None:
    data = frame([60_000, 61_000, 59_000], start="2025-09-20T00:00Z")
    underlying = feeds.from_dataframe(data, BTC)
    names = ["BTC/USD:BTC-250926-60000-C", "BTC/USD:BTC-250926-60000-P"]
    call, put = option_chain(underlying, names, vol=0.4, carry=0.01)
    years = (ms("2025-09-26T08:00") - np.asarray(call.p.close_ms)) / 86_400_000 / 365
    closes = data["close"].to_numpy()
    expected = black.coin_price("C", closes * 1.01, 60_000.0, years, 0.4)
    assert call.p.columns["close"] == pytest.approx(expected)
    parity = call.p.columns["close"] - put.p.columns["close"]
    assert parity == pytest.approx(1 - 60_000 / (closes * 1.01))
    for feed in (call, put):
        columns = feed.p.columns
        assert (columns["low"] <= np.minimum(columns["open"], columns["close"])).all()
        assert (columns["high"] >= np.maximum(columns["open"], columns["close"])).all()
    for bad, says in (
        (lambda: option_chain(underlying, [BTC], vol=0.4), "expected an option"),
        (lambda: option_chain(underlying, ["ETH/USD:ETH-250926-3000-C"], vol=0.4), "expected an option of BTC"),
        (lambda: option_chain(underlying, ["BTC/USD:BTC-250926-60000-C"], vol=0.0), "finite numbers above 0"),
        (lambda: option_chain(underlying, ["BTC/USD:BTC-250926-60000-C"], vol=[0.4]), "one number or 3"),
        (lambda: option_chain(underlying, ["BTC/USD:BTC-200926-60000-C"], vol=0.4), "expires before"),
    ):
        with pytest.raises(InputError, match=says):
            bad()


def test_a_run_across_the_change_of_funding_collection() -> None:
    """Until 2024-07-01 06:00 an isolated payer pays from free cash and only down to ratio 1; then from its margin."""
    times = pd.date_range("2024-06-30T16:00Z", periods=4, freq="8h")
    rates = pd.Series([0.001] * 4, times)
    data = frame([60_000.0] * 30, start="2024-06-30T12:00Z")
    diary = run({BTC: data}, {1: lambda s: s.buy(size=100)}, mode="isolated", fees=NO_FEES,
                feed={BTC: {"funding": rates}})
    paid = [(e.cash, e.margin) for e in diary.broker.ledger if e.kind is EntryKind.FUNDING]
    assert paid == [pytest.approx((-60, 0)), pytest.approx((-60, 0)), pytest.approx((0, -60)), pytest.approx((0, -60))]


def test_a_run_across_a_tier_step_down() -> None:
    """Tier 2 is reduced to the ceiling of tier 1; penalty at the tier of the closed size; then the rest lives on."""
    tiers = [[1_000, 0.004, 0.01, 100], [5_000, 0.01, 0.02, 50]]
    acts = {1: lambda s: s.buy(size=4_000)}
    data = frame([60_000, 60_000, (60_000.0, 60_000.0, 60_000.0, 60_000.0), 55_400, 55_800])
    diary = run({BTC: data}, acts, cash=200_000.0, leverage=20.0, fees=NO_FEES, path="close",
                instruments={BTC: {"tiers": tiers}})
    (event,) = [e for e in diary.margin_events if e.name == "Reduced"]
    # equity 200,000 + 40 (P - 60,000) = requirement 40 P (0.01 + 0) at the trigger
    trigger = (40 * 60_000 - 200_000) / (40 * (1 - 0.01))
    assert event.price == pytest.approx(trigger)
    assert (event.size, event.remaining) == (-3_000, 1_000)
    assert event.penalty == pytest.approx(30 * trigger * 0.01)  # 3,000 contracts fall in tier 2
    assert diary.position.size == 1_000
    cash = 200_000 + 30 * (trigger - 60_000) - event.penalty
    assert diary.broker.engine.account.balance("USDT") == pytest.approx(cash)
    assert not [e for e in diary.margin_events if e.name == "TakenOver"]


def test_a_scripted_deleveraging_takes_the_winning_leg() -> None:
    script = [Deleveraging(ms("2025-09-20T03:00"), ETH, 0.5, "short")]

    def act(s: Diary) -> None:
        s.buy(data=s.datas[0], size=10)
        s.sell(data=s.datas[1], size=20)

    frames = {BTC: frame([60_000] * 6), ETH: frame([3_000, 3_000, 2_500, 2_500, 2_500, 2_500])}
    for mode in ("isolated", "cross"):
        diary = run(frames, {1: act}, mode=mode, deleveraging=script, fees=NO_FEES)
        (event,) = [e for e in diary.margin_events if e.name == "Deleveraged"]
        assert (event.key.symbol, event.size, event.remaining, event.price) == (ETH, 10.0, -10.0, 2_500.0)
        assert event.pnl == pytest.approx(10 * 0.1 * 500)
        assert diary.values[-1] == pytest.approx(10_000 + 20 * 0.1 * 500)
        (order,) = diary.forced()
        assert order.info.forced == "deleveraging"
        assert diary.getposition(diary.datas[1]).size == -10
        if mode == "isolated":  # half the margin came back with the profit
            held = next(p for k, p in diary.broker.engine.account.positions.items() if k.symbol == ETH)
            assert held.margin == pytest.approx(10 * 0.1 * 3_000 / 10)
    with pytest.raises(InputError, match="share"):
        Deleveraging(0, ETH, 1.5)


def test_adding_and_removing_isolated_margin() -> None:
    def change(s: Diary) -> None:
        assert s.broker.add_margin(s.data, 1_000) is None
        s.made["refused"] = s.broker.add_margin(s.data, 1e6)
        s.made["too much"] = s.broker.add_margin(s.data, -1_500)
        assert s.broker.add_margin(s.data, -400) is None

    crash = [60_000, 60_000, 60_000, 60_000, 50_000, 50_000]
    diary = run({BTC: frame(crash)}, {1: lambda s: s.buy(size=100), 3: change}, mode="isolated", fees=NO_FEES)
    assert diary.made["refused"].shortfall == pytest.approx(1e6 - 3_000)
    assert "59301" in diary.made["too much"].reason
    (order,) = diary.forced()
    without = run({BTC: frame(crash)}, {1: lambda s: s.buy(size=100)}, mode="isolated", fees=NO_FEES)
    rate = 1 - 0.004
    assert without.forced()[0].executed.price - order.executed.price == pytest.approx(600 / rate, rel=1e-6)
    assert diary.values[-1] == pytest.approx(10_000 - 6_600, abs=250)  # margin added is at risk, no more
    assert diary.values[-1] >= 10_000 - 6_600


def test_two_expiries_share_a_tier_in_cross() -> None:
    near, far = "BTC/USDT:USDT-251226", "BTC/USDT:USDT-260327"
    tiers = [[100, 0.004, 0.01, 100], [1_000, 0.02, 0.04, 25]]

    def act(s: Diary) -> None:
        s.buy(data=s.datas[0], size=80)
        s.sell(data=s.datas[1], size=80)

    diary = run({near: frame([60_000] * 4), far: frame([61_000] * 4)}, {1: act}, cash=100_000.0, fees={
        "future": {"taker": 0.0, "maker": 0.0}}, instruments={near: {"tiers": tiers}, far: {"tiers": tiers}})
    report = diary.broker.report()
    assert {row.tier for row in report.positions} == {2}
    assert report.pools[-1].maintenance_margin == pytest.approx(0.02 * 0.8 * (60_000 + 61_000))


def test_spot_and_coin_contract_make_a_carry() -> None:
    """Coins held, the same amount sold in the coin-margined swap: the USD value stands still."""
    candles = [60_000, 60_000, 75_000, 45_000, 60_000]

    def act(s: Diary) -> None:
        s.sell(data=s.getdatabyname(COIN), size=600)

    diary = run({COIN: frame(candles), SPOT: frame(candles)}, {1: act}, cash={"BTC": 1.0}, fees=NO_FEES, leverage=3.0)
    assert diary.values[1:] == pytest.approx([60_000] * 4, rel=1e-9)


def test_the_coin_carry_example_stands_still_in_usd() -> None:
    from strategies.coin_carry import CoinCarry

    rng = np.random.default_rng(4)
    closes = [60_000.0] * 4 + [*(60_000 * np.exp(np.cumsum(rng.normal(0, 0.03, 60)))).round(1)]
    rates = pd.Series([0.0001] * 7, pd.date_range("2025-09-20T08:00Z", periods=7, freq="8h"))
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash=100_000.0, leverage=2.0)
    cerebro.adddata(feeds.from_dataframe(frame(closes), SPOT))
    cerebro.adddata(feeds.from_dataframe(frame(closes), COIN, funding=rates))
    cerebro.addstrategy(CoinCarry)
    (s,) = cerebro.run()
    assert s.sizes[COIN] < 0 < s.sizes[SPOT]
    assert not [e for e in s.broker.events if e.name in ("TakenOver", "Refused")]
    fees = 100_000 * (0.001 + 0.0005)
    funding = sum(e.total * closes[-1] for e in s.broker.ledger if e.kind is EntryKind.FUNDING)
    assert funding > 0
    assert s.broker.getvalue() == pytest.approx(100_000 - fees + funding, rel=3e-3)
    assert max(closes) / min(closes) > 1.2


def test_a_stress_chart_shows_what_the_builder_says() -> None:
    from bt_margin import PositionBuilder
    from bt_margin.report.stress import stress_chart

    book = {"time": "2025-10-08T00:00:00Z", "balances": {"BTC": 1.0},
            "positions": [{"symbol": COIN, "contracts": 1000, "entry_price": 60_000, "leverage": 10}],
            "prices": {"mark": {COIN: 60_000}}, "rules": {"extrapolate": "nearest"}}
    builder = PositionBuilder.from_dict(book)
    figure = stress_chart(builder, ["cross"])
    rows = builder.stress("cross")
    assert list(figure.data[0].x) == [row.shift * 100 for row in rows]
    assert list(figure.data[0].y) == [row.equity_usd for row in rows]
    assert min(y for y in figure.data[1].y if y is not None) < 100 < max(figure.data[1].y)
