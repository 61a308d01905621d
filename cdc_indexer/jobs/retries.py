"""Parked studies that are to be sent once more: somebody asked for it, or they were parked on a wrong suspicion."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cdc_indexer.flow.case import Insist
from cdc_indexer.model.errors import StorageError
from cdc_indexer.state.parked_studies import ParkedStudies

if TYPE_CHECKING:
    from cdc_indexer.jobs.shared import Shared

__all__ = ["Retries"]

#: How many parked studies are sent again at a time.
_PAGE = 50


class Retries:
    """``look`` is called now and then by the main thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.studies = ParkedStudies(shared.settings.state_dir)
        #: What was rejected since then (seconds since 1970) is to be sent again, once that is durable.
        self._unpark_since: float | None = None
        #: How often that was asked for: the sender may do so again while it is being done.
        self._asked = 0
        self._lock = threading.Lock()

    def unpark(self, seconds: float) -> None:
        """What was rejected in the last so many seconds wasn't those studies' fault."""
        since = time.time() - seconds
        with self._lock:
            self._asked += 1
            self._unpark_since = min(since, self._unpark_since or since)

    @property
    def pending(self) -> bool:
        """Whether something is marked, or will be."""
        return self._unpark_since is not None or bool(self.studies.requested(limit=1))

    def look(self) -> None:
        """Hints at the studies that are marked."""
        shared = self._shared
        try:
            asked, since = self._asked, self._unpark_since
            if since is not None and not shared.core.parts.results.pending:
                self.studies.retry_rejected_since(since)
                with self._lock:
                    if asked == self._asked:
                        self._unpark_since = None
            marked = self.studies.requested(limit=_PAGE)
        except StorageError as error:
            shared.storage.trouble(error)
            return
        with shared.inside() as core:
            for entry in marked:
                # One that is on its way already is left to that.
                if core.backfills.room() and core.parts.cases.get(entry.study_key) is None:
                    core.backfills.hint(
                        entry.study_iuid,
                        entry.study_pk,
                        shared.now(),
                        gone=entry.operation == "delete",
                        insist=Insist.RETRY,
                        seed=entry.idempotency_key,
                    )
