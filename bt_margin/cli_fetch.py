"""`bt-margin fetch`: history through ccxt into the local store. Imports lazily."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from bt_margin import cli_choices as choices
from bt_margin.cli_choices import STORE, Json, Many
from bt_margin.cli_progress import fetch_progress
from bt_margin.cli_tables import by_class
from bt_margin.errors import InputError

if TYPE_CHECKING:
    from data_fetch.download import Outcome


def register(app: App) -> None:
    """Adds the command of this module to the command line."""
    app.command(fetch)


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


# -- from the question to what came ---------------------------------------------------------------------------------


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
    local = LocalStore(choices.folder(store, "store"), exchange)
    keys = series_of(local, choices.symbols(symbols), choices.names(kinds, "kind"), parse_step(timeframe, exchange))
    outcomes: list[Outcome] = []
    refusal: ValueError | None = None
    with fetch_progress() as watch:
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
        parts.append("holes: " + by_class(_outcome(outcome)["gaps"]))
    return f"{'; '.join(parts)}; hash {outcome.content[:12]}"


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
