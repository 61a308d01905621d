"""A busy archive while add_indexer.sql is applied again and again beside it."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.sql_archive import ADD, SCHEMA, Session

PATIENTS = 12


@dataclass
class Work:
    """What one session of the archive did, and how long its statements took."""

    seed: int
    errors: list[str] = field(default_factory=list)
    stored: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    transactions: int = 0
    longest_seconds: float = 0.0


def busy(session: Session, work: Work, until: threading.Event) -> None:
    """Stores, counts, renames, merges and deletes at random.

    Each session has its own studies and shares the patients, and takes a patient's row before a study's: two such
    sessions never deadlock by themselves.
    """
    dice = random.Random(work.seed)
    mine: list[int] = []
    session("SET SESSION lock_wait_timeout = 30, innodb_lock_wait_timeout = 30")
    while not until.is_set():
        patient_pk = dice.randint(1, PATIENTS)
        action = dice.choice(
            ["store", "store", "count", "count", "rename", "rename and count", "merge", "delete"]
        )
        started = time.monotonic()
        try:
            if action == "store" or not mine:
                mine.append(session.study(patient_pk, f"1.{work.seed}.{work.transactions}"))
                work.stored.add(mine[-1])
            elif action == "count":
                session("UPDATE study SET num_instances = num_instances + 1 WHERE pk = %s", dice.choice(mine))
            elif action == "rename":
                session("UPDATE patient SET pat_name = %s WHERE pk = %s", f"N{dice.random()}", patient_pk)
            elif action == "rename and count":
                session("START TRANSACTION")
                session("UPDATE patient SET pat_name = %s WHERE pk = %s", f"N{dice.random()}", patient_pk)
                session("UPDATE study SET num_series = num_series + 1 WHERE pk = %s", dice.choice(mine))
                session("COMMIT")
            elif action == "merge":
                session("UPDATE study SET patient_fk = %s WHERE pk = %s", patient_pk, dice.choice(mine))
            else:
                gone = mine.pop(dice.randrange(len(mine)))
                session("DELETE FROM study WHERE pk = %s", gone)
                work.deleted.add(gone)
        except Exception as error:  # whatever it is, the test fails with its text
            work.errors.append(f"{action}: {error}")
            session("ROLLBACK")
        work.transactions += 1
        work.longest_seconds = max(work.longest_seconds, time.monotonic() - started)


@pytest.fixture
def archive(server: Any, database: str) -> Iterator[Session]:
    """A DCM4CHEE 2.x archive with a dozen patients, without the indexer."""
    server.run_script(SCHEMA, database)
    with closing(Session(server.connect(database))) as session:
        for number in range(PATIENTS):
            session.patient(f"{number}-K")
        yield session


def run(
    server: Any, database: str, seconds: float, seed: int, scripts: bool
) -> tuple[list[Work], int, list[str]]:
    """Two sessions for some seconds; how often the script was applied meanwhile, and what it said when it gave up."""
    until = threading.Event()
    works = [Work(seed), Work(seed + 1)]
    sessions = [Session(server.connect(database)) for _ in works]
    threads = [
        threading.Thread(target=busy, args=(*pair, until)) for pair in zip(sessions, works, strict=True)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    applied, gave_up = 0, []
    while time.monotonic() < end:
        if not scripts:
            time.sleep(0.1)
            continue
        try:
            server.run_script(ADD, database)
            applied += 1
        except Exception as error:
            gave_up.append(str(error))
    until.set()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    return works, applied, gave_up


def test_the_triggers_never_make_a_busy_archive_fail_or_wait(
    server: Any, database: str, archive: Session
) -> None:
    without, _, _ = run(server, database, 3, 100, scripts=False)
    server.run_script(ADD, database)
    works, _, _ = run(server, database, 6, 200, scripts=False)

    assert [work.errors for work in without + works] == [[], [], [], []]
    assert max(work.longest_seconds for work in works) < 0.5 + max(work.longest_seconds for work in without)


#: What any CREATE or DROP TRIGGER on a table in use can do on these servers, with or without anything of ours: a transaction
#: that has changed `patient` and comes to `study` while the statement waits for `study` is told to try again.
DDL_MET_A_TRANSACTION = (
    "rename and count: (1213, 'Deadlock found when trying to get lock; try restarting transaction')"
)

#: How many such statements one run of the script has.
DDL_STATEMENTS = len(re.findall(r"^(CREATE (DEFINER.*)?|DROP )TRIGGER", ADD, re.M))


def test_a_busy_archive_while_the_script_runs_again_and_again(
    server: Any, database: str, archive: Session
) -> None:
    without, _, _ = run(server, database, 2, 100, scripts=False)
    server.run_script(ADD, database)
    # Those of before are the business of `initial`.
    archive("DELETE FROM study_service")

    works, applied, gave_up = run(server, database, 6, 200, scripts=True)
    if gave_up:  # the remedy that the script's header names
        server.run_script(ADD, database)

    errors = [error for work in works for error in work.errors]
    assert set(errors) <= {DDL_MET_A_TRANSACTION}
    assert len(errors) <= (applied + len(gave_up)) * DDL_STATEMENTS
    assert not any(work.errors for work in without)
    # Again and again: six seconds, in which a busy machine manages a few.
    assert applied >= 2
    assert all("Lock wait timeout" in text for text in gave_up)
    # The archive may stand still for the script's two seconds when that has to wait, and never for longer.
    assert max(work.longest_seconds for work in works) < 2.5 + max(work.longest_seconds for work in without)
    # Whatever happened between two triggers, the outbox holds each study as it is now, and each end.
    rows = archive.outbox()
    held = {row[3]: row for row in archive.view()}
    stored = set().union(*(work.stored for work in works))
    deleted = set().union(*(work.deleted for work in works))
    assert held.keys() >= stored - deleted
    recorded = {(row[4], row[1], row[9], row[10]) for row in rows if row[0] != "deleted"}
    for study_pk in stored - deleted:
        now = held[study_pk]
        assert (study_pk, now[0], now[8], now[9]) in recorded
    ended = {row[4] for row in rows if row[0] == "deleted"}
    for study_pk in {row[4] for row in rows if row[4]} & deleted:
        assert study_pk in ended
