"""A loopback server that speaks OKX's wire format, as measured: newest rows first, both bounds exclusive, `before`
alone means the newest rows, page limits, "confirm", error codes, a rate limit. Faults are queued per path.

    with OkxServer() as okx:
        okx.candles["history-candles", "BTC-USDT-SWAP"] = rows      # oldest first
        okx.fault("history-candles", "reset", "html")
        ... Settings(api_url=okx.url)
"""

from __future__ import annotations

import csv
import io
import json
import socket
import struct
import threading
import time
import zipfile
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

MINUTE = 60_000
LIMITS = {"history-candles": 300, "history-mark-price-candles": 100, "history-index-candles": 100,
          "funding-rate-history": 400}
BARS = {"1m": MINUTE, "5m": 5 * MINUTE, "1H": 60 * MINUTE}

Row = list[str]


def trade_row(ts: int, o: float, h: float, low: float, c: float, coins: float, confirm: str = "1") -> Row:
    """A candle of a swap with contracts of 0.01 coin."""
    return [str(ts), repr(o), repr(h), repr(low), repr(c), repr(coins * 100), repr(coins), repr(coins * c), confirm]


def price_row(ts: int, o: float, h: float, low: float, c: float, confirm: str = "1") -> Row:
    return [str(ts), repr(o), repr(h), repr(low), repr(c), confirm]


class OkxServer:
    """State the handler serves from; change it between requests at will."""

    def __init__(self) -> None:
        self.candles: dict[tuple[str, str], list[Row]] = {}
        self.funding: dict[str, list[tuple[int, str]]] = {}
        self.archive: dict[str, list[tuple[int, str]]] = {}
        self.tables: dict[str, list[Any]] = {}
        self.funding_since = 0  # REST has forgotten what is older
        self.page_cap: dict[str, int] = {}
        self.rate_limit: int | None = None  # requests per path in any two seconds
        # a header of answers that say "not now", or what makes it at the time of the answer
        self.retry_after: str | Callable[[], str] = ""
        self.delay_s = 0.0
        self.requests: Counter[str] = Counter()
        self.log: list[tuple[float, str, dict[str, str]]] = []
        self.faults: defaultdict[str, deque[str]] = defaultdict(deque)
        self.lasting: dict[str, str] = {}
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"okx": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def fault(self, path: str, *names: str) -> None:
        """The next requests of a path meet these faults, one each."""
        self.faults[path].extend(names)

    def __enter__(self) -> OkxServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # -- answers ------------------------------------------------------------------------------------------------

    def answer(self, name: str, query: dict[str, str]) -> tuple[int, Any]:
        with self._lock:
            self.requests[name] += 1
            self.log.append((time.monotonic(), name, query))
            if self.rate_limit is not None:
                times, now = self._times[name], time.monotonic()
                while times and now - times[0] > 2:
                    times.popleft()
                if len(times) >= self.rate_limit:
                    return 429, {"code": "50011", "msg": "Too Many Requests", "data": []}
                times.append(now)
        if name.endswith("candles"):
            return self._candles(name, query)
        if name == "funding-rate-history":
            return self._funding(query)
        if name == "market-data-history":
            return self._archive(query)
        if name in self.tables:
            rows = [r for r in self.tables[name] if all(
                not isinstance(r, dict) or r.get(k, v) == v for k, v in query.items() if k in ("instType", "instId"))]
            if "instFamily" in query and name == "position-tiers":
                rows = [r for r in rows if r["instFamily"] in query["instFamily"].split(",")]
            return 200, {"code": "0", "msg": "", "data": rows}
        return 404, {"code": "404", "msg": "Not Found", "data": []}

    def _candles(self, name: str, query: dict[str, str]) -> tuple[int, Any]:
        if not query.get("instId"):
            return 400, {"code": "50014", "msg": "Parameter instId can not be empty.", "data": []}
        if query.get("bar", "1m") not in BARS:
            return 400, {"code": "51000", "msg": "Parameter bar error", "data": []}
        rows = self.candles.get((name, query["instId"]))
        if rows is None:
            return 400, {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []}
        limit = min(int(query.get("limit", 100)), LIMITS[name], self.page_cap.get(name, 10**9))
        before, after = int(query.get("before", -1)), int(query.get("after", 2**62))
        found = [row for row in rows if before < int(row[0]) < after]
        if "before" in query and "after" not in query:
            found = rows
        return 200, {"code": "0", "msg": "", "data": [list(r) for r in reversed(found[-limit:])]}

    def _funding(self, query: dict[str, str]) -> tuple[int, Any]:
        rows = self.funding.get(query.get("instId", ""))
        if rows is None:
            return 400, {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []}
        after = int(query.get("after", 2**62))
        found = [r for r in rows if self.funding_since <= r[0] < after][-min(int(query.get("limit", 400)), 400):]
        data = [{"instId": query["instId"], "instType": "SWAP", "fundingTime": str(ts), "fundingRate": rate,
                 "realizedRate": rate, "method": "current_period"} for ts, rate in reversed(found)]
        return 200, {"code": "0", "msg": "", "data": data}

    def _archive(self, query: dict[str, str]) -> tuple[int, Any]:
        family, begin, end = query["instFamilyList"], int(query["begin"]), int(query["end"])
        groups = [{"dateTs": str(month), "filename": f"{family}-{month}.zip", "sizeMB": "0.1",
                   "url": f"{self.url}/files/{family}-SWAP/{month}.zip"}
                  for month in _months(self.archive.get(f"{family}-SWAP", [])) if begin <= month <= end]
        details = [{"instFamily": family, "groupDetails": groups[::-1]}] if groups else []
        return 200, {"code": "0", "msg": "", "data": [{"dateAggrType": "monthly", "details": details}]}

    def file(self, market: str, month: int) -> bytes:
        following = [m for m in _months(self.archive[market]) if m > month]
        out = io.StringIO()
        table = csv.writer(out)
        table.writerow(["instrument_name", "funding_rate", "funding_time"])
        for ts, rate in self.archive[market]:
            if month <= ts < (following[0] if following else 2**62):
                table.writerow([market, rate, ts])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr(f"{market}-{month}.csv", out.getvalue())
        return packed.getvalue()


