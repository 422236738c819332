"""Why a pool was taken over, in one paragraph of plain text made from the data alone.

Definitions (they stand in every paragraph too). E and M are the pool's equity and requirement (maintenance margin +
liquidation fee) just before the takeover, F the taker fee of closing the whole pool at the same marks. For later
prices p, A(p) = M(p) - [profit made from the takeover's marks to p]: what the untouched pool would have needed at
the takeover to stand at a ratio of 1 at p. Then

- deposit D = A - E: with D more in the pool the ratio at p is exactly 1;
- cut q = D / (A - F): closing the share q of every position at the takeover's marks, paying its taker fee and leaving
  all money in the pool, gives E - q F = (1 - q) A, a ratio of exactly 1 at p. Tier rates stay those of the takeover.

p is the bar close of the rest of the window at which A is largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bt_margin.report.wording import known, moment, number, percent, price, ratio_percent, size

Row = Mapping[str, Any]


class Run(Protocol):
    """One backtest as the report reads it (`study.result.RunResult`)."""

    @property
    def row(self) -> Row: ...
    @property
    def series(self) -> Row: ...
    @property
    def events(self) -> Sequence[Row]: ...
    @property
    def ledger(self) -> Sequence[Row]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def evidence(self) -> Sequence[Row]: ...


# -- reading an event -------------------------------------------------------------------------------------------


def takeovers(run: Run) -> list[Row]:
    return [event for event in run.events if event.get("name") == "TakenOver"]


def pool_of(event: Row) -> Row | None:
    """The pool an event speaks of, as its report judged it."""
    pools = (event.get("report") or {}).get("pools") or ()
    return next((pool for pool in pools if pool.get("name") == event.get("pool")), None)


def positions_of(event: Row) -> list[Row]:
    """The positions in the event's pool: one for an isolated pool, else the cross ones its currency settles."""
    report, name = event.get("report") or {}, str(event.get("pool", ""))
    rows: list[Row] = list(report.get("positions") or ())
    isolated = [row for row in rows if row.get("margin_mode") == "isolated" and _isolated_name(row) == name]
    if isolated:
        return isolated
    cross = [row for row in rows if row.get("margin_mode") != "isolated"]
    pool = pool_of(event)
    currency = pool.get("currency") if pool else None
    return [row for row in cross if name != currency or contract(str(row.get("symbol")))[1] in (currency, "")]


def requirement(pool: Row) -> float:
    return (known(pool.get("maintenance_margin")) or 0.0) + (known(pool.get("liquidation_fee")) or 0.0)


def contract(symbol: str) -> tuple[str, str]:
    """('linear' | 'inverse' | 'other', settlement currency) of a ccxt symbol."""
    pair, _, rest = symbol.partition(":")
    base, _, quote = pair.partition("/")
    settle, *more = rest.split("-")
    if not settle or len(more) > 1:
        return "other", settle
    return {quote: "linear", base: "inverse"}.get(settle, "other"), settle


def _isolated_name(row: Row) -> str:
    side = row.get("position_side", "net")
    return f"{row.get('symbol')} isolated" + ("" if side == "net" else f" {side}")


def _sign(row: Row) -> int:
    side = row.get("position_side")
    if side in ("long", "short"):
        return 1 if side == "long" else -1
    return -1 if (known(row.get("contracts")) or 0.0) < 0 else 1


# -- what would have helped -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rescue:
    """What would have kept the pool's ratio at 1. `deposit` and `cut` hold for the worst later bar close."""

    at_trigger: float  # M - E: what was missing at the takeover itself, 0 when it was met exactly
    deposit: float | None = None
    cut: float | None = None
    worst_time: int | None = None  # None: no later bar close was worse than the takeover's marks
    worst_prices: Mapping[str, float] = field(default_factory=dict)
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
    series = _later_prices(run, event, [leg.symbol for leg in legs])
    if series is None:
        return Rescue(missing, why_not="the series of this run does not hold the prices of every position")
    needed, worst_time, worst = required, None, {leg.symbol: leg.mark for leg in legs}
    for time, prices in series:
        later = sum(leg.needs(prices[leg.symbol]) for leg in legs)
        if later > needed:
            needed, worst_time, worst = later, time, prices
    deposit = max(0.0, needed - equity) if worst_time is not None else missing
    fee = known(pool.get("liquidation_fee")) or 0.0
    cut = deposit / (needed - fee) if equity > fee and needed > fee else None
    return Rescue(missing, deposit, cut, worst_time, worst)


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
        signed[symbol] = signed.get(symbol, 0.0) + _sign(row) * abs(notional) * rate
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


def _later_prices(run: Run, event: Row, symbols: Sequence[str]) -> list[tuple[int, dict[str, float]]] | None:
    """(time, prices) of the bars that close at or after the event; None when a symbol has no series."""
    times: Sequence[Any] = run.series.get("time", ())
    prices: Mapping[str, Sequence[Any]] = run.series.get("prices") or {}
    if not len(times) or any(len(prices.get(symbol, ())) != len(times) for symbol in symbols):
        return None
    rows = []
    for i, time in enumerate(times):
        if time < event["time"]:
            continue
        now = {symbol: known(prices[symbol][i]) for symbol in symbols}
        if all(now.values()):
            rows.append((int(time), {symbol: float(value or 0.0) for symbol, value in now.items()}))
    return rows


