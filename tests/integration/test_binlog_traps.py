"""The traps of the binary log and of mysql-replication (FACTS 1), one after the other: each loses rows, or stops, or
hands out another table's rows, without an error, when it isn't looked after.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from cdc_indexer.model.errors import PositionLost, ServerIdClash, SourceError
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import Event, Heartbeat, Rows, TableRead
from tests.following import Followed, Outbox, caught_up, reading


@pytest.fixture
def outbox(server: Any, database: str) -> Iterator[Outbox]:
    with closing(Outbox(server, database)) as outbox:
        yield outbox


@pytest.fixture
def own_outbox(new_server: Callable[..., Any]) -> Iterator[Outbox]:
    """On a server that the test may stop or spoil."""
    server = new_server()
    server.create_database("pacs")
    with closing(Outbox(server, "pacs")) as outbox:
        yield outbox


# 1.1 Column names


@pytest.fixture(params=["FULL", "MINIMAL", "NO_LOG"])
def metadata(outbox: Outbox, request: pytest.FixtureRequest) -> Iterator[str]:
    """Each amount of metadata that the server can log with its rows."""
    if request.param == "NO_LOG" and not outbox.is_mariadb:
        pytest.skip("MySQL has no NO_LOG")
    before = outbox("SELECT @@GLOBAL.binlog_row_metadata")[0][0]
    outbox("SET GLOBAL binlog_row_metadata = %s", request.param)
    yield request.param
    outbox("SET GLOBAL binlog_row_metadata = %s", before)


def test_fact_1_1_names_and_signs_with_any_metadata(outbox: Outbox, metadata: str) -> None:
    start = outbox.end()
    outbox.insert(2**64 - 1, patient_name="PEÑA^JOSÉ", patient_pk=-5, study_datetime="1987-06-05 04:03:02")
    (row,) = outbox.follow(start).rows
    assert row.id == 2**64 - 1
    assert row.operation == "stored"
    assert row.values["patient_name"] == "PEÑA^JOSÉ"
    assert row.values["patient_pk"] == -5
    assert row.values["study_datetime"] == datetime(1987, 6, 5, 4, 3, 2)
    assert row.values["study_pk"] == 7


def test_fact_1_1_a_column_added_in_the_middle(outbox: Outbox, metadata: str) -> None:
    """A reader that lags behind meets rows of before the ALTER when the table has the new columns already."""
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1, patient_id="before")
    outbox("ALTER TABLE study_service ADD COLUMN ward VARCHAR(250) AFTER operation")
    outbox.insert(2, patient_id="after", ward="Urgencias")
    seen = outbox.follow(start, columns)
    assert seen.changes == 1
    assert [(row.id, row.values["patient_id"]) for row in seen.rows][:1] == [(1, "before")]
    if metadata == "FULL":
        assert [row.values.get("ward") for row in seen.rows] == [None, "Urgencias"]
        assert seen.reads == []
    else:
        # The catalogue was asked after both, so that it can't vouch for the second one: the table tells.
        assert seen.ids == [1]
        assert len(seen.reads) == 1
    # From where the catalogue was asked on, it is certain.
    outbox.insert(3, patient_id="later", ward="UCI")
    later = outbox.follow(seen.position, seen.ends[-1].columns)
    assert [(row.id, row.values["patient_id"], row.values["ward"]) for row in later.rows] == [
        (3, "later", "UCI")
    ]


def test_fact_1_1_a_row_is_never_read_with_the_wrong_columns(outbox: Outbox, metadata: str) -> None:
    """Two columns of one type change their places: nothing in the event shows it without its names."""
    start = outbox.end()
    outbox.insert(1, patient_id="id", patient_name="name")
    outbox("ALTER TABLE study_service MODIFY patient_id VARCHAR(250) AFTER patient_name")
    outbox.insert(2, patient_id="id", patient_name="name")
    # A reader without columns: its checkpoint was lost, the catalogue has the new order.
    reader = outbox.reader(start, None)
    seen = Followed(caught_up(reader))
    assert {(row.values["patient_id"], row.values["patient_name"]) for row in seen.rows} <= {("id", "name")}
    assert len(seen.ids) + len(seen.reads) == 2
    if metadata == "FULL":
        assert seen.ids == [1, 2]


def test_fact_1_1_columns_that_do_not_fit_the_event_are_not_used(outbox: Outbox) -> None:
    """An ALTER that was kept out of the log (sql_log_bin = 0) changes the columns without a word."""
    start, columns = outbox.end(), outbox.columns()
    outbox("SET sql_log_bin = 0")
    outbox("ALTER TABLE study_service ADD COLUMN ward VARCHAR(20) FIRST")
    outbox("SET sql_log_bin = 1")
    outbox.insert(1)
    outbox("SET sql_log_bin = 0")
    outbox("ALTER TABLE study_service DROP COLUMN ward, MODIFY study_pk VARCHAR(20)")
    outbox("SET sql_log_bin = 1")
    outbox.insert(2)
    seen = outbox.follow(start, columns)
    assert seen.rows == []
    assert len(seen.reads) == 2


# 1.2 Positions


def test_fact_1_2_no_position_lies_inside_a_transaction(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    outbox("BEGIN")
    outbox.insert(*range(1, 601), patient_name="x" * 200)
    outbox.insert(*range(601, 1201), patient_name="x" * 200)
    outbox("COMMIT")
    outbox.insert(1201)
    reader = outbox.reader(start, columns)
    read: list[tuple[Any, int]] = []  # what the reader says its position is, after so many rows
    rows = 0
    for event in reader:
        rows += len(event.rows) if isinstance(event, Rows) else 0
        read.append((reader.position, rows))
        if isinstance(event, Heartbeat):
            break
    reader.close()
    assert rows == 1201
    positions = dict(read)
    assert len(positions) == 3
    for position in positions:
        rest = outbox.follow(position, columns)
        ids = rest.ids
        assert ids in (list(range(1, 1202)), [1201], [])
        assert rest.reads == []


def test_fact_1_2_rows_whose_table_was_not_announced_are_not_swallowed(outbox: Outbox) -> None:
    """The place after a rows event, where the library's own log_pos would have resumed."""
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(*range(1, 601), patient_name="x" * 200)
    rows = [event for event in outbox.log_events(start) if str(event[2]).startswith("Write_rows")]
    assert len(rows) > 2
    inside = replace(start, offset=rows[1][1])
    seen = outbox.follow(inside, columns)
    assert seen.rows == []
    assert seen.reads == ["rows came for a table that wasn't announced"]


