"""What the triggers record: each operation, row by row and field by field, from a latin1 archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.sql_archive import ADD, SCHEMA, Session


@pytest.fixture
def archive(server: Any, database: str) -> Iterator[Session]:
    """A DCM4CHEE 2.x archive (latin1, as real sites have it) with the indexer."""
    server.run_script(SCHEMA, database)
    server.run_script(ADD, database)
    with closing(Session(server.connect(database))) as session:
        # The archive's driver may be as strict as it likes; the triggers have a mode of their own.
        session("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
        yield session


def test_a_study_is_recorded_field_by_field(archive: Session) -> None:
    patient_pk = archive.patient("26267267-K", "NÚÑEZ^MARÍA^^DRA.", "HOSPITAL ÑUÑOA")
    study_pk = archive.study(
        patient_pk,
        "1.2.840.1",
        study_datetime="2024-02-29 23:59:58",
        study_desc="TÓRAX «AP» y lateral",
        mods_in_study="CT\\PT",
        accession_no="ACC-1",
    )

    assert archive.outbox() == [
        (
            "stored",
            patient_pk,
            "26267267-K",
            "NÚÑEZ^MARÍA^^DRA.",
            study_pk,
            "1.2.840.1",
            datetime(2024, 2, 29, 23, 59, 58),
            "TÓRAX «AP» y lateral",
            "CT\\PT",
            0,
            0,
            "ACC-1",
            "HOSPITAL ÑUÑOA",
        )
    ]
    assert [row[1:] for row in archive.outbox()] == archive.view()


def test_every_field_may_be_absent(archive: Session) -> None:
    patient_pk = archive.patient(None, None)
    study_pk = archive.study(patient_pk, "1.2.3")
    assert archive.outbox() == [
        ("stored", patient_pk, None, None, study_pk, "1.2.3", None, None, None, 0, 0, None, None)
    ]


@pytest.mark.parametrize("letter", ["x", "Ñ", "\\", "'"])
def test_250_characters_are_kept(archive: Session, letter: str) -> None:
    long = letter * 250
    patient_pk = archive.patient(long, long, long)
    study_pk = archive.study(
        patient_pk,
        "1." * 125,
        study_desc=long,
        mods_in_study=long,
        accession_no=long,
        study_datetime="1899-12-31",
    )
    assert archive.outbox() == [
        (
            "stored",
            patient_pk,
            long,
            long,
            study_pk,
            "1." * 125,
            datetime(1899, 12, 31),
            long,
            long,
            0,
            0,
            long,
            long,
        )
    ]


def test_a_study_that_comes_with_its_patient_is_stored_once(archive: Session) -> None:
    patient_pk = archive.patient()
    study_pk = archive.inserted(
        "INSERT INTO study (patient_fk, study_iuid, num_series, num_instances, availability, study_status)"
        " VALUES (%s, '1.2.3', 1, 2, 0, 0)",
        patient_pk,
    )
    archive("UPDATE study SET updated_time = NOW() WHERE pk = %s", study_pk)
    assert archive.operations() == [("stored", study_pk)]


def test_a_study_without_a_patient_is_not_recorded(archive: Session) -> None:
    study_pk = archive.inserted(
        "INSERT INTO study (study_iuid, num_series, num_instances, availability, study_status) VALUES ('1.2', 0, 0, 0, 0)"
    )
    archive("UPDATE study SET num_instances = 4 WHERE pk = %s", study_pk)
    archive("DELETE FROM study WHERE pk = %s", study_pk)
    assert archive.outbox() == []


@pytest.mark.parametrize(
    ("column", "before", "after"),
    [
        ("study_iuid", "1.2.3", "1.2.4"),
        ("study_datetime", "2024-01-02 03:04:05", "2024-01-02 03:04:06"),
        ("study_datetime", "2024-01-02 03:04:05", None),
        ("study_desc", None, "TORAX"),
        ("study_desc", "PENA", "PEÑA"),
        ("study_desc", "torax", "TORAX"),
        ("study_desc", "TORAX", "TORAX "),
        ("mods_in_study", "CT", "CT\\PT"),
        ("num_series", 1, 2),
        ("num_instances", 1, 2),
        ("accession_no", "A", "a"),
    ],
)
def test_an_indexed_column_that_changes_is_recorded_once(
    archive: Session, column: str, before: object, after: object
) -> None:
    study_pk = archive.study(archive.patient(), "1.2.9")
    # As a site has it whose tables were made with a collation that knows neither case nor accents.
    archive("ALTER TABLE study CONVERT TO CHARACTER SET latin1 COLLATE latin1_general_ci")
    archive(f"UPDATE study SET {column} = %s WHERE pk = %s", before, study_pk)
    archive("DELETE FROM study_service")

    for _ in range(2):
        archive(f"UPDATE study SET {column} = %s, updated_time = NOW() WHERE pk = %s", after, study_pk)

    ended = [("deleted", study_pk)] if column == "study_iuid" else []
    assert archive.operations() == [*ended, ("changed", study_pk)]
    assert [row[1:] for row in archive.outbox()][len(ended) :] == archive.view()


def test_other_columns_are_not_recorded(archive: Session) -> None:
    study_pk = archive.study(archive.patient(), "1.2.3")
    archive("DELETE FROM study_service")
    archive("UPDATE study SET availability = 3, study_status = 1, study_attrs = 'x', updated_time = NOW()")
    archive("UPDATE patient SET updated_time = NOW(), pat_attrs = 'x'")
    assert study_pk
    assert archive.outbox() == []


def test_a_patient_is_recorded_as_one_row_however_many_studies(archive: Session) -> None:
    patient_pk = archive.patient("1-9", "PENA^JOSE")
    for number in range(3):
        archive.study(patient_pk, f"1.2.{number}")
    archive("DELETE FROM study_service")

    archive("UPDATE patient SET pat_name = 'PEÑA^JOSÉ' WHERE pk = %s", patient_pk)
    archive("UPDATE patient SET pat_id = '1-K' WHERE pk = %s", patient_pk)
    archive("UPDATE patient SET pat_id_issuer = 'A' WHERE pk = %s", patient_pk)
    archive("UPDATE patient SET pat_id_issuer = 'A', pat_name = 'PEÑA^JOSÉ' WHERE pk = %s", patient_pk)

    row = ("patient", patient_pk, None, None, 0, None, None, None, None, None, None, None, None)
    assert archive.outbox() == [row] * 3


def test_merging_patients_records_the_studies_that_move(archive: Session) -> None:
    wrong, right = archive.patient("1-9", "PEREZ"), archive.patient("2-7", "PÉREZ")
    moved, stays = archive.study(wrong, "1.2.1"), archive.study(right, "1.2.2")
    archive("DELETE FROM study_service")

    archive("UPDATE study SET patient_fk = %s WHERE patient_fk = %s", right, wrong)
    archive("UPDATE patient SET merge_fk = %s WHERE pk = %s", right, wrong)

    assert [(row[0], row[1], row[3], row[4]) for row in archive.outbox()] == [
        ("changed", right, "PÉREZ", moved)
    ]
    assert stays


def gone(study_pk: int, study_iuid: str) -> tuple[object, ...]:
    """What is recorded of a deleted study: which one."""
    return ("deleted", None, None, None, study_pk, study_iuid, *[None] * 7)


def test_a_deleted_study_is_recorded_by_key_and_uid(archive: Session) -> None:
    patient_pk = archive.patient()
    study_pk = archive.study(patient_pk, "1.2.3", study_desc="TÓRAX")
    archive("DELETE FROM study_service")

    archive("DELETE FROM study WHERE pk = %s", study_pk)
    again = archive.study(patient_pk, "1.2.3")

    assert archive.outbox()[0] == gone(study_pk, "1.2.3")
    assert archive.operations() == [("deleted", study_pk), ("stored", again)]
    assert again != study_pk


def test_a_deleted_patients_studies_are_recorded(archive: Session) -> None:
    """As DCM4CHEE 2.18 deletes a patient; once each, though two of its statements end the study."""
    patient_pk, other = archive.patient("1-9"), archive.patient("2-7")
    pks = [archive.study(patient_pk, f"1.2.{number}") for number in range(2)]
    archive.study(other, "1.3")
    archive("DELETE FROM study_service")
    archive("START TRANSACTION")
    for study_pk in pks:
        archive("UPDATE study SET patient_fk = NULL WHERE pk = %s", study_pk)
    archive("DELETE FROM patient WHERE pk = %s", patient_pk)
    for study_pk in pks:
        archive("DELETE FROM study WHERE pk = %s", study_pk)
    archive("COMMIT")
    assert archive.outbox() == [gone(pks[0], "1.2.0"), gone(pks[1], "1.2.1")]


def test_a_study_without_its_patient_is_deleted_until_it_has_one_again(archive: Session) -> None:
    patient_pk = archive.patient()
    study_pk = archive.study(patient_pk, "1.2.3")
    archive("DELETE FROM study_service")
    archive("UPDATE study SET patient_fk = NULL")
    archive("UPDATE study SET num_instances = 9")
    assert archive.operations() == [("deleted", study_pk)]
    archive("UPDATE study SET patient_fk = %s", patient_pk)
    archive("UPDATE study SET study_desc = 'X'")
    assert archive.operations() == [("deleted", study_pk), ("stored", study_pk), ("changed", study_pk)]
    assert [row[1:] for row in archive.outbox()[2:]] == archive.view()


def test_another_uid_ends_the_old_one_first(archive: Session) -> None:
    study_pk = archive.study(archive.patient(), "1.2.3")
    archive("DELETE FROM study_service")
    archive("UPDATE study SET study_iuid = '1.2.4' WHERE pk = %s", study_pk)
    rows = archive.outbox()
    assert rows[0] == gone(study_pk, "1.2.3")
    assert rows[1][0] == "changed"
    assert [row[1:] for row in rows[1:]] == archive.view()
    by_time_then_id = archive("SELECT operation FROM study_service ORDER BY recorded_at, id")
    by_id = archive("SELECT operation FROM study_service ORDER BY id")
    assert by_time_then_id == by_id


def test_what_a_snapshot_lacks_is_recorded_by_key_and_uid(
    server: Any, database: str, archive: Session
) -> None:
    """REPEATABLE READ: patient and study were committed after this transaction's first look, and the view lacks them."""
    if (
        server.is_mariadb
    ):  # else the server itself refuses such a change (error 1020), by default from 11.6 on
        archive("SET SESSION innodb_snapshot_isolation = OFF")
    archive("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    archive("START TRANSACTION")
    archive("SELECT COUNT(*) FROM study")
    with closing(Session(server.connect(database))) as other:
        patient_pk = other.patient()
        kept, doomed = other.study(patient_pk, "1.2.1"), other.study(patient_pk, "1.2.2")
        other("DELETE FROM study_service")
    stored = archive.inserted(
        "INSERT INTO study (study_iuid, num_series, num_instances, availability, study_status) VALUES ('1.2.3', 0, 0, 0, 0)"
    )
    archive("UPDATE study SET num_instances = 5 WHERE pk = %s", kept)
    archive("DELETE FROM study WHERE pk = %s", doomed)
    archive("UPDATE study SET patient_fk = %s WHERE pk = %s", patient_pk, stored)
    archive("COMMIT")
    rows = {(row[0], row[4], row[5]) for row in archive.outbox()}
    assert rows == {("changed", kept, "1.2.1"), ("deleted", doomed, "1.2.2"), ("changed", stored, "1.2.3")}


def test_what_is_rolled_back_was_never_recorded(archive: Session) -> None:
    study_pk = archive.study(archive.patient(), "1.2.3")
    archive("DELETE FROM study_service")
    archive("START TRANSACTION")
    archive("UPDATE study SET num_instances = 9 WHERE pk = %s", study_pk)
    archive("UPDATE patient SET pat_name = 'X'")
    archive("DELETE FROM study WHERE pk = %s", study_pk)
    archive("ROLLBACK")
    assert archive.outbox() == []


def test_ids_and_times_are_given_by_the_server(archive: Session) -> None:
    archive("SET SESSION time_zone = '-03:00'")
    patient_pk = archive.patient()
    for number in range(5):
        archive.study(patient_pk, f"1.2.{number}")
    # Somebody's own INSERT, with as little as possible.
    archive("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
    archive("INSERT INTO study_service (operation, study_pk) VALUES ('stored', 7)")

    rows = archive("SELECT id, recorded_at FROM study_service ORDER BY id")
    ids = [row[0] for row in rows]
    assert ids == list(range(ids[0], ids[0] + 6))
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    assert all(abs(now - row[1]) < timedelta(minutes=1) for row in rows)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)

    # TRUNCATE would start an AUTO_INCREMENT again.
    archive("TRUNCATE TABLE study_service")
    archive.study(patient_pk, "1.2.9")
    assert archive("SELECT id FROM study_service")[0][0] > ids[-1]


def test_the_archive_sees_no_warning(archive: Session) -> None:
    patient_pk = archive.patient()
    archive("ALTER TABLE study_service MODIFY study_description VARCHAR(3)")
    archive.study(patient_pk, "1.2.1", study_desc="TORAX")
    assert archive("SHOW WARNINGS") == []
    archive("UPDATE study SET study_desc = 'ABDOMEN'")
    assert archive("SHOW WARNINGS") == []
    # Too long for the column: cut, not lost.
    assert [row[7] for row in archive.outbox()] == ["TOR", "ABD"]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_trigger_never_waits_for_another_session(
    server: Any, database: str, archive: Session, isolation: str
) -> None:
    one = archive.patient("1-9")
    mine, other = archive.study(one, "1.2.1"), archive.study(archive.patient("2-7"), "1.2.2")
    archive("DELETE FROM study_service")
    with closing(Session(server.connect(database))) as session:
        for each in (archive, session):
            each("SET SESSION innodb_lock_wait_timeout = 1")
            each(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
            each("START TRANSACTION")
        archive("UPDATE patient SET pat_name = 'RENAMED' WHERE pk = %s", one)
        archive("UPDATE study SET num_instances = 1 WHERE pk = %s", other)
        # Its trigger reads the patient that the other session has just renamed, without waiting: the old name.
        session("UPDATE study SET num_instances = 2 WHERE pk = %s", mine)
        session("COMMIT")
        archive("COMMIT")
    assert sorted(archive.operations()) == sorted([("patient", 0), ("changed", other), ("changed", mine)])


def test_ids_that_are_given_twice_lose_no_row(archive: Session) -> None:
    """Two starts of the server in one second: UUID_SHORT() gives the same numbers again."""
    patient_pk = archive.patient("1-9", "SOTO^ANA")
    count = 5
    ((now,),) = archive("SELECT UUID_SHORT()")
    # What the earlier start has given; the next numbers of this one are the same.
    for number in range(now + 1, now + 1 + 10 * count):
        archive(
            "INSERT INTO study_service (id, operation, study_pk, recorded_at) VALUES (%s, 'stored', 0, UTC_TIMESTAMP(6))",
            number,
        )
    for number in range(count):
        archive.study(patient_pk, f"1.2.840.{number}")
    archive("UPDATE patient SET pat_name = 'SOTO^EVA' WHERE pk = %s", patient_pk)
    rows = archive(
        "SELECT id, operation, study_pk, patient_pk FROM study_service WHERE patient_pk IS NOT NULL ORDER BY recorded_at"
    )
    assert [row[1] for row in rows] == ["stored"] * count + ["patient"]
    assert rows[-1][2:] == (0, patient_pk)
    ids = [row[0] for row in rows]
    assert len(set(ids)) == count + 1
    # Of the same server, and beyond every second in which a server starts.
    assert {number >> 56 for number in ids} == {now >> 56}
    assert all(number >> 24 & 0x80000000 for number in ids)


def test_ids_are_consecutive(archive: Session) -> None:
    """So that what is settled is a handful of intervals."""
    patient_pk = archive.patient("1-9", "SOTO^ANA")
    for number in range(5):
        archive.study(patient_pk, f"1.2.840.{number}")
    ids = [row[0] for row in archive("SELECT id FROM study_service ORDER BY recorded_at")]
    assert ids == list(range(ids[0], ids[0] + 5))
