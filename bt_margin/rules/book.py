"""The rule book of a venue, and the rules at one instant.

`RuleBook.as_of(t)` is a pure function of the tables and of `t`. Nothing fails open: where no revision is in
force, an error says so, or (with extrapolate="nearest") the nearest one stands in and its distance is part
of the evidence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

import msgspec

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.instrument import PAYOFFS, Instrument, Kind, parse
from bt_margin.rules import loading, overlay
from bt_margin.rules.history import DAY_MS, Revision, iso
from bt_margin.rules.loading import FundingTerms, Tables
from bt_margin.rules.tables import (
    FEE_KINDS,
    Evidence,
    FeeRow,
    FundingRow,
    InstrumentRow,
    LiquidationRow,
    OrderRow,
    TierRow,
)
from bt_margin.rules.tiers import Tiers

Extrapolate = Literal["never", "nearest"]

_DEFAULT = "*"
"""The funding row of every swap that has none of its own."""

_read_once = cache(loading.read)


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
        self._liquidation: LiquidationRow | None = None
        self._orders: OrderRow | None = None

    def instrument(self, symbol: str) -> Instrument:
        """What the symbol was then. Raises NoRuleInForce; InputError when it is no symbol.

        A future or option that no table knows comes back without figures (NaN), as products that are not
        built yet do: its `payoff` says so, which helps more than a missing rule would.
        """
        found = self._instruments.get(symbol)
        if found is None:
            found = self._instruments[symbol] = self._instrument(symbol)
        return found

    def _instrument(self, symbol: str) -> Instrument:
        parts = parse(symbol)
        identity = (symbol, parts.kind, parts.base, parts.quote, parts.settle)
        if symbol not in self._tables["instruments"] and PAYOFFS[parts.kind] is None:
            return Instrument(*identity, contract_size=float("nan"))
        row: InstrumentRow = self._find("instruments", symbol)
        return Instrument(*identity, row.contract_size, row.tick, row.lot)

    def tiers(self, symbol: str) -> Tiers:
        """The position tiers of a derivative, in contracts. Raises NoRuleInForce."""
        found = self._tiers.get(symbol)
        if found is None:
            row: TierRow = self._find("position_tiers", symbol)
            found = self._tiers[symbol] = row.tiers
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
            terms: FundingTerms = self._find("funding", self._funding_subject(symbol))
            collection = self._find("funding_collection", "collection")
            found = self._funding[symbol] = FundingRow(terms.interval_hours, terms.cap, collection)
        return found

    def _funding_subject(self, symbol: str) -> str:
        table = self._tables["funding"]
        own, default = table.get(symbol), table[_DEFAULT]
        if own is None:
            return _DEFAULT
        if own.at(self.time) is None and default.at(self.time) is not None:
            return _DEFAULT
        return symbol

    @property
    def liquidation(self) -> LiquidationRow:
        """How a breached pool is undone. Raises NoRuleInForce."""
        if self._liquidation is None:
            self._liquidation = msgspec.convert(self._parameters("liquidation"), LiquidationRow)
        return self._liquidation

    @property
    def orders(self) -> OrderRow:
        """What resting orders cost. Raises NoRuleInForce."""
        if self._orders is None:
            self._orders = msgspec.convert(self._parameters("orders"), OrderRow)
        return self._orders

    def _parameters(self, table: str) -> dict[str, Any]:
        return {parameter: self._find(table, parameter) for parameter in self._tables[table]}

    def evidence(self) -> tuple[Evidence, ...]:
        """The revisions looked up through this object so far, each once, by table and subject."""
        return tuple(sorted(self._evidence.values()))

    def _find(self, table: str, subject: str) -> Any:
        """The row in force (or standing in), noted as evidence. Raises NoRuleInForce."""
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
        self._evidence[table, subject] = Evidence(
            table, subject, iso(revision.effective), revision.grade, revision.source, days
        )
        return revision.row

    def _known(self, table: str, subject: str) -> str:
        known = sorted(self._tables[table])
        base = subject.partition("/")[0]
        alike = [symbol for symbol in known if symbol.partition("/")[0] == base] or known
        return f"({len(known)} are known, such as {', '.join(alike[:4])})"


def _advice(table: str, word: str = "") -> str:
    """How a caller helps himself, as the end of a sentence."""
    overlay_key = {"instruments": "instruments", "position_tiers": "instruments", "fees": "fees"}.get(table)
    if overlay_key is None:
        return ""
    text = f"give your own figures under `{overlay_key}`"
    return f", {word} {text}" if word else f"; {text}"


class RuleBook:
    """All revisions of a venue's tables. Values: `overlay` and `frozen_at` make new books."""

    def __init__(self, tables: Tables, frozen: int | None = None) -> None:
        self._tables = tables
        self._frozen = frozen
        instants: set[int] = set()
        for table in tables.values():
            for history in table.values():
                instants |= history.breaks()
        self._breaks = sorted(instants)
        self._cache: dict[tuple[int, int, Extrapolate], Rules] = {}

    @classmethod
    def load(cls, venue: str = "okx") -> RuleBook:
        """The tables of a venue. Raises InputError for an unknown venue."""
        return cls(_read_once(venue))

    def overlay(
        self,
        instruments: Mapping[str, Mapping[str, Any]] | None = None,
        fees: Mapping[str, Mapping[str, float]] | None = None,
    ) -> RuleBook:
        """A book in which the caller's figures win at every date (grade "user").

        `instruments`: {symbol: {contract_size, tick, lot, tiers}}, `fees`: {kind: {maker, taker}}, every
        key optional. Raises InputError with the path of the key that cannot be used.
        """
        tables = dict(self._tables)
        if instruments:
            tables["instruments"], tables["position_tiers"] = overlay.instruments(
                tables["instruments"], tables["position_tiers"], instruments
            )
        if fees:
            tables["fees"] = overlay.fees(tables["fees"], fees)
        return RuleBook(tables, self._frozen)

    def frozen_at(self, time_ms: int) -> RuleBook:
        """A book whose tables stand still at an instant, whatever `as_of` is asked.

        May 2021 under 2024 rules.
        """
        return RuleBook(self._tables, time_ms)

    def as_of(self, time_ms: int, extrapolate: Extrapolate = "never") -> Rules:
        """The rules at an instant (ms since 1970).

        One object serves all instants of a UTC day between two revisions. (A day, not the whole interval:
        distances of stand-ins are told in days, and may not depend on which instant was asked first.)
        """
        if extrapolate not in ("never", "nearest"):
            raise InputError(f'rules.extrapolate: expected "never" or "nearest", found {extrapolate!r}')
        time = time_ms if self._frozen is None else self._frozen
        interval, day = bisect_right(self._breaks, time), time // DAY_MS
        key = (interval, day, extrapolate)
        rules = self._cache.get(key)
        if rules is None:
            start = max(day * DAY_MS, self._breaks[interval - 1]) if interval else day * DAY_MS
            rules = self._cache[key] = Rules(self._tables, start, extrapolate)
        return rules

    def changes(self, start_ms: int, end_ms: int) -> tuple[int, ...]:
        """Instants in (start, end] at which a revision begins or ends, or another one stands in."""
        if self._frozen is not None:
            return ()
        return tuple(self._breaks[bisect_right(self._breaks, start_ms) : bisect_right(self._breaks, end_ms)])

    def grid(
        self, windows: Mapping[str, tuple[int, int]], symbols: Iterable[str]
    ) -> dict[str, dict[str, str]]:
        """How well each table covers each window [start, end] for some symbols: {table: {window: status}}.

        A status is the worst over the window and the symbols: "in force", "inferred", "extrapolated N d",
        "missing".
        """
        wanted = tuple(symbols)
        columns = {name: self._coverage(start, end, wanted) for name, (start, end) in windows.items()}
        return {
            table: {name: columns[name].get(table, "in force") for name in windows} for table in self._tables
        }

    def _coverage(self, start: int, end: int, symbols: tuple[str, ...]) -> dict[str, str]:
        days: dict[str, int] = {}
        inferred: set[str] = set()
        missing: set[str] = set()
        instants = (start, *self.changes(start, end), end) if self._frozen is None else (self._frozen,)
        for instant in instants:
            # Not the cached object: its evidence is somebody else's.
            rules = Rules(self._tables, instant, "nearest")
            for table, subject in _subjects(self._tables, symbols):
                try:
                    _look_up(rules, table, subject)
                except NoRuleInForce:
                    missing.add(table)
            for row in rules.evidence():
                days[row.table] = max(days.get(row.table, 0), row.extrapolated_days)
                if row.grade == "inferred":
                    inferred.add(row.table)
        status = dict.fromkeys(inferred, "inferred")
        status |= {table: f"extrapolated {count} d" for table, count in days.items() if count}
        return status | dict.fromkeys(missing, "missing")

    def listing(self) -> list[dict[str, Any]]:
        """Every revision: table, subject, effective, until, grade, source, note, summary."""
        rows = []
        for name, table in self._tables.items():
            for subject in sorted(table):
                history = table[subject]
                for revision in history:
                    end = history.end(revision)
                    rows.append(
                        {
                            "table": name,
                            "subject": subject,
                            "effective": iso(revision.effective),
                            "until": None if end is None else iso(end),
                            "grade": revision.grade,
                            "source": revision.source,
                            "note": revision.note,
                            "summary": _summary(revision),
                        }
                    )
        return rows


