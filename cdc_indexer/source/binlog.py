"""Follows the binary log and tells what concerns the outbox.

The reader gives, in the order of the log: the inserted rows, the ends of transactions (the only places
where reading may begin again, FACTS 1.2), and every case in which the log doesn't say what was inserted, so
that the table itself must be read. It never connects again by itself: recovery is the service's.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdc_indexer.model.errors import PositionLost, SourceChanged, SourceError
from cdc_indexer.model.position import Position
from cdc_indexer.source import _events as events
from cdc_indexer.source import _table
from cdc_indexer.source._events import Decoder, Statement
from cdc_indexer.source._stream import Stream
from cdc_indexer.source._table import OutboxTable, UndecodableError
from cdc_indexer.source._told import Event, Heartbeat, Rows, TableChanged, TableRead, TransactionEnd
from cdc_indexer.source.catalogue import holds

if TYPE_CHECKING:
    from cdc_indexer.model.settings import StreamSettings
    from cdc_indexer.source.catalogue import Column
    from cdc_indexer.source.source import Source

__all__ = ["BinlogReader", "Event", "Heartbeat", "Rows", "TableChanged", "TableRead", "TransactionEnd"]


#: A transaction's rows are held back until its end shows that it wasn't rolled back: up to this many.
_HELD_ROWS = 1000

#: Prepared XA transactions of which the reader remembers whether they concern the outbox.
_PREPARED = 1000

_FIRST_OFFSET = 4
#: After the number and the domain.
_MARIADB_GTID_FLAGS = struct.Struct("<12xB").unpack_from


@dataclass(slots=True)
class _Transaction:
    """What is known of the transaction that is being read."""

    is_open: bool = False
    is_xa: bool = False
    held: list[Rows] = field(default_factory=list)
    held_count: int = 0
    #: Rows were given already, because there were too many to hold.
    let_go: bool = False
    #: Why the table has to be read.
    doubt: str | None = None
    table_changed: bool = False

    @property
    def concerns_us(self) -> bool:
        return bool(self.held or self.let_go or self.doubt is not None or self.table_changed)

    def undo(self, reason: str) -> None:
        """What it inserted so far may have been rolled back; the table knows."""
        if self.concerns_us:
            self.held, self.held_count = [], 0
            self.doubt = reason


class BinlogReader:
    """The binary log from ``position`` on, by a session of the source; iterate over it once.

    ``columns`` must be those of the outbox at ``position`` (a TransactionEnd carries them). Without them the
    reader asks the catalogue, and says TableRead for rows that may be older than its answer. ``epoch`` is the source's
    in which the position was found good.

    Iterating raises PositionLost, NoBinlog, ServerIdClash or SourceError; SourceChanged when the source enters another
    epoch. The reader is of no use then. After :meth:`interrupt` it raises Stopped.
    """

    def __init__(
        self,
        source: Source,
        stream: StreamSettings,
        server_id: int,
        position: Position,
        columns: tuple[Column, ...] | None,
        epoch: int | None = None,
    ) -> None:
        self._source = source
        self._wanted_epoch = epoch
        #: The source's in which everything is read; 0 before that has begun.
        self.epoch = 0
        self._stream = Stream(
            server_id=server_id,
            heartbeat_seconds=stream.heartbeat_seconds,
            unwanted=self._unwanted,
        )
        self._table = OutboxTable(source, columns)
        self._ask_columns = columns is None
        self._schema = source.database.name.encode()
        self._decoder = Decoder(mariadb=False, checksum=True)
        self._iteration: Generator[Event, None, None] | None = None

        # Where we are: the end of the last whole transaction, and the bytes of the log that came since.
        self._file = position.file
        self._file_number = position.order[0]
        self._offset = position.offset
        self._since = 0
        self._created = position.file_created
        #: The server's time of that end, while it wasn't told yet.
        self._unsaid: int | None = None

        #: Whether the event that opens a transaction has come, and its end hasn't.
        self._begun = False
        self._transaction = _Transaction()
        self._prepared: dict[str, bool] = {}
        self._check_seconds = stream.audit_seconds
        self._check_at = time.monotonic() + self._check_seconds

    @property
    def position(self) -> Position:
        """The end of the last whole transaction that was read."""
        return Position(file=self._file, offset=self._offset, file_created=self._created)

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """The outbox's columns at :attr:`position`; None when they aren't known for certain."""
        return self._table.columns_at((self._file_number, self._offset))

    def interrupt(self) -> None:
        """Ends an iteration with Stopped, also one that waits for the server; from any thread, any time."""
        self._stream.interrupt()

    def close(self) -> None:
        """Gives the session back; may be called again, by the thread that iterates."""
        iteration, self._iteration = self._iteration, None
        if iteration is not None:
            iteration.close()

    def __iter__(self) -> Iterator[Event]:
        self._iteration = self._events()
        return self._iteration

    def _events(self) -> Generator[Event, None, None]:
        if self._ask_columns:
            self._table.load()
        with self._source.session_apart(read_timeout_seconds=self._stream.timeout_seconds) as session:
            wanted = self._table.epoch if self._wanted_epoch is None else self._wanted_epoch
            if wanted not in (None, session.epoch):
                raise SourceChanged("Another database server answers now: it's connected to anew.")
            self.epoch = self._table.epoch = session.epoch
            try:
                self._stream.open(session, self.position)
                self._table.ignore_case = self._stream.names_ignore_case
                yield from self._read()
            finally:
                self._stream.close()

    def _read(self) -> Iterator[Event]:
        """The loop that every event of every table passes: what isn't ours costs a header and a look-up."""
        buffered, wait, header = self._stream.buffered, self._stream.wait, events.header
        announce, concerns = self._table.announce, self._table.concerns
        while True:
            packet = buffered()
            if packet is None:
                # Nothing more is here: before waiting, say how far we are.
                yield from self._say_end()
                packet = wait()
            at, kind, _, size, log_pos, flags = header(packet)
            if kind in events.BETWEEN:
                yield from self._between(packet, at, kind, size, log_pos)
                continue
            if not flags & events.FLAG_ARTIFICIAL:
                self._since += size
            if kind == events.TABLE_MAP:
                announce(packet)
            elif kind in events.WRITE_ROWS:
                if concerns(packet):
                    yield from self._inserted(packet)
            elif kind == events.XID:
                yield from self._finish(at, log_pos)
            elif kind == events.MARIADB_GTID:
                (group,) = _MARIADB_GTID_FLAGS(packet, events.HEADER_BYTES)
                self._begun = True
                self._transaction = _Transaction(
                    is_open=not group & events.MARIADB_STANDALONE,
                    is_xa=bool(group & events.MARIADB_PREPARED_XA),
                )
            elif kind in events.OTHER_ROWS:
                pass
            elif kind in (events.GTID, events.GTID_TAGGED):
                self._begun = True
                self._transaction = _Transaction()
            elif kind in (events.QUERY, events.MARIADB_QUERY_COMPRESSED):
                yield from self._query(packet, at, log_pos)
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
            yield from self._say_end()
            self._check()
            yield Heartbeat(int(time.time()))

    def _check(self) -> None:
        """After a reset of the log the server sends heartbeats only, until the new one is as long as the old.

        So a stream that says nothing for long asks, as often as there are audits, whether its place still exists.
        """
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + self._check_seconds
        try:
            with self._source.session(database=False) as session:
                holds(session, self.position)
        except (PositionLost, SourceChanged):
            raise
        except SourceError:
            pass  # the stream itself is well

    def _rotate(self, file: str, offset: int) -> None:
        if file != self._file:  # the first one of a connection repeats what we asked for
            self._file, self._offset, self._since = file, offset, 0
            self._file_number = Position(file, 0).order[0]
            self._created = None

    def _file_name(self, packet: bytes) -> str:
        name, known = packet[28:], self._file.encode()
        # The first one of a connection comes before the event that says whether a checksum follows.
        if name.startswith(known) and len(name) - len(known) in (0, 4):
            return self._file
        return packet[28 : self._decoder.end(packet)].decode()

    def _begin_file(self, packet: bytes, at: int) -> Iterator[Event]:
        """The head of a file: its time tells whether it is still the file that the position was taken in.

        The servers give the time at which the file was made here, also to who begins in its middle.
        """
        if self._created is not None and self._created != at:
            raise PositionLost(
                f"The binary log {self._file} was made anew after our position was taken (reset, restored, "
                "or another server): a fresh position is taken and the table is read."
            )
        self._created = at
        self._decoder = Decoder.of(packet)
        self._table.begin_file(self._decoder)
        if self._transaction.concerns_us:
            yield TableRead("the server died while it wrote a transaction into its binary log")
        self._transaction = _Transaction()
        self._begun = False
        self._unsaid = at if self._offset == _FIRST_OFFSET else int(time.time())
        yield from self._say_end()

    # What frames a transaction

    def _query(self, packet: bytes, at: int, log_pos: int) -> Iterator[Event]:
        transaction = self._transaction
        query, whole = events.query_of(packet, self._decoder.end(packet))
        kind = events.classify(query)
        if kind in (Statement.BEGIN, Statement.XA_START):
            self._transaction = _Transaction(is_open=True, is_xa=kind is Statement.XA_START)
        elif kind is Statement.COMMIT:
            yield from self._finish(at, log_pos)
        elif kind is Statement.ROLLBACK:
            # Logged only where something can't be undone: a table without transactions, a temporary one.
            transaction.undo("a transaction was rolled back")
            yield from self._finish(at, log_pos)
        elif kind is Statement.XA_COMMIT:
            # Its rows came when it was prepared. Whether they were ours is forgotten with the connection.
            if self._prepared.pop(events.xid_of(query), True):
                transaction.doubt = "an XA transaction was committed"
            yield from self._finish(at, log_pos)
        elif kind is Statement.XA_ROLLBACK:
            self._prepared.pop(events.xid_of(query), None)
            yield from self._finish(at, log_pos)
        else:
            if kind is Statement.WRITES:
                transaction.doubt = "something was written in statement format"
            elif kind is Statement.ROLLBACK_TO:
                transaction.undo("a transaction was partly rolled back")
            if events.may_alter(query, whole, self._schema, _table.NAME.encode()):
                transaction.table_changed = True
                self._table.load()
            if not transaction.is_open:
                yield from self._finish(at, log_pos)

    def _rare(self, packet: bytes, at: int, kind: int, log_pos: int, flags: int) -> Iterator[Event]:
        transaction = self._transaction
        if kind == events.TRANSACTION_PAYLOAD:
            transaction.doubt = "a transaction was compressed (binlog_transaction_compression)"
            yield from self._finish(at, log_pos)
        elif kind == events.XA_PREPARE:
            one_phase, xid = events.xa_of(packet)
            if not one_phase:
                if len(self._prepared) >= _PREPARED:
                    del self._prepared[next(iter(self._prepared))]
                self._prepared[xid] = transaction.concerns_us
                self._transaction = _Transaction()
            yield from self._finish(at, log_pos)
        elif kind == events.ANONYMOUS_GTID:
            self._transaction = _Transaction()
        elif kind == events.EXECUTE_LOAD_QUERY:
            transaction.doubt = "something was written in statement format"
        elif kind in events.NOTES:
            if log_pos and not transaction.is_open and not self._begun:
                yield from self._finish(at, log_pos)
        elif kind == events.INCIDENT:
            yield TableRead("the server says that its binary log has a gap")
        elif kind not in events.NEUTRAL and not flags & events.FLAG_IGNORABLE:
            # A newer or an ancient server's: it may be rows.
            transaction.doubt = f"the binary log holds an event of the unknown type {kind}"

    def _inserted(self, packet: bytes) -> Iterator[Event]:
        transaction = self._transaction
        try:
            rows = self._table.rows(packet, (self._file_number, self._offset))
        except UndecodableError as error:
            transaction.doubt = str(error)
            return
        transaction.held.append(Rows(rows, self.epoch))
        transaction.held_count += len(rows)
        if transaction.held_count > _HELD_ROWS:
            if transaction.is_xa:
                # It is prepared, and may wait for its commit for days.
                transaction.doubt = "an XA transaction is too large to wait for its commit"
            else:
                yield from transaction.held
                transaction.let_go = True
            transaction.held, transaction.held_count = [], 0

    def _finish(self, at: int, log_pos: int) -> Iterator[Event]:
        """The end of a transaction: the log up to here was given, and reading may begin again here."""
        counted = self._offset + self._since
        self._offset = events.full_offset(log_pos, counted) if log_pos else counted
        self._since = 0
        self._table.maps.clear()
        self._begun = False
        self._unsaid = at
        transaction = self._transaction
        if transaction.concerns_us:
            self._transaction = _Transaction()
            yield from transaction.held
            if transaction.doubt is not None:
                yield TableRead(transaction.doubt)
            if transaction.table_changed:
                yield TableChanged()
            yield from self._say_end()
        else:
            transaction.is_open = transaction.is_xa = False

    def _say_end(self) -> Iterator[Event]:
        at, self._unsaid = self._unsaid, None
        # No replica can begin to read beyond 4 GiB. A file gets there only by one huge transaction, and ends
        # with it: the next file's beginning is the next place.
        if at is not None and self._offset <= events.LOW_32:
            yield TransactionEnd(self.position, at, self.columns, self.epoch)

    def _unwanted(self, head: bytes) -> bool:
        """Whether the beginning of a large packet is all that is needed of it."""
        kind = head[5]
        if kind in events.WRITE_ROWS:
            return not self._table.concerns(head)
        return (
            kind in (events.QUERY, events.MARIADB_QUERY_COMPRESSED, events.TRANSACTION_PAYLOAD)
            or kind in events.OTHER_ROWS
            or kind in events.NEUTRAL
        )
