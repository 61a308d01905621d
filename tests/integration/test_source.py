"""The source: sessions are borrowed and given back, end with their epoch, and are opened again when they died idle."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_indexer.model.errors import (
    IndexerError,
    NoBinlog,
    SourceChanged,
    SourceError,
    SourceFull,
    SourceRefused,
    Stopped,
)
from cdc_indexer.model.position import Identity
from cdc_indexer.model.settings import StreamSettings
from cdc_indexer.source import catalogue, source
from cdc_indexer.source.binlog import BinlogReader
from cdc_indexer.source.outbox import Outbox as Reading
from cdc_indexer.source.source import Source
from tests.certificates import make_certificate
from tests.faults.proxy import Proxy
from tests.following import Outbox, settings
from tests.indexer import wait_until
from tests.servers import Server

PASSWORD = "a-secret-of-the-tests"


@pytest.fixture
def outbox(server: Server, database: str) -> Iterator[Outbox]:
    with contextlib.closing(Outbox(server, database)) as one:
        yield one


@pytest.fixture
def account(outbox: Outbox) -> Iterator[str]:
    """An account of this test's own, whose sessions can be counted."""
    name = f"u{outbox.database[-10:]}"
    outbox(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
    outbox(f"GRANT SELECT ON {outbox.database}.* TO {name}@'127.0.0.1'")
    outbox(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {name}@'127.0.0.1'")
    yield name
    outbox(f"DROP USER {name}@'127.0.0.1'")


def source_of(outbox: Outbox, account: str, **changes: Any) -> contextlib.closing[Source]:
    database = settings(outbox.server, outbox.database, user=account, password=PASSWORD, **changes)
    return contextlib.closing(Source(database))


def sessions(outbox: Outbox, account: str) -> list[int]:
    return [row[0] for row in outbox("SHOW PROCESSLIST") if row[1] == account]


def number(session: Any) -> int:
    ((found,),) = session.rows("SELECT CONNECTION_ID()")
    return int(found)


# Borrowed and given back


def test_one_session_serves_who_asks_in_turn_and_more_those_who_ask_at_once(
    outbox: Outbox, account: str
) -> None:
    with source_of(outbox, account) as one:
        numbers = set()
        for _ in range(5):
            with one.session() as session:
                numbers.add(number(session))
        assert len(numbers) == 1
        with one.session() as first, one.session() as second:
            assert number(first) != number(second)
        assert len(sessions(outbox, account)) == 2


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SourceError("x"), Stopped("x")])
def test_it_is_given_back_whatever_happens_in_the_block(
    outbox: Outbox, account: str, error: BaseException
) -> None:
    with source_of(outbox, account) as one:
        for _ in range(3):
            with pytest.raises(type(error)), one.session() as session:
                session.rows("SELECT 1")
                raise error
        with one.session() as session:
            assert session.rows("SELECT 1") == [(1,)]
        wait_until(lambda: len(sessions(outbox, account)) == 1, 5, "one session is left")


@pytest.mark.parametrize("error", [KeyError("x"), Stopped("x")])
def test_who_fails_inside_a_snapshot_leaves_none_open(
    outbox: Outbox, account: str, error: BaseException
) -> None:
    outbox.insert(1)
    with source_of(outbox, account) as one:
        with pytest.raises(type(error)), one.session() as session, session.snapshot():
            session.rows("SELECT * FROM study_service")
            raise error
        outbox.insert(2)
        assert [row.id for row in Reading(one).rows([1, 2])] == [1, 2]


def test_who_fails_in_the_middle_of_an_answer_leaves_the_rest_to_nobody(outbox: Outbox, account: str) -> None:
    outbox.insert(*range(1, 50))
    with source_of(outbox, account) as one:
        with pytest.raises(KeyError), one.session() as session:
            first = number(session)
            raise KeyError
        with one.session() as session:
            assert number(session) != first


# Died idle


