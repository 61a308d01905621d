"""The studies that the PACS already holds, page by page through an engine, resumable at any point."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from cdc_indexer.flow.progress import Columns
from cdc_indexer.jobs.engine import Engine
from cdc_indexer.model.errors import NoBinlog, Stopped
from cdc_indexer.model.settled import IntervalSet
from cdc_indexer.source import catalogue
from cdc_indexer.source.connection import reading
from cdc_indexer.source.outbox import Outbox, StudyPage

PAGE = 500

#: How many studies are reserved at a time: a live version of one of them waits until it is sent.
_CHUNK = 50


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

    def to_json(self) -> dict[str, Any]:
        """For the request to a running `run`."""
        return {**self.selection, "rate": self.rate, "restart": self.restart}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InitialOptions:
        """What ``to_json`` wrote."""
        return cls(
            since=date.fromisoformat(content["since"]) if content["since"] else None,
            until=date.fromisoformat(content["until"]) if content["until"] else None,
            study_iuids=tuple(content["study_iuids"]),
            rate=content["rate"],
            restart=bool(content["restart"]),
            already_sent=bool(content["already_sent"]),
        )

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

    ``behind``: live studies go first, and a study of which a live version is under way is left to that. ``begun`` is called
    once the beginning is durable: what is interrupted after that can be resumed.
    """

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        options: InitialOptions,
        *,
        behind: bool,
        cancelled: Callable[[], bool] = lambda: False,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._options = options
        self._behind = behind
        self._cancelled = cancelled
        self._begun = begun
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
            if options.restart:
                engine.progress.forget_sent()

    @property
    def counted(self) -> Counted:
        """How far it came."""
        with self._lock:
            return Counted(self._sent, self._parked, self._skipped, self._after_pk(), self._last_pk)

    def feed(self) -> None:
        """Sends everything; returns when all is settled and durable. Stopped ends it, SourceError as well."""
        engine = self._engine
        self._last_pk = self._outbox.last_study_pk()
        engine.writer.wait(engine.progress.follow_initial(self._state))
        self._begun()
        pace = _Pace(self._options.rate)
        for page in self._pages():
            with self._lock:
                wanted = {
                    study_pk_of(values): values
                    for values in page.studies
                    if study_pk_of(values) not in self._ahead and self._options.wants(values)
                }
            if self._options.already_sent:
                self._settle_page(wanted, page)
                continue
            pks = list(wanted)
            for start in range(0, len(pks), _CHUNK):
                chunk = {pk: wanted[pk] for pk in pks[start : start + _CHUNK]}
                self._send_chunk(chunk, page, pace)
        while self._open:
            if self._cancelled() or engine.stopping.wait(0.01):
                raise Stopped
        engine.writer.wait(engine.progress.follow_initial(None))

    def _settle_page(self, wanted: Mapping[int, Mapping[str, object]], page: StudyPage) -> None:
        engine = self._engine
        for pk, values in wanted.items():
            engine.pipeline.settle_unsent(values, page.rows.get(pk, []))
            with self._lock:
                self._sent += 1
                self._read_pk = pk
        engine.writer.wait(engine.progress.initial_moved())

    def _send_chunk(self, chunk: Mapping[int, Mapping[str, object]], page: StudyPage, pace: _Pace) -> None:
        """Sends some studies of a page.

        Beside live studies they are read once more after they have been reserved: from then on a live version waits for
        ours, and none that was sent before is newer than what we send.
        """
        pipeline = self._engine.pipeline
        reserved = []
        for pk, values in chunk.items():
            if self._cancelled():
                raise Stopped
            with self._lock:
                self._read_pk = pk
                sent = not pipeline.policy.updates and self._engine.progress.was_sent(pk)
                if not sent and pipeline.reserve(values):
                    self._open[pk] = None
                    reserved.append(pk)
                else:  # it was sent for good, or a live version of it is on its way, which will do
                    self._ahead.add(pk)
                    self._skipped += 1
        if self._behind and reserved:
            page = self._outbox.page_of_pks(reserved)
            fresh = {study_pk_of(values): values for values in page.studies}
        else:
            fresh = dict(chunk)
        for pk in reserved:
            if pk not in fresh:  # deleted meanwhile
                pipeline.unreserve(chunk[pk])
                self._finished(pk, accepted=None)
                continue
            pace.wait()
            pipeline.send_held(
                fresh[pk],
                page.rows.get(pk, []),
                f"initial:{self._run}:{pk}",
                lambda accepted, pk=pk: self._finished(pk, accepted),  # type: ignore[misc]
                behind=self._behind,
            )

    def _finished(self, pk: int, accepted: bool | None) -> int:
        with self._lock:
            del self._open[pk]
            self._ahead.add(pk)
            if accepted is None:
                self._skipped += 1
            elif accepted:
                self._sent += 1
            else:
                self._parked += 1
        return self._engine.progress.initial_moved()

    def _after_pk(self) -> int:
        return next(iter(self._open)) - 1 if self._open else self._read_pk

    def _state(self) -> dict[str, Any]:
        """For the checkpoint, asked for when that is written."""
        with self._lock:
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
                yield self._outbox.page_of(uids[start : start + PAGE])
            return
        after_pk = self._read_pk
        while True:
            page = self._outbox.page_after(after_pk, PAGE)
            if page.studies:
                yield page
                after_pk = study_pk_of(page.studies[-1])
                with self._lock:
                    self._read_pk = max(self._read_pk, after_pk)
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


def study_pk_of(values: Mapping[str, object]) -> int:
    """The key by which pages are ordered."""
    study_pk = values["study_pk"]
    assert isinstance(study_pk, int)
    return study_pk


def take_position(engine: Engine, *, anew: bool = False) -> None:
    """Before the table is read: `run` will stream from here, and nothing lies between. ``anew``: also if there is one."""
    database = engine.settings.database.name
    with reading(engine.settings.database) as connection:
        identity = catalogue.identity(connection, database)
        if anew or engine.progress.position is None:
            try:
                position, columns = catalogue.fresh_position(connection, database, identity.table)
            except NoBinlog:
                position, columns = None, None
            engine.progress.restart_stream(position, identity, plain(columns))


def plain(columns: tuple[catalogue.Column, ...] | None) -> Columns | None:
    """Columns as the checkpoint keeps them."""
    if columns is None:
        return None
    return tuple((column.name, column.data_type, column.unsigned) for column in columns)
