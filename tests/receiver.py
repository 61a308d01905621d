"""A central index for tests: a real HTTP/1.1 server on loopback, with a ledger of what it was sent and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from tests.ports import free_port, stop_listening

_SECONDS_TO_WAIT = 30.0
_LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    """What one request gets.

    Attributes:
        status: of the HTTP answer.
        body: sent as JSON; bytes are sent as they are.
        headers: besides Content-Type and Content-Length.
        delay_seconds: from the end of the request to the answer. The ledger has the request from the beginning.
        fault: instead of the answer. "hang": nothing ever comes, nothing was taken. "reset": the connection is reset
            (RST), nothing was taken. "accept and reset": it was taken as `status` says, then comes the reset.
    """

    status: int = 201
    body: Any = field(default_factory=lambda: {"status": "Ok"})
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    fault: Literal["hang", "reset", "accept and reset"] | None = None

    @property
    def accepts(self) -> bool:
        """Whether an index that answers so has taken what it was sent."""
        error = isinstance(self.body, dict) and str(self.body.get("status", "")).lower() == "error"
        return 200 <= self.status < 300 and not error and self.fault in (None, "accept and reset")

    def encoded(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unassigned"
        headers = {"Content-Type": "application/json", **self.headers, "Content-Length": str(len(body))}
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


OK = Answer()
HANG = Answer(fault="hang")
RESET = Answer(fault="reset")
ACCEPT_AND_RESET = Answer(fault="accept and reset")
#: A wrong key: as DESIGN has it, and as the central index in use says it.
UNAUTHORIZED = Answer(401, {"status": "Error"})
UNAUTHORIZED_WITH_200 = Answer(200, {"status": "Error"})


@dataclass
class Entry:
    """One request in the ledger.

    Attributes:
        time: time.time() when its last byte had come.
        ended_at: time.time() when its answer was sent or its connection was lost; None before.
        answered: whether its answer was sent.
        headers: their names in lower case.
        json: the body, parsed; None if it was none.
        idempotency_key: the header of that name.
        status: that was decided for it, sent or not; None after a hang or a reset.
        accepted: whether the index has taken it: a 2xx that doesn't say Error, sent or not.
    """

    time: float
    method: str
    path: str
    headers: dict[str, str]
    json: Any
    status: int | None = None
    accepted: bool = False
    ended_at: float | None = None
    answered: bool = False

    @property
    def idempotency_key(self) -> str | None:
        return self.headers.get("idempotency-key")

    @property
    def studies(self) -> list[dict[str, Any]]:
        """The studies in it: one, or those of a batch."""
        found = self.json if isinstance(self.json, list) else [self.json]
        return [study for study in found if isinstance(study, dict)]

    @property
    def deleted_iuid(self) -> str | None:
        """The study that a DELETE names, the last part of its path."""
        if self.method != "DELETE":
            return None
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path.rpartition("/")[2])

    @property
    def study_iuids(self) -> list[str]:
        if self.deleted_iuid is not None:
            return [self.deleted_iuid]
        return [study["study_iuid"] for study in self.studies if "study_iuid" in study]


class Receiver:
    """A central index that is what a test wants it to be. Runs in a thread of its own; use as a context manager.

    A good key gets 201 `{"status": "Ok"}` for a POST or DELETE and `[]` for a GET. What those get instead is told, from any
    thread, with `always`, `for_studies`, `next` and `answer_with`; `normal` ends all that. `next` comes before
    `answer_with`, that before `for_studies`, that before `always`. A bad key gets `bad_key`, or a fault that was told.

    Args:
        key: the good one, compared with X-Api-Key; it may be changed at any time.
        bad_key: the answer for a POST with another key. (A GET then gets 200 `{"status": "Error"}`.)
        tls: a context for servers; then the address is https.
    """

    host = "127.0.0.1"

    def __init__(
        self, key: str, *, bad_key: Answer = UNAUTHORIZED, tls: ssl.SSLContext | None = None
    ) -> None:
        self.key = key
        self.bad_key = bad_key
        self.port = free_port()
        self._tls = tls
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._accepted: list[Entry] = []
        self._gets = False
        self._next: deque[Answer] = deque()
        self._answer_with: Callable[[Entry], Answer | None] | None = None
        self._by_study: dict[str, Answer] = {}
        self._always = OK
        self._connections: set[_Connection] = set()
        self._unanswered: set[_Connection] = set()
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receiver", daemon=True)
        self._thread.start()
        self.listen()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}/api/v1/register"

    # What it does.

    def normal(self) -> None:
        """Everything is accepted again."""
        with self._changed:
            self._next.clear()
            self._answer_with = None
            self._by_study = {}
            self._always = OK
            self._gets = False

    def always(self, answer: Answer, *, gets: bool = False) -> None:
        """All POSTs get this; with gets=True also all GETs."""
        with self._changed:
            self._always = answer
            self._gets = gets

    def for_studies(self, study_iuids: Iterable[str], answer: Answer) -> None:
        """Every POST that holds one of these studies gets this."""
        with self._changed:
            self._by_study.update(dict.fromkeys(study_iuids, answer))

    def next(self, count: int, answer: Answer) -> None:
        """The next POSTs get this, after those that were told before."""
        with self._changed:
            self._next.extend([answer] * count)

    def answer_with(self, decide: Callable[[Entry], Answer | None]) -> None:
        """Every POST gets what `decide` returns for it, in the receiver's thread; None leaves it to the other rules."""
        with self._changed:
            self._answer_with = decide

    def listen(self) -> None:
        """Listens, if it doesn't already, on the same port as ever."""
        self._in_loop(self._listen())

    def refuse(self) -> None:
        """Refuses connections, and resets the open ones, until `listen`."""
        self._in_loop(self._refuse())

    def reset_connections(self) -> None:
        """Resets the open connections, and goes on listening."""
        self._in_loop(self._reset_connections())

    def close(self) -> None:
        """Ends it; the ledger stays."""
        if self._loop.is_closed():
            return
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it was sent.

    def entries(self) -> list[Entry]:
        """Every request that came in whole, in order."""
        with self._changed:
            return list(self._entries)

    def sent(self) -> list[Entry]:
        """What it was to store or to delete, in order: every request but the questions, by GET, what it can."""
        return [entry for entry in self.entries() if entry.method != "GET"]

    def accepted(self) -> list[Entry]:
        """The POSTs that it has taken, in order. What it took and could not answer is among them."""
        with self._changed:
            return list(self._accepted)

    def holds(self) -> dict[str, dict[str, Any]]:
        """What an index that was sent all this holds: the newest document of each study that wasn't deleted since."""
        held: dict[str, dict[str, Any]] = {}
        for entry in self.entries():
            if not entry.accepted:
                continue
            if entry.deleted_iuid is not None:
                held.pop(entry.deleted_iuid, None)
            for study in entry.studies:
                held[study["study_iuid"]] = study
        return held

    def study_iuids(self) -> list[str]:
        """Of all studies that it has taken, in order, repeated ones as often as they came."""
        return [study_iuid for entry in self.accepted() for study_iuid in entry.study_iuids]

    def clear(self) -> None:
        """Empties the ledger."""
        with self._changed:
            self._entries.clear()
            self._accepted.clear()

    def wait_for(
        self, wanted: int | Callable[[list[Entry]], object], timeout: float = _SECONDS_TO_WAIT
    ) -> list[Entry]:
        """Waits until so many requests were accepted, or until the function of the accepted entries is true.

        Returns the accepted entries. Raises TimeoutError that says what there is instead.
        """
        deadline = time.monotonic() + timeout
        while True:
            accepted = self.accepted()
            if len(accepted) >= wanted if isinstance(wanted, int) else wanted(accepted):
                return accepted
            if time.monotonic() > deadline:
                break
            with self._changed:
                if len(self._accepted) == len(accepted):
                    self._changed.wait(min(0.2, max(0.0, deadline - time.monotonic())))
            # Not at every entry of a stream of them: a function may look at all.
            time.sleep(0.002)
        last = [(entry.method, entry.status, entry.study_iuids) for entry in self.entries()[-5:]]
        raise TimeoutError(
            f"{len(accepted)} accepted after {timeout:g} s, wanted {wanted}; the last requests: {last}"
        )

    def in_flight_together(self) -> list[tuple[Entry, Entry]]:
        """Pairs of requests about one study of which the second came before the first had ended."""
        pairs = []
        open_ones: dict[str, Entry] = {}
        for entry in self.entries():
            for study_iuid in entry.study_iuids:
                earlier = open_ones.get(study_iuid)
                if earlier is not None and (earlier.ended_at is None or earlier.ended_at > entry.time):
                    pairs.append((earlier, entry))
                open_ones[study_iuid] = entry
        return pairs

    # Below: in the receiver's thread only.

    def _in_loop(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_SECONDS_TO_WAIT)

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = await self._loop.create_server(
                lambda: _Connection(self),
                self.host,
                self.port,
                ssl=self._tls,
                backlog=1024,
                reuse_address=True,
            )

    async def _refuse(self) -> None:
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await stop_listening(listening)
        await self._reset_connections()

    async def _reset_connections(self) -> None:
        for connection in list(self._connections):
            connection.reset()
        while self._connections:
            await asyncio.sleep(0)

    def _take(self, entry: Entry) -> Answer:
        """Decides about a request and enters it in the ledger."""
        for connection in list(self._unanswered):
            connection.notice_hang_up()
        entry.time = time.time()
        with self._changed:
            answer = self._decide(entry)
            entry.accepted = entry.method in ("POST", "DELETE") and answer.accepts
            entry.status = None if answer.fault in ("hang", "reset") else answer.status
            self._entries.append(entry)
            if entry.accepted and entry.method == "POST":
                self._accepted.append(entry)
            self._changed.notify_all()
        return answer

    def _decide(self, entry: Entry) -> Answer:
        good_key = entry.headers.get("x-api-key") == self.key
        if entry.method == "GET":
            if self._gets:
                return self._always
            return Answer(200, []) if good_key else UNAUTHORIZED_WITH_200
        if entry.method not in ("POST", "DELETE"):
            return Answer(405, b"")
        answer = self._told(entry)
        return answer if good_key or answer.fault else self.bad_key

    def _told(self, entry: Entry) -> Answer:
        if self._next:
            return self._next.popleft()
        decided = self._answer_with(entry) if self._answer_with else None
        if decided is not None:
            return decided
        for study_iuid in entry.study_iuids if self._by_study else ():
            if study_iuid in self._by_study:
                return self._by_study[study_iuid]
        return self._always


