"""One bar is not one price: a bar becomes the points the account is walked through.

`adverse`: open, the extreme that hurts the account, the other, close. `ohlc`: open, high, low, close. `close`: open,
close. With several instruments all lows and all highs are visited together: a bound, and reports say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bt_margin.engine.engine import MarginEngine
from bt_margin.model.account import Account
from bt_margin.model.instrument import Number, is_symbol
from bt_margin.model.market import Market
from bt_margin.modes.assess import total_equity
from bt_margin.plugin.bars import CLOSE, HIGH, LOW, OPEN, USD_PAIRS, Bar
from bt_margin.plugin.matching import AT_OPEN, BEFORE_OPEN, Candidate, timeline

PATHS = ("adverse", "ohlc", "close")


def market_at(now: Market, bars: Sequence[Bar], point: int, time: int, currency: str) -> Market:
    """All feeds with a new bar at one of its points; the others as they are. Markets share what does not change."""
    marks, lasts = dict(now.marks), dict(now.lasts)
    indexes: dict[str, Number] = {}
    heard: dict[str, int] = {}
    forwards: dict[str, Number] = {}
    moves = _moves(bars, point) if [bar for bar in bars if bar.is_option] else {}
    for bar in bars:
        lasts[bar.symbol] = bar.last[point]
        if bar.mark is not None:
            marks[bar.symbol] = bar.mark[point]
        else:
            marks.pop(bar.symbol, None)
        # an option's own candle says nothing of its coin: with no contract or pair beside it only the close is known
        moved = moves.get(bar.symbol.partition("/")[0]) if bar.is_option else 1.0
        pair = bar.symbol.partition(":")[0]
        if moved is None and bar.index is not None and pair not in now.indexes:
            moved = 1.0  # nothing was heard before: the first bar is judged at its close's
        if bar.index is not None and moved is not None:
            indexes[pair] = bar.index[point] * moved
            if point == CLOSE:  # of the rest of the bar it is only known how the mark moved
                heard[pair] = time
        if bar.forward is not None and moved is not None:
            forwards["-".join(bar.symbol.split("-")[:2])] = bar.forward * moved
        if bar.symbol in USD_PAIRS:
            indexes[bar.symbol], heard[bar.symbol] = bar.last[point], time
        if not is_symbol(bar.symbol):  # a plain asset is worth its price in the broker's currency
            indexes[f"{bar.symbol}/USD"] = bar.last[point] * now.usd(currency)
    for pair in {stem.partition(":")[0] for stem in now.forwards} - indexes.keys() if now.forwards else ():
        # told by options that are silent now, or expired: the coin goes on being worth what its contract says
        beside = _beside(bars, pair.partition("/")[0])
        before = None if beside is None else now.marks.get(beside.symbol, now.lasts.get(beside.symbol))
        if beside is not None and before is not None and pair in now.indexes:
            indexes[pair] = now.indexes[pair] * (beside.mark or beside.last)[point] / before
    return Market(
        time, marks, lasts, {**now.indexes, **indexes} if indexes else now.indexes, now.strict, now.stand_ins,
        {**now.forwards, **forwards} if forwards else now.forwards,
        {**now.index_times, **heard} if heard else now.index_times,
    )


def _moves(bars: Sequence[Bar], point: int) -> dict[str, float]:
    """How each coin with an option stands at a point of the bar against its close; not told where nobody knows."""
    found = {}
    for coin in {bar.symbol.partition("/")[0] for bar in bars if bar.is_option}:
        beside = _beside(bars, coin)
        if beside is not None:
            prices = beside.mark or beside.last
            found[coin] = prices[point] / prices[CLOSE]
        elif point == CLOSE:
            found[coin] = 1.0
    return found


def _beside(bars: Sequence[Bar], coin: str) -> Bar | None:
    """The bar that says how a coin moves: of its first contract, else of its pair; options say nothing."""
    known = [bar for bar in bars if not bar.is_option and bar.symbol.partition("/")[0] == coin]
    return next((bar for bar in known if ":" in bar.symbol), known[0] if known else None)


def walk(
    engine: MarginEngine,
    bars: Sequence[Bar],
    found: Sequence[Candidate],
    path: str,
    currency: str,
    step: Callable[[Market, bool], None],
    fill: Callable[[Candidate], None],
    quiet: Callable[[], bool] = lambda: False,
) -> None:
    """Walk the new bars: fills of the past, clock events, the open, then leg by leg each fill where the price
    meets it, clock events at the close. `step(market, jump)` moves the engine, `fill` trades.

    Within the bar the clock stands at its open; only the last leg carries it to the close. `quiet`: asked once all has
    traded that trades in this bar; true where what is left of it was seen to pass without the account.
    """
    for one in found:
        if one.when == BEFORE_OPEN:
            fill(one)
    if not bars:
        return
    start = max(engine.market.time, min(bar.open_ms for bar in bars))
    end = max(engine.market.time, max(bar.close_ms for bar in bars))

    def at(point: int, time: int) -> Market:
        return market_at(engine.market, bars, point, time, currency)

    if not found and not engine.at_risk:
        step(at(CLOSE, end), False)  # nothing can happen on the way
        return
    step(at(OPEN, start), True)
    for one in found:
        if one.when == AT_OPEN:
            fill(one)
    traded = engine.account.copy()  # what is judged meanwhile does not change the way the bar takes
    if found and all(one.when <= AT_OPEN for one in found) and quiet():
        return
    markets = {OPEN: engine.market, LOW: at(LOW, start), HIGH: at(HIGH, start), CLOSE: at(CLOSE, end)}
    points = _points(traded, path, markets)
    later = timeline(found, {bar.symbol: tuple(bar.last[p] for p in points) for bar in bars})
    for leg in range(len(points) - 1):
        from_, to = markets[points[leg]], markets[points[leg + 1]]
        while later and later[0][0] <= leg + 1:
            place, one = later.pop(0)
            if one.order.alive():
                here = from_.toward(to, place - leg)
                step(here.at(max(start, engine.market.time), here.marks, here.lasts), False)
                fill(one)
        step(to, False)


def _points(account: Account, path: str, markets: dict[int, Market]) -> tuple[int, ...]:
    """Which prices of the bar are visited, in order. Adverse: first the side that leaves the account with less."""
    if path == "close":
        return (OPEN, CLOSE)
    if path == "ohlc":
        return (OPEN, HIGH, LOW, CLOSE)
    low, high = (total_equity(account, markets[point]) for point in (LOW, HIGH))
    return (OPEN, LOW, HIGH, CLOSE) if low <= high else (OPEN, HIGH, LOW, CLOSE)
