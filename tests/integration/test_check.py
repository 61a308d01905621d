"""`check` on each server: every state that it tells apart, made for real."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from pymysqlreplication.binlogstream import ReportSlave

from cdc_indexer.checks import installation, objects
from cdc_indexer.checks.database import preflight
from cdc_indexer.checks.retention import Following
from cdc_indexer.model.finding import Finding, Status
from cdc_indexer.model.settings import Settings, load_settings
from cdc_indexer.source import catalogue
from tests.following import reading
from tests.indexer import Indexer
from tests.pacs import Pacs
from tests.receiver import Receiver
from tests.servers import Server

OK, WARNING, FAILED = Status.OK, Status.WARNING, Status.FAILED
RECENT = f"{datetime.now():%Y-%m-%d} 08:00:00"


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Pacs]:
    """An archive for the tests that leave it as they found it: making one takes longer than most of them."""
    archive = Pacs.create(server)
    archive.store_study(study_datetime=RECENT)
    yield archive
    archive.destroy()


@pytest.fixture
def make_indexer(tmp_path: Path) -> Callable[[Pacs], Indexer]:
    # Nothing is sent: nobody listens.
    return lambda pacs: Indexer(tmp_path / "indexer", pacs, "http://127.0.0.1:1/")


@pytest.fixture
def indexer(shared: Pacs, make_indexer: Callable[[Pacs], Indexer]) -> Indexer:
    """On the archive that is shared."""
    return make_indexer(shared)


@pytest.fixture
def broken(pacs: Pacs, make_indexer: Callable[[Pacs], Indexer]) -> Indexer:
    """On an archive of the test's own."""
    return make_indexer(pacs)


def settings_of(indexer: Indexer) -> Settings:
    return load_settings(indexer.directory / "config.json", {})


def found(indexer: Indexer, *, admin: bool = False, **following: Any) -> list[Finding]:
    """What `check` says of the database."""
    settings = settings_of(indexer)
    root = settings.database.model_copy(update={"user": "root", "password": SecretStr("")}) if admin else None
    return list(
        preflight(
            settings.database,
            replace(Following(settings.server_id), **following)
            if following
            else Following(settings.server_id),
            root,
        )
    )


def only(findings: list[Finding], name: str) -> Finding:
    """The one finding of that name that isn't fine; or the one that is."""
    named = [finding for finding in findings if finding.name == name]
    return next((finding for finding in named if finding.status is not OK), named[0])


def failures(findings: list[Finding]) -> list[str]:
    """The names of what failed; MariaDB's default keeps binary logs for ever."""
    return [one.name for one in findings if one.status is FAILED and one.name != "binlog retention"]


@contextlib.contextmanager
def globally(server: Server, **variables: Any) -> Iterator[None]:
    """Server variables for as long as the block takes."""
    before = {name: server.execute(f"SELECT @@GLOBAL.{name}")[0][0] for name in variables}
    try:
        for name, value in variables.items():
            server.execute(f"SET GLOBAL {name} = %s", (value,))
        yield
    finally:
        for name, value in before.items():
            server.execute(f"SET GLOBAL {name} = %s", (value,))


def expire(server: Server, days: float) -> contextlib.AbstractContextManager[None]:
    return globally(server, binlog_expire_logs_seconds=int(days * 86_400))


# --- all is well -----------------------------------------------------------------------------------------


def test_a_good_installation_has_no_findings_but_good_ones(shared: Pacs, indexer: Indexer) -> None:
    with expire(shared.server, 7), globally(shared.server, event_scheduler="ON"):
        findings = found(indexer, admin=True)
        assert [finding for finding in findings if finding.status is not OK] == []
        assert {finding.name for finding in findings} >= {
            "connection", "server", "TLS", "log_bin", "binlog_format", "binlog retention", "binlog_row_image", "grants",
            "server_id", "table", "view", "recorded studies", "event_scheduler", "clock", "triggers", "procedures",
            "event", "cascade",
        }  # fmt: skip
        assert shared.server.version.split("-")[0] in only(findings, "server").message
        without = found(indexer)
        # What the archive has stored shows that they record.
        assert [finding for finding in without if finding.status is not OK] == []
    for image in ("MINIMAL", "NOBLOB"):
        with globally(shared.server, binlog_row_image=image):
            assert image in only(found(indexer), "binlog_row_image").message
            assert only(found(indexer), "binlog_row_image").status is OK


