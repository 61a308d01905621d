"""The events of the binary log as bytes, and what we need to know of them (private to source/).

Tables, and rows that are out of the ordinary, are decoded by mysql-replication; the usual rows in _images.py. Headers
and queries are read here: a few fixed bytes, and its classes raise on the status variables that newer servers add.
"""

from __future__ import annotations

import re
import struct
import zlib
from enum import Enum
from typing import Any

from cdc_indexer.source import _driver, _images

QUERY = 2
ROTATE = 4
FORMAT_DESCRIPTION = 15
XID = 16
EXECUTE_LOAD_QUERY = 18
TABLE_MAP = 19
WRITE_ROWS_V1 = 23
INCIDENT = 26
HEARTBEAT = 27
WRITE_ROWS_V2 = 30
GTID = 33
ANONYMOUS_GTID = 34
XA_PREPARE = 38
TRANSACTION_PAYLOAD = 40
HEARTBEAT_V2 = 41
GTID_TAGGED = 42
MARIADB_GTID = 162
MARIADB_QUERY_COMPRESSED = 165
MARIADB_WRITE_ROWS_COMPRESSED_V1 = 166
MARIADB_WRITE_ROWS_COMPRESSED = 169

#: Rows that were inserted; the post-header's length.
WRITE_ROWS = {
    WRITE_ROWS_V1: 8,
    WRITE_ROWS_V2: 10,
    MARIADB_WRITE_ROWS_COMPRESSED_V1: 8,
    MARIADB_WRITE_ROWS_COMPRESSED: 10,
}

#: Rows that were changed or removed: pruning; the outbox only grows by inserts.
OTHER_ROWS = frozenset({24, 25, 31, 32, 39, 167, 168, 170, 171})

#: Says nothing about rows: variables of the next statement, notes, the state of replication.
NEUTRAL = frozenset(
    {
        1,  # START_V3
        5,  # INTVAR
        9,  # APPEND_BLOCK
        11,  # DELETE_FILE
        13,  # RAND
        14,  # USER_VAR
        17,  # BEGIN_LOAD_QUERY
        28,  # IGNORABLE
        29,  # ROWS_QUERY
        36,  # TRANSACTION_CONTEXT
        37,  # VIEW_CHANGE
        160,  # MariaDB: ANNOTATE_ROWS
        164,  # START_ENCRYPTION
    }
)

#: What comes between transactions, without a place of its own in the log or at its beginning.
BETWEEN = frozenset({ROTATE, FORMAT_DESCRIPTION, HEARTBEAT, HEARTBEAT_V2})

#: Notes of the server between two transactions: STOP, PREVIOUS_GTIDS, MariaDB's BINLOG_CHECKPOINT and GTID_LIST.
NOTES = frozenset({3, 35, 161, 163})

FLAG_ARTIFICIAL = 0x20
FLAG_IGNORABLE = 0x80

#: Byte 0 of a packet says that an event follows: time, type, server, size, position after it, flags.
header = struct.Struct("<xIBIIIH").unpack_from
HEADER_BYTES = 20

_CRC32 = 1

#: A number below this is one byte where MySQL codes the length of numbers.
_LENGTH_CODED = 251

LOW_32 = 0xFFFFFFFF
_HALF = 1 << 31

MARIADB_STANDALONE = 1
MARIADB_PREPARED_XA = 64


def full_offset(log_pos: int, counted: int) -> int:
    """The offset in the file that an event gives the low 32 bits of (FACTS 1.7), ``counted`` being about it."""
    return counted + ((log_pos - counted + _HALF) & LOW_32) - _HALF


