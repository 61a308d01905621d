"""Sends what is submitted: in order per study, parallel across studies, at most ``concurrency`` at a time.

A delivery holds its slot until ``finished`` returns, that is until its result is durable; so no more than ``concurrency``
POSTs can be repeated after a crash. While the central index is away or refuses us (the gate is closed), one delivery at
a time is tried, each time another one, with a growing pause between.
"""

from __future__ import annotations

import heapq
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from cdc_indexer import failpoints
from cdc_indexer.delivery.retry import Backoff
from cdc_indexer.delivery.webservice import Kind, Outcome
from cdc_indexer.errors import Stopped

#: How many deliveries may be queued for each of the two queues; who brings more waits until half of them are gone, so
#: that the two sides don't take turns for every single one.
QUEUE_LIMIT = 256

#: What one delivery costs the interpreter; more senders than a slot's time divided by this would only take the
#: interpreter from each other. The least time of the last few tells what they wait for besides it.
_SLOT_COST_SECONDS = 0.0003
_SLOT_TIMES_KEPT = 32


@dataclass(slots=True, eq=False)
class Delivery:
    """One document on its way, or with ``body`` None the deletion of one.

    ``key`` orders: two deliveries of one key are never in flight together. ``rows`` are the outbox rows (id, recorded_at)
    that settle with it. ``behind``: it goes after all that aren't (`initial` beside live studies).
    """

    key: str
    study_pk: int
    study_iuid: str
    idempotency_key: str
    body: bytes | None
    rows: tuple[tuple[int, datetime], ...]
    first_version: bool
    finished: Callable[[Delivery, Outcome], None]
    behind: bool = False
    attempts: int = 0
    failing_since: float | None = field(default=None, repr=False)


class Client(Protocol):
    """What sends one delivery; each sender thread has its own."""

    def post(self, body: bytes, idempotency_key: str) -> Outcome:
        """One POST, one classified outcome; never raises."""

    def delete(self, study_iuid: str, idempotency_key: str) -> Outcome:
        """One DELETE, one classified outcome; never raises."""

    def close(self) -> None:
        """Lets go of its connections."""


class Gate(str, Enum):
    """Whether the central index takes what we send."""

    OPEN = "open"
    AWAY = "away"
    HELD = "held"


