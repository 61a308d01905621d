"""Names that PyMySQL and mysql-replication don't promise: which of them a version has taken away, and what it was for.

Whatever fails here, source/_driver.py alone is to be mended.
"""

from __future__ import annotations

import inspect
import socket
import ssl
import subprocess
import sys
from typing import Any
from unittest.mock import MagicMock

import pymysql
import pytest
from pymysql.connections import Connection
from pymysqlreplication.packet import BinLogPacketWrapper

from cdc_indexer.model.errors import SourceRefused
from cdc_indexer.model.settings import DatabaseSettings
from cdc_indexer.source import _driver
from cdc_indexer.source.catalogue import identity_of
from cdc_indexer.source.errors import address_of, is_lost, translate


@pytest.fixture
def connection() -> Connection[Any]:
    return Connection(defer_connect=True)


def test_pymysql_keeps_the_socket_in__sock(connection: Connection[Any]) -> None:
    """Without it nobody is hung up on, and TLS that was left out isn't seen."""
    assert _driver.socket_of(connection) is None
    assert _driver.encryption(connection) is None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection._sock = ours  # type: ignore[attr-defined]
        assert _driver.socket_of(connection) is ours
        _driver.hang_up(connection)
        assert theirs.recv(1) == b""
        connection._sock = None  # type: ignore[attr-defined]


def test_pymysql_closes_without_a_word_by__force_close(connection: Connection[Any]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        connection._sock = ours  # type: ignore[attr-defined]
        connection._rfile = None  # type: ignore[attr-defined]
        _driver.break_off(connection)
        assert theirs.recv(1) == b"", "it says COM_QUIT to a server that doesn't listen"
        assert _driver.socket_of(connection) is None


def test_pymysql_sends_a_command_by__execute_command(connection: Connection[Any]) -> None:
    """COM_BINLOG_DUMP has no public function."""
    assert list(inspect.signature(connection._execute_command).parameters) == ["command", "sql"]  # type: ignore[attr-defined]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection._sock = ours  # type: ignore[attr-defined]
        connection._current_timeout = connection._write_timeout  # type: ignore[attr-defined]
        connection._result = None  # type: ignore[attr-defined]
        _driver.send_command(connection, 0x12, b"payload")
        assert theirs.recv(100) == b"\x08\0\0\0\x12payload"
        connection._sock = None  # type: ignore[attr-defined]


def test_pymysql_takes_a_socket_of_ours() -> None:
    """A unix socket on which nobody listens would be left open."""
    assert "sock" in inspect.signature(Connection.connect).parameters
    assert ssl.SSLSocket.shutdown is not socket.socket.shutdown


def test_mysql_replication_decodes_a_table_and_its_row_from_bytes() -> None:
    """Without a control connection, which it only asks which of the two servers it is."""
    taken = list(inspect.signature(BinLogPacketWrapper.__init__).parameters)
    assert taken[1:6] == ["from_packet", "table_map", "ctl_connection", "mysql_version", "use_checksum"]
    body = bytes.fromhex("070000000000 0100") + b"\x01d\0\x01t\0" + bytes.fromhex("01 08 00 00")
    announced = _driver.decode(_packet(19, body), {}, mariadb=False, checksum=False)
    table = announced.get_table()
    assert [column.type for column in table.columns] == [8]
    assert announced.optional_metadata.column_name_list == []
    table.columns[0].name, table.columns[0].unsigned = "id", True
    body = bytes.fromhex("070000000000 0100 0200 01 ff 00") + (2**64 - 1).to_bytes(8, "little")
    rows = _driver.decode(_packet(30, body), {table.table_id: table}, mariadb=False, checksum=False)
    assert rows.number_of_columns == 1
    assert rows.columns_present_bitmap == b"\xff"
    assert [row["values"] for row in rows.rows] == [{"id": 2**64 - 1}]


def _packet(kind: int, body: bytes) -> bytes:
    size = (19 + len(body)).to_bytes(4, "little")
    return b"\0" + bytes(4) + bytes([kind]) + bytes(4) + size + bytes(6) + body


def test_pymysql_encrypts_a_password_by__auth_sha2_rsa_encrypt() -> None:
    """Called by several threads at a time in a process that hasn't imported cryptography yet; each gets what it wants."""
    done = subprocess.run(
        [sys.executable, "-c", _ENCRYPT], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True False 8 True\n", done.stderr


_ENCRYPT = """
import sys, threading
from cdc_indexer.source import _driver
from pymysql import _auth
ours, before = _auth.sha2_rsa_encrypt is _driver._encrypt, "cryptography" in sys.modules
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
pem = key.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
oaep = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
together, found = threading.Barrier(8), []
def login():
    together.wait()
    found.append(key.decrypt(_auth.sha2_rsa_encrypt(b"secret", bytes(20), pem), oaep))
threads = [threading.Thread(target=login) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
print(ours, before, found.count(b"secret" + bytes(1)), _auth.sha2_rsa_encrypt is not _driver._encrypt)
"""

# What its errors mean

DATABASE = DatabaseSettings.model_validate(
    {"host": "::1", "port": 3307, "user": "indexer", "password": "x", "name": "pacsdb"}
)


def test_a_package_that_is_missing_is_named() -> None:
    told = translate(RuntimeError("'pynacl' package is required for ed25519_password auth method"), DATABASE)
    assert isinstance(told, SourceRefused)
    assert "PyMySQL[ed25519]" in str(told)
    told = translate(RuntimeError("'cryptography' package is required for sha256_password"), DATABASE)
    assert "cryptography" in str(told)


def test_a_host_that_can_not_be_one_is_no_unexpected_error() -> None:
    told = translate(UnicodeError("label empty or too long"), DATABASE)
    assert "correct database.host" in str(told)


def test_an_address_as_people_write_it() -> None:
    assert address_of(DATABASE) == "[::1]:3307"
    assert "[::1]:3307" in str(translate(ConnectionRefusedError(), DATABASE))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (pymysql.OperationalError(2006, ""), True),
        (pymysql.OperationalError(2013, ""), True),
        (pymysql.OperationalError(4031, ""), True),
        (pymysql.InterfaceError(0, ""), True),
        (BrokenPipeError(), True),
        (pymysql.OperationalError(1045, ""), False),
        (pymysql.OperationalError(1317, ""), False),
        (KeyError(), False),
    ],
)
def test_which_errors_end_a_session(error: BaseException, lost: bool) -> None:
    assert is_lost(error) is lost


@pytest.mark.parametrize(
    ("found", "server"),
    [
        ({"server_uuid": "6f1c", "server_id": "1", "hostname": "a"}, "6f1c"),
        ({"server_uid": "qx8=", "server_id": "1", "hostname": "a"}, "qx8="),
        # MariaDB without a network card: all of these would be one server.
        ({"server_uid": "unknown", "server_id": "1", "hostname": "a"}, "1@a"),
        ({"server_id": "1", "hostname": "a"}, "1@a"),
    ],
)
def test_a_server_is_known_by_what_is_its_own(found: dict[str, str], server: str) -> None:
    cursor = MagicMock()
    cursor.__enter__.return_value.fetchall.return_value = tuple(found.items())
    connection = MagicMock()
    connection.cursor.return_value = cursor
    assert identity_of(connection, "pacsdb").server == server