# 1.3 Reconnecting


def test_fact_1_3_table_numbers_that_a_restart_gives_to_another_table(own_outbox: Outbox) -> None:
    outbox, server = own_outbox, own_outbox.server
    outbox("CREATE TABLE third LIKE study_service")
    # Each server counts the tables that it opens, at each start anew: first beyond those that it opens by itself, and
    # then, with another table, up to the same number.
    for _ in range(40):
        outbox("FLUSH TABLES other")
        outbox.other()
    outbox("FLUSH TABLES study_service")
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1)
    (first,) = _numbers(outbox, start, "study_service")
    reader = outbox.reader(start, columns)
    events: list[Event] = []
    with pytest.raises(SourceError):
        for event in reader:
            events.append(event)
            if isinstance(event, Heartbeat) and server.running:
                outbox.close()
                server.stop()
    assert Followed(events).ids == [1]

    server.start()
    outbox.session = server.connect(outbox.database)
    since = outbox.end()
    for number in range(200):
        outbox.insert(1000 + number, table="third")
        if first in _numbers(outbox, since, "third"):
            break
        outbox("FLUSH TABLES third")
    assert first in _numbers(outbox, since, "third")  # else this test shows nothing
    outbox.insert(2)
    outbox.insert(3, table="third")

    seen = outbox.follow(Followed(events).position, columns)
    assert seen.ids == [2]
    assert seen.reads == []
    # And where the announcement is cut off, as the library does when it reconnects: its old number says nothing.
    rows = [event for event in outbox.log_events(since) if f"table_id: {first} " in f"{event[5]} "]
    cut = outbox.follow(
        replace(since, offset=next(event[1] for event in rows if "rows" in str(event[2]).lower()))
    )
    assert not {row.id for row in cut.rows} - {2}
    assert cut.reads == ["rows came for a table that wasn't announced"]


