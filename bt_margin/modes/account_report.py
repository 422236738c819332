"""Report rows of a pool that is the whole account: its parts, its currencies, its prices, its totals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bt_margin.model.account import Account, Order
from bt_margin.model.assessment import AccountTotals, CurrencyReport, OrderReport, PoolReport, ratio, state_of
from bt_margin.model.instrument import Number
from bt_margin.model.market import Market
from bt_margin.model.orders import Orders
from bt_margin.modes import borrow, currencies, spot_margin
from bt_margin.modes.base import Judgement, Pool
from bt_margin.modes.reach import reach

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules


@dataclass(frozen=True, slots=True)
class CoinPrices:
    """Shares by which all prices of a coin move until the ratio is 1 (with and without resting orders) or adjusted
    equity is 0; None: no move does it. `unknown` says where the search had to end."""

    trigger: float | None
    shown: float | None
    bankruptcy: float | None
    unknown: tuple[str, ...] = ()


class Collateral(NamedTuple):
    """One currency of an account pool in USD: what it is worth (negative: owed), what of it counts as collateral, and
    the interest accrued on it and not deducted yet."""

    equity: Number
    counted: Number
    accrued: Number


def collateral(pool: Pool, market: Market, rules: Rules) -> dict[str, Collateral]:
    """Every currency of an account pool; floats, or arrays over instants."""
    off = currencies.of(pool).borrowing.collateral_off
    return {
        line.currency: Collateral(
            line.equity * line.usd, currencies.discounted(line.currency, line.backing, line.usd, off, rules),
            line.accrued * line.usd,
        )
        for line in currencies.lines(pool, market, rules)
    }


def coin_prices(pool: Pool, market: Market, rules: Rules) -> dict[str, CoinPrices]:
    """By underlying coin of the pool's positions. One coin moves at a time, with everything that is priced in it."""
    bare = pool.bare
    rows = {}
    for coin in sorted({p.instrument.base for p in pool.positions if not p.instrument.is_option}):
        trigger, broke = reach(pool, coin, market, rules, lambda j: j.gap, lambda j: j.equity)
        (shown,) = reach(bare, coin, market, rules, lambda j: j.gap) if pool.orders else (trigger,)
        unknown = tuple(dict.fromkeys(why for _, why in (trigger, shown, broke) if why))
        rows[coin] = CoinPrices(trigger[0], shown[0], broke[0], unknown)
    return rows


def pool_report(pool: Pool, judgement: Judgement, market: Market, rules: Rules) -> PoolReport:
    adjusted, requirement = float(judgement.equity), float(judgement.requirement)
    rows = currencies.lines(pool, market, rules)
    parts = {name: float(x) for name, x in currencies.adjusted(pool, rows, market, rules).items()}
    margin_ratio = ratio(adjusted, requirement)
    levels = rules.liquidation
    risky = pool.positions or any(float(row.liability) for row in rows)
    state = state_of(margin_ratio, levels.warning_ratio, levels.liquidation_ratio) if risky else "safe"
    return PoolReport(
        pool.name, pool.currency, adjusted, float(judgement.initial), float(judgement.maintenance),
        float(judgement.fee), max(0.0, adjusted - float(judgement.initial)), margin_ratio, state, judgement.charges,
        parts,
    )


