"""What a store of studies can do, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from central_index.audit import Row
from central_index.model import (
    Arrivals,
    CenterReport,
    Change,
    Filters,
    Found,
    OnChange,
    Outcome,
    Range,
    RangeDigest,
    Reported,
    UnusableStore,
)


class Store(Protocol):
    """Every method but `open` raises StoreUnavailable when the engine is away; what was asked for is then not done."""

    async def open(self) -> None:
        """Once, in the loop in which the rest is called. Raises UnusableStore."""

    async def serve(self) -> None:
        """From now on, until it is closed, what a process does besides that serves: what is old is forgotten, and so on."""

    async def close(self) -> None:
        """Finishes what was asked for."""

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        """What became of each. All of them are durable when this returns, or none was carried out."""

    async def search(self, filters: Filters) -> Found: ...

    async def counts(self) -> dict[str, int] | None:
        """How many studies each centre has, or had a moment ago; None if that isn't known yet."""

    async def arrivals(self, periods: Sequence[tuple[float, float]]) -> dict[str, Arrivals]:
        """How many studies of each centre came first in each of two times, from and to in seconds since 1970."""

    async def newest(self, centers: Sequence[str]) -> dict[str, int]:
        """The highest version of each."""

    async def check(self) -> None:
        """Raises StoreUnavailable if nothing could be written now."""

    async def digests(
        self, center: str, ranges: Sequence[Range], most_listed: int | None
    ) -> list[RangeDigest]:
        """Of what is stored now. With ``most_listed`` the studies, too; raises TooManyStudies if they are more."""

    async def report(self, center: str, content: dict[str, Any], received_at: float) -> Reported:
        """Keeps the newest report of a centre, by its ``at``; durable when this returns."""

    async def reports(self) -> list[CenterReport]: ...

    async def open_session(self, name_digest: bytes, key_digest: bytes, until: float) -> None:
        """A login of the page, until then in seconds since 1970; known to all processes."""

    async def session(self, name_digest: bytes, now: float) -> bytes | None:
        """The digest of the key that it was opened with."""

    async def close_session(self, name_digest: bytes) -> None: ...

    async def refuse_login(self, address: str, now: float) -> None:
        """Remembers it for a while."""

    async def refused_logins(self, address: str, since: float) -> int: ...

    async def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """All of them in one durable transaction, with ? for values; the rows of each. For what is alike in all engines."""

    async def add_records(self, records: Sequence[Row], patients: Sequence[tuple[str, str]]) -> None:
        """Of the audit, as `audit.Runs` says."""


def make_store(database: str, read_database: str | None, on_change: OnChange) -> Store:
    """For what ``--database`` says: the address of a PostgreSQL database, or a file. Raises UnusableStore."""
    # The engine that isn't used isn't loaded, and needn't be installed.
    if not is_address(database):
        from central_index.sqlite_store import SqliteStore  # noqa: PLC0415

        return SqliteStore(Path(database), on_change)
    try:
        from central_index.postgres_store import PostgresStore  # noqa: PLC0415
    except ImportError:
        raise UnusableStore("PostgreSQL needs psycopg: pip install 'cdc-indexer[central]'.") from None
    return PostgresStore(database, read_database, on_change)


def is_address(database: str) -> bool:
    return database.startswith(("postgresql://", "postgres://"))
