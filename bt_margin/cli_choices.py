"""What users choose on the command line, checked: strategies' studies, stores, folders, books."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bt_margin.errors import InputError

if TYPE_CHECKING:
    from bt_margin.study.study import Study

Many = Annotated[tuple[str, ...], Parameter(negative=())]
Numbers = Annotated[tuple[float, ...], Parameter(negative=())]
Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]
STORE = Path("bt-margin-data")
DEFAULT_SYMBOLS = ("BTC/USDT:USDT",)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What every study asks, whatever it compares."""

    cash: Many = ()
    """Starting balances such as USDT=100000; repeatable. Default: USDT=100000."""
    setting: float | None = None
    """OKX's leverage setting. Default: twice the exposure, capped by the tier."""
    rules_as_of: str = "then"
    """"then" (each instant's own rules) or a date that freezes all tables there."""
    path: str = "adverse"
    """How a bar is walked: adverse, ohlc or close."""
    interest: Many = ()
    """A currency's borrow rate such as USDT=0.12/y (a year; /d a day); repeatable. Default: the rules' own."""
    borrow_leverage: Many = ()
    """A currency's leverage setting for debts such as USDT=5; repeatable. Default: the maximum of its lowest tier."""
    auto_borrow: bool = True
    """Selling or paying more of a coin than held borrows it, in multi-currency margin."""
    switch: Many = ()
    """A scripted change of the account mode such as 2025-10-09=portfolio, or TIME=cross@10 with the leverage setting
    that leaving portfolio margin asks for; repeatable."""
    store: Path | None = None
    """Downloaded history (see `bt-margin fetch`); minutes there are preferred. Default: ./bt-margin-data if present."""
    strict: Flag = False
    """Nothing stands in for a missing price, rate or rule."""

    def study(
        self, strategies: Sequence[str], modes: Sequence[str] | str, windows: Sequence[str], leverages: Sequence[float]
    ) -> Study:
        """The study asked for. Raises InputError."""
        from bt_margin.study.study import Study

        return Study(
            strategies, modes, windows, leverages, cash=cash(self.cash), setting=self.setting,
            rules_as_of=self.rules_as_of, path=path(self.path), interest=interest(self.interest),
            borrow=borrow(self.borrow_leverage, self.auto_borrow), switches=switches(self.switch), strict=self.strict,
            store=found_store(self.store),
        )


Shared = Annotated[StudyOptions, Parameter(name="*")]
USUAL = StudyOptions()


def cash(texts: Sequence[str]) -> dict[str, float] | None:
    """USDT=100000, repeatable; a bare number is USDT."""
    pairs = [text if "=" in text else f"USDT={text}" for text in texts]
    return _by_currency(pairs, "cash", "AMOUNT such as USDT=100000", float) or None


def interest(texts: Sequence[str]) -> dict[str, float]:
    """USDT=0.12/y or USDT=0.0003/d, repeatable: yearly rates by currency."""
    from bt_margin.rules.credit import yearly_rate

    def rate(text: str) -> float:
        number, _, unit = text.partition("/")
        if unit not in ("", "y", "d"):
            raise ValueError
        return float(number) * (365.0 if unit == "d" else 1.0)

    rates = _by_currency(texts, "interest", "RATE/y or /d such as USDT=0.12/y", rate)
    return {currency: yearly_rate(value, f"interest.{currency}") for currency, value in rates.items()}


def borrow(leverages: Sequence[str], auto: bool) -> dict[str, Any]:
    """Choices about borrowing, {} for the defaults."""

    def setting(text: str) -> float:
        if not 1 <= float(text) < float("inf"):
            raise ValueError
        return float(text)

    chosen = _by_currency(leverages, "borrow_leverage", "LEVERAGE such as USDT=5", setting)
    return {**({} if auto else {"auto": False}), **({"leverage": chosen} if chosen else {})}


