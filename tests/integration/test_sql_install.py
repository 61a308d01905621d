"""extras/add_indexer.sql and remove_indexer.sql: what they make, and that they can be run at any time, again and again."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest

from tests.servers import ARCHIVE, ARCHIVE_PASSWORD, Server
from tests.sql_archive import ADD, REMOVE, SCHEMA, VIEW_COLUMNS, Session

TRIGGERS = {
    ("indexer_row", "BEFORE", "INSERT", "study_service"),
    ("indexer_study_insert", "AFTER", "INSERT", "study"),
    ("indexer_study_update", "AFTER", "UPDATE", "study"),
    ("indexer_study_delete", "BEFORE", "DELETE", "study"),
    ("indexer_patient_update", "AFTER", "UPDATE", "patient"),
}


@pytest.fixture
def archive(server: Any, database: str) -> Iterator[Session]:
    """A DCM4CHEE 2.x archive with two studies, without the indexer."""
    server.run_script(SCHEMA, database)
    with closing(Session(server.connect(database))) as session:
        patient_pk = session.patient()
        session.study(patient_pk, "1.2.1", study_desc="TÓRAX")
        session.study(patient_pk, "1.2.2")
        yield session


def definitions(session: Session) -> dict[str, Any]:
    """Everything that a script could have changed: tables, views, routines, triggers, events, accounts."""
    schema = session("SELECT DATABASE()")[0][0]
    found: dict[str, Any] = {"accounts": session("SELECT user, host FROM mysql.user ORDER BY 1, 2")}
    for (name,) in session(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", schema
    ):
        create = session(f"SHOW CREATE TABLE `{name}`")[0][1]
        found[name] = re.sub(r" AUTO_INCREMENT=\d+", "", create)
    for kind, columns in {
        "triggers": "trigger_name, action_timing, event_manipulation, event_object_table, definer, sql_mode,"
        " action_statement",
        "routines": "routine_name, routine_type, definer, security_type, sql_mode, routine_definition",
        "events": "event_name, definer, event_definition, interval_value, interval_field, sql_mode",
    }.items():
        found[kind] = session(
            f"SELECT {columns} FROM information_schema.{kind} WHERE {kind[:-1]}_schema = %s ORDER BY 1",
            schema,
        )
    return found


def test_one_run_makes_what_the_contract_names(server: Any, database: str, archive: Session) -> None:
    server.run_script(ADD, database)

    made = definitions(archive)
    assert {row[:4] for row in made["triggers"]} == TRIGGERS
    # The archive's own account: without it there would be nothing to record.
    assert {row[4] for row in made["triggers"]} == {ARCHIVE.replace("'", "")}
    assert [row[:4] for row in made["routines"]] == [
        ("indexer_process", "PROCEDURE", "root@localhost", "INVOKER"),
        ("indexer_prune", "PROCEDURE", "indexer_definer@localhost", "DEFINER"),
    ]
    assert [row[:2] for row in made["events"]] == [("indexer_prune", "indexer_definer@localhost")]
    assert {name for name in made if name.startswith(("study", "indexer", "patient"))} == {
        "patient",
        "study",
        "study_service",
        "indexer_study",
    }
    assert [row[0] for row in archive("SHOW COLUMNS FROM indexer_study")] == list(VIEW_COLUMNS)
    columns = {row[0]: row for row in archive("SHOW COLUMNS FROM study_service")}
    assert list(columns) == ["id", "operation", *VIEW_COLUMNS, "recorded_at"]
    assert (
        columns["id"][1].startswith("bigint")
        and columns["id"][1].endswith("unsigned")
        and columns["id"][3] == "PRI"
    )
    assert columns["operation"][1] == "varchar(16)"
    assert columns["recorded_at"][1] == "datetime(6)"
    assert all(columns[name][2] == "YES" for name in VIEW_COLUMNS)
    assert "utf8mb4" in made["study_service"] and "ENGINE=InnoDB" in made["study_service"]
    indexed = {row[4] for row in archive("SHOW INDEX FROM study_service") if row[3] == 1}
    assert indexed == {"id", "study_pk", "recorded_at"}
    # What the archive held before is the business of `initial`.
    assert archive.outbox() == []


def test_running_it_again_changes_nothing(server: Any, database: str, archive: Session) -> None:
    server.run_script(ADD, database)
    archive("UPDATE study SET num_instances = 7 WHERE study_iuid = '1.2.1'")
    made, rows = definitions(archive), archive("SELECT * FROM study_service")
    assert len(rows) == 1

    for _ in range(2):
        server.run_script(ADD, database)

    assert definitions(archive) == made
    assert archive("SELECT * FROM study_service") == rows


def test_removing_leaves_the_archive_as_it_was(server: Any, database: str, archive: Session) -> None:
    server.run_script(REMOVE, database)  # accounts that other tests left
    before = definitions(archive)
    checksums = archive("CHECKSUM TABLE study, patient")
    server.run_script(ADD, database)
    assert definitions(archive) != before

    for _ in range(2):
        server.run_script(REMOVE, database)

    assert definitions(archive) == before
    assert archive("CHECKSUM TABLE study, patient") == checksums
    assert (
        archive("SELECT * FROM information_schema.table_privileges WHERE table_schema = %s", database) == []
    )
    assert (
        archive(
            "SELECT * FROM information_schema.schema_privileges WHERE table_schema = %s AND grantee <> %s",
            database,
            ARCHIVE,
        )
        == []
    )


def test_two_archives_on_one_server_do_not_share_their_fate(
    server: Any, database: str, archive: Session
) -> None:
    other = f"{database}-other_one"
    server.create_database(other, charset="latin1")
    try:
        for name in (other, database):
            if name == other:
                server.run_script(SCHEMA, name)
            server.run_script(ADD, name)
        server.run_script(REMOVE, other)

        archive("UPDATE study SET num_instances = 7")
        assert archive.operations() == [("changed", 1), ("changed", 2)]
        left = server.execute(
            "SELECT grantee FROM information_schema.table_privileges WHERE table_schema = %s", [other]
        )
        assert left == []
        left = server.execute(
            "SELECT grantee FROM information_schema.schema_privileges WHERE table_schema = %s AND grantee <> %s",
            [other, ARCHIVE],
        )
        assert left == []
    finally:
        server.drop_database(other)


def grants_of(archive: Session, account: str, database: str) -> list[str]:
    """What an account may do with this archive's objects; what it may do everywhere must be nothing."""
    grants = [row[0].replace("`", "") for row in archive(f"SHOW GRANTS FOR {account}")]
    everywhere = [grant for grant in grants if "ON *.*" in grant]
    assert everywhere and all(grant.startswith("GRANT USAGE ON") for grant in everywhere)
    return [grant for grant in grants if f"ON {database}." in grant or f"PROCEDURE {database}." in grant]


