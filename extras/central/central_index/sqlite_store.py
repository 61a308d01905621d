"""The studies in one SQLite file: one writer, many readers. The store that needs nothing."""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from starlette.concurrency import run_in_threadpool

from central_index import sqlite_search
from central_index.audit import Row
from central_index.counted import Counted
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
    StoreUnavailable,
)
from central_index.sqlite_apply import apply_all
from central_index.sqlite_schema import open_file, snapshot, transaction

_T = TypeVar("_T")

#: So many changes share one wait on the disk, at most.
_GROUP = 1_000


class SqliteStore:
    """Opens the file, or makes it; brings one of an older format to today's."""

    def __init__(self, path: Path, on_change: OnChange) -> None:
        self._path = path
        self._on_change = on_change
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._counted = Counted(lambda: self._read(sqlite_search.counts))

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = await run_in_threadpool(open_file, self._path)
        self._thread = threading.Thread(target=self._write_all, name="writer")
        self._thread.start()

    async def serve(self) -> None:
        """Nothing: a file has one process."""

    async def close(self) -> None:
        await self._counted.close()
        self._jobs.put(None)
        await run_in_threadpool(self._thread.join)
        self._connection.close()

    # --- writing -----------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        outcomes: list[Outcome] = await self._ask(changes, None)
        return outcomes

    async def report(self, center: str, content: dict[str, Any], received_at: float) -> Reported:
        reported: Reported = await self._do(partial(self._report, center, content, received_at))
        return reported

    async def _do(self, work: Callable[[], Any]) -> Any:
        """In the writer's thread, in a transaction."""
        return await self._ask((), work)

    async def _ask(self, changes: Sequence[Change], work: Callable[[], Any] | None) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(changes, work, done))
        try:
            return await done
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error

    def _write_all(self) -> None:
        """In the writer's thread: what has come while the disk was written goes into the next transaction together."""
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            size = len(job.changes)
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
                    size += len(more.changes)
            self._commit(jobs, size)
            if ending:
                return

    def _commit(self, jobs: list[_Job], size: int) -> None:
        results: list[Any] = []
        failure: Exception | None = None
        try:
            with transaction(self._connection):
                outcomes = iter(
                    apply_all(self._connection, [change for job in jobs for change in job.changes])
                )
                results = [
                    list(islice(outcomes, len(job.changes))) if job.work is None else job.work()
                    for job in jobs
                ]
                self._forget(size)
        except Exception as error:
            # Whatever it is: who waits is told, and the thread goes on.
            failure = error
        # One call for all: each wakes the loop.
        self._loop.call_soon_threadsafe(_finish, jobs, results, failure)
        if failure is None and any(job.work is None for job in jobs):
            self._on_change()

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
        await self._do(lambda: None)

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

        found: list[list[tuple[Any, ...]]] = await self._do(work)
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

        await self._do(work)

    async def _execute(self, statement: str, *values: object) -> None:
        await self._do(lambda: self._connection.execute(statement, values).close())

    async def _read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        def in_thread() -> _T:
            with snapshot(self._path) as connection:
                return read(connection)

        try:
            return await run_in_threadpool(in_thread)
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error


class _Job(NamedTuple):
    """Changes, or any other work in the transaction."""

    changes: Sequence[Change]
    work: Callable[[], Any] | None
    done: asyncio.Future[Any]


def _finish(jobs: Sequence[_Job], results: Sequence[Any], failure: Exception | None) -> None:
    for place, job in enumerate(jobs):
        # Cancelled when who asked has gone.
        if job.done.done():
            continue
        if failure is not None:
            job.done.set_exception(failure)
        else:
            job.done.set_result(results[place])
