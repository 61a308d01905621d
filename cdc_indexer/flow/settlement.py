"""The one way that every result takes: close or park, settle, release, tell (passive).

First versions, later ones, deletions, `initial`, parked studies that are tried again, and looks that found nothing to send:
all end here, in this order. What was sent keeps the study's turn and its slot until the result is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from cdc_indexer.flow.backfill import Ended
from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.cases import Cases
from cdc_indexer.flow.decide import DOUBT, unanswered
from cdc_indexer.flow.order import Delivery, Order, Send
from cdc_indexer.flow.patients import ChangedPatients, PatientChange
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.results import Results
from cdc_indexer.flow.unproven import Unproven
from cdc_indexer.model.changes import Closing, Parking, State
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import Now
from cdc_indexer.model.outcome import Kind, Outcome

__all__ = ["Result", "Settlement"]


class Result(NamedTuple):
    """What became of a delivery, to be told."""

    delivery: Delivery
    outcome: Outcome
    accepted: bool


class Settlement:
    """Ends leases with a result."""

    def __init__(
        self, cases: Cases, progress: Progress, patients: ChangedPatients, results: Results, order: Order
    ) -> None:
        self._cases = cases
        self._progress = progress
        self._patients = patients
        self._results = results
        self._order = order
        #: The highest version that the index has accepted, and what it hasn't been seen to hold since.
        self.highest = 0
        self.unproven = Unproven()
        #: Requests whose results aren't durable yet, with the generation that they wait for.
        self._waiting: deque[tuple[int, Send, list[Result]]] = deque()

    # --- nothing was sent --------------------------------------------------------------------------------

    def nothing(self, case: Case, owner: object, hints: Hints, entry: Entry | None, now: Now) -> None:
        """Nothing differs, or nothing is to be sent: ``entry`` is what the ledger has after it."""
        before = case.entry
        rejected = before is not None and before.rejected is not None
        if hints.insist and entry is not None and entry.rejected not in (None, DOUBT):
            entry = entry._replace(rejected=None)
        # A backfill and a deletion close whatever is open: a new ledger doesn't know what the old one did.
        closes = rejected or hints.tickets or hints.gone
        if hints.insist or (closes and (entry is None or entry.rejected is None)):
            self._results.park(Closing(case.key, State.SUPERSEDED))
        self._settle(case, hints, entry if entry != before else None, Ended.SKIPPED)
        case.verify_ids = ()
        self._cases.end(case, owner, now)

    def invalid(
        self, case: Case, owner: object, hints: Hints, parking: Parking, entry: Entry, now: Now
    ) -> None:
        """A row that can't become a document: parked without having been sent."""
        self._results.park(parking)
        self._settle(case, hints, entry, Ended.PARKED)
        case.verify_ids = ()
        self._cases.end(case, owner, now)

    # --- something was sent ------------------------------------------------------------------------------

    def judged(self, send: Send, *, updates: bool) -> int | None:
        """What is final of a request; the generation to wait for before ``durable`` frees its slot, None: nothing is."""
        if not send.final:
            return None
        told = []
        for delivery, outcome in send.final:
            if outcome.kind is Kind.STALE:
                continue
            accepted = outcome.kind is Kind.ACCEPTED or (
                # As a first version it may be there; as a correction it would be lost.
                outcome.kind is Kind.ALREADY_THERE and (delivery.first_version or not updates)
            )
            self._finish(delivery, outcome, accepted=accepted)
            told.append(Result(delivery, outcome, accepted))
        # Where all of it is to be read again nothing is to be written; the slot waits for a step all the same.
        generation = self._results.generation if self._results.pending else self._results.moved()
        self._waiting.append((generation, send, told))
        return generation

    def _finish(self, delivery: Delivery, outcome: Outcome, *, accepted: bool) -> None:
        case, hints, before = delivery.case, delivery.hints, delivery.before
        if accepted:
            entry = delivery.entry
            self._results.took()
            self.highest = max(self.highest, entry.version)
            held = before.digest if before is not None else None
            self.unproven.accepted(case.key, entry.study_pk, held, entry.digest)
            if hints.insist:
                self._results.park(Closing(case.key, State.ACCEPTED))
            elif (
                delivery.body is None or hints.tickets or (before is not None and before.rejected is not None)
            ):
                self._results.park(Closing(case.key, State.SUPERSEDED))
        else:
            unknown = Entry(case.key, delivery.study_pk)
            entry = (before or unknown)._replace(rejected=delivery.digest, unverified=False)
            self._results.park(
                Parking(
                    case.key,
                    delivery.study_pk,
                    delivery.study_iuid,
                    "delete" if delivery.body is None else "post",
                    delivery.idempotency_key,
                    tuple(row_id for row_id, _ in hints.rows),
                    delivery.body,
                    outcome.status,
                    outcome.reason,
                    outcome.answer,
                )
            )
        ids = tuple(row_id for row_id, _ in hints.rows)
        self._settle(case, hints, entry, Ended.SENT if accepted else Ended.PARKED)
        case.verify_ids = ids if entry.unverified else ()

    def doubt(self, delivery: Delivery) -> None:
        """No answer came: nobody knows whether it arrived. The ledger says so, until something of the study is final."""
        case = delivery.case
        before = delivery.before or Entry(case.key, delivery.study_pk)
        if not unanswered(before):
            case.entry = delivery.before = before._replace(rejected=DOUBT)
            self._results.put(case.key, case.entry)

    def durable(self, generation: int, now: Now) -> list[Result]:
        """What had that generation is on the disk: turns and slots are free; what is to be told."""
        self._results.durable(generation)
        told: list[Result] = []
        while self._waiting and self._waiting[0][0] <= generation:
            _, send, results = self._waiting.popleft()
            self._order.release(send)
            for result in results:
                self._cases.end(result.delivery.case, result.delivery, now)
            told += results
        return told

    @property
    def waiting(self) -> int:
        """How many requests wait for their results to be durable."""
        return len(self._waiting)

    # --- both --------------------------------------------------------------------------------------------

    def _settle(self, case: Case, hints: Hints, entry: Entry | None, ended: Ended) -> None:
        """Everything that a result settles; ``entry``: what the ledger gets, None: nothing new."""
        if entry is not None:
            before, case.entry, case.known = case.entry, entry, True
            if before is not None and before.unverified and entry == before._replace(unverified=False):
                self._results.verified(case.key, entry)
            else:
                self._results.put(case.key, entry)
        if hints.rows:
            self._progress.settle(hints.rows)
        self._cases.settled(hints)
        if hints.changes:
            self.end_changes(self._patients.ended(case.key, hints.changes))
        for ticket in hints.tickets:
            ticket.end(ended)
        self._results.moved()

    def end_changes(self, done: Sequence[PatientChange]) -> None:
        """Patients' changes whose last study was dealt with."""
        if done:
            self._progress.settle([(change.row_id, change.recorded_at) for change in done])
            self._results.moved()
