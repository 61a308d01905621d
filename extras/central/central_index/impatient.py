"""The server's side of a connection, which waits for no request for ever, and sends an answer at once.

uvicorn gives an idle connection an end, and a body has one in web.py. A head, or a body of which nobody wants to hear
any more, may come a byte a minute, and such connections use up those that others could have.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from central_index.web import WHOLE

__all__ = ["Impatient"]

#: From a request's first byte to its last; longer than a body may take, so that who is slow is told.
REQUEST_SECONDS = 40.0


class Impatient(HttpToolsProtocol):
    """Hangs up on a request that takes too long to come; how long its answer takes is another matter."""

    _end: asyncio.TimerHandle | None = None
    #: Whether the request that is coming isn't whole yet.
    _coming = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]
        self._give(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        was_coming = self._coming
        super().data_received(data)
        # Nearly all come whole, and cost no timer.
        if self._coming and not was_coming:
            self._give(REQUEST_SECONDS)
        elif self._end is None and not (self._coming or self._answering or self.timeout_keep_alive_task):
            # Blank lines between two requests.
            self._give(REQUEST_SECONDS)

    @property
    def _answering(self) -> bool:
        return self.cycle is None or not self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._coming = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._coming = False
        self._give(None)
        # Nearly always before anybody asks for the body.
        self.scope.setdefault("extensions", {})[WHOLE] = {}
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give(None)
        super().connection_lost(exc)

    def _give(self, seconds: float | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class _Joining:
    """A transport that sends what is written in one go of the loop together: uvicorn writes head and body apart."""

    _LARGEST_BYTES = 64 * 1024

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written = b""

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._send)
        self._written += data
        if len(self._written) > self._LARGEST_BYTES:
            self._send()

    def _send(self) -> None:
        if self._written:
            written, self._written = self._written, b""
            self._transport.write(written)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
