"""The gate of multi-currency margin: what is refused, why, and the largest size that would have been taken."""

from __future__ import annotations

import math

import pytest

from bt_margin.engine.builder import parse_time
from bt_margin.engine.engine import MarginEngine, Refusal
from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.modes.multi_currency import early_cancellation, early_spare
from tests.unit.whole import (
    ETHSWAP,
    INDEX,
    OKX,
    PAIR,
    PAPER,
    SWAP,
    conserved,
    engine,
    events,
    moved,
    order,
    refused,
    rest,
    trade,
)


def fits_exactly(e, symbol: str, side: str, size: float, **more) -> Refusal:
    """The refusal; the largest size it names passes, and one lot more does not."""
    no = refused(e, symbol, side, size, **more)
    lot = e.rules.instrument(symbol).lot
    assert 0 < no.largest_size < size
    assert not isinstance(e.check(order(e, symbol, side, no.largest_size, **more)), Refusal)
    assert isinstance(e.check(order(e, symbol, side, no.largest_size + lot, **more)), Refusal)
    return no


def test_the_largest_size_of_every_product_is_the_largest() -> None:
    e = engine({"BTC": 0.1, "USDT": 2_000.0})
    assert "initial margin (51008)" in fits_exactly(e, SWAP, "buy", 5_000).reason
    assert "initial margin (51008)" in fits_exactly(e, PAIR, "buy", 0.8).reason
    assert "tier limit at leverage 10" in fits_exactly(e, PAIR, "sell", 4.0).reason
    assert "tier limit at leverage 10" in fits_exactly(engine({"BTC": 1.0}), PAIR, "buy", 5.0).reason
    assert "51004" in fits_exactly(e, ETHSWAP, "sell", 60_000, leverage=50).reason
    poor = engine({"USDT": 1_000.0})  # the tiers would allow 500, margin does not
    assert fits_exactly(poor, ETHSWAP, "sell", 60_000, leverage=50).largest_size < 200


def test_the_largest_contract_by_hand() -> None:
    """54,000 + 10,000 adjusted; a contract of 600 USDT at 10x takes 60 and a fee of 0.30."""
    e = engine({"BTC": 1.0, "USDT": 10_000.0})
    assert fits_exactly(e, SWAP, "buy", 5_000).largest_size == pytest.approx(int(64_000 / 60.3 * 100) / 100)


def test_the_largest_spot_order_by_hand() -> None:
    """Selling s BTC that are not held: adjusted equity 20,000 - 60 s, initial margin 6,000 s."""
    e = engine({"USDT": 9_000.0})
    no = fits_exactly(e, PAIR, "sell", 2.0)
    assert no.largest_size == pytest.approx(9_000 / (6_000 + 60), abs=1e-7)


def test_a_lower_leverage_of_a_currency_needs_more_margin_and_reaches_a_higher_tier() -> None:
    high, low = engine({"USDT": 300_000.0}), engine({"USDT": 300_000.0}, leverage={"BTC": 5.0})
    assert "tier limit at leverage 10" in refused(high, PAIR, "sell", 3.0).reason
    trade(low, PAIR, "sell", 3.0)
    assert low.assess().account.initial_margin_usd == pytest.approx(180_000 / 5)
    assert "tier limit at leverage 5" in fits_exactly(low, PAIR, "sell", 3.0).reason


def test_orders_that_rest_count_toward_the_limit() -> None:
    e = engine({"USDT": 300_000.0})
    rest(e, PAIR, "sell", 1.5, 61_000.0)
    no = fits_exactly(e, PAIR, "sell", 1.0)
    assert no.largest_size == pytest.approx(0.5)


def test_the_limit_of_the_account_binds() -> None:
    deep = PAPER.overlay(borrow_tiers={"USDT": [[1e9, 0.02, 0.1]]})
    e = engine({"BTC": 90.0}, book=deep)
    no = fits_exactly(e, PAIR, "buy", 20.0)
    assert "500,000, the borrow limit of the account" in no.reason
    assert no.largest_size == pytest.approx(500_000 / 60_000, abs=1e-8)