# --- the server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["STATEMENT", "MIXED"])
@pytest.mark.filterwarnings("ignore")  # MySQL says that the variable will go
def test_binlog_format(value: str, shared: Pacs, indexer: Indexer) -> None:
    with globally(shared.server, binlog_format=value):
        finding = only(found(indexer), "binlog_format")
        assert finding.status is FAILED
        assert value in finding.message
        paste(shared.server, finding)
        assert only(found(indexer), "binlog_format").status is OK


def paste(server: Server, finding: Finding, database: str | None = None) -> None:
    """Does what the remedy says: its lines that are SQL."""
    statements = [
        line for line in finding.remedy.splitlines() if line.endswith(";") and line.split()[0].isupper()
    ]
    assert statements, finding
    for statement in statements:
        server.execute(statement.replace("SET PERSIST", "SET GLOBAL"), database=database)


def test_binlogs_that_are_kept_for_ever_or_not_for_long(shared: Pacs, indexer: Indexer) -> None:
    with expire(shared.server, 0):
        finding = only(found(indexer), "binlog retention")
        assert finding.status is FAILED
        assert "for ever" in finding.message
        assert "[mysqld]" in finding.remedy
        paste(shared.server, finding)
        assert "7 days" in only(found(indexer), "binlog retention").message
        assert only(found(indexer), "binlog retention").status is OK
    with expire(shared.server, 1):
        finding = only(found(indexer), "binlog retention")
        assert finding.status is WARNING
        assert "24 hours" in finding.message


def test_a_limit_of_size_is_one_too(shared: Pacs, indexer: Indexer) -> None:
    if shared.server.flavour != "mariadb-11.8":
        pytest.skip("others have no such variable")
    with expire(shared.server, 0), globally(shared.server, max_binlog_total_size=10**9):
        assert only(found(indexer), "binlog retention").status is OK


def test_a_place_in_the_log_that_will_be_purged_and_one_that_is(shared: Pacs, indexer: Indexer) -> None:
    with reading(settings_of(indexer).database) as connection:
        position = catalogue.binlog_end(connection)
    days_ago = datetime.now(timezone.utc) - timedelta(days=5)
    with expire(shared.server, 7):
        # As long as it is the newest file, nothing of it can be purged.
        assert only(found(indexer, position=position, written=days_ago), "binlog retention").status is OK
        shared.server.execute("FLUSH BINARY LOGS")
        finding = only(found(indexer, position=position, written=days_ago), "binlog retention")
        assert finding.status is WARNING
        assert "5 days" in finding.message
        now = datetime.now(timezone.utc)
        assert only(found(indexer, position=position, written=now), "binlog retention").status is OK
        # A `run` that is active moves on by itself, also where nothing was written for long.
        running = found(indexer, position=position, written=days_ago, running=True)
        assert only(running, "binlog retention").status is OK
        assert shared.server.purge_binlogs()
        finding = only(found(indexer, position=position, written=now), "binlog retention")
        assert finding.status is WARNING
        assert f"no binary log {position.file}" in finding.message


def test_no_binlog(new_server: Callable[..., Server], make_indexer: Callable[[Pacs], Indexer]) -> None:
    pacs = Pacs.create(new_server("--skip-log-bin"))
    findings = found(make_indexer(pacs))
    finding = only(findings, "log_bin")
    assert finding.status is WARNING, "no obstacle"
    assert "log_bin          = mysql-bin" in finding.remedy
    assert only(findings, "binlog retention").message == "Not judged yet: `log_bin` comes first."
    assert only(findings, "view").status is OK
    assert not failures(findings)
    pacs.destroy()


def test_a_binlog_that_leaves_the_archive_out_or_serves_nobody(
    new_server: Callable[..., Server], make_indexer: Callable[[Pacs], Indexer]
) -> None:
    pacs = Pacs.create(new_server("--binlog-do-db=another", "--server-id=0"))
    findings = found(make_indexer(pacs))
    assert only(findings, "log_bin").status is WARNING
    assert f"leaves {pacs.name} out" in only(findings, "log_bin").message
    if pacs.server.is_mariadb:  # which makes it 1
        assert only(findings, "server_id").status is OK
    else:
        assert only(findings, "server_id").status is FAILED
    pacs.destroy()


