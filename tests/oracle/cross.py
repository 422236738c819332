"""Cross margin in one currency (OKX: Futures mode). Rule book sections 2, 3.1, 6.2, 7; recorded items 10, 15 to 22."""

from __future__ import annotations

from decimal import Decimal

from tests.oracle import phases
from tests.oracle.book import Book, Key, Order, Position, Prices, opening_parts
from tests.oracle.contract import ZERO, Contract
from tests.oracle.forced import BREACH, force, refund_cash, step_size


def positions(book: Book, currency: str) -> list[Position]:
    """Cross positions settled in the currency; no other currency backs them (item 22)."""
    return [position for position in book.held("cross") if position.contract.settle == currency]


def openings(book: Book, currency: str, mode: str) -> list[tuple[Order, Decimal]]:
    """The opening part of every resting order of a margin mode, in this currency."""
    orders = [order for order in book.orders.values() if order.contract.settle == currency and order.mode == mode]
    return [(order, part) for order, part in opening_parts(book, orders) if part]


def order_value(order: Order, part: Decimal, marks: Prices) -> Decimal:
    """At the order's price, or at the dearest fill it could get where that is worse (Part B, limits)."""
    price = order.contract.dearest(order.buy, order.price, marks[order.contract.symbol])
    return order.contract.value(part, price)


def order_fees(book: Book, currency: str, marks: Prices, modes: tuple[str, ...] = ("cross", "isolated")) -> Decimal:
    """Taker fee of every open order, opening part, at the order's price (item 20)."""
    return sum((order_value(order, part, marks) * order.contract.taker
                for mode in modes for order, part in openings(book, currency, mode)), ZERO)


def isolated_orders(book: Book, currency: str, marks: Prices) -> Decimal:
    """What isolated opening orders need: value / leverage."""
    return sum((order_value(order, part, marks) / order.leverage
                for order, part in openings(book, currency, "isolated")), ZERO)


def upl(book: Book, currency: str, marks: Prices) -> Decimal:
    return sum((position.upl(marks) for position in positions(book, currency)), ZERO)


def equity(book: Book, currency: str, marks: Prices) -> Decimal:
    """Cash + cross upl - what isolated openings need - open fees (rule book 2.1, item 20)."""
    return (book.cash.get(currency, ZERO) + upl(book, currency, marks)
            - isolated_orders(book, currency, marks) - order_fees(book, currency, marks))


def tier_sizes(book: Book, currency: str) -> dict[str, Decimal]:
    """Contracts by family: absolute sizes and opening orders add, nothing nets (items 15 and 16)."""
    sizes: dict[str, Decimal] = {}
    for position in positions(book, currency):
        family = position.contract.family
        sizes[family] = sizes.get(family, ZERO) + abs(position.size)
    for order, part in openings(book, currency, "cross"):
        sizes[order.contract.family] = sizes.get(order.contract.family, ZERO) + part
    return sizes


def valued(book: Book, currency: str, marks: Prices) -> list[tuple[Contract, Decimal]]:
    """Positions and opening orders, all at the mark (item 17)."""
    rows = [(position.contract, position.value(marks)) for position in positions(book, currency)]
    return rows + [(order.contract, order.contract.value(part, marks[order.contract.symbol]))
                   for order, part in openings(book, currency, "cross")]


def maintenance(book: Book, currency: str, marks: Prices) -> Decimal:
    """One flat rate by tier on the full value (item 17)."""
    sizes = tier_sizes(book, currency)
    return sum((value * contract.rate(sizes[contract.family]) for contract, value in valued(book, currency, marks)),
               ZERO)


def closing_fee(book: Book, currency: str, marks: Prices) -> Decimal:
    """(Positions + orders) at mark x taker (item 20)."""
    return sum((value * contract.taker for contract, value in valued(book, currency, marks)), ZERO)


def required(book: Book, currency: str, marks: Prices) -> Decimal:
    return maintenance(book, currency, marks) + closing_fee(book, currency, marks)


def order_initial(book: Book, currency: str, marks: Prices) -> Decimal:
    """Initial margin of cross orders on top of the positions'.

    One-way, before 2024-11-08: every opening part. Since: long max(P + B, S - P) / leverage, short
    max(B - P, P + S) / leverage, flat max(B, S) / leverage (rule book 6.2); nothing where no order opens, whatever the
    values say (DEMO-ORDER-FREEZE-RULES wins over the text). Hedge: all opening orders add.
    """
    if not book.era.larger_side:
        return sum((order_value(order, part, marks) / order.leverage
                    for order, part in openings(book, currency, "cross")), ZERO)
    symbols: dict[tuple[str, str], list[Order]] = {}
    total, opening = ZERO, {order.contract.symbol for order, _ in openings(book, currency, "cross")}
    for order in book.orders.values():
        if order.mode == "cross" and order.contract.symbol in opening and not order.only_closes:
            if order.side == "net":
                symbols.setdefault((order.contract.symbol, order.side), []).append(order)
            else:
                total += order_value(order, order.size, marks) / order.leverage
    for (symbol, side), orders in symbols.items():
        held = book.positions.get((symbol, "cross", side))
        at_mark = held.value(marks) if held else ZERO
        buys = sum((order_value(order, order.size, marks) for order in orders if order.buy), ZERO)
        sells = sum((order_value(order, order.size, marks) for order in orders if not order.buy), ZERO)
        if held and held.size < 0:
            both = max(buys - at_mark, at_mark + sells)
        else:
            both = max(at_mark + buys, sells - at_mark)
        total += (both - at_mark) / orders[0].leverage
    return total


