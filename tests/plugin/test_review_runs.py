"""Defects that a review found on the backtrader side, each held by the run that showed it."""

from __future__ import annotations

import random

import backtrader as bt
import numpy as np
import pytest

from bt_margin.errors import InputError
from bt_margin.model.ledger import EntryKind
from tests.plugin.script import BTC, NO_FEES, SPOT, Diary, frame, run, walk

COIN = "BTC/USD:BTC"
ALL_FREE = {kind: {"taker": 0.0, "maker": 0.0} for kind in ("swap", "spot", "margin")}


def leg(s: Diary, mode: str = "isolated"):
    return s.broker.leg(s.data, margin_mode=mode)


@pytest.mark.parametrize(("symbol", "cash"), [(COIN, {"BTC": 1.0}), (BTC, {"USDT": 10_000.0})])
def test_hedge_legs_of_equal_size_close_at_their_own_entry(symbol: str, cash: dict) -> None:
    def opens(s: Diary) -> None:
        s.buy(data=s.broker.leg(s.data, "long"), size=10)
        s.sell(data=s.broker.leg(s.data, "short"), size=10)

    diary = run({symbol: frame([60_000.0] * 7)}, {1: opens, 4: lambda s: s.close(data=s.broker.leg(s.data, "long"))},
                cash=cash, currency=next(iter(cash)), position_mode="hedge")
    closing = diary.orders[-1]
    notional = float(diary.broker.instrument(diary.data).notional(10, 60_000.0))
    assert closing.executed.value == pytest.approx(notional)
    assert diary.position.size == -10


def test_fractional_sizes_leave_no_dust_in_a_trade() -> None:
    acts = {1: lambda s: s.buy(size=0.1), 2: lambda s: s.buy(size=0.2), 4: lambda s: s.close(),
            6: lambda s: s.buy(size=5), 8: lambda s: s.close()}
    diary = run({BTC: frame([60_000.0] * 11)}, acts)
    assert len(diary.trades) == 2
    assert [t.size for t in diary.trades] == [0, 0]


@pytest.mark.parametrize("mode", ["isolated", "cross"])
@pytest.mark.parametrize("currency", ["USDT", "BTC"])
def test_a_loan_of_odd_coins_is_repaid_whole(mode: str, currency: str) -> None:
    def opens(s: Diary) -> None:
        s.buy(data=leg(s, mode), size=0.01234567, leverage=5, margin_currency=currency)

    acts = {1: opens, 2: opens, 3: opens, 6: lambda s: s.close(data=leg(s, mode))}
    for end in (58_000.0, 63_000.0):
        candles = [60_000.0] * 5 + [end] * 6
        free = {"USDT": 0.0, "BTC": 0.0}
        diary = run({SPOT: frame(candles)}, acts, cash={"USDT": 20_000.0, "BTC": 0.1}, interest=free)
        assert not diary.broker.engine.account.positions
        assert diary.getposition(leg(diary, mode)).size == 0
        (trade,) = diary.trades
        assert trade.size == 0


def test_every_owner_is_paid_from_its_own_entry() -> None:
    a = {1: lambda s: s.buy(size=10), 7: lambda s: s.close(size=10)}
    b = {3: lambda s: s.buy(size=10), 5: lambda s: s.sell(size=10)}
    prices = [60_000.0, 60_000, 66_000, 66_000, 72_000, 72_000, 72_000, 72_000, 72_000]
    diary = run({BTC: frame(prices)}, strategies=[a, b], fees=NO_FEES, cash=100_000.0)
    mine, others = (sum(t.pnl for t in d.trades) for d in (diary, diary.others[0]))
    assert (mine, others) == (pytest.approx(1_200), pytest.approx(600))
    assert diary.values[-1] == pytest.approx(101_800)


