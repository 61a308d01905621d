"""Coming from the old cron client: what it had queued, what came in between, what it had sent; in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver
from tests.servers import Server
from tests.sql_archive import ADD, OLD_CLIENT

pytestmark = pytest.mark.one_server


@pytest.fixture
def pacs(server: Server) -> Iterator[Pacs]:
    """An archive with the old client's queue and trigger, and nothing of ours."""
    archive = Pacs.create_bare(server)
    server.run_script(OLD_CLIENT, archive.name)
    yield archive
    archive.destroy()


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    delivery = {"send": "stable", "updates": False, "settle_seconds": 0.5}
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery=delivery)
    yield one
    one.close()


def store(pacs: Pacs, prefix: str, count: int) -> set[str]:
    """Studies whose images are counted."""
    uids = {f"{prefix}.{number}" for number in range(count)}
    for uid in uids:
        pacs.update_counts(pacs.store_study(uid), 1, 7, "CT")
    return uids


def install(pacs: Pacs) -> None:
    pacs.server.run_script(ADD, pacs.name)
    pacs.grant()


def already_sent(indexer: Indexer) -> None:
    done = indexer.run("initial", "--already-sent")
    assert done.returncode == 0, done.stderr


def before_run(pacs: Pacs, indexer: Indexer, between: Callable[[], None]) -> None:
    install(pacs)
    between()
    already_sent(indexer)
    indexer.start()


def beside_run(pacs: Pacs, indexer: Indexer, between: Callable[[], None]) -> None:
    install(pacs)
    between()
    indexer.start()
    wait_until(lambda: indexer.caught_up, what="caught up")
    already_sent(indexer)


def after_run(pacs: Pacs, indexer: Indexer, between: Callable[[], None]) -> None:
    install(pacs)
    between()
    assert indexer.run("run", "--until-caught-up").returncode == 0, indexer.log
    already_sent(indexer)
    indexer.start()


@pytest.mark.parametrize("order", [before_run, beside_run, after_run])
def test_what_was_queued_and_what_came_in_between_arrives_once(
    pacs: Pacs,
    receiver: Receiver,
    indexer: Indexer,
    order: Callable[[Pacs, Indexer, Callable[[], None]], None],
) -> None:
    store(pacs, "1.1", 20)
    pacs.execute("DELETE FROM study_service")  # as the old client did, once it had sent them
    wanted = store(pacs, "1.2", 15)

    def between() -> None:
        wanted.update(store(pacs, "1.3", 10))

    order(pacs, indexer, between)
    try:
        wait_until(lambda: indexer.caught_up, what="caught up")
        wanted |= store(pacs, "1.4", 5)
        wait_until(lambda: set(receiver.study_iuids()) >= wanted, what="all that the old client hadn't sent")
        # A correction of what the old client had sent is no reason to send that, for an index that can only insert.
        pacs.execute("UPDATE study SET study_desc = 'CORRECTED' WHERE study_iuid LIKE '1.1.%%'")
        wanted |= store(pacs, "1.5", 1)
        wait_until(lambda: set(receiver.study_iuids()) >= wanted, what="a study after that")
        assert indexer.stop() == 0
    finally:
        indexer.close()
    assert sorted(receiver.study_iuids()) == sorted(wanted)
    assert {document["study_instances"] for document in receiver.holds().values()} == {7}
