"""The servers and archives that the other tests stand on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import pymysql
import pytest

from tests.pacs import Pacs
from tests.servers import ScriptFailed, Server, ServerFailed


def test_a_server_has_the_defaults_that_a_hospital_has(server: Server) -> None:
    [row] = server.execute("SELECT @@log_bin, @@binlog_format, @@port, @@server_id, @@binlog_row_metadata")
    assert row[:4] == (1, "ROW", server.port, server.port)
    assert row[4] in ("MINIMAL", "NO_LOG")
    assert server.execute("SELECT VERSION()")[0][0].startswith(server.version)


def test_root_and_nobody_else_gets_in_over_tcp(server: Server) -> None:
    with contextlib.closing(server.connect(unix_socket=None)) as connection:
        assert connection.get_host_info().startswith("socket 127.0.0.1")
    with pytest.raises(pymysql.err.OperationalError):
        server.connect(user="nobody")


def test_a_script_goes_through_the_real_client(server: Server, database: str) -> None:
    script = "CREATE TABLE t (a INT);\nDELIMITER //\nINSERT INTO t VALUES (1)//\nSELECT a + 41 FROM t//\n"
    assert "42" in server.run_script(script, database)
    with pytest.raises(ScriptFailed, match=r"1146.*nowhere"):
        server.run_script(
            "INSERT INTO t VALUES (2); SELECT * FROM nowhere; INSERT INTO t VALUES (3);", database
        )
    assert server.execute("SELECT a FROM t ORDER BY a", database=database) == [(1,), (2,)]


def test_two_servers_differ_and_survive_kill_and_restart(new_server: Callable[..., Server]) -> None:
    one, other = new_server(), new_server("--skip-log-bin")
    assert one.execute("SELECT @@log_bin") == [(1,)]
    assert other.execute("SELECT @@log_bin") == [(0,)]
    if not one.is_mariadb:
        assert one.execute("SELECT @@server_uuid") != other.execute("SELECT @@server_uuid")
    assert one.execute("SELECT @@tmpdir") != other.execute("SELECT @@tmpdir")
    one.create_database("kept")
    for interrupt in (one.kill, one.stop):
        port = one.port
        interrupt()
        assert not one.running
        with pytest.raises(pymysql.err.OperationalError):
            one.execute("SELECT 1")
        one.start()
        assert one.port == port
        assert ("kept",) in one.execute("SHOW DATABASES")
    pid = other.pid
    other.destroy()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_does_not_start_says_why(new_server: Callable[..., Server]) -> None:
    new_server()
    with pytest.raises(ServerFailed, match="no_such_option"):
        new_server("--no_such_option=1")


def test_a_study_is_stored_in_the_order_of_the_archive(pacs: Pacs) -> None:
    study_pk = pacs.store_study("1.2.3", patient_id="1-9", patient_name="NÚÑEZ^MARÍA")
    pacs.store_study("1.2.4", commit=False)
    assert pacs.execute("SELECT study_iuid FROM study") == [("1.2.3",)]
    assert pacs.execute("SELECT operation, study_iuid, patient_name, study_instances FROM study_service") == [
        ("stored", "1.2.3", "NÚÑEZ^MARÍA", 0)
    ]
    pacs.update_counts(study_pk, 2, 30, "CT\\PT")
    pacs.delete_study(study_pk)
    assert pacs.execute(
        "SELECT operation, study_modality, study_instances FROM study_service ORDER BY recorded_at, id"
    )[1:] == [
        ("changed", "CT\\PT", 30),
        # Key and UID are all that a deletion needs; the view may not have the study any more.
        ("deleted", None, None),
    ]
    charsets = pacs.execute(
        "SELECT DISTINCT CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN ('patient', 'study') AND CHARACTER_SET_NAME IS NOT NULL",
        (pacs.name,),
    )
    assert charsets == [("latin1", "latin1_bin")]


def test_patients_are_found_again_renamed_and_left(pacs: Pacs) -> None:
    study_pks = [pacs.store_study(patient_id="1-9") for _ in range(2)]
    [(patient_pk,)] = pacs.execute("SELECT pk FROM patient")
    pacs.rename_patient(patient_pk, "OTRO^NOMBRE")
    other_pk = pacs.add_patient("2-7", "PÉREZ^ANA")
    pacs.move_study(study_pks[0], other_pk)
    assert pacs.execute("SELECT study_pk, patient_name FROM indexer_study ORDER BY study_pk") == [
        (study_pks[0], "PÉREZ^ANA"),
        (study_pks[1], "OTRO^NOMBRE"),
    ]


def test_the_account_has_the_rights_of_the_contract_and_no_more(new_server: Callable[..., Server]) -> None:
    # The account is the whole server's: on a shared one other tests have given it rights on their archives.
    pacs = Pacs.create(new_server())
    pacs.store_study()
    with contextlib.closing(pacs.connect(user="indexer", password=pacs.password)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT COUNT(*) FROM study_service UNION ALL SELECT COUNT(*) FROM indexer_study")
        assert cursor.fetchall() == ((1,), (1,))
        cursor.execute("SHOW BINARY LOGS")
        assert cursor.fetchall()
        for refused in ("SELECT 1 FROM patient", "DELETE FROM study_service", "SELECT 1 FROM mysql.user"):
            with pytest.raises(pymysql.err.OperationalError, match="denied"):
                cursor.execute(refused)
        cursor.execute("SHOW GRANTS")
        assert all(pacs.name in grant or "ON *.*" in grant for (grant,) in cursor.fetchall())
    pacs.close()


def test_many_rows_are_quick_and_one_transaction_where_asked(pacs: Pacs) -> None:
    started = time.monotonic()
    study_iuids = pacs.insert_outbox_rows(20_000) + pacs.insert_outbox_rows(10, one_transaction=False)
    studies = pacs.store_studies(2_500)
    assert time.monotonic() - started < 60
    rows = pacs.execute("SELECT study_iuid FROM study_service ORDER BY id")
    assert [iuid for (iuid,) in rows] == study_iuids + studies
    assert pacs.execute("SELECT COUNT(*), COUNT(DISTINCT patient_pk) FROM indexer_study") == [(2_500, 2_500)]


def test_a_pacs_goes_on_after_a_restart_but_never_inside_a_transaction(
    new_server: Callable[..., Server],
) -> None:
    server = new_server()
    pacs = Pacs.create(server)
    server.restart()
    pacs.store_study("1.2.3")

    def interrupted() -> None:
        with pacs.transaction():
            pacs.store_study("1.2.4")
            server.restart()
            pacs.store_study("1.2.5")

    with pytest.raises(pymysql.err.Error):
        interrupted()
    assert pacs.execute("SELECT study_iuid FROM study") == [("1.2.3",)]
    pacs.close()
