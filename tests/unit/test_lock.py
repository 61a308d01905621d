"""One process for each state directory, seen from two real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_indexer.model.errors import AlreadyRunning, FatalError, StorageError
from cdc_indexer.state.lock import StateLock, held_by, own_as_directory

HOLD = """
import sys, time
from pathlib import Path
from cdc_indexer.state.lock import StateLock
lock = StateLock(Path(sys.argv[1]), "run")
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock on tmp_path / state."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_learns_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    lock = StateLock(tmp_path / "state", "initial")
    with pytest.raises(
        AlreadyRunning, match=rf"`run` \(process {holder.pid}, since 20..-.*\) works on"
    ) as caught:
        lock.acquire()
    assert isinstance(caught.value, FatalError)
    assert lock.held_by == "run"
    lock.release()  # of what isn't held: nothing happens
    with pytest.raises(AlreadyRunning):
        lock.acquire()


def test_a_killed_process_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with StateLock(tmp_path / "state", "run") as lock:
        assert lock.held_by is None


def test_it_can_be_taken_again_after_release(tmp_path: Path) -> None:
    for _ in range(3):
        with StateLock(tmp_path / "state", "run"), pytest.raises(AlreadyRunning):
            StateLock(tmp_path / "state", "run").acquire()


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    """A lock that a child kept would outlive us."""
    with StateLock(tmp_path / "state", "run"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with StateLock(tmp_path / "state", "run"):
            pass
    finally:
        child.kill()
        child.wait()


def test_only_our_account_can_read_the_state(tmp_path: Path) -> None:
    state_dir = tmp_path / "deep" / "state"
    before = os.umask(0)
    try:
        with StateLock(state_dir, "run"):
            assert state_dir.stat().st_mode & 0o777 == 0o700
            assert (state_dir / "lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "command": 1, "since": 2}', "\x00" * 2000])
def test_an_unreadable_holder_is_another_process(
    tmp_path: Path, holder: subprocess.Popen[str], text: str
) -> None:
    (tmp_path / "state" / "lock").write_text(text)
    lock = StateLock(tmp_path / "state", "run")
    with pytest.raises(AlreadyRunning, match=r"^Another process works on"):
        lock.acquire()
    assert lock.held_by is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "state" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="can't be taken"):
        StateLock(tmp_path / "state", "run").acquire()
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_state_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't be made"):
        StateLock(tmp_path / "file" / "state", "run").acquire()
    with pytest.raises(StorageError, match="can't be made"):
        StateLock(tmp_path / "file", "run").acquire()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_services_account(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        own_as_directory(descriptor, tmp_path)
    finally:
        os.close(descriptor)
    assert ((tmp_path / "file").stat().st_uid, (tmp_path / "file").stat().st_gid) == (12345, 12346)


def test_who_only_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    """A `status` by cron must not make a `run` by cron believe that another one is there."""
    assert held_by(tmp_path) is None
    with StateLock(tmp_path, "run"):
        assert held_by(tmp_path) == ("run", os.getpid())
    assert held_by(tmp_path) is None
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as held_by does, for longer
    timer = threading.Timer(0.015, os.close, [looking])
    timer.start()
    with StateLock(tmp_path, "run"):
        assert held_by(tmp_path) == ("run", os.getpid())
    timer.join()
