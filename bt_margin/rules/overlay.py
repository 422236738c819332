"""A caller's own figures, laid over the tables: they win at every date and are graded "user"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bt_margin.errors import InputError
from bt_margin.model.instrument import Kind, is_symbol, parse
from bt_margin.model.number import LARGEST, usable
from bt_margin.rules.credit import BorrowRow, MultiCurrencyRow
from bt_margin.rules.discounts import DiscountRow
from bt_margin.rules.families import candidates
from bt_margin.rules.history import ALWAYS, History, Revision
from bt_margin.rules.loading import Table, Tables
from bt_margin.rules.portfolio import checked
from bt_margin.rules.tables import (
    FEE_KINDS,
    DeliveryRow,
    FeeRow,
    InstrumentRow,
    LiquidationRow,
    MarginRow,
    MarginTierRow,
    OrderRow,
    TierRow,
    row_of,
)

PARAMETER_ROWS: dict[str, Any] = {
    "liquidation": LiquidationRow, "orders": OrderRow, "margin": MarginRow, "delivery": DeliveryRow,
    "multi_currency": MultiCurrencyRow,
}
"""Tables put together from single parameters, and the row each makes."""
_SOURCE = "the caller"
_FIGURES = ("contract_size", "tick", "lot")


def instruments(tables: Tables, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Table]:
    """The instrument and tier tables with the caller's entries. Raises InputError with the key's path.

    Tiers of a derivative are position tiers in contracts, those of a spot pair its borrow tiers in base coin.
    """
    base = tables["instruments"]
    listed, ladders, borrowing = dict(base), dict(tables["position_tiers"]), dict(tables["margin_tiers"])
    for symbol, entry in entries(given, "instruments").items():
        path = f"instruments.{symbol}"
        if not isinstance(symbol, str) or not is_symbol(symbol):
            raise InputError(f"{path}: expected a unified symbol such as BTC/USDT or BTC/USDT:USDT")
        entry = entries(entry, path)
        for key in entry:
            if key not in (*_FIGURES, "tiers"):
                raise InputError(f"{path}.{key}: unknown key; expected contract_size, tick, lot or tiers")
        kind = parse(symbol).kind
        spot = kind is Kind.SPOT
        figures = {key: _number(entry[key], f"{path}.{key}", key) for key in _FIGURES if key in entry}
        if "tiers" in entry:
            if kind is Kind.OPTION:
                raise InputError(f"{path}.tiers: options have no position tiers; leave them out")
            rows = _ladder(symbol, entry["tiers"], f"{path}.tiers", spot)
            (borrowing if spot else ladders)[symbol] = _always(rows, path)
        if spot and figures.get("contract_size", 1.0) != 1.0:
            raise InputError(f"{path}.contract_size: spot sizes are coins; leave it out or give 1")
        known = next((base[subject] for subject in candidates(symbol) if subject in base), None)
        if figures or known is None:
            listed[symbol] = _listing(symbol, known, {"contract_size": 1.0} | figures if spot else figures)
    return {"instruments": listed, "position_tiers": ladders, "margin_tiers": borrowing}


def fees(base: Table, given: Mapping[str, Mapping[str, float]]) -> Table:
    """Fees with the caller's rates; a rate that is not given stays the table's.

    Raises InputError with the path.
    """
    table = dict(base)
    for kind, rates in entries(given, "fees").items():
        path = f"fees.{kind}"
        if kind not in FEE_KINDS:
            raise InputError(f"{path}: unknown kind; expected one of {', '.join(FEE_KINDS)}")
        if not isinstance(rates, Mapping):
            raise InputError(f"{path}: expected maker and/or taker rates, found {rates!r}")
        for key in rates:
            if key not in ("maker", "taker"):
                raise InputError(f"{path}.{key}: unknown key; expected maker or taker")
        values = {key: _number(rate, f"{path}.{key}", "rate") for key, rate in rates.items()}
        if len(values) == 2:
            table[kind] = _always(FeeRow(**values), path)
        elif values:
            table[kind] = _adjusted(base[kind], values, path)
    return table


def discounts(base: Table, given: Mapping[str, Any]) -> Table:
    """Discount tiers with the caller's rows [upper bound in coin, rate]; beyond the last bound nothing counts.

    Raises InputError with the path.
    """
    table = dict(base)
    for currency, rows in entries(given, "discounts").items():
        path = f"discounts.{currency}"
        row = DiscountRow(_code(currency, path), "coin", _rows(rows, 2, path, "[upper bound in coin, rate]"), path=path)
        row.tiers  # noqa: B018  a wrong row is refused here, not at the first assessment
        table[currency] = _always(row, path)
    return table


def borrow_tiers(base: Table, given: Mapping[str, Any]) -> Table:
    """Borrow tiers with the caller's rows [max amount, maintenance rate, initial rate], in the coin.

    Raises InputError with the path.
    """
    table, shape = dict(base), "[max amount, maintenance rate, initial rate]"
    for currency, rows in entries(given, "borrow_tiers").items():
        path = f"borrow_tiers.{currency}"
        row = BorrowRow(_code(currency, path), _rows(rows, 3, path, shape), path=path)
        if not row.rows:
            raise InputError(f"{path}: expected rows {shape}, found none")
        row.tiers  # noqa: B018
        table[currency] = _always(row, path)
    return table


def _code(currency: Any, path: str) -> str:
    if not isinstance(currency, str) or re.fullmatch("[A-Z0-9]+", currency) is None:
        raise InputError(f"{path}: expected a currency such as BTC, found {currency!r}")
    return currency


def _rows(rows: Any, width: int, path: str, shape: str) -> Any:
    if not isinstance(rows, (list, tuple)):
        raise InputError(f"{path}: expected rows {shape}, found {rows!r}")
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) != width:
            raise InputError(f"{path}[{i}]: expected {shape}, found {row!r}")
    return tuple(tuple(_number(x, f"{path}[{i}]", "") for x in row) for i, row in enumerate(rows))


def parameters(tables: Tables, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Table]:
    """Tables of single parameters with the caller's choices, such as {"liquidation": {"early_cancel": "free-margin"}}.

    Raises InputError with the path for a table, a parameter or a value that does not exist.
    """
    found: dict[str, Table] = {}
    for name, choices in entries(given, "parameters").items():
        if name == "portfolio":
            found[name] = portfolio(tables[name], choices)
            continue
        if name not in PARAMETER_ROWS:
            raise InputError(f"rules.{name}: expected one of {', '.join(PARAMETER_ROWS)}, portfolio")
        table = dict(tables[name])
        for parameter, value in entries(choices, f"rules.{name}").items():
            path = f"rules.{name}.{parameter}"
            if parameter not in table:
                raise InputError(f"{path}: unknown; expected one of {', '.join(sorted(table))}")
            table[parameter] = _always(value, path)
        first = {parameter: history.revisions[0].row for parameter, history in table.items()}
        row_of(PARAMETER_ROWS[name], first, f"rules.{name}")
        found[name] = table
    return found


def portfolio(base: Table, given: Mapping[str, Any]) -> Table:
    """The portfolio table with the caller's figures: "mr4_floor" is every coin's, "SOL.mr4_floor" that of one.

    Raises InputError with the path.
    """
    table = dict(base)
    for key in sorted(entries(given, "portfolio"), key=lambda key: "." in str(key)):  # one coin's after every coin's
        path = f"portfolio.{key}"
        coin, _, parameter = str(key).rpartition(".")
        row = checked(parameter, given[key], path)
        if not coin:
            table = {subject: kept for subject, kept in table.items() if subject.partition(".")[2] != parameter}
        table[f"{coin or '*'}.{parameter}"] = _always(row, path)
    _same_columns(table)
    return table


def _same_columns(table: Table) -> None:
    """Every row of MR9's tiers has a factor for each price and one above them. Raises InputError."""
    columns: dict[str, set[int]] = {"mr9_prices": set(), "mr9_tiers": set()}
    for subject, history in table.items():
        parameter = subject.rpartition(".")[2]
        for row in (revision.row for revision in history if parameter in columns):
            columns[parameter] |= {len(row) + 2} if parameter == "mr9_prices" else {len(tier) for tier in row}
    if len(columns["mr9_prices"] | columns["mr9_tiers"]) > 1:
        raise InputError(
            "portfolio.mr9_tiers: expected rows [upper bound, factor above the first price, a factor for each of "
            "mr9_prices]"
        )


