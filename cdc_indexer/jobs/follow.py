"""Follows the binary log: connects, reads the table, reads the log, until something fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog

from cdc_indexer.jobs.backfill import plain
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import Stopped
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import BinlogReader, Heartbeat, Rows, TableChanged, TableRead, TransactionEnd

if TYPE_CHECKING:
    from cdc_indexer.flow.progress import Columns
    from cdc_indexer.jobs.auditor import Auditor
    from cdc_indexer.jobs.engine import Engine
    from cdc_indexer.jobs.reading_table import TableReading
    from cdc_indexer.jobs.sampling import Sampler
    from cdc_indexer.model.position import Position

__all__ = ["Follow"]

log = structlog.get_logger("cdc_indexer")


class Fresh(Protocol):
    """Is told that a position was taken anew; ``first``: there was none before."""

    def __call__(self, *, first: bool, other_server: bool) -> None: ...


class Follow:
    """``once`` follows until something fails, which it raises.

    ``streaming`` is called as soon as the server sends something, ``fresh`` when a position was taken anew, ``caught_up``
    once the end that the log had at the start is reached.
    """

    def __init__(
        self,
        engine: Engine,
        table: TableReading,
        auditor: Auditor,
        sampler: Sampler,
        *,
        connected: Callable[[], None],
        streaming: Callable[[], None],
        fresh: Fresh,
        caught_up: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._table = table
        self._auditor = auditor
        self._sampler = sampler
        self._connected = connected
        self._streaming = streaming
        self._fresh = fresh
        self._tell_caught_up = caught_up
        self._reader: BinlogReader | None = None
        self._reader_lock = threading.Lock()
        self._columns: tuple[object, Columns | None] = (None, None)
        self._caught_up = False
        #: As it was when the stream began.
        self._end_of_log: Position

    def interrupt(self) -> None:
        """Ends the reading; ``stopping`` is set."""
        with self._reader_lock:
            if self._reader is not None:
                self._reader.interrupt()

    def once(self, *, fresh_position: bool) -> None:
        """Connects, reads the table, and follows the log. ``fresh_position``: the one that we have is lost."""
        engine, settings = self._engine, self._engine.settings
        epoch = self._begin_at(fresh_position)
        self._table.full()
        assert engine.progress.position is not None
        columns = engine.progress.columns
        reader = BinlogReader(
            engine.source,
            settings.stream,
            settings.server_id,
            engine.progress.position,
            tuple(catalogue.Column(name, unsigned, kind) for name, kind, unsigned in columns)
            if columns
            else None,
            epoch,
        )
        with self._reader_lock:
            if engine.stopping.is_set():
                raise Stopped
            self._reader = reader
        self._auditor.start()
        told = False
        try:
            for event in reader:
                if not told:
                    told = True
                    self._streaming()
                self._handle(event)
        finally:
            with self._reader_lock:
                self._reader = None
            reader.close()

    def _begin_at(self, fresh_position: bool) -> int:
        """Decides where the stream begins: at the position if the server still has it, else at its end now.

        Gives the source's epoch in which that holds.
        """
        engine = self._engine
        progress = engine.progress
        with engine.source.session() as session:
            identity, epoch = session.identity, session.epoch
            position, columns = progress.position, None
            if position is not None and progress.identity != identity:
                log.warning("another server or a restored one", was=progress.identity, now=identity)
                position = None
            elif position is not None and fresh_position:
                position = None
            elif position is not None:
                catalogue.holds(session, position)
            first = position is None and progress.identity is None
            fresh = position is None
            if position is None:
                position, columns = catalogue.fresh_position(session)
                log.info("fresh position", position=str(position))
                self._end_of_log = position
            else:
                self._end_of_log = catalogue.binlog_end(session)
        with engine.inside() as core:
            other_server = core.intake.restart_stream(
                position, identity, plain(columns), epoch=epoch, lost=fresh_position
            )
        if fresh:
            self._fresh(first=first, other_server=other_server)
        self._sampler.connected(position)
        self._connected()
        log.info("connected", server=identity.server, position=str(position))
        return epoch

    def _handle(self, event: object) -> None:
        engine = self._engine
        self._sampler.moved()
        if type(event) is Rows:
            failpoints.hit("after_read")
            self._sampler.rows(event.rows)
            engine.bring(event.rows, event.epoch, streamed=True)
        elif type(event) is TransactionEnd:
            if event.columns is not self._columns[0]:
                self._columns = (event.columns, plain(event.columns))
            self._sampler.end(event)
            with engine.inside() as core:
                core.intake.end_transaction(event.position, self._columns[1])
            # A busy server is never quiet enough for a heartbeat.
            if not self._caught_up and event.position.order >= self._end_of_log.order:
                self._say_caught_up(event.position)
        elif type(event) is Heartbeat:
            self._sampler.quiet()
            if not self._caught_up:
                self._say_caught_up(engine.progress.position)
        elif type(event) is TableRead:
            self._auditor.request_quick()
        elif type(event) is TableChanged:
            self._auditor.request_full()

    def _say_caught_up(self, position: Position | None) -> None:
        self._caught_up = True
        self._engine.observer.caught_up()
        self._tell_caught_up()
        log.info("caught up", position=str(position))
