"""The disk of the state directory: full, read-only, gone, and with a state that is torn, foreign or of another time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_indexer.state._database import write
from tests.faults.case import CONCURRENCY, Case
from tests.indexer import wait_until
from tests.pacs import new_uid
from tests.receiver import Answer

STOPPED = "nothing more is sent until it can"
BACK = "the state directory can be written again"

#: FS_IOC_SHUTDOWN: what a file system does by itself when its disk is gone.
_SHUTDOWN = 0x8004587D


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Disk:
    """The state directory, and what can happen to its disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "somebody-elses-log"
        self._spoiled = ""
        self._mount: tuple[str, ...] = ()

    def make_small(self) -> None:
        """A disk of its own, before anything lies on it."""
        self.directory.mkdir(parents=True)
        if not _run("mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(self.directory)):
            pytest.skip("nobody can mount a disk here")

    def make_real(self) -> None:
        """A disk of its own with the usual file system, which can be told not to be written while files are open."""
        self.directory.mkdir(parents=True)
        image = self.directory.with_suffix(".disk")
        with image.open("wb") as file:
            file.truncate(16 << 20)
        self._mount = ("mount", "-o", "loop", str(image), str(self.directory))
        if not (_run("mkfs.ext4", "-q", "-F", str(image)) and _run(*self._mount)):
            pytest.skip("nobody can mount a disk here")
        self.directory.chmod(0o700)

    def fill(self) -> None:
        """Not a byte is left, also where the log of before could be written over."""
        self._spoiled = "full"
        path = self.directory / "state.sqlite"
        with self._filler.open("ab", buffering=0) as file, contextlib.closing(sqlite3.connect(path)) as db:
            for _ in range(3):
                with contextlib.suppress(sqlite3.OperationalError):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                end = time.monotonic() + 0.2
                size = 65536
                while time.monotonic() < end:
                    try:
                        file.write(b"x" * size)
                    except OSError:
                        size = 512
                        time.sleep(0.001)

    def forbid_writing(self) -> None:
        """Read-only, as a disk becomes after an error; nothing may be open on it."""
        assert _run("mount", "-o", "remount,ro", str(self.directory))
        self._spoiled = "read-only"

    def fail(self, how: str) -> None:
        """As after an error of the disk: the kernel lets nobody write any more, until it is mounted anew."""
        # What is mapped into memory is clean then, so that the next write to it asks the file system.
        assert _run("sync", "--file-system", str(self.directory))
        if how == "ended":
            descriptor = os.open(self.directory, os.O_RDONLY)
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", 2))
            os.close(descriptor)
        else:
            assert _run("mount", "-o", "remount,abort", str(self.directory))
        self._spoiled = "failed"

    def take_away(self) -> None:
        """As when the disk that it lies on is gone."""
        self.directory.rename(self._elsewhere)
        self._spoiled = "gone"

    @property
    def _elsewhere(self) -> Path:
        return self.directory.with_suffix(".elsewhere")

    def mend(self) -> None:
        if self._spoiled == "full":
            self._filler.unlink(missing_ok=True)
        elif self._spoiled == "read-only":
            assert _run("mount", "-o", "remount,rw", str(self.directory))
        elif self._spoiled == "failed":
            assert _run("umount", str(self.directory))
            assert _run(*self._mount)
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
    before = len(case.receiver.sent())
    time.sleep(seconds)
    assert len(case.receiver.sent()) <= before + CONCURRENCY


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
    assert sum(rejected in entry.study_iuids for entry in case.receiver.sent()) <= 2
    small_disk.mend()
    wait_until(lambda: case.parked == {rejected}, what="the parked study")
    case.store(5)
    case.finish()


def test_the_state_directory_is_taken_away_for_a_while(case: Case, disk: Disk) -> None:
    """The files are open, and could be written wherever they are: what nobody will find again isn't durable."""
    case.start()
    with case.load() as load:
        case.at_work(load)
        disk.take_away()
        case.fault()
        nothing_more_is_sent(case, 0.7)
        disk.mend()
        case.says(BACK)
    case.loaded(load)
    case.finish()


@pytest.mark.parametrize("how", ["read-only", "ended"])
def test_the_disk_fails_under_a_service(case: Case, disk: Disk, how: str) -> None:
    """SQLite would take what it can't write for damage (ext4), or touch mapped memory and be killed (SIGBUS: XFS)."""
    disk.make_real()
    case.start()
    case.store(20)
    case.arrives(case.committed)
    disk.fail(how)
    case.fault(repeats=CONCURRENCY)
    case.store(20)
    nothing_more_is_sent(case, 1.2)
    assert "read-only" in case.indexer.log
    assert case.indexer.stop() == 0, case.indexer.log[-2000:]
    assert "will be sent once more" in case.indexer.log
    disk.mend()
    case.start()
    case.finish()


def test_a_state_directory_that_can_not_be_written_is_said_at_the_start(case: Case, small_disk: Disk) -> None:
    settled(case)
    sent = len(case.receiver.sent())
    small_disk.forbid_writing()
    case.fault()
    case.store(5)
    for command in (("run",), ("run", "--until-caught-up"), ("initial",)):
        done = case.indexer.run(*command)
        assert done.returncode == 1
        assert "can't be" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert len(case.receiver.sent()) == sent
    small_disk.mend()
    case.start()
    case.finish()


# What lies on it


def settled(case: Case) -> Path:
    """Some studies are sent, and the service is stopped; the state."""
    case.start()
    case.store(10)
    case.arrives(case.committed)
    assert case.indexer.stop() == 0
    return case.indexer.state_dir / "state.sqlite"


def change(path: Path, name: str, old: str, new: str, *, sealed: bool) -> None:
    """Alters a value of the state; ``sealed``: as the program would."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        ((value,),) = db.execute("SELECT value FROM meta WHERE name = ?", (name,))
        assert old in value
        value = value.replace(old, new, 1)
        if sealed:
            write(db, "meta", [(name, value)])
        else:
            db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        db.commit()


def refuses(case: Case, *words: str) -> None:
    """`run` ends with one sentence, sends nothing, and leaves the state as it is."""
    path = case.indexer.state_dir / "state.sqlite"
    before = path.read_bytes()
    sent = len(case.receiver.sent())
    done = case.indexer.run("run")
    assert done.returncode == 1
    said = done.stderr.strip()
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words), said
    assert len(case.receiver.sent()) == sent
    assert path.read_bytes() == before
    case.fault()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\x00" * 4096, "can't be used"),
        (b'{"position": {"file": "mysql-bin.000001", "pos": 4}}', "can't be used"),
        (b"\xff\xfe not text", "can't be used"),
    ],
    ids=["empty", "zeros", "foreign", "no text"],
)
def test_a_state_of_no_use(case: Case, content: bytes, why: str) -> None:
    """To begin anew by itself would send everything again: a person decides."""
    path = settled(case)
    good = path.read_bytes()
    path.write_bytes(content)
    refuses(case, why, "state.sqlite", "move it away")
    path.write_bytes(good)
    case.start()
    case.store(5)
    case.finish()


def test_a_changed_digit_is_noticed(case: Case) -> None:
    """A position or an interval that somebody has edited: its seal tells."""
    path = settled(case)
    change(path, "position", '"offset":', '"offset":9', sealed=False)
    refuses(case, "isn't as it was written")
    shutil.rmtree(path.parent)
    # Begun anew, as the sentence says: all that the table holds is sent again, under the same keys.
    case.fault(repeats=len(case.receiver.accepted()))
    case.start()
    case.store(5)
    case.finish()


@pytest.mark.parametrize("content", [None, b"", b"half a checkp", b'{"format": 9}'])
def test_the_copy_for_people_may_be_lost_or_damaged(case: Case, content: bytes | None) -> None:
    path = settled(case).with_name("checkpoint.json")
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    case.fault()
    case.start()
    case.store(5)
    case.arrives(case.committed)
    case.finish()
    assert json.loads(path.read_text())["position"]


def test_leftovers_of_a_killed_program_do_no_harm(case: Case) -> None:
    path = settled(case)
    for name in ("checkpoint.new", "state.sqlite.new", "state.sqlite.new-wal"):
        path.with_name(name).write_bytes(b"half of something")
    case.fault()
    case.start()
    case.store(5)
    case.finish()


def test_the_state_of_another_archive(case: Case) -> None:
    """Copied from elsewhere: its position means nothing here. A fresh one is taken, and the table is read."""
    path = settled(case)
    checkpoint = case.indexer.checkpoint()
    assert checkpoint is not None
    assert checkpoint.identity is not None
    assert checkpoint.identity.database == case.pacs.name
    assert checkpoint.center == case.indexer.center
    change(path, "identity", checkpoint.identity.server, "another", sealed=True)
    case.fault()
    case.start()
    case.says("another server or a restored one")
    case.store(5)
    case.finish()
