"""Connections to PostgreSQL: what they may wait for, and what an error means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from central_index.model import StoreUnavailable

_T = TypeVar("_T")

#: Each of these is over once it is tried again.
_TRANSIENT = (errors.SerializationFailure, errors.DeadlockDetected)
_TRIES = 10
#: A server that was cut off is noticed within about ten seconds.
_ALIVE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "central-index",
}


class NotReplicated(psycopg.OperationalError):
    """The commit is on the primary alone, since somebody cancelled its wait for the standby."""


class Connection(psycopg.AsyncConnection[Any]):
    """``replicated``: False once the server said that a commit may be on the primary alone."""

    replicated = True


class Pool:
    """A pool for one purpose. With several hosts in the address libpq takes the first that fits `target_session_attrs`."""

    def __init__(self, database: str, target: str, largest: int, settings: dict[str, str]) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._pool = AsyncConnectionPool(
            database,
            connection_class=Connection,
            kwargs={**_ALIVE, "target_session_attrs": target, "options": options, "autocommit": True},
            min_size=1,
            max_size=largest,
            open=False,
            timeout=5,
            max_waiting=1_000,
            reconnect_timeout=1,
            configure=_configure,
        )

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def run(self, work: Callable[[Connection], Awaitable[_T]], *, in_transaction: bool = True) -> _T:
        """Again where another transaction was in its way, and where the connection turns out to be broken.

        So ``work`` must be such that it may be done twice. Raises StoreUnavailable.
        """
        for left in reversed(range(_TRIES)):
            broken = False
            try:
                async with self._pool.connection() as connection:
                    connection.replicated = True
                    try:
                        if in_transaction:
                            async with connection.transaction():
                                result = await work(connection)
                        else:
                            result = await work(connection)
                    finally:
                        broken = connection.broken
                    if not connection.replicated:
                        raise NotReplicated("the standby may not have it")
                    return result
            except _TRANSIENT as error:
                if not left:
                    raise StoreUnavailable(str(error)) from error
            except errors.DataError:
                raise
            except (psycopg.Error, PoolTimeout) as error:
                if not (left and broken):
                    raise StoreUnavailable(str(error)) from error
            await asyncio.sleep(0.01)
        raise AssertionError


async def _configure(connection: Connection) -> None:
    def on_notice(notice: errors.Diagnostic) -> None:
        # "canceling wait for synchronous replication": the server then says that the commit is done, which 201 doesn't mean.
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate == "01000":
            connection.replicated = False

    connection.add_notice_handler(on_notice)