def order_loss(order: Order, part: Decimal, marks: Prices) -> Decimal:
    """What a cross order would lose against the mark the moment it fills (rule book 6.1, since 2024-11-08): part of the
    cost when it is submitted, not of what is in use later (item 21).

    Linear buy |Q min(0, P - px)|, sell |Q min(0, px - P)|; inverse |N min(0, 1/px - 1/P)| and |N min(0, 1/P - 1/px)|.
    """
    return -min(ZERO, order.contract.profit(part if order.buy else -part, order.price, marks[order.contract.symbol]))


def initial(book: Book, currency: str, marks: Prices) -> Decimal:
    """Positions at the mark / leverage (rule book 3.1) + what orders add (item 19)."""
    held = sum((position.value(marks) / position.leverage for position in positions(book, currency)), ZERO)
    return held + order_initial(book, currency, marks)


def in_use(book: Book, currency: str, marks: Prices) -> Decimal:
    """Margin of positions and orders, fees of orders, what isolated openings need (items 19 and 21)."""
    return (initial(book, currency, marks) + order_fees(book, currency, marks)
            + isolated_orders(book, currency, marks))


def liquidate(book: Book, currency: str, marks: Prices, time: int) -> None:
    """At a ratio of 1 or less: orders that add risk go (also those that only reduced what is now closed); hedged pairs
    of one contract; pairs of opposite delta; then the position whose cut frees most. Judged anew after every step (rule
    book section 7, item 3). What closes the last position takes the pool over; cash below zero is refunded (item 10).
    """
    before = book.cash.get(currency, ZERO) + upl(book, currency, marks)
    first = equity(book, currency, marks) / required(book, currency, marks)
    keys: list[Key] = []
    refund = ZERO
    while (demand := required(book, currency, marks)) and (ratio := equity(book, currency, marks) / demand) <= BREACH:
        if cancel_openings(book, currency, ratio, time):
            continue
        for position, contracts, step in next_step(book, currency, marks):
            mark = marks[position.contract.symbol]
            force(book, position, contracts, mark, time, currency, step, ratio)
            refund += refund_cash(book, currency, time, currency, position.contract.value(contracts, mark))
            keys += [position.key] if position.key not in keys else []
    if not keys or positions(book, currency):
        return
    book.say("TakenOver", time, currency, *keys, margin_ratio=first, loss=before - book.cash[currency], refund=refund)


def cancel_openings(book: Book, currency: str, ratio: Decimal, time: int) -> bool:
    """Orders that add risk are withdrawn; those that only reduce stay (rule book section 7, layer 2). True: some."""
    gone = sorted(order.id for mode in ("cross", "isolated") for order, _ in openings(book, currency, mode))
    for order_id in gone:
        del book.orders[order_id]
    if gone:
        book.say("OrdersCancelled", time, currency, *gone, margin_ratio=ratio)
    return bool(gone)


def next_step(book: Book, currency: str, marks: Prices) -> phases.Forced:
    """The forced orders of the next phase that has something to do."""
    held, sizes = positions(book, currency), tier_sizes(book, currency)

    def margin(position: Position) -> Decimal:
        return position.value(marks) * position.contract.rate(sizes[position.contract.family])

    def cut(position: Position) -> Decimal:
        return cut_of(book, position, marks)

    def relief(position: Position, contracts: Decimal) -> Decimal:
        before, now = required(book, currency, marks), position.size
        position.size -= contracts if now > 0 else -contracts
        after = required(book, currency, marks)
        position.size = now
        return before - after

    return (phases.hedged_pair(book, held) or phases.delta_pair(held, marks, margin, cut)
            or phases.largest_relief(held, cut, relief))


def cut_of(book: Book, position: Position, marks: Prices) -> Decimal:
    """How far one forced order takes a position down, in the pool it stands in."""
    currency, family = position.contract.settle, position.contract.family
    spare = equity(book, currency, marks) - required(book, currency, marks)
    value = sum((v for contract, v in valued(book, currency, marks) if contract.family == family), ZERO)
    return step_size(book, position, tier_sizes(book, currency)[family], spare, value)
