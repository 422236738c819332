"""Report rows of portfolio margin: units with their scenarios and greeks, positions without a margin of their own.

Source: rule book portfolio margin, sections 4 and 5; addendum 2.7 (a position's margin is its unit's: never add them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bt_margin.errors import NoRuleInForce
from bt_margin.model.account import Order, Position
from bt_margin.model.assessment import AccountReport, OrderReport, PositionReport, RiskUnitReport, ratio
from bt_margin.model.instrument import Kind
from bt_margin.model.market import Market
from bt_margin.modes import account_report, currencies, inferred, options
from bt_margin.modes.base import Judgement, Pool
from bt_margin.modes.judged_units import JudgedUnit, judged_units, worst_scenario
from bt_margin.modes.valuation import break_even_price, order_price, taker
from bt_margin.risk.grid import VOL_COLUMNS

if TYPE_CHECKING:
    from bt_margin.rules.book import Rules

GREEKS = ("delta", "gamma", "vega", "theta", "delta_pa", "gamma_pa", "vega_pa", "theta_pa")


def completed(report: AccountReport, pool: Pool, market: Market, rules: Rules) -> AccountReport:
    """The account's report with its units, and with position value and leverage as portfolio margin tells them.

    `notional_usd`: coins x their price in USD; leverage = that / adjusted equity, negative with it (derived: all digits
    of the sample of 2025, where the debt does not count).
    """
    lines = currencies.lines(pool, market, rules)
    units = tuple(unit(judged, report.positions, market, rules) for judged in judged_units(pool, lines, market, rules))
    adjusted = float(report.account.adjusted_equity_usd or 0.0)
    notional = sum(row.notional_usd for row in report.positions if row.margin_mode == "cross")
    account = replace(
        report.account, notional_usd=sum(row.notional_usd for row in report.positions),
        leverage=notional / adjusted if adjusted else 0.0,
    )
    notes = (*_choice_notes(pool, rules), *limit_notes(pool, rules), *_inferred_notes(units))
    return replace(report, account=account, risk_units=units, evidence=rules.evidence(),
                   warnings=(*report.warnings, *notes))


def unit(judged: JudgedUnit, rows: Sequence[PositionReport], market: Market, rules: Rules) -> RiskUnitReport:
    """A unit's row. The charges are those of the case that its maintenance margin comes from."""
    shown, symbols = judged.shown, {position.symbol for position in judged.unit.positions}
    held = [row for row in rows if row.symbol in symbols and row.margin_mode == "cross"]
    cap = judged.cap if judged.unit.spot else 0.0
    share, names = inferred.resting(judged.unit.base, shown, float(judged.other_spot), cap, market, rules)
    profit = sum(float(p.unrealised(market)) * float(market.usd(p.currency)) for p in judged.unit.positions)
    spot = float(shown.spot)
    greeks = {name: float(sum(getattr(row, name) for row in held)) for name in GREEKS}
    greeks["delta"] += spot
    greeks["delta_pa"] += spot
    moves = shown.scenarios.spot.reshape(-1, len(VOL_COLUMNS))[:, 0]
    table = shown.profits.reshape(-1, len(VOL_COLUMNS))
    value = {name.lower(): float(amount) for name, amount in shown.charges.items()}
    return RiskUnitReport(
        unit=judged.unit.name, delta_usd=float(shown.cash_delta), **value,
        mmr=float(shown.maintenance),
        imr=judged.initial_factor * max(float(case.maintenance) for case in judged.cases), upl_usd=profit,
        mr1_scenarios={
            f"{move:g}": {column: float(gain) + 0.0 for column, gain in sorted(zip(VOL_COLUMNS, gains, strict=True))}
            for move, gains in zip(moves, table, strict=True)
        },
        mr1_worst=_plain(worst_scenario(shown.profits, shown.scenarios.spot, shown.scenarios.vol)),
        mr6_worst=_plain(worst_scenario(shown.extreme_profits, shown.extremes.spot, None)),
        spot_in_use=spot, **greeks,
        dominant=max(shown.binding().items(), key=lambda item: float(item[1]))[0],
        inferred_share=share, indicative=share > inferred.INDICATIVE, inferred=names,
    )


def _plain(found: Mapping[str, object]) -> dict[str, object]:
    return {key: value if isinstance(value, str) else float(value) for key, value in found.items()}  # type: ignore[arg-type]