def _subjects(tables: Tables, symbols: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a run on these symbols looks up."""
    kinds = {symbol: parse(symbol).kind for symbol in symbols}
    derivatives = [symbol for symbol, kind in kinds.items() if kind is not Kind.SPOT]
    rows = [("instruments", symbol) for symbol in symbols]
    rows += [("position_tiers", symbol) for symbol in derivatives]
    rows += [
        ("fees", "spot" if kind is Kind.SPOT else str(kind).rpartition(" ")[2])
        for kind in set(kinds.values())
    ]
    rows += [
        ("funding", symbol) for symbol, kind in kinds.items() if kind in (Kind.LINEAR_SWAP, Kind.INVERSE_SWAP)
    ]
    return [*rows, ("liquidation", ""), ("orders", "")]


def _look_up(rules: Rules, table: str, subject: str) -> None:
    match table:
        case "instruments":
            rules.instrument(subject)
        case "position_tiers":
            rules.tiers(subject)
        case "fees":
            rules.fees(subject)
        case "funding":
            rules.funding(subject)
        case "liquidation":
            rules.liquidation  # noqa: B018
        case "orders":
            rules.orders  # noqa: B018


def _summary(revision: Revision[Any]) -> str:
    """A row in a few words."""
    match revision.row:
        case TierRow(rows=rows, then=then):
            size, maintenance, _, leverage = rows[0]
            step = "" if then is None else f", then +{then.size:g}"
            return f"{size:g} contracts at {maintenance:.2%}, {leverage:g}x; {len(rows)} rows{step}"
        case InstrumentRow(contract_size, tick, lot):
            return f"contract size {contract_size:g}, tick {tick:g}, lot {lot:g}"
        case FeeRow(maker, taker):
            return f"maker {maker:.3%}, taker {taker:.3%}"
        case FundingTerms(hours, cap):
            return f"every {hours:g} h" + ("" if cap is None else f", capped at {cap:.3%}")
        case value:
            return str(value).lower() if isinstance(value, bool) else str(value)


def load_rules(venue: str = "okx") -> RuleBook:
    """The rule book of a venue; its files are read once. Raises InputError for an unknown venue.

    Each call makes a book of its own, so that the evidence of one run holds nothing another run looked up.
    """
    return RuleBook.load(venue)
