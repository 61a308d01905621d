"""`run`: follows the binlog, audits the table, and decides what to do when one of them fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from cdc_indexer.delivery.retry import Backoff
from cdc_indexer.flow.progress import Columns
from cdc_indexer.jobs.audit import Audit
from cdc_indexer.jobs.auditor import Auditor
from cdc_indexer.jobs.backfill import plain, take_position
from cdc_indexer.jobs.engine import PATIENCE_SECONDS, Engine
from cdc_indexer.jobs.initial import Feeder, InitialOptions
from cdc_indexer.jobs.notify import Notifier
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.jobs.sampling import Sampler
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import (
    AlreadyRunning,
    NoBinlog,
    PositionLost,
    SchemaError,
    ServerIdClash,
    SourceError,
    Stopped,
)
from cdc_indexer.model.observer import Observer, Source
from cdc_indexer.model.position import Position
from cdc_indexer.model.settled import EPOCH
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import BinlogReader, Heartbeat, Rows, TableChanged, TableRead, TransactionEnd
from cdc_indexer.source.connection import impatient, reading
from cdc_indexer.source.outbox import Outbox
from cdc_indexer.state.lock import StateLock

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

log = structlog.get_logger("cdc_indexer")

#: A position that moves without any row of ours is written this often.
_CHECKPOINT_SECONDS = 5.0

#: Without a binlog the table is read this often, and the binlog asked for again that often.
_DEGRADED_AUDIT_SECONDS = 5.0
_DEGRADED_RETRY_SECONDS = 60.0

#: Older rows of the outbox are deleted every night (indexer_prune in extras/add_indexer.sql).
_RETENTION = timedelta(days=400)

#: Who was thrown out by a namesake waits: two that fight would only throw each other out in turn.
_CLASH_PAUSE_SECONDS = 60.0

_TICK_SECONDS = 1.0

#: The worker comes round at least so often, whatever the database does: the longest is a query that is given up, the
#: pause after another replica came. If it doesn't, systemd's watchdog is no longer fed.
_PATIENCE_SECONDS = 180.0


class Service:
    """One `run`. ``until_caught_up``: once through the table, no stream, and out."""

    def __init__(
        self,
        settings: Settings,
        *,
        until_caught_up: bool,
        reload: Callable[[], Settings | None],
        observer: Observer | None = None,
    ) -> None:
        self._once = until_caught_up
        self._runner = Runner()
        self._stopping = self._runner.stopping
        self._reader: BinlogReader | None = None
        self._reader_lock = threading.Lock()
        self._first_audit = True
        self._source: Source | None = None
        self._position_lost = False
        #: Nothing but the table tells what was recorded since the last time.
        self._fresh_position = True
        self._columns: tuple[object, Columns | None] = (None, None)
        self._caught_up = False
        self._notifier = Notifier()
        #: As it was when the stream began.
        self._end_of_log: Position
        self.engine = Engine(
            settings,
            self._runner,
            reload=reload,
            patience_seconds=PATIENCE_SECONDS if until_caught_up else None,
            observer=observer,
        )
        engine = self.engine
        self._observer = engine.observer
        self._audit = Audit(Outbox(settings.database), engine.progress, engine.pipeline, self._binlog_end)
        self._auditor = Auditor(
            self._audit, settings.stream.audit_seconds, self._runner, self._observer.audited
        )
        self._sampler = Sampler(engine, self._audit, self._stopping)
        self._feeder = Feeder(engine, self._runner)
        self._written = engine.progress.generation
        self._next_write = 0.0

    # --- life --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until a signal comes (or all is sent, with ``until_caught_up``); raises what it can't handle."""
        self.engine.start()
        # Not only when connected: at boot the database may come later than systemd is willing to wait.
        self._notifier.ready()
        if not self._once:
            self._sampler.start()
        self._runner.run(
            self._catch_up if self._once else self._follow,
            tick=self._tick,
            tick_seconds=_TICK_SECONDS,
            hang_up=self.engine.reload,
            clean_up=self._clean_up,
        )
        self._audit.close()
        log.info("stopped", delivered=self.engine.delivered_count, parked=self.engine.parked_count)

    def _clean_up(self) -> None:
        self._notifier.stopping()
        self.engine.pipeline.stop()
        with self._reader_lock:
            if self._reader is not None:
                self._reader.interrupt()
        with impatient():
            self._auditor.stop()
            self._sampler.stop()
        self.engine.stop()
        with impatient():
            self._feeder.join()

    def _tick(self) -> None:
        """Writes a position that moved without any row of ours, and looks for what other commands ask for."""
        if self._moves:
            self._notifier.alive()
        if not self._once and not self._stopping.is_set():
            self._feeder.look()
            self.engine.retry_parked()
        self._sampler.tell()
        progress = self.engine.progress
        if (
            progress.generation != self._written
            and progress.identity
            and time.monotonic() >= self._next_write
        ):
            self._written = progress.generation
            self._next_write = time.monotonic() + _CHECKPOINT_SECONDS
            self.engine.writer.request(self._written)

    @property
    def _moves(self) -> bool:
        """Whether the worker comes round, or waits for somebody who has to come back."""
        waits = self._once or self.engine.waits_for_others
        return waits or self._sampler.idle_seconds < _PATIENCE_SECONDS

    # --- once through the table --------------------------------------------------------------------------

    def _catch_up(self) -> None:
        engine = self.engine
        # The position first: what is committed after it is left to the next run, what was before is in the table.
        take_position(engine, anew=True)
        if self._heal_pruned():
            while self._feeder.busy:
                self._feeder.look()
                if self._stopping.wait(0.1):
                    raise Stopped
        engine.restore_unverified()
        first = True
        while self._audit.full(first=first).found or first:
            if first:
                engine.versions.release_restored()
                engine.versions.hurry()
            first = False
            while not engine.idle:
                if self._stopping.wait(0.02):
                    raise Stopped
        engine.writer.wait(engine.progress.generation)

    def _binlog_end(self) -> Position | None:
        """The end of the binlog now; None where there is none that we may read."""
        try:
            with reading(self.engine.settings.database) as connection:
                return catalogue.binlog_end(connection)
        except NoBinlog:
            return None

    # --- the stream --------------------------------------------------------------------------------------

    def _follow(self) -> None:
        backoff = Backoff()
        rng = random.Random()  # noqa: S311 - jitter
        while not self._stopping.is_set():
            began = time.monotonic()
            self._sampler.moved()
            try:
                try:
                    self._stream()
                finally:
                    self._sampler.lost()
            except NoBinlog as error:
                self._degraded(error)
                continue
            except PositionLost as error:
                log.warning("position lost", reason=str(error))
                self._tell_source(Source.POSITION, error)
                self._position_lost = True
                pause = backoff.delay(rng)
            except ServerIdClash as error:
                log.error("another replica has our server_id", reason=str(error))
                self._tell_source(Source.CLASH, error)
                pause = _CLASH_PAUSE_SECONDS
            except SourceError as error:
                if time.monotonic() - began > backoff.cap_seconds:
                    backoff = Backoff()
                pause = backoff.delay(rng)
                schema = isinstance(error, SchemaError)
                said = "the database isn't as it should be" if schema else "the database is away"
                log.warning(said, reason=str(error), again_in_seconds=round(pause, 1))
                self._tell_source(Source.SCHEMA if schema else Source.AWAY, error)
            backoff = backoff.next()
            self._stopping.wait(pause)

    def _stream(self) -> None:
        """Connects, audits, and reads the binlog until something fails."""
        engine, settings = self.engine, self.engine.settings
        self._begin_at()
        self._full_audit()
        assert engine.progress.position is not None
        columns = engine.progress.columns
        reader = BinlogReader(
            settings.database,
            settings.stream,
            settings.server_id,
            engine.progress.position,
            tuple(catalogue.Column(name, unsigned, kind) for name, kind, unsigned in columns)
            if columns
            else None,
        )
        with self._reader_lock:
            if self._stopping.is_set():
                raise Stopped
            self._reader = reader
        self._auditor.start()
        told = False
        try:
            for event in reader:
                if not told:
                    told = True
                    self._tell_source(Source.UP)
                self._sampler.moved()
                self._handle(event)
        finally:
            with self._reader_lock:
                self._reader = None
            reader.close()

    def _begin_at(self) -> None:
        """Decides where the stream begins: at the position if the server still has it, else at its end now."""
        engine, settings = self.engine, self.engine.settings
        progress = engine.progress
        with reading(settings.database) as connection:
            identity = catalogue.identity(connection, settings.database.name)
            position = progress.position
            if position is not None and progress.identity != identity:
                log.warning("another server or a restored one", was=progress.identity, now=identity)
                position = None
            elif position is not None and self._position_lost:
                position = None
            elif position is not None:
                try:
                    catalogue.holds(connection, position)
                except PositionLost as error:
                    log.warning("position lost", reason=str(error))
                    position = None
            columns = None
            self._fresh_position = position is None
            if position is None:
                position, columns = catalogue.fresh_position(
                    connection, settings.database.name, identity.table
                )
                log.info("fresh position", position=str(position))
                self._end_of_log = position
            else:
                self._end_of_log = catalogue.binlog_end(connection)
        self._position_lost = False
        progress.restart_stream(position, identity, plain(columns))
        self._sampler.connected(position)
        if self._source is not Source.DEGRADED:  # whether there is a stream again, its first event tells
            self._tell_source(Source.UP)
        log.info("connected", server=identity.server, position=str(position))

    def _full_audit(self) -> None:
        first, self._first_audit = self._first_audit, False
        if first:
            self.engine.restore_unverified()
        try:
            if self._fresh_position:
                self._heal_pruned()
            audited = self._audit.full(first=first, on_page=self._sampler.moved)
            self._sampler.moved()
            self._observer.audited(audited.found)
        except SourceError:
            self._first_audit = first
            raise
        if first:
            self.engine.versions.release_restored()
        if audited.found:
            log.info("audit found rows to send", rows=audited.found)

    def _heal_pruned(self) -> bool:
        """Asks for an `initial` when rows may have been deleted before they were sent; whether it did."""
        until = self.engine.progress.until
        if until == EPOCH or until > self._audit.now() - _RETENTION:
            return False
        log.error(
            "rows may have been pruned before they were sent, since the service was away for longer than they are kept: "
            "every study is sent once more",
            away_since=f"{until:%Y-%m-%d}",
        )
        self._feeder.request(InitialOptions(restart=True))
        return True

    def _handle(self, event: object) -> None:
        progress = self.engine.progress
        self._sampler.moved()
        if type(event) is Rows:
            failpoints.hit("after_read")
            self._sampler.rows(event.rows)
            take = self.engine.pipeline.take
            for row in event.rows:
                take(row, streamed=True)
        elif type(event) is TransactionEnd:
            if event.columns is not self._columns[0]:
                self._columns = (event.columns, plain(event.columns))
            self._sampler.end(event)
            progress.end_transaction(event.position, self._columns[1])
            # A busy server is never quiet enough for a heartbeat.
            if not self._caught_up and event.position.order >= self._end_of_log.order:
                self._say_caught_up(event.position)
        elif type(event) is Heartbeat:
            self._sampler.quiet()
            if not self._caught_up:
                self._say_caught_up(progress.position)
        elif type(event) is TableRead:
            self._auditor.request_quick()
        elif type(event) is TableChanged:
            self._auditor.request_full()

    def _tell_source(self, source: Source, error: SourceError | None = None) -> None:
        self._source = source
        self._observer.source(source, str(error) if error is not None else "")

    def _say_caught_up(self, position: Position | None) -> None:
        self._caught_up = True
        self._observer.caught_up()
        log.info("caught up", position=str(position))

    def _degraded(self, error: NoBinlog) -> None:
        """No binlog: goes on from the table alone until there is one."""
        log.error(
            "degraded: the table is read every few seconds instead of the binary log", reason=str(error)
        )
        self._tell_source(Source.DEGRADED, error)
        engine = self.engine
        self._fresh_position = True
        again_at = time.monotonic() + _DEGRADED_RETRY_SECONDS
        while not self._stopping.is_set() and time.monotonic() < again_at:
            self._sampler.moved()
            try:
                with reading(engine.settings.database) as connection:
                    identity = catalogue.identity(connection, engine.settings.database.name)
                engine.progress.restart_stream(None, identity)
                self._full_audit()
                self._sampler.connected(None)
                self._tell_source(Source.DEGRADED, error)
            except SourceError as away:
                log.warning("the database is away", reason=str(away))
                self._sampler.lost()
                self._tell_source(Source.SCHEMA if isinstance(away, SchemaError) else Source.AWAY, away)
            self._stopping.wait(_DEGRADED_AUDIT_SECONDS)


def run(
    settings: Settings,
    *,
    until_caught_up: bool,
    reload: Callable[[], Settings | None],
    observer: Observer | None = None,
) -> None:
    """The command `run`. Raises FatalError with what a person has to do, SourceError with ``until_caught_up``."""
    observer = observer or Observer()
    try:
        lock = StateLock(settings.state_dir, "run")
        lock.acquire()
    except AlreadyRunning:
        if until_caught_up:
            return
        raise
    failed: BaseException | None = None
    try:
        observer.started(settings)
        Service(settings, until_caught_up=until_caught_up, reload=reload, observer=observer).run()
    except BaseException as error:
        failed = error
        raise
    finally:
        observer.stopped(failed)
        lock.release()
