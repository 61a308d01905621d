"""The scripts on servers with unusual settings, and the time that a row gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest

from cdc_indexer.checks import installation
from cdc_indexer.model.finding import Status
from tests import following
from tests.pacs5 import ADD_INDEXER as ADD_ARC5
from tests.pacs5 import SCHEMA as SCHEMA_ARC5
from tests.servers import Server
from tests.sql_archive import ADD, OLD_CLIENT, REMOVE, SCHEMA, Session

ARCHIVES = [(SCHEMA, ADD), (SCHEMA_ARC5.read_text(), ADD_ARC5.read_text())]


def test_a_small_stack_is_seen_before_anything_is_changed(new_server: Callable[..., Server]) -> None:
    """With 128K every transaction of the archive would fail with error 1436."""
    server = new_server("--thread-stack=128K")
    for number, (schema, script) in enumerate(ARCHIVES):
        name = f"archive_{number}"
        server.create_database(name)
        server.run_script(schema, name)
        tables = server.execute(f"SHOW TABLES FROM {name}")
        with pytest.raises(Exception, match="thread_stack = 256K"):
            server.run_script(script, name)
        assert server.execute(f"SHOW TABLES FROM {name}") == tables
        assert not server.execute(f"SHOW TRIGGERS FROM {name}")
        routines = "SELECT 1 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s"
        assert not server.execute(routines, (name,))


def test_the_smallest_stack_that_is_taken_is_enough(new_server: Callable[..., Server]) -> None:
    server = new_server("--thread-stack=192K")
    for number, (schema, script) in enumerate(ARCHIVES):
        name = f"archive_{number}"
        server.create_database(name)
        server.run_script(schema, name)
        server.run_script(script, name)
    with closing(Session(server.connect("archive_0"))) as archive:
        study_pk = archive.study(archive.patient(), "1.2.3")
        archive("UPDATE study SET study_iuid = '1.2.4', num_instances = 9")
        archive("DELETE FROM study")
        assert [row[0] for row in archive.operations()] == ["stored", "deleted", "changed", "deleted"]
        assert study_pk


def test_a_server_that_demands_primary_keys(new_server: Callable[..., Server]) -> None:
    server = new_server()
    variable = "innodb_force_primary_key" if server.is_mariadb else "sql_require_primary_key"
    for number, (schema, _) in enumerate(ARCHIVES):
        name = f"archive_{number}"
        server.create_database(name)
        server.run_script(schema, name)
        if number == 0:
            server.run_script(OLD_CLIENT, name)
    server.execute(f"SET GLOBAL {variable} = ON")
    for number, (_, script) in enumerate(ARCHIVES):
        name = f"archive_{number}"
        if number == 1:
            server.execute("DROP TABLE rejected_instance", database=name)
        for _ in range(2):
            server.run_script(script, name)
        assert not {row[0] for row in server.execute(f"SHOW TABLES FROM {name}")} & {
            "indexer_window",
            "indexer_trial",
            "rejected_instance",
        }
        server.run_script(REMOVE, name)


# --- the time of a row -----------------------------------------------------------------------------------


@pytest.fixture
def archive(server: Server, database: str) -> Iterator[Session]:
    server.run_script(SCHEMA, database)
    server.run_script(ADD, database)
    with closing(Session(server.connect(database))) as session:
        yield session


def times(archive: Session) -> list[datetime]:
    return [row[0] for row in archive("SELECT recorded_at FROM study_service ORDER BY recorded_at, id")]


@pytest.mark.parametrize("zone", ["+00:00", "-04:00", "+05:45"])
def test_a_row_is_dated_after_the_wait_for_a_lock(
    server: Any, database: str, archive: Session, zone: str
) -> None:
    """UTC_TIMESTAMP() is the start of the statement, be it an hour before the lock was had."""
    study_pk = archive.study(archive.patient(), "1.2.3")
    archive("DELETE FROM study_service")
    with (
        closing(Session(server.connect(database))) as holder,
        closing(Session(server.connect(database))) as waiter,
    ):
        waiter(f"SET SESSION time_zone = '{zone}'")
        holder("START TRANSACTION")
        holder("SELECT * FROM study WHERE pk = %s FOR UPDATE", study_pk)
        waiting = threading.Thread(
            target=waiter,
            args=("UPDATE study SET num_instances = 7, study_iuid = '1.2.4' WHERE pk = %s", study_pk),
        )
        waiting.start()
        time.sleep(0.6)
        ((released,),) = archive("SELECT UTC_TIMESTAMP(6)")
        holder("COMMIT")
        waiting.join()
        assert waiter("SELECT @@SESSION.time_zone") == [(zone,)]
    ended, changed = times(archive)
    assert released - timedelta(milliseconds=5) <= ended <= changed <= released + timedelta(seconds=5)


def test_never_before_its_statement(archive: Session) -> None:
    """A session whose clock was set (SET timestamp) lies ahead or behind; the row lies with the later one."""
    patient_pk = archive.patient()
    ((now,),) = archive("SELECT UTC_TIMESTAMP(6)")
    archive("SET timestamp = UNIX_TIMESTAMP() + 100")
    archive.study(patient_pk, "1.2.1")
    archive("SET timestamp = UNIX_TIMESTAMP() - 200")
    archive.study(patient_pk, "1.2.2")
    behind, ahead = times(archive)
    assert now - timedelta(seconds=1) <= behind <= now + timedelta(seconds=30)
    assert now + timedelta(seconds=95) <= ahead <= now + timedelta(seconds=130)


@pytest.mark.parametrize("mode", ["", "STRICT_ALL_TABLES", "ALLOW_INVALID_DATES", "NO_ZERO_DATE"])
@pytest.mark.parametrize("given", [None, "0", "'0000-00-00 00:00:00'"])
def test_a_row_by_hand_gets_a_time(archive: Session, mode: str, given: str | None) -> None:
    ((now,),) = archive("SELECT UTC_TIMESTAMP(6)")
    archive("SET SESSION sql_mode = %s", mode)
    column, value = ("", "") if given is None else (", recorded_at", f", {given}")
    try:
        archive(f"INSERT INTO study_service (operation, study_pk{column}) VALUES ('stored', 7{value})")
    except Exception as error:
        # A strict session is told so itself.
        assert (
            mode == "STRICT_ALL_TABLES" or "Incorrect datetime" in str(error) or "default value" in str(error)
        )
        return
    (moment,) = times(archive)
    assert abs(moment - now) < timedelta(seconds=30)


def test_check_names_sysdate_is_now(new_server: Callable[..., Server]) -> None:
    server = new_server("--sysdate-is-now")
    server.create_database("archive")
    settings = following.settings(server, "archive")
    with following.reading(settings) as connection:
        (check,) = [
            make
            for name, make in installation.OutboxChecks(connection, settings, ()).all()
            if name == "recorded_at"
        ]
        (finding,) = check()
    assert finding.status is Status.WARNING
    assert "sysdate-is-now" in finding.message