def test_a_coin_without_borrow_tiers_is_not_lent_and_one_without_a_discount_raises() -> None:
    prices = {"SOL/USDT": 200.0, "NOPE/USDT": 1e-5}
    e = engine({"USDT": 10_000.0}, prices=prices, index={**prices, "USDT/USD": 1.0}, book=OKX)
    no = refused(e, "SOL/USDT", "sell", 1.0)
    assert "SOL cannot be borrowed" in no.reason
    assert no.currency == "SOL"
    with pytest.raises(NoRuleInForce, match="NOPE"):
        e.check(order(e, "NOPE/USDT", "buy", 1e6))


def test_reduce_only_is_not_for_spot_and_isolated_ended_in_july() -> None:
    e = engine({"USDT": 50_000.0, "BTC": 1.0})
    assert "51133" in refused(e, PAIR, "sell", 1.0, reduce=True).reason
    before, after = (engine({"USDT": 10_000.0, "BTC": 1.0}, time=parse_time(f"2025-07-{day}", "")) for day in (29, 30))
    assert "50072" in refused(after, SWAP, "buy", 10, mode="isolated").reason
    trade(before, SWAP, "buy", 10, mode="isolated")
    assert next(iter(before.account.positions.values())).margin == pytest.approx(600.0)
    no = refused(before, SWAP, "buy", 500, mode="isolated")  # 30,000 and the fee against the balance of USDT alone
    assert (no.currency, "available balance" in no.reason) == ("USDT", True)
    moved(before, jump=True, btc=50_000.0)
    (taken,) = events(before, "TakenOver")
    assert taken.pool == f"{SWAP} isolated"
    assert before.account.balance("USDT") == pytest.approx(10_000 - 600 - 3)
    conserved(before)


def test_a_bought_option_is_paid_from_the_balance_not_on_credit() -> None:
    option = "BTC/USD:BTC-251226-70000-C"
    prices = {option: 0.05, PAIR: 60_000.0}
    index = {PAIR: 60_000.0, "BTC/USD": 60_000.0, "USDT/USD": 1.0}
    e = engine({"USDT": 100_000.0, "BTC": 0.004}, prices=prices, index=index)
    no = fits_exactly(e, option, "buy", 100)  # 0.0005 BTC a contract
    assert (no.currency, "available balance" in no.reason) == ("BTC", True)
    assert no.largest_size == 7.0  # premium 0.0035 and fees


def test_without_auto_borrow_the_coin_itself_has_to_be_there() -> None:
    e = engine({"USDT": 110_000.0, "BTC": 1.0}, auto=False)
    assert "available balance of BTC" in refused(e, PAIR, "sell", 1.5).reason
    assert refused(e, PAIR, "buy", 2.0).shortfall == pytest.approx(10_000.0)
    trade(engine({"USDT": 110_000.0}), PAIR, "buy", 2.0)  # with it: a debt of 10,000
    e = engine({"BTC": 1.0}, auto=False)
    assert "available equity of USDT" in refused(e, SWAP, "buy", 1).reason


def test_without_auto_borrow_an_order_asks_for_what_it_opens_behind_those_before_it() -> None:
    """A first sale uses the long up, so that a second one opens whole; one that trades now meets the long itself."""
    e = engine({"USDT": 8_000.0, "BTC": 1.0}, auto=False)
    trade(e, SWAP, "buy", 100)  # 6,000 of margin, 30 of fee
    assert not isinstance(e.check(order(e, SWAP, "sell", 200, price=61_000.0)), Refusal)  # opens 100: 6,100
    rest(e, SWAP, "sell", 100, 61_000.0)
    no = refused(e, SWAP, "sell", 200, price=61_000.0)
    assert "available equity of USDT" in no.reason
    assert no.shortfall == pytest.approx(12_200.0 - 7_970.0)
    trade(e, SWAP, "sell", 200)


def test_a_settlement_currency_out_of_the_collateral_opens_no_contract() -> None:
    """A coin switched off is for spot only: a cross contract that settles in it is refused (54024)."""
    e = engine({"BTC": 2.0, "USDT": 5_000.0}, off=("USDT",))
    assert "54024" in refused(e, SWAP, "buy", 1).reason
    assert "54024" in refused(e, SWAP, "buy", 1, price=50_000.0).reason


