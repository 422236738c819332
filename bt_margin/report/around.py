"""The ledger around each event, events and entries in one order."""

from __future__ import annotations

from typing import Any

from bt_margin.report.reading import Row, Run
from bt_margin.report.wording import number, price, ratio_percent, size

AROUND = {"TakenOver": 12}
ELSE = 5  # entries before and after any other event
ROWS = 260
WORDS = {
    "Warned": "warning", "OrdersCancelled": "orders cancelled", "Reduced": "reduction", "Converted": "conversion",
    "Deleveraged": "auto-deleveraging", "TakenOver": "takeover", "Bankrupt": "insurance fund paid",
    "Settled": "delivery", "ModeSwitched": "switch of the mode",
}
"""Events around which the ledger is shown; borrowing and repaying are entries of their own."""
COLUMNS = ("time", "kind", "currency", "cash", "margin", "fund", "symbol", "margin_mode", "side", "size", "price",
           "note")


def ledger(run: Run, most: int = ROWS) -> dict[str, Any] | None:
    """Rows in order of time: entries, and before those of its instant each event; at most `most`;
    None where there was no event."""
    told = [event for event in run.events if event.get("name") in WORDS]
    if not told:
        return None
    keep: set[int] = set()
    stamps = [entry.get("time") for entry in run.ledger]
    for event in told:
        at = [i for i, time in enumerate(stamps) if time == event["time"]]
        before = sum(1 for time in stamps if time is not None and time < event["time"])
        first, last = (at[0], at[-1]) if at else (before, before - 1)
        around = AROUND.get(str(event["name"]), ELSE)
        keep.update(range(max(0, first - around), min(len(stamps), last + 1 + around)))
    taken = {event["time"] for event in told if event["name"] == "TakenOver"}
    rows: list[dict[str, Any]] = []
    waiting, previous = list(told), -1
    for i in sorted(keep):
        entry = run.ledger[i]
        while waiting and (stamps[i] is None or waiting[0]["time"] <= stamps[i]):
            rows.append(_event(waiting.pop(0)))
        if i > previous + 1:
            rows.append({"skipped": i - previous - 1})
        rows.append({"hit": stamps[i] in taken, **{name: entry.get(name) for name in COLUMNS}})
        previous = i
    rows += [_event(event) for event in waiting]
    if previous + 1 < len(stamps):
        rows.append({"skipped": len(stamps) - previous - 1})
    return {"rows": rows[:most], "cut": max(0, len(rows) - most), "kept": len(keep), "all": len(stamps),
            "around": AROUND["TakenOver"], "else": ELSE}


def _event(event: Row) -> dict[str, Any]:
    return {"event": WORDS[str(event["name"])], "time": event["time"], "what": _what(event),
            "hit": event["name"] == "TakenOver"}


def _what(event: Row) -> str:
    """One line: the pool, its ratio, and what was done."""
    parts = [str(event.get("pool", ""))]
    if event.get("margin_ratio") is not None:
        parts.append(f"ratio {ratio_percent(event['margin_ratio'])}")
    name = event["name"]
    if name in ("Reduced", "Deleveraged", "Settled") and event.get("size") is not None:
        parts.append(f"{size(event['size'])} at {price(event.get('price'))}, {size(event.get('remaining'))} left")
    elif name == "OrdersCancelled":
        parts.append(f"{len(event.get('orders') or ())} orders: {event.get('reason', '')}")
    elif name == "Converted":
        parts.append(f"{size(event.get('sold_amount'))} {event.get('sold')} sold for {event.get('bought')}")
    elif name == "TakenOver":
        parts.append(f"loss {number(event.get('loss'))}, refund {number(event.get('refund'))}")
    elif name == "Bankrupt":
        parts.append(f"{number(event.get('amount'))} {event.get('currency')}")
    elif name == "ModeSwitched":
        parts.append(f"{event.get('old')} to {event.get('new')}" + (", refused" if event.get("reasons") else ""))
    return " · ".join(part for part in parts if part)
