"""The pure parts of reading the binary log: statements, offsets."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.position import Position
from cdc_indexer.model.settings import StreamSettings
from cdc_indexer.source import _events as events
from cdc_indexer.source._events import Statement, classify, full_offset, may_alter, xa_of, xid_of
from cdc_indexer.source.binlog import BinlogReader, Event, TransactionEnd

STATEMENTS = {
    Statement.BEGIN: ["BEGIN", "begin"],
    Statement.COMMIT: ["COMMIT", "/* app */ COMMIT"],
    Statement.ROLLBACK: ["ROLLBACK", "rollback"],
    Statement.ROLLBACK_TO: ["ROLLBACK TO `s1`", "rollback  to s", "ROLLBACK /* a */ TO s"],
    Statement.XA_START: ["XA START X'7831',X'',1"],
    Statement.XA_COMMIT: ["XA COMMIT X'7831',X'',1"],
    Statement.XA_ROLLBACK: ["XA ROLLBACK X'7831',X'',1"],
    Statement.HARMLESS: [
        "ALTER TABLE study_service ADD a INT",
        "/*!40000 ALTER TABLE `study_service` DISABLE KEYS */",
        "rename /* gh-ost */ table a to b",
        "TRUNCATE study_service",
        "CREATE TABLE other (a INT)",
        "CREATE VIEW v AS SELECT * FROM study_service",
        "SAVEPOINT `s1`",
        "RELEASE SAVEPOINT s1",
        "XA END X'7831',X'',1",
        "GRANT SELECT ON pacs.study_service TO indexer@'%'",
        "SET PASSWORD FOR a = 'x'",
        "SET DEFAULT ROLE r TO a",
        "FLUSH PRIVILEGES",
        "ANALYZE TABLE study_service",
    ],
    Statement.WRITES: [
        "INSERT INTO other VALUES (1)",
        "insert into study_service values (1)",
        "/* ApplicationName=dcm4chee */ UPDATE study SET study_desc = 'x'",
        "# Dum\nDELETE FROM study",
        "REPLACE INTO study VALUES (1)",
        "WITH a AS (SELECT 1) DELETE FROM study",
        "SELECT `pacs`.`f`()",
        "(SELECT 1)",
        "LOAD DATA INFILE 'x' INTO TABLE study",
        "CALL p()",
        "SET STATEMENT binlog_format=STATEMENT FOR INSERT INTO study VALUES (1)",
        "SET /* x */ STATEMENT binlog_format=STATEMENT FOR INSERT INTO study VALUES (1)",
        "",
        "/* unfinished",
        "\x00\xff",
    ],
}


@pytest.mark.parametrize(
    ("kind", "query"), [(kind, query) for kind, queries in STATEMENTS.items() for query in queries]
)
def test_statements(kind: Statement, query: str) -> None:
    assert classify(query.encode()) is kind


MAY_ALTER = [
    "ALTER TABLE study_service ADD a INT",
    "alter\n table\t`pacs`.`STUDY_SERVICE` add a int",
    "ALTER /* ApplicationName=DBeaver */ TABLE study_service ADD a INT",
    "alter -- x\n table study_service add a int",
    "rename /* gh-ost */ table study_service to a, b to study_service",
    "SET STATEMENT max_statement_time=0 FOR ALTER TABLE study_service ADD a INT",
    "/*!40000 ALTER TABLE `study_service` DISABLE KEYS */",
    "/*!99999 INSERT */ ALTER TABLE study_service ADD a INT",
    "ALTER ONLINE IGNORE TABLE study_service ADD a INT",
    "CREATE OR REPLACE TABLE study_service (a INT)",
    "DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `study_service`",
    "TRUNCATE study_service",
    "DROP DATABASE pacs",
    "drop schema if exists `PACS`",
]
MAY_NOT_ALTER = [
    "ALTER TABLE other ADD a INT",
    "DROP DATABASE elsewhere",
    "INSERT INTO study_service VALUES ('ALTER TABLE study_service')",
    "/* ALTER */ insert into study_service values (1)",
    "update study_service set study_pk = 1",
    "FLUSH PRIVILEGES",
]


@pytest.mark.parametrize("query", MAY_ALTER)
def test_a_statement_that_may_alter_the_table_in_whatever_disguise(query: str) -> None:
    assert may_alter(query.encode(), True, b"pacs", b"study_service")


@pytest.mark.parametrize("query", MAY_NOT_ALTER)
def test_a_statement_that_can_not_alter_the_table(query: str) -> None:
    assert not may_alter(query.encode(), True, b"pacs", b"study_service")


def test_a_statement_whose_end_is_not_here_may_alter_anything() -> None:
    assert may_alter(b"ALTER /* xxxx", False, b"pacs", b"study_service")
    assert not may_alter(b"INSERT INTO t VALUES ('xxxx", False, b"pacs", b"study_service")


def test_a_statement_can_not_be_made_to_take_for_ever() -> None:
    for filler in (b" ", b"/*! ", b"*/ ", b"OR REPLACE ", b"-- x\n", b"# x\n", b"/**/"):
        query = b"CREATE " + filler * 20_000 + b" USER a"
        assert classify(query) in (Statement.HARMLESS, Statement.WRITES)
        may_alter(query + b"study_service", True, b"pacs", b"study_service")


@given(st.binary(max_size=60))
def test_any_bytes_are_some_statement(query: bytes) -> None:
    assert isinstance(classify(query), Statement)
    assert isinstance(may_alter(query, True, b"pacs", b"study_service"), bool)


@given(st.integers(0, 2**40), st.integers(-(2**31) + 1, 2**31 - 1))
def test_the_low_bits_and_a_count_that_is_off_give_the_offset(offset: int, wrong_by: int) -> None:
    assert full_offset(offset % 2**32, offset + wrong_by) == offset


def test_an_xa_transactions_name_is_the_same_when_prepared_and_committed() -> None:
    packet = b"\0" * 20 + bytes.fromhex("00010000000200000001000000") + b"x1" + b"\xfe" + b"crc!"
    assert xa_of(packet) == (False, xid_of(b"XA COMMIT X'7831',X'FE',1"))


# No end lies inside a transaction


class _Played:
    """Stands for the stream: before each event the reader could say how far it is."""

    names_ignore_case = False

    def __init__(self, packets: list[bytes]) -> None:
        self._packets = packets

    def buffered(self) -> None:
        return None

    def wait(self) -> bytes:
        if not self._packets:
            raise Stopped
        return self._packets.pop(0)


def _query(text: str) -> tuple[int, bytes]:
    return events.QUERY, bytes(13) + b"\0" + text.encode()


_BEGINS = {
    "MariaDB": [(events.MARIADB_GTID, bytes(13))],
    "MySQL": [(events.GTID, bytes(25)), _query("BEGIN")],
    "MySQL before BEGIN": [(events.GTID, bytes(25))],
}
_NOTES = {f"note {kind}": (kind, bytes(4)) for kind in sorted(events.NOTES)}
_STATEMENTS = {
    text: _query(text)
    for text in ("SAVEPOINT `a`", "ROLLBACK TO `a`", "CREATE TEMPORARY TABLE x (a INT)", "INSERT x")
}


@pytest.mark.parametrize(
    ("begin", "within"),
    [
        (begin, within)
        for begin in _BEGINS
        # Without a BEGIN a statement is a transaction of its own.
        for within in (*_NOTES, *(_STATEMENTS if begin != "MySQL before BEGIN" else ()))
    ],
)
def test_no_end_lies_inside_a_transaction(begin: str, within: str) -> None:
    packets, offset = [], 1000
    inside = {**_NOTES, **_STATEMENTS}[within]
    for kind, body in (*_BEGINS[begin], inside, (events.XID, bytes(8))):
        size = events.HEADER_BYTES - 1 + len(body) + 4
        offset += size
        packets.append(struct.pack("<xIBIIIH", 1, kind, 1, size, offset, 0) + body + bytes(4))
    source = SimpleNamespace(database=SimpleNamespace(name="pacsdb"))
    reader = BinlogReader(source, StreamSettings(), 1, Position("bin.000001", 1000), ())  # type: ignore[arg-type]
    reader._stream = _Played(packets)  # type: ignore[assignment]
    seen: list[Event] = []
    with pytest.raises(Stopped):
        for event in reader._read():
            seen.append(event)
    assert [event.position.offset for event in seen if isinstance(event, TransactionEnd)] == [offset]