class Dispatcher:
    """The queue and its sender threads.

    ``on_gate`` is told whenever the gate changes, with the reason in one sentence. ``before_probe`` is called
    before each try while held (so that corrected files are read), from a sender thread. It may call ``reconfigure``.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        *,
        concurrency: int,
        give_up_seconds: float,
        on_gate: Callable[[Gate, str], None] = lambda gate, reason: None,
        before_probe: Callable[[], None] = lambda: None,
        queue_limit: int = QUEUE_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._make_client = make_client
        self._client_version = 0
        self._concurrency = concurrency
        self._give_up_seconds = give_up_seconds
        self._on_gate = on_gate
        self._before_probe = before_probe
        self._queue_limit = queue_limit
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._ready: deque[Delivery] = deque()
        self._behind: deque[Delivery] = deque()
        self._queued = {False: 0, True: 0}
        self._full = {False: False, True: False}
        # Keys under way, each with the deliveries that wait for it.
        self._keys: dict[str, deque[Delivery]] = {}
        self._delayed: list[tuple[float, int, Delivery]] = []
        self._sequence = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []

        self._gate = Gate.OPEN
        self._backoff = Backoff()
        self._probe_at = 0.0
        self._probing = False
        self._failing_keys: set[str] = set()
        self._last_answer_at = -math.inf

        self._active = 0
        self._wanted = 1
        self._slot_times: deque[float] = deque(maxlen=_SLOT_TIMES_KEPT)

    # --- from outside ------------------------------------------------------------------------------------

    @property
    def gate(self) -> Gate:
        """Whether the central index takes what we send."""
        return self._gate

    @property
    def pending(self) -> int:
        """How many deliveries are queued, delayed or in flight."""
        return self._queued[False] + self._queued[True]

    def start(self) -> None:
        """Starts the sender threads."""
        for number in range(self._concurrency):
            thread = threading.Thread(target=self._send_all, name=f"sender-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, delivery: Delivery) -> None:
        """Queues a delivery; blocks while its queue is full; Stopped once the program ends."""
        behind = delivery.behind
        with self._lock:
            if self._queued[behind] >= self._queue_limit:
                self._full[behind] = True
            while self._full[behind] and not self._stopping:
                self._room.wait()
            if self._stopping:
                raise Stopped
            self._queued[behind] += 1
            followers = self._keys.get(delivery.key)
            if followers is not None:
                followers.append(delivery)
                return
            self._keys[delivery.key] = deque()
            (self._behind if behind else self._ready).append(delivery)
            if self._active < self._wanted or self._gate is not Gate.OPEN:
                self._work.notify()

    def reconfigure(
        self,
        make_client: Callable[[], Client],
        *,
        concurrency: int | None = None,
        give_up_seconds: float | None = None,
    ) -> None:
        """Uses other settings from the next delivery on, and tries at once if the gate is closed."""
        with self._lock:
            self._make_client = make_client
            self._client_version += 1
            if give_up_seconds is not None:
                self._give_up_seconds = give_up_seconds
            self._probe_at = 0.0
            self._backoff = Backoff()
            more = (concurrency or 0) - len(self._threads) if self._threads else 0
            self._work.notify_all()
        if concurrency is not None and concurrency != self._concurrency:
            self._concurrency = concurrency
            for number in range(more):
                thread = threading.Thread(target=self._send_all, name=f"sender+{number}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Lets the deliveries in flight finish and ends the threads; what is queued stays unsettled."""
        with self._lock:
            self._stopping = True
            self._work.notify_all()
            self._room.notify_all()
        for thread in self._threads:
            thread.join()

    # --- a sender thread ---------------------------------------------------------------------------------

    def _send_all(self) -> None:
        client: Client | None = None
        version = -1
        try:
            while True:
                taken = self._take()
                if taken is None:
                    return
                delivery, probe = taken
                if probe and self._gate is Gate.HELD:
                    self._before_probe()
                if client is None or version != self._client_version:
                    if client is not None:
                        client.close()
                    version = self._client_version
                    client = self._make_client()
                started = self._clock()
                failpoints.hit("before_post")
                if delivery.body is None:
                    outcome = client.delete(delivery.study_iuid, delivery.idempotency_key)
                else:
                    outcome = client.post(delivery.body, delivery.idempotency_key)
                failpoints.hit("after_post")
                final = self._judge(delivery, outcome, probe)
                if final is not None:
                    try:
                        delivery.finished(delivery, final)
                    except Stopped:
                        return
                    self._note_slot_time(self._clock() - started)
                    self._release(delivery)
        finally:
            if client is not None:
                client.close()

    def _take(self) -> tuple[Delivery, bool] | None:
        """The next delivery and whether it is a probe; None when the program ends."""
        with self._lock:
            while True:
                if self._stopping:
                    return None
                now = self._clock()
                timeout = self._wake_delayed(now)
                if self._active < self._limit():
                    if self._gate is Gate.OPEN:
                        if self._ready or self._behind:
                            delivery = self._ready.popleft() if self._ready else self._behind.popleft()
                            self._active += 1
                            if (self._ready or self._behind) and self._active < self._wanted:
                                self._work.notify()
                            return delivery, False
                    elif not self._probing and (self._ready or self._behind or self._delayed):
                        if now >= self._probe_at:
                            self._probing = True
                            self._active += 1
                            return self._next_probe(), True
                        timeout = min(timeout, self._probe_at - now)
                self._work.wait(None if timeout == math.inf else timeout)

    def _limit(self) -> int:
        return min(self._concurrency, self._wanted) if self._gate is Gate.OPEN else self._concurrency

    def _next_probe(self) -> Delivery:
        for queue in (self._ready, self._behind):
            if queue:
                return queue.popleft()
        return heapq.heappop(self._delayed)[2]

    def _wake_delayed(self, now: float) -> float:
        """Queues the delayed deliveries whose time has come; seconds until the next one."""
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        return self._delayed[0][0] - now if self._delayed else math.inf

    # --- what an outcome means ---------------------------------------------------------------------------

    def _judge(self, delivery: Delivery, outcome: Outcome, probe: bool) -> Outcome | None:
        """The outcome if it is final, else None: the delivery is queued again."""
        now = self._clock()
        told: tuple[Gate, str] | None = None
        final: Outcome | None = outcome
        with self._lock:
            if probe:
                self._probing = False
            if outcome.kind in (Kind.HELD, Kind.RETRY_INDEX):
                told = self._close_gate(
                    Gate.HELD if outcome.kind is Kind.HELD else Gate.AWAY, outcome, now, probe
                )
                final = None
            elif outcome.kind is Kind.RETRY_STUDY:
                final = self._failed_alone(delivery, outcome, now)
                if final is None and (probe or len(self._failing_keys) >= max(2, self._concurrency)):
                    told = self._close_gate(Gate.AWAY, outcome, now, probe)
            if final is None:
                delivery.attempts += 1
                self._active -= 1
                if outcome.kind is not Kind.RETRY_STUDY:
                    self._ready.append(delivery)
                self._work.notify()
            elif outcome.kind is not Kind.RETRY_STUDY:
                self._last_answer_at = now
                self._failing_keys.clear()
                if self._gate is not Gate.OPEN:
                    self._gate = Gate.OPEN
                    told = (Gate.OPEN, "")
                    self._backoff = Backoff()
                    self._work.notify_all()
        if told is not None:
            self._on_gate(*told)
        return final

    def _close_gate(self, gate: Gate, outcome: Outcome, now: float, probe: bool) -> tuple[Gate, str] | None:
        was = self._gate
        if was is Gate.OPEN or probe:
            # One step for each probe, not one for each delivery that was in flight when it began.
            pause = self._backoff.delay(self._rng)
            self._backoff = self._backoff.next()
            self._probe_at = now + max(pause, outcome.retry_after_seconds or 0.0)
        if was is Gate.OPEN or (probe and was is not gate):
            self._gate = gate
            return gate, outcome.reason
        return None

    def _failed_alone(self, delivery: Delivery, outcome: Outcome, now: float) -> Outcome | None:
        """Delays a delivery that the index failed on; rejected once it alone has failed for too long."""
        if delivery.failing_since is None:
            delivery.failing_since = now
        if (
            now - delivery.failing_since >= self._give_up_seconds
            and self._gate is Gate.OPEN
            and self._last_answer_at > delivery.failing_since
        ):
            self._failing_keys.discard(delivery.key)
            return replace(outcome, kind=Kind.REJECTED)
        self._failing_keys.add(delivery.key)
        pause = max(Backoff(attempt=delivery.attempts).delay(self._rng), outcome.retry_after_seconds or 0.0)
        self._sequence += 1
        heapq.heappush(self._delayed, (now + pause, self._sequence, delivery))
        return None

    def _release(self, delivery: Delivery) -> None:
        """Frees the slot and lets the next delivery of that study go."""
        with self._lock:
            self._active -= 1
            behind = delivery.behind
            self._queued[behind] -= 1
            if self._full[behind] and self._queued[behind] <= self._queue_limit // 2:
                self._full[behind] = False
                self._room.notify_all()
            followers = self._keys[delivery.key]
            if followers:
                follower = followers.popleft()
                (self._behind if follower.behind else self._ready).append(follower)
            else:
                del self._keys[delivery.key]

    def _note_slot_time(self, seconds: float) -> None:
        """How many senders the way to the index and to the disk needs: more when they are slow, few when the
        interpreter is what limits us."""
        with self._lock:
            self._slot_times.append(seconds)
            wanted = min(self._concurrency, max(2, math.ceil(min(self._slot_times) / _SLOT_COST_SECONDS)))
            if wanted > self._wanted:
                self._work.notify(wanted - self._wanted)
            self._wanted = wanted
