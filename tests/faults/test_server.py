"""The database: killed, restarted, rotated, purged, reset, failed over, restored, and out of our reach."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pymysql
import pytest

from tests.faults.case import Case, MakeCase
from tests.faults.proxy import Proxy
from tests.indexer import KEY, wait_until
from tests.pacs import ADD_INDEXER, Pacs
from tests.receiver import Receiver
from tests.servers import Server

#: The log is looked at as often as the table is audited.
QUICK = {"stream": {"heartbeat_seconds": 1, "audit_seconds": 1}}


def reset(server: Server) -> None:
    server.execute("RESET MASTER" if server.is_mariadb else "RESET BINARY LOGS AND GTIDS")


def connections(case: Case, command: str = "") -> list[int]:
    """The numbers of the indexer's connections; those of its reader with "Binlog Dump"."""
    return [
        row[0]
        for row in case.server.execute("SHOW PROCESSLIST")
        if row[1] == case.pacs.user and command in str(row[4])
    ]


def throw_out(case: Case, command: str = "") -> int:
    """Ends the indexer's connections, as an administrator would; how many."""
    killed = 0
    for number in connections(case, command):
        with suppress(pymysql.err.OperationalError):  # it is gone already
            case.server.execute(f"KILL {number}")
            killed += 1
    return killed


# Killed and restarted


@pytest.mark.each_server
@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_the_database_goes_and_comes_under_load(hurt_case: Case, how: str) -> None:
    """FACTS 1.3: after a start the server gives our table's number to another one."""
    case = hurt_case
    case.start()
    with case.load() as load:
        for round_ in range(3):
            time.sleep(0.4)
            if how == "killed":
                case.server.kill()
                case.server.start()
            else:
                case.server.restart()
            case.fault()
            case.pacs.execute(f"CREATE TABLE other_{round_} LIKE study_service")
            case.pacs.execute(f"INSERT INTO other_{round_} SELECT * FROM study_service")
        time.sleep(0.5)
    case.loaded(load)
    case.finish()


def test_the_database_is_away_for_a_while(hurt_case: Case) -> None:
    """What was accepted meanwhile is settled; what waits for its verification is verified afterwards."""
    case = hurt_case
    case.start()
    case.store(20)
    case.server.stop()
    case.fault()
    case.says("the database is away")
    time.sleep(2)
    case.server.start()
    case.store(5)
    case.finish()


# The binary log


def test_rotated_and_purged_under_load(hurt_case: Case) -> None:
    """FACTS 1.14: purged while we are connected."""
    case = hurt_case
    case.start()
    with case.load() as load:
        for _ in range(8):
            time.sleep(0.2)
            case.server.purge_binlogs()
            case.fault()
    case.loaded(load)
    case.finish()


@pytest.mark.each_server
def test_purged_while_the_service_was_away(hurt_case: Case) -> None:
    """FACTS 1.14: error 1236."""
    case = hurt_case
    case.start()
    case.store(10)
    case.arrives(case.committed)
    case.indexer.stop()
    case.store(30)
    assert case.server.purge_binlogs()
    case.fault()
    case.start()
    case.says("position lost")
    case.store(5)
    case.finish()


@pytest.mark.each_server
@pytest.mark.parametrize("when", ["down", "up"])
def test_the_binary_log_is_reset(hurt_server: Server, make_case: MakeCase, when: str) -> None:
    """FACTS 1.14: after a reset the server may just send heartbeats for ever."""
    pacs = Pacs.create(hurt_server)
    case = make_case(pacs, **QUICK)
    case.start()
    case.store(30)
    case.arrives(case.committed)
    if when == "down":
        case.indexer.stop()
        case.store(10)
        reset(case.server)
        case.store(10)
        case.start()
    else:
        reset(case.server)
        case.store(10)
        case.arrives(case.committed)
        case.says("position lost")
    case.fault()
    case.store(5)
    case.finish()
    pacs.destroy()


