"""Changed patients: one row of the outbox that stands for a new version of each of the patient's studies.

The studies are read page by page, so that a patient with thousands of them needs no more memory than another; how far that
is goes to the checkpoint, and the row settles after the last of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from cdc_indexer.flow.progress import Progress
from cdc_indexer.model.errors import Stopped
from cdc_indexer.model.settled import IntervalSet
from cdc_indexer.model.study import OutboxRow, names, study_key

#: How many changes may wait for their studies to be read; who brings more waits.
MAX_WAITING = 10_000

#: Of so many changes at a time it is asked whether the view shows them.
_LOOK_BATCH = 200

#: So many changes of one patient are read together; a study keeps a reference to each.
_TOGETHER = 100


class View(Protocol):
    """What is read from the PACS."""

    def studies_of_patient(self, patient_pk: int, after_pk: int, limit: int) -> list[Mapping[str, object]]:
        """A page of a patient's studies with study_pk > ``after_pk``, in order."""

    def unseen(self, ids: Sequence[int]) -> set[int]:
        """Those outbox rows among ``ids`` whose transaction the view doesn't show yet."""


class PatientChange:
    """A row of operation 'patient' whose studies are being sent; it settles after the last of them.

    ``done`` is how far that is, for who goes on after a restart: all studies up to that study_pk, and these later ones.

    Attributes:
        seen: whether what is read from the view now has the change.
    """

    __slots__ = (
        "after_pk",
        "ahead",
        "expanded",
        "joined",
        "open",
        "patient_pk",
        "recorded_at",
        "row_id",
        "seen",
    )

    def __init__(
        self,
        row_id: int,
        recorded_at: datetime,
        patient_pk: int,
        done: tuple[int, IntervalSet] | None = None,
    ) -> None:
        self.row_id = row_id
        self.recorded_at = recorded_at
        self.patient_pk = patient_pk
        self.after_pk, self.ahead = done or (0, IntervalSet())
        #: The study_pks that wait or are being sent, by key, in order.
        self.open: dict[str, int] = {}
        #: And those that came by themselves before it was their turn.
        self.joined: dict[str, int] = {}
        self.expanded = False
        self.seen = False

    @property
    def ended(self) -> bool:
        """Whether all of its studies are sent."""
        return self.expanded and not (self.open or self.joined)

    def begin(self, key: str, study_pk: int) -> bool:
        """The next of its studies; False when it is sent or on its way, or its UID was stored again meanwhile.

        (That has a row of its own.)
        """
        self.after_pk = study_pk
        if study_pk in self.ahead or key in self.open:
            return False
        self.open[key] = study_pk
        return self.joined.pop(key, None) is None

    def join(self, key: str, study_pk: int) -> bool:
        """A study that is read from the view for another reason; False when its turn is over."""
        if self.expanded or study_pk <= self.after_pk or study_pk in self.ahead:
            return False
        if key in self.open or key in self.joined:
            return False
        self.joined[key] = study_pk
        return True

    def end(self, key: str) -> None:
        """That study is sent."""
        study_pk = self.open.pop(key, None) or self.joined.pop(key, None)
        if study_pk is not None:
            self.ahead.add(study_pk)

    @property
    def done(self) -> tuple[int, IntervalSet]:
        up_to = next(iter(self.open.values())) - 1 if self.open else self.after_pk
        self.ahead.remove(0, up_to)
        return up_to, IntervalSet(self.ahead)


class Patients:
    """The changes whose studies aren't all sent, in the order in which they came. Thread-safe."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._unread: deque[PatientChange] = deque()
        #: Until they are settled, by patient_pk.
        self._open: dict[int, list[PatientChange]] = {}
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> bool:
        """Whether studies of changed patients are still to be read."""
        return bool(self._unread)

    @property
    def idle(self) -> bool:
        """Whether all studies of all changed patients are sent."""
        return not self._open

    @property
    def full(self) -> bool:
        """Whether ``add`` would wait."""
        return len(self._unread) >= MAX_WAITING

    def stop(self) -> None:
        """Ends every wait with Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def add(self, row: OutboxRow) -> None:
        """Takes a row of operation 'patient'; waits while too many do (Stopped ends that)."""
        with self._changed:
            while self.full and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise Stopped
            change = PatientChange(row.id, row.recorded_at, row.patient_pk, self._progress.patient(row.id))
            self._unread.append(change)
            self._open.setdefault(change.patient_pk, []).append(change)

    def look(self, view: View) -> None:
        """Finds out which changes the view shows from now on; raises SourceError."""
        with self._changed:
            new = [change for change in self._unread if not change.seen][:_LOOK_BATCH]
        unseen = view.unseen([change.row_id for change in new])
        for change in new:
            change.seen = change.row_id not in unseen

    def page(self, view: View, limit: int) -> list[tuple[Mapping[str, object], list[PatientChange]]] | None:
        """The next of the studies that the oldest change stands for, with that and those that follow it step by step.

        None while the view doesn't show the change. Raises SourceError.
        """
        self.look(view)
        first = self._unread[0]
        if not first.seen:
            return None
        with self._changed:
            # A patient that changed again meanwhile is read once for all of its changes.
            together = [
                change
                for change in self._open[first.patient_pk]
                if change.seen and not change.expanded and change.after_pk == first.after_pk
            ][:_TOGETHER]
        studies = view.studies_of_patient(first.patient_pk, first.after_pk, limit)
        found = []
        with self._changed:
            for values in studies:
                uid, study_pk = names(values)
                key = study_key(uid, study_pk)
                if changes := [change for change in together if change.begin(key, study_pk)]:
                    found.append((values, changes))
            if len(studies) < limit:
                for change in together:
                    change.expanded = True
                    self._unread.remove(change)
                self._changed.notify_all()
                self._keep(together)
        return found

    def join(self, key: str, study_pk: int, patient_pk: object) -> tuple[PatientChange, ...]:
        """The changes that a study stands for which was read from the view just now, before it was its turn."""
        with self._changed:
            changes = self._open.get(patient_pk, ())  # type: ignore[call-overload]
            return tuple(change for change in changes if change.seen and change.join(key, study_pk))

    def end(self, key: str, changes: Sequence[PatientChange]) -> None:
        """That study is sent, or needn't be, for these changes."""
        if changes:
            with self._changed:
                for change in changes:
                    change.end(key)
                self._keep(changes)

    def _keep(self, changes: Iterable[PatientChange]) -> None:
        """Hands on how far they are; together, so that after a restart they still follow each other step by step."""
        ended = [change for change in changes if change.ended]
        for change in ended:
            of_patient = self._open[change.patient_pk]
            of_patient.remove(change)
            if not of_patient:
                del self._open[change.patient_pk]
        if going_on := {change.row_id: change.done for change in changes if not change.ended}:
            self._progress.set_patients(going_on)
        if ended:
            self._progress.settle([(change.row_id, change.recorded_at) for change in ended])
