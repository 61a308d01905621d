"""Whose rights the triggers have: an account without which the archive can't work anyway, also on another server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.checks import objects
from cdc_indexer.model.finding import Finding, Status
from tests import following
from tests.pacs5 import ADD_INDEXER as ADD_ARC5
from tests.pacs5 import SCHEMA as SCHEMA_ARC5
from tests.servers import ARCHIVE, ARCHIVE_PASSWORD, ScriptFailed, Server
from tests.sql_archive import ADD, REMOVE, ROOT, SCHEMA, Session

SCRIPTS = pytest.mark.parametrize(
    ("schema", "script"), [(SCHEMA, ADD), (SCHEMA_ARC5.read_text(), ADD_ARC5.read_text())], ids=["2", "arc5"]
)


@pytest.fixture
def accounts(server: Server) -> Iterator[Callable[[str, str], None]]:
    """Makes accounts with rights; dropped afterwards."""
    made = []

    def make(account: str, *grants: str) -> None:
        server.execute(f"CREATE USER {account} IDENTIFIED BY '{ARCHIVE_PASSWORD}'")
        made.append(account)
        for grant in grants:
            server.execute(f"GRANT {grant} TO {account}")

    yield make
    for account in made:
        server.execute(f"DROP USER {account}")


@pytest.fixture
def bare(server: Server) -> Iterator[str]:
    """A database without an account of its archive's."""
    name = "definers_of_one"
    server.create_database(name, archive=None)
    server.run_script(SCHEMA, name)
    yield name
    server.drop_database(name)


def definers(server: Server, database: str) -> set[str]:
    rows = server.execute(
        "SELECT DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = %s", (database,)
    )
    return {row[0] for row in rows}


def everything(server: Server, database: str) -> list[Any]:
    return [
        server.execute(f"SELECT * FROM information_schema.{kind} WHERE {column} = %s AND 1", (database,))
        for kind, column in (
            ("ROUTINES", "ROUTINE_SCHEMA"),
            ("TRIGGERS", "TRIGGER_SCHEMA"),
            ("VIEWS", "TABLE_SCHEMA"),
        )
    ] + [
        server.execute(f"SHOW TABLES FROM `{database}`"),
        server.execute("SELECT User, Host FROM mysql.user ORDER BY 1, 2"),
    ]


@pytest.mark.parametrize("named", ["pacs@%", "'pacs'@'%'", "`pacs`@`%`", "pacs"])
def test_the_account_that_is_named(server: Server, bare: str, accounts: Any, named: str) -> None:
    accounts("'pacs'@'%'", f"ALL ON `{bare}`.*")
    accounts("'other'@'%'", f"ALL ON `{bare}`.*")
    server.run_script(f'SET @indexer_definer = "{named}";\n{ADD}', bare)
    assert definers(server, bare) == {"pacs@%"}


@pytest.mark.parametrize(
    "grants", [["ALL ON `{}`.*"], ["SELECT, INSERT, UPDATE, DELETE ON `{}`.study", "SELECT ON `{}`.patient"]]
)
def test_the_one_account_that_can_be_the_archive(
    server: Server, bare: str, accounts: Any, grants: list[str]
) -> None:
    accounts("'pacs'@'%'", *(grant.format(bare) for grant in grants))
    accounts("'reports'@'localhost'", f"SELECT ON `{bare}`.*")
    for _ in range(2):
        server.run_script(ADD, bare)
        assert definers(server, bare) == {"pacs@%"}
    view = server.execute("SELECT DEFINER FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s", (bare,))
    assert view == [("pacs@%",)]


@SCRIPTS
def test_of_several_the_script_chooses_none(
    server: Server, database: str, accounts: Any, schema: str, script: str
) -> None:
    server.run_script(schema, database)
    accounts("'other'@'%'", f"ALL ON `{database}`.*")
    before = everything(server, database)
    with pytest.raises(ScriptFailed, match=re.escape("SET @indexer_definer = 'other@%';")) as failed:
        server.run_script(script, database)
    assert failed.value.output.splitlines()[-2:] == [
        "SET @indexer_definer = 'other@%';",
        "SET @indexer_definer = 'pacs@localhost';",
    ]
    assert everything(server, database) == before
    server.run_script(f"SET @indexer_definer = 'pacs@localhost';\n{script}", database)
    assert definers(server, database) == {"pacs@localhost"}


def test_an_account_that_is_not_there(server: Server, bare: str) -> None:
    before = everything(server, bare)
    with pytest.raises(Exception, match=r"there is no account nobody@%.*SET @indexer_definer"):
        server.run_script(f"SET @indexer_definer = 'nobody@%';\n{ADD}", bare)
    assert everything(server, bare) == before


def test_an_archive_that_logs_in_as_root(server: Server, bare: str) -> None:
    server.run_script(ADD, bare)
    assert definers(server, bare) == {"root@localhost"}


def pasted(line: str, tmp_path: Path, extras: Path) -> tuple[list[str], str]:
    """What a shell gives to `mysql` when that line is pasted beside ``extras``: its arguments and its input."""
    (tmp_path / "extras").symlink_to(extras)
    client = tmp_path / "mysql"
    client.write_text('#!/bin/sh\necho "$@" > arguments\ncat > input.sql\n')
    client.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C"}
    subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, check=True)
    return (tmp_path / "arguments").read_text().split(), (tmp_path / "input.sql").read_text()


