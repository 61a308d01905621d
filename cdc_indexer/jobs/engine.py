"""What drives the core: one lock around it, the disk, the index and the archive's database beside it.

Whoever owns an Engine brings rows and pages; the engine hands them to the core, lets what comes back be sent, read and
written, and says when nothing is left. The threads: whoever brings rows, the sender, the writer, the verifier.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.index_client import IndexClient
from cdc_indexer.flow.core import Core
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.observer import Observer
from cdc_indexer.flow.order import Order
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.jobs.pausing import Pausing
from cdc_indexer.jobs.policies import policy_of
from cdc_indexer.jobs.recall import DOCUMENT, FIRST_PK, MOVED, Recalled, other_document, recall
from cdc_indexer.jobs.retries import Retries
from cdc_indexer.jobs.sending import Sending
from cdc_indexer.jobs.shared import Shared
from cdc_indexer.jobs.verifier import Verifier
from cdc_indexer.jobs.way import Way
from cdc_indexer.model.errors import ConfigError, SourceChanged, Stopped, StorageError
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.state.store import Store

if TYPE_CHECKING:
    from cdc_indexer.jobs.runner import Runner
    from cdc_indexer.model.settings import Settings
    from cdc_indexer.model.study import OutboxRow

log = structlog.get_logger("cdc_indexer")

#: So many rows are handed over under one hold of the lock.
_TOGETHER = 64

#: So many first versions are read back at a time after a restart.
_RESTORE_PAGE = 500


def _core(settings: Settings, recalled: Recalled) -> Core:
    """As the state left it."""
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    keeper = Gatekeeper(settings.delivery.give_up_seconds, settings.delivery.concurrency, rng)
    core = Core(
        policy_of(settings),
        Progress(recalled.settled, recalled.identity, recalled.position, recalled.columns),
        recalled.clock,
        Order(keeper, settings.delivery.concurrency),
    )
    core.parts.results.address = settings.webservice_url
    core.parts.results.taken_at = settings.webservice_url if recalled.taken else None
    for name, value in recalled.news.items():
        core.parts.results.set(name, value)
    return core


class Engine(Shared):
    """See the module. ``start`` and ``stop`` once each.

    ``reload`` reads the settings again. ``patience_seconds``: a job that somebody waits for fails when the central index
    is away for so long, and soon when it refuses us; None waits for ever. ``anew``: everything is going to be sent again, so
    that centre and index may be others than before. ``ask_first``: the index is asked by GET what it can
    before the first POST. ``observer`` is told what happens.

    Raises StateError, and FatalError when the centre or the index has changed.
    """

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        *,
        reload: Callable[[], Settings | None],
        patience_seconds: float | None = None,
        anew: bool = False,
        same_index: bool = False,
        ask_first: bool = False,
        observer: Observer | None = None,
    ) -> None:
        store = Store(settings.state_dir)
        recalled = recall(store, settings, anew=anew, same_index=same_index)
        core = _core(settings, recalled)
        super().__init__(settings, runner, observer or Observer(), store, recalled, core, reload=self.reload)
        self._reload = reload
        if anew:
            core.backfills.begin_ledger(self.now())
        self.jobs = dict(recalled.jobs)
        self.retries = Retries(self)
        self.way = Way(self.observer, self.fail, self.retries.unpark, patience_seconds)
        kept = recalled.meta.get("index")
        same = isinstance(kept, dict) and kept.get("url") == settings.webservice_url
        self.sending = Sending(
            self, self.way.changed, Known.of(kept) if same else Known(), self.reload, ask_first=ask_first
        )
        self.wake = self.sending.wake
        self.verifier = Verifier(self)
        self.pausing = Pausing(self)

    # --- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the threads."""
        self.pausing.look()
        self.writer.start()
        self.sending.start()
        self.verifier.start()

    def stop(self) -> None:
        """Lets what is in flight finish, writes what is left, ends the threads; ``stopping`` is set."""
        self.way.stop()
        self.writer.give_up()
        with self.lock:
            self.room.notify_all()
            self.due.notify_all()
        self.sending.stop()
        with self.source.impatient():
            self.verifier.join()
        with self.lock:
            self.core.end()
        self.writer.request(self.core.parts.results.generation)
        if not self.writer.close():
            log.error("the last results couldn't be written; they will be sent once more")
        self.retries.studies.close()
        self.store.close()
        self.source.close()

    # --- the core ----------------------------------------------------------------------------------------

    def bring(
        self,
        rows: Sequence[OutboxRow],
        epoch: int,
        *,
        streamed: bool = False,
        superseded: Callable[[OutboxRow], bool] = lambda row: False,
    ) -> int:
        """Hands rows over as soon as there is room for them; how many were new.

        Raises SourceChanged when they were read in another epoch, Stopped at the end.
        """
        found = 0
        for start in range(0, len(rows), _TOGETHER):
            with self.inside() as core:
                now = self.now()
                for row in rows[start : start + _TOGETHER]:
                    if not core.room():
                        self._wait_for_room(core)
                        now = self.now()
                    core.parts.enter(self.source.epoch)
                    if epoch != core.parts.epoch:
                        raise SourceChanged("The database is another one than before.")
                    found += core.intake.take(row, now, streamed=streamed, superseded=superseded(row))
                look_up = core.intake.looking_up
            if look_up:
                self.look_up()
        return found

    def _wait_for_room(self, core: Core) -> None:
        """The lock is held. What was brought already must be on its way, or room would never come."""
        while not core.room():
            if core.intake.looking_up:
                self.lock.release()
                try:
                    self.look_up()
                finally:
                    self.lock.acquire()
            self.due.notify_all()
            if self.stopping.is_set():
                raise Stopped
            self.room.wait(1.0)

    def wait_for_room_behind(self) -> None:
        """Until a backfill may bring more; Stopped at the end."""
        with self.lock:
            while not self.core.backfills.room():
                if self.stopping.is_set():
                    raise Stopped
                self.room.wait(1.0)

    def look_up(self) -> None:
        """Asks the ledger whether it knows studies whose first version has come."""
        with self.lock:
            number, keys = self.core.intake.to_look_up()
        if not keys:
            return
        try:
            entries = self.store.lookup(keys)
        except StorageError as error:  # the tick tries again
            self.storage.trouble(error)
            return
        with self.inside() as core:
            core.intake.looked_up(number, keys, entries, self.now())
        self.sending.wake()

    def restore_unverified(self) -> None:
        """First versions that were sent before a restart are compared with the view; raises StorageError, Stopped."""
        after_pk = 0
        while entries := self.store.unverified(after_pk, _RESTORE_PAGE):
            with self.inside() as core:
                while core.parts.cases.full:
                    self._wait_for_room(core)
                core.intake.restore(entries, self.now())
            after_pk = entries[-1].study_pk

    def index_client(self) -> IndexClient | None:
        """Asks the index for digests; None where it has none."""
        return IndexClient(self.settings) if "digests" in self.sending.known.features else None

    # --- what is asked of it -----------------------------------------------------------------------------

    def at_rest(self) -> bool:
        """Whether nothing is left to do; see Core."""
        with self.lock:
            return self.core.at_rest(self.now())

    @property
    def waits_for_others(self) -> bool:
        """Whether what doesn't move waits for the index, for quiet or for the disk: starting again wouldn't help."""
        order = self.core.parts.order
        return not self.core.room() or self.storage.failing or order.paused or order.gate is not Gate.OPEN

    @property
    def progress(self) -> Progress:
        """How far it is; to be read, never changed, from outside."""
        return self.core.parts.progress

    def begin_scope(self) -> None:
        """The ledger begins with what is stored from now on, until `initial` has gone through the archive."""
        if "scope" not in self.meta or FIRST_PK not in self.meta:
            last_pk = Outbox(self.source).last_study_pk()
            for name in (FIRST_PK, "scope"):
                self.remember(name, self.meta.get(name, last_pk))

    def correct(self, key: str, study_pk: int, digest: bytes | None) -> bool:
        """The index was seen to hold that of a study, None: nothing; the ledger says so now, unless it is under way."""
        entries = self.store.lookup([key])
        with self.inside() as core:
            return core.backfills.correct(key, study_pk, digest, entries.get(key))

    def adopt(self, studies: Iterable[tuple[str, int, bytes]]) -> None:
        """The index was seen to hold these documents (key, study_pk, digest) that the ledger didn't know."""
        with self.inside() as core:
            for key, study_pk, digest in studies:
                core.backfills.correct(key, study_pk, digest, None)
        self.writer.request(self.core.parts.results.generation)

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
        kept = {name: getattr(self.settings, name) for name in ("center", "state_dir")}
        if any(getattr(settings, name) != value for name, value in kept.items()):
            log.error("center and state_dir can't change while running: restart the service")
            settings = settings.model_copy(update=kept)
        other_address = settings.webservice_url != self.settings.webservice_url
        if other_address and self.core.parts.results.taken_at not in (None, settings.webservice_url):
            log.warning(MOVED)
        if (shape := other_document(self.meta.get(DOCUMENT), settings, self.store.count)) is not None:
            self.remember(DOCUMENT, shape)
        before, self.settings = self.settings.stream, settings
        delivery = settings.delivery
        with self.inside() as core:
            core.use(policy_of(settings))
            core.parts.results.address = settings.webservice_url
            order = core.parts.order
            order.concurrency = order.keeper.concurrency = delivery.concurrency
            order.keeper.give_up_seconds = delivery.give_up_seconds
            order.keeper.mended()
        if self.source.reload(settings.database) or (before != settings.stream and self.source.renew()):
            log.info("the archive's database is connected to anew")
        self.sending.reconfigure(other_address=other_address)
        self.observer.reconfigured(settings)
        log.info("settings read again")

    def tick(self) -> None:
        """Now and then, by the main thread: what somebody asks for, and what couldn't be done before."""
        self.pausing.look()
        self.storage.look()
        self.look_up()
        self.retries.look()
