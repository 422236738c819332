"""The rule book of a venue, and the rules at one instant.

`RuleBook.as_of(t)` is a pure function of the tables and of `t`. Nothing fails open: where no revision is in
force, an error says so, or (with extrapolate="nearest") the nearest one stands in and its distance is part
of the evidence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from bt_margin.errors import InputError, NoRuleInForce
from bt_margin.model.moment import DAY
from bt_margin.rules import loading, overlay
from bt_margin.rules.coverage import look_up, subjects, summary
from bt_margin.rules.history import iso
from bt_margin.rules.loading import Tables
from bt_margin.rules.lookups import Extrapolate, Rules

__all__ = ["Extrapolate", "RuleBook", "Rules", "load_rules"]

_read_once = cache(loading.read)


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
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        discounts: Mapping[str, Any] | None = None,
        borrow_tiers: Mapping[str, Any] | None = None,
    ) -> RuleBook:
        """A book in which the caller's figures win at every date (grade "user").

        `instruments`: {symbol: {contract_size, tick, lot, tiers}}, `fees`: {kind: {maker, taker}}, every
        key optional; the tiers of a spot pair are its borrow tiers, in base coin. `parameters`: choices where
        sources differ, {"liquidation": {"early_cancel": "free-margin"}, "portfolio": {"mr3_kind": "none"}}.
        `discounts`: {currency: [[upper bound in coin, rate], ...]}, beyond the last bound nothing counts;
        `borrow_tiers`: {currency: [[max amount, maintenance, initial], ...]}. Raises InputError with the path of the
        key that cannot be used.
        """
        tables = dict(self._tables)
        if instruments:
            tables |= overlay.instruments(tables, instruments)
        if fees:
            tables["fees"] = overlay.fees(tables["fees"], fees)
        if parameters:
            tables |= overlay.parameters(tables, parameters)
        if discounts:
            tables["discounts"] = overlay.discounts(tables["discounts"], discounts)
        if borrow_tiers:
            tables["currency_borrow"] = overlay.borrow_tiers(tables["currency_borrow"], borrow_tiers)
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
        interval, day = bisect_right(self._breaks, time), time // DAY
        key = (interval, day, extrapolate)
        rules = self._cache.get(key)
        if rules is None:
            start = max(day * DAY, self._breaks[interval - 1]) if interval else day * DAY
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
        "missing"; "not used" where another table speaks instead.
        """
        wanted = tuple(symbols)
        columns = {name: self._coverage(start, end, wanted) for name, (start, end) in windows.items()}
        return {
            table: {name: columns[name].get(table, "not used") for name in windows} for table in self._tables
        }

    def _coverage(self, start: int, end: int, symbols: tuple[str, ...]) -> dict[str, str]:
        days: dict[str, int] = {}
        used: set[str] = set()
        inferred: set[str] = set()
        missing: set[str] = set()
        instants = (start, *self.changes(start, end), end) if self._frozen is None else (self._frozen,)
        for instant in instants:
            # Not the cached object: its evidence is somebody else's.
            rules = Rules(self._tables, instant, "nearest")
            for table, subject in subjects(symbols):
                try:
                    look_up(rules, table, subject)
                except NoRuleInForce:
                    missing.add(table)
            for row in rules.evidence():
                used.add(row.table)
                days[row.table] = max(days.get(row.table, 0), row.extrapolated_days)
                if row.grade == "inferred":
                    inferred.add(row.table)
        status = dict.fromkeys(used, "in force") | dict.fromkeys(inferred, "inferred")
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
                            "summary": summary(revision),
                        }
                    )
        return rows


def load_rules(venue: str = "okx") -> RuleBook:
    """The rule book of a venue; its files are read once. Raises InputError for an unknown venue.

    Each call makes a book of its own, so that the evidence of one run holds nothing another run looked up.
    """
    return RuleBook.load(venue)
