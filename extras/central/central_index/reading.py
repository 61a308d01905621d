"""What people may ask: studies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from central_index.access import Access
from central_index.disclosure import Disclosure
from central_index.document import Rejected
from central_index.export import as_csv, cut_short, heading
from central_index.filters import place_as_text, read_filters
from central_index.keys import Keys, Role
from central_index.model import Filters, Found, StoreUnavailable
from central_index.persons import IdRule, hidden, names_differ
from central_index.store import Store
from central_index.web import Refused, json_body, refusal
from central_index.words import id_key

#: A spreadsheet takes hardly more.
_MOST_EXPORTED = 1_000_000
_LARGE_PAGE = 500
#: Of one person, for names that differ.
_MOST_LOOKED_AT = 2_000

log = structlog.get_logger()


class Reading:
    def __init__(
        self, store: Store, access: Access, keys: Keys, id_rule: IdRule | None, disclosure: Disclosure
    ) -> None:
        self._store = store
        self._access = access
        self._keys = keys
        self._id_rule = id_rule
        self._disclosure = disclosure

    async def studies(self, request: Request) -> Response:
        """GET: the filters are in the address."""
        pairs = request.query_params.multi_items()
        if len(dict(pairs)) != len(pairs):
            return refusal(422, "A filter is given twice.")
        return await self._found(request, await self._access.reader(request), dict(pairs))

    async def search(self, request: Request) -> Response:
        """POST: the filters are a JSON object, so that no proxy on the way logs a patient's name."""
        role = await self._access.reader(request)
        wanted = await self._wanted(request)
        return wanted if isinstance(wanted, Response) else await self._found(request, role, wanted)

    async def export(self, request: Request) -> Response:
        """The same as CSV, for who may."""
        role = await self._access.reader(request)
        if not role.exports:
            raise Refused(403, "no_csv", "This reader may not take a search as CSV.")
        wanted = await self._wanted(request)
        if isinstance(wanted, Response):
            return wanted
        try:
            filters = replace(self._allowed(role, read_filters(wanted)), after=None, limit=_LARGE_PAGE)
        except Rejected as error:
            return refusal(422, str(error))
        pages = self._pages(request, role, wanted, filters)
        # What fails at once is said by a status.
        first = await anext(pages)
        return _Stream(_all(first, pages), media_type="text/csv")

    async def _pages(
        self, request: Request, role: Role, wanted: Mapping[str, Any], filters: Filters
    ) -> AsyncIterator[str]:
        """Each is recorded before it leaves; nothing in the database waits for who reads them."""
        number = 0
        while True:
            found = await self._store.search(filters)
            await self._disclosure.shown(request, role, {**wanted, "csv": True}, found.studies)
            studies = [self._shown(role, study) for study in found.studies]
            yield (heading() if not number else "") + as_csv(studies)
            number += len(studies)
            if found.following is None:
                break
            if number >= _MOST_EXPORTED:
                yield cut_short(number)
                log.warning("A search as CSV was cut short: it has too many studies.", studies=number)
                break
            if await request.is_disconnected():
                return
            filters = replace(filters, after=found.following)
        log.info("export", reader=role.name, studies=number)

    async def _wanted(self, request: Request) -> dict[str, Any] | Response:
        if not request.headers.get("content-type", "").startswith("application/json"):
            return refusal(415, "The filters must be application/json.")
        wanted = await json_body(request)
        if not isinstance(wanted, dict):
            return refusal(422, "The filters must be a JSON object.")
        return wanted

    async def _found(self, request: Request, role: Role, wanted: Mapping[str, Any]) -> Response:
        try:
            filters = self._allowed(role, read_filters(wanted))
        except Rejected as error:
            return refusal(422, str(error))
        found = await self._store.search(filters)
        await self._disclosure.shown(request, role, wanted, found.studies)
        person = await self._person(role, filters, found)
        counts = await self._store.counts()
        names = sorted(name for name in wanted if name not in ("after", "limit"))
        if names:
            # Who looked for what kind of thing, never for whom.
            log.info("search", reader=role.name, filters=names, found=len(found.studies))
        return JSONResponse(
            {
                "studies": [self._shown(role, study) for study in found.studies],
                "next": place_as_text(found.following) if found.following is not None else None,
                "hits": found.hits,
                "more_hits": found.more_hits,
                "total": sum(count for center, count in counts.items() if role.sees(center))
                if counts is not None
                else None,
                **person,
            }
        )

    def _allowed(self, role: Role, filters: Filters) -> Filters:
        """What this reader may look for. Raises Rejected, Refused."""
        if role.initials and (filters.patient or filters.patient_id or filters.accession_number):
            raise Refused(403, "no_person", "This reader sees no names, and can't look for a person.")
        if filters.center is not None and not role.sees(filters.center):
            raise Refused(403, "other_center", "This reader doesn't see that centre.")
        if filters.patient_id is not None and self._is_valid(filters.patient_id):
            # However each centre writes it. Without the leading zeros of its own, any other id may be somebody else's.
            filters = replace(filters, patient_id=None, patient_key=id_key(filters.patient_id))
        if role.centers is None:
            return filters
        only = tuple(sorted(role.centers))
        # One centre alone is found by its own index.
        return replace(filters, only=only, center=only[0] if len(only) == 1 else filters.center)

    def _shown(self, role: Role, study: dict[str, Any]) -> dict[str, Any]:
        shown = {
            **study,
            "viewer": self._keys.viewer(study["center"], study["study_iuid"]),
            "valid_id": self._is_valid(study["patient_id"]),
        }
        return hidden(shown, role.secret) if role.initials else shown

    def _is_valid(self, patient_id: str | None) -> bool:
        """Whether it names one person, in all centres. Without a rule nobody knows."""
        return self._id_rule is not None and self._id_rule.is_valid(patient_id or "")

    async def _person(self, role: Role, filters: Filters, found: Found) -> dict[str, Any]:
        """Of one id: whether it is a person's, in all centres, and whether the names say so, too."""
        if not (filters.patient_id or filters.patient_key):
            return {"patient_is_id": True} if self._is_valid((filters.patient or "").strip()) else {}
        studies = found.studies
        if filters.patient_key is not None:
            # All of this id, whichever page of them is asked for. Of those that aren't shown the reader learns nothing but
            # whether a name differs, and only where the reader may see them; that this id was looked for is recorded.
            everything = replace(
                self._allowed(role, Filters(limit=_LARGE_PAGE)), patient_key=filters.patient_key
            )
            if found.following is not None or replace(filters, limit=_LARGE_PAGE) != everything:
                studies = await self._all_of(everything)
        return {
            "one_person": filters.patient_key is not None,
            "names_differ": names_differ(study["patient_name"] for study in studies),
        }

    async def _all_of(self, filters: Filters) -> list[dict[str, Any]]:
        """Up to a bound."""
        studies: list[dict[str, Any]] = []
        while len(studies) < _MOST_LOOKED_AT:
            found = await self._store.search(filters)
            studies += found.studies
            if found.following is None:
                break
            filters = replace(filters, after=found.following)
        return studies


class _Stream(StreamingResponse):
    """One that fails in the middle ends without its end, so that nobody takes a part for the whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not cancelled when the client goes: that costs a connection to the database.
        await self.stream_response(send)

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except StoreUnavailable as error:
            # Not what it says: that may hold values.
            log.error(
                "A search as CSV was cut short: look at the database.", error=type(error.__cause__).__name__
            )


async def _all(first: str, more: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for part in more:
        yield part
