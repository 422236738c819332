"""Changes to an account that are no trades: the leverage setting, isolated margin, money in and out."""

from __future__ import annotations

import math
from dataclasses import replace

from bt_margin.engine import orders as order_rules
from bt_margin.engine.orders import Refusal
from bt_margin.engine.present import Present
from bt_margin.errors import InputError
from bt_margin.model.account import Order
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.loan import MarginPosition
from bt_margin.modes import options
from bt_margin.modes import spot_margin as spot_margin_rules


def set_leverage(now: Present, key: PositionKey, leverage: float) -> Refusal | None:
    """Change an open position's leverage setting (recorded DEMO-LEVERAGE-CHANGE-*, -LIMIT-4).

    Isolated: need = initial margin at entry at the new leverage; when margin + upl covers it nothing moves,
    otherwise the margin becomes need - upl and cash pays the top-up. Cross: only the initial margin changes.
    """
    change = _changed(now, key, leverage)
    if isinstance(change, Refusal):
        return change
    now.account.apply(change)
    return None


def _changed(now: Present, key: PositionKey, leverage: float) -> Entry | Refusal:
    """The entry that gives a position another leverage."""
    position = now.account.positions.get(key)
    if position is None:
        raise InputError(f"set_leverage: no position {key.symbol} {key.margin_mode} {key.side}")
    if not 1 <= leverage < math.inf:
        raise InputError(f"leverage: expected a setting of 1 or more, found {leverage!r}")
    if position.instrument.is_option:
        return Refusal("options know no leverage setting")
    if now.mode.name == "portfolio" and key.margin_mode == "cross":
        return Refusal("portfolio margin knows no leverage setting")
    if isinstance(position, MarginPosition):
        mark = float(now.market.mark(key.symbol))
        reason = spot_margin_rules.leverage_refusal(position, leverage, mark, now.rules)
        if reason:
            return Refusal(reason)
    else:
        tiers = now.rules.tiers(key.symbol)
        if leverage > tiers.max_leverage:
            return Refusal(f"leverage {leverage:g} is above the maximum {tiers.max_leverage:g} (59102)")
        if abs(position.size) > tiers.max_size(leverage):
            return Refusal(f"the position exceeds what leverage {leverage:g} allows (59247)")
    settle, top_up = position.currency, 0.0
    if key.margin_mode == "isolated":
        need = replace(position, leverage=leverage).initial_at_entry()
        upl = float(position.unrealised(now.market))
        if position.margin + upl < need:
            top_up = need - upl - position.margin
            free = now.transferable(settle)
            if top_up > free:
                return Refusal("insufficient cash for the margin top-up", top_up - free, settle)
    return Entry(now.market.time, EntryKind.TRANSFER, settle, cash=-top_up, margin=top_up, key=key,
                 leverage=leverage, note=f"leverage {leverage:g}")


def add_margin(now: Present, key: PositionKey, amount: float) -> Refusal | None:
    """Move cash into (negative: out of) the margin of an isolated position.

    At most margin - initial margin at entry + min(0, upl) comes out (recorded DEMO-REDUCIBLE-1..3, code 59301).
    Raises InputError where there is no such position.
    """
    position = now.account.positions.get(key)
    if position is None or key.margin_mode != "isolated":
        raise InputError(f"add_margin: no isolated position {key.symbol} {key.side}")
    if not math.isfinite(amount):
        raise InputError(f"add_margin: expected a finite amount, found {amount!r}")
    currency = position.currency
    free = now.transferable(currency)
    if amount > free:
        return Refusal("insufficient cash to add as margin", amount - free, currency)
    reducible = reducible_margin(now, key)
    if -amount > reducible:
        reason = f"at most {reducible:,.10g} {currency} of margin can be taken out (59301)"
        return Refusal(reason, -amount - reducible, currency)
    now.account.apply(Entry(now.market.time, EntryKind.TRANSFER, currency, cash=-amount, margin=amount, key=key,
                             note="margin added" if amount > 0 else "margin taken out"))
    return None


def reducible_margin(now: Present, key: PositionKey) -> float:
    """How much margin may leave an isolated position now."""
    position = now.account.positions[key]
    if position.instrument.is_option:
        short = options.short_contracts(now.account.positions.values(), None, position.instrument.family)
        rows = options.charge(position, now.market, now.rules, short)
        return max(0.0, position.margin - sum(float(row.initial) for row in rows))
    upl = float(position.unrealised(now.market))
    return max(0.0, position.margin - position.initial_at_entry() + min(0.0, upl))


def deposit(now: Present, currency: str, amount: float) -> None:
    """Money from (or, negative, to) outside. What positions and orders use cannot be withdrawn: InputError."""
    if not math.isfinite(amount):
        raise InputError(f"deposit: expected a finite amount, found {amount!r}")
    free = now.transferable(currency) if amount < 0 else 0.0
    if amount < -free:
        raise InputError(f"deposit: at most {free:,.2f} {currency} can be withdrawn, asked for {-amount:,.2f}")
    now.account.apply(Entry(now.market.time, EntryKind.DEPOSIT, currency, cash=amount))
    now.note_debts()


def leverage_change(now: Present, order: Order) -> Entry | Refusal | None:
    """An order with another leverage than its position changes the setting first, as setting it would."""
    position = now.account.positions.get(order.key)
    if position is None or order.closes or order.is_cash or order.leverage == position.leverage:
        return None
    if now.mode.name == "portfolio" and order.margin_mode == "cross":
        return None
    if order.instrument.is_spot and position.sign != order.sign:
        return None  # what a reversal opens is a position of its own
    if position.sign != order.sign or order_rules.opening(now.account, order) <= 0:
        return None
    return _changed(now, order.key, order.leverage)


def adopt_leverage(now: Present, order: Order) -> None:
    """Book the change of the setting that comes with an order, where there is one."""
    change = leverage_change(now, order)
    if isinstance(change, Entry):
        now.account.apply(change)
