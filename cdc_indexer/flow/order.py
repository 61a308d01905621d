"""What is sent next: live studies before backfilled ones, at most ``concurrency`` requests at a time (passive).

A request holds its slot until its results are durable; so no more than ``concurrency`` of them can be repeated after a kill.
That two versions of a study are never in flight together needs no rule here: a study's lease has one owner.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from cdc_indexer.flow.case import Case, Hints, Row
from cdc_indexer.flow.gate import Gatekeeper
from cdc_indexer.flow.verdict import Change, Do, Gate, Verdict
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.outcome import Kind, Outcome

__all__ = ["QUEUE_LIMIT", "Delivery", "Order", "Send"]

#: So long after a live study backfilled ones leave a slot free for the next: all slots wait for the same write, and it would
#: wait for that before its own.
_LIVE_SECONDS = 60.0

#: How many deliveries may be queued for each of the two queues; who brings more waits until half of them are gone, so
#: that the two sides don't take turns for every single one.
QUEUE_LIMIT = 256


@dataclass(slots=True, eq=False)
class Delivery:
    """One document on its way, or with ``body`` None the deletion of one. It holds the lease of its study.

    Attributes:
        hints: what settles with it.
        version: drawn before the reading that gave the values began, in microseconds since 1970.
        entry: what the ledger has once this is accepted.
        before: what it has now.
        first_version: the index holds no version of the study that we know of.
        epoch: of the source in which the values were read.
        recorded: the values are those that a trigger recorded; the view is still to be read.
        behind: it goes after all that aren't.
    """

    case: Case
    hints: Hints
    idempotency_key: str
    body: bytes | None
    version: int
    entry: Entry
    before: Entry | None
    digest: bytes
    first_version: bool
    epoch: int = 0
    recorded: bool = False
    behind: bool = False
    #: What the index is told of ``version``; None: it keeps none.
    study_version: int | None = None
    #: Set while it is in no queue.
    taken: bool = False

    @property
    def key(self) -> str:
        """What orders: see ``study_key``."""
        return self.case.key

    @property
    def study_pk(self) -> int:
        """The primary key in the archive."""
        return self.entry.study_pk

    @property
    def study_iuid(self) -> str:
        """The UID."""
        return self.case.study_iuid

    @property
    def rows(self) -> Sequence[Row]:
        """The outbox rows (id, recorded_at) that settle with it."""
        return self.hints.rows


@dataclass(slots=True, eq=False)
class Send:
    """One request: it holds a slot, from ``take`` until ``release``.

    ``probe``: it is tried while the gate is closed. ``final``: what of it is done with, once it is judged.
    """

    deliveries: list[Delivery]
    probe: bool = False
    final: list[tuple[Delivery, Outcome]] = field(default_factory=list)


class Order:
    """The queues. What holds always: a delivery is in one queue, delayed, in flight, or ended; never in two of these."""

    def __init__(self, keeper: Gatekeeper, concurrency: int, batch_size: int = 1) -> None:
        self.keeper = keeper
        self.concurrency = concurrency
        #: How many go in one request, and whether only when more wait than there are free slots.
        self.batch_size = batch_size
        self.only_when_crowded = False
        #: Somebody asked for a pause: nothing is taken.
        self.paused = False
        self._ready: deque[Delivery] = deque()
        self._behind: deque[Delivery] = deque()
        self._queued = {False: 0, True: 0}
        self._full = {False: False, True: False}
        self._delayed: list[tuple[float, int, Delivery]] = []
        self._sequence = 0
        self._probing = False
        self._active = 0
        self._live_at = -math.inf

    # --- what is asked -----------------------------------------------------------------------------------

    @property
    def gate(self) -> Gate:
        """Whether the central index takes what we send."""
        return self.keeper.gate

    @property
    def pending(self) -> int:
        """How many deliveries are queued, delayed or in flight."""
        return self._queued[False] + self._queued[True]

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return self._active

    def full(self, *, behind: bool) -> bool:
        """Whether who brings more has to wait."""
        limit = max(QUEUE_LIMIT, 2 * self.batch_size)
        if self._full[behind]:
            self._full[behind] = self._queued[behind] > limit // 2
        else:
            self._full[behind] = self._queued[behind] >= limit
        return self._full[behind]

    # --- the queues --------------------------------------------------------------------------------------

    def submit(self, delivery: Delivery) -> None:
        """Queues a delivery."""
        self._queued[delivery.behind] += 1
        self._queue(delivery)

    def _queue(self, delivery: Delivery) -> None:
        delivery.taken = False
        (self._behind if delivery.behind else self._ready).append(delivery)

    def promote(self, delivery: Delivery) -> None:
        """Something live waits for it: it goes with the live ones."""
        if delivery.behind:
            self._queued[True] -= 1
            self._queued[False] += 1
            if not delivery.taken:
                self._behind.remove(delivery)
            delivery.behind = False
            if not delivery.taken:
                self._queue(delivery)

    def withdraw(self, epoch: int) -> list[Delivery]:
        """Takes out what isn't in flight and was read before that epoch of the source, and gives it."""
        waiting = [*self._ready, *self._behind, *(one for _, _, one in self._delayed)]
        old = [delivery for delivery in waiting if delivery.epoch < epoch]
        if old:
            self._ready = deque(one for one in self._ready if one.epoch >= epoch)
            self._behind = deque(one for one in self._behind if one.epoch >= epoch)
            self._delayed = [entry for entry in self._delayed if entry[2].epoch >= epoch]
            heapq.heapify(self._delayed)
        for delivery in old:
            delivery.taken = True
            self.keeper.forget(delivery.key)
            self._queued[delivery.behind] -= 1
        return old

    def take(self, now: float) -> tuple[list[Send], float]:
        """What is to be sent now, one for each slot that is free, and the seconds until there may be more."""
        sends: list[Send] = []
        timeout = math.inf
        if self.paused:
            return sends, timeout
        if self.gate is Gate.OPEN:
            if self._delayed:
                timeout = self._wake_delayed(now)
            if self._ready:
                self._live_at = now
            for_behind = max(1, self.concurrency - (now - self._live_at < _LIVE_SECONDS))
            while self._active < (self.concurrency if self._ready else for_behind if self._behind else 0):
                sends.append(Send(self._next_batch()))
                self._active += 1
        elif not self._probing and self._active < self.concurrency:
            self._wake_delayed(now)
            waiting = [*self._ready, *self._behind, *(entry[2] for entry in self._delayed)]
            if waiting:
                chosen = waiting[self.keeper.choose([delivery.key for delivery in waiting])]
                timeout = max(self.keeper.try_at(chosen.key) - now, 0.0)
                if not timeout:
                    self._remove(chosen)
                    self._probing = True
                    self._active += 1
                    sends.append(Send([chosen], probe=True))
                    timeout = math.inf
        return sends, timeout

    def _next_batch(self) -> list[Delivery]:
        """What is ready now, at most a batch; a deletion, and what the index failed on before, go alone."""
        deliveries: list[Delivery] = []
        waiting = len(self._ready) + len(self._behind)
        crowded = waiting > self.concurrency - self._active
        size = self.batch_size if crowded or not self.only_when_crowded else 1
        for queue in (self._ready, self._behind):
            while queue and len(deliveries) < size:
                alone = queue[0].body is None or self.keeper.goes_alone(queue[0].key)
                if alone and deliveries:
                    return deliveries
                delivery = queue.popleft()
                delivery.taken = True
                deliveries.append(delivery)
                if alone:
                    return deliveries
        return deliveries

    def _remove(self, delivery: Delivery) -> None:
        """Takes one that waits out of its queue."""
        delivery.taken = True
        for queue in (self._ready, self._behind):
            if delivery in queue:
                queue.remove(delivery)
                return
        self._delayed = [entry for entry in self._delayed if entry[2] is not delivery]
        heapq.heapify(self._delayed)

    def _wake_delayed(self, now: float) -> float:
        """Queues the delayed deliveries whose time has come; seconds until the next one."""
        while self._delayed and self._delayed[0][0] <= now:
            self._queue(heapq.heappop(self._delayed)[2])
        return self._delayed[0][0] - now if self._delayed else math.inf

    # --- what an outcome means ---------------------------------------------------------------------------

    def asks(self, outcomes: Sequence[Outcome], now: float) -> bool:
        """Whether the index is to be asked by GET before these can be judged."""
        doubtful = (Kind.REJECTED, Kind.ABSENT)
        if outcomes[0].kind not in doubtful or any(outcome.kind not in doubtful for outcome in outcomes):
            return False
        return any(self.keeper.asks(outcome, now) for outcome in outcomes)

    def judge(
        self,
        send: Send,
        outcomes: Sequence[Outcome],
        *,
        began: float,
        now: float,
        asked: Outcome | None = None,
    ) -> list[Change]:
        """What of it is final is in ``send.final`` then; the rest is queued again. Changes of the gate, to be told.

        The slot is free when nothing is final; else after ``release``. ``asked``: what a GET gave, where ``asks`` said so.
        """
        if send.probe:
            self._probing = False
        deliveries: Sequence[Delivery] = send.deliveries
        together = False
        if len(outcomes) > 1:
            # One outcome for the whole request: nobody knows whose fault it is.
            together = all(outcome is outcomes[0] for outcome in outcomes)
            # What was accepted is evidence for the rest.
            pairs = sorted(
                zip(deliveries, outcomes, strict=True), key=lambda pair: pair[1].kind is not Kind.ACCEPTED
            )
            deliveries, outcomes = zip(*pairs, strict=True)
        changes: list[Change] = []
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            verdict = self.keeper.judge(
                delivery.key, outcome, began=began, now=now, together=together, asked=asked
            )
            if verdict.change is not None:
                changes.append(verdict.change)
            last = self._follow(delivery, outcome, verdict)
            if last is not None:
                send.final.append((delivery, last))
        if not send.final:
            self._active -= 1
        return changes

    def _follow(self, delivery: Delivery, outcome: Outcome, verdict: Verdict) -> Outcome | None:
        """Does what the verdict says; the outcome that is final, None for what is queued again."""
        do = verdict.do
        if do in (Do.SETTLE, Do.READ_AGAIN):
            return outcome._replace(kind=Kind.ACCEPTED) if outcome.kind is Kind.ABSENT else outcome
        if do is Do.PARK:
            return outcome._replace(kind=Kind.REJECTED)
        if do is Do.RETRY:
            self._sequence += 1
            heapq.heappush(self._delayed, (verdict.at, self._sequence, delivery))
        else:
            self._queue(delivery)
        return None

    def release(self, send: Send) -> None:
        """Its results are durable: the slot is free."""
        self._active -= 1
        for delivery, _ in send.final:
            self._queued[delivery.behind] -= 1
