"""Changed patients: which studies a change stands for, how far they are, and what is read from the view for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from cdc_indexer.flow.patients import PatientChange, Patients
from cdc_indexer.flow.progress import Progress
from cdc_indexer.model.settled import IntervalSet
from cdc_indexer.model.study import OutboxRow
from cdc_indexer.state.checkpoint import Checkpoint

WHEN = datetime(2026, 3, 1)


class View:
    """A patient with these studies; a row of the outbox is seen unless it is hidden."""

    def __init__(self, *study_pks: int) -> None:
        self.study_pks = list(study_pks)
        self.hidden: set[int] = set()
        self.asked: list[int] = []

    def studies_of_patient(self, patient_pk: int, after_pk: int, limit: int) -> list[Mapping[str, object]]:
        self.asked.append(after_pk)
        pks = [pk for pk in self.study_pks if pk > after_pk][:limit]
        return [{"study_iuid": f"1.{pk}", "study_pk": pk, "patient_pk": patient_pk} for pk in pks]

    def unseen(self, ids: Sequence[int]) -> set[int]:
        return self.hidden & set(ids)


def change(row_id: int, patient_pk: int = 3) -> OutboxRow:
    return OutboxRow(row_id, "patient", WHEN, {"patient_pk": patient_pk})


def taken(progress: Progress, *row_ids: int) -> Patients:
    patients = Patients(progress)
    for row_id in row_ids:
        assert progress.claim(row_id)
        patients.add(change(row_id))
    return patients


def test_how_far_the_studies_of_a_patient_are_sent() -> None:
    patient = PatientChange(1, WHEN, 7)
    for pk in (10, 20, 30, 40):
        assert patient.begin(f"1.{pk}", pk)
    patient.end("1.30")
    assert patient.done == (9, IntervalSet([(30, 30)]))  # 10 is open, so nothing before it counts
    patient.end("1.10")
    assert patient.done == (19, IntervalSet([(30, 30)]))
    patient.end("1.20")
    assert patient.done == (39, IntervalSet())
    # After a restart it goes on there.
    again = PatientChange(1, WHEN, 7, (19, IntervalSet([(30, 30)])))
    assert again.begin("1.20", 20)
    assert not again.begin("1.30", 30)
    assert not again.begin("1.20", 35)  # the UID stored again
    again.end("1.20")
    assert again.done == (35, IntervalSet())


def test_a_study_that_was_sent_before_its_turn_is_not_sent_for_it_again() -> None:
    patient = PatientChange(1, WHEN, 7)
    assert patient.join("1.30", 30)
    assert patient.join("1.40", 40)
    patient.end("1.30")
    assert patient.begin("1.20", 20)
    assert not patient.begin("1.30", 30)
    assert not patient.join("1.20", 20)
    assert not patient.begin("1.40", 40)  # on its way
    assert not patient.join("1.40", 50)  # the UID stored again
    patient.expanded = True
    assert not patient.join("1.50", 50)
    patient.end("1.20")
    assert patient.done == (39, IntervalSet())
    assert not patient.ended
    patient.end("1.40")
    assert patient.ended


def test_a_patient_that_changed_again_is_read_once() -> None:
    progress, view = Progress(Checkpoint(identity=None, center="007")), View(10, 20, 30)
    patients = taken(progress, 1, 2)
    first, second = patients.page(view, 2) or [], patients.page(view, 2) or []
    assert [values["study_pk"] for values, _ in (*first, *second)] == [10, 20, 30]
    assert {tuple(change.row_id for change in changes) for _, changes in (*first, *second)} == {(1, 2)}
    assert not patients.waiting
    assert view.asked == [0, 20]
    for values, changes in (*first, *second):
        assert not patients.idle
        assert not progress.is_settled(1)
        patients.end(f"1.{values['study_pk']}", changes)
    assert progress.is_settled(1)
    assert progress.is_settled(2)
    assert patients.idle


def test_nothing_is_read_for_a_change_that_the_view_does_not_show_yet() -> None:
    progress, view = Progress(Checkpoint(identity=None, center="007")), View(10)
    patients = taken(progress, 1, 2)
    view.hidden = {1, 2}
    assert patients.page(view, 2) is None
    assert view.asked == []
    view.hidden = {2}
    ((_, changes),) = patients.page(view, 2) or []
    assert [change.row_id for change in changes] == [1]
    assert patients.waiting
