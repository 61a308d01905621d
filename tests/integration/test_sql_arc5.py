"""extras/add_indexer_arc5.sql: what the view says of a dcm4chee-arc 5 archive, and what its triggers record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import pymysql
import pytest

from cdc_indexer.checks import objects
from cdc_indexer.model.finding import Status
from cdc_indexer.model.settings import StreamSettings
from cdc_indexer.source import catalogue
from cdc_indexer.source.binlog import BinlogReader, Rows, TableRead
from cdc_indexer.source.source import Source
from tests import following
from tests.pacs5 import ADD_INDEXER, Pacs5, Pacs5Before531
from tests.servers import ARCHIVE, Server
from tests.sql_archive import REMOVE, VIEW_COLUMNS, prefixes

ADD = ADD_INDEXER.read_text()
VERSIONS = pytest.mark.parametrize("version", [Pacs5, Pacs5Before531], ids=["5.31", "before 5.31"])


# Written in the same statements as add_indexer.sql, whose tests run on every server.
pytestmark = pytest.mark.one_server


@pytest.fixture
def version() -> type[Pacs5]:
    return Pacs5


@pytest.fixture
def archive(server: Server, version: type[Pacs5]) -> Iterator[Pacs5]:
    """An archive with the indexer; its sessions are as strict as they like."""
    pacs = version.create(server)
    assert isinstance(pacs, Pacs5)
    pacs.execute(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_BACKSLASH_ESCAPES'"
    )
    yield pacs
    pacs.destroy()


def view(archive: Pacs5, study_pk: int) -> dict[str, Any]:
    (row,) = archive.execute(
        f"SELECT {', '.join(VIEW_COLUMNS)} FROM indexer_study WHERE study_pk = %s", (study_pk,)
    )
    return dict(zip(VIEW_COLUMNS, row, strict=True))


def operations(archive: Pacs5) -> list[tuple[str, int, int | None]]:
    """(operation, study_pk, patient_pk) of each row since the last call, oldest first."""
    rows = archive.execute(
        "SELECT operation, study_pk, patient_pk FROM study_service ORDER BY recorded_at, id"
    )
    archive.execute("DELETE FROM study_service")
    return [(row[0], row[1], row[2]) for row in rows]


def changed(archive: Pacs5) -> set[int]:
    """The studies that the rows since the last call speak of, each but 'changed' being an error."""
    rows = operations(archive)
    assert {row[0] for row in rows} <= {"changed"}
    return {row[1] for row in rows}


def patient_of(archive: Pacs5, study_pk: int) -> int:
    return int(archive.execute("SELECT patient_fk FROM study WHERE pk = %s", (study_pk,))[0][0])


@VERSIONS
def test_the_view_field_by_field(archive: Pacs5) -> None:
    patient_pk = archive.add_patient("26267267-K", "NÚÑEZ^MARÍA", "HOSPITAL ÑUÑOA")
    pk = archive.store_study(
        "1.2.840.1",
        patient_pk=patient_pk,
        study_datetime="2024-02-29 23:59:58",
        description="TÓRAX «AP» y lateral",
        accession_no="ACC-1",
    )
    archive.store_image(pk, modality="SR")
    series_pk = archive.store_image(pk, modality="PT")
    archive.store_image(pk, series_pk)
    # A cache that is double and wrong, as the archive's may be.
    for name in ("a", "b"):
        archive.execute(
            "INSERT INTO study_query_attrs (view_id, study_fk, num_instances, num_series) VALUES (%s, %s, 9, 9)",
            (name, pk),
        )
    assert view(archive, pk) == {
        "patient_pk": patient_pk,
        "patient_id": "26267267-K",
        "patient_name": "NÚÑEZ^MARÍA",
        "study_pk": pk,
        "study_iuid": "1.2.840.1",
        "study_datetime": datetime(2024, 2, 29, 23, 59, 58),
        "study_description": "TÓRAX «AP» y lateral",
        "study_modality": "CT\\PT\\SR",
        "study_series": 3,
        "study_instances": 4,
        "accession_no": "ACC-1",
        "patient_id_issuer": "HOSPITAL ÑUÑOA",
    }
    assert all(isinstance(view(archive, pk)[name], int) for name in ("study_series", "study_instances"))
    (first, *_) = archive.execute("SELECT operation, patient_name, study_iuid FROM study_service ORDER BY id")
    assert first == ("stored", "NÚÑEZ^MARÍA", "1.2.840.1")


@VERSIONS
def test_what_the_archive_says_with_a_star_is_absent(archive: Pacs5) -> None:
    patient_pk = archive.add_patient(None, None)
    pk = archive.store_study(patient_pk=patient_pk, study_datetime=None, description=None)
    archive.update_counts(pk, 1, 1, "*")
    seen = view(archive, pk)
    absent = {name for name, value in seen.items() if value is None}
    assert absent == {
        "patient_id",
        "patient_name",
        "study_datetime",
        "study_description",
        "study_modality",
        "accession_no",
        "patient_id_issuer",
    }


@pytest.mark.parametrize(
    ("day", "time", "moment"),
    [
        ("20240506", "070809.123", datetime(2024, 5, 6, 7, 8, 9)),
        ("20240506", "0708", datetime(2024, 5, 6, 7, 8)),
        ("20240506", "07", datetime(2024, 5, 6, 7)),
        ("20240506", "*", datetime(2024, 5, 6)),
        ("20240506", "259999", datetime(2024, 5, 6)),
        ("20241306", "070809", None),
        ("2024", "070809", None),
        ("*", "070809", None),
    ],
)
def test_date_and_time(archive: Pacs5, day: str, time: str, moment: datetime | None) -> None:
    pk = archive.store_study()
    archive.execute("UPDATE study SET study_date = %s, study_time = %s", (day, time))
    assert not archive.execute("SHOW WARNINGS")
    assert view(archive, pk)["study_datetime"] == moment
    ((recorded,),) = archive.execute(
        "SELECT study_datetime FROM study_service WHERE patient_pk IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    assert recorded == moment


@pytest.mark.parametrize(
    ("name", "sent"),
    [("PEÑA^JOSÉ^^^", "PEÑA^JOSÉ"), ("A^^B^^", "A^^B"), ("PEÑA", "PEÑA"), ("*", None), ("^^^^", None)],
)
def test_trailing_carets_are_no_part_of_a_name(archive: Pacs5, name: str, sent: str | None) -> None:
    pk = archive.store_study()
    archive.execute("UPDATE person_name SET alphabetic_name = %s", (name,))
    assert view(archive, pk)["patient_name"] == sent


def test_each_image_leaves_one_small_row_and_no_count(archive: Pacs5) -> None:
    pk = archive.store_study("1.2.3")
    # The study, its series, its image: in one transaction.
    assert operations(archive) == [("stored", pk, patient_of(archive, pk)), *[("changed", pk, None)] * 2]
    series_pk = archive.store_image(pk)
    operations(archive)
    for _ in range(3):
        archive.store_image(pk, series_pk)
    rows = archive.execute(
        "SELECT operation, study_pk, study_iuid, patient_pk, study_instances FROM study_service"
    )
    assert rows == [("changed", pk, "1.2.3", None, None)] * 3
    assert view(archive, pk)["study_instances"] == 5


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB", "FULL"])
def test_an_images_row_is_read_from_the_log_alone(archive: Pacs5, image: str) -> None:
    """Whatever binlog_row_image is: the row names all columns. One that doesn't has to be read from the table."""
    pk = archive.store_study("1.2.3")

    def brought() -> tuple[list[tuple[str, int]], bool]:
        with closing(Source(following.settings(archive.server, archive.name))) as source:
            reader = BinlogReader(source, StreamSettings(heartbeat_seconds=0.2), 4_711, position, columns)
            events = following.caught_up(reader)
        rows = [
            (row.operation, row.study_pk) for event in events if isinstance(event, Rows) for row in event.rows
        ]
        return rows, any(isinstance(event, TableRead) for event in events)

    with following.reading(following.settings(archive.server, archive.name)) as session:
        position = catalogue.binlog_end(session)
        columns = catalogue.columns(session, archive.name, "study_service")
    archive.execute(f"SET SESSION binlog_row_image = '{image}'")
    archive.store_image(pk)
    rows, read_from_table = brought()
    assert set(rows) == {("changed", pk)}
    assert not read_from_table
    archive.execute(
        "INSERT INTO study_service (operation, study_pk, study_iuid) VALUES ('changed', 1, '1.2')"
    )
    assert brought()[1] is (image == "MINIMAL")


