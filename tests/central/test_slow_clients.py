"""Clients that send a byte now and then: they are ended in time, and nobody else waits for them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
import requests

from tests.central.conftest import READER, WRITER, Index, MakeIndex, study
from tests.central.postgres import Cluster

BODY_SECONDS, REQUEST_SECONDS, IDLE_SECONDS = 1.0, 2.0, 3

#: The index itself, with limits that a test can wait for.
PROGRAM = f"""
import uvicorn
from central_index import impatient, web
from central_index.cli import main
web._BODY_SECONDS, impatient.REQUEST_SECONDS = {BODY_SECONDS}, {REQUEST_SECONDS}
class Config(uvicorn.Config):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {{"timeout_keep_alive": {IDLE_SECONDS}}})
uvicorn.Config = Config
main()
"""

HEAD = "POST /api/v1/register HTTP/1.1\r\nHost: index\r\nX-Api-Key: {key}\r\nContent-Length: 5000\r\n"


class Slow(threading.Thread):
    """Sends ``at_once``, then a byte each tenth of a second until the other side ends it."""

    def __init__(self, index: Index, at_once: str, then: bytes | None) -> None:
        super().__init__(daemon=True)
        host, _, port = index.url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._socket.sendall(at_once.encode())
        self._then = then
        self._began = time.monotonic()
        self.heard = b""
        self.heard_after = self.seconds = 99.0
        self.start()

    def run(self) -> None:
        self._socket.settimeout(0.1)
        with self._socket:
            while time.monotonic() < self._began + 20:
                try:
                    if self._then is not None:
                        self._socket.sendall(self._then)
                    some = self._socket.recv(65_536)
                except TimeoutError:
                    continue
                except OSError:
                    some = b""
                if not some:
                    self.seconds = time.monotonic() - self._began
                    return
                self.heard += some
                self.heard_after = min(self.heard_after, time.monotonic() - self._began)
                time.sleep(0.1)

    def end(self) -> None:
        """Waits for it."""
        self.join(30)


@pytest.fixture
def index(engine: str, make_index: MakeIndex, _clusters: Callable[[], Cluster]) -> Index:
    one = make_index(None if engine == "sqlite" else _clusters())
    one.program = ("-c", PROGRAM)
    one.start()
    return one


def test_slow_clients_are_ended_and_hold_nobody_up(index: Index) -> None:
    bodies = [Slow(index, HEAD.format(key=WRITER) + "\r\n", b" ") for _ in range(30)]
    refused = [Slow(index, HEAD.format(key="nobody's") + "\r\n", b" ") for _ in range(10)]
    heads = [Slow(index, HEAD.format(key=WRITER) + "X-More: ", b"a") for _ in range(10)]
    after_one = [
        Slow(index, f"GET /healthz HTTP/1.1\r\nHost: index\r\nX-Api-Key: {READER}\r\n\r\n", b"\r\n")
        for _ in range(5)
    ]
    silent = [Slow(index, "", None) for _ in range(5)]
    # Others meanwhile, each on a connection of its own.
    took = []
    number = 0
    until = time.monotonic() + REQUEST_SECONDS
    while time.monotonic() < until:
        number += 1
        began = time.monotonic()
        answer = requests.post(
            f"{index.url}/api/v1/register", json=study(number), headers={"X-Api-Key": WRITER}, timeout=20
        )
        assert answer.status_code == 201
        took.append(time.monotonic() - began)
    assert number > 10
    assert max(took) < 1.0
    for one in (*bodies, *refused, *heads, *after_one, *silent):
        one.end()
    for one in bodies:
        head, _, body = one.heard.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["reason"] == f"The body took longer than {BODY_SECONDS:g} s."
        assert BODY_SECONDS <= one.heard_after < BODY_SECONDS + 1
    for one in refused:
        assert one.heard.startswith(b"HTTP/1.1 401 ")
    for one in (*bodies, *refused, *heads):
        assert REQUEST_SECONDS - 0.2 <= one.seconds < REQUEST_SECONDS + 1.5
    for one in heads:
        assert one.heard == b""
    for one in after_one:
        assert one.heard.startswith(b"HTTP/1.1 200 ")
        assert one.seconds < REQUEST_SECONDS + 1.5
    for one in silent:
        assert one.seconds < IDLE_SECONDS + 1.5
    assert len(index.studies(limit=200)) == min(number, 200)


def test_a_stream_and_a_connection_at_rest_are_left_alone(index: Index) -> None:
    """An open page hears for as long as it likes, and a sender keeps its connection between two studies."""
    with index.session.get(
        f"{index.url}/events", headers={"X-Api-Key": READER}, stream=True, timeout=20
    ) as news:
        assert news.status_code == 200
        time.sleep(REQUEST_SECONDS + 0.5)
        assert index.post(study()).status_code == 201
        assert next(line for line in news.iter_lines() if b"data" in line)


def test_an_answer_comes_in_one_piece_and_in_its_turn(shared_index: Index) -> None:
    host, _, port = shared_index.url.removeprefix("http://").partition(":")
    head = "GET /api/v1/{} HTTP/1.1\r\nHost: index\r\nX-Api-Key: {}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for _ in range(5):
            connection.sendall(f"{head.format('register', WRITER)}\r\n".encode())
            assert connection.recv(65_536).endswith(b"\r\n\r\n[]")
        # Several at once, and the last thing before the end is an answer.
        paths = ("register", "nothing", "register")
        connection.sendall("\r\n".join([*(head.format(path, WRITER) for path in paths), ""]).encode())
        connection.sendall(f"{head.format('nothing', WRITER)}Connection: close\r\n\r\n".encode())
        heard = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert [part[:3] for part in heard.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"404"]
    assert heard.endswith(b"}")
