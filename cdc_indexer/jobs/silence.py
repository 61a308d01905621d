"""Whether new studies still come: nobody hears a modality that can't reach the archive, or a table that isn't written.

Off unless ``monitor.quiet_hours`` is set: at a weekend some hospitals store nothing for days.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.flow.observer import Condition
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.source.outbox import Outbox

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["Silence"]

log = structlog.get_logger("cdc_indexer")

_EVERY_SECONDS = 60.0

_SAID = (
    "The archive has stored no new study for {hours}, and monitor.quiet_hours says that this is too long: see whether the "
    "modalities reach it, and whether its triggers are there (`cdc-indexer check --admin root`)"
)


class Silence:
    """``look`` is called often, from one thread; it asks now and then."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outbox = Outbox(engine.source)
        self._every_seconds = failpoints.seconds("silence", _EVERY_SECONDS)
        self._next_at = 0.0
        #: By the database's clock; where the table holds no study yet, the silence begins with us.
        self._began: datetime | None = None
        self._said = False

    def look(self) -> None:
        """Says when no new study came for so long, and when one comes again."""
        hours = self._engine.settings.monitor.quiet_hours
        if hours is None:
            if self._said:
                self._tell(None)
            return
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._every_seconds
        try:
            now = self._outbox.now()
            self._began = self._began or now
            newest = self._outbox.newest_stored()
        except IndexerError:
            return  # the stream meets the same and says so
        quiet = now - (newest or self._began)
        if quiet >= timedelta(hours=hours):
            self._tell(_SAID.format(hours=_hours(quiet)))
        elif self._said:
            self._tell(None)

    def _tell(self, said: str | None) -> None:
        if said is not None and not self._said:
            log.warning("no new study", reason=said)
        elif said is None:
            log.info("new studies come again")
        self._said = said is not None
        self._engine.observer.condition(Condition.QUIET, said)


def _hours(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
