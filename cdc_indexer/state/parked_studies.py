"""The parked studies, for whoever lists, retries or discards them: `run`, and the command `parked` beside it.

The service parks and closes in the step that settles (store.py). An entry that is done with loses its document and answer at
once, and stays as a line for a while so that an administrator can see what became of it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from cdc_indexer.model.changes import State
from cdc_indexer.model.errors import LedgerDamaged, StateError, StorageError
from cdc_indexer.state._database import connect, keep_open, value_of
from cdc_indexer.state._files import FILE_NAME, check_file, check_place, damaged, meaning
from cdc_indexer.state._parking import CLOSE, now
from cdc_indexer.state._probe import WriteProbe

__all__ = ["CLOSED_KEPT", "ParkedStudies", "ParkedStudy"]

#: How long the line of an entry that is done with stays.
CLOSED_KEPT = timedelta(days=90)

_PAGE = 500
_CACHE_KILOBYTES = 500
_TRIES, _PAUSE_SECONDS = 30, 0.1

_SELECT = """
SELECT entry, state, study_key, study_pk, study_iuid, operation, idempotency_key, outbox_ids, body, status, reason, answer,
       parked_at
FROM parked
"""


class ParkedStudy(NamedTuple):
    """One entry. ``parked_at`` is UTC, ISO 8601; all else as in ``Parking``. ``body`` and ``answer`` hold patient data."""

    id: int
    state: State
    study_key: str
    study_pk: int
    study_iuid: str
    operation: str
    idempotency_key: str
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


class ParkedStudies:
    """Those in the state of ``state_dir``, which must be there; thread-safe.

    Raises StateError when it can't be used, StorageError when it can't be read or written just now.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._probe = WriteProbe(state_dir)
        check_place(state_dir)
        if not check_file(state_dir):
            raise StateError(f"{self._path} isn't there: `run` or `initial` begins it.")
        with self._database() as db:
            before = (datetime.now(timezone.utc) - CLOSED_KEPT).isoformat(timespec="seconds")
            if value_of(db, "SELECT EXISTS (SELECT 1 FROM parked WHERE closed_at < ?)", (before,)):
                db.execute("DELETE FROM parked WHERE closed_at < ?", (before,))

    @staticmethod
    def exists(state_dir: Path) -> bool:
        """Whether there is a state in which studies can be parked."""
        return (state_dir / FILE_NAME).exists()

    def entries(self, *, closed: bool = False) -> Iterator[ParkedStudy]:
        """The open entries, oldest first, or with ``closed`` all."""
        where = "1" if closed else "closed_at IS NULL"
        last = 0
        while True:
            page = self._select(f"entry > ? AND {where} ORDER BY entry LIMIT {_PAGE}", last)
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].id

    def get(self, entry_id: int) -> ParkedStudy | None:
        """One entry, open or closed."""
        found = self._select("entry = ?", entry_id)
        return found[0] if found else None

    @property
    def count(self) -> int:
        """How many entries are open."""
        with self._database() as db:
            return int(value_of(db, "SELECT COUNT(*) FROM parked WHERE closed_at IS NULL"))

    def reasons(self, limit: int) -> tuple[tuple[str, int], ...]:
        """The most frequent reasons of the open entries, each with how many have it."""
        sql = "SELECT reason, COUNT(*) FROM parked WHERE closed_at IS NULL GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?"
        with self._database() as db:
            return tuple(db.execute(sql, (limit,)).fetchall())

    def request_retry(self, entry_ids: Collection[int] | None = None) -> int:
        """Marks open entries (None: all) to be sent again by whoever holds the state directory; how many."""
        return self._each(
            entry_ids,
            "UPDATE parked SET state = 'retry' WHERE closed_at IS NULL AND length(body) IS NOT 0 AND ",
            (),
        )

    def retry_rejected_since(self, since: float) -> int:
        """Marks what the index has rejected since then (seconds since 1970); how many."""
        moment = datetime.fromtimestamp(since, timezone.utc).isoformat(timespec="seconds")
        return self._each(
            None,
            "UPDATE parked SET state = 'retry' WHERE closed_at IS NULL AND status BETWEEN 400 AND 499 AND status <> 409 "
            "AND parked_at >= ? AND length(body) IS NOT 0 AND ",
            (moment,),
        )

    def requested(self, after_id: int = 0, limit: int = _PAGE) -> list[ParkedStudy]:
        """The open entries that are marked, oldest first; ``limit`` -1 for all."""
        return self._select(f"entry > ? AND state = 'retry' ORDER BY entry LIMIT {int(limit)}", after_id)

    def discard(self, entry_ids: Collection[int] | None = None) -> int:
        """Closes open entries (None: all) and erases their documents; how many."""
        count = self._each(entry_ids, CLOSE, (State.DISCARDED.value, now()))
        # What was erased may still stand in the write-ahead log. Where another process is just moving that, SQLite doesn't
        # wait for it.
        for _ in range(_TRIES):
            with self._database() as db:
                if not value_of(db, "PRAGMA wal_checkpoint(TRUNCATE)"):
                    return count
            time.sleep(_PAUSE_SECONDS)
        raise StorageError(
            f"{count} discarded, but their documents may still stand in {self._path}-wal, which another process reads: "
            "discard once more."
        )

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._db is not None:
                try:
                    self._probe.check()
                    self._db.close()
                except OSError:  # the last one to close it writes
                    keep_open(self._db)
                self._db = None
            self._probe.close()

    # --- inside ------------------------------------------------------------------------------------------

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._probe.check()
                if self._db is None:
                    self._db = connect(self._path, _CACHE_KILOBYTES)
                yield self._db
            except (sqlite3.Error, OSError) as error:
                ours = meaning(error, self._path)
                if isinstance(ours, LedgerDamaged):
                    ours = damaged(self._path, "it isn't a state of cdc_indexer, or it is damaged")
                raise ours from None

    def _each(self, entry_ids: Collection[int] | None, sql: str, args: tuple[Any, ...]) -> int:
        with self._database() as db:
            if entry_ids is None:
                return db.execute(f"{sql} 1", args).rowcount
            return sum(db.execute(f"{sql} entry = ?", (*args, entry_id)).rowcount for entry_id in entry_ids)

    def _select(self, where: str, *args: object) -> list[ParkedStudy]:
        with self._database() as db:
            rows = db.execute(f"{_SELECT} WHERE {where}", args).fetchall()
        return [_entry(row) for row in rows]


def _entry(row: tuple[Any, ...]) -> ParkedStudy:
    """From a row of _SELECT."""
    entry, state, key, pk, uid, operation, idempotency_key, rows, body, status, reason, answer, parked_at = (
        row
    )
    return ParkedStudy(
        entry,
        State(state),
        key,
        pk,
        uid,
        operation,
        idempotency_key,
        tuple(json.loads(rows)),
        body,
        status,
        reason,
        answer or "",
        parked_at,
    )
