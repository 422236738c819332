"""The hedged strangle in real runs through Study: contracts, prices, vols in force, hedge, expiry, money, verdicts."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd
import pytest

from bt_margin import MarginBroker
from bt_margin.errors import InputError
from bt_margin.model.instrument import parse
from bt_margin.model.market import Market
from bt_margin.modes.options import implied_vol, years_left
from bt_margin.plugin import feeds
from bt_margin.plugin.bars import CLOSE, HIGH, LOW, OPEN, Bar
from bt_margin.plugin.path import market_at
from bt_margin.risk import black
from bt_margin.study.chains import option_feeds, priced
from bt_margin.study.result import RunResult
from bt_margin.study.strategies import BUNDLED, load
from bt_margin.study.study import Study
from bt_margin.study.windows import window
from data_fetch import DataError, Samples
from tests.unit.test_data_feeds import plant

HOUR, DAY = 3_600_000, 86_400_000
NAME = "short_strangle_hedged"
Strangle: Any = load(NAME)
PERPETUAL, COINS = "BTC/USDT:USDT", "BTC/USDT"
SPAN = "2025-10-08/2025-10-12"
BEFORE = "2025-10-08/2025-10-08T06:00"


def ms(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").value // 10**6)


def cell(mode: str, span: str = SPAN, leverage: float = 5.0, strategy: str = NAME, **more: Any) -> RunResult:
    (found,) = Study([strategy], [mode], [span], [leverage], **more).run()
    return found


@pytest.fixture(scope="module")
def cells() -> dict[str, RunResult]:
    return {r.row["mode"]: r for r in Study([NAME], "all", [SPAN], [5.0]).run()}


def moved(result: RunResult, currency: str) -> float:
    """What all entries together did to a currency."""
    return math.fsum(e["cash"] + e["margin"] for e in result.ledger if e["currency"] == currency)


def options_of(result: RunResult) -> list[str]:
    return [symbol for symbol in result.row["contracts"] if symbol.endswith(("-P", "-C"))]


# -- the same book in every mode --------------------------------------------------------------------------------


def test_it_is_bundled_and_the_grid_shows_the_rules_of_options() -> None:
    assert NAME in BUNDLED
    found = {}
    for name in (NAME, "leveraged_long"):
        rows = Study([name], "all", ["2022-11-08"], [2.0]).grid()
        found[name] = {row["table"]: row["status"] for row in rows}
    assert (found[NAME]["options"], found["leveraged_long"]["options"]) == ("inferred", "not used")
    assert found[NAME]["instruments"] == "extrapolated 339 d"  # the contract size of 2023


def test_one_book_opens_in_all_four_modes(cells: dict[str, RunResult]) -> None:
    books = [r.row["contracts"] for r in cells.values()]
    assert len(books) == 4
    assert all(book == books[0] for book in books)
    assert all(r.row["opened"] and r.row["verdict"] in ("survived", "reduced", "liquidated") for r in cells.values())
    first = {mode: [(e["symbol"], e["size"] or e["cash"], e["price"]) for e in r.ledger if e["kind"] == "trade"][:5]
             for mode, r in cells.items()}
    assert all(trades == first["cross"] for trades in first.values())  # coins (two entries), put, call, perpetual
    assert {e["margin_mode"] for e in cells["isolated"].ledger if e["symbol"].endswith("-P")} == {"isolated"}


def test_exposure_is_the_notional_of_the_two_legs(cells: dict[str, RunResult]) -> None:
    result = cells["cross"]
    put, call = options_of(result)
    sizes, price = result.row["contracts"], result.series["prices"][COINS][0]
    assert sizes[put] == sizes[call] < 0
    gross = -(sizes[put] + sizes[call]) * 0.01 * price
    assert gross / result.row["start_equity_usd"] == pytest.approx(5.0, rel=0.01)
    held = sizes[COINS] * price / result.row["start_equity_usd"]
    assert held == pytest.approx(0.6, rel=1e-4)


def test_the_contracts_are_listed_ones_around_the_forward(cells: dict[str, RunResult]) -> None:
    result = cells["portfolio"]
    put, call = (parse(symbol) for symbol in options_of(result))
    forward = result.series["prices"][PERPETUAL][0]
    assert (put.right, call.right, put.settle, put.expiry) == ("P", "C", "BTC", "251031")  # October's last Friday
    assert put.strike < forward < call.strike
    assert put.strike % 5_000 == call.strike % 5_000 == 0
    away = 0.3944 * math.sqrt(23.0 / 365)  # the close of 7 October: 39.28; one standard deviation
    assert abs(math.log(call.strike / forward) - away) < 0.03
    assert abs(math.log(put.strike / forward) + away) < 0.03


# -- prices and what was known ----------------------------------------------------------------------------------


def test_prices_are_black_76_at_the_vol_known_when_the_bar_opened(cells: dict[str, RunResult]) -> None:
    result = cells["cross"]
    marks = Samples().series(PERPETUAL, "mark", None, *(ms(day) for day in ("2025-10-08", "2025-10-12")))
    closes = {"2025-10-08": 39.28, "2025-10-09": 39.44, "2025-10-10": 39.73, "2025-10-11": 44.11}  # of the day before
    days = pd.to_datetime(marks.ts, unit="ms").strftime("%Y-%m-%d")
    vols = np.array([closes[day] for day in days]) / 100
    for symbol in options_of(result):
        parts = parse(symbol)
        years = (ms("2025-10-31T08:00") - (marks.ts + HOUR)) / (365 * DAY)
        expected = black.coin_price(parts.right, marks.close, parts.strike, years, vols)
        assert result.series["prices"][symbol] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["isolated", "portfolio"])
def test_the_end_of_the_data_does_not_reach_back(mode: str) -> None:
    """The crash of 10 October, and what the day made of vols, change nothing before it."""
    short, long = (cell(mode, f"2025-10-09T18:00/{end}") for end in ("2025-10-10T00:00", "2025-10-10T22:00"))
    bars = len(short.series["time"])
    for name in ("time", "equity", "margin_ratio"):
        assert short.series[name] == long.series[name][:bars]
    for symbol, prices in short.series["prices"].items():
        assert prices == long.series["prices"][symbol][:bars]
    assert short.row["contracts"] == long.row["contracts"]
    assert short.ledger == long.ledger[: len(short.ledger)]


@pytest.mark.parametrize("span", [
    "2020-03-12", "2021-05-19", "2022-05-09", "2022-11-04/2022-11-07", "2023-01-01/2023-01-05", "2024-08-10/2024-08-12",
])
@pytest.mark.parametrize("mode", ["isolated", "portfolio"])
def test_where_no_vol_is_known_there_is_no_data(span: str, mode: str) -> None:
    result = cell(mode, span)
    assert result.row["verdict"] == "no data"
    assert "implied vol" in result.row["reason"]
    assert result.row["contracts"] is None


def test_the_window_of_ftx_begins_when_the_first_close_is_known() -> None:
    result = cell("cross", "2022-11-04/2022-11-08")
    assert result.series["time"][0] == ms("2022-11-07T01:00")  # the bar opened at midnight, with the 6th
    put, _ = options_of(result)
    mark = Samples().series(PERPETUAL, "mark", None, ms("2022-11-07"), ms("2022-11-07T01:00")).close[0]
    years = (ms("2022-11-25T08:00") - ms("2022-11-07T01:00")) / (365 * DAY)
    expected = black.coin_price("P", float(mark), parse(put).strike, years, 0.5676)
    assert result.series["prices"][put][0] == pytest.approx(expected, rel=1e-12)
    assert "here from 2022-11-07T00:00:00Z" in result.row["data_kind"]


def test_a_window_that_outlasts_the_vols_is_no_data_and_not_held_flat() -> None:
    index = pd.date_range("2025-10-14T12:00Z", periods=18, freq="1h")  # the close of the 13th is in force on the 14th
    candles = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), 115_000.0), index)
    history = [feeds.from_dataframe(candles, symbol) for symbol in Strangle.symbols]
    whole = window("2025-10-14T12:00/2025-10-15T06:00")
    params = dict(Strangle.params._getpairs())
    with pytest.raises(DataError, match="no implied vol from 2025-10-15T00:00:00Z on"):
        option_feeds(Strangle, whole, history, params)
    there = [feeds.from_dataframe(candles[:12], symbol) for symbol in Strangle.symbols]
    assert len(option_feeds(Strangle, whole, there, params)) == 2


def test_a_close_is_in_force_for_one_day_from_its_end() -> None:
    found = Samples().dvol(ms("2024-07-30"), ms("2024-08-01"))
    assert found is not None
    times = [ms("2024-07-30T23:59"), ms("2024-07-31"), ms("2024-07-31T23:59"), ms("2024-08-01"), ms("2024-08-02")]
    assert found.in_force(times).tolist()[1:4] == [50.62, 50.62, 48.73]
    assert np.isnan(found.in_force(times)[[0, 4]]).all()
    assert np.isnan(found.slice(0, 1).in_force(times)).all()
    for at, vol in zip(times, found.in_force(times), strict=True):
        known = found.close[found.known_ms <= at]
        assert np.isnan(vol) or vol in known
    assert priced(window("2024-08-05")).since == ms("2024-07-31")


# -- inside the bar ---------------------------------------------------------------------------------------------


class Watched(Strangle):  # type: ignore[misc]
    """The strangle, and what it saw at every bar: delta before and after its hedge, vols along the bar's path."""

    seen: list[tuple[float, float, bool]] = []  # noqa: RUF012  emptied before a run
    vols: list[tuple[int, float]] = []  # noqa: RUF012

    def next(self) -> None:
        holds = self._sold and not self.finished
        before = self.delta() if holds else 0.0
        super().next()
        broker = self.broker
        if holds:
            hedges = [order.created.size * 0.01 for order in broker.submitted if order.data is self._perpetual]
            self.seen.append((before / self._unit, (before + sum(hedges)) / self._unit, bool(hedges)))
        bars = list(broker.bars.latest.values())
        for data in self._options:
            instrument, close = broker.instrument(data), broker.bars.latest[data._name].close_ms
            for point in (OPEN, HIGH, LOW, CLOSE):
                market = market_at(broker.engine.market, bars, point, close - (HOUR if point == OPEN else 0), "USDT")
                coin = float(market.index("BTC/USD"))
                assert coin == pytest.approx(float(market.mark(PERPETUAL)))
                vol = implied_vol(instrument, market.mark(data._name), market.forward(data._name), coin,
                                  years_left(instrument, market.time))
                self.vols.append((point, float(vol)))


