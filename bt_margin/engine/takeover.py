"""How a forced order settles, and what happens to what is left.

Recorded (items 5 to 10): it trades at the market, pays the taker fee and a penalty = closed notional x the
maintenance rate of the tier the closed size falls in. Isolated: all of it comes out of the posted margin and cash
does not move; a partial step frees no margin. Cross: out of cash. A negative remainder is refunded to exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from bt_margin.model.account import Account, Position
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.market import Market
from bt_margin.modes import options
from bt_margin.modes.valuation import penalty_rate, taker
from bt_margin.risk import black
from bt_margin.rules.book import Rules

FRIDAY = 4


@dataclass(frozen=True, slots=True)
class ForcedTrade:
    """A forced order as settled; money in the settlement currency, fee and penalty positive."""

    key: PositionKey
    size: float  # signed change in contracts
    price: float
    pnl: float
    fee: float
    penalty: float


def force(account: Account, position: Position, size: float, price: float, market: Market,
          rules: Rules) -> ForcedTrade:
    """Close `size` (signed change) of a position at `price` and book profit, fee and penalty.

    Short options: the fee is capped by a share of the mark value, the penalty is the maintenance margin beyond the
    mark (the fees page charges the position's maintenance rate; on what base is inferred).
    """
    instrument = position.instrument
    notional = float(instrument.notional(size, price))
    if instrument.is_option:
        row, coins = rules.option(instrument.base), abs(size) * instrument.contract_size
        worth = coins * float(options.coin_value(instrument, market))
        fee = row.liquidation_fee(worth, notional, taker(instrument, rules))
        short = options.short_contracts(account.positions.values(), None, instrument.family)
        maintenance = float(options.short_maintenance(instrument, market, rules, short)) * abs(size)
        beyond = maintenance - float(instrument.notional(size, market.mark(position.symbol)))
        penalty = max(0.0, beyond) if position.size < 0 else 0.0  # a long has no maintenance margin
    else:
        fee = notional * taker(instrument, rules)
        penalty = notional * penalty_rate(position.symbol, size, rules)
    return _book(account, position, size, price, market.time, fee, penalty, EntryKind.TRADE, "forced")


def settle(account: Account, position: Position, index: float, time: int, market: Market, rules: Rules) -> ForcedTrade:
    """Deliver an expiring contract at the averaged `index` (rule book section 11); all in cash, no penalty.

    A future closes at the index. An option pays its intrinsic value: in the coin (over the index) where it settles in
    the coin; only an exercise pays a fee, and none the dailies that do not expire on a Friday.
    """
    instrument = position.instrument
    if not instrument.is_option:
        fee = float(instrument.notional(position.size, index)) * rules.delivery.fee
        return _book(account, position, -position.size, index, time, fee, 0.0, EntryKind.SETTLEMENT, "delivery")
    coin = instrument.settle == instrument.base
    paid = float(black.intrinsic(instrument.terms.right, index, instrument.terms.strike)) / (index if coin else 1.0)
    coins = abs(position.size) * instrument.contract_size
    fee = 0.0
    if paid > 0 and datetime.fromtimestamp((instrument.expiry_ms or 0) / 1000, UTC).weekday() == FRIDAY:
        worth = coins * (1.0 if coin else index)
        fee = rules.option(instrument.base).exercise_fee(worth, coins * paid, taker(instrument, rules))
    return _book(account, position, -position.size, paid, time, fee, 0.0, EntryKind.SETTLEMENT, "delivery")


def deleverage(account: Account, position: Position, size: float, price: float, time: int,
               rules: Rules) -> ForcedTrade:
    """Auto-deleveraging: a share of a position is closed at the mark like an ordinary close, no loss shared
    afterwards (rule book section 7). An isolated position gets the same share of its margin back."""
    fee = float(position.instrument.notional(size, price)) * rules.liquidation.deleveraging_fee
    freed = -position.margin * size / position.size
    trade = _book(account, position, size, price, time, fee, 0.0, EntryKind.TRADE, "deleveraging")
    if position.margin_mode == "isolated" and size != -position.size:
        # what changed hands and the fee have met the margin; with the closed share's part they leave it
        out = freed + closing_flow(position, size, price) - trade.fee
        account.apply(Entry(time, EntryKind.TRANSFER, position.currency, cash=out, margin=-out,
                            key=position.key, note="margin freed"))
    return trade


def _book(account: Account, position: Position, size: float, price: float, time: int, fee: float, penalty: float,
          closing: EntryKind, note: str) -> ForcedTrade:
    """Fee, penalty, profit: out of (into) the margin of an isolated position, the cash of a cross one."""
    currency, isolated = position.currency, position.margin_mode == "isolated"
    pnl = float(position.instrument.pnl(-size, position.entry_price, price))
    for kind, amount, fund, change in (
        (EntryKind.FEE, -fee, 0.0, 0.0),
        (EntryKind.PENALTY, -penalty, penalty, 0.0),
        (closing, closing_flow(position, size, price), 0.0, size),
    ):
        if kind is EntryKind.PENALTY and not penalty:
            continue
        cash, margin = (0.0, amount) if isolated else (amount, 0.0)
        account.apply(
            Entry(time, kind, currency, cash, margin, fund, position.key, size=change, price=price, note=note)
        )
    return ForcedTrade(position.key, size, price, pnl, fee, penalty)


def closing_flow(position: Position, size: float, price: float) -> float:
    """What a closing trade pays: the profit; for an option the price itself."""
    if position.instrument.payoff.upfront:
        return -math.copysign(float(position.instrument.notional(size, price)), size)
    return float(position.instrument.pnl(-size, position.entry_price, price))


def settle_isolated(account: Account, key: PositionKey, time: int, back: bool) -> float:
    """After a whole close: bring the posted margin to zero. Returns what the insurance fund paid.

    A deficit is refunded (recorded). A surplus goes `back` to cash, else to the fund.
    """
    position = account.positions.get(key)
    if position is None or position.size:
        return 0.0
    rest, currency = position.margin, position.currency
    if rest < 0:
        account.apply(Entry(time, EntryKind.CLAWBACK, currency, margin=-rest, fund=rest, key=key))
        return -rest
    account.apply(
        Entry(time, EntryKind.TRANSFER, currency, cash=rest if back else 0.0, margin=-rest,
              fund=0.0 if back else rest, key=key, note="surplus of a forced close")
    )
    return 0.0


def settle_cash(account: Account, currency: str, time: int) -> float:
    """A currency that holds no cross position in need of margin may not stay negative; long options need none and stay
    (rule book section 7). Returns what the insurance fund paid."""
    rest = account.balance(currency)
    behind = [p for p in account.held("cross") if p.currency == currency]
    if rest >= 0 or any(not p.instrument.is_option or p.size < 0 for p in behind):
        return 0.0
    account.apply(Entry(time, EntryKind.CLAWBACK, currency, cash=-rest, fund=rest))
    return -rest
