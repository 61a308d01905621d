"""A place in a server's binary log, and which server it belongs to (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Which source a position and a set of ids belong to.

    ``server`` is MySQL's ``server_uuid`` or MariaDB's ``server_uid``; a MariaDB that has none (before 11)
    is known by its ``server_id`` and host name, and its binlog files by the second they were made.
    """

    server: str
    database: str
    table: str = "study_service"


@dataclass(frozen=True, slots=True)
class Position:
    """The end of a transaction: where reading begins again after a restart.

    ``offset`` is in bytes and may exceed 32 bits (a binlog over 4 GiB). ``file_created`` is the time in the file's
    own first event (seconds since 1970): after RESET, a failover or a restore the same name and offset lead into
    another file, and this tells.
    """

    file: str
    offset: int
    file_created: int | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Comparable within one server: (number of the file, offset)."""
        number = re.search(r"(\d+)$", self.file)
        return (int(number.group(1)) if number else 0, self.offset)

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}"