@pytest.fixture(scope="module")
def watched() -> RunResult:
    Watched.seen.clear()
    Watched.vols.clear()
    return cell("cross", strategy=f"{__name__}:Watched")


def test_delta_is_back_within_bounds_after_every_hedge(watched: RunResult) -> None:
    """As shares of the coins behind one leg. A hedge is sized at a bar's close and trades at the next one's open."""
    assert watched.row["verdict"] == "survived"
    assert max(abs(before) for before, _, _ in Watched.seen) > 0.15  # the crash threw it out
    assert sum(hedged for _, _, hedged in Watched.seen) >= 6
    assert all(abs(after) < 0.0001 for _, after, hedged in Watched.seen if hedged)  # less than a lot is left
    assert all(abs(before) <= 0.1 for before, _, hedged in Watched.seen if not hedged)
    assert all(hedged for _, _, hedged in Watched.seen[23::24])  # once a day whatever the delta
    # what the last bar's hedge left, and one hour's gamma: the next bar begins inside the band, but in the crash
    assert sum(abs(after[0]) > 0.1 for now, after in pairwise(Watched.seen) if now[2]) <= 1


def test_along_the_bar_option_coin_and_forward_are_of_one_moment(watched: RunResult) -> None:
    """At every point of the path the mark implies the vol it was made with: a put is high where its coin is low.

    To 0.1 vol points: within the bar the time to the expiry is not known to the minute.
    """
    told = (39.28, 39.44, 39.73, 44.11)
    assert watched.row["opened"]
    assert {point for point, _ in Watched.vols} == {OPEN, HIGH, LOW, CLOSE}
    assert max(min(abs(vol * 100 - one) for one in told) for _, vol in Watched.vols) < 0.1


