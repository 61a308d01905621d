"""`deletes: delete`: a patient who goes with the studies, a study without a patient, a study that gets another UID.

The rows are those of the triggers. Where a trigger doesn't write one yet, the test writes it as the trigger would.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver

pytestmark = pytest.mark.one_server


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url)
    deliver(one)
    yield one
    one.close()


def deliver(indexer: Indexer, **delivery: object) -> None:
    indexer.settings["delivery"] = {"settle_seconds": 0.5, "deletes": "delete", **delivery}
    indexer.write_files()


def record_deleted(pacs: Pacs, study_pk: int) -> None:
    """What the trigger does before an UPDATE by which the index has to forget this study's UID."""
    ((trigger,),) = pacs.execute(
        "SELECT ACTION_STATEMENT FROM information_schema.TRIGGERS"
        " WHERE TRIGGER_SCHEMA = DATABASE() AND TRIGGER_NAME = 'indexer_study_update'"
    )
    if "'deleted'" not in str(trigger):
        pacs.execute(
            "INSERT INTO study_service (operation, study_pk, study_iuid, recorded_at)"
            " SELECT 'deleted', pk, study_iuid, UTC_TIMESTAMP(6) FROM study WHERE pk = %s",
            (study_pk,),
        )


def change_uid(pacs: Pacs, study_pk: int, study_iuid: str) -> None:
    with pacs.transaction():
        record_deleted(pacs, study_pk)
        pacs.execute("UPDATE study SET study_iuid = %s WHERE pk = %s", (study_iuid, study_pk))


def take_patient(pacs: Pacs, study_pk: int) -> None:
    record_deleted(pacs, study_pk)
    pacs.execute("UPDATE study SET patient_fk = NULL WHERE pk = %s", (study_pk,))


def delete_patient(pacs: Pacs, patient_pk: int) -> None:
    """As DCM4CHEE 2.18 does it, in one transaction: the studies lose their patient, he goes, they go."""
    with pacs.transaction():
        pks = [row[0] for row in pacs.execute("SELECT pk FROM study WHERE patient_fk = %s", (patient_pk,))]
        for pk in pks:
            take_patient(pacs, pk)
        pacs.execute("DELETE FROM patient WHERE pk = %s", (patient_pk,))
        for pk in pks:
            pacs.delete_study(pk)


def requests(receiver: Receiver) -> list[tuple[str, str]]:
    return [(entry.method, *entry.study_iuids) for entry in receiver.sent() if entry.accepted]  # type: ignore[misc]


def patient_of(pacs: Pacs, study_pk: int) -> int:
    ((patient_pk,),) = pacs.execute("SELECT patient_fk FROM study WHERE pk = %s", (study_pk,))
    return int(patient_pk)


@pytest.mark.parametrize("updates", [True, False])
def test_a_patient_is_deleted_with_the_studies(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, updates: bool
) -> None:
    deliver(indexer, updates=updates)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pks = [pacs.store_study(uid, patient_id="a", patient_name="A") for uid in ("1.1", "1.2")]
        other = pacs.store_study("1.3", patient_id="b", patient_name="B")
        wait_until(lambda: len(receiver.holds()) == 3, what="the studies")
        delete_patient(pacs, patient_of(pacs, pks[0]))
        wait_until(lambda: receiver.holds().keys() == {"1.3"}, what="those of the patient gone")
        # The same UIDs again are studies like any other.
        pacs.store_study("1.1", patient_pk=patient_of(pacs, other))
        wait_until(lambda: receiver.holds().keys() == {"1.1", "1.3"}, what="stored again")
        time.sleep(1.5)
    assert sorted(requests(receiver)) == [
        ("DELETE", "1.1"),
        ("DELETE", "1.2"),
        ("POST", "1.1"),
        ("POST", "1.1"),
        ("POST", "1.2"),
        ("POST", "1.3"),
    ]


def test_a_deletion_while_nobody_listens(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    pk = pacs.store_study("1.1")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    delete_patient(pacs, patient_of(pacs, pk))
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert requests(receiver) == [("POST", "1.1"), ("DELETE", "1.1")]


@pytest.mark.parametrize("updates", [True, False])
def test_a_study_without_a_patient_counts_as_deleted_until_it_has_one(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, updates: bool
) -> None:
    deliver(indexer, updates=updates)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        patient_pk = patient_of(pacs, pk)
        wait_until(lambda: receiver.holds(), what="the study")
        time.sleep(1)
        take_patient(pacs, pk)
        wait_until(lambda: not receiver.holds(), what="it gone")
        pacs.update_counts(pk, 1, 2, "CT")  # not while it has no patient
        time.sleep(1)
        assert requests(receiver) == [("POST", "1.1"), ("DELETE", "1.1")]
        pacs.execute("UPDATE study SET patient_fk = %s WHERE pk = %s", (patient_pk, pk))
        wait_until(lambda: receiver.holds(), what="it again")
        time.sleep(1.5)
    assert requests(receiver) == [("POST", "1.1"), ("DELETE", "1.1"), ("POST", "1.1")]
    assert receiver.holds()["1.1"]["study_instances"] == 2


@pytest.mark.parametrize("send", ["immediate", "stable"])
@pytest.mark.parametrize("updates", [True, False])
def test_another_uid(pacs: Pacs, receiver: Receiver, indexer: Indexer, updates: bool, send: str) -> None:
    """The index forgets the old one and learns the new one, however quickly one follows the other."""
    deliver(indexer, updates=updates, send=send)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        pacs.update_counts(pk, 1, 2, "CT")
        wait_until(lambda: receiver.holds(), what="the study")
        time.sleep(1)
        receiver.next(1, Answer(503, b"", {"Retry-After": "0"}))
        change_uid(pacs, pk, "1.2")
        wait_until(lambda: receiver.holds().keys() == {"1.2"}, what="the new UID")
        change_uid(pacs, pk, "1.3")
        change_uid(pacs, pk, "1.4")
        wait_until(lambda: receiver.holds().keys() == {"1.4"}, what="the last UID")
        time.sleep(1.5)
        assert receiver.holds().keys() == {"1.4"}
    # And while nobody listens.
    change_uid(pacs, pk, "1.5")
    with indexer.running():
        wait_until(lambda: receiver.holds().keys() == {"1.5"}, what="the UID after a restart")
        time.sleep(1)
    assert receiver.holds().keys() == {"1.5"}
    assert receiver.study_iuids().count("1.5") == 1


def test_another_uid_at_an_index_that_is_not_told_of_deletions(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """It learns the new one at least."""
    deliver(indexer, deletes="ignore", updates=False)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        wait_until(lambda: receiver.study_iuids() == ["1.1"], what="the study")
        change_uid(pacs, pk, "1.2")
        wait_until(lambda: receiver.study_iuids() == ["1.1", "1.2"], what="the new UID")
        pacs.edit_study(pk, description="CORRECTED", study_datetime=None)
        time.sleep(1.5)
    assert requests(receiver) == [("POST", "1.1"), ("POST", "1.2")]


def test_another_uid_while_the_old_one_is_on_its_way(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    deliver(indexer, updates=False, settle_seconds=2)
    receiver.for_studies(["1.1"], Answer(delay_seconds=1))
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        wait_until(lambda: receiver.sent(), what="the study on its way")
        change_uid(pacs, pk, "1.2")
        wait_until(lambda: receiver.holds().keys() == {"1.2"}, what="the new UID")
        pacs.edit_study(pk, description="CORRECTED", study_datetime=None)
        time.sleep(3)
    assert requests(receiver) == [("POST", "1.1"), ("DELETE", "1.1"), ("POST", "1.2")]