def test_event_scheduler(shared: Pacs, indexer: Indexer) -> None:
    with globally(shared.server, event_scheduler="OFF"):
        finding = only(found(indexer), "event_scheduler")
        assert finding.status is WARNING
        paste(shared.server, finding)
        assert only(found(indexer), "event_scheduler").status is OK


def test_a_clock_that_is_wrong(shared: Pacs, indexer: Indexer) -> None:
    # For sessions of accounts without SUPER, such as the service's.
    with globally(shared.server, init_connect="SET timestamp = UNIX_TIMESTAMP() - 7200"):
        finding = only(found(indexer), "clock")
        assert finding.status is WARNING
        assert "2 hours behind" in finding.message
    with globally(shared.server, init_connect="SET timestamp = UNIX_TIMESTAMP() + 5"):
        assert only(found(indexer), "clock").status is OK


# --- server_id -------------------------------------------------------------------------------------------


def test_a_server_id_that_is_taken(shared: Pacs, indexer: Indexer) -> None:
    indexer.settings["stream"] = {"server_id": shared.server.port}
    indexer.write_files()
    finding = only(found(indexer), "server_id")
    assert finding.status is FAILED
    assert "the server's own" in finding.message
    indexer.settings["stream"] = {"server_id": 4711}
    indexer.write_files()
    account = f"'{shared.user}'@'localhost'"
    if shared.server.is_mariadb:
        assert "may not see" in only(found(indexer), "server_id").message
        shared.execute(f"GRANT REPLICATION MASTER ADMIN ON *.* TO {account}")
    try:
        assert only(found(indexer), "server_id").message == "4711 is free."
        with contextlib.closing(shared.connect()) as connection:
            # As replicas do once they are connected (COM_REGISTER_SLAVE).
            replica, slave = cast(Any, connection), cast(Any, ReportSlave)("")
            replica._write_bytes(slave.encoded(4711))
            replica._next_seq_id = 1
            replica._read_packet()
            finding = only(found(indexer), "server_id")
            assert finding.status is FAILED
            assert "Another replica" in finding.message
    finally:
        if shared.server.is_mariadb:
            shared.execute(f"REVOKE REPLICATION MASTER ADMIN ON *.* FROM {account}")


# --- what the account may do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "named"),
    [
        ("SELECT ON {name}.study_service", "SELECT on study_service"),
        ("SELECT ON {name}.indexer_study", "SELECT on indexer_study"),
        ("REPLICATION SLAVE ON *.*", "REPLICATION SLAVE"),
        ("REPLICATION CLIENT ON *.*", "REPLICATION CLIENT"),
    ],
)
def test_a_right_that_is_missing(right: str, named: str, shared: Pacs, indexer: Indexer) -> None:
    right = right.format(name=shared.name)
    shared.execute(f"REVOKE {right} FROM '{shared.user}'@'localhost'")
    try:
        finding = only(found(indexer), "grants")
        assert finding.status is FAILED
        assert finding.message == f"The account indexer@localhost lacks {named}."
        paste(shared.server, finding)
        assert only(found(indexer), "grants").status is OK
    finally:
        shared.grant()


def test_no_right_at_all_on_the_database(shared: Pacs, indexer: Indexer) -> None:
    for table in ("study_service", "indexer_study"):
        shared.execute(f"REVOKE SELECT ON {shared.name}.{table} FROM '{shared.user}'@'localhost'")
    findings = found(indexer)
    assert only(findings, "connection").status is OK
    assert failures(findings) == ["grants"], "one cause, once"
    for name in ("table", "view", "recorded studies", "triggers"):
        assert only(findings, name).message == "Not judged yet: `grants` comes first."
    assert "study_service; SELECT on indexer_study" in only(findings, "grants").message
    assert "error 1146" in only(findings, "grants").remedy, "the SQL file comes first"
    # Who sees that it was run says no more of it.
    assert "1146" not in only(found(indexer, admin=True), "grants").remedy
    paste(shared.server, only(findings, "grants"))
    assert only(found(indexer), "table").status is OK


