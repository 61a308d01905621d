"""Nothing is shown that isn't recorded: the record is durable before the answer leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from starlette.requests import Request

from central_index.audit import Audit, Record, months_before, now
from central_index.keys import Role
from central_index.model import StoreUnavailable
from central_index.whose import ids_in

#: An open page asks for the same again and again: what was recorded so lately isn't recorded again.
_AGAIN_SECONDS = 600.0
#: Questions, and studies of all of them: who goes through the whole index by pages must not fill the memory.
_MOST_REMEMBERED = 1_000
_MOST_STUDIES = 50_000
_SEAL_SECONDS = 60.0
_SOON_SECONDS = 2.0
_FORGET_SECONDS = 3600.0

log = structlog.get_logger()


class Disclosure:
    """``months``: so many whole months of the record are kept; None: all of it."""

    def __init__(self, audit: Audit, months: int | None) -> None:
        self._audit = audit
        self._months = months
        #: By reader, address and question: when it was recorded, and which studies.
        self._lately: dict[str, tuple[float, set[tuple[str, str, int]]]] = {}
        self._studies = 0
        self._task: asyncio.Task[None] | None = None
        self._added = asyncio.Event()

    async def open(self) -> None:
        """Raises UnusableAuditKey."""
        await self._audit.open(make=True)
        self._task = asyncio.create_task(self._seal())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(StoreUnavailable):
            await self._audit.seal()

    async def shown(
        self, request: Request, role: Role, filters: Mapping[str, Any], studies: Sequence[Mapping[str, Any]]
    ) -> None:
        """Raises StoreUnavailable: then there must be no answer."""
        address = request.client.host if request.client else ""
        asked = {
            name: value for name, value in filters.items() if value not in (None, "") and name != "after"
        }
        question = json.dumps([role.name, address, asked], sort_keys=True, default=str)
        began, known = self._lately.get(question, (-_AGAIN_SECONDS, set()))
        again = time.monotonic() - began < _AGAIN_SECONDS
        if not again:
            began, known = time.monotonic(), set()
        new = [one for one in studies if _which(one) not in known]
        # The first time even if nothing was found: who looked is a question, too.
        if again and not new:
            return
        content: dict[str, Any] = {
            "filters": {name: value for name, value in asked.items() if name != "limit"},
            "studies": [[one["center"], one["study_iuid"], one["patient_id"]] for one in new],
        }
        # Who typed an id where words are asked for looked for that person, found or not.
        if ids := ids_in(str(asked.get("patient", ""))):
            content["ids"] = ids
        await self._audit.add(Record(now(), role.name, address, "search", content))
        self._added.set()
        self._remember(question, began, {_which(one) for one in new})

    def _remember(self, question: str, began: float, new: set[tuple[str, str, int]]) -> None:
        """What is forgotten for want of room is recorded once more."""
        before, known = self._lately.pop(question, (began, set()))
        self._studies -= len(known)
        if before != began or len(known) > _MOST_STUDIES // 2:
            known = set()
        known |= new
        while self._lately and (
            len(self._lately) >= _MOST_REMEMBERED or self._studies + len(known) > _MOST_STUDIES
        ):
            _, forgotten = self._lately.pop(next(iter(self._lately)))
            self._studies -= len(forgotten)
        self._lately[question] = began, known
        self._studies += len(known)

    async def _seal(self) -> None:
        """Soon after a record was added; now and then without, since another process may have ended before."""
        forgot = -_FORGET_SECONDS
        while True:
            self._added.clear()
            try:
                while await self._audit.seal():
                    pass
                if self._months is not None and time.monotonic() - forgot >= _FORGET_SECONDS:
                    before = months_before(self._months, datetime.now())
                    if dropped := await self._audit.forget(before, "central-index", "--audit-months"):
                        log.info("Old records of who was shown what were dropped.", records=dropped)
                        # That is a record itself.
                        self._added.set()
                    forgot = time.monotonic()
            except StoreUnavailable:
                # Another process seals the same ones, perhaps.
                self._added.set()
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._added.wait(), _SEAL_SECONDS)
            await asyncio.sleep(random.uniform(0.5, 1) * _SOON_SECONDS)


def _which(study: Mapping[str, Any]) -> tuple[str, str, int]:
    # Another version may show another name.
    return study["center"], study["study_iuid"], study["versions"]
