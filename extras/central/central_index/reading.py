"""What people may ask: studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from central_index.access import Access
from central_index.document import Rejected
from central_index.filters import place_as_text, read_filters
from central_index.keys import Role
from central_index.store import Store
from central_index.web import json_body, refusal

log = structlog.get_logger()


class Reading:
    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    async def studies(self, request: Request) -> Response:
        """GET: the filters are in the address."""
        pairs = request.query_params.multi_items()
        if len(dict(pairs)) != len(pairs):
            return refusal(422, "A filter is given twice.")
        return await self._found(await self._access.reader(request), dict(pairs))

    async def search(self, request: Request) -> Response:
        """POST: the filters are a JSON object, so that no proxy on the way logs a patient's name."""
        role = await self._access.reader(request)
        if not request.headers.get("content-type", "").startswith("application/json"):
            return refusal(415, "The filters must be application/json.")
        wanted = await json_body(request)
        if not isinstance(wanted, dict):
            return refusal(422, "The filters must be a JSON object.")
        return await self._found(role, wanted)

    async def _found(self, role: Role, wanted: Mapping[str, Any]) -> Response:
        try:
            filters = read_filters(wanted)
        except Rejected as error:
            return refusal(422, str(error))
        found = await self._store.search(filters)
        total = await self._store.count()
        names = sorted(name for name in wanted if name not in ("after", "limit"))
        if names:
            # Who looked for what kind of thing, never for whom.
            log.info("search", reader=role.name, filters=names, found=len(found.studies))
        return JSONResponse(
            {
                "studies": found.studies,
                "next": place_as_text(found.following) if found.following is not None else None,
                "hits": found.hits,
                "more_hits": found.more_hits,
                "total": total,
            }
        )
