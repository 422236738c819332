"""The whole account at one instant, with every number's parts: what reports, events and the builder show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bt_margin.model.account import Account, Order, Position
from bt_margin.model.assessment import (
    AccountReport,
    AccountTotals,
    CurrencyReport,
    OrderReport,
    PoolReport,
    PositionReport,
    ratio,
    state_of,
)
from bt_margin.model.instrument import Number
from bt_margin.model.loan import MarginPosition
from bt_margin.model.market import Market
from bt_margin.modes import account_report, currencies, options, portfolio_report, spot_margin
from bt_margin.modes.base import Judgement, MarginMode, Pool, judge
from bt_margin.modes.cross import CROSS, backing, reserved
from bt_margin.modes.isolated import ISOLATED
from bt_margin.modes.portfolio import PORTFOLIO
from bt_margin.modes.valuation import (
    break_even_price,
    held_tier,
    order_loss,
    order_price,
    position_initial,
    price_at_gap_zero,
    taker,
)

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules
    from bt_margin.rules.tables import Evidence


def account_pools(account: Account, mode: MarginMode = CROSS) -> list[Pool]:
    """Every pool: isolated positions first, each alone, then those that the mode cuts (rule book section 14).

    The mode "isolated" has no pools besides; its cash, and what is cross in it, is pooled as in "cross".
    """
    return [*ISOLATED.pools(account), *(CROSS if mode.name == ISOLATED.name else mode).pools(account)]


def assess(
    account: Account,
    mode: MarginMode,
    market: Market,
    rules: Rules,
    extra_warnings: Sequence[str] = (),
    orders: Iterable[OrderReport] | None = None,
) -> AccountReport:
    """Judge every pool and lay out the account. Raises where a price, tier or fee is missing."""
    market = replace(market)  # what is remembered of it is of this call: whoever made its prices may have changed them
    judged = [(pool, judge(pool, market, rules)) for pool in account_pools(account, mode)]
    pool_reports = tuple(_pool_report(pool, j, market, rules) for pool, j in judged)
    whole = next(((i, pool, j) for i, (pool, j) in enumerate(judged) if pool.holdings is not None), None)
    prices = {} if whole is None else account_report.coin_prices(whole[1], market, rules)
    positions = tuple(
        _position_report(position, pool, j, market, rules, prices) for pool, j in judged for position in pool.positions
    )
    if whole is None:
        currencies = tuple(
            _currency_report(account, pool, j, market, rules) for pool, j in judged if pool.mode.name == "cross"
        )
        sums = _totals(pool_reports, currencies, positions, market)
    else:
        here, pool, j = whole
        currencies = account_report.currency_reports(account, pool, j, market, rules)
        sums = account_report.totals(account, pool, pool_reports[here], currencies, pool_reports, market)
    unknown = [f"liquidation price: {why}" for row in prices.values() for why in row.unknown]
    evidence = rules.evidence()
    if orders is None:
        orders = [order_report(account, o, market, rules, mode) for o in account.orders.values()]
    report = AccountReport(
        mode=mode.name,
        time=market.time,
        account=sums,
        pools=pool_reports,
        currencies=currencies,
        positions=positions,
        orders=tuple(orders),
        evidence=evidence,
        warnings=(*extra_warnings, *unknown, *(f"stand-in: {what}" for what in sorted(market.stand_ins)),
                  *_stood_in(evidence)),
    )
    if whole is None or whole[1].mode is not PORTFOLIO:
        return report
    return portfolio_report.completed(report, whole[1], market, rules)


def _stood_in(evidence: Iterable[Evidence]) -> list[str]:
    return [
        f"rules: {row.table} {row.subject} stands in from {row.effective}, {row.extrapolated_days} days away"
        for row in evidence
        if row.extrapolated_days
    ]


def total_equity(account: Account, market: Market) -> Number:
    """Undiscounted USD value of everything: coins, isolated margin, unrealised profit (OKX `totalEq`)."""
    total: Number = 0.0
    for currency in dict.fromkeys((*account.balances, *account.accrued)):
        amount = account.balance(currency) - account.accrued.get(currency, 0.0)
        if amount:
            total = total + amount * market.usd(currency)
    for position in account.positions.values():
        total = total + (position.margin + position.value(market)) * market.usd(position.currency)
    return total


def available(judgement: Judgement) -> Number:
    """What may still open, in the pool's currency, unclamped: equity less what positions and orders use."""
    return judgement.equity - judgement.initial


