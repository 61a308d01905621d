"""Which rows wait on purpose: with `send: stable`, those of studies that aren't quiet yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cdc_indexer.flow.quiet import Quiet
from cdc_indexer.flow.versions import Waiting
from cdc_indexer.model.study import Operation
from cdc_indexer.source.outbox import Mark, Outbox

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Unquiet"]


class Unquiet:
    """Asks the table, page by page. ``study_pks``: what was found to wait for quiet."""

    def __init__(self, settings: Settings, outbox: Outbox, now: datetime) -> None:
        self._settings = settings
        self._outbox = outbox
        self._now = now
        self.study_pks: set[int] = set()

    def first_late(self, unsettled: Sequence[Mark]) -> datetime | None:
        """When the first of these rows was recorded that doesn't wait for quiet; raises SourceError."""
        if self._settings.delivery.send != "stable":
            return unsettled[0][0]
        rows = self._outbox.rows([row_id for _, row_id in unsettled])
        waiting: dict[int, Waiting] = {}
        for row in rows:
            if row.operation in (Operation.STORED, Operation.CHANGED):
                one = waiting.setdefault(row.study_pk, Waiting(row.study_iuid, row.study_pk, rows=[]))
                one.rows = [*one.rows, (row.id, row.recorded_at)][:1]  # the oldest tells
        pks = list(waiting)
        values = self._outbox.studies(pks)
        delivery = self._settings.delivery
        looked = Quiet.look(self._outbox, pks, delivery.quiet_seconds, delivery.max_wait_seconds)
        found = {
            pk for pk, one in waiting.items() if looked.seconds_left(one, values.get(pk), crowded=False) > 0
        }
        self.study_pks |= found
        return next((row.recorded_at for row in rows if row.study_pk not in found), None)