# -- what moved since the warning -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """From the pool's last warning to its takeover; amounts in the pool's currency, signed for the account."""

    time: int
    margin_ratio: float | None
    marks: Mapping[str, tuple[float | None, float | None]]
    equity: tuple[float, float]
    profit: float
    funding: float
    settlements: int

    @property
    def rest(self) -> float:
        """What trades, fees and transfers changed."""
        return self.equity[1] - self.equity[0] - self.profit - self.funding


def since_warning(run: Run, event: Row) -> Change | None:
    """None when the pool was not warned before the instant of the takeover."""
    events = list(run.events)
    index = next((i for i, other in enumerate(events) if other is event), len(events))
    warned = next((e for e in reversed(events[:index])
                   if e.get("name") == "Warned" and e.get("pool") == event.get("pool")), None)
    before, now = pool_of(warned) if warned else None, pool_of(event)
    if warned is None or before is None or now is None:
        return None
    equity = (known(before.get("equity")) or 0.0, known(now.get("equity")) or 0.0)
    if warned["time"] == event["time"] and equity[0] == equity[1]:
        return None
    then, after = positions_of(warned), positions_of(event)
    marks = {str(row["symbol"]): known(row.get("mark_price")) for row in then}
    pairs = {str(row["symbol"]): (marks.get(str(row["symbol"])), known(row.get("mark_price"))) for row in after}
    funding, count = 0.0, 0
    for entry in _pool_entries(run, event, {str(row["symbol"]) for row in (*then, *after)}):
        if entry.get("kind") == "funding" and warned["time"] < entry["time"] <= event["time"]:
            funding += (known(entry.get("cash")) or 0.0) + (known(entry.get("margin")) or 0.0)
            count += 1
    return Change(
        warned["time"], known(warned.get("margin_ratio")), pairs, equity,
        _profit(now, after) - _profit(before, then), funding, count,
    )


def _profit(pool: Row, positions: Sequence[Row]) -> float:
    """Unrealised profit in the pool's currency: as its equity names it, else as its positions do."""
    parts = pool.get("equity_parts") or {}
    named = [known(v) or 0.0 for k, v in parts.items() if str(k).startswith("unrealised profit")]
    return sum(named) if named else sum(known(row.get("unrealised_pnl")) or 0.0 for row in positions)


def _pool_entries(run: Run, event: Row, symbols: set[str]) -> Iterator[Row]:
    isolated = str(event.get("pool", "")).partition(" ")[2].startswith("isolated")
    for entry in run.ledger:
        if entry.get("symbol") in symbols and (entry.get("margin_mode") == "isolated") == isolated:
            yield entry


# -- the paragraph ----------------------------------------------------------------------------------------------


def takeover_paragraph(run: Run, event: Row) -> str:
    """Equity and requirement term by term, what moved since the warning, what would have helped."""
    pool = pool_of(event)
    head = f"{moment(event.get('time'))}, {run.row.get('mode')}: pool {event.get('pool')} was taken over"
    if pool is None:
        return f"{head}. The event carries no judgement of the pool, so its terms cannot be shown."
    currency = str(pool.get("currency", ""))
    now = known(event.get("margin_ratio"))
    now = known(pool.get("margin_ratio")) if now is None else now
    text = [
        f"{head} at a margin ratio of {ratio_percent(now)}.",
        f"Equity {_sum(pool.get('equity'), currency, (pool.get('equity_parts') or {}).items())}.",
        f"Requirement {number(requirement(pool))} {currency}{_charges(pool)}.",
        *_since(run, event, currency),
        *_outcome(run, event, currency),
        *_help(run, event, currency),
    ]
    return " ".join(text)


def _sum(total: Any, currency: str, parts: Any) -> str:
    """12.00 USDT = cash 20.00 - unrealised profit ... 8.00"""
    text = f"{number(total)} {currency}"
    terms = ""
    for name, amount in parts:
        value = known(amount)
        if not terms:
            terms = f" = {name} {number(value)}"
        elif value is not None and value < 0:
            terms += f" - {number(-value)} ({name})"
        else:
            terms += f" + {number(value)} ({name})"
    return text + terms


def _charges(pool: Row) -> str:
    terms = []
    for charge in pool.get("charges") or ():
        detail = charge.get("detail") or {}
        rate, taker, notional = (known(detail.get(key)) for key in ("rate", "taker", "notional"))
        how, fee_how = [], ""
        if detail.get("tier") is not None:
            how.append(f"tier {detail['tier']}")
        if rate is not None and notional is not None:
            how.append(f"{percent(rate * 100)} of {number(notional)}")
        if taker is not None:
            fee_how = f" ({percent(taker * 100, 3)})"
        terms.append(f"{number(charge.get('maintenance'))} {charge.get('name')} {charge.get('unit')}"
                     + (f" ({', '.join(how)})" if how else ""))
        if known(charge.get("fee")):
            terms.append(f"{number(charge['fee'])} liquidation fee{fee_how}")
    return " = " + " + ".join(terms) if terms else ""