def test_the_sql_file_was_never_run(server: Server, indexer: Indexer, tmp_path: Path) -> None:
    """One cause, one remedy, which is pasted as it is; then the rights, then nothing is missing."""
    pacs = Pacs.create_bare(server)
    indexer.settings["database"]["name"] = pacs.name
    indexer.write_files()
    findings = found(indexer, admin=True)
    assert failures(findings) == ["table"]
    assert "the SQL file wasn't run there" in only(findings, "table").message
    for name in ("grants", "view", "recorded studies", "triggers"):
        assert only(findings, name).message == "Not judged yet: `table` comes first."
    pipe(pacs, only(findings, "table"), tmp_path)
    findings = found(indexer, admin=True)
    assert failures(findings) == ["grants"]
    paste(server, only(findings, "grants"))
    assert not failures(found(indexer, admin=True))
    pacs.destroy()


def pipe(pacs: Pacs, finding: Finding, directory: Path) -> None:
    """Does what the remedy says: its line `program sql | mysql name`, from wherever one is; mysql is the server's own."""
    (line,) = [one for one in finding.remedy.splitlines() if " | mysql " in one]
    program, client = line.split(" | mysql ")
    done = subprocess.run(program, shell=True, cwd=directory, capture_output=True, text=True, check=True)
    assert client == pacs.name
    pacs.server.run_script(done.stdout, client)


def test_a_misspelt_name_of_the_database(shared: Pacs, indexer: Indexer) -> None:
    indexer.settings["database"]["name"] = f"{shared.name}x"
    indexer.write_files()
    for admin, said in ((False, "The account's rights are in"), (True, "The server has no database")):
        findings = found(indexer, admin=admin)
        assert failures(findings) == ["database.name"]
        assert said in only(findings, "database.name").message
        assert "`database.name` comes first" in only(findings, "grants").message
        name = json.loads("{" + only(findings, "database.name").remedy.splitlines()[-1] + "}")["name"]
        assert name == shared.name


def test_rights_that_everybody_has_are_not_the_accounts(shared: Pacs, indexer: Indexer) -> None:
    """REVOKE would answer with error 1141: MariaDB gives everybody rights on its database test."""
    if not shared.server.is_mariadb:
        pytest.skip("MySQL has no PUBLIC")
    shared.execute(f"GRANT SELECT, INSERT ON {shared.name}.* TO PUBLIC")
    try:
        assert only(found(indexer), "grants").status is OK
    finally:
        shared.execute(f"REVOKE SELECT, INSERT ON {shared.name}.* FROM PUBLIC")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("SELECT, INSERT ON {name}.*", "INSERT, SELECT on {name}.*"),
        ("UPDATE ON {name}.study_service", "UPDATE on {name}.study_service"),
        ("SELECT ON {name}.patient", "SELECT on {name}.patient"),
        ("PROCESS ON *.*", "PROCESS on *.*"),
        ("EXECUTE ON PROCEDURE {name}.indexer_process", "EXECUTE on PROCEDURE {name}.indexer_process"),
        ("SELECT ON `pacs\\_%%`.*", "SELECT on pacs\\_%.*"),
    ],
)
def test_rights_that_are_more_than_needed(more: str, said: str, shared: Pacs, indexer: Indexer) -> None:
    account = f"'{shared.user}'@'localhost'"
    shared.execute(f"GRANT {more.format(name=shared.name)} TO {account}".replace("%%", "%"))
    finding = only(found(indexer), "grants")
    assert finding.status is WARNING
    assert said.format(name=shared.name) in finding.message
    paste(shared.server, finding)
    assert only(found(indexer), "grants").status is OK


def test_a_broad_right_is_narrowed_before_it_is_taken_away(shared: Pacs, indexer: Indexer) -> None:
    account = f"'{shared.user}'@'localhost'"
    shared.execute(f"GRANT SELECT ON {shared.name}.* TO {account}")
    for table in ("study_service", "indexer_study"):
        shared.execute(f"REVOKE SELECT ON {shared.name}.{table} FROM {account}")
    finding = only(found(indexer), "grants")
    assert finding.status is WARNING
    paste(shared.server, finding)
    assert only(found(indexer), "grants").status is OK


def test_an_account_that_may_do_everything(shared: Pacs, indexer: Indexer) -> None:
    indexer.settings["database"].update(user="root", password="")
    indexer.write_files()
    finding = only(found(indexer), "grants")
    assert finding.status is WARNING
    assert "is an administrator" in finding.message
    assert f"GRANT SELECT ON `{shared.name}`.study_service" in finding.remedy


