"""The reader of the binary log on real servers: what is committed is given, once, whole, and nothing else is."""

from __future__ import annotations

import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest

from cdc_indexer.model.errors import NoBinlog, SourceError, Stopped
from cdc_indexer.model.position import Position
from cdc_indexer.source import _images, catalogue
from cdc_indexer.source.binlog import Event, Heartbeat, Rows, TransactionEnd
from tests.following import Followed, Outbox, reading, settings


@pytest.fixture
def outbox(server: Any, database: str) -> Iterator[Outbox]:
    with closing(Outbox(server, database)) as outbox:
        yield outbox


# What a row becomes


def test_every_value_arrives_as_it_was_stored(outbox: Outbox) -> None:
    start = outbox.end()
    outbox(
        "INSERT INTO study_service VALUES (%s, 'stored', 4711, '26267267-K', 'PEÑA^JOSÉ', 12, '1.2.840.1', "
        "'2026-01-02 03:04:05', 'Tórax 胸', %s, 3, 44, NULL, '', '2026-11-24 01:02:03.000007')",
        18446744073709551615,
        "CT\\PT",
    )

    (row,) = outbox.follow(start).rows

    assert row.id == 18446744073709551615
    assert row.operation == "stored"
    assert row.recorded_at == datetime(2026, 11, 24, 1, 2, 3, 7)
    assert row.values == {
        "patient_pk": 4711,
        "patient_id": "26267267-K",
        "patient_name": "PEÑA^JOSÉ",
        "study_pk": 12,
        "study_iuid": "1.2.840.1",
        "study_datetime": datetime(2026, 1, 2, 3, 4, 5),
        "study_description": "Tórax 胸",
        "study_modality": "CT\\PT",
        "study_series": 3,
        "study_instances": 44,
        "accession_no": None,
        "patient_id_issuer": "",
    }


def test_nulls_and_the_longest_values(outbox: Outbox) -> None:
    start = outbox.end()
    outbox.insert(1, study_pk=None, study_iuid=None)
    outbox.insert(2, patient_name="Ñ" * 250, study_iuid="9" * 250, patient_pk=-1, study_series=-(2**31))
    nulls, long = outbox.follow(start).rows
    assert set(nulls.values.values()) == {None}
    assert long.values["patient_name"] == "Ñ" * 250
    assert long.values["study_iuid"] == "9" * 250
    assert long.values["patient_pk"] == -1
    assert long.values["study_series"] == -(2**31)


def test_ids_of_a_server_whose_number_sets_the_top_bit(outbox: Outbox) -> None:
    """UUID_SHORT() begins with the low byte of server_id: 223 makes numbers beyond 2**63."""
    start = outbox.end()
    first = (223 << 56) + 1
    outbox.insert(first, first + 1)
    assert outbox.follow(start).ids == [first, first + 1]


def test_a_row_copied_from_a_latin1_table(outbox: Outbox) -> None:
    """A real archive's own tables are latin1; the server converts, also where a trigger copies."""
    outbox("CREATE TABLE patient (name VARCHAR(250) BINARY) DEFAULT CHARSET=latin1")
    outbox("INSERT INTO patient VALUES ('NÚÑEZ^MARÍA')")
    start = outbox.end()
    outbox(
        "INSERT INTO study_service (id, operation, patient_name, recorded_at) "
        "SELECT 1, 'stored', name, UTC_TIMESTAMP(6) FROM patient"
    )
    assert [row.values["patient_name"] for row in outbox.follow(start).rows] == ["NÚÑEZ^MARÍA"]


def test_a_column_of_somebodys_own_is_among_the_values(outbox: Outbox) -> None:
    outbox("ALTER TABLE study_service ADD COLUMN ward VARCHAR(20) FIRST, ADD COLUMN beds TINYINT UNSIGNED")
    start = outbox.end()
    outbox.insert(1, ward="Urgencias", beds=200)
    (row,) = outbox.follow(start).rows
    assert (row.id, row.values["ward"], row.values["beds"]) == (1, "Urgencias", 200)


