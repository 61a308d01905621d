"""Parked studies: durable with what settles them, one open entry for a study, and closed by what is newer."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from cdc_indexer.model.changes import Changes, Closing, Parking, State
from cdc_indexer.model.errors import StateError, StorageError
from cdc_indexer.state import _database, parked_studies
from cdc_indexer.state.parked_studies import CLOSED_KEPT, ParkedStudies
from cdc_indexer.state.store import Store

BODY = b'{"patient_name": "PEREZ^JUAN"}'


def parking(
    study: str, body: bytes | None = BODY, *, status: int | None = 422, rows: tuple[int, ...] = (2**64 - 1,)
) -> Parking:
    operation = "delete" if body is None else "post"
    return Parking(
        study, 7, study, operation, f"key-{study}", rows, body, status, f"reason {status}", "PEREZ^JUAN: no"
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "state")
    yield one
    one.close()


@pytest.fixture
def parked(store: Store, tmp_path: Path) -> Iterator[ParkedStudies]:
    one = ParkedStudies(tmp_path / "state")
    yield one
    one.close()


def park(store: Store, *some: Parking | Closing) -> None:
    store.apply(Changes(parking={one.study_key: one for one in some}))


def states(parked: ParkedStudies) -> list[str]:
    return [entry.state.value for entry in parked.entries(closed=True)]


def test_what_is_parked_comes_back_whole(store: Store, parked: ParkedStudies) -> None:
    park(store, parking("1.2.3"), parking("1.2.4", None, status=None))
    first, second = parked.entries()
    assert (first.study_key, first.study_pk, first.study_iuid) == ("1.2.3", 7, "1.2.3")
    assert (first.operation, first.body, first.outbox_ids) == ("post", BODY, (2**64 - 1,))
    assert (first.status, first.reason, first.answer) == (422, "reason 422", "PEREZ^JUAN: no")
    assert (first.state, first.idempotency_key, first.open, first.sendable) == (
        State.PARKED,
        "key-1.2.3",
        True,
        True,
    )
    assert abs(datetime.fromisoformat(first.parked_at) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert (second.operation, second.body, second.status, second.sendable) == ("delete", None, None, True)
    assert parked.count == 2
    assert parked.get(first.id) == first
    assert parked.get(99) is None
    assert parked.reasons(5) == (("reason 422", 1), ("reason None", 1))


def test_a_later_rejection_takes_the_entry_of_the_study(store: Store, parked: ParkedStudies) -> None:
    park(store, parking("1.2.3"), parking("1.2.4"))
    park(store, parking("1.2.3", b"{}", status=400, rows=(5, 6)))
    first, second = parked.entries()
    assert (first.id, first.status, first.body, first.outbox_ids) == (1, 400, b"{}", (5, 6))
    assert (second.id, second.status) == (2, 422)


def test_rejected_again_it_is_parked_again(store: Store, parked: ParkedStudies) -> None:
    park(store, parking("1.2.3"))
    parked.request_retry()
    park(store, parking("1.2.3", rows=()))
    assert parked.requested() == []
    (entry,) = parked.entries()
    assert entry.state is State.PARKED
    assert entry.outbox_ids == (2**64 - 1,), "a study that is sent again carries no rows"


@pytest.mark.parametrize("state", [State.ACCEPTED, State.SUPERSEDED])
def test_what_is_closed_stays_closed_and_numbers_never_come_again(
    store: Store, parked: ParkedStudies, state: State
) -> None:
    park(store, parking("1.2.3"), parking("1.2.4"))
    park(store, Closing("1.2.3", state), Closing("1.2.9", state))
    assert states(parked) == [state.value, "parked"]
    park(store, Closing("1.2.3", State.SUPERSEDED))
    park(store, parking("1.2.3"))
    assert [(entry.id, entry.state) for entry in parked.entries(closed=True)] == [
        (1, state),
        (2, State.PARKED),
        (3, State.PARKED),
    ]
    closed = parked.get(1)
    assert closed is not None
    assert (closed.body, closed.answer, closed.open, closed.study_iuid) == (None, "", False, "1.2.3")
    assert parked.discard([1]) == 0
    assert parked.request_retry([1]) == 0


def test_marked_entries_come_in_order(store: Store, parked: ParkedStudies) -> None:
    park(store, *(parking(f"1.2.{number}") for number in range(1, 6)))
    assert parked.requested() == []
    assert parked.request_retry([4, 2, 99]) == 2
    assert [entry.id for entry in parked.requested()] == [2, 4]
    assert [entry.id for entry in parked.requested(after_id=2)] == [4]
    assert parked.request_retry() == 5
    assert [entry.id for entry in parked.requested(limit=3)] == [1, 2, 3]
    assert len(parked.requested(limit=-1)) == 5
    park(store, Closing("1.2.2", State.SUPERSEDED))
    assert [entry.id for entry in parked.requested()] == [1, 3, 4, 5]


def test_what_became_no_document_is_not_sent_again(store: Store, parked: ParkedStudies) -> None:
    park(store, parking("1.2.3", b""), parking("1.2.4", None))
    assert [entry.sendable for entry in parked.entries()] == [False, True]
    assert parked.request_retry() == 1
    assert [entry.operation for entry in parked.requested()] == ["delete"]


def test_what_is_discarded_is_erased_from_the_disk_beside_a_run(
    store: Store, parked: ParkedStudies, tmp_path: Path
) -> None:
    """Large ones too, which lie on pages of their own."""
    park(store, parking("1.2.3"), parking("1.2.4", BODY * 500))
    files = list((tmp_path / "state").iterdir())
    assert any(b"PEREZ" in file.read_bytes() for file in files)
    assert parked.discard() == 2
    assert not any(b"PEREZ" in file.read_bytes() for file in files)
    assert any(b"1.2.3" in file.read_bytes() for file in files), "the line stays"
    park(store, parking("1.2.5"))
    assert states(parked) == ["discarded", "discarded", "parked"]


def test_what_could_not_be_erased_is_said(
    store: Store, parked: ParkedStudies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(store, parking("1.2.3"))
    monkeypatch.setattr(_database, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(parked_studies, "_PAUSE_SECONDS", 0.01)
    impatient = ParkedStudies(tmp_path / "state")
    reader = sqlite3.connect(tmp_path / "state" / "state.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM parked").fetchone()
    with pytest.raises(StorageError, match="discard once more"):
        impatient.discard()
    reader.close()
    assert impatient.discard() == 0
    assert not any(b"PEREZ" in file.read_bytes() for file in (tmp_path / "state").iterdir())
    impatient.close()


def test_lines_go_after_a_while(store: Store, parked: ParkedStudies, tmp_path: Path) -> None:
    park(store, *(parking(f"1.2.{number}") for number in (1, 2, 3)))
    parked.discard([1, 2])
    past = (datetime.now(timezone.utc) - CLOSED_KEPT - timedelta(days=1)).isoformat(timespec="seconds")
    database = sqlite3.connect(tmp_path / "state" / "state.sqlite")
    database.execute("UPDATE parked SET closed_at = ? WHERE entry = 1", (past,))
    database.execute("UPDATE parked SET parked_at = ?", (past,))
    database.commit()
    database.close()
    again = ParkedStudies(tmp_path / "state")
    assert [entry.id for entry in again.entries(closed=True)] == [2, 3]
    again.close()


def test_a_long_list_is_read_in_pages(store: Store, parked: ParkedStudies) -> None:
    park(store, *(parking(f"1.2.{number}") for number in range(1202)))
    assert [entry.id for entry in parked.entries()] == list(range(1, 1203))


def test_listing_makes_no_state(tmp_path: Path) -> None:
    assert not ParkedStudies.exists(tmp_path)
    with pytest.raises(StateError, match="isn't there"):
        ParkedStudies(tmp_path)
    assert list(tmp_path.iterdir()) == []


COMMAND = """
import sys
from pathlib import Path
from cdc_indexer.state.parked_studies import ParkedStudies
for _ in range(int(sys.argv[2])):
    parked = ParkedStudies(Path(sys.argv[1]))
    parked.request_retry()
    list(parked.entries(closed=True))
    parked.discard([1])
    parked.close()
print("done")
"""


def test_the_command_works_beside_a_run_that_writes(
    store: Store, parked: ParkedStudies, tmp_path: Path
) -> None:
    """It opens and closes the file meanwhile, and takes nothing of the log away that the other one needs."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "state"), "20"], stdout=subprocess.PIPE, text=True
    ) as command:
        number = 0
        while command.poll() is None:
            number += 1
            park(store, parking(f"1.2.{number}"))
            # Whoever looks from the process of `run` must not take its locks away.
            ParkedStudies(tmp_path / "state").close()
            if number % 20 == 0:
                store.tidy()
        assert command.stdout is not None
        assert command.stdout.read() == "done\n"
    assert store.load().parked in (number, number - 1)
    store.close()
    parked.close()
    again = ParkedStudies(tmp_path / "state")
    assert len(states(again)) == number
    again.close()
