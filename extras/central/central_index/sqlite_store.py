"""The studies in one SQLite file: one writer, many readers. The store that needs nothing."""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from central_index import sqlite_search
from central_index.audit import Row
from central_index.counted import Counted
from central_index.digests import FIELDS
from central_index.model import (
    REMEMBERED_SECONDS,
    Arrivals,
    CenterReport,
    Change,
    Filters,
    Found,
    OnChange,
    Outcome,
    Range,
    RangeDigest,
    Reported,
    Stored,
    StoreUnavailable,
    Verdict,
    key_digest,
)
from central_index.sqlite_schema import open_file, snapshot, transaction
from central_index.versions import Held, after, judge

_T = TypeVar("_T")

#: So many changes share one wait on the disk, at most.
_GROUP = 1_000

_UPSERT = f"""
INSERT INTO studies
    ({", ".join(FIELDS)}, more, first_received_at, received_at, versions, version, key_digest, digest, deleted)
VALUES ({", ".join("?" * len(FIELDS))}, ?, ?, ?, 1, ?, ?, ?, ?)
ON CONFLICT (center, study_iuid) DO UPDATE SET
    {", ".join(f"{field} = excluded.{field}" for field in FIELDS)},
    more = excluded.more,
    first_received_at = CASE WHEN deleted THEN excluded.received_at ELSE first_received_at END,
    received_at = excluded.received_at,
    versions = CASE WHEN deleted THEN 1 ELSE versions + 1 END,
    version = excluded.version, key_digest = excluded.key_digest,
    digest = excluded.digest, deleted = excluded.deleted
"""


