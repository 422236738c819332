"""What a run came to, by the worst that happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bt_margin.model.moment import iso


def judge_run(strategy: Any, found: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """(verdict, time of the first takeover, reason), by the worst that happened. The reason ends with orders refused on
    the way, by contract: a book whose hedge was refused is another book."""
    events = found["events"]
    verdict, at, reason = _worst(strategy, found)
    if verdict == "refused":
        return verdict, at, reason
    refusals: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["name"] == "Refused":
            refusals.setdefault(event["symbol"], []).append(event)
    told = [f"{symbol} refused {len(rows)} time{'s' if len(rows) > 1 else ''}, first at {iso(rows[0]['time'])}: "
            f"{rows[0]['reason']}" for symbol, rows in refusals.items()]
    return verdict, at, "; ".join(text for text in (reason, *told) if text)


def _worst(strategy: Any, found: Mapping[str, Any]) -> tuple[str, str | None, str]:
    events = found["events"]
    taken = next((e for e in events if e["name"] == "TakenOver"), None)
    at = iso(taken["time"]) if taken else None
    refused = getattr(strategy, "refused", "")
    traded = any(e["kind"] == "trade" for e in found["ledger"])
    first_refusal = next((e for e in events if e["name"] == "Refused"), None)
    if refused or (first_refusal and not traded):
        return "refused", None, refused or "{symbol}: {reason}".format(**(first_refusal or {}))
    paid = paid_by_fund(events)
    if paid:
        return "bankrupt", at, f"{taken['pool'] if taken else 'account'}: the insurance fund paid {paid}"
    if taken:
        before = [e for e in events if e["name"] in ("Reduced", "Converted") and e["time"] <= taken["time"]]
        step = next((e for e in reversed(before) if e["name"] == "Reduced"), before[-1])
        if step["name"] == "Converted":
            return "liquidated", at, f"{taken['pool']}: {step['sold']} sold to buy back {step['bought']}"
        return "liquidated", at, f"{taken['pool']} taken over at {step['price']:,.10g}"
    if any(e["name"] in ("Reduced", "Converted") for e in events):
        return "reduced", None, "forced orders, pool kept"
    if any(e["name"] == "Deleveraged" for e in events):
        return "reduced", None, "auto-deleveraged, pool kept"
    return "survived", None, ""


def paid_by_fund(events: Sequence[Mapping[str, Any]]) -> str:
    """What the insurance fund paid, each currency by itself (`1,200.00 USDT and 0.5 BTC`); "" for nothing."""
    totals: dict[str, float] = {}
    for event in events:
        if event["name"] == "Bankrupt":
            totals[event["currency"]] = totals.get(event["currency"], 0.0) + event["amount"]
    return " and ".join(
        f"{amount:,.2f} {currency}" if amount >= 100 else f"{amount:,.6g} {currency}"
        for currency, amount in sorted(totals.items()) if amount
    )
