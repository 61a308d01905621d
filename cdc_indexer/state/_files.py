"""Whether the state's file can be used: its disk, whose it is, whether it is whole; and what SQLite's errors mean."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from pathlib import Path

from cdc_indexer.model.errors import IndexerError, LedgerDamaged, StateError, StorageError, SyncFailed

__all__ = ["FILE_NAME", "check_file", "check_format", "check_place", "damaged", "meaning", "sync_directory"]

FILE_NAME = "state.sqlite"

#: 'CDCI', at the place where SQLite lets a program say whose file it is.
APPLICATION_ID = 0x43444349
FORMAT = 1

BEGIN_ANEW = "move it away to begin anew (every study in study_service is then sent again)"

#: Where locks, or memory that processes share, or an fsync can't be relied on; as the kernel names them.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs?|afs|coda|ceph|lustre|glusterfs|davfs|beegfs|orangefs|pvfs2|"
    r"fuse\.(sshfs|glusterfs|ceph.*|s3fs|rclone|davfs2?|curlftpfs|smbnetfs|gcsfuse|juicefs|mount-s3|blobfuse2?|cifs)"
)

_SYNC_CODES = (10 | 4 << 8, 10 | 5 << 8)  # SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC
_CORRUPT, _NOT_A_DATABASE = 11, 26


def meaning(error: sqlite3.Error | OSError, path: Path) -> IndexerError:
    """What the program does about it: our error, with its sentence."""
    if isinstance(error, OSError):
        return _unwritable(path, error.strerror or str(error))
    # Python 3.10 has no code: there an error of reading or writing is taken for the worst that it can be.
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error)
    if code in _SYNC_CODES or (code is None and text == "disk I/O error"):
        return SyncFailed(
            f"{path} couldn't be made durable (fsync failed): look after its disk, then start again; the program ends, "
            "because only a new start knows what is on it."
        )
    if (code is not None and code & 0xFF in (_CORRUPT, _NOT_A_DATABASE)) or text.endswith(
        ("image is malformed", "is not a database")
    ):
        return LedgerDamaged(
            f"{path} is damaged: start again, and what of it is whole is kept; look after its disk."
        )
    return _unwritable(path, text)


def _unwritable(path: Path, why: str) -> StorageError:
    remedy = "free some space or mend the directory's rights"
    if "locked" in why:
        remedy = "another process holds it, end that one"
    elif "I/O" in why or "Input/output" in why or "Read-only" in why:
        remedy = "its disk has become read-only, is over a quota or fails (dmesg says which): mend that, then start again"
    return StorageError(
        f"the state {path} can't be written ({why}): nothing more is sent until it can; {remedy}."
    )


def damaged(path: Path, why: str) -> StateError:
    """It can't be used, and nobody but a person may decide to begin without it."""
    return StateError(f"{path} can't be used: {why}. Put a good copy of it into its place, or {BEGIN_ANEW}.")


def check_place(state_dir: Path, mounts: str | None = None) -> None:
    """Raises StateError where the directory lies on a network file system. ``mounts``: as in /proc/self/mountinfo."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:  # not Linux
            return
    kind = _file_system(str(state_dir.resolve()), mounts)
    if kind is not None and _NETWORK.fullmatch(kind):
        raise StateError(
            f"The state directory {state_dir} lies on a network file system ({kind}), where what is written can't be "
            "relied on: set state_dir to a directory on a local disk."
        )


def _file_system(path: str, mounts: str) -> str | None:
    """The type of the file system that ``path`` lies on: of the last mount on the longest path above it."""
    longest, found = -1, None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5 or not kind:
            continue
        # Blanks and the like stand there in octal.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4]).rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= longest:
            longest, found = len(point), kind
    return found


def check_file(state_dir: Path) -> bool:
    """Whether there is a state; raises StateError when what is there can't be one, or is an older program's.

    Nothing here opens the file: when a process closes one, the kernel takes all its locks on it away, SQLite's too.
    """
    path = state_dir / FILE_NAME
    for name in (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", f"{FILE_NAME}-journal"):
        _status(state_dir / name)
    status = _status(path)
    if status is None:
        _check_older(state_dir)
        return False
    if status.st_size == 0:
        raise damaged(path, "it is empty")
    try:
        if status.st_mode & 0o777 != 0o600:
            path.chmod(0o600)
        owner = state_dir.stat()
        if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (owner.st_uid, owner.st_gid):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    except PermissionError:
        pass  # another's: whether it can be used, SQLite will say
    except OSError as error:
        raise meaning(error, path) from None
    return True


def check_format(db: sqlite3.Connection, path: Path) -> None:
    """Raises StateError when the file is another program's, or a newer version's; sqlite3.Error when it can't be read."""
    ((application,),) = db.execute("PRAGMA application_id")
    ((version,),) = db.execute("PRAGMA user_version")
    if application != APPLICATION_ID:
        raise damaged(path, "it is another program's database")
    if version > FORMAT:
        raise StateError(f"{path} was written by a newer version of this program: upgrade this one.")


def _status(path: Path) -> os.stat_result | None:
    """Of an ordinary file; None when there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise meaning(error, path) from None
    if not stat.S_ISREG(status.st_mode):
        raise StateError(f"{path} is no ordinary file: move it away, or set another state_dir.")
    return status


def _check_older(state_dir: Path) -> None:
    """Before a state is begun: whether the directory has one that only an older program can read."""
    found = [name for name in ("parked.sqlite", "checkpoint.previous.json") if (state_dir / name).exists()]
    try:
        with (state_dir / "checkpoint.json").open("rb") as file:
            if re.search(rb'"format": [12],', file.read(200)):
                found.append("checkpoint.json")
    except OSError:
        pass  # not there, or a copy that nothing depends on
    if found:
        raise StateError(
            f"{state_dir} holds what an older version of this program wrote ({', '.join(sorted(found))}), which this one "
            "doesn't read: move these files away to begin anew (every study in study_service is then sent again), or go "
            "on with that version."
        )


def sync_directory(state_dir: Path) -> None:
    """Makes the names in it durable."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
