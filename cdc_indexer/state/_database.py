"""The state's file: made whole or not at all, opened, its small tables read, and rebuilt without a damaged ledger."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from cdc_indexer.model.errors import LedgerDamaged
from cdc_indexer.state import _ledger, _parking
from cdc_indexer.state._files import (
    APPLICATION_ID,
    FILE_NAME,
    FORMAT,
    check_format,
    damaged,
    meaning,
    sync_directory,
)
from cdc_indexer.state._packing import Unreadable
from cdc_indexer.state.lock import own_as_directory

__all__ = [
    "DAMAGED_MARK",
    "check_tables",
    "connect",
    "create",
    "keep_open",
    "mark_damaged",
    "read_all",
    "rebuild",
    "value_of",
    "whole_ledger",
    "write",
]

#: Says to the next start that the ledger is damaged: what is in the file itself can't be relied on for that.
DAMAGED_MARK = "ledger.damaged"

BUSY_SECONDS = 10.0

#: A commit writes whole pages, most of them for an entry of a few dozen bytes each.
PAGE_BYTES = 2048

#: Few rows, each with a seal of its own: a position or an interval that lost a digit must not be believed.
SEALED = ("meta", "settled", "jobs")

_SCHEMA = "".join(
    f"CREATE TABLE {table} (name TEXT PRIMARY KEY, value TEXT NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID;\n"
    for table in SEALED
)


def connect(path: Path, cache_kilobytes: int, *, torn: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time. Raises StateError when it isn't a state, and sqlite3.Error.

    ``torn``: what there is of a file that lost its end can be read.
    """
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # never makes one
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=200,
    )
    try:
        if torn:
            db.execute("PRAGMA writable_schema = ON")  # what makes SQLite go on where the file ends too early
        check_format(db, path)
        # FULL: what is committed survives a power cut. secure_delete: what is erased is gone. What the checkpoints of the
        # write-ahead log cost is paid by a thread of their own. Memory is flat: a cache, and no map that grows.
        for pragma in (
            "synchronous = FULL",
            "secure_delete = ON",
            "wal_autocheckpoint = 0",
            f"cache_size = -{cache_kilobytes}",
            "mmap_size = 0",
            "temp_store = MEMORY",
            "trusted_schema = OFF",
        ):
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def create(state_dir: Path, name: str = FILE_NAME) -> None:
    """Makes an empty state; whoever is killed meanwhile leaves none. Raises OSError, sqlite3.Error."""
    path, temporary = state_dir / name, state_dir / f"{FILE_NAME}.new"
    _remove(state_dir, *(f"{temporary.name}{end}" for end in ("", "-wal", "-shm")))
    if name == FILE_NAME:
        # Of a file that somebody moved away: SQLite would take it for this one's.
        _remove(state_dir, *(f"{FILE_NAME}{end}" for end in ("-wal", "-shm", "-journal")), DAMAGED_MARK)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        own_as_directory(descriptor, state_dir)
    finally:
        os.close(descriptor)
    with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(
            f"BEGIN;{_SCHEMA}{_ledger.SCHEMA}{_parking.SCHEMA}"
            f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {FORMAT};COMMIT;"
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # with an fsync
    if name == FILE_NAME:
        temporary.rename(path)
        sync_directory(state_dir)


def seal(table: str, name: str, value: str) -> bytes:
    """What tells that a row is as it was written."""
    return blake2b(f"{table}\0{name}\0{value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def check_tables(db: sqlite3.Connection, path: Path) -> None:
    """Raises StateError when what can't be had again (all but the ledger) is damaged."""
    for table in (*SEALED, "parked"):
        # Since SQLite 3.33 of one table; before, of all: seconds with a ledger of a million.
        if sqlite3.sqlite_version_info >= (3, 33):
            said = value_of(db, f"PRAGMA integrity_check({table})")
            if said != "ok":
                raise damaged(path, f"its table {table} is damaged")


def read_all(db: sqlite3.Connection, path: Path) -> dict[str, dict[str, str]]:
    """The rows of the sealed tables, by table and name; raises StateError when one isn't as it was written."""
    content: dict[str, dict[str, str]] = {}
    for table in SEALED:
        content[table] = {}
        # As bytes: a damaged one may be of any type.
        columns = "ifnull(CAST(name AS BLOB), x''), ifnull(CAST(value AS BLOB), x''), CAST(seal AS BLOB)"
        for raw_name, raw_value, sealed in db.execute(f"SELECT {columns} FROM {table}"):  # noqa: S608
            name, value = raw_name.decode("utf-8", "replace"), raw_value.decode("utf-8", "replace")
            if seal(table, name, value) != sealed:
                raise damaged(path, f"a row of its table {table} isn't as it was written")
            content[table][name] = value
    return content


def whole_ledger(db: sqlite3.Connection, path: Path) -> bool:
    """Whether nothing shows that the ledger is damaged; its inside is judged when it is read."""
    try:
        _ledger.probe(db)
    except Unreadable:
        return False
    except sqlite3.DatabaseError as error:
        if isinstance(meaning(error, path), LedgerDamaged):
            return False
        raise
    return True


def rebuild(state_dir: Path, content: dict[str, dict[str, str]]) -> None:
    """Replaces the file by one with everything but the ledger. The caller has the only connection, and has closed it.

    The damaged one isn't kept: it would keep the documents of parked studies that are to be erased later.
    """
    path = state_dir / FILE_NAME
    temporary = f"{FILE_NAME}.new"
    create(state_dir, temporary)
    with closing(connect(state_dir / temporary, 1000)) as new:
        with closing(connect(path, 1000, torn=True)) as old:
            parked, last = _parking.dump(old)
            _detach(old)
        new.execute("BEGIN IMMEDIATE")
        for table in SEALED:
            write(new, table, content[table].items())
        _parking.restore(new, parked, last)
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (state_dir / temporary).rename(path)
    sync_directory(state_dir)
    _remove(state_dir, DAMAGED_MARK)


def _detach(old: sqlite3.Connection) -> None:
    """Takes its log away, which whoever comes would take for the new file's. Raises sqlite3.Error while others use it."""
    try:
        old.execute("PRAGMA journal_mode = DELETE").fetchall()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # too damaged for that


def write(db: sqlite3.Connection, table: str, rows: Iterable[tuple[str, str | None]]) -> None:
    """Writes rows into a sealed table; None removes one."""
    for name, value in rows:
        if value is None:
            db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608
        else:
            db.execute(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",  # noqa: S608
                (name, value, seal(table, name, value)),
            )


def mark_damaged(state_dir: Path) -> None:
    """For the next start; as well as it can be done."""
    with suppress(OSError):
        descriptor = os.open(
            state_dir / DAMAGED_MARK, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        os.fsync(descriptor)
        os.close(descriptor)
        sync_directory(state_dir)


def _remove(state_dir: Path, *names: str) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            (state_dir / name).unlink()


def keep_open(db: sqlite3.Connection) -> None:
    """It is never closed, not even at the end of the process."""
    from ctypes import py_object, pythonapi  # noqa: PLC0415 - only then

    pythonapi.Py_IncRef(py_object(db))


def value_of(db: sqlite3.Connection, sql: str, args: tuple[Any, ...] = ()) -> Any:
    """The first column of the first row; None without one."""
    row = db.execute(sql, args).fetchone()
    return row[0] if row else None
