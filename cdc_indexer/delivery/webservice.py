"""One request to the central index, one classified outcome."""

from __future__ import annotations

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
from cdc_indexer.delivery._answer import Answer
from cdc_indexer.delivery._connection import MAX_ANSWER_BYTES, Connection, Route, UnusableTlsFiles
from cdc_indexer.delivery._meaning import classify, is_json, proxy_refuses
from cdc_indexer.delivery._urllib3 import ProxyRefuses
from cdc_indexer.delivery.features import Known
from cdc_indexer.model.outcome import Kind, Outcome, Refusal

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["MAX_ANSWER_BYTES", "Kind", "Outcome", "Request", "Webservice", "classify"]

#: Connecting, sending and each read may take ``timeout_seconds``; one request as a whole this many times that, or an
#: index that answers a byte at a time could keep a sender for ever.
_DEADLINE_TIMEOUTS = 3

#: An answer as short as this is recognised when it comes again.
_REMEMBERED_BYTES = 1024


#: What only the index itself says.
_OWN = frozenset({Kind.ACCEPTED, Kind.ALREADY_THERE, Kind.STALE})


class Request(NamedTuple):
    """What is to be sent: a document or an array of them, or with ``body`` None the deletion of a study.

    ``asks``: a GET of the address instead, which leaves nothing in the index. ``version``: that of the one study.
    """

    body: bytes | None
    idempotency_key: str
    study_iuid: str = ""
    max_answer_bytes: int = MAX_ANSWER_BYTES
    asks: bool = False
    version: int | None = None

    @classmethod
    def question(cls) -> Request:
        """A GET of the address."""
        return cls(b"", str(uuid4()), asks=True)


class Webservice:
    """One connection to the central index, which stays alive between requests, and one request at a time.

    Only ``connect``, ``exchange`` and ``probe`` wait. Who sends many requests at a time polls for ``events`` on ``fileno``,
    calls ``advance`` when something happened, and ``expire`` at ``expires_at``. Nothing raises. Not thread-safe.
    """

    def __init__(self, settings: Settings, known: Known | None = None) -> None:
        self._known = known or Known()
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
        self._versioned = False
        self._deadline = 0.0
        self._accepted: tuple[int, bytes, Outcome] | None = None
        #: Whether the request is to be begun once more, on a new connection: the one at rest had ended in that moment.
        self.again = False
        #: Whose key it is, as the last answer said (Index-Center); None where it said nothing.
        self.center: str | None = None
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
        self.again = False
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
        if request.asks:
            return self._begin("GET", self._url, b"", request)
        if request.body is None:
            return self._begin("DELETE", self._url_of(request.study_iuid), b"", request)
        return self._begin("POST", self._url, request.body, request)

    def _begin(self, method: str, url: str, body: bytes, request: Request) -> Outcome | None:
        now = time.monotonic()
        self._deadline = now + _DEADLINE_TIMEOUTS * self._timeout_seconds
        self.expires_at = now + self._timeout_seconds
        self._method = method
        self._versioned = request.version is not None and not self._known.versions_forgotten
        self.again = False
        try:
            assert self._connection is not None
            assert self._route is not None
            head = self._post_head if method == "POST" else self._head(method, url, self._route)
            version = b"\r\nStudy-Version: %d" % request.version if request.version is not None else b""
            data = b"%b%b%b\r\nContent-Length: %d\r\n\r\n%b" % (
                head,
                request.idempotency_key.encode(),
                version,
                len(body),
                body,
            )
            self._connection.begin(data, request.max_answer_bytes)
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
        return self._answered(answer)

    def _answered(self, answer: Answer) -> Outcome:
        if not answer.reusable:
            self.close()
        self.center = answer.center
        # An index usually says the very same again.
        known = self._accepted if self._method == "POST" else None
        if known is not None and known[0] == answer.status and known[1] == answer.body:
            self._known.taught(answer.features)
            return known[2]
        outcome = classify(
            self._method,
            answer.status,
            answer.body,
            answer.retry_after,
            time.time(),
            json_seen=self._known.json_seen,
            versioned=self._versioned,
        )
        if outcome.kind in _OWN and (answer.status < 300 or answer.status == 409):
            self._known.taught(answer.features)
        if outcome.kind is Kind.ACCEPTED and self._method == "POST" and is_json(outcome.answer):
            self._known.answered_json()
            if len(answer.body) < _REMEMBERED_BYTES:
                self._accepted = answer.status, answer.body, outcome
        return outcome

    def expire(self) -> Outcome:
        """Gives up the request in flight."""
        answer = self._connection.give_up() if self._connection is not None else None
        return self._answered(answer) if answer is not None else self._failed(TimeoutError())

    def exchange(self, request: Request) -> Outcome:
        """Sends a request and waits for its outcome."""
        failed = None if self.ready else self.connect()
        outcome = failed or self._wait(self.begin(request))
        if self.again:
            outcome = self.connect() or self._wait(self.begin(request))
        return outcome

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
        return self._wait(self.begin(Request.question())), ends

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
        if isinstance(error, ConnectionError | ssl.SSLEOFError) and self._connection is not None:
            self.again = self._connection.lapsed
        via = self._route.via if self._route is not None and self._connection is None else ""
        self.close()
        # TLS files may have been mended: they are read again before the next try.
        self._route = None
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message or "no reason given"
            remedy = "renew it, or set delivery.ca to the CA that signed it"
            reason = f"The certificate of {self._where} can't be trusted ({why}): {remedy}."
            return Outcome(Kind.HELD, reason=reason, refusal=Refusal.CERTIFICATE)
        if isinstance(error, UnusableTlsFiles):
            return Outcome(Kind.HELD, reason=str(error), refusal=Refusal.CERTIFICATE)
        if isinstance(error, ProxyRefuses):
            return proxy_refuses(error.status, via)
        if via:
            where = f"The proxy {via}"
        cause = error.__cause__ if isinstance(error, NewConnectionError) and error.__cause__ else error
        # NewConnectionError is a ConnectTimeoutError too, whatever its cause.
        if isinstance(cause, TimeoutError | ConnectTimeoutError):
            return Outcome(
                Kind.RETRY_INDEX, reason=f"{where} doesn't answer in time (delivery.timeout_seconds)."
            )
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            why = (error.reason or "no reason given").replace("_", " ").lower()
            remedy = "correct webservice_url, delivery.ca or delivery.client_cert"
            reason = f"{where} can't be talked to by TLS ({why}): {remedy}."
            return Outcome(Kind.HELD, reason=reason, refusal=Refusal.CERTIFICATE)
        if isinstance(error, NameResolutionError):
            return Outcome(
                Kind.RETRY_INDEX,
                reason=f"The host name of {via or self._where} can't be resolved now: correct webservice_url, if it lasts.",
            )
        if isinstance(error, requests.RequestException | UnicodeError):
            remedy = "correct webservice_url"
            reason = f"{where} has an address that can't be used: {remedy}."
            return Outcome(Kind.HELD, reason=reason, refusal=Refusal.ADDRESS)
        if isinstance(error, HTTPException) and not isinstance(error, ConnectionError):
            return Outcome(Kind.RETRY_INDEX, reason=f"{where} answers with something that isn't HTTP.")
        why = getattr(cause, "strerror", None) or type(cause).__name__
        return Outcome(Kind.RETRY_INDEX, reason=f"{where} can't be reached ({why}).")
