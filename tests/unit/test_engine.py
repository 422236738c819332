"""The engine at its edges: gaps, dust, refusals, pools side by side, rules that change on the way."""

from __future__ import annotations

import numpy as np
import pytest

from bt_margin.engine.accrual import FundingSeries, settlements
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.errors import InputError, MissingPrice
from bt_margin.model.account import Account, Order
from bt_margin.model.instrument import Instrument, Kind, parse
from bt_margin.model.ledger import EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.rules.book import load_rules

BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
TIME = 1_760_000_000_000 // 28_800_000 * 28_800_000
PRICES = {BTC: 60_000.0, ETH: 3_000.0, SPOT: 60_000.0}


def engine(mode: str = "cross", cash: float = 10_000.0, time: int = TIME, hedge: bool = False, **more) -> MarginEngine:
    account = Account({"USDT": cash}, "hedge" if hedge else "net")
    return MarginEngine(account, mode_named(mode), load_rules("okx"), Market(time, PRICES, PRICES), **more)


def order(
    e: MarginEngine,
    symbol: str,
    side: str,
    size: float,
    mode: str,
    *,
    id_: int = 1,
    price=None,
    leg="net",
    leverage: float = 10.0,
    reduce: bool = False,
) -> Order:
    return Order(id_, e.rules.instrument(symbol), side, size, price, mode, leg, leverage, reduce)


def trade(e: MarginEngine, symbol: str, side: str, size: float, mode: str, **more) -> Fill:
    fill = e.fill(order(e, symbol, side, size, mode, **more), size, PRICES[symbol])
    assert isinstance(fill, Fill), fill
    return fill


def moved(e: MarginEngine, jump: bool = False, ms: int = 1, **prices: float) -> None:
    now = {**e.market.marks, **{{"btc": BTC, "eth": ETH, "spot": SPOT}[k]: v for k, v in prices.items()}}
    e.advance(Market(e.market.time + ms, now, now), jump=jump)


def test_an_isolated_death_leaves_the_cross_pool_alone() -> None:
    e = engine()
    trade(e, BTC, "buy", 50, "isolated")
    trade(e, ETH, "buy", 1, "cross", id_=2)
    before = e.account.balance("USDT")
    moved(e, btc=40_000.0)
    assert [x.name for x in e.events if x.pool.endswith("isolated")] == ["Warned", "Reduced", "TakenOver"]
    assert next(iter(e.account.positions)).symbol == ETH
    assert e.account.balance("USDT") == pytest.approx(before, abs=1e-6)


def test_orders_that_add_risk_go_first_and_may_save_the_pool() -> None:
    e = engine(cash=10_000.0)
    trade(e, BTC, "buy", 100, "cross")
    assert not isinstance(e.accept(order(e, BTC, "buy", 20, "cross", id_=2, price=40_000.0)), Refusal)
    assert not isinstance(e.accept(order(e, BTC, "sell", 100, "cross", id_=3, price=70_000.0, reduce=True)), Refusal)
    moved(e, btc=50_280.0)
    names = [x.name for x in e.events]
    assert names == ["Warned", "OrdersCancelled"]  # without the order the ratio is above 1 again
    assert list(e.account.orders) == [3]  # the closing order stays
    assert e.account.positions


def test_hedged_pairs_are_closed_against_each_other_first() -> None:
    e = engine(hedge=True, cash=2_000.0)
    trade(e, BTC, "buy", 20, "cross", leg="long", leverage=100.0)
    trade(e, BTC, "sell", 5, "cross", leg="short", id_=2, leverage=100.0)
    moved(e, btc=46_000.0)
    steps = [x.step for x in e.events if x.name == "Reduced"]  # type: ignore[attr-defined]
    assert steps[:2] == ["hedged pair", "hedged pair"]


def test_cross_goes_down_one_tier_and_stops_when_safe() -> None:
    e = engine(cash=1_000_000.0)
    trade(e, BTC, "buy", 4_000, "cross", leverage=20.0)  # 40 BTC: tier 2, above 1,000 contracts
    moved(e, jump=True, btc=35_220.0)
    reduced = [x for x in e.events if x.name == "Reduced"]
    assert [(x.size, x.remaining) for x in reduced] == [(-3000.0, 1000.0)]  # type: ignore[attr-defined]
    (position,) = e.account.positions.values()
    assert position.size == 1_000.0
    assert not [x for x in e.events if x.name == "TakenOver"]
    penalty = next(x for x in e.account.ledger if x.kind is EntryKind.PENALTY)
    assert penalty.fund == pytest.approx(3_000 * 0.01 * 35_220.0 * 0.005)  # the tier the closed 3,000 fall in


