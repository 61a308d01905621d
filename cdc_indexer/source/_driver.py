"""What we use of PyMySQL and mysql-replication beyond their public names, and nothing else does (private to source/).

Neither promises to keep these; tests/unit/test_driver.py says which of them a version has taken away.
"""

from __future__ import annotations

import importlib
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pymysql import _auth
from pymysql.connections import Connection as _Connection
from pymysql.protocol import MysqlPacket
from pymysqlreplication.packet import BinLogPacketWrapper
from pymysqlreplication.row_event import TableMapEvent, WriteRowsEvent

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

    Connection = _Connection[Cursor]

__all__ = ["break_off", "decode", "encryption", "hang_up", "send_command", "socket_of"]

_DECODED = frozenset({TableMapEvent, WriteRowsEvent})

_encrypting = threading.Lock()


def _encrypt(password: bytes, salt: bytes, public_key: bytes) -> bytes:
    """Stands for PyMySQL's function, which alone needs cryptography: MySQL asks for it at the first login after its start,
    without TLS. It takes 8 MB. PyMySQL's own module is read again, now with the library.
    """
    with _encrypting:
        if _auth.sha2_rsa_encrypt is _encrypt:
            importlib.reload(_auth)
    return _auth.sha2_rsa_encrypt(password, salt, public_key)


if not hasattr(_auth, "serialization"):
    _auth.sha2_rsa_encrypt = _encrypt


def socket_of(connection: Connection) -> socket.socket | None:
    """The session's socket; None when it is closed."""
    return connection._sock  # type: ignore[attr-defined, no-any-return]


def encryption(connection: Connection) -> str | None:
    """How the session is encrypted ("TLSv1.3, TLS_AES_256_GCM_SHA384"); None when it isn't."""
    sock = socket_of(connection)
    if not isinstance(sock, ssl.SSLSocket):
        return None
    cipher = sock.cipher()
    return f"{sock.version()}, {cipher[0] if cipher else 'unknown cipher'}"


def hang_up(connection: Connection) -> None:
    """Makes whoever reads from the session fail; from any thread. One that is closed is let be."""
    sock = socket_of(connection)
    if sock is not None:
        # Not SSLSocket.shutdown, which takes the TLS object away from under the reading thread.
        with suppress(OSError):  # the server, or its owner, was quicker
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def break_off(connection: Connection) -> None:
    """Closes without a word: close() would say COM_QUIT first, to a server that may not listen."""
    connection._force_close()  # type: ignore[attr-defined]


def send_command(connection: Connection, command: int, payload: bytes) -> None:
    """A command of the protocol whose answer the caller reads from the socket."""
    connection._execute_command(command, payload)  # type: ignore[attr-defined]


class _Server:
    """What mysql-replication wants to know from its control connection: we have none, it would idle out."""

    charset = "utf8mb4"

    def __init__(self, flavour: str) -> None:
        self._flavour = flavour

    def _get_dbms(self) -> str:
        return self._flavour


def decode(packet: bytes, tables: dict[int, Any], *, mariadb: bool, checksum: bool) -> Any:
    """A TABLE_MAP or WRITE_ROWS event, as mysql-replication reads it from the bytes of its packet."""
    return BinLogPacketWrapper(  # type: ignore[no-untyped-call]
        MysqlPacket(packet, "utf8"),
        tables,
        _Server("mariadb" if mariadb else "mysql"),
        mysql_version=(0, 0, 0),
        use_checksum=checksum,
        allowed_events=_DECODED,
        only_tables=None,
        ignored_tables=None,
        only_schemas=None,
        ignored_schemas=None,
        freeze_schema=False,
        ignore_decode_errors=False,
        verify_checksum=False,
        optional_meta_data=True,
        enable_logging=False,
    ).event
