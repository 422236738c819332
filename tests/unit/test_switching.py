"""Changing the account mode with positions open: what the venue lets, by date, and what it would say."""

from __future__ import annotations

from collections.abc import Mapping

import backtrader as bt
import pytest

from bt_margin import MarginBroker
from bt_margin.engine.builder import parse_time
from bt_margin.engine.clock import ModeSwitch
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.errors import InputError
from bt_margin.model.account import Account, Order
from bt_margin.model.market import Market
from bt_margin.modes import MODES
from bt_margin.plugin import feeds
from bt_margin.rules.book import load_rules

SWAP, SPOT = "BTC/USDT:USDT", "BTC/USDT"
NOW, THEN = "2025-02-01", "2023-11-25"  # with, and without, switching while positions are open


def engine(mode: str, cash: Mapping[str, float], day: str = NOW, hedge: bool = False) -> MarginEngine:
    market = Market(parse_time(day, "day"), {SWAP: 100_000.0}, {SWAP: 100_000.0, SPOT: 100_000.0},
                    {SPOT: 100_000.0, "USDT/USD": 1.0})
    return MarginEngine(Account(dict(cash), "hedge" if hedge else "net"), MODES[mode], load_rules("okx"), market)


def trade(at: MarginEngine, symbol: str, side: str, size: float, **more: object) -> None:
    instrument = at.rules.instrument(symbol)
    kind = ("cross" if at.mode.whole else "cash") if instrument.is_spot else "cross"
    leverage = 1.0 if at.mode.name == "portfolio" or instrument.is_spot else 10.0
    order = Order(1 + len(at.account.ledger), instrument, side, size, None, **{
        "margin_mode": kind, "leverage": leverage, **more})  # type: ignore[arg-type]
    answer = at.fill(order, size, 100_000.0)
    assert not isinstance(answer, Refusal), answer.reason


@pytest.mark.parametrize("old", list(MODES))
@pytest.mark.parametrize("new", list(MODES))
def test_a_position_goes_with_the_account_from_any_mode_to_any_other(old: str, new: str) -> None:
    at = engine(old, {"USDT": 200_000.0})
    trade(at, SWAP, "buy", 50.0)
    money = dict(at.account.balances)
    answer = at.switch_mode(MODES[new], leverage=10.0)
    assert answer.accepted, answer.reasons
    assert (answer.before.mode, at.mode.name, at.events[-1].name) == (old, new, "ModeSwitched")
    assert answer.after is not None
    assert answer.after.account.equity_usd == pytest.approx(answer.before.account.equity_usd, rel=1e-12)
    assert at.account.balances == money
    (position,) = at.account.positions.values()
    assert (position.size, position.leverage) == (50.0, 10.0)
    if {old, new} == {"cross", "portfolio"}:  # margin before and after are told
        assert answer.after.account.initial_margin_usd != answer.before.account.initial_margin_usd
    assert not any(abs(gap) > 1e-9 for gap in at.account.conservation_gap().values())


def test_before_december_2024_the_book_had_to_be_flat() -> None:
    at = engine("cross", {"USDT": 200_000.0}, THEN)
    assert at.switch_mode(MODES["multi-currency"]).accepted
    trade(at, SWAP, "buy", 50.0)
    answer = at.switch_mode(MODES["cross"])
    assert (answer.accepted, answer.after, at.mode.name) == (False, None, "multi-currency")
    assert "flat book" in answer.reasons[0]


def test_the_reasons_of_a_refusal_are_all_told() -> None:
    at = engine("multi-currency", {"BTC": 0.05}, NOW, hedge=True)
    trade(at, SWAP, "buy", 1.0, position_side="long")
    at.account.place(Order(99, at.rules.instrument(SWAP), "buy", 1.0, 90_000.0, "cross", "long", 10.0))
    found = " | ".join(at.switch_mode(MODES["portfolio"]).reasons)
    for part in ("orders rest", "needs an account of 10,000 USD", "one-way"):
        assert part in found
    assert at.mode.name == "multi-currency"


def test_a_debt_and_a_currency_without_margin_keep_an_account_out_of_single_currency_margin() -> None:
    at = engine("multi-currency", {"BTC": 2.0})
    trade(at, SPOT, "buy", 0.1)
    assert any("USDT is owed" in why for why in at.switch_mode(MODES["cross"]).reasons)
    short = engine("multi-currency", {"BTC": 2.0, "USDT": 100.0})
    trade(short, SWAP, "buy", 10.0)
    answer = short.switch_mode(MODES["cross"])
    assert answer.after is not None  # judged, and found short
    assert any("short of initial margin in cross" in why for why in answer.reasons)


def test_leaving_portfolio_margin_asks_for_a_leverage_that_the_tiers_allow() -> None:
    at = engine("portfolio", {"USDT": 200_000.0})
    trade(at, SWAP, "buy", 50.0)
    assert "one leverage setting" in at.switch_mode(MODES["cross"]).reasons[0]
    assert "tiers do not allow" in at.switch_mode(MODES["cross"], leverage=1_000.0).reasons[0]
    assert at.switch_mode(MODES["cross"], leverage=20.0).accepted
    (position,) = at.account.positions.values()
    assert position.leverage == 20.0


