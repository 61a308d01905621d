"""A TCP proxy that a test can break: cut the line, slow it down, let it fall silent, end an answer in its middle."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

from tests.ports import free_port, stop_listening

_LINGER_ZERO = struct.pack("ii", 1, 0)
_CHUNK = 65_536
_SECONDS_TO_WAIT = 10.0


class Proxy:
    """Passes bytes between whoever connects to ``port`` of ``host`` and ``target_port`` on loopback, until told otherwise.

    Runs in a thread of its own; use as a context manager. What is told holds for open lines and for new ones alike.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.target_port = target_port
        self.port = free_port()
        self._delay_seconds = 0.0
        self._flowing = asyncio.Event()
        self._truncate_after: int | None = None
        #: Answers of the target that came and weren't passed on whole.
        self.undelivered = 0
        self._lines: set[_Line] = set()
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._open())

    def cut(self) -> None:
        """Resets every open line (RST); new ones are taken."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Takes no new line, and resets the open ones."""
        self._do(self._refuse())

    def stall(self) -> None:
        """Half-open: lines stay, new ones are taken, and nothing passes in either direction any more."""
        self._do(self._set(flowing=False))

    def delay(self, seconds: float) -> None:
        """Every piece passes this much later."""
        self._do(self._set(delay_seconds=seconds))

    def truncate(self, after_bytes: int) -> None:
        """The target's next answer on each line is cut (FIN) after so many bytes."""
        self._do(self._set(truncate_after=after_bytes))

    def normal(self) -> None:
        """Everything passes again, what was held back as well; lines that were broken stay broken."""
        self._do(self._open())
        self._do(self._set(flowing=True, delay_seconds=0.0))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._do(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Below: in the proxy's thread only.

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_SECONDS_TO_WAIT)

    async def _open(self) -> None:
        self._flowing.set()
        if self._listening is None:
            self._listening = await asyncio.start_server(
                self._take, self.host, self.port, reuse_address=True, backlog=128
            )

    async def _set(
        self, *, flowing: bool = True, delay_seconds: float = 0.0, truncate_after: int | None = None
    ) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()
        self._delay_seconds = delay_seconds
        self._truncate_after = truncate_after

    async def _cut(self) -> None:
        lines = list(self._lines)
        for line in lines:
            line.reset()
        for line in lines:
            await line.ended.wait()

    async def _refuse(self) -> None:
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await stop_listening(listening)
        await self._cut()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Line(self, reader, writer).carry()


class _Line:
    """One connection and its continuation to the target."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = asyncio.Event()

    async def carry(self) -> None:
        self._proxy._lines.add(self)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.target_port)
            self._writers.append(writer)
            self._tasks = [
                asyncio.create_task(self._copy(self._reader, writer, from_target=False)),
                asyncio.create_task(self._copy(reader, self._writers[0], from_target=True)),
            ]
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            # The end of one side is the end of the line: neither MySQL nor HTTP goes on with half of one.
        except OSError:
            pass  # nobody listens there
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.close()
            self._proxy._lines.discard(self)
            self.ended.set()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_target: bool
    ) -> None:
        proxy = self._proxy
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                proxy.undelivered += from_target
                if proxy._delay_seconds:
                    await asyncio.sleep(proxy._delay_seconds)
                await proxy._flowing.wait()
                if from_target and proxy._truncate_after is not None:
                    writer.write(data[: proxy._truncate_after])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()
                proxy.undelivered -= from_target

    def reset(self) -> None:
        """Ends both sides with RST instead of FIN."""
        for writer in self._writers:
            raw: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