@SCRIPTS
def test_another_name_on_mysql(
    server: Server, database: str, accounts: Any, schema: str, script: str, tmp_path: Path
) -> None:
    """MySQL takes no account from a variable when it makes a trigger: the line that the script prints works as it stands.

    Also where several accounts could be the archive, so that the script has to be told which.
    """
    server.run_script(schema, database)
    accounts("'dcm'@'10.%'", f"ALL ON `{database}`.*")
    said = server.run_script(f"SET @indexer_definer = 'dcm@10.%';\n{script}", database)
    lines = [line for line in said.splitlines() if "sed" in line]
    if server.is_mariadb:
        assert definers(server, database) == {"dcm@10.%"}
        assert not lines
    else:
        assert definers(server, database) == {"root@localhost"}
        (line,) = lines
        arc5 = "" if script is ADD else "--arc5 "
        assert f"cdc-indexer sql {arc5}--definer 'dcm@10.%' | mysql {database}" in said.splitlines()
        arguments, text = pasted(line, tmp_path, ROOT / "extras")
        assert arguments == [database]
        assert "sed" not in server.run_script(text, database)
        assert definers(server, database) == {"dcm@10.%"}
    # The command does the same at once.
    server.run_script(REMOVE, database)
    which = [] if script is ADD else ["--arc5"]
    command = [sys.executable, "-m", "cdc_indexer", "sql", *which, "--definer", "dcm@10.%"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "sed" not in server.run_script(made, database)
    assert definers(server, database) == {"dcm@10.%"}


@SCRIPTS
def test_a_dump_that_is_restored_elsewhere_lets_the_archive_store(
    server: Server, database: str, new_server: Callable[..., Server], schema: str, script: str
) -> None:
    """On a server that has the archive's account and nothing of ours; without procedures too (mysqldump's default)."""
    server.run_script(schema, database)
    server.run_script(script, database)
    server.execute("CREATE USER IF NOT EXISTS 'indexer_trigger'@'localhost'")
    server.execute("DROP USER 'indexer_trigger'@'localhost'")
    other = new_server()
    for number, options in enumerate((["--routines", "--events"], [])):
        name = f"restored_{number}"
        other.create_database(name)
        other.run_script(server.dump(database, *options), name)
        assert not other.execute("SELECT 1 FROM mysql.user WHERE User LIKE 'indexer%'")
        with closing(Session(other.connect(name, user="pacs", password=ARCHIVE_PASSWORD))) as pacs:
            if script is not ADD:
                pacs(
                    "INSERT INTO person_name (alphabetic_name, ideographic_name, phonetic_name) VALUES ('A', '*', '*')"
                )
                pacs("UPDATE person_name SET alphabetic_name = 'B'")
                pacs("INSERT INTO patient_id (pat_id) VALUES ('1')")
                pacs("UPDATE patient_id SET pat_id = '2'")
                continue
            study_pk = pacs.study(pacs.patient(), "1.2.3")
            pacs("UPDATE study SET num_instances = 5")
            pacs("UPDATE patient SET pat_name = 'X'")
            pacs("DELETE FROM study WHERE pk = %s", study_pk)
            if options:  # and as view and procedure are the archive's too, all of it is recorded
                assert [row[0] for row in pacs.operations()] == ["stored", "changed", "patient", "deleted"]


def test_our_own_accounts_are_not_needed_for_storing(server: Server, database: str) -> None:
    server.run_script(SCHEMA, database)
    server.run_script(ADD, database)
    server.execute("DROP USER 'indexer_definer'@'localhost'")
    with closing(Session(server.connect(database, user="pacs", password=ARCHIVE_PASSWORD))) as pacs:
        study_pk = pacs.study(pacs.patient(), "1.2.3")
        pacs("DELETE FROM study")
        assert pacs.operations() == [("stored", study_pk), ("deleted", study_pk)]
    server.run_script(REMOVE, database)


def test_the_account_of_an_earlier_version_goes(server: Server, database: str) -> None:
    server.run_script(SCHEMA, database)
    server.execute("CREATE USER 'indexer_trigger'@'localhost'")
    server.execute(f"GRANT SELECT, TRIGGER ON `{database}`.study TO 'indexer_trigger'@'localhost'")
    server.execute(
        "CREATE DEFINER = 'indexer_trigger'@'localhost' TRIGGER indexer_study_insert AFTER INSERT ON study"
        " FOR EACH ROW SET @x = 1",
        database=database,
    )
    server.run_script(ADD, database)
    assert definers(server, database) == {ARCHIVE.replace("'", "")}
    assert not server.execute("SELECT 1 FROM mysql.user WHERE User = 'indexer_trigger'")


def test_check_says_it_when_the_account_is_gone_or_powerless(
    server: Server, bare: str, accounts: Any
) -> None:
    accounts("'pacs'@'%'", f"ALL ON `{bare}`.*")
    server.run_script(ADD, bare)

    def found() -> list[Finding]:
        with following.reading(following.settings(server, bare)) as connection:
            checks = objects.objects(connection, following.settings(server, bare))
            (check,) = [make for name, make in checks if name == "triggers"]
            return list(check())

    assert [finding.status for finding in found()] == [Status.OK]
    server.execute(f"REVOKE TRIGGER ON `{bare}`.* FROM 'pacs'@'%'")
    assert [finding.status for finding in found()] == [Status.FAILED]
    assert "1142" in found()[0].message
    server.execute(f"GRANT ALL ON `{bare}`.* TO 'pacs'@'%'")
    # As at a login, the host of an account is a pattern.
    server.execute("CREATE USER 'pacs'@'_'")
    server.execute("DROP USER 'pacs'@'%'")
    server.execute(f"GRANT ALL ON `{bare}`.* TO 'pacs'@'_'")
    assert [finding.status for finding in found()] == [Status.OK]
    server.execute("DROP USER 'pacs'@'_'")
    assert "1449" in " ".join(finding.message for finding in found())
    server.execute("CREATE USER 'pacs'@'%'")
