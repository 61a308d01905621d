"""What centres may ask: to keep studies, to delete them, to compare, and to say how they are."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from central_index.access import Access
from central_index.comparing import TooManyRanges, read_ranges, shown
from central_index.document import Rejected, Study, parse
from central_index.keys import Role
from central_index.model import (
    LARGEST_VERSION,
    Change,
    Deleted,
    Outcome,
    Stored,
    StoreUnavailable,
    TooManyStudies,
    Verdict,
)
from central_index.reports import read_report
from central_index.store import Store
from central_index.web import OK, json_body, refusal

_STORED = JSONResponse(OK, 201)
_LARGEST_BATCH = 1_000
_MOST_LISTED = 10_000
_WRONG_VERSION = f"must be a whole number from 1 to {LARGEST_VERSION}."

log = structlog.get_logger()


class Writing:
    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    async def register(self, request: Request) -> Response:
        role = await self._access.writer(request)
        received_at = time.time()
        version = _version(request)
        document = await json_body(request)
        key = request.headers.get("idempotency-key")
        if isinstance(document, list):
            return await self._register_batch(role, document, key, received_at)
        study = _study(role, document)
        if isinstance(study, JSONResponse):
            return study
        (outcome,) = await self._write([Stored(key, received_at, study, version)])
        return _stale(outcome) or _STORED

    async def _register_batch(
        self, role: Role, documents: list[Any], batch_key: str | None, received_at: float
    ) -> Response:
        """A result for each, in their order: a wrong one doesn't keep the others out."""
        if len(documents) > _LARGEST_BATCH:
            return refusal(413, f"More than {_LARGEST_BATCH} studies at once.")
        results: list[dict[str, Any]] = []
        changes: list[Change] = []
        places: list[int] = []
        for number, document in enumerate(documents):
            own_key, version = _taken_out(document)
            study = _study(role, document)
            if version is not None and not _is_version(version):
                study = refusal(422, f"version {_WRONG_VERSION}")
            if isinstance(study, JSONResponse):
                results.append({**json.loads(bytes(study.body)), "status": study.status_code})
                continue
            key = own_key if isinstance(own_key, str) else batch_key and f"{batch_key}/{number}"
            changes.append(Stored(key, received_at, study, version))
            places.append(number)
            results.append({"status": 201})
        outcomes = await self._write(changes) if changes else []
        for place, outcome in zip(places, outcomes, strict=True):
            if outcome.verdict is Verdict.STALE:
                results[place] = {"status": 409, "reason": "Stale", "version": outcome.version}
        return JSONResponse({"status": "Ok", "results": results}, 207)

    async def try_key(self, request: Request) -> Response:
        """What a centre asks to see whether its key counts and whose it is, leaving nothing behind."""
        role = await self._access.writer(request)
        # A name that no header can hold isn't said.
        headers = {"Index-Center": role.name} if role.name.isascii() and role.name.isprintable() else {}
        return JSONResponse([], headers=headers)

    async def delete(self, request: Request) -> Response:
        role = await self._access.writer(request)
        version = _version(request)
        center = request.query_params.get("center", role.name)
        if center != role.name:
            return refusal(403, "This key is for another centre.")
        study_iuid = request.path_params["study_iuid"]
        if not 0 < len(study_iuid) <= 250 or "\0" in study_iuid:
            return refusal(404, "This centre has no such study.")
        key = request.headers.get("idempotency-key")
        (outcome,) = await self._write([Deleted(key, time.time(), center, study_iuid, version)])
        if outcome.verdict is Verdict.ABSENT:
            return refusal(404, "This centre has no such study.")
        return _stale(outcome) or JSONResponse(OK)

    async def _write(self, changes: Sequence[Change]) -> list[Outcome]:
        try:
            return await self._store.write(changes)
        except StoreUnavailable as error:
            # Not what it says: that may hold values.
            log.error(
                "The studies can't be written: look at the database.", error=type(error.__cause__).__name__
            )
            raise HTTPException(503, "The index can't write at present.", {"Retry-After": "5"}) from None

    async def digests(self, request: Request) -> Response:
        role = await self._access.writer(request)
        wanted = await json_body(request)
        try:
            ranges, listed = read_ranges(wanted)
            found = await self._store.digests(role.name, ranges, _MOST_LISTED if listed else None)
        except TooManyRanges as error:
            return refusal(413, str(error))
        except TooManyStudies:
            return refusal(413, f"More than {_MOST_LISTED} studies: ask for smaller ranges.")
        except Rejected as error:
            return refusal(422, str(error))
        return JSONResponse({"ranges": [shown(one) for one in found]})

    async def report(self, request: Request) -> Response:
        role = await self._access.writer(request)
        try:
            content = read_report(await json_body(request))
        except Rejected as error:
            return refusal(422, str(error))
        if content["center"] != role.name:
            return refusal(403, "This key is for another centre.")
        reported = await self._store.report(role.name, content, time.time())
        return JSONResponse({**OK, "previous": reported.previous, "highest": reported.highest})


class Register:
    """`Writing.register` for a server: to wrap a function Starlette takes as long as to read a study."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._writing.register(Request(scope, receive))
        await response(scope, receive, send)


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


def _version(request: Request) -> int | None:
    """Raises HTTPException."""
    text = request.headers.get("study-version")
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not _is_version(int(text)):
        raise HTTPException(400, f"Study-Version {_WRONG_VERSION}")
    return int(text)


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_VERSION


def _taken_out(document: Any) -> tuple[Any, Any]:
    """The members of a batch's element that aren't the study's: key and version."""
    if not isinstance(document, dict):
        return None, None
    return document.pop("idempotency_key", None), document.pop("version", None)


def _stale(outcome: Outcome) -> Response | None:
    if outcome.verdict is not Verdict.STALE:
        return None
    return JSONResponse({"status": "Stale", "version": outcome.version}, 409)