def test_rights_that_come_by_a_role(shared: Pacs, indexer: Indexer) -> None:
    account, role = f"'{shared.user}'@'localhost'", f"role_{shared.name[-12:]}"
    shared.execute(f"CREATE ROLE {role}")
    try:
        for table in ("study_service", "indexer_study"):
            shared.execute(f"GRANT SELECT ON {shared.name}.{table} TO {role}")
            shared.execute(f"REVOKE SELECT ON {shared.name}.{table} FROM {account}")
        shared.execute(f"GRANT {role} TO {account}")
        shared.execute(
            f"SET DEFAULT ROLE {role} FOR {account}"
            if shared.server.is_mariadb
            else f"SET DEFAULT ROLE {role} TO {account}"
        )
        assert only(found(indexer), "grants").status is OK
        assert only(found(indexer), "table").status is OK, "the role is there again"
        shared.execute(f"GRANT INSERT ON {shared.name}.* TO {role}")
        assert only(found(indexer), "grants").status is OK, "no REVOKE from the account takes that away"
    finally:
        shared.execute(f"DROP ROLE {role}")
        shared.grant()


# --- table, view, what is recorded ------------------------------------------------------------------------


def test_a_table_that_is_not_as_the_script_makes_it(pacs: Pacs, broken: Indexer) -> None:
    pacs.execute("ALTER TABLE study_service DROP KEY recorded_at")
    finding = only(found(broken), "table")
    assert finding.status is FAILED
    assert "no index on recorded_at" in finding.message
    paste(pacs.server, finding, pacs.name)
    assert only(found(broken), "table").status is OK
    pacs.execute("ALTER TABLE study_service DROP COLUMN study_modality")
    assert "lacks the column study_modality" in only(found(broken), "table").message
    pacs.execute("DROP TABLE study_service")
    findings = found(broken)
    assert failures(findings) == ["table"]
    assert only(findings, "view").message == "Not judged yet: `table` comes first."
    pacs.execute("CREATE TABLE study_service (study_pk INT PRIMARY KEY)")
    assert "old client" in only(found(broken), "table").message
    pacs.server.run_script(Path("extras/add_indexer.sql").read_text(), pacs.name)
    assert only(found(broken), "table").status is OK


def test_a_view_that_is_broken_or_lacks_a_column(pacs: Pacs, broken: Indexer) -> None:
    extra = found(broken, columns=("referring_physician",))
    assert "lacks the column referring_physician" in only(extra, "table").message
    assert "remove it from `fields`" in only(extra, "table").remedy
    assert only(extra, "view").message == "Not judged yet: `table` comes first."
    assert only(found(broken, columns=("accession_no",)), "view").status is OK
    pacs.execute("ALTER TABLE patient CHANGE pat_name another_name VARCHAR(250)")
    finding = only(found(broken), "view")
    assert finding.status is FAILED
    assert "broken" in finding.message
    assert only(found(broken), "recorded studies").message == "Not judged yet: `view` comes first."
    assert only(found(broken), "clock").status is OK


def test_errors_that_a_trigger_swallowed(pacs: Pacs, broken: Indexer) -> None:
    assert only(found(broken), "recorded studies").status is OK
    pacs.store_study(study_datetime=RECENT)
    assert "All " not in only(found(broken), "recorded studies").message  # the first recorded one itself
    pacs.store_study(study_datetime=RECENT)
    assert "All 1 studies" in only(found(broken), "recorded studies").message
    pacs.execute("DROP PROCEDURE indexer_process")
    pacs.store_study(study_datetime="2020-01-01 00:00:00")
    assert only(found(broken), "recorded studies").status is OK
    lost = pacs.store_study(study_datetime=RECENT)
    finding = only(found(broken), "recorded studies")
    assert finding.status is FAILED
    assert f"1 of 2 studies of the last days aren't in study_service (study_pk {lost})" in finding.message
    assert finding.remedy.endswith(" reconcile")


def test_triggers_that_never_recorded(pacs: Pacs, broken: Indexer) -> None:
    pacs.execute("DROP TRIGGER indexer_study_update")
    pacs.store_study(study_datetime=RECENT)
    finding = only(found(broken), "recorded studies")
    assert finding.status is WARNING
    assert "and no other is" in finding.message


