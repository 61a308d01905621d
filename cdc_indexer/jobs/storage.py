"""Whether the state directory can be used: while it can't, nothing is sent, and it is tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.model.errors import StorageError

if TYPE_CHECKING:
    from cdc_indexer.flow.observer import Observer
    from cdc_indexer.state.store import Store

__all__ = ["Storage"]

log = structlog.get_logger("cdc_indexer")


class Storage:
    """Whoever writes or reads the state says what it met; ``look`` is called every second by the main thread."""

    def __init__(self, observer: Observer, store: Store, writer_fails: Callable[[], bool]) -> None:
        self._observer = observer
        self._store = store
        self._writer_fails = writer_fails
        #: Everything waits for that.
        self.failing = False
        #: Whether somebody met it since ``look`` was last called.
        self._met = False

    def trouble(self, error: StorageError | None) -> None:
        """The state directory can't be written or read; None: it can again."""
        self._met = error is not None
        if (error is not None) == self.failing:
            return
        self.failing = error is not None
        self._observer.storage(error)
        if error is None:
            log.info("the state directory can be written again")
        else:
            log.error("nothing is sent", reason=str(error))

    def look(self) -> None:
        """The writer says what it can write. What only a reader met, nobody takes back: nothing may be left to write."""
        met, self._met = self._met, False
        if not self.failing or met or self._writer_fails():
            return
        try:
            self._store.lookup(["-"])
        except StorageError:
            return
        self.trouble(None)
