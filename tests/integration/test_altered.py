"""The outbox altered while it is followed, in any disguise: no value may ever come under another column's name.

Two columns of one type change places, so that nothing in a row's event shows it (the servers' default leaves the names out).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cdc_indexer.model.errors import Stopped
from cdc_indexer.source.binlog import BinlogReader, Event, Heartbeat
from tests.following import COLUMNS, Followed, Outbox
from tests.indexer import wait_until

SWAP = "MODIFY COLUMN patient_id VARCHAR(250) NULL AFTER patient_name"
SWAP_BACK = "MODIFY COLUMN patient_name VARCHAR(250) NULL AFTER patient_id"
VALUES = {"patient_id": "11-1", "patient_name": "ROJAS^EVA"}

PLAIN = f"ALTER TABLE study_service {SWAP}"
DISGUISES = {
    "plain": [PLAIN],
    "DBeaver's comment": [f"ALTER /* ApplicationName=DBeaver */ TABLE study_service {SWAP}"],
    "a comment to the end of the line": [f"alter -- x\n table study_service {SWAP}"],
    "another comment": [f"alter # x\n table `study_service` {SWAP}"],
    "for this server only": [f"/*!50000 ALTER TABLE study_service {SWAP} */"],
    "part of it for this server only": [f"ALTER /*!50000 TABLE study_service {SWAP} */"],
    "gh-ost": [
        "CREATE TABLE _study_service_gho LIKE study_service",
        f"alter /* gh-ost */ table _study_service_gho {SWAP}",
        "rename /* gh-ost */ table study_service to _study_service_del, _study_service_gho to study_service",
    ],
    "a variable for it": [f"SET STATEMENT max_statement_time = 0 FOR ALTER TABLE study_service {SWAP}"],
    "a variable and a comment": [
        f"SET /* x */ STATEMENT max_statement_time=0 FOR alter /* */ table study_service {SWAP}"
    ],
    "in a procedure": [f"CREATE PROCEDURE p() ALTER TABLE study_service {SWAP}", "CALL p()"],
    "prepared": [f"PREPARE s FROM 'ALTER /* x */ TABLE study_service {SWAP}'", "EXECUTE s"],
    "not logged": ["SET sql_log_bin = 0", PLAIN, "SET sql_log_bin = 1"],
    "after a long comment": [f"ALTER /* {'x' * 300_000} */ TABLE study_service {SWAP}"],
}
OF_MARIADB = {"a variable for it", "a variable and a comment"}


@pytest.fixture
def outbox(server: Any, database: str) -> Iterator[Outbox]:
    with closing(Outbox(server, database)) as one:
        yield one


def run(outbox: Outbox, disguise: str) -> None:
    if disguise in OF_MARIADB and not outbox.is_mariadb:
        pytest.skip("MariaDB's")
    for statement in DISGUISES[disguise]:
        outbox(statement)


def assert_told(seen: Followed, rows: int) -> None:
    """Each of so many transactions of one row came with its values in their places, or the table is to be read for it."""
    assert {(row.values["patient_id"], row.values["patient_name"]) for row in seen.rows} <= {
        (VALUES["patient_id"], VALUES["patient_name"])
    }
    assert len(seen.ids) + len([reason for reason in seen.reads if "columns" in reason]) == rows


@pytest.mark.parametrize("disguise", DISGUISES)
def test_read_afterwards(outbox: Outbox, disguise: str) -> None:
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1, **VALUES)
    run(outbox, disguise)
    outbox.insert(2, **VALUES)
    seen = outbox.follow(start, columns)
    assert_told(seen, 2)
    # What follows is read from the log again, also by who begins there.
    outbox.insert(3, **VALUES)
    later = outbox.follow(seen.position, seen.ends[-1].columns)
    assert_told(later, 1)
    assert later.ids == [3]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_while_it_is_followed(outbox: Outbox, disguise: str) -> None:
    with Live(outbox) as live:
        outbox.insert(1, **VALUES)
        wait_until(lambda: live.seen.ids == [1], what="the row before")
        run(outbox, disguise)
        outbox.insert(2, **VALUES)
        wait_until(lambda: len(live.seen.ids) + len(live.seen.reads) >= 2, what="the row after")
        outbox.insert(3, **VALUES)
        wait_until(lambda: 3 in live.seen.ids, what="what comes later is read from the log")
    assert_told(live.seen, 3)


def test_without_a_word_before_the_first_row_that_is_read(outbox: Outbox) -> None:
    """No number of the table is known yet that could change, and both the old columns and the new ones fit."""
    start, columns = outbox.end(), outbox.columns()
    run(outbox, "not logged")
    outbox.insert(1, **VALUES)
    assert_told(outbox.follow(start, columns), 1)


def test_there_and_back_while_nobody_reads(outbox: Outbox) -> None:
    """The catalogue says the same as before, and yet the rows between have other columns."""
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1, **VALUES)
    outbox(PLAIN)
    outbox.insert(2, **VALUES)
    outbox(f"ALTER TABLE study_service {SWAP_BACK}")
    outbox.insert(3, **VALUES)
    seen = outbox.follow(start, columns)
    assert_told(seen, 3)
    assert 1 in seen.ids


def test_there_and_back_without_a_word_in_the_log(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1, **VALUES)
    outbox("SET sql_log_bin = 0")
    outbox(PLAIN)
    outbox.insert(99, **VALUES)
    outbox("SET sql_log_bin = 1")
    outbox.insert(2, **VALUES)
    outbox("SET sql_log_bin = 0")
    outbox(f"ALTER TABLE study_service {SWAP_BACK}")
    outbox("SET sql_log_bin = 1")
    outbox.insert(3, **VALUES)
    assert_told(outbox.follow(start, columns), 3)


def test_made_again_without_a_word_in_the_log(outbox: Outbox) -> None:
    """The reader sees it dropped, and not that it is there again."""
    with Live(outbox) as live:
        outbox("DROP TABLE study_service")
        wait_until(lambda: live.seen.changes == 1, what="it is said to be gone")
        outbox("SET sql_log_bin = 0")
        outbox(f"CREATE TABLE study_service ({COLUMNS}) DEFAULT CHARSET=utf8mb4")
        outbox("SET sql_log_bin = 1")
        outbox.insert(1, **VALUES)
        wait_until(lambda: live.seen.reads, what="the first row is read from the table")
        outbox.insert(2, **VALUES)
        wait_until(lambda: live.seen.ids == [2], what="what comes later is read from the log")


def test_a_statement_that_writes_behind_a_variable(outbox: Outbox) -> None:
    """It begins as if it set something; and it isn't the definition that it changes."""
    if not outbox.is_mariadb:
        pytest.skip("MariaDB's")
    start = outbox.end()
    outbox(
        "SET STATEMENT binlog_format = STATEMENT FOR "
        "INSERT INTO study_service (id, operation, recorded_at) VALUES (1, 'stored', NOW(6))"
    )
    assert "something was written in statement format" in outbox.follow(start).reads


