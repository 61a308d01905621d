"""One request to the central index, one classified outcome."""

from __future__ import annotations

import json
import math
import select
import ssl
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import uuid4

import requests
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from cdc_indexer import __version__
from cdc_indexer.delivery._connection import MAX_ANSWER_BYTES, Connection, Route, UnusableTlsFiles
from cdc_indexer.delivery.retry import parse_retry_after
from cdc_indexer.model.outcome import Kind, Outcome

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["MAX_ANSWER_BYTES", "Kind", "Outcome", "Request", "Webservice", "classify"]

#: Connecting, sending and each read may take ``timeout_seconds``; one request as a whole this many times that, or an
#: index that answers a byte at a time could keep a sender for ever.
_DEADLINE_TIMEOUTS = 3

#: An answer as short as this is recognised when it comes again.
_REMEMBERED_BYTES = 1024


class Request(NamedTuple):
    """What is to be sent: a document or an array of them, or with ``body`` None the deletion of a study."""

    body: bytes | None
    idempotency_key: str
    study_iuid: str = ""
    max_answer_bytes: int = MAX_ANSWER_BYTES


class Webservice:
    """One connection to the central index, which stays alive between requests, and one request at a time.

    Only ``connect``, ``exchange`` and ``probe`` wait. Who sends many requests at a time polls for ``events`` on ``fileno``,
    calls ``advance`` when something happened, and ``expire`` at ``expires_at``. Nothing raises. Not thread-safe.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.webservice_url
        self._center = settings.center
        self._headers = {
            "User-Agent": f"cdc-indexer/{__version__}",
            "Accept": "application/json",
            # A compressed answer could unfold into gigabytes.
            "Accept-Encoding": "identity",
            "X-Api-Key": settings.key.get_secret_value(),
        }
        self._timeout_seconds = settings.delivery.timeout_seconds
        self._ca = settings.delivery.ca
        self._client_cert = settings.delivery.client_cert
        self._where = urlsplit(self._url).netloc
        self._post_head = b""
        self._route: Route | None = None
        self._connection: Connection | None = None
        self._method = "POST"
        self._deadline = 0.0
        self._accepted: tuple[int, bytes, Outcome] | None = None
        #: When the request in flight is given up, by time.monotonic.
        self.expires_at = math.inf

    @property
    def events(self) -> int:
        """What the request in flight waits for, as for select.poll."""
        return self._connection.events if self._connection is not None else 0

    def fileno(self) -> int:
        """The descriptor to poll, once connected."""
        return self._connection.fileno() if self._connection is not None else -1

    @property
    def ready(self) -> bool:
        """Whether a request can go at once; if not, ``connect`` first."""
        if self._connection is None:
            return False
        if not self._connection.reusable:
            self.close()
            return False
        return True

    def connect(self) -> Outcome | None:
        """Connects; what it means if that fails."""
        try:
            if self._route is None:
                self._route = Route(self._url, self._ca, self._client_cert)
                self._post_head = self._head("POST", self._url, self._route)
            self._connection = Connection(self._route, self._timeout_seconds)
        except Exception as error:  # whatever it is, the study must stay with us
            return self._failed(error)
        return None

    def begin(self, request: Request) -> Outcome | None:
        """Begins to send a request on a connection that is ready; its outcome if there is one at once."""
        if request.body is None:
            return self._begin("DELETE", self._url_of(request.study_iuid), b"", request)
        return self._begin("POST", self._url, request.body, request)

    def _begin(self, method: str, url: str, body: bytes, request: Request) -> Outcome | None:
        now = time.monotonic()
        self._deadline = now + _DEADLINE_TIMEOUTS * self._timeout_seconds
        self.expires_at = now + self._timeout_seconds
        self._method = method
        try:
            assert self._connection is not None
            assert self._route is not None
            head = self._post_head if method == "POST" else self._head(method, url, self._route)
            data = b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (
                head,
                request.idempotency_key.encode(),
                len(body),
                body,
            )
            self._connection.begin(method, data, request.max_answer_bytes)
        except Exception as error:
            return self._failed(error)
        return None

    def advance(self) -> Outcome | None:
        """Goes on with the request in flight as far as it can without waiting; its outcome once there is one."""
        try:
            assert self._connection is not None
            answer = self._connection.advance()
            if answer is None:
                self.expires_at = min(time.monotonic() + self._timeout_seconds, self._deadline)
                return None
        except Exception as error:
            return self._failed(error)
        if not answer.reusable:
            self.close()
        # An index usually says the very same again.
        known = self._accepted if self._method == "POST" else None
        if known is not None and known[0] == answer.status and known[1] == answer.body:
            return known[2]
        outcome = classify(self._method, answer.status, answer.body, answer.retry_after, time.time())
        if outcome.kind is Kind.ACCEPTED and self._method == "POST" and len(answer.body) < _REMEMBERED_BYTES:
            self._accepted = answer.status, answer.body, outcome
        return outcome

    def expire(self) -> Outcome:
        """Gives up the request in flight."""
        return self._failed(TimeoutError())

    def exchange(self, request: Request) -> Outcome:
        """Sends a request and waits for its outcome."""
        failed = None if self.ready else self.connect()
        return failed or self._wait(self.begin(request))

    def _wait(self, outcome: Outcome | None) -> Outcome:
        """The outcome of the request that was begun."""
        while outcome is None:
            left = self.expires_at - time.monotonic()
            if left <= 0:
                return self.expire()
            poll = select.poll()
            poll.register(self.fileno(), self.events)
            poll.poll(left * 1000)
            outcome = self.advance()
        return outcome

    def probe(self) -> tuple[Outcome, float | None]:
        """Asks with a GET, which leaves nothing in the index. The outcome is classified as for a study.

        Also the end of the index's certificate in seconds since the epoch, None where it has none or wasn't reached.
        """
        failed = None if self.ready else self.connect()
        if failed is not None or self._connection is None:
            return failed or self.expire(), None
        ends = self._connection.certificate_ends
        return self._wait(self._begin("GET", self._url, b"", Request(b"", str(uuid4())))), ends

    def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- one request -------------------------------------------------------------------------------------

    def _url_of(self, study_iuid: str) -> str:
        """Where a study of this centre is deleted."""
        parts = urlsplit(self._url)
        query = f"{parts.query}&" if parts.query else ""
        return parts._replace(
            path=f"{parts.path.rstrip('/')}/{quote(study_iuid, safe='')}",
            query=f"{query}center={quote(self._center, safe='')}",
        ).geturl()

    def _head(self, method: str, url: str, route: Route) -> bytes:
        """The request up to the value of its Idempotency-Key."""
        headers = dict(self._headers)
        if method == "POST":
            headers["Content-Type"] = "application/json"
        prepared = requests.Request(method, url, headers=headers).prepare()
        prepared.headers.pop("Content-Length", None)
        prepared.headers.update(route.proxy_headers)
        lines = [
            f"{method} {route.target(prepared)} HTTP/1.1",
            f"Host: {urlsplit(prepared.url or url).netloc}",
        ]
        lines += [f"{name}: {value}" for name, value in prepared.headers.items()]
        return "\r\n".join((*lines, "Idempotency-Key: ")).encode("ascii")

    def _failed(self, error: Exception) -> Outcome:
        """What it means that no answer came."""
        where = f"The central index at {self._where}"
        self.close()
        # TLS files may have been mended: they are read again before the next try.
        self._route = None
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message or "no reason given"
            remedy = "renew it, or set delivery.ca to the CA that signed it"
            return Outcome(
                Kind.HELD, reason=f"The certificate of {self._where} can't be trusted ({why}): {remedy}."
            )
        if isinstance(error, UnusableTlsFiles):
            return Outcome(Kind.HELD, reason=str(error))
        cause = error.__cause__ if isinstance(error, NewConnectionError) and error.__cause__ else error
        # NewConnectionError is a ConnectTimeoutError too, whatever its cause.
        if isinstance(cause, TimeoutError | ConnectTimeoutError):
            return Outcome(
                Kind.RETRY_INDEX, reason=f"{where} doesn't answer in time (delivery.timeout_seconds)."
            )
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            why = (error.reason or "no reason given").replace("_", " ").lower()
            remedy = "correct webservice_url, delivery.ca or delivery.client_cert"
            return Outcome(Kind.HELD, reason=f"{where} can't be talked to by TLS ({why}): {remedy}.")
        if isinstance(error, NameResolutionError):
            return Outcome(Kind.RETRY_INDEX, reason=f"The name of {self._where} can't be resolved now.")
        if isinstance(error, requests.RequestException | UnicodeError):
            remedy = "correct webservice_url"
            return Outcome(Kind.HELD, reason=f"{where} has an address that can't be used: {remedy}.")
        if isinstance(error, HTTPException) and not isinstance(error, ConnectionError):
            return Outcome(Kind.RETRY_INDEX, reason=f"{where} answers with something that isn't HTTP.")
        why = getattr(cause, "strerror", None) or type(cause).__name__
        return Outcome(Kind.RETRY_INDEX, reason=f"{where} can't be reached ({why}).")


# --- what an answer means --------------------------------------------------------------------------------

_REJECTED = frozenset({400, 412, 413, 414, 415, 422})
_WRONG_KEY = frozenset({401, 403})
_WRONG_ADDRESS = frozenset({404, 405, 410})
#: The index is fine, this request isn't now: 408 it came too slowly, 423 and 424 something of it is locked, 425 too early.
_STUDY_LATER = frozenset({408, 423, 424, 425})


def classify(method: str, status: int, body: bytes, retry_after: str | None, now: float) -> Outcome:
    """What an answer means; ``now`` in seconds since the epoch, for a Retry-After that names a date."""
    answer = body.decode("utf-8", "replace")
    if 200 <= status < 300:
        if _says_error(body):
            reason = (
                "The central index answers with status Error: correct key in config.json, or read its log."
            )
            return Outcome(Kind.HELD, status, answer, reason=reason)
        return Outcome(Kind.ACCEPTED, status, answer)
    if method == "DELETE" and status in (404, 410):
        return Outcome(Kind.ACCEPTED, status, answer)
    if status == 409:
        return Outcome(
            Kind.ALREADY_THERE,
            status,
            answer,
            reason="The central index holds this study already (status 409).",
        )
    if status in _REJECTED:
        reason = f"The central index rejected this study (status {status}): see its answer."
        return Outcome(Kind.REJECTED, status, answer, reason=reason)
    if status == 429 or status >= 500 or status in _STUDY_LATER or status < 200:
        seconds = parse_retry_after(retry_after, now)
        # A 5xx alone may be this study's own doing; with a Retry-After the index speaks of itself.
        busy = status == 429 or status < 200 or (status == 503 and seconds is not None)
        kind = Kind.RETRY_INDEX if busy else Kind.RETRY_STUDY
        reason = f"The central index is busy or failing (status {status})."
        return Outcome(kind, status, answer, seconds, reason)
    return Outcome(Kind.HELD, status, answer, reason=_why_held(status))


def _why_held(status: int) -> str:
    if status in _WRONG_KEY:
        return f"The central index refuses the key (status {status}): correct key in config.json."
    if status in _WRONG_ADDRESS:
        return f"There is no web service at webservice_url (status {status}): correct it in config.json."
    if status < 400:
        return (
            f"The central index redirects (status {status}), which would carry the key to another address: "
            "put the final address into webservice_url."
        )
    return f"The central index refuses every study (status {status}): ask whoever runs it."


def _says_error(body: bytes) -> bool:
    """Whether a body is a JSON object whose ``status`` is "Error": the index in use says so for a bad key, with 200."""
    if not body.lstrip().startswith(b"{"):
        return False
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    status = said.get("status") if isinstance(said, dict) else None
    return isinstance(status, str) and status.strip().lower() == "error"
