"""A database of an older format becomes one of today's while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from benchmarks.region_studies import as_moved, studies
from central_index import postgres_schema
from central_index.model import UnusableStore
from central_index.postgres_pool import Connection
from central_index.postgres_rows import MOVE
from central_index.words import words_of
from tests.beside import beside
from tests.central.conftest import Index, MakeIndex, study
from tests.central.postgres import Cluster
from tests.indexer import wait_until

NUMBER = 3_000
_LOCKED_SECONDS = 4.0
FORMATS = "SELECT format FROM index_format ORDER BY 1"
INDEXES = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'studies'::regclass"


@pytest.fixture
def engine() -> str:
    return "postgresql"


def older(cluster: Cluster, number: int) -> str:
    """As a version of that format made it, with studies."""
    url = cluster.new_database(empty=True)

    async def make() -> None:
        async with await Connection.connect(url, autocommit=True) as connection:
            await connection.execute("CREATE TABLE index_format (format integer NOT NULL)")
            tables = postgres_schema._FORMAT_1
            if number < 3:
                tables = tables.replace(postgres_schema._SOME_AT_ONCE, "fastupdate = off")
            await connection.execute(tables.encode())
            await postgres_schema._make_partitions(connection)
            for newer in [one for at, one in postgres_schema._NEWER.items() if at <= number]:
                for statement in (*newer.first, *newer.whole()):
                    await connection.execute(statement.encode())
            await postgres_schema._keep_format(connection, number)
            await connection.execute(MOVE, as_moved(studies(1, NUMBER), 1e9))

    asyncio.run(make())
    return url


@pytest.fixture
def format_1(cluster: Cluster) -> str:
    return older(cluster, 1)


@contextlib.contextmanager
def in_use(url: str) -> Iterator[list[float]]:
    """Rows are written and read all the time; how long the longest of these took, in seconds, at the end."""
    longest = [0.0]

    def work(ended: threading.Event) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended.is_set():
                began = time.monotonic()
                connection.execute("UPDATE studies SET versions = versions + 1 WHERE study_pk = 77")
                connection.execute("SELECT * FROM studies ORDER BY sorted_at DESC LIMIT 50").fetchall()
                longest[0] = max(longest[0], time.monotonic() - began)

    with beside(work):
        yield longest


def test_a_database_of_the_format_before_gets_its_indexes_while_it_is_used(
    cluster: Cluster, format_1: str, make_index: MakeIndex
) -> None:
    name = format_1.rpartition("/")[2]
    with in_use(format_1) as longest, psycopg.connect(format_1) as reading:
        # A long search that began before.
        reading.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reading.execute("SELECT count(*) FROM studies").fetchall()
        # Where a process was ended in the middle: one index of a partition is there, another is left unusable.
        place = postgres_schema._FORMAT_2.indexes["studies_by_date"]
        cluster.execute(name, f"CREATE INDEX studies_by_date_00 ON studies_00 {place}")
        with pytest.raises(psycopg.errors.QueryCanceled), psycopg.connect(format_1, autocommit=True) as ended:
            ended.execute("SET statement_timeout = '300ms'")
            ended.execute(f"CREATE INDEX CONCURRENTLY studies_by_date_01 ON studies_01 {place}".encode())
        made = [make_index(database=format_1) for _ in range(2)]
        for one in made:
            # A build waits for the long search; nobody waits for the build.
            one.start()
        told = "The tables get indexes of a newer version, while they are used."
        wait_until(lambda: any(told in one.log for one in made), 20, "not said")
        answers = [one.post(study(NUMBER + number)).status_code for number, one in enumerate(made, 1)]
        assert answers == [201] * 2
        some = next(iter(studies(1, 1)))
        assert some["study_iuid"] in _found(made[1], some)
        assert cluster.execute(name, FORMATS) == [(1,)]
        # Whichever builds ends when it is told to.
        for one in made:
            one.stop()
            one.start()
        reading.rollback()
        # Another one, of which a build needs nothing; but the index of the whole can't be dropped. (ONLY: the unusable
        # index of a part would wait for it, too.)
        reading.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        reading.execute("LOCK TABLE ONLY studies IN ACCESS SHARE MODE")
        drop = "DROP INDEX IF EXISTS studies_in_order"
        wants = f"SELECT 1 FROM pg_stat_activity WHERE query = '{drop}' AND state = 'active'"
        wait_until(lambda: cluster.execute(name, wants) != [], 20, "the old index isn't dropped")
        time.sleep(_LOCKED_SECONDS)
        assert cluster.execute(name, FORMATS) == [(1,)]
        reading.rollback()
        wait_until(lambda: cluster.execute(name, FORMATS) == [(1,), (2,), (3,)], 60, "not brought to today's")
    # Who comes behind the one that waits for that.
    assert longest[0] < 2.5
    found = dict(cluster.execute(name, INDEXES))
    assert all(found.values())
    assert {"studies_by_date", "studies_undated", "studies_by_pairs"} <= set(found)
    assert "studies_in_order" not in found
    # Nothing was built a second time.
    parts = "SELECT count(*) FROM pg_indexes WHERE tablename LIKE 'studies\\_%' AND indexdef LIKE '%INCLUDE (center%'"
    assert cluster.execute(name, parts) == [(postgres_schema.PARTITIONS,)]
    assert some["study_iuid"] in _found(made[1], some)


def _found(index: Index, some: dict[str, Any]) -> set[str]:
    """By its day and modality, and by two of its names."""
    day, names = some["study_datetime"][:10], words_of(some["patient_name"])
    by_day = index.studies(**{"from": day, "to": day, "modality": some["study_modality"].split("\\")[0]})
    by_names = index.studies(patient=f"{names[-1]} {names[0]}")
    return {one["study_iuid"] for one in by_day} & {one["study_iuid"] for one in by_names}


def test_what_a_role_may_take_for_a_search_doesn_t_end_a_build(cluster: Cluster, format_1: str) -> None:
    name = format_1.rpartition("/")[2]
    for limit in ("statement_timeout", "lock_timeout"):
        cluster.execute("postgres", f"ALTER ROLE tests IN DATABASE {name} SET {limit} = '300ms'")

    async def upgrade() -> list[object]:
        async with await Connection.connect(format_1, autocommit=True) as connection:
            await postgres_schema.upgrade(connection)
            row = await connection.execute(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            )
            return list(await row.fetchall())

    # A build waits for it.
    with psycopg.connect(format_1) as reading:
        reading.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reading.execute("SELECT count(*) FROM studies").fetchall()
        with ThreadPoolExecutor(1) as pool:
            upgraded = pool.submit(asyncio.run, upgrade())
            time.sleep(1.0)
            reading.rollback()
            assert upgraded.result() == [("300ms", "300ms")]


def test_what_a_build_left_is_taken_away_when_it_fails(cluster: Cluster, format_1: str) -> None:
    """Where the disk is full, it would stay full."""
    name = format_1.rpartition("/")[2]
    builds = "FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND state = 'active'"

    async def upgrade() -> None:
        async with await Connection.connect(format_1, autocommit=True) as connection:
            await postgres_schema.upgrade(connection)

    with psycopg.connect(format_1) as reading, ThreadPoolExecutor(1) as pool:
        reading.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reading.execute("SELECT count(*) FROM studies").fetchall()
        upgraded = pool.submit(asyncio.run, upgrade())
        wait_until(lambda: cluster.execute(name, f"SELECT 1 {builds}") != [], 20, "nothing is built")
        cluster.execute(name, f"SELECT pg_cancel_backend(pid) {builds}")
        time.sleep(0.5)
        reading.rollback()
        with pytest.raises(psycopg.errors.QueryCanceled):
            upgraded.result()
    assert cluster.execute(name, "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []
    asyncio.run(upgrade())
    assert cluster.execute(name, FORMATS) == [(1,), (2,), (3,)]


def test_whose_tables_they_are_is_said(cluster: Cluster, format_1: str) -> None:
    name = format_1.rpartition("/")[2]
    cluster.execute(
        name,
        "CREATE ROLE clerk LOGIN; GRANT ALL ON SCHEMA public TO clerk;"
        " GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk",
    )

    async def upgrade() -> None:
        url = format_1.replace("tests@", "clerk@")
        async with await Connection.connect(url, autocommit=True) as connection:
            assert await postgres_schema.prepare(connection)
            await postgres_schema.upgrade(connection)

    with pytest.raises(
        UnusableStore, match=r"^The tables are the role tests's: let one process log in as it, once\.$"
    ):
        asyncio.run(upgrade())
    assert cluster.execute(name, FORMATS) == [(1,)]
    assert cluster.execute(name, "SELECT 1 FROM pg_proc WHERE proname = 'study_pairs'") == []
    assert cluster.execute(name, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


def test_who_may_write_rows_may_have_their_pairs_made(cluster: Cluster) -> None:
    url = cluster.new_database(empty=True)
    name = url.rpartition("/")[2]
    cluster.execute(
        name,
        "CREATE ROLE writer LOGIN; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    )

    async def run() -> None:
        async with await Connection.connect(url, autocommit=True) as connection:
            await postgres_schema.prepare(connection)
            await connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO writer")
            await connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO writer")
        async with await Connection.connect(url.replace("tests@", "writer@"), autocommit=True) as connection:
            await connection.execute(MOVE, as_moved(studies(1, 3), 1e9))

    asyncio.run(run())


class Held:
    """A connection to a table that somebody holds for so many tries."""

    def __init__(self, tries: int) -> None:
        self.tries = tries

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def execute(self, statement: bytes) -> None:
        if statement.startswith(b"DROP"):
            self.tries -= 1
            if self.tries >= 0:
                raise psycopg.errors.LockNotAvailable


def test_a_table_that_a_backup_holds_is_asked_for_more_and_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time all searches and deliveries wait for a second."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    held: Any = Held(7)
    asyncio.run(postgres_schema._soon(held, "DROP INDEX IF EXISTS studies_in_order"))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize("number", range(1, postgres_schema.FORMAT))
def test_a_new_database_has_what_one_of_an_older_format_gets(cluster: Cluster, number: int) -> None:
    # As its parts have them. Nothing is built a second time, under another name.
    indexes = (
        "SELECT regexp_replace(pg_get_indexdef(indexrelid), 'INDEX .* USING', '') FROM pg_index"
        " WHERE indrelid = 'studies_{:02}'::regclass ORDER BY 1"
    )
    parts = [indexes.format(number) for number in range(postgres_schema.PARTITIONS)]
    database = older(cluster, number)

    async def upgrade() -> None:
        async with await Connection.connect(database, autocommit=True) as connection:
            assert await postgres_schema.prepare(connection)
            await postgres_schema.upgrade(connection)
            assert not await postgres_schema.prepare(connection)

    asyncio.run(upgrade())
    new = cluster.new_database()
    for asked in (*parts, "SELECT max(format) FROM index_format"):
        assert cluster.execute(database.rpartition("/")[2], asked) == cluster.execute(
            new.rpartition("/")[2], asked
        )