def entries(given: Any, path: str) -> Mapping[str, Any]:
    """What is given by name; nothing is an empty table. Raises InputError for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{path}: expected a table such as {{key: value}}, found {given!r}")
    return given


def _always(row: Any, path: str) -> History[Any]:
    return History([Revision(ALWAYS, row, "user", _SOURCE)], path)


def _adjusted(
    history: History[Any], values: Mapping[str, float], path: str, everywhere: bool = False
) -> History[Any]:
    """Every revision with the caller's figures in it.

    `everywhere`: what the caller gave is enough to stand alone, so gaps close and the first revision
    reaches back.
    """
    source = f"{_SOURCE} ({', '.join(values)}); the rest: "
    revisions = [
        replace(revision, row=replace(revision.row, **values), grade="user", source=source + revision.source)
        for revision in history
    ]
    if everywhere:
        revisions = [replace(revision, until=None, listed=None) for revision in revisions]
        revisions[0] = replace(revisions[0], effective=ALWAYS)
    return History(revisions, path)


def _listing(symbol: str, known: History[Any] | None, figures: dict[str, float]) -> History[Any]:
    path = f"instruments.{symbol}"
    alone = "contract_size" in figures
    if known is not None:
        return _adjusted(known, figures, path, everywhere=alone)
    if not alone:
        raise InputError(f"{path}.contract_size: missing, and the tables do not know {symbol}")
    return _always(
        InstrumentRow(figures["contract_size"], figures.get("tick", 0.0), figures.get("lot", 0.0)), path
    )


def _ladder(symbol: str, rows: Any, path: str, spot: bool) -> TierRow | MarginTierRow:
    if not isinstance(rows, (list, tuple)) or not rows:
        raise InputError(
            f"{path}: expected rows [max size, maintenance, initial, max leverage], found {rows!r}"
        )
    figures = tuple(tuple(r) if isinstance(r, list) else r for r in rows)
    row = MarginTierRow(symbol, figures, path=path) if spot else TierRow(symbol, figures, path=path)
    row.tiers  # noqa: B018  a wrong row is refused here, not at the first assessment
    return row


def _number(value: Any, path: str, key: str) -> float:
    """A finite number that its key allows: sizes above zero, steps not negative, rates between -1 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not usable(value):
        raise InputError(f"{path}: expected a finite number, at most {LARGEST:g}, found {value!r}")
    if key == "contract_size" and value <= 0:
        raise InputError(f"{path}: expected a number above zero, found {value!r}")
    if key in ("tick", "lot") and value < 0:
        raise InputError(f"{path}: expected zero (any) or more, found {value!r}")
    if key == "rate" and not -1 < value < 1:
        raise InputError(f"{path}: expected a fraction of notional such as 0.0005, found {value!r}")
    return float(value)