def _since(run: Run, event: Row, currency: str) -> Iterator[str]:
    change = since_warning(run, event)
    if change is None:
        yield "No warning came before: the pool fell from above the warning level to liquidation in one step."
        return
    moves = []
    for symbol, (then, now) in change.marks.items():
        by = f" ({_signed_percent(now / then - 1)})" if then and now else ""
        moves.append(f"the mark of {symbol} went from {price(then)} to {price(now)}{by}")
    funding = "no funding fell due"
    if change.settlements:
        verb = "paid" if change.funding <= 0 else "received"
        times = "1 settlement" if change.settlements == 1 else f"{change.settlements} settlements"
        funding = f"funding {verb} was {number(abs(change.funding))} {currency} ({times})"
    profit = f"unrealised profit changed by {number(change.profit)} {currency}"
    rest = ""
    if abs(change.rest) > 0.005:
        rest = f", trades, fees and transfers changed equity by {number(change.rest)} {currency}"
    yield (
        f"Since its last warning ({moment(change.time)}, ratio {ratio_percent(change.margin_ratio)}) "
        f"{'; '.join([*moves, profit])}; {funding}{rest}: equity went from {number(change.equity[0])} "
        f"to {number(change.equity[1])} {currency}."
    )


def _signed_percent(share: float) -> str:
    return f"{share * 100:+.2f} %"


def _outcome(run: Run, event: Row, currency: str) -> Iterator[str]:
    forced = [e for e in run.events
              if e.get("name") == "Reduced" and e.get("pool") == event.get("pool") and e["time"] == event["time"]]
    if forced:
        fee = sum(known(e.get("fee")) or 0.0 for e in forced)
        penalty = sum(known(e.get("penalty")) or 0.0 for e in forced)
        orders = "1 forced order" if len(forced) == 1 else f"{len(forced)} forced orders"
        yield f"{orders} closed it, for {number(fee)} of fees and {number(penalty)} {currency} of penalty."
    refund = known(event.get("refund"))
    if refund:
        yield f"The insurance fund paid {number(refund)} {currency}."


def _help(run: Run, event: Row, currency: str) -> Iterator[str]:
    found = rescue(run, event)
    pool = pool_of(event)
    if found is None or pool is None:
        return
    if found.at_trigger:
        yield (f"A deposit of {number(found.at_trigger)} {currency} (requirement less equity) would have held the "
               "ratio at 1 at that instant.")
    else:
        yield "At that instant the ratio was exactly 1: any deposit, however small, would have held it for the moment."
    if found.deposit is None:
        yield (f"What later lows would have asked for is not computed here, because {found.why_not}; "
               "they may have needed more.")
        return
    if found.worst_time is None:
        yield "No later bar of the window closed at a worse price."
        subject = "For the ratio to stand at 1 at the takeover's own marks"
    else:
        marks = {str(row.get("symbol")): known(row.get("mark_price")) for row in positions_of(event)}
        where = ", ".join(
            f"{symbol} {price(at)}" + (f", {_signed_percent(at / mark - 1)}" if (mark := marks.get(symbol)) else "")
            for symbol, at in found.worst_prices.items()
        )
        subject = (f"For the ratio to stand at 1 at the worst bar close of the rest of the window "
                   f"({moment(found.worst_time)}: {where})")
    fee = number(pool.get("liquidation_fee"))
    if found.cut is None:
        cut = "no cut would have been enough, as equity no longer covered the fee of closing"
    else:
        isolated = any(row.get("margin_mode") == "isolated" for row in positions_of(event))
        kept = ("putting the margin that this frees, less the loss, back into the position" if isolated
                else "keeping the rest")
        cut = (f"or a cut of {percent(found.cut * 100, 2)} of the size: that share closed at the takeover's marks, "
               f"paying its part of the {fee} {currency} closing fee and {kept}, with the tier rates of the takeover")
    yield (f"{subject}, it needed a deposit of {number(found.deposit)} {currency} at the takeover, {cut}. "
           "Lows inside a bar and funding after the takeover may have needed more.")


def reduction_sentence(event: Row) -> str:
    """One forced order that left the pool standing."""
    key = event.get("key")
    symbol = key.get("symbol") if isinstance(key, Mapping) else key[0] if isinstance(key, (list, tuple)) else key
    return (
        f"{moment(event.get('time'))}: {event.get('step') or 'forced order'} of {size(event.get('size'))} "
        f"{symbol or ''} at {price(event.get('price'))} "
        f"(fee {number(event.get('fee'))}, penalty {number(event.get('penalty'))}); "
        f"ratio before {ratio_percent(event.get('margin_ratio'))}, {size(event.get('remaining'))} left."
    )
