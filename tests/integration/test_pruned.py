"""The service was away for longer than rows are kept: the nightly event has deleted some that nobody sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
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
        pacs.store_study(f"1.{number}")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert len(receiver.accepted()) == 5
    for number in range(5, 10):
        pacs.store_study(f"1.{number}")
    server.execute("SET GLOBAL init_connect = ''")
    pacs.execute("SET timestamp = DEFAULT")
    pacs.execute("CALL indexer_prune(400)")
    assert pacs.execute("SELECT COUNT(*) FROM study_service") == [(0,)]
    yield indexer
    indexer.close()
    pacs.destroy()


#: What was pruned before it was sent is found by comparing view and ledger.
by_the_sweep = pytest.mark.xfail(
    strict=False, reason="the sweep, which replaces an initial here, isn't wired yet"
)


def _reset(server: Server) -> None:
    server.execute("RESET MASTER" if server.is_mariadb else "RESET BINARY LOGS AND GTIDS")


@by_the_sweep
@pytest.mark.parametrize("command", [("run",), ("run", "--until-caught-up")], ids=["run", "once"])
def test_an_initial_starts_by_itself(
    long_away: Indexer, archive_server: Server, receiver: Receiver, command: tuple[str, ...]
) -> None:
    indexer = long_away
    _reset(archive_server)
    indexer.start(*command)
    wanted = {f"1.{number}" for number in range(10)}
    wait_until(lambda: wanted <= set(receiver.study_iuids()), what="every study")
    assert "rows may have been pruned before they were sent" in indexer.log
    if command == ("run",):
        wait_until(lambda: "the initial is done" in indexer.log)
        assert indexer.stop() == 0
    else:
        assert indexer.wait() == 0
    checkpoint = indexer.checkpoint()
    assert checkpoint is not None
    assert "initial" not in checkpoint.jobs
    assert not (indexer.state_dir / "initial.request.json").exists()
    count = len(receiver.accepted())
    assert indexer.run("run", "--until-caught-up").returncode == 0
    assert len(receiver.accepted()) == count


@by_the_sweep
def test_a_kill_in_the_middle_of_it_does_not_begin_again(
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
    wait_until(lambda: "the initial is done" in indexer.log)
    assert indexer.stop() == 0
    assert {f"1.{number}" for number in range(10)} <= set(receiver.study_iuids())
    assert len(receiver.accepted()) <= 15 + 8


def test_the_binary_log_still_has_them(long_away: Indexer, receiver: Receiver) -> None:
    indexer = long_away
    indexer.start("run")
    wait_until(lambda: len(receiver.accepted()) >= 10, what="those that were missing")
    assert indexer.stop() == 0
    assert len(receiver.accepted()) == 10
    assert "pruned" not in indexer.log
