"""What was deleted from the SQLite file is made unreadable."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from central_index.model import UnusableStore

#: Others that write may be in the way so long.
_WAIT_SECONDS = 30.0
_TRIES = 20


def scrub(path: Path) -> None:
    """May be repeated, and runs beside a process that serves; that one waits while the file is written anew.

    Raises UnusableStore.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            # The index of words keeps what was deleted until its parts are merged.
            connection.execute("INSERT INTO study_words (study_words) VALUES ('optimize')")
            # Pages keep copies of rows that were moved to another one; only a new file has none.
            connection.execute("VACUUM")
            for _ in range(_TRIES):
                (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not busy:
                    return
                time.sleep(0.5)
    except sqlite3.Error as error:
        raise UnusableStore(
            f"What was erased may still lie in the bytes of {path} ({error}): repeat the command."
        ) from None
    raise UnusableStore(
        f"What was erased may still lie in the bytes of {path}-wal, since others read: repeat the command."
    )
