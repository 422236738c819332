"""The rules at one instant: every lookup notes the revision it rests on.

Nothing fails open: where no revision is in force, an error says so, or (with extrapolate="nearest") the
nearest one stands in and its distance is part of the evidence.
"""

from __future__ import annotations

import re
from dataclasses import fields
from functools import lru_cache
from typing import Any, Literal, TypeVar

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.instrument import Instrument, Kind, parse
from bt_margin.model.moment import DAY
from bt_margin.rules.credit import BorrowRow, MultiCurrencyRow, QuotaRow, RateSeries
from bt_margin.rules.discounts import DiscountRow
from bt_margin.rules.families import borrows, candidates
from bt_margin.rules.history import iso
from bt_margin.rules.loading import FundingTerms, Tables
from bt_margin.rules.portfolio import (
    DepegRow,
    PortfolioAccountRow,
    PortfolioLadderRow,
    PortfolioOptionRow,
    PortfolioOrderRow,
    PortfolioRow,
)
from bt_margin.rules.tables import (
    FEE_KINDS,
    DeliveryRow,
    Evidence,
    FeeRow,
    FundingRow,
    InstrumentRow,
    InterestRow,
    LiquidationRow,
    MarginRow,
    MarginTierRow,
    MarginTiers,
    OptionRow,
    OrderRow,
    TierRow,
    row_of,
)
from bt_margin.rules.tiers import Tiers

Extrapolate = Literal["never", "nearest"]
P = TypeVar(
    "P", PortfolioRow, PortfolioOptionRow, DepegRow, PortfolioOrderRow, PortfolioAccountRow, PortfolioLadderRow
)

_DEFAULT = "*"
"""The funding row of every swap, and the option or portfolio figure of every coin, that has none of its own."""

_OVERLAYS = {
    "instruments": "instruments",
    "position_tiers": "instruments",
    "margin_tiers": "instruments",
    "fees": "fees",
    "portfolio": "portfolio",
    "discounts": "discounts",
    "currency_borrow": "borrow_tiers",
}
"""Under which key a caller gives his own figures for a table."""

STABLECOINS = frozenset({"USDT", "USDC", "USDP", "PAX", "TUSD", "BUSD", "USDK", "DAI", "FDUSD", "PYUSD", "USDG"})
"""Currencies whose borrow rate is that of `stablecoins` where none of their own is in force."""


FORMULA = "formula."
"""Parameters that say what a formula rests on; they are looked up by name, not as parts of a row."""


