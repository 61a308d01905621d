"""Whether view and triggers are those that the archive needs: its newest studies, through the view, against the outbox.

Triggers that were dropped, by hand or because a tool has swapped the table, are seen by nothing else: the log is quiet, the
outbox is quiet, and studies are lost until a sweep finds them. As quiet is an archive that was upgraded under its view.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.flow.observer import Condition
from cdc_indexer.jobs.recall import FIRST_PK
from cdc_indexer.jobs.unrecorded import Unrecorded
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import IndexerError
from cdc_indexer.model.program import SQL
from cdc_indexer.model.study import names
from cdc_indexer.source.outbox import Outbox, came_since

if TYPE_CHECKING:
    from cdc_indexer.jobs.engine import Engine

__all__ = ["TriggersWatch"]

log = structlog.get_logger("cdc_indexer")

#: It looks this often, at so many of the newest studies.
_EVERY_SECONDS = 180.0
_NEWEST = 50

_AGAIN = f"Run {SQL} again, then `cdc-indexer reconcile`"
_SAID = (
    "{count} of the archive's newest studies aren't in study_service: its triggers don't record (they were dropped, or "
    "the table was swapped); these studies are sent all the same. " + _AGAIN
)
_CHANGED = (
    "Studies change in the archive, and its triggers don't record all of that (some were dropped, or a table was swapped): "
    "such changes are sent all the same, later. " + _AGAIN
)
#: Only dcm4chee-arc 5 has versions that differ in this.
_UPGRADED = (
    "The archive was upgraded: run the SQL again (`cdc-indexer sql --arc5 | mysql {name}`), "
    "then `cdc-indexer initial`"
)


class TriggersWatch:
    """``look`` is called often, from one thread; it looks now and then.

    ``sweep`` asks for a pass over the whole archive: what else wasn't recorded, only that finds.
    """

    def __init__(self, engine: Engine, sweep: Callable[[str], None]) -> None:
        self._engine = engine
        self._sweep = sweep
        self._outbox = Outbox(engine.source)
        self._every_seconds = failpoints.seconds("triggers", _EVERY_SECONDS)
        self._next_at = 0.0
        self._said: str | None = None
        self._version_said = False
        #: Missing in the last look; a study counts when it is missing twice.
        self._missing: set[int] = set()
        self._unrecorded = Unrecorded(engine, self._outbox)
        #: When a change was last found that nobody recorded; over once one was recorded since.
        self._changed_at: datetime | None = None

    def look(self) -> None:
        """Says when they don't record, and when they do again; what they missed is looked at."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._every_seconds
        first_pk = self._engine.meta.get(FIRST_PK)
        try:
            at = self._outbox.now()
            # One after the other: a row is there as soon as its study is.
            newest = self._outbox.newest_studies(_NEWEST)
            self._tell_version(came_since(newest[0]) if newest else None)
            if not isinstance(first_pk, int):
                return
            newest = [study for study in newest if names(study)[1] > first_pk]
            recorded = self._outbox.recorded([names(study)[1] for study in newest])
            changed = self._unrecorded.find([one for one in newest if names(one)[1] in recorded], at)
            again = self._changed_at is not None and not changed and self._unrecorded.again(self._changed_at)
        except IndexerError:
            return  # the stream and the disk meet the same and say so
        missing = {names(study)[1]: names(study)[0] for study in newest if names(study)[1] not in recorded}
        twice = {study_pk: uid for study_pk, uid in missing.items() if study_pk in self._missing}
        self._missing = set(missing)
        with self._engine.inside() as core:
            for study_pk, uid in (twice | changed).items():
                core.backfills.hint(uid, study_pk, self._engine.now())
        if changed:
            self._changed_at = at
        elif again:
            self._changed_at = None
        # The newest of all tells how it is now.
        newest_pk = names(newest[0])[1] if newest else 0
        if newest_pk in twice:
            self._tell(self._named(_SAID, count=len(twice)))
        elif self._said and newest_pk not in recorded:
            return
        elif changed:
            self._tell(self._named(_CHANGED))
        elif self._said and self._changed_at is None:
            self._tell(None)

    def _named(self, said: str, **values: object) -> str:
        return said.format(name=self._engine.settings.database.name, **values)

    def _tell_version(self, came: str | None) -> None:
        said = f"{came} {self._named(_UPGRADED)}" if came else None
        if said is not None and not self._version_said:
            log.error("the archive was upgraded", reason=said)
        elif said is None and self._version_said:
            log.info("view and triggers are made for this version of the archive")
        self._version_said = said is not None
        self._engine.observer.condition(Condition.OTHER_VERSION, said)

    def _tell(self, said: str | None) -> None:
        before, self._said = self._said, said
        if said is not None and before is None:
            log.error("the triggers don't record", reason=said)
        elif said is None:
            log.info("the triggers record again")
        # Once for a while of lost studies, and at its end. Changes may be lost and recorded in turns, where one trigger is
        # missing: the daily pass is enough for what the looks don't find.
        changed = self._named(_CHANGED)
        loses, lost = said not in (None, changed), before not in (None, changed)
        if loses != lost:
            self._sweep("the triggers don't record" if loses else "the triggers didn't record for a while")
        self._engine.observer.condition(Condition.NOT_RECORDED, said)