def _by_currency(
    texts: Sequence[str], what: str, expected: str, read: Callable[[str], float]
) -> dict[str, float]:
    """CURRENCY=FIGURE, each currency once. `read` raises ValueError for what is no figure."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, figure = text.partition("=")
        currency = name.strip().upper()
        try:
            value = read(figure)
        except ValueError:
            currency = ""
        if not currency or not math.isfinite(value):
            raise InputError(f"{what}: expected CURRENCY={expected}, found {text!r:.80}")
        if currency in found:
            raise InputError(f"{what}: expected {currency:.80} once, found it twice")
        found[currency] = value
    return found


def switches(texts: Sequence[str]) -> list[Any]:
    """TIME=MODE or TIME=MODE@LEVERAGE, repeatable."""
    from bt_margin.engine.clock import ModeSwitch
    from bt_margin.model.moment import parse_time

    found = []
    for text in texts:
        time, _, rest = text.partition("=")
        mode, _, leverage = rest.partition("@")
        try:
            setting = float(leverage) if leverage else None
        except ValueError:
            setting = 0.0
        if not mode or (setting is not None and not 1 <= setting < float("inf")):
            raise InputError(f"switch: expected TIME=MODE or TIME=MODE@LEVERAGE (2025-10-09=cross@10), found {text!r}")
        found.append(ModeSwitch(parse_time(time, "switch"), mode, setting))
    return found


def trades(entries: Sequence[str]) -> dict[str, float]:
    """`--add SYMBOL=SIZE`, each: signed contracts, coins for spot. Raises InputError."""
    found: dict[str, float] = {}
    for entry in entries:
        symbol, sign, size = entry.rpartition("=")
        try:
            found[symbol] = found.get(symbol, 0.0) + float(size)
        except ValueError:
            sign = ""
        if not sign or not symbol:
            raise InputError(f"--add: expected SYMBOL=SIZE such as BTC/USDT:USDT=-100, found {entry!r}")
    return found


def path(path: str) -> str:
    from bt_margin.plugin.path import PATHS

    if path not in PATHS:
        raise InputError(f"path: expected one of {', '.join(PATHS)}, found {path!r}")
    return path


def maps(texts: Sequence[str]) -> tuple[str, ...]:
    """Modes, or none."""
    from bt_margin.study.task import modes_named

    return modes_named([text for text in texts if text != "none"])


# -- files and folders ----------------------------------------------------------------------------------------------


def folder(path: Path, what: str) -> Path:
    """A folder to write to, there or not. Raises InputError for a file."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{what}: expected a folder, found the file {path}; choose another")
    return path


def stored(path: Path) -> Path:
    """A store that is there."""
    if not path.is_dir():
        raise InputError(f"store: expected a folder with downloaded history, found nothing at {path}; run bt-margin "
                         "fetch or name it with --store")
    return path


def found_store(store: Path | None) -> str:
    """The store that a study reads: the one named, else the default folder if it is there, else none."""
    if store is not None:
        return str(stored(store))
    return str(STORE) if STORE.is_dir() else ""


def book(path: Path) -> dict[str, Any]:
    """What a book file holds. Raises InputError for what is no JSON object."""
    import msgspec

    try:
        raw = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"book: cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"book: {path} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"book: expected a JSON object, found {type(raw).__name__}")
    return raw


# -- names ----------------------------------------------------------------------------------------------------------


def names(texts: Sequence[str], what: str) -> tuple[str, ...]:
    """`--kind trade,mark` and `--kind trade --kind mark` are the same."""
    parts = tuple(part.strip() for text in texts for part in text.split(",") if part.strip())
    if texts and not parts:
        raise InputError(f"{what}: expected one or more, found {', '.join(map(repr, texts))}; leave the option out or "
                         "name one")
    return parts


def symbols(texts: Sequence[str]) -> tuple[str, ...]:
    return names(texts, "symbol") or DEFAULT_SYMBOLS
