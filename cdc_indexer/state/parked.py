"""The parked store: studies that the central index rejected, kept until somebody retries or discards them.

A SQLite file of our account alone, opened by `run` and by the command `parked` at the same time. An entry that is done
with (accepted, superseded, discarded) loses its document and answer at once, and stays as a line for a while so that an
administrator can see what became of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdc_indexer.model.errors import StorageError
from cdc_indexer.state.lock import make_state_dir, own_as_directory

if TYPE_CHECKING:
    from cdc_indexer.delivery.dispatcher import Delivery
    from cdc_indexer.model.outcome import Outcome

__all__ = ["FILE_NAME", "Entry", "Parked", "State"]

FILE_NAME = "parked.sqlite"

#: How long the line of an entry that is done with stays.
CLOSED_KEPT = timedelta(days=90)

_BUSY_SECONDS = 10.0
_PAGE = 500
_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS parked (
    entry           INTEGER PRIMARY KEY AUTOINCREMENT,
    state           TEXT NOT NULL,
    study_key       TEXT NOT NULL,
    study_pk        INTEGER NOT NULL,
    study_iuid      TEXT NOT NULL,
    operation       TEXT NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE,
    first_version   INTEGER NOT NULL,
    outbox_ids      TEXT NOT NULL,
    body            BLOB,
    status          INTEGER,
    reason          TEXT NOT NULL,
    answer          TEXT,
    parked_at       TEXT NOT NULL,
    closed_at       TEXT
);
CREATE INDEX IF NOT EXISTS open_of_study ON parked (study_key) WHERE closed_at IS NULL;
CREATE INDEX IF NOT EXISTS requested ON parked (entry) WHERE state = 'retry';
"""

_PARK = """
INSERT INTO parked (state, study_key, study_pk, study_iuid, operation, idempotency_key, first_version, outbox_ids,
                    body, status, reason, answer, parked_at)
VALUES ('parked', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (idempotency_key) DO UPDATE SET
    state = 'parked', closed_at = NULL, body = excluded.body, status = excluded.status, reason = excluded.reason,
    answer = excluded.answer, parked_at = excluded.parked_at
"""

_CLOSE = "UPDATE parked SET state = ?, closed_at = ?, body = NULL, answer = NULL WHERE closed_at IS NULL AND "

_SELECT = """
SELECT entry, state, study_key, study_pk, study_iuid, operation, idempotency_key, first_version, outbox_ids, body, status,
       reason, answer, parked_at
FROM parked
"""


class State(str, Enum):
    """What is the matter with an entry; the first two are open."""

    PARKED = "parked"
    RETRY = "retry"
    ACCEPTED = "accepted"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Entry:
    """One parked delivery. ``study_key`` is the dispatcher's; ``operation`` is 'post' or 'delete'.

    ``body`` is the document (None for a deletion; empty where the row couldn't become one, so that there is nothing to
    send again). ``parked_at`` is UTC, ISO 8601. ``body`` and ``answer`` hold patient data.
    """

    id: int
    state: State
    study_key: str
    study_pk: int
    study_iuid: str
    operation: str
    idempotency_key: str
    first_version: bool
    outbox_ids: tuple[int, ...]
    body: bytes | None
    status: int | None
    reason: str
    answer: str
    parked_at: str

    @property
    def open(self) -> bool:
        """Whether it still awaits something."""
        return self.state in (State.PARKED, State.RETRY)

    @property
    def sendable(self) -> bool:
        """Whether there is something to send again."""
        return self.operation == "delete" or bool(self.body)


