"""What `bt-margin compare` and `run` show: verdicts, what they hang on, events and the ledger around forced orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bt_margin import cli_tables as show
from bt_margin.model.moment import MINUTE, iso

if TYPE_CHECKING:
    from rich.table import Table

    from bt_margin.study.result import RunResult


def verdict_table(results: Sequence[RunResult]) -> Table:
    """One row a run: what became of it, and what it cost."""
    table = show.table(
        "Verdicts",
        (
            "window",
            "strategy",
            "lev",
            "mode",
            "verdict",
            "when (UTC)",
            "distance at entry",
            "lowest ratio",
            "forced",
            "fees",
            "funding",
            "interest",
            "liq. cost",
            "final equity",
        ),
    )
    colours = {
        "survived": "green",
        "reduced": "yellow",
        "liquidated": "red",
        "bankrupt": "bold red",
        "refused": "magenta",
        "no data": "dim",
        "failed": "red",
    }
    for result in results:
        row = result.row
        table.add_row(
            row["window"],
            row["strategy"],
            f"{row['leverage']:g}x",
            row["mode"],
            f"[{colours[row['verdict']]}]{row['verdict']}{'*' if row['path_dependent'] else ''}[/]",
            (row["liquidated_at"] or "")[:16].replace("T", " "),
            show.distance(row["entry_distance"]),
            show.percent(row["min_margin_ratio"]),
            str(row["forced_orders"]),
            *(
                show.whole(row[k])
                for k in ("fees_usd", "funding_usd", "interest_usd", "liquidation_cost_usd", "final_equity_usd")
            ),
        )
    return table


def path_notes(results: Sequence[RunResult]) -> list[str]:
    """Which verdicts hang on the path through the bar, and for which that was not checked."""
    notes = [
        f"* the verdict hangs on the path through the bar: with --path ohlc {r.row['mode']}, {r.row['leverage']:g}x, "
        f"{r.row['window']} is {r.row['ohlc_verdict']}"
        for r in results if r.row["path_dependent"]
    ]
    hours = sum(bool(r.data) and r.row["path_dependent"] is None for r in results)
    if hours and any(row["step_ms"] > MINUTE for r in results for row in r.data):
        notes.append(f"{hours} of {len(results)} verdicts are not checked against --path ohlc: only hours are at hand")
    return notes


def event_table(result: RunResult) -> Table:
    """Every event of a run, in order."""
    events = show.table("Events", ("time", "event", "pool", "ratio", "what"))
    for event in result.events:
        events.add_row(
            iso(event["time"]), event["name"], event["pool"], show.percent(event.get("margin_ratio")), _what(event)
        )
    return events


def ledger_table(result: RunResult, around: int = 6) -> Table:
    """The entries around every forced order, or the first of a run without one."""
    table = show.table(
        "Ledger around forced orders",
        ("time", "kind", "currency", "cash", "margin", "fund", "symbol", "size", "price", "note"),
    )
    forced = ("forced", "conversion", "forced repayment")
    hot = [i for i, e in enumerate(result.ledger) if e["note"] in forced or e["kind"] == "clawback"]
    keep = sorted({j for i in hot for j in range(max(0, i - around), min(len(result.ledger), i + around + 1))})
    if not hot:
        keep = list(range(min(2 * around, len(result.ledger))))
    for i in keep:
        e = result.ledger[i]
        table.add_row(
            iso(e["time"]),
            e["kind"],
            e["currency"],
            show.money(e["cash"]),
            show.money(e["margin"]),
            show.money(e["fund"]),
            e["symbol"],
            f"{e['size']:,g}",
            show.money(e["price"]),
            e["note"],
        )
    return table


def _what(event: dict[str, Any]) -> str:
    if event["name"] == "Reduced":
        return f"{event['size']:+,g} at {event['price']:,.10g} ({event['step']}), {event['remaining']:,g} left"
    if event["name"] == "TakenOver":
        return f"loss {event['loss']:,.2f}, refund {event['refund']:,.2f}"
    if event["name"] == "Converted":
        return (f"{event['sold_amount']:,.6g} {event['sold']} sold at {event['price']:,.10g} for "
                f"{event['bought_amount']:,.6g} {event['bought']} owed ({event['reason']})")
    if event["name"] == "Borrowed":
        return f"{event['amount']:,.6g} {event['currency']} owed"
    if event["name"] == "ModeSwitched":
        refused = f", refused: {'; '.join(event['reasons'])}" if event["reasons"] else ""
        return f"{event['old']} to {event['new']}{refused}"
    if event["name"] == "Repaid":
        return f"{event['currency']} is owed no more"
    if event["name"] == "Bankrupt":
        return f"insurance fund paid {event['amount']:,.2f} {event['currency']}"
    if event["name"] == "Refused":
        short = f", short of {event['shortfall']:,.2f}" if event["shortfall"] else ""
        return f"{event['symbol']}: {event['reason']}{short}"
    if event["name"] == "OrdersCancelled":
        return f"{len(event['orders'])} orders"
    return ""


def assumptions(path: str, rules_as_of: str) -> list[str]:
    walks = {
        "adverse": "Each bar is walked open, the extreme that hurts the account, the other, close; all instruments' "
        "lows together and highs together, which is a bound.",
        "ohlc": "Each bar is walked open, high, low, close.",
        "close": "Each bar is judged at its open fills and its close only: wicks are not seen.",
    }
    return [
        walks[path],
        "Within a leg all prices move in a straight line; the first breach is solved for and forced orders trade at "
        "that mark. A jump from one bar's close to the next one's open is judged at the open.",
        "Forced orders trade at the mark without slippage and pay the taker fee and a penalty (closed notional x the "
        "maintenance rate of the closed size's tier); deleveraging is not simulated unless scripted.",
        "A whole account (multi-currency, portfolio) in breach sells its richest coin for what it owes, with "
        "fee and penalty (inferred); interest is charged at each full hour, by the rules' rates unless given.",
        "Fees of a regular level-1 account. Exposure = gross notional / starting equity, entered once and held; the "
        "leverage setting is twice the exposure unless given.",
        "Rules: each instant by the revision in force at that instant."
        if rules_as_of == "then"
        else f"Rules: all tables frozen at {rules_as_of}.",
    ]