class _Connection(asyncio.Protocol):
    """One keep-alive connection: a request at a time, each answer in one send."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        self._unanswered: Entry | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._receiver._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver._connections.discard(self)
        self._end(answered=False)

    def notice_hang_up(self) -> None:
        """The client may have closed this connection before it sent what was read first, on another one."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._end(answered=False)

    def _end(self, answered: bool) -> None:
        entry, self._unanswered = self._unanswered, None
        self._receiver._unanswered.discard(self)
        if entry is not None:
            entry.ended_at, entry.answered = time.time(), answered

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        raw: socket.socket | None = self._transport.get_extra_info("socket")
        # With TLS there is none any more once the other side has gone.
        with contextlib.suppress(OSError):
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def _serve(self) -> None:
        while self._unanswered is None and not self._transport.is_closing():
            entry = self._parse()
            if entry is None:
                return
            answer = self._receiver._take(entry)
            self._unanswered = entry
            self._receiver._unanswered.add(self)
            if answer.fault == "hang":
                pass
            elif answer.fault:
                self.reset()
            elif answer.delay_seconds > 0:
                self._receiver._loop.call_later(answer.delay_seconds, self._send_late, entry, answer)
            else:
                self._send(entry, answer)

    def _send_late(self, entry: Entry, answer: Answer) -> None:
        if self._unanswered is entry and not self._transport.is_closing():
            self._send(entry, answer)
            self._serve()

    def _send(self, entry: Entry, answer: Answer) -> None:
        # Before it is sent, so that whoever has the answer finds that in the ledger.
        self._end(answered=True)
        self._transport.write(answer.encoded())
        if entry.headers.get("connection", "").lower() == "close":
            self._transport.close()

    def _parse(self) -> Entry | None:
        """Takes one whole request out of the buffer; None if there isn't one yet."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        request, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if "transfer-encoding" in headers:
            self._buffer = b""
            self._transport.write(Answer(411, b"").encoded())
            self._transport.close()
            return None
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        method, path, _ = request.split(" ", 2)
        try:
            parsed = json.loads(rest[:length]) if length else None
        except ValueError:
            parsed = None
        return Entry(0.0, method, path, headers, parsed)
