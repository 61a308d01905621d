"""The thread that reads studies from the view, in their turn, and pages of changed patients."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.flow.readings import Found
from cdc_indexer.model.errors import FatalError, SourceChanged, SourceError, Stopped, StorageError
from cdc_indexer.model.moment import moment
from cdc_indexer.source.outbox import Outbox

if TYPE_CHECKING:
    from cdc_indexer.flow.patients import PatientPage
    from cdc_indexer.flow.readings import Reading
    from cdc_indexer.jobs.shared import Shared

log = structlog.get_logger("cdc_indexer")

#: How long it sleeps when nothing is due, and between tries when the database is away.
_PAUSE_SECONDS = 5.0

#: And how long after a look at the view, for more studies to become due.
_GATHER_SECONDS = 0.05

#: So many of a patient's studies are read at a time.
_PATIENT_PAGE = 200


class Verifier:
    """See the module."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._outbox = Outbox(shared.source)
        self._thread = threading.Thread(target=self._work, name="verifier", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def join(self) -> None:
        """Waits for its end; the engine's ``stopping`` is set."""
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        shared = self._shared
        failing = False
        try:
            while not shared.stopping.is_set():
                try:
                    if not (self._read() | self._read_patient()):
                        self._wait()
                    elif not self._more():
                        # Under load one becomes due every millisecond: the view is read for some together.
                        shared.stopping.wait(_GATHER_SECONDS)
                    if failing:
                        failing = False
                        shared.observer.verification(None)
                except SourceChanged:
                    shared.stopping.wait(_GATHER_SECONDS)
                except SourceError as error:
                    failing = True
                    log.warning("studies wait to be read from the view", reason=str(error))
                    shared.observer.verification(str(error))
                    shared.stopping.wait(_PAUSE_SECONDS)
                except StorageError as error:
                    shared.storage.trouble(error)
                    shared.stopping.wait(_PAUSE_SECONDS)
        except Stopped:
            pass
        except FatalError as error:
            shared.fail(error)

    def _wait(self) -> None:
        """Until something may be due."""
        shared = self._shared
        with shared.inside() as core:
            seconds = min(core.reading_seconds(shared.now()), _PAUSE_SECONDS)
            if not shared.stopping.is_set():
                # Due, but there is no room: a moment.
                shared.due.wait(max(seconds, _GATHER_SECONDS))

    def _more(self) -> bool:
        shared = self._shared
        with shared.inside() as core:
            return core.parts.early or core.reading_seconds(shared.now()) <= 0

    # --- studies -----------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """One reading; whether there was one."""
        shared = self._shared
        with shared.inside() as core:
            core.parts.enter(shared.source.epoch)
            reading = core.looks.begin(shared.now())
            wants_bound = reading is None and core.parts.results.pending
            generation = core.parts.results.generation
        if reading is None:
            if wants_bound:
                shared.writer.wait(generation)
            return False
        try:
            found = self._find(reading)
            with shared.inside() as core:
                core.looks.end(reading, found, shared.now())
                generation = core.parts.results.generation
        finally:
            with shared.inside() as core:
                core.looks.give_back(reading, shared.now())
        shared.writer.request(generation)
        shared.wake()
        return True

    def _find(self, reading: Reading) -> Found:
        outbox = self._outbox.at(reading.epoch)
        # In this order: a row that is visible before the studies are read is visible in what is read of them.
        unseen = outbox.unseen(reading.row_ids)
        studies = outbox.studies(reading.study_pks)
        by_uid = {}
        if uids := reading.study_iuids:
            by_uid = {str(study["study_iuid"]): study for study in outbox.view_of(uids)}
        newest = {}
        policy = self._shared.core.parts.policy
        if policy.stable:
            since = moment(self._shared.now().clock) - timedelta(seconds=policy.settle_seconds)
            newest = outbox.newest_rows(reading.study_pks, since)
        entries = self._shared.store.lookup(reading.keys)
        return Found(reading.epoch, studies, by_uid, unseen, newest, entries)

    # --- changed patients --------------------------------------------------------------------------------

    def _read_patient(self) -> bool:
        """One page of a changed patient's studies; whether there was one."""
        shared = self._shared
        with shared.inside() as core:
            page = core.backfills.begin_page(shared.now())
        if page is None:
            return False
        try:
            self._read_page(page)
        finally:
            with shared.inside() as core:
                core.backfills.give_back_page(page, shared.now())
        return True

    def _read_page(self, page: PatientPage) -> None:
        shared = self._shared
        outbox = self._outbox.at(page.epoch)
        if outbox.unseen(page.row_ids):
            return
        studies = outbox.studies_of_patient(page.patient_pk, page.after_pk, _PATIENT_PAGE)
        with shared.inside() as core:
            core.backfills.end_page(page, studies, shared.now(), limit=_PATIENT_PAGE, epoch=page.epoch)
