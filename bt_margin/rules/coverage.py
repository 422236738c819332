"""What a run looks up, and what a revision says in a few words: for the grid and the listing of a book."""

from __future__ import annotations

from typing import Any

from bt_margin.model.instrument import Kind, parse
from bt_margin.rules.credit import BorrowRow, QuotaRow, RateSeries
from bt_margin.rules.discounts import DiscountRow
from bt_margin.rules.history import Revision
from bt_margin.rules.loading import FundingTerms
from bt_margin.rules.lookups import Rules
from bt_margin.rules.tables import FeeRow, InstrumentRow, InterestRow, MarginTierRow, TierRow


def subjects(symbols: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a run on these symbols looks up, margin trading of its spot pairs included."""
    rows: list[tuple[str, str]] = [("liquidation", ""), ("orders", ""), ("multi_currency", "")]
    for symbol in symbols:
        parts = parse(symbol)
        rows += [("instruments", symbol), ("portfolio", parts.base)]
        for currency in dict.fromkeys((parts.base, parts.settle or parts.quote)):
            rows += [(table, currency) for table in ("discounts", "currency_borrow", "borrow_limits", "free_quota",
                                                     "interest")]
        match parts.kind:
            case Kind.SPOT:
                rows += [("fees", "spot"), ("fees", "margin"), ("margin_tiers", symbol), ("margin", "")]
                rows += [("interest", parts.quote)]
            case Kind.OPTION:
                rows += [("fees", "option"), ("options", parts.base), ("delivery", "")]
            case Kind.LINEAR_FUTURE | Kind.INVERSE_FUTURE:
                rows += [("fees", "future"), ("position_tiers", symbol), ("delivery", "")]
            case _:
                rows += [("fees", "swap"), ("position_tiers", symbol), ("funding", symbol)]
    return list(dict.fromkeys(rows))


def look_up(rules: Rules, table: str, subject: str) -> None:
    """Ask for a row, so that it is noted as evidence. Raises NoRuleInForce."""
    match table:
        case "instruments":
            rules.instrument(subject)
        case "position_tiers":
            rules.tiers(subject)
        case "margin_tiers":
            rules.margin_tiers(subject)
        case "fees":
            rules.fees(subject)
        case "funding":
            rules.funding(subject)
        case "interest":
            rules.hourly_rate(subject, rules.time)
        case "options":
            rules.option(subject)
        case "portfolio":
            rules.portfolio(subject)
        case "discounts":
            rules.discount(subject)
        case "currency_borrow":
            rules.borrow(subject)
        case "borrow_limits":
            rules.borrow_limit(subject)
        case "free_quota":
            rules.free_quota(subject)
        case "margin" | "delivery" | "liquidation" | "orders" | "multi_currency":
            getattr(rules, table)


def summary(revision: Revision[Any]) -> str:
    """A row in a few words."""
    match revision.row:
        case TierRow(rows=rows, then=then):
            size, maintenance, _, leverage = rows[0]
            step = "" if then is None else f", then +{then.size:g}"
            return f"{size:g} contracts at {maintenance:.2%}, {leverage:g}x; {len(rows)} rows{step}"
        case MarginTierRow(pair=pair, rows=rows, quoted=quoted):
            base, _, quote = pair.partition("/")
            limit = f"{rows[0][0]:,.10g} {base}" + (f" or {rows[0][1]:,.10g} {quote}" if quoted else "")
            return f"{limit} at {rows[0][-3]:.2%}, {rows[0][-1]:g}x; {len(rows)} rows"
        case InstrumentRow(contract_size, tick, lot):
            return f"contract size {contract_size:g}, tick {tick:g}, lot {lot:g}"
        case FeeRow(maker, taker):
            return f"maker {maker:.3%}, taker {taker:.3%}"
        case FundingTerms(hours, cap):
            return f"every {hours:g} h" + ("" if cap is None else f", capped at {cap:.3%}")
        case DiscountRow(unit=unit, rows=tiers, then=then):
            step = "" if then is None else f", then +{then.size:,.10g} at -{then.rate:g}"
            scale = "USD" if unit == "usd" else "coins"
            steps = ", ".join(f"{rate:g} to {bound:,.10g}" for bound, rate in tiers)
            return f"{steps} {scale}{step}" if tiers else "nothing counts"
        case BorrowRow(rows=tiers):
            return f"{tiers[0][0]:,.10g} at {tiers[0][1]:.2%}, initial {tiers[0][2]:.2%}; {len(tiers)} rows"
        case QuotaRow(amount, enlarged_by):
            return " + ".join((f"{amount:,.10g}", *(f"equity of {currency}" for currency in enlarged_by)))
        case RateSeries(yearly=yearly):
            return f"{len(yearly)} rates from {yearly.min():.2%} to {yearly.max():.2%} a year"
        case InterestRow(hourly):
            return f"{hourly * 24:.4%} a day"
        case ((_, *_), *_) as tiers:
            return "; ".join(f"to {limit:,.10g}: {', '.join(f'{x:g}' for x in values)}" for limit, *values in tiers)
        case tuple() as values:
            return ", ".join(f"{x}" if isinstance(x, str) else f"{x:g}" for x in values) or "none"
        case value:
            return str(value).lower() if isinstance(value, bool) else str(value)
