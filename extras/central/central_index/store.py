"""The studies on disk: one SQLite file, one writer, many readers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from central_index.document import FIELDS, Study

_FORMAT = 1
#: Repeated requests come within days, at the latest when a centre's parked studies are sent again.
_REMEMBERED_SECONDS = 90 * 86_400
#: So many changes share one wait on the disk, at most.
_GROUP = 1_000

_SCHEMA = f"""
CREATE TABLE studies (
    id INTEGER PRIMARY KEY,
    {", ".join(f"{field} {'INTEGER' if field.endswith(('_pk', '_series', '_instances')) else 'TEXT'}" for field in FIELDS)},
    more TEXT NOT NULL,
    first_received_at REAL NOT NULL,
    received_at REAL NOT NULL,
    versions INTEGER NOT NULL,
    UNIQUE (center, study_iuid)
);
CREATE INDEX studies_of_patient ON studies (patient_id);
CREATE INDEX studies_of_day ON studies (study_datetime);
CREATE INDEX studies_of_center ON studies (center, id);
-- Words of patient_name and patient_id, without accents.
CREATE VIRTUAL TABLE patient_words USING fts5 (words, tokenize = 'unicode61 remove_diacritics 2');
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    key_digest BLOB NOT NULL UNIQUE,
    received_at REAL NOT NULL
);
PRAGMA user_version = {_FORMAT};
"""
_UPSERT = f"""
INSERT INTO studies ({", ".join(FIELDS)}, more, first_received_at, received_at, versions)
VALUES ({", ".join("?" * len(FIELDS))}, ?, ?, ?, 1)
ON CONFLICT (center, study_iuid) DO UPDATE SET
    {", ".join(f"{field} = excluded.{field}" for field in FIELDS)},
    more = excluded.more, received_at = excluded.received_at, versions = versions + 1
RETURNING id
"""


class UnusableStore(Exception):
    """The file can't be used; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of a study, as its centre sent it. ``received_at`` in seconds since 1970."""

    idempotency_key: str | None
    received_at: float
    study: Study

    @property
    def center(self) -> str:
        return self.study.center


@dataclass(frozen=True, slots=True)
class Deleted:
    """A study that its centre doesn't hold any more."""

    idempotency_key: str | None
    received_at: float
    center: str
    study_iuid: str


Change: TypeAlias = "Stored | Deleted"


@dataclass(frozen=True, slots=True)
class Filters:
    """What a reader looks for; None is anything.

    ``patient``: words that the name or the id has, or their beginnings, whatever case and accents. ``from_date`` and
    ``to_date``: YYYY-MM-DD, both included. ``after``: the `id` of the last study of the page before.
    """

    patient: str | None = None
    patient_id: str | None = None
    study_iuid: str | None = None
    modality: str | None = None
    center: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    after: int | None = None
    limit: int = 50


