"""Many changes into SQLite at once: what becomes of each, and statements that write many rows.

Each call of SQLite gives the interpreter's lock away and waits to have it back, which costs more than the row.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from central_index.digests import FIELDS
from central_index.model import Change, Outcome, Stored, Verdict, key_digest
from central_index.versions import Held, Key, after, judge, places_of, unseen

#: So many rows in one statement, at most; fewer go in powers of two, so that few statements are ever prepared.
_MOST_ROWS = 64
_ROW = f"({', '.join('?' * len(FIELDS))}, ?, ?, ?, 1, ?, ?, ?, ?)"
_values_of = itemgetter(*FIELDS)


def apply_all(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[Outcome]:
    """What became of each; in the writer's transaction."""
    outcomes: list[Outcome | None] = [None] * len(changes)
    places = places_of(changes)
    rows: list[list[Any]] = []
    for place, change, outcome in unseen(changes, places):
        outcomes[place] = outcome
        rows.append(_row(change, after(change, outcome)))
    for key in _write_newer(connection, rows):
        del places[key]
    for place in sorted(place for several in places.values() for place in several):
        outcomes[place] = _apply(connection, changes[place])
    return [outcome for outcome in outcomes if outcome is not None]


@cache
def _upsert(rows: int) -> str:
    return f"""
INSERT INTO studies
    ({", ".join(FIELDS)}, more, first_received_at, received_at, versions, version, key_digest, digest, deleted)
VALUES {", ".join([_ROW] * rows)}
ON CONFLICT (center, study_iuid) DO UPDATE SET
    {", ".join(f"{field} = excluded.{field}" for field in FIELDS)},
    more = excluded.more,
    first_received_at = CASE WHEN deleted THEN excluded.received_at ELSE first_received_at END,
    received_at = excluded.received_at,
    versions = CASE WHEN deleted THEN 1 ELSE versions + 1 END,
    version = excluded.version, key_digest = excluded.key_digest,
    digest = excluded.digest, deleted = excluded.deleted
"""


def _write_newer(connection: sqlite3.Connection, rows: Sequence[list[Any]]) -> Iterator[Key]:
    """Those that were written: the others aren't newer than what is there."""
    done = 0
    while done < len(rows):
        number = min(_MOST_ROWS, 1 << ((len(rows) - done).bit_length() - 1))
        values = [value for row in rows[done : done + number] for value in row]
        statement = f"{_upsert(number)} WHERE excluded.version > version RETURNING center, study_iuid"
        yield from connection.execute(statement, values).fetchall()
        done += number


def _apply(connection: sqlite3.Connection, change: Change) -> Outcome:
    row = connection.execute(
        "SELECT version, key_digest, digest, deleted FROM studies WHERE center = ? AND study_iuid = ?",
        (change.center, change.study_iuid),
    ).fetchone()
    held = Held(row[0], row[1], row[2], bool(row[3])) if row is not None else None
    known = _key_is_known(connection, change)
    outcome = judge(held, change, int(change.received_at * 1_000_000), known)
    if outcome.verdict in (Verdict.APPLIED, Verdict.ABSENT):
        connection.execute(_upsert(1), _row(change, after(change, outcome)))
    return outcome


def _key_is_known(connection: sqlite3.Connection, change: Change) -> bool:
    """Remembers the key, too. With a version the study's own row remembers what counts."""
    key = key_digest(change)
    if change.version is not None or key is None:
        return False
    kept = connection.execute(
        "INSERT OR IGNORE INTO requests (key_digest, received_at) VALUES (?, ?)",
        (key, change.received_at),
    )
    return kept.rowcount == 0


def _row(change: Change, new: Held) -> list[Any]:
    values: Iterable[Any]
    more = "{}"
    if isinstance(change, Stored):
        values = _values_of(change.study.__dict__)
        if change.study.more:
            more = json.dumps(change.study.more, ensure_ascii=False)
    else:
        known = {"center": change.center, "study_iuid": change.study_iuid}
        values = map(known.get, FIELDS)
    moment = change.received_at
    return [*values, more, moment, moment, new.version, new.key_digest, new.digest, new.deleted]
