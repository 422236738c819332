"""The deposit or the size cut that would have kept a pool's margin ratio at 1 through the rest of the window.

Definitions (they stand in every paragraph too). E and M are the pool's equity and requirement (maintenance margin +
liquidation fee) just before the takeover, F the taker fee of closing the whole pool at the same marks. For later
prices p, A(p) = M(p) - [profit made from the takeover's marks to p]: what the untouched pool would have needed at
the takeover to stand at a ratio of 1 at p. Then

- deposit D = A - E: with D more in the pool the ratio at p is exactly 1;
- cut q = D / (A - F): closing the share q of every position at the takeover's marks, paying its taker fee and leaving
  all money in the pool, gives E - q F = (1 - q) A, a ratio of exactly 1 at p. Tier rates stay those of the takeover.

p is the point at which A is largest, of: the takeover's marks, and the lows, the highs and the closes of the bar the
takeover happened in and of every later one, as positions are judged (`series["lows"]`, `series["highs"]`; a run
without them is judged by its closes). So a net long meets its lowest price, a net short its highest; with several
symbols all lows of a bar count as one instant and all highs as another, as the broker visits them. That is a bound:
the low of the takeover's bar may lie before the takeover, and a run with path "close" never visits lows and highs.
Funding, trades and new rules after the takeover are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bt_margin.report.reading import Row, Run, contract, pool_of, positions_of, requirement, sign_of
from bt_margin.report.wording import known

Point = tuple[int, str, dict[str, float]]
"""End of the bar; low, high or close; the price of every symbol there."""
Series = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Rescue:
    """What would have kept the pool's ratio at 1. `deposit` and `cut` hold for the worst point."""

    at_trigger: float  # M - E: what was missing at the takeover itself, 0 when it was met exactly
    deposit: float | None = None
    cut: float | None = None
    worst_time: int | None = None  # end of the worst point's bar; None: nothing was worse than the takeover's marks
    worst_at: str = ""  # low, high or close of that bar
    worst_prices: Mapping[str, float] = field(default_factory=dict)
    closes_only: bool = False  # the run does not know the lows and highs of every position
    why_not: str = ""  # why deposit is None


def rescue(run: Run, event: Row) -> Rescue | None:
    """Deposit and cut as this module's first lines define them; None when the event does not carry its pool."""
    pool = pool_of(event)
    equity = known(pool.get("equity")) if pool else None
    if pool is None or equity is None:
        return None
    required = requirement(pool)
    missing = max(0.0, required - equity)
    if missing <= 1e-6 * max(1.0, required):
        missing = 0.0
    legs, why_not = _legs(event, pool, required)
    if why_not:
        return Rescue(missing, why_not=why_not)
    symbols = [leg.symbol for leg in legs]
    closes = _aligned(run, "prices", symbols)
    if closes is None:
        return Rescue(missing, why_not="the series of this run does not hold the prices of every position")
    lows, highs = _aligned(run, "lows", symbols), _aligned(run, "highs", symbols)
    needed, worst = required, None
    for point in _points(run, event["time"], closes, lows, highs):
        later = sum(leg.needs(point[2][leg.symbol]) for leg in legs)
        if later > needed:
            needed, worst = later, point
    time, at, prices = worst or (None, "", {leg.symbol: leg.mark for leg in legs})
    deposit = max(0.0, needed - equity) if worst else missing
    fee = known(pool.get("liquidation_fee")) or 0.0
    cut = deposit / (needed - fee) if equity > fee and needed > fee else None
    return Rescue(missing, deposit, cut, time, at, prices, closes_only=lows is None or highs is None)


# -- what a pool needs at other prices --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Leg:
    """One contract of a pool: how its profit and requirement follow its mark, in the pool's currency."""

    symbol: str
    linear: bool
    signed_notional: float
    mark: float
    required: float

    def needs(self, at: float) -> float:
        """Requirement at a later mark less the profit made on the way there."""
        move = at / self.mark
        if self.linear:
            return self.required * move - self.signed_notional * (move - 1)
        return self.required / move - self.signed_notional * (1 - 1 / move)