def test_two_coins_first_the_one_that_frees_the_most() -> None:
    e = engine(cash=13_500.0)
    trade(e, BTC, "buy", 100, "cross", leverage=50.0)
    trade(e, ETH, "buy", 1_000, "cross", leverage=50.0, id_=2)
    moved(e, jump=True, btc=57_000.0, eth=2_910.0)
    assert next(x for x in e.events if x.name == "Reduced").key.symbol == ETH  # type: ignore[attr-defined]


def test_a_jump_makes_a_deficit_a_leg_does_not() -> None:
    for jump in (False, True):
        e = engine()
        trade(e, BTC, "buy", 100, "cross")
        moved(e, jump=jump, btc=600.0)  # 99 % down
        assert bool([x for x in e.events if x.name == "Bankrupt"]) is jump
        assert e.account.balance("USDT") == pytest.approx(0.0, abs=1e-6)


def test_slippage_is_the_users() -> None:
    e = engine(slippage=0.01)
    trade(e, BTC, "buy", 100, "isolated")
    moved(e, btc=50_000.0)
    forced = next(x for x in e.events if x.name == "Reduced")
    assert forced.price == pytest.approx(54_244.1 * 0.99, abs=0.1)  # type: ignore[attr-defined]
    assert [x for x in e.events if x.name == "Bankrupt"]


def test_orders_reserve_and_refusals_say_how_much() -> None:
    e = engine(cash=1_000.0)
    answer = e.accept(order(e, BTC, "buy", 100, "cross"))  # 1 BTC at 10x needs 6,030
    assert isinstance(answer, Refusal)
    assert answer.shortfall == pytest.approx(5_030.0)
    assert answer.largest_size == pytest.approx(16.58)
    assert e.events[-1].name == "Refused"
    assert not isinstance(e.accept(order(e, BTC, "buy", 16.58, "cross", price=60_000.0, id_=2)), Refusal)
    assert isinstance(e.accept(order(e, BTC, "buy", 0.01, "cross", id_=3)), Refusal)
    assert isinstance(e.accept(order(e, SPOT, "buy", 0.001, "cash", id_=4)), Refusal)
    e.cancel(2)
    assert not isinstance(e.accept(order(e, SPOT, "buy", 0.01, "cash", id_=5)), Refusal)


def test_unrealised_profit_opens_derivatives_but_buys_no_spot() -> None:
    e = engine(cash=1_000.0)
    trade(e, BTC, "buy", 10, "cross")
    moved(e, btc=120_000.0, spot=120_000.0)  # 6,000 of profit
    assert not isinstance(e.check(order(e, BTC, "buy", 10, "cross", id_=2)), Refusal)
    assert isinstance(e.check(order(e, SPOT, "buy", 0.02, "cash", id_=3)), Refusal)  # 2,400 against 997 in cash
    assert isinstance(e.check(order(e, ETH, "buy", 200, "isolated", id_=4, leverage=2.0)), Refusal)


def test_spot_pays_its_fee_in_coins_and_sells_what_is_there() -> None:
    e = engine(cash=60_000.0)
    fill = trade(e, SPOT, "buy", 1.0, "cash")
    assert fill.opened == pytest.approx(0.999)
    assert e.account.balance("BTC") == pytest.approx(0.999)
    assert e.account.balance("USDT") == 0.0
    assert isinstance(e.check(order(e, SPOT, "sell", 1.0, "cash", id_=2)), Refusal)
    trade(e, SPOT, "sell", 0.999, "cash", id_=3)
    assert e.account.balance("BTC") == 0.0
    assert e.account.balance("USDT") == pytest.approx(60_000 * 0.999 * 0.999)
    assert max(map(abs, e.account.conservation_gap().values())) < 1e-9


