"""`initial`: what the archive already holds, alone and beside `run`, interrupted and taken up again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.indexer import CENTER, KEY, Indexer, nothing_waits, wait_until
from tests.invariant import assert_index_equals_pacs, assert_nothing_lost, parked_uids
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(KEY) as one:
        yield one


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.5})
    yield one
    one.close()


def test_every_study_once_and_then_run_goes_on_without_a_gap(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = pacs.store_studies(1200)
    done = indexer.run("initial")
    assert done.returncode == 0, done.stderr
    assert_nothing_lost(receiver.accepted(), stored)
    assert len(receiver.accepted()) == 1200
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)
    stored += pacs.store_studies(30)  # between the two
    with indexer.running():
        wait_until(lambda: len(receiver.accepted()) >= 1230, what="what came in between")
        wait_until(lambda: indexer.caught_up, what="caught up")
    assert len(receiver.accepted()) == 1230
    assert_nothing_lost(receiver.accepted(), stored)


def test_patients_without_a_study_are_left_out(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    pacs.add_patient("nobody", "NOBODY")
    pacs.store_study("1.1")
    assert indexer.run("initial").returncode == 0
    assert [entry.json["study_iuid"] for entry in receiver.accepted()] == ["1.1"]


def causes(indexer: Indexer) -> list[str]:
    """What `status` says is wrong."""
    problems = json.loads(indexer.run("status", "--json").stdout)["problems"]
    return [one["cause"] for one in problems]


def test_killed_again_and_again_it_goes_on_where_it_was(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = pacs.store_studies(3000)
    receiver.always(Answer(delay_seconds=0.003))
    kills = 0
    for share in (0.2, 0.5, 0.8):
        indexer.start("initial")
        wait_until(lambda s=share: len(receiver.accepted()) > s * 3000, what=f"{share:.0%} sent")  # type: ignore[misc]
        indexer.kill()
        kills += 1
    assert indexer.run("initial").returncode == 0, indexer.log
    assert_nothing_lost(receiver.accepted(), stored, repeated_at_most=8 * kills)
    assert "going on where the last" in indexer.log


def test_a_signal_ends_it_with_status_0_and_repeats_nothing(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = pacs.store_studies(1500)
    receiver.always(Answer(delay_seconds=0.005))
    indexer.start("initial")
    wait_until(lambda: len(receiver.accepted()) > 300, what="some sent")
    assert indexer.stop(signal.SIGINT) == 0
    assert indexer.run("initial").returncode == 0
    assert_nothing_lost(receiver.accepted(), stored)
    assert len(receiver.accepted()) == 1500


def test_chosen_studies_that_were_interrupted_repeat_nothing(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = [f"1.{number}" for number in range(300)]
    for uid in stored:
        pacs.store_study(uid)
    chosen = [argument for uid in stored for argument in ("--study-iuid", uid)]
    receiver.always(Answer(delay_seconds=0.01))
    indexer.start("initial", *chosen)
    wait_until(lambda: len(receiver.accepted()) > 100, what="some sent")
    assert indexer.stop(signal.SIGTERM) == 0
    assert indexer.run("initial", *chosen).returncode == 0
    assert sorted(receiver.study_iuids()) == sorted(stored)


def test_what_it_can_be_asked_for(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    for uid, day in (
        ("1.1", "2020-01-31"),
        ("1.2", "2020-02-01 23:59:59"),
        ("1.3", "2020-02-02"),
        ("1.4", None),
    ):
        pacs.store_study(uid, study_datetime=day)

    def sent(*arguments: str) -> set[str]:
        receiver.clear()
        done = indexer.run("initial", *arguments)
        assert done.returncode == 0, done.stderr
        return {entry.json["study_iuid"] for entry in receiver.accepted()}

    assert sent("--restart", "--since", "2020-02-01") == {"1.2", "1.3"}
    assert sent("--restart", "--until", "2020-02-01") == {"1.1", "1.2"}
    assert sent("--restart", "--since", "2020-02-01", "--until", "2020-02-01") == {"1.2"}
    # What the index has already is left out.
    assert sent("--until", "2020-02-01") == {"1.1"}
    assert sent("--study-iuid", "1.2", "--study-iuid", "1.4", "--study-iuid", "9.9") == {"1.4"}
    assert sent("--rate", "1000") == {"1.3"}
    assert sent("--restart", "--rate", "10") == {"1.1", "1.2", "1.3", "1.4"}
    times = sorted(entry.time for entry in receiver.accepted())
    assert times[3] - times[0] > 0.2  # three tenths, and a slow machine


def test_what_the_index_has_is_sent_again_only_by_a_new_beginning_and_under_a_new_key(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    pacs.store_study("1.1")
    for arguments in ((), (), ("--restart",)):
        assert indexer.run("initial", *arguments).returncode == 0
    first, second = receiver.accepted()
    assert first.json == second.json
    assert first.idempotency_key != second.idempotency_key


@pytest.mark.one_server
def test_named_studies_that_are_not_there_are_said(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    pacs.store_study("1.1")
    done = indexer.run("initial", "--study-iuid", "9.8", "--study-iuid", "1.1")
    assert (done.returncode, "9.8 isn't in the archive." in done.stderr) == (0, True)
    assert receiver.study_iuids() == ["1.1"]
    done = indexer.run("initial", "--study-iuid", "9.8", "--study-iuid", "9.9")
    assert done.returncode == 1
    assert "9.9 isn't in the archive." in done.stderr
    assert "No study is sent" in done.stderr
    assert indexer.run("initial", "--study-iuid", "1.1").returncode == 0


def test_dry_run_prints_and_sends_nothing(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    stored = pacs.store_studies(700)
    done = indexer.run("initial", "--dry-run")
    assert done.returncode == 0
    assert {json.loads(line)["study_iuid"] for line in done.stdout.splitlines()} == set(stored)
    assert receiver.entries() == []
    assert not indexer.state_dir.exists()


def test_already_sent_settles_without_sending(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    stored = pacs.store_studies(700)
    indexer.settings["delivery"] = {"updates": False, "send": "stable", "settle_seconds": 0.3}
    indexer.write_files()
    pacs.execute("DELETE FROM study_service")  # stored before there was a trigger
    assert indexer.run("initial", "--already-sent").returncode == 0
    new = pacs.store_study("1.1")
    pacs.update_counts(new, 1, 4, "CT")
    with indexer.running():
        wait_until(lambda: receiver.accepted(), what="the new study")
        pacs.execute("UPDATE study SET study_desc = 'CORRECTED' WHERE study_iuid = %s", (stored[0],))
        pacs.update_counts(new, 1, 5, "CT")
        wait_until(lambda: indexer.caught_up, what="caught up")
        pacs.execute("UPDATE study SET study_desc = 'AGAIN' WHERE study_iuid = %s", (stored[1],))
        wait_until(lambda: nothing_waits(indexer, pacs), what="quiet")
    assert [entry.json["study_iuid"] for entry in receiver.accepted()] == ["1.1"]


def test_rejected_studies_are_parked(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    stored = pacs.store_studies(100)
    receiver.for_studies(stored[:3], Answer(400, {"error": "no"}))
    assert indexer.run("initial").returncode == 0
    assert parked_uids(indexer.state_dir) == set(stored[:3])
    assert_nothing_lost(receiver.accepted(), stored, parked=parked_uids(indexer.state_dir))


def test_an_index_that_refuses_the_key_ends_it_with_one_sentence(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    stored = pacs.store_studies(20)
    receiver.key = "another-key"
    done = indexer.run("initial")
    assert done.returncode == 1
    assert "refuses the key" in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout
    receiver.key = KEY
    assert indexer.run("initial").returncode == 0
    assert_nothing_lost(receiver.accepted(), stored)


def test_beside_a_run_it_is_fed_by_that(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    stored = pacs.store_studies(1000)
    pacs.execute("DELETE FROM study_service")  # so that they are initial's alone
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        assert receiver.accepted() == []
        done = indexer.run("initial")
        assert done.returncode == 0, done.stderr
        assert len(receiver.accepted()) == 1000
        live = pacs.store_study("1.1")
        wait_until(lambda: len(receiver.accepted()) == 1001, what="a live study")
        pacs.update_counts(live, 1, 2, "CT")
        wait_until(lambda: len(receiver.accepted()) == 1002, what="its second version")
    assert_nothing_lost(receiver.accepted(), [*stored, "1.1"])
    assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)


def test_beside_a_run_a_signal_takes_the_request_back(
    pacs: Pacs, receiver: Receiver, indexer: Indexer, tmp_path: Path
) -> None:
    pacs.store_studies(2000)
    pacs.execute("DELETE FROM study_service")
    receiver.always(Answer(delay_seconds=0.05))
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        beside = Indexer(indexer.directory, pacs, receiver.url)
        beside.start("initial")
        wait_until(lambda: len(receiver.accepted()) > 50, what="some sent")
        assert beside.stop() == 0
        wait_until(lambda: "the initial was stopped" in indexer.log, what="stopped")
        assert len(receiver.accepted()) < 2000


@pytest.mark.one_server
def test_beside_a_run_one_that_was_interrupted_is_done_once(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Whoever asks for it again, when it is done, has the whole archive looked at."""
    pacs.store_studies(1500)
    receiver.always(Answer(delay_seconds=0.005))
    indexer.start("initial")
    wait_until(lambda: len(receiver.accepted()) > 300, what="some sent")
    assert indexer.stop(signal.SIGINT) == 0
    receiver.always(Answer())
    assert "initial_unfinished" in causes(indexer)
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        wait_until(lambda: causes(indexer) == ["initial_unfinished"], what="that it isn't done is said")
        done = [json.loads(indexer.run("initial").stderr.splitlines()[-1]) for _ in range(2)]
        wait_until(lambda: causes(indexer) == [], what="all is well")
    assert [one["event"] for one in done] == ["initial done"] * 2
    assert (done[1]["sent"], done[1]["not_needed"]) == (0, 1500)
    assert len(receiver.accepted()) == 1500


def test_another_centre_is_a_choice_for_a_person(pacs: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    pacs.store_study("1.1")
    assert indexer.run("run", "--until-caught-up").returncode == 0
    indexer.center = "008"
    indexer.write_files()
    refused = indexer.run("run", "--until-caught-up")
    assert refused.returncode == 1
    assert "'008'" in refused.stderr
    assert "initial --restart" in refused.stderr
    assert indexer.run("initial", "--restart").returncode == 0
    assert [entry.json["center"] for entry in receiver.accepted()] == [CENTER, "008"]
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert len(receiver.accepted()) == 2
