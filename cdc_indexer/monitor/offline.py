"""How it stands where no service says so: from the checkpoint, the parked store and the database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pymysql

from cdc_indexer import __version__
from cdc_indexer.model.errors import CheckpointError, IndexerError, NoBinlog, SchemaError, StorageError
from cdc_indexer.monitor.causes import Cause, Problem, as_sentence, parked_problem, worst_first
from cdc_indexer.monitor.report import Report, iso, judged, moment
from cdc_indexer.monitor.texts import span
from cdc_indexer.source import catalogue
from cdc_indexer.source.connection import connect
from cdc_indexer.source.errors import translate
from cdc_indexer.source.outbox import Mark, Outbox
from cdc_indexer.state.checkpoint import Checkpoint, CheckpointFile
from cdc_indexer.state.parked import Parked

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
            for name in ("delivered", "retried", "last_error", "last_delivery_at", "started_at")
        }
        return Report(
            version=__version__,
            center=self._settings.center,
            time=iso(time.time()) or "",
            running=self._holder is not None and self._holder[0] == "run",
            service=service,
            **judged(
                worst_first(self._problems),
                f"{active}; everything that was recorded is with the central index.",
            ),
            **kept,
            **self._known,
        )

    def _wrong(self, cause: Cause, message: str, since: float | None = None) -> None:
        self._problems.append(Problem(cause, since, as_sentence(message)))

    def _read_checkpoint(self) -> Checkpoint | None:
        try:
            checkpoint, _ = CheckpointFile(self._settings.state_dir).load()
        except CheckpointError as error:
            self._wrong(Cause.CHECKPOINT, str(error))
            return None
        if checkpoint is not None:
            self._known |= {
                "position": str(checkpoint.position) if checkpoint.position else None,
                "server": checkpoint.identity.server if checkpoint.identity else None,
                "settled_until": checkpoint.settled.until.isoformat() + "Z",
                "checkpoint_at": iso(checkpoint.time.timestamp()) if checkpoint.time else None,
            }
        return checkpoint

    def _read_parked(self) -> None:
        self._known["parked"] = 0
        if not Parked.exists(self._settings.state_dir):
            return
        try:
            store = Parked(self._settings.state_dir, create=False)
            try:
                count, reasons = store.count, store.reasons(5)
            finally:
                store.close()
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

    def _ask_database(self, checkpoint: Checkpoint) -> None:
        settings = self._settings
        try:
            connection = connect(settings.database)
            try:
                self._known["bytes_behind"] = self._bytes_behind(connection, checkpoint)
            finally:
                connection.close()
            outbox = Outbox(settings.database)
            try:
                self._look_for_rows(outbox, checkpoint)
            finally:
                outbox.close()
        except SchemaError as error:
            self._wrong(Cause.SCHEMA, str(error))
        except IndexerError as error:
            self._wrong(Cause.DATABASE_AWAY, str(error))

    def _bytes_behind(self, connection: Any, checkpoint: Checkpoint) -> int | None:
        if checkpoint.position is None or checkpoint.identity is None:
            return None
        try:
            if catalogue.identity(connection, self._settings.database.name) != checkpoint.identity:
                return None
            return catalogue.bytes_behind(connection, checkpoint.position)
        except (pymysql.Error, OSError) as error:
            # Without the right to see the log, or without a log, the table still tells.
            if isinstance(translate(error, self._settings.database), NoBinlog):
                return None
            raise translate(error, self._settings.database) from None

    def _look_for_rows(self, outbox: Outbox, checkpoint: Checkpoint) -> None:
        settled = checkpoint.settled
        now = outbox.now()
        mark: Mark = (settled.until, _ID_MAX)
        waiting, oldest = 0, None
        for _ in range(_PAGES):
            page = outbox.ids_after(mark, _PAGE, settled.largest(_PAGES))
            for recorded_at, row_id in page:
                if row_id not in settled:
                    waiting += 1
                    oldest = oldest or recorded_at
            if len(page) < _PAGE:
                break
            mark = page[-1]
        self._known |= {
            "waiting": waiting,
            "seconds_behind": max(0.0, round((now - oldest).total_seconds(), 1)) if oldest else 0.0,
        }

    def _judge(self, service: bool, checkpoint: Checkpoint | None) -> None:
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
        elif service or (seconds or 0.0) > LATE_SECONDS:
            remedy = "start the service" if service else "see why cron doesn't start it"
            self._wrong(Cause.NOT_RUNNING, f"No `run` is active{rows}: {remedy}", since)
