"""Is it well: what is wrong now, since when, and how bad that is. One judgement for the page, `status` and /readyz."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cdc_indexer.flow.observer import Condition, Source
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.outcome import Refusal
from cdc_indexer.monitor.causes import Cause, Level, Problem, as_sentence, parked_problem, worst_first

if TYPE_CHECKING:
    from cdc_indexer.flow.observer import Sample
    from cdc_indexer.model.errors import StorageError

__all__ = ["Health", "held_cause"]

#: The loop of a service that waits for nobody has to move within this time; a long request may take a while.
STUCK_SECONDS = 300.0

#: The main thread does a turn every second.
_TICK_STUCK_SECONDS = 30.0


_SOURCES = {
    Source.AWAY: Cause.DATABASE_AWAY,
    Source.SCHEMA: Cause.SCHEMA,
    Source.POSITION: Cause.POSITION_LOST,
    Source.CLASH: Cause.SERVER_ID,
    Source.DEGRADED: Cause.DEGRADED,
}
_CONNECTED = frozenset({Source.UP, Source.DEGRADED})


_HELD = {
    Refusal.KEY: Cause.KEY_REFUSED,
    Refusal.ADDRESS: Cause.WRONG_ADDRESS,
    Refusal.REDIRECT: Cause.REDIRECT,
    Refusal.CERTIFICATE: Cause.CERTIFICATE,
    Refusal.STRANGER: Cause.NOT_THE_INDEX,
    Refusal.REJECTS_ALL: Cause.REJECTS_ALL,
}


#: What was wanted, or what nobody did wrong.
_NO_ERRORS = frozenset({Cause.PAUSED, Cause.QUIET})


def held_cause(refusal: Refusal | None) -> Cause:
    """Why the central index refuses everything."""
    return Cause.REFUSED if refusal is None else _HELD.get(refusal, Cause.REFUSED)


class Health:
    """Told what happens; knows what is wrong. Thread-safe.

    ``clock`` gives seconds since 1970, ``monotonic`` those of a clock that doesn't jump.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._problems: dict[str, Problem] = {}
        self._starting = Problem(Cause.STARTING, clock(), "It has just started and connects to the database.")
        self._sample: Sample | None = None
        self._told_at = monotonic()
        self._parked_since = clock()
        self.caught_up = False
        self.last_error: tuple[float, str] | None = None
        self.changes = 0

    # --- being told --------------------------------------------------------------------------------------

    def source(self, source: Source, reason: str) -> bool:
        """How it stands with the database; whether that is new."""
        before, self._source = self._source, source
        self._set("source", _SOURCES.get(source), reason)
        if before is None:
            self.changes += 1
        return source is not before

    def gate(self, gate: Gate, reason: str, refusal: Refusal | None = None) -> None:
        """How it stands with the central index."""
        cause = None
        if gate is Gate.AWAY:
            cause = Cause.INDEX_AWAY
        elif gate is Gate.HELD:
            cause = held_cause(refusal)
        self._set("index", cause, reason)

    def storage(self, error: StorageError | None) -> None:
        """Whether the state directory can be written."""
        self._set("storage", Cause.STORAGE if error else None, str(error or ""))

    def verification(self, reason: str | None) -> None:
        """Whether the view can be read."""
        self._set("verification", Cause.VERIFICATION if reason else None, reason or "")

    def condition(self, condition: Condition, reason: str | None) -> None:
        """Whether something else is the matter."""
        self._set(condition.value, Cause(condition.value) if reason else None, reason or "")

    def failed(self, reason: str) -> None:
        """Something failed that isn't the matter any more, or only of one study."""
        self.last_error = (self._clock(), reason)

    def sampled(self, sample: Sample) -> None:
        """How far it is; that it says so shows that the main thread is alive."""
        self._told_at = self._monotonic()
        before, self._sample = self._sample, sample
        if before is None or bool(before.parked) != bool(sample.parked):
            self._parked_since = self._clock()
            self.changes += 1

    def _set(self, about: str, cause: Cause | None, reason: str) -> None:
        with self._lock:
            before = self._problems.pop(about, None)
            if cause is not None:
                now = self._clock()
                since = before.since if before is not None and before.cause is cause else now
                self._problems[about] = Problem(cause, since, as_sentence(reason))
                if cause not in _NO_ERRORS:
                    self.last_error = (now, as_sentence(reason))
            if (before is None) != (cause is None) or (before is not None and before.cause is not cause):
                self.changes += 1

    # --- judging -----------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the loop moves, or waits for somebody who has to come back."""
        if self._monotonic() - self._told_at > _TICK_STUCK_SECONDS:
            return False
        sample = self._sample
        return sample is None or sample.idle_seconds < STUCK_SECONDS or sample.blocked

    @property
    def connected(self) -> bool:
        """Whether the database can be read."""
        return self._source in _CONNECTED

    @property
    def healthy(self) -> bool:
        """Whether a study that is stored now arrives now."""
        return all(problem.cause.level is not Level.FAILED for problem in self.problems())

    def problems(self) -> list[Problem]:
        """What is wrong, the worst first."""
        with self._lock:
            known = dict(self._problems)
        if "source" in known and known["source"].cause is Cause.DATABASE_AWAY:
            known.pop("verification", None)  # the same again
        problems = list(known.values())
        sample = self._sample
        if not self.alive:
            seconds = max(
                self._monotonic() - self._told_at, sample.idle_seconds if sample is not None else 0.0
            )
            message = f"Nothing has moved for {seconds:.0f} s: restart the service, and report this as a bug."
            problems.append(Problem(Cause.STUCK, self._clock() - seconds, message))
        if self._source is None:
            problems.append(self._starting)
        if sample is not None and sample.parked:
            problems.append(parked_problem(sample.parked, self._parked_since))
        return worst_first(problems)