def test_ids_that_are_given_twice_lose_no_image(archive: Pacs5) -> None:
    """Two starts of the server in one second: UUID_SHORT() gives the same numbers again."""
    pk = archive.store_study()
    series_pk = archive.store_image(pk)
    operations(archive)
    ((now,),) = archive.execute("SELECT UUID_SHORT()")
    for number in range(now + 1, now + 31):
        archive.execute(
            "INSERT INTO study_service (id, operation, study_pk, recorded_at) VALUES (%s, 'x', 0, UTC_TIMESTAMP(6))",
            (number,),
        )
    for _ in range(5):
        archive.store_image(pk, series_pk)
    rows = archive.execute("SELECT id, study_pk FROM study_service WHERE operation = 'changed'")
    assert [row[1] for row in rows] == [pk] * 5
    assert all(row[0] >> 24 & 0x80000000 and row[0] >> 56 == now >> 56 for row in rows)


def test_rejected_images_do_not_count(archive: Pacs5) -> None:
    pk, other = archive.store_study(), archive.store_study()
    series_pk = archive.store_image(pk)
    for _ in range(3):
        archive.store_image(pk, series_pk)
    operations(archive)

    def counts() -> tuple[int, int, str | None]:
        seen = view(archive, pk)
        return seen["study_series"], seen["study_instances"], seen["study_modality"]

    first, second, *_ = archive.images(pk)
    assert counts() == (2, 5, "CT")
    archive.reject(pk, [second])
    assert changed(archive) == {pk}
    assert counts() == (2, 4, "CT")  # and the note is no image
    third = archive.images(pk)[1]
    archive.reject(pk, [third, first])
    assert changed(archive) == {pk}
    assert counts() == (1, 2, "CT")
    # Part of it is revoked: nothing but rejected_instance changes.
    archive.revoke(pk, [third])
    assert changed(archive) == {pk}
    assert counts() == (1, 3, "CT")
    archive.reject(pk, archive.images(pk))
    assert changed(archive) == {pk}
    assert counts() == (0, 0, None)
    archive.revoke(pk, archive.images(pk, rejected=True))
    assert changed(archive) == {pk}
    assert counts() == (2, 5, "CT")
    assert view(archive, other)["study_instances"] == 1


