"""Sends what is submitted: in order per study, parallel across studies, at most ``concurrency`` at a time.

A POST holds its slot until its result is durable; so no more than ``concurrency`` POSTs can be repeated after a crash.
While the central index is away or refuses us (the gate is closed), one delivery at a time is tried, each time another
one, with a growing pause between.
"""

from __future__ import annotations

import heapq
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cdc_indexer.delivery._senders import Client, Durable, Senders, Work
from cdc_indexer.delivery.retry import Backoff
from cdc_indexer.flow.gate import Change, Gate, Gatekeeper
from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.outcome import Kind, Outcome

#: How many deliveries may be queued for each of the two queues; who brings more waits until half of them are gone, so
#: that the two sides don't take turns for every single one.
QUEUE_LIMIT = 256


@dataclass(slots=True, eq=False)
class Delivery:
    """One document on its way, or with ``body`` None the deletion of one.

    ``key`` orders: two deliveries of one key are never in flight together. ``rows`` are the outbox rows (id, recorded_at)
    that settle with it. ``finished`` is told the final outcome, and gives the generation of the checkpoint that holds it.
    ``failing_since`` is in seconds of an open gate (gate.py).
    ``behind``: it goes after all that aren't (`initial` beside live studies).
    """

    key: str
    study_pk: int
    study_iuid: str
    idempotency_key: str
    body: bytes | None
    rows: tuple[tuple[int, datetime], ...]
    first_version: bool
    finished: Callable[[Delivery, Outcome], int]
    behind: bool = False
    attempts: int = 0
    failing_since: float | None = field(default=None, repr=False)


