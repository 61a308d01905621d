"""Moves the record of who was shown what along with the studies: as it was sealed, or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from central_index.audit_key import AuditKey, UnusableAuditKey
from central_index.model import UnusableStore
from central_index.postgres_pool import Connection

_PAGE = 2_000
_RECORD = "id, at, reader, address, kind, content, place, seal"
_TABLES = {"audit": _RECORD, "audit_patients": "patient, record", "audit_marks": "name, value"}
_MARKED = "place = split_part(mark.value, ' ', 1)::bigint AND seal = split_part(mark.value, ' ', 2)"
#: Up to where one side has forgotten what the other still has: the seal at its mark says that it is the same record.
_FORGOTTEN_THERE = (
    f"SELECT place FROM moved_audit JOIN audit_marks AS mark ON name = 'forgotten' AND {_MARKED}"
)
_FORGOTTEN_HERE = (
    f"SELECT place FROM audit JOIN moved_audit_marks AS mark ON name = 'forgotten' AND {_MARKED}"
)
_MISSING = (
    "FROM moved_audit AS moved WHERE NOT EXISTS (SELECT FROM audit WHERE audit.id = moved.id)"
    f" AND NOT coalesce(place <= ({_FORGOTTEN_THERE}), false)"
)
#: What must not be there where something is missing: seals of both couldn't stand in one row.
_OWN = f"""
SELECT EXISTS (
    SELECT FROM audit WHERE NOT EXISTS (SELECT FROM moved_audit AS moved WHERE moved.id = audit.id)
    AND NOT coalesce(place <= ({_FORGOTTEN_HERE}), false)
) OR EXISTS (
    SELECT FROM audit JOIN moved_audit AS moved USING (id) WHERE audit.seal IS DISTINCT FROM moved.seal
) OR EXISTS (
    SELECT FROM audit_marks AS mark WHERE name = 'forgotten'
    AND NOT EXISTS (SELECT FROM moved_audit_marks AS moved WHERE moved.name = mark.name AND moved.value = mark.value)
    AND NOT EXISTS ({_FORGOTTEN_THERE}) AND NOT EXISTS ({_FORGOTTEN_HERE})
)
"""


async def move_record(source: sqlite3.Connection, target: Connection) -> int | None:
    """How many records were moved; None: the file has none. In one transaction, for which those that write there wait.

    Raises UnusableStore.
    """
    if not _has_record(source):
        return None
    async with target.transaction():
        await target.execute(b"LOCK TABLE audit, audit_patients, audit_marks IN SHARE ROW EXCLUSIVE MODE")
        for table, columns in _TABLES.items():
            await target.execute(f"CREATE TEMP TABLE moved_{table} (LIKE {table}) ON COMMIT DROP".encode())
            async with target.cursor().copy(f"COPY moved_{table} ({columns}) FROM STDIN".encode()) as copy:
                for row in _rows(source, f"SELECT {columns} FROM {table}"):
                    await copy.write_row(row)
        await target.execute(b"CREATE INDEX ON moved_audit (place)")
        await target.execute(b"ANALYZE moved_audit, moved_audit_patients")
        await target.execute(
            b"INSERT INTO audit_marks SELECT * FROM moved_audit_marks WHERE name = 'key' ON CONFLICT DO NOTHING"
        )
        if (
            await _value(
                target,
                "SELECT count(*) FROM audit_marks JOIN moved_audit_marks USING (name, value) WHERE name = 'key'",
            )
            != 1
        ):
            raise UnusableStore(
                "Nothing was moved: in the new database another key seals the record of who was shown what;"
                " where that one can be spared, stop the index there, empty the tables audit, audit_patients and"
                " audit_marks, and repeat this."
            )
        # Where records are there already, the mark before them is theirs.
        await target.execute(
            b"INSERT INTO audit_marks SELECT * FROM moved_audit_marks WHERE NOT EXISTS (SELECT FROM audit)"
            b" ON CONFLICT DO NOTHING"
        )
        missing: int = await _value(target, f"SELECT count(*) {_MISSING}")
        if not missing:
            return 0
        if await _value(target, _OWN):
            raise UnusableStore(
                "Nothing was moved: the new database already has a record of its own of who was shown what,"
                " and two can't become one; where that one can be spared, stop the index there, empty the tables"
                " audit, audit_patients and audit_marks, and repeat this."
            )
        await target.execute(
            "INSERT INTO audit_patients SELECT DISTINCT of.* FROM moved_audit_patients AS of"
            f" WHERE of.record IN (SELECT id {_MISSING}) ON CONFLICT DO NOTHING".encode()
        )
        await target.execute(f"INSERT INTO audit ({_RECORD}) SELECT {_RECORD} {_MISSING}".encode())
        return missing


def key_file(source: sqlite3.Connection, candidates: Iterable[Path]) -> Path | None:
    """Which of these files seals the file's record."""
    kept = dict(source.execute("SELECT name, value FROM audit_marks")).get("key")
    for path in candidates:
        try:
            if path.exists() and AuditKey(path).check == kept:
                return path
        except UnusableAuditKey:
            continue
    return None


def _has_record(source: sqlite3.Connection) -> bool:
    (found,) = source.execute(
        "SELECT EXISTS (SELECT 1 FROM audit) OR EXISTS (SELECT 1 FROM audit_marks WHERE name = 'forgotten')"
    ).fetchone()
    return bool(found)


def _rows(source: sqlite3.Connection, query: str) -> Iterable[tuple[Any, ...]]:
    rows = source.execute(query)
    while page := rows.fetchmany(_PAGE):
        yield from page


async def _value(target: Connection, query: str) -> Any:
    row = await (await target.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]
