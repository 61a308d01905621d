"""The part of the house that `run` and `initial` share: progress, checkpoint, versions, dispatcher, verifier.

Whoever owns an Engine brings rows to its ``pipeline``; the engine sends them, verifies later versions, makes results
durable, and says when nothing is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.delivery.dispatcher import Delivery, Dispatcher
from cdc_indexer.delivery.webservice import Webservice
from cdc_indexer.flow.gate import Gate
from cdc_indexer.flow.pipeline import VERIFY_BATCH, Pipeline, Policy
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.versions import Versions, Waiting
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.model.errors import ConfigError, FatalError, SourceError, Stopped, StorageError
from cdc_indexer.model.observer import Observer
from cdc_indexer.model.outcome import Outcome
from cdc_indexer.model.settled import IntervalSet
from cdc_indexer.source.connection import impatient
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.state.checkpoint import Checkpoint, CheckpointFile, CheckpointWriter
from cdc_indexer.state.parked import Parked

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

log = structlog.get_logger("cdc_indexer")

#: How long the verifier sleeps when nothing is due, and between tries when the database is away.
_VERIFIER_PAUSE_SECONDS = 5.0

#: And how long after a look at the view, for more studies to become due.
_GATHER_SECONDS = 0.05

#: With so many studies whose rows the view doesn't show yet no more are looked at.
_MAX_RETRYING = 10 * VERIFY_BATCH

#: How long the central index may be away before a job that somebody waits for fails.
PATIENCE_SECONDS = 10.0

#: How long the end may take to find out which of the waiting studies are as they were sent.
_LAST_LOOK_SECONDS = 3.0

#: How many parked studies are sent again at a time.
_RETRY_PAGE = 50

#: How many unverified rows are read back at a time after a restart.
_RESTORE_PAGE = 500


class Engine:
    """See the module. ``start`` and ``stop`` once each.

    ``reload`` reads the settings again. ``patience_seconds``: a job that somebody waits for fails when the central index
    is away for so long, and at once when it refuses us; None waits for ever. ``new_center``: everything is going to be
    sent again, so the centre may be another one than before. ``observer`` is told what happens.

    Raises CheckpointError, and FatalError when the centre has changed.
    """

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        *,
        reload: Callable[[], Settings | None],
        patience_seconds: float | None = None,
        new_center: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.settings = settings
        self.observer = observer or Observer()
        self._runner = runner
        self._reload = reload
        self._patience_seconds = patience_seconds
        self._impatience: threading.Timer | None = None
        self.stopping = self._stopping = runner.stopping
        self.file = CheckpointFile(settings.state_dir)
        checkpoint, warning = self.file.load()
        if warning:
            log.warning("checkpoint fell back", reason=warning)
            self.observer.fell_back(warning)
        if checkpoint is None:
            checkpoint = Checkpoint(identity=None, center=settings.center)
        elif checkpoint.center != settings.center and new_center:
            checkpoint.center = settings.center
            checkpoint.sent_pks = IntervalSet()
        elif checkpoint.center != settings.center:
            raise FatalError(
                f"server.json says centre {settings.center!r}, but the studies sent so far went out as "
                f"{checkpoint.center!r}: put {checkpoint.center!r} back, or send everything under "
                "the new one with `initial --restart`."
            )
        self.progress = Progress(checkpoint)
        self.writer = CheckpointWriter(self.file, self.progress.render, self.storage_trouble)
        self.writer.written_at = checkpoint.time.timestamp() if checkpoint.time is not None else None
        self.parked_store = Parked(settings.state_dir)
        self.versions = Versions(settings.delivery.settle_seconds)
        self.dispatcher = Dispatcher(
            self._make_webservice,
            durable=self.writer,
            concurrency=settings.delivery.concurrency,
            give_up_seconds=settings.delivery.give_up_seconds,
            batch_size=settings.delivery.batch_size,
            on_gate=self._gate_changed,
            before_probe=self.reload,
            on_answer=self.observer.answered,
        )
        #: Whether the state directory can't be written now: everything waits for that.
        self.storage_failing = False
        self.delivered_count = 0
        self.parked_count = 0
        self.pipeline = Pipeline(
            policy_of(settings),
            self.progress,
            self.versions,
            self.dispatcher,
            self.parked_store,
            self,
        )
        self._outbox = Outbox(settings.database)
        self._verifier = threading.Thread(target=self._verify_all, name="verifier", daemon=True)
        #: Due already, but the view couldn't be read, or doesn't show their rows yet.
        self._retrying: list[Waiting] = []

    # --- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the threads."""
        self.writer.start()
        self.dispatcher.start()
        self._verifier.start()

    def stop(self) -> None:
        """Lets what is in flight finish, writes the checkpoint, ends the threads."""
        if self._impatience is not None:
            self._impatience.cancel()
        self.writer.give_up()
        self.pipeline.stop()
        self.dispatcher.stop()
        if self._verifier.ident is not None:
            with impatient():
                self._verifier.join()
                with suppress(SourceError, FatalError):
                    self.pipeline.settle_unchanged(self._outbox, _LAST_LOOK_SECONDS)
        self._outbox.close()
        if self.progress.identity is not None:
            self.writer.request(self.progress.generation)
        if not self.writer.close():
            log.error("the last results couldn't be written; they will be sent once more")
        self.parked_store.close()

    @property
    def idle(self) -> bool:
        """Whether every row taken is settled and every first version verified."""
        return self.pipeline.idle

    @property
    def waits_for_others(self) -> bool:
        """Whether what doesn't move waits for the index, for quiet or for the disk: starting again wouldn't help."""
        return self.pipeline.full or self.storage_failing or self.dispatcher.gate is not Gate.OPEN

    def restore_unverified(self) -> None:
        """Lets the first versions that were sent before a restart be verified now; raises SourceError."""
        for first_id, last_id in self.progress.unverified():
            next_id = first_id
            while next_id <= last_id:
                rows = self._outbox.rows_between(next_id, last_id, _RESTORE_PAGE)
                self.pipeline.restore_unverified(rows)
                found = {row.id for row in rows}
                end = rows[-1].id if len(rows) == _RESTORE_PAGE else last_id
                if len(found) < end - next_id + 1:
                    # Pruned since; the study's later rows, if any, speak for it.
                    self.progress.verified(
                        row_id for row_id in range(next_id, end + 1) if row_id not in found
                    )
                next_id = end + 1
        self._outbox.close()

    def retry_parked(self) -> None:
        """Sends the parked studies that somebody has marked for it; called again and again by the main thread's tick."""
        try:
            marked = self.parked_store.requested(limit=_RETRY_PAGE)
        except StorageError as error:
            self.storage_trouble(error)
            return
        for entry in marked:
            # One that is on its way already isn't taken twice: its study is busy.
            if self.dispatcher.pending < _RETRY_PAGE:
                self.pipeline.retry_parked(entry)

    # --- settings ----------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Reads the files again; an invalid one keeps the old settings."""
        try:
            settings = self._reload()
        except ConfigError as error:
            log.error("the old settings stay in force", reason=str(error))
            return
        if settings is None or settings == self.settings:
            return
        if settings.center != self.settings.center or settings.state_dir != self.settings.state_dir:
            log.error("center and state_dir can't change while running: restart the service")
            settings = settings.model_copy(
                update={"center": self.settings.center, "state_dir": self.settings.state_dir}
            )
        self.settings = settings
        self.pipeline.policy = policy_of(settings)
        self.dispatcher.reconfigure(
            self._make_webservice,
            concurrency=settings.delivery.concurrency,
            give_up_seconds=settings.delivery.give_up_seconds,
            batch_size=settings.delivery.batch_size,
        )
        self.observer.reconfigured(settings)
        log.info("settings read again")

    def _make_webservice(self) -> Webservice:
        return Webservice(self.settings)

    # --- verification ------------------------------------------------------------------------------------

    def _verify_all(self) -> None:
        outbox = Outbox(self.settings.database)
        failing = False
        try:
            while not self._stopping.is_set():
                due = self._retrying
                if len(due) < _MAX_RETRYING:
                    due = [*due, *self.pipeline.due()]
                try:
                    if due:
                        self._retrying = due
                        self._retrying = self.pipeline.verify(due, outbox)
                    more = len(due) - len(self._retrying) >= VERIFY_BATCH
                    if self.pipeline.patients_waiting and not self.versions.full:
                        more = self.pipeline.expand_patient(outbox) or more
                    elif not due:
                        self.versions.wait(_VERIFIER_PAUSE_SECONDS)
                        continue
                    if not more:
                        # Under load one becomes due every millisecond: the view is read for some together.
                        self._stopping.wait(_GATHER_SECONDS)
                    if failing:
                        failing = False
                        self.observer.verification(None)
                except SourceError as error:
                    failing = True
                    log.warning("studies wait for their verification", reason=str(error))
                    self.observer.verification(str(error))
                    self._stopping.wait(_VERIFIER_PAUSE_SECONDS)
        except Stopped:
            pass
        except FatalError as error:
            self._runner.fail(error)
        finally:
            outbox.close()

    # --- what happens (called by other threads) ----------------------------------------------------------

    def delivered(self, delivery: Delivery, outcome: Outcome) -> None:
        """Observer: a delivery was accepted."""
        self.delivered_count += 1
        self.observer.delivered(delivery, outcome)

    def parked(self, delivery: Delivery, outcome: Outcome) -> None:
        """Observer: a delivery was rejected."""
        self.parked_count += 1
        self.observer.parked(delivery, outcome)
        log.warning("parked", study_pk=delivery.study_pk, status=outcome.status, reason=outcome.reason)

    def _gate_changed(self, gate: Gate, reason: str) -> None:
        self.observer.gate(gate, reason)
        if gate is Gate.OPEN:
            log.info("the central index accepts studies again")
        elif gate is Gate.HELD:
            log.error("held: nothing is sent until this is mended", reason=reason)
        else:
            log.warning("the central index is away; studies wait", reason=reason)
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        if self._patience_seconds is not None and gate is not Gate.OPEN:
            seconds = 0.0 if gate is Gate.HELD else self._patience_seconds
            self._impatience = threading.Timer(seconds, self._runner.fail, [FatalError(reason)])
            self._impatience.daemon = True
            self._impatience.start()

    def storage_trouble(self, error: StorageError | None) -> None:
        """Observer: the state directory can't be written; None: it can again."""
        self.storage_failing = error is not None
        self.observer.storage(error)
        if error is None:
            log.info("the state directory can be written again")
        else:
            log.error("nothing is sent", reason=str(error))


def policy_of(settings: Settings) -> Policy:
    """The part of the settings that says what is sent."""
    delivery = settings.delivery
    return Policy(
        center=settings.center,
        fields=settings.fields,
        stable=delivery.send == "stable",
        updates=delivery.updates,
        deletes=delivery.deletes == "delete",
    )
