"""The server's side of a connection, which waits for nothing for ever and keeps little for anybody.

uvicorn gives an idle connection an end, and a body has one in web.py. A head, or a body of which nobody wants to hear
any more, may come a byte a minute; an answer may never be read; and a head, or what waits behind the request that is
answered, may be of any size. Such connections use up what others could have.
"""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from central_index.web import WHOLE

__all__ = ["Impatient"]

#: From a request's first byte to its last; longer than a body may take, so that who is slow is told.
REQUEST_SECONDS = 40.0
#: So long what was written may wait for a reader; a large answer is written in parts, each with this time.
READER_SECONDS = 40.0
#: Of an answer, with the kernel; which else takes some MB for each connection, and then nobody sees that nothing is read.
_LARGEST_UNSENT_BYTES = 128 * 1024
#: Of an answer, here; before more is made.
_LARGEST_KEPT_BYTES = 64 * 1024
#: Between two parts of a body, or before the first: a head, with what the socket gave at once.
_LARGEST_HEAD_BYTES = 64 * 1024
#: Requests that were sent before the answer to an earlier one; no client of today sends any.
_MOST_WAITING = 20
_HEAD_IS_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class _Enough(Exception):
    """Ends the parser's work on what has come."""


class Impatient(HttpToolsProtocol):
    """Hangs up on a request that takes too long to come, and on an answer that nobody takes."""

    _end: asyncio.TimerHandle | None = None
    _reader_end: asyncio.TimerHandle | None = None
    #: Whether the request that is coming isn't whole yet.
    _coming = False
    _close_when_whole = False
    _answered: RequestResponseCycle | None = None
    _head_bytes = 0

    # --- what comes ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._lingering = _Lingering(self)
        # (Of TLS asyncio would keep half a megabyte.)
        transport.set_write_buffer_limits(_LARGEST_KEPT_BYTES)
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _LARGEST_UNSENT_BYTES
        )
        self._give(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._lingering.send()
        was_coming = self._coming
        self._head_bytes += len(data)
        super().data_received(data)
        if self._coming and self._head_bytes > _LARGEST_HEAD_BYTES:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_HEAD_IS_TOO_LARGE)
            self.transport.close()
            self._give_reader(READER_SECONDS)
        # Nearly all come whole, and cost no timer.
        elif self._coming and not was_coming:
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

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MOST_WAITING:
            self.transport.abort()
            raise _Enough
        idle = self.cycle is None or self.cycle.response_complete
        super().on_headers_complete()
        if idle:
            self._answered = self.cycle
        self.cycle.transport = self._lingering  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._coming = False
        self._head_bytes = 0
        self._give(None)
        # Nearly always before anybody asks for the body.
        self.scope.setdefault("extensions", {})[WHOLE] = {}
        super().on_message_complete()
        if self._close_when_whole:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give(None)
        self._give_reader(None)
        # uvicorn tells the last that came, which may not be the one that is answered.
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _give(self, seconds: float | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    # --- what leaves ---------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._give_reader(READER_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._give_reader(None)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            self.close()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def shutdown(self) -> None:
        self._lingering.send()
        super().shutdown()

    def close(self) -> None:
        """Once the request is whole, and what was written is taken; for both there is a time."""
        self._lingering.send()
        self._close_when_whole = True
        if not self._coming:
            self.transport.close()
            self._give_reader(READER_SECONDS)

    def _give_reader(self, seconds: float | None) -> None:
        if self._reader_end is not None:
            self._reader_end.cancel()
        self._reader_end = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class _Lingering:
    """What an answer is written to, and what it may end: not before the request is whole.

    Where a connection is closed before all that came was read, TCP takes back what the other side hasn't read either.
    What is written in one go of the loop is sent together: uvicorn writes head and body apart.
    """

    def __init__(self, protocol: Impatient) -> None:
        self._loop = protocol.loop
        self._transport = protocol.transport
        self._written = b""
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self.send)
        self._written += data
        if len(self._written) > _LARGEST_KEPT_BYTES:
            self.send()

    def send(self) -> None:
        """At once, what is left."""
        if self._written:
            written, self._written = self._written, b""
            self._transport.write(written)
