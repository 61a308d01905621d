"""The thread that sends: many requests in flight, each on a connection of its own, and their results made durable.

One thread for all of them: a thread for each would have to ask for the interpreter lock at every step, and on a near
index eight of them were slower than one. What can't be done without waiting, connecting, is done beside it.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from cdc_indexer.delivery._work import Client, Durable, Queue, Work
from cdc_indexer.delivery.webservice import Request
from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.outcome import Outcome

#: Of so many of the last requests the quickest tells how far away the index is.
_ANSWER_TIMES_KEPT = 32

#: How long results wait for those of the requests that are in flight with them, to share a write of the checkpoint.
_GATHER_MILLISECONDS = 1.0


class Senders:
    """The thread. ``wake`` when ``take`` would give something, from any thread."""

    def __init__(
        self,
        queue: Queue,
        make_client: Callable[[], Client],
        durable: Durable,
        on_answer: Callable[[Sequence[Outcome], float], None],
        *,
        ask_first: bool = False,
    ) -> None:
        self._ask_first = self._asks_first = ask_first
        #: What waits until the index has answered the question before the first POST.
        self._unbegun: list[Work] = []
        self._question: Work | None = None
        self._queue = queue
        self._durable = durable
        self._on_answer = on_answer
        self._make_client = make_client
        self._version = 0
        #: Those that rest, the last used last: a quiet index sees one connection.
        self._idle: list[tuple[int, Client]] = []
        self._versions: dict[Client, int] = {}
        self._in_flight: dict[int, Work] = {}
        #: How many requests wait for a connection to go on with a batch that was sent in part.
        self._continuing = 0
        self._finished = False
        self._connected: deque[tuple[Work, Outcome | None]] = deque()
        #: The newest generation that holds a result of ours, and the newest that wasn't asked for.
        self._newest = 0
        self._unasked = 0
        self._answer_times: deque[float] = deque(maxlen=_ANSWER_TIMES_KEPT)
        self._expires_at = math.inf
        self._stopping = False
        #: The clients are closed.
        self._ended_all = False
        self._poll = select.poll()
        self._waking, self._waker = socket.socketpair()
        self._waking.setblocking(False)
        self._wake_lock = threading.Lock()
        self._woken = False
        self._poll.register(self._waking, select.POLLIN)
        self._thread = threading.Thread(target=self._work, name="sender", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Lets what is in flight finish and become durable, and ends the thread."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        with self._wake_lock:
            self._woken = True
            self._waker.close()
            self._waking.close()

    def use(self, make_client: Callable[[], Client], *, ask_first: bool = False) -> None:
        """Other clients from the next request on; ``ask_first`` as for a new address."""
        if ask_first:
            self._ask_first = self._ask_first or self._asks_first
        self._make_client = make_client
        self._version += 1

    def wake(self) -> None:
        """There is something to do."""
        with self._wake_lock:
            if not self._woken:
                self._woken = True
                self._waker.send(b"\0")

    # --- the thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                works, seconds = self._queue.take()
                self._finished = False
                for work in works:
                    self._begin(work)
                if self._stopping and not self._in_flight and not self._continuing:
                    break
                self._wait(0.0 if self._finished else seconds)
            if self._newest:
                self._durable.wait(self._newest)
        except Stopped:
            pass
        finally:
            self._ended_all = True
            for client in self._versions:
                client.close()

    def _wait(self, seconds: float) -> None:
        """Waits until something happens, at most so long, and deals with it."""
        if self._unasked and not self._gathers():
            self._ask()
        now = time.monotonic()
        milliseconds: float | None = None
        if self._unasked:
            milliseconds = _GATHER_MILLISECONDS
        elif (least := min(seconds, self._expires_at - now)) != math.inf:
            milliseconds = max(least, 0.0) * 1000
        happened = self._poll.poll(milliseconds)
        if not happened and self._unasked:
            self._ask()
        in_flight = self._in_flight
        for descriptor, _ in happened:
            work = in_flight.get(descriptor)
            if work is not None:
                self._advance(work)
            else:
                with self._wake_lock:
                    self._waking.recv(64)
                    self._woken = False
        while self._connected:
            self._has_connected(*self._connected.popleft())
        if now >= self._expires_at:
            self._expire()

    # --- one request -------------------------------------------------------------------------------------

    def _ask_index(self) -> None:
        """Asks by GET, before the first POST; none is begun until that is answered."""
        if self._question is None:
            self._question = question = Work(None)
            question.asking, question.request = [], Request.question()
            question.client = self._client()
            self._go_on(question)

    def _begin(self, work: Work) -> None:
        if work.probe:
            self._queue.before_probe()
        self._start(work)

    def _start(self, work: Work) -> None:
        first = work.deliveries[0]
        if self._ask_first and first.body is not None:
            self._unbegun.append(work)
            self._ask_index()
            return
        work.began = time.monotonic()
        work.job = self._queue.job(work.deliveries)
        if work.job is not None:
            work.request = next(work.job)
        else:
            work.request = Request(
                first.body, first.idempotency_key, first.study_iuid, version=first.study_version
            )
        work.client = self._client()
        self._go_on(work)

    def _connect(self, work: Work) -> None:
        client = work.client
        assert client is not None

        def connect() -> None:
            self._connected.append((work, client.connect()))
            self.wake()
            if self._ended_all:
                # Nobody waits for a first connection, and nobody else closes it then.
                client.close()

        if work.started:
            self._continuing += 1
        threading.Thread(target=connect, name="connecting", daemon=True).start()

    def _has_connected(self, work: Work, failed: Outcome | None) -> None:
        if work.started:
            self._continuing -= 1
        if failed is not None:
            self._finish(work, failed)
        elif work.started or not self._stopping:  # else it stays with us, unsent
            self._send(work)

    def _send(self, work: Work) -> None:
        client, request = work.client, work.request
        assert client is not None
        assert request is not None
        if work.asking is None:
            failpoints.hit("before_post")
        work.started = time.monotonic()
        outcome = client.begin(request)
        if work.asking is None:
            failpoints.hit("within_post")
        if outcome is not None:
            self._ended(work, outcome)
            return
        descriptor = client.fileno()
        self._in_flight[descriptor] = work
        self._poll.register(descriptor, client.events)
        self._expires_at = min(self._expires_at, client.expires_at)

    def _advance(self, work: Work) -> None:
        client = work.client
        assert client is not None
        descriptor, events = client.fileno(), client.events
        outcome = client.advance()
        if outcome is None:
            if client.events != events:
                self._poll.modify(descriptor, client.events)
            return
        self._poll.unregister(descriptor)
        del self._in_flight[descriptor]
        self._ended(work, outcome)

    def _ended(self, work: Work, outcome: Outcome) -> None:
        assert work.client is not None
        if work.client.again:
            self._connect(work)
        else:
            self._finish(work, outcome)

    def _expire(self) -> None:
        """Gives up the requests whose time is over; what came in the last moment counts."""
        now = time.monotonic()
        for descriptor, work in list(self._in_flight.items()):
            client = work.client
            assert client is not None
            if now >= client.expires_at:
                outcome = client.advance() or client.expire()
                self._poll.unregister(descriptor)
                del self._in_flight[descriptor]
                self._ended(work, outcome)
        self._expires_at = min(
            (work.client.expires_at for work in self._in_flight.values() if work.client is not None),
            default=math.inf,
        )

    def _finish(self, work: Work, outcome: Outcome) -> None:
        """A request has its outcome: the next one of the same batch follows, or the slot waits for the disk."""
        if work.asking is None:
            failpoints.hit("after_post")
        self._finished = True
        seconds = time.monotonic() - work.started if work.started else 0.0
        if work is self._question:
            self._has_asked(work)
            return
        asked: Outcome | None = None
        if work.asking is not None:
            outcomes, asked = work.asking, outcome
        elif work.job is None:
            outcomes = [outcome]
        else:
            try:
                work.request = work.job.send(outcome)
            except StopIteration as ended:
                outcomes = ended.value
            else:
                self._go_on(work)
                return
        if asked is None:
            self._answer_times.append(seconds)
            self._on_answer(outcomes, seconds)
            if self._queue.asks(outcomes):
                work.asking, work.request = outcomes, Request.question()
                self._go_on(work)
                return
        client, work.client = work.client, None
        assert client is not None
        self._rest(client)
        try:
            generation = self._queue.judge(work, outcomes, asked)
        except Stopped:
            return  # it couldn't be stored: it stays with us
        if generation is not None:
            self._newest = max(self._newest, generation)
            self._unasked = max(self._unasked, generation)

    def _has_asked(self, question: Work) -> None:
        """The question before the first POST is answered, or can't be; who made it has learned from it what there was."""
        assert question.client is not None
        self._rest(question.client)
        self._question, self._ask_first = None, False
        works, self._unbegun = self._unbegun, []
        for work in works:
            if not self._stopping:  # else it stays with us, unsent
                self._start(work)

    def _go_on(self, work: Work) -> None:
        """The next request of the same work."""
        assert work.client is not None
        if work.client.ready:
            self._send(work)
        else:
            self._connect(work)

    # --- clients -----------------------------------------------------------------------------------------

    def _client(self) -> Client:
        version = self._version
        while self._idle:
            known, client = self._idle.pop()
            if known == version:
                return client
            del self._versions[client]
            client.close()
        client = self._make_client()
        self._versions[client] = version
        return client

    def _rest(self, client: Client) -> None:
        self._idle.append((self._versions[client], client))

    # --- results -----------------------------------------------------------------------------------------

    def _gathers(self) -> bool:
        """Whether the results of what is in flight are worth waiting for: a write takes longer than an answer."""
        return bool(self._in_flight) and min(self._answer_times) < self._durable.write_seconds

    def _ask(self) -> None:
        generation, self._unasked = self._unasked, 0
        self._durable.request(generation)