def test_a_large_compressed_statement_takes_no_memory(outbox: Outbox) -> None:
    """MariaDB compresses what is longer than log_bin_compress_min_len; only the head of a large one is kept."""
    if not outbox.is_mariadb:
        pytest.skip("MariaDB's")
    import os
    import tracemalloc

    outbox("SET GLOBAL max_allowed_packet = 134217728")
    outbox("SET GLOBAL log_bin_compress = ON")
    try:
        outbox.session.close()
        outbox.session = outbox.server.connect(outbox.database, max_allowed_packet=1 << 27)
        start, columns = outbox.end(), outbox.columns()
        # Random, so that it is large after compression too.
        outbox("SET SESSION binlog_format = STATEMENT")
        outbox(f"INSERT INTO other (b) SELECT LEFT('{os.urandom(20_000_000).hex()}', 9)")
        outbox("SET SESSION binlog_format = ROW")
        outbox.insert(1, **VALUES)
        assert outbox.end().offset - start.offset > 10_000_000
        tracemalloc.start()
        seen = outbox.follow(start, columns)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        outbox("SET GLOBAL log_bin_compress = DEFAULT")
        outbox("SET GLOBAL max_allowed_packet = DEFAULT")
    assert seen.ids == [1]
    assert seen.reads == ["something was written in statement format"]
    assert peak < 5_000_000


class Live:
    """A reader that follows in a thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._reader: BinlogReader = outbox.reader(outbox.end(), outbox.columns())
        self._events: list[Event] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    @property
    def seen(self) -> Followed:
        return Followed(list(self._events))

    def _follow(self) -> None:
        try:
            for event in self._reader:
                if isinstance(event, Heartbeat):
                    self._started.set()
                else:
                    self._events.append(event)
        except Stopped:
            pass

    def __enter__(self) -> Live:
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.interrupt()
        self._thread.join(20)
        assert not self._thread.is_alive()
