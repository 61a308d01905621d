"""The outbox in the binary log: which events are its rows, and what its columns are (private to source/).

By default a server logs rows without the names of their columns (FACTS 1.1), so that names are a matter of
*when*: an event written before an ALTER has the columns of before. No statement is trusted to say so: an ALTER may come
in any disguise, or not be logged at all, and columns of one type may change places. A server gives a table another
number whenever it has opened its definition anew, and that is seen here. Rows whose columns aren't known for certain
are never guessed; the table itself tells.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cdc_indexer.model.errors import IndexerError, SchemaError, SourceChanged, SourceFull
from cdc_indexer.model.study import OutboxRow
from cdc_indexer.source import _images
from cdc_indexer.source._events import Decoder
from cdc_indexer.source.catalogue import Column, binlog_end, columns

if TYPE_CHECKING:
    from cdc_indexer.source.source import Source

NAME = "study_service"

#: In the log: (number of the file, offset).
Place: TypeAlias = tuple[int, int]

#: information_schema's types -> the codes that a TABLE_MAP event may give for them.
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


class UndecodableError(IndexerError):
    """Rows of the outbox can't be read from the log; the message says why, without a value."""


class _Map(NamedTuple):
    """The outbox as one TABLE_MAP event describes it; without ``table`` its rows can't be decoded."""

    table: Any
    named: bool
    usual: _images.Columns | None = None


#: Rows whose table wasn't announced before them: nothing is known of them (FACTS 1.2).
_MISSING = _Map(None, False)


class OutboxTable:
    """Knows the outbox's rows among all others."""

    def __init__(self, source: Source, known: tuple[Column, ...] | None) -> None:
        self._source = source
        #: The source's; what another one's catalogue says is of no use.
        self.epoch: int | None = None
        self._columns = known
        #: Before this place in the log the columns aren't certain: (number of the file, offset).
        self._certain_from: Place | None = None
        #: What the catalogue said at first, and where the log ended then, if it was not what was given: the table was
        #: altered since, and perhaps without a word in the log.
        self._later: tuple[tuple[Column, ...] | None, Place] | None = None
        self._decoder = Decoder(mariadb=False, checksum=True)
        #: A table's number in the log -> the outbox, or None for any other table. Only for one transaction: a
        #: server that restarts gives the numbers anew (FACTS 1.3).
        self.maps: dict[bytes, _Map | None] = {}
        self._last: tuple[bytes, _Map] | None = None
        #: The outbox's.
        self._number: bytes | None = None
        self._name = source.database.name
        name = self._name.encode()
        self._qualified = bytes([len(name)]) + name + bytes([0, len(NAME)]) + NAME.encode() + b"\0"
        #: Whether the server compares the names of tables without regard to case.
        self.ignore_case = False

    def begin_file(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.maps.clear()
        self._last = None

    def columns_at(self, place: Place) -> tuple[Column, ...] | None:
        """The columns at a place in the log, which only moves on; None when they aren't certain."""
        if self._later is not None and place >= self._later[1]:
            self._columns, self._later, self._last = self._later[0], None, None
        if self._certain_from is not None and place >= self._certain_from:
            self._certain_from = None
        return None if self._certain_from is not None else self._columns

    def load(self) -> None:
        """Asks the catalogue; its answer holds from where the log ends after it, not for what is older.

        Not even if it is the same as before: the table may have been altered there and back.
        """
        self._columns, self._certain_from = self._ask()
        self._later = self._last = self._number = None

    def _ask(self) -> tuple[tuple[Column, ...] | None, Place]:
        with self._source.session(database=False) as session:
            if self.epoch not in (None, session.epoch):
                raise SourceChanged("Another database server answers now: it's connected to anew.")
            self.epoch = session.epoch
            found: tuple[Column, ...] | None = None
            with suppress(SchemaError):  # dropped: when it is made again, its CREATE TABLE comes by
                found = columns(session, self._name, NAME)
            return found, binlog_end(session).order

    def announce(self, packet: bytes) -> None:
        """Takes note of a TABLE_MAP event."""
        qualified = self._qualified
        # At 20 the table's number, at 26 flags, at 28 the two names.
        if not packet.startswith(qualified, 28) and not (
            self.ignore_case and packet[28 : 28 + len(qualified)].lower() == qualified.lower()
        ):
            self.maps[packet[20:26]] = None
            return
        body = packet[20 : self._decoder.end(packet)]
        # A transaction usually announces the very same: its bytes aren't decoded twice.
        if self._last is None or self._last[0] != body:
            try:
                self._note_number(body[:6])
            except UndecodableError:
                self.maps[packet[20:26]] = _Map(None, False)
                return
            self._last = (body, self._map(packet))
        self.maps[packet[20:26]] = self._last[1]

    def _note_number(self, number: bytes) -> None:
        """The table's number changes whenever the server has opened its definition anew."""
        before, self._number = self._number, number
        if before is not None and before != number:
            self.load()
            self._number = number
        elif before is None and self._certain_from is None:
            try:
                now, end = self._ask()
            except SourceFull:
                self._number = None  # asked again with the next
                raise UndecodableError("the columns that the outbox has can't be asked for") from None
            if self._columns is None:
                self._columns, self._certain_from = now, end
            else:
                self._later = (now, end) if now != self._columns else None

    def _map(self, packet: bytes) -> _Map:
        try:
            table, named = self._decoder.table(packet)
        except Exception:  # whatever the library may stumble over
            return _MISSING
        if not named:
            if self._columns is None or not _fits(table, self._columns):
                return _Map(None, False)
            if self._later is not None and self._later[0] is not None and _fits(table, self._later[0]):
                return _Map(None, False)  # it may be either
            for described, column in zip(table.columns, self._columns, strict=True):
                described.name = column.name
                # Without metadata the library takes every number for signed.
                described.unsigned = column.unsigned
        return _Map(table, named, _images.columns_of(table))

    def concerns(self, packet: bytes) -> bool:
        """Whether a rows event may be the outbox's."""
        return self.maps.get(packet[20:26], _MISSING) is not None

    def rows(self, packet: bytes, place: Place) -> list[OutboxRow]:
        """The rows of a WRITE_ROWS event that :meth:`concerns` us, in a transaction that begins at ``place``.

        Raises UndecodableError.
        """
        announced = self.maps.get(packet[20:26], _MISSING) or _MISSING
        if announced is _MISSING:
            raise UndecodableError("rows came for a table that wasn't announced")
        if announced.table is None or not (announced.named or self.columns_at(place) is not None):
            raise UndecodableError("the columns that the outbox had aren't known for certain")
        try:
            rows, complete = self._decoder.rows(packet, announced.table, announced.usual)
            if complete:
                return [_outbox_row(row) for row in rows]
        except Exception:  # whatever the library may stumble over
            raise UndecodableError("a row can't be decoded") from None
        raise UndecodableError("a row was logged without all its columns")


def _fits(table: Any, known: tuple[Column, ...]) -> bool:
    """Whether a TABLE_MAP event can be of a table with these columns."""
    return len(table.columns) == len(known) and all(
        described.type in _TYPE_CODES.get(column.data_type, {described.type})
        for described, column in zip(table.columns, known, strict=True)
    )


def _outbox_row(values: dict[str, Any]) -> OutboxRow:
    number, operation, recorded_at = values.pop("id"), values.pop("operation"), values.pop("recorded_at")
    if not (isinstance(number, int) and isinstance(operation, str) and isinstance(recorded_at, datetime)):
        raise TypeError
    return OutboxRow(number, operation, recorded_at, values)
