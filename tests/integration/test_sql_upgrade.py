"""From the old client's table and trigger to ours, on a live archive, and after an interruption at any statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.sql_archive import ADD, OLD_CLIENT, REMOVE, SCHEMA, Session, prefixes

ARCHIVE = {"patient", "study", "series", "instance"}


@pytest.fixture
def archive(server: Any, database: str) -> Iterator[Session]:
    """An archive with the old client's SQL: one study that it has sent, two that are queued, one gone since."""
    server.run_script(SCHEMA, database)
    server.run_script(OLD_CLIENT, database)
    with closing(Session(server.connect(database))) as session:
        patient_pk = session.patient()
        for number in range(4):
            session.study(patient_pk, f"1.2.{number}", study_desc="TÓRAX")
        session("DELETE FROM study_service WHERE study_pk = 1")
        session("DELETE FROM study WHERE pk = 4")
        yield session


def test_what_was_queued_is_recorded_again(server: Any, database: str, archive: Session) -> None:
    assert archive("SELECT study_pk FROM study_service ORDER BY 1") == [(2,), (3,), (4,)]

    server.run_script(ADD, database)

    assert archive.operations() == [("stored", 2), ("stored", 3)]
    assert [row[1:] for row in archive.outbox()] == archive.view()[1:]
    triggers = archive(
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = %s", database
    )
    assert ("indexer_process",) not in triggers
    assert {row[0] for row in archive("SHOW TABLES")} == ARCHIVE | {"indexer_study", "study_service"}

    # From here on it is an ordinary archive.
    new = archive.study(1, "1.2.9")
    server.run_script(ADD, database)
    assert archive.operations() == [("stored", 2), ("stored", 3), ("stored", new)]


#: All of them take minutes on each server.
STEPS = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.soak)])


@STEPS
def test_an_interruption_at_any_statement_loses_nothing(
    server: Any, database: str, archive: Session, step: int
) -> None:
    """The script ends after its n-th statement; the archive goes on; the script is run again."""
    cuts = prefixes(ADD)
    assert len(cuts) > 60
    # Others on each server.
    for cut in cuts[server.port % step :: step]:
        archive("DELETE FROM study WHERE pk > 3")
        server.run_script(REMOVE, database)
        server.run_script(OLD_CLIENT, database)
        archive("INSERT INTO study_service VALUES (2), (3)")
        at = f"interrupted after: {cut[-200:]}"

        server.run_script(cut, database)
        stored = archive.study(1, "1.2.8")
        counted, gone = archive.study(1, "1.2.9"), archive.study(1, "1.2.10")
        archive("UPDATE study SET num_instances = 5 WHERE pk = %s", counted)
        archive("DELETE FROM study WHERE pk = %s", gone)
        archive("UPDATE study SET study_desc = 'ABDOMEN', num_instances = num_instances + 1 WHERE pk = 1")
        server.run_script(ADD, database)

        rows = archive.outbox()
        latest = {row[4]: row for row in rows}
        view = {row[3]: row for row in archive.view()}
        for study_pk in (2, 3, stored, counted):
            assert study_pk in latest, at
            assert latest[study_pk][1:] == view[study_pk], at
            assert "stored" in {row[0] for row in rows if row[4] == study_pk}, at
        # Study 1 was sent before; its change is recorded unless the old client's trigger alone was on.
        if any(row[4] == 1 for row in rows):
            assert latest[1][1:] == view[1], at
        # A study that came and went: nobody was told of it, or its end is recorded too.
        if gone in latest:
            assert latest[gone][0] == "deleted", at
        # Nothing is recorded over and over: once, and at most once more because the script can't know.
        assert all(len([row for row in rows if row[4] == pk]) <= 3 for pk in latest), at
        leftovers = {row[0] for row in archive("SHOW TABLES")} - ARCHIVE - {"indexer_study", "study_service"}
        assert not leftovers, at
        routines = archive(
            "SELECT routine_name FROM information_schema.routines WHERE routine_schema = %s", database
        )
        assert sorted(routines) == [("indexer_process",), ("indexer_prune",)], at


@pytest.mark.one_server
@STEPS
def test_an_interruption_of_a_second_run_loses_nothing(
    server: Any, database: str, archive: Session, step: int
) -> None:
    """The same when the indexer is there already: changes and deletions are found too, and nothing twice."""
    server.run_script(ADD, database)
    for number, cut in enumerate(prefixes(ADD)[server.port % step :: step]):
        archive("DELETE FROM study_service")
        at = f"interrupted after: {cut[-200:]}"
        server.run_script(cut, database)
        stored, gone = archive.study(1, f"1.3.{number}"), archive.study(1, f"1.4.{number}")
        archive("UPDATE study SET num_instances = num_instances + 1 WHERE pk = 2")
        archive("UPDATE patient SET pat_name = %s", f"NAME^{number}")
        server.run_script(cut, database)
        archive("DELETE FROM study WHERE pk = %s", gone)
        server.run_script(ADD, database)

        rows = archive.outbox()
        view = {row[3]: row for row in archive.view()}
        latest = {row[4]: row for row in rows}
        # A row for the whole patient stands for the patient's columns of all studies.
        whole_row = slice(3, None) if ("patient", 0) in archive.operations() else slice(0, None)
        for study_pk in (stored, 2) if 0 in latest else view:
            assert latest[study_pk][1:][whole_row] == view[study_pk][whole_row], at
        assert gone not in latest or latest[gone][0] == "deleted", at


def test_a_study_that_was_deleted_while_the_triggers_were_off_is_recorded(
    server: Any, database: str, archive: Session
) -> None:
    server.run_script(ADD, database)
    archive("DELETE FROM study_service")
    off = next(cut for cut in prefixes(ADD) if "DROP TRIGGER IF EXISTS indexer_patient_update" in cut)
    server.run_script(off, database)
    archive("DELETE FROM study WHERE pk = 2")
    archive("DELETE FROM study WHERE pk = 3")
    again = archive.study(1, "1.2.2")  # the UID that pk 3 had
    assert archive.outbox() == []

    server.run_script(ADD, database)

    assert sorted(archive.operations()) == [("deleted", 2), ("stored", again)]
    assert [row[5] for row in archive.outbox() if row[0] == "deleted"] == ["1.2.1"]
