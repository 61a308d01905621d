"""The writer: nobody is told that a result is durable before it is, and a disk that can't be written loses nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_indexer.model.changes import Changes
from cdc_indexer.model.errors import Stopped, StorageError, SyncFailed
from cdc_indexer.model.ledger import Entry
from cdc_indexer.state import checkpoint_copy
from cdc_indexer.state.checkpoint_copy import CheckpointCopy
from cdc_indexer.state.store import Store
from cdc_indexer.state.writer import Writer


class Core:
    """Stands for what decides: a generation and the changes since they were last taken."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.generation = 0
        self.changes = Changes()

    def change(self, *, meta: bool = True) -> int:
        with self.lock:
            self.generation += 1
            uid = f"1.2.{self.generation}"
            self.changes.ledger[uid] = Entry(uid, self.generation)
            if meta:
                self.changes.meta["last"] = self.generation
            return self.generation

    def take(self) -> tuple[int, Changes]:
        with self.lock:
            changes, self.changes = self.changes, Changes()
            return self.generation, changes


class Disk(Store):
    """A store that can be told to fail, and counts what is asked of it."""

    error: Exception | None = None
    steps = 0
    tidied = 0

    def apply(self, changes: Changes) -> None:
        self.steps += 1
        if self.error is not None:
            raise self.error
        super().apply(changes)

    def tidy(self) -> None:
        self.tidied += 1
        super().tidy()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path)
    yield one
    one.close()


def durable(disk: Disk) -> int:
    return int(disk.load().meta.get("last", 0))


