"""What every request and answer has in common: bodies, refusals, headers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from central_index.model import StoreUnavailable

log = structlog.get_logger()

LARGEST_BODY_BYTES = 4 * 1024 * 1024
_BODY_SECONDS = 30.0
#: What this index can more than take studies, for the program that sends them; said with every answer.
FEATURES = "versions, digests, reports, batch=500"
#: With every answer.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Patients' names stay in no browser's cache.
    "Cache-Control": "no-store",
    "Index-Features": FEATURES,
}
OK = {"status": "Ok"}
#: An extension of ASGI: all of the request is there.
WHOLE = "central_index.whole"


class Refused(HTTPException):
    """``code``: which refusal it is, for programs, where a status has several."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(status, reason)
        self.code = code


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"status": "Error", "reason": reason}, status, headers)


async def on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        said = {"status": "Error", "code": error.code, "reason": error.detail}
        return JSONResponse(said, error.status_code)
    return refusal(error.status_code, error.detail, error.headers)


async def on_unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, StoreUnavailable)
    # Not what it says: that may hold values.
    log.error("The studies can't be read: look at the database.", error=type(error.__cause__).__name__)
    return refusal(503, "The index can't reach its studies at present.", {"Retry-After": "5"})


if sys.version_info >= (3, 11):

    async def _in_time(work: Coroutine[Any, Any, None], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await work

else:

    async def _in_time(work: Coroutine[Any, Any, None], seconds: float) -> None:
        # A task of its own for each, which takes a tenth of a request's time.
        await asyncio.wait_for(work, seconds)


async def json_body(request: Request, largest_bytes: int = LARGEST_BODY_BYTES) -> Any:
    """Raises HTTPException for one that is too large, too slow, or no JSON."""
    return _decoded(await _body(request, largest_bytes))


async def _body(request: Request, largest_bytes: int) -> bytearray:
    too_large = HTTPException(413, f"More than {largest_bytes} bytes.")
    # The parser has seen to it that this is a number.
    if int(request.headers.get("content-length", 0)) > largest_bytes:
        raise too_large
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            if len(body) + len(part) > largest_bytes:
                raise too_large
            body.extend(part)

    try:
        if WHOLE in request.scope.get("extensions", ()):
            # Nothing to wait for, and a timer costs as much as the rest.
            await read()
        else:
            await _in_time(read(), _BODY_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        raise HTTPException(408, f"The body took longer than {_BODY_SECONDS:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The body ended early.") from None
    return body


def _decoded(body: bytearray) -> Any:
    try:
        return _JSON.decode(body.decode())
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body isn't JSON in UTF-8.") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse_constant(_: str) -> None:
    raise ValueError


#: Two members of one name, or NaN, mean something else to everybody.
_JSON = json.JSONDecoder(object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