def test_rows_that_we_read_ourselves_and_the_library_agree(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every usual type, with random values: ours, mysql-replication's and the table's own are the same."""
    kinds = ("TINYINT", "SMALLINT", "MEDIUMINT", "INT", "BIGINT")
    numbers = [
        (f"{kind}{sign}", 8 * size, sign)
        for kind, size in zip(kinds, (1, 2, 3, 4, 8), strict=True)
        for sign in ("", " UNSIGNED")
    ]
    texts = [
        ("VARCHAR(63)", 63),
        ("VARCHAR(64)", 64),
        ("VARCHAR(250)", 250),
        ("CHAR(20)", 20),
        ("CHAR(70)", 70),
    ]
    times = [f"DATETIME({digits})" for digits in range(7)]
    types = [kind for kind, _, _ in numbers] + [kind for kind, _ in texts] + times
    added = [f"ADD COLUMN c{number} {kind} NULL" for number, kind in enumerate(types)]
    outbox("SET SESSION sql_mode = ''")
    outbox(f"ALTER TABLE study_service {', '.join(added)}")
    rng = random.Random(20261125)

    def value(number: int) -> object:
        if rng.random() < 0.2:
            return None
        if number < len(numbers):
            _, bits, sign = numbers[number]
            low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            return rng.choice([low, high, 0, 1, rng.randint(low, high)])
        number -= len(numbers)
        if number < len(texts):
            return "".join(rng.choice("aÑ胸😀^\\'\"") for _ in range(rng.choice([0, 1, texts[number][1]])))
        if rng.random() < 0.1:
            return rng.choice(["0000-00-00 00:00:00", "2024-00-00 00:00:00", "9999-12-31 23:59:59"])
        return datetime(
            rng.randint(1000, 9999),
            rng.randint(1, 12),
            rng.randint(1, 28),
            rng.randint(0, 23),
            rng.randint(0, 59),
            rng.randint(0, 59),
            rng.randint(0, 999_999),
        )

    columns = outbox.columns()
    start = outbox.end()
    for first in range(1, 200, 20):
        outbox("BEGIN")
        for row_id in range(first, first + 20):
            given: dict[str, Any] = {f"c{number}": value(number) for number in range(len(types))}
            outbox.insert(row_id, **given)
        outbox("COMMIT")
    ours = outbox.follow(start, columns).rows
    assert len(ours) == 200
    names = list(ours[0].values)
    stored = outbox(f"SELECT id, operation, recorded_at, {', '.join(names)} FROM study_service ORDER BY id")
    for row, (row_id, operation, recorded_at, *values) in zip(ours, stored, strict=True):
        assert (row.id, row.operation, row.recorded_at) == (row_id, operation, recorded_at)
        # What Python can't hold comes from the log as None, and from PyMySQL as its text.
        assert list(row.values.values()) == [
            None if isinstance(one, str) and one.startswith(("0000-", "2024-00")) else one for one in values
        ]

    asked: list[object] = []
    monkeypatch.setattr(_images, "columns_of", lambda table: asked.append(table))
    assert outbox.follow(start, columns).rows == ours
    assert asked


# Which rows


def test_other_tables_rows_never_come_as_ours(outbox: Outbox, server: Any) -> None:
    twin = f"{outbox.database}x"
    for name in ("study_service2", "study_servic", "STUDY_SERVICE_OLD"):
        outbox(f"CREATE TABLE {name} LIKE study_service")
    outbox(f"CREATE DATABASE {twin}")
    try:
        outbox(f"CREATE TABLE {twin}.study_service LIKE study_service")
        start = outbox.end()
        outbox("BEGIN")
        outbox.insert(1, table="study_service2")
        outbox.insert(2, table=f"{twin}.study_service")
        outbox.insert(3)
        outbox.insert(4, table="study_servic")
        outbox.insert(5)
        outbox.insert(6, table="STUDY_SERVICE_OLD")
        outbox("COMMIT")
        outbox.insert(7, table=f"{twin}.study_service")
        followed = outbox.follow(start)
    finally:
        outbox(f"DROP DATABASE {twin}")
    assert followed.ids == [3, 5]
    assert followed.reads == []


def test_updates_and_deletes_are_no_rows_but_move_the_position(outbox: Outbox) -> None:
    outbox.insert(*range(1, 50))
    start = outbox.end()
    outbox("UPDATE study_service SET study_pk = 8")
    outbox("DELETE FROM study_service WHERE id < 40")
    followed = outbox.follow(start)
    assert followed.rows == []
    assert followed.reads == []
    assert followed.position == outbox.end_made()


def test_two_statements_of_one_transaction_and_two_sessions_at_once(outbox: Outbox) -> None:
    start = outbox.end()
    with closing(outbox.server.connect(outbox.database)) as second, second.cursor() as cursor:
        outbox("BEGIN")
        outbox.insert(1)
        cursor.execute("INSERT INTO study_service (id, operation, recorded_at) VALUES (2, 'stored', NOW())")
        outbox.insert(3)
        outbox("COMMIT")
    assert outbox.follow(start).ids == [2, 1, 3]


def test_rows_that_a_trigger_writes(outbox: Outbox) -> None:
    outbox(
        "CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW "
        "INSERT INTO study_service (id, operation, recorded_at) VALUES (NEW.a, 'stored', UTC_TIMESTAMP(6))"
    )
    start = outbox.end()
    outbox.other(3)
    assert outbox.follow(start).ids == [1, 2, 3]


# Transactions


def test_what_is_rolled_back_never_comes(outbox: Outbox) -> None:
    start = outbox.end()
    outbox("BEGIN")
    outbox.insert(1)
    outbox("ROLLBACK")
    outbox("BEGIN")
    outbox.insert(2)
    outbox("SAVEPOINT s")
    outbox.insert(3)
    outbox("ROLLBACK TO s")
    outbox.insert(4)
    outbox("COMMIT")
    assert outbox.follow(start).ids == [2, 4]


def test_a_rollback_that_had_to_be_logged_gives_no_row_that_does_not_exist(outbox: Outbox) -> None:
    """MariaDB writes a transaction with its ROLLBACK into the log when a temporary table was made in it."""
    if not outbox.is_mariadb:
        pytest.skip("MySQL 8 and later log nothing then")
    start = outbox.end()
    outbox("SET SESSION binlog_format = 'MIXED'")
    outbox("BEGIN")
    outbox("CREATE TEMPORARY TABLE scratch (a INT)")
    outbox.insert(1, study_description=None, patient_name=None)
    outbox(
        "INSERT INTO study_service (id, operation, patient_name, recorded_at) "
        "VALUES (2, 'stored', UUID(), UTC_TIMESTAMP(6))"
    )
    outbox("ROLLBACK")
    assert "ROLLBACK" in outbox.statements(start)  # else this test shows nothing

    followed = outbox.follow(start)

    assert followed.ids == []
    assert followed.reads


def test_an_xa_transaction_comes_when_it_is_committed(outbox: Outbox) -> None:
    start = outbox.end()
    outbox("XA START 'kept'")
    outbox.insert(1)
    outbox("XA END 'kept'")
    outbox("XA PREPARE 'kept'")
    prepared = outbox.follow(start)
    assert prepared.ids == []
    assert prepared.reads == []

    outbox("XA COMMIT 'kept'")
    # Also for a reader that didn't see the rows go by.
    for since in (start, prepared.position):
        assert outbox.follow(since).reads == ["an XA transaction was committed"]


def test_an_xa_transaction_in_one_phase(outbox: Outbox) -> None:
    start = outbox.end()
    outbox("XA START 'one'")
    outbox.insert(1)
    outbox("XA END 'one'")
    outbox("XA COMMIT 'one' ONE PHASE")
    assert outbox.follow(start).ids == [1]


def test_an_xa_transaction_that_is_rolled_back_or_is_not_ours_says_nothing(outbox: Outbox) -> None:
    start = outbox.end()
    outbox("XA START 'undone'")
    outbox.insert(1)
    outbox("XA END 'undone'")
    outbox("XA PREPARE 'undone'")
    outbox("XA ROLLBACK 'undone'")
    outbox("XA START 'foreign'")
    outbox.other()
    outbox("XA END 'foreign'")
    outbox("XA PREPARE 'foreign'")
    outbox("XA COMMIT 'foreign'")
    followed = outbox.follow(start)
    assert followed.ids == []
    assert followed.reads == []


def test_fifty_thousand_rows_in_one_transaction_take_no_memory(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    outbox("BEGIN")
    for first in range(1, 50_000, 5_000):
        outbox.insert(*range(first, first + 5_000), patient_name="PEÑA^JOSÉ" * 10)
    outbox("COMMIT")

    expected, ends = 1, 0
    tracemalloc.start()
    try:
        reader = outbox.reader(start, columns)
        for event in reader:
            if isinstance(event, Rows):
                assert ends == 1  # that of the start: not one inside the transaction
                for row in event.rows:
                    assert row.id == expected
                    expected += 1
            elif isinstance(event, TransactionEnd):
                ends += 1
            else:
                break
        reader.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (expected, ends) == (50_001, 2)
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("megabytes", [2, 40])
def test_a_large_row_of_another_table_takes_no_memory(outbox: Outbox, megabytes: int) -> None:
    """A packet has 16 MiB at most: 40 come in three, the last one's end being ours to find."""
    outbox("SET GLOBAL max_allowed_packet = 256 * 1024 * 1024")
    outbox("CREATE TABLE image (a INT PRIMARY KEY, b LONGBLOB)")
    start, columns = outbox.end(), outbox.columns()
    with closing(outbox.server.connect(outbox.database)) as session, session.cursor() as cursor:
        for number in (1, 2):
            cursor.execute("BEGIN")
            cursor.execute(
                f"INSERT INTO study_service (id, operation, recorded_at) VALUES ({number}, 'stored', NOW())"
            )
            cursor.execute(
                f"INSERT INTO image VALUES ({number}, REPEAT('x', {megabytes} * 1024 * 1024 + {number}))"
            )
            cursor.execute("COMMIT")
    tracemalloc.start()
    try:
        followed = outbox.follow(start, columns)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert followed.ids == [1, 2]
    assert followed.position == outbox.end_made()
    assert peak < 2 * 1024 * 1024


def test_packets_of_exactly_the_largest_size(outbox: Outbox) -> None:
    """A packet of 16 MiB - 1 is followed by another one, even if that is empty."""
    outbox("SET GLOBAL max_allowed_packet = 256 * 1024 * 1024")
    outbox("CREATE TABLE image (a INT PRIMARY KEY, b LONGBLOB)")
    start, columns = outbox.end(), outbox.columns()
    with closing(outbox.server.connect(outbox.database)) as session, session.cursor() as cursor:
        cursor.execute("INSERT INTO image VALUES (0, REPEAT('x', 1000))")
        sizes = [after[1] - before[1] for before, after in itertools.pairwise(outbox.log_events(start))]
        overhead = max(sizes) - 1000
        for number, size in enumerate(range(-3, 4), 1):
            # The event's size plus the byte that says that it is one.
            cursor.execute(
                f"INSERT INTO image VALUES ({number}, REPEAT('x', {0xFFFFFF - 1 - overhead + size}))"
            )
        cursor.execute("INSERT INTO study_service (id, operation, recorded_at) VALUES (1, 'stored', NOW())")
    followed = outbox.follow(start, columns)
    assert followed.ids == [1]
    assert followed.position == outbox.end_made()


# Positions


def test_rotation_in_the_middle(outbox: Outbox) -> None:
    start = outbox.end()
    outbox.insert(1)
    outbox("FLUSH BINARY LOGS")
    outbox.insert(2)
    outbox("FLUSH BINARY LOGS")
    followed = outbox.follow(start)
    assert followed.ids == [1, 2]
    assert followed.position == outbox.end_made()
    files = [end.position.file for end in followed.ends]
    assert files == sorted(files)
    assert len(set(files)) == 3
    assert len({end.position.file_created is None for end in followed.ends}) == 1


def test_the_checksum_is_switched_on_and_off(outbox: Outbox) -> None:
    """Each file says for itself whether its events end with one."""
    start, columns = outbox.end(), outbox.columns()
    before = outbox("SELECT @@GLOBAL.binlog_checksum")[0][0]
    ends = []
    try:
        for number, kind in enumerate(("NONE", "CRC32", "NONE"), 1):
            outbox("SET GLOBAL binlog_checksum = %s", kind)
            outbox.insert(number, patient_name="PEÑA")
            ends.append(outbox.end())
            outbox("BEGIN")
            outbox.insert(number * 10)
            outbox.other()
            outbox.insert(number * 10 + 1)
            outbox("COMMIT")
            for since, expected in zip([start, *ends], [1, 10, 20], strict=False):
                seen = outbox.follow(since, columns)
                assert seen.ids[0] == expected
                assert seen.ids[-1] == number * 10 + 1
                assert seen.reads == []
                assert seen.position == outbox.end_made()
    finally:
        outbox("SET GLOBAL binlog_checksum = %s", before)


# Columns and definitions


def test_the_table_is_said_to_have_changed(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    for statement in (
        "ALTER TABLE study_service COMMENT 'x'",
        "/* maintenance */ ALTER TABLE study_service COMMENT 'y'",
        f"ALTER TABLE `{outbox.database}`.`study_service` COMMENT = 'z'",
        "TRUNCATE study_service",
        "TRUNCATE TABLE study_service",
        "CREATE TABLE study_service_new LIKE study_service",
        "RENAME TABLE study_service TO study_service_old, study_service_new TO study_service",
        "DROP TABLE study_service",
        "CREATE TABLE study_service LIKE study_service_old",
    ):
        outbox(statement)
        followed = outbox.follow(start, columns)
        assert followed.changes == 1, statement
        start = followed.position


def test_what_does_not_change_the_table(outbox: Outbox) -> None:
    start = outbox.end()
    outbox("CREATE TABLE third (a INT)")
    outbox("CREATE VIEW v AS SELECT a FROM third")
    outbox("ALTER TABLE third ADD COLUMN b INT")
    outbox("RENAME TABLE third TO fourth")
    outbox("DROP TABLE fourth")
    outbox("ANALYZE TABLE other")
    followed = outbox.follow(start)
    assert followed.changes == 0
    assert followed.reads == []


def test_a_table_that_is_made_again_is_followed_on(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1)
    outbox("DROP TABLE study_service")
    events: list[Event] = []
    again = threading.Event()
    reader = outbox.reader(start, columns)

    def follow() -> None:
        for event in reader:
            events.append(event)
            if isinstance(event, Heartbeat) and not again.is_set():
                again.set()

    thread = threading.Thread(target=_until_stopped(follow))
    thread.start()
    try:
        assert again.wait(10)
        outbox(
            "CREATE TABLE study_service (recorded_at DATETIME(6), study_pk INT, operation VARCHAR(9), id BIGINT)"
        )
        _wait(lambda: Followed(events).changes == 2)
        outbox("INSERT INTO study_service VALUES (NOW(6), 5, 'stored', 2)")
        _wait(lambda: Followed(events).ids == [1, 2])
        outbox.other()
        _wait(lambda: Followed(events).ends[-1].columns is not None)
        assert [column.name for column in Followed(events).ends[-1].columns or ()] == [
            "recorded_at",
            "study_pk",
            "operation",
            "id",
        ]
    finally:
        reader.interrupt()
        thread.join(10)
    assert not thread.is_alive()


def test_columns_that_were_not_given_are_asked_for_and_hold_from_then_on(outbox: Outbox) -> None:
    before = outbox.end()
    outbox.insert(1)
    reader = outbox.reader(before, None)
    followed = Followed(_until(reader, lambda events: len(Followed(events).ends) == 2))
    reader.close()
    assert followed.ids == []
    assert followed.reads == ["the columns that the outbox had aren't known for certain"]
    assert followed.ends[0].columns is None
    assert followed.ends[-1].columns == outbox.columns()


def test_a_server_that_ignores_the_case_of_names(new_server: Callable[..., Any]) -> None:
    """Then config.json may write the database's name in any way."""
    server = new_server()
    if not server.is_mariadb:
        pytest.skip("MySQL decides it when its data directory is made")
    server.stop()
    server.extra_arguments.append("--lower-case-table-names=1")
    server.start()
    server.create_database("pacsdb")
    with closing(Outbox(server, "PacsDB")) as outbox:
        start = outbox.end()
        outbox.insert(1)
        seen = outbox.follow(start)
        assert seen.ids == [1]
        start = seen.position
        outbox("ALTER TABLE Study_Service COMMENT 'x'")
        assert outbox.follow(start).changes == 1


def test_over_tls(outbox: Outbox) -> None:
    if outbox.server.flavour == "mariadb-10.11":
        pytest.skip("it has no certificate of its own")
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(*range(1, 2001), patient_name="PEÑA^JOSÉ" * 20)
    assert outbox.follow(start, columns, tls={"verify": False}).ids == list(range(1, 2001))


# Ending


@pytest.mark.parametrize("tls", [None, {"verify": False}])
def test_interrupt_ends_a_waiting_reader_at_once(outbox: Outbox, tls: Any) -> None:
    if tls and outbox.server.flavour == "mariadb-10.11":
        pytest.skip("it has no certificate of its own")
    reader = outbox.reader(outbox.end(), outbox.columns(), heartbeat_seconds=60, tls=tls)
    ended: list[tuple[float, BaseException]] = []
    started = threading.Event()

    def follow() -> None:
        try:
            for _ in reader:
                started.set()
        except SourceError as error:
            ended.append((time.monotonic(), error))
        except Stopped as error:
            ended.append((time.monotonic(), error))

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(10)
    time.sleep(0.1)  # it waits for the server now
    began = time.monotonic()
    reader.interrupt()
    thread.join(5)
    assert [type(error) for _, error in ended] == [Stopped]
    assert ended[0][0] - began < 1


def test_interrupt_before_the_first_event(outbox: Outbox) -> None:
    reader = outbox.reader(outbox.end(), outbox.columns())
    reader.interrupt()
    with pytest.raises(Stopped):
        next(iter(reader))


def test_close_may_come_twice_and_ends_nobody_else(outbox: Outbox) -> None:
    first = outbox.reader(outbox.end(), outbox.columns(), server_id=90_010)
    second = outbox.reader(outbox.end(), outbox.columns(), server_id=90_011)
    one, two = iter(first), iter(second)
    next(one), next(two)
    first.close()
    first.close()
    outbox.insert(1)
    assert any(isinstance(next(two), Rows) for _ in range(20))
    second.close()


def test_every_position_is_a_place_to_begin_again(outbox: Outbox) -> None:
    """Random transactions, some rotations and DDL: from each position exactly the rest comes, in order."""
    rng = random.Random(20261124)
    start, columns = outbox.end(), outbox.columns()
    number = 0
    for _ in range(40):
        kind = rng.randrange(6)
        if kind == 0:
            outbox("FLUSH BINARY LOGS")
        elif kind == 1:
            outbox("ALTER TABLE other COMMENT %s", str(rng.random()))
        elif kind == 2:
            outbox.other(2)
        else:
            outbox("BEGIN")
            for _ in range(rng.randrange(1, 4)):
                count = rng.choice([1, 2, 300])
                outbox.insert(*range(number + 1, number + 1 + count), patient_name="x" * rng.randrange(250))
                number += count
                outbox.other(rng.randrange(2))
            outbox("COMMIT")
    whole = outbox.follow(start, columns)
    assert whole.ids == list(range(1, number + 1))
    assert whole.reads == []

    seen = 0
    for event in whole.events:
        if isinstance(event, Rows):
            seen += len(event.rows)
        elif isinstance(event, TransactionEnd) and rng.random() < 0.5:
            rest = outbox.follow(event.position, event.columns)
            assert rest.ids == list(range(seen + 1, number + 1)), event.position
            assert rest.position == whole.position


def test_log_bin_off_and_the_missing_right_are_named(outbox: Outbox) -> None:
    user = "onlyselect"
    outbox(f"CREATE USER {user}@'%%' IDENTIFIED BY 'secret'")
    try:
        outbox(f"GRANT SELECT ON {outbox.database}.study_service TO {user}@'%%'")
        account: dict[str, Any] = {"user": user, "password": "secret"}
        with pytest.raises(NoBinlog, match="GRANT REPLICATION SLAVE, REPLICATION CLIENT ON"):
            outbox.follow(outbox.end(), **account)
        with (
            pytest.raises(NoBinlog, match="GRANT REPLICATION SLAVE"),
            reading(settings(outbox.server, outbox.database, **account)) as connection,
        ):
            catalogue.binlog_end(connection)
        outbox(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}@'%%'")
        start = outbox.end()
        outbox.insert(1)
        assert outbox.follow(start, **account).ids == [1]
    finally:
        outbox(f"DROP USER {user}@'%%'")


def test_bytes_behind(outbox: Outbox) -> None:
    start = outbox.end()
    with reading(outbox.settings) as connection:
        assert catalogue.bytes_behind(connection, start) == 0
        outbox.insert(1)
        end = outbox.end()
        assert catalogue.bytes_behind(connection, start) == end.offset - start.offset
        outbox("FLUSH BINARY LOGS")
        assert (catalogue.bytes_behind(connection, start) or 0) > end.offset - start.offset
        assert catalogue.bytes_behind(connection, Position("nix.000001", 4)) is None
        catalogue.holds(connection, start)


def _until(reader: Any, done: Any) -> list[Event]:
    events: list[Event] = []
    for event in reader:
        events.append(event)
        if done(events):
            return events
    return events


def _until_stopped(target: Any) -> Any:
    def run() -> None:
        with pytest.raises(Stopped):
            target()

    return run


def _wait(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