def test_moving_the_records_of_a_series_into_metadata_changes_nothing(archive: Pacs5) -> None:
    pk = archive.store_study()
    series_pk = archive.store_image(pk)
    archive.store_image(pk, series_pk)
    before = view(archive, pk)
    operations(archive)
    archive.purge_instance_records(series_pk)
    assert view(archive, pk) == before
    assert operations(archive) == []


def test_an_image_that_is_deleted_is_recorded(archive: Pacs5) -> None:
    pk = archive.store_study()
    series_pk = archive.store_image(pk)
    operations(archive)
    archive.execute("DELETE FROM instance WHERE series_fk = %s", (series_pk,))
    assert changed(archive) == {pk}
    archive.execute("DELETE FROM series WHERE pk = %s", (series_pk,))
    assert changed(archive) == {pk}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("study_desc", "TÓRAX"),
        ("study_date", "20200101"),
        ("study_time", "111213"),
        ("accession_no", "B"),
        ("study_iuid", "9.9"),
    ],
)
def test_an_edited_study_is_recorded_with_its_values(archive: Pacs5, column: str, value: str) -> None:
    pk = archive.store_study(description="TORAX")
    operations(archive)
    for _ in range(2):
        archive.execute(f"UPDATE study SET {column} = %s, version = version + 1 WHERE pk = %s", (value, pk))
    *ended, row = archive.execute(
        f"SELECT operation, {', '.join(VIEW_COLUMNS)} FROM study_service ORDER BY recorded_at, id"
    )
    assert row == ("changed", *view(archive, pk).values())
    assert [one[0] for one in ended] == (["deleted"] if column == "study_iuid" else [])


