"""What dcm4chee-arc 5's own update scripts do to its tables: nothing is recorded that didn't change, and `check` notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdc_indexer.checks import installation, objects
from cdc_indexer.model.errors import SchemaError
from cdc_indexer.model.finding import Finding, Status
from tests import following
from tests.integration.test_sql_arc5 import operations, patient_of, view
from tests.pacs5 import ADD_INDEXER, Pacs5, Pacs5Before531
from tests.servers import Server

ADD = ADD_INDEXER.read_text()


@pytest.fixture
def archive(server: Server) -> Iterator[Pacs5]:
    pacs = Pacs5.create(server)
    assert isinstance(pacs, Pacs5)
    yield pacs
    pacs.destroy()


@pytest.fixture
def older(server: Server) -> Iterator[Pacs5]:
    pacs = Pacs5Before531.create(server)
    assert isinstance(pacs, Pacs5)
    yield pacs
    pacs.destroy()


def version(archive: Pacs5) -> Finding:
    """What `check --admin` says of the archive's version."""
    settings = following.settings(archive.server, archive.name)
    with following.reading(settings) as connection:
        checks = objects.objects(connection, settings)
        (check,) = [make for name, make in checks if name == "archive's version"]
        (finding,) = check()
    return finding


def end_of_531(older: Pacs5) -> None:
    """The third part of the archive's update script, which may come while 5.31 runs already."""
    for (name,) in older.execute(
        "SELECT CONSTRAINT_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = %s"
        " AND TABLE_NAME = 'patient' AND COLUMN_NAME = 'patient_id_fk' AND REFERENCED_TABLE_NAME IS NOT NULL",
        (older.name,),
    ):
        older.execute(f"ALTER TABLE patient DROP FOREIGN KEY {name}")
    older.execute("ALTER TABLE patient DROP COLUMN patient_id_fk")


def test_ids_that_are_rewritten_record_nothing(archive: Pacs5) -> None:
    """The second part of 5.34's update script writes every row of patient_id three times; what else may write the same."""
    pks = [archive.store_study(patient_id=f"{number}-K") for number in range(5)]
    operations(archive)
    archive.execute("ALTER TABLE patient_id ADD pat_name VARCHAR(255)")
    for statement in (
        "UPDATE patient_id SET pat_name = (SELECT n.alphabetic_name FROM person_name n JOIN patient p"
        " ON n.pk = p.pat_name_fk WHERE p.pk = patient_id.patient_fk)",
        # For the view '*' is no value, as NULL is none.
        "UPDATE patient_id SET entity_id = '*' WHERE entity_id IS NULL",
        "UPDATE patient_id SET entity_uid = '*', entity_uid_type = '*' WHERE entity_uid IS NULL",
        "UPDATE patient_id SET version = 7, pat_id_type_code = 'MR', entity_uid = '1.2', entity_uid_type = 'ISO'",
        "UPDATE patient_id SET pat_id = pat_id, entity_id = entity_id, patient_fk = patient_fk, version = 8",
        "UPDATE patient SET num_studies = 1, pat_sex = 'O', version = 9",
        "UPDATE patient SET pat_name_fk = pat_name_fk, version = 10",
        "UPDATE person_name SET ideographic_name = 'X', alphabetic_name = alphabetic_name",
    ):
        archive.execute(statement)
        assert operations(archive) == [], statement
    archive.execute("UPDATE patient_id SET entity_id = 'Ñ' WHERE pat_id = '3-K'")
    assert operations(archive) == [("patient", 0, patient_of(archive, pks[3]))]
    archive.execute("UPDATE patient_id SET entity_id = 'ñ' WHERE pat_id = '3-K'")
    assert operations(archive) == [("patient", 0, patient_of(archive, pks[3]))]


def test_an_issuer_that_is_no_value_records_nothing_before_5_31_either(older: Pacs5) -> None:
    pk = older.store_study()
    operations(older)
    older.execute("UPDATE patient_id SET entity_id = '*' WHERE entity_id IS NULL")
    assert operations(older) == []
    older.execute("UPDATE patient_id SET entity_id = 'A'")
    assert operations(older) == [("patient", 0, patient_of(older, pk))]


def test_the_update_to_5_31_under_the_triggers(older: Pacs5) -> None:
    """The archive goes on through it, and records nothing; then `check` names the script, which mends what is left."""
    pks = [older.store_study(patient_id=f"{number}-K") for number in range(3)]
    assert version(older).status is Status.OK
    operations(older)
    # What the archive's update script does.
    older.execute("ALTER TABLE patient_id ADD COLUMN patient_fk BIGINT NULL")
    older.execute("ALTER TABLE patient_id ADD FOREIGN KEY (patient_fk) REFERENCES patient (pk)")
    older.execute(
        "UPDATE patient_id SET patient_fk = (SELECT pk FROM patient WHERE patient_id_fk = patient_id.pk)"
    )
    assert operations(older) == []
    end_of_531(older)
    # The new version stores under the old triggers: nothing fails.
    newer = Pacs5(older.server, older.name)
    try:
        new = newer.store_study(patient_id="new")
        newer.rename_patient(patient_of(newer, new), "X")
        newer.change_patient_id(patient_of(newer, new), "other")
        newer.delete_study(newer.store_study(patient_id="new too"))
        # What the view can't give any more is recorded by key and UID.
        assert ("changed", new, None) in operations(newer)

        said = version(newer)
        assert said.status is Status.FAILED
        assert f"sql --arc5 | mysql {newer.name}" in said.remedy
        newer.server.run_script(ADD, newer.name)
        assert version(newer).status is Status.OK
        assert [view(newer, pk)["patient_id"] for pk in (*pks, new)] == ["0-K", "1-K", "2-K", "other"]
    finally:
        newer.close()


