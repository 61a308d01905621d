"""The studies under way, by key: hints come in, leases go out and come back (passive)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cdc_indexer.flow.case import NO_HINTS, Case, Hints
from cdc_indexer.flow.policy import Policy
from cdc_indexer.flow.quiet import Quiet
from cdc_indexer.model.moment import Now, microseconds

__all__ = ["MAX_HINTS", "MAX_STUDIES", "Cases"]

#: Studies and hints under way; beyond, the oldest are looked at before their time, and who brings more waits.
MAX_STUDIES = 10_000
MAX_HINTS = 50_000


class Cases:
    """What holds always: a case is in here as long as it is leased, waits, or its ledger's entry is being looked up."""

    def __init__(self, policy: Policy, *, max_studies: int = MAX_STUDIES, max_hints: int = MAX_HINTS) -> None:
        self.policy = policy
        self.quiet = Quiet()
        self._max_studies = max_studies
        self._max_hints = max_hints
        self._by_key: dict[str, Case] = {}
        self._hints = 0
        self._leased = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._by_key.values())

    @property
    def leased(self) -> int:
        """How many leases are out."""
        return self._leased

    @property
    def full(self) -> bool:
        """Whether who brings more has to wait."""
        return len(self._by_key) >= self._max_studies or self._hints >= self._max_hints

    def get(self, key: str) -> Case | None:
        """The case of that study, if it is under way."""
        return self._by_key.get(key)

    def ensure(self, key: str, study_pk: int, study_iuid: str) -> Case:
        """The case of that study, made if there is none; its primary key is the one that is told last."""
        case = self._by_key.get(key)
        if case is None:
            case = self._by_key[key] = Case(key, study_pk, study_iuid)
        else:
            case.study_pk = study_pk
            case.study_iuid = study_iuid or case.study_iuid
        return case

    # --- hints -------------------------------------------------------------------------------------------

    def hint(self, case: Case, hints: Hints, now: Now, *, soon: bool = False) -> None:
        """Adds hints; ``soon``: without waiting for quiet."""
        if not case.hints:
            case.first_at = now.seconds
        case.own_hints().join(hints)
        self._hints += len(hints)
        self.schedule(case, now, soon=soon)

    def add_row(self, case: Case, row: tuple[int, datetime], now: Now, *, soon: bool = False) -> None:
        """Adds an outbox row: what ``hint`` does, for the most frequent one."""
        if not case.hints:
            case.first_at = now.seconds
        hints = case.own_hints()
        hints.add_row(row)
        hints.live = True
        self._hints += 1
        self.schedule(case, now, soon=soon)

    def counted(self, hints: Hints) -> None:
        """These hints count against the room, though no ``hint`` brought them."""
        self._hints += len(hints)

    def settled(self, hints: Hints) -> None:
        """These hints have ended."""
        self._hints -= len(hints)

    def schedule(self, case: Case, now: Now, *, soon: bool = False) -> None:
        """Says when the case is due, by its hints."""
        policy = self.policy
        hints = case.hints
        if soon or hints.gone or hints.insist or (hints and not hints.rows and not hints.look):
            at = now.seconds
        elif policy.stable:
            # By the age of its rows: what waited in the outbox is quiet already.
            last = max((recorded_at for _, recorded_at in case.hints.rows), default=None)
            age = (now.clock - microseconds(last)) / 1e6 if last is not None else 0.0
            at = now.seconds + policy.settle_seconds - max(age, 0.0)
            at = min(at, case.first_at + policy.max_wait_seconds)
        else:
            at = now.seconds + policy.settle_seconds
            if case.hints:
                at = min(at, case.first_at + policy.max_wait_seconds)
        self.quiet.schedule(case, at)

    # --- leases ------------------------------------------------------------------------------------------

    def take(self, case: Case, owner: object, hints: Hints, now: Now) -> None:
        """Gives the study's turn to ``owner``, who brings the hints along; those in the case wait."""
        assert case.lease is None
        case.lease = owner
        case.first_at = now.seconds
        self._leased += 1
        self._hints += len(hints)

    def lease(self, case: Case, owner: object) -> Hints:
        """Gives the study's turn to ``owner``, and the hints that came so far.

        A first version that still waits for the ledger is one of them: sent without its row, it would have another key than
        the same document had before a kill, perhaps.
        """
        assert case.lease is None
        case.lease = owner
        self._leased += 1
        if case.first is not None:
            case.own_hints().join(Hints(rows=((case.first.id, case.first.recorded_at),), live=True))
            case.first = None
            self._hints += 1
        hints, case.hints = case.own_hints(), NO_HINTS
        return hints

    def hand_on(self, case: Case, owner: object, to: object) -> None:
        """The turn goes from one owner to the next."""
        assert case.lease is owner
        case.lease = to

    def give_back(self, case: Case, owner: object, hints: Hints, now: Now, *, after_seconds: float) -> None:
        """The turn ends without a result: the hints wait again, and are due after so long."""
        self._end_lease(case, owner)
        later, case.hints = case.hints, hints
        case.hints.join(later)
        if case.waits:
            self.quiet.schedule(case, now.seconds + after_seconds)
        self.drop_if_idle(case)

    def end(self, case: Case, owner: object, now: Now) -> None:
        """The turn ends with a result; the case stays if there is more to look at."""
        self._end_lease(case, owner)
        if case.waits:
            self.schedule(case, now)
        self.drop_if_idle(case)

    def drop_if_idle(self, case: Case) -> None:
        """Forgets a case of which nothing is left."""
        if case.lease is None and not case.under_way:
            del self._by_key[case.key]

    def _end_lease(self, case: Case, owner: object) -> None:
        assert case.lease is owner
        case.lease = None
        self._leased -= 1
