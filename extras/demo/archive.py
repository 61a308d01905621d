"""``python -m extras.demo.archive``: fills an archive that is there, then goes on storing (docker-compose.yml).

ARCHIVE_HOST, ARCHIVE_PORT, ARCHIVE_USER, ARCHIVE_PASSWORD_FILE and ARCHIVE_NAME say where it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pymysql

from extras.demo.processes import Interrupted, Signals
from extras.demo.sample import load, read_sample
from extras.demo.server import Connection
from extras.demo.simulator import Simulator

_LOADED_STUDIES = 2_500


def main() -> int:
    """The exit status: 0 ended by a signal, 1 the archive's database failed."""
    signals = Signals()
    signals.install()
    studies = read_sample()
    try:
        simulator = Simulator(_connect, studies[_LOADED_STUDIES:])
        with _connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM study")
            if cursor.fetchone() == (0,):
                load(connection, studies[:_LOADED_STUDIES])
                print(f"{_LOADED_STUDIES:,} real studies loaded.", flush=True)
        print("Studies are stored now, until this is stopped.", flush=True)
        simulator.start()
        try:
            while simulator.error is None:
                signals.sleep(1)
        finally:
            simulator.stop()
        raise simulator.error
    except Interrupted:
        return 0
    except pymysql.err.Error as error:
        print(f"archive: The database failed: {error}.", file=sys.stderr)
        return 1


def _connect() -> Connection:
    return pymysql.connect(
        host=os.environ["ARCHIVE_HOST"],
        port=int(os.environ.get("ARCHIVE_PORT", "3306")),
        user=os.environ["ARCHIVE_USER"],
        password=Path(os.environ["ARCHIVE_PASSWORD_FILE"]).read_text().strip(),
        database=os.environ["ARCHIVE_NAME"],
        autocommit=True,
        charset="utf8mb4",
    )


if __name__ == "__main__":
    sys.exit(main())
