"""Who is to blame when the central index doesn't take a study: that study, or the index (pure).

Evidence decides. What happened comes in with the time at which it happened; what is to be done with the study, and whether
the way to the index is open, comes out. No thread, no clock, no random of its own.

    what came of it             seen lately                              what is to be done
    accepted, there already     -                                        SETTLE, and the gate is open
    a newer version is there    -                                        READ_AGAIN, and the gate is open
    nothing there to be deleted a study accepted within 60 s, or a GET   SETTLE
                                is answered well
                                none                                     WAIT, held
    rejected (400 and the like) a study accepted within 60 s             PARK
                                none, but a GET is answered well         PARK, three in a row and no more
                                none                                     WAIT, held
    either of these two         that it works, for the first time since  WAIT: it is tried once more, before all others
                                the gate closed, and this is older
    failing, refusing           another was accepted between two of its  RETRY after a pause of its own, and PARK once
                                failures                                 that has gone on for ``give_up_seconds``
                                nothing was accepted since, or for 60 s  WAIT, away or held

What holds always:
* a study is parked only while the index is seen to work, by an acceptance or by a GET;
* what was parked in the minute before a hold is named in the change that says so (``Change.unpark_seconds``);
* an acceptance opens the gate, whatever closed it, and one from before that shows nothing any more;
* an answer to a request that began before the index was seen to work again may be that of what stood in its place;
* while the gate is closed one study at a time is tried: first those that never were, which don't wait for the pauses of
  those that were, then that which waits longest;
* only what waits is tried: a study that was settled, parked or is to be read again is forgotten here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdc_indexer.flow.retry import Backoff
from cdc_indexer.flow.verdict import Change, Do, Gate, Verdict
from cdc_indexer.model.outcome import Kind, Outcome, Refusal

if TYPE_CHECKING:
    import random

__all__ = ["ACCEPTED_LATELY_SECONDS", "Gatekeeper"]

#: A study that was accepted so long ago shows that the index works.
ACCEPTED_LATELY_SECONDS = 60.0

#: So many rejections in a row are believed because a GET is answered well.
_REJECTIONS_BY_GET = 3

#: An index that fails on all that it gets is away after so long, or as soon as a slot's worth of studies has failed.
_DOUBT_SECONDS = 2.0

_ANSWERED = frozenset({Kind.ACCEPTED, Kind.ALREADY_THERE, Kind.STALE})

_REJECTS_ALL = (
    "The central index rejects what it gets (status {status}), and no other study was accepted lately: "
    "ask whoever runs it, or what stands before it; what was parked in this minute goes out by itself once it works."
)


#: Nearly every verdict.
_SETTLE = Verdict(Do.SETTLE)


class _Trouble:
    """A study that waits because something went wrong with it. Times are those of the caller's clock."""

    __slots__ = ("again", "attempts", "failed_at", "first_at", "own_since", "tried")

    def __init__(self) -> None:
        #: When it failed first and last, in a request of its own.
        self.first_at = math.inf
        self.failed_at = -math.inf
        #: Since when the failures are known to be its own.
        self.own_since: float | None = None
        self.attempts = 0
        self.tried = 0
        #: Its last answer was older than the first sign that the index works: the next one counts.
        self.again = False


