"""Studies that live: grown, corrected, moved, merged, rejected, deleted, stored again; on both archives, on each server."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_indexer.model.position import Position
from tests.central.conftest import READER, Index
from tests.indexer import CENTER, KEY, Indexer, nothing_waits, wait_until
from tests.invariant import assert_index_equals_pacs, assert_nothing_lost, parked_uids
from tests.pacs import Pacs
from tests.pacs5 import Pacs5, Pacs5Before531
from tests.receiver import Answer, Entry, Receiver
from tests.servers import Server
from tests.simulator import Simulator

ARCHIVES = {"2.x": Pacs, "5.x": Pacs5, "before 5.31": Pacs5Before531}


@pytest.fixture(params=["2.x", "5.x"])
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pacs(server: Server, schema: str) -> Iterator[Pacs]:
    """An archive of each make with the indexer on `server`; dropped afterwards."""
    archive = ARCHIVES[schema].create(server)
    yield archive
    archive.destroy()


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.3})
    yield one
    one.close()


def deliver(indexer: Indexer, **settings: object) -> None:
    indexer.settings["delivery"] = {**indexer.settings["delivery"], **settings}
    indexer.write_files()


def documents(receiver: Receiver, study_iuid: str) -> list[dict[str, object]]:
    return [entry.json for entry in receiver.accepted() if entry.json["study_iuid"] == study_iuid]


def position(indexer: Indexer) -> Position | None:
    checkpoint = indexer.checkpoint()
    assert checkpoint is not None
    return checkpoint.position


def live(pacs: Pacs, receiver: Receiver, indexer: Indexer, steps: int) -> None:
    """A random life, with an index that is often busy and a kill in the middle; at the end both hold the same."""
    seed = int(os.environ.get("CDC_INDEXER_SEED") or random.randrange(10**6))
    print(f"CDC_INDEXER_SEED={seed}")  # pytest shows it when the test fails
    indexer.settings["fields"] = {"accession": "accession_no", "issuer": "patient_id_issuer"}
    deliver(indexer, deletes="delete")
    dice = random.Random(seed)

    def busy(entry: Entry) -> Answer | None:
        return Answer(503, b"", {"Retry-After": "0"}) if dice.random() < 0.05 else None

    receiver.answer_with(busy)
    simulator = Simulator(pacs, seed)
    simulator.run(steps // 4)
    # What was there before the indexer, as in a hospital, but for what the triggers recorded.
    assert indexer.run("initial").returncode == 0, indexer.log
    indexer.start()
    simulator.run(steps // 4)
    indexer.kill()
    simulator.run(steps // 4)
    with indexer.running():
        simulator.run(steps // 4)
        wait_until(lambda: receiver.holds() == simulator.documents(), 30, f"equal (seed {seed})")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
    assert receiver.holds() == simulator.documents()
    assert receiver.in_flight_together() == []
    assert_index_equals_pacs_without_fields(receiver, pacs)
    # Nothing is left that a later start would send.
    sent = len(receiver.sent())
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert len(receiver.sent()) == sent


def assert_index_equals_pacs_without_fields(receiver: Receiver, pacs: Pacs) -> None:
    """The view says the same as the simulator's own book-keeping, which the documents were compared with."""
    rows = pacs.execute("SELECT study_iuid, study_instances, patient_name FROM indexer_study")
    held = receiver.holds()
    assert {(row[0], row[1], row[2]) for row in rows} == {
        (uid, study["study_instances"], study["patient_name"]) for uid, study in held.items()
    }


