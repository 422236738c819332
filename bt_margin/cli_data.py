"""`bt-margin fetch | data | check | snapshot`: history through ccxt into the local store. Imports lazily."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bt_margin.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from data_fetch.download import Outcome, Progress

Many = Annotated[tuple[str, ...], Parameter(negative=())]
Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]
STORE = Path("bt-margin-data")
DEFAULT_SYMBOLS = ("BTC/USDT:USDT",)


def register(app: App) -> None:
    """Adds the commands of this module to the command line."""
    for command in (fetch, data, check, snapshot):
        app.command(command)


def fetch(
    *,
    exchange: str = "okx",
    symbol: Many = (),
    kind: Many = (),
    timeframe: str = "1m",
    window: Many = (),
    since: str | None = None,
    until: str | None = None,
    api_url: str | None = None,
    store: Path = STORE,
    json_: Json = False,
) -> None:
    """Download candles and funding into the store; run it again at any time to go on or to fill holes.

    Exit status 1 when the venue did not answer for all of the span; what came is stored.

    Parameters
    ----------
    exchange
        okx.
    symbol
        Unified symbols such as BTC/USDT:USDT; repeatable or separated by commas. Default: BTC/USDT:USDT.
    kind
        trade, mark, index, funding; repeatable or separated by commas. Default: all that exist for a symbol.
    timeframe
        Length of the candles: 1m to 1d.
    window
        A crash's day (see `bt-margin windows`) or START/END; repeatable. Instead of since and until.
    since
        First moment (UTC); a bare date is 00:00.
    until
        Moment after the last (UTC). Default: now.
    api_url
        Another base address of the exchange.
    store
        The folder of the store.
    json_
        Print what came as JSON.
    """
    try:
        with _stopped_by_signals():
            outcomes, refusal = _fetched(exchange, symbol, kind, timeframe, (window, since, until), api_url, store)
    except KeyboardInterrupt:
        print("bt-margin: stopped; all that came is stored, the same command goes on from there", file=sys.stderr)
        raise SystemExit(1) from None
    if json_:
        print(json.dumps([_outcome(o) for o in outcomes], indent=1))
    else:
        for outcome in outcomes:
            print(_line(outcome))
    if refusal is not None:
        raise refusal
    failed = [o for o in outcomes if not o.complete]
    if failed:
        reason = next((o.failures[0] for o in failed if o.failures), "the venue has no rows there")
        names = ", ".join(dict.fromkeys(str(o.key) for o in failed))
        print(f"bt-margin: incomplete: {names}: {reason}", file=sys.stderr)
        raise SystemExit(1)


def data(*, store: Path = STORE, exchange: str = "okx", symbol: Many = (), json_: Json = False) -> None:
    """What is stored: series, spans, rows, holes by class, hashes.

    Parameters
    ----------
    store
        The folder of the store.
    exchange
        okx.
    symbol
        Only these symbols.
    json_
        Print everything as JSON, every hole included.
    """
    from data_fetch.local import LocalStore
    from data_fetch.series import DataError, timeframe, utc

    local = LocalStore(_existing(store), exchange)
    wanted = _list(symbol)
    rows: list[dict[str, Any]] = []
    for _, error in local.damaged():
        print(f"bt-margin: {error}", file=sys.stderr)
    for key in local.stored():
        if wanted and key.symbol not in wanted:
            continue
        manifest, span = local.manifest(key), local.span(key)
        try:
            gaps, content = local.gaps(key, *span) if span else [], local.content(key)
        except DataError as error:  # one damaged file does not hide the rest
            print(f"bt-margin: {error}", file=sys.stderr)
            gaps, content = [], "damaged"
        rows.append({
            "exchange": key.exchange, "symbol": key.symbol, "kind": key.kind, "id": manifest.market_id,
            "timeframe": timeframe(key.step_ms) if key.step_ms else "events",
            "since": utc(span[0]) if span else None, "until": utc(span[1]) if span else None,
            "rows": manifest.content_rows, "bytes": sum(e.size for e in manifest.files.values()),
            "gaps": [{"since": utc(g.lo), "until": utc(g.hi), "why": g.why} for g in gaps],
            "oddities": manifest.oddities, "content": content,
            "files": {name: {"rows": e.rows, "content": e.content} for name, e in sorted(manifest.files.items())},
            "folder": str(local.folder(key)),
        })
    if json_:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Stored in {store}", title_justify="left", header_style="bold")
    for name in ("series", "bars", "since", "until", "rows", "holes", "MB", "hash"):
        table.add_column(name, overflow="fold", justify="right" if name in ("rows", "MB") else "left")
    for row in rows:
        table.add_row(
            f"{row['exchange']} {row['symbol']} {row['kind']}", row["timeframe"], str(row["since"]),
            str(row["until"]), f"{row['rows']:,}", _by_class(row["gaps"]), f"{row['bytes'] / 1e6:.1f}",
            row["content"][:12],
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def check(*, store: Path = STORE, exchange: str = "okx", json_: Json = False, strict: Flag = False) -> None:
    """Re-hash every file and look at the figures: trade beside mark and index, stale runs, outliers, bad prices.

    Exit status 1 when something is wrong (`error`); a `note` may be the market itself.

    Parameters
    ----------
    store
        The folder of the store.
    exchange
        okx.
    json_
        Print the findings as JSON.
    strict
        Notes are errors, too.
    """
    from dataclasses import asdict

    from data_fetch.local import LocalStore
    from data_fetch.quality import check as checked

    local = LocalStore(_existing(store), exchange)
    found = checked(local)
    if json_:
        print(json.dumps([asdict(f) for f in found], indent=1))
    else:
        for finding in found:
            print(finding)
    wrong = [f for f in found if strict or f.level == "error"]
    if wrong:
        print(f"bt-margin: {len(wrong)} wrong, the first: {wrong[0].series}: {wrong[0].what}", file=sys.stderr)
        raise SystemExit(1)
    if not json_:
        print(f"{len(local.stored())} series are as they were stored; {len(found)} notes")


def snapshot(
    *,
    exchange: str = "okx",
    symbol: Many = (),
    api_url: str | None = None,
    out: Path = Path("bt-margin-rules"),
) -> None:
    """The venue's rules of this moment as dated rule revisions graded `snapshot`, raw answers beside them.

    Parameters
    ----------
    exchange
        okx.
    symbol
        Contracts and pairs whose position tiers are asked; repeatable or separated by commas.
    api_url
        Another base address of the exchange.
    out
        The folder to write to.
    """
    import asyncio

    from data_fetch.client import Settings, Unreachable
    from data_fetch.snapshot import take
    from data_fetch.venues import venue_named

    venue = venue_named(exchange)
    try:
        written = asyncio.run(take(venue, _symbols(symbol), _folder(out, "out"), Settings(api_url=api_url)))
    except Unreachable as error:  # nothing wrong with the question
        print(f"bt-margin: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    for path in written:
        print(path)


def found(store: Path | None) -> str:
    """The store that a study reads: the one named, else the default folder if it is there, else none."""
    if store is not None:
        return str(_existing(store))
    return str(STORE) if STORE.is_dir() else ""


# -- shared pieces ------------------------------------------------------------------------------------------------


def _list(texts: Sequence[str], what: str = "symbol") -> tuple[str, ...]:
    """`--kind trade,mark` and `--kind trade --kind mark` are the same."""
    parts = tuple(part.strip() for text in texts for part in text.split(",") if part.strip())
    if texts and not parts:
        raise InputError(f"{what}: expected one or more, found {', '.join(map(repr, texts))}; leave the option out or "
                         "name one")
    return parts


def _symbols(texts: Sequence[str]) -> tuple[str, ...]:
    return _list(texts) or DEFAULT_SYMBOLS


def _folder(path: Path, what: str = "store") -> Path:
    if path.exists() and not path.is_dir():
        raise InputError(f"{what}: expected a folder, found the file {path}; choose another")
    return path


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"store: expected a folder with downloaded history, found nothing at {path}; run bt-margin "
                         "fetch or name it with --store")
    return path


def _spans(
    windows: Sequence[str], since: str | None, until: str | None, now_ms: Callable[[], int]
) -> list[tuple[int, int]]:
    from bt_margin.model.moment import parse_time
    from bt_margin.study.windows import window

    if windows:
        if since is not None or until is not None:
            raise InputError("window: expected either --window or --since and --until, found both; leave one out")
        return [(w.since, w.until) for w in map(window, windows)]
    if since is None:
        raise InputError("since: expected --window DAY or --since TIME, found neither; for example --window 2025-10-10")
    lo, hi = parse_time(since, "since"), now_ms() if until is None else parse_time(until, "until")
    if lo >= hi:
        raise InputError(f"until: expected a moment after {since}, found {until or 'now'}")
    if lo < 0:
        raise InputError(f"since: expected a moment after 1970, found {since}")
    return [(lo, hi)]


def _fetched(
    exchange: str, symbols: Sequence[str], kinds: Sequence[str], timeframe: str,
    times: tuple[Sequence[str], str | None, str | None], api_url: str | None, store: Path,
) -> tuple[list[Outcome], ValueError | None]:
    """What came, and the first refusal of a series."""
    import asyncio

    from data_fetch.client import Settings
    from data_fetch.download import Refused, series_of
    from data_fetch.download import fetch as download
    from data_fetch.local import LocalStore, parse_step
    from data_fetch.venues import venue_named

    venue_named(exchange)
    settings = Settings(api_url=api_url)
    spans = _spans(*times, settings.now_ms)
    local = LocalStore(_folder(store), exchange)
    keys = series_of(local, _symbols(symbols), _list(kinds, "kind"), parse_step(timeframe, exchange))
    outcomes: list[Outcome] = []
    refusal: ValueError | None = None
    with _bars() as watch:
        for lo, hi in spans:
            try:
                outcomes += asyncio.run(download(local, keys, lo, hi, settings, watch))
            except Refused as error:
                outcomes += error.outcomes
                refusal = refusal or error
    return outcomes, refusal


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM ends a run the way Ctrl-C does."""
    import signal
    import threading

    def stop(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    """A bar for each series with rate and time left on a terminal; elsewhere a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[text]}"))
    tasks: dict[int, tuple[Any, Progress]] = {}  # by run: one series may have several windows
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def watch(progress: Progress) -> None:
            if id(progress) not in tasks:
                tasks[id(progress)] = bars.add_task(str(progress.key), total=None, text=""), progress
            number = tasks[id(progress)][0]
            task = bars.tasks[bars.task_ids.index(number)]
            rate = progress.rows / task.elapsed if task.elapsed else 0.0
            text = progress.note or f"{progress.rows:,} rows, {rate:,.0f}/s" + (
                f", {progress.retries} retries" if progress.retries else "")
            bars.update(number, total=progress.total or None, completed=progress.done, text=text)

        yield watch


def _lines(every_s: float = 10.0) -> Callable[[Progress], None]:
    import time

    last = time.monotonic()
    began: dict[int, tuple[float, Progress]] = {}  # by run: series of a kind come one after the other

    def watch(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        since = began.setdefault(id(progress), (now, progress))[0]
        if now - last < every_s:
            return
        last = now
        share = progress.done / progress.total if progress.total else 0.0
        rate = progress.rows / max(now - since, 1e-3)
        left = f", {(now - since) * (1 - share) / share:,.0f} s left" if 0 < share < 1 else ""
        text = progress.note or f"{share:.0%}, {progress.rows:,} rows, {rate:,.0f}/s{left}"
        print(f"{progress.key}: {text}", file=sys.stderr, flush=True)

    return watch


def _line(outcome: Outcome) -> str:
    from data_fetch.series import utc

    parts = [f"{outcome.key}, {utc(outcome.lo)} to {utc(outcome.hi)}: {outcome.rows:,} rows ({outcome.new_rows:,} new) "
             f"from {outcome.requests} requests"]
    if outcome.retries:
        parts.append("tried again: " + ", ".join(f"{n} x {what}" for what, n in sorted(outcome.retries.items())))
    if outcome.repaired:
        parts.append("repaired: " + ", ".join(f"{n} {what}" for what, n in sorted(outcome.repaired.items())))
    if outcome.replaced:
        parts.append(f"damaged files replaced: {', '.join(outcome.replaced)}")
    if outcome.gaps:
        parts.append("holes: " + _by_class(_outcome(outcome)["gaps"]))
    return f"{'; '.join(parts)}; hash {outcome.content[:12]}"


def _by_class(gaps: Sequence[dict[str, str]]) -> str:
    """Holes of each class, the first of each with its time."""
    found: dict[str, list[dict[str, str]]] = {}
    for gap in gaps:
        found.setdefault(gap["why"], []).append(gap)
    return "; ".join(
        f"{why} {g[0]['since']} to {g[0]['until']}" + (f" and {len(g) - 1} more" if len(g) > 1 else "")
        for why, g in sorted(found.items())
    )


def _outcome(outcome: Outcome) -> dict[str, Any]:
    from data_fetch.series import timeframe, utc

    return {
        "exchange": outcome.key.exchange, "symbol": outcome.key.symbol, "kind": outcome.key.kind,
        "timeframe": timeframe(outcome.key.step_ms) if outcome.key.step_ms else "events",
        "since": utc(outcome.lo), "until": utc(outcome.hi), "rows": outcome.rows, "new_rows": outcome.new_rows,
        "requests": outcome.requests, "retries": outcome.retries, "repaired": outcome.repaired,
        "replaced": outcome.replaced,
        "gaps": [{"since": utc(g.lo), "until": utc(g.hi), "why": g.why} for g in outcome.gaps],
        "failures": outcome.failures, "complete": outcome.complete, "content": outcome.content,
    }