class Gatekeeper:
    """The state of the way to the central index. Keys name studies; not thread-safe.

    ``now`` and ``began`` are seconds of one clock that doesn't jump. ``give_up_seconds``: a study on which the index keeps
    failing for so long, while it takes others, is parked; the time of an outage doesn't count.
    """

    def __init__(self, give_up_seconds: float, concurrency: int, rng: random.Random) -> None:
        self.give_up_seconds = give_up_seconds
        self.concurrency = concurrency
        self.gate = Gate.OPEN
        self.reason = ""
        self._refusal: Refusal | None = None
        self._rng = rng
        self._troubles: dict[str, _Trouble] = {}
        self._tries = 0
        #: When the last study was accepted, and when the newest request that was had begun.
        self._accepted_at = -math.inf
        self._accepted_began = -math.inf
        self._started_at: float | None = None
        self._credit = _REJECTIONS_BY_GET
        #: Studies that failed since one was accepted, none of them known to be odd; and since when.
        self._doubtful: set[str] = set()
        self._doubtful_since = 0.0
        self._closed_at = 0.0
        #: When the index was first seen to work since the gate was closed; infinite: it wasn't yet.
        self._well_at = -math.inf
        #: Since when the gate is closed by studies that aren't known to be odd: an outage.
        self._outage_at: float | None = None
        self._probe_at = self._fresh_at = 0.0
        self._backoff = self._fresh_backoff = Backoff()

    # --- what comes of a request -------------------------------------------------------------------------

    def judge(
        self,
        key: str,
        outcome: Outcome,
        *,
        began: float,
        now: float,
        together: bool = False,
        asked: Outcome | None = None,
    ) -> Verdict:
        """What is to be done with a study after a request that began, connecting included, at ``began``.

        ``together``: the outcome is that of a whole request for many studies, so that nobody knows whose fault it is. Of the
        outcomes of one request those that say "accepted" are given first. ``asked``: what a GET gave, after ASK.
        """
        if self._started_at is None:
            self._started_at = min(began, now)
        if outcome.kind in _ANSWERED:
            return self._answered(key, outcome, began, now)
        if outcome.kind is Kind.REJECTED:
            return self._rejected(key, outcome, began, now, asked)
        if outcome.kind is Kind.ABSENT:
            return self._absent(key, outcome, began, now, asked)
        return self._failed(key, outcome, began, now, together)

    def asks(self, outcome: Outcome, now: float) -> bool:
        """Whether the verdict on it would be ASK."""
        if outcome.kind is Kind.REJECTED:
            return self._credit > 0 and not self._works(now)
        return outcome.kind is Kind.ABSENT and not self._works(now)

    def forget(self, key: str) -> None:
        """That study doesn't wait any more, whatever became of it."""
        self._troubles.pop(key, None)
        self._doubtful.discard(key)

    def goes_alone(self, key: str) -> bool:
        """Whether a study is to be sent in a request of its own, for the last one with it failed."""
        return key in self._troubles

    def _answered(self, key: str, outcome: Outcome, began: float, now: float) -> Verdict:
        self._troubles.pop(key, None)
        self._accepted_at = now
        self._accepted_began = max(self._accepted_began, began)
        self._well_at = min(self._well_at, now)
        self._credit = _REJECTIONS_BY_GET
        self._doubtful.clear()
        if self.gate is Gate.OPEN and outcome.kind is not Kind.STALE:
            return _SETTLE
        return Verdict(Do.READ_AGAIN if outcome.kind is Kind.STALE else Do.SETTLE, change=self._open(now))

    def _rejected(
        self, key: str, outcome: Outcome, began: float, now: float, asked: Outcome | None
    ) -> Verdict:
        works = self._works(now)
        if not works:
            if self.asks(outcome, now) and asked is None:
                return Verdict(Do.ASK)
            if not self._credit or asked is None or asked.kind is not Kind.ACCEPTED:
                trouble = self._trouble(key)
                self._tried(trouble)
                held = Outcome(
                    Kind.HELD,
                    outcome.status,
                    reason=_REJECTS_ALL.format(status=outcome.status),
                    refusal=Refusal.REJECTS_ALL,
                )
                fresh = trouble.attempts == 0
                trouble.attempts += 1
                return Verdict(Do.WAIT, change=self._close(held, began, now, fresh=fresh, outage=True))
        if self._is_old(key, began, now):
            return Verdict(Do.WAIT)
        if not works:
            self._credit -= 1
        self.forget(key)
        return Verdict(Do.PARK, change=self._open(now))

    def _absent(self, key: str, outcome: Outcome, began: float, now: float, asked: Outcome | None) -> Verdict:
        """404 for a deletion: from the index it is as good as done, from anybody else at a wrong address it isn't."""
        if self._works(now) or (asked is not None and asked.kind is Kind.ACCEPTED):
            if self._is_old(key, began, now):
                return Verdict(Do.WAIT)
            self.forget(key)
            return Verdict(Do.SETTLE, change=self._open(now))
        if asked is None:
            return Verdict(Do.ASK)
        return self._failed(key, outcome._replace(kind=Kind.HELD), began, now, False)

    def _is_old(self, key: str, began: float, now: float) -> bool:
        """The index is seen to work. Whether that request began before it was: then the study is tried once more.

        No more than that, unless the gate is closed anew: the next request begins later.
        """
        self._well_at = min(self._well_at, now)
        # What was accepted in the same request is as old as this.
        if began >= self._well_at or began == self._accepted_began:
            return False
        trouble = self._trouble(key)
        self._tried(trouble)
        trouble.attempts += 1
        trouble.again = True
        return True

    def _failed(self, key: str, outcome: Outcome, began: float, now: float, together: bool) -> Verdict:
        trouble = self._trouble(key)
        fresh = trouble.attempts == 0
        self._tried(trouble)
        if together:
            change = None
            if outcome.kind is not Kind.RETRY_STUDY:
                change = self._close(outcome, began, now, fresh=fresh, outage=True)
            return Verdict(Do.WAIT, change=change)
        # "Busy" is said of the index, never of a study.
        if not (outcome.kind is Kind.RETRY_INDEX and outcome.status is not None):
            if trouble.own_since is None and self._accepted_began > trouble.first_at:
                trouble.own_since = now
            if trouble.own_since is not None:
                return self._failed_alone(key, trouble, outcome, began, now)
            trouble.first_at = min(trouble.first_at, now)
        trouble.attempts += 1
        trouble.failed_at = now
        if not self._doubtful:
            self._doubtful_since = now
        self._doubtful.add(key)
        if self.gate is not Gate.OPEN or outcome.kind is not Kind.RETRY_STUDY or self._all_fail(trouble, now):
            return Verdict(Do.WAIT, change=self._close(outcome, began, now, fresh=fresh, outage=True))
        return Verdict(Do.RETRY, at=self._pause(trouble, outcome, now))

    def _failed_alone(
        self, key: str, trouble: _Trouble, outcome: Outcome, began: float, now: float
    ) -> Verdict:
        """The index fails on this study, and others were accepted in between."""
        assert trouble.own_since is not None
        lately = self._accepted_lately(now)
        seen = lately or self._accepted_began > trouble.failed_at
        trouble.attempts += 1
        trouble.failed_at = now
        # With a 409 the index has the study, only out of order: that isn't parked.
        given_up = outcome.status != 409 and now - trouble.own_since >= self.give_up_seconds
        if seen and self._outage_at is None and given_up:
            self.forget(key)
            return Verdict(Do.PARK)
        if lately and self.gate is Gate.OPEN:
            return Verdict(Do.RETRY, at=self._pause(trouble, outcome, now))
        # Nothing else was tried for a while, or nothing with success: then it isn't known either whether the index works.
        return Verdict(Do.WAIT, change=self._close(outcome, began, now, fresh=False, outage=False))

    def _all_fail(self, trouble: _Trouble, now: float) -> bool:
        """Whether an index that fails on studies fails on everything that it gets."""
        if len(self._doubtful) >= max(2, self.concurrency):
            return True
        return trouble.attempts > 1 and now - self._doubtful_since >= _DOUBT_SECONDS

    def _works(self, now: float) -> bool:
        """Whether a study was accepted lately, and since the gate was closed."""
        return self._accepted_lately(now) and self._accepted_at >= self._well_at

    def _accepted_lately(self, now: float) -> bool:
        return now - self._accepted_at <= ACCEPTED_LATELY_SECONDS

    def _trouble(self, key: str) -> _Trouble:
        return self._troubles.setdefault(key, _Trouble())

    def _tried(self, trouble: _Trouble) -> None:
        self._tries += 1
        trouble.tried = self._tries
        trouble.again = False

    def _pause(self, trouble: _Trouble, outcome: Outcome, now: float) -> float:
        pause = Backoff(attempt=trouble.attempts - 1).delay(self._rng)
        return now + max(pause, outcome.retry_after_seconds or 0.0)

    # --- the gate ----------------------------------------------------------------------------------------

    def _open(self, now: float) -> Change | None:
        if self.gate is Gate.OPEN:
            return None
        if self._outage_at is not None:
            for trouble in self._troubles.values():
                if trouble.own_since is not None:
                    trouble.own_since += now - max(self._outage_at, trouble.own_since)
        self.gate, self.reason, self._refusal = Gate.OPEN, "", None
        self._outage_at = None
        self._backoff = self._fresh_backoff = Backoff()
        return Change(Gate.OPEN)

    def _close(
        self, outcome: Outcome, began: float, now: float, *, fresh: bool, outage: bool
    ) -> Change | None:
        gate = Gate.HELD if outcome.kind is Kind.HELD else Gate.AWAY
        was = self.gate
        self._well_at = math.inf
        probe = was is not Gate.OPEN and began >= self._closed_at
        if outage and self._outage_at is None:
            self._outage_at = now
        if was is Gate.OPEN:
            self._closed_at = now
        if was is Gate.OPEN or probe:
            # One step for each probe, not one for each delivery that was in flight when it began.
            after = outcome.retry_after_seconds or 0.0
            if fresh:
                pause = self._fresh_backoff.delay(self._rng)
                self._fresh_backoff = self._fresh_backoff.next()
                self._fresh_at = now + max(pause, after)
            else:
                pause = self._backoff.delay(self._rng)
                self._fresh_at = max(self._fresh_at, now + after)
            self._backoff = self._backoff.next()
            self._probe_at = now + max(pause, after)
        # A study that is known to be odd says nothing about an outage.
        news = (
            probe and (gate, outcome.refusal) != (was, self._refusal) and (outage or self._outage_at is None)
        )
        if was is not Gate.OPEN and not news:
            return None
        self.gate, self.reason, self._refusal = gate, outcome.reason, outcome.refusal
        unpark = 0.0
        if gate is Gate.HELD:
            # Since the last acceptance, if that is longer: what was parked on the word of a GET.
            since = self._accepted_at if self._accepted_at > -math.inf else self._started_at
            unpark = max(ACCEPTED_LATELY_SECONDS, now - (now if since is None else since))
        return Change(gate, outcome.reason, outcome.refusal, unpark)

    # --- trying while it is closed -----------------------------------------------------------------------

    def mended(self) -> None:
        """Something was corrected: the next try needn't wait."""
        self._probe_at = self._fresh_at = 0.0
        self._backoff = self._fresh_backoff = Backoff()

    def choose(self, waiting: Sequence[str]) -> int:
        """Which of those that wait (at least one) is tried next.

        One that is tried once more; else one that never was; else which waits longest.
        """
        best, best_tried = 0, math.inf
        for number, key in enumerate(waiting):
            trouble = self._troubles.get(key)
            if trouble is not None and trouble.again:
                return number
            if trouble is None:
                if best_tried > -math.inf:
                    best, best_tried = number, -math.inf
            elif trouble.tried < best_tried:
                best, best_tried = number, trouble.tried
        return best

    def try_at(self, key: str) -> float:
        """When the study that ``choose`` named may be tried, while the gate is closed."""
        trouble = self._troubles.get(key)
        if trouble is None:
            return self._fresh_at
        # At once, for it was just tried; unless the index has said to others when it may be.
        return min(self._fresh_at, self._probe_at) if trouble.again else self._probe_at
