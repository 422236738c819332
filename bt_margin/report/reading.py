"""What the report reads: a run as plain data, and the pool and positions that one of its events speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bt_margin.report.wording import known

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


def sign_of(row: Row) -> int:
    """1 for a long, -1 for a short position."""
    side = row.get("position_side")
    if side in ("long", "short"):
        return 1 if side == "long" else -1
    return -1 if (known(row.get("contracts")) or 0.0) < 0 else 1