class Statement(Enum):
    """What a statement in the binary log means for who follows the outbox."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    ROLLBACK_TO = "rollback to"
    XA_START = "xa start"
    XA_COMMIT = "xa commit"
    XA_ROLLBACK = "xa rollback"
    HARMLESS = "harmless"
    WRITES = "writes"


_SKIPPED = re.compile(rb"\s+|/\*(?!!|M!).*?\*/|--[ \t\r\n].*?(?:\n|$)|#.*?(?:\n|$)|/\*M?!\d*|\*/", re.DOTALL)
_WORD = re.compile(rb"[A-Z]+", re.IGNORECASE)

_BY_TWO_WORDS = {
    b"XA START": Statement.XA_START,
    b"XA BEGIN": Statement.XA_START,
    b"XA COMMIT": Statement.XA_COMMIT,
    b"XA ROLLBACK": Statement.XA_ROLLBACK,
    b"ROLLBACK TO": Statement.ROLLBACK_TO,
    b"SET PASSWORD": Statement.HARMLESS,
    b"SET DEFAULT": Statement.HARMLESS,
}
#: Not SET: MariaDB has SET STATEMENT ... FOR any other statement.
_BY_WORD = {
    b"BEGIN": Statement.BEGIN,
    b"COMMIT": Statement.COMMIT,
    b"ROLLBACK": Statement.ROLLBACK,
    **dict.fromkeys(
        (
            *(
                b"ALTER",
                b"ANALYZE",
                b"CHECK",
                b"CREATE",
                b"DROP",
                b"FLUSH",
                b"GRANT",
                b"INSTALL",
                b"OPTIMIZE",
            ),
            *(b"RELEASE", b"RENAME", b"REPAIR", b"RESET", b"REVOKE", b"SAVEPOINT", b"TRUNCATE"),
            *(b"UNINSTALL", b"XA"),
        ),
        Statement.HARMLESS,
    ),
}

#: What begins so changes rows and no table's definition, whatever it names.
_ROWS_ONLY = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"REPLACE", b"LOAD"})

#: How much of a compressed statement is looked at.
_STATEMENT_BYTES = 64 * 1024


def classify(query: bytes) -> Statement:
    """What a statement of the binary log means; whatever isn't known to be harmless counts as a write.

    Any write in statement format counts, whatever its table: a trigger may have filled the outbox with it.
    """
    known = _BY_WORD.get(query)  # as servers write BEGIN and COMMIT
    if known is not None:
        return known
    first, second, _ = _words(query)
    return _BY_TWO_WORDS.get(first + b" " + second) or _BY_WORD.get(first, Statement.WRITES)


def may_alter(query: bytes, whole: bool, database: bytes, table: bytes) -> bool:
    """Whether a statement may change the definition of a table, in whatever disguise.

    For that it has to name the table, or drop the database; perhaps in that part of it which isn't here, unless this is the
    ``whole``. Nothing more is asked: reading the columns too often is cheap.
    """
    low = query.lower()
    if whole and table not in low and not (b"drop" in low and database.lower() in low):
        return False
    first, _, conditional = _words(query)
    # A comment that a server may execute hides which statement it is.
    return conditional or first not in _ROWS_ONLY


def _words(query: bytes) -> tuple[bytes, bytes, bool]:
    """The first two words in upper case, whatever comments stand around them, and whether one of those is conditional."""
    found = []
    start, conditional = 0, False
    for _ in range(2):
        while (skipped := _SKIPPED.match(query, start)) is not None:
            conditional = conditional or skipped.group().startswith((b"/*!", b"/*M!"))
            start = skipped.end()
        word = _WORD.match(query, start)
        if word is None:
            break
        found.append(word.group().upper())
        start = word.end()
    return (*found, b"", b"")[0], (*found, b"", b"")[1], conditional


def query_of(packet: bytes, end: int) -> tuple[bytes, bool]:
    """The statement of a QUERY event, and whether that is the whole of it; its status variables are skipped unread."""
    body = HEADER_BYTES
    skipped = int.from_bytes(packet[body + 11 : body + 13], "little") + packet[body + 8]
    query = packet[body + 13 + skipped + 1 : end]
    whole = len(packet) > int.from_bytes(packet[10:14], "little")  # of a large one only the head is kept
    if packet[5] != MARIADB_QUERY_COMPRESSED:
        return query, whole
    length = int.from_bytes(query[1 : 1 + (query[0] & 0x07)], "big")
    return _inflated(query, _STATEMENT_BYTES), whole and length <= _STATEMENT_BYTES


def _inflated(data: bytes, limit: int = 0) -> bytes:
    """MariaDB's log_bin_compress: one byte (how many bytes the length takes), the length, zlib."""
    return zlib.decompressobj().decompress(data[1 + (data[0] & 0x07) :], limit)


