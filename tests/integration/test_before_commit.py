"""A row that the binary log has before its transaction can be seen: what is read from the view then is what was before.

With semi-synchronous replication that lasts until another server has acknowledged the transaction; without, an instant.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.indexer import Indexer, wait_until
from tests.pacs import Pacs
from tests.receiver import Receiver
from tests.servers import Server

#: How long the server waits for a replica that there isn't, unless ``let_go`` comes before.
WAITS_SECONDS = 300


def variable(server: Server) -> str:
    """How its variables of semi-synchronous replication begin."""
    return "rpl_semi_sync_master" if server.is_mariadb else "rpl_semi_sync_source"


@pytest.fixture
def pacs(new_server: Callable[..., Server]) -> Pacs:
    """On a server that ends no transaction until ``let_go``."""
    server = new_server()
    name = variable(server)
    if not server.is_mariadb:
        server.execute("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")
    server.execute(f"SET GLOBAL {name}_timeout = {WAITS_SECONDS * 1000}")
    server.execute(f"SET GLOBAL {name}_wait_point = 'AFTER_SYNC'")
    return Pacs.create(server)


@pytest.fixture
def indexer(pacs: Pacs, receiver: Receiver, tmp_path: Path) -> Iterator[Indexer]:
    delivery = {"settle_seconds": 0.1, "deletes": "delete"}
    one = Indexer(tmp_path / "indexer", pacs, receiver.url, delivery=delivery)
    yield one
    one.close()


def begin(pacs: Pacs, change: Callable[[Pacs], object]) -> threading.Thread:
    """Changes something in the archive; that goes to the log at once, and can be seen after ``let_go``."""
    server = pacs.server
    server.execute(f"SET GLOBAL {variable(server)}_enabled = ON")

    def work() -> None:
        with closing(Pacs(server, pacs.name)) as one:
            change(one)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def let_go(pacs: Pacs) -> None:
    """What waits for a replica waits no longer."""
    pacs.server.execute(f"SET GLOBAL {variable(pacs.server)}_enabled = OFF")


def in_the_log(pacs: Pacs, before: list[tuple[object, ...]]) -> bool:
    """Whether the log has grown since."""
    return [row[:2] for row in pacs.execute("SHOW BINARY LOGS")] != [row[:2] for row in before]


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped meanwhile"])
def test_what_the_log_has_before_the_tables(
    pacs: Pacs,
    receiver: Receiver,
    indexer: Indexer,
    stopped: bool,
) -> None:
    deleted = pacs.store_study("1.1", patient_id="a", patient_name="A")
    renamed = pacs.store_study("1.2", patient_id="b", patient_name="B")
    edited = pacs.store_study("1.3", patient_id="c", patient_name="C")
    ((patient_pk,),) = pacs.execute("SELECT patient_fk FROM study WHERE pk = %s", (renamed,))
    changes: list[Callable[[Pacs], object]] = [
        lambda pacs: pacs.edit_study(edited, description="NEW", study_datetime=None),
        lambda pacs: pacs.rename_patient(patient_pk, "NEW"),
        lambda pacs: pacs.delete_study(deleted),
    ]
    indexer.start()
    wait_until(lambda: len(receiver.accepted()) == 3, what="all three")
    for change in changes:
        receiver.clear()
        log = pacs.execute("SHOW BINARY LOGS")
        thread = begin(pacs, change)
        wait_until(lambda log=log: in_the_log(pacs, log), what="the change in the log")  # type: ignore[misc]
        time.sleep(1)
        if stopped:
            assert indexer.stop() == 0
            indexer.start()
            wait_until(lambda: indexer.caught_up, what="caught up")
        assert thread.is_alive()
        assert receiver.sent() == []
        let_go(pacs)
        wait_until(lambda: len(receiver.sent()) == 1, what="what was changed")
        thread.join()
    assert [entry.deleted_iuid for entry in receiver.sent()] == ["1.1"]
    assert indexer.stop() == 0
