"""What the tests of multi-currency margin over time share: paper rules, an account, orders, moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bt_margin.engine.builder import parse_time
from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.model.account import Account, Order
from bt_margin.model.borrowing import Borrowing
from bt_margin.model.event import Event
from bt_margin.model.ledger import Entry, EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import mode_named
from bt_margin.rules.book import RuleBook, load_rules

HOUR = 3_600_000
TIME = parse_time("2025-10-10T00:00:00Z", "")
SWAP, ETHSWAP, PAIR, ETHPAIR = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT", "ETH/USDT"
PRICES = {SWAP: 60_000.0, ETHSWAP: 3_000.0, PAIR: 60_000.0, ETHPAIR: 3_000.0}
INDEX = {PAIR: 60_000.0, ETHPAIR: 3_000.0, "USDT/USD": 1.0}

LADDER = {"tiers": [[500, 0.01, 0.02, 50], [5_000, 0.02, 0.04, 25], [50_000, 0.05, 0.1, 10]]}
"""Contracts of 0.01 BTC or 0.1 ETH."""
OKX = load_rules("okx")
PAPER = OKX.overlay(
    instruments={SWAP: LADDER, ETHSWAP: LADDER},
    fees={"swap": {"maker": 0.0, "taker": 0.0005}, "spot": {"maker": 0.0, "taker": 0.001},
          "margin": {"maker": 0.0, "taker": 0.001}},
    discounts={"USDT": [[1e9, 1.0]], "BTC": [[10, 0.9], [100, 0.8]], "ETH": [[1_000, 0.8]]},
    borrow_tiers={"USDT": [[50_000, 0.02, 0.1], [100_000, 0.04, 0.2], [400_000, 0.08, 0.4]],
                  "BTC": [[2, 0.02, 0.1], [5, 0.05, 0.2]], "ETH": [[50, 0.03, 0.1], [500, 0.06, 0.25]]},
)
"""Round figures: what a test expects can be worked out on paper."""


def engine(
    balances: Mapping[str, float], *, auto: bool = True, leverage: Mapping[str, float] | None = None,
    off: tuple[str, ...] = (), book: RuleBook = PAPER, time: int = TIME, prices: Mapping[str, float] = PRICES,
    index: Mapping[str, float] = INDEX, hedge: bool = False, **more: Any,
) -> MarginEngine:
    account = Account(balances, "hedge" if hedge else "net")
    account.borrowing = Borrowing(auto, dict(leverage or {}), frozenset(off))
    market = Market(time, dict(prices), dict(prices), dict(index))
    return MarginEngine(account, mode_named("multi-currency"), book, market, **more)


_numbers = iter(range(1, 10**9))


def order(e: MarginEngine, symbol: str, side: str, size: float, *, price: float | None = None, mode: str = "cross",
          leg: str = "net", leverage: float | None = None, reduce: bool = False) -> Order:
    instrument = e.rules.instrument(symbol)
    lever = 1.0 if instrument.is_spot and mode != "isolated" else 10.0
    return Order(next(_numbers), instrument, side, size, price, mode, leg, leverage or lever, reduce)


def trade(e: MarginEngine, symbol: str, side: str, size: float, *, at: float | None = None, **more: Any) -> Fill:
    """A market order, filled at the last price."""
    fill = e.fill(order(e, symbol, side, size, **more), size, float(e.market.last(symbol)) if at is None else at)
    assert isinstance(fill, Fill), fill
    return fill


def rest(e: MarginEngine, symbol: str, side: str, size: float, price: float, **more: Any) -> Order:
    """A limit order that is taken and rests."""
    taken = e.accept(order(e, symbol, side, size, price=price, **more))
    assert not isinstance(taken, Refusal), taken
    return taken


def refused(e: MarginEngine, symbol: str, side: str, size: float, **more: Any) -> Refusal:
    answer = e.check(order(e, symbol, side, size, **more))
    assert isinstance(answer, Refusal), answer
    return answer


def moved(e: MarginEngine, ms: int = 1, *, jump: bool = False, usdt: float | None = None, **coins: float) -> None:
    """Everything priced in a coin goes to a price: moved(e, btc=50_000.0)."""
    prices, index = dict(e.market.lasts), dict(e.market.indexes)
    for coin, price in coins.items():
        for held in (prices, index):
            held.update({key: price for key in held if key.partition("/")[0] == coin.upper()})
    if usdt is not None:
        index["USDT/USD"] = usdt
    e.advance(Market(e.market.time + ms, prices, dict(prices), index), jump=jump)


def names(e: MarginEngine) -> list[str]:
    return [event.name for event in e.events]


def events(e: MarginEngine, name: str) -> list[Any]:
    found: list[Event] = [event for event in e.events if event.name == name]
    return found


def entries(e: MarginEngine, kind: EntryKind) -> list[Entry]:
    return [entry for entry in e.account.ledger if entry.kind is kind]


def accruals(e: MarginEngine) -> list[Entry]:
    return [entry for entry in entries(e, EntryKind.INTEREST) if entry.interest > 0]


def conserved(e: MarginEngine) -> None:
    scale = max([1.0, *(abs(x.total) for x in e.account.ledger), *map(abs, e.account.opening.values())])
    for currency, gap in e.account.conservation_gap().items():
        assert abs(gap) <= 1e-12 * scale * max(1, len(e.account.ledger)), currency
