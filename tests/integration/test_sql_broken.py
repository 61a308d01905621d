"""Whatever is broken behind the triggers, the archive stores, counts, renames and deletes as if there were no trigger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.servers import ARCHIVE
from tests.sql_archive import ADD, SCHEMA, Session


def few_rights(but: str) -> list[str]:
    """The archive's account with rights table by table instead of all on its database, and one of them missing."""
    rights = (
        "EXECUTE ON PROCEDURE indexer_process",
        "SELECT ON indexer_study",
        "SELECT, INSERT, UPDATE, TRIGGER ON study_service",
    )
    archives = (
        "SELECT, INSERT, UPDATE, DELETE, TRIGGER ON study",
        "SELECT, INSERT, UPDATE, DELETE, TRIGGER ON patient",
    )
    return [
        "REVOKE ALL PRIVILEGES ON `{database}`.* FROM " + ARCHIVE,
        *(f"GRANT {right} TO {ARCHIVE}" for right in (*rights, *archives)),
        f"REVOKE {but} FROM {ARCHIVE}",
    ]


BROKEN = {
    "table dropped": ["DROP TABLE study_service"],
    "table is something else": [
        "DROP TABLE study_service",
        "CREATE TABLE study_service (study_pk INT PRIMARY KEY)",
    ],
    "table is a view": ["DROP TABLE study_service", "CREATE VIEW study_service AS SELECT 1 AS id"],
    "column missing": ["ALTER TABLE study_service DROP COLUMN study_modality"],
    "column added that wants a value": ["ALTER TABLE study_service ADD COLUMN extra VARCHAR(9) NOT NULL"],
    "columns too small": [
        "ALTER TABLE study_service MODIFY operation VARCHAR(2)",
        "ALTER TABLE study_service MODIFY study_iuid VARCHAR(2)",
        "ALTER TABLE study_service MODIFY study_pk TINYINT",
    ],
    "column in ASCII": [
        "ALTER TABLE study_service MODIFY study_description VARCHAR(250) CHARACTER SET ascii"
    ],
    "rows clash": ["ALTER TABLE study_service ADD UNIQUE (operation)"],
    "rows refused": ["ALTER TABLE study_service ADD CONSTRAINT never CHECK (patient_pk < 0)"],
    "view dropped": ["DROP VIEW indexer_study"],
    "view has another shape": [
        "DROP VIEW indexer_study",
        "CREATE VIEW indexer_study AS SELECT pk AS study_pk FROM study",
    ],
    "procedure dropped": ["DROP PROCEDURE indexer_process"],
    "procedure has another shape": [
        "DROP PROCEDURE indexer_process",
        "CREATE PROCEDURE indexer_process() SIGNAL SQLSTATE '45000'",
    ],
    "procedure fails": [
        "DROP PROCEDURE indexer_process",
        "CREATE PROCEDURE indexer_process(a BIGINT, b VARCHAR(16)) SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1644",
    ],
    "definer of the procedure dropped": [
        "DROP PROCEDURE indexer_process",
        "CREATE DEFINER = 'nobody'@'localhost' PROCEDURE indexer_process(a BIGINT, b VARCHAR(16)) SELECT 1 INTO @x",
    ],
    "account of the event dropped": ["DROP USER 'indexer_definer'@'localhost'"],
    "right to execute revoked": few_rights("EXECUTE ON PROCEDURE indexer_process"),
    "right to insert revoked": few_rights("INSERT ON study_service"),
    "right to read revoked": few_rights("SELECT ON patient"),
    "trigger of the table dropped": ["DROP TRIGGER indexer_row"],
}


@pytest.fixture
def archive(server: Any, database: str) -> Iterator[Session]:
    """A DCM4CHEE 2.x archive with the indexer; mended at the end, for the accounts belong to the whole server."""
    server.run_script(SCHEMA, database)
    server.run_script(ADD, database)
    with closing(Session(server.connect(database))) as session:
        yield session


def work(archive: Session) -> tuple[int, int]:
    """What a PACS does in a day; every statement must come through, and without a warning."""
    patient_pk, other = archive.patient("1-9", "PEÑA^JOSÉ"), archive.patient("2-7", "NÚÑEZ")
    kept, gone = archive.study(patient_pk, "1.2.1", study_desc="TÓRAX"), archive.study(patient_pk, "1.2.2")
    for statement in (
        "UPDATE study SET num_series = 1, num_instances = 300, mods_in_study = 'CT'",
        "UPDATE patient SET pat_name = 'X'",
        f"UPDATE study SET patient_fk = {other}",
        f"DELETE FROM study WHERE pk = {gone}",
    ):
        archive(statement)
        assert archive("SHOW WARNINGS") == []
    assert archive("SELECT pk, patient_fk, study_desc, num_instances FROM study") == [
        (kept, other, "TÓRAX", 300)
    ]
    assert archive("SELECT DISTINCT pat_name FROM patient") == [("X",)]
    return kept, gone


@pytest.mark.parametrize("mode", ["", "STRICT_ALL_TABLES,NO_ZERO_DATE"], ids=["lax", "strict"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_outbox_lets_the_archive_through(
    archive: Session, database: str, how: str, mode: str
) -> None:
    for statement in BROKEN[how]:
        archive(statement.format(database=database))
    archive("SET SESSION sql_mode = %s", mode)
    work(archive)


def test_unbroken_it_records_all_of_that(archive: Session) -> None:
    """Else the tests above would pass without triggers, too."""
    kept, gone = work(archive)
    assert sorted(archive.operations()) == sorted(
        [
            *[("stored", kept), ("stored", gone)],
            *[("changed", kept), ("changed", gone)] * 2,
            *[("patient", 0)] * 2,
            ("deleted", gone),
        ]
    )


@pytest.mark.parametrize(
    "how", ["procedure dropped", "definer of the procedure dropped", "view dropped", "table dropped"]
)
def test_running_the_script_mends_it(server: Any, database: str, archive: Session, how: str) -> None:
    for statement in BROKEN[how]:
        archive(statement)
    server.run_script(ADD, database)
    kept, gone = work(archive)
    assert {row for row in archive.operations() if row[1]} == {
        *[("stored", kept), ("stored", gone)],
        *[("changed", kept), ("changed", gone)],
        ("deleted", gone),
    }


def test_the_script_says_it_when_recording_fails(server: Any, database: str, archive: Session) -> None:
    """A trigger is silent; the script tries the procedure at its end and ends with the server's own words."""
    archive.study(archive.patient(), "1.2.1")
    archive("ALTER TABLE study_service DROP COLUMN study_modality")
    with pytest.raises(Exception, match="study_modality"):
        server.run_script(ADD, database)