def test_studies_that_were_there_before_the_triggers_are_no_fault(server: Server, indexer: Indexer) -> None:
    pacs = Pacs.create_bare(server)
    pacs.store_study(study_datetime=RECENT)
    server.run_script(Path("extras/add_indexer.sql").read_text(), pacs.name)
    pacs.grant()
    indexer.settings["database"]["name"] = pacs.name
    indexer.write_files()
    pacs.store_study(study_datetime=RECENT)
    pacs.store_study(study_datetime=RECENT)
    assert only(found(indexer), "recorded studies").status is OK
    pacs.destroy()


def test_the_archives_tables_are_read_by_a_page_not_as_a_whole(
    pacs: Pacs, broken: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "NEWEST", 50)
    pacs.store_studies(3000)
    settings = settings_of(broken)
    with reading(settings.database) as connection:
        checks = dict(installation.OutboxChecks(connection, settings.database, ()).all())

        def rows_read() -> int:
            with connection.cursor() as cursor:
                cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
                return sum(int(value) for _, value in cursor.fetchall())

        for name in ("view", "recorded studies"):
            before = rows_read()
            assert [finding.status for finding in checks[name]()] == [OK]
            assert rows_read() - before < 600


# --- what an administrator sees --------------------------------------------------------------------------


def test_triggers_that_nobody_has_looked_at(pacs: Pacs, broken: Indexer) -> None:
    """As after an installation."""
    finding = only(found(broken), "triggers")
    assert finding.status is WARNING
    assert "This line goes away once the archive has stored a study." in finding.message
    assert "check --admin root" in finding.remedy
    pacs.store_study("1.1")
    assert only(found(broken), "triggers").status is OK


def test_triggers_that_are_missing(pacs: Pacs, broken: Indexer, tmp_path: Path) -> None:
    missing: list[str] = []
    for trigger in objects.TRIGGERS:
        pacs.execute(f"DROP TRIGGER {trigger}")
        missing.append(trigger)
        finding = only(found(broken, admin=True), "triggers")
        assert finding.status is FAILED
        assert f"Missing: {', '.join(missing)}." in finding.message
        assert "extras/add_indexer.sql" in finding.remedy
        assert finding.remedy.endswith(" reconcile")
    assert only(found(broken, admin=True), "procedures").status is OK
    pipe(pacs, finding, tmp_path)
    assert only(found(broken, admin=True), "triggers").status is OK


def test_definers_that_are_gone(pacs: Pacs, broken: Indexer) -> None:
    pacs.execute("CREATE USER ghost@localhost")
    pacs.execute("DROP TRIGGER indexer_row")
    pacs.execute(
        "CREATE DEFINER = ghost@localhost TRIGGER indexer_row BEFORE INSERT ON study_service FOR EACH ROW SET @a = 1"
    )
    pacs.execute("DROP PROCEDURE indexer_prune")
    pacs.execute("CREATE DEFINER = ghost@localhost PROCEDURE indexer_prune() SELECT 1")
    assert only(found(broken, admin=True), "triggers").status is OK
    pacs.execute("DROP USER ghost@localhost")
    findings = found(broken, admin=True)
    for name, thing in (("triggers", "indexer_row"), ("procedures", "indexer_prune")):
        assert only(findings, name).status is FAILED
        assert "ghost@localhost is gone" in only(findings, name).message
        assert thing in only(findings, name).message


def test_the_old_clients_trigger(shared: Pacs, indexer: Indexer) -> None:
    shared.execute("CREATE TRIGGER indexer_process AFTER INSERT ON study FOR EACH ROW SET @a = 1")
    finding = only(found(indexer, admin=True), "triggers")
    assert finding.status is FAILED
    assert "no study can be stored" in finding.message
    paste(shared.server, finding, shared.name)
    assert only(found(indexer, admin=True), "triggers").status is OK


