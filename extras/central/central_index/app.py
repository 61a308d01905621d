"""The service: its parts put together, and their addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from central_index.access import Access
from central_index.audit import Audit
from central_index.audit_key import AuditKey
from central_index.disclosure import Disclosure
from central_index.keys import Keys
from central_index.metrics import Measured, Metrics
from central_index.model import StoreUnavailable
from central_index.news import News
from central_index.openapi import document
from central_index.persons import IdRule
from central_index.reading import Reading
from central_index.region import Region
from central_index.store import make_store
from central_index.web import on_http_exception, on_unavailable
from central_index.writing import Register, Writing

_STATIC = Path(__file__).resolve().parent / "static"
_REGISTER = "/api/v1/register"


@dataclass(frozen=True, slots=True)
class Options:
    """``database`` and ``read_database`` as the command line takes them; ``id_rule``: how ids of patients are written.

    ``audit_months``: so many whole months of who was shown what are kept; None: all.
    """

    database: str
    keys: Path
    audit_key: Path
    read_database: str | None = None
    id_rule: str | None = None
    audit_months: int | None = None


class Central:
    """One index: its keys, its store, and who watches it. `application` is for an ASGI server, which adds web.HEADERS.

    `open` it first, in the loop that serves; `stop_streaming` ends the open pages' streams, so that the server needn't wait
    for them.
    """

    def __init__(self, options: Options) -> None:
        """Raises UnusableKeys, UnusableStore, UnknownRule, UnusableAuditKey."""
        self._news = News()
        known = Keys(options.keys)
        id_rule = IdRule(options.id_rule) if options.id_rule is not None else None
        self._store = make_store(options.database, options.read_database, self._news.changed)
        access = Access(known, self._store)
        writing = Writing(self._store, access)
        self._disclosure = Disclosure(Audit(self._store, AuditKey(options.audit_key)), options.audit_months)
        reading = Reading(self._store, access, known, id_rule, self._disclosure)
        metrics = Metrics()
        region = Region(self._store, access, known, metrics)
        routes: list[BaseRoute] = [
            # The first that fits is taken: most requests are studies.
            Route(_REGISTER, Register(writing), methods=["POST"]),
            Route("/", _page),
            Route("/login", access.login, methods=["POST"]),
            Route("/logout", access.logout, methods=["POST"]),
            Route("/events", partial(self._news.events, access)),
            Route(_REGISTER, writing.try_key, methods=["GET"]),
            Route(f"{_REGISTER}/digests", writing.digests, methods=["POST"]),
            Route(f"{_REGISTER}/report", writing.report, methods=["POST"]),
            Route(f"{_REGISTER}/{{study_iuid:path}}", writing.delete, methods=["DELETE"]),
            Route("/api/v1/studies", reading.studies),
            Route("/api/v1/search", reading.search, methods=["POST"]),
            Route("/api/v1/search.csv", reading.export, methods=["POST"]),
            Route("/api/v1/centers", region.centers),
            Route("/api/v1/choices", region.choices),
            Route("/healthz", region.health),
            Route("/metrics", region.metrics),
            Mount("/static", StaticFiles(directory=_STATIC)),
            Route("/openapi.json", lambda _: JSONResponse(described)),
        ]
        described = document(routes)
        self.application = Starlette(
            routes=routes,
            middleware=[Middleware(Measured, metrics=metrics)],
            exception_handlers={HTTPException: on_http_exception, StoreUnavailable: on_unavailable},
            lifespan=self._lifespan,
        )

    async def open(self) -> None:
        """Raises UnusableStore, UnusableAuditKey."""
        await self._store.open()
        try:
            await self._disclosure.open()
            await self._store.serve()
        except BaseException:
            await self._store.close()
            raise

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._news.loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._news.loop = None
            await self._disclosure.close()
            await self._store.close()

    def stop_streaming(self) -> None:
        """May be called in any thread, and by a signal handler."""
        self._news.stop()


async def _page(_: Request) -> Response:
    return FileResponse(_STATIC / "index.html")