def test_many_results_share_one_step_and_none_returns_before_it_is_durable(disk: Disk) -> None:
    core = Core()
    heard: list[int] = []
    early = []

    def told(generation: int) -> None:
        heard.append(generation)
        if durable(disk) < generation:
            early.append(generation)

    writer = Writer(disk, core.take)
    writer.listen(told)
    writer.start()

    def work() -> None:
        for _ in range(50):
            mine = core.change()
            writer.wait(mine)
            if durable(disk) < mine:
                early.append(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close()
    assert early == []
    assert disk.steps < 400
    assert disk.count == 400
    assert heard == sorted(set(heard))
    assert heard[-1] == 400
    assert writer.written_at is not None
    assert abs(writer.written_at - time.time()) < 60
    assert 0 < writer.write_seconds < 10


def test_what_could_not_be_written_is_written_first_when_there_is_room(disk: Disk) -> None:
    troubles: list[StorageError | None] = []
    heard: list[int] = []
    core = Core()
    disk.error = StorageError("no space left")
    writer = Writer(disk, core.take, troubles.append, retry_seconds=0.02)
    writer.listen(heard.append)
    writer.start()
    waiting = [threading.Thread(target=writer.wait, args=[core.change()]) for _ in range(3)]
    for thread in waiting:
        thread.start()
    while disk.steps < 3:
        time.sleep(0.01)
    core.change(meta=False)  # comes while the disk is full
    assert all(thread.is_alive() for thread in waiting)
    early = list(heard)
    disk.error = None
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()
    writer.wait(4)
    assert writer.close()
    assert disk.count == 4
    assert early == []
    assert heard[-1] == 4
    assert [type(trouble) for trouble in troubles] == [StorageError, type(None)]


def test_the_end_does_not_wait_for_a_full_disk(disk: Disk) -> None:
    core = Core()
    disk.error = StorageError("no space left")
    writer = Writer(disk, core.take, retry_seconds=60)
    writer.start()
    writer.request(core.change())
    threading.Timer(0.1, writer.give_up).start()
    with pytest.raises(Stopped):
        writer.wait(1)
    began = time.monotonic()
    assert not writer.close()
    assert time.monotonic() - began < 5


def test_close_writes_what_was_asked_for(disk: Disk) -> None:
    core = Core()
    writer = Writer(disk, core.take)
    writer.start()
    for _ in range(100):
        writer.request(core.change())
    assert writer.close()
    assert durable(disk) == 100


def test_who_asks_after_the_end_does_not_wait_for_ever(disk: Disk) -> None:
    core = Core()
    writer = Writer(disk, core.take)
    writer.start()
    assert writer.close()
    outcome: list[str] = []

    def ask() -> None:
        try:
            writer.wait(core.change())
        except Stopped:
            outcome.append("stopped")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(5)
    assert outcome == ["stopped"]


def test_a_writer_that_was_never_started_closes(disk: Disk) -> None:
    assert Writer(disk, Core().take).close()


@pytest.mark.parametrize("error", [SyncFailed("fsync failed"), StorageError])
def test_after_a_failed_sync_nothing_is_tried_again(disk: Disk, error: Exception | type) -> None:
    core = Core()
    fatal: list[BaseException] = []
    disk.error = error if isinstance(error, SyncFailed) else None
    writer = Writer(disk, core.take, on_fatal=fatal.append, retry_seconds=0.01)
    if disk.error is None:  # the log can't be moved into the file: as bad
        disk.tidy = lambda: (_ for _ in ()).throw(SyncFailed("fsync failed"))  # type: ignore[method-assign]
    writer.start()
    if disk.error is None:
        for _ in range(600):
            core.change()
        writer.wait(core.change())
        deadline = time.monotonic() + 10
        while not fatal and time.monotonic() < deadline:
            time.sleep(0.01)
    with pytest.raises(Stopped):
        writer.wait(core.change())
    steps = disk.steps
    with pytest.raises(Stopped):
        writer.wait(core.change())
    assert disk.steps == steps
    assert not writer.close()
    assert [str(one) for one in fatal] == ["fsync failed"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_ours_leaves_nobody_waiting(disk: Disk) -> None:
    fatal: list[BaseException] = []

    def take() -> tuple[int, Changes]:
        raise TypeError("a mistake")

    writer = Writer(disk, take, on_fatal=fatal.append)
    writer.start()
    with pytest.raises(Stopped):
        writer.wait(1)
    assert not writer.close()
    assert [type(one) for one in fatal] == [TypeError]


def test_the_log_is_moved_into_the_file_by_another_thread(disk: Disk, tmp_path: Path) -> None:
    core = Core()
    writer = Writer(disk, core.take)
    writer.start()
    for _ in range(30):
        for _ in range(40):
            core.change()
        writer.wait(core.generation)
    deadline = time.monotonic() + 10
    while not disk.tidied and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer.close()
    assert disk.tidied >= 1


# The copy for people

META = {
    "identity": {"server": "8a94", "database": "pacsdb", "table": "study_service"},
    "center": "000",
    "position": {"file": "bin.000007", "offset": 4, "file_created": 1, "gtid_set": None},
    "until": "2026-03-01T12:00:00",
    "version_bound": 17,
}


def test_people_see_how_far_it_is(tmp_path: Path) -> None:
    now = [100.0]
    copy = CheckpointCopy(tmp_path, META, clock=lambda: now[0])
    assert checkpoint_copy.read(tmp_path) is None
    copy.write()
    path = tmp_path / "checkpoint.json"
    first = checkpoint_copy.read(tmp_path)
    assert first is not None
    assert (first["source"], first["center"], first["position"]) == (
        META["identity"],
        "000",
        META["position"],
    )
    assert first["settled"] == {"until": "2026-03-01T12:00:00"}
    assert path.stat().st_mode & 0o777 == 0o600
    copy.note({"position": {"file": "bin.000008", "offset": 4}})
    copy.write()
    assert json.loads(path.read_text()) == first, "not for each result"
    now[0] += 5
    copy.write()
    second = checkpoint_copy.read(tmp_path)
    assert second is not None
    assert second["position"]["file"] == "bin.000008"
    path.unlink()
    now[0] += 5
    copy.write()
    assert not path.exists(), "nothing has changed"
    copy.write(now=True)
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"17", b"\xff", b'{"format": 2}', b"[" * 100_000])
def test_a_damaged_copy_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.json").write_bytes(content)
    assert checkpoint_copy.read(tmp_path) is None
    copy = CheckpointCopy(tmp_path, META)
    copy.write(now=True)
    assert checkpoint_copy.read(tmp_path) is not None


def test_a_copy_that_can_not_be_written_is_nobodys_worry(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("somebody's")
    (tmp_path / "checkpoint.new").symlink_to(target)
    CheckpointCopy(tmp_path, META).write(now=True)
    CheckpointCopy(tmp_path / "missing", META).write(now=True)
    (tmp_path / "checkpoint.json").mkdir()
    (tmp_path / "checkpoint.new").unlink()
    CheckpointCopy(tmp_path, META).write(now=True)
    assert checkpoint_copy.read(tmp_path) is None
    assert target.read_text() == "somebody's"


def test_the_copy_is_written_at_the_end(disk: Disk, tmp_path: Path) -> None:
    core = Core()
    writer = Writer(disk, core.take, copy=CheckpointCopy(tmp_path, META))
    writer.start()
    core.changes.meta["center"] = "001"
    writer.wait(core.change())
    assert writer.close()
    said = checkpoint_copy.read(tmp_path)
    assert said is not None
    assert said["center"] == "001"
