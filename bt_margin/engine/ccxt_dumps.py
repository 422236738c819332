"""Dumps of ccxt's OKX replies as a book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bt_margin.errors import InputError
from bt_margin.model.moment import iso


def book_of_dumps(
    positions: Sequence[Mapping[str, Any]], balance: Mapping[str, Any], time: str | None = None,
    rules: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The book of `fetch_positions()` and `fetch_balance()`. Raises InputError for what are no such replies.

    Balances come from `info` (`cashBal`: ccxt's own `total` already holds unrealised profit), the sign of a one-way
    position from `side`, USD prices of currencies from `eqUsd / eq`.
    """
    details = _path(balance, "balance", "info", "data", 0, "details")
    book: dict[str, Any] = {
        "time": time or _stamp(positions, balance), "rules": dict(rules or {}), "balances": {}, "positions": [],
        "prices": {"mark": {}, "index": {}}, "borrow": {"interest": {}},
    }
    for i, row in enumerate(details):
        name = f"balance: details[{i}]"
        currency, equity, usd = _path(row, name, "ccy"), _number(row, name, "eq", 0.0), _number(row, name, "eqUsd", 0.0)
        book["balances"][currency] = _number(row, name, "cashBal")
        if equity * usd > 0:
            book["prices"]["index"][f"{currency}/USD"] = usd / equity
        interest = _number(row, name, "interest", 0.0)
        if interest > 0:
            book["borrow"]["interest"][currency] = interest
    for i, row in enumerate(positions):
        name = f"positions[{i}]"
        contracts = _number(row, name, "contracts", 0.0)
        if not contracts:
            continue
        info = row.get("info", {})
        symbol, margin_mode = _path(row, name, "symbol"), _path(row, name, "marginMode")
        side, short = info.get("posSide", "net"), _path(row, name, "side") == "short"
        entry: dict[str, Any] = {
            "symbol": symbol, "contracts": -contracts if short and side == "net" else contracts,
            "position_side": side, "entry_price": _number(row, name, "entryPrice"), "margin_mode": margin_mode,
            "leverage": _number(row, name, "leverage", 0.0) or _number(info, name, "lever", 0.0),
        }
        if margin_mode == "isolated":
            entry["margin"] = _number(info, name, "margin", 0.0) or _number(row, name, "collateral", 0.0)
        book["positions"].append(entry)
        book["prices"]["mark"][symbol] = _number(row, name, "markPrice")
    return book


def _path(value: Any, name: str, *keys: str | int) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{name}: expected ccxt's OKX reply with {'.'.join(map(str, keys))}") from None
    return value


def _number(row: Mapping[str, Any], name: str, key: str, missing: float | None = None) -> float:
    """A figure as number or text; `missing`: what an absent or empty one means, None where it has to be there."""
    value = _path(row, name, key) if missing is None else row.get(key) or missing
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: {key}: expected a number in ccxt's OKX reply, found {value!r}") from None


def _stamp(positions: Sequence[Mapping[str, Any]], balance: Mapping[str, Any]) -> str:
    times = [_number(row, f"positions[{i}]", "timestamp", 0.0) for i, row in enumerate(positions)]
    times += [_number(row, f"balance: data[{i}]", "uTime", 0.0)
              for i, row in enumerate(balance.get("info", {}).get("data", []))]
    last = max(times, default=0.0)
    if not last:
        raise InputError("from_ccxt: no timestamp in the dumps; pass time=")
    return iso(int(last))