@pytest.mark.parametrize("how", ["TRUNCATE", "re-created"])
def test_the_outbox_is_emptied(hurt_case: Case, how: str) -> None:
    """What the binary log holds is sent though the table has lost it; what comes later has ids never given before."""
    case = hurt_case
    case.start()
    case.store(10)
    case.arrives(case.committed)
    case.indexer.stop()
    for _ in range(2):
        case.store(10)
        if how == "TRUNCATE":
            case.pacs.execute("TRUNCATE study_service")
        else:
            case.pacs.execute("DROP TABLE study_service")
            case.server.run_script(ADD_INDEXER.read_text(), case.pacs.name)
            case.pacs.grant()
        case.fault()
        case.store(10)
        if case.indexer.process is None:
            case.start()
        case.arrives(case.committed)
    case.finish()


# Another server, or an older state of it


def replicate(source: Server, replica: Server, *, gtid: bool) -> None:
    """Makes one server the other's replica; both are new."""
    if source.is_mariadb:
        ((file, _),) = source.execute("SHOW BINARY LOGS")[:1]
        where = "MASTER_USE_GTID = slave_pos" if gtid else f"MASTER_LOG_FILE = '{file}', MASTER_LOG_POS = 4"
        if not gtid:
            where += ", MASTER_USE_GTID = no"
        replica.execute(
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {source.port}, MASTER_USER = 'root', "
            f"MASTER_SSL_VERIFY_SERVER_CERT = 0, {where}"
        )
        replica.execute("START SLAVE")
    else:
        file = source.execute("SHOW BINARY LOGS")[0][0]
        where = "SOURCE_AUTO_POSITION = 1" if gtid else f"SOURCE_LOG_FILE = '{file}', SOURCE_LOG_POS = 4"
        replica.execute(
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {source.port}, "
            f"SOURCE_USER = 'root', GET_SOURCE_PUBLIC_KEY = 1, {where}"
        )
        replica.execute("START REPLICA")


def promote(replica: Server) -> None:
    for statement in (
        ("STOP SLAVE", "RESET SLAVE ALL") if replica.is_mariadb else ("STOP REPLICA", "RESET REPLICA ALL")
    ):
        replica.execute(statement)


@pytest.mark.each_server
@pytest.mark.parametrize("gtid", [True, False], ids=["with GTID", "without GTID"])
def test_failover_to_a_replica(
    new_server: Callable[..., Server],
    flavour: str,
    make_case: MakeCase,
    proxied: Callable[[int], Proxy],
    gtid: bool,
) -> None:
    """It has the same table and other positions; ids that were settled on one server are settled on the other."""
    arguments = ["--log-slave-updates=ON"] if flavour.startswith("mariadb") else []
    if gtid and flavour == "mysql":
        arguments = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
    first, second = new_server(*arguments), new_server(*arguments)
    # So that the files have other names and lengths.
    for _ in range(3):
        second.execute("FLUSH BINARY LOGS")
    replicate(first, second, gtid=gtid)
    pacs = Pacs.create(first)
    line = proxied(first.port)
    case = make_case(pacs)
    case.indexer.settings["database"]["port"] = line.port
    case.indexer.write_files()
    case.start()
    with case.load() as load:
        time.sleep(1)
    case.loaded(load)
    case.indexer.stop()
    # Some that the index doesn't have when the first server dies, and the second has.
    case.store(10)
    rows = pacs.execute("SELECT COUNT(*) FROM study_service")
    wait_until(
        lambda: second.execute(f"SELECT COUNT(*) FROM `{pacs.name}`.study_service") == rows,
        what="the replica up to date",
    )
    case.start()
    promote(second)
    line.target_port = second.port
    first.kill()
    line.cut()
    case.fault()
    case.pacs = Pacs(second, pacs.name)
    case.says("another server or a restored one")
    case.store(10)
    case.finish()


