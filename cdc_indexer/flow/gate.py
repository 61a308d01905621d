"""Whether the central index takes what we send: open, away or held; when to try next; which study fails alone.

Not thread-safe: the dispatcher calls it under its lock. Times are its clock's seconds.
"""

from __future__ import annotations

import math
import random
from enum import Enum

from cdc_indexer.delivery.retry import Backoff
from cdc_indexer.model.outcome import Outcome


class Gate(str, Enum):
    """Whether the central index takes what we send."""

    OPEN = "open"
    AWAY = "away"
    HELD = "held"


#: A change to be told: the gate and the reason in one sentence.
Change = tuple[Gate, str]


class Gatekeeper:
    """The state of the way to the central index.

    ``give_up_seconds``: a study on which the index keeps failing for so long, while it takes others, is given up. Only
    time with an open gate counts: while the index is away, nothing is any study's fault.
    """

    def __init__(self, give_up_seconds: float, concurrency: int, rng: random.Random) -> None:
        self.give_up_seconds = give_up_seconds
        self.concurrency = concurrency
        self.gate = Gate.OPEN
        self.probe_at = 0.0
        self._rng = rng
        self._backoff = Backoff()
        self._failing_keys: set[str] = set()
        self._open_seconds = 0.0
        self._opened_at: float | None = None
        self._answered_at = -math.inf

    def try_now(self) -> None:
        """Something was corrected: the next probe needn't wait."""
        self.probe_at = 0.0
        self._backoff = Backoff()

    def open_seconds(self, now: float) -> float:
        """How long the gate has been open, all told."""
        if self._opened_at is None and self.gate is Gate.OPEN:
            self._opened_at = now
        return self._open_seconds + (now - self._opened_at if self._opened_at is not None else 0.0)

    def close(self, gate: Gate, outcome: Outcome, now: float, *, probe: bool) -> Change | None:
        """The index is away or refuses us."""
        was = self.gate
        if was is Gate.OPEN or probe:
            # One step for each probe, not one for each delivery that was in flight when it began.
            pause = self._backoff.delay(self._rng)
            self._backoff = self._backoff.next()
            self.probe_at = now + max(pause, outcome.retry_after_seconds or 0.0)
        if was is Gate.OPEN:
            self._open_seconds = self.open_seconds(now)
            self._opened_at = None
        if was is Gate.OPEN or (probe and was is not gate):
            self.gate = gate
            return gate, outcome.reason
        return None

    def answered(self, now: float) -> Change | None:
        """The index has taken or rejected a study: it is there."""
        change: Change | None = None
        if self.gate is not Gate.OPEN:
            self.gate = Gate.OPEN
            self._backoff = Backoff()
            change = Gate.OPEN, ""
        self._answered_at = self.open_seconds(now)
        self._failing_keys.clear()
        return change

    def failed(
        self, key: str, since: float, outcome: Outcome, now: float, *, probe: bool
    ) -> tuple[bool, Change | None]:
        """The index failed on one study, the first time at ``since`` (open seconds).

        Whether it is given up, and a change of the gate: an index that fails on everything it gets is away.
        """
        if (
            self.gate is Gate.OPEN
            and self.open_seconds(now) - since >= self.give_up_seconds
            and self._answered_at > since
        ):
            self._failing_keys.discard(key)
            return True, None
        self._failing_keys.add(key)
        if probe or len(self._failing_keys) >= max(2, self.concurrency):
            return False, self.close(Gate.AWAY, outcome, now, probe=probe)
        return False, None
