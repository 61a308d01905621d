"""`run`: follows the binlog, audits the table, and goes on whatever fails (recovery.py says how)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.delivery.index_client import IndexUnavailable, TooMany
from cdc_indexer.flow.observer import Observer, Source
from cdc_indexer.flow.retry import Backoff
from cdc_indexer.jobs.audit import Audit
from cdc_indexer.jobs.auditor import Auditor
from cdc_indexer.jobs.backfill import take_position
from cdc_indexer.jobs.engine import Engine
from cdc_indexer.jobs.feeder import Feeder
from cdc_indexer.jobs.follow import Follow
from cdc_indexer.jobs.notify import Notifier
from cdc_indexer.jobs.reading_table import TableReading
from cdc_indexer.jobs.recovery import Recovery, Then, recovery
from cdc_indexer.jobs.reporter import Reporter
from cdc_indexer.jobs.runner import Runner
from cdc_indexer.jobs.sampling import Sampler
from cdc_indexer.jobs.sweep import Sweep
from cdc_indexer.jobs.sweeper import Sweeper
from cdc_indexer.jobs.way import PATIENCE_SECONDS
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import AlreadyRunning, IndexerError, NoBinlog, SourceError, Stopped
from cdc_indexer.model.position import Position
from cdc_indexer.source import catalogue
from cdc_indexer.state.lock import StateLock

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["run"]

log = structlog.get_logger("cdc_indexer")

#: A position that moves without any row of ours is written this often.
_CHECKPOINT_SECONDS = 5.0

#: Without a binlog the table is read this often, and the binlog asked for again that often.
_TABLE_ONLY_SECONDS = 5.0
_BINLOG_AGAIN_SECONDS = 60.0

_TICK_SECONDS = 1.0

#: The pass before the first stream holds up live studies: it is quicker than the others.
_FIRST_PASS_PER_SECOND = 20_000.0

#: The worker comes round at least so often, whatever the database does: the longest is a query that is given up, the
#: pause after another replica came. If it doesn't, systemd's watchdog is no longer fed.
_PATIENCE_SECONDS = 180.0

#: So much of a pass `--until-caught-up` does, and what it has begun of it; the next one goes on.
_ONCE_PASS_SECONDS = 300.0

#: The wait for the end of `--until-caught-up`.
_REST_SECONDS = 0.02


class Service:
    """One `run`. ``until_caught_up``: once through the table, no stream, and out."""

    def __init__(
        self,
        settings: Settings,
        *,
        until_caught_up: bool,
        same_index: bool,
        reload: Callable[[], Settings | None],
        observer: Observer | None = None,
        summary: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._once = until_caught_up
        self._runner = Runner()
        self._stopping = self._runner.stopping
        self._source: Source | None = None
        self._source_reason = ""
        self._notifier = Notifier()
        self.engine = Engine(
            settings,
            self._runner,
            reload=reload,
            patience_seconds=PATIENCE_SECONDS if until_caught_up else None,
            same_index=same_index,
            ask_first=True,
            observer=observer,
        )
        engine = self.engine
        self._observer = engine.observer
        self._sweeper = Sweeper(engine, self._runner)
        self._sweeper.tell()
        self._audit = Audit(
            engine, self._binlog_end, lambda: self._sweeper.want("the database's clock went back")
        )
        self._auditor = Auditor(
            self._audit,
            lambda: engine.settings.stream.audit_seconds,
            self._runner,
            self._observer.audited,
        )
        self._sampler = Sampler(engine, self._audit, self._stopping, self._sweeper.want)
        self._feeder = Feeder(engine, self._runner)
        self._reporter = Reporter(engine, self._sweeper, summary) if summary is not None else None
        self._table = TableReading(engine, self._audit, self._sampler)
        self._follow = Follow(
            engine,
            self._table,
            self._auditor,
            self._sampler,
            connected=self._connected,
            streaming=lambda: self._tell_source(Source.UP),
            fresh=self._fresh,
            caught_up=self._sweeper.ready,
        )
        self._written = 0
        self._next_write = 0.0

    # --- life --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until a signal comes (or all is sent, with ``until_caught_up``); raises what it can't handle."""
        self.engine.start()
        # Not only when connected: at boot the database may come later than systemd is willing to wait.
        self._notifier.ready()
        if not self._once:
            self._sampler.start()
            if self._reporter is not None:
                self._reporter.start()
        self._runner.run(
            self._catch_up if self._once else self._go_on,
            tick=self._tick,
            tick_seconds=_TICK_SECONDS,
            hang_up=self.engine.reload,
            clean_up=self._clean_up,
            impatient=self.engine.source.impatient,
        )
        self.engine.source.close()
        log.info("stopped", delivered=self.engine.delivered_count, parked=self.engine.parked_count)

    def _clean_up(self) -> None:
        self._notifier.stopping()
        self._follow.interrupt()
        impatient = self.engine.source.impatient
        with impatient():
            self._auditor.stop()
            self._sampler.stop()
        with impatient():
            self._feeder.join()
            self._sweeper.join()
        if self._reporter is not None:
            self._reporter.join()
        self.engine.stop()

    def _tick(self) -> None:
        """Writes a position that moved without any row of ours, and looks for what other commands ask for."""
        if self._moves:
            self._notifier.alive()
        engine = self.engine
        if not self._stopping.is_set():
            engine.tick()
            if not self._once:
                self._feeder.look()
                self._sweeper.look()
        self._sampler.tell()
        generation = engine.core.parts.results.generation
        if generation != self._written and engine.progress.identity and time.monotonic() >= self._next_write:
            self._written = generation
            self._next_write = time.monotonic() + _CHECKPOINT_SECONDS
            engine.writer.request(generation)

    @property
    def _moves(self) -> bool:
        """Whether the worker comes round, or waits for somebody who has to come back."""
        waits = self._once or self.engine.waits_for_others
        return waits or self._sampler.idle_seconds < _PATIENCE_SECONDS

    # --- once through the table --------------------------------------------------------------------------

    def _catch_up(self) -> None:
        engine = self.engine
        # The position first: what is committed after it is left to the next run, what was before is in the table.
        before = engine.progress.identity
        take_position(engine, anew=True)
        if before is None:
            self._learn_from_index()
        elif engine.progress.identity != before:
            self._sweeper.want("the database is another one", suspicious=True)
        with engine.inside() as core:
            core.hurry()
        self._empty_table()
        while engine.retries.pending:
            engine.tick()
            self._rest()
        self._compare_once()
        engine.flush()

    def _empty_table(self) -> None:
        """Until the table holds nothing that isn't settled."""
        first = True
        while self._table.full() or first:
            first = False
            self._rest()

    def _compare_once(self) -> None:
        """Who lets cron do it needs passes too: a part of one, if it is due, while what is stored meanwhile goes out."""
        self._sweeper.once(failpoints.seconds("once_pass", _ONCE_PASS_SECONDS))
        if not self._sweeper.active:
            return
        read_at = time.monotonic()
        while self._sweeper.active:
            if self._stopping.wait(_REST_SECONDS):
                raise Stopped
            if time.monotonic() - read_at >= _TABLE_ONLY_SECONDS:
                self._table.full()
                read_at = time.monotonic()
        self._empty_table()

    def _rest(self) -> None:
        """Until nothing is left."""
        engine = self.engine
        while not engine.at_rest():
            engine.writer.request(engine.core.parts.results.generation)
            if self._stopping.wait(_REST_SECONDS):
                raise Stopped

    def _binlog_end(self) -> Position | None:
        """The end of the binlog now; None where there is none that we may read."""
        try:
            with self.engine.source.session(database=False) as session:
                return catalogue.binlog_end(session)
        except NoBinlog:
            return None

    # --- the stream --------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        backoff = Backoff()
        rng = random.Random()  # noqa: S311 - jitter
        then = Then.GO_ON
        while not self._stopping.is_set():
            began = time.monotonic()
            self._sampler.moved()
            try:
                try:
                    if then is Then.TABLE_ONLY:
                        self._table_only()
                        then = Then.GO_ON
                    self._follow.once(fresh_position=then is Then.FRESH_POSITION)
                finally:
                    self._sampler.lost()
            except IndexerError as error:
                what = recovery(error)
                if what.then is Then.END:
                    raise
                self._say(what, error)
                then = what.then
                if then is Then.FRESH_POSITION:
                    # The same server by name, but perhaps restored: what was read before may be another one's.
                    self.engine.source.renew()
                if what.sweep:
                    self._sweeper.want(what.said)
                if time.monotonic() - began > backoff.cap_seconds:
                    backoff = Backoff()
                pause = what.pause_seconds if what.pause_seconds is not None else backoff.delay(rng)
                if what.pause_seconds == 0.0 and backoff.attempt:
                    # The same again and again: it isn't asked without a pause.
                    pause = backoff.delay(rng) if then is not Then.TABLE_ONLY else 0.0
                backoff = backoff.next()
                self._stopping.wait(pause)

    def _table_only(self) -> None:
        """No binlog: goes on from the table alone for a while; returns when it is time to ask for the log again."""
        why = self._source_reason
        again_at = time.monotonic() + _BINLOG_AGAIN_SECONDS
        while not self._stopping.is_set() and time.monotonic() < again_at:
            self._sampler.moved()
            try:
                self._read_table_only()
                self._tell_source(Source.DEGRADED, why)
            except SourceError as error:
                self._sampler.lost()
                self._say(recovery(error), error)
            self._stopping.wait(_TABLE_ONLY_SECONDS)

    def _read_table_only(self) -> None:
        engine = self.engine
        with engine.source.session() as session:
            identity, epoch = session.identity, session.epoch
        with engine.inside() as core:
            core.intake.restart_stream(None, identity, epoch=epoch)
        self._table.full()
        self._sweeper.table_only()
        self._sampler.connected(None)

    def _fresh(self, *, first: bool, other_server: bool) -> None:
        """A position was taken anew: what lies between it and the last one, only the table and the view tell."""
        if first:
            self.engine.begin_scope()
            self._learn_from_index()
        else:
            self._sweeper.want("a position was taken anew", suspicious=other_server)

    def _learn_from_index(self) -> None:
        """A start without a state costs little where the index says what it has: only what differs is sent."""
        engine = self.engine
        engine.sending.ask()
        client = engine.index_client()
        if client is None:
            return
        log.info("the state is new: archive and index are compared before the outbox is read")
        try:
            Sweep(
                engine,
                studies_per_second=_FIRST_PASS_PER_SECOND,
                rest=1.0,
                client=client,
                on_page=self._sampler.moved,
                learning=True,
            ).feed()
        except (IndexUnavailable, TooMany) as error:
            log.warning("the index can't be compared now", reason=str(error))
        # What differs goes behind the live studies.
        self._sweeper.want("the state is new")

    def _connected(self) -> None:
        # Whether there is a stream again after one that couldn't be had, its first event tells.
        if self._source is not Source.DEGRADED:
            self._tell_source(Source.UP)

    def _say(self, what: Recovery, error: IndexerError) -> None:
        if what.said:
            getattr(log, what.level)(what.said, reason=str(error))
        if what.source is not None:
            self._tell_source(what.source, str(error))

    def _tell_source(self, source: Source, reason: str = "") -> None:
        self._source, self._source_reason = source, reason
        self._observer.source(source, reason)


def run(
    settings: Settings,
    *,
    until_caught_up: bool,
    reload: Callable[[], Settings | None],
    observer: Observer | None = None,
    same_index: bool = False,
    summary: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """The command `run`; ``summary`` says how it stands, for the central index.

    Raises FatalError with what a person has to do, SourceError with ``until_caught_up``.
    """
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
        Service(
            settings,
            until_caught_up=until_caught_up,
            same_index=same_index,
            reload=reload,
            observer=observer,
            summary=summary,
        ).run()
    except BaseException as error:
        failed = error
        raise
    finally:
        observer.stopped(failed)
        lock.release()