def test_funding_before_july_2024_stops_at_a_ratio_of_one() -> None:
    early = 1_667_865_600_000  # 2022-11-08
    for mode in ("cross", "isolated"):
        e = engine(
            mode,
            cash=7_000.0,
            time=early,
            funding={BTC: FundingSeries(np.array([early + 28_800_000]), np.array([0.5]))},
        )
        trade(e, BTC, "buy", 100, mode)
        moved(e, ms=28_800_000)
        ratio = e.assess().positions[0].margin_ratio
        assert ratio == pytest.approx(1.0, rel=1e-6)
        assert not [x for x in e.events if x.name == "Reduced"]
        paid = -sum(x.total for x in e.account.ledger if x.kind is EntryKind.FUNDING)
        assert 0 < paid < 30_000


def test_missing_settlements_are_counted_never_silent() -> None:
    e = engine()
    trade(e, BTC, "buy", 1, "cross")
    moved(e, ms=3 * 28_800_000)
    assert e.funding_due[BTC] == 3
    assert "0 of 3 settlements" in e.warnings()[0]
    strict = engine(strict=True)
    trade(strict, BTC, "buy", 1, "cross")
    with pytest.raises(MissingPrice, match="funding"):
        moved(strict, ms=28_800_000)


def test_settlements_follow_the_data_and_the_clock() -> None:
    hour = 3_600_000
    series = FundingSeries(np.array([8 * hour + 900, 12 * hour]), np.array([0.01, 0.02]))
    assert list(settlements(series, 8, 0, 24 * hour)) == [
        (8 * hour + 900, 0.01),
        (12 * hour, 0.02),
        (16 * hour, None),
        (24 * hour, None),
    ]
    assert list(settlements(None, 8, 0, 8 * hour)) == [(8 * hour, None)]
    assert list(settlements(series, 8, 8 * hour, 8 * hour)) == []
    with pytest.raises(InputError):
        FundingSeries(np.array([2, 1]), np.array([0.1, 0.1]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -5.0])
def test_a_price_that_is_none_raises(bad: float) -> None:
    e = engine()
    trade(e, BTC, "buy", 1, "cross")
    with pytest.raises(MissingPrice):
        e.fill(order(e, BTC, "buy", 1, "cross", id_=2), 1, bad)
    if bad != bad:
        with pytest.raises(MissingPrice):
            moved(e, btc=bad)


def test_time_does_not_run_backwards() -> None:
    e = engine()
    with pytest.raises(InputError, match="backwards"):
        e.advance(Market(TIME - 1, PRICES, PRICES))


def test_withdrawals_leave_what_is_used() -> None:
    e = engine()
    trade(e, BTC, "buy", 100, "cross")
    with pytest.raises(InputError, match="withdrawn"):
        e.deposit("USDT", -5_000.0)
    e.deposit("USDT", -3_900.0)
    assert e.account.balance("USDT") == pytest.approx(6_070.0)


def test_symbols_say_what_they_are() -> None:
    for symbol, kind, expiry in (
        ("BTC/USD:BTC", Kind.INVERSE_SWAP, None), ("BTC/USDT:USDT-250328", Kind.LINEAR_FUTURE, 1_743_148_800_000),
        ("BTC/USD:BTC-250328", Kind.INVERSE_FUTURE, 1_743_148_800_000),
        ("BTC/USD:BTC-250328-100000-C", Kind.OPTION, 1_743_148_800_000),
    ):
        parts = parse(symbol)
        instrument = Instrument(symbol, parts.kind, parts.base, parts.quote, parts.settle, 0.01)
        assert (parts.kind, instrument.expiry_ms) == (kind, expiry)
        assert instrument.payoff is not None
    with pytest.raises(InputError):
        parse("btc-usdt")
    with pytest.raises(InputError):
        parse("BTC/USDT:EUR")


def test_sizes_are_whole_lots_without_dust() -> None:
    swap = Instrument(BTC, Kind.LINEAR_SWAP, "BTC", "USDT", "USDT", 0.01, 0.1, 0.01)
    assert swap.snap(0.1 + 0.2) == 0.3
    assert swap.snap(0.1 + 0.2 - 0.3) == 0.0
    assert swap.floor(0.30000000000000004) == 0.3
    assert swap.floor(-1.239) == -1.23
    e = engine()
    for i, (side, size) in enumerate((("buy", 0.1), ("buy", 0.2), ("sell", 0.3))):
        trade(e, BTC, side, size, "cross", id_=i + 1)
    assert not e.account.positions