def test_what_the_archive_keeps_for_itself_is_not_recorded(archive: Pacs5) -> None:
    archive.store_study()
    operations(archive)
    for statement in (
        "UPDATE study SET access_time = NOW(6), updated_time = NOW(6), study_size = 77, version = version + 1",
        "UPDATE series SET metadata_update_time = NOW(6), series_size = 7, version = version + 1",
        "UPDATE instance SET availability = 1, version = version + 1",
        "UPDATE patient SET num_studies = num_studies + 1, verification_status = 1, version = version + 1",
        "UPDATE person_name SET phonetic_name = 'X'",
        "INSERT INTO person_name (alphabetic_name, ideographic_name, phonetic_name) VALUES ('DR^HOUSE', '*', '*')",
        "UPDATE person_name SET alphabetic_name = 'DR^WHO' WHERE alphabetic_name = 'DR^HOUSE'",
        "INSERT INTO study_query_attrs (view_id, study_fk, num_instances) SELECT 'v', pk, 1 FROM study",
    ):
        archive.execute(statement)
        assert operations(archive) == [], statement
    archive.add_patient("new", "NOBODY^YET")
    assert operations(archive) == []


@VERSIONS
def test_a_patient_is_recorded_as_one_row_however_many_studies(archive: Pacs5) -> None:
    pks = [archive.store_study(patient_id="1-9", patient_name="PENA") for _ in range(3)]
    patient_pk = patient_of(archive, pks[0])
    other = archive.store_study(patient_id="2-7")
    assert patient_of(archive, other) != patient_pk
    row = ("patient", 0, patient_pk)
    operations(archive)
    archive.rename_patient(patient_pk, "PEÑA")
    assert operations(archive) == [row]
    archive.rename_patient(patient_pk, "PEÑA")
    assert operations(archive) == []
    archive.change_patient_id(patient_pk, "1-K")
    assert operations(archive) == [row]
    archive.change_patient_id(patient_pk, "1-K", "ÑUÑOA")
    assert operations(archive) == [row]
    archive.rename_patient(patient_pk, None)
    assert row in operations(archive)
    archive.rename_patient(patient_pk, "PEÑA^ANA")
    assert operations(archive) == [row]
    assert {view(archive, pk)["patient_name"] for pk in pks} == {"PEÑA^ANA"}
    assert {view(archive, pk)["patient_id"] for pk in pks} == {"1-K"}


@VERSIONS
def test_a_patient_without_an_id_gets_one(archive: Pacs5) -> None:
    patient_pk = archive.add_patient(None, "SOTO")
    pk = archive.store_study(patient_pk=patient_pk)
    operations(archive)
    archive.change_patient_id(patient_pk, "5-1")
    assert operations(archive) == [("patient", 0, patient_pk)]
    assert view(archive, pk)["patient_id"] == "5-1"