def currency_reports(
    account: Account, pool: Pool, judgement: Judgement, market: Market, rules: Rules
) -> tuple[CurrencyReport, ...]:
    """One row per currency. Equity is that of the cross account; isolated positions add to frozen money, unrealised
    profit and liabilities. `in_use`: what orders freeze and what margin positions, orders and the debt ask for."""
    off, rows = currencies.of(pool).borrowing.collateral_off, []
    loans = spot_margin.loans(account.held("isolated"))
    for line in currencies.lines(pool, market, rules):
        name, usd, equity = line.currency, float(line.usd), float(line.equity)
        isolated = [p for p in account.held("isolated") if p.currency == name]
        posted = sum(p.margin + float(p.backing(market)) for p in isolated)
        owed = sum(loan.liability for loan in loans if loan.debt_currency == name)
        margin = sum(float(c.initial) for c in judgement.charges
                     if c.detail.get("currency", c.unit) == name) / usd
        in_use = float(line.frozen) + margin
        held = [p for p in pool.positions if p.currency == name]
        notional = sum(float(p.notional(market)) for p in held)
        rows.append(
            CurrencyReport(
                currency=name, balance=line.cash, equity=equity, in_use=in_use, frozen=float(line.frozen) + posted,
                free_margin=max(0.0, float(line.backing) - in_use), available_balance=float(line.available_balance),
                available_equity=float(line.available_equity), liability=float(borrow.liability(line.backing, owed)),
                interest=line.accrued + sum(loan.interest for loan in loans if loan.debt_currency == name),
                potential_borrow=float(line.potential_borrow),
                unrealised_pnl=float(line.unrealised) + sum(float(p.backing(market)) for p in isolated),
                leverage=notional / equity if equity > 0 else 0.0,
                discounted_equity_usd=float(currencies.discounted(name, line.backing, usd, off, rules)),
                equity_usd=equity * usd,
                unrealised_liability=float(borrow.unrealised_liability(line.cash, line.accrued, line.unrealised)),
            )
        )
    return tuple(rows)


def totals(
    account: Account, pool: Pool, report: PoolReport, rows: Iterable[CurrencyReport], pools: Iterable[PoolReport],
    market: Market,
) -> AccountTotals:
    """The account in USD. Margin and leverage are those of the account pool; isolated pools have rows of their own and
    enter equity, notional and, with the lowest ratio, `margin_ratio`.

    Position value holds what is or may come to be owed beside contracts; leverage is its multiple of adjusted equity.
    """
    rows = tuple(rows)
    off = currencies.of(pool).borrowing.collateral_off
    posted = sum((p.margin + float(p.value(market))) * float(market.usd(p.currency)) for p in account.held("isolated"))
    contracts = sum(float(p.notional(market)) * float(market.usd(p.currency)) for p in pool.positions)
    owed = sum(float(c.detail["amount"]) * float(c.detail["usd"]) for c in report.charges if c.name == "borrow margin")
    alone = sum(float(p.notional(market)) * float(market.usd(p.currency)) for p in account.held("isolated"))
    ratios = [row.margin_ratio for row in pools if row.margin_ratio is not None]
    return AccountTotals(
        equity_usd=sum(row.equity_usd for row in rows) + posted,
        adjusted_equity_usd=report.equity,
        initial_margin_usd=report.initial_margin,
        maintenance_margin_usd=report.maintenance_margin,
        liquidation_fee_usd=report.liquidation_fee,
        available_usd=report.available,
        notional_usd=contracts + owed + alone,
        margin_ratio=min(ratios) if ratios else None,
        leverage=(contracts + owed) / report.equity if report.equity > 0 else 0.0,
        idle_usd=sum(row.equity_usd for row in rows if row.currency in off),
    )


def spot_order(pool: Pool, order: Order, market: Market, rules: Rules) -> OrderReport:
    """A spot order's row: the borrow margin it adds, in the coin it gives, and what it would lose, in quote coin.

    `pool`: the account's, whose other orders rest already.
    """
    with_it, without = pool.with_order(order), pool.without_order(order.id)
    currency = currencies.given_in(order)

    def margin(of: Pool) -> float:
        row = currencies.line(of, currency, market, rules)
        if row is None or float(row.potential_borrow) <= 0:
            return 0.0
        leverage = currencies.of(pool).borrowing.leverage
        return float(borrow.charge(currency, row.potential_borrow, 1.0, leverage, rules).initial)

    rows = currencies.lines(with_it, market, rules)
    counts = rules.multi_currency.order_loss
    loss = float(currencies.order_loss(rows, Orders.of(order), with_it, market, rules)) if counts else 0.0
    fee = order.size * float(currencies.spot_price(order, market)) * rules.fees("spot").taker
    return OrderReport(
        order.symbol, order.side, order.size, order.price, margin(with_it) - margin(without),
        loss / float(market.usd(order.instrument.quote)), fee, True, "", 0.0,
    )
