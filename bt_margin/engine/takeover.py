"""How a forced order settles, and what happens to what is left.

Recorded (items 5 to 10): it trades at the market, pays the taker fee and a penalty = closed notional x the
maintenance rate of the tier the closed size falls in. Isolated: all of it comes out of the posted margin and cash
does not move; a partial step frees no margin. Cross: out of cash. A negative remainder is refunded to exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from bt_margin.model.account import Account, Position
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.modes.valuation import penalty_rate, taker
from bt_margin.rules.book import Rules


@dataclass(frozen=True, slots=True)
class ForcedTrade:
    """A forced order as settled; money in the settlement currency, fee and penalty positive."""

    key: PositionKey
    size: float  # signed change in contracts
    price: float
    pnl: float
    fee: float
    penalty: float


def force(account: Account, position: Position, size: float, price: float, time: int, rules: Rules) -> ForcedTrade:
    """Close `size` (signed change) of a position at `price` and book profit, fee and penalty."""
    instrument, settle = position.instrument, position.instrument.settle
    notional = float(instrument.notional(size, price))
    pnl = float(instrument.pnl(-size, position.entry_price, price))
    fee = notional * taker(instrument, rules)
    penalty = notional * penalty_rate(position.symbol, size, rules)
    isolated = position.margin_mode == "isolated"

    for kind, amount, fund, change in (
        (EntryKind.FEE, -fee, 0.0, 0.0),
        (EntryKind.PENALTY, -penalty, penalty, 0.0),
        (EntryKind.TRADE, pnl, 0.0, size),
    ):
        cash, margin = (0.0, amount) if isolated else (amount, 0.0)
        account.apply(
            Entry(time, kind, settle, cash, margin, fund, position.key, size=change, price=price, note="forced")
        )
    return ForcedTrade(position.key, size, price, pnl, fee, penalty)


def settle_isolated(account: Account, key: PositionKey, time: int, rules: Rules) -> float:
    """After a whole close: bring the posted margin to zero. Returns what the insurance fund paid.

    A deficit is refunded (recorded). A surplus goes back to cash, or to the fund, as the rule table says
    (`surplus`, inferred: no record covers it).
    """
    position = account.positions.get(key)
    if position is None or position.size:
        return 0.0
    rest, settle = position.margin, position.instrument.settle
    if rest < 0:
        account.apply(Entry(time, EntryKind.CLAWBACK, settle, margin=-rest, fund=rest, key=key))
        return -rest
    back = rules.liquidation.surplus == "returned"
    account.apply(
        Entry(time, EntryKind.TRANSFER, settle, cash=rest if back else 0.0, margin=-rest,
              fund=0.0 if back else rest, key=key, note="surplus of a forced close")
    )
    return 0.0


def settle_cash(account: Account, currency: str, time: int) -> float:
    """A currency that holds no cross position may not stay negative. Returns what the insurance fund paid."""
    rest = account.balance(currency)
    if rest >= 0 or any(p.instrument.settle == currency for p in account.held("cross")):
        return 0.0
    account.apply(Entry(time, EntryKind.CLAWBACK, currency, cash=-rest, fund=rest))
    return -rest