def test_of_several_ids_the_first_counts(archive: Pacs5) -> None:
    one, other = archive.add_patient("FIRST", "SOTO", "A"), archive.add_patient(None, "PINO")
    pk, pk_of_other = archive.store_study(patient_pk=one), archive.store_study(patient_pk=other)
    operations(archive)
    second = archive.add_patient_id(one, "SECOND", "B")
    archive.execute("UPDATE patient_id SET pat_id = '2ND' WHERE pk = %s", (second,))
    assert operations(archive) == []
    assert (view(archive, pk)["patient_id"], view(archive, pk)["patient_id_issuer"]) == ("FIRST", "A")
    archive.execute("UPDATE patient_id SET patient_fk = %s WHERE pat_id = 'FIRST'", (other,))
    assert sorted(row[2] or 0 for row in operations(archive)) == sorted([one, other])
    assert (view(archive, pk)["patient_id"], view(archive, pk_of_other)["patient_id"]) == ("2ND", "FIRST")
    archive.execute("DELETE FROM patient_id WHERE pk = %s", (second,))
    assert operations(archive) == [("patient", 0, one)]
    assert view(archive, pk)["patient_id"] is None


def test_merging_moves_studies_and_records_each(archive: Pacs5) -> None:
    moved, stays = archive.store_study(patient_id="1-9"), archive.store_study(patient_id="2-7")
    wrong, right = patient_of(archive, moved), patient_of(archive, stays)
    operations(archive)
    archive.execute("UPDATE study SET patient_fk = %s WHERE patient_fk = %s", (right, wrong))
    archive.execute("UPDATE patient SET merge_fk = %s WHERE pk = %s", (right, wrong))
    assert operations(archive) == [("changed", moved, right)]


def test_a_deleted_study_is_recorded_in_order(archive: Pacs5) -> None:
    pk = archive.store_study("1.2.3")
    operations(archive)
    archive.delete_study(pk)
    *images, last = archive.execute(
        "SELECT operation, study_pk, study_iuid FROM study_service ORDER BY recorded_at, id"
    )
    assert last == ("deleted", pk, "1.2.3")
    assert {row[0] for row in images} == {"changed"}
    again = archive.store_study("1.2.3")
    assert archive.execute("SELECT MAX(study_pk) FROM study_service") == [(again,)]


def test_the_nightly_event_leaves_one_row_of_the_images(archive: Pacs5) -> None:
    pk, other = archive.store_study("1.2"), archive.store_study("1.3")
    for _ in range(4):
        archive.store_image(pk)
    newest = archive.execute(
        "SELECT MAX(id) FROM study_service WHERE study_pk IN (%s, %s) GROUP BY study_pk", (pk, other)
    )
    archive.execute("UPDATE study_service SET recorded_at = recorded_at - INTERVAL 8 DAY")
    archive.execute("CALL indexer_prune(400)")
    left = archive.execute("SELECT id, operation FROM study_service")
    assert {row[0] for row in left if row[1] == "changed"} == {row[0] for row in newest}
    assert sum(row[1] == "stored" for row in left) == 2
    archive.execute("CALL indexer_prune(7)")
    assert archive.execute("SELECT COUNT(*) FROM study_service") == [(0,)]


