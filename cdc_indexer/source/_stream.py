"""One connection on which the server sends its binary log, event by event, as bytes (private to source/).

mysql-replication's own reading loop is not used: it reconnects by itself inside a transaction with the tables
of before (FACTS 1.3), needs a second connection that idles out, and makes Python objects of every event of
every table. What it decodes is handed to it in _events.py.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

import pymysql
from pymysql.constants import COMMAND

from cdc_indexer.model.errors import PositionLost, SourceChanged, SourceError, Stopped
from cdc_indexer.source import _driver
from cdc_indexer.source.errors import translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdc_indexer.model.position import Position
    from cdc_indexer.source.session import Session

#: How many heartbeats may be missing before the server is taken for dead.
MISSED_HEARTBEATS = 3
MIN_TIMEOUT_SECONDS = 2.0

_CHUNK_BYTES = 256 * 1024

#: Larger packets that nobody wants are thrown away as they arrive: another table's BLOB may have a gigabyte.
_LARGE_BYTES = 256 * 1024

#: How much of an unwanted packet is kept: its header, the number of its table.
_HEAD_BYTES = 4096

_MAX_PACKET_BYTES = 0xFFFFFF
_MAX_DUMP_OFFSET = 0xFFFFFFFF


class Stream:
    """Raises SourceError and its kinds; never connects again by itself."""

    def __init__(
        self, *, server_id: int, heartbeat_seconds: float, unwanted: Callable[[bytes], bool]
    ) -> None:
        self._server_id = server_id
        self._heartbeat_seconds = heartbeat_seconds
        #: How long the server may be silent.
        self.timeout_seconds = max(MISSED_HEARTBEATS * heartbeat_seconds, MIN_TIMEOUT_SECONDS)
        self._unwanted = unwanted
        self._session: Session | None = None
        self._sock: socket.socket | None = None
        self._data = b""
        self._next = 0
        self._lock = threading.Lock()
        self._interrupted = False
        #: Whether the server compares the names of tables without regard to case.
        self.names_ignore_case = False

    def open(self, session: Session, position: Position) -> None:
        """Asks for everything from ``position`` on; the server refuses it, if so, with the first packet.

        The session is its caller's, who ends it.
        """
        if position.offset > _MAX_DUMP_OFFSET:
            # The dump command has 32 bits for the offset; a wrong place must never be read from.
            raise PositionLost(
                f"The position {position} is beyond 4 GiB, where no replica can start to read."
            )
        self._prepare(session)
        sock = _driver.socket_of(session.connection)
        with self._lock:
            if self._interrupted:
                raise Stopped("The program is asked to end.")
            self._session, self._sock = session, sock
        flags = 0  # at the end of the log, wait for more
        command = struct.pack("<IHI", position.offset, flags, self._server_id) + position.file.encode()
        try:
            _driver.send_command(session.connection, COMMAND.COM_BINLOG_DUMP, command)
            if sock is not None:
                sock.settimeout(self.timeout_seconds)
        except (pymysql.Error, OSError) as error:
            raise self._failed(error) from None

    def _prepare(self, session: Session) -> None:
        rows = session.rows("SELECT @@GLOBAL.lower_case_table_names")
        self.names_ignore_case = bool(rows and int(rows[0][0]))
        nanoseconds = int(self._heartbeat_seconds * 1_000_000_000)
        # Capability 4 makes MariaDB send its GTID events as they are.
        session.rows(
            "SET @master_heartbeat_period = %s, @source_heartbeat_period = %s, @mariadb_slave_capability = 4",
            (nanoseconds, nanoseconds),
        )
        if session.rows("SHOW GLOBAL VARIABLES LIKE 'binlog_checksum'"):  # 5.5 has none
            session.rows(
                "SET @master_binlog_checksum = @@GLOBAL.binlog_checksum, "
                "@source_binlog_checksum = @@GLOBAL.binlog_checksum"
            )

    def buffered(self) -> bytes | None:
        """The next packet, if the whole of it is here already: never waits."""
        data, start = self._data, self._next
        body = start + 4
        if body > len(data):
            return None
        length = data[start] | data[start + 1] << 8 | data[start + 2] << 16
        end = body + length
        if end > len(data) or length == _MAX_PACKET_BYTES:
            return None
        self._next = end
        if data[body] != 0:
            self._refuse(data[body:end])
        return data[body:end]

    def wait(self) -> bytes:
        """The next packet; of a large one that nobody wants, its head only."""
        packet = self.buffered()
        while packet is None:
            if self._available() >= 4 and self._length() > _LARGE_BYTES:
                return self._large()
            self._receive()
            packet = self.buffered()
        return packet

    def _large(self) -> bytes:
        """Assembles a large packet, which may come in parts of 16 MiB, or throws it away."""
        parts: list[bytes] | None = []
        head = b""
        while True:
            while self._available() < 4:
                self._receive()
            length = left = self._length()
            self._next += 4
            while left:
                if not self._available():
                    self._receive()
                part = self._data[self._next : self._next + left]
                self._next += len(part)
                left -= len(part)
                if parts is not None:
                    parts.append(part)
                if len(head) < _HEAD_BYTES:
                    head = (head + part)[:_HEAD_BYTES]
                    if len(head) == _HEAD_BYTES and head[0] == 0 and self._unwanted(head):
                        parts = None
            if length < _MAX_PACKET_BYTES:
                break
        if parts is None:
            return head
        packet = b"".join(parts)
        if packet[:1] != b"\0":
            self._refuse(packet)
        return packet

    def _available(self) -> int:
        return len(self._data) - self._next

    def _length(self) -> int:
        return int.from_bytes(self._data[self._next : self._next + 3], "little")

    def _receive(self) -> None:
        sock, session = self._sock, self._session
        if sock is None or session is None or self._interrupted:
            raise Stopped("The program is asked to end.")
        if session.is_over:
            raise self._failed(OSError())
        try:
            chunk = sock.recv(_CHUNK_BYTES)
        except TimeoutError:
            raise SourceError(
                f"The database sent no heartbeat for {self.timeout_seconds:g} s: it's connected to again."
            ) from None
        except (OSError, ValueError) as error:
            raise self._failed(error) from None
        if not chunk:
            raise self._failed(pymysql.OperationalError(2013, ""))
        self._data = self._data[self._next :] + chunk
        self._next = 0

    def _refuse(self, packet: bytes) -> None:
        """Raises for a packet that isn't an event."""
        if packet[:1] == b"\xff":
            code = int.from_bytes(packet[1:3], "little")
            text = packet[3:].decode("utf-8", "replace")
            raise self._failed(pymysql.OperationalError(code, text))
        raise SourceError("The database server ended the stream (it is shutting down): it's tried again.")

    def _failed(self, error: BaseException) -> Exception:
        with self._lock:
            if self._interrupted:
                return Stopped("The program is asked to end.")
            session = self._session
        if session is None:
            return translate(error)
        if session.is_over:
            # Its line was cut because of that.
            return SourceChanged(
                "The database is another one than before, or its settings are: it's connected to anew."
            )
        return translate(error, session.database)

    def interrupt(self) -> None:
        """Makes a blocked :meth:`wait` raise Stopped; from any thread, at any time."""
        with self._lock:
            self._interrupted = True
            if self._session is not None:
                self._session.hang_up()

    def close(self) -> None:
        """Reads no more; the session's owner ends it."""
        with self._lock:
            self._session = self._sock = None