def test_a_session_that_the_server_ended_while_it_was_idle(outbox: Outbox, account: str) -> None:
    outbox("SET GLOBAL wait_timeout = 1")
    try:
        with source_of(outbox, account) as one:
            with one.session() as session:
                first = number(session)
            wait_until(lambda: not sessions(outbox, account), 10, "the server ends it")
            with one.session() as session:
                assert number(session) != first
    finally:
        outbox("SET GLOBAL wait_timeout = DEFAULT")


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_a_session_that_somebody_ended_while_it_was_idle(outbox: Outbox, account: str, how: str) -> None:
    with Proxy(outbox.server.port) as proxy, source_of(outbox, account, port=proxy.port) as one:
        reading = Reading(one)
        outbox.insert(1)
        for _ in range(3):
            assert len(reading.rows([1])) == 1
            if how == "cut":
                proxy.cut()
            else:
                for found in sessions(outbox, account):
                    outbox(f"KILL {found}")
                wait_until(lambda: not sessions(outbox, account), 10, "it is gone")
            assert reading.now()
            assert one.epoch == 1


def test_a_session_that_died_in_its_middle_is_an_error(outbox: Outbox, account: str) -> None:
    with source_of(outbox, account) as one:
        with pytest.raises(SourceError), one.session() as session:
            outbox(f"KILL {number(session)}")
            wait_until(lambda: not sessions(outbox, account), 10, "it is gone")
            session.rows("SELECT 1")
        with one.session() as session:
            assert number(session)