def test_an_index_told_by_options_waits_for_their_close_or_goes_with_the_coins_contract() -> None:
    put, flat = "BTC/USD:BTC-251031-110000-P", (120_000.0,) * 4
    now = Market(0, {PERPETUAL: 100_000.0}, {PERPETUAL: 100_000.0}, {"BTC/USD": 100_100.0},
                 forwards={"BTC/USD:BTC-251031": 101_000.0})
    told = Bar(put, 0, HOUR, (0.01,) * 4, None, flat, 121_000.0, is_option=True)
    beside = Bar(PERPETUAL, 0, HOUR, (100_000.0, 122_000.0, 90_000.0, 110_000.0), None, None)
    alone = {point: market_at(now, [told], point, 0, "USDT") for point in (LOW, CLOSE)}
    assert (alone[LOW].index("BTC/USD"), alone[LOW].forward(put)) == (100_100.0, 101_000.0)
    assert (alone[CLOSE].index("BTC/USD"), alone[CLOSE].forward(put)) == (120_000.0, 121_000.0)
    both = market_at(now, [told, beside], LOW, 0, "USDT")
    assert (both.index("BTC/USD"), both.forward(put)) == pytest.approx((120_000.0 * 9 / 11, 121_000.0 * 9 / 11))
    silent = market_at(now, [beside], LOW, 0, "USDT")  # the option has no bar: expired, or on a slower clock
    assert silent.index("BTC/USD") == pytest.approx(100_100.0 * 0.9)
    assert silent.forward(put) == 101_000.0