@pytest.mark.parametrize(("symbol", "cash", "sizes"), [(BTC, {"USDT": 1e5}, (1, 200)), (COIN, {"BTC": 2.0}, (1, 300))])
@pytest.mark.parametrize("seed", range(6))
def test_two_owners_trades_add_up_to_the_account(seed: int, symbol: str, cash: dict, sizes: tuple) -> None:
    rng = random.Random(seed)

    def act(s: Diary) -> None:
        (s.buy if rng.random() < 0.5 else s.sell)(size=rng.randint(*sizes) / 10, tradeid=rng.randint(0, 2))

    def flat(s: Diary) -> None:
        for tradeid, trades in s._trades[s.data].items():
            size = sum(t.size for t in trades)
            if abs(size) > 1e-9:
                (s.sell if size > 0 else s.buy)(size=abs(round(size, 8)), tradeid=tradeid)

    script = dict.fromkeys(range(1, 60, 3), act) | {70: flat}
    currency = next(iter(cash))
    diary = run({symbol: walk(seed, 90, spread=0.01)}, strategies=[script, script], cash=cash, currency=currency)
    everyone = diary.trades + diary.others[0].trades
    assert not diary.broker.engine.account.positions
    total = sum(t.pnlcomm for t in everyone)
    start = cash[currency]
    assert total == pytest.approx(diary.values[-1] - start, abs=1e-7 * start)


@pytest.mark.parametrize("collateral", ["USDT", "BTC"])
def test_an_isolated_loan_reversed_past_its_margin_is_refunded_first(collateral: str) -> None:
    last = frame([60_000.0, 60_000, 60_000, (50_000.0, 60_000.0, 50_000.0, 60_000.0), 60_000, 60_000])
    mark = frame([60_000.0] * 6)
    acts = {1: lambda s: s.buy(data=leg(s), size=0.5, leverage=10, margin_currency=collateral),
            3: lambda s: s.sell(data=leg(s), size=1.0, leverage=10, margin_currency=collateral, reverse=True)}
    diary = run({SPOT: last}, acts, cash={"USDT": 50_000.0, "BTC": 1.0}, feed={SPOT: {"mark": mark}})
    assert "Bankrupt" in [e.name for e in diary.broker.events]
    borrowed = [e for e in diary.broker.ledger if e.kind is EntryKind.BORROW and e.currency == "BTC"]
    assert borrowed  # and the short was opened, to die at a mark of 60,000 itself
    assert len(diary.forced()) == 1


def test_the_rest_of_a_stop_limit_met_in_this_bar_rests_at_the_venue() -> None:
    acts = {1: lambda s: s.buy(size=40, exectype=bt.Order.StopLimit, price=60_500, plimit=61_200)}
    diary = run({BTC: frame([60_000, 60_000, (60_000.0, 61_000.0, 60_000.0, 60_900.0), (65_000.0,) * 4, 65_000])}, acts,
                filler=bt.broker.fillers.FixedSize(size=10))
    assert diary.orders[-1].getstatusname() == "Partial"
    assert [o.size for o in diary.broker.engine.account.orders.values()] == [30.0]


def test_strict_runs_on_marks_an_index_and_the_worth_of_usdt() -> None:
    data = frame([60_000.0] * 4)
    usdt = frame([1.0, 1.0, 0.998, 0.999])
    diary = run({BTC: data, "USDT/USD": usdt}, {1: lambda s: s.buy(data=s.datas[0], size=10)}, strict=True,
                feed={BTC: {"mark": data, "index": data["close"]}})
    assert diary.broker.engine.equity_usd() == pytest.approx(diary.values[-1] * 0.999)
    assert diary.broker.engine.account.positions
    with pytest.raises(InputError, match="cannot be traded"):
        run({BTC: data, "USDT/USD": usdt}, {1: lambda s: s.buy(data=s.datas[1], size=10)})


def test_numbers_of_numpy_are_numbers() -> None:
    acts = {1: lambda s: s.buy(size=np.int64(5), leverage=np.float64(4)), 2: lambda s: s.buy(size=np.float32(2.5))}
    diary = run({BTC: frame([60_000.0] * 4)}, acts)
    assert diary.position.size == 7.5
    assert len(diary.position) == 8