def position(
    position: Position, judgement: Judgement, market: Market, rules: Rules,
    prices: Mapping[str, account_report.CoinPrices],
) -> PositionReport:
    """A position's row. Margin, fee, leverage and tier are None: only its unit has a margin, for all it holds."""
    instrument = position.instrument
    mark, units = float(market.mark(position.symbol)), position.size * instrument.contract_size
    upl, inverse = float(position.unrealised(market)), instrument.kind in (Kind.INVERSE_SWAP, Kind.INVERSE_FUTURE)
    usd = abs(units) if inverse else abs(units) * float(market.usd(instrument.base))
    if instrument.is_option:
        bs, pa = options.greeks(instrument, market)
        each: dict[str, Any] = {name: units * float(getattr(bs, name)) for name in GREEKS[:4]}
        each |= {f"{name}_pa": units * float(getattr(pa, name)) for name in GREEKS[:4]}
        worth, levels = float(position.value(market)), (None, None, None)
        even = position.entry_price
    else:
        coins = float(instrument.payoff.delta(units, mark))
        each = dict.fromkeys(GREEKS, 0.0) | {"delta": coins, "delta_pa": coins}
        moves, worth = prices[instrument.base], 0.0
        levels = tuple(  # type: ignore[assignment]
            None if move is None else mark * (1.0 + move) for move in (moves.trigger, moves.shown, moves.bankruptcy)
        )
        even = break_even_price(position, taker(instrument, rules))
    return PositionReport(
        symbol=position.symbol, margin_mode=position.margin_mode, position_side=position.side,
        contracts=position.size, entry_price=position.entry_price, mark_price=mark,
        notional=float(position.notional(market)), notional_usd=usd, unrealised_pnl=upl,
        unrealised_pnl_ratio=upl / float(instrument.notional(position.size, position.entry_price)), margin=0.0,
        initial_margin=None, maintenance_margin=None, liquidation_fee=None,
        margin_ratio=ratio(float(judgement.equity), float(judgement.requirement)), trigger_price=levels[0],
        liquidation_price=levels[1], bankruptcy_price=levels[2], break_even_price=even, leverage=None, tier=None,
        available_assets=abs(position.size), option_value=worth, **each,
    )


def order(pool: Pool, order: Order, market: Market, rules: Rules) -> OrderReport:
    """An order's row: the initial margin it adds to the account, in the currency it settles in, and its fee.

    `pool`: the account's, whose other orders rest already. Spot orders tell what they would lose when filled, too.
    """

    def initial(of: Pool) -> float:
        return float(sum(row.initial for row in of.mode.charges(of, market, rules)))

    adds = initial(pool.with_order(order)) - initial(pool.without_order(order.id))
    instrument = order.instrument
    if instrument.is_spot:
        row = account_report.spot_order(pool, order, market, rules)
        currency = currencies.given_in(order)
        return replace(row, initial_margin=adds / float(market.usd(currency)))
    if instrument.is_option:
        price = market.last(order.symbol) if order.price is None else order.price
        fee = options.trading_fee(instrument, order.size, price, taker(instrument, rules), market, rules)
    else:
        fee = instrument.notional(order.size, order_price(order, market)) * taker(instrument, rules)
    return OrderReport(order.symbol, order.side, order.size, order.price, adds / float(market.usd(order.currency)), 0.0,
                       float(fee), True, "", 0.0)


def limit(symbol: str, rules: Rules) -> float | None:
    """The most contracts one family may hold (OKX: caps by family replace tiers); None: no limit.

    Raises NoRuleInForce where no tiers are known to stand in.
    """
    if rules.portfolio_account.position_limit == "none":
        return None
    return float(rules.tiers(symbol).rows[-1].max_size)


def limit_notes(pool: Pool, rules: Rules) -> list[str]:
    """Families that hold more than they may, and those whose limit is not known."""
    sizes: dict[str, float] = {}
    symbols: dict[str, str] = {}
    for held in pool.positions:
        if held.instrument.is_contract:
            family = held.instrument.family
            sizes[family] = sizes.get(family, 0.0) + abs(held.size)
            symbols.setdefault(family, held.symbol)
    notes, unknown = [], []
    for family, size in sorted(sizes.items()):
        try:
            most = limit(symbols[family], rules)
        except NoRuleInForce:
            unknown.append(family)
            continue
        if most is not None and size > most:
            notes.append(f"position limit: {family} holds {size:,.10g} contracts, more than {most:,.10g}")
    if unknown:
        notes.append(f"position limit of {', '.join(unknown)}: not known, nothing was checked")
    return notes


def _choice_notes(pool: Pool, rules: Rules) -> list[str]:
    """Coins that could hedge, but whose unit nobody chose."""
    chosen, notes = currencies.of(pool).spot_use.unit, []
    for base in sorted({p.instrument.base for p in pool.positions}):
        row = rules.portfolio(base)
        if row.spot_in_use == "chosen" and base not in chosen and currencies.of(pool).balances.get(base, 0.0):
            notes.append(
                f"spot in use: {base} hedges nothing, since at that time one unit had to be chosen; name it under "
                f"spot_in_use.unit.{base} ({', '.join(row.spot_choices)})"
            )
    return notes


def _inferred_notes(units: Sequence[RiskUnitReport]) -> list[str]:
    notes = []
    for row in units:
        if row.inferred:
            word = "indicative: " if row.indicative else ""
            notes.append(f"{word}unit {row.unit}: {row.inferred_share:.0%} of its maintenance margin rests on inferred "
                         f"parameters: {', '.join(row.inferred)}")
    return notes