class Dispatcher:
    """The queue; _senders.py sends.

    ``durable`` makes results durable. ``on_gate`` is told whenever the gate changes, with the reason in one sentence.
    ``before_probe`` is called before each try while the index is away or refuses us (so that corrected files are read), from
    the thread that sends; it may call ``reconfigure``. ``on_answer`` is told the outcomes of each request and the seconds
    that it took.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        *,
        durable: Durable,
        concurrency: int,
        give_up_seconds: float,
        batch_size: int = 1,
        on_gate: Callable[[Gate, str], None] = lambda gate, reason: None,
        before_probe: Callable[[], None] = lambda: None,
        on_answer: Callable[[Sequence[Outcome], float], None] = lambda outcomes, seconds: None,
        queue_limit: int = QUEUE_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._batch_size = batch_size
        self._on_gate = on_gate
        self._before_probe = before_probe
        self._queue_limit = max(queue_limit, 2 * batch_size)
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._ready: deque[Delivery] = deque()
        self._behind: deque[Delivery] = deque()
        self._queued = {False: 0, True: 0}
        self._full = {False: False, True: False}
        # Keys under way, each with the deliveries that wait for it.
        self._keys: dict[str, deque[Delivery] | None] = {}
        self._delayed: list[tuple[float, int, Delivery]] = []
        self._sequence = 0
        self._stopping = False

        self._keeper = Gatekeeper(give_up_seconds, concurrency, self._rng)
        self._probing = False

        self._active = 0
        #: Whether a slot waits for something to send.
        self._hungry = False
        self._senders = Senders(self, make_client, durable, on_answer, batches=batch_size > 1)

    # --- from outside ------------------------------------------------------------------------------------

    @property
    def gate(self) -> Gate:
        """Whether the central index takes what we send."""
        return self._keeper.gate

    @property
    def full(self) -> bool:
        """Whether who brings live studies waits for room."""
        return self._full[False]

    @property
    def pending(self) -> int:
        """How many deliveries are queued, delayed or in flight."""
        return self._queued[False] + self._queued[True]

    def start(self) -> None:
        """Starts the thread that sends."""
        self._senders.start()

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
            if delivery.key in self._keys:
                followers = self._keys[delivery.key]
                if followers is None:
                    followers = self._keys[delivery.key] = deque()
                followers.append(delivery)
                return
            self._keys[delivery.key] = None
            (self._behind if behind else self._ready).append(delivery)
            hungry, self._hungry = self._hungry, False
        if hungry:
            self._senders.wake()

    def reconfigure(
        self,
        make_client: Callable[[], Client],
        *,
        concurrency: int | None = None,
        give_up_seconds: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Uses other settings from the next delivery on, and tries at once if the gate is closed."""
        with self._lock:
            self._senders.use(make_client)
            if give_up_seconds is not None:
                self._keeper.give_up_seconds = give_up_seconds
            if batch_size is not None:
                self._batch_size = batch_size
                self._senders.batches = batch_size > 1
                self._queue_limit = max(self._queue_limit, 2 * batch_size)
            if concurrency is not None:
                self._concurrency = self._keeper.concurrency = concurrency
            self._keeper.try_now()
        self._senders.wake()

    def stop(self) -> None:
        """Lets the deliveries in flight finish and ends the thread; what is queued stays unsettled."""
        with self._lock:
            self._stopping = True
            self._room.notify_all()
        self._senders.stop()

    # --- what the senders ask (see Queue) ----------------------------------------------------------------

    def take(self) -> tuple[list[Work], float]:
        """What is to be sent now, one for each slot that is free, and the seconds until there may be more."""
        works: list[Work] = []
        with self._lock:
            timeout = math.inf
            if self._stopping:
                return works, timeout
            if self.gate is Gate.OPEN:
                if self._delayed:
                    timeout = self._wake_delayed(self._clock())
                while self._active < self._concurrency and (self._ready or self._behind):
                    works.append(Work(self._next_batch(), False))
                    self._active += 1
            elif not self._probing and self._active < self._concurrency:
                now = self._clock()
                self._wake_delayed(now)
                if self._ready or self._behind or self._delayed:
                    timeout = max(self._keeper.probe_at - now, 0.0)
                    if not timeout:
                        self._probing = True
                        self._active += 1
                        works.append(Work([self._next_probe()], True))
                        timeout = math.inf
            self._hungry = self._active < self._concurrency
        return works, timeout

    def before_probe(self) -> None:
        """The next one is tried: with corrected files, perhaps. (Nobody answers at a wrong address either.)"""
        self._before_probe()

    def judge(self, work: Work, outcomes: Sequence[Outcome]) -> int | None:
        """What came of it; the generation that must be durable before ``release``, None when nothing is final.

        Stopped when the program ends before a rejected study could be stored.
        """
        final = self._judge(work.deliveries, outcomes, work.probe)
        if not final:
            return None
        work.final = [one for one, _ in final]
        return max([one.finished(one, outcome) for one, outcome in final])

    def release(self, works: Iterable[Work]) -> None:
        """Frees their slots and lets the next deliveries of those studies go."""
        with self._lock:
            for work in works:
                self._active -= 1
                for delivery in work.final:
                    behind = delivery.behind
                    self._queued[behind] -= 1
                    followers = self._keys.pop(delivery.key)
                    if followers:
                        follower = followers.popleft()
                        self._keys[delivery.key] = followers
                        (self._behind if follower.behind else self._ready).append(follower)
            for behind in (False, True):
                if self._full[behind] and self._queued[behind] <= self._queue_limit // 2:
                    self._full[behind] = False
                    self._room.notify_all()

    # --- under the lock ----------------------------------------------------------------------------------

    def _next_batch(self) -> list[Delivery]:
        """What is ready now, at most a batch; a deletion, and what the index failed on before, go alone."""
        deliveries: list[Delivery] = []
        for queue in (self._ready, self._behind):
            while queue and len(deliveries) < self._batch_size:
                alone = queue[0].body is None or queue[0].failing_since is not None
                if alone and deliveries:
                    return deliveries
                deliveries.append(queue.popleft())
                if alone:
                    return deliveries
        return deliveries

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

    def _judge(
        self, deliveries: Sequence[Delivery], outcomes: Sequence[Outcome], probe: bool
    ) -> list[tuple[Delivery, Outcome]]:
        """What is final; the rest is queued again. Frees the slot when nothing is."""
        now = self._clock()
        told: list[Change | None] = []
        final: list[tuple[Delivery, Outcome]] = []
        with self._lock:
            if probe:
                self._probing = False
            together = len(deliveries) > 1
            for delivery, outcome in zip(deliveries, outcomes, strict=True):
                judged: Outcome | None = None
                if outcome.kind in (Kind.HELD, Kind.RETRY_INDEX):
                    gate = Gate.HELD if outcome.kind is Kind.HELD else Gate.AWAY
                    told.append(self._keeper.close(gate, outcome, now, probe=probe))
                elif outcome.kind is Kind.RETRY_STUDY:
                    judged = self._failed(delivery, outcome, now, probe, together, told)
                else:
                    judged = outcome
                    told.append(self._keeper.answered(now))
                if judged is not None:
                    final.append((delivery, judged))
                    continue
                delivery.attempts += 1
                if outcome.kind is not Kind.RETRY_STUDY or together:
                    self._ready.append(delivery)
            if not final:
                self._active -= 1
        for change in told:
            if change is not None:
                self._on_gate(*change)
        return final

    def _failed(
        self,
        delivery: Delivery,
        outcome: Outcome,
        now: float,
        probe: bool,
        together: bool,
        told: list[Change | None],
    ) -> Outcome | None:
        """Delays a delivery that the index failed on; rejected once it alone has failed for too long.

        Of a batch nobody knows which study is to blame: each goes alone next, without delay.
        """
        if delivery.failing_since is None:
            delivery.failing_since = self._keeper.open_seconds(now)
        if together:
            return None
        given_up, change = self._keeper.failed(
            delivery.key, delivery.failing_since, outcome, now, probe=probe
        )
        told.append(change)
        if given_up:
            return replace(outcome, kind=Kind.REJECTED)
        pause = max(Backoff(attempt=delivery.attempts).delay(self._rng), outcome.retry_after_seconds or 0.0)
        self._sequence += 1
        heapq.heappush(self._delayed, (now + pause, self._sequence, delivery))
        return None