def test_strict_lets_nothing_stand_in() -> None:
    market = Market(TIME, {}, {BTC: 1.0}, strict=True)
    with pytest.raises(MissingPrice, match="strict"):
        market.mark(BTC)
    loose = Market(TIME, {}, {BTC: 1.0})
    assert loose.mark(BTC) == 1.0
    assert loose.stand_ins == {f"mark of {BTC}: last trade": 1}
    with pytest.raises(MissingPrice, match="expected a mark"):
        loose.mark(ETH)


def test_the_ledger_alone_rebuilds_the_account() -> None:
    e = engine(cash=20_000.0)
    trade(e, BTC, "buy", 100, "isolated")
    trade(e, ETH, "sell", 10, "cross", id_=2)
    trade(e, SPOT, "buy", 0.05, "cash", id_=3)
    moved(e, btc=50_000.0, eth=3_300.0)
    moved(e, ms=28_800_000, eth=3_100.0)
    again = Account(e.account.opening)
    for entry in e.account.ledger:
        again.apply(entry)
    assert again.balances == e.account.balances
    assert again.positions == e.account.positions
    assert again.fund == e.account.fund


@pytest.mark.parametrize("mode", ["cross", "multi-currency", "portfolio"])
def test_a_price_that_is_no_number_is_named_and_takes_no_order(mode: str) -> None:
    e = engine(mode, cash=20_000.0)
    trade(e, BTC, "buy", 1, "cross")
    broken = {**PRICES, **dict.fromkeys((BTC, SPOT), float("nan"))}
    with pytest.raises(MissingPrice, match="equity is not a number"):
        e.advance(Market(e.market.time + 1, broken, broken))
    e.market = Market(e.market.time, broken, broken)
    assert isinstance(e.accept(order(e, BTC, "sell", 5, "cross", price=61_000.0)), Refusal)


@pytest.mark.parametrize("beside", ["alone", "behind another", "before another"])
@pytest.mark.parametrize("mark", [None, 63_000.0, 62_000.0])
@pytest.mark.parametrize("size", [1.0, 16.0], ids=["fills", "is refused"])
@pytest.mark.parametrize(
    ("mode", "symbol", "margin"),
    [("isolated", BTC, "isolated"), ("cross", BTC, "cross"), ("cross", SPOT, "cash"), ("multi-currency", BTC, "cross"),
     ("multi-currency", SPOT, "cross"), ("portfolio", BTC, "cross")],
)
def test_an_order_at_the_market_fills_alike_whether_it_rested_or_not(
    mode: str, symbol: str, margin: str, size: float, mark: float | None, beside: str
) -> None:
    """Where last trade and mark are what it fills at it is asked about as it rested, else as an order at that price."""
    refused = size > 1.0
    size = {SPOT: size / 1_000}.get(symbol, 10.3 if refused and mode == "portfolio" else size)

    def filled(rests: bool) -> tuple[object, ...]:
        e = engine(mode, cash=1_000.0)
        ids = {"alone": (1,), "behind another": (2, 1), "before another": (1, 2)}[beside]
        for id_ in ids:
            small = order(e, symbol, "buy", size, margin, id_=1, leverage=10.0 if symbol == BTC else 1.0)
            if id_ == 2:
                small = order(e, symbol, "buy", size / 100, margin, id_=2, price=50_000.0, leverage=small.leverage)
            assert not isinstance(e.accept(small), Refusal)
        wanted = e.account.orders[1]
        lasts = {BTC: 63_000.0, SPOT: 63_000.0}
        marks = {} if mark is None else dict.fromkeys(lasts, mark)
        e.advance(Market(TIME + 1, marks, lasts), jump=True)
        if not rests:
            e.cancel(1)
        answer = e.fill(wanted, size, 63_000.0)
        return answer, e.account.ledger, e.account.positions, e.account.balances, tuple(e.account.resting)

    assert filled(True) == filled(False)
    borrows = (mode, symbol) == ("multi-currency", SPOT)
    assert isinstance(filled(True)[0], Refusal) == (refused and not borrows)
