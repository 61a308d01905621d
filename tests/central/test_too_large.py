"""What is too large is refused at once, readably, and is never kept: bodies, heads, requests in a row."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from central_index.web import LARGEST_BODY_BYTES
from tests.central.conftest import READER, WRITER, Index, study
from tests.central.process import Memory
from tests.indexer import wait_until

MB = 1024 * 1024
LARGE_BYTES = 50 * MB
PART = b" " * 65_536
#: What lies between two processes, at most: the kernel's buffers of both.
_IN_BETWEEN_BYTES = 16 * MB
_FLAT_MB = 25.0
HEAD = f"POST /api/v1/register HTTP/1.1\r\nHost: index\r\nX-Api-Key: {WRITER}\r\n"


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body of the next one."""
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, reader.read(int(headers["content-length"]))


def is_there(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


@contextmanager
def others(index: Index) -> Iterator[None]:
    """Meanwhile somebody else sends studies, each on a connection of its own; none of them waits long."""
    took: list[float] = []
    over = threading.Event()

    def send() -> None:
        number = 1_000_000
        while not over.is_set():
            number += 1
            began = time.monotonic()
            sent = requests.post(
                f"{index.url}/api/v1/register", json=study(number), headers={"X-Api-Key": WRITER}, timeout=20
            )
            took.append(time.monotonic() - began if sent.status_code == 201 else 99.0)
            over.wait(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert took
    assert max(took) < 3.0


@pytest.mark.parametrize("connection_header", ["keep-alive", "close"])
def test_a_length_that_is_too_large_is_refused_before_the_body_is_read(
    index: Index, connection_header: str
) -> None:
    memory = Memory(index.pid)
    with index.connect() as connection, others(index):
        head = f"{HEAD}Connection: {connection_header}\r\nContent-Length: {LARGE_BYTES}\r\n\r\n"
        connection.sendall(head.encode())
        wait_until(lambda: is_there(connection), 5, "no answer to the head alone")
        # Most clients listen once they have sent all.
        for _ in range(LARGE_BYTES // len(PART)):
            connection.sendall(PART)
        _is_refused(connection, connection_header)
    assert memory.grown_mb() < _FLAT_MB


@pytest.mark.parametrize("connection_header", ["keep-alive", "close"])
def test_a_body_without_a_length_is_refused_once_it_is_too_large(
    index: Index, connection_header: str
) -> None:
    memory = Memory(index.pid)
    with index.connect() as connection, others(index):
        head = f"{HEAD}Connection: {connection_header}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        refused_after = LARGE_BYTES
        for number in range(LARGE_BYTES // len(PART)):
            connection.sendall(b"%x\r\n%b\r\n" % (len(PART), PART))
            if is_there(connection):
                refused_after = min(refused_after, (number + 1) * len(PART))
        assert LARGEST_BODY_BYTES < refused_after < LARGEST_BODY_BYTES + _IN_BETWEEN_BYTES
        connection.sendall(b"0\r\n\r\n")
        _is_refused(connection, connection_header)
    # The four that are let in, twice while they grow.
    assert memory.grown_mb() < _FLAT_MB + 2 * LARGEST_BODY_BYTES / MB


def _is_refused(connection: socket.socket, connection_header: str) -> None:
    """Readably; and then it goes on or ends, as it was asked to."""
    status, headers, body = answer(connection)
    assert status == 413
    assert json.loads(body)["reason"] == f"More than {LARGEST_BODY_BYTES} bytes."
    assert headers.get("connection", "keep-alive") == connection_header
    if connection_header == "close":
        assert connection.recv(1) == b""
        return
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: index\r\n\r\n")
    assert answer(connection)[0] == 200


def test_who_is_refused_for_the_key_reads_it_too(index: Index) -> None:
    head = HEAD.replace(WRITER, "nobody's") + f"Connection: close\r\nContent-Length: {LARGE_BYTES}\r\n\r\n"
    with index.connect() as connection:
        connection.sendall(head.encode())
        for _ in range(LARGE_BYTES // len(PART)):
            connection.sendall(PART)
        assert answer(connection)[0] == 401
        assert connection.recv(1) == b""


def test_a_login_is_small(index: Index) -> None:
    """Anybody may send one, and a thousand at once."""
    refused = index.ask("POST", "/login", json={"key": "k" * 20_000})
    assert refused.status_code == 413
    assert index.ask("POST", "/login", json={"key": READER}).status_code == 200


def test_many_passwords_at_once_take_little_memory(index: Index) -> None:
    """Each takes 64 MiB, whoever sends it; and those that come together count each other."""
    memory = Memory(index.pid)

    def guess(number: int) -> int:
        return requests.post(
            f"{index.url}/login", json={"name": "ana", "password": str(number)}, timeout=60
        ).status_code

    with ThreadPoolExecutor(40) as pool:
        answers = Counter(pool.map(guess, range(40)))
    assert memory.grown_mb() < 300
    assert set(answers) == {401, 429}
    assert answers[401] <= 31


def test_a_head_without_an_end_is_refused(index: Index) -> None:
    memory = Memory(index.pid)
    open_before = index.connections()
    trailer = "Transfer-Encoding: chunked\r\n\r\n0\r\nX-More: "
    for begin in ("GET /", f"{HEAD}X-More: ", f"{HEAD}{trailer}"):
        sent = 0
        with index.connect() as connection, others(index):
            connection.sendall(begin.encode())
            with pytest.raises(ConnectionError):
                while sent < LARGE_BYTES:
                    sent += connection.send(b"a" * len(PART))
        assert sent < _IN_BETWEEN_BYTES
    with index.connect() as connection:
        connection.sendall(b"GET /" + b"a" * 66_000)
        assert answer(connection)[0] == 431
    wait_until(lambda: index.connections() <= open_before, 5, "connections stay")
    assert memory.grown_mb() < _FLAT_MB


def test_requests_that_wait_behind_one_are_few(index: Index) -> None:
    memory = Memory(index.pid)
    one = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with index.connect() as connection, others(index):
        connection.sendall(10 * one)
        assert answer(connection)[0] == 200
    with index.connect() as connection, others(index), pytest.raises(ConnectionError):
        connection.sendall(200_000 * one)
    assert memory.grown_mb() < _FLAT_MB
