"""The service: what may be asked of it, by whom, and what it answers."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from central_index.document import Rejected, Study, parse
from central_index.keys import Keys, Role, digest
from central_index.sessions import COOKIE, LONGEST_SECONDS, Sessions
from central_index.store import Change, Deleted, Filters, Store, Stored

_STATIC = Path(__file__).resolve().parent / "static"
_LARGEST_BODY_BYTES = 4 * 1024 * 1024
_LARGEST_BATCH = 1_000
_BODY_SECONDS = 30.0
_LARGEST_PAGE = 500
#: A guesser gets so many tries in a minute, all together; the keys are long.
_LOGINS_PER_MINUTE = 30
#: The page reads anew at most so often, however many studies arrive.
_NEWS_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 15.0
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Patients' names stay in no browser's cache.
    "Cache-Control": "no-store",
}
_OK = {"status": "Ok"}

log = structlog.get_logger()


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"status": "Error", "reason": reason}, status, headers)


class Central:
    """One index: its keys, its store, and who watches it. `application` is for an ASGI server.

    `stop_streaming` ends the open pages' streams, so that the server needn't wait for them.
    """

    def __init__(self, database: Path, keys: Path) -> None:
        """Raises UnusableKeys, UnusableStore."""
        self._keys = Keys(keys)
        self._sessions = Sessions()
        self._logins: list[float] = []
        #: One for each open page.
        self._watchers: set[asyncio.Event] = set()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store = Store(database, self._changed)
        self.application = Starlette(
            routes=[
                Route("/", _page),
                Route("/login", self._login, methods=["POST"]),
                Route("/logout", self._logout, methods=["POST"]),
                Route("/events", self._events),
                Route("/api/v1/register", self._register, methods=["POST"]),
                Route("/api/v1/register", self._try_key, methods=["GET"]),
                Route("/api/v1/register/{study_iuid}", self._delete, methods=["DELETE"]),
                Route("/api/v1/studies", self._studies),
                Route("/api/v1/search", self._search, methods=["POST"]),
                Mount("/static", StaticFiles(directory=_STATIC)),
            ],
            middleware=[Middleware(_SafeHeaders)],
            exception_handlers={HTTPException: _on_http_exception},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None
            await run_in_threadpool(self._store.close)

    # --- who asks ----------------------------------------------------------------------------------------

    def _role(self, request: Request) -> Role | None:
        key = request.headers.get("x-api-key")
        if key is not None:
            return self._keys.role(key)
        key_digest = self._sessions.key_digest(request.cookies.get(COOKIE, ""))
        return self._keys.role_of_digest(key_digest) if key_digest is not None else None

    def _writer(self, request: Request) -> Role:
        role = self._role(request)
        if role is None:
            raise HTTPException(401, "This key isn't known.")
        if not role.writes:
            raise HTTPException(403, "This key is for reading.")
        return role

    def _reader(self, request: Request) -> Role:
        role = self._role(request)
        if role is None:
            raise HTTPException(401, "Reading needs a key: send it as X-Api-Key, or log in on the page.")
        if role.writes:
            raise HTTPException(403, "This key is for a centre that writes; reading needs a reader's.")
        return role

    # --- centres write -----------------------------------------------------------------------------------

    async def _register(self, request: Request) -> Response:
        role = self._writer(request)
        received_at = time.time()
        document = _decoded(await _body(request))
        key = request.headers.get("idempotency-key")
        if isinstance(document, list):
            return await self._register_batch(role, document, key, received_at)
        study = _study(role, document)
        if isinstance(study, JSONResponse):
            return study
        await self._write([Stored(key, received_at, study)])
        return JSONResponse(_OK, 201)

    async def _register_batch(
        self, role: Role, documents: list[Any], batch_key: str | None, received_at: float
    ) -> Response:
        """A result for each, in their order: a wrong one doesn't keep the others out."""
        if len(documents) > _LARGEST_BATCH:
            return refusal(413, f"More than {_LARGEST_BATCH} studies at once.")
        results: list[dict[str, Any]] = []
        changes: list[Change] = []
        for number, document in enumerate(documents):
            own_key = document.pop("idempotency_key", None) if isinstance(document, dict) else None
            study = _study(role, document)
            if isinstance(study, JSONResponse):
                results.append({**json.loads(bytes(study.body)), "status": study.status_code})
                continue
            key = own_key if isinstance(own_key, str) else batch_key and f"{batch_key}/{number}"
            changes.append(Stored(key, received_at, study))
            results.append({"status": 201})
        if changes:
            await self._write(changes)
        return JSONResponse({"status": "Ok", "results": results}, 207)

    async def _try_key(self, request: Request) -> Response:
        """What a centre asks to see whether its key counts, leaving nothing behind."""
        self._writer(request)
        return JSONResponse([])

    async def _delete(self, request: Request) -> Response:
        role = self._writer(request)
        center = request.query_params.get("center", role.name)
        if center != role.name:
            return refusal(403, "This key is for another centre.")
        key = request.headers.get("idempotency-key")
        change = Deleted(key, time.time(), center, request.path_params["study_iuid"])
        (found,) = await self._write([change])
        return JSONResponse(_OK) if found else refusal(404, "This centre has no such study.")

    async def _write(self, changes: list[Change]) -> list[bool]:
        try:
            return await self._store.write(changes)
        except Exception as error:
            log.error("The studies can't be written: look at the disk.", error=type(error).__name__)
            raise HTTPException(503, "The index can't write at present.", {"Retry-After": "5"}) from None

    # --- people read -------------------------------------------------------------------------------------

    async def _studies(self, request: Request) -> Response:
        """GET: the filters are in the address."""
        pairs = request.query_params.multi_items()
        if len(dict(pairs)) != len(pairs):
            return refusal(422, "A filter is given twice.")
        return await self._found(self._reader(request), dict(pairs))

    async def _search(self, request: Request) -> Response:
        """POST: the filters are a JSON object, so that no proxy on the way logs a patient's name."""
        role = self._reader(request)
        if not request.headers.get("content-type", "").startswith("application/json"):
            return refusal(415, "The filters must be application/json.")
        wanted = _decoded(await _body(request))
        if not isinstance(wanted, dict):
            return refusal(422, "The filters must be a JSON object.")
        return await self._found(role, wanted)

    async def _found(self, role: Role, wanted: Mapping[str, Any]) -> Response:
        try:
            filters = _filters(wanted)
        except Rejected as error:
            return refusal(422, str(error))
        # One more than asked for says whether there is another page.
        more = replace(filters, limit=filters.limit + 1)
        try:
            studies = await run_in_threadpool(self._store.search, more)
            total = await run_in_threadpool(self._store.count)
        except sqlite3.Error as error:
            log.error("The studies can't be read.", error=type(error).__name__)
            return refusal(503, "The index can't read at present.", {"Retry-After": "5"})
        shown = studies[: filters.limit]
        names = sorted(name for name in wanted if name not in ("after", "limit"))
        if names:
            # Who looked for what kind of thing, never for whom.
            log.info("search", reader=role.name, filters=names, found=len(shown))
        following = shown[-1]["id"] if len(studies) > filters.limit else None
        return JSONResponse({"studies": shown, "next": following, "total": total})

    async def _login(self, request: Request) -> Response:
        now = time.monotonic()
        self._logins = [moment for moment in self._logins if moment > now - 60]
        if len(self._logins) >= _LOGINS_PER_MINUTE:
            return refusal(429, "Too many tries: wait a minute.", {"Retry-After": "60"})
        content = _decoded(await _body(request))
        key = content.get("key") if isinstance(content, dict) else None
        role = self._keys.role(key) if isinstance(key, str) else None
        if not isinstance(key, str) or role is None or role.writes:
            self._logins.append(now)
            log.warning("A login was refused.", address=request.client.host if request.client else "")
            return refusal(401, "This is no reader's key.")
        log.info("login", reader=role.name)
        response = JSONResponse(_OK)
        response.set_cookie(
            COOKIE,
            self._sessions.open(digest(key)),
            max_age=LONGEST_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def _logout(self, request: Request) -> Response:
        self._sessions.close(request.cookies.get(COOKIE, ""))
        response = JSONResponse(_OK)
        response.delete_cookie(COOKIE)
        return response

    # --- what is new -------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Called by the store, in its thread."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._tell)

    def stop_streaming(self) -> None:
        """May be called in any thread, and by a signal handler."""
        self._stopping = True
        self._changed()

    def _tell(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def _events(self, request: Request) -> Response:
        """Server-sent events: that something changed, not what. The page reads what it shows anew."""
        self._reader(request)
        return StreamingResponse(
            self._stream(request), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def _stream(self, request: Request) -> AsyncIterator[str]:
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
                if self._role(request) is None:
                    return
        finally:
            self._watchers.discard(news)


class _SafeHeaders:
    """Adds _HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *(pair for pair in message["headers"] if pair[0] != b"cache-control"),
                    *self._headers,
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


async def _page(_: Request) -> Response:
    return FileResponse(_STATIC / "index.html")


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, error.headers)


async def _body(request: Request) -> bytes:
    """Raises HTTPException for one that is too large or too slow."""
    parts: list[bytes] = []
    size = 0

    async def read() -> None:
        nonlocal size
        async for part in request.stream():
            size += len(part)
            if size > _LARGEST_BODY_BYTES:
                raise HTTPException(413, f"More than {_LARGEST_BODY_BYTES} bytes.")
            parts.append(part)

    try:
        await asyncio.wait_for(read(), _BODY_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        raise HTTPException(408, f"The body took longer than {_BODY_SECONDS:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The body ended early.") from None
    return b"".join(parts)


def _decoded(body: bytes) -> Any:
    """Raises HTTPException if it isn't JSON in UTF-8."""
    try:
        # Two members of one name, or NaN, mean something else to everybody.
        return json.loads(
            body.decode(), object_pairs_hook=_without_repetition, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body isn't JSON in UTF-8.") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse_constant(_: str) -> None:
    raise ValueError


def _study(role: Role, document: Any) -> Study | JSONResponse:
    """The study, or the answer that refuses it."""
    try:
        study = parse(document)
    except Rejected as error:
        log.warning("A study was refused.", center=role.name, reason=str(error))
        return refusal(422, str(error))
    if study.center != role.name:
        log.warning("A centre sent a study of another centre's.", center=role.name)
        return refusal(403, "This key is for another centre than the study's.")
    return study


# --- filters -------------------------------------------------------------------------------------------------


def _as_date(value: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError
    return date.fromisoformat(value).isoformat()


def _as_text(value: str) -> str:
    if len(value) > 250:
        raise ValueError
    value.encode()
    return value


def _as_number(largest: float) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"\d{1,18}", value, re.ASCII) or not 1 <= int(value) <= largest:
            raise ValueError
        return int(value)

    return read


_FILTERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "patient": ("patient", _as_text, "words of at most 250 characters"),
    "patient_id": ("patient_id", _as_text, "at most 250 characters"),
    "study_iuid": ("study_iuid", _as_text, "at most 250 characters"),
    "modality": ("modality", _as_text, "one modality, such as CT"),
    "center": ("center", _as_text, "at most 250 characters"),
    "from": ("from_date", _as_date, "a date, YYYY-MM-DD"),
    "to": ("to_date", _as_date, "a date, YYYY-MM-DD"),
    "after": ("after", _as_number(math.inf), "what an answer said as next"),
    "limit": ("limit", _as_number(_LARGEST_PAGE), f"a number from 1 to {_LARGEST_PAGE}"),
}
assert {name for name, _, _ in _FILTERS.values()} == {field.name for field in fields(Filters)}


def _filters(wanted: Mapping[str, Any]) -> Filters:
    """Raises Rejected. A filter that isn't known is refused: who gave it would believe that it counts."""
    values: dict[str, Any] = {}
    for name, value in wanted.items():
        if name not in _FILTERS:
            raise Rejected(f"A filter isn't known; those that are: {', '.join(_FILTERS)}.")
        field, read, what = _FILTERS[name]
        if value in (None, ""):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Rejected(f"{name} must be {what}.")
        try:
            values[field] = read(str(value))
        except ValueError:
            raise Rejected(f"{name} must be {what}.") from None
    return Filters(**values)
