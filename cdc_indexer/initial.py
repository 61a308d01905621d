"""`initial`: sends the studies that the PACS already holds, page by page, resumable at any point.

Alone it has its own engine and takes the position before its first page, so that `run` goes on without a gap. Beside a
running `run` it leaves a request (see requests.py), and `run` feeds the pages behind its live studies: one process, one
dispatcher, one order.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import structlog

from cdc_indexer.engine import PATIENCE_SECONDS, Engine
from cdc_indexer.errors import NoBinlog, Stopped
from cdc_indexer.lock import StateLock
from cdc_indexer.mysql import catalogue
from cdc_indexer.mysql.connection import reading
from cdc_indexer.mysql.outbox import Outbox, StudyPage
from cdc_indexer.runner import Runner
from cdc_indexer.settled import IntervalSet
from cdc_indexer.study import study_json

if TYPE_CHECKING:
    from cdc_indexer.config import Settings

log = structlog.get_logger("cdc_indexer")

PAGE = 500


@dataclass(frozen=True, slots=True)
class InitialOptions:
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

    def wants(self, values: Mapping[str, object]) -> bool:
        """Whether a study lies within the dates."""
        if self.since is None and self.until is None:
            return True
        moment = values.get("study_datetime")
        if not isinstance(moment, date):  # a datetime is a date
            return False
        day = moment.date() if isinstance(moment, datetime) else moment
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


@dataclass(frozen=True, slots=True)
class Counted:
    """How far an `initial` came: studies accepted, parked and skipped, and where it is between two study_pks."""

    sent: int
    parked: int
    skipped: int
    at_pk: int
    last_pk: int


class Held:
    """One run of `initial`: feeds the pages to an engine and keeps in its checkpoint how far it came.

    ``behind``: live studies go first, and a study of which a live version is under way is left to that.
    """

    def __init__(self, engine: Engine, outbox: Outbox, options: InitialOptions, *, behind: bool) -> None:
        self._engine = engine
        self._outbox = outbox
        self._options = options
        self._behind = behind
        self._lock = threading.Lock()
        self._open: dict[int, None] = {}
        self._ahead = IntervalSet()
        self._read_pk = 0
        self._sent = self._parked = self._skipped = 0
        self._last_pk = 0
        state = engine.progress.initial
        self.resumed = bool(state and state["selection"] == options.selection and not options.restart)
        if state and self.resumed:
            self._run = state["run"]
            self._read_pk = state["after_pk"]
            self._ahead = IntervalSet(state["ahead"])
            self._sent, self._parked = state["sent"], state["parked"]
        else:
            self._run = str(uuid.uuid4())

    @property
    def counted(self) -> Counted:
        """How far it came."""
        with self._lock:
            return Counted(self._sent, self._parked, self._skipped, self._after_pk(), self._last_pk)

    def feed(self) -> None:
        """Sends everything; returns when all is settled and durable. Stopped ends it, SourceError as well."""
        engine = self._engine
        self._last_pk = self._outbox.last_study_pk()
        engine.writer.wait(engine.progress.set_initial(self._state()))
        pace = _Pace(self._options.rate)
        for page in self._pages():
            generation = 0
            for values in page.studies:
                pk = values["study_pk"]
                assert isinstance(pk, int)  # noqa: S101 - the key by which the page is ordered
                if pk in self._ahead or not self._options.wants(values):
                    continue
                rows = page.rows.get(pk, [])
                if self._options.already_sent:
                    engine.pipeline.settle_unsent(values, rows)
                    with self._lock:
                        self._sent += 1
                        self._read_pk = pk
                    generation = engine.progress.set_initial(self._state())
                else:
                    pace.wait()
                    self._send(pk, values, rows)
            if generation:
                engine.writer.wait(generation)
        while self._open:
            if engine.stopping.wait(0.01):
                raise Stopped
        engine.writer.wait(engine.progress.set_initial(None))

    def _send(self, pk: int, values: Mapping[str, object], rows: list[tuple[int, datetime]]) -> None:
        with self._lock:
            self._open[pk] = None
            self._read_pk = pk
        seed = f"initial:{self._run}:{pk}"
        if not self._engine.pipeline.send_held(
            values, rows, seed, lambda accepted: self._finished(pk, accepted), behind=self._behind
        ):
            with self._lock:
                del self._open[pk]
                self._ahead.add(pk)
                self._skipped += 1

    def _finished(self, pk: int, accepted: bool) -> int:
        with self._lock:
            del self._open[pk]
            self._ahead.add(pk)
            if accepted:
                self._sent += 1
            else:
                self._parked += 1
            return self._engine.progress.set_initial(self._state())

    def _after_pk(self) -> int:
        return next(iter(self._open)) - 1 if self._open else self._read_pk

    def _state(self) -> dict[str, Any]:
        after_pk = self._after_pk()
        self._ahead.remove(0, after_pk)
        return {
            "run": self._run,
            "selection": self._options.selection,
            "after_pk": after_pk,
            "ahead": [list(pair) for pair in self._ahead],
            "sent": self._sent,
            "parked": self._parked,
        }

    def _pages(self) -> Iterator[StudyPage]:
        if self._options.study_iuids:
            uids = self._options.study_iuids
            for start in range(0, len(uids), PAGE):
                page = self._outbox.page_of(uids[start : start + PAGE])
                yield page
            return
        after_pk = self._read_pk
        while True:
            page = self._outbox.page_after(after_pk, PAGE)
            if page.studies:
                yield page
                last = page.studies[-1]["study_pk"]
                assert isinstance(last, int)  # noqa: S101
                after_pk = last
                with self._lock:
                    self._read_pk = max(self._read_pk, last)
            if len(page.studies) < PAGE:
                return


class _Pace:
    """At most ``rate`` a second, evenly."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def wait(self) -> None:
        if not self._interval:
            return
        pause = self._next - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        # A pause that the index made isn't caught up with.
        self._next = max(self._next + self._interval, time.monotonic() - self._interval)