class SqliteStore:
    """Opens the file, or makes it; brings one of an older format to today's."""

    def __init__(self, path: Path, on_change: OnChange) -> None:
        self._path = path
        self._on_change = on_change
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._counted = Counted(lambda: self._read(sqlite_search.counts))

    async def open(self) -> None:
        self._connection = await run_in_threadpool(open_file, self._path)
        self._thread = threading.Thread(target=self._write_all, name="writer")
        self._thread.start()

    async def close(self) -> None:
        await self._counted.close()
        self._jobs.put(None)
        await run_in_threadpool(self._thread.join)
        self._connection.close()

    # --- writing -----------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        outcomes: list[Outcome] = await self._do(partial(self._apply_all, changes), len(changes), tells=True)
        return outcomes

    async def report(self, center: str, content: dict[str, Any], received_at: float) -> Reported:
        reported: Reported = await self._do(partial(self._report, center, content, received_at), 1)
        return reported

    async def _do(self, work: Callable[[], Any], size: int, *, tells: bool = False) -> Any:
        """In the writer's thread, in a transaction. ``tells``: it changes what open pages show."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._jobs.put(_Job(work, size, tells, loop, done))
        try:
            return await done
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error

    def _write_all(self) -> None:
        """In the writer's thread: what has come while the disk was written goes into the next transaction together."""
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            size = job.size
            ending = False
            while size < _GROUP and not ending:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                else:
                    jobs.append(more)
                    size += more.size
            self._commit(jobs, size)
            if ending:
                return

    def _commit(self, jobs: list[_Job], size: int) -> None:
        try:
            with transaction(self._connection):
                results = [job.work() for job in jobs]
                self._forget(size)
        except Exception as error:
            # Whatever it is: who waits is told, and the thread goes on.
            for job in jobs:
                job.fail(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.succeed(result)
        if any(job.tells for job in jobs):
            self._on_change()

    def _apply_all(self, changes: Sequence[Change]) -> list[Outcome]:
        return [self._apply(change) for change in changes]

    def _apply(self, change: Change) -> Outcome:
        row = self._connection.execute(
            "SELECT version, key_digest, digest, deleted FROM studies WHERE center = ? AND study_iuid = ?",
            (change.center, change.study_iuid),
        ).fetchone()
        held = Held(row[0], row[1], row[2], bool(row[3])) if row is not None else None
        outcome = judge(held, change, int(change.received_at * 1_000_000), self._key_is_known(change))
        if outcome.verdict in (Verdict.APPLIED, Verdict.ABSENT):
            self._keep(change, after(change, outcome))
        return outcome

    def _key_is_known(self, change: Change) -> bool:
        """Remembers the key, too. With a version the study's own row remembers what counts."""
        key = key_digest(change)
        if change.version is not None or key is None:
            return False
        kept = self._connection.execute(
            "INSERT OR IGNORE INTO requests (key_digest, received_at) VALUES (?, ?)",
            (key, change.received_at),
        )
        return kept.rowcount == 0

    def _keep(self, change: Change, new: Held) -> None:
        if isinstance(change, Stored):
            values = [getattr(change.study, field) for field in FIELDS]
            more = json.dumps(change.study.more, ensure_ascii=False)
        else:
            known = {"center": change.center, "study_iuid": change.study_iuid}
            values = [known.get(field) for field in FIELDS]
            more = "{}"
        moment = change.received_at
        self._connection.execute(
            _UPSERT, [*values, more, moment, moment, new.version, new.key_digest, new.digest, new.deleted]
        )

    def _forget(self, count: int) -> None:
        """A few more than came, the oldest first: no transaction is ever long."""
        before = time.time() - REMEMBERED_SECONDS
        self._connection.execute(
            "DELETE FROM requests WHERE id IN (SELECT id FROM requests ORDER BY id LIMIT ?) AND received_at < ?",
            (2 * count, before),
        )
        # A centre's newest stays: by its version the centre sees that nothing was lost.
        self._connection.execute(
            "DELETE FROM studies WHERE id IN ("
            "  SELECT id FROM studies WHERE deleted AND received_at < ? ORDER BY received_at LIMIT ?"
            ") AND version < (SELECT max(version) FROM studies AS all_of WHERE all_of.center = studies.center)",
            (before, 2 * count),
        )

    def _report(self, center: str, content: dict[str, Any], received_at: float) -> Reported:
        execute = self._connection.execute
        previous = execute("SELECT at FROM reports WHERE center = ?", (center,)).fetchone()
        (highest,) = execute("SELECT max(version) FROM studies WHERE center = ?", (center,)).fetchone()
        # An older one comes late: it says that the centre lives, and no more.
        execute(
            "INSERT INTO reports (center, at, received_at, content) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (center) DO UPDATE SET received_at = excluded.received_at,"
            " content = CASE WHEN excluded.at > at THEN excluded.content ELSE content END,"
            " at = max(at, excluded.at)",
            (center, content["at"], received_at, json.dumps(content)),
        )
        return Reported(previous[0] if previous is not None else None, highest)

    # --- reading -----------------------------------------------------------------------------------------

    async def search(self, filters: Filters) -> Found:
        return await self._read(partial(sqlite_search.search, filters=filters))

    async def counts(self) -> dict[str, int] | None:
        return await self._counted.get()

    async def arrivals(self, periods: Sequence[tuple[float, float]]) -> dict[str, Arrivals]:
        return await self._read(partial(sqlite_search.arrivals, periods=periods))

    async def newest(self, centers: Sequence[str]) -> dict[str, int]:
        return await self._read(partial(sqlite_search.newest, centers=centers))

    async def check(self) -> None:
        await self._do(lambda: None, 0)

    async def digests(
        self, center: str, ranges: Sequence[Range], most_listed: int | None
    ) -> list[RangeDigest]:
        return await self._read(
            partial(sqlite_search.digests, center=center, ranges=ranges, most_listed=most_listed)
        )

    async def reports(self) -> list[CenterReport]:
        return await self._read(sqlite_search.reports)

    # --- logins ------------------------------------------------------------------------------------------

    async def open_session(self, name_digest: bytes, key_digest: bytes, until: float) -> None:
        await self._execute("DELETE FROM sessions WHERE until < ?", time.time())
        await self._execute("INSERT INTO sessions VALUES (?, ?, ?)", name_digest, key_digest, until)

    async def session(self, name_digest: bytes, now: float) -> bytes | None:
        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT key_digest FROM sessions WHERE name_digest = ? AND until > ?", (name_digest, now)
            ).fetchone()
            return row[0] if row is not None else None

        return await self._read(read)

    async def close_session(self, name_digest: bytes) -> None:
        await self._execute("DELETE FROM sessions WHERE name_digest = ?", name_digest)

    async def refuse_login(self, address: str, now: float) -> None:
        await self._execute("DELETE FROM refused_logins WHERE refused_at < ?", now - 3600)
        await self._execute("INSERT INTO refused_logins VALUES (?, ?)", address, now)

    async def refused_logins(self, address: str, since: float) -> int:
        def read(connection: sqlite3.Connection) -> int:
            number: int = connection.execute(
                "SELECT count(*) FROM refused_logins WHERE address = ? AND refused_at > ?", (address, since)
            ).fetchone()[0]
            return number

        return await self._read(read)

    async def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        def work() -> list[list[tuple[Any, ...]]]:
            return [self._connection.execute(text, values).fetchall() for text, values in statements]

        found: list[list[tuple[Any, ...]]] = await self._do(work, len(statements))
        return found

    async def add_records(self, records: Sequence[Row], patients: Sequence[tuple[str, str]]) -> None:
        def work() -> None:
            self._connection.executemany(
                "INSERT INTO audit (id, at, reader, address, kind, content) VALUES (?, ?, ?, ?, ?, ?)",
                records,
            )
            self._connection.executemany(
                "INSERT INTO audit_patients (patient, record) VALUES (?, ?)", patients
            )

        await self._do(work, len(records))

    async def _execute(self, statement: str, *values: object) -> None:
        await self._do(lambda: self._connection.execute(statement, values).close(), 1)

    async def _read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        def in_thread() -> _T:
            with snapshot(self._path) as connection:
                return read(connection)

        try:
            return await run_in_threadpool(in_thread)
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Any]
    #: How many changes it makes.
    size: int
    tells: bool
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]

    def succeed(self, result: object) -> None:
        self.loop.call_soon_threadsafe(self._finish, result, None)

    def fail(self, error: Exception) -> None:
        self.loop.call_soon_threadsafe(self._finish, None, error)

    def _finish(self, result: object, error: Exception | None) -> None:
        # Cancelled when who asked has gone.
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)
