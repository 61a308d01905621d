"""One process at a time works on a state directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cdc_indexer.model.errors import AlreadyRunning, StorageError

__all__ = ["StateLock", "held_by", "make_state_dir", "own_as_directory"]

_FILE = "lock"
_MAX_HOLDER_BYTES = 1024


def make_state_dir(state_dir: Path) -> None:
    """Makes the state directory, for our account alone, unless it is there; raises StorageError."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The state directory {state_dir} can't be made ({error.strerror}): "
            "make it for this account, or correct state_dir."
        ) from None


def own_as_directory(descriptor: int, directory: Path) -> None:
    """Gives a file that root opened to the owner of its directory, so that the service's account can use it too."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


class StateLock:
    """The lock on ``state_dir``, held by ``command`` until ``release`` or the death of the process.

    The kernel holds it (flock), so that a killed process leaves none behind; what the file says is only for
    whoever comes second. The file stays: removing it would let two processes lock two files of one name.
    """

    def __init__(self, state_dir: Path, command: str) -> None:
        self._path = state_dir / _FILE
        self._command = command
        self._descriptor: int | None = None
        #: After AlreadyRunning: the command that holds it, as far as it said so.
        self.held_by: str | None = None

    def acquire(self) -> None:
        """Takes the lock; raises AlreadyRunning with who holds it, StorageError without a usable directory."""
        make_state_dir(self._path.parent)
        try:
            # Not through a link that somebody laid there; not inherited by a child, which would keep it.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise _unusable(self._path, error) from None
        try:
            own_as_directory(descriptor, self._path.parent)
            _lock(descriptor)
        except BlockingIOError:  # what flock says when another has it
            self.held_by, holder = _holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(
                f"{holder} works on {self._path.parent} already: "
                "stop it first, or give this one its own state_dir."
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise _unusable(self._path, error) from None
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        text = json.dumps({"pid": os.getpid(), "command": self._command, "since": since})
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode() + b"\n", 0)
        except OSError as error:
            os.close(descriptor)
            raise _unusable(self._path, error) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Lets go of it; does nothing when it isn't held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> StateLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def held_by(state_dir: Path) -> tuple[str, int] | None:
    """The command that works on ``state_dir`` now and its process ("" and 0 while it hasn't said so); None: nobody.

    Raises StorageError when this account may not look.
    """
    path = state_dir / _FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = _said(descriptor)
        return (str(said["command"]), int(said["pid"])) if said else ("", 0)
    except OSError as error:
        raise _unusable(path, error) from None
    else:
        return None
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Takes it; BlockingIOError when another keeps it. Who only looks (``held_by``) has it for an instant."""
    for pause_seconds in (0.005, 0.02, 0.05):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause_seconds)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _said(descriptor: int) -> dict[str, Any] | None:
    """What the holder wrote; None when it hasn't yet, or its disk is full."""
    try:
        said = json.loads(os.pread(descriptor, _MAX_HOLDER_BYTES, 0))
        return {"command": str(said["command"]), "pid": int(said["pid"]), "since": said["since"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(descriptor: int) -> tuple[str | None, str]:
    """The command that holds the lock, and who it is as the beginning of a sentence."""
    said = _said(descriptor)
    if said is None:
        return None, "Another process"
    return said["command"], f"`{said['command']}` (process {said['pid']}, since {said['since']})"


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The lock {path} can't be taken ({error.strerror}): "
        "the state directory must be writable for this account."
    )
