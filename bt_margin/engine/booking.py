"""What a fill does to money and contracts: coins that change hands, contracts that open and close.

Loans (spot margin) have a module of their own, `spot_margin`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bt_margin.engine.orders import opening
from bt_margin.engine.takeover import closing_flow
from bt_margin.model.account import Account, Order, Position
from bt_margin.model.ledger import Entry, EntryKind
from bt_margin.model.market import Market
from bt_margin.modes import options
from bt_margin.modes.valuation import FEE_KIND
from bt_margin.rules.book import Rules

ROUNDING = 1e-12  # of an amount: below it a difference is what floats make of sums, not money


@dataclass(frozen=True, slots=True)
class Fill:
    """A trade as booked. Sizes are signed; money in the settlement (spot: quote) currency, fees positive."""

    closed: float
    opened: float
    price: float
    pnl: float
    closed_fee: float
    opened_fee: float


def contract(account: Account, order: Order, price: float, maker: bool, market: Market, rules: Rules) -> Fill:
    """Close what the order meets, open the rest (a one-way order through zero is two trades)."""
    position = account.positions.get(order.key)
    opens = opening(account, order)
    closes = order.instrument.snap(order.size - opens) if position is not None else 0.0
    if order.closes:
        opens = 0.0
    pnl = closed_fee = opened_fee = 0.0
    if closes and position is not None:
        pnl, closed_fee = _close(account, position, order, closes, price, maker, market, rules)
    if opens:
        opened_fee = _open(account, order, opens, price, maker, market, rules)
    return Fill(order.sign * closes, order.sign * opens, price, pnl, closed_fee, opened_fee)


def _fee(order: Order, size: float, price: float, maker: bool, market: Market, rules: Rules) -> float:
    row = rules.fees(FEE_KIND[order.instrument.kind])
    rate = row.maker if maker else row.taker
    if order.instrument.is_option:
        return float(options.trading_fee(order.instrument, size, price, rate, market, rules))
    return float(order.instrument.notional(size, price)) * rate


def _close(account: Account, position: Position, order: Order, size: float, price: float, maker: bool,
           market: Market, rules: Rules) -> tuple[float, float]:
    """A partial close frees the same share of the margin; profit and fee meet cash (DEMO-CASHFLOW-PARTIAL)."""
    instrument, settle = position.instrument, position.currency
    time, key = market.time, position.key
    pnl = float(instrument.pnl(position.sign * size, position.entry_price, price))
    fee = _fee(order, size, price, maker, market, rules)
    account.apply(Entry(time, EntryKind.FEE, settle, cash=-fee, key=key, price=price, order=order.id))
    if position.margin:
        whole = size == abs(position.size)
        freed = position.margin if whole else position.margin * size / abs(position.size)
        account.apply(Entry(time, EntryKind.TRANSFER, settle, cash=freed, margin=-freed, key=key,
                                 order=order.id, note="margin freed"))
    flow = closing_flow(position, order.sign * size, price)
    account.apply(Entry(time, EntryKind.TRADE, settle, cash=flow, key=key, size=order.sign * size,
                             price=price, order=order.id))
    return pnl, fee


def _open(account: Account, order: Order, size: float, price: float, maker: bool, market: Market,
          rules: Rules) -> float:
    """Isolated takes margin + fee from cash, cross only the fee (recorded item 25)."""
    instrument, settle = order.instrument, order.instrument.settle
    time, key = market.time, order.key
    premium = -order.sign * float(instrument.notional(size, price)) if instrument.payoff.upfront else 0.0
    account.apply(Entry(time, EntryKind.TRADE, settle, cash=premium, key=key, instrument=instrument,
                             size=order.sign * size, price=price, leverage=order.leverage, order=order.id))
    if order.margin_mode == "isolated":
        margin = _posted(account, order, size, price, market, rules)
        account.apply(Entry(time, EntryKind.TRANSFER, settle, cash=-margin, margin=margin, key=key,
                                 order=order.id, note="margin posted"))
    fee = _fee(order, size, price, maker, market, rules)
    account.apply(Entry(time, EntryKind.FEE, settle, cash=-fee, key=key, price=price, order=order.id))
    return fee


def _posted(account: Account, order: Order, size: float, price: float, market: Market, rules: Rules) -> float:
    """What an isolated position posts: value over leverage; a short option its initial margin at the mark
    (recorded: ISO-OPTION-SHORT-CALL-20240711), a long one nothing."""
    if not order.instrument.is_option:
        return float(order.instrument.notional(size, price)) / order.leverage
    if order.side == "buy":
        return 0.0
    held = account.positions.values()
    short = options.short_contracts(held, None, order.instrument.family)
    return size * float(options.short_initial(order.instrument, market, rules, short))


def coins(account: Account, order: Order, price: float, maker: bool, fee: float | None, market: Market,
          rules: Rules) -> Fill:
    """Coins change hands; the fee comes out of what is received, in whole lots (rule book section 10).

    The fill reports the coins that arrived: buying 1 BTC at 0.1 % opens 0.999 BTC and paid 0.001 BTC.
    """
    instrument, time, size = order.instrument, market.time, order.size
    value = size * price
    base, quote = instrument.base, instrument.quote

    def book(kind: EntryKind, currency: str, cash: float, **more: float) -> None:
        there = account.balance(currency)
        if abs(there + cash) <= ROUNDING * abs(cash):
            cash = -there  # lots that add up leave nothing behind: a hair below zero would be a debt
        account.apply(Entry(time, kind, currency, cash=cash, price=price, order=order.id,
                                 instrument=instrument, **more))  # type: ignore[arg-type]

    if fee is None:
        row = rules.fees("spot")
        rate = row.maker if maker else row.taker
    else:
        rate = 0.0
    if order.side == "buy":
        net = instrument.floor(size * (1.0 - rate))
        book(EntryKind.TRADE, quote, -value)
        book(EntryKind.TRADE, base, size, size=size)
        if size - net:
            book(EntryKind.FEE, base, -(size - net))
        if fee:
            book(EntryKind.FEE, quote, -fee)
        return Fill(0.0, net, price, 0.0, 0.0, (size - net) * price + (fee or 0.0))
    charged = value * rate + (fee or 0.0)
    book(EntryKind.TRADE, base, -size, size=-size)
    book(EntryKind.TRADE, quote, value)
    if charged:
        book(EntryKind.FEE, quote, -charged)
    return Fill(-size, 0.0, price, 0.0, charged, 0.0)
