"""The position builder: the public JSON, refusals per mode, stress, ccxt dumps, and errors that name the key."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_margin import PositionBuilder
from bt_margin.errors import BtMarginError, InputError, MissingPrice, NoRuleInForce

BOOK: dict[str, Any] = {
    "time": "2025-10-08T10:26:41Z",
    "balances": {"USDT": 100000, "BTC": 2},
    "positions": [
        {
            "symbol": "BTC/USDT:USDT",
            "contracts": -10,
            "entry_price": 100000,
            "margin_mode": "cross",
            "leverage": 10,
            "position_side": "net",
        },
        {
            "symbol": "ETH/USDT:USDT",
            "contracts": 1,
            "entry_price": 3011,
            "margin_mode": "isolated",
            "leverage": 10,
            "margin": 30.11,
        },
    ],
    "orders": [
        {
            "symbol": "BTC/USDT:USDT",
            "side": "sell",
            "amount": 4,
            "price": 100000,
            "margin_mode": "cross",
            "reduce_only": False,
        }
    ],
    "prices": {
        "mark": {"BTC/USDT:USDT": 97093.7, "ETH/USDT:USDT": 3010.54},
        "index": {"BTC/USDT": 97078.9, "ETH/USDT": 3010.0, "USDT/USD": 0.99954},
    },
}


def with_(path: str, value: Any, drop: bool = False) -> dict[str, Any]:
    book = copy.deepcopy(BOOK)
    *way, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    target: Any = book
    for key in way:
        target = target[key]
    if drop:
        del target[last]
    else:
        target[last] = value
    return book


def test_every_mode_is_reported_or_refused() -> None:
    reports, refused = PositionBuilder.from_dict(BOOK).reports()
    assert [r.mode for r in reports] == ["isolated", "cross", "portfolio"]
    assert [r["mode"] for r in refused] == ["multi-currency"]
    for report in reports:
        text = json.dumps(report.to_dict(), allow_nan=False)
        assert {
            "mode",
            "time",
            "account",
            "pools",
            "currencies",
            "positions",
            "orders",
            "risk_units",
            "evidence",
            "warnings",
        } == set(json.loads(text))


def test_cross_figures_by_hand() -> None:
    report = PositionBuilder.from_dict(BOOK).report("cross")
    pool = report.pool("USDT")
    assert pool is not None
    held, resting = 10 * 0.01 * 97093.7, 4 * 0.01 * 100000
    upl, fee = 10 * 0.01 * (100000 - 97093.7), resting * 0.0005
    at_mark = 14 * 0.01 * 97093.7
    assert pool.equity == pytest.approx(100000 + upl - fee)
    assert pool.initial_margin == pytest.approx(held / 10 + resting / 10)
    assert (pool.maintenance_margin, pool.liquidation_fee) == pytest.approx((at_mark * 0.004, at_mark * 0.0005))
    assert report.account.idle_usd == pytest.approx(2 * 97078.9 * 0.99954)  # BTC backs nothing that settles in USDT
    usdt = next(c for c in report.currencies if c.currency == "USDT")
    assert usdt.equity == pytest.approx(100000 + upl + 30.11 - 0.046)
    assert report.orders[0].accepted


def test_isolated_gives_each_derivative_a_pool_of_its_own() -> None:
    report = PositionBuilder.from_dict(BOOK).report("isolated")
    names = [p.name for p in report.pools]
    assert names[:2] == ["BTC/USDT:USDT isolated", "ETH/USDT:USDT isolated"]
    btc = report.positions[0]
    assert btc.margin == pytest.approx(1000.0)
    total = PositionBuilder.from_dict(BOOK).report("cross").account.equity_usd
    assert report.account.equity_usd == pytest.approx(total)  # re-reading a book moves no money


def test_a_mode_that_cannot_hold_the_book_is_refused() -> None:
    poor = with_("balances/USDT", 500)
    reports, refused = PositionBuilder.from_dict(poor).reports()
    assert [r.mode for r in reports] == ["cross", "portfolio"]
    assert "exceeds the balance" in refused[0]["reason"]
    with pytest.raises(InputError, match="knows no debt"):
        PositionBuilder.from_dict(with_("balances/USDT", -1)).report("cross")


def test_orders_that_cannot_open_say_what_is_missing() -> None:
    report = PositionBuilder.from_dict(with_("orders/0/amount", 1_000_0)).report("cross")
    row = report.orders[0]
    assert not row.accepted
    assert row.shortfall > 0 or "51004" in row.reason


def test_stress_moves_all_prices_together() -> None:
    builder = PositionBuilder.from_dict(BOOK)
    rows = builder.stress("cross", [-0.1, 0.0, 0.1])
    assert rows[1].equity_usd == pytest.approx(builder.report("cross").account.equity_usd)
    down = with_("prices/mark", {"BTC/USDT:USDT": 97093.7 * 0.9, "ETH/USDT:USDT": 3010.54 * 0.9})
    down["prices"]["index"].update({"BTC/USDT": 97078.9 * 0.9, "ETH/USDT": 2709.0})
    there = PositionBuilder.from_dict(down).report("cross")
    assert rows[0].equity_usd == pytest.approx(there.account.equity_usd)
    assert rows[0].margin_ratio == pytest.approx(there.account.margin_ratio)
    with pytest.raises(InputError, match="above -1"):
        builder.stress("cross", [-1.0])


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("positions/0/contracts", float("nan"), "positions[0].contracts"),
        ("balances/USDT", float("inf"), "balances.USDT"),
        ("prices/mark/BTC~USDT:USDT", -5.0, "prices.mark.BTC/USDT:USDT"),
        ("positions/0/levrage", 3, "levrage"),
        ("positions/0/leverage", 500, "positions[0].leverage"),
        ("positions/0/leverage", None, "positions[0].leverage"),
        ("positions/0/margin_mode", "crosss", "positions[0].margin_mode"),
        ("positions/0/symbol", "BTCUSDT", "positions[0].symbol"),
        ("positions/0/contracts", 0, "positions[0].contracts"),
        ("positions/1/margin", None, "positions[1].margin"),
        ("time", "yesterday", "time"),
        ("rules", {"venue": "nowhere"}, "nowhere"),
        ("instruments", {"BTC/USDT:USDT": {"contract_size": 0}}, "instruments.BTC/USDT:USDT.contract_size"),
        ("orders/0/amount", -4, "orders[0].amount"),
        ("orders/0/side", "short", "side"),
        ("positions", "none", "positions"),
    ],
)
def test_bad_input_names_the_key(path: str, value: Any, says: str) -> None:
    book = with_(path.replace("BTC~USDT", "@"), value) if "@" not in path and "~" not in path else copy.deepcopy(BOOK)
    if "~" in path:
        book["prices"]["mark"]["BTC/USDT:USDT"] = value
    with pytest.raises(InputError) as caught:
        PositionBuilder.from_dict(book).report("cross")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_prices_and_rules_raise() -> None:
    with pytest.raises(MissingPrice, match="ETH/USDT:USDT"):
        PositionBuilder.from_dict(with_("prices/mark/ETH~", 0) if False else _without_eth()).report("cross")
    early = with_("time", "2021-05-19T12:00:00Z")
    with pytest.raises(NoRuleInForce, match="extrapolate"):
        PositionBuilder.from_dict(early).report("cross")
    early["rules"] = {"extrapolate": "nearest"}
    report = PositionBuilder.from_dict(early).report("cross")
    assert any("stands in" in w for w in report.warnings)
    assert max(e.extrapolated_days for e in report.evidence) > 100


def _without_eth() -> dict[str, Any]:
    book = copy.deepcopy(BOOK)
    del book["prices"]["mark"]["ETH/USDT:USDT"]
    del book["prices"]["index"]["ETH/USDT"]
    return book


def test_a_spot_margin_row_stands_beside_contracts() -> None:
    row = {
        "symbol": "BTC/USDT", "margin_mode": "isolated", "direction": "long", "margin_currency": "BTC", "assets": 1.0,
        "margin": 0.1, "liability": 10000, "interest": 0, "entry_price": 10000, "leverage": 10,
    }
    book = with_("positions/0", row)
    book["prices"]["mark"]["BTC/USDT"] = 12_000.0
    book["orders"] = [{"symbol": "BTC/USDT", "side": "sell", "amount": 4, "price": 100_000, "margin_mode": "cross"}]
    found = PositionBuilder.from_dict(book).report("cross")
    (loan,) = [p for p in found.positions if p.symbol == "BTC/USDT"]
    assert loan.unrealised_pnl == pytest.approx(1.0 - 10_000 / 12_000)
    assert found.orders[0].initial_margin == pytest.approx(40_000.0)  # at the leverage the pair is held with
    with pytest.raises(InputError, match=r"assets: .* no spot pair"):
        PositionBuilder.from_dict(with_("positions/0/assets", 1.0)).report("cross")


def test_a_ccxt_dump_reads_like_the_book() -> None:
    positions = [
        {
            "symbol": "ETH/USDT:USDT",
            "contracts": 1.0,
            "side": "long",
            "entryPrice": 3011.0,
            "markPrice": 3010.54,
            "marginMode": "isolated",
            "leverage": 10.0,
            "collateral": 30.11,
            "timestamp": 1_764_434_109_000,
            "info": {"posSide": "long", "margin": "30.11", "lever": "10"},
        }
    ]
    balance = {
        "info": {
            "data": [
                {
                    "uTime": "1764434109000",
                    "details": [{"ccy": "USDT", "cashBal": "1000", "eq": "1030.064", "eqUsd": "1030.5"}],
                }
            ]
        }
    }
    report = PositionBuilder.from_ccxt(positions, balance).report("isolated")
    row = report.positions[0]
    assert (row.margin_ratio, row.liquidation_price) == pytest.approx((22.191662920568692, 2722.159673530889), rel=1e-9)
    assert report.currencies[0].balance == 1000.0
    with pytest.raises(InputError, match="ccxt"):
        PositionBuilder.from_ccxt(positions, {"info": {}})


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "time",
                        "balances",
                        "positions",
                        "orders",
                        "prices",
                        "symbol",
                        "contracts",
                        "mark",
                        "USDT",
                        "leverage",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).filter(lambda x: isinstance(x, dict))
)
def test_any_rubbish_is_one_line(book: dict[str, Any]) -> None:
    try:
        reports, _ = PositionBuilder.from_dict(book).reports()
    except BtMarginError:
        return  # any other exception fails the test
    assert all(math.isfinite(r.account.equity_usd) for r in reports)


def test_the_core_needs_neither_backtrader_nor_pandas() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from bt_margin import PositionBuilder; "
        "assert not {'backtrader', 'pandas', 'pyarrow', 'ccxt', 'plotly'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