class Parked:
    """The store in ``state_dir``; thread-safe. Every method raises StorageError when the file can't be used.

    With ``create=False`` there must be one: see :meth:`exists`.
    """

    def __init__(self, state_dir: Path, *, create: bool = True) -> None:
        self._path = state_dir / FILE_NAME
        self._lock = threading.Lock()
        if create:
            make_state_dir(state_dir)
        with self._storage():
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            # SQLite would make it readable for everybody; its journals get the mode of the file.
            descriptor = os.open(self._path, flags, 0o600)
            try:
                own_as_directory(descriptor, state_dir)
            finally:
                os.close(descriptor)
            self._database = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    @staticmethod
    def exists(state_dir: Path) -> bool:
        """Whether anything was ever parked there."""
        return (state_dir / FILE_NAME).exists()

    def _prepare(self) -> None:
        version = self._value("PRAGMA user_version")
        if version not in (0, _VERSION):
            raise StorageError(
                f"{self._path} was written by a newer version of this program: upgrade this one."
            )
        # WAL: whoever lists never makes `run` wait. FULL: an entry that is written survives a power cut.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._database.execute(f"PRAGMA {pragma}")
        if version == 0:
            self._database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
        before = (datetime.now(timezone.utc) - CLOSED_KEPT).isoformat(timespec="seconds")
        self._database.execute("DELETE FROM parked WHERE closed_at < ?", (before,))
        self._any_open = bool(self._value("SELECT EXISTS (SELECT 1 FROM parked WHERE closed_at IS NULL)"))

    # --- what the service says ---------------------------------------------------------------------------

    def park(self, delivery: Delivery, outcome: Outcome) -> None:
        """Keeps a rejected delivery; on return it is on the disk. The same one again is one entry."""
        with self._storage():
            self._database.execute(
                _PARK,
                (
                    delivery.key,
                    delivery.study_pk,
                    delivery.study_iuid,
                    "delete" if delivery.body is None else "post",
                    delivery.idempotency_key,
                    delivery.first_version,
                    json.dumps([row_id for row_id, _ in delivery.rows]),
                    delivery.body,
                    outcome.status,
                    outcome.reason,
                    outcome.answer,
                    _now(),
                ),
            )
            self._any_open = True

    def accepted(self, delivery: Delivery) -> None:
        """Closes what is older than a delivery that was accepted, and its own entry if it has one."""
        if not self._any_open:  # nearly always
            return
        with self._storage():
            own = self._value(
                "SELECT entry FROM parked WHERE idempotency_key = ?", (delivery.idempotency_key,)
            )
            if own is None:
                self._close("study_key = ?", State.SUPERSEDED, delivery.key)
            else:
                self._close("entry = ?", State.ACCEPTED, own)
                self._close("study_key = ? AND entry < ?", State.SUPERSEDED, delivery.key, own)

    # --- what the command says ---------------------------------------------------------------------------

    def entries(self, *, closed: bool = False) -> Iterator[Entry]:
        """The open entries, oldest first, or with ``closed`` all."""
        where = "TRUE" if closed else "closed_at IS NULL"
        last = 0
        while True:
            page = self._select(f"entry > ? AND {where} ORDER BY entry LIMIT {_PAGE}", last)
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].id

    def get(self, entry_id: int) -> Entry | None:
        """One entry, open or closed."""
        found = self._select("entry = ?", entry_id)
        return found[0] if found else None

    @property
    def count(self) -> int:
        """How many entries are open."""
        with self._storage():
            return int(self._value("SELECT COUNT(*) FROM parked WHERE closed_at IS NULL"))

    def reasons(self, limit: int) -> tuple[tuple[str, int], ...]:
        """The most frequent reasons of the open entries, each with how many have it."""
        sql = "SELECT reason, COUNT(*) FROM parked WHERE closed_at IS NULL GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?"
        with self._storage():
            return tuple(self._database.execute(sql, (limit,)).fetchall())

    def request_retry(self, entry_ids: Collection[int] | None = None) -> int:
        """Marks open entries (None: all) to be sent again by whoever holds the state directory; how many."""
        return self._each(
            entry_ids,
            "UPDATE parked SET state = 'retry' WHERE closed_at IS NULL AND length(body) IS NOT 0 AND ",
            (),
        )

    def requested(self, after_id: int = 0, limit: int = _PAGE) -> list[Entry]:
        """The open entries that are marked, oldest first; ``limit`` -1 for all."""
        return self._select(f"entry > ? AND state = 'retry' ORDER BY entry LIMIT {int(limit)}", after_id)

    def discard(self, entry_ids: Collection[int] | None = None) -> int:
        """Closes open entries (None: all) and erases their documents; how many."""
        count = self._each(entry_ids, _CLOSE, (State.DISCARDED.value, _now()))
        with self._storage():
            # What was erased may still stand in the write-ahead log.
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    # --- inside ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                raise StorageError(
                    f"The parked store {self._path} can't be used ({why}): free its disk or repair the file."
                ) from None

    def _value(self, sql: str, args: tuple[Any, ...] = ()) -> Any:
        row = self._database.execute(sql, args).fetchone()
        return row[0] if row else None

    def _close(self, where: str, state: State, *args: object) -> None:
        self._database.execute(_CLOSE + where, (state.value, _now(), *args))

    def _each(self, entry_ids: Collection[int] | None, sql: str, args: tuple[Any, ...]) -> int:
        with self._storage():
            if entry_ids is None:
                return self._database.execute(f"{sql} TRUE", args).rowcount
            return sum(
                self._database.execute(f"{sql} entry = ?", (*args, entry_id)).rowcount
                for entry_id in entry_ids
            )

    def _select(self, where: str, *args: object) -> list[Entry]:
        with self._storage():
            rows = self._database.execute(f"{_SELECT} WHERE {where}", args).fetchall()
        return [_entry(*row) for row in rows]


def _entry(
    entry: int,
    state: str,
    key: str,
    pk: int,
    uid: str,
    operation: str,
    idempotency_key: str,
    first_version: int,
    outbox_ids: str,
    body: bytes | None,
    status: int | None,
    reason: str,
    answer: str | None,
    parked_at: str,
) -> Entry:
    """An Entry from a row of _SELECT."""
    return Entry(
        entry,
        State(state),
        key,
        pk,
        uid,
        operation,
        idempotency_key,
        bool(first_version),
        tuple(json.loads(outbox_ids)),
        body,
        status,
        reason,
        answer or "",
        parked_at,
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
