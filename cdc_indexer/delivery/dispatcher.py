"""Sends what is submitted: in order per study, parallel across studies, at most ``concurrency`` at a time.

A POST holds its slot until its result is durable; so no more than ``concurrency`` POSTs can be repeated after a crash.
What an outcome means for a study, and what is tried while the central index is away or refuses us, says flow/gate.py.
"""

from __future__ import annotations

import heapq
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from cdc_indexer.delivery._senders import Senders
from cdc_indexer.delivery._work import Client, Durable, Work
from cdc_indexer.delivery.batch import batch, refused_as_such
from cdc_indexer.delivery.features import Known
from cdc_indexer.delivery.webservice import Request
from cdc_indexer.flow.gate import Change, Do, Gate, Gatekeeper, Verdict
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
    ``behind``: it goes after all that aren't (`initial` beside live studies). ``version``: its Study-Version, if it has one.
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
    version: int | None = None


class Dispatcher:
    """The queue; _senders.py sends.

    ``durable`` makes results durable. ``on_gate`` is told whenever the gate changes, once what was parked before
    is stored.
    ``before_probe`` is called before each try while the index is away or refuses us (so that corrected files are read), from
    the thread that sends; it may call ``reconfigure``. ``on_answer`` is told the outcomes of each request and the seconds
    that it took. ``known``: what is known of the index.
    ``ask_first``: it is asked by GET what it can before the first POST.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        *,
        durable: Durable,
        concurrency: int,
        give_up_seconds: float,
        batch_size: int | Literal["auto"] = 1,
        known: Known | None = None,
        ask_first: bool = False,
        on_gate: Callable[[Change], None] = lambda change: None,
        before_probe: Callable[[], None] = lambda: None,
        on_answer: Callable[[Sequence[Outcome], float], None] = lambda outcomes, seconds: None,
        queue_limit: int = QUEUE_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._batch_size = batch_size
        self._known = known or Known()
        self._on_gate = on_gate
        self._before_probe = before_probe
        self._queue_limit = max(queue_limit, 2 * self._largest)
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
        self._senders = Senders(self, make_client, durable, on_answer, ask_first=ask_first)

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
        batch_size: int | Literal["auto"] | None = None,
        known: Known | None = None,
    ) -> None:
        """Uses other settings from the next delivery on, and tries at once if the gate is closed."""
        with self._lock:
            self._senders.use(make_client, ask_first=known is not None and known is not self._known)
            self._known = known or self._known
            if give_up_seconds is not None:
                self._keeper.give_up_seconds = give_up_seconds
            if batch_size is not None:
                self._batch_size = batch_size
                self._queue_limit = max(self._queue_limit, 2 * self._largest)
            if concurrency is not None:
                self._concurrency = self._keeper.concurrency = concurrency
            self._keeper.mended()
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
                    works.append(Work(self._next_batch(self._concurrency - self._active), False))
                    self._active += 1
            elif not self._probing and self._active < self._concurrency:
                now = self._clock()
                self._wake_delayed(now)
                waiting = [*self._ready, *self._behind, *(entry[2] for entry in self._delayed)]
                if waiting:
                    chosen = waiting[self._keeper.choose([delivery.key for delivery in waiting])]
                    timeout = max(self._keeper.try_at(chosen.key) - now, 0.0)
                    if not timeout:
                        self._remove(chosen)
                        self._probing = True
                        self._active += 1
                        works.append(Work([chosen], True))
                        timeout = math.inf
            self._hungry = self._active < self._concurrency
        return works, timeout

    def before_probe(self) -> None:
        """The next one is tried: with corrected files, perhaps. (Nobody answers at a wrong address either.)"""
        self._before_probe()

    def asks(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether the index is to be asked by GET before these can be judged."""
        doubtful = (Kind.REJECTED, Kind.ABSENT)
        if outcomes[0].kind not in doubtful or any(outcome.kind not in doubtful for outcome in outcomes):
            return False
        with self._lock:
            return any(self._keeper.asks(outcome, self._clock()) for outcome in outcomes)

    def judge(self, work: Work, outcomes: Sequence[Outcome], asked: Outcome | None = None) -> int | None:
        """What came of it; the generation that must be durable before ``release``, None when nothing is final.

        Stopped when the program ends before a rejected study could be stored.
        """
        final, changes = self._judge(work, outcomes, asked)
        work.final = [one for one, _ in final]
        generation = max([one.finished(one, outcome) for one, outcome in final]) if final else None
        for change in changes:
            self._on_gate(change)
        return generation

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

    def job(self, deliveries: Sequence[Delivery]) -> Generator[Request, Outcome, list[Outcome]] | None:
        """How these are sent if not as one object."""
        size = self._batch_size
        if len(deliveries) > 1:
            return batch(deliveries, halves=size != "auto")
        # With a number an array it is, of one as well; a deletion never is.
        if size in ("auto", 1) or deliveries[0].body is None:
            return None
        return batch(deliveries)

    # --- under the lock ----------------------------------------------------------------------------------

    @property
    def _largest(self) -> int:
        return self._known.largest_batch if self._batch_size == "auto" else self._batch_size

    def _next_batch(self, free: int) -> list[Delivery]:
        """What is ready now, at most a batch; a deletion, and what the index failed on before, go alone."""
        deliveries: list[Delivery] = []
        size = self._largest
        if self._batch_size == "auto" and len(self._ready) + len(self._behind) <= free:
            size = 1
        for queue in (self._ready, self._behind):
            while queue and len(deliveries) < size:
                alone = queue[0].body is None or self._keeper.goes_alone(queue[0].key)
                if alone and deliveries:
                    return deliveries
                deliveries.append(queue.popleft())
                if alone:
                    return deliveries
        return deliveries

    def _remove(self, delivery: Delivery) -> None:
        """Takes one that waits out of its queue."""
        for queue in (self._ready, self._behind):
            if delivery in queue:
                queue.remove(delivery)
                return
        self._delayed = [entry for entry in self._delayed if entry[2] is not delivery]
        heapq.heapify(self._delayed)

    def _wake_delayed(self, now: float) -> float:
        """Queues the delayed deliveries whose time has come; seconds until the next one."""
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        return self._delayed[0][0] - now if self._delayed else math.inf

    # --- what an outcome means ---------------------------------------------------------------------------

    def _judge(
        self, work: Work, outcomes: Sequence[Outcome], asked: Outcome | None
    ) -> tuple[list[tuple[Delivery, Outcome]], list[Change]]:
        """What is final, and how the gate has changed; the rest is queued again. Frees the slot when nothing is final."""
        now = self._clock()
        final: list[tuple[Delivery, Outcome]] = []
        changes: list[Change] = []
        deliveries: Sequence[Delivery] = work.deliveries
        together = False
        if len(outcomes) > 1:
            if self._batch_size == "auto":
                self._learn(outcomes)
            # One outcome for the whole request: nobody knows whose fault it is.
            together = all(outcome is outcomes[0] for outcome in outcomes)
            # What was accepted is evidence for the rest.
            pairs = sorted(
                zip(deliveries, outcomes, strict=True), key=lambda pair: pair[1].kind is not Kind.ACCEPTED
            )
            deliveries, outcomes = zip(*pairs, strict=True)
        with self._lock:
            if work.probe:
                self._probing = False
            for delivery, outcome in zip(deliveries, outcomes, strict=True):
                verdict = self._keeper.judge(
                    delivery.key, outcome, began=work.began, now=now, together=together, asked=asked
                )
                if verdict.change is not None:
                    changes.append(verdict.change)
                last = self._follow(delivery, outcome, verdict)
                if last is not None:
                    final.append((delivery, last))
            if not final:
                self._active -= 1
        return final, changes

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        """What the answer to an array says of arrays."""
        if refused_as_such(outcomes):
            self._known.array_refused()
        elif outcomes[0].kind is Kind.ACCEPTED:
            self._known.array_taken()

    def _follow(self, delivery: Delivery, outcome: Outcome, verdict: Verdict) -> Outcome | None:
        """Does what the verdict says; the outcome that is final, None for what is queued again. The caller has the lock."""
        do = verdict.do
        if do is Do.SETTLE:
            return replace(outcome, kind=Kind.ACCEPTED) if outcome.kind is Kind.ABSENT else outcome
        if do in (Do.PARK, Do.READ_AGAIN):
            # Nobody sends versions yet, so that nobody is told that his is old.
            return replace(outcome, kind=Kind.REJECTED)
        if do is Do.RETRY:
            self._sequence += 1
            heapq.heappush(self._delayed, (verdict.at, self._sequence, delivery))
        else:
            (self._behind if delivery.behind else self._ready).append(delivery)
        return None