#: What the archive's own update scripts do to the tables that the view reads, up to where the new version may be started.
TO_526 = (
    "ALTER TABLE patient_id ADD entity_id VARCHAR(255), ADD entity_uid VARCHAR(255), ADD entity_uid_type VARCHAR(255)",
    "UPDATE patient_id SET entity_id = 'HOSPITAL'",
    "CREATE INDEX entity_id ON patient_id (entity_id(64))",
)
TO_531 = (
    "ALTER TABLE patient_id ADD patient_fk BIGINT",
    "ALTER TABLE patient_id ADD FOREIGN KEY (patient_fk) REFERENCES patient (pk)",
    "UPDATE patient_id SET patient_fk = (SELECT patient.pk FROM patient WHERE patient_id_fk = patient_id.pk)",
)


def of_service(archive: Pacs5) -> Finding:
    """What `check` says of the view without an administrator's login: the service's account sees no other table."""
    settings = following.settings(archive.server, archive.name, user=archive.user, password=archive.password)
    with following.reading(settings) as connection:
        assert connection.rows(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'patient_id'"
        ) == [(0,)]
        (check,) = [
            make for name, make in installation.OutboxChecks(connection, settings, ()).all() if name == "view"
        ]
        (finding,) = check()
    return finding


def came_since(archive: Pacs5) -> object:
    """What the view says, as the service reads it."""
    with following.reading(following.settings(archive.server, archive.name)) as connection:
        return connection.records("SELECT * FROM indexer_study")[0].get("came_since", "no column")


def test_each_upgrade_is_noticed_by_the_account_of_the_service(older: Pacs5) -> None:
    """A view made for 5.23 has no issuer of an id; one made before 5.31 has no id of a patient who came later."""
    pk = older.store_study(patient_id="1-K")
    older.execute(
        "ALTER TABLE patient_id DROP COLUMN entity_id, DROP COLUMN entity_uid, DROP COLUMN entity_uid_type"
    )
    older.server.run_script(ADD, older.name)
    for update, came in ((TO_526, "patient_id.entity_id"), (TO_531, "patient_id.patient_fk")):
        assert (version(older).status, of_service(older).status) == (Status.OK, Status.OK)
        assert came_since(older) is None
        for statement in update:
            older.execute(statement)
        said = of_service(older)
        assert said.status is Status.FAILED
        assert f"({came} came since)" in said.message
        assert f"sql --arc5 | mysql {older.name}" in said.remedy
        assert "add_indexer.sql" not in said.remedy
        assert version(older).status is Status.FAILED
        assert came.removeprefix("patient_id.") in version(older).message
        older.server.run_script(ADD, older.name)
    # From here on nothing can come that isn't there: the view has no such column, and breaks when one goes away.
    assert came_since(older) == "no column"
    end_of_531(older)
    with pytest.raises(SchemaError, match="with `--arc5` for dcm4chee-arc 5"):
        of_service(older)
    older.server.run_script(ADD, older.name)
    row = view(older, pk)
    assert (row["patient_id"], row["patient_id_issuer"]) == ("1-K", "HOSPITAL")
    assert (version(older).status, of_service(older).status) == (Status.OK, Status.OK)


def test_both_upgrades_at_once_are_named(older: Pacs5) -> None:
    older.store_study()
    older.execute("ALTER TABLE patient_id DROP COLUMN entity_id")
    older.server.run_script(ADD, older.name)
    older.execute("ALTER TABLE patient_id ADD entity_id VARCHAR(255), ADD patient_fk BIGINT")
    assert "(patient_id.entity_id, patient_id.patient_fk came since)" in of_service(older).message
    operations(older)
    pk = older.store_study()
    assert operations(older)[0] == ("stored", pk, patient_of(older, pk)), "the archive goes on meanwhile"


def test_an_unknown_count_is_null(archive: Pacs5) -> None:
    """A series whose records lie in its metadata, and whose number the archive hasn't in its cache."""
    pk = archive.store_study()
    purged = archive.store_image(pk)
    archive.purge_instance_records(purged)
    other = archive.store_image(pk)
    assert view(archive, pk)["study_instances"] == 3
    archive.execute("DELETE FROM series_query_attrs WHERE series_fk = %s", (purged,))
    assert view(archive, pk)["study_instances"] is None
    assert view(archive, pk)["study_series"] == 3
    archive.purge_instance_records(other)
    assert view(archive, pk)["study_instances"] is None
    archive.execute(
        "INSERT INTO series_query_attrs (view_id, series_fk, num_instances) VALUES ('v', %s, 1)", (purged,)
    )
    assert view(archive, pk)["study_instances"] == 3


def test_another_uid_ends_the_old_one_first(archive: Pacs5) -> None:
    pk = archive.store_study("1.2.3")
    operations(archive)
    archive.execute("UPDATE study SET study_iuid = '1.2.4'")
    rows = archive.execute(
        "SELECT operation, study_pk, study_iuid FROM study_service ORDER BY recorded_at, id"
    )
    assert rows == [("deleted", pk, "1.2.3"), ("changed", pk, "1.2.4")]
