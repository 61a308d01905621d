"""Moves a SQLite file into PostgreSQL: ``central-index move``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from central_index import postgres_digests, sqlite_search
from central_index.digests import FIELDS
from central_index.model import Range, UnusableStore
from central_index.moving_audit import key_file, move_record
from central_index.postgres_pool import Connection
from central_index.postgres_rows import MOVE, moved_rows
from central_index.postgres_schema import prepare
from central_index.sqlite_schema import HASHED, open_file

_PAGE = 2_000
#: As `moved_rows` takes them. A row that was changed by hand has no digest.
_COLUMNS = (
    f"{', '.join(HASHED)}, received_at, version, key_digest,"
    f" CASE WHEN deleted THEN NULL ELSE coalesce(digest, study_digest({', '.join(HASHED)})) END,"
    " deleted, first_received_at, versions"
)
_ALL = [Range(None, None)]


class Moved(NamedTuple):
    """``left_out``: study_pk of those that PostgreSQL can't keep; ``differing``: centres that aren't the same there.

    ``records`` of who was shown what; None: the file has none. ``key``: the file of their key, if it was found.
    """

    studies: int
    left_out: list[int]
    differing: list[str]
    records: int | None
    key: Path | None


async def move(path: Path, database: str, audit_key: Path, progress: Callable[[int], None]) -> Moved:
    """May be repeated, and runs beside processes that write there: the higher version of a study stays.

    ``audit_key``: what may be the file of the key. Raises UnusableStore.
    """
    if not path.is_file():
        raise UnusableStore(f"{path} isn't there.")
    with closing(open_file(path)) as source:
        try:
            async with await Connection.connect(
                database, autocommit=True, target_session_attrs="read-write", connect_timeout=10
            ) as target:
                await prepare(target)
                # First: where it can't be moved, nothing is.
                records = await move_record(source, target)
                studies, left_out = await _studies(source, target, progress)
                await _rest(source, target)
                key = key_file(source, (audit_key, path.with_suffix(".audit-key")))
                return Moved(studies, left_out, await _differing(source, target), records, key)
        except psycopg.Error as error:
            raise UnusableStore(f"The database can't be used: {' '.join(str(error).split())}") from None


async def _studies(
    source: sqlite3.Connection, target: Connection, progress: Callable[[int], None]
) -> tuple[int, list[int]]:
    done = 0
    left_out: list[int] = []
    for page in _pages(source):
        good = [row for row in page if not any(isinstance(value, str) and "\0" in value for value in row)]
        left_out += [row[FIELDS.index("study_pk")] for row in page if row not in good]
        async with target.transaction():
            await target.execute(MOVE, moved_rows(good))
        done += len(good)
        progress(done)
    return done, left_out


def _pages(source: sqlite3.Connection) -> Iterator[Sequence[Sequence[Any]]]:
    """In the order of their arrival."""
    last = -1
    while True:
        rows = source.execute(
            f"SELECT {_COLUMNS}, id FROM studies WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE)
        ).fetchall()
        if not rows:
            return
        last = rows[-1][-1]
        yield [row[:-1] for row in rows]


async def _rest(source: sqlite3.Connection, target: Connection) -> None:
    requests = source.execute("SELECT key_digest, received_at FROM requests")
    while rows := requests.fetchmany(_PAGE):
        # The file doesn't say whose they are; they are no centre's, and known for each.
        await target.execute(
            "INSERT INTO requests (center, key_digest, received_at) "
            "SELECT '', * FROM unnest(%s::bytea[], %s::double precision[]) ON CONFLICT DO NOTHING",
            [[row[0] for row in rows], [row[1] for row in rows]],
        )
    for row in source.execute("SELECT center, at, received_at, content FROM reports"):
        await target.execute(
            "INSERT INTO reports AS kept (center, at, received_at, content) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (center) DO UPDATE SET at = excluded.at, received_at = excluded.received_at,"
            " content = excluded.content WHERE excluded.at > kept.at",
            row,
        )
    await target.execute("ANALYZE studies")


async def _differing(source: sqlite3.Connection, target: Connection) -> list[str]:
    found: list[str] = []
    for (center,) in source.execute("SELECT DISTINCT center FROM studies ORDER BY center").fetchall():
        there = await postgres_digests.digests(target, center, _ALL, None)
        if there != sqlite_search.digests(source, center, _ALL, None):
            found.append(center)
    return found
