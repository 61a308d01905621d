"""Which rows wait on purpose: with `send: stable`, those of studies that aren't quiet or counted yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cdc_indexer.model.study import Operation
from cdc_indexer.source.outbox import Mark, Outbox

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Unquiet"]

#: As long is waited for images to be counted (flow/looks.py).
_UNCOUNTED = timedelta(days=1)


class Unquiet:
    """Asks the table, page by page. ``study_pks``: what was found to wait for quiet."""

    def __init__(self, settings: Settings, outbox: Outbox, now: datetime) -> None:
        self._settings = settings
        self._outbox = outbox
        self._now = now
        self.study_pks: set[int] = set()

    def first_late(self, unsettled: Sequence[Mark]) -> datetime | None:
        """When the first of these rows was recorded that doesn't wait for quiet; raises SourceError."""
        delivery = self._settings.delivery
        if delivery.send != "stable":
            return unsettled[0][0]
        rows = self._outbox.rows([row_id for _, row_id in unsettled])
        oldest: dict[int, datetime] = {}
        for row in rows:
            if row.operation in (Operation.STORED, Operation.CHANGED):
                oldest.setdefault(row.study_pk, row.recorded_at)
        pks = list(oldest)
        studies = self._outbox.studies(pks)
        recent = self._outbox.newest_rows(pks, self._now - timedelta(seconds=delivery.quiet_seconds))
        for study_pk, recorded_at in oldest.items():
            age = self._now - recorded_at
            uncounted = study_pk in studies and studies[study_pk].get("study_instances") == 0
            if age.total_seconds() < delivery.max_wait_seconds and (
                study_pk in recent or (uncounted and age < _UNCOUNTED)
            ):
                self.study_pks.add(study_pk)
        return next((row.recorded_at for row in rows if row.study_pk not in self.study_pks), None)