@pytest.mark.each_server
def test_a_backup_is_restored(new_server: Callable[..., Server], make_case: MakeCase, tmp_path: Path) -> None:
    """The server is what it was an hour ago, with the same name and shorter logs; what is stored now has to arrive."""
    server = new_server()
    pacs = Pacs.create(server)
    case = make_case(pacs, **QUICK)
    case.start()
    case.store(20)
    case.arrives(case.committed)
    server.stop()
    shutil.copytree(server._data, tmp_path / "backup", symlinks=True)
    server.start()
    lost_with_the_disk = case.store(20)
    case.arrives(case.committed)
    server.kill()
    shutil.rmtree(server._data)
    shutil.copytree(tmp_path / "backup", server._data, symlinks=True)
    # Ids count from the second of the start: nobody restores a backup within the second in which the server was started.
    time.sleep(1)
    server.start()
    case.fault()
    held = {row[0] for row in pacs.execute("SELECT study_iuid FROM study")}
    assert not held & set(lost_with_the_disk)
    case.store(20)
    case.arrives(case.committed)
    case.finish(equal=False)


# Our connection and our account


def test_killed_dump_thread(hurt_case: Case) -> None:
    case = hurt_case
    case.start()
    with case.load() as load:
        killed = 0
        while killed < 5:
            found = throw_out(case, "Binlog Dump")
            killed += found
            case.fault(found)
            time.sleep(0.2)
    case.loaded(load)
    case.finish()


@pytest.mark.each_server
def test_wrong_password_while_running(hurt_case: Case) -> None:
    case = hurt_case
    case.start()
    case.store(5)
    account = f"'{case.pacs.user}'@'localhost'"
    case.server.execute(f"ALTER USER {account} IDENTIFIED BY 'another'")
    throw_out(case)
    case.fault()
    case.says(f"refuses user '{case.pacs.user}'")
    case.store(5)
    case.server.execute(f"ALTER USER {account} IDENTIFIED BY '{case.pacs.password}'")
    case.finish()


@pytest.mark.each_server
@pytest.mark.parametrize("right", ["REPLICATION SLAVE", "REPLICATION CLIENT"])
def test_an_account_without_the_right_to_the_binary_log(hurt_case: Case, right: str) -> None:
    """It goes on from the table alone, and says what to GRANT."""
    case = hurt_case
    account = f"'{case.pacs.user}'@'localhost'"
    case.server.execute(f"REVOKE {right} ON *.* FROM {account}")
    case.fault()
    case.store(5)
    case.indexer.start()
    case.says("degraded")
    assert "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.*" in case.indexer.log
    case.arrives(case.committed)
    case.store(5)
    case.arrives(case.committed)
    assert case.indexer.stop() == 0
    case.pacs.grant()
    case.start()
    case.store(5)
    case.finish()


@pytest.mark.soak
def test_it_finds_by_itself_that_the_right_was_granted(hurt_case: Case) -> None:
    case = hurt_case
    case.server.execute(f"REVOKE REPLICATION SLAVE ON *.* FROM '{case.pacs.user}'@'localhost'")
    case.fault()
    case.indexer.start()
    case.says("degraded")
    case.pacs.grant()
    case.says("caught up", 90)
    case.store(5)
    case.finish()


def test_a_server_without_a_binary_log(new_server: Callable[..., Server], make_case: MakeCase) -> None:
    case = make_case(Pacs.create(new_server("--skip-log-bin")))
    case.indexer.start()
    case.says("degraded")
    assert "put log_bin into its my.cnf" in case.indexer.log
    case.fault()
    case.store(10)
    case.finish()


def test_server_id_clash(hurt_case: Case, make_case: MakeCase, tmp_path: Path) -> None:
    """FACTS 1.13: who is thrown out says so and goes on from the table; two that fight would throw out each other."""
    case = hurt_case
    case.indexer.settings["stream"] = {**QUICK["stream"], "server_id": 90_113}
    case.indexer.write_files()
    case.start()
    case.store(5)
    with Receiver(KEY) as other_index:
        other = case.another_installation(tmp_path / "other", other_index.url)
        other.start()
        wait_until(lambda: other.caught_up, what="the other one caught up")
        case.fault()
        case.says("another replica has our server_id")
        case.store(10)
        case.arrives(case.committed)
        wait_until(
            lambda: set(case.committed) <= set(other_index.study_iuids()), what="the same at the other index"
        )
        assert other.stop() == 0
    case.finish()


