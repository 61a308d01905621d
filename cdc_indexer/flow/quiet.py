"""When a study is looked at: once it is quiet, or has waited for long enough (passive)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import count

from cdc_indexer.flow.case import Case

__all__ = ["Quiet"]


class Quiet:
    """The cases that wait, by the moment when they are due.

    What holds always: a case that waits stands in the queue, at or before its ``due_at``; one that is leased may stand there
    and is passed over.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Case]] = []
        self._sequence = count()
        #: Whether the next one is due earlier than when that was last asked for.
        self.sooner = False

    def schedule(self, case: Case, at: float) -> None:
        """That case is due then."""
        case.due_at = at
        if case.lease is None and (case.queued_at is None or at < case.queued_at):
            self._queue(case)

    def _queue(self, case: Case) -> None:
        case.queued_at = case.due_at
        entry = (case.due_at, next(self._sequence), case)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self.sooner = True

    def due(self, now: float, limit: int, *, early: bool) -> Iterator[Case]:
        """Up to ``limit`` cases whose time has come, with ``early`` also before it; each leaves the queue."""
        heap = self._heap
        found = 0
        while heap and found < limit:
            at, _, case = heap[0]
            if at > now and not early:
                break
            heapq.heappop(heap)
            if case.queued_at != at:
                continue  # it stands elsewhere
            if case.lease is not None or not case.waits:
                case.queued_at = None
            elif case.due_at > now and not early:
                self._queue(case)
            else:
                case.queued_at = None
                found += 1
                yield case

    def seconds(self, now: float) -> float:
        """Until the next one may be due; infinite when none waits."""
        self.sooner = False
        return max(self._heap[0][0] - now, 0.0) if self._heap else math.inf
