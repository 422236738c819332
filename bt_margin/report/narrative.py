"""Why a pool was taken over, in one paragraph of plain text made from the data alone.

Equity and requirement just before the takeover term by term, what moved since the last warning, what the forced
orders cost, and what would have kept the ratio at 1 (see `rescue`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bt_margin.report import collateral
from bt_margin.report.reading import Row, Run, contract, pool_of, positions_of, requirement
from bt_margin.report.rescue import Rescue, rescue
from bt_margin.report.wording import known, moment, number, percent, price, ratio_percent, size

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
    coins: bool = False  # the pool is the whole account: its coins and debts change in value too

    @property
    def rest(self) -> float:
        """What trades, fees and transfers changed, and the value of coins and debts."""
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
        _profit(now, after) - _profit(before, then), funding, count, bool(collateral.sentence(event)),
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
        *filter(None, (collateral.sentence(event),)),
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
        if charge.get("name") == "borrow margin" and notional is None:
            notional = (known(detail.get("amount")) or 0.0) * (known(detail.get("usd")) or 0.0)
        elif known(detail.get("usd")) and notional is not None:  # of a contract, in its settlement coin
            notional *= float(detail["usd"])
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
        causes = "coins, debts, trades and fees" if change.coins else "trades, fees and transfers"
        rest = f", {causes} changed equity by {number(change.rest)} {currency}"
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
        money = _settled_in(forced, currency)
        yield f"{orders} closed it, for {number(fee)} of fees and {number(penalty)} {money} of penalty."
    for converted in run.events:
        if converted.get("name") == "Converted" and converted["time"] == event["time"]:
            what = collateral.conversion_sentence(converted).partition(": ")[2]
            yield what[0].upper() + what[1:]
    refund = known(event.get("refund"))
    if number(refund) not in (number(0), number(None)):  # dust of rounding is no payment
        yield f"The insurance fund paid {number(refund)} {currency}."


def _settled_in(forced: Sequence[Row], currency: str) -> str:
    """What fees and penalties of forced orders are in: the coin the contracts settle in."""
    found = {contract(str(_symbol(e)))[1] for e in forced} - {""}
    return found.pop() if len(found) == 1 else currency


def _symbol(event: Row) -> Any:
    key = event.get("key")
    return key.get("symbol") if isinstance(key, Mapping) else key[0] if isinstance(key, (list, tuple)) else key


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
    if _reduced_before(run, event):
        yield "Forced orders had reduced the pool before; what follows is about the positions held at the takeover."
    if found.deposit is None:
        yield (f"What the prices after it would have asked for is not computed here, because {found.why_not}; "
               "they may have needed more.")
        return
    if found.worst_time is None:
        yield ("No later bar of the window closed at a worse price." if found.closes_only
               else "No bar from the takeover's to the end of the window held a worse price.")
        if not found.deposit:
            return
    fee = number(pool.get("liquidation_fee"))
    if found.cut is None:
        cut = "no cut would have been enough, as equity no longer covered the fee of closing"
    else:
        isolated = any(row.get("margin_mode") == "isolated" for row in positions_of(event))
        kept = ("putting the margin that this frees, less the loss, back into the position" if isolated
                else "keeping the rest")
        cut = (f"or a cut of {percent(found.cut * 100, 2)} of the size: that share closed at the takeover's marks, "
               f"paying its part of the {fee} {currency} closing fee and {kept}, with the tier rates of the takeover")
    left_out = "Prices inside a bar and funding" if found.closes_only else "Funding"
    yield (f"For the ratio to stand at 1 at {_worst_point(found, event)}, it needed a deposit of "
           f"{number(found.deposit)} {currency} at the takeover, {cut}. "
           f"{left_out} after the takeover {'are' if found.closes_only else 'is'} not included.")


def _reduced_before(run: Run, event: Row) -> bool:
    """True when forced orders at other marks than the takeover's own cut the pool since it was last taken over."""
    events = list(run.events)
    index = next((i for i, other in enumerate(events) if other is event), 0)
    now = {str(row.get("symbol")): row.get("mark_price") for row in positions_of(event)}
    for other in reversed(events[:index]):
        if other.get("pool") != event.get("pool"):
            continue
        if other.get("name") == "TakenOver":
            break
        if other.get("name") == "Reduced":
            then = {str(row.get("symbol")): row.get("mark_price") for row in positions_of(other)}
            if other["time"] != event["time"] or any(mark != now.get(symbol) for symbol, mark in then.items()):
                return True
    return False


def _worst_point(found: Rescue, event: Row) -> str:
    """The point that deposit and cut are computed for, and what it is the worst of."""
    if found.worst_time is None:
        return "the takeover's own marks"
    marks = {str(row.get("symbol")): known(row.get("mark_price")) for row in positions_of(event)}
    prices = "; ".join(
        f"{symbol} {price(at)}" + (f", {_signed_percent(at / mark - 1)}" if (mark := marks.get(symbol)) else "")
        for symbol, at in found.worst_prices.items()
    )
    where = f"{moment(found.worst_time)}: {prices}"
    if found.closes_only:
        return f"the worst bar close of the rest of the window ({where})"
    if len(found.worst_prices) == 1:
        side = {"low": "lowest", "high": "highest"}.get(found.worst_at, "worst")
        return f"the {side} price from the takeover's bar to the end of the window (bar ending {where})"
    return (f"the worst point from the takeover's bar to the end of the window (the {found.worst_at}s of all symbols, "
            f"taken together, in the bar ending {where})")


def forced_sentence(event: Row) -> str:
    """One forced order, or conversion of coins, that left the pool standing."""
    if event.get("name") == "Converted":
        return collateral.conversion_sentence(event)
    return (
        f"{moment(event.get('time'))}: {event.get('step') or 'forced order'} of {size(event.get('size'))} "
        f"{_symbol(event) or ''} at {price(event.get('price'))} "
        f"(fee {number(event.get('fee'))}, penalty {number(event.get('penalty'))}); "
        f"ratio before {ratio_percent(event.get('margin_ratio'))}, {size(event.get('remaining'))} left."
    )