def transferable(pool: Pool, judged: Judgement, currency: str, market: Market, rules: Rules) -> float:
    """Cash of a currency that may become isolated margin or leave its pool: it is there, and nothing needs it."""
    free = max(0.0, float(available(judged)))
    if pool.holdings is None:
        return max(0.0, min(free, pool.cash))
    line = currencies.line(pool, currency, market, rules)
    if line is None:
        return 0.0
    there = max(0.0, min(float(line.available_balance), float(line.available_equity)))
    off = currency in pool.holdings.borrowing.collateral_off
    return there if off else min(free / float(line.usd), there)


def _pool_report(pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> PoolReport:
    if pool.holdings is not None:
        return account_report.pool_report(pool, judgement, market, rules)
    equity, requirement = float(judgement.equity), float(judgement.requirement)
    margin_ratio = ratio(equity, requirement)
    levels = rules.liquidation
    state = state_of(margin_ratio, levels.warning_ratio, levels.liquidation_ratio) if pool.positions else "safe"
    if pool.mode.name == "isolated":
        parts = {"posted margin": pool.cash}
        for position in pool.positions:
            parts[f"unrealised profit {position.symbol}"] = float(position.backing(market))
        free = 0.0  # profit of an isolated position opens nothing
    else:
        spot, isolated, fees = (float(x) for x in reserved(pool, market, rules))
        parts = {"cash": pool.cash}
        for position in pool.positions:
            side = "" if position.side == "net" else f" {position.side}"
            parts[f"unrealised profit {position.symbol}{side}"] = float(position.backing(market))
        for name, amount in (("spot orders", spot), ("isolated orders", isolated), ("order fees", fees)):
            if amount:
                parts[name] = -amount
        free = max(0.0, equity - float(judgement.initial))
    return PoolReport(
        pool.name,
        pool.currency,
        equity,
        float(judgement.initial),
        float(judgement.maintenance),
        float(judgement.fee),
        free,
        margin_ratio,
        state,
        judgement.charges,
        parts,
    )


def _currency_report(
    account: Account, pool: Pool, judgement: Judgement, market: Market, rules: Rules
) -> CurrencyReport:
    """Source: recorded item 21: avail = cash + cross upl - imr - order fees; frozen = isolated equity + imr + fees."""
    upl = float(backing(pool, market))
    isolated = [p for p in account.held("isolated") if p.currency == pool.currency]
    isolated_upl = sum(float(p.backing(market)) for p in isolated)
    isolated_equity = sum(p.margin for p in isolated) + isolated_upl
    in_use = float(judgement.initial) + sum(float(x) for x in reserved(pool, market, rules))
    cross = pool.cash + upl
    loans = [p for p in spot_margin.loans(account.positions.values()) if p.debt_currency == pool.currency]
    held = [p for p in account.positions.values() if p.instrument.is_option and p.currency == pool.currency]
    equity = cross + isolated_equity + sum(float(p.value(market)) for p in held)
    notional = sum(float(p.notional(market)) for p in pool.positions)
    free = max(0.0, cross - in_use)
    return CurrencyReport(
        currency=pool.currency,
        balance=pool.cash,
        equity=equity,
        in_use=in_use,
        frozen=isolated_equity + in_use,
        free_margin=free,
        available_balance=free,
        available_equity=free,
        liability=sum(p.liability for p in loans),
        interest=sum(p.interest for p in loans),
        potential_borrow=0.0,
        unrealised_pnl=upl + isolated_upl,
        leverage=notional / cross if cross > 0 else 0.0,
        discounted_equity_usd=None,
        equity_usd=equity * float(market.usd(pool.currency)) if equity else 0.0,
    )


def _position_report(
    position: Position, pool: Pool, judgement: Judgement, market: Market, rules: Rules,
    prices: Mapping[str, account_report.CoinPrices],
) -> PositionReport:
    if pool.mode is PORTFOLIO:
        return portfolio_report.position(position, judgement, market, rules, prices)
    if position.instrument.is_option:
        return options.report(position, pool, judgement, market, rules)
    if isinstance(position, MarginPosition):
        return _loan_report(position, pool, judgement, market, rules)
    mark = float(market.mark(position.symbol))
    fee = taker(position.instrument, rules)
    tier = held_tier(position, pool.positions, rules)
    notional = float(position.notional(market))
    upl = float(position.unrealised(market))
    equity, requirement = float(judgement.equity), float(judgement.requirement)
    payoff, units = position.instrument.payoff, position.size * position.instrument.contract_size
    pool_tier = next(
        (c.detail["rate"] for c in judgement.charges if c.unit == position.symbol), tier.maintenance
    )
    if pool.holdings is None:
        trigger = price_at_gap_zero(position, pool, equity - requirement, float(pool_tier) + fee, mark)
        shown = _displayed_price(position, pool, market, rules, tier.maintenance, fee, trigger)
        bankruptcy = price_at_gap_zero(position, pool, equity, 0.0, mark)
    else:
        moves = prices[position.instrument.base]
        trigger, shown, bankruptcy = (
            None if move is None else mark * (1.0 + move) for move in (moves.trigger, moves.shown, moves.bankruptcy)
        )
    return PositionReport(
        symbol=position.symbol,
        margin_mode=position.margin_mode,
        position_side=position.side,
        contracts=position.size,
        entry_price=position.entry_price,
        mark_price=mark,
        notional=notional,
        notional_usd=notional * float(market.usd(position.currency)),
        unrealised_pnl=upl,
        unrealised_pnl_ratio=upl / position.initial_at_entry(),
        margin=position.margin,
        initial_margin=float(position_initial(position, market)),
        maintenance_margin=notional * tier.maintenance,
        liquidation_fee=notional * fee,
        margin_ratio=ratio(equity, requirement),
        trigger_price=trigger,
        liquidation_price=shown,
        bankruptcy_price=bankruptcy,
        break_even_price=break_even_price(position, fee),
        leverage=position.leverage,
        tier=tier.number,
        available_assets=abs(position.size),
        delta=float(payoff.delta(units, mark)),
        gamma=0.0,
        vega=0.0,
        theta=0.0,
    )


def _loan_report(
    position: MarginPosition, pool: Pool, judgement: Judgement, market: Market, rules: Rules
) -> PositionReport:
    mark, detail = float(market.mark(position.symbol)), spot_margin.charge(position, market, rules).detail
    rate = float(spot_margin.required_rate(detail["rate"], detail["taker"]))
    trigger = shown = price_at_gap_zero(position, pool, float(judgement.gap), rate, mark)
    bankruptcy = price_at_gap_zero(position, pool, float(judgement.equity), 0.0, mark)
    if position.margin_mode == "cross":
        bare = pool.bare
        alone = all(p.symbol == position.symbol for p in pool.positions)
        shown = price_at_gap_zero(position, bare, float(judge(bare, market, rules).gap), rate, mark) if alone else None
    return spot_margin.report(position, pool, judgement, market, rules, trigger, bankruptcy, shown)


def _displayed_price(
    position: Position, pool: Pool, market: Market, rules: Rules, rate: float, fee: float, trigger: float | None
) -> float | None:
    """OKX's `liqPx`: isolated one tick early (long + tick, short - tick); cross by held sizes alone, no tick,
    orders ignored, none while the pool holds several underlyings. Source: recorded items 23 and 24."""
    if position.margin_mode == "isolated":
        tick = position.sign * position.instrument.tick
        return None if trigger is None or trigger + tick <= 0 else trigger + tick
    if any(p.symbol != position.symbol for p in pool.positions):
        return None
    bare = Pool(pool.name, pool.mode, pool.currency, pool.cash, pool.positions)
    judgement = judge(bare, market, rules)
    return price_at_gap_zero(position, bare, float(judgement.gap), rate + fee, float(market.mark(position.symbol)))


def order_report(
    account: Account, order: Order, market: Market, rules: Rules, mode: MarginMode = CROSS
) -> OrderReport:
    """What an order reserves: margin and fee of its opening part, and its loss against the mark."""
    if mode is PORTFOLIO and order.margin_mode != "isolated":
        (pool,) = PORTFOLIO.pools(account)
        return portfolio_report.order(pool, order, market, rules)
    if order.instrument.is_spot and order.margin_mode != "isolated":
        whole = next((pool for pool in account_pools(account, mode) if pool.holdings is not None), None)
        if whole is not None:
            return account_report.spot_order(whole, order, market, rules)
    opening = order.meets(account.held_size(order.key))[0]
    value = float(order.instrument.notional(opening, order_price(order, market)))
    spot = order.is_cash
    if order.instrument.is_option:
        return _option_order_report(account, order, opening, market, rules)
    if order.instrument.is_spot and not spot:
        margin = float(spot_margin.order_margin(order, opening, market))
        return OrderReport(order.symbol, order.side, order.size, order.price, margin, 0.0, 0.0, True, "", 0.0)
    return OrderReport(
        symbol=order.symbol,
        side=order.side,
        amount=order.size,
        price=order.price,
        initial_margin=0.0 if spot else value / order.leverage,
        order_loss=0.0 if spot or not opening else float(order_loss(replace(order, size=opening), market)),
        fee=0.0 if spot else value * taker(order.instrument, rules),
        accepted=True,
        reason="",
        shortfall=0.0,
    )


def _option_order_report(
    account: Account, order: Order, opening: float, market: Market, rules: Rules
) -> OrderReport:
    others = account.resting_besides(order.id)
    short = options.short_contracts(account.positions.values(), others.plus(order), order.instrument.family)
    price = float(market.last(order.symbol)) if order.price is None else order.price
    given = float(options.order_premium(order, opening, market)) if order.side == "buy" else 0.0
    fee = options.trading_fee(order.instrument, opening, price, taker(order.instrument, rules), market, rules)
    margin = given + float(options.order_margin(order, opening, short, market, rules))
    return OrderReport(order.symbol, order.side, order.size, order.price, margin, 0.0, float(fee), True, "", 0.0)


def _totals(
    pools: tuple[PoolReport, ...],
    currencies: tuple[CurrencyReport, ...],
    positions: tuple[PositionReport, ...],
    market: Market,
) -> AccountTotals:
    def rate(currency: str) -> float:
        return float(market.usd(currency))

    used = [p for p in pools if p.initial_margin or p.maintenance_margin]
    settles = {pool.currency for pool in used}
    equity = sum(row.equity_usd for row in currencies)
    notional = sum(row.notional_usd for row in positions)
    ratios = [p.margin_ratio for p in used if p.margin_ratio is not None]
    return AccountTotals(
        equity_usd=equity,
        adjusted_equity_usd=None,  # discounted equity belongs to the multi-currency modes
        initial_margin_usd=sum(p.initial_margin * rate(p.currency) for p in used),
        maintenance_margin_usd=sum(p.maintenance_margin * rate(p.currency) for p in used),
        liquidation_fee_usd=sum(p.liquidation_fee * rate(p.currency) for p in used),
        available_usd=sum(row.free_margin * rate(row.currency) for row in currencies if row.free_margin),
        notional_usd=notional,
        margin_ratio=min(ratios) if ratios else None,
        leverage=notional / equity if equity > 0 else 0.0,
        idle_usd=sum(row.equity_usd for row in currencies if row.currency not in settles and positions),
    )
