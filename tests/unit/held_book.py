"""A static book in a real cerebro run: what a survival map has to agree with.

The book is entered at the close of a bar, at its mark, which is what `coc` (cheat on close) does on a path whose trades
are its marks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import backtrader as bt

from bt_margin import MarginBroker
from bt_margin.errors import Ineligible
from bt_margin.modes import mode_named
from bt_margin.plugin import feeds
from bt_margin.plugin.strategy import MarginStrategy
from bt_margin.study.price_path import PricePath
from bt_margin.study.replay import VERDICTS, Replay
from bt_margin.study.static_book import StaticBook
from bt_margin.study.windows import window

SWAP, ETH, SPOT, COIN = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT", "BTC/USD:BTC"


class Held(NamedTuple):
    verdict: str
    time: int  # of the first takeover, -1 without one
    distance: float  # lowest, per cent; NaN without one, 0 once taken over


class EnterAndHold(MarginStrategy):
    """Opens all legs on the first bar if the whole book can open, then does nothing."""

    params = (("legs", ()), ("sizes", ()), ("isolated", False))

    def __init__(self) -> None:
        self.refused, self.begun = "", False

    def next(self) -> None:
        if self.begun:
            return
        self.begun = True
        legs = [(self.getdatabyname(leg.symbol), leg.side, "isolated" if self.p.isolated else leg.margin_mode, size)
                for leg, size in zip(self.p.legs, self.p.sizes, strict=True)]
        refusal, _ = self.broker.preview({self.broker.leg(data, side, mode): size for data, side, mode, size in legs})
        if refusal is not None:
            self.refused = refusal.reason
            return
        for data, side, mode, size in legs:
            (self.buy if size > 0 else self.sell)(data=data, size=abs(size), margin_mode=mode, position_side=side)

    def notify_order(self, order: Any) -> None:
        if order.status in (order.Margin, order.Rejected):
            self.refused = str(order.info.get("reason"))


def broker_run(replay: Replay, mode: str, entry: int, leverage: float) -> Held:
    """The same cell by the real broker."""
    book, whole = replay.book, mode_named(mode).whole
    market = replay.path.market(entry)
    rules, account = replay.rules(market.time), book.account(whole)
    equity = sum(amount * float(market.usd(currency)) for currency, amount in account.balances.items() if amount)
    (sizes,) = book.sizes(equity, market, rules, [leverage])
    if not all(sizes):
        return Held("too small", -1, math.nan)
    broker = MarginBroker(
        mode=mode, cash=dict(book.balances), path=replay.walk, rules=book.rules,
        leverage={name: float(x) for name, x in book.settings(rules, leverage, replay.setting).items()},
        coc=True, position_mode="hedge" if book.hedged else "net",
        extrapolate=book.extrapolate, interest=dict(replay.interest) or None,
        borrow={"auto": book.borrowing.auto} if whole else None,
    )
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker = broker
    for feed in replay.path.feeds(entry):
        cerebro.adddata(feed)
    cerebro.addstrategy(EnterAndHold, legs=book.legs, sizes=sizes, isolated=mode == "isolated")
    try:
        (strategy,) = cerebro.run()
    except Ineligible:
        return Held("refused", -1, math.nan)
    if strategy.refused:
        return Held("refused", -1, math.nan)
    taken = next((event for event in broker.events if event.name == "TakenOver"), None)
    if taken is not None:
        return Held("liquidated", taken.time, 0.0)
    forced = any(event.name in ("Reduced", "Converted") for event in broker.events)
    low = broker.engine.control.min_distance
    return Held("reduced" if forced else "survived", -1, math.nan if low is None else low)


def differs(replay: Replay, mode: str, entry: int, leverage: float, found: tuple[int, int, float]) -> str:
    """"" where a cell says what the broker says: verdict, time to the millisecond, distance to 1e-9; else both."""
    held, mine = broker_run(replay, mode, entry, leverage), Held(VERDICTS[found[0]], found[1], found[2])
    near = held.distance == mine.distance or abs(held.distance - mine.distance) <= 1e-9 * abs(held.distance)
    if held[:2] == mine[:2] and (near or (math.isnan(held.distance) and math.isnan(mine.distance))):
        return ""
    return f"{mode}, entry {entry}, {leverage:g}x: map {mine}, broker {held}"


def path_of(id: str, symbols: list[str], since: int = 0, until: int | None = None) -> PricePath:
    """Bars `since` to `until` of a window's embedded figures; the coin-margined perpetual moves as spot does there."""
    span = window(id)
    first = span.since + since * 3_600_000
    last = span.until if until is None else span.since + until * 3_600_000
    wanted = [SPOT if symbol == COIN else symbol for symbol in symbols]
    found = feeds.from_samples(id, wanted, perpetual_from_spot=span.since < 1_640_995_200_000, since=first, until=last)
    for i, symbol in enumerate(symbols):
        if symbol == COIN:
            columns = {name: found[i].p.columns[name] for name in (*feeds.CANDLE, "volume")}
            found[i] = feeds.make_feed(COIN, columns, found[i].p.close_ms - 3_600_000, 3_600_000, None, "spot")
    return PricePath.of(found)


def replay_of(book: dict[str, Any], id: str, symbols: list[str], since: int = 0, until: int | None = None,
              **more: Any) -> Replay:
    return Replay(StaticBook.from_dict(book), path_of(id, symbols, since, until), **more)


def book(positions: dict[str, float], **balances: float) -> dict[str, Any]:
    return {"balances": balances, "positions": [{"symbol": s, "contracts": n} for s, n in positions.items()]}
