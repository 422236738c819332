"""ccxt, made strict: an answer is the envelope that was asked for, or an error that says what came instead.

As it comes, ccxt reads a truncated, empty or HTML answer with status 200 as "no rows". Here each of these is an
error of the kind that is tried again. ccxt is imported when a client is made, not before.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from data_fetch.pace import Pace
from data_fetch.series import DataError
from data_fetch.venues import Venue

STALLED = 20
"""How often a request that missed its turn takes another before it is sent all the same."""
HEADROOM = 1.05
"""Requests are spaced so much wider than the venue's limit: they do not arrive as evenly as they are sent."""


class Unreachable(DataError):
    """The venue did not give a whole answer in so many tries; the same request may work later."""


class BadPage(Exception):
    """An answer whose rows contradict themselves or the question; worth asking again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How patiently a venue is asked. `rate_ms` None: ccxt's own pace, which keeps the venue's limits."""

    api_url: str | None = None
    width: int = 8
    tries: int = 8
    timeout_s: float = 20.0
    backoff_s: float = 0.5
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 300.0
    rate_ms: float | None = None
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def __post_init__(self) -> None:
        if self.api_url is not None:
            parts = urlsplit(self.api_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise DataError(f"api-url: expected such as https://www.okx.com, found {self.api_url!r}")
        if self.width < 1 or self.tries < 1:
            raise DataError(f"expected a width and tries of 1 or more, found {self.width} and {self.tries}")


@dataclass
class Tally:
    """What asking cost: requests, and what had to be tried again, by reason."""

    requests: int = 0
    again: Counter[str] = field(default_factory=Counter)


def ccxt_version() -> str:
    return str(importlib.import_module("ccxt").__version__)


def _named(path: str) -> str:
    """ccxt's name for a public path: `market/history-candles` is publicGetMarketHistoryCandles."""
    return "publicGet" + "".join(part.capitalize() for part in path.replace("/", "-").split("-"))


def retry_after(headers: Any, now: float) -> float:
    """Seconds that an answer's Retry-After asks to wait; 0 when it does not."""
    given = next((str(v).strip() for k, v in dict(headers or {}).items() if str(k).lower() == "retry-after"), "")
    if given.isdigit():
        return float(given)
    try:
        at = parsedate_to_datetime(given)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (TypeError, ValueError):
        return 0.0


def _strict_class(venue: Venue, before: Callable[[float], Awaitable[None]]) -> Any:
    """ccxt's asynchronous client of the venue with its silent failures made loud.

    `before` is awaited before each request with the seconds that belong to it.
    """
    ccxt: Any = importlib.import_module("ccxt.async_support")
    aiohttp: Any = importlib.import_module("aiohttp")
    base: Any = getattr(ccxt, venue.id)

    class Strict(base):  # type: ignore[misc]
        async def throttle(self, cost: Any = None) -> None:
            await super().throttle(cost)
            await before(float(1 if cost is None else cost) * float(self.rateLimit) / 1000)

        def handle_errors(self, code: Any, reason: Any, url: Any, method: Any, headers: Any, body: Any,
                          response: Any, *rest: Any) -> Any:
            what = f"{self.id} {urlsplit(url).path}: {code} {str(body)[:80]!r}"
            if code == 429 or code >= 500:
                error = (ccxt.RateLimitExceeded if code == 429 else ccxt.ExchangeNotAvailable)(what)
                error.retry_after = retry_after(headers, datetime.now(UTC).timestamp())
                raise error
            if code == 200 and not (
                isinstance(response, dict) and "code" in response
                and (response["code"] != "0" or isinstance(response.get("data"), list))
            ):
                raise ccxt.BadResponse(what)
            return super().handle_errors(code, reason, url, method, headers, body, response, *rest)

        async def fetch(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().fetch(*args, **kwargs)
            except ccxt.ExchangeError as error:
                if isinstance(error.__cause__, aiohttp.ClientPayloadError):  # a body cut short
                    raise ccxt.NetworkError(f"{self.id}: body cut short") from error
                raise

    return Strict


class Client:
    """One connection to one `family` of endpoints of a venue: ccxt's throttle, a timetable shared with other
    processes, our retries.

    Use as an async context manager; `get` may be called by many tasks at once.
    """

    def __init__(self, venue: Venue, settings: Settings, family: str = "rules") -> None:
        self.venue, self.settings, self.tally = venue, settings, Tally()
        self._ccxt: Any = importlib.import_module("ccxt")
        options: dict[str, Any] = {"enableRateLimit": True, "timeout": settings.timeout_s * 1000}
        if settings.rate_ms is not None:
            options["rateLimit"] = settings.rate_ms
        if settings.api_url is not None:
            options["urls"] = {"api": dict(venue.api_url(settings.api_url.rstrip("/")))}
        self._exchange = _strict_class(venue, self._before)(options)
        self._quiet_until = 0.0
        self._pace = Pace(f"{venue.id}-{urlsplit(settings.api_url or '').netloc or 'venue'}-{family}")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exchange.close()

    async def get(
        self, path: str, params: Mapping[str, Any], read: Callable[[list[Any], int], Any] | None = None,
        tries: int | None = None,
    ) -> Any:
        """The `data` of an answer of a public path, passed through `read(data, attempt)`, which may raise BadPage.

        Tries again, with growing and jittered waits, whatever may be different next time. Raises Unreachable when
        it is not, DataError when the venue understood and refuses.
        """
        exchange, named = self._exchange, _named(path)

        async def once(attempt: int) -> Any:
            if hasattr(exchange, named):
                answer = await getattr(exchange, named)(dict(params))
            else:  # older releases take any path; they do not know this one by name
                answer = await exchange.request(path, "public", "GET", dict(params), config={"cost": 4})
            return answer["data"] if read is None else read(answer["data"], attempt)

        return await self.attempts(once, f"{self.venue.id} {path} {dict(params)}", tries)

    async def download(self, url: str, read: Callable[[bytes], Any], check: Callable[[str], None]) -> Any:
        """A file, passed through `read`, which may raise BadPage for a damaged one.

        `check` sees every address before it is asked, those that others lead to included, and may raise DataError.
        """
        aiohttp: Any = importlib.import_module("aiohttp")

        async def once(attempt: int) -> Any:
            timeout, at = aiohttp.ClientTimeout(total=max(60.0, self.settings.timeout_s)), url
            async with aiohttp.ClientSession(timeout=timeout) as session:
                for _ in range(5):
                    check(at)
                    async with session.get(at, allow_redirects=False) as response:
                        if response.status == 200:
                            return read(await response.read())
                        if response.status not in (301, 302, 303, 307, 308):
                            raise BadPage(f"status {response.status}")
                        at = urljoin(at, response.headers.get("Location", ""))
            raise BadPage("an address that leads on and on")

        return await self.attempts(once, url)

    async def attempts(self, once: Callable[[int], Any], what: str, tries: int | None = None) -> Any:
        tries = min(tries or self.settings.tries, self.settings.tries)
        ccxt, aiohttp = self._ccxt, importlib.import_module("aiohttp")
        last = ""
        for attempt in range(tries):
            self.tally.requests += 1
            try:
                return await once(attempt)
            except (ccxt.BadSymbol, ccxt.BadRequest) as error:
                text = " ".join(str(error).split())
                raise DataError(f"{what}: expected data, found a refusal: {text[:160]}; check the symbol") from None
            except BadPage as error:
                reason = last = str(error)
                self.tally.again[reason.partition(":")[0]] += 1
            except (ccxt.OperationFailed, aiohttp.ClientError, TimeoutError) as error:
                reason, last = type(error).__name__, " ".join(str(error).split()) or type(error).__name__
                self.tally.again[reason] += 1
                asked = float(getattr(error, "retry_after", 0.0))
                if asked > self.settings.longest_retry_after_s:
                    raise Unreachable(f"{what}: the venue asks for a pause of {asked:,.0f} s; run it again after it"
                                      ) from None
                if asked or isinstance(error, ccxt.RateLimitExceeded):  # that is meant for all tasks, not only for this
                    rest = max(asked, self._wait(attempt))
                    self._quiet_until = max(self._quiet_until, time.monotonic() + rest)
                    continue
            except ccxt.BaseError as error:
                raise DataError(f"{what}: expected data, found {type(error).__name__}: {str(error)[:160]}") from None
            if attempt + 1 < tries:
                await self.wait(attempt)
        raise Unreachable(
            f"{what}: no whole answer in {tries} tries, the last: {last[:160]}; run it again later"
        )

    async def wait(self, attempt: int) -> None:
        """The pause before another attempt."""
        await asyncio.sleep(self._wait(attempt))

    def _wait(self, attempt: int) -> float:
        longest: float = min(self.settings.longest_wait_s, self.settings.backoff_s * 2**attempt)
        return longest * random.uniform(0.5, 1.0)

    async def _before(self, spacing_s: float) -> None:
        """Sends no request before the venue wants one, nor before its turn among all processes of this machine."""
        while (rest := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(rest * random.uniform(1.0, 1.2))
        for _ in range(STALLED):
            due = time.monotonic() + self._pace.turn(HEADROOM * spacing_s)
            if (rest := due - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            if time.monotonic() - due <= spacing_s:
                return  # a process that was stalled may not send all its late requests at once: it takes new turns