def test_a_coin_out_of_the_collateral_is_not_borrowed() -> None:
    e = engine({"USDT": 50_000.0, "BTC": 1.0}, off=("BTC",))
    trade(e, PAIR, "sell", 0.5)
    assert "collateral" in refused(e, PAIR, "sell", 1.0).reason
    assert e.account.balance("BTC") == 0.5


def test_a_withdrawal_leaves_what_backs_the_account() -> None:
    e = engine({"BTC": 1.0, "USDT": 1_000.0})
    trade(e, SWAP, "buy", 400)  # needs 24,000 of 54,000 + 1,000
    free = e.transferable("BTC")
    with pytest.raises(InputError, match="withdrawn"):
        e.deposit("BTC", -free * 1.0001)
    e.deposit("BTC", -free)
    report = e.assess().account
    assert report.adjusted_equity_usd >= report.initial_margin_usd - 1e-6


# -- how far risk control is from taking orders away ---------------------------------------------------------------


def spare(e: MarginEngine) -> float:
    return float(early_spare(e.account_pool(), e.market, e.rules))


def test_what_is_left_before_orders_go_by_hand() -> None:
    """Adjusted equity less maintenance margin, initial margin of opening orders and their fees, in USD (section 7)."""
    e = engine({"USDT": 10_000.0}, index={**INDEX, "USDT/USD": 0.5})
    assert spare(e) == math.inf
    trade(e, SWAP, "buy", 10)  # 6,000 USDT, fee 3
    rest(e, SWAP, "buy", 10, 50_000.0)  # 5,000 USDT, margin 500, fee 2.50, which equity does without as well
    maintenance = 0.01 * (6_000 + 6_000)
    assert spare(e) == pytest.approx(0.5 * (10_000 - 3 - 2.5 - maintenance - 2.5 - 500))
    assert early_cancellation(e.account_pool(), e.market, e.rules) == ()


def test_the_nearest_test_counts_and_only_what_orders_are_paid_in_is_asked() -> None:
    balances = {"USDT": 100.0, "BTC": 1.0}
    e = engine(balances, auto=False)
    trade(e, SWAP, "buy", 1)
    rest(e, SWAP, "buy", 1, 50_000.0)
    before = spare(e)
    assert before > 50_000.0  # a contract at cross asks nothing of the 99 USDT there are
    rest(e, PAIR, "sell", 0.4, 61_000.0)
    assert spare(e) == pytest.approx(0.6)  # of a coin
    assert early_cancellation(e.account_pool(), e.market, e.rules) == ()
    e = engine(balances)  # with auto-borrow a spot order may be paid on credit, and nothing is asked of the coin
    trade(e, SWAP, "buy", 1)
    rest(e, PAIR, "sell", 0.4, 61_000.0)
    rest(e, PAIR, "sell", 0.4, 61_000.0, mode="cash")
    assert spare(e) > 30_000.0


def test_isolated_orders_are_paid_by_their_coin_alone() -> None:
    """Until July 2025. They reserve for what they open, not for what closes their position."""
    e = engine({"USDT": 1_000.0, "BTC": 1.0}, time=parse_time("2025-07-01", ""))
    trade(e, SWAP, "buy", 10, mode="isolated")  # 600 and a fee of 3
    trade(e, SWAP, "buy", 1)
    closing = rest(e, SWAP, "sell", 10, 61_000.0, mode="isolated")
    assert not e.account_pool().orders
    rest(e, SWAP, "sell", 5, 61_000.0, mode="isolated")
    (opening,) = e.account_pool().orders
    assert (opening.size, closing.size) == (5.0, 10.0)
    assert spare(e) == pytest.approx(1_000 - 603 - 0.3 - 305)
    e = engine({"USDT": 2_000.0}, time=parse_time("2025-07-01", ""))
    trade(e, SWAP, "buy", 100, leverage=50)  # a maintenance margin of 600 and a fee of 30
    rest(e, SWAP, "buy", 5, 59_000.0, mode="isolated")
    assert spare(e) == pytest.approx(2_000 - 30 - 295)  # the account is not asked: isolated risk is its own
