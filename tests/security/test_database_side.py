"""A database that isn't the archive's, or somebody on the way to it: what it can get out of us."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.model.errors import SourceError
from cdc_indexer.model.settings import DatabaseSettings
from cdc_indexer.source.connection import connect
from tests.security.rogue import OK_PACKET, Rogue, greeting, packet, read_packet

PASSWORD = "a-password-that-nobody-else-has"


def settings(port: int, **more: Any) -> DatabaseSettings:
    return DatabaseSettings.model_validate(
        {"host": "127.0.0.1", "port": port, "user": "indexer", "password": PASSWORD, "name": "pacsdb", **more}
    )


@pytest.mark.parametrize(
    ("plugin", "first"),
    [(b"mysql_clear_password", b""), (b"dialog", b"\x05Password: "), (b"mysql_old_password", b"01234567\0")],
)
def test_the_password_is_not_given_in_the_clear(plugin: bytes, first: bytes) -> None:
    heard: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        sock.sendall(greeting())
        sequence, answer = read_packet(sock)
        heard.append(answer)
        sock.sendall(packet(sequence + 1, b"\xfe" + plugin + b"\0" + first))
        heard.append(read_packet(sock)[1])

    with Rogue(talk) as rogue, pytest.raises(SourceError, match="password in the clear") as refused:
        connect(settings(rogue.port)).close()
    assert '"tls"' in str(refused.value)
    assert len(heard) == 1
    assert PASSWORD.encode() not in b"".join(heard)


def test_tls_that_is_asked_for_is_never_left_out() -> None:
    """Somebody on the way takes the offer of TLS out of the greeting."""
    heard: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        sock.sendall(greeting())
        heard.append(read_packet(sock)[1])

    with Rogue(talk) as rogue, pytest.raises(SourceError, match="offers no TLS"):
        connect(settings(rogue.port, tls={})).close()
    assert heard == []


def test_a_server_gets_no_file_of_ours(tmp_path: Path) -> None:
    """LOAD DATA LOCAL: the server answers any query with the name of a file that it would like to have."""
    wanted = tmp_path / "config.json"
    wanted.write_text("the key")
    heard: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        sock.sendall(greeting())
        sequence, _ = read_packet(sock)
        sock.sendall(packet(sequence + 1, OK_PACKET))
        while True:
            sequence, query = read_packet(sock)
            heard.append(query)
            sock.sendall(packet(sequence + 1, b"\xfb" + str(wanted).encode()))

    with Rogue(talk) as rogue, pytest.raises(SourceError):
        connect(settings(rogue.port)).close()
    assert heard
    assert b"the key" not in b"".join(heard)
