"""The ledger belongs to one address: what happens when config.json says another."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.ports import free_port
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server


@pytest.fixture
def indexer(pacs: Pacs, tmp_path: Path) -> Iterator[Indexer]:
    """Its address is wrong: nobody listens there."""
    url = f"http://127.0.0.1:{free_port()}/api/v1/register"
    one = Indexer(tmp_path / "indexer", pacs, url, delivery={"settle_seconds": 0.2})
    yield one
    one.close()


def use(indexer: Indexer, url: str) -> None:
    indexer.settings["webservice_url"] = url
    indexer.write_files()


@pytest.mark.parametrize("beside", [False, True], ids=["between two runs", "while it runs"])
def test_an_address_that_never_took_a_study_may_be_corrected(
    beside: bool, pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    pacs.store_study("1.1")
    indexer.start()
    wait_until(lambda: "the central index is away" in indexer.log, what="away")
    if beside:
        use(indexer, receiver.url)
        receiver.wait_for(1)
    assert indexer.stop() == 0
    use(indexer, receiver.url)
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert receiver.study_iuids() == ["1.1"]


def test_an_address_that_took_studies_is_another_index_until_somebody_says_otherwise(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    use(indexer, receiver.url)
    pacs.store_study("1.1")
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    use(indexer, f"{receiver.url}?moved")
    for command in ("run", "initial"):
        done = indexer.run(command)
        assert done.returncode == 1
        assert "`run --same-index`" in done.stderr
        assert "`initial --restart`" in done.stderr
    assert receiver.study_iuids() == ["1.1"]
    assert indexer.run("run", "--until-caught-up", "--same-index").returncode == 0, indexer.log
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    assert receiver.study_iuids() == ["1.1"]


@pytest.mark.soak
def test_an_address_that_a_run_was_told_is_the_one_after_its_restart(
    pacs: Pacs, receiver: Receiver, indexer: Indexer
) -> None:
    use(indexer, receiver.url)
    pacs.store_study("1.1")
    indexer.start()
    wait_until(lambda: indexer.caught_up, what="caught up")
    use(indexer, f"{receiver.url}?new")
    assert indexer.process is not None
    indexer.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "taken for the same index, moved" in indexer.log, what="read again")
    # (What never took a study, as an address with a slip, is forgotten.)
    assert indexer.stop() == 0
    use(indexer, receiver.url)
    indexer.start()
    wait_until(lambda: indexer.caught_up, what="caught up")
    use(indexer, f"{receiver.url}?new")
    assert indexer.process is not None
    indexer.process.send_signal(signal.SIGHUP)
    wait_until(lambda: indexer.log.count("taken for the same index, moved") == 2, what="read again")
    pacs.store_study("1.2")
    wait_until(lambda: receiver.study_iuids() == ["1.1", "1.2"], what="the second")
    assert indexer.stop() == 0
    indexer.start()
    wait_until(lambda: indexer.caught_up, what="caught up")
    # If it is another one, it gets everything.
    assert indexer.run("initial", "--restart").returncode == 0, indexer.log
    assert sorted(receiver.study_iuids()) == ["1.1", "1.1", "1.2", "1.2"]
    assert indexer.stop() == 0
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
