"""Connections to the central index.

The adapter of requests makes them (proxies from the environment, TLS, verification). On them each request is one write
that doesn't wait, and the answer is read as it comes: a small part of the CPU of the adapter's own ``send``, which matters
because the interpreter lock makes CPU the limit of the rate; and one thread can serve all of them.
"""

from __future__ import annotations

import functools
import select
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, prepend_scheme_if_needed, select_proxy

from cdc_indexer.delivery._answer import Answer, AnswerReader
from cdc_indexer.delivery._urllib3 import connected

#: An answer is read so far and no further.
MAX_ANSWER_BYTES = 64 * 1024


class UnusableTlsFiles(Exception):
    """delivery.ca or delivery.client_cert can't be used; the message says which."""


class Route:
    """How the central index is reached: directly or by a proxy, and with which certificates."""

    def __init__(self, url: str, ca: Path | None, client_cert: Path | None) -> None:
        session = requests.Session()
        verify = str(ca) if ca else None
        environment = session.merge_environment_settings(url, {}, True, verify, None)
        self._proxies: dict[str, str] = dict(environment["proxies"])
        context = None
        if url.startswith("https:"):
            bundle = environment["verify"]
            bundle = bundle if isinstance(bundle, str) else DEFAULT_CA_BUNDLE_PATH
            certificate = str(client_cert) if client_cert else None
            context = _tls_context(bundle, certificate, (_stamp(bundle), _stamp(certificate)))
        self._adapter = _Adapter(context)
        proxy = select_proxy(url, self._proxies)
        #: Headers for a proxy that sees the request itself.
        self.proxy_headers: dict[str, str] = {}
        #: The proxy's host and port, if there is one.
        self.via = ""
        manager = self._adapter.poolmanager
        if proxy:
            proxy = str(prepend_scheme_if_needed(proxy, "http"))  # type: ignore[no-untyped-call]
            self.via = urlsplit(proxy).netloc.rpartition("@")[2]
            manager = self._adapter.proxy_manager_for(proxy)
            if context is None:
                self.proxy_headers = self._adapter.proxy_headers(proxy)
        self._pool = manager.connection_from_url(url)
        self._by_tunnel = bool(proxy and not proxy.startswith("socks") and context is not None)

    def target(self, prepared: requests.PreparedRequest) -> str:
        """What the request line names: the path, or the whole address for a proxy."""
        return str(self._adapter.request_url(prepared, self._proxies))

    def connect(self, timeout_seconds: float) -> Any:
        """A new connection of urllib3, connected and, with https, verified."""
        return connected(self._pool, timeout_seconds, by_tunnel=self._by_tunnel)


class _Adapter(HTTPAdapter):
    """The adapter of requests with one TLS context for all its connections: loading a CA bundle takes 20 ms."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._options: dict[str, Any] = {"ssl_context": context} if context else {}
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, **self._options)


def _stamp(path: str | None) -> tuple[int, int] | None:
    """What changes when a file does."""
    if path is None:
        return None
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=2)
def _tls_context(bundle: str, client_cert: str | None, stamps: object) -> ssl.SSLContext:
    """Shared by all senders; another one as soon as a file has another stamp."""
    try:
        if Path(bundle).is_dir():
            context = ssl.create_default_context(capath=bundle)
        else:
            context = ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError):
        raise UnusableTlsFiles(
            f"The CA certificates in {bundle} can't be read: correct delivery.ca."
        ) from None
    # Certificates of hospitals' own CAs often lack what the strict mode of Python 3.13 asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if client_cert is not None:
        try:
            # A key that needs a passphrase must fail, not ask on the terminal.
            context.load_cert_chain(client_cert, password="")
        except (OSError, ssl.SSLError):
            raise UnusableTlsFiles(
                f"{client_cert} doesn't hold a certificate and its key: correct delivery.client_cert."
            ) from None
    return context


# --- one connection --------------------------------------------------------------------------------------


_RECEIVE_BYTES = 16 * 1024

#: The operation would have to wait.
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A connected socket with what urllib3 needs to keep it. ``connect`` blocks, the rest doesn't."""

    def __init__(self, route: Route, timeout_seconds: float) -> None:
        self._connection = route.connect(timeout_seconds)
        self._sock: Any = self._connection.sock
        # TLS through a proxy that is itself spoken to by TLS: an object of urllib3's that has to wait.
        waits = not isinstance(self._sock, socket.socket)
        self._sock.settimeout(timeout_seconds if waits else 0.0)
        self._fileno = int(self._sock.fileno())
        self._poll = select.poll()
        self._poll.register(self._fileno, select.POLLIN)
        self._unsent: bytes | memoryview = b""
        self._send_error: OSError | None = None
        self._reader: AnswerReader | None = None
        self._answers = 0
        #: What to poll for before ``advance``.
        self.events = select.POLLIN

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._fileno

    @property
    def reusable(self) -> bool:
        """Whether nothing came since the last answer. If something did, it is the end of the connection, or an
        answer that nobody asked for and that the next request would take for its own."""
        return not self._poll.poll(0)

    @property
    def lapsed(self) -> bool:
        """Whether it was answered before and nothing has come now: a connection at rest may end at any moment."""
        return self._answers > 0 and self._reader is not None and not self._reader.begun

    def give_up(self) -> Answer | None:
        """No more is waited for: the answer, if nothing but the end of the connection could tell that it is whole."""
        return self._reader.give_up() if self._reader is not None else None

    @property
    def certificate_ends(self) -> float | None:
        """When the certificate of the other side ends, in seconds since the epoch; None without TLS."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return None
        ends = (self._sock.getpeercert() or {}).get("notAfter")
        return ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None

    def begin(self, request: bytes, max_answer_bytes: int) -> None:
        """Sends what can be sent at once; raises whatever goes wrong."""
        self._reader = AnswerReader(max_answer_bytes)
        self._unsent = request
        self._send()

    def advance(self) -> Answer | None:
        """Sends and reads what can be without waiting; the answer once it is whole. Raises whatever goes wrong."""
        if self._unsent:
            self._send()
        reader = self._reader
        assert reader is not None
        while True:
            try:
                data = self._sock.recv(_RECEIVE_BYTES)
            except ssl.SSLWantWriteError:
                self.events |= select.POLLOUT
                return None
            except _NOT_NOW:
                return None
            except OSError as error:
                raise (self._send_error or error) from None
            if not data and self._send_error is not None:
                raise self._send_error
            answer = reader.feed(data)
            if answer is not None:
                self._answers += 1
                if self._unsent or self._send_error is not None:
                    answer = answer._replace(reusable=False)
                return answer

    def _send(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            # An index that rejects a long body may answer before it has read it, and close: that answer counts.
            self._send_error = error
            self._unsent = b""
            return
        self._unsent = memoryview(self._unsent)[sent:] if sent < len(self._unsent) else b""
        self.events = select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN

    def close(self) -> None:
        """Closes the socket."""
        self._connection.close()
