"""Defects that a review found in resting orders and in how prices go along a leg, each held by what showed it."""

from __future__ import annotations

import pytest

from bt_margin.engine.engine import MarginEngine
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.rules.book import load_rules

TIME = 1_750_000_000_000
BOOK = load_rules("okx")
BTC, ETH, PAIR = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
OPTION = "BTC/USD:BTC-241227-100000-C"
INDEXES = {"USDT/USD": 1.0, "BTC/USDT": 100_000.0, "BTC/USD": 100_000.0, "ETH/USDT": 2_500.0, "ETH/USD": 2_500.0}


@pytest.mark.parametrize("mode", ["isolated", "cross", "multi-currency", "portfolio"])
@pytest.mark.parametrize("gone", [1, 2])
def test_an_order_that_goes_takes_its_currency_along(mode: str, gone: int) -> None:
    account = Account({"USDT": 1e5, "BTC": 1.0})
    engine = MarginEngine(account, mode_named(mode), BOOK, Market(TIME, {}, {PAIR: 100_000.0}, INDEXES))
    pair = engine.rules.instrument(PAIR)
    for order_id, currency in ((1, "USDT"), (2, "BTC")):
        account.place(Order(order_id, pair, "buy", 0.01, 90_000.0, "isolated", leverage=3.0, margin_currency=currency))
    engine.cancel(gone)
    (queue,) = account.resting.queues
    assert queue.currencies == {order.currency for order in queue.orders} == {"BTC" if gone == 1 else "USDT"}
    assert engine.available("USDT") > 0


@pytest.mark.parametrize("mode", ["cross", "multi-currency"])
@pytest.mark.parametrize("sells", [False, True])
def test_the_largest_relief_counts_the_orders_that_stay(mode: str, sells: bool) -> None:
    """A sale that opens nothing while the position is there opens when it is gone, and asks for maintenance margin."""
    prices = {BTC: 100_000.0, ETH: 2_500.0}
    market, rules = Market(TIME, prices, prices, INDEXES), BOOK.as_of(TIME, "nearest")
    account = Account({"USDT": 300.0})
    btc, eth = rules.instrument(BTC), rules.instrument(ETH)
    account.adopt(Position(btc, "cross", "net", 100.0, 100_000.0, 50.0))
    account.adopt(Position(eth, "cross", "net", 350.0, 2_500.0, 50.0))
    if sells:
        account.place(Order(1, btc, "sell", 100.0, 120_000.0, "cross", leverage=50.0))
    chosen = mode_named(mode)
    (pool,) = (pool for pool in chosen.pools(account) if pool.positions)
    (largest,) = (step for step in chosen.ladder if "relief" in repr(step))
    assert largest(pool, market, rules)[0].key.symbol == (ETH if sells else BTC)


@pytest.mark.parametrize("heard", ["forward", "future"])
def test_an_option_does_not_jump_where_its_forward_is_first_heard(heard: str) -> None:
    stem = OPTION.rsplit("-", 2)[0]
    start = Market(0, {OPTION: 0.1}, {OPTION: 0.1}, {"BTC/USD": 100.0})
    marks, forwards = ({OPTION: 0.1}, {stem: 80.0}) if heard == "forward" else ({OPTION: 0.1, stem: 80.0}, {})
    end = Market(1_000, marks, {OPTION: 0.1}, {"BTC/USD": 80.0}, forwards=forwards)
    assert [start.toward(end, share).marks[OPTION] for share in (0.0, 0.5, 0.999)] == pytest.approx([0.1] * 3)


def test_a_plain_asset_may_be_called_like_an_option() -> None:
    start, end = (Market(time, {}, {"BRK-P": price}) for time, price in ((0, 10.0), (1_000, 20.0)))
    assert start.toward(end, 0.5).lasts == {"BRK-P": 15.0}
