"""The table of parked studies: what is written to it in a transaction of the caller's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from cdc_indexer.model.changes import Closing, Parking, State
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.study import study_key

SCHEMA = """
CREATE TABLE parked (
    entry           INTEGER PRIMARY KEY AUTOINCREMENT,
    state           TEXT NOT NULL,
    study_key       TEXT NOT NULL,
    study_pk        INTEGER NOT NULL,
    study_iuid      TEXT NOT NULL,
    operation       TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    outbox_ids      TEXT NOT NULL,
    body            BLOB,
    status          INTEGER,
    reason          TEXT NOT NULL,
    answer          TEXT,
    parked_at       TEXT NOT NULL,
    closed_at       TEXT
);
CREATE UNIQUE INDEX open_of_study ON parked (study_key) WHERE closed_at IS NULL;
CREATE INDEX requested ON parked (entry) WHERE state = 'retry';
"""

CLOSE = "UPDATE parked SET state = ?, closed_at = ?, body = NULL, answer = NULL WHERE closed_at IS NULL AND "

_PARK = """
INSERT INTO parked (state, study_key, study_pk, study_iuid, operation, idempotency_key, outbox_ids, body, status, reason,
                    answer, parked_at)
VALUES ('parked', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_PARK_AGAIN = """
UPDATE parked SET state = 'parked', study_pk = ?, study_iuid = ?, operation = ?, idempotency_key = ?,
                  outbox_ids = CASE ? WHEN '[]' THEN outbox_ids ELSE ? END,
                  body = ?, status = ?, reason = ?, answer = ?, parked_at = ?
WHERE study_key = ? AND closed_at IS NULL
"""

_MAX_PK = 2**63 - 1


def close_unnamed(db: sqlite3.Connection, entries: Iterable[Entry]) -> bool:
    """What was parked of a study while it had no UID is closed once it went out under one; whether a document was erased."""
    if not db.execute(
        "SELECT 1 FROM parked WHERE closed_at IS NULL AND study_key >= '#' AND study_key < '$' LIMIT 1"
    ).fetchall():
        return False
    keys = [
        (State.SUPERSEDED.value, now(), study_key("", entry.study_pk))
        for entry in entries
        if entry.digest is not None and entry.study_iuid != study_key("", entry.study_pk)
    ]
    return sum(db.execute(f"{CLOSE} study_key = ?", key).rowcount for key in keys) > 0


def put(db: sqlite3.Connection, changes: Iterable[Parking | Closing]) -> bool:
    """Parks and closes; whether a document was erased."""
    erased = False
    some: bool | None = None
    for change in changes:
        if isinstance(change, Closing):
            # A backfill closes for each study what hardly one has.
            if some is None:
                some = bool(db.execute("SELECT 1 FROM parked WHERE closed_at IS NULL LIMIT 1").fetchall())
            if not some:
                continue
            closed = db.execute(f"{CLOSE} study_key = ?", (change.state.value, now(), change.study_key))
            erased = erased or closed.rowcount > 0
            continue
        whose = (min(change.study_pk, _MAX_PK), change.study_iuid, change.operation, change.idempotency_key)
        rows = json.dumps(change.outbox_ids)
        why = (change.body, change.status, change.reason, change.answer, now())
        # The entry keeps its number, by which people know it; and its rows, where it was sent again without any.
        if db.execute(_PARK_AGAIN, (*whose, rows, rows, *why, change.study_key)).rowcount:
            erased = True
        else:
            some = True
            db.execute(_PARK, (change.study_key, *whose, rows, *why))
    return erased


def dump(db: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], int]:
    """All rows, and the last number given."""
    last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'parked'").fetchone()
    return db.execute("SELECT * FROM parked ORDER BY entry").fetchall(), last[0] if last else 0


def restore(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], last: int) -> None:
    """Into an empty table, what ``dump`` gave."""
    db.executemany("INSERT INTO parked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'parked'")
    db.execute("INSERT INTO sqlite_sequence VALUES ('parked', ?)", (last,))


def now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
