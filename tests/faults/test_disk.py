"""The disk of the state directory: full, read-only, gone, and with a checkpoint that is torn, foreign or of another time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.case import CONCURRENCY, Case
from tests.indexer import wait_until
from tests.pacs import new_uid
from tests.receiver import Answer

STOPPED = "nothing more is sent until it can"
BACK = "the state directory can be written again"


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Disk:
    """The state directory, and what can happen to its disk; by other means where this machine lets nobody mount one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "somebody-elses-log"
        self._in_the_way = directory / "checkpoint.new"
        self._spoiled = ""

    def make_small(self) -> None:
        """A disk of its own, before anything lies on it."""
        self.directory.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(self.directory))

    def fill(self) -> None:
        """Not a byte is left; or, on a disk that others need, something lies where the checkpoint is written."""
        self._spoiled = "full"
        if self.directory.is_mount():
            # Each new generation frees the room of an old one: that is taken as well.
            end = time.monotonic() + 0.5
            with self._filler.open("ab", buffering=0) as file:
                while time.monotonic() < end:
                    with contextlib.suppress(OSError):
                        file.write(b"x" * 4096)
                        continue
                    time.sleep(0.001)
            return
        while not self._in_the_way.is_dir():
            self._in_the_way.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                self._in_the_way.mkdir()

    def forbid_writing(self) -> None:
        """Read-only, as a disk becomes after an error; where nothing can be mounted: taken away."""
        path = str(self.directory)
        if _run("mount", "--bind", path, path):
            # Busy while the service writes through it.
            wait_until(lambda: _run("mount", "-o", "remount,ro,bind", path), what="a read-only mount")
            self._spoiled = "read-only"
        else:
            self.take_away()

    def take_away(self) -> None:
        """As when the share that it lies on is gone."""
        self.directory.rename(self._elsewhere)
        self._spoiled = "gone"

    @property
    def _elsewhere(self) -> Path:
        return self.directory.with_suffix(".elsewhere")

    def mend(self) -> None:
        if self._spoiled == "full":
            self._filler.unlink(missing_ok=True)
            if self._in_the_way.is_dir():
                self._in_the_way.rmdir()
        elif self._spoiled == "read-only":
            assert _run("umount", "--lazy", str(self.directory))
        elif self._spoiled == "gone":
            self._elsewhere.rename(self.directory)
        self._spoiled = ""

    def close(self) -> None:
        """Nothing stays mounted."""
        while _run("umount", "--lazy", str(self.directory)):
            pass


@pytest.fixture
def disk(case: Case) -> Iterator[Disk]:
    made = Disk(case.indexer.state_dir)
    yield made
    case.close()
    made.close()


@pytest.fixture
def small_disk(disk: Disk) -> Disk:
    disk.make_small()
    return disk


def nothing_more_is_sent(case: Case, seconds: float = 1.0) -> None:
    """It says so; and but for what each sender may have in flight, nothing arrives any more."""
    case.says(STOPPED)
    before = len(case.receiver.entries())
    time.sleep(seconds)
    assert len(case.receiver.entries()) <= before + CONCURRENCY


def test_the_disk_is_full(case: Case, small_disk: Disk) -> None:
    """Promise 2: what was sent and can't be written down isn't more than what may be in flight; the archive goes on."""
    case.start()
    with case.load() as load:
        case.at_work(load)
        small_disk.fill()
        case.fault()
        nothing_more_is_sent(case)
        stored = len(load.committed)
        wait_until(lambda: len(load.committed) > stored + 20, what="an archive that goes on")
        small_disk.mend()
        case.says(BACK)
    case.loaded(load)
    case.finish()


def test_the_disk_is_full_and_the_service_is_killed(case: Case, small_disk: Disk) -> None:
    case.start()
    with case.load() as load:
        case.at_work(load)
        small_disk.fill()
        case.fault()
        nothing_more_is_sent(case, 0.5)
        case.kill()
        small_disk.mend()
        case.start_under_load()
    case.loaded(load)
    case.finish()


def test_it_stops_though_the_disk_is_full(case: Case, small_disk: Disk) -> None:
    """It doesn't wait for a disk when it is told to end, and says what that means."""
    case.start()
    case.store(5)
    case.arrives(case.committed)
    small_disk.fill()
    case.store(20)
    nothing_more_is_sent(case, 0.3)
    began = time.monotonic()
    assert case.indexer.stop() == 0, case.indexer.log[-2000:]
    assert time.monotonic() - began < 8
    assert "will be sent once more" in case.indexer.log
    case.fault(repeats=CONCURRENCY)
    small_disk.mend()
    case.start()
    case.finish()


