"""Spot margin over time: how an order opens, closes or reverses a position, what it books, interest, forced closes.

Closing (rule book section 6.4). Assets and margin in one currency (long with base, short with quote collateral): an
order gives away what it says, at most the debt x (1 + initial rate), or x (1 + maintenance rate) once equity is below
the initial margin; what it brings in repays interest first, then the debt; once the debt is gone the position ends and
assets, margin and surplus return to the balance. Assets and margin in two currencies: only assets are given away; a gap
is paid by the margin (isolated) or the balance (cross), a surplus is profit there.

A close of the whole position repays everything in one fill: what assets do not cover comes out of margin or balance at
the fill's price, and the fee of the coins bought back is bought on top, so that the debt ends at exactly zero
(inferred: the venue's text speaks of amounts per order). A partial close frees no isolated margin (inferred).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from bt_margin.engine.takeover import ForcedTrade, settle_isolated
from bt_margin.model.account import Account, Order
from bt_margin.model.ledger import Entry, EntryKind, PositionKey
from bt_margin.model.loan import LONG, SHORT, MarginPosition, default_collateral
from bt_margin.model.market import Market
from bt_margin.modes import spot_margin
from bt_margin.modes.assess import account_pools
from bt_margin.modes.base import judge
from bt_margin.rules.book import Rules


class Traded(NamedTuple):
    """A fill as booked: signed base coin closed and opened; profit and fees in the quote currency."""

    closed: float
    opened: float
    pnl: float
    closed_fee: float
    opened_fee: float
    paid: float  # by the insurance fund, for a debt beyond an isolated margin


def loan_of(account: Account, key: PositionKey) -> MarginPosition | None:
    """The spot-margin position of a key; there is at most one per pair and margin mode."""
    position = account.positions.get(key)
    return position if isinstance(position, MarginPosition) else None


# -- may it open ------------------------------------------------------------------------------------------------------


def prepare(account: Account, order: Order, market: Market, rules: Rules) -> Order | str:
    """The order as the venue takes it, or why it does not: its margin currency named, a closing one cut.

    Against a position an order reduces only, unless it says `reverse`. Margin currency: what the order says, else the
    position's, else base coin for buys and quote coin for sells. One position per pair and margin mode: while it is
    open, an order with another margin currency is refused (a limit of this simulation).
    """
    instrument = order.instrument
    position = loan_of(account, order.key)
    usual = default_collateral(instrument.base, instrument.quote, order.side)
    currency = order.margin_currency or (position.currency if position else usual)
    if currency not in (instrument.base, instrument.quote):
        return f"margin currency {currency} is neither {instrument.base} nor {instrument.quote}"
    against = position is not None and position.sign != order.sign
    if order.reduce_only and not against:
        return f"a closing {order.side} order, but there is no position of {order.symbol} to reduce"
    if position is not None:
        if currency != position.currency:
            return (f"the {order.margin_mode} position of {order.symbol} is margined in {position.currency}; close it "
                    f"before opening one in {currency}")
        if against and (order.reduce_only or not order.reverse):
            cut = min(order.size, _closable(position, account, market, rules))
            return replace(order, size=cut, reduce_only=True, reverse=False, margin_currency=currency)
    old = rules.margin.accounting == spot_margin.OLD_ACCOUNTING
    if old and order.margin_mode == "isolated" and currency != usual:
        return f"isolated margin of a {'long' if order.side == 'buy' else 'short'} is {usual} until 2025-02-17"
    return replace(order, margin_currency=currency)


def _closable(position: MarginPosition, account: Account, market: Market, rules: Rules) -> float:
    """The most base coin an order that only closes may trade: the position, of a short what its cap buys."""
    whole = abs(position.size)
    if position.is_long or not position.same:
        return whole
    return max(whole, position.instrument.floor(position.debt * (1.0 + cap_rate(position, account, market, rules))))


def cap_rate(position: MarginPosition, account: Account, market: Market, rules: Rules) -> float:
    """What may be sold beyond the debt: the initial rate while equity covers the initial margin, else the maintenance
    rate (rule book section 6.4, case S)."""
    pool = next(p for p in account_pools(account) if any(q.key == position.key for q in p.positions))
    judgement = judge(pool, market, rules)
    if float(judgement.equity) >= float(judgement.initial):
        return 1.0 / position.leverage
    price = float(market.mark(position.symbol))
    return spot_margin.tier_of(position, position.liability, price, rules).maintenance


# -- trades -----------------------------------------------------------------------------------------------------------


def trade(account: Account, order: Order, price: float, maker: bool, market: Market, rules: Rules) -> Traded:
    """Book a fill of an order that `prepare` and the funds let pass: close what it meets, open the rest."""
    row = rules.fees("margin")
    rate = row.maker if maker else row.taker
    position = loan_of(account, order.key)
    opens = order.meets(account.held_size(order.key))[0]
    closed = pnl = closed_fee = paid = 0.0
    if position is not None and position.sign != order.sign:
        cap = cap_rate(position, account, market, rules) if position.same else 0.0
        closed, closed_fee = _close(account, position, order, order.size - opens, price, rate, cap, market.time)
        pnl = -closed * (price - position.entry_price)
        # a debt beyond the margin ends before a reversal begins
        paid = settle_isolated(account, order.key, market.time, True)
    opened = opened_fee = 0.0
    if opens > 0:
        opened, opened_fee = _open(account, order, opens, price, rate, market.time)
    return Traded(closed, opened, pnl, closed_fee, opened_fee, paid)


def _open(account: Account, order: Order, size: float, price: float, rate: float, time: int) -> tuple[float, float]:
    """Borrow, trade, pay the fee out of what comes in, post the margin (isolated): (signed base coin, fee in quote).

    The margin is the amount before the fee / leverage (rule book section 3.2). Buying 1 BTC at 0.1 % opens 0.999 BTC.
    """
    instrument, key, long = order.instrument, order.key, order.side == "buy"
    value, fee = size * price, size * rate
    shell = MarginPosition(instrument, order.margin_mode, "net", 0.0, price, order.leverage,
                           direction=LONG if long else SHORT, margin_currency=order.margin_currency)
    base, quote = instrument.base, instrument.quote

    def book(kind: EntryKind, currency: str, **more: float) -> None:
        account.apply(Entry(time, kind, currency, key=key, instrument=instrument, price=price, order=order.id,
                            opens=shell, **more))  # type: ignore[arg-type]

    if long:
        book(EntryKind.BORROW, quote, liability=value, leverage=order.leverage)
        book(EntryKind.TRADE, base, assets=size, size=size - fee)
        if fee:
            book(EntryKind.FEE, base, assets=-fee)
    else:
        book(EntryKind.BORROW, base, liability=size, size=-size, leverage=order.leverage)
        book(EntryKind.TRADE, quote, assets=value)
        if fee:
            book(EntryKind.FEE, quote, assets=-fee * price)
    if order.margin_mode == "isolated":
        margin = (size if order.margin_currency == base else value) / order.leverage
        account.apply(Entry(time, EntryKind.TRANSFER, order.margin_currency, cash=-margin, margin=margin, key=key,
                            order=order.id, note="margin posted"))
    return (size - fee if long else -size), fee * price


def _close(account: Account, position: MarginPosition, order: Order, size: float, price: float, rate: float,
           cap: float, time: int) -> tuple[float, float]:
    """Give assets for the debt's currency and repay: (signed base coin closed, fee in quote).

    Amounts of assets are called `give`, of the debt's currency `take`; `x` is what one unit of assets brings.
    """
    instrument, key = position.instrument, position.key
    x = price if position.is_long else 1.0 / price
    wanted = size if position.is_long else size * price
    whole = instrument.floor(abs(position.size) - size) <= 0
    need = position.debt / ((1.0 - rate) * x)
    give = min(wanted, position.assets)
    if position.same:
        give = min(give, position.debt * (1.0 + cap) / x)
        if whole:
            give = max(give, need)
    elif whole:
        give = position.assets
    take = give * x
    net = position.debt if give == need else take * (1.0 - rate)
    fee = take - net
    ends = whole or (position.same and net >= position.debt)
    isolated = position.margin_mode == "isolated"

    def into(amount: float) -> dict[str, float]:
        """A gap out of the margin of an isolated position; all else meets the balance."""
        return {"margin": amount} if isolated and amount < 0 else {"cash": amount}

    def book(kind: EntryKind, currency: str, **more: float | str) -> None:
        account.apply(Entry(time, kind, currency, key=key, instrument=instrument, price=price, order=order.id,
                            **more))  # type: ignore[arg-type]

    given = min(give, position.assets)
    base = give if position.is_long else take
    closed = order.sign * (abs(position.size) if ends else size if give == wanted else base)
    if fee:
        book(EntryKind.FEE, position.debt_currency, liability=fee)
    _repay(account, position, fee, net, ends, into, book)
    book(EntryKind.TRADE, position.asset_currency, assets=-given, size=closed, **into(given - give))
    left = loan_of(account, key)
    if ends and left is not None and left.assets:
        book(EntryKind.TRANSFER, position.asset_currency, cash=left.assets, assets=-left.assets, note="assets freed")
    left = loan_of(account, key)
    if ends and left is not None and left.margin > 0:
        book(EntryKind.TRANSFER, position.currency, cash=left.margin, margin=-left.margin, note="margin freed")
    return closed, fee if position.is_long else fee * price


def _repay(account: Account, position: MarginPosition, fee: float, net: float, ends: bool,
           into: Callable[[float], dict[str, float]], book: Callable[..., None]) -> None:
    """Interest first, then what was borrowed; at the end of a position all of it, whatever came in."""
    held = loan_of(account, position.key)
    assert held is not None
    interest = held.interest if ends else min(held.interest, net)
    liability = held.liability if ends else min(held.liability, net - interest + fee)
    rest = net - position.debt if ends else max(0.0, net + fee - interest - liability)
    book(EntryKind.REPAY, position.debt_currency, liability=-liability, interest=-interest, **into(rest))


# -- interest ---------------------------------------------------------------------------------------------------------


def accrue_interest(account: Account, key: PositionKey, rate: float, time: int) -> None:
    """A full hour strikes: what accrued at the last one moves into the liability, then the liability standing is
    charged an hour at `rate` (rule book section 9)."""
    position = loan_of(account, key)
    if position is None:
        return
    currency, due = position.debt_currency, position.interest
    if due:
        account.apply(Entry(time, EntryKind.INTEREST, currency, key=key, liability=due, interest=-due, note="deducted"))
    charge = (position.liability + due) * rate
    if charge:
        account.apply(Entry(time, EntryKind.INTEREST, currency, key=key, interest=charge, note=f"rate {rate:.8%}"))


# -- forced closes ----------------------------------------------------------------------------------------------------


def force(account: Account, position: MarginPosition, size: float, price: float, time: int,
          rules: Rules) -> ForcedTrade:
    """Close `size` (signed change) by force: the same share of assets and debt, at `price`; fee and penalty on top.

    The penalty is the maintenance rate of the tier the closed debt falls in x that debt, the fee the taker rate on debt
    and penalty, so that at a ratio of 1 nothing is left: what the requirement reserved (inferred; section 7 gives it
    for contracts). All of it meets the margin of an isolated position, the balance of a cross one. What is returned is
    in the quote currency.
    """
    whole = size == -position.size
    share = 1.0 if whole else abs(size / position.size)
    assets, liability, interest = position.assets * share, position.liability * share, position.interest * share
    gain, owed = float(position.profit(price)) * share, float(position.owed(price)) * share
    penalty = owed * spot_margin.penalty_rate(position, liability, price, rules)
    fee = (owed + penalty) * rules.fees("margin").taker
    isolated, margin_currency = position.margin_mode == "isolated", position.currency

    def book(kind: EntryKind, currency: str, amount: float = 0.0, **more: float) -> None:
        money = {"margin": amount} if isolated else {"cash": amount}
        account.apply(Entry(time, kind, currency, key=position.key, instrument=position.instrument, price=price,
                            note="forced", **money, **more))  # type: ignore[arg-type]

    book(EntryKind.FEE, margin_currency, -fee)
    if penalty:
        book(EntryKind.PENALTY, margin_currency, -penalty, fund=penalty)
    first, second = (gain, 0.0) if position.same else (0.0, gain)
    book(EntryKind.TRADE, position.asset_currency, first, assets=-assets, size=size)
    book(EntryKind.REPAY, position.debt_currency, second, liability=-liability, interest=-interest)
    quote = price if position.in_base else 1.0
    return ForcedTrade(position.key, size, price, gain * quote, fee * quote, penalty * quote)
