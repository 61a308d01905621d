"""`run` while its database changes under it: other settings, other rights, other files, fewer sessions, no log."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cdc_indexer.checks.database import preflight
from cdc_indexer.checks.retention import Following
from cdc_indexer.model.finding import Finding, Status
from cdc_indexer.model.settings import load_settings
from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs, new_uid
from tests.ports import free_port
from tests.privacy import privacy
from tests.receiver import Answer, Receiver
from tests.servers import Server

QUICK = {"heartbeat_seconds": 1, "audit_seconds": 1}


@pytest.fixture
def archive(new_server: Callable[..., Server]) -> Pacs:
    """On a server of its own: its settings and accounts may be changed."""
    return Pacs.create(new_server(), "pacs")


@pytest.fixture
def indexer(archive: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    one = Indexer(
        tmp_path / "indexer",
        archive,
        receiver.url,
        delivery={"settle_seconds": 0.3},
        stream=QUICK,
        monitor={"listen": f"127.0.0.1:{free_port()}"},
    )
    yield one
    one.close()


def store(pacs: Pacs, uid: str = "") -> str:
    uid = uid or new_uid()
    pacs.store_study(uid, patient_id=uid[-12:])
    return uid


def arrived(receiver: Receiver) -> set[str]:
    return {entry.json["study_iuid"] for entry in receiver.accepted()}


def arrives(receiver: Receiver, uid: str, seconds: float = 40.0) -> float:
    began = time.monotonic()
    wait_until(lambda: uid in arrived(receiver), seconds, f"study {uid}")
    return time.monotonic() - began


def ready(indexer: Indexer) -> tuple[int, str]:
    import requests

    answer = requests.get(f"http://{indexer.settings['monitor']['listen']}/readyz", timeout=10)
    return answer.status_code, answer.text


def status(indexer: Indexer) -> tuple[int, dict[str, Any]]:
    done = indexer.run("status", "--json")
    return done.returncode, json.loads(done.stdout)


def causes(indexer: Indexer) -> set[str]:
    return {problem["cause"] for problem in status(indexer)[1]["problems"]}


def of_account(pacs: Pacs, user: str = "") -> list[tuple[Any, ...]]:
    return [row for row in pacs.server.execute("SHOW PROCESSLIST") if row[1] == (user or pacs.user)]


def throw_out(pacs: Pacs, user: str = "") -> None:
    for row in of_account(pacs, user):
        with contextlib.suppress(Exception):
            pacs.server.execute(f"KILL {row[0]}")


def with_password(pacs: Pacs, password: str) -> None:
    privacy.add_secret(password)
    for host in ("127.0.0.1", "localhost"):
        for row in pacs.server.execute("SELECT Host FROM mysql.user WHERE User = %s", (pacs.user,)):
            if row[0] in (host, "%"):
                pacs.server.execute(f"ALTER USER {pacs.user}@'{row[0]}' IDENTIFIED BY '{password}'")


def test_the_log_is_switched_off_later_and_on_again(
    archive: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Error 1381: the table is read instead, and so does `status` without a service."""
    server = archive.server
    with indexer.running():
        arrives(receiver, store(archive))
        server.stop()
        server.extra_arguments.append("--skip-log-bin")
        server.start()
        arrives(receiver, store(archive))
        wait_until(lambda: "degraded" in causes(indexer), 20, "it says so")
        assert "database_away" not in causes(indexer)
        assert "log_bin" in ready(indexer)[1]
    store(archive)
    assert causes(indexer) == {"not_running"}
    assert status(indexer)[1]["waiting"] == 1
    server.stop()
    server.extra_arguments.remove("--skip-log-bin")
    server.start()
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        arrives(receiver, store(archive))


