"""SIGKILL of the indexer at every step of the way: before a POST, after it, around a commit."""

from __future__ import annotations

import time

import pytest

from tests.faults.case import CONCURRENCY, Case, tear
from tests.indexer import nothing_waits, wait_until
from tests.receiver import Answer

#: Where cdc_indexer/model/failpoints.py kills, in the order of the way.
FAILPOINTS = ("after_read", "before_post", "after_post", "before_commit", "after_commit")

ROWS = 20_000


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_under_single_row_load(case: Case, failpoint: str) -> None:
    with case.load() as load:
        for count in (1, 7, 40):
            case.indexer.start(failpoint=f"{failpoint}:{count}")
            case.killed_at_failpoint()
        case.start_under_load()
        case.arrives(load.committed[:])
    case.loaded(load)
    case.finish()


def test_what_was_posted_and_not_settled_is_what_is_repeated(case: Case) -> None:
    """That the kill between POST and commit repeats something shows that the others could have."""
    case.indexer.start(failpoint="after_post:3")
    case.store(3)
    case.killed_at_failpoint()
    case.start()
    case.arrives(case.committed)

    def repeated() -> int:
        accepted = case.receiver.accepted()
        return len(accepted) - len({entry.idempotency_key for entry in accepted})

    wait_until(lambda: repeated() >= 1, what="what was posted and not settled")
    assert repeated() <= 3
    case.finish()


@pytest.mark.parametrize(
    "failpoint",
    [
        "after_read:9",
        "before_post:300",
        "after_post:300",
        "before_commit:50",
        "after_commit:50",
    ],
)
def test_killed_within_a_transaction_that_streams_in(case: Case, failpoint: str) -> None:
    """FACTS 1.2: no place inside a transaction is ever read from again."""
    case.start(failpoint=failpoint)
    case.committed += case.pacs.insert_outbox_rows(2_000)
    case.killed_at_failpoint()
    case.start()
    case.finish(120, equal=False)


def test_killed_at_each_place_within_one_large_transaction(case: Case) -> None:
    """Each time it goes on where it was; nothing of what was settled is sent again."""
    case.start()
    case.indexer.stop()
    case.committed += case.pacs.insert_outbox_rows(ROWS)
    for failpoint in (
        "before_post:1500",
        "after_post:1500",
        "before_commit:200",
        "after_commit:200",
        "after_read:3",
    ):
        case.indexer.start(failpoint=failpoint)
        case.killed_at_failpoint(120)
    case.start()
    case.finish(120, equal=False)


@pytest.mark.parametrize("failpoint", FAILPOINTS[1:])
def test_initial_killed(case: Case, failpoint: str) -> None:
    case.committed += case.pacs.store_studies(600)
    for count in (1, 20, 40):
        case.indexer.start("initial", failpoint=f"{failpoint}:{count}")
        case.killed_at_failpoint()
    case.committed += case.pacs.store_studies(5)
    assert case.indexer.run("initial").returncode == 0, case.indexer.log
    case.start()
    case.finish(two_sources=True)


def test_run_killed_while_it_feeds_an_initial(case: Case) -> None:
    """`initial` beside `run` says that `run` has ended; the next one goes on from there."""
    case.receiver.always(Answer(delay_seconds=0.01))
    case.committed += case.pacs.store_studies(1_500)
    # So that the studies are initial's alone.
    case.pacs.execute("TRUNCATE study_service")
    case.start()
    with case.load() as load:
        for share in (200, 600):
            before = len(case.receiver.accepted())
            beside = case.beside("initial")
            wait_until(lambda b=before, s=share: len(case.receiver.accepted()) > b + s, what="some")  # type: ignore[misc]
            case.kill()
            assert beside.wait(30) == 1
            case.start_under_load()
        beside = case.beside("initial")
        assert beside.wait(60) == 0
    case.loaded(load)
    case.finish(two_sources=True)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_ended_while_a_renamed_patients_studies_are_sent(case: Case, how: str) -> None:
    """One row stands for all of them, and is settled after the last: those that were sent are remembered one by one."""
    case.store(300)
    case.start()
    case.arrives(case.committed)
    time.sleep(1)  # all verified
    case.receiver.always(Answer(delay_seconds=0.02))
    ((patient_pk,),) = case.pacs.execute("SELECT pk FROM patient")
    case.pacs.rename_patient(patient_pk, "NÚÑEZ^MARÍA JOSÉ")
    for share in (60, 150, 220):
        wait_until(lambda s=share: len(case.receiver.accepted()) >= 300 + s, what="a part of them")  # type: ignore[misc]
        if how == "killed":
            case.kill()
        else:
            assert case.indexer.stop() == 0
            case.fault()
        case.indexer.start()
    case.finish()
    assert nothing_waits(case.indexer, case.pacs)


def test_killed_with_a_torn_log(case: Case) -> None:
    """A disk that lost the end of what was written last: the commit before it counts."""
    case.start()
    case.store(20)
    case.arrives(case.committed)
    case.kill()
    tear(case.indexer.state_dir / "state.sqlite-wal", 40)
    case.fault(repeats=CONCURRENCY)
    case.start()
    case.store(5)
    case.finish()
