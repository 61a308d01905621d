"""The studies that the archive already holds, page by page through an engine, resumable at any point."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, NamedTuple

from cdc_indexer.flow.backfill import Backfill, Counted
from cdc_indexer.flow.progress import Columns
from cdc_indexer.flow.readings import Found, Reading
from cdc_indexer.jobs.engine import Engine
from cdc_indexer.model.errors import InvalidStudy, NoBinlog, SourceChanged, Stopped
from cdc_indexer.model.unfinished import ALL, INITIAL
from cdc_indexer.source import catalogue
from cdc_indexer.source.outbox import Outbox, StudyPage

__all__ = ["ALL", "Initial", "InitialOptions", "draw", "plain", "study_pk_of", "take_position"]

PAGE = 500


#: How many studies are offered at a time: a live version of one of them waits until it is sent.
_CHUNK = 50

#: With a rate so many seconds' worth of them.
_EVENLY_SECONDS = 0.1


class InitialOptions(NamedTuple):
    """What the command line asks for. Dates are inclusive, of study_datetime; ``rate`` is in studies a second."""

    since: date | None = None
    until: date | None = None
    study_iuids: tuple[str, ...] = ()
    rate: float | None = None
    restart: bool = False
    dry_run: bool = False
    already_sent: bool = False

    @property
    def selection(self) -> dict[str, Any]:
        """What tells one run of `initial` from another when it is taken up again."""
        return {
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "study_iuids": list(self.study_iuids),
            "already_sent": self.already_sent,
        }

    @property
    def whole(self) -> bool:
        """Whether it goes through the whole archive."""
        return self.since is None and self.until is None and not self.study_iuids

    def wants(self, values: Mapping[str, object]) -> bool:
        """Whether a study lies within the dates."""
        if self.since is None and self.until is None:
            return True
        moment = values.get("study_datetime")
        if not isinstance(moment, date):  # a datetime is a date
            return False
        day = moment.date() if isinstance(moment, datetime) else moment
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


class Initial:
    """One run of `initial`: feeds the pages to an engine, and keeps in its state how far it came.

    ``begun`` is called once the beginning is durable: what is interrupted after that can be resumed.
    """

    NAME = INITIAL

    def __init__(
        self,
        engine: Engine,
        options: InitialOptions,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._outbox = Outbox(engine.source)
        self._options = options
        self._cancelled = cancelled
        self._begun = begun
        self._last_pk = 0
        state = engine.jobs.get(self.NAME)
        self.resumed = bool(state and state.get("selection") == options.selection and not options.restart)
        self._backfill = Backfill(
            self.NAME, str(uuid.uuid4()), options.selection, state if self.resumed else None
        )

    @property
    def counted(self) -> Counted:
        """How far it came."""
        with self._engine.inside():
            backfill = self._backfill
            return Counted(backfill.sent, backfill.parked, backfill.skipped, backfill.after_pk, self._last_pk)

    def state(self) -> dict[str, Any]:
        """For who takes it up again."""
        with self._engine.inside():
            return self._backfill.state()

    def feed(self) -> None:
        """Sends everything; returns when all is settled and durable. Stopped ends it, SourceError as well."""
        jobs = self._engine.jobs
        try:
            self._feed()
        except BaseException:
            # In the same `run` another one may go on with it.
            jobs[self.NAME] = self.state()
            raise
        jobs.pop(self.NAME, None)

    def _feed(self) -> None:
        engine = self._engine
        self._last_pk = self._outbox.last_study_pk()
        with engine.inside() as core:
            core.parts.results.follow(self._backfill)
        engine.flush()
        self._begun()
        pace = _Pace(self._options.rate)
        after_pk = self._backfill.after_pk
        for uids in self._parts():
            while True:
                with self._page(after_pk, uids) as (page, version, epoch):
                    if self._options.already_sent:
                        self._adopt(page, version)
                    else:
                        self._offer(page, version, epoch, pace)
                if uids or len(page.studies) < PAGE:
                    break
                after_pk = study_pk_of(page.studies[-1])
        while self._backfill.open:
            if self._cancelled() or engine.stopping.wait(0.01):
                raise Stopped
        with engine.inside() as core:
            core.parts.results.forget(self.NAME)
        if self._options.whole:
            engine.remember("scope", ALL)
        engine.flush()

    def _parts(self) -> Iterator[tuple[str, ...]]:
        """The named UIDs, some at a time; one empty part for all studies."""
        uids = self._options.study_iuids
        for start in range(0, max(len(uids), 1), PAGE):
            yield uids[start : start + PAGE]

    @contextmanager
    def _page(self, after_pk: int, uids: tuple[str, ...]) -> Iterator[tuple[StudyPage, int, int]]:
        """The next page, the version of its values, and the epoch in which it was read."""
        engine = self._engine
        epoch = engine.source.epoch
        version = draw(engine)
        outbox = self._outbox.at(epoch)
        yield (outbox.page_of(uids) if uids else outbox.page_after(after_pk, PAGE)), version, epoch

    def _adopt(self, page: StudyPage, version: int) -> None:
        engine = self._engine
        with engine.inside() as core:
            for values in page.studies:
                if not self._options.wants(values):
                    continue
                rows = page.rows.get(study_pk_of(values), ())
                try:
                    core.backfills.adopt(values, rows, version, self._backfill)
                except InvalidStudy:
                    self._backfill.skipped += 1
        engine.flush()

    def _offer(self, page: StudyPage, version: int, epoch: int, pace: _Pace) -> None:
        wanted = [values for values in page.studies if self._options.wants(values)]
        for start in range(0, len(wanted), pace.together):
            self._engine.wait_for_room_behind()
            chunk = wanted[start : start + pace.together]
            if self._engine.stopping.wait(pace.pause_before(len(chunk))) or self._cancelled():
                raise Stopped
            self._offer_chunk(chunk, page, version, epoch)
        if page.studies and not self._options.study_iuids:
            with self._engine.inside():
                self._backfill.passed(study_pk_of(page.studies[-1]))

    def _offer_chunk(
        self, chunk: list[Mapping[str, object]], page: StudyPage, version: int, epoch: int
    ) -> None:
        engine = self._engine
        with engine.inside() as core:
            reading = core.backfills.offer(self._backfill, chunk, page.rows, version, epoch, engine.now())
        if reading is None:
            raise SourceChanged("The database is another one than before: the page is read again.")
        decide(engine, reading)


def draw(engine: Engine) -> int:
    """A version, before a reading begins; Stopped at the end."""
    return draw_after(engine)[1]


def draw_after(engine: Engine) -> tuple[int, int]:
    """A version, and the highest before it: between these two none is drawn. Stopped at the end."""
    while True:
        with engine.inside() as core:
            core.parts.enter(engine.source.epoch)
            before = core.parts.clock.last
            version = core.looks.draw(engine.now())
            if version is not None:
                return before, version
            seconds = core.looks.wait_seconds(engine.now())
            generation = core.parts.results.generation
        if not seconds:
            engine.writer.wait(generation)
        elif engine.stopping.wait(seconds):
            raise Stopped


def decide(engine: Engine, reading: Reading) -> None:
    """What the ledger says of the studies of a page, and what follows."""
    try:
        entries = engine.store.lookup(reading.keys)
        with engine.inside() as core:
            core.looks.end(reading, Found(reading.epoch, entries=entries), engine.now())
            generation = core.parts.results.generation
    finally:
        with engine.inside() as core:
            core.looks.give_back(reading, engine.now())
    engine.writer.request(generation)
    engine.sending.wake()


class _Pace:
    """At most ``rate`` a second, evenly. ``together``: how many may go at a time."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()
        self.together = max(1, min(_CHUNK, int(rate * _EVENLY_SECONDS))) if rate else _CHUNK

    def pause_before(self, count: int) -> float:
        """How many seconds to wait before so many go."""
        now = time.monotonic()
        pause = max(0.0, self._next - now)
        # A pause that the index made isn't caught up with.
        self._next = max(self._next, now) + self._interval * count
        return pause if self._interval else 0.0


def study_pk_of(values: Mapping[str, object]) -> int:
    """The key by which pages are ordered."""
    study_pk = values["study_pk"]
    assert isinstance(study_pk, int)
    return study_pk


def take_position(engine: Engine, *, anew: bool = False) -> None:
    """Before the table is read: `run` will stream from here, and nothing lies between. ``anew``: also if there is one."""
    engine.measure_clock()
    if not anew and engine.progress.position is not None:
        return
    with engine.source.session() as session:
        try:
            position, columns = catalogue.fresh_position(session)
        except NoBinlog:
            position, columns = None, None
        identity, epoch = session.identity, session.epoch
    with engine.inside() as core:
        core.intake.restart_stream(position, identity, plain(columns), epoch=epoch)
    engine.begin_scope()


def plain(columns: tuple[catalogue.Column, ...] | None) -> Columns | None:
    """Columns as the state keeps them."""
    if columns is None:
        return None
    return tuple((column.name, column.data_type, column.unsigned) for column in columns)
