"""A central index: what it holds, what it answers, and a judge beside it of everything that arrives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cdc_indexer.flow.case import Insist
from cdc_indexer.flow.decide import unanswered
from cdc_indexer.model.outcome import Kind, Outcome, Refusal

if TYPE_CHECKING:
    from cdc_indexer.flow.order import Delivery, Send

__all__ = ["Arrival", "Broken", "Index", "Request"]


class Broken(AssertionError):
    """A promise is broken."""


@dataclass(eq=False, slots=True)
class Arrival:
    """A document (None: a deletion) that the index accepted. ``sure``: it is durable that it did."""

    body: bytes | None
    key: str
    version: int
    mark: tuple[int, int, int]
    #: How often the study had been stored by then.
    births: int
    #: Somebody asked for it, whatever the ledger says.
    asked_for: bool = False
    sure: bool = False


@dataclass(eq=False, slots=True)
class Request:
    """One request under way. ``outcomes`` is None until the index, or the time, has decided."""

    send: Send
    began: float
    #: How often the index had recovered by then.
    recovered: int = 0
    #: Of the process that sent it; it may be dead.
    alive: bool = True
    outcomes: list[Outcome] | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    #: The index may still take it after its sender gave up.
    afloat: bool = False


@dataclass(slots=True)
class _Held:
    body: bytes | None
    key: str
    version: int
    mark: tuple[int, int, int]
    pk: int = 0
    digest: bytes = b""


class Index:
    """``versions``: it keeps the newest by number. ``knows_keys``: to a key that it knows it only answers."""

    def __init__(self, *, versions: bool, knows_keys: bool, conflicts: bool) -> None:
        self.versions = versions
        self.knows_keys = knows_keys
        #: It says 409 of a study that it has.
        self.conflicts = conflicts
        self._mood = "ok"
        #: How often it began to work again.
        self.recovered = 0
        self.studies: dict[str, _Held] = {}
        self.last: dict[str, Arrival] = {}
        self._keys: set[str] = set()
        #: Studies that it always rejects, or always fails on.
        self.rejects: set[str] = set()
        self.fails: set[str] = set()
        #: The archive has gone back (a failover): so may what is sent.
        self.marks_count = True
        #: Of these a kill forgot what was read of the view, and their rows are older than that: one is sent as recorded.
        self.may_go_back: set[str] = set()
        #: Rows were taken away before they were settled (what a sweep finds instead of them has another key), or dated anew.
        self.keys_count = True
        self.arrived = 0
        #: The highest version that somebody else has sent; 0: none.
        self.raised = 0
        self.births: dict[str, int] = {}
        self.say: Callable[..., None] = lambda *what: None
        #: Since when (in arrivals) nothing that was sent before counts: a new ledger.
        self.anew_for: set[str] = set()
        #: When it got the last report, by the number in that.
        self.reported_at: int | None = None
        #: What it held before each change, the last one at the end; None as a UID: a report.
        self._before: list[tuple[str | None, Any]] = []
        #: How often.
        self.went_back = 0
        #: Studies that may come once more, since it may have lost them.
        self.doubtful: set[str] = set()
        #: Whether the program doesn't believe its ledger just now.
        self.in_doubt: Callable[[], bool] = lambda: False

    # --- what it is asked besides ------------------------------------------------------------------------

    def report(self, at: int) -> tuple[int | None, int | None]:
        """``previous`` and ``highest``."""
        previous = self.reported_at
        self._before.append((None, previous))
        self.reported_at = at
        return previous, max((held.version for held in self.studies.values()), default=None)

    def digests(self) -> dict[str, tuple[int, bytes]]:
        """(study_pk, digest) of all studies, by UID."""
        return {uid: (held.pk, held.digest) for uid, held in self.studies.items() if held.body is not None}

    def _put(self, uid: str, held: _Held) -> None:
        self._before.append((uid, self.studies.get(uid)))
        self.studies[uid] = held

    def raise_version(self, uid: str, version: int) -> None:
        """Somebody else has sent it."""
        self.raised = max(self.raised, version)
        self._put(uid, replace(self.studies[uid], version=version))

    @property
    def changes(self) -> int:
        """How many changes it may lose."""
        return len(self._before)

    def go_back(self, changes: int) -> None:
        """A backup is restored: the last so many changes are lost."""
        self.went_back += 1
        for _ in range(changes):
            uid, before = self._before.pop()
            if uid is None:
                self.reported_at = before
                continue
            self.doubtful.add(uid)
            if before is None:
                del self.studies[uid]
            else:
                self.studies[uid] = before

    # --- what it says ------------------------------------------------------------------------------------

    @property
    def mood(self) -> str:
        """``ok``, or what is wrong with all that it gets."""
        return self._mood

    @mood.setter
    def mood(self, mood: str) -> None:
        self.recovered += mood == "ok" != self._mood
        self._mood = mood

    def answer_all(self) -> Outcome | None:
        """What it says to everything in its present mood; None: it looks at the study."""
        return {
            "ok": None,
            "refuses": Outcome(Kind.HELD, 401, reason="key", refusal=Refusal.KEY),
            "lost": Outcome(Kind.HELD, 404, reason="address", refusal=Refusal.ADDRESS),
            "portal": Outcome(Kind.HELD, 200, reason="portal", refusal=Refusal.STRANGER),
            "busy": Outcome(Kind.RETRY_INDEX, 503, reason="busy"),
            "away": Outcome(Kind.RETRY_INDEX, None, reason="away"),
            "fails": Outcome(Kind.RETRY_STUDY, 500, reason="fails"),
            "rejects": Outcome(Kind.REJECTED, 400, reason="rejects", answer="no"),
        }[self.mood]

    def get(self) -> Outcome:
        """What a GET gives."""
        said = self.answer_all()
        return Outcome(Kind.ACCEPTED, 200) if said is None else said

    def take(self, request: Request) -> list[Outcome]:
        """Takes a request in, and what it answers."""
        said = self.answer_all()
        if said is not None:
            if self.mood == "lost" and request.send.deliveries[0].body is None:
                # It may as well be the study that isn't there.
                said = said._replace(kind=Kind.ABSENT)
            return [said] * len(request.send.deliveries)
        return [self._take_one(delivery, request) for delivery in request.send.deliveries]

    def _take_one(self, delivery: Delivery, request: Request) -> Outcome:
        uid = delivery.study_iuid
        if delivery.body is not None and uid in self.rejects:
            return Outcome(Kind.REJECTED, 422, reason="no", answer="no")
        if uid in self.fails:
            return Outcome(Kind.RETRY_STUDY, 500, reason="fails on it")
        held = self.studies.get(uid)
        if self.versions and held is not None:
            same = held.key == delivery.idempotency_key and held.body == delivery.body
            if delivery.version < held.version or (delivery.version == held.version and not same):
                return Outcome(Kind.STALE, 409, version=held.version)
            if same and delivery.version == held.version:
                request.arrivals.append(self.last[uid])  # answered as before
                return Outcome(Kind.ACCEPTED, 200)
        elif self.conflicts and held is not None and held.body is not None and delivery.body is not None:
            self._accept(uid, delivery, request, applied=False)
            return Outcome(Kind.ALREADY_THERE, 409)
        elif self.knows_keys and delivery.idempotency_key in self._keys:
            self._accept(uid, delivery, request, applied=False)
            return Outcome(Kind.ACCEPTED, 200)
        self._accept(uid, delivery, request, applied=True)
        return Outcome(Kind.ACCEPTED, 201)

    def _accept(self, uid: str, delivery: Delivery, request: Request, *, applied: bool) -> None:
        self.arrived += 1
        mark = mark_of(delivery.body)
        arrival = Arrival(
            delivery.body, delivery.idempotency_key, delivery.version, mark, self.births.get(uid, 0)
        )
        arrival.asked_for = delivery.hints.insist is not Insist.NO
        before = self.last.get(uid)
        if before is not None and before.body == arrival.body and delivery.hints.insist is Insist.NO:
            # What was sent since and never answered, a deletion perhaps, may have arrived as far as the program knows.
            no_answer = unanswered(delivery.before)
            if uid in self.anew_for or uid in self.doubtful or no_answer:
                pass
            elif before.sure:
                raise Broken(f"{uid} was sent twice, though it was durable that the index has it")
            elif (
                before.key != arrival.key and arrival.births == 1 and self.keys_count and not before.asked_for
            ):
                # (Of a study that was stored again rows of an earlier life may settle by themselves.)
                raise Broken(f"{uid} was sent again under another key: {before.key}, then {arrival.key}")
        self.anew_for.discard(uid)
        if self.in_doubt():
            self.doubtful.add(uid)
        self.last[uid] = arrival
        request.arrivals.append(arrival)
        self._keys.add(arrival.key)
        self.say(
            "the index takes",
            uid,
            mark if arrival.body is not None else "deleted",
            arrival.key[:8],
            arrival.version,
        )
        if applied:
            held = self.studies.get(uid)
            counts = self.marks_count and uid not in self.may_go_back
            if held is not None and counts and mark[0] and mark < held.mark:
                raise Broken(f"{uid} went back from {held.mark} to {mark}")
            shown = mark if mark[0] else (held.mark if held else mark)
            new = _Held(arrival.body, arrival.key, arrival.version, shown, delivery.study_pk, delivery.digest)
            self._put(uid, new)


def mark_of(body: bytes | None) -> tuple[int, int, int]:
    """Which state of the study a document shows, and which of its patient; a deletion shows none."""
    if body is None:
        return (0, 0, 0)
    said = json.loads(body)
    return (int(said["study_description"][1:]), said["patient_pk"], int(said["patient_name"][1:]))