class Store:
    """Opens the file, or makes it. `write` returns once a change is on the disk.

    ``on_change`` is called after each commit, in the writer's thread.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        """Raises UnusableStore."""
        self._path = path
        self._on_change = on_change
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        try:
            # Names of patients: for this account only. SQLite's other files take their mode from this one.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._prepare()
        except OSError as error:
            raise UnusableStore(f"{path} can't be opened: {error.strerror}.") from None
        except sqlite3.Error as error:
            raise UnusableStore(f"{path} can't be used: {error}.") from None
        self._thread = threading.Thread(target=self._write_all, name="writer")
        self._thread.start()

    def _prepare(self) -> None:
        connection = self._connection
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _FORMAT):
            raise UnusableStore(f"{self._path} is of format {found}, this program knows {_FORMAT}.")
        # A 201 tells a centre to forget the study: it must be on the disk by then.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def close(self) -> None:
        """Finishes what was asked for."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    # --- writing -----------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> list[bool]:
        """For each change whether it was carried out or known already; False: a study to delete that isn't there.

        All of them or none. Raises what the disk or SQLite fails with.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[bool]] = loop.create_future()
        self._jobs.put(_Job(changes, loop, done))
        return await done

    def _write_all(self) -> None:
        """In the writer's thread: what has come while the disk was written goes into the next transaction together."""
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            count = len(job.changes)
            ending = False
            while count < _GROUP and not ending:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                else:
                    jobs.append(more)
                    count += len(more.changes)
            self._commit(jobs)
            if ending:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        connection = self._connection
        try:
            with _transaction(connection):
                results = [[self._apply(change) for change in job.changes] for job in jobs]
                self._forget_old_requests(sum(map(len, results)))
        except Exception as error:
            # Whatever it is: who waits is told, and the thread goes on.
            for job in jobs:
                job.fail(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.succeed(result)
        self._on_change()

    def _apply(self, change: Change) -> bool:
        if change.idempotency_key is not None:
            key = f"{change.center}\0{change.idempotency_key}".encode(errors="replace")
            known = self._connection.execute(
                "INSERT OR IGNORE INTO requests (key_digest, received_at) VALUES (?, ?)",
                (hashlib.blake2b(key, digest_size=16).digest(), change.received_at),
            )
            if known.rowcount == 0:
                return True
        return self._delete(change) if isinstance(change, Deleted) else self._store(change)

    def _store(self, change: Stored) -> bool:
        study = change.study
        values = [getattr(study, field) for field in FIELDS]
        more = json.dumps(study.more, ensure_ascii=False)
        row = self._connection.execute(
            _UPSERT, [*values, more, change.received_at, change.received_at]
        ).fetchone()
        self._connection.execute(
            "REPLACE INTO patient_words (rowid, words) VALUES (?, ?)",
            (row[0], f"{study.patient_name or ''} {study.patient_id or ''}"),
        )
        return True

    def _delete(self, change: Deleted) -> bool:
        row = self._connection.execute(
            "DELETE FROM studies WHERE center = ? AND study_iuid = ? RETURNING id",
            (change.center, change.study_iuid),
        ).fetchone()
        if row is None:
            return False
        self._connection.execute("DELETE FROM patient_words WHERE rowid = ?", row)
        return True

    def _forget_old_requests(self, count: int) -> None:
        """A few more than came, the oldest first: no transaction is ever long."""
        self._connection.execute(
            "DELETE FROM requests WHERE id IN (SELECT id FROM requests ORDER BY id LIMIT ?) AND received_at < ?",
            (2 * count, time.time() - _REMEMBERED_SECONDS),
        )

    # --- reading -----------------------------------------------------------------------------------------

    def search(self, filters: Filters) -> list[dict[str, Any]]:
        """At most ``limit`` studies, the one that came first last. May take a while: call it in a thread."""
        conditions, values = _conditions(filters)
        with self._reader() as connection:
            rows = connection.execute(
                f"SELECT id, {', '.join(FIELDS)}, more, first_received_at, received_at, versions FROM studies "
                f"WHERE {' AND '.join(conditions) or 'TRUE'} ORDER BY id DESC LIMIT ?",
                [*values, filters.limit],
            ).fetchall()
        return [_as_json(row) for row in rows]

    def count(self) -> int:
        """How many studies there are."""
        with self._reader() as connection:
            count: int = connection.execute("SELECT count(*) FROM studies").fetchone()[0]
            return count

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = ON")
            yield connection


@dataclass(frozen=True, slots=True)
class _Job:
    changes: Sequence[Change]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[bool]]

    def succeed(self, result: list[bool]) -> None:
        self.loop.call_soon_threadsafe(self._finish, result, None)

    def fail(self, error: Exception) -> None:
        self.loop.call_soon_threadsafe(self._finish, None, error)

    def _finish(self, result: list[bool] | None, error: Exception | None) -> None:
        # Cancelled when who asked has gone.
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result or [])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _conditions(filters: Filters) -> tuple[list[str], list[object]]:
    found: list[tuple[str, object]] = []
    for column in ("patient_id", "study_iuid", "center"):
        value = getattr(filters, column)
        if value is not None:
            found.append((f"{column} = ?", value))
    if filters.patient is not None:
        # Each word in quotes is a word to FTS5, whatever it holds, and with * the beginning of one.
        words = " ".join('"{}"*'.format(word.replace('"', '""')) for word in filters.patient.split())
        found.append(("id IN (SELECT rowid FROM patient_words WHERE patient_words MATCH ?)", words or '""'))
    if filters.modality is not None:
        # DICOM parts the values of one field by a backslash: CT\SR.
        found.append((r"instr('\' || study_modality || '\', '\' || ? || '\') > 0", filters.modality.upper()))
    if filters.from_date is not None:
        found.append(("study_datetime >= ?", f"{filters.from_date} 00:00:00"))
    if filters.to_date is not None:
        found.append(("study_datetime <= ?", f"{filters.to_date} 23:59:59"))
    if filters.after is not None:
        found.append(("id < ?", filters.after))
    return [condition for condition, _ in found], [value for _, value in found]


def _as_json(row: Sequence[Any]) -> dict[str, Any]:
    number, *values, more, first_received_at, received_at, versions = row
    return {
        **json.loads(more),
        "id": number,
        **dict(zip(FIELDS, values, strict=True)),
        "first_received_at": _moment(first_received_at),
        "received_at": _moment(received_at),
        "versions": versions,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")