def test_a_session_that_was_idle_for_long_is_not_trusted(
    outbox: Outbox, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may have forgotten it without a word: who asked it would wait for a minute."""
    monkeypatch.setattr(source, "_IDLE_SECONDS", 0.2)
    with Proxy(outbox.server.port) as proxy, source_of(outbox, account, port=proxy.port) as one:
        with one.session() as session:
            first = number(session)
        time.sleep(0.3)
        with one.session() as session:
            assert number(session) != first
        wait_until(lambda: len(sessions(outbox, account)) == 1, 5, "the old one is closed")


# Epochs


def test_new_settings_end_every_session_of_before_at_its_next_use(outbox: Outbox, account: str) -> None:
    with source_of(outbox, account) as one:
        old, new = one.database, one.database.model_copy(update={"user": "root"})
        new = settings(outbox.server, outbox.database)
        with pytest.raises(SourceChanged), one.session() as session:
            assert session.epoch == one.epoch == 1
            assert not one.reload(old)
            assert one.reload(new)
            assert one.epoch == 2
            session.rows("SELECT 1")
        with one.session() as session:
            assert session.epoch == 2
            assert str(session.rows("SELECT CURRENT_USER()")[0][0]).startswith("root@")
        wait_until(lambda: not sessions(outbox, account), 5, "the old ones are closed")


def test_new_settings_end_a_question_that_waits_for_its_answer(outbox: Outbox, account: str) -> None:
    with source_of(outbox, account) as one:
        threading.Timer(0.3, one.reload, [settings(outbox.server, outbox.database)]).start()
        began = time.monotonic()
        with pytest.raises(SourceChanged), one.session() as session:
            session.rows("SELECT SLEEP(20)")
        assert time.monotonic() - began < 5


def test_new_settings_end_a_reader_that_waits_for_the_log(outbox: Outbox) -> None:
    reader = outbox.reader(outbox.end(), outbox.columns(), heartbeat_seconds=60)
    events = iter(reader)
    next(events)
    threading.Timer(0.3, reader._source.renew).start()
    began = time.monotonic()
    with pytest.raises(SourceChanged):
        for _ in events:
            pass
    assert time.monotonic() - began < 5


def test_what_was_read_in_one_epoch_is_not_completed_in_another(outbox: Outbox, account: str) -> None:
    outbox.insert(1)
    with source_of(outbox, account) as one:
        pinned = Reading(one).in_one_epoch()
        assert pinned.unseen([1]) == set()
        one.renew()
        with pytest.raises(SourceChanged):
            pinned.unseen([1])
        assert Reading(one).unseen([1]) == set()


def test_events_and_pages_say_their_epoch(outbox: Outbox) -> None:
    start, columns = outbox.end(), outbox.columns()
    outbox.insert(1)
    outbox("CREATE VIEW indexer_study AS SELECT * FROM study_service")
    with contextlib.closing(Source(outbox.settings)) as one:
        one.renew()
        assert Reading(one).page_after(0, 10).epoch == 2
    assert {event.epoch for event in outbox.follow(start, columns).ends} == {1}


@pytest.mark.one_server
def test_another_server_behind_the_address_begins_an_epoch(new_server: Callable[..., Server]) -> None:
    """A row that isn't in the table of the other one is not pruned: nothing is said of it."""
    servers = new_server(), new_server()
    for server in servers:
        server.create_database("pacs")
    first, second = (Outbox(server, "pacs") for server in servers)
    first.insert(1)
    with Proxy(first.server.port) as proxy:
        database = settings(first.server, "pacs", port=proxy.port)
        with contextlib.closing(Source(database)) as one:
            reading = Reading(one).in_one_epoch()
            assert [row.id for row in reading.rows([1])] == [1]
            before = one.identity
            proxy.target_port = second.server.port
            proxy.cut()
            with pytest.raises(SourceChanged):
                reading.unseen([1])
            with pytest.raises(SourceChanged):
                reading.rows([1])
            assert one.epoch == 2
            assert one.identity not in (None, before)
            assert Reading(one).rows([1]) == []
        # And who knew another one in an earlier process.
        with contextlib.closing(Source(database, known=Identity("another", "pacs"))) as one:
            Reading(one).now()
            assert one.epoch == 2
    first.close()
    second.close()


@pytest.mark.one_server
def test_another_server_behind_the_address_is_found_though_the_old_one_still_answers(
    new_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary that was demoted lives on: the stream would follow it for ever."""
    monkeypatch.setattr(source, "_AGE_SECONDS", 1.0)
    servers = new_server(), new_server()
    for server in servers:
        server.create_database("pacs")
    first, second = (Outbox(server, "pacs") for server in servers)
    with (
        Proxy(first.server.port) as proxy,
        contextlib.closing(Source(settings(first.server, "pacs", port=proxy.port))) as one,
    ):
        reader = BinlogReader(one, StreamSettings(heartbeat_seconds=30), 90_001, first.end(), first.columns())
        events = iter(reader)
        next(events)
        Reading(one).now()
        proxy.target_port = second.server.port
        began = time.monotonic()
        while one.epoch == 1 and time.monotonic() - began < 10:
            Reading(one).now()
            time.sleep(0.1)
        assert one.epoch == 2
        with pytest.raises(SourceChanged):
            for _ in events:
                pass
        assert time.monotonic() - began < 10
    first.close()
    second.close()


def test_a_reader_does_not_go_on_at_another_server(outbox: Outbox) -> None:
    with contextlib.closing(Source(outbox.settings)) as one:
        with one.session() as session:
            position, columns = catalogue.fresh_position(session)
        one.renew()
        with pytest.raises(SourceChanged):
            next(iter(BinlogReader(one, StreamSettings(), 90_001, position, columns, epoch=1)))


# Few sessions


def limited(outbox: Outbox, account: str, sessions_allowed: int) -> None:
    outbox(f"ALTER USER {account}@'127.0.0.1' WITH MAX_USER_CONNECTIONS {sessions_allowed}")


@pytest.mark.parametrize("allowed", [2, 3])
def test_it_lives_with_two_sessions(outbox: Outbox, account: str, allowed: int) -> None:
    """One for the log, and the others are waited for."""
    limited(outbox, account, allowed)
    outbox.insert(*range(1, 50))
    failed: list[BaseException] = []
    with source_of(outbox, account) as one:
        reading = Reading(one)

        def ask() -> None:
            try:
                for _ in range(30):
                    reading.rows(list(range(1, 50)))
            except IndexerError as error:
                failed.append(error)

        with one.session() as first, one.session() if allowed == 3 else contextlib.nullcontext():
            first.rows("SELECT 1")
        with one.session_apart(read_timeout_seconds=10) as apart:
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert apart.rows("SELECT 1") == [(1,)]
            assert len(sessions(outbox, account)) <= allowed
    assert failed == []


def test_with_one_session_the_log_is_left_to_the_table(outbox: Outbox, account: str) -> None:
    limited(outbox, account, 1)
    outbox.insert(1)
    with source_of(outbox, account) as one:
        with one.session() as session:
            session.rows("SELECT 1")
        with pytest.raises(NoBinlog) as told, one.session_apart(read_timeout_seconds=10):
            pass
        assert "needs 2" in str(told.value)
        assert "MAX_USER_CONNECTIONS" in str(told.value)
        assert [row.id for row in Reading(one).rows([1])] == [1]


def test_a_session_that_is_only_counted_still_takes_no_log_away(outbox: Outbox, account: str) -> None:
    """One that another thread opens or has just closed: it is in no list, and the server counts it."""
    limited(outbox, account, 2)
    with source_of(outbox, account) as one, one.session() as session:
        passing = outbox.server.connect(user=account, password=PASSWORD)
        timer = threading.Timer(0.2, passing.close)
        timer.start()
        with one.session_apart(read_timeout_seconds=10) as apart:
            assert apart.rows("SELECT 1") == session.rows("SELECT 1")
        timer.join()


def test_no_session_at_all_is_said(outbox: Outbox, account: str) -> None:
    limited(outbox, account, 1)
    with contextlib.closing(outbox.server.connect(user=account, password=PASSWORD)):
        began = time.monotonic()
        with (
            source_of(outbox, account) as one,
            pytest.raises(SourceFull, match=r"MAX_USER_CONNECTIONS.*: 4 are enough"),
            one.session(),
        ):
            pass
        assert time.monotonic() - began < 5


def test_an_hourly_limit_is_said_by_its_name(outbox: Outbox, account: str) -> None:
    outbox(f"ALTER USER {account}@'127.0.0.1' WITH MAX_QUERIES_PER_HOUR 5")
    with source_of(outbox, account) as one, pytest.raises(SourceRefused, match="MAX_QUERIES_PER_HOUR to 0"):
        for _ in range(10):
            Reading(one).now()


# Refused


def test_the_files_are_read_again_before_the_try_after_a_refusal(outbox: Outbox, account: str) -> None:
    read = 0

    def read_again() -> None:
        nonlocal read
        read += 1
        if read == 2:
            one.reload(settings(outbox.server, outbox.database, user=account, password=PASSWORD))

    one = Source(
        settings(outbox.server, outbox.database, user=account, password="an-old-one"), read_again=read_again
    )
    with pytest.raises(SourceRefused, match="refuses user"):
        Reading(one).now()
    assert read == 0
    with pytest.raises(SourceRefused):
        Reading(one).now()
    assert read == 1
    assert Reading(one).now()
    assert Reading(one).now()
    assert read == 2
    one.close()


def test_a_wrong_database_is_a_refusal_too(outbox: Outbox, account: str) -> None:
    read: list[int] = []
    wrong = settings(outbox.server, "nowhere", user=account, password=PASSWORD)
    one = Source(wrong, read_again=lambda: read.append(1))
    for _ in range(2):
        with pytest.raises(SourceRefused):
            Reading(one).now()
    assert read == [1]
    one.close()


def test_an_account_that_has_to_come_encrypted(outbox: Outbox, account: str) -> None:
    outbox(f"ALTER USER {account}@'127.0.0.1' REQUIRE SSL")
    with source_of(outbox, account) as one, pytest.raises(SourceRefused, match="REQUIRE SSL"), one.session():
        pass


def test_the_certificates_that_a_server_makes_for_itself(outbox: Outbox, tmp_path: Path) -> None:
    """MySQL's name no host, so that they can be verified by their CA alone; and the CA may go and come."""
    if outbox.is_mariadb:
        pytest.skip("MySQL makes a CA")
    ca = tmp_path / "ca.pem"
    ca.write_bytes((Path(outbox.server.unix_socket).parent / "ca.pem").read_bytes())

    def tls(verify: object) -> Source:
        return Source(settings(outbox.server, outbox.database, tls={"ca": str(ca), "verify": verify}))

    with (
        contextlib.closing(tls(True)) as one,
        pytest.raises(SourceRefused, match='verify to "ca"'),
        one.session(),
    ):
        pass
    with contextlib.closing(tls("ca")) as one:
        with one.session() as session:
            assert session.encryption is not None
        one.close()
        text = ca.read_bytes()
        ca.unlink()
        with pytest.raises(SourceRefused, match=r"database\.tls\.ca can't be read"), one.session():
            pass
        ca.write_text("nonsense")
        with pytest.raises(SourceRefused, match=r"database\.tls\.ca can't be read"), one.session():
            pass
        ca.write_bytes(text)
        with one.session() as session:
            assert session.rows("SELECT 1") == [(1,)]


def test_the_certificate_of_another_ca_is_refused_by_name_or_not(outbox: Outbox, tmp_path: Path) -> None:
    if outbox.server.flavour == "mariadb-10.11":
        pytest.skip("it has no certificate of its own")
    ca = make_certificate(tmp_path).ca
    database = settings(outbox.server, outbox.database, tls={"ca": str(ca), "verify": "ca"})
    with (
        contextlib.closing(Source(database)) as one,
        pytest.raises(SourceRefused, match="can't be verified"),
        one.session(),
    ):
        pass


def test_a_log_that_was_switched_off_later(new_server: Callable[..., Server]) -> None:
    """Error 1381: not away, but without a log."""
    server = new_server()
    server.create_database("pacs")
    with contextlib.closing(Source(settings(server, "pacs"))) as one:
        with one.session() as session:
            position = catalogue.binlog_end(session)
        server.stop()
        server.extra_arguments.append("--skip-log-bin")
        server.start()
        for ask in (catalogue.holds, catalogue.bytes_behind):
            with pytest.raises(NoBinlog, match="log_bin"), one.session() as session:
                ask(session, position)


# Addresses


@pytest.mark.one_server
def test_over_ipv6_written_as_in_a_url(outbox: Outbox, account: str) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")

    with Proxy(outbox.server.port, host="::1") as proxy:
        with source_of(outbox, account, host="[::1]", port=proxy.port) as one, one.session() as session:
            assert session.rows("SELECT 1") == [(1,)]
            port = proxy.port
        proxy.refuse()
        with (
            source_of(outbox, account, host="[::1]", port=port) as one,
            pytest.raises(SourceError, match=rf"\[::1\]:{port}"),
            one.session(),
        ):
            pass


# The end


def test_who_waits_for_a_silent_line_is_hung_up_on(outbox: Outbox, account: str) -> None:
    failed: list[BaseException] = []
    with Proxy(outbox.server.port) as proxy, source_of(outbox, account, port=proxy.port) as one:

        def ask() -> None:
            try:
                with one.session() as session:
                    session.rows("SELECT SLEEP(30)")
            except IndexerError as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: sessions(outbox, account), 10, "it asks")
        time.sleep(0.2)
        proxy.stall()
        began = time.monotonic()
        one.interrupt()
        thread.join(10)
        assert time.monotonic() - began < 5
        assert len(failed) == 1
        with pytest.raises(Stopped), one.session():
            pass
