"""The durable state: position, settled rows, ledger and parked studies in one file, each step one transaction.

Nothing here decides what is settled or sent (flow/ does); this module makes it durable, and says what it was at the start.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cdc_indexer.model import failpoints
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.errors import LedgerDamaged, StateError, Stopped, StorageError, SyncFailed
from cdc_indexer.model.ledger import Entry
from cdc_indexer.state import _ledger, _parking
from cdc_indexer.state._database import (
    DAMAGED_MARK,
    PAGE_BYTES,
    check_tables,
    connect,
    create,
    keep_open,
    mark_damaged,
    read_all,
    rebuild,
    value_of,
    whole_ledger,
    write,
)
from cdc_indexer.state._files import FILE_NAME, check_file, check_place, damaged, meaning
from cdc_indexer.state._packing import Unreadable
from cdc_indexer.state._probe import WriteProbe
from cdc_indexer.state.lock import make_state_dir

__all__ = ["LEDGER_DAMAGED", "Loaded", "Store"]

#: In ``Loaded.meta``, true: the ledger was damaged and begins anew; whoever has dealt with it sets it to None.
LEDGER_DAMAGED = "ledger_damaged"

#: How many entries the ledger has; kept here because counting a million takes a while.
_COUNT = "ledger_count"

#: [how many of them say that the index holds a document, of how many]; counted anew where the second isn't ``_COUNT``.
_HELD = "ledger_held"

_WRITER_KILOBYTES, _READER_KILOBYTES, _UPKEEP_KILOBYTES = 1000, 500, 500

#: How long the write-ahead log may grow before a commit is made to wait for the end of a checkpoint, in pages.
_LOG_PAGES = 2000
_FEW_PAGES = 60

_T = TypeVar("_T")


class Loaded(NamedTuple):
    """What the state holds, but for the ledger's entries.

    Attributes:
        meta: by name, as in ``Changes.meta``.
        settled: by the name of a span of time, as in ``Changes.settled``.
        jobs: by name, as in ``Changes.jobs``.
        parked: how many entries of the parked studies are open.
        ledger: how many entries the ledger has.
    """

    meta: dict[str, Any]
    settled: dict[str, str]
    jobs: dict[str, dict[str, Any]]
    parked: int
    ledger: int


class Store:
    """The state in ``state_dir``; thread-safe. For the process that holds the lock on the directory.

    Raises StateError when what is there can't be used, StorageError when it can't be read or written just now. ``created``:
    there was none. ``rebuilt``: its ledger was damaged, and begins anew.
    """

    def __init__(self, state_dir: Path, *, create: bool = True, mounts: str | None = None) -> None:
        self._directory = state_dir
        self.path = state_dir / FILE_NAME
        self._writing, self._reading, self._tidying = threading.Lock(), threading.Lock(), threading.Lock()
        self._erased = False
        self._broken = self._opened = self._closed = self.rebuilt = False
        self._connections: list[sqlite3.Connection] = []
        self._probe = WriteProbe(state_dir)
        if create:
            make_state_dir(state_dir)
        try:
            check_place(state_dir, mounts)
            self.created = self._make_sure(create)
            try:
                self._open()
            except BaseException:
                self._disconnect()
                raise
        except LedgerDamaged:  # while it was opened: not only the ledger
            raise damaged(self.path, "it isn't a state of cdc_indexer, or it is damaged") from None

    def _make_sure(self, may_create: bool) -> bool:
        with self._meaning():
            if check_file(self._directory):
                return False
            if not may_create:
                raise StateError(f"{self.path} isn't there: `run` or `initial` begins it.")
            create(self._directory)
            return True

    def _open(self) -> None:
        with self._meaning():
            self._probe.check()
            torn = (self._directory / DAMAGED_MARK).exists()
            try:
                self._db = self._connect(_WRITER_KILOBYTES, torn=torn)
            except sqlite3.DatabaseError as error:
                if not isinstance(meaning(error, self.path), LedgerDamaged):
                    raise
                self._db = self._connect(_WRITER_KILOBYTES, torn=True)
                torn = True
            self._move_all()
            check_tables(self._db, self.path)
            content = read_all(self._db, self.path)
            if torn or not whole_ledger(self._db, self.path):
                self.rebuilt = True
                self._disconnect()
                content["meta"] |= {LEDGER_DAMAGED: "true", _COUNT: "0", _HELD: "[0, 0]"}
                rebuild(self._directory, content)
                self._db = self._connect(_WRITER_KILOBYTES)
            # Who uses it with another tool may have left it otherwise.
            self._db.execute("PRAGMA journal_mode = WAL").fetchall()
            # After a transaction that was larger than usual the log takes its usual size again.
            self._db.execute(f"PRAGMA journal_size_limit = {_LOG_PAGES * PAGE_BYTES * 2}").fetchall()
            self._count = int(content["meta"].get(_COUNT, "0"))
            self._held = self._read_held(content["meta"].get(_HELD))
            self._reader = self._connect(_READER_KILOBYTES)
            self._upkeep = self._connect(_UPKEEP_KILOBYTES)
            self._upkeep.execute("PRAGMA busy_timeout = 100").fetchall()
            self._inode = self._now_there()
            self._opened = True

    def _read_held(self, known: str | None) -> int:
        held, of = json.loads(known) if known else (0, 0)
        if of == self._count:
            return int(held)
        # An earlier version wrote it last: it is counted once.
        with suppress(sqlite3.DatabaseError):  # damage in it is found, and dealt with, by who reads that page
            return _ledger.count_held(self._db)
        return self._count

    def _move_all(self) -> None:
        """So that what a process left in the log, in the kernel's memory perhaps, is on the disk."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            if not isinstance(meaning(error, self.path), StorageError):
                raise
            # A full disk: it can be read, and the first step says so.

    def _connect(self, kilobytes: int, *, torn: bool = False) -> sqlite3.Connection:
        db = connect(self.path, kilobytes, torn=torn)
        self._connections.append(db)
        return db

    def _disconnect(self) -> None:
        while self._connections:
            self._connections.pop().close()

    # --- the whole ---------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """What is durable now."""
        with self._writing, self._meaning():
            content = read_all(self._db, self.path)
            parked = value_of(self._db, "SELECT COUNT(*) FROM parked WHERE closed_at IS NULL")
        meta = {
            name: json.loads(value) for name, value in content["meta"].items() if name not in (_COUNT, _HELD)
        }
        jobs = {name: json.loads(value) for name, value in content["jobs"].items()}
        return Loaded(meta, content["settled"], jobs, int(parked), self._count)

    def apply(self, changes: Changes) -> None:
        """Writes all of ``changes``; on return it is on the disk.

        Raises StorageError when it can't be, and then nothing of it is: it may be tried again. SyncFailed and LedgerDamaged
        end the program.
        """
        with self._writing, self._meaning():
            db = self._db
            self._probe.check()
            if self._now_there() != self._inode:  # SQLite would write on, into a file that no start will find
                raise StorageError(
                    f"{self.path} was taken away or replaced, and can't be written: nothing more is sent until it can; "
                    "put it back, or start again."
                )
            try:
                db.execute("BEGIN IMMEDIATE")
                (count, held), erased = self._write(db, changes)
                failpoints.hit("before_commit")
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                raise
            failpoints.hit("after_commit")
            self._count, self._held = count, held
            self._erased = self._erased or erased

    def _now_there(self) -> tuple[int, int] | None:
        """Which file lies in its place; None: none."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - done for each few results
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _write(self, db: sqlite3.Connection, changes: Changes) -> tuple[tuple[int, int], bool]:
        count, held = self._count, self._held
        if changes.new_ledger:
            # There is nothing of a patient in it: to overwrite all of it would take as long as to write it.
            db.execute("PRAGMA secure_delete = FAST").fetchall()
            _ledger.clear(db)
            db.execute("PRAGMA secure_delete = ON").fetchall()
            count = held = 0
        if changes.ledger:
            more, more_held = _ledger.put(db, list(changes.ledger.values()))
            count, held = count + more, held + more_held
        if changes.verified:
            _ledger.verified(db, changes.verified.values())
        meta = [(name, _json(value)) for name, value in changes.meta.items()]
        if count != self._count:
            meta.append((_COUNT, str(count)))
        if (count, held) != (self._count, self._held):
            meta.append((_HELD, _json([held, count])))
        write(db, "meta", meta)
        write(db, "settled", changes.settled.items())
        jobs = changes.jobs.items()
        write(db, "jobs", [(name, None if job is None else _json(dict(job))) for name, job in jobs])
        erased = bool(changes.parking) and _parking.put(db, changes.parking.values())
        if changes.ledger:
            erased |= _parking.close_unnamed(db, changes.ledger.values())
        return (count, held), erased

    def tidy(self) -> None:
        """Moves what was written from the log into the file; to be called now and then, by a thread of its own.

        Commits go on meanwhile. Where they come so fast that the log would grow without end, one waits for its last pages.
        """
        with self._tidying, self._meaning():
            erase = self._erased
            self._probe.check()
            left = self._move("PASSIVE")
            if left is None and not erase:
                return
            for _ in range(5):
                if left is None or left < _FEW_PAGES:
                    break
                left = self._move("PASSIVE")
            with self._writing:
                if erase:
                    # What was erased may still stand in the log.
                    self._erased = self._move("TRUNCATE") is not None
                else:
                    self._move("PASSIVE")

    def _move(self, how: str) -> int | None:
        """One checkpoint; how many pages are left of a log that is too long, None when it isn't."""
        busy, pages, moved = self._upkeep.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        if how == "TRUNCATE":
            return 0 if busy else None
        return int(pages - moved) if pages > _LOG_PAGES else None

    def close(self) -> None:
        """Moves all into the file and closes it."""
        if self._broken:
            return
        with self._tidying, self._writing, self._reading:
            self._closed = True
            try:
                self._probe.check()
            except OSError:  # closing writes, too
                self._abandon()
                return
            with suppress(sqlite3.Error):
                self._upkeep.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._disconnect()
            self._probe.close()

    # --- the ledger --------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many entries the ledger has."""
        return self._count

    @property
    def held(self) -> int:
        """How many studies the index holds, as far as the ledger knows: neither rejected, nor deleted, nor on their way."""
        return self._held

    def lookup(self, study_iuids: Sequence[str]) -> dict[str, Entry]:
        """The entries of those studies that have one."""
        return self._read(lambda db: _ledger.lookup(db, study_iuids)) if study_iuids else {}

    def by_pk(self, after_pk: int, until_pk: int | None, limit: int) -> list[Entry]:
        """The next entries with ``after_pk`` < study_pk <= ``until_pk`` (None: without end), in that order.

        At most ``limit``, and all those that share the last study_pk, so that a page can begin after it.
        """
        return self._read(lambda db: _ledger.by_pk(db, after_pk, until_pk, limit))

    def unverified(self, after_pk: int, limit: int) -> list[Entry]:
        """The next entries whose study is still to be read in the view; pages as those of ``by_pk``."""
        return self._read(lambda db: _ledger.unverified(db, after_pk, limit))

    def _read(self, ask: Callable[[sqlite3.Connection], _T]) -> _T:
        """Several statements, one moment: an entry that moves between them isn't missed. Stopped once it is closed."""
        with self._reading, self._meaning():
            if self._closed:
                raise Stopped("the state is closed")
            self._probe.check()
            self._reader.execute("BEGIN")
            try:
                return ask(self._reader)
            finally:
                with suppress(sqlite3.Error):
                    self._reader.execute("COMMIT")

    # --- errors ------------------------------------------------------------------------------------------

    @contextmanager
    def _meaning(self) -> Iterator[None]:
        try:
            yield
        except Unreadable:
            mark_damaged(self._directory)
            raise LedgerDamaged(
                f"an entry of the ledger in {self.path} is damaged: start again, and a new ledger is begun; look after "
                "the disk."
            ) from None
        except (sqlite3.Error, OSError) as error:
            ours = meaning(error, self.path)
            if isinstance(ours, SyncFailed):
                self._abandon()
            elif isinstance(ours, LedgerDamaged) and self._opened:
                mark_damaged(self._directory)
            raise ours from None

    def _abandon(self) -> None:
        """After a failed fsync: never closed, because that would move a log that can't be relied on into the file."""
        self._broken = True
        for db in self._connections:
            keep_open(db)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