def test_a_study_is_rejected_while_the_disk_is_full(case: Case, small_disk: Disk) -> None:
    """It can't be parked then; it is neither forgotten nor sent again and again."""
    case.start()
    case.store(5)
    case.arrives(case.committed)
    rejected = new_uid()
    case.receiver.for_studies([rejected], Answer(400, {"detail": "no"}))
    small_disk.fill()
    case.fault()
    case.committed.append(rejected)
    case.pacs.store_study(rejected)
    wait_until(lambda: "can't be written" in case.indexer.log, what="that it can't be written")
    time.sleep(1)
    assert sum(rejected in entry.study_iuids for entry in case.receiver.entries()) <= 2
    small_disk.mend()
    wait_until(lambda: case.parked == {rejected}, what="the parked study")
    case.store(5)
    case.finish()


@pytest.mark.parametrize("how", ["read-only", "gone"])
def test_the_state_directory_can_not_be_written(case: Case, disk: Disk, how: str) -> None:
    case.start()
    with case.load() as load:
        case.at_work(load)
        (disk.take_away if how == "gone" else disk.forbid_writing)()
        case.fault()
        nothing_more_is_sent(case, 0.7)
        disk.mend()
        case.says(BACK)
    case.loaded(load)
    case.finish()


# What lies on it


def settled(case: Case) -> Path:
    """Some studies are sent, and the service is stopped; the checkpoint."""
    case.start()
    case.store(10)
    case.arrives(case.committed)
    assert case.indexer.stop() == 0
    return case.indexer.state_dir / "checkpoint.json"


def refuses(case: Case, *words: str) -> None:
    """`run` ends with one sentence, sends nothing, and leaves the files as they are."""
    before = {path.name: path.read_bytes() for path in case.indexer.state_dir.glob("checkpoint*")}
    sent = len(case.receiver.entries())
    done = case.indexer.run("run")
    assert done.returncode == 1
    said = done.stderr.strip()
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words), said
    assert len(case.receiver.entries()) == sent
    assert {path.name: path.read_bytes() for path in case.indexer.state_dir.glob("checkpoint*")} == before
    case.fault()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "isn't a checkpoint"),
        (b"\x00" * 4096, "isn't a checkpoint"),
        (b'{"position": {"file": "mysql-bin.000001", "pos": 4}}', "isn't a checkpoint"),
        (b"\xff\xfe not text", "can't be used"),
    ],
    ids=["empty", "zeros", "foreign", "no text"],
)
def test_both_generations_are_of_no_use(case: Case, content: bytes, why: str) -> None:
    """To begin anew by itself would send everything again: a person decides."""
    path = settled(case)
    good = path.read_bytes()
    path.write_bytes(content)
    (path.parent / "checkpoint.previous.json").write_bytes(content)
    refuses(case, why, "checkpoint.json", "move the file away")
    path.write_bytes(good)
    case.start()
    case.store(5)
    case.finish()


def test_a_changed_digit_is_noticed(case: Case) -> None:
    """A position or an interval that somebody has edited: the checksum tells."""
    path = settled(case)
    edited = path.read_text().replace('"offset": ', '"offset": 9', 1)
    path.write_text(edited)
    (path.parent / "checkpoint.previous.json").write_text(edited)
    refuses(case, "checksum doesn't match")
    shutil.rmtree(path.parent)
    # Begun anew, as the sentence says: all that the table holds is sent again, under the same keys.
    case.fault(repeats=len(case.receiver.accepted()))
    case.start()
    case.store(5)
    case.finish()


def test_the_generation_before_is_enough(case: Case) -> None:
    """A kill that left the newest one torn, and one that left none at all."""
    path = settled(case)
    previous = path.parent / "checkpoint.previous.json"
    for torn in (path.read_bytes()[:200], None):
        if torn is None:
            path.unlink()
        else:
            path.write_bytes(torn)
        # What the older one doesn't know was the last result, or the last few.
        case.fault(repeats=CONCURRENCY)
        assert previous.exists()
        case.start()
        case.store(5)
        case.arrives(case.committed)
        assert case.indexer.stop() == 0
    case.start()
    case.finish()
    assert "checkpoint fell back" in case.indexer.log


def test_a_leftover_of_a_killed_write_does_no_harm(case: Case) -> None:
    path = settled(case)
    path.with_suffix(".new").write_bytes(b"half a checkp")
    (path.parent / "checkpoint.previous.new").write_bytes(b"half a link")
    case.fault()
    case.start()
    case.store(5)
    case.finish()


def test_the_checkpoint_of_another_archive(case: Case) -> None:
    """Copied from elsewhere: its position means nothing here. A fresh one is taken, and the table is read."""
    path = settled(case)
    checkpoint = json.loads(path.read_text())
    assert checkpoint["source"]["database"] == case.pacs.name
    assert checkpoint["center"] == case.indexer.center
    with_another = path.read_text().replace(checkpoint["source"]["server"], "another")
    body = with_another.rpartition(',\n  "checksum"')[0]
    path.write_text(f'{body},\n  "checksum": "sha256:{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n')
    case.fault()
    case.start()
    case.says("another server or a restored one")
    case.store(5)
    case.finish()
