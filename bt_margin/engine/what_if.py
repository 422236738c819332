"""What if these trades were made: the same book with a few positions more, before and after, charge by charge.

Trades happen at the mark (spot at the index of its pair) without fee or slippage: equity stays as it is, and what the
hedge does to the margin is all that moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bt_margin.errors import InputError
from bt_margin.model.assessment import AccountReport, RiskUnitReport
from bt_margin.model.instrument import Instrument
from bt_margin.model.market import Market

CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9", "mmr", "imr")
TOTALS = ("adjusted_equity_usd", "initial_margin_usd", "maintenance_margin_usd", "available_usd", "margin_ratio")


@dataclass(frozen=True, slots=True)
class Change:
    """One figure before and after. None: it did not exist."""

    before: float | None
    after: float | None

    @property
    def by(self) -> float:
        """After less before; what did not exist counts nothing."""
        return (self.after or 0.0) - (self.before or 0.0)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A book before and after some trades, in one mode. `trades`: signed contracts or coins by symbol."""

    trades: Mapping[str, float]
    before: AccountReport
    after: AccountReport

    @property
    def units(self) -> dict[str, dict[str, Change]]:
        """By risk unit: MR1 to MR9, `mmr` and `imr`; empty in modes without units."""
        was, then = ({row.unit: row for row in report.risk_units} for report in (self.before, self.after))
        return {
            name: {charge: Change(_figure(was.get(name), charge), _figure(then.get(name), charge))
                   for charge in CHARGES}
            for name in sorted({*was, *then})
        }

    @property
    def account(self) -> dict[str, Change]:
        """The account's equity, margins and ratio."""
        return {name: Change(getattr(self.before.account, name), getattr(self.after.account, name)) for name in TOTALS}

    def to_dict(self) -> dict[str, Any]:
        """The public JSON shape."""
        def row(changes: Mapping[str, Change]) -> dict[str, dict[str, float | None]]:
            return {name: {"before": c.before, "after": c.after} for name, c in changes.items()}

        return {"mode": self.before.mode, "trades": dict(self.trades), "account": row(self.account),
                "risk_units": {name: row(changes) for name, changes in self.units.items()}}


def _figure(row: RiskUnitReport | None, charge: str) -> float | None:
    return None if row is None else float(getattr(row, charge))


def traded(
    book: Mapping[str, Any], symbol: str, size: float, instrument: Instrument, market: Market, leverage: float | None
) -> dict[str, Any]:
    """A book (as its file has it) after one trade at the mark: its positions and balances changed, all else as it was.

    Adding to a position averages its entry; reducing one takes the profit into the balance. Raises InputError where the
    symbol is held in hedge mode or as a loan; MissingPrice.
    """
    if size == 0:
        raise InputError(f"what_if.{symbol}: expected a size, found 0")
    balances, rows = dict(book.get("balances", {})), [dict(row) for row in book.get("positions", [])]
    result = {**book, "balances": balances, "positions": rows}
    if instrument.is_spot:
        _book(balances, instrument.base, size)
        _book(balances, instrument.quote, -size * float(market.index(symbol)))
        return result
    mark = float(market.mark(symbol))
    if instrument.is_option:
        _book(balances, instrument.settle, -size * instrument.contract_size * mark)
    row = next((row for row in rows if row["symbol"] == symbol and row.get("margin_mode", "cross") == "cross"), None)
    if row is None:
        rows.append({"symbol": symbol, "contracts": size, "entry_price": mark}
                    | ({} if leverage is None else {"leverage": leverage}))
        return result
    if row.get("position_side", "net") != "net":
        raise InputError(f"what_if.{symbol}: held in hedge mode; trades of what-ifs are one-way")
    held, entry, unit = float(row["contracts"]), float(row["entry_price"]), instrument.contract_size
    after = held + size
    if held * size > 0:
        row["entry_price"] = instrument.payoff.average(abs(held) * unit, entry, abs(size) * unit, mark)
    else:
        closed = max(-abs(held), -abs(size)) * (-1.0 if held > 0 else 1.0)  # signed as the position
        if not instrument.is_option:
            _book(balances, instrument.settle, float(instrument.pnl(closed, entry, mark)))
        if after * held < 0:
            row["entry_price"] = mark
    row["contracts"] = after
    if after == 0:
        rows.remove(row)
    return result


def _book(balances: dict[str, float], currency: str, amount: float) -> None:
    balances[currency] = balances.get(currency, 0.0) + amount
