"""What the threads of an engine share: the core under its one lock, and what stands around it.

Whoever sends, reads or writes has this, and not the engine that starts and ends them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.flow.core import Core
from cdc_indexer.flow.observer import Observer
from cdc_indexer.flow.settlement import Result
from cdc_indexer.jobs.storage import Storage
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.moment import Now, microseconds
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.source.source import Source
from cdc_indexer.state.checkpoint_copy import CheckpointCopy
from cdc_indexer.state.store import Store
from cdc_indexer.state.writer import Writer

if TYPE_CHECKING:
    from cdc_indexer.jobs.recall import Recalled
    from cdc_indexer.jobs.runner import Runner
    from cdc_indexer.model.settings import Settings

__all__ = ["Shared"]

log = structlog.get_logger("cdc_indexer")


class _Inside:
    """Holds the lock around the core. One for all: whoever is inside is alone."""

    __slots__ = ("_core", "_due", "_lock")

    def __init__(self, lock: threading.Lock, due: threading.Condition, core: Core) -> None:
        self._lock, self._due, self._core = lock, due, core

    def __enter__(self) -> Core:
        self._lock.acquire()
        return self._core

    def __exit__(self, *_: object) -> None:
        try:
            if self._core.parts.cases.quiet.sooner:
                self._due.notify_all()
        finally:
            self._lock.release()


class Shared:
    """See the module.

    ``reload`` is what the source calls before it tries again where it was refused.
    """

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        observer: Observer,
        store: Store,
        recalled: Recalled,
        core: Core,
        *,
        reload: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.observer = observer
        self.stopping = runner.stopping
        self.store = store
        self.core = core
        self.meta = {**recalled.meta, **recalled.news}
        self.lock = threading.Lock()
        #: Told when something ended: there may be room, and something may be at rest.
        self.room = threading.Condition(self.lock)
        #: Told when something may be due.
        self.due = threading.Condition(self.lock)
        self._inside = _Inside(self.lock, self.due, core)
        self.source = Source(settings.database, known=recalled.identity, read_again=reload)
        self.storage = Storage(observer, store, lambda: self.writer.failing)
        self.writer = Writer(
            store,
            self._take_changes,
            self.storage.trouble,
            on_fatal=runner.fail,
            copy=CheckpointCopy(settings.state_dir, recalled.meta),
        )
        self.writer.written_at = recalled.written_at
        self.writer.listen(self._written)
        #: Called when there may be something to send.
        self.wake: Callable[[], None] = lambda: None
        self.clock_difference_seconds = 0.0
        self.delivered_count = 0
        self.parked_count = 0
        self._runner = runner
        self._durable = 0

    def fail(self, error: BaseException) -> None:
        """Ends the program with that error; from any thread."""
        self._runner.fail(error)

    # --- the core ----------------------------------------------------------------------------------------

    def now(self) -> Now:
        """The present; the database's clock is known as well as it was last asked for."""
        clock = time.time() + self.clock_difference_seconds
        return Now(time.monotonic(), int(clock * 1_000_000))

    def measure_clock(self, theirs: datetime | None = None) -> None:
        """The database's clock as it was told just now; None: it is asked for. Raises SourceError."""
        theirs = theirs or Outbox(self.source).now()
        self.clock_difference_seconds = microseconds(theirs) / 1_000_000 - time.time()

    def inside(self) -> AbstractContextManager[Core]:
        """The core, for as long as the block takes, which must be microseconds."""
        return self._inside

    # --- the disk ----------------------------------------------------------------------------------------

    def _take_changes(self) -> tuple[int, Changes]:
        with self.lock:
            return self.core.take_changes(self.now())

    def _written(self, generation: int) -> None:
        """In the writer's thread: turns and slots are free."""
        self._durable = max(self._durable, generation)
        with self.inside() as core:
            results = core.durable(generation, self.now())
            self.room.notify_all()
        self.wake()
        for result in results:
            self._tell(result)

    def durable_already(self, generation: int) -> None:
        """A result that changed nothing needn't wait for the disk."""
        if generation <= self._durable:
            self._written(self._durable)

    def _tell(self, result: Result) -> None:
        delivery, outcome = result.delivery, result.outcome
        if result.accepted:
            self.delivered_count += 1
            self.observer.delivered(delivery, outcome)
            policy = self.core.parts.policy
            # It was the only version that goes: with `updates` the counts would follow.
            if policy.stable and not policy.updates and delivery.rows and delivery.entry.instances == 0:
                log.warning(
                    "a study goes out as it is",
                    study_pk=delivery.study_pk,
                    reason="the archive hasn't counted its images within a day: see whether it has stored them",
                )
        else:
            self.parked_count += 1
            self.observer.parked(delivery, outcome)
            log.warning("parked", study_pk=delivery.study_pk, status=outcome.status, reason=outcome.reason)

    def remember(self, name: str, value: object) -> None:
        """A value of the durable state by name."""
        with self.inside() as core:
            core.parts.results.set(name, value)
            self.meta[name] = value

    def flush(self) -> None:
        """Waits until everything of this moment is durable; Stopped when it can't be before the end."""
        self.writer.wait(self.core.parts.results.generation)
