"""The status page's server: a page for people, /healthz, /readyz, /metrics and /status.json; GET only.

It runs inside `run`, so a client can cost it little: a few threads, a few kilobytes of request, a few seconds each. When
there are more clients than that, the one that has been there longest goes. Nothing that a client does is an error of ours.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs

import structlog

from cdc_indexer.monitor import html
from cdc_indexer.monitor.health import Health
from cdc_indexer.monitor.logs import describe
from cdc_indexer.monitor.report import Report
from cdc_indexer.monitor.texts import wanted_language

__all__ = ["Page"]

log = structlog.get_logger("cdc_indexer")

#: Clients at a time.
CLIENTS = 16

#: The head of a request; a browser's has less than 2 KiB.
HEAD_BYTES = 8192

#: A client has so long to say what it wants, and so long to take the answer.
HEAD_SECONDS = 5.0
ANSWER_SECONDS = 10.0

_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_HEADERS = (
    "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin",
    "Connection: close",
)


class Watched(Protocol):
    """What the page shows."""

    @property
    def health(self) -> Health: ...
    def report(self) -> Report: ...
    def expose(self, accept: str) -> tuple[bytes, str]: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[str, ...] = ("Cache-Control: no-store",)


class _BadRequest(Exception):
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class Page:
    """Listens on ``address`` from the start; ``start`` begins to answer. OSError when it can't listen there."""

    def __init__(self, address: tuple[str, int], watched: Watched) -> None:
        self._watched = watched
        self._static = {
            f"/static/{path.name}": (path.read_bytes(), _STATIC_TYPES[path.suffix])
            for path in _STATIC.iterdir()
            if path.suffix in _STATIC_TYPES
        }
        host, port = address
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(where)
            self._listener.listen(64)
        except BaseException:
            self._listener.close()
            raise
        self._lock = threading.Lock()
        #: Connections being served, the oldest first.
        self._open: dict[socket.socket, None] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="page", daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self) -> None:
        """Ends it, and whoever is being served."""
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _cut(connection)
        if self._thread.ident is not None:
            self._thread.join()

    # --- clients -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # It is closed; or too many files are open, which will pass.
                self._stopping.wait(0.1)
                continue
            if not self._admit(connection):
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=[connection], name="client", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads on this machine
                self._leave(connection)

    def _admit(self, connection: socket.socket) -> bool:
        """Makes room for a new client; False when those that were told to go are still there."""
        deadline = time.monotonic() + 1.0
        while True:
            with self._lock:
                if len(self._open) < CLIENTS:
                    self._open[connection] = None
                    return True
                _cut(next(iter(self._open)))
            if time.monotonic() > deadline or self._stopping.wait(0.005):
                return False

    def _leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        with suppress(OSError):
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            try:
                answer = self._answer(_read_head(connection))
            except _BadRequest as error:
                answer = _plain(error.status, error.status.phrase)
            _send(connection, answer)
        except OSError:
            pass  # it went, or was too slow
        except Exception as error:
            # A thread that dies would end the service: the page is never worth that.
            log.error("the status page failed", reason=describe(error))
            with suppress(OSError):
                _send(
                    connection,
                    _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "The status page failed: see the log."),
                )
        finally:
            self._leave(connection)

    # --- answers -----------------------------------------------------------------------------------------

    def _answer(self, head: bytes) -> _Answer:
        method, target, headers = _parse(head)
        path, _, query = target.partition("?")
        watched = self._watched
        if method != "GET":
            return _Answer(
                HTTPStatus.METHOD_NOT_ALLOWED,
                b"GET only.\n",
                headers=("Allow: GET", "Cache-Control: no-store"),
            )
        if path == "/":
            asked = parse_qs(query[:200]).get("lang", [""])[0]
            language = wanted_language(headers.get("accept-language", ""), asked)
            text = html.page(watched.report(), language, datetime.now(timezone.utc))
            return _Answer(
                HTTPStatus.OK,
                text.encode(),
                "text/html; charset=utf-8",
                ("Cache-Control: no-store", "Vary: Accept-Language", f"Content-Language: {language}"),
            )
        if path == "/healthz":
            return _alive(watched.health)
        if path == "/readyz":
            return _ready(watched.report())
        if path == "/metrics":
            body, content_type = watched.expose(headers.get("accept", ""))
            return _Answer(HTTPStatus.OK, body, content_type)
        if path == "/status.json":
            body = json.dumps(watched.report().to_json(), ensure_ascii=False, indent=1).encode() + b"\n"
            return _Answer(HTTPStatus.OK, body, "application/json")
        if path in self._static:
            body, content_type = self._static[path]
            return _Answer(HTTPStatus.OK, body, content_type, ("Cache-Control: max-age=3600",))
        return _plain(HTTPStatus.NOT_FOUND, "There is nothing here: / is the page.")


def _alive(health: Health) -> _Answer:
    """Liveness: the loop moves. Whoever waits for the database or the index is alive."""
    if health.alive:
        return _plain(HTTPStatus.OK, "alive")
    return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "stuck: nothing moves")


def _ready(report: Report) -> _Answer:
    """Readiness: a study that is stored now arrives now. Whoever has a backlog is ready all the same."""
    if report.healthy:
        return _plain(HTTPStatus.OK, "ready")
    return _plain(HTTPStatus.SERVICE_UNAVAILABLE, report.message)


def _plain(status: HTTPStatus, text: str) -> _Answer:
    return _Answer(status, f"{text}\n".encode())


# --- HTTP ------------------------------------------------------------------------------------------------


def _read_head(connection: socket.socket) -> bytes:
    """The request up to the empty line; OSError when that takes too long, _BadRequest when it is too much."""
    deadline = time.monotonic() + HEAD_SECONDS
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _BadRequest(HTTPStatus.REQUEST_TIMEOUT)
        connection.settimeout(left)
        try:
            part = connection.recv(HEAD_BYTES)
        except TimeoutError:
            raise _BadRequest(HTTPStatus.REQUEST_TIMEOUT) from None
        if not part:
            raise ConnectionError("it went")
        head += part
        if len(head) > HEAD_BYTES:
            raise _BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return head


def _parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers (by their names in lower case)."""
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").partition("\n\n")[0].split("\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise _BadRequest(HTTPStatus.BAD_REQUEST)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return words[0], words[1], headers


def _send(connection: socket.socket, answer: _Answer) -> None:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *answer.headers,
        *_HEADERS,
    ]
    # sendall's timeout is for the whole of it.
    connection.settimeout(ANSWER_SECONDS)
    connection.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + answer.body)


def _cut(connection: socket.socket) -> None:
    """Ends a connection under the thread that serves it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
