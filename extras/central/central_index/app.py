"""The service: its parts put together, and their addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from central_index.access import Access
from central_index.keys import Keys
from central_index.model import StoreUnavailable
from central_index.news import News
from central_index.reading import Reading
from central_index.store import make_store
from central_index.web import SafeHeaders, on_http_exception, on_unavailable
from central_index.writing import Writing

_STATIC = Path(__file__).resolve().parent / "static"
_REGISTER = "/api/v1/register"


class Central:
    """One index: its keys, its store, and who watches it. `application` is for an ASGI server.

    `open` it first, in the loop that serves; `stop_streaming` ends the open pages' streams, so that the server needn't wait
    for them.
    """

    def __init__(self, database: str, read_database: str | None, keys: Path) -> None:
        """Raises UnusableKeys, UnusableStore."""
        self._news = News()
        known = Keys(keys)
        self._store = make_store(database, read_database, self._news.changed)
        access = Access(known, self._store)
        writing = Writing(self._store, access)
        reading = Reading(self._store, access)
        self.application = Starlette(
            routes=[
                Route("/", _page),
                Route("/login", access.login, methods=["POST"]),
                Route("/logout", access.logout, methods=["POST"]),
                Route("/events", partial(self._news.events, access)),
                Route(_REGISTER, writing.register, methods=["POST"]),
                Route(_REGISTER, writing.try_key, methods=["GET"]),
                Route(f"{_REGISTER}/digests", writing.digests, methods=["POST"]),
                Route(f"{_REGISTER}/report", writing.report, methods=["POST"]),
                Route(f"{_REGISTER}/{{study_iuid:path}}", writing.delete, methods=["DELETE"]),
                Route("/api/v1/studies", reading.studies),
                Route("/api/v1/search", reading.search, methods=["POST"]),
                Mount("/static", StaticFiles(directory=_STATIC)),
            ],
            middleware=[Middleware(SafeHeaders)],
            exception_handlers={HTTPException: on_http_exception, StoreUnavailable: on_unavailable},
            lifespan=self._lifespan,
        )

    async def open(self) -> None:
        """Raises UnusableStore."""
        await self._store.open()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._news.loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._news.loop = None
            await self._store.close()

    def stop_streaming(self) -> None:
        """May be called in any thread, and by a signal handler."""
        self._news.stop()


async def _page(_: Request) -> Response:
    return FileResponse(_STATIC / "index.html")
