"""Survival maps: every cell says what the broker says, and nothing that could not be judged is alive."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from bt_margin.cli import main
from bt_margin.engine.accrual import FundingSeries
from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.modes import mode_named
from bt_margin.plugin import feeds
from bt_margin.study.replay import VERDICTS, Replay, general
from bt_margin.study.strategies import load
from bt_margin.study.survival import PricePath, StaticBook, book_of, load_path, spread, survival_map
from tests.unit.held_book import COIN, ETH, SPOT, SWAP, book, broker_run, differs, path_of, replay_of

ALL = ["isolated", "cross", "multi-currency", "portfolio"]
OWN, WHOLE = ALL[:2], ALL[2:]
FUTURE = "BTC/USD:BTC-251226"
CRASH = {"since": 120, "until": 150}  # 2025-10-10 00:00 to 2025-10-11 06:00: the fall at 21:00 is bar 21

# name: (book, window, symbols, span, modes, entries, leverages, more)
CASES: dict[str, tuple[Any, ...]] = {
    "long": (book({SWAP: 1}, USDT=1_000_000), "2025-10-10", [SWAP], CRASH, ALL, (0, 15, 20), (1e-7, 4, 6, 9, 20, 45),
             {}),
    "short": (book({SWAP: -1}, USDT=50_000), "2025-10-10", [SWAP], CRASH, OWN, (0, 21, 23), (5, 12, 25, 40), {}),
    "long, old rules": (book({SWAP: 1}, USDT=300_000), "2020-03-12", [SWAP], {"since": 110, "until": 170}, OWN, (0, 5),
                        (1, 2, 4, 8, 16), {}),
    "long, rules change": (book({SWAP: 3}, USDT=100_000), "2022-11-08", [SWAP], {"since": 80, "until": 140}, OWN,
                           (0, 20), (2, 4, 7, 12, 30), {}),
    "pair": (book({SWAP: 10, ETH: -300}, USDT=400_000), "2025-10-10", [SWAP, ETH], CRASH, ALL, (3, 20), (3, 9, 20), {}),
    "pair, old rules": (book({SWAP: 10, ETH: 120}, USDT=100_000), "2022-11-08", [SWAP, ETH],
                        {"since": 90, "until": 125}, OWN, (0, 15), (3, 6, 12), {}),
    "coin-margined long": (book({COIN: 1}, BTC=1.0), "2025-10-10", [COIN], CRASH, ALL, (0, 19), (1, 4, 10, 30), {}),
    "coin-margined short": (book({COIN: -1}, BTC=2.0), "2025-10-10", [COIN], CRASH, OWN, (0, 21), (0.5, 1, 9, 40), {}),
    "basis": (book({SWAP: -1}, BTC=1.0, USDT=1_000), "2025-10-10", [SWAP, SPOT], CRASH, WHOLE, (0, 20), (1, 3, 6), {}),
    "coins behind a long": (book({SWAP: 1}, BTC=1.0), "2024-08-05", [SWAP, SPOT], {"since": 105, "until": 140}, WHOLE,
                            (0, 20), (1, 3, 4.5), {"interest": {"USDT": 0.3}}),
    "bars high first": (book({SWAP: 1}, USDT=50_000), "2025-10-10", [SWAP], CRASH, OWN, (0,), (5, 12),
                        {"walk": "ohlc"}),
    "closes only": (book({SWAP: 1}, USDT=50_000), "2025-10-10", [SWAP], CRASH, OWN, (0,), (5, 12, 30),
                    {"walk": "close"}),
}


def cells() -> list[tuple[str, str, int, float]]:
    return [(name, *cell) for name, case in CASES.items() for cell in product(case[4], case[5], case[6])]


def test_agrees_with_the_broker_on_more_than_two_hundred_cells() -> None:
    """Same verdict, same takeover to the millisecond, same lowest distance to 1e-9, by both ways a map takes."""
    wrong, seen = [], Counter[str]()
    for held, id, symbols, span, modes, entries, leverages, more in CASES.values():
        replay = replay_of(held, id, symbols, **span, **more)
        found = survival_map(replay.book, replay.path, leverages, entries, modes, **more)
        for (m, mode), (e, entry), (i, leverage) in product(
                enumerate(modes), enumerate(entries), enumerate(sorted(leverages))):
            cell = (int(found.verdict[m, e, i]), int(found.taken_ms[m, e, i]), float(found.distance[m, e, i]))
            wrong.append(differs(replay, mode, entry, leverage, cell))
            seen[VERDICTS[cell[0]]] += 1
    assert not [text for text in wrong if text]
    assert len(wrong) == len(cells()) >= 200
    assert set(seen) == {"survived", "reduced", "liquidated", "refused", "too small"}
    assert seen["liquidated"] >= 60
    assert seen["survived"] >= 60


@pytest.mark.parametrize("mode", OWN)
@pytest.mark.parametrize("name", ["long", "short", "long, old rules", "long, rules change", "coin-margined long"])
def test_all_leverages_at_once_are_what_each_is_alone(name: str, mode: str) -> None:
    held, id, symbols, span, *_ = CASES[name]
    replay = replay_of(held, id, symbols, **span)
    leverages = np.linspace(0.8, 60, 24)
    entries = [0, 7, 14, 20, 22, 27]
    found = survival_map(replay.book, replay.path, leverages, entries, [mode])
    for e, entry in enumerate(entries):
        for i, leverage in enumerate(found.leverages):
            alone = replay.cell(mode_named(mode), entry, float(leverage))
            assert alone[:2] == (found.verdict[0, e, i], found.taken_ms[0, e, i]), (entry, leverage)
            assert alone.distance == pytest.approx(found.distance[0, e, i], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("walk", ["adverse", "close"])
def test_a_dip_on_a_wide_leg_is_seen(walk: str) -> None:
    """A basis trade that falls below a ratio of 1 within one leg of one bar and is safe at both its ends."""
    closes = {COIN: [60_000.0] * 20 + [75_000.0] * 5, FUTURE: [60_000.0] * 20 + [240_000.0] * 5}
    made = []
    for symbol, prices in closes.items():
        close = np.array(prices)
        opened = np.concatenate([close[:1], close[:-1]])
        columns = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close,
                   "volume": np.zeros(len(close))}
        hours = 1_760_000_400_000 + 3_600_000 * np.arange(len(close))
        made.append(feeds.make_feed(symbol, columns, hours, 3_600_000, None, "made"))
    replay = Replay(StaticBook.from_dict(book({COIN: 240, FUTURE: -60}, BTC=0.013)), PricePath.of(made), walk=walk)
    modes, leverages = ["cross", "multi-currency"], [5, 40]
    found = survival_map(replay.book, replay.path, leverages, [2], modes, walk=walk)
    for (m, mode), (i, leverage) in product(enumerate(modes), enumerate(leverages)):
        cell = (int(found.verdict[m, 0, i]), int(found.taken_ms[m, 0, i]), float(found.distance[m, 0, i]))
        assert not differs(replay, mode, 2, leverage, cell)
    assert [VERDICTS[found.verdict[m, 0, 1]] for m in range(2)] == ["liquidated", "reduced"]


def test_what_cannot_be_judged_is_not_alive() -> None:
    """A coin whose discount nobody knows: the cell says so."""
    path = path_of("2025-10-10", [SWAP], **CRASH)
    lost = {**book({SWAP: 1}, USDT=10_000), "balances": {"USDT": 10_000, "XYZ": 5}}
    found = survival_map(lost, path, [2], [0], ["multi-currency"])
    assert VERDICTS[found.verdict[0, 0, 0]] == "failed"
    assert "XYZ" in found.reasons[found.reason[0, 0, 0]]
    assert not found.alive.any()
    assert np.isnan(found.lived()).all()


def test_refusals_say_why_without_the_figures_of_one_cell() -> None:
    assert general("leverage 40 is above the maximum 33.3 (59102)") == "leverage # is above the maximum # (59102)"
    assert general("less than initial (51008, 1009 and 1010)") == "less than initial (51008, 1009 and 1010)"
    path = path_of("2025-10-10", [SWAP], **CRASH)
    found = survival_map(book({SWAP: 1}, USDT=10_000), path, [10, 45, 99, 150], [0], ["cross", "portfolio"])
    assert [VERDICTS[v] for v in found.verdict[0, 0]] == ["liquidated", "liquidated", "refused", "refused"]
    assert "insufficient free margin in USDT (51008)" in found.reasons


def test_the_answer_of_a_map() -> None:
    path = path_of("2025-10-10", [SWAP], **CRASH)
    found = survival_map(book({SWAP: 1}, USDT=10_000), path, range(1, 31), None, OWN)
    lived = found.lived()
    assert lived.shape == (2, len(path) - 1)
    for m, e in product(range(2), range(len(path) - 1)):
        upto = found.alive[m, e, found.leverages <= lived[m, e]]
        assert upto.all()
        assert len(upto) == 30 or not found.alive[m, e, len(upto)]
    isolated, cross = found.summary()
    assert isolated["through_all"] < cross["through_all"]  # half the equity is all that an isolated position has
    assert cross["survived"] + cross["liquidated"] + cross["refused"] == 30 * (len(path) - 1)


def test_the_figure_draws_every_cell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from bt_margin.report import survival as report

    path = path_of("2025-10-10", [SWAP], **CRASH)
    found = survival_map(book({SWAP: 1}, USDT=10_000), path, [1e-7, 2, 10, 30, 150], None, ["cross", "portfolio"])
    section = report.survival_section(found)
    drawn = sum(x is not None for layer in section["figure"]["data"] for row in layer["z"] for x in row)
    assert drawn == found.verdict.size
    assert section["thinned"] == (1, 1)
    monkeypatch.setattr(report, "CELLS", 100)
    by_entry, by_leverage = report.steps(found)
    assert 2 * -(-29 // by_entry) * -(-5 // by_leverage) <= 100


def test_entries_are_spread() -> None:
    path = path_of("2025-10-10", [SWAP], **CRASH)
    assert spread(path, "hourly") == list(range(29))
    assert spread(path, "3") == [0, 14, 28]
    for text in ("0", "-1", "x", "1.5"):
        with pytest.raises(InputError, match="entries: expected hourly or a number"):
            spread(path, text)


@pytest.mark.parametrize(("change", "text"), [
    ({"orders": [{"symbol": SWAP, "side": "buy", "amount": 1}]}, "book.orders"),
    ({"balances": {"USDT": -1}}, "balances.USDT"),
    ({"balances": {}}, "balances: expected some money"),
    ({"positions": []}, "positions: expected at least one"),
    ({"positions": [{"symbol": SPOT, "contracts": 1}]}, r"positions\[0\].symbol"),
    ({"positions": [{"symbol": SWAP}]}, r"positions\[0\].contracts"),
    ({"positions": [{"symbol": SWAP, "contracts": 0}]}, r"positions\[0\].contracts"),
    ({"positions": [{"symbol": SWAP, "contracts": float("nan")}]}, r"positions\[0\].contracts"),
    ({"positions": [{"symbol": SWAP, "contracts": 1, "colour": 2}]}, "colour"),
])
def test_books_that_cannot_be_held(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        StaticBook.from_dict({**book({SWAP: 1}, USDT=1), **change})


def test_maps_that_make_no_sense() -> None:
    path, held = path_of("2025-10-10", [SWAP], **CRASH), book({SWAP: 1}, USDT=10_000)
    for more, text in (
        ({"leverages": []}, "leverage"), ({"leverages": [0]}, "leverage"), ({"entries": [29]}, "entries"),
        ({"walk": "up"}, "path"), ({"setting": 0.5}, "setting"), ({"modes": ["none"]}, "mode"),
    ):
        given: dict[str, Any] = {"leverages": [2], "entries": [0], **more}
        with pytest.raises(InputError, match=text):
            survival_map(held, path, **given)
    with pytest.raises(InputError, match="expected prices of ETH"):
        survival_map(book({ETH: 1}, USDT=10_000), path, [2])
    expiring = "BTC/USDT:USDT-251010"
    later = PricePath(path.close_ms, path.step, {expiring: path.prices[SWAP]}, {}, {}, {expiring: "test"})
    with pytest.raises(InputError, match="expires"):
        survival_map(book({expiring: 1}, USDT=10_000), later, [2])


def test_a_coin_is_priced_by_its_spot_pair_or_by_a_contract_of_the_book() -> None:
    held = StaticBook.from_dict(book({SWAP: -1}, BTC=1.0))
    assert set(load_path(held, "2025-10-10").prices) == {SWAP, SPOT}
    lone = StaticBook.from_dict(book({"SOL/USDT:USDT": -1}, SOL=100.0))
    assert set(load_path(lone, "2025-10-10").prices) == {"SOL/USDT:USDT"}


def test_the_book_of_a_strategy_that_enters_shares() -> None:
    path = path_of("2025-10-10", [SWAP, ETH], **CRASH)
    held = StaticBook.from_dict(book_of(load("pair_long_short").weights, {"USDT": 100_000}, path))
    market = path.market(0)
    rules = held.rules.as_of(market.time)
    (sizes,) = held.sizes(100_000.0, market, rules, [6.0])
    worth = [float(rules.instrument(s).notional(n, market.mark(s))) for s, n in zip(held.symbols, sizes, strict=True)]
    assert worth == pytest.approx([300_000, 300_000], rel=1e-3)
    assert sizes[0] > 0 > sizes[1]
    with pytest.raises(InputError, match="coins belong in balances"):
        book_of({SPOT: 1.0}, {"USDT": 1}, path_of("2025-10-10", [SPOT], **CRASH))


def test_a_date_freezes_the_rules() -> None:
    path, held = path_of("2025-10-10", [SWAP], **CRASH), book({SWAP: 1}, USDT=10_000)
    now, then = (survival_map(held, path, [3], [0], ["cross"], rules_as_of=date) for date in ("then", "2021-05-19"))
    frozen = survival_map({**held, "rules": {"as_of": "2021-05-19"}}, path, [3], [0], ["cross"])
    assert then.distance == frozen.distance
    assert then.distance < now.distance  # 0.5 % was asked of the first tier then, 0.4 % is now


def across(day: str) -> PricePath:
    """Twelve quiet hours, six of them before an instant."""
    begin = int(np.datetime64(day, "ms").astype(int)) - 6 * 3_600_000
    columns = dict.fromkeys(feeds.CANDLE, np.full(12, 30_000.0)) | {"volume": np.zeros(12)}
    return PricePath.of([feeds.make_feed(SWAP, columns, begin + np.arange(12) * 3_600_000, 3_600_000, None, "flat")])


@pytest.mark.parametrize("mode", ALL)
@pytest.mark.parametrize(("day", "fails"), [
    ("2025-09-15T09:00", {0, 4}),  # tiers are known from 08:55 on: an entry at 08:00 or before has none
    ("2021-01-01T00:00", {0, 4, 6, 9}),  # tiers are known until 00:00: a book held beyond it has none
    ("2022-11-08T00:00", {0, 4, 6, 9}),  # none that day
])
def test_where_nothing_may_stand_in_a_cell_without_a_rule_fails(day: str, fails: set[int], mode: str) -> None:
    """Where the broker stops with the same words; what needs no such rule goes on."""
    path, entries = across(day), [0, 4, 6, 9]
    never = {**book({SWAP: 1}, USDT=100_000), "rules": {"extrapolate": "never"}}
    found = survival_map(never, path, [2, 5], entries, [mode])
    replay = Replay(StaticBook.from_dict(never), path)
    for e, entry in enumerate(entries):
        expected = "failed" if entry in fails else "survived"
        assert [VERDICTS[v] for v in found.verdict[0, e]] == [expected] * 2
        reason = found.reasons[found.reason[0, e, 1]]
        if entry in fails:
            assert "no revision for" in reason
            with pytest.raises(NoRuleInForce) as stopped:
                broker_run(replay, mode, entry, 5)
            if mode in OWN:  # elsewhere several rules are missing, and either may name another first
                assert " ".join(str(stopped.value).split()).partition(" in force")[0] in reason
        else:
            assert differs(replay, mode, entry, 5, (0, -1, float(found.distance[0, e, 1]))) == ""
    assert not any("stands in" in text for text in found.warnings)
    assert survival_map({**never, "rules": {}}, path, [2], entries, [mode]).alive.all()  # as the broker's default


def test_before_the_tables_begin_every_cell_says_so() -> None:
    """No funding rule either: the map stands and its cells fail, those of all leverages at once as well."""
    own = {"contract_size": 0.01, "tick": 0.1, "lot": 1, "tiers": [[1e9, 0.005, 0.01, 100]]}
    never = {**book({SWAP: 1}, USDT=100_000), "rules": {"extrapolate": "never"}, "instruments": {SWAP: own},
             "fees": {"swap": {"maker": 0.0002, "taker": 0.0005}}}
    found = survival_map(never, across("2018-06-01T00:00"), [2, 5], [0, 5], OWN)
    assert {VERDICTS[v] for v in found.verdict.ravel()} == {"failed"}
    assert all("no revision" in text for text in found.reasons if text)


def test_a_stand_in_in_the_middle_of_a_path_is_told() -> None:
    """Tiers are known until the end of 2020 and from September 2022 on: neither end of the path lacks them."""
    symbol, day = "ETH/USD:ETH", 86_400_000
    count = 630
    begin = int(np.datetime64("2020-12-28", "ms").astype(int))
    columns = dict.fromkeys(feeds.CANDLE, np.full(count, 700.0)) | {"volume": np.zeros(count)}
    path = PricePath.of([feeds.make_feed(symbol, columns, begin + np.arange(count) * day, day, None, "flat")])
    found = survival_map(book({symbol: 1}, ETH=10), path, [2], [0], ["isolated"])
    told = [text for text in found.warnings if text.startswith(f"rules: position_tiers {symbol} stands in")]
    assert len(told) == 2  # from either side, whichever is nearer


def test_the_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    file = tmp_path / "book.json"
    file.write_text(json.dumps(book({SWAP: 1}, USDT=10_000)))
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["survive", str(file), "--mode", "cross", "--mode", "isolated", "--leverage", "2:10:2", "--entries", "4",
              "--out", str(out), "--json"])
    assert ended.value.code in (0, None)
    told = json.loads(capsys.readouterr().out)
    rows = pq.read_table(out / "survival.parquet").to_pylist()
    assert len(rows) == 2 * 4 * 5
    assert told["leverages"] == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert {row["verdict"] for row in rows} == {"survived", "liquidated"}
    for row in rows:
        assert (row["liquidated_at"] is None) == (row["verdict"] == "survived")
    page = (out / "survival.html").read_text()
    assert "http-equiv=\"Content-Security-Policy\"" in page
    assert "survived" in page
    assert len(page.encode()) < 7_000_000


@pytest.mark.parametrize("arguments", [
    ["--leverage", "5:1:1"], ["--leverage", "x"], ["--leverage", "0"], ["--entries", "often"], ["--window", "1999"],
    ["--mode", "none"], ["--path", "up"], ["--interest", "USDT"], ["--setting", "0.1"],
])
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "book.json", tmp_path / "out"
    file.write_text(json.dumps(book({SWAP: 1}, USDT=10_000)))
    with pytest.raises(SystemExit) as ended:
        main(["survive", str(file), "--out", str(out), *arguments])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()


def minutes(symbol: str, seed: int, missing: tuple[int, ...] = ()) -> Any:
    """Ninety wild minutes around a settlement; contracts with marks (ten of them missing), an index and funding."""
    chance, count, open_ms = np.random.default_rng(seed), 90, 1_760_054_400_000 + 7 * 3_600_000 + 1_200_000
    close = 100_000 * np.exp(np.cumsum(chance.normal(0, 0.0025, count)) - np.linspace(0, 0.06, count))
    first = np.concatenate([[100_000.0], close[:-1]])
    high, low = np.maximum(first, close) * 1.001, np.minimum(first, close) * 0.999
    kept = np.setdiff1d(np.arange(count), missing)
    columns = {name: v[kept] for name, v in zip(feeds.CANDLE, (first, high, low, close), strict=True)}
    columns["volume"] = np.zeros(len(kept))
    funding = None
    if ":" in symbol:
        known = np.where((kept >= 50) & (kept < 60), np.nan, 1.0005)
        for name, candle in zip(("mark_open", "mark_high", "mark_low", "mark"), feeds.CANDLE, strict=True):
            columns[name] = columns[candle] * known
        columns["index"] = columns["close"] * 0.9997
        funding = FundingSeries(np.array([1_760_054_400_000 + 8 * 3_600_000]), np.array([0.002]))
    return feeds.make_feed(symbol, columns, open_ms + kept * 60_000, 60_000, funding, "made up")


def test_minutes_with_holes_an_index_and_funding() -> None:
    path = PricePath.of([minutes(SWAP, 1, (30, 31, 38, 39, 40, 41)), minutes(SPOT, 3)])
    replay = Replay(StaticBook.from_dict(book({SWAP: 1}, BTC=2.0, USDT=50_000)), path)
    wrong = [differs(replay, mode, 5, leverage, replay.cell(mode_named(mode), 5, leverage)[:3])
             for mode, leverage in (("isolated", 1), ("cross", 3), ("cross", 9), ("multi-currency", 3))]
    assert not [text for text in wrong if text]