@VERSIONS
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_trigger_never_waits_for_another_session(
    server: Server, archive: Pacs5, version: type[Pacs5], isolation: str
) -> None:
    """Of the archive's rows nothing is read with a lock: a subquery anywhere but in SELECT ... INTO would take one."""
    pk = archive.store_study(patient_id="a")
    series_pk = archive.store_image(pk)
    doomed = archive.store_image(pk)
    image, *_ = archive.images(pk)
    archive.reject(pk, [image])
    patient_pk = patient_of(archive, pk)
    operations(archive)
    session = version(server, archive.name)
    for each in (archive, session):
        each.execute("SET SESSION innodb_lock_wait_timeout = 1")
        each.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
    try:
        # Every row that a trigger could read is changed by another session, and not committed yet.
        with archive.transaction():
            for table in ("study", "series", "patient"):
                archive.execute(f"UPDATE {table} SET updated_time = NOW(6) + INTERVAL 1 DAY")
            # Not by way of the foreign key, which reads its series with a lock whatever the triggers do.
            session.execute("SET SESSION foreign_key_checks = 0")
            assert isinstance(session, Pacs5)
            session._stored(
                "instance",
                series_fk=series_pk,
                sop_iuid="9.9",
                sop_cuid="9",
                availability=0,
                content_date="*",
                ext_retrieve_aet="*",
            )
            session.execute("DELETE FROM instance WHERE series_fk = %s", (doomed,))
            session._stored(
                "rejected_instance", study_iuid=image[1], series_iuid="9", sop_iuid="9", sop_cuid="9"
            )
            session.execute("DELETE FROM rejected_instance WHERE sop_iuid = %s", (image[3],))
            session.execute("UPDATE patient_id SET pat_id = 'b'")
            session.execute("UPDATE person_name SET alphabetic_name = 'RENAMED'")
    finally:
        session.close()
    rows = operations(archive)
    assert rows.count(("patient", 0, patient_pk)) == 2
    assert rows.count(("changed", pk, None)) == 4


BROKEN = {
    "table dropped": "DROP TABLE study_service",
    "view dropped": "DROP VIEW indexer_study",
    "procedure dropped": "DROP PROCEDURE indexer_process",
    "account of the event dropped": "DROP USER 'indexer_definer'@'localhost'",
    "rights revoked": f"REVOKE SELECT, INSERT, UPDATE, EXECUTE ON `{{name}}`.* FROM {ARCHIVE}",
}


@VERSIONS
@pytest.mark.parametrize("how", BROKEN)
def test_whatever_is_broken_the_archive_stores(server: Server, archive: Pacs5, how: str) -> None:
    archive.execute(BROKEN[how].format(name=archive.name))
    try:
        pk = archive.store_study(patient_id="a")
        series_pk = archive.store_image(pk)
        archive.reject(pk, archive.images(pk)[:1])
        archive.rename_patient(patient_of(archive, pk), "X")
        archive.change_patient_id(patient_of(archive, pk), "b")
        archive.edit_study(pk, description="Y", study_datetime=None)
        assert not archive.execute("SHOW WARNINGS")
        archive.execute("DELETE FROM instance WHERE series_fk = %s", (series_pk,))
        archive.delete_study(pk)
        assert archive.execute("SELECT COUNT(*) FROM study") == [(0,)]
    finally:
        # The accounts belong to the whole server.
        server.run_script(ADD, archive.name)


@VERSIONS
def test_again_and_removed(server: Server, archive: Pacs5) -> None:
    """Running it again records nothing; removing leaves nothing, on an archive without rejected_instance as well."""
    pk = archive.store_study()
    server.run_script(ADD, archive.name)
    archive.store_image(pk)
    rows = archive.execute("SELECT * FROM study_service")
    for _ in range(2):
        server.run_script(ADD, archive.name)
    assert archive.execute("SELECT * FROM study_service") == rows
    archive.execute("DROP TABLE rejected_instance")
    server.run_script(ADD, archive.name)
    tables = {row[0] for row in archive.execute("SHOW TABLES")}
    assert {"indexer_study", "study_service"} <= tables
    assert not {"rejected_instance", "indexer_window", "indexer_window_now"} & tables
    archive.store_image(pk)
    assert view(archive, pk)["study_instances"] == 3
    server.run_script(REMOVE, archive.name)
    assert not {"indexer_study", "study_service"} & {row[0] for row in archive.execute("SHOW TABLES")}
    for kind in ("triggers", "routines", "events"):
        found = archive.execute(
            f"SELECT * FROM information_schema.{kind} WHERE {kind[:-1]}_schema = %s", (archive.name,)
        )
        assert not found, kind
    assert not archive.execute(
        "SELECT * FROM information_schema.table_privileges WHERE table_schema = %s AND grantee LIKE %s",
        (archive.name, "'indexer\\_%er'%"),
    )