def test_procedures_event_and_cascades(pacs: Pacs, broken: Indexer) -> None:
    pacs.execute("ALTER EVENT indexer_prune DISABLE")
    finding = only(found(broken, admin=True), "event")
    assert finding.status is WARNING
    paste(pacs.server, finding, pacs.name)
    assert only(found(broken, admin=True), "event").status is OK
    pacs.execute("DROP EVENT indexer_prune")
    pacs.execute("DROP PROCEDURE indexer_process")
    pacs.execute("ALTER TABLE study DROP FOREIGN KEY study_ibfk_1")
    pacs.execute(
        "ALTER TABLE study ADD CONSTRAINT gone FOREIGN KEY (patient_fk) REFERENCES patient (pk) ON DELETE CASCADE"
    )
    findings = found(broken, admin=True)
    assert only(findings, "event").status is WARNING
    assert "Missing: indexer_process." in only(findings, "procedures").message
    assert only(findings, "cascade").status is WARNING
    assert "gone (ON DELETE CASCADE)" in only(findings, "cascade").message


def test_an_administrator_who_sees_nothing(shared: Pacs, indexer: Indexer) -> None:
    settings = settings_of(indexer)
    service = settings.database
    findings = list(preflight(service, Following(1), service))
    assert only(findings, "triggers").status is FAILED
    assert "sees no triggers" in only(findings, "triggers").message
    # Who may not see it can't say that it isn't there.
    nowhere = service.model_copy(update={"name": "nowhere"})
    findings = list(preflight(nowhere, Following(1), nowhere))
    assert "The server has no database" not in only(findings, "database.name").message
    wrong = service.model_copy(update={"password": SecretStr("wrong")})
    finding = only(list(preflight(service, Following(1), wrong)), "administrator")
    assert finding.status is FAILED
    assert "--admin indexer" in finding.remedy


# --- no way in -------------------------------------------------------------------------------------------


def test_a_database_that_can_not_be_reached(shared: Pacs, indexer: Indexer) -> None:
    indexer.settings["database"]["password"] = "wrong"
    indexer.write_files()
    findings = found(indexer)
    assert [(finding.name, finding.status) for finding in findings] == [
        ("connection", FAILED),
        ("database", WARNING),
    ]
    assert "which comes from localhost" in findings[0].message
    assert "database.password" in findings[0].remedy
    indexer.settings["database"]["password"] = ""
    indexer.write_files()
    assert "which comes from localhost, without a password" in found(indexer)[0].message


@pytest.mark.one_server
def test_a_server_that_never_answers_is_not_waited_for_long(
    indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_indexer.checks.database._ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        indexer.settings["database"]["port"] = silent.getsockname()[1]
        indexer.write_files()
        began = time.monotonic()
        findings = found(indexer)
        assert time.monotonic() - began < 5
    assert [(one.name, one.status) for one in findings] == [("connection", FAILED), ("database", WARNING)]


@pytest.mark.one_server
def test_the_command(shared: Pacs, receiver: Receiver, tmp_path: Path) -> None:
    indexer = Indexer(tmp_path / "indexer", shared, receiver.url, delivery={})
    (indexer.directory / "config.json").chmod(0o600)
    with expire(shared.server, 7), globally(shared.server, event_scheduler="ON"):
        done = indexer.run("check")
        assert (done.returncode, done.stderr) == (0, "")
        assert {line.split()[0] for line in done.stdout.splitlines() if line[:1] != " "} == {"ok", "ok:"}
    with expire(shared.server, 0):
        done = indexer.run("check", "--json")
        assert done.returncode == 1
        failed = [finding["name"] for finding in json.loads(done.stdout) if finding["status"] == "failed"]
        assert failed == ["binlog retention"]
    assert [entry.method for entry in receiver.entries()] == ["GET", "GET"]


def test_tls(shared: Pacs, indexer: Indexer) -> None:
    assert "on this machine" in only(found(indexer), "TLS").message
    # 127.1 is 127.0.0.1 too, but not to us: as if it were another machine.
    indexer.settings["database"]["host"] = "127.1"
    indexer.write_files()
    finding = only(found(indexer), "TLS")
    assert finding.status is WARNING
    assert '"tls": {' in finding.remedy
    indexer.settings["database"]["tls"] = {"verify": False}
    indexer.write_files()
    if shared.server.flavour == "mariadb-10.11":
        assert "offers no TLS" in only(found(indexer), "connection").message
        return
    finding = only(found(indexer), "TLS")
    assert finding.status is WARNING
    assert "TLSv1" in finding.message
