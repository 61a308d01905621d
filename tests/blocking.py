"""A scripted central index for tests of the dispatcher: its ``post`` may sleep, each call has a thread of its own."""

from __future__ import annotations

import math
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from cdc_indexer.delivery.webservice import Request
from cdc_indexer.model.outcome import Kind, Outcome


class Client:
    """The dispatcher's client for an ``index`` with ``post`` and ``delete``."""

    expires_at = math.inf
    events = select.POLLIN
    ready = True
    again = False

    def __init__(self, index: Any) -> None:
        self._index = index
        self._here, self._there = socket.socketpair()
        self._outcomes: deque[Outcome] = deque()

    def fileno(self) -> int:
        return self._here.fileno()

    def connect(self) -> Outcome | None:
        return None

    def begin(self, request: Request) -> Outcome | None:
        threading.Thread(target=self._exchange, args=[request], daemon=True).start()
        return None

    def _exchange(self, request: Request) -> None:
        if request.asks:
            outcome = getattr(self._index, "get", lambda: Outcome(Kind.ACCEPTED, 200, "[]"))()
        elif request.body is None:
            outcome = self._index.delete(request.study_iuid, request.idempotency_key)
        else:
            outcome = self._index.post(request.body, request.idempotency_key)
        self._outcomes.append(outcome)
        self._there.send(b"\0")

    def advance(self) -> Outcome | None:
        self._here.recv(1)
        return self._outcomes.popleft()

    def expire(self) -> Outcome:
        raise AssertionError("nothing expires here")

    def close(self) -> None:
        self._here.close()
        self._there.close()


class Disk:
    """What makes results durable: ``write`` is called in a thread for each request, and may block."""

    write_seconds = 0.0

    def __init__(self, write: Callable[[int], Any] = lambda generation: None) -> None:
        self._write = write
        self._written: Callable[[int], None] = lambda generation: None

    def listen(self, written: Callable[[int], None]) -> None:
        self._written = written

    def request(self, generation: int) -> None:
        threading.Thread(target=self._do, args=[generation], daemon=True).start()

    def _do(self, generation: int) -> None:
        self._write(generation)
        self._written(generation)

    def wait(self, generation: int) -> None:
        pass