class Carry(bt.Strategy):
    """Coins bought and the perpetual sold; the coins are sold again near the end."""

    def next(self) -> None:
        coins, swap = self.datas
        if len(self) == 2:
            self.buy(data=coins, size=0.5)
            self.sell(data=swap, size=50)
        if len(self) == 150:
            self.close(data=coins)
            self.close(data=swap)


def test_a_scripted_switch_in_cerebro_keeps_positions_and_closes_trades() -> None:
    start = parse_time("2025-10-05", "start")
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(
        mode="cross", cash={"USDT": 200_000.0}, leverage=5,
        switches=[ModeSwitch(start + 40 * 3_600_000, "portfolio"), ModeSwitch(start + 90 * 3_600_000, "cross", 10.0)],
    )
    for feed in feeds.from_samples("2025-10-10", [SPOT, SWAP]):
        cerebro.adddata(feed)
    cerebro.addstrategy(Carry)
    cerebro.addanalyzer(bt.analyzers.TradeAnalyzer, _name="trades")
    for _ in range(2):  # a second run begins in the first mode again
        (done,) = cerebro.run()
        broker = cerebro.broker
        switched = [e for e in broker.events if e.name == "ModeSwitched"]
        assert [(e.old, e.new, e.reasons) for e in switched] == [("cross", "portfolio", ()), ("portfolio", "cross", ())]
        assert not broker.getposition(done.datas[0]).size
        assert not broker.getposition(done.datas[1]).size
        assert done.analyzers.trades.get_analysis().total.closed == 2
        assert abs(broker.engine.account.balance("BTC")) < 1e-9


def test_an_unknown_mode_in_a_script_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="mode: expected one of"):
        MarginBroker(mode="cross", switches=[ModeSwitch(0, "folio")])


class Reverse(bt.Strategy):
    """Buys before the account mode changes, closes after it."""

    def next(self) -> None:
        if len(self) == 2:
            self.buy(size=50)
        if len(self) == 100:
            self.buy(size=10)
        if len(self) == 150:
            self.close()


@pytest.mark.parametrize(("old", "new"), [("isolated", "cross"), ("isolated", "portfolio"), ("cross", "isolated"),
                                          ("portfolio", "cross")])
def test_what_was_open_before_a_switch_is_what_close_closes(old: str, new: str) -> None:
    start = parse_time("2025-10-05", "start")
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode=old, cash=200_000.0, leverage=10,
                                  switches=[ModeSwitch(start + 40 * 3_600_000, new, 10.0)])
    for feed in feeds.from_samples("2025-10-10", [SWAP]):
        cerebro.adddata(feed)
    cerebro.addstrategy(Reverse)
    (done,) = cerebro.run()
    assert not [e for e in cerebro.broker.events if e.name == "Refused"]
    assert not cerebro.broker.engine.account.positions
    assert not cerebro.broker.getposition(done.data).size


def test_choices_about_borrowing_and_interest_due_go_along() -> None:
    at = engine("multi-currency", {"BTC": 2.0, "USDT": 50_000.0})
    at.account.accrued["USDT"] = 0.5
    assert at.switch_mode(MODES["cross"]).accepted
    assert at.account.balance("USDT") == 49_999.5
    assert not at.account.accrued["USDT"]
    MarginBroker(mode="cross", cash=1e5, borrow={"auto": False}, switches=[ModeSwitch(0, "multi-currency")])
    with pytest.raises(InputError, match="borrow"):
        MarginBroker(mode="cross", cash=1e5, borrow={"auto": False})


def test_a_mode_that_cannot_judge_the_account_refuses_it() -> None:
    at = engine("cross", {"USDT": 50_000.0, "XYZ": 10.0})
    at.market = Market(at.market.time, at.market.marks, at.market.lasts, {**at.market.indexes, "XYZ/USD": 1.0})
    answer = at.switch_mode(MODES["multi-currency"])
    assert (answer.accepted, answer.after, at.events[-1].name) == (False, None, "ModeSwitched")
    assert "discounts: XYZ" in answer.reasons[0]
    hedged = engine("cross", {"USDT": 50_000.0}, hedge=True)
    assert "hedge mode" in hedged.switch_mode(MODES["portfolio"]).reasons[0]


def test_an_isolated_position_in_portfolio_margin_has_its_own_limits() -> None:
    at = engine("portfolio", {"USDT": 1e6})
    def asked(size: float, leverage: float, e: MarginEngine = at) -> str:
        answer = e.check(Order(7, e.rules.instrument(SWAP), "buy", size, None, "isolated", "net", leverage))
        return answer.reason if isinstance(answer, Refusal) else ""

    assert "59102" in asked(100.0, 500.0)
    assert asked(10.0, 10.0) == ""
    assert "available balance" in asked(100.0, 10.0, engine("portfolio", {"BTC": 10.0}))
