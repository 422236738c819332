"""What came up in a script, by name, and what the pages of each mode claim to be held by: a run that reaches less of it
says so, and the tests fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.oracle.account import AccountReplay
from tests.oracle.engine_run import Snapshot
from tests.oracle.replay import Replay
from tests.oracle.scenario import AddMargin, FillResting, Move

TIME = ("leg", "gap", "funding", "funding collected down to a ratio of 1", "deleveraging", "delivery of a future",
        "orders cancelled at a delivery")
ORDERS = ("resting order", "resting order filled", "refused: funds", "refused: nothing to close", "refused: expired")
BREACH = ("warning", "takeover", "bankruptcy", "orders cancelled at a breach")
STEPS = ("tier step-down", "takeover whole")
CLAIMED: dict[str, tuple[str, ...]] = {
    "isolated": (*TIME, *ORDERS, *BREACH, *STEPS, "hedge mode", "two tiers a step", "margin moved", "refused: size",
                 "refused: leverage", "refused: reducible"),
    "cross": (*TIME, *ORDERS, *BREACH, *STEPS, "hedge mode", "two tiers a step", "hedged pair", "delta-neutral pair",
              "unhedged position", "isolated beside the pool", "refused: size"),
    "multi-currency": (
        *TIME, *ORDERS, *BREACH, *STEPS, "hedge mode", "two tiers a step", "hedged pair", "delta-neutral pair",
        "unhedged position", "interest", "debt made", "debt made good", "auto-borrow off", "forced repayment",
        "conversion of collateral", "early cancellation", "isolated beside the pool", "isolated order resting",
        "isolated position undone beside the pool", "collateral off", "short option", "option bought back by force",
        "resting option order", "resting option order filled", "expiry of an option", "exercise", "refused: margin",
        "refused: limit", "refused: collateral", "refused: isolated"),
    "portfolio": (
        *TIME, *ORDERS, *BREACH, *STEPS, "interest", "debt made", "debt made good", "auto-borrow off",
        "forced repayment", "conversion of collateral", "early cancellation", "stablecoin hedge",
        "dynamic delta hedge", "basis pair", "general reduction", "isolated beside the pool",
        "isolated order resting", "isolated position undone beside the pool", "short option", "long option",
        "option sold by force", "option bought back by force", "resting option order", "resting option order filled",
        "expiry of an option", "exercise", "spot in use", "units by settlement", "refused: margin", "refused: limit",
        "refused: no auto-borrow"),
}
"""What each mode's scripts reach at the count that CI runs."""

_EVENTS = {"Warned": "warning", "TakenOver": "takeover", "Bankrupt": "bankruptcy", "Deleveraged": "deleveraging",
           "Borrowed": "debt made", "Repaid": "debt made good"}
"""Others have names by what happened."""


def seen(act: object, told: Snapshot, replay: Replay, resting: frozenset[int]) -> Iterator[str]:
    """What one act brought, by the oracle's account; `resting`: the orders that rested before it."""
    book, whole = replay.book, isinstance(replay, AccountReplay)
    if isinstance(act, Move):
        yield "gap" if act.jump else "leg"
    if told.answer == "refused":
        yield f"refused: {replay.reason}"
    elif isinstance(act, FillResting) and act.id in resting:
        option = replay.symbols[act.id][-2:] in ("-C", "-P")
        yield "resting option order filled" if option else "resting order filled"
    elif isinstance(act, AddMargin):
        yield "margin moved"
    for event in told.events:
        if event.name in _EVENTS:
            yield _EVENTS[event.name]
        option = bool(event.words) and isinstance(event.words[0], tuple) and event.words[0][0][-2:] in ("-C", "-P")
        if event.name == "Reduced":
            yield "takeover whole" if event.words[-1] == "takeover" else str(event.words[-1])
            if option:
                yield "option bought back by force" if event.numbers["size"] > 0 else "option sold by force"
            if whole and "isolated" in event.pool:
                yield "isolated position undone beside the pool"
        elif event.name == "Converted":
            yield str(event.words[-1])
        elif event.name == "Settled":
            yield "expiry of an option" if option else "delivery of a future"
            if option and event.numbers["price"] > 0:
                yield "exercise"
        elif event.name == "OrdersCancelled":
            ratio = event.numbers.get("margin_ratio")
            yield ("orders cancelled at a delivery" if ratio is None else
                   "orders cancelled at a breach" if ratio <= 1 + 1e-9 else "early cancellation")
    for kind, _, _, _ in told.flows:
        if kind in ("funding", "interest"):
            yield kind
        if kind == "funding" and not book.era.full_funding:
            yield "funding collected down to a ratio of 1"
    if any(event.name == "Reduced" for event in told.events) and not book.era.one_tier:
        yield "two tiers a step"
    yield from standing(replay)


def standing(replay: Replay) -> Iterator[str]:
    """What an account is like after an act."""
    book = replay.book
    if book.orders or book.spot:
        yield "resting order"
    if book.option_orders:
        yield "resting option order"
    if {key[2] for key in book.positions} >= {"long", "short"}:
        yield "hedge mode"
    alone, rest = list(book.held("isolated")), [*book.held("cross"), *book.options.values()]
    if alone and rest:
        yield "isolated beside the pool"
    if any(order.mode == "isolated" for order in book.orders.values()):
        yield "isolated order resting"
    for option in book.options.values():
        yield "short option" if option.size < 0 else "long option"
    if isinstance(replay, AccountReplay):
        if not replay.terms.auto:
            yield "auto-borrow off"
        if any(book.cash.get(coin, 0) > 0 for coin in replay.terms.off):
            yield "collateral off"
        for name, unit in replay.units():
            if unit.spot:
                yield "spot in use"
            if "-" in name:
                yield "units by settlement"


def missing(mode: str, scripts: Counter[str]) -> list[str]:
    """What a mode's pages claim and no script reached."""
    return [name for name in CLAIMED[mode] if not scripts[name]]