# -- expiry and money -------------------------------------------------------------------------------------------


class Weekly(Strangle):  # type: ignore[misc]
    """Expires inside the window, one strike on each side of the price, so that one of them is exercised."""

    params = (("expiries", "weekly"), ("days", 1), ("width", 0.05), ("step", 500.0))


@pytest.mark.parametrize("mode", ["isolated", "cross", "multi-currency", "portfolio"])
def test_an_expiry_inside_the_window_is_settled_and_the_rest_is_closed(mode: str) -> None:
    result = cell(mode, "2025-10-09/2025-10-10T12:00", leverage=2.0, strategy=f"{__name__}:Weekly")
    assert result.row["verdict"] == "survived"
    put, call = (parse(symbol) for symbol in options_of(result))
    assert put.expiry == call.expiry == "251010"
    marks = Samples().series(PERPETUAL, "mark", None, ms("2025-10-10T06:00"), ms("2025-10-10T08:00")).close
    average = float(np.mean(marks))  # of the index, a straight line from 07:00 to 08:00
    settled = {e["symbol"]: e for e in result.ledger if e["kind"] == "settlement"}
    for parts, symbol in zip((put, call), options_of(result), strict=True):
        sign = 1 if parts.right == "C" else -1
        coins = result.row["contracts"][symbol] * 0.01
        pays = coins * max(sign * (average - parts.strike), 0.0) / average
        entry = settled[symbol]
        assert entry["time"] == ms("2025-10-10T08:00")
        booked = math.fsum(e["cash"] + e["margin"] for e in result.ledger
                           if e["symbol"] == symbol and e["kind"] == "settlement")
        assert booked == pytest.approx(pays, abs=1e-9)
    assert sum(max(s * (average - p.strike), 0) > 0 for s, p in ((-1, put), (1, call))) == 1  # the test shows something
    sizes: dict[str, float] = {}
    for e in result.ledger:
        sizes[e["symbol"]] = sizes.get(e["symbol"], 0.0) + e["size"]
    assert all(abs(size) < 1e-9 for symbol, size in sizes.items() if symbol != COINS)
    # flat: what is left is balances, and they are the opening ones and the ledger's entries, nothing else
    usdt, btc = (moved(result, currency) for currency in ("USDT", "BTC"))
    price = result.series["prices"][PERPETUAL][-1]
    assert result.row["final_equity_usd"] == pytest.approx(100_000 + usdt + btc * price, rel=1e-6)
    assert abs(btc) < 0.01