@VERSIONS
def test_the_view_is_merged_and_read_by_key(archive: Pacs5) -> None:
    archive.store_studies(200)
    archive.execute(
        "INSERT INTO series_query_attrs (view_id, series_fk, num_instances) SELECT 'v', pk, 1 FROM series"
    )
    archive.execute(
        "ANALYZE TABLE study, patient, patient_id, person_name, series, instance, rejected_instance, series_query_attrs"
    )
    for condition in (
        "study_pk > 5 ORDER BY study_pk LIMIT 50",
        "study_pk IN (3, 5, 7)",
        "study_pk = 3",
        "patient_pk = 7 AND study_pk > 1 ORDER BY study_pk LIMIT 200",
    ):
        with archive.connect() as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL SELECT * FROM indexer_study WHERE {condition}")
            plan = cursor.fetchall()
        # The constants that a view made for before 5.31 asks by (came_since) are tables of their own, and read none.
        derived = [row for row in plan if "DERIVED" in row["select_type"]]
        assert all(row["Extra"] == "No tables used" for row in derived), plan
        assert bool(derived) == isinstance(archive, Pacs5Before531)
        assert "temporary" not in str(plan)
        outer = [row for row in plan if row["select_type"] == "PRIMARY"]
        assert [row["table"] for row in outer] == ["s", "p", "n", "i"]
        # No table is read as a whole, and no index.
        assert not [row for row in plan if row["type"] in ("ALL", "index")], plan


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_an_interruption_at_any_statement_loses_nothing(server: Server, archive: Pacs5, step: int) -> None:
    """The script ends after its n-th statement; the archive goes on; the script is run again."""
    old = archive.store_study("1.1")
    cuts = prefixes(ADD)
    assert len(cuts) > 80
    for number, cut in enumerate(cuts[::step]):
        at = f"interrupted after: {cut[-200:]}"
        gone = archive.store_study(f"1.4.{number}")
        operations(archive)
        server.run_script(cut, archive.name)
        stored = archive.store_study(f"1.3.{number}", patient_id=f"{number}")
        archive.store_image(old, archive.images(old)[0][0])
        archive.edit_study(stored, description=f"D{number}", study_datetime=None)
        archive.delete_study(gone)
        server.run_script(ADD, archive.name)
        rows = operations(archive)
        assert {stored, old} <= {row[1] for row in rows if row[0] != "deleted"}, at
        assert ("deleted", gone) in {row[:2] for row in rows}, at
        leftovers = {row[0] for row in archive.execute("SHOW TABLES")}
        assert not leftovers & {
            "indexer_window",
            "indexer_window_new",
            "indexer_window_now",
            "study_service_new",
        }, at


def test_written_for_mysql_5_6_and_for_any_database_name() -> None:
    from tests.integration.test_sql_install import (
        test_written_for_mysql_5_6_and_for_any_database_name as check,
    )

    check(ADD)


@VERSIONS
def test_check_knows_its_triggers(archive: Pacs5) -> None:
    """And names the script that makes them."""
    database = following.settings(archive.server, archive.name)
    with following.reading(database) as session:
        (check,) = [make for name, make in objects.objects(session, database) if name == "triggers"]
        assert [finding.status for finding in check()] == [Status.OK]
        there = {row[0] for row in archive.execute("SHOW TRIGGERS") if row[0].startswith("indexer_")}
        assert set(objects.TRIGGERS_ARC5) == there
        archive.execute("DROP TRIGGER indexer_instance_insert")
        (finding,) = check()
        assert finding.status is Status.FAILED
        assert "indexer_instance_insert" in finding.message
        assert f"sql --arc5 | mysql {archive.name}" in finding.remedy