class Rules:
    """The venue's tables at one instant.

    Made by `RuleBook.as_of`; lookups are remembered, so repeats are cheap.
    """

    def __init__(self, tables: Tables, time: int, extrapolate: Extrapolate) -> None:
        self.time = time
        self._tables = tables
        self._extrapolate = extrapolate
        self._evidence: dict[tuple[str, str], Evidence] = {}
        self._instruments: dict[str, Instrument] = {}
        self._tiers: dict[str, Tiers] = {}
        self._fees: dict[str, FeeRow] = {}
        self._funding: dict[str, FundingRow] = {}
        self._margin_tiers: dict[str, MarginTiers] = {}
        self._options: dict[str, OptionRow] = {}
        self._interest: dict[str, InterestRow] = {}
        self._portfolio: dict[tuple[type, str], Any] = {}
        self._liquidation: LiquidationRow | None = None
        self._orders: OrderRow | None = None
        self._margin: MarginRow | None = None
        self._delivery: DeliveryRow | None = None
        self._discounts: dict[str, DiscountRow] = {}
        self._borrow: dict[str, Tiers] = {}
        self._quotas: dict[str, QuotaRow] = {}
        self._multi_currency: MultiCurrencyRow | None = None

    def instrument(self, symbol: str) -> Instrument:
        """What the symbol was then. Raises NoRuleInForce; InputError when it is no symbol.

        Expiry futures and options are known by family, a future without one in force is as the swap of its
        family. A row of the symbol's own comes first.
        """
        found = self._instruments.get(symbol)
        if found is None:
            parts = parse(symbol)
            row: InstrumentRow = self._of_family("instruments", symbol, "derived")
            found = self._instruments[symbol] = Instrument(
                symbol,
                parts.kind,
                parts.base,
                parts.quote,
                parts.settle,
                row.contract_size,
                row.tick,
                row.lot,
            )
        return found

    def tiers(self, symbol: str) -> Tiers:
        """The position tiers of a swap or future, in contracts.

        Futures of a family without a table in force take that of its swap, graded inferred. Raises
        NoRuleInForce; InputError for a product that has none.
        """
        found = self._tiers.get(symbol)
        if found is None:
            kind = parse(symbol).kind
            if kind in (Kind.SPOT, Kind.OPTION):
                lookup = "margin_tiers" if kind is Kind.SPOT else "option"
                raise InputError(f"tiers: {symbol} ({kind}) has no position tiers; ask `{lookup}`")
            row: TierRow = self._of_family("position_tiers", symbol, "inferred")
            found = self._tiers[symbol] = row.tiers
        return found

    def margin_tiers(self, pair: str) -> MarginTiers:
        """The borrow tiers of a spot pair. Raises NoRuleInForce; InputError when it is no spot pair."""
        found = self._margin_tiers.get(pair)
        if found is None:
            if parse(pair).kind is not Kind.SPOT:
                raise InputError(f"margin_tiers: expected a spot pair such as BTC/USDT, found {pair!r}")
            row: MarginTierRow = self._find("margin_tiers", pair)
            found = self._margin_tiers[pair] = row.tiers
        return found

    def fees(self, kind: str) -> FeeRow:
        """Fee rates of spot, margin, swap, future or option.

        Raises NoRuleInForce; InputError for another kind.
        """
        found = self._fees.get(kind)
        if found is None:
            if kind not in FEE_KINDS:
                raise InputError(f"fees: expected one of {', '.join(FEE_KINDS)}, found {kind!r}")
            found = self._fees[kind] = self._find("fees", kind)
        return found

    def funding(self, symbol: str) -> FundingRow:
        """How funding of a swap falls due: its own row where one is in force, else the default."""
        found = self._funding.get(symbol)
        if found is None:
            terms: FundingTerms = self._find("funding", self._pick("funding", symbol, _DEFAULT))
            collection = self._find("funding_collection", "collection")
            found = self._funding[symbol] = FundingRow(terms.interval_hours, terms.cap, collection)
        return found

    def interest(self, currency: str) -> InterestRow:
        """What borrowing a currency costs: its own rate where one is in force, else that of its class.

        Raises NoRuleInForce; InputError when it is no currency.
        """
        found = self._interest.get(currency)
        if found is None:
            _currency("interest", currency)
            default = "stablecoins" if currency in STABLECOINS else "coins"
            found = self._find("interest", self._pick("interest", currency, default))
            self._interest[currency] = found
        return found

    def hourly_rate(self, currency: str, time: int) -> float:
        """What an hour of owing a currency costs at `time` (ms UTC), as a fraction: the rate recorded for that very
        hour where there is one, else the daily rate in force / 24. Raises NoRuleInForce.

        Rules that stand still at a date have the rate of that date.
        """
        history = self._tables["borrow_rates"].get(currency)
        if history is None or history.at(self.time) is None:
            return self.interest(currency).hourly
        series: RateSeries = self._find("borrow_rates", currency)
        return series.hourly(time if 0 <= time - self.time < DAY else self.time)

    def discount(self, currency: str) -> DiscountRow:
        """How much of a currency counts as collateral. Raises NoRuleInForce: no currency counts by default."""
        found = self._discounts.get(currency)
        if found is None:
            found = self._discounts[currency] = self._find("discounts", _currency("discounts", currency))
        return found

    def borrow(self, currency: str) -> Tiers:
        """The borrow tiers of a currency where the whole account stands behind its debts, in coins of it.

        Its own where there are some, else the base side of its USDT pair. Raises NoRuleInForce.
        """
        found = self._borrow.get(currency)
        if found is None:
            pair = f"{_currency('borrow_tiers', currency)}/USDT"
            if currency in self._tables["currency_borrow"] or pair not in self._tables["margin_tiers"]:
                row: BorrowRow = self._find("currency_borrow", currency)
                found = row.tiers
            else:
                found = self.margin_tiers(pair).base
            self._borrow[currency] = found
        return found

    def borrow_limit(self, currency: str) -> float:
        """The most that an account of regular level 1 may owe of a currency. Raises NoRuleInForce."""
        limit: float = self._find("borrow_limits", _currency("borrow_limits", currency))
        return limit

    def free_quota(self, currency: str) -> QuotaRow:
        """How much of a debt costs no interest; nothing of a currency without a row. Raises NoRuleInForce."""
        found = self._quotas.get(currency)
        if found is None:
            subject = self._pick("free_quota", _currency("free_quota", currency), _DEFAULT)
            found = self._quotas[currency] = self._find("free_quota", subject)
        return found

    def option(self, base: str) -> OptionRow:
        """Margin parameters of the options on a coin. Raises NoRuleInForce when one of them is not known."""
        found = self._options.get(base)
        if found is None:
            names = {subject.partition(".")[2] for subject in self._tables["options"]}
            figures = {name: self._coin_figure("options", base, name) for name in sorted(names)}
            found = self._options[base] = row_of(OptionRow, figures, "rules.options")
        return found

    def _coin_figure(self, table: str, base: str, name: str) -> Any:
        return self._find(table, self._pick(table, f"{base}.{name}", f"{_DEFAULT}.{name}"))

    def portfolio(self, base: str = _DEFAULT) -> PortfolioRow:
        """What every risk unit of a coin is judged by in portfolio margin. Raises NoRuleInForce.

        The parameters come in six rows, so that the evidence of a book holds those it leans on and no others.
        Without a coin: the figures of coins that have none of their own.
        """
        return self._portfolio_row(PortfolioRow, base)

    def portfolio_options(self, base: str) -> PortfolioOptionRow:
        """What a unit with options is judged by besides. Raises NoRuleInForce: two coins have options."""
        return self._portfolio_row(PortfolioOptionRow, base)

    def portfolio_depeg(self, base: str = _DEFAULT) -> DepegRow:
        """What a unit with several settlement coins is judged by besides. Raises NoRuleInForce."""
        return self._portfolio_row(DepegRow, base)

    @property
    def portfolio_account(self) -> PortfolioAccountRow:
        """Who may hold an account in portfolio margin, and what. Raises NoRuleInForce."""
        return self._portfolio_row(PortfolioAccountRow, _DEFAULT)

    @property
    def portfolio_orders(self) -> PortfolioOrderRow:
        """What resting orders do to a unit. Raises NoRuleInForce."""
        return self._portfolio_row(PortfolioOrderRow, _DEFAULT)

    @property
    def portfolio_ladder(self) -> PortfolioLadderRow:
        """How a breached account in portfolio margin is undone. Raises NoRuleInForce."""
        return self._portfolio_row(PortfolioLadderRow, _DEFAULT)

    def _portfolio_row(self, shape: type[P], base: str) -> P:
        found = self._portfolio.get((shape, base))
        if found is None:
            figures = {part.name: self._coin_figure("portfolio", base, part.name) for part in fields(shape)}
            found = self._portfolio[shape, base] = row_of(shape, figures, "rules.portfolio")
        return found

    @property
    def liquidation(self) -> LiquidationRow:
        """How a breached pool is undone. Raises NoRuleInForce."""
        if self._liquidation is None:
            self._liquidation = row_of(LiquidationRow, self._parameters("liquidation"), "rules.liquidation")
        return self._liquidation

    @property
    def orders(self) -> OrderRow:
        """What resting orders cost. Raises NoRuleInForce."""
        if self._orders is None:
            self._orders = row_of(OrderRow, self._parameters("orders"), "rules.orders")
        return self._orders

    @property
    def margin(self) -> MarginRow:
        """How isolated spot margin books a position. Raises NoRuleInForce."""
        if self._margin is None:
            self._margin = row_of(MarginRow, self._parameters("margin"), "rules.margin")
        return self._margin

    @property
    def delivery(self) -> DeliveryRow:
        """How futures are delivered and options exercised. Raises NoRuleInForce."""
        if self._delivery is None:
            self._delivery = row_of(DeliveryRow, self._parameters("delivery"), "rules.delivery")
        return self._delivery

    @property
    def multi_currency(self) -> MultiCurrencyRow:
        """What multi-currency margin lets an account do, and how open questions are settled. Raises NoRuleInForce."""
        if self._multi_currency is None:
            self._multi_currency = row_of(MultiCurrencyRow, self._parameters("multi_currency"), "rules.multi_currency")
        return self._multi_currency

    def margin_formula(self, direction: str, base_margin: bool) -> str:
        """The rule a spot-margin position's profit follows, noted as evidence with its grade. Raises NoRuleInForce."""
        formula: str = self._find("margin", f"{FORMULA}{direction}-{'base' if base_margin else 'quote'}")
        return formula

    def _parameters(self, table: str) -> dict[str, Any]:
        names = (name for name in self._tables[table] if not name.startswith(FORMULA))
        return {parameter: self._find(table, parameter) for parameter in names}

    def evidence(self) -> tuple[Evidence, ...]:
        """The revisions looked up through this object so far, each once, by table and subject."""
        return tuple([self._evidence[key] for key in sorted(self._evidence)])

    def _pick(self, table: str, *subjects: str) -> str:
        """The first subject with a revision in force, else the first known one, else the first."""
        known = [subject for subject in subjects if subject in self._tables[table]]
        for subject in known:
            if self._tables[table][subject].at(self.time) is not None:
                return subject
        return known[0] if known else subjects[0]

    def _of_family(self, table: str, symbol: str, grade: str) -> Any:
        """The row of a symbol or its family; one borrowed from the swap is graded no better than `grade`."""
        subject = self._pick(table, *candidates(symbol))
        return self._find(table, subject, grade if borrows(symbol, subject) else None)

    def _find(self, table: str, subject: str, lent: str | None = None) -> Any:
        """The row in force (or standing in), noted as evidence. Raises NoRuleInForce.

        `lent`: the row serves the futures of a swap, which is evidence of that grade at best.
        """
        history = self._tables[table].get(subject)
        if history is None:
            known = self._known(table, subject)
            raise NoRuleInForce(f"{table}: {subject} is not in the tables {known}{_advice(table)}")
        found = history.nearest(self.time)
        if found is None:
            listed = history.revisions[0].listed or 0
            raise NoRuleInForce(
                f"{table}: nothing is known of {subject} on {iso(self.time)}: the contract now under this "
                f"name was listed on {iso(listed)}, another bore it before{_advice(table)}"
            )
        revision, days = found
        if days and self._extrapolate == "never":
            raise NoRuleInForce(
                f"{table}: no revision for {subject} is in force on {iso(self.time)}; the nearest "
                f"(effective {iso(revision.effective)}, {revision.grade}) is {days} days away. "
                f'Set extrapolate="nearest" to let it stand in{_advice(table, "or")}'
            )
        grade, source = revision.grade, revision.source
        if lent is not None:
            subject, source = f"{subject}-*", f"as the swap of the family: {source}"
            grade = grade if grade == "inferred" else lent
        self._evidence[table, subject] = _evidence(table, subject, revision.effective, grade, source, days)
        return revision.row

    def _known(self, table: str, subject: str) -> str:
        known = sorted(self._tables[table])
        base = subject.partition("/")[0]
        alike = [symbol for symbol in known if symbol.partition("/")[0] == base] or known
        return f"({len(known)} are known, such as {', '.join(alike[:4])})"


@lru_cache(maxsize=4096)
def _evidence(table: str, subject: str, effective: int, grade: str, source: str, days: int) -> Evidence:
    return Evidence(table, subject, iso(effective), grade, source, days)  # what is in force is the same each day


def _currency(table: str, currency: str) -> str:
    if re.fullmatch("[A-Z0-9]+", currency) is None:
        raise InputError(f"{table}: expected a currency such as USDT, found {currency!r}")
    return currency


def _advice(table: str, word: str = "") -> str:
    """How a caller helps himself, as the end of a sentence."""
    overlay_key = _OVERLAYS.get(table)
    if overlay_key is None:
        return ""
    text = f"give your own figures under `{overlay_key}`"
    return f", {word} {text}" if word else f"; {text}"
