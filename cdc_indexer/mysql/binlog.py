"""Follows the binary log and tells what concerns the outbox.

The reader gives, in the order of the log: the inserted rows, the ends of transactions (the only places
where reading may begin again, FACTS 1.2), and every case in which the log doesn't say what was inserted, so
that the table itself must be read. It never connects again by itself: recovery is the service's.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cdc_indexer.errors import PositionLost, SchemaError
from cdc_indexer.mysql import _events as events
from cdc_indexer.mysql._events import Decoder, Kind
from cdc_indexer.mysql._gtids import GtidSet
from cdc_indexer.mysql._stream import Stream
from cdc_indexer.mysql.catalogue import Column, binlog_end, columns
from cdc_indexer.mysql.connection import reading
from cdc_indexer.position import Position
from cdc_indexer.study import OutboxRow

if TYPE_CHECKING:
    from cdc_indexer.config import DatabaseSettings, StreamSettings

__all__ = ["BinlogReader", "Event", "Heartbeat", "Rows", "TableChanged", "TableRead", "TransactionEnd"]

OUTBOX = "study_service"
_OUTBOX = OUTBOX.encode()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows inserted into the outbox: those of one event of the log, in its order."""

    rows: list[OutboxRow]


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """Reading may begin again at ``position``: everything before it was given.

    ``at`` is the server's time of the commit, in seconds since 1970. ``columns`` are the outbox's at this
    position, to be kept with it and given to the next reader; None when they aren't known for certain.
    Transactions that don't concern the outbox may share one.
    """

    position: Position
    at: int
    columns: tuple[Column, ...] | None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server is alive and has nothing to send: the stream is caught up. ``at`` is our time."""

    at: int


@dataclass(frozen=True, slots=True)
class TableRead:
    """Rows may have been inserted that the log doesn't show us: read the table now.

    The server may send a transaction a moment before its rows can be seen in the table.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class TableChanged:
    """The outbox was altered, replaced, truncated or dropped; the reader has read its columns again."""


Event: TypeAlias = Rows | TransactionEnd | Heartbeat | TableRead | TableChanged

#: Rows are held back until the end of their transaction shows that it wasn't rolled back: this many of them.
_HELD_ROWS = 1000

#: Prepared XA transactions of which we remember whether they concern the outbox.
_PREPARED = 1000

#: information_schema's types -> the codes that a table map may give for them.
_TYPE_CODES = {
    "tinyint": {1},
    "smallint": {2},
    "mediumint": {9},
    "int": {3},
    "bigint": {8},
    "float": {4},
    "double": {5},
    "decimal": {246},
    "varchar": {15},
    "varbinary": {15},
    "char": {254},
    "binary": {254},
    "datetime": {12, 18},
    "timestamp": {7, 17},
    "time": {11, 19},
    "date": {10},
}


_CRC32 = 1
_FIRST_OFFSET = 4
_LOW_32 = 0xFFFFFFFF
_HALF = 1 << 31
_MARIADB_GTID = struct.Struct("<QIB").unpack_from


class _Outbox(NamedTuple):
    """The outbox in one TABLE_MAP event; without ``table`` its rows can't be decoded."""

    table: Any
    named: bool


#: Rows whose table was never announced: then nothing is known of them (FACTS 1.2).
_MISSING = _Outbox(None, False)