@pytest.mark.parametrize("mode", ["isolated", "cross", "multi-currency", "portfolio"])
def test_money_is_conserved(cells: dict[str, RunResult], mode: str) -> None:
    """Equity at the end: opening balances, all entries, and what is still open at its last mark."""
    result = cells[mode]
    usdt, btc = (moved(result, currency) for currency in ("USDT", "BTC"))
    coin = result.series["prices"][options_of(result)[0]]
    marks = Samples().series(PERPETUAL, "mark", None, ms("2025-10-11T23:00"), ms("2025-10-12")).close[0]
    worth = 100_000 + usdt
    held: dict[str, list[tuple[float, float]]] = {}
    for e in result.ledger:
        if e["size"]:
            held.setdefault(e["symbol"], []).append((e["size"], e["price"]))
    for symbol, trades in held.items():
        size = math.fsum(s for s, _ in trades)
        if symbol == PERPETUAL:
            worth += entry_profit(trades, marks) * 0.01
        elif symbol != COINS and abs(size) > 1e-9:
            btc += size * 0.01 * result.series["prices"][symbol][-1]
    assert len(coin) == len(result.series["time"])
    assert result.row["final_equity_usd"] == pytest.approx(worth + btc * marks, rel=1e-9)


def entry_profit(trades: list[tuple[float, float]], mark: float) -> float:
    """Unrealised profit per unit of what is left of these trades, at average entry (realised parts are cash)."""
    size = entry = 0.0
    for change, price in trades:
        if size * change >= 0:
            entry = (size * entry + change * price) / (size + change)
        elif abs(change) > abs(size):
            entry = price
        size += change
    return size * (mark - entry)


# -- what goes wrong is said ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "leverage"), [("isolated", 9.0), ("cross", 9.0), ("multi-currency", 30.0),
                                                ("portfolio", 40.0)])
def test_a_book_too_large_is_refused_with_the_size_that_could_open(mode: str, leverage: float) -> None:
    """At the same setting, which by itself follows the exposure asked."""
    result = cell(mode, BEFORE, leverage=leverage, setting=20.0)
    assert result.row["verdict"] == "refused"
    assert "51008" in result.row["reason"]
    assert "strangle and hedge could open at" in result.row["reason"]
    most = float(result.row["reason"].partition("could open at ")[2].partition("x")[0])
    assert 0 < most < leverage
    assert {e["symbol"] for e in result.ledger if e["kind"] == "trade"} == {COINS}  # bought, and sold again
    assert cell(mode, BEFORE, leverage=most, setting=20.0).row["opened"]
    assert cell(mode, BEFORE, leverage=most * 1.03, setting=20.0).row["verdict"] == "refused"


def test_a_refused_hedge_is_told_though_the_book_survived() -> None:
    """So low a setting takes all USDT for the first hedge: the crash finds none left for more."""
    result = cell("cross", leverage=4.0, setting=1.8)
    refused = [event for event in result.events if event["name"] == "Refused"]
    assert len(refused) > 1
    assert {event["symbol"] for event in refused} == {PERPETUAL}
    assert result.row["verdict"] == "survived"
    assert result.row["reason"] == (f"{PERPETUAL} refused {len(refused)} times, first at 2025-10-10T16:00:00Z: "
                                    "insufficient free margin in USDT (51008)")
    assert cell("cross", leverage=4.0).row["reason"] == ""


