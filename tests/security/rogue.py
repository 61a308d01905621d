"""Servers that do what no honest one does, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator


class Rogue:
    """Listens on loopback and gives each connection to ``talk``, in a thread; what ``talk`` raises on sockets is ignored."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            self._talk(sock)

    def close(self) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join(10)
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Rogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_request(sock: socket.socket) -> bytes:
    """One HTTP request, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def answering(parts: Callable[[], Iterator[bytes]], requests: list[bytes]) -> Callable[[socket.socket], None]:
    """Notes one request and sends ``parts``, however many there are, for as long as somebody reads them."""

    def talk(sock: socket.socket) -> None:
        requests.append(read_request(sock))
        for part in parts():
            sock.sendall(part)
        # The other side decides when it has had enough.
        sock.recv(1)

    return talk


# --- MySQL's protocol ------------------------------------------------------------------------------------

_CAPABILITIES = 0x00000001 | 0x00000008 | 0x00000080 | 0x00000200 | 0x00008000 | 0x00080000


def packet(sequence: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes([sequence]) + payload


def greeting() -> bytes:
    """A MySQL 8 that offers no TLS."""
    salt = b"0123456789abcdefghij"
    return packet(
        0,
        b"\x0a8.0.30\0"
        + struct.pack("<I", 1)
        + salt[:8]
        + b"\0"
        + struct.pack("<HBHH", _CAPABILITIES & 0xFFFF, 45, 2, _CAPABILITIES >> 16)
        + bytes([21])
        + bytes(10)
        + salt[8:]
        + b"\0mysql_native_password\0",
    )


def read_packet(sock: socket.socket) -> tuple[int, bytes]:
    """(sequence number, payload); raises OSError at the end."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = sock.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    head = exactly(4)
    return head[3], exactly(int.from_bytes(head[:3], "little"))


OK_PACKET = b"\0\0\0\2\0\0\0"
