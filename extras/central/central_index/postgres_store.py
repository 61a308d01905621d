"""The studies in PostgreSQL: any number of processes, on any number of machines, in front of one database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
import structlog
from psycopg import errors
from psycopg_pool import PoolTimeout

from central_index import postgres_digests, postgres_search
from central_index.audit import Row
from central_index.counted import Counted
from central_index.frequencies import Frequencies
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
    UnusableStore,
)
from central_index.postgres_apply import apply_all, ordered_by_version
from central_index.postgres_news import Listener
from central_index.postgres_pool import Connection, Pool
from central_index.postgres_schema import prepare, upgrade

#: So many changes share one commit, at most; what comes meanwhile goes with the next.
_GROUP = 500
#: While one group waits for the disk, the next is worked on.
_WRITERS = 2
#: Of which nobody waits for a count.
_MANY = 1_000_000
_MAINTENANCE_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 3600.0
_FORGOTTEN_AT_ONCE = 10_000
#: May come twice, where the connection broke after the first.
_ADD_RECORDS = """
WITH records AS (
    INSERT INTO audit (id, at, reader, address, kind, content)
    SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING
)
INSERT INTO audit_patients (patient, record) SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING
"""
_MAINTENANCE_LOCK = 0x666F72676574

log = structlog.get_logger()


class PostgresStore:
    """``database`` and ``read_database``: addresses as libpq takes them; searches go to the second."""

    def __init__(self, database: str, read_database: str | None, on_change: OnChange) -> None:
        # The tables are large or will be: a plan made while they were empty must not go through them.
        by_index = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
        self._writers = Pool(database, "read-write", _WRITERS + 4, by_index)
        # A plan for anything would be one for nothing: MARIA isn't as rare as an id.
        own_plans = {"jit": "off", "plan_cache_mode": "force_custom_plan"}
        reading = {
            "default_transaction_read_only": "on",
            "statement_timeout": "10s",
            # Studies without a date are hashed, however many came in the month that is asked for.
            "hash_mem_multiplier": "16",
            # Rows of one name lie on as many pages: of those that aren't in memory many are fetched at a time.
            "effective_io_concurrency": "64",
            # Most searches are done before another process of the database is ready to help, and many search at once; and a
            # count must not take all cores from them.
            "max_parallel_workers_per_gather": "0",
            **by_index,
            **own_plans,
        }
        target = "primary" if read_database is None else "any"
        # A search leaves how it was planned on its connection, which would be wrong for others.
        self._searches = Pool(read_database or database, target, 8, reading)
        self._readers = Pool(read_database or database, target, 3, reading)
        self._pools = (self._writers, self._searches, self._readers)
        self._listener = Listener(database, on_change)
        self._queue: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._writing: list[asyncio.Task[None]] = []
        self._besides: list[asyncio.Task[None]] = []
        #: Whether the tables are of an older format.
        self._older = False
        self._counted = Counted(
            lambda: self._readers.run(postgres_search.counts),
            lambda: self._frequencies.studies > _MANY,
        )
        self._frequencies = Frequencies({})

    async def open(self) -> None:
        for pool in self._pools:
            await pool.open()
        try:
            self._older = await self._writers.run(prepare, in_transaction=False)
        except StoreUnavailable as error:
            await self._close_pools()
            raise UnusableStore(f"The database can't be used: {_sentence(error)}") from None
        except UnusableStore:
            await self._close_pools()
            raise
        with contextlib.suppress(StoreUnavailable):
            # Before the first search: it would gather what many have as if few had it.
            await self._learn()
        self._writing = [asyncio.create_task(self._write_all()) for _ in range(_WRITERS)]

    async def serve(self) -> None:
        besides = [self._maintain(), *([self._upgrade()] if self._older else [])]
        self._besides = [asyncio.create_task(one) for one in besides]
        await self._listener.open()

    async def close(self) -> None:
        await self._counted.close()
        for _ in range(_WRITERS):
            self._queue.put_nowait(None)
        await asyncio.gather(*self._writing)
        for task in self._besides:
            task.cancel()
        await asyncio.gather(*self._besides, return_exceptions=True)
        await self._listener.close()
        await self._close_pools()

    async def _close_pools(self) -> None:
        for pool in self._pools:
            await pool.close()

    # --- writing -----------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Job(changes, done))
        return await done

    async def _write_all(self) -> None:
        while (job := await self._queue.get()) is not None:
            jobs = [job]
            size = len(job.changes)
            while size < _GROUP and not self._queue.empty():
                more = self._queue.get_nowait()
                if more is None:
                    # For the next writer to end by; this one ends after it has gone round.
                    self._queue.put_nowait(None)
                    break
                jobs.append(more)
                size += len(more.changes)
            await self._write_group(jobs)

    async def _write_group(self, jobs: list[_Job]) -> None:
        changes = [change for job in jobs for change in job.changes]
        try:
            outcomes = await self._writers.run(
                partial(apply_all, changes), in_transaction=not ordered_by_version(changes)
            )
        except psycopg.Error as error:
            if len(jobs) > 1:
                # One that the database can't take must not keep the others out.
                for job in jobs:
                    await self._write_group([job])
                return
            jobs[0].fail(StoreUnavailable(str(error)))
        except Exception as error:
            # Whatever it is: who waits is told, and the task goes on.
            for job in jobs:
                job.fail(error)
        else:
            for job in jobs:
                job.succeed(outcomes[: len(job.changes)])
                outcomes = outcomes[len(job.changes) :]
            self._listener.changed()

    async def report(self, center: str, content: dict[str, Any], received_at: float) -> Reported:
        return await self._writers.run(
            partial(_report, center=center, content=content, received_at=received_at)
        )

    async def _maintain(self) -> None:
        """One of all processes forgets what is too old."""
        refresh = partial(postgres_digests.refresh, center=None)
        while True:
            for work in (
                self._learn,
                partial(self._writers.run, _forget),
                partial(self._writers.run, refresh),
            ):
                try:
                    await work()
                except StoreUnavailable:
                    # Whoever asks for something is told. What is learnt may be a standby's that is away: the others go on.
                    pass
                except Exception as error:
                    # Whatever it is: nothing old would be forgotten any more.
                    log.error(
                        "What is done each minute failed; it is tried again.", error=type(error).__name__
                    )
            await asyncio.sleep(_MAINTENANCE_SECONDS)

    async def _upgrade(self) -> None:
        """May take as long as it likes: until then searches do without what is built.

        More and more rarely, for what was built until the disk was full is built again.
        """
        pause = _MAINTENANCE_SECONDS
        while True:
            try:
                await self._writers.run(upgrade, in_transaction=False)
                await self._learn()
                return
            except UnusableStore as error:
                reason = str(error)
            except Exception as error:
                # Not what it says: that may hold values.
                reason = type(error.__cause__ or error).__name__
            log.error(
                "The tables couldn't be brought to a newer format: it is tried again.",
                reason=reason,
                seconds=pause,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _learn(self) -> None:
        self._frequencies = await self._readers.run(postgres_search.frequencies)

    # --- reading -----------------------------------------------------------------------------------------

    async def search(self, filters: Filters) -> Found:
        ask = partial(postgres_search.search, filters=filters, frequencies=self._frequencies)
        try:
            found = await self._searches.run(ask, in_transaction=False)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, errors.UndefinedFunction):
                raise
            # Another server answers now, which hasn't got as far as having pairs.
            self._frequencies.pairs = False
            found = await self._searches.run(ask, in_transaction=False)
        if found is None:
            await self._writers.run(partial(postgres_digests.refresh, center=None))
            found = await self._searches.run(partial(ask, at_once=True), in_transaction=False)
            assert found is not None
        return found

    async def counts(self) -> dict[str, int] | None:
        return await self._counted.get()

    async def arrivals(self, periods: Sequence[tuple[float, float]]) -> dict[str, Arrivals]:
        return await self._readers.run(partial(postgres_search.arrivals, periods=periods))

    async def newest(self, centers: Sequence[str]) -> dict[str, int]:
        return await self._readers.run(partial(postgres_search.newest, centers=centers))

    async def check(self) -> None:
        await self._execute("SELECT 1")

    async def digests(
        self, center: str, ranges: Sequence[Range], most_listed: int | None
    ) -> list[RangeDigest]:
        return await self._writers.run(
            partial(postgres_digests.digests, center=center, ranges=ranges, most_listed=most_listed)
        )

    async def reports(self) -> list[CenterReport]:
        return await self._readers.run(postgres_search.reports)

    # --- logins ------------------------------------------------------------------------------------------

    async def open_session(self, name_digest: bytes, key_digest: bytes, until: float) -> None:
        await self._execute(
            "INSERT INTO sessions (name_digest, key_digest, until) VALUES (%s, %s, %s)",
            name_digest, key_digest, until,
        )  # fmt: skip

    async def session(self, name_digest: bytes, now: float) -> bytes | None:
        rows = await self._execute(
            "SELECT key_digest FROM sessions WHERE name_digest = %s AND until > %s", name_digest, now
        )
        return bytes(rows[0][0]) if rows else None

    async def close_session(self, name_digest: bytes) -> None:
        await self._execute("DELETE FROM sessions WHERE name_digest = %s", name_digest)

    async def refuse_login(self, address: str, now: float) -> None:
        await self._execute("INSERT INTO refused_logins (address, refused_at) VALUES (%s, %s)", address, now)

    async def refused_logins(self, address: str, since: float) -> int:
        rows = await self._execute(
            "SELECT count(*) FROM refused_logins WHERE address = %s AND refused_at > %s", address, since
        )
        return int(rows[0][0])

    async def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        async def work(connection: Connection) -> list[list[tuple[Any, ...]]]:
            found: list[list[tuple[Any, ...]]] = []
            for text, values in statements:
                cursor = await connection.execute(text.replace("?", "%s").encode(), values)
                found.append(await cursor.fetchall() if cursor.description else [])
            return found

        return await self._writers.run(work)

    async def add_records(self, records: Sequence[Row], patients: Sequence[tuple[str, str]]) -> None:
        async def work(connection: Connection) -> None:
            of_patients = zip(*patients, strict=True) if patients else ((), ())
            await connection.execute(
                _ADD_RECORDS, [list(one) for one in (*zip(*records, strict=True), *of_patients)]
            )

        await self._writers.run(work, in_transaction=False)

    async def _execute(self, statement: str, *values: object) -> list[Any]:
        async def work(connection: Connection) -> list[Any]:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

        return await self._writers.run(work)


class _Job:
    def __init__(self, changes: Sequence[Change], done: asyncio.Future[list[Outcome]]) -> None:
        self.changes = changes
        self._done = done

    def succeed(self, outcomes: list[Outcome]) -> None:
        # Cancelled when who asked has gone.
        if not self._done.done():
            self._done.set_result(outcomes)

    def fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def _report(
    connection: Connection, center: str, content: dict[str, Any], received_at: float
) -> Reported:
    # The row is locked before it is read: two reports of one centre come one after the other.
    rows = await connection.execute("SELECT at FROM reports WHERE center = %s FOR UPDATE", [center])
    previous = await rows.fetchone()
    rows = await connection.execute("SELECT max(version) FROM studies WHERE center = %s", [center])
    highest = await rows.fetchone()
    # An older one comes late: it says that the centre lives, and no more.
    await connection.execute(
        "INSERT INTO reports AS kept (center, at, received_at, content) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (center) DO UPDATE SET received_at = excluded.received_at,"
        " content = CASE WHEN excluded.at > kept.at THEN excluded.content ELSE kept.content END,"
        " at = greatest(kept.at, excluded.at)",
        [center, content["at"], received_at, json.dumps(content)],
    )
    return Reported(previous[0] if previous else None, highest[0] if highest else None)


async def _forget(connection: Connection) -> None:
    rows = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_MAINTENANCE_LOCK])
    row = await rows.fetchone()
    if row is None or not row[0]:
        return
    before = time.time() - REMEMBERED_SECONDS
    await connection.execute("DELETE FROM sessions WHERE until < %s", [time.time()])
    await connection.execute("DELETE FROM refused_logins WHERE refused_at < %s", [time.time() - 3600])
    await connection.execute(
        "DELETE FROM requests WHERE (center, key_digest) IN "
        "(SELECT center, key_digest FROM requests WHERE received_at < %s LIMIT %s)",
        [before, _FORGOTTEN_AT_ONCE],
    )
    # A centre's newest stays: by its version the centre sees that nothing was lost.
    await connection.execute(
        "DELETE FROM studies USING"
        " (SELECT center, study_iuid FROM studies WHERE deleted AND received_at < %s LIMIT %s) AS old "
        "WHERE studies.center = old.center AND studies.study_iuid = old.study_iuid AND studies.deleted "
        "AND version < (SELECT max(version) FROM studies AS all_of WHERE all_of.center = old.center)",
        [before, _FORGOTTEN_AT_ONCE],
    )


def _sentence(error: Exception) -> str:
    """What libpq or the server said, on one line."""
    cause = error.__cause__
    if isinstance(cause, PoolTimeout):
        return "no connection within 5 s; is the address right, and is the server there?"
    return " ".join(str(cause or error).split())
