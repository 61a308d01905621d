"""How it stands where no service says so: from the state and the database."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from cdc_indexer import __version__
from cdc_indexer.model.errors import IndexerError, NoBinlog, SchemaError, StateError, StorageError
from cdc_indexer.model.position import Position
from cdc_indexer.model.unfinished import INITIAL, UNFINISHED
from cdc_indexer.monitor.causes import Cause, Problem, as_sentence, parked_problem, worst_first
from cdc_indexer.monitor.report import Report, database_of, iso, judged, moment
from cdc_indexer.monitor.texts import span
from cdc_indexer.monitor.unquiet import Unquiet
from cdc_indexer.source import catalogue
from cdc_indexer.source.outbox import Mark, Outbox, open_for_long
from cdc_indexer.source.source import Source
from cdc_indexer.state import checkpoint_copy
from cdc_indexer.state.glance import Glance, glance
from cdc_indexer.state.parked_studies import ParkedStudies

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["Offline"]

#: Without a service, rows that wait for longer than this are too late for any cron.
LATE_SECONDS = 900.0

#: Rows of the outbox that are looked through for unsettled ones; beyond, there are "at least" so many.
_PAGE = 1000
_PAGES = 20

_ID_MAX = 2**64 - 1


class Offline:
    """What can be known without a running service; each part that fails is one problem of the report."""

    def __init__(self, settings: Settings, last: Report | None, holder: tuple[str, int] | None) -> None:
        self._settings = settings
        self._last = last
        self._holder = holder
        self._problems: list[Problem] = []
        #: With `send: stable`, studies that aren't quiet yet; and since when the oldest row waits for something else.
        self._unquiet_studies = 0
        self._late_seconds = 0.0
        self._known: dict[str, Any] = {}

    def report(self) -> Report:
        """The report."""
        checkpoint = self._read_checkpoint()
        self._read_parked()
        if checkpoint is not None:
            self._ask_database(checkpoint)
        last = self._last
        service = last is None or last.service
        self._judge(service, checkpoint)
        active = f"`{self._holder[0]}` is active" if self._holder else "No `run` is active"
        before = last.to_json() if last is not None else {}
        kept: dict[str, Any] = {
            name: before.get(name)
            for name in ("delivered", "retried", "at_index", "last_error", "last_delivery_at", "started_at")
        }
        return Report(
            version=__version__,
            center=self._settings.center,
            time=iso(time.time()) or "",
            running=self._holder is not None and self._holder[0] == "run",
            service=service,
            **judged(
                worst_first(self._problems),
                f"{active}; {self._unquiet()} that was recorded is with the central index.",
            ),
            **kept,
            **self._known,
            database=database_of(self._settings),
        )

    def _wrong(self, cause: Cause, message: str, since: float | None = None) -> None:
        self._problems.append(Problem(cause, since, as_sentence(message)))

    def _read_checkpoint(self) -> Glance | None:
        try:
            checkpoint = glance(self._settings.state_dir)
        except StateError as error:
            self._wrong(Cause.CHECKPOINT, str(error))
            self._read_copy()
            return None
        except StorageError as error:
            self._wrong(Cause.STORAGE, str(error))
            self._read_copy()
            return None
        if checkpoint is not None:
            self._known |= {
                "position": str(checkpoint.position) if checkpoint.position else None,
                "server": checkpoint.identity.server if checkpoint.identity else None,
                "settled_until": checkpoint.settled.until.isoformat() + "Z",
                "checkpoint_at": iso(checkpoint.written.timestamp()) if checkpoint.written else None,
                "last_pass": checkpoint.last_pass,
            }
            if isinstance(checkpoint.last_pass, dict) and (held := checkpoint.last_pass.get("held")):
                self._wrong(Cause.CHANGES_HELD, str(held))
            if checkpoint.unfinished and (self._holder is None or self._holder[0] != INITIAL):
                self._wrong(Cause.INITIAL_UNFINISHED, UNFINISHED)
        return checkpoint

    def _read_copy(self) -> None:
        """How far it was, where the state itself can't be asked. What waits isn't said: the copy doesn't know."""
        copy = checkpoint_copy.read(self._settings.state_dir) or {}
        with suppress(TypeError, KeyError, AttributeError):
            self._known["checkpoint_at"] = copy["time"]
            self._known["settled_until"] = f"{copy['settled']['until']}Z"
            self._known["server"] = copy["source"]["server"]
            self._known["position"] = str(Position(**copy["position"]))

    def _read_parked(self) -> None:
        self._known["parked"] = 0
        if not ParkedStudies.exists(self._settings.state_dir):
            return
        try:
            store = ParkedStudies(self._settings.state_dir)
            try:
                count, reasons = store.count, store.reasons(5)
            finally:
                store.close()
        except StateError:  # said already
            self._known["parked"] = None
            return
        except StorageError as error:
            self._known["parked"] = None
            self._wrong(Cause.STORAGE, str(error))
            return
        self._known |= {
            "parked": count,
            "parked_reasons": [
                {"reason": as_sentence(reason), "count": number} for reason, number in reasons
            ],
        }
        if count:
            self._problems.append(parked_problem(count, None))

    def _ask_database(self, checkpoint: Glance) -> None:
        settings = self._settings
        try:
            with closing(Source(settings.database)) as source:
                self._known["bytes_behind"] = self._bytes_behind(source, checkpoint)
                self._look_for_rows(Outbox(source), checkpoint)
        except SchemaError as error:
            self._wrong(Cause.SCHEMA, str(error))
        except IndexerError as error:
            self._wrong(Cause.DATABASE_AWAY, str(error))

    def _bytes_behind(self, source: Source, checkpoint: Glance) -> int | None:
        if checkpoint.position is None or checkpoint.identity is None:
            return None
        try:
            with source.session() as session:
                if session.identity != checkpoint.identity:
                    return None
                return catalogue.bytes_behind(session, checkpoint.position)
        except NoBinlog:
            # Without the right to see the log, or without a log, the table still tells.
            return None

    def _look_for_rows(self, outbox: Outbox, checkpoint: Glance) -> None:
        settled = checkpoint.settled
        now = outbox.now()
        mark: Mark = (settled.until, _ID_MAX)
        waiting, oldest, late, oldest_open = 0, None, None, None
        unquiet = Unquiet(self._settings, outbox, now)
        for _ in range(_PAGES):
            page = outbox.ids_after(mark, _PAGE, settled.largest(_PAGES))
            unsettled = [mark for mark in page if mark[1] not in settled]
            uncommitted = outbox.unseen([row_id for _, row_id in unsettled])
            committed = [mark for mark in unsettled if mark[1] not in uncommitted]
            oldest_open = oldest_open or min(
                (recorded_at for recorded_at, row_id in unsettled if row_id in uncommitted), default=None
            )
            waiting += len(committed)
            if committed:
                oldest = oldest or committed[0][0]
                late = late or unquiet.first_late(committed)
            if len(page) < _PAGE:
                break
            mark = page[-1]
        if oldest_open is not None and (said := open_for_long(oldest_open, now)):
            self._wrong(Cause.OPEN_TRANSACTION, said)
        self._known |= {
            "waiting": waiting,
            "seconds_behind": max(0.0, round((now - oldest).total_seconds(), 1)) if oldest else 0.0,
        }
        self._late_seconds = (now - late).total_seconds() if late else 0.0
        self._unquiet_studies = len(unquiet.study_pks)

    def _unquiet(self) -> str:
        """What waits for quiet, for a sentence that goes on."""
        count = self._unquiet_studies
        if not count:
            return "everything"
        studies = "1 study waits until it is" if count == 1 else f"{count:,} studies wait until they are"
        return f"{studies} quiet, for a later run (`send: stable`), and everything else"

    def _judge(self, service: bool, checkpoint: Glance | None) -> None:
        """Whether it is a fault that no `run` is active: not for who lets cron do it and has nothing that waits long."""
        if self._holder is not None:
            return
        waiting, seconds = self._known.get("waiting"), self._known.get("seconds_behind")
        rows = ""
        if waiting and seconds:
            rows = f" and {'1 row waits' if waiting == 1 else f'{waiting:,} rows wait'}, the oldest for {span(seconds)}"
        stopped = moment(self._last.time) if self._last is not None else None
        since = stopped.timestamp() if stopped is not None else None
        if checkpoint is None and not self._problems:
            self._wrong(Cause.NOT_RUNNING, "Nothing was sent from here yet: start `run`")
        elif service or self._late_seconds > LATE_SECONDS:
            remedy = "start the service" if service else "see why cron doesn't start it"
            self._wrong(Cause.NOT_RUNNING, f"No `run` is active{rows}: {remedy}", since)