def test_the_events_account_has_no_more_than_it_needs(server: Any, database: str, archive: Session) -> None:
    server.run_script(ADD, database)

    account = "'indexer_definer'@'localhost'"
    assert {re.sub(r" ON .*", "", grant) for grant in grants_of(archive, account, database)} == {
        "GRANT EVENT",
        "GRANT SELECT, DELETE",
        "GRANT EXECUTE",
    }
    assert "ACCOUNT LOCK" in archive(f"SHOW CREATE USER {account}")[0][0]
    for password in ("", "indexer_definer"):
        with pytest.raises(pymysql.err.OperationalError):
            server.connect(user="indexer_definer", password=password)


def test_an_archive_with_few_rights_gets_what_the_triggers_need(
    server: Server, database: str, archive: Session
) -> None:
    archive(f"REVOKE ALL PRIVILEGES ON `{database}`.* FROM {ARCHIVE}")
    for table in ("study", "patient"):
        archive(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ARCHIVE}")
    before = grants_of(archive, ARCHIVE, database)
    for _ in range(2):
        server.run_script(ADD, database)
    with closing(Session(server.connect(database, user="pacs", password=ARCHIVE_PASSWORD))) as pacs:
        study_pk = pacs.study(pacs.patient("2-7"), "1.2.3")
        pacs("UPDATE patient SET pat_name = 'X' WHERE pat_id = '2-7'")
        pacs("DELETE FROM study WHERE pk = %s", study_pk)
    assert archive.operations() == [("stored", study_pk), ("patient", 0), ("deleted", study_pk)]
    given = "".join(grants_of(archive, ARCHIVE, database))
    assert not re.search(r"GRANT (ALL|[^O]*(ALTER|DROP|CREATE|GRANT OPTION))", given)
    server.run_script(REMOVE, database)
    assert sorted(grants_of(archive, ARCHIVE, database)) == sorted(before)