# Time


def test_the_clock_goes_back_an_hour_and_the_log_is_purged(hurt_case: Case) -> None:
    """What was recorded "before" what is settled is found by the audit, though nothing else tells of it."""
    case = hurt_case
    case.start()
    case.store(10)
    case.arrives(case.committed)
    case.indexer.stop()
    # The clock of every session that isn't root's, and of root's here.
    case.server.execute("SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() - 3600'")
    try:
        case.pacs.execute("SET timestamp = UNIX_TIMESTAMP() - 3600")
        case.fault()
        case.store(10)
        assert case.server.purge_binlogs()
        case.start()
        case.arrives(case.committed)
        case.store(5)
        case.finish()
    finally:
        case.server.execute("SET GLOBAL init_connect = ''")


def test_the_clock_goes_back_an_hour_while_running(hurt_case: Case) -> None:
    """FACTS 1: a row from the stream is judged by its id only, never by its time."""
    case = hurt_case
    case.start()
    case.store(10)
    case.pacs.execute("SET timestamp = UNIX_TIMESTAMP() - 3600")
    case.fault()
    case.store(10)
    case.pacs.execute("SET timestamp = DEFAULT")
    case.store(10)
    case.finish()


# The line


@contextmanager
def on_a_line(
    pacs: Pacs, make_case: MakeCase, proxied: Callable[[int], Proxy]
) -> Iterator[tuple[Case, Proxy]]:
    line = proxied(pacs.server.port)
    case = make_case(pacs)
    case.indexer.settings["database"]["port"] = line.port
    case.indexer.write_files()
    case.start()
    yield case, line


def test_the_connection_is_cut_again_and_again(
    pacs: Pacs, make_case: MakeCase, proxied: Callable[[int], Proxy]
) -> None:
    """FACTS 1.2, 1.3: also in the middle of a transaction; nothing is read from there on."""
    with on_a_line(pacs, make_case, proxied) as (case, line):
        with case.load() as load:
            case.committed += pacs.insert_outbox_rows(3_000)
            for _ in range(6):
                time.sleep(0.25)
                line.cut()
                case.fault()
        case.loaded(load)
        case.arrives(case.committed)
        case.finish(equal=False)


def test_the_connection_stalls_half_open(
    pacs: Pacs, make_case: MakeCase, proxied: Callable[[int], Proxy]
) -> None:
    """FACTS 1.10: no end, no reset; only the heartbeats stay away."""
    with on_a_line(pacs, make_case, proxied) as (case, line):
        with case.load() as load:
            time.sleep(0.5)
            line.stall()
            case.fault()
            case.says("no heartbeat", 20)
            line.cut()
            line.normal()
            time.sleep(0.5)
        case.loaded(load)
        case.finish()


@pytest.mark.parametrize("when", ["connected", "connecting"])
def test_it_ends_soon_though_the_line_is_dead(
    pacs: Pacs, make_case: MakeCase, proxied: Callable[[int], Proxy], when: str
) -> None:
    """A SIGTERM that takes longer than systemd waits is a SIGKILL."""
    with on_a_line(pacs, make_case, proxied) as (case, line):
        with case.load(renames=0.05) as load:
            case.at_work(load)
            line.stall()
            case.fault()
            if when == "connecting":
                line.cut()
            time.sleep(2)
            began = time.monotonic()
            assert case.indexer.stop() == 0
            assert time.monotonic() - began < 25
            line.cut()
            line.normal()
            case.indexer.start()
        case.loaded(load)
        case.finish()


def test_a_slow_line(pacs: Pacs, make_case: MakeCase, proxied: Callable[[int], Proxy]) -> None:
    with on_a_line(pacs, make_case, proxied) as (case, line):
        line.delay(0.1)
        case.fault()
        with case.load() as load:
            time.sleep(2)
        case.loaded(load)
        case.finish()
