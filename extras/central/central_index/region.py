"""What an operator of the region asks: how each centre stands, and whether the index does."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from central_index.access import Access
from central_index.keys import Keys
from central_index.metrics import CONTENT_TYPE, Metrics
from central_index.overview import Center, overview, periods
from central_index.store import Store
from central_index.web import OK

#: Those that archives hold most; any other may be looked for, too.
_MODALITIES = (
    *(
        "CR",
        "CT",
        "DX",
        "ECG",
        "ES",
        "IO",
        "IVUS",
        "MG",
        "MR",
        "NM",
        "OCT",
        "OP",
        "OT",
        "PR",
        "PT",
        "PX",
        "RF",
        "RTDOSE",
    ),
    *("RTPLAN", "RTSTRUCT", "SC", "SM", "SR", "US", "XA", "XC"),
)


class Region:
    def __init__(self, store: Store, access: Access, keys: Keys, metrics: Metrics) -> None:
        self._store = store
        self._access = access
        self._keys = keys
        self._metrics = metrics

    async def centers(self, request: Request) -> Response:
        role = await self._access.reader(request)
        found = [one.as_json() for one in await self._overview() if role.sees(one.center)]
        return JSONResponse({"centers": found})

    async def choices(self, request: Request) -> Response:
        """For the page's lists: what a reader can choose."""
        role = await self._access.reader(request)
        names = {*self._keys.centers(), *(await self._store.counts() or {})}
        return JSONResponse(
            {"centers": sorted(name for name in names if role.sees(name)), "modalities": _MODALITIES}
        )

    async def metrics(self, _: Request) -> Response:
        """For Prometheus, which has no key: names of centres, versions of programs and numbers."""
        text = self._metrics.text(await self._overview(), self._keys.usable())
        return Response(text, media_type=CONTENT_TYPE)

    async def health(self, _: Request) -> Response:
        """Whether studies can be read and written now; 503 otherwise."""
        await self._store.check()
        return JSONResponse(OK)

    async def _overview(self) -> list[Center]:
        now = time.time()
        known = self._keys.centers()
        reports = await self._store.reports()
        counts = await self._store.counts() or {}
        names = sorted({*known, *counts, *(report.center for report in reports)})
        return overview(
            known,
            reports,
            counts,
            await self._store.arrivals(periods(now)),
            await self._store.newest(names),
            now,
        )
