"""A pause that somebody has asked for: studies wait, nothing is lost, and it ends by itself when its time is over."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.flow.observer import Condition
from cdc_indexer.model.moment import for_people
from cdc_indexer.state import requests
from cdc_indexer.state.requests import Inbox, PauseRequest, Refused

if TYPE_CHECKING:
    from cdc_indexer.jobs.shared import Shared

__all__ = ["Pausing", "as_sentence", "paused"]

log = structlog.get_logger("cdc_indexer")


def paused(state_dir: Path) -> PauseRequest | None:
    """The pause that is in force. One whose time is over is taken away; one that can't be read is refused and put aside."""
    try:
        request = Inbox(state_dir).read(PauseRequest)
    except Refused as error:
        log.error("a request is refused", reason=str(error))
        return None
    if request is not None and request.until is not None and request.until <= datetime.now(timezone.utc):
        requests.remove(state_dir, PauseRequest.file())
        return None
    return request


def as_sentence(request: PauseRequest) -> str:
    """Who paused, since when, and until when."""
    by, since = request.by, for_people(request.since, seconds=False) if request.since is not None else "?"
    if request.until is None:
        return f"Paused by {by} since {since}: studies wait; `cdc-indexer resume` goes on"
    until = for_people(request.until, seconds=False)
    return f"Paused by {by} since {since}, until {until}: studies wait; `cdc-indexer resume` goes on"


class Pausing:
    """``look`` is called every second by the main thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._request: PauseRequest | None = None

    def look(self) -> None:
        """Begins and ends the pause."""
        shared = self._shared
        request = paused(shared.settings.state_dir)
        if request == self._request:
            return
        self._request = request
        with shared.inside() as core:
            core.parts.order.paused = request is not None
        said = as_sentence(request) if request is not None else None
        shared.observer.condition(Condition.PAUSED, said)
        if said:
            log.warning("paused", reason=said)
        else:
            log.info("sending goes on after a pause")
            shared.wake()