def _months(rows: list[tuple[int, str]]) -> list[int]:
    """Firsts of the archive's months (UTC+8), as instants of UTC."""
    from datetime import UTC, datetime

    eight = 8 * 60 * MINUTE
    days = {datetime.fromtimestamp((ts + eight) / 1000, UTC).strftime("%Y-%m") for ts, _ in rows}
    return sorted(round(datetime.fromisoformat(f"{d}-01T00:00+00:00").timestamp() * 1000) - eight for d in days)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    okx: ClassVar[OkxServer]

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        try:
            self._get()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _get(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.rsplit("/", 1)[1]
        if parts.path.startswith("/files/"):
            _, _, market, file = parts.path.split("/")
            name, query = "file", {}
            self.okx.requests[name] += 1
            status, body = 200, self.okx.file(market, int(file.removesuffix(".zip")))
        else:
            query = dict(parse_qsl(parts.query))
            status, answer = self.okx.answer(name, query)
            body = json.dumps(answer).encode()
        if self.okx.delay_s:
            time.sleep(self.okx.delay_s)
        queue = self.okx.faults[name]
        fault = queue.popleft() if queue else self.okx.lasting.get(name, "")
        if status == 200 and fault:
            self._faulty(fault, body)
        else:
            self._send(status, body)

    def _send(self, status: int, body: bytes, kind: str = "application/json", promise: int = 0) -> None:
        self.send_response(status)
        if status in (429, 503) and self.okx.retry_after:
            asked = self.okx.retry_after
            self.send_header("Retry-After", asked() if callable(asked) else asked)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + promise))
        self.end_headers()
        self.wfile.write(body)

    def _faulty(self, fault: str, body: bytes) -> None:
        html = b"<html><body>Bad gateway</body></html>"
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault == "slow body":
            self._send(200, body[:20], promise=len(body) - 20)
            self.wfile.flush()
            time.sleep(1.2)
            self.close_connection = True
        elif fault == "cut body":
            self._send(200, body[: len(body) // 2], promise=len(body) - len(body) // 2)
            self.close_connection = True
        elif fault == "moved":  # to a host of another name
            self.send_response(302)
            self.send_header("Location", self.okx.url.replace("127.0.0.1", "localhost") + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault == "flipped":
            at = len(body) // 2
            self._send(200, body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :], "application/zip")
        elif fault in PLAIN:
            self._send(*PLAIN[fault])
        else:
            answer = json.loads(body) if body[:1] == b"{" else None
            if fault == "truncated":
                self._send(200, body[: len(body) * 2 // 3])
            elif answer is None or fault == "html":
                self._send(200, html, "text/html")
            else:
                self._send(200, json.dumps(ROWS[fault](answer)).encode())


PLAIN: dict[str, tuple[int, bytes]] = {
    "429": (429, b'{"code":"50011","msg":"Too Many Requests","data":[]}'),
    "429 html": (429, b"<html>slow down</html>"),
    "200 50011": (200, b'{"code":"50011","msg":"Too Many Requests","data":[]}'),
    "500": (500, b'{"code":"1","msg":"internal","data":[]}'),
    "502": (502, b"<html>502 Bad Gateway</html>"),
    "503": (503, b'{"code":"50001","msg":"Service temporarily unavailable.","data":[]}'),
    "empty body": (200, b""),
    "null": (200, b"null"),
    "no data": (200, b'{"code":"0","msg":""}'),
    "no rows": (200, b'{"code":"0","msg":"","data":[]}'),
    "data null": (200, b'{"code":"0","msg":"","data":null}'),
}


def _with_rows(change: Any) -> Any:
    def apply(answer: dict[str, Any]) -> dict[str, Any]:
        rows = answer["data"]
        return {**answer, "data": change(rows) if rows and isinstance(rows[0], list) else rows}

    return apply


def _off_grid(rows: list[Row]) -> list[Row]:
    return [[str(int(r[0]) + (7_000 if int(r[0]) // MINUTE % 9 == 4 else 0)), *r[1:]] for r in rows]


def _swapped(row: Row) -> Row:
    return [row[0], row[1], row[3], row[2], *row[4:]]


ROWS: dict[str, Any] = {
    "duplicates": _with_rows(lambda rows: [r for row in rows for r in (row, row)]),
    "out of order": _with_rows(lambda rows: rows[::2] + rows[1::2]),
    "oldest first": _with_rows(lambda rows: rows[::-1]),
    "off grid": _with_rows(_off_grid),
    "forming": _with_rows(lambda rows: [[*rows[0][:-1], "0"], *rows[1:]]),
    "short": _with_rows(lambda rows: rows[: len(rows) // 2]),
    "blank": _with_rows(lambda rows: [[rows[0][0], "", *rows[0][2:]], *rows[1:]]),
    "high below low": _with_rows(lambda rows: [_swapped(r) if float(r[2]) > float(r[3]) else r for r in rows]),
    "zero price": _with_rows(lambda rows: [[r[0], "0", *r[2:]] for r in rows]),
    "two of one time": _with_rows(lambda rows: [rows[0], [*rows[0][:4], "1.5", *rows[0][5:]], *rows[1:]]),
}
FAULTS = (*PLAIN, "reset", "slow body", "cut body", "truncated", "html", *ROWS)