def test_fact_1_3_a_lost_connection_is_an_error_and_not_a_second_connection(outbox: Outbox) -> None:
    reader = outbox.reader(outbox.end(), outbox.columns(), server_id=90_131)
    stream = iter(reader)
    next(stream)
    outbox.insert(1)
    (dump,) = _dumps(outbox)
    outbox(f"KILL {dump}")
    with pytest.raises(SourceError):
        for _ in stream:
            pass
    assert list(stream) == []
    assert _dumps(outbox) == []


# 1.4 Compression


def test_fact_1_4_a_compressed_transaction_does_not_vanish(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    if outbox.is_mariadb:
        before = outbox("SELECT @@GLOBAL.log_bin_compress, @@GLOBAL.log_bin_compress_min_len")[0]
        outbox("SET GLOBAL log_bin_compress = ON, GLOBAL log_bin_compress_min_len = 10")
    else:
        outbox("SET SESSION binlog_transaction_compression = ON")
    try:
        outbox.insert(1, patient_name="PEÑA^JOSÉ", study_description="x" * 250)
        outbox.insert(*range(2, 402), study_description="y" * 250)
        outbox.other()
    finally:
        if outbox.is_mariadb:
            outbox("SET GLOBAL log_bin_compress = %s, GLOBAL log_bin_compress_min_len = %s", *before)
        else:
            outbox("SET SESSION binlog_transaction_compression = OFF")
    outbox.insert(402)
    seen = outbox.follow(start, columns)
    assert seen.position == outbox.end_made()
    if outbox.is_mariadb:
        assert "compressed" in " ".join(str(event[2]) for event in outbox.log_events(start))
        assert seen.ids == list(range(1, 403))
        assert seen.rows[0].values["patient_name"] == "PEÑA^JOSÉ"
        assert seen.reads == []
    else:
        assert seen.ids == [402]
        assert set(seen.reads) == {"a transaction was compressed (binlog_transaction_compression)"}
        assert len(seen.reads) == 3
        # Each of them may be the last that was read before a restart.
        for end in seen.ends:
            assert 402 in outbox.follow(end.position, columns).ids or end is seen.ends[-1]


def test_fact_1_4_a_compressed_alter_does_not_vanish(outbox: Outbox) -> None:
    if not outbox.is_mariadb:
        pytest.skip("MySQL compresses rows only")
    start, columns = outbox.end(), outbox.columns()
    before = outbox("SELECT @@GLOBAL.log_bin_compress")[0][0]
    outbox("SET GLOBAL log_bin_compress = ON")
    try:
        outbox("ALTER TABLE study_service ADD COLUMN ward INT COMMENT %s FIRST", "x" * 900)
    finally:
        outbox("SET GLOBAL log_bin_compress = %s", before)
    assert "Query_compressed" in [event[2] for event in outbox.log_events(start)]
    assert outbox.follow(start, columns).changes == 1


# 1.5 Statement format


@pytest.mark.parametrize("how", ["STATEMENT", "trigger", "load"])
def test_fact_1_5_what_is_written_in_statement_format_does_not_vanish(outbox: Outbox, how: str) -> None:
    if how == "trigger":
        outbox(
            "CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW "
            "INSERT INTO study_service (id, operation, recorded_at) VALUES (1, 'stored', '2026-01-01')"
        )
    if how == "load":
        outbox.insert(1)
        file = outbox.session.escape(f"{outbox('SELECT @@datadir')[0][0]}{outbox.database}.txt")
        outbox(f"SELECT * FROM study_service INTO OUTFILE {file}")
        outbox("DELETE FROM study_service")
    start = outbox.end()
    outbox("SET SESSION binlog_format = 'STATEMENT'")
    if how == "trigger":
        outbox("/* the archive */ INSERT INTO other (b) VALUES ('x')")
    elif how == "load":
        outbox(f"LOAD DATA INFILE {file} INTO TABLE study_service")
    else:
        outbox("BEGIN")
        outbox("INSERT INTO study_service (id, operation, recorded_at) VALUES (1, 'stored', '2026-01-01')")
        outbox("UPDATE study_service SET study_pk = 3")
        outbox("COMMIT")
    outbox("SET SESSION binlog_format = 'ROW'")
    outbox.insert(2)
    seen = outbox.follow(start)
    assert seen.ids == [2]
    assert seen.reads == ["something was written in statement format"]


# 1.6 Progress


def test_fact_1_6_a_quiet_table_on_a_busy_server_moves_the_position(outbox: Outbox) -> None:
    start = outbox.end()
    outbox.other(50)
    outbox("FLUSH BINARY LOGS")
    outbox("CREATE TABLE third (a INT)")
    outbox.other(50)
    seen = outbox.follow(start)
    assert seen.rows == []
    assert seen.position == outbox.end_made()
    assert len(seen.ends) < 30  # one says it for many


# 1.7 Positions of the events themselves


def test_fact_1_7_positions_where_the_server_writes_none_into_the_events(outbox: Outbox) -> None:
    """MariaDB 11.4 and later write 0 into every event inside a transaction."""
    columns = outbox.columns()
    ends = []
    start = outbox.end()
    for number in range(1, 6):
        outbox("BEGIN")
        outbox.insert(*range(number * 1000, number * 1000 + 300), patient_name="x" * 250)
        outbox.other()
        outbox("COMMIT")
        ends.append(outbox.end_made())
    assert [end.position for end in outbox.follow(start, columns).ends][1:] == ends


def test_fact_1_7_beyond_four_gibibytes_nothing_is_asked_for(outbox: Outbox) -> None:
    """The command has 32 bits: 4 GiB + 4 would be read as 4."""
    outbox.insert(1)
    with pytest.raises(PositionLost, match="4 GiB"):
        outbox.follow(replace(outbox.end(), offset=2**32 + 4))


# 1.8 Types


def test_fact_1_8_zero_dates_enums_and_timestamps(outbox: Outbox) -> None:
    outbox("SET SESSION sql_mode = '', time_zone = '-03:00'")
    outbox(
        "ALTER TABLE study_service ADD COLUMN e ENUM('a', 'b'), ADD COLUMN s SET('x', 'y'), "
        "ADD COLUMN t TIMESTAMP(3) NULL, ADD COLUMN d DATE, ADD COLUMN n DECIMAL(10, 2)"
    )
    start = outbox.end()
    outbox.insert(
        1, study_datetime="0000-00-00", e="b", s="x,y", t="2026-01-01 00:00:00.125", d="2026-02-03", n="-12.5"
    )
    outbox.insert(2, study_datetime="1753-01-01 23:59:59")
    first, second = outbox.follow(start).rows
    assert first.values["study_datetime"] is None
    assert second.values["study_datetime"] == datetime(1753, 1, 1, 23, 59, 59)
    assert first.values["t"] == datetime(2026, 1, 1, 3, 0, 0, 125_000)
    assert str(first.values["d"]) == "2026-02-03"
    assert str(first.values["n"]) == "-12.50"


def test_fact_1_8_bytes_that_are_not_utf_8_send_us_to_the_table(outbox: Outbox) -> None:
    outbox("ALTER TABLE study_service CONVERT TO CHARACTER SET latin1")
    start = outbox.end()
    outbox.insert(1, patient_name="PEÑA")
    outbox.insert(2, patient_name="PENA")
    seen = outbox.follow(start)
    assert seen.ids == [2]
    assert seen.reads == ["a row can't be decoded"]


# 1.9 Where reading begins


def test_fact_1_9_reading_begins_at_the_position_and_not_at_the_oldest_log(outbox: Outbox) -> None:
    outbox.insert(1)
    outbox("FLUSH BINARY LOGS")
    outbox.insert(2)
    start = outbox.end()
    outbox.insert(3)
    assert outbox.follow(start).ids == [3]


# 1.10 Silence


def test_fact_1_10_a_connection_that_died_in_silence_is_noticed(outbox: Outbox) -> None:
    with Line(outbox.server.port) as line:
        reader = outbox.reader(outbox.end(), outbox.columns(), host="127.0.0.1", port=line.port)
        stream = iter(reader)
        assert any(isinstance(next(stream), Heartbeat) for _ in range(5))
        line.cut.set()  # no end, no reset: as when a firewall forgets the connection
        began = time.monotonic()
        with pytest.raises(SourceError, match="no heartbeat"):
            for _ in stream:
                pass
        assert time.monotonic() - began < 10


def test_fact_1_10_a_reader_that_is_held_up_loses_nothing(outbox: Outbox) -> None:
    """The server ends the connection of a reader that doesn't read for net_write_timeout."""
    start, columns = outbox.end(), outbox.columns()
    outbox("CREATE TABLE image (a INT PRIMARY KEY AUTO_INCREMENT, b LONGBLOB)")
    before = outbox("SELECT @@GLOBAL.net_write_timeout")[0][0]
    outbox.insert(1)
    for _ in range(40):
        outbox("INSERT INTO image (b) VALUES (REPEAT('x', 900000))")
    outbox.insert(2)
    outbox("SET GLOBAL net_write_timeout = 1")
    try:
        events: list[Event] = []
        reader = outbox.reader(start, columns)
        with pytest.raises(SourceError):
            for event in reader:
                events.append(event)
                if isinstance(event, Rows):
                    time.sleep(4)
    finally:
        outbox("SET GLOBAL net_write_timeout = %s", before)
    first = Followed(events)
    assert first.ids == [1]
    assert outbox.follow(first.position, columns).ids == [2]


# 1.11 Stalls


def test_fact_1_11_a_large_transaction_over_tcp_does_not_stall_at_each_event(outbox: Outbox) -> None:
    """Nagle against delayed acknowledgement: 40 ms for each event with the CPU idle. It comes and goes with the timing;
    the benchmarks compare wall time with CPU time at length.
    """
    start, columns = outbox.end(), outbox.columns()
    for number in range(2):
        outbox.insert(*range(1 + number * 5_000, 1 + (number + 1) * 5_000))
    idle = []
    for _ in range(3):  # what else the machine does is no stall
        began, worked = time.monotonic(), time.process_time()
        read = outbox.follow(start, columns)
        idle.append(time.monotonic() - began - (time.process_time() - worked))
        assert len(read.ids) == 10_000
    # A stalled read brings 1,500 rows a second.
    assert min(idle) < 3


# 1.12 Statements and logins that differ


def test_fact_1_12_the_end_of_the_log_has_another_statement_on_each_server(outbox: Outbox) -> None:
    before = outbox.end()
    outbox.insert(1)
    after = outbox.end()
    assert after.order > before.order
    assert re.fullmatch(r".+\.\d{6,}", after.file)


def test_fact_1_12_logging_in_over_tcp_in_the_clear(outbox: Outbox) -> None:
    """MySQL's caching_sha2_password needs the server's key then."""
    outbox("CREATE USER sha@'127.0.0.1' IDENTIFIED BY 'Ñandú €'")
    try:
        outbox("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO sha@'127.0.0.1'")
        start, columns = outbox.end(), outbox.columns()
        outbox.insert(1)
        assert outbox.follow(start, columns, user="sha", password="Ñandú €").ids == [1]
    finally:
        outbox("DROP USER sha@'127.0.0.1'")


# 1.13 server_id


def test_fact_1_13_a_second_replica_with_our_server_id_is_named(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    older = outbox.reader(start, columns, server_id=90_113)
    stream = iter(older)
    next(stream)
    second = outbox.reader(start, columns, server_id=90_113)
    younger = iter(second)
    next(younger)
    with pytest.raises(ServerIdClash, match=r"stream\.server_id"):
        for _ in stream:
            pass
    outbox.insert(1)
    assert any(isinstance(next(younger), Rows) for _ in range(20))
    second.close()


# 1.14 Purged, reset, shortened, replaced


def test_fact_1_14_a_purged_position(own_outbox: Outbox) -> None:
    outbox = own_outbox
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1)
    assert outbox.server.purge_binlogs()
    with pytest.raises(PositionLost):
        outbox.follow(start, columns)
    with reading(outbox.settings) as connection, pytest.raises(PositionLost):
        catalogue.holds(connection, start)


def test_fact_1_14_a_log_that_is_shorter_than_the_position(own_outbox: Outbox) -> None:
    outbox = own_outbox
    outbox.insert(*range(1, 200))
    start, columns = outbox.end(), outbox.columns()
    _reset(outbox)
    with pytest.raises(PositionLost):
        outbox.follow(start, columns)
    with reading(outbox.settings) as connection, pytest.raises(PositionLost):
        catalogue.holds(connection, start)


def test_fact_1_14_a_reset_log_of_the_same_name_that_has_grown_beyond_the_position(
    own_outbox: Outbox,
) -> None:
    outbox = own_outbox
    _reset(outbox)
    outbox.insert(1)
    start = outbox.end_made()
    columns = outbox.columns()
    assert start.file_created is not None
    time.sleep(1.1)  # the log's files are told apart by their second
    _reset(outbox)
    outbox.insert(2)  # the same event again: the position is the end of one, and nothing looks wrong
    outbox.insert(3)
    assert start.order < outbox.end().order
    with pytest.raises(PositionLost, match="made anew"):
        outbox.follow(start, columns)
    assert outbox.follow(replace(start, file_created=None), columns).ids == [3]  # what is lost without it


@pytest.mark.parametrize("how", ["purge", "reset"])
def test_fact_1_14_purged_and_reset_while_connected(own_outbox: Outbox, how: str) -> None:
    """After a reset the server sends heartbeats only, until the new log is longer than the old one was."""
    outbox = own_outbox
    outbox.insert(*range(1000, 1100))
    reader = outbox.reader(outbox.end(), outbox.columns(), audit_seconds=0.5)
    heartbeats = 0
    ids: list[int] = []
    lost = False
    try:
        for event in reader:
            if isinstance(event, Rows):
                ids += [row.id for row in event.rows]
            if isinstance(event, Heartbeat):
                heartbeats += 1
                if heartbeats == 1:
                    if how == "purge":
                        outbox("FLUSH BINARY LOGS")
                        outbox(f"PURGE BINARY LOGS TO '{outbox.end().file}'")
                    else:
                        _reset(outbox)
                    outbox.insert(1)
                if heartbeats == 10:
                    break
    except PositionLost:
        lost = True
    reader.close()
    assert (lost, ids) == ((True, []) if how == "reset" else (False, [1]))


def test_fact_1_14_a_check_that_can_not_be_made_leaves_the_stream_alone(outbox: Outbox) -> None:
    """No connection left for it, say: the stream itself is well."""
    outbox("CREATE USER alone@'127.0.0.1' IDENTIFIED BY 'a-secret' WITH MAX_USER_CONNECTIONS 1")
    try:
        outbox("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO alone@'127.0.0.1'")
        account: dict[str, Any] = {"user": "alone", "password": "a-secret"}
        reader = outbox.reader(outbox.end(), outbox.columns(), audit_seconds=0.1, **account)
        heartbeats = 0
        for event in reader:
            if isinstance(event, TableRead):  # the table's columns can't be asked for either
                break
            if isinstance(event, Heartbeat):
                heartbeats += 1
                if heartbeats == 3:
                    outbox.insert(1)
        reader.close()
    finally:
        outbox("DROP USER alone@'127.0.0.1'")


# 1.15 Other costs


def test_fact_1_15_one_connection_and_not_a_word(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library's control connection idles out, and it logs its settings, password included.

    The other one is the source's, lent for a moment to whoever asks something.
    """
    outbox("CREATE USER alone@'127.0.0.1' IDENTIFIED BY 'a-secret'")
    try:
        outbox("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO alone@'127.0.0.1'")
        start, columns = outbox.end(), outbox.columns()
        outbox.insert(1, patient_name="PEÑA")
        with caplog.at_level(logging.DEBUG):
            reader = outbox.reader(start, columns, user="alone", password="a-secret")
            for event in reader:
                if isinstance(event, Heartbeat):
                    connections = outbox("SELECT id FROM information_schema.processlist WHERE user = 'alone'")
                    break
            reader.close()
    finally:
        outbox("DROP USER alone@'127.0.0.1'")
    assert len(connections) <= 2
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def _numbers(outbox: Outbox, since: Any, table: str) -> set[str]:
    """The numbers that the log gives to a table, from a position on."""
    pattern = rf"table_id: (\d+) \({outbox.database}\.{table}\)"
    return set(re.findall(pattern, outbox.statements(since)))


def _dumps(outbox: Outbox) -> list[int]:
    return [row[0] for row in outbox("SHOW PROCESSLIST") if "Dump" in str(row[4])]


def _reset(outbox: Outbox) -> None:
    outbox("RESET MASTER" if outbox.is_mariadb else "RESET BINARY LOGS AND GTIDS")


class Line:
    """A TCP line to the server that can fall silent without being closed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.cut = threading.Event()
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Line:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with closing(one), suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        try:
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                self._start(self._copy, client, server)
                self._start(self._copy, server, client)
        except OSError:
            return

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.cut.is_set():
                    target.sendall(data)
        except OSError:
            return