def test_after_a_life_at_random_the_index_equals_the_archive(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    live(pacs, receiver, indexer, 240)


@pytest.mark.one_server
@pytest.mark.parametrize("schema", ["before 5.31"], indirect=True)
def test_after_a_life_before_5_31(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    live(pacs, receiver, indexer, 240)


# --- one image after the other ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "settle_seconds", "posts"),
    [(250, 0.5, 13), pytest.param(3000, 5, 13, marks=pytest.mark.soak)],
)
@pytest.mark.one_server
def test_a_ct_stored_image_by_image(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, images: int, settle_seconds: float, posts: int
) -> None:
    """50 images a second: the first at once, hardly any meanwhile, and the right counts once it is quiet."""
    deliver(indexer, settle_seconds=settle_seconds)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        began = time.time()
        pk = pacs.store_study("1.1")
        ((series_pk,),) = pacs.execute("SELECT pk FROM series")
        for number in range(1, images):
            time.sleep(max(0.0, began + number / 50 - time.time()))
            pacs.store_image(pk, series_pk)
        # So that the minute, or its likeness, was really one of images every 20 ms.
        assert time.time() - began < images / 50 * 1.2
        wait_until(
            lambda: documents(receiver, "1.1")[-1]["study_instances"] == images,
            settle_seconds + 30,
            "the counts",
        )
        wait_until(lambda: nothing_waits(indexer, pacs), 30, what="all settled")
    sent = [entry.time - began for entry in receiver.accepted()]
    assert sent[0] < 1
    assert len([moment for moment in sent if moment <= 60]) <= posts
    assert len(sent) <= posts + 1
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


@pytest.mark.one_server
@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
def test_a_graceful_stop_forgets_nothing_that_was_found_sent(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Rows that wait for a study that is as it was last sent cost no POST after a restart either."""
    deliver(indexer, settle_seconds=1)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        pacs.edit_study(pk, description="SENT", study_datetime=None)
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        before = position(indexer)
        for description in ("X", "SENT"):
            pacs.edit_study(pk, description=description, study_datetime=None)
        # The rows are read, and wait: so say the ones that a later study's arrival overtakes.
        pacs.store_study("1.2", patient_id="b")
        wait_until(lambda: documents(receiver, "1.2"), what="the other study")
        assert position(indexer) == before
    sent = [entry.json["study_iuid"] for entry in receiver.accepted()]
    assert sent == ["1.1", "1.1", "1.2"]
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
    assert [entry.json["study_iuid"] for entry in receiver.accepted()] == sent


# --- one POST for a study --------------------------------------------------------------------------------


@pytest.mark.one_server
def test_stable_sends_a_study_once_it_is_quiet(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    deliver(indexer, send="stable", settle_seconds=1)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        for _ in range(5):
            time.sleep(0.2)
            assert documents(receiver, "1.1") == []
            pacs.store_image(pk)
        wait_until(lambda: documents(receiver, "1.1"), what="the study")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        (only,) = documents(receiver, "1.1")
        assert only["study_instances"] == view_of(pacs, pk)["study_instances"]
        # Later versions are sent too, unless `updates` is false.
        pacs.edit_study(pk, description="CORRECTED", study_datetime=None)
        wait_until(lambda: len(documents(receiver, "1.1")) == 2, what="the correction")


def view_of(pacs: Pacs, study_pk: int) -> dict[str, object]:
    columns = ("study_instances", "study_description", "patient_name")
    (row,) = pacs.execute(f"SELECT {', '.join(columns)} FROM indexer_study WHERE study_pk = %s", (study_pk,))
    return dict(zip(columns, row, strict=True))


@pytest.mark.one_server
def test_without_updates_nothing_follows_the_first_post(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Not the images, not a correction on day 40, after restarts and with an outbox that was pruned meanwhile."""
    nothing_follows(pacs, receiver, indexer, "run")


@pytest.mark.one_server
@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
@pytest.mark.parametrize("began_with", ["initial", "initial --already-sent", "initial beside run"])
def test_without_updates_nothing_follows_what_initial_sent(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, began_with: str
) -> None:
    nothing_follows(pacs, receiver, indexer, began_with)


def nothing_follows(pacs: Pacs, receiver: Receiver, indexer: Indexer, began_with: str) -> None:
    deliver(indexer, updates=False, deletes="delete")
    pk, other = pacs.store_study("1.1", patient_id="a"), pacs.store_study("1.2", patient_id="b")
    if began_with == "initial --already-sent":
        pacs.execute("DELETE FROM study_service")  # stored before there was a trigger
    if began_with.startswith("initial -") or began_with == "initial":
        assert indexer.run(*began_with.split()).returncode == 0, indexer.log
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        if began_with == "initial beside run":
            assert indexer.run("initial").returncode == 0, indexer.log
        pacs.store_image(pk)
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
    sent = [] if began_with == "initial --already-sent" else ["1.1", "1.2"]
    assert sorted(receiver.study_iuids()) == sent
    receiver.clear()
    # Day 40, with nothing left of those days.
    pacs.execute("DELETE FROM study_service")
    ((patient_pk,),) = pacs.execute("SELECT patient_fk FROM study WHERE pk = %s", (pk,))
    pacs.edit_study(pk, description="CORRECTED", study_datetime=None)
    pacs.rename_patient(patient_pk, "RENAMED")
    pacs.move_study(other, patient_pk)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.store_image(pk)
        pacs.edit_study(other, description="CORRECTED", study_datetime=None)
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        assert receiver.sent() == []
        # A study that was deleted, there too, may come again; so may a new one.
        pacs.delete_study(pk)
        wait_until(lambda: [entry.deleted_iuid for entry in receiver.sent()] == ["1.1"], what="the DELETE")
        pacs.store_study("1.1", patient_id="a")
        pacs.store_study("1.3", patient_id="a")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
    assert sorted(receiver.study_iuids()) == ["1.1", "1.3"]


@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
@pytest.mark.one_server
def test_a_deleted_study_pk_may_be_sent_again(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """After an accepted DELETE the index holds none: an archive that gives the study again is believed."""
    deliver(indexer, updates=False, deletes="delete")
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")
        receiver.next(1, Answer(503, b""))
        pacs.delete_study(pk)
        wait_until(
            lambda: any(entry.deleted_iuid and entry.accepted for entry in receiver.sent()), what="deleted"
        )
        pacs.execute("ALTER TABLE study AUTO_INCREMENT = 1")
        assert pacs.store_study("1.1") == pk
        wait_until(lambda: receiver.study_iuids() == ["1.1", "1.1"], what="sent again")


@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
def test_a_primary_key_that_belongs_to_another_study_now(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Given to it by an archive that counts from its largest one, after a restart; or the study got another UID.

    The UID that a study had is deleted, as the triggers say.
    """
    deliver(indexer, deletes="delete", settle_seconds=1)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        receiver.wait_for(1)
        pacs.execute("UPDATE study SET study_iuid = '1.2' WHERE pk = %s", (pk,))
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")
        assert receiver.study_iuids() == ["1.1", "1.2"]
        pacs.execute("UPDATE study SET study_desc = 'old' WHERE pk = %s", (pk,))
        pacs.execute("UPDATE study SET study_iuid = '1.3' WHERE pk = %s", (pk,))
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")
        assert receiver.study_iuids() == ["1.1", "1.2", "1.3"]
    pacs.delete_study(pk)
    pacs.execute("ALTER TABLE study AUTO_INCREMENT = 1")
    assert pacs.store_study("1.4") == pk
    with indexer.running():
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")
    assert sorted((*entry.study_iuids, entry.method) for entry in receiver.sent()) == [
        ("1.1", "DELETE"),
        ("1.1", "POST"),
        ("1.2", "DELETE"),
        ("1.2", "POST"),
        ("1.3", "DELETE"),
        ("1.3", "POST"),
        ("1.4", "POST"),
    ]
    assert receiver.holds().keys() == {"1.4"}


# --- corrections -----------------------------------------------------------------------------------------


def test_corrections_moves_and_merges(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    sent = 0

    def sends(*wanted: str) -> None:
        """Exactly these studies are sent again, and then the index equals the archive."""
        nonlocal sent
        wait_until(lambda: len(receiver.accepted()) >= sent + len(wanted), what=f"sent: {wanted}")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        found = receiver.accepted()
        assert sorted(entry.json["study_iuid"] for entry in found[sent:]) == sorted(wanted)
        assert_index_equals_pacs(found, pacs, CENTER)
        sent = len(found)

    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        one = [pacs.store_study(f"1.1.{n}", patient_id="a", patient_name="A") for n in range(3)]
        other = pacs.store_study("1.2", patient_id="b", patient_name="B")
        first_counts = [] if type(pacs) is Pacs else ["1.1.0", "1.1.1", "1.1.2", "1.2"]
        sends("1.1.0", "1.1.1", "1.1.2", "1.2", *first_counts)
        ((a,),) = pacs.execute("SELECT patient_fk FROM study WHERE pk = %s", (one[0],))
        ((b,),) = pacs.execute("SELECT patient_fk FROM study WHERE pk = %s", (other,))
        pacs.rename_patient(a, "PEÑA^ANA")
        sends("1.1.0", "1.1.1", "1.1.2")
        pacs.change_patient_id(a, "26267267-K", "ÑUÑOA")
        sends("1.1.0", "1.1.1", "1.1.2")
        pacs.edit_study(other, description="CORRECTED", study_datetime="1999-12-31 23:59:59")
        sends("1.2")
        pacs.move_study(one[0], b)
        sends("1.1.0")
        # A merge: all studies go over, and what is left of the patient is marked.
        with pacs.transaction():
            pacs.execute("UPDATE study SET patient_fk = %s WHERE patient_fk = %s", (b, a))
            pacs.execute("UPDATE patient SET merge_fk = %s WHERE pk = %s", (b, a))
        sends("1.1.1", "1.1.2")
        # Values as they were last sent are not sent again, however often they are touched.
        for _ in range(3):
            with pacs.transaction():
                pacs.execute("UPDATE study SET study_desc = 'X' WHERE pk = %s", (other,))
                pacs.execute("UPDATE study SET study_desc = 'CORRECTED' WHERE pk = %s", (other,))
            time.sleep(0.8)  # so that each is verified by itself
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        assert len(receiver.accepted()) == sent
    # Nor are those of a patient that was renamed several times: the first time the view has the last name.
    for name in ("A", "B", "C", "D"):
        pacs.rename_patient(b, name)
    with indexer.running():
        sends("1.1.0", "1.1.1", "1.1.2", "1.2")


@pytest.mark.one_server
@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
def test_a_patient_with_5000_studies_killed_in_the_middle(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """One row in the outbox; every study once, in flat memory; the row settled after the last of them."""
    count = 5000
    patient_pk = pacs.add_patient("a", "A")
    pacs.execute(
        "INSERT INTO study (patient_fk, study_iuid, mods_in_study, num_series, num_instances, availability, study_status)"
        " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        " SELECT %s, CONCAT('1.', m.j, '.', n.i), 'CT', 1, 1, 0, 0 FROM n,"
        " (SELECT 1 AS j UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5) m",
        (patient_pk,),
    )
    pacs.execute("DELETE FROM study_service")
    assert indexer.run("initial", "--already-sent").returncode == 0, indexer.log
    indexer.start()
    wait_until(lambda: indexer.caught_up, what="caught up")
    pacs.rename_patient(patient_pk, "PEÑA^ANA")
    ((row_id,),) = pacs.execute("SELECT id FROM study_service WHERE operation = 'patient'")
    assert len(pacs.execute("SELECT id FROM study_service WHERE id >= %s", (row_id,))) == 1
    wait_until(lambda: len(receiver.accepted()) > count / 3, 60, "a third")
    assert not nothing_waits(indexer, pacs)
    indexer.kill()
    with indexer.running():
        wait_until(lambda: len(set(receiver.study_iuids())) == count, 60, "all of them")
        wait_until(lambda: nothing_waits(indexer, pacs), what="the row settled")
        assert indexer.process is not None
        status = Path(f"/proc/{indexer.process.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 80 * 1024, f"{peak} KiB"
    assert {entry.json["patient_name"] for entry in receiver.accepted()} == {"PEÑA^ANA"}
    assert_nothing_lost(receiver.accepted(), set(receiver.study_iuids()), repeated_at_most=8)
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


# --- deletions -------------------------------------------------------------------------------------------


@pytest.mark.one_server
def test_a_deletion_is_sent_and_what_comes_after_it(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    deleted_and_stored_again(pacs, receiver, indexer, Answer())


@pytest.mark.one_server
@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
@pytest.mark.parametrize("status", [404, 410])
def test_a_deletion_of_what_the_index_does_not_have_is_done(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, status: int
) -> None:
    deleted_and_stored_again(pacs, receiver, indexer, Answer(status, b""))


def deleted_and_stored_again(pacs: Pacs, receiver: Receiver, indexer: Indexer, answer: Answer) -> None:
    deliver(indexer, deletes="delete")
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        pacs.store_study("1.2")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        receiver.for_studies(["1.1"], answer)
        receiver.next(1, Answer(503, b""))
        pacs.delete_study(pk)
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")
        refused, taken = receiver.sent()[-2:]
        receiver.normal()
        pacs.store_study("1.1", description="AGAIN")
        wait_until(
            lambda: documents(receiver, "1.1")[-1]["study_description"] == "AGAIN", what="indexed again"
        )
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
    assert (refused.method, taken.method) == ("DELETE", "DELETE")
    assert taken.path == f"/api/v1/register/1.1?center={CENTER}"
    assert taken.headers["x-api-key"] == KEY
    assert refused.idempotency_key == taken.idempotency_key is not None
    assert parked_uids(indexer.state_dir) == set()
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


@pytest.mark.one_server
def test_deletions_are_not_sent_unless_asked_for(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        wait_until(lambda: documents(receiver, "1.1"), what="the study")
        pacs.delete_study(pk)
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")
    assert {entry.method for entry in receiver.sent()} == {"POST"}


@pytest.mark.one_server
@pytest.mark.parametrize("schema", ["2.x"], indirect=True)
def test_a_deletion_that_the_index_rejects_is_parked(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    deliver(indexer, deletes="delete")
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.1")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        receiver.always(Answer(422, {"reason": "no"}))
        pacs.delete_study(pk)
        wait_until(lambda: parked_uids(indexer.state_dir) == {"1.1"}, what="parked")
        wait_until(lambda: nothing_waits(indexer, pacs), what="settled")


@pytest.mark.one_server
def test_the_reference_index_deletes_and_takes_it_again(pacs: Pacs, tmp_path: Path, indexer: Indexer) -> None:
    """extras/central as the index: what it holds follows the archive, and what it doesn't hold is no fault."""
    (tmp_path / "central").mkdir()
    index = Index(tmp_path / "central")
    index.write_keys({"centers": {CENTER: KEY}, "readers": {"radiology": READER}})
    index.start()

    def holds(*wanted: str) -> bool:
        return sorted(study["study_iuid"] for study in index.studies()) == sorted(wanted)

    try:
        indexer.settings["webservice_url"] = f"{index.url}/api/v1/register"
        deliver(indexer, deletes="delete")
        never_sent = pacs.store_study("1.0")
        pacs.execute("DELETE FROM study_service")
        assert indexer.run("initial", "--already-sent").returncode == 0, indexer.log
        with indexer.running():
            wait_until(lambda: indexer.caught_up, what="caught up")
            pk = pacs.store_study("1.1")
            pacs.store_study("1.2")
            wait_until(lambda: holds("1.1", "1.2"), what="both studies")
            pacs.delete_study(pk)
            pacs.delete_study(never_sent)
            wait_until(lambda: holds("1.2"), what="one is gone")
            pacs.store_study("1.1", description="AGAIN")
            wait_until(lambda: holds("1.1", "1.2"), what="it is there again")
            wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
        assert parked_uids(indexer.state_dir) == set()
        (again,) = index.studies(study_iuid="1.1")
        assert again["study_description"] == "AGAIN"
    finally:
        index.stop()
        index.session.close()


# --- more fields -----------------------------------------------------------------------------------------


@pytest.mark.one_server
def test_fields_come_after_the_eleven(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    patient_pk = pacs.add_patient("a", "A", "HOSPITAL ÑUÑOA")
    pacs.store_study("1.1", patient_pk=patient_pk, accession_no="ACC-1")
    pacs.store_study("1.2", patient_pk=pacs.add_patient("b", "B"))
    with indexer.running():
        wait_until(lambda: len(set(receiver.study_iuids())) == 2, what="without")
        wait_until(lambda: nothing_waits(indexer, pacs), what="all settled")
    assert {len(entry.json) for entry in receiver.accepted()} == {11}
    receiver.clear()
    indexer.settings["fields"] = {"accession_number": "accession_no", "issuer": "patient_id_issuer"}
    indexer.write_files()
    assert indexer.run("initial").returncode == 0, indexer.log
    held = receiver.holds()
    assert list(held["1.1"])[11:] == ["accession_number", "issuer"]
    assert (held["1.1"]["accession_number"], held["1.1"]["issuer"]) == ("ACC-1", "HOSPITAL ÑUÑOA")
    assert (held["1.2"]["accession_number"], held["1.2"]["issuer"]) == (None, None)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.3", patient_pk=patient_pk, accession_no="ACC-3")
        wait_until(lambda: "1.3" in receiver.holds(), what="a new one")
        pacs.execute("UPDATE study SET accession_no = 'ACC-4' WHERE pk = %s", (pk,))
        wait_until(lambda: receiver.holds()["1.3"]["accession_number"] == "ACC-4", what="a correction")
    assert list(receiver.holds()["1.3"])[11:] == ["accession_number", "issuer"]
    assert receiver.holds()["1.3"]["issuer"] == "HOSPITAL ÑUÑOA"
