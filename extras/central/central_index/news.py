"""Open pages are told that something changed, and not what: they read what they show anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from central_index.access import Access

#: An open page reads anew at most so often, however many studies arrive.
_NEWS_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 15.0


class News:
    """Server-sent events."""

    def __init__(self) -> None:
        #: One for each open page.
        self._watchers: set[asyncio.Event] = set()
        self._stopping = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def changed(self) -> None:
        """May be called in any thread."""
        loop = self.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._tell)

    def stop(self) -> None:
        """Ends the streams. May be called in any thread, and by a signal handler."""
        self._stopping = True
        self.changed()

    def _tell(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def events(self, access: Access, request: Request) -> Response:
        await access.reader(request)
        return StreamingResponse(
            self._stream(access, request), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def _stream(self, access: Access, request: Request) -> AsyncIterator[str]:
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            yield "retry: 2000\n\n"
            while not self._stopping:
                try:
                    await asyncio.wait_for(news.wait(), _KEEP_ALIVE_SECONDS)
                except (TimeoutError, asyncio.TimeoutError):
                    yield ": still here\n\n"
                else:
                    news.clear()
                    yield "data: changed\n\n"
                    await asyncio.sleep(0 if self._stopping else _NEWS_SECONDS)
                # Logged out, or the key taken out of the file.
                if await access.role(request) is None:
                    return
        finally:
            self._watchers.discard(news)