def _legs(event: Row, pool: Row, required: float) -> tuple[list[_Leg], str]:
    """The pool's contracts, or why its later requirement does not follow from their prices alone."""
    held = positions_of(event)
    currency = pool.get("currency")
    signed: dict[str, float] = {}
    marks: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for row in held:
        symbol = str(row.get("symbol"))
        kind, settle = contract(symbol)
        notional, mark = known(row.get("notional")), known(row.get("mark_price"))
        if kind == "other":
            return [], f"{symbol} is neither a linear nor an inverse future or swap"
        if notional is None or not mark:
            return [], f"the report holds no mark of {symbol}"
        rate = 1.0 if settle == currency else _usd_rate(event, settle) if currency == "USD" else None
        if rate is None:
            return [], "the pool holds coins whose value moves with the market as well"
        signed[symbol] = signed.get(symbol, 0.0) + sign_of(row) * abs(notional) * rate
        marks[symbol], kinds[symbol] = mark, kind
    if not held:
        return [], "the report lists no position of the pool"
    by_symbol = dict.fromkeys(signed, 0.0)
    for charge in pool.get("charges") or ():
        unit = charge.get("unit")
        if unit not in by_symbol or "rate" not in (charge.get("detail") or {}):
            return [], f"the charge '{charge.get('name')}' ({unit}) does not follow from one mark at one rate"
        by_symbol[unit] += (known(charge.get("maintenance")) or 0.0) + (known(charge.get("fee")) or 0.0)
    if abs(sum(by_symbol.values()) - required) > 1e-6 * max(1.0, required):
        return [], "the charges of the report do not add up to the requirement"
    return [_Leg(s, kinds[s] == "linear", signed[s], marks[s], by_symbol[s]) for s in sorted(signed)], ""


def _usd_rate(event: Row, settle: str) -> float | None:
    """USD per unit of the one currency an account pool holds; None when it holds others too."""
    rows = [r for r in (event.get("report") or {}).get("currencies") or () if known(r.get("equity"))]
    if any(row.get("currency") != settle for row in rows) or settle not in ("USDT", "USDC", "USD"):
        return None
    for row in rows:
        usd = known(row.get("equity_usd"))
        return usd / float(row["equity"]) if usd else 1.0
    return 1.0


# -- the prices after it ----------------------------------------------------------------------------------------


def _aligned(run: Run, name: str, symbols: Sequence[str]) -> Series | None:
    """One series of the run by symbol, one value a bar; None when a symbol has none.

    A shorter list belongs to a feed that began later: it is filled up in front.
    """
    times: Sequence[Any] = run.series.get("time", ())
    found: Series = run.series.get(name) or {}
    if not len(times) or not all(0 < len(found.get(symbol, ())) <= len(times) for symbol in symbols):
        return None
    return {symbol: [*[None] * (len(times) - len(found[symbol])), *found[symbol]] for symbol in symbols}


def _points(run: Run, since: int, closes: Series, lows: Series | None, highs: Series | None) -> Iterator[Point]:
    """The points of every bar that ends after `since`; one at which a price is unknown is no point.

    Within a bar the broker's clock stands at its open, so a bar that ends at `since` was over by then. Closes are
    those of last prices: where marks judge, they are held within the range of the marks.
    """
    for i, time in enumerate(run.series["time"]):
        if time <= since:
            continue
        now = {symbol: known(values[i]) for symbol, values in closes.items()}
        points = [("close", now)]
        if lows is not None and highs is not None:
            low = {symbol: known(values[i]) for symbol, values in lows.items()}
            high = {symbol: known(values[i]) for symbol, values in highs.items()}
            held = {symbol: _within(price, low[symbol], high[symbol]) for symbol, price in now.items()}
            points = [("low", low), ("high", high), ("close", held)]
        for at, prices in points:
            known_prices = {symbol: price for symbol, price in prices.items() if price}
            if len(known_prices) == len(prices):
                yield int(time), at, known_prices


def _within(price: float | None, low: float | None, high: float | None) -> float | None:
    return None if price is None or low is None or high is None else min(max(price, low), high)