def test_what_is_left_after_a_takeover_is_closed() -> None:
    result = cell("isolated", leverage=3.0)
    assert result.row["verdict"] == "liquidated"
    sizes: dict[str, float] = {}
    for e in result.ledger:
        sizes[e["symbol"]] = sizes.get(e["symbol"], 0.0) + e["size"]
    assert all(abs(size) < 1e-9 for symbol, size in sizes.items() if symbol != COINS)
    btc = moved(result, "BTC")
    assert -1e-9 <= btc < 0.05


def test_coins_the_account_has_are_kept_and_only_the_rest_is_bought() -> None:
    result = cell("cross", cash={"USDT": 50_000.0, "BTC": 0.1})
    price, equity = result.series["prices"][COINS][0], result.row["start_equity_usd"]
    assert result.row["contracts"][COINS] == pytest.approx(0.6 * equity / price - 0.1, rel=0.01)
    assert result.row["opened"]


@pytest.mark.parametrize(("changed", "says"), [
    ({"expiries": "daily"}, "expiries: expected monthly or weekly"),
    ({"step": 500_000.0}, "step: expected one below the forward"),
])
def test_choices_that_are_none_are_refused(changed: dict[str, Any], says: str) -> None:
    history = feeds.from_samples("2025-10-10", Strangle.symbols)
    with pytest.raises(InputError, match=says):
        option_feeds(Strangle, priced(window("2025-10-10")), history, changed)


def test_downloaded_minutes_price_options_by_the_minute(tmp_path: Path) -> None:
    plant(tmp_path, "trade", 121_000)
    plant(tmp_path, "mark", 121_050)
    plant(tmp_path, "trade", 120_990, symbol=COINS)
    result = cell("cross", "2025-10-08T01:00/2025-10-08T01:30", store=str(tmp_path))
    assert result.row["verdict"] == "survived"
    assert len(result.series["time"]) == 30
    put, _ = options_of(result)
    marks = 121_050.0 + np.arange(60, 90)
    years = (ms("2025-10-31T08:00") - np.array(result.series["time"])) / (365 * DAY)
    expected = black.coin_price("P", marks, parse(put).strike, years, 0.3928)
    assert result.series["prices"][put] == pytest.approx(expected, rel=1e-12)
    assert "downloaded okx history; implied vol the daily closes" in result.row["data_kind"]


def test_the_feed_that_options_stand_on_is_one_of_the_strategys() -> None:
    class Nowhere(Strangle):  # type: ignore[misc]
        options_on = "ETH/USDT:USDT"

    history = feeds.from_samples("2025-10-10", Strangle.symbols)
    with pytest.raises(InputError, match="options_on: expected one of the strategy's symbols, BTC/USDT, BTC/USDT:USDT"):
        option_feeds(Nowhere, priced(window("2025-10-10")), history, {})


def test_it_runs_in_plain_cerebro_as_well() -> None:
    history = feeds.from_samples("2025-10-10", Strangle.symbols, since=ms("2025-10-08"), until=ms("2025-10-09"))
    chain = Strangle.option_feeds(history[1], np.full(24, 0.4), dict(Strangle.params._getpairs()) | {"carry": 0.01})
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = MarginBroker(mode="cross", cash=100_000.0, leverage=4.0)
    for feed in (*history, *chain):
        cerebro.adddata(feed)
    cerebro.addstrategy(Strangle, carry=0.01)
    (done,) = cerebro.run()
    assert {k.symbol for k in done.broker.engine.account.positions} == {PERPETUAL, *(f.p.name for f in chain)}
    forward = float(done.broker.engine.market.forward(chain[0].p.name))
    assert forward == pytest.approx(1.01 * float(done.broker.engine.market.mark(PERPETUAL)))
