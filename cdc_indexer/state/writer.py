"""Makes results durable: one thread, and one transaction for all results that came while the last one was written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from cdc_indexer.model.changes import Changes
from cdc_indexer.model.errors import FatalError, Stopped, StorageError
from cdc_indexer.state.checkpoint_copy import CheckpointCopy
from cdc_indexer.state.store import Store

__all__ = ["Writer"]

#: How long between two tries at a disk that can't be written.
RETRY_SECONDS = 5.0
#: After how many entries of the ledger the log is moved into the file, and after how long in any case.
TIDY_ENTRIES = 500
TIDY_SECONDS = 2.0


class Writer:
    """Writes what ``take`` gives to the store, in its own thread, as soon as somebody asks for it.

    ``take`` gives the generation of the moment, and the changes since it was last called (maybe none). Those that can't be
    written are kept and tried again before any newer ones. ``on_trouble`` is called with the error when a write fails, and
    with None once one succeeds again; ``on_fatal`` with an error that has to end the program: nothing is written after it.
    """

    def __init__(
        self,
        store: Store,
        take: Callable[[], tuple[int, Changes]],
        on_trouble: Callable[[StorageError | None], None] = lambda error: None,
        *,
        on_fatal: Callable[[BaseException], None] = lambda error: None,
        copy: CheckpointCopy | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._take = take
        self._on_trouble = on_trouble
        self._on_fatal = on_fatal
        self._copy = copy
        self._retry_seconds = retry_seconds
        #: When something was last written, in seconds since 1970; None: not by this process.
        self.written_at: float | None = None
        #: How long the last write took.
        self.write_seconds = 0.0
        self._written: Callable[[int], None] = lambda generation: None
        self._wanted = 0
        self._durable = 0
        self._failing = False
        self._fatal: BaseException | None = None
        self._giving_up = False
        self._closing = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._untidy = 0
        self._tidy = threading.Event()
        self._upkeep = threading.Thread(target=self._keep_up, name="upkeep", daemon=True)

    def start(self) -> None:
        """Starts the threads."""
        self._thread.start()
        self._upkeep.start()

    def listen(self, written: Callable[[int], None]) -> None:
        """``written`` is called, in the writer's thread, with each generation that is on the disk."""
        self._written = written

    @property
    def failing(self) -> bool:
        """Whether what is to be written couldn't be, and is tried again."""
        return self._failing

    def request(self, generation: int) -> None:
        """Asks for ``generation`` to be written, without waiting."""
        with self._changed:
            if generation > self._wanted:
                self._wanted = generation
                self._changed.notify_all()

    def wait(self, generation: int) -> None:
        """Waits until ``generation`` is on the disk; Stopped when the program ends before it can be."""
        with self._changed:
            if generation > self._wanted:
                self._wanted = generation
                self._changed.notify_all()
            while self._durable < generation:
                if self._fatal is not None:
                    raise Stopped("the state can't be relied on")
                if self._giving_up and self._failing:
                    raise Stopped("the state can't be written")
                if self._closed:
                    raise Stopped("the state is written no more")
                self._changed.wait()

    def give_up(self) -> None:
        """The program is ending: nobody waits any longer for a disk that can't be written."""
        with self._changed:
            self._giving_up = True
            self._changed.notify_all()

    def close(self) -> bool:
        """Writes what is left and ends the threads; False when that couldn't be written. The store stays open."""
        with self._changed:
            self._giving_up = self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._tidy.set()
        if self._upkeep.ident is not None:
            self._upkeep.join()
        if self._copy is not None:
            self._copy.write(now=True)
        return self._fatal is None and self._durable >= self._wanted

    # --- the writer --------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._write_all()
        except BaseException as error:  # whoever waits would wait for ever
            self._end(error)
            if not isinstance(error, FatalError):
                raise

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while self._durable >= self._wanted and not self._closing:
                    self._changed.wait()
                if self._durable >= self._wanted or self._fatal is not None:
                    return
            generation, changes = self._take()
            if not self._write(changes):
                return
            self._written(generation)
            with self._changed:
                self._durable = max(self._durable, generation)
                recovered, self._failing = self._failing, False
                self._changed.notify_all()
            if recovered:
                self._on_trouble(None)

    def _write(self, changes: Changes) -> bool:
        """Until it is written; False when the program ends before."""
        while changes:
            began = time.monotonic()
            try:
                self._store.apply(changes)
            except StorageError as error:
                if not self._failed(error):
                    return False
                continue
            self.written_at = time.time()
            self.write_seconds = time.monotonic() - began
            first = self._copy is not None and self._copy.note(changes.meta)
            self._untidy += len(changes.ledger) + len(changes.verified) + 1
            if first or self._untidy >= TIDY_ENTRIES:
                self._tidy.set()
            break
        return True

    def _failed(self, error: StorageError) -> bool:
        """Waits before the next try; False when the program is ending."""
        if not self._failing:
            self._on_trouble(error)
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            if self._closing:
                return False
            self._changed.wait_for(lambda: self._closing or self._fatal is not None, self._retry_seconds)
            return self._fatal is None

    def _end(self, error: BaseException) -> None:
        with self._changed:
            if self._fatal is not None:
                return
            self._fatal = error
            self._changed.notify_all()
        self._on_fatal(error)

    # --- the upkeep --------------------------------------------------------------------------------------

    def _keep_up(self) -> None:
        """So that no result waits for it: the log into the file, and the copy for people."""
        while not self._closed and self._fatal is None:
            self._tidy.wait(TIDY_SECONDS)
            self._tidy.clear()
            if self._untidy:
                self._untidy = 0
                try:
                    with suppress(StorageError):  # the next commit says so
                        self._store.tidy()
                except FatalError as error:
                    self._end(error)
                    return
            if self._copy is not None:
                self._copy.write()