class BinlogReader:
    """One connection to the binary log, from ``position`` on; iterate over it once.

    ``columns`` must be those of the outbox at ``position`` (a TransactionEnd carries them). Without them the
    reader asks the catalogue, and says TableRead for rows that may be older than its answer.

    Iterating raises PositionLost, NoBinlog, ServerIdClash or SourceError; the reader is of no use then. After
    :meth:`interrupt` it raises Stopped.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        stream: StreamSettings,
        server_id: int,
        position: Position,
        columns: tuple[Column, ...] | None,
    ) -> None:
        self._database = database
        self._stream = Stream(
            database,
            server_id=server_id,
            heartbeat_seconds=stream.heartbeat_seconds,
            unwanted=self._unwanted,
        )
        name = database.name.encode()
        self._name = name
        self._prefix = bytes([len(name)]) + name + bytes([0, len(OUTBOX)]) + OUTBOX.encode() + b"\0"

        # Where we are: the end of the last whole transaction, and the bytes that came since.
        self._file = position.file
        self._file_number = position.order[0]
        self._offset = position.offset
        self._since = 0
        self._created = position.file_created
        self._gtids = None if position.gtid_set is None else GtidSet(position.gtid_set)
        self._gtid: tuple[Any, ...] | None = None

        self._columns = columns
        #: Until this place in the log the columns are not certain.
        self._certain_from: tuple[int, int] | None = None

        self._decoder = Decoder(mariadb=False, checksum=True)
        self._tables: dict[bytes, _Outbox | None] = {}
        self._last_map: tuple[bytes, _Outbox] | None = None
        self._begin(in_transaction=False)
        self._prepared: dict[str, bool] = {}
        #: The server's time of a transaction end that wasn't told yet.
        self._unsaid: int | None = None

    @property
    def position(self) -> Position:
        """The end of the last whole transaction that was read."""
        return Position(
            file=self._file,
            offset=self._offset,
            file_created=self._created,
            gtid_set=None if self._gtids is None else str(self._gtids),
        )

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """The outbox's columns at :attr:`position`, None when they aren't known for certain."""
        return self._columns if self._certain() else None

    def interrupt(self) -> None:
        """Ends an iteration that waits for the server, with Stopped; from any thread, at any time."""
        self._stream.interrupt()

    def close(self) -> None:
        """Ends the connection; may be called again."""
        self._stream.close()

    def __iter__(self) -> Iterator[Event]:
        try:
            if self._columns is None:
                self._load_columns()
            self._stream.open(self.position)
            yield from self._read()
        finally:
            self.close()

    def _read(self) -> Iterator[Event]:
        """The loop that every event of every table passes: what isn't ours costs a header and a look-up."""
        buffered, wait, header = self._stream.buffered, self._stream.wait, events.header
        prefix, tables = self._prefix, self._tables
        while True:
            packet = buffered()
            if packet is None:
                if self._unsaid is not None:
                    yield from self._say_end()
                packet = wait()
            at, kind, server, size, log_pos, flags = header(packet)
            if kind in events.BETWEEN:
                yield from self._between(packet, at, kind, size, log_pos)
                continue
            self._since += size
            if kind == events.TABLE_MAP:
                # The only table whose rows are looked at.
                tables[packet[20:26]] = self._table(packet) if self._is_ours(packet, prefix) else None
            elif kind in events.WRITE_ROWS:
                outbox = tables.get(packet[20:26], _MISSING)
                if outbox is not None:
                    yield from self._inserted(packet, outbox)
            elif kind == events.XID:
                yield from self._finish(at, log_pos)
            elif kind == events.MARIADB_GTID:
                number, domain, group = _MARIADB_GTID(packet, 20)
                self._begin(in_transaction=not group & events.MARIADB_STANDALONE)
                self._xa = bool(group & events.MARIADB_PREPARED_XA)
                self._gtid = (domain, server, number)
            elif kind in events.OTHER_ROWS:
                pass
            elif kind in (events.GTID, events.GTID_TAGGED):
                self._begin(in_transaction=False)
                self._gtid = events.gtid_of(packet)
            elif kind in (events.QUERY, events.MARIADB_QUERY_COMPRESSED):
                yield from self._query(events.query_of(packet, self._body_end(packet)), at, log_pos)
            else:
                yield from self._rare(packet, at, kind, log_pos, flags)

    # What begins a connection or a file

    def _between(self, packet: bytes, at: int, kind: int, size: int, log_pos: int) -> Iterator[Event]:
        if kind == events.ROTATE:
            self._rotate(self._file_name(packet), int.from_bytes(packet[20:28], "little"))
        elif kind == events.FORMAT_DESCRIPTION:
            yield from self._begin_file(packet, at)
            if log_pos:  # it lies at this place, and isn't repeated for a reader that begins in the middle
                self._since += size
        else:
            if self._unsaid is not None:
                yield from self._say_end()
            yield Heartbeat(int(time.time()))

    def _rotate(self, file: str, offset: int) -> None:
        if file == self._file:
            return
        self._file, self._offset, self._since = file, offset, 0
        self._file_number = Position(file, 0).order[0]
        self._created = None

    def _begin_file(self, packet: bytes, at: int) -> Iterator[Event]:
        """The head of a file: its time tells whether it is still the file that the position was taken in.

        All three servers give the time at which the file was made here, also to who begins in its middle.
        """
        if self._created is not None and self._created != at:
            raise PositionLost(
                f"The binary log {self._file} was made anew after our position was taken (reset, restored, "
                "or another server): a fresh position is taken and the table is read."
            )
        self._created = at
        self._decoder = Decoder(mariadb=b"MariaDB" in packet[22:72], checksum=packet[-5] == _CRC32)
        # The server may have restarted: it gives the numbers of tables anew (FACTS 1.3).
        self._tables.clear()
        self._last_map = None
        if self._concerned:
            # It died in the middle of writing a transaction.
            yield TableRead("a transaction has no end in the binary log")
        self._begin(in_transaction=False)
        self._gtid = None
        self._unsaid = at if self._offset == _FIRST_OFFSET else int(time.time())
        yield from self._say_end()

    # What frames a transaction

    def _begin(self, *, in_transaction: bool) -> None:
        self._in_transaction = in_transaction
        self._xa = False
        self._held: list[Rows] = []
        self._held_count = 0
        self._let_go = False
        self._doubt: str | None = None
        self._changed = False

    @property
    def _concerned(self) -> bool:
        """Whether the transaction that is being read has to do with the outbox."""
        return bool(self._held or self._let_go or self._doubt is not None or self._changed)

    def _query(self, query: bytes, at: int, log_pos: int) -> Iterator[Event]:
        kind = events.classify(query, self._name, _OUTBOX)
        if kind is Kind.BEGIN or kind is Kind.XA_START:
            self._begin(in_transaction=True)
            self._xa = kind is Kind.XA_START
        elif kind is Kind.COMMIT:
            yield from self._finish(at, log_pos)
        elif kind is Kind.ROLLBACK:
            # A server writes these only when something in it can't be undone (a table without transactions).
            self._distrust("a transaction was rolled back")
            yield from self._finish(at, log_pos)
        elif kind is Kind.XA_COMMIT:
            # Its rows came when it was prepared; whether it concerns us is forgotten with the connection.
            if self._prepared.pop(_xid(query), True):
                self._doubt = "an XA transaction was committed"
            yield from self._finish(at, log_pos)
        elif kind is Kind.XA_ROLLBACK:
            self._prepared.pop(_xid(query), None)
            yield from self._finish(at, log_pos)
        else:
            if kind is Kind.WRITES:
                self._doubt = "something was written in statement format"
            elif kind is Kind.ROLLBACK_TO:
                self._distrust("a transaction was partly rolled back")
            elif kind is Kind.OUTBOX_CHANGED:
                self._changed = True
                self._load_columns()
            if not self._in_transaction:
                yield from self._finish(at, log_pos)

    def _rare(self, packet: bytes, at: int, kind: int, log_pos: int, flags: int) -> Iterator[Event]:
        if kind == events.TRANSACTION_PAYLOAD:
            self._doubt = "a transaction was compressed by binlog_transaction_compression"
            yield from self._finish(at, log_pos)
        elif kind == events.XA_PREPARE:
            one_phase, xid = events.xa_of(packet)
            if not one_phase:
                if len(self._prepared) >= _PREPARED:
                    del self._prepared[next(iter(self._prepared))]
                self._prepared[xid] = self._concerned
                self._begin(in_transaction=False)
            yield from self._finish(at, log_pos)
        elif kind == events.ANONYMOUS_GTID:
            self._begin(in_transaction=False)
        elif kind == events.EXECUTE_LOAD_QUERY:
            self._doubt = "something was written in statement format"
        elif kind == events.INCIDENT:
            yield TableRead("the server says that its binary log has a gap")
        elif kind not in events.NEUTRAL and not flags & events.FLAG_IGNORABLE:
            # A newer server's, or ancient: it might be rows.
            self._doubt = f"the binary log has an event of the unknown type {kind}"

    def _distrust(self, reason: str) -> None:
        """What the transaction inserted so far may have been undone; the table knows."""
        if self._concerned:
            self._held, self._held_count = [], 0
            self._doubt = reason

    def _finish(self, at: int, log_pos: int) -> Iterator[Event]:
        estimate = self._offset + self._since
        if log_pos:
            # The event's own position has 32 bits only (FACTS 1.7): the number nearest to what we counted.
            self._offset = estimate + ((log_pos - estimate + _HALF) & _LOW_32) - _HALF
        else:
            self._offset = estimate
        self._since = 0
        if self._gtid is not None:
            self._add_gtid(self._gtid)
            self._gtid = None
        self._unsaid = at
        if self._held or self._let_go or self._doubt is not None or self._changed:
            yield from self._held
            if self._doubt is not None:
                yield TableRead(self._doubt)
            if self._changed:
                yield TableChanged()
            yield from self._say_end()
            self._begin(in_transaction=False)
        else:
            self._in_transaction = self._xa = False

    def _say_end(self) -> Iterator[Event]:
        at, self._unsaid = self._unsaid, None
        # No replica can begin to read beyond 4 GiB. A file gets there only by one huge transaction, and ends
        # with it: the next file's beginning is the next place.
        if at is not None and self._offset <= _LOW_32:
            yield TransactionEnd(self.position, at, self.columns)

    def _add_gtid(self, gtid: tuple[Any, ...]) -> None:
        if self._gtids is None:
            return
        if isinstance(gtid[0], bytes):
            self._gtids.add_mysql(*gtid)
        else:
            self._gtids.add_mariadb(*gtid)

    # Tables and rows

    def _is_ours(self, packet: bytes, prefix: bytes) -> bool:
        if self._stream.names_ignore_case:
            return packet[28 : 28 + len(prefix)].lower() == prefix.lower()
        return packet.startswith(prefix, 28)

    def _table(self, packet: bytes) -> _Outbox:
        """The outbox as a TABLE_MAP event describes it; the same bytes aren't decoded twice."""
        body = packet[20 : self._body_end(packet)]
        if self._last_map is not None and self._last_map[0] == body:
            return self._last_map[1]
        try:
            table, named = self._decoder.table(packet)
        except Exception:  # whatever a library may stumble over in bytes
            return _Outbox(None, False)
        if not named:
            known = self._columns
            if known is None or not _fits(table, known):
                return _Outbox(None, False)
            for described, column in zip(table.columns, known, strict=True):
                described.name = column.name
                # Without metadata the library takes every number for signed.
                described.unsigned = column.unsigned
        outbox = _Outbox(table, named)
        self._last_map = (body, outbox)
        return outbox

    def _inserted(self, packet: bytes, outbox: _Outbox) -> Iterator[Event]:
        rows = self._decode(packet, outbox)
        if not rows:
            return
        self._held.append(Rows(rows))
        self._held_count += len(rows)
        if self._held_count > _HELD_ROWS:
            if self._xa:
                # It may wait for its commit for ever: the table is read then.
                self._doubt = "an XA transaction is large"
            else:
                yield from self._held
                self._let_go = True
            self._held, self._held_count = [], 0

    def _decode(self, packet: bytes, outbox: _Outbox) -> list[OutboxRow]:
        if outbox is _MISSING:
            self._doubt = "rows came for a table that wasn't announced"
            return []
        if outbox.table is None or not (outbox.named or self._certain()):
            self._doubt = "the columns that the outbox had aren't known for certain"
            return []
        try:
            rows, complete = self._decoder.rows(packet, outbox.table)
            if complete:
                return [_outbox_row(row) for row in rows]
        except Exception:  # whatever a library may stumble over in bytes
            complete = True
        self._doubt = "a row can't be decoded" if complete else "a row was logged without all its columns"
        return []

    def _certain(self) -> bool:
        if self._certain_from is not None and (self._file_number, self._offset) >= self._certain_from:
            self._certain_from = None
        return self._certain_from is None

    def _load_columns(self) -> None:
        """Asks the catalogue; what it says holds from the end of the log after the answer, not before."""
        before = self._columns
        with reading(self._database) as connection:
            try:
                self._columns = columns(connection, self._database.name, OUTBOX)
            except SchemaError:
                self._columns = None  # dropped: the next CREATE TABLE comes here again
            if self._columns is None or self._columns != before or self._certain_from is not None:
                self._certain_from = binlog_end(connection).order
        self._last_map = None

    def _file_name(self, packet: bytes) -> str:
        name = packet[28:]
        known = self._file.encode()
        # The first one of a connection comes before the event that says whether a checksum follows.
        if name.startswith(known) and len(name) - len(known) in (0, 4):
            return self._file
        return packet[28 : self._body_end(packet)].decode()

    def _body_end(self, packet: bytes) -> int:
        return len(packet) - 4 if self._decoder.checksum else len(packet)

    def _unwanted(self, head: bytes) -> bool:
        """Whether a large packet can be thrown away unread; ``head`` is its beginning."""
        kind = head[5]
        if kind in events.WRITE_ROWS:
            return self._tables.get(head[20:26], _MISSING) is None
        return kind in events.OTHER_ROWS or kind in events.NEUTRAL or kind == events.TRANSACTION_PAYLOAD


def _fits(table: Any, known: tuple[Column, ...]) -> bool:
    """Whether a table map can be of a table with these columns."""
    return len(table.columns) == len(known) and all(
        described.type in _TYPE_CODES.get(column.data_type, {described.type})
        for described, column in zip(table.columns, known, strict=True)
    )


def _outbox_row(values: dict[str, Any]) -> OutboxRow:
    number, operation, recorded_at = values.pop("id"), values.pop("operation"), values.pop("recorded_at")
    if not (isinstance(number, int) and isinstance(operation, str) and isinstance(recorded_at, datetime)):
        raise TypeError
    return OutboxRow(number, operation, recorded_at, values)


def _xid(query: bytes) -> str:
    """The transaction's name in ``XA COMMIT X'..',X'..',1``, as xa_of() gives it."""
    return query.split(None, 2)[-1].decode("ascii", "replace").lower()
