"""The service was away for longer than rows are kept: the nightly event has deleted some that nobody sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.invariant import assert_nothing_lost
from tests.pacs import Pacs
from tests.receiver import Answer, Receiver
from tests.servers import Server

pytestmark = pytest.mark.one_server

_AGO = "SET timestamp = UNIX_TIMESTAMP() - 401 * 86400"


@pytest.fixture
def archive_server(new_server: Callable[..., Server]) -> Server:
    return new_server()


@pytest.fixture
def long_away(archive_server: Server, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    """An archive whose indexer has run for the last time 401 days ago: 5 studies were sent, 5 more recorded and pruned."""
    server = archive_server
    pacs = Pacs.create(server)
    indexer = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery={"settle_seconds": 0.5})
    server.execute(f"SET GLOBAL init_connect = '{_AGO}'")
    pacs.execute(_AGO)
    for number in range(5):
        _stored_then(pacs, f"1.{number}")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert len(receiver.accepted()) == 5
    for number in range(5, 10):
        _stored_then(pacs, f"1.{number}")
    server.execute("SET GLOBAL init_connect = ''")
    pacs.execute("SET timestamp = DEFAULT")
    pacs.execute("CALL indexer_prune(400)")
    assert pacs.execute("SELECT COUNT(*) FROM study_service") == [(0,)]
    yield indexer
    indexer.close()
    pacs.destroy()


def _stored_then(pacs: Pacs, study_iuid: str) -> None:
    # recorded_at is the time itself, whatever a session takes for it.
    pacs.store_study(study_iuid)
    pacs.execute(
        "UPDATE study_service SET recorded_at = UTC_TIMESTAMP(6) WHERE study_iuid = %s", (study_iuid,)
    )


def _reset(server: Server) -> None:
    server.execute("RESET MASTER" if server.is_mariadb else "RESET BINARY LOGS AND GTIDS")


@pytest.mark.parametrize("command", ["run", "reconcile"])
def test_a_sweep_finds_them(
    long_away: Indexer, archive_server: Server, receiver: Receiver, command: str
) -> None:
    indexer = long_away
    _reset(archive_server)
    indexer.start(command)
    wanted = {f"1.{number}" for number in range(10)}
    wait_until(lambda: wanted <= set(receiver.study_iuids()), what="every study")
    if command == "run":
        wait_until(lambda: "a comparison has ended" in indexer.log, what="the end of the sweep")
        assert indexer.stop() == 0
    else:
        # This index has no digests, so that only what it was told could be compared.
        assert indexer.wait() == 1
        assert "can't be compared" in indexer.log
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert sorted(receiver.study_iuids()) == sorted(wanted)


def test_a_kill_in_the_middle_of_it_repeats_only_what_was_in_flight(
    long_away: Indexer, archive_server: Server, receiver: Receiver
) -> None:
    indexer = long_away
    _reset(archive_server)
    receiver.always(Answer(delay_seconds=0.2))
    indexer.start("run")
    wait_until(lambda: len(receiver.accepted()) >= 7, what="some of it")
    indexer.kill()
    receiver.normal()
    indexer.start("run")
    wait_until(lambda: "a comparison has ended" in indexer.log, what="the end of the sweep")
    assert indexer.stop() == 0
    stored = [f"1.{number}" for number in range(10)]
    assert_nothing_lost(receiver.accepted(), stored, repeated_at_most=8)


def test_the_binary_log_still_has_them(long_away: Indexer, receiver: Receiver) -> None:
    indexer = long_away
    indexer.start("run")
    wait_until(lambda: len(receiver.accepted()) >= 10, what="those that were missing")
    assert indexer.stop() == 0
    assert len(receiver.accepted()) == 10
    assert "pruned" not in indexer.log