def xid_of(query: bytes) -> str:
    """The transaction's name in ``XA COMMIT X'..',X'..',1``, as :func:`xa_of` gives it."""
    return query.split(None, 2)[-1].decode("ascii", "replace").lower()


def xa_of(packet: bytes) -> tuple[bool, str]:
    """Whether an XA_PREPARE event commits in one phase, and the transaction's name."""
    one_phase, form, first, second = struct.unpack_from("<?iII", packet, HEADER_BYTES)
    at = HEADER_BYTES + 13
    name, branch = packet[at : at + first], packet[at + first : at + first + second]
    return one_phase, f"x'{name.hex()}',x'{branch.hex()}',{form}"


def _columns_at(packet: bytes, kind: int) -> int:
    """Where a rows event of this (uncompressed) kind says how many columns there are."""
    at = HEADER_BYTES + WRITE_ROWS[kind]
    if kind == WRITE_ROWS_V2:
        # What a server may add is counted with the two bytes that count it.
        at += int.from_bytes(packet[at - 2 : at], "little") - 2
    return at


class Decoder:
    """Tables and rows, decoded by mysql-replication."""

    def __init__(self, *, mariadb: bool, checksum: bool) -> None:
        self._mariadb = mariadb
        self._checksum = checksum

    @classmethod
    def of(cls, packet: bytes) -> Decoder:
        """The decoder for a file, by its FORMAT_DESCRIPTION event: server's version, ..., checksum's kind."""
        return cls(mariadb=b"MariaDB" in packet[22:72], checksum=packet[-5] == _CRC32)

    def end(self, packet: bytes) -> int:
        """Where the event ends in its packet, before the checksum."""
        return len(packet) - 4 if self._checksum else len(packet)

    def table(self, packet: bytes) -> tuple[Any, bool]:
        """The table of a TABLE_MAP event, and whether the event named its columns."""
        event = self._event(packet, {}, self._checksum)
        return event.get_table(), bool(event.optional_metadata.column_name_list)

    def rows(
        self, packet: bytes, table: Any, usual: _images.Columns | None = None
    ) -> tuple[list[dict[str, Any]], bool]:
        """The inserted rows of a WRITE_ROWS event by column, and whether every column was logged.

        ``usual`` are the table's columns, where :mod:`_images` can read them.
        """
        checksum = self._checksum
        if packet[5] >= MARIADB_QUERY_COMPRESSED:
            packet, checksum = self._plain(packet), False
        if usual is not None:
            at = _columns_at(packet, packet[5])
            count, images = len(usual), at + 1 + (len(usual) + 7) // 8
            everything = (1 << count) - 1
            present = int.from_bytes(packet[at + 1 : images], "little") & everything
            if packet[at] == count < _LENGTH_CODED and present == everything:
                return _images.read(usual, packet, images, len(packet) - 4 if checksum else len(packet)), True
        event = self._event(packet, {table.table_id: table}, checksum)
        count = event.number_of_columns
        present = int.from_bytes(event.columns_present_bitmap, "little") & ((1 << count) - 1)
        rows = [row["values"] for row in event.rows]
        return rows, present == (1 << count) - 1 and count == len(table.columns)

    def _event(self, packet: bytes, tables: dict[int, Any], checksum: bool) -> Any:
        return _driver.decode(packet, tables, mariadb=self._mariadb, checksum=checksum)

    def _plain(self, packet: bytes) -> bytes:
        """A compressed rows event of MariaDB as the plain one that the library knows."""
        kind = WRITE_ROWS_V1 if packet[5] == MARIADB_WRITE_ROWS_COMPRESSED_V1 else WRITE_ROWS_V2
        at = _columns_at(packet, kind)
        columns = packet[at]
        at += 1 + (columns + 7) // 8
        body = packet[HEADER_BYTES:at] + _inflated(packet[at : self.end(packet)])
        time, _, server, _, position, flags = header(packet)
        return (
            struct.pack("<xIBIIIH", time, kind, server, HEADER_BYTES - 1 + len(body), position, flags) + body
        )
