"""Whether the disk of the state can still be written, asked before SQLite touches the memory that its users share."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["WriteProbe"]


class WriteProbe:
    """``check`` raises OSError where a write would fail.

    SQLite maps state.sqlite-shm into memory. Where the kernel has given the file system up (its disk fails), writing
    there is SIGBUS on XFS, and the process is gone without a word; on ext4 SQLite may take it for damage. An ordinary
    write is an error that can be said: 1.5 us, into a file without a name in the same place.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._descriptor: int | None = None

    def check(self) -> None:
        """Raises OSError. Where such a file can't be had, SQLite finds out by itself."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, b"x", 0)
            return
        try:
            self._descriptor = self._open()
        except OSError as error:
            # What somebody mounted read-only on purpose may be looked at: SQLite knows that.
            if error.errno in (errno.EROFS, errno.EIO) and not self._read_only():
                raise

    def _open(self) -> int:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        descriptor = os.open(self._state_dir, flags, 0o600)
        try:
            os.pwrite(descriptor, b"x", 0)  # its block is there from now on, also on a full disk
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _read_only(self) -> bool:
        try:
            return bool(os.statvfs(self._state_dir).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def close(self) -> None:
        """Gives the file back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
