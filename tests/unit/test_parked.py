"""The parked store: durable, once for each delivery, and closed by what is newer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from cdc_indexer.delivery.dispatcher import Delivery
from cdc_indexer.model.errors import StorageError
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.state.parked import CLOSED_KEPT, FILE_NAME, Parked, State

REJECTED = Outcome(
    Kind.REJECTED, 422, '{"error": "PEREZ^JUAN"}', None, "The central index rejected this study."
)
RECORDED_AT = datetime(2026, 3, 1, 12, 0)


def delivery(
    study: str, number: int, body: bytes | None = b'{"patient_name": "PEREZ^JUAN"}', *, first: bool = True
) -> Delivery:
    return Delivery(
        key=study,
        study_pk=7,
        study_iuid=study,
        idempotency_key=f"{study}-{number}",
        body=body,
        rows=((2**64 - number, RECORDED_AT),),
        first_version=first,
        finished=lambda *_: 0,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Parked]:
    parked = Parked(tmp_path / "state")
    yield parked
    parked.close()


def states(store: Parked) -> list[str]:
    return [entry.state.value for entry in store.entries(closed=True)]


def test_what_is_parked_comes_back_whole(store: Parked, tmp_path: Path) -> None:
    store.park(delivery("1.2.3", 1), REJECTED)
    store.park(delivery("1.2.4", 2, None, first=False), Outcome(Kind.REJECTED, 500, "", None, "fails alone"))
    other = Parked(tmp_path / "state", create=False)
    try:
        first, second = other.entries()
    finally:
        other.close()
    assert (first.study_key, first.study_pk, first.study_iuid) == ("1.2.3", 7, "1.2.3")
    assert (first.operation, first.body, first.outbox_ids) == (
        "post",
        delivery("1.2.3", 1).body,
        (2**64 - 1,),
    )
    assert (first.status, first.reason, first.answer) == (422, REJECTED.reason, REJECTED.answer)
    assert (first.state, first.first_version, first.idempotency_key) == (State.PARKED, True, "1.2.3-1")
    assert abs(datetime.fromisoformat(first.parked_at) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert first.sendable
    assert (second.operation, second.body, second.first_version, second.sendable) == (
        "delete",
        None,
        False,
        True,
    )


def test_the_same_delivery_is_one_entry(store: Parked) -> None:
    """After a crash between parking and settling it comes again, with the same key."""
    store.park(delivery("1.2.3", 1), REJECTED)
    store.park(delivery("1.2.3", 1), Outcome(Kind.REJECTED, 400, "again", None, "no"))
    (entry,) = store.entries()
    assert (entry.status, entry.answer, store.count) == (400, "again", 1)


def test_something_newer_supersedes_every_entry_of_its_study(store: Parked) -> None:
    for number in (1, 2):
        store.park(delivery("1.2.3", number), REJECTED)
    store.park(delivery("1.2.4", 3), REJECTED)
    store.accepted(delivery("1.2.3", 4))
    assert states(store) == ["superseded", "superseded", "parked"]
    assert store.count == 1


def test_an_entry_that_is_accepted_supersedes_only_what_is_older(store: Parked) -> None:
    for number in (1, 2, 3):
        store.park(delivery("1.2.3", number), REJECTED)
    store.accepted(delivery("1.2.3", 2))
    assert states(store) == ["superseded", "accepted", "parked"]


def test_what_was_closed_stays_closed(store: Parked) -> None:
    store.park(delivery("1.2.3", 1), REJECTED)
    assert store.discard([1]) == 1
    store.accepted(delivery("1.2.3", 2))
    assert states(store) == ["discarded"]
    assert store.discard() == 0
    assert store.request_retry() == 0


def test_an_acceptance_in_a_store_without_entries_touches_nothing(store: Parked, tmp_path: Path) -> None:
    store.accepted(delivery("1.2.3", 1))
    before = (tmp_path / "state" / FILE_NAME).stat().st_mtime_ns
    store.accepted(delivery("1.2.3", 2))
    assert (tmp_path / "state" / FILE_NAME).stat().st_mtime_ns == before
    assert list(store.entries(closed=True)) == []


def test_entries_of_an_earlier_start_are_known(store: Parked, tmp_path: Path) -> None:
    store.park(delivery("1.2.3", 1), REJECTED)
    again = Parked(tmp_path / "state")
    try:
        again.accepted(delivery("1.2.3", 2))
    finally:
        again.close()
    assert states(store) == ["superseded"]


# --- retry and discard -----------------------------------------------------------------------------------


def test_marked_entries_come_in_order(store: Parked) -> None:
    for number in range(1, 6):
        store.park(delivery(f"1.2.{number}", number), REJECTED)
    assert store.requested() == []
    assert store.request_retry([4, 2, 99]) == 2
    assert [entry.id for entry in store.requested()] == [2, 4]
    assert [entry.id for entry in store.requested(after_id=2)] == [4]
    assert store.request_retry() == 5
    assert [entry.id for entry in store.requested(limit=3)] == [1, 2, 3]
    assert len(store.requested(limit=-1)) == 5


def test_rejected_again_it_is_parked_again(store: Parked) -> None:
    store.park(delivery("1.2.3", 1), REJECTED)
    store.request_retry()
    store.park(delivery("1.2.3", 1), REJECTED)
    assert store.requested() == []
    (entry,) = store.entries()
    assert entry.state is State.PARKED
    assert entry.outbox_ids == (2**64 - 1,), "the delivery of a retry carries no rows"


def test_what_became_no_document_is_not_sent_again(store: Parked) -> None:
    store.park(delivery("1.2.3", 1, b""), Outcome(Kind.REJECTED, reason="the row can't become a study"))
    store.park(delivery("1.2.4", 2, None), REJECTED)
    assert [entry.sendable for entry in store.entries()] == [False, True]
    assert store.request_retry() == 1
    assert [entry.operation for entry in store.requested()] == ["delete"]


def test_a_marked_entry_is_still_superseded(store: Parked) -> None:
    store.park(delivery("1.2.3", 1), REJECTED)
    store.request_retry()
    store.accepted(delivery("1.2.3", 2))
    assert store.requested() == []
    assert states(store) == ["superseded"]


@pytest.mark.parametrize("way", ["discard", "supersede"])
def test_what_is_done_with_is_erased_from_the_disk(tmp_path: Path, way: str) -> None:
    store = Parked(tmp_path / "state")
    store.park(delivery("1.2.3", 1), REJECTED)
    assert any(b"PEREZ" in file.read_bytes() for file in (tmp_path / "state").iterdir())
    if way == "discard":
        assert store.discard() == 1
    else:
        store.accepted(delivery("1.2.3", 2))
        store.close()
    files = list((tmp_path / "state").iterdir())
    assert not any(b"PEREZ" in file.read_bytes() for file in files), (
        "the document or the answer is still there"
    )
    assert any(b"1.2.3" in file.read_bytes() for file in files), "the line stays"
    store.close()


def test_lines_go_after_a_while(store: Parked, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        store.park(delivery("1.2.3", number), REJECTED)
    store.discard([1, 2])
    store.close()
    past = (datetime.now(timezone.utc) - CLOSED_KEPT - timedelta(days=1)).isoformat(timespec="seconds")
    database = sqlite3.connect(tmp_path / "state" / FILE_NAME)
    database.execute("UPDATE parked SET closed_at = ? WHERE entry = 1", (past,))
    database.execute("UPDATE parked SET parked_at = ?", (past,))
    database.commit()
    database.close()
    again = Parked(tmp_path / "state")
    try:
        assert [entry.id for entry in again.entries(closed=True)] == [2, 3]
    finally:
        again.close()


def test_a_long_list_is_read_in_pages(store: Parked) -> None:
    for number in range(1, 1203):
        store.park(delivery("1.2.3", number), REJECTED)
    assert [entry.id for entry in store.entries()] == list(range(1, 1203))
    assert store.get(1202) is not None
    assert store.get(1203) is None


# --- the file --------------------------------------------------------------------------------------------


def test_only_our_account_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Parked(tmp_path / "state")
        store.park(delivery("1.2.3", 1), REJECTED)
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert len(modes) == 3, modes  # with the write-ahead log and its index
    assert set(modes.values()) == {0o600}


def test_a_reader_never_makes_the_service_wait(store: Parked, tmp_path: Path) -> None:
    for number in range(1, 600):
        store.park(delivery("1.2.3", number), REJECTED)
    reader = sqlite3.connect(f"file:{tmp_path / 'state' / FILE_NAME}?mode=ro", uri=True)
    try:
        cursor = reader.execute("BEGIN").execute("SELECT * FROM parked")
        cursor.fetchone()
        store.park(delivery("1.2.4", 1), REJECTED)
        store.accepted(delivery("1.2.4", 2))
    finally:
        reader.close()


def test_many_threads_park_and_accept_at_once(store: Parked) -> None:
    def work(thread: int) -> None:
        for number in range(25):
            store.park(delivery(f"1.{thread}.{number}", 1), REJECTED)
            if number % 2:
                store.accepted(delivery(f"1.{thread}.{number}", 2))

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count == 8 * 13
    assert len(list(store.entries(closed=True))) == 200


PARK_AND_DIE = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from cdc_indexer.delivery.dispatcher import Delivery
from cdc_indexer.state.parked import Parked
from cdc_indexer.model.outcome import Kind, Outcome
store = Parked(Path(sys.argv[1]))
for number in range(20):
    delivery = Delivery("k", 1, "1.2", str(number), b"{}", (), True, lambda *_: None)
    store.park(delivery, Outcome(Kind.REJECTED, 400))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_parked_survives_a_kill(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARK_AND_DIE, str(tmp_path / "state")], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    store = Parked(tmp_path / "state")
    try:
        assert store.count == 20
    finally:
        store.close()


def test_a_full_disk_is_said_and_heals(store: Parked, tmp_path: Path) -> None:
    """A limit on the database's size stands for the disk: SQLite answers both with the same error."""
    store._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageError, match="full"):
        for number in range(100):
            store.park(delivery("1.2.3", number, b"x" * 4000), REJECTED)
    store._database.execute("PRAGMA max_page_count = 1000000")
    store.park(delivery("1.2.9", 1), REJECTED)
    assert "1.2.9" in [entry.study_key for entry in store.entries()]


@pytest.mark.parametrize(
    "content", [b"no database at all, but rather long" * 200, b"SQLite format 3\x00" + b"\x00" * 200]
)
def test_a_damaged_file_is_said_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(StorageError, match=r"parked\.sqlite can't be used"):
        Parked(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Parked(tmp_path).close()
    database = sqlite3.connect(tmp_path / FILE_NAME)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StorageError, match="newer version"):
        Parked(tmp_path)


def test_listing_makes_no_file(tmp_path: Path) -> None:
    assert not Parked.exists(tmp_path)
    with pytest.raises(StorageError):
        Parked(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        Parked(tmp_path)
    assert not (tmp_path / "elsewhere").exists()
