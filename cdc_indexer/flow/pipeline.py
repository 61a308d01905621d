"""From a row to a settled row: what is sent at once, what waits, what a result means.

Stream, audit and `initial` bring rows; the dispatcher sends; progress.py remembers. This module decides between them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cdc_indexer.delivery.dispatcher import Delivery, Dispatcher
from cdc_indexer.flow import patients
from cdc_indexer.flow.keys import idempotency_key, seed_of
from cdc_indexer.flow.progress import Progress
from cdc_indexer.flow.versions import Versions, Waiting
from cdc_indexer.model.errors import InvalidStudy, Stopped, StorageError
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.model.study import Operation, OutboxRow, names, study_json, study_key

#: How many studies are read from the view at a time.
VERIFY_BATCH = 200

#: A parked store that can't be written is tried again after this.
_STORE_AGAIN_SECONDS = 5.0


class View(patients.View, Protocol):
    """What the pipeline reads from the PACS."""

    def studies(self, study_pks: Sequence[int]) -> dict[int, Mapping[str, object]]:
        """The view's rows of these studies by study_pk; those that it doesn't hold are absent."""


class ParkedStore(Protocol):
    """Where rejected studies go."""

    def park(self, delivery: Delivery, outcome: Outcome) -> None:
        """Keeps it, durably."""

    def accepted(self, delivery: Delivery) -> None:
        """A version of that study was accepted: what is parked of it is superseded."""


class ParkedEntry(Protocol):
    """A parked delivery, as the store gives it back."""

    @property
    def study_key(self) -> str: ...
    @property
    def study_pk(self) -> int: ...
    @property
    def study_iuid(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def first_version(self) -> bool: ...
    @property
    def body(self) -> bytes | None: ...


class Observer(Protocol):
    """Who is told what happens (logs, metrics); must be quick and never raise."""

    def delivered(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was accepted."""

    def parked(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was rejected."""

    def storage_trouble(self, error: StorageError | None) -> None:
        """The state directory can't be written; None: it can again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that say what is sent."""

    center: str
    fields: Mapping[str, str]
    stable: bool
    updates: bool
    deletes: bool


class Pipeline:
    """See the module. Thread-safe; ``take`` blocks when too much is under way (Stopped ends that)."""

    def __init__(
        self,
        policy: Policy,
        progress: Progress,
        versions: Versions,
        dispatcher: Dispatcher,
        parked: ParkedStore,
        observer: Observer,
    ) -> None:
        self.policy = policy
        self._progress = progress
        self._versions = versions
        self._dispatcher = dispatcher
        self._parked = parked
        self._observer = observer
        self._patients = patients.Patients(progress)
        self._stopping = threading.Event()

    # --- rows come in ------------------------------------------------------------------------------------

    def take(self, row: OutboxRow, *, streamed: bool = False, superseded: bool = False) -> bool:
        """Takes an outbox row unless it is known; whether it was new.

        ``superseded``: the table holds a newer row of the same study, so its own values are old.
        """
        if not self._progress.claim(row.id, streamed=streamed):
            return False
        mark = (row.id, row.recorded_at)
        if row.operation == Operation.PATIENT:
            self._take_patient(row)
        elif row.operation == Operation.DELETED:
            self._take_deleted(row)
        elif not self.policy.updates and self._progress.was_sent(row.study_pk):
            self._progress.settle([mark])
        else:
            key = study_key(row.study_iuid, row.study_pk)
            first = row.operation == Operation.STORED and not superseded and not self.policy.stable
            if first and self._versions.begin(key, row.study_pk, as_recorded=True):
                self._send_first(row, key)
            else:
                # A superseded one as well: sent before the newer row joins it, its values would go twice after a kill.
                self._versions.add(key, row.study_pk, mark, study_iuid=row.study_iuid)
        return True

    def _take_patient(self, row: OutboxRow) -> None:
        if not self.policy.updates:
            self._progress.settle([(row.id, row.recorded_at)])
            return
        self._patients.add(row)
        self._versions.wake()

    def _take_deleted(self, row: OutboxRow) -> None:
        key = study_key(row.study_iuid, row.study_pk)
        mark = (row.id, row.recorded_at)
        if not self.policy.deletes and self._versions.begin(key, row.study_pk):
            # Nothing of it is under way, and the index isn't to hear of deletions.
            self._progress.settle([mark], forget_pk=row.study_pk)
            self._versions.done(key, None)
        else:
            self._versions.add(key, row.study_pk, mark, deleted=True, study_iuid=row.study_iuid)

    def _send_first(self, row: OutboxRow, key: str) -> None:
        body, invalid = self._document(row.values)
        delivery = Delivery(
            key=key,
            study_pk=row.study_pk,
            study_iuid=row.study_iuid,
            idempotency_key=idempotency_key(self.policy.center, row.id),
            body=body,
            rows=((row.id, row.recorded_at),),
            first_version=True,
            finished=self._first_finished,
        )
        self._send(delivery, invalid)

    def _document(self, values: Mapping[str, object]) -> tuple[bytes, InvalidStudy | None]:
        """A study's JSON; or none, and why its values can't become one."""
        try:
            return study_json(values, self.policy.center, self.policy.fields), None
        except InvalidStudy as error:
            return b"", error

    def _send(self, delivery: Delivery, invalid: InvalidStudy | None) -> None:
        """Queues a delivery; one without a document is parked as if the index had rejected it."""
        if invalid is not None:
            delivery.finished(delivery, _invalid(invalid))
        else:
            self._dispatcher.submit(delivery)

    def restore_unverified(self, rows: Iterable[OutboxRow]) -> None:
        """First versions sent before a restart, whose row in the view is yet to be read."""
        for row in rows:
            try:
                digest = hash(study_json(row.values, self.policy.center, self.policy.fields))
            except InvalidStudy:
                digest = None
            self._versions.restore(study_key(row.study_iuid, row.study_pk), row.study_pk, row.id, digest)

    # --- studies of `initial` -----------------------------------------------------------------------------

    def reserve(self, values: Mapping[str, object]) -> bool:
        """Takes a study for ``send_held``; False when a live version of it is under way. Later ones wait for it."""
        uid, pk = names(values)
        return self._versions.begin(study_key(uid, pk), pk, block=False)

    def unreserve(self, values: Mapping[str, object]) -> None:
        """Gives a reserved study back unsent."""
        self._versions.done(study_key(*names(values)), None)

    def send_held(
        self,
        values: Mapping[str, object],
        rows: Iterable[tuple[int, datetime]],
        seed: str,
        finished: Callable[[bool], int],
        *,
        behind: bool,
    ) -> None:
        """Sends a reserved study as the view holds it.

        ``rows`` are its outbox rows that the same snapshot held; those that nobody has settle with it. ``finished`` is
        called with whether it was accepted, and gives the generation of the checkpoint that holds that.
        """
        uid, pk = names(values)
        key = study_key(uid, pk)
        claimed = tuple(row for row in rows if self._progress.claim(row[0]))

        def done(delivery: Delivery, outcome: Outcome) -> int:
            accepted = outcome.kind in (Kind.ACCEPTED, Kind.ALREADY_THERE)
            if not accepted:
                self._store(self._parked.park, delivery, outcome)
            self._progress.settle(claimed, sent_pk=pk if accepted and not self.policy.updates else None)
            self._versions.done(key, hash(delivery.body), at_index=accepted)
            self._tell(delivery, outcome, accepted=accepted)
            return finished(accepted)

        body, invalid = self._document(values)
        delivery = Delivery(
            key=key,
            study_pk=pk,
            study_iuid=uid,
            idempotency_key=idempotency_key(self.policy.center, seed, body or None),
            body=body,
            rows=claimed,
            first_version=True,
            finished=done,
            behind=behind,
        )
        self._send(delivery, invalid)

    def settle_unsent(self, values: Mapping[str, object], rows: Iterable[tuple[int, datetime]]) -> int:
        """Settles a study's rows without sending it: the central index has it from the old client."""
        study_pk = values.get("study_pk")
        claimed = [row for row in rows if self._progress.claim(row[0])]
        keep = isinstance(study_pk, int) and not self.policy.updates
        return self._progress.settle(claimed, sent_pk=study_pk if keep else None)  # type: ignore[arg-type]

    def retry_parked(self, entry: ParkedEntry) -> bool:
        """Sends a parked delivery once more, as it was; False while another version of the study is under way."""
        if not self._versions.begin(entry.study_key, entry.study_pk, block=False):
            return False

        def done(delivery: Delivery, outcome: Outcome) -> int:
            accepted = outcome.kind is Kind.ACCEPTED or (
                outcome.kind is Kind.ALREADY_THERE and entry.first_version
            )
            if not accepted:
                self._store(self._parked.park, delivery, outcome)
            deleted = delivery.body is None
            generation = self._progress.settle(
                (),
                sent_pk=entry.study_pk if accepted and not deleted and not self.policy.updates else None,
                forget_pk=entry.study_pk if accepted and deleted else None,
            )
            self._versions.done(entry.study_key, None)
            self._tell(delivery, outcome, accepted=accepted)
            return generation

        self._dispatcher.submit(
            Delivery(
                key=entry.study_key,
                study_pk=entry.study_pk,
                study_iuid=entry.study_iuid,
                idempotency_key=entry.idempotency_key,
                body=None if entry.operation == "delete" else entry.body,
                rows=(),
                first_version=entry.first_version,
                finished=done,
                behind=True,
            )
        )
        return True

    # --- versions whose time has come --------------------------------------------------------------------

    def due(self) -> list[Waiting]:
        """Studies to be verified now; each must be given to ``verify``."""
        return self._versions.due(VERIFY_BATCH)

    def verify(self, due: Sequence[Waiting], view: View) -> list[Waiting]:
        """Reads the studies' rows in the view and sends those that differ from what was last sent.

        Returns those whose rows the view doesn't show yet, for another try. Raises SourceError, with nothing done, when
        the view can't be read.
        """
        shown, unseen = self._shown(due, view)
        found = view.studies([waiting.study_pk for waiting in shown])
        for waiting in shown:
            self._verify_one(waiting, found.get(waiting.study_pk))
        return unseen

    def _shown(self, due: Sequence[Waiting], view: View) -> tuple[list[Waiting], list[Waiting]]:
        """Those whose rows are in what is read from the view now, and those whose aren't."""
        self._patients.look(view)
        # Of all of them: they don't wait in the order in which their transactions end.
        unseen = view.unseen([row_id for waiting in due for row_id in waiting.ids])
        shown: list[Waiting] = []
        later: list[Waiting] = []
        for waiting in due:
            (shown if unseen.isdisjoint(waiting.ids) else later).append(waiting)
        return shown, later

    def _verify_one(self, waiting: Waiting, values: Mapping[str, object] | None) -> None:
        policy = self.policy
        body: bytes | None = None
        invalid: InvalidStudy | None = None
        if values is not None and study_key(*names(values)) != waiting.key:
            # Its primary key is that of another study now, or it got another UID.
            if not (waiting.deleted and waiting.study_iuid):
                self._hand_over(waiting, values)
                return
            values = None
        if values is None:
            if not (waiting.deleted and policy.deletes):
                # Left to its 'deleted' row, which comes or has come.
                self._settle_unsent(waiting, None, forget_pk=waiting.study_pk if waiting.deleted else None)
                return
        else:
            waiting.patients += self._patients.join(waiting.key, waiting.study_pk, values.get("patient_pk"))
            if not policy.updates and self._progress.was_sent(waiting.study_pk):
                self._settle_unsent(waiting, waiting.digest)
                return
            body, invalid = self._document(values)
            if invalid is None and hash(body) == waiting.digest:
                self._settle_unsent(waiting, waiting.digest)
                return
        delivery = Delivery(
            key=waiting.key,
            study_pk=waiting.study_pk,
            study_iuid=waiting.study_iuid or waiting.key,
            idempotency_key=idempotency_key(policy.center, seed_of(waiting), body or None),
            body=body,
            rows=tuple(waiting.rows),
            first_version=False,
            finished=lambda delivery, outcome: self._later_finished(delivery, outcome, waiting),
        )
        self._send(delivery, invalid)

    def _hand_over(self, waiting: Waiting, values: Mapping[str, object]) -> None:
        """Lets the rows wait with those of the study that the view has at their primary key."""
        uid, study_pk = names(values)
        for row in waiting.rows:
            self._versions.add(
                study_key(uid, study_pk), study_pk, row, deleted=None, soon=True, study_iuid=uid, block=False
            )
        waiting.rows = ()
        self._settle_unsent(waiting, None)

    def _settle_unsent(self, waiting: Waiting, digest: int | None, forget_pk: int | None = None) -> None:
        """Settles what stands for no POST: nothing differs, or there is nothing to send."""
        if waiting.rows or forget_pk is not None:
            self._progress.settle(waiting.rows, forget_pk=forget_pk)
        if waiting.verify_ids:
            self._progress.verified(waiting.verify_ids)
        self._patients.end(waiting.key, waiting.patients)
        self._versions.done(waiting.key, digest)

    # --- patients ----------------------------------------------------------------------------------------

    @property
    def patients_waiting(self) -> bool:
        """Whether changed patients are still to be expanded into their studies."""
        return self._patients.waiting

    def expand_patient(self, view: View) -> bool:
        """Lets the next page of the oldest changed patient's studies wait for verification.

        False while the view doesn't show its change yet.
        """
        page = self._patients.page(view, VERIFY_BATCH)
        for values, changes in page or ():
            uid, study_pk = names(values)
            for change in changes:
                self._versions.add(
                    study_key(uid, study_pk),
                    study_pk,
                    patient=change,
                    deleted=None,
                    soon=True,
                    study_iuid=uid,
                    block=False,
                )
        return page is not None

    # --- results (in a sender thread) --------------------------------------------------------------------

    def _first_finished(self, delivery: Delivery, outcome: Outcome) -> int:
        accepted = outcome.kind in (Kind.ACCEPTED, Kind.ALREADY_THERE)
        if not accepted:
            self._store(self._parked.park, delivery, outcome)
        updates = self.policy.updates
        generation = self._progress.settle(
            delivery.rows, unverified=updates, sent_pk=delivery.study_pk if accepted and not updates else None
        )
        ids = tuple(row_id for row_id, _ in delivery.rows)
        self._versions.done(delivery.key, hash(delivery.body), ids if updates else (), at_index=accepted)
        self._tell(delivery, outcome, accepted=accepted)
        return generation

    def _later_finished(self, delivery: Delivery, outcome: Outcome, waiting: Waiting) -> int:
        accepted = outcome.kind is Kind.ACCEPTED
        if outcome.kind is Kind.ALREADY_THERE:
            # As a first version (`send: stable`, or after a restart) it may be; as a correction it would be lost.
            accepted = not self.policy.updates
        if not accepted:
            self._store(self._parked.park, delivery, outcome)
        deleted = delivery.body is None
        pk = delivery.study_pk
        generation = self._progress.settle(
            delivery.rows,
            sent_pk=pk if accepted and not deleted and not self.policy.updates else None,
            forget_pk=pk if accepted and deleted else None,
        )
        if waiting.verify_ids:
            generation = self._progress.verified(waiting.verify_ids)
        self._patients.end(waiting.key, waiting.patients)
        self._versions.done(delivery.key, None if deleted else hash(delivery.body), at_index=accepted)
        self._tell(delivery, outcome, accepted=accepted)
        return max(generation, self._progress.generation) if waiting.patients else generation

    def _store(self, action: Callable[..., None], *args: object) -> None:
        """Writes to the parked store, for as long as it takes: the row isn't settled before."""
        failed = False
        while True:
            try:
                action(*args)
            except StorageError as error:
                if not failed:
                    self._observer.storage_trouble(error)
                failed = True
                if self._stopping.wait(_STORE_AGAIN_SECONDS):
                    raise Stopped from None
            else:
                if failed:
                    self._observer.storage_trouble(None)
                return

    def _tell(self, delivery: Delivery, outcome: Outcome, *, accepted: bool) -> None:
        if accepted:
            self._store(self._parked.accepted, delivery)
            self._observer.delivered(delivery, outcome)
        else:
            self._observer.parked(delivery, outcome)

    # --- the end -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: every row taken is settled, every first version verified."""
        return self._patients.idle and not (len(self._versions) or self._dispatcher.pending)

    @property
    def full(self) -> bool:
        """Whether who brings rows waits for room: until the central index is back, or studies are quiet."""
        return self._dispatcher.full or self._versions.full or self._patients.full

    def settle_unchanged(self, view: View, seconds: float) -> None:
        """After the last delivery: settles what waits for studies that are as they were last sent.

        Nothing remembers that after a restart, and they would be sent once more. Raises SourceError.
        """
        ends_at = time.monotonic() + seconds
        known = self._versions.known()
        for start in range(0, len(known), VERIFY_BATCH):
            if time.monotonic() > ends_at:
                return
            some, _ = self._shown(known[start : start + VERIFY_BATCH], view)
            found = view.studies([waiting.study_pk for waiting in some])
            for waiting in some:
                values = found.get(waiting.study_pk)
                with suppress(InvalidStudy):
                    if values and waiting.digest == hash(
                        study_json(values, self.policy.center, self.policy.fields)
                    ):
                        self._settle_unsent(waiting, waiting.digest)

    def stop(self) -> None:
        """Ends every wait with Stopped."""
        self._stopping.set()
        self._patients.stop()
        self._versions.stop()


def _invalid(error: InvalidStudy) -> Outcome:
    return Outcome(kind=Kind.REJECTED, reason=f"the row can't become a study: {error}")