def test_another_database_after_sighup(archive: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """Every session goes there; none stays behind."""
    other = Pacs.create(archive.server, "pacs_of_tomorrow")
    with indexer.running():
        arrives(receiver, store(archive))
        indexer.settings["database"]["name"] = other.name
        indexer.write_files()
        assert indexer.process is not None
        indexer.process.send_signal(signal.SIGHUP)
        arrives(receiver, store(other))
        pk = other.store_study("1.2.3.4", patient_id="1234")
        arrives(receiver, "1.2.3.4")
        other.edit_study(pk, description="corrected", study_datetime=None)
        wait_until(
            lambda: any(entry.json["study_description"] == "corrected" for entry in receiver.accepted()),
            20,
            "the correction",
        )
        wait_until(lambda: ready(indexer)[0] == 200, 20, "ready")
        left = store(archive)
        time.sleep(2.5)  # two audits
        assert left not in arrived(receiver)
        assert {row[3] for row in of_account(archive)} <= {other.name, None}


@pytest.mark.parametrize("how", ["sighup", "by itself"])
def test_another_password(archive: Pacs, receiver: Receiver, indexer: Indexer, how: str) -> None:
    """By itself: the files are read again before each try, as when the index refuses us."""
    with indexer.running():
        arrives(receiver, store(archive))
        wait_until(lambda: indexer.caught_up, what="caught up")
        with_password(archive, "the-password-of-tomorrow")
        if how == "by itself":
            throw_out(archive)
            waiting = store(archive)
            wait_until(lambda: "refuses user" in ready(indexer)[1], 20, "it says so")
        indexer.settings["database"]["password"] = "the-password-of-tomorrow"
        indexer.write_files()
        if how == "sighup":
            assert indexer.process is not None
            indexer.process.send_signal(signal.SIGHUP)
            waiting = store(archive)
        arrives(receiver, waiting)
        wait_until(lambda: ready(indexer)[0] == 200, 20, "ready")
        pk = archive.store_study("1.2.3.4", patient_id="1234")
        arrives(receiver, "1.2.3.4", 5)
        archive.edit_study(pk, description="corrected", study_datetime=None)
        wait_until(
            lambda: any(entry.json["study_description"] == "corrected" for entry in receiver.accepted()),
            10,
            "the correction",
        )
        time.sleep(2.5)
        assert ready(indexer)[0] == 200


def test_a_ca_that_can_not_be_read_for_a_while(
    archive: Pacs, receiver: Receiver, indexer: Indexer, tmp_path: Path
) -> None:
    """The service waits for it and says so; it doesn't end."""
    if archive.server.is_mariadb:
        pytest.skip("MySQL makes a CA")
    ca = tmp_path / "ca.pem"
    text = (Path(archive.server.unix_socket).parent / "ca.pem").read_bytes()
    ca.write_bytes(text)
    indexer.settings["database"]["tls"] = {"ca": str(ca), "verify": "ca"}
    indexer.write_files()
    with indexer.running():
        arrives(receiver, store(archive))
        wait_until(lambda: indexer.caught_up, what="caught up")
        ca.write_text("")
        throw_out(archive)
        wait_until(lambda: "database.tls.ca can't be read" in ready(indexer)[1], 20, "it says so")
        ca.unlink()
        waiting = store(archive)
        time.sleep(1)
        ca.write_bytes(text)
        arrives(receiver, waiting)


def test_sessions_that_died_idle_trouble_nobody(archive: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """wait_timeout of 2 s: /readyz never fails and no correction comes late."""
    archive.execute("SET GLOBAL wait_timeout = 2")
    indexer.settings["stream"]["audit_seconds"] = 60
    indexer.write_files()
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        for number in range(3):
            time.sleep(3)
            uid = f"1.2.3.{number}"
            pk = archive.store_study(uid, patient_id=uid)
            arrives(receiver, uid, 5)
            archive.edit_study(pk, description=f"corrected {number}", study_datetime=None)
            began = time.monotonic()
            wait_until(
                lambda n=number: any(  # type: ignore[misc]
                    entry.json["study_description"] == f"corrected {n}" for entry in receiver.accepted()
                ),
                10,
                "the correction",
            )
            assert time.monotonic() - began < 2.5
            assert ready(indexer)[0] == 200
    assert "wait to be read from the view" not in indexer.log


@pytest.mark.parametrize("allowed", [2, 1])
def test_few_sessions(archive: Pacs, receiver: Receiver, indexer: Indexer, allowed: int) -> None:
    for (host,) in archive.server.execute("SELECT Host FROM mysql.user WHERE User = %s", (archive.user,)):
        archive.server.execute(f"ALTER USER {archive.user}@'{host}' WITH MAX_USER_CONNECTIONS {allowed}")
    with indexer.running():
        pk = archive.store_study("1.2.3.4", patient_id="1234")
        arrives(receiver, "1.2.3.4")
        archive.edit_study(pk, description="corrected", study_datetime=None)
        wait_until(
            lambda: any(entry.json["study_description"] == "corrected" for entry in receiver.accepted()),
            20,
            "the correction",
        )
        if allowed == 2:
            with contextlib.suppress(AssertionError):
                wait_until(lambda: ready(indexer)[0] == 200, 20, "ready")
            assert ready(indexer) == (200, "ready\n")
            time.sleep(4)
            assert ready(indexer) == (200, "ready\n")
        else:
            wait_until(lambda: ready(indexer)[0] == 503, 20, "it says so")
            _, text = ready(indexer)
            assert "needs 2" in text
            assert "MAX_USER_CONNECTIONS" in text


def test_a_forgotten_xa_transaction_is_said(archive: Pacs, receiver: Receiver, indexer: Indexer) -> None:
    """It holds back how far everything is settled, for as long as nobody ends it."""
    with contextlib.closing(archive.connect()) as forgotten, forgotten.cursor() as cursor:
        cursor.execute("XA START 'forgotten'")
        cursor.execute(
            "INSERT INTO study_service (operation, study_pk, study_iuid, recorded_at) "
            "VALUES ('stored', 77, '7.7', UTC_TIMESTAMP(6) - INTERVAL 20 MINUTE)"
        )
        cursor.execute("XA END 'forgotten'")
        cursor.execute("XA PREPARE 'forgotten'")
    with indexer.running():
        arrives(receiver, store(archive))
        wait_until(lambda: "open_transaction" in causes(indexer), 20, "it says so")
        assert ready(indexer)[0] == 200  # a warning
        assert "XA RECOVER" in indexer.log
    _, said = status(indexer)
    assert {problem["cause"] for problem in said["problems"]} == {"open_transaction", "not_running"}
    assert said["waiting"] == 0  # nobody could send it
    with indexer.running():
        wait_until(lambda: "open_transaction" in causes(indexer), 20, "it says so")
        archive.execute("XA ROLLBACK 'forgotten'")
        wait_until(lambda: "open_transaction" not in causes(indexer), 20, "it is over")


def checked(indexer: Indexer, name: str, *, admin: bool = False) -> list[Finding]:
    settings = load_settings(indexer.directory / "config.json", {})
    root = settings.database.model_copy(update={"user": "root", "password": SecretStr("")}) if admin else None
    found = preflight(settings.database, Following(server_id=settings.server_id), root)
    return [finding for finding in found if finding.name == name]


@pytest.mark.one_server
def test_an_archive_that_can_not_roll_back_is_said(archive: Pacs, indexer: Indexer) -> None:
    assert checked(indexer, "storage engine") == []
    assert [one.status for one in checked(indexer, "storage engine", admin=True)] == [Status.OK]
    archive.execute("SET foreign_key_checks = 0")
    for (name,) in archive.execute(
        "SELECT CONSTRAINT_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS "
        "WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = 'instance'",
        (archive.name,),
    ):
        archive.execute(f"ALTER TABLE instance DROP FOREIGN KEY {name}")
    archive.execute("ALTER TABLE instance ENGINE = MyISAM")
    (found,) = checked(indexer, "storage engine", admin=True)
    assert found.status is Status.WARNING
    assert "instance (MyISAM)" in found.message
    assert "ALTER TABLE instance ENGINE = InnoDB" in found.remedy
    archive.execute("ALTER TABLE study_service ENGINE = MyISAM")
    (found,) = checked(indexer, "storage engine")
    assert found.status is Status.FAILED
    assert "study_service is a MyISAM table" in found.message


@pytest.mark.parametrize(
    ("allowed", "status"), [(0, Status.OK), (4, Status.OK), (3, Status.WARNING), (1, Status.FAILED)]
)
def test_how_many_sessions_the_account_may_have(
    archive: Pacs, indexer: Indexer, allowed: int, status: Status
) -> None:
    for (host,) in archive.server.execute("SELECT Host FROM mysql.user WHERE User = %s", (archive.user,)):
        archive.server.execute(f"ALTER USER {archive.user}@'{host}' WITH MAX_USER_CONNECTIONS {allowed}")
    (found,) = checked(indexer, "sessions")
    assert found.status is status
    if status is not Status.OK:
        assert "WITH MAX_USER_CONNECTIONS 4" in found.remedy


@pytest.mark.one_server
def test_whatever_was_changed_in_the_files_counts_after_sighup(
    archive: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    indexer.settings["delivery"] = {"settle_seconds": 600}
    indexer.settings["stream"] = {"heartbeat_seconds": 1, "audit_seconds": 600}
    indexer.write_files()
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        indexer.settings["delivery"] = {"settle_seconds": 0.3}
        indexer.settings["stream"] = {"heartbeat_seconds": 0.5, "audit_seconds": 0.5, "server_id": 4_242}
        port = free_port()
        indexer.settings["monitor"] = {"listen": f"127.0.0.1:{port}"}
        indexer.settings["log"] = {"format": "console"}
        indexer.write_files()
        assert indexer.process is not None
        indexer.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "settings read again" in indexer.log, what="read again")
        wait_until(lambda: "is connected to anew" in indexer.log, what="a stream under the new number")
        pk = archive.store_study("1.1")
        archive.update_counts(pk, 1, 7, "CT")
        wait_until(lambda: receiver.holds().get("1.1", {}).get("study_instances") == 7, what="quiet soon")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as page:
            assert page.status == 200
        # What the log doesn't show the audit finds, as often as is said now.
        archive.execute("SET SESSION sql_log_bin = 0")
        archive.store_study("1.2")
        wait_until(lambda: "1.2" in receiver.study_iuids(), what="audited")
    assert '"event": "settings read again"' not in indexer.log, "for people since then"


@pytest.mark.one_server
def test_an_initial_beside_run_lives_through_a_restart_of_the_database(
    archive: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    """Whatever a page had in hand when its query failed comes back: nothing is lost, and nothing hangs."""
    stored = archive.store_studies(600)
    archive.execute("DELETE FROM study_service")
    receiver.always(Answer(delay_seconds=0.004))
    ended: list[int] = []
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        beside = threading.Thread(target=lambda: ended.append(indexer.run("initial").returncode))
        beside.start()
        wait_until(lambda: len(receiver.accepted()) > 200, what="some of it")
        archive.server.kill()
        archive.server.start()
        beside.join(120)
        assert ended == [0]
        assert arrived(receiver) == set(stored), "it says done when it is"
        live = stored[-1]
        ((pk,),) = archive.execute("SELECT pk FROM study WHERE study_iuid = %s", (live,))
        archive.update_counts(pk, 3, 77, "CT")
        wait_until(lambda: receiver.holds()[live]["study_instances"] == 77, what="a change of one of them")
        wait_until(lambda: indexer.run("status").returncode == 0, what="healthy")
    assert sorted(receiver.study_iuids()) == sorted([*stored, live])
