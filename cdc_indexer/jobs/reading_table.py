"""The full audits of the worker: before each stream, and in the place of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from cdc_indexer.jobs.audit import Audit
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.jobs.sampling import Sampler

__all__ = ["TableReading"]

log = structlog.get_logger("cdc_indexer")


class TableReading:
    """Before the first one since the start, what wasn't compared with the view then waits for that again."""

    def __init__(self, engine: Engine, audit: Audit, sampler: Sampler) -> None:
        self._engine = engine
        self._audit = audit
        self._sampler = sampler
        self._restored = False

    def full(self) -> int:
        """Reads the table; how many rows nobody had. Raises SourceError, StorageError, Stopped."""
        if not self._restored:
            # Until then this machine's clock stands for the database's.
            self._engine.measure_clock()
            self._engine.restore_unverified()
            self._restored = True
        audited = self._audit.full(on_page=self._sampler.moved)
        self._sampler.moved()
        self._engine.observer.audited(audited.found)
        if audited.found:
            log.info("audit found rows to send", rows=audited.found)
        return audited.found