@pytest.mark.parametrize("script", [ADD, REMOVE], ids=["add", "remove"])
def test_a_long_transaction_ends_the_script_and_not_the_archive(
    server: Any, database: str, archive: Session, script: str
) -> None:
    server.run_script(ADD, database)
    made = definitions(archive)
    waited: list[float] = []

    def store() -> None:
        with closing(Session(server.connect(database))) as session:
            session("SET SESSION lock_wait_timeout = 60")
            for number in range(8):
                started = time.monotonic()
                session.study(1, f"1.2.3.{number}")
                waited.append(time.monotonic() - started)
                time.sleep(0.5)

    with closing(Session(server.connect(database))) as long:
        long("START TRANSACTION")
        long("SELECT COUNT(*) FROM study")
        storing = threading.Thread(target=store)
        storing.start()
        started = time.monotonic()
        with pytest.raises(Exception, match=r"(?i)lock wait timeout"):
            server.run_script(script, database)
        assert time.monotonic() - started < 6
        storing.join()

    # The archive stood still for no longer than the script's own two seconds, and every study is recorded.
    assert max(waited) < 4
    assert definitions(archive).keys() >= made.keys()
    assert definitions(archive)["triggers"] == made["triggers"]
    recorded = {row[5] for row in archive.outbox() if row[0] == "stored"}
    assert recorded == {f"1.2.3.{number}" for number in range(8)}

    server.run_script(script, database)
    if script is ADD:
        assert definitions(archive) == made
        assert {row[5] for row in archive.outbox() if row[0] == "stored"} == recorded


def test_a_database_that_is_no_archive_is_left_alone(server: Any, database: str) -> None:
    server.execute("CREATE TABLE study (pk INT)", database=database)
    with pytest.raises(Exception, match=r"(?i)unknown column|doesn't exist"):
        server.run_script(ADD, database)
    assert [row[0] for row in server.execute("SHOW TABLES", database=database)] == ["study"]


def test_the_view_is_merged_and_read_by_key(server: Any, database: str, archive: Session) -> None:
    server.run_script(ADD, database)
    for number in range(300):
        archive.study(archive.patient(f"{number}-K"), f"1.3.{number}")
    archive("ANALYZE TABLE study, patient")

    for query, keys in {
        "SELECT * FROM indexer_study WHERE study_pk > 5 ORDER BY study_pk LIMIT 50": {"PRIMARY"},
        "SELECT * FROM indexer_study WHERE study_pk IN (3, 5, 7)": {"PRIMARY"},
        "SELECT * FROM indexer_study WHERE study_pk = 3": {"PRIMARY"},
    }.items():
        with archive.connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {query}")
            plan = cursor.fetchall()
        assert [row["table"] for row in plan] == ["s", "p"]
        assert {row["select_type"] for row in plan} == {"SIMPLE"}
        assert plan[0]["key"] in keys, query
        assert plan[1]["key"] == "PRIMARY"
        assert "temporary" not in str(plan)


@pytest.mark.parametrize("script", [ADD, REMOVE], ids=["add", "remove"])
def test_written_for_mysql_5_6_and_for_any_database_name(script: str) -> None:
    code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("--"))
    code = re.sub(r"/\*(!50706|M!100402).*?\*/", "", code)
    for newer in (
        r"CREATE\s+(USER|TRIGGER|PROCEDURE|EVENT)\s+IF NOT EXISTS",
        r"DROP USER IF EXISTS",
        r"OR REPLACE.{0,200}?\b(TRIGGER|PROCEDURE|EVENT)\b",
        r"ACCOUNT LOCK",
        r"\bJSON_",
        r"^\s*WITH\s",
        r"\bENUM\b",
        r"\bROLE\b",
    ):
        assert not re.search(newer, code, re.MULTILINE), newer
    assert not re.search(r"\bUSE\s+\S+;", code)
    assert "pacsdb" not in code
