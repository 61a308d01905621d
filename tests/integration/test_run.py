"""`run` from a row in a real archive to a document in a real HTTP service, on each server."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.indexer import CENTER, KEY, Indexer, wait_until
from tests.invariant import assert_index_equals_pacs, assert_nothing_lost, parked_uids
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver
from tests.servers import Server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(KEY) as one:
        yield one


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.5})
    yield one
    one.close()


def unverified(indexer: Indexer) -> tuple[str, ...]:
    checkpoint = indexer.checkpoint()
    return checkpoint.unverified if checkpoint is not None else ()


def uids(receiver: Receiver) -> list[str]:
    return [entry.json["study_iuid"] for entry in receiver.accepted()]


def test_a_study_arrives_field_by_field(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pk = pacs.store_study("1.2.840.1", patient_name="NÚÑEZ^MARÍA", description="TÓRAX Y ABDOMEN")
        wait_until(lambda: receiver.accepted(), what="the first version")
        first = receiver.accepted()[0]
        ((patient_pk,),) = pacs.execute("SELECT patient_fk FROM study WHERE pk = %s", (pk,))
        assert first.json == {
            "patient_pk": patient_pk,
            "patient_id": "26267267-K",
            "patient_name": "NÚÑEZ^MARÍA",
            "study_pk": pk,
            "study_iuid": "1.2.840.1",
            "study_datetime": "2024-05-06 07:08:09",
            "study_description": "TÓRAX Y ABDOMEN",
            "study_modality": "",
            "study_series": 0,
            "study_instances": 0,
            "center": CENTER,
        }
        assert list(first.json) == [*list(first.json)[:10], "center"]
        assert first.method == "POST"
        assert first.headers["content-type"] == "application/json"
        assert first.headers["x-api-key"] == KEY
        assert first.headers["user-agent"].startswith("cdc-indexer/")
        pacs.update_counts(pk, 3, 412, "CT\\SR")
        wait_until(lambda: len(receiver.accepted()) == 2, what="the second version")
        second = receiver.accepted()[1]
        assert second.json == {
            **first.json,
            "study_series": 3,
            "study_instances": 412,
            "study_modality": "CT\\SR",
        }
        assert second.idempotency_key != first.idempotency_key
        # A first version that turns out to be right is not sent again.
        time.sleep(1.5)
        assert len(receiver.accepted()) == 2


@pytest.mark.parametrize("metadata", ["MINIMAL", "FULL"])
def test_odd_values(
    metadata: str, new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path
) -> None:
    pacs = Pacs.create(new_server(f"--binlog-row-metadata={metadata}"))
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.3})
    longest = "Ñ" * 250
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.store_study("1.1", patient_id="a", patient_name=longest, description=longest)
        pacs.store_study("1.2", patient_id=None, patient_name=None, description=None, study_datetime=None)
        pacs.store_study("1.3", patient_id="c", study_datetime="2024-05-06")
        pk = pacs.store_study("1.4", patient_id="d", description='"quotes" \\ back\\slash\n%s')
        pacs.update_counts(pk, 1, 2, "CT\\PT\\SR")
        wait_until(lambda: len(receiver.accepted()) >= 5, what="all versions")
    newest = {entry.json["study_iuid"]: entry.json for entry in receiver.accepted()}
    assert newest["1.1"]["patient_name"] == newest["1.1"]["study_description"] == longest
    for key in ("patient_id", "patient_name", "study_description", "study_datetime"):
        assert newest["1.2"][key] is None
    assert newest["1.3"]["study_datetime"] == "2024-05-06 00:00:00"
    assert newest["1.4"]["study_description"] == '"quotes" \\ back\\slash\n%s'
    assert newest["1.4"]["study_modality"] == "CT\\PT\\SR"
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)
    pacs.destroy()


def test_what_the_outbox_holds_is_sent_first_and_once(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = pacs.store_studies(50)
    with indexer.running():
        wait_until(lambda: len(receiver.accepted()) >= 50, what="what was there")
        stored += pacs.store_studies(50)
        wait_until(lambda: len(receiver.accepted()) >= 100, what="what came")
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up again")
    assert_nothing_lost(receiver.accepted(), stored)
    assert len(receiver.accepted()) == 100
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


def test_a_rolled_back_study_is_never_sent(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.store_study("1.1", commit=False)
        pacs.store_study("1.2")
        wait_until(lambda: receiver.accepted(), what="the one that was committed")
        time.sleep(1)
    assert uids(receiver) == ["1.2"]


def test_median_delay_is_milliseconds(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """No figure for the benchmarks: only that nothing on the way waits for a clock."""
    delays = []
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        for number in range(30):
            pacs.store_study(f"1.1.{number}", patient_id=str(number))
            committed = time.time()
            wait_until(lambda n=number: len(receiver.accepted()) > n, what="one study")  # type: ignore[misc]
            delays.append(receiver.accepted()[number].time - committed)
    assert statistics.median(delays) < 0.1


@pytest.mark.one_server
def test_one_transaction_of_50000_rows_killed_in_the_middle(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """FACTS 1.2: nothing of a transaction is lost, and only what was in flight is repeated."""
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
    receiver.clear()
    stored = pacs.insert_outbox_rows(50_000)
    kills = 0
    for share in (0.1, 0.3, 0.7):
        indexer.start()
        wait_until(lambda s=share: len(receiver.accepted()) > s * 50_000, 120, f"{share:.0%} sent")  # type: ignore[misc]
        indexer.kill()
        kills += 1
    with indexer.running():
        wait_until(lambda: len(set(uids(receiver))) == 50_000, 120, "all sent")
        wait_until(lambda: indexer.caught_up, 120, "the stream has passed it")
    assert_nothing_lost(receiver.accepted(), stored, repeated_at_most=8 * kills)


def test_rotation_under_load(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    stored = []
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        for _ in range(10):
            stored += pacs.insert_outbox_rows(20, one_transaction=False)
            pacs.execute("FLUSH BINARY LOGS")
        wait_until(lambda: len(receiver.accepted()) >= 200, what="all sent")
        wait_until(
            lambda: (
                (checkpoint := indexer.checkpoint()) is not None
                and checkpoint.position is not None
                and checkpoint.position.file == pacs.execute("SHOW BINARY LOGS")[-1][0]
            ),
            what="the position in the newest file",
        )
    assert_nothing_lost(receiver.accepted(), stored)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop_sends_none_twice(
    number: signal.Signals, pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = pacs.insert_outbox_rows(2000)
    receiver.always(Answer(delay_seconds=0.01))
    while len(receiver.accepted()) < 2000:
        before = len(receiver.accepted())
        indexer.start()
        # On a busy machine it takes a while; what is asked is what a stop leaves behind.
        wait_until(lambda b=before: len(receiver.accepted()) >= min(2000, b + 450), 120, "some sent")  # type: ignore[misc]
        assert indexer.stop(number) == 0, indexer.log
    assert_nothing_lost(receiver.accepted(), stored, repeated_at_most=0)


def test_a_machine_that_slept_goes_on(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        assert indexer.process is not None
        # More than once: what the first time leaves behind showed at the second.
        for count in (1, 2, 3):
            indexer.process.send_signal(signal.SIGSTOP)
            pacs.insert_outbox_rows(1)
            time.sleep(1.2)
            indexer.process.send_signal(signal.SIGCONT)
            wait_until(lambda count=count: len(receiver.accepted()) == count, what="the study")  # type: ignore[misc]
            time.sleep(0.2)


def test_two_versions_of_a_study_are_never_in_flight_together(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    receiver.always(Answer(delay_seconds=0.05))
    indexer.settings["delivery"] = {"settle_seconds": 0}
    indexer.write_files()
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        pks = [pacs.store_study(f"1.1.{n}", patient_id=str(n)) for n in range(4)]
        for images in range(1, 30):
            for pk in pks:
                pacs.update_counts(pk, 1, images, "CT")
            time.sleep(0.01)
        wait_until(
            lambda: sum(e.json["study_instances"] == 29 for e in receiver.accepted()) == 4,
            what="the last versions",
        )
    assert receiver.in_flight_together() == []
    assert_nothing_lost(receiver.accepted(), [f"1.1.{n}" for n in range(4)])
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


def test_corrections_merges_and_deletions(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        first = pacs.store_study("1.1", patient_id="a", patient_name="A")
        pacs.store_study("1.2", patient_id="a")
        pacs.store_study("1.3", patient_id="b", patient_name="B")
        gone = pacs.store_study("1.4", patient_id="b")
        wait_until(lambda: len(receiver.accepted()) == 4, what="first versions")
        ((a, b),) = pacs.execute("SELECT MIN(pk), MAX(pk) FROM patient")
        pacs.rename_patient(a, "PEÑA^ANA")
        wait_until(lambda: len(receiver.accepted()) == 6, what="both studies of the renamed patient")
        pacs.move_study(first, b)
        wait_until(lambda: len(receiver.accepted()) == 7, what="the study that was moved")
        pacs.delete_study(gone)
        time.sleep(1)
        assert len(receiver.accepted()) == 7
        pacs.store_study("1.4", patient_id="b")
        wait_until(lambda: len(receiver.accepted()) == 8, what="the study that was stored again")
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


def test_what_awaits_verification_survives_a_kill(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    indexer.settings["delivery"] = {"settle_seconds": 60}
    indexer.write_files()
    indexer.start()
    wait_until(lambda: indexer.caught_up, what="caught up")
    pk = pacs.store_study("1.1")
    wait_until(lambda: receiver.accepted(), what="the first version")
    wait_until(lambda: unverified(indexer) == ("1.1",), what="the state")
    indexer.kill()
    # As if the trigger had read a moment too early: the view is newer than the row, and no row will come.
    pacs.execute("SET @sent = (SELECT id FROM study_service WHERE study_pk = %s)", (pk,))
    pacs.execute("DROP TRIGGER indexer_study_update")
    pacs.update_counts(pk, 1, 7, "MR")
    with indexer.running():
        wait_until(lambda: len(receiver.accepted()) == 2, what="the correction")
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


def test_a_rejected_study_is_parked_and_the_others_go_on(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    receiver.for_studies(["1.2"], Answer(422, {"reason": "no such patient"}))
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        for uid in ("1.1", "1.2", "1.3"):
            pacs.store_study(uid, patient_id=uid)
        wait_until(lambda: len(receiver.accepted()) == 2, what="the others")
        wait_until(lambda: parked_uids(indexer.state_dir) == {"1.2"}, what="parked")
    assert_nothing_lost(receiver.accepted(), ["1.1", "1.2", "1.3"], parked=parked_uids(indexer.state_dir))
    assert "1.2" not in uids(receiver)


def test_until_caught_up_sends_all_and_ends(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    indexer.settings["delivery"] = {"settle_seconds": 60}
    indexer.write_files()
    stored = pacs.store_studies(300)
    pacs.update_counts(1, 2, 3, "CT")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert_nothing_lost(receiver.accepted(), stored)
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)
    sent = len(receiver.accepted())
    stored += pacs.store_studies(5)
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert len(receiver.accepted()) == sent + 5


def test_until_caught_up_beside_a_run_ends_quietly(pacs: Pacs, indexer: Indexer) -> None:
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        done = indexer.run("run", "--until-caught-up")
        assert done.returncode == 0
        assert done.stderr == ""
        second = indexer.run("run")
        assert second.returncode == 1
        assert indexer.process is not None
        assert f"`run` (process {indexer.process.pid}, since " in second.stderr
        assert len(second.stderr.splitlines()) == 1


def test_until_caught_up_says_that_the_index_is_away(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    pacs.store_study("1.1")
    receiver.refuse()
    done = indexer.run("run", "--until-caught-up")
    assert done.returncode == 1
    assert "can't be reached" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    receiver.listen()
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert uids(receiver) == ["1.1"]


def test_old_rows_of_the_same_study_are_superseded_after_a_start(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    pk = pacs.store_study("1.1")
    for images in range(1, 6):
        pacs.update_counts(pk, 1, images, "CT")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    (only,) = receiver.accepted()
    assert only.json["study_instances"] == 5


@pytest.mark.one_server
def test_memory_stays_flat_with_a_large_transaction(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    stored = pacs.insert_outbox_rows(30_000)
    peak = 0
    with indexer.running():
        assert indexer.process is not None
        status = Path(f"/proc/{indexer.process.pid}/status")
        while len(receiver.accepted()) < 30_000:
            peak = int(status.read_text().partition("VmHWM:")[2].split()[0])
            time.sleep(0.1)
    assert peak < 80 * 1024, f"{peak} KiB"
    assert_nothing_lost(receiver.accepted(), stored)