def take_position(engine: Engine) -> None:
    """Before the first page of a first `initial`: `run` will stream from here, and nothing lies between."""
    with reading(engine.settings.database) as connection:
        identity = catalogue.identity(connection, engine.settings.database.name)
        if engine.progress.position is None:
            try:
                position = catalogue.binlog_end(connection)
            except NoBinlog:
                position = None
            engine.progress.restart_stream(position, identity)


def dry_run(settings: Settings, options: InitialOptions) -> None:
    """Prints the JSON of every study that would be sent, one a line; sends and settles nothing."""
    outbox = Outbox(settings.database)
    try:
        after_pk = 0
        while True:
            uids = options.study_iuids
            page = outbox.page_of(uids) if uids else outbox.page_after(after_pk, PAGE)
            for values in page.studies:
                if options.wants(values):
                    sys.stdout.buffer.write(study_json(values, settings.center, settings.fields) + b"\n")
            if uids or len(page.studies) < PAGE:
                break
            last = page.studies[-1]["study_pk"]
            assert isinstance(last, int)  # noqa: S101
            after_pk = last
        sys.stdout.buffer.flush()
    finally:
        outbox.close()


class Initial:
    """The command alone: its own engine, in this process."""

    def __init__(
        self, settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]
    ) -> None:
        self._runner = Runner()
        self._engine = Engine(
            settings,
            self._runner,
            reload=lambda: None,
            patience_seconds=PATIENCE_SECONDS,
            new_center=options.restart,
        )
        self._outbox = Outbox(settings.database)
        self._held = Held(self._engine, self._outbox, options, behind=False)
        self._show = show
        self._done = False

    def run(self) -> bool:
        """Sends everything; False when a signal ended it before."""
        if self._held.resumed:
            log.info("going on where the last initial stopped", after_study_pk=self._held.counted.at_pk)
        self._engine.start()
        self._runner.run(
            self._work,
            tick=lambda: self._show(self._held.counted, self._done),
            tick_seconds=0.25,
            hang_up=lambda: None,
            clean_up=self._engine.stop,
        )
        self._outbox.close()
        return self._done

    def _work(self) -> None:
        take_position(self._engine)
        self._held.feed()
        self._done = True


def initial(settings: Settings, options: InitialOptions, show: Callable[[Counted, bool], None]) -> bool:
    """The command `initial`; ``show`` is told several times a second how far it came, and at the end that it's done.

    False when a signal ended it; the next one goes on from there. Raises SourceError or FatalError with what happened.
    """
    if options.dry_run:
        dry_run(settings, options)
        return True
    lock = StateLock(settings.state_dir, "initial")
    lock.acquire()
    try:
        return Initial(settings, options, show).run()
    finally:
        lock.release()
